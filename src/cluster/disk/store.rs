//! openraft's log and vote storage. Reads come from memory; see [`shared`](super::shared) for what goes to disk when.

use super::shared::Shared;
use crate::cluster::runtime;
use crate::cluster::types::{Entry, LogId, TypeConfig, Vote};
use openraft::EntryPayload;
use openraft::storage::{IOFlushed, LogState, RaftLogReader, RaftLogStorage};
use std::fmt::Debug;
use std::io;
use std::ops::RangeBounds;
use std::rc::Rc;

/// Stores vote and log for openraft. Clones are the same store. Never returns an error: openraft would stop for good.
#[derive(Clone)]
pub struct LogStore(pub(super) Rc<Shared>);

impl RaftLogReader<TypeConfig> for LogStore {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug>(&mut self, range: RB) -> io::Result<Vec<Entry>> {
        Ok(self.0.log.borrow().range(range))
    }

    async fn read_vote(&mut self) -> io::Result<Option<Vote>> {
        Ok(self.0.vote.borrow().clone())
    }
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> io::Result<LogState<TypeConfig>> {
        let log = self.0.log.borrow();
        Ok(LogState { last_purged_log_id: log.purged().cloned(), last_log_id: log.last() })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> io::Result<()> {
        self.0.save_vote(vote.clone()).await;
        Ok(())
    }

    /// Entries without a membership are reported flushed at once: losing them to a power cut loses nothing that anybody relies
    /// on, and a planned move saves a sync. A membership waits for the device: if all nodes lost it, none could vote again.
    async fn append<I>(&mut self, entries: I, flushed: IOFlushed<TypeConfig>) -> io::Result<()>
    where
        I: IntoIterator<Item = Entry>,
    {
        let mut records = Vec::new();
        let mut sync = false;
        for entry in entries {
            sync |= matches!(entry.payload, EntryPayload::Membership(_));
            self.0.log.borrow_mut().append(entry, &mut records);
        }
        self.0.append(records, sync).await;
        flushed.io_completed(Ok(()));
        Ok(())
    }

    async fn truncate_after(&mut self, last: Option<LogId>) -> io::Result<()> {
        let mut records = Vec::new();
        self.0.log.borrow_mut().cut_after(last.map(|last| last.index), &mut records);
        self.0.append(records, false).await;
        Ok(())
    }

    async fn purge(&mut self, upto: LogId) -> io::Result<()> {
        self.0.log.borrow_mut().purge(upto);
        // Awaited in raft's core, which must not wait for the disk for the sake of old entries: memory counts.
        let disk = self.0.clone();
        runtime::spawn(async move { disk.rewrite_log().await });
        Ok(())
    }
}
