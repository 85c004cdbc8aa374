//! First stage: the shape of the file. Known keys, types of values; nothing is judged yet.

mod balancer; // one loadBalancers entry

pub(crate) use balancer::{RawBackend, RawBalancer, RawCheck, RawOwnCheck, Texts};

use super::tree::{Node, Value};
use super::walk::{Found, Given, Keys, Spot};
use balancer::balancer;

const TOP: &[&str] = &[
    "localPeer",
    "remotePeers",
    "peers",
    "vip",
    "interface",
    "gratuitousARP",
    "singleNode",
    "startAsLeader",
    "addPeersAsBackends",
    "loadBalancers",
    "maxConnections",
    "resolveInterval",
    "timing",
    "fence",
    "drain",
    "witness",
    "preempt",
    "preemptDelay",
    "trackBackends",
    "realtime",
    "stateDir",
    "controlSocket",
    "user",
    "group",
];
const PEER: &[&str] = &["id", "address", "port", "priority", "witness"];
const TIMING: &[&str] = &["heartbeat", "lease"];

/// The file as written.
#[derive(Debug)]
pub(crate) struct RawConfig {
    pub(crate) local: Given<RawPeer>,
    pub(crate) remotes: Given<Vec<RawPeer>>,
    pub(crate) peers: Given<Vec<RawPeer>>,
    pub(crate) vip: Given<String>,
    pub(crate) interface: Given<String>,
    pub(crate) announce: Given<bool>,
    pub(crate) single_node: Given<bool>,
    pub(crate) start_as_leader: Given<bool>,
    pub(crate) add_peers: Given<bool>,
    pub(crate) balancers: Vec<RawBalancer>,
    pub(crate) max_connections: Given<i64>,
    pub(crate) resolve_interval: Given<String>,
    pub(crate) timing: RawTiming,
    pub(crate) fence: Given<String>,
    pub(crate) drain: Given<String>,
    pub(crate) witness: Given<bool>,
    pub(crate) preempt: Given<bool>,
    pub(crate) preempt_delay: Given<String>,
    pub(crate) track_backends: Given<bool>,
    pub(crate) realtime: Given<bool>,
    pub(crate) state_dir: Given<String>,
    pub(crate) control_socket: Given<String>,
    pub(crate) user: Given<String>,
    pub(crate) group: Given<String>,
}

/// One node as written.
#[derive(Clone, Debug, Default)]
pub(crate) struct RawPeer {
    pub(crate) path: String,
    pub(crate) line: u32,
    pub(crate) id: Given<String>,
    pub(crate) address: Given<String>,
    pub(crate) port: Given<i64>,
    pub(crate) priority: Given<i64>,
    pub(crate) witness: Given<bool>,
}

/// `timing` as written.
#[derive(Debug)]
pub(crate) enum RawTiming {
    Absent,
    Bad,
    Preset(Spot<String>),
    Own { line: u32, heartbeat: Given<String>, lease: Given<String> },
}

/// Reads the shape; what doesn't fit is in `found` and counts as [`Given::Bad`]. None if the file is no map at all.
pub(crate) fn read(root: &Node, found: &mut Found) -> Option<RawConfig> {
    let keys = Keys::open(root, "", TOP, found)?;
    Some(RawConfig {
        local: local(&keys, found),
        remotes: items(&keys, "remotePeers", found, peer),
        peers: items(&keys, "peers", found, peer),
        vip: keys.text("vip", found),
        interface: keys.text("interface", found),
        announce: keys.boolean("gratuitousARP", found),
        single_node: keys.boolean("singleNode", found),
        start_as_leader: keys.boolean("startAsLeader", found),
        add_peers: keys.boolean("addPeersAsBackends", found),
        balancers: items(&keys, "loadBalancers", found, balancer).or(Vec::new()),
        max_connections: keys.integer("maxConnections", found),
        resolve_interval: keys.text("resolveInterval", found),
        timing: timing(&keys, found),
        fence: keys.text("fence", found),
        drain: keys.text("drain", found),
        witness: keys.boolean("witness", found),
        preempt: keys.boolean("preempt", found),
        preempt_delay: keys.text("preemptDelay", found),
        track_backends: keys.boolean("trackBackends", found),
        realtime: keys.boolean("realtime", found),
        state_dir: keys.text("stateDir", found),
        control_socket: keys.text("controlSocket", found),
        user: keys.text("user", found),
        group: keys.text("group", found),
    })
}

fn local(keys: &Keys<'_>, found: &mut Found) -> Given<RawPeer> {
    let Some(node) = keys.node("localPeer") else { return keys.without("localPeer") };
    match peer("localPeer".to_owned(), node, found) {
        Some(value) => Given::Is(Spot { value, key: "localPeer".to_owned(), line: node.line }),
        None => Given::Bad,
    }
}

/// A list of maps. An entry that can't be read was reported; the others go on.
fn items<T>(keys: &Keys<'_>, key: &str, found: &mut Found, read: fn(String, &Node, &mut Found) -> Option<T>) -> Given<Vec<T>> {
    match keys.list(key, found) {
        Given::Absent => Given::Absent,
        Given::Bad => Given::Bad,
        Given::Is(Spot { value, key, line }) => {
            let (wanted, mut good) = (value.len(), Vec::new());
            good.extend(value.into_iter().filter_map(|(path, node)| read(path, node, found)));
            // All entries unreadable: not an empty list, which would be a second report of the same thing.
            if good.is_empty() && wanted > 0 { Given::Bad } else { Given::Is(Spot { value: good, key, line }) }
        }
    }
}

fn peer(path: String, node: &Node, found: &mut Found) -> Option<RawPeer> {
    let keys = Keys::open(node, &path, PEER, found)?;
    Some(RawPeer {
        line: node.line,
        id: keys.text("id", found),
        address: keys.text("address", found),
        port: keys.integer("port", found),
        priority: keys.integer("priority", found),
        witness: keys.boolean("witness", found),
        path,
    })
}

fn timing(keys: &Keys<'_>, found: &mut Found) -> RawTiming {
    let Some(node) = keys.node("timing") else {
        return if keys.without::<()>("timing").is_absent() { RawTiming::Absent } else { RawTiming::Bad };
    };
    if !matches!(node.value, Value::Map(_)) {
        return match keys.text("timing", found) {
            Given::Is(spot) => RawTiming::Preset(spot),
            _ => RawTiming::Bad,
        };
    }
    let Some(own) = Keys::open(node, "timing", TIMING, found) else { return RawTiming::Bad };
    RawTiming::Own { line: node.line, heartbeat: own.text("heartbeat", found), lease: own.text("lease", found) }
}
