//! What is told about members: by checks, by operators; and what that changes.

use super::Pool;
use super::member::{Member, Ordered, Standing, State};
use crate::config::Target;
use crate::sys::clock::Instant;
use std::net::{IpAddr, SocketAddr};

/// What an operator can order for a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// No new connections; it goes on being checked.
    Drain,
    /// New connections again, after the other two.
    Enable,
    /// No new connections and no checks: maintenance.
    Disable,
    /// Another weight than the configured one, 0–256; until the configured one changes.
    Weight(u16),
}

/// A member is something else now: worth one line in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Which one.
    pub address: SocketAddr,
    /// What it is now.
    pub to: State,
    /// Why it is down, where it is.
    pub why: Option<String>,
    /// How many of its pool are up now.
    pub up: usize,
}

impl Pool {
    /// What the checks of `address` found. Each member with that address changes.
    pub fn health(&mut self, address: SocketAddr, up: bool, why: &str, now: Instant) -> Vec<Change> {
        let about = |m: &Member| m.address == address && m.standing != Standing::Maintenance && !m.leaving && (!up || m.down());
        self.alter(about, now, |m, now| {
            if !up {
                (m.failing, m.why) = (true, Some(why.to_string()));
            } else if m.mend() {
                m.came_back(now);
            } else {
                m.answered(now);
            }
        })
    }

    /// Carries out an operator's order for the members that `target` names. What was said of them, one line each.
    pub fn order(&mut self, target: &str, order: Order, now: Instant) -> (Vec<Change>, Vec<String>) {
        let about = |m: &Member| !m.leaving && names(m, target);
        let changes = self.alter(about, now, |m, now| obey(m, order, now));
        let said = self.members().filter(|m| about(m)).map(said).collect();
        self.remember(about);
        (changes, said)
    }

    /// An order that all members of a name got is one for the name, whatever its addresses will be.
    fn remember(&mut self, about: impl Fn(&Member) -> bool) {
        let named = |m: &&Member| m.host().is_some() && !m.leaving;
        let got: Vec<(Target, Ordered)> =
            self.members().filter(named).filter(|m| about(m)).map(|m| (m.target.clone(), (m.standing, m.ordered()))).collect();
        for (target, ordered) in got {
            if self.members().filter(named).all(|m| m.target != target || about(m)) {
                self.orders.retain(|(of, _)| *of != target);
                self.orders.push((target, ordered));
            }
        }
    }

    fn alter(
        &mut self,
        about: impl Fn(&Member) -> bool,
        now: Instant,
        mut change: impl FnMut(&mut Member, Instant),
    ) -> Vec<Change> {
        let mut altered = Vec::new();
        for (slot, member) in self.slots.iter_mut().enumerate() {
            if let Some(m) = member.as_mut().filter(|m| about(m)) {
                altered.push(slot as u16);
                change(m, now);
            }
        }
        self.refresh(now);
        altered.into_iter().filter_map(|slot| self.change(slot)).collect()
    }

    /// What the log is to be told of the member in `slot`, where it was told something else before.
    pub(super) fn change(&mut self, slot: u16) -> Option<Change> {
        let member = self.get_mut(slot).filter(|m| !m.leaving && m.state() != m.told)?;
        member.told = member.state();
        let member = self.get(slot)?;
        let up = self.members().filter(|m| m.state() == State::Up).count();
        let why = member.why.clone().filter(|_| member.state() == State::Down);
        Some(Change { address: member.address, to: member.state(), why, up })
    }
}

fn obey(m: &mut Member, order: Order, now: Instant) {
    match order {
        Order::Drain => m.standing = Standing::Draining,
        Order::Disable => {
            m.standing = Standing::Maintenance;
            // Nobody looks at it from here on, so what was found is out of date when it comes back.
            m.mend();
            m.forget();
        }
        Order::Enable => {
            if m.standing == Standing::Maintenance {
                m.came_back(now);
            }
            m.standing = Standing::Enabled;
        }
        Order::Weight(weight) => m.order_weight(weight),
    }
}

fn said(m: &Member) -> String {
    let host = m.host().map(|host| format!(" ({host})")).unwrap_or_default();
    let why = m.why.as_ref().map(|why| format!(" ({why})")).unwrap_or_default();
    format!("{}{host} is {}{why}, weight {}, {} connections open", m.address, m.state(), m.weight(), m.open)
}

/// Whether `target` names this member: by address, address and port, host name, or host name and port.
fn names(m: &Member, target: &str) -> bool {
    if let Ok(address) = target.parse::<SocketAddr>() {
        return m.address == address;
    }
    if let Ok(ip) = target.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>() {
        return m.address.ip() == ip;
    }
    let Target::Name { host, port } = &m.target else { return false };
    match target.rsplit_once(':') {
        Some((name, digits)) => host.eq_ignore_ascii_case(name) && digits.parse() == Ok(*port),
        None => host.eq_ignore_ascii_case(target),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Backend;

    #[test]
    fn a_target_is_named_in_four_ways() {
        let address: SocketAddr = "192.0.2.1:80".parse().expect("an address");
        let target = Target::Name { host: "app.example".into(), port: 80 };
        let m = Member::new(address, &Backend { target, ..address.into() });
        for name in ["192.0.2.1:80", "192.0.2.1", "app.example", "APP.example:80"] {
            assert!(names(&m, name), "{name}");
        }
        for name in ["192.0.2.1:81", "192.0.2.2", "app", "app.example:81", "app.example:", ""] {
            assert!(!names(&m, name), "{name}");
        }
        let address: SocketAddr = "[2001:db8::1]:80".parse().expect("an address");
        let m = Member::new(address, &address.into());
        for name in ["[2001:db8::1]:80", "2001:db8::1", "[2001:db8::1]"] {
            assert!(names(&m, name), "{name}");
        }
    }
}
