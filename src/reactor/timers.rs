//! The timers of one thread: who is to be woken when. Pure: time is an argument.

use crate::sys::clock::Instant;
use std::collections::BTreeMap;
use std::task::Waker;

/// By instant, then in the order in which they were added.
///
/// Methods return wakers rather than drop or wake them: both may run foreign code, which may come back here.
#[derive(Debug, Default)]
pub(super) struct Timers {
    last_key: u64,
    waiting: BTreeMap<(Instant, u64), Waker>,
}

impl Timers {
    /// Adds one; the key is for the other calls.
    pub(super) fn add(&mut self, at: Instant, waker: Waker) -> u64 {
        self.last_key += 1;
        self.waiting.insert((at, self.last_key), waker);
        self.last_key
    }

    /// Says who is to be woken by it now, and returns the waker that is not needed any more. `None`: it was due, and is gone.
    pub(super) fn renew(&mut self, at: Instant, key: u64, waker: &Waker) -> Option<Option<Waker>> {
        let waiting = self.waiting.get_mut(&(at, key))?;
        Some((!waiting.will_wake(waker)).then(|| std::mem::replace(waiting, waker.clone())))
    }

    /// Gives one up, if it is still there.
    pub(super) fn remove(&mut self, at: Instant, key: u64) -> Option<Waker> {
        self.waiting.remove(&(at, key))
    }

    /// When the first is due.
    pub(super) fn earliest(&self) -> Option<Instant> {
        self.waiting.first_key_value().map(|((at, _), _)| *at)
    }

    /// Takes the first, if it is due at `now`.
    pub(super) fn pop_due(&mut self, now: Instant) -> Option<Waker> {
        let first = self.waiting.first_entry()?;
        (first.key().0 <= now).then(|| first.remove())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_are_due_in_order_and_a_renewed_or_removed_one_is_known() {
        let mut timers = Timers::default();
        let (at, waker) = (Instant::from_nanos, Waker::noop());
        let [late, early, same, gone] = [20, 10, 10, 5].map(|n| timers.add(at(n), waker.clone()));
        assert!(timers.remove(at(5), gone).is_some() && timers.remove(at(5), gone).is_none());
        assert_eq!(timers.earliest(), Some(at(10)));
        assert!(timers.pop_due(at(9)).is_none());
        assert!(timers.pop_due(at(10)).is_some());
        assert!(timers.renew(at(10), early, waker).is_none(), "the first of two for one instant is the one that came first");
        assert!(timers.renew(at(10), same, waker).is_some());
        assert!(timers.pop_due(at(15)).is_some() && timers.pop_due(at(15)).is_none());
        assert!(timers.renew(at(20), late, waker).is_some());
        assert!(timers.pop_due(at(25)).is_some());
        assert_eq!(timers.earliest(), None);
    }
}
