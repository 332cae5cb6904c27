//! Key generation.

use casemate_api::KeyType;
use zeroize::Zeroizing;

use super::error::MechError;
use super::{LoadedKey, rsa};
use crate::crypto::material::{Material, scalar_bytes};
use crate::crypto::secret::{Secret, SecretBytes};
use crate::runtime::Rng;

impl Material {
    /// Generates a key. `bits` is the length of the RSA modulus (any from 1024 to 8192) or of a Generic key, rounded up
    /// to whole bytes; other types ignore it. RSA takes from tens of milliseconds (2048 bits) to half a minute (8192
    /// bits) and draws from AWS-LC's own generator instead of `rng`.
    pub fn generate(key_type: KeyType, bits: usize, rng: &dyn Rng) -> Result<Self, MechError> {
        match key_type {
            KeyType::RSA => {
                let [p, q] = rsa::generate(bits)?.map(|prime| SecretBytes::from_slice(&prime));
                Ok(Material::Rsa { p, q, e: rsa::GENERATED_E })
            }
            KeyType::Curve25519 => Ok(Material::Ed25519(Secret::random(rng))),
            KeyType::Generic => {
                let mut bytes = vec![0; bits.div_ceil(8)];
                rng.fill(&mut bytes);
                Ok(Material::Generic(SecretBytes::from_vec(bytes)))
            }
            KeyType::EC_P256
            | KeyType::EC_P384
            | KeyType::EC_P521
            | KeyType::EC_P256K1
            | KeyType::BrainpoolP256
            | KeyType::BrainpoolP384
            | KeyType::BrainpoolP512 => random_scalar(key_type, rng),
        }
    }
}

/// Draws a scalar uniformly from 1 to the order less one, by rejection (FIPS 186-5 A.2.2). Even BrainpoolP256, the
/// curve with the most rejections, accepts two of three draws; 128 in a row fail only if the random source is broken.
fn random_scalar(key_type: KeyType, rng: &dyn Rng) -> Result<Material, MechError> {
    let len = scalar_bytes(key_type).ok_or(MechError("not an EC key type"))?;
    for _ in 0..128 {
        let mut scalar = Zeroizing::new(vec![0; len]);
        rng.fill(&mut scalar);
        // The order of P-521 has 521 bits, one more than 65 bytes.
        if key_type == KeyType::EC_P521
            && let Some(highest) = scalar.first_mut()
        {
            *highest &= 1;
        }
        let material = Material::Ec { key_type, scalar: SecretBytes::from_slice(&scalar) };
        if LoadedKey::load(&material).is_ok() {
            return Ok(material);
        }
    }
    Err(MechError("the random source gives no scalar"))
}
