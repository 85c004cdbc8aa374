//! Who stands first when the leader is lost: ranks by priority, and a slot of time for each rank.
//!
//! Take-over is one lease plus a slot by rank, not a second random timeout: the first fit node campaigns alone.

use crate::cluster::types::NodeId;
use crate::sys::clock::Instant;
use std::time::Duration;

/// The shortest slot.
pub const MIN_SLOT: Duration = Duration::from_millis(10);

/// A member as the order sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Its id.
    pub id: NodeId,
    /// Higher stands earlier.
    pub priority: u32,
    /// Whether it could hold the VIP, as far as known.
    pub fit: bool,
    /// Whether it reaches a backend, as far as known.
    pub reaches: bool,
}

/// Members in the order in which they stand: fit before unfit, those that reach a backend before those that don't, the last leader
/// at the end of its class, higher priority first, then by id.
pub fn order(mut members: Vec<Candidate>, last_leader: Option<&NodeId>) -> Vec<Candidate> {
    members.sort_by(|a, b| {
        let class = |c: &Candidate| (!c.fit, !c.reaches, last_leader == Some(&c.id));
        class(a).cmp(&class(b)).then(b.priority.cmp(&a.priority)).then(a.id.cmp(&b.id))
    });
    members
}

/// The place of `me` in that order, from 0; the number of members if it is not among them.
pub fn rank_of(me: &NodeId, members: Vec<Candidate>, last_leader: Option<&NodeId>) -> u32 {
    let place = order(members, last_leader).iter().position(|c| c.id == *me);
    place.map_or(u32::MAX, |p| u32::try_from(p).unwrap_or(u32::MAX))
}

/// One slot: two round trips, at least 10 ms, at most one lease.
pub fn slot(round_trip: Duration, lease: Duration) -> Duration {
    (round_trip * 2).clamp(MIN_SLOT, lease.max(MIN_SLOT))
}

/// When a follower of this rank campaigns: when its promise to the leader has ended (or the time of a candidate it voted for is over),
/// plus its slots.
pub fn campaign_at(free: Instant, rank: u32, slot: Duration) -> Instant {
    free + slot.saturating_mul(rank.min(64))
}

/// When a node that could not hold campaigns all the same, although one that could is here: as late as four leases, because it only
/// helps where the other can't be elected (its log is behind).
pub fn unfit_at(free: Instant, granted: Option<Instant>, lease: Duration) -> Instant {
    free.max(granted.unwrap_or_default()) + lease * 4
}

/// How long until the next try where a campaign brought no leader: half a heartbeat, but a campaign that is still collecting
/// votes is not abandoned before `vote_timeout`.
pub fn retry_at(tried: Instant, heartbeat: Duration, candidate: bool, vote_timeout: Duration) -> Instant {
    tried + if candidate { vote_timeout.max(heartbeat / 2) } else { heartbeat / 2 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn c(id: &str, priority: u32, fit: bool) -> Candidate {
        Candidate { id: NodeId::new(id).unwrap(), priority, fit, reaches: true }
    }

    #[test]
    fn priority_then_id_with_the_last_leader_and_the_unfit_at_the_end() {
        let members = vec![c("d", 100, true), c("b", 100, true), c("a", 200, true), c("c", 255, false)];
        let ids = |last: Option<&NodeId>| -> Vec<String> {
            order(members.clone(), last).into_iter().map(|c| c.id.to_string()).collect()
        };
        assert_eq!(ids(None), ["a", "b", "d", "c"]);
        assert_eq!(ids(Some(&NodeId::new("a").unwrap())), ["b", "d", "a", "c"]);
        assert_eq!(rank_of(&NodeId::new("d").unwrap(), members.clone(), None), 2);
        assert_eq!(rank_of(&NodeId::new("x").unwrap(), members, None), u32::MAX);
    }

    #[test]
    fn a_backend_in_reach_counts_more_than_priority_and_less_than_fitness() {
        let deaf = |id: &str, priority, fit| Candidate { reaches: false, ..c(id, priority, fit) };
        let members = vec![deaf("a", 200, true), c("b", 100, true), c("c", 255, false), deaf("d", 255, false)];
        let ids: Vec<String> = order(members, Some(&NodeId::new("b").unwrap())).iter().map(|c| c.id.to_string()).collect();
        assert_eq!(ids, ["b", "a", "c", "d"]);
    }

    #[test]
    fn slots_follow_the_round_trip_within_bounds() {
        let ms = Duration::from_millis;
        assert_eq!(slot(ms(0), ms(250)), ms(10));
        assert_eq!(slot(ms(20), ms(250)), ms(40));
        assert_eq!(slot(ms(900), ms(250)), ms(250));
    }

    #[test]
    fn the_first_rank_stands_as_soon_as_it_may() {
        let ms = Duration::from_millis;
        let t = Instant::from_nanos(0);
        assert_eq!(campaign_at(t, 0, ms(10)), t);
        assert_eq!(campaign_at(t, 2, ms(10)), t + ms(20));
        assert!(campaign_at(t, u32::MAX, ms(250)) <= t + ms(250) * 64, "a stranger waits, but not for ever");
    }

    #[test]
    fn an_unfit_node_leaves_the_others_time_but_not_for_ever() {
        let ms = Duration::from_millis;
        let t = Instant::from_nanos(0);
        assert_eq!(unfit_at(t, None, ms(250)), t + ms(1000));
        assert_eq!(unfit_at(t, Some(t + ms(100)), ms(250)), t + ms(1100));
    }

    #[test]
    fn a_campaign_under_way_is_not_abandoned() {
        let ms = Duration::from_millis;
        let t = Instant::from_nanos(0);
        assert_eq!(retry_at(t, ms(50), false, ms(187)), t + ms(25));
        assert_eq!(retry_at(t, ms(50), true, ms(187)), t + ms(187));
    }
}
