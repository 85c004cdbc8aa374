//! A value that several receivers watch; they see the newest only.

use super::wakers::Wakers;
use openraft::async_runtime as rt;
use rt::watch::{RecvError, SendError};
use std::cell::{Cell, Ref, RefCell};
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll};

/// openraft's name for this kind of channel.
pub struct Watch;

impl rt::Watch for Watch {
    type Sender<T> = WatchSender<T>;
    type Receiver<T> = WatchReceiver<T>;
    /// Must not be held across an await or a send.
    type Ref<'a, T: 'a> = Ref<'a, T>;

    fn channel<T>(init: T) -> (WatchSender<T>, WatchReceiver<T>) {
        let shared = Rc::new(Shared {
            value: RefCell::new(init),
            version: Cell::new(0),
            senders: Cell::new(1),
            receivers: Cell::new(1),
            waiting: Wakers::default(),
        });
        (WatchSender(shared.clone()), WatchReceiver { shared, seen: 0 })
    }
}

struct Shared<T> {
    value: RefCell<T>,
    version: Cell<u64>,
    senders: Cell<usize>,
    receivers: Cell<usize>,
    waiting: Wakers,
}

impl<T> Shared<T> {
    fn changed(&self) {
        self.version.set(self.version.get() + 1);
        self.waiting.wake_all();
    }
}

/// Changes the value.
pub struct WatchSender<T>(Rc<Shared<T>>);

impl<T> Clone for WatchSender<T> {
    fn clone(&self) -> Self {
        self.0.senders.set(self.0.senders.get() + 1);
        Self(self.0.clone())
    }
}

impl<T> Drop for WatchSender<T> {
    fn drop(&mut self) {
        self.0.senders.set(self.0.senders.get() - 1);
        if self.0.senders.get() == 0 {
            self.0.waiting.wake_all();
        }
    }
}

impl<T> rt::WatchSender<Watch, T> for WatchSender<T> {
    /// Fails, and leaves the value as it was, where no receiver lives.
    fn send(&self, value: T) -> Result<(), SendError<T>> {
        if self.0.receivers.get() == 0 {
            return Err(SendError(value));
        }
        let old = self.0.value.replace(value);
        self.0.changed();
        drop(old);
        Ok(())
    }

    fn send_if_modified<F>(&self, modify: F) -> bool
    where
        F: FnOnce(&mut T) -> bool,
    {
        let modified = modify(&mut self.0.value.borrow_mut());
        if modified {
            self.0.changed();
        }
        modified
    }

    fn borrow_watched(&self) -> Ref<'_, T> {
        self.0.value.borrow()
    }

    /// The new receiver counts the present value as seen.
    fn subscribe(&self) -> WatchReceiver<T> {
        WatchReceiver::new(&self.0, self.0.version.get())
    }
}

/// Watches the value.
pub struct WatchReceiver<T> {
    shared: Rc<Shared<T>>,
    seen: u64,
}

impl<T> WatchReceiver<T> {
    fn new(shared: &Rc<Shared<T>>, seen: u64) -> Self {
        shared.receivers.set(shared.receivers.get() + 1);
        Self { shared: shared.clone(), seen }
    }

    fn poll_changed(&mut self, key: &mut Option<u64>, cx: &mut Context<'_>) -> Poll<Result<(), RecvError>> {
        if self.seen != self.shared.version.get() {
            self.seen = self.shared.version.get();
            return Poll::Ready(Ok(()));
        }
        if self.shared.senders.get() == 0 {
            return Poll::Ready(Err(RecvError(())));
        }
        self.shared.waiting.register(key, cx.waker());
        Poll::Pending
    }
}

impl<T> Clone for WatchReceiver<T> {
    fn clone(&self) -> Self {
        Self::new(&self.shared, self.seen)
    }
}

impl<T> Drop for WatchReceiver<T> {
    fn drop(&mut self) {
        self.shared.receivers.set(self.shared.receivers.get() - 1);
    }
}

impl<T> rt::WatchReceiver<Watch, T> for WatchReceiver<T> {
    /// A value that was not seen is reported also after the last sender is gone; then the error.
    async fn changed(&mut self) -> Result<(), RecvError> {
        let mut waiter = Waiter { shared: self.shared.clone(), key: None };
        poll_fn(|cx| self.poll_changed(&mut waiter.key, cx)).await
    }

    fn borrow_watched(&self) -> Ref<'_, T> {
        self.shared.value.borrow()
    }

    fn borrow_and_update(&mut self) -> Ref<'_, T> {
        self.seen = self.shared.version.get();
        self.shared.value.borrow()
    }
}

/// Takes the waiter from the list when its future is dropped.
struct Waiter<T> {
    shared: Rc<Shared<T>>,
    key: Option<u64>,
}

impl<T> Drop for Waiter<T> {
    fn drop(&mut self) {
        self.shared.waiting.forget(self.key);
    }
}
