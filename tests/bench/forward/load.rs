//! The load: one thread with a fixed amount of work, spread over a fixed number of connections. Every response is checked.

use super::pattern::{Pattern, request, start_of};
use kube_vip::sys::epoll::{Epoll, Event};
use kube_vip::sys::tcp;
use nix::sys::socket::MsgFlags;
use std::collections::VecDeque;
use std::io::ErrorKind::WouldBlock;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

/// Of a long response the first 4 KiB of each MiB are compared; the bytes between are counted but not copied (MSG_TRUNC), so that
/// this thread stays cheap. A lost or doubled byte in between shifts what is compared after it.
const STRIDE: u64 = 1 << 20;
const COMPARED: u64 = 4 << 10;
/// Reads of one connection before the others have their turn.
const READS: usize = 32;
/// Nothing at all for so long is a failure.
const STALLED: Duration = Duration::from_secs(15);

/// What a run has brought.
#[derive(Debug, Default)]
pub struct Outcome {
    pub elapsed: Duration,
    pub bytes: u64,
    /// ns from the beginning of each request (with a new connection: of its connect) to the last byte, in no order.
    pub latencies: Vec<u32>,
}

/// What to do.
#[derive(Clone, Copy, Debug)]
pub struct Work {
    /// Requests in all.
    pub requests: u64,
    /// Bytes of each response.
    pub length: u64,
    /// A connection of its own for each.
    pub fresh: bool,
}

#[derive(Debug)]
struct Peer {
    fd: Option<OwnedFd>,
    connecting: bool,
    number: u64,
    got: u64,
    began: Instant,
}

/// Connections to one forwarder.
pub struct Load<'a> {
    target: SocketAddr,
    pattern: &'a Pattern,
    epoll: Epoll,
    peers: Vec<Peer>,
    buf: Vec<u8>,
    number: u64,
    work: Work,
    started: u64,
    out: Outcome,
}

impl<'a> Load<'a> {
    /// Nothing connected yet; to be used on a thread of the client's namespace.
    pub fn new(target: SocketAddr, width: usize, pattern: &'a Pattern) -> Self {
        let peer = |_| Peer { fd: None, connecting: false, number: 0, got: 0, began: Instant::now() };
        let work = Work { requests: 0, length: 0, fresh: false };
        let epoll = Epoll::new().expect("epoll");
        let (peers, buf) = ((0..width).map(peer).collect(), vec![0; STRIDE as usize]);
        Load { target, pattern, epoll, peers, buf, number: 0, work, started: 0, out: Outcome::default() }
    }

    /// Does all of `work`. Connections stay open afterwards, unless each request had its own.
    pub fn run(&mut self, work: Work) -> Result<Outcome, String> {
        (self.work, self.started, self.out) = (work, 0, Outcome::default());
        self.out.latencies.reserve(work.requests as usize);
        let began = Instant::now();
        for i in 0..self.peers.len() {
            self.next(i)?;
        }
        let (mut again, mut last) = (VecDeque::new(), Instant::now());
        while (self.out.latencies.len() as u64) < work.requests {
            let wait = if again.is_empty() { Duration::from_secs(1) } else { Duration::ZERO };
            let n = self.epoll.wait(Some(wait)).map_err(|e| format!("epoll: {e}"))?;
            for event in (0..n).map(|i| self.epoll.event(i)).collect::<Vec<Event>>() {
                again.push_back(event.token as usize);
            }
            if n > 0 {
                last = Instant::now();
            } else if last.elapsed() > STALLED {
                return Err(format!("stalled after {} of {} responses", self.out.latencies.len(), work.requests));
            }
            for _ in 0..again.len() {
                let Some(i) = again.pop_front() else { break };
                if self.turn(i)? {
                    again.push_back(i);
                }
            }
        }
        self.out.elapsed = began.elapsed();
        self.nothing_more()?;
        Ok(std::mem::take(&mut self.out))
    }

    /// Starts the next request on a connection, if there is one to start.
    fn next(&mut self, i: usize) -> Result<(), String> {
        let peer = &mut self.peers[i];
        if self.work.fresh {
            peer.fd = None;
        }
        if self.started == self.work.requests {
            return Ok(());
        }
        self.started += 1;
        self.number += 1;
        (peer.number, peer.got, peer.began) = (self.number, 0, Instant::now());
        if peer.fd.is_some() {
            return self.ask(i);
        }
        let fd = tcp::connect(self.target).map_err(|e| format!("connect to {}: {e}", self.target))?;
        self.epoll.add(&fd, i as u64).map_err(|e| format!("epoll: {e}"))?;
        (peer.fd, peer.connecting) = (Some(fd), true);
        Ok(())
    }

    fn ask(&mut self, i: usize) -> Result<(), String> {
        let peer = &self.peers[i];
        let Some(fd) = &peer.fd else { return Err("no connection".to_owned()) };
        let bytes = request(peer.number, self.work.length);
        match tcp::send(fd.as_fd(), &bytes, false) {
            Ok(n) if n == bytes.len() => Ok(()),
            Ok(n) => Err(format!("only {n} bytes of a request could be sent")),
            Err(e) => Err(format!("send: {e}")),
        }
    }

    /// Goes on with a connection; true: there may be more at once.
    fn turn(&mut self, i: usize) -> Result<bool, String> {
        let peer = &mut self.peers[i];
        let Some(fd) = &peer.fd else { return Ok(false) };
        if peer.connecting {
            // A connect that has not ended has no peer yet; one that failed has an error.
            match tcp::take_error(fd) {
                Some(e) => return Err(format!("connect: {e}")),
                None if nix::sys::socket::getpeername::<nix::sys::socket::SockaddrStorage>(fd.as_raw_fd()).is_err() => {
                    return Ok(false);
                }
                None => {}
            }
            peer.connecting = false;
            self.ask(i)?;
            return Ok(false);
        }
        for _ in 0..READS {
            let peer = &mut self.peers[i];
            let Some(fd) = &peer.fd else { return Ok(false) };
            let left = self.work.length - peer.got;
            if left == 0 {
                return Ok(false); // an event of a connection that waits for nothing
            }
            let within = peer.got % STRIDE;
            let compare = within < COMPARED;
            let want = left.min(if compare { COMPARED - within } else { STRIDE - within }) as usize;
            let read = if compare { tcp::recv(fd.as_fd(), &mut self.buf[..want]) } else { discard(fd, &mut self.buf[..want]) };
            let n = match read {
                Ok(0) => return Err(format!("the stream ended after {} of {} bytes", peer.got, self.work.length)),
                Ok(n) => n as u64,
                Err(e) if e.kind() == WouldBlock => return Ok(false),
                Err(e) => return Err(format!("receive: {e}")),
            };
            let place = start_of(peer.number) + peer.got;
            if compare && self.buf[..n as usize] != *self.pattern.at(place, n) {
                return Err(format!("wrong bytes after {} of {}", peer.got, self.work.length));
            }
            peer.got += n;
            self.out.bytes += n;
            if peer.got == self.work.length {
                let took = peer.began.elapsed().as_nanos();
                self.out.latencies.push(u32::try_from(took).unwrap_or(u32::MAX));
                self.next(i)?;
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// No response was longer than it should be.
    fn nothing_more(&mut self) -> Result<(), String> {
        for peer in &self.peers {
            let Some(fd) = &peer.fd else { continue };
            match tcp::recv(fd.as_fd(), &mut self.buf[..1]) {
                Err(e) if e.kind() == WouldBlock => {}
                Ok(0) => return Err("a connection was closed too early".to_owned()),
                Ok(_) => return Err("bytes after the end of a response".to_owned()),
                Err(e) => return Err(format!("receive: {e}")),
            }
        }
        Ok(())
    }
}

/// Takes bytes off the stream without copying them (tcp(7), MSG_TRUNC).
fn discard(fd: &OwnedFd, buf: &mut [u8]) -> std::io::Result<usize> {
    Ok(nix::sys::socket::recv(fd.as_raw_fd(), buf, MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_TRUNC)?)
}
