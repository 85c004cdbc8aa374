//! The life of a connection in the engine: dial, its turns, timeouts, its end.

use super::arrive::HEADER_TIMEOUT;
use super::conn::{
    ARRIVING, CONNECTING, COUNTED, Conn, DOOMED, EXPIRED, End, FRESH, ON_VIP, QUEUED, SETTLE, SETTLED, Verdict, WAITING,
};
use super::engine::{Engine, SWEEP, tell, token};
use super::flow::{DEAD, Half, WRITABLE};
use super::listen::Listener;
use super::pool::{Ask, Choice, NOWHERE};
use super::slab::Key;
use crate::sys::tcp;
use std::io;
use std::os::fd::OwnedFd;

/// ms after its answer in which a backend that breaks a silent connection is taken to have refused it.
const LATE_REFUSAL: u32 = 1000;

impl Engine {
    /// Starts a connect to the next member that this connection hasn't tried; without any, resets the client.
    pub(super) fn dial(&mut self, key: Key) {
        while let Some(conn) = self.slab.get_mut(key) {
            let listener = &mut self.listeners[usize::from(conn.listener)];
            let mut ask = Ask { now: self.now, client: &conn.peer, tried: &mut conn.tried, random: &mut self.random };
            match listener.pool.choose(&mut ask) {
                Choice::Member(slot) => {
                    conn.target = slot;
                    if self.dial_member(key, slot) {
                        return;
                    }
                }
                Choice::Full => return self.wait(key),
                Choice::Nobody => {
                    listener.no_backend += 1;
                    return self.end(key, true);
                }
            }
        }
    }

    /// Starts the connect to the member in `slot`, on which this connection has a place. False: that failed at once.
    pub(super) fn dial_member(&mut self, key: Key, slot: u16) -> bool {
        let Some(conn) = self.slab.get_mut(key) else { return true };
        let of = usize::from(conn.listener);
        let pool = &mut self.listeners[of].pool;
        let Some(address) = pool.get(slot).map(|m| m.address) else { return false };
        let connected = match tcp::connect(address) {
            Err(e) if tcp::is_local_shortage(&e) && self.spare.take().is_some() => tcp::connect(address),
            result => result,
        };
        match connected {
            Ok(fd) => self.dialled(key, fd),
            Err(e) if tcp::is_local_shortage(&e) => self.pause_and_reset(key, &format!("can't connect to backends: {e}")),
            Err(e) if e.kind() == io::ErrorKind::AddrNotAvailable && !tcp::lacks_source(address, &e) => {
                // Ports are counted per destination, so there may be one towards the next backend.
                conn.target = NOWHERE;
                pool.release(slot, true);
                self.may_serve(of);
                self.tell_ports(address, &e);
                return false;
            }
            Err(e) => {
                self.dial_failed(key, &e);
                return false;
            }
        }
        true
    }

    fn dialled(&mut self, key: Key, fd: OwnedFd) {
        let stamp = self.stamp();
        if let Some(conn) = self.slab.get_mut(key) {
            conn.backend = Half::new(Some(fd));
            conn.touched = stamp;
        }
        if let Err(e) = self.register(key, End::Backend) {
            self.pause_and_reset(key, &format!("can't watch a connection: {e}"));
        }
    }

    /// Registers one end, once and for all events.
    pub(super) fn register(&mut self, key: Key, end: End) -> io::Result<()> {
        match self.slab.get_mut(key).and_then(|conn| conn.end(end).fd()) {
            Some(fd) => self.reactor.add(fd, token(key, end)),
            None => Ok(()),
        }
    }

    /// Notes that the connect to the present target failed, and gives its place back: one line when that is news.
    fn dial_failed(&mut self, key: Key, e: &io::Error) {
        let Some(conn) = self.slab.get_mut(key) else { return };
        let target = std::mem::replace(&mut conn.target, NOWHERE);
        let of = usize::from(conn.listener);
        let listener = &mut self.listeners[of];
        let change = listener.pool.failed(target, self.now, || e.to_string());
        tell(&listener.options.name, change);
        self.may_serve(of);
    }

    pub(super) fn pause_and_reset(&mut self, key: Key, why: &str) {
        self.end(key, true);
        self.pause(why);
    }

    /// One turn of one connection; returns the bytes it read.
    pub(super) fn run_one(&mut self, key: Key) -> usize {
        let Some(conn) = self.slab.get_mut(key) else { return 0 };
        conn.state &= !QUEUED;
        if conn.is(DOOMED) {
            self.end(key, true);
            return 0;
        }
        if conn.is(SETTLE) {
            conn.state = conn.state & !SETTLE | SETTLED;
            if let Some(fd) = conn.backend.fd() {
                tcp::set_patience(fd, self.limits.user_timeout);
            }
        }
        match conn.is(CONNECTING) {
            true if conn.is(ARRIVING) => {
                self.run_arriving(key);
                0
            }
            true => self.run_connecting(key),
            false if conn.is(EXPIRED) => {
                self.end(key, true);
                0
            }
            false => self.run_open(key),
        }
    }

    fn run_connecting(&mut self, key: Key) -> usize {
        let Some(conn) = self.slab.get_mut(key) else { return 0 };
        let expired = conn.is(EXPIRED);
        conn.state &= !EXPIRED;
        if conn.is(WAITING) {
            self.run_waiting(key, expired);
        } else if conn.client.has(DEAD) {
            self.end(key, true);
        } else if conn.backend.has(DEAD) || expired {
            let error = conn.backend.fd().filter(|_| !expired).and_then(tcp::take_error);
            conn.backend.take(&mut self.bench.pipes);
            self.dial_failed(key, &error.unwrap_or_else(|| io::ErrorKind::TimedOut.into()));
            self.dial(key);
        } else if conn.backend.has(WRITABLE) {
            return self.connected(key);
        }
        0
    }

    /// The backend answered. What the client sent goes there with the handshake's ACK; without any, the ACK goes alone.
    fn connected(&mut self, key: Key) -> usize {
        let stamp = self.stamp();
        let Some(conn) = self.slab.get_mut(key) else { return 0 };
        conn.state = conn.state & !CONNECTING | FRESH;
        conn.touched = stamp;
        let listener = &mut self.listeners[usize::from(conn.listener)];
        listener.pool.connected(conn.target);
        let told = self.introduce(key);
        let moved = self.run_open(key);
        if told {
            self.push(key);
        } else if moved == 0
            && let Some(fd) = self.slab.get_mut(key).and_then(|conn| conn.backend.fd())
        {
            tcp::acknowledge_now(fd);
        }
        moved
    }

    fn run_open(&mut self, key: Key) -> usize {
        let stamp = self.stamp();
        let Some(conn) = self.slab.get_mut(key) else { return 0 };
        let late = stamp.wrapping_sub(conn.touched) >= LATE_REFUSAL;
        if !late && conn.can_turn_elsewhere() {
            self.turn_elsewhere(key);
            return 0;
        }
        let half_closed = conn.half_closed();
        let (verdict, moved) = conn.turn(&mut self.bench);
        conn.client.unmute(token(key, End::Client), &self.reactor);
        conn.backend.unmute(token(key, End::Backend), &self.reactor);
        let proved = moved != [0; 2] || verdict == Verdict::Complete || late;
        if conn.is(FRESH) && proved {
            conn.state &= !FRESH;
            let listener = &mut self.listeners[usize::from(conn.listener)];
            tell(&listener.options.name, listener.pool.proved(conn.target, self.now));
        }
        if moved != [0; 2] || self.bench.flushed > 0 || conn.half_closed() != half_closed {
            conn.touched = stamp;
        }
        let listener = &mut self.listeners[usize::from(conn.listener)];
        listener.bytes[0] += moved[0] as u64;
        listener.bytes[1] += moved[1] as u64;
        match verdict {
            Verdict::Idle => {}
            Verdict::Again => self.enqueue(key),
            Verdict::Complete => self.end(key, false),
            Verdict::Reset => self.end(key, true),
        }
        moved[0] + moved[1]
    }

    /// The backend took the connection and broke it at once: as if it had refused.
    fn turn_elsewhere(&mut self, key: Key) {
        let Some(conn) = self.slab.get_mut(key) else { return };
        conn.backend.take(&mut self.bench.pipes);
        conn.client.hold(&[]); // what was left of a PROXY header: the next backend gets one of its own
        conn.state = conn.state & !(FRESH | SETTLE | SETTLED | EXPIRED) | CONNECTING;
        self.listeners[usize::from(conn.listener)].pool.taken_back(conn.target);
        self.dial_failed(key, &io::Error::new(io::ErrorKind::ConnectionReset, "reset right after it was accepted"));
        self.dial(key);
    }

    /// Ends a connection: with RST to both sides, or with what FINs are missing.
    pub(super) fn end(&mut self, key: Key, reset: bool) {
        let Some(mut conn) = self.slab.remove(key) else { return };
        let listener = &mut self.listeners[usize::from(conn.listener)];
        listener.open -= 1;
        if conn.is(COUNTED) {
            listener.door.leave(&conn.peer);
        }
        self.on_vip -= u64::from(conn.is(ON_VIP));
        if conn.target != NOWHERE {
            listener.pool.release(conn.target, conn.is(CONNECTING));
        }
        if conn.is(WAITING) {
            listener.line.left();
        }
        listener.try_vacate();
        self.may_serve(usize::from(conn.listener));
        for fd in [&mut conn.client, &mut conn.backend].into_iter().filter_map(|half| half.take(&mut self.bench.pipes)) {
            if reset { tcp::reset(fd) } else { drop(fd) }
        }
        self.paused = false; // there is room again; if not, the next accept says so
    }

    /// Once a second: finds timeouts (the connections act on them in their own turn), resumes accepting, trims the pool.
    pub(super) fn sweep(&mut self) {
        self.next_sweep = self.now + SWEEP;
        self.paused = false;
        self.bench.pipes.trim();
        let stamp = self.stamp();
        let listeners = &self.listeners;
        let look = |(key, conn): (Key, &mut Conn)| look(conn, stamp, &listeners[usize::from(conn.listener)]).then_some(key);
        let due: Vec<Key> = self.slab.iter_mut().filter_map(look).collect();
        for key in due {
            self.enqueue(key);
        }
        (0..self.listeners.len()).for_each(|i| self.may_serve(i)); // a member may have rested enough
    }
}

/// Marks what is due on a connection; whether anything is.
fn look(conn: &mut Conn, stamp: u32, listener: &Listener) -> bool {
    let timeouts = &listener.options.timeouts;
    let age = u128::from(stamp.wrapping_sub(conn.touched));
    let allowed = match conn.is(CONNECTING) {
        true if conn.is(ARRIVING) => HEADER_TIMEOUT,
        true if conn.is(WAITING) => listener.options.queue_timeout,
        true => timeouts.connect,
        // A reader may take longer over what was already sent than a sender may be silent.
        false if conn.awaits_other_half() => timeouts.half_close.min(timeouts.idle),
        false => timeouts.idle,
    };
    if age >= allowed.as_millis() {
        conn.state |= EXPIRED;
    }
    // Most short connections end before a sweep sees them, and never pay for options that only long ones need.
    if !conn.is(CONNECTING | SETTLED) {
        conn.state |= SETTLE;
    }
    conn.is(EXPIRED | SETTLE) || conn.is(FRESH) && age >= u128::from(LATE_REFUSAL)
}
