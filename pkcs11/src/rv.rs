//! Return values of the standard's functions.

use casemate_client::Error;
use cryptoki_sys::{CK_RV, CKR_FUNCTION_FAILED};

/// Why a function did not succeed: a `CKR_*` other than `CKR_OK`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rv(pub CK_RV);

/// What the server was asked for when it refused; the same refusal means different things.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// To list or read keys.
    Read,
    /// To create a key, by generation or import.
    Create,
    /// To change or delete a key or its certificate.
    Change,
    /// To use a key.
    Use,
}

impl Rv {
    /// The code for this failure of a request.
    pub fn of(_error: &Error, _asked: Asked) -> Self {
        Self(CKR_FUNCTION_FAILED)
    }
}
