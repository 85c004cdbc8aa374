//! Opening the listeners, and saying what is in the way where one can't be.

use super::arrive::Door;
use super::{Limits, Spec};
use crate::balancer::choose::Chooser;
use crate::config::Balancer;
use crate::sys::tcp;
use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;

/// One backend and its counters (those of `status::BackendStatus`).
#[derive(Debug)]
pub struct Backend {
    pub address: SocketAddr,
    pub open: u64,
    pub connected: u64,
    pub failed: u64,
}

/// One balancer: its listener, its backends and its counters (those of `status::BalancerStatus`).
#[derive(Debug)]
pub struct Listener {
    pub name: String,
    pub address: SocketAddr,
    /// None: stopped for good.
    pub fd: Option<OwnedFd>,
    /// Bound to the VIP, and so served only while holding.
    pub vip: bool,
    /// Connections may be waiting.
    pub ready: bool,
    pub chooser: Chooser,
    pub backends: Vec<Backend>,
    pub open: u64,
    pub accepted: u64,
    pub no_backend: u64,
    pub bytes: [u64; 2],
    /// Who may come in.
    pub door: Door,
}

/// Why the forwarder can't start: every listener that can't be opened, one per line, and how to mend it.
#[derive(Debug)]
pub struct OpenError {
    /// One sentence for each.
    pub problems: Vec<String>,
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.problems.join("\n"))
    }
}

impl std::error::Error for OpenError {}

impl From<io::Error> for OpenError {
    fn from(e: io::Error) -> Self {
        Self {
            problems: vec![format!(
                "can't open the forwarder's epoll instance: {e}; raise the limit of open files (ulimit -n)"
            )],
        }
    }
}

/// Opens all listeners, or says about each that can't be opened why.
pub fn open_all(spec: &Spec) -> Result<Vec<Listener>, OpenError> {
    let (mut open, mut problems) = (Vec::new(), Vec::new());
    for balancer in &spec.balancers {
        match open_one(balancer, spec.vip, &spec.limits) {
            Ok(listener) => open.push(listener),
            Err((address, e)) => problems.push(explain(balancer, address, &e)),
        }
    }
    if problems.is_empty() { Ok(open) } else { Err(OpenError { problems }) }
}

fn open_one(b: &Balancer, vip: IpAddr, limits: &Limits) -> Result<Listener, (SocketAddr, io::Error)> {
    let (address, fd) = match b.bind_to_vip {
        true => try_listen(vip, b, true, limits)?,
        false => match try_listen(Ipv6Addr::UNSPECIFIED.into(), b, false, limits) {
            // a kernel without IPv6 (ipv6.disable=1)
            Err((_, e)) if matches!(e.raw_os_error(), Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL)) => {
                try_listen(Ipv4Addr::UNSPECIFIED.into(), b, false, limits)?
            }
            other => other?,
        },
    };
    tcp::set_patience(&fd, limits.user_timeout);
    let addresses: Vec<SocketAddr> = b.backends.iter().filter_map(|b| b.target.address()).collect();
    let backend = |&address: &SocketAddr| Backend { address, open: 0, connected: 0, failed: 0 };
    Ok(Listener {
        name: b.name.clone(),
        address: tcp::local_address(&fd).unwrap_or(address),
        fd: Some(fd),
        vip: b.bind_to_vip,
        ready: false,
        chooser: Chooser::new(addresses.len()),
        backends: addresses.iter().map(backend).collect(),
        open: 0,
        accepted: 0,
        no_backend: 0,
        bytes: [0; 2],
        door: Door::new(b),
    })
}

fn try_listen(ip: IpAddr, b: &Balancer, free: bool, limits: &Limits) -> Result<(SocketAddr, OwnedFd), (SocketAddr, io::Error)> {
    let address = SocketAddr::new(ip, b.port);
    tcp::listen(address, free, limits.backlog).map(|fd| (address, fd)).map_err(|e| (address, e))
}

/// What was tried on which address, what the kernel said, and the way out.
fn explain(b: &Balancer, address: SocketAddr, e: &io::Error) -> String {
    let port = address.port();
    let mend = match e.raw_os_error() {
        Some(libc::EADDRINUSE) => format!(
            "another socket listens on port {port}. Find its program by `ss -ltnp 'sport = :{port}'` and stop it, or give this balancer another port"
        ),
        Some(libc::EACCES) => format!(
            "port {port} needs CAP_NET_BIND_SERVICE. Start as root or with that capability, use a port from 1024 on, or lower sysctl net.ipv4.ip_unprivileged_port_start"
        ),
        Some(libc::EMFILE | libc::ENFILE) => "raise the limit of open files (ulimit -n, LimitNOFILE=)".into(),
        Some(libc::EAFNOSUPPORT) => "this kernel has no such address family: is IPv6 switched off?".into(),
        _ => "trying again won't help until the cause is gone".into(),
    };
    format!("balancer {}: can't listen on {address}: {e}; {mend}", b.name)
}
