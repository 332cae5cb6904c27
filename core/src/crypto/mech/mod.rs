//! Mechanisms: joins each row of [`mechanisms::TABLE`] to its code. The table is in the crate `casemate-api`; a new mechanism is a
//! row there, a function here, and tests against code that did not make it.
//!
//! A backend is a plain function from (key, input) to bytes; each file holds one family. This file checks the lengths
//! that the table states, so that a backend gets what it expects. It does not check whether a key may be used this way.

mod aes;
pub(crate) mod ecdsa;
mod eddsa;
mod error;
pub(crate) mod ffi;
pub mod generate;
pub(crate) mod rsa;
pub(crate) mod rsa_numbers;
mod secp256k1;
mod self_test;
#[cfg(test)]
pub(crate) mod tests;

use casemate_api::KeyType;
use casemate_api::mechanisms::{self, Hash, Input, MechanismSpec, Mode};
use casemate_api::words::{DecryptMode, EncryptMode, SignMode};
use zeroize::Zeroizing;

use crate::Error;
use crate::crypto::material::{Material, loads_quickly};
pub use crate::crypto::public::Public;
use crate::crypto::secret::SecretBytes;
use crate::runtime::stall;
pub(crate) use error::Failed;
pub use error::MechError;
pub use self_test::self_test;

/// A private key parsed and ready to use, from any number of threads at once. Wiped on drop.
pub struct LoadedKey(PrivateKey);

enum PrivateKey {
    Rsa(rsa::RsaPrivateKey),
    Ec(ecdsa::EcPrivateKey),
    Secp256k1(Box<secp256k1::Secp256k1PrivateKey>),
    Ed25519(eddsa::Ed25519PrivateKey),
    Generic(SecretBytes),
}

impl LoadedKey {
    /// Parses the key. Takes about as long as one or two operations: 0.01 ms for P-256, 0.4 ms for RSA of 2048 bits,
    /// 0.1 s for 16384 bits. Fails if the numbers do not form a key.
    pub fn load(material: &Material) -> Result<Self, MechError> {
        use ffi::Curve;
        if !loads_quickly(material.key_type()) {
            stall::begins("loading a key");
        }
        let ec = |key_type, curve, scalar: &SecretBytes| {
            ecdsa::EcPrivateKey::load(key_type, curve, scalar.expose()).map(PrivateKey::Ec)
        };
        Ok(Self(match material {
            Material::Rsa { p, q, e } => PrivateKey::Rsa(rsa::RsaPrivateKey::load(p.expose(), q.expose(), *e)?),
            Material::Ed25519(seed) => PrivateKey::Ed25519(eddsa::Ed25519PrivateKey::load(seed)?),
            Material::Generic(bytes) => PrivateKey::Generic(SecretBytes::from_slice(bytes.expose())),
            Material::Ec { key_type, scalar } => match *key_type {
                t @ KeyType::EC_P256 => ec(t, Curve::P256, scalar)?,
                t @ KeyType::EC_P384 => ec(t, Curve::P384, scalar)?,
                t @ KeyType::EC_P521 => ec(t, Curve::P521, scalar)?,
                t @ KeyType::BrainpoolP256 => ec(t, Curve::BrainpoolP256, scalar)?,
                t @ KeyType::BrainpoolP384 => ec(t, Curve::BrainpoolP384, scalar)?,
                t @ KeyType::BrainpoolP512 => ec(t, Curve::BrainpoolP512, scalar)?,
                KeyType::EC_P256K1 => {
                    PrivateKey::Secp256k1(Box::new(secp256k1::Secp256k1PrivateKey::load(scalar.expose())?))
                }
                KeyType::RSA | KeyType::Curve25519 | KeyType::Generic => return Err(MechError("not an EC key type")),
            },
        }))
    }

    /// The key's type.
    pub fn key_type(&self) -> KeyType {
        match &self.0 {
            PrivateKey::Rsa(_) => KeyType::RSA,
            PrivateKey::Ec(key) => key.key_type(),
            PrivateKey::Secp256k1(_) => KeyType::EC_P256K1,
            PrivateKey::Ed25519(_) => KeyType::Curve25519,
            PrivateKey::Generic(_) => KeyType::Generic,
        }
    }

    /// Bits of an RSA modulus; 0 for every other type.
    pub fn modulus_bits(&self) -> usize {
        match &self.0 {
            PrivateKey::Rsa(key) => key.modulus_bits(),
            PrivateKey::Ec(_) | PrivateKey::Secp256k1(_) | PrivateKey::Ed25519(_) | PrivateKey::Generic(_) => 0,
        }
    }

    /// The same as [`Material::rsa_bits`] of the key.
    fn rsa_bits(&self) -> usize {
        match &self.0 {
            PrivateKey::Rsa(key) => key.longer_prime_bits() * 2,
            PrivateKey::Ec(_) | PrivateKey::Secp256k1(_) | PrivateKey::Ed25519(_) | PrivateKey::Generic(_) => 0,
        }
    }

    /// The public part; [`Public::None`] for Generic keys.
    pub fn public(&self) -> Public {
        match &self.0 {
            PrivateKey::Rsa(key) => Public::Rsa {
                n: key.modulus().to_vec(),
                e: rsa_numbers::minimal(&key.exponent().to_be_bytes()).to_vec(),
            },
            PrivateKey::Ec(key) => Public::Ec { key_type: key.key_type(), point: key.public_point().to_vec() },
            PrivateKey::Secp256k1(key) => Public::Ec { key_type: KeyType::EC_P256K1, point: key.public_point() },
            PrivateKey::Ed25519(key) => Public::Ed25519(*key.public()),
            PrivateKey::Generic(_) => Public::None,
        }
    }

    /// Approximate memory of the key once it has been used, in bytes, for the budget of a cache.
    pub fn memory_bytes(&self) -> usize {
        match &self.0 {
            // Eight numbers, three Montgomery contexts, a blinding: measured 5.9 kB for 2048 bits.
            PrivateKey::Rsa(key) => 24 * key.modulus_bytes() + 512,
            PrivateKey::Ec(_) => 1024,
            PrivateKey::Secp256k1(_) => 512,
            PrivateKey::Ed25519(_) => 512,
            PrivateKey::Generic(bytes) => bytes.byte_len() + 128,
        }
    }
}

/// The public part of a key that is not loaded, as [`LoadedKey::public`] has it. Takes 0.01 ms for RSA, whose other numbers it does
/// not need, and as long as loading the key for the other types.
///
/// # Errors
/// Fails if the key is none of its curve. The primes of RSA are not checked.
pub fn public_of(material: &Material) -> Result<Public, MechError> {
    match material {
        Material::Rsa { p, q, e } => {
            let n = rsa_numbers::multiply(p.expose(), q.expose()).to_vec();
            Ok(Public::Rsa { n, e: rsa_numbers::minimal(&e.to_be_bytes()).to_vec() })
        }
        Material::Ec { .. } | Material::Ed25519(_) => Ok(LoadedKey::load(material)?.public()),
        Material::Generic(_) => Ok(Public::None),
    }
}

/// The code that performs a row of the table.
#[derive(Clone, Copy)]
enum Backend {
    RsaDecryptRaw,
    RsaDecryptPkcs1,
    RsaDecryptOaep(Hash),
    RsaSignPkcs1,
    RsaSignPss(Hash),
    Ecdsa,
    Secp256k1Ecdsa,
    Bip340,
    Ed25519,
    AesCbcEncrypt,
    AesCbcDecrypt,
}

/// The backend that performs `mode` for keys of type `key`.
const fn backend(key: KeyType, mode: Mode) -> Option<Backend> {
    use {Backend as B, DecryptMode as D, KeyType as K, SignMode as S};
    Some(match (key, mode) {
        (K::RSA, Mode::Decrypt(D::RAW)) => B::RsaDecryptRaw,
        (K::RSA, Mode::Decrypt(D::PKCS1)) => B::RsaDecryptPkcs1,
        (K::RSA, Mode::Decrypt(D::OAEP_MD5)) => B::RsaDecryptOaep(Hash::Md5),
        (K::RSA, Mode::Decrypt(D::OAEP_SHA1)) => B::RsaDecryptOaep(Hash::Sha1),
        (K::RSA, Mode::Decrypt(D::OAEP_SHA224)) => B::RsaDecryptOaep(Hash::Sha224),
        (K::RSA, Mode::Decrypt(D::OAEP_SHA256)) => B::RsaDecryptOaep(Hash::Sha256),
        (K::RSA, Mode::Decrypt(D::OAEP_SHA384)) => B::RsaDecryptOaep(Hash::Sha384),
        (K::RSA, Mode::Decrypt(D::OAEP_SHA512)) => B::RsaDecryptOaep(Hash::Sha512),
        (K::RSA, Mode::Sign(S::PKCS1)) => B::RsaSignPkcs1,
        (K::RSA, Mode::Sign(S::PSS_MD5)) => B::RsaSignPss(Hash::Md5),
        (K::RSA, Mode::Sign(S::PSS_SHA1)) => B::RsaSignPss(Hash::Sha1),
        (K::RSA, Mode::Sign(S::PSS_SHA224)) => B::RsaSignPss(Hash::Sha224),
        (K::RSA, Mode::Sign(S::PSS_SHA256)) => B::RsaSignPss(Hash::Sha256),
        (K::RSA, Mode::Sign(S::PSS_SHA384)) => B::RsaSignPss(Hash::Sha384),
        (K::RSA, Mode::Sign(S::PSS_SHA512)) => B::RsaSignPss(Hash::Sha512),
        (K::Curve25519, Mode::Sign(S::EdDSA)) => B::Ed25519,
        (
            K::EC_P256 | K::EC_P384 | K::EC_P521 | K::BrainpoolP256 | K::BrainpoolP384 | K::BrainpoolP512,
            Mode::Sign(S::ECDSA),
        ) => B::Ecdsa,
        (K::EC_P256K1, Mode::Sign(S::ECDSA)) => B::Secp256k1Ecdsa,
        (K::EC_P256K1, Mode::Sign(S::BIP340)) => B::Bip340,
        (K::Generic, Mode::Encrypt(EncryptMode::AES_CBC)) => B::AesCbcEncrypt,
        (K::Generic, Mode::Decrypt(D::AES_CBC)) => B::AesCbcDecrypt,
        _ => return None,
    })
}

/// A row without a backend does not compile.
const _: () = {
    let mut rest = mechanisms::TABLE;
    while let [row, others @ ..] = rest {
        assert!(backend(row.key, row.mode).is_some(), "a row of the mechanism table has no code");
        rest = others;
    }
};

/// Signs, decrypts or encrypts `input`. Only AES-CBC reads `iv`, which it needs in both directions. RSA takes from 0.1
/// ms (1024 bits) to 0.1 s (16384 bits), the others less than 1 ms, except that the time of AES and Ed25519 grows with
/// the input. [`MechanismSpec::is_short`] tells whether a serving thread may run it.
///
/// # Errors
/// [`Error::Invalid`] with NetHSM's sentence if the key's type does not have the mode or the input has the wrong
/// length.
pub fn run(loaded: &LoadedKey, mode: Mode, input: &[u8], iv: Option<&[u8]>) -> Result<Zeroizing<Vec<u8>>, Error> {
    let key_type = loaded.key_type();
    let (Some(spec), Some(backend)) = (mechanisms::find(key_type, mode), backend(key_type, mode)) else {
        return Err(unsuited(key_type, mode));
    };
    check_length(loaded, spec, input)?;
    if !spec.is_short(loaded.rsa_bits(), input.len()) {
        stall::begins("using a key");
    }
    match (backend, &loaded.0) {
        (Backend::RsaDecryptRaw, PrivateKey::Rsa(key)) => rsa::decrypt_raw(key, input),
        (Backend::RsaDecryptPkcs1, PrivateKey::Rsa(key)) => rsa::decrypt_pkcs1(key, input),
        (Backend::RsaDecryptOaep(hash), PrivateKey::Rsa(key)) => rsa::decrypt_oaep(key, hash, input),
        (Backend::RsaSignPkcs1, PrivateKey::Rsa(key)) => rsa::sign_pkcs1(key, input),
        (Backend::RsaSignPss(hash), PrivateKey::Rsa(key)) => rsa::sign_pss(key, hash, input),
        (Backend::Ecdsa, PrivateKey::Ec(key)) => ecdsa::sign(key, input),
        (Backend::Secp256k1Ecdsa, PrivateKey::Secp256k1(key)) => secp256k1::sign_ecdsa(key, input),
        (Backend::Bip340, PrivateKey::Secp256k1(key)) => secp256k1::sign_bip340(key, input),
        (Backend::Ed25519, PrivateKey::Ed25519(key)) => eddsa::sign(key, input),
        (Backend::AesCbcEncrypt, PrivateKey::Generic(key)) => aes::cbc(key, aes::Direction::Encrypt, input, iv),
        (Backend::AesCbcDecrypt, PrivateKey::Generic(key)) => aes::cbc(key, aes::Direction::Decrypt, input, iv),
        _ => Err(Error::internal("a backend was joined to the wrong key")),
    }
}

/// Checks the length that the row states, unless the backend checks it.
fn check_length(loaded: &LoadedKey, spec: &MechanismSpec, input: &[u8]) -> Result<(), Error> {
    let modulus_bytes = loaded.modulus_bits().div_ceil(8);
    match spec.input {
        Input::Digest(len) if input.len() != len => {
            Err(Error::invalid_field("message", "digested data of invalid size"))
        }
        Input::UpToModulusLess11 if input.len() + 11 > modulus_bytes => Err(rsa::key_too_short(())),
        Input::Modulus if input.len() != modulus_bytes => Err(Error::invalid("Decryption failure")),
        Input::Digest(_)
        | Input::UpToModulusLess11
        | Input::Modulus
        | Input::Message
        | Input::Integer
        | Input::Blocks16 => Ok(()),
    }
}

/// The error for a mode that keys of this type do not have.
fn unsuited(key: KeyType, mode: Mode) -> Error {
    let reason = match (key, mode) {
        (KeyType::Generic, Mode::Sign(_)) => "Generic keys can't sign.",
        (_, Mode::Sign(_)) => "invalid sign mode",
        (_, Mode::Decrypt(_)) => "invalid decrypt mode",
        (_, Mode::Encrypt(_)) => "invalid encrypt mode",
    };
    Error::invalid_field("mode", reason)
}
