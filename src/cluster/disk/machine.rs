//! openraft's state machine: there is no state but the last applied entry and the membership. A snapshot is just that.

use super::shared::Shared;
use crate::cluster::types::{LogId, Snapshot, SnapshotMeta, StoredMembership, TypeConfig};
use openraft::EntryPayload;
use openraft::storage::{EntryResponder, RaftSnapshotBuilder, RaftStateMachine};
use smol::stream::{Stream, StreamExt};
use std::io;
use std::rc::Rc;

/// Applies entries for openraft. Clones are the same machine.
#[derive(Clone)]
pub struct Machine(pub(super) Rc<Shared>);

/// Takes one snapshot, of the state at the time it was made.
pub struct SnapshotBuilder {
    shared: Rc<Shared>,
    meta: SnapshotMeta,
}

impl RaftSnapshotBuilder<TypeConfig> for SnapshotBuilder {
    type SnapshotData = ();

    async fn build_snapshot(&mut self) -> io::Result<Snapshot> {
        keep(&self.shared, &self.meta).await;
        Ok(Snapshot { meta: self.meta.clone(), snapshot: () })
    }
}

/// Makes it the current snapshot unless there is a newer one, and waits until it is on disk: entries are purged after it.
async fn keep(shared: &Rc<Shared>, meta: &SnapshotMeta) {
    let newer = shared.snapshot.borrow().as_ref().is_some_and(|current| current.last_log_id > meta.last_log_id);
    if !newer {
        shared.snapshot.replace(Some(meta.clone()));
        shared.write_snapshot().await;
    }
}

impl RaftStateMachine<TypeConfig> for Machine {
    type SnapshotData = ();
    type SnapshotBuilder = SnapshotBuilder;

    async fn applied_state(&mut self) -> io::Result<(Option<LogId>, StoredMembership)> {
        Ok(self.0.applied.borrow().clone())
    }

    async fn apply<Strm>(&mut self, mut entries: Strm) -> io::Result<()>
    where
        Strm: Stream<Item = io::Result<EntryResponder<TypeConfig>>> + Unpin,
    {
        while let Some((entry, responder)) = entries.try_next().await? {
            let mut applied = self.0.applied.borrow_mut();
            if let EntryPayload::Membership(members) = entry.payload {
                applied.1 = StoredMembership::new(Some(entry.log_id.clone()), members);
            }
            applied.0 = Some(entry.log_id);
            drop(applied);
            if let Some(responder) = responder {
                responder.send(());
            }
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> SnapshotBuilder {
        let (last_log_id, last_membership) = self.0.applied.borrow().clone();
        SnapshotBuilder { shared: self.0.clone(), meta: SnapshotMeta { last_log_id, last_membership } }
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, (): ()) -> io::Result<()> {
        self.0.applied.replace((meta.last_log_id.clone(), meta.last_membership.clone()));
        keep(&self.0, meta).await;
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<Snapshot>> {
        Ok(self.0.snapshot.borrow().clone().map(|meta| Snapshot { meta, snapshot: () }))
    }
}
