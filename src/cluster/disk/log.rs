//! The raft log in memory, and how it is read from and written to a file. Pure.
//!
//! The file is a history: entries appended, cuts, and what was purged. Replaying it stops at the first record that is torn.

use super::format::{Damage, LOG_HEADER, first_record, push_record};
use crate::cluster::types::{Entry, LogId, SnapshotMeta, Vote};
use openraft::entry::RaftEntry;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::ops::RangeBounds;

/// Entries that were not purged, by index. Small: openraft purges what snapshots cover.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Log {
    purged: Option<LogId>,
    entries: BTreeMap<u64, Entry>,
}

/// One step of the history in the file. Written from references, read into values: the variants must stay in step.
#[derive(Serialize)]
enum Step<'a> {
    Append(&'a Entry),
    /// Nothing is left after this index; `None`: nothing is left.
    CutAfter(Option<u64>),
    Purged(&'a LogId),
}

#[derive(Deserialize)]
enum ReadStep {
    Append(Entry),
    CutAfter(Option<u64>),
    Purged(LogId),
}

impl Log {
    /// The last purged entry.
    pub fn purged(&self) -> Option<&LogId> {
        self.purged.as_ref()
    }

    /// The last entry, purged or not.
    pub fn last(&self) -> Option<LogId> {
        self.entries.values().next_back().map(RaftEntry::log_id).or_else(|| self.purged.clone())
    }

    /// Nothing was ever appended.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty() && self.purged.is_none()
    }

    /// The entries of `range` that are here.
    pub fn range(&self, range: impl RangeBounds<u64>) -> Vec<Entry> {
        let inside = |index: &u64| range.contains(index);
        self.entries.iter().filter(|(index, _)| inside(index)).map(|(_, entry)| entry.clone()).collect()
    }

    /// Adds one entry and its record to `file`.
    pub fn append(&mut self, entry: Entry, file: &mut Vec<u8>) {
        push_record(file, &Step::Append(&entry));
        self.entries.insert(entry.log_id.index, entry);
    }

    /// Drops what comes after `last` (`None`: everything) and adds the record to `file`.
    pub fn cut_after(&mut self, last: Option<u64>, file: &mut Vec<u8>) {
        push_record(file, &Step::CutAfter(last));
        self.entries.split_off(&last.map_or(0, |last| last.saturating_add(1)));
    }

    /// Drops what comes up to `upto`. The file is to be written anew after it.
    pub fn purge(&mut self, upto: LogId) {
        self.entries = self.entries.split_off(&upto.index.saturating_add(1));
        self.purged = self.purged.take().max(Some(upto));
    }

    /// The shortest file that replays to this log.
    pub fn to_file(&self) -> Vec<u8> {
        let mut file = LOG_HEADER.to_vec();
        self.purged.iter().for_each(|purged| push_record(&mut file, &Step::Purged(purged)));
        self.entries.values().for_each(|entry| push_record(&mut file, &Step::Append(entry)));
        file
    }

    fn replay_step(&mut self, step: ReadStep) -> Result<(), Damage> {
        match step {
            ReadStep::Append(entry) => {
                if self.last().is_some_and(|last| last.index.checked_add(1) != Some(entry.log_id.index)) {
                    return Err(Damage::Contents); // a gap: records between were lost
                }
                self.entries.insert(entry.log_id.index, entry);
            }
            ReadStep::CutAfter(last) => self.cut_after(last, &mut Vec::new()),
            ReadStep::Purged(upto) => self.purge(upto),
        }
        Ok(())
    }
}

/// A file replayed.
#[derive(Debug, PartialEq)]
pub struct Replayed {
    /// As far as it could be read.
    pub log: Log,
    /// So many bytes of the file were read; 0 where even its header is bad.
    pub good: usize,
    /// Why the rest was not.
    pub damage: Option<Damage>,
}

/// Replays a log file up to its end or the first record that is torn or damaged.
pub fn replay(file: &[u8]) -> Replayed {
    let mut log = Log::default();
    let Some(mut rest) = file.strip_prefix(&LOG_HEADER) else {
        return Replayed { log, good: 0, damage: Some(if file.len() < 8 { Damage::Short } else { Damage::Letters }) };
    };
    let mut damage = None;
    while !rest.is_empty() && damage.is_none() {
        let step = first_record(rest).and_then(|(step, used)| log.replay_step(step).map(|()| used));
        match step {
            Ok(used) => rest = &rest[used..],
            Err(found) => damage = Some(found),
        }
    }
    Replayed { log, good: file.len() - rest.len(), damage }
}

/// Makes a log agree with the snapshot beside it, where a crash or damage left them apart. Returns whether it changed.
///
/// The log is written less carefully than the snapshot, so the snapshot counts; what is missing the leader sends again.
pub fn reconcile(log: &mut Log, snapshot: Option<&SnapshotMeta>) -> bool {
    let covered = snapshot.and_then(|meta| meta.last_log_id.clone());
    let behind = log.last() < covered;
    let hole = log.purged > covered; // entries are gone that no snapshot holds
    let same_place = covered.as_ref().and_then(|id| log.entries.get(&id.index));
    let differs = same_place.is_some_and(|entry| Some(entry.log_id()) != covered);
    let changed = behind || hole || differs;
    if changed {
        *log = Log { purged: covered, entries: BTreeMap::new() };
    }
    changed
}

/// The vote to start with: an entry in the log proves that its leader's vote was accepted, also where that vote was not saved
/// (the disk refused it, or its slot was torn).
pub fn vote_for(saved: Option<Vote>, last: Option<&LogId>) -> Option<Vote> {
    let proven = last.map(|id| Vote { leader_id: id.leader_id.clone(), committed: false });
    match (saved, proven) {
        (Some(saved), Some(proven)) if saved.leader_id < proven.leader_id => Some(proven),
        (None, Some(proven)) if proven.leader_id.term > 0 => Some(proven),
        (saved, _) => saved,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::cluster::types::{LeaderId, Membership, Node, NodeId, Nothing, StoredMembership};
    use openraft::EntryPayload;
    use std::collections::BTreeMap;

    fn id(term: u64, index: u64) -> LogId {
        LogId { leader_id: LeaderId { term, node_id: NodeId::new("a").unwrap() }, index }
    }

    fn blank(term: u64, index: u64) -> Entry {
        Entry { log_id: id(term, index), payload: EntryPayload::Blank }
    }

    fn members(index: u64) -> Entry {
        let nodes: BTreeMap<NodeId, Node> = ["a", "b", "c"].map(|name| (NodeId::new(name).unwrap(), Node)).into();
        Entry { log_id: id(0, index), payload: EntryPayload::Membership(Membership::from(nodes)) }
    }

    /// A history with every kind of step, as a file, with the log after each record and where that record ends.
    fn history() -> (Vec<u8>, Vec<(usize, Log)>) {
        let mut log = Log::default();
        let mut file = LOG_HEADER.to_vec();
        let mut states = vec![(file.len(), log.clone())];
        let mut step = |act: &dyn Fn(&mut Log, &mut Vec<u8>)| {
            act(&mut log, &mut file);
            states.push((file.len(), log.clone()));
        };
        step(&|log, file| log.append(members(0), file));
        (1..5).for_each(|index| step(&|log, file| log.append(blank(1, index), file)));
        step(&|log, file| log.cut_after(Some(2), file));
        step(&|log, file| log.append(Entry { log_id: id(2, 3), payload: EntryPayload::Normal(Nothing) }, file));
        step(&|log, file| {
            log.purge(id(1, 1));
            push_record(file, &Step::Purged(&id(1, 1)));
        });
        step(&|log, file| log.append(blank(2, 4), file));
        (file, states)
    }

    #[test]
    fn a_history_replays_to_the_same_log_and_so_does_its_short_form() {
        let (file, states) = history();
        let log = &states.last().unwrap().1;
        assert_eq!(replay(&file), Replayed { log: log.clone(), good: file.len(), damage: None });
        assert_eq!(log.range(..).iter().map(|e| e.log_id.index).collect::<Vec<_>>(), [2, 3, 4]);
        assert_eq!((log.purged(), log.last()), (Some(&id(1, 1)), Some(id(2, 4))));
        let short = log.to_file();
        assert_eq!(replay(&short), Replayed { log: log.clone(), good: short.len(), damage: None });
    }

    #[test]
    fn every_cut_gives_the_log_as_it_was_after_a_whole_record() {
        let (file, states) = history();
        for len in 0..file.len() {
            let got = replay(&file[..len]);
            match states.iter().rev().find(|(end, _)| *end <= len) {
                Some((end, log)) => {
                    assert_eq!((got.good, &got.log), (*end, log), "cut to {len} bytes");
                    assert_eq!(got.damage, (len > *end).then_some(Damage::Short));
                }
                None => assert_eq!(got, Replayed { log: Log::default(), good: 0, damage: Some(Damage::Short) }),
            }
        }
    }

    #[test]
    fn every_flipped_bit_gives_an_earlier_log() {
        let (file, states) = history();
        let mut flipped = file.clone();
        for bit in 0..file.len() * 8 {
            flipped[bit / 8] ^= 1 << (bit % 8);
            let got = replay(&flipped);
            let expected = states.iter().rev().find(|(end, _)| *end <= bit / 8);
            assert_eq!((got.good, got.log), expected.cloned().unwrap_or_default(), "bit {bit} flipped");
            assert!(got.damage.is_some());
            flipped[bit / 8] ^= 1 << (bit % 8);
        }
    }

    #[test]
    fn a_gap_and_a_run_of_zeros_end_the_replay() {
        let mut file = LOG_HEADER.to_vec();
        push_record(&mut file, &Step::Append(&blank(1, 1)));
        let good = file.len();
        for garbage in [vec![0; 4096], {
            let mut gap = Vec::new();
            push_record(&mut gap, &Step::Append(&blank(1, 3)));
            gap
        }] {
            let got = replay(&[file.as_slice(), &garbage].concat());
            assert_eq!((got.good, got.log.last()), (good, Some(id(1, 1))));
        }
    }

    #[test]
    fn log_and_snapshot_are_made_to_agree() {
        let log = |purged: Option<LogId>, entries: &[(u64, u64)]| Log {
            purged,
            entries: entries.iter().map(|(term, index)| (*index, blank(*term, *index))).collect(),
        };
        let empty = |covered: Option<LogId>| log(covered, &[]);
        let table = [
            ("nothing at all", empty(None), None, None),
            ("a log alone", log(None, &[(1, 0), (1, 1)]), None, None),
            ("the snapshot's end is in the log", log(None, &[(1, 0), (1, 1)]), Some(id(1, 0)), None),
            ("the log was purged up to the snapshot", log(Some(id(1, 1)), &[(1, 2)]), Some(id(1, 1)), None),
            ("the log was lost", empty(None), Some(id(1, 5)), Some(empty(Some(id(1, 5))))),
            ("the log is shorter", log(None, &[(1, 0)]), Some(id(1, 5)), Some(empty(Some(id(1, 5))))),
            ("another entry in its place", log(None, &[(1, 0), (1, 1), (3, 2)]), Some(id(2, 1)), Some(empty(Some(id(2, 1))))),
            ("purged, but the snapshot is lost", log(Some(id(1, 4)), &[(1, 5)]), None, Some(empty(None))),
        ];
        for (what, before, covered, after) in table {
            let meta = covered.map(|id| SnapshotMeta { last_log_id: Some(id), last_membership: StoredMembership::default() });
            let mut log = before.clone();
            assert_eq!(reconcile(&mut log, meta.as_ref()), after.is_some(), "{what}");
            assert_eq!(log, after.unwrap_or(before), "{what}");
        }
    }

    #[test]
    fn the_log_can_prove_a_later_vote_but_no_earlier_one() {
        let vote = |term, committed| Some(Vote { leader_id: id(term, 0).leader_id, committed });
        assert_eq!(vote_for(None, None), None);
        assert_eq!(vote_for(None, Some(&id(0, 0))), None, "the first entry of a cluster is under no vote");
        assert_eq!(vote_for(vote(3, true), Some(&id(3, 9))), vote(3, true));
        assert_eq!(vote_for(vote(2, true), Some(&id(3, 9))), vote(3, false));
        assert_eq!(vote_for(None, Some(&id(3, 9))), vote(3, false));
    }
}
