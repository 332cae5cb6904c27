//! Identifiers: one rule for all of them, enforced by their only constructor.
//!
//! An id has 1 to 128 characters out of `A-Z a-z 0-9 _ . -` and starts with a letter or digit. A user id may have a
//! namespace before the first `~`; both parts obey the same rule. The server passes no raw strings on as ids.

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::marker::PhantomData;

use crate::limits::ID_MAX_CHARS;

/// Why a text is not an id. `Display` is the sentence that clients see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IdError {
    /// The string is empty.
    Empty,
    /// The string has more than 128 characters.
    TooLong,
    /// The string has a character outside the alphabet.
    Charset,
    /// The string starts with underscore, dash or dot.
    FirstChar,
}

impl fmt::Display for IdError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            IdError::Empty => "ID cannot be shorter than 1 character.",
            IdError::TooLong => "ID cannot be longer than 128 characters.",
            IdError::Charset => "ID may only contain alphanumeric characters, underscores, dashes, and dots.",
            IdError::FirstChar => "ID cannot start with underscore, dash, or dot.",
        })
    }
}

impl std::error::Error for IdError {}

/// Checks the common rule, in the documented order: length, alphabet, first character.
fn check(text: &str) -> Result<(), IdError> {
    let Some(first) = text.chars().next() else { return Err(IdError::Empty) };
    if text.chars().count() > ID_MAX_CHARS {
        return Err(IdError::TooLong);
    }
    if !text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.')) {
        return Err(IdError::Charset);
    }
    if !first.is_ascii_alphanumeric() {
        return Err(IdError::FirstChar);
    }
    Ok(())
}

/// A checked id of one kind. The kind prevents using, for example, a key id as a user name.
pub struct Id<K> {
    text: Box<str>,
    kind: PhantomData<fn() -> K>,
}

/// The kinds of [`Id`].
pub mod kind {
    /// Kind of [`super::KeyId`].
    pub enum Key {}
    /// Kind of [`super::NamespaceId`].
    pub enum Namespace {}
    /// Kind of [`super::UserName`].
    pub enum User {}
    /// Kind of [`super::Tag`].
    pub enum Tag {}
}

/// Id of a key, unique in its namespace.
pub type KeyId = Id<kind::Key>;
/// Id of a namespace.
pub type NamespaceId = Id<kind::Namespace>;
/// A user's name without its namespace.
pub type UserName = Id<kind::User>;
/// A tag given in a URL. Tags inside JSON bodies are any strings and stay `String`.
pub type Tag = Id<kind::Tag>;

impl<K> Id<K> {
    /// Checks `text` against the id rule.
    pub fn parse(text: &str) -> Result<Self, IdError> {
        check(text)?;
        Ok(Self { text: text.into(), kind: PhantomData })
    }

    /// The id as it appears in the API.
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl<K> Clone for Id<K> {
    fn clone(&self) -> Self {
        Self { text: self.text.clone(), kind: PhantomData }
    }
}
impl<K> fmt::Debug for Id<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.text, f)
    }
}
impl<K> fmt::Display for Id<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}
impl<K> PartialEq for Id<K> {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}
impl<K> Eq for Id<K> {}
impl<K> PartialOrd for Id<K> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl<K> Ord for Id<K> {
    fn cmp(&self, other: &Self) -> Ordering {
        self.text.cmp(&other.text)
    }
}
impl<K> Hash for Id<K> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.text.hash(state);
    }
}

/// A user as the API names it: `name`, or `namespace~name`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UserId {
    /// The namespace before the first `~`, if any.
    pub namespace: Option<NamespaceId>,
    /// The name after it.
    pub name: UserName,
}

impl UserId {
    /// Parses `name` or `namespace~name`. The text is split at the first `~`, so the alphabet excludes a second one.
    pub fn parse(text: &str) -> Result<Self, IdError> {
        match text.split_once('~') {
            None => Ok(Self { namespace: None, name: UserName::parse(text)? }),
            Some((namespace, name)) => {
                Ok(Self { namespace: Some(NamespaceId::parse(namespace)?), name: UserName::parse(name)? })
            }
        }
    }
}

impl fmt::Display for UserId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.namespace {
            None => write!(f, "{}", self.name),
            Some(namespace) => write!(f, "{namespace}~{}", self.name),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn ids_are_refused_in_the_documented_order() {
        assert_eq!(KeyId::parse("").unwrap_err(), IdError::Empty);
        assert_eq!(KeyId::parse(&"!".repeat(129)).unwrap_err(), IdError::TooLong);
        assert_eq!(KeyId::parse("_a+b").unwrap_err(), IdError::Charset);
        for text in ["_a", "-a", ".a"] {
            assert_eq!(KeyId::parse(text).unwrap_err(), IdError::FirstChar);
        }
        for text in ["a", "0", "A-_.z", &"x".repeat(128)] {
            assert_eq!(KeyId::parse(text).unwrap().as_str(), text);
        }
    }

    #[test]
    fn length_counts_characters_and_the_alphabet_is_ascii() {
        assert_eq!(KeyId::parse("ü").unwrap_err(), IdError::Charset);
        assert_eq!(KeyId::parse(&"ü".repeat(129)).unwrap_err(), IdError::TooLong);
    }

    #[test]
    fn user_ids_split_at_the_first_tilde() {
        let id = UserId::parse("ns1~op").unwrap();
        assert_eq!((id.namespace.as_ref().unwrap().as_str(), id.name.as_str()), ("ns1", "op"));
        for text in ["~", "~x", "ns1~", "a~b~c", "ns1~_x"] {
            assert!(UserId::parse(text).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_parses_prints_back_unchanged(text in "\\PC{0,140}") {
            if let Ok(id) = UserId::parse(&text) {
                prop_assert_eq!(id.to_string(), text);
            }
        }
    }
}
