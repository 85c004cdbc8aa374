//! Hold by quorum time, and one hold per vote.
//!
//! The VIP is held only while this node leads and `now < last_quorum_acked + hold`, where `last_quorum_acked` is the *sending*
//! time of the newest heartbeat that a majority acknowledged. A hold belongs to one vote, starts within one lease of the
//! campaign that won it and is unbroken: after a let-go, a lapse, or a transfer it never holds again.
//!
//! From the order to let go until the VIP was seen gone the leader goes on sending heartbeats: no peer may take an address that a
//! slow or dead keeper has left here. Only then the vote is spent, and no AppendEntries leaves under it any more.

use super::planted::{Planted, is_planted};
use crate::cluster::vote::VoteId;
use crate::release::VoteKey;
use crate::sys::clock::Instant;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// How long a leader may hold after a quorum acknowledged: 0.8 × lease − 10 ms, at least a quarter of the lease.
///
/// The fifth is for clocks that are slewed by up to 10 % on each side, the 10 ms for the removal itself.
pub fn hold_of(lease: Duration) -> Duration {
    let eighty = lease * 4 / 5;
    eighty.saturating_sub(Duration::from_millis(10)).max(lease / 4)
}

/// How long after the end of a hold the kernel fence may go on: its timeout is exact to a few milliseconds.
pub const FENCE_MARGIN: Duration = Duration::from_millis(10);

/// What raft says of this node's leadership, at one instant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leading {
    /// The vote it leads under.
    pub vote: VoteId,
    /// When the campaign that won it was started.
    pub campaigned_at: Instant,
    /// Sending time of the newest heartbeat a majority acknowledged under this vote.
    pub quorum_acked: Option<Instant>,
}

/// What the keeper is to be told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Order {
    /// Hold until `until`; repeated whenever `until` moves.
    Hold {
        /// Under this vote.
        vote: VoteId,
        /// The last instant of the hold.
        until: Instant,
    },
    /// Remove the VIP now.
    LetGo {
        /// The vote that ended with this.
        vote: VoteId,
        /// Why, for the log.
        why: Why,
    },
}

/// Why a hold ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// No majority acknowledged within the hold.
    QuorumLost,
    /// Another node leads, or none.
    NotLeader,
    /// This node may not hold now: stopping, link down, address refused.
    MayNotHold,
}

impl std::fmt::Display for Why {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Why::QuorumLost => "no majority acknowledged in time",
            Why::NotLeader => "no longer the leader",
            Why::MayNotHold => "this node may not hold",
        })
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Phase {
    /// Nothing held, nothing to wait for.
    Free,
    /// Ordered to hold.
    Holding { vote: VoteId, until: Instant },
    /// Ordered to let go; the keeper has not confirmed yet.
    Ending { vote: VoteId, until: Instant },
}

/// The hold of one node: remembers the current hold and the newest spent vote. The next program of the same run goes on with it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HoldRule {
    lease: Duration,
    hold: Duration,
    /// How long after a hold's end the VIP may linger where neither keeper nor fence ends it (the kernel's lifetime bound).
    lingers: Duration,
    /// The kernel fence is in place.
    fenced: bool,
    /// When it was last not: peers that acknowledged what was sent before may have promised one lease only.
    unfenced_since: Option<Instant>,
    /// How long after its end the VIP may linger for this hold.
    drop_margin: Duration,
    phase: Phase,
    spent: Option<VoteId>,
    /// The newest vote that never held and came too late to hold; it may still lead.
    late: Option<VoteId>,
}

impl HoldRule {
    /// A node that holds nothing yet, without a kernel fence. `lingers` is the longest time an address outlives its hold without a
    /// living keeper.
    pub fn new(lease: Duration, lingers: Duration) -> Self {
        let (hold, phase) = (hold_of(lease), Phase::Free);
        Self { lease, hold, lingers, fenced: false, unfenced_since: None, drop_margin: lingers, phase, spent: None, late: None }
    }

    /// Whether this node's kernel fence is in place, from now on.
    ///
    /// One that is lost counts at once, for the running hold too; and that hold goes on only by acknowledgements of what was sent since:
    /// only then a majority knows for how long it must wait. One that comes counts from the next order on: until then the order that runs
    /// may have been carried out without it.
    pub fn set_fenced(&mut self, now: Instant, fenced: bool) {
        if self.fenced && !fenced {
            (self.unfenced_since, self.drop_margin) = (Some(now), self.lingers);
        }
        self.fenced = fenced;
    }

    /// Whether it is in place.
    pub fn is_fenced(&self) -> bool {
        self.fenced
    }

    /// Takes the newest facts; returns an order where something changes for the keeper.
    pub fn step(&mut self, now: Instant, leading: Option<&Leading>, may_hold: bool) -> Option<Order> {
        self.expire_ending(now);
        match self.phase.clone() {
            Phase::Free => self.try_start(now, leading, may_hold),
            Phase::Holding { vote, until } => self.go_on(now, vote, until, leading, may_hold),
            Phase::Ending { .. } => None,
        }
    }

    /// The VIP was seen gone (or never was here). Ends the hold, whoever ended it; its vote is spent.
    pub fn gone(&mut self) {
        if let Phase::Holding { vote, .. } | Phase::Ending { vote, .. } = self.phase.clone() {
            self.spend(vote);
            self.phase = Phase::Free;
        }
    }

    /// The VIP was seen gone after a hold under this vote. A late word about an earlier hold ends no later one.
    pub fn gone_under(&mut self, key: VoteKey) {
        match &self.phase {
            Phase::Holding { vote, .. } | Phase::Ending { vote, .. } if vote.key() == key => self.gone(),
            _ => {}
        }
    }

    /// Ends `vote` for good, e.g. because leadership under it was handed over.
    pub fn spend(&mut self, vote: VoteId) {
        if self.spent.as_ref().is_none_or(|s| *s < vote) {
            self.spent = Some(vote);
        }
    }

    /// Whether `vote` may never speak as leader any more.
    pub fn is_spent(&self, vote: &VoteId) -> bool {
        self.spent.as_ref().is_some_and(|s| vote <= s) && !is_planted(Planted::SpentReused)
    }

    /// Whether a hold can (still) run under `vote`; a fit leader whose vote can't hold has to campaign anew.
    pub fn can_hold(&self, vote: &VoteId) -> bool {
        let ending = matches!(&self.phase, Phase::Ending { vote: ending, .. } if ending == vote);
        !ending && !self.is_spent(vote) && self.late.as_ref() != Some(vote)
    }

    /// Whether the VIP may still be here: from the first order to hold until the keeper confirmed it gone. The vote gate is
    /// closed for that long.
    pub fn may_be_held(&self, now: Instant) -> bool {
        match self.phase {
            Phase::Free => false,
            Phase::Holding { until, .. } | Phase::Ending { until, .. } => now < until + self.drop_margin,
        }
    }

    /// The vote and end of the running hold.
    pub fn holding(&self) -> Option<(&VoteId, Instant)> {
        match &self.phase {
            Phase::Holding { vote, until } => Some((vote, *until)),
            _ => None,
        }
    }

    /// Ordered to let go, and not yet seen gone.
    pub fn is_ending(&self) -> bool {
        matches!(self.phase, Phase::Ending { .. })
    }

    /// When `step` must be called next even if nothing else happens.
    pub fn deadline(&self) -> Option<Instant> {
        match self.phase {
            Phase::Free => None,
            Phase::Holding { until, .. } => Some(until),
            Phase::Ending { until, .. } => Some(until + self.drop_margin),
        }
    }

    fn try_start(&mut self, now: Instant, leading: Option<&Leading>, may_hold: bool) -> Option<Order> {
        let leading = leading.filter(|l| self.can_hold(&l.vote))?;
        if now > leading.campaigned_at + self.lease {
            // Too late: the voters' promise that came with the campaign may have ended. Only a new campaign can hold.
            self.late = Some(leading.vote.clone());
            return None;
        }
        let until = self.until(now, leading)?;
        if !may_hold || now >= until {
            return None;
        }
        Some(self.order(leading.vote.clone(), until))
    }

    fn order(&mut self, vote: VoteId, until: Instant) -> Order {
        self.drop_margin = if self.fenced { FENCE_MARGIN } else { self.lingers };
        self.phase = Phase::Holding { vote: vote.clone(), until };
        Order::Hold { vote, until }
    }

    fn go_on(
        &mut self,
        now: Instant,
        vote: VoteId,
        until: Instant,
        leading: Option<&Leading>,
        may_hold: bool,
    ) -> Option<Order> {
        let leading = leading.filter(|l| l.vote == vote);
        let why = if now >= until {
            Some(Why::QuorumLost)
        } else if leading.is_none() {
            Some(Why::NotLeader)
        } else if !may_hold {
            Some(Why::MayNotHold)
        } else {
            None
        };
        if let Some(why) = why {
            self.phase = Phase::Ending { vote: vote.clone(), until };
            return Some(Order::LetGo { vote, why });
        }
        let later = leading.and_then(|l| self.until(now, l)).filter(|later| *later > until)?;
        Some(self.order(vote, later))
    }

    /// `last_quorum_acked + hold`, never beyond `now + hold` (an acknowledgement from the future is a broken clock).
    fn until(&self, now: Instant, leading: &Leading) -> Option<Instant> {
        let told = |acked: &Instant| self.fenced || self.unfenced_since.is_none_or(|since| *acked > since);
        leading.quorum_acked.filter(told).map(|acked| (acked + self.hold).min(now + self.hold))
    }

    fn expire_ending(&mut self, now: Instant) {
        if let Phase::Ending { until, .. } = self.phase
            && now >= until + self.drop_margin
        {
            self.gone(); // the kernel's bound has passed
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;
    const LEASE: Duration = Duration::from_millis(250);

    fn at(ms: u64) -> Instant {
        Instant::from_nanos(ms * MS)
    }
    fn vote(term: u64) -> VoteId {
        VoteId::new(term, crate::cluster::types::NodeId::new("a").unwrap())
    }
    fn leading(term: u64, campaigned: u64, acked: u64) -> Leading {
        Leading { vote: vote(term), campaigned_at: at(campaigned), quorum_acked: Some(at(acked)) }
    }
    fn rule() -> HoldRule {
        HoldRule::new(LEASE, Duration::from_millis(3500))
    }
    fn hold(term: u64, until: u64) -> Option<Order> {
        Some(Order::Hold { vote: vote(term), until: at(until) })
    }

    #[test]
    fn hold_is_shorter_than_the_lease_by_a_fifth_and_ten_ms() {
        for (lease, hold) in [(250, 190), (60, 38), (3000, 2390), (20, 6), (10, 2)] {
            let got = hold_of(Duration::from_millis(lease));
            assert_eq!(got.as_millis(), hold, "lease {lease} ms");
        }
    }

    #[test]
    fn holds_from_the_acknowledged_sending_time() {
        let mut r = rule();
        assert_eq!(r.step(at(1000), Some(&leading(3, 990, 995)), true), hold(3, 1185));
        assert_eq!(r.step(at(1001), Some(&leading(3, 990, 995)), true), None, "nothing moved");
        assert_eq!(r.step(at(1060), Some(&leading(3, 990, 1050)), true), hold(3, 1240));
        assert_eq!(r.deadline(), Some(at(1240)));
    }

    #[test]
    fn an_acknowledgement_from_the_future_is_clamped() {
        assert_eq!(rule().step(at(1000), Some(&leading(3, 990, 9000)), true), hold(3, 1190));
    }

    #[test]
    fn no_acknowledgement_no_hold() {
        let l = Leading { quorum_acked: None, ..leading(3, 990, 0) };
        assert_eq!(rule().step(at(1000), Some(&l), true), None);
    }

    #[test]
    fn a_hold_that_ends_spends_its_vote_whatever_ended_it() {
        let cases: [(&str, u64, Option<Leading>, bool, Why); 4] = [
            ("lapse", 1185, Some(leading(3, 990, 995)), true, Why::QuorumLost),
            ("lapse wins over a late ack", 1185, Some(leading(3, 990, 1180)), true, Why::QuorumLost),
            ("deposed", 1010, None, true, Why::NotLeader),
            ("stopping", 1010, Some(leading(3, 990, 1005)), false, Why::MayNotHold),
        ];
        for (name, now, then, may_hold, why) in cases {
            let mut r = rule();
            r.step(at(1000), Some(&leading(3, 990, 995)), true);
            let order = r.step(at(now), then.as_ref(), may_hold);
            assert_eq!(order, Some(Order::LetGo { vote: vote(3), why }), "{name}");
            assert!(!r.is_spent(&vote(3)) && !r.can_hold(&vote(3)), "{name}: it speaks until the VIP is gone, and never holds");
            assert_eq!(r.step(at(now), Some(&leading(3, 990, now)), true), None, "{name}");
            r.gone();
            assert!(r.is_spent(&vote(3)) && r.is_spent(&vote(2)) && !r.is_spent(&vote(4)), "{name}");
            assert_eq!(r.step(at(now + 1), Some(&leading(3, 990, now)), true), None, "{name}: spent");
            assert_eq!(r.step(at(now + 2), Some(&leading(4, now + 1, now + 1)), true), hold(4, now + 191), "{name}");
        }
    }

    #[test]
    fn a_late_word_about_an_earlier_hold_ends_no_later_one() {
        let mut r = rule();
        r.step(at(1000), Some(&leading(3, 990, 995)), true);
        r.gone_under(vote(2).key());
        assert!(r.holding().is_some() && !r.is_spent(&vote(3)));
        r.gone_under(vote(3).key());
        assert!(r.holding().is_none() && r.is_spent(&vote(3)));
    }

    #[test]
    fn another_vote_of_the_same_node_is_another_hold() {
        let mut r = rule();
        r.step(at(1000), Some(&leading(3, 990, 995)), true);
        let order = r.step(at(1010), Some(&leading(5, 1008, 1009)), true);
        assert_eq!(order, Some(Order::LetGo { vote: vote(3), why: Why::NotLeader }));
        assert_eq!(r.step(at(1011), Some(&leading(5, 1008, 1009)), true), None, "not before the old one is gone");
        r.gone();
        assert_eq!(r.step(at(1012), Some(&leading(5, 1008, 1009)), true), hold(5, 1199));
    }

    #[test]
    fn a_hold_starts_within_one_lease_of_its_campaign() {
        let mut r = rule();
        assert_eq!(r.step(at(1251), Some(&leading(3, 1000, 1250)), true), None);
        assert!(!r.can_hold(&vote(3)) && !r.is_spent(&vote(3)), "it may lead, not hold");
        assert_eq!(r.step(at(1252), Some(&leading(3, 1000, 1251)), true), None, "late for good");
        let mut r = rule();
        assert!(r.step(at(1250), Some(&leading(3, 1000, 1240)), true).is_some());
    }

    #[test]
    fn the_gate_opens_when_the_keeper_confirms_or_the_margin_has_passed() {
        let mut r = rule();
        assert!(!r.may_be_held(at(999)));
        r.step(at(1000), Some(&leading(3, 990, 995)), true);
        assert!(r.may_be_held(at(1000)));
        r.step(at(1185), Some(&leading(3, 990, 995)), true);
        assert!(r.may_be_held(at(1186)), "let go, not yet confirmed");
        let mut confirmed = r.clone();
        confirmed.gone();
        assert!(!confirmed.may_be_held(at(1186)));
        assert!(r.may_be_held(at(4684)));
        assert!(!r.may_be_held(at(4685)), "until 1185 + margin 3500");
        assert_eq!(r.step(at(4685), None, true), None);
        assert_eq!(r.deadline(), None);
        assert!(r.is_spent(&vote(3)));
    }

    #[test]
    fn with_the_fence_in_place_the_gate_opens_right_after_the_hold() {
        let mut r = rule();
        r.set_fenced(at(0), true);
        r.step(at(1000), Some(&leading(3, 990, 995)), true);
        r.step(at(1185), Some(&leading(3, 990, 995)), true);
        assert!(r.may_be_held(at(1194)) && !r.may_be_held(at(1195)));
        assert_eq!(r.deadline(), Some(at(1195)));
    }

    #[test]
    fn a_fence_that_is_lost_counts_at_once_and_one_that_comes_from_the_next_order_on() {
        let mut r = rule();
        r.step(at(1000), Some(&leading(3, 990, 995)), true);
        r.set_fenced(at(1001), true);
        assert!(r.may_be_held(at(1186)), "the order that runs was given without it");
        assert_eq!(r.step(at(1060), Some(&leading(3, 990, 1050)), true), hold(3, 1240));
        assert!(!r.may_be_held(at(1250)));
        r.set_fenced(at(1100), false);
        assert!(r.may_be_held(at(1240 + 3499)));
    }

    #[test]
    fn without_the_fence_a_hold_goes_on_only_by_what_peers_acknowledged_since() {
        let mut r = rule();
        r.set_fenced(at(0), true);
        r.step(at(1000), Some(&leading(3, 990, 995)), true);
        r.set_fenced(at(1010), false);
        assert_eq!(r.step(at(1020), Some(&leading(3, 990, 1010)), true), None, "its voters promised one lease");
        assert_eq!(r.step(at(1070), Some(&leading(3, 990, 1060)), true), hold(3, 1250));
        let mut r = rule();
        r.set_fenced(at(0), true);
        r.set_fenced(at(1000), false);
        assert_eq!(r.step(at(1005), Some(&leading(3, 990, 995)), true), None, "nor does one begin");
        r.set_fenced(at(1006), true);
        assert_eq!(r.step(at(1007), Some(&leading(3, 990, 995)), true), hold(3, 1185));
    }

    #[test]
    fn a_keeper_that_dropped_on_its_own_spends_the_vote() {
        let mut r = rule();
        r.step(at(1000), Some(&leading(3, 990, 995)), true);
        r.gone();
        assert!(r.is_spent(&vote(3)) && r.holding().is_none());
    }
}
