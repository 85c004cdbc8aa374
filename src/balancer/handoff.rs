//! The forwarder, as one program hands it to the next: listeners, connections with what they hold, what is known of backends.
//!
//! A connection that is open goes on where it is, to the byte. One whose connect is under way, or that waits for a place, begins anew: its
//! client has got nothing yet, and nothing of it was read. What a listener's backlog holds is in the kernel and stays there.

use super::client::Client;
use super::conn::{ARRIVING, CONNECTING, COUNTED, Conn, EXPIRED, End, ON_VIP, QUEUED, SETTLE, WAITED, WAITING};
use super::engine::Engine;
use super::flow::{Half, KeptHalf};
use super::listen::{Life, Listener};
use super::pool::{Hosts, KeptMember, NOWHERE, Tried};
use super::slab::Key;
use super::{OpenError, Spec};
use crate::config::Balancer;
use crate::sys::clock::Instant;
use crate::sys::handed::{self, Passed};
use crate::sys::tcp;
use serde::{Deserialize, Serialize};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::RawFd;

/// See [`super::Control::keep`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptForwarder {
    /// By which connections count their time.
    began: Instant,
    hosts: Hosts,
    listeners: Vec<KeptListener>,
    conns: Vec<KeptConn>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct KeptListener {
    port: u16,
    bind_to_vip: bool,
    /// None: closed, but its connections are not all over.
    fd: Option<RawFd>,
    members: Vec<KeptMember>,
    /// Accepted, without backend, queue full, waited too long, paused, bytes in, bytes out.
    counted: [u64; 7],
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct KeptConn {
    client: KeptHalf,
    backend: Option<(SocketAddr, KeptHalf)>,
    touched: u32,
    peer: SocketAddr,
    to: Option<SocketAddr>,
    /// Its place among the listeners.
    listener: usize,
    state: u16,
}

impl KeptForwarder {
    /// How many connections there are.
    pub fn connections(&self) -> usize {
        self.conns.len()
    }
}

impl Engine {
    /// See [`super::Control::keep`].
    pub fn keep(&mut self, passed: &mut Passed) -> KeptForwarder {
        let listener = |l: &Listener| KeptListener {
            port: l.options.port,
            bind_to_vip: l.options.bind_to_vip,
            fd: l.fd.as_ref().map(|fd| passed.add(fd)),
            members: l.pool.keep(),
            counted: [l.accepted, l.no_backend, l.queue_full, l.queue_timeouts, l.limit_pauses, l.bytes[0], l.bytes[1]],
        };
        let listeners: Vec<KeptListener> = self.listeners.iter().map(listener).collect();
        let (all, mut conns) = (&self.listeners, Vec::with_capacity(self.slab.len()));
        // Those that wait come last, in the order of their lines: so they join them again.
        let mut keys: Vec<Key> = self.slab.iter_mut().filter(|(_, conn)| !conn.is(WAITING)).map(|(key, _)| key).collect();
        let others = keys.len();
        keys.extend(all.iter().flat_map(|l| l.line.keys()));
        for (i, key) in keys.into_iter().enumerate() {
            let Some(conn) = self.slab.get_mut(key).filter(|conn| i < others || conn.is(WAITING)) else { continue };
            let Some(client) = conn.client.keep(passed) else { continue };
            let listener = usize::from(conn.listener);
            let address = all[listener].pool.get(conn.target).map(|m| m.address);
            let open = address.filter(|_| !conn.is(CONNECTING));
            let backend = open.and_then(|address| Some((address, conn.backend.keep(passed)?)));
            let state = conn.state & !(QUEUED | EXPIRED | SETTLE | WAITING | WAITED);
            let (peer, to) = (conn.peer.address(), conn.to.as_deref().copied());
            conns.push(KeptConn { client, backend, touched: conn.touched, peer, to, listener, state });
        }
        KeptForwarder { began: self.began, hosts: self.hosts.clone(), listeners, conns }
    }

    /// Opens what the program before left, then puts the configuration in place as a reload does.
    ///
    /// # Errors
    /// As [`Engine::open`].
    pub fn resume(spec: Spec, kept: KeptForwarder) -> Result<Self, OpenError> {
        let Spec { balancers, vip, serve_vip_always, limits } = spec;
        let mut engine = Self::open(Spec { balancers: Vec::new(), vip, serve_vip_always, limits })?;
        (engine.began, engine.hosts) = (kept.began, kept.hosts);
        for listener in kept.listeners {
            engine.resume_listener(listener, &balancers)?;
        }
        let all = kept.conns.len();
        // Before the configuration: a listener that has left is there for as long as it has connections.
        let keys: Vec<Key> = kept.conns.into_iter().filter_map(|conn| engine.resume_conn(conn).ok()).collect();
        // What is listened on goes on in any case: losing all of it for the sake of a port that another program has would be worse.
        if let Err(e) = engine.apply(balancers) {
            log::error!("{e}; the balancers go on as they were: mend this, and restart where `kube-vip reload` does not help");
        }
        if keys.len() < all {
            log::warn!("{} connections could not be handed on and were closed", all - keys.len());
        }
        keys.into_iter().for_each(|key| engine.begin_again(key));
        Ok(engine)
    }

    /// Connections name their listener by its place: each gets its own again, also where it is no longer configured.
    fn resume_listener(&mut self, kept: KeptListener, balancers: &[Balancer]) -> Result<(), OpenError> {
        let same = |b: &&Balancer| (b.port, b.bind_to_vip) == (kept.port, kept.bind_to_vip);
        let gone = || Balancer::new(format!("(port {})", kept.port), kept.port, kept.bind_to_vip, Vec::new());
        let options = balancers.iter().find(same).cloned().unwrap_or_else(gone);
        let fd = kept.fd.map(handed::take).transpose()?;
        let ip = if kept.bind_to_vip { self.vip } else { IpAddr::from([0; 4]) };
        let address = fd.as_ref().and_then(tcp::local_address).unwrap_or(SocketAddr::new(ip, kept.port));
        if let Some(fd) = &fd {
            self.reactor.add_source(fd, self.listeners.len() as u64)?;
        }
        let life = if fd.is_some() { Life::Open } else { Life::Leaving(0) };
        let mut listener = Listener { fd, life, ..Listener::closed(options, address) };
        listener.pool.configure(&listener.options, &self.hosts, self.now);
        listener.pool.go_on_from(&kept.members, listener.options.health_check.is_some(), self.now);
        let counters = &mut listener;
        [
            counters.accepted,
            counters.no_backend,
            counters.queue_full,
            counters.queue_timeouts,
            counters.limit_pauses,
            counters.bytes[0],
            counters.bytes[1],
        ] = kept.counted;
        self.listeners.push(listener);
        Ok(())
    }

    fn resume_conn(&mut self, kept: KeptConn) -> io::Result<Key> {
        let client = kept.client.resume(&mut self.bench.pipes)?;
        let Some(listener) = self.listeners.get_mut(kept.listener) else { return Err(io::ErrorKind::NotFound.into()) };
        let (backend, target) = match kept.backend {
            Some((address, half)) => (half.resume(&mut self.bench.pipes)?, listener.pool.adopt(address)),
            None => (Half::new(None), NOWHERE),
        };
        listener.open += 1;
        self.on_vip += u64::from(kept.state & ON_VIP != 0);
        let peer = Client::from(kept.peer);
        let counted = if kept.state & COUNTED == 0 { 0 } else { listener.door.let_in_again(&peer) };
        let key = self.slab.insert(Conn {
            client,
            backend,
            tried: Tried::default(),
            touched: kept.touched,
            peer,
            to: kept.to.map(Box::new),
            listener: kept.listener as u16,
            target,
            state: kept.state & !COUNTED | counted,
        });
        if let Err(e) = self.register(key, End::Client).and_then(|()| self.register(key, End::Backend)) {
            self.end(key, true);
            return Err(e);
        }
        Ok(key)
    }

    /// Its turn: to dial where it had no backend yet, else to see what has come meanwhile.
    fn begin_again(&mut self, key: Key) {
        match self.slab.get_mut(key).is_some_and(|conn| conn.is(CONNECTING) && !conn.is(ARRIVING)) {
            true => self.dial(key),
            false => self.enqueue(key),
        }
    }
}
