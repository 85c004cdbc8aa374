//! The vote gate in front of openraft: drop before you vote.
//!
//! openraft would grant a vote in the same turn in which it steps down. This gate stands in the peer server and keeps the node
//! silent while its VIP may still be on the interface, and during the quiet start.

/// What a peer asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ask {
    /// A vote in this term.
    Vote {
        /// The candidate's term.
        term: u64,
        /// The term of the leader that told it to campaign, as it says.
        told_in: Option<u64>,
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
}

/// The gate's answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Ask openraft; with `told`, first let the lease of exactly that leader's vote end, if it is the own one.
    Pass {
        /// Whether the candidate's word that the leader sent it is to be looked into.
        told: bool,
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
        // A request that was delayed past its own election must not break a later leader's lease.
        Ask::Vote { term, told_in } => Answer::Pass { told: told_in.and_then(|t| t.checked_add(1)) == Some(term) },
        Ask::PreVote | Ask::Transfer => Answer::Pass { told: false },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OPEN: Own = Own { quiet: false, may_be_held: false };
    const TOLD: Ask = Ask::Vote { term: 8, told_in: Some(7) };

    #[test]
    fn closed_while_quiet_or_holding() {
        for ask in [Ask::Vote { term: 8, told_in: None }, TOLD, Ask::PreVote, Ask::Transfer] {
            assert!(matches!(judge(ask, Own { quiet: true, ..OPEN }), Answer::Refuse(_)), "{ask:?}");
            assert!(matches!(judge(ask, Own { may_be_held: true, ..OPEN }), Answer::Refuse(_)), "{ask:?}");
            assert!(matches!(judge(ask, OPEN), Answer::Pass { .. }), "{ask:?}");
        }
    }

    #[test]
    fn a_leader_sends_its_successor_into_the_next_term_only() {
        let cases =
            [(8, Some(7), true), (8, None, false), (7, Some(7), false), (9, Some(7), false), (0, Some(u64::MAX), false)];
        for (term, told_in, told) in cases {
            assert_eq!(judge(Ask::Vote { term, told_in }, OPEN), Answer::Pass { told }, "term {term}, told in {told_in:?}");
        }
    }
}
