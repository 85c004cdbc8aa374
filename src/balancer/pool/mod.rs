//! Which backend gets a connection. Pure: no clock, no descriptor, no randomness of its own; what is known comes in as facts.
//!
//! ```text
//!   configuration, names ─▶ merge.rs ─┐                    ┌─▶ choose: a place is taken (connecting)
//!   checks, orders ─▶ facts.rs ───────┼─▶ members in slots ┼─▶ connected / failed / release: what became of it
//!                                     └─▶ tiers (refresh)  └─▶ state of each, for log and status
//! ```
//!
//! A connection asks [`Pool::choose`] until a connect succeeds, or until nobody is left. A member keeps its slot for as long as
//! anything is open on it, also when it is no longer configured; so a connection needs to know no more than a number.
//! Members of two tiers: `backup` ones take part only while no other could take a connection.

mod facts;
mod hash;
mod kept;
mod member;
mod merge;
mod policy;
#[cfg(test)]
mod tests;
mod tried;
#[cfg(test)]
mod walk;

pub use facts::{Change, Order};
pub use hash::Random;
pub use kept::KeptMember;
pub use member::{Member, State};
pub use merge::{Hosts, Merged};
pub use tried::Tried;

use super::client::Client;
use crate::config::{Balance, Target};
use crate::sys::clock::Instant;
use member::Ordered;
use policy::{Candidate, Shares, prefer};
use std::time::Duration;

/// The number of no slot.
pub const NOWHERE: u16 = u16::MAX;

/// What a choice depends on beside the members.
#[derive(Debug)]
pub struct Ask<'a> {
    pub now: Instant,
    pub client: &'a Client,
    /// The members that this connection has tried; the one chosen is noted.
    pub tried: &'a mut Tried,
    pub random: &'a mut Random,
}

/// Where a connection is to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// To the member in this slot, where a place is now taken.
    Member(u16),
    /// All that could serve it are at their `maxConnections`.
    Full,
    /// All were tried, or none takes connections.
    Nobody,
}

/// Members that may get connections, by slot, in the order of the configuration.
#[derive(Debug, Default)]
struct Tier {
    ring: Vec<u16>,
    /// Where the next choice begins.
    next: usize,
    /// Their shares are equal.
    equal: bool,
}

/// The members of one balancer.
#[derive(Debug, Default)]
pub struct Pool {
    slots: Vec<Option<Member>>,
    /// Slots in the order of the configuration, those of leaving members last.
    order: Vec<u16>,
    /// The usual ones, and the backups.
    tiers: [Tier; 2],
    /// What was ordered for all members of a host name, and so for those that its next addresses become.
    orders: Vec<(Target, Ordered)>,
    balance: Balance,
    slow_start: Duration,
    /// Checks find out who doesn't work.
    checked: bool,
    /// Room for a choice to list candidates in.
    candidates: Vec<Candidate>,
    /// When the last member has its whole share again; `None`: all have.
    whole_at: Option<Instant>,
}

impl Pool {
    /// The member to connect to next. Those whose connects failed a moment ago come last; where checks find out who doesn't work, they
    /// still come before the backups, so that one lost connect doesn't send everybody there.
    pub fn choose(&mut self, ask: &mut Ask<'_>) -> Choice {
        if self.whole_at.is_some_and(|at| ask.now >= at) {
            self.refresh(ask.now);
        }
        let ways = match self.checked {
            true => [(0, false), (0, true), (1, false), (1, true)],
            false => [(0, false), (1, false), (0, true), (1, true)],
        };
        let found =
            ways.into_iter().map(|(tier, resting)| self.choose_among(tier, resting, ask)).find(|c| *c != Choice::Nobody);
        let choice = found.unwrap_or(Choice::Nobody);
        if let Choice::Member(slot) = choice {
            ask.tried.add(usize::from(slot));
            if let Some(member) = self.get_mut(slot) {
                member.taken(ask.now);
            }
        }
        choice
    }

    /// Among the members of one tier, those that rest or those that don't.
    fn choose_among(&mut self, tier: usize, resting: bool, ask: &mut Ask<'_>) -> Choice {
        let Self { slots, tiers, balance, slow_start, candidates, .. } = self;
        let Tier { ring, next, equal } = &mut tiers[tier];
        let (n, start, tried, now) = (ring.len(), *next, *ask.tried, ask.now);
        let fits = |m: &&Member, slot: usize| !tried.has(slot) && m.rests(now) == resting;
        let shares = Shares { now, slow_start: *slow_start, equal: *equal };
        let candidate = |k: usize| {
            let place = if start + k < n { start + k } else { start + k - n };
            let slot = usize::from(ring[place]);
            let member = slots[slot].as_ref().filter(|m| fits(m, slot) && !m.full())?;
            Some(Candidate { place, slot, share: shares.of(member) })
        };
        let found = if *equal && *balance == Balance::RoundRobin {
            (0..n).find_map(candidate) // the usual case: nobody else is looked at
        } else {
            candidates.clear();
            candidates.extend((0..n).filter_map(candidate));
            prefer(*balance, slots, candidates, *equal, ask.client, ask.random)
        };
        let Some(found) = found else {
            let could = |slot: usize| slots[slot].as_ref().filter(|m| fits(m, slot)).is_some();
            let full = ring.iter().any(|&slot| could(usize::from(slot)));
            return if full { Choice::Full } else { Choice::Nobody };
        };
        if tried.is_empty() {
            *next = if found.place + 1 < n { found.place + 1 } else { 0 };
        }
        Choice::Member(found.slot as u16)
    }

    /// The connect to the member in `slot` succeeded: its place is one of an open connection now.
    pub fn connected(&mut self, slot: u16) {
        if let Some(member) = self.get_mut(slot) {
            member.connecting -= 1;
            member.open += 1;
            member.connected += 1;
        }
    }

    /// A connection to the member in `slot` has moved bytes, or was not broken for long enough: it is reached.
    pub fn proved(&mut self, slot: u16, now: Instant) -> Option<Change> {
        let unchecked = !self.slow_start.is_zero() && !self.checked; // else checks say when it comes back
        let member = self.get_mut(slot)?;
        let since = member.reached()?;
        let rise = unchecked && now.since(since) >= member::AWAY;
        if rise {
            member.came_back(now);
        }
        if !member.failing {
            member.why = None;
        }
        if rise {
            self.refresh(now);
        }
        self.change(slot)
    }

    /// The connect to the member in `slot` failed, for the reason that `why` tells: its place is free. What is returned is bounded:
    /// one that fails and works by turns is told of now and then.
    pub fn failed(&mut self, slot: u16, now: Instant, why: impl FnOnce() -> String) -> Option<Change> {
        let member = self.get_mut(slot)?;
        let news = member.missed(now);
        if news && !member.failing {
            member.why = Some(why());
        }
        let tell = !member.leaving && member.state() == State::Down && member.may_tell_down(now);
        self.release(slot, true);
        if tell { self.change(slot) } else { None }
    }

    /// A connection to the member in `slot` turns out not to have been made: it is one that connects again.
    pub fn taken_back(&mut self, slot: u16) {
        if let Some(member) = self.get_mut(slot) {
            (member.open, member.connecting) = (member.open - 1, member.connecting + 1);
        }
    }

    /// A connection to the member in `slot` has ended, or its connect (`connecting`) without any result: its place is free.
    pub fn release(&mut self, slot: u16, connecting: bool) {
        let Some(member) = self.get_mut(slot) else { return };
        match connecting {
            true => member.connecting -= 1,
            false => member.open -= 1,
        }
        if member.leaving && member.load() == 0 {
            self.vacate(slot);
        }
    }

    /// The member in `slot`.
    pub fn get(&self, slot: u16) -> Option<&Member> {
        self.slots.get(usize::from(slot))?.as_ref()
    }

    fn get_mut(&mut self, slot: u16) -> Option<&mut Member> {
        self.slots.get_mut(usize::from(slot))?.as_mut()
    }

    /// All members in the order of the configuration, then those that leave.
    pub fn members(&self) -> impl Iterator<Item = &Member> {
        self.order.iter().filter_map(|&slot| self.get(slot))
    }

    fn vacate(&mut self, slot: u16) {
        self.slots[usize::from(slot)] = None;
        self.order.retain(|&s| s != slot);
    }

    /// Puts those that may get connections into their tiers, after anything but a connect has changed a member.
    fn refresh(&mut self, now: Instant) {
        self.whole_at = None;
        for member in self.slots.iter_mut().flatten() {
            self.whole_at = self.whole_at.max(member.grow(now, self.slow_start));
        }
        for (i, tier) in self.tiers.iter_mut().enumerate() {
            let takes = |slot: &u16| {
                let member = self.slots[usize::from(*slot)].as_ref();
                member.is_some_and(|m| m.takes() && usize::from(m.backup) == i)
            };
            tier.ring.clear();
            tier.ring.extend(self.order.iter().filter(|slot| takes(slot)));
            if tier.next >= tier.ring.len() {
                tier.next = 0;
            }
            let share = |slot: &u16| self.slots[usize::from(*slot)].as_ref().map(|m| m.share(now, self.slow_start));
            tier.equal = self.whole_at.is_none() && tier.ring.windows(2).all(|w| share(&w[0]) == share(&w[1]));
        }
    }
}
