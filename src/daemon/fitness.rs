//! What speaks against holding the VIP here: each reason by itself, and together the one word that the cluster is told.

use super::guard::Keeper;
use super::holder::{Holder, Lead};
use crate::cluster::runtime;
use log::{info, warn};
use std::rc::Rc;
use std::time::Duration;

/// A node whose VIP was refused stands back this long, doubling up to [`STAND_BACK_MAX`].
const STAND_BACK: Duration = Duration::from_secs(5);
const STAND_BACK_MAX: Duration = Duration::from_secs(60);

/// Reasons that come and go, and one that stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fitness {
    /// `witness`, no keeper at all (`-d`), or on the way out: for ever.
    pub never: bool,
    /// `kube-vip cordon`.
    pub cordoned: bool,
    /// The interface is up, with carrier.
    pub link_up: bool,
    /// The VIP was refused here a moment ago.
    pub standing_back: bool,
    /// Who would add it.
    pub keeper: Keeper,
}

impl Fitness {
    /// At the start, before anything was reported.
    pub const fn new(never: bool) -> Self {
        Self { never, cordoned: false, link_up: true, standing_back: false, keeper: Keeper::Well }
    }

    /// Whether this node could hold the VIP now.
    pub fn may_hold(self) -> bool {
        !self.never && !self.cordoned && self.link_up && !self.standing_back && self.keeper == Keeper::Well
    }
}

impl Holder {
    /// Changes one of the reasons, and tells the cluster.
    fn change(&self, change: impl FnOnce(&mut Fitness)) {
        let mut fitness = self.fitness.get();
        change(&mut fitness);
        self.fitness.set(fitness);
        self.tell_fitness();
    }

    pub(super) fn keeper(&self) -> Keeper {
        self.fitness.get().keeper
    }

    /// Tells the cluster later: [`Holder::tell_fitness`].
    pub(super) fn note_keeper(&self, keeper: Keeper) {
        self.fitness.set(Fitness { keeper, ..self.fitness.get() });
    }

    pub(super) fn tell_fitness(&self) {
        self.lead.set_fit(self.fitness.get().may_hold());
    }

    /// `kube-vip cordon` or `uncordon`. In a cluster a leader hands over by itself; alone, [`Holder::release`] lets the VIP go.
    pub fn set_cordoned(&self, cordoned: bool) {
        self.change(|f| f.cordoned = cordoned);
    }

    /// A node that stops may drain for a while; a link that comes back meanwhile must not make it hold.
    pub(super) fn never_again(&self) {
        self.change(|f| f.never = true);
    }

    /// Whether it is.
    pub fn is_cordoned(&self) -> bool {
        self.fitness.get().cordoned
    }

    pub(super) fn link_is(&self, up: bool) {
        if self.fitness.get().link_up == up {
            return;
        }
        if up {
            info!("link is up: this node may hold again");
        } else {
            warn!("link is down: this node can't hold {}", self.name);
        }
        self.change(|f| f.link_up = up);
    }

    /// Lets another node hold for a while: what refused the address may last, or pass.
    pub(super) fn stand_back(self: &Rc<Self>) {
        if self.fitness.get().standing_back {
            return;
        }
        self.refusals.set(self.refusals.get() + 1);
        self.change(|f| f.standing_back = true);
        self.stand_back_again();
    }

    /// For as long as the last refusal asks, from now on.
    pub(super) fn stand_back_again(self: &Rc<Self>) {
        let before = self.refusals.get().saturating_sub(1);
        let wait = STAND_BACK.saturating_mul(1 << before.min(8)).min(STAND_BACK_MAX);
        let holder = self.clone();
        runtime::spawn(async move {
            runtime::sleep(wait).await;
            holder.change(|f| f.standing_back = false);
        });
    }
}

impl Lead {
    fn set_fit(&self, fit: bool) {
        match self {
            Lead::Cluster(cluster) => cluster.set_fit(fit),
            Lead::Single(single) => single.set_may_hold(fit),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_alone_keeps_a_node_from_holding() {
        let good = Fitness::new(false);
        assert!(good.may_hold());
        for bad in [
            Fitness::new(true),
            Fitness { cordoned: true, ..good },
            Fitness { link_up: false, ..good },
            Fitness { standing_back: true, ..good },
            Fitness { keeper: Keeper::Hung, ..good },
            Fitness { keeper: Keeper::Gone, ..good },
        ] {
            assert!(!bad.may_hold(), "{bad:?}");
        }
    }
}
