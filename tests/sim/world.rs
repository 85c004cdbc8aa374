//! One world: some nodes, a network, faults, and the checks; all of it follows from its setup.

use super::check::{Check, Violation};
use super::clock::{MS, SEC, Time};
use super::faults::Faults;
use super::host::Host;
use super::hub::{Hub, What};
use super::net::Net;
use super::rng::Rng;
use super::setup::{Planted, Setup};
use kube_vip::cluster::rules::planted::plant;
use std::collections::BTreeMap;
use std::path::Path;
use std::rc::Rc;

/// One world.
pub struct World {
    pub hub: Rc<Hub>,
    pub setup: Setup,
    pub hosts: Vec<Host>,
    pub net: Net,
    pub faults: Faults,
    pub check: Check,
    /// Everything counted, by name.
    pub counts: BTreeMap<&'static str, u64>,
}

/// What became of it.
pub struct Outcome {
    pub hash: u64,
    pub events: u64,
    pub simulated: Time,
    pub counts: BTreeMap<&'static str, u64>,
    /// The longest overlap that the rules allow, and the longest recovery.
    pub excused: Time,
    pub slowest: Time,
    pub failure: Option<Failure>,
}

/// A rule was broken.
pub struct Failure {
    pub at: Time,
    pub violation: Violation,
    pub nodes: Vec<String>,
    pub events: Vec<String>,
}

impl World {
    pub fn new(setup: Setup, root: &Path) -> Self {
        plant(setup.planted.and_then(Planted::inside));
        let mut rng = Rng::new(setup.seed);
        let hub = Hub::new(rng.fork());
        let hosts: Vec<Host> = (0..setup.nodes).map(|n| Host::new(&hub, n, &setup, root)).collect();
        let mut world = Self {
            net: Net::new(hub.clone()),
            faults: Faults::new(&setup, rng.fork()),
            check: Check::new(&setup),
            counts: BTreeMap::new(),
            hosts,
            hub,
            setup,
        };
        for node in 0..world.setup.nodes {
            let late = world.hub.rng().within(0, 2 * SEC);
            world.plan_unit(node, late);
        }
        let begins = if world.setup.directed { 0 } else { world.setup.recovery() };
        world.hub.at(begins, What::Phase); // or as soon as there is a holder
        world
    }

    /// Runs it to its end, or to the first broken rule.
    pub fn run(mut self) -> Outcome {
        while let Some(what) = self.hub.next(self.setup.length) {
            self.happen(what);
            self.judge();
            if self.check.violation.is_some() {
                break;
            }
        }
        let failure = self.check.violation.take().map(|violation| self.failure(violation));
        self.counts.insert("frames", self.net.sent);
        self.counts.insert("frames lost", self.net.lost);
        self.counts.insert("frames repeated", self.net.repeated);
        self.counts.insert("frames delayed", self.net.delayed);
        let record = self.hub.record.borrow();
        let (hash, events) = (record.hash, record.count);
        drop(record);
        let outcome = Outcome {
            hash,
            events,
            simulated: self.hub.now(),
            counts: std::mem::take(&mut self.counts),
            excused: self.check.excused,
            slowest: self.check.slowest,
            failure,
        };
        (0..self.hosts.len()).for_each(|node| self.bury(node));
        outcome
    }

    fn failure(&self, violation: Violation) -> Failure {
        Failure {
            at: self.hub.now(),
            violation,
            nodes: self.hosts.iter().map(Host::describe).collect(),
            events: self.hub.record.borrow().last().map(|noted| noted.to_string()).collect(),
        }
    }

    fn happen(&mut self, what: What) {
        match what {
            What::Timer(timer) => {
                let (node, run) = (timer.node, timer.run);
                if timer.fire() && self.is_run(node, run) {
                    self.run_daemon(node);
                }
            }
            What::Disk { node, run, job } => self.disk_done(node, run, job),
            What::Arrive(packet) => self.arrive(packet),
            What::Kernel { node, boot, op } => self.kernel_done(node, boot, op),
            What::Lifetime { node, boot, turn } => {
                let host = &mut self.hosts[node];
                if host.boot == boot && host.kernel.lifetime_ends(turn) {
                    self.hub.note(node, "lifetime ended", turn, 0);
                    self.kernel_event(node, super::kernel::Event::Gone);
                }
            }
            What::Element { node, boot, turn } => {
                let host = &mut self.hosts[node];
                if host.boot == boot {
                    host.kernel.element_ends(turn);
                    self.check.dirty = true;
                }
            }
            What::Keeper { node, run } => self.wake_keeper(node, run),
            What::Daemon { node, run } => {
                if self.is_run(node, run) {
                    self.run_daemon(node);
                }
            }
            What::Exec { node, run } => self.go_on_as_another(node, run),
            What::Unit { node, turn } => self.start_unit(node, turn),
            What::Fault => self.fault(),
            What::Heal(id) => self.heal(id),
            What::Deed(deed) => self.deed(deed),
            What::Phase => self.next_phase(),
        }
    }

    /// Whether this is the run of the daemon that lives now.
    pub fn is_run(&self, node: usize, run: u64) -> bool {
        self.hosts[node].daemon.as_ref().is_some_and(|d| d.run == run)
    }

    pub fn count(&mut self, what: &'static str) {
        *self.counts.entry(what).or_default() += 1;
    }

    /// All rules, after every step.
    fn judge(&mut self) {
        let now = self.hub.now();
        self.check.answers(now, &self.hosts);
        if let Some(since) = self.faults.calm_since {
            let healthy = &self.faults.healthy;
            self.check.recovers(now, since, &self.setup, &self.hosts, healthy);
        }
    }
}

/// A wake-up of a process takes this long.
pub fn latency(hub: &Hub) -> Time {
    let mut rng = hub.rng();
    if rng.chance(0.01) { rng.within(0, 2 * MS) } else { rng.within(5_000, 60_000) }
}
