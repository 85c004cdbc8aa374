//! How the processes of a node run: keeper, daemon, the unit that starts them, and what stops them.

use super::clock::{MS, SEC, Time};
use super::daemon::Daemon;
use super::env::SimEnv;
use super::hub::{Effect, QUIET, What};
use super::keeper::{Keeper, Want};
use super::kernel::{Ask, Event, Said};
use super::net::{Content, Packet};
use super::setup::Planted;
use super::world::{World, latency};
use kube_vip::cluster::runtime;
use kube_vip::daemon::notify_of;
use kube_vip::release::{Key, Notice};
use kube_vip::vip::rtnl::Change;
use kube_vip::vip::state::Input;
use kube_vip::vip::{Order, VoteKey, frames};
use std::rc::Rc;

/// A daemon that takes more polls than this at one instant spins.
const SPIN: u32 = 200_000;

impl World {
    /// systemd will start the unit.
    pub fn plan_unit(&mut self, node: usize, after: Time) {
        let host = &mut self.hosts[node];
        host.unit += 1;
        self.hub.after(after, What::Unit { node, turn: host.unit });
    }

    pub fn start_unit(&mut self, node: usize, turn: u64) {
        let host = &mut self.hosts[node];
        if host.unit != turn || !host.powered {
            return;
        }
        if !host.is_idle() {
            return self.plan_unit(node, 200 * MS); // what is left of the last run has to end first
        }
        host.runs += 1;
        let run = host.runs;
        host.starting = Some(run);
        host.kernel.ask(Ask::Sweep, run);
    }

    /// The keeper has swept, and forks.
    fn fork(&mut self, node: usize, run: u64) {
        let now = self.hub.now();
        let bytes: Vec<u8> = (0..4).flat_map(|_| self.hub.rng().next().to_le_bytes()).collect();
        let host = &mut self.hosts[node];
        host.starting = None;
        host.key = Key::from_bytes(bytes.try_into().unwrap_or([0; 32]));
        let config = host.config(&self.setup);
        let long = matches!(self.setup.planted, Some(Planted::LongHold | Planted::NoDeadline));
        let longest = if long { std::time::Duration::from_secs(3600) } else { self.setup.hold() };
        let mut keeper = Keeper::new(run, longest, host.clock, now, host.kernel.link_up, host.kernel.has_fence);
        keeper.forgets_deadlines = self.setup.planted == Some(Planted::NoDeadline);
        host.keeper = Some(keeper);
        let env = SimEnv::new(&self.hub, node, run, host.clock);
        host.daemon = Some(Daemon::start(env, config, host.key.clone(), host.kernel.present.clone(), None));
        self.check.starts(node);
        self.hub.note(node, "unit starts", run, 0);
        self.hub.after(latency(&self.hub), What::Keeper { node, run });
        self.hub.after(latency(&self.hub), What::Daemon { node, run });
    }

    pub fn wake_keeper(&mut self, node: usize, run: u64) {
        let host = &mut self.hosts[node];
        host.keeper_wake = Time::MAX;
        if host.keeper.as_ref().is_some_and(|k| k.run == run) {
            self.run_keeper(node);
        }
    }

    /// The keeper goes on until it waits.
    pub fn run_keeper(&mut self, node: usize) {
        loop {
            let now = self.hub.now();
            let host = &mut self.hosts[node];
            let Some(keeper) = host.keeper.as_mut().filter(|k| k.runs()) else { return };
            let want = keeper.step(now, host.kernel.link_up);
            match want {
                Want::Kernel(ask) => return host.kernel.ask(ask, keeper.run),
                Want::Frame(kind) => self.broadcast(node, kind),
                Want::Report(report) => self.report(node, report),
                Want::Notice(vote) => self.tell_release(node, vote),
                Want::Kill => self.kill_daemon(node),
                Want::Exit { gone } => {
                    self.hub.note(node, "keeper exits", u64::from(gone), 0);
                    if gone {
                        self.hosts[node].kernel.ask(Ask::Clear, 0);
                    }
                    return self.end_keeper(node);
                }
                Want::Wake(at) => {
                    let run = keeper.run;
                    if at < host.keeper_wake && at < Time::MAX {
                        host.keeper_wake = at;
                        self.hub.at(at, What::Keeper { node, run });
                    }
                    return;
                }
            }
        }
    }

    fn report(&mut self, node: usize, report: kube_vip::vip::Report) {
        let now = self.hub.now();
        let host = &mut self.hosts[node];
        let Some(keeper) = host.keeper.as_mut() else { return };
        let pipe = match (&host.daemon, &host.exec) {
            (Some(daemon), _) => &daemon.inside.pipe,
            (None, Some(exec)) => &exec.pipe,
            (None, None) => return keeper.daemon_closed(now),
        };
        if !pipe.put(report) {
            return keeper.blocked(true, now);
        }
        keeper.reported(now);
        self.check.reported(now, node, &report);
        let (what, term) = super::check::name(&report);
        self.hub.note(node, what, term, 0);
        if let Some(daemon) = &self.hosts[node].daemon {
            self.hub.after(latency(&self.hub), What::Daemon { node, run: daemon.run });
        }
    }

    /// The proof that the hold under this vote has ended, to all peers.
    fn tell_release(&mut self, node: usize, vote: VoteKey) {
        self.hub.note(node, "keeper proves the release", vote.term, 0);
        self.count("proofs of release");
        self.check.proven(node, vote, self.hosts[node].answers());
        let key = self.hosts[node].key.clone();
        let bytes = self.send_proof(node, vote, &key);
        self.faults.proofs.push_back((node, bytes));
        if self.faults.proofs.len() > 8 {
            self.faults.proofs.pop_front();
        }
    }

    /// The secret of this vote under this key, to all peers of the node.
    pub fn send_proof(&mut self, node: usize, vote: VoteKey, key: &Key) -> Rc<[u8]> {
        let cluster = notify_of(&self.hosts[node].config(&self.setup), key).map_or(0, |notify| notify.cluster);
        let bytes: Rc<[u8]> = Notice { cluster, vote, secret: key.secret(vote) }.encode().to_vec().into();
        self.send_datagrams(node, &bytes);
        bytes
    }

    pub fn send_datagrams(&mut self, node: usize, bytes: &Rc<[u8]>) {
        for to in (0..self.hosts.len()).filter(|n| *n != node) {
            self.post(node, to, Content::Notice { bytes: bytes.clone() });
        }
    }

    /// Frames of the keeper reach the other keepers, as claims and questions.
    fn broadcast(&mut self, node: usize, kind: frames::Kind) {
        let probe = matches!(kind, frames::Kind::Probe);
        if !self.hosts[node].kernel.link_up {
            return;
        }
        for to in (0..self.hosts.len()).filter(|n| *n != node) {
            let content = if probe { Content::Probe } else { Content::Claim };
            self.net.send(Packet { from: node, to, content });
        }
    }

    /// A kernel operation takes effect, and its answer reaches the process that waits, if it lives.
    pub fn kernel_done(&mut self, node: usize, boot: u64, op: u64) {
        let host = &mut self.hosts[node];
        if host.boot != boot {
            return;
        }
        let Some((operation, said, event)) = host.kernel.done(op) else { return };
        self.check.dirty = true;
        if !matches!(operation.ask, Ask::Dump) {
            let often = matches!(operation.ask, Ask::Arm { .. } | Ask::Change(Change::Renew));
            self.hub.note(node, ask_name(operation.ask), if often { QUIET } else { 0 }, op);
        }
        if let Some(event) = event {
            self.kernel_event(node, event);
        }
        if said == Said::Swept {
            if self.hosts[node].starting == Some(operation.keeper) {
                self.fork(node, operation.keeper);
            }
            return;
        }
        let keeper = self.hosts[node].keeper.as_mut().filter(|k| k.run == operation.keeper);
        match keeper {
            Some(keeper) if keeper.dying => self.end_keeper(node),
            Some(keeper) => {
                keeper.answered(said);
                self.run_keeper(node);
            }
            None => {}
        }
    }

    /// The kernel tells who listens.
    pub fn kernel_event(&mut self, node: usize, event: Event) {
        self.check.dirty = true;
        let Some(keeper) = self.hosts[node].keeper.as_mut() else { return };
        keeper.event(event);
        let run = keeper.run;
        self.hub.after(latency(&self.hub), What::Keeper { node, run });
    }

    /// The daemon's tasks go on until all of them wait.
    pub fn run_daemon(&mut self, node: usize) {
        let Some(daemon) = self.hosts[node].daemon.as_mut().filter(|d| !d.paused) else { return };
        let env = daemon.env.clone();
        let mut polls = 0;
        {
            let _inside = runtime::enter(env.clone());
            self.hub.node.set(Some(node));
            daemon.read();
            loop {
                if daemon.pause_after == Some(polls) {
                    (daemon.paused, daemon.pause_after) = (true, None);
                    break;
                }
                if !env.executor.try_tick() {
                    break;
                }
                polls += 1;
                if polls >= SPIN {
                    self.check.fail(format!("node{}: its daemon spins", node + 1));
                    break;
                }
            }
        }
        self.hub.node.set(None);
        drop(env);
        daemon.pause_after = daemon.pause_after.map(|left| left.saturating_sub(polls));
        self.hub.note(node, "daemon", QUIET, u64::from(polls));
        self.after_daemon(node);
    }

    fn after_daemon(&mut self, node: usize) {
        self.effects();
        let now = self.hub.now();
        let host = &mut self.hosts[node];
        if let (Some(keeper), Some(daemon)) = (host.keeper.as_mut(), host.daemon.as_ref())
            && daemon.inside.pipe.has_room()
        {
            keeper.blocked(false, now);
        }
    }

    fn effects(&mut self) {
        loop {
            let next = self.hub.effects.borrow_mut().pop_front();
            let Some((node, run, effect)) = next else { return };
            if self.is_run(node, run) {
                self.effect(node, run, effect);
            }
        }
    }

    fn effect(&mut self, node: usize, run: u64, effect: Effect) {
        let now = self.hub.now();
        match effect {
            Effect::Order(order) => self.order(node, order),
            Effect::Disk { job, done } => {
                let mut rng = self.hub.rng();
                let (job, due) = self.hosts[node].disk.begin(job, done, now, &mut rng);
                drop(rng);
                self.hub.at(due, What::Disk { node, run, job });
            }
            Effect::Exit(ended) => {
                self.hub.note(node, if ended.is_ok() { "daemon ends" } else { "daemon fails" }, run, 0);
                if let Err(why) = ended.as_ref().map_err(String::as_str)
                    && why != "the keeper is gone"
                {
                    self.check.fail(format!("node{}: its daemon ended: {why}", node + 1));
                }
                self.end_daemon(node);
            }
            Effect::Frame { to, line, bytes } => {
                let host = &self.hosts[node];
                self.check.asked((node, to), line, &bytes, host.clock.show(now), now);
                let Some(daemon) = &host.daemon else { return };
                let peer_run = daemon.inside.lines[super::daemon::peer_of(node, to)].peer_run.get();
                self.post(node, to, Content::Request { line, run: peer_run, bytes: bytes.into() });
            }
            Effect::Dial { to, line, bytes } => self.post(node, to, Content::Hello { line, run, bytes: bytes.into() }),
            Effect::Greet { to, line, bytes, welcome } => {
                let peer = super::daemon::peer_of(to, node);
                let current = self.hosts[to].daemon.as_ref().is_some_and(|d| d.inside.lines[peer].line.get() == line);
                if welcome && current && self.hosts[node].other_timing != self.hosts[to].other_timing {
                    self.check.fail(format!("node{} welcomed node{}, whose lease is another", node + 1, to + 1));
                }
                if !welcome {
                    self.count("handshakes refused");
                }
                self.post(node, to, Content::Answer { line, run, bytes: bytes.into() });
            }
            Effect::Reply { to, line, bytes } => self.post(node, to, Content::Response { line, bytes: bytes.into() }),
        }
    }

    fn order(&mut self, node: usize, mut order: Order) {
        let now = self.hub.now();
        if let (Some(Planted::LongHold), Order::Hold { until, .. }) = (self.setup.planted, &mut order) {
            *until += std::time::Duration::from_millis(self.setup.lease_ms);
        }
        self.check.ordered(now, node, &order, &self.hosts);
        let Some(keeper) = self.hosts[node].keeper.as_mut() else { return };
        keeper.order(order);
        let run = keeper.run;
        self.hub.after(latency(&self.hub), What::Keeper { node, run });
    }

    pub fn disk_done(&mut self, node: usize, run: u64, job: u64) {
        if self.is_run(node, run) && self.hosts[node].disk.finish(job) {
            self.hub.note(node, "disk", QUIET, job);
            self.run_daemon(node);
        }
    }

    /// The daemon's process has ended, by itself.
    fn end_daemon(&mut self, node: usize) {
        self.drop_daemon(node);
        self.after_daemon_end(node);
    }

    /// SIGKILL.
    pub fn kill_daemon(&mut self, node: usize) {
        let exec = self.hosts[node].exec.take();
        if self.hosts[node].daemon.is_some() || exec.is_some() {
            self.drop_daemon(node);
            self.after_daemon_end(node);
        }
    }

    /// execve(2) of the daemon, if this is a moment for it: its connections end, and its keeper sees nothing of it.
    pub fn upgrade(&mut self, node: usize, takes: Time) -> Result<(), &'static str> {
        let host = &mut self.hosts[node];
        let daemon = host.daemon.as_ref().filter(|d| !d.paused && d.pause_after.is_none()).ok_or("it does not run")?;
        let exec = daemon.keep(host.runs + 1)?;
        host.runs += 1;
        let run = exec.run;
        self.drop_daemon(node);
        self.hosts[node].exec = Some(exec);
        self.connections_end(node);
        self.hub.note(node, "daemon execs", run, takes / MS);
        self.hub.after(takes, What::Exec { node, run });
        Ok(())
    }

    /// The next program is there.
    pub fn go_on_as_another(&mut self, node: usize, run: u64) {
        let host = &mut self.hosts[node];
        let Some(exec) = host.exec.take_if(|exec| exec.run == run) else { return };
        let env = SimEnv::new(&self.hub, node, run, host.clock);
        let config = host.config(&self.setup);
        host.daemon = Some(Daemon::start(env, config, host.key.clone(), host.kernel.present.clone(), Some(exec)));
        self.hub.note(node, "daemon goes on", run, 0);
        self.run_daemon(node);
    }

    /// What the kernel does where a daemon ended: its connections are reset, its keeper hears of it.
    fn after_daemon_end(&mut self, node: usize) {
        let mut rng = self.hub.rng();
        self.hosts[node].disk.killed(&mut rng);
        drop(rng);
        self.connections_end(node);
        match self.hosts[node].keeper.as_mut() {
            Some(keeper) => {
                keeper.signal(Input::DaemonClosed);
                keeper.signal(Input::DaemonEnded);
                let run = keeper.run;
                self.hub.after(latency(&self.hub), What::Keeper { node, run });
            }
            None => self.restart_later(node),
        }
    }

    fn connections_end(&mut self, node: usize) {
        for other in (0..self.hosts.len()).filter(|n| *n != node) {
            let Some(daemon) = &self.hosts[other].daemon else { continue };
            let line = daemon.inside.lines[super::daemon::peer_of(other, node)].line.get();
            self.post(node, other, Content::Reset { line });
        }
    }

    /// The keeper's process is over, wanted or not.
    pub fn end_keeper(&mut self, node: usize) {
        let host = &mut self.hosts[node];
        host.keeper = None;
        match &host.daemon {
            Some(daemon) => {
                daemon.inside.pipe.close();
                let run = daemon.run;
                self.hub.after(latency(&self.hub), What::Daemon { node, run });
                if self.hub.rng().chance(0.3)
                    && let Some(daemon) = &self.hosts[node].daemon
                {
                    daemon.terminate(); // systemd ends what is left of the unit
                }
            }
            None => match &host.exec {
                Some(exec) => exec.pipe.close(),
                None => self.restart_later(node),
            },
        }
    }

    fn restart_later(&mut self, node: usize) {
        let pause = self.hub.rng().spread(20 * MS, SEC);
        self.plan_unit(node, pause);
    }

    /// The end of a process: nothing of it is left. Its tasks are dropped in surroundings that still tell the time.
    pub fn drop_daemon(&mut self, node: usize) {
        let host = &mut self.hosts[node];
        let Some(daemon) = host.daemon.take() else { return };
        let grave = SimEnv::new(&self.hub, node, u64::MAX, host.clock);
        let _inside = runtime::enter(grave);
        let executor = Rc::downgrade(&daemon.env.executor);
        drop(daemon);
        if executor.strong_count() > 0 {
            self.check.fail(format!("node{}: its daemon's tasks outlive it", node + 1));
        }
        self.hub.note(node, "daemon gone", 0, 0);
    }

    /// At the end of the world.
    pub fn bury(&mut self, node: usize) {
        self.drop_daemon(node);
        self.hosts[node].exec = None;
        self.hosts[node].keeper = None;
    }

    /// The power goes.
    pub fn power_off(&mut self, node: usize) {
        self.bury(node);
        let mut rng = self.hub.rng();
        let torn = self.hosts[node].disk.crashed(&mut rng);
        drop(rng);
        *self.counts.entry("torn writes").or_default() += torn;
        let host = &mut self.hosts[node];
        (host.powered, host.starting) = (false, None);
        self.check.dirty = true;
    }

    pub fn power_on(&mut self, node: usize) {
        let (hub, setup) = (self.hub.clone(), self.setup.clone());
        self.hosts[node].boots(&hub, &setup);
        self.check.boots(node);
        let boot = self.hub.rng().within(200 * MS, 3 * SEC);
        self.plan_unit(node, boot);
    }
}

fn ask_name(ask: Ask) -> &'static str {
    match ask {
        Ask::Change(Change::Add) => "kernel adds",
        Ask::Change(Change::Renew) => "kernel renews",
        Ask::Change(Change::Remove) => "kernel removes",
        Ask::Dump => "kernel dumps",
        Ask::Sweep => "kernel sweeps",
        Ask::Arm { .. } => "fence armed",
        Ask::Clear => "fence cleared",
    }
}
