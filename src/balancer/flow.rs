//! One direction of one connection: bytes from a source socket to the other, by copying or by splicing, until a FIN or a reset.
//!
//! Sockets are registered edge-triggered, so what epoll said is remembered in flags until a call says EAGAIN. A direction owns
//! memory only while its destination is blocked. It starts copying through the thread's one buffer; two full reads in a row
//! make it splice through a borrowed pipe, four thin splices in a row make it copy again.
//!
//! A reset also looks like "peer sent FIN" (RDHUP), and once its error was reported to any call, reading says 0 as after a
//! FIN. Taking it for the end would pass a cut-off stream on as a complete one, so [`DEAD`] is remembered and believed first.

mod kept;

pub use kept::KeptHalf;

use super::pipes::Pipes;
use crate::reactor::Reactor;
use crate::sys::epoll::Event;
use crate::sys::{splice::Pipe, tcp};
use std::io::{self, ErrorKind::WouldBlock};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// One read at most: the size of the thread's buffer.
pub const FULL: usize = 64 << 10;
/// One read at most where the destination was blocked a moment ago, because what it doesn't take must be kept.
const CAREFUL: usize = 16 << 10;
/// Splices that move less than this are not worth their pipe.
const THIN: usize = 16 << 10;

/// Something can be read (or nobody has looked yet).
pub const READABLE: u16 = 1;
/// There is room to send.
pub const WRITABLE: u16 = 1 << 1;
/// The kernel says that the peer sent FIN (or reset).
pub const RDHUP: u16 = 1 << 2;
/// Both directions are shut down.
const HUP: u16 = 1 << 3;
/// The connection is broken: nothing can be sent, and what can still be read isn't the whole stream.
pub const DEAD: u16 = 1 << 4;
/// The peer's FIN was reached: everything it sent was read.
pub const EOF: u16 = 1 << 5;
/// We sent FIN.
pub const FIN_SENT: u16 = 1 << 6;
/// Reading by splice.
const SPLICE: u16 = 1 << 7;
/// Has spliced at some time.
const SPLICED: u16 = 1 << 8;
/// The destination was blocked at the last send.
const SLOW: u16 = 1 << 9;
/// Urgent data was seen: short reads prove nothing, and splice(2) never gets past its mark.
const URGENT: u16 = 1 << 10;

/// Epoll was told to be silent about arriving bytes: see [`Half::mute`].
const MUTED: u16 = 1 << 11;
/// Was muted at some time, and so has SO_OOBINLINE.
const INLINE: u16 = 1 << 12;

/// What all connections of the thread share.
#[derive(Debug)]
pub struct Bench {
    buf: Box<[u8]>,
    /// The pool.
    pub pipes: Pipes,
    /// Bytes read since the caller last set it to 0.
    pub moved: usize,
    /// Bytes that had been held back and were sent since the caller last set it to 0.
    pub flushed: usize,
}

impl Bench {
    /// A buffer of [`FULL`] bytes and a pool of at most `pipes`.
    pub fn new(pipes: usize) -> Self {
        Self { buf: vec![0; FULL].into_boxed_slice(), pipes: Pipes::new(pipes), moved: 0, flushed: 0 }
    }
}

/// What [`pump`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing to do until the next event.
    Idle,
    /// Call again after the others had their turn.
    Again,
    /// The source was reset, and what it had sent before is passed on.
    Broken,
}

#[derive(Debug)]
enum Held {
    Nothing,
    Bytes(Box<Rest>),
    Pipe(Box<Pipe>),
}

#[derive(Debug)]
struct Rest {
    bytes: Box<[u8]>,
    sent: usize,
}

/// A socket, and the direction that starts at it.
#[derive(Debug)]
pub struct Half {
    /// None: not connected yet.
    fd: Option<OwnedFd>,
    flags: u16,
    /// Full reads in a row while copying, thin splices in a row while splicing.
    run: u8,
    /// Read from this socket and not yet sent to the other.
    held: Held,
}

impl Half {
    /// A socket about which nothing is known yet.
    pub const fn new(fd: Option<OwnedFd>) -> Self {
        Self { fd, flags: 0, run: 0, held: Held::Nothing }
    }

    /// Whether any of `flags` is set.
    pub const fn has(&self, flags: u16) -> bool {
        self.flags & flags != 0
    }

    fn set(&mut self, flags: u16) {
        self.flags |= flags;
    }

    fn clear(&mut self, flags: u16) {
        self.flags &= !flags;
    }

    /// Remembers what epoll said. HUP without an error is a reset whose error was already taken, unless we sent FIN.
    pub fn note(&mut self, e: Event) {
        let dead = e.failed() || e.hung_up() && !self.has(FIN_SENT);
        let ended = e.read_closed() || e.hung_up() || dead;
        let said = [
            (e.readable() || ended, READABLE),
            (e.writable(), WRITABLE),
            (e.read_closed(), RDHUP),
            (e.hung_up(), HUP),
            (e.urgent(), URGENT),
            (dead, DEAD),
        ];
        if e.urgent()
            && let Some(fd) = self.fd()
        {
            tcp::keep_urgent_inline(fd);
        }
        self.set(said.into_iter().filter(|s| s.0).fold(0, |all, s| all | s.1));
    }

    /// To be called after [`Half::note`]: while what came from here waits for the other side, each further segment that arrives would
    /// wake the thread for nothing. The first that does makes epoll silent about them, until [`Half::unmute`].
    ///
    /// 4 GiB through a VM with 2 cores: without it a third more context switches or twice as many. Neither a FIN nor a reset is muted.
    pub fn mute(&mut self, e: Event, reactor: &Reactor) {
        let news = e.readable() && !self.has(MUTED | RDHUP | HUP | DEAD | EOF | URGENT);
        if !news || matches!(self.held, Held::Nothing) {
            return;
        }
        let Some(fd) = self.fd() else { return };
        if !self.has(INLINE) {
            tcp::keep_urgent_inline(fd); // its mark is seen only after it was unmuted
        }
        let muted = reactor.mute(fd, e.token).is_ok();
        self.set(if muted { MUTED | INLINE } else { INLINE });
    }

    /// To be called after a turn: once this socket was found empty, epoll is to tell of bytes again. Not before, so that a stream that
    /// is always ahead of its reader costs no calls at all.
    pub fn unmute(&mut self, token: u64, reactor: &Reactor) {
        if !self.has(MUTED) || self.has(READABLE | EOF) {
            return;
        }
        let Some(fd) = self.fd() else { return };
        if reactor.unmute(fd, token).is_ok() {
            self.clear(MUTED); // else: tried again after the next turn
        }
    }

    /// The socket, if there is one.
    pub fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.fd.as_ref().map(AsFd::as_fd)
    }

    /// Everything that this side sent, and its FIN, was passed on.
    pub const fn done(&self) -> bool {
        self.has(EOF) && matches!(self.held, Held::Nothing)
    }

    /// Whether what came from this side waits for `dst` to take it.
    pub const fn blocked_on(&self, dst: &Half) -> bool {
        !matches!(self.held, Held::Nothing) || !dst.has(WRITABLE)
    }

    /// Sends FIN on this socket. False: it is broken.
    pub fn finish(&mut self) -> bool {
        self.set(FIN_SENT);
        let sent = self.fd().is_none_or(|fd| tcp::shut_write(fd).is_ok());
        if !sent {
            self.broke();
        }
        sent
    }

    /// Bytes that go to the other end before any that come from this one, of which none was read yet.
    pub fn hold(&mut self, bytes: &[u8]) {
        let rest = || Held::Bytes(Box::new(Rest { bytes: bytes.into(), sent: 0 }));
        self.held = if bytes.is_empty() { Held::Nothing } else { rest() };
    }

    /// Takes the socket away; a pipe goes back to the pool.
    pub fn take(&mut self, pipes: &mut Pipes) -> Option<OwnedFd> {
        self.drop_held(pipes);
        self.flags = 0;
        self.fd.take()
    }

    /// A send failed. READABLE, so that the next turn reads what is left and then resets the other side.
    fn broke(&mut self) {
        self.set(DEAD | READABLE);
    }

    fn drop_held(&mut self, pipes: &mut Pipes) {
        if let Held::Pipe(pipe) = std::mem::replace(&mut self.held, Held::Nothing) {
            pipes.give_back(pipe);
        }
    }
}

/// One read from `src` and its sending to `dst`, after what was held back before.
pub fn pump(src: &mut Half, dst: &mut Half, bench: &mut Bench) -> Step {
    if dst.has(DEAD) {
        src.drop_held(&mut bench.pipes);
        return if src.has(DEAD) { Step::Broken } else { Step::Idle };
    }
    if !dst.has(WRITABLE) {
        return Step::Idle;
    }
    match flush(src, dst, bench) {
        Ok(true) => {}
        Ok(false) => return Step::Idle,
        Err(_) => {
            dst.broke();
            return Step::Again;
        }
    }
    if src.has(EOF) || !src.has(READABLE) {
        return Step::Idle;
    }
    let step = if src.has(SPLICE) && !src.has(URGENT) { splice_once(src, dst, bench) } else { copy_once(src, dst, bench) };
    match step {
        Step::Idle if dst.has(DEAD) || src.has(READABLE) && !src.has(EOF) && dst.has(WRITABLE) => Step::Again,
        step => step,
    }
}

/// Sends what is held. `Ok(true)`: nothing is held any more. `Ok(false)`: `dst` is blocked. `Err`: `dst` is broken.
fn flush(src: &mut Half, dst: &mut Half, bench: &mut Bench) -> io::Result<bool> {
    let Some(to) = dst.fd() else { return Ok(false) };
    let blocked = match &mut src.held {
        Held::Nothing => return Ok(true),
        Held::Bytes(rest) => match tcp::send(to, &rest.bytes[rest.sent..], false) {
            Ok(n) => {
                rest.sent += n;
                bench.flushed += n;
                rest.sent < rest.bytes.len()
            }
            Err(e) if e.kind() == WouldBlock => true,
            Err(e) => return Err(e),
        },
        Held::Pipe(pipe) => {
            let before = pipe.len;
            let blocked = drain(pipe, to)?;
            bench.flushed += before - pipe.len;
            blocked
        }
    };
    match blocked {
        true => dst.clear(WRITABLE),
        false => src.drop_held(&mut bench.pipes),
    }
    Ok(!blocked)
}

/// Empties `pipe` into `to`, unless that blocks (true).
fn drain(pipe: &mut Pipe, to: BorrowedFd<'_>) -> io::Result<bool> {
    while pipe.len > 0 {
        match pipe.drain(to) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(_) => {}
            Err(e) if e.kind() == WouldBlock => return Ok(true),
            Err(e) => return Err(e),
        }
    }
    Ok(false)
}

fn copy_once(src: &mut Half, dst: &mut Half, bench: &mut Bench) -> Step {
    let (Some(from), Some(to)) = (src.fd(), dst.fd()) else { return Step::Idle };
    let want = if src.has(SLOW) { CAREFUL } else { FULL };
    let n = match tcp::recv(from, &mut bench.buf[..want]) {
        Ok(0) => return ended(src, dst),
        Ok(n) => n,
        Err(e) => return stopped(src, &e),
    };
    bench.moved += n;
    // A short read has emptied the socket; with a FIN behind it, and no reset, it was the last. Not while urgent data goes unseen.
    let drained = n < want && !src.has(URGENT | HUP | DEAD | MUTED);
    let last = drained && src.has(RDHUP);
    let sent = match tcp::send(to, &bench.buf[..n], last) {
        Ok(sent) => sent,
        Err(e) if e.kind() == WouldBlock => 0,
        Err(_) => {
            dst.broke();
            return Step::Idle;
        }
    };
    src.clear(if drained { READABLE | SLOW } else { SLOW });
    src.set(if last { EOF } else { 0 });
    if sent < n {
        src.held = Held::Bytes(Box::new(Rest { bytes: bench.buf[sent..n].into(), sent: 0 }));
        src.set(SLOW);
        dst.clear(WRITABLE);
    }
    src.run = if n == want { src.run.saturating_add(1) } else { 0 };
    if src.run >= 2 && !src.has(URGENT) {
        src.run = 0;
        src.set(SPLICE);
    }
    Step::Idle
}

fn splice_once(src: &mut Half, dst: &mut Half, bench: &mut Bench) -> Step {
    let Some(from) = src.fd() else { return Step::Idle };
    let Some(mut pipe) = bench.pipes.borrow() else {
        src.clear(SPLICE);
        return copy_once(src, dst, bench);
    };
    let filled = pipe.fill(from);
    if !matches!(filled, Ok(1..)) {
        bench.pipes.give_back(pipe);
    } else {
        src.held = Held::Pipe(pipe);
    }
    let n = match filled {
        Ok(0) if src.has(MUTED) => {
            src.clear(READABLE); // the end, or an urgent mark: epoll will tell, and the next turn look again
            return Step::Idle;
        }
        Ok(0) => return ended(src, dst),
        Ok(n) => n,
        Err(e) if matches!(e.raw_os_error(), Some(libc::EINVAL | libc::ENOSYS)) => {
            bench.pipes.disable();
            src.clear(SPLICE);
            return Step::Idle;
        }
        Err(e) => return stopped(src, &e),
    };
    bench.moved += n;
    src.set(SPLICED);
    src.run = if n < THIN { src.run + 1 } else { 0 };
    if src.run >= 4 {
        src.run = 0;
        src.clear(SPLICE);
    }
    if flush(src, dst, bench).is_err() {
        dst.broke();
    }
    Step::Idle
}

/// Reading said 0: a FIN, unless the error of a reset was reported to another call before. A splice into `src` can take it
/// unseen (it returns the bytes it had moved before), so then the kernel is asked.
fn ended(src: &mut Half, dst: &Half) -> Step {
    let taken = dst.has(SPLICED) && !src.has(FIN_SENT) && src.fd().is_some_and(tcp::is_closed);
    if src.has(DEAD) || taken {
        return Step::Broken;
    }
    src.set(EOF);
    src.clear(READABLE);
    Step::Idle
}

/// Reading failed.
fn stopped(src: &mut Half, e: &io::Error) -> Step {
    if e.kind() != WouldBlock || src.has(DEAD) {
        return Step::Broken;
    }
    src.clear(READABLE);
    Step::Idle
}
