//! Tasks, sleeps and deadlines over the thread's [`Env`](super::Env).

use super::env::{self, LocalFuture};
use super::oneshot::{OneshotReceiver, channel};
use crate::sys::clock::Instant;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

/// Starts a task on this thread. Dropping the handle lets it run on.
pub fn spawn<F>(future: F) -> JoinHandle<F::Output>
where
    F: Future + 'static,
    F::Output: 'static,
{
    let (tx, rx) = channel();
    env::current().spawn(Box::pin(async move {
        let _ = tx.send(future.await); // nobody has to wait for it
    }));
    JoinHandle(rx)
}

/// Waits for a task's result.
pub struct JoinHandle<T>(OneshotReceiver<T>);

impl<T> Future for JoinHandle<T> {
    type Output = Result<T, Lost>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(cx).map_err(|_| Lost)
    }
}

/// The task ended without a result: its executor was dropped, or it panicked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lost;

impl fmt::Display for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the task ended without a result")
    }
}

impl std::error::Error for Lost {}

/// Completes after `duration`, counted from this call.
pub fn sleep(duration: Duration) -> Sleep {
    sleep_until(env::now() + duration)
}

/// Completes at `deadline`.
pub fn sleep_until(deadline: Instant) -> Sleep {
    Sleep { deadline, timer: None }
}

/// A deadline to await; holds no timer before it is polled.
pub struct Sleep {
    deadline: Instant,
    timer: Option<LocalFuture<()>>,
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let deadline = self.deadline;
        self.timer.get_or_insert_with(|| env::current().sleep_until(deadline)).as_mut().poll(cx)
    }
}

/// `future`, but no longer than `duration` from now. A result that is ready wins over a deadline that has passed.
pub fn timeout<F: Future>(duration: Duration, future: F) -> Timeout<F> {
    timeout_at(env::now() + duration, future)
}

/// `future`, but no later than `deadline`.
pub fn timeout_at<F: Future>(deadline: Instant, future: F) -> Timeout<F> {
    Timeout { future: Box::pin(future), sleep: sleep_until(deadline) }
}

/// A future with a deadline.
pub struct Timeout<F> {
    future: Pin<Box<F>>,
    sleep: Sleep,
}

impl<F: Future> Future for Timeout<F> {
    type Output = Result<F::Output, TimedOut>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if let Poll::Ready(output) = self.future.as_mut().poll(cx) {
            return Poll::Ready(Ok(output));
        }
        Pin::new(&mut self.sleep).poll(cx).map(|()| Err(TimedOut))
    }
}

/// The deadline passed first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimedOut;

impl fmt::Display for TimedOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the deadline passed")
    }
}

impl std::error::Error for TimedOut {}

/// Runs `work` where it may block and returns its result. It runs to its end also when this future is dropped.
///
/// The error means that the work panicked or its thread is gone.
pub async fn unblock<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Lost> {
    let (tx, rx) = std::sync::mpsc::sync_channel(1);
    let job = Box::new(move || {
        let _ = tx.send(work()); // the receiver is gone when the future was dropped
    });
    let done = env::current().unblock(job); // a task that held its surroundings while it waits would keep its own executor alive
    done.await;
    rx.try_recv().map_err(|_| Lost)
}
