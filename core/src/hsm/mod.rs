//! The HSM as a whole: the current phase, and the transitions between phases, one at a time.

mod certificate;
#[cfg(test)]
mod degraded_tests;
mod follow;
pub mod force_new;
#[cfg(test)]
mod force_new_tests;
mod health;
mod join;
#[cfg(test)]
mod join_tests;
mod joining;
pub mod members;
#[cfg(test)]
mod nodes_tests;
mod open;
pub mod phase;
pub mod place;
#[cfg(test)]
mod place_tests;
pub mod restore;
#[cfg(test)]
mod shared_tests;
pub mod store_health;
pub mod update;

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use casemate_api::body::config::{Logging, Network};
use casemate_api::limits::{AUDIT_FLUSH_MS, COUNTER_FLUSH_MS, INDEX_AGAIN_MS, INDEX_LOOK_MS, LOCK_WAIT_MS};
use casemate_api::sentences;
use casemate_api::{Passphrase, State};
use futures_channel::oneshot;
use jiff::Timestamp;

use crate::audit::Audit;
use crate::backup::convert::clear_up;
use crate::backup::convert::{import_waits, undo_import};
use crate::config;
use crate::config::parse_time;
use crate::crypto::secret::DomainKey;
use crate::device::Device;
use crate::device::limiter::{Admitted, Guess};
use crate::device::procedure::Procedure;
use crate::device::slots::{Slot0, SlotSet};
use crate::device::store::DeviceStoreChange;
use crate::error::Error;
use crate::hsm::phase::{Failed, Locked, Operational, Phase, Provision, Resume, Unprovisioned};
use crate::hsm::phase::{check_cluster, undo_provisioning};
use crate::identity::caller::{Caller, Denied, Failure};
use crate::identity::right::Held;
use crate::identity::users;
use crate::platform::{DeviceKeyError, Platform};
use crate::rows::path::{DevicePath, generation_pointer};
use crate::rows::tls_identity::TlsIdentity;
use crate::runtime::Clock;
use crate::runtime::party::Party;
use crate::runtime::pool::{race, run_by_size};
use crate::runtime::stale::{self, Tolerance};
use crate::store::{Read, StoreError};
use open::RestoreClaim;
use store_health::StoreHealth;

/// One HSM.
pub struct Hsm {
    device: Arc<Device>,
    phase: ArcSwap<Phase>,
    /// Held during every transition. A second one waits and then finds the new phase.
    transition: async_lock::Mutex<()>,
    /// Phases that were closed, and may have holders yet.
    closing: Mutex<Vec<oneshot::Receiver<()>>>,
    /// Whether a restore is running.
    restoring: Arc<AtomicBool>,
    /// When both stores last answered, in seconds of the monotonic clock.
    last_answer_s: AtomicU64,
    store_health: StoreHealth,
    /// A join that is under way.
    joining: async_lock::Mutex<Option<open::Attempt>>,
    /// The audit log, in every phase.
    pub audit: Arc<Audit>,
}

impl Hsm {
    /// Runs `job`, which processes `bytes` bytes, on this thread or, if there are many, on the pool. In any phase.
    pub async fn run_by_size<T: Send + 'static>(
        &self,
        bytes: usize,
        party: Party,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Error> {
        run_by_size(&*self.device.platform.pool, bytes, party, job).await
    }

    /// Boots: loads the Device Key, undoes what a crash interrupted, and enters a phase.
    ///
    /// # Errors
    /// For the operator: the HSM does not start.
    pub async fn boot(platform: Platform) -> Result<Arc<Self>, BootError> {
        let key = platform.device.load()?;
        let device = Device::new(platform, &key);
        let store = |error: Error| match error {
            Error::Internal(why) => BootError::Sealed(why.into_owned()),
            other => BootError::Store(other.to_string()),
        };
        device.read_clock_offset().await.map_err(store)?;
        match config::stored::<Logging>(&device.store).await {
            Ok(Some(logging)) => device.platform.host.log_to(&logging),
            Ok(None) => {}
            // Better an HSM that logs according to its settings than one that does not start.
            Err(error) => tracing::error!(target: "hsm", %error, "the stored logging configuration is not applied"),
        }
        let audit = Arc::new(Audit::open(device.clone()).await.map_err(store)?);
        let restoring = Arc::default();
        let joining = open::open_or_join(&device, &restoring).await.map_err(|error| match error {
            open::Unopened::File(error) => BootError::File(error),
            open::Unopened::Device(error) => store(error),
        })?;
        let phase = first_phase(&device).await.map_err(store)?;
        audit.booted(phase.state()).await;
        Ok(Arc::new(Self {
            phase: ArcSwap::from_pointee(phase),
            transition: async_lock::Mutex::new(()),
            closing: Mutex::default(),
            restoring,
            last_answer_s: AtomicU64::new(device.platform.clock.monotonic().as_secs()),
            store_health: StoreHealth::default(),
            joining: async_lock::Mutex::new(joining),
            audit,
            device,
        }))
    }

    fn clock(&self) -> &Arc<dyn Clock> {
        &self.device.platform.clock
    }

    fn last_answer_s(&self) -> &AtomicU64 {
        &self.last_answer_s
    }

    fn store_health(&self) -> &StoreHealth {
        &self.store_health
    }

    /// Goes on with a boot that had to wait for the shared store. The caller holds the lock on transitions.
    async fn boot_again(&self) {
        match first_phase(&self.device).await {
            Ok(Phase::Failed(_)) => {}
            Ok(phase) => self.enter(phase),
            Err(error) => {
                tracing::error!(target: "hsm", %error, "the boot cannot go on");
                if matches!(error, Error::Precondition(_)) {
                    self.store_health.holds_other_data(self.clock().monotonic());
                }
            }
        }
    }

    /// What exists in every phase.
    pub(crate) fn device(&self) -> &Arc<Device> {
        &self.device
    }

    /// Waits for the running transition and keeps others out until the result is dropped.
    pub(crate) async fn lock_transitions(&self) -> async_lock::MutexGuard<'_, ()> {
        self.transition.lock().await
    }

    /// Keeps other restores, and provisioning, out until the result is dropped.
    ///
    /// # Errors
    /// [`Error::Unavailable`] while another restore runs.
    pub(crate) fn claim_restore(&self) -> Result<RestoreClaim, Error> {
        if self.restoring.swap(true, Ordering::SeqCst) {
            return Err(Error::Unavailable(sentences::STORE_CLAIMED.into()));
        }
        Ok(RestoreClaim::taken(self.restoring.clone()))
    }

    /// The current phase.
    pub fn phase(&self) -> Arc<Phase> {
        self.phase.load_full()
    }

    /// The current state.
    pub fn state(&self) -> State {
        self.phase.load().state()
    }

    /// The Operational phase, if that is the current one. Hold it only while a request is handled.
    pub fn operational(&self) -> Option<Arc<Operational>> {
        match &**self.phase.load() {
            Phase::Operational(op) => Some(op.clone()),
            Phase::Unprovisioned(_) | Phase::Locked(_) | Phase::Failed(_) => None,
        }
    }

    /// The HSM's own time: the hardware clock plus the stored offset.
    pub fn now(&self) -> Timestamp {
        self.device.now()
    }

    /// Identifies this device: ten characters of `A` to `Z` and `2` to `7`.
    pub fn device_id(&self) -> &str {
        &self.device.id
    }

    /// Applies the stored network configuration. Call it when the server is running.
    pub async fn use_stored_network(&self) -> Result<(), Error> {
        let _guard = self.device.store.changing.lock().await;
        if let Some(network) = config::stored::<Network>(&self.device.store).await? {
            config::apply_network(&*self.device.platform.host, &network);
        }
        Ok(())
    }

    /// Unprovisioned → Operational. `system_time` (RFC 3339, offset zero) becomes the HSM's time.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a bad time or passphrase; [`Error::Precondition`] in another state; [`Error::Unavailable`]
    /// while a restore is running, or if the store does not answer.
    pub async fn provision(&self, unlock: Passphrase, admin: Passphrase, system_time: &str) -> Result<(), Error> {
        let begun = self.device.platform.clock.monotonic();
        let time = parse_time(system_time).map_err(|error| error.in_field("systemTime"))?;
        let _guard = self.transition.lock().await;
        let Phase::Unprovisioned(phase) = &*self.phase() else { return Err(wrong_state()) };
        if self.restoring.load(Ordering::SeqCst) {
            return Err(Error::Unavailable("A restore is running. Try again when it is over.".into()));
        }
        let clock_offset_s = self.device.offset_s(time, begun);
        let wanted = Provision { unlock_passphrase: unlock, admin_passphrase: admin, clock_offset_s };
        let domain = Box::pin(phase.provision(&wanted)).await?;
        // From here on the HSM is provisioned.
        self.device.use_clock_offset(clock_offset_s);
        match Box::pin(Operational::open(self.device.clone(), domain)).await {
            Ok(operational) => {
                self.enter(Phase::Operational(operational));
                Ok(())
            }
            Err(error) => {
                tracing::error!(target: "hsm", %error, "the new data cannot be opened now; the HSM is Locked");
                self.enter(self.locked());
                Err(Error::Unavailable(
                    "The HSM is set up, but its data cannot be read now: it is Locked. Unlock it.".into(),
                ))
            }
        }
    }

    /// Locked → Operational. The slow hash runs before the lock on transitions is taken, so that guessing delays nobody. The
    /// caller reports requests it refused as malformed with [`Hsm::failed_unlock`].
    ///
    /// # Errors
    /// [`Error::Forbidden`] for a wrong passphrase; [`Error::TooMany`] within a second of one; [`Error::Precondition`] in
    /// another state.
    pub async fn unlock(&self, address: IpAddr, passphrase: &Passphrase) -> Result<(), Error> {
        let guess = self.admit_unlock(address)?;
        // If its length is wrong, the strike stays.
        users::check_length("passphrase", passphrase)?;
        let Some((slot, domain)) = self.try_unlock(address, guess, passphrase.expose()).await? else {
            tracing::warn!(target: "hsm", %address, "an attempt to unlock failed");
            return Err(Error::Forbidden(Some("not authenticated".into())));
        };
        let _guard = self.transition.lock().await;
        let Phase::Locked(phase) = &*self.phase() else { return Err(wrong_state()) };
        let Device { platform, store: local, .. } = &*self.device;
        if Slot0::read(local, slot.which).await?.as_ref() != Some(&slot) {
            return Err(Error::Unavailable("The unlock passphrase was changed meanwhile. Try again.".into()));
        }
        if slot.which == SlotSet::Former {
            if !import_waits(platform, local).await? {
                return Err(Error::Unavailable("The restore was unlocked meanwhile. Try again.".into()));
            }
            undo_import(&self.device, "the former unlock passphrase undid it").await?;
            self.device.read_clock_offset().await?;
        }
        let unlocked = Box::pin(phase.open(domain)).await;
        if unlocked.is_err() || slot.which == SlotSet::Current {
            // A restore may have been undone, by this attempt or an earlier one, and the clock offset with it.
            self.device.read_clock_offset().await?;
        }
        if matches!(unlocked, Err(Error::Invalid { .. })) && self.device.store.get(DevicePath::Slot0).await?.is_none() {
            // An unusable restore on a new device was undone.
            self.enter(self.unprovisioned());
        }
        let operational = unlocked?;
        // The only credential for unlocking is the passphrase, so the audit record is written after it proved right.
        self.audit.entering(State::Operational).await?;
        self.swap(Phase::Operational(operational));
        Ok(())
    }

    /// Authenticates with the unlock passphrase, for requests to an HSM whose users cannot be read. The user name must be
    /// `unlock`. Failures count like those of [`Hsm::unlock`].
    pub async fn authenticate_unlock_holder(
        &self,
        address: IpAddr,
        name: &str,
        passphrase: &[u8],
    ) -> Result<(), Failure> {
        if name != "unlock" {
            return Err(Failure::Denied(Denied::Unauthenticated));
        }
        let guess = self.admit_unlock(address).map_err(|_| Failure::Denied(Denied::TooMany))?;
        match self.try_unlock(address, guess, passphrase).await {
            Ok(Some(_)) => Ok(()),
            Ok(None) => Err(Failure::Denied(Denied::Unauthenticated)),
            Err(Error::Unavailable(_)) => Err(Failure::Denied(Denied::Busy)),
            Err(error) => Err(Failure::Error(error)),
        }
    }

    /// Tries the unlock passphrase on slot 0 and, if a restore was not unlocked yet, on the slot 0 from before it. Returns the
    /// slot that opened and the Domain Key in it. `None`: the passphrase is wrong, which was counted.
    async fn try_unlock(
        &self,
        address: IpAddr,
        guess: Admitted,
        passphrase: &[u8],
    ) -> Result<Option<(Slot0, DomainKey)>, Error> {
        let party = Party::Address(address.into());
        for which in [SlotSet::Current, SlotSet::Former] {
            // If the store does not tell whether an import is pending, it cannot be undone either.
            if which == SlotSet::Former
                && !matches!(import_waits(&self.device.platform, &self.device.store).await, Ok(true))
            {
                break;
            }
            let Some(slot) = Slot0::read(&self.device.store, which).await? else { break };
            if let Some(domain) = slot.open(&self.device.platform, party, passphrase).await? {
                guess.right();
                return Ok(Some((slot, domain)));
            }
        }
        guess.wrong();
        Ok(None)
    }

    /// Counts an attempt to unlock and lets it be checked.
    ///
    /// # Errors
    /// [`Error::TooMany`] if a wrong one came from the same neighbourhood less than a second ago, or one is being checked.
    fn admit_unlock(&self, address: IpAddr) -> Result<Admitted, Error> {
        let limiter_key = self.device.limiter.key(Guess::Unlock(address.into()));
        self.device
            .limiter
            .admit(limiter_key)
            .ok_or_else(|| Error::TooMany("Service unavailable: too many requests".into()))
    }

    /// Counts an attempt to unlock that failed before its passphrase could be tried.
    ///
    /// # Errors
    /// [`Error::TooMany`] as for [`Hsm::unlock`].
    pub fn failed_unlock(&self, address: IpAddr) -> Result<(), Error> {
        self.admit_unlock(address).map(Admitted::wrong)
    }

    /// Operational → Locked, for `by`. `op` is the reference that the request holds, and is dropped here. When this returns, no
    /// key can be used, and all key bytes are wiped unless a request hangs for longer than [`LOCK_WAIT_MS`].
    ///
    /// # Errors
    /// [`Error::Unauthenticated`] if `by` lost the right in the meantime; [`Error::Precondition`] in another state.
    pub async fn lock(&self, op: Arc<Operational>, by: &Caller) -> Result<(), Error> {
        // Hold no reference while waiting for the lock: the transition before this one may wait for the last reference.
        let waiting = Arc::downgrade(&op);
        drop(op);
        let _guard = self.transition.lock().await;
        let op = waiting.upgrade().ok_or_else(wrong_state)?;
        if !self.operational().is_some_and(|now| Arc::ptr_eq(&now, &op)) {
            return Err(wrong_state());
        }
        let held = authorize_leaving(&op, by).await?;
        self.enter(self.locked());
        drop(held);
        op.retire();
        // Counters are not worth delaying this.
        // They are changes, so nothing old counts for them.
        let flushed = stale::within(Tolerance::Nothing, flush(&op));
        race(flushed, self.device.platform.clock.sleep(Duration::from_millis(LOCK_WAIT_MS))).await;
        self.close(op).await;
        self.flush_audit().await;
        Ok(())
    }

    /// Closes a phase that was left, and waits up to [`LOCK_WAIT_MS`] for its last holder, and for those of phases before it.
    pub(crate) async fn close(&self, op: Arc<Operational>) {
        self.close_later(&op);
        drop(op);
        let closing = std::mem::take(&mut *self.closing.lock().unwrap_or_else(PoisonError::into_inner));
        let released = async {
            for released in closing {
                // Resolves with `Canceled` when the last sender is dropped.
                let _ = released.await;
            }
        };
        race(released, self.device.platform.clock.sleep(Duration::from_millis(LOCK_WAIT_MS))).await;
    }

    /// Closes a phase that was left. The next [`Hsm::close`] waits for its last holder.
    fn close_later(&self, op: &Operational) {
        let mut closing = self.closing.lock().unwrap_or_else(PoisonError::into_inner);
        // Not those that nobody holds any more.
        closing.retain_mut(|released| matches!(released.try_recv(), Ok(None)));
        closing.extend(op.close());
    }

    /// A new Locked phase.
    pub(crate) fn locked(&self) -> Phase {
        Phase::Locked(Arc::new(Locked::new(self.device.clone())))
    }

    /// A new Unprovisioned phase.
    pub(crate) fn unprovisioned(&self) -> Phase {
        Phase::Unprovisioned(Arc::new(Unprovisioned::new(self.device.clone())))
    }

    /// Makes `phase` the current one, and records that in the audit log.
    pub(crate) fn enter(&self, phase: Phase) {
        self.audit.entered(phase.state());
        self.swap(phase);
    }

    fn swap(&self, phase: Phase) {
        tracing::info!(target: "hsm", state = ?phase.state(), "the HSM is now {:?}", phase.state());
        self.phase.store(Arc::new(phase));
        if let Some(op) = self.phase().operational_in_memory() {
            // What was cached while the phase was opened was not invalidated by events, as those go to the current phase.
            op.tables.invalidate_all();
        }
    }

    /// Reboots, for `by`. `None` is allowed only in states in which no user can log in.
    ///
    /// # Errors
    /// Those of [`Hsm::shutdown`].
    pub async fn reboot(&self, by: Option<&Caller>) -> Result<(), Error> {
        let _held = self.authorize_end(by).await?;
        self.device.platform.host.reboot();
        Ok(())
    }

    /// Reboots after an update was handed over.
    pub async fn start_over(&self) {
        self.flush().await;
        self.device.platform.host.reboot();
    }

    /// Shuts down, for `by`. `None` is allowed only in states in which no user can log in.
    ///
    /// # Errors
    /// [`Error::Unauthenticated`] if `by` lost the right in the meantime; [`Error::Precondition`] if the state has changed.
    pub async fn shutdown(&self, by: Option<&Caller>) -> Result<(), Error> {
        let _held = self.authorize_end(by).await?;
        self.device.platform.host.shutdown();
        Ok(())
    }

    /// Flushes counters and audit log, then checks that `by` may still end this boot.
    async fn authorize_end(&self, by: Option<&Caller>) -> Result<Option<Held>, Error> {
        self.flush().await;
        match (self.operational(), by) {
            (Some(op), Some(by)) => authorize_leaving(&op, by).await,
            (None, None) => Ok(None),
            // The state has changed since the request was admitted, and with it who may do this.
            (Some(_), None) | (None, Some(_)) => Err(wrong_state()),
        }
    }

    /// Erases everything. First a mark is stored, so that a boot after a crash completes the reset; then the Device Key is
    /// destroyed, so that nothing stored can be opened; then the HSM reboots, which removes the stores.
    ///
    /// `by` may be `None` only while Failed.
    ///
    /// # Errors
    /// [`Error::Unauthenticated`] if `by` lost the right in the meantime; [`Error::Precondition`] if the state has changed since
    /// the request was admitted; [`Error::Internal`] if the mark cannot be stored.
    pub async fn factory_reset(&self, by: Option<&Caller>) -> Result<(), Error> {
        let _guard = self.transition.lock().await;
        let mut held = None;
        let op = match (&*self.phase(), by) {
            (Phase::Operational(op), Some(by)) => {
                held = Some(hold_with_timeout(op, by).await?);
                Some(op.clone())
            }
            (failed @ Phase::Failed(_), None) => failed.operational_to_close(),
            _ => return Err(wrong_state()),
        };
        self.device.platform.host.erase().map_err(|why| Error::internal(format!("factory reset: {why}")))?;
        // The mark is on the disk, so the reset can no longer be refused.
        if let Err(why) = self.device.platform.device.destroy() {
            tracing::error!(target: "hsm", %why, "the Device Key could not be destroyed yet; the next boot destroys it");
        }
        self.enter(Phase::Failed(Failed { resume: None }));
        drop(held);
        if let Some(op) = op {
            self.close(op).await;
        }
        self.device.platform.host.reboot();
        Ok(())
    }

    /// Writes the counters of key use, if the HSM is Operational, and the audit log.
    pub async fn flush(&self) {
        if let Some(op) = self.operational() {
            // Counters are not worth delaying this.
            race(flush(&op), self.device.platform.clock.sleep(Duration::from_millis(LOCK_WAIT_MS))).await;
        }
        self.flush_audit().await;
    }

    /// Writes pending records of the audit log; waits no longer than [`LOCK_WAIT_MS`] for the store.
    async fn flush_audit(&self) {
        race(self.audit.flush(), self.device.platform.clock.sleep(Duration::from_millis(LOCK_WAIT_MS))).await;
    }

    /// Before the process ends or boots again: writes counters and audit log, and records there that the end was orderly.
    pub async fn stop(&self) {
        self.flush().await;
        race(self.audit.stop(), self.device.platform.clock.sleep(Duration::from_millis(LOCK_WAIT_MS))).await;
        if let Some(movable) = &self.device.platform.movable {
            movable.keeper.stop_etcd().await;
        }
    }

    /// Writes the audit log once a second, forever, with what begins and ends by itself. Run it in the background.
    pub async fn keep_audit(self: Arc<Self>) {
        loop {
            self.device.platform.clock.sleep(Duration::from_millis(AUDIT_FLUSH_MS)).await;
            self.tell_stale();
            self.audit.tick().await;
        }
    }

    /// Writes the counters and does housekeeping every [`COUNTER_FLUSH_MS`], forever. Run it in the background.
    pub async fn keep_house(self: Arc<Self>) {
        loop {
            self.device.platform.clock.sleep(Duration::from_millis(COUNTER_FLUSH_MS)).await;
            self.flush().await;
            if let Some(op) = self.operational()
                && let Err(error) = op.namespaces().sweep_deleted_namespaces().await
            {
                tracing::warn!(target: "hsm", %error, "the keys of a deleted namespace could not be removed yet");
            }
            if let Some(op) = self.operational()
                && let Err(error) = op.users().harden_digests().await
            {
                tracing::warn!(target: "hsm", %error, "the digests of restored users could not be hardened yet");
            }
        }
    }

    /// Indexes keys that an earlier version has stored, if there are some, forever. Run it in the background.
    pub async fn keep_index(self: Arc<Self>) {
        let mut pause = INDEX_LOOK_MS;
        loop {
            self.device.platform.clock.sleep(Duration::from_millis(pause)).await;
            pause = INDEX_LOOK_MS;
            if let Some(op) = self.operational()
                && let Err(error) = op.keys().index().await
                && op.tables.check().is_ok()
            {
                tracing::warn!(target: "hsm.key", %error, "keys could not be indexed yet");
                pause = INDEX_AGAIN_MS;
            }
        }
    }

    /// The TLS key and certificate chain of this device. If there are none, `make` creates them and they are stored.
    pub async fn tls_identity(
        &self,
        make: impl FnOnce(&Platform) -> Result<TlsIdentity, Error>,
    ) -> Result<TlsIdentity, Error> {
        if let Some(stored) = self.device.store.get(DevicePath::Tls).await? {
            return TlsIdentity::decode(&stored).map_err(|why| Error::internal(why.to_string()));
        }
        let identity = make(&self.device.platform)?;
        self.device.store.commit(DeviceStoreChange::default().put(DevicePath::Tls, identity.encode().to_vec())).await?;
        Ok(identity)
    }
}

/// The phase after a boot. The device's own store alone decides whether the HSM is provisioned. If the shared store is another
/// machine's and does not answer, the HSM is Failed until it does.
async fn first_phase(device: &Arc<Device>) -> Result<Phase, Error> {
    let waiting = || Ok(Phase::Failed(Failed { resume: Some(Resume::Boot) }));
    let shared = &device.platform.store;
    if shared.is_shared() && shared.get(&generation_pointer(), Read::Fresh).await.is_err_and(|error| error.is_away()) {
        tracing::error!(target: "hsm", "the shared store cannot be reached; the boot goes on when it can");
        return waiting();
    }
    let undone = async {
        check_cluster(device).await?;
        recover(device).await
    };
    match undone.await {
        Err(Error::Unavailable(why) | Error::Full(why)) if shared.is_shared() => {
            tracing::error!(target: "hsm", %why, "the boot goes on when the shared store can be used");
            return waiting();
        }
        recovered => recovered?,
    }
    // An undone provisioning takes its offset along.
    device.read_clock_offset().await?;
    let provisioned = async || Ok::<_, Error>(device.store.get(DevicePath::Slot0).await?.is_some());
    let unprovisioned = || Phase::Unprovisioned(Arc::new(Unprovisioned::new(device.clone())));
    if !provisioned().await? {
        return Ok(unprovisioned());
    }
    let locked = Locked::new(device.clone());
    match Box::pin(locked.boot_unattended()).await {
        Ok(Some(operational)) => Ok(Phase::Operational(operational)),
        Ok(None) => Ok(Phase::Locked(Arc::new(locked))),
        Err(Error::Unavailable(why) | Error::Full(why)) if shared.is_shared() => {
            tracing::error!(target: "hsm", %why, "the unattended boot goes on when the shared store can be used");
            waiting()
        }
        Err(error) => {
            tracing::error!(target: "hsm", %error, "unattended boot failed; the HSM stays Locked");
            // A restore on a new device may have proved unusable and been undone, and the clock offset with it.
            device.read_clock_offset().await?;
            if provisioned().await? { Ok(Phase::Locked(Arc::new(locked))) } else { Ok(unprovisioned()) }
        }
    }
}

/// Undoes, at boot, a procedure that a crash interrupted and that must not be finished.
async fn recover(device: &Device) -> Result<(), Error> {
    let Device { platform, store: local, .. } = device;
    match Procedure::stored(local).await? {
        None | Some(Procedure::Import { .. }) => Ok(()),
        Some(Procedure::Provision) => {
            tracing::warn!(target: "hsm", "a provisioning was interrupted; it is undone");
            undo_provisioning(platform, local, &device.id).await
        }
        Some(Procedure::Stage { .. }) => {
            tracing::warn!(target: "hsm", "a restore was interrupted; what it staged is removed");
            // The staged rows are invisible, so failing to remove them must not keep the HSM from starting.
            clear_up(device).await;
            Ok(())
        }
    }
}

/// Why the HSM does not start. `Display` is for the operator.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    /// The Device Key could not be loaded.
    #[error(transparent)]
    Device(#[from] DeviceKeyError),
    /// A stored row does not open or is not valid.
    #[error("{0}")]
    Sealed(String),
    /// A store cannot be read.
    #[error("the store cannot be used: {0}")]
    Store(String),
    /// The file of the shared store cannot be opened.
    #[error(transparent)]
    File(StoreError),
}

/// Like [`Operational::hold`], but waits no longer than [`LOCK_WAIT_MS`]: while a transition waits, the HSM cannot be locked.
///
/// # Errors
/// [`Error::Unavailable`] after that time.
pub(crate) async fn hold_with_timeout(op: &Operational, by: &Caller) -> Result<Held, Error> {
    let mut held = None;
    let limit = op.device.platform.clock.sleep(Duration::from_millis(LOCK_WAIT_MS));
    race(async { held = Some(op.hold(by).await) }, limit).await;
    held.unwrap_or_else(|| Err(Error::Unavailable(sentences::BUSY.into())))
}

/// Whether `by` may still lock, reboot or shut down the HSM. That must not depend on a working disk, nor wait behind a flood
/// of reads: if the store does not answer in time or is busy, they may. Little is risked by this: `by` was authenticated when
/// the request was admitted, and their row is in the cache unless it was changed since.
///
/// # Errors
/// [`Error::Unauthenticated`] if the store answers that they may not.
async fn authorize_leaving(op: &Operational, by: &Caller) -> Result<Option<Held>, Error> {
    match hold_with_timeout(op, by).await {
        Ok(held) => Ok(Some(held)),
        Err(Error::Unauthenticated) => Err(Error::Unauthenticated),
        Err(_) => Ok(None),
    }
}

/// Writes the counters of key use; logs if that fails.
async fn flush(op: &Operational) {
    if let Err(error) = op.flush_counters().await {
        tracing::error!(target: "hsm", %error, "the counters of key use could not be written");
    }
}

/// The HSM is not in the state that the call needs.
pub(crate) fn wrong_state() -> Error {
    Error::Precondition(sentences::WRONG_STATE.into())
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::pin::pin;
    use std::task::{Context, Waker};

    use casemate_api::{NamespaceId, UserId};
    use pollster::block_on;

    use super::*;
    use crate::platform::DeviceKeeper;
    use crate::rows::path::RowPath;
    use crate::rows::tables::Tables;
    use crate::rows::transaction::Transaction;
    use crate::sim::Sim;

    #[test]
    fn what_another_handle_of_the_store_writes_is_not_answered_from_the_cache() {
        let sim = Sim::new(3);
        sim.device.load().unwrap();
        let hsm = block_on(Hsm::boot(sim.platform())).unwrap();
        let secret = |text: &str| Passphrase::from_text(text.into());
        block_on(hsm.provision(secret("unlock passphrase"), secret("admin passphrase"), "2026-01-01T00:00:00Z"))
            .unwrap();
        let op = hsm.operational().unwrap();
        let mut watching = pin!(hsm.clone().keep_watching());
        let mut follow = || assert!(watching.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        follow();
        let admin = block_on(op.unauthenticated_caller(&UserId::parse("admin").unwrap())).unwrap();
        let id = NamespaceId::parse("ns").unwrap();
        block_on(op.namespaces().create(&admin, &id)).unwrap();
        let exists = || block_on(op.namespaces().get(&id)).unwrap().is_some();
        let misses = || op.tables.namespaces.cache_figures("").misses;
        assert!(exists());
        let before = misses();
        follow();
        assert!(exists());
        assert_eq!(misses(), before, "a row cached as of that write, or later, stays");

        let other = block_on(Tables::open(sim.store.clone(), sim.rng.clone(), sim.clock.clone(), op.domain(), "OTHER"))
            .unwrap();
        let path = RowPath::namespace(other.generation, &id);
        block_on(other.commit(Transaction::default().delete(&path))).unwrap();
        assert!(exists(), "the watch has not been polled");
        follow();
        assert!(!exists());

        // An interrupted watch may have missed something: the cache is emptied, and the watch begins again.
        block_on(op.namespaces().create(&admin, &id)).unwrap();
        assert!(exists());
        follow();
        sim.store.lose_watches();
        block_on(other.commit(Transaction::default().delete(&path))).unwrap();
        follow();
        assert!(!exists());
        block_on(op.namespaces().create(&admin, &id)).unwrap();
        assert!(exists());
        block_on(other.commit(Transaction::default().delete(&path))).unwrap();
        follow();
        assert!(!exists());
    }
}
