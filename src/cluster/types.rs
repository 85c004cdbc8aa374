//! The types that openraft is instantiated with.

use super::runtime::SmolRuntime;
use openraft::alias;
use openraft::impls::leader_id_adv;
use serde::de::{self, Deserializer, Visitor};
use serde::{Deserialize, Serialize, Serializer};
use std::fmt;
use std::rc::Rc;

openraft::declare_raft_types!(
    /// This program's raft: votes and membership only, nothing is written through it yet.
    pub TypeConfig:
        D = Nothing,
        R = (),
        NodeId = NodeId,
        Node = Node,
        Term = u64,
        LeaderId = LeaderId,
        AsyncRuntime = SmolRuntime,
);

/// (term, node): totally ordered, so two nodes can win the same term one after the other.
pub type LeaderId = leader_id_adv::LeaderId<u64, NodeId>;
/// (term, node, committed).
pub type Vote = alias::VoteOf<TypeConfig>;
/// (leader, index).
pub type LogId = alias::LogIdOf<TypeConfig>;
/// One log entry: blank or membership.
pub type Entry = alias::EntryOf<TypeConfig>;
/// Who votes.
pub type Membership = openraft::Membership<NodeId, Node>;
/// Who votes, and since which entry.
pub type StoredMembership = alias::StoredMembershipOf<TypeConfig>;
/// What a snapshot is here: the last applied entry and the membership.
pub type SnapshotMeta = alias::SnapshotMetaOf<TypeConfig>;
/// A snapshot carries no data beside its meta.
pub type Snapshot = alias::SnapshotOf<TypeConfig, ()>;

/// What a snapshot carries beside its meta.
pub type SnapshotData = ();
/// A peer that can't be asked.
pub type Unreachable = openraft::errors::Unreachable<TypeConfig>;
/// Why a snapshot could not be sent.
pub type StreamingError = openraft::errors::StreamingError<TypeConfig>;
pub use openraft::ServerState;
pub use openraft::errors::ReplicationClosed;

/// The running raft, over the state machine of [`disk`](super::disk).
pub type Raft = openraft::Raft<TypeConfig, super::disk::Machine>;
/// What raft says of itself.
pub type RaftMetrics = openraft::RaftMetrics<TypeConfig>;
/// A heartbeat or new entries.
pub type AppendEntriesRequest = openraft::raft::AppendEntriesRequest<TypeConfig>;
/// The answer to it.
pub type AppendEntriesResponse = openraft::raft::AppendEntriesResponse<TypeConfig>;
/// A campaign, or the question whether it would succeed.
pub type VoteRequest = openraft::raft::VoteRequest<TypeConfig>;
/// The answer to it.
pub type VoteResponse = openraft::raft::VoteResponse<TypeConfig>;
/// The leader's wish that another take over.
pub type TransferLeaderRequest = openraft::raft::TransferLeaderRequest<TypeConfig>;
/// The answer to it.
pub type TransferLeaderResponse = openraft::raft::TransferLeaderResponse<TypeConfig>;
/// The answer to a snapshot.
pub type SnapshotResponse = openraft::raft::SnapshotResponse<TypeConfig>;
/// Why a request to a peer failed.
pub type RPCError = openraft::errors::RPCError<TypeConfig>;

/// A node's name: 1–64 bytes, compared byte for byte. Cheap to clone.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(Rc<str>);

impl NodeId {
    /// The longest name, in bytes.
    pub const MAX: usize = 64;

    /// From a name; refused where it is empty or longer than [`NodeId::MAX`].
    pub fn new(name: &str) -> Result<Self, BadNodeId> {
        match name.len() {
            1..=Self::MAX => Ok(Self(name.into())),
            len => Err(BadNodeId { len }),
        }
    }

    /// A node that does not exist and sorts right after this one: no configured name has a NUL. A vote for it makes this node step
    /// down without electing anybody.
    pub fn just_above(&self) -> Self {
        Self(format!("{}\0", self.0).into())
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A name that can't be a node's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadNodeId {
    /// Its length in bytes.
    pub len: usize,
}

impl fmt::Display for BadNodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a node's id has 1 to {} bytes, not {}", NodeId::MAX, self.len)
    }
}

impl std::error::Error for BadNodeId {}

impl TryFrom<&str> for NodeId {
    type Error = BadNodeId;
    fn try_from(name: &str) -> Result<Self, BadNodeId> {
        Self::new(name)
    }
}

impl std::str::FromStr for NodeId {
    type Err = BadNodeId;
    fn from_str(name: &str) -> Result<Self, BadNodeId> {
        Self::new(name)
    }
}

/// The number in decimal: openraft's test suites name nodes so.
impl From<u64> for NodeId {
    fn from(number: u64) -> Self {
        Self(number.to_string().into())
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl Serialize for NodeId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for NodeId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Name;
        impl Visitor<'_> for Name {
            type Value = NodeId;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a node's id")
            }
            fn visit_str<E: de::Error>(self, name: &str) -> Result<NodeId, E> {
                let known = name.strip_suffix('\0').unwrap_or(name); // see just_above
                NodeId::new(known).map_err(E::custom)?;
                Ok(NodeId(name.into()))
            }
        }
        deserializer.deserialize_str(Name)
    }
}

/// What the membership says of a node: nothing. Addresses come from the configuration.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node;

/// A request to the replicated state: there is none yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Nothing;

impl fmt::Display for Nothing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("nothing")
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn names_have_1_to_64_bytes() {
        let longest = "x".repeat(64);
        for (name, fine) in [("", false), ("a", true), (longest.as_str(), true), ("ä".repeat(33).as_str(), false)] {
            assert_eq!(NodeId::new(name).is_ok(), fine, "{name:?}");
        }
        assert_eq!(NodeId::new("").unwrap_err().to_string(), "a node's id has 1 to 64 bytes, not 0");
    }

    #[test]
    fn names_travel_as_strings_and_are_checked_on_arrival() {
        let id = NodeId::new("server1").unwrap();
        let bytes = postcard::to_allocvec(&id).unwrap();
        assert_eq!(bytes, postcard::to_allocvec("server1").unwrap());
        assert_eq!(postcard::from_bytes::<NodeId>(&bytes).unwrap(), id);
        assert_eq!(serde_json::to_string(&id).unwrap(), "\"server1\"");
        let long = postcard::to_allocvec(&"x".repeat(65)).unwrap();
        assert!(postcard::from_bytes::<NodeId>(&long).is_err());
        assert!(postcard::from_bytes::<NodeId>(&postcard::to_allocvec("").unwrap()).is_err());
    }

    #[test]
    fn votes_are_ordered_by_term_then_name_and_shown_by_name() {
        let vote = |term, name| Vote::new(term, NodeId::new(name).unwrap());
        assert!(vote(1, "b") < vote(2, "a") && vote(1, "a") < vote(1, "b"));
        assert_eq!(format!("{}", NodeId::new("pi-1").unwrap()), "pi-1");
        assert!(vote(3, "pi-1").to_string().contains("pi-1"));
    }
}
