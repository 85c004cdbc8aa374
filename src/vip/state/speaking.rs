//! What goes out on the wire, and what is heard there: announcements, questions, and other hosts that claim the VIP (RFC 5227 §2.4).
//!
//! Those are told once each, and answered, both with a bound. The VIP itself is kept: two nodes of one cluster can't both hold it, so the
//! other host is a stranger, and a person has to find it.

use super::{Machine, Next};
use crate::sys::clock::Instant;
use crate::vip::Report;
use crate::vip::announce::Schedule;
use crate::vip::frames::{self, Mac};
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

impl Machine {
    pub(super) fn claimed(&mut self, mac: Mac, now: Instant) {
        let counts = match self.hold.filter(|h| h.held) {
            Some(h) => Claims::counts(h.gained, now),
            None => self.probing.is_some_and(|p| p.listens(now)),
        };
        if !counts {
            return;
        }
        if self.claims.is_news(mac, now) {
            self.report(Report::Claimed { mac });
        }
        // There is a schedule only while holding, and announcing.
        if let Some(schedule) = self.announcing.as_mut().filter(|_| self.claims.defend(now)) {
            schedule.hasten(now);
        }
    }

    pub(super) fn announce(&mut self, now: Instant) {
        self.reply_owed = false;
        self.announcing = self.set.announce.then(|| Schedule::announce(self.set.ipv6, now));
        self.watching = self.set.announce.then(|| Schedule::watch(now));
    }

    pub(super) fn frame_work(&mut self, now: Instant) -> Option<Next> {
        let due = |s: &&mut Schedule| s.due().is_some_and(|at| at <= now);
        if let Some(schedule) = self.announcing.as_mut().filter(|s| due(s)) {
            // The hold was checked by `next` in this very step.
            let reply = self.reply_owed;
            self.reply_owed = !reply && !self.set.ipv6;
            if reply || self.set.ipv6 {
                schedule.sent(now);
            }
            return Some(Next::Frame(if reply { frames::Kind::AnnounceReply } else { frames::Kind::Announce }));
        }
        self.watching.as_mut().filter(|s| due(s)).or(self.probing.as_mut().filter(|s| due(s))).map(|schedule| {
            schedule.sent(now);
            Next::Frame(frames::Kind::Probe)
        })
    }
}
