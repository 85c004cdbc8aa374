//! Episodes: several faults in the order in which two nodes would hold if one rule did not stand between. Faults by chance alone meet
//! these orders too seldom. Who takes which part, and every span of time, is chance.
//!
//! Each begins with a leader, a *rival* that is to be elected beside it, and the other nodes, the *voters*.

use super::clock::{MS, SEC, Time};
use super::hub::What;
use super::net::{Asked, Trouble};
use super::world::World;

/// Of five nodes the first two after the leader don't hear each other, and the leader's daemon is killed. Its keeper's proof makes both
/// stand at once, in the same term, and both say that they were told to. The rival's requests for votes are held back; the other is elected.
/// Within its lease, and before its first log entry has arrived, the rival's requests reach the voters: its vote is higher, its log as good.
/// (A voter that has the entry refuses by raft's own rule on logs: then a flag that is believed does no harm.)
pub const HELD_BACK: &str = "told votes held back";
/// The rival does not hear the leader and asks for votes in vain. Then the voters restart, while the leader is cut off and may go on until
/// its hold ends: raft's own lease died with the voters' last run.
pub const RESTART: &str = "voters restart beside a rival";
/// The rival does not hear the leader and asks for votes in vain. Then the leader freezes: where it has no fence its address stays there
/// for long after raft's own lease has ended at the voters.
pub const FREEZE: &str = "leader freezes beside a rival";

/// As [`RESTART`], but the voters go on as another program: raft's own lease is lost then too.
pub const UPGRADE: &str = "voters upgraded beside a rival";

/// The lifetime that the keeper gives the address.
const LIFETIME: Time = 3500 * MS;

/// A part of an episode that comes later. It does not come where the faults have ended in the meantime.
#[derive(Clone, Copy, Debug)]
pub enum Deed {
    KillDaemon { node: usize },
    Restart { node: usize },
    Upgrade { node: usize, takes: Time },
    CutOff { node: usize, lasts: Time },
    Freeze { node: usize, lasts: Time },
}

impl World {
    pub fn deed(&mut self, deed: Deed) {
        if self.faults.calm_since.is_some() {
            return;
        }
        match deed {
            Deed::KillDaemon { node } => self.kill_daemon(node),
            Deed::Restart { node } => {
                self.end_keeper_if_any(node);
                self.kill_daemon(node);
            }
            Deed::Upgrade { node, takes } => drop(self.upgrade(node, takes)),
            Deed::CutOff { node, lasts } => self.trouble(Trouble::Alone { node }, lasts),
            Deed::Freeze { node, lasts } => self.stop(node, true, true, lasts),
        }
    }

    /// Begins one; none: not all of its parts can be taken.
    pub fn episode(&mut self, name: &str) -> Option<()> {
        let now = self.hub.now();
        if self.setup.directed && now < self.faults.busy_until {
            return None; // one at a time
        }
        let leader = self.hosts.iter().position(|h| h.answers())?;
        let mut others: Vec<usize> = (0..self.hosts.len()).filter(|n| *n != leader).collect();
        let part = |n: &usize| self.hosts[*n].daemon.as_ref().is_some_and(|d| !d.paused && d.takes_part());
        if !others.iter().chain([&leader]).all(part) {
            return None;
        }
        if name == HELD_BACK {
            let [elected, rival, _, _, ..] = others[..] else { return None };
            self.faults.busy_until = now + self.held_back(leader, elected, rival);
            return Some(());
        }
        let at = self.faults.rng.below(others.len() as u64) as usize;
        let rival = others.remove(at);
        let takes = match name {
            RESTART | UPGRADE => self.restart(leader, rival, &others, name == UPGRADE),
            _ => self.freeze(leader, rival),
        };
        self.faults.busy_until = now + takes;
        Some(())
    }

    /// Of two votes of a term the rival's is the higher by its id.
    fn held_back(&mut self, leader: usize, elected: usize, rival: usize) -> Time {
        let (now, lease) = (self.hub.now(), self.setup.lease());
        // So long until each takes the other for lost.
        let killed = now + (lease * 2).max(1200 * MS) + self.faults.rng.within(lease / 10, lease);
        let shown = killed + self.faults.rng.spread(lease / 50, lease * 7 / 10);
        let end = shown + self.faults.rng.within(lease / 20, lease / 2);
        self.trouble(Trouble::HeldBack { from: rival, what: Asked::ToldVote, until: shown }, shown - now);
        self.trouble(Trouble::HeldBack { from: elected, what: Asked::Entries, until: end }, end - now);
        for (from, to) in [(rival, elected), (elected, rival)] {
            self.trouble(Trouble::Cut { from, to }, end - now);
        }
        self.hub.at(killed, What::Deed(Deed::KillDaemon { node: leader }));
        end - now + lease
    }

    fn restart(&mut self, leader: usize, rival: usize, voters: &[usize], upgrade: bool) -> Time {
        let lease = self.setup.lease();
        let restarts = self.deaf(leader, rival);
        let cut = restarts + self.faults.rng.within(0, 20 * MS);
        self.hub.after(cut, What::Deed(Deed::CutOff { node: leader, lasts: lease * 2 }));
        for node in voters {
            let late = self.faults.rng.within(0, 20 * MS);
            let takes = self.faults.rng.within(MS, 50 * MS);
            let deed = if upgrade { Deed::Upgrade { node: *node, takes } } else { Deed::Restart { node: *node } };
            self.hub.after(restarts + late, What::Deed(deed));
        }
        restarts + lease * 3
    }

    fn freeze(&mut self, leader: usize, rival: usize) -> Time {
        let freezes = self.deaf(leader, rival);
        let lasts = self.faults.rng.within(SEC, 6 * SEC);
        self.hub.after(freezes, What::Deed(Deed::Freeze { node: leader, lasts }));
        freezes + lasts + self.setup.lease()
    }

    /// The rival hears nothing of the leader from now on, until long after it has begun to ask for votes: returns when it asks.
    fn deaf(&mut self, leader: usize, rival: usize) -> Time {
        let lease = self.setup.lease();
        let unfenced = (self.setup.hold().as_nanos() as Time + LIFETIME) * 5 / 4;
        let promise = if self.hosts[leader].kernel.has_fence { lease } else { unfenced.max(lease) };
        let asks = promise * 11 / 10 + self.faults.rng.within(0, lease);
        self.trouble(Trouble::Cut { from: leader, to: rival }, asks + lease * 2 + 4 * SEC);
        asks
    }
}
