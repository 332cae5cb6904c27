//! What is wrong in a simulation on purpose, to see that the checker finds it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::rows::path::{generation_pointer, node_fences};
use crate::runtime::BoxFuture;
use crate::sim::{SimLink, SimRng};
use crate::store::{
    Event, Outcome, Page, Path, Range, Read, Revision, Snapshot, Store, StoreError, Txn, Versioned, Watch,
};

/// What is wrong in a simulation on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    None,
    /// A lost answer is settled by reading, without a fence that ends what is still under way.
    NoFence,
    /// Cached rows are used without a confirmation.
    AlwaysConfirmed,
    /// A confirmation is valid from the answer on, and not from the question.
    ConfirmedFromAnswer,
    /// A watch leaves out some events.
    LeakyWatch,
    /// A sweep removes the rows of the current generation.
    SweepsCurrent,
    /// A transaction whose answer was lost is sent again without its guards.
    UnguardedResend,
    /// Rows are read without a look at the generation pointer.
    ReadsReplaced,
    /// Tables are confirmed although the generation pointer was moved, and opening them again mostly fails.
    ConfirmsReplaced,
    /// A restore whose answer was lost is settled by reading the pointer once, and then undone.
    RestoreSettledByRead,
}

/// A link with a planted fault.
pub(super) struct Planted {
    pub(super) link: Arc<SimLink>,
    pub(super) rng: Arc<SimRng>,
    pub(super) fault: Fault,
    /// The revision of the generation pointer when it was last read alone, as it is when tables are opened.
    pub(super) pointer: AtomicU64,
}

impl Store for Planted {
    fn get<'a>(&'a self, path: &'a Path, read: Read) -> BoxFuture<'a, Result<Option<Versioned>, StoreError>> {
        Box::pin(async move {
            let row = self.link.get(path, read).await?;
            if let (true, Some(row)) = (*path == generation_pointer(), &row) {
                self.pointer.store(row.revision.0, Ordering::SeqCst);
            }
            Ok(row)
        })
    }

    fn get_many<'a>(
        &'a self,
        paths: &'a [Path],
        read: Read,
    ) -> BoxFuture<'a, Result<Vec<Option<Versioned>>, StoreError>> {
        Box::pin(async move {
            let mut rows = self.link.get_many(paths, read).await?;
            if let (Fault::ReadsReplaced, Some(Some(row))) = (self.fault, rows.first_mut()) {
                row.revision = Revision(self.pointer.load(Ordering::SeqCst));
            }
            Ok(rows)
        })
    }

    fn range(&self, range: Range, read: Read) -> BoxFuture<'_, Result<Page, StoreError>> {
        self.link.range(range, read)
    }

    fn is_shared(&self) -> bool {
        true
    }

    fn commit(&self, mut txns: Vec<Txn>) -> BoxFuture<'_, Result<Vec<Outcome>, StoreError>> {
        let is_fence = |path: &Path| path.as_bytes().starts_with(node_fences().as_bytes());
        if self.fault == Fault::NoFence {
            for txn in txns.iter_mut().filter(|txn| !txn.put.iter().any(|(path, _)| is_fence(path))) {
                txn.expect.retain(|(path, _)| !is_fence(path));
            }
        }
        Box::pin(async move {
            let outcomes = self.link.commit(txns.clone()).await?;
            if self.fault != Fault::UnguardedResend || outcomes != [Outcome::Unknown] {
                return Ok(outcomes);
            }
            txns.iter_mut().for_each(|txn| txn.expect.clear());
            Ok(self.link.commit(txns).await.unwrap_or(outcomes))
        })
    }

    fn watch(&self, prefix: Path, from: Revision) -> BoxFuture<'_, Result<Box<dyn Watch>, StoreError>> {
        Box::pin(async move {
            let watch = self.link.watch(prefix, from).await?;
            Ok(match self.fault {
                Fault::LeakyWatch => Box::new(LeakyWatch { watch, rng: self.rng.clone() }),
                _ => watch,
            })
        })
    }

    fn snapshot(&self) -> BoxFuture<'_, Result<Box<dyn Snapshot>, StoreError>> {
        self.link.snapshot()
    }
}

/// Leaves out a fourth of the changes.
struct LeakyWatch {
    watch: Box<dyn Watch>,
    rng: Arc<SimRng>,
}

impl Watch for LeakyWatch {
    fn next(&mut self) -> BoxFuture<'_, Event> {
        Box::pin(async {
            loop {
                match self.watch.next().await {
                    Event::Changed { path, .. } if path != generation_pointer() && self.rng.below(4) == 0 => {}
                    event => return event,
                }
            }
        })
    }

    fn ask_progress(&mut self) {
        self.watch.ask_progress();
    }
}
