//! What the tests drive the machine with: a small model of the kernel, and time that passes by hand.

use super::*;

pub(super) const HOLD: Duration = Duration::from_millis(190);
/// For a vote before all others: whatever is held ends.
pub(super) const LET_GO: Order = Order::LetGo { vote: VoteKey { term: 0, node: 0 } };
pub(super) const A: VoteKey = VoteKey { term: 1, node: 1 };
pub(super) const B: VoteKey = VoteKey { term: 2, node: 1 };
pub(super) const MAC: frames::Mac = [2, 0, 0, 0, 0, 9];

pub(super) fn at(ms: u64) -> Instant {
    Instant::from_nanos(1_000_000_000 + ms * 1_000_000)
}

pub(super) const SET: Settings = Settings { hold: HOLD, announce: false, ipv6: false, notify: false, drain: Duration::ZERO };

/// The fence's table: does the VIP need to be held, and until when is it.
#[derive(Default)]
pub(super) struct Kernel {
    pub(super) errno: i32,
    pub(super) failed: bool, // the last time
    pub(super) guarded: bool,
    pub(super) until: Option<Instant>,
}

impl Kernel {
    pub(super) fn tell(&mut self, act: FenceAct) -> i32 {
        self.failed = self.errno != 0;
        if !self.failed {
            (self.guarded, self.until) = match act {
                FenceAct::Arm { until } => (true, Some(until)),
                FenceAct::Clear => (false, None),
            };
        }
        self.errno
    }

    pub(super) fn is_open(&self, now: Instant) -> bool {
        !self.guarded || self.until.is_some_and(|until| now < until)
    }
}

/// The kernel as the machine sees it, and everything that came out.
pub(super) struct World {
    pub(super) m: Machine,
    pub(super) ours: bool,
    pub(super) foreign: bool,
    pub(super) errno: i32,     // what the next changes are answered with
    pub(super) slow: Duration, // how long each change takes
    pub(super) now: Instant,
    pub(super) reports: Vec<Report>,
    pub(super) changes: Vec<(Change, Instant)>,
    pub(super) fence: Kernel,
    pub(super) fences: Vec<(FenceAct, Instant)>,
    pub(super) notices: Vec<(VoteKey, Instant)>,
    pub(super) frames: Vec<frames::Kind>,
    pub(super) killed: bool,
    pub(super) exit: Option<bool>,
    pub(super) wake: Option<Instant>,
}

impl World {
    pub(super) fn new(announce: bool) -> Self {
        Self::with(Settings { announce, ..SET })
    }

    pub(super) fn with(set: Settings) -> Self {
        let m = Machine::new(set);
        let mut w = Self {
            m,
            ours: false,
            foreign: false,
            errno: 0,
            slow: Duration::ZERO,
            now: at(0),
            reports: vec![],
            changes: vec![],
            fence: Kernel::default(),
            fences: vec![],
            notices: vec![],
            frames: vec![],
            killed: false,
            exit: None,
            wake: None,
        };
        w.tell(Input::Fenced(0));
        w.tell(Input::Link { present: true, up: true });
        assert_eq!(w.said(), [Report::Fence { errno: 0 }, Report::Link { up: true }]);
        w
    }

    pub(super) fn tell(&mut self, input: Input) {
        self.m.input(input, self.now);
        self.turn();
    }

    pub(super) fn order(&mut self, vote: VoteKey, until: u64) {
        self.tell(Input::Order(Order::Hold { vote, until: at(until) }));
    }

    pub(super) fn turn(&mut self) {
        for _ in 0..1000 {
            let next = self.m.next(self.now);
            if matches!(next, Next::Change(Change::Add | Change::Renew) | Next::Frame(frames::Kind::Announce)) {
                assert!(self.m.hold.is_some_and(|h| self.now < h.until), "{next:?} without a running hold");
            }
            if let Next::Change(Change::Add) = next {
                let known = self.fence.failed || self.fence.errno != 0;
                assert!(self.fence.guarded || known, "added without a fence");
            }
            match next {
                Next::Fence(act) => {
                    self.fences.push((act, self.now));
                    match act {
                        FenceAct::Arm { until } => assert_eq!(self.m.hold.map(|h| h.until), Some(until)),
                        FenceAct::Clear => assert!(!self.ours || self.fence.failed, "cleared while the address is there"),
                    }
                    let errno = self.fence.tell(act);
                    self.m.input(Input::Fenced(errno), self.now);
                }
                Next::Notice { vote } => {
                    let newer = self.m.hold.is_some_and(|h| h.vote != vote);
                    assert!(newer || (!self.ours && self.m.hold.is_none()), "a proof of what is not so");
                    self.notices.push((vote, self.now));
                }
                Next::Change(change) => {
                    self.changes.push((change, self.now));
                    self.now += self.slow;
                    let errno = self.kernel(change);
                    self.m.input(Input::Answer(errno), self.now);
                }
                Next::Dump => self.m.input(Input::Dump { ours: self.ours, foreign: self.foreign }, self.now),
                Next::Frame(kind) => self.frames.push(kind),
                Next::Report(r) => {
                    self.reports.push(r);
                    self.m.input(Input::Reported, self.now);
                }
                Next::Kill => self.killed = true,
                Next::Exit { gone } => return self.exit = Some(gone),
                Next::Wait(wake) => {
                    assert!(wake.is_none_or(|t| t > self.now), "a wake-up in the past would spin");
                    return self.wake = wake;
                }
            }
        }
        panic!("the machine never rests: {:?}", self.m);
    }

    pub(super) fn kernel(&mut self, change: Change) -> i32 {
        match (self.errno, change) {
            (0, Change::Add) if self.ours => libc::EEXIST,
            (0, Change::Add | Change::Renew) => {
                self.ours = true;
                0
            }
            (0, Change::Remove) => {
                if std::mem::take(&mut self.ours) {
                    0
                } else {
                    libc::EADDRNOTAVAIL
                }
            }
            (errno, _) => errno,
        }
    }

    /// Lets time pass, waking only when the machine asked for it.
    pub(super) fn until(&mut self, ms: u64) {
        while let Some(wake) = self.wake.filter(|t| *t <= at(ms) && self.exit.is_none()) {
            self.now = wake;
            self.turn();
        }
        self.now = self.now.max(at(ms));
    }

    pub(super) fn said(&mut self) -> Vec<Report> {
        std::mem::take(&mut self.reports)
    }

    pub(super) fn did(&mut self) -> Vec<Change> {
        std::mem::take(&mut self.changes).into_iter().map(|(c, _)| c).collect()
    }
}

pub(super) fn gone(vote: VoteKey, why: GoneWhy) -> Report {
    Report::Gone { vote, why, took: Duration::ZERO }
}

pub(super) fn held(vote: VoteKey) -> Report {
    Report::Held { vote, took: Duration::ZERO }
}

pub(super) fn refused(vote: VoteKey, why: RefusedWhy) -> Report {
    Report::Refused { vote, why }
}
