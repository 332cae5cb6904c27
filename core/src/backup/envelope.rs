//! Head, manifest and seals of a backup file: what its writer and its reader must agree on.

use aws_lc_rs::digest::{Context, SHA256};
use aws_lc_rs::hmac;
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use crate::backup::format::Version;
use crate::crypto::seal;
use crate::crypto::secret::{BackupKey, StoreKey};
use crate::runtime::Rng;

/// The fields in front of the entries.
pub struct Head {
    /// Version of the format.
    pub version: Version,
    /// Salt of the backup passphrase.
    pub salt: [u8; 16],
    /// The Domain Key, sealed under the Unlock Key.
    pub locked_domain_key: Vec<u8>,
    /// Id of the device that the backup is of; empty in V0.
    pub device_id: String,
    /// The key that seals that device's configuration; absent in V0.
    pub config_key: Option<StoreKey>,
    /// Whether the file was written by Casemate and so ends with a manifest.
    pub ours: bool,
}

/// Seals with synthetic nonces: a keyed hash (HMAC-SHA256, 12 bytes) of what is sealed.
pub(super) struct Sealer {
    key: StoreKey,
    nonces: hmac::Key,
}

impl Sealer {
    pub(super) fn new(key: &[u8; 32]) -> Self {
        let nonces = seal::derive(key, &[b"backup nonces"]);
        Self { key: StoreKey::new(*key), nonces: hmac::Key::new(hmac::HMAC_SHA256, nonces.expose()) }
    }

    /// Seals `plain`. `label` must not hold a zero byte, which separates it from the value in the hash.
    pub(super) fn seal(&self, label: &[u8], plain: &[u8]) -> Vec<u8> {
        seal::seal_at(self.key.expose(), self.nonce(label, plain), label, plain)
    }

    /// Whether Casemate sealed it: only Casemate has these nonces.
    pub(super) fn is_ours(&self, label: &[u8], plain: &[u8], sealed: &[u8]) -> bool {
        sealed.starts_with(&self.nonce(label, plain))
    }

    fn nonce(&self, label: &[u8], plain: &[u8]) -> [u8; 12] {
        let mut context = hmac::Context::with_key(&self.nonces);
        for part in [label, &[0], plain] {
            context.update(part);
        }
        let mut nonce = [0; 12];
        nonce.iter_mut().zip(context.sign().as_ref()).for_each(|(to, from)| *to = *from);
        nonce
    }
}

/// Count and hash of everything in a file.
pub struct Manifest {
    count: u64,
    hash: Context,
}

impl Manifest {
    /// A manifest of the head and no entries yet.
    pub fn of(head: &Head) -> Self {
        let mut manifest = Self { count: 0, hash: Context::new(&SHA256) };
        let config: &[u8] = head.config_key.as_ref().map_or(&[], |key| key.expose());
        for field in
            [&[head.version.byte()], &head.salt[..], &head.locked_domain_key, head.device_id.as_bytes(), config]
        {
            manifest.part(field);
        }
        manifest
    }

    /// Adds an entry.
    pub fn add(&mut self, path: &str, value: &[u8]) {
        self.count += 1;
        self.part(path.as_bytes());
        self.part(value);
    }

    /// The value of the entry [`MANIFEST`](crate::backup::nethsm::MANIFEST): version (1 byte), count (8 bytes,
    /// big-endian), SHA-256.
    pub fn finish(self) -> Vec<u8> {
        let mut value = vec![1];
        value.extend_from_slice(&self.count.to_be_bytes());
        value.extend_from_slice(self.hash.finish().as_ref());
        value
    }

    fn part(&mut self, bytes: &[u8]) {
        self.hash.update(&u64::try_from(bytes.len()).unwrap_or(u64::MAX).to_be_bytes());
        self.hash.update(bytes);
    }
}

/// Length of the random half and of the mark, in bytes.
const MARK_BYTES: usize = 16;

/// A fresh key for a device's configuration. Its second half is a mark that shows, to a holder of the Backup Key, that
/// Casemate made it.
pub fn marked_key(key: &BackupKey, rng: &dyn Rng) -> StoreKey {
    let mut bytes = Zeroizing::new([0; 32]);
    let (fresh, mark) = bytes.split_at_mut(MARK_BYTES);
    rng.fill(fresh);
    mark.copy_from_slice(&mark_of(key, fresh));
    StoreKey::new(*bytes)
}

pub(crate) fn is_marked(key: &BackupKey, config: &StoreKey) -> bool {
    let (fresh, mark) = config.expose().split_at(MARK_BYTES);
    mark_of(key, fresh).ct_eq(mark).into()
}

fn mark_of(key: &BackupKey, fresh: &[u8]) -> [u8; MARK_BYTES] {
    let derived = seal::derive(key.expose(), &[b"backup mark"]);
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, derived.expose()), fresh);
    let mut mark = [0; MARK_BYTES];
    mark.iter_mut().zip(tag.as_ref()).for_each(|(to, from)| *to = *from);
    mark
}
