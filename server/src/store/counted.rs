//! A store that counts the transactions committed through it, and their duration.

use std::sync::Arc;

use casemate_core::runtime::{BoxFuture, Clock};
use casemate_core::store::facts::Facts;
use casemate_core::store::{
    Outcome, Page, Path, Range, Read, Revision, Snapshot, Store, StoreError, Txn, Versioned, Watch,
};

use crate::observe::metrics::{Count, Metrics, StoreName};

/// Counts committed transactions.
pub struct Counted {
    /// The wrapped store.
    pub store: Arc<dyn Store>,
    /// Its name in the metrics.
    pub name: StoreName,
    /// The metrics that count them.
    pub metrics: Arc<Metrics>,
    /// The clock for durations.
    pub clock: Arc<dyn Clock>,
}

impl Store for Counted {
    fn get<'a>(&'a self, path: &'a Path, read: Read) -> BoxFuture<'a, Result<Option<Versioned>, StoreError>> {
        self.store.get(path, read)
    }

    fn get_many<'a>(
        &'a self,
        paths: &'a [Path],
        read: Read,
    ) -> BoxFuture<'a, Result<Vec<Option<Versioned>>, StoreError>> {
        self.store.get_many(paths, read)
    }

    fn is_shared(&self) -> bool {
        self.store.is_shared()
    }

    fn has_own_copy(&self) -> bool {
        self.store.has_own_copy()
    }

    fn range(&self, range: Range, read: Read) -> BoxFuture<'_, Result<Page, StoreError>> {
        self.store.range(range, read)
    }

    fn commit(&self, txns: Vec<Txn>) -> BoxFuture<'_, Result<Vec<Outcome>, StoreError>> {
        Box::pin(async move {
            let begun = self.clock.monotonic();
            let outcomes = self.store.commit(txns).await?;
            self.metrics.commit(self.name, self.clock.monotonic().saturating_sub(begun));
            for _ in outcomes.iter().filter(|outcome| matches!(outcome, Outcome::Committed(_))) {
                self.metrics.count(Count::KvWrite);
            }
            Ok(outcomes)
        })
    }

    fn watch(&self, prefix: Path, from: Revision) -> BoxFuture<'_, Result<Box<dyn Watch>, StoreError>> {
        self.store.watch(prefix, from)
    }

    fn is_nearly_full(&self) -> bool {
        self.store.is_nearly_full()
    }

    fn facts(&self) -> Option<Facts> {
        self.store.facts()
    }

    fn snapshot(&self) -> BoxFuture<'_, Result<Box<dyn Snapshot>, StoreError>> {
        self.store.snapshot()
    }
}
