//! Nobody sits on the leadership: whom to hand it to.

use crate::cluster::types::NodeId;
use crate::sys::clock::Instant;
use std::time::Duration;

/// What the leader knows of a peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Follower {
    /// Its id.
    pub id: NodeId,
    /// Higher is preferred.
    pub priority: u32,
    /// It says that it could hold the VIP.
    pub fit: bool,
    /// It says that its quiet start has ended.
    pub awake: bool,
    /// Its log matches the leader's to the end.
    pub caught_up: bool,
    /// Sending time of the newest heartbeat it acknowledged.
    pub acked: Option<Instant>,
}

/// The best peer to lead next: fit, awake, caught up and acknowledged within two heartbeats; then by priority, then by id.
/// A transfer to any other would leave the cluster without a leader for a lease.
pub fn choose(now: Instant, heartbeat: Duration, followers: &[Follower]) -> Option<&Follower> {
    let ready = |f: &&Follower| f.fit && f.awake && f.caught_up && f.acked.is_some_and(|at| now.since(at) <= heartbeat * 2);
    followers.iter().filter(ready).min_by_key(|f| (std::cmp::Reverse(f.priority), &f.id))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_ready_peer_and_the_preferred_one() {
        let ms = |n: u64| Instant::from_nanos(n * 1_000_000);
        let good = Follower {
            id: NodeId::new("b").unwrap(),
            priority: 100,
            fit: true,
            awake: true,
            caught_up: true,
            acked: Some(ms(950)),
        };
        let also = Follower { id: NodeId::new("c").unwrap(), ..good.clone() };
        let pick = |followers: &[Follower]| {
            choose(ms(1000), Duration::from_millis(50), followers).map(|f| f.id.to_string()).unwrap_or_default()
        };
        assert_eq!(pick(&[also.clone(), good.clone()]), "b", "equal priority: by id");
        assert_eq!(pick(&[Follower { priority: 200, ..also.clone() }, good.clone()]), "c");
        assert_eq!(pick(&[Follower { acked: Some(ms(899)), ..good.clone() }]), "", "silent for over two heartbeats");
        for bad in [
            Follower { fit: false, ..good.clone() },
            Follower { awake: false, ..good.clone() },
            Follower { caught_up: false, ..good.clone() },
            Follower { acked: None, ..good.clone() },
        ] {
            assert_eq!(pick(&[bad, also.clone()]), "c");
        }
    }
}
