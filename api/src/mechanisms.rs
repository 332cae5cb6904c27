//! The mechanism table: which key type can do what, how requests name it, what it takes and what it costs.
//!
//! Plain data. `crypto::mech` of the core joins each row to its code, and everything that speaks of mechanisms (generation limits,
//! PKCS#11 numbers, completion, documentation) reads this table, so that it cannot disagree with itself.

use crate::limits::INLINE_INPUT_MAX_BYTES;
use crate::words::{DecryptMode, EncryptMode, KeyType, Mechanism, SignMode};

/// A hash function that a mechanism is parameterised with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "the names say it")]
pub enum Hash {
    Md5,
    Sha1,
    Sha224,
    Sha256,
    Sha384,
    Sha512,
}

impl Hash {
    /// Length of the digest in bytes.
    #[allow(clippy::len_without_is_empty, reason = "a hash has a length, it is never empty")]
    pub const fn len(self) -> usize {
        match self {
            Hash::Md5 => 16,
            Hash::Sha1 => 20,
            Hash::Sha224 => 28,
            Hash::Sha256 => 32,
            Hash::Sha384 => 48,
            Hash::Sha512 => 64,
        }
    }
}

/// What a request names: the operation and its mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mode {
    /// `POST …/sign`.
    Sign(SignMode),
    /// `POST …/decrypt`.
    Decrypt(DecryptMode),
    /// `POST …/encrypt`.
    Encrypt(EncryptMode),
}

/// What a mechanism takes. `k` is the length of an RSA modulus in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Input {
    /// A finished digest of exactly this many bytes.
    Digest(usize),
    /// Any message.
    Message,
    /// At most `k - 11` bytes, padded but not hashed.
    UpToModulusLess11,
    /// Exactly `k` bytes.
    Modulus,
    /// A big-endian integer of any byte length, at least 2 and below the modulus.
    Integer,
    /// A multiple of 16 bytes.
    Blocks16,
}

/// Where a mechanism runs. What takes longer than [`INLINE_MAX_US`](crate::limits::INLINE_MAX_US) leaves the thread that serves
/// requests: `server/examples/costs.rs` measures it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cost {
    /// On the serving thread, for up to [`INLINE_INPUT_MAX_BYTES`] of input.
    Inline,
    /// The same for RSA keys of up to so many bits, as [`MechanismSpec::is_short`] counts them; on the worker pool above.
    InlineTo(usize),
    /// On the worker pool.
    Pool,
}

/// API version that brought a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Since {
    /// REST API v1.
    V1,
}

/// One thing a key of one type can do.
#[derive(Clone, Copy, Debug)]
pub struct MechanismSpec {
    /// The key type.
    pub key: KeyType,
    /// The capability a key lists.
    pub mechanism: Mechanism,
    /// What a request names.
    pub mode: Mode,
    /// PKCS#11 mechanism number (`CKM_*`, PKCS#11 3.1 §6), if it has one.
    pub ckm: Option<u64>,
    /// What it takes.
    pub input: Input,
    /// The hash inside, if any.
    pub hash: Option<Hash>,
    /// Where it runs.
    pub cost: Cost,
    /// When it came.
    pub since: Since,
}

impl MechanismSpec {
    /// Whether this is short enough for a thread that serves requests. `rsa_bits` is twice the length of the longer prime: of
    /// most keys the length of the modulus, and of those with primes of unequal length what their use costs.
    pub fn is_short(&self, rsa_bits: usize, input_bytes: usize) -> bool {
        input_bytes <= INLINE_INPUT_MAX_BYTES
            && match self.cost {
                Cost::Inline => true,
                Cost::InlineTo(bits) => rsa_bits <= bits,
                Cost::Pool => false,
            }
    }
}

const CKM_RSA_PKCS: u64 = 0x1;
const CKM_RSA_X_509: u64 = 0x3;
const CKM_RSA_PKCS_OAEP: u64 = 0x9;
const CKM_RSA_PKCS_PSS: u64 = 0xd;
const CKM_ECDSA: u64 = 0x1041;
const CKM_EDDSA: u64 = 0x1057;
const CKM_AES_CBC: u64 = 0x1082;

/// 0.11 ms for 1024 bits, 0.3 ms for 2048.
const RSA_INLINE_BITS: usize = 1024;

const fn rsa(mechanism: Mechanism, mode: Mode, ckm: u64, input: Input, hash: Option<Hash>) -> MechanismSpec {
    let cost = Cost::InlineTo(RSA_INLINE_BITS);
    MechanismSpec { key: KeyType::RSA, mechanism, mode, ckm: Some(ckm), input, hash, cost, since: Since::V1 }
}
const fn oaep(mechanism: Mechanism, mode: DecryptMode, hash: Hash) -> MechanismSpec {
    rsa(mechanism, Mode::Decrypt(mode), CKM_RSA_PKCS_OAEP, Input::Modulus, Some(hash))
}
const fn pss(mechanism: Mechanism, mode: SignMode, hash: Hash) -> MechanismSpec {
    rsa(mechanism, Mode::Sign(mode), CKM_RSA_PKCS_PSS, Input::Digest(hash.len()), Some(hash))
}
const fn row(key: KeyType, mechanism: Mechanism, mode: Mode, ckm: Option<u64>, input: Input) -> MechanismSpec {
    MechanismSpec { key, mechanism, mode, ckm, input, hash: None, cost: Cost::Inline, since: Since::V1 }
}
const fn ecdsa(key: KeyType, digest_bytes: usize, cost: Cost) -> MechanismSpec {
    let mode = Mode::Sign(SignMode::ECDSA);
    MechanismSpec { cost, ..row(key, Mechanism::ECDSA_Signature, mode, Some(CKM_ECDSA), Input::Digest(digest_bytes)) }
}

/// Every (key type, mechanism) that exists, in the order in which replies list mechanisms.
#[rustfmt::skip]
pub const TABLE: &[MechanismSpec] = {
    use {DecryptMode as D, Hash::*, Input as I, KeyType as K, Mechanism as M, SignMode as S};
    &[
        rsa(M::RSA_Decryption_RAW,   Mode::Decrypt(D::RAW),   CKM_RSA_X_509, I::Integer, None),
        rsa(M::RSA_Decryption_PKCS1, Mode::Decrypt(D::PKCS1), CKM_RSA_PKCS,  I::Modulus, None),
        oaep(M::RSA_Decryption_OAEP_MD5,    D::OAEP_MD5,    Md5),
        oaep(M::RSA_Decryption_OAEP_SHA1,   D::OAEP_SHA1,   Sha1),
        oaep(M::RSA_Decryption_OAEP_SHA224, D::OAEP_SHA224, Sha224),
        oaep(M::RSA_Decryption_OAEP_SHA256, D::OAEP_SHA256, Sha256),
        oaep(M::RSA_Decryption_OAEP_SHA384, D::OAEP_SHA384, Sha384),
        oaep(M::RSA_Decryption_OAEP_SHA512, D::OAEP_SHA512, Sha512),
        rsa(M::RSA_Signature_PKCS1,  Mode::Sign(S::PKCS1),    CKM_RSA_PKCS,  I::UpToModulusLess11, None),
        pss(M::RSA_Signature_PSS_MD5,    S::PSS_MD5,    Md5),
        pss(M::RSA_Signature_PSS_SHA1,   S::PSS_SHA1,   Sha1),
        pss(M::RSA_Signature_PSS_SHA224, S::PSS_SHA224, Sha224),
        pss(M::RSA_Signature_PSS_SHA256, S::PSS_SHA256, Sha256),
        pss(M::RSA_Signature_PSS_SHA384, S::PSS_SHA384, Sha384),
        pss(M::RSA_Signature_PSS_SHA512, S::PSS_SHA512, Sha512),
        row(K::Curve25519, M::EdDSA_Signature, Mode::Sign(S::EdDSA), Some(CKM_EDDSA), I::Message),
        ecdsa(K::EC_P256, 32, Cost::Inline),
        ecdsa(K::EC_P384, 48, Cost::Inline),
        ecdsa(K::EC_P521, 64, Cost::Pool),
        ecdsa(K::EC_P256K1, 32, Cost::Inline),
        ecdsa(K::BrainpoolP256, 32, Cost::Pool),
        ecdsa(K::BrainpoolP384, 48, Cost::Pool),
        ecdsa(K::BrainpoolP512, 64, Cost::Pool),
        row(K::EC_P256K1, M::BIP340_Signature, Mode::Sign(S::BIP340), None, I::Message),
        row(K::Generic, M::AES_Encryption_CBC, Mode::Encrypt(EncryptMode::AES_CBC), Some(CKM_AES_CBC), I::Blocks16),
        row(K::Generic, M::AES_Decryption_CBC, Mode::Decrypt(D::AES_CBC), Some(CKM_AES_CBC), I::Blocks16),
    ]
};

/// The row by which a key of type `key` answers `mode`; `None` if such keys cannot do that.
pub fn find(key: KeyType, mode: Mode) -> Option<&'static MechanismSpec> {
    TABLE.iter().find(|row| row.key == key && row.mode == mode)
}

/// Whether keys of type `key` can have `mechanism`.
pub fn fits(key: KeyType, mechanism: Mechanism) -> bool {
    TABLE.iter().any(|row| row.key == key && row.mechanism == mechanism)
}

/// The mechanism that `mode` needs in a key's list, whatever the key's type.
pub fn of_mode(mode: Mode) -> Mechanism {
    use {DecryptMode as D, Mechanism as M, SignMode as S};
    match mode {
        Mode::Sign(S::PKCS1) => M::RSA_Signature_PKCS1,
        Mode::Sign(S::PSS_MD5) => M::RSA_Signature_PSS_MD5,
        Mode::Sign(S::PSS_SHA1) => M::RSA_Signature_PSS_SHA1,
        Mode::Sign(S::PSS_SHA224) => M::RSA_Signature_PSS_SHA224,
        Mode::Sign(S::PSS_SHA256) => M::RSA_Signature_PSS_SHA256,
        Mode::Sign(S::PSS_SHA384) => M::RSA_Signature_PSS_SHA384,
        Mode::Sign(S::PSS_SHA512) => M::RSA_Signature_PSS_SHA512,
        Mode::Sign(S::EdDSA) => M::EdDSA_Signature,
        Mode::Sign(S::ECDSA) => M::ECDSA_Signature,
        Mode::Sign(S::BIP340) => M::BIP340_Signature,
        Mode::Decrypt(D::RAW) => M::RSA_Decryption_RAW,
        Mode::Decrypt(D::PKCS1) => M::RSA_Decryption_PKCS1,
        Mode::Decrypt(D::OAEP_MD5) => M::RSA_Decryption_OAEP_MD5,
        Mode::Decrypt(D::OAEP_SHA1) => M::RSA_Decryption_OAEP_SHA1,
        Mode::Decrypt(D::OAEP_SHA224) => M::RSA_Decryption_OAEP_SHA224,
        Mode::Decrypt(D::OAEP_SHA256) => M::RSA_Decryption_OAEP_SHA256,
        Mode::Decrypt(D::OAEP_SHA384) => M::RSA_Decryption_OAEP_SHA384,
        Mode::Decrypt(D::OAEP_SHA512) => M::RSA_Decryption_OAEP_SHA512,
        Mode::Decrypt(D::AES_CBC) => M::AES_Decryption_CBC,
        Mode::Encrypt(EncryptMode::AES_CBC) => M::AES_Encryption_CBC,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_names_the_mechanism_of_its_mode() {
        for row in TABLE {
            assert_eq!(of_mode(row.mode), row.mechanism);
        }
    }

    #[test]
    fn no_key_type_answers_a_mode_twice() {
        for (i, a) in TABLE.iter().enumerate() {
            assert!(!TABLE[i + 1..].iter().any(|b| a.key == b.key && a.mode == b.mode), "{a:?}");
        }
    }

    #[test]
    fn every_key_type_can_do_something() {
        for key in KeyType::ALL {
            assert!(TABLE.iter().any(|row| row.key == key), "{key:?}");
        }
    }
}
