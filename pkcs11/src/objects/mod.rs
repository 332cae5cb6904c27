//! The objects of one slot: keys of the server as private, public and certificate objects, and session objects.

mod template;

use std::sync::Arc;

use casemate_api::{KeyId, KeyType, Mechanism};
use casemate_client::Session;
use cryptoki_sys::{
    CK_ATTRIBUTE_TYPE, CK_MECHANISM_TYPE, CK_OBJECT_CLASS, CK_OBJECT_HANDLE, CK_SESSION_HANDLE, CK_ULONG,
    CKR_FUNCTION_NOT_SUPPORTED,
};

use crate::config::CertificateFormat;
use crate::rv::Rv;

pub use template::Template;

/// Sessions with the server that the state of the login permits.
#[derive(Clone, Copy)]
pub struct Access<'a> {
    /// For the use of keys.
    pub operator: Option<&'a Session>,
    /// For their management.
    pub administrator: Option<&'a Session>,
}

/// Why an attribute has no value to show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttributeError {
    /// The value never leaves the HSM: `CKR_ATTRIBUTE_SENSITIVE`.
    Sensitive,
    /// The object has no such attribute: `CKR_ATTRIBUTE_TYPE_INVALID`.
    Unknown,
    /// It could not be read.
    Rv(Rv),
}

/// A public key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PublicKey {
    /// RSA: big-endian integers without leading zeros.
    Rsa {
        /// The modulus.
        modulus: Vec<u8>,
        /// The public exponent.
        exponent: Vec<u8>,
    },
    /// ECDSA: the uncompressed point on the curve of this key type.
    Ec {
        /// The curve.
        curve: KeyType,
        /// `04`, x, y.
        point: Vec<u8>,
    },
    /// Ed25519: 32 bytes.
    Ed25519(Vec<u8>),
}

/// One object, as it was when it was asked for.
pub struct Object {}

impl Object {
    /// `CKO_*`
    pub fn class(&self) -> CK_OBJECT_CLASS {
        0
    }

    /// The id of its key on the server; none: it is an object of the module.
    pub fn key_id(&self) -> Option<KeyId> {
        None
    }

    /// The type of the key; none: it is not a key, or of no type that servers have.
    pub fn key_type(&self) -> Option<KeyType> {
        None
    }

    /// What the server lets the key do.
    pub fn mechanisms(&self) -> &[Mechanism] {
        &[]
    }

    /// The public key, or that of the private key.
    pub fn public_key(&self) -> Option<&PublicKey> {
        None
    }

    /// The value of a secret key that is an object of the module.
    pub fn secret(&self) -> Option<&[u8]> {
        None
    }

    /// The value of a boolean attribute, such as `CKA_SIGN`; one that the object does not have is false.
    pub fn is(&self, _attribute: CK_ATTRIBUTE_TYPE) -> bool {
        false
    }
}

/// The objects of one slot. All its sessions share them.
pub struct Objects {}

impl Objects {
    /// No objects yet: they are read when they are looked for.
    pub fn new(_format: CertificateFormat) -> Self {
        Self {}
    }

    /// The objects that match `template`, private ones only if `private`.
    pub fn find(&self, _: &Access<'_>, _: &Template, _private: bool) -> Result<Vec<CK_OBJECT_HANDLE>, Rv> {
        Err(Rv(CKR_FUNCTION_NOT_SUPPORTED))
    }

    /// The object with this handle, or `CKR_OBJECT_HANDLE_INVALID`.
    pub fn object(&self, _: CK_OBJECT_HANDLE) -> Result<Arc<Object>, Rv> {
        Err(Rv(CKR_FUNCTION_NOT_SUPPORTED))
    }

    /// The value of an attribute.
    pub fn attribute(&self, _: &Access<'_>, _: &Object, _: CK_ATTRIBUTE_TYPE) -> Result<Vec<u8>, AttributeError> {
        Err(AttributeError::Unknown)
    }

    /// `C_GetObjectSize`
    pub fn size(&self, _: &Access<'_>, _: &Object) -> Result<CK_ULONG, Rv> {
        Err(Rv(CKR_FUNCTION_NOT_SUPPORTED))
    }

    /// `C_CreateObject`
    pub fn create(&self, _: &Access<'_>, _: CK_SESSION_HANDLE, _: &Template) -> Result<CK_OBJECT_HANDLE, Rv> {
        Err(Rv(CKR_FUNCTION_NOT_SUPPORTED))
    }

    /// `C_CopyObject`
    pub fn copy(
        &self,
        _: &Access<'_>,
        _: CK_SESSION_HANDLE,
        _: CK_OBJECT_HANDLE,
        _: &Template,
    ) -> Result<CK_OBJECT_HANDLE, Rv> {
        Err(Rv(CKR_FUNCTION_NOT_SUPPORTED))
    }

    /// `C_GenerateKey`
    pub fn generate(
        &self,
        _: &Access<'_>,
        _: CK_SESSION_HANDLE,
        _: CK_MECHANISM_TYPE,
        _: &Template,
    ) -> Result<CK_OBJECT_HANDLE, Rv> {
        Err(Rv(CKR_FUNCTION_NOT_SUPPORTED))
    }

    /// `C_GenerateKeyPair`: the handles of the public and of the private key.
    pub fn generate_pair(
        &self,
        _: &Access<'_>,
        _: CK_SESSION_HANDLE,
        _: CK_MECHANISM_TYPE,
        _public: &Template,
        _private: &Template,
    ) -> Result<(CK_OBJECT_HANDLE, CK_OBJECT_HANDLE), Rv> {
        Err(Rv(CKR_FUNCTION_NOT_SUPPORTED))
    }

    /// `C_SetAttributeValue`
    pub fn set(&self, _: &Access<'_>, _: CK_OBJECT_HANDLE, _: &Template) -> Result<(), Rv> {
        Err(Rv(CKR_FUNCTION_NOT_SUPPORTED))
    }

    /// `C_DestroyObject`
    pub fn destroy(&self, _: &Access<'_>, _: CK_OBJECT_HANDLE) -> Result<(), Rv> {
        Err(Rv(CKR_FUNCTION_NOT_SUPPORTED))
    }

    /// Ends the session objects of `session`. Access is that before the session was closed: a private key of a session
    /// is kept by the server, from which it is deleted here.
    pub fn close_session(&self, _: &Access<'_>, _session: CK_SESSION_HANDLE) {}

    /// Makes the handles of private objects invalid. Access as in [`Objects::close_session`].
    pub fn logout(&self, _: &Access<'_>) {}
}
