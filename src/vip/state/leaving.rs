//! How it ends: the daemon's last seconds, and the proof of release, which is only ever a spent vote's secret, and only after a dump
//! without the VIP.

use super::{Machine, Next, STOP_TIME, lifetime_bound};
use crate::sys::clock::Instant;
use crate::vip::{GoneWhy, Report, VoteKey};
use std::time::Duration;

/// A datagram may be lost, and nothing says so: three are cheap.
const OFFSETS: [Duration; 3] = [Duration::ZERO, Duration::from_millis(5), Duration::from_millis(25)];

/// No daemon is waited for longer, whatever it says: the most that a configuration may name.
pub(super) const MAX_DRAIN: Duration = Duration::from_secs(60);
/// A killed daemon that is still not reaped after this counts as ended: the service manager ends what is left.
pub(super) const KILL_TIME: Duration = Duration::from_secs(1);

#[derive(Debug, Default)]
pub(super) struct Notices {
    owed: bool, // the daemon ended: whatever it held or handed over, its peers get the proof
    running: Option<Sending>,
}

#[derive(Clone, Copy, Debug)]
struct Sending {
    vote: VoteKey,
    start: Instant,
    sent: usize,
}

impl Sending {
    fn due(&self) -> Option<Instant> {
        OFFSETS.get(self.sent).map(|offset| self.start + *offset)
    }
}

impl Machine {
    /// The daemon can't hand over any more.
    pub(super) fn owe_notice(&mut self) {
        self.notices.owed = self.set.notify;
    }

    /// The VIP was just seen gone (and nothing about it is owed): tell the peers, unless the daemon does so itself.
    pub(super) fn seen_gone(&mut self, ended: Option<GoneWhy>, now: Instant) {
        let alone = ended.is_some_and(|why| why != GoneWhy::LetGo) && self.set.notify;
        let owed = std::mem::take(&mut self.notices.owed);
        // A hold that runs has a vote of its own, which is never the spent one.
        if let Some(vote) = self.spent.filter(|_| alone || owed) {
            self.notices.running = Some(Sending { vote, start: now, sent: 0 });
        }
    }

    pub(super) fn notice_work(&mut self, now: Instant) -> Option<Next> {
        let sending = self.notices.running.as_mut()?;
        if now < sending.due()? {
            return None;
        }
        sending.sent += 1;
        let vote = sending.vote;
        self.notices.running = self.notices.running.filter(|s| s.due().is_some());
        Some(Next::Notice { vote })
    }

    /// When the next repetition is due; `None`: nothing is left to send.
    pub(super) fn notice_due(&self) -> Option<Instant> {
        self.notices.running.and_then(|s| s.due())
    }

    pub(super) fn stop(&mut self, now: Instant) {
        self.stop_at.get_or_insert(now + STOP_TIME);
        self.report(Report::Stopping); // each time: told twice, the daemon stops draining
    }

    pub(super) fn daemon_closed(&mut self, now: Instant) {
        if !std::mem::replace(&mut self.closed, true) {
            self.owe_notice();
        }
        self.stop_at.get_or_insert(now + STOP_TIME);
        self.end(GoneWhy::LetGo, now);
        self.hinted = true; // exit only on a dump that is newer than this
    }

    pub(super) fn end_work(&mut self, now: Instant) -> Next {
        let kill_at = self.stop_at.map(|at| at + self.set.drain);
        if self.killed && kill_at.is_some_and(|at| now >= at + KILL_TIME) {
            self.ended.get_or_insert(now);
        }
        if let Some(ended) = self.ended {
            let known = self.busy.is_none() && !self.hinted && self.ending.is_none();
            let gone = known && self.seen.is_some_and(|s| !s.ours);
            if (gone && self.notice_due().is_none()) || now >= ended + lifetime_bound(self.set.hold) {
                return Next::Exit { gone };
            }
        } else if kill_at.is_some_and(|at| now >= at) && !std::mem::replace(&mut self.killed, true) {
            return Next::Kill;
        }
        Next::Wait(self.wake(now))
    }
}
