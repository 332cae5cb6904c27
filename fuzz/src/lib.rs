//! Fuzz targets for the parsers: every target is a plain function that takes bytes and panics if a property does not
//! hold. `src/bin/smoke.rs` runs them with mutations on the stable compiler, `fuzz_targets/` under libFuzzer.
//!
//! A parser may refuse any input; it must not panic, hang, or accept what it cannot reproduce unchanged.

pub mod pkcs11;

use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use casemate_api::body::{config, keys, system, users};
use casemate_api::{KeyId, Tag, UserId};
use casemate_core::backup::format::{Frame, Parser, Version as Format};
use casemate_core::backup::json::Value as Bytewise;
use casemate_core::backup::nethsm;
use casemate_core::crypto::material::Material;
use casemate_core::hsm::update::{Intake, UpdateKey, Version};
use casemate_core::runtime::{BoxFuture, Clock};
use casemate_etcd::{DataFile, FileError, commit_all};
use casemate_server::http::body;
use casemate_server::http::budget::Budget;
use casemate_server::http::{json, multipart as import, negotiate};
use http_body_util::Full;
use hyper::body::Bytes;

/// A target and its name.
pub type Target = (&'static str, fn(&[u8]));

/// Every target. Its seeds are in the folder `seeds/<name>`.
pub const TARGETS: &[Target] = &[
    ("backup", backup),
    ("json", json),
    ("parts", parts),
    ("pem", pem),
    ("paths", paths),
    ("headers", headers),
    ("multipart", multipart),
    ("update", update),
    ("config", configuration),
    ("chain", chain),
    ("datafile", data_file),
    ("logfile", log_file),
    ("pkcs11", pkcs11::boundary),
    ("pkcs11config", pkcs11::configuration),
];

/// A backup: its frames, and the decrypted contents.
pub fn backup(bytes: &[u8]) {
    let whole = frames(bytes, bytes.len());
    assert_eq!(whole, frames(bytes, 7), "it matters how the bytes come");
    if let Ok(value) = Bytewise::read(bytes) {
        let written = value.write();
        let again = Bytewise::read(&written).expect("what was written can be read");
        assert!(*again.write() == *written, "a value changed when it was read again");
    }
    if let Ok(user) = nethsm::read_user(bytes) {
        nethsm::read_user(&nethsm::write_user(&user)).expect("what was written can be read");
    }
    if let Ok(key) = nethsm::read_key(bytes, [0; 16]) {
        let written = nethsm::write_key(&key.record, key.certificate.as_deref(), key.operations);
        let again = nethsm::read_key(&written.expect("a key that was read can be written"), [0; 16]);
        assert!(again.expect("what was written can be read").certificate == key.certificate);
    }
    let _ = (nethsm::read_namespace(bytes), nethsm::read_chain(bytes), nethsm::read_seconds(bytes));
    for version in [Format::V0, Format::V1] {
        if let Ok(network) = nethsm::read_network(version, bytes) {
            assert_eq!(nethsm::read_network(Format::V1, &nethsm::write_network(&network)), Ok(network));
        }
        if let Ok(logging) = nethsm::read_logging(version, bytes) {
            assert_eq!(nethsm::read_logging(Format::V1, &nethsm::write_logging(&logging)), Ok(logging));
        }
        if let Ok(path) = std::str::from_utf8(bytes) {
            let _ = nethsm::EntryPath::of(version, path);
        }
    }
}

/// The frames of a file that arrives in pieces of `size` bytes, or why it is not a backup.
fn frames(bytes: &[u8], size: usize) -> Result<Vec<Frame>, String> {
    let (mut parser, mut frames) = (Parser::default(), Vec::new());
    for piece in bytes.chunks(size.max(1)) {
        parser.feed(piece);
        while let Some(frame) = parser.frame().map_err(|why| why.to_string())? {
            frames.push(frame);
        }
    }
    parser.finish();
    while let Some(frame) = parser.frame().map_err(|why| why.to_string())? {
        frames.push(frame);
    }
    Ok(frames)
}

/// Request bodies: every type accepts or refuses, and strict JSON keeps its meaning.
pub fn json(bytes: &[u8]) {
    fn read<T: serde::de::DeserializeOwned>(bytes: &[u8]) {
        if let Err(error) = json::parse::<T>(bytes) {
            // The message goes into a reply: it must be one line, and must not repeat the client's text.
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
    if let Ok(strict) = serde_json::from_slice::<serde_json::Value>(bytes)
        && !strict.is_array()
    {
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

/// Accepted key material can be stored, and is the same when read again.
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
    // Decoding must not create separators: the router relies on the number of segments.
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

/// Bodies of configuration: an accepted one is serialised, and accepted again unchanged.
pub fn configuration(bytes: &[u8]) {
    fn shown_again<T: serde::Serialize + serde::de::DeserializeOwned + PartialEq>(bytes: &[u8]) {
        let Ok(first) = json::parse::<T>(bytes) else { return };
        let shown = serde_json::to_vec(&first).expect("a body can be shown");
        let again = json::parse::<T>(&shown).unwrap_or_else(|why| panic!("{why}"));
        assert!(first == again, "{}", String::from_utf8_lossy(&shown));
    }
    shown_again::<config::Network>(bytes);
    shown_again::<config::Logging>(bytes);
    shown_again::<config::Ntp>(bytes);
    if let Ok(config::Time { time }) = json::parse(bytes)
        && let Ok(time) = casemate_core::config::parse_time(&time)
    {
        let shown = casemate_core::config::time_text(time);
        assert_eq!(
            casemate_core::config::parse_time(&shown).expect("a time that was shown").as_second(),
            time.as_second()
        );
    }
    let _ = json::parse::<config::GenerateTlsKey>(bytes);
}

/// Certificate chains: PEM, DER, paths and signatures.
pub fn chain(bytes: &[u8]) {
    let Ok(chain) = casemate_core::config::parse_chain(bytes) else { return };
    assert!(!chain.is_empty());
    let now = casemate_core::config::parse_time("2030-01-01T00:00:00Z").expect("a time");
    let _ = casemate_core::config::check_chain(&chain, now);
}

/// Request headers: credentials, accepted types, content types.
pub fn headers(bytes: &[u8]) {
    if let Some(basic) = negotiate::Basic::parse(bytes) {
        assert!(!basic.name().contains(':'), "the first colon ends the name");
        assert!(basic.name().len() + basic.expose_passphrase().len() < bytes.len());
    }
    negotiate::accepts_identity([bytes]);
    for offered in ["application/json", "application/x-pem-file", "application/octet-stream"] {
        // Repeating a line must not change the result.
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
    let account = Budget::new(1 << 30).account([192, 0, 2, 1].into());
    let Ok(grant) = account.grant(0) else { return };
    let Ok(body) = at_once(body::read(stream, LIMIT, &grant, &Stopped)) else { return };
    if let Ok(parts) = import::import_parts(content_type, body.into_body()) {
        assert!(parts.arguments.len() + parts.key_file.len() <= content.len());
    }
}

/// An update image, after a byte that determines the pieces in which it arrives.
pub fn update(bytes: &[u8]) {
    let Some((piece, image)) = bytes.split_first() else { return };
    let key = UpdateKey::from_pem(include_bytes!("update-key.pem")).expect("a key");
    let read = |piece: usize| {
        let mut intake = Intake::default();
        let mut out = Vec::new();
        for piece in image.chunks(piece) {
            out.extend(intake.feed(piece).ok()?);
        }
        let release = intake.finish(&key, Version { major: 0, minor: 0 }).ok()?;
        Some((release, out))
    };
    let whole = read(image.len().max(1));
    assert_eq!(read(usize::from(*piece) + 1), whole, "the pieces make a difference");
    if let Some((_, out)) = whole {
        assert!(out.len() % 512 == 0 && image.ends_with(&out));
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

/// A clock that stands still, so that nothing is late.
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

/// The data file of an etcd: whatever is in it, reading it ends, and rows come in order.
pub fn data_file(bytes: &[u8]) {
    let path = std::env::temp_dir().join(format!("casemate-fuzz-{}", std::process::id()));
    std::fs::write(&path, bytes).expect("the temporary folder can be written");
    let read = || -> Result<(), FileError> {
        let file = DataFile::open(&path)?;
        let mut last = Vec::new();
        for row in file.rows(b"k") {
            let key = row?.key.to_vec();
            assert!(key.starts_with(b"k") && key > last, "rows are out of order");
            last = key;
        }
        let (summary, count) = (file.summary()?, file.count(b"")?);
        assert!(count <= summary.total_key && summary.total_size_bytes <= bytes.len() as u64, "{summary:?}");
        file.facts()?;
        file.members()?;
        file.members_removed().map(drop)
    };
    match read() {
        Ok(()) | Err(FileError::Damaged { .. }) => {}
        Err(error) => panic!("{error}"),
    }
    let _ = std::fs::remove_file(&path);
}

/// The log of an etcd: nothing is written to a damaged one, and once what was there in part is gone, nothing is left to do.
pub fn log_file(bytes: &[u8]) {
    let folder = std::env::temp_dir().join(format!("casemate-fuzz-log-{}", std::process::id()));
    let path = folder.join("0000000000000000-0000000000000000.wal");
    std::fs::create_dir_all(&folder).expect("the temporary folder can be written");
    std::fs::write(&path, bytes).expect("the temporary folder can be written");
    let content = || std::fs::read(&path).expect("the file can be read");
    match commit_all(&folder) {
        Ok(first) => {
            let written = content();
            assert!(written.len() >= bytes.len() && first.after >= first.before, "{first:?}");
            assert!((first.after > first.before) != (written == bytes), "{first:?}: something else was written");
            let again = commit_all(&folder).expect("what was written can be read");
            assert_eq!((again.before, again.after), (first.after, first.after), "entries were left over");
            assert!(content() == written, "the log was changed again");
        }
        Err(FileError::Damaged { .. }) => assert!(content() == bytes, "a damaged log was changed"),
        Err(error) => panic!("{error}"),
    }
    let _ = std::fs::remove_dir_all(&folder);
}
