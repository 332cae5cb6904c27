//! `C_Decrypt…`: by the server, except with secrets of the module.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use casemate_api::body::keys::Decrypt as Request;
use casemate_api::mechanisms::Mode;
use casemate_api::{DecryptMode, KeyType};
use casemate_client::Session as Server;
use cryptoki_sys::*;
use zeroize::Zeroizing;

use super::cbc::{Cbc, Direction};
use super::mechanisms::{Purpose, permitted, resolve};
use super::{Mechanism, Parameter, Parts, Produced, append};
use crate::objects::{KeyOnServer, Object, PublicKey};
use crate::rv::{Asked, Rv};

/// Bytes that are being decrypted.
pub(crate) enum Decrypt {
    /// In blocks, which leave as soon as they are complete.
    Blocks(Cbc),
    /// At once, at the end.
    Rsa(Rsa),
}

pub(crate) struct Rsa {
    key: KeyOnServer,
    mode: DecryptMode,
    modulus_bytes: usize,
    input: Zeroizing<Vec<u8>>,
    parts: Parts,
    done: Option<Zeroizing<Vec<u8>>>,
}

impl Decrypt {
    pub(crate) fn new(key: &Object, mechanism: &Mechanism) -> Result<Self, Rv> {
        if let Some(cbc) = Cbc::new(key, mechanism, Direction::Decrypt)? {
            return Ok(Self::Blocks(cbc));
        }
        let (Some(id), Some(PublicKey::Rsa { modulus, .. })) = (key.on_server(), key.public_key()) else {
            return Err(Rv(CKR_KEY_TYPE_INCONSISTENT));
        };
        let row = resolve(KeyType::RSA, mechanism, Purpose::Decrypt)?.row;
        if key.class() != CKO_PRIVATE_KEY {
            return Err(Rv(CKR_KEY_FUNCTION_NOT_PERMITTED));
        }
        permitted(key, CKA_DECRYPT, row.mechanism)?;
        if matches!(&mechanism.parameter, Parameter::Oaep { label, .. } if !label.is_empty()) {
            return Err(Rv(CKR_MECHANISM_PARAM_INVALID));
        }
        let Mode::Decrypt(mode) = row.mode else { return Err(Rv(CKR_MECHANISM_INVALID)) };
        Ok(Self::Rsa(Rsa {
            key: id,
            mode,
            modulus_bytes: modulus.len(),
            input: Zeroizing::default(),
            parts: Parts::None,
            done: None,
        }))
    }

    pub(crate) fn update(&mut self, part: &[u8], room: Option<usize>, server: Option<&Server>) -> Result<Produced, Rv> {
        match self {
            Self::Blocks(cbc) => cbc.update(part, room, server),
            // The result is there and waits for room.
            Self::Rsa(rsa) if rsa.done.is_some() => Err(Rv(CKR_OPERATION_ACTIVE)),
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
            Self::Rsa(rsa) if rsa.done.is_some() => rsa.finish(room, server),
            // How long the text is, is not known before it is decrypted: this is enough.
            Self::Rsa(rsa) if room.is_none() => Ok(Produced::Needs(rsa.modulus_bytes)),
            Self::Rsa(rsa) => {
                append(&mut rsa.input, data)?;
                rsa.finish(room, server)
            }
        }
    }

    pub(crate) fn finish(&mut self, room: Option<usize>, server: Option<&Server>) -> Result<Produced, Rv> {
        match self {
            Self::Blocks(cbc) => cbc.finish(room, server),
            Self::Rsa(rsa) if room.is_none() && rsa.done.is_none() => Ok(Produced::Needs(rsa.modulus_bytes)),
            Self::Rsa(rsa) => rsa.finish(room, server),
        }
    }
}

impl Rsa {
    fn finish(&mut self, room: Option<usize>, server: Option<&Server>) -> Result<Produced, Rv> {
        if self.done.is_none() {
            self.done = Some(self.decrypt(server)?);
        }
        Ok(self.done.as_mut().map_or(Produced::Needs(0), |done| Produced::if_room(done, room)))
    }

    fn decrypt(&self, server: Option<&Server>) -> Result<Zeroizing<Vec<u8>>, Rv> {
        let server = server.ok_or(Rv(CKR_USER_NOT_LOGGED_IN))?;
        if self.input.len() != self.modulus_bytes {
            return Err(Rv(CKR_ENCRYPTED_DATA_LEN_RANGE));
        }
        let encrypted = BASE64_STANDARD.encode(self.input.as_slice());
        let request = Request { mode: self.mode, encrypted, iv: None };
        let reply = server
            .keys()
            .expecting(self.key.uid())
            .decrypt(&self.key.id, &request)
            .map_err(|why| Rv::of(&why, Asked::Decrypt))?;
        BASE64_STANDARD.decode(reply.decrypted.as_bytes()).map(Zeroizing::new).map_err(|_| Rv(CKR_DEVICE_ERROR))
    }
}
