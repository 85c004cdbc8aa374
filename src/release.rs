//! Proof that a hold has ended: pure, shared by the keeper, which gives it, and the cluster part, which believes nothing else.
//!
//! Each vote has a secret, known on its own node alone. Its hash (the commitment) goes out with every AppendEntries under that vote; the
//! secret itself leaves only after the VIP was seen gone. Whoever can show the secret of the vote a node follows therefore proves that
//! this vote holds nothing any more: it can't be forged, sent early, or used for another vote.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::fmt;
use std::io::{self, Read};

/// A raft vote as the keeper knows it: enough to tell two votes apart. A lower term than one already seen is spent.
///
/// With `singleNode` the daemon counts the terms itself: each new hold needs a higher one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct VoteKey {
    /// raft term.
    pub term: u64,
    /// A 64-bit hash of the node id.
    pub node: u64,
}

/// What all secrets of one run of one node are made of. Keeper and daemon of that run share it; nobody else ever sees it.
#[derive(Clone)]
pub struct Key([u8; 32]);

/// Proves that one vote's hold has ended. Never logged.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Secret([u8; 32]);

/// The hash of a [`Secret`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Commitment([u8; 32]);

impl Key {
    /// From the kernel's random numbers.
    ///
    /// # Errors
    /// Where `/dev/urandom` can't be read.
    pub fn random() -> io::Result<Self> {
        let mut bytes = [0; 32];
        std::fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
        Ok(Self(bytes))
    }

    /// From known bytes: those that an earlier program of this run handed on, or a simulator's.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// For the program that takes this one's place in the same run.
    pub const fn to_bytes(&self) -> [u8; 32] {
        self.0
    }

    /// The secret of this vote.
    pub fn secret(&self, vote: VoteKey) -> Secret {
        let hash =
            Sha256::new().chain_update(self.0).chain_update(vote.term.to_be_bytes()).chain_update(vote.node.to_be_bytes());
        Secret(hash.finalize().into())
    }
}

impl Secret {
    /// What is told of it beforehand.
    pub fn commitment(&self) -> Commitment {
        Commitment(Sha256::digest(self.0).into())
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(…)")
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// The datagram by which a keeper tells a peer that the VIP is gone from its node: to the peer's raft port, over UDP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Notice {
    /// The cluster's hash, as in the handshake.
    pub cluster: u64,
    /// The vote whose hold has ended.
    pub vote: VoteKey,
    /// The proof.
    pub secret: Secret,
}

/// Starts every notice; the last byte is the version of the peer protocol.
const MAGIC: [u8; 8] = *b"kvgone\0\x02";

impl Notice {
    /// Length in bytes.
    pub const LEN: usize = 64;

    /// As a datagram.
    pub fn encode(&self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8..16].copy_from_slice(&self.cluster.to_be_bytes());
        bytes[16..24].copy_from_slice(&self.vote.term.to_be_bytes());
        bytes[24..32].copy_from_slice(&self.vote.node.to_be_bytes());
        bytes[32..].copy_from_slice(&self.secret.0);
        bytes
    }

    /// From a datagram; `None` for anything that [`Notice::encode`] never makes.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; Self::LEN] = bytes.try_into().ok()?;
        let word = |at: usize| Some(u64::from_be_bytes(bytes.get(at..at + 8)?.try_into().ok()?));
        let secret = Secret(bytes[32..].try_into().ok()?);
        let vote = VoteKey { term: word(16)?, node: word(24)? };
        (bytes[..8] == MAGIC).then_some(Self { cluster: word(8)?, vote, secret })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VOTE: VoteKey = VoteKey { term: 7, node: 9 };

    #[test]
    fn a_secret_fits_its_vote_and_key_only() {
        let key = Key::from_bytes([1; 32]);
        let secret = key.secret(VOTE);
        assert_eq!(secret, key.secret(VOTE));
        assert_ne!(secret, key.secret(VoteKey { term: 8, ..VOTE }));
        assert_ne!(secret, key.secret(VoteKey { node: 8, ..VOTE }));
        assert_ne!(secret, Key::from_bytes([2; 32]).secret(VOTE));
        assert_ne!(secret.commitment(), key.secret(VoteKey { term: 8, ..VOTE }).commitment());
        assert_eq!(format!("{key:?} {secret:?}"), "Key(…) Secret(…)");
    }

    #[test]
    fn random_keys_differ() {
        let secret = || Key::random().expect("/dev/urandom").secret(VOTE);
        assert_ne!(secret(), secret());
    }

    #[test]
    fn notices_read_back_and_nothing_else_does() {
        let notice = Notice { cluster: u64::MAX, vote: VOTE, secret: Secret([0xab; 32]) };
        let bytes = notice.encode();
        assert_eq!(Notice::decode(&bytes), Some(notice));
        assert_eq!(Notice::decode(&bytes[..63]), None);
        assert_eq!(Notice::decode(&[bytes.as_slice(), &[0]].concat()), None);
        let mut other = bytes;
        other[7] = 1;
        assert_eq!(Notice::decode(&other), None);
    }
}
