//! Pairwise self test of a key: a signature must verify with the public key, a ciphertext must decrypt to its
//! plaintext. Used to verify that a backup holds usable keys.

use aws_lc_rs::digest::{SHA256, SHA384, SHA512, digest};
use aws_lc_rs::signature::{ECDSA_P256K1_SHA256_ASN1, ED25519, UnparsedPublicKey};
use aws_lc_rs::signature::{RSA_PKCS1_1024_8192_SHA256_FOR_LEGACY_USE_ONLY, RsaPublicKeyComponents};
use casemate_api::KeyType;
use casemate_api::mechanisms::Mode;
use casemate_api::words::{DecryptMode, EncryptMode, SignMode};

use super::error::MechError;
use super::{LoadedKey, PrivateKey, Public, ecdsa, run};
use crate::Error;

const MESSAGE: &[u8] = b"a message that a key is tried with";

/// The DER of a DigestInfo for SHA-256 up to the digest (RFC 8017 §9.2, note 1).
const DIGEST_INFO_SHA256: [u8; 19] = *b"\x30\x31\x30\x0d\x06\x09\x60\x86\x48\x01\x65\x03\x04\x02\x01\x05\x00\x04\x20";

/// Modulus lengths for which RSA signatures are verified by code other than the signing code, in bits. For other
/// lengths AWS-LC's own check of each signature must do.
const RSA_VERIFIED_BITS: std::ops::RangeInclusive<usize> = 1024..=8192;

/// Uses the key once, whatever mechanisms it lists. Takes about as long as one operation and one verification.
///
/// # Errors
/// The operation fails or its result does not verify, so the key cannot be used.
pub fn self_test(loaded: &LoadedKey) -> Result<(), Error> {
    let fits =
        |fits: bool| if fits { Ok(()) } else { Err(Error::from(MechError("what the key made does not verify"))) };
    let hash = |algorithm| digest(algorithm, MESSAGE).as_ref().to_vec();
    let sign = |mode, input: &[u8]| run(loaded, Mode::Sign(mode), input, None);
    match &loaded.0 {
        PrivateKey::Rsa(_) if loaded.modulus_bits() < 8 * (DIGEST_INFO_SHA256.len() + 32 + 11) => {
            // Too short for a signature, so a number is decrypted instead.
            run(loaded, Mode::Decrypt(DecryptMode::RAW), &[2], None).map(drop)
        }
        PrivateKey::Rsa(_) => {
            let signature = sign(SignMode::PKCS1, &[&DIGEST_INFO_SHA256[..], &hash(&SHA256)].concat())?;
            let Public::Rsa { n, e } = loaded.public() else { return fits(false) };
            if !RSA_VERIFIED_BITS.contains(&loaded.modulus_bits()) {
                return Ok(());
            }
            let key = RsaPublicKeyComponents { n, e };
            fits(key.verify(&RSA_PKCS1_1024_8192_SHA256_FOR_LEGACY_USE_ONLY, MESSAGE, &signature).is_ok())
        }
        PrivateKey::Ec(key) => {
            let digest = match loaded.key_type() {
                KeyType::EC_P384 | KeyType::BrainpoolP384 => hash(&SHA384),
                KeyType::EC_P521 | KeyType::BrainpoolP512 => hash(&SHA512),
                _ => hash(&SHA256),
            };
            fits(ecdsa::verifies(key, &digest, &sign(SignMode::ECDSA, &digest)?))
        }
        PrivateKey::Secp256k1(key) => {
            let signature = sign(SignMode::ECDSA, &hash(&SHA256))?;
            let public = UnparsedPublicKey::new(&ECDSA_P256K1_SHA256_ASN1, key.public_point());
            fits(public.verify(MESSAGE, &signature).is_ok())
        }
        PrivateKey::Ed25519(key) => {
            let signature = sign(SignMode::EdDSA, MESSAGE)?;
            fits(UnparsedPublicKey::new(&ED25519, key.public()).verify(MESSAGE, &signature).is_ok())
        }
        PrivateKey::Generic(bytes) if [16, 24, 32].contains(&bytes.byte_len()) => {
            let (block, iv) = ([7; 16], [9; 16]);
            let encrypted = run(loaded, Mode::Encrypt(EncryptMode::AES_CBC), &block, Some(&iv))?;
            let decrypted = run(loaded, Mode::Decrypt(DecryptMode::AES_CBC), &encrypted, Some(&iv))?;
            fits(decrypted.as_slice() == block)
        }
        // Bytes of another length are not an AES key; there is nothing to try.
        PrivateKey::Generic(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::any_key;
    use super::*;

    #[test]
    fn keys_of_every_type_pass_their_self_test() {
        for key_type in KeyType::ALL {
            self_test(&LoadedKey::load(&any_key(key_type)).unwrap()).unwrap();
        }
    }

    #[test]
    fn a_signature_of_another_key_does_not_verify() {
        for key_type in [KeyType::EC_P256, KeyType::BrainpoolP512] {
            let (one, two) =
                (LoadedKey::load(&any_key(key_type)).unwrap(), LoadedKey::load(&any_key(key_type)).unwrap());
            let digest = vec![7; if key_type == KeyType::EC_P256 { 32 } else { 64 }];
            let signature = run(&one, Mode::Sign(SignMode::ECDSA), &digest, None).unwrap();
            let verifies = |loaded: &LoadedKey, digest: &[u8]| match &loaded.0 {
                PrivateKey::Ec(key) => ecdsa::verifies(key, digest, &signature),
                _ => unreachable!(),
            };
            assert!(verifies(&one, &digest) && !verifies(&two, &digest) && !verifies(&one, &digest[1..]));
        }
    }
}
