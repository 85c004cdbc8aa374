//! The rules, checked after every step from outside: by what the kernels answer, by the orders that leave the daemons, and by
//! the acknowledgements that reached them.

use super::clock::{MS, SEC, Time};
use super::host::Host;
use super::setup::Setup;
use kube_vip::cluster::Label;
use kube_vip::sys::clock::Instant;
use kube_vip::vip::{Order, Report, VoteKey};
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

/// The lifetime that the keeper gives the address, and what the kernel may add.
const LIFETIME: Time = 3500 * MS;
/// A keeper that goes on after a pause, or gets its answer after a stall, has this long to remove the address.
const REMOVAL: Time = 20 * MS;
/// Requests that are remembered for their answers.
const ASKED: usize = 2048;

/// A broken rule, in words.
pub type Violation = String;

/// The checks and what they remember.
pub struct Check {
    hold: Duration,
    majority: usize,
    fence_fast: bool,
    pub violation: Option<Violation>,
    /// Something changed that an answer depends on.
    pub dirty: bool,
    overlaps: bool,
    asked: BTreeMap<(u64, u64), Asked>,
    /// Oldest first.
    order: VecDeque<(u64, u64)>,
    /// By each node, of each peer: the newest acknowledged vote, when it was sent by the node's clock, and truly.
    acked: Vec<BTreeMap<usize, (VoteKey, Instant, Time)>>,
    /// Until when each node was last ordered to hold (true time).
    until: Vec<Time>,
    holds: BTreeMap<(u64, u64), Hold>,
    /// The newest vote whose end this node's keeper reported.
    gone: Vec<Option<VoteKey>>,
    last_ok: Time,
    last_step: Time,
    /// The longest that an old answer stayed beside a new one, where the rules allow it, and how long in all.
    pub excused: Time,
    pub excused_sum: Time,
    excused_since: Option<Time>,
    /// The longest time until a healthy majority had a holder again.
    pub slowest: Time,
    waiting: bool,
    /// Gains of the VIP, for the counts.
    pub gains: u64,
}

struct Asked {
    from: usize,
    to: usize,
    vote: VoteKey,
    sent: Instant,
    truly: Time,
}

struct Hold {
    node: usize,
    run: u64,
    until: Time,
    ended: bool,
}

impl Check {
    pub fn new(setup: &Setup) -> Self {
        Self {
            hold: setup.hold(),
            majority: setup.nodes / 2 + 1,
            fence_fast: setup.keys.contains("fence: fast"),
            violation: None,
            dirty: false,
            overlaps: false,
            asked: BTreeMap::new(),
            order: VecDeque::new(),
            acked: vec![BTreeMap::new(); setup.nodes],
            until: vec![0; setup.nodes],
            holds: BTreeMap::new(),
            gone: vec![None; setup.nodes],
            last_ok: 0,
            last_step: 0,
            excused: 0,
            excused_sum: 0,
            excused_since: None,
            slowest: 0,
            waiting: false,
            gains: 0,
        }
    }

    pub fn fail(&mut self, why: Violation) {
        self.violation.get_or_insert(why);
    }

    /// Another run of this node's unit.
    pub fn starts(&mut self, node: usize) {
        self.acked[node].clear();
        self.gone[node] = None;
    }

    /// The node's clock starts anew.
    pub fn boots(&mut self, node: usize) {
        self.acked[node].clear();
    }

    /// At most one node answers.
    pub fn answers(&mut self, now: Time, hosts: &[Host]) {
        if !std::mem::take(&mut self.dirty) && !self.overlaps {
            return;
        }
        let answering: Vec<&Host> = hosts.iter().filter(|h| h.answers()).collect();
        self.overlaps = answering.len() > 1;
        if !self.overlaps {
            if let Some(since) = self.excused_since.take() {
                self.excused = self.excused.max(now - since);
                self.excused_sum += now - since;
            }
            return;
        }
        let entitled = answering.iter().filter(|h| !self.is_excused(now, h)).count();
        if entitled > 1 || answering.iter().any(|h| h.kernel.is_fenced() && now > self.until[h.index] + 5 * MS) {
            let who: Vec<String> = answering
                .iter()
                .map(|h| format!("node{} (its hold {})", h.index + 1, when(self.until[h.index], now)))
                .collect();
            self.fail(format!("{} nodes answer for the VIP: {}", answering.len(), who.join(", ")));
        }
        self.excused_since.get_or_insert(now);
    }

    /// Whether an answer without a running hold is what the rules allow: there is no fence, and either peers don't wait for that
    /// (`fence: fast`) while the keeper can't act, or a driver kept the kernel from ending it; and the lifetime has not ended yet.
    fn is_excused(&self, now: Time, host: &Host) -> bool {
        let until = self.until[host.index];
        let stall = host.kernel.stalled_until();
        let stalled = stall > until && now <= stall + REMOVAL;
        let unable = host.keeper.as_ref().is_none_or(|k| k.paused || now <= k.awake_since + REMOVAL);
        let held_up = stalled || (self.fence_fast && unable);
        let bound = until.max(stall) + host.clock.span(2 * SEC).max(2 * SEC) + LIFETIME - 2 * SEC;
        now > until && held_up && now <= bound && !host.kernel.is_fenced()
    }

    /// A request left.
    pub fn asked(&mut self, (from, to): (usize, usize), line: u64, frame: &[u8], sent: Instant, truly: Time) {
        let Some(label) = Label::of(frame).filter(|l| matches!(l.what, "append" | "snapshot")) else { return };
        let Some(vote) = label.vote.map(|v| v.key()) else { return };
        self.asked.insert((line, label.id), Asked { from, to, vote, sent, truly });
        self.order.push_back((line, label.id));
        if self.order.len() > ASKED
            && let Some(oldest) = self.order.pop_front()
        {
            self.asked.remove(&oldest);
        }
    }

    /// A response arrived.
    pub fn answered(&mut self, _now: Time, from: usize, to: usize, line: u64, frame: &[u8]) {
        let Some(label) = Label::of(frame).filter(|l| matches!(l.what, "append ok" | "snapshot ok")) else { return };
        let Some(asked) = self.asked.get(&(line, label.id)).filter(|a| (a.from, a.to) == (to, from)) else { return };
        if label.vote.is_some_and(|vote| vote.key() != asked.vote) {
            return; // a snapshot refused for a higher vote
        }
        let ack = (asked.vote, asked.sent, asked.truly);
        let newest = self.acked[to].entry(from).or_insert(ack);
        if ack.2 >= newest.2 {
            *newest = ack; // a late answer may be for an earlier run, with another clock
        }
    }

    /// An order left the daemon.
    pub fn ordered(&mut self, now: Time, node: usize, order: &Order, hosts: &[Host]) {
        match *order {
            Order::Hold { vote, until } => self.holds(now, &hosts[node], vote, until),
            Order::LetGo { vote } => {
                if let Some(hold) = self.holds.get_mut(&(vote.term, vote.node)) {
                    hold.ended = true;
                }
            }
            Order::Probe | Order::Drain { .. } => {}
        }
    }

    fn holds(&mut self, now: Time, host: &Host, vote: VoteKey, until: Instant) {
        let (node, clock) = (host.index, host.clock);
        if let Some(why) = self.without_majority(clock.show(now), node, vote, until) {
            self.fail(format!("node{} holds without a majority under term {}: {why}", node + 1, vote.term));
        }
        if host.other_timing {
            self.fail(format!("node{} holds with a lease that no other node has", node + 1));
        }
        let run = host.daemon.as_ref().map_or(0, |d| d.run);
        let until = clock.when(until);
        let mut why = None;
        let hold = self.holds.entry((vote.term, vote.node)).or_insert_with(|| Hold { node, run, until, ended: false });
        if (hold.node, hold.run) != (node, run) {
            why = Some(format!("two runs of node{} hold under term {}", node + 1, vote.term));
        } else if hold.ended || (now > hold.until && host.daemon_awake <= hold.until) {
            // A daemon that was stopped between deciding and sending sends late; its keeper refuses.
            why = Some(format!("node{} holds again under term {}, which is spent", node + 1, vote.term));
        }
        hold.until = hold.until.max(until);
        self.until[node] = until;
        self.dirty = true;
        if self.holds.len() > 256 {
            self.holds.pop_first();
        }
        if let Some(why) = why {
            self.fail(why);
        }
    }

    /// The hold reaches no further than the acknowledgements that arrived allow.
    fn without_majority(&self, now: Instant, node: usize, vote: VoteKey, until: Instant) -> Option<String> {
        let acks = self.acked[node].values().filter(|(v, ..)| *v == vote).map(|(_, sent, _)| *sent);
        let mut times: Vec<Instant> = acks.chain([now]).collect();
        times.sort_unstable_by(|a, b| b.cmp(a));
        match times.get(self.majority - 1) {
            None => Some(format!("{} of {} acknowledged", times.len(), self.majority)),
            Some(sent) if until > *sent + self.hold => Some(format!(
                "until {:.3} ms after what the newest acknowledged heartbeat of a majority allows",
                (until - (*sent + self.hold)).as_secs_f64() * 1e3
            )),
            Some(_) => None,
        }
    }

    /// What a keeper reports.
    pub fn reported(&mut self, _now: Time, node: usize, report: &Report) {
        match report {
            Report::Gone { vote, .. } if self.gone[node].is_none_or(|g| g.term <= vote.term) => self.gone[node] = Some(*vote),
            Report::Held { vote, .. } => {
                self.gains += 1;
                if self.gone[node].is_some_and(|g| vote.term <= g.term) {
                    self.fail(format!("node{}: its keeper holds under term {}, which is spent", node + 1, vote.term));
                }
            }
            _ => {}
        }
    }

    /// The newest vote under which this node was ordered to hold.
    pub fn newest_vote(&self, node: usize) -> Option<VoteKey> {
        let newest = self.holds.iter().rev().find(|(_, hold)| hold.node == node)?.0;
        Some(VoteKey { term: newest.0, node: newest.1 })
    }

    /// A keeper gave away the secret of a vote.
    pub fn proven(&mut self, node: usize, vote: VoteKey, answers: bool) {
        // The proof for an earlier vote is repeated while a later one holds.
        if answers && self.newest_vote(node) == Some(vote) {
            self.fail(format!("node{} proves that its hold under term {} has ended, and answers", node + 1, vote.term));
        }
    }

    /// Calm begins.
    pub fn calm(&mut self, now: Time) {
        self.last_ok = now;
        self.waiting = true;
    }

    /// A connected majority with a fit node has a holder again within the bound.
    pub fn recovers(&mut self, now: Time, since: Time, setup: &Setup, hosts: &[Host], healthy: &[bool]) {
        if hosts.iter().any(Host::answers) {
            self.last_ok = now;
            if std::mem::take(&mut self.waiting) {
                self.slowest = self.slowest.max(now - since);
            }
        } else if now > self.last_ok.max(since) + setup.recovery() {
            let names: Vec<String> =
                hosts.iter().filter(|h| healthy[h.index]).map(|h| format!("node{}", h.index + 1)).collect();
            self.fail(format!(
                "no holder for {:.1} s, although nothing is wrong with {}",
                (now - self.last_ok.max(since)) as f64 / SEC as f64,
                names.join(", ")
            ));
        }
        self.last_step = now;
    }
}

fn when(until: Time, now: Time) -> String {
    let (ms, way) = if until > now { (until - now, "ends in") } else { (now - until, "ended before") };
    format!("{way} {:.3} ms", ms as f64 / MS as f64)
}

/// A report's name and term, for the record.
pub fn name(report: &Report) -> (&'static str, u64) {
    match report {
        Report::Held { vote, .. } => ("keeper holds", vote.term),
        Report::Gone { vote, .. } => ("keeper saw it gone", vote.term),
        Report::Refused { vote, .. } => ("keeper refuses", vote.term),
        Report::Restored { .. } => ("keeper restored it", 0),
        Report::Link { up } => ("keeper saw the link", u64::from(*up)),
        Report::Fence { errno } => ("keeper tells of the fence", u64::from(errno.unsigned_abs())),
        Report::Claimed { .. } => ("keeper heard a claim", 0),
        Report::Stopping => ("keeper is stopping", 0),
        Report::Trouble { errno, .. } => ("keeper has trouble", u64::from(errno.unsigned_abs())),
    }
}
