//! secp256k1 (SEC 2) by the crate k256: AWS-LC is slow at its ECDSA and does not have BIP-340.
//!
//! ECDSA takes its nonce from RFC 6979 with 32 fresh random bytes mixed in (its §3.6), so signatures differ from call
//! to call and a weak random source still reveals nothing. k256 normalises s to the lower half, which every verifier
//! accepts.

use aws_lc_rs::rand;
use ecdsa::hazmat;
use k256::elliptic_curve::sec1::ToSec1Point;
use k256::{NonZeroScalar, Secp256k1, SecretKey, schnorr};
use zeroize::Zeroizing;

use super::error::{MechError, Output};
use crate::Error;

/// A secp256k1 key ready to use.
pub(super) struct Secp256k1PrivateKey {
    scalar: NonZeroScalar,
    /// The same key, negated if needed, so that its public point has an even Y, as BIP-340 requires.
    even: schnorr::SigningKey,
}

impl Secp256k1PrivateKey {
    pub(super) fn load(scalar: &[u8]) -> Result<Self, MechError> {
        let secret = SecretKey::from_slice(scalar).map_err(|_| MechError("a secp256k1 scalar is out of range"))?;
        let scalar = secret.to_nonzero_scalar();
        Ok(Self { even: schnorr::SigningKey::from(scalar), scalar })
    }

    /// The public point, uncompressed.
    pub(super) fn public_point(&self) -> Vec<u8> {
        k256::PublicKey::from_secret_scalar(&self.scalar).to_sec1_point(false).as_bytes().to_vec()
    }
}

impl Drop for Secp256k1PrivateKey {
    fn drop(&mut self) {
        use zeroize::Zeroize;
        self.scalar.zeroize(); // `even` does it itself
    }
}

fn random_32() -> Result<Zeroizing<[u8; 32]>, MechError> {
    let mut bytes = Zeroizing::new([0; 32]);
    rand::fill(bytes.as_mut_slice()).map_err(|_| MechError("AWS-LC has no random bytes"))?;
    Ok(bytes)
}

/// ECDSA of a 32-byte digest, as DER.
pub(super) fn sign_ecdsa(key: &Secp256k1PrivateKey, digest: &[u8]) -> Result<Output, Error> {
    let extra = random_32()?;
    let (signature, _) =
        hazmat::sign_prehashed_rfc6979::<Secp256k1, k256::sha2::Sha256>(&key.scalar, digest, extra.as_slice());
    Ok(Zeroizing::new(signature.to_der().as_bytes().to_vec()))
}

/// BIP-340 of a message of any length, with random auxiliary data.
pub(super) fn sign_bip340(key: &Secp256k1PrivateKey, message: &[u8]) -> Result<Output, Error> {
    sign_bip340_with(key, message, &*random_32()?)
}

pub(super) fn sign_bip340_with(key: &Secp256k1PrivateKey, message: &[u8], aux: &[u8; 32]) -> Result<Output, Error> {
    let signature = key.even.sign_raw(message, aux).map_err(|_| MechError("k256 made no BIP-340 signature"))?;
    Ok(Zeroizing::new(signature.to_bytes().to_vec()))
}
