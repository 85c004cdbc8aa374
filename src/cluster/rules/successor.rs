//! Nobody sits on the leadership: whom to hand it to.

use crate::cluster::types::NodeId;
use crate::sys::clock::Instant;
use std::time::Duration;

/// A peer that acknowledged a heartbeat within so many is there: it gets every second one (`rules::turns`), and one may be under way.
const RECENT: u32 = 3;

/// What the leader knows of a peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Follower {
    /// Its id.
    pub id: NodeId,
    /// Higher is preferred.
    pub priority: u32,
    /// There is a connection to it.
    pub connected: bool,
    /// It says that it could hold the VIP.
    pub fit: bool,
    /// It says that its quiet start has ended.
    pub awake: bool,
    /// It says that it reaches a backend, or does not look.
    pub reaches: bool,
    /// Its log matches the leader's to the end.
    pub caught_up: bool,
    /// Sending time of the newest heartbeat it acknowledged.
    pub acked: Option<Instant>,
}

/// Why a peer can't be handed the leadership, in words for the user.
pub fn unready(f: &Follower, now: Instant, heartbeat: Duration) -> Option<&'static str> {
    let silent = f.acked.is_none_or(|at| now.since(at) > heartbeat * RECENT);
    [
        (!f.connected, "it is not connected"),
        (!f.fit, "it could not hold the VIP (link down, cordoned, witness, -d, or stopping)"),
        (!f.awake, "it has only just started and waits until promises of its earlier run have ended"),
        (silent, "it has not acknowledged the last heartbeats"),
        (!f.caught_up, "its log is behind"),
    ]
    .into_iter()
    .find_map(|(is, why)| is.then_some(why))
}

/// The best peer to lead next: ready, then one that reaches a backend, then by priority, then by id. A transfer to one that is not
/// ready (fit, awake, caught up and acknowledged within the last heartbeats) would leave the cluster without a leader for a lease.
pub fn choose(now: Instant, heartbeat: Duration, followers: &[Follower]) -> Option<&Follower> {
    let ready = followers.iter().filter(|f| unready(f, now, heartbeat).is_none());
    ready.min_by_key(|f| (!f.reaches, std::cmp::Reverse(f.priority), &f.id))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(n: u64) -> Instant {
        Instant::from_nanos(n * 1_000_000)
    }

    fn good(id: &str) -> Follower {
        Follower {
            id: NodeId::new(id).unwrap(),
            priority: 100,
            connected: true,
            fit: true,
            awake: true,
            reaches: true,
            caught_up: true,
            acked: Some(ms(950)),
        }
    }

    fn pick(followers: &[Follower]) -> String {
        choose(ms(1000), Duration::from_millis(50), followers).map(|f| f.id.to_string()).unwrap_or_default()
    }

    #[test]
    fn only_a_ready_peer_and_the_preferred_one() {
        let (good, also) = (good("b"), good("c"));
        assert_eq!(pick(&[also.clone(), good.clone()]), "b", "equal priority: by id");
        assert_eq!(pick(&[Follower { priority: 200, ..also.clone() }, good.clone()]), "c");
        let deaf = Follower { priority: 200, reaches: false, ..good.clone() };
        assert_eq!(pick(&[deaf.clone(), also.clone()]), "c", "a backend in reach counts more than priority");
        assert_eq!(pick(&[deaf]), "b", "but nobody is passed over for it");
    }

    #[test]
    fn who_is_not_ready_is_told_why() {
        let good = good("b");
        let cases = [
            (Follower { connected: false, ..good.clone() }, "not connected"),
            (Follower { fit: false, ..good.clone() }, "could not hold"),
            (Follower { awake: false, ..good.clone() }, "only just started"),
            (Follower { caught_up: false, ..good.clone() }, "behind"),
            (Follower { acked: None, ..good.clone() }, "not acknowledged"),
            (Follower { acked: Some(ms(849)), ..good.clone() }, "not acknowledged"),
        ];
        let heartbeat = Duration::from_millis(50);
        assert_eq!(unready(&good, ms(1000), heartbeat), None);
        for (bad, words) in cases {
            let why = unready(&bad, ms(1000), heartbeat).unwrap_or_default();
            assert!(why.contains(words), "{why:?}, expected {words:?}");
            assert_eq!(pick(&[bad]), "");
        }
    }
}
