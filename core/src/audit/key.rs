//! The key that signs the checkpoints of this device's audit log.

use casemate_api::KeyType;
use casemate_api::mechanisms::Mode;
use casemate_api::words::SignMode;
use casemate_audit::{Checkpoint, PublicKey, Signature};

use crate::Error;
use crate::crypto::material::Material;
use crate::crypto::mech::{self, LoadedKey};
use crate::crypto::public::Public;
use crate::device::store::{DeviceStore, DeviceStoreChange};
use crate::rows::path::DevicePath;
use crate::runtime::Rng;

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
    use casemate_audit::public_key_from_pem;

    use super::*;

    #[test]
    fn the_pem_of_the_public_key_is_what_a_verifier_reads() {
        let pem = Public::Ed25519([7; 32]).spki_pem().unwrap();
        assert_eq!(public_key_from_pem(&pem), Some([7; 32]));
    }
}
