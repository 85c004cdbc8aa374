//! Other hosts that claim the VIP (RFC 5227 §2.4): told once each, and answered, both with a bound. The VIP itself is kept: two nodes of one
//! cluster can't both hold it, so the other host is a stranger, and a person has to find it.

use crate::sys::clock::Instant;
use crate::vip::frames::Mac;
use std::time::Duration;

/// Least time between two reports of one host, and between two defending announcements (DEFEND_INTERVAL).
const GAP: Duration = Duration::from_secs(10);
/// Frames of the last holder may arrive this long after the VIP was gained. A stranger goes on.
const SETTLE: Duration = Duration::from_secs(1);
/// So many hosts are told of in one gap.
const HOSTS: usize = 4;

#[derive(Debug, Default)]
pub(super) struct Claims {
    told: [Option<(Mac, Instant)>; HOSTS],
    defended: Option<Instant>,
}

impl Claims {
    /// Whether a claim heard now, while holding since `gained`, is one of a stranger.
    pub(super) fn counts(gained: Instant, now: Instant) -> bool {
        now >= gained + SETTLE
    }

    /// Whether to tell of it.
    pub(super) fn is_news(&mut self, mac: Mac, now: Instant) -> bool {
        self.told.iter_mut().for_each(|slot| *slot = slot.filter(|(_, at)| now < *at + GAP));
        if self.told.iter().flatten().any(|(known, _)| *known == mac) {
            return false;
        }
        let free = self.told.iter_mut().find(|slot| slot.is_none());
        free.map(|slot| *slot = Some((mac, now))).is_some()
    }

    /// Whether to announce against it.
    pub(super) fn defend(&mut self, now: Instant) -> bool {
        let may = self.defended.is_none_or(|at| now >= at + GAP);
        if may {
            self.defended = Some(now);
        }
        may
    }
}
