//! Operational: the Domain Key is in memory. Everything that touches a user, a namespace or a key hangs off this value.

use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex, PoisonError};

use casemate_api::Passphrase;
use casemate_api::limits::{BODY_INLINE_MAX_BYTES, ROW_CACHE_BYTES};
use futures_channel::oneshot;

use crate::backup::upstream;
use crate::crypto::seal;
use crate::crypto::secret::{DomainKey, StoreKey};
use crate::device::slots::{self, Slot0, Which};
use crate::device::store::{Local, LocalChange};
use crate::error::Error;
use crate::identity::caller::{Caller, Credentials};
use crate::identity::guesses::Guesses;
use crate::identity::limiter::{Admitted, Guess, Limiter};
use crate::identity::quotas::Accounts;
use crate::identity::right::Rights;
use crate::identity::users;
use crate::keys::counters::Counters;
use crate::platform::Platform;
use crate::rows::backup_secret::BackupSecret;
use crate::rows::certificate::CertificateRecord;
use crate::rows::cluster_ca::ClusterCa;
use crate::rows::counter::CounterRecord;
use crate::rows::key::KeyRecord;
use crate::rows::namespace::NamespaceRecord;
use crate::rows::path::{Generation, LocalPath, TableId, generation_pointer};
use crate::rows::table::{CacheFigures, Closed, Doubt, Ground, Record, Table};
use crate::rows::transaction::Shared;
use crate::rows::user::UserRecord;
use crate::runtime::party::Party;
use crate::runtime::pool::{Work, run_on};
use crate::store::{Read, Txn, Versioned};

/// The HSM while it can be used. Not `Clone`, and made only by [`super::Locked`] and [`super::Unprovisioned`].
pub struct Operational {
    pub(crate) platform: Platform,
    pub(crate) shared: Shared,
    pub(crate) users: Table<UserRecord>,
    pub(crate) namespaces: Table<NamespaceRecord>,
    pub(crate) keys: Table<KeyRecord>,
    pub(crate) certificates: Table<CertificateRecord>,
    pub(crate) counts: Table<CounterRecord>,
    pub(crate) backup_secrets: Table<BackupSecret>,
    pub(crate) cluster_cas: Table<ClusterCa>,
    pub(crate) counters: Counters,
    pub(crate) accounts: Accounts,
    pub(crate) credentials: Credentials,
    pub(crate) guesses: Arc<Guesses>,
    pub(crate) limiter: Arc<Limiter>,
    pub(crate) device_id: String,
    pub(crate) closed: Closed,
    pub(crate) local: Arc<Local>,
    /// Held by who acts on a right outside the shared store, and by who takes one away.
    pub(crate) rights: Rights,
    /// Backups that are being made.
    pub(crate) backups: Arc<AtomicUsize>,
    domain: DomainKey,
    /// Resolves when the last holder is gone, this value and jobs on the pool alike: each holds the sender.
    gone: Mutex<Option<oneshot::Receiver<()>>>,
    alive: Arc<oneshot::Sender<()>>,
    /// Refuses the use of keys; comes before `closed`, which refuses everything.
    pub(crate) retired: Closed,
    /// Held by who reads or writes more than one of the rows by which the Domain Key is unlocked.
    pub(crate) changing_unlock: async_lock::Mutex<()>,
}

/// Memory each table may cache, in bytes; keys get [`ROW_CACHE_BYTES`].
const USERS_CACHE_BYTES: u64 = 64 << 20;
const SMALL_CACHE_BYTES: u64 = 16 << 20;

impl Operational {
    pub(crate) async fn open(
        platform: Platform,
        local: Arc<Local>,
        limiter: Arc<Limiter>,
        device_id: String,
        domain: DomainKey,
    ) -> Result<Arc<Self>, Error> {
        // What an earlier phase still had on its way to the disk comes before anything is read.
        platform.store.commit(vec![Txn::default()]).await?;
        let (generation, pointer) = generation(&platform).await?;
        let closed = Closed::default();
        let (alive, gone) = oneshot::channel();
        let doubt = Doubt::default();
        let tables = Tables { platform: &platform, domain: &domain, closed: &closed, doubt: &doubt };
        // Shared from the start, as it is large and futures would carry it around.
        Ok(Arc::new(Self {
            shared: Shared::new(platform.store.clone(), generation, pointer.revision, closed.clone(), doubt.clone()),
            users: tables.open(TableId::Users, USERS_CACHE_BYTES),
            namespaces: tables.open(TableId::Namespaces, SMALL_CACHE_BYTES),
            keys: tables.open(TableId::Keys, ROW_CACHE_BYTES),
            certificates: tables.open(TableId::Certificates, SMALL_CACHE_BYTES),
            counts: tables.open(TableId::Counters, SMALL_CACHE_BYTES),
            backup_secrets: tables.open(TableId::Settings, SMALL_CACHE_BYTES),
            cluster_cas: tables.open(TableId::Settings, SMALL_CACHE_BYTES),
            counters: Counters::default(),
            accounts: Accounts::default(),
            credentials: Credentials::new(&*platform.rng),
            guesses: Guesses::new(limiter.clone()),
            limiter,
            device_id,
            closed,
            local,
            rights: Rights::default(),
            backups: Arc::default(),
            domain,
            gone: Mutex::new(Some(gone)),
            alive: Arc::new(alive),
            retired: Closed::default(),
            changing_unlock: async_lock::Mutex::new(()),
            platform,
        }))
    }

    /// Whether the HSM boots to Operational by itself.
    pub async fn unattended_boot(&self) -> Result<bool, Error> {
        Ok(self.local.get(LocalPath::Slot1).await?.is_some())
    }

    /// Switches unattended boot: slot 1 holds the Domain Key under the Device Key alone, or nothing.
    pub async fn set_unattended_boot(&self, by: &Caller, on: bool) -> Result<(), Error> {
        let _guard = self.changing_unlock.lock().await;
        // With the guard held: a restore that replaces the slots closes the phase before it gives the guard back.
        let change = LocalChange::default();
        let change = match on {
            true => change.put(LocalPath::Slot1, self.domain.expose().to_vec()),
            false => change.delete(LocalPath::Slot1),
        };
        self.commit_local(by, change).await
    }

    /// Sets the unlock passphrase. `Forbidden` if `current` is not the one that holds now; `TooMany` if `by` gave a wrong
    /// one less than a second ago.
    pub async fn change_unlock_passphrase(
        &self,
        by: &Caller,
        new: &Passphrase,
        current: &Passphrase,
    ) -> Result<(), Error> {
        users::check_length("passphrase", new)?;
        let party = by.scope()?.party();
        let guess = self.admit(Guess::CurrentUnlock(&by.id))?;
        let _guard = self.changing_unlock.lock().await;
        let missing = || Error::internal("slot 0 is missing");
        let slot = Slot0::read(&self.local, Which::Now).await?.ok_or_else(missing)?;
        let Some(opened) = slot.open(&self.platform, party, current.expose()).await? else {
            guess.wrong();
            return Err(Error::Forbidden(Some("unlock passphrase is incorrect.".into())));
        };
        guess.right();
        if !opened.ct_eq(&self.domain) {
            return Err(Error::internal("slot 0 holds another Domain Key"));
        }
        let change = LocalChange::default();
        let change = slots::with_slot0(change, &self.platform, party, new.expose(), &self.domain).await?;
        self.commit_local(by, change).await
    }

    /// Counts a guess at a passphrase that a caller gives beside its own.
    pub(crate) fn admit(&self, guess: Guess<'_>) -> Result<Admitted, Error> {
        let too_many = || Error::TooMany("Too many requests".into());
        self.limiter.admit(self.limiter.mark(guess)).ok_or_else(too_many)
    }

    /// Ten characters that name this device.
    pub fn device_id(&self) -> &str {
        &self.device_id
    }

    /// What the caches of rows hold, and how they did since the phase began.
    pub fn cache_figures(&self) -> [CacheFigures; 5] {
        [
            self.users.cache_figures("users"),
            self.namespaces.cache_figures("namespaces"),
            self.keys.cache_figures("keys"),
            self.certificates.cache_figures("certificates"),
            self.counts.cache_figures("counters"),
        ]
    }

    /// `length` random bytes.
    pub fn random(&self, length: usize) -> zeroize::Zeroizing<Vec<u8>> {
        let mut bytes = zeroize::Zeroizing::new(vec![0; length]);
        self.platform.rng.fill(&mut bytes);
        bytes
    }

    /// The Domain Key.
    pub(crate) fn domain(&self) -> &DomainKey {
        &self.domain
    }

    /// What seals the rows of a table.
    pub(crate) fn table_key(&self, table: TableId) -> StoreKey {
        table_key(&self.domain, table)
    }

    /// What seals the values of one of NetHSM's stores.
    pub(crate) fn upstream_key(&self, store: upstream::Store) -> StoreKey {
        store.key(&self.domain)
    }

    /// Runs `job` on the pool, unless the phase has ended by then: for work that would stall a serving thread.
    pub async fn off_thread<T: Send + 'static>(
        &self,
        work: Work,
        party: Party,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Error> {
        let (retired, alive) = (self.retired.clone(), self.alive.clone());
        let job = move || {
            let done = retired.check().map(|()| job());
            drop(alive);
            done
        };
        run_on(&*self.platform.pool, work, party, job).await?
    }

    /// Runs `job` on this thread, or on the pool if it goes over more bytes than a small body has.
    pub async fn by_size<T: Send + 'static>(
        &self,
        bytes: usize,
        party: Party,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Error> {
        if bytes <= BODY_INLINE_MAX_BYTES { Ok(job()) } else { self.off_thread(Work::Crypto, party, job).await }
    }

    /// Refuses all further use of keys. Counters can still be written.
    pub(crate) fn retire(&self) {
        self.retired.close();
        self.guesses.abandon();
    }

    /// Refuses everything, forgets what is cached, and gives what resolves when the last holder is gone.
    pub(crate) fn close(&self) -> Option<oneshot::Receiver<()>> {
        self.retire();
        self.closed.close();
        self.users.clear();
        self.keys.clear();
        self.gone.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// What seals the rows of a table.
pub(crate) fn table_key(domain: &DomainKey, table: TableId) -> StoreKey {
    seal::derive(domain.expose(), &[b"shared store", &[table as u8]])
}

/// What all tables have in common.
pub(super) struct Tables<'a> {
    pub(super) platform: &'a Platform,
    pub(super) domain: &'a DomainKey,
    pub(super) closed: &'a Closed,
    pub(super) doubt: &'a Doubt,
}

impl Tables<'_> {
    /// A table, sealed under a key of its own.
    pub(super) fn open<R: Record>(&self, table: TableId, cache_bytes: u64) -> Table<R> {
        let key = table_key(self.domain, table);
        let ground = Ground {
            store: self.platform.store.clone(),
            rng: self.platform.rng.clone(),
            closed: self.closed.clone(),
            doubt: self.doubt.clone(),
        };
        Table::new(ground, key, cache_bytes)
    }
}

async fn generation(platform: &Platform) -> Result<(Generation, Versioned), Error> {
    let damaged = || Error::internal("the generation pointer is missing or damaged");
    let pointer = platform.store.get(&generation_pointer(), Read::Fresh).await?.ok_or_else(damaged)?;
    let number = <[u8; 4]>::try_from(pointer.value.as_slice()).map_err(|_| damaged())?;
    Ok((Generation::from_be_bytes(number), pointer))
}
