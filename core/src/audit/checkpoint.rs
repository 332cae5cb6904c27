//! Checkpoints: signed statements of the HSM about its audit log, and the key that signs them.

use aws_lc_rs::signature::{ED25519, UnparsedPublicKey};
use base16ct::lower::encode_string as hex;
use casemate_api::KeyType;
use casemate_api::mechanisms::Mode;
use casemate_api::words::SignMode;

use super::record::{Hash, Member, encode, line};
use crate::Error;
use crate::crypto::material::Material;
use crate::crypto::mech::{self, LoadedKey};
use crate::crypto::public::{OID_ED25519, Public};
use crate::device::store::{DeviceStore, DeviceStoreChange};
use crate::rows::path::DevicePath;
use crate::runtime::Rng;

/// Whether a checkpoint ends an export.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ends {
    /// It is one of those written into the log as it grew.
    Nothing,
    /// It ends an export. Only such a checkpoint can be the last line of a file.
    Export,
}

impl Ends {
    /// The spelling in a checkpoint.
    pub fn as_str(self) -> &'static str {
        match self {
            Ends::Nothing => "",
            Ends::Export => "export",
        }
    }
}

/// A statement about one record and, through its hash, about all records before it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// Number of the record.
    pub sequence: u64,
    /// The hash of the record.
    pub hash: Hash,
    /// Number of the first record the log holds; earlier ones were pruned.
    pub first: u64,
    /// Number of the last record the log holds.
    pub last: u64,
    /// When it was made: RFC 3339, UTC, milliseconds.
    pub time: String,
    /// The id of the device.
    pub device: String,
    /// Whether it ends an export.
    pub ends: Ends,
}

/// An Ed25519 signature (RFC 8032).
pub type Signature = [u8; 64];
/// An Ed25519 public key (RFC 8032).
pub type PublicKey = [u8; 32];

/// Domain separation from all other signatures.
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

    /// The signed message: a domain separator, then the members, encoded like those of a record.
    pub fn message(&self) -> Vec<u8> {
        [DOMAIN, &encode(&self.members(&hex(&self.hash)))].concat()
    }

    /// The checkpoint as one line of an export.
    pub fn line(&self, signature: &Signature) -> String {
        let (hash, signature) = (hex(&self.hash), hex(signature));
        line(self.members(&hash).into_iter().chain([("signature", Member::Text(&signature))]))
    }

    /// Whether `signature` is valid for this checkpoint under `key`.
    pub fn verify(&self, key: &PublicKey, signature: &Signature) -> bool {
        UnparsedPublicKey::new(&ED25519, key).verify(&self.message(), signature).is_ok()
    }
}

/// The first line of an export: device, key, and the number and hash that the verification starts from.
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

/// Reads a public key in the form of `GET /audit/key.pem`: Ed25519 as SubjectPublicKeyInfo (RFC 8410) in PEM.
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
    loaded: LoadedKey,
    /// The public key.
    pub(super) public: PublicKey,
}

impl AuditKey {
    /// Loads the stored key; generates and stores it at the first boot.
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
        let loaded = LoadedKey::load(&material)?;
        let Public::Ed25519(public) = loaded.public() else { return Err(damaged()) };
        Ok(Self { loaded, public })
    }

    /// Signs a checkpoint.
    pub(super) fn sign(&self, checkpoint: &Checkpoint) -> Result<Signature, Error> {
        let signature = mech::run(&self.loaded, Mode::Sign(SignMode::EdDSA), &checkpoint.message(), None)?;
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
    fn the_public_key_is_read_from_its_pem() {
        let pem = Public::Ed25519([7; 32]).spki_pem().unwrap();
        assert_eq!(public_key_from_pem(&pem), Some([7; 32]));
        assert_eq!(public_key_from_pem(&pem.replace("MCow", "MCox")), None);
        assert_eq!(public_key_from_pem("no PEM"), None);
    }
}
