//! Operations of a session: what is begun by `C_…Init` and goes on until its result is delivered.
//!
//! A result is computed once. If the application's buffer is too small for it, it is kept until there is room.

use aws_lc_rs::digest::Context;
use casemate_api::limits::PKCS11_INPUT_MAX_BYTES;
use cryptoki_sys::*;
use zeroize::Zeroizing;

use crate::rv::Rv;

mod cbc;
mod decrypt;
pub(crate) mod digest;
mod encrypt;
pub mod find;
pub mod mechanisms;
pub mod random;
mod rsa;
mod sign;
pub mod steps;
mod verify;

/// What a session is in the middle of: at most one of each.
#[derive(Default)]
pub(crate) struct Active {
    /// How many logouts there had been when it was begun.
    logouts: u64,
    pub(crate) find: Option<find::Find>,
    pub(crate) digest: Option<digest::Digest>,
    pub(crate) sign: Option<sign::Sign>,
    pub(crate) verify: Option<verify::Verify>,
    pub(crate) encrypt: Option<encrypt::Encrypt>,
    pub(crate) decrypt: Option<decrypt::Decrypt>,
}

impl Active {
    /// Ends what is done with keys, if somebody has logged out since.
    pub(crate) fn is_of_login(&mut self, logouts: u64) {
        if self.logouts != logouts {
            *self = Self { digest: self.digest.take(), logouts, ..Self::default() };
        }
    }

    /// Whether there is an operation with a key.
    pub(crate) fn uses_a_key(&self) -> bool {
        self.sign.is_some() || self.decrypt.is_some() || self.encrypt.is_some()
    }

    /// `C_SessionCancel`: ends the operations that these flags name.
    pub(crate) fn cancel(&mut self, flags: CK_FLAGS) -> Result<(), Rv> {
        let known = CKF_FIND_OBJECTS | CKF_ENCRYPT | CKF_DECRYPT | CKF_DIGEST | CKF_SIGN | CKF_VERIFY;
        // Of these there is never one: cancelling it is no change.
        let never = CKF_MESSAGE_ENCRYPT
            | CKF_MESSAGE_DECRYPT
            | CKF_MESSAGE_SIGN
            | CKF_MESSAGE_VERIFY
            | CKF_SIGN_RECOVER
            | CKF_VERIFY_RECOVER
            | CKF_GENERATE
            | CKF_GENERATE_KEY_PAIR
            | CKF_WRAP
            | CKF_UNWRAP
            | CKF_DERIVE;
        if flags & !(known | never) != 0 {
            return Err(Rv(CKR_ARGUMENTS_BAD));
        }
        let named = |flag| flags & flag != 0;
        self.find.take_if(|_| named(CKF_FIND_OBJECTS));
        self.encrypt.take_if(|_| named(CKF_ENCRYPT));
        self.decrypt.take_if(|_| named(CKF_DECRYPT));
        self.digest.take_if(|_| named(CKF_DIGEST));
        self.sign.take_if(|_| named(CKF_SIGN));
        self.verify.take_if(|_| named(CKF_VERIFY));
        Ok(())
    }
}

/// A `CK_MECHANISM`, copied out of the application's memory.
pub struct Mechanism {
    /// `CKM_*`
    pub kind: CK_MECHANISM_TYPE,
    /// Its parameter.
    pub parameter: Parameter,
}

/// The parameter of a mechanism.
pub enum Parameter {
    /// None.
    None,
    /// Bytes, such as an initialisation vector.
    Bytes(Vec<u8>),
    /// `CK_RSA_PKCS_PSS_PARAMS`
    Pss {
        /// `CKM_*` of the hash.
        hash: CK_MECHANISM_TYPE,
        /// `CKG_MGF1_*`
        mgf: CK_RSA_PKCS_MGF_TYPE,
        /// Length of the salt.
        salt_bytes: CK_ULONG,
    },
    /// `CK_RSA_PKCS_OAEP_PARAMS`
    Oaep {
        /// `CKM_*` of the hash.
        hash: CK_MECHANISM_TYPE,
        /// `CKG_MGF1_*`
        mgf: CK_RSA_PKCS_MGF_TYPE,
        /// The label.
        label: Vec<u8>,
    },
    /// `CK_EDDSA_PARAMS`
    Eddsa {
        /// Whether the message is hashed first.
        prehash: bool,
        /// Whether there is a context.
        context: bool,
    },
}

impl Mechanism {
    /// Refuses a parameter where there is none.
    pub(crate) fn without_parameter(&self) -> Result<(), Rv> {
        match &self.parameter {
            Parameter::None => Ok(()),
            _ => Err(Rv(CKR_MECHANISM_PARAM_INVALID)),
        }
    }
}

/// What a call came to that delivers bytes.
pub enum Produced {
    /// The bytes.
    Bytes(Zeroizing<Vec<u8>>),
    /// There is no room for them: it takes this many bytes. The operation goes on.
    Needs(usize),
}

impl Produced {
    /// The bytes if there is room for them. `None` as room: the application asks for the length only.
    fn if_room(bytes: &mut Zeroizing<Vec<u8>>, room: Option<usize>) -> Self {
        match room {
            Some(room) if bytes.len() <= room => Self::Bytes(std::mem::take(bytes)),
            _ => Self::Needs(bytes.len()),
        }
    }
}

/// What an operation in one or several parts has been given so far.
pub(crate) enum Input {
    /// All of it.
    Whole(Zeroizing<Vec<u8>>),
    /// Its hash.
    Hashed(Box<Context>),
}

impl Input {
    /// Whole, or hashed by this function.
    fn new(hash: Option<&'static aws_lc_rs::digest::Algorithm>) -> Self {
        match hash {
            None => Self::Whole(Zeroizing::default()),
            Some(hash) => Self::Hashed(Box::new(Context::new(hash))),
        }
    }

    fn add(&mut self, part: &[u8]) -> Result<(), Rv> {
        match self {
            Self::Hashed(context) => context.update(part),
            Self::Whole(bytes) => append(bytes, part)?,
        }
        Ok(())
    }

    /// The bytes, or their digest.
    fn finish(self) -> Zeroizing<Vec<u8>> {
        match self {
            Self::Whole(bytes) => bytes,
            Self::Hashed(context) => Zeroizing::new(context.finish().as_ref().to_vec()),
        }
    }
}

/// Appends within the bound, and so that no copy of the bytes is left behind when they move.
fn append(bytes: &mut Zeroizing<Vec<u8>>, part: &[u8]) -> Result<(), Rv> {
    let length = bytes.len() + part.len();
    if length > PKCS11_INPUT_MAX_BYTES {
        return Err(Rv(CKR_DATA_LEN_RANGE));
    }
    if length > bytes.capacity() {
        let mut longer = Zeroizing::new(Vec::with_capacity(length.next_power_of_two()));
        longer.extend_from_slice(bytes);
        *bytes = longer;
    }
    bytes.extend_from_slice(part);
    Ok(())
}

/// Whether an operation has been given parts.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Parts {
    /// Not yet.
    None,
    /// By `C_…Update`: it ends by `C_…Final`.
    Some,
}
