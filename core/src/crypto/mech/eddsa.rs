//! Ed25519 (RFC 8032, the pure variant) by aws-lc-rs. Deterministic.

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use zeroize::Zeroizing;

use super::error::{MechError, Output};
use crate::Error;
use crate::crypto::secret::Seed;

/// An Ed25519 key ready to use.
pub(super) struct Ed25519PrivateKey {
    pair: Ed25519KeyPair,
    public: [u8; 32],
}

impl Ed25519PrivateKey {
    pub(super) fn load(seed: &Seed) -> Result<Self, MechError> {
        let refused = MechError("AWS-LC refuses an Ed25519 seed");
        // "Unchecked" means only that there is no public key to compare with.
        let pair = Ed25519KeyPair::from_seed_unchecked(seed.expose()).map_err(|_| refused)?;
        let public = pair.public_key().as_ref().try_into().map_err(|_| refused)?;
        Ok(Self { pair, public })
    }

    /// The public key (RFC 8032 §5.1.5).
    pub(super) fn public(&self) -> &[u8; 32] {
        &self.public
    }
}

/// Signs a message of any length.
pub(super) fn sign(key: &Ed25519PrivateKey, message: &[u8]) -> Result<Output, Error> {
    let signature = key.pair.try_sign(message).map_err(|_| MechError("AWS-LC made no Ed25519 signature"))?;
    Ok(Zeroizing::new(signature.as_ref().to_vec()))
}
