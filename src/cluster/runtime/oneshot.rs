//! A channel for one value.

use openraft::async_runtime as rt;
use std::cell::RefCell;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

/// openraft's name for this kind of channel.
pub struct Oneshot;

impl rt::Oneshot for Oneshot {
    type Sender<T> = OneshotSender<T>;
    type Receiver<T> = OneshotReceiver<T>;
    type ReceiverError = SenderGone;

    fn channel<T>() -> (OneshotSender<T>, OneshotReceiver<T>) {
        channel()
    }
}

/// Makes both ends.
pub(super) fn channel<T>() -> (OneshotSender<T>, OneshotReceiver<T>) {
    let shared = Rc::new(RefCell::new(State::Waiting(None)));
    (OneshotSender(shared.clone()), OneshotReceiver(shared))
}

enum State<T> {
    Waiting(Option<Waker>),
    Sent(T),
    Closed,
}

/// Sends the value.
pub struct OneshotSender<T>(Rc<RefCell<State<T>>>);

impl<T> rt::OneshotSender<T> for OneshotSender<T> {
    fn send(self, value: T) -> Result<(), T> {
        Self::send(self, value)
    }
}

impl<T> OneshotSender<T> {
    /// Sends the value, or returns it where nobody waits any more.
    pub fn send(self, value: T) -> Result<(), T> {
        let waker = match &mut *self.0.borrow_mut() {
            State::Waiting(waker) => waker.take(),
            State::Sent(_) | State::Closed => return Err(value),
        };
        self.0.replace(State::Sent(value));
        waker.into_iter().for_each(Waker::wake);
        Ok(())
    }
}

impl<T> Drop for OneshotSender<T> {
    fn drop(&mut self) {
        let waker = match &mut *self.0.borrow_mut() {
            State::Waiting(waker) => waker.take(),
            State::Sent(_) | State::Closed => return,
        };
        self.0.replace(State::Closed);
        waker.into_iter().for_each(Waker::wake);
    }
}

/// Receives the value.
pub struct OneshotReceiver<T>(Rc<RefCell<State<T>>>);

impl<T> Future for OneshotReceiver<T> {
    type Output = Result<T, SenderGone>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.0.replace(State::Closed) {
            State::Sent(value) => Poll::Ready(Ok(value)),
            State::Closed => Poll::Ready(Err(SenderGone)),
            State::Waiting(old) => {
                self.0.replace(State::Waiting(Some(cx.waker().clone())));
                drop(old);
                Poll::Pending
            }
        }
    }
}

impl<T> Drop for OneshotReceiver<T> {
    fn drop(&mut self) {
        drop(self.0.replace(State::Closed)); // a value never fetched is dropped outside the borrow
    }
}

/// The sender was dropped without sending.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SenderGone;

impl fmt::Display for SenderGone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the sender was dropped without sending")
    }
}

impl std::error::Error for SenderGone {}
