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
    renewing: async_lock::Mutex<()>,
}

impl Fence {
    /// Takes over the fence of the node `node`, which is its device id.
    pub(crate) async fn take(store: Arc<dyn Store>, rng: Arc<dyn Rng>, node: &str) -> Result<Self, Error> {
        let path = node_fence(node);
        let found = store.get(&path, Read::Fresh).await?.map(|row| row.revision);
        let fence = Self { store, rng, path, revision: AtomicU64::new(0), renewing: async_lock::Mutex::new(()) };
        fence.write(found).await?;
        Ok(fence)
    }

    /// The guard for transactions.
    pub(crate) fn guard(&self) -> (Path, Expect) {
        (self.path.clone(), Expect::At(self.revision()))
    }

    /// A transaction that removes the fence, for a node that has nothing in the store any more. All that was sent before stays
    /// void, as no row gets an earlier revision again; at most a first write of the fence, sent again because its answer was
    /// lost, puts an empty fence back.
    pub(crate) fn removal(&self) -> Txn {
        Txn { expect: vec![self.guard()], delete: vec![self.path.clone()], ..Txn::default() }
    }

    pub(crate) fn revision(&self) -> Revision {
        Revision(self.revision.load(Ordering::SeqCst))
    }

    /// Ends all transactions that were sent with the guard `Expect::At(seen)`. Returns the revision from which on that holds.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if the store does not answer, or if another process has taken over.
    pub(crate) async fn renew(&self, seen: Revision) -> Result<Revision, Error> {
        let _guard = self.renewing.lock().await;
        match self.revision() {
            // Another task of this node has renewed it after that transaction was sent.
            now if now != seen => Ok(now),
            now => self.write(Some(now)).await,
        }
    }

    async fn write(&self, found: Option<Revision>) -> Result<Revision, Error> {
        let mut value = vec![0; 16];
        self.rng.fill(&mut value);
        match Repeatable::replace(self.path.clone(), found, value).commit(&*self.store).await {
            Ok(Settled::Committed(revision)) => {
                self.revision.store(revision.0, Ordering::SeqCst);
                Ok(revision)
            }
            Ok(Settled::Conflict) => Err(taken_over()),
            Err(Unsettled::NotBegun(error)) => Err(error.into()),
            Err(Unsettled::Unknown) => {
                Err(Error::Unavailable("The store did not confirm the change. Read before you try again.".into()))
            }
        }
    }
}

/// Another process writes under the same name.
pub(crate) fn taken_over() -> Error {
    Error::Unavailable(
        "The HSM was opened again, or another one with the same device id uses the same store. Try again.".into(),
    )
}
