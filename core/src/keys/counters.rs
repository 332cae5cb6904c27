//! Usage counts of keys. They are kept in memory and written seldom, so that a signature costs no write to the disk.
//!
//! Uses that are not written yet are lost if the process crashes, as with NetHSM; lock, reboot and shutdown write them.
//!
//! Each device has a row of its own for each key. It is written only while the key is there, so that a key which another node
//! has deleted leaves no row behind. Uses are lost if another node renames the key before they are written, and this one does
//! not use it again.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use casemate_api::KeyId;
use casemate_api::limits::STORE_TXN_MAX_OPS;

use crate::error::Error;
use crate::rows::counter::CounterRecord;
use crate::rows::path::{KeyRef, NamespaceNumber, RowPath, RowPrefix};
use crate::rows::tables::Tables;
use crate::rows::transaction::{Committed, Transaction};
use crate::store::Revision;

const STRIPES: usize = 64;

/// Uses that are not written yet.
pub struct Counters {
    pending: [Mutex<HashMap<KeyRef, Uses>>; STRIPES],
    /// Held while uses move from memory to the store, so that no reader counts them twice or misses them.
    moving: async_lock::RwLock<()>,
    /// The stripe that the next flush begins with: one that is cut off must not always leave the same keys out.
    first: AtomicUsize,
}

/// While it lives, no uses move from memory to the store.
pub(crate) struct Steady<'a> {
    counters: &'a Counters,
    _moving: async_lock::RwLockReadGuard<'a, ()>,
}

impl Steady<'_> {
    /// The key has another id from the revision `at` on.
    pub(crate) fn renamed(&mut self, key: KeyRef, id: &KeyId, at: Revision) {
        if let Some(uses) = self.counters.stripe(key).get_mut(&key) {
            uses.known_as(id, at);
        }
    }
}

/// Uses of one key.
struct Uses {
    count: u64,
    /// The id of the key, as of the revision `at` of its row.
    id: KeyId,
    at: Revision,
    /// The last write of them that was begun, if it is not known whether it was done.
    begun: Option<Begun>,
}

/// A write of uses: how many, and what the stored count became.
#[derive(Clone, Copy)]
struct Begun {
    count: u64,
    total: u64,
}

impl Uses {
    /// Uses may end in another order than the key is renamed in.
    fn known_as(&mut self, id: &KeyId, at: Revision) {
        if self.at < at {
            self.at = at;
            if self.id != *id {
                self.id = id.clone();
            }
        }
    }
}

impl Default for Counters {
    fn default() -> Self {
        Self {
            pending: std::array::from_fn(|_| Mutex::default()),
            moving: async_lock::RwLock::new(()),
            first: AtomicUsize::new(0),
        }
    }
}

impl Counters {
    /// Counts one use of the key, which had this id as of the revision `at` of its row.
    pub fn count(&self, key: KeyRef, id: &KeyId, at: Revision) {
        match self.stripe(key).entry(key) {
            Entry::Occupied(mut known) => {
                known.get_mut().count += 1;
                known.get_mut().known_as(id, at);
            }
            Entry::Vacant(new) => {
                new.insert(Uses { count: 1, id: id.clone(), at, begun: None });
            }
        }
    }

    /// Counts uses again that could not be written.
    fn put_back(&self, key: KeyRef, uses: Uses) {
        match self.stripe(key).entry(key) {
            Entry::Occupied(mut newer) => {
                newer.get_mut().count += uses.count;
                newer.get_mut().begun = uses.begun;
                newer.get_mut().known_as(&uses.id, uses.at);
            }
            Entry::Vacant(new) => {
                new.insert(uses);
            }
        }
    }

    fn take(&self, key: KeyRef) -> Option<Uses> {
        self.stripe(key).remove(&key)
    }

    fn pending(&self, key: KeyRef) -> u64 {
        self.stripe(key).get(&key).map_or(0, |uses| uses.count)
    }

    /// Keeps uses from being written until the result is dropped.
    pub(crate) async fn steady(&self) -> Steady<'_> {
        Steady { counters: self, _moving: self.moving.read().await }
    }

    /// Drops the uses of a deleted key.
    pub(crate) fn forget(&self, key: KeyRef) {
        self.take(key);
    }

    /// Drops the uses of all keys of a deleted namespace.
    pub fn forget_namespace(&self, namespace: NamespaceNumber) {
        for stripe in &self.pending {
            stripe.lock().unwrap_or_else(PoisonError::into_inner).retain(|key, _| key.namespace != namespace);
        }
    }

    fn dirty(&self) -> Vec<KeyRef> {
        let keys = |stripe: &Mutex<HashMap<KeyRef, Uses>>| {
            stripe.lock().unwrap_or_else(PoisonError::into_inner).keys().copied().collect::<Vec<_>>()
        };
        let (before, from) = self.pending.split_at(self.first.load(Ordering::Relaxed) % STRIPES);
        from.iter().chain(before).flat_map(keys).collect()
    }

    #[expect(clippy::indexing_slicing, reason = "the index is taken modulo the length; uids are random")]
    fn stripe(&self, key: KeyRef) -> MutexGuard<'_, HashMap<KeyRef, Uses>> {
        self.pending[stripe_of(key)].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns how often the key was used, on all devices together.
pub(crate) async fn operations(tables: &Tables, counters: &Counters, key: KeyRef) -> Result<u64, Error> {
    let table = &tables.counters;
    let _steady = counters.steady().await;
    let mut total = counters.pending(key);
    let (paths, _) = table.paths(&RowPrefix::counters(tables.generation, key), None).await?;
    for path in paths {
        total = total.saturating_add(table.get(&path).await?.map_or(0, |row| row.record.count));
    }
    Ok(total)
}

/// The paths of the key's counts on all devices, this one's first; of more than a transaction may change, the first.
pub(crate) async fn paths(tables: &Tables, device_id: &str, key: KeyRef) -> Result<Vec<RowPath<CounterRecord>>, Error> {
    let own = RowPath::counter(tables.generation, key, device_id);
    let mut others = match tables.is_shared() {
        true => tables.counters.paths(&RowPrefix::counters(tables.generation, key), None).await?.0,
        false => Vec::new(),
    };
    others.retain(|path| *path != own);
    Ok(std::iter::once(own).chain(others).take(STORE_TXN_MAX_OPS / 2).collect())
}

/// Removes the counts of a deleted key that other nodes wrote while it was being deleted, or that were too many for its
/// transaction. From the deletion on, none are added. Failing that is logged: they only take room.
pub(crate) async fn remove_late(tables: &Tables, key: KeyRef) {
    if tables.is_shared()
        && let Err(error) = tables.sweep(&tables.counters, &RowPrefix::counters(tables.generation, key)).await
    {
        tracing::warn!(target: "hsm.key", %error, "counts of a deleted key could not be removed");
    }
}

/// Writes every count of this device that changed.
pub(crate) async fn flush(tables: &Tables, counters: &Counters, device_id: &str) -> Result<(), Error> {
    for group in counters.dirty().chunks(GROUP) {
        let _moving = counters.moving.write().await;
        if let Some(key) = group.first() {
            counters.first.store(stripe_of(*key), Ordering::Relaxed);
        }
        let taken = group.iter().filter_map(|key| Some((*key, counters.take(*key)?))).collect();
        add_uses(tables, device_id, Taken { counters, uses: taken }).await?;
    }
    Ok(())
}

/// Adds uses to the stored counts of this device, which only this device writes. The first uses of a key need a new row,
/// which a nearly full disk refuses: they stay in memory, as do those of a key that is being changed.
async fn add_uses(tables: &Tables, device_id: &str, mut taken: Taken<'_>) -> Result<(), Error> {
    let Tables { keys, counters: counts, generation, .. } = tables;
    let key_path = |(key, uses): &(KeyRef, Uses)| RowPath::key(*generation, key.namespace, &uses.id);
    let count_path = |key: KeyRef| RowPath::counter(*generation, key, device_id);
    let found = keys.get_many(&taken.uses.iter().map(key_path).collect::<Vec<_>>()).await?;
    let mut found = found.into_iter();
    // What was used and is not there has been deleted.
    let mut rows = Vec::with_capacity(taken.uses.len());
    taken.uses.retain(|(key, _)| {
        let row = found.next().flatten().filter(|row| row.record.uid == key.uid);
        rows.extend(row.as_ref().map(|row| row.revision));
        row.is_some()
    });
    let stored = counts.read_many(&taken.uses.iter().map(|(key, _)| count_path(*key)).collect::<Vec<_>>()).await?;
    let (mut known, mut first) = (Vec::new(), Vec::new());
    for (((key, uses), revision), stored) in taken.uses.iter_mut().zip(rows).zip(stored) {
        let path = count_path(*key);
        let before = stored.as_ref().map_or(0, |row| row.record.count);
        // Only this device writes its own counts.
        if let Some(done) = uses.begun.take().filter(|begun| begun.total <= before) {
            uses.count = uses.count.saturating_sub(done.count);
        }
        let count = before.saturating_add(uses.count);
        uses.begun = Some(Begun { count: uses.count, total: count });
        let key_path = RowPath::key(*generation, key.namespace, &uses.id);
        let sealed = counts.sealed(&path, Revision::default(), &CounterRecord { count })?;
        let transaction = Transaction::default().put(sealed);
        let guarded = |transaction: Transaction| transaction.at(&key_path, revision);
        match &stored {
            None => first.push((*key, guarded(transaction.absent(&path)))),
            Some(row) => known.push((*key, guarded(transaction.at(&path, row.revision).reserved()))),
        }
    }
    let mut outcome = Ok(());
    for group in [known, first] {
        let (group, transactions): (Vec<KeyRef>, Vec<_>) = group.into_iter().unzip();
        for (key, result) in group.into_iter().zip(tables.commit_all(transactions).await) {
            match result {
                Ok(Committed::At(_)) => taken.uses.retain(|(other, _)| *other != key),
                // The key was changed since it was read, or an earlier write was done only now.
                Ok(Committed::Conflict(_)) => {}
                Err(error) => outcome = Err(error),
            }
        }
    }
    outcome
}

/// Uses that are being written. On drop, those that were not written are counted in memory again.
struct Taken<'a> {
    counters: &'a Counters,
    uses: Vec<(KeyRef, Uses)>,
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        self.uses.drain(..).for_each(|(key, uses)| self.counters.put_back(key, uses));
    }
}

fn stripe_of(key: KeyRef) -> usize {
    let [first, ..] = key.uid;
    usize::from(first) % STRIPES
}

/// Number of counts written in one commit.
const GROUP: usize = 512;
