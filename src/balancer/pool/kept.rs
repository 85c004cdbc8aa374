//! What is known of a pool's members, as one program hands it to the next.

use super::member::Standing;
use super::{Member, NOWHERE, Pool};
use crate::config::Backend;
use crate::sys::clock::Instant;
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;

/// One member.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptMember {
    address: SocketAddr,
    /// 0 enabled, 1 draining, 2 in maintenance.
    standing: u8,
    /// Why checks say that it does not work.
    failing: Option<String>,
    /// The ordered weight, and the configured one over which it was ordered.
    ordered: Option<(u16, u16)>,
    connected: u64,
    failed: u64,
}

impl Pool {
    /// For the next program.
    pub fn keep(&self) -> Vec<KeptMember> {
        let one = |m: &Member| KeptMember {
            address: m.address,
            standing: match m.standing {
                Standing::Enabled => 0,
                Standing::Draining => 1,
                Standing::Maintenance => 2,
            },
            failing: m.failing.then(|| m.why.clone().unwrap_or_default()),
            ordered: m.ordered(),
            connected: m.connected,
            failed: m.failed,
        };
        self.members().map(one).collect()
    }

    /// Knows again what the program before did of those that are still configured. A weight that the configuration changed since wins.
    pub fn go_on_from(&mut self, kept: &[KeptMember], checked: bool, now: Instant) {
        for member in self.slots.iter_mut().flatten() {
            let Some(kept) = kept.iter().find(|k| k.address == member.address) else { continue };
            member.standing = match kept.standing {
                1 => Standing::Draining,
                2 => Standing::Maintenance,
                _ => Standing::Enabled,
            };
            if let Some(why) = kept.failing.as_ref().filter(|_| checked) {
                (member.failing, member.why) = (true, Some(why.clone()));
            }
            if let Some((weight, _)) = kept.ordered.filter(|(_, over)| *over == member.configured()) {
                member.order_weight(weight);
            }
            member.told = member.state();
            (member.connected, member.failed) = (kept.connected, kept.failed);
        }
        self.refresh(now);
    }

    /// A connection that is open on this address gets its place there again: on a member that leaves, where none is configured any more.
    pub fn adopt(&mut self, address: SocketAddr) -> u16 {
        let known = (0..self.slots.len()).find(|&i| self.slots[i].as_ref().is_some_and(|m| m.address == address));
        let slot = known.map(|i| i as u16).or_else(|| self.add_leaving(address)).unwrap_or(NOWHERE);
        if let Some(member) = self.get_mut(slot) {
            member.open += 1;
        }
        slot
    }

    fn add_leaving(&mut self, address: SocketAddr) -> Option<u16> {
        let slot = self.vacant()?;
        let mut member = Member::new(address, &Backend::from(address));
        member.leaving = true;
        self.slots[usize::from(slot)] = Some(member);
        self.order.push(slot);
        Some(slot)
    }
}
