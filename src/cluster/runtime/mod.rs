//! openraft's `AsyncRuntime` on smol: one thread, channels without atomics, timers only while they are awaited.

mod blocking;
mod env;
mod mpsc;
mod mutex;
mod oneshot;
mod tasks;
#[cfg(test)]
mod tests;
mod wakers;
mod watch;

pub use env::{Entered, Env, Job, LocalFuture, enter, jitter, now, random, real};
pub use mpsc::{Mpsc, MpscReceiver, MpscSender, MpscWeakSender};
pub use mutex::{Mutex, MutexGuard};
pub use oneshot::{Oneshot, OneshotReceiver, OneshotSender, SenderGone};
pub use tasks::{JoinHandle, Lost, Sleep, TimedOut, Timeout, sleep, sleep_until, spawn, timeout, timeout_at, unblock};
pub use watch::{Watch, WatchReceiver, WatchSender};

use crate::sys::clock::Instant;
use openraft::async_runtime::AsyncRuntime;
use rand_core::TryRng;
use smol::LocalExecutor;
use std::convert::Infallible;
use std::future::Future;
use std::rc::Rc;
use std::time::Duration;

/// The runtime type that openraft is instantiated with. The daemon never makes a value of it: it enters an [`Env`].
pub struct SmolRuntime {
    executor: Rc<LocalExecutor<'static>>,
}

impl std::fmt::Debug for SmolRuntime {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SmolRuntime")
    }
}

impl openraft::async_runtime::Instant for Instant {
    fn now() -> Self {
        env::now()
    }
}

impl AsyncRuntime for SmolRuntime {
    type JoinError = Lost;
    type JoinHandle<T: 'static> = JoinHandle<T>;
    type Sleep = Sleep;
    type Instant = Instant;
    type TimeoutError = TimedOut;
    type Timeout<R, T: Future<Output = R>> = Timeout<T>;
    type ThreadLocalRng = Rng;
    type Mpsc = Mpsc;
    type Watch = Watch;
    type Oneshot = Oneshot;
    type Mutex<T: 'static> = Mutex<T>;

    fn spawn<T>(future: T) -> JoinHandle<T::Output>
    where
        T: Future + 'static,
        T::Output: 'static,
    {
        tasks::spawn(future)
    }

    fn sleep(duration: Duration) -> Sleep {
        tasks::sleep(duration)
    }

    fn sleep_until(deadline: Instant) -> Sleep {
        tasks::sleep_until(deadline)
    }

    fn timeout<R, F: Future<Output = R>>(duration: Duration, future: F) -> Timeout<F> {
        tasks::timeout(duration, future)
    }

    fn timeout_at<R, F: Future<Output = R>>(deadline: Instant, future: F) -> Timeout<F> {
        tasks::timeout_at(deadline, future)
    }

    fn is_panic(_: &Lost) -> bool {
        false // a panic ends the process (release) or the test (debug); it is never caught here
    }

    fn thread_rng() -> Rng {
        Rng
    }

    fn new(_threads: usize) -> Self {
        Self { executor: Rc::new(LocalExecutor::new()) }
    }

    fn block_on<F, T>(&mut self, future: F) -> T
    where
        F: Future<Output = T>,
    {
        let _entered = enter(real(self.executor.clone()));
        crate::reactor::block_on(self.executor.run(future)).expect("epoll can be opened and waited on")
    }

    /// # Errors
    /// The work panicked.
    fn spawn_blocking<F, T>(f: F) -> impl Future<Output = std::io::Result<T>> + Send
    where
        F: FnOnce() -> T + Send + 'static,
        T: Send + 'static,
    {
        let (tx, rx) = smol::channel::bounded(1);
        blocking::run(move || drop(tx.try_send(f()))); // nobody has to wait for it
        async move { rx.recv().await.map_err(std::io::Error::other) }
    }
}

/// Random numbers of this thread's [`Env`].
#[derive(Clone, Copy, Debug)]
pub struct Rng;

impl TryRng for Rng {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        Ok((random() >> 32) as u32)
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        Ok(random())
    }

    fn try_fill_bytes(&mut self, dst: &mut [u8]) -> Result<(), Infallible> {
        for chunk in dst.chunks_mut(8) {
            chunk.copy_from_slice(&random().to_le_bytes()[..chunk.len()]);
        }
        Ok(())
    }
}
