//! One machine: its kernel, its disk, the unit with keeper and daemon.

use super::clock::{Clock, SEC, Time};
use super::daemon::{Daemon, Exec, address};
use super::disk::Disk;
use super::hub::Hub;
use super::keeper::Keeper;
use super::kernel::Kernel;
use super::setup::Setup;
use kube_vip::config::{Config, Overrides, judge};
use kube_vip::release::Key;
use std::path::{Path, PathBuf};
use std::rc::Rc;

/// One machine.
pub struct Host {
    pub index: usize,
    pub clock: Clock,
    pub boot: u64,
    pub powered: bool,
    pub kernel: Kernel,
    pub disk: Disk,
    pub keeper: Option<Keeper>,
    /// When the keeper is to be woken, so that it is woken once.
    pub keeper_wake: Time,
    pub daemon: Option<Daemon>,
    /// Between two programs of it.
    pub exec: Option<Exec>,
    /// When the daemon last went on after a pause, or began.
    pub daemon_awake: Time,
    /// Counts starts of the unit that were planned.
    pub unit: u64,
    /// A start is under way: this run's keeper sweeps.
    pub starting: Option<u64>,
    pub runs: u64,
    /// Its configuration has another lease than the others'.
    pub other_timing: bool,
    /// Its disk was new, and it was not seen to take part since.
    pub fresh: bool,
    pub key: Key,
    root: PathBuf,
}

impl Host {
    pub fn new(hub: &Rc<Hub>, index: usize, setup: &Setup, root: &Path) -> Self {
        let clock = Self::new_clock(hub, setup);
        Self {
            index,
            clock,
            boot: 0,
            powered: true,
            kernel: Kernel::new(hub.clone(), index, 0, clock, setup.fenced[index]),
            disk: Disk::new(root.join(format!("node{}", index + 1))),
            keeper: None,
            keeper_wake: Time::MAX,
            daemon: None,
            exec: None,
            daemon_awake: 0,
            unit: 0,
            starting: None,
            runs: 0,
            other_timing: false,
            fresh: false,
            key: Key::from_bytes([0; 32]),
            root: root.to_path_buf(),
        }
    }

    fn new_clock(hub: &Rc<Hub>, setup: &Setup) -> Clock {
        let mut rng = hub.rng();
        let off = if rng.chance(0.3) { setup.skew } else { rng.below(setup.skew + 1) };
        let rate = if rng.chance(0.5) { 1_000_000 + off } else { 1_000_000 - off };
        Clock::new(hub.now(), rng.spread(5 * SEC, 1_000_000 * SEC), rate)
    }

    /// The power comes back: another kernel, another clock.
    pub fn boots(&mut self, hub: &Rc<Hub>, setup: &Setup) {
        self.boot += 1;
        self.clock = Self::new_clock(hub, setup);
        self.kernel = Kernel::new(hub.clone(), self.index, self.boot, self.clock, setup.fenced[self.index]);
        self.powered = true;
    }

    /// Its configuration, out of the same file as on every node.
    pub fn config(&self, setup: &Setup) -> Config {
        let (heartbeat, lease) = if self.other_timing { (setup.heartbeat_ms * 2, setup.lease_ms * 2) } else { setup.timing() };
        let peer = |n: usize| format!("id: server{}\n  address: {}\n  port: 10000\n", n + 1, address(n));
        let remotes: String = (0..setup.nodes).filter(|n| *n != self.index).map(|n| format!("- {}", peer(n))).collect();
        let text = format!(
            "localPeer:\n  {}remotePeers:\n{remotes}vip: 10.0.0.100\ninterface: eth0\ngratuitousARP: true\nstateDir: {}\n\
             timing: {{heartbeat: {heartbeat}ms, lease: {lease}ms}}\n{}",
            peer(self.index),
            self.disk.path.display(),
            setup.keys
        );
        let draft = judge(&self.root.join("config.yaml"), &text, &Overrides::default()).expect("a sound configuration");
        draft.resolve(&[address(self.index)], None).expect("this node's configuration").config
    }

    /// Whether an answer of this machine would reach anybody on its segment.
    pub fn answers(&self) -> bool {
        self.powered && self.kernel.answers()
    }

    /// Whether nothing of its unit runs.
    pub fn is_idle(&self) -> bool {
        self.keeper.is_none() && self.daemon.is_none() && self.exec.is_none() && self.starting.is_none()
    }

    /// Its state in one line.
    pub fn describe(&self) -> String {
        let keeper = match &self.keeper {
            None => "none".to_string(),
            Some(k) => format!("{}{}", if k.paused { "stopped " } else { "" }, if k.in_call { "in call" } else { "runs" }),
        };
        let daemon = match &self.daemon {
            None if self.exec.is_some() => "between two programs".to_string(),
            None => "none".to_string(),
            Some(d) if d.paused => "stopped".to_string(),
            Some(d) => d.describe(),
        };
        format!(
            "node{}: {}, keeper {keeper}, daemon {daemon}; vip {}, link {}, fence {}, answers {}; clock {:+} ppm",
            self.index + 1,
            if self.powered { "on" } else { "off" },
            if self.kernel.has_vip() { "there" } else { "absent" },
            if self.kernel.link_up { "up" } else { "down" },
            if self.kernel.is_fenced() { "armed" } else { "none" },
            self.answers(),
            self.clock.rate() as i64 - 1_000_000
        )
    }
}
