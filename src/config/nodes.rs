//! The nodes: raw peers → checked peers, in any of the three ways to name them.

use super::checked::Peer;
use super::raw::{RawConfig, RawPeer};
use super::walk::{Found, Given};
use super::{fields, hosts, moves};
use std::net::{IpAddr, SocketAddr};

/// Priority of a node that names none.
const PRIORITY: u32 = 100;

/// A checked node and where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NodeAt {
    pub(crate) peer: Peer,
    pub(crate) path: String,
    pub(crate) line: u32,
}

/// How the file says which node is this one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Local {
    /// It is `nodes[0]`: `localPeer`, or the only one.
    First,
    /// The one of `peers` whose address this machine has; `peers` stands on this line.
    ByAddress { line: u32 },
    /// `singleNode` without a name.
    Nameless,
}

/// Who says that the node is alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Alone {
    No,
    File,
    Flag,
}

/// A node as far as it is readable, so that a bad port doesn't hide a duplicate id.
struct Partial {
    path: String,
    line: u32,
    id: Option<String>,
    address: Option<IpAddr>,
    port: Option<u16>,
    priority: Option<u32>,
    witness: bool,
}

/// Judges all nodes. The list is complete only where `found` has no problem.
pub(crate) fn judge(raw: &RawConfig, alone: Alone, found: &mut Found) -> (Vec<NodeAt>, Local) {
    let (list, local) = listed(raw, alone, found);
    // In `peers`, each entry speaks for its own node; otherwise localPeer alone does.
    let own = if raw.peers.is_absent() { raw.local.good().map(|s| &s.value).into_iter().collect() } else { list.clone() };
    let remotes = raw.remotes.good().map(|s| s.value.as_slice()).unwrap_or_default();
    moves::witnesses(&own, remotes, alone, found);
    let nodes: Vec<Partial> = list.into_iter().map(|peer| partial(peer, alone, found)).collect();
    differ(&nodes, found);
    if alone == Alone::No && found.problems.is_empty() {
        count(&nodes, found);
    }
    let complete = nodes.into_iter().filter_map(|node| whole(node, alone)).collect();
    (complete, local)
}

/// The raw nodes, this one first where the file says so.
fn listed<'a>(raw: &'a RawConfig, alone: Alone, found: &mut Found) -> (Vec<&'a RawPeer>, Local) {
    match &raw.peers {
        Given::Absent => (pair(raw, alone, found), if raw.local.is_absent() { Local::Nameless } else { Local::First }),
        Given::Bad => (Vec::new(), Local::Nameless),
        Given::Is(peers) => {
            if !raw.local.is_absent() || !raw.remotes.is_absent() {
                found.at(peers, "stands beside localPeer or remotePeers; name the nodes one way: all in `peers`, or localPeer and remotePeers");
            }
            let others = if peers.value.len() > 1 { alone } else { Alone::No };
            not_alone(others, peers.line, "peers", found);
            if peers.value.is_empty() || (peers.value.len() == 1 && alone == Alone::No) {
                found.at(peers, "a cluster has at least two nodes here; list them all, or set singleNode: true");
            }
            let local = if alone == Alone::No { Local::ByAddress { line: peers.line } } else { Local::First };
            (peers.value.iter().collect(), local)
        }
    }
}

/// `localPeer` and `remotePeers`, as in 2020.
fn pair<'a>(raw: &'a RawConfig, alone: Alone, found: &mut Found) -> Vec<&'a RawPeer> {
    if raw.local.is_absent() && alone == Alone::No {
        found.whole("localPeer", "missing; name this node with id, address and port, or list all nodes under `peers`");
    }
    match &raw.remotes {
        Given::Is(remotes) if !remotes.value.is_empty() => not_alone(alone, remotes.line, "remotePeers", found),
        Given::Is(remotes) if alone == Alone::No => {
            found.at(remotes, "is empty; list the other nodes, or set singleNode: true if there are none");
        }
        Given::Absent if alone == Alone::No => {
            found.whole("remotePeers", "missing; list the other nodes, or set singleNode: true if there are none");
        }
        _ => {}
    }
    let local = raw.local.good().map(|s| &s.value);
    let remotes = raw.remotes.good().map(|s| s.value.as_slice()).unwrap_or_default();
    local.into_iter().chain(remotes).collect()
}

fn not_alone(alone: Alone, line: u32, key: &str, found: &mut Found) {
    let who = match alone {
        Alone::No => return,
        Alone::File => "singleNode is true",
        Alone::Flag => "the flag --singleNode was given",
    };
    found.on(
        line,
        key,
        format!("{who}, but other nodes are named here; each would hold the VIP at once. Remove one of the two"),
    );
}

fn partial(raw: &RawPeer, alone: Alone, found: &mut Found) -> Partial {
    missing(raw, "id", raw.id.is_absent(), "e.g. `id: server1`, another for each node", found);
    if alone == Alone::No {
        missing(raw, "address", raw.address.is_absent(), "the IP address on which the node listens for its peers", found);
        missing(raw, "port", raw.port.is_absent(), "the TCP port on which the node listens for its peers, e.g. 10000", found);
    }
    Partial {
        path: raw.path.clone(),
        line: raw.line,
        id: raw.id.checked(found, |t| fields::id(t)),
        address: raw.address.checked(found, |t| hosts::host_address(t)),
        port: raw.port.checked(found, |n| fields::port(*n)),
        priority: raw.priority.checked(found, |n| fields::priority(*n)),
        witness: raw.witness.or(false),
    }
}

fn missing(raw: &RawPeer, key: &str, absent: bool, what: &str, found: &mut Found) {
    if absent {
        found.on(raw.line, format!("{}.{key}", raw.path), format!("missing; {what}"));
    }
}

/// No two nodes share an id or a place to listen.
fn differ(nodes: &[Partial], found: &mut Found) {
    for (n, node) in nodes.iter().enumerate() {
        let earlier = &nodes[..n];
        if let Some(other) = earlier.iter().find(|o| o.id.is_some() && o.id == node.id) {
            let id = node.id.as_deref().unwrap_or_default();
            let text = format!("{id} is also {} (line {}); {}", other.path, other.line, unique(node, other));
            found.on(node.line, format!("{}.id", node.path), text);
        }
        let Some(address) = node.address else { continue };
        let Some(other) = earlier.iter().find(|o| o.address == Some(address)) else { continue };
        let key = format!("{}.address", node.path);
        if other.port == node.port {
            let text = format!(
                "{address} and its port are also those of {} (line {}); {}",
                other.path,
                other.line,
                unique(node, other)
            );
            found.on(node.line, key, text);
        } else if !address.is_loopback() {
            let text = format!(
                "{address} is also {} (line {}); two nodes on one machine don't survive its loss",
                other.path, other.line
            );
            found.warn(node.line, key, text);
        }
    }
}

fn unique(node: &Partial, other: &Partial) -> &'static str {
    if other.path == "localPeer" && node.path.starts_with("remotePeers") && node.id == other.id && node.address == other.address
    {
        "remotePeers lists the other nodes only. Remove this entry"
    } else {
        "each node needs its own"
    }
}

fn count(nodes: &[Partial], found: &mut Found) {
    if nodes.len() % 2 == 1 {
        return;
    }
    let text = match nodes.len() {
        2 => "2 nodes: when one is lost, the other is no majority and lets the VIP go. Three nodes survive the loss of one"
            .to_owned(),
        n => format!("{n} nodes survive the loss of {}, as {} do; an even number only adds a vote to win", n / 2 - 1, n - 1),
    };
    found.warn(nodes[1].line, if nodes[0].path == "localPeer" { "remotePeers" } else { "peers" }, text);
}

fn whole(node: Partial, alone: Alone) -> Option<NodeAt> {
    let (address, port) = match alone {
        Alone::No => (node.address?, node.port?),
        _ => (node.address.unwrap_or(IpAddr::from([0, 0, 0, 0])), node.port.unwrap_or(0)),
    };
    let (id, priority) = (node.id?, node.priority.unwrap_or(PRIORITY));
    let peer = Peer { id, address: SocketAddr::new(address, port), priority, witness: node.witness };
    Some(NodeAt { peer, path: node.path, line: node.line })
}

/// The node of `singleNode` without `localPeer`.
pub(crate) fn nameless() -> Peer {
    Peer { id: "single".to_owned(), address: SocketAddr::from(([0, 0, 0, 0], 0)), priority: PRIORITY, witness: false }
}
