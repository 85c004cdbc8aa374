//! The keeper's decisions: what is wanted (orders, deadlines, signals) against what is observed (answers, dumps, link events).
//!
//! Pure: no clock, no file descriptor, no randomness. Whoever drives it feeds [`Input`]s, then calls [`Machine::next`] with a fresh `now` and
//! does what it says until it says `Wait`. `now` is read right before each step, so the deadline is checked before every address message
//! and every frame; and because the answer comes back as an input before the next step, after every kernel answer too.
//!
//! All waiting orders are fed before the next step: a keeper that was late itself acts on the newest order, not on the oldest.

mod fencing;
mod inout;
mod leaving;
mod speaking;

pub use inout::{FenceAct, Input, Next, STOP_TIME, Settings, lifetime_bound, lifetime_secs};

use super::announce::Schedule;
use super::rtnl::Change;
use super::{GoneWhy, Order, RefusedWhy, Report, Task, VoteKey};
use crate::sys::clock::Instant;
use fencing::Fencing;
use leaving::{KILL_TIME, MAX_DRAIN, Notices};
use speaking::Claims;
use std::collections::VecDeque;
use std::time::Duration;

/// Renewals come without a message: they are looked for when this part of the hold is left. A third is long enough for a late keeper, and
/// short enough that there are two heartbeats to a look (a hold is nearly four).
const LOOK: u32 = 3;
/// Pause before something the kernel refused is tried again.
const RETRY: Duration = Duration::from_millis(10);
/// Pause between two restorations of an address that somebody keeps removing.
const RESTORE_GAP: Duration = Duration::from_millis(50);
/// Dump without a hint: events can be lost without a trace.
const SWEEP: Duration = Duration::from_secs(10);
/// Least time between two `Trouble`.
const TROUBLE_GAP: Duration = Duration::from_secs(1);
/// A first add that meets EEXIST although a dump shows nothing is tried this often.
const ADD_TRIES: u8 = 5;
/// Reports that wait for a daemon that doesn't read; beyond, the oldest that is not `Gone` is dropped.
const REPORTS: usize = 16;

#[derive(Clone, Copy, Debug)]
struct Hold {
    vote: VoteKey,
    until: Instant,
    ordered: Instant,
    held: bool,
    gained: Instant, // when it was, if it is
    tries: u8,
}

#[derive(Clone, Copy, Debug)]
struct Ending {
    vote: VoteKey,
    why: GoneWhy,
    since: Instant,
}

#[derive(Clone, Copy, Debug)]
struct Seen {
    ours: bool,
    foreign: bool,
}

/// The keeper's mind. See the module's head for how to drive it.
#[derive(Debug)]
pub struct Machine {
    set: Settings,
    hold: Option<Hold>,
    ending: Option<Ending>,   // a hold that ended and whose `Gone` is owed
    spent: Option<VoteKey>,   // the newest vote whose hold ended
    refused: Option<VoteKey>, // the newest vote refused as spent or stopping: said once
    seen: Option<Seen>,       // None: unknown, never a reason to act
    hinted: bool,             // `seen` may be out of date
    busy: Option<Task>,       // asked of the kernel, not yet answered
    removed: bool,            // a removal was answered since the last dump
    lost: Option<Instant>,    // the hint behind a restoration
    renew_at: Instant,        // while held
    retry_at: Instant,        // nothing is asked of the kernel before
    restore_at: Instant,      // no restoration before
    sweep_at: Instant,
    announcing: Option<Schedule>,
    reply_owed: bool, // the request form went out, the reply form follows
    probing: Option<Schedule>,
    watching: Option<Schedule>, // a holder's own questions
    claims: Claims,
    fence: Fencing,
    notices: Notices,
    link: Option<(bool, bool)>, // present, up
    reports: VecDeque<Report>,
    blocked: bool,
    trouble_at: Instant,
    stop_at: Option<Instant>,
    killed: bool,
    closed: bool,
    ended: Option<Instant>,
}

impl Machine {
    /// Nothing wanted, nothing known.
    pub fn new(set: Settings) -> Self {
        let zero = Instant::default();
        Self {
            set,
            hold: None,
            ending: None,
            spent: None,
            refused: None,
            seen: None,
            hinted: false,
            busy: None,
            removed: false,
            lost: None,
            renew_at: zero,
            retry_at: zero,
            restore_at: zero,
            sweep_at: zero,
            announcing: None,
            reply_owed: false,
            probing: None,
            watching: None,
            claims: Claims::default(),
            fence: Fencing::default(),
            notices: Notices::default(),
            link: None,
            reports: VecDeque::with_capacity(REPORTS),
            blocked: false,
            trouble_at: zero,
            stop_at: None,
            killed: false,
            closed: false,
            ended: None,
        }
    }

    /// Whether the kernel acknowledged the address for the running hold.
    pub fn holds(&self) -> bool {
        self.hold.is_some_and(|h| h.held)
    }

    /// The end of the running hold, if it is under this vote.
    pub fn held_until(&self, vote: VoteKey) -> Option<Instant> {
        self.hold.filter(|h| h.vote == vote).map(|h| h.until)
    }

    /// Takes in what happened.
    pub fn input(&mut self, input: Input, now: Instant) {
        match input {
            Input::Order(Order::Hold { vote, until }) => self.order(vote, until, now),
            Input::Order(Order::LetGo { vote }) => self.let_go(vote, now),
            Input::Order(Order::Drain { time }) => self.set.drain = time.min(MAX_DRAIN),
            Input::Order(Order::Probe) => self.probing = Some(Schedule::probe(now)),
            Input::Answer(errno) => self.answered(errno, now),
            Input::Dump { ours, foreign } => self.dumped(Seen { ours, foreign }, now),
            Input::Fenced(errno) => self.fenced(errno, now),
            Input::FenceLost => self.trouble(Task::Fence, libc::ENOENT, now),
            Input::Hint => self.hint(now),
            Input::Link { present, up } => self.link_is(present, up, now),
            Input::Claim(mac) => self.claimed(mac, now),
            Input::Stop => self.stop(now),
            Input::DaemonClosed => self.daemon_closed(now),
            Input::DaemonEnded => {
                self.daemon_closed(now);
                self.ended.get_or_insert(now);
            }
            Input::Reported => drop(self.reports.pop_front()),
            Input::Blocked(true) => self.blocked = true,
            Input::Blocked(false) => self.unblocked(),
        }
    }

    /// The one next thing to do at `now`: fence and address before proof before frames before words.
    pub fn next(&mut self, now: Instant) -> Next {
        self.expire(now);
        let urgent = self.fence_work(now).or_else(|| self.address_work(now)).or_else(|| self.notice_work(now));
        let rest = urgent.or_else(|| self.frame_work(now)).or_else(|| self.talk()).or_else(|| self.unfence_work(now));
        rest.unwrap_or_else(|| self.end_work(now))
    }

    fn order(&mut self, vote: VoteKey, until: Instant, now: Instant) {
        let until = until.min(now + self.set.hold);
        if until <= now {
            return;
        }
        match &mut self.hold {
            Some(h) if h.vote == vote => {
                h.until = until;
                return self.fence_ordered(now);
            }
            _ => {}
        }
        let older = |known: VoteKey| vote == known || vote.term < known.term;
        if self.spent.is_some_and(older) || self.hold.is_some_and(|h| older(h.vote)) {
            return self.refuse_once(vote, RefusedWhy::Spent);
        }
        if self.stop_at.is_some() {
            return self.refuse_once(vote, RefusedWhy::Stopping);
        }
        self.end(GoneWhy::LetGo, now);
        self.fence.hold_begins();
        self.hold = Some(Hold { vote, until, ordered: now, held: false, gained: now, tries: 0 });
        if self.link.is_some_and(|(present, _)| !present) {
            self.refuse(RefusedWhy::LinkGone, now);
        }
    }

    /// `vote` may be one whose hold never reached us in time: it is answered for all the same, the daemon waits for that.
    fn let_go(&mut self, vote: VoteKey, now: Instant) {
        self.end(GoneWhy::LetGo, now);
        let newest = self.spent.filter(|spent| spent.term >= vote.term).unwrap_or(vote);
        self.spent = Some(newest);
        match &mut self.ending {
            Some(ending) => ending.vote = newest,
            None => {
                self.ending = Some(Ending { vote: newest, why: GoneWhy::LetGo, since: now });
                self.hinted = true;
            }
        }
    }

    /// Ends the running hold, if any: its vote is spent and `Gone` is owed. It replaces a `Gone` that was still owed.
    fn end(&mut self, why: GoneWhy, now: Instant) {
        let Some(h) = self.hold.take() else { return };
        self.spent = Some(h.vote);
        self.ending = Some(Ending { vote: h.vote, why, since: self.ending.map_or(now, |e| e.since) });
        self.hinted |= !self.seen.is_some_and(|s| s.ours);
        self.retry_at = now;
        (self.announcing, self.watching, self.reply_owed, self.lost) = (None, None, false, None);
        self.fence.hold_ended();
    }

    /// The daemon reads again. While it did not, older reports made room for newer ones, so what lasts is told once more.
    fn unblocked(&mut self) {
        self.blocked = false;
        self.tell_fence_again();
        if let Some((_, up)) = self.link {
            self.report(Report::Link { up });
        }
    }

    fn expire(&mut self, now: Instant) {
        if self.hold.is_some_and(|h| now >= h.until) {
            self.end(GoneWhy::Deadline, now);
        }
        if self.stop_at.is_some_and(|at| now >= at) {
            self.end(GoneWhy::Stopping, now);
        }
    }

    fn refuse(&mut self, why: RefusedWhy, now: Instant) {
        let Some(h) = self.hold else { return };
        self.report(Report::Refused { vote: h.vote, why });
        self.end(GoneWhy::Refused, now);
    }

    fn refuse_once(&mut self, vote: VoteKey, why: RefusedWhy) {
        if self.refused.replace(vote) != Some(vote) {
            self.report(Report::Refused { vote, why });
        }
    }

    fn address_work(&mut self, now: Instant) -> Option<Next> {
        if self.busy.is_some() || now < self.retry_at {
            return None;
        }
        let Some(seen) = self.seen.filter(|_| !self.hinted && now < self.sweep_at) else {
            (self.hinted, self.busy) = (false, Some(Task::Dump));
            return Some(Next::Dump);
        };
        if !seen.ours {
            let ended = self.ending.take();
            if let Some(Ending { vote, why, since }) = ended {
                self.report(Report::Gone { vote, why, took: now - since });
            }
            self.seen_gone(ended.map(|ending| ending.why), now);
        }
        let change = match self.hold {
            _ if self.ending.is_some() => Change::Remove,
            None if seen.ours => Change::Remove,
            None => return None,
            Some(h) => return self.hold_work(h, seen, now),
        };
        Some(self.ask(change))
    }

    fn hold_work(&mut self, h: Hold, seen: Seen, now: Instant) -> Option<Next> {
        match (seen.ours, seen.foreign, h.held) {
            (false, true, false) => self.refuse(RefusedWhy::Foreign, now),
            (false, true, true) => self.end(GoneWhy::Taken, now),
            (true, _, true) if now < self.renew_at => return None,
            (false, false, true) if now < self.restore_at => return None,
            (true, ..) => return self.behind_the_fence(h, Change::Renew, now),
            (false, false, _) => return self.behind_the_fence(h, Change::Add, now),
        }
        self.address_work(now)
    }

    /// The first address of a hold waits for the fence's answer, whatever that is.
    fn behind_the_fence(&mut self, h: Hold, change: Change, now: Instant) -> Option<Next> {
        let arm = if h.held { None } else { self.arm_if_due(h, now) };
        arm.or_else(|| Some(self.ask(change)))
    }

    fn ask(&mut self, change: Change) -> Next {
        self.busy = Some(match change {
            Change::Add => Task::Add,
            Change::Renew => Task::Renew,
            Change::Remove => Task::Remove,
        });
        Next::Change(change)
    }

    fn answered(&mut self, errno: i32, now: Instant) {
        let Some(task) = self.busy.take_if(|task| *task != Task::Fence) else { return };
        self.expire(now);
        match (task, errno) {
            (Task::Add | Task::Renew, 0) => self.present(now),
            (Task::Remove, _) => (self.seen, self.removed) = (None, true),
            (Task::Add, libc::EEXIST) => self.exists(now),
            _ => self.seen = None,
        }
        if errno == 0 || errno == libc::EEXIST || (task == Task::Remove && matches!(errno, libc::EADDRNOTAVAIL | libc::ENODEV))
        {
            return;
        }
        match task {
            Task::Add if !self.holds() => return self.refuse(RefusedWhy::Kernel(errno), now),
            Task::Add => self.restore_at = now + RESTORE_GAP,
            Task::Renew => self.renew_at = now + RESTORE_GAP,
            Task::Remove | Task::Dump => self.retry_at = now + RETRY,
            Task::Fence => {} // answered elsewhere
        }
        self.trouble(task, errno, now);
    }

    /// The kernel says that the address is there and ours.
    fn present(&mut self, now: Instant) {
        self.seen = Some(Seen { ours: true, foreign: self.seen.is_some_and(|s| s.foreign) });
        self.renew_at = now + Duration::from_secs(lifetime_secs(self.set.hold).into()) / 2;
        let Some(h) = &mut self.hold else { return };
        if !std::mem::replace(&mut h.held, true) {
            h.gained = now;
            let held = Report::Held { vote: h.vote, took: now - h.ordered };
            self.report(held);
            self.announce(now);
        } else if let Some(lost) = self.lost.take() {
            self.restore_at = now + RESTORE_GAP;
            self.report(Report::Restored { took: now - lost });
            self.announce(now);
        }
    }

    fn exists(&mut self, now: Instant) {
        self.seen = None;
        let Some(h) = &mut self.hold else { return };
        h.tries = h.tries.saturating_add(1);
        match (h.held, h.tries >= ADD_TRIES) {
            (false, true) => self.refuse(RefusedWhy::Kernel(libc::EEXIST), now),
            (true, true) => self.restore_at = now + RESTORE_GAP,
            _ => {}
        }
    }

    fn dumped(&mut self, seen: Seen, now: Instant) {
        self.busy = None;
        self.seen = Some(seen);
        self.sweep_at = now + SWEEP;
        if std::mem::take(&mut self.removed) && seen.ours {
            self.retry_at = now + RETRY; // the kernel said it removed it, and there it is
        }
        if seen.ours {
            self.lost = None;
        } else if self.holds() {
            self.lost.get_or_insert(now);
        }
    }

    fn hint(&mut self, now: Instant) {
        self.hinted = true;
        if self.holds() {
            self.lost.get_or_insert(now);
        }
    }

    fn link_is(&mut self, present: bool, up: bool, now: Instant) {
        let old = self.link.replace((present, up));
        if old.is_none_or(|(_, was)| was != up) {
            self.report(Report::Link { up });
            if up && self.holds() {
                self.announce(now); // the cable may be in another switch now
            }
        }
        if !present {
            self.end(GoneWhy::LinkGone, now);
        }
    }

    fn talk(&self) -> Option<Next> {
        self.reports.front().filter(|_| !self.blocked && !self.closed).map(|r| Next::Report(*r))
    }

    /// The earliest instant after `now` at which something has to be done without any input.
    fn wake(&self, now: Instant) -> Option<Instant> {
        let held = self.hold.filter(|h| h.held);
        let times = [
            self.hold.map(|h| h.until),
            self.hold.map(|h| h.until - self.set.hold / LOOK),
            held.map(|_| self.renew_at),
            held.map(|_| self.restore_at),
            Some(self.retry_at),
            Some(self.sweep_at),
            self.announcing.and_then(|s| s.due()),
            self.probing.and_then(|s| s.due()),
            self.watching.and_then(|s| s.due()),
            self.fence_wake(),
            self.notice_due(),
            self.stop_at,
            self.stop_at.map(|at| at + self.set.drain),
            self.stop_at.map(|at| at + self.set.drain + KILL_TIME),
            self.ended.map(|at| at + lifetime_bound(self.set.hold)),
        ];
        times.into_iter().flatten().filter(|at| *at > now).min()
    }

    fn trouble(&mut self, task: Task, errno: i32, now: Instant) {
        if now >= self.trouble_at {
            self.trouble_at = now + TROUBLE_GAP;
            self.report(Report::Trouble { task, errno });
        }
    }

    fn report(&mut self, report: Report) {
        if self.reports.len() >= REPORTS {
            let oldest = self.reports.iter().position(|r| !matches!(r, Report::Gone { .. })).unwrap_or(0);
            self.reports.remove(oldest);
        }
        self.reports.push_back(report);
    }
}

#[cfg(test)]
mod tests;
