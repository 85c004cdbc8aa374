//! `block_on`: the daemon's executor and the forwarder's epoll loop on one thread.

use super::control::Forwarder;
use smol::LocalExecutor;
use std::future::Future;
use std::io;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

/// Runs `main`, the tasks of `executor` and the forwarder on this thread until `main` ends; then closes what is still open.
///
/// The executor is polled whenever it was woken, before each bounded batch of the forwarder's work (64 turns, about 1 ms).
/// The thread sleeps only in the forwarder's epoll; wakers of any thread end that sleep. Timers and sockets of smol work as
/// under any executor: its `async-io` thread wakes this one. While another thread is inside `smol::block_on`, that helper
/// thread backs off for up to 10 ms, so the daemon should have no such thread.
///
/// # Errors
///
/// Only where epoll itself fails, which the kernel does for a bad descriptor alone: a fault of this program.
pub fn block_on<T>(executor: &LocalExecutor<'_>, forwarder: Forwarder, main: impl Future<Output = T>) -> io::Result<T> {
    let bell = forwarder.bell();
    let waker = Waker::from(bell.clone());
    let mut context = Context::from_waker(&waker);
    let mut main = pin!(executor.run(main));
    loop {
        if bell.take()
            && let Poll::Ready(value) = main.as_mut().poll(&mut context)
        {
            return Ok(value);
        }
        forwarder.turn()?;
    }
}
