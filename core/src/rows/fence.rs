//! The fence of this node's writes to a store that it shares with other nodes.
//!
//! Every transaction of the node expects the node's fence row to be as it last wrote it. If the answer to a commit is lost, the
//! row is written again, and again until that is known to be done. From then on a transaction sent before has either been
//! applied or never will be, even if it still travels: its guard cannot hold any more. So what is read afterwards is final.
//!
//! Taking the fence also ends what an earlier process, or an earlier phase of this one, has sent and not seen confirmed.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::Error;
use crate::rows::path::node_fence;
use crate::runtime::Rng;
use crate::store::settle::{Repeatable, Settled, Unsettled};
use crate::store::{Expect, Path, Read, Revision, Store, Txn};

/// The fence of one node.
pub(crate) struct Fence {
    store: Arc<dyn Store>,
    rng: Arc<dyn Rng>,
    path: Path,
    /// The revision of the row as this process last wrote it.
    revision: AtomicU64,
    /// Held while the row is written. The value that was sent and not confirmed: the store may not have answered, or the caller
    /// may have been dropped.
    pending: async_lock::Mutex<Option<Vec<u8>>>,
}

impl Fence {
    /// Takes over the fence of the node `node`, which is its device id.
    pub(crate) async fn take(store: Arc<dyn Store>, rng: Arc<dyn Rng>, node: &str) -> Result<Self, Error> {
        let path = node_fence(node);
        let found = store.get(&path, Read::Fresh).await?.map(|row| row.revision);
        let fence = Self { store, rng, path, revision: AtomicU64::new(0), pending: async_lock::Mutex::new(None) };
        let mut pending = fence.pending.lock().await;
        let taken = fence.write(&mut pending, found).await;
        drop(pending);
        match (taken, found) {
            (Ok(_), _) => {}
            // The store has no room for anything, so nothing that was sent before can be written either, but what it holds must
            // be usable.
            (Err(Error::Full(_)), Some(found)) => fence.revision.store(found.0, Ordering::SeqCst),
            (Err(error), _) => return Err(error),
        }
        Ok(fence)
    }

    /// The guard for transactions.
    pub(crate) fn guard(&self) -> (Path, Expect) {
        (self.path.clone(), Expect::At(self.revision()))
    }

    /// The path of the row.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn revision(&self) -> Revision {
        Revision(self.revision.load(Ordering::SeqCst))
    }

    /// Ends all transactions that were sent with the guard `Expect::At(seen)`. Returns the revision from which on that holds.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if the store does not answer, or if another process has taken over.
    pub(crate) async fn renew(&self, seen: Revision) -> Result<Revision, Error> {
        let mut pending = self.pending.lock().await;
        match self.revision() {
            // Another task of this node has renewed it after that transaction was sent.
            now if now != seen => Ok(now),
            now => self.write(&mut pending, Some(now)).await,
        }
    }

    async fn write(&self, pending: &mut Option<Vec<u8>>, found: Option<Revision>) -> Result<Revision, Error> {
        if let Some(sent) = pending {
            // An earlier attempt may have written the row without this process having heard of it.
            let row = self.store.get(&self.path, Read::Fresh).await?;
            if let Some(row) = row.filter(|row| row.value == *sent) {
                self.revision.store(row.revision.0, Ordering::SeqCst);
                *pending = None;
                return Ok(row.revision);
            }
        }
        // What was sent before is sent again, so that it makes no difference which of the two is applied.
        let value = pending.get_or_insert_with(|| {
            let mut value = vec![0; 16];
            self.rng.fill(&mut value);
            value
        });
        match Repeatable::replace(self.path.clone(), found, value.clone()).commit(&*self.store).await {
            Ok(Settled::Committed(revision)) => {
                self.revision.store(revision.0, Ordering::SeqCst);
                *pending = None;
                Ok(revision)
            }
            Ok(Settled::Conflict) => Err(taken_over()),
            Err(Unsettled::NotBegun(error)) => Err(error.into()),
            Err(Unsettled::Unknown) => {
                Err(Error::Unavailable("The store did not confirm the change. Read before you try again.".into()))
            }
        }
    }

    /// A transaction that removes the fence, for a node that has nothing in the store any more. All that was sent before stays
    /// void, as no row gets an earlier revision again; at most a first write of the fence, sent again because its answer was
    /// lost, puts an empty fence back.
    pub(crate) fn removal(&self) -> Txn {
        Txn { expect: vec![self.guard()], delete: vec![self.path.clone()], ..Txn::default() }
    }
}

/// Another process writes under the same name.
fn taken_over() -> Error {
    Error::Unavailable(
        "The HSM was opened again, or another one with the same device id uses the same store. Try again.".into(),
    )
}
