//! Rules broken on purpose, to see that the simulator's checks find it. Only where debug assertions are on; else nothing can be planted.

/// A rule to break.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Planted {
    /// A node that starts votes and stands at once.
    NoQuietStart,
    /// The vote gate lets everything pass.
    OpenGate,
    /// Spent votes hold again.
    SpentReused,
    /// A vote request's transfer flag ends the lease, whoever's it is.
    FlagBelieved,
    /// A release needs no proof.
    UnprovenRelease,
    /// A program that takes another's place forgets what that one had promised.
    UpgradeForgets,
}

#[cfg(debug_assertions)]
mod on {
    use super::Planted;
    use std::cell::Cell;

    thread_local! {
        static PLANTED: Cell<Option<Planted>> = const { Cell::new(None) };
    }

    /// Breaks this rule, and no other, on this thread from now on.
    pub fn plant(what: Option<Planted>) {
        PLANTED.set(what);
    }

    /// Whether it is broken.
    pub fn is_planted(what: Planted) -> bool {
        PLANTED.get() == Some(what)
    }
}

#[cfg(not(debug_assertions))]
mod on {
    use super::Planted;

    /// Does nothing.
    pub const fn plant(_: Option<Planted>) {}

    /// Never.
    pub const fn is_planted(_: Planted) -> bool {
        false
    }
}

pub use on::{is_planted, plant};
