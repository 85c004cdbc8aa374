//! What peers ask each other.

use crate::cluster::types::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotMeta, SnapshotResponse, TransferLeaderRequest, TransferLeaderResponse,
    Vote, VoteRequest, VoteResponse,
};
use crate::release::{Commitment, Secret};
use serde::{Deserialize, Serialize};

/// Shows that the hold of a leader's vote has ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proof {
    /// The leader's vote.
    pub vote: Vote,
    /// Its secret.
    pub secret: Secret,
}

/// A request.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Request {
    /// Are you there? The flags of the answer are what is asked for.
    Ping,
    /// Heartbeat and replication, with the hash of the secret that will end the promise made by accepting it.
    Append(AppendEntriesRequest, Commitment),
    /// A vote. A candidate that knows that the last leader's hold has ended shows why: its word, or openraft's flag, would not be
    /// enough to end the lease.
    Vote(VoteRequest, Option<Proof>),
    /// Would you vote?
    PreVote(VoteRequest, Option<Proof>),
    /// A whole snapshot: what is applied, and the members.
    Snapshot(Vote, SnapshotMeta, Commitment),
    /// Become leader, or forget the leader's lease; with the secret of its vote.
    Transfer(TransferLeaderRequest, Secret),
    /// A keeper's notice, passed on to the peer that should stand first: datagrams get lost.
    Released(Proof),
}

impl Request {
    /// The vote under which it is said; none where anybody may say it.
    pub fn vote(&self) -> Option<&Vote> {
        match self {
            Request::Ping | Request::Released(_) => None,
            Request::Append(rpc, _) => Some(&rpc.vote),
            Request::Vote(rpc, _) | Request::PreVote(rpc, _) => Some(&rpc.vote),
            Request::Snapshot(vote, ..) => Some(vote),
            Request::Transfer(rpc, _) => Some(rpc.from_leader()),
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
    /// To Ping and Released.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::peers::wire::{self, Flags, HEADER, Kind};
    use crate::cluster::types::NodeId;
    use crate::release::{Key, VoteKey};

    #[test]
    fn requests_survive_the_wire_with_their_proofs() {
        let vote = Vote::new_committed(7, NodeId::new("a").unwrap());
        let secret = Key::from_bytes([1; 32]).secret(VoteKey { term: 7, node: 9 });
        let (commitment, proof) = (secret.commitment(), Proof { vote: vote.clone(), secret });
        let campaign = || VoteRequest::new(Vote::new(8, NodeId::new("b").unwrap()), None);
        let heartbeat =
            AppendEntriesRequest { vote: vote.clone(), prev_log_id: None, entries: Vec::new(), leader_commit: None };
        let requests = [
            (Request::Ping, None),
            (Request::Append(heartbeat, commitment), Some(7)),
            (Request::Vote(campaign(), Some(proof.clone())), Some(8)),
            (Request::PreVote(campaign(), None), Some(8)),
            (Request::Snapshot(vote.clone(), SnapshotMeta::default(), commitment), Some(7)),
            (Request::Transfer(TransferLeaderRequest::new(vote.clone(), NodeId::new("b").unwrap(), None), secret), Some(7)),
            (Request::Released(proof), None),
        ];
        for (request, term) in requests {
            let frame = wire::emit(Kind::Request, Flags::default(), 1, &request).unwrap();
            let back: Request = wire::parse_payload(&frame[HEADER..]).unwrap();
            assert_eq!(format!("{back:?}"), format!("{request:?}"));
            assert_eq!(back.vote().map(|vote| vote.leader_id.term), term);
            let again = wire::emit(Kind::Request, Flags::default(), 1, &back).unwrap();
            assert_eq!(again, frame, "secrets too, which no log shows");
            assert!(wire::parse_payload::<Request>(&frame[HEADER..frame.len() - 1]).is_err(), "cut");
        }
    }
}
