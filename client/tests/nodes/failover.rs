//! What callers notice when HSMs go away: nothing, as long as one is left.

use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use casemate_api::body::keys::Sign;
use casemate_api::{SignMode, State};
use casemate_client::{Error, Session};

use crate::daemon::{Hsm, UNLOCK, admin, client_of, key, operator, secret};

/// RFC 8032 §7.1, test 2.
const MESSAGE: &str = "cg==";
const SIGNATURE: &str = "kqAJqfDUyrhyDoILX2QlQKKye1QWUD+Ps3YiI+vbadoIWsHkPhWZbkWPNhPQ8R2MOHsurrQwKu6wDSkWErsMAA==";

fn signs(session: &Session) -> Result<(), Error> {
    let request = Sign { mode: SignMode::EdDSA, message: MESSAGE.into() };
    let signature = session.keys().sign(&key("k"), &request)?;
    assert_eq!(signature.signature, SIGNATURE);
    Ok(())
}

fn operations(hsm: &Hsm) -> u64 {
    admin(&hsm.client()).keys().read(&key("k")).unwrap().operations
}

#[test]
fn many_calls_need_one_handshake_and_three_nodes_take_turns() {
    let nodes = [Hsm::operational(), Hsm::operational(), Hsm::operational()];
    let client = client_of(&[&nodes[0], &nodes[1], &nodes[2]]);
    let session = operator(&client);
    for _ in 0..300 {
        signs(&session).unwrap();
    }
    assert_eq!(client.handshakes(), 3, "one for each node");
    for hsm in &nodes {
        assert_eq!(operations(hsm), 100);
    }
}

#[test]
fn no_signature_is_lost_when_a_node_is_killed_and_it_is_used_again_when_it_is_back() {
    let mut nodes = [Hsm::operational(), Hsm::operational(), Hsm::operational()];
    let client = client_of(&[&nodes[0], &nodes[1], &nodes[2]]);
    let done = AtomicU64::new(0);
    thread::scope(|scope| {
        for _ in 0..4 {
            let session = operator(&client);
            let done = &done;
            scope.spawn(move || {
                for _ in 0..500 {
                    signs(&session).unwrap();
                    done.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        let begun = Instant::now();
        while done.load(Ordering::Relaxed) < 600 && begun.elapsed() < Duration::from_secs(60) {
            thread::sleep(Duration::from_millis(1));
        }
        nodes[1].kill();
    });
    assert_eq!(done.into_inner(), 2_000);

    // It comes back Locked: it is still not used. Unlocked, it is.
    nodes[1].restart();
    assert_eq!(client.anonymous().at(1).unwrap().health().state().unwrap(), State::Locked);
    let session = operator(&client);
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_millis(1_500) {
        signs(&session).unwrap();
    }
    client.anonymous().at(1).unwrap().unlock(secret(UNLOCK)).unwrap();
    let before = operations(&nodes[1]);
    while operations(&nodes[1]) == before {
        assert!(begun.elapsed() < Duration::from_secs(70), "it is never used again");
        signs(&session).unwrap();
        thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_node_that_is_locked_is_passed_over_and_the_last_one_tells_its_state() {
    let nodes = [Hsm::operational(), Hsm::operational()];
    let client = client_of(&[&nodes[0], &nodes[1]]);
    let session = operator(&client);
    admin(&client).at(0).unwrap().lock().unwrap();
    for _ in 0..20 {
        signs(&session).unwrap();
    }
    admin(&client).at(1).unwrap().lock().unwrap();
    assert!(matches!(signs(&session), Err(Error::WrongState { .. })));
}

#[test]
fn nobody_there_is_said_of_each_node() {
    let mut nodes = [Hsm::operational(), Hsm::operational()];
    let client = client_of(&[&nodes[0], &nodes[1]]);
    for hsm in &mut nodes {
        hsm.kill();
    }
    match signs(&operator(&client)) {
        Err(Error::Unreachable { nodes: troubles }) => {
            let mut named: Vec<_> = troubles.iter().map(|trouble| trouble.node.as_str()).collect();
            let mut known: Vec<_> = nodes.iter().map(|hsm| hsm.address.as_str()).collect();
            named.sort_unstable();
            known.sort_unstable();
            assert_eq!(named, known);
        }
        other => panic!("{other:?}"),
    }
}
