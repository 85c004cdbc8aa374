//! Other hosts that claim the VIP: counted, and each told once.

use super::holder::{Holder, Lead};
use log::warn;
use std::cell::{Cell, RefCell};

/// So many claimants are told; a network with more has other troubles.
const TOLD: usize = 16;

/// A link-layer address.
pub type Mac = [u8; 6];

/// Who claimed the VIP, and how often.
#[derive(Debug, Default)]
pub struct Claims {
    count: Cell<u64>,
    last: Cell<Option<Mac>>,
    told: RefCell<Vec<Mac>>,
}

impl Claims {
    /// Counts one; whether this host is to be told, which is once.
    pub fn note(&self, mac: Mac) -> bool {
        self.count.set(self.count.get() + 1);
        self.last.set(Some(mac));
        let mut told = self.told.borrow_mut();
        let news = told.len() < TOLD && !told.contains(&mac);
        if news {
            told.push(mac);
        }
        news
    }

    /// So many there were, this one last: who claimed is told once more.
    pub fn of(count: u64, last: Option<Mac>) -> Self {
        Self { count: Cell::new(count), last: Cell::new(last), told: RefCell::default() }
    }

    /// For [`Claims::of`].
    pub fn kept(&self) -> (u64, Option<Mac>) {
        (self.count.get(), self.last.get())
    }

    /// How many there were.
    pub fn count(&self) -> u64 {
        self.count.get()
    }

    /// Who was the last.
    pub fn last(&self) -> Option<String> {
        self.last.get().map(text)
    }
}

impl Holder {
    /// The leader's own answers and announcements are no news.
    pub(super) fn claimed(&self, mac: Mac) {
        let expected = self.held().is_none() && matches!(&self.lead, Lead::Cluster(cluster) if cluster.has_leader());
        if expected {
            log::debug!("{} is answered by {}", self.vip, text(mac));
        } else if self.claims.note(mac) {
            warn!(
                "another host ({}) claims {}: find it by that MAC and take the address from it (told once; `kube-vip status` counts)",
                text(mac),
                self.vip
            );
        }
    }
}

fn text(mac: Mac) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_host_is_told_once_and_a_crowd_is_no_flood() {
        let claims = Claims::default();
        assert_eq!((claims.count(), claims.last()), (0, None));
        assert!(claims.note([2, 0, 0, 0, 0, 0]) && claims.note([2, 0, 0, 0, 0, 1]));
        assert!(!claims.note([2, 0, 0, 0, 0, 0]));
        assert_eq!((claims.count(), claims.last().as_deref()), (3, Some("02:00:00:00:00:00")));
        let news = (0..100).filter(|n| claims.note([4, 0, 0, 0, 0, *n])).count();
        assert_eq!((news, claims.count()), (TOLD - 2, 103));
    }
}
