//! The HSM as a whole: the current phase, and the transitions between phases, one at a time.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use casemate_api::body::config::{Logging, Network};
use casemate_api::limits::{AUDIT_FLUSH_MS, BODY_INLINE_MAX_BYTES, COUNTER_FLUSH_MS, LOCK_WAIT_MS, STORE_AWAY_S};
use casemate_api::sentences;
use casemate_api::{Passphrase, State};
use jiff::Timestamp;

use crate::audit::Audit;
use crate::backup::convert::{import_waits, undo_import};
use crate::caller::{Caller, Denied, Failure};
use crate::config;
use crate::error::Error;
use crate::limiter::{Admitted, Guess, Limiter};
use crate::local::{Local, LocalChange, TlsIdentity, device_id};
use crate::party::Party;
use crate::path::{LocalPath, generation_pointer};
use crate::phase::{Failed, Locked, Operational, Phase, Provision, Unprovisioned};
use crate::platform::{Platform, Work, first_of, run_on};
use crate::right::Held;
use crate::secret::DomainKey;
use crate::slots::{Slot0, Which};
use crate::store::{Read, StoreError};
use crate::users;

/// One HSM.
pub struct Hsm {
    pub(crate) platform: Platform,
    phase: ArcSwap<Phase>,
    /// Held by every transition. A second one waits and meets the new phase.
    pub(crate) transition: async_lock::Mutex<()>,
    /// Whether a restore runs.
    pub(crate) restoring: Arc<AtomicBool>,
    pub(crate) local: Arc<Local>,
    pub(crate) limiter: Arc<Limiter>,
    pub(crate) clock_offset_s: Arc<AtomicI64>,
    /// What was done and refused. It outlives every phase.
    pub audit: Arc<Audit>,
    /// Ten characters that name this device.
    pub device_id: String,
}

impl Hsm {
    /// Runs `job` on this thread, or on the pool if it goes over more bytes than a small body has. In any phase.
    pub async fn by_size<T: Send + 'static>(
        &self,
        bytes: usize,
        party: Party,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Error> {
        if bytes <= BODY_INLINE_MAX_BYTES {
            return Ok(job());
        }
        run_on(&*self.platform.pool, Work::Crypto, party, job).await
    }

    /// Boot, from the Device Key to a phase. `Err` is for the operator: the HSM does not start.
    pub async fn boot(platform: Platform) -> Result<Arc<Self>, BootError> {
        let device = platform.device.load().map_err(BootError::Device)?;
        let device_id = device_id(&device);
        let local = Arc::new(Local::new(platform.local.clone(), &device, platform.rng.clone()));
        let limiter = Limiter::new(platform.clock.clone());
        let store = |error: Error| match error {
            Error::Internal(why) => BootError::Sealed(why.into_owned()),
            other => BootError::Store(other.to_string()),
        };
        crate::step::recover(&platform, &local).await.map_err(store)?;
        let offset = stored_offset_s(&local).await.map_err(store)?;
        match config::stored::<Logging>(&local).await {
            Ok(Some(logging)) => platform.host.log_to(&logging),
            Ok(None) => {}
            // An HSM that serves and logs as its settings say beats one that does not start.
            Err(error) => tracing::error!(target: "hsm", %error, "the stored logging configuration is not applied"),
        }
        let clock_offset_s = Arc::new(AtomicI64::new(offset));
        let audit = Audit::open(&platform, local.clone(), clock_offset_s.clone(), device_id.clone());
        let audit = Arc::new(audit.await.map_err(store)?);
        let provisioned = local.get(LocalPath::Slot0).await.map_err(store)?.is_some();
        let phase = if provisioned {
            let locked = Locked::new(platform.clone(), local.clone(), limiter.clone(), device_id.clone());
            match Box::pin(locked.boot_unattended()).await {
                Ok(Some(operational)) => Phase::Operational(operational),
                Ok(None) => Phase::Locked(Arc::new(locked)),
                Err(error) => {
                    tracing::error!(target: "hsm", %error, "unattended boot failed; the HSM stays Locked");
                    // Unless a restore on a new device turned out to be of no use, and was undone, its time with it.
                    clock_offset_s.store(stored_offset_s(&local).await.map_err(store)?, Ordering::Relaxed);
                    match local.get(LocalPath::Slot0).await.map_err(store)? {
                        Some(_) => Phase::Locked(Arc::new(locked)),
                        None => Phase::Unprovisioned(Arc::new(Unprovisioned::new(platform.clone(), local.clone()))),
                    }
                }
            }
        } else {
            Phase::Unprovisioned(Arc::new(Unprovisioned::new(platform.clone(), local.clone())))
        };
        audit.booted(phase.state()).await;
        Ok(Arc::new(Self {
            phase: ArcSwap::from_pointee(phase),
            transition: async_lock::Mutex::new(()),
            restoring: Arc::default(),
            local,
            limiter,
            clock_offset_s,
            audit,
            device_id,
            platform,
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
        let offset = jiff::SignedDuration::from_secs(self.clock_offset_s.load(Ordering::Relaxed));
        wall(&self.platform).checked_add(offset).unwrap_or(Timestamp::MAX)
    }

    /// Sets the HSM's time (RFC 3339, offset zero). `op` shows that the HSM is Operational.
    pub async fn set_time(&self, op: &Operational, by: &Caller, time: &str) -> Result<(), Error> {
        let time = parse_time(time)?;
        let _guard = self.local.changing.lock().await;
        let offset_s = time.as_second().saturating_sub(wall(&self.platform).as_second());
        op.store_clock_offset(by, offset_s).await?;
        let before = self.now();
        self.clock_offset_s.store(offset_s, Ordering::Relaxed);
        tracing::info!(target: "hsm", "the time was set from {before} to {}", self.now());
        Ok(())
    }

    /// Serves where the stored network configuration says. Call it once the server runs.
    pub async fn use_stored_network(&self) -> Result<(), Error> {
        let _guard = self.local.changing.lock().await;
        if let Some(network) = config::stored::<Network>(&self.local).await? {
            config::apply_network(&*self.platform.host, &network);
        }
        Ok(())
    }

    /// Unprovisioned → Operational. `system_time` (RFC 3339, offset zero) becomes the HSM's time.
    pub async fn provision(&self, unlock: Passphrase, admin: Passphrase, system_time: &str) -> Result<(), Error> {
        let begun = self.platform.clock.monotonic();
        let time = parse_time(system_time)?;
        let _guard = self.transition.lock().await;
        let Phase::Unprovisioned(phase) = &*self.phase() else { return Err(wrong_state()) };
        if self.restoring.load(Ordering::SeqCst) {
            return Err(Error::Unavailable("A restore is running. Try again when it is over.".into()));
        }
        let spent = self.platform.clock.monotonic().saturating_sub(begun);
        let clock_offset_s = time.as_second().saturating_sub(wall(&self.platform).as_second())
            + i64::try_from(spent.as_secs()).unwrap_or(0);
        let wanted = Provision { unlock_passphrase: unlock, admin_passphrase: admin, clock_offset_s };
        let domain = Box::pin(phase.provision(&wanted)).await?;
        // From here on it has happened.
        self.clock_offset_s.store(clock_offset_s, Ordering::Relaxed);
        let (platform, local, limiter) = (self.platform.clone(), self.local.clone(), self.limiter.clone());
        match Box::pin(Operational::open(platform, local, limiter, self.device_id.clone(), domain)).await {
            Ok(operational) => {
                self.enter(Phase::Operational(operational));
                Ok(())
            }
            Err(error) => {
                tracing::error!(target: "hsm", %error, "the new data cannot be opened now; the HSM is Locked");
                let (platform, local, limiter) = (self.platform.clone(), self.local.clone(), self.limiter.clone());
                self.enter(Phase::Locked(Arc::new(Locked::new(platform, local, limiter, self.device_id.clone()))));
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
        let (platform, local) = (&self.platform, &self.local);
        if Slot0::read(local, slot.which).await?.as_ref() != Some(&slot) {
            return Err(Error::Unavailable("The unlock passphrase was changed meanwhile. Try again.".into()));
        }
        if slot.which == Which::Former {
            if !import_waits(platform, local).await? {
                return Err(Error::Unavailable("The restore was unlocked meanwhile. Try again.".into()));
            }
            undo_import(platform, local, "the former unlock passphrase undid it").await?;
            self.reload_clock_offset().await?;
        }
        let unlocked = Box::pin(phase.open(domain)).await;
        if matches!(unlocked, Err(Error::Invalid(_))) {
            // A restore may have turned out to be of no use, and was undone.
            self.reload_clock_offset().await?;
        }
        if matches!(unlocked, Err(Error::Invalid(_))) && self.local.get(LocalPath::Slot0).await?.is_none() {
            // A restore on a new device that turned out to be of no use was undone.
            let fresh = Unprovisioned::new(self.platform.clone(), self.local.clone());
            self.enter(Phase::Unprovisioned(Arc::new(fresh)));
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
            if which == Which::Former && !matches!(import_waits(&self.platform, &self.local).await, Ok(true)) {
                break;
            }
            let Some(slot) = Slot0::read(&self.local, which).await? else { break };
            if let Some(domain) = slot.open(&self.platform, party, passphrase).await? {
                guess.right();
                return Ok(Some((slot, domain)));
            }
        }
        guess.wrong();
        Ok(None)
    }

    /// Counts an attempt to unlock and lets it be judged; refuses it if its neighbourhood made one less than a second ago.
    fn admit_unlock(&self, address: IpAddr) -> Result<Admitted, Error> {
        let mark = self.limiter.mark(Guess::Unlock(address.into()));
        self.limiter.admit(mark).ok_or_else(|| Error::TooMany("Service unavailable: too many requests".into()))
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
        let locked =
            Locked::new(self.platform.clone(), self.local.clone(), self.limiter.clone(), self.device_id.clone());
        self.enter(Phase::Locked(Arc::new(locked)));
        drop(held);
        op.retire();
        // Leaving is never held up for the sake of a counter.
        first_of(flush(&op), self.platform.clock.sleep(Duration::from_millis(LOCK_WAIT_MS))).await;
        self.close(op).await;
        self.flush_audit().await;
        Ok(())
    }

    /// Closes a phase that was left and waits for its last holder.
    pub(crate) async fn close(&self, op: Arc<Operational>) {
        let gone = op.close();
        drop(op);
        if let Some(gone) = gone {
            let limit = self.platform.clock.sleep(Duration::from_millis(LOCK_WAIT_MS));
            // Resolves with `Canceled` when the last sender is dropped.
            first_of(gone, limit).await;
        }
    }

    /// Takes the stored time for the HSM's, after a restore was undone that had brought another. The caller holds the
    /// transition, and outside of the Operational phase nobody else sets it.
    pub(crate) async fn reload_clock_offset(&self) -> Result<(), Error> {
        self.clock_offset_s.store(stored_offset_s(&self.local).await?, Ordering::Relaxed);
        Ok(())
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
        self.platform.host.reboot();
        Ok(())
    }

    /// Finish and start over, as an update that was handed over wants it.
    pub async fn start_over(&self) {
        self.flush().await;
        self.platform.host.reboot();
    }

    /// Finish and end, for `by`; nobody only where nobody is asked.
    pub async fn shutdown(&self, by: Option<&Caller>) -> Result<(), Error> {
        let _held = self.may_end(by).await?;
        self.platform.host.shutdown();
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
        self.platform.host.erase().map_err(|why| Error::internal(format!("factory reset: {why}")))?;
        // The mark is on the disk: there is no way back.
        if let Err(why) = self.platform.device.destroy() {
            tracing::error!(target: "hsm", why, "the Device Key could not be destroyed yet; the boot that follows does it");
        }
        self.enter(Phase::Failed(Failed { resume: None }));
        drop(held);
        if let Some(op) = op {
            self.close(op).await;
        }
        self.platform.host.reboot();
        Ok(())
    }

    /// Writes the counters of key use, where the phase has them, and the audit log.
    pub async fn flush(&self) {
        if let Some(op) = self.operational() {
            // Leaving is never held up for the sake of a counter.
            first_of(flush(&op), self.platform.clock.sleep(Duration::from_millis(LOCK_WAIT_MS))).await;
        }
        self.flush_audit().await;
    }

    /// Writes what waits for the audit log; a store that does not answer holds nobody up for long.
    async fn flush_audit(&self) {
        first_of(self.audit.flush(), self.platform.clock.sleep(Duration::from_millis(LOCK_WAIT_MS))).await;
    }

    /// The end of a life: counters, the audit log, and a word in it that this was in good order.
    pub async fn stop(&self) {
        self.flush().await;
        first_of(self.audit.stop(), self.platform.clock.sleep(Duration::from_millis(LOCK_WAIT_MS))).await;
    }

    /// Writes the audit log once a second, forever. Run it beside the service.
    pub async fn keep_audit(self: Arc<Self>) {
        loop {
            self.platform.clock.sleep(Duration::from_millis(AUDIT_FLUSH_MS)).await;
            self.audit.tick().await;
        }
    }

    /// Writes the counters and clears up now and then, forever. Run it beside the service.
    pub async fn keep_house(self: Arc<Self>) {
        loop {
            self.platform.clock.sleep(Duration::from_millis(COUNTER_FLUSH_MS)).await;
            self.flush().await;
            if let Some(op) = self.operational()
                && let Err(error) = op.sweep_remains().await
            {
                tracing::warn!(target: "hsm", %error, "the remains of a deleted namespace could not be swept");
            }
            if let Some(op) = self.operational()
                && let Err(error) = op.harden_digests().await
            {
                tracing::warn!(target: "hsm", %error, "the digests of restored users could not be hardened yet");
            }
        }
    }

    /// Watches the store, forever: when it stays away the HSM is Failed, when it is back the phase before resumes. Run
    /// it beside the service.
    pub async fn keep_probing(self: Arc<Self>) {
        let mut missed: u32 = 0;
        loop {
            self.platform.clock.sleep(Duration::from_secs(1)).await;
            missed = self.probe(missed).await;
        }
    }

    /// One look at both stores; `missed` looks before it found them away. Returns how many there are now.
    pub async fn probe(&self, missed: u32) -> u32 {
        let shared = self.platform.store.get(&generation_pointer(), Read::Fresh).await;
        let local = self.platform.local.get(&LocalPath::Slot0.path(), Read::Local).await;
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
        if let Some(stored) = self.local.get(LocalPath::Tls).await? {
            return TlsIdentity::decode(&stored).map_err(|why| Error::internal(why.to_string()));
        }
        let identity = make(&self.platform)?;
        self.local.commit(LocalChange::default().put(LocalPath::Tls, identity.encode().to_vec())).await?;
        Ok(identity)
    }
}

/// Why the HSM does not start. `Display` is a sentence for the operator.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    /// The Device Key cannot be had.
    #[error("{0}")]
    Device(String),
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
    let limit = op.platform.clock.sleep(Duration::from_millis(LOCK_WAIT_MS));
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

/// Seconds from the hardware clock to the HSM's, as they are stored.
async fn stored_offset_s(local: &Local) -> Result<i64, Error> {
    let stored = local.get(LocalPath::ClockOffset).await?;
    Ok(stored.and_then(|bytes| <[u8; 8]>::try_from(bytes.as_slice()).ok()).map_or(0, i64::from_be_bytes))
}

pub(crate) fn wall(platform: &Platform) -> Timestamp {
    let wall = jiff::SignedDuration::try_from(platform.clock.wall()).unwrap_or(jiff::SignedDuration::MAX);
    Timestamp::from_duration(wall).unwrap_or(Timestamp::MAX)
}

/// Parses RFC 3339 with offset zero (`Z`, `+00:00` or `-00:00`), the only times the API takes.
pub fn parse_time(text: &str) -> Result<Timestamp, Error> {
    let offset = || Error::invalid("Error while parsing timestamp. Offset must be 0.");
    let time: Timestamp = text.parse().map_err(|_| {
        Error::invalid("Error while parsing timestamp. RFC 3339 is expected, e.g. 2026-01-31T12:00:00Z.")
    })?;
    if ["Z", "z", "+00:00", "-00:00"].iter().any(|zero| text.ends_with(zero)) { Ok(time) } else { Err(offset()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_need_an_offset_of_zero() {
        for text in ["2020-01-01T00:00:00Z", "2020-01-01T00:00:00+00:00", "2020-01-01T00:00:00.5-00:00"] {
            assert_eq!(parse_time(text).unwrap().as_second(), 1_577_836_800, "{text}");
        }
        for text in
            ["2020-01-01T00:00:00+01:00", "2020-01-01T00:00:00", "2020-01-01", "", "now", "2020-13-01T00:00:00Z"]
        {
            assert!(parse_time(text).is_err(), "{text}");
        }
    }
}
