//! The driver: openraft's tick is off, this task's own deadlines call heartbeat and elect, and it tells the daemon how long the
//! VIP may be held. Every decision is in `rules`; here they meet the clock and raft.

mod bootstrap;
mod lead;

use super::Event;
use super::peers::wire::Flags;
use super::rules::hold::{Leading, Order, hold_of};
use super::rules::preference::Preference;
use super::rules::rank;
use super::rules::turns::Turns;
use super::runtime::{now, sleep_until};
use super::shared::Shared;
use super::standing;
use super::types::{NodeId, RaftMetrics, ServerState};
use super::vote::VoteId;
use crate::sys::clock::Instant;
use lead::{HandOver, Move};
use log::{debug, info, warn};
use openraft::async_runtime::watch::WatchReceiver;
use smol::channel::Sender;
use smol::future::FutureExt;
use std::rc::Rc;
use std::time::Duration;

/// How often an uninitialised node looks whether it should write the first membership.
const FRESH_LOOK: Duration = Duration::from_millis(50);
/// After this many campaigns without a leader, tries come at the pace of the lease.
const EAGER_TRIES: u32 = 20;

/// Drives one node; see [`Driver::run`].
pub struct Driver {
    shared: Rc<Shared>,
    events: Sender<Event>,
    next_heartbeat: Instant,
    turns: Turns,
    /// The flags of the last heartbeat.
    told: Option<Flags>,
    last_try: Option<Instant>,
    tries: u32,
    last_leader: Option<NodeId>,
    seen: Option<(u64, Option<NodeId>)>,
    preference: Preference,
    /// Where this leader moves although it could hold.
    moving: Option<Move>,
    /// At the last look.
    led: bool,
    handing_over: Option<HandOver>,
    stop_by: Option<Instant>,
    /// When this node began to wait for a log to come from somewhere.
    fresh_since: Option<Instant>,
}

impl Driver {
    /// A driver that reports to `events`.
    pub fn new(shared: Rc<Shared>, events: Sender<Event>) -> Self {
        Self {
            preference: Preference::new(shared.spec.preempt),
            turns: Turns::new(shared.heartbeat(), shared.lease()),
            told: None,
            moving: None,
            led: false,
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
            let asleep = now();
            if !changed.or(rung).or(due).await {
                return "the raft core ended".to_string();
            }
            if deadline > asleep {
                self.note_delay(deadline);
            }
            if let Err(fatal) = &metrics.borrow_watched().running_state {
                return fatal.to_string();
            }
        }
    }

    /// A loop that is late with its own deadlines is late with the peers' frames too.
    fn note_delay(&self, deadline: Instant) {
        let now = now();
        if now < deadline {
            return;
        }
        let margin = self.shared.lease().saturating_sub(hold_of(self.shared.lease()));
        let worth_telling = self.shared.lateness.borrow_mut().note(now, now - deadline, margin);
        if let Some(late) = worth_telling {
            warn!(
                "this node woke up {} ms too late; from {} ms on it may lose the VIP: is the machine too busy, or the timing too tight for it?",
                late.as_millis(),
                margin.as_millis()
            );
        }
    }

    /// One look at everything; returns when to look again at the latest.
    async fn turn(&mut self, m: &RaftMetrics) -> Instant {
        let now = now();
        self.shared.set_log(m.last_log_index.is_some());
        self.shared.set_empty(m.last_log_index.is_none() && m.vote.leader_id.term == 0);
        self.note_leader(now, m);
        let leading = self.leading(m);
        match &leading {
            Some(leading) => self.look_for_a_better_one(now, m, &leading.vote),
            // Whoever took it from this node, or was offered it, gets the time to say so.
            None if self.led => self.shared.granted(now),
            None => {}
        }
        self.led = leading.is_some();
        let may_hold = self.is_willing() && self.handing_over.is_none();
        self.shared.set_moving(leading.is_some() && !may_hold);
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

    fn deliver(&mut self, order: Order) {
        let event = match order {
            Order::Hold { vote, until } => Event::Hold { vote, until },
            Order::LetGo { vote, why } => {
                info!("letting the VIP go ({vote}): {why}");
                self.next_heartbeat = Instant::default(); // its flags tell the peers that a successor will be named
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
                self.turns.disturb();
            }
            self.last_leader = Some(leader);
            self.tries = 0;
        }
        (self.handing_over, self.moving) = (None, None);
        self.shared.peers.iter().for_each(|peer| peer.spared.set(false));
        self.preference.forget();
        self.seen = newest;
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
        let round_trip = s.peers.iter().map(|p| p.estimated_round_trip()).max().unwrap_or_default();
        let (rank, slot) = (self.rank(), rank::slot(round_trip, lease));
        // Never heard a leader: as if the promise to one had ended just when the quiet start did.
        let free = s.promise.borrow().until().unwrap_or_default().max(s.quiet_until);
        let mut due = rank::campaign_at(free, rank, slot);
        if let Some(granted) = s.last_granted() {
            due = due.max(rank::campaign_at(granted + vote_timeout, rank, slot));
        }
        if !s.is_fit() && standing::fit_peer(s, self.last_leader.as_ref()) {
            due = due.max(rank::unfit_at(free, s.last_granted(), lease));
        }
        if let Some(tried) = self.last_try.max(s.last_stood()) {
            let candidate = m.state == ServerState::Candidate;
            let pace = if self.tries > EAGER_TRIES { lease } else { s.heartbeat() };
            due = due.max(rank::retry_at(tried, pace, candidate, vote_timeout));
        }
        due
    }

    fn rank(&self) -> u32 {
        // The lost leader takes no slot: it is the one that is missing.
        rank::rank_of(&self.shared.me, standing::candidates(&self.shared), self.last_leader.as_ref())
    }

    async fn campaign(&mut self, now: Instant, m: &RaftMetrics) {
        if self.tries == 0 {
            let heard = self.shared.promise.borrow().last_heard();
            let silent = heard.map_or("never heard of one".to_string(), |t| format!("silent for {} ms", (now - t).as_millis()));
            let who = self.last_leader.as_ref().map_or("no leader".to_string(), |l| format!("leader {l}"));
            info!("{who}, {silent}: campaigning (term {}, rank {})", m.current_term, self.rank());
        } else {
            debug!("campaigning again (try {}, term {})", self.tries + 1, m.current_term);
        }
        self.tries = self.tries.saturating_add(1);
        self.last_try = Some(now);
        let _ = self.shared.raft().trigger().elect(true).await;
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
