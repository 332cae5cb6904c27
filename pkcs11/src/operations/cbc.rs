//! AES in CBC mode (SP 800-38A), block by block: by the server, or in the module with a secret of its own. Complete blocks
//! leave with the part that completes them. Padding (`CKM_AES_CBC_PAD`, RFC 5652 §6.3) is added and taken off here.

use aws_lc_rs::cipher::{
    AES_128, AES_192, AES_256, DecryptingKey, DecryptionContext, EncryptingKey, EncryptionContext, UnboundCipherKey,
};
use aws_lc_rs::iv::FixedLength;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use casemate_api::KeyType;
use casemate_api::body::keys::{Decrypt, Encrypt};
use casemate_api::limits::PKCS11_INPUT_MAX_BYTES;
use casemate_api::mechanisms::Mode;
use casemate_client::Session as Server;
use cryptoki_sys::*;
use subtle::{Choice, ConditionallySelectable, ConstantTimeEq, ConstantTimeGreater};
use zeroize::Zeroizing;

use super::mechanisms::{Purpose, permitted, resolve};
use super::{Mechanism, Parameter, Parts, Produced};
use crate::objects::{KeyOnServer, Object};
use crate::rv::{Asked, Rv};

/// Blocks that are being encrypted or decrypted.
pub(crate) struct Cbc {
    with: With,
    direction: Direction,
    padded: bool,
    iv: [u8; BLOCK],
    /// What is not processed yet: less than a block, or the last one, in which the padding may be.
    pending: Zeroizing<Vec<u8>>,
    parts: Parts,
    /// The last blocks, if there was no room for them.
    done: Option<Zeroizing<Vec<u8>>>,
}

enum With {
    Server { key: KeyOnServer, mode: Mode },
    Secret(Zeroizing<Vec<u8>>),
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Direction {
    Encrypt,
    Decrypt,
}

const BLOCK: usize = 16;

impl Cbc {
    /// `None`: `mechanism` is none of these.
    pub(crate) fn new(key: &Object, mechanism: &Mechanism, direction: Direction) -> Result<Option<Self>, Rv> {
        let padded = match mechanism.kind {
            CKM_AES_CBC => false,
            CKM_AES_CBC_PAD => true,
            _ => return Ok(None),
        };
        let (purpose, attribute) = match direction {
            Direction::Encrypt => (Purpose::Encrypt, CKA_ENCRYPT),
            Direction::Decrypt => (Purpose::Decrypt, CKA_DECRYPT),
        };
        let resolved = resolve(KeyType::Generic, mechanism, purpose)?;
        let Parameter::Bytes(iv) = &mechanism.parameter else { return Err(Rv(CKR_MECHANISM_PARAM_INVALID)) };
        let iv = iv.as_slice().try_into().map_err(|_| Rv(CKR_MECHANISM_PARAM_INVALID))?;
        if key.class() != CKO_SECRET_KEY {
            return Err(Rv(CKR_KEY_TYPE_INCONSISTENT));
        }
        let with = match (key.on_server(), key.secret()) {
            (Some(id), _) => {
                permitted(key, attribute, resolved.row.mechanism)?;
                With::Server { key: id, mode: resolved.row.mode }
            }
            (None, Some(secret)) if key.is(attribute) => With::Secret(Zeroizing::new(secret.to_vec())),
            (None, Some(_)) => return Err(Rv(CKR_KEY_FUNCTION_NOT_PERMITTED)),
            (None, None) => return Err(Rv(CKR_KEY_TYPE_INCONSISTENT)),
        };
        let pending = Zeroizing::default();
        Ok(Some(Self { with, direction, padded, iv, pending, parts: Parts::None, done: None }))
    }

    /// How much of so many bytes leaves before the end.
    fn complete(&self, length: usize) -> usize {
        let held_back = usize::from(self.padded && self.direction == Direction::Decrypt);
        length.saturating_sub(held_back) / BLOCK * BLOCK
    }

    /// How long the whole is, at most.
    fn whole(&self, length: usize) -> usize {
        match self.direction {
            Direction::Encrypt if self.padded => (length / BLOCK + 1) * BLOCK,
            Direction::Encrypt | Direction::Decrypt => length,
        }
    }

    pub(crate) fn update(&mut self, part: &[u8], room: Option<usize>, server: Option<&Server>) -> Result<Produced, Rv> {
        self.bounded(part)?;
        if self.done.is_some() {
            return Err(Rv(CKR_OPERATION_ACTIVE));
        }
        let leaving = self.complete(self.pending.len() + part.len());
        if room.is_none_or(|room| room < leaving) {
            return Ok(Produced::Needs(leaving));
        }
        self.parts = Parts::Some;
        let mut blocks = Zeroizing::new([self.pending.as_slice(), part].concat());
        self.pending = Zeroizing::new(blocks.split_off(leaving));
        if blocks.is_empty() {
            return Ok(Produced::Bytes(blocks));
        }
        self.process(&mut blocks, server)?;
        Ok(Produced::Bytes(blocks))
    }

    pub(crate) fn all(&mut self, data: &[u8], room: Option<usize>, server: Option<&Server>) -> Result<Produced, Rv> {
        self.bounded(data)?;
        if self.parts == Parts::Some {
            return Err(Rv(CKR_OPERATION_ACTIVE));
        }
        let (length, removes) = (self.whole(data.len()), self.padded && self.direction == Direction::Decrypt);
        // Of padded text the length is not known before it is decrypted: it may fit.
        if self.done.is_none() && (room.is_none() || !removes && room.is_some_and(|room| room < length)) {
            return Ok(Produced::Needs(length));
        }
        if self.done.is_none() {
            self.pending = Zeroizing::new(data.to_vec());
        }
        self.end(room, server)
    }

    pub(crate) fn finish(&mut self, room: Option<usize>, server: Option<&Server>) -> Result<Produced, Rv> {
        if room.is_none() && self.done.is_none() {
            return Ok(Produced::Needs(self.whole(self.pending.len())));
        }
        self.end(room, server)
    }

    fn end(&mut self, room: Option<usize>, server: Option<&Server>) -> Result<Produced, Rv> {
        if self.done.is_none() {
            self.done = Some(self.last(server)?);
        }
        Ok(self.done.as_mut().map_or(Produced::Needs(0), |done| Produced::if_room(done, room)))
    }

    /// What is pending, processed.
    fn last(&mut self, server: Option<&Server>) -> Result<Zeroizing<Vec<u8>>, Rv> {
        let mut blocks = std::mem::take(&mut self.pending);
        if self.padded && self.direction == Direction::Encrypt {
            let padding = BLOCK - blocks.len() % BLOCK;
            let mut padded = Zeroizing::new(Vec::with_capacity(blocks.len() + padding));
            padded.extend_from_slice(&blocks);
            padded.resize(blocks.len() + padding, u8::try_from(padding).unwrap_or_default());
            blocks = padded;
        }
        let empty = blocks.is_empty() && self.padded;
        if !blocks.len().is_multiple_of(BLOCK) || empty {
            return Err(Rv(match self.direction {
                Direction::Encrypt => CKR_DATA_LEN_RANGE,
                Direction::Decrypt => CKR_ENCRYPTED_DATA_LEN_RANGE,
            }));
        }
        if !blocks.is_empty() {
            self.process(&mut blocks, server)?;
        }
        if self.padded && self.direction == Direction::Decrypt {
            let length = unpadded(&blocks).ok_or(Rv(CKR_ENCRYPTED_DATA_INVALID))?;
            blocks.truncate(length);
        }
        Ok(blocks)
    }

    fn bounded(&self, part: &[u8]) -> Result<(), Rv> {
        if part.len() > PKCS11_INPUT_MAX_BYTES { Err(Rv(CKR_DATA_LEN_RANGE)) } else { Ok(()) }
    }

    /// Encrypts or decrypts complete blocks, and keeps what the next ones are chained to.
    fn process(&mut self, blocks: &mut Zeroizing<Vec<u8>>, server: Option<&Server>) -> Result<(), Rv> {
        let last = |blocks: &[u8]| blocks.last_chunk::<BLOCK>().copied().ok_or(Rv(CKR_FUNCTION_FAILED));
        let before = last(blocks)?;
        let length = blocks.len();
        match &self.with {
            With::Server { key, mode } => {
                let server = server.ok_or(Rv(CKR_USER_NOT_LOGGED_IN))?;
                *blocks = ask(server, key, *mode, &self.iv, blocks)?;
                if blocks.len() != length {
                    return Err(Rv(CKR_DEVICE_ERROR));
                }
            }
            With::Secret(secret) => {
                compute(secret, self.direction, self.iv, blocks).map_err(|_| Rv(CKR_KEY_SIZE_RANGE))?;
            }
        }
        self.iv = match self.direction {
            Direction::Encrypt => last(blocks)?,
            Direction::Decrypt => before,
        };
        Ok(())
    }
}

fn ask(server: &Server, key: &KeyOnServer, mode: Mode, iv: &[u8], blocks: &[u8]) -> Result<Zeroizing<Vec<u8>>, Rv> {
    let iv = Some(BASE64_STANDARD.encode(iv));
    let text = Zeroizing::new(BASE64_STANDARD.encode(blocks));
    let reply = match mode {
        Mode::Encrypt(mode) => {
            let request = Encrypt { mode, message: text, iv };
            let reply = server
                .keys()
                .expecting(key.uid())
                .encrypt(&key.id, &request)
                .map_err(|why| Rv::of(&why, Asked::Use))?;
            Zeroizing::new(reply.encrypted)
        }
        Mode::Decrypt(mode) => {
            let request = Decrypt { mode, encrypted: text.to_string(), iv };
            server
                .keys()
                .expecting(key.uid())
                .decrypt(&key.id, &request)
                .map_err(|why| Rv::of(&why, Asked::Decrypt))?
                .decrypted
        }
        Mode::Sign(_) => return Err(Rv(CKR_MECHANISM_INVALID)),
    };
    BASE64_STANDARD.decode(reply.as_bytes()).map(Zeroizing::new).map_err(|_| Rv(CKR_DEVICE_ERROR))
}

fn compute(
    secret: &[u8],
    direction: Direction,
    iv: [u8; BLOCK],
    blocks: &mut [u8],
) -> Result<(), aws_lc_rs::error::Unspecified> {
    let algorithm = match secret.len() {
        16 => &AES_128,
        24 => &AES_192,
        _ => &AES_256,
    };
    let key = UnboundCipherKey::new(algorithm, secret)?;
    match direction {
        Direction::Encrypt => {
            let context = EncryptionContext::Iv128(FixedLength::from(iv));
            EncryptingKey::cbc(key)?.less_safe_encrypt(blocks, context).map(drop)
        }
        Direction::Decrypt => {
            let context = DecryptionContext::Iv128(FixedLength::from(iv));
            DecryptingKey::cbc(key)?.decrypt(blocks, context).map(drop)
        }
    }
}

/// The length without the padding; `None` if that is wrong. How long it takes tells nothing about where it is wrong.
fn unpadded(blocks: &[u8]) -> Option<usize> {
    let last = blocks.last_chunk::<BLOCK>()?;
    let count = last[BLOCK - 1];
    let mut valid = !count.ct_eq(&0) & !count.ct_gt(&(BLOCK as u8));
    for (from_end, byte) in (1_u8..).zip(last.iter().rev()) {
        let of_padding = !from_end.ct_gt(&count);
        valid &= Choice::conditional_select(&Choice::from(1), &byte.ct_eq(&count), of_padding);
    }
    bool::from(valid).then(|| blocks.len() - usize::from(count))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn padding_is_taken_off_or_refused() {
        let mut block = [7; 16];
        block[13..].fill(3);
        assert_eq!(unpadded(&block), Some(13));
        block[14] = 2;
        assert_eq!(unpadded(&block), None);
        assert_eq!(unpadded(&[16; 16]), Some(0));
        assert_eq!(unpadded(&[17; 16]), None);
        assert_eq!(unpadded(&[0; 16]), None);
        assert_eq!(unpadded(&[]), None);
    }
}
