//! A one-task alarm: wake it any number of times, one waiter sees it once.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::task::{Poll, Waker};

/// Rung by anybody on this thread, awaited by one task.
#[derive(Default)]
pub struct Wake {
    rung: Cell<bool>,
    waiter: RefCell<Option<Waker>>,
}

impl Wake {
    /// Rings; a waiter that comes later is served at once.
    pub fn wake(&self) {
        self.rung.set(true);
        if let Some(waiter) = self.waiter.borrow_mut().take() {
            waiter.wake();
        }
    }

    /// Waits until it was rung since the last wait.
    pub async fn wait(&self) {
        poll_fn(|cx| {
            if self.rung.replace(false) {
                return Poll::Ready(());
            }
            *self.waiter.borrow_mut() = Some(cx.waker().clone());
            Poll::Pending
        })
        .await;
    }
}
