//! Converts staged entries to records, with the Domain Key of the backup. The rows go into a generation that nobody
//! reads until the pointer moves, so a conversion may be interrupted anywhere and started again.

use std::collections::HashMap;
use std::sync::Arc;

use casemate_api::limits::STORE_VALUE_MAX_BYTES;
use casemate_api::{NamespaceId, Role};

use crate::backup::format::Version;
use crate::backup::nethsm::{self, BadValue, EntryPath, NethsmStore, STORE_VERSION};
use crate::backup::stage::{self, Batch, Guards, Staged};
use crate::crypto::secret::{BackupKey, DomainKey, StoreKey};
use crate::crypto::user_digest::Scheme;
use crate::device::Device;
use crate::device::procedure::Procedure;
use crate::device::slots;
use crate::device::store::{DeviceStore, DeviceStoreChange};
use crate::error::Error;
use crate::platform::Platform;
use crate::rows::backup_secret::BackupSecret;
use crate::rows::certificate::CertificateRecord;
use crate::rows::chores::{Hardening, LastNamespaceNumber};
use crate::rows::cluster_ca::ClusterCa;
use crate::rows::cluster_id::{ClusterId, Found};
use crate::rows::counter::CounterRecord;
use crate::rows::index::{IndexRows, Indexed};
use crate::rows::key::KeyRecord;
use crate::rows::namespace::NamespaceRecord;
use crate::rows::path::{DevicePath, Generation, KeyRef, NamespaceNumber, ROOT, RowPath, Uid};
use crate::rows::record::Record;
use crate::rows::table::{RowKey, SealedRow};
use crate::rows::user::UserRecord;
use crate::runtime::Rng;
use crate::runtime::party::Party;
use crate::runtime::pool::{Work, run_on};
use crate::store::Revision;

/// What to do with an entry that cannot be opened or is malformed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum OnBad {
    /// The conversion fails.
    Refuse,
    /// The entry is left out and logged, because the HSM can serve all others without it.
    LeaveOut,
}

/// The staged entries to convert.
pub(crate) struct Source {
    /// The generation that holds the entries.
    pub(crate) generation: Generation,
    /// The format of the backup.
    pub(crate) version: Version,
    /// What every write expects.
    pub(crate) guards: Guards,
}

impl Source {
    /// The generation that the rows are written to.
    pub(crate) fn to(&self) -> Generation {
        converted(self.generation)
    }
}

/// The generation for the rows that are made of the entries in `staged`.
fn converted(staged: Generation) -> Generation {
    staged + 1
}

/// A conversion in progress, page by page.
pub(crate) struct Conversion {
    device: Arc<Device>,
    source: Source,
    on_bad: OnBad,
    section: Section,
    after: Option<String>,
    namespaces: Arc<HashMap<NamespaceId, NamespaceNumber>>,
    batch: Batch,
    to_harden: bool,
    administrators: usize,
    /// Number of entries converted.
    pub(crate) taken: usize,
    /// Number of entries left out.
    pub(crate) left_out: usize,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Section {
    Begin,
    Namespaces,
    Users,
    Keys,
    Settings,
    Done,
}

impl Conversion {
    pub(crate) fn new(device: &Arc<Device>, source: Source, on_bad: OnBad) -> Self {
        Self {
            batch: Batch::new(&device.platform, &source.guards),
            device: device.clone(),
            source,
            on_bad,
            section: Section::Begin,
            after: None,
            namespaces: Arc::default(),
            to_harden: false,
            administrators: 0,
            taken: 0,
            left_out: 0,
        }
    }

    /// Converts the next page; `false` once everything is converted and durable. `domain` is passed for each page, so
    /// that nobody has to hold it in between.
    pub(crate) async fn next(&mut self, domain: &DomainKey) -> Result<bool, Error> {
        match self.section {
            Section::Begin => {
                // Removes what an earlier attempt left.
                stage::sweep_generation(&*self.device.platform.store, &self.source.guards, self.source.to()).await?;
                self.check_key(domain).await?;
                self.section = Section::Namespaces;
            }
            Section::Namespaces => self.page(NethsmStore::Namespaces, domain, Section::Users).await?,
            Section::Users => self.page(NethsmStore::Users, domain, Section::Keys).await?,
            Section::Keys => self.page(NethsmStore::Keys, domain, Section::Settings).await?,
            Section::Settings if self.administrators == 0 => {
                return Err(Error::invalid(
                    "The backup has no Administrator, so nobody could manage the HSM. Nothing was restored.",
                ));
            }
            Section::Settings => {
                self.settings(domain).await?;
                self.batch.flush().await?;
                self.section = Section::Done;
            }
            Section::Done => {}
        }
        Ok(self.section != Section::Done)
    }

    /// Checks that this is the Domain Key of the backup. With a wrong one every single entry would be left out.
    async fn check_key(&self, domain: &DomainKey) -> Result<(), Error> {
        for store in [NethsmStore::Users, NethsmStore::Keys, NethsmStore::Namespaces] {
            let path = store.version_path();
            let Some(value) = self.staged(&path).await? else { continue };
            let version = nethsm::open(&store.key(domain), &path, &value).map_err(|_| {
                Error::invalid("The backup's entries are not sealed under its Domain Key. Nothing was restored.")
            })?;
            if version.as_slice() != STORE_VERSION {
                return Err(Error::invalid(
                    "The backup is of a newer version of NetHSM's store. Nothing was restored.",
                ));
            }
        }
        Ok(())
    }

    async fn staged(&self, path: &str) -> Result<Option<zeroize::Zeroizing<Vec<u8>>>, Error> {
        stage::entry(&self.device, self.source.generation, path).await
    }

    /// Converts one page of one store, on the pool: parsing and loading a key takes up to a millisecond.
    async fn page(&mut self, store: NethsmStore, domain: &DomainKey, next: Section) -> Result<(), Error> {
        let (generation, prefix) = (self.source.generation, store.prefix());
        let after = self.after.take();
        let (entries, end) = stage::page(&self.device, generation, prefix, after.as_deref()).await?;
        let mut job = Job {
            store: store.key(domain),
            tables: RowKeys::of(domain),
            version: self.source.version,
            to: self.source.to(),
            device_id: self.device.id.clone(),
            namespaces: self.namespaces.clone(),
            rng: self.device.platform.rng.clone(),
            to_harden: false,
            administrators: 0,
        };
        if store == NethsmStore::Namespaces {
            // Namespaces are numbered one after the other, so they are not converted on the pool; they are cheap.
            job.namespaces = Arc::default();
            for (path, value) in entries {
                match job.namespace(&path, &value) {
                    Ok(None) => {}
                    Ok(Some(id)) => {
                        let number = NamespaceNumber::try_from(self.namespaces.len() + 1);
                        let number = number.map_err(|_| Error::internal("namespace numbers are used up"))?;
                        let row = RowPath::namespace(job.to, &id);
                        let row = job.sealed(&job.tables.namespaces, &row, &NamespaceRecord::new(number));
                        Arc::make_mut(&mut self.namespaces).insert(id, number);
                        self.taken += 1;
                        self.batch.put(row).await?;
                    }
                    Err(why) => self.reject(&path, why)?,
                }
            }
        } else {
            let convert = move || {
                let converted: Vec<Converted> = entries.into_iter().map(|entry| job.convert(entry)).collect();
                (converted, job.to_harden, job.administrators)
            };
            let (converted, to_harden, administrators) =
                run_on(&*self.device.platform.pool, Work::Backup, Party::Hsm, convert).await?;
            self.to_harden |= to_harden;
            self.administrators += administrators;
            for (path, rows) in converted {
                match rows {
                    Ok(rows) => {
                        self.taken += usize::from(!rows.is_empty());
                        for row in rows {
                            self.batch.put(row).await?;
                        }
                    }
                    Err(why) => self.reject(&path, why)?,
                }
            }
        }
        match end {
            Some(end) => self.after = Some(end),
            None => self.section = next,
        }
        Ok(())
    }

    fn reject(&mut self, path: &str, why: BadValue) -> Result<(), Error> {
        match self.on_bad {
            OnBad::Refuse => Err(Error::invalid(format!(
                "The entry {path} of the backup cannot be read: {why}. Nothing was restored."
            ))),
            OnBad::LeaveOut => {
                self.left_out += 1;
                tracing::error!(target: "hsm.backup", path, %why, "an entry of the backup cannot be read and is left out");
                Ok(())
            }
        }
    }

    /// Converts what is configured for all devices: the backup passphrase and the cluster CA.
    async fn settings(&mut self, domain: &DomainKey) -> Result<(), Error> {
        let (to, rng) = (self.source.to(), self.device.platform.rng.clone());
        if let (Some(key), Some(salt)) =
            (self.setting(nethsm::BACKUP_KEY, domain).await?, self.setting(nethsm::BACKUP_SALT, domain).await?)
        {
            match (BackupKey::from_slice(&key), <[u8; 16]>::try_from(salt.as_slice())) {
                (Some(key), Ok(salt)) => {
                    let record = BackupSecret { salt, key };
                    self.batch.put(sealed(domain, &RowPath::backup_secret(to), &record, &*rng)).await?;
                }
                _ => self.reject(nethsm::BACKUP_KEY, BadValue("key or salt has the wrong length"))?,
            }
        }
        if let Some(authority) = self.setting(nethsm::CLUSTER_CA, domain).await? {
            match nethsm::read_chain(&authority).as_deref() {
                Ok([authority]) => {
                    let record = ClusterCa(authority.clone());
                    self.batch.put(sealed(domain, &RowPath::cluster_ca(to), &record, &*rng)).await?;
                }
                _ => self.reject(nethsm::CLUSTER_CA, BadValue("it is not one certificate"))?,
            }
        }
        if let Ok(number @ 1..) = NamespaceNumber::try_from(self.namespaces.len()) {
            let path = RowPath::last_namespace_number(to);
            self.batch.put(sealed(domain, &path, &LastNamespaceNumber(number), &*rng)).await?;
        }
        self.batch.put(sealed(domain, &RowPath::indexed(to), &Indexed, &*rng)).await?;
        if self.to_harden {
            self.batch.put(sealed(domain, &RowPath::hardening(to), &Hardening, &*rng)).await?;
        }
        Ok(())
    }

    /// Reads a value that V1 seals and V0 does not.
    async fn setting(&mut self, path: &str, domain: &DomainKey) -> Result<Option<zeroize::Zeroizing<Vec<u8>>>, Error> {
        let Some(value) = self.staged(path).await? else { return Ok(None) };
        if self.source.version == Version::V0 {
            return Ok(Some(value));
        }
        match nethsm::open(&NethsmStore::Config.key(domain), path, &value) {
            Ok(plain) => Ok(Some(plain)),
            Err(_) => {
                self.reject(path, BadValue("its seal does not hold"))?;
                Ok(None)
            }
        }
    }
}

/// Finishes a restore whose slots are already those of the backup: converts the staged entries, moves the pointer,
/// cleans up. Returns `Ok` at once if there is no such restore. May be interrupted anywhere and called again.
pub(crate) async fn finish_import(device: &Arc<Device>, domain: &DomainKey) -> Result<(), Error> {
    let (platform, local) = (&device.platform, &device.store);
    let Some(Procedure::Import { generation, version }) = Procedure::stored(local).await? else { return Ok(()) };
    let (current, guards) = stage::begin(device).await?;
    let source = Source { generation, version, guards: guards.clone() };
    let to = source.to();
    if !is_in_effect(platform, local, current, to).await? {
        tracing::info!(target: "hsm.backup", "the entries of the backup are being taken over");
        let mut conversion = Conversion::new(device, source, OnBad::LeaveOut);
        loop {
            match Box::pin(conversion.next(domain)).await {
                Ok(true) => {}
                Ok(false) => break,
                // The file is the cause, so the next attempt would fail as well.
                Err(error @ Error::Invalid { .. }) => {
                    undo_import(device, "its file cannot be used").await?;
                    return Err(error);
                }
                Err(error) => return Err(error),
            }
        }
        stage::move_pointer(device, &guards, to).await.or_error()?;
        report(&conversion);
    }
    clear_up(device).await;
    Ok(())
}

/// Whether the slots are those of a backup whose entries are not converted yet, so that the restore can be undone.
pub(crate) async fn import_waits(platform: &Platform, local: &DeviceStore) -> Result<bool, Error> {
    let Some(Procedure::Import { generation, .. }) = Procedure::stored(local).await? else { return Ok(false) };
    let (current, _) = stage::pointer(platform).await?;
    // Once the pointer has moved the old rows are lost, even if the note could not be removed yet.
    Ok(!is_in_effect(platform, local, current, converted(generation)).await?)
}

/// Whether an import has taken effect that makes `to` the current generation. On a store that others share it founds a cluster,
/// which may have been given newer data since.
///
/// # Errors
/// [`Error::Precondition`] if another cluster has taken the store meanwhile, whose data must not be replaced.
async fn is_in_effect(
    platform: &Platform,
    local: &DeviceStore,
    current: Option<Generation>,
    to: Generation,
) -> Result<bool, Error> {
    if !platform.store.is_shared() {
        return Ok(current == Some(to));
    }
    match (ClusterId::found_in(&*platform.store).await?, local.get(DevicePath::Cluster).await?) {
        (Found::None, _) if current.is_none() => Ok(false),
        (Found::Known(found, _), Some(own)) if found.bytes() == own.as_slice() => Ok(true),
        _ => Err(Error::Precondition(
            "Another HSM has used the shared store since the restore began. Choose another etcd-prefix.".into(),
        )),
    }
}

/// Undoes a restore whose entries are not converted yet: the device gets its former slots and time back, so that nobody
/// is locked out.
pub(crate) async fn undo_import(device: &Device, why: &str) -> Result<(), Error> {
    let local = &device.store;
    let own = Procedure::stored(local).await?.and_then(Procedure::generation);
    let change = slots::back_to_former(DeviceStoreChange::default().delete(DevicePath::Procedure), local).await?;
    local.commit(change).await?;
    tracing::error!(target: "hsm.backup", "a restore was undone: {why}; users, keys and unlock passphrase are those from before");
    if let Err(error) = stage::sweep(device, own).await {
        tracing::warn!(target: "hsm.backup", %error, "the staged data of a restore could not be removed yet");
    }
    Ok(())
}

/// Removes what a restore replaced, then its note. What remains only takes room: if it cannot be removed now, the note
/// stays, and the next boot, unlock or restore removes it.
pub(crate) async fn clear_up(device: &Device) {
    let local = &device.store;
    let cleared = async {
        stage::sweep(device, Procedure::stored(local).await?.and_then(Procedure::generation)).await?;
        local.commit(slots::forget_former(DeviceStoreChange::default().delete(DevicePath::Procedure))).await
    };
    if let Err(error) = cleared.await {
        tracing::warn!(target: "hsm.backup", %error, "the data that a restore replaced could not be removed yet");
    }
}

/// Logs the result of a restore.
pub(crate) fn report(conversion: &Conversion) {
    let Conversion { taken, left_out, .. } = conversion;
    match left_out {
        0 => tracing::info!(target: "hsm.backup", "a backup was restored: {taken} users, namespaces and keys"),
        _ => tracing::error!(
            target: "hsm.backup",
            "a backup was restored: {taken} users, namespaces and keys; {left_out} entries could not be read and were left out"
        ),
    }
}

/// The keys that seal the rows.
struct RowKeys {
    users: RowKey<UserRecord>,
    namespaces: RowKey<NamespaceRecord>,
    keys: RowKey<KeyRecord>,
    certificates: RowKey<CertificateRecord>,
    counters: RowKey<CounterRecord>,
    index: IndexRows,
}

impl RowKeys {
    fn of(domain: &DomainKey) -> Self {
        Self {
            users: RowKey::of(domain),
            namespaces: RowKey::of(domain),
            keys: RowKey::of(domain),
            certificates: RowKey::of(domain),
            counters: RowKey::of(domain),
            index: IndexRows::of(domain),
        }
    }
}

fn sealed<R: Record>(domain: &DomainKey, path: &RowPath<R>, record: &R, rng: &dyn Rng) -> SealedRow {
    RowKey::of(domain).seal(path, Revision::default(), record, rng)
}

fn fits(row: &SealedRow) -> bool {
    row.value_bytes() <= STORE_VALUE_MAX_BYTES
}

/// An entry's path, and the rows that it was converted to.
type Converted = (String, Result<Vec<SealedRow>, BadValue>);

/// Inputs and results of the conversion of one page.
struct Job {
    store: StoreKey,
    tables: RowKeys,
    version: Version,
    to: Generation,
    device_id: String,
    namespaces: Arc<HashMap<NamespaceId, NamespaceNumber>>,
    rng: Arc<dyn Rng>,
    /// Whether any user has a digest of NetHSM's, to be hardened.
    to_harden: bool,
    /// Number of Administrators of the root among the users.
    administrators: usize,
}

impl Job {
    fn convert(&mut self, (path, value): Staged) -> Converted {
        let rows = self.rows(&path, &value);
        (path, rows)
    }

    fn open(&self, path: &str, value: &[u8]) -> Result<zeroize::Zeroizing<Vec<u8>>, BadValue> {
        nethsm::open(&self.store, path, value).map_err(|_| BadValue("its seal does not hold"))
    }

    fn rows(&mut self, path: &str, value: &[u8]) -> Result<Vec<SealedRow>, BadValue> {
        match EntryPath::of(self.version, path) {
            EntryPath::StoreVersion(_) => Ok(Vec::new()),
            EntryPath::User(id) => {
                let user = nethsm::read_user(&self.open(path, value)?)?;
                let row = self.sealed(&self.tables.users, &RowPath::user(self.to, &id), &user);
                if !fits(&row) {
                    return Err(BadValue("it is too large"));
                }
                self.to_harden |= user.digest.scheme == Scheme::HmacSha256;
                self.administrators += usize::from(user.role == Role::Administrator && id.namespace.is_none());
                Ok(vec![row])
            }
            EntryPath::Key(namespace, id) => {
                let number = match &namespace {
                    None => Some(ROOT),
                    Some(namespace) => self.namespaces.get(namespace).copied(),
                };
                let number = number.ok_or(BadValue("its namespace is not in the backup"))?;
                let mut uid = Uid::default();
                self.rng.fill(&mut uid);
                let full = nethsm::read_key(&self.open(path, value)?, uid)?;
                let key = KeyRef { namespace: number, uid };
                let mut rows = vec![self.sealed(&self.tables.keys, &RowPath::key(self.to, number, &id), &full.record)];
                rows.extend(self.tables.index.sealed(self.to, key, (id, &full.record.label), &*self.rng));
                if let Some(certificate) = full.certificate {
                    let row = RowPath::certificate(self.to, key);
                    rows.push(self.sealed(&self.tables.certificates, &row, &CertificateRecord(certificate)));
                }
                if full.operations > 0 {
                    let row = RowPath::counter(self.to, key, &self.device_id);
                    rows.push(self.sealed(&self.tables.counters, &row, &CounterRecord { count: full.operations }));
                }
                if rows.iter().all(fits) { Ok(rows) } else { Err(BadValue("it is too large")) }
            }
            _ => Err(BadValue("its path does not name a user, a namespace or a key")),
        }
    }

    /// The namespace of an entry; `None` if the entry is the version of the store.
    fn namespace(&self, path: &str, value: &[u8]) -> Result<Option<NamespaceId>, BadValue> {
        match EntryPath::of(self.version, path) {
            EntryPath::StoreVersion(_) => Ok(None),
            EntryPath::Namespace(id) => {
                let name = nethsm::read_namespace(&self.open(path, value)?)?;
                if name == id.as_str() { Ok(Some(id)) } else { Err(BadValue("it names another namespace")) }
            }
            _ => Err(BadValue("its path does not name a namespace")),
        }
    }

    fn sealed<R: Record>(&self, key: &RowKey<R>, path: &RowPath<R>, record: &R) -> SealedRow {
        key.seal(path, Revision::default(), record, &*self.rng)
    }
}
