//! A vote as the rules see it: openraft's (term, node id).

use crate::cluster::fingerprint::fingerprint;
use crate::cluster::types::{LeaderId, NodeId, Vote};
use crate::release::VoteKey;
use serde::{Deserialize, Serialize};
use std::fmt;

/// (term, node id), ordered as openraft orders the votes of established leaders.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct VoteId {
    /// raft term.
    pub term: u64,
    /// The node it is for.
    pub node: NodeId,
}

impl VoteId {
    /// A vote for `node` in `term`.
    pub fn new(term: u64, node: NodeId) -> Self {
        Self { term, node }
    }

    /// As the keeper and a release notice name it.
    pub fn key(&self) -> VoteKey {
        VoteKey { term: self.term, node: fingerprint(self.node.as_str().bytes()) }
    }

    /// As openraft's vote of an established leader.
    pub fn committed(&self) -> Vote {
        Vote { leader_id: LeaderId { term: self.term, node_id: self.node.clone() }, committed: true }
    }

    /// The vote of an openraft message.
    pub fn of(vote: &Vote) -> Self {
        Self { term: vote.leader_id.term, node: vote.leader_id.node_id.clone() }
    }
}

impl fmt::Display for VoteId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "term {} by {}", self.term, self.node)
    }
}
