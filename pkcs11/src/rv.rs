//! Return values of the standard's functions, and which of them each failure of a request is.

use casemate_client::Error;
use cryptoki_sys::*;

use crate::log;

/// Why a function did not succeed: a `CKR_*` other than `CKR_OK`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rv(pub CK_RV);

/// What the server was asked for when it refused; the same refusal means different things.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// Whether user and passphrase are right.
    Login,
    /// For another passphrase of a user.
    NewPin,
    /// To list or read keys.
    Read,
    /// To create a key, by generation or import.
    Create,
    /// To change or delete a key or its certificate.
    Change,
    /// To use a key, except for decryption.
    Use,
    /// To decrypt.
    Decrypt,
    /// For random bytes.
    Random,
}

impl Rv {
    /// The code for this failure of a request. The sentence of the error goes to the log, which is off by default.
    pub fn of(error: &Error, asked: Asked) -> Self {
        log::line(&error.to_string());
        Self(code(error, asked))
    }
}

/// The table. Codes that a function's own list in the standard lacks are avoided where one of that list says the same.
fn code(error: &Error, asked: Asked) -> CK_RV {
    match error {
        Error::Refused { status, message, .. } => refused(*status, message, asked),
        Error::Unauthenticated { .. } => match asked {
            Asked::Login | Asked::NewPin => CKR_PIN_INCORRECT,
            // The passphrase was changed after the login.
            Asked::Read | Asked::Create | Asked::Change | Asked::Use | Asked::Decrypt | Asked::Random => {
                CKR_USER_NOT_LOGGED_IN
            }
        },
        Error::Forbidden { .. } => match asked {
            Asked::Login => CKR_USER_TYPE_INVALID,
            Asked::Create | Asked::NewPin => CKR_TOKEN_WRITE_PROTECTED,
            Asked::Change => CKR_ACTION_PROHIBITED,
            // The user lacks a tag of the key, or is no Operator.
            Asked::Use | Asked::Decrypt => CKR_KEY_FUNCTION_NOT_PERMITTED,
            Asked::Read | Asked::Random => CKR_USER_NOT_LOGGED_IN,
        },
        Error::NotFound { .. } => match asked {
            Asked::Login | Asked::NewPin => CKR_PIN_INCORRECT,
            Asked::Read | Asked::Change => CKR_OBJECT_HANDLE_INVALID,
            Asked::Use | Asked::Decrypt => CKR_KEY_HANDLE_INVALID,
            Asked::Create | Asked::Random => CKR_FUNCTION_FAILED,
        },
        // The HSM is locked or not provisioned: its keys are not there until somebody unlocks it.
        Error::WrongState { .. } => CKR_DEVICE_REMOVED,
        // Something answers, but it is not the HSM that is configured.
        Error::Untrusted { .. } | Error::NotPinned { .. } | Error::Expired { .. } | Error::Garbled { .. } => {
            CKR_TOKEN_NOT_RECOGNIZED
        }
        Error::TooManyLogins { .. }
        | Error::Unreachable { .. }
        | Error::Unknown { .. }
        | Error::DeadlineExceeded { .. }
        | Error::Incomplete { .. } => CKR_DEVICE_ERROR,
        Error::NodeRequired { .. } | Error::Settings(_) | Error::Local(_) => CKR_FUNCTION_FAILED,
    }
}

/// What a status of 400 to 499 or 507 means.
fn refused(status: u16, message: &str, asked: Asked) -> CK_RV {
    match (status, asked) {
        (507, _) => CKR_DEVICE_MEMORY,
        (413, Asked::Use | Asked::Random) => CKR_DATA_LEN_RANGE,
        (413, Asked::Decrypt) => CKR_ENCRYPTED_DATA_LEN_RANGE,
        (_, Asked::Login) => CKR_PIN_INCORRECT,
        (_, Asked::NewPin) => CKR_PIN_INVALID,
        // The sentence of Casemate and NetHSM for a mechanism that is not in the key's list.
        (400, Asked::Use | Asked::Decrypt) if message.contains("do not allow") => CKR_KEY_FUNCTION_NOT_PERMITTED,
        (_, Asked::Use) => CKR_DATA_INVALID,
        (_, Asked::Decrypt) => CKR_ENCRYPTED_DATA_INVALID,
        // A name that is taken, or a value that the server does not accept.
        (_, Asked::Create | Asked::Change) => CKR_ATTRIBUTE_VALUE_INVALID,
        (_, Asked::Read | Asked::Random) => CKR_FUNCTION_FAILED,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(status: u16, message: &str) -> Error {
        Error::Refused { node: "n".into(), status, message: message.into() }
    }

    #[test]
    fn a_wrong_passphrase_is_told_from_one_that_was_changed() {
        let error = Error::Unauthenticated { node: "n".into() };
        assert_eq!(Rv::of(&error, Asked::Login), Rv(CKR_PIN_INCORRECT));
        assert_eq!(Rv::of(&error, Asked::Use), Rv(CKR_USER_NOT_LOGGED_IN));
    }

    #[test]
    fn refusals_are_told_apart_by_what_was_asked() {
        assert_eq!(Rv::of(&refusal(507, "full"), Asked::Create), Rv(CKR_DEVICE_MEMORY));
        assert_eq!(
            Rv::of(&refusal(400, "Key with id a already exists"), Asked::Create),
            Rv(CKR_ATTRIBUTE_VALUE_INVALID)
        );
        assert_eq!(Rv::of(&refusal(413, "too large"), Asked::Use), Rv(CKR_DATA_LEN_RANGE));
        assert_eq!(Rv::of(&refusal(400, "Decryption failure"), Asked::Decrypt), Rv(CKR_ENCRYPTED_DATA_INVALID));
        let not_listed = refusal(400, "Key mechanisms do not allow requested signing.");
        assert_eq!(Rv::of(&not_listed, Asked::Use), Rv(CKR_KEY_FUNCTION_NOT_PERMITTED));
    }
}
