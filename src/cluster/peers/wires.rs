//! One node's end of its links as plain functions over frames, for a simulator that carries them instead of TCP: it may lose,
//! delay, repeat and reorder each. What a connection does with a frame is shared with [`link`](super::link) and
//! [`server`](super::server); what is missing here is the socket.

use super::message::{Request, Response};
use super::wire::{self, Bad, HEADER, Header, Kind};
use super::{link, server};
use crate::cluster::runtime::now;
use crate::cluster::shared::Shared;
use crate::cluster::types::AppendEntriesResponse;
use crate::cluster::vote::VoteId;
use std::net::IpAddr;
use std::rc::Rc;

/// See [`Cluster::wires`](crate::cluster::Cluster::wires). Peers are named by their place among the other members, in the order
/// of the specification. A frame that does not parse ends a TCP connection; here it changes nothing.
#[derive(Clone)]
pub struct Wires {
    shared: Rc<Shared>,
}

/// What a frame says, for whoever watches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Label {
    /// `append`, `vote`, `pre-vote`, `transfer`, `snapshot`, `ping`, and each with ` ok` or ` no` for its answer; `hello`,
    /// `welcome`, `refused`.
    pub what: &'static str,
    /// Pairs a response with its request, within one connection.
    pub id: u64,
    /// The vote it is said under, or that is asked for.
    pub vote: Option<VoteId>,
    /// A vote request that says a leader told the candidate to stand.
    pub told: bool,
    /// An AppendEntries that carries entries; others are heartbeats.
    pub entries: bool,
}

impl Wires {
    pub(in crate::cluster) fn new(shared: Rc<Shared>) -> Self {
        Self { shared }
    }

    /// The frame that asks this peer for a connection.
    pub fn hello(&self, peer: usize) -> Option<Vec<u8>> {
        link::hello(&self.shared, &self.shared.peers[peer]).ok()
    }

    /// Judges another's Hello: the answer to send back, and the peer that called where it is accepted.
    pub fn greet(&self, from: IpAddr, frame: &[u8]) -> Option<(Vec<u8>, Option<usize>)> {
        let (header, payload) = split(frame).ok()?;
        let (answer, judged) = server::greet(&self.shared, from, header, payload).ok()?;
        if let Ok(index) = judged {
            self.shared.peers[index].new_caller();
        }
        Some((answer, judged.ok()))
    }

    /// The answer to this node's Hello: the connection is up, or why not.
    ///
    /// # Errors
    /// The peer's words.
    pub fn connect(&self, peer: usize, answer: &[u8]) -> Result<(), String> {
        let (header, payload) = split(answer).map_err(|bad| bad.to_string())?;
        let peer = &self.shared.peers[peer];
        link::welcomed(peer, header, payload).map_err(|broken| broken.to_string())?;
        link::peer_up(&self.shared, peer, log::Level::Info);
        Ok(())
    }

    /// The connection to this peer is lost.
    pub fn disconnect(&self, peer: usize, why: &str) {
        let peer = &self.shared.peers[peer];
        peer.calls.disconnect();
        peer.set_problem(why.to_string());
    }

    /// Waits until this peer has called: a good moment to call it.
    pub async fn called_by(&self, peer: usize) {
        self.shared.peers[peer].called.wait().await;
    }

    /// The next request frame for this peer.
    pub async fn outgoing(&self, peer: usize) -> Vec<u8> {
        self.shared.peers[peer].calls.next_frame().await
    }

    /// Pings a peer that is not asked anything else, and returns, with the reason, when it has not answered for too long.
    pub async fn silent(&self, peer: usize) -> String {
        link::watch(&self.shared, &self.shared.peers[peer]).await.to_string()
    }

    /// A request of this peer came: the response frame.
    pub async fn request(&self, peer: usize, frame: &[u8]) -> Option<Vec<u8>> {
        let (header, payload) = split(frame).ok()?;
        server::respond(&self.shared, peer, header, payload).await.ok()
    }

    /// A response of this peer came.
    pub fn response(&self, peer: usize, frame: &[u8]) {
        if let Ok((header, payload)) = split(frame) {
            let _ = link::take_answer(&self.shared.peers[peer], header, payload);
        }
    }

    /// A notice of this peer's keeper came.
    pub fn notice(&self, peer: usize, datagram: &[u8]) {
        super::notice::read(&self.shared, &self.shared.peers[peer].id, datagram);
    }

    /// Whether the quiet start goes on.
    pub fn is_quiet(&self) -> bool {
        now() < self.shared.quiet_until
    }

    /// The own vote and whether it was written down as won.
    pub fn own_vote(&self) -> (VoteId, bool) {
        let vote = self.shared.own_vote();
        (VoteId::of(&vote), vote.committed)
    }
}

impl Label {
    /// Reads a frame's.
    pub fn of(frame: &[u8]) -> Option<Self> {
        let (header, payload) = split(frame).ok()?;
        let plain = |what, vote| Self { what, id: header.id, vote, told: false, entries: false };
        Some(match header.kind {
            Kind::Hello => plain("hello", None),
            Kind::Welcome => plain("welcome", None),
            Kind::Refused => plain("refused", None),
            Kind::Request => {
                let request: Request = wire::parse_payload(payload).ok()?;
                let told = matches!(&request, Request::Vote(_, Some(_)) | Request::PreVote(_, Some(_)));
                let entries = matches!(&request, Request::Append(rpc, _) if !rpc.entries.is_empty());
                Self { told, entries, ..plain(request_name(&request), request.vote().map(VoteId::of)) }
            }
            Kind::Response => {
                let response: Response = wire::parse_payload(payload).ok()?;
                plain(response_name(&response), response.vote().map(VoteId::of))
            }
        })
    }
}

fn request_name(request: &Request) -> &'static str {
    match request {
        Request::Ping => "ping",
        Request::Append(..) => "append",
        Request::Vote(..) => "vote",
        Request::PreVote(..) => "pre-vote",
        Request::Snapshot(..) => "snapshot",
        Request::Transfer(..) => "transfer",
        Request::Released(_) => "released",
    }
}

fn response_name(response: &Response) -> &'static str {
    match response {
        Response::Pong => "ping ok",
        Response::Append(AppendEntriesResponse::HigherVote(_)) => "append no",
        Response::Append(_) => "append ok",
        Response::Vote(answer) if answer.vote_granted => "vote ok",
        Response::Vote(_) => "vote no",
        Response::Snapshot(_) => "snapshot ok",
        Response::Transfer(_) => "transfer ok",
        Response::Unavailable(_) => "unavailable",
    }
}

fn split(frame: &[u8]) -> Result<(Header, &[u8]), Bad> {
    let (header, payload) = frame.split_first_chunk::<HEADER>().ok_or(Bad::Payload)?;
    let header = wire::parse_header(header)?;
    if header.payload != payload.len() {
        return Err(Bad::Payload);
    }
    Ok((header, payload))
}
