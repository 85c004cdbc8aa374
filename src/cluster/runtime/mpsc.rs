//! A bounded queue with several senders and one receiver.

use super::wakers::Wakers;
use openraft::async_runtime as rt;
use rt::{SendError, TryRecvError};
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::rc::Rc;
use std::task::{Poll, Waker};

/// openraft's name for this kind of channel.
pub struct Mpsc;

impl rt::Mpsc for Mpsc {
    type Sender<T> = MpscSender<T>;
    type Receiver<T> = MpscReceiver<T>;
    type WeakSender<T> = MpscWeakSender<T>;

    /// Room for `buffer` messages (at least one); memory is taken as messages come.
    fn channel<T>(buffer: usize) -> (MpscSender<T>, MpscReceiver<T>) {
        let shared = Rc::new(Shared {
            queue: RefCell::default(),
            room: buffer.max(1),
            senders: Cell::new(1),
            open: Cell::new(true),
            full: Wakers::default(),
            empty: Cell::default(),
        });
        (MpscSender(shared.clone()), MpscReceiver(shared))
    }
}

struct Shared<T> {
    queue: RefCell<VecDeque<T>>,
    room: usize,
    senders: Cell<usize>,
    open: Cell<bool>,
    full: Wakers,
    empty: Cell<Option<Waker>>,
}

impl<T> Shared<T> {
    fn wake_receiver(&self) {
        self.empty.take().into_iter().for_each(Waker::wake);
    }

    fn pop(&self) -> Result<T, TryRecvError> {
        let message = self.queue.borrow_mut().pop_front();
        match message {
            Some(message) => {
                self.full.wake_all();
                Ok(message)
            }
            None if self.senders.get() == 0 => Err(TryRecvError::Disconnected),
            None => Err(TryRecvError::Empty),
        }
    }
}

/// Sends; the queue closes with the last one.
pub struct MpscSender<T>(Rc<Shared<T>>);

impl<T> Clone for MpscSender<T> {
    fn clone(&self) -> Self {
        self.0.senders.set(self.0.senders.get() + 1);
        Self(self.0.clone())
    }
}

impl<T> Drop for MpscSender<T> {
    fn drop(&mut self) {
        self.0.senders.set(self.0.senders.get() - 1);
        if self.0.senders.get() == 0 {
            self.0.wake_receiver();
        }
    }
}

impl<T> rt::MpscSender<Mpsc, T> for MpscSender<T> {
    /// Waits for room; the message comes back when the receiver is gone.
    fn send(&self, message: T) -> impl Future<Output = Result<(), SendError<T>>> {
        Sending { shared: &self.0, message: Some(message), key: None }
    }

    fn downgrade(&self) -> MpscWeakSender<T> {
        MpscWeakSender(self.0.clone())
    }
}

struct Sending<'a, T> {
    shared: &'a Shared<T>,
    message: Option<T>,
    key: Option<u64>,
}

impl<T> Unpin for Sending<'_, T> {}

impl<T> Future for Sending<'_, T> {
    type Output = Result<(), SendError<T>>;

    fn poll(mut self: std::pin::Pin<&mut Self>, cx: &mut std::task::Context<'_>) -> Poll<Self::Output> {
        let shared = self.shared;
        let has_room = shared.queue.borrow().len() < shared.room;
        if shared.open.get() && !has_room {
            shared.full.register(&mut self.key, cx.waker());
            return Poll::Pending;
        }
        let message = self.message.take().expect("a send is not polled after it is done");
        if !shared.open.get() {
            return Poll::Ready(Err(SendError(message)));
        }
        shared.queue.borrow_mut().push_back(message);
        shared.wake_receiver();
        Poll::Ready(Ok(()))
    }
}

impl<T> Drop for Sending<'_, T> {
    fn drop(&mut self) {
        self.shared.full.forget(self.key);
    }
}

/// Becomes a sender as long as another one lives; doesn't keep the queue open.
pub struct MpscWeakSender<T>(Rc<Shared<T>>);

impl<T> Clone for MpscWeakSender<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T> rt::MpscWeakSender<Mpsc, T> for MpscWeakSender<T> {
    fn upgrade(&self) -> Option<MpscSender<T>> {
        let senders = self.0.senders.get();
        (senders > 0).then(|| {
            self.0.senders.set(senders + 1);
            MpscSender(self.0.clone())
        })
    }
}

/// Receives, in the order of sending.
pub struct MpscReceiver<T>(Rc<Shared<T>>);

impl<T> rt::MpscReceiver<T> for MpscReceiver<T> {
    /// The next message; `None` when all senders are gone and the queue is empty. Dropping the future loses no message.
    fn recv(&mut self) -> impl Future<Output = Option<T>> {
        poll_fn(|cx| match self.0.pop() {
            Ok(message) => Poll::Ready(Some(message)),
            Err(TryRecvError::Disconnected) => Poll::Ready(None),
            Err(TryRecvError::Empty) => {
                drop(self.0.empty.replace(Some(cx.waker().clone())));
                Poll::Pending
            }
        })
    }

    fn try_recv(&mut self) -> Result<T, TryRecvError> {
        self.0.pop()
    }
}

impl<T> Drop for MpscReceiver<T> {
    fn drop(&mut self) {
        self.0.open.set(false);
        let undelivered = self.0.queue.take();
        self.0.full.wake_all();
        drop(undelivered); // outside the borrow: a message may hold another end of this queue
    }
}
