//! Requests waiting for a peer's answers: a bounded queue to the connection's writer, and the answers by request id.

use super::message::{Request, Response};
use super::wire::{self, Flags, Kind};
use crate::cluster::wake::Wake;
use crate::sys::clock::Instant;
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

/// More than this many unsent frames mean that the peer does not read.
const QUEUE: usize = 64;

/// Why a request got no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallError {
    /// There is no connection.
    NotConnected,
    /// The peer does not read, or the request is too long.
    Refused,
    /// The connection ended first.
    Lost,
}

impl std::fmt::Display for CallError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            CallError::NotConnected => "not connected",
            CallError::Refused => "the peer does not read",
            CallError::Lost => "the connection ended before the answer",
        })
    }
}

struct Pending {
    answer: Option<Response>,
    wake: Rc<Wake>,
}

/// The calls to one peer. Callers may drop a call at any time; a late answer is then ignored.
#[derive(Default)]
pub struct Calls {
    connected: Cell<bool>,
    asked: Cell<Instant>,
    /// Since when the peer owes an answer, also one that nobody waits for any more.
    owing: Cell<Option<Instant>>,
    owes: Wake,
    next_id: Cell<u64>,
    queue: RefCell<VecDeque<Vec<u8>>>,
    pending: RefCell<BTreeMap<u64, Pending>>,
    wake: Wake,
}

/// Forgets the request when its caller gives up.
struct Ticket<'a> {
    calls: &'a Calls,
    id: u64,
}

impl Drop for Ticket<'_> {
    fn drop(&mut self) {
        self.calls.pending.borrow_mut().remove(&self.id);
    }
}

impl Calls {
    /// Sends a request and waits for its answer; bound the wait from outside.
    pub async fn call(&self, flags: Flags, request: &Request, now: Instant) -> Result<Response, CallError> {
        if !self.connected.get() {
            return Err(CallError::NotConnected);
        }
        let id = self.next_id.get();
        self.next_id.set(id.wrapping_add(1));
        let frame = wire::emit(Kind::Request, flags, id, request).ok_or(CallError::Refused)?;
        if self.queue.borrow().len() >= QUEUE {
            return Err(CallError::Refused);
        }
        let wake = Rc::new(Wake::default());
        self.pending.borrow_mut().insert(id, Pending { answer: None, wake: wake.clone() });
        let _ticket = Ticket { calls: self, id };
        self.queue.borrow_mut().push_back(frame);
        self.asked.set(now);
        if self.owing.get().is_none() {
            self.owing.set(Some(now));
            self.owes.wake();
        }
        self.wake.wake();
        loop {
            wake.wait().await;
            let mut pending = self.pending.borrow_mut();
            match pending.get_mut(&id) {
                None => return Err(CallError::Lost),
                Some(p) => {
                    if let Some(answer) = p.answer.take() {
                        return Ok(answer);
                    }
                }
            }
        }
    }

    /// Whether a connection is up.
    pub fn is_connected(&self) -> bool {
        self.connected.get()
    }

    /// When something was last asked over this connection.
    pub(super) fn last_asked(&self) -> Instant {
        self.asked.get()
    }

    /// Since when the peer owes the answer to a request that was made over this connection; answers come in order.
    pub(super) fn owing_since(&self) -> Option<Instant> {
        self.owing.get()
    }

    /// Whether a request over this connection is not answered yet.
    pub fn owes_an_answer(&self) -> bool {
        self.owing.get().is_some()
    }

    /// Waits until a peer that owed nothing owes an answer.
    pub(super) async fn owes(&self) {
        self.owes.wait().await;
    }

    /// A connection came up.
    pub(super) fn connect(&self) {
        self.connected.set(true);
    }

    /// The connection ended: every waiting caller gets [`CallError::Lost`].
    pub(super) fn disconnect(&self) {
        self.connected.set(false);
        self.owing.set(None);
        self.queue.borrow_mut().clear();
        let lost = std::mem::take(&mut *self.pending.borrow_mut());
        for call in lost.values() {
            call.wake.wake();
        }
    }

    /// The next frame to send.
    pub(super) async fn next_frame(&self) -> Vec<u8> {
        loop {
            if let Some(frame) = self.queue.borrow_mut().pop_front() {
                return frame;
            }
            self.wake.wait().await;
        }
    }

    /// Hands an answer to its caller.
    pub(super) fn answered(&self, id: u64, response: Response, now: Instant) {
        let all = id.wrapping_add(1) == self.next_id.get();
        self.owing.set((!all).then_some(now));
        if let Some(call) = self.pending.borrow_mut().get_mut(&id) {
            call.answer = Some(response);
            call.wake.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use smol::future::{FutureExt, poll_once};
    use std::time::Duration;

    #[test]
    fn a_peer_owes_until_the_last_request_is_answered_also_where_its_caller_gave_up() {
        smol::block_on(async {
            let at = |ms: u64| Instant::default() + Duration::from_millis(ms);
            let calls = Calls::default();
            let ask = |ms| calls.call(Flags::default(), &Request::Ping, at(ms));
            assert_eq!(ask(1).await.err(), Some(CallError::NotConnected));
            calls.connect();
            assert_eq!(calls.owing_since(), None);
            assert!(poll_once(ask(10)).await.is_none(), "no answer yet, and its caller leaves");
            assert!(poll_once(calls.owes()).await.is_some());
            let second = async { ask(20).await };
            let answers = async {
                assert_eq!(calls.owing_since(), Some(at(10)));
                calls.answered(0, Response::Pong, at(30));
                assert_eq!(calls.owing_since(), Some(at(30)), "the second is still owed");
                calls.answered(1, Response::Pong, at(40));
                std::future::pending().await
            };
            assert!(second.or(answers).await.is_ok());
            assert_eq!(calls.owing_since(), None);
            assert!(poll_once(ask(50)).await.is_none());
            calls.disconnect();
            assert_eq!(calls.owing_since(), None, "another connection owes nothing");
        });
    }
}
