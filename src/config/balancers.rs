//! The balancers: raw `loadBalancers` → checked ones, with every backend's address and port settled.

use super::checked::Balancer;
use super::fields;
use super::nodes::NodeAt;
use super::raw::{RawBackend, RawBalancer, RawConfig};
use super::walk::{Found, Given};
use std::net::{IpAddr, SocketAddr};

/// What the balancers are held against.
pub(crate) struct Around<'a> {
    pub(crate) nodes: &'a [NodeAt],
    pub(crate) vip: Option<IpAddr>,
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
        let text = format!(
            "{} names two balancers; logs and status call this one {}",
            super::shown(&given),
            super::shown(&balancer.name)
        );
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
    let mut backends = named_backends(raw, default_port, found);
    if add_peers {
        add_nodes(&mut backends, around.nodes, default_port);
    }
    // An unreadable list was reported already, and so was each unreadable entry.
    let listed = !raw.backends.is_absent() && raw.backends.good().is_none_or(|b| !b.value.is_empty());
    if backends.is_empty() && !listed && port.is_some() {
        let line = raw.backends.line().unwrap_or(raw.line);
        let text = "missing; list at least one with address and port, or set addPeersAsBackends: true";
        found.on(line, format!("{}.backends", raw.path), text);
    }
    let listen = Listen { raw, port: port?, bind_to_vip };
    listen.beside_raft(around, found);
    listen.no_loop(&backends, around, found);
    listen.once(&backends, found);
    let backends = backends.into_iter().map(|b| b.address.into()).collect();
    (found.problems.len() == before).then(|| Balancer::new(name(raw, listen.port), listen.port, bind_to_vip, backends))
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

/// `addPeersAsBackends`: every node that names an address, unless it is listed already.
fn add_nodes(backends: &mut Vec<Target<'_>>, nodes: &[NodeAt], port: Option<u16>) {
    for address in nodes.iter().map(|n| n.peer.address.ip()).filter(|ip| !ip.is_unspecified()) {
        let Some(address) = port.map(|port| SocketAddr::new(address, port)) else { return };
        if !backends.iter().any(|b| b.address == address) {
            backends.push(Target { address, from: None });
        }
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
        _ => found.at(spot, format!("{} is no type of balancer; write tcp", super::shown(&spot.value))),
    }
    false
}

/// One backend, and the entry it came from; none if `addPeersAsBackends` added it.
struct Target<'a> {
    address: SocketAddr,
    from: Option<&'a RawBackend>,
}

/// The listed backends, as far as they are readable.
fn named_backends<'a>(raw: &'a RawBalancer, default_port: Option<u16>, found: &mut Found) -> Vec<Target<'a>> {
    let Given::Is(list) = &raw.backends else { return Vec::new() };
    list.value.iter().filter_map(|b| Some(Target { address: backend(b, default_port, found)?, from: Some(b) })).collect()
}

fn backend(raw: &RawBackend, default_port: Option<u16>, found: &mut Found) -> Option<SocketAddr> {
    if let Some(url) = raw.url.good().filter(|u| !u.value.is_empty()) {
        found.at(url, format!("{} is a URL, which only http balancers use; write address and port", super::shown(&url.value)));
    } else if raw.address.is_absent() {
        found.on(raw.line, format!("{}.address", raw.path), "missing; the backend's IP address");
    }
    let own_port = raw.port.checked(found, |n| fields::port_or_none(*n));
    let address = raw.address.checked(found, |t| fields::host_address(t))?;
    let port = match (&raw.port, own_port) {
        (Given::Absent, _) | (_, Some(None)) => default_port,
        (_, Some(port)) => port,
        (_, None) => None,
    };
    Some(SocketAddr::new(address, port?))
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

    /// Whether the balancer itself listens there.
    fn is_self(&self, backend: &SocketAddr, around: &Around<'_>) -> bool {
        let here = Some(backend.ip()) == around.vip;
        let own = backend.ip().is_loopback() || around.nodes.iter().any(|n| n.peer.address.ip() == backend.ip());
        backend.port() == self.port && (here || (!self.bind_to_vip && own))
    }

    fn no_loop(&self, backends: &[Target<'_>], around: &Around<'_>, found: &mut Found) {
        let mut told_of_peers = false;
        for Target { address, from } in backends.iter().filter(|b| self.is_self(&b.address, around)) {
            if let Some(entry) = from {
                let text = format!(
                    "{address} is where this balancer listens, so connections would run in a circle; name the server behind it"
                );
                found.on(entry.line, &*entry.path, text);
            } else if !told_of_peers {
                told_of_peers = true;
                let text = format!(
                    "addPeersAsBackends adds {address}, where this balancer listens, so connections would run in a circle; set backendPort to the port of the servers on the nodes"
                );
                let line = self.raw.backend_port.line().unwrap_or(self.raw.line);
                found.on(line, format!("{}.backendPort", self.raw.path), text);
            }
        }
    }

    fn once(&self, backends: &[Target<'_>], found: &mut Found) {
        let mut seen = std::collections::HashSet::new();
        for target in backends {
            if let (false, Some(entry)) = (seen.insert(target.address), target.from) {
                found.warn(
                    entry.line,
                    &*entry.path,
                    format!("{} is listed twice and gets twice the connections", target.address),
                );
            }
        }
    }
}
