//! The context that keys are stored and used with: the tables, the device, the lifetime of the phase, and counts in
//! memory.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use async_lock::Semaphore;
use casemate_api::limits::KEY_DETAILS_READS_MAX;

use crate::device::Device;
use crate::error::Error;
use crate::identity::caller::Scope;
use crate::keys::counters::{self, Counters};
use crate::keys::quotas::{self, QuotaGuard, QuotaTurns};
use crate::rows::counter::CounterRecord;
use crate::rows::path::{KeyRef, RowPath};
use crate::rows::tables::Tables;
use crate::runtime::lifetime::Lifetime;
use crate::runtime::party::Party;
use crate::runtime::pool::Work;

/// The context that the keys of one phase are stored and used with.
#[derive(Clone, Copy)]
pub struct Keyring<'a> {
    pub(crate) tables: &'a Tables,
    pub(crate) device: &'a Device,
    pub(crate) life: &'a Lifetime,
    pub(crate) state: &'a KeyState,
}

/// What is in memory while a phase lasts: uses of keys, whose turn it is in namespaces with a quota and to read details, and
/// whether keys are indexed.
#[derive(Default)]
pub(crate) struct KeyState {
    /// Shared with the phase that follows if the data stays the same.
    pub(crate) counters: Arc<Counters>,
    pub(crate) quota_turns: QuotaTurns,
    pub(crate) details_turns: DetailsTurns,
    /// Whether it is known that all keys are indexed.
    pub(crate) indexed: AtomicBool,
}

/// Whose turn it is to read rows for details, each of which may be as large as any row.
pub(crate) struct DetailsTurns(pub(crate) Semaphore);

impl Default for DetailsTurns {
    fn default() -> Self {
        Self(Semaphore::new(KEY_DETAILS_READS_MAX))
    }
}

impl Keyring<'_> {
    /// Runs `job` on the pool, unless the phase has ended by then.
    pub(crate) async fn off_thread<T: Send + 'static>(
        &self,
        work: Work,
        party: Party,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Error> {
        self.life.off_thread(&*self.device.platform.pool, work, party, job).await
    }

    /// Waits for the turn to change keys of a scope that has a quota; an empty guard if it has none.
    pub(crate) async fn hold_quota(&self, scope: &Scope) -> Result<QuotaGuard, Error> {
        quotas::hold(self.tables, &self.state.quota_turns, scope).await
    }

    /// Returns how often the key was used, on all devices together.
    pub(crate) async fn operations(&self, key: KeyRef) -> Result<u64, Error> {
        counters::operations(self.tables, &self.state.counters, key).await
    }

    /// The paths of a key's counts, for the transaction that deletes it.
    pub(crate) async fn counts_of(&self, key: KeyRef) -> Result<Vec<RowPath<CounterRecord>>, Error> {
        counters::paths(self.tables, &self.device.id, key).await
    }

    /// Removes what is left of the counts of a deleted key.
    pub(crate) async fn forget_counts(&self, key: KeyRef) {
        self.state.counters.forget(key);
        counters::remove_late(self.tables, key).await;
    }

    /// Writes every count that changed. Called hourly and before lock, reboot and shutdown.
    pub(crate) async fn flush_counters(&self) -> Result<(), Error> {
        counters::flush(self.tables, &self.state.counters, &self.device.id).await
    }
}
