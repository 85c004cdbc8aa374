//! What one world is: its size, timing, clocks and kernels, all out of its seed.

use super::clock::{MS, SEC, Time};
use super::episodes;
use super::rng::Rng;
use kube_vip::cluster::rules::planted;
use std::time::Duration;

/// How long a world with nothing but episodes runs.
const DIRECTED: Time = 60 * SEC;

/// One world's fixed facts.
#[derive(Clone, Debug)]
pub struct Setup {
    pub seed: u64,
    pub nodes: usize,
    /// How long it runs.
    pub length: Time,
    pub heartbeat_ms: u64,
    pub lease_ms: u64,
    /// Which nodes have nf_tables.
    pub fenced: Vec<bool>,
    /// Further keys of the configuration.
    pub keys: String,
    /// Clocks are off by up to this, in ppm.
    pub skew: u64,
    /// Where not empty, most faults are of these kinds.
    pub focus: &'static [&'static str],
    /// There are no other faults than those, one after the other, and no node stays broken.
    pub directed: bool,
    /// Nothing goes wrong, ever.
    pub peaceful: bool,
    /// What is broken on purpose.
    pub planted: Option<Planted>,
    /// The rule for which this world was made, broken or not.
    pub like: Option<Planted>,
}

/// A rule broken on purpose, to see that the checks find it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Planted {
    /// Holds last longer than the lease.
    LongHold,
    /// A node that starts votes at once.
    NoQuietStart,
    /// The vote gate is open.
    OpenGate,
    /// Spent votes are used again.
    SpentReused,
    /// openraft's transfer flag is believed.
    FlagBelieved,
    /// A release is told before the VIP was seen gone.
    UnprovenRelease,
    /// The keeper knows no deadline.
    NoDeadline,
    /// A daemon that goes on as another program forgets its promise.
    UpgradeForgets,
}

impl Planted {
    pub const ALL: [Self; 8] = [
        Self::LongHold,
        Self::NoQuietStart,
        Self::OpenGate,
        Self::SpentReused,
        Self::FlagBelieved,
        Self::UnprovenRelease,
        Self::NoDeadline,
        Self::UpgradeForgets,
    ];

    /// One of the worlds in which it is looked for.
    pub fn world(self, number: u64) -> Setup {
        let nodes = if self == Self::FlagBelieved { 5 } else { 3 };
        let (planted, focus, fenced) = (Some(self), self.focus(number), vec![true; nodes]);
        let usual = Setup { planted, like: planted, focus, fenced, ..Setup::new(1 + number, nodes) };
        // A long lease leaves time for a restart or a late frame within it. Exact fences: the rule is what stands between two holders.
        let long = Setup { heartbeat_ms: 500, lease_ms: 3000, ..usual.clone() };
        let short = Setup { heartbeat_ms: 50, lease_ms: 250, ..usual };
        match self {
            Self::NoQuietStart => long,
            Self::UpgradeForgets => Setup { directed: true, length: DIRECTED, ..long },
            Self::FlagBelieved => Setup { directed: true, length: DIRECTED, ..long },
            // A second guard of raft's own, its lease, is as long as that of a leader with a fence.
            Self::OpenGate if number.is_multiple_of(2) => Setup { directed: true, length: DIRECTED, ..long },
            Self::OpenGate => Setup { directed: true, length: DIRECTED, fenced: vec![false; 3], keys: String::new(), ..short },
            _ => short,
        }
    }

    /// The same world with the rule in force.
    pub fn sound_world(self, number: u64) -> Setup {
        Setup { planted: None, ..self.world(number) }
    }

    /// What brings it out.
    fn focus(self, number: u64) -> &'static [&'static str] {
        match self {
            Self::NoQuietStart => &["one-way cut", "daemon killed", "both killed", "node cut off"],
            Self::OpenGate if number.is_multiple_of(2) => &[episodes::RESTART],
            Self::OpenGate => &[episodes::FREEZE],
            Self::SpentReused => &["carrier lost", "keeper killed", "hand-over"],
            Self::FlagBelieved => &[episodes::HELD_BACK],
            Self::UpgradeForgets => &[episodes::UPGRADE],
            Self::UnprovenRelease => &["forged proof"],
            _ => &[],
        }
    }

    /// Those that are broken inside the product; the others in what is around it here.
    pub fn inside(self) -> Option<planted::Planted> {
        match self {
            Self::NoQuietStart => Some(planted::Planted::NoQuietStart),
            Self::OpenGate => Some(planted::Planted::OpenGate),
            Self::SpentReused => Some(planted::Planted::SpentReused),
            Self::FlagBelieved => Some(planted::Planted::FlagBelieved),
            Self::UnprovenRelease => Some(planted::Planted::UnprovenRelease),
            Self::UpgradeForgets => Some(planted::Planted::UpgradeForgets),
            Self::LongHold | Self::NoDeadline => None,
        }
    }
}

impl Setup {
    /// The world of this seed.
    pub fn new(seed: u64, nodes: usize) -> Self {
        let mut rng = Rng::new(seed ^ 0x5e70);
        let (heartbeat_ms, lease_ms) = match rng.below(20) {
            0..3 => (15, 60),
            3..5 => (500, 3000),
            _ => (50, 250),
        };
        let fenced = match rng.below(4) {
            0 => vec![false; nodes],
            1 => (0..nodes).map(|_| rng.chance(0.5)).collect(),
            _ => vec![true; nodes],
        };
        let skew = *rng.pick(&[0, 1_000, 100_000, 100_000]);
        Self {
            seed,
            nodes,
            length: 600 * SEC,
            heartbeat_ms,
            lease_ms,
            fenced,
            keys: if rng.chance(0.15) { "fence: fast\n".to_string() } else { String::new() },
            skew,
            focus: &[],
            directed: false,
            peaceful: false,
            planted: None,
            like: None,
        }
    }

    /// The command that runs it again.
    pub fn again(&self) -> String {
        let made = match (self.planted, self.like) {
            (Some(rule), _) => format!("--plant {rule:?}"),
            (None, Some(rule)) => format!("--like {rule:?}"),
            (None, None) => format!("--nodes {}", self.nodes),
        };
        format!("scripts/simulate --replay {made} --seed {}", self.seed)
    }

    pub fn timing(&self) -> (u64, u64) {
        (self.heartbeat_ms, self.lease_ms)
    }

    pub fn lease(&self) -> Time {
        self.lease_ms * MS
    }

    /// The hold that the product makes of the lease, computed anew: 0.8 × lease − 10 ms, at least a quarter of it.
    pub fn hold(&self) -> Duration {
        Duration::from_millis((self.lease_ms * 4 / 5).saturating_sub(10).max(self.lease_ms / 4))
    }

    /// A connected majority with a fit node and without faults has a holder again within this time: the end of earlier kernel
    /// lifetimes, restarts, quiet starts and back-offs, and some leases.
    pub fn recovery(&self) -> Time {
        20 * SEC + 8 * self.lease()
    }
}
