//! The network: what becomes of a frame under the faults that are active. Frames, not streams: each may be lost, delayed,
//! repeated and overtaken on its own, which is harsher than TCP.

use super::clock::{MS, SEC, Time, US};
use super::hub::{Hub, What};
use kube_vip::cluster::Label;
use std::collections::BTreeMap;
use std::rc::Rc;

/// What travels.
#[derive(Clone, Debug)]
pub struct Packet {
    pub from: usize,
    pub to: usize,
    pub content: Content,
}

/// What it is. A line is one connection of a caller; requests and responses of another line are nobody's.
#[derive(Clone, Debug)]
pub enum Content {
    /// The caller asks for a connection.
    Hello { line: u64, run: u64, bytes: Rc<[u8]> },
    /// The answer: of which run of the daemon, and what it said.
    Answer { line: u64, run: u64, bytes: Rc<[u8]> },
    /// For this run of the called daemon.
    Request { line: u64, run: u64, bytes: Rc<[u8]> },
    /// For the caller of this line.
    Response { line: u64, bytes: Rc<[u8]> },
    /// The other end of this line is gone.
    Reset { line: u64 },
    /// A datagram to the raft port: a proof of release.
    Notice { bytes: Rc<[u8]> },
    /// An announcement or answer: its sender says that it has the VIP.
    Claim,
    /// Who has the VIP?
    Probe,
}

/// What can be wrong with the network.
#[derive(Clone, Debug)]
pub enum Trouble {
    /// From one node to another nothing arrives.
    Cut { from: usize, to: usize },
    /// Between nodes whose sides differ nothing arrives.
    Partition { sides: Vec<bool> },
    /// Nothing from or to this node arrives.
    Alone { node: usize },
    /// A part of all frames is lost.
    Loss { part: f64 },
    /// Frames of (from, or all) take up to this long.
    Delay { from: Option<usize>, upto: Time },
    /// A part of all frames comes twice or more.
    Repeat { part: f64 },
    /// Vote requests that say that a leader sent them come late, and again.
    LateVotes { part: f64, upto: Time },
    /// Proofs of release come late, and again.
    LateNotices { part: f64, upto: Time },
    /// What this node asks the others arrives after this instant.
    HeldBack { from: usize, what: Asked, until: Time },
}

/// Requests of one kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// For a vote, because a leader told the candidate to stand.
    ToldVote,
    /// To append entries; not heartbeats.
    Entries,
}

impl Asked {
    fn is(self, packet: &Packet) -> bool {
        let Content::Request { bytes, .. } = &packet.content else { return false };
        let label = || Label::of(bytes);
        match self {
            Self::ToldVote => label().is_some_and(|label| label.told),
            Self::Entries => label().is_some_and(|label| label.entries),
        }
    }
}

/// The network between all nodes.
pub struct Net {
    hub: Rc<Hub>,
    troubles: BTreeMap<u64, Trouble>,
    /// Frames by fate.
    pub sent: u64,
    pub lost: u64,
    pub repeated: u64,
    pub delayed: u64,
}

impl Net {
    pub fn new(hub: Rc<Hub>) -> Self {
        Self { hub, troubles: BTreeMap::new(), sent: 0, lost: 0, repeated: 0, delayed: 0 }
    }

    pub fn begin(&mut self, id: u64, trouble: Trouble) {
        self.troubles.insert(id, trouble);
    }

    pub fn end(&mut self, id: u64) {
        self.troubles.remove(&id);
    }

    /// Whether frames from one node reach the other at all.
    pub fn reaches(&self, from: usize, to: usize) -> bool {
        !self.troubles.values().any(|t| match t {
            Trouble::Cut { from: f, to: t } => (*f, *t) == (from, to),
            Trouble::Partition { sides } => sides[from] != sides[to],
            Trouble::Alone { node } => *node == from || *node == to,
            _ => false,
        })
    }

    /// Sends it into what there is of a network.
    pub fn send(&mut self, packet: Packet) {
        self.sent += 1;
        for (delay, copy) in self.fates(&packet).into_iter().zip(0u64..) {
            self.repeated += u64::from(copy > 0);
            self.hub.after(delay, What::Arrive(packet.clone()));
        }
    }

    /// When the copies of it arrive; none: it is lost.
    fn fates(&mut self, packet: &Packet) -> Vec<Time> {
        let mut rng = self.hub.rng();
        let usual = rng.spread(50 * US, 400 * US) + if rng.chance(0.01) { rng.within(0, 3 * MS) } else { 0 };
        if self.troubles.is_empty() {
            return vec![usual];
        }
        if !self.reaches(packet.from, packet.to) {
            self.lost += 1;
            return Vec::new();
        }
        let mut fates = vec![usual];
        let (told, notice) = (Asked::ToldVote.is(packet), matches!(packet.content, Content::Notice { .. }));
        for trouble in self.troubles.values() {
            match trouble {
                Trouble::Loss { part } if rng.chance(*part) => {
                    self.lost += 1;
                    return Vec::new();
                }
                Trouble::Delay { from, upto } if from.is_none_or(|f| f == packet.from) => {
                    fates[0] += rng.within(0, *upto);
                    self.delayed += 1;
                }
                Trouble::Repeat { part } if rng.chance(*part) => {
                    let late = rng.spread(100 * US, 500 * MS);
                    fates.push(usual + late);
                }
                Trouble::LateVotes { part, upto } if told && rng.chance(*part) => late(&mut rng, &mut fates, *upto),
                Trouble::LateNotices { part, upto } if notice && rng.chance(*part) => late(&mut rng, &mut fates, *upto),
                Trouble::HeldBack { from, what, until } if *from == packet.from && what.is(packet) => {
                    fates[0] += until.saturating_sub(self.hub.now());
                    self.delayed += 1;
                }
                _ => {}
            }
        }
        fates
    }
}

/// Held back, or repeated much later.
fn late(rng: &mut super::rng::Rng, fates: &mut Vec<Time>, upto: Time) {
    let late = rng.spread(10 * MS, upto.max(SEC));
    if rng.chance(0.5) {
        fates[0] += late;
    } else {
        fates.push(fates[0] + late);
    }
}
