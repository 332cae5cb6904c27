//! One request before it is known which node gets it, and the reply to it.

use std::time::Duration;

use serde::de::DeserializeOwned;
use ureq::http::Method;
use zeroize::Zeroizing;

use crate::error::{Cause, Error};
use crate::media::JSON;
use crate::retry::Repeat;

/// Which node may carry a request out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// Any: the request is about users, keys and namespaces, which the nodes share.
    AnyNode,
    /// The one that the caller chose: the request is about the device itself.
    OneNode,
}

/// One request, before it is known which node gets it.
#[derive(Clone, Copy)]
pub(crate) struct Request<'a> {
    pub(crate) method: &'a Method,
    /// The path below `/api/v1`, with its query.
    pub(crate) path: &'a str,
    pub(crate) repeat: Repeat,
    pub(crate) target: Target,
    /// The `Accept` header.
    pub(crate) accept: &'static str,
    /// Content type and bytes of the body.
    pub(crate) body: Option<(&'a str, &'a [u8])>,
    /// The `If-None-Match` header (RFC 9110 §13.1.2).
    pub(crate) if_none_match: Option<&'a str>,
    /// How long the node may take at least, where the settings allow less.
    pub(crate) min_time_limit: Duration,
}

impl<'a> Request<'a> {
    /// `GET` of JSON that any node can answer.
    pub(crate) fn get(path: &'a str) -> Self {
        Self {
            method: &Method::GET,
            path,
            repeat: Repeat::Freely,
            target: Target::AnyNode,
            accept: JSON,
            body: None,
            if_none_match: None,
            min_time_limit: Duration::ZERO,
        }
    }

    /// A change that any node can carry out.
    pub(crate) fn change(method: &'a Method, path: &'a str) -> Self {
        Self { method, repeat: Repeat::IfNotStarted, ..Self::get(path) }
    }

    /// Sends it only to the node that the session is for.
    pub(crate) fn to_one_node(self) -> Self {
        Self { target: Target::OneNode, ..self }
    }

    /// Allows that it is carried out twice.
    pub(crate) fn repeatable(self) -> Self {
        Self { repeat: Repeat::Freely, ..self }
    }

    /// Gives the node at least this time.
    pub(crate) fn with_min_time_limit(self, min_time_limit: Duration) -> Self {
        Self { min_time_limit, ..self }
    }

    /// Asks for a reply of this content type.
    pub(crate) fn accepting(self, accept: &'static str) -> Self {
        Self { accept, ..self }
    }

    /// Adds a body.
    pub(crate) fn with_body(self, content_type: &'a str, bytes: &'a [u8]) -> Self {
        Self { body: Some((content_type, bytes)), ..self }
    }
}

/// A complete reply of a node.
pub(crate) struct Reply {
    pub(crate) node: String,
    pub(crate) status: u16,
    /// The `Date` header (RFC 9110 §6.6.1).
    pub(crate) date: Option<String>,
    /// The `ETag` header (RFC 9110 §8.8.3).
    pub(crate) etag: Option<String>,
    /// The `Link` header (RFC 8288), which only refers to the next page.
    pub(crate) next: Option<String>,
    pub(crate) body: Zeroizing<Vec<u8>>,
    /// Of the request.
    pub(crate) repeat: Repeat,
}

impl Reply {
    /// The body as `T`. One that is not as expected is [`Error::Garbled`], or [`Error::Unknown`] after a change.
    pub(crate) fn json<T: DeserializeOwned>(&self) -> Result<T, Error> {
        // The error of serde_json may quote the body, which may be a plaintext: only the position is shown.
        serde_json::from_slice(&self.body).map_err(|why| {
            self.unreadable(format!("its JSON is not as expected at line {} column {}", why.line(), why.column()))
        })
    }

    /// The body as text, with the errors of [`Reply::json`].
    pub(crate) fn text(self) -> Result<String, Error> {
        String::from_utf8(self.body.to_vec()).map_err(|_| self.unreadable("it is not UTF-8".into()))
    }

    /// A change that was answered with success is not reported as failed because its reply cannot be read.
    fn unreadable(&self, why: String) -> Error {
        let node = self.node.clone();
        match self.repeat {
            Repeat::Freely => Error::Garbled { node, why },
            Repeat::IfNotStarted => Error::Unknown { node, cause: Cause::Unreadable(why) },
        }
    }

    /// The reply is not that of a page.
    pub(crate) fn no_page(&self) -> Error {
        self.unreadable("it is no page of a list: its ETag or Link is not as expected".into())
    }

    /// Whether the request changed something: `304` means that it did not.
    pub(crate) fn changed(&self) -> Changed {
        if self.status == 304 { Changed::No } else { Changed::Yes }
    }
}

/// Whether a call that sets something changed anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Changed {
    /// It was different before.
    Yes,
    /// It was the same before.
    No,
}

/// `text` as a value in a query (RFC 3986 §2.3).
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
