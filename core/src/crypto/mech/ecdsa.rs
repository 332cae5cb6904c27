//! ECDSA (FIPS 186-5) with random nonces, by AWS-LC, on all curves except secp256k1. Signatures are DER and not
//! normalised to low s.

use casemate_api::KeyType;
use zeroize::Zeroizing;

use super::error::{MechError, Output};
use super::ffi::{Curve, EcKey};
use crate::Error;

/// An EC key ready to use.
pub(super) struct EcPrivateKey {
    key_type: KeyType,
    key: EcKey,
    point: Vec<u8>,
}

impl EcPrivateKey {
    /// `key_type` must be the type that belongs to `curve`; it is only stored.
    pub(super) fn load(key_type: KeyType, curve: Curve, scalar: &[u8]) -> Result<Self, MechError> {
        let refused = |_| MechError("AWS-LC refuses an EC key");
        let key = EcKey::new(curve, scalar).map_err(refused)?;
        Ok(Self { key_type, point: key.public_point().map_err(refused)?, key })
    }

    pub(super) fn key_type(&self) -> KeyType {
        self.key_type
    }

    /// The public point, uncompressed.
    pub(super) fn public_point(&self) -> &[u8] {
        &self.point
    }
}

/// Whether `signature` (DER) is a valid signature of `digest` by `key`.
pub(super) fn verifies(key: &EcPrivateKey, digest: &[u8], signature: &[u8]) -> bool {
    key.key.verifies(digest, signature)
}

/// Signs a digest of the length that the mechanism table states.
pub(super) fn sign(key: &EcPrivateKey, digest: &[u8]) -> Result<Output, Error> {
    let signature = key.key.sign(digest).map_err(|_| MechError("AWS-LC made no ECDSA signature"))?;
    Ok(Zeroizing::new(signature))
}
