//! Connections that wait for a place on a backend: how they join, are served in order, and give up.

use super::conn::{Conn, DOOMED, EXPIRED, WAITED, WAITING};
use super::engine::{Engine, is_due};
use super::flow::{DEAD, RDHUP};
use super::listen::Listener;
use super::pool::{Ask, Choice};
use super::slab::{Key, Slab};
use crate::sys::tcp;

/// Connections of one line that are dialled in one turn, at about 20 µs each; the others follow in the next.
const SERVED: usize = 64;
/// How many are passed over at most because they have tried the very member where a place is free.
const PASSED: usize = 1024;

impl Engine {
    /// Every member that could take it is at its cap: joins the line, unless that is too long.
    pub(super) fn wait(&mut self, key: Key) {
        let stamp = self.stamp();
        let Some(conn) = self.slab.get_mut(key) else { return };
        let listener = &mut self.listeners[usize::from(conn.listener)];
        let again = conn.is(WAITED);
        if !again && listener.line.len() as u64 >= u64::from(listener.options.queue) {
            listener.queue_full += 1;
            self.tell_queue(key);
            return self.end(key, true);
        }
        if conn.client_left() {
            return self.end(key, true);
        }
        conn.state |= WAITING | WAITED;
        conn.touched = stamp;
        listener.line.join(key, again, |key| waits(&mut self.slab, key));
    }

    /// A turn of one that waits: it leaves where its client has, or when it has waited too long.
    pub(super) fn run_waiting(&mut self, key: Key, expired: bool) {
        let Some(conn) = self.slab.get_mut(key) else { return };
        if conn.client_left() {
            self.end(key, true);
        } else if expired {
            self.listeners[usize::from(conn.listener)].queue_timeouts += 1;
            self.tell_queue(key);
            self.end(key, true);
        }
    }

    /// Something has changed for listener `i` that may give those in its line a place.
    pub(super) fn may_serve(&mut self, i: usize) {
        let listener = &mut self.listeners[i];
        if !listener.line.is_empty() {
            (listener.serve, self.serve) = (true, true);
        }
    }

    /// Dials those that wait where places may have become free.
    pub(super) fn serve_lines(&mut self) {
        if !std::mem::take(&mut self.serve) {
            return;
        }
        for i in 0..self.listeners.len() {
            if std::mem::take(&mut self.listeners[i].serve) {
                self.serve_line(i);
            }
        }
    }

    fn serve_line(&mut self, i: usize) {
        let (mut passed, mut served) = (0, 0);
        while served < SERVED {
            let Listener { line, pool, no_backend, .. } = &mut self.listeners[i];
            let Some(key) = line.peek(passed, |key| waits(&mut self.slab, key)) else { return };
            let Some(conn) = self.slab.get_mut(key) else { return };
            let mut ask = Ask { now: self.now, client: &conn.peer, tried: &mut conn.tried, random: &mut self.random };
            let choice = pool.choose(&mut ask);
            if choice == Choice::Full {
                if conn.tried.is_empty() || passed == PASSED {
                    return;
                }
                passed += 1;
                continue;
            }
            served += 1;
            line.take(passed);
            conn.state &= !(WAITING | EXPIRED); // it got its place in time
            match choice {
                Choice::Member(slot) => {
                    conn.target = slot;
                    if !self.dial_member(key, slot) {
                        self.dial(key);
                    }
                }
                Choice::Nobody | Choice::Full => {
                    *no_backend += 1;
                    self.end(key, true);
                }
            }
        }
        self.may_serve(i); // in the next turn
    }

    /// Says, for the balancer of this connection, that clients are reset because there is no place for them.
    fn tell_queue(&mut self, key: Key) {
        let Some(conn) = self.slab.get_mut(key) else { return };
        let l = &mut self.listeners[usize::from(conn.listener)];
        if is_due(&mut l.queue_told, self.now) {
            log::warn!(
                "balancer {}: all backends are at their maxConnections and {} clients wait; so far {} were reset because the queue \
                 was full, {} because they had waited for queueTimeout (told once a minute)",
                l.options.name,
                l.line.len(),
                l.queue_full,
                l.queue_timeouts
            );
        }
    }
}

/// Whether this connection still is in a line.
fn waits(slab: &mut Slab<Conn>, key: Key) -> bool {
    slab.get_mut(key).is_some_and(|conn| conn.is(WAITING) && !conn.is(DOOMED))
}

impl Conn {
    /// Whether the client has hung up: it was reset, or sent FIN and nothing else. One that asked before its FIN may still wait
    /// for the answer.
    fn client_left(&self) -> bool {
        let silent = || self.client.fd().is_some_and(|fd| tcp::peek(fd) == Some(0));
        self.client.has(DEAD) || self.client.has(RDHUP) && silent()
    }
}
