//! What the tasks of one node's cluster part share: the rules' state, what is known of each peer, the raft handle.

pub use super::peer::Peer;
use super::peers::hello::Hello;
use super::peers::message::{Proof, Request};
use super::peers::wire::Flags;
use super::record::Record;
use super::resume::Kept;
use super::rules::hold::HoldRule;
use super::rules::lateness::Lateness;
use super::rules::promise::Promise;
use super::types::{NodeId, Raft, Vote, VoteRequest};
use super::vote::VoteId;
use super::wake::Wake;
use super::{Spec, runtime};
use crate::release::{Commitment, Secret};
use crate::sys::clock::Instant;
use openraft::async_runtime::watch::WatchReceiver;
use smol::future::FutureExt;
use std::cell::{Cell, OnceCell, RefCell};
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

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
    /// What was promised to the newest leader that was heard.
    pub promise: RefCell<Promise>,
    /// How late the driver's deadlines fire.
    pub lateness: RefCell<Lateness>,
    /// End of the quiet start.
    pub quiet_until: Instant,
    /// Rings the driver.
    pub wake: Wake,
    stopping: Cell<bool>,
    stopped: Cell<bool>,
    stopped_wake: Wake,
    asked_to_move: RefCell<Option<(VoteId, NodeId)>>,
    heir_refused: Cell<bool>,
    fit: Cell<bool>,
    reaches: Cell<bool>,
    moving: Cell<bool>,
    empty: Cell<bool>,
    log: Cell<bool>,
    /// AppendEntries of unfenced leaders that openraft has not answered yet.
    hearing: Cell<u32>,
    granted: Cell<Option<Instant>>,
    stood: Cell<Option<Instant>>,
    campaign: RefCell<Option<(VoteId, Instant)>>,
    record: OnceCell<Record>,
    commitment: RefCell<Option<(VoteId, Commitment)>>,
    /// This program has taken over from another as leader, and no majority has answered it yet.
    eager: Cell<bool>,
    reconnected: Cell<bool>,
    raft: OnceCell<Raft>,
}

impl Shared {
    /// Before raft exists; see [`Shared::set_raft`].
    pub fn new(spec: Spec, hello: Hello, hold: HoldRule, promise: Promise, quiet_until: Instant) -> Self {
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
            promise: RefCell::new(promise),
            lateness: RefCell::default(),
            quiet_until,
            wake: Wake::default(),
            stopping: Cell::new(false),
            stopped: Cell::new(false),
            stopped_wake: Wake::default(),
            asked_to_move: RefCell::new(None),
            heir_refused: Cell::new(false),
            fit: Cell::new(spec.fit),
            reaches: Cell::new(true),
            moving: Cell::new(false),
            empty: Cell::new(true),
            log: Cell::new(false),
            hearing: Cell::new(0),
            granted: Cell::new(None),
            stood: Cell::new(None),
            campaign: RefCell::new(None),
            record: OnceCell::new(),
            commitment: RefCell::new(None),
            eager: Cell::new(false),
            reconnected: Cell::new(false),
            raft: OnceCell::new(),
            spec,
        }
    }

    /// Once, before any task that uses [`Shared::raft`] is spawned.
    pub fn set_raft(&self, raft: Raft) {
        let _ = self.raft.set(raft);
    }

    /// Once. Without one nothing is recorded.
    pub fn set_record(&self, record: Record) {
        let _ = self.record.set(record);
    }

    /// The record, once there is one.
    pub fn record(&self) -> Option<&Record> {
        self.record.get()
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
        Flags {
            fit: self.fit.get() && !self.stopping.get(),
            empty: self.empty.get(),
            starts: self.spec.start_as_leader,
            awake: !self.is_quiet(),
            log: self.log.get(),
            fenced: self.hold.borrow().is_fenced(),
            reaches: self.reaches.get(),
            moving: self.moving.get(),
        }
    }

    /// Whether the quiet start has not ended.
    pub fn is_quiet(&self) -> bool {
        runtime::now() < self.quiet_until
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

    /// Whether this node reaches a backend, or does not look.
    pub fn reaches(&self) -> bool {
        self.reaches.get()
    }

    /// Says so, and rings the driver where that changed.
    pub fn set_reaches(&self, reaches: bool) {
        if self.reaches.replace(reaches) != reaches {
            self.wake.wake();
        }
    }

    /// Says whether this node leads and is about to name its successor.
    pub fn set_moving(&self, moving: bool) {
        self.moving.set(moving);
    }

    /// Whether it does.
    pub fn is_moving(&self) -> bool {
        self.moving.get()
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

    /// Asks the driver to hand the leadership under this vote to this peer; it looks at the wish once.
    pub fn ask_to_move(&self, from: VoteId, to: NodeId) {
        *self.asked_to_move.borrow_mut() = Some((from, to));
        self.wake.wake();
    }

    /// Takes the wish; one for an earlier vote is history.
    pub fn take_wish(&self, from: &VoteId) -> Option<NodeId> {
        self.asked_to_move.borrow_mut().take().filter(|(vote, _)| vote == from).map(|(_, to)| to)
    }

    /// The peer that was to lead next did not want to, or could not be asked.
    pub fn heir_refused(&self) {
        self.heir_refused.set(true);
        self.wake.wake();
    }

    /// Whether that happened since the last look.
    pub fn take_refusal(&self) -> bool {
        self.heir_refused.replace(false)
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

    /// Before the promise to such a leader is made: the next run must know how long to stay quiet.
    pub async fn record_promise(&self, fenced: bool) {
        let lasts = self.promise.borrow().lasts(fenced);
        if let Some(record) = self.record.get() {
            record.raise(lasts).await;
        }
    }

    /// A peer without kernel fence may lead one day: recorded now, the promise need not wait for the disk then. (One that has only just
    /// started may not have heard of its fence yet.)
    pub fn expect_leader(self: &Rc<Self>, flags: Flags) {
        let lasts = self.promise.borrow().lasts(false);
        if flags.awake && !flags.fenced && self.record.get().is_some_and(|record| record.expects(lasts)) {
            let shared = self.clone();
            runtime::spawn(async move { shared.record_promise(false).await });
        }
    }

    /// After the quiet start nothing but this run's own promises counts.
    pub async fn forget_earlier_promises(&self) {
        runtime::sleep_until(self.quiet_until).await;
        if let Some(record) = self.record.get() {
            record.lower(|| (!self.is_hearing()).then(|| self.promise.borrow().newest_lasts())).await;
        }
    }

    /// An AppendEntries goes to openraft: until the result is dropped, no vote may overtake a longer promise than openraft's lease.
    pub fn hears(&self, fenced: bool) -> Hearing<'_> {
        let count = u32::from(!fenced && self.promise.borrow().lasts(false) > self.spec.lease);
        self.hearing.set(self.hearing.get() + count);
        Hearing { hearing: &self.hearing, count }
    }

    /// Whether there is one.
    pub fn is_hearing(&self) -> bool {
        self.hearing.get() > 0
    }

    /// The hash of the secret of an own vote, for its AppendEntries.
    pub fn commitment(&self, vote: &VoteId) -> Commitment {
        let mut known = self.commitment.borrow_mut();
        match &*known {
            Some((of, commitment)) if of == vote => *commitment,
            _ => {
                let commitment = self.spec.key.secret(vote.key()).commitment();
                *known = Some((vote.clone(), commitment));
                commitment
            }
        }
    }

    /// The secret of an own vote. None as long as it may hold the VIP: it is spent only when that was seen gone, or never was here.
    pub fn secret(&self, vote: &VoteId) -> Option<Secret> {
        let spent = self.is_me(&vote.node) && self.hold.borrow().is_spent(vote);
        spent.then(|| self.spec.key.secret(vote.key()))
    }

    /// What a candidate shows to its voters.
    pub fn proof(&self) -> Option<Proof> {
        self.promise.borrow().proof().map(|(vote, secret)| Proof { vote: vote.committed(), secret })
    }

    /// A vote was granted: the candidate gets its time.
    pub fn granted(&self, now: Instant) {
        self.granted.set(Some(now));
        self.wake.wake();
    }

    /// The hold of the last leader has ended, and `heir` stands now. A node that is not it waits for the other's campaign as for one it
    /// voted for.
    pub fn stands_next(&self, heir: &NodeId) {
        let now = runtime::now();
        if self.is_me(heir) {
            self.stood.set(Some(now));
        } else {
            self.granted(now);
        }
    }

    /// Tells a peer over its connection what a keeper's notice may not have.
    pub fn pass_on(self: &Rc<Self>, to: &NodeId, proof: Proof) {
        let (shared, to) = (self.clone(), to.clone());
        runtime::spawn(async move {
            let Some(peer) = shared.peers.iter().find(|p| p.id == to) else { return };
            let request = Request::Released(proof);
            let call = async { drop(peer.calls.call(shared.flags(), &request, runtime::now()).await) };
            call.or(runtime::sleep(shared.lease())).await;
        });
    }

    /// Shows all peers that nothing is held under this own vote, if that is so.
    pub fn tell_released(self: &Rc<Self>, vote: &VoteId) {
        let Some(secret) = self.secret(vote) else { return };
        for peer in &self.peers {
            self.pass_on(&peer.id, Proof { vote: vote.committed(), secret });
        }
    }

    /// When this node was last named to stand at once.
    pub fn last_stood(&self) -> Option<Instant> {
        self.stood.get()
    }

    /// When a vote was last granted.
    pub fn last_granted(&self) -> Option<Instant> {
        self.granted.get()
    }

    /// A vote request leaves under this vote: the first one starts the campaign's clock.
    pub fn campaigns(&self, vote: VoteId, now: Instant) {
        let mut campaign = self.campaign.borrow_mut();
        if campaign.as_ref().is_none_or(|(v, _)| *v != vote) {
            *campaign = Some((vote, now));
        }
    }

    /// The newest campaign.
    pub fn last_campaign(&self) -> Option<(VoteId, Instant)> {
        self.campaign.borrow().clone()
    }

    /// Goes on where an earlier program of this run was.
    pub fn go_on_from(&self, kept: &Kept) {
        self.granted.set(kept.granted);
        self.stood.set(kept.stood);
        self.campaign.replace(kept.campaign.clone());
        self.reaches.set(kept.reaches);
        self.eager.set(kept.leads());
    }

    /// Whether a leader is to beat at once, because a connection came up and no majority has acknowledged this program's heartbeats.
    pub fn take_reconnected(&self, acknowledged: bool) -> bool {
        let news = self.reconnected.take();
        self.eager.set(self.eager.get() && !acknowledged);
        news && self.eager.get()
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
        if self.eager.get() {
            self.reconnected.set(true);
            self.wake.wake();
        }
        if let Some(raft) = self.raft.get() {
            let (raft, id) = (raft.clone(), id.clone());
            runtime::spawn(async move {
                let _ = raft.trigger().reset_backoff([id]).await;
            });
        }
    }
}

/// See [`Shared::hears`].
pub struct Hearing<'a> {
    hearing: &'a Cell<u32>,
    count: u32,
}

impl Drop for Hearing<'_> {
    fn drop(&mut self) {
        self.hearing.set(self.hearing.get() - self.count);
    }
}
