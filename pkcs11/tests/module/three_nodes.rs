//! A slot with three nodes, on a network of machines. While an application signs in several threads, each node fails once: killed,
//! cut off so that what is sent to it is lost in silence, locked.

use std::env;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use casemate_api::body::users::NewUser;
use casemate_api::{Role, UserId};
use casemate_testkit::{EtcdServer, Hsm, Network, OPERATOR, UNLOCK, admin, ed25519, key, secret};
use cryptoki::context::Pkcs11;
use cryptoki::mechanism::Mechanism;
use cryptoki::mechanism::eddsa::{EddsaParams, EddsaSignatureScheme};
use cryptoki::object::{Attribute, ObjectClass};
use cryptoki::session::UserType;
use cryptoki::types::AuthPin;

use crate::harness::{Rig, initialized, inside, session};

/// The machines besides those of the nodes 0 to 2.
const ETCD: usize = 3;
const APPLICATION: usize = 4;
const NODES: usize = 3;

const THREADS: usize = 6;

/// The time limit of the slot for one attempt. A signature that waits for one node and then goes to another comes within twice this
/// time; one that waits for two nodes does not.
const ATTEMPT: Duration = Duration::from_secs(8);

#[test]
fn no_call_fails_while_one_node_of_three_fails_and_it_is_used_again_afterwards() {
    if inside() {
        let config = PathBuf::from(env::var_os("CASEMATE_PKCS11_CONFIG").unwrap());
        return sign_until_stopped(config.parent().unwrap());
    }
    let network = Network::new(5);
    let etcd = EtcdServer::at(&network.places()[ETCD]);
    let mut nodes: Vec<Hsm> =
        (0..NODES).map(|node| Hsm::start_at(&network.places()[node], |_| etcd.settings())).collect();
    nodes[0].found();
    nodes[1..].iter().for_each(|node| node.join(&nodes[0]));
    let administrator = admin(&nodes[0].client());
    administrator.keys().import_as(&key("k"), &ed25519()).unwrap();
    let metrics = NewUser { real_name: String::new(), role: Role::Metrics, passphrase: secret(OPERATOR) };
    administrator.users().create_as(&UserId::parse("metrics").unwrap(), &metrics).unwrap();

    let rig = Rig::of(&nodes.iter().collect::<Vec<_>>());
    rig.add_setting(&format!("timeout-seconds = {}\n", ATTEMPT.as_secs()));
    thread::scope(|scope| {
        let signing = scope.spawn(|| {
            rig.run_again_at(
                &network,
                APPLICATION,
                "three_nodes::no_call_fails_while_one_node_of_three_fails_and_it_is_used_again_afterwards",
            );
        });
        let alive = || assert!(!signing.is_finished(), "the application ended early");
        (0..NODES).for_each(|node| await_signatures(&nodes[node], 20, alive));

        nodes[0].kill();
        await_others(&nodes, 0, alive);
        nodes[0].restart();
        nodes[0].client().anonymous().unlock(secret(UNLOCK)).unwrap();
        await_signatures(&nodes[0], 20, alive);

        network.cut(APPLICATION, 1);
        // All connections to the node that there were fail meanwhile.
        thread::sleep(ATTEMPT + Duration::from_secs(1));
        await_others(&nodes, 1, alive);
        network.heal(APPLICATION, 1);
        await_signatures(&nodes[1], 20, alive);

        admin(&nodes[2].client()).lock().unwrap();
        await_others(&nodes, 2, alive);
        nodes[2].client().anonymous().unlock(secret(UNLOCK)).unwrap();
        await_signatures(&nodes[2], 20, alive);

        rig.folder.file("stop", "");
        signing.join().unwrap();
    });
}

/// Waits until the nodes beside `failed` have made many signatures more.
fn await_others(nodes: &[Hsm], failed: usize, alive: impl Fn()) {
    (0..NODES).filter(|node| *node != failed).for_each(|node| await_signatures(&nodes[node], 100, &alive));
}

/// Waits until a node has made so many signatures more.
fn await_signatures(node: &Hsm, more: u64, alive: impl Fn()) {
    let goal = signatures(node) + more;
    let deadline = Instant::now() + Duration::from_secs(120);
    while signatures(node) < goal {
        alive();
        assert!(Instant::now() < deadline, "{} gets no calls", node.address);
        thread::sleep(Duration::from_millis(50));
    }
}

/// How many signatures a node has made since it started.
fn signatures(node: &Hsm) -> u64 {
    let session = node.client().log_in(&UserId::parse("metrics").unwrap(), secret(OPERATOR));
    session.metrics().unwrap().get("sign").map_or(0, |count| count.parse().unwrap())
}

/// The application: it signs until the test tells it to stop, and no signature fails or is late.
fn sign_until_stopped(folder: &Path) {
    let pkcs11 = initialized();
    let login = session(&pkcs11);
    login.login(UserType::User, Some(&AuthPin::new(OPERATOR.into()))).unwrap();
    let slowest = thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(|| slowest_signature(&pkcs11, folder))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).max().unwrap()
    });
    assert!(slowest < 2 * ATTEMPT, "{slowest:?}");
    assert!(slowest > ATTEMPT / 2, "nobody has noticed the cut: {slowest:?}");
}

fn slowest_signature(pkcs11: &Pkcs11, folder: &Path) -> Duration {
    let session = session(pkcs11);
    let template = [Attribute::Class(ObjectClass::PRIVATE_KEY), Attribute::Id(b"k".to_vec())];
    let private = session.find_objects(&template).unwrap()[0];
    let by = Mechanism::Eddsa(EddsaParams::new(EddsaSignatureScheme::Ed25519));
    let mut slowest = Duration::ZERO;
    while !folder.join("stop").exists() {
        let begun = Instant::now();
        assert_eq!(session.sign(&by, private, b"message").unwrap().len(), 64);
        slowest = slowest.max(begun.elapsed());
    }
    slowest
}
