//! A keeper's process: the product's own decisions ([`Machine`]) in a loop that asks the simulated kernel, waits for its answers
//! and can be stopped or killed at any point.

use super::clock::{Clock, MS, Time};
use super::kernel::{Ask, Event, Said};
use kube_vip::sys::clock::Instant;
use kube_vip::vip::fence::LEAST_MS;
use kube_vip::vip::state::{FenceAct, Input, Machine, Next, Settings};
use kube_vip::vip::{Order, Report, VoteKey, frames};
use std::collections::VecDeque;
use std::time::Duration;

/// Orders that fit into the socket before it is full.
const SOCKET: usize = 250;
/// `drain`, as it is where the configuration names none.
const DRAIN: Duration = Duration::from_secs(5);
/// How many messages of one kind are read before the others have their turn.
const TURN: usize = 64;

/// What it wants done by the world around.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Want {
    Kernel(Ask),
    Frame(frames::Kind),
    Report(Report),
    Notice(VoteKey),
    Kill,
    Exit {
        gone: bool,
    },
    /// To be woken then (true time).
    Wake(Time),
}

/// One run of one keeper.
pub struct Keeper {
    pub run: u64,
    machine: Machine,
    clock: Clock,
    orders: VecDeque<Order>,
    events: VecDeque<Event>,
    /// Said by the process itself: its daemon's end, signals, frames of others.
    signals: VecDeque<Input>,
    answer: Option<Said>,
    /// Inside a system call: nothing happens before its answer.
    pub in_call: bool,
    /// SIGKILL came inside a system call that waits for a lock of the kernel's: it dies when that is done, and not before is its end of
    /// the socket closed.
    pub dying: bool,
    /// SIGSTOP.
    pub paused: bool,
    blocked: bool,
    /// In the middle of `act`: it reads nothing before it has nothing more to do.
    acting: bool,
    /// When it last went on after a pause, or began.
    pub awake_since: Time,
    /// Planted: no deadline reaches the machine.
    pub forgets_deadlines: bool,
}

impl Keeper {
    pub fn new(run: u64, hold: Duration, clock: Clock, now: Time, link_up: bool, has_fence: bool) -> Self {
        let set = Settings { hold, announce: true, ipv6: false, notify: true, drain: DRAIN };
        let mut keeper = Self {
            run,
            machine: Machine::new(set),
            clock,
            orders: VecDeque::new(),
            events: VecDeque::new(),
            signals: VecDeque::new(),
            answer: None,
            in_call: false,
            dying: false,
            paused: false,
            blocked: false,
            acting: false,
            awake_since: now,
            forgets_deadlines: false,
        };
        let fenced = if has_fence { 0 } else { libc::EOPNOTSUPP };
        keeper.machine.input(Input::Fenced(fenced), clock.show(now));
        keeper.machine.input(Input::Link { present: true, up: link_up }, clock.show(now));
        keeper
    }

    /// An order comes in by the socket. Where that is full, the newest replaces the last.
    pub fn order(&mut self, order: Order) {
        if self.orders.len() >= SOCKET {
            self.orders.pop_back();
        }
        self.orders.push_back(order);
    }

    pub fn event(&mut self, event: Event) {
        self.events.push_back(event);
    }

    pub fn signal(&mut self, input: Input) {
        self.signals.push_back(input);
    }

    pub fn answered(&mut self, said: Said) {
        self.answer = Some(said);
        self.in_call = false;
    }

    /// Whether it can do anything now.
    pub fn runs(&self) -> bool {
        !self.paused && !self.in_call
    }

    /// Goes on until it has to wait for something: what it wants next. Call it again after each want but `Kernel` and `Wake`.
    pub fn step(&mut self, now: Time, link_up: bool) -> Want {
        let local = self.clock.show(now);
        match self.answer.take() {
            Some(Said::Errno(errno)) => self.machine.input(Input::Answer(errno), local),
            Some(Said::Fenced(errno)) => self.machine.input(Input::Fenced(errno), local),
            Some(Said::Dump { ours }) => self.machine.input(Input::Dump { ours, foreign: false }, local),
            Some(Said::Swept) | None => {}
        }
        loop {
            if !self.acting && self.read(local, link_up) {
                self.acting = true;
            }
            return match self.machine.next(local) {
                Next::Change(change) => self.call(Ask::Change(change)),
                Next::Dump => self.call(Ask::Dump),
                Next::Fence(FenceAct::Arm { until }) => self.call(Ask::Arm { time: self.time_until(until, local) }),
                Next::Fence(FenceAct::Clear) => self.call(Ask::Clear),
                Next::Notice { vote } => self.go_on(Want::Notice(vote)),
                Next::Frame(kind) => self.go_on(Want::Frame(kind)),
                Next::Report(report) => self.go_on(Want::Report(report)),
                Next::Kill => self.go_on(Want::Kill),
                Next::Exit { gone } => Want::Exit { gone },
                Next::Wait(_) if std::mem::take(&mut self.acting) => continue, // now it reads again
                Next::Wait(at) => Want::Wake(at.map_or(Time::MAX, |at| self.clock.when(at))),
            };
        }
    }

    /// As it is asked of the kernel: whole milliseconds, and none where they are too few to be exact.
    fn time_until(&self, until: Instant, local: Instant) -> Time {
        let ms = (until - local).as_millis() as u64;
        if ms < LEAST_MS { 0 } else { self.clock.span(ms * MS) }
    }

    fn go_on(&mut self, want: Want) -> Want {
        self.acting = true;
        want
    }

    fn call(&mut self, ask: Ask) -> Want {
        (self.in_call, self.acting) = (true, true);
        Want::Kernel(ask)
    }

    /// Events first, as the product does. True: there was something.
    fn read(&mut self, local: Instant, link_up: bool) -> bool {
        let mut any = false;
        while let Some(event) = self.events.pop_front() {
            any = true;
            match event {
                Event::Added if self.machine.holds() => {}
                Event::Added | Event::Gone => self.machine.input(Input::Hint, local),
                Event::Link => self.machine.input(Input::Link { present: true, up: link_up }, local),
            }
        }
        for _ in 0..TURN {
            let Some(order) = self.orders.pop_front() else { break };
            any = true;
            self.machine.input(Input::Order(self.understood(order)), local);
        }
        while let Some(input) = self.signals.pop_front() {
            any = true;
            self.machine.input(input, local);
        }
        any
    }

    fn understood(&self, order: Order) -> Order {
        match order {
            Order::Hold { vote, until } if self.forgets_deadlines => {
                Order::Hold { vote, until: until + Duration::from_secs(3600) }
            }
            order => order,
        }
    }

    /// The daemon's socket took a report.
    pub fn reported(&mut self, now: Time) {
        self.machine.input(Input::Reported, self.clock.show(now));
    }

    /// The daemon's socket is full, or has room again; told where that is news.
    pub fn blocked(&mut self, blocked: bool, now: Time) {
        if std::mem::replace(&mut self.blocked, blocked) != blocked {
            self.machine.input(Input::Blocked(blocked), self.clock.show(now));
        }
    }

    pub fn daemon_closed(&mut self, now: Time) {
        self.machine.input(Input::DaemonClosed, self.clock.show(now));
    }
}
