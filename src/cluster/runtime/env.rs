//! Where openraft's runtime touches the world: time, sleep, tasks, randomness and blocking work, behind one thread-local seam.
//!
//! The daemon enters [`real`]; a simulator enters its own [`Env`] with a virtual clock on its own thread and runs the same code.

use super::blocking;
use crate::reactor;
use crate::sys::clock::{self, Instant};
use smol::LocalExecutor;
use std::cell::{Cell, RefCell};
use std::future::Future;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::marker::PhantomData;
use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;

/// A boxed future of this thread.
pub type LocalFuture<T> = Pin<Box<dyn Future<Output = T>>>;
/// Work that may block, for another thread.
pub type Job = Box<dyn FnOnce() + Send>;

/// What the runtime needs from its surroundings. One thread, no `Send` bounds.
pub trait Env {
    /// The present instant. Never goes back.
    fn now(&self) -> Instant;
    /// Completes at `deadline` or later, at once if it has passed. Costs nothing before it is polled.
    fn sleep_until(&self, deadline: Instant) -> LocalFuture<()>;
    /// Starts a task on this thread; it is dropped unfinished with the executor.
    fn spawn(&self, task: LocalFuture<()>);
    /// 64 random bits; quality enough for jitter, not for secrets.
    fn random(&self) -> u64;
    /// Runs `job` where it may block and completes after it. The job runs also when the future is dropped early.
    fn unblock(&self, job: Job) -> LocalFuture<()>;
}

thread_local! {
    static CURRENT: RefCell<Option<Rc<dyn Env>>> = const { RefCell::new(None) };
}

/// Makes `env` the surroundings of this thread until the guard is dropped, which brings back the one before.
pub fn enter(env: Rc<dyn Env>) -> Entered {
    Entered { before: CURRENT.with(|current| current.replace(Some(env))), not_send: PhantomData }
}

/// Leaves the surroundings entered when dropped. Drop guards in the reverse order of entering.
#[must_use = "the surroundings are left when the guard is dropped"]
pub struct Entered {
    before: Option<Rc<dyn Env>>,
    not_send: PhantomData<Rc<()>>,
}

impl Drop for Entered {
    fn drop(&mut self) {
        let left = CURRENT.with(|current| current.replace(self.before.take()));
        drop(left); // may drop tasks that use the surroundings: only after the replacement
    }
}

/// The surroundings of this thread.
///
/// # Panics
/// If none was entered: a mistake of the program, found by its first test.
pub(super) fn current() -> Rc<dyn Env> {
    CURRENT.with(|current| current.borrow().clone()).expect("runtime::enter came first on this thread")
}

/// Now, by this thread's surroundings; CLOCK_BOOTTIME where none was entered.
pub fn now() -> Instant {
    CURRENT.with(|current| match &*current.borrow() {
        Some(env) => env.now(),
        None => clock::now(),
    })
}

/// 64 random bits from this thread's surroundings.
pub fn random() -> u64 {
    current().random()
}

/// A random part of `upto`, so that nodes don't do the same at the same instant.
pub fn jitter(upto: Duration) -> Duration {
    upto.mul_f64((random() >> 32) as f64 / f64::from(u32::MAX))
}

/// The real surroundings: CLOCK_BOOTTIME, this thread's reactor, this executor, a few threads for what blocks.
pub fn real(executor: Rc<LocalExecutor<'static>>) -> Rc<dyn Env> {
    // RandomState is seeded by the kernel once per thread and differs for each instance.
    Rc::new(Real { executor, state: Cell::new(RandomState::new().build_hasher().finish()) })
}

struct Real {
    executor: Rc<LocalExecutor<'static>>,
    state: Cell<u64>,
}

impl Env for Real {
    fn now(&self) -> Instant {
        clock::now()
    }

    fn sleep_until(&self, deadline: Instant) -> LocalFuture<()> {
        Box::pin(reactor::sleep_until(deadline))
    }

    fn spawn(&self, task: LocalFuture<()>) {
        self.executor.spawn(task).detach();
    }

    fn random(&self) -> u64 {
        self.state.set(self.state.get().wrapping_add(0x9e37_79b9_7f4a_7c15));
        mix(self.state.get())
    }

    fn unblock(&self, job: Job) -> LocalFuture<()> {
        let (running, done) = smol::channel::bounded::<()>(1);
        blocking::run(move || {
            job();
            drop(running);
        });
        Box::pin(async move {
            let _ = done.recv().await; // an error: the job is over
        })
    }
}

/// The output function of SplitMix64 (Steele, Lea, Flood 2014).
fn mix(state: u64) -> u64 {
    let z = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
