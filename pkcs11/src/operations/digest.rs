//! `C_Digest…`: computed in the module (FIPS 180-4).

use aws_lc_rs::digest::{self, Algorithm, Context, SHA1_FOR_LEGACY_USE_ONLY, SHA224, SHA256, SHA384, SHA512};
use casemate_api::mechanisms::Hash;
use cryptoki_sys::*;
use zeroize::Zeroizing;

use super::mechanisms::HASHES;
use super::{Mechanism, Parts, Produced};
use crate::rv::Rv;

/// A digest that is being computed.
pub(crate) struct Digest {
    context: Context,
    parts: Parts,
    done: Option<Zeroizing<Vec<u8>>>,
}

impl Digest {
    pub(crate) fn new(mechanism: &Mechanism) -> Result<Self, Rv> {
        let names = HASHES.iter().find(|names| names.digest == mechanism.kind).ok_or(Rv(CKR_MECHANISM_INVALID))?;
        mechanism.without_parameter()?;
        let algorithm = algorithm(names.hash).ok_or(Rv(CKR_MECHANISM_INVALID))?;
        Ok(Self { context: Context::new(algorithm), parts: Parts::None, done: None })
    }

    pub(crate) fn update(&mut self, part: &[u8]) -> Result<(), Rv> {
        self.parts = Parts::Some;
        self.context.update(part);
        Ok(())
    }

    pub(crate) fn all(&mut self, data: &[u8], room: Option<usize>) -> Result<Produced, Rv> {
        if self.parts == Parts::Some {
            return Err(Rv(CKR_OPERATION_ACTIVE));
        }
        let length = self.context.algorithm().output_len();
        match room {
            Some(room) if room >= length => {
                self.context.update(data);
                self.finish(Some(room))
            }
            _ => Ok(Produced::Needs(length)),
        }
    }

    pub(crate) fn finish(&mut self, room: Option<usize>) -> Result<Produced, Rv> {
        let done = self.done.get_or_insert_with(|| Zeroizing::new(self.context.clone().finish().as_ref().to_vec()));
        Ok(Produced::if_room(done, room))
    }
}

/// What computes `hash` here; nothing computes MD5.
pub(crate) fn algorithm(hash: Hash) -> Option<&'static Algorithm> {
    match hash {
        Hash::Md5 => None,
        Hash::Sha1 => Some(&SHA1_FOR_LEGACY_USE_ONLY),
        Hash::Sha224 => Some(&SHA224),
        Hash::Sha256 => Some(&SHA256),
        Hash::Sha384 => Some(&SHA384),
        Hash::Sha512 => Some(&SHA512),
    }
}

/// SHA-256 of `bytes`.
pub(crate) fn sha256(bytes: &[u8]) -> Vec<u8> {
    digest::digest(&SHA256, bytes).as_ref().to_vec()
}
