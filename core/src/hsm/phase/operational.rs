//! Operational: the Domain Key is in memory. Users, namespaces and keys are reached only through this type.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use casemate_api::limits::BODY_INLINE_MAX_BYTES;
use casemate_api::{Passphrase, UserId};
use futures_channel::oneshot;

use crate::backup::Backups;
use crate::config::Config;
use crate::crypto::secret::DomainKey;
use crate::device::Device;
use crate::device::limiter::Guess;
use crate::device::slots::{self, Slot0, SlotSet};
use crate::device::store::DeviceStoreChange;
use crate::error::Error;
use crate::hsm::phase::check_cluster;
use crate::identity::caller::{self, Caller, Evidence, Failure, LoginState, Logins};
use crate::identity::right::{Held, Rights};
use crate::identity::users::{self, Users};
use crate::keys::context::{KeyState, Keyring};
use crate::keys::counters::Counters;
use crate::keys::namespaces::Namespaces;
use crate::platform::Platform;
use crate::rows::path::DevicePath;
use crate::rows::table::{CacheFigures, Row};
use crate::rows::tables::Tables;
use crate::rows::user::UserRecord;
use crate::runtime::lifetime::Lifetime;
use crate::runtime::party::Party;
use crate::runtime::pool::Work;

/// The HSM while it can be used: the Domain Key, the tables it opens, the device, and the state in memory of this phase.
/// Not `Clone`, and created only by the transitions of the HSM.
pub struct Operational {
    domain: DomainKey,
    pub(crate) tables: Tables,
    pub(crate) device: Arc<Device>,
    logins: LoginState,
    keys: KeyState,
    /// Orders acts on a caller's right outside the shared store against changes that take rights away.
    rights: Rights,
    /// Number of running backups.
    backups: Arc<AtomicUsize>,
    /// Dropped last, so that everything else is gone when its end is reported to those who wait for it.
    pub(crate) life: Lifetime,
}

impl Operational {
    pub(crate) async fn open(device: Arc<Device>, domain: DomainKey) -> Result<Arc<Self>, Error> {
        Self::open_with(device, domain, Arc::default()).await
    }

    /// [`Operational::open`], with uses of keys that were counted before.
    pub(crate) async fn open_with(
        device: Arc<Device>,
        domain: DomainKey,
        counters: Arc<Counters>,
    ) -> Result<Arc<Self>, Error> {
        // The store may be another one than at boot.
        check_cluster(&device).await?;
        let Platform { store, rng, clock, .. } = device.platform.clone();
        let tables = Tables::open(store, rng, clock, &domain, &device.id).await?;
        // In an `Arc` from the start, because it is large and would be moved with the futures.
        Ok(Arc::new(Self {
            domain,
            tables,
            logins: LoginState::new(&device),
            device,
            life: Lifetime::default(),
            keys: KeyState { counters, ..KeyState::default() },
            rights: Rights::default(),
            backups: Arc::default(),
        }))
    }

    fn logins(&self) -> Logins<'_> {
        Logins { tables: &self.tables, device: &self.device, life: &self.life, state: &self.logins }
    }

    /// Authenticates a caller. Cached credentials cost a keyed hash; others the slow hash, on the pool. At most one wrong guess
    /// a second is checked per user name and neighbourhood; [`crate::identity::guesses`] explains why.
    pub async fn authenticate(&self, evidence: Evidence<'_>) -> Result<Caller, Failure> {
        self.logins().authenticate(evidence).await
    }

    /// Checks again a caller who was authenticated some time ago, and returns their current role, tags and namespace. Fails if
    /// the user was deleted or their passphrase was changed since.
    pub async fn renew(&self, caller: Caller) -> Result<Caller, Failure> {
        self.logins().renew(caller).await
    }

    /// Reads the rows of a caller again who is to be refused, so that the next authentication knows what was changed at another
    /// node and has not reached this one's caches yet.
    pub async fn refresh(&self, caller: &Caller) -> Result<(), Error> {
        self.logins().refresh(caller).await
    }

    /// A caller without authentication, for tests only.
    #[cfg(any(test, feature = "sim"))]
    pub async fn unauthenticated_caller(&self, id: &UserId) -> Result<Caller, Failure> {
        self.logins().unauthenticated_caller(id).await
    }

    /// Checks that `caller` still has their rights, and keeps them from being taken away until the result is dropped. For acts
    /// that are not part of a transaction.
    pub async fn hold(&self, caller: &Caller) -> Result<Held, Error> {
        self.rights.hold(&self.tables, caller).await
    }

    /// A user. `None`: it does not exist.
    pub async fn user(&self, id: &UserId) -> Result<Option<Arc<Row<UserRecord>>>, Error> {
        caller::stored_user(&self.tables, id).await
    }

    /// Operations on users.
    pub fn users(&self) -> Users<'_> {
        Users { tables: &self.tables, device: &self.device, rights: &self.rights }
    }

    /// Operations on namespaces.
    pub fn namespaces(&self) -> Namespaces<'_> {
        Namespaces { tables: &self.tables, counters: &self.keys.counters, turns: &self.keys.quota_turns }
    }

    /// Operations on keys. A caller's scope restricts which keys are visible.
    pub fn keys(&self) -> Keyring<'_> {
        Keyring { tables: &self.tables, device: &self.device, life: &self.life, state: &self.keys }
    }

    /// Operations on the configuration.
    pub fn config(&self) -> Config<'_> {
        Config { tables: &self.tables, device: &self.device, rights: &self.rights, life: &self.life }
    }

    /// Backups.
    pub fn backups(&self) -> Backups<'_> {
        Backups { domain: &self.domain, ring: self.keys(), running: &self.backups }
    }

    /// Whether unattended boot is on: the HSM boots to Operational without the unlock passphrase.
    pub async fn unattended_boot(&self) -> Result<bool, Error> {
        slots::is_unattended(&self.device.store).await
    }

    /// Switches unattended boot on or off. If on, slot 1 holds the Domain Key sealed under the Device Key alone.
    pub async fn set_unattended_boot(&self, by: &Caller, on: bool) -> Result<(), Error> {
        let _guard = self.device.store.changing_unlock.lock().await;
        // With the guard held: a restore that replaces the slots closes the phase before it releases the guard.
        let change = DeviceStoreChange::default();
        let change = match on {
            true => change.put(DevicePath::Slot1, self.domain.expose().to_vec()),
            false => change.delete(DevicePath::Slot1),
        };
        self.commit_local(by, change).await
    }

    /// Sets the unlock passphrase.
    ///
    /// # Errors
    /// [`Error::Forbidden`] if `current` is not the passphrase in use; [`Error::TooMany`] if `by` gave a wrong one less than a
    /// second ago; [`Error::Invalid`] if `new` has a wrong length.
    pub async fn change_unlock_passphrase(
        &self,
        by: &Caller,
        new: &Passphrase,
        current: &Passphrase,
    ) -> Result<(), Error> {
        users::check_length("passphrase", new)?;
        let party = by.scope()?.party();
        let Device { platform, store, .. } = &*self.device;
        let guess = self.device.admit(Guess::CurrentUnlock(&by.id))?;
        let _guard = store.changing_unlock.lock().await;
        let missing = || Error::internal("slot 0 is missing");
        let slot = Slot0::read(store, SlotSet::Current).await?.ok_or_else(missing)?;
        let Some(opened) = slot.open(platform, party, current.expose()).await? else {
            guess.wrong();
            return Err(Error::Forbidden(Some("unlock passphrase is incorrect.".into())));
        };
        guess.right();
        if !opened.ct_eq(&self.domain) {
            return Err(Error::internal("slot 0 holds another Domain Key"));
        }
        let change = DeviceStoreChange::default();
        let change = slots::with_slot0(change, platform, party, new.expose(), &self.domain).await?;
        self.commit_local(by, change).await
    }

    async fn commit_local(&self, by: &Caller, change: DeviceStoreChange) -> Result<(), Error> {
        self.rights.commit_local(&self.tables, &self.device.store, by, change).await
    }

    /// Writes all counters of key use that changed. Called hourly and before lock, reboot and shutdown.
    pub async fn flush_counters(&self) -> Result<(), Error> {
        self.keys().flush_counters().await
    }

    /// Identifies this device: ten characters of `A` to `Z` and `2` to `7`.
    pub fn device_id(&self) -> &str {
        &self.device.id
    }

    /// Whether other nodes use the same store of users and keys.
    pub fn shares_store(&self) -> bool {
        self.device.platform.store.is_shared()
    }

    /// For how long no majority has confirmed what this node knows, if it goes on all the same. Then requests outside
    /// [`crate::runtime::stale::within`] fail.
    pub fn stale(&self) -> Option<Duration> {
        self.tables.stale()
    }

    /// Statistics of the caches of rows since the phase began.
    pub fn cache_figures(&self) -> [CacheFigures; 5] {
        self.tables.cache_figures()
    }

    /// `length` random bytes.
    pub fn random(&self, length: usize) -> zeroize::Zeroizing<Vec<u8>> {
        let mut bytes = zeroize::Zeroizing::new(vec![0; length]);
        self.device.platform.rng.fill(&mut bytes);
        bytes
    }

    /// A new name: ten random bytes in hexadecimal, so that it is not in use.
    pub fn picked_name(&self) -> String {
        crate::keys::picked_name(&*self.device.platform.rng)
    }

    /// Uses of keys that are not written yet.
    pub(crate) fn counters(&self) -> &Arc<Counters> {
        &self.keys.counters
    }

    /// The Domain Key.
    pub(crate) fn domain(&self) -> &DomainKey {
        &self.domain
    }

    /// Runs `job` on the pool, for work that would block a serving thread for too long.
    ///
    /// # Errors
    /// [`Error::Precondition`] if the phase has ended before the job runs; [`Error::Unavailable`] if the pool has no room.
    pub async fn off_thread<T: Send + 'static>(
        &self,
        work: Work,
        party: Party,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Error> {
        self.keys().off_thread(work, party, job).await
    }

    /// Runs `job`, which processes `bytes` bytes, on this thread or, if there are many, on the pool.
    pub async fn run_by_size<T: Send + 'static>(
        &self,
        bytes: usize,
        party: Party,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Error> {
        if bytes <= BODY_INLINE_MAX_BYTES { Ok(job()) } else { self.off_thread(Work::Crypto, party, job).await }
    }

    /// Refuses all further use of keys. Counters can still be written to the store.
    pub(crate) fn retire(&self) {
        self.life.retired.close();
        self.logins.abandon();
    }

    /// Refuses everything and empties the caches. Returns a future that resolves when the last holder is gone.
    pub(crate) fn close(&self) -> Option<oneshot::Receiver<()>> {
        self.retire();
        self.tables.close();
        self.life.released()
    }
}
