//! Writes a backup of V1 piece by piece from one consistent snapshot of the store, in constant memory however many keys
//! there are.
//!
//! Nothing secret is kept between two pieces, only the snapshot and the position in it. Each piece borrows the keys
//! from the Operational phase, so that a client that reads slowly cannot prevent the HSM from locking.
//!
//! V1 has one Backup Key for all entries of all backups, so nonces are synthetic: a keyed hash of what is sealed. Equal
//! values look equal in two backups; in return, no number of backups exceeds the limit of 2³² random nonces under one
//! key.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use casemate_api::NamespaceId;
use casemate_api::limits::{BACKUP_MAX_MS, BACKUP_PAGE_ROWS, BACKUPS_RUNNING_MAX, STORE_TXN_MAX_OPS};
use zeroize::Zeroizing;

use crate::backup::Backups;
use crate::backup::device;
use crate::backup::envelope::{Head, Manifest, Sealer, marked_key};
use crate::backup::format::{self, ENTRY_LABEL, Field, TooLong, Version};
use crate::backup::nethsm::{self, DeviceItem, NethsmStore, STORE_VERSION};
use crate::config::tls::cluster_ca;
use crate::crypto::secret::StoreKey;
use crate::device::slots::{self, Slot0};
use crate::error::Error;
use crate::rows::backup_secret::BackupSecret;
use crate::rows::certificate::CertificateRecord;
use crate::rows::counter::CounterRecord;
use crate::rows::key::KeyRecord;
use crate::rows::namespace::NamespaceRecord;
use crate::rows::path::{Generation, KeyRef, NamespaceNumber, ROOT, RowPath, RowPrefix, generation_pointer};
use crate::rows::table::RowKey;
use crate::rows::user::UserRecord;
use crate::store::{Path, Range, Snapshot, Versioned};

/// A backup that is being written.
pub struct Backup {
    snapshot: Box<dyn Snapshot>,
    generation: Generation,
    salt: [u8; 16],
    locked_domain_key: Vec<u8>,
    unlock_salt: [u8; 16],
    device_id: String,
    config_key: StoreKey,
    namespaces: Vec<(NamespaceId, NamespaceNumber)>,
    manifest: Option<Manifest>,
    stage: Stage,
    ends: Duration,
    _slot: BackupSlot,
}

/// The section of the file that is written next.
enum Stage {
    Head,
    Users(Option<Path>),
    Shared,
    /// Keys of the root (0) or of a namespace, after this path.
    Keys(usize, Option<Path>),
    Device,
    Namespaces(usize),
    End,
    Done,
    /// A piece failed; nothing may follow.
    Broken,
}

impl Backups<'_> {
    /// Begins a backup of everything. `Precondition` if no backup passphrase is set, `Unavailable` if too many backups
    /// are being written.
    pub async fn begin(&self) -> Result<Backup, Error> {
        let (tables, device) = (self.ring.tables, self.ring.device);
        let unset = || Error::Precondition("Please configure backup key before doing a backup.".into());
        let secret = self.secret().await?.ok_or_else(unset)?;
        let slot = BackupSlot::take(self.running)?;
        // So that the snapshot has all uses counted so far.
        self.ring.flush_counters().await?;
        let Slot0 { inner: locked_domain_key, salt: unlock_salt, .. } = Slot0::steady(&device.store).await?;
        let snapshot = tables.snapshot().await?;
        let generation = tables.generation;
        let pointer = snapshot.range(Range::prefix(&generation_pointer(), 1)).await?.rows.pop();
        tables.check()?;
        if pointer.is_none_or(|(_, row)| row.value != generation.to_be_bytes()) {
            return Err(Error::Unavailable("The HSM's data was replaced by a restore. Try again.".into()));
        }
        let namespaces = self.namespaces_in(&*snapshot).await?;
        tracing::info!(target: "hsm.backup", "a backup is being made");
        Ok(Backup {
            snapshot,
            generation,
            salt: secret.record.salt,
            locked_domain_key,
            unlock_salt,
            device_id: device.id.clone(),
            config_key: marked_key(&secret.record.key, &*device.platform.rng),
            namespaces,
            manifest: None,
            stage: Stage::Head,
            ends: device.platform.clock.monotonic() + Duration::from_millis(BACKUP_MAX_MS),
            _slot: slot,
        })
    }

    async fn namespaces_in(&self, snapshot: &dyn Snapshot) -> Result<Vec<(NamespaceId, NamespaceNumber)>, Error> {
        let prefix = RowPrefix::namespaces(self.ring.tables.generation);
        let key: RowKey<NamespaceRecord> = RowKey::of(self.domain);
        let mut namespaces = Vec::new();
        let mut after = None;
        loop {
            let (rows, end) = page(snapshot, prefix.path(), after.as_ref(), STORE_TXN_MAX_OPS).await?;
            for (path, row) in &rows {
                let record = key.open(path, &row.value)?;
                let id = prefix.tail(path).and_then(|id| NamespaceId::parse(id).ok());
                namespaces.extend(id.map(|id| (id, record.number)));
            }
            match end {
                Some(end) => after = Some(end),
                None => return Ok(namespaces),
            }
        }
    }
}

impl Backup {
    /// The next piece of the file; `None` after its end. `from` must come from the phase that the backup began in.
    ///
    /// After an error the backup cannot continue, and what was written of it must not look like a complete file.
    pub async fn next_piece(&mut self, from: Backups<'_>) -> Result<Option<Vec<u8>>, Error> {
        loop {
            from.ring.tables.check()?;
            if from.ring.device.platform.clock.monotonic() > self.ends {
                return Err(Error::Unavailable("The backup took too long. Read it faster.".into()));
            }
            let secret = from.cached_secret().await?.filter(|row| row.record.salt == self.salt);
            let secret =
                secret.ok_or_else(|| Error::Unavailable("The backup passphrase was changed meanwhile.".into()))?;
            let mut out = Piece {
                bytes: Vec::new(),
                seal: Sealer::new(secret.record.key.expose()),
                manifest: self.manifest.take(),
            };
            let next = match std::mem::replace(&mut self.stage, Stage::Broken) {
                Stage::Head => self.head(from, &mut out)?,
                Stage::Users(after) => {
                    let prefix = RowPrefix::users(self.generation, None);
                    let (rows, end) = page(&*self.snapshot, prefix.path(), after.as_ref(), BACKUP_PAGE_ROWS).await?;
                    let (row, seal) =
                        (RowKey::of(from.domain), Sealer::new(NethsmStore::Users.key(from.domain).expose()));
                    out = from.off_thread(move || write_users(rows, &prefix, &row, &seal, out)).await??;
                    end.map_or(Stage::Shared, |end| Stage::Users(Some(end)))
                }
                Stage::Shared => {
                    write_shared(from, &secret.record, &mut out).await?;
                    Stage::Keys(0, None)
                }
                Stage::Keys(number, after) => {
                    let (entries, end) = self.keys(from, number, after.as_ref()).await?;
                    let (row, seal) =
                        (RowKey::of(from.domain), Sealer::new(NethsmStore::Keys.key(from.domain).expose()));
                    out = from.off_thread(move || write_keys(entries, &row, &seal, out)).await??;
                    match end {
                        Some(end) => Stage::Keys(number, Some(end)),
                        // The root comes before the namespaces.
                        None if number < self.namespaces.len() => Stage::Keys(number + 1, None),
                        None => Stage::Device,
                    }
                }
                Stage::Device => {
                    self.device(from, &mut out).await?;
                    Stage::Namespaces(0)
                }
                Stage::Namespaces(first) => {
                    let seal = Sealer::new(NethsmStore::Namespaces.key(from.domain).expose());
                    for (id, _) in self.namespaces.iter().skip(first).take(STORE_TXN_MAX_OPS) {
                        out.sealed(&seal, &nethsm::namespace_path(id), &nethsm::write_namespace(id))?;
                    }
                    let to = first + STORE_TXN_MAX_OPS;
                    if to < self.namespaces.len() { Stage::Namespaces(to) } else { Stage::End }
                }
                Stage::End => {
                    out.end()?;
                    tracing::info!(target: "hsm.backup", "a backup was made");
                    Stage::Done
                }
                Stage::Done => {
                    self.stage = Stage::Done;
                    return Ok(None);
                }
                Stage::Broken => return Err(Error::internal("a backup was continued after an error")),
            };
            self.stage = next;
            self.manifest = out.manifest;
            if !out.bytes.is_empty() {
                return Ok(Some(out.bytes));
            }
        }
    }

    fn head(&self, from: Backups<'_>, out: &mut Piece) -> Result<Stage, Error> {
        format::push_start(&mut out.bytes, Version::V1, &self.salt)?;
        for (field, plain) in [
            (Field::Version, &[Version::V1.byte()][..]),
            (Field::DomainKey, &self.locked_domain_key),
            (Field::DeviceId, self.device_id.as_bytes()),
            (Field::ConfigKey, self.config_key.expose()),
        ] {
            let sealed = out.seal.seal(field.label().as_bytes(), plain);
            format::push_framed(&mut out.bytes, &sealed)?;
        }
        out.manifest = Some(Manifest::of(&Head {
            version: Version::V1,
            salt: self.salt,
            locked_domain_key: self.locked_domain_key.clone(),
            device_id: self.device_id.clone(),
            config_key: Some(StoreKey::new(*self.config_key.expose())),
            ours: true,
        }));
        out.entry(nethsm::INITIALIZED, b"")?;
        let seal = Sealer::new(NethsmStore::Users.key(from.domain).expose());
        out.sealed(&seal, &NethsmStore::Users.version_path(), STORE_VERSION)?;
        Ok(Stage::Users(None))
    }

    /// One page of keys with their certificates and counts, still sealed.
    async fn keys(
        &self,
        from: Backups<'_>,
        number: usize,
        after: Option<&Path>,
    ) -> Result<(Vec<KeyToWrite>, Option<Path>), Error> {
        let namespace = number.checked_sub(1).and_then(|at| self.namespaces.get(at));
        let namespace_number = namespace.map_or(ROOT, |(_, number)| *number);
        let prefix = RowPrefix::keys(self.generation, namespace_number, "");
        let (rows, end) = page(&*self.snapshot, prefix.path(), after, BACKUP_PAGE_ROWS).await?;
        let table: RowKey<KeyRecord> = RowKey::of(from.domain);
        let certificates: RowKey<CertificateRecord> = RowKey::of(from.domain);
        let counters: RowKey<CounterRecord> = RowKey::of(from.domain);
        // All of the page at once, because the store may be another machine.
        let (mut certificates_of, mut counts_of) = (Vec::with_capacity(rows.len()), Vec::with_capacity(rows.len()));
        for (path, row) in &rows {
            let key = KeyRef { namespace: namespace_number, uid: table.open(path, &row.value)?.uid };
            certificates_of.push(Range::prefix(RowPath::certificate(self.generation, key).path(), 1));
            counts_of.push(Range::prefix(RowPrefix::counters(self.generation, key).path(), BACKUP_PAGE_ROWS));
        }
        let certificates_found = self.snapshot.ranges(&certificates_of).await?;
        let counts_found = self.snapshot.ranges(&counts_of).await?;
        let mut keys = Vec::with_capacity(rows.len());
        for (((path, row), mut certificate), counts) in rows.into_iter().zip(certificates_found).zip(counts_found) {
            let Some(id) = prefix.tail(&path) else { continue };
            let nethsm_path = nethsm::key_path(namespace.map(|(id, _)| id), id);
            let certificate = certificate.rows.pop();
            let certificate = certificate.map(|(path, row)| certificates.open(&path, &row.value)).transpose()?;
            let mut operations = 0u64;
            for (path, row) in counts.rows {
                let count = counters.open(&path, &row.value)?;
                operations = operations.saturating_add(count.count);
            }
            let certificate = certificate.map(|record| record.0);
            keys.push(KeyToWrite { path: nethsm_path, row_path: path, row, certificate, operations });
        }
        Ok((keys, end))
    }

    async fn device(&self, from: Backups<'_>, out: &mut Piece) -> Result<(), Error> {
        let mut items = device::items(&from.ring.device.store).await?;
        items.insert(DeviceItem::UnlockSalt, Zeroizing::new(self.unlock_salt.to_vec()));
        let config = Sealer::new(self.config_key.expose());
        let id = &self.device_id;
        for (item, value) in &items {
            out.sealed(&config, &item.path(id), value)?;
        }
        let slot_seal = Sealer::new(from.ring.device.store.backup_slots.expose());
        let attended = (DeviceItem::Attended, self.locked_domain_key.as_slice());
        let unattended = slots::is_unattended(&from.ring.device.store)
            .await?
            .then_some((DeviceItem::Unattended, from.domain.expose().as_slice()));
        for (item, value) in [Some(attended), unattended].into_iter().flatten() {
            let label = item.slot_label(Version::V1, id).unwrap_or_default();
            out.entry(&item.path(id), &slot_seal.seal(&label, value))?;
        }
        let namespaces = Sealer::new(NethsmStore::Namespaces.key(from.domain).expose());
        out.sealed(&namespaces, &NethsmStore::Namespaces.version_path(), STORE_VERSION)
    }
}

/// Writes what is configured for all devices: Backup Key, salt, cluster CA, versions.
async fn write_shared(from: Backups<'_>, secret: &BackupSecret, out: &mut Piece) -> Result<(), Error> {
    let config = Sealer::new(NethsmStore::Config.key(from.domain).expose());
    out.sealed(&config, nethsm::BACKUP_KEY, secret.key.expose())?;
    out.sealed(&config, nethsm::BACKUP_SALT, &secret.salt)?;
    if let Some(authority) = cluster_ca(from.ring.tables).await? {
        out.sealed(&config, nethsm::CLUSTER_CA, &nethsm::write_chain(&[authority]))?;
    }
    out.entry(nethsm::CONFIG_VERSION, &nethsm::config_version(Version::V1))?;
    let keys = Sealer::new(NethsmStore::Keys.key(from.domain).expose());
    out.sealed(&keys, &NethsmStore::Keys.version_path(), STORE_VERSION)
}

/// A sealed key, with everything needed to write its entry.
struct KeyToWrite {
    path: String,
    row_path: Path,
    row: Versioned,
    certificate: Option<Vec<u8>>,
    operations: u64,
}

fn write_users(
    rows: Vec<(Path, Versioned)>,
    prefix: &RowPrefix<UserRecord>,
    key: &RowKey<UserRecord>,
    seal: &Sealer,
    mut out: Piece,
) -> Result<Piece, Error> {
    for (path, row) in &rows {
        let Some(id) = prefix.tail(path) else { continue };
        let user = key.open(path, &row.value)?;
        out.sealed(seal, &nethsm::user_path(id), &nethsm::write_user(&user))?;
    }
    Ok(out)
}

fn write_keys(
    entries: Vec<KeyToWrite>,
    key: &RowKey<KeyRecord>,
    seal: &Sealer,
    mut out: Piece,
) -> Result<Piece, Error> {
    for entry in &entries {
        let record = key.open(&entry.row_path, &entry.row.value)?;
        let json = nethsm::write_key(&record, entry.certificate.as_deref(), entry.operations)?;
        out.sealed(seal, &entry.path, &json)?;
    }
    Ok(out)
}

/// A piece of the file that is being written.
struct Piece {
    bytes: Vec<u8>,
    seal: Sealer,
    manifest: Option<Manifest>,
}

impl Piece {
    /// Appends an entry; `value` is as NetHSM's store has it.
    fn entry(&mut self, path: &str, value: &[u8]) -> Result<(), Error> {
        if let Some(manifest) = &mut self.manifest {
            manifest.add(path, value);
        }
        self.append(path, value)
    }

    /// Appends an entry whose value is sealed as in NetHSM's store.
    fn sealed(&mut self, seal: &Sealer, path: &str, value: &[u8]) -> Result<(), Error> {
        self.entry(path, &seal.seal(path.as_bytes(), value))
    }

    fn end(&mut self) -> Result<(), Error> {
        let manifest = self.manifest.take().ok_or_else(|| Error::internal("a backup was ended twice"))?;
        self.append(nethsm::MANIFEST, &manifest.finish())?;
        format::push_end(&mut self.bytes);
        Ok(())
    }

    fn append(&mut self, path: &str, value: &[u8]) -> Result<(), Error> {
        let mut plain = Zeroizing::new(Vec::with_capacity(path.len() + value.len() + 8));
        format::push_framed(&mut plain, path.as_bytes())?;
        plain.extend_from_slice(value);
        let sealed = self.seal.seal(ENTRY_LABEL.as_bytes(), &plain);
        Ok(format::push_framed(&mut self.bytes, &sealed)?)
    }
}

impl From<TooLong> for Error {
    fn from(why: TooLong) -> Self {
        Error::internal(why.to_string())
    }
}

/// One page of rows after `after`, and where it ends if there are more.
async fn page(
    snapshot: &dyn Snapshot,
    prefix: &Path,
    after: Option<&Path>,
    limit: usize,
) -> Result<(Vec<(Path, Versioned)>, Option<Path>), Error> {
    let mut range = Range::prefix(prefix, limit);
    if let Some(after) = after {
        range.start = after.next();
    }
    let page = snapshot.range(range).await?;
    let end = page.rows.last().filter(|_| page.more).map(|(path, _)| path.clone());
    Ok((page.rows, end))
}

/// One of the limited number of backups that may run at once; each holds a snapshot of the store.
struct BackupSlot(Arc<AtomicUsize>);

impl BackupSlot {
    fn take(running: &Arc<AtomicUsize>) -> Result<Self, Error> {
        let slot = Self(running.clone());
        if running.fetch_add(1, Ordering::SeqCst) >= BACKUPS_RUNNING_MAX {
            return Err(Error::Unavailable("Too many backups are being made at once. Try again.".into()));
        }
        Ok(slot)
    }
}

impl Drop for BackupSlot {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}
