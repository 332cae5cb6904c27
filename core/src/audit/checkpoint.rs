//! Checkpoints: what the HSM says about its audit log under a signature, and the key it signs with.

use aws_lc_rs::signature::{ED25519, UnparsedPublicKey};
use base16ct::lower::encode_string as hex;
use casemate_api::KeyType;
use casemate_api::mechanisms::Mode;
use casemate_api::words::SignMode;

use super::record::{Hash, Member, encode, line};
use crate::Error;
use crate::crypto::material::Material;
use crate::crypto::mech::{self, Live};
use crate::crypto::public::{OID_ED25519, Public};
use crate::device::store::{DeviceStore, DeviceStoreChange};
use crate::rows::path::DevicePath;
use crate::runtime::Rng;

/// What a checkpoint ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ends {
    /// Nothing: it was written into the log as it grew.
    Nothing,
    /// An export. Only such a one can be the end of a file.
    Export,
}

impl Ends {
    /// As it is written.
    pub fn as_str(self) -> &'static str {
        match self {
            Ends::Nothing => "",
            Ends::Export => "export",
        }
    }
}

/// A statement about one record, and through its hash about all before it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// The record.
    pub sequence: u64,
    /// The hash of the record.
    pub hash: Hash,
    /// The first record the log holds; the ones before were pruned.
    pub first: u64,
    /// The last record the log holds.
    pub last: u64,
    /// When this was said: RFC 3339, UTC, milliseconds.
    pub time: String,
    /// The id of the device.
    pub device: String,
    /// What it ends.
    pub ends: Ends,
}

/// An Ed25519 signature (RFC 8032).
pub type Signature = [u8; 64];
/// An Ed25519 public key (RFC 8032).
pub type PublicKey = [u8; 32];

/// Keeps these signatures apart from all others.
const DOMAIN: &[u8] = b"casemate audit checkpoint v1\0";

impl Checkpoint {
    fn members<'a>(&'a self, hash: &'a str) -> [(&'static str, Member<'a>); 7] {
        use Member::{Number, Text};
        [
            ("checkpoint", Number(self.sequence)),
            ("first", Number(self.first)),
            ("last", Number(self.last)),
            ("time", Text(&self.time)),
            ("device", Text(&self.device)),
            ("ends", Text(self.ends.as_str())),
            ("hash", Text(hash)),
        ]
    }

    /// What is signed: domain separation, then the members, encoded as those of a record are.
    pub fn message(&self) -> Vec<u8> {
        [DOMAIN, &encode(&self.members(&hex(&self.hash)))].concat()
    }

    /// The checkpoint as one line of an export.
    pub fn line(&self, signature: &Signature) -> String {
        let (hash, signature) = (hex(&self.hash), hex(signature));
        line(self.members(&hash).into_iter().chain([("signature", Member::Text(&signature))]))
    }

    /// Whether the holder of `key` said this.
    pub fn verify(&self, key: &PublicKey, signature: &Signature) -> bool {
        UnparsedPublicKey::new(&ED25519, key).verify(&self.message(), signature).is_ok()
    }
}

/// The first line of an export: what is needed to check the others.
pub fn header(device: &str, key: &PublicKey, from: u64, previous: &Hash) -> String {
    use Member::{Number, Text};
    let (key, previous) = (hex(key), hex(previous));
    let members = [
        ("audit", Number(1)),
        ("device", Text(device)),
        ("key", Text(&key)),
        ("from", Number(from)),
        ("previous", Text(&previous)),
    ];
    line(members.into_iter())
}

/// Reads a public key as `GET /audit/key.pem` gives it.
pub fn public_key_from_pem(pem: &str) -> Option<PublicKey> {
    use der::DecodePem;
    let spki = pkcs8::spki::SubjectPublicKeyInfoOwned::from_pem(pem.trim_ascii()).ok()?;
    if spki.algorithm.oid != OID_ED25519 {
        return None;
    }
    spki.subject_public_key.as_bytes()?.try_into().ok()
}

/// The audit key of this device.
pub(super) struct AuditKey {
    live: Live,
    /// Its public part.
    pub(super) public: PublicKey,
}

impl AuditKey {
    /// The stored key; made and stored at the first boot.
    pub(super) async fn load(local: &DeviceStore, rng: &dyn Rng) -> Result<Self, Error> {
        let damaged = || Error::internal("the key of the audit log is damaged");
        let material = match local.get(DevicePath::AuditKey).await? {
            Some(stored) => Material::decode(&stored).ok_or_else(damaged)?,
            None => {
                let material = Material::generate(KeyType::Curve25519, 0, rng)?;
                let mut encoded = zeroize::Zeroizing::new(Vec::with_capacity(64));
                material.encode(&mut encoded);
                local.commit(DeviceStoreChange::default().put(DevicePath::AuditKey, encoded.to_vec())).await?;
                material
            }
        };
        let live = Live::load(&material)?;
        let Public::Ed25519(public) = live.public() else { return Err(damaged()) };
        Ok(Self { live, public })
    }

    /// Signs a checkpoint.
    pub(super) fn sign(&self, checkpoint: &Checkpoint) -> Result<Signature, Error> {
        let signature = mech::run(&self.live, Mode::Sign(SignMode::EdDSA), &checkpoint.message(), None)?;
        signature.as_slice().try_into().map_err(|_| Error::internal("an Ed25519 signature has 64 bytes"))
    }

    /// The public part as PEM (RFC 8410).
    pub(super) fn pem(&self) -> Result<String, Error> {
        Public::Ed25519(self.public).spki_pem().ok_or_else(|| Error::internal("the audit key has no public part"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_message_and_line_of_version_1_do_not_change() {
        let checkpoint = Checkpoint {
            sequence: 42,
            hash: [0x22; 32],
            first: 1,
            last: 50,
            time: "2030-01-02T03:04:05.678Z".into(),
            device: "ABCDEFGHIJ".into(),
            ends: Ends::Export,
        };
        let golden = format!("{}\n{}", hex(&checkpoint.message()), checkpoint.line(&[0x33; 64]));
        assert_eq!(golden, include_str!("../../testdata/formats/audit-checkpoint-v1.txt"));
    }

    #[test]
    fn the_key_comes_back_from_its_pem() {
        let pem = Public::Ed25519([7; 32]).spki_pem().unwrap();
        assert_eq!(public_key_from_pem(&pem), Some([7; 32]));
        assert_eq!(public_key_from_pem(&pem.replace("MCow", "MCox")), None);
        assert_eq!(public_key_from_pem("no PEM"), None);
    }
}
