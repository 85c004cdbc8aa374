//! True time, and what a node's clock makes of it.

use kube_vip::sys::clock::Instant;
use std::time::Duration;

/// True time, in ns since the simulation began.
pub type Time = u64;

pub const US: Time = 1_000;
pub const MS: Time = 1_000_000;
pub const SEC: Time = 1_000_000_000;

pub fn ns(d: Duration) -> Time {
    u64::try_from(d.as_nanos()).unwrap_or(u64::MAX)
}

/// A node's CLOCK_BOOTTIME: starts anew with each boot, and runs at its own rate.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    booted: Time,
    offset: u64,
    /// Local nanoseconds in a million true ones.
    rate: u64,
}

impl Clock {
    /// `rate`: local nanoseconds in a million true ones.
    pub fn new(booted: Time, offset: u64, rate: u64) -> Self {
        Self { booted, offset, rate }
    }

    pub fn rate(&self) -> u64 {
        self.rate
    }

    /// What it shows at a true time.
    pub fn show(&self, at: Time) -> Instant {
        let passed = u128::from(at.saturating_sub(self.booted)) * u128::from(self.rate) / 1_000_000;
        Instant::from_nanos(self.offset + passed as u64)
    }

    /// The first true time at which it shows this or more.
    pub fn when(&self, shown: Instant) -> Time {
        let passed = u128::from(shown.as_nanos().saturating_sub(self.offset)) * 1_000_000;
        let passed = passed.div_ceil(u128::from(self.rate));
        self.booted.saturating_add(u64::try_from(passed).unwrap_or(u64::MAX))
    }

    /// A span of its time in true time.
    pub fn span(&self, local: Time) -> Time {
        (u128::from(local) * 1_000_000 / u128::from(self.rate)) as u64
    }
}
