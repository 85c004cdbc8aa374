//! What is measured, and how samples become figures: pure.

use std::collections::BTreeMap;

/// The contestants, in the order of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Who {
    Ours,
    /// HAProxy, copying.
    Copy,
    /// HAProxy with splice-request and splice-response, pipes as they are.
    Splice,
    /// The same with pipes of 1 MiB.
    BigPipes,
    Nginx,
    /// The kernel's own forwarding: what no process can be cheaper than.
    Dnat,
}

impl Who {
    /// All of them.
    pub const ALL: [Who; 6] = [Who::Ours, Who::Copy, Who::Splice, Who::BigPipes, Who::Nginx, Who::Dnat];

    /// For `--only` and file names.
    pub const fn name(self) -> &'static str {
        match self {
            Who::Ours => "kube-vip",
            Who::Copy => "haproxy-copy",
            Who::Splice => "haproxy-splice",
            Who::BigPipes => "haproxy-pipes",
            Who::Nginx => "nginx",
            Who::Dnat => "dnat",
        }
    }

    /// For people.
    pub const fn title(self) -> &'static str {
        match self {
            Who::Ours => "kube-vip",
            Who::Copy => "HAProxy copy",
            Who::Splice => "HAProxy splice",
            Who::BigPipes => "HAProxy splice, 1 MiB pipes",
            Who::Nginx => "nginx stream",
            Who::Dnat => "kernel DNAT",
        }
    }

    /// One of those that ours is held against.
    pub const fn is_haproxy(self) -> bool {
        matches!(self, Who::Copy | Who::Splice | Who::BigPipes)
    }
}

/// What is done to a contestant in one go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Job {
    Idle,
    Held,
    Bulk(u32),
    Connects,
    Requests(u32),
    /// System calls, counted in a run of their own.
    Calls,
}

impl Job {
    /// All of them, in the order in which they are done to a fresh process.
    pub const ALL: [Job; 9] = [
        Job::Idle,
        Job::Held,
        Job::Bulk(1),
        Job::Bulk(4),
        Job::Connects,
        Job::Requests(1),
        Job::Requests(8),
        Job::Requests(64),
        Job::Calls,
    ];

    /// For `--only`.
    pub fn name(self) -> String {
        match self {
            Job::Idle => "idle".to_owned(),
            Job::Held => "held".to_owned(),
            Job::Bulk(n) => format!("bulk-{n}"),
            Job::Connects => "connects".to_owned(),
            Job::Requests(n) => format!("requests-{n}"),
            Job::Calls => "calls".to_owned(),
        }
    }

    /// For people.
    pub fn title(self) -> String {
        match self {
            Job::Idle => "idle".to_owned(),
            Job::Held => "held connections".to_owned(),
            Job::Bulk(1) => "bulk, 1 stream".to_owned(),
            Job::Bulk(n) => format!("bulk, {n} streams"),
            Job::Connects => "new connections".to_owned(),
            Job::Requests(1) => "requests, 1 connection".to_owned(),
            Job::Requests(n) => format!("requests, {n} connections"),
            Job::Calls => "system calls".to_owned(),
        }
    }
}

/// A quantity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum What {
    Rss,
    Pss,
    MemoryEach,
    DescriptorsEach,
    /// CPU of the forwarder: s per 10^9 bytes, or µs per connection or request.
    Cpu,
    /// Gbit/s, or connections or requests a second.
    Rate,
    P50,
    P99,
    P999,
    CallsPerRequest,
    CallsPerConnection,
    /// How much of the time the load generator and the server were on their CPU, percent: near 100 they are the bottleneck.
    Harness,
}

/// One row of the table.
pub type Row = (Job, What);

/// The rows that a job yields.
pub fn rows(job: Job) -> Vec<Row> {
    let all: &[What] = match job {
        Job::Idle => &[What::Rss, What::Pss],
        Job::Held => &[What::MemoryEach, What::DescriptorsEach],
        Job::Bulk(_) | Job::Connects => &[What::Cpu, What::Rate, What::Harness],
        Job::Requests(_) => &[What::Cpu, What::Rate, What::P50, What::P99, What::P999, What::Harness],
        Job::Calls => &[What::CallsPerRequest, What::CallsPerConnection],
    };
    all.iter().map(|what| (job, *what)).collect()
}

/// What a row is about, with its unit.
pub fn label((job, what): Row) -> String {
    let text = match (what, job) {
        (What::Rss, _) => "RSS, KiB",
        (What::Pss, _) => "PSS, KiB",
        (What::MemoryEach, _) => "memory of each, KiB",
        (What::DescriptorsEach, _) => "descriptors of each",
        (What::Cpu, Job::Bulk(_)) => "CPU, s/GB",
        (What::Cpu, _) => "CPU, µs each",
        (What::Rate, Job::Bulk(_)) => "Gbit/s",
        (What::Rate, _) => "a second",
        (What::P50, _) => "p50, µs",
        (What::P99, _) => "p99, µs",
        (What::P999, _) => "p99.9, µs",
        (What::CallsPerRequest, _) => "per request",
        (What::CallsPerConnection, _) => "per connection",
        (What::Harness, _) => "harness busy, %",
    };
    format!("{}: {text}", job.title())
}

/// Whether more of it is better.
pub const fn more_is_better(what: What) -> bool {
    matches!(what, What::Rate)
}

/// What ours over the best HAProxy is expected to be: at most (of a rate: at least) that.
pub fn expected((job, what): Row) -> Option<f64> {
    Some(match (what, job) {
        (What::Rss, _) => 0.3,
        (What::MemoryEach, _) => 0.1,
        (What::Cpu, Job::Bulk(_)) => 1.0,
        (What::Cpu, Job::Connects) => 0.85,
        (What::Cpu, Job::Requests(64)) => 0.9,
        (What::Cpu, _) => 0.95,
        (What::Rate | What::P99, _) => 1.0,
        _ => return None,
    })
}

/// What one contestant has shown in one row.
#[derive(Clone, Debug, PartialEq)]
pub enum Cell {
    /// One value of each round.
    Values(Vec<f64>),
    /// At least one round went wrong: why.
    Failed(String),
    /// It does not take part there.
    Nothing,
}

/// Everything measured.
#[derive(Clone, Debug, Default)]
pub struct Results {
    cells: BTreeMap<(Who, Row), Cell>,
}

impl Results {
    /// Notes a value; a row that once failed stays failed.
    pub fn add(&mut self, who: Who, row: Row, value: f64) {
        let cell = self.cells.entry((who, row)).or_insert_with(|| Cell::Values(Vec::new()));
        if let Cell::Values(values) = cell {
            values.push(value);
        }
    }

    /// Notes that all rows of a job failed.
    pub fn fail(&mut self, who: Who, job: Job, why: &str) {
        for row in rows(job) {
            let cell = self.cells.entry((who, row)).or_insert_with(|| Cell::Failed(why.to_owned()));
            if matches!(cell, Cell::Values(_)) {
                *cell = Cell::Failed(why.to_owned());
            }
        }
    }

    /// What is known of a contestant in a row.
    pub fn cell(&self, who: Who, row: Row) -> &Cell {
        self.cells.get(&(who, row)).unwrap_or(&Cell::Nothing)
    }

    /// The values, where none failed.
    pub fn values(&self, who: Who, row: Row) -> &[f64] {
        match self.cell(who, row) {
            Cell::Values(values) => values,
            _ => &[],
        }
    }

    /// The median of the rounds.
    pub fn median(&self, who: Who, row: Row) -> Option<f64> {
        median(self.values(who, row))
    }

    /// The best HAProxy in a row, by its median.
    pub fn best_haproxy(&self, row: Row) -> Option<Who> {
        let all = Who::ALL.into_iter().filter(|who| who.is_haproxy()).filter_map(|who| Some((self.median(who, row)?, who)));
        let order =
            |a: &(f64, Who), b: &(f64, Who)| if more_is_better(row.1) { b.0.total_cmp(&a.0) } else { a.0.total_cmp(&b.0) };
        all.min_by(order).map(|(_, who)| who)
    }

    /// Ours beside the best HAProxy.
    pub fn verdict(&self, row: Row) -> Option<Verdict> {
        let other = self.best_haproxy(row)?;
        let (ours, theirs) = (self.values(Who::Ours, row), self.values(other, row));
        let ratio = median(ours)? / median(theirs)?;
        let rounds: Vec<f64> = ours.iter().zip(theirs).map(|(a, b)| a / b).collect();
        let [least, most] = [rounds.iter().copied().fold(ratio, f64::min), rounds.iter().copied().fold(ratio, f64::max)];
        let met = expected(row).map(|bound| if more_is_better(row.1) { ratio >= bound } else { ratio <= bound });
        ratio.is_finite().then_some(Verdict { other, ratio, least, most, met })
    }

    /// Failures, each said once.
    pub fn failures(&self) -> Vec<String> {
        let mut all: Vec<String> = Vec::new();
        for ((who, (job, _)), cell) in &self.cells {
            if let Cell::Failed(why) = cell {
                all.push(format!("{}, {}: {why}", who.title(), job.title()));
            }
        }
        all.dedup();
        all
    }
}

/// Ours over another.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Verdict {
    pub other: Who,
    /// Of the medians.
    pub ratio: f64,
    /// The least and the most of one round.
    pub least: f64,
    pub most: f64,
    /// Whether it is as expected, where something is.
    pub met: Option<bool>,
}

/// The value in the middle, or between the two there.
pub fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let n = sorted.len();
    match n {
        0 => None,
        n if n % 2 == 1 => Some(sorted[n / 2]),
        n => Some((sorted[n / 2 - 1] + sorted[n / 2]) / 2.0),
    }
}

/// The distance from the least to the most, as a part of the median.
pub fn spread(values: &[f64]) -> Option<f64> {
    let middle = median(values)?;
    let least = values.iter().copied().fold(f64::INFINITY, f64::min);
    let most = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    (middle != 0.0).then(|| (most - least) / middle)
}

/// The value that `part` (0 to 1) of all sorted ones do not exceed.
pub fn quantile(sorted: &[u32], part: f64) -> Option<u32> {
    let last = sorted.len().checked_sub(1)?;
    Some(sorted[((sorted.len() as f64 * part).ceil() as usize).saturating_sub(1).min(last)])
}

/// Three significant digits, as a person writes them.
pub fn short(value: f64) -> String {
    match value.abs() {
        v if v >= 99.95 => format!("{value:.0}"),
        v if v >= 9.995 => format!("{value:.1}"),
        v if v >= 0.9995 => format!("{value:.2}"),
        0.0 => "0".to_owned(),
        _ => format!("{value:.3}"),
    }
}

/// The order of a round's contestants: each round begins with another.
pub fn rotated(all: &[Who], round: usize) -> Vec<Who> {
    let mut order = all.to_vec();
    if !order.is_empty() {
        order.rotate_left(round % all.len());
    }
    order
}
