//! The balancers: raw `loadBalancers` → checked ones, with every backend's address and port settled.

use super::backends::{self, Listed};
use super::checked::{Balance, Balancer, Target};
use super::nodes::NodeAt;
use super::problem::{nearest, shown};
use super::raw::{RawBalancer, RawConfig};
use super::walk::Found;
use super::{checks, clients, fields, limits};
use std::net::IpAddr;

/// The words of `balance`.
pub(crate) const POLICIES: [(&str, Balance); 4] = [
    ("roundRobin", Balance::RoundRobin),
    ("leastConnections", Balance::LeastConnections),
    ("random2", Balance::Random2),
    ("sourceHash", Balance::SourceHash),
];

/// What the balancers are held against.
pub(crate) struct Around<'a> {
    pub(crate) nodes: &'a [NodeAt],
    pub(crate) vip: Option<IpAddr>,
    /// `maxConnections` at the top.
    pub(crate) max_connections: Option<u32>,
}

/// Judges all balancers. The list is complete only where `found` has no problem.
pub(crate) fn judge(raw: &RawConfig, around: &Around<'_>, found: &mut Found) -> Vec<Balancer> {
    let add_peers = raw.add_peers.or(false);
    ports_differ(&raw.balancers, found);
    if add_peers && raw.balancers.is_empty() {
        found.warn(
            raw.add_peers.line().unwrap_or(1),
            "addPeersAsBackends",
            "true, but there are no loadBalancers; it does nothing",
        );
    }
    let mut balancers: Vec<Balancer> = Vec::new();
    for entry in &raw.balancers {
        if let Some(mut balancer) = balancer(entry, around, add_peers, found) {
            rename(&mut balancer, &balancers, entry, found);
            balancers.push(balancer);
        }
    }
    balancers
}

/// Names were free in 2020; logs and status need one each.
fn rename(balancer: &mut Balancer, earlier: &[Balancer], raw: &RawBalancer, found: &mut Found) {
    let given = balancer.name.clone();
    while earlier.iter().any(|b| b.name == balancer.name) {
        balancer.name = format!("{}-{}", balancer.name, balancer.port);
    }
    if balancer.name != given {
        let text = format!("{} names two balancers; logs and status call this one {}", shown(&given), shown(&balancer.name));
        found.warn(raw.line, format!("{}.name", raw.path), text);
    }
}

fn ports_differ(raw: &[RawBalancer], found: &mut Found) {
    for (n, entry) in raw.iter().enumerate() {
        let Some(port) = entry.port.good() else { continue };
        let same = raw[..n].iter().find(|o| o.port.good().is_some_and(|p| p.value == port.value));
        if let Some(other) = same {
            let line = other.port.line().unwrap_or(other.line);
            found.at(
                port,
                format!("{} is already the port of {} (line {line}); each balancer needs its own", port.value, other.path),
            );
        }
    }
}

fn balancer(raw: &RawBalancer, around: &Around<'_>, add_peers: bool, found: &mut Found) -> Option<Balancer> {
    let before = found.problems.len();
    let tcp = kind(raw, found);
    if raw.port.is_absent() {
        found.on(raw.line, format!("{}.port", raw.path), "missing; the TCP port on which clients connect");
    }
    let port = raw.port.checked(found, |n| fields::port(*n));
    let default_port = raw.backend_port.checked(found, |n| fields::port_or_none(*n)).flatten().or(port);
    let bind_to_vip = raw.bind_to_vip.or(false);
    if !tcp {
        return None;
    }
    let listed = backends::judge(raw, if add_peers { around.nodes } else { &[] }, default_port, found);
    // An unreadable list was reported already, and so was each unreadable entry.
    let given = !raw.backends.is_absent() && raw.backends.good().is_none_or(|b| !b.value.is_empty());
    if listed.is_empty() && !given && port.is_some() {
        let line = raw.backends.line().unwrap_or(raw.line);
        let text = "missing; list at least one with address and port, or set addPeersAsBackends: true";
        found.on(line, format!("{}.backends", raw.path), text);
    }
    // Without a port it goes nowhere, but its other keys are judged.
    let number = port.unwrap_or_default();
    let own = listed.iter().map(|b| b.backend.clone()).collect();
    let mut balancer = Balancer::new(name(raw, number), number, bind_to_vip, own);
    balancer.balance = raw.balance.checked(found, |t| policy(t)).unwrap_or_default();
    balancer.health_check = checks::judge(&raw.health_check, found);
    limits::fill(&mut balancer, raw, around.max_connections, found);
    clients::fill(&mut balancer, raw, around.vip, found);
    let listen = Listen { raw, port: port?, bind_to_vip };
    listen.beside_raft(around, found);
    listen.no_loop(&listed, around, found);
    (found.problems.len() == before).then_some(balancer)
}

/// `balance`: the word for a policy, in any case.
fn policy(text: &str) -> Result<Balance, String> {
    if let Some((_, policy)) = POLICIES.iter().find(|(name, _)| name.eq_ignore_ascii_case(text)) {
        return Ok(*policy);
    }
    let names = POLICIES.map(|(name, _)| name);
    Err(match nearest(text, names) {
        Some(near) => format!("is no way to balance; did you mean {near}?"),
        None => format!("is no way to balance; write {}", names.join(", ")),
    })
}

/// The label, fit for a log line: at most 64 characters, none of them a control character.
fn name(raw: &RawBalancer, port: u16) -> String {
    match raw.name.good() {
        Some(spot) if !spot.value.is_empty() => {
            spot.value.chars().map(|c| if c.is_control() { ' ' } else { c }).take(64).collect()
        }
        _ => format!("port-{port}"),
    }
}

fn kind(raw: &RawBalancer, found: &mut Found) -> bool {
    let Some(spot) = raw.kind.good() else { return raw.kind.is_absent() };
    match spot.value.to_ascii_lowercase().as_str() {
        "tcp" => return true,
        "http" => found.at(
            spot,
            "http is not yet supported; `type: tcp` forwards HTTP too, byte by byte. Backends then take address and port",
        ),
        "udp" => found.at(spot, "udp is not yet supported; only tcp is. Remove this balancer"),
        _ => found.at(spot, format!("{} is no type of balancer; write tcp", shown(&spot.value))),
    }
    false
}

/// One listener, held against the nodes and its own backends.
struct Listen<'a> {
    raw: &'a RawBalancer,
    port: u16,
    bind_to_vip: bool,
}

impl Listen<'_> {
    fn line(&self) -> u32 {
        self.raw.port.line().unwrap_or(self.raw.line)
    }

    /// On all interfaces, a raft port is taken already.
    fn beside_raft(&self, around: &Around<'_>, found: &mut Found) {
        let Some(node) = around.nodes.iter().find(|n| n.peer.address.port() == self.port) else { return };
        if !self.bind_to_vip {
            let text = format!(
                "{} is where {} listens for its peers (line {}), and without bindToVip the balancer listens on that address too; choose another port or set bindToVip: true",
                self.port, node.path, node.line
            );
            found.on(self.line(), format!("{}.port", self.raw.path), text);
        }
    }

    /// Whether the balancer itself listens there. Of names, only the machine's own is known here.
    fn is_self(&self, backend: &Target, around: &Around<'_>) -> bool {
        let (here, own) = match backend {
            Target::Name { host, .. } => (false, host.trim_end_matches('.').split('.').next_back() == Some("localhost")),
            Target::Address(address) => {
                let ip = address.ip();
                let own = ip.is_loopback() || around.nodes.iter().any(|n| n.peer.address.ip() == ip);
                (Some(ip) == around.vip, own)
            }
        };
        backend.port() == self.port && (here || (!self.bind_to_vip && own))
    }

    fn no_loop(&self, listed: &[Listed<'_>], around: &Around<'_>, found: &mut Found) {
        let mut told_of_peers = false;
        for Listed { backend, from } in listed.iter().filter(|b| self.is_self(&b.backend.target, around)) {
            let target = &backend.target;
            if let Some(entry) = from {
                let text = format!(
                    "{target} is where this balancer listens, so connections would run in a circle; name the server behind it"
                );
                found.on(entry.line, &*entry.path, text);
            } else if !told_of_peers {
                told_of_peers = true;
                let text = format!(
                    "addPeersAsBackends adds {target}, where this balancer listens, so connections would run in a circle; set backendPort to the port of the servers on the nodes"
                );
                let line = self.raw.backend_port.line().unwrap_or(self.raw.line);
                found.on(line, format!("{}.backendPort", self.raw.path), text);
            }
        }
    }
}
