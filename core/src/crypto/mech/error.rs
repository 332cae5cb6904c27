//! Output and errors of mechanisms.

use zeroize::Zeroizing;

use crate::error::Error;

/// AWS-LC reported a failure. The caller knows the reason, or could not act on it.
#[derive(Debug)]
pub(crate) struct Failed;

/// Output of a mechanism. Wiped on drop, because it can be plaintext.
pub(super) type Output = Zeroizing<Vec<u8>>;

/// A cryptographic library failed on input it should accept. The text goes to the log and holds nothing secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct MechError(pub(crate) &'static str);

impl From<MechError> for Error {
    fn from(error: MechError) -> Self {
        Error::internal(error.0)
    }
}
