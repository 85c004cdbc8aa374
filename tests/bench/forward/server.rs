//! The backend: one thread that answers each request with its piece of the pattern. Edge-triggered, as the forwarder is.

use super::lab::Host;
use super::pattern::{PIECE, Pattern, REQUEST, parse, start_of};
use super::pin;
use kube_vip::sys::epoll::{Epoll, Event};
use kube_vip::sys::tcp;
use std::collections::VecDeque;
use std::io::ErrorKind::WouldBlock;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::SeqCst};

/// Its only listener's token; those of connections are slots.
const LISTENER: u64 = 1 << 32;
/// Sends of one connection before the others have their turn.
const SENDS: usize = 32;

/// What the measuring thread may know of the server.
#[derive(Clone, Default)]
pub struct Server {
    open: Arc<AtomicI64>,
    wrong: Arc<AtomicU64>,
    thread: Arc<AtomicI64>,
}

struct Peer {
    fd: OwnedFd,
    request: [u8; REQUEST],
    have: usize,
    /// Where in the pattern the response goes on, and for how long.
    at: u64,
    left: u64,
    ended: bool,
}

impl Server {
    /// Starts it on `host`, for good.
    pub fn start(host: &Host, address: SocketAddr, cpu: Option<usize>) -> Server {
        let (server, host) = (Server::default(), host.clone());
        let told = server.clone();
        let (ready, listens) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            host.join_namespace();
            pin(cpu);
            told.thread.store(nix::unistd::gettid().as_raw().into(), SeqCst);
            let listener = tcp::listen(address, false, 4096).expect("the server can listen");
            ready.send(()).expect("the bench waits");
            serve(&told, &listener);
        });
        listens.recv().expect("the server starts");
        server
    }

    /// Connections open now.
    pub fn open(&self) -> i64 {
        self.open.load(SeqCst)
    }

    /// Requests that were none.
    pub fn wrong(&self) -> u64 {
        self.wrong.load(SeqCst)
    }

    /// Its thread's id.
    pub fn thread(&self) -> i32 {
        self.thread.load(SeqCst) as i32
    }
}

fn serve(told: &Server, listener: &OwnedFd) {
    let pattern = Pattern::new();
    let mut epoll = Epoll::new().expect("epoll");
    epoll.add_source(listener, LISTENER).expect("epoll takes a listener");
    let (mut peers, mut free, mut again) = (Vec::<Option<Peer>>::new(), Vec::new(), VecDeque::new());
    loop {
        let n = epoll.wait((!again.is_empty()).then_some(std::time::Duration::ZERO)).expect("epoll works");
        for event in (0..n).map(|i| epoll.event(i)).collect::<Vec<Event>>() {
            if event.token == LISTENER {
                accept_all(told, &epoll, listener, &mut peers, &mut free);
                continue;
            }
            if let Some(Some(peer)) = peers.get_mut(event.token as usize) {
                peer.ended |= event.read_closed() || event.hung_up() || event.failed();
                again.push_back(event.token as usize);
            }
        }
        for _ in 0..again.len() {
            let Some(slot) = again.pop_front() else { break };
            let Some(Some(peer)) = peers.get_mut(slot) else { continue };
            match turn(peer, &pattern, told) {
                Turn::Wait => {}
                Turn::Again => again.push_back(slot),
                Turn::Close => {
                    peers[slot] = None;
                    free.push(slot);
                    told.open.fetch_sub(1, SeqCst);
                }
            }
        }
    }
}

fn accept_all(told: &Server, epoll: &Epoll, listener: &OwnedFd, peers: &mut Vec<Option<Peer>>, free: &mut Vec<usize>) {
    while let Ok((fd, _)) = tcp::accept(listener) {
        let slot = free.pop().unwrap_or(peers.len());
        if epoll.add(&fd, slot as u64).is_err() {
            return;
        }
        let peer = Peer { fd, request: [0; REQUEST], have: 0, at: 0, left: 0, ended: false };
        if slot == peers.len() {
            peers.push(Some(peer))
        } else {
            peers[slot] = Some(peer)
        }
        told.open.fetch_add(1, SeqCst);
    }
}

enum Turn {
    Wait,
    Again,
    Close,
}

fn turn(peer: &mut Peer, pattern: &Pattern, told: &Server) -> Turn {
    for _ in 0..SENDS {
        if peer.left > 0 {
            match tcp::send(peer.fd.as_fd(), pattern.at(peer.at, peer.left.min(PIECE as u64)), false) {
                Ok(n) => (peer.at, peer.left) = (peer.at + n as u64, peer.left - n as u64),
                Err(e) if e.kind() == WouldBlock => return Turn::Wait,
                Err(_) => return Turn::Close,
            }
            continue;
        }
        let room = REQUEST - peer.have;
        let n = match tcp::recv(peer.fd.as_fd(), &mut peer.request[peer.have..]) {
            Ok(0) => return Turn::Close,
            Ok(n) => n,
            Err(e) if e.kind() == WouldBlock => return Turn::Wait,
            Err(_) => return Turn::Close,
        };
        peer.have += n;
        if peer.have < REQUEST {
            // a short read: all that there was, unless the end is behind it
            if n < room && !peer.ended {
                return Turn::Wait;
            }
            continue;
        }
        peer.have = 0;
        let Some((number, len)) = parse(&peer.request) else {
            told.wrong.fetch_add(1, SeqCst);
            return Turn::Close;
        };
        (peer.at, peer.left) = (start_of(number), len);
    }
    Turn::Again
}
