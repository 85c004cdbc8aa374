//! The servers behind a balancer: raw entries → where each is, and what share it gets.

use super::checked::{Backend, Target};
use super::limits::{CONNECTIONS, WEIGHT};
use super::nodes::NodeAt;
use super::problem::shown;
use super::raw::{RawBackend, RawBalancer};
use super::walk::{Found, Given};
use super::{fields, hosts};
use std::net::SocketAddr;

/// One backend, and the entry it came from; none if `addPeersAsBackends` added it.
pub(crate) struct Listed<'a> {
    pub(crate) backend: Backend,
    pub(crate) from: Option<&'a RawBackend>,
}

/// The backends of a balancer, as far as they are readable. `nodes`: those that `addPeersAsBackends` adds.
pub(crate) fn judge<'a>(
    raw: &'a RawBalancer,
    nodes: &[NodeAt],
    default_port: Option<u16>,
    found: &mut Found,
) -> Vec<Listed<'a>> {
    let mut listed = named(raw, default_port, found);
    add_nodes(&mut listed, nodes, default_port);
    once(&listed, found);
    shares(raw, &listed, found);
    listed
}

fn named<'a>(raw: &'a RawBalancer, default_port: Option<u16>, found: &mut Found) -> Vec<Listed<'a>> {
    let Given::Is(list) = &raw.backends else { return Vec::new() };
    list.value.iter().filter_map(|b| Some(Listed { backend: backend(b, default_port, found)?, from: Some(b) })).collect()
}

/// `addPeersAsBackends`: every node that names an address, unless it is listed already.
fn add_nodes(listed: &mut Vec<Listed<'_>>, nodes: &[NodeAt], port: Option<u16>) {
    for address in nodes.iter().map(|n| n.peer.address.ip()).filter(|ip| !ip.is_unspecified()) {
        let Some(address) = port.map(|port| SocketAddr::new(address, port)) else { return };
        if !listed.iter().any(|b| b.backend.target.address() == Some(address)) {
            listed.push(Listed { backend: address.into(), from: None });
        }
    }
}

fn backend(raw: &RawBackend, default_port: Option<u16>, found: &mut Found) -> Option<Backend> {
    if let Some(url) = raw.url.good().filter(|u| !u.value.is_empty()) {
        found.at(url, format!("{} is a URL, which only http balancers use; write address and port", shown(&url.value)));
    } else if raw.address.is_absent() {
        found.on(raw.line, format!("{}.address", raw.path), "missing; the backend's IP address or host name");
    }
    let own_port = raw.port.checked(found, |n| fields::port_or_none(*n));
    let weight = raw.weight.checked(found, |n| WEIGHT.read(*n)).unwrap_or(1);
    let max_connections = raw.max_connections.checked(found, |n| CONNECTIONS.read(*n));
    let host = raw.address.checked(found, |t| hosts::host(t))?;
    let port = match (&raw.port, own_port) {
        (Given::Absent, _) | (_, Some(None)) => default_port,
        (_, Some(port)) => port,
        (_, None) => None,
    }?;
    let target = match host {
        hosts::Host::Address(ip) => Target::Address(SocketAddr::new(ip, port)),
        hosts::Host::Name(host) => Target::Name { host, port },
    };
    Some(Backend { target, weight, backup: raw.backup.or(false), max_connections })
}

fn once(listed: &[Listed<'_>], found: &mut Found) {
    let mut seen = std::collections::HashSet::new();
    for Listed { backend, from } in listed {
        if let (false, Some(entry)) = (seen.insert(&backend.target), from) {
            found.warn(entry.line, &*entry.path, format!("{} is listed twice and gets twice the connections", backend.target));
        }
    }
}

/// Weights and backups that leave nobody, or mean nothing.
fn shares(raw: &RawBalancer, listed: &[Listed<'_>], found: &mut Found) {
    let all = |is: fn(&Backend) -> bool| !listed.is_empty() && listed.iter().all(|b| is(&b.backend));
    let line = raw.backends.line().unwrap_or(raw.line);
    if all(|b| b.weight == 0) {
        found.warn(
            line,
            format!("{}.backends", raw.path),
            "all have weight 0, so no connection is served; give one a weight of 1 or more",
        );
    } else if all(|b| b.backup) {
        found.warn(
            line,
            format!("{}.backends", raw.path),
            "all are backup, so all are used as if none was; leave it out at those to be used first",
        );
    }
}
