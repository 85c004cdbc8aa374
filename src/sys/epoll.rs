//! Edge-triggered epoll(7), and the bell (an eventfd) by which other threads end its sleep.

use nix::errno::Errno;
use nix::sys::epoll::{EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::eventfd::{EfdFlags, EventFd};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicU8, Ordering::SeqCst};
use std::time::Duration;

/// What happened on a registered descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// The number given to [`Epoll::add`].
    pub token: u64,
    flags: EpollFlags,
}

impl Event {
    /// Bytes (or a FIN, or an error) can be read; on a listener: a connection waits.
    pub fn readable(&self) -> bool {
        self.flags.contains(EpollFlags::EPOLLIN)
    }
    /// There is room to send; on a connecting socket: the connect has ended.
    pub fn writable(&self) -> bool {
        self.flags.contains(EpollFlags::EPOLLOUT)
    }
    /// The peer sent FIN, **or the connection was reset** (then [`Event::failed`] or [`Event::hung_up`] is set as well).
    pub fn read_closed(&self) -> bool {
        self.flags.contains(EpollFlags::EPOLLRDHUP)
    }
    /// Both directions are shut down, or the connection ended.
    pub fn hung_up(&self) -> bool {
        self.flags.contains(EpollFlags::EPOLLHUP)
    }
    /// The socket has an error: reset, timed out, unreachable.
    pub fn failed(&self) -> bool {
        self.flags.contains(EpollFlags::EPOLLERR)
    }
    /// Urgent data: a short read no longer means "nothing left", because recv(2) stops at the urgent mark.
    pub fn urgent(&self) -> bool {
        self.flags.contains(EpollFlags::EPOLLPRI)
    }
}

/// How many events one [`Epoll::wait`] returns at most: with the time limit of a turn it bounds how long the executor waits.
pub const BATCH: usize = 64;

/// What arriving bytes set. Each segment wakes who asks for one of them (sock_def_readable, net/core/sock.c).
const ARRIVAL: EpollFlags = EpollFlags::EPOLLIN.union(EpollFlags::EPOLLPRI);
const EVERYTHING: EpollFlags = ARRIVAL.union(EpollFlags::EPOLLOUT).union(EpollFlags::EPOLLRDHUP).union(EpollFlags::EPOLLET);

/// An epoll instance and its batch of events. Everything is registered once, edge-triggered; only [`Epoll::mute`]
/// ever modifies it.
#[derive(Debug)]
pub struct Epoll {
    inner: nix::sys::epoll::Epoll,
    batch: [EpollEvent; BATCH],
}

impl Epoll {
    /// A new instance, close-on-exec.
    pub fn new() -> io::Result<Self> {
        let inner = nix::sys::epoll::Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        Ok(Self { inner, batch: [EpollEvent::empty(); BATCH] })
    }

    /// Another descriptor of the same instance: one that can be given up when another is needed.
    pub fn duplicate(&self) -> io::Result<OwnedFd> {
        self.inner.0.try_clone()
    }

    /// Registers a connection's socket for everything. It leaves by being closed.
    pub fn add(&self, fd: impl AsFd, token: u64) -> io::Result<()> {
        Ok(self.inner.add(fd, EpollEvent::new(EVERYTHING, token))?)
    }

    /// Tells no more of bytes that arrive on a socket of [`Epoll::add`], urgent ones included; of ends and of room to send it does.
    pub fn mute(&self, fd: impl AsFd, token: u64) -> io::Result<()> {
        Ok(self.inner.modify(fd, &mut EpollEvent::new(EVERYTHING.difference(ARRIVAL), token))?)
    }

    /// Ends [`Epoll::mute`]. What has arrived meanwhile is told like news.
    pub fn unmute(&self, fd: impl AsFd, token: u64) -> io::Result<()> {
        Ok(self.inner.modify(fd, &mut EpollEvent::new(EVERYTHING, token))?)
    }

    /// Registers a listener or an eventfd: only "readable".
    pub fn add_source(&self, fd: impl AsFd, token: u64) -> io::Result<()> {
        Ok(self.inner.add(fd, EpollEvent::new(EpollFlags::EPOLLIN | EpollFlags::EPOLLET, token))?)
    }

    /// Takes a descriptor out that will not be closed, or of which somebody else has a copy.
    pub fn remove(&self, fd: impl AsFd) -> io::Result<()> {
        Ok(self.inner.delete(fd)?)
    }

    /// Sleeps until something happens or `timeout` (rounded up to ms; `None`: for ever) has passed, and returns the number of
    /// events, to be read by [`Epoll::event`]. A signal ends the sleep with zero events.
    pub fn wait(&mut self, timeout: Option<Duration>) -> io::Result<usize> {
        let timeout = match timeout {
            None => EpollTimeout::NONE,
            Some(t) => i32::try_from(t.as_nanos().div_ceil(1_000_000))
                .ok()
                .and_then(|ms| ms.try_into().ok())
                .unwrap_or(EpollTimeout::MAX),
        };
        match self.inner.wait(&mut self.batch, timeout) {
            Err(Errno::EINTR) => Ok(0),
            other => Ok(other?),
        }
    }

    /// Event number `i` of the last batch.
    pub fn event(&self, i: usize) -> Event {
        Event { token: self.batch[i].data(), flags: self.batch[i].events() }
    }
}

const AWAKE: u8 = 0;
const RUNG: u8 = 1;
const ASLEEP: u8 = 2;

/// Wakes the thread that sleeps in [`Epoll::wait`]: at most one write(2) per sleep, none while it is awake.
///
/// The eventfd is registered edge-triggered, and every write is an edge, so nobody ever reads it.
#[derive(Debug)]
pub struct Bell {
    fd: EventFd,
    state: AtomicU8,
}

impl Bell {
    /// A new bell; it counts as rung, so that the first turn looks at everything.
    pub fn new() -> io::Result<Self> {
        let fd = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
        Ok(Self { fd, state: AtomicU8::new(RUNG) })
    }

    /// Rings: from any thread.
    pub fn ring(&self) {
        if self.state.swap(RUNG, SeqCst) == ASLEEP {
            // Its counter can only overflow after 2^64 − 2 sleeps; there is nobody to tell and nothing else that can fail.
            let _ = self.fd.write(1);
        }
    }

    /// The sleeper is about to sleep; false: the bell was rung, don't.
    pub fn may_sleep(&self) -> bool {
        self.state.compare_exchange(AWAKE, ASLEEP, SeqCst, SeqCst).is_ok()
    }

    /// The sleeper is awake; rings need no write from here on. A ring that came meanwhile stays rung.
    pub fn awake(&self) {
        let _ = self.state.compare_exchange(ASLEEP, AWAKE, SeqCst, SeqCst);
    }

    /// Whether it was rung since the last call.
    pub fn take(&self) -> bool {
        self.state.swap(AWAKE, SeqCst) == RUNG
    }
}

impl AsFd for Bell {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl std::task::Wake for Bell {
    fn wake(self: std::sync::Arc<Self>) {
        self.ring();
    }
    fn wake_by_ref(self: &std::sync::Arc<Self>) {
        self.ring();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn a_ring_from_another_thread_ends_the_sleep_every_time() {
        let mut epoll = Epoll::new().expect("epoll");
        let bell = Arc::new(Bell::new().expect("eventfd"));
        epoll.add_source(&bell, 7).expect("add");
        assert!(bell.take() && !bell.take());
        for _ in 0..200 {
            assert!(bell.may_sleep());
            let other = {
                let bell = bell.clone();
                std::thread::spawn(move || bell.ring())
            };
            let n = epoll.wait(Some(Duration::from_secs(20))).expect("wait");
            assert_eq!((n, epoll.event(0).token), (1, 7), "the sleep ended by the bell, not by its timeout");
            bell.awake();
            assert!(bell.take(), "a ring that ended the sleep isn't lost");
            other.join().expect("ringer");
        }
    }

    #[test]
    fn a_muted_socket_tells_of_its_end_and_afterwards_of_what_came_meanwhile() {
        let (ours, mut theirs) = std::os::unix::net::UnixStream::pair().expect("a pair");
        let mut epoll = Epoll::new().expect("epoll");
        let next = |epoll: &mut Epoll| match epoll.wait(Some(Duration::ZERO)).expect("wait") {
            0 => None,
            _ => Some(epoll.event(0)),
        };
        epoll.add(&ours, 9).expect("add");
        assert!(next(&mut epoll).is_some_and(|e| e.writable() && !e.readable()));
        epoll.mute(&ours, 9).expect("mute");
        next(&mut epoll); // the room that there is, told again
        std::io::Write::write_all(&mut theirs, b"some").expect("write");
        assert_eq!(next(&mut epoll), None);
        epoll.unmute(&ours, 9).expect("unmute");
        assert!(next(&mut epoll).is_some_and(|e| e.token == 9 && e.readable()));
        epoll.mute(&ours, 9).expect("mute");
        next(&mut epoll);
        drop(theirs);
        assert!(next(&mut epoll).is_some_and(|e| e.read_closed() && !e.readable()));
    }

    #[test]
    fn a_bell_rung_while_awake_forbids_the_sleep_and_writes_nothing() {
        let mut epoll = Epoll::new().expect("epoll");
        let bell = Bell::new().expect("eventfd");
        epoll.add_source(&bell, 7).expect("add");
        assert!(bell.take());
        bell.ring();
        assert!(!bell.may_sleep());
        assert_eq!(epoll.wait(Some(Duration::ZERO)).expect("wait"), 0);
        assert!(bell.take());
    }
}
