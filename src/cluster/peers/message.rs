//! What peers ask each other.

use crate::cluster::types::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotMeta, SnapshotResponse, TransferLeaderRequest, TransferLeaderResponse,
    Vote, VoteRequest, VoteResponse,
};
use serde::{Deserialize, Serialize};

/// A request.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Request {
    /// Are you there? The flags of the answer are what is asked for.
    Ping,
    /// Heartbeat and replication.
    Append(AppendEntriesRequest),
    /// A vote; where a leader told the candidate to campaign, with that leader's vote: openraft's flag alone could be believed
    /// under a vote it was not meant for.
    Vote(VoteRequest, Option<Vote>),
    /// Would you vote?
    PreVote(VoteRequest),
    /// A whole snapshot: what is applied, and the members.
    Snapshot(Vote, SnapshotMeta),
    /// Become leader, or forget the leader's lease.
    Transfer(TransferLeaderRequest),
}

impl Request {
    /// The vote under which it is said; none for a ping.
    pub fn vote(&self) -> Option<&Vote> {
        match self {
            Request::Ping => None,
            Request::Append(rpc) => Some(&rpc.vote),
            Request::Vote(rpc, _) | Request::PreVote(rpc) => Some(&rpc.vote),
            Request::Snapshot(vote, _) => Some(vote),
            Request::Transfer(rpc) => Some(rpc.from_leader()),
        }
    }
}

impl Response {
    /// A vote in it that may be taken over.
    pub fn vote(&self) -> Option<&Vote> {
        match self {
            Response::Append(AppendEntriesResponse::HigherVote(vote)) => Some(vote),
            Response::Vote(answer) => Some(&answer.vote),
            Response::Snapshot(answer) => Some(&answer.vote),
            _ => None,
        }
    }
}

/// A response.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Response {
    /// To Ping.
    Pong,
    /// To Append.
    Append(AppendEntriesResponse),
    /// To Vote and PreVote.
    Vote(VoteResponse),
    /// To Snapshot.
    Snapshot(SnapshotResponse),
    /// To Transfer.
    Transfer(TransferLeaderResponse),
    /// This node can't answer now (refused by its gate, or stopping).
    Unavailable(String),
}
