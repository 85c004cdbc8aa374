//! Answers a peer's request: through the gate, then to openraft. A keeper's notice comes the same way.

use super::peers::message::{Proof, Request, Response};
use super::peers::wire::Flags;
use super::rules::gate::{self, Answer, Ask, Own};
use super::rules::planted::{Planted, is_planted};
use super::rules::promise::Shown;
use super::runtime::{self, now};
use super::shared::Shared;
use super::standing;
use super::types::{
    AppendEntriesRequest, AppendEntriesResponse, NodeId, Snapshot, SnapshotMeta, TransferLeaderRequest, Vote, VoteRequest,
    VoteResponse,
};
use super::vote::VoteId;
use crate::release::{Commitment, Notice, Secret, VoteKey};
use log::{debug, info};
use std::rc::Rc;

/// Answers one request of the peer `from`, whose frame carried these flags.
pub async fn answer(shared: &Rc<Shared>, from: &NodeId, flags: Flags, request: Request) -> Response {
    if let Some(vote) = request.vote() {
        if vote.leader_id.node_id != *from {
            return Response::Unavailable("a node speaks only under its own vote".to_string());
        }
        if !shared.is_plausible(vote) {
            return Response::Unavailable(format!("term {} can't be: is the sender's state damaged?", vote.leader_id.term));
        }
    }
    shared.expect_leader(flags);
    match request {
        Request::Ping => Response::Pong,
        Request::Append(rpc, commitment) => append(shared, rpc, commitment, flags.fenced).await,
        Request::Vote(rpc, proof) => vote(shared, rpc, proof).await,
        Request::PreVote(rpc, proof) => pre_vote(shared, rpc, proof).await,
        Request::Snapshot(vote, meta, commitment) => snapshot(shared, vote, meta, commitment, flags.fenced).await,
        Request::Transfer(rpc, secret) => transfer(shared, from, rpc, secret).await,
        Request::Released(proof) => {
            let passed_on = released(shared, VoteId::of(&proof.vote).key(), proof.secret);
            passed_on.map_or_else(unavailable, |()| Response::Pong)
        }
    }
}

async fn append(shared: &Shared, rpc: AppendEntriesRequest, commitment: Commitment, fenced: bool) -> Response {
    let leader = VoteId::of(&rpc.vote);
    let asked = async { shared.raft().append_entries(rpc).await };
    let accepted = |answer: &AppendEntriesResponse| !matches!(answer, AppendEntriesResponse::HigherVote(_));
    followed(shared, leader, commitment, fenced, asked, accepted)
        .await
        .map(Response::Append)
        .unwrap_or_else(Response::Unavailable)
}

async fn snapshot(shared: &Shared, vote: Vote, meta: SnapshotMeta, commitment: Commitment, fenced: bool) -> Response {
    let leader = VoteId::of(&vote);
    let asked = async { shared.raft().install_full_snapshot(vote.clone(), Snapshot { meta, snapshot: () }).await };
    let accepted = |answer: &super::types::SnapshotResponse| answer.vote == vote;
    let answered = followed(shared, leader, commitment, fenced, asked, accepted).await;
    answered.map(Response::Snapshot).unwrap_or_else(Response::Unavailable)
}

/// What a leader says, to openraft. Where it is accepted, the promise is made before the answer leaves.
async fn followed<T, E: std::fmt::Display>(
    shared: &Shared,
    leader: VoteId,
    commitment: Commitment,
    fenced: bool,
    asked: impl Future<Output = Result<T, E>>,
    accepted: impl Fn(&T) -> bool,
) -> Result<T, String> {
    if shared.promise.borrow().is_released(&leader) {
        return Err("the hold under this vote has ended: another node may have the VIP".to_string());
    }
    if shared.promise.borrow().differs(&leader, commitment) {
        return Err("an earlier run of this node has led under this vote: campaign for a new one".to_string());
    }
    let _hearing = shared.hears(fenced);
    shared.record_promise(fenced).await;
    let answer = asked.await.map_err(|e| e.to_string())?;
    if accepted(&answer) {
        shared.promise.borrow_mut().heard(now(), leader, commitment, fenced);
    }
    Ok(answer)
}

async fn transfer(shared: &Shared, from: &NodeId, rpc: TransferLeaderRequest, secret: Secret) -> Response {
    let proof = Proof { vote: rpc.from_leader().clone(), secret };
    if let Err(why) = check(shared, &proof) {
        info!("leadership offered by {from} refused: {why}");
        return Response::Unavailable(why.to_string());
    }
    let to_me = shared.is_me(rpc.to_node_id());
    let refused = match judge(shared, Ask::Transfer, from) {
        Answer::Refuse(why) => Some(why),
        Answer::Pass => (to_me && !shared.flags().fit).then_some("this node could not hold the VIP"),
    };
    if let Some(why) = refused {
        info!("leadership offered by {from} refused: {why}");
        end_lease_of(shared, proof.vote, from).await; // whoever stands now
        return Response::Unavailable(why.to_string());
    }
    shared.stands_next(rpc.to_node_id());
    shared.raft().handle_transfer_leader(rpc).await.map(Response::Transfer).unwrap_or_else(unavailable)
}

async fn vote(shared: &Shared, mut rpc: VoteRequest, proof: Option<Proof>) -> Response {
    let candidate = VoteId::of(&rpc.vote);
    let believed = rpc.leadership_transfer && is_planted(Planted::FlagBelieved);
    match judge_candidate(shared, Ask::Vote, &candidate.node, proof).await {
        Answer::Refuse(why) if !believed => return refuse(shared, &rpc, why),
        _ => {}
    }
    // Never by the flag: it would skip the lease of whichever leader this node follows by now.
    rpc.leadership_transfer = believed;
    let answered = shared.raft().vote(rpc).await;
    if answered.as_ref().is_ok_and(|answer| answer.vote_granted) {
        debug!("voted for {candidate}");
        shared.granted(now());
    }
    answered.map(Response::Vote).unwrap_or_else(unavailable)
}

async fn pre_vote(shared: &Shared, rpc: VoteRequest, proof: Option<Proof>) -> Response {
    let candidate = rpc.vote.leader_id.node_id.clone();
    match judge_candidate(shared, Ask::PreVote, &candidate, proof).await {
        Answer::Pass => shared.raft().pre_vote(rpc).await.map(Response::Vote).unwrap_or_else(unavailable),
        Answer::Refuse(why) => refuse(shared, &rpc, why),
    }
}

/// The gate, after what the candidate can prove.
async fn judge_candidate(shared: &Shared, ask: Ask, candidate: &NodeId, proof: Option<Proof>) -> Answer {
    let checked = proof.filter(|proof| check(shared, proof).is_ok());
    let answer = judge(shared, ask, candidate);
    if answer == Answer::Pass
        && let Some(proof) = checked
    {
        end_lease_of(shared, proof.vote, candidate).await;
    }
    answer
}

/// Looks at a proof. Right, or for a vote that this node itself has given up: the lease of that vote may end.
fn check(shared: &Shared, proof: &Proof) -> Result<(), &'static str> {
    let vote = VoteId::of(&proof.vote);
    if shared.is_me(&vote.node) {
        return if shared.hold.borrow().is_spent(&vote) { Ok(()) } else { Err("this node has not given up its vote") };
    }
    match shared.promise.borrow_mut().shown(vote.key(), &proof.secret) {
        Shown::Right { .. } => Ok(()),
        Shown::Nothing(why) => Err(why),
    }
}

/// The hold of this leader has ended by proof. Where it is this node, it steps down; else raft's core ends the lease if, and only if,
/// it follows exactly that vote.
async fn end_lease_of(shared: &Shared, leader: Vote, candidate: &NodeId) {
    let vote = VoteId::of(&leader);
    if shared.is_me(&vote.node) {
        shared.step_down(&vote).await;
        return;
    }
    let request = TransferLeaderRequest::new(leader, candidate.clone(), None);
    let _ = shared.raft().handle_transfer_leader(request).await; // a core that has ended answers the vote below
}

/// A peer's keeper says that the VIP is gone from there.
pub fn noticed(shared: &Rc<Shared>, from: &NodeId, notice: &Notice) {
    if notice.cluster != shared.hello.cluster {
        debug!("notice from {from}: it is for another cluster, or one of its nodes has another configuration");
        return;
    }
    if let Err(why) = released(shared, notice.vote, notice.secret) {
        debug!("notice from {from} (term {}): {why}", notice.vote.term);
    }
}

/// The hold of the leader that this node follows has ended, if this is its secret. The first fit node stands at once, the others where
/// that brings no leader.
fn released(shared: &Rc<Shared>, vote: VoteKey, secret: Secret) -> Result<(), &'static str> {
    let shown = shared.promise.borrow_mut().shown(vote, &secret);
    let vote = match shown {
        Shown::Right { vote, news: true } => vote,
        Shown::Right { news: false, .. } => return Ok(()),
        Shown::Nothing(why) => return Err(why),
    };
    // A leader that lives and moves names its successor itself; two that stand at once would cost a round.
    let moving = shared.peers.iter().any(|p| p.id == vote.node && p.flags().is_some_and(|f| f.moving));
    let heir = if moving { vote.node.clone() } else { standing::heir(shared, &vote.node) };
    // Where nobody could hold, the first of them may be this node while it must not stand: then only the lease ends.
    let may_stand = !shared.is_me(&heir) || judge(shared, Ask::Transfer, &vote.node) == Answer::Pass;
    let heir = if may_stand { heir } else { vote.node.clone() };
    match moving {
        true => info!("the VIP is gone from {} ({vote}), which hands over", vote.node),
        false => info!("the VIP is gone from {} ({vote}): {heir} stands next", vote.node),
    }
    shared.stands_next(&heir);
    if !moving && !shared.is_me(&heir) {
        shared.pass_on(&heir, Proof { vote: vote.committed(), secret });
    }
    let request = TransferLeaderRequest::new(vote.committed(), heir, None);
    let shared = shared.clone();
    // It may wait for the disk.
    runtime::spawn(async move { drop(shared.raft().handle_transfer_leader(request).await) });
    Ok(())
}

/// As the gate answers now.
pub fn judge(shared: &Shared, ask: Ask, candidate: &NodeId) -> Answer {
    let now = now();
    let promised = shared.promise.borrow().stands_against(now, candidate) || shared.is_hearing();
    gate::judge(ask, Own { quiet: shared.is_quiet(), may_be_held: shared.hold.borrow().may_be_held(now), promised })
}

/// A refusal carries the own vote, as openraft's would: a candidate that is behind learns the term.
fn refuse(shared: &Shared, rpc: &VoteRequest, why: &str) -> Response {
    debug!("{}: vote for {} refused: {why}", shared.me, VoteId::of(&rpc.vote));
    Response::Vote(VoteResponse::new(shared.own_vote(), None, false))
}

fn unavailable(e: impl std::fmt::Display) -> Response {
    Response::Unavailable(e.to_string())
}
