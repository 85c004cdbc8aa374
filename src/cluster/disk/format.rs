//! What the files of the state directory look like: pure encoding and decoding, every byte under a CRC-32.
//!
//! | file | shape |
//! |---|---|
//! | `vote` | two slots of [`SLOT`] bytes, [`SLOT_DISTANCE`] apart, written in turn; the higher sequence number counts |
//! | `log` | [`LOG_HEADER`], then records: length (u32), checksum of length and payload (u32), payload |
//! | `meta`, `snapshot` | four letters, version, length (u32), payload, checksum of all before |
//!
//! Numbers are little-endian, payloads are postcard.

use crate::cluster::types::{LeaderId, NodeId, Vote};
use serde::{Serialize, de::DeserializeOwned};
use std::fmt;

const VERSION: u8 = 1;

/// Bytes of a vote slot: less than a sector, so a device writes it whole or not at all more often than not.
pub const SLOT: usize = 128;
/// From one slot to the other: a page, so that no device rewrites both at once.
pub const SLOT_DISTANCE: usize = 4096;
const SLOT_LETTERS: [u8; 4] = *b"KVvt";
const SLOT_SUM: usize = SLOT - 4;

/// How the log begins.
pub const LOG_HEADER: [u8; 8] = *b"KVlog\0\0\x01";
const RECORD_HEAD: usize = 8;
/// No record is longer; a membership of a hundred nodes is a tenth of it.
const RECORD_MAX: usize = 64 * 1024;

/// A vote as it goes to disk, still without its sequence number. May cross threads.
#[derive(Clone)]
pub struct SlotBody([u8; SLOT]);

impl SlotBody {
    /// `None`: this node has never voted.
    pub fn of(vote: Option<&Vote>) -> Self {
        let mut slot = [0; SLOT];
        slot[..4].copy_from_slice(&SLOT_LETTERS);
        slot[4] = VERSION;
        if let Some(vote) = vote {
            let name = vote.leader_id.node_id.as_str().as_bytes();
            slot[5] = 1 | u8::from(vote.committed) << 1;
            slot[6] = name.len() as u8; // NodeId::MAX is 64
            slot[16..24].copy_from_slice(&vote.leader_id.term.to_le_bytes());
            slot[24..24 + name.len()].copy_from_slice(name);
        }
        Self(slot)
    }

    /// With its sequence number and checksum: ready to be written.
    pub fn seal(mut self, sequence: u64) -> [u8; SLOT] {
        self.0[8..16].copy_from_slice(&sequence.to_le_bytes());
        let sum = crc32fast::hash(&self.0[..SLOT_SUM]);
        self.0[SLOT_SUM..].copy_from_slice(&sum.to_le_bytes());
        self.0
    }
}

/// The vote found in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// `None`: this node has never voted.
    pub vote: Option<Vote>,
    /// Its sequence number.
    pub sequence: u64,
    /// The slot it is in; the next vote goes to the other.
    pub slot: usize,
    /// The other slot is damaged: a write was torn, its vote never left this node.
    pub torn: bool,
}

/// Finds the newest vote in the whole `vote` file.
pub fn newest_vote(file: &[u8]) -> Result<Found, Damage> {
    let slots = [0, SLOT_DISTANCE].map(|at| file.get(at..at + SLOT).ok_or(Damage::Short).and_then(open_slot));
    let found = |(sequence, vote): (u64, Option<Vote>), slot, torn| Ok(Found { vote, sequence, slot, torn });
    match slots {
        [Err(Damage::Version(v)), _] | [_, Err(Damage::Version(v))] => Err(Damage::Version(v)),
        [Ok(a), Ok(b)] if a.0 == b.0 => Err(Damage::Contents),
        [Ok(a), Ok(b)] if a.0 > b.0 => found(a, 0, false),
        [Ok(_), Ok(b)] => found(b, 1, false),
        [Ok(a), Err(_)] => found(a, 0, true),
        [Err(_), Ok(b)] => found(b, 1, true),
        [Err(a), Err(_)] => Err(a),
    }
}

fn open_slot(slot: &[u8]) -> Result<(u64, Option<Vote>), Damage> {
    let (body, sum) = slot.split_at(SLOT_SUM);
    if crc32fast::hash(body).to_le_bytes() != sum {
        return Err(Damage::Checksum);
    }
    if body[..4] != SLOT_LETTERS {
        return Err(Damage::Letters);
    }
    if body[4] != VERSION {
        return Err(Damage::Version(body[4]));
    }
    let number = |at: usize| body[at..at + 8].iter().rev().fold(0, |n, byte| n << 8 | u64::from(*byte));
    let vote = match body[5] {
        0 => None,
        flags @ (1 | 3) => Some(Vote { leader_id: leader(number(16), &body[24..], body[6])?, committed: flags == 3 }),
        _ => return Err(Damage::Contents),
    };
    Ok((number(8), vote))
}

fn leader(term: u64, name: &[u8], len: u8) -> Result<LeaderId, Damage> {
    let name = name.get(..usize::from(len)).and_then(|name| std::str::from_utf8(name).ok());
    let node_id = name.and_then(|name| NodeId::new(name).ok()).ok_or(Damage::Contents)?;
    Ok(LeaderId { term, node_id })
}

/// A small file as a whole: `letters` tell its kind.
pub fn seal_file(letters: [u8; 4], contents: &impl Serialize) -> Vec<u8> {
    let payload = encode(contents);
    let mut file = letters.to_vec();
    file.push(VERSION);
    file.extend_from_slice(&(payload.len() as u32).to_le_bytes());
    file.extend_from_slice(&payload);
    let sum = crc32fast::hash(&file);
    file.extend_from_slice(&sum.to_le_bytes());
    file
}

/// The reverse of [`seal_file`].
pub fn open_file<T: DeserializeOwned>(letters: [u8; 4], file: &[u8]) -> Result<T, Damage> {
    let (rest, sum) = file.split_last_chunk::<4>().ok_or(Damage::Short)?;
    let (head, payload) = rest.split_first_chunk::<9>().ok_or(Damage::Short)?;
    if head[..4] != letters {
        return Err(Damage::Letters);
    }
    if crc32fast::hash(rest).to_le_bytes() != *sum {
        return Err(Damage::Checksum);
    }
    if head[4] != VERSION {
        return Err(Damage::Version(head[4]));
    }
    if head[5..] != (payload.len() as u32).to_le_bytes() {
        return Err(Damage::Short);
    }
    decode(payload)
}

/// Appends one log record to `file`.
pub fn push_record(file: &mut Vec<u8>, record: &impl Serialize) {
    let payload = encode(record);
    let len = (payload.len() as u32).to_le_bytes();
    file.extend_from_slice(&len);
    file.extend_from_slice(&record_sum(len, &payload).to_le_bytes());
    file.extend_from_slice(&payload);
}

/// The first record of `rest` and its length in bytes. `Damage::Short` where `rest` ends within it.
pub fn first_record<T: DeserializeOwned>(rest: &[u8]) -> Result<(T, usize), Damage> {
    let (head, rest) = rest.split_first_chunk::<RECORD_HEAD>().ok_or(Damage::Short)?;
    let [a, b, c, d, sum @ ..] = *head;
    let len = u32::from_le_bytes([a, b, c, d]) as usize;
    if len > RECORD_MAX {
        return Err(Damage::Contents);
    }
    let payload = rest.get(..len).ok_or(Damage::Short)?;
    if record_sum([a, b, c, d], payload) != u32::from_le_bytes(sum) {
        return Err(Damage::Checksum);
    }
    Ok((decode(payload)?, RECORD_HEAD + len))
}

/// Covers the length too, so that a run of zeros (a file that grew but was not written) is no record.
fn record_sum(len: [u8; 4], payload: &[u8]) -> u32 {
    let mut sum = crc32fast::Hasher::new();
    sum.update(&len);
    sum.update(payload);
    sum.finalize()
}

fn encode(value: &impl Serialize) -> Vec<u8> {
    postcard::to_allocvec(value).expect("our own types, of known length, into memory")
}

fn decode<T: DeserializeOwned>(payload: &[u8]) -> Result<T, Damage> {
    match postcard::take_from_bytes(payload) {
        Ok((value, [])) => Ok(value),
        _ => Err(Damage::Contents),
    }
}

/// What is wrong with a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Damage {
    /// It ends too early.
    Short,
    /// It is another kind of file.
    Letters,
    /// Its checksum doesn't match.
    Checksum,
    /// Another version of this program wrote it.
    Version(u8),
    /// The checksum matches, but the contents make no sense.
    Contents,
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Damage::Short => f.write_str("it ends too early"),
            Damage::Letters => f.write_str("it doesn't begin as such a file does"),
            Damage::Checksum => f.write_str("its checksum doesn't match"),
            Damage::Version(v) => write!(f, "it has format version {v}, this program knows {VERSION}"),
            Damage::Contents => f.write_str("its contents make no sense"),
        }
    }
}

impl std::error::Error for Damage {}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn vote(term: u64, name: &str, committed: bool) -> Vote {
        Vote { leader_id: LeaderId { term, node_id: NodeId::new(name).unwrap() }, committed }
    }

    /// A file whose slot 0 holds `older` and slot 1 `newer`.
    fn file(older: &Vote, newer: &Vote) -> Vec<u8> {
        let mut file = vec![0; 2 * SLOT_DISTANCE];
        file[..SLOT].copy_from_slice(&SlotBody::of(Some(older)).seal(6));
        file[SLOT_DISTANCE..][..SLOT].copy_from_slice(&SlotBody::of(Some(newer)).seal(7));
        file
    }

    #[test]
    fn votes_come_back_as_they_were() {
        let longest = "x".repeat(NodeId::MAX);
        for vote in [None, Some(vote(0, "a", false)), Some(vote(u64::MAX, &longest, true)), Some(vote(1 << 40, "ä", false))] {
            let slot = SlotBody::of(vote.as_ref()).seal(u64::MAX - 1);
            assert_eq!(open_slot(&slot), Ok((u64::MAX - 1, vote)));
        }
    }

    #[test]
    fn the_higher_sequence_counts_in_either_slot() {
        let (old, new) = (vote(1, "a", true), vote(2, "b", false));
        let file = file(&old, &new);
        let mut swapped = file.clone();
        swapped.rotate_left(SLOT_DISTANCE);
        let found = |slot| Ok(Found { vote: Some(new.clone()), sequence: 7, slot, torn: false });
        assert_eq!(newest_vote(&file), found(1));
        assert_eq!(newest_vote(&swapped), found(0));
    }

    #[test]
    fn every_cut_and_every_flipped_bit_gives_a_saved_vote_or_an_error() {
        let (old, new) = (vote(5, "server1", true), vote(6, "server2", false));
        let good = file(&old, &new);
        for len in 0..good.len() {
            let found = newest_vote(&good[..len]);
            let expected = match len {
                0..SLOT => Err(Damage::Short),
                len if len < SLOT_DISTANCE + SLOT => Ok(Some(&old)),
                _ => Ok(Some(&new)),
            };
            assert_eq!(found.as_ref().map(|f| f.vote.as_ref()).map_err(|e| *e), expected, "cut to {len} bytes");
        }
        let mut flipped = good.clone();
        for bit in 0..good.len() * 8 {
            flipped[bit / 8] ^= 1 << (bit % 8);
            let found = newest_vote(&flipped).expect("one slot is whole");
            let in_new = (SLOT_DISTANCE..SLOT_DISTANCE + SLOT).contains(&(bit / 8));
            assert_eq!(found.vote.as_ref(), Some(if in_new { &old } else { &new }), "bit {bit} flipped");
            assert_eq!(found.torn, in_new || bit / 8 < SLOT);
            flipped[bit / 8] ^= 1 << (bit % 8);
        }
    }

    #[test]
    fn two_bad_slots_are_an_error_and_so_is_another_version() {
        let good = file(&vote(5, "a", true), &vote(6, "b", true));
        let mut bad = good.clone();
        bad[30] ^= 1;
        bad[SLOT_DISTANCE + 30] ^= 1;
        assert_eq!(newest_vote(&bad), Err(Damage::Checksum));
        assert_eq!(newest_vote(&vec![0; good.len()]), Err(Damage::Checksum), "zeros are not `never voted`");
        let mut later = SlotBody::of(None);
        later.0[4] = 9;
        let mut file = good.clone();
        file[..SLOT].copy_from_slice(&later.seal(8));
        assert_eq!(newest_vote(&file), Err(Damage::Version(9)), "a newer program's vote is not stepped over");
        let mut same = good;
        same.copy_within(SLOT_DISTANCE..SLOT_DISTANCE + SLOT, 0);
        assert_eq!(newest_vote(&same), Err(Damage::Contents), "one sequence number twice");
    }

    #[test]
    fn small_files_survive_no_cut_and_no_flipped_bit() {
        let contents = (String::from("server1"), Some(250u64));
        let good = seal_file(*b"KVmt", &contents);
        assert_eq!(open_file(*b"KVmt", &good), Ok(contents));
        assert_eq!(open_file::<(String, Option<u64>)>(*b"KVsn", &good), Err(Damage::Letters));
        for len in 0..good.len() {
            assert!(open_file::<(String, Option<u64>)>(*b"KVmt", &good[..len]).is_err(), "cut to {len} bytes");
        }
        let mut flipped = good.clone();
        for bit in 0..good.len() * 8 {
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(open_file::<(String, Option<u64>)>(*b"KVmt", &flipped).is_err(), "bit {bit} flipped");
            flipped[bit / 8] ^= 1 << (bit % 8);
        }
    }

    #[test]
    fn records_are_told_from_garbage() {
        let mut file = Vec::new();
        push_record(&mut file, &"one");
        push_record(&mut file, &());
        let (one, used) = first_record::<String>(&file).unwrap();
        assert_eq!(one, "one");
        assert_eq!(first_record::<()>(&file[used..]), Ok(((), 8)));
        assert_eq!(first_record::<()>(&[]), Err(Damage::Short));
        assert_eq!(first_record::<()>(&[0; 64]), Err(Damage::Checksum));
        assert_eq!(first_record::<()>(&[0xff; 64]), Err(Damage::Contents));
        assert_eq!(first_record::<u8>(&file), Err(Damage::Contents), "bytes left over");
    }
}
