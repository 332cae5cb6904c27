//! Errors of the core, grouped by what the caller can do about them.

use std::borrow::Cow;

/// A sentence that may be shown to a client.
pub type Text = Cow<'static, str>;

/// Why a call failed. All variants but [`Error::Internal`] carry only what a client may see.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The thing does not exist, or the caller cannot see it. `None`: the reply has no body.
    #[error("not found")]
    NotFound(Option<Text>),
    /// The user whose tags should change does not exist. The reply is a 404 whose JSON body has an empty message, as
    /// NetHSM answers it.
    #[error("no such user to tag")]
    NoUserToTag,
    /// The id is already in use.
    #[error("{0}")]
    Exists(Text),
    /// The caller was deleted, or their passphrase was changed, between authentication and the write. Nothing was done.
    #[error("the caller is no longer authenticated")]
    NotBelieved,
    /// The caller may not do this. `None`: the reply has no body.
    #[error("forbidden")]
    Forbidden(Option<Text>),
    /// The request is not valid.
    #[error("{0}")]
    Invalid(Text),
    /// The HSM is in the wrong state for this, or something else must be done first.
    #[error("{0}")]
    Precondition(Text),
    /// Too many failed attempts. Try again in a second.
    #[error("{0}")]
    TooMany(Text),
    /// The HSM or its store is busy or cannot be reached. Try again.
    #[error("{0}")]
    Unavailable(Text),
    /// The disk is full, or the namespace's quota is used up. Trying again or at another node does not help; deleting
    /// something does.
    #[error("{0}")]
    Full(Text),
    /// A fault of this software or of what is stored. The text is for the log; clients only read "internal error".
    #[error("internal: {0}")]
    Internal(Text),
}

impl Error {
    /// [`Error::Invalid`] with a sentence.
    pub fn invalid(text: impl Into<Text>) -> Self {
        Error::Invalid(text.into())
    }
    /// [`Error::Internal`] with context for the log.
    pub fn internal(text: impl Into<Text>) -> Self {
        Error::Internal(text.into())
    }
    /// [`Error::NotFound`] whose reply has no body.
    pub fn not_found() -> Self {
        Error::NotFound(None)
    }
}
