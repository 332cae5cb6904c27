//! What a mechanism gives, and what goes wrong in it.

use zeroize::Zeroizing;

use crate::error::Error;

/// AWS-LC refused. Why is known to the caller, or nothing a caller could act on.
#[derive(Debug)]
pub(crate) struct Failed;

/// What a mechanism returns. Wiped on drop, as plaintext is among it.
pub(super) type Output = Zeroizing<Vec<u8>>;

/// A cryptographic library refused what it should not refuse. The text is for the log and holds nothing secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct MechError(pub(crate) &'static str);

impl From<MechError> for Error {
    fn from(error: MechError) -> Self {
        Error::internal(error.0)
    }
}
