//! A lock that may be held across an await.

use super::wakers::Wakers;
use openraft::async_runtime as rt;
use std::cell::{RefCell, RefMut};
use std::future::{Future, poll_fn};
use std::ops::{Deref, DerefMut};
use std::task::Poll;

/// One holder at a time; the others wait. No clock inside, so that a simulation repeats.
pub struct Mutex<T> {
    value: RefCell<T>,
    waiting: Wakers,
}

impl<T: 'static> rt::Mutex<T> for Mutex<T> {
    type Guard<'a> = MutexGuard<'a, T>;

    fn new(value: T) -> Self {
        Self { value: RefCell::new(value), waiting: Wakers::default() }
    }

    fn lock(&self) -> impl Future<Output = MutexGuard<'_, T>> {
        let mut waiter = Waiter { waiting: &self.waiting, key: None };
        poll_fn(move |cx| match self.value.try_borrow_mut() {
            Ok(value) => Poll::Ready(MutexGuard { value: Some(value), waiting: &self.waiting }),
            Err(_) => {
                waiter.waiting.register(&mut waiter.key, cx.waker());
                Poll::Pending
            }
        })
    }
}

/// Takes the waiter from the list when its future is dropped.
struct Waiter<'a> {
    waiting: &'a Wakers,
    key: Option<u64>,
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        self.waiting.forget(self.key);
    }
}

/// The lock, held; released when dropped.
pub struct MutexGuard<'a, T> {
    value: Option<RefMut<'a, T>>,
    waiting: &'a Wakers,
}

impl<T> Deref for MutexGuard<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        self.value.as_deref().expect("a guard holds the value until it is dropped")
    }
}

impl<T> DerefMut for MutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        self.value.as_deref_mut().expect("a guard holds the value until it is dropped")
    }
}

impl<T> Drop for MutexGuard<'_, T> {
    fn drop(&mut self) {
        self.value = None;
        self.waiting.wake_all();
    }
}
