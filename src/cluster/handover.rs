//! A hand-over that somebody asked for: whether it can be, and what came of it.

use super::rules::successor;
use super::runtime::{now, sleep_until};
use super::shared::Shared;
use super::standing;
use super::types::{NodeId, RaftMetrics, ServerState};
use super::vote::VoteId;
use openraft::async_runtime::watch::WatchReceiver;
use smol::future::FutureExt;

/// See [`Cluster::hand_over`](super::Cluster::hand_over).
pub async fn hand_over(shared: &Shared, to: Option<NodeId>) -> Result<NodeId, String> {
    let mut metrics = shared.raft().metrics();
    let seen = metrics.borrow_watched().clone();
    let vote = own_vote(shared, &seen)?;
    let to = pick(shared, &seen, to)?;
    let begun = now();
    // The VIP is seen gone, at the latest when the kernel has dropped it; then the transfer, or an election where it fails.
    let limit = begun + shared.spec.drop_margin + shared.lease() * 3;
    shared.ask_to_move(vote.clone(), to.clone());
    loop {
        let changed = async { metrics.changed().await.is_ok() };
        let late = async {
            sleep_until(limit).await;
            false
        };
        let goes_on = changed.or(late).await;
        let seen = metrics.borrow_watched().clone();
        if let Some(outcome) = outcome(shared, &vote, &to, &seen) {
            return outcome;
        }
        if !goes_on {
            return Err(format!(
                "{to} did not take over within {} ms, and no other node has so far",
                (now() - begun).as_millis()
            ));
        }
    }
}

fn own_vote(shared: &Shared, m: &RaftMetrics) -> Result<VoteId, String> {
    if m.state == ServerState::Leader && !shared.is_stopping() {
        return Ok(VoteId::new(m.current_term, shared.me.clone()));
    }
    Err(match &m.current_leader {
        Some(leader) if !shared.is_me(leader) => format!("{} does not lead: ask {leader}, the leader", shared.me),
        Some(_) => format!("{} is stopping: it hands over in any case", shared.me),
        None => "there is no leader now".to_string(),
    })
}

/// The peer that was asked for, or the best one.
fn pick(shared: &Shared, m: &RaftMetrics, to: Option<NodeId>) -> Result<NodeId, String> {
    let followers = standing::followers(shared, m);
    let (now, heartbeat) = (now(), shared.heartbeat());
    let unready = |f: &successor::Follower| successor::unready(f, now, heartbeat);
    let Some(to) = to else {
        let why =
            || followers.iter().filter_map(|f| unready(f).map(|why| format!("{}: {why}", f.id))).collect::<Vec<_>>().join("; ");
        let best = successor::choose(now, heartbeat, &followers).map(|f| f.id.clone());
        return best.ok_or_else(|| format!("no node is ready to take over ({})", why()));
    };
    if shared.is_me(&to) {
        return Err(format!("{to} leads already"));
    }
    let Some(follower) = followers.iter().find(|f| f.id == to) else {
        let ids: Vec<&str> = followers.iter().map(|f| f.id.as_str()).collect();
        return Err(format!("{to} is no member of this cluster: the others are {}", ids.join(", ")));
    };
    unready(follower).map_or(Ok(to.clone()), |why| Err(format!("{to} can't take over now: {why}")))
}

/// What came of it, as soon as there is a leader again.
fn outcome(shared: &Shared, from: &VoteId, to: &NodeId, m: &RaftMetrics) -> Option<Result<NodeId, String>> {
    let leader = m.current_leader.as_ref()?;
    if leader == to {
        return Some(Ok(leader.clone()));
    }
    if !shared.is_me(leader) {
        return Some(Err(format!("{to} did not take over; {leader} leads now")));
    }
    let again = m.state == ServerState::Leader && m.current_term > from.term;
    again.then(|| Err(format!("{to} did not take over; this node leads again")))
}
