//! What one trial's questions and pings say: pure, times in milliseconds since the fault.

/// One ARP question and who answered it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Round {
    /// The node that held the VIP when the fault came.
    Old,
    /// Another one.
    New,
    /// More than one.
    Both,
    Nobody,
}

/// A stretch of time, ms since the fault.
pub type Span = (f64, f64);

/// One measured trial.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Trial {
    /// The longest stretch without an answered ping until the node was repaired.
    pub gap: Option<Span>,
    /// Stretches of questions that two hosts answered, until the node was repaired.
    pub doubles: Vec<Span>,
    /// When another node first answered; never: the old holder kept it.
    pub moved: Option<f64>,
    /// When the old holder alone answered for the last time before that.
    pub left: Option<f64>,
    /// Two still answered when the watching was given up.
    pub endless: bool,
    /// The longest stretch without an answered ping while the repaired node came back, ms.
    pub return_gap: f64,
    /// Time with two answers while the repaired node came back, ms.
    pub return_doubles: f64,
    /// Whether the kernel fence was in place before the fault, where the program knows one.
    pub fenced: Option<bool>,
    /// How often the VIP moved while nothing had been done yet: a machine too busy for the setting.
    pub false_starts: u32,
    /// Questions that the observer asked late, and all questions.
    pub late: (usize, usize),
}

impl Trial {
    /// The outage in ms; 0 where every ping was answered.
    pub fn outage(&self) -> f64 {
        self.gap.map_or(0.0, |(from, to)| to - from)
    }

    /// Time with two answers, ms.
    pub fn double(&self) -> f64 {
        self.doubles.iter().map(|(from, to)| to - from).sum()
    }

    /// Whether two hosts ever answered one question.
    pub fn saw_two(&self) -> bool {
        self.endless || self.double() > 0.0 || self.return_doubles > 0.0
    }
}

/// Time between two questions, ms.
pub const EVERY: f64 = 10.0;

/// The stretches of rounds with two answers. One answer may be lost in between, a real end may not be overlooked.
pub fn doubles(rounds: &[(f64, Round)]) -> Vec<Span> {
    let mut spans: Vec<Span> = Vec::new();
    for &(at, _) in rounds.iter().filter(|(_, round)| *round == Round::Both) {
        match spans.last_mut() {
            Some(last) if at - last.1 < EVERY / 2.0 => last.1 = at + EVERY,
            _ => spans.push((at, at + EVERY)),
        }
    }
    spans
}

/// How many questions came half an interval late or more: then the machine was busy, and figures of short leases are its own.
pub fn late(asked: &[f64]) -> (usize, usize) {
    (asked.windows(2).filter(|w| w[1] - w[0] > 1.5 * EVERY).count(), asked.len())
}

/// The longest stretch between two answered pings of which at least one in between was lost, among pings sent in `within`.
pub fn longest_gap(pings: &[(f64, bool)], within: Span) -> Option<Span> {
    let answered: Vec<usize> = (0..pings.len()).filter(|&i| pings[i].1).collect();
    let gaps = answered.windows(2).filter(|w| w[1] - w[0] > 1).map(|w| (pings[w[0]].0, pings[w[1]].0));
    let inside = gaps.filter(|(from, to)| *to > within.0 && *from < within.1);
    inside.max_by(|a, b| (a.1 - a.0).total_cmp(&(b.1 - b.0)))
}

/// Minimum, median and maximum; `None` of nothing.
pub fn spread(values: impl Iterator<Item = f64>) -> Option<[f64; 3]> {
    let mut sorted: Vec<f64> = values.collect();
    sorted.sort_by(f64::total_cmp);
    Some([*sorted.first()?, sorted[sorted.len() / 2], *sorted.last()?])
}

/// The trial in the middle, by outage, then by time with two answers.
pub fn median(trials: &[Trial]) -> Option<&Trial> {
    let mut sorted: Vec<&Trial> = trials.iter().collect();
    sorted.sort_by(|a, b| (a.outage(), a.double()).partial_cmp(&(b.outage(), b.double())).unwrap_or(std::cmp::Ordering::Equal));
    sorted.get(sorted.len() / 2).copied()
}
