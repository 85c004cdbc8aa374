//! The vote gate in front of openraft: drop before you vote.
//!
//! openraft would grant a vote in the same turn in which it steps down. This gate stands in the peer server and keeps the node
//! silent while its VIP may still be on the interface, while it may still be at a leader that was heard, and during the quiet start.

use super::planted::{Planted, is_planted};

/// What a peer asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ask {
    /// A vote.
    Vote,
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
    /// The promise to another than the candidate still runs.
    pub promised: bool,
}

/// The gate's answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Ask openraft.
    Pass,
    /// Refuse without asking; the text says why.
    Refuse(&'static str),
}

/// Judges one request.
pub fn judge(ask: Ask, own: Own) -> Answer {
    if is_planted(Planted::OpenGate) {
        return Answer::Pass;
    }
    if own.quiet {
        return Answer::Refuse("quiet start: a promise of an earlier run may still count");
    }
    if own.may_be_held {
        return Answer::Refuse("the VIP may still be here");
    }
    // A leader that hands over has proven that its promise needs no keeping.
    if own.promised && ask != Ask::Transfer {
        return Answer::Refuse("the VIP may still be at the last leader, whose kernel has no fence");
    }
    Answer::Pass
}

#[cfg(test)]
mod tests {
    use super::*;

    const OPEN: Own = Own { quiet: false, may_be_held: false, promised: false };

    #[test]
    fn closed_while_quiet_holding_or_promised_to_another() {
        for ask in [Ask::Vote, Ask::PreVote, Ask::Transfer] {
            assert!(matches!(judge(ask, Own { quiet: true, ..OPEN }), Answer::Refuse(_)), "{ask:?}");
            assert!(matches!(judge(ask, Own { may_be_held: true, ..OPEN }), Answer::Refuse(_)), "{ask:?}");
            assert_eq!(judge(ask, OPEN), Answer::Pass, "{ask:?}");
            let promised = judge(ask, Own { promised: true, ..OPEN });
            assert_eq!(promised == Answer::Pass, ask == Ask::Transfer, "{ask:?}: the leader itself lets go of the promise");
        }
    }
}
