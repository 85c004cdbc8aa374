//! The incoming side: accept, shake hands, answer requests. One bad caller costs one log line and its own connection.

use super::hello::{self, Hello, Host};
use super::io::{Broken, Reader, read_frame, read_preamble, reader, within};
use super::message::{Request, Response};
use super::wire::{self, Header, Kind};
use crate::cluster::Ports;
use crate::cluster::answer::answer;
use crate::cluster::runtime::{now, sleep, spawn};
use crate::cluster::shared::Shared;
use crate::reactor::Async;
use crate::sys::clock::Instant;
use log::{debug, warn};
use smol::future::FutureExt;
use smol::io::AsyncWriteExt;
use std::cell::{Cell, RefCell};
use std::net::{IpAddr, TcpStream};
use std::rc::Rc;
use std::time::Duration;

/// A caller has this long to say who it is.
const HANDSHAKE: Duration = Duration::from_secs(2);
/// At most this many callers that have not said who they are.
const STRANGERS: usize = 32;
/// A peer that says nothing for this long is gone (it pings twice a second).
const IDLE: Duration = Duration::from_secs(10);
/// A source that goes on being refused is named again after this time, then after twice that, up to the second value.
const LOG_AGAIN: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(600));
/// How long accept rests when there are no file descriptors.
const REST: Duration = Duration::from_millis(200);

/// Accepts callers for ever.
pub async fn serve(shared: Rc<Shared>, ports: Rc<Ports>) {
    let listener = &ports.tcp;
    // Two counts, so that whoever fills the one can't keep the peers out.
    let (strangers, peers) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(0)));
    let refusals = Rc::new(Refusals::default());
    loop {
        match listener.accept().await {
            Ok((stream, from)) => {
                let from = from.ip().to_canonical();
                let of_peer = shared.addresses.iter().any(|(_, ip)| ip.to_canonical() == from);
                let Some(guard) = Unknown::enter(if of_peer { &peers } else { &strangers }) else {
                    debug!("raft port: too many callers that don't say who they are, dropping {from}");
                    continue;
                };
                let caller = Caller { shared: shared.clone(), refusals: refusals.clone(), from };
                spawn(async move { caller.run(stream, guard).await });
                smol::future::yield_now().await; // a flood of callers must not keep heartbeats waiting
            }
            Err(e) => {
                if refusals.worth_a_line(shared.address.ip(), now()) {
                    warn!("raft port {}: can't accept: {e}", shared.address);
                }
                sleep(REST).await;
            }
        }
    }
}

/// Counts a caller that has not said who it is, until this is dropped.
struct Unknown(Rc<Cell<usize>>);

impl Unknown {
    /// None: there are too many of them.
    fn enter(count: &Rc<Cell<usize>>) -> Option<Self> {
        let free = count.get() < STRANGERS;
        free.then(|| {
            count.set(count.get() + 1);
            Self(count.clone())
        })
    }
}

impl Drop for Unknown {
    fn drop(&mut self) {
        self.0.set(self.0.get().saturating_sub(1));
    }
}

/// Remembers the last few refused sources, so that neither a scan nor a peer that is set up wrong floods the log.
#[derive(Default)]
struct Refusals(RefCell<Vec<Refused>>);

struct Refused {
    from: IpAddr,
    told: Instant,
    pause: Duration,
}

impl Refusals {
    fn worth_a_line(&self, from: IpAddr, now: Instant) -> bool {
        let mut seen = self.0.borrow_mut();
        seen.retain(|r| now - r.told < r.pause * 2);
        let full = seen.len() >= STRANGERS;
        match seen.iter_mut().find(|r| r.from == from) {
            Some(known) if now - known.told < known.pause => false,
            Some(known) => {
                (known.told, known.pause) = (now, (known.pause * 2).min(LOG_AGAIN.1));
                true
            }
            None if full => false,
            None => {
                seen.push(Refused { from, told: now, pause: LOG_AGAIN.0 });
                true
            }
        }
    }
}

struct Caller {
    shared: Rc<Shared>,
    refusals: Rc<Refusals>,
    from: IpAddr,
}

impl Caller {
    async fn run(self, stream: Async<TcpStream>, unknown: Unknown) {
        let _ = stream.get_ref().set_nodelay(true);
        let mut input = reader(&stream);
        let index = match within(HANDSHAKE, self.handshake(&mut input, &stream)).await {
            Ok(index) => index,
            Err(why) => return self.refused(&why.to_string()),
        };
        drop(unknown);
        let peer = &self.shared.peers[index];
        let turn = peer.new_caller();
        debug!("peer {}: calls from {}", peer.id, self.from);
        let talk = async {
            loop {
                if let Err(why) = self.answer_one(index, &mut input, &stream).await {
                    return why;
                }
            }
        };
        let replaced = async {
            peer.replaced(turn).await;
            Broken::Io(std::io::Error::other("replaced by a newer connection"))
        };
        let why = talk.or(replaced).await;
        match why {
            Broken::Bad(bad) => self.refused(&format!("peer {}: {bad}", peer.id)),
            why => debug!("peer {}: its connection ended: {why}", peer.id),
        }
    }

    fn refused(&self, why: &str) {
        if self.refusals.worth_a_line(self.from, now()) {
            warn!("raft port {}: refused a connection from {}: {why}", self.shared.address, self.from);
        } else {
            debug!("raft port {}: refused a connection from {}: {why}", self.shared.address, self.from);
        }
    }

    async fn handshake(&self, input: &mut Reader<'_>, mut out: &Async<TcpStream>) -> Result<usize, Broken> {
        read_preamble(input).await?;
        let (header, payload) = read_frame(input).await?;
        let (frame, judged) = greet(&self.shared, self.from, header, &payload)?;
        out.write_all(&frame).await?;
        judged.map_err(|text| Broken::Io(std::io::Error::other(text)))
    }

    /// Reads a request and answers it. In order: a peer has few requests under way, and heartbeats never wait for a vote of the
    /// same peer, because who campaigns does not lead.
    async fn answer_one(&self, index: usize, input: &mut Reader<'_>, mut out: &Async<TcpStream>) -> Result<(), Broken> {
        let (header, payload) = within(IDLE, read_frame(input)).await?;
        let frame = respond(&self.shared, index, header, &payload).await?;
        Ok(out.write_all(&frame).await?)
    }
}

/// Judges a Hello: the frame to answer it with, and the index of the peer, or why it is refused.
pub(super) fn greet(
    shared: &Shared,
    from: IpAddr,
    header: Header,
    payload: &[u8],
) -> Result<(Vec<u8>, Result<usize, String>), wire::Bad> {
    if header.kind != Kind::Hello {
        return Err(wire::Bad::Kind(header.kind as u8));
    }
    let hello: Hello = wire::parse_payload(payload)?;
    let host = Host { own: &shared.hello, address: shared.address.ip(), peers: &shared.addresses };
    let judged = hello::judge(&hello, from, &host);
    let (kind, text) = match &judged {
        Ok(_) => (Kind::Welcome, ""),
        Err(text) => (Kind::Refused, text.as_str()),
    };
    let frame = wire::emit(kind, shared.flags(), header.id, &text).ok_or(wire::Bad::Payload)?;
    if let Ok(index) = judged {
        let peer = &shared.peers[index];
        peer.heard(now(), header.flags);
        if peer.returns(hello.incarnation) {
            warn!(
                "two machines speak as \"{}\" from {from}: is one a copy of the other's disk? Give each an id and an address of its own",
                peer.id
            );
        }
    }
    Ok((frame, judged))
}

/// Answers one request: the frame of the response.
pub(super) async fn respond(shared: &Rc<Shared>, index: usize, header: Header, payload: &[u8]) -> Result<Vec<u8>, wire::Bad> {
    if header.kind != Kind::Request {
        return Err(wire::Bad::Kind(header.kind as u8));
    }
    let request: Request = wire::parse_payload(payload)?;
    let peer = &shared.peers[index];
    peer.heard(now(), header.flags);
    let response: Response = answer(shared, &peer.id, header.flags, request).await;
    wire::emit(Kind::Response, shared.flags(), header.id, &response).ok_or(wire::Bad::Payload)
}
