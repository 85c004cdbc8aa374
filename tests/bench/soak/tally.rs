//! What is counted, and the verdict: pure.

use std::collections::BTreeMap;

/// What became of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum End {
    /// All bytes of both directions, in order, and the ends where they belong.
    Whole,
    /// It broke, and its backend was killed meanwhile.
    Killed,
    /// It broke while the VIP moved to another node.
    Moved,
    /// It broke for no such reason.
    Lost,
    /// A byte that was not sent, or a cut stream that ended like a whole one.
    Wrong,
}

/// Counts of a stretch of time.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    pub ends: BTreeMap<End, u64>,
    pub bytes: u64,
    /// Words for what was lost or wrong, the first few.
    pub words: Vec<String>,
}

impl Tally {
    pub fn add(&mut self, end: End, words: String) {
        *self.ends.entry(end).or_default() += 1;
        if matches!(end, End::Lost | End::Wrong) && self.words.len() < 20 {
            self.words.push(words);
        }
    }

    pub fn count(&self, end: End) -> u64 {
        self.ends.get(&end).copied().unwrap_or(0)
    }

    /// Adds the counts of another stretch.
    pub fn merge(&mut self, other: Tally) {
        other.ends.into_iter().for_each(|(end, n)| *self.ends.entry(end).or_default() += n);
        self.bytes += other.bytes;
        self.words.extend(other.words);
        self.words.truncate(20);
    }
}

/// What the forwarder's process has at a moment.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Sample {
    pub descriptors: u64,
    pub rss_kib: u64,
    pub pss_kib: u64,
}

/// May grow between the first sample under load and the last by so much.
const GROWTH_KIB: u64 = 1024;
/// More descriptors than before the first connection, once the last has ended: the pool may still have a pipe.
const SPARE_DESCRIPTORS: u64 = 4;

/// What speaks against it; nothing: passed. `quiet`: before and after all load; `busy`: under load, one a minute of one process.
pub fn verdict(tally: &Tally, quiet: [Sample; 2], busy: &[Sample]) -> Vec<String> {
    let mut against = Vec::new();
    for (end, what) in [(End::Wrong, "had wrong bytes"), (End::Lost, "were lost")] {
        if tally.count(end) > 0 {
            against.push(format!("{} connections {what}", tally.count(end)));
        }
    }
    if tally.count(End::Whole) == 0 {
        against.push("no connection was whole".to_owned());
    }
    if quiet[1].descriptors > quiet[0].descriptors + SPARE_DESCRIPTORS {
        against.push(format!("{} descriptors before, {} after", quiet[0].descriptors, quiet[1].descriptors));
    }
    // The first minute fills buffers and tables; what grows after it grows for ever.
    if let [_, first, .., last] = busy
        && last.pss_kib > first.pss_kib + first.pss_kib / 5 + GROWTH_KIB
    {
        against.push(format!("PSS grew from {} to {} KiB under the same load", first.pss_kib, last.pss_kib));
    }
    against
}
