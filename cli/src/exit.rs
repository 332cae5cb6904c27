//! The failures of commands, and the exit code of each. The codes do not change, so that scripts can rely on them.
//!
//! | Code | Name | Meaning |
//! |---|---|---|
//! | 0 | | done |
//! | 1 | `local` | a file, the terminal or a passphrase command on this machine failed |
//! | 2 | `usage` | the arguments, the environment or the profile are wrong |
//! | 3 | `unreachable` | no HSM answered, or not in time; this call changed nothing, earlier steps of the command may have |
//! | 4 | `untrusted` | the HSM's certificate is not trusted or has expired; nothing was sent |
//! | 5 | `unauthenticated` | wrong user or passphrase, or no login is accepted for a moment |
//! | 6 | `forbidden` | this user may not do this; for `unlock`: the passphrase is wrong |
//! | 7 | `not-found` | there is no object of that name |
//! | 8 | `wrong-state` | the HSM does not offer this in its current state |
//! | 9 | `conflict` | it exists already (`409`; for key ids the API uses `400`, which is code 10) |
//! | 10 | `refused` | the HSM refused the request for another reason |
//! | 11 | `unknown` | the answer was lost: check before you try again |
//! | 12 | `garbled` | the answer is not that of an HSM, or of another version |
//! | 13 | `declined` | the question whether to continue was not answered with yes |
//! | 14 | `drift` | the HSM differs from the file |
//! | 15 | `audit-broken` | an audit log was altered, or contradicts itself or another one |

use casemate_client::Error;

/// Why a command failed. `Display` is for people: what happened, where, and what to do.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// Something on this machine failed.
    #[error("{0}")]
    Local(String),
    /// The arguments, the environment or a file given to the command are wrong.
    #[error("{0}")]
    Usage(String),
    /// The HSM is in the wrong state, which was found out before anything was sent.
    #[error("{0}")]
    WrongState(String),
    /// There is no such object, which was found out before anything was sent.
    #[error("{0}")]
    NotFound(String),
    /// It exists already, which was found out before anything was sent.
    #[error("{0}")]
    Conflict(String),
    /// The user did not answer a question with yes.
    #[error("Nothing was done.")]
    Declined,
    /// A passphrase other than that of a user is wrong.
    #[error("{0}")]
    Forbidden(String),
    /// Checks of `casemate doctor` failed, which it has printed; `code` is that of the first one.
    #[error("{failed} of {checks} checks failed.")]
    ChecksFailed {
        /// How many failed.
        failed: usize,
        /// How many checks there were.
        checks: usize,
        /// Exit code and name.
        code: (u8, &'static str),
    },
    /// The HSM differs from a file.
    #[error("{0}")]
    Drift(String),
    /// An audit log was altered, or contradicts itself or another one.
    #[error("{0}")]
    AuditBroken(String),
    /// Another failure, with a text in front.
    #[error("{what}: {why}")]
    Prefixed {
        /// The text.
        what: String,
        /// The failure.
        why: Box<Failure>,
    },
    /// An error of the client, with a hint if the command line has one.
    #[error("{0}{hint}", hint = hint(.0))]
    Call(#[from] Error),
}

/// What to do next on the command line.
fn hint(error: &Error) -> String {
    match error {
        Error::Untrusted { fingerprint, .. } => {
            format!(" To pin it: --pin {fingerprint}, or pin = [\"{fingerprint}\"] in the profile.")
        }
        Error::WrongState { .. } => " `casemate state` shows its state.".into(),
        Error::NodeRequired { .. } => " Give it with --host.".into(),
        _ => String::new(),
    }
}

impl Failure {
    /// Puts a text in front of the failure.
    pub(crate) fn prefixed(self, what: impl Into<String>) -> Self {
        Failure::Prefixed { what: what.into(), why: Box::new(self) }
    }

    /// The exit code and its name.
    pub(crate) fn code(&self) -> (u8, &'static str) {
        match self {
            Failure::Local(_) => (1, "local"),
            Failure::Usage(_) => (2, "usage"),
            Failure::Forbidden(_) => (6, "forbidden"),
            Failure::NotFound(_) => (7, "not-found"),
            Failure::WrongState(_) => (8, "wrong-state"),
            Failure::Conflict(_) => (9, "conflict"),
            Failure::Declined => (13, "declined"),
            Failure::ChecksFailed { code, .. } => *code,
            Failure::Drift(_) => (14, "drift"),
            Failure::AuditBroken(_) => (15, "audit-broken"),
            Failure::Prefixed { why, .. } => why.code(),
            Failure::Call(error) => match error {
                Error::Local(_) | Error::Incomplete { .. } => (1, "local"),
                Error::Settings(_) | Error::NodeRequired { .. } => (2, "usage"),
                Error::Unreachable { .. } | Error::DeadlineExceeded { .. } => (3, "unreachable"),
                Error::Untrusted { .. } | Error::NotPinned { .. } | Error::Expired { .. } => (4, "untrusted"),
                Error::Unauthenticated { .. } | Error::TooManyLogins { .. } => (5, "unauthenticated"),
                Error::Forbidden { .. } => (6, "forbidden"),
                Error::NotFound { .. } => (7, "not-found"),
                Error::WrongState { .. } => (8, "wrong-state"),
                Error::Refused { status: 409, .. } => (9, "conflict"),
                Error::Refused { .. } => (10, "refused"),
                Error::Unknown { .. } => (11, "unknown"),
                Error::Garbled { .. } => (12, "garbled"),
            },
        }
    }
}

/// Makes a local error into the sentence `what: error.`
pub(crate) fn local<E: std::fmt::Display>(what: impl std::fmt::Display) -> impl FnOnce(E) -> Failure {
    move |why| Failure::Local(format!("{what}: {why}."))
}
