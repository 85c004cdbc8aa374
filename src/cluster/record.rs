//! How long the next run has to stay quiet, kept on the disk: never less than what this run has promised.

use super::disk::Disk;
use super::runtime::Mutex;
use super::types::Vote;
use openraft::async_runtime::Mutex as _;
use std::cell::Cell;
use std::time::Duration;

/// The record, with what is known to be on the device.
pub struct Record {
    disk: Disk,
    on_device: Cell<Duration>,
    expected: Cell<Duration>,
    writing: Mutex<()>,
}

/// See [`Record::settled`].
pub struct Settled {
    /// The vote.
    pub vote: Option<Vote>,
    /// How long the next run stays quiet.
    pub recorded: Duration,
    /// Entries of the log wait for their sync.
    pub unsynced: bool,
}

impl Record {
    /// `on_device`: what was recorded at the start.
    pub fn new(disk: Disk, on_device: Duration) -> Self {
        Self { disk, on_device: Cell::new(on_device), expected: Cell::default(), writing: Mutex::new(()) }
    }

    /// What the disk has, where nothing is being written and nothing failed; else why not now.
    pub fn settled(&self) -> Result<Settled, &'static str> {
        let vote = self.disk.settled()?;
        Ok(Settled { vote, recorded: self.on_device.get(), unsynced: self.disk.is_unsynced() })
    }

    /// Returns when at least this is on the device, or the disk refuses: it counts in memory then, like a vote.
    pub async fn raise(&self, promise: Duration) {
        if self.on_device.get() >= promise {
            return;
        }
        let _turn = self.writing.lock().await;
        if self.on_device.get() < promise {
            self.disk.record_lease(promise).await;
            self.on_device.set(promise);
        }
    }

    /// Whether it is worth while to raise it for a promise that may come; true once for each.
    pub fn expects(&self, promise: Duration) -> bool {
        self.on_device.get() < promise && self.expected.replace(promise) != promise
    }

    /// Lowers it to what `promised` says at that moment, if anything.
    pub async fn lower(&self, promised: impl FnOnce() -> Option<Duration>) {
        let _turn = self.writing.lock().await;
        if let Some(promise) = promised().filter(|promise| *promise < self.on_device.get()) {
            self.on_device.set(promise); // before it is so: from now on nobody may rely on more
            self.expected.set(promise);
            self.disk.record_lease(promise).await;
        }
    }
}
