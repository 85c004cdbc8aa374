//! What is configured, and what names stand for, becomes members: those that stay keep their slot, counters and state.

use super::member::Member;
use super::{NOWHERE, Pool};
use crate::config::{Backend, Balancer, Target};
use crate::sys::clock::Instant;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

/// The addresses of host names, as looked up last.
pub type Hosts = BTreeMap<String, Vec<IpAddr>>;

/// What came and went.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Merged {
    /// New members.
    pub joined: Vec<SocketAddr>,
    /// Members that are no longer configured, and how many connections each has to finish.
    pub left: Vec<(SocketAddr, u64)>,
}

impl Pool {
    /// Takes over a balancer's configuration. One whose address isn't in it any more leaves: its connections go on.
    pub fn configure(&mut self, balancer: &Balancer, hosts: &Hosts, now: Instant) -> Merged {
        (self.balance, self.slow_start) = (balancer.balance, balancer.slow_start);
        self.checked = balancer.health_check.is_some();
        self.orders.retain(|(target, _)| balancer.backends.iter().any(|b| b.target == *target));
        let wanted = wanted(balancer, hosts);
        let found = self.find(&wanted);
        let left = self.dismiss(&found);
        let mut joined = Vec::new();
        let mut order = Vec::with_capacity(wanted.len());
        for ((address, backend), found) in wanted.into_iter().zip(found) {
            match found.and_then(|slot| self.get_mut(slot).map(|m| (slot, m))) {
                Some((slot, member)) => {
                    member.configure(backend);
                    order.push(slot);
                }
                None => {
                    let Some(slot) = self.vacant() else { continue };
                    let mut member = Member::new(address, backend);
                    if let Some((_, ordered)) = self.orders.iter().find(|(target, _)| *target == backend.target) {
                        member.inherit(*ordered);
                    }
                    self.slots[usize::from(slot)] = Some(member);
                    order.push(slot);
                    joined.push(address);
                }
            }
        }
        order.extend(self.order.iter().copied().filter(|&slot| self.get(slot).is_some_and(|m| m.leaving)));
        self.order = order;
        if balancer.health_check.is_none() {
            for member in self.slots.iter_mut().flatten() {
                if member.mend() && !member.leaving {
                    member.told = member.state();
                }
            }
        }
        self.refresh(now);
        Merged { joined, left }
    }

    /// The slot of each wanted member that exists: first those of the very same backend, then whoever has the address.
    fn find(&self, wanted: &[(SocketAddr, &Backend)]) -> Vec<Option<u16>> {
        let mut taken = vec![false; self.slots.len()];
        let mut found = vec![None; wanted.len()];
        for exact in [true, false] {
            for (found, (address, backend)) in found.iter_mut().zip(wanted).filter(|(found, _)| found.is_none()) {
                let fits = |m: &Member| m.address == *address && (!exact || m.target == backend.target && !m.leaving);
                let slot = (0..self.slots.len()).find(|&i| !taken[i] && self.slots[i].as_ref().is_some_and(fits));
                if let Some(slot) = slot {
                    taken[slot] = true;
                    *found = Some(slot as u16);
                }
            }
        }
        found
    }

    /// Lets go of all that `stay` doesn't name: at once, or when their connections have ended.
    fn dismiss(&mut self, stay: &[Option<u16>]) -> Vec<(SocketAddr, u64)> {
        let mut left = Vec::new();
        for slot in self.order.clone() {
            let Some(member) = self.get_mut(slot).filter(|_| !stay.contains(&Some(slot))) else { continue };
            if !std::mem::replace(&mut member.leaving, true) {
                left.push((member.address, member.open));
            }
            if member.load() == 0 {
                self.vacate(slot);
            }
        }
        left
    }

    /// A slot that nobody has; `None`: there are no more numbers.
    pub(super) fn vacant(&mut self) -> Option<u16> {
        let free = self.slots.iter().position(Option::is_none).unwrap_or(self.slots.len());
        let slot = u16::try_from(free).ok().filter(|&slot| slot != NOWHERE)?;
        if free == self.slots.len() {
            self.slots.push(None);
        }
        Some(slot)
    }
}

/// Each address of each backend. A backend that is listed twice is two members; an address that a name has twice is one.
fn wanted<'a>(balancer: &'a Balancer, hosts: &Hosts) -> Vec<(SocketAddr, &'a Backend)> {
    let mut all = Vec::new();
    for backend in &balancer.backends {
        match &backend.target {
            Target::Address(address) => all.push((*address, backend)),
            Target::Name { host, port } => {
                let mut ips = hosts.get(host).cloned().unwrap_or_default();
                ips.sort_unstable(); // name servers turn their answers round
                ips.dedup();
                all.extend(ips.into_iter().map(|ip| (SocketAddr::new(ip, *port), backend)));
            }
        }
    }
    all
}
