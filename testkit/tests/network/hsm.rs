//! `casemated` on the nodes of a network.

use casemate_client::{Error, KeyFilter};
use casemate_testkit::{EtcdServer, Hsm, Network, admin, ed25519, key, operator};

use crate::until;

#[test]
fn the_test_uses_an_hsm_at_a_node() {
    let network = Network::new(1);
    let place = &network.places()[0];
    let mut hsm = Hsm::start_at(place, |_| Vec::new());
    hsm.provision();
    admin(&hsm.client()).keys().import_as(&key("k"), &ed25519()).unwrap();
    assert_eq!(operator(&hsm.client()).keys().list(&KeyFilter::default()).unwrap().len(), 1);
    hsm.kill();
    hsm.restart();
    assert_eq!(hsm.address, format!("{}:8443", place.v4));
    assert!(hsm.client().anonymous().health().alive().unwrap());
    hsm.address = format!("[{}]:8443", place.v6);
    assert!(hsm.client().anonymous().health().alive().unwrap());
}

#[test]
fn a_node_that_is_cut_off_does_not_deny_what_the_others_have_made() {
    let network = Network::new(3);
    // Otherwise it takes half a minute until the members of etcd send something to each other again.
    (0..3).for_each(|node| assert!(network.sysctl(node, "net.ipv4.tcp_retries2", "5")));
    let etcd = EtcdServer::across(&network, &[]);
    let [founder, other] = [0, 1].map(|node| Hsm::start_at(&network.places()[node], |_| etcd.settings()));
    founder.found();
    other.join(&founder);

    network.isolate(1);
    let (at_founder, at_other) = (founder.client(), other.client());
    until(|| admin(&at_founder).keys().import_as(&key("k"), &ed25519()));
    let denied = operator(&at_other).keys().read(&key("k")).unwrap_err();
    assert!(!matches!(denied, Error::NotFound { .. }), "{denied}");

    network.rejoin(1);
    until(|| operator(&at_other).keys().read(&key("k")));
}
