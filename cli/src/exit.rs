//! Every way in which a command fails, and the exit code that tells a script which one it was. The codes do not change.
//!
//! | Code | Name | Meaning |
//! |---|---|---|
//! | 0 | | done |
//! | 1 | `local` | a file, the terminal or a passphrase command on this machine failed |
//! | 2 | `usage` | the arguments, the environment or the profile do not make sense |
//! | 3 | `unreachable` | no HSM answered, or not in time; this call changed nothing, earlier steps of the command may have |
//! | 4 | `untrusted` | the HSM's certificate is not trusted or has expired; nothing was sent |
//! | 5 | `unauthenticated` | wrong user or passphrase, or no login is taken for a moment |
//! | 6 | `forbidden` | this user may not do this; for `unlock`: the passphrase is wrong |
//! | 7 | `not-found` | there is nothing of that name |
//! | 8 | `wrong-state` | the HSM is in a state without this service |
//! | 9 | `conflict` | it is there already (`409`; of key ids the API says `400`, which is code 10) |
//! | 10 | `refused` | the HSM says no for another reason |
//! | 11 | `unknown` | the answer was lost: look before you try again |
//! | 12 | `garbled` | what answered is no HSM, or of another version |
//! | 13 | `declined` | the question whether to go on was not answered with yes |
//! | 14 | `drift` | the HSM is not as the file says |

use casemate_client::Error;

/// Why a command came to nothing. `Display` is what a person reads: what, where, and what to do.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// Something on this machine.
    #[error("{0}")]
    Local(String),
    /// The caller asked for something that makes no sense.
    #[error("{0}")]
    Usage(String),
    /// The HSM is in a state in which this makes no sense, which was found out before anything was asked or sent.
    #[error("{0}")]
    WrongState(String),
    /// The caller was asked and did not say yes.
    #[error("Nothing was done.")]
    Declined,
    /// The passphrase of another than a user is wrong.
    #[error("{0}")]
    Forbidden(String),
    /// The doctor found something, which it has printed; `code` is that of the first failure.
    #[error("{failed} of {checks} checks failed.")]
    Unwell {
        /// How many failed.
        failed: usize,
        /// How many there were.
        checks: usize,
        /// Exit code and name.
        code: (u8, &'static str),
    },
    /// The HSM is not as a file says.
    #[error("{0}")]
    Drift(String),
    /// Another failure, and what it stopped.
    #[error("{what}: {why}")]
    At {
        /// What was tried.
        what: String,
        /// Why it failed.
        why: Box<Failure>,
    },
    /// The client's own words, with the next step where the command line knows it better.
    #[error("{0}{hint}", hint = hint(.0))]
    Call(#[from] Error),
}

/// What to type next.
fn hint(error: &Error) -> String {
    match error {
        Error::Untrusted { fingerprint, .. } => {
            format!(" To pin it: --pin {fingerprint}, or pin = [\"{fingerprint}\"] in the profile.")
        }
        Error::WrongState { .. } => " `casemate state` shows it.".into(),
        Error::NodeRequired { .. } => " Give it with --host.".into(),
        _ => String::new(),
    }
}

impl Failure {
    /// The same, with what was tried in front.
    pub(crate) fn at(self, what: impl Into<String>) -> Self {
        Failure::At { what: what.into(), why: Box::new(self) }
    }

    /// The exit code and its name.
    pub(crate) fn code(&self) -> (u8, &'static str) {
        match self {
            Failure::Local(_) => (1, "local"),
            Failure::Usage(_) => (2, "usage"),
            Failure::Forbidden(_) => (6, "forbidden"),
            Failure::WrongState(_) => (8, "wrong-state"),
            Failure::Declined => (13, "declined"),
            Failure::Unwell { code, .. } => *code,
            Failure::Drift(_) => (14, "drift"),
            Failure::At { why, .. } => why.code(),
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

/// Puts a local error into a sentence about `what`.
pub(crate) fn local<E: std::fmt::Display>(what: impl std::fmt::Display) -> impl FnOnce(E) -> Failure {
    move |why| Failure::Local(format!("{what}: {why}."))
}
