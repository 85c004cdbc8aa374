//! Who may speak: the handshake, judged without I/O.

use crate::cluster::fingerprint::fingerprint;
use crate::cluster::types::NodeId;
use serde::{Deserialize, Serialize};
use std::net::IpAddr;

/// The first frame of a caller.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// A hash over the ids of all members and the VIP.
    pub cluster: u64,
    /// Who calls.
    pub id: NodeId,
    /// Whom it means to call.
    pub to: NodeId,
    /// Its lease in ms.
    pub lease_ms: u64,
    /// Its heartbeat in ms.
    pub heartbeat_ms: u64,
    /// `fence: fast`: it never waits for another node's kernel lifetime.
    pub fence_fast: bool,
    /// A random number of this run of the caller.
    pub incarnation: u64,
}

/// What a called node knows of itself and its peers.
pub struct Host<'a> {
    /// The Hello it would send itself (`to` is not looked at).
    pub own: &'a Hello,
    /// Its own raft address.
    pub address: IpAddr,
    /// Ids and addresses of its peers.
    pub peers: &'a [(NodeId, IpAddr)],
}

/// The index of the peer in `host.peers` that called, or why it is refused, in words for both logs.
pub fn judge(hello: &Hello, from: IpAddr, host: &Host) -> Result<usize, String> {
    let own = host.own;
    if hello.id == own.id {
        return Err(format!(
            "{from} has the id \"{}\" of this node ({}): is it a copy of this machine's disk? Give it an id of its own",
            hello.id, host.address
        ));
    }
    let Some(index) = host.peers.iter().position(|(id, _)| *id == hello.id) else {
        return Err(format!("\"{}\" at {from} is not among this node's peers: add it to remotePeers on every node", hello.id));
    };
    let configured = host.peers[index].1;
    if configured.to_canonical() != from.to_canonical() {
        return Err(format!(
            "\"{}\" speaks from {from}, but its configured address is {configured}: either two machines have this id, or remotePeers needs its new address",
            hello.id
        ));
    }
    if hello.to != own.id {
        return Err(format!(
            "\"{}\" at {from} wants \"{}\", this node is \"{}\": check the peers' addresses",
            hello.id, hello.to, own.id
        ));
    }
    if hello.cluster != own.cluster {
        return Err(format!(
            "\"{}\" at {from} belongs to another cluster: vip and the ids of all peers must be the same on every node",
            hello.id
        ));
    }
    if (hello.lease_ms, hello.heartbeat_ms) != (own.lease_ms, own.heartbeat_ms) {
        return Err(format!(
            "\"{}\" at {from} has another timing (lease {} ms, heartbeat {} ms; here {} ms, {} ms): set the same timing on every node",
            hello.id, hello.lease_ms, hello.heartbeat_ms, own.lease_ms, own.heartbeat_ms
        ));
    }
    if hello.fence_fast != own.fence_fast {
        return Err(format!(
            "\"{}\" at {from} has fence: {}, this node fence: {}: set the same on every node",
            hello.id,
            fence(hello.fence_fast),
            fence(own.fence_fast)
        ));
    }
    Ok(index)
}

fn fence(fast: bool) -> &'static str {
    if fast { "fast" } else { "safe" }
}

/// A hash over the ids of all members, in any order, and the VIP where one is given.
pub fn cluster_hash<'a>(ids: impl Iterator<Item = &'a str>, vip: Option<IpAddr>) -> u64 {
    let mut ids: Vec<&str> = ids.collect();
    ids.sort_unstable();
    let vip = vip.map(|vip| vip.to_string());
    ids.extend(vip.as_deref());
    fingerprint(ids.iter().flat_map(|id| id.bytes().chain([0])))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hello(id: &str, to: &str) -> Hello {
        Hello {
            cluster: 7,
            id: NodeId::new(id).unwrap(),
            to: NodeId::new(to).unwrap(),
            lease_ms: 250,
            heartbeat_ms: 50,
            fence_fast: false,
            incarnation: 1,
        }
    }

    #[test]
    fn strangers_are_refused_with_the_way_out() {
        let own = hello("a", "a");
        let peers = [
            (NodeId::new("b").unwrap(), "10.0.0.2".parse().unwrap()),
            (NodeId::new("c").unwrap(), "10.0.0.3".parse().unwrap()),
        ];
        let host = Host { own: &own, address: "10.0.0.1".parse().unwrap(), peers: &peers };
        let good = hello("b", "a");
        let cases: [(Hello, &str, Result<usize, &str>); 10] = [
            (good.clone(), "10.0.0.2", Ok(0)),
            (good.clone(), "::ffff:10.0.0.2", Ok(0)),
            (hello("c", "a"), "10.0.0.3", Ok(1)),
            (hello("a", "a"), "10.0.0.9", Err("copy of this machine's disk")),
            (hello("x", "a"), "10.0.0.9", Err("not among this node's peers")),
            (good.clone(), "10.0.0.9", Err("its configured address is 10.0.0.2")),
            (hello("b", "c"), "10.0.0.2", Err("wants \"c\", this node is \"a\"")),
            (Hello { cluster: 8, ..good.clone() }, "10.0.0.2", Err("another cluster")),
            (
                Hello { fence_fast: true, ..good.clone() },
                "10.0.0.2",
                Err("has fence: fast, this node fence: safe: set the same on every node"),
            ),
            (
                Hello { lease_ms: 60, ..good },
                "10.0.0.2",
                Err("another timing (lease 60 ms, heartbeat 50 ms; here 250 ms, 50 ms)"),
            ),
        ];
        for (hello, from, expected) in cases {
            match (judge(&hello, from.parse().unwrap(), &host), expected) {
                (Ok(got), Ok(want)) => assert_eq!(got, want),
                (Err(text), Err(part)) => assert!(text.contains(part), "{text}"),
                (got, want) => panic!("{hello:?} from {from}: {got:?}, expected {want:?}"),
            }
        }
    }

    #[test]
    fn the_fingerprint_knows_members_and_vip_but_not_their_order() {
        let vip: IpAddr = "10.0.0.100".parse().unwrap();
        let hash = |ids: &[&str], vip| cluster_hash(ids.iter().copied(), Some(vip));
        let one = hash(&["a", "b", "c"], vip);
        assert_eq!(one, hash(&["c", "a", "b"], vip));
        assert_ne!(one, hash(&["a", "b"], vip));
        assert_ne!(one, hash(&["a", "bc"], vip));
        assert_ne!(one, hash(&["a", "b", "c"], "10.0.0.101".parse().unwrap()));
    }
}
