//! What goes wrong: faults by weight, out of the seed, for a while each; and calm times between, in which a holder must be found.

use super::clock::{MS, SEC, Time};
use super::daemon::Daemon;
use super::episodes;
use super::hub::What;
use super::net::Trouble;
use super::rng::Rng;
use super::setup::Setup;
use super::world::World;
use kube_vip::cluster::NodeId;
use kube_vip::release::Key;
use kube_vip::vip::state::Input;
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

/// A fault that lasts.
#[derive(Clone, Debug)]
enum Lasting {
    Net,
    Off { node: usize },
    Stopped { node: usize, daemon: bool, keeper: bool },
    LinkDown { node: usize },
    OtherTiming { node: usize },
}

/// The daemon goes on as another program: no fault, but a node that is away for a while and must have forgotten nothing.
pub const UPGRADE: &str = "upgrade";

/// Which faults there are, how often each comes.
const WEIGHTS: [(&str, u64); 31] = [
    ("loss", 4),
    ("delay", 5),
    ("repetition", 3),
    ("one-way cut", 6),
    ("partition", 5),
    ("node cut off", 4),
    ("power cut", 6),
    ("power cut, disk lost", 2),
    ("power cut everywhere", 1),
    ("daemon stopped", 6),
    ("keeper stopped", 5),
    ("both stopped", 6),
    ("daemon killed", 6),
    ("keeper killed", 5),
    ("both killed", 5),
    ("disk stall", 5),
    ("address changes stall", 4),
    ("SIGTERM", 5),
    (UPGRADE, 8),
    ("hand-over", 5),
    ("carrier lost", 5),
    ("VIP removed by somebody", 2),
    ("transfers' votes late", 3),
    ("proofs late", 3),
    ("forged proof", 2),
    ("old proof repeated", 2),
    ("another lease", 1),
    (episodes::HELD_BACK, 2),
    (episodes::RESTART, 2),
    (episodes::FREEZE, 2),
    (episodes::UPGRADE, 2),
];

/// The faults under way.
pub struct Faults {
    pub rng: Rng,
    active: BTreeMap<u64, Lasting>,
    next: u64,
    /// Since when nothing more goes wrong, with whom nothing is wrong.
    pub calm_since: Option<Time>,
    pub healthy: Vec<bool>,
    /// The last proofs of release that were sent.
    pub proofs: VecDeque<(usize, Rc<[u8]>)>,
    /// The mean pause between two faults.
    pause: Time,
    /// Until when the last episode takes.
    pub busy_until: Time,
}

impl Faults {
    pub fn new(setup: &Setup, rng: Rng) -> Self {
        Self {
            rng,
            active: BTreeMap::new(),
            next: 0,
            calm_since: Some(0),
            healthy: vec![true; setup.nodes],
            proofs: VecDeque::new(),
            pause: SEC,
            busy_until: 0,
        }
    }

    fn choose(&mut self, setup: &Setup) -> &'static str {
        if !setup.focus.is_empty() && (setup.directed || self.rng.chance(0.8)) {
            return self.rng.pick::<&str>(setup.focus);
        }
        let all: u64 = WEIGHTS.iter().map(|(_, weight)| weight).sum();
        let mut at = self.rng.below(all);
        for (name, weight) in WEIGHTS {
            match at.checked_sub(weight) {
                Some(rest) => at = rest,
                None => return name,
            }
        }
        WEIGHTS[0].0
    }
}

impl World {
    /// Calm ends where there is a holder; faults end after their time.
    pub fn next_phase(&mut self) {
        if self.setup.peaceful {
            return;
        }
        if self.faults.calm_since.is_none() {
            return self.calm();
        }
        let held = self.hosts.iter().any(|h| h.answers());
        if !held {
            return self.hub.after(500 * MS, What::Phase);
        }
        self.note_rejoined();
        self.faults.calm_since = None;
        let paces = if self.setup.focus.is_empty() { (150 * MS, 3 * SEC) } else { (400 * MS, 900 * MS) };
        self.faults.pause = self.faults.rng.spread(paces.0, paces.1);
        let length = self.faults.rng.within(5 * SEC, 40 * SEC);
        self.hub.note(usize::MAX, "faults begin", length / MS, 0);
        self.hub.after(length, What::Phase);
        self.hub.after(0, What::Fault);
    }

    /// Everything is well again, but for a minority at times.
    fn calm(&mut self) {
        let ids: Vec<u64> = self.faults.active.keys().copied().collect();
        ids.into_iter().for_each(|id| self.heal(id));
        self.faults.healthy.fill(true);
        let now = self.hub.now();
        self.faults.calm_since = Some(now);
        self.check.calm(now);
        self.hub.note(usize::MAX, "calm begins", 0, 0);
        if !self.setup.directed && self.faults.rng.chance(0.4) {
            for _ in 0..self.faults.rng.within(1, (self.setup.nodes as u64 - 1) / 2) {
                self.break_one_for_good();
            }
        }
        self.hub.after(self.faults.rng.within(SEC, 6 * SEC), What::Phase);
    }

    fn break_one_for_good(&mut self) {
        let node = self.node();
        if !self.faults.healthy[node] {
            return;
        }
        self.faults.healthy[node] = false;
        match self.faults.rng.below(5) {
            0 => self.trouble(Trouble::Alone { node }, Time::MAX),
            1 => self.link_down(node, Time::MAX),
            2 => self.stop(node, true, true, Time::MAX),
            3 => self.stop(node, true, false, Time::MAX),
            _ => drop(self.off(node, Time::MAX)),
        }
    }

    fn note_rejoined(&mut self) {
        for node in 0..self.hosts.len() {
            let joined = self.faults.healthy[node] && self.hosts[node].daemon.as_ref().is_some_and(|d| d.takes_part());
            if joined {
                self.hosts[node].fresh = false;
            }
        }
    }

    fn node(&mut self) -> usize {
        // Faults of the holder are the interesting ones.
        let holder = self.hosts.iter().position(|h| h.answers());
        match holder {
            Some(node) if self.faults.rng.chance(0.35) => node,
            _ => self.faults.rng.below(self.hosts.len() as u64) as usize,
        }
    }

    /// One more fault.
    pub fn fault(&mut self) {
        if self.faults.calm_since.is_some() {
            return;
        }
        let name = self.faults.choose(&self.setup);
        if self.inflict(name) {
            self.count(name);
            self.hub.note(usize::MAX, name, 0, 0);
        }
        let pause = self.faults.rng.spread(self.faults.pause / 10, self.faults.pause * 2);
        let busy = if self.setup.directed { self.faults.busy_until.saturating_sub(self.hub.now()) } else { 0 };
        self.hub.after(busy + pause, What::Fault);
    }

    fn lasts(&mut self, low: Time, high: Time) -> Time {
        self.faults.rng.spread(low, high)
    }

    fn inflict(&mut self, name: &str) -> bool {
        let node = self.node();
        let (short, mut long) = (self.lasts(10 * MS, 8 * SEC), self.lasts(200 * MS, 15 * SEC));
        if !self.setup.focus.is_empty() && !name.contains("cut") {
            long = long.min(self.faults.rng.within(100 * MS, SEC)); // a cluster that is down breaks no rule
        }
        match name {
            "loss" => {
                let part = self.faults.rng.unit() * 0.6;
                self.trouble(Trouble::Loss { part }, long);
            }
            "delay" => {
                let upto = self.faults.rng.spread(MS, 500 * MS);
                let from = self.faults.rng.chance(0.5).then_some(node);
                self.trouble(Trouble::Delay { from, upto }, long);
            }
            "repetition" => {
                let part = self.faults.rng.unit() * 0.5;
                self.trouble(Trouble::Repeat { part }, long);
            }
            "one-way cut" => {
                let to = self.faults.rng.below(self.hosts.len() as u64) as usize;
                self.trouble(Trouble::Cut { from: node, to }, long);
            }
            "partition" => {
                let sides = (0..self.hosts.len()).map(|_| self.faults.rng.chance(0.5)).collect();
                self.trouble(Trouble::Partition { sides }, long);
            }
            "node cut off" => self.trouble(Trouble::Alone { node }, long),
            "power cut" => return self.off(node, short) == Some(()),
            "power cut, disk lost" => return self.lose_disk(node, short),
            "power cut everywhere" => {
                for node in 0..self.hosts.len() {
                    let short = self.lasts(10 * MS, 5 * SEC);
                    self.off(node, short);
                }
            }
            "daemon stopped" => self.stop(node, true, false, short),
            "keeper stopped" => self.stop(node, false, true, short),
            "both stopped" => self.stop(node, true, true, short),
            "daemon killed" => self.kill_daemon(node),
            "keeper killed" => self.end_keeper_if_any(node),
            "both killed" => {
                self.end_keeper_if_any(node);
                self.kill_daemon(node);
            }
            "disk stall" => self.hosts[node].disk.stalled_until = self.hub.now() + long,
            "address changes stall" => self.hosts[node].kernel.stall(short.min(1500 * MS)),
            "SIGTERM" => self.terminate(node),
            UPGRADE => {
                let takes = self.faults.rng.spread(MS, 400 * MS);
                return self.upgrade(node, takes).is_ok();
            }
            "hand-over" => self.hand_over(node),
            "carrier lost" => {
                self.link_down(node, long);
                if self.faults.rng.chance(0.6) {
                    self.trouble(Trouble::Alone { node }, long);
                }
            }
            "VIP removed by somebody" => {
                let removed = self.hosts[node].kernel.somebody_removes();
                if removed {
                    self.kernel_event(node, super::kernel::Event::Gone);
                }
                return removed;
            }
            "transfers' votes late" => {
                let (part, upto) = (self.faults.rng.unit(), self.faults.rng.spread(100 * MS, 10 * SEC));
                self.trouble(Trouble::LateVotes { part, upto }, long);
            }
            "proofs late" => {
                let (part, upto) = (self.faults.rng.unit(), self.faults.rng.spread(100 * MS, 10 * SEC));
                self.trouble(Trouble::LateNotices { part, upto }, long);
            }
            "forged proof" => return self.forge(node),
            "old proof repeated" => return self.repeat_proof(),
            episodes::HELD_BACK | episodes::RESTART | episodes::FREEZE | episodes::UPGRADE => {
                return self.episode(name).is_some();
            }
            _ => return self.another_lease(node, long),
        }
        true
    }

    fn begin(&mut self, what: Lasting, lasts: Time) -> u64 {
        let id = self.faults.next;
        self.faults.next += 1;
        self.faults.active.insert(id, what);
        if lasts < Time::MAX {
            self.hub.after(lasts, What::Heal(id));
        }
        id
    }

    pub fn trouble(&mut self, trouble: Trouble, lasts: Time) {
        let id = self.begin(Lasting::Net, lasts);
        self.net.begin(id, trouble);
    }

    fn off(&mut self, node: usize, lasts: Time) -> Option<()> {
        if !self.hosts[node].powered {
            return None;
        }
        self.power_off(node);
        self.begin(Lasting::Off { node }, lasts);
        Some(())
    }

    /// Never of a majority, and only where all others know the newest term: with a disk that only a node left behind could replace,
    /// the terms would begin again, and with them the votes.
    fn lose_disk(&mut self, node: usize, lasts: Time) -> bool {
        let others = self.hosts.iter().filter(|h| h.fresh && h.index != node).count();
        let term = |n: usize| self.hosts[n].daemon.as_ref().and_then(Daemon::term);
        let newest = (0..self.hosts.len()).map(term).max().flatten();
        let known = (0..self.hosts.len()).all(|n| n == node || term(n) == newest);
        if !self.hosts[node].powered || others + 1 > (self.hosts.len() - 1) / 2 || newest.is_none() || !known {
            return false;
        }
        self.off(node, lasts);
        self.hosts[node].disk.wipe();
        self.hosts[node].fresh = true;
        true
    }

    /// SIGSTOP; of a daemon often in the middle of its work.
    pub fn stop(&mut self, node: usize, daemon: bool, keeper: bool, lasts: Time) {
        let after = self.faults.rng.chance(0.5).then(|| self.faults.rng.below(12) as u32);
        let host = &mut self.hosts[node];
        if let Some(d) = host.daemon.as_mut().filter(|_| daemon) {
            match after {
                Some(_) if lasts < Time::MAX => d.pause_after = after,
                _ => d.paused = true,
            }
        }
        if let Some(k) = host.keeper.as_mut().filter(|_| keeper) {
            k.paused = true;
        }
        self.begin(Lasting::Stopped { node, daemon, keeper }, lasts);
    }

    pub fn end_keeper_if_any(&mut self, node: usize) {
        match &mut self.hosts[node].keeper {
            Some(keeper) if keeper.in_call => keeper.dying = true,
            Some(_) => self.end_keeper(node),
            None => {}
        }
    }

    fn terminate(&mut self, node: usize) {
        let to_the_daemon = self.faults.rng.chance(0.3);
        let host = &mut self.hosts[node];
        if let Some(keeper) = host.keeper.as_mut().filter(|_| !to_the_daemon) {
            keeper.signal(Input::Stop);
            let run = keeper.run;
            self.hub.after(0, What::Keeper { node, run });
        } else if let Some(daemon) = &host.daemon {
            daemon.terminate();
            let run = daemon.run;
            self.hub.after(0, What::Daemon { node, run });
        }
    }

    fn hand_over(&mut self, node: usize) {
        let to = self.faults.rng.chance(0.5).then(|| self.faults.rng.below(self.hosts.len() as u64));
        let to = to.and_then(|n| NodeId::new(&format!("server{}", n + 1)).ok());
        if let Some(daemon) = &self.hosts[node].daemon {
            daemon.hand_over(to);
            let run = daemon.run;
            self.hub.after(0, What::Daemon { node, run });
        }
    }

    /// Somebody says, under this node's address, that the hold of its newest vote has ended.
    fn forge(&mut self, node: usize) -> bool {
        let Some(vote) = self.check.newest_vote(node) else { return false };
        let bytes: Vec<u8> = (0..4).flat_map(|_| self.faults.rng.next().to_le_bytes()).collect();
        let key = Key::from_bytes(bytes.try_into().unwrap_or([0; 32]));
        self.send_proof(node, vote, &key);
        true
    }

    /// A proof that was sent before comes again.
    fn repeat_proof(&mut self) -> bool {
        if self.faults.proofs.is_empty() {
            return false;
        }
        let at = self.faults.rng.below(self.faults.proofs.len() as u64) as usize;
        let (node, bytes) = self.faults.proofs[at].clone();
        self.send_datagrams(node, &bytes);
        true
    }

    fn link_down(&mut self, node: usize, lasts: Time) {
        self.set_link(node, false);
        self.begin(Lasting::LinkDown { node }, lasts);
    }

    fn set_link(&mut self, node: usize, up: bool) {
        self.hosts[node].kernel.link_up = up;
        self.kernel_event(node, super::kernel::Event::Link);
    }

    /// Somebody restarts a node with another lease in its file.
    fn another_lease(&mut self, node: usize, lasts: Time) -> bool {
        let host = &self.hosts[node];
        if self.hosts.iter().any(|h| h.other_timing) || !host.powered {
            return false; // two of them would agree with each other
        }
        self.hosts[node].other_timing = true;
        self.end_keeper_if_any(node);
        self.kill_daemon(node);
        self.begin(Lasting::OtherTiming { node }, lasts.max(5 * SEC));
        true
    }

    pub fn heal(&mut self, id: u64) {
        let Some(what) = self.faults.active.remove(&id) else { return };
        self.net.end(id);
        match what {
            Lasting::Net => {}
            Lasting::Off { node } => self.power_on(node),
            Lasting::Stopped { node, daemon, keeper } => self.go_on(node, daemon, keeper),
            Lasting::LinkDown { node } => self.set_link(node, true),
            Lasting::OtherTiming { node } => {
                self.hosts[node].other_timing = false;
                self.end_keeper_if_any(node);
                self.kill_daemon(node);
            }
        }
        self.check.dirty = true;
    }

    /// SIGCONT.
    fn go_on(&mut self, node: usize, daemon: bool, keeper: bool) {
        let still =
            |world: &World, which: fn(&Lasting) -> Option<usize>| world.faults.active.values().any(|l| which(l) == Some(node));
        let daemon_stays = still(self, |l| match l {
            Lasting::Stopped { node, daemon: true, .. } => Some(*node),
            _ => None,
        });
        let keeper_stays = still(self, |l| match l {
            Lasting::Stopped { node, keeper: true, .. } => Some(*node),
            _ => None,
        });
        let now = self.hub.now();
        let host = &mut self.hosts[node];
        let runs = (host.keeper.as_ref().map_or(0, |k| k.run), host.daemon.as_ref().map_or(0, |d| d.run));
        if let Some(d) = host.daemon.as_mut().filter(|_| daemon && !daemon_stays) {
            (d.paused, d.pause_after) = (false, None);
            host.daemon_awake = now;
        }
        if let Some(k) = host.keeper.as_mut().filter(|k| keeper && !keeper_stays && k.paused) {
            (k.paused, k.awake_since) = (false, now);
        }
        // Which of the two runs first after SIGCONT is chance.
        let (first, second) = (self.faults.rng.below(MS), self.faults.rng.below(MS));
        self.hub.after(first, What::Keeper { node, run: runs.0 });
        self.hub.after(second, What::Daemon { node, run: runs.1 });
    }
}
