//! One snapshot of the daemon, and its renderers; the socket over which it is asked, and told what to do.

pub mod question;
pub mod socket;
pub mod table;

use serde::{Deserialize, Serialize};

/// Everything the daemon knows about itself, as asked over the control socket.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Snapshot {
    /// Program version.
    pub version: String,
    /// The keeper's: that of the program that was started, where another has taken the daemon's place since. Empty: as `version`.
    #[serde(default)]
    pub keeper_version: String,
    /// This node's id.
    pub id: String,
    /// `leader`, `follower`, `candidate`, `quiet`, `single`.
    pub role: String,
    /// Current raft term; 0 with `singleNode`.
    pub term: u64,
    /// Id of the leader, if known.
    pub leader: Option<String>,
    /// The VIP.
    pub vip: String,
    /// Its interface.
    pub interface: String,
    /// Whether the keeper reports the VIP held.
    pub held: bool,
    /// For how many ms more the hold runs, if held.
    pub hold_left_ms: Option<u64>,
    /// How often this process gained the VIP.
    pub gains: u64,
    /// `kube-vip cordon` was said: it votes, but does not hold.
    pub cordoned: bool,
    /// Its configuration says that it votes, but never holds.
    pub witness: bool,
    /// Whether the kernel ends the VIP by itself at its deadline (nf_tables), without any process.
    pub fenced: bool,
    /// Why not; none where it does, and where nothing was tried yet.
    pub fence_problem: Option<String>,
    /// Whether it reaches a backend; none without `trackBackends`.
    pub reaches: Option<bool>,
    /// How often another host was seen to claim the VIP.
    pub claims: u64,
    /// The MAC that claimed it last.
    pub last_claim: Option<String>,
    /// The longest time in ms that a deadline of the daemon's loop fired late, in the last minute; none where it is not measured.
    pub loop_delay_ms: Option<u64>,
    /// Milliseconds since the daemon started.
    pub uptime_ms: u64,
    /// Whether the state directory is writable; false is status red.
    pub disk_ok: bool,
    /// The other nodes.
    pub peers: Vec<PeerStatus>,
    /// One per balancer.
    pub balancers: Vec<BalancerStatus>,
}

/// One peer as this node sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PeerStatus {
    /// Its id.
    pub id: String,
    /// Its raft address.
    pub address: String,
    /// Milliseconds since its last frame; none: never heard.
    pub last_contact_ms: Option<u64>,
    /// Whether it said that it could hold the VIP; none: never heard.
    pub fit: Option<bool>,
    /// Why it is not connected, if it is not.
    pub problem: Option<String>,
}

/// One balancer and its counters.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct BalancerStatus {
    /// Its name.
    pub name: String,
    /// Where it listens.
    pub listen: String,
    /// Which backend gets a connection: `roundRobin`, `leastConnections`, `random2`, `sourceHash`.
    pub policy: String,
    /// Whether it accepts now.
    pub serving: bool,
    /// Connections open now.
    pub open: u64,
    /// Connections accepted since the start.
    pub accepted: u64,
    /// Connections reset because no backend could be reached.
    pub no_backend: u64,
    /// Connections that wait for a backend now, because all are at their `maxConnections`.
    pub queued: u64,
    /// Connections reset because `queue` of them waited already.
    pub queue_full: u64,
    /// Connections reset because they had waited for `queueTimeout`.
    pub queue_timeouts: u64,
    /// How often accepting was paused because its `maxConnections` were open.
    pub limit_pauses: u64,
    /// Connections reset because `allow` or `deny` refuses their client.
    pub refused: u64,
    /// Connections reset because their client had `maxConnectionsPerClient` open.
    pub over_client_limit: u64,
    /// Connections of proxies reset because no valid PROXY protocol header came.
    pub proxy_errors: u64,
    /// How often clients had to wait for `acceptRate`.
    pub rate_pauses: u64,
    /// Bytes from clients to backends.
    pub bytes_in: u64,
    /// Bytes from backends to clients.
    pub bytes_out: u64,
    /// One per address of a backend, in the order of the configuration; then those no longer configured whose connections go on.
    pub backends: Vec<BackendStatus>,
}

/// One address of a backend and its counters.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct BackendStatus {
    /// Its address.
    pub address: String,
    /// The configured name that stands for it, if one does.
    pub host: Option<String>,
    /// `up`; `down`: checks say so, or the last connect failed; `draining`: no new connections; `maintenance`: no checks either.
    /// Empty: not known.
    pub state: String,
    /// Why it is down.
    pub why: Option<String>,
    /// Its share beside the others.
    pub weight: u16,
    /// Gets connections only while no other could take any.
    pub backup: bool,
    /// Connections open now.
    pub open: u64,
    /// Connections made since the start.
    pub connected: u64,
    /// Failed connects since the start.
    pub failed: u64,
}
