//! What is done with the public half of an RSA key (RFC 8017), all of it with public numbers. AWS-LC encrypts. The operation
//! without padding, which it does not offer, is computed by `crypto-bigint`; signatures are verified with that, since AWS-LC
//! verifies none by PSS with SHA-1 and SHA-224, and none by keys below 2048 bits.

use aws_lc_rs::digest as lc;
use aws_lc_rs::rsa::{
    OAEP_SHA1_MGF1SHA1, OAEP_SHA256_MGF1SHA256, OAEP_SHA384_MGF1SHA384, OAEP_SHA512_MGF1SHA512, OaepAlgorithm,
    OaepPublicEncryptingKey, Pkcs1PublicEncryptingKey, PublicEncryptingKey,
};
use casemate_api::mechanisms::Hash;
use crypto_bigint::modular::{BoxedMontyForm, BoxedMontyParams};
use crypto_bigint::{BoxedUint, Odd};
use cryptoki_sys::*;
use der::Encode;
use der::asn1::{BitString, Null, ObjectIdentifier, UintRef};
use x509_cert::spki::{AlgorithmIdentifier, SubjectPublicKeyInfo};

use super::digest;
use super::sign::filled;
use crate::objects::bits;
use crate::rv::Rv;

/// A public key: big-endian integers without leading zeros.
pub(crate) struct Public<'a> {
    pub(crate) modulus: &'a [u8],
    pub(crate) exponent: &'a [u8],
}

impl Public<'_> {
    /// `number` to the power of the exponent, as long as the modulus. `None` if it is not below the modulus.
    pub(crate) fn apply(&self, number: &[u8]) -> Option<Vec<u8>> {
        let bits = u32::try_from(self.modulus.len()).ok()?.checked_mul(8)?;
        let uint = |bytes: &[u8]| BoxedUint::from_be_slice(&filled(bytes, self.modulus.len()), bits).ok();
        let modulus = uint(self.modulus)?;
        let number = uint(number)?;
        if number >= modulus {
            return None;
        }
        let odd = Option::from(Odd::new(modulus))?;
        let parameters = BoxedMontyParams::new_vartime(odd);
        let exponent_bits = u32::try_from(self.exponent.len()).ok()?.checked_mul(8)?;
        let exponent = BoxedUint::from_be_slice(self.exponent, exponent_bits).ok()?;
        let power = BoxedMontyForm::new(number, &parameters).pow_bounded_exp(&exponent, exponent_bits).retrieve();
        let bytes = power.to_be_bytes();
        let digits = bytes.iter().position(|byte| *byte != 0).and_then(|first| bytes.get(first..)).unwrap_or_default();
        Some(filled(digits, self.modulus.len()).to_vec())
    }

    /// Whether `signature` is that of `message`, padded as PKCS#1 v1.5 does. What it must look like is made and compared, so
    /// that nothing of the signature is parsed.
    pub(crate) fn verify_pkcs1(&self, message: &[u8], signature: &[u8]) -> bool {
        let padding = self.modulus.len().saturating_sub(message.len() + 3);
        if padding < 8 {
            return false;
        }
        let expected = [&[0, 1], vec![0xff; padding].as_slice(), &[0], message].concat();
        self.apply(signature) == Some(expected)
    }

    /// Whether `signature` is that of `digest`, padded as PSS does with a salt as long as the digest (RFC 8017 §9.1.2). `None`:
    /// the key is too short for this hash, or nothing here computes it.
    pub(crate) fn verify_pss(&self, hash: Hash, digest: &[u8], signature: &[u8]) -> Option<bool> {
        let algorithm = digest::algorithm(hash)?;
        // Of the first byte, as many bits at the left are zero; all eight: it is not part of the message.
        let bits = bits(self.modulus).checked_sub(1)?;
        let length = usize::try_from(bits.div_ceil(8)).ok()?;
        let masked_bytes = length.checked_sub(digest.len() + 1)?;
        let zeros = masked_bytes.checked_sub(digest.len() + 1)?;
        let Some(encoded) = self.apply(signature) else { return Some(false) };
        let (before, encoded) = encoded.split_at_checked(self.modulus.len() - length)?;
        let (masked, rest) = encoded.split_at_checked(masked_bytes)?;
        let (found, trailer) = rest.split_at_checked(digest.len())?;
        let mut block = mgf1(algorithm, found, masked_bytes);
        block.iter_mut().zip(masked).for_each(|(byte, masked)| *byte ^= masked);
        let cut = 0xff_u8.checked_shr(u32::try_from(8 * length as u64 - bits).ok()?).unwrap_or(0);
        let unused = masked.first().is_some_and(|first| first & !cut != 0);
        block.iter_mut().take(1).for_each(|first| *first &= cut);
        let (padding, salt) = block.split_at_checked(zeros + 1)?;
        let mut expected = lc::Context::new(algorithm);
        [&[0; 8], digest, salt].into_iter().for_each(|part| expected.update(part));
        let padded =
            padding.split_last().is_some_and(|(last, zeros)| *last == 1 && zeros.iter().all(|byte| *byte == 0));
        let framed = before.iter().all(|byte| *byte == 0) && !unused && trailer == [0xbc];
        Some(framed && padded && expected.finish().as_ref() == found)
    }

    /// `message`, padded as PKCS#1 v1.5 does with random bytes, and encrypted.
    pub(crate) fn encrypt_pkcs1(&self, message: &[u8]) -> Result<Vec<u8>, Rv> {
        let key = Pkcs1PublicEncryptingKey::new(self.encrypting()?).map_err(|_| Rv(CKR_KEY_SIZE_RANGE))?;
        let mut out = vec![0; key.ciphertext_size()];
        let length = key.encrypt(message, &mut out).map_err(|_| Rv(CKR_DATA_LEN_RANGE))?.len();
        out.truncate(length);
        Ok(out)
    }

    /// `message`, padded by OAEP with this hash and without a label, and encrypted.
    pub(crate) fn encrypt_oaep(&self, hash: Hash, message: &[u8]) -> Result<Vec<u8>, Rv> {
        let algorithm = oaep(hash).ok_or(Rv(CKR_MECHANISM_PARAM_INVALID))?;
        let key = OaepPublicEncryptingKey::new(self.encrypting()?).map_err(|_| Rv(CKR_KEY_SIZE_RANGE))?;
        let mut out = vec![0; key.ciphertext_size()];
        let length = key.encrypt(algorithm, message, &mut out, None).map_err(|_| Rv(CKR_DATA_LEN_RANGE))?.len();
        out.truncate(length);
        Ok(out)
    }

    fn encrypting(&self) -> Result<PublicEncryptingKey, Rv> {
        let encoded = self.encoded().map_err(|_| Rv(CKR_FUNCTION_FAILED))?;
        PublicEncryptingKey::from_der(&encoded).map_err(|_| Rv(CKR_KEY_SIZE_RANGE))
    }

    /// As a `SubjectPublicKeyInfo` (RFC 3279 §2.3.1).
    fn encoded(&self) -> der::Result<Vec<u8>> {
        let (modulus, exponent) = (UintRef::new(self.modulus)?, UintRef::new(self.exponent)?);
        let key = pkcs1::RsaPublicKey { modulus, public_exponent: exponent }.to_der()?;
        let algorithm = AlgorithmIdentifier { oid: RSA_ENCRYPTION, parameters: Some(Null) };
        SubjectPublicKeyInfo { algorithm, subject_public_key: BitString::from_bytes(&key)? }.to_der()
    }
}

const RSA_ENCRYPTION: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.1");

/// The mask of MGF1 (RFC 8017 §B.2.1).
fn mgf1(algorithm: &'static lc::Algorithm, seed: &[u8], length: usize) -> Vec<u8> {
    let mut mask = Vec::with_capacity(length + algorithm.output_len());
    for counter in 0_u32.. {
        if mask.len() >= length {
            break;
        }
        let mut block = lc::Context::new(algorithm);
        block.update(seed);
        block.update(&counter.to_be_bytes());
        mask.extend_from_slice(block.finish().as_ref());
    }
    mask.truncate(length);
    mask
}

fn oaep(hash: Hash) -> Option<&'static OaepAlgorithm> {
    match hash {
        Hash::Sha1 => Some(&OAEP_SHA1_MGF1SHA1),
        Hash::Sha256 => Some(&OAEP_SHA256_MGF1SHA256),
        Hash::Sha384 => Some(&OAEP_SHA384_MGF1SHA384),
        Hash::Sha512 => Some(&OAEP_SHA512_MGF1SHA512),
        Hash::Md5 | Hash::Sha224 => None,
    }
}

/// Whether OAEP with this hash can be encrypted here.
pub(crate) fn encrypts_oaep(hash: Hash) -> bool {
    oaep(hash).is_some()
}

/// `DigestInfo` of a digest (RFC 8017 §9.2, note 1).
pub(crate) fn digest_info(hash: Hash, digest: &[u8]) -> Result<Vec<u8>, Rv> {
    let prefix: &[u8] = match hash {
        Hash::Md5 => return Err(Rv(CKR_MECHANISM_INVALID)),
        Hash::Sha1 => &[0x30, 0x21, 0x30, 0x09, 0x06, 0x05, 0x2b, 0x0e, 0x03, 0x02, 0x1a, 0x05, 0x00, 0x04, 0x14],
        Hash::Sha224 => &of_sha2(0x2d, 4, 0x1c),
        Hash::Sha256 => &of_sha2(0x31, 1, 0x20),
        Hash::Sha384 => &of_sha2(0x41, 2, 0x30),
        Hash::Sha512 => &of_sha2(0x51, 3, 0x40),
    };
    Ok([prefix, digest].concat())
}

const fn of_sha2(total: u8, arc: u8, length: u8) -> [u8; 19] {
    [0x30, total, 0x30, 13, 6, 9, 0x60, 0x86, 0x48, 1, 0x65, 3, 4, 2, arc, 5, 0, 4, length]
}

#[cfg(test)]
mod tests {
    use openssl::hash::MessageDigest;
    use openssl::pkey::PKey;
    use openssl::rsa::{Padding, Rsa};
    use openssl::sign::{RsaPssSaltlen, Signer};

    use super::*;

    /// The numbers of a small key: p = 61, q = 53, e = 17, d = 2753.
    #[test]
    fn the_public_operation_is_that_of_the_textbook() {
        let public = Public { modulus: &[0x0c, 0xa1], exponent: &[17] };
        assert_eq!(public.apply(&[65]), Some(vec![0x0a, 0xe6]));
        assert_eq!(public.apply(&[0x0c, 0xa1]), None, "not below the modulus");
        assert_eq!(public.apply(&[1, 0, 0]), None, "longer than the modulus");
    }

    #[test]
    fn a_key_that_is_too_short_for_pss_is_told_from_a_wrong_signature() {
        let verified = |bytes| {
            let public = Public { modulus: &vec![0xff; bytes], exponent: &[1, 0, 1] };
            public.verify_pss(Hash::Sha512, &[0; 64], &vec![1; bytes])
        };
        assert_eq!(verified(129), None);
        assert_eq!(verified(130), Some(false));
    }

    /// Moduli of every length from 1040 to 1049 bits: the bits that PSS leaves unused are one to eight, or a byte less.
    #[test]
    fn openssl_and_this_agree_about_pss() {
        for (bits, (hash, of_openssl)) in (1040..1050).zip(HASHES.into_iter().cycle()) {
            let of_openssl = of_openssl();
            let rsa = Rsa::generate(bits).unwrap();
            let (modulus, exponent) = (rsa.n().to_vec(), rsa.e().to_vec());
            let public = Public { modulus: &modulus, exponent: &exponent };
            let key = PKey::from_rsa(rsa).unwrap();
            let sign = |salt: RsaPssSaltlen| {
                let mut signer = Signer::new(of_openssl, &key).unwrap();
                signer.set_rsa_padding(Padding::PKCS1_PSS).unwrap();
                signer.set_rsa_pss_saltlen(salt).unwrap();
                signer.sign_oneshot_to_vec(b"message").unwrap()
            };
            let digest = openssl::hash::hash(of_openssl, b"message").unwrap();
            let signature = sign(RsaPssSaltlen::DIGEST_LENGTH);
            assert_eq!(public.verify_pss(hash, &digest, &signature), Some(true), "{bits} {hash:?}");
            for at in 0..signature.len() {
                let mut altered = signature.clone();
                altered[at] ^= 1;
                assert_eq!(public.verify_pss(hash, &digest, &altered), Some(false), "{bits} {hash:?}");
            }
            let other = openssl::hash::hash(of_openssl, b"another").unwrap();
            assert_eq!(public.verify_pss(hash, &other, &signature), Some(false));
            // A salt of another length is not what this mechanism makes.
            let longer = sign(RsaPssSaltlen::custom(digest.len() as i32 - 1));
            assert_eq!(public.verify_pss(hash, &digest, &longer), Some(false));
        }
    }

    const HASHES: [(Hash, fn() -> MessageDigest); 5] = [
        (Hash::Sha1, MessageDigest::sha1),
        (Hash::Sha224, MessageDigest::sha224),
        (Hash::Sha256, MessageDigest::sha256),
        (Hash::Sha384, MessageDigest::sha384),
        (Hash::Sha512, MessageDigest::sha512),
    ];
}
