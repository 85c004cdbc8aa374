//! The state directory: vote and term (on the device before a vote leaves), the log, the snapshot, and what else must outlive
//! the process.
//!
//! | file | holds | written |
//! |---|---|---|
//! | `vote` | the vote, in two slots | in place, then fdatasync |
//! | `log` | entries, as a history | appended; synced for a membership, else a second later |
//! | `snapshot` | last applied entry, membership | anew, then renamed into place |
//! | `meta` | node id, cluster hash, lease | anew, then renamed into place |

mod files;
mod format;
mod lane;
mod log;
mod machine;
mod shared;
mod store;

pub use files::Problem;
pub use machine::{Machine, SnapshotBuilder};
pub use store::LogStore;

use super::types::{NodeId, SnapshotMeta, Vote};
use ::log::warn;
use files::{Directory, lost, read_votes};
use format::{Found, open_file, seal_file};
use log::{Log, Replayed, reconcile, replay, vote_for};
use serde::{Deserialize, Serialize};
use shared::{Shared, Start};
use std::cell::Cell;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

const META: [u8; 4] = *b"KVmt";
const SNAPSHOT: [u8; 4] = *b"KVsn";

/// What the node knows of itself beside raft's state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Meta {
    node: NodeId,
    cluster: Option<u64>,
    lease_ms: Option<u64>,
}

/// The state directory, open and locked. It stays locked until this, every store, machine and task of them is dropped.
pub struct Disk(Rc<Shared>);

impl Disk {
    /// Opens the state directory of `node`, or makes it. Blocks: call it before the executor runs.
    ///
    /// What a crash can leave behind is repaired, with a warning: a torn vote (it never left), a torn end of the log, a snapshot
    /// that can't be read.
    ///
    /// # Errors
    /// Where the directory can't be used, is in use, belongs to another node, or has lost its votes.
    pub fn open(path: &Path, node: &NodeId) -> Result<Self, Problem> {
        let directory = Directory::open(path)?;
        let meta = read_meta(&directory, node)?;
        let votes = open_votes(&directory, meta.is_some())?;
        let meta = match meta {
            Some(meta) => meta,
            None => first_meta(&directory, node)?, // last, so that where it is, a vote file must be
        };
        let snapshot = read_snapshot(&directory)?;
        let (log, good) = read_log(&directory, snapshot.as_ref())?;
        let vote = vote_for(votes.vote.clone(), log.last().as_ref());
        let (vote_file, log_file) = (directory.votes(&votes)?, directory.log(good)?);
        Ok(Self(Shared::new(directory, Start { vote, log, snapshot, meta }, vote_file, log_file)))
    }

    /// For `Raft::new`.
    pub fn log_store(&self) -> LogStore {
        LogStore(self.0.clone())
    }

    /// For `Raft::new`.
    pub fn machine(&self) -> Machine {
        Machine(self.0.clone())
    }

    /// Whether everything could be written; false is status red. Votes go on, from memory.
    pub fn disk_ok(&self) -> bool {
        self.0.ok.get()
    }

    /// The same, to keep and look at.
    pub fn disk_ok_cell(&self) -> Rc<Cell<bool>> {
        self.0.ok.clone()
    }

    /// The vote, where it is on the device and nothing else is being written; else why it can't be said now.
    ///
    /// # Errors
    /// Text for the user.
    pub fn settled(&self) -> Result<Option<Vote>, &'static str> {
        self.0.settled()
    }

    /// Entries of the log wait for their sync.
    pub fn is_unsynced(&self) -> bool {
        self.0.is_unsynced()
    }

    /// Plans the sync that an earlier program of this run had planned.
    pub fn sync_later(&self) {
        self.0.plan_sync();
    }

    /// The vote as it was read.
    pub fn vote(&self) -> Option<Vote> {
        self.0.vote.borrow().clone()
    }

    /// Whether this node has neither voted nor any log: it may take part in a first election.
    pub fn is_empty(&self) -> bool {
        self.0.vote.borrow().is_none() && self.0.log.borrow().is_empty() && self.0.snapshot.borrow().is_none()
    }

    /// The longest promise that an earlier run recorded, its lease or more, whole milliseconds.
    pub fn recorded_lease(&self) -> Option<Duration> {
        self.0.meta.borrow().lease_ms.map(Duration::from_millis)
    }

    /// Records how long the next run has to stay quiet, rounded up to whole milliseconds; returns when it is on the device. Does nothing
    /// where it is recorded already.
    pub async fn record_lease(&self, lease: Duration) {
        let lease_ms = Some(u64::try_from(lease.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX));
        self.record(|meta| std::mem::replace(&mut meta.lease_ms, lease_ms) != lease_ms).await;
    }

    /// The hash over members and VIPs that an earlier run recorded.
    pub fn recorded_cluster(&self) -> Option<u64> {
        self.0.meta.borrow().cluster
    }

    /// Records the hash over members and VIPs; returns when it is on the device.
    pub async fn record_cluster(&self, hash: u64) {
        self.record(|meta| meta.cluster.replace(hash) != Some(hash)).await;
    }

    async fn record(&self, change: impl FnOnce(&mut Meta) -> bool) {
        let changed = change(&mut self.0.meta.borrow_mut());
        if changed {
            self.0.write_meta().await;
        }
    }
}

fn read_meta(directory: &Directory, node: &NodeId) -> Result<Option<Meta>, Problem> {
    let Some(file) = directory.read("meta")? else { return Ok(None) };
    let meta: Meta = open_file(META, &file).map_err(|damage| lost(directory, "meta", damage))?;
    if meta.node != *node {
        return Err(Problem::new(format!(
            "the state directory {} belongs to node {}, and this is node {node} (set stateDir to a place of its own, or remove the \
             directory if {} is no more)",
            directory.file("").display(),
            meta.node,
            meta.node,
        )));
    }
    Ok(Some(meta))
}

fn first_meta(directory: &Directory, node: &NodeId) -> Result<Meta, Problem> {
    let meta = Meta { node: node.clone(), cluster: None, lease_ms: None };
    directory.write("meta", &seal_file(META, &meta))?;
    Ok(meta)
}

fn open_votes(directory: &Directory, ran_before: bool) -> Result<Found, Problem> {
    let found = read_votes(directory)?;
    if found.is_none() {
        if ran_before {
            return Err(lost(directory, "vote", "it is missing"));
        }
        directory.create_votes()?;
    }
    let found = match found {
        Some(found) => found,
        None => read_votes(directory)?.ok_or_else(|| lost(directory, "vote", "it is missing"))?,
    };
    if found.torn {
        warn!(
            "{}: the last vote was not written whole, so it never left; the one before counts",
            directory.file("vote").display()
        );
    }
    Ok(found)
}

fn read_snapshot(directory: &Directory) -> Result<Option<SnapshotMeta>, Problem> {
    let Some(file) = directory.read("snapshot")? else { return Ok(None) };
    let snapshot = open_file(SNAPSHOT, &file);
    if let Err(damage) = &snapshot {
        warn!("{} is ignored: {damage}; the leader sends another", directory.file("snapshot").display());
    }
    Ok(snapshot.ok())
}

/// The log and the length of its file; none where the file is not as the log is, and could not be written.
fn read_log(directory: &Directory, snapshot: Option<&SnapshotMeta>) -> Result<(Log, Option<usize>), Problem> {
    let file = directory.read("log")?;
    let existed = file.is_some();
    let Replayed { mut log, good, damage } = replay(&file.unwrap_or_default());
    if let Some(damage) = damage.filter(|_| existed) {
        warn!("{} is cut off after {good} bytes: {damage}; the leader sends the rest again", directory.file("log").display());
    }
    let changed = reconcile(&mut log, snapshot);
    if changed {
        warn!("{} doesn't fit the snapshot and is dropped; the leader sends it again", directory.file("log").display());
    }
    if !changed && good > 0 {
        return Ok((log, Some(good)));
    }
    let contents = log.to_file();
    let written = directory.write("log", &contents);
    match written {
        Ok(()) => Ok((log, Some(contents.len()))),
        Err(problem) if problem.is_read_only() => Ok((log, None)),
        Err(problem) => Err(problem),
    }
}
