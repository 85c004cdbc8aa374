//! The proof of release: which vote's secret goes to the peers, and when. Only ever a spent vote's, and only after a dump without the VIP.

use super::{Machine, Next};
use crate::sys::clock::Instant;
use crate::vip::{GoneWhy, VoteKey};
use std::time::Duration;

/// A datagram may be lost, and nothing says so: three are cheap.
const OFFSETS: [Duration; 3] = [Duration::ZERO, Duration::from_millis(5), Duration::from_millis(25)];

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
}
