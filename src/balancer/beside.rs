//! What the tasks beside the forwarder (checks, look-ups) are given by who starts them.

use smol::Task;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;

/// Starts a task that ends when its handle is dropped; `None` where there is no executor any more.
pub type Spawn = Rc<dyn Fn(Pin<Box<dyn Future<Output = ()>>>) -> Option<Task<()>>>;

/// An executor and random numbers.
///
/// `spawn` should not own its executor: the tasks own this, and would keep it alive.
#[derive(Clone)]
pub struct Beside {
    /// Starts tasks on the forwarder's thread.
    pub spawn: Spawn,
    /// 64 random bits, good enough for jitter.
    pub random: Rc<dyn Fn() -> u64>,
}

impl Beside {
    /// A random number from 0 to 1.
    pub(super) fn fraction(&self) -> f64 {
        ((self.random)() >> 32) as f64 / f64::from(u32::MAX)
    }
}

impl fmt::Debug for Beside {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Beside")
    }
}

/// For tests: tasks of `executor`, and always the same numbers.
#[cfg(test)]
pub(super) fn of(executor: &Rc<smol::LocalExecutor<'static>>) -> Beside {
    let (executor, seed) = (Rc::downgrade(executor), std::cell::Cell::new(1u64));
    let random = move || {
        seed.set(seed.get().wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1));
        seed.get()
    };
    Beside { spawn: Rc::new(move |task| Some(executor.upgrade()?.spawn(task))), random: Rc::new(random) }
}
