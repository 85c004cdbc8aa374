//! When a leader that could hold hands over all the same: to a peer that reaches a backend, or to one of higher priority.

use super::successor::{self, Follower};
use crate::cluster::types::NodeId;
use crate::sys::clock::Instant;
use std::time::Duration;

/// Why a leader moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// Somebody asked for it.
    Asked,
    /// This node reaches no backend, the other does.
    Backends,
    /// The other has a higher priority (`preempt`).
    Priority,
}

impl std::fmt::Display for Why {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Why::Asked => "asked to",
            Why::Backends => "this node reaches no backend, the other does",
            Why::Priority => "the other has a higher priority",
        })
    }
}

/// What the leader knows of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Own {
    /// Its priority.
    pub priority: u32,
    /// It reaches a backend, or does not look.
    pub reaches: bool,
}

/// Remembers since when a peer of higher priority has been ready.
#[derive(Clone, Debug, Default)]
pub struct Preference {
    settle: Option<Duration>,
    waiting: Option<(NodeId, Instant)>,
}

impl Preference {
    /// `settle`: how long a peer of higher priority must have been ready; none: it never takes over from a leader that is well.
    pub fn new(settle: Option<Duration>) -> Self {
        Self { settle, waiting: None }
    }

    /// Whom to hand over to now, if anybody. Called while leading, at least with every heartbeat.
    pub fn step(&mut self, now: Instant, heartbeat: Duration, own: Own, followers: &[Follower]) -> Option<(NodeId, Why)> {
        let best = successor::choose(now, heartbeat, followers);
        if !own.reaches
            && let Some(best) = best.filter(|f| f.reaches)
        {
            return Some((best.id.clone(), Why::Backends));
        }
        let settle = self.settle?;
        let Some(higher) = best.filter(|f| f.priority > own.priority && f.reaches >= own.reaches) else {
            self.waiting = None;
            return None;
        };
        match &self.waiting {
            Some((id, since)) if *id == higher.id => (now - *since >= settle).then(|| (higher.id.clone(), Why::Priority)),
            _ => {
                self.waiting = Some((higher.id.clone(), now));
                settle.is_zero().then(|| (higher.id.clone(), Why::Priority))
            }
        }
    }

    /// Another leads, or nobody.
    pub fn forget(&mut self) {
        self.waiting = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEARTBEAT: Duration = Duration::from_millis(50);
    const OWN: Own = Own { priority: 100, reaches: true };

    fn at(ms: u64) -> Instant {
        Instant::from_nanos(ms * 1_000_000)
    }

    fn ready(id: &str, priority: u32, now: u64) -> Follower {
        Follower {
            id: NodeId::new(id).unwrap(),
            priority,
            connected: true,
            fit: true,
            awake: true,
            reaches: true,
            caught_up: true,
            acked: Some(at(now)),
        }
    }

    fn preference(settle_ms: u64) -> Preference {
        Preference::new(Some(Duration::from_millis(settle_ms)))
    }

    fn to(id: &str, why: Why) -> Option<(NodeId, Why)> {
        Some((NodeId::new(id).unwrap(), why))
    }

    #[test]
    fn a_higher_priority_takes_over_only_after_the_whole_settle_time_and_only_if_told_so() {
        let mut never = Preference::new(None);
        let mut p = preference(1000);
        for ms in (0..5000).step_by(50) {
            assert_eq!(never.step(at(ms), HEARTBEAT, OWN, &[ready("b", 200, ms)]), None);
            if ms < 1000 {
                assert_eq!(p.step(at(ms), HEARTBEAT, OWN, &[ready("b", 200, ms)]), None, "{ms}");
            }
        }
        assert_eq!(p.step(at(1000), HEARTBEAT, OWN, &[ready("b", 200, 1000)]), to("b", Why::Priority));
        assert_eq!(p.step(at(1050), HEARTBEAT, OWN, &[ready("b", 100, 1050)]), None, "equal is not higher");
    }

    #[test]
    fn the_settle_time_begins_anew_when_the_peer_was_not_ready() {
        let mut p = preference(1000);
        assert_eq!(p.step(at(0), HEARTBEAT, OWN, &[ready("b", 200, 0)]), None);
        assert_eq!(p.step(at(900), HEARTBEAT, OWN, &[ready("b", 200, 500)]), None, "silent");
        assert_eq!(p.step(at(1000), HEARTBEAT, OWN, &[ready("b", 200, 1000)]), None);
        assert_eq!(p.step(at(1999), HEARTBEAT, OWN, &[ready("b", 200, 1999)]), None);
        assert_eq!(p.step(at(2000), HEARTBEAT, OWN, &[ready("b", 200, 2000)]), to("b", Why::Priority));
        p.forget();
        assert_eq!(p.step(at(2001), HEARTBEAT, OWN, &[ready("b", 200, 2001)]), None);
    }

    #[test]
    fn a_leader_without_backends_gives_way_to_one_that_has_some_and_stays_where_nobody_has() {
        let (mut p, own) = (Preference::new(None), Own { reaches: false, ..OWN });
        let deaf = Follower { reaches: false, ..ready("b", 200, 0) };
        assert_eq!(p.step(at(0), HEARTBEAT, own, std::slice::from_ref(&deaf)), None);
        assert_eq!(p.step(at(0), HEARTBEAT, own, &[deaf.clone(), ready("c", 1, 0)]), to("c", Why::Backends));
        assert_eq!(p.step(at(500), HEARTBEAT, own, &[ready("c", 1, 0)]), None, "not ready");
        let mut eager = preference(0);
        assert_eq!(
            eager.step(at(0), HEARTBEAT, OWN, &[deaf]),
            None,
            "priority does not bring the VIP to a node without backends"
        );
    }
}
