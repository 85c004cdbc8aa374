//! Where the keeper hangs or dies: nobody else can remove the VIP then, but its kernel lifetime ends. Until that is seen, the
//! lease is kept alive, because a peer must not take an address that is still here.

use super::holder::Holder;
use crate::cluster::runtime::{self, now};
use crate::sys::clock::Instant;
use crate::vip;
use log::{error, info, warn};
use std::rc::Rc;
use std::time::Duration;

/// How often a daemon without keeper looks whether the kernel has dropped the VIP.
const LOOK: Duration = Duration::from_millis(100);
/// How often a holder looks whether the VIP is there at all.
const WATCH: Duration = Duration::from_secs(1);
/// The kernel ends a fence's element at its time, to a few milliseconds.
const FENCE_MARGIN: Duration = Duration::from_millis(10);
/// In order, a stop takes at most this long; the keeper waits a little longer.
const STOP_LIMIT: Duration = Duration::from_millis(2500);

/// The keeper as the daemon sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keeper {
    /// It answers.
    Well,
    /// It does not do what it was ordered.
    Hung,
    /// It has ended.
    Gone,
}

impl Holder {
    /// The keeper said something.
    pub(super) fn keeper_spoke(&self) {
        if self.keeper() == Keeper::Hung {
            info!("the keeper answers again");
            self.note_keeper(Keeper::Well);
            self.tell_fitness();
        }
    }

    /// Wanted against observed: a keeper that hangs neither adds nor renews, says nothing, and would leave a leader without VIP.
    pub(super) async fn watch_the_address(self: Rc<Self>) {
        let mut missing = 0;
        loop {
            runtime::sleep(WATCH).await;
            let wanted = self.hold_runs() && self.keeper() == Keeper::Well;
            missing = if wanted && !self.present() { missing + 1 } else { 0 };
            if missing == 2 {
                self.keeper_hangs().await;
                missing = 0;
            }
        }
    }

    /// With each order: a keeper that has not looked for renewals a whole hold after the last end it knows of hangs. The kernel fence has
    /// silenced the VIP by then, so nobody would answer for it until the address's lifetime has ended.
    pub(super) fn look_after_the_keeper(self: Rc<Self>) {
        let known = self.link.as_ref().and_then(|link| link.known_until());
        let late = known.is_some_and(|known| now() > known + self.hold);
        if late && self.held.get() && self.keeper() == Keeper::Well {
            self.note_keeper(Keeper::Hung);
            runtime::spawn(async move { self.keeper_hangs().await });
        }
    }

    fn hold_runs(&self) -> bool {
        let (ordered, ended) = (self.ordered.borrow(), self.ended.borrow());
        ordered.as_ref().is_some_and(|(vote, until)| now() < *until && ended.as_ref() != Some(vote))
    }

    /// The orders that wait in its socket end with the running hold: after that it can't add the VIP any more, and another may.
    async fn keeper_hangs(&self) {
        error!("the keeper hangs and leaves {} to the kernel: another node has to take it", self.name);
        let until = self.ordered.borrow().as_ref().map_or(now(), |(_, until)| *until);
        self.note_keeper(Keeper::Hung);
        self.tell_fitness();
        runtime::sleep_until(until + FENCE_MARGIN).await;
        while self.keeper() == Keeper::Hung && !self.is_fenced() && self.present() {
            runtime::sleep(LOOK).await;
        }
        if self.keeper() == Keeper::Hung {
            self.dropped_by_the_kernel();
        }
    }

    /// Waits for the kernel, then ends. The unit starts both processes again.
    pub(super) async fn outlive_the_keeper(&self, why: &str) {
        self.note_keeper(Keeper::Gone);
        let ordered = self.ordered.borrow().as_ref().map(|(_, until)| *until);
        self.silent_by.set(silent_by(now(), self.is_fenced(), ordered, self.hold));
        error!("the keeper is gone ({why}): waiting for the kernel to end {}, then stopping", self.name);
        if self.is_fenced() {
            runtime::sleep_until(self.silent_by.get()).await;
        }
        while now() < self.silent_by.get() && self.present() {
            runtime::sleep(LOOK).await;
        }
        self.tell_fitness();
        self.dropped_by_the_kernel();
        self.finish(Err("the keeper is gone".to_string()));
    }

    /// Whether the kernel fence is in place.
    pub fn is_fenced(&self) -> bool {
        self.fence.get() == Some(0)
    }

    /// Why it is not; none where it is, or nothing was said yet.
    pub fn fence_problem(&self) -> Option<String> {
        self.fence.get().filter(|errno| *errno != 0).map(os_text)
    }

    /// The kernel fence is in place (0), or why it is not.
    pub(super) fn fence_is(&self, errno: i32) {
        if self.fence.replace(Some(errno)) == Some(errno) {
            return;
        }
        self.lead.set_fenced(errno == 0);
        match errno {
            0 => info!("kernel fence in place: {} ends at its deadline even if every process here is dead", self.name),
            _ => warn!(
                "no kernel fence ({}): the VIP of a dead node ends within {:.1} s; peers wait for that, unless `fence: fast`",
                os_text(errno),
                vip::lifetime_bound(self.hold).as_secs_f64()
            ),
        }
    }

    fn dropped_by_the_kernel(&self) {
        info!("the kernel has {} {}", if self.is_fenced() { "fenced off" } else { "dropped" }, self.name);
        self.end_vote();
        self.held.set(false);
        self.gone.wake();
        let vote = self.ordered.borrow().as_ref().map(|(vote, _)| vote.key());
        self.lead.gone(vote.unwrap_or_default());
    }

    /// Returns when the daemon ends however far its stop came. A living keeper removes the VIP in any case; without one the lease
    /// is kept until the kernel has.
    pub async fn stop_limit(&self) {
        runtime::sleep(STOP_LIMIT).await;
        if self.keeper() == Keeper::Gone {
            // A little more, so that what follows from the silence comes first.
            runtime::sleep_until(self.silent_by.get() + LOOK * 5).await;
        }
    }
}

/// From when on nobody answers for the VIP here, though the keeper ended at `now`. What was `ordered` until then it may have seen; what
/// the cluster allows later it has not.
fn silent_by(now: Instant, fenced: bool, ordered: Option<Instant>, hold: Duration) -> Instant {
    match ordered {
        _ if !fenced => now + vip::lifetime_bound(hold),
        Some(until) => until.max(now) + FENCE_MARGIN,
        None => now,
    }
}

fn os_text(errno: i32) -> String {
    std::io::Error::from_raw_os_error(errno).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_keeper_the_fence_ends_the_vip_with_the_hold_and_the_lifetime_later() {
        let at = |ms: u64| Instant::from_nanos(ms * 1_000_000);
        let hold = Duration::from_millis(190);
        let bound = vip::lifetime_bound(hold);
        for (fenced, ordered, silent) in [
            (true, Some(1150), at(1160)),
            (true, Some(900), at(1010)),
            (true, None, at(1000)),
            (false, Some(1150), at(1000) + bound),
            (false, None, at(1000) + bound),
        ] {
            assert_eq!(silent_by(at(1000), fenced, ordered.map(at), hold), silent, "{fenced} {ordered:?}");
        }
    }
}
