//! Whether the stores answer. An HSM that cannot reach them for a while is Failed, and comes back with them.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use casemate_api::limits::STORE_AWAY_S;

use crate::device::place::StorePlace;
use crate::hsm::Hsm;
use crate::hsm::phase::{Failed, Phase, Resume};
use crate::hsm::store_health::{StaleNews, StoreReport};
use crate::platform::stores::{EtcdFile, EtcdReport};
use crate::rows::path::{DevicePath, generation_pointer};
use crate::store::Read;

impl Hsm {
    /// Probes the stores once a second, forever. If they have not answered for [`STORE_AWAY_S`] seconds the HSM is Failed; when
    /// they answer again, the phase before resumes. Run it in the background.
    pub async fn keep_probing(self: Arc<Self>) {
        loop {
            self.clock().sleep(Duration::from_secs(1)).await;
            self.keep_joining().await;
            self.probe().await;
        }
    }

    /// Probes both stores once.
    pub async fn probe(&self) {
        let platform = &self.device().platform;
        let asked = self.clock().monotonic();
        let shared = platform.store.get(&generation_pointer(), Read::Fresh).await;
        // Whatever keeps the watch from being followed.
        if let (Ok(_), Some(op)) = (&shared, self.phase().operational_in_memory()) {
            op.tables.answered(asked);
        }
        let local = platform.local.get(&DevicePath::Slot0.path(), Read::Local).await;
        self.store_health().probed(self.clock().monotonic(), shared.as_ref().err());
        let reachable = ![shared.err(), local.err()].into_iter().flatten().any(|error| error.is_away());
        let now = self.clock().monotonic().as_secs();
        let last = self.last_answer_s();
        if reachable {
            last.fetch_max(now, Ordering::SeqCst);
        }
        // A store that the cluster has taken away does not come back by itself.
        let removed = !reachable && self.etcd_report().is_some_and(|report| report.removed);
        let away = now.saturating_sub(last.load(Ordering::SeqCst)) >= u64::from(STORE_AWAY_S);
        let away = removed || away && self.stale().is_none();
        let _guard = self.lock_transitions().await;
        match (&*self.phase(), reachable) {
            (Phase::Failed(Failed { resume: Some(Resume::Phase(phase)) }), true) => self.enter((**phase).clone()),
            (Phase::Failed(Failed { resume: Some(Resume::Boot) }), true) => self.boot_again().await,
            (Phase::Failed(_), _) | (_, true) => {}
            (phase, false) if away => {
                self.enter(Phase::Failed(Failed { resume: Some(Resume::Phase(Box::new(phase.clone()))) }));
            }
            (_, false) => {}
        }
        self.store_health().is_failed(self.clock().monotonic(), matches!(*self.phase(), Phase::Failed(_)));
    }

    /// For how long no majority has confirmed what this node knows, if it goes on to serve that.
    pub fn stale(&self) -> Option<Duration> {
        self.operational()?.stale()
    }

    /// Tells the log and the audit log when the node begins and ends to go on without a majority, and the log each minute that it
    /// does. To be called once a second.
    pub(super) fn tell_stale(&self) {
        let now = self.clock().monotonic();
        let (stale, limit) = (self.stale(), Duration::from_secs(STALE_WARN_S));
        match self.store_health().is_stale(now, stale.is_some(), limit) {
            Some(StaleNews::Begins) => self.audit.without_majority(self.state(), "begins"),
            Some(StaleNews::GoesOn) => {}
            Some(StaleNews::Ends) => {
                tracing::warn!(target: "hsm", "this node does not go on without a majority any longer");
                return self.audit.without_majority(self.state(), "ends");
            }
            None => return,
        }
        let age_s = stale.unwrap_or_default().as_secs();
        tracing::warn!(target: "hsm", age_s, "this node reaches no majority, and serves what it knows: what was revoked elsewhere since is in force here");
    }

    /// What is known of this node's etcd as a process. `None`: it has none.
    pub fn etcd_report(&self) -> Option<EtcdReport> {
        self.device().platform.movable.as_ref()?.keeper.report()
    }

    /// What the file of this node's etcd says, if it was stopped or has ended.
    pub async fn etcd_file(&self) -> Option<EtcdFile> {
        self.device().platform.movable.as_ref()?.keeper.etcd_file().await
    }

    /// Whether other nodes may share the store, or count on the etcd of this node, also while it cannot be read.
    pub fn shares_store(&self) -> bool {
        self.device().platform.store.is_shared() || self.etcd_report().is_some()
    }

    /// The newest revision that this node's own etcd has stored, as the HSM counts them. `None`: it has none, or does not tell.
    pub async fn stored_revision(&self) -> Option<u64> {
        let keeper = &self.device().platform.movable.as_ref()?.keeper;
        let ahead = StorePlace::stored(&self.device().store).await.ok()?.ahead;
        keeper.revision().await.map(|revision| revision.saturating_add(ahead))
    }

    /// What is known of the store, without asking it.
    pub fn store_report(&self) -> StoreReport {
        self.store_health().report(self.clock().monotonic(), &*self.device().platform.store)
    }
}

/// Seconds between two warnings that the node goes on without a majority.
const STALE_WARN_S: u64 = 60;
