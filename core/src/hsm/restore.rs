//! Restores a backup: first every entry is authenticated and staged where nobody reads, then one write makes it happen. A
//! file that is broken anywhere, or breaks off, changes nothing.
//!
//! - *The same Domain Key, locked alike* (a backup of this HSM, same unlock passphrase): the staged entries are converted
//!   while the old ones still serve, and moving the generation pointer is the moment. The HSM stays Operational.
//! - *Anything else*: the slots in the local store are replaced by those of the backup, which is the moment, and the HSM is
//!   Locked. The entries are converted when the backup's unlock passphrase has opened its Domain Key
//!   (`convert::finish_import`), or at once if the backup brought an unattended slot of this device. Until then the slots
//!   of before are kept, and the former unlock passphrase puts them back: nobody is locked out by a file that nobody can
//!   open.
//!
//! On an Unprovisioned HSM the restore is full and takes over what belongs to the device, too; on an Operational one it is
//! partial, and this device keeps its own TLS key, network, time and log target.

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
use crate::backup::passphrase::backup_key;
use crate::backup::read::{Entry, Item, Reader};
use crate::backup::stage::{self, Moved, Staging};
use crate::backup::upstream::{DeviceItem, Place};
use crate::config::parse_time;
use crate::crypto::seal;
use crate::crypto::secret::{BackupKey, DomainKey};
use crate::device::Device;
use crate::device::procedure::Procedure;
use crate::device::slots;
use crate::device::store::DeviceStoreChange;
use crate::error::Error;
use crate::hsm::phase::{Locked, Operational, Phase, Unprovisioned};
use crate::hsm::{hold_soon, wrong_state};
use crate::identity::caller::Caller;
use crate::rows::path::{DevicePath, Generation};
use crate::runtime::party::Party;
use crate::runtime::pool::{Work, run_on};

/// What comes with the file.
#[derive(Default)]
pub struct RestoreArguments {
    /// The backup passphrase of the file. None: the one that is set here, if the file was made under it.
    pub passphrase: Option<Passphrase>,
    /// What the HSM's time shall be.
    pub system_time: Option<Timestamp>,
}

impl RestoreArguments {
    /// `system_time` is RFC 3339 with offset zero.
    pub fn new(passphrase: Option<Passphrase>, system_time: Option<&str>) -> Result<Self, Error> {
        Ok(Self { passphrase, system_time: system_time.map(parse_time).transpose()? })
    }
}

/// What a restore has made of the HSM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Restored {
    /// What is in the backup.
    ForGood,
    /// Locked, as the backup is. The former unlock passphrase undoes it until that of the backup was used once.
    CanBeUndone,
}

/// A restore that runs. Feed it the file, then finish it; if anything fails, abandon it.
pub struct Restore {
    hsm: Arc<Hsm>,
    began: Duration,
    /// When it was asked last whether the caller is still believed.
    looked: Duration,
    arguments: RestoreArguments,
    origin: Origin,
    reader: Reader,
    received: u64,
    unlocked: bool,
    turn: Option<Turn>,
    head: Option<Head>,
    staging: Option<Staging>,
    items: Items,
    items_bytes: usize,
    version_seen: bool,
    /// Stores whose version came: a file that was cut off lacks the last.
    stores_seen: BTreeSet<String>,
}

/// The phase the restore began in. An Operational one is not held.
enum Origin {
    Unprovisioned(Arc<Unprovisioned>),
    /// On behalf of somebody, who must still be believed when it happens.
    Operational(Weak<Operational>, Caller),
}

/// The one turn there is.
struct Turn(Arc<AtomicBool>);

impl Turn {
    fn take(running: &Arc<AtomicBool>) -> Result<Self, Error> {
        if running.swap(true, Ordering::SeqCst) {
            return Err(Error::Unavailable("Another restore is running. Try again when it is over.".into()));
        }
        Ok(Self(running.clone()))
    }
}

impl Drop for Turn {
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
    /// Begins a restore, for `by` on an Operational HSM, for anybody on an Unprovisioned one. Call it as soon as the caller
    /// was let in: the HSM must still be in the phase of now when the restore happens. `Precondition` in another state.
    pub fn begin_restore(self: &Arc<Self>, by: Option<Caller>) -> Result<Restore, Error> {
        let origin = match (&*self.phase(), by) {
            (Phase::Unprovisioned(phase), None) => Origin::Unprovisioned(phase.clone()),
            (Phase::Operational(op), Some(by)) => Origin::Operational(Arc::downgrade(op), by),
            (Phase::Unprovisioned(_) | Phase::Operational(_) | Phase::Locked(_) | Phase::Failed(_), _) => {
                return Err(wrong_state());
            }
        };
        Ok(Restore {
            began: self.device.platform.clock.monotonic(),
            looked: self.device.platform.clock.monotonic(),
            hsm: self.clone(),
            arguments: RestoreArguments::default(),
            origin,
            reader: Reader::default(),
            received: 0,
            unlocked: false,
            turn: None,
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
    /// Takes what comes with the file; before its first bytes.
    pub fn arguments(&mut self, arguments: RestoreArguments) {
        self.began = self.hsm.device.platform.clock.monotonic();
        self.arguments = arguments;
    }

    /// Takes the next bytes of the file.
    ///
    /// # Errors
    /// [`Error::Invalid`] with the sentence of the contract for whatever is wrong with the file or its passphrase;
    /// [`Error::Unavailable`] while another restore runs. After an error the restore is to be abandoned.
    pub async fn feed(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.received = self.received.saturating_add(bytes.len() as u64);
        if self.received > RESTORE_MAX_BYTES {
            return Err(Error::invalid("The backup is larger than any that is restored. Nothing was restored."));
        }
        self.look_again().await?;
        self.reader.feed(bytes);
        self.take_items().await
    }

    /// Now and then, whether whoever restores is still believed: a large file may come for weeks, and keeps others from
    /// restoring.
    async fn look_again(&mut self) -> Result<(), Error> {
        let now = self.hsm.device.platform.clock.monotonic();
        if let Origin::Operational(op, by) = &self.origin
            && now.saturating_sub(self.looked) >= Duration::from_millis(UPLOAD_LOOK_MS)
        {
            self.looked = now;
            let op = op.upgrade().ok_or_else(wrong_state)?;
            drop(op.hold(by).await?);
        }
        Ok(())
    }

    /// The file has ended: checks that it is whole, and makes it the HSM's data. `Ok`: done and durable; the HSM is
    /// Operational if it was and the backup has its Domain Key, or if it boots unattended; else it is Locked.
    pub async fn finish(&mut self) -> Result<Restored, Error> {
        if self.received == 0 {
            return Err(Error::invalid("Backup data cannot be empty."));
        }
        self.reader.finish();
        self.take_items().await?;
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
            Origin::Operational(op, by) if self.locked_alike(&slots).await? => {
                // On the heap, as these futures are large ones.
                Box::pin(self.replace(op.clone(), by, &head, &slots, staging.generation)).await?;
                Ok(Restored::ForGood)
            }
            Origin::Operational(..) => {
                Box::pin(self.take_over(&head, slots, staging.generation)).await?;
                Ok(Restored::CanBeUndone)
            }
            Origin::Unprovisioned(_) => {
                Box::pin(self.take_over(&head, slots, staging.generation)).await?;
                Ok(Restored::ForGood)
            }
        }
    }

    /// Removes what the restore has staged. Call it after an error; what cannot be removed now is removed at boot or by the
    /// next restore.
    pub async fn abandon(self) {
        if self.turn.is_none() {
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

    async fn take_items(&mut self) -> Result<(), Error> {
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
                Item::Entry(entry) => self.take(entry).await?,
                Item::End => {}
            }
        }
        Ok(())
    }

    /// The key of the file, from its passphrase or, without one, from this HSM.
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
        self.turn = Some(Turn::take(&self.hsm.restoring)?);
        match (own, &self.arguments.passphrase) {
            (Some(key), _) => Ok(key),
            (None, Some(passphrase)) => backup_key(&self.hsm.device.platform, Party::Hsm, passphrase, salt).await,
            (None, None) => Err(Error::invalid("No backupPassphrase provided")),
        }
    }

    /// Whether the HSM still is in the phase the restore began in. The caller holds the transition.
    fn check_phase(&self) -> Result<(), Error> {
        let same = match (&*self.hsm.phase(), &self.origin) {
            (Phase::Unprovisioned(now), Origin::Unprovisioned(then)) => Arc::ptr_eq(now, then),
            (Phase::Operational(now), Origin::Operational(then, _)) => std::ptr::eq(Arc::as_ptr(now), then.as_ptr()),
            _ => false,
        };
        if same { Ok(()) } else { Err(wrong_state()) }
    }

    /// Notes the step, removes what earlier attempts left, and opens the generation that entries go to.
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

    async fn take(&mut self, entry: Entry) -> Result<(), Error> {
        let (Some(head), Some(staging)) = (&self.head, &mut self.staging) else {
            return Err(Error::internal("an entry in front of the head"));
        };
        let Entry { path, value } = entry;
        match Place::of(head.version, &path) {
            Place::Initialized | Place::Manifest => {}
            Place::ConfigVersion if value.as_slice() == [b'0' + head.version.byte()] => self.version_seen = true,
            Place::ConfigVersion => {
                return Err(Error::invalid(
                    "The backup is of an unknown version of NetHSM's store. Nothing was restored.",
                ));
            }
            Place::StoreVersion(_) | Place::Shared if value.len() > SMALL_ENTRY_MAX_BYTES => {
                return Err(Error::invalid(format!(
                    "The entry {path} of the backup is too large. Nothing was restored."
                )));
            }
            Place::StoreVersion(store) => {
                self.stores_seen.insert(store.version_path());
                staging.add(&path, &value).await?;
            }
            Place::User(_) | Place::Namespace(_) | Place::Key(..) | Place::Shared => {
                staging.add(&path, &value).await?;
            }
            Place::Device { device, item } if device == head.device_id => {
                let slot = matches!(item, DeviceItem::Attended | DeviceItem::Unattended);
                let plain = match &head.config_key {
                    Some(key) if !slot => seal::open(key.expose(), path.as_bytes(), &value).map_err(|_| {
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
            // Another device of a cluster.
            Place::Device { .. } => {}
            // What is in a store but has no known name is looked at again when it is converted, and reported there.
            Place::Other
                if ["/authentication/", "/key/", "/namespace/"].iter().any(|store| path.starts_with(store)) =>
            {
                staging.add(&path, &value).await?;
            }
            Place::Other => {
                tracing::warn!(target: "hsm.backup", path, "an entry of the backup is not known and is left out")
            }
        }
        Ok(())
    }

    /// Whether this HSM's Domain Key is locked exactly as the backup's is, which makes them the same.
    async fn locked_alike(&self, slots: &Slots) -> Result<bool, Error> {
        let local = &self.hsm.device.store;
        let same = |own: Option<Zeroizing<Vec<u8>>>, other: &[u8]| own.is_some_and(|own| own.as_slice() == other);
        Ok(same(local.get(DevicePath::Slot0).await?, &slots.locked)
            && same(local.get(DevicePath::UnlockSalt).await?, &slots.salt))
    }

    /// Seconds from the hardware clock to the HSM's, if the arguments set the time: that time, and the time since.
    fn wanted_offset_s(&self) -> Option<i64> {
        let spent = self.hsm.device.platform.clock.monotonic().saturating_sub(self.began);
        let spent = i64::try_from(spent.as_secs()).unwrap_or(0);
        let time = self.arguments.system_time?.as_second();
        Some(time.saturating_add(spent).saturating_sub(self.hsm.device.wall().as_second()))
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
            // Held for a page only, so that this does not keep the HSM from locking.
            let op = weak.upgrade().ok_or_else(wrong_state)?;
            op.tables.check()?;
            if !Box::pin(conversion.next(op.domain())).await? {
                break;
            }
        }
        let guard = hsm.transition.lock().await;
        self.check_phase()?;
        self.check_step(generation).await?;
        let old = weak.upgrade().ok_or_else(wrong_state)?;
        if !self.locked_alike(slots).await? {
            return Err(Error::Unavailable("The unlock passphrase was changed during the restore. Try again.".into()));
        }
        let held = hold_soon(&old, by).await?;
        match stage::move_pointer(&hsm.device.platform, expect, to).await {
            Moved::Yes => {}
            Moved::No(why) => return Err(why),
            Moved::Perhaps(why) => {
                // Serving on would write into data that may be gone already; unlocking reads which ones hold.
                tracing::error!(target: "hsm", error = %why, "nobody knows whether the restore took place; the HSM is Locked");
                hsm.enter(hsm.locked());
                old.retire();
                hsm.close(old).await;
                return Err(why);
            }
        }
        // From here on it has happened.
        drop(held);
        report(&conversion);
        let domain = DomainKey::new(*old.domain().expose());
        match Box::pin(Operational::open(hsm.device.clone(), domain)).await {
            Ok(new) => hsm.enter(Phase::Operational(new)),
            Err(error) => {
                tracing::error!(target: "hsm", %error, "the restored data cannot be opened now; the HSM is Locked");
                hsm.enter(hsm.locked());
            }
        }
        old.retire();
        hsm.close(old).await;
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

    /// Makes the Domain Key of the backup this HSM's; its entries wait until it is unlocked.
    async fn take_over(&self, head: &Head, slots: Slots, generation: Generation) -> Result<(), Error> {
        let hsm = &self.hsm;
        let step = Procedure::Import { generation, version: head.version };
        let mut change = step
            .note(DeviceStoreChange::default())
            .put(DevicePath::Slot0, slots.locked)
            .put(DevicePath::UnlockSalt, slots.salt);
        let mut offset_s = self.wanted_offset_s();
        let mut unattended = None;
        if let Origin::Unprovisioned(_) = self.origin {
            let (items, version, host) = (self.items.clone(), head.version, hsm.device.platform.host.clone());
            // On the pool, as the TLS key may be a large one.
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
        self.check_step(generation).await?;
        let old = match &self.origin {
            Origin::Unprovisioned(_) => None,
            Origin::Operational(op, by) => Some((op.upgrade().ok_or_else(wrong_state)?, by)),
        };
        let locked = Arc::new(Locked::new(hsm.device.clone()));
        let changing = hsm.device.store.changing.lock().await;
        match old {
            None => {
                self.commit_import(change, step).await?;
                hsm.enter(Phase::Locked(locked.clone()));
            }
            Some((old, by)) => {
                // Nobody may write a slot of the old Domain Key behind this: who waits for the guard finds the phase closed.
                let slots_guard = hsm.device.store.changing_unlock.lock().await;
                let held = hold_soon(&old, by).await?;
                self.commit_import(change, step).await?;
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
        // It has happened; what fails below can be done again at the next boot or unlock.
        if unattended_boot {
            match Box::pin(locked.boot_unattended()).await {
                Ok(Some(operational)) => hsm.enter(Phase::Operational(operational)),
                Ok(None) => {}
                Err(error) => {
                    tracing::error!(target: "hsm", %error, "the restored HSM cannot boot unattended now; it is Locked");
                    hsm.device.read_clock_offset().await?;
                    if hsm.device.store.get(DevicePath::Slot0).await?.is_none() {
                        // Its file turned out to be of no use, and the restore was undone.
                        hsm.enter(hsm.unprovisioned());
                        return Err(error);
                    }
                }
            }
        }
        drop(guard);
        Ok(())
    }

    /// Writes the slots of the backup and the note beside them. If the store does not say whether it did, the note tells.
    /// The slots that it replaces are kept, as they are now: the caller holds whatever keeps them from being changed.
    async fn commit_import(&self, change: DeviceStoreChange, step: Procedure) -> Result<(), Error> {
        let local = &self.hsm.device.store;
        let change = slots::keep_former(change, local).await?;
        match local.commit(change).await {
            Err(_) if matches!(Procedure::noted(local).await, Ok(Some(noted)) if noted == step) => Ok(()),
            result => result,
        }
    }

    /// Whether what is staged still is this restore's.
    async fn check_step(&self, generation: Generation) -> Result<(), Error> {
        match Procedure::noted(&self.hsm.device.store).await? {
            Some(Procedure::Stage { generation: noted }) if noted == generation => Ok(()),
            _ => Err(Error::Unavailable("The HSM was changed during the restore. Try again.".into())),
        }
    }
}

/// Longest entry that is one value of the whole HSM: a certificate of an authority, a key, a number.
const SMALL_ENTRY_MAX_BYTES: usize = 256 << 10;

/// How the Domain Key of the backup is locked.
struct Slots {
    locked: Vec<u8>,
    salt: Vec<u8>,
}
