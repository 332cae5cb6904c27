//! Power failures during a restore.

use super::*;

/// Both stores of a device, which lose power after a given number of writes.
struct Power {
    left: Arc<AtomicUsize>,
    store: Arc<SimStore>,
}

impl Store for Power {
    fn get<'a>(&'a self, path: &'a Path, read: Read) -> BoxFuture<'a, Result<Option<Versioned>, StoreError>> {
        self.store.get(path, read)
    }
    fn is_shared(&self) -> bool {
        self.store.is_shared()
    }
    fn get_many<'a>(
        &'a self,
        paths: &'a [Path],
        read: Read,
    ) -> BoxFuture<'a, Result<Vec<Option<Versioned>>, StoreError>> {
        self.store.get_many(paths, read)
    }
    fn range(&self, range: Range, read: Read) -> BoxFuture<'_, Result<Page, StoreError>> {
        self.store.range(range, read)
    }
    fn commit(&self, txns: Vec<Txn>) -> BoxFuture<'_, Result<Vec<Outcome>, StoreError>> {
        let left = self.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
        match left {
            Ok(_) => self.store.commit(txns),
            Err(_) => Box::pin(async { Err(StoreError::Unreachable("the power is gone".into())) }),
        }
    }
    fn watch(&self, prefix: Path, from: Revision) -> BoxFuture<'_, Result<Box<dyn Watch>, StoreError>> {
        self.store.watch(prefix, from)
    }
    fn snapshot(&self) -> BoxFuture<'_, Result<Box<dyn Snapshot>, StoreError>> {
        self.store.snapshot()
    }
}

/// Restores on a device that loses power after each possible number of writes, boots it again, and calls `check` with
/// it and whether the restore was answered with success.
fn with_crashes(
    prepare: impl Fn() -> Sim,
    act: impl Fn(&Arc<Hsm>) -> bool,
    check: impl Fn(&Sim, Arc<Hsm>, bool),
) -> usize {
    for writes in 0.. {
        let sim = prepare();
        let left = Arc::new(AtomicUsize::new(usize::MAX));
        let power = |store: &Arc<SimStore>| Arc::new(Power { left: left.clone(), store: store.clone() });
        let platform = Platform { store: power(&sim.store), local: power(&sim.local), ..sim.platform() };
        let hsm = boot_on(platform);
        left.store(writes, Ordering::SeqCst);
        let done = act(&hsm);
        let spare = left.load(Ordering::SeqCst) > 0;
        drop(hsm);
        check(&sim, boot(&sim), done);
        if done && spare {
            return writes;
        }
    }
    unreachable!()
}

#[test]
fn a_crash_during_a_restore_leaves_the_old_data_or_the_new() {
    let (_, source) = world();
    let (file, expected) = (backup_of(&source), described(&source));

    // On a new device.
    let fresh = |sim: &Sim, hsm: Arc<Hsm>, done: bool| match hsm.state() {
        State::Unprovisioned => {
            assert!(!done && sim.store.raw_rows().is_empty());
            assert_eq!(block_on(Procedure::stored(&hsm.device().store)).unwrap(), None);
        }
        _ => {
            unlock(&hsm, UNLOCK).unwrap();
            assert_eq!(described(&hsm), expected);
            assert_eq!(generations(sim), [2]);
        }
    };
    let steps = with_crashes(|| device(9), |hsm| restore(hsm, &file).is_ok(), fresh);
    assert!(steps >= 3, "{steps}");

    // On a device that serves, a backup of its own.
    let prepare = || {
        let (sim, hsm) = world();
        put_user(&op(&hsm), "later", Scheme::Scrypt);
        sim
    };
    let mut before = expected.clone();
    before.insert(1, described(&boot(&prepare()))[1].clone());
    let serving = |sim: &Sim, hsm: Arc<Hsm>, done: bool| {
        let now = described(&hsm);
        assert!(now == expected || (!done && now.len() == before.len()), "{done}");
        assert_eq!(block_on(Procedure::stored(&hsm.device().store)).unwrap(), None);
        assert_eq!(generations(sim).len(), 1, "{done}");
    };
    let steps = with_crashes(prepare, |hsm| restore_as(hsm, &file, None, None).is_ok(), serving);
    assert!(steps >= 5, "{steps}");
}

#[test]
fn a_crash_during_a_restore_at_a_node_of_a_shared_store_leaves_nothing_staged() {
    let (_, source) = world();
    let file = backup_of(&source);
    let expected = described(&source);
    let device = || {
        let sim = device(9);
        sim.store.share(true);
        sim
    };
    let check = |sim: &Sim, hsm: Arc<Hsm>, done: bool| {
        if hsm.state() == State::Unprovisioned {
            assert!(!done);
        } else {
            unlock(&hsm, UNLOCK).unwrap();
            assert_eq!(described(&hsm), expected);
            assert_eq!(generations(sim), [2]);
        }
        assert_eq!(block_on(Procedure::stored(&hsm.device().store)).unwrap(), None);
        assert_eq!((staged(&sim.store), staged(&sim.local)), (0, 0));
    };
    let act = |hsm: &Arc<Hsm>| restore(hsm, &file).is_ok() && unlock(hsm, UNLOCK).is_ok();
    let steps = with_crashes(device, act, check);
    assert!(steps >= 5, "{steps}");
}

#[test]
fn a_crash_during_the_first_unlock_starts_the_conversion_over() {
    let (_, source) = world();
    let (file, expected) = (backup_of(&source), described(&source));
    let restored = device(10);
    restore(&boot(&restored), &file).unwrap();
    let (shared, local) = (restored.store.raw_rows(), restored.local.raw_rows());
    let prepare = || {
        let sim = device(10);
        fill(&sim.store, &shared);
        fill(&sim.local, &local);
        sim
    };
    let check = |sim: &Sim, hsm: Arc<Hsm>, _: bool| {
        unlock(&hsm, UNLOCK).unwrap();
        assert_eq!(described(&hsm), expected);
        index::tests::check(&op(&hsm), &*sim.store);
        assert_eq!(generations(sim), [2]);
        assert_eq!(block_on(Procedure::stored(&hsm.device().store)).unwrap(), None);
    };
    let steps = with_crashes(prepare, |hsm| unlock(hsm, UNLOCK).is_ok(), check);
    assert!(steps >= 3, "{steps}");
}

#[test]
fn a_lost_answer_is_settled_by_what_is_stored() {
    let (_, source) = world();
    let file = backup_of(&source);
    let mut fates = [0, 0];
    for seed in 20..32 {
        let sim = device(seed);
        let hsm = boot(&sim);
        let arguments = RestoreArguments::new(Some(secret(BACKUP)), None).unwrap();
        let mut restore = hsm.begin_restore(None).unwrap();
        restore.arguments(arguments);
        block_on(restore.feed(&file)).unwrap();
        sim.local.lose_answers(1);
        let done = block_on(restore.finish()).is_ok();
        block_on(restore.abandon());
        let state = if done { State::Locked } else { State::Unprovisioned };
        assert_eq!(hsm.state(), state);
        assert_eq!(boot(&sim).state(), state, "the next boot agrees");
        fates[usize::from(done)] += 1;
    }
    assert!(fates.iter().all(|fate| *fate > 0), "both fates were met: {fates:?}");
}

/// A store that applies the last of `left` commits without answering and then cannot be reached until `back`.
struct Away {
    left: Arc<AtomicUsize>,
    store: Arc<SimStore>,
}

impl Away {
    const BACK: usize = usize::MAX;

    fn gone<T: Send + 'static>() -> BoxFuture<'static, Result<T, StoreError>> {
        Box::pin(async { Err(StoreError::Unreachable("the store is away".into())) })
    }
}

impl Store for Away {
    fn get<'a>(&'a self, path: &'a Path, read: Read) -> BoxFuture<'a, Result<Option<Versioned>, StoreError>> {
        if self.left.load(Ordering::SeqCst) == 0 { Self::gone() } else { self.store.get(path, read) }
    }
    fn is_shared(&self) -> bool {
        self.store.is_shared()
    }
    fn get_many<'a>(
        &'a self,
        paths: &'a [Path],
        read: Read,
    ) -> BoxFuture<'a, Result<Vec<Option<Versioned>>, StoreError>> {
        if self.left.load(Ordering::SeqCst) == 0 { Self::gone() } else { self.store.get_many(paths, read) }
    }
    fn range(&self, range: Range, read: Read) -> BoxFuture<'_, Result<Page, StoreError>> {
        if self.left.load(Ordering::SeqCst) == 0 { Self::gone() } else { self.store.range(range, read) }
    }
    fn commit(&self, txns: Vec<Txn>) -> BoxFuture<'_, Result<Vec<Outcome>, StoreError>> {
        match self.left.load(Ordering::SeqCst) {
            Self::BACK => return self.store.commit(txns),
            0 => return Self::gone(),
            left => self.left.store(left - 1, Ordering::SeqCst),
        }
        Box::pin(async move {
            let done = self.store.commit(txns).await;
            if self.left.load(Ordering::SeqCst) == 0 { Self::gone().await } else { done }
        })
    }
    fn watch(&self, prefix: Path, from: Revision) -> BoxFuture<'_, Result<Box<dyn Watch>, StoreError>> {
        self.store.watch(prefix, from)
    }
    fn snapshot(&self) -> BoxFuture<'_, Result<Box<dyn Snapshot>, StoreError>> {
        self.store.snapshot()
    }
}

#[test]
fn a_store_that_fails_during_a_restore_lets_nobody_write_into_replaced_data() {
    let (_, source) = world();
    let (file, expected) = (backup_of(&source), described(&source));
    let mut replaced_unseen = 0;
    for commits in 1.. {
        let (sim, _) = world();
        let left = Arc::new(AtomicUsize::new(Away::BACK));
        let away = Arc::new(Away { left: left.clone(), store: sim.store.clone() });
        let hsm = boot_on(Platform { store: away, ..sim.platform() });
        put_user(&op(&hsm), "later", Scheme::Scrypt);
        left.store(commits, Ordering::SeqCst);
        let done = restore_as(&hsm, &file, None, None).is_ok();
        let reached = left.swap(Away::BACK, Ordering::SeqCst) == 0;
        if !reached {
            assert!(done && replaced_unseen > 0, "{replaced_unseen}");
            return;
        }
        if hsm.state() == State::Operational {
            // What is acknowledged now is still there after a restart.
            put_user(&op(&hsm), "after", Scheme::Scrypt);
            let now = described(&hsm);
            assert_eq!(described(&boot(&sim)), now, "{commits}");
        } else {
            unlock(&hsm, UNLOCK).unwrap();
            let replaced = described(&hsm) == expected;
            assert!(replaced || !done, "{commits}");
            replaced_unseen += usize::from(replaced && !done);
        }
    }
}
