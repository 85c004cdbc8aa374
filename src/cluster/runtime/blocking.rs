//! Threads for work that may block: started when all others are busy, asleep for good when there is none.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// Work for another thread.
type Job = Box<dyn FnOnce() + Send>;

/// Votes and log have a lane each, so two jobs are under way at most; the rest is room for lanes of later parts.
const THREADS: usize = 4;

/// A queue and the threads that work it off.
struct Pool {
    state: Mutex<State>,
    work: Condvar,
}

#[derive(Default)]
struct State {
    queue: VecDeque<Job>,
    threads: usize,
    idle: usize,
}

static POOL: Pool = Pool { state: Mutex::new(State { queue: VecDeque::new(), threads: 0, idle: 0 }), work: Condvar::new() };

/// Runs `job` on another thread; on this one only where no thread can be started at all, because lost work is worse than late.
pub(super) fn run(job: impl FnOnce() + Send + 'static) {
    let mut state = POOL.lock();
    state.queue.push_back(Box::new(job));
    if state.idle >= state.queue.len() || state.threads == THREADS {
        return POOL.work.notify_one();
    }
    state.threads += 1;
    if std::thread::Builder::new().name("disk".to_string()).spawn(|| POOL.serve()).is_ok() {
        return;
    }
    state.threads -= 1;
    let own = if state.threads == 0 { state.queue.pop_back() } else { None };
    drop(state);
    match own {
        Some(job) => job(),
        None => POOL.work.notify_one(),
    }
}

impl Pool {
    /// A job that panics ends its thread outside the lock, so a poisoned state is whole.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn serve(&self) {
        let _leaves = Leaves; // also where a job panics
        let mut state = self.lock();
        loop {
            if let Some(job) = state.queue.pop_front() {
                drop(state);
                job();
                state = self.lock();
                continue;
            }
            state.idle += 1;
            state = self.work.wait(state).unwrap_or_else(PoisonError::into_inner);
            state.idle -= 1;
        }
    }
}

/// Makes room for another thread.
struct Leaves;

impl Drop for Leaves {
    fn drop(&mut self) {
        POOL.lock().threads -= 1;
    }
}
