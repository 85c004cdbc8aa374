//! When the kernel fence is armed and cleared. Armed before the address is added, never beyond the hold, and again only when the kernel's
//! time gets short; cleared once the VIP was seen gone. A fence that fails delays nothing: the address lifetime is then what is left.

use super::{FenceAct, Hold, Machine, Next};
use crate::sys::clock::Instant;
use crate::vip::{RefusedWhy, Report, Task};
use std::time::Duration;

/// Pause before a fence that worked before is tried again.
const AGAIN: Duration = Duration::from_secs(1);
/// The same for one that never worked: this kernel may have no nf_tables at all.
const RARELY: Duration = Duration::from_secs(60);

#[derive(Debug, Default)]
pub(super) struct Fencing {
    armed: Option<Instant>, // what the kernel has for the running hold
    wanted: bool,           // an order came when less than half of the hold was left on it
    guarded: bool,          // the kernel drops what names the VIP once the armed time is over
    in_the_way: bool,       // guarded, but it can't be armed: it would silence a good hold
    asked: Option<FenceAct>,
    retry_at: Instant,
    told: Option<i32>,
    worked: bool,
}

impl Fencing {
    /// The hold that it was armed for has ended. The next one may try again what failed for this one, if there is a fence at all.
    pub(super) fn hold_ended(&mut self) {
        (self.armed, self.wanted, self.in_the_way) = (None, false, false);
        if self.worked {
            self.retry_at = Instant::default();
        }
    }

    fn short_of(&self, part: Duration, now: Instant) -> bool {
        self.armed.is_none_or(|armed| now + part >= armed)
    }

    /// The next hold may try again what failed when the last one was cleared away.
    pub(super) fn hold_begins(&mut self) {
        if self.worked {
            self.retry_at = Instant::default();
        }
    }

    /// Whether the kernel should be told a new time for this hold.
    fn is_due(&self, h: Hold, whole: Duration, now: Instant) -> bool {
        let apart = self.armed != Some(h.until);
        let beyond = self.armed.is_some_and(|armed| armed > h.until);
        // The quarter is for orders that came too early to be worth it, and have not been followed by another in time.
        apart && now >= self.retry_at && (beyond || self.wanted || self.short_of(whole / 4, now))
    }

    fn due_at(&self, whole: Duration) -> Instant {
        self.armed.map_or(self.retry_at, |armed| (armed - whole / 4).max(self.retry_at))
    }
}

impl Machine {
    /// A later deadline was ordered.
    pub(super) fn fence_ordered(&mut self, now: Instant) {
        self.fence.wanted |= self.fence.short_of(self.set.hold / 2, now);
    }

    /// For the first address of a hold, and on and on while it runs.
    pub(super) fn arm_if_due(&mut self, h: Hold, now: Instant) -> Option<Next> {
        self.fence.is_due(h, self.set.hold, now).then(|| self.ask_fence(FenceAct::Arm { until: h.until }))
    }

    /// Keeps the fence up with a hold whose address is there.
    pub(super) fn fence_work(&mut self, now: Instant) -> Option<Next> {
        let h = self.hold.filter(|h| h.held && self.busy.is_none())?;
        if std::mem::take(&mut self.fence.in_the_way) {
            return Some(self.ask_fence(FenceAct::Clear));
        }
        self.arm_if_due(h, now)
    }

    /// Clears it, once there is nothing left to guard: after the words, for nobody waits for it.
    pub(super) fn unfence_work(&mut self, now: Instant) -> Option<Next> {
        let over = self.hold.is_none() && self.ending.is_none() && self.busy.is_none() && !self.hinted;
        let gone = over && self.seen.is_some_and(|s| !s.ours);
        (gone && self.fence.guarded && now >= self.fence.retry_at).then(|| self.ask_fence(FenceAct::Clear))
    }

    fn ask_fence(&mut self, act: FenceAct) -> Next {
        (self.busy, self.fence.asked) = (Some(Task::Fence), Some(act));
        Next::Fence(act)
    }

    /// The answer; or, unasked, that the table was made anew (0: it guards nothing) or could not be.
    pub(super) fn fenced(&mut self, errno: i32, now: Instant) {
        if self.busy == Some(Task::Fence) {
            self.busy = None;
        }
        let asked = self.fence.asked.take();
        match (asked, errno) {
            (Some(FenceAct::Arm { until }), 0) => {
                (self.fence.armed, self.fence.wanted, self.fence.guarded) = (Some(until), false, true);
                self.fence.in_the_way = false;
            }
            (Some(FenceAct::Arm { .. }), _) => (self.fence.armed, self.fence.in_the_way) = (None, self.fence.guarded),
            (Some(FenceAct::Clear), 0) => return self.fence.guarded = false,
            (Some(FenceAct::Clear), _) => {}
            (None, 0) => (self.fence.armed, self.fence.guarded) = (None, false),
            (None, _) => {}
        }
        self.fence.retry_at = match errno {
            0 => Instant::default(),
            _ if self.fence.worked => now + AGAIN,
            _ => now + RARELY,
        };
        self.fence.worked |= errno == 0;
        let before = self.fence.told.replace(errno);
        if before != Some(errno) {
            self.report(Report::Fence { errno });
        }
        // Peers still count on the fence: the next hold begins when they know better.
        let first = matches!(asked, Some(FenceAct::Arm { .. })) && self.hold.is_some_and(|h| !h.held);
        if first && errno != 0 && before == Some(0) {
            self.refuse(RefusedWhy::Kernel(errno), now);
        }
    }

    /// A frozen daemon may have missed it.
    pub(super) fn tell_fence_again(&mut self) {
        if let Some(errno) = self.fence.told {
            self.report(Report::Fence { errno });
        }
    }

    /// When the fence needs something next without any input.
    pub(super) fn fence_wake(&self) -> Option<Instant> {
        match self.hold {
            Some(h) if h.held && self.fence.armed != Some(h.until) => Some(self.fence.due_at(self.set.hold)),
            None if self.fence.guarded => Some(self.fence.retry_at),
            _ => None,
        }
    }
}
