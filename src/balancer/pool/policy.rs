//! The four ways to choose among members that can take a connection. Each looks at candidates in a ring from where the last
//! choice ended, so that equal ones take turns.

use super::hash;
use super::member::Member;
use crate::balancer::client::Client;
use crate::config::Balance;
use crate::sys::clock::Instant;
use std::time::Duration;

/// A member that can take the connection.
#[derive(Clone, Copy, Debug)]
pub struct Candidate {
    /// Its place in the ring.
    pub place: usize,
    /// Its slot.
    pub slot: usize,
    /// Its part of the connections, at least 1.
    pub share: u64,
}

/// What shares depend on.
#[derive(Clone, Copy, Debug)]
pub struct Shares {
    pub now: Instant,
    pub slow_start: Duration,
    /// All are the same: nobody needs to add them up.
    pub equal: bool,
}

impl Shares {
    pub fn of(&self, member: &Member) -> u64 {
        if self.equal { 1 } else { u64::from(member.share(self.now, self.slow_start)) }
    }
}

/// The candidate that `balance` prefers.
pub fn prefer(
    balance: Balance,
    slots: &mut [Option<Member>],
    candidates: &[Candidate],
    equal: bool,
    client: &Client,
    random: &mut hash::Random,
) -> Option<Candidate> {
    let load = |slots: &[Option<Member>], c: &Candidate| slots[c.slot].as_ref().map_or(0, Member::load);
    let mut all = candidates.iter().copied();
    match balance {
        Balance::RoundRobin if equal => all.next(),
        Balance::RoundRobin => in_turn(slots, candidates),
        Balance::LeastConnections => all.reduce(|best, c| if fewer(&c, &best, |c| load(slots, c)) { c } else { best }),
        Balance::Random2 => {
            let total = all.map(|c| c.share).sum();
            let [a, b] = [random.below(total), random.below(total)].map(|at| drawn(candidates, at));
            let (a, b) = (a?, b?);
            Some(if fewer(&b, &a, |c| load(slots, c)) { b } else { a })
        }
        Balance::SourceHash => {
            let client = hash::of_client(client.bytes());
            let liking = |c: &Candidate| hash::liking(client, slots[c.slot].as_ref().map_or(0, |m| m.hash));
            if equal { all.max_by_key(liking) } else { liked_by_weight(candidates, liking) }
        }
    }
}

/// Smooth weighted round robin: each gains its share, the one that has most pays what all gained. Over as many choices as the
/// shares have in sum (divided by what they have in common) each gets exactly its share, as evenly spread as may be.
fn in_turn(slots: &mut [Option<Member>], candidates: &[Candidate]) -> Option<Candidate> {
    let (mut total, mut best) = (0, None);
    for &c in candidates {
        let Some(m) = slots[c.slot].as_mut() else { continue };
        m.turn += c.share as i64;
        total += c.share as i64;
        if best.is_none_or(|(_, most)| m.turn > most) {
            best = Some((c, m.turn));
        }
    }
    let (c, _) = best?;
    if let Some(m) = slots[c.slot].as_mut() {
        m.turn -= total;
    }
    Some(c)
}

/// Whether `a` would have fewer connections for its share than `b`, with one more.
fn fewer(a: &Candidate, b: &Candidate, load: impl Fn(&Candidate) -> u64) -> bool {
    (load(a) + 1) * b.share < (load(b) + 1) * a.share
}

/// Whose part of the sum of shares `at` falls into.
fn drawn(candidates: &[Candidate], mut at: u64) -> Option<Candidate> {
    let found = candidates.iter().find(|c| match at.checked_sub(c.share) {
        Some(rest) => {
            at = rest;
            false
        }
        None => true,
    });
    found.copied()
}

/// Weighted rendezvous: a member that goes moves its own clients only, and one that weighs more takes from all others evenly.
fn liked_by_weight(candidates: &[Candidate], liking: impl Fn(&Candidate) -> u64) -> Option<Candidate> {
    let valued = candidates.iter().map(|c| (*c, liking(c)));
    let best = valued.map(|(c, liking)| (c, hash::cost(liking), liking)).reduce(|best, other| {
        let (mine, its) = (best.1 * other.0.share, other.1 * best.0.share);
        if (its, best.2) < (mine, other.2) { other } else { best }
    });
    best.map(|b| b.0)
}
