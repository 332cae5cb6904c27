//! On a real etcd.

use casemate_core::store::{Path, Read, Store, StoreError, Txn};
use casemate_etcd::{Client, Settings, Tls};
use casemate_testkit::EtcdServer;
use pollster::block_on;

use super::*;
use crate::store::EtcdStore;
use crate::store::etcd::tests::open;

fn look(store: &EtcdStore) -> Facts {
    let shared = store.shared.clone();
    block_on(store.runtime.spawn(async move {
        shared.look().await;
        shared.facts()
    }))
    .unwrap()
}

/// Looks until `wanted`.
#[track_caller]
fn await_facts(store: &EtcdStore, wanted: impl Fn(&Facts) -> bool) -> Facts {
    for _ in 0..600 {
        let facts = look(store);
        if wanted(&facts) {
            return facts;
        }
        block_on(store.runtime.spawn(async { sleep(Duration::from_millis(100)).await })).unwrap();
    }
    panic!("{:?}", look(store));
}

fn troubled(facts: &Facts) -> usize {
    facts.endpoints.iter().filter(|endpoint| !endpoint.trouble.is_empty()).count()
}

#[test]
fn what_the_members_tell_is_known_and_which_of_them_can_be_used() {
    let mut server = EtcdServer::three();
    let store = open(&server, "/facts/");
    let facts = look(&store);
    assert_eq!(facts.endpoints.iter().map(|endpoint| endpoint.address.clone()).collect::<Vec<_>>(), server.endpoints());
    assert_eq!(troubled(&facts), 0, "{facts:?}");
    assert!(facts.version.starts_with("3.") && facts.bytes > 0 && !facts.compacted_by_others, "{facts:?}");
    assert_eq!(facts.quota_bytes, 2 << 30, "the quota of etcd by default");

    server.kill(0);
    assert_eq!(troubled(&look(&store)), 1);
    // The first look has found out that its connection has ended.
    let is_killed = |endpoint: &Endpoint| endpoint.trouble.contains("cannot be reached");
    let facts = await_facts(&store, |facts| facts.endpoints.iter().any(is_killed));
    assert_eq!(troubled(&facts), 1, "{facts:?}");
    assert!(facts.endpoints.iter().all(|one| is_killed(one) == (one.address == server.endpoints()[0])), "{facts:?}");
    assert!(block_on(store.get(&Path(Box::from(*b"x")), Read::Fresh)).is_ok());
    assert_ne!(look(&store).endpoints[0].address, server.endpoints()[0], "another one is in use");

    server.kill(1);
    let facts = await_facts(&store, |facts| troubled(facts) == 3);
    assert!(facts.endpoints.iter().any(|endpoint| endpoint.trouble == "it has no leader"), "{facts:?}");
    assert!(facts.version.starts_with("3."), "one of them tells it");

    server.start_all();
    await_facts(&store, |facts| troubled(facts) == 0);
}

#[test]
fn an_etcd_under_another_ca_is_refused() {
    let (server, other) = (EtcdServer::single(), EtcdServer::single());
    let certificates = server.certificates().unwrap();
    let identity = (certificates.client.certificate.as_bytes(), certificates.client.key.as_bytes());
    let tls = Tls::from_pem(certificates.ca.as_bytes(), Some(identity)).unwrap();
    let endpoints = other.endpoints().iter().map(|endpoint| Address::parse(endpoint).unwrap()).collect();
    let client = Client::new(Settings::of(endpoints, Some(tls))).unwrap();
    let store = EtcdStore::start(client, b"/facts/".to_vec()).unwrap();
    let facts = look(&store);
    assert!(facts.endpoints[0].trouble.contains("do not accept each other"), "{facts:?}");
    let answer = block_on(store.get(&Path(Box::from(*b"x")), Read::Fresh));
    assert!(matches!(answer, Err(StoreError::Refused(_))), "{answer:?}");
}

#[test]
fn a_revision_that_somebody_else_has_compacted_is_noticed() {
    let server = EtcdServer::single();
    let store = open(&server, "/facts/");
    let shared = store.shared.clone();
    let write = || {
        let put = vec![(Path(Box::from(*b"x")), b"v".to_vec())];
        block_on(store.commit(vec![Txn { put, ..Txn::default() }])).unwrap();
    };
    write();
    let sample = block_on(store.snapshot()).unwrap().revision();
    write();
    let gone =
        |shared: Arc<Shared>| block_on(store.runtime.spawn(async move { shared.is_gone(sample).await })).unwrap();
    assert_eq!(gone(shared.clone()), Some(false));
    let now = block_on(store.snapshot()).unwrap().revision().0.cast_signed();
    let client = shared.clone();
    block_on(store.runtime.spawn(async move { client.client.compact(now).await })).unwrap().unwrap();
    assert_eq!(gone(shared.clone()), Some(true));
    shared.found_compacted(true);
    assert!(look(&store).compacted_by_others, "a look does not forget it");
}
