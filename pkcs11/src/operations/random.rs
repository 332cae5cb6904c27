//! `C_GenerateRandom`: bytes of the server.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use casemate_api::limits::{PKCS11_INPUT_MAX_BYTES, RANDOM_MAX_BYTES};
use cryptoki_sys::*;
use zeroize::Zeroizing;

use crate::rv::{Asked, Rv};
use crate::sessions::Session;

/// `length` random bytes. Before a login they can be had only if the Operator's passphrase is configured.
pub fn bytes(session: &Session, length: usize) -> Result<Zeroizing<Vec<u8>>, Rv> {
    if length > PKCS11_INPUT_MAX_BYTES {
        return Err(Rv(CKR_ARGUMENTS_BAD));
    }
    let held = session.slot.reading();
    let mut bytes = Zeroizing::new(Vec::with_capacity(length));
    while bytes.len() < length {
        let server = held.operator.as_ref().ok_or(Rv(CKR_USER_NOT_LOGGED_IN))?;
        let part = (length - bytes.len()).min(RANDOM_MAX_BYTES);
        let reply = server.random(part).map_err(|why| Rv::of(&why, Asked::Random))?;
        let random = BASE64_STANDARD.decode(reply.random).map(Zeroizing::new).map_err(|_| Rv(CKR_DEVICE_ERROR))?;
        if random.len() != part {
            return Err(Rv(CKR_DEVICE_ERROR));
        }
        bytes.extend_from_slice(&random);
    }
    Ok(bytes)
}
