//! When HSMs fail, callers notice nothing as long as one works.

use casemate_api::SignMode;
use casemate_api::body::keys::Sign;
use casemate_client::{Error, Session};
use casemate_testkit::{Hsm, admin, client_of, key, operator};

/// RFC 8032 §7.1, test 2.
const MESSAGE: &str = "cg==";
const SIGNATURE: &str = "kqAJqfDUyrhyDoILX2QlQKKye1QWUD+Ps3YiI+vbadoIWsHkPhWZbkWPNhPQ8R2MOHsurrQwKu6wDSkWErsMAA==";

/// Signs, and compares the signature, as Ed25519 is deterministic (RFC 8032 §5.1.6).
pub(crate) fn signs(session: &Session) -> Result<(), Error> {
    let request = Sign { mode: SignMode::EdDSA, message: MESSAGE.into() };
    let signature = session.keys().sign(&key("k"), &request)?;
    assert_eq!(signature.signature, SIGNATURE);
    Ok(())
}

/// How many signatures this node has made.
pub(crate) fn operations(hsm: &Hsm) -> u64 {
    admin(&hsm.client()).keys().read(&key("k")).unwrap().operations
}

#[test]
fn many_calls_need_one_handshake_and_three_nodes_take_turns() {
    let nodes = [Hsm::with_key(), Hsm::with_key(), Hsm::with_key()];
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
fn a_locked_node_is_skipped_and_if_all_are_locked_that_is_the_error() {
    let nodes = [Hsm::with_key(), Hsm::with_key()];
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
fn when_no_node_can_be_reached_the_error_names_each() {
    let mut nodes = [Hsm::with_key(), Hsm::with_key()];
    let client = client_of(&[&nodes[0], &nodes[1]]);
    for hsm in &mut nodes {
        hsm.kill();
    }
    match signs(&operator(&client)) {
        Err(Error::Unreachable { nodes: failures }) => {
            let mut named: Vec<_> = failures.iter().map(|failure| failure.node.as_str()).collect();
            let mut known: Vec<_> = nodes.iter().map(|hsm| hsm.address.as_str()).collect();
            named.sort_unstable();
            known.sort_unstable();
            assert_eq!(named, known);
        }
        other => panic!("{other:?}"),
    }
}
