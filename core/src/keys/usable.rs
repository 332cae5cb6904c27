//! The way to a private key: a found [`Key`], then the tags of its restriction, then its list of mechanisms. Each step
//! is a type that only the step before it makes, so that a forgotten check does not compile.

use std::sync::Arc;

use casemate_api::KeyId;
use casemate_api::body::keys as body;
use casemate_api::body::keys::{PublicParts, Restrictions};
use casemate_api::limits::BODY_SMALL_BYTES;
use casemate_api::mechanisms::{self, Cost, Mode};
use zeroize::Zeroizing;

use base64ct::{Base64, Encoding};

use crate::caller::Caller;
use crate::error::Error;
use crate::keys::record::KeyRecord;
use crate::mech::{self, Public};
use crate::party::Party;
use crate::path::{KeyRef, NamespaceNumber};
use crate::phase::Operational;
use crate::platform::Work;
use crate::table::Row;
use crate::x509;

/// A key that exists and that the caller's scope can see.
pub struct Key {
    /// Its id.
    pub id: KeyId,
    pub(crate) namespace: NamespaceNumber,
    pub(crate) row: Arc<Row<KeyRecord>>,
}

/// A key whose restriction the caller meets.
pub struct UsableKey {
    key: KeyRef,
    row: Arc<Row<KeyRecord>>,
}

/// Leave to perform one mode with one key.
pub struct Permit {
    key: KeyRef,
    row: Arc<Row<KeyRecord>>,
    mode: Mode,
}

impl Key {
    /// Checks the restriction: without tags every Operator may use the key, else one with a common tag.
    pub fn usable_by(&self, caller: &Caller) -> Result<UsableKey, Error> {
        if caller.has_one_of(&self.row.record.tags) {
            Ok(UsableKey { key: self.key(), row: self.row.clone() })
        } else {
            Err(Error::Forbidden(Some("tags restriction not met".into())))
        }
    }

    pub(crate) fn key(&self) -> KeyRef {
        KeyRef { namespace: self.namespace, uid: self.row.record.uid }
    }

    /// The label; empty: none.
    pub fn label(&self) -> &str {
        &self.row.record.label
    }

    /// The tags of its restriction, sorted.
    pub fn tags(&self) -> &[String] {
        &self.row.record.tags
    }

    /// What `GET /keys/{id}` says.
    pub async fn describe(&self, op: &Operational) -> Result<body::Key, Error> {
        let record = &self.row.record;
        Ok(body::Key {
            mechanisms: record.mechanisms.list(),
            key_type: record.key_type(),
            operations: op.operations(self.key()).await?,
            public: public_parts(record.live()?.public()),
            restrictions: Restrictions { tags: record.tags.clone() },
            label: record.label.clone(),
        })
    }

    /// The public key as PEM (RFC 7468 §13).
    pub fn public_pem(&self) -> Result<String, Error> {
        let pem = self.row.record.live()?.public().spki_pem();
        pem.ok_or_else(|| Error::invalid("Generic keys have no public key"))
    }

    /// A certificate signing request (RFC 2986). It is no use of the key: neither mechanisms nor tags are asked, and it is
    /// not counted. Runs on the pool, for the largest RSA keys take their time.
    pub async fn csr(&self, op: &Operational, subject: body::DistinguishedName) -> Result<String, Error> {
        if subject.common_name.is_empty() {
            return Err(Error::invalid("JSON field commonName is empty."));
        }
        let row = self.row.clone();
        let party = Party::Namespace(self.namespace);
        op.off_thread(Work::Crypto, party, move || x509::csr_pem(row.record.live()?, &subject)).await?
    }
}

impl UsableKey {
    /// Asks the key's own list of mechanisms.
    pub fn permit(&self, mode: Mode) -> Result<Permit, Error> {
        if !self.row.record.mechanisms.contains(mechanisms::of_mode(mode)) {
            let what = match mode {
                Mode::Sign(_) => "signing",
                Mode::Decrypt(_) => "decryption",
                Mode::Encrypt(_) => "encryption",
            };
            return Err(Error::invalid(format!("Key mechanisms do not allow requested {what}.")));
        }
        Ok(Permit { key: self.key, row: self.row.clone(), mode })
    }
}

impl Permit {
    /// Performs the operation, on this thread or on the pool as the mechanism table says, and counts it if it succeeds.
    pub async fn run(
        self,
        op: &Operational,
        input: Zeroizing<Vec<u8>>,
        iv: Option<Vec<u8>>,
    ) -> Result<Zeroizing<Vec<u8>>, Error> {
        op.retired.check()?;
        let Permit { key, row, mode } = self;
        let output = if input.len() <= BODY_SMALL_BYTES && is_short(&row.record, mode)? {
            mech::run(row.record.live()?, mode, &input, iv.as_deref())?
        } else {
            let job = move || mech::run(row.record.live()?, mode, &input, iv.as_deref());
            op.off_thread(Work::Crypto, Party::Namespace(key.namespace), job).await??
        };
        op.counters.count(key);
        Ok(output)
    }
}

/// Whether the operation is short enough for the thread that serves requests.
fn is_short(record: &KeyRecord, mode: Mode) -> Result<bool, Error> {
    let Some(row) = mechanisms::find(record.key_type(), mode) else {
        // Answered with an error, which is quick.
        return Ok(true);
    };
    Ok(match row.cost {
        Cost::Inline => true,
        Cost::InlineTo(bits) => record.live()?.modulus_bits() <= bits,
    })
}

fn public_parts(public: Public) -> Option<PublicParts> {
    let text = Base64::encode_string;
    match public {
        Public::Rsa { n, e } => Some(PublicParts::Rsa { modulus: text(&n), public_exponent: text(&e) }),
        Public::Ec { point, .. } => Some(PublicParts::Data { data: text(&point) }),
        Public::Ed25519(point) => Some(PublicParts::Data { data: text(&point) }),
        Public::None => None,
    }
}
