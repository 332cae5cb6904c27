//! RSA (RFC 8017) by AWS-LC.
//!
//! Decryption answers every failure with the same sentence. The API's contract requires that bad padding is reported at
//! all, so PKCS1 decryption is a padding oracle for every caller who may use it.

use casemate_api::mechanisms::Hash;
use zeroize::Zeroizing;

use super::error::{MechError, Output};
use super::ffi::{self, Padding, RsaKey};
use super::rsa_numbers::{Numbers, bit_length, divides_less_one, far_apart, minimal};
use crate::Error;
use crate::runtime::stall;

/// Public exponent of every generated key.
pub(crate) const GENERATED_E: u64 = 65537;

/// An RSA key ready to use.
pub(super) struct RsaPrivateKey {
    key: RsaKey,
    n: Vec<u8>,
    e: u64,
    longer_prime_bits: usize,
}

impl RsaPrivateKey {
    pub(super) fn load(p: &[u8], q: &[u8], e: u64) -> Result<Self, MechError> {
        let numbers = Numbers::from_primes(p, q, e).map_err(|_| MechError("the numbers of an RSA key do not agree"))?;
        let key = RsaKey::new(&numbers).map_err(|_| MechError("AWS-LC refuses an RSA key"))?;
        Ok(Self { key, n: numbers.n, e, longer_prime_bits: bit_length(p).max(bit_length(q)) })
    }

    pub(super) fn longer_prime_bits(&self) -> usize {
        self.longer_prime_bits
    }

    pub(super) fn modulus(&self) -> &[u8] {
        &self.n
    }

    pub(super) fn exponent(&self) -> u64 {
        self.e
    }

    pub(super) fn modulus_bytes(&self) -> usize {
        self.key.modulus_bytes()
    }

    pub(super) fn modulus_bits(&self) -> usize {
        bit_length(&self.n)
    }
}

/// Generates two primes for a modulus of exactly `bits` bits and the exponent [`GENERATED_E`].
pub(crate) fn generate(bits: usize) -> Result<[Zeroizing<Vec<u8>>; 2], MechError> {
    stall::begins("making primes");
    let failed = |_| MechError("AWS-LC made no RSA key");
    // AWS-LC follows FIPS 186-5 A.1.3 but rounds other sizes down.
    if bits.is_multiple_of(128) {
        return ffi::random_rsa_primes(bits, GENERATED_E).map_err(failed);
    }
    let prime = |bits| loop {
        let prime = ffi::random_prime(bits).map_err(failed)?;
        if !divides_less_one(GENERATED_E, &prime) {
            return Ok(prime);
        }
    };
    // With the two highest bits of each prime set the product has exactly `bits` bits.
    let p = prime(bits.div_ceil(2))?;
    loop {
        let q = prime(bits / 2)?;
        if far_apart(&p, &q, 100) {
            return Ok([p, q]);
        }
    }
}

fn decryption_failed<T>(_: T) -> Error {
    Error::invalid("Decryption failure")
}

/// The error for input that is too long for the key.
pub(super) fn key_too_short<T>(_: T) -> Error {
    Error::invalid("Signing failure: RSA key too short.")
}

/// RSADP (RFC 8017 §5.1.2) of a big-endian integer of any byte length.
pub(super) fn decrypt_raw(key: &RsaPrivateKey, input: &[u8]) -> Result<Output, Error> {
    let input = minimal(input);
    // 0 and 1 decrypt to themselves; the contract refuses them. AWS-LC refuses numbers that are not below n.
    if matches!(input, [] | [1]) || input.len() > key.modulus_bytes() {
        return Err(decryption_failed(()));
    }
    // n-1 decrypts to itself as well, because d is odd. AWS-LC refuses it (SP 800-56B §7.1.2), the contract allows it.
    if let (Some((n_last, n_head)), Some((last, head))) = (key.n.split_last(), input.split_last())
        && n_head == head
        && n_last ^ 1 == *last
    {
        return Ok(Zeroizing::new(input.to_vec()));
    }
    let mut padded = vec![0; key.modulus_bytes() - input.len()];
    padded.extend_from_slice(input);
    key.key.decrypt(Padding::None, &padded).map_err(decryption_failed)
}

/// RSAES-PKCS1-v1_5 (RFC 8017 §7.2.2).
pub(super) fn decrypt_pkcs1(key: &RsaPrivateKey, input: &[u8]) -> Result<Output, Error> {
    key.key.decrypt(Padding::Pkcs1, input).map_err(decryption_failed)
}

/// RSAES-OAEP, empty label, MGF1 with the same hash (RFC 8017 §7.1.2).
pub(super) fn decrypt_oaep(key: &RsaPrivateKey, hash: Hash, input: &[u8]) -> Result<Output, Error> {
    key.key.decrypt_oaep(hash, input).map_err(decryption_failed)
}

/// Type 1 padding and the private operation of RSASSA-PKCS1-v1_5 (RFC 8017 §8.2.1). `input` is the whole DigestInfo:
/// the caller has hashed the message.
pub(super) fn sign_pkcs1(key: &RsaPrivateKey, input: &[u8]) -> Result<Output, Error> {
    key.key.sign_pkcs1(input).map_err(key_too_short)
}

/// RSASSA-PSS of a digest, salt as long as the hash, MGF1 with the same hash (RFC 8017 §8.1.1).
pub(super) fn sign_pss(key: &RsaPrivateKey, hash: Hash, digest: &[u8]) -> Result<Output, Error> {
    if key.modulus_bits() / 8 < 2 * hash.len() + 2 {
        return Err(key_too_short(()));
    }
    key.key.sign_pss(hash, digest).map_err(|_| MechError("AWS-LC made no PSS signature").into())
}
