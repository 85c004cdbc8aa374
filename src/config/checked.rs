//! The checked values, as every other part uses them; nobody checks them again.

use super::draft::Overrides;
use super::network::Network;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

/// The checked configuration of one node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The file it came from, for messages and for a reload.
    pub file: PathBuf,
    /// What flags of `start` have changed in it.
    pub overrides: Overrides,
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
    /// Connections of all balancers open at once. None: what the limit of open files allows, at most 65536.
    pub max_connections: Option<u32>,
    /// How often host names of backends are looked up again.
    pub resolve_interval: Duration,
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
    pub backends: Vec<Backend>,
    /// Which backend gets a connection.
    pub balance: Balance,
    /// How backends are asked whether they work. None: only connects of clients tell.
    pub health_check: Option<HealthCheck>,
    /// For how long a backend that came back gets less than its share: it grows from a tenth to all. Zero: at once.
    pub slow_start: Duration,
    /// Connections that may wait for a backend while all that could serve them are at their `maxConnections`.
    pub queue: u32,
    /// How long each may wait.
    pub queue_timeout: Duration,
    /// The PROXY protocol header that tells backends the client's address.
    pub send_proxy: Option<ProxyVersion>,
    /// Clients from here are proxies, and must say the address of theirs in a PROXY protocol header (v1 or v2). Empty: nobody.
    pub accept_proxy: Vec<Network>,
    /// Only clients from here are served. Empty: all.
    pub allow: Vec<Network>,
    /// Clients from here are refused, also where `allow` names them.
    pub deny: Vec<Network>,
    /// Connections open at once; more wait in the kernel's backlog.
    pub max_connections: Option<u32>,
    /// Connections of one client address open at once; more are reset.
    pub max_per_client: Option<u32>,
    /// Connections accepted per second, in bursts of as many; more wait in the kernel's backlog.
    pub accept_rate: Option<u32>,
    /// How long things may take.
    pub timeouts: Timeouts,
}

/// One target as configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backend {
    /// Where it is.
    pub target: Target,
    /// Its share beside the others: 0–256, by default 1. 0: no new connections.
    pub weight: u16,
    /// Gets connections only while no other can take any.
    pub backup: bool,
    /// Connections open to it at once, per address of its name.
    pub max_connections: Option<u32>,
}

/// Where a backend is.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Target {
    /// An address.
    Address(SocketAddr),
    /// A host name, looked up while running: all its addresses are used.
    Name {
        /// A DNS name, or one of `/etc/hosts`.
        host: String,
        /// TCP port.
        port: u16,
    },
}

/// Which backend gets a connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Balance {
    /// In turn, by weight.
    #[default]
    RoundRobin,
    /// The one with the fewest open connections for its weight.
    LeastConnections,
    /// Of two drawn by weight, the one with fewer connections for its weight: does well where several nodes balance at once.
    Random2,
    /// By the client's address: a client stays with its backend, and a backend that goes moves only its own clients.
    SourceHash,
}

/// How a backend is asked whether it works.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthCheck {
    /// What is asked.
    pub ask: Ask,
    /// The port asked, where it isn't the backend's own.
    pub port: Option<u16>,
    /// From one question to the next, ± 10 %. 100 ms – 1 h, by default 2 s.
    pub interval: Duration,
    /// For the whole answer. At most `interval`, by default 1 s.
    pub timeout: Duration,
    /// Good answers in a row that bring a backend back; by default 2.
    pub rise: u32,
    /// Bad ones in a row that take it out; by default 3.
    pub fall: u32,
}

/// What a health check asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ask {
    /// A connect is enough.
    Tcp,
    /// `GET path HTTP/1.1`.
    Http {
        /// Begins with `/`.
        path: String,
        /// The `Host` header; None: the backend's name or address.
        host: Option<String>,
        /// The status is good from the first to the second, both included. By default 200–399.
        status: (u16, u16),
        /// What the first 64 KiB of the body must contain.
        text: Option<String>,
    },
}

/// Versions of the PROXY protocol (HAProxy's proxy-protocol.txt).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProxyVersion {
    /// One line of text.
    V1,
    /// Binary.
    V2,
}

/// How long a balancer waits. Looked at once a second, so they end up to 1 s late.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// For a backend to answer a connect; then the next is tried.
    pub connect: Duration,
    /// For a connection of which one side has sent FIN to stay without a byte from the other before it is reset.
    pub half_close: Duration,
    /// For any connection to stay without a byte before it is reset.
    pub idle: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self { connect: Duration::from_secs(2), half_close: Duration::from_secs(30), idle: Duration::from_secs(3600) }
    }
}

impl Balancer {
    /// A balancer of which only this is configured.
    pub fn new(name: String, port: u16, bind_to_vip: bool, backends: Vec<Backend>) -> Self {
        Self {
            name,
            port,
            bind_to_vip,
            backends,
            balance: Balance::default(),
            health_check: None,
            slow_start: Duration::ZERO,
            queue: 1000,
            queue_timeout: Duration::from_secs(5),
            send_proxy: None,
            accept_proxy: Vec::new(),
            allow: Vec::new(),
            deny: Vec::new(),
            max_connections: None,
            max_per_client: None,
            accept_rate: None,
            timeouts: Timeouts::default(),
        }
    }
}

impl From<SocketAddr> for Backend {
    fn from(address: SocketAddr) -> Self {
        Self { target: Target::Address(address), weight: 1, backup: false, max_connections: None }
    }
}

impl Target {
    /// The address, unless a name is to be looked up.
    pub const fn address(&self) -> Option<SocketAddr> {
        match self {
            Target::Address(address) => Some(*address),
            Target::Name { .. } => None,
        }
    }

    /// TCP port.
    pub const fn port(&self) -> u16 {
        match self {
            Target::Address(address) => address.port(),
            Target::Name { port, .. } => *port,
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Target::Address(address) => address.fmt(f),
            Target::Name { host, port } => write!(f, "{host}:{port}"),
        }
    }
}
