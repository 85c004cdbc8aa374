//! openraft's view of the peers: each RPC is one call over the peer's connection, bounded in time and never a busy loop.

use super::peers::message::{Request, Response};
use super::runtime::{now, sleep};
use super::shared::Shared;
use super::types::{
    AppendEntriesRequest, AppendEntriesResponse, Node, NodeId, RPCError, ReplicationClosed, Snapshot, SnapshotData,
    SnapshotResponse, StreamingError, TransferLeaderRequest, TransferLeaderResponse, TypeConfig, Unreachable, Vote,
    VoteRequest, VoteResponse,
};
use super::vote::VoteId;
use openraft::network::RPCOption;
use openraft::{RaftNetworkFactory, RaftNetworkV2};
use smol::future::FutureExt;
use std::rc::Rc;
use std::time::Duration;

/// An RPC that fails fails not sooner than this: openraft repeats some of them at once.
const PACE: Duration = Duration::from_millis(5);

/// Makes clients; never connects (openraft awaits this inside its core).
pub struct Network(pub Rc<Shared>);

/// RPCs to one peer.
pub struct Client {
    shared: Rc<Shared>,
    target: NodeId,
}

impl RaftNetworkFactory<TypeConfig> for Network {
    type Network = Client;

    async fn new_client(&mut self, target: NodeId, _node: &Node) -> Client {
        Client { shared: self.0.clone(), target }
    }
}

impl Client {
    async fn call(&self, request: Request, limit: Duration) -> Result<Response, Unreachable> {
        let failed = match self.try_call(request, limit).await {
            Ok(Response::Unavailable(why)) => why,
            Ok(response) if response.vote().is_none_or(|vote| self.shared.is_plausible(vote)) => return Ok(response),
            Ok(_) => "its term can't be: is its state damaged?".to_string(),
            Err(why) => why,
        };
        sleep(PACE).await;
        Err(Unreachable::from_string(failed))
    }

    async fn try_call(&self, request: Request, limit: Duration) -> Result<Response, String> {
        let peer = self.shared.peers.iter().find(|p| p.id == self.target);
        let peer = peer.ok_or_else(|| format!("{} is not in this node's configuration", self.target))?;
        let asked = now();
        let call = async { peer.calls.call(self.shared.flags(), &request, asked).await.map_err(|e| e.to_string()) };
        let late = async {
            sleep(limit).await;
            Err(format!("no answer within {} ms", limit.as_millis()))
        };
        call.or(late).await
    }

    async fn transfer(&self, req: TransferLeaderRequest, option: RPCOption) -> Result<TransferLeaderResponse, Unreachable> {
        let Some(secret) = self.shared.secret(&VoteId::of(req.from_leader())) else {
            sleep(PACE).await;
            return Err(Unreachable::from_string("this vote may still hold the VIP: it can't be handed over"));
        };
        match self.call(Request::Transfer(req, secret), option.hard_ttl()).await? {
            Response::Transfer(answer) => Ok(answer),
            _ => Err(wrong_answer()),
        }
    }

    /// A heartbeat that is not meant for this peer (`rules::turns`). Said once for each: whatever comes then is sent, so that an
    /// empty request of the replication, which is repeated at once, can't go round and round here.
    fn is_spared(&self, rpc: &AppendEntriesRequest) -> bool {
        rpc.entries.is_empty() && self.shared.peers.iter().any(|p| p.id == self.target && p.spared.take())
    }

    /// A spent vote no longer speaks as leader.
    async fn not_spent(&self, vote: &Vote) -> Result<(), Unreachable> {
        if !self.shared.hold.borrow().is_spent(&VoteId::of(vote)) {
            return Ok(());
        }
        sleep(PACE).await;
        Err(Unreachable::from_string("this vote is spent: it no longer speaks as leader"))
    }
}

fn wrong_answer() -> Unreachable {
    Unreachable::from_string("the peer's answer does not fit the request")
}

impl RaftNetworkV2<TypeConfig> for Client {
    type SnapshotData = SnapshotData;

    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse, RPCError> {
        self.not_spent(&rpc.vote).await?;
        if self.is_spared(&rpc) {
            return Err(Unreachable::from_string("this heartbeat is for others").into());
        }
        let commitment = self.shared.commitment(&VoteId::of(&rpc.vote));
        match self.call(Request::Append(rpc, commitment), option.hard_ttl()).await? {
            Response::Append(answer) => Ok(answer),
            _ => Err(wrong_answer().into()),
        }
    }

    async fn vote(&mut self, rpc: VoteRequest, option: RPCOption) -> Result<VoteResponse, RPCError> {
        self.shared.campaigns(VoteId::of(&rpc.vote), now());
        match self.call(Request::Vote(rpc, self.shared.proof()), option.hard_ttl()).await? {
            Response::Vote(answer) => Ok(answer),
            _ => Err(wrong_answer().into()),
        }
    }

    async fn pre_vote(&mut self, rpc: VoteRequest, option: RPCOption) -> Result<VoteResponse, RPCError> {
        match self.call(Request::PreVote(rpc, self.shared.proof()), option.hard_ttl()).await? {
            Response::Vote(answer) => Ok(answer),
            _ => Err(wrong_answer().into()),
        }
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot,
        _cancel: impl Future<Output = ReplicationClosed> + 'static,
        option: RPCOption,
    ) -> Result<SnapshotResponse, StreamingError> {
        self.not_spent(&vote).await?;
        let commitment = self.shared.commitment(&VoteId::of(&vote));
        match self.call(Request::Snapshot(vote, snapshot.meta, commitment), option.hard_ttl()).await? {
            Response::Snapshot(answer) => Ok(answer),
            _ => Err(wrong_answer().into()),
        }
    }

    async fn transfer_leader(
        &mut self,
        req: TransferLeaderRequest,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse, RPCError> {
        let to_heir = *req.to_node_id() == self.target;
        let answered = self.transfer(req, option).await;
        if to_heir && !matches!(answered, Ok(Ok(()))) {
            self.shared.heir_refused();
        }
        Ok(answered?)
    }
}
