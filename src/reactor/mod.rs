//! What a thread sleeps in: one epoll for the forwarder's connections, for the sockets of its tasks and for their timers.
//!
//! ```text
//!   tasks ── Async<T>, Sleep ──┐
//!                              ├─▶ Reactor ─▶ one epoll_wait(2), one timerfd, one eventfd
//!   forwarder ── its tokens ───┘
//! ```
//!
//! Each socket is registered once, edge-triggered, and never modified; a timer is an entry in a map, and only the earliest of
//! them is armed, when the thread is about to sleep. So a wait costs no system call of its own, and no helper thread.
//!
//! A thread has at most one, made when it is first needed. Who blocks on that thread must drive it: [`block_on`], or
//! `balancer::block_on` where there is a forwarder too.

mod io;
mod timers;

pub use io::Async;

use crate::sys::clock::{self, Instant};
use crate::sys::epoll::{Bell, Epoll, Event};
use crate::sys::timer::Timer;
use io::Sources;
use std::cell::{OnceCell, RefCell};
use std::future::Future;
use std::io as std_io;
use std::os::fd::{AsFd, OwnedFd};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use timers::Timers;

/// Tokens from here to `u32::MAX` are the reactor's own; every other is the forwarder's.
const OWN: u64 = 1 << 31;
const BELL: u64 = u32::MAX as u64;
const TIMER: u64 = BELL - 1;

/// One thread's epoll, with what waits for it.
#[derive(Debug)]
pub struct Reactor {
    epoll: RefCell<Epoll>,
    bell: Arc<Bell>,
    timer: RefCell<Timer>,
    timers: RefCell<Timers>,
    sources: RefCell<Sources>,
}

thread_local! {
    static CURRENT: OnceCell<Rc<Reactor>> = const { OnceCell::new() };
}

/// This thread's reactor, made now if there was none.
///
/// # Errors
/// Out of descriptors or kernel memory, on the first call only.
pub fn current() -> std_io::Result<Rc<Reactor>> {
    CURRENT.with(|current| {
        if let Some(reactor) = current.get() {
            return Ok(reactor.clone());
        }
        let reactor = Rc::new(Reactor::new()?);
        Ok(current.get_or_init(|| reactor).clone())
    })
}

/// Runs `future`, and whatever it wakes, on this thread until it ends.
///
/// # Errors
/// Where this thread's reactor can't be made, or its epoll fails, which is a fault of this program.
pub fn block_on<T>(future: impl Future<Output = T>) -> std_io::Result<T> {
    let reactor = current()?;
    reactor.run(future, || reactor.wait(None, |_| {}).map(drop))
}

impl Reactor {
    fn new() -> std_io::Result<Self> {
        let (epoll, bell, timer) = (Epoll::new()?, Arc::new(Bell::new()?), Timer::open()?);
        epoll.add_source(&bell, BELL)?;
        epoll.add_source(&timer, TIMER)?;
        let (timers, sources) = Default::default();
        Ok(Self { epoll: RefCell::new(epoll), bell, timer: RefCell::new(timer), timers, sources })
    }

    /// Registers a connection of the forwarder for everything; see [`Epoll::add`]. Tokens with a high half, which no own one has.
    pub fn add(&self, fd: impl AsFd, token: u64) -> std_io::Result<()> {
        self.epoll.borrow().add(fd, token)
    }

    /// Tells no more of bytes that arrive on a connection of the forwarder; see [`Epoll::mute`].
    pub fn mute(&self, fd: impl AsFd, token: u64) -> std_io::Result<()> {
        self.epoll.borrow().mute(fd, token)
    }

    /// Ends [`Reactor::mute`].
    pub fn unmute(&self, fd: impl AsFd, token: u64) -> std_io::Result<()> {
        self.epoll.borrow().unmute(fd, token)
    }

    /// Registers a listener of the forwarder. Tokens below 2^31.
    pub fn add_source(&self, fd: impl AsFd, token: u64) -> std_io::Result<()> {
        self.epoll.borrow().add_source(fd, token)
    }

    /// Another descriptor of the epoll instance; see [`Epoll::duplicate`].
    pub fn duplicate(&self) -> std_io::Result<OwnedFd> {
        self.epoll.borrow().duplicate()
    }

    /// Polls `future` whenever it was woken, and calls `turn`, which is to sleep in [`Reactor::wait`], until it ends.
    ///
    /// # Errors
    /// Those of `turn`.
    pub fn run<T>(&self, future: impl Future<Output = T>, mut turn: impl FnMut() -> std_io::Result<()>) -> std_io::Result<T> {
        let waker = Waker::from(self.bell.clone());
        let mut context = Context::from_waker(&waker);
        let mut future = pin!(future);
        self.bell.ring();
        loop {
            if self.bell.take()
                && let Poll::Ready(value) = future.as_mut().poll(&mut context)
            {
                self.bell.ring(); // for a run around this one, whose bell it was too
                return Ok(value);
            }
            turn()?;
        }
    }

    /// Sleeps until something happens, a timer is due, the bell was rung, or `timeout` (`None`: for ever) has passed. Wakes the
    /// tasks concerned, hands the forwarder's events to `other`, and returns the instant at which it woke.
    ///
    /// All events are told before a task runs, so no descriptor is closed in between and none can reach a later user of its number.
    ///
    /// # Errors
    /// Those of epoll_wait(2) and timerfd_settime(2): faults of this program.
    pub fn wait(&self, timeout: Option<Duration>, mut other: impl FnMut(Event)) -> std_io::Result<Instant> {
        let n = self.sleep(timeout)?;
        for i in 0..n {
            let event = self.epoll.borrow().event(i);
            match event.token {
                BELL => {}
                TIMER => self.timer.borrow_mut().expired(),
                OWN..BELL => self.ready(event),
                _ => other(event),
            }
        }
        let now = clock::now();
        self.wake_due(now);
        Ok(now)
    }

    fn sleep(&self, timeout: Option<Duration>) -> std_io::Result<usize> {
        if timeout == Some(Duration::ZERO) || !self.bell.may_sleep() {
            return self.epoll.borrow_mut().wait(Some(Duration::ZERO));
        }
        let slept =
            self.timer.borrow_mut().by(self.timers.borrow().earliest()).and_then(|()| self.epoll.borrow_mut().wait(timeout));
        self.bell.awake();
        slept
    }

    fn ready(&self, event: Event) {
        let source = self.sources.borrow().get(event.token - OWN);
        source.iter().for_each(|source| source.note(event)); // gone: it was closed in this very batch
    }

    fn wake_due(&self, now: Instant) {
        loop {
            let due = self.timers.borrow_mut().pop_due(now); // in a statement of its own: waking may run foreign code
            match due {
                Some(waker) => waker.wake(),
                None => return,
            }
        }
    }
}

/// Completes `duration` from now.
pub fn sleep(duration: Duration) -> Sleep {
    sleep_until(clock::now() + duration)
}

/// Completes at `deadline` (CLOCK_BOOTTIME) or right after, at once where it has passed. Costs nothing before it is polled, and no
/// system call then.
pub fn sleep_until(deadline: Instant) -> Sleep {
    Sleep { deadline, waiting: None }
}

/// A timer of this thread's reactor.
#[derive(Debug)]
#[must_use = "it does nothing unless awaited"]
pub struct Sleep {
    deadline: Instant,
    waiting: Option<(Rc<Reactor>, u64)>,
}

impl Future for Sleep {
    type Output = ();

    /// # Panics
    /// Where this thread has no reactor and can't open one: the daemon opens its own before anything else.
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if let Some((reactor, key)) = &self.waiting {
            let still = reactor.timers.borrow_mut().renew(self.deadline, *key, cx.waker());
            return if still.is_some() { Poll::Pending } else { Poll::Ready(()) };
        }
        if clock::now() >= self.deadline {
            return Poll::Ready(());
        }
        let reactor = current().expect("epoll, eventfd and timerfd can be opened");
        let key = reactor.timers.borrow_mut().add(self.deadline, cx.waker().clone());
        self.waiting = Some((reactor, key));
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if let Some((reactor, key)) = self.waiting.take() {
            let waker = reactor.timers.borrow_mut().remove(self.deadline, key);
            drop(waker); // may run foreign code: only after the borrow
        }
    }
}

#[cfg(test)]
mod tests;
