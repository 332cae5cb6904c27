//! A store whose revisions are ahead of those of the store below it, by a fixed number.
//!
//! Rows that are copied into a new store get new revisions there, which begin at 1. With the last revision of the old store as the number,
//! revisions never go back: an old guard does not hold by chance, and the audit log, which records revisions, stays in order.

use std::sync::Arc;

use super::facts::Facts;
use super::{
    Event, Expect, Outcome, Page, Path, Range, Read, Revision, Snapshot, Store, StoreError, Txn, Versioned, Watch,
};
use crate::runtime::BoxFuture;

/// A store with higher revisions than the one below it.
pub struct Ahead {
    store: Arc<dyn Store>,
    by: u64,
}

impl Ahead {
    /// `store`, with revisions higher by `by`. All who use the store must agree on that number.
    pub fn new(store: Arc<dyn Store>, by: u64) -> Self {
        Self { store, by }
    }

    fn raise_page(&self, page: Page) -> Page {
        raise_page(self.by, page)
    }
}

fn raise(by: u64, Revision(revision): Revision) -> Revision {
    Revision(revision.saturating_add(by))
}

fn raise_row(by: u64, Versioned { value, revision }: Versioned) -> Versioned {
    Versioned { value, revision: raise(by, revision) }
}

fn raise_page(by: u64, Page { rows, more, revision }: Page) -> Page {
    let rows = rows.into_iter().map(|(path, row)| (path, raise_row(by, row))).collect();
    Page { rows, more, revision: raise(by, revision) }
}

/// The revision of the store below. One from before this store began is lower than all of its own, so no row has it.
fn lower(by: u64, Revision(revision): Revision) -> Option<Revision> {
    revision.checked_sub(by).filter(|revision| *revision > 0).map(Revision)
}

impl Store for Ahead {
    fn get<'a>(&'a self, path: &'a Path, read: Read) -> BoxFuture<'a, Result<Option<Versioned>, StoreError>> {
        Box::pin(async move { Ok(self.store.get(path, read).await?.map(|row| raise_row(self.by, row))) })
    }

    fn get_many<'a>(
        &'a self,
        paths: &'a [Path],
        read: Read,
    ) -> BoxFuture<'a, Result<Vec<Option<Versioned>>, StoreError>> {
        Box::pin(async move {
            let rows = self.store.get_many(paths, read).await?;
            Ok(rows.into_iter().map(|row| row.map(|row| raise_row(self.by, row))).collect())
        })
    }

    fn range(&self, range: Range, read: Read) -> BoxFuture<'_, Result<Page, StoreError>> {
        Box::pin(async move { Ok(self.raise_page(self.store.range(range, read).await?)) })
    }

    fn is_shared(&self) -> bool {
        self.store.is_shared()
    }

    fn has_own_copy(&self) -> bool {
        self.store.has_own_copy()
    }

    fn commit(&self, txns: Vec<Txn>) -> BoxFuture<'_, Result<Vec<Outcome>, StoreError>> {
        Box::pin(async move {
            let lowered = txns.into_iter().map(|mut txn| {
                for (_, expect) in &mut txn.expect {
                    if let Expect::At(revision) = expect {
                        // No row is at the highest revision there is.
                        *revision = lower(self.by, *revision).unwrap_or(NEVER);
                    }
                }
                txn
            });
            let outcomes = self.store.commit(lowered.collect()).await?;
            let raised = outcomes.into_iter().map(|outcome| match outcome {
                Outcome::Committed(revision) => Outcome::Committed(raise(self.by, revision)),
                Outcome::Conflict(_) | Outcome::Unknown => outcome,
            });
            Ok(raised.collect())
        })
    }

    fn watch(&self, prefix: Path, from: Revision) -> BoxFuture<'_, Result<Box<dyn Watch>, StoreError>> {
        Box::pin(async move {
            let from = lower(self.by, from).unwrap_or_default();
            let watch = self.store.watch(prefix, from).await?;
            Ok(Box::new(AheadWatch { watch, by: self.by }) as Box<dyn Watch>)
        })
    }

    fn is_nearly_full(&self) -> bool {
        self.store.is_nearly_full()
    }

    fn facts(&self) -> Option<Facts> {
        self.store.facts()
    }

    fn snapshot(&self) -> BoxFuture<'_, Result<Box<dyn Snapshot>, StoreError>> {
        Box::pin(async move {
            let snapshot = self.store.snapshot().await?;
            Ok(Box::new(AheadSnapshot { snapshot, by: self.by }) as Box<dyn Snapshot>)
        })
    }
}

/// A revision that no row has. Stores count in signed numbers, too.
const NEVER: Revision = Revision(i64::MAX.cast_unsigned());

struct AheadWatch {
    watch: Box<dyn Watch>,
    by: u64,
}

impl Watch for AheadWatch {
    fn next(&mut self) -> BoxFuture<'_, Event> {
        Box::pin(async {
            match self.watch.next().await {
                Event::Changed { path, revision } => Event::Changed { path, revision: raise(self.by, revision) },
                Event::Progress(revision) => Event::Progress(raise(self.by, revision)),
                end @ (Event::Lost | Event::Compacted) => end,
            }
        })
    }

    fn ask_progress(&mut self) {
        self.watch.ask_progress();
    }
}

struct AheadSnapshot {
    snapshot: Box<dyn Snapshot>,
    by: u64,
}

impl Snapshot for AheadSnapshot {
    fn revision(&self) -> Revision {
        raise(self.by, self.snapshot.revision())
    }

    fn range(&self, range: Range) -> BoxFuture<'_, Result<Page, StoreError>> {
        Box::pin(async move { Ok(raise_page(self.by, self.snapshot.range(range).await?)) })
    }

    fn ranges<'a>(&'a self, ranges: &'a [Range]) -> BoxFuture<'a, Result<Vec<Page>, StoreError>> {
        Box::pin(async move {
            let pages = self.snapshot.ranges(ranges).await?;
            Ok(pages.into_iter().map(|page| raise_page(self.by, page)).collect())
        })
    }
}

#[cfg(test)]
mod tests {
    use pollster::block_on;

    use super::*;
    use crate::sim::{SimStore, conformance};

    #[test]
    fn a_store_ahead_keeps_the_contract() {
        let make = async || {
            let store = Arc::new(SimStore::new(7));
            Arc::new(Ahead::new(store, 1_000))
        };
        block_on(conformance::run(make, async |store| conformance::outgrow_history(store).await));
    }

    #[test]
    fn guards_from_before_do_not_hold() {
        let below = Arc::new(SimStore::new(7));
        let store = Ahead::new(below, 10);
        let path = Path(Box::from(*b"row"));
        let put =
            |expect| Txn { expect: vec![(path.clone(), expect)], put: vec![(path.clone(), vec![])], ..Txn::default() };
        let outcome = |expect| block_on(store.commit(vec![put(expect)])).unwrap()[0];
        assert_eq!(outcome(Expect::Absent), Outcome::Committed(Revision(11)));
        for old in [0, 1, 9, 10] {
            assert_eq!(outcome(Expect::At(Revision(old))), Outcome::Conflict(0));
        }
        assert_eq!(outcome(Expect::At(Revision(11))), Outcome::Committed(Revision(12)));
    }
}
