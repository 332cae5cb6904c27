//! Checks what a node says about its store.

use casemate_api::State;
use casemate_api::body::system::{StoreDetails, StoreDiagnosis, StoreKind, StoreTrouble};
use casemate_client::{Error, Session};
use serde_json::json;

use super::node::WRONG_STATE;
use super::report::Report;

/// Asks the node: an Operational one tells only an Administrator, the others tell anybody a little.
pub(super) fn check(anonymous: &Session, session: Option<&Session>, state: State, report: &mut Report) {
    let asked = match (state, session) {
        (State::Operational, None) => {
            return report.skip("store", "an Operational HSM tells about its store only if a user logs in");
        }
        (State::Operational, Some(session)) => session,
        _ => anonymous,
    };
    match asked.health().diagnose() {
        Ok(diagnosis) => match diagnosis.store {
            Some(store) => judge(&store, report),
            None => report.skip("store", "this HSM does not tell about its store"),
        },
        Err(Error::Forbidden { .. }) => {
            report.skip("store", "only an Administrator outside of namespaces may ask about it");
        }
        Err(why) => report.failure("store", &why.into()),
    }
}

fn judge(store: &StoreDiagnosis, report: &mut Report) {
    let data = json!(store);
    if let Some(trouble) = store.trouble {
        let (seen, next) = explained(store.kind, trouble);
        let time = store.trouble_s.map(|seconds| format!(" for {seconds} s")).unwrap_or_default();
        return report.fail("store", WRONG_STATE, format!("{seen}{time}"), next, data);
    }
    if store.failed_s.is_some() {
        let next = "The log of the HSM tells why it cannot go on.";
        return report.fail("store", WRONG_STATE, "it answers, but the HSM is Failed", next, data);
    }
    if store.kind == StoreKind::Embedded {
        return report.ok("store", "in the folder of the HSM", data);
    }
    let seen = seen(store);
    match (advice(store), store.details.as_ref().and_then(advice_on_details)) {
        (Some(next), _) | (None, Some(next)) => report.warn("store", seen, next, data),
        (None, None) => report.ok("store", seen, data),
    }
}

/// What is wrong, and what to do.
fn explained(kind: StoreKind, trouble: StoreTrouble) -> (&'static str, &'static str) {
    match (kind, trouble) {
        (StoreKind::Embedded, _) => (
            "the folder of the HSM could not be read or written",
            "Look at the disk of the HSM and at its log. It continues by itself when the disk is back.",
        ),
        (StoreKind::Etcd, StoreTrouble::NoAnswer) => (
            "no endpoint of etcd has answered",
            "Check that etcd runs, and the network between it and the HSM; the log of the HSM names the endpoints. It continues by \
             itself when etcd is back.",
        ),
        (StoreKind::Etcd, StoreTrouble::Refused) => (
            "etcd and the HSM have not accepted each other",
            "Check etcd-ca, etcd-cert and etcd-key of the HSM and the certificates of etcd, and that all etcd-endpoints are of one \
             etcd; the log of the HSM tells which it is.",
        ),
        (StoreKind::Etcd, StoreTrouble::Unsupported) => (
            "the version of etcd has not been one that is used",
            "Install etcd 3.5.21, 3.6.1 or a later one; the log of the HSM tells which one it found.",
        ),
        (StoreKind::Etcd, StoreTrouble::NoMajority) => (
            "etcd has had no majority of its members",
            "Start the members that are down, and look at the network between them. The HSM continues by itself when most of them are \
             back; where the network drops packets in silence, sooner with the settings net.ipv4.tcp_retries2=5 and \
             net.ipv4.tcp_rto_max_ms=1000 of Linux on all machines.",
        ),
        (StoreKind::Etcd, StoreTrouble::OtherData) => (
            "what is stored under the etcd-prefix has not been the data of this HSM",
            "Correct etcd-prefix or etcd-endpoints in the settings of the HSM. Do not reset it.",
        ),
    }
}

fn seen(store: &StoreDiagnosis) -> String {
    let details = store.details.as_ref();
    let version = details.filter(|details| !details.version.is_empty()).map(|details| format!(" {}", details.version));
    let mut parts = vec![format!("in etcd{}", version.unwrap_or_default())];
    if let (Some(all), Some(usable)) = (store.endpoints, store.endpoints_usable) {
        parts.push(format!("{usable} of {all} endpoints can be used"));
    }
    for endpoint in details.iter().flat_map(|details| &details.endpoints).filter(|one| !one.trouble.is_empty()) {
        parts.push(format!("{}: {}", endpoint.address, endpoint.trouble));
    }
    if let Some(ms) = store.confirmed_ms {
        let revision = details.and_then(|details| details.confirmed_revision);
        let revision = revision.map(|revision| format!(" at revision {revision}")).unwrap_or_default();
        parts.push(format!("confirmed {ms} ms ago{revision}"));
    }
    if let Some(StoreDetails { bytes, quota_bytes, .. }) = details.filter(|details| details.bytes > 0) {
        let quota = if *quota_bytes > 0 { format!(" of {} MiB", quota_bytes >> 20) } else { String::new() };
        parts.push(format!("{} MiB{quota} used", bytes >> 20));
    }
    parts.join(", ")
}

fn advice(store: &StoreDiagnosis) -> Option<&'static str> {
    if store.endpoints_usable < store.endpoints {
        return Some("Repair the endpoints that cannot be used: without a majority of the members the HSM fails.");
    }
    // The HSM asks four times a second.
    (store.confirmed_ms.is_none_or(|ms| ms > CONFIRMED_MS)).then_some(
        "The HSM uses nothing that it has cached, and asks etcd for everything: check the network to etcd, and its load.",
    )
}

fn advice_on_details(details: &StoreDetails) -> Option<&'static str> {
    if details.compacted_by_others {
        return Some("Turn the automatic compaction of etcd off: somebody else compacts it, so backups may break off.");
    }
    let filling = details.quota_bytes > 0 && details.bytes / 4 >= details.quota_bytes / 5;
    filling.then_some(
        "At its quota, additions are refused: delete what is not needed. An etcd that you run yourself can be defragmented, too, and have a larger --quota-backend-bytes.",
    )
}

/// Cached rows are used for so long after a confirmation.
const CONFIRMED_MS: u64 = casemate_api::limits::STORE_CONFIRMED_MS;
