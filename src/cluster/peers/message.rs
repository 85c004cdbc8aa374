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
    /// A vote.
    Vote(VoteRequest),
    /// Would you vote?
    PreVote(VoteRequest),
    /// A whole snapshot: what is applied, and the members.
    Snapshot(Vote, SnapshotMeta),
    /// Become leader, or forget the leader's lease.
    Transfer(TransferLeaderRequest),
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
