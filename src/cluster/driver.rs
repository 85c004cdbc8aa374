//! The driver: openraft's tick is off, this task's own deadlines call heartbeat and elect, and it tells the daemon how long the
//! VIP may be held. Every decision is in `rules`; here they meet the clock and raft.

use super::Event;
use super::rules::bootstrap::{self, Member};
use super::rules::hold::{Leading, Order};
use super::rules::rank::{self, Candidate};
use super::rules::successor::{self, Follower};
use super::runtime::{now, sleep_until};
use super::shared::Shared;
use super::types::{Node, NodeId, RaftMetrics, ServerState};
use super::vote::VoteId;
use crate::sys::clock::Instant;
use log::{debug, info, warn};
use openraft::async_runtime::watch::WatchReceiver;
use smol::channel::Sender;
use smol::future::FutureExt;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

/// How often an uninitialised node looks whether it should write the first membership.
const FRESH_LOOK: Duration = Duration::from_millis(50);
/// A fresh cluster that can't begin is told about this often.
const STUCK: Duration = Duration::from_secs(10);
/// After this many campaigns without a leader, tries come at the pace of the lease.
const EAGER_TRIES: u32 = 20;

/// Drives one node; see [`Driver::run`].
pub struct Driver {
    shared: Rc<Shared>,
    events: Sender<Event>,
    next_heartbeat: Instant,
    last_try: Option<Instant>,
    tries: u32,
    last_leader: Option<NodeId>,
    seen: Option<(u64, Option<NodeId>)>,
    handing_over: Option<HandOver>,
    stop_by: Option<Instant>,
    /// When this node began to wait for a log to come from somewhere.
    fresh_since: Option<Instant>,
}

/// A transfer under way.
struct HandOver {
    to: NodeId,
    started: Instant,
    give_up: Instant,
}

impl Driver {
    /// A driver that reports to `events`.
    pub fn new(shared: Rc<Shared>, events: Sender<Event>) -> Self {
        Self {
            shared,
            events,
            next_heartbeat: Instant::default(),
            last_try: None,
            tries: 0,
            last_leader: None,
            seen: None,
            handing_over: None,
            stop_by: None,
            fresh_since: None,
        }
    }

    /// Runs until raft itself ends; the text says why.
    pub async fn run(mut self) -> String {
        let mut metrics = self.shared.raft().metrics();
        loop {
            // Cloned in a statement of its own: the borrow must end before anything is awaited, because raft writes there.
            let seen = metrics.borrow_watched().clone();
            let deadline = self.turn(&seen).await;
            let changed = async { metrics.changed().await.is_ok() };
            let rung = async {
                self.shared.wake.wait().await;
                true
            };
            let due = async {
                sleep_until(deadline).await;
                true
            };
            if !changed.or(rung).or(due).await {
                return "the raft core ended".to_string();
            }
            if let Err(fatal) = &metrics.borrow_watched().running_state {
                return fatal.to_string();
            }
        }
    }

    /// One look at everything; returns when to look again at the latest.
    async fn turn(&mut self, m: &RaftMetrics) -> Instant {
        let now = now();
        self.shared.set_log(m.last_log_index.is_some());
        self.shared.set_empty(m.last_log_index.is_none() && m.vote.leader_id.term == 0);
        self.note_leader(now, m);
        let leading = self.leading(m);
        let may_hold = self.shared.is_fit() && !self.shared.is_stopping() && self.handing_over.is_none();
        let order = self.shared.hold.borrow_mut().step(now, leading.as_ref(), may_hold);
        if let Some(order) = order {
            self.deliver(order);
        }
        let hold_deadline = self.shared.hold.borrow().deadline();
        let next = match leading {
            Some(leading) => self.lead(now, m, &leading.vote).await,
            None => self.follow(now, m).await,
        };
        self.note_stopped(now, m);
        hold_deadline.map_or(next, |hold| hold.min(next))
    }

    fn leading(&self, m: &RaftMetrics) -> Option<Leading> {
        if m.state != ServerState::Leader {
            return None;
        }
        let vote = VoteId { term: m.current_term, node: self.shared.me.clone() };
        // A vote whose campaign is unknown was not won by this run: treat it as too old to hold.
        let campaigned_at = self.shared.campaigned_at(&vote).unwrap_or_default();
        Some(Leading { vote, campaigned_at, quorum_acked: m.last_quorum_acked.map(|t| t.into_inner()) })
    }

    fn deliver(&self, order: Order) {
        let event = match order {
            Order::Hold { vote, until } => Event::Hold { vote, until },
            Order::LetGo { vote, why } => {
                info!("letting the VIP go ({vote}): {why}");
                Event::LetGo { vote }
            }
        };
        self.tell(event);
    }

    /// The daemon forwards at once; where it can't, the newest order counts and an older one may go.
    fn tell(&self, event: Event) {
        let _ = self.events.force_send(event);
    }

    fn note_leader(&mut self, now: Instant, m: &RaftMetrics) {
        let leader = m.current_leader.clone();
        let newest = Some((m.current_term, leader.clone()));
        if self.seen == newest {
            return;
        }
        if let Some(leader) = leader {
            info!(
                "leader is {} (term {}){}",
                leader,
                m.current_term,
                if self.shared.is_me(&leader) { ": this node" } else { "" }
            );
            if self.shared.is_me(&leader) {
                self.next_heartbeat = now;
            }
            self.last_leader = Some(leader);
            self.tries = 0;
        }
        self.handing_over = None;
        self.seen = newest;
    }

    async fn lead(&mut self, now: Instant, m: &RaftMetrics, vote: &VoteId) -> Instant {
        if let Some(hand_over) = &self.handing_over {
            if now < hand_over.give_up {
                return hand_over.give_up;
            }
            warn!("{} did not take the leadership within {} ms", hand_over.to, (now - hand_over.started).as_millis());
            return self.step_down(now, vote).await;
        }
        let (spent, can_hold, may_be_held) = {
            let hold = self.shared.hold.borrow();
            (hold.is_spent(vote), hold.can_hold(vote), hold.may_be_held(now))
        };
        let unwilling = self.shared.is_stopping() || !self.shared.is_fit();
        if may_be_held {
            return self.beat(now).await; // also while letting go: the lease guards what is still here
        }
        if unwilling && let Some(to) = self.successor(now, m) {
            return self.hand_over(now, vote, to).await;
        }
        let too_late = !spent && !can_hold && !unwilling;
        if too_late {
            let lease = self.shared.lease().as_millis();
            warn!("no majority acknowledged within {lease} ms of winning {vote}: is the timing too tight for this network?");
        }
        if spent || self.shared.is_stopping() || too_late {
            return self.step_down(now, vote).await;
        }
        self.beat(now).await
    }

    async fn beat(&mut self, now: Instant) -> Instant {
        if now >= self.next_heartbeat {
            let _ = self.shared.raft().trigger().heartbeat().await;
            self.next_heartbeat = now + self.shared.heartbeat();
        }
        self.next_heartbeat
    }

    fn successor(&self, now: Instant, m: &RaftMetrics) -> Option<NodeId> {
        let followers = self.shared.peers.iter().map(|p| {
            let flags = p.flags().unwrap_or_default();
            let matched = m.replication.as_ref().and_then(|r| r.get(&p.id)).and_then(|id| id.as_ref().map(|id| id.index));
            let acked = m.heartbeat.as_ref().and_then(|h| h.get(&p.id)).and_then(|at| at.map(|at| at.into_inner()));
            Follower {
                id: p.id.clone(),
                priority: p.priority,
                fit: flags.fit,
                awake: flags.awake,
                caught_up: matched.is_some() && matched == m.last_log_index,
                acked,
            }
        });
        let followers: Vec<Follower> = followers.collect();
        successor::choose(now, self.shared.heartbeat(), &followers).map(|f| f.id.clone())
    }

    async fn hand_over(&mut self, now: Instant, vote: &VoteId, to: NodeId) -> Instant {
        info!("handing the leadership over to {to} ({vote})");
        self.shared.hold.borrow_mut().spend(vote.clone());
        let give_up = now + self.shared.lease();
        self.handing_over = Some(HandOver { to: to.clone(), started: now, give_up });
        let _ = self.shared.raft().trigger().transfer_leader(to).await;
        give_up
    }

    async fn step_down(&mut self, now: Instant, vote: &VoteId) -> Instant {
        match self.shared.step_down(vote).await {
            true => info!("stepped down ({vote})"),
            false => warn!("could not step down ({vote}); trying again"),
        }
        self.handing_over = None;
        self.shared.granted(now);
        now + self.shared.heartbeat()
    }

    async fn follow(&mut self, now: Instant, m: &RaftMetrics) -> Instant {
        let later = now + self.shared.lease();
        if now < self.shared.quiet_until {
            return self.shared.quiet_until;
        }
        if self.shared.is_stopping() {
            return later;
        }
        if m.last_log_index.is_none() {
            self.bootstrap(now).await;
            return now + FRESH_LOOK;
        }
        if self.shared.hold.borrow().may_be_held(now) {
            return later; // the keeper's confirmation rings, the hold's own deadline stands beside
        }
        let due = self.campaign_due(m);
        if now < due {
            return due;
        }
        self.campaign(now, m).await;
        self.campaign_due(m)
    }

    fn campaign_due(&self, m: &RaftMetrics) -> Instant {
        let s = &self.shared;
        let (lease, vote_timeout) = (s.lease(), s.lease() * 3 / 4);
        let (heard, granted) = s.last_heard();
        let round_trip = s.peers.iter().map(|p| p.estimated_round_trip()).max().unwrap_or_default();
        let slot = rank::slot(round_trip, lease);
        let rank = self.rank();
        // Never heard a leader: as if one had been lost just when the quiet start ended.
        let heard = heard.unwrap_or_default().max(s.quiet_until - lease);
        let mut due = rank::campaign_at(heard, lease, rank, slot);
        if let Some(granted) = granted {
            due = due.max(granted + vote_timeout + slot * rank.min(64));
        }
        if let Some(tried) = self.last_try {
            let candidate = m.state == ServerState::Candidate;
            let pace = if self.tries > EAGER_TRIES { lease } else { s.heartbeat() };
            due = due.max(rank::retry_at(tried, pace, candidate, vote_timeout));
        }
        due
    }

    fn rank(&self) -> u32 {
        let s = &self.shared;
        let me = Candidate { id: s.me.clone(), priority: s.spec.own().priority, fit: s.is_fit() };
        let others =
            s.peers.iter().map(|p| Candidate { id: p.id.clone(), priority: p.priority, fit: p.flags().is_none_or(|f| f.fit) });
        // The lost leader takes no slot: it is the one that is missing.
        let last = self.last_leader.as_ref();
        rank::rank_of(&s.me, others.chain([me]).collect(), last)
    }

    async fn campaign(&mut self, now: Instant, m: &RaftMetrics) {
        if self.tries == 0 {
            let silent = self
                .shared
                .last_heard()
                .0
                .map_or("never heard of one".to_string(), |t| format!("silent for {} ms", (now - t).as_millis()));
            let who = self.last_leader.as_ref().map_or("no leader".to_string(), |l| format!("leader {l}"));
            info!("{who}, {silent}: campaigning (term {}, rank {})", m.current_term, self.rank());
        } else {
            debug!("campaigning again (try {}, term {})", self.tries + 1, m.current_term);
        }
        self.tries = self.tries.saturating_add(1);
        self.last_try = Some(now);
        let _ = self.shared.raft().trigger().elect(true).await;
    }

    /// Writes the first membership where it is this node's turn; the others are found by raft.
    async fn bootstrap(&mut self, now: Instant) {
        let s = self.shared.clone();
        self.warn_where_nobody_has_a_log(now);
        let me = Member { id: s.me.clone(), empty: Some(s.is_empty()), starts: s.spec.start_as_leader };
        let others = s.peers.iter().map(|p| {
            // One that is empty and still quiet could not vote for us: campaigning now would only cost a round.
            let flags = p.flags().filter(|f| p.calls.is_connected() && (f.awake || !f.empty));
            Member { id: p.id.clone(), empty: flags.map(|f| f.empty), starts: flags.is_some_and(|f| f.starts) }
        });
        let members: Vec<Member> = others.chain([me]).collect();
        if !bootstrap::initialises(&s.me, &members) {
            return;
        }
        let list: BTreeMap<NodeId, Node> = members.into_iter().map(|m| (m.id, Node)).collect();
        self.last_try = Some(now); // initialise campaigns by itself
        info!("fresh cluster: this node writes the first list of {} members", list.len());
        if let Err(e) = s.raft().initialize(list).await {
            debug!("initialise: {e}");
        }
    }

    /// A vote without any log anywhere: the first member list was lost with the node that wrote it. Nothing can elect then.
    fn warn_where_nobody_has_a_log(&mut self, now: Instant) {
        let s = &self.shared;
        let connected: Vec<_> = s.peers.iter().filter(|p| p.calls.is_connected()).collect();
        let majority = (connected.len() + 1) * 2 > s.peers.len() + 1;
        let nobody = connected.iter().all(|p| p.flags().is_some_and(|f| !f.log));
        let voted = !s.is_empty() || connected.iter().any(|p| p.flags().is_some_and(|f| !f.empty));
        let stuck = majority && nobody && voted;
        if !stuck {
            self.fresh_since = None;
        } else if now - *self.fresh_since.get_or_insert(now) >= STUCK {
            self.fresh_since = Some(now);
            log::error!(
                "no node that is connected has the list of members, but some have voted: start the missing node, or stop all nodes, \
                 remove {} on each and start them",
                s.spec.state_dir.display()
            );
        }
    }

    /// Tells a waiting `stop` that the leadership is in other hands, or that waiting longer is no use.
    fn note_stopped(&mut self, now: Instant, m: &RaftMetrics) {
        if !self.shared.is_stopping() {
            return;
        }
        let lease = self.shared.lease();
        let stop_by = *self.stop_by.get_or_insert(now + lease * 2);
        let gone = !self.shared.hold.borrow().may_be_held(now);
        let other_leads = m.current_leader.as_ref().is_some_and(|l| !self.shared.is_me(l));
        let never_led = m.state != ServerState::Leader && self.handing_over.is_none() && self.seen_no_own_leadership();
        if gone && (other_leads || never_led || now >= stop_by) {
            self.shared.set_stopped();
        }
    }

    fn seen_no_own_leadership(&self) -> bool {
        self.last_leader.as_ref().is_none_or(|l| !self.shared.is_me(l))
    }
}
