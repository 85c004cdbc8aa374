//! The checked values, as every other part uses them; nobody checks them again.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

/// The checked configuration of one node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The file it came from, for messages.
    pub file: PathBuf,
    /// This node. Present also with `single_node` (a default id and an unspecified address where the file names none).
    pub local: Peer,
    /// The other nodes; empty exactly when `single_node`.
    pub remotes: Vec<Peer>,
    /// Where the VIP goes, e.g. `eth0`. At most 15 bytes (IFNAMSIZ − 1).
    pub interface: String,
    /// The address to float.
    pub vip: IpAddr,
    /// Announce on becoming holder (`gratuitousARP`): ARP for IPv4, neighbour advertisements for IPv6.
    pub announce: bool,
    /// No raft: hold at once.
    pub single_node: bool,
    /// A hint for the very first election of a fresh cluster only.
    pub start_as_leader: bool,
    /// Never hold the VIP (`-d`); with `single_node`: only balance.
    pub disable_vip: bool,
    /// Checked `loadBalancers`, all of type tcp.
    pub balancers: Vec<Balancer>,
    /// Heartbeat and lease.
    pub timing: Timing,
    /// `fence: fast`: never wait for a dead node's address lifetime, one lease is enough. The same on every node.
    pub fence_fast: bool,
    /// How long connections that don't need the VIP may go on after a stop; 0–60 s.
    pub drain: Duration,
    /// This node votes, but never holds the VIP.
    pub witness: bool,
    /// `preempt`: a ready node of higher priority gets the VIP back after this time. None: it stays where it is.
    pub preempt: Option<Duration>,
    /// A node that reaches none of its backends hands over to one that does.
    pub track_backends: bool,
    /// Real-time scheduling and locked memory where this machine allows them.
    pub realtime: bool,
    /// Where vote, term and log are kept.
    pub state_dir: PathBuf,
    /// The daemon's control socket, asked by `status`.
    pub control_socket: PathBuf,
    /// Run the daemon process as this user (name or number), where the keeper may change users.
    pub user: Option<String>,
    /// Run the daemon process as this group (name or number).
    pub group: Option<String>,
}

/// One node of the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Unique name of the node in the cluster, 1–64 bytes.
    pub id: String,
    /// Where its raft listens.
    pub address: SocketAddr,
    /// Higher is preferred as next leader; default 100.
    pub priority: u32,
    /// Its own entry says that it votes, but never holds. Known of this node and of nodes in `peers` only.
    pub witness: bool,
}

/// Heartbeat and lease; `lease ≥ 3 × heartbeat`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// Interval between two heartbeats of the leader.
    pub heartbeat: Duration,
    /// How long a follower trusts its leader after a heartbeat.
    pub lease: Duration,
}

impl Timing {
    /// For wired networks with quiet machines.
    pub const FAST: Timing = Timing { heartbeat: Duration::from_millis(15), lease: Duration::from_millis(60) };
    /// The default.
    pub const LAN: Timing = Timing { heartbeat: Duration::from_millis(50), lease: Duration::from_millis(250) };
    /// For Wi-Fi, whose radios sleep 100–300 ms at a time.
    pub const WIFI: Timing = Timing { heartbeat: Duration::from_millis(500), lease: Duration::from_secs(3) };
}

/// One `loadBalancers` entry of type tcp.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Balancer {
    /// Label for logs and status; unique.
    pub name: String,
    /// Listen port.
    pub port: u16,
    /// true: listen on VIP:port, served only while holding; false: on all interfaces of every node, always.
    pub bind_to_vip: bool,
    /// The targets, at least one, `addPeersAsBackends` and `backendPort` already applied.
    pub backends: Vec<SocketAddr>,
}
