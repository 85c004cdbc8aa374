//! What changes while running: the balancers themselves, the addresses of names, what checks find, what operators order.

use super::Limits;
use super::control::MemberView;
use super::engine::{Engine, tell};
use super::health;
use super::listen::{self, Life, Listener, OpenError};
use super::pool::{Merged, Order, State};
use crate::config::{Balancer, Target};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;

/// Descriptors left for everything else: raft, control socket, files, standard streams.
const SPARED_FDS: usize = 64;

/// A slot for a new listener, and its socket.
type Opened = (usize, SocketAddr, OwnedFd);

impl Engine {
    /// See [`super::Control::apply`].
    pub fn apply(&mut self, balancers: Vec<Balancer>) -> Result<(), OpenError> {
        let goes_on = |l: &Listener| l.life == Life::Open || l.fd.is_some();
        let old = self.listeners.iter().enumerate().filter(|(_, l)| goes_on(l));
        let old: Vec<_> = old.map(|(i, l)| (i, l.options.port, l.options.bind_to_vip)).collect();
        let kept = listen::match_up(&old, &balancers);
        let opened = self.open_new(&balancers, &kept)?;
        // Nothing can fail from here on.
        self.by_fds = by_fds(self.fds, &self.limits, &balancers);
        self.max_connections = self.limits.max_connections.unwrap_or(self.by_fds);
        self.hosts.retain(|host, _| balancers.iter().any(|b| names_host(b, host)));
        for i in (0..self.listeners.len()).filter(|&i| !kept.contains(&Some(i))) {
            self.dismiss(i);
        }
        self.order.clear();
        for ((balancer, kept), opened) in balancers.into_iter().zip(kept).zip(opened) {
            match (kept, opened) {
                (Some(slot), _) => self.take_over(slot, balancer),
                (None, Some(opened)) => self.place(opened, balancer),
                (None, None) => {} // stopped: nothing is opened any more
            }
        }
        Ok(())
    }

    /// Opens and registers a socket for each balancer that has none, or says about each that can't be opened why.
    fn open_new(&self, balancers: &[Balancer], kept: &[Option<usize>]) -> Result<Vec<Option<Opened>>, OpenError> {
        let vacant = self.listeners.iter().enumerate().filter(|(_, l)| l.life == Life::Vacant).map(|(i, _)| i);
        let mut slots = vacant.chain(self.listeners.len()..);
        let (mut all, mut problems) = (Vec::new(), Vec::new());
        for (balancer, kept) in balancers.iter().zip(kept) {
            let mut opened = None;
            if kept.is_none() && !self.stopped {
                match listen::open(balancer, self.vip, &self.limits) {
                    Ok((address, fd)) => opened = slots.next().map(|slot| (slot, address, fd)),
                    Err(problem) => problems.push(self.rebound(balancer).unwrap_or(problem)),
                }
            }
            all.push(opened);
        }
        if !problems.is_empty() {
            return Err(OpenError { problems });
        }
        for (slot, _, fd) in all.iter().flatten() {
            self.reactor.add_source(fd, *slot as u64)?; // those before leave the epoll instance by being closed
        }
        Ok(all)
    }

    /// What is in the way where this very process listens on the port already: its address changed, not the port.
    fn rebound(&self, b: &Balancer) -> Option<String> {
        let old = self.listeners.iter().find(|l| l.fd.is_some() && l.options.port == b.port && b.port != 0)?;
        (old.options.bind_to_vip != b.bind_to_vip).then(|| {
            let (name, port) = (&b.name, b.port);
            format!(
                "balancer {name}: bindToVip of port {port} can't change while running; restart kube-vip, or use another port"
            )
        })
    }

    /// Gives a new listener its slot.
    fn place(&mut self, (slot, address, fd): Opened, balancer: Balancer) {
        let mut listener = Listener::new(balancer, address, fd);
        listener.pool.configure(&listener.options, &self.hosts, self.now);
        match self.listeners.get_mut(slot) {
            Some(vacant) => *vacant = listener,
            None => self.listeners.push(listener),
        }
        self.order.push(slot);
    }

    /// Gives a listener that goes on what is configured now.
    fn take_over(&mut self, slot: usize, balancer: Balancer) {
        let listener = &mut self.listeners[slot];
        (listener.options, listener.life) = (balancer, Life::Open);
        listener.door.change(&listener.options);
        self.order.push(slot);
        self.merge(slot);
    }

    fn dismiss(&mut self, slot: usize) {
        let listener = &mut self.listeners[slot];
        if listener.life == Life::Open {
            log::info!("balancer {}: no longer configured; {} connections go on", listener.options.name, listener.open);
        }
        listener.leave(self.limits.backlog.unsigned_abs());
        listener.try_vacate();
    }

    fn merge(&mut self, slot: usize) {
        let listener = &mut self.listeners[slot];
        let Merged { joined, left } = listener.pool.configure(&listener.options, &self.hosts, self.now);
        let name = &listener.options.name;
        joined.iter().for_each(|address| log::info!("balancer {name}: backend {address} joins"));
        left.iter()
            .for_each(|(address, open)| log::info!("balancer {name}: backend {address} leaves; {open} connections go on"));
    }

    /// See [`super::Control::resolved`].
    pub fn resolved(&mut self, host: &str, addresses: &[IpAddr]) {
        if self.hosts.get(host).is_some_and(|old| old == addresses) {
            return;
        }
        self.hosts.insert(host.to_string(), addresses.to_vec());
        for slot in self.order.clone() {
            if names_host(&self.listeners[slot].options, host) {
                self.merge(slot);
            }
        }
    }

    /// See [`super::Control::members`].
    pub fn members(&self) -> Vec<MemberView> {
        let configured = self.order.iter().map(|&slot| &self.listeners[slot]);
        let of = |l: &Listener| {
            let asked = l.pool.members().filter(|m| !m.leaving && m.state() != State::Maintenance);
            let view = |m: &super::pool::Member| MemberView {
                balancer: l.options.name.clone(),
                address: m.address,
                target: m.target.clone(),
                check: l.options.health_check.clone(),
                send_proxy: l.options.send_proxy,
            };
            asked.map(view).collect::<Vec<_>>()
        };
        configured.flat_map(of).collect()
    }

    /// See [`super::Control::health`].
    pub fn health(&mut self, balancer: &str, address: SocketAddr, up: bool, why: &str) {
        for i in 0..self.order.len() {
            let slot = self.order[i];
            let listener = &mut self.listeners[slot];
            // One whose checks were just taken out of the configuration has nobody who would bring it back.
            if listener.options.name == balancer && listener.options.health_check.is_some() {
                tell(balancer, listener.pool.health(address, up, why, self.now));
                self.may_serve(slot);
            }
        }
    }

    /// See [`super::Control::order`].
    pub fn obey(&mut self, balancer: Option<&str>, target: &str, order: Order) -> Result<String, String> {
        if let Order::Weight(weight @ 257..) = order {
            return Err(format!("a weight of {weight} is too much: 0 to 256"));
        }
        let asked = |l: &Listener| balancer.is_none_or(|name| l.options.name == name);
        let slots: Vec<usize> = self.order.iter().copied().filter(|&slot| asked(&self.listeners[slot])).collect();
        if let (true, Some(name)) = (slots.is_empty(), balancer) {
            let names = self.order.iter().map(|&slot| self.listeners[slot].options.name.clone());
            return Err(format!("there is no balancer {name}; there are: {}", listed(names)));
        }
        let mut lines = Vec::new();
        for &slot in &slots {
            let listener = &mut self.listeners[slot];
            let name = listener.options.name.clone();
            let (changes, said) = listener.pool.order(target, order, self.now);
            tell(&name, changes);
            lines.extend(said.into_iter().map(|said| format!("balancer {name}: backend {said}")));
            self.may_serve(slot);
        }
        if lines.is_empty() {
            return Err(self.unknown(&slots, target));
        }
        Ok(lines.join("\n"))
    }

    /// That no backend of these listeners is `target`, and which there are.
    fn unknown(&self, slots: &[usize], target: &str) -> String {
        let of = |&slot: &usize| {
            let listener = &self.listeners[slot];
            let names = listener.options.backends.iter().map(|b| b.target.to_string());
            names.chain(listener.pool.members().filter(|m| !m.leaving).map(|m| m.address.to_string())).collect::<Vec<_>>()
        };
        let configured = self.order.iter().flat_map(|&slot| &self.listeners[slot].options.backends);
        let is_name =
            |t: &Target| matches!(t, Target::Name { host, .. } if host.eq_ignore_ascii_case(target) || t.to_string() == target);
        if configured.map(|b| &b.target).any(is_name) {
            return format!("the name {target} has no address yet: it is being looked up");
        }
        format!("there is no backend {target}; there are: {}", listed(slots.iter().flat_map(of)))
    }
}

/// How many connections `fds` descriptors allow: two each, after what everything else needs.
fn by_fds(fds: usize, limits: &Limits, balancers: &[Balancer]) -> usize {
    let checks = if balancers.iter().any(|b| b.health_check.is_some()) { health::AT_ONCE } else { 0 };
    let spared = SPARED_FDS + checks + 2 * limits.pipes + balancers.len();
    (fds.saturating_sub(spared) / 2).clamp(16, 65536)
}

/// Whether a backend of `balancer` is this name.
fn names_host(balancer: &Balancer, host: &str) -> bool {
    balancer.backends.iter().any(|b| matches!(&b.target, Target::Name { host: name, .. } if name == host))
}

/// Each once, at most twenty, in one line.
fn listed(names: impl Iterator<Item = String>) -> String {
    const SHOWN: usize = 20;
    let mut all: Vec<String> = Vec::new();
    for name in names {
        if !all.contains(&name) {
            all.push(name);
        }
    }
    let more = all.len().saturating_sub(SHOWN);
    all.truncate(SHOWN);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    if all.is_empty() { "none".into() } else { all.join(", ") + &more }
}
