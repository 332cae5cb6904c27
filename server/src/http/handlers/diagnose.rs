//! `/health/diagnose`: what the node knows of its store.
//!
//! In every state but Operational it answers without credentials. Such a caller learns whether the store can be used, since when it
//! cannot and of which kind the reason is; addresses, versions, sizes and revisions are for an Administrator, and in the log. As in NetHSM,
//! anybody is told what the file of an etcd that has ended says. And while the HSM is Failed, where no Administrator can log in,
//! anybody is told the newest revision that its etcd has: it is how to choose the member that knows most.

use std::borrow::Cow;
use std::sync::Arc;

use casemate_api::State;
use casemate_api::body::system::{
    ClusterSnapshot, ClusterState, Diagnosis, LogItem, StoreDetails, StoreDiagnosis, StoreEndpoint, StoreKind,
    StoreTrouble,
};
use casemate_core::hsm::store_health::{Endpoint, StoreReport};
use casemate_core::identity::caller::Caller;
use casemate_core::platform::stores::EtcdReport;
use casemate_core::{Error, Hsm};

use crate::http::reply::Reply;

/// `GET /health/diagnose`
pub async fn diagnose(hsm: Arc<Hsm>, caller: Option<Caller>, (): (), (): ()) -> Result<Reply, Error> {
    let (report, failed) = (hsm.store_report(), hsm.state() == State::Failed);
    let mut store = diagnosis(&report);
    store.stale_s = hsm.stale().map(|age| age.as_secs());
    if failed {
        store.stored_revision = hsm.stored_revision().await;
    }
    let etcd = hsm.etcd_report();
    let mut cluster_logs = messages(&store, failed, etcd.as_ref());
    // In the other states a caller may be anybody.
    if caller.is_some() {
        store.details = report.facts.is_some().then(|| details(&report));
        let record = |(level, msg)| LogItem { level: Cow::Owned(level), msg };
        let records = etcd.iter().flat_map(|etcd| etcd.logs.iter().cloned()).map(record);
        // The last one is what matters most.
        cluster_logs.splice(0..0, records);
    }
    let etcd = etcd.unwrap_or_default();
    Reply::json(&Diagnosis {
        cluster_logs,
        cluster_state: ClusterState {
            running: etcd.running,
            exited: etcd.exited,
            signaled: etcd.signaled,
            stopped: etcd.stopped.then_some(true),
        },
        cluster_snapshot: hsm.etcd_file().await.map(|file| ClusterSnapshot {
            hash: file.hash,
            revision: file.revision,
            total_key: file.total_key,
            total_size: file.total_size_bytes,
            version: file.version,
        }),
        store: Some(store),
    })
}

fn diagnosis(report: &StoreReport) -> StoreDiagnosis {
    let endpoints = report.facts.as_ref().map(|facts| &facts.endpoints).filter(|endpoints| !endpoints.is_empty());
    StoreDiagnosis {
        kind: if report.shared { StoreKind::Etcd } else { StoreKind::Embedded },
        trouble: report.trouble.map(|(trouble, _)| trouble),
        trouble_s: report.trouble.map(|(_, time)| time.as_secs()),
        failed_s: report.failed.map(|time| time.as_secs()),
        stored_revision: None,
        endpoints: endpoints.map(Vec::len),
        endpoints_usable: endpoints.map(|all| all.iter().filter(|one| one.trouble.is_empty()).count()),
        confirmed_ms: report.confirmed.map(|(time, _)| u64::try_from(time.as_millis()).unwrap_or(u64::MAX)),
        stale_s: None,
        watch_s: report.watched.filter(|_| report.shared).map(|time| time.as_secs()),
        details: None,
    }
}

fn details(report: &StoreReport) -> StoreDetails {
    let facts = report.facts.clone().unwrap_or_default();
    let endpoint = |Endpoint { address, trouble }| StoreEndpoint { address, trouble };
    StoreDetails {
        endpoints: facts.endpoints.into_iter().map(endpoint).collect(),
        version: facts.version,
        bytes: facts.bytes,
        quota_bytes: facts.quota_bytes,
        compacted_by_others: facts.compacted_by_others,
        confirmed_revision: report.confirmed.map(|(_, revision)| revision.0),
        applied_revision: report.applied.map(|revision| revision.0),
    }
}

/// The same for people. The last one is what matters most.
fn messages(store: &StoreDiagnosis, failed: bool, etcd: Option<&EtcdReport>) -> Vec<LogItem> {
    let mut messages = Vec::new();
    let mut say = |level: &'static str, msg: &str| messages.push(LogItem { level: level.into(), msg: msg.into() });
    match store.kind {
        StoreKind::Embedded => say("info", "This node runs on its embedded store; there is no cluster."),
        StoreKind::Etcd if etcd.is_some() => {
            say("info", "This node is a member of a cluster, with an etcd of its own.")
        }
        StoreKind::Etcd => say("info", "This node uses a store in etcd, which other nodes may share."),
    }
    if etcd.is_some_and(|etcd| etcd.removed) {
        say(
            "error",
            "The cluster has removed this node. Factory-reset it, then it can join again; or make it a node of its own with the data that it has (force-new).",
        );
    }
    if let (Some(all), Some(usable)) = (store.endpoints, store.endpoints_usable)
        && usable < all
    {
        say("warning", &format!("{usable} of {all} endpoints of etcd can be used."));
    }
    if let Some(age_s) = store.stale_s {
        let warning = format!(
            "This node goes on without a majority: what it serves is {age_s} s old. Nothing can be changed here."
        );
        say("warning", &warning);
    }
    match store.trouble {
        // After a boot the store was not asked yet.
        None if failed && store.endpoints_usable == Some(0) => {}
        None if failed => say("error", "The HSM is Failed although its store answers: see its log."),
        None => {}
        Some(trouble) => say("error", sentence(store.kind, trouble)),
    }
    messages
}

fn sentence(kind: StoreKind, trouble: StoreTrouble) -> &'static str {
    match (kind, trouble) {
        (StoreKind::Embedded, _) => "The store in the folder of this node cannot be read or written.",
        (StoreKind::Etcd, StoreTrouble::NoAnswer) => "No endpoint of etcd answers.",
        (StoreKind::Etcd, StoreTrouble::Refused) => {
            "etcd and this node do not accept each other: a certificate, a user, or an endpoint of another etcd."
        }
        (StoreKind::Etcd, StoreTrouble::Unsupported) => "The version of etcd is not one that can be used.",
        (StoreKind::Etcd, StoreTrouble::NoMajority) => "etcd has no majority of its members.",
        (StoreKind::Etcd, StoreTrouble::OtherData) => {
            "The etcd-prefix in the settings does not hold the data of this HSM."
        }
    }
}
