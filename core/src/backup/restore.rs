//! Reads a backup file for a restore: decodes it as it arrives, authenticates every entry and stages it in a generation that
//! nothing reads, checks that the file is complete, and prepares what the import writes. Until that is written, a restore has
//! changed nothing that is read.
//!
//! This half works on the device alone. What depends on the phase (this HSM's own Backup Key, the lock on transitions, when the
//! data is replaced) is decided by `hsm/restore.rs`: `RestoredFile::next` returns when it needs that.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use casemate_api::Passphrase;
use casemate_api::limits::{RESTORE_DEVICE_MAX_BYTES, RESTORE_MAX_BYTES};
use jiff::Timestamp;
use zeroize::Zeroizing;

use crate::backup::device::{self as device_items, Items};
use crate::backup::envelope::Head;
use crate::backup::format::FormatError;
use crate::backup::nethsm::{self, DeviceItem, EntryPath, NethsmStore};
use crate::backup::passphrase::backup_key;
use crate::backup::read::{Entry, Item, Reader};
use crate::backup::stage::{self, Staging};
use crate::config::parse_time;
use crate::crypto::secret::BackupKey;
use crate::crypto::secret::DomainKey;
use crate::device::Device;
use crate::device::procedure::Procedure;
use crate::device::store::DeviceStoreChange;
use crate::error::Error;
use crate::rows::cluster_id::ClusterId;
use crate::rows::path::{DevicePath, Generation};
use crate::runtime::party::Party;
use crate::runtime::pool::{Work, run_on};

/// The arguments of a restore, beside the file.
#[derive(Default)]
pub struct RestoreArguments {
    /// The backup passphrase of the file. `None`: the backup passphrase of this HSM is used, if the file was made with it.
    pub passphrase: Option<Passphrase>,
    /// The HSM's time to set. `None`: a full restore uses the clock offset of the backup, a partial one keeps this HSM's.
    pub system_time: Option<Timestamp>,
}

impl RestoreArguments {
    /// `system_time` is RFC 3339 with offset zero.
    ///
    /// # Errors
    /// [`Error::Invalid`] if it is not.
    pub fn new(passphrase: Option<Passphrase>, system_time: Option<&str>) -> Result<Self, Error> {
        Ok(Self {
            passphrase,
            system_time: system_time.map(parse_time).transpose().map_err(|error| error.in_field("systemTime"))?,
        })
    }
}

/// A backup file that is being read and staged.
pub(crate) struct RestoredFile {
    device: Arc<Device>,
    began: Duration,
    arguments: RestoreArguments,
    reader: Reader,
    received: u64,
    unlocked: bool,
    head: Option<Head>,
    staging: Option<Staging>,
    /// The cluster to found, on a shared store that nobody uses yet.
    cluster: Option<ClusterId>,
    items: Items,
    items_bytes: usize,
    version_seen: bool,
    /// Stores whose version entry was read. A file that was cut off lacks the last one.
    stores_seen: BTreeSet<String>,
}

/// What the reader needs to go on.
pub(crate) enum Next {
    /// The key of the file: [`RestoredFile::unlock`].
    Key {
        /// The salt of its backup passphrase.
        salt: [u8; 16],
    },
    /// The generation for the entries: [`RestoredFile::begin_staging`].
    Stage(Head),
    /// More bytes, or the end of the file.
    Bytes,
}

/// A complete backup whose entries are staged and durable.
pub(crate) struct StagedBackup {
    /// The fields in front of the entries.
    pub(crate) head: Head,
    /// Slot 0 of the backup.
    pub(crate) slots: Slots,
    /// The generation that holds the entries.
    pub(crate) generation: Generation,
    /// The cluster to found, on a shared store that nobody uses yet.
    cluster: Option<ClusterId>,
    items: Items,
}

/// What an import writes to the device's own store, prepared but not written.
pub(crate) struct Import {
    /// The slots of the backup, the record of the procedure, and in a full restore the device's configuration.
    pub(crate) change: DeviceStoreChange,
    /// The procedure recorded in `change`.
    pub(crate) procedure: Procedure,
    /// The new clock offset in seconds, if it changes.
    pub(crate) offset_s: Option<i64>,
    /// Whether the backup has an unattended slot that this device opens.
    pub(crate) unattended_boot: bool,
}

impl From<FormatError> for Error {
    fn from(error: FormatError) -> Self {
        Error::invalid(error.to_string())
    }
}

impl RestoredFile {
    pub(crate) fn new(device: Arc<Device>) -> Self {
        Self {
            began: device.platform.clock.monotonic(),
            device,
            arguments: RestoreArguments::default(),
            reader: Reader::default(),
            received: 0,
            unlocked: false,
            head: None,
            staging: None,
            cluster: None,
            items: Items::new(),
            items_bytes: 0,
            version_seen: false,
            stores_seen: BTreeSet::new(),
        }
    }

    /// Sets the arguments. The time that passes from now on is added to the time they set.
    pub(crate) fn set_arguments(&mut self, arguments: RestoreArguments) {
        self.began = self.device.platform.clock.monotonic();
        self.arguments = arguments;
    }

    /// Whether the arguments contain a backup passphrase.
    pub(crate) fn has_passphrase(&self) -> bool {
        self.arguments.passphrase.is_some()
    }

    /// Counts bytes that have arrived.
    ///
    /// # Errors
    /// [`Error::Invalid`] beyond [`RESTORE_MAX_BYTES`].
    pub(crate) fn count(&mut self, bytes: usize) -> Result<(), Error> {
        self.received = self.received.saturating_add(bytes as u64);
        if self.received > RESTORE_MAX_BYTES {
            return Err(Error::invalid("The backup is larger than any that is restored. Nothing was restored."));
        }
        Ok(())
    }

    /// Takes counted bytes. Call [`RestoredFile::next`] afterwards.
    pub(crate) fn feed(&mut self, bytes: &[u8]) {
        self.reader.feed(bytes);
    }

    /// Ends the file. Call [`RestoredFile::next`], then [`RestoredFile::complete`].
    ///
    /// # Errors
    /// [`Error::Invalid`] if it is empty.
    pub(crate) fn end(&mut self) -> Result<(), Error> {
        if self.received == 0 {
            return Err(Error::invalid_field("backup_file", "Backup data cannot be empty."));
        }
        self.reader.finish();
        Ok(())
    }

    /// Processes what was fed, until something else is needed.
    ///
    /// # Errors
    /// [`Error::Invalid`], with NetHSM's sentence where it has one, if the file or its passphrase is wrong.
    pub(crate) async fn next(&mut self) -> Result<Next, Error> {
        if !self.unlocked {
            let Some((_, salt)) = self.reader.start()? else { return Ok(Next::Bytes) };
            return Ok(Next::Key { salt });
        }
        while let Some(item) = self.reader.item()? {
            match item {
                Item::Head(head) => return Ok(Next::Stage(head)),
                Item::Entry(entry) => self.process_entry(entry).await?,
                Item::End => {}
            }
        }
        Ok(Next::Bytes)
    }

    /// Checks that there is a key or a passphrase for the file.
    ///
    /// # Errors
    /// [`Error::Invalid`] if there is neither.
    pub(crate) fn check_passphrase(&self, own: Option<&BackupKey>) -> Result<(), Error> {
        if own.is_none() && self.arguments.passphrase.is_none() {
            return Err(Error::invalid_field("backupPassphrase", "No backupPassphrase provided"));
        }
        Ok(())
    }

    /// Unlocks the file with `own`, or with the key derived from the given passphrase: about 0.3 s of one core.
    pub(crate) async fn unlock(&mut self, salt: [u8; 16], own: Option<BackupKey>) -> Result<(), Error> {
        let key = match (own, &self.arguments.passphrase) {
            (Some(key), _) => key,
            (None, Some(passphrase)) => backup_key(&self.device.platform, Party::Hsm, passphrase, salt).await?,
            (None, None) => return Err(Error::invalid_field("backupPassphrase", "No backupPassphrase provided")),
        };
        self.reader.unlock(key);
        self.unlocked = true;
        Ok(())
    }

    /// Records the procedure, removes what earlier attempts left, and opens the generation for the entries. The caller holds
    /// the lock on transitions.
    ///
    /// # Errors
    /// [`Error::Unavailable`] while an earlier restore waits for its unlock passphrase; [`Error::Precondition`] at a device that is
    /// not provisioned, if its shared store is in use.
    pub(crate) async fn begin_staging(&mut self, head: Head) -> Result<(), Error> {
        let Device { platform, store: local, .. } = &*self.device;
        let earlier = Procedure::stored(local).await?;
        if let Some(Procedure::Import { .. }) = earlier {
            return Err(Error::Unavailable("An earlier restore is not over. Reboot and unlock the HSM first.".into()));
        }
        // Anybody may restore at a device that is not provisioned. In a shared store with the data of a cluster they write nothing.
        let founds = platform.store.is_shared() && local.get(DevicePath::Slot0).await?.is_none();
        if founds && stage::pointer(platform).await?.0.is_some() {
            return Err(ClusterId::in_use());
        }
        stage::sweep(&self.device, earlier.and_then(Procedure::generation)).await?;
        if founds {
            self.cluster = Some(ClusterId::for_unused(&*platform.store, &*platform.rng).await?);
        }
        let (current, guards) = stage::begin(&self.device).await?;
        let generation = stage::take_generation(platform, current).await?;
        local.commit(Procedure::Stage { generation }.record_in(DeviceStoreChange::default())).await?;
        self.staging = Some(Staging::new(self.device.clone(), generation, &guards));
        let (version, device, ours) = (head.version.byte(), &head.device_id, head.ours);
        tracing::info!(target: "hsm.backup", version, device, ours, "a backup is being restored");
        self.head = Some(head);
        Ok(())
    }

    /// Checks that the file is complete, and writes its last entries.
    ///
    /// # Errors
    /// [`Error::Invalid`] if anything is missing.
    pub(crate) async fn complete(&mut self) -> Result<StagedBackup, Error> {
        if !self.reader.at_end() {
            return Err(FormatError::UnexpectedEnd.into());
        }
        let missing = || Error::invalid("The backup lacks entries that every backup has. Nothing was restored.");
        if self.stores_seen.len() < 3 {
            return Err(FormatError::Truncated.into());
        }
        let (Some(head), Some(mut staging), true) = (self.head.take(), self.staging.take(), self.version_seen) else {
            return Err(missing());
        };
        staging.flush().await?;
        let salt = self.items.get(&DeviceItem::UnlockSalt).ok_or_else(missing)?;
        let slots = Slots { locked: head.locked_domain_key.clone(), salt: salt.to_vec() };
        if slots.salt.len() != 16 {
            return Err(missing());
        }
        Ok(StagedBackup {
            cluster: self.cluster,
            head,
            slots,
            generation: staging.generation,
            items: std::mem::take(&mut self.items),
        })
    }

    /// Removes the staged entries of a restore that failed, or logs that they remain. The caller holds the lock on transitions.
    pub(crate) async fn remove_staged(&self) {
        let Device { store: local, .. } = &*self.device;
        let removed = async {
            if let Some(Procedure::Stage { generation }) = Procedure::stored(local).await? {
                stage::sweep(&self.device, Some(generation)).await?;
                local.commit(DeviceStoreChange::default().delete(DevicePath::Procedure)).await?;
            }
            Ok::<(), Error>(())
        };
        if let Err(error) = removed.await {
            tracing::warn!(target: "hsm.backup", %error, "what a failed restore has staged could not be removed yet");
        }
    }

    /// Stages an entry, or keeps it in memory if it is part of the device's configuration.
    async fn process_entry(&mut self, entry: Entry) -> Result<(), Error> {
        let (Some(head), Some(staging)) = (&self.head, &mut self.staging) else {
            return Err(Error::internal("an entry in front of the head"));
        };
        let Entry { path, value } = entry;
        match EntryPath::of(head.version, &path) {
            EntryPath::Initialized | EntryPath::Manifest => {}
            EntryPath::ConfigVersion if value.as_slice() == nethsm::config_version(head.version) => {
                self.version_seen = true
            }
            EntryPath::ConfigVersion => {
                return Err(Error::invalid(
                    "The backup is of an unknown version of NetHSM's store. Nothing was restored.",
                ));
            }
            EntryPath::StoreVersion(_) | EntryPath::Shared if value.len() > SMALL_ENTRY_MAX_BYTES => {
                return Err(Error::invalid(format!(
                    "The entry {path} of the backup is too large. Nothing was restored."
                )));
            }
            EntryPath::StoreVersion(store) => {
                self.stores_seen.insert(store.version_path());
                staging.add(&path, &value).await?;
            }
            EntryPath::User(_) | EntryPath::Namespace(_) | EntryPath::Key(..) | EntryPath::Shared => {
                staging.add(&path, &value).await?;
            }
            EntryPath::Device { device, item } if device == head.device_id => {
                let slot = matches!(item, DeviceItem::Attended | DeviceItem::Unattended);
                let plain = match &head.config_key {
                    Some(key) if !slot => nethsm::open(key, &path, &value).map_err(|_| {
                        Error::invalid(format!("The entry {path} of the backup does not open. Nothing was restored."))
                    })?,
                    _ => value,
                };
                self.items_bytes += plain.len();
                if self.items_bytes > RESTORE_DEVICE_MAX_BYTES {
                    return Err(Error::invalid(
                        "The backup's device configuration is too large. Nothing was restored.",
                    ));
                }
                self.items.insert(item, plain);
            }
            // Configuration of another device of a cluster.
            EntryPath::Device { .. } => {}
            // An entry of a store with an unknown name is staged; the conversion reports it.
            EntryPath::Other if NethsmStore::holds(&path) => staging.add(&path, &value).await?,
            EntryPath::Other => {
                tracing::warn!(target: "hsm.backup", path, "an entry of the backup is not known and is left out")
            }
        }
        Ok(())
    }

    /// The clock offset in seconds, if the arguments set the time. The time that passed since then is added.
    pub(crate) fn wanted_offset_s(&self) -> Option<i64> {
        Some(self.device.offset_s(self.arguments.system_time?, self.began))
    }
}

impl StagedBackup {
    /// Whether its entries are sealed under this Domain Key. That is so for the backups of every node of a cluster, while slots
    /// and unlock passphrase are each node's own.
    pub(crate) async fn is_of_domain(&self, device: &Device, domain: &DomainKey) -> Result<bool, Error> {
        for store in [NethsmStore::Users, NethsmStore::Keys, NethsmStore::Namespaces] {
            let path = store.version_path();
            let Some(value) = stage::entry(device, self.generation, &path).await? else { return Ok(false) };
            if nethsm::open(&store.key(domain), &path, &value).is_err() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Checks that the staged entries are still those of this restore.
    pub(crate) async fn check_procedure(&self, device: &Device) -> Result<(), Error> {
        match Procedure::stored(&device.store).await? {
            Some(Procedure::Stage { generation: stored }) if stored == self.generation => Ok(()),
            _ => Err(Error::Unavailable("The HSM was changed during the restore. Try again.".into())),
        }
    }

    /// Prepares the replacement of the Domain Key by that of the backup; writes nothing. `full` includes the device's
    /// configuration. `wanted_offset_s` is the clock offset in seconds that the arguments set.
    pub(crate) async fn prepare_import(
        &self,
        device: &Device,
        full: bool,
        wanted_offset_s: Option<i64>,
    ) -> Result<Import, Error> {
        let Self { head, slots, generation, items, cluster } = self;
        let generation = *generation;
        let procedure = Procedure::Import { generation, version: head.version };
        let mut change = procedure
            .record_in(DeviceStoreChange::default())
            .put(DevicePath::Slot0, slots.locked.clone())
            .put(DevicePath::UnlockSalt, slots.salt.clone());
        let mut offset_s = wanted_offset_s;
        let mut unattended = None;
        if full {
            let (owned, version, host) = (items.clone(), head.version, device.platform.host.clone());
            // On the pool, because the TLS key may be large.
            let take_over = move || device_items::take_over(&owned, version, &*host, change);
            change = run_on(&*device.platform.pool, Work::Backup, Party::Hsm, take_over).await??;
            offset_s = Some(offset_s.unwrap_or_else(|| device_items::clock_offset_s(items)));
            unattended = device_items::unattended_key(items, head.version, &head.device_id, &device.store);
        }
        let unattended_boot = unattended.is_some();
        change = match unattended {
            Some(domain) => change.put(DevicePath::Slot1, domain.expose().to_vec()),
            None => change.delete(DevicePath::Slot1),
        };
        if let Some(cluster) = cluster {
            change = change.put(DevicePath::Cluster, cluster.bytes());
        }
        if let Some(offset_s) = offset_s {
            change = change.put(DevicePath::ClockOffset, offset_s.to_be_bytes());
        }
        Ok(Import { change, procedure, offset_s, unattended_boot })
    }
}

/// Slot 0 of a backup.
pub(crate) struct Slots {
    /// The Domain Key, sealed under the Unlock Key.
    locked: Vec<u8>,
    /// Salt for deriving the Unlock Key.
    salt: Vec<u8>,
}

impl Slots {
    /// Whether slot 0 of this device and its salt are the same, so that Domain Key and unlock passphrase are, too.
    pub(crate) async fn are_of(&self, device: &Device) -> Result<bool, Error> {
        let same = |own: Option<Zeroizing<Vec<u8>>>, other: &[u8]| own.is_some_and(|own| own.as_slice() == other);
        Ok(same(device.store.get(DevicePath::Slot0).await?, &self.locked)
            && same(device.store.get(DevicePath::UnlockSalt).await?, &self.salt))
    }
}

/// Most bytes of an entry that is a single value of the whole HSM: a CA certificate, a key, a number.
const SMALL_ENTRY_MAX_BYTES: usize = 256 << 10;
