//! Restores a backup: which phase and caller may begin, whether they still may, and the transition that puts the restored data
//! in place. Before that, `backup/restore.rs` has authenticated every entry and staged it in a generation that nothing reads;
//! here a single write makes the restore take effect. A file that is damaged or incomplete changes nothing. What a boot does
//! when power failed in between is in `device/procedure.rs`.
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

use std::sync::{Arc, Weak};
use std::time::Duration;

use casemate_api::limits::UPLOAD_LOOK_MS;

use crate::Hsm;
use crate::backup::convert::{Conversion, OnBad, Source, clear_up, report};
pub use crate::backup::restore::RestoreArguments;
use crate::backup::restore::{Import, Next, RestoredFile, StagedBackup};
use crate::backup::stage::{self, Moved};
use crate::crypto::secret::BackupKey;
use crate::device::procedure::Procedure;
use crate::device::slots;
use crate::device::store::DeviceStoreChange;
use crate::error::Error;
use crate::hsm::phase::{Locked, Operational, Phase, Unprovisioned};
use crate::hsm::{RestoreClaim, hold_with_timeout, wrong_state};
use crate::identity::caller::Caller;
use crate::rows::path::DevicePath;

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
    origin: Origin,
    /// When the caller's rights were last checked.
    checked: Duration,
    file: RestoredFile,
    /// Keeps other restores out. `None` until the file's key is derived.
    exclusive: Option<RestoreClaim>,
}

/// The phase in which the restore began. An Operational phase is not kept alive.
enum Origin {
    Unprovisioned(Arc<Unprovisioned>),
    /// With the caller, who must still have the right when the data is replaced.
    Operational(Weak<Operational>, Caller),
}

impl Hsm {
    /// Begins a restore, for `by` on an Operational HSM, without a caller on an Unprovisioned one. Call it as soon as the
    /// request is admitted: the HSM must still be in this phase when the data is replaced.
    ///
    /// # Errors
    /// [`Error::Precondition`] in another state.
    pub fn begin_restore(self: &Arc<Self>, by: Option<Caller>) -> Result<Restore, Error> {
        let origin = match (&*self.phase(), by) {
            (Phase::Unprovisioned(phase), None) => Origin::Unprovisioned(phase.clone()),
            (Phase::Operational(op), Some(by)) => Origin::Operational(Arc::downgrade(op), by),
            (Phase::Unprovisioned(_) | Phase::Operational(_) | Phase::Locked(_) | Phase::Failed(_), _) => {
                return Err(wrong_state());
            }
        };
        Ok(Restore {
            checked: self.device().platform.clock.monotonic(),
            file: RestoredFile::new(self.device().clone()),
            hsm: self.clone(),
            origin,
            exclusive: None,
        })
    }
}

impl Restore {
    /// Sets the arguments. Call it before the first bytes of the file.
    pub fn arguments(&mut self, arguments: RestoreArguments) {
        self.file.set_arguments(arguments);
    }

    /// Takes the next bytes of the file.
    ///
    /// # Errors
    /// [`Error::Invalid`], with NetHSM's sentence where it has one, if the file or its passphrase is wrong;
    /// [`Error::Unavailable`] while another restore runs. After an error, call [`Restore::abandon`].
    pub async fn feed(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.file.count(bytes.len())?;
        self.recheck_caller().await?;
        self.file.feed(bytes);
        self.process().await
    }

    /// Checks from time to time that the caller still has the right: an upload may take weeks, and it keeps others from
    /// restoring.
    async fn recheck_caller(&mut self) -> Result<(), Error> {
        let now = self.hsm.device().platform.clock.monotonic();
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
    /// As for [`Restore::feed`]; [`Error::Precondition`] if the phase has changed; [`Error::Unauthenticated`] if the caller lost
    /// the right.
    pub async fn finish(&mut self) -> Result<Restored, Error> {
        self.file.end()?;
        self.process().await?;
        let backup = self.file.complete().await?;
        match &self.origin {
            Origin::Operational(op, by) if self.has_same_key(op, &backup).await? => {
                // On the heap, because these futures are large.
                Box::pin(self.replace(op.clone(), by, &backup)).await?;
                Ok(Restored::ForGood)
            }
            Origin::Operational(..) => {
                Box::pin(self.import(&backup)).await?;
                Ok(Restored::CanBeUndone)
            }
            Origin::Unprovisioned(_) => {
                Box::pin(self.import(&backup)).await?;
                Ok(Restored::ForGood)
            }
        }
    }

    /// Whether the backup has this HSM's Domain Key, so that its data can take the place of what there is.
    ///
    /// A node alone compares slot 0, so that a backup made under another unlock passphrase brings that passphrase back, as
    /// with NetHSM. Nodes that share a store have slots of their own, and replacing the Domain Key at one of them would make
    /// all others useless.
    ///
    /// # Errors
    /// [`Error::Precondition`] for a foreign backup at a node that shares its store.
    async fn has_same_key(&self, op: &Weak<Operational>, backup: &StagedBackup) -> Result<bool, Error> {
        let device = self.hsm.device();
        if !device.platform.store.is_shared() {
            return backup.slots.are_of(device).await;
        }
        let op = op.upgrade().ok_or_else(wrong_state)?;
        if !backup.is_of_domain(device, op.domain()).await? {
            return Err(Error::Precondition(
                "The backup is of another HSM. It cannot replace data that several nodes share: restore it at a new one."
                    .into(),
            ));
        }
        Ok(true)
    }

    /// Removes the staged entries. Call it after an error. What cannot be removed now is removed at boot or by the next
    /// restore.
    pub async fn abandon(self) {
        if self.exclusive.is_none() {
            return;
        }
        let _guard = self.hsm.lock_transitions().await;
        self.file.remove_staged().await;
    }

    /// Processes what has arrived of the file, and gives its reader what depends on the phase.
    async fn process(&mut self) -> Result<(), Error> {
        loop {
            match self.file.next().await? {
                Next::Key { salt } => {
                    let own = self.own_backup_key(salt).await?;
                    self.file.check_passphrase(own.as_ref())?;
                    self.exclusive = Some(self.hsm.claim_restore()?);
                    self.file.unlock(salt, own).await?;
                }
                Next::Stage(head) => {
                    let _guard = self.hsm.lock_transitions().await;
                    self.check_phase()?;
                    self.file.begin_staging(head).await?;
                }
                Next::Bytes => return Ok(()),
            }
        }
    }

    /// The Backup Key of this HSM, if no passphrase was given and the file was made under it.
    async fn own_backup_key(&self, salt: [u8; 16]) -> Result<Option<BackupKey>, Error> {
        match &self.origin {
            Origin::Operational(op, _) if !self.file.has_passphrase() => {
                let op = op.upgrade().ok_or_else(wrong_state)?;
                let secret = op.backups().secret().await?.filter(|row| row.record.salt == salt);
                Ok(secret.map(|row| BackupKey::new(*row.record.key.expose())))
            }
            Origin::Operational(..) | Origin::Unprovisioned(_) => Ok(None),
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

    /// Replaces the data under the same Domain Key; the HSM stays Operational.
    async fn replace(&self, weak: Weak<Operational>, by: &Caller, backup: &StagedBackup) -> Result<(), Error> {
        let hsm = &self.hsm;
        let (_, guards) = stage::begin(hsm.device()).await?;
        let source = Source { generation: backup.generation, version: backup.head.version, guards: guards.clone() };
        let to = source.to();
        let mut conversion = Conversion::new(hsm.device(), source, OnBad::Refuse);
        loop {
            // Held for one page only, so that the HSM can be locked in between.
            let op = weak.upgrade().ok_or_else(wrong_state)?;
            op.tables.check()?;
            if !Box::pin(conversion.next(op.domain())).await? {
                break;
            }
        }
        let guard = hsm.lock_transitions().await;
        self.check_phase()?;
        backup.check_procedure(hsm.device()).await?;
        let old = weak.upgrade().ok_or_else(wrong_state)?;
        if !hsm.device().platform.store.is_shared() && !backup.slots.are_of(hsm.device()).await? {
            return Err(Error::Unavailable("The unlock passphrase was changed during the restore. Try again.".into()));
        }
        let held = hold_with_timeout(&old, by).await?;
        match stage::move_pointer(hsm.device(), &guards, to).await {
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
        if hsm.reopen(&old).await {
            hsm.close(old).await;
        }
        if let Some(offset_s) = self.file.wanted_offset_s() {
            let _changing = hsm.device().store.changing.lock().await;
            hsm.device()
                .store
                .commit(DeviceStoreChange::default().put(DevicePath::ClockOffset, offset_s.to_be_bytes()))
                .await?;
            hsm.device().use_clock_offset(offset_s);
        }
        drop(guard);
        clear_up(hsm.device()).await;
        Ok(())
    }

    /// Replaces the Domain Key by that of the backup. The entries are converted when it is unlocked.
    async fn import(&self, backup: &StagedBackup) -> Result<(), Error> {
        let hsm = &self.hsm;
        let full = matches!(self.origin, Origin::Unprovisioned(_));
        let Import { change, procedure, offset_s, unattended_boot } =
            backup.prepare_import(hsm.device(), full, self.file.wanted_offset_s()).await?;

        let guard = hsm.lock_transitions().await;
        self.check_phase()?;
        backup.check_procedure(hsm.device()).await?;
        let old = match &self.origin {
            Origin::Unprovisioned(_) => None,
            Origin::Operational(op, by) => Some((op.upgrade().ok_or_else(wrong_state)?, by)),
        };
        let locked = Arc::new(Locked::new(hsm.device().clone()));
        let changing = hsm.device().store.changing.lock().await;
        match old {
            None => {
                self.commit_import(change, procedure).await?;
                hsm.enter(Phase::Locked(locked.clone()));
            }
            Some((old, by)) => {
                // Slots of the old Domain Key must not be written after this: callers that wait for this guard then find the
                // phase closed.
                let slots_guard = hsm.device().store.changing_unlock.lock().await;
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
            hsm.device().use_clock_offset(offset_s);
        }
        drop(changing);
        // The slots are replaced. What fails below is done again at the next boot or unlock.
        if unattended_boot {
            match Box::pin(locked.boot_unattended()).await {
                Ok(Some(operational)) => hsm.enter(Phase::Operational(operational)),
                Ok(None) => {}
                Err(error) => {
                    tracing::error!(target: "hsm", %error, "the restored HSM cannot boot unattended now; it is Locked");
                    hsm.device().read_clock_offset().await?;
                    if hsm.device().store.get(DevicePath::Slot0).await?.is_none() {
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
        let local = &self.hsm.device().store;
        let change = slots::keep_former(change, local).await?;
        match local.commit(change).await {
            Err(_) if matches!(Procedure::stored(local).await, Ok(Some(stored)) if stored == procedure) => Ok(()),
            result => result,
        }
    }
}
