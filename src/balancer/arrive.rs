//! What happens between accept and the choice of a backend: who may come in and, where a proxy brings somebody, for whom it comes;
//! and how backends are told of it.
//!
//! Whom a proxy comes for stands in a header before all else. It is peeked at until it is whole, then taken exactly, so that
//! what follows is left to the copying; such a connection is ARRIVING meanwhile. Then its client is judged as if it had come by
//! itself, and goes by the header's address from there on.

use super::admit::Admission;
use super::client::Client;
use super::conn::{ARRIVING, COUNTED, EXPIRED};
use super::engine::{Engine, is_due};
use super::flow::{DEAD, RDHUP, READABLE};
use super::listen::Listener;
use super::proxy::{self, Addresses, Header, Parsed};
use super::slab::Key;
use crate::config::Balancer;
use crate::sys::clock::Instant;
use crate::sys::tcp;
use std::io;
use std::net::SocketAddr;
use std::os::fd::BorrowedFd;
use std::time::Duration;

/// For a proxy's header to be whole, from accept on. It is the first thing that a proxy sends, without waiting for anything, so
/// only lost segments delay it; this is time for two to be sent again (after 1 s and 2 s more).
pub const HEADER_TIMEOUT: Duration = Duration::from_secs(5);

/// The door of one balancer, and the counters of those who didn't get through (those of `status::BalancerStatus`).
#[derive(Debug, Default)]
pub struct Door {
    admission: Admission,
    /// Accepting waits for the rate.
    held: bool,
    pub refused: u64,
    pub over_client_limit: u64,
    pub proxy_errors: u64,
    pub rate_pauses: u64,
    refused_told: Option<Instant>,
    over_told: Option<Instant>,
    errors_told: Option<Instant>,
}

/// Who has come, by the address of the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// Not to be let in.
    Refused,
    /// A client; it is in.
    Client,
    /// A proxy, which must say first for whom it comes.
    Proxy,
}

impl Door {
    pub fn new(balancer: &Balancer) -> Self {
        Self { admission: Admission::new(balancer), ..Self::default() }
    }

    /// Takes over a changed configuration.
    pub fn change(&mut self, balancer: &Balancer) {
        self.admission.change(balancer);
        self.held = false;
    }

    /// Whether a connection may be accepted now, by the rate.
    pub fn is_open(&mut self, now: Instant) -> bool {
        let open = self.admission.wait(now).is_none();
        self.held |= !open;
        open
    }

    /// Nobody waits at it, so nobody was held up.
    pub fn nobody(&mut self) {
        self.held = false;
    }

    /// When it opens; none: it is open.
    pub fn opens(&self, now: Instant) -> Option<Instant> {
        if self.held { self.admission.wait(now) } else { None }
    }

    /// Somebody was accepted.
    fn took(&mut self, now: Instant) {
        self.rate_pauses += u64::from(self.held);
        self.held = false;
        self.admission.took(now);
    }

    /// A client whose connection was [`COUNTED`] has gone.
    pub fn leave(&mut self, client: &Client) {
        self.admission.leave(client.ip());
    }

    /// A client that the program before let in, and counted: [`COUNTED`], where it is counted here too.
    pub fn let_in_again(&mut self, client: &Client) -> u16 {
        if self.admission.counts() && self.admission.enter(client.ip()) { COUNTED } else { 0 }
    }

    /// [`COUNTED`], where connections of each client are.
    pub const fn counted(&self) -> u16 {
        if self.admission.counts() { COUNTED } else { 0 }
    }
}

impl Listener {
    /// Judges who was accepted just now, and is not yet waited for.
    pub fn arrive(&mut self, peer: SocketAddr, now: Instant) -> Arrival {
        let arrival = if !self.door.admission.is_proxy(peer.ip()) {
            if self.let_in(peer, now) { Arrival::Client } else { Arrival::Refused }
        } else if self.door.admission.denies(peer.ip()) {
            self.refuse(peer, now);
            Arrival::Refused
        } else {
            Arrival::Proxy
        };
        if arrival != Arrival::Refused {
            self.door.took(now);
        }
        arrival
    }

    /// Lets a client in and counts it, or says why not.
    fn let_in(&mut self, client: SocketAddr, now: Instant) -> bool {
        if !self.door.admission.serves(client.ip()) {
            self.refuse(client, now);
            return false;
        }
        let entered = self.door.admission.enter(client.ip());
        if !entered {
            self.door.over_client_limit += 1;
            if is_due(&mut self.door.over_told, now) {
                let ip = client.ip().to_canonical();
                log::warn!(
                    "balancer {}: {ip} has maxConnectionsPerClient open, more are reset (told once a minute)",
                    self.options.name
                );
            }
        }
        entered
    }

    fn refuse(&mut self, client: SocketAddr, now: Instant) {
        self.door.refused += 1;
        if is_due(&mut self.door.refused_told, now) {
            let ip = client.ip().to_canonical();
            log::info!("balancer {}: {ip} is refused by allow or deny (told once a minute)", self.options.name);
        }
    }

    fn bad_header(&mut self, proxy: SocketAddr, why: &str, now: Instant) {
        self.door.proxy_errors += 1;
        if is_due(&mut self.door.errors_told, now) {
            let ip = proxy.ip().to_canonical();
            log::warn!(
                "balancer {}: reset a connection from {ip}, which acceptProxy names: {why} (told once a minute)",
                self.options.name
            );
        }
    }
}

/// What a proxy's connection has brought so far.
enum Brought {
    /// Not all of a header.
    Less,
    /// It went without a byte, as a probe does that only wants to see the port open.
    Nothing,
    /// A header, which was taken.
    Header(Option<Addresses>),
    /// Something else, and what is wrong with it.
    Bad(&'static str),
}

/// Looks for a header at the start of what has come; takes it where it is whole. `ended`: nothing more will come.
fn look(fd: BorrowedFd<'_>, ended: bool) -> io::Result<Brought> {
    let mut bytes = [0; proxy::LONGEST];
    let n = match tcp::peek_into(fd, &mut bytes) {
        Ok(0) => return Ok(Brought::Nothing),
        Ok(n) => n,
        Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(Brought::Less),
        Err(e) => return Err(e),
    };
    match proxy::parse(&bytes[..n]) {
        Parsed::NeedMore if ended => Ok(Brought::Bad("it ended before its header was whole")),
        Parsed::NeedMore => Ok(Brought::Less),
        Parsed::Bad(why) => Ok(Brought::Bad(why)),
        Parsed::Done(len, said) => take(fd, &mut bytes[..len]).map(|()| Brought::Header(said)),
    }
}

/// Takes as many bytes as fit into `room`; they are there.
fn take(fd: BorrowedFd<'_>, mut room: &mut [u8]) -> io::Result<()> {
    while !room.is_empty() {
        match tcp::recv(fd, room)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            n => room = &mut room[n..],
        }
    }
    Ok(())
}

impl Engine {
    /// One turn of a connection that owes its header.
    pub(super) fn run_arriving(&mut self, key: Key) {
        let Some(conn) = self.slab.get_mut(key) else { return };
        let Some(fd) = conn.client.fd().filter(|_| !conn.client.has(DEAD)) else { return self.end(key, true) };
        let brought = match conn.is(EXPIRED) {
            true => Ok(Brought::Bad("it sent no whole header within 5 s")),
            false => look(fd, conn.client.has(RDHUP)),
        };
        match brought {
            Ok(Brought::Less) => {}
            Ok(Brought::Header(said)) => self.introduced(key, said),
            Ok(Brought::Bad(why)) => {
                self.listeners[usize::from(conn.listener)].bad_header(conn.peer.address(), why, self.now);
                self.end(key, true);
            }
            Ok(Brought::Nothing) | Err(_) => self.end(key, true),
        }
    }

    /// A proxy has said for whom it comes: from here on that is who the connection is of.
    fn introduced(&mut self, key: Key, said: Option<Addresses>) {
        let (now, stamp) = (self.now, self.stamp());
        let Some(conn) = self.slab.get_mut(key) else { return };
        let listener = &mut self.listeners[usize::from(conn.listener)];
        if let Some(said) = said {
            conn.peer = said.source.into();
            conn.to = listener.options.send_proxy.map(|_| Box::new(said.destination));
        }
        if !listener.let_in(conn.peer.address(), now) {
            return self.end(key, true);
        }
        conn.state &= !ARRIVING;
        conn.state |= listener.door.counted();
        conn.touched = stamp;
        self.dial(key);
    }

    /// Sends the header about a connection to its backend, which has just answered. True: there was one to send.
    ///
    /// What the client has said already follows in the same segment; [`Engine::push`] must be called after that was tried.
    pub(super) fn introduce(&mut self, key: Key) -> bool {
        let Some(conn) = self.slab.get_mut(key) else { return false };
        let Some(version) = self.listeners[usize::from(conn.listener)].options.send_proxy else { return false };
        let to = conn.to.as_deref().copied().or_else(|| conn.client.fd().and_then(tcp::local_address));
        let header = Header::new(version, to.map(|to| Addresses::new(conn.peer.address(), to)));
        let more = conn.client.has(READABLE);
        let sent = conn.backend.fd().map_or(0, |fd| tcp::send(fd, &header, more).unwrap_or(0));
        // The rest, mostly none, instead of the rest for another backend. An error comes again when that is sent.
        conn.client.hold(&header[sent..]);
        true
    }

    /// Sends what the kernel keeps back for more to follow.
    pub(super) fn push(&mut self, key: Key) {
        if let Some(fd) = self.slab.get_mut(key).and_then(|conn| conn.backend.fd()) {
            tcp::push(fd);
        }
    }
}
