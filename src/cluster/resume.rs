//! The same run under another program: what one hands to the next (execve(2) in place), and how that one goes on with it.
//!
//! Between the two nothing of this node runs, so nothing that the rules forbid can happen; the next program then has to be where a
//! process stopped for as long would be. Why that is so, rule by rule:
//!
//! 1. *Hold by quorum time.* [`HoldRule`] goes over as it is, `until` included, which nobody moves on the way: keeper, kernel fence and the
//!    address's lifetime end the hold there, whoever is late. Acknowledgements are counted anew; the next program's leader hears of none but
//!    those of heartbeats that it sent itself, by the same clock (CLOCK_BOOTTIME).
//! 2. *Drop before you vote.* The gate asks the same `HoldRule`. No order to let go may be under way at the change ([`keep`] refuses), so what
//!    the keeper was told last is what the rule says.
//! 3. *One vote, one hold.* The hold under V goes on, or ends by its own deadline and V is spent: both as in one process. raft is restored as
//!    leader only under exactly the V that the disk has as won, that is not spent, and under which the one hold runs, if any; campaign, `spent`
//!    and `late` go over, so that no second one begins. The new leader's first entry under V is in its log already, or never left.
//! 4. *Quiet start.* It is for promises that a restart forgets. None is forgotten here: [`Promise`], what was granted last and what is
//!    recorded go over, an unfinished quiet start goes on to its end. Votes: the lanes are idle and the vote in memory is that on the disk, or
//!    the change is put off; the next program compares it once more with what it reads, and does not go on where it differs.
//! 5. *Leases respected.* openraft's own lease does not go over. Whatever it would refuse, the gate refuses: [`Promise`] counts from the answer
//!    to the leader, so it lasts at least as long; vote and pre-vote ask it, a transfer needs the leader's proof, the own campaign waits for it
//!    in the driver. After a grant openraft keeps a lease for the candidate; no hold is built on that (a leader's own acknowledgements start
//!    with its first AppendEntries), but the quiet start is prolonged by it all the same.
//! 6. *Fences, proofs.* The key is the same, so the hash of V's secret is, and a proof that the keeper gives later fits. What was proven to
//!    this node is in `Promise`.
//! 7. *Only ours* is the keeper's, which sees nothing of all this.
//! 8. *Who may speak.* The same incarnation from the same address: to its peers this is the same run that connects again.
//! 9. *Nobody sits on the leadership.* Why this node could not hold goes over with the holder's part. A transfer under way is refused here.
//!
//! What is lost is what never left: requests under way, unanswered; half-read frames. Peers take that for a connection that broke.

use super::record::Record;
use super::rules::hold::HoldRule;
use super::rules::promise::Promise;
use super::shared::Shared;
use super::types::{RaftMetrics, ServerState, Vote};
use super::vote::VoteId;
use super::{disk, runtime};
use crate::sys::clock::Instant;
use openraft::async_runtime::watch::WatchReceiver;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// raft is to be leader again within this time; it takes one turn of its core.
const RESTORED: Duration = Duration::from_millis(100);

/// What goes over. Instants are CLOCK_BOOTTIME, the same for both programs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    pub(super) hold: HoldRule,
    pub(super) promise: Promise,
    pub(super) quiet_until: Instant,
    pub(super) stood: Option<Instant>,
    pub(super) granted: Option<Instant>,
    pub(super) campaign: Option<(VoteId, Instant)>,
    pub(super) incarnation: u64,
    pub(super) reaches: bool,
    /// The vote on the disk.
    vote: Option<Vote>,
    /// How long the next run stays quiet, as it is on the disk.
    recorded: Duration,
    /// Entries of the log may not be on the device yet.
    unsynced: bool,
    /// This node leads under its vote.
    leads: Option<VoteId>,
}

/// What goes over at this instant, or why it can't be now.
pub fn keep(shared: &Shared) -> Result<Kept, &'static str> {
    let metrics = shared.raft().metrics();
    let m = metrics.borrow_watched().clone();
    let settled = shared.record().ok_or("it has only just started")?.settled()?;
    let saved = settled.vote.as_ref();
    if m.vote.leader_id.term > 0 && saved.map(|vote| &vote.leader_id) != Some(&m.vote.leader_id) {
        return Err("a vote is being saved");
    }
    if shared.is_stopping() || shared.is_moving() {
        return Err("it is handing over");
    }
    let leads = leads(shared, &m)?;
    if leads.is_some() && saved.is_none_or(|vote| !vote.committed) {
        return Err("it has only just been elected");
    }
    Ok(Kept {
        hold: shared.hold.borrow().clone(),
        promise: shared.promise.borrow().clone(),
        quiet_until: shared.quiet_until,
        stood: shared.last_stood(),
        granted: shared.last_granted(),
        campaign: shared.last_campaign(),
        incarnation: shared.hello.incarnation,
        reaches: shared.reaches(),
        vote: settled.vote,
        recorded: settled.recorded,
        unsynced: settled.unsynced,
        leads,
    })
}

/// The vote under which this node leads, if it does; neither while a hold ends, nor while it and raft disagree.
fn leads(shared: &Shared, m: &RaftMetrics) -> Result<Option<VoteId>, &'static str> {
    let hold = shared.hold.borrow();
    let leads = (m.state == ServerState::Leader).then(|| VoteId::of(&m.vote));
    if hold.is_ending() {
        return Err("it is letting the VIP go");
    }
    if leads.as_ref().is_some_and(|vote| !m.vote.committed || !shared.is_me(&vote.node) || hold.is_spent(vote)) {
        return Err("it is about to step down, or has only just been elected");
    }
    if hold.holding().is_some_and(|(vote, _)| leads.as_ref() != Some(vote)) {
        return Err("it is losing the leadership");
    }
    Ok(leads)
}

impl Kept {
    /// The end of the hold that runs.
    pub fn until(&self) -> Option<(VoteId, Instant)> {
        self.hold.holding().map(|(vote, until)| (vote.clone(), until))
    }

    /// Whether this node leads.
    pub fn leads(&self) -> bool {
        self.leads.is_some()
    }

    /// Until when the next program keeps quiet.
    pub(super) fn quiet_until(&self, lease: Duration) -> Instant {
        self.granted.map_or(self.quiet_until, |granted| self.quiet_until.max(granted + lease))
    }

    /// Whether the disk has what the last program left there.
    pub(super) fn check(&self, disk: &disk::Disk) -> Result<(), String> {
        match disk.vote() == self.vote {
            true => Ok(()),
            false => {
                Err("the vote on the disk is not the one that the program before had: this node has to start anew".to_string())
            }
        }
    }

    /// What the next run finds recorded; goes on with what was under way.
    pub(super) fn record(&self, disk: disk::Disk) -> Record {
        if self.unsynced {
            disk.sync_later();
        }
        Record::new(disk, self.recorded)
    }

    /// Waits until raft leads again, where it did.
    pub(super) async fn restored(&self, shared: &Shared) -> Result<(), String> {
        let Some(vote) = &self.leads else { return Ok(()) };
        let mut metrics = shared.raft().metrics();
        let restored = async {
            loop {
                let m = metrics.borrow_watched().clone();
                if m.state == ServerState::Leader && VoteId::of(&m.vote) == *vote {
                    return Ok(());
                }
                if metrics.changed().await.is_err() {
                    return Err("the raft core ended".to_string());
                }
            }
        };
        let late = |_| Err(format!("raft does not lead again under {vote} within {} ms", RESTORED.as_millis()));
        runtime::timeout(RESTORED, restored).await.unwrap_or_else(late)
    }
}
