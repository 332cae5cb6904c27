//! Errors of the core, grouped by what the caller can do about them.

use std::borrow::Cow;

/// A sentence that may be shown to a client.
pub type Text = Cow<'static, str>;

/// Why a call failed. All variants but [`Error::Internal`] carry only what a client may see.
#[derive(Clone, Debug, thiserror::Error)]
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
    Unauthenticated,
    /// The caller may not do this. `None`: the reply has no body.
    #[error("forbidden")]
    Forbidden(Option<Text>),
    /// The request is not valid.
    #[error("{reason}")]
    Invalid {
        /// The part of the request that is wrong, by its name in the API: a member of the body, a part of a multipart
        /// body, a query parameter or a path parameter. `None` if it is not one named part.
        field: Option<&'static str>,
        /// What is wrong with it. It does not always name the field, because clients compare it.
        reason: Text,
    },
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
    /// [`Error::Invalid`] that does not concern one named part of the request.
    pub fn invalid(reason: impl Into<Text>) -> Self {
        Error::Invalid { field: None, reason: reason.into() }
    }
    /// [`Error::Invalid`] for the part of the request that the API calls `field`.
    pub fn invalid_field(field: &'static str, reason: impl Into<Text>) -> Self {
        Error::Invalid { field: Some(field), reason: reason.into() }
    }
    /// Names the part of the request if this is an [`Error::Invalid`] that names none; otherwise unchanged. For callers
    /// of a parser that does not know what the API calls its input.
    pub fn in_field(self, name: &'static str) -> Self {
        match self {
            Error::Invalid { field: None, reason } => Error::Invalid { field: Some(name), reason },
            other => other,
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_is_named_once_and_only_for_invalid_requests() {
        let field = |error: Error| match error {
            Error::Invalid { field, reason } => Some((field, reason)),
            _ => None,
        };
        assert_eq!(field(Error::invalid("bad")), Some((None, "bad".into())));
        assert_eq!(field(Error::invalid("bad").in_field("id")), Some((Some("id"), "bad".into())));
        assert_eq!(field(Error::invalid_field("id", "bad").in_field("key")), Some((Some("id"), "bad".into())));
        assert_eq!(field(Error::not_found().in_field("id")), None);
        assert_eq!(Error::invalid_field("id", "bad").to_string(), "bad");
    }
}
