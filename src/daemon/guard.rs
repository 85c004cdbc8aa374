//! Where the keeper hangs or dies: nobody else can remove the VIP then, but its kernel lifetime ends. Until that is seen, the
//! lease is kept alive, because a peer must not take an address that is still here.

use super::holder::Holder;
use crate::cluster::runtime::{self, now};
use crate::vip;
use log::{error, info};
use std::rc::Rc;
use std::time::Duration;

/// How often a daemon without keeper looks whether the kernel has dropped the VIP.
const LOOK: Duration = Duration::from_millis(100);
/// How often a holder looks whether the VIP is there at all.
const WATCH: Duration = Duration::from_secs(1);
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
        if self.keeper.get() == Keeper::Hung {
            info!("the keeper answers again");
            self.keeper.set(Keeper::Well);
            self.tell_fitness();
        }
    }

    /// Wanted against observed: a keeper that hangs neither adds nor renews, says nothing, and would leave a leader without VIP.
    pub(super) async fn watch_the_address(self: Rc<Self>) {
        let mut missing = 0;
        loop {
            runtime::sleep(WATCH).await;
            let wanted = self.hold_runs() && self.keeper.get() == Keeper::Well;
            missing = if wanted && !self.present() { missing + 1 } else { 0 };
            if missing == 2 {
                self.keeper_hangs().await;
                missing = 0;
            }
        }
    }

    fn hold_runs(&self) -> bool {
        let (ordered, ended) = (self.ordered.borrow(), self.ended.borrow());
        ordered.as_ref().is_some_and(|(vote, until)| now() < *until && ended.as_ref() != Some(vote))
    }

    /// The orders that wait in its socket end with the running hold: after that it can't add the VIP any more, and another may.
    async fn keeper_hangs(&self) {
        error!("{} is not there although it was ordered: the keeper hangs; another node has to take it", self.name);
        let until = self.ordered.borrow().as_ref().map_or(now(), |(_, until)| *until);
        self.keeper.set(Keeper::Hung);
        self.tell_fitness();
        runtime::sleep_until(until).await;
        while self.keeper.get() == Keeper::Hung && self.present() {
            runtime::sleep(LOOK).await;
        }
        if self.keeper.get() == Keeper::Hung {
            self.dropped_by_the_kernel();
        }
    }

    /// Waits for the kernel, then ends. The unit starts both processes again.
    pub(super) async fn outlive_the_keeper(&self, why: &str) {
        self.keeper.set(Keeper::Gone);
        let bound = now() + vip::lifetime_bound(self.hold);
        error!("the keeper is gone ({why}): waiting for the kernel to drop {}, then stopping", self.name);
        while now() < bound && self.present() {
            runtime::sleep(LOOK).await;
        }
        self.tell_fitness();
        self.dropped_by_the_kernel();
        self.finish(Err("the keeper is gone".to_string()));
    }

    fn dropped_by_the_kernel(&self) {
        info!("the kernel has dropped {}", self.name);
        self.end_vote();
        self.held.set(false);
        self.gone.wake();
        self.lead.gone();
    }

    /// Returns when the daemon ends however far its stop came. A living keeper removes the VIP in any case; without one the lease
    /// is kept until the kernel has.
    pub async fn stop_limit(&self) {
        runtime::sleep(STOP_LIMIT).await;
        if self.keeper.get() == Keeper::Gone {
            runtime::sleep(vip::lifetime_bound(self.hold)).await;
        }
    }
}
