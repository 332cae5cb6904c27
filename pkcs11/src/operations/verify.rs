//! `C_Verify…`: in the module, with the public key.

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P256K1_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ECDSA_P521_SHA512_FIXED, ED25519,
    EcdsaVerificationAlgorithm, UnparsedPublicKey,
};
use aws_lc_rs::{digest as lc, hmac};
use casemate_api::KeyType;
use casemate_api::mechanisms::{Hash, MechanismSpec};
use cryptoki_sys::*;
use zeroize::Zeroizing;

use super::mechanisms::{Purpose, resolve};
use super::rsa::Public;
use super::sign::{Shape, hmac_key};
use super::{Input, Mechanism, Parts, digest};
use crate::objects::{Object, PublicKey};
use crate::rv::Rv;

/// A signature that is being verified.
pub(crate) struct Verify {
    with: With,
    input: Input,
    parts: Parts,
    length: usize,
    /// The signature, if it was given first (`C_VerifySignatureInit`).
    pub(crate) signature: Option<Vec<u8>>,
}

enum With {
    Hmac(Box<hmac::Key>),
    Public { key: PublicKey, shape: Shape, hash: Option<Hash> },
}

impl Verify {
    pub(crate) fn new(key: &Object, mechanism: &Mechanism) -> Result<Self, Rv> {
        let hmac = hmac_key(key, mechanism)?;
        if hmac.is_none() && key.class() != CKO_PUBLIC_KEY {
            return Err(Rv(CKR_KEY_TYPE_INCONSISTENT));
        }
        if !key.is(CKA_VERIFY) {
            return Err(Rv(CKR_KEY_FUNCTION_NOT_PERMITTED));
        }
        let (parts, signature) = (Parts::None, None);
        if let Some(hmac) = hmac {
            let length = hmac.algorithm().digest_algorithm().output_len();
            return Ok(Self { with: With::Hmac(hmac), input: Input::new(None), parts, length, signature });
        }
        let (Some(public), Some(key_type)) = (key.public_key(), key.key_type()) else {
            return Err(Rv(CKR_KEY_TYPE_INCONSISTENT));
        };
        let resolved = resolve(key_type, mechanism, Purpose::Sign)?;
        let hash = resolved.row.hash;
        if !verifies(resolved.row) {
            return Err(Rv(CKR_MECHANISM_INVALID));
        }
        let shape = Shape::of(&resolved, public)?;
        let input = Input::new(resolved.hashed_by.and_then(digest::algorithm));
        let length = shape.signature_bytes(public);
        Ok(Self { with: With::Public { key: public.clone(), shape, hash }, input, parts, length, signature })
    }

    pub(crate) fn update(&mut self, part: &[u8]) -> Result<(), Rv> {
        self.parts = Parts::Some;
        self.input.add(part)
    }

    pub(crate) fn all(mut self, data: &[u8], signature: &[u8]) -> Result<(), Rv> {
        if self.parts == Parts::Some {
            return Err(Rv(CKR_OPERATION_ACTIVE));
        }
        self.input.add(data)?;
        self.finish(signature)
    }

    pub(crate) fn finish(self, signature: &[u8]) -> Result<(), Rv> {
        if signature.len() != self.length {
            return Err(Rv(CKR_SIGNATURE_LEN_RANGE));
        }
        let input = self.input.finish();
        match &self.with {
            With::Hmac(key) => hmac::verify(key, &input, signature).map_err(|_| Rv(CKR_SIGNATURE_INVALID)),
            With::Public { key, shape, hash } => verify(key, *hash, *shape, input, signature),
        }
    }
}

fn verify(
    key: &PublicKey,
    hash: Option<Hash>,
    shape: Shape,
    input: Zeroizing<Vec<u8>>,
    signature: &[u8],
) -> Result<(), Rv> {
    let message = shape.shaped(input)?;
    let valid = match (key, hash) {
        (PublicKey::Rsa { modulus, exponent }, Some(hash)) => {
            let public = Public { modulus, exponent };
            public.verify_pss(hash, &message, signature).ok_or(Rv(CKR_KEY_SIZE_RANGE))?
        }
        (PublicKey::Rsa { modulus, exponent }, None) => {
            let public = Public { modulus, exponent };
            match shape {
                Shape::Modulus(_) => public.apply(signature).as_deref() == Some(message.as_slice()),
                _ => public.verify_pkcs1(&message, signature),
            }
        }
        (PublicKey::Ec { curve, point }, _) => {
            let (algorithm, digest) = ecdsa(*curve).ok_or(Rv(CKR_MECHANISM_INVALID))?;
            // Only the length of a digest matters here: by which function it was made is the application's business.
            let digest = lc::Digest::import_less_safe(&message, digest).map_err(|_| Rv(CKR_DATA_LEN_RANGE))?;
            UnparsedPublicKey::new(algorithm, point).verify_digest(&digest, signature).is_ok()
        }
        (PublicKey::Ed25519(key), _) => UnparsedPublicKey::new(&ED25519, key).verify(&message, signature).is_ok(),
    };
    if valid { Ok(()) } else { Err(Rv(CKR_SIGNATURE_INVALID)) }
}

/// Whether signatures by this row of the table are verified here.
pub(crate) fn verifies(row: &MechanismSpec) -> bool {
    match row.key {
        KeyType::RSA | KeyType::Curve25519 => true,
        curve => ecdsa(curve).is_some(),
    }
}

/// How signatures on this curve are verified, and a digest as long as the server takes it. Nothing here knows Brainpool.
fn ecdsa(curve: KeyType) -> Option<(&'static EcdsaVerificationAlgorithm, &'static lc::Algorithm)> {
    match curve {
        KeyType::EC_P256 => Some((&ECDSA_P256_SHA256_FIXED, &lc::SHA256)),
        KeyType::EC_P256K1 => Some((&ECDSA_P256K1_SHA256_FIXED, &lc::SHA256)),
        KeyType::EC_P384 => Some((&ECDSA_P384_SHA384_FIXED, &lc::SHA384)),
        KeyType::EC_P521 => Some((&ECDSA_P521_SHA512_FIXED, &lc::SHA512)),
        KeyType::BrainpoolP256
        | KeyType::BrainpoolP384
        | KeyType::BrainpoolP512
        | KeyType::RSA
        | KeyType::Curve25519
        | KeyType::Generic => None,
    }
}
