//! What a leader does: heartbeats, and handing over where it can't hold or another is preferred.

use super::Driver;
use crate::cluster::rules::preference::{Own, Why};
use crate::cluster::rules::successor;
use crate::cluster::standing;
use crate::cluster::types::{NodeId, RaftMetrics};
use crate::cluster::vote::VoteId;
use crate::sys::clock::Instant;
use log::{info, warn};

/// A transfer under way.
pub(super) struct HandOver {
    to: NodeId,
    /// These did not want to.
    refused: Vec<NodeId>,
    started: Instant,
    give_up: Instant,
}

/// A leader that could hold moves: it lets the VIP go, then hands over.
pub(super) struct Move {
    to: NodeId,
    why: Why,
}

impl Driver {
    /// Whether this node would hold if it could.
    pub(super) fn is_willing(&self) -> bool {
        self.shared.is_fit() && !self.shared.is_stopping() && self.moving.is_none()
    }

    /// Decides once whether to move; what is decided stays until another leads or the vote has ended.
    pub(super) fn look_for_a_better_one(&mut self, now: Instant, m: &RaftMetrics, vote: &VoteId) {
        let asked = self.shared.take_wish(vote);
        if !self.is_willing() || self.handing_over.is_some() {
            return; // it lets go and hands over in any case
        }
        let own = Own { priority: self.shared.spec.own().priority, reaches: self.shared.reaches() };
        let followers = standing::followers(&self.shared, m);
        let better = || self.preference.step(now, self.shared.heartbeat(), own, &followers);
        let Some((to, why)) = asked.map(|to| (to, Why::Asked)).or_else(better) else { return };
        info!("moving to {to}: {why}");
        self.moving = Some(Move { to, why });
    }

    pub(super) async fn lead(&mut self, now: Instant, m: &RaftMetrics, vote: &VoteId) -> Instant {
        if let Some(hand_over) = self.handing_over.take() {
            return self.go_on_handing_over(now, m, vote, hand_over).await;
        }
        let (spent, can_hold, may_be_held) = {
            let hold = self.shared.hold.borrow();
            (hold.is_spent(vote), hold.can_hold(vote), hold.may_be_held(now))
        };
        if self.shared.take_reconnected(m.last_quorum_acked.is_some()) {
            self.next_heartbeat = now; // what was sent before the connection came up went nowhere
            self.turns.disturb();
        }
        if may_be_held {
            return self.beat(now).await; // also while letting go: the lease guards what is still here
        }
        let willing = self.is_willing();
        if !willing && let Some(to) = self.successor(now, m, &[]) {
            return self.hand_over(now, vote, to, Vec::new()).await;
        }
        let too_late = !spent && !can_hold && willing;
        if too_late {
            let lease = self.shared.lease().as_millis();
            warn!("no majority acknowledged within {lease} ms of winning {vote}: is the timing too tight for this network?");
        }
        if spent || self.shared.is_stopping() || too_late {
            return self.step_down(now, vote).await;
        }
        if let Some(Move { to, why }) = self.moving.take() {
            info!("{to} is not ready any more: not moving there ({why})");
        }
        self.beat(now).await
    }

    async fn beat(&mut self, now: Instant) -> Instant {
        if now >= self.next_heartbeat {
            self.take_turns(now);
            let _ = self.shared.raft().trigger().heartbeat().await;
            self.next_heartbeat = now + self.shared.heartbeat();
        }
        self.next_heartbeat
    }

    fn take_turns(&mut self, now: Instant) {
        let peers = &self.shared.peers;
        let answered: Vec<_> = peers.iter().map(|p| p.calls.is_connected() && !p.calls.owes_an_answer()).collect();
        let news = self.told.replace(self.shared.flags()) != Some(self.shared.flags());
        let late = now.since(self.next_heartbeat) > self.shared.heartbeat() / 2;
        if news || late || !self.is_willing() {
            self.turns.disturb(); // whoever takes over must have heard of it, and nobody is to wait yet another heartbeat
        }
        let chosen = self.turns.step(now, &answered);
        peers.iter().zip(chosen).for_each(|(peer, chosen)| peer.spared.set(!chosen));
    }

    /// The peer that was meant, while it is ready; else the best one.
    fn successor(&self, now: Instant, m: &RaftMetrics, refused: &[NodeId]) -> Option<NodeId> {
        let mut followers = standing::followers(&self.shared, m);
        followers.retain(|f| !refused.contains(&f.id));
        let ready = |f: &&successor::Follower| successor::unready(f, now, self.shared.heartbeat()).is_none();
        let meant = self.moving.as_ref().and_then(|to| followers.iter().filter(ready).find(|f| f.id == to.to));
        meant.or_else(|| successor::choose(now, self.shared.heartbeat(), &followers)).map(|f| f.id.clone())
    }

    /// A peer that refuses is passed over at once; one that says nothing is waited for, and then the others elect.
    async fn go_on_handing_over(&mut self, now: Instant, m: &RaftMetrics, vote: &VoteId, hand_over: HandOver) -> Instant {
        let refused = self.shared.take_refusal();
        let give_up = hand_over.give_up;
        if now < give_up && !refused {
            self.handing_over = Some(hand_over);
            return give_up;
        }
        let how = if refused { "refused the leadership after" } else { "did not take the leadership within" };
        let HandOver { to, started, refused: mut passed_over, .. } = hand_over;
        warn!("{to} {how} {} ms", (now - started).as_millis());
        passed_over.push(to);
        match self.successor(now, m, &passed_over).filter(|_| refused) {
            Some(next) => self.hand_over(now, vote, next, passed_over).await,
            None => self.step_down(now, vote).await,
        }
    }

    async fn hand_over(&mut self, now: Instant, vote: &VoteId, to: NodeId, refused: Vec<NodeId>) -> Instant {
        info!("handing the leadership over to {to} ({vote})");
        self.shared.hold.borrow_mut().spend(vote.clone());
        self.shared.take_refusal();
        let give_up = now + self.shared.lease();
        self.handing_over = Some(HandOver { to: to.clone(), refused, started: now, give_up });
        let _ = self.shared.raft().trigger().transfer_leader(to).await;
        give_up
    }

    async fn step_down(&mut self, now: Instant, vote: &VoteId) -> Instant {
        (self.handing_over, self.moving) = (None, None);
        self.shared.set_moving(false);
        match self.shared.step_down(vote).await {
            true => {
                info!("stepped down ({vote})");
                self.shared.tell_released(vote); // nobody has to wait for what this node does not hold
            }
            false => warn!("could not step down ({vote}); trying again"),
        }
        self.shared.granted(now);
        now + self.shared.heartbeat()
    }
}
