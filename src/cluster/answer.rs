//! Answers a peer's request: through the gate, then to openraft.

use super::peers::message::{Request, Response};
use super::rules::gate::{self, Answer, Ask, Own};
use super::runtime::now;
use super::shared::Shared;
use super::types::{
    AppendEntriesRequest, AppendEntriesResponse, NodeId, Snapshot, SnapshotMeta, TransferLeaderRequest, Vote, VoteRequest,
    VoteResponse,
};
use super::vote::VoteId;
use log::{debug, info};

/// Answers one request of the peer `from`.
pub async fn answer(shared: &Shared, from: &NodeId, request: Request) -> Response {
    if let Some(vote) = request.vote() {
        if vote.leader_id.node_id != *from {
            return Response::Unavailable("a node speaks only under its own vote".to_string());
        }
        if !shared.is_plausible(vote) {
            return Response::Unavailable(format!("term {} can't be: is the sender's state damaged?", vote.leader_id.term));
        }
    }
    match request {
        Request::Ping => Response::Pong,
        Request::Append(rpc) => append(shared, rpc).await,
        Request::Vote(rpc, told_by) => vote(shared, rpc, told_by).await,
        Request::PreVote(rpc) => match judge(shared, Ask::PreVote) {
            Answer::Pass { .. } => shared.raft().pre_vote(rpc).await.map(Response::Vote).unwrap_or_else(unavailable),
            Answer::Refuse(why) => refuse(shared, &rpc, why),
        },
        Request::Snapshot(vote, meta) => snapshot(shared, vote, meta).await,
        Request::Transfer(rpc) => transfer(shared, from, rpc).await,
    }
}

async fn append(shared: &Shared, rpc: AppendEntriesRequest) -> Response {
    let answered = shared.raft().append_entries(rpc).await;
    if let Ok(answer) = &answered
        && !matches!(answer, AppendEntriesResponse::HigherVote(_))
    {
        shared.heard_leader(now());
    }
    answered.map(Response::Append).unwrap_or_else(unavailable)
}

async fn snapshot(shared: &Shared, vote: Vote, meta: SnapshotMeta) -> Response {
    let installed = shared.raft().install_full_snapshot(vote.clone(), Snapshot { meta, snapshot: () }).await;
    if installed.as_ref().is_ok_and(|answer| answer.vote == vote) {
        shared.heard_leader(now());
    }
    installed.map(Response::Snapshot).unwrap_or_else(unavailable)
}

async fn transfer(shared: &Shared, from: &NodeId, rpc: TransferLeaderRequest) -> Response {
    match judge(shared, Ask::Transfer) {
        Answer::Pass { .. } => {
            shared.told_to_stand(rpc.to_node_id(), rpc.from_leader().clone());
            shared.raft().handle_transfer_leader(rpc).await.map(Response::Transfer).unwrap_or_else(unavailable)
        }
        Answer::Refuse(why) => {
            info!("leadership offered by {from} refused: {why}");
            Response::Unavailable(why.to_string())
        }
    }
}

async fn vote(shared: &Shared, mut rpc: VoteRequest, told_by: Option<Vote>) -> Response {
    let ask = Ask::Vote { term: rpc.vote.leader_id.term, told_in: told_by.as_ref().map(|vote| vote.leader_id.term) };
    match judge(shared, ask) {
        Answer::Pass { told } => {
            if let Some(leader) = told_by.filter(|_| told) {
                end_lease_of(shared, leader, &rpc.vote.leader_id.node_id).await;
            }
            // Never by the flag: it would skip the lease of whichever leader this node follows by now.
            rpc.leadership_transfer = false;
            let candidate = VoteId::of(&rpc.vote);
            let answered = shared.raft().vote(rpc).await;
            if answered.as_ref().is_ok_and(|answer| answer.vote_granted) {
                debug!("voted for {candidate}");
                shared.granted(now());
            }
            answered.map(Response::Vote).unwrap_or_else(unavailable)
        }
        Answer::Refuse(why) => refuse(shared, &rpc, why),
    }
}

/// The candidate says that this leader sent it. Where it is this node, and it has given up that vote, it steps down; else raft's
/// core ends the lease if, and only if, it follows exactly that vote.
async fn end_lease_of(shared: &Shared, leader: Vote, candidate: &NodeId) {
    let vote = VoteId::of(&leader);
    if shared.is_me(&vote.node) {
        let given_up = shared.hold.borrow().is_spent(&vote);
        if given_up {
            shared.step_down(&vote).await;
        }
        return;
    }
    let request = TransferLeaderRequest::new(leader, candidate.clone(), None);
    let _ = shared.raft().handle_transfer_leader(request).await; // a core that has ended answers the vote below
}

fn judge(shared: &Shared, ask: Ask) -> Answer {
    let own = Own { quiet: now() < shared.quiet_until, may_be_held: shared.hold.borrow().may_be_held(now()) };
    gate::judge(ask, own)
}

/// A refusal carries the own vote, as openraft's would: a candidate that is behind learns the term.
fn refuse(shared: &Shared, rpc: &VoteRequest, why: &str) -> Response {
    debug!("{}: vote for {} refused: {why}", shared.me, VoteId::of(&rpc.vote));
    Response::Vote(VoteResponse::new(shared.own_vote(), None, false))
}

fn unavailable(e: impl std::fmt::Display) -> Response {
    Response::Unavailable(e.to_string())
}
