//! Keys of one scope: look-up, creation, changes, deletion. Using a key is in [`usable`].

pub mod context;
pub mod counters;
pub mod details;
pub mod index;
pub mod namespaces;
pub mod quotas;
pub mod usable;

use crate::rows::certificate::CertificateRecord;
use std::ops::Deref;
use std::sync::Arc;

use casemate_api::limits::{GENERIC_GENERATE_BITS, LABEL_MAX_BYTES, RSA_GENERATE_BITS};
use casemate_api::{KeyId, KeyType};

use crate::crypto::material::{Material, loads_quickly};
use crate::error::Error;
use crate::identity::caller::{Caller, Scope};
use crate::identity::right::{self, ATTEMPTS, By, Change};
use crate::keys::context::Keyring;
use crate::keys::quotas::{QuotaGuard, signed, stored_bytes};
use crate::keys::usable::Key;
use crate::rows::key::{KeyRecord, Mechanisms, check_mechanisms};
use crate::rows::path::{KeyRef, RowPath, RowPrefix, Uid};
use crate::rows::table::Row;
use crate::rows::transaction::{Committed, Transaction};
use crate::runtime::Rng;
use crate::runtime::pool::Work;
use crate::store::Revision;

/// The properties of a key besides its material.
pub struct Properties {
    /// The mechanisms it may be used with.
    pub mechanisms: Mechanisms,
    /// At most 32 bytes; empty: none.
    pub label: String,
    /// Tags of its restriction, any strings; sorted, without repetition.
    pub tags: Vec<String>,
}

impl Properties {
    /// Checks the label; sorts the tags and removes repetitions. `Invalid` if the label is too long.
    pub fn new(mechanisms: Mechanisms, label: String, mut tags: Vec<String>) -> Result<Self, Error> {
        check_label(&label)?;
        tags.sort();
        tags.dedup();
        Ok(Self { mechanisms, label, tags })
    }
}

/// Checks the length of a label, at most 32 bytes. `Invalid` if it is longer.
pub fn check_label(label: &str) -> Result<(), Error> {
    if label.len() > LABEL_MAX_BYTES {
        return Err(Error::invalid_field("label", format!("Label is too long, max {LABEL_MAX_BYTES} bytes")));
    }
    Ok(())
}

/// The id for a new key.
pub enum NewId {
    /// This one.
    Given(KeyId),
    /// One the HSM picks: ten random bytes in hexadecimal.
    Picked,
}

impl<'a> Keyring<'a> {
    /// The keys of `scope`.
    pub fn of(self, scope: &'a Scope) -> Keys<'a> {
        Keys { ring: self, scope }
    }

    /// The keys of the caller's scope, for changes; `Forbidden` if its namespace does not exist.
    pub fn managed_by(self, caller: &'a Caller) -> Result<ManagedKeys<'a>, Error> {
        Ok(ManagedKeys { keys: self.of(caller.scope()?), caller })
    }
}

/// The keys of one scope. Every path that this type forms lies in that scope.
pub struct Keys<'a> {
    ring: Keyring<'a>,
    scope: &'a Scope,
}

impl Keys<'_> {
    fn path(&self, id: &KeyId) -> RowPath<KeyRecord> {
        RowPath::key(self.ring.tables.generation, self.scope.number(), id)
    }

    fn key(&self, uid: Uid) -> KeyRef {
        KeyRef { namespace: self.scope.number(), uid }
    }

    fn certificate_path(&self, uid: Uid) -> RowPath<CertificateRecord> {
        RowPath::certificate(self.ring.tables.generation, self.key(uid))
    }

    fn fence(&self, transaction: Transaction) -> Transaction {
        self.scope.fence(self.ring.tables.generation, transaction)
    }

    /// A key, if it exists in this scope.
    pub async fn get(&self, id: &KeyId) -> Result<Option<Key>, Error> {
        let row = self.ring.tables.keys.get(&self.path(id)).await?;
        Ok(row.map(|row| self.found(id.clone(), row)))
    }

    fn found(&self, id: KeyId, row: Arc<Row<KeyRecord>>) -> Key {
        Key { id, namespace: self.scope.number(), row }
    }

    /// A key as the store has it now, for changes and refusals: another node may have put it in the place of one that this node
    /// still has in its cache.
    pub async fn get_stored(&self, id: &KeyId) -> Result<Option<Key>, Error> {
        let row = self.ring.tables.keys.refresh(&self.path(id)).await?;
        Ok(row.map(|row| Key { id: id.clone(), namespace: self.scope.number(), row }))
    }

    /// One page of the ids that start with `prefix`, sorted, and where the next page starts, if there is one.
    pub async fn page(&self, prefix: &str, after: Option<&PageEnd>) -> Result<(Vec<KeyId>, Option<PageEnd>), Error> {
        let all = RowPrefix::keys(self.ring.tables.generation, self.scope.number(), "");
        let wanted = RowPrefix::keys(self.ring.tables.generation, self.scope.number(), prefix);
        let (paths, more) = self.ring.tables.keys.paths(&wanted, after.map(|end| &end.0)).await?;
        let ids = paths.iter().filter_map(|path| KeyId::parse(all.tail(path.path())?).ok()).collect();
        let end = if more { paths.into_iter().next_back().map(PageEnd) } else { None };
        Ok((ids, end))
    }

    /// The end of a page that had the key `id` last, which need not exist.
    pub fn page_end(&self, id: &KeyId) -> PageEnd {
        PageEnd(self.path(id))
    }

    /// The certificate as it was stored, any bytes; `None` if there is none.
    pub async fn certificate(&self, key: &Key) -> Result<Option<Vec<u8>>, Error> {
        let certificates = &self.ring.tables.certificates;
        let mut row = certificates.get(&self.certificate_path(key.row.record.uid)).await?;
        // Another node may have put another key in the place of this one.
        if row.is_none()
            && let Some(now) = self.get_stored(&key.id).await?
            && now.row.record.uid != key.row.record.uid
        {
            row = certificates.get(&self.certificate_path(now.row.record.uid)).await?;
        }
        Ok(row.map(|row| row.record.0.clone()))
    }
}

/// The keys that one caller may change, in its own scope. Every write checks the caller's right in the same
/// transaction.
pub struct ManagedKeys<'a> {
    keys: Keys<'a>,
    caller: &'a Caller,
}

impl<'a> Deref for ManagedKeys<'a> {
    type Target = Keys<'a>;
    fn deref(&self) -> &Keys<'a> {
        &self.keys
    }
}

impl ManagedKeys<'_> {
    async fn commit(&self, transaction: Transaction) -> Result<Committed, Error> {
        right::commit(self.ring.tables, By::Caller(self.caller), self.fence(transaction)).await
    }

    /// Commits a deletion of so many keys and bytes, also if the store has no room left.
    async fn remove(
        &self,
        quota: &QuotaGuard,
        transaction: Transaction,
        keys: i64,
        bytes: i64,
    ) -> Result<Committed, Error> {
        let booked = quota.book(self.ring.tables, transaction.clone(), keys, bytes)?.reserved();
        match self.commit(booked).await {
            Err(Error::Full(_)) if quota.is_set() => self.commit(quota.unbook(transaction)).await,
            committed => committed,
        }
    }

    /// Generates a key. `length` is in bits; only RSA and Generic use it. `new_id` may be empty: the HSM picks an id.
    /// The checks run in the documented order.
    pub async fn generate(
        &self,
        new_id: &str,
        key_type: KeyType,
        length: i64,
        mechanisms: &[casemate_api::Mechanism],
        restriction: (String, Vec<String>),
    ) -> Result<KeyId, Error> {
        let bits = usize::try_from(length).unwrap_or(0);
        if key_type == KeyType::RSA && !RSA_GENERATE_BITS.contains(&bits) {
            return Err(Error::invalid_field("length", "RSA key length must be between 1024 and 8192."));
        }
        let mechanisms = check_mechanisms(key_type, mechanisms)?;
        let new_id = match new_id {
            "" => NewId::Picked,
            given => NewId::Given(KeyId::parse(given).map_err(|why| Error::invalid_field("id", why.to_string()))?),
        };
        if key_type == KeyType::Generic && !GENERIC_GENERATE_BITS.contains(&bits) {
            return Err(Error::invalid_field("length", "Length must be between 128 and 8192."));
        }
        let (label, tags) = restriction;
        let properties = Properties::new(mechanisms, label, tags)?;
        // Checked before the work, because an RSA key takes seconds; checked again when it is written.
        if let NewId::Given(id) = &new_id
            && self.get_stored(id).await?.is_some()
        {
            return Err(taken(id));
        }
        let rng = self.ring.device.platform.rng.clone();
        let make = move || Material::generate(key_type, bits, &*rng);
        let material = match key_type {
            KeyType::RSA => self.ring.off_thread(Work::Slow, self.scope.party(), make).await??,
            // Generating any other key takes as long as loading it.
            _ if loads_quickly(key_type) => make()?,
            _ => self.ring.off_thread(Work::Crypto, self.scope.party(), make).await??,
        };
        self.create(new_id, material, properties).await
    }

    /// Stores a new key. `Exists` if the id is taken.
    pub async fn create(&self, new_id: NewId, material: Material, properties: Properties) -> Result<KeyId, Error> {
        let mut uid = Uid::default();
        self.ring.device.platform.rng.fill(&mut uid);
        let id = match new_id {
            NewId::Given(id) => id,
            NewId::Picked => picked_id(&*self.ring.device.platform.rng)?,
        };
        let path = self.path(&id);
        let record = KeyRecord::new(uid, properties.mechanisms, properties.label, properties.tags, material);
        let sealed = self.ring.tables.keys.sealed(&path, Revision::default(), &record)?;
        for _ in 0..ATTEMPTS {
            let quota = self.ring.hold_quota(self.scope).await?;
            let transaction = Transaction::default().absent(&path).put(sealed.clone());
            let transaction = self.ring.tables.index.with(transaction, self.key(uid), &id, &record.label)?;
            let transaction = quota.book(self.ring.tables, transaction, 1, signed(sealed.value_bytes()))?;
            match self.commit(transaction).await? {
                Committed::At(_) => {
                    tracing::info!(target: "hsm.key", "created ({id})");
                    if !record.tags.is_empty() {
                        tracing::info!(target: "hsm.key", "tags ({id}): {:?}", record.tags);
                    }
                    return Ok(id);
                }
                Committed::Conflict(0) => return Err(taken(&id)),
                // Another node has changed keys of the namespace, or the namespace itself.
                Committed::Conflict(_) if quota.is_set() => {}
                Committed::Conflict(_) => break,
            }
        }
        Err(gone())
    }

    /// Deletes the key that was found, with its certificate and its count; never a newer key with the same id.
    /// `NotFound` if it is not there any more.
    pub async fn delete(&self, key: &Key) -> Result<(), Error> {
        let id = &key.id;
        let path = self.path(id);
        for _ in 0..ATTEMPTS {
            let quota = self.ring.hold_quota(self.scope).await?;
            let row = self.ring.tables.keys.read(&path).await?.filter(|row| row.record.uid == key.row.record.uid);
            let row = row.ok_or_else(Error::not_found)?;
            let uid = row.record.uid;
            let certificate = self.certificate_path(uid);
            let transaction = Transaction::default().at(&path, row.revision).delete(&path).delete(&certificate);
            let transaction = self.ring.tables.index.without(transaction, self.key(uid), &row.record.label);
            let transaction = self.ring.counts_of(self.key(uid)).await?.iter().fold(transaction, Transaction::delete);
            let mut bytes = stored_bytes(&row.record);
            if quota.is_set() {
                // Read after the usage, which every change of a certificate changes.
                let certificate = self.ring.tables.certificates.read(&certificate).await?;
                bytes += certificate.map_or(0, |row| stored_bytes(&row.record));
            }
            if let Committed::At(_) = self.remove(&quota, transaction, -1, -bytes).await? {
                tracing::info!(target: "hsm.key", "removed ({id})");
                self.ring.forget_counts(self.key(uid)).await;
                return Ok(());
            }
        }
        Err(gone())
    }

    /// Gives the key that was found another id in the same scope; everything else stays. `Exists` if the id is taken.
    pub async fn rename(&self, key: &Key, new_id: &KeyId) -> Result<(), Error> {
        let id = &key.id;
        let (from, to) = (self.path(id), self.path(new_id));
        let taken = || Error::Exists(format!("Key '{new_id}' already exists").into());
        for _ in 0..ATTEMPTS {
            let row = self.ring.tables.keys.read(&from).await?.filter(|row| row.record.uid == key.row.record.uid);
            let row = row.ok_or_else(Error::not_found)?;
            if from == to {
                return Err(taken());
            }
            let transaction = Transaction::default()
                .absent(&to)
                .at(&from, row.revision)
                .move_to(&from, self.ring.tables.keys.sealed(&to, row.revision, &row.record)?);
            let index = &self.ring.tables.index;
            let transaction = index.with(transaction, self.key(row.record.uid), new_id, &row.record.label)?;
            let transaction =
                if new_id.as_str().len() <= id.as_str().len() { transaction.replacing() } else { transaction };
            // Uses are written by the id of their key.
            let mut uses = self.ring.state.counters.steady().await;
            match self.commit(transaction).await? {
                Committed::At(revision) => {
                    uses.renamed(self.key(row.record.uid), new_id, revision);
                    tracing::info!(target: "hsm.key", "moved ({id}) to ({new_id})");
                    return Ok(());
                }
                Committed::Conflict(0) => return Err(taken()),
                Committed::Conflict(_) => continue,
            }
        }
        Err(gone())
    }

    /// Sets the label; empty removes it.
    pub async fn set_label(&self, id: &KeyId, label: &str) -> Result<Change, Error> {
        check_label(label)?;
        let changed = self.change(id, |mut record| {
            if record.label == label {
                return None;
            }
            record.label = label.to_owned();
            Some(record)
        });
        Ok(changed.await?.if_done(|| tracing::info!(target: "hsm.key", "update ({id}): label is now '{label}'")))
    }

    /// Adds a tag to the restriction.
    pub async fn add_tag(&self, id: &KeyId, tag: &str) -> Result<Change, Error> {
        let changed =
            self.change(id, |mut record| match record.tags.binary_search_by(|known| known.as_str().cmp(tag)) {
                Ok(_) => None,
                Err(at) => {
                    record.tags.insert(at, tag.to_owned());
                    Some(record)
                }
            });
        Ok(changed.await?.if_done(|| tracing::info!(target: "hsm.key", "update ({id}): added tag {tag:?}")))
    }

    /// Removes a tag from the restriction.
    pub async fn remove_tag(&self, id: &KeyId, tag: &str) -> Result<Change, Error> {
        let changed = self.change(id, |mut record| {
            let before = record.tags.len();
            record.tags.retain(|known| known != tag);
            (record.tags.len() != before).then_some(record)
        });
        Ok(changed.await?.if_done(|| tracing::info!(target: "hsm.key", "update ({id}): removed tag {tag:?}")))
    }

    async fn change(&self, id: &KeyId, change: impl Fn(KeyRecord) -> Option<KeyRecord>) -> Result<Change, Error> {
        let path = self.path(id);
        for _ in 0..ATTEMPTS {
            let quota = self.ring.hold_quota(self.scope).await?;
            let row = self.ring.tables.keys.read(&path).await?;
            let Row { record, revision } = row.ok_or(Error::NotFound(Some("key not found".into())))?;
            let (before, label) = (stored_bytes(&record), record.label.clone());
            let Some(record) = change(record) else { return Ok(Change::Unchanged) };
            let more = stored_bytes(&record) - before;
            let sealed = self.ring.tables.keys.sealed(&path, revision, &record)?;
            let mut transaction = Transaction::default().at(&path, revision).put(sealed);
            if record.label != label {
                let (index, key) = (&self.ring.tables.index, self.key(record.uid));
                transaction = index.relabelled(transaction, key, id, (&label, &record.label))?;
            }
            let transaction = if more <= 0 { transaction.replacing() } else { transaction };
            let transaction = quota.book(self.ring.tables, transaction, 0, more)?;
            if let Committed::At(_) = self.commit(transaction).await? {
                return Ok(Change::Done);
            }
        }
        Err(gone())
    }

    /// Stores a certificate, any bytes. `Exists` if there is one already.
    pub async fn set_certificate(&self, id: &KeyId, certificate: Vec<u8>) -> Result<(), Error> {
        let path = self.path(id);
        let record = CertificateRecord(certificate);
        for _ in 0..ATTEMPTS {
            let key =
                self.ring.tables.keys.read(&path).await?.ok_or(Error::NotFound(Some("keyID not found".into())))?;
            let certificate = self.certificate_path(key.record.uid);
            let sealed = self.ring.tables.certificates.sealed(&certificate, Revision::default(), &record)?;
            let quota = self.ring.hold_quota(self.scope).await?;
            let bytes = signed(sealed.value_bytes());
            let transaction = Transaction::default().absent(&certificate).at(&path, key.revision).put(sealed);
            let transaction = quota.book(self.ring.tables, transaction, 0, bytes)?;
            match self.commit(transaction).await? {
                Committed::At(_) => {
                    tracing::info!(target: "hsm.key", "update ({id}): added certificate");
                    return Ok(());
                }
                Committed::Conflict(0) => return Err(Error::Exists("Key already contains a certificate".into())),
                Committed::Conflict(_) => continue,
            }
        }
        Err(gone())
    }

    /// Removes the certificate.
    pub async fn delete_certificate(&self, key: &Key) -> Result<(), Error> {
        let path = self.certificate_path(key.row.record.uid);
        let none = || Error::NotFound(Some("There is no certificate for this KeyID.".into()));
        for _ in 0..ATTEMPTS {
            let quota = self.ring.hold_quota(self.scope).await?;
            let row = self.ring.tables.certificates.read(&path).await?.ok_or_else(none)?;
            let transaction = Transaction::default().at(&path, row.revision).delete(&path);
            if let Committed::At(_) = self.remove(&quota, transaction, 0, -stored_bytes(&row.record)).await? {
                tracing::info!(target: "hsm.key", "update ({}): removed certificate", key.id);
                return Ok(());
            }
        }
        Err(gone())
    }
}

/// Where a page of keys ended.
pub struct PageEnd(RowPath<KeyRecord>);

/// A fresh id: ten random bytes in hexadecimal, so nobody has it yet.
pub fn picked_id(rng: &dyn Rng) -> Result<KeyId, Error> {
    KeyId::parse(&picked_name(rng)).map_err(|why| Error::internal(why.to_string()))
}

/// The text of [`picked_id`], for ids of other kinds.
pub fn picked_name(rng: &dyn Rng) -> String {
    let mut bytes = [0u8; 10];
    rng.fill(&mut bytes);
    base16ct::lower::encode_string(&bytes)
}

fn taken(id: &KeyId) -> Error {
    Error::Exists(format!("Key with id {id} already exists").into())
}

fn gone() -> Error {
    Error::Unavailable("The key or its namespace was changed meanwhile. Try again.".into())
}
