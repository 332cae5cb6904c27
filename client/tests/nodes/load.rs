//! Ten thousand calls while a node is killed and started again: no signature is lost, and nothing is created twice.
//!
//! The nodes do not share their keys, so a creation that was repeated would be found at two of them.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use casemate_api::body::keys::{GenerateKey, Restrictions};
use casemate_api::{KeyType, Mechanism, State};
use casemate_client::{Client, Error, KeyFilter, Session};
use casemate_testkit::{Hsm, UNLOCK, admin, client_of, ed25519, key, operator, secret};

use crate::failover::{operations, signs};

const THREADS: u64 = 4;
/// Of all threads together.
const SIGNATURES: u64 = 10_000;
/// A thread creates one key for that many signatures.
const SIGNATURES_A_KEY: u64 = 5;
/// The numbers of signatures after which a node is killed and started again.
const KILLED_AFTER: u64 = 3_000;
const STARTED_AFTER: u64 = 6_000;

/// The keys a thread created, by what it knows about them.
#[derive(Default)]
struct Creations {
    acknowledged: Vec<String>,
    unknown: Vec<String>,
}

/// Signs and creates keys, and tells when a count is reached at which a node is killed or started.
fn work(client: &Client, thread: u64, done: &AtomicU64, reached: &mpsc::Sender<u64>) -> Creations {
    let (operator, admin) = (operator(client), admin(client));
    let mut creations = Creations::default();
    for round in 0..SIGNATURES / THREADS {
        signs(&operator).unwrap();
        let count = done.fetch_add(1, Ordering::Relaxed) + 1;
        if count == KILLED_AFTER || count == STARTED_AFTER {
            reached.send(count).unwrap();
        }
        if round % SIGNATURES_A_KEY == 0 {
            let id = format!("t{thread}-{round}");
            match create(&admin, &id, round) {
                Ok(()) => creations.acknowledged.push(id),
                Err(Error::Unknown { .. }) => creations.unknown.push(id),
                Err(other) => panic!("{id}: {other:?}"),
            }
        }
    }
    creations
}

/// Creates a key, generated and imported in turns.
fn create(admin: &Session, id: &str, round: u64) -> Result<(), Error> {
    if (round / SIGNATURES_A_KEY).is_multiple_of(2) {
        return admin.keys().import_as(&key(id), &ed25519());
    }
    let generate = GenerateKey {
        mechanisms: vec![Mechanism::EdDSA_Signature],
        key_type: KeyType::Curve25519,
        length: 0,
        id: id.into(),
        restrictions: Restrictions::default(),
        label: String::new(),
    };
    admin.keys().generate(&generate).map(|made| assert_eq!(made.id, id))
}

/// On how many nodes each key is.
fn nodes_by_key(nodes: &[Hsm]) -> BTreeMap<String, u64> {
    let mut counts = BTreeMap::new();
    for hsm in nodes {
        for item in admin(&hsm.client()).keys().list(&KeyFilter::default()).unwrap() {
            *counts.entry(item.id).or_default() += 1;
        }
    }
    counts
}

#[test]
fn no_signature_is_lost_and_nothing_is_created_twice_when_a_node_is_killed_under_load() {
    let mut nodes = [Hsm::with_key(), Hsm::with_key(), Hsm::with_key()];
    let client = client_of(&[&nodes[0], &nodes[1], &nodes[2]]);
    let done = AtomicU64::new(0);
    let made: Vec<Creations> = thread::scope(|scope| {
        let (reached, moments) = mpsc::channel();
        let threads: Vec<_> = (0..THREADS)
            .map(|thread| {
                let (client, done, reached) = (&client, &done, reached.clone());
                scope.spawn(move || work(client, thread, done, &reached))
            })
            .collect();
        // So that a receiver fails, and does not wait for ever, if all threads have ended.
        drop(reached);
        assert_eq!(moments.recv().unwrap(), KILLED_AFTER);
        nodes[1].kill();
        assert_eq!(moments.recv().unwrap(), STARTED_AFTER);
        nodes[1].restart();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(done.into_inner(), SIGNATURES);

    // It came back Locked and is not used. Unlocked, it has every key it acknowledged.
    assert_eq!(client.anonymous().at(1).unwrap().health().state().unwrap(), State::Locked);
    client.anonymous().at(1).unwrap().unlock(secret(UNLOCK)).unwrap();
    let counts = nodes_by_key(&nodes);
    let (mut acknowledged, mut unknown) = (0, 0);
    for id in made.iter().flat_map(|made| &made.acknowledged) {
        assert_eq!(counts.get(id), Some(&1), "{id} was acknowledged");
        acknowledged += 1;
    }
    for id in made.iter().flat_map(|made| &made.unknown) {
        assert!(counts.get(id).is_none_or(|at| *at == 1), "{id}, of which nobody knew, exists twice");
        unknown += 1;
    }
    // Each thread makes one call at a time.
    assert!(unknown <= THREADS, "{unknown} creations were lost");
    assert_eq!(acknowledged + unknown, SIGNATURES / SIGNATURES_A_KEY);
    let there = counts.len() as u64 - 1;
    assert!(there >= acknowledged && there <= acknowledged + unknown, "{there} keys, {acknowledged} acknowledged");

    // It is used again.
    let (session, before, begun) = (operator(&client), operations(&nodes[1]), Instant::now());
    while operations(&nodes[1]) == before {
        assert!(begun.elapsed() < Duration::from_secs(70), "it is never used again");
        signs(&session).unwrap();
    }
}
