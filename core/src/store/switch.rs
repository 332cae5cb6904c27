//! A store behind which another one is put while it is in use: how a node moves from its file to the etcd of a cluster, and back.
//!
//! Revisions of both stores must not overlap (see [`super::Ahead`]), as guards from before the replacement would otherwise hold by chance.

use std::mem::ManuallyDrop;
use std::sync::Arc;

use arc_swap::ArcSwap;
use async_lock::{OnceCell, RwLock, RwLockWriteGuardArc};

use super::facts::Facts;
use super::{Event, Outcome, Page, Path, Range, Read, Revision, Snapshot, Store, StoreError, Txn, Versioned, Watch};
use crate::runtime::{BoxFuture, First, first};

/// A store that can be replaced.
pub struct Switch {
    current: ArcSwap<Current>,
    /// Held shared by every commit that runs, and exclusively by a [`Hold`].
    writing: Arc<RwLock<()>>,
}

struct Current {
    store: Arc<dyn Store>,
    /// Set when another store has taken its place.
    replaced: Arc<OnceCell<()>>,
}

/// Keeps everybody from writing to a [`Switch`] until it is dropped. Commits are refused with [`StoreError::Held`]; reads go on.
pub struct Hold {
    _writing: RwLockWriteGuardArc<()>,
}

/// A hold that lasts until the process ends unless it is let go: for the moment in which it is not known which store is the one, and
/// whoever wants to know may be gone.
pub struct Kept(ManuallyDrop<Hold>);

impl Hold {
    /// Lasts from now on, also if this is dropped.
    pub fn keep(self) -> Kept {
        Kept(ManuallyDrop::new(self))
    }
}

impl Kept {
    /// An ordinary hold again.
    pub fn let_go(self) -> Hold {
        ManuallyDrop::into_inner(self.0)
    }
}

impl Switch {
    /// A switch with `store` behind it.
    pub fn new(store: Arc<dyn Store>) -> Arc<Self> {
        Arc::new(Self { current: ArcSwap::from_pointee(Current::new(store)), writing: Arc::default() })
    }

    /// Refuses commits from now on, and waits for those that run.
    pub async fn hold(&self) -> Hold {
        Hold { _writing: self.writing.write_arc().await }
    }

    /// The store behind it.
    pub fn store(&self) -> Arc<dyn Store> {
        self.current.load().store.clone()
    }

    /// Puts `store` in the place of the present one, while nobody writes. Watches end with [`Event::Lost`]; snapshots go on with
    /// the store that they are of.
    pub fn replace(&self, store: Arc<dyn Store>, _: &Hold) {
        let former = self.current.swap(Arc::new(Current::new(store)));
        // It fails only if it is set.
        let _ = former.replaced.set_blocking(());
    }

    fn open(&self) -> Result<async_lock::RwLockReadGuard<'_, ()>, StoreError> {
        self.writing.try_read().ok_or(StoreError::Held)
    }
}

impl Current {
    fn new(store: Arc<dyn Store>) -> Self {
        Self { store, replaced: Arc::default() }
    }
}

impl Store for Switch {
    fn get<'a>(&'a self, path: &'a Path, read: Read) -> BoxFuture<'a, Result<Option<Versioned>, StoreError>> {
        let store = self.store();
        Box::pin(async move { store.get(path, read).await })
    }

    fn get_many<'a>(
        &'a self,
        paths: &'a [Path],
        read: Read,
    ) -> BoxFuture<'a, Result<Vec<Option<Versioned>>, StoreError>> {
        let store = self.store();
        Box::pin(async move { store.get_many(paths, read).await })
    }

    fn range(&self, range: Range, read: Read) -> BoxFuture<'_, Result<Page, StoreError>> {
        let store = self.store();
        Box::pin(async move { store.range(range, read).await })
    }

    fn is_shared(&self) -> bool {
        self.current.load().store.is_shared()
    }

    fn has_own_copy(&self) -> bool {
        self.current.load().store.has_own_copy()
    }

    fn commit(&self, txns: Vec<Txn>) -> BoxFuture<'_, Result<Vec<Outcome>, StoreError>> {
        Box::pin(async move {
            let _open = self.open()?;
            self.store().commit(txns).await
        })
    }

    fn watch(&self, prefix: Path, from: Revision) -> BoxFuture<'_, Result<Box<dyn Watch>, StoreError>> {
        let current = self.current.load_full();
        Box::pin(async move {
            let watch = current.store.watch(prefix, from).await?;
            Ok(Box::new(SwitchWatch { watch: Some(watch), replaced: current.replaced.clone() }) as Box<dyn Watch>)
        })
    }

    fn is_nearly_full(&self) -> bool {
        self.current.load().store.is_nearly_full()
    }

    fn facts(&self) -> Option<Facts> {
        self.current.load().store.facts()
    }

    fn snapshot(&self) -> BoxFuture<'_, Result<Box<dyn Snapshot>, StoreError>> {
        let store = self.store();
        Box::pin(async move { store.snapshot().await })
    }
}

/// A watch on one store, which ends when that store is replaced.
struct SwitchWatch {
    /// `None`: it has ended.
    watch: Option<Box<dyn Watch>>,
    replaced: Arc<OnceCell<()>>,
}

impl Watch for SwitchWatch {
    fn next(&mut self) -> BoxFuture<'_, Event> {
        Box::pin(async {
            let Some(watch) = &mut self.watch else { return std::future::pending().await };
            match first(self.replaced.wait(), watch.next()).await {
                First::Left(()) => {
                    self.watch = None;
                    Event::Lost
                }
                First::Right(event) => event,
            }
        })
    }

    fn ask_progress(&mut self) {
        if let Some(watch) = &mut self.watch {
            watch.ask_progress();
        }
    }
}

/// A store that is not there, and why. It is behind a [`Switch`] until the real one is.
pub struct Away(pub String);

impl Away {
    fn refuse<T: Send + 'static>(&self) -> BoxFuture<'static, Result<T, StoreError>> {
        let why = self.0.clone();
        Box::pin(async { Err(StoreError::Unreachable(why)) })
    }
}

impl Store for Away {
    fn get<'a>(&'a self, _: &'a Path, _: Read) -> BoxFuture<'a, Result<Option<Versioned>, StoreError>> {
        self.refuse()
    }

    fn get_many<'a>(&'a self, _: &'a [Path], _: Read) -> BoxFuture<'a, Result<Vec<Option<Versioned>>, StoreError>> {
        self.refuse()
    }

    fn range(&self, _: Range, _: Read) -> BoxFuture<'_, Result<Page, StoreError>> {
        self.refuse()
    }

    /// The store that belongs here is one of a cluster.
    fn is_shared(&self) -> bool {
        true
    }

    fn commit(&self, _: Vec<Txn>) -> BoxFuture<'_, Result<Vec<Outcome>, StoreError>> {
        self.refuse()
    }

    fn watch(&self, _: Path, _: Revision) -> BoxFuture<'_, Result<Box<dyn Watch>, StoreError>> {
        self.refuse()
    }

    fn snapshot(&self) -> BoxFuture<'_, Result<Box<dyn Snapshot>, StoreError>> {
        self.refuse()
    }
}

#[cfg(test)]
mod tests {
    use pollster::block_on;

    use super::*;
    use crate::runtime::Clock;
    use crate::sim::{SimClock, SimStore, conformance};

    fn put(at: &str) -> Vec<Txn> {
        vec![Txn { put: vec![(Path(at.as_bytes().into()), vec![1])], ..Txn::default() }]
    }

    #[test]
    fn a_switch_keeps_the_contract_of_the_store_behind_it() {
        let make = async || Switch::new(Arc::new(SimStore::new(7)));
        block_on(conformance::run(make, async |store| conformance::outgrow_history(store).await));
    }

    #[test]
    fn writes_are_refused_while_it_is_held_and_go_to_the_new_store_afterwards() {
        let (old, new) = (Arc::new(SimStore::new(1)), Arc::new(SimStore::new(2)));
        let switch = Switch::new(old.clone());
        block_on(switch.commit(put("a"))).unwrap();
        let mut watch = block_on(switch.watch(Path(Box::from([])), Revision(1))).unwrap();
        let hold = block_on(switch.hold());
        assert_eq!(block_on(switch.commit(put("b"))), Err(StoreError::Held));
        assert!(block_on(switch.get(&Path(Box::from(*b"a")), Read::Fresh)).unwrap().is_some());
        switch.replace(new.clone(), &hold);
        assert_eq!(block_on(watch.next()), Event::Lost);
        assert_eq!(block_on(switch.commit(put("b"))), Err(StoreError::Held));
        drop(hold);
        block_on(switch.commit(put("c"))).unwrap();
        assert_eq!((old.raw_rows().len(), new.raw_rows().len()), (1, 1));
        let ended = async { matches!(first(watch.next(), async {}).await, First::Right(())) };
        assert!(block_on(ended), "after its end a watch tells nothing");
    }

    #[test]
    fn a_commit_that_runs_is_waited_for() {
        let old = Arc::new(SimStore::new(1));
        let clock = Arc::new(SimClock::new());
        let (switch, timer) = (Switch::new(old.clone()), clock.clone());
        old.delay(move || timer.sleep(std::time::Duration::from_secs(1)));
        let mut commit = Box::pin(switch.commit(put("a")));
        let mut hold = Box::pin(switch.hold());
        let none = || std::future::ready(());
        assert!(matches!(block_on(first(commit.as_mut(), none())), First::Right(())));
        assert!(matches!(block_on(first(hold.as_mut(), none())), First::Right(())));
        clock.advance(std::time::Duration::from_secs(1));
        assert!(matches!(block_on(first(commit.as_mut(), none())), First::Left(Ok(_))));
        drop(commit);
        assert!(matches!(block_on(first(hold.as_mut(), none())), First::Left(_)));
    }
}
