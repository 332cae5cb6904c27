//! The HSM as a whole: the current phase, and the transitions between phases, one at a time.

pub mod phase;
pub mod restore;
pub mod update;

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use casemate_api::body::config::{Logging, Network};
use casemate_api::limits::{AUDIT_FLUSH_MS, COUNTER_FLUSH_MS, LOCK_WAIT_MS, STORE_AWAY_S};
use casemate_api::sentences;
use casemate_api::{Passphrase, State};
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
use crate::device::slots::{Slot0, Which};
use crate::device::store::DeviceStoreChange;
use crate::error::Error;
use crate::hsm::phase::undo_provisioning;
use crate::hsm::phase::{Failed, Locked, Operational, Phase, Provision, Unprovisioned};
use crate::identity::caller::{Caller, Denied, Failure};
use crate::identity::right::Held;
use crate::identity::users;
use crate::platform::{DeviceKeyError, Platform};
use crate::rows::path::{DevicePath, generation_pointer};
use crate::rows::tls_identity::TlsIdentity;
use crate::runtime::lifetime::by_size;
use crate::runtime::party::Party;
use crate::runtime::pool::first_of;
use crate::store::{Event, Path, Range, Read, StoreError, Watch};

/// One HSM.
pub struct Hsm {
    pub(crate) device: Arc<Device>,
    phase: ArcSwap<Phase>,
    /// Held by every transition. A second one waits and meets the new phase.
    pub(crate) transition: async_lock::Mutex<()>,
    /// Whether a restore runs.
    pub(crate) restoring: Arc<AtomicBool>,
    /// What was done and refused. It outlives every phase.
    pub audit: Arc<Audit>,
}

impl Hsm {
    /// Runs `job` on this thread, or on the pool if it goes over more bytes than a small body has. In any phase.
    pub async fn by_size<T: Send + 'static>(
        &self,
        bytes: usize,
        party: Party,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Error> {
        by_size(&*self.device.platform.pool, bytes, party, job).await
    }

    /// Boot, from the Device Key to a phase. `Err` is for the operator: the HSM does not start.
    pub async fn boot(platform: Platform) -> Result<Arc<Self>, BootError> {
        let key = platform.device.load()?;
        let device = Device::new(platform, &key);
        let store = |error: Error| match error {
            Error::Internal(why) => BootError::Sealed(why.into_owned()),
            other => BootError::Store(other.to_string()),
        };
        recover(&device).await.map_err(store)?;
        device.read_clock_offset().await.map_err(store)?;
        match config::stored::<Logging>(&device.store).await {
            Ok(Some(logging)) => device.platform.host.log_to(&logging),
            Ok(None) => {}
            // An HSM that serves and logs as its settings say beats one that does not start.
            Err(error) => tracing::error!(target: "hsm", %error, "the stored logging configuration is not applied"),
        }
        let audit = Arc::new(Audit::open(device.clone()).await.map_err(store)?);
        let provisioned =
            async || Ok::<_, BootError>(device.store.get(DevicePath::Slot0).await.map_err(store)?.is_some());
        let unprovisioned = || Phase::Unprovisioned(Arc::new(Unprovisioned::new(device.clone())));
        let phase = if provisioned().await? {
            let locked = Locked::new(device.clone());
            match Box::pin(locked.boot_unattended()).await {
                Ok(Some(operational)) => Phase::Operational(operational),
                Ok(None) => Phase::Locked(Arc::new(locked)),
                Err(error) => {
                    tracing::error!(target: "hsm", %error, "unattended boot failed; the HSM stays Locked");
                    // Unless a restore on a new device turned out to be of no use, and was undone, its time with it.
                    device.read_clock_offset().await.map_err(store)?;
                    if provisioned().await? { Phase::Locked(Arc::new(locked)) } else { unprovisioned() }
                }
            }
        } else {
            unprovisioned()
        };
        audit.booted(phase.state()).await;
        Ok(Arc::new(Self {
            phase: ArcSwap::from_pointee(phase),
            transition: async_lock::Mutex::new(()),
            restoring: Arc::default(),
            audit,
            device,
        }))
    }

    /// The current phase.
    pub fn phase(&self) -> Arc<Phase> {
        self.phase.load_full()
    }

    /// The current state.
    pub fn state(&self) -> State {
        self.phase.load().state()
    }

    /// The Operational phase, if that is the current one. Held only while a request is worked on.
    pub fn operational(&self) -> Option<Arc<Operational>> {
        match &**self.phase.load() {
            Phase::Operational(op) => Some(op.clone()),
            Phase::Unprovisioned(_) | Phase::Locked(_) | Phase::Failed(_) => None,
        }
    }

    /// The HSM's own time: the hardware clock and the offset set at provisioning.
    pub fn now(&self) -> Timestamp {
        self.device.now()
    }

    /// Ten characters that name this device.
    pub fn device_id(&self) -> &str {
        &self.device.id
    }

    /// Serves where the stored network configuration says. Call it once the server runs.
    pub async fn use_stored_network(&self) -> Result<(), Error> {
        let _guard = self.device.store.changing.lock().await;
        if let Some(network) = config::stored::<Network>(&self.device.store).await? {
            config::apply_network(&*self.device.platform.host, &network);
        }
        Ok(())
    }

    /// Unprovisioned → Operational. `system_time` (RFC 3339, offset zero) becomes the HSM's time.
    pub async fn provision(&self, unlock: Passphrase, admin: Passphrase, system_time: &str) -> Result<(), Error> {
        let begun = self.device.platform.clock.monotonic();
        let time = parse_time(system_time)?;
        let _guard = self.transition.lock().await;
        let Phase::Unprovisioned(phase) = &*self.phase() else { return Err(wrong_state()) };
        if self.restoring.load(Ordering::SeqCst) {
            return Err(Error::Unavailable("A restore is running. Try again when it is over.".into()));
        }
        let spent = self.device.platform.clock.monotonic().saturating_sub(begun);
        let clock_offset_s = time.as_second().saturating_sub(self.device.wall().as_second())
            + i64::try_from(spent.as_secs()).unwrap_or(0);
        let wanted = Provision { unlock_passphrase: unlock, admin_passphrase: admin, clock_offset_s };
        let domain = Box::pin(phase.provision(&wanted)).await?;
        // From here on it has happened.
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

    /// Locked → Operational. The slow hash runs before the transition is taken, so that strangers who guess hold up
    /// nobody. Attempts that were refused for their form are to be reported by [`Hsm::failed_unlock`].
    pub async fn unlock(&self, address: IpAddr, passphrase: &Passphrase) -> Result<(), Error> {
        let guess = self.admit_unlock(address)?;
        // If it is not, the strike stands.
        users::check_length("passphrase", passphrase)?;
        let Some((slot, domain)) = self.judge_unlock(address, guess, passphrase.expose()).await? else {
            tracing::warn!(target: "hsm", %address, "an attempt to unlock failed");
            return Err(Error::Forbidden(Some("not authenticated".into())));
        };
        let _guard = self.transition.lock().await;
        let Phase::Locked(phase) = &*self.phase() else { return Err(wrong_state()) };
        let Device { platform, store: local, .. } = &*self.device;
        if Slot0::read(local, slot.which).await?.as_ref() != Some(&slot) {
            return Err(Error::Unavailable("The unlock passphrase was changed meanwhile. Try again.".into()));
        }
        if slot.which == Which::Former {
            if !import_waits(platform, local).await? {
                return Err(Error::Unavailable("The restore was unlocked meanwhile. Try again.".into()));
            }
            undo_import(platform, local, "the former unlock passphrase undid it").await?;
            self.device.read_clock_offset().await?;
        }
        let unlocked = Box::pin(phase.open(domain)).await;
        if matches!(unlocked, Err(Error::Invalid(_))) {
            // A restore may have turned out to be of no use, and was undone.
            self.device.read_clock_offset().await?;
        }
        if matches!(unlocked, Err(Error::Invalid(_))) && self.device.store.get(DevicePath::Slot0).await?.is_none() {
            // A restore on a new device that turned out to be of no use was undone.
            self.enter(self.unprovisioned());
        }
        let operational = unlocked?;
        // Whoever unlocks has no credentials but the passphrase, so this is written only once that was right.
        self.audit.entering(State::Operational).await?;
        self.swap(Phase::Operational(operational));
        Ok(())
    }

    /// Whether somebody knows the unlock passphrase, for what is asked of an HSM whose users cannot be read: the name must
    /// be `unlock`. Failures count like those of [`Hsm::unlock`].
    pub async fn believe_unlock_holder(&self, address: IpAddr, name: &str, passphrase: &[u8]) -> Result<(), Failure> {
        if name != "unlock" {
            return Err(Failure::Denied(Denied::Unauthenticated));
        }
        let guess = self.admit_unlock(address).map_err(|_| Failure::Denied(Denied::TooMany))?;
        match self.judge_unlock(address, guess, passphrase).await {
            Ok(Some(_)) => Ok(()),
            Ok(None) => Err(Failure::Denied(Denied::Unauthenticated)),
            Err(Error::Unavailable(_)) => Err(Failure::Denied(Denied::Busy)),
            Err(error) => Err(Failure::Error(error)),
        }
    }

    /// Tries the unlock passphrase on slot 0, then, while a restore waits to be unlocked for the first time, on the slot 0 of
    /// before. Gives what it opened and what was in it. `None`: it is wrong, and that was counted.
    async fn judge_unlock(
        &self,
        address: IpAddr,
        guess: Admitted,
        passphrase: &[u8],
    ) -> Result<Option<(Slot0, DomainKey)>, Error> {
        let party = Party::Address(address.into());
        for which in [Which::Now, Which::Former] {
            // If the store does not tell whether a restore waits, none can be undone.
            if which == Which::Former
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

    /// Counts an attempt to unlock and lets it be judged; refuses it if its neighbourhood made one less than a second ago.
    fn admit_unlock(&self, address: IpAddr) -> Result<Admitted, Error> {
        let mark = self.device.limiter.mark(Guess::Unlock(address.into()));
        self.device.limiter.admit(mark).ok_or_else(|| Error::TooMany("Service unavailable: too many requests".into()))
    }

    /// Counts an attempt to unlock that failed before its passphrase could be tried. `TooMany` if it does not even count.
    pub fn failed_unlock(&self, address: IpAddr) -> Result<(), Error> {
        self.admit_unlock(address).map(Admitted::wrong)
    }

    /// Operational → Locked, for `by`. `op` is the caller's own hold, given up here. When this answers, no key can be used, and
    /// unless a request hangs for longer than the limit, all key bytes are wiped.
    pub async fn lock(&self, op: Arc<Operational>, by: &Caller) -> Result<(), Error> {
        // Whoever waits for the transition holds nothing meanwhile, for the one before may be waiting for the last hold.
        let waiting = Arc::downgrade(&op);
        drop(op);
        let _guard = self.transition.lock().await;
        let op = waiting.upgrade().ok_or_else(wrong_state)?;
        if !self.operational().is_some_and(|now| Arc::ptr_eq(&now, &op)) {
            return Err(wrong_state());
        }
        let held = may_leave(&op, by).await?;
        self.enter(self.locked());
        drop(held);
        op.retire();
        // Leaving is never held up for the sake of a counter.
        first_of(flush(&op), self.device.platform.clock.sleep(Duration::from_millis(LOCK_WAIT_MS))).await;
        self.close(op).await;
        self.flush_audit().await;
        Ok(())
    }

    /// Closes a phase that was left and waits for its last holder.
    pub(crate) async fn close(&self, op: Arc<Operational>) {
        let gone = op.close();
        drop(op);
        if let Some(gone) = gone {
            let limit = self.device.platform.clock.sleep(Duration::from_millis(LOCK_WAIT_MS));
            // Resolves with `Canceled` when the last sender is dropped.
            first_of(gone, limit).await;
        }
    }

    /// The Locked phase, to be entered.
    pub(crate) fn locked(&self) -> Phase {
        Phase::Locked(Arc::new(Locked::new(self.device.clone())))
    }

    /// The Unprovisioned phase, to be entered.
    pub(crate) fn unprovisioned(&self) -> Phase {
        Phase::Unprovisioned(Arc::new(Unprovisioned::new(self.device.clone())))
    }

    pub(crate) fn enter(&self, phase: Phase) {
        self.audit.entered(phase.state());
        self.swap(phase);
    }

    fn swap(&self, phase: Phase) {
        tracing::info!(target: "hsm", state = ?phase.state(), "the HSM is now {:?}", phase.state());
        self.phase.store(Arc::new(phase));
    }

    /// Finish and start over, for `by`; nobody only where nobody is asked.
    pub async fn reboot(&self, by: Option<&Caller>) -> Result<(), Error> {
        let _held = self.may_end(by).await?;
        self.device.platform.host.reboot();
        Ok(())
    }

    /// Finish and start over, as an update that was handed over wants it.
    pub async fn start_over(&self) {
        self.flush().await;
        self.device.platform.host.reboot();
    }

    /// Finish and end, for `by`; nobody only where nobody is asked.
    pub async fn shutdown(&self, by: Option<&Caller>) -> Result<(), Error> {
        let _held = self.may_end(by).await?;
        self.device.platform.host.shutdown();
        Ok(())
    }

    /// Writes what is to be written before the end, then whether `by` may still bring it about.
    async fn may_end(&self, by: Option<&Caller>) -> Result<Option<Held>, Error> {
        self.flush().await;
        match (self.operational(), by) {
            (Some(op), Some(by)) => may_leave(&op, by).await,
            (None, None) => Ok(None),
            // The state is another one than when it was asked for, and so is who may.
            (Some(_), None) | (None, Some(_)) => Err(wrong_state()),
        }
    }

    /// Erases everything: the mark first, so that a crash cannot leave half of it, then the Device Key, without which
    /// nothing that is stored can be opened; the files go at the boot that follows.
    ///
    /// `by` is whoever asked; nobody only while Failed, which may have ended since the request was let in.
    pub async fn factory_reset(&self, by: Option<&Caller>) -> Result<(), Error> {
        let _guard = self.transition.lock().await;
        let mut held = None;
        let op = match (&*self.phase(), by) {
            (Phase::Operational(op), Some(by)) => {
                held = Some(hold_soon(op, by).await?);
                Some(op.clone())
            }
            (Phase::Failed(Failed { resume }), None) => match resume.as_deref() {
                Some(Phase::Operational(op)) => Some(op.clone()),
                _ => None,
            },
            _ => return Err(wrong_state()),
        };
        self.device.platform.host.erase().map_err(|why| Error::internal(format!("factory reset: {why}")))?;
        // The mark is on the disk: there is no way back.
        if let Err(why) = self.device.platform.device.destroy() {
            tracing::error!(target: "hsm", %why, "the Device Key could not be destroyed yet; the boot that follows does it");
        }
        self.enter(Phase::Failed(Failed { resume: None }));
        drop(held);
        if let Some(op) = op {
            self.close(op).await;
        }
        self.device.platform.host.reboot();
        Ok(())
    }

    /// Writes the counters of key use, where the phase has them, and the audit log.
    pub async fn flush(&self) {
        if let Some(op) = self.operational() {
            // Leaving is never held up for the sake of a counter.
            first_of(flush(&op), self.device.platform.clock.sleep(Duration::from_millis(LOCK_WAIT_MS))).await;
        }
        self.flush_audit().await;
    }

    /// Writes what waits for the audit log; a store that does not answer holds nobody up for long.
    async fn flush_audit(&self) {
        first_of(self.audit.flush(), self.device.platform.clock.sleep(Duration::from_millis(LOCK_WAIT_MS))).await;
    }

    /// The end of a life: counters, the audit log, and a word in it that this was in good order.
    pub async fn stop(&self) {
        self.flush().await;
        first_of(self.audit.stop(), self.device.platform.clock.sleep(Duration::from_millis(LOCK_WAIT_MS))).await;
    }

    /// Writes the audit log once a second, forever. Run it beside the service.
    pub async fn keep_audit(self: Arc<Self>) {
        loop {
            self.device.platform.clock.sleep(Duration::from_millis(AUDIT_FLUSH_MS)).await;
            self.audit.tick().await;
        }
    }

    /// Writes the counters and clears up now and then, forever. Run it beside the service.
    pub async fn keep_house(self: Arc<Self>) {
        loop {
            self.device.platform.clock.sleep(Duration::from_millis(COUNTER_FLUSH_MS)).await;
            self.flush().await;
            if let Some(op) = self.operational()
                && let Err(error) = op.namespaces().sweep_remains().await
            {
                tracing::warn!(target: "hsm", %error, "the remains of a deleted namespace could not be swept");
            }
            if let Some(op) = self.operational()
                && let Err(error) = op.users().harden_digests().await
            {
                tracing::warn!(target: "hsm", %error, "the digests of restored users could not be hardened yet");
            }
        }
    }

    /// Follows what is written to the shared store, by whomever, forever: what others change is not answered from the
    /// caches any more. Run it beside the service.
    pub async fn keep_watching(self: Arc<Self>) {
        loop {
            let Ok(mut watch) = self.watch_rows().await else {
                self.device.platform.clock.sleep(Duration::from_secs(1)).await;
                continue;
            };
            // What was cached until now may be older than what the watch begins with.
            self.notice(&Event::Lost);
            loop {
                let event = watch.next().await;
                self.notice(&event);
                if !matches!(event, Event::Changed { .. }) {
                    break;
                }
            }
        }
    }

    /// Tells the tables of the phase that is open, if there is one, also while it waits for its store to come back. One that
    /// is opened later has nothing cached yet.
    fn notice(&self, event: &Event) {
        match &**self.phase.load() {
            Phase::Operational(op) => op.tables.notice(event),
            Phase::Failed(Failed { resume: Some(phase) }) => {
                if let Phase::Operational(op) = &**phase {
                    op.tables.notice(event);
                }
            }
            Phase::Unprovisioned(_) | Phase::Locked(_) | Phase::Failed(_) => {}
        }
    }

    /// Every row of every generation, from now on.
    async fn watch_rows(&self) -> Result<Box<dyn Watch>, StoreError> {
        let store = &self.device.platform.store;
        let rows = || Path(Box::from([]));
        let one = Range { keys_only: true, ..Range::prefix(&rows(), 1) };
        let now = store.range(one, Read::Fresh).await?.revision;
        store.watch(rows(), now).await
    }

    /// Watches the store, forever: when it stays away the HSM is Failed, when it is back the phase before resumes. Run
    /// it beside the service.
    pub async fn keep_probing(self: Arc<Self>) {
        let mut missed: u32 = 0;
        loop {
            self.device.platform.clock.sleep(Duration::from_secs(1)).await;
            missed = self.probe(missed).await;
        }
    }

    /// One look at both stores; `missed` looks before it found them away. Returns how many there are now.
    pub async fn probe(&self, missed: u32) -> u32 {
        let shared = self.device.platform.store.get(&generation_pointer(), Read::Fresh).await;
        let local = self.device.platform.local.get(&DevicePath::Slot0.path(), Read::Local).await;
        let reachable = !is_away(&shared) && !is_away(&local);
        let _guard = self.transition.lock().await;
        match (&*self.phase(), reachable) {
            (Phase::Failed(Failed { resume: Some(phase) }), true) => self.enter((**phase).clone()),
            (Phase::Failed(_), _) | (_, true) => {}
            (phase, false) if missed + 1 >= STORE_AWAY_S => {
                self.enter(Phase::Failed(Failed { resume: Some(Box::new(phase.clone())) }));
            }
            (_, false) => {}
        }
        if reachable { 0 } else { missed.saturating_add(1) }
    }

    /// The TLS key and chain of this device; made and stored by `make` if there are none yet.
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

/// Undoes at boot what a crash interrupted and what must not be finished.
async fn recover(device: &Device) -> Result<(), Error> {
    let Device { platform, store: local, .. } = device;
    match Procedure::noted(local).await? {
        None | Some(Procedure::Import { .. }) => Ok(()),
        Some(Procedure::Provision) => {
            tracing::warn!(target: "hsm", "a provisioning was interrupted; it is undone");
            undo_provisioning(platform, local).await
        }
        Some(Procedure::Stage { .. }) => {
            tracing::warn!(target: "hsm", "a restore was interrupted; what it staged is removed");
            // Nobody can see it, so a disk that is full is no reason not to start.
            clear_up(platform, local).await;
            Ok(())
        }
    }
}

/// Why the HSM does not start. `Display` is a sentence for the operator.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    /// The Device Key could not be loaded.
    #[error(transparent)]
    Device(#[from] DeviceKeyError),
    /// What is stored does not open or makes no sense.
    #[error("{0}")]
    Sealed(String),
    /// A store cannot be read.
    #[error("the store cannot be used: {0}")]
    Store(String),
}

/// A store that is busy or damaged is not away: that must not open what is open only in the Failed state.
fn is_away<T>(answer: &Result<T, StoreError>) -> bool {
    matches!(answer, Err(StoreError::Unreachable(_)))
}

/// Like [`Operational::hold`], but no longer than `lock` waits: whoever waits with the transition in hand keeps the HSM from
/// being locked.
pub(crate) async fn hold_soon(op: &Operational, by: &Caller) -> Result<Held, Error> {
    let mut told = None;
    let limit = op.device.platform.clock.sleep(Duration::from_millis(LOCK_WAIT_MS));
    first_of(async { told = Some(op.hold(by).await) }, limit).await;
    told.unwrap_or_else(|| Err(Error::Unavailable(sentences::BUSY.into())))
}

/// Whether `by` may still do what only takes power away from the HSM. That must not depend on a disk: if the store does not
/// tell, or not soon, they may. Also if it is busy: that takes a flood of reads, behind which an owner who locks must not have
/// to wait. What is let through unseen is little: `by` was believed when the request was let in, and their row is in the cache
/// unless it was changed since.
async fn may_leave(op: &Operational, by: &Caller) -> Result<Option<Held>, Error> {
    match hold_soon(op, by).await {
        Ok(held) => Ok(Some(held)),
        Err(Error::NotBelieved) => Err(Error::NotBelieved),
        Err(_) => Ok(None),
    }
}

async fn flush(op: &Operational) {
    if let Err(error) = op.flush_counters().await {
        tracing::error!(target: "hsm", %error, "the counters of key use could not be written");
    }
}

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
        let admin = block_on(op.believe(&UserId::parse("admin").unwrap())).unwrap();
        let id = NamespaceId::parse("ns").unwrap();
        block_on(op.namespaces().create(&admin, &id)).unwrap();
        let exists = || block_on(op.namespaces().get(&id)).unwrap().is_some();
        let misses = || op.tables.namespaces.cache_figures("").misses;
        assert!(exists());
        let before = misses();
        follow();
        assert!(exists());
        assert_eq!(misses(), before, "what is cached as of that write, or later, stays");

        let other = block_on(Tables::open(sim.store.clone(), sim.rng.clone(), op.domain())).unwrap();
        let path = RowPath::namespace(other.generation, &id);
        block_on(other.commit(Transaction::default().delete(&path))).unwrap();
        assert!(exists(), "the watch has not been looked at");
        follow();
        assert!(!exists());

        // An interrupted watch may have missed something: nothing that was cached counts, and it begins again.
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
