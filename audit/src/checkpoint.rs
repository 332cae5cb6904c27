//! Checkpoints: signed statements of an HSM about its audit log, and the first line of an export, which has the key that
//! verifies them.

use aws_lc_rs::signature::{ED25519, UnparsedPublicKey};
use base16ct::lower::encode_string as hex;
use rustls_pki_types::SubjectPublicKeyInfoDer;
use rustls_pki_types::pem::PemObject;

use crate::record::{Hash, Member, PLAIN, encode, line};

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
        [DOMAIN, &encode(PLAIN, &self.members(&hex(&self.hash)))].concat()
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
    let spki = SubjectPublicKeyInfoDer::from_pem_slice(pem.as_bytes()).ok()?;
    spki.strip_prefix(&ED25519_SPKI)?.try_into().ok()
}

/// What precedes the 32 bytes of the key (RFC 8410 §4).
const ED25519_SPKI: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];

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
        assert_eq!(golden, include_str!("../../core/testdata/formats/audit-checkpoint-v1.txt"));
    }

    #[test]
    fn the_public_key_is_read_from_its_pem() {
        // The example of RFC 8410 §10.1.
        let pem = "-----BEGIN PUBLIC KEY-----
MCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=
-----END PUBLIC KEY-----
";
        assert_eq!(
            public_key_from_pem(pem).map(|key| hex(&key)).as_deref(),
            Some("19bf44096984cdfe8541bac167dc3b96c85086aa30b6b6cb0c5c38ad703166e1")
        );
        assert_eq!(public_key_from_pem(&pem.replace("MCow", "MCox")), None);
        assert_eq!(public_key_from_pem("no PEM"), None);
    }
}
