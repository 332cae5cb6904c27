//! What bodies an endpoint takes, and how they become the handler's argument.

use casemate_api::body::keys::{ImportArguments, ImportKey};
use casemate_api::limits::{BODY_MAX_BYTES, BODY_USE_MAX_BYTES, PART_HEAD_MAX_BYTES, REQUEST_BYTES};
use casemate_core::Error;
use casemate_core::runtime::party::Party;
use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use zeroize::Zeroizing;

use super::body::{self, Received};
use super::budget::NoRoom;
use super::context::RequestContext;
use super::endpoint::SchemaOf;
use super::json::{self, JsonError};
use super::multipart;
use super::negotiate::ContentType;
use super::reply::Refusal;
use super::respond::no_room;
use super::upload::Upload;

/// Which Content-Types an endpoint takes, and when that is checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Types {
    /// Any, or none.
    Any,
    /// `application/json`.
    Json,
    /// `application/json`, `application/octet-stream`, or none.
    JsonOrOctets,
    /// `application/json` or `multipart/form-data`; checked early.
    JsonOrMultipart,
    /// `application/octet-stream` without parameters; checked early.
    Octets,
    /// Any, but one must be given and readable; checked early.
    Given,
    /// `application/x-pem-file`.
    Pem,
}

impl Types {
    /// Whether the check comes before the length, the Accept header and the id.
    pub fn early(self) -> bool {
        matches!(self, Types::JsonOrMultipart | Types::Octets | Types::Given)
    }

    /// Whether `header` is taken. A missing header counts as `application/octet-stream`, except where it is mandatory.
    pub fn accept(self, header: Option<&[u8]>) -> bool {
        let parsed = match header {
            None => return matches!(self, Types::Any | Types::JsonOrOctets),
            Some(header) => ContentType::parse(header),
        };
        let is = |essence| parsed.is_some_and(|parsed| parsed.is(essence));
        match self {
            Types::Any => true,
            Types::Given => parsed.is_some(),
            Types::Json => is("application/json"),
            Types::JsonOrOctets => is("application/json") || is("application/octet-stream"),
            Types::JsonOrMultipart => is("application/json") || is("multipart/form-data"),
            Types::Pem => is("application/x-pem-file"),
            Types::Octets => is("application/octet-stream") && !parsed.is_some_and(|parsed| parsed.has_parameters()),
        }
    }
}

/// Which bodies an endpoint takes.
#[derive(Clone, Copy, Debug)]
pub struct Takes {
    /// The Content-Types.
    pub types: Types,
    /// The largest body, in bytes; [`usize::MAX`]: the handler takes it as it comes.
    pub max_bytes: usize,
}

impl Takes {
    /// Whether the handler takes the body as it comes.
    pub fn streamed(&self) -> bool {
        self.max_bytes == usize::MAX
    }
}

type Decode<B> = fn(Option<&[u8]>, body::Body) -> Result<B, Error>;

/// How the body of an endpoint becomes its handler's argument.
pub struct Body<B> {
    pub(super) takes: Takes,
    pub(super) schema: Option<SchemaOf>,
    pub(super) decode: How<B>,
}

pub(super) enum How<B> {
    /// From the bytes alone.
    Now(fn(&[u8]) -> Result<B, Error>),
    /// From the Content-Type and the bytes.
    Typed(Decode<B>),
    /// Not at all: the handler reads it.
    Streamed(fn(Upload) -> B),
}

impl<B: Send + 'static> Body<B> {
    /// The handler's argument, of the bytes that were `sent`, or of those that are still to come.
    pub(super) async fn decode(&self, sent: Received, context: &mut RequestContext) -> Result<B, Refusal> {
        let length = sent.len();
        let decoded = match &self.decode {
            How::Now(decode) => {
                let (decode, hsm, grant) = (*decode, &context.hsm, context.grant.clone());
                let party = Party::Address(context.address.into());
                // The body goes with that: it makes room for the copies that are to be made of what is in it. It is counted
                // as long as the pool has it, also if the client leaves.
                let decode = move || {
                    let body = sent.into_body();
                    let input = decode(&body);
                    drop((body, grant));
                    input
                };
                hsm.by_size(length, party, decode).await.and_then(|input| input)
            }
            How::Typed(decode) => {
                let (decode, hsm, grant) = (*decode, &context.hsm, context.grant.clone());
                let header = context.content_type().map(<[u8]>::to_vec);
                let party = Party::Address(context.address.into());
                // Counted as long as the pool has it, also if the client leaves.
                let decode = move || {
                    let input = decode(header.as_deref(), sent.into_body());
                    drop(grant);
                    input
                };
                hsm.by_size(length, party, decode).await.and_then(|input| input)
            }
            How::Streamed(take) => {
                // What waits of it, and what is made of that.
                context.grant.cover(REQUEST_BYTES + 2 * PART_HEAD_MAX_BYTES).map_err(|NoRoom| no_room())?;
                Ok(take(context.upload()))
            }
        };
        decoded.map_err(|error| Refusal::from_core(error, &context.spec))
    }
}

fn body<B>(types: Types, schema: Option<SchemaOf>, decode: fn(&[u8]) -> Result<B, Error>) -> Body<B> {
    Body { takes: Takes { types, max_bytes: BODY_MAX_BYTES }, schema, decode: How::Now(decode) }
}

/// No body; one that is sent anyway is read and ignored.
pub fn none() -> Body<()> {
    body(Types::Any, None, |_| Ok(()))
}

/// No body either, but with a check of its type, as the contract has it for some.
pub fn ignored() -> Body<()> {
    body(Types::JsonOrOctets, None, |_| Ok(()))
}

fn schema_of<T: JsonSchema>() -> Option<SchemaOf> {
    Some(|generator| generator.subschema_for::<T>())
}

/// JSON whose Content-Type must say so.
pub fn json<T: DeserializeOwned + JsonSchema>() -> Body<T> {
    body(Types::Json, schema_of::<T>(), |bytes| Ok(json::parse(bytes)?))
}

/// JSON whatever the Content-Type says, as the contract has it for most POSTs.
pub fn untyped_json<T: DeserializeOwned + JsonSchema>() -> Body<T> {
    body(Types::Any, schema_of::<T>(), |bytes| Ok(json::parse(bytes)?))
}

/// JSON of sign, decrypt and encrypt, which may be long.
pub fn long_json<T: DeserializeOwned + JsonSchema>() -> Body<T> {
    let mut body = untyped_json();
    body.takes.max_bytes = BODY_USE_MAX_BYTES;
    body
}

/// JSON that the handler judges itself, because something comes between its syntax and its schema.
pub fn judged_json<T: DeserializeOwned + JsonSchema>() -> Body<Result<T, JsonError>> {
    body(Types::Any, schema_of::<T>(), |bytes| Ok(json::parse(bytes)))
}

/// Bytes stored as they are.
pub fn octets() -> Body<Vec<u8>> {
    body(Types::Octets, None, |bytes| Ok(bytes.to_vec()))
}

/// A body of any size, which the handler takes as it comes. Such an endpoint runs on `Arc<Hsm>`, so that a client that
/// takes its time does not hold the phase.
pub fn stream(types: Types) -> Body<Upload> {
    Body { takes: Takes { types, max_bytes: usize::MAX }, schema: None, decode: How::Streamed(|upload| upload) }
}

/// Text in PEM, which the core reads.
pub fn pem() -> Body<Vec<u8>> {
    body(Types::Pem, None, |bytes| Ok(bytes.to_vec()))
}

/// A key to import.
pub enum Import {
    /// As JSON.
    Json(ImportKey),
    /// As PEM, with its parameters.
    Pem(ImportArguments, Zeroizing<Vec<u8>>),
}

/// A key to import: JSON, or two parts of which the second is PEM.
pub fn import() -> Body<Import> {
    let decode: Decode<Import> = |content_type, body| {
        let header = content_type.unwrap_or_default();
        if !ContentType::parse(header).is_some_and(|parsed| parsed.is("multipart/form-data")) {
            return Ok(Import::Json(json::parse(&body)?));
        }
        let parts = multipart::import_parts(&String::from_utf8_lossy(header), body);
        let parts = parts.map_err(|why| Error::invalid(why.to_string()))?;
        Ok(Import::Pem(json::parse(&parts.arguments)?, parts.key_file))
    };
    let takes = Takes { types: Types::JsonOrMultipart, max_bytes: BODY_MAX_BYTES };
    Body { takes, schema: schema_of::<ImportKey>(), decode: How::Typed(decode) }
}

impl From<JsonError> for Error {
    fn from(error: JsonError) -> Self {
        Error::invalid(error.to_string())
    }
}
