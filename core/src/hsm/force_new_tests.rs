//! Failed members become nodes of their own, and the process ends at any point of it.

use std::pin::pin;
use std::task::{Context, Poll, Waker};

use casemate_api::State;
use pollster::block_on;

use super::place_tests::*;
use crate::device::place::StorePlace;
use crate::error::Error;
use crate::hsm::Hsm;
use crate::hsm::force_new::ForcedNew;
use crate::platform::stores::{Place, PlaceKind, Standing, StoreKeeper};
use crate::rows::path::{DevicePath, cluster_identity, node_fences};
use crate::sim::SimStore;
use crate::store::Path;

const RECOVERED: Place = Place { kind: PlaceKind::File, number: 3 };

/// What the node has lost: its etcd does not answer.
fn fail(node: &Node, hsm: &Hsm) {
    node.keeper.store(ETCD).unwrap().fail(true);
    node.sim.clock.advance(std::time::Duration::from_secs(u64::from(casemate_api::limits::STORE_AWAY_S)));
    block_on(hsm.probe());
    assert_eq!(hsm.state(), State::Failed);
    // It answers those who ask it alone.
    node.keeper.store(ETCD).unwrap().fail(false);
}

#[test]
fn a_member_without_a_majority_becomes_a_node_with_all_that_it_had() {
    let authority = Authority::new();
    let (node, hsm) = node(&authority);
    (0..300).for_each(|at| create(&hsm, &format!("n{at}")).unwrap());
    set_ca(&hsm, &authority).unwrap();
    create(&hsm, "in-the-cluster").unwrap();
    let (before, pointer) = (names(&hsm), op(&hsm).tables.pointer());
    assert!(matches!(block_on(hsm.force_new()), Err(Error::Precondition(_))), "it works");
    let reboots = node.sim.host.reboots();
    fail(&node, &hsm);
    assert_eq!(block_on(hsm.force_new()).unwrap(), ForcedNew::Recovered);
    assert_eq!(node.sim.host.reboots(), reboots + 1);
    // Up to the reboot it does not come back.
    block_on(hsm.probe());
    assert_eq!(hsm.state(), State::Failed);
    assert_eq!((node.place(&hsm).place, node.keeper.places()), (RECOVERED, vec![RECOVERED]));
    let rows = node.keeper.store(RECOVERED).unwrap().raw_rows();
    let left = |path: &Path| *path == cluster_identity() || path.as_bytes().starts_with(node_fences().as_bytes());
    assert!(!rows.iter().any(|(path, _)| left(path)), "nothing that former members know");
    assert!(block_on(hsm.device().store.get(DevicePath::Cluster)).unwrap().is_none());

    drop(hsm);
    let hsm = node.boot();
    assert_eq!((hsm.state(), names(&hsm)), (State::Operational, before));
    assert!(op(&hsm).tables.pointer() > pointer, "revisions never go back");
    create(&hsm, "afterwards").unwrap();
    // It founds another cluster when it is told to.
    set_ca(&hsm, &authority).unwrap();
    assert_eq!(node.place(&hsm).place, Place { kind: PlaceKind::Etcd, number: 4 });
}

#[test]
fn what_cannot_be_recovered_stays_as_it_is() {
    let authority = Authority::new();
    let (node, hsm) = node(&authority);
    assert!(matches!(block_on(hsm.force_new()), Err(Error::Invalid { .. })), "it is in a file");
    set_ca(&hsm, &authority).unwrap();
    fail(&node, &hsm);
    let claim = hsm.claim_restore().unwrap();
    assert!(matches!(block_on(hsm.force_new()), Err(Error::Unavailable(_))));
    drop(claim);
    node.keeper.miss_etcd(true);
    let Err(Error::Invalid { reason, .. }) = block_on(hsm.force_new()) else { panic!() };
    assert!(reason.starts_with("recovery failed: "), "{reason}");
    assert_eq!((node.place(&hsm).place, node.keeper.places()), (ETCD, vec![ETCD]));
    // A row that is not confirmed.
    node.keeper.miss_etcd(false);
    node.keeper.prepare(|store| store.lose_answers(1));
    block_on(hsm.force_new()).unwrap_err();
    node.keeper.prepare(|_| {});
    assert_eq!((node.place(&hsm).place, node.keeper.places()), (ETCD, vec![ETCD]));
    // The majority is there again.
    block_on(hsm.keep_joining());
    block_on(hsm.probe());
    assert_eq!(hsm.state(), State::Operational, "without being unlocked");
    create(&hsm, "writable").unwrap();
}

#[test]
fn a_process_that_ends_at_any_point_is_a_member_or_a_node_of_its_own() {
    let authority = Authority::new();
    let (first, hsm) = node(&authority);
    (0..700).for_each(|at| create(&hsm, &format!("n{at}")).unwrap());
    drop(hsm);
    let (mut stayed, mut became) = (0, 0);
    for end in 1.. {
        let node = first.copy();
        let hsm = node.boot();
        set_ca(&hsm, &authority).unwrap();
        let before = names(&hsm);
        fail(&node, &hsm);
        let points_of = |store: &SimStore| store.delay(|| Box::pin(point()));
        points_of(&node.keeper.store(ETCD).unwrap());
        points_of(&node.sim.local);
        node.keeper.prepare(points_of);
        let mut done = false;
        {
            let mut recovering = pin!(hsm.force_new());
            for _ in 0..end {
                if let Poll::Ready(result) = recovering.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
                    result.unwrap();
                    done = true;
                    break;
                }
                assert_eq!(hsm.state(), State::Failed, "{end}");
            }
        }
        drop(hsm);
        node.sim.local.no_delay();
        node.keeper.prepare(SimStore::no_delay);
        let hsm = node.boot();
        let place = node.place(&hsm).place;
        assert_eq!(node.keeper.places(), [place], "{end}");
        assert_eq!((hsm.state(), names(&hsm)), (State::Operational, before), "{end}");
        create(&hsm, "writable").unwrap();
        assert!(!done || place == RECOVERED);
        *(if place == ETCD { &mut stayed } else { &mut became }) += 1;
        if done {
            break;
        }
    }
    assert!(stayed > 10 && became > 0, "{stayed} {became}");
}

#[test]
fn a_node_whose_cluster_is_lost_while_it_joins_goes_back_to_its_own_data() {
    let authority = Authority::new();
    let (_founder, of_cluster, wanted) = cluster(&authority);
    let (node, hsm) = node_at(&authority, 7, JOINER);
    node.keeper.miss_etcd(true);
    set_ca(&hsm, &authority).unwrap();
    node.keeper.miss_etcd(false);
    create(&hsm, "its-own").unwrap();
    node.keeper.see(sight(&wanted, 0), Some(of_cluster));
    node.keeper.stand(Standing::Learner);
    {
        let by = admin(&op(&hsm));
        let mut joining = pin!(hsm.join(ADDRESS, Some(&by), &wanted));
        assert!(joining.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    }
    drop(hsm);
    node.keeper.stand(Standing::Unknown);
    let hsm = node.boot();
    assert_eq!(hsm.state(), State::Failed);
    block_on(hsm.keep_joining());
    // The cluster works and counts on it.
    node.keeper.stand(Standing::Voter);
    assert!(matches!(block_on(hsm.force_new()), Err(Error::Precondition(_))));
    node.keeper.stand(Standing::Unknown);
    assert_eq!(block_on(hsm.force_new()).unwrap(), ForcedNew::JoinGivenUp);
    assert_eq!(node.place(&hsm), StorePlace::FIRST);
    drop(hsm);
    let hsm = node.boot();
    assert_eq!(hsm.state(), State::Operational);
    assert!(names(&hsm).contains("its-own"));
    create(&hsm, "writable").unwrap();
    assert_eq!(block_on(node.keeper.standing()), Standing::Unknown);
}

#[test]
fn a_failed_member_gets_a_new_certificate() {
    let authority = Authority::new();
    let (node, hsm) = node(&authority);
    let subject = || serde_json::from_str(r#"{"commonName":"node"}"#).unwrap();
    let renewed = authority.sign(&op(&hsm), "192.0.2.1", None, "20410101000000Z");
    let for_others = authority.sign(&op(&hsm), "192.0.2.9", None, "20410101000000Z");
    let of_others = Authority::new().sign(&op(&hsm), "192.0.2.1", None, "20410101000000Z");
    let by = admin(&op(&hsm));
    let refused = |result| assert!(matches!(result, Err(Error::Precondition(_))), "{result:?}");
    refused(block_on(hsm.set_tls_chain(None, &renewed)));
    set_ca(&hsm, &authority).unwrap();
    fail(&node, &hsm);
    let before = block_on(hsm.tls_chain_pem()).unwrap();
    refused(block_on(hsm.set_tls_chain(Some(&by), &renewed)));
    refused(block_on(hsm.set_tls_chain(None, &for_others)));
    refused(block_on(hsm.set_tls_chain(None, &of_others)));
    assert_eq!(block_on(hsm.tls_chain_pem()).unwrap(), before);
    assert!(block_on(hsm.tls_csr(None, subject())).unwrap().contains("CERTIFICATE REQUEST"));
    block_on(hsm.set_tls_chain(None, &renewed)).unwrap();
    assert_eq!(
        block_on(hsm.tls_chain_pem()).unwrap().replace('\n', ""),
        String::from_utf8(renewed).unwrap().replace('\n', "")
    );
    drop(hsm);
    assert_ne!(block_on(node.boot().tls_chain_pem()).unwrap(), before);
}
