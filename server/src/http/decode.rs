//! Which bodies an endpoint accepts, and how they become the handler's argument.

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
use super::json::{self, JsonError};
use super::multipart;
use super::negotiate::ContentType;
use super::openapi::SchemaOf;
use super::reply::Refusal;
use super::respond::no_room;
use super::upload::Upload;

/// Which Content-Types an endpoint accepts, and when that is checked.
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
    /// Any, but one must be present and well-formed; checked early.
    Given,
    /// `application/x-pem-file`.
    Pem,
}

impl Types {
    /// Whether the check comes before the length, the Accept header and the id.
    pub fn early(self) -> bool {
        matches!(self, Types::JsonOrMultipart | Types::Octets | Types::Given)
    }

    /// Whether `header` is accepted. A missing header counts as `application/octet-stream`, except where it is
    /// mandatory.
    pub fn accept(self, header: Option<&[u8]>) -> bool {
        let parsed = || header.and_then(ContentType::parse);
        let is = |essence| parsed().is_some_and(|parsed| parsed.is(essence));
        match self {
            Types::Any => true,
            Types::Given => parsed().is_some(),
            Types::Json => is("application/json"),
            Types::JsonOrOctets => header.is_none() || is("application/json") || is("application/octet-stream"),
            Types::JsonOrMultipart => is("application/json") || is("multipart/form-data"),
            Types::Pem => is("application/x-pem-file"),
            Types::Octets => is("application/octet-stream") && !parsed().is_some_and(|parsed| parsed.has_parameters()),
        }
    }
}

/// Which bodies an endpoint accepts.
#[derive(Clone, Copy, Debug)]
pub struct BodyRule {
    /// The accepted Content-Types.
    pub types: Types,
    /// The largest body, in bytes; [`usize::MAX`] if the handler reads the body as it arrives.
    pub max_bytes: usize,
}

impl BodyRule {
    /// Whether the handler reads the body as it arrives.
    pub fn streamed(&self) -> bool {
        self.max_bytes == usize::MAX
    }
}

type DecodeTyped<B> = fn(Option<&[u8]>, body::Body) -> Result<B, Error>;

/// How the body of an endpoint becomes its handler's argument.
pub struct Body<B> {
    pub(super) rule: BodyRule,
    pub(super) schema: Option<SchemaOf>,
    pub(super) decode: Decoder<B>,
}

pub(super) enum Decoder<B> {
    /// From the bytes alone.
    Bytes(fn(&[u8]) -> Result<B, Error>),
    /// From the Content-Type and the bytes.
    Typed(DecodeTyped<B>),
    /// Not decoded: the handler reads it.
    Streamed(fn(Upload) -> B),
}

impl<B: Send + 'static> Body<B> {
    /// Decodes the handler's argument from the bytes that were `sent`, or passes on those still to come.
    pub(super) async fn decode(&self, sent: Received, context: &mut RequestContext) -> Result<B, Refusal> {
        let length = sent.len();
        let decoded = match &self.decode {
            Decoder::Bytes(decode) => {
                let (decode, hsm, grant) = (*decode, &context.hsm, context.grant.clone());
                let party = Party::Address(context.address.into());
                // The body is dropped with that, which makes room for the copies made of its contents. It stays counted
                // as long as the pool has it, even if the client disconnects.
                let decode = move || {
                    let body = sent.into_body();
                    let input = decode(&body);
                    drop((body, grant));
                    input
                };
                hsm.run_by_size(length, party, decode).await.and_then(|input| input)
            }
            Decoder::Typed(decode) => {
                let (decode, hsm, grant) = (*decode, &context.hsm, context.grant.clone());
                let header = context.content_type().map(<[u8]>::to_vec);
                let party = Party::Address(context.address.into());
                // Stays counted as long as the pool has it, even if the client disconnects.
                let decode = move || {
                    let input = decode(header.as_deref(), sent.into_body());
                    drop(grant);
                    input
                };
                hsm.run_by_size(length, party, decode).await.and_then(|input| input)
            }
            Decoder::Streamed(take) => {
                // What is buffered of it, and what is parsed from that.
                context.grant.cover(REQUEST_BYTES + 2 * PART_HEAD_MAX_BYTES).map_err(|NoRoom| no_room())?;
                Ok(take(context.upload()))
            }
        };
        decoded.map_err(|error| Refusal::from_core(error, &context.spec))
    }
}

fn body<B>(types: Types, schema: Option<SchemaOf>, decode: fn(&[u8]) -> Result<B, Error>) -> Body<B> {
    Body { rule: BodyRule { types, max_bytes: BODY_MAX_BYTES }, schema, decode: Decoder::Bytes(decode) }
}

/// No body; if one is sent, it is read and ignored.
pub fn none() -> Body<()> {
    body(Types::Any, None, |_| Ok(()))
}

/// No body either, but its Content-Type is checked, as the contract requires for some endpoints.
pub fn ignored() -> Body<()> {
    body(Types::JsonOrOctets, None, |_| Ok(()))
}

fn schema_of<T: JsonSchema>() -> Option<SchemaOf> {
    Some(|generator| generator.subschema_for::<T>())
}

/// JSON; the Content-Type must be `application/json`.
pub fn json<T: DeserializeOwned + JsonSchema>() -> Body<T> {
    body(Types::Json, schema_of::<T>(), |bytes| Ok(json::parse(bytes)?))
}

/// JSON whatever the Content-Type is, as the contract has it for most POSTs.
pub fn untyped_json<T: DeserializeOwned + JsonSchema>() -> Body<T> {
    body(Types::Any, schema_of::<T>(), |bytes| Ok(json::parse(bytes)?))
}

/// JSON of sign, decrypt and encrypt, which may be long ([`BODY_USE_MAX_BYTES`]).
pub fn long_json<T: DeserializeOwned + JsonSchema>() -> Body<T> {
    let mut body = untyped_json();
    body.rule.max_bytes = BODY_USE_MAX_BYTES;
    body
}

/// JSON whose errors the handler reports itself, because another check comes between its syntax and its schema.
pub fn fallible_json<T: DeserializeOwned + JsonSchema>() -> Body<Result<T, JsonError>> {
    body(Types::Any, schema_of::<T>(), |bytes| Ok(json::parse(bytes)))
}

/// Binary data, passed on unchanged.
pub fn octets() -> Body<Vec<u8>> {
    body(Types::Octets, None, |bytes| Ok(bytes.to_vec()))
}

/// A body of any size, which the handler reads as it arrives. Such an endpoint runs on `Arc<Hsm>`, so that a slow
/// client does not hold the phase.
pub fn stream(types: Types) -> Body<Upload> {
    Body { rule: BodyRule { types, max_bytes: usize::MAX }, schema: None, decode: Decoder::Streamed(|upload| upload) }
}

/// PEM text (RFC 7468), which the core parses.
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

/// A key to import: JSON, or two multipart parts of which the second is PEM.
pub fn import() -> Body<Import> {
    let decode: DecodeTyped<Import> = |content_type, body| {
        let header = content_type.unwrap_or_default();
        if !ContentType::parse(header).is_some_and(|parsed| parsed.is("multipart/form-data")) {
            return Ok(Import::Json(json::parse(&body)?));
        }
        let parts = multipart::import_parts(&String::from_utf8_lossy(header), body);
        let parts = parts.map_err(|why| Error::invalid(why.to_string()))?;
        Ok(Import::Pem(json::parse(&parts.arguments)?, parts.key_file))
    };
    let rule = BodyRule { types: Types::JsonOrMultipart, max_bytes: BODY_MAX_BYTES };
    Body { rule, schema: schema_of::<ImportKey>(), decode: Decoder::Typed(decode) }
}

impl From<JsonError> for Error {
    fn from(error: JsonError) -> Self {
        Error::invalid(error.to_string())
    }
}
