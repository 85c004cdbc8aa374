//! `block_on`: the daemon's executor and the forwarder on one thread, asleep in one epoll.

use super::control::Forwarder;
use smol::LocalExecutor;
use std::future::Future;
use std::io;

/// Runs `main`, the tasks of `executor` and the forwarder on this thread until `main` ends; then closes what is still open.
///
/// The executor is polled whenever it was woken, before each bounded batch of the forwarder's work (64 turns, about 1 ms).
/// The thread sleeps only in its [`Reactor`](crate::reactor::Reactor), where timers and sockets of tasks wait too; wakers of any
/// thread end that sleep.
///
/// # Errors
///
/// Only where epoll itself fails, which the kernel does for a bad descriptor alone: a fault of this program.
pub fn block_on<T>(executor: &LocalExecutor<'_>, forwarder: Forwarder, main: impl Future<Output = T>) -> io::Result<T> {
    forwarder.reactor().run(executor.run(main), || forwarder.turn())
}
