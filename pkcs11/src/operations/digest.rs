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
}

impl Digest {
    pub(crate) fn new(mechanism: &Mechanism) -> Result<Self, Rv> {
        let names = HASHES.iter().find(|names| names.digest == mechanism.kind).ok_or(Rv(CKR_MECHANISM_INVALID))?;
        mechanism.without_parameter()?;
        let algorithm = algorithm(names.hash).ok_or(Rv(CKR_MECHANISM_INVALID))?;
        Ok(Self { context: Context::new(algorithm), parts: Parts::None })
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
        if room.is_none_or(|room| room < length) {
            return Ok(Produced::Needs(length));
        }
        self.context.update(data);
        self.finish(room)
    }

    pub(crate) fn finish(&mut self, room: Option<usize>) -> Result<Produced, Rv> {
        let length = self.context.algorithm().output_len();
        if room.is_none_or(|room| room < length) {
            return Ok(Produced::Needs(length));
        }
        Ok(Produced::Bytes(Zeroizing::new(self.context.clone().finish().as_ref().to_vec())))
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

#[cfg(test)]
mod tests {
    use super::super::Parameter;
    use super::*;

    #[test]
    fn data_that_follow_a_question_for_the_length_count() {
        let mut digest = Digest::new(&Mechanism { kind: CKM_SHA256, parameter: Parameter::None }).unwrap();
        digest.update(b"a").unwrap();
        for room in [None, Some(31)] {
            assert!(matches!(digest.finish(room), Ok(Produced::Needs(32))));
        }
        digest.update(b"bc").unwrap();
        let Ok(Produced::Bytes(bytes)) = digest.finish(Some(32)) else { panic!() };
        assert_eq!(*bytes, sha256(b"abc"));
    }
}
