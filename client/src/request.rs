//! One request before it is known which node gets it, and the answer to it.

use std::time::Duration;

use serde::de::DeserializeOwned;
use ureq::http::Method;
use zeroize::Zeroizing;

use crate::error::{Cause, Error};
use crate::media::JSON;
use crate::retry::Repeat;

/// Which node may carry a call out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// Any: it is about users, keys and namespaces, which the nodes share.
    Any,
    /// The one that was chosen: it is about the device itself.
    One,
}

/// One request, before it is known who gets it.
#[derive(Clone, Copy)]
pub(crate) struct Call<'a> {
    pub(crate) method: &'a Method,
    /// Below `/api/v1`, with its query.
    pub(crate) path: &'a str,
    pub(crate) repeat: Repeat,
    pub(crate) place: Place,
    pub(crate) accept: &'static str,
    /// Type and bytes of the body.
    pub(crate) body: Option<(&'a str, &'a [u8])>,
    /// Time that the node may take, where that is more than the settings allow.
    pub(crate) patience: Duration,
}

impl<'a> Call<'a> {
    /// A read of JSON that any node can answer.
    pub(crate) fn get(path: &'a str) -> Self {
        Self {
            method: &Method::GET,
            path,
            repeat: Repeat::Freely,
            place: Place::Any,
            accept: JSON,
            body: None,
            patience: Duration::ZERO,
        }
    }

    /// A change that any node can carry out.
    pub(crate) fn change(method: &'a Method, path: &'a str) -> Self {
        Self { method, repeat: Repeat::IfNotBegun, ..Self::get(path) }
    }

    /// The same about the device itself.
    pub(crate) fn at_one(self) -> Self {
        Self { place: Place::One, ..self }
    }

    /// The same, which may be carried out twice.
    pub(crate) fn freely(self) -> Self {
        Self { repeat: Repeat::Freely, ..self }
    }

    /// The same, for which the node may take so long.
    pub(crate) fn patient(self, patience: Duration) -> Self {
        Self { patience, ..self }
    }

    /// The same with a reply of this type.
    pub(crate) fn accept(self, accept: &'static str) -> Self {
        Self { accept, ..self }
    }

    /// The same with a body.
    pub(crate) fn with(self, content_type: &'a str, bytes: &'a [u8]) -> Self {
        Self { body: Some((content_type, bytes)), ..self }
    }
}

/// An answer that is no error.
pub(crate) struct Answer {
    pub(crate) node: String,
    pub(crate) status: u16,
    /// When the node says it answered.
    pub(crate) date: Option<String>,
    pub(crate) body: Zeroizing<Vec<u8>>,
    /// Of the call.
    pub(crate) repeat: Repeat,
}

impl Answer {
    /// The body as `T`.
    pub(crate) fn json<T: DeserializeOwned>(&self) -> Result<T, Error> {
        // The error of serde_json may quote the body, which may be a plaintext: only the place is told.
        serde_json::from_slice(&self.body).map_err(|why| {
            self.unreadable(format!("its JSON is not as expected at line {} column {}", why.line(), why.column()))
        })
    }

    /// The body as text.
    pub(crate) fn text(self) -> Result<String, Error> {
        String::from_utf8(self.body.to_vec()).map_err(|_| self.unreadable("it is no UTF-8".into()))
    }

    /// A change that was answered with success is not called a failure because nobody understands the rest.
    fn unreadable(&self, why: String) -> Error {
        let node = self.node.clone();
        match self.repeat {
            Repeat::Freely => Error::Garbled { node, why },
            Repeat::IfNotBegun => Error::Unknown { node, cause: Cause::Unreadable(why) },
        }
    }

    /// Whether something was changed.
    pub(crate) fn changed(&self) -> Changed {
        if self.status == 304 { Changed::No } else { Changed::Yes }
    }
}

/// Whether a call that sets something changed anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Changed {
    /// It is different now.
    Yes,
    /// It was so already.
    No,
}

/// `text` as a value of a query (RFC 3986 §2.3).
pub(crate) fn quoted(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            quoted.push(char::from(byte));
        } else {
            quoted.push_str(&format!("%{byte:02X}"));
        }
    }
    quoted
}

#[cfg(test)]
mod tests {
    #[test]
    fn values_of_a_query_are_quoted() {
        assert_eq!(super::quoted("a b&c=ü/~"), "a%20b%26c%3D%C3%BC%2F~");
    }
}
