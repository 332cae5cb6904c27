//! `C_Sign…`: by the server, except with secrets of the module.

use aws_lc_rs::hmac;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use casemate_api::body::keys::{Decrypt, Sign as SignRequest};
use casemate_api::mechanisms::{Hash, Input as Takes, Mode};
use casemate_api::{DecryptMode, KeyType, SignMode};
use casemate_client::Session as Server;
use cryptoki_sys::*;
use der::asn1::UintRef;
use der::{Decode, Reader, SliceReader};
use zeroize::Zeroizing;

use super::mechanisms::{HASHES, Purpose, Resolved, permitted, resolve};
use super::{Input, Mechanism, Parts, Produced, digest, rsa};
use crate::objects::{KeyOnServer, Object, PublicKey};
use crate::rv::{Asked, Rv};

/// A signature that is being made.
pub(crate) struct Sign {
    with: With,
    input: Input,
    parts: Parts,
    /// The signature, if there was no room for it.
    done: Option<Zeroizing<Vec<u8>>>,
    length: usize,
}

enum With {
    Server { key: KeyOnServer, mode: Mode, shape: Shape },
    Hmac(Box<hmac::Key>),
}

/// What becomes of the data, or of its digest, before it is signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    /// Nothing.
    AsIs,
    /// It must have this length.
    Exactly(usize),
    /// At most this long.
    AtMost(usize),
    /// A `DigestInfo` of this hash (RFC 8017 §9.2), at most this long.
    DigestInfo(Hash, usize),
    /// At most as long as the modulus, filled up with zeros at the left.
    Modulus(usize),
    /// A digest for ECDSA of this length on the server, and the length of a coordinate. FIPS 186-5 §6.4.1 signs the leftmost
    /// bits of longer ones; zeros at the left of shorter ones change nothing.
    Ecdsa { digest_bytes: usize, field_bytes: usize },
}

impl Shape {
    /// For these data, by a key with this public key.
    pub(crate) fn of(resolved: &Resolved, public: &PublicKey) -> Result<Self, Rv> {
        let modulus_bytes = match public {
            PublicKey::Rsa { modulus, .. } => modulus.len(),
            PublicKey::Ec { .. } | PublicKey::Ed25519(_) => 0,
        };
        Ok(match (resolved.row.input, resolved.hashed_by) {
            (Takes::UpToModulusLess11, Some(hash)) => Self::DigestInfo(hash, modulus_bytes.saturating_sub(11)),
            (Takes::UpToModulusLess11, None) => Self::AtMost(modulus_bytes.saturating_sub(11)),
            (Takes::Digest(digest_bytes), _) => match public {
                PublicKey::Ec { curve, .. } => Self::Ecdsa { digest_bytes, field_bytes: field_bytes(*curve) },
                PublicKey::Rsa { .. } | PublicKey::Ed25519(_) => Self::Exactly(digest_bytes),
            },
            (Takes::Modulus | Takes::Integer, _) => Self::Modulus(modulus_bytes),
            (Takes::Message | Takes::Blocks16, _) => Self::AsIs,
        })
    }

    pub(crate) fn shaped(self, data: Zeroizing<Vec<u8>>) -> Result<Zeroizing<Vec<u8>>, Rv> {
        let too_long = Err(Rv(CKR_DATA_LEN_RANGE));
        match self {
            Self::AsIs => Ok(data),
            Self::Exactly(length) if data.len() != length => too_long,
            Self::AtMost(length) if data.len() > length => too_long,
            Self::Exactly(_) | Self::AtMost(_) => Ok(data),
            Self::DigestInfo(hash, most) => {
                let info = rsa::digest_info(hash, &data)?;
                // The key is too short for this hash.
                if info.len() > most { Err(Rv(CKR_KEY_SIZE_RANGE)) } else { Ok(Zeroizing::new(info)) }
            }
            Self::Modulus(length) if data.len() > length => too_long,
            Self::Modulus(length) => Ok(filled(&data, length)),
            Self::Ecdsa { .. } if data.is_empty() => too_long,
            Self::Ecdsa { digest_bytes, .. } => Ok(filled(data.get(..digest_bytes).unwrap_or(&data), digest_bytes)),
        }
    }

    /// How long signatures are.
    pub(crate) fn signature_bytes(self, public: &PublicKey) -> usize {
        match (self, public) {
            (Self::Ecdsa { field_bytes, .. }, _) => 2 * field_bytes,
            (_, PublicKey::Rsa { modulus, .. }) => modulus.len(),
            (_, PublicKey::Ed25519(_) | PublicKey::Ec { .. }) => 64,
        }
    }
}

/// `number` with zeros at the left.
pub(crate) fn filled(number: &[u8], length: usize) -> Zeroizing<Vec<u8>> {
    let mut bytes = Zeroizing::new(vec![0; length.saturating_sub(number.len())]);
    bytes.extend_from_slice(number);
    bytes
}

/// Length of a coordinate, and of each half of a signature.
pub(crate) fn field_bytes(curve: KeyType) -> usize {
    match curve {
        KeyType::EC_P256 | KeyType::EC_P256K1 | KeyType::BrainpoolP256 | KeyType::Curve25519 => 32,
        KeyType::EC_P384 | KeyType::BrainpoolP384 => 48,
        KeyType::BrainpoolP512 => 64,
        KeyType::EC_P521 => 66,
        KeyType::RSA | KeyType::Generic => 0,
    }
}

/// The key for an HMAC with a secret of the module; none: `mechanism` is no HMAC.
pub(crate) fn hmac_key(key: &Object, mechanism: &Mechanism) -> Result<Option<Box<hmac::Key>>, Rv> {
    let Some(names) = HASHES.iter().find(|names| names.hmac == mechanism.kind) else { return Ok(None) };
    mechanism.without_parameter()?;
    let secret = key.secret().ok_or(Rv(CKR_KEY_TYPE_INCONSISTENT))?;
    let algorithm = match names.hash {
        Hash::Md5 => return Err(Rv(CKR_MECHANISM_INVALID)),
        Hash::Sha1 => hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY,
        Hash::Sha224 => hmac::HMAC_SHA224,
        Hash::Sha256 => hmac::HMAC_SHA256,
        Hash::Sha384 => hmac::HMAC_SHA384,
        Hash::Sha512 => hmac::HMAC_SHA512,
    };
    Ok(Some(Box::new(hmac::Key::new(algorithm, secret))))
}

impl Sign {
    pub(crate) fn new(key: &Object, mechanism: &Mechanism) -> Result<Self, Rv> {
        if let Some(hmac) = hmac_key(key, mechanism)? {
            if !key.is(CKA_SIGN) {
                return Err(Rv(CKR_KEY_FUNCTION_NOT_PERMITTED));
            }
            let length = hmac.algorithm().digest_algorithm().output_len();
            let (with, input) = (With::Hmac(hmac), Input::new(None));
            return Ok(Self { with, input, parts: Parts::None, done: None, length });
        }
        let (Some(id), Some(key_type)) = (key.on_server(), key.key_type()) else {
            return Err(Rv(CKR_KEY_TYPE_INCONSISTENT));
        };
        let resolved = resolve(key_type, mechanism, Purpose::Sign)?;
        if key.class() != CKO_PRIVATE_KEY {
            return Err(Rv(CKR_KEY_FUNCTION_NOT_PERMITTED));
        }
        permitted(key, CKA_SIGN, resolved.row.mechanism)?;
        let public = key.public_key().ok_or(Rv(CKR_KEY_TYPE_INCONSISTENT))?;
        let shape = Shape::of(&resolved, public)?;
        let input = Input::new(resolved.hashed_by.and_then(digest::algorithm));
        let with = With::Server { key: id, mode: resolved.row.mode, shape };
        Ok(Self { with, input, parts: Parts::None, done: None, length: shape.signature_bytes(public) })
    }

    pub(crate) fn update(&mut self, part: &[u8]) -> Result<(), Rv> {
        if self.done.is_some() {
            return Err(Rv(CKR_OPERATION_ACTIVE));
        }
        self.parts = Parts::Some;
        self.input.add(part)
    }

    pub(crate) fn all(&mut self, data: &[u8], room: Option<usize>, server: Option<&Server>) -> Result<Produced, Rv> {
        if self.parts == Parts::Some {
            return Err(Rv(CKR_OPERATION_ACTIVE));
        }
        if room.is_none_or(|room| room < self.length) {
            return Ok(Produced::Needs(self.length));
        }
        self.input.add(data)?;
        self.finish(room, server)
    }

    pub(crate) fn finish(&mut self, room: Option<usize>, server: Option<&Server>) -> Result<Produced, Rv> {
        if room.is_none_or(|room| room < self.length) {
            return Ok(Produced::Needs(self.length));
        }
        let done = match &mut self.done {
            Some(done) => done,
            none => {
                let input = std::mem::replace(&mut self.input, Input::new(None)).finish();
                none.insert(self.with.sign(input, server)?)
            }
        };
        Ok(Produced::if_room(done, room))
    }
}

impl With {
    fn sign(&self, input: Zeroizing<Vec<u8>>, server: Option<&Server>) -> Result<Zeroizing<Vec<u8>>, Rv> {
        let (key, mode, shape) = match self {
            Self::Hmac(key) => return Ok(Zeroizing::new(hmac::sign(key, &input).as_ref().to_vec())),
            Self::Server { key, mode, shape } => (key, mode, shape),
        };
        let server = server.ok_or(Rv(CKR_USER_NOT_LOGGED_IN))?;
        let message = BASE64_STANDARD.encode(shape.shaped(input)?.as_slice());
        match (mode, shape) {
            (Mode::Sign(mode), Shape::Ecdsa { field_bytes, .. }) => {
                let signature = signature(server, key, *mode, message)?;
                both_halves(&signature, *field_bytes).map(Zeroizing::new)
            }
            (Mode::Sign(mode), _) => signature(server, key, *mode, message).map(Zeroizing::new),
            (Mode::Decrypt(mode), _) => raw(server, key, *mode, message),
            (Mode::Encrypt(_), _) => Err(Rv(CKR_MECHANISM_INVALID)),
        }
    }
}

fn signature(server: &Server, key: &KeyOnServer, mode: SignMode, message: String) -> Result<Vec<u8>, Rv> {
    let request = SignRequest { mode, message };
    let reply = server.keys().expecting(key.uid()).sign(&key.id, &request).map_err(|why| Rv::of(&why, Asked::Use))?;
    BASE64_STANDARD.decode(reply.signature).map_err(|_| Rv(CKR_DEVICE_ERROR))
}

/// The private operation of RSA.
fn raw(server: &Server, key: &KeyOnServer, mode: DecryptMode, encrypted: String) -> Result<Zeroizing<Vec<u8>>, Rv> {
    let request = Decrypt { mode, encrypted, iv: None };
    let reply =
        server.keys().expecting(key.uid()).decrypt(&key.id, &request).map_err(|why| Rv::of(&why, Asked::Use))?;
    BASE64_STANDARD.decode(reply.decrypted.as_bytes()).map(Zeroizing::new).map_err(|_| Rv(CKR_DEVICE_ERROR))
}

/// The standard's form of an ECDSA signature, r and s of equal length, from that of X9.62 (RFC 3279 §2.2.3).
fn both_halves(signature: &[u8], field_bytes: usize) -> Result<Vec<u8>, Rv> {
    let parse = || -> der::Result<_> {
        let mut reader = SliceReader::new(signature)?;
        let halves =
            reader.sequence(|inner| Ok::<_, der::Error>((UintRef::decode(inner)?, UintRef::decode(inner)?)))?;
        reader.finish()?;
        Ok(halves)
    };
    let (r, s) = parse().map_err(|_| Rv(CKR_DEVICE_ERROR))?;
    let mut bytes = filled(r.as_bytes(), field_bytes).to_vec();
    bytes.extend_from_slice(&filled(s.as_bytes(), field_bytes));
    if bytes.len() == 2 * field_bytes { Ok(bytes) } else { Err(Rv(CKR_DEVICE_ERROR)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shaped(shape: Shape, data: &[u8]) -> Result<Vec<u8>, Rv> {
        shape.shaped(Zeroizing::new(data.to_vec())).map(|bytes| bytes.to_vec())
    }

    #[test]
    fn a_digest_for_ecdsa_is_cut_at_the_right_or_filled_at_the_left() {
        let shape = Shape::Ecdsa { digest_bytes: 4, field_bytes: 4 };
        assert_eq!(shaped(shape, &[1, 2, 3, 4, 5, 6]), Ok(vec![1, 2, 3, 4]));
        assert_eq!(shaped(shape, &[1, 2]), Ok(vec![0, 0, 1, 2]));
        assert_eq!(shaped(shape, &[]), Err(Rv(CKR_DATA_LEN_RANGE)));
    }

    #[test]
    fn data_that_do_not_fit_are_refused() {
        assert_eq!(shaped(Shape::AtMost(2), &[1, 2, 3]), Err(Rv(CKR_DATA_LEN_RANGE)));
        assert_eq!(shaped(Shape::Exactly(2), &[1]), Err(Rv(CKR_DATA_LEN_RANGE)));
        assert_eq!(shaped(Shape::Modulus(2), &[1]), Ok(vec![0, 1]));
    }

    #[test]
    fn a_der_signature_becomes_two_halves_of_equal_length() {
        let der = [0x30, 7, 2, 1, 5, 2, 2, 0, 0x80];
        assert_eq!(both_halves(&der, 2), Ok(vec![0, 5, 0, 0x80]));
        assert_eq!(both_halves(&der[..8], 2), Err(Rv(CKR_DEVICE_ERROR)));
        assert_eq!(both_halves(&[0x30, 8, 2, 3, 1, 0, 0, 2, 1, 5], 2), Err(Rv(CKR_DEVICE_ERROR)));
    }
}
