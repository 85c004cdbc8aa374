//! A set of tasks that wait for the same event.

use std::cell::{Cell, RefCell};
use std::task::Waker;

/// Wakers by key. Waking takes all of them: with the few waiters here, nobody can be forgotten when one gives up.
#[derive(Default)]
pub(super) struct Wakers {
    last_key: Cell<u64>,
    list: RefCell<Vec<(u64, Waker)>>,
}

impl Wakers {
    /// Registers `waker` under `key`, or under a new key that it stores there.
    pub(super) fn register(&self, key: &mut Option<u64>, waker: &Waker) {
        let key = *key.get_or_insert_with(|| {
            self.last_key.set(self.last_key.get() + 1);
            self.last_key.get()
        });
        let mut list = self.list.borrow_mut();
        let old = match list.iter_mut().find(|(k, _)| *k == key) {
            Some((_, old)) if old.will_wake(waker) => return,
            Some((_, old)) => Some(std::mem::replace(old, waker.clone())),
            None => {
                list.push((key, waker.clone()));
                None
            }
        };
        drop(list); // dropping a waker may run foreign code
        drop(old);
    }

    /// Forgets the waiter, if it is registered.
    pub(super) fn forget(&self, key: Option<u64>) {
        let Some(key) = key else { return };
        let mut list = self.list.borrow_mut();
        let found = list.iter().position(|(k, _)| *k == key).map(|at| list.remove(at));
        drop(list);
        drop(found);
    }

    /// Wakes and forgets everyone, in the order in which they came.
    pub(super) fn wake_all(&self) {
        if self.list.borrow().is_empty() {
            return;
        }
        for (_, waker) in self.list.take() {
            waker.wake();
        }
    }
}
