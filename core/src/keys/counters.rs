//! Usage counts of keys. They are kept in memory and written seldom, so that a signature costs no write to the disk.
//!
//! Uses that are not written yet are lost if the process crashes, as with NetHSM; lock, reboot and shutdown write them.

use crate::rows::counter::CounterRecord;
use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::error::Error;
use crate::rows::path::{KeyRef, NamespaceNumber, RowPath, RowPrefix};
use crate::rows::tables::Tables;
use crate::rows::transaction::Transaction;
use crate::store::Revision;

const STRIPES: usize = 64;

/// Uses that are not written yet.
pub struct Counters {
    pending: [Mutex<HashMap<KeyRef, u64>>; STRIPES],
    /// Held while uses move from memory to the store, so that no reader counts them twice or misses them.
    moving: async_lock::Mutex<()>,
}

impl Default for Counters {
    fn default() -> Self {
        Self { pending: std::array::from_fn(|_| Mutex::default()), moving: async_lock::Mutex::new(()) }
    }
}

impl Counters {
    /// Counts one use.
    pub fn count(&self, key: KeyRef) {
        self.add(key, 1);
    }

    fn add(&self, key: KeyRef, uses: u64) {
        *self.stripe(key).entry(key).or_default() += uses;
    }

    fn take(&self, key: KeyRef) -> u64 {
        self.stripe(key).remove(&key).unwrap_or_default()
    }

    fn pending(&self, key: KeyRef) -> u64 {
        self.stripe(key).get(&key).copied().unwrap_or_default()
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
        let keys = |stripe: &Mutex<HashMap<KeyRef, u64>>| {
            stripe.lock().unwrap_or_else(PoisonError::into_inner).keys().copied().collect::<Vec<_>>()
        };
        self.pending.iter().flat_map(keys).collect()
    }

    #[expect(clippy::indexing_slicing, reason = "the index is taken modulo the length; uids are random")]
    fn stripe(&self, key: KeyRef) -> MutexGuard<'_, HashMap<KeyRef, u64>> {
        self.pending[usize::from(key.uid[0]) % STRIPES].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns how often the key was used, on all devices together.
pub(crate) async fn operations(tables: &Tables, counters: &Counters, key: KeyRef) -> Result<u64, Error> {
    let table = &tables.counters;
    let _steady = counters.moving.lock().await;
    let prefix = RowPrefix::counters(tables.generation, key);
    let mut total = counters.pending(key);
    let (paths, _) = table.paths(&prefix, None).await?;
    for path in paths {
        total = total.saturating_add(table.get(&path).await?.map_or(0, |row| row.record.count));
    }
    Ok(total)
}

/// Writes every count of this device that changed.
pub(crate) async fn flush(tables: &Tables, counters: &Counters, device_id: &str) -> Result<(), Error> {
    for group in counters.dirty().chunks(GROUP) {
        let _moving = counters.moving.lock().await;
        let mut taken = Taken { counters, uses: Vec::with_capacity(group.len()) };
        // A key that has been deleted since has none left.
        taken.uses.extend(group.iter().map(|key| (*key, counters.take(*key))).filter(|(_, uses)| *uses > 0));
        add_uses(tables, device_id, &mut taken.uses).await?;
    }
    Ok(())
}

/// Adds uses to the stored counts of this device, which only this device writes, and removes from `uses` what was
/// added. The first uses of a key need a new row, which a nearly full disk refuses: they stay in memory.
async fn add_uses(tables: &Tables, device_id: &str, uses: &mut Vec<(KeyRef, u64)>) -> Result<(), Error> {
    let table = &tables.counters;
    let (mut known, mut first) = (Vec::new(), Vec::new());
    for (key, uses) in uses.iter() {
        let path = RowPath::counter(tables.generation, *key, device_id);
        let stored = table.read(&path).await?;
        let count = stored.as_ref().map_or(0, |row| row.record.count).saturating_add(*uses);
        let transaction =
            Transaction::default().put(table.sealed(&path, Revision::default(), &CounterRecord { count })?);
        match &stored {
            None => first.push((*key, transaction.absent(&path))),
            Some(row) => known.push((*key, transaction.at(&path, row.revision).reserved())),
        }
    }
    for group in [known, first] {
        let (done, transactions): (Vec<KeyRef>, Vec<_>) = group.into_iter().unzip();
        // Only this device writes its own counts, so a conflict means that an earlier write succeeded and its answer
        // was lost.
        tables.commit_all(transactions).await?;
        uses.retain(|(key, _)| !done.contains(key));
    }
    Ok(())
}

/// Uses that are being written. On drop, those that were not written are counted in memory again.
struct Taken<'a> {
    counters: &'a Counters,
    uses: Vec<(KeyRef, u64)>,
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        self.uses.iter().for_each(|(key, uses)| self.counters.add(*key, *uses));
    }
}

/// Number of counts written in one commit.
const GROUP: usize = 512;
