//! One balancer's socket, members and counters; opening sockets, and saying what is in the way where one can't be.

use super::Limits;
use super::arrive::Door;
use super::line::Line;
use super::pool::Pool;
use crate::config::Balancer;
use crate::sys::clock::Instant;
use crate::sys::tcp;
use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;

/// Where a listener's slot is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Life {
    /// Configured.
    Open,
    /// No longer configured: it accepts what waits in its backlog, at most so many, then its connections go on to their end.
    Leaving(u32),
    /// Free for another.
    Vacant,
}

/// One balancer: its listener, its members and its counters (those of `status::BalancerStatus`).
#[derive(Debug)]
pub struct Listener {
    /// As configured.
    pub options: Balancer,
    pub address: SocketAddr,
    /// None: closed for good.
    pub fd: Option<OwnedFd>,
    pub life: Life,
    /// Connections may be waiting.
    pub ready: bool,
    pub pool: Pool,
    pub door: Door,
    /// Who waits for a place on one of them.
    pub line: Line,
    /// Places may be free for those who wait.
    pub serve: bool,
    /// As many connections are open as it may have, and that was counted.
    pub at_limit: bool,
    pub open: u64,
    pub accepted: u64,
    pub no_backend: u64,
    pub queue_full: u64,
    pub queue_timeouts: u64,
    pub limit_pauses: u64,
    pub queue_told: Option<Instant>,
    pub limit_told: Option<Instant>,
    pub bytes: [u64; 2],
}

impl Listener {
    /// Without members yet.
    pub fn new(options: Balancer, address: SocketAddr, fd: OwnedFd) -> Self {
        Self { fd: Some(fd), ..Self::closed(options, address) }
    }

    /// Without a socket.
    pub fn closed(options: Balancer, address: SocketAddr) -> Self {
        Self {
            door: Door::new(&options),
            options,
            address,
            fd: None,
            life: Life::Open,
            ready: false,
            pool: Pool::default(),
            line: Line::default(),
            serve: false,
            at_limit: false,
            open: 0,
            accepted: 0,
            no_backend: 0,
            queue_full: 0,
            queue_timeouts: 0,
            limit_pauses: 0,
            queue_told: None,
            limit_told: None,
            bytes: [0; 2],
        }
    }

    /// Whether as many connections are open as the configuration allows.
    pub fn full(&self) -> bool {
        self.options.max_connections.is_some_and(|limit| self.open >= u64::from(limit))
    }

    /// Whether to accept: something may wait, and there is room for it.
    pub fn accepts(&self) -> bool {
        self.ready && !self.full()
    }

    /// No longer configured.
    pub fn leave(&mut self, backlog: u32) {
        if self.life == Life::Open {
            self.life = Life::Leaving(backlog);
            self.ready = true; // so that the backlog is looked at, and found empty
        }
    }

    /// Its backlog is empty, or was served long enough: one that leaves closes.
    pub fn drained(&mut self) {
        self.ready = false;
        self.door.nobody();
        if self.life != Life::Open {
            self.fd = None;
            self.try_vacate();
        }
    }

    /// Frees its slot once nothing needs it any more.
    pub fn try_vacate(&mut self) {
        if self.life != Life::Open && self.fd.is_none() && self.open == 0 {
            self.life = Life::Vacant;
            self.pool = Pool::default();
        }
    }
}

/// Why the forwarder can't start, or take over a configuration: every listener that can't be opened, one per line, and how to
/// mend it.
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

/// Which of `old` (slot, port, bound to the VIP) goes on as each of `new`, by its place there.
pub fn match_up(old: &[(usize, u16, bool)], new: &[Balancer]) -> Vec<Option<usize>> {
    let mut free = old.to_vec();
    let mut take = |b: &Balancer| {
        let i = free.iter().position(|&(_, port, vip)| (port, vip) == (b.port, b.bind_to_vip))?;
        Some(free.remove(i).0)
    };
    new.iter().map(&mut take).collect()
}

/// Opens the socket of one balancer, or says what is in the way.
pub fn open(b: &Balancer, vip: IpAddr, limits: &Limits) -> Result<(SocketAddr, OwnedFd), String> {
    open_socket(b, vip, limits).map_err(|(address, e)| explain(b, address, &e))
}

fn open_socket(b: &Balancer, vip: IpAddr, limits: &Limits) -> Result<(SocketAddr, OwnedFd), (SocketAddr, io::Error)> {
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
    Ok((tcp::local_address(&fd).unwrap_or(address), fd))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_goes_on_where_port_and_binding_stay() {
        let b = |port, vip| Balancer::new("b".into(), port, vip, Vec::new());
        let old = [(0, 80, true), (3, 80, false), (4, 443, true)];
        let new = [b(443, true), b(80, false), b(81, true), b(443, true)];
        assert_eq!(match_up(&old, &new), [Some(4), Some(3), None, None]);
    }
}
