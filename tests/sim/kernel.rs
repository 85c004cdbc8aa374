//! One node's kernel, as far as the VIP goes: the address with its lifetime, the interface, the nf_tables fence, and the lock
//! (RTNL) that makes changes of addresses wait for each other. With the delays that were measured.

use super::clock::{Clock, MS, SEC, Time, US};
use super::hub::{Hub, What};
use kube_vip::vip::rtnl::Change;
use std::cell::Cell;
use std::collections::BTreeMap;
use std::rc::Rc;

/// What a process asks of the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ask {
    /// About the address.
    Change(Change),
    /// All addresses.
    Dump,
    /// The sweep of a starting keeper.
    Sweep,
    /// The VIP is guarded, and may be used for this long (true time).
    Arm { time: Time },
    /// It is guarded no more.
    Clear,
}

/// What it said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Said {
    /// 0 or an errno.
    Errno(i32),
    /// The same, of the fence.
    Fenced(i32),
    /// Whether the VIP is there.
    Dump { ours: bool },
    /// The sweep is over.
    Swept,
}

/// One operation under way. It is done also when its process is stopped or killed meanwhile.
#[derive(Clone, Copy, Debug)]
pub struct Operation {
    pub ask: Ask,
    /// The run of the keeper that waits for it.
    pub keeper: u64,
}

/// What a keeper is told by events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    Added,
    Gone,
    Link,
}

/// One boot of one node's kernel.
pub struct Kernel {
    hub: Rc<Hub>,
    node: usize,
    boot: u64,
    clock: Clock,
    /// Whether it has nf_tables.
    pub has_fence: bool,
    vip: bool,
    /// Counts changes of the lifetime: an older one ends nothing.
    lifetime: u64,
    fenced: bool,
    element: bool,
    elements: u64,
    pub link_up: bool,
    rtnl_free: Time,
    operations: BTreeMap<u64, Operation>,
    next: u64,
    /// For the daemon, which reads all addresses by itself.
    pub present: Rc<Cell<bool>>,
}

impl Kernel {
    pub fn new(hub: Rc<Hub>, node: usize, boot: u64, clock: Clock, has_fence: bool) -> Self {
        Self {
            hub,
            node,
            boot,
            clock,
            has_fence,
            vip: false,
            lifetime: 0,
            fenced: false,
            element: false,
            elements: 0,
            link_up: true,
            rtnl_free: 0,
            operations: BTreeMap::new(),
            next: 0,
            present: Rc::default(),
        }
    }

    /// Whether a question for the VIP is answered.
    pub fn answers(&self) -> bool {
        self.vip && self.link_up && (!self.fenced || self.element)
    }

    pub fn has_vip(&self) -> bool {
        self.vip
    }

    pub fn is_fenced(&self) -> bool {
        self.fenced
    }

    /// A driver holds the lock for this long.
    pub fn stall(&mut self, time: Time) {
        self.rtnl_free = self.rtnl_free.max(self.hub.now() + time);
    }

    /// Until when changes of addresses have to wait.
    pub fn stalled_until(&self) -> Time {
        self.rtnl_free
    }

    /// Begins an operation for this run of the keeper.
    pub fn ask(&mut self, ask: Ask, keeper: u64) {
        let mut rng = self.hub.rng();
        let long = rng.chance(0.02);
        let takes = if long { rng.within(MS, 6 * MS) } else { rng.spread(15 * US, 400 * US) };
        drop(rng);
        let at = match ask {
            Ask::Arm { .. } | Ask::Clear => self.hub.now() + takes,
            _ => {
                self.rtnl_free = self.rtnl_free.max(self.hub.now()) + takes;
                self.rtnl_free
            }
        };
        let op = self.next;
        self.next += 1;
        self.operations.insert(op, Operation { ask, keeper });
        self.hub.at(at, What::Kernel { node: self.node, boot: self.boot, op });
    }

    /// An operation takes effect.
    pub fn done(&mut self, op: u64) -> Option<(Operation, Said, Option<Event>)> {
        let operation = self.operations.remove(&op)?;
        let (said, event) = match operation.ask {
            Ask::Change(Change::Add) if self.vip => (Said::Errno(libc::EEXIST), None),
            Ask::Change(Change::Add | Change::Renew) => {
                let event = (!self.vip).then_some(Event::Added);
                self.put();
                (Said::Errno(0), event)
            }
            Ask::Change(Change::Remove) if !self.vip => (Said::Errno(libc::EADDRNOTAVAIL), None),
            Ask::Change(Change::Remove) => {
                self.take();
                (Said::Errno(0), Some(Event::Gone))
            }
            Ask::Dump => (Said::Dump { ours: self.vip }, None),
            Ask::Sweep => {
                self.take();
                self.clear();
                (Said::Swept, None)
            }
            Ask::Arm { .. } | Ask::Clear if !self.has_fence => (Said::Fenced(libc::EOPNOTSUPP), None),
            Ask::Arm { time } => {
                self.arm(time);
                (Said::Fenced(0), None)
            }
            Ask::Clear => {
                self.clear();
                (Said::Fenced(0), None)
            }
        };
        Some((operation, said, event))
    }

    /// Two seconds, and up to one and a half more; never early.
    fn put(&mut self) {
        self.set(true);
        let mut rng = self.hub.rng();
        let late = if rng.chance(0.2) { rng.within(0, 1500 * MS) } else { rng.within(0, 60 * MS) };
        drop(rng);
        let at = self.hub.now() + self.clock.span(2 * SEC) + late;
        self.hub.at(at, What::Lifetime { node: self.node, boot: self.boot, turn: self.lifetime });
    }

    fn take(&mut self) {
        self.set(false);
    }

    fn set(&mut self, vip: bool) {
        self.vip = vip;
        self.present.set(vip);
        self.lifetime += 1;
    }

    /// No time: what was armed before runs out.
    fn arm(&mut self, time: Time) {
        self.fenced = true;
        if time == 0 {
            return;
        }
        self.element = true;
        self.elements += 1;
        let late = self.hub.rng().within(0, 5 * MS);
        self.hub.after(time + late, What::Element { node: self.node, boot: self.boot, turn: self.elements });
    }

    /// Also at the start of a keeper: its table is made anew.
    fn clear(&mut self) {
        (self.fenced, self.element) = (false, false);
        self.elements += 1;
    }

    /// The lifetime ends; true: the address is gone with it. It takes the same lock.
    pub fn lifetime_ends(&mut self, turn: u64) -> bool {
        if turn != self.lifetime || !self.vip {
            return false;
        }
        if self.rtnl_free > self.hub.now() {
            self.hub.at(self.rtnl_free, What::Lifetime { node: self.node, boot: self.boot, turn });
            return false;
        }
        self.take();
        true
    }

    pub fn element_ends(&mut self, turn: u64) {
        if turn == self.elements {
            self.element = false;
        }
    }

    /// Somebody on this machine removes the address.
    pub fn somebody_removes(&mut self) -> bool {
        let was = self.vip;
        self.take();
        was
    }
}
