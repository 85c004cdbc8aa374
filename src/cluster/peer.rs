//! One of the other nodes, as far as this node knows it.

use super::peers::Calls;
use super::peers::wire::Flags;
use super::types::NodeId;
use super::wake::Wake;
use crate::sys::clock::Instant;
use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::net::SocketAddr;
use std::task::{Poll, Waker};
use std::time::Duration;

/// How many earlier runs of a peer are remembered.
const RUNS: usize = 8;

/// One of the other nodes.
pub struct Peer {
    /// Its id.
    pub id: NodeId,
    /// Its raft address.
    pub address: SocketAddr,
    /// Its priority.
    pub priority: u32,
    /// Requests to it.
    pub calls: Calls,
    /// The next heartbeat need not go to it.
    pub spared: Cell<bool>,
    flags: Cell<Option<Flags>>,
    last_contact: Cell<Option<Instant>>,
    round_trip: Cell<Duration>,
    problem: RefCell<Option<String>>,
    caller: Cell<u64>,
    callers: RefCell<Vec<Waker>>,
    /// Rung when it has called.
    pub called: Wake,
    /// Its last few incarnations, newest last.
    runs: RefCell<Vec<u64>>,
}

impl Peer {
    /// A peer nothing is known of yet.
    pub fn new(id: NodeId, address: SocketAddr, priority: u32) -> Self {
        Self {
            id,
            address,
            priority,
            calls: Calls::default(),
            spared: Cell::new(false),
            flags: Cell::new(None),
            last_contact: Cell::new(None),
            round_trip: Cell::new(Duration::ZERO),
            problem: RefCell::new(Some("not connected yet".to_string())),
            caller: Cell::new(0),
            callers: RefCell::default(),
            called: Wake::default(),
            runs: RefCell::default(),
        }
    }

    /// A frame of this peer came.
    pub fn heard(&self, now: Instant, flags: Flags) {
        self.last_contact.set(Some(now));
        self.flags.set(Some(flags));
    }

    /// When its last frame came.
    pub fn last_contact(&self) -> Option<Instant> {
        self.last_contact.get()
    }

    /// What it last told of itself.
    pub fn flags(&self) -> Option<Flags> {
        self.flags.get()
    }

    /// Whether it is connected and was heard within `span`.
    pub fn is_here(&self, now: Instant, span: Duration) -> bool {
        self.calls.is_connected() && self.last_contact.get().is_some_and(|at| now - at <= span)
    }

    /// A measured round trip; the estimate falls slowly and rises at once.
    pub fn round_trip(&self, took: Duration) {
        self.round_trip.set(took.max(self.round_trip.get() * 7 / 8));
    }

    /// The estimated round trip.
    pub fn estimated_round_trip(&self) -> Duration {
        self.round_trip.get()
    }

    /// Why there is no connection to it.
    pub fn problem(&self) -> Option<String> {
        self.problem.borrow().clone()
    }

    /// Says why there is none.
    pub fn set_problem(&self, why: String) {
        *self.problem.borrow_mut() = Some(why);
    }

    /// There is one.
    pub fn clear_problem(&self) {
        *self.problem.borrow_mut() = None;
    }

    /// Notes which run of the peer this is. True: an earlier one is back, which no restart explains; told once.
    pub fn returns(&self, incarnation: u64) -> bool {
        let mut runs = self.runs.borrow_mut();
        let back = runs.iter().rev().skip(1).any(|run| *run == incarnation);
        if !runs.contains(&incarnation) {
            runs.push(incarnation);
        } else if back {
            runs.clear();
        }
        if runs.len() > RUNS {
            runs.remove(0);
        }
        back
    }

    /// A new connection of this peer takes over; returns its turn for [`Peer::replaced`].
    pub fn new_caller(&self) -> u64 {
        self.caller.set(self.caller.get() + 1);
        self.callers.borrow_mut().drain(..).for_each(Waker::wake);
        if !self.calls.is_connected() {
            self.called.wake();
        }
        self.caller.get()
    }

    /// Waits until a newer connection has taken over.
    pub async fn replaced(&self, turn: u64) {
        poll_fn(|cx| {
            if self.caller.get() != turn {
                return Poll::Ready(());
            }
            // Two may wait at a time, the old one and the new one; each once, however often it is polled.
            let mut callers = self.callers.borrow_mut();
            if !callers.iter().any(|waiting| waiting.will_wake(cx.waker())) {
                callers.push(cx.waker().clone());
            }
            Poll::Pending
        })
        .await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_restart_is_news_and_a_return_is_a_clone() {
        let address = "10.0.0.2:10000".parse().unwrap();
        let peer = Peer::new(NodeId::new("b").unwrap(), address, 100);
        let told: Vec<bool> = [1, 1, 2, 2, 3, 2, 3].into_iter().map(|run| peer.returns(run)).collect();
        assert_eq!(told, [false, false, false, false, false, true, false], "told when run 2 is back after run 3, and once");
    }
}
