//! The loop's one turn: events, accepts, connections with work, the sweep of timeouts.

use super::arrive::Arrival;
use super::choose::Tried;
use super::conn::{ARRIVING, CONNECTING, Conn, DOOMED, End, ON_VIP, QUEUED};
use super::flow::{Bench, Half};
use super::listen::{Listener, OpenError, open_all};
use super::slab::{Key, Slab};
use super::{Limits, Spec};
use crate::reactor::{self, Reactor};
use crate::status::{BackendStatus, BalancerStatus};
use crate::sys::clock::{self, Instant};
use crate::sys::epoll::{BATCH, Event};
use crate::sys::tcp;
use std::collections::VecDeque;
use std::io::{self, ErrorKind::WouldBlock};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::Duration;

/// A batch of work ends after about this time, so that the executor gets its turn.
const TURN: Duration = Duration::from_millis(1);
/// Accepts per turn and listener: each costs about 20 µs with its connect.
const ACCEPTS: usize = 16;
/// A warning that may come with every connection is told this often.
const TELL: Duration = Duration::from_secs(60);
/// Timeouts are looked at this often, and accepting is resumed.
pub const SWEEP: Duration = Duration::from_secs(1);
/// Descriptors left for everything else: raft, control socket, files, standard streams.
const SPARED_FDS: usize = 64;

/// Everything that the forwarder knows.
#[derive(Debug)]
pub struct Engine {
    pub(super) reactor: Rc<Reactor>,
    pub(super) slab: Slab<Conn>,
    queue: VecDeque<Key>,
    pub(super) listeners: Vec<Listener>,
    pub(super) bench: Bench,
    pub(super) limits: Limits,
    max_connections: usize,
    /// Kept back, so that a client that was accepted gets its backend's socket too.
    pub(super) spare: Option<OwnedFd>,
    holding: bool,
    always: bool,
    vip: IpAddr,
    /// Connections that came to the VIP, through any listener, where they end with the hold.
    pub(super) on_vip: u64,
    began: Instant,
    pub(super) now: Instant,
    pub(super) next_sweep: Instant,
    pub(super) paused: bool,
    pauses: u64,
    pause_told: Option<Instant>,
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
        let listeners = open_all(&spec)?;
        let reactor = reactor::current()?;
        for (i, listener) in listeners.iter().enumerate() {
            if let Some(fd) = &listener.fd {
                reactor.add_source(fd, i as u64)?;
            }
        }
        let spared = SPARED_FDS + 2 * spec.limits.pipes + listeners.len();
        let by_fds = (fds.saturating_sub(spared) / 2).clamp(16, 65536);
        let now = clock::now();
        Ok(Self {
            reactor,
            slab: Slab::new(),
            queue: VecDeque::new(),
            listeners,
            bench: Bench::new(spec.limits.pipes),
            max_connections: spec.limits.max_connections.unwrap_or(by_fds),
            limits: spec.limits,
            spare: None,
            holding: false,
            always: spec.serve_vip_always,
            vip: spec.vip,
            on_vip: 0,
            began: now,
            now,
            next_sweep: now,
            paused: false,
            pauses: 0,
            pause_told: None,
            ports_told: None,
        })
    }

    pub fn reactor(&self) -> Rc<Reactor> {
        self.reactor.clone()
    }

    /// Sleeps until there is something to do, unless there is, and does one bounded batch of it.
    pub fn turn(&mut self) -> io::Result<()> {
        self.now = self.reactor().wait(self.timeout(), |event| self.note(event))?;
        self.accept_some();
        self.run_some();
        if self.now >= self.next_sweep {
            self.sweep();
        }
        Ok(())
    }

    /// How long the loop may sleep. Only connections, pipes in the pool and a paused accept need a sweep.
    fn timeout(&self) -> Option<Duration> {
        if !self.queue.is_empty() {
            return Some(Duration::ZERO);
        }
        let sweep = !self.slab.is_empty() || self.paused || !self.bench.pipes.is_empty();
        let sweep = sweep.then_some(self.next_sweep);
        let waiting = self.listeners.iter().filter(|l| l.ready && !self.paused);
        let next = waiting.map(|l| l.door.opens(self.now).unwrap_or(self.now)).chain(sweep).min()?;
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
            conn.end(if low & 1 == 0 { End::Client } else { End::Backend }).note(event);
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

    fn accept_some(&mut self) {
        for i in 0..self.listeners.len() {
            for _ in 0..ACCEPTS {
                if self.paused || !self.listeners[i].ready || !self.listeners[i].door.is_open(self.now) {
                    break;
                }
                self.accept_one(i);
            }
        }
    }

    fn accept_one(&mut self, i: usize) {
        if self.slab.len() >= self.max_connections {
            return self.pause(&format!("{} connections are open, the limit", self.max_connections));
        }
        if self.spare.is_none() {
            match self.reactor.duplicate() {
                Ok(fd) => self.spare = Some(fd),
                Err(e) => return self.pause(&format!("no descriptor for a backend's socket: {e}")),
            }
        }
        let serve = self.serves(i);
        let listener = &mut self.listeners[i];
        let Some(fd) = &listener.fd else {
            listener.ready = false;
            return;
        };
        let (client, peer) = match tcp::accept(fd) {
            Ok(accepted) => accepted,
            Err(e) if e.kind() == WouldBlock => {
                listener.ready = false;
                listener.door.nobody();
                return;
            }
            Err(e) if is_local_shortage(&e) => return self.pause(&format!("can't accept connections: {e}")),
            Err(_) => return, // an error of that connection (accept(2)); the next may be fine
        };
        if !serve {
            return tcp::reset(client);
        }
        listener.accepted += 1;
        let state = match listener.arrive(peer, self.now) {
            Arrival::Refused => return tcp::reset(client),
            Arrival::Client => CONNECTING | listener.counted(),
            Arrival::Proxy => CONNECTING | ARRIVING,
        };
        listener.open += 1;
        let came_to_vip = |client| tcp::local_address(client).is_some_and(|local| local.ip().to_canonical() == self.vip);
        // Where somebody else moves the VIP, nothing here ends with it.
        let on_vip = !self.always && (listener.vip || came_to_vip(&client));
        self.on_vip += u64::from(on_vip);
        let conn = Conn {
            client: Half::new(Some(client)),
            backend: Half::new(None),
            tried: Tried::default(),
            touched: self.stamp(),
            listener: i as u16,
            target: 0,
            state: if on_vip { state | ON_VIP } else { state },
            from: peer.into(),
            to: None,
        };
        let key = self.slab.insert(conn);
        match self.register(key, End::Client) {
            Ok(()) if state & ARRIVING != 0 => {}
            Ok(()) => self.dial(key),
            Err(e) => self.pause_and_reset(key, &format!("can't watch a connection: {e}")),
        }
    }

    /// Whether listener `i` serves now.
    fn serves(&self, i: usize) -> bool {
        let listener = &self.listeners[i];
        listener.fd.is_some() && (self.holding || self.always || !listener.vip)
    }

    /// Stops accepting until the next sweep, or until a connection has ended. What comes meanwhile waits in the backlog.
    pub(super) fn pause(&mut self, why: &str) {
        self.paused = true;
        self.pauses += 1;
        if is_due(&mut self.pause_told, self.now) {
            log::warn!("accepting pauses: {why}; new connections wait (told once a minute)");
        }
    }

    /// Says that a connect to `backend` found no free local port: nothing is wrong with the backend.
    pub(super) fn tell_ports(&mut self, backend: SocketAddr, e: &io::Error) {
        if is_due(&mut self.ports_told, self.now) {
            log::warn!(
                "local ports are exhausted: can't connect to backend {backend} ({e}); other backends are tried. Widen \
                 sysctl net.ipv4.ip_local_port_range or add backends, and see that this machine has an address of the \
                 backend's family (told once a minute)"
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
        for listener in &mut self.listeners {
            listener.fd = None;
            listener.ready = false;
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
        let one = |(i, l): (usize, &Listener)| BalancerStatus {
            name: l.name.clone(),
            listen: l.address.to_string(),
            serving: self.serves(i),
            open: l.open,
            accepted: l.accepted,
            no_backend: l.no_backend,
            refused: l.door.refused,
            over_client_limit: l.door.over_client_limit,
            proxy_errors: l.door.proxy_errors,
            rate_pauses: l.door.rate_pauses,
            bytes_in: l.bytes[0],
            bytes_out: l.bytes[1],
            backends: l.backends.iter().map(backend_status).collect(),
        };
        self.listeners.iter().enumerate().map(one).collect()
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

fn backend_status(b: &super::listen::Backend) -> BackendStatus {
    BackendStatus { address: b.address.to_string(), open: b.open, connected: b.connected, failed: b.failed }
}

/// Whether the machine or this process is out of something, rather than one connection being at fault.
pub(super) fn is_local_shortage(e: &io::Error) -> bool {
    matches!(e.raw_os_error(), Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM | libc::ENOSPC))
}
