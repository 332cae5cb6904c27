//! Which certificates the client trusts.

use std::fs;

use casemate_client::{Client, Error, Fingerprint, Settings, Trust};
use casemate_testkit::{Hsm, Identity, MockServer, fingerprint, reply};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, date_time_ymd};

fn info(address: &str, trust: Trust) -> Result<(), Error> {
    Client::new(Settings { trust, ..Settings::of([address]) }).unwrap().anonymous().info().map(drop)
}

fn identity(params: &CertificateParams, issuer: Option<&Issuer<'_, KeyPair>>) -> Identity {
    let key = KeyPair::generate().unwrap();
    let certificate = match issuer {
        Some(issuer) => params.signed_by(&key, issuer).unwrap(),
        None => params.self_signed(&key).unwrap(),
    };
    Identity { certificate: certificate.der().clone(), key: key.serialize_der() }
}

fn named(name: &str) -> CertificateParams {
    CertificateParams::new(vec![name.to_owned()]).unwrap()
}

/// A certificate authority, and a file with its certificate.
fn authority(file: &str) -> (Issuer<'static, KeyPair>, std::path::PathBuf) {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    let pem = params.self_signed(&key).unwrap().pem();
    let path = std::env::temp_dir().join(format!("casemate-client-{file}-{}.pem", std::process::id()));
    fs::write(&path, pem).unwrap();
    (Issuer::new(params, key), path)
}

#[test]
fn an_error_about_a_certificate_has_the_fingerprint_by_which_it_can_be_pinned() {
    let hsm = Hsm::start();
    let shown = fingerprint(&hsm.address);
    info(&hsm.address, Trust::Pinned(vec![Fingerprint::of(b"another"), shown])).unwrap();
    let error = info(&hsm.address, Trust::System).unwrap_err();
    assert!(matches!(&error, Error::Untrusted { fingerprint, .. } if *fingerprint == shown), "{error:?}");
    assert!(error.to_string().contains(&shown.to_string()), "{error}");
    info(&hsm.address, Trust::Anyone).unwrap();
}

#[test]
fn a_pinned_certificate_without_its_key_is_not_enough() {
    let honest = identity(&named("localhost"), None);
    let thief = Identity { certificate: honest.certificate.clone(), key: KeyPair::generate().unwrap().serialize_der() };
    let pin = Trust::Pinned(vec![Fingerprint::of(&honest.certificate)]);
    let server = MockServer::start_as(honest, |_| reply(200, r#"{"vendor":"a","product":"b"}"#));
    info(&server.address, pin.clone()).unwrap();
    let server = MockServer::start_as(thief, |_| reply(200, r#"{"vendor":"a","product":"b"}"#));
    match info(&server.address, pin) {
        Err(Error::Unreachable { nodes }) => {
            assert!(nodes[0].cause.to_string().contains("the TLS handshake failed"), "{nodes:?}")
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(server.requests(), 0, "no request was sent to the thief");
}

#[test]
fn a_ca_file_vouches_for_names_and_addresses_and_nothing_else() {
    let (ca, path) = authority("ca");
    let (_, other) = authority("other");
    let answer = |_: &str| reply(200, r#"{"vendor":"a","product":"b"}"#);
    let good = MockServer::start_as(identity(&named("127.0.0.1"), Some(&ca)), answer);
    info(&good.address, Trust::CaFile(path.clone())).unwrap();
    assert!(matches!(info(&good.address, Trust::CaFile(other.clone())), Err(Error::Untrusted { .. })));
    assert!(matches!(info(&good.address, Trust::System), Err(Error::Untrusted { .. })));
    let elsewhere = MockServer::start_as(identity(&named("hsm.example"), Some(&ca)), answer);
    assert!(matches!(info(&elsewhere.address, Trust::CaFile(path.clone())), Err(Error::Untrusted { .. })));
    fs::remove_file(path).unwrap();
    fs::remove_file(other).unwrap();
}

#[test]
fn an_expired_certificate_is_reported_as_expired() {
    let (ca, path) = authority("expired");
    let mut params = named("127.0.0.1");
    params.not_before = date_time_ymd(2020, 1, 1);
    params.not_after = date_time_ymd(2021, 1, 1);
    let expired = identity(&params, Some(&ca));
    let shown = Fingerprint::of(&expired.certificate);
    let server = MockServer::start_as(expired, |_| reply(200, "{}"));
    let error = info(&server.address, Trust::CaFile(path.clone())).unwrap_err();
    assert!(matches!(error, Error::Expired { fingerprint, .. } if fingerprint == shown), "{error:?}");
    assert_eq!(server.requests(), 0);
    fs::remove_file(path).unwrap();
}

#[test]
fn settings_that_cannot_work_are_refused_at_once() {
    let of = |trust| Client::new(Settings { trust, ..Settings::of(["127.0.0.1:1"]) });
    assert!(matches!(of(Trust::Pinned(Vec::new())), Err(Error::Settings(_))));
    assert!(matches!(of(Trust::CaFile("/does/not/exist.pem".into())), Err(Error::Settings(_))));
    let none: [&str; 0] = [];
    assert!(matches!(Client::new(Settings { trust: Trust::Anyone, ..Settings::of(none) }), Err(Error::Settings(_))));
}

#[test]
fn an_inspection_tells_all_and_sends_no_request() {
    let (ca, path) = authority("probe");
    let identity = identity(&named("hsm.example"), Some(&ca));
    let shown = Fingerprint::of(&identity.certificate);
    let server = MockServer::start_as(identity, |_| reply(200, "{}"));
    let inspect =
        |trust| Client::new(Settings { trust, ..Settings::of([&server.address]) }).unwrap().inspect_tls(0).unwrap();
    let info = inspect(Trust::CaFile(path.clone()));
    assert_eq!((info.fingerprint, info.chain.len(), info.names_host), (shown, 1, false));
    assert_eq!(info.version, "TLSv1_3");
    assert!(matches!(info.expect_trusted("x"), Err(Error::Untrusted { fingerprint, .. }) if fingerprint == shown));
    inspect(Trust::Pinned(vec![shown])).expect_trusted("x").unwrap();
    inspect(Trust::Anyone).expect_trusted("x").unwrap();
    assert_eq!(server.requests(), 0);
    fs::remove_file(path).unwrap();
}

#[test]
fn an_inspection_fails_if_the_node_does_not_hold_the_key() {
    let honest = identity(&named("localhost"), None);
    let thief = Identity { certificate: honest.certificate, key: KeyPair::generate().unwrap().serialize_der() };
    let server = MockServer::start_as(thief, |_| reply(200, "{}"));
    let client = Client::new(Settings { trust: Trust::Anyone, ..Settings::of([&server.address]) }).unwrap();
    assert!(matches!(client.inspect(0).unwrap().tls, Some(Err(casemate_client::Cause::TlsFailed(_)))));
    assert!(matches!(client.inspect_tls(0), Err(Error::Unreachable { .. })));
    assert!(matches!(client.inspect(1), Err(Error::NodeRequired { .. })));
}
