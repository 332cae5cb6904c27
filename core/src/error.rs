//! What went wrong, by what the caller can do about it.

use std::borrow::Cow;

/// A sentence that may be shown to a client.
pub type Text = Cow<'static, str>;

/// Every way in which a call can fail. All but [`Error::Internal`] carry only what a client may see.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no such thing, or the caller cannot see it. No text: the reply has no body.
    #[error("not found")]
    NotFound(Option<Text>),
    /// The user whose tags should change does not exist. The reply is a 404 whose JSON body has an empty message, as
    /// NetHSM answers it.
    #[error("no such user to tag")]
    NoUserToTag,
    /// The id is taken.
    #[error("{0}")]
    Exists(Text),
    /// The caller was deleted, or got another passphrase, between being believed and the write; nothing was done.
    #[error("the caller is no longer who they were")]
    NotBelieved,
    /// The caller may not do this. No text: the reply has no body.
    #[error("forbidden")]
    Forbidden(Option<Text>),
    /// The request makes no sense as it stands.
    #[error("{0}")]
    Invalid(Text),
    /// Something else must be done first.
    #[error("{0}")]
    Precondition(Text),
    /// Too many failed attempts; try again in a second.
    #[error("{0}")]
    TooMany(Text),
    /// The HSM is busy, or its store is; try again.
    #[error("{0}")]
    Unavailable(Text),
    /// There is no room for it: on the disk, or in the namespace's quota. Trying again does not help, nor does another
    /// node; deleting does.
    #[error("{0}")]
    Full(Text),
    /// A fault of ours. The text is for the log; outside only "internal error" is said.
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
