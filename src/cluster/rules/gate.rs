//! The vote gate in front of openraft: drop before you vote.
//!
//! openraft would grant a vote in the same turn in which it steps down. This gate stands in the peer server and keeps the node
//! silent while its VIP may still be on the interface, and during the quiet start.

/// What a peer asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ask {
    /// A vote in this term; `transfer`: the candidate says that the leader itself told it to campaign.
    Vote {
        /// The candidate's term.
        term: u64,
        /// The request's `leadership_transfer` flag.
        transfer: bool,
    },
    /// Whether we would vote.
    PreVote,
    /// To become leader (or to forget the leader's lease), told by the leader.
    Transfer,
}

/// This node's state as far as the gate needs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Own {
    /// The quiet start has not ended.
    pub quiet: bool,
    /// The VIP may still be on this node.
    pub may_be_held: bool,
    /// The term of the own vote, if it is the vote of an established leader.
    pub committed_term: Option<u64>,
}

/// The gate's answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Ask openraft; believe the transfer flag only if `transfer`.
    Pass {
        /// Whether the request may ignore the leader's lease.
        transfer: bool,
    },
    /// Refuse without asking; the text says why.
    Refuse(&'static str),
}

/// Judges one request.
pub fn judge(ask: Ask, own: Own) -> Answer {
    if own.quiet {
        return Answer::Refuse("quiet start: a promise of an earlier run may still count");
    }
    if own.may_be_held {
        return Answer::Refuse("the VIP may still be here");
    }
    match ask {
        // A flag that was delayed past its own election must not break a later leader's lease.
        Ask::Vote { term, transfer } => {
            let next = own.committed_term.and_then(|t| t.checked_add(1));
            Answer::Pass { transfer: transfer && next == Some(term) }
        }
        Ask::PreVote | Ask::Transfer => Answer::Pass { transfer: false },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OPEN: Own = Own { quiet: false, may_be_held: false, committed_term: Some(7) };
    const FLAGGED: Ask = Ask::Vote { term: 8, transfer: true };

    #[test]
    fn closed_while_quiet_or_holding() {
        for ask in [Ask::Vote { term: 8, transfer: false }, FLAGGED, Ask::PreVote, Ask::Transfer] {
            assert!(matches!(judge(ask, Own { quiet: true, ..OPEN }), Answer::Refuse(_)), "{ask:?}");
            assert!(matches!(judge(ask, Own { may_be_held: true, ..OPEN }), Answer::Refuse(_)), "{ask:?}");
            assert!(matches!(judge(ask, OPEN), Answer::Pass { .. }), "{ask:?}");
        }
    }

    #[test]
    fn the_transfer_flag_counts_only_in_the_term_right_after_the_own_committed_vote() {
        let cases = [
            (8, true, Some(7), true),
            (8, false, Some(7), false),
            (7, true, Some(7), false),
            (9, true, Some(7), false),
            (8, true, None, false),
            (0, true, Some(u64::MAX), false),
        ];
        for (term, transfer, committed_term, believed) in cases {
            let got = judge(Ask::Vote { term, transfer }, Own { committed_term, ..OPEN });
            assert_eq!(got, Answer::Pass { transfer: believed }, "term {term}, own {committed_term:?}");
        }
    }
}
