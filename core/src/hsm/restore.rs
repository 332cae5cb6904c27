//! Restores a backup. First every entry is authenticated and staged in a generation that nothing reads; then a single write
//! puts the restored data in place. A file that is damaged or incomplete changes nothing. What a boot does when power failed in
//! between is in `device/procedure.rs`.
//!
//! - *Same Domain Key and same unlock passphrase* (a backup of this HSM): the staged entries are converted while the old data
//!   is still in use. The write that counts moves the generation pointer. The HSM stays Operational.
//! - *Anything else*: the write that counts replaces the slots in the device's own store by those of the backup, and the HSM
//!   becomes Locked. The entries are converted when the backup's unlock passphrase has opened its Domain Key
//!   (`convert::finish_import`), or at once if the backup contains an unattended slot of this device. Until then the former
//!   slots are kept, and the former unlock passphrase puts them back, so that a backup which nobody can unlock does not lock
//!   anybody out.
//!
//! On an Unprovisioned HSM the restore is full: it includes the configuration of the device. On an Operational HSM it is
//! partial: the device keeps its own TLS key, network configuration, time and log target.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use casemate_api::Passphrase;
use casemate_api::limits::{RESTORE_DEVICE_MAX_BYTES, RESTORE_MAX_BYTES, UPLOAD_LOOK_MS};
use jiff::Timestamp;
use zeroize::Zeroizing;

use crate::Hsm;
use crate::backup::convert::{Conversion, OnBad, Source, clear_up, report};
use crate::backup::device::{self, Items};
use crate::backup::envelope::Head;
use crate::backup::format::FormatError;
use crate::backup::nethsm::{self, DeviceItem, EntryPath, NethsmStore};
use crate::backup::passphrase::backup_key;
use crate::backup::read::{Entry, Item, Reader};
use crate::backup::stage::{self, Moved, Staging};
use crate::config::parse_time;
use crate::crypto::secret::BackupKey;
use crate::device::Device;
use crate::device::procedure::Procedure;
use crate::device::slots;
use crate::device::store::DeviceStoreChange;
use crate::error::Error;
use crate::hsm::phase::{Locked, Operational, Phase, Unprovisioned};
use crate::hsm::{hold_with_timeout, wrong_state};
use crate::identity::caller::Caller;
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
        Ok(Self { passphrase, system_time: system_time.map(parse_time).transpose()? })
    }
}

/// The result of a restore.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Restored {
    /// The HSM has the data of the backup, and the restore cannot be undone.
    ForGood,
    /// The HSM is Locked. The former unlock passphrase undoes the restore until the one of the backup was used once.
    CanBeUndone,
}

/// A running restore. Feed it the file, then finish it. If anything fails, abandon it.
pub struct Restore {
    hsm: Arc<Hsm>,
    began: Duration,
    /// When the caller's rights were last checked.
    checked: Duration,
    arguments: RestoreArguments,
    origin: Origin,
    reader: Reader,
    received: u64,
    unlocked: bool,
    /// Keeps other restores out. `None` until the file's key is derived.
    exclusive: Option<Exclusive>,
    head: Option<Head>,
    staging: Option<Staging>,
    items: Items,
    items_bytes: usize,
    version_seen: bool,
    /// Stores whose version entry was read. A file that was cut off lacks the last one.
    stores_seen: BTreeSet<String>,
}

/// The phase in which the restore began. An Operational phase is not kept alive.
enum Origin {
    Unprovisioned(Arc<Unprovisioned>),
    /// With the caller, who must still have the right when the data is replaced.
    Operational(Weak<Operational>, Caller),
}

/// Held by the one restore that may run at a time.
struct Exclusive(Arc<AtomicBool>);

impl Exclusive {
    fn take(running: &Arc<AtomicBool>) -> Result<Self, Error> {
        if running.swap(true, Ordering::SeqCst) {
            return Err(Error::Unavailable("Another restore is running. Try again when it is over.".into()));
        }
        Ok(Self(running.clone()))
    }
}

impl Drop for Exclusive {
    fn drop(&mut self) {
        self.0.store(false, Ordering::SeqCst);
    }
}

impl From<FormatError> for Error {
    fn from(error: FormatError) -> Self {
        Error::invalid(error.to_string())
    }
}

impl Hsm {
    /// Begins a restore, for `by` on an Operational HSM, without a caller on an Unprovisioned one. Call it as soon as the
    /// request is admitted: the HSM must still be in this phase when the data is replaced.
    ///
    /// # Errors
    /// [`Error::Precondition`] in another state, or if the HSM is Unprovisioned and its store shared: the store may hold the data
    /// of a cluster, and a caller without credentials must not replace it.
    pub fn begin_restore(self: &Arc<Self>, by: Option<Caller>) -> Result<Restore, Error> {
        let origin = match (&*self.phase(), by) {
            (Phase::Unprovisioned(_), None) if self.device.platform.store.is_shared() => {
                return Err(Error::Precondition(
                    "A backup is not restored onto an Unprovisioned node of a shared store. Provision it, or join its cluster, first.".into(),
                ));
            }
            (Phase::Unprovisioned(phase), None) => Origin::Unprovisioned(phase.clone()),
            (Phase::Operational(op), Some(by)) => Origin::Operational(Arc::downgrade(op), by),
            (Phase::Unprovisioned(_) | Phase::Operational(_) | Phase::Locked(_) | Phase::Failed(_), _) => {
                return Err(wrong_state());
            }
        };
        Ok(Restore {
            began: self.device.platform.clock.monotonic(),
            checked: self.device.platform.clock.monotonic(),
            hsm: self.clone(),
            arguments: RestoreArguments::default(),
            origin,
            reader: Reader::default(),
            received: 0,
            unlocked: false,
            exclusive: None,
            head: None,
            staging: None,
            items: Items::new(),
            items_bytes: 0,
            version_seen: false,
            stores_seen: BTreeSet::new(),
        })
    }
}

impl Restore {
    /// Sets the arguments. Call it before the first bytes of the file.
    pub fn arguments(&mut self, arguments: RestoreArguments) {
        self.began = self.hsm.device.platform.clock.monotonic();
        self.arguments = arguments;
    }

    /// Takes the next bytes of the file.
    ///
    /// # Errors
    /// [`Error::Invalid`], with NetHSM's sentence where it has one, if the file or its passphrase is wrong;
    /// [`Error::Unavailable`] while another restore runs. After an error, call [`Restore::abandon`].
    pub async fn feed(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.received = self.received.saturating_add(bytes.len() as u64);
        if self.received > RESTORE_MAX_BYTES {
            return Err(Error::invalid("The backup is larger than any that is restored. Nothing was restored."));
        }
        self.recheck_caller().await?;
        self.reader.feed(bytes);
        self.process_items().await
    }

    /// Checks from time to time that the caller still has the right: an upload may take weeks, and it keeps others from
    /// restoring.
    async fn recheck_caller(&mut self) -> Result<(), Error> {
        let now = self.hsm.device.platform.clock.monotonic();
        if let Origin::Operational(op, by) = &self.origin
            && now.saturating_sub(self.checked) >= Duration::from_millis(UPLOAD_LOOK_MS)
        {
            self.checked = now;
            let op = op.upgrade().ok_or_else(wrong_state)?;
            drop(op.hold(by).await?);
        }
        Ok(())
    }

    /// Ends the file: checks that it is complete, and makes it the HSM's data. `Ok`: done and durable. The HSM is then
    /// Operational if it was before and the backup has its Domain Key, or if it boots unattended; otherwise it is Locked.
    ///
    /// # Errors
    /// As for [`Restore::feed`]; [`Error::Precondition`] if the phase has changed; [`Error::NotBelieved`] if the caller lost
    /// the right.
    pub async fn finish(&mut self) -> Result<Restored, Error> {
        if self.received == 0 {
            return Err(Error::invalid("Backup data cannot be empty."));
        }
        self.reader.finish();
        self.process_items().await?;
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
        match &self.origin {
            Origin::Operational(op, by) if self.has_same_slot(&slots).await? => {
                // On the heap, because these futures are large.
                Box::pin(self.replace(op.clone(), by, &head, &slots, staging.generation)).await?;
                Ok(Restored::ForGood)
            }
            Origin::Operational(..) => {
                Box::pin(self.import(&head, slots, staging.generation)).await?;
                Ok(Restored::CanBeUndone)
            }
            Origin::Unprovisioned(_) => {
                Box::pin(self.import(&head, slots, staging.generation)).await?;
                Ok(Restored::ForGood)
            }
        }
    }

    /// Removes the staged entries. Call it after an error. What cannot be removed now is removed at boot or by the next
    /// restore.
    pub async fn abandon(self) {
        if self.exclusive.is_none() {
            return;
        }
        let undone = async {
            let _guard = self.hsm.transition.lock().await;
            if let Some(Procedure::Stage { .. }) = Procedure::noted(&self.hsm.device.store).await? {
                stage::sweep(&self.hsm.device.platform).await?;
                self.hsm.device.store.commit(DeviceStoreChange::default().delete(DevicePath::Procedure)).await?;
            }
            Ok::<(), Error>(())
        };
        if let Err(error) = undone.await {
            tracing::warn!(target: "hsm.backup", %error, "what a failed restore has staged could not be removed yet");
        }
    }

    /// Processes what the reader has decoded so far.
    async fn process_items(&mut self) -> Result<(), Error> {
        if !self.unlocked {
            let Some((_, salt)) = self.reader.start()? else { return Ok(()) };
            let key = self.key(salt).await?;
            self.reader.unlock(key);
            self.unlocked = true;
        }
        while let Some(item) = self.reader.item()? {
            match item {
                Item::Head(head) => {
                    self.stage(&head).await?;
                    self.head = Some(head);
                }
                Item::Entry(entry) => self.process_entry(entry).await?,
                Item::End => {}
            }
        }
        Ok(())
    }

    /// The key of the file, from the given passphrase or, without one, from this HSM. Keeps other restores out from then on.
    async fn key(&mut self, salt: [u8; 16]) -> Result<BackupKey, Error> {
        let own = match (&self.arguments.passphrase, &self.origin) {
            (None, Origin::Operational(op, _)) => {
                let op = op.upgrade().ok_or_else(wrong_state)?;
                let secret = op.backups().secret().await?.filter(|row| row.record.salt == salt);
                secret.map(|row| BackupKey::new(*row.record.key.expose()))
            }
            _ => None,
        };
        if own.is_none() && self.arguments.passphrase.is_none() {
            return Err(Error::invalid("No backupPassphrase provided"));
        }
        self.exclusive = Some(Exclusive::take(&self.hsm.restoring)?);
        match (own, &self.arguments.passphrase) {
            (Some(key), _) => Ok(key),
            (None, Some(passphrase)) => backup_key(&self.hsm.device.platform, Party::Hsm, passphrase, salt).await,
            (None, None) => Err(Error::invalid("No backupPassphrase provided")),
        }
    }

    /// Checks that the HSM is still in the phase in which the restore began. The caller holds the lock on transitions.
    fn check_phase(&self) -> Result<(), Error> {
        let same = match (&*self.hsm.phase(), &self.origin) {
            (Phase::Unprovisioned(now), Origin::Unprovisioned(then)) => Arc::ptr_eq(now, then),
            (Phase::Operational(now), Origin::Operational(then, _)) => std::ptr::eq(Arc::as_ptr(now), then.as_ptr()),
            _ => false,
        };
        if same { Ok(()) } else { Err(wrong_state()) }
    }

    /// Records the procedure, removes what earlier attempts left, and opens the generation for the entries.
    async fn stage(&mut self, head: &Head) -> Result<(), Error> {
        let Device { platform, store: local, .. } = &*self.hsm.device;
        let _guard = self.hsm.transition.lock().await;
        self.check_phase()?;
        if let Some(Procedure::Import { .. }) = Procedure::noted(local).await? {
            return Err(Error::Unavailable("An earlier restore is not over. Reboot and unlock the HSM first.".into()));
        }
        let (current, expect) = stage::pointer(platform).await?;
        let generation = current.unwrap_or(0) + 1;
        local.commit(Procedure::Stage { generation }.note(DeviceStoreChange::default())).await?;
        stage::sweep(platform).await?;
        self.staging = Some(Staging::new(self.hsm.device.clone(), generation, expect));
        let (version, device, ours) = (head.version.byte(), &head.device_id, head.ours);
        tracing::info!(target: "hsm.backup", version, device, ours, "a backup is being restored");
        Ok(())
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

    /// Whether slot 0 and its salt equal those of the backup, so that the Domain Keys are the same, too.
    async fn has_same_slot(&self, slots: &Slots) -> Result<bool, Error> {
        let local = &self.hsm.device.store;
        let same = |own: Option<Zeroizing<Vec<u8>>>, other: &[u8]| own.is_some_and(|own| own.as_slice() == other);
        Ok(same(local.get(DevicePath::Slot0).await?, &slots.locked)
            && same(local.get(DevicePath::UnlockSalt).await?, &slots.salt))
    }

    /// The clock offset in seconds, if the arguments set the time. The time that passed since then is added.
    fn wanted_offset_s(&self) -> Option<i64> {
        Some(self.hsm.device.offset_s(self.arguments.system_time?, self.began))
    }

    /// Replaces the data under the same Domain Key; the HSM stays Operational.
    async fn replace(
        &self,
        weak: Weak<Operational>,
        by: &Caller,
        head: &Head,
        slots: &Slots,
        generation: Generation,
    ) -> Result<(), Error> {
        let hsm = &self.hsm;
        let (_, expect) = stage::pointer(&hsm.device.platform).await?;
        let source = Source { generation, version: head.version, expect };
        let to = source.to();
        let mut conversion = Conversion::new(&hsm.device, source, OnBad::Refuse);
        loop {
            // Held for one page only, so that the HSM can be locked in between.
            let op = weak.upgrade().ok_or_else(wrong_state)?;
            op.tables.check()?;
            if !Box::pin(conversion.next(op.domain())).await? {
                break;
            }
        }
        let guard = hsm.transition.lock().await;
        self.check_phase()?;
        self.check_procedure(generation).await?;
        let old = weak.upgrade().ok_or_else(wrong_state)?;
        if !self.has_same_slot(slots).await? {
            return Err(Error::Unavailable("The unlock passphrase was changed during the restore. Try again.".into()));
        }
        let held = hold_with_timeout(&old, by).await?;
        match stage::move_pointer(&hsm.device.platform, expect, to).await {
            Moved::Yes => {}
            Moved::No(why) => return Err(why),
            Moved::Perhaps(why) => {
                // Continuing would write to data that may no longer be current. Unlocking reads which data is.
                tracing::error!(target: "hsm", error = %why, "it is unknown whether the restore took place; the HSM is Locked");
                hsm.enter(hsm.locked());
                old.retire();
                hsm.close(old).await;
                return Err(why);
            }
        }
        // From here on the data is replaced.
        drop(held);
        report(&conversion);
        hsm.reopen(old).await;
        if let Some(offset_s) = self.wanted_offset_s() {
            let _changing = hsm.device.store.changing.lock().await;
            hsm.device
                .store
                .commit(DeviceStoreChange::default().put(DevicePath::ClockOffset, offset_s.to_be_bytes()))
                .await?;
            hsm.device.use_clock_offset(offset_s);
        }
        drop(guard);
        clear_up(&hsm.device.platform, &hsm.device.store).await;
        Ok(())
    }

    /// Replaces the Domain Key by that of the backup. The entries are converted when it is unlocked.
    async fn import(&self, head: &Head, slots: Slots, generation: Generation) -> Result<(), Error> {
        let hsm = &self.hsm;
        let procedure = Procedure::Import { generation, version: head.version };
        let mut change = procedure
            .note(DeviceStoreChange::default())
            .put(DevicePath::Slot0, slots.locked)
            .put(DevicePath::UnlockSalt, slots.salt);
        let mut offset_s = self.wanted_offset_s();
        let mut unattended = None;
        if let Origin::Unprovisioned(_) = self.origin {
            let (items, version, host) = (self.items.clone(), head.version, hsm.device.platform.host.clone());
            // On the pool, because the TLS key may be large.
            let take_over = move || device::take_over(&items, version, &*host, change);
            change = run_on(&*hsm.device.platform.pool, Work::Backup, Party::Hsm, take_over).await??;
            offset_s = Some(offset_s.unwrap_or_else(|| device::clock_offset_s(&self.items)));
            unattended = device::unattended_key(&self.items, head.version, &head.device_id, &hsm.device.store);
        }
        let unattended_boot = unattended.is_some();
        change = match unattended {
            Some(domain) => change.put(DevicePath::Slot1, domain.expose().to_vec()),
            None => change.delete(DevicePath::Slot1),
        };
        if let Some(offset_s) = offset_s {
            change = change.put(DevicePath::ClockOffset, offset_s.to_be_bytes());
        }

        let guard = hsm.transition.lock().await;
        self.check_phase()?;
        self.check_procedure(generation).await?;
        let old = match &self.origin {
            Origin::Unprovisioned(_) => None,
            Origin::Operational(op, by) => Some((op.upgrade().ok_or_else(wrong_state)?, by)),
        };
        let locked = Arc::new(Locked::new(hsm.device.clone()));
        let changing = hsm.device.store.changing.lock().await;
        match old {
            None => {
                self.commit_import(change, procedure).await?;
                hsm.enter(Phase::Locked(locked.clone()));
            }
            Some((old, by)) => {
                // Slots of the old Domain Key must not be written after this: callers that wait for this guard then find the
                // phase closed.
                let slots_guard = hsm.device.store.changing_unlock.lock().await;
                let held = hold_with_timeout(&old, by).await?;
                self.commit_import(change, procedure).await?;
                old.retire();
                old.tables.close();
                drop((held, slots_guard));
                hsm.enter(Phase::Locked(locked.clone()));
                hsm.close(old).await;
            }
        }
        if let Some(offset_s) = offset_s {
            hsm.device.use_clock_offset(offset_s);
        }
        drop(changing);
        // The slots are replaced. What fails below is done again at the next boot or unlock.
        if unattended_boot {
            match Box::pin(locked.boot_unattended()).await {
                Ok(Some(operational)) => hsm.enter(Phase::Operational(operational)),
                Ok(None) => {}
                Err(error) => {
                    tracing::error!(target: "hsm", %error, "the restored HSM cannot boot unattended now; it is Locked");
                    hsm.device.read_clock_offset().await?;
                    if hsm.device.store.get(DevicePath::Slot0).await?.is_none() {
                        // The restored data proved unusable, and the restore was undone.
                        hsm.enter(hsm.unprovisioned());
                        return Err(error);
                    }
                }
            }
        }
        drop(guard);
        Ok(())
    }

    /// Writes the slots of the backup together with the record of the procedure. If the store does not confirm it, the record
    /// shows whether it was written. The current slots are kept as former ones; the caller holds the guards that keep them
    /// from being changed.
    async fn commit_import(&self, change: DeviceStoreChange, procedure: Procedure) -> Result<(), Error> {
        let local = &self.hsm.device.store;
        let change = slots::keep_former(change, local).await?;
        match local.commit(change).await {
            Err(_) if matches!(Procedure::noted(local).await, Ok(Some(noted)) if noted == procedure) => Ok(()),
            result => result,
        }
    }

    /// Checks that the staged entries are still those of this restore.
    async fn check_procedure(&self, generation: Generation) -> Result<(), Error> {
        match Procedure::noted(&self.hsm.device.store).await? {
            Some(Procedure::Stage { generation: noted }) if noted == generation => Ok(()),
            _ => Err(Error::Unavailable("The HSM was changed during the restore. Try again.".into())),
        }
    }
}

/// Most bytes of an entry that is a single value of the whole HSM: a CA certificate, a key, a number.
const SMALL_ENTRY_MAX_BYTES: usize = 256 << 10;

/// Slot 0 of the backup.
struct Slots {
    /// The Domain Key, sealed under the Unlock Key.
    locked: Vec<u8>,
    /// Salt for deriving the Unlock Key.
    salt: Vec<u8>,
}
