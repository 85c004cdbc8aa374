//! The life of a connection in the engine: dial, its turns, timeouts, its end.

use super::arrive::HEADER_TIMEOUT;
use super::choose::Change;
use super::conn::{ARRIVING, CONNECTING, COUNTED, Conn, DOOMED, EXPIRED, End, ON_VIP, QUEUED, SETTLE, SETTLED, Verdict};
use super::engine::{Engine, SWEEP, is_local_shortage, token};
use super::flow::{DEAD, Half, WRITABLE};
use super::slab::Key;
use crate::sys::tcp;
use std::io;

impl Engine {
    /// Starts a connect to the next backend that this connection hasn't tried; without any, resets the client.
    pub(super) fn dial(&mut self, key: Key) {
        let now = self.now;
        while let Some(conn) = self.slab.get_mut(key) {
            let listener = &mut self.listeners[usize::from(conn.listener)];
            let Some(i) = listener.chooser.choose(now, &mut conn.tried) else {
                listener.no_backend += 1;
                return self.end(key, true);
            };
            conn.target = i as u16;
            let address = listener.backends[i].address;
            let connected = match tcp::connect(address) {
                Err(e) if is_local_shortage(&e) && self.spare.take().is_some() => tcp::connect(address),
                result => result,
            };
            match connected {
                Ok(fd) => return self.dialled(key, fd),
                Err(e) if is_local_shortage(&e) => {
                    return self.pause_and_reset(key, &format!("can't connect to backends: {e}"));
                }
                // Ports are counted per destination, so there may be one towards the next backend.
                Err(e) if e.kind() == io::ErrorKind::AddrNotAvailable => self.tell_ports(address, &e),
                Err(e) => self.dial_failed(key, &e),
            }
        }
    }

    fn dialled(&mut self, key: Key, fd: std::os::fd::OwnedFd) {
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

    /// Notes that the connect to the present target failed: one line when that is news.
    fn dial_failed(&mut self, key: Key, e: &io::Error) {
        let Some(conn) = self.slab.get_mut(key) else { return };
        let listener = &mut self.listeners[usize::from(conn.listener)];
        let target = usize::from(conn.target);
        listener.backends[target].failed += 1;
        if listener.chooser.failed(target, self.now) == Some(Change::Lost) {
            let address = listener.backends[target].address;
            log::info!("balancer {}: backend {address} can't be reached ({e}); connections go to the others", listener.name);
        }
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
        if conn.client.has(DEAD) {
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
        let Some(conn) = self.slab.get_mut(key) else { return 0 };
        conn.state &= !CONNECTING;
        let listener = &mut self.listeners[usize::from(conn.listener)];
        let target = usize::from(conn.target);
        let backend = &mut listener.backends[target];
        backend.connected += 1;
        backend.open += 1;
        if listener.chooser.connected(target) == Some(Change::Back) {
            log::info!("balancer {}: backend {} can be reached again", listener.name, backend.address);
        }
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
        let half_closed = conn.half_closed();
        let (verdict, moved) = conn.turn(&mut self.bench);
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

    /// Ends a connection: with RST to both sides, or with what FINs are missing.
    pub(super) fn end(&mut self, key: Key, reset: bool) {
        let Some(mut conn) = self.slab.remove(key) else { return };
        let listener = &mut self.listeners[usize::from(conn.listener)];
        listener.open -= 1;
        if conn.is(COUNTED) {
            listener.door.leave(conn.from.address());
        }
        self.on_vip -= u64::from(conn.is(ON_VIP));
        if !conn.is(CONNECTING) {
            listener.backends[usize::from(conn.target)].open -= 1;
        }
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
        let limits = self.limits.clone();
        let due: Vec<Key> = self.slab.iter_mut().filter_map(|(key, conn)| look(conn, stamp, &limits).then_some(key)).collect();
        for key in due {
            self.enqueue(key);
        }
    }
}

/// Marks what is due on a connection; whether anything is.
fn look(conn: &mut Conn, stamp: u32, limits: &super::Limits) -> bool {
    let age = u128::from(stamp.wrapping_sub(conn.touched));
    let allowed = match conn.is(CONNECTING) {
        true if conn.is(ARRIVING) => HEADER_TIMEOUT,
        true => limits.connect_timeout,
        // A reader may take longer over what was already sent than a sender may be silent.
        false if conn.awaits_other_half() => limits.half_close_timeout.min(limits.idle_timeout),
        false => limits.idle_timeout,
    };
    if age >= allowed.as_millis() {
        conn.state |= EXPIRED;
    }
    // Most short connections end before a sweep sees them, and never pay for options that only long ones need.
    if !conn.is(CONNECTING | SETTLED) {
        conn.state |= SETTLE;
    }
    conn.is(EXPIRED | SETTLE)
}
