//! What all parts of one simulated world share: true time, the one queue of what is to come, and the record of what was.

use super::clock::Time;
use super::env::{Done, Timer};
use super::episodes::Deed;
use super::net::Packet;
use super::rng::Rng;
use kube_vip::cluster::runtime::Job;
use kube_vip::vip::Order;
use std::cell::{Cell, RefCell};
use std::cmp::Ordering;
use std::collections::{BinaryHeap, VecDeque};
use std::rc::Rc;

/// What comes at its time.
pub enum What {
    /// A sleep of a daemon's task ends.
    Timer(Rc<Timer>),
    /// A disk job of this daemon is due.
    Disk { node: usize, run: u64, job: u64 },
    /// A frame or datagram arrives.
    Arrive(Packet),
    /// A kernel operation takes effect.
    Kernel { node: usize, boot: u64, op: u64 },
    /// The kernel ends the address by its lifetime.
    Lifetime { node: usize, boot: u64, turn: u64 },
    /// A fence element ends.
    Element { node: usize, boot: u64, turn: u64 },
    /// The keeper has something to do.
    Keeper { node: usize, run: u64 },
    /// The daemon's process is to be looked after: orders for it, or it goes on after a pause.
    Daemon { node: usize, run: u64 },
    /// The daemon's next program begins.
    Exec { node: usize, run: u64 },
    /// systemd starts the unit.
    Unit { node: usize, turn: u64 },
    /// The next fault.
    Fault,
    /// A fault ends.
    Heal(u64),
    /// The next deed of an episode.
    Deed(Deed),
    /// The faults end, or begin again.
    Phase,
}

struct Entry {
    at: Time,
    turn: u64,
    what: What,
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}
impl Eq for Entry {}
impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Entry {
    /// Earliest first; what was planned first where times are equal.
    fn cmp(&self, other: &Self) -> Ordering {
        (other.at, other.turn).cmp(&(self.at, self.turn))
    }
}

/// What a daemon's tasks did to the world; looked after when its executor is idle.
pub enum Effect {
    Order(Order),
    Frame { to: usize, line: u64, bytes: Vec<u8> },
    Reply { to: usize, line: u64, bytes: Vec<u8> },
    Dial { to: usize, line: u64, bytes: Vec<u8> },
    Greet { to: usize, line: u64, bytes: Vec<u8>, welcome: bool },
    Disk { job: Job, done: Rc<Done> },
    Exit(Result<(), String>),
}

/// Shared by all parts.
pub struct Hub {
    now: Cell<Time>,
    turn: Cell<u64>,
    lines: Cell<u64>,
    queue: RefCell<BinaryHeap<Entry>>,
    pub effects: RefCell<VecDeque<(usize, u64, Effect)>>,
    pub rng: RefCell<Rng>,
    pub record: RefCell<Record>,
    /// Whose tasks run now.
    pub node: Cell<Option<usize>>,
}

/// A time as it is printed, in ms.
pub fn stamp(at: Time) -> String {
    format!("{:>9}.{:03}", at / 1_000_000, at / 1_000 % 1_000)
}

impl Hub {
    pub fn new(rng: Rng) -> Rc<Self> {
        Rc::new(Self {
            now: Cell::new(0),
            turn: Cell::new(0),
            lines: Cell::new(0),
            queue: RefCell::default(),
            effects: RefCell::default(),
            rng: RefCell::new(rng),
            record: RefCell::default(),
            node: Cell::new(None),
        })
    }

    pub fn now(&self) -> Time {
        self.now.get()
    }

    /// A number for a new connection.
    pub fn new_line(&self) -> u64 {
        self.lines.set(self.lines.get() + 1);
        self.lines.get()
    }

    pub fn at(&self, at: Time, what: What) {
        let turn = self.turn.get();
        self.turn.set(turn + 1);
        self.queue.borrow_mut().push(Entry { at: at.max(self.now()), turn, what });
    }

    pub fn after(&self, delay: Time, what: What) {
        self.at(self.now().saturating_add(delay), what);
    }

    /// The next thing, if it comes before `end`; time has moved to it.
    pub fn next(&self, end: Time) -> Option<What> {
        let mut queue = self.queue.borrow_mut();
        if queue.peek()?.at > end {
            return None;
        }
        let entry = queue.pop()?;
        self.now.set(entry.at);
        Some(entry.what)
    }

    pub fn rng(&self) -> std::cell::RefMut<'_, Rng> {
        self.rng.borrow_mut()
    }

    /// Notes what happened: for the hash of all events, and the last ones for a failure.
    pub fn note(&self, node: usize, what: &'static str, a: u64, b: u64) {
        self.record.borrow_mut().note(self.now(), node, what, a, b);
    }
}

/// What was noted.
#[derive(Clone, Copy)]
pub struct Noted {
    pub at: Time,
    pub node: usize,
    pub what: &'static str,
    pub a: u64,
    pub b: u64,
}

/// The record of one run.
#[derive(Default)]
pub struct Record {
    pub hash: u64,
    pub count: u64,
    last: VecDeque<Noted>,
    /// Print each event as it comes, from this time on.
    pub print_from: Option<Time>,
}

const KEPT: usize = 120;

impl Record {
    fn note(&mut self, at: Time, node: usize, what: &'static str, a: u64, b: u64) {
        let mut hash = self.hash ^ at;
        for part in [node as u64, what.len() as u64, u64::from(what.as_bytes()[0]), a, b] {
            hash = (hash ^ part).wrapping_mul(0x0000_0100_0000_01b3).rotate_left(23);
        }
        (self.hash, self.count) = (hash, self.count + 1);
        let noted = Noted { at, node, what, a, b };
        if self.prints(at) {
            println!("{noted}");
        }
        if a != QUIET {
            if self.last.len() >= KEPT {
                self.last.pop_front();
            }
            self.last.push_back(noted);
        }
    }

    /// Whether what happens then is printed.
    pub fn prints(&self, at: Time) -> bool {
        self.print_from.is_some_and(|from| at >= from)
    }

    pub fn last(&self) -> impl Iterator<Item = &Noted> {
        self.last.iter()
    }
}

/// As `a` of a note that is too frequent to be kept.
pub const QUIET: u64 = u64::MAX;

impl std::fmt::Display for Noted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ", stamp(self.at))?;
        match self.node {
            usize::MAX => write!(f, "      ")?,
            node => write!(f, "node{} ", node + 1)?,
        }
        match self.a {
            QUIET => write!(f, "{} {}", self.what, self.b),
            a => write!(f, "{} {a} {}", self.what, self.b),
        }
    }
}
