//! Which host names are due, and what an answer changes. Pure.

use crate::sys::clock::Instant;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

/// Look-ups under way at once that are expected to end.
pub(super) const AT_ONCE: usize = 2;
/// The same with those that were given up: a thread can't be ended from outside, so they may run on.
pub(super) const AT_MOST: usize = 6;
/// A look-up that takes longer is given up, and does not keep others waiting. Resolvers end by themselves within about 10 s for each
/// server and search domain.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);
/// After the first failure; doubled after each further one, up to the interval.
const RETRY: Duration = Duration::from_secs(1);
/// Addresses of a name that are used: the first in order.
const MOST: usize = 64;

/// The names that are wanted, and what is known of them.
#[derive(Debug, Default)]
pub(super) struct Names {
    interval: Duration,
    names: BTreeMap<String, Name>,
}

#[derive(Debug)]
struct Name {
    /// Nobody wants it any more, but its look-up still runs.
    gone: bool,
    /// Of the last good answer: sorted, each once. Empty: there was none yet.
    addresses: Vec<IpAddr>,
    due: Instant,
    /// When the look-up that runs was begun.
    asked: Option<Instant>,
    /// In a row.
    failures: u32,
    /// That it fails.
    told: bool,
}

/// What to do now.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Turn {
    /// To be looked up.
    pub(super) ask: Vec<String>,
    /// To be said.
    pub(super) warnings: Vec<String>,
    /// When to ask again, if nothing happens before.
    pub(super) wake: Option<Instant>,
}

/// What an answer has changed.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct News {
    /// The name's addresses from now on, where they are others.
    pub(super) addresses: Option<Vec<IpAddr>>,
    /// For the log.
    pub(super) line: String,
    /// That it failed.
    pub(super) bad: bool,
}

impl Names {
    /// From now on these names are wanted, each looked up every `interval`. New ones are due at once.
    pub(super) fn want(&mut self, hosts: &BTreeSet<String>, interval: Duration, now: Instant) {
        self.interval = interval;
        self.names.retain(|host, name| hosts.contains(host) || name.asked.is_some());
        for (host, name) in &mut self.names {
            name.gone = !hosts.contains(host);
            name.due = name.due.min(now + interval);
        }
        for host in hosts {
            self.names.entry(host.clone()).or_insert_with(|| Name::new(now));
        }
    }

    /// What is known already.
    pub(super) fn known(&self) -> Vec<(String, Vec<IpAddr>)> {
        let known = self.names.iter().filter(|(_, name)| !name.gone && !name.addresses.is_empty());
        known.map(|(host, name)| (host.clone(), name.addresses.clone())).collect()
    }

    /// Begins what is due and has room.
    pub(super) fn turn(&mut self, now: Instant) -> Turn {
        let mut turn = Turn { warnings: self.give_up(now), ..Turn::default() };
        while let Some((host, due)) = self.first().map(|(host, due)| (host.clone(), due)) {
            let (room, freed) = self.room(now);
            if !room || due > now {
                turn.wake = if room { Some(due) } else { freed.map(|freed| freed.max(due)) };
                break;
            }
            if let Some(name) = self.names.get_mut(&host) {
                name.asked = Some(now);
            }
            turn.ask.push(host);
        }
        // Who is given up next is to be told, also where nobody waits for room.
        let late = self.asked().map(|asked| asked + PATIENCE).filter(|at| *at > now).min();
        turn.wake = [turn.wake, late].into_iter().flatten().min();
        turn
    }

    /// The answer to a look-up, with a random number from 0 to 1.
    pub(super) fn answered(
        &mut self,
        host: &str,
        answer: Result<Vec<IpAddr>, String>,
        now: Instant,
        random: f64,
    ) -> Option<News> {
        let name = self.names.get_mut(host)?;
        name.asked = None;
        if name.gone {
            self.names.remove(host);
            return None;
        }
        let good = answer.and_then(|list| if list.is_empty() { Err("it has no address".into()) } else { Ok(list) });
        let pause = match &good {
            Ok(_) => self.interval,
            Err(_) => RETRY.saturating_mul(1 << name.failures.min(16)).min(self.interval),
        };
        name.due = now + pause.mul_f64(0.9 + 0.2 * random);
        match good {
            Ok(addresses) => name.found(host, addresses),
            Err(why) => name.failed(host, &why),
        }
    }

    /// The one that has been due longest, of those that are not being looked up.
    fn first(&self) -> Option<(&String, Instant)> {
        let idle = self.names.iter().filter(|(_, name)| name.asked.is_none());
        idle.map(|(host, name)| (host, name.due)).min_by_key(|(_, due)| *due)
    }

    fn asked(&self) -> impl Iterator<Item = Instant> {
        self.names.values().filter_map(|name| name.asked)
    }

    /// Whether another look-up may begin; otherwise when time alone will make room, if it will.
    fn room(&self, now: Instant) -> (bool, Option<Instant>) {
        let fresh = |asked: &Instant| now.since(*asked) < PATIENCE;
        let all = self.asked().count();
        let room = all < AT_MOST && self.asked().filter(fresh).count() < AT_ONCE;
        let freed = self.asked().filter(fresh).min().filter(|_| all < AT_MOST);
        (room, freed.map(|asked| asked + PATIENCE))
    }

    fn give_up(&mut self, now: Instant) -> Vec<String> {
        let late = |name: &Name| !name.gone && name.asked.is_some_and(|asked| now.since(asked) >= PATIENCE);
        let given_up = self.names.iter_mut().filter(|(_, name)| late(name));
        given_up
            .filter_map(|(host, name)| name.failed(host, &format!("no answer within {PATIENCE:?}")))
            .map(|n| n.line)
            .collect()
    }
}

impl Name {
    const fn new(due: Instant) -> Self {
        Self { gone: false, addresses: Vec::new(), due, asked: None, failures: 0, told: false }
    }

    fn found(&mut self, host: &str, mut addresses: Vec<IpAddr>) -> Option<News> {
        addresses.sort_unstable();
        addresses.dedup();
        addresses.truncate(MOST);
        self.failures = 0;
        let failed = std::mem::replace(&mut self.told, false);
        if addresses == self.addresses {
            let line = format!("{host} is looked up again: {}", list(&addresses));
            return failed.then_some(News { addresses: None, line, bad: false });
        }
        let was = std::mem::replace(&mut self.addresses, addresses.clone());
        let was = if was.is_empty() { String::new() } else { format!(" (was {})", list(&was)) };
        let line = format!("{host}: {}{was}", list(&addresses));
        Some(News { addresses: Some(addresses), line, bad: false })
    }

    fn failed(&mut self, host: &str, why: &str) -> Option<News> {
        self.failures = self.failures.saturating_add(1);
        let stays = match self.addresses.is_empty() {
            true => "it has no backend until then".to_string(),
            false => format!("its last addresses stay: {}", list(&self.addresses)),
        };
        let line = format!("{host} can't be looked up: {why}; tried again, {stays}");
        (!std::mem::replace(&mut self.told, true)).then_some(News { addresses: None, line, bad: true })
    }
}

fn list(addresses: &[IpAddr]) -> String {
    addresses.iter().map(IpAddr::to_string).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests;
