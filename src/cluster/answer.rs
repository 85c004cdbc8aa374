//! Answers a peer's request: through the gate, then to openraft.

use super::peers::message::{Request, Response};
use super::rules::gate::{self, Answer, Ask, Own};
use super::runtime::now;
use super::shared::Shared;
use super::types::{AppendEntriesResponse, NodeId, Snapshot, VoteRequest, VoteResponse};
use super::vote::VoteId;
use log::{debug, info};

/// Answers one request of the peer `from`.
pub async fn answer(shared: &Shared, from: &NodeId, request: Request) -> Response {
    match request {
        Request::Ping => Response::Pong,
        Request::Append(rpc) if rpc.vote.leader_id.node_id == *from => {
            let answered = shared.raft().append_entries(rpc).await;
            if let Ok(answer) = &answered
                && !matches!(answer, AppendEntriesResponse::HigherVote(_))
            {
                shared.heard_leader(now());
            }
            answered.map(Response::Append).unwrap_or_else(unavailable)
        }
        Request::Vote(rpc) if rpc.vote.leader_id.node_id == *from => vote(shared, rpc).await,
        Request::PreVote(rpc) if rpc.vote.leader_id.node_id == *from => match judge(shared, Ask::PreVote) {
            Answer::Pass { .. } => shared.raft().pre_vote(rpc).await.map(Response::Vote).unwrap_or_else(unavailable),
            Answer::Refuse(why) => refuse(shared, &rpc, why),
        },
        Request::Snapshot(vote, meta) if vote.leader_id.node_id == *from => {
            let installed = shared.raft().install_full_snapshot(vote, Snapshot { meta, snapshot: Default::default() }).await;
            shared.heard_leader(now());
            installed.map(Response::Snapshot).unwrap_or_else(unavailable)
        }
        Request::Transfer(rpc) if rpc.from_leader().leader_id.node_id == *from => match judge(shared, Ask::Transfer) {
            Answer::Pass { .. } => {
                shared.told_to_stand(rpc.to_node_id());
                shared.raft().handle_transfer_leader(rpc).await.map(Response::Transfer).unwrap_or_else(unavailable)
            }
            Answer::Refuse(why) => {
                info!("leadership offered by {from} refused: {why}");
                Response::Unavailable(why.to_string())
            }
        },
        _ => Response::Unavailable("a node speaks only under its own vote".to_string()),
    }
}

async fn vote(shared: &Shared, mut rpc: VoteRequest) -> Response {
    let ask = Ask::Vote { term: rpc.vote.leader_id.term, transfer: rpc.leadership_transfer };
    match judge(shared, ask) {
        Answer::Pass { transfer } => {
            rpc.leadership_transfer = transfer;
            let candidate = VoteId::of(&rpc.vote);
            let answered = shared.raft().vote(rpc).await;
            if let Ok(answer) = &answered
                && answer.vote_granted
            {
                debug!("voted for {candidate}");
                shared.granted(now());
            }
            answered.map(Response::Vote).unwrap_or_else(unavailable)
        }
        Answer::Refuse(why) => refuse(shared, &rpc, why),
    }
}

fn judge(shared: &Shared, ask: Ask) -> Answer {
    let own = Own {
        quiet: now() < shared.quiet_until,
        may_be_held: shared.hold.borrow().may_be_held(now()),
        committed_term: shared.committed_term(),
    };
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
