//! Facts about this node and its peers as the rules want them: who could stand, who could be handed the leadership.

use super::answer::judge;
use super::peer::Peer;
use super::rules::gate::{Answer, Ask};
use super::rules::rank::{self, Candidate};
use super::rules::successor::Follower;
use super::runtime::now;
use super::shared::Shared;
use super::types::{NodeId, RaftMetrics};
use std::time::Duration;

/// A peer is here where it was heard within two leases, or this: idle links are pinged twice a second.
const RECENT: Duration = Duration::from_millis(1200);

/// Who could stand in the place of a lost leader, this node included.
pub fn candidates(shared: &Shared) -> Vec<Candidate> {
    let peer = |p: &Peer| {
        let flags = p.flags().unwrap_or_default();
        let fit = is_here(shared, p) && flags.fit;
        Candidate { id: p.id.clone(), priority: p.priority, fit, reaches: flags.reaches }
    };
    let me = Candidate {
        id: shared.me.clone(),
        priority: shared.spec.own().priority,
        fit: shared.flags().fit,
        reaches: shared.reaches(),
    };
    shared.peers.iter().map(peer).chain([me]).collect()
}

/// Who stands at once when the hold of `lost` has ended by proof: the first that could hold and may campaign.
pub fn heir(shared: &Shared, lost: &NodeId) -> NodeId {
    let ready = |id: &NodeId| match shared.peers.iter().find(|p| p.id == *id) {
        Some(peer) => peer.flags().is_some_and(|f| f.awake),
        None => judge(shared, Ask::Transfer, lost) == Answer::Pass,
    };
    let mut candidates = candidates(shared);
    candidates.retain(|c| c.id != *lost);
    candidates.iter_mut().for_each(|c| c.fit &= ready(&c.id));
    rank::order(candidates, None).into_iter().next().map_or(shared.me.clone(), |c| c.id)
}

/// Whether another than `lost` could hold and is here.
pub fn fit_peer(shared: &Shared, lost: Option<&NodeId>) -> bool {
    shared.peers.iter().any(|p| lost != Some(&p.id) && is_here(shared, p) && p.flags().is_some_and(|f| f.fit))
}

fn is_here(shared: &Shared, peer: &Peer) -> bool {
    peer.is_here(now(), (shared.lease() * 2).max(RECENT))
}

/// What this node, as leader, knows of each peer.
pub fn followers(shared: &Shared, m: &RaftMetrics) -> Vec<Follower> {
    let follower = |p: &Peer| {
        let flags = p.flags().unwrap_or_default();
        let matched = m.replication.as_ref().and_then(|r| r.get(&p.id)).and_then(|id| id.as_ref().map(|id| id.index));
        let acked = m.heartbeat.as_ref().and_then(|h| h.get(&p.id)).and_then(|at| at.map(|at| at.into_inner()));
        Follower {
            id: p.id.clone(),
            priority: p.priority,
            connected: p.calls.is_connected(),
            fit: flags.fit,
            awake: flags.awake,
            reaches: flags.reaches,
            caught_up: matched.is_some() && matched == m.last_log_index,
            acked,
        }
    };
    shared.peers.iter().map(follower).collect()
}
