//! What hostile bytes can do to the parsers: every target is a plain function that takes bytes and panics if a property
//! does not hold. `src/bin/smoke.rs` feeds them mutations with the stable compiler, `fuzz_targets/` hands them to libFuzzer.
//!
//! A parser that refuses is right; one that panics, hangs, or accepts what it cannot give back unchanged is not.

use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use casemate_api::body::{config, keys, system, users};
use casemate_api::{KeyId, Tag, UserId};
use casemate_core::keys::material::Material;
use casemate_core::platform::{BoxFuture, Clock};
use casemate_server::http::body::{self, Budget};
use casemate_server::http::{json, multipart as import, negotiate};
use http_body_util::Full;
use hyper::body::Bytes;

/// A target by name.
pub type Target = (&'static str, fn(&[u8]));

/// Every target. The folder `seeds/<name>` holds what its mutations start from.
pub const TARGETS: &[Target] =
    &[("json", json), ("parts", parts), ("pem", pem), ("paths", paths), ("headers", headers), ("multipart", multipart)];

/// Request bodies: every type takes or refuses, and what strict JSON is stays what it is.
pub fn json(bytes: &[u8]) {
    fn read<T: serde::de::DeserializeOwned>(bytes: &[u8]) {
        if let Err(error) = json::parse::<T>(bytes) {
            // The message goes into a reply: it is one line, and not the client's text sent back.
            let message = error.to_string();
            assert!(message.len() < 1000 && !message.contains('\n'), "{message}");
        }
    }
    read::<config::ChangePassphrase>(bytes);
    read::<config::UnattendedBoot>(bytes);
    read::<keys::GenerateKey>(bytes);
    read::<keys::ImportKey>(bytes);
    read::<keys::ImportArguments>(bytes);
    read::<system::Provision>(bytes);
    read::<system::Unlock>(bytes);
    read::<system::RandomRequest>(bytes);
    read::<users::NewUser>(bytes);
    read::<users::NewPassphrase>(bytes);
    if let Ok(strict) = serde_json::from_slice::<serde_json::Value>(bytes) {
        let relaxed = json::parse::<serde_json::Value>(bytes).expect("strict JSON is JSON");
        assert_eq!(strict, relaxed);
    }
}

/// A JSON import down to the key.
pub fn parts(bytes: &[u8]) {
    let Ok(body) = json::parse::<keys::ImportKey>(bytes) else { return };
    if let Ok(material) = Material::from_parts(body.key_type, &body.private) {
        assert_eq!(material.key_type(), body.key_type);
        stored_and_read_again(&material);
    }
}

/// A PEM import: PEM and DER of three formats.
pub fn pem(bytes: &[u8]) {
    if let Ok(material) = Material::from_pem(bytes) {
        stored_and_read_again(&material);
    }
}

/// What was accepted can be stored, and comes back the same.
fn stored_and_read_again(material: &Material) {
    let mut stored = Vec::new();
    material.encode(&mut stored);
    let read = Material::decode(&stored).expect("what was stored can be read");
    let mut again = Vec::new();
    read.encode(&mut again);
    assert!(stored == again, "a stored key changed when it was read");
}

/// Request targets: percent-decoding and ids.
pub fn paths(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let decoded = negotiate::decode_path(text);
    assert!(decoded.len() <= text.len());
    assert!(text.contains('%') || decoded == text);
    // Decoding must not make separators: the number of segments is the router's business.
    assert_eq!(decoded.matches('/').count(), text.matches('/').count());
    for segment in decoded.split('/') {
        if let Ok(user) = UserId::parse(segment) {
            assert_eq!(user.to_string(), segment);
        }
        if let Ok(key) = KeyId::parse(segment) {
            assert_eq!(key.as_str(), segment);
            assert!(UserId::parse(segment).is_ok() && Tag::parse(segment).is_ok(), "one rule for all ids");
        }
    }
}

/// Request headers: credentials, accepted types, types of bodies.
pub fn headers(bytes: &[u8]) {
    if let Some(basic) = negotiate::Basic::parse(bytes) {
        assert!(!basic.name().contains(':'), "the first colon ends the name");
        assert!(basic.name().len() + basic.expose_passphrase().len() < bytes.len());
    }
    negotiate::accepts_identity([bytes]);
    for offered in ["application/json", "application/x-pem-file", "application/octet-stream"] {
        // The same line twice asks for nothing else than the line alone.
        assert_eq!(negotiate::accepts([bytes], offered), negotiate::accepts([bytes, bytes], offered));
        if let Some(content) = negotiate::ContentType::parse(bytes) {
            assert!(!content.is_exactly(offered) || content.is(offered));
        }
    }
}

/// A `multipart/form-data` body; the first line of the bytes is its `Content-Type`.
pub fn multipart(bytes: &[u8]) {
    let line_end = bytes.iter().position(|byte| *byte == b'\n').unwrap_or(bytes.len());
    let (head, rest) = bytes.split_at(line_end);
    let Ok(content_type) = std::str::from_utf8(head) else { return };
    let content = rest.get(1..).unwrap_or_default();
    let stream = Full::new(Bytes::copy_from_slice(content));
    let budget = Budget::new(LIMIT);
    let Ok(body) = at_once(body::read(stream, LIMIT, &budget, &Stopped)) else { return };
    if let Ok(parts) = at_once(import::import_parts(content_type, body)) {
        assert!(parts.arguments.len() + parts.key_file.len() <= content.len());
    }
}

const LIMIT: usize = 1 << 20;

/// Polls a future that has nothing to wait for.
fn at_once<T>(future: impl Future<Output = T>) -> T {
    let mut future = pin!(future);
    let mut context = Context::from_waker(Waker::noop());
    for _ in 0..1_000_000 {
        if let Poll::Ready(value) = future.as_mut().poll(&mut context) {
            return value;
        }
    }
    panic!("the future waits for nobody")
}

/// A clock that stands still: nothing here is late.
struct Stopped;

impl Clock for Stopped {
    fn wall(&self) -> Duration {
        Duration::ZERO
    }
    fn monotonic(&self) -> Duration {
        Duration::ZERO
    }
    fn sleep(&self, _: Duration) -> BoxFuture<'static, ()> {
        Box::pin(std::future::pending())
    }
}
