//! What the tasks of one node's cluster part share: the rules' state, what is known of each peer, the raft handle.

use super::peers::Calls;
use super::peers::hello::Hello;
use super::peers::wire::Flags;
use super::rules::hold::HoldRule;
use super::types::{NodeId, Raft, Vote, VoteRequest};
use super::vote::VoteId;
use super::wake::Wake;
use super::{Spec, runtime};
use crate::sys::clock::Instant;
use openraft::async_runtime::watch::WatchReceiver;
use std::cell::{Cell, OnceCell, RefCell};
use std::future::poll_fn;
use std::net::{IpAddr, SocketAddr};
use std::task::{Poll, Waker};
use std::time::Duration;

/// How many earlier runs of a peer are remembered.
const RUNS: usize = 8;
/// No honest node is this many terms ahead of another.
const TERM_LEAP: u64 = 1 << 32;

/// Shared by all tasks of the cluster part; one thread.
pub struct Shared {
    /// This node.
    pub me: NodeId,
    /// Its raft address.
    pub address: SocketAddr,
    /// As configured.
    pub spec: Spec,
    /// The other nodes.
    pub peers: Vec<Peer>,
    /// Their ids and addresses, for the handshake.
    pub addresses: Vec<(NodeId, IpAddr)>,
    /// What this node says of itself when it calls.
    pub hello: Hello,
    /// The hold and the spent votes.
    pub hold: RefCell<HoldRule>,
    /// End of the quiet start.
    pub quiet_until: Instant,
    /// Rings the driver.
    pub wake: Wake,
    stopping: Cell<bool>,
    stopped: Cell<bool>,
    stopped_wake: Wake,
    fit: Cell<bool>,
    empty: Cell<bool>,
    log: Cell<bool>,
    heard_leader: Cell<Option<Instant>>,
    granted: Cell<Option<Instant>>,
    campaign: RefCell<Option<(VoteId, Instant)>>,
    told_by: RefCell<Option<Vote>>,
    raft: OnceCell<Raft>,
}

impl Shared {
    /// Before raft exists; see [`Shared::set_raft`].
    pub fn new(spec: Spec, hello: Hello, hold: HoldRule, quiet_until: Instant) -> Self {
        let me = spec.id.clone();
        let others = spec.members.iter().filter(|m| m.id != spec.id);
        let peers: Vec<Peer> = others.map(|m| Peer::new(m.id.clone(), m.address, m.priority)).collect();
        Self {
            me,
            address: spec.own().address,
            addresses: peers.iter().map(|p| (p.id.clone(), p.address.ip())).collect(),
            peers,
            hello,
            hold: RefCell::new(hold),
            quiet_until,
            wake: Wake::default(),
            stopping: Cell::new(false),
            stopped: Cell::new(false),
            stopped_wake: Wake::default(),
            fit: Cell::new(spec.fit),
            empty: Cell::new(true),
            log: Cell::new(false),
            heard_leader: Cell::new(None),
            granted: Cell::new(None),
            campaign: RefCell::new(None),
            told_by: RefCell::new(None),
            raft: OnceCell::new(),
            spec,
        }
    }

    /// Once, before any task that uses [`Shared::raft`] is spawned.
    pub fn set_raft(&self, raft: Raft) {
        let _ = self.raft.set(raft);
    }

    /// The raft handle.
    pub fn raft(&self) -> &Raft {
        self.raft.get().expect("set in start(), before the tasks that use it are spawned")
    }

    /// Whether the id names this node.
    pub fn is_me(&self, id: &NodeId) -> bool {
        *id == self.me
    }

    /// What every frame tells of this node.
    pub fn flags(&self) -> Flags {
        let awake = runtime::now() >= self.quiet_until;
        Flags {
            fit: self.fit.get() && !self.stopping.get(),
            empty: self.empty.get(),
            starts: self.spec.start_as_leader,
            awake,
            log: self.log.get(),
        }
    }

    /// The lease.
    pub fn lease(&self) -> Duration {
        self.spec.lease
    }

    /// The heartbeat interval.
    pub fn heartbeat(&self) -> Duration {
        self.spec.heartbeat
    }

    /// Whether this node could hold the VIP.
    pub fn is_fit(&self) -> bool {
        self.fit.get()
    }

    /// Says whether this node could hold the VIP, and rings the driver where that changed.
    pub fn set_fit(&self, fit: bool) {
        if self.fit.replace(fit) != fit {
            self.wake.wake();
        }
    }

    /// Whether this node is about to end.
    pub fn is_stopping(&self) -> bool {
        self.stopping.get()
    }

    /// Asks the driver to end this node's part, and waits until it has.
    pub async fn stop(&self) {
        self.stopping.set(true);
        self.wake.wake();
        while !self.stopped.get() {
            self.stopped_wake.wait().await;
        }
    }

    /// Ends that wait.
    pub fn set_stopped(&self) {
        self.stopped.set(true);
        self.stopped_wake.wake();
    }

    /// Whether this node has neither vote nor log.
    pub fn is_empty(&self) -> bool {
        self.empty.get()
    }

    /// Says so.
    pub fn set_empty(&self, empty: bool) {
        self.empty.set(empty);
    }

    /// Whether this node has any log, and with it the list of members.
    pub fn set_log(&self, log: bool) {
        self.log.set(log);
    }

    /// A leader's AppendEntries was accepted.
    pub fn heard_leader(&self, now: Instant) {
        self.heard_leader.set(Some(now));
    }

    /// A vote was granted: the candidate gets its time.
    pub fn granted(&self, now: Instant) {
        self.granted.set(Some(now));
        self.wake.wake();
    }

    /// The leader under `vote` named `who` as its successor. Its own lease is over with that; a node that is not named waits for
    /// the other's campaign as for one it voted for.
    pub fn told_to_stand(&self, who: &NodeId, vote: Vote) {
        if self.is_me(who) {
            *self.told_by.borrow_mut() = Some(vote);
        } else {
            self.granted.set(Some(runtime::now()));
        }
    }

    /// The vote of the leader that last told this node to campaign.
    pub fn told_by(&self) -> Option<Vote> {
        self.told_by.borrow().clone()
    }

    /// When a leader was last heard, and when a vote was last granted.
    pub fn last_heard(&self) -> (Option<Instant>, Option<Instant>) {
        (self.heard_leader.get(), self.granted.get())
    }

    /// A vote request leaves under this vote: the first one starts the campaign's clock.
    pub fn campaigns(&self, vote: VoteId, now: Instant) {
        let mut campaign = self.campaign.borrow_mut();
        if campaign.as_ref().is_none_or(|(v, _)| *v != vote) {
            *campaign = Some((vote, now));
        }
    }

    /// When the campaign for `vote` started, if it is this node's newest.
    pub fn campaigned_at(&self, vote: &VoteId) -> Option<Instant> {
        self.campaign.borrow().as_ref().filter(|(v, _)| v == vote).map(|(_, at)| *at)
    }

    /// The last flushed vote.
    pub fn own_vote(&self) -> Vote {
        self.raft().metrics().borrow_watched().vote.clone()
    }

    /// Leaves a leadership under which this node may not speak any more. openraft has no call for that, but it steps down when
    /// it hears of a higher vote: one just above its own, that nobody stands for. Where it follows another by now, that vote is
    /// too low and changes nothing. Returns whether this node does not lead under `vote` any more.
    pub async fn step_down(&self, vote: &VoteId) -> bool {
        let above = Vote::new(vote.term, vote.node.just_above());
        let last_log_id = self.raft().data_metrics().borrow_watched().last_log.clone();
        let request = VoteRequest { vote: above, last_log_id, leadership_transfer: true };
        self.raft().vote(request).await.is_ok_and(|answer| VoteId::of(&answer.vote) > *vote)
    }

    /// Whether a vote's term can be honest. A damaged one far ahead would be taken over by every node and, near the end of the
    /// numbers, end all elections; a real cluster needs centuries to get that far ahead.
    pub fn is_plausible(&self, vote: &Vote) -> bool {
        let own = self.raft().metrics().borrow_watched().current_term;
        vote.leader_id.term <= own.saturating_add(TERM_LEAP)
    }

    /// A connection to this peer came up: replication need not wait for its back-off.
    pub fn peer_came_up(&self, id: &NodeId) {
        if let Some(raft) = self.raft.get() {
            let (raft, id) = (raft.clone(), id.clone());
            runtime::spawn(async move {
                let _ = raft.trigger().reset_backoff([id]).await;
            });
        }
    }

    /// A random part of `upto`, so that nodes don't reconnect in step.
    pub fn jitter(&self, upto: Duration) -> Duration {
        upto.mul_f64((runtime::random() >> 32) as f64 / f64::from(u32::MAX))
    }
}

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
    fn new(id: NodeId, address: SocketAddr, priority: u32) -> Self {
        Self {
            id,
            address,
            priority,
            calls: Calls::default(),
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
