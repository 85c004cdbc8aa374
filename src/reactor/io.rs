//! Descriptors that tasks read and write: registered once, tried first, waited for only where the kernel said "later".

use super::{OWN, Reactor, current};
use crate::sys::epoll::Event;
use smol::io::{AsyncRead, AsyncWrite};
use socket2::{SockRef, Socket};
use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

/// One direction of a descriptor.
#[derive(Debug, Default)]
struct Way {
    /// It may succeed: nobody has met WouldBlock since the last edge.
    open: Cell<bool>,
    waiter: RefCell<Option<Waker>>,
}

impl Way {
    fn note(&self) {
        self.open.set(true);
        let waiter = self.waiter.borrow_mut().take(); // in a statement of its own: waking may run foreign code
        if let Some(waiter) = waiter {
            waiter.wake();
        }
    }

    fn wait(&self, cx: &Context<'_>) {
        let mut waiter = self.waiter.borrow_mut();
        if !waiter.as_ref().is_some_and(|w| w.will_wake(cx.waker())) {
            let old = waiter.replace(cx.waker().clone());
            drop(waiter);
            drop(old); // may run foreign code: only after the borrow
        }
    }
}

/// What is known of a registered descriptor. At first nothing: the kernel tells its state right after it was added.
#[derive(Debug, Default)]
pub(super) struct Source {
    reading: Way,
    writing: Way,
    /// The end, an error or urgent data was told, perhaps together with bytes: a short read no longer means that nothing is left.
    watchful: Cell<bool>,
}

impl Source {
    pub(super) fn note(&self, event: Event) {
        let broken = event.failed() || event.hung_up();
        if broken || event.read_closed() || event.urgent() {
            self.watchful.set(true);
        }
        if broken || event.readable() || event.read_closed() {
            self.reading.note();
        }
        if broken || event.writable() {
            self.writing.note();
        }
    }
}

#[cfg(test)]
impl Source {
    /// As an event for an earlier owner of the number would do.
    pub(super) fn note_everything(&self) {
        self.reading.note();
        self.writing.note();
    }
}

/// The registered descriptors, by number.
#[derive(Debug, Default)]
pub(super) struct Sources {
    list: Vec<Option<Rc<Source>>>,
    free: Vec<u32>,
}

impl Sources {
    pub(super) fn get(&self, index: u64) -> Option<Rc<Source>> {
        self.list.get(usize::try_from(index).ok()?)?.clone()
    }

    fn add(&mut self, source: Rc<Source>) -> u32 {
        if let Some(index) = self.free.pop() {
            self.list[index as usize] = Some(source);
            return index;
        }
        self.list.push(Some(source));
        (self.list.len() - 1) as u32
    }

    fn remove(&mut self, index: u32) {
        self.list[index as usize] = None;
        self.free.push(index);
    }
}

/// A descriptor that tasks of this thread can wait for: at most one task that reads, and one that writes.
#[derive(Debug)]
pub struct Async<T: AsFd> {
    inner: T,
    reactor: Rc<Reactor>,
    source: Rc<Source>,
    pub(super) index: u32,
}

impl<T: AsFd> Async<T> {
    /// Makes it non-blocking and registers it with this thread's reactor. A connecting socket: after its connect(2) began.
    ///
    /// # Errors
    /// Those of fcntl(2) and epoll_ctl(2), and of making the reactor.
    pub fn new(inner: T) -> io::Result<Self> {
        SockRef::from(&inner).set_nonblocking(true)?;
        let (reactor, source) = (current()?, Rc::<Source>::default());
        let index = reactor.sources.borrow_mut().add(source.clone());
        let made = Self { inner, reactor, source, index };
        made.reactor.add(&made.inner, OWN + u64::from(index))?;
        Ok(made)
    }

    /// What was wrapped.
    pub fn get_ref(&self) -> &T {
        &self.inner
    }

    /// Tries `op` where it may succeed, and registers for the next chance where it says WouldBlock.
    pub fn poll_read_with<R>(&self, cx: &Context<'_>, op: impl FnMut(&T) -> io::Result<R>) -> Poll<io::Result<R>> {
        self.poll_with(&self.source.reading, cx, op)
    }

    /// The same for writing.
    pub fn poll_write_with<R>(&self, cx: &Context<'_>, op: impl FnMut(&T) -> io::Result<R>) -> Poll<io::Result<R>> {
        self.poll_with(&self.source.writing, cx, op)
    }

    fn poll_with<R>(&self, way: &Way, cx: &Context<'_>, mut op: impl FnMut(&T) -> io::Result<R>) -> Poll<io::Result<R>> {
        while way.open.get() {
            match op(&self.inner) {
                Err(e) if e.kind() == ErrorKind::WouldBlock => way.open.set(false),
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                done => return Poll::Ready(done),
            }
        }
        way.wait(cx);
        Poll::Pending
    }

    /// `op` as soon as it does not say WouldBlock.
    ///
    /// # Errors
    /// Those of `op`.
    pub async fn read_with<R>(&self, mut op: impl FnMut(&T) -> io::Result<R>) -> io::Result<R> {
        poll_fn(|cx| self.poll_read_with(cx, &mut op)).await
    }

    /// The same for writing.
    ///
    /// # Errors
    /// Those of `op`.
    pub async fn write_with<R>(&self, mut op: impl FnMut(&T) -> io::Result<R>) -> io::Result<R> {
        poll_fn(|cx| self.poll_write_with(cx, &mut op)).await
    }

    /// Waits until there was room to write since WouldBlock was last met; on a connecting socket: until the connect has ended.
    pub async fn writable(&self) {
        let room = self.write_with(|_| Ok(())).await;
        debug_assert!(room.is_ok());
    }
}

impl<T: AsFd> Drop for Async<T> {
    fn drop(&mut self) {
        self.reactor.sources.borrow_mut().remove(self.index);
        // Closing would do, but not where another process has a copy. An error: it was never added.
        let _ = self.reactor.epoll.borrow().remove(&self.inner);
    }
}

impl<T: AsFd> AsFd for Async<T> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inner.as_fd()
    }
}

impl Async<TcpStream> {
    /// Connects a new socket, which may be bound; bound the wait from outside.
    ///
    /// # Errors
    /// Those of connect(2), told at once or when it has ended.
    pub async fn connect(socket: Socket, to: SocketAddr) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        match socket.connect(&to.into()) {
            Err(e) if e.raw_os_error() != Some(libc::EINPROGRESS) => return Err(e),
            _ => {}
        }
        let stream = Self::new(TcpStream::from(socket))?;
        stream.writable().await;
        stream.get_ref().take_error()?.map_or(Ok(stream), Err)
    }
}

impl Async<TcpListener> {
    /// The next caller.
    ///
    /// # Errors
    /// Those of accept(2): of one connection (go on), or EMFILE and its like (rest first).
    pub async fn accept(&self) -> io::Result<(Async<TcpStream>, SocketAddr)> {
        let (stream, from) = self.read_with(TcpListener::accept).await?;
        Ok((Async::new(stream)?, from))
    }
}

impl Async<UnixListener> {
    /// The next caller.
    ///
    /// # Errors
    /// As for TCP.
    pub async fn accept(&self) -> io::Result<Async<UnixStream>> {
        let (stream, _) = self.read_with(UnixListener::accept).await?;
        Async::new(stream)
    }
}

/// Streams only: there a short read means that nothing is left (epoll(7)), which saves the read that would say WouldBlock.
impl<T: AsFd> AsyncRead for &Async<T>
where
    for<'a> &'a T: Read,
{
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        let read = self.poll_read_with(cx, |mut io| io.read(buf));
        if let Poll::Ready(Ok(n)) = read
            && n < buf.len()
            && !self.source.watchful.get()
        {
            self.source.reading.open.set(false);
        }
        read
    }
}

impl<T: AsFd> AsyncWrite for &Async<T>
where
    for<'a> &'a T: Write,
{
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_with(cx, |mut io| io.write(buf))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(())) // nothing is kept back
    }

    fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(())) // it closes when it is dropped
    }
}
