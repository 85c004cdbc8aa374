//! Taking connections in: from each listener a few per turn, and pausing where something is used up.

use super::arrive::Arrival;
use super::client::Client;
use super::conn::{ARRIVING, CONNECTING, Conn, End, ON_VIP};
use super::engine::{Engine, is_due};
use super::flow::Half;
use super::listen::Life;
use super::pool::{NOWHERE, Tried};
use crate::sys::tcp;
use std::io::ErrorKind::WouldBlock;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;

/// Accepts per turn and listener: each costs about 20 µs with its connect.
const ACCEPTS: usize = 16;

impl Engine {
    pub(super) fn accept_some(&mut self) {
        for i in 0..self.listeners.len() {
            for _ in 0..ACCEPTS {
                if self.paused || !self.listeners[i].accepts() || !self.listeners[i].door.is_open(self.now) {
                    break;
                }
                self.accept_one(i);
            }
            self.note_limit(i);
        }
    }

    /// Counts that a listener has as many connections as it may have: what comes now waits in its backlog until one has ended.
    fn note_limit(&mut self, i: usize) {
        let l = &mut self.listeners[i];
        let full = l.ready && l.full();
        if full && !l.at_limit {
            l.limit_pauses += 1;
            if is_due(&mut l.limit_told, self.now) {
                let (name, open) = (&l.options.name, l.open);
                log::warn!(
                    "balancer {name}: {open} connections are open, its maxConnections; new ones wait (told once a minute)"
                );
            }
        }
        l.at_limit = full;
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
        if let Life::Leaving(left) = &mut listener.life {
            match left.checked_sub(1) {
                Some(less) => *left = less,
                None => return listener.drained(),
            }
        }
        let Some(fd) = &listener.fd else { return listener.drained() };
        match tcp::accept(fd) {
            Ok((client, peer)) if serve => self.admit(i, client, peer),
            Ok((client, _)) => tcp::reset(client),
            Err(e) if e.kind() == WouldBlock => listener.drained(),
            Err(e) if tcp::is_local_shortage(&e) => self.pause(&format!("can't accept connections: {e}")),
            Err(_) => {} // an error of that connection (accept(2)); the next may be fine
        }
    }

    /// A client that is to be served.
    fn admit(&mut self, i: usize, client: OwnedFd, peer: SocketAddr) {
        let listener = &mut self.listeners[i];
        listener.accepted += 1;
        let state = match listener.arrive(peer, self.now) {
            Arrival::Refused => return tcp::reset(client),
            Arrival::Client => CONNECTING | listener.door.counted(),
            Arrival::Proxy => CONNECTING | ARRIVING,
        };
        listener.open += 1;
        let came_to_vip = |client| tcp::local_address(client).is_some_and(|local| local.ip().to_canonical() == self.vip);
        // Where somebody else moves the VIP, nothing here ends with it.
        let on_vip = !self.always && (listener.options.bind_to_vip || came_to_vip(&client));
        self.on_vip += u64::from(on_vip);
        let conn = Conn {
            client: Half::new(Some(client)),
            backend: Half::new(None),
            tried: Tried::default(),
            touched: self.stamp(),
            peer: Client::from(peer),
            to: None,
            listener: i as u16,
            target: NOWHERE,
            state: if on_vip { state | ON_VIP } else { state },
        };
        let key = self.slab.insert(conn);
        match self.register(key, End::Client) {
            Ok(()) if state & ARRIVING != 0 => {} // its header brings an event
            Ok(()) => self.dial(key),
            Err(e) => self.pause_and_reset(key, &format!("can't watch a connection: {e}")),
        }
    }

    /// Whether listener `i` serves now.
    pub(super) fn serves(&self, i: usize) -> bool {
        let listener = &self.listeners[i];
        listener.fd.is_some() && (self.holding || self.always || !listener.options.bind_to_vip)
    }

    /// Stops accepting until the next sweep, or until a connection has ended. What comes meanwhile waits in the backlog.
    pub(super) fn pause(&mut self, why: &str) {
        self.paused = true;
        self.pauses += 1;
        if is_due(&mut self.pause_told, self.now) {
            log::warn!("accepting pauses: {why}; new connections wait (told once a minute)");
        }
    }
}
