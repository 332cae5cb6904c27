//! Replies and refusals, and the only place where errors of the core are mapped to a status.

use std::sync::Arc;

use casemate_api::body::ErrorBody;
use casemate_api::sentences;
use casemate_core::Error;
use casemate_core::error::Text;
use hyper::StatusCode;
use serde::Serialize;

use super::budget::Grant;
use super::endpoint::Spec;
use super::pieces::Pieces;
use super::serve::ReplyBody;

/// What a handler returns. The endpoint adds the headers.
pub struct Reply {
    /// The status.
    pub status: StatusCode,
    /// `Location`
    pub location: Option<String>,
    /// A sentence sent as `Casemate-Note`, where the contract requires an empty body.
    pub note: Option<&'static str>,
    /// The body.
    pub body: Content,
    /// `ETag`
    pub tag: Option<String>,
    /// Reference to the next page of a list, for `Link` (RFC 8288 §3).
    pub next: Option<String>,
}

/// Body of a [`Reply`].
pub enum Content {
    /// Complete bytes, of the endpoint's Content-Type.
    Whole(Pieces),
    /// Streamed bytes, of the endpoint's Content-Type.
    Stream(ReplyBody),
}

impl Reply {
    /// `200` with bytes. More than [`casemate_api::limits::REPLY_UNCUT_MAX_BYTES`] are cut into pieces; then run it on the pool.
    pub fn ok(bytes: impl Into<Vec<u8>>) -> Self {
        Self::of(Content::Whole(bytes.into().into()))
    }

    /// `200` with bytes that are in pieces.
    pub fn pieces(bytes: Pieces) -> Self {
        Self::of(Content::Whole(bytes))
    }

    fn of(body: Content) -> Self {
        Self { status: StatusCode::OK, location: None, note: None, body, tag: None, next: None }
    }

    /// `200` with compact JSON.
    pub fn json(value: &impl Serialize) -> Result<Self, Error> {
        let mut json = Pieces::with_capacity(JSON_BYTES);
        serde_json::to_writer(&mut json, value).map_err(|why| Error::internal(why.to_string()))?;
        Ok(Self::of(Content::Whole(json)))
    }

    /// `200` with the JSON object `{"name":"value"}`, for values that need no escapes, such as base64 (RFC 4648 §4).
    pub fn json_member(name: &'static str, value: &str) -> Self {
        let mut json = Pieces::with_capacity(name.len() + value.len() + 7);
        for part in ["{\"", name, "\":\"", value, "\"}"] {
            json.append(part.as_bytes());
        }
        Self::of(Content::Whole(json))
    }

    /// The same, counted in `grant` until its body is taken or freed.
    pub fn holding(mut self, grant: Arc<Grant>) -> Self {
        if let Content::Whole(pieces) = self.body {
            self.body = Content::Whole(pieces.holding(grant));
        }
        self
    }

    /// `200` with a streamed body.
    pub fn stream(body: ReplyBody) -> Self {
        Self::of(Content::Stream(body))
    }

    /// `204`
    pub fn no_content() -> Self {
        Self { status: StatusCode::NO_CONTENT, ..Self::ok("") }
    }

    /// `304`
    pub fn unchanged() -> Self {
        Self { status: StatusCode::NOT_MODIFIED, ..Self::no_content() }
    }

    /// `201` without a body.
    pub fn created() -> Self {
        Self { status: StatusCode::CREATED, ..Self::no_content() }
    }

    /// Sets `Location`.
    pub fn at(mut self, location: String) -> Self {
        self.location = Some(location);
        self
    }

    /// Sets `Casemate-Note`.
    pub fn noting(mut self, note: Option<&'static str>) -> Self {
        self.note = note;
        self
    }

    /// Sets the status.
    pub fn status(mut self, status: StatusCode) -> Self {
        self.status = status;
        self
    }
}

/// Serialises to compact JSON.
pub fn json(value: &impl Serialize) -> Result<Vec<u8>, Error> {
    serde_json::to_vec(value).map_err(|why| Error::internal(why.to_string()))
}

/// Initial capacity; most replies are no longer.
const JSON_BYTES: usize = 128;

/// A request that was not carried out.
#[derive(Debug)]
pub struct Refusal {
    /// The status.
    pub status: StatusCode,
    /// The sentence of the JSON body; `None`: the body is empty.
    pub message: Option<Text>,
    /// Whether an empty body still has the endpoint's Content-Type.
    pub typed: bool,
    /// An additional header.
    pub header: Option<(&'static str, String)>,
    /// Whether the connection is closed after this reply.
    pub close: bool,
}

impl Refusal {
    /// A refusal without a body.
    pub fn bare(status: StatusCode) -> Self {
        Self { status, message: None, typed: false, header: None, close: false }
    }

    /// A refusal with a JSON body.
    pub fn because(status: StatusCode, message: impl Into<Text>) -> Self {
        Self { message: Some(message.into()), typed: true, ..Self::bare(status) }
    }

    /// Adds a header.
    pub fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.header = Some((name, value.into()));
        self
    }

    /// Closes the connection after this reply.
    pub fn closing(self) -> Self {
        Self { close: true, ..self }
    }

    /// 412: the HSM is in a state in which this is not available.
    pub fn wrong_state() -> Self {
        Self::because(StatusCode::PRECONDITION_FAILED, sentences::WRONG_STATE)
    }

    /// 401: credentials are required and none were sent.
    pub fn anonymous() -> Self {
        Self::bare(StatusCode::UNAUTHORIZED).with("www-authenticate", "Basic realm=\"NetHSM\"")
    }

    /// 401: the credentials are wrong.
    pub fn unauthenticated() -> Self {
        Self::bare(StatusCode::UNAUTHORIZED).with("www-authenticate", "Basic realm=\"invalid authorization\"")
    }

    /// The body as JSON text, or empty.
    pub fn body(&self) -> Vec<u8> {
        let json =
            |message: &Text| serde_json::to_vec(&ErrorBody { message: message.as_ref().into() }).unwrap_or_default();
        self.message.as_ref().map(json).unwrap_or_default()
    }

    /// Maps an error of the core to the answer of the endpoint `spec`.
    pub fn from_core(error: Error, spec: &Spec) -> Self {
        let exists = StatusCode::from_u16(spec.exists).unwrap_or(StatusCode::CONFLICT);
        match error {
            Error::NotFound(None) => Self { typed: true, ..Self::bare(StatusCode::NOT_FOUND) },
            Error::NotFound(Some(message)) => Self::because(StatusCode::NOT_FOUND, message),
            Error::NoUserToTag => Self::because(StatusCode::NOT_FOUND, ""),
            Error::Exists(message) => Self::because(exists, message),
            Error::Unauthenticated => Self::unauthenticated(),
            Error::Forbidden(None) => Self::bare(StatusCode::FORBIDDEN),
            Error::Forbidden(Some(message)) => Self::because(StatusCode::FORBIDDEN, message),
            Error::Invalid { field, reason } => {
                // Only the name: what was sent may be a secret.
                if let Some(field) = field {
                    tracing::debug!(target: "http", path = spec.path, field, "a request is not valid");
                }
                Self::because(StatusCode::BAD_REQUEST, reason)
            }
            Error::Precondition(message) => Self::because(StatusCode::PRECONDITION_FAILED, message),
            Error::TooMany(message) => Self::because(StatusCode::TOO_MANY_REQUESTS, message),
            Error::Unavailable(message) => {
                Self::because(StatusCode::SERVICE_UNAVAILABLE, message).with("retry-after", "1")
            }
            // Clients take other 5xx for a failed node and try the next; this node works, and clients cannot free its
            // disk.
            Error::Full(message) => Self::because(StatusCode::INSUFFICIENT_STORAGE, message),
            Error::Internal(context) => {
                tracing::error!(path = spec.path, %context, "internal error");
                Self::because(StatusCode::INTERNAL_SERVER_ERROR, "Internal error. Check the log.")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::{Debug, Write};
    use std::sync::Mutex;

    use tracing::field::{Field, Visit};
    use tracing_subscriber::Layer;
    use tracing_subscriber::layer::{Context, SubscriberExt};

    use super::*;

    /// All fields of all events, in one text.
    #[derive(Default)]
    struct Caught(Mutex<String>);

    struct Fields<'a>(&'a mut String);

    impl Visit for Fields<'_> {
        fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
            write!(self.0, "{field}={value:?};").unwrap();
        }
    }

    impl<S: tracing::Subscriber> Layer<S> for &'static Caught {
        fn on_event(&self, event: &tracing::Event<'_>, _: Context<'_, S>) {
            event.record(&mut Fields(&mut self.0.lock().unwrap()));
        }
    }

    /// The refusal of `error` by `POST /random`, and what is logged about it.
    fn refused(error: Error) -> (Refusal, String) {
        let caught: &'static Caught = Box::leak(Box::default());
        let table = crate::http::endpoints::table();
        let spec = &table.iter().find(|endpoint| endpoint.spec.path == "/random").unwrap().spec;
        let subscriber = tracing_subscriber::registry().with(caught);
        let refusal = tracing::subscriber::with_default(subscriber, || Refusal::from_core(error, spec));
        (refusal, std::mem::take(&mut *caught.0.lock().unwrap()))
    }

    #[test]
    fn the_log_names_the_invalid_field_and_not_what_was_sent() {
        let (refusal, logged) = refused(Error::invalid_field("length", "3000 is too long"));
        assert_eq!((refusal.status, refusal.message.as_deref()), (StatusCode::BAD_REQUEST, Some("3000 is too long")));
        assert_eq!(logged, r#"message=a request is not valid;path="/random";field="length";"#);
        let (refusal, logged) = refused(Error::invalid("the body is damaged"));
        assert_eq!((refusal.status, &*logged), (StatusCode::BAD_REQUEST, ""));
    }
}
