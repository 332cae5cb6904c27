//! A key of the server, as the module knows it: what never changes, its names, and its certificate once it was asked for.

use std::sync::{Arc, Mutex, PoisonError, RwLock};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use casemate_api::body::keys::{Key, KeyDetails, PublicParts};
use casemate_api::{KeyId, KeyType, Mechanism};
use cryptoki_sys::{CK_MECHANISM_TYPE, CK_OBJECT_HANDLE, CK_SESSION_HANDLE, CKR_FUNCTION_FAILED};

use super::PublicKey;
use super::certificate::Certificate;
use super::local::trimmed;
use crate::ec;
use crate::rv::Rv;

/// A key of the server. Its private or secret, public and certificate object share it, so that what one of them is told
/// the others know.
pub(super) struct TokenKey {
    /// What the server tells it apart by, whatever its id is; a NetHSM does not.
    pub(super) uid: Option<u128>,
    pub(super) key_type: KeyType,
    pub(super) public: Option<PublicKey>,
    pub(super) mechanisms: Vec<Mechanism>,
    /// How this module has generated it; none: it has not.
    pub(super) generated_by: Option<CK_MECHANISM_TYPE>,
    /// The length of a secret key, if this module has created it: servers do not tell.
    pub(super) value_bytes: Option<usize>,
    name: RwLock<Name>,
    status: Mutex<Status>,
}

/// The names of a key.
#[derive(Clone)]
pub(super) struct Name {
    pub(super) id: KeyId,
    /// Empty: none.
    pub(super) label: String,
}

/// What is known of a key apart from the key.
#[derive(Clone, Default)]
pub(super) struct Status {
    pub(super) certificate: KnownCertificate,
    /// The handles that searches return for it.
    pub(super) handles: Handles,
    /// The application has deleted the public object. The key keeps its public half, so that others still find it.
    pub(super) public_deleted: bool,
    /// The key is gone.
    pub(super) deleted: bool,
    /// When it became known, or was last changed by this module: the time of [`super::State::now`].
    pub(super) changed: u64,
    /// It is known by its old and its new id, since nobody knows which of them the server answers to.
    pub(super) renaming: bool,
    /// The session that the key ends with.
    pub(super) session: Option<CK_SESSION_HANDLE>,
}

/// The handles of a key's objects.
#[derive(Clone, Copy, Default)]
pub(super) struct Handles {
    pub(super) private: Option<CK_OBJECT_HANDLE>,
    pub(super) public: Option<CK_OBJECT_HANDLE>,
    pub(super) certificate: Option<CK_OBJECT_HANDLE>,
}

/// What is known of a certificate.
#[derive(Clone, Default)]
pub(super) enum KnownCertificate {
    /// It was not asked for.
    #[default]
    Unknown,
    /// There was none, or one that is not X.509.
    None,
    /// This one.
    Some(Arc<Certificate>),
}

/// How a key came to be, as far as this module knows.
#[derive(Clone, Copy, Default)]
pub(super) struct Origin {
    pub(super) generated_by: Option<CK_MECHANISM_TYPE>,
    pub(super) value_bytes: Option<usize>,
    pub(super) session: Option<CK_SESSION_HANDLE>,
}

impl TokenKey {
    /// The key as the server describes it. `CKR_FUNCTION_FAILED` if it describes no key.
    pub(super) fn new(id: KeyId, key: Key, origin: Origin) -> Result<Self, Rv> {
        let public = key.public.as_ref().map(|parts| public_key(key.key_type, parts)).transpose()?;
        Ok(Self {
            uid: u128::from_str_radix(&key.uid, 16).ok(),
            key_type: key.key_type,
            public,
            mechanisms: key.mechanisms,
            generated_by: origin.generated_by,
            value_bytes: origin.value_bytes,
            name: RwLock::new(Name { id, label: key.label }),
            status: Mutex::new(Status { session: origin.session, ..Status::default() }),
        })
    }

    /// The key as a list describes it. `None`: it describes no key.
    pub(super) fn described(details: KeyDetails) -> Option<Self> {
        let KeyDetails { id, uid, mechanisms, key_type, public, restrictions, label, certificate: _ } = details;
        let key = Key { mechanisms, key_type, operations: 0, public, restrictions, label, uid };
        Self::new(KeyId::parse(&id).ok()?, key, Origin::default()).ok()
    }

    /// Whether the server's description, read again, is that of the same key. The names may differ.
    pub(super) fn is(&self, other: &Self) -> bool {
        match (self.uid, other.uid) {
            (Some(uid), Some(other)) => uid == other,
            _ => self.key_type == other.key_type && self.public == other.public && self.mechanisms == other.mechanisms,
        }
    }

    /// The uid as the server writes it.
    pub(super) fn uid_text(&self) -> Option<String> {
        self.uid.map(|uid| format!("{uid:032x}"))
    }

    pub(super) fn name(&self) -> Name {
        self.name.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn change_name(&self, change: impl FnOnce(&mut Name)) {
        change(&mut self.name.write().unwrap_or_else(PoisonError::into_inner));
    }

    /// Reads or changes what is known of the key. Nothing may wait inside.
    pub(super) fn status<T>(&self, look: impl FnOnce(&mut Status) -> T) -> T {
        look(&mut self.status.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether what is known of it is as of a request that had `begun` then: no thread has changed it since, or is about to rename it.
    pub(super) fn is_as_of(&self, begun: u64) -> bool {
        self.status(|status| !status.renaming && status.changed <= begun)
    }

    /// The certificate, if it is known.
    pub(super) fn certificate(&self) -> Option<Arc<Certificate>> {
        self.status(|status| match &status.certificate {
            KnownCertificate::Some(certificate) => Some(Arc::clone(certificate)),
            KnownCertificate::Unknown | KnownCertificate::None => None,
        })
    }
}

fn public_key(key_type: KeyType, parts: &PublicParts) -> Result<PublicKey, Rv> {
    let bytes = |text: &str| BASE64_STANDARD.decode(text).map_err(|_| Rv(CKR_FUNCTION_FAILED));
    let nonsense = Rv(CKR_FUNCTION_FAILED);
    Ok(match (key_type, parts) {
        (KeyType::RSA, PublicParts::Rsa { modulus, public_exponent }) => {
            let (modulus, exponent) = (trimmed(&bytes(modulus)?).to_vec(), trimmed(&bytes(public_exponent)?).to_vec());
            PublicKey::Rsa { modulus, exponent }
        }
        (KeyType::Curve25519, PublicParts::Data { data }) => {
            PublicKey::Ed25519(ec::point(key_type, &bytes(data)?).ok_or(nonsense)?)
        }
        (curve, PublicParts::Data { data }) => {
            PublicKey::Ec { curve, point: ec::point(curve, &bytes(data)?).ok_or(nonsense)? }
        }
        (_, PublicParts::Rsa { .. }) => return Err(nonsense),
    })
}
