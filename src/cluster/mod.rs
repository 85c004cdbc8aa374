//! Who leads. openraft runs behind this module; no other module names it.
//!
//! `rules/` holds the decisions (pure), `peers/` the TCP links, `disk/` vote and log, `driver.rs` the deadlines.

mod answer;
pub mod disk;
mod driver;
pub mod fingerprint;
mod handover;
mod network;
mod peer;
mod peers;
mod record;
mod resume;
pub mod rules;
pub mod runtime;
mod shared;
mod standing;
pub mod types;
pub mod vote;
pub mod wake;

pub use peers::wires::{Label, Wires};
pub use resume::Kept;

use crate::reactor::Async;
use crate::release::{Key, VoteKey};
use crate::sys::clock::Instant;
use rules::hold::{HoldRule, hold_of};
use rules::planted::{Planted, is_planted};
use rules::promise::{Promise, unfenced_wait};
use rules::quiet::quiet_for;
use shared::Shared;
use smol::channel::{Receiver, bounded};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
pub use types::NodeId;
use types::Raft;
use vote::VoteId;

/// What the cluster part needs to know.
#[derive(Clone, Debug)]
pub struct Spec {
    /// This node's id, one of `members`.
    pub id: NodeId,
    /// All nodes, this one included.
    pub members: Vec<Member>,
    /// The VIP: part of the cluster's identity.
    pub vip: IpAddr,
    /// Heartbeat interval.
    pub heartbeat: Duration,
    /// Lease.
    pub lease: Duration,
    /// Vote, term and log.
    pub state_dir: PathBuf,
    /// A hint for the very first election.
    pub start_as_leader: bool,
    /// How long the VIP may outlive its hold where the keeper can't confirm that it is gone.
    pub drop_margin: Duration,
    /// Whether this node may hold the VIP at all.
    pub fit: bool,
    /// `fence: fast`: never wait for another node's kernel lifetime, one lease is enough. The same on every node.
    pub fence_fast: bool,
    /// `preempt`: a leader that a ready peer of higher priority could replace hands over to it after this time.
    pub preempt: Option<Duration>,
    /// What the secrets of this node's votes are made of; its keeper has the same.
    pub key: Key,
}

/// A member of the cluster.
#[derive(Clone, Debug)]
pub struct Member {
    /// Its id.
    pub id: NodeId,
    /// Its raft address.
    pub address: SocketAddr,
    /// Higher is preferred as leader.
    pub priority: u32,
}

impl Spec {
    /// How long a peer keeps its promise to a leader without kernel fence.
    fn unfenced_wait(&self) -> Duration {
        if self.fence_fast { self.lease } else { unfenced_wait(self.lease, hold_of(self.lease), self.drop_margin) }
    }

    /// This node's own entry.
    pub fn own(&self) -> &Member {
        self.members.iter().find(|m| m.id == self.id).expect("the checked configuration lists the local node")
    }
}

/// What the daemon is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The VIP may be held under this vote until then.
    Hold {
        /// The vote.
        vote: VoteId,
        /// The end of the permission.
        until: Instant,
    },
    /// It must go now.
    LetGo {
        /// The vote that ended with this.
        vote: VoteId,
    },
    /// The cluster part can't go on.
    Failed(String),
}

/// A node of the cluster that runs.
#[derive(Clone)]
pub struct Cluster {
    shared: Rc<Shared>,
    ports: Option<Rc<Ports>>,
    disk_ok: Rc<std::cell::Cell<bool>>,
}

/// What `status` shows of the cluster.
#[derive(Clone, Debug, Default)]
pub struct View {
    /// `leader`, `follower`, `candidate`, `learner` (no member list yet) or `quiet`.
    pub role: &'static str,
    /// Current term.
    pub term: u64,
    /// The leader's id.
    pub leader: Option<String>,
    /// Whether vote and log reach the disk.
    pub disk_ok: bool,
    /// This node's kernel fence is in place.
    pub fenced: bool,
    /// How late the last deadline fired, and the worst of the last minute. Half of lease − hold is too late.
    pub loop_delay: Duration,
    /// See `loop_delay`.
    pub loop_delay_max: Duration,
    /// The other nodes.
    pub peers: Vec<PeerView>,
}

/// One peer in [`View`].
#[derive(Clone, Debug)]
pub struct PeerView {
    /// Its id.
    pub id: String,
    /// Its raft address.
    pub address: SocketAddr,
    /// When its last frame came.
    pub last_contact: Option<Instant>,
    /// Why it is not connected.
    pub problem: Option<String>,
    /// What it last said of itself; none: it never spoke.
    pub says: Option<Says>,
}

/// What a peer last said of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Says {
    /// It could hold the VIP.
    pub fit: bool,
    /// Its kernel fence is in place.
    pub fenced: bool,
    /// It reaches a backend, or does not look.
    pub reaches: bool,
}

impl Cluster {
    /// Opens the disk, starts raft, the driver and the peers on the current executor. Errors are for the user as they are.
    ///
    /// `earlier`: an earlier program of this run, whose place this one takes.
    pub async fn start(spec: Spec, earlier: Option<(Kept, Ports)>) -> Result<(Cluster, Receiver<Event>), String> {
        let address = spec.own().address;
        let (kept, ports) = earlier.unzip();
        let (mut cluster, events) = Self::start_node(spec, kept).await?;
        let ports = Rc::new(ports.map_or_else(|| Ports::open(address), Ok)?);
        runtime::spawn(peers::serve(cluster.shared.clone(), ports.clone()));
        runtime::spawn(peers::read_notices(cluster.shared.clone(), ports.clone()));
        cluster.ports = Some(ports);
        for index in 0..cluster.shared.peers.len() {
            runtime::spawn(peers::keep_connected(cluster.shared.clone(), index));
        }
        Ok((cluster, events))
    }

    /// The same without any way to the peers: a simulator carries the frames, by [`Cluster::wires`].
    pub async fn start_node(spec: Spec, earlier: Option<Kept>) -> Result<(Cluster, Receiver<Event>), String> {
        let ids = || spec.members.iter().map(|m| m.id.as_str());
        let hash = peers::hello::cluster_hash(ids(), Some(spec.vip));
        let disk = disk::Disk::open(&spec.state_dir, &spec.id).map_err(|e| e.to_string())?;
        let members_hash = peers::hello::cluster_hash(ids(), None);
        same_members(&disk, members_hash, &spec)?;
        earlier.as_ref().map_or(Ok(()), |kept| kept.check(&disk))?;
        let hello = peers::hello::Hello {
            cluster: hash,
            id: spec.id.clone(),
            to: spec.id.clone(),
            lease_ms: millis(spec.lease),
            heartbeat_ms: millis(spec.heartbeat),
            fence_fast: spec.fence_fast,
            incarnation: earlier.as_ref().map_or_else(runtime::random, |kept| kept.incarnation),
        };
        let lease = spec.lease;
        let leads = earlier.as_ref().is_some_and(Kept::leads);
        let (shared, record) = match &earlier {
            Some(kept) => go_on(spec, hello, kept),
            None => begin(spec, hello, &disk, members_hash).await,
        };
        shared.set_empty(disk.is_empty());
        let (network, log, machine) = (network::Network(shared.clone()), disk.log_store(), disk.machine());
        let raft = Raft::new(shared.me.clone(), raft_config(lease, leads)?, network, log, machine).await;
        shared.set_raft(raft.map_err(|e| format!("can't start raft: {e}"))?);
        let cluster = Cluster { disk_ok: disk.disk_ok_cell(), shared, ports: None };
        cluster.shared.set_record(match &earlier {
            Some(kept) => kept.record(disk),
            None => record::Record::new(disk, record),
        });
        if let Some(kept) = &earlier {
            kept.restored(&cluster.shared).await?;
        }
        let events = cluster.spawn_driver();
        Ok((cluster, events))
    }

    /// What the program that takes this one's place needs of this part, as it is now.
    ///
    /// # Errors
    /// Why not now; a moment later it may do.
    pub fn keep(&self) -> Result<Kept, &'static str> {
        resume::keep(&self.shared)
    }

    /// The sockets that peers know.
    pub fn ports(&self) -> Option<&Ports> {
        self.ports.as_deref()
    }

    /// When this leader's newest heartbeat that a majority has acknowledged was sent; none: it does not lead, or there was none so far.
    pub fn acknowledged(&self) -> Option<Instant> {
        use openraft::async_runtime::watch::WatchReceiver;
        self.shared.raft().metrics().borrow_watched().last_quorum_acked.map(|at| at.into_inner())
    }

    /// This node's end of its links, for whoever carries the frames instead of TCP.
    pub fn wires(&self) -> Wires {
        Wires::new(self.shared.clone())
    }

    fn spawn_driver(&self) -> Receiver<Event> {
        let (sender, events) = bounded(16);
        let quiet = self.shared.clone();
        runtime::spawn(async move { quiet.forget_earlier_promises().await });
        let driver = driver::Driver::new(self.shared.clone(), sender.clone());
        let shared = self.shared.clone();
        runtime::spawn(async move {
            let why = driver.run().await;
            let _ = sender.force_send(Event::Failed(why));
            shared.set_stopped(); // nobody else would end a stop
        });
        events
    }

    /// The keeper saw the VIP gone after a hold under this vote, or never had it.
    pub fn vip_gone(&self, vote: VoteKey) {
        self.shared.hold.borrow_mut().gone_under(vote);
        self.shared.wake.wake();
    }

    /// Whether this node could hold the VIP now; a leader that can't hands over.
    pub fn set_fit(&self, fit: bool) {
        self.shared.set_fit(fit);
    }

    /// Whether this node's kernel fence is in place; peers wait for the lifetime of an unfenced leader's address.
    pub fn set_fenced(&self, fenced: bool) {
        self.shared.hold.borrow_mut().set_fenced(runtime::now(), fenced);
    }

    /// Whether this node reaches a backend (`trackBackends`); a leader that reaches none hands over to a peer that does.
    pub fn set_reaches(&self, reaches: bool) {
        self.shared.set_reaches(reaches);
    }

    /// As it was said last; at first, that it does.
    pub fn reaches(&self) -> bool {
        self.shared.reaches()
    }

    /// Lets the VIP go and hands the leadership to this peer, or to the best one; returns who leads now. Takes a few milliseconds, at
    /// most two leases and the time until the VIP is seen gone.
    ///
    /// # Errors
    /// Text for the user: this node does not lead, the peer (or no peer) is ready, or another node leads now, or none.
    pub async fn hand_over(&self, to: Option<NodeId>) -> Result<NodeId, String> {
        handover::hand_over(&self.shared, to).await
    }

    /// Lets the VIP go, hands the leadership to the best peer, and returns when another leads or two leases have passed.
    pub async fn stop(&self) {
        self.shared.stop().await;
    }

    /// Whether a leader is known (alive or lost a moment ago).
    pub fn has_leader(&self) -> bool {
        use openraft::async_runtime::watch::WatchReceiver;
        self.shared.raft().metrics().borrow_watched().current_leader.is_some()
    }

    /// A snapshot for `status`.
    pub fn view(&self) -> View {
        use openraft::async_runtime::watch::WatchReceiver;
        let metrics = self.shared.raft().metrics();
        let m = metrics.borrow_watched();
        View {
            role: if self.shared.is_quiet() { "quiet" } else { role(m.state) },
            term: m.current_term,
            leader: m.current_leader.as_ref().map(|l| l.to_string()),
            disk_ok: self.disk_ok.get(),
            fenced: self.shared.hold.borrow().is_fenced(),
            loop_delay: self.shared.lateness.borrow().last(),
            loop_delay_max: self.shared.lateness.borrow().longest(runtime::now()),
            peers: self.shared.peers.iter().map(peer_view).collect(),
        }
    }
}

/// A run that begins: quiet, until what earlier ones promised has passed. Returns for how long, as it is recorded.
async fn begin(spec: Spec, hello: peers::hello::Hello, disk: &disk::Disk, members_hash: u64) -> (Rc<Shared>, Duration) {
    let unfenced = spec.unfenced_wait();
    let quiet = quiet_for(spec.lease, unfenced, disk.recorded_lease());
    let quiet_until = runtime::now() + quiet;
    log::info!("quiet for {} ms: promises of an earlier run may still count", quiet.as_millis());
    let hold = HoldRule::new(spec.lease, spec.drop_margin);
    let promise = Promise::new(spec.lease, unfenced);
    let shared = Rc::new(Shared::new(spec, hello, hold, promise, quiet_until));
    // On the device before this node makes any promise that the next run must wait out.
    disk.record_lease(quiet).await;
    disk.record_cluster(members_hash).await;
    (shared, quiet)
}

/// A run that goes on under another program.
fn go_on(spec: Spec, hello: peers::hello::Hello, kept: &Kept) -> (Rc<Shared>, Duration) {
    let quiet_until = kept.quiet_until(spec.lease);
    let unfenced = spec.unfenced_wait();
    let promise = if is_planted(Planted::UpgradeForgets) { Promise::new(spec.lease, unfenced) } else { kept.promise.clone() };
    let shared = Shared::new(spec, hello, kept.hold.clone(), promise, quiet_until);
    shared.go_on_from(kept);
    (Rc::new(shared), Duration::ZERO)
}

/// raft's list of members is on disk; other ids in the configuration would make two clusters out of one.
fn same_members(disk: &disk::Disk, hash: u64, spec: &Spec) -> Result<(), String> {
    match disk.recorded_cluster() {
        Some(recorded) if recorded != hash => Err(format!(
            "the ids of localPeer and remotePeers are not those that {} was written with: give the nodes their old ids back, or form a \
             new cluster: stop all nodes, remove this directory on each, start them",
            spec.state_dir.display()
        )),
        _ => Ok(()),
    }
}

fn peer_view(peer: &shared::Peer) -> PeerView {
    let (id, address) = (peer.id.to_string(), peer.address);
    let says = peer.flags().map(|f| Says { fit: f.fit, fenced: f.fenced, reaches: f.reaches });
    PeerView { id, address, last_contact: peer.last_contact(), problem: peer.problem(), says }
}

fn role(state: types::ServerState) -> &'static str {
    match state {
        types::ServerState::Leader => "leader",
        types::ServerState::Candidate => "candidate",
        types::ServerState::Follower => "follower",
        types::ServerState::Learner => "learner",
        types::ServerState::Shutdown => "stopped",
    }
}

/// The cluster's identity: a hash over the ids of all members, in any order, and the VIP.
pub fn hash_of<'a>(ids: impl Iterator<Item = &'a str>, vip: IpAddr) -> u64 {
    peers::hello::cluster_hash(ids, Some(vip))
}

fn millis(d: Duration) -> u64 {
    u64::try_from(d.as_millis()).unwrap_or(u64::MAX)
}

/// The sockets that peers know: TCP for raft, UDP for notices.
pub struct Ports {
    tcp: Async<TcpListener>,
    udp: Async<UdpSocket>,
}

impl Ports {
    fn open(address: SocketAddr) -> Result<Self, String> {
        Ok(Self { tcp: listen(address)?, udp: listen_for_notices(address)? })
    }

    /// Those of an earlier program of this run.
    ///
    /// # Errors
    /// Where they can't be waited for.
    pub fn of(tcp: OwnedFd, udp: OwnedFd) -> std::io::Result<Self> {
        Ok(Self { tcp: Async::new(tcp.into())?, udp: Async::new(udp.into())? })
    }

    /// As descriptors: TCP, UDP.
    pub fn descriptors(&self) -> (BorrowedFd<'_>, BorrowedFd<'_>) {
        (self.tcp.get_ref().as_fd(), self.udp.get_ref().as_fd())
    }
}

fn listen(address: SocketAddr) -> Result<Async<TcpListener>, String> {
    let bound = || -> std::io::Result<Async<TcpListener>> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        socket.bind(&SockAddr::from(address))?;
        socket.listen(64)?;
        Async::new(TcpListener::from(socket))
    };
    bound().map_err(|e| {
        format!("can't listen on {address} for peers: {e} (is localPeer.address on this machine, and the port free?)")
    })
}

/// The keepers' notices come to the same port, over UDP.
fn listen_for_notices(address: SocketAddr) -> Result<Async<UdpSocket>, String> {
    let bound = || -> std::io::Result<Async<UdpSocket>> {
        let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
        // Room for a few notices of each peer; what a flood brings beside them the kernel drops.
        socket.set_recv_buffer_size(16 << 10)?;
        socket.bind(&SockAddr::from(address))?;
        Async::new(UdpSocket::from(socket))
    };
    bound().map_err(|e| {
        format!("can't listen on {address} over UDP for the peers' keepers: {e} (does another program have the port?)")
    })
}

/// openraft's settings: its tick is off, its lease is ours, its RPC deadline half of it (a round trip above the deadline never
/// counts as an acknowledgement).
fn raft_config(lease: Duration, leads: bool) -> Result<Arc<openraft::Config>, String> {
    let lease = millis(lease);
    let config = openraft::Config {
        cluster_name: "kube-vip".to_string(),
        heartbeat_interval: lease / 2,
        election_timeout_min: lease * 3 / 4,
        election_timeout_max: lease,
        enable_tick: false,
        enable_pre_vote: Some(true),
        // A restarted leader is a follower: its lease died with it. One that goes on under another program leads on.
        enable_leader_restore: Some(leads),
        // A follower whose disk was wiped is filled again instead of staying a learner.
        allow_log_reversion: Some(true),
        quorum_loss_probe_interval: Some(lease * 2),
        snapshot_policy: openraft::SnapshotPolicy::LogsSinceLast(1000),
        max_in_snapshot_log_to_keep: 100,
        install_snapshot_timeout: lease.max(200),
        backoff: "50ms 100ms 200ms ...1s".to_string(),
        api_channel_size: Some(1024),
        notification_channel_size: Some(1024),
        ..Default::default()
    };
    config.validate().map(Arc::new).map_err(|e| format!("timing does not fit raft: {e}"))
}
