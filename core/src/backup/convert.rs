//! Turns staged entries into rows of ours, with the Domain Key of the backup in hand. The rows go into a generation that
//! nobody reads until the pointer moves, so this may be broken off anywhere and started over.

use std::collections::HashMap;
use std::sync::Arc;

use casemate_api::limits::STORE_VALUE_MAX_BYTES;
use casemate_api::{NamespaceId, Role};

use crate::backup::format::Version;
use crate::backup::stage::{self, Batch, Staged};
use crate::backup::upstream::{self, BadValue, Place, STORE_VERSION, Store};
use crate::crypto::passphrase::Scheme;
use crate::crypto::secret::{BackupKey, DomainKey, StoreKey};
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
use crate::rows::counter::CounterRecord;
use crate::rows::key::KeyRecord;
use crate::rows::namespace::NamespaceRecord;
use crate::rows::path::{DevicePath, Generation, KeyRef, NamespaceNumber, ROOT, RowPath, Uid};
use crate::rows::record::Record;
use crate::rows::table::{RowKey, SealedRow};
use crate::rows::user::UserRecord;
use crate::runtime::Rng;
use crate::runtime::party::Party;
use crate::runtime::pool::{Work, run_on};
use crate::store::{Expect, Revision};

/// What becomes of an entry that does not open or makes no sense.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum OnBad {
    /// The conversion fails.
    Refuse,
    /// It is left out and reported, because without it the HSM still serves all others.
    LeaveOut,
}

/// What is to be converted.
pub(crate) struct Source {
    /// Where the entries are.
    pub(crate) generation: Generation,
    /// The format they came in.
    pub(crate) version: Version,
    /// What of the pointer is expected while rows are written.
    pub(crate) expect: Expect,
}

impl Source {
    /// Where the rows go.
    pub(crate) fn to(&self) -> Generation {
        self.generation + 1
    }
}

/// A conversion, page by page.
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
    /// Entries taken over.
    pub(crate) taken: usize,
    /// Entries left out.
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
            batch: Batch::new(device.platform.store.clone(), source.expect),
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

    /// Converts the next page; `false` once all is done and durable. `domain` is asked for page by page, so that nobody
    /// needs to hold it in between.
    pub(crate) async fn next(&mut self, domain: &DomainKey) -> Result<bool, Error> {
        match self.section {
            Section::Begin => {
                // What an earlier attempt left.
                stage::sweep_generation(&self.device.platform, self.source.expect, self.source.to()).await?;
                self.check_key(domain).await?;
                self.section = Section::Namespaces;
            }
            Section::Namespaces => self.page(Store::Namespaces, domain, Section::Users).await?,
            Section::Users => self.page(Store::Users, domain, Section::Keys).await?,
            Section::Keys => self.page(Store::Keys, domain, Section::Settings).await?,
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

    /// Makes sure that this is the Domain Key of the backup at all, before every entry is left out.
    async fn check_key(&self, domain: &DomainKey) -> Result<(), Error> {
        for store in [Store::Users, Store::Keys, Store::Namespaces] {
            let path = store.version_path();
            let Some(value) = self.staged(&path).await? else { continue };
            let version = upstream::open(&store.key(domain), &path, &value).map_err(|_| {
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

    /// Converts one page of one store, on the pool: reading a key and making it ready takes up to a millisecond.
    async fn page(&mut self, store: Store, domain: &DomainKey, next: Section) -> Result<(), Error> {
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
        if store == Store::Namespaces {
            // The only ones that need to know each other; they are cheap.
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
                    Err(why) => self.bad(&path, why)?,
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
                    Err(why) => self.bad(&path, why)?,
                }
            }
        }
        match end {
            Some(end) => self.after = Some(end),
            None => self.section = next,
        }
        Ok(())
    }

    fn bad(&mut self, path: &str, why: BadValue) -> Result<(), Error> {
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

    /// What is configured for all devices: the backup passphrase and the authority of a cluster.
    async fn settings(&mut self, domain: &DomainKey) -> Result<(), Error> {
        let (to, rng) = (self.source.to(), self.device.platform.rng.clone());
        if let (Some(key), Some(salt)) =
            (self.setting(upstream::BACKUP_KEY, domain).await?, self.setting(upstream::BACKUP_SALT, domain).await?)
        {
            match (BackupKey::from_slice(&key), <[u8; 16]>::try_from(salt.as_slice())) {
                (Some(key), Ok(salt)) => {
                    let record = BackupSecret { salt, key };
                    self.batch.put(sealed(domain, &RowPath::backup_secret(to), &record, &*rng)).await?;
                }
                _ => self.bad(upstream::BACKUP_KEY, BadValue("key or salt do not have their length"))?,
            }
        }
        if let Some(authority) = self.setting(upstream::CLUSTER_CA, domain).await? {
            match upstream::read_chain(&authority).as_deref() {
                Ok([authority]) => {
                    let record = ClusterCa(authority.clone());
                    self.batch.put(sealed(domain, &RowPath::cluster_ca(to), &record, &*rng)).await?;
                }
                _ => self.bad(upstream::CLUSTER_CA, BadValue("it is not one certificate"))?,
            }
        }
        if let Ok(number @ 1..) = NamespaceNumber::try_from(self.namespaces.len()) {
            let path = RowPath::last_namespace_number(to);
            self.batch.put(sealed(domain, &path, &LastNamespaceNumber(number), &*rng)).await?;
        }
        if self.to_harden {
            self.batch.put(sealed(domain, &RowPath::hardening(to), &Hardening, &*rng)).await?;
        }
        Ok(())
    }

    /// A value that V1 seals and V0 does not.
    async fn setting(&mut self, path: &str, domain: &DomainKey) -> Result<Option<zeroize::Zeroizing<Vec<u8>>>, Error> {
        let Some(value) = self.staged(path).await? else { return Ok(None) };
        if self.source.version == Version::V0 {
            return Ok(Some(value));
        }
        match upstream::open(&Store::Config.key(domain), path, &value) {
            Ok(plain) => Ok(Some(plain)),
            Err(_) => {
                self.bad(path, BadValue("its seal does not hold"))?;
                Ok(None)
            }
        }
    }
}

/// Finishes a restore whose slots are already those of the backup: converts what waits, moves the pointer, clears up. `Ok`
/// at once if nothing waits. May be interrupted anywhere and called again.
pub(crate) async fn finish_import(device: &Arc<Device>, domain: &DomainKey) -> Result<(), Error> {
    let (platform, local) = (&device.platform, &device.store);
    let Some(Procedure::Import { generation, version }) = Procedure::noted(local).await? else { return Ok(()) };
    let (current, expect) = stage::pointer(platform).await?;
    let source = Source { generation, version, expect };
    let to = source.to();
    if current != Some(to) {
        tracing::info!(target: "hsm.backup", "the entries of the backup are being taken over");
        let mut conversion = Conversion::new(device, source, OnBad::LeaveOut);
        loop {
            match Box::pin(conversion.next(domain)).await {
                Ok(true) => {}
                Ok(false) => break,
                // The file is to blame, and the next attempt would end here, too.
                Err(error @ Error::Invalid(_)) => {
                    undo_import(platform, local, "its file cannot be used").await?;
                    return Err(error);
                }
                Err(error) => return Err(error),
            }
        }
        stage::move_pointer(platform, expect, to).await.or_error()?;
        report(&conversion);
    }
    clear_up(platform, local).await;
    Ok(())
}

/// Whether the slots are those of a backup whose entries nobody has opened yet: until then it can be undone.
pub(crate) async fn import_waits(platform: &Platform, local: &DeviceStore) -> Result<bool, Error> {
    let Some(Procedure::Import { generation, version }) = Procedure::noted(local).await? else { return Ok(false) };
    let (current, expect) = stage::pointer(platform).await?;
    // Once the pointer has moved the old rows are given up, even if the note could not be removed yet.
    Ok(current != Some(Source { generation, version, expect }.to()))
}

/// Gives a device back the slots and the time it had before a restore that was not opened yet, so that nobody is locked out.
pub(crate) async fn undo_import(platform: &Platform, local: &DeviceStore, why: &str) -> Result<(), Error> {
    let change = slots::back_to_former(DeviceStoreChange::default().delete(DevicePath::Procedure), local).await?;
    local.commit(change).await?;
    tracing::error!(target: "hsm.backup", "a restore was undone: {why}; users, keys and unlock passphrase are those from before");
    if let Err(error) = stage::sweep(platform).await {
        tracing::warn!(target: "hsm.backup", %error, "what a restore staged could not be removed yet");
    }
    Ok(())
}

/// Removes what a restore replaced, then its note. What remains takes room only: if it cannot be removed now, the note stays,
/// and the next boot, unlock or restore does it.
pub(crate) async fn clear_up(platform: &Platform, local: &DeviceStore) {
    let cleared = async {
        stage::sweep(platform).await?;
        local.commit(slots::forget_former(DeviceStoreChange::default().delete(DevicePath::Procedure))).await
    };
    if let Err(error) = cleared.await {
        tracing::warn!(target: "hsm.backup", %error, "what a restore replaced could not be removed yet");
    }
}

/// Says how a restore went.
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

/// What seals the rows that entries become.
struct RowKeys {
    users: RowKey<UserRecord>,
    namespaces: RowKey<NamespaceRecord>,
    keys: RowKey<KeyRecord>,
    certificates: RowKey<CertificateRecord>,
    counters: RowKey<CounterRecord>,
}

impl RowKeys {
    fn of(domain: &DomainKey) -> Self {
        Self {
            users: RowKey::of(domain),
            namespaces: RowKey::of(domain),
            keys: RowKey::of(domain),
            certificates: RowKey::of(domain),
            counters: RowKey::of(domain),
        }
    }
}

fn sealed<R: Record>(domain: &DomainKey, path: &RowPath<R>, record: &R, rng: &dyn Rng) -> SealedRow {
    RowKey::of(domain).seal(path, Revision::default(), record, rng)
}

fn fits(row: &SealedRow) -> bool {
    row.value_bytes() <= STORE_VALUE_MAX_BYTES
}

/// An entry's path, and the rows it became.
type Converted = (String, Result<Vec<SealedRow>, BadValue>);

/// Everything that the conversion of one page needs.
struct Job {
    store: StoreKey,
    tables: RowKeys,
    version: Version,
    to: Generation,
    device_id: String,
    namespaces: Arc<HashMap<NamespaceId, NamespaceNumber>>,
    rng: Arc<dyn Rng>,
    /// Whether a user came with a digest of NetHSM's.
    to_harden: bool,
    /// Administrators of the root among the users.
    administrators: usize,
}

impl Job {
    fn convert(&mut self, (path, value): Staged) -> Converted {
        let rows = self.rows(&path, &value);
        (path, rows)
    }

    fn open(&self, path: &str, value: &[u8]) -> Result<zeroize::Zeroizing<Vec<u8>>, BadValue> {
        upstream::open(&self.store, path, value).map_err(|_| BadValue("its seal does not hold"))
    }

    fn rows(&mut self, path: &str, value: &[u8]) -> Result<Vec<SealedRow>, BadValue> {
        match Place::of(self.version, path) {
            Place::StoreVersion(_) => Ok(Vec::new()),
            Place::User(id) => {
                let user = upstream::read_user(&self.open(path, value)?)?;
                let row = self.sealed(&self.tables.users, &RowPath::user(self.to, &id), &user);
                if !fits(&row) {
                    return Err(BadValue("it is too large"));
                }
                self.to_harden |= user.digest.scheme == Scheme::HmacSha256;
                self.administrators += usize::from(user.role == Role::Administrator && id.namespace.is_none());
                Ok(vec![row])
            }
            Place::Key(namespace, id) => {
                let number = match &namespace {
                    None => Some(ROOT),
                    Some(namespace) => self.namespaces.get(namespace).copied(),
                };
                let number = number.ok_or(BadValue("its namespace is not in the backup"))?;
                let mut uid = Uid::default();
                self.rng.fill(&mut uid);
                let full = upstream::read_key(&self.open(path, value)?, uid)?;
                let key = KeyRef { namespace: number, uid };
                let mut rows = vec![self.sealed(&self.tables.keys, &RowPath::key(self.to, number, &id), &full.record)];
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
            _ => Err(BadValue("its path is none of a user, a namespace or a key")),
        }
    }

    /// The namespace an entry stands for; none: it is the version of the store.
    fn namespace(&self, path: &str, value: &[u8]) -> Result<Option<NamespaceId>, BadValue> {
        match Place::of(self.version, path) {
            Place::StoreVersion(_) => Ok(None),
            Place::Namespace(id) => {
                let name = upstream::read_namespace(&self.open(path, value)?)?;
                if name == id.as_str() { Ok(Some(id)) } else { Err(BadValue("it names another namespace")) }
            }
            _ => Err(BadValue("its path is none of a namespace")),
        }
    }

    fn sealed<R: Record>(&self, key: &RowKey<R>, path: &RowPath<R>, record: &R) -> SealedRow {
        key.seal(path, Revision::default(), record, &*self.rng)
    }
}
