//! What log store, state machine and daemon share: the state in memory, which always counts, and its copy on disk.
//!
//! A disk that fails makes the copy stale, never raft stop: votes then count in memory (a quiet start after a crash makes
//! that safe), one error is logged, and everything is written again as soon as the disk allows.

use super::files::{Directory, LogFile, VoteFile};
use super::format::{SlotBody, seal_file};
use super::lane::Lane;
use super::log::Log;
use super::{META, Meta, SNAPSHOT};
use crate::cluster::runtime::{self, OneshotReceiver};
use crate::cluster::types::{LogId, SnapshotMeta, StoredMembership, Vote};
use std::cell::{Cell, RefCell};
use std::io;
use std::rc::{Rc, Weak};
use std::time::Duration;

/// Appended entries reach the device this much later, all in one go and clear of an election's own syncs.
const SYNC_DELAY: Duration = Duration::from_secs(1);
/// How often a failed disk is tried again.
const RETRY: Duration = Duration::from_secs(5);

pub(super) struct Shared {
    pub(super) directory: Directory,
    pub(super) vote: RefCell<Option<Vote>>,
    /// The newest vote handed in to be saved: what a repair has to write.
    vote_wanted: RefCell<Option<Vote>>,
    pub(super) log: RefCell<Log>,
    pub(super) applied: RefCell<(Option<LogId>, StoredMembership)>,
    pub(super) snapshot: RefCell<Option<SnapshotMeta>>,
    pub(super) meta: RefCell<Meta>,
    pub(super) ok: Rc<Cell<bool>>,
    votes_ok: Cell<bool>,
    files_ok: Cell<bool>,
    repairing: Cell<bool>,
    sync_planned: Cell<bool>,
    votes: Rc<Lane<VoteFile>>,
    files: Rc<Lane<LogFile>>,
}

/// What was read at the start.
pub(super) struct Start {
    pub(super) vote: Option<Vote>,
    pub(super) log: Log,
    pub(super) snapshot: Option<SnapshotMeta>,
    pub(super) meta: Meta,
}

impl Shared {
    pub(super) fn new(directory: Directory, start: Start, votes: VoteFile, files: LogFile) -> Rc<Self> {
        let applied = start.snapshot.as_ref().map(|meta| (meta.last_log_id.clone(), meta.last_membership.clone()));
        Rc::new(Self {
            directory,
            vote_wanted: RefCell::new(start.vote.clone()),
            vote: RefCell::new(start.vote),
            log: RefCell::new(start.log),
            applied: RefCell::new(applied.unwrap_or_default()),
            snapshot: RefCell::new(start.snapshot),
            meta: RefCell::new(start.meta),
            ok: Rc::new(Cell::new(true)),
            votes_ok: Cell::new(true),
            files_ok: Cell::new(true),
            repairing: Cell::new(false),
            sync_planned: Cell::new(false),
            votes: Lane::new(votes),
            files: Lane::new(files),
        })
    }

    /// Returns when the vote is on the device, or when the disk refused it: then it counts in memory.
    ///
    /// That a vote, which is on the device, was won by its candidate need not be there before anything leaves: a restarted node
    /// never leads on (`enable_leader_restore`), no vote lies between the two, and its quiet start waits out the lease. It would
    /// cost each take-over two more syncs in a row; three of a slow SD card are longer than a lease.
    pub(super) async fn save_vote(self: &Rc<Self>, vote: Vote) {
        let known = self.vote.borrow().as_ref().is_some_and(|saved| saved.leader_id == vote.leader_id);
        self.vote_wanted.replace(Some(vote.clone()));
        if known {
            self.vote.replace(Some(vote));
            let me = self.clone();
            runtime::spawn(async move { me.write_vote().await });
            return;
        }
        self.write_vote().await;
        self.vote.replace(Some(vote));
    }

    async fn write_vote(self: &Rc<Self>) {
        let slot = SlotBody::of(self.vote_wanted.borrow().as_ref());
        let result = settled(self.votes.run(move |file| file.save(&slot))).await;
        self.note(
            &self.votes_ok,
            "the vote",
            "votes count in memory until it can be saved; after a crash the node starts quietly",
            result,
        );
    }

    /// Writes records that are already in the log in memory; waits for the device only if `sync`.
    pub(super) async fn append(self: &Rc<Self>, records: Vec<u8>, sync: bool) {
        let contents = (!self.files_ok.get()).then(|| self.log.borrow().to_file());
        let written = self.files.run(move |file| match contents {
            Some(contents) => file.replace(&contents),
            None => file.append(&records, sync),
        });
        if sync {
            self.note_files(settled(written).await);
            return;
        }
        let me = self.clone();
        runtime::spawn(async move { me.note_files(settled(written).await) });
        self.plan_sync();
    }

    /// The vote, where all that was handed in is written.
    pub(super) fn settled(&self) -> Result<Option<Vote>, &'static str> {
        let (vote, wanted) = (self.vote.borrow(), self.vote_wanted.borrow());
        if !self.votes.is_idle() || !self.files.is_idle() || *vote != *wanted {
            return Err("the disk is still writing");
        }
        if !self.ok.get() {
            return Err("the disk does not take what is written: the next program would not find it");
        }
        Ok(vote.clone())
    }

    pub(super) fn is_unsynced(&self) -> bool {
        self.sync_planned.get()
    }

    pub(super) fn plan_sync(self: &Rc<Self>) {
        if self.sync_planned.replace(true) {
            return;
        }
        let me = Rc::downgrade(self);
        runtime::spawn(async move {
            runtime::sleep(SYNC_DELAY).await;
            let Some(me) = me.upgrade() else { return };
            me.sync_planned.set(false);
            if me.files_ok.get() {
                me.note_files(settled(me.files.run(|file| file.append(&[], true))).await);
            }
        });
    }

    /// Writes the log anew.
    pub(super) async fn rewrite_log(self: &Rc<Self>) {
        self.note_files(self.try_log().await);
    }

    /// Writes the snapshot in memory.
    pub(super) async fn write_snapshot(self: &Rc<Self>) {
        self.note_files(self.try_snapshot().await);
    }

    /// Writes the meta file in memory.
    pub(super) async fn write_meta(self: &Rc<Self>) {
        self.note_files(self.try_meta().await);
    }

    async fn try_log(&self) -> io::Result<()> {
        let contents = self.log.borrow().to_file();
        settled(self.files.run(move |files| files.replace(&contents))).await
    }

    async fn try_snapshot(&self) -> io::Result<()> {
        let Some(contents) = self.snapshot.borrow().as_ref().map(|meta| seal_file(SNAPSHOT, meta)) else { return Ok(()) };
        settled(self.files.run(move |files| files.replace_other("snapshot", &contents))).await
    }

    async fn try_meta(&self) -> io::Result<()> {
        let contents = seal_file(META, &*self.meta.borrow());
        settled(self.files.run(move |files| files.replace_other("meta", &contents))).await
    }

    fn note_files(self: &Rc<Self>, result: io::Result<()>) {
        self.note(&self.files_ok, "log and snapshot", "they are kept in memory until they can be", result);
    }

    /// One log line per change.
    fn note(self: &Rc<Self>, part: &Cell<bool>, what: &str, meanwhile: &str, result: io::Result<()>) {
        let path = self.directory.file("");
        match (part.replace(result.is_ok()), result) {
            (true, Err(error)) => log::error!("can't write {what} to {}: {error}; {meanwhile}", path.display()),
            (false, Ok(())) => log::info!("{what} can be written to {} again", path.display()),
            _ => {}
        }
        self.ok.set(self.votes_ok.get() && self.files_ok.get());
        if !self.ok.get() && !self.repairing.replace(true) {
            runtime::spawn(repair(Rc::downgrade(self)));
        }
    }
}

async fn repair(shared: Weak<Shared>) {
    loop {
        runtime::sleep(RETRY).await;
        let Some(me) = shared.upgrade() else { return };
        if !me.votes_ok.get() {
            me.write_vote().await;
        }
        if !me.files_ok.get() {
            let all = [me.try_log().await, me.try_snapshot().await, me.try_meta().await];
            me.note_files(all.into_iter().collect());
        }
        if me.ok.get() {
            me.repairing.set(false);
            return;
        }
    }
}

async fn settled(answer: OneshotReceiver<io::Result<()>>) -> io::Result<()> {
    answer.await.unwrap_or_else(|_| Err(io::Error::other("the writing thread is gone")))
}
