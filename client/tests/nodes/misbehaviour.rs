//! How the client deals with servers that stall, break off, or answer as no healthy HSM does.

use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use casemate_api::body::keys::{GenerateKey, Restrictions, Sign};
use casemate_api::{KeyType, Mechanism, Passphrase, SignMode, UserId};
use casemate_client::{Cause, Client, Error, Session, Settings, Trust};
use casemate_testkit::{MockServer, Reaction, key, reply};

fn client(nodes: &[&MockServer]) -> Client {
    let settings = Settings::of(nodes.iter().map(|server| server.address.clone()));
    Client::new(Settings { trust: Trust::Anyone, ..settings }).unwrap()
}

fn session(nodes: &[&MockServer]) -> Session {
    client(nodes).log_in(&UserId::parse("op").unwrap(), Passphrase::from_text("operator passphrase".into()))
}

fn sign(session: &Session) -> Result<String, Error> {
    let request = Sign { mode: SignMode::EdDSA, message: "cg==".into() };
    session.keys().sign(&key("k"), &request).map(|signature| signature.signature)
}

fn generate(session: &Session) -> Result<String, Error> {
    let request = GenerateKey {
        mechanisms: vec![Mechanism::EdDSA_Signature],
        key_type: KeyType::Curve25519,
        length: 0,
        id: String::new(),
        restrictions: Restrictions::default(),
        label: String::new(),
    };
    session.keys().generate(&request).map(|created| created.id)
}

fn good() -> MockServer {
    MockServer::start(|request| match request.split(' ').nth(1) {
        Some(path) if path.ends_with("/generate") => reply(201, r#"{"id":"x"}"#),
        Some(path) if path.ends_with("/sign") => reply(200, r#"{"signature":"AA=="}"#),
        _ => reply(200, ""),
    })
}

#[test]
fn a_creation_whose_answer_was_lost_is_unknown_and_not_repeated_and_a_signature_is() {
    for cut in ["", "HTTP/1.1 201 Created\r\ncontent-length: 10\r\n\r\n{\"id"] {
        let bad = MockServer::start(move |_| Reaction::SendAndClose(cut.into()));
        let good = good();
        // Whichever node is first, two calls reach both.
        for _ in 0..2 {
            let session = session(&[&bad, &good]);
            let mut unknown = 0;
            for _ in 0..2 {
                match generate(&session) {
                    Ok(id) => assert_eq!(id, "x"),
                    Err(Error::Unknown { node, .. }) => {
                        assert_eq!(node, bad.address);
                        unknown += 1;
                    }
                    other => panic!("{other:?}"),
                }
            }
            assert_eq!(unknown, 1);
            assert_eq!(sign(&session).unwrap(), "AA==");
        }
        let asked = bad.requests() + good.requests();
        assert_eq!(asked, 6, "four creations, two signatures, nothing twice");
    }
    let bad = MockServer::start(|_| Reaction::SendAndClose(Vec::new()));
    let good = good();
    let session = session(&[&bad, &good]);
    for _ in 0..10 {
        assert_eq!(sign(&session).unwrap(), "AA==");
    }
    assert_eq!(good.requests(), 10);
}

#[test]
fn a_creation_is_sent_to_another_node_when_the_first_did_nothing() {
    for (status, body) in [
        (412, r#"{"message":"Service not available"}"#),
        (501, ""),
        (503, r#"{"message":"The HSM is busy. Try again."}"#),
    ] {
        let (bad, good) = (MockServer::start(move |_| reply(status, body)), good());
        let session = session(&[&bad, &good]);
        for _ in 0..4 {
            assert_eq!(generate(&session).unwrap(), "x", "{status}");
        }
        assert_eq!((bad.requests(), good.requests()), (1, 4), "{status}");
    }
    let (bad, good) = (MockServer::start(|_| reply(500, r#"{"message":"Could not write to database."}"#)), good());
    let session = session(&[&bad, &good]);
    let results: Vec<_> = (0..2).map(|_| generate(&session)).collect();
    assert_eq!(results.iter().filter(|result| matches!(result, Err(Error::Unknown { .. }))).count(), 1, "{results:?}");
    assert_eq!(good.requests(), 1);
}

#[test]
fn a_creation_that_was_answered_with_success_is_not_reported_as_failed() {
    for body in ["", "{\"id\"", "<html>", "[]"] {
        let server = MockServer::start(move |_| reply(201, body));
        let error = generate(&session(&[&server])).unwrap_err();
        assert!(matches!(error, Error::Unknown { cause: Cause::Unreadable(_), .. }), "{error:?}");
        let error = sign(&session(&[&server])).unwrap_err();
        assert!(matches!(error, Error::Garbled { .. }), "{error:?}");
    }
}

#[test]
fn a_download_without_a_length_that_is_cut_off_is_not_whole() {
    let server = MockServer::start(|_| Reaction::SendAndClose(b"HTTP/1.1 200 OK\r\n\r\nhalf of it".to_vec()));
    let mut got = Vec::new();
    let error = session(&[&server]).system().backup(&mut got).unwrap_err();
    assert!(matches!(error, Error::Incomplete { bytes: 10, .. }), "{error:?}");
    let server = MockServer::start(|_| reply(204, ""));
    let error = session(&[&server]).system().backup(&mut got).unwrap_err();
    assert!(matches!(error, Error::Garbled { .. }), "{error:?}");
}

#[test]
fn while_a_node_accepts_no_login_another_one_is_asked() {
    let (shut, good) = (MockServer::start(|_| reply(429, "")), good());
    let session = session(&[&shut, &good]);
    // Whichever node is first, two calls reach both.
    for _ in 0..2 {
        assert_eq!(sign(&session).unwrap(), "AA==");
    }
    assert_eq!(good.requests(), 2);
    assert!(matches!(shut.requests(), 2 | 4), "asked twice, then the other: {}", shut.requests());
}

#[test]
fn after_an_answer_about_the_request_no_other_node_is_asked() {
    for status in [400, 401, 403, 404, 409] {
        let first = MockServer::start(move |_| reply(status, r#"{"message":"no\u001b[2J"}"#));
        let second = MockServer::start(move |_| reply(status, r#"{"message":"no\u001b[2J"}"#));
        let error = sign(&session(&[&first, &second])).unwrap_err();
        assert_eq!(first.requests() + second.requests(), 1, "{status}");
        assert!(!error.to_string().contains('\u{1b}'), "{error}");
        match (status, error) {
            (401, Error::Unauthenticated { .. }) | (403, Error::Forbidden { .. }) | (404, Error::NotFound { .. }) => {}
            (_, Error::Refused { status: got, .. }) => assert_eq!(got, status),
            (_, other) => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_node_that_stalls_costs_its_time_limit_once() {
    let (bad, good) = (MockServer::start(|_| Reaction::Stall), good());
    let settings = Settings::of([bad.address.clone(), good.address.clone()]);
    let settings = Settings { trust: Trust::Anyone, request: Duration::from_millis(300), ..settings };
    let session =
        Client::new(settings).unwrap().log_in(&UserId::parse("op").unwrap(), Passphrase::from_text("x".into()));
    let begun = Instant::now();
    for _ in 0..10 {
        assert_eq!(sign(&session).unwrap(), "AA==");
    }
    let took = begun.elapsed();
    assert!(took >= Duration::from_millis(300) && took < Duration::from_millis(3_000), "{took:?}");
    assert_eq!(bad.requests(), 1);
}

#[test]
fn time_limits_hold_whether_a_server_accepts_connections_or_not() {
    // A listener without a server: the kernel accepts the connection, but there is no handshake.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let (stalled, drips) = (MockServer::start(|_| Reaction::Stall), MockServer::start(|_| Reaction::Drip));
    for address in [silent.local_addr().unwrap().to_string(), stalled.address.clone(), drips.address.clone()] {
        let limit = Duration::from_millis(400);
        let settings = Settings {
            trust: Trust::Anyone,
            connect: limit,
            request: limit,
            deadline: limit,
            ..Settings::of([address])
        };
        let session = Client::new(settings).unwrap().anonymous();
        let begun = Instant::now();
        match session.info() {
            Err(Error::DeadlineExceeded { nodes, .. }) => assert_eq!(nodes[0].cause, Cause::TimedOut),
            Err(Error::Unreachable { nodes }) => assert_eq!(nodes[0].cause, Cause::TimedOut),
            other => panic!("{other:?}"),
        }
        assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    }
}

#[test]
fn too_many_requests_are_waited_for_at_the_same_node() {
    let count = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&count);
    let server = MockServer::start(move |_| match counter.fetch_add(1, Ordering::Relaxed) {
        0 | 1 => reply(429, r#"{"message":"Too many requests"}"#),
        _ => reply(200, r#"{"signature":"AA=="}"#),
    });
    let begun = Instant::now();
    assert_eq!(sign(&session(&[&server])).unwrap(), "AA==");
    assert!(begun.elapsed() >= Duration::from_secs(2));
    assert_eq!(server.requests(), 3);
    let server = MockServer::start(|_| reply(429, ""));
    let settings = Settings {
        trust: Trust::Anyone,
        deadline: Duration::from_millis(1_500),
        ..Settings::of([server.address.clone()])
    };
    let error = Client::new(settings).unwrap().anonymous().info().unwrap_err();
    assert!(matches!(error, Error::TooManyLogins { .. }), "{error:?}");
}

#[test]
fn the_error_of_a_download_that_breaks_off_has_the_bytes_that_came() {
    let server = MockServer::start(|_| {
        Reaction::SendAndClose(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n0123456789".to_vec())
    });
    let mut file = Vec::new();
    match session(&[&server]).system().backup(&mut file) {
        Err(Error::Incomplete { bytes: 10, .. }) => assert_eq!(file, b"0123456789"),
        other => panic!("{other:?}"),
    }
    let server = MockServer::start(|_| reply(200, "a whole backup"));
    let mut file = Vec::new();
    assert_eq!(session(&[&server]).system().backup(&mut file).unwrap(), 14);
    assert_eq!(file, b"a whole backup");
}

#[test]
fn a_server_that_is_not_an_hsm_is_recognised() {
    for body in ["", "<html>", r#"{"vendor":1}"#] {
        let server = MockServer::start(move |_| reply(200, body));
        assert!(matches!(client(&[&server]).anonymous().info(), Err(Error::Garbled { .. })), "{body}");
    }
    let server = MockServer::start(|_| reply(301, ""));
    assert!(matches!(client(&[&server]).anonymous().info(), Err(Error::Garbled { .. })));
    let server = MockServer::start(|_| Reaction::SendAndClose(b"SSH-2.0\r\n\r\n".to_vec()));
    assert!(matches!(client(&[&server]).anonymous().info(), Err(Error::Unreachable { .. })));
}

#[test]
fn nothing_secret_is_printed() {
    let server = good();
    let session = session(&[&server]);
    let printed = format!("{session:?} {:?}", client(&[&server]));
    assert!(printed.contains("op") && !printed.contains("passphrase"), "{printed}");
}
