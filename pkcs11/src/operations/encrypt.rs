//! `C_Encrypt…`: with public keys in the module, with AES by the server.

use casemate_api::mechanisms::{Hash, Mode};
use casemate_api::{DecryptMode, KeyType};
use casemate_client::Session as Server;
use cryptoki_sys::*;
use zeroize::Zeroizing;

use super::cbc::{Cbc, Direction};
use super::mechanisms::{Purpose, resolve};
use super::rsa::{self, Public};
use super::sign::filled;
use super::{Mechanism, Parameter, Parts, Produced, append};
use crate::objects::{Object, PublicKey};
use crate::rv::Rv;

/// Bytes that are being encrypted.
pub(crate) enum Encrypt {
    /// In blocks, which leave as soon as they are complete.
    Blocks(Cbc),
    /// At once, at the end.
    Rsa(Rsa),
}

pub(crate) struct Rsa {
    modulus: Vec<u8>,
    exponent: Vec<u8>,
    padding: Padding,
    input: Zeroizing<Vec<u8>>,
    parts: Parts,
}

enum Padding {
    None,
    Pkcs1,
    Oaep(Hash),
}

impl Encrypt {
    pub(crate) fn new(key: &Object, mechanism: &Mechanism) -> Result<Self, Rv> {
        if let Some(cbc) = Cbc::new(key, mechanism, Direction::Encrypt)? {
            return Ok(Self::Blocks(cbc));
        }
        let (Some(PublicKey::Rsa { modulus, exponent }), CKO_PUBLIC_KEY) = (key.public_key(), key.class()) else {
            return Err(Rv(CKR_KEY_TYPE_INCONSISTENT));
        };
        let resolved = resolve(KeyType::RSA, mechanism, Purpose::Encrypt)?;
        if !key.is(CKA_ENCRYPT) {
            return Err(Rv(CKR_KEY_FUNCTION_NOT_PERMITTED));
        }
        if matches!(&mechanism.parameter, Parameter::Oaep { label, .. } if !label.is_empty()) {
            return Err(Rv(CKR_MECHANISM_PARAM_INVALID));
        }
        let padding = match (resolved.row.mode, resolved.row.hash) {
            (Mode::Decrypt(DecryptMode::RAW), _) => Padding::None,
            (Mode::Decrypt(DecryptMode::PKCS1), _) => Padding::Pkcs1,
            (_, Some(hash)) if rsa::encrypts_oaep(hash) => Padding::Oaep(hash),
            _ => return Err(Rv(CKR_MECHANISM_PARAM_INVALID)),
        };
        Ok(Self::Rsa(Rsa {
            modulus: modulus.clone(),
            exponent: exponent.clone(),
            padding,
            input: Zeroizing::default(),
            parts: Parts::None,
        }))
    }

    pub(crate) fn update(&mut self, part: &[u8], room: Option<usize>, server: Option<&Server>) -> Result<Produced, Rv> {
        match self {
            Self::Blocks(cbc) => cbc.update(part, room, server),
            Self::Rsa(rsa) => {
                rsa.parts = Parts::Some;
                append(&mut rsa.input, part)?;
                Ok(Produced::Bytes(Zeroizing::default()))
            }
        }
    }

    pub(crate) fn all(&mut self, data: &[u8], room: Option<usize>, server: Option<&Server>) -> Result<Produced, Rv> {
        match self {
            Self::Blocks(cbc) => cbc.all(data, room, server),
            Self::Rsa(rsa) if rsa.parts == Parts::Some => Err(Rv(CKR_OPERATION_ACTIVE)),
            Self::Rsa(rsa) if room.is_none_or(|room| room < rsa.modulus.len()) => {
                Ok(Produced::Needs(rsa.modulus.len()))
            }
            Self::Rsa(rsa) => {
                append(&mut rsa.input, data)?;
                rsa.finish(room)
            }
        }
    }

    pub(crate) fn finish(&mut self, room: Option<usize>, server: Option<&Server>) -> Result<Produced, Rv> {
        match self {
            Self::Blocks(cbc) => cbc.finish(room, server),
            Self::Rsa(rsa) => rsa.finish(room),
        }
    }
}

impl Rsa {
    fn finish(&self, room: Option<usize>) -> Result<Produced, Rv> {
        if room.is_none_or(|room| room < self.modulus.len()) {
            return Ok(Produced::Needs(self.modulus.len()));
        }
        self.encrypt().map(|bytes| Produced::Bytes(Zeroizing::new(bytes)))
    }

    fn encrypt(&self) -> Result<Vec<u8>, Rv> {
        let public = Public { modulus: &self.modulus, exponent: &self.exponent };
        match self.padding {
            Padding::None if self.input.len() > self.modulus.len() => Err(Rv(CKR_DATA_LEN_RANGE)),
            Padding::None => {
                let number = filled(&self.input, self.modulus.len());
                public.apply(&number).ok_or(Rv(CKR_DATA_INVALID))
            }
            Padding::Pkcs1 => public.encrypt_pkcs1(&self.input),
            Padding::Oaep(hash) => public.encrypt_oaep(hash, &self.input),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The textbook's key: p = 61, q = 53, e = 17.
    #[test]
    fn data_that_follow_a_question_for_the_length_count() {
        let mut encrypt = Encrypt::Rsa(Rsa {
            modulus: vec![0x0c, 0xa1],
            exponent: vec![17],
            padding: Padding::None,
            input: Zeroizing::default(),
            parts: Parts::None,
        });
        encrypt.update(&[0], None, None).unwrap();
        for room in [None, Some(1)] {
            assert!(matches!(encrypt.finish(room, None), Ok(Produced::Needs(2))));
        }
        encrypt.update(&[65], None, None).unwrap();
        let Ok(Produced::Bytes(bytes)) = encrypt.finish(Some(2), None) else { panic!() };
        assert_eq!(*bytes, [0x0a, 0xe6]);
    }
}
