//! The outgoing connection to one peer: connect, shake hands, send requests, reconnect with back-off and jitter.

use super::hello::Hello;
use super::io::{Broken, Reader, read_frame, reader, within};
use super::message::{Request, Response};
use super::wire::{self, Flags, Header, Kind, PREAMBLE};
use crate::cluster::runtime::{jitter, now, sleep, sleep_until};
use crate::cluster::shared::{Peer, Shared};
use crate::reactor::Async;
use log::{debug, log, warn};
use smol::future::FutureExt;
use smol::io::AsyncWriteExt;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use std::net::{SocketAddr, TcpStream};
use std::rc::Rc;
use std::time::Duration;

/// A handshake may take twice this long; a connection that ends sooner was none.
const CONNECT: Duration = Duration::from_secs(1);
/// An answer may take two leases within these bounds, an attempt to connect one. A segment that is lost in a short cut is repeated by TCP
/// only after as long again as the cut took (a SYN after 1 s): longer than an election; a new connection is there at once.
const PATIENCE: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(6));
/// Back-off between attempts: doubles between these two, at most one lease, with jitter of up to a half.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(640));
/// A connection without other requests is pinged this often, or each third heartbeat if that is later: every second one is its own.
const PING: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(3));
/// The same while the cluster is not initialised, when flags are waited for.
const PING_FRESH: Duration = Duration::from_millis(100);

/// Keeps the connection to `shared.peers[index]` for ever.
pub async fn keep_connected(shared: Rc<Shared>, index: usize) {
    let peer = &shared.peers[index];
    let mut backoff = BACKOFF.0;
    let mut brief = false;
    loop {
        let met = within(CONNECT * 2, meet(&shared, peer)).await;
        match met {
            Ok(stream) => {
                let since = now();
                // A peer that accepts but does not answer is told of once, not with every attempt.
                let level = if brief { log::Level::Debug } else { log::Level::Info };
                peer_up(&shared, peer, level);
                let why = talk(&shared, peer, &stream).await;
                peer.calls.disconnect();
                brief = now() - since < CONNECT;
                let level = if brief { level } else { log::Level::Info };
                log!(level, "peer {}: connection to {} lost: {why}", peer.id, peer.address);
                peer.set_problem(why.to_string());
                if !brief {
                    backoff = BACKOFF.0; // one that ends at once is no better than none
                }
            }
            Err(why) => note_failure(peer, &why),
        }
        // A peer that calls can be called: after a partition both directions are back at once.
        sleep(backoff / 2 + jitter(backoff / 2)).or(peer.called.wait()).await;
        backoff = (backoff * 2).min(shared.lease().clamp(BACKOFF.0 * 4, BACKOFF.1));
    }
}

fn patience(lease: Duration) -> Duration {
    (lease * 2).clamp(PATIENCE.0, PATIENCE.1)
}

pub(super) fn peer_up(shared: &Shared, peer: &Peer, level: log::Level) {
    log!(level, "peer {}: connected to {}", peer.id, peer.address);
    peer.clear_problem();
    peer.calls.connect();
    shared.peer_came_up(&peer.id);
}

/// One line per change of reason, not one per attempt.
fn note_failure(peer: &Peer, why: &Broken) {
    let text = why.to_string();
    if peer.problem().as_deref() != Some(&text) {
        warn!("peer {}: no connection to {}: {text} (trying again)", peer.id, peer.address);
        peer.set_problem(text);
    }
}

/// Connects from this node's own address (peers know it by that) and shakes hands.
async fn meet(shared: &Shared, peer: &Peer) -> Result<Async<TcpStream>, Broken> {
    let limit = shared.lease().clamp(PATIENCE.0, CONNECT);
    let stream = connect(shared.address, peer.address, limit).await?;
    let mut out = &stream;
    let mut first = PREAMBLE.to_vec();
    first.extend(hello(shared, peer)?);
    out.write_all(&first).await?;
    let (header, payload) = read_frame(&mut reader(&stream)).await?;
    welcomed(peer, header, &payload)?;
    Ok(stream)
}

/// The first frame of a call.
pub(super) fn hello(shared: &Shared, peer: &Peer) -> Result<Vec<u8>, wire::Bad> {
    let hello = Hello { to: peer.id.clone(), ..shared.hello.clone() };
    wire::emit(Kind::Hello, shared.flags(), 0, &hello).ok_or(wire::Bad::Payload)
}

/// The answer to it.
pub(super) fn welcomed(peer: &Peer, header: Header, payload: &[u8]) -> Result<(), Broken> {
    match header.kind {
        Kind::Welcome => {
            peer.heard(now(), header.flags);
            Ok(())
        }
        Kind::Refused => {
            let text: String = wire::parse_payload(payload)?;
            Err(Broken::Io(std::io::Error::other(format!("refused by the peer: {}", printable(&text)))))
        }
        _ => Err(Broken::Bad(wire::Bad::Kind(header.kind as u8))),
    }
}

/// A peer's text for our log: bounded, and without control characters.
fn printable(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(300).collect()
}

async fn connect(from: SocketAddr, to: SocketAddr, limit: Duration) -> Result<Async<TcpStream>, Broken> {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_tcp_nodelay(true)?;
    socket.bind(&SockAddr::from(SocketAddr::new(from.ip(), 0)))?;
    within(limit, async { Ok(Async::connect(socket, to).await?) }).await
}

/// Sends requests and hands out answers until the connection breaks or the peer stops answering.
async fn talk(shared: &Shared, peer: &Peer, stream: &Async<TcpStream>) -> Broken {
    let write = async {
        let mut out = stream;
        loop {
            let frame = peer.calls.next_frame().await;
            if let Err(e) = out.write_all(&frame).await {
                return Broken::Io(e);
            }
        }
    };
    let mut input = reader(stream);
    let read = async {
        loop {
            if let Err(broken) = read_answer(peer, &mut input).await {
                return broken;
            }
        }
    };
    write.or(read).or(watch(shared, peer)).await
}

async fn read_answer(peer: &Peer, input: &mut Reader<'_>) -> Result<(), Broken> {
    let (header, payload) = read_frame(input).await?;
    Ok(take_answer(peer, header, &payload)?)
}

/// Hands an answer to whoever asked.
pub(super) fn take_answer(peer: &Peer, header: Header, payload: &[u8]) -> Result<(), wire::Bad> {
    if header.kind != Kind::Response {
        return Err(wire::Bad::Kind(header.kind as u8));
    }
    let response: Response = wire::parse_payload(payload)?;
    let now = now();
    peer.heard(now, header.flags);
    peer.calls.answered(header.id, response, now);
    Ok(())
}

/// Pings an idle connection, and gives up one whose peer owes an answer for too long.
pub(super) async fn watch(shared: &Shared, peer: &Peer) -> Broken {
    let patience = patience(shared.lease());
    loop {
        let pause = if shared.is_empty() { PING_FRESH } else { (shared.heartbeat() * 3).clamp(PING.0, PING.1) };
        let (now, idle_until) = (now(), peer.calls.last_asked() + pause);
        match peer.calls.owing_since() {
            Some(since) if now >= since + patience => return Broken::Silent(now - since),
            Some(since) => sleep_until((since + patience).min(now + pause)).await,
            None if now >= idle_until => ping(shared.flags(), peer, patience).await,
            None => sleep_until(idle_until).or(peer.calls.owes()).await,
        }
    }
}

async fn ping(flags: Flags, peer: &Peer, patience: Duration) {
    let asked = now();
    let answer = within(patience, async { Ok(peer.calls.call(flags, &Request::Ping, asked).await) }).await;
    match answer {
        Ok(Ok(_)) => peer.round_trip(now() - asked),
        other => debug!("peer {}: ping: {other:?}", peer.id),
    }
}
