//! The loop's one turn: events, accepts, connections with work, the sweep of timeouts.

use super::conn::{Conn, DOOMED, End, ON_VIP, QUEUED};
use super::flow::Bench;
use super::listen::{Listener, OpenError};
use super::pool::{Change, Hosts, Member, Random, State};
use super::slab::{Key, Slab};
use super::{Limits, Spec};
use crate::config::Balance;
use crate::reactor::{self, Reactor};
use crate::status::{BackendStatus, BalancerStatus};
use crate::sys::clock::{self, Instant};
use crate::sys::epoll::{BATCH, Event};
use crate::sys::tcp;
use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::Duration;

/// A batch of work ends after about this time, so that the executor gets its turn.
const TURN: Duration = Duration::from_millis(1);
/// A warning that may come with every connection is told this often.
const TELL: Duration = Duration::from_secs(60);
/// Timeouts are looked at this often, and accepting is resumed.
pub const SWEEP: Duration = Duration::from_secs(1);

/// Everything that the forwarder knows.
#[derive(Debug)]
pub struct Engine {
    pub(super) reactor: Rc<Reactor>,
    pub(super) slab: Slab<Conn>,
    queue: VecDeque<Key>,
    /// In slots, because connections name theirs by number.
    pub(super) listeners: Vec<Listener>,
    /// Slots of the configured ones, in the order of the configuration.
    pub(super) order: Vec<usize>,
    pub(super) hosts: Hosts,
    pub(super) random: Random,
    pub(super) bench: Bench,
    pub(super) limits: Limits,
    /// Descriptors that this process may have.
    pub(super) fds: usize,
    pub(super) max_connections: usize,
    /// As many as the limit of open files allows.
    pub(super) by_fds: usize,
    /// Kept back, so that a client that was accepted gets its backend's socket too.
    pub(super) spare: Option<OwnedFd>,
    pub(super) holding: bool,
    pub(super) always: bool,
    /// Accepts no more, for good.
    pub(super) stopped: bool,
    pub(super) vip: IpAddr,
    /// Connections that came to the VIP, through any listener, where they end with the hold.
    pub(super) on_vip: u64,
    pub(super) began: Instant,
    pub(super) now: Instant,
    pub(super) next_sweep: Instant,
    pub(super) paused: bool,
    /// Places may be free for connections that wait in a line.
    pub(super) serve: bool,
    pub(super) pauses: u64,
    pub(super) pause_told: Option<Instant>,
    ports_told: Option<Instant>,
}

/// Tokens: a connection's stamp (never 0), slot and end; or 0 and the number of a listener.
pub(super) fn token(key: Key, end: End) -> u64 {
    u64::from(key.stamp) << 32 | u64::from(key.index) << 1 | end as u64
}

impl Engine {
    /// Opens the listeners and the epoll instance.
    pub fn open(spec: Spec) -> Result<Self, OpenError> {
        let fds = tcp::raise_fd_limit().map_or(1024, |n| usize::try_from(n).unwrap_or(usize::MAX));
        let now = clock::now();
        let mut engine = Self {
            reactor: reactor::current()?,
            slab: Slab::new(),
            queue: VecDeque::new(),
            listeners: Vec::new(),
            order: Vec::new(),
            hosts: Hosts::new(),
            random: Random::new(now.as_nanos()),
            bench: Bench::new(spec.limits.pipes),
            fds,
            max_connections: 0,
            by_fds: 0,
            limits: spec.limits,
            spare: None,
            holding: false,
            always: spec.serve_vip_always,
            stopped: false,
            vip: spec.vip,
            on_vip: 0,
            began: now,
            now,
            next_sweep: now,
            paused: false,
            serve: false,
            pauses: 0,
            pause_told: None,
            ports_told: None,
        };
        engine.apply(spec.balancers)?;
        Ok(engine)
    }

    /// See [`super::Control::limit_connections`].
    pub fn limit_connections(&mut self, most: Option<usize>) {
        self.limits.max_connections = most;
        self.max_connections = most.unwrap_or(self.by_fds);
        self.paused = false; // looked at anew with the next client
    }

    pub fn reactor(&self) -> Rc<Reactor> {
        self.reactor.clone()
    }

    /// Sleeps until there is something to do, unless there is, and does one bounded batch of it.
    pub fn turn(&mut self) -> io::Result<()> {
        self.now = self.reactor().wait(self.timeout(), |event| self.note(event))?;
        self.serve_lines(); // what was told between turns; before newcomers take the places
        self.accept_some();
        self.run_some();
        self.serve_lines();
        if self.now >= self.next_sweep {
            self.sweep();
        }
        Ok(())
    }

    /// How long the loop may sleep. Only connections, pipes in the pool and a paused accept need a sweep.
    fn timeout(&self) -> Option<Duration> {
        if self.serve || !self.queue.is_empty() {
            return Some(Duration::ZERO);
        }
        let sweep = !self.slab.is_empty() || self.paused || !self.bench.pipes.is_empty();
        let accept = self.listeners.iter().filter(|l| !self.paused && l.accepts());
        let accept = accept.map(|l| l.door.opens(self.now).unwrap_or(self.now)).min();
        let next = accept.into_iter().chain(sweep.then_some(self.next_sweep)).min()?;
        Some(if next <= self.now { Duration::ZERO } else { next.since(clock::now()) })
    }

    fn note(&mut self, event: Event) {
        let (stamp, low) = ((event.token >> 32) as u32, event.token as u32);
        if stamp == 0 {
            if let Some(listener) = self.listeners.get_mut(low as usize) {
                listener.ready = true;
            }
            return;
        }
        let key = Key { index: low >> 1, stamp };
        if let Some(conn) = self.slab.get_mut(key) {
            let half = conn.end(if low & 1 == 0 { End::Client } else { End::Backend });
            half.note(event);
            half.mute(event, &self.reactor);
            self.enqueue(key);
        }
    }

    /// Gives a connection a turn, after those that wait for theirs.
    pub(super) fn enqueue(&mut self, key: Key) {
        if let Some(conn) = self.slab.get_mut(key)
            && !conn.is(QUEUED)
        {
            conn.state |= QUEUED;
            self.queue.push_back(key);
        }
    }

    fn run_some(&mut self) {
        let until = self.now + TURN;
        let mut unread = 0;
        for turns in 1..=self.queue.len().min(BATCH) {
            let Some(key) = self.queue.pop_front() else { return };
            unread += self.run_one(key);
            // reading the clock is a system call on some ARM boards: not after each small turn
            if turns % 8 == 0 || unread > 128 << 10 {
                unread = 0;
                if clock::now() > until {
                    return;
                }
            }
        }
    }

    /// Says that a connect to `backend` found no free local port: nothing is wrong with the backend.
    pub(super) fn tell_ports(&mut self, backend: SocketAddr, e: &io::Error) {
        if is_due(&mut self.ports_told, self.now) {
            log::warn!(
                "local ports are exhausted: can't connect to backend {backend} ({e}); other backends are tried. Widen \
                 sysctl net.ipv4.ip_local_port_range or add backends (told once a minute)"
            );
        }
    }

    /// ms since the forwarder began, wrapping after 49 days.
    pub(super) fn stamp(&self) -> u32 {
        self.now.since(self.began).as_millis() as u32
    }

    pub fn hold(&mut self, yes: bool) {
        let lost = self.holding && !yes && !self.always;
        self.holding = yes;
        if !lost {
            return;
        }
        let on_vip = self.slab.iter_mut().filter(|(_, conn)| conn.is(ON_VIP));
        let doomed: Vec<Key> = on_vip.map(|(key, conn)| (conn.state |= DOOMED, key).1).collect();
        for key in doomed {
            self.enqueue(key);
        }
    }

    pub fn stop_accepting(&mut self) {
        self.stopped = true;
        for listener in &mut self.listeners {
            listener.fd = None;
            listener.ready = false;
            listener.try_vacate();
        }
    }

    /// Closes the listeners and resets every connection.
    pub fn close_all(&mut self) {
        self.stop_accepting();
        let keys: Vec<Key> = self.slab.iter_mut().map(|(key, _)| key).collect();
        for key in keys {
            self.end(key, true);
        }
    }

    pub fn open_connections(&self) -> usize {
        self.slab.len()
    }

    pub fn vip_connections(&self) -> u64 {
        self.on_vip
    }

    pub fn accept_pauses(&self) -> u64 {
        self.pauses
    }

    pub fn pipes(&self) -> (usize, u64) {
        (self.bench.pipes.count(), self.bench.pipes.refused)
    }

    pub fn counters(&self) -> Vec<BalancerStatus> {
        let one = |&slot: &usize| {
            let l = &self.listeners[slot];
            BalancerStatus {
                name: l.options.name.clone(),
                listen: l.address.to_string(),
                policy: policy(l.options.balance).to_string(),
                serving: self.serves(slot),
                open: l.open,
                accepted: l.accepted,
                no_backend: l.no_backend,
                queued: l.line.len() as u64,
                queue_full: l.queue_full,
                queue_timeouts: l.queue_timeouts,
                limit_pauses: l.limit_pauses,
                bytes_in: l.bytes[0],
                bytes_out: l.bytes[1],
                backends: l.pool.members().map(backend_status).collect(),
                refused: l.door.refused,
                over_client_limit: l.door.over_client_limit,
                proxy_errors: l.door.proxy_errors,
                rate_pauses: l.door.rate_pauses,
            }
        };
        self.order.iter().map(one).collect()
    }
}

/// One line for each member that is something else now.
pub(super) fn tell(balancer: &str, changes: impl IntoIterator<Item = Change>) {
    for Change { address, to, why, up } in changes {
        let why = why.map(|why| format!(" ({why})")).unwrap_or_default();
        match (to, up) {
            (State::Up, _) => log::info!("balancer {balancer}: backend {address} is up"),
            (_, 0) => log::warn!("balancer {balancer}: backend {address} is {to}{why}; it was the last one up"),
            _ => log::info!("balancer {balancer}: backend {address} is {to}{why}; connections go to the others"),
        }
    }
}

/// Whether a warning last told at `told` may be told again; then notes that it was.
pub(super) fn is_due(told: &mut Option<Instant>, now: Instant) -> bool {
    let due = told.is_none_or(|t| now.since(t) >= TELL);
    if due {
        *told = Some(now);
    }
    due
}

/// As the configuration writes it.
const fn policy(balance: Balance) -> &'static str {
    match balance {
        Balance::RoundRobin => "roundRobin",
        Balance::LeastConnections => "leastConnections",
        Balance::Random2 => "random2",
        Balance::SourceHash => "sourceHash",
    }
}

fn backend_status(m: &Member) -> BackendStatus {
    BackendStatus {
        address: m.address.to_string(),
        host: m.host().map(str::to_string),
        state: m.state().to_string(),
        why: m.why.clone(),
        weight: m.weight(),
        backup: m.backup,
        open: m.open,
        connected: m.connected,
        failed: m.failed,
    }
}
