//! Which backend gets a connection. Pure: no clock, no descriptor; what is known about backends comes in as facts.
//!
//! A connection asks [`Chooser::choose`] until a connect succeeds or `None` says that every backend was tried. What the
//! connects showed comes back by [`Chooser::failed`] and [`Chooser::connected`]; a later policy (weights, fewest connections,
//! active checks) needs no more than these three calls.

use crate::sys::clock::Instant;
use std::time::Duration;

/// For how long a backend whose connect failed is asked last, so that a dead one costs one connection per second a delay
/// instead of each.
pub const REST: Duration = Duration::from_secs(1);

/// The backends that one connection has tried: one bit each, for the first 64. Backends beyond share bits, so with more than
/// 64 backends a connection gives up after at most 64 tries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tried(u64);

impl Tried {
    const fn has(self, i: usize) -> bool {
        self.0 & (1 << (i % 64)) != 0
    }
    const fn with(self, i: usize) -> Self {
        Self(self.0 | 1 << (i % 64))
    }
}

/// What a connect has changed in the opinion of a backend: worth one line in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// It was reachable and isn't any more.
    Lost,
    /// It is reachable again.
    Back,
}

#[derive(Clone, Copy, Debug)]
enum Health {
    Reachable,
    Resting { until: Instant },
}

/// Round robin over the backends of one balancer.
#[derive(Debug)]
pub struct Chooser {
    health: Vec<Health>,
    next: usize,
}

impl Chooser {
    /// For `backends` backends, all thought reachable.
    pub fn new(backends: usize) -> Self {
        Self { health: vec![Health::Reachable; backends], next: 0 }
    }

    /// The backend to try next, noted in `tried`; `None`: all were tried. Those that failed within [`REST`] come last.
    pub fn choose(&mut self, now: Instant, tried: &mut Tried) -> Option<usize> {
        let first = tried.0 == 0;
        let n = self.health.len();
        let ring = (0..n).map(|k| (self.next + k) % n).filter(|&i| !tried.has(i));
        let pick = ring.clone().find(|&i| !self.rests(i, now)).or_else(|| ring.clone().next())?;
        *tried = tried.with(pick);
        if first {
            self.next = (pick + 1) % n;
        }
        Some(pick)
    }

    /// A connect to backend `i` failed.
    pub fn failed(&mut self, i: usize, now: Instant) -> Option<Change> {
        let was = std::mem::replace(&mut self.health[i], Health::Resting { until: now + REST });
        matches!(was, Health::Reachable).then_some(Change::Lost)
    }

    /// A connect to backend `i` succeeded.
    pub fn connected(&mut self, i: usize) -> Option<Change> {
        let was = std::mem::replace(&mut self.health[i], Health::Reachable);
        matches!(was, Health::Resting { .. }).then_some(Change::Back)
    }

    fn rests(&self, i: usize, now: Instant) -> bool {
        matches!(self.health[i], Health::Resting { until } if now < until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const T0: Instant = Instant::from_nanos(1_000_000_000);

    fn first(c: &mut Chooser, now: Instant) -> usize {
        c.choose(now, &mut Tried::default()).expect("somebody is left")
    }

    #[test]
    fn everybody_gets_the_same_share_in_turn() {
        let mut c = Chooser::new(3);
        let seen: Vec<_> = (0..6).map(|_| first(&mut c, T0)).collect();
        assert_eq!(seen, [0, 1, 2, 0, 1, 2]);
    }

    #[test]
    fn one_connection_tries_each_backend_once() {
        for n in [0, 1, 3, 64] {
            let mut c = Chooser::new(n);
            let mut tried = Tried::default();
            let mut seen: Vec<_> = std::iter::from_fn(|| c.choose(T0, &mut tried)).collect();
            seen.sort_unstable();
            assert_eq!(seen, (0..n).collect::<Vec<_>>());
        }
        let mut c = Chooser::new(200);
        let mut tried = Tried::default();
        assert_eq!(std::iter::from_fn(|| c.choose(T0, &mut tried)).count(), 64);
    }

    #[test]
    fn a_failed_backend_rests_and_then_gets_another_chance() {
        let mut c = Chooser::new(3);
        assert_eq!(c.failed(1, T0), Some(Change::Lost));
        assert_eq!(c.failed(1, T0), None, "told once");
        let seen: Vec<_> = (0..4).map(|_| first(&mut c, T0)).collect();
        assert_eq!(seen, [0, 2, 0, 2], "and its share goes to the others evenly");
        let mut tried = Tried::default();
        let order: Vec<_> = std::iter::from_fn(|| c.choose(T0, &mut tried)).collect();
        assert_eq!(order, [0, 2, 1], "but it is the last resort");
        assert!((0..3).any(|_| first(&mut c, T0 + REST) == 1), "after the rest it takes its turn");
        assert_eq!((c.connected(1), c.connected(1)), (Some(Change::Back), None));
    }

    #[test]
    fn all_resting_are_still_tried() {
        let mut c = Chooser::new(2);
        c.failed(0, T0);
        c.failed(1, T0);
        assert_eq!([first(&mut c, T0), first(&mut c, T0)], [0, 1]);
    }
}
