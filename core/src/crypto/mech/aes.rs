//! AES-CBC (SP 800-38A) without padding, by aws-lc-rs. The key's length selects AES-128, 192 or 256.

use aws_lc_rs::cipher::{
    AES_128, AES_192, AES_256, DecryptingKey, DecryptionContext, EncryptingKey, EncryptionContext, UnboundCipherKey,
};
use zeroize::Zeroizing;

use super::error::Output;
use crate::Error;
use crate::crypto::secret::SecretBytes;

/// Length of a block and of the initialisation vector, in bytes.
const BLOCK: usize = 16;

#[derive(Clone, Copy)]
pub(super) enum Direction {
    Encrypt,
    Decrypt,
}

impl Direction {
    /// What the API calls the input.
    fn input_field(self) -> &'static str {
        match self {
            Direction::Encrypt => "message",
            Direction::Decrypt => "encrypted",
        }
    }
    fn failed(self, why: impl std::fmt::Display) -> Error {
        Error::invalid(match self {
            Direction::Encrypt => format!("Encryption failed: {why}"),
            Direction::Decrypt => format!("Decryption failed: {why}"),
        })
    }
}

/// Encrypts or decrypts whole blocks; other lengths are refused, with the words `argument length` that clients look
/// for.
pub(super) fn cbc(key: &SecretBytes, direction: Direction, input: &[u8], iv: Option<&[u8]>) -> Result<Output, Error> {
    let iv = match (iv, direction) {
        (Some(iv), _) => iv,
        (None, Direction::Decrypt) => return Err(Error::invalid_field("iv", "AES-CBC decrypt requires IV")),
        (None, Direction::Encrypt) => return Err(Error::internal("AES-CBC encryption was called without an IV")),
    };
    let refused = |_| Error::internal("AWS-LC refuses AES-CBC");
    let algorithm = match key.byte_len() {
        16 => &AES_128,
        24 => &AES_192,
        32 => &AES_256,
        n => return Err(direction.failed(format_args!("key length {n} is not 16, 24 or 32"))),
    };
    let Ok(iv) = <[u8; BLOCK]>::try_from(iv) else {
        return Err(direction.failed(format_args!("IV length {} not of block size", iv.len())).in_field("iv"));
    };
    if !input.len().is_multiple_of(BLOCK) {
        let failed = direction.failed(format_args!("CBC: argument length {} not of block size", input.len()));
        return Err(failed.in_field(direction.input_field()));
    }
    let mut blocks = Zeroizing::new(input.to_vec());
    let key = UnboundCipherKey::new(algorithm, key.expose()).map_err(refused)?;
    match direction {
        Direction::Encrypt => {
            let key = EncryptingKey::cbc(key).map_err(refused)?;
            key.less_safe_encrypt(&mut blocks, EncryptionContext::Iv128(iv.into())).map_err(refused)?;
        }
        Direction::Decrypt => {
            let key = DecryptingKey::cbc(key).map_err(refused)?;
            key.decrypt(&mut blocks, DecryptionContext::Iv128(iv.into())).map_err(refused)?;
        }
    }
    Ok(blocks)
}
