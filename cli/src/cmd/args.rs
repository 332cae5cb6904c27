//! Arguments that several commands take, and the output of commands that may have nothing to do.

use casemate_api::NamespaceId;
use casemate_client::Changed;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::exit::Failure;
use crate::profile::Context;

/// Parses a value of the API in its spelling there, such as `EC_P256`; the error lists the valid ones.
pub(crate) fn api_value<T: DeserializeOwned>(text: &str) -> Result<T, String> {
    serde_json::from_value(Value::from(text)).map_err(|why| why.to_string())
}

/// Parses a namespace.
pub(crate) fn namespace(text: &str) -> Result<NamespaceId, casemate_api::IdError> {
    NamespaceId::parse(text)
}

/// Prints `text` if something was changed, else that it was so before.
pub(crate) fn changed(context: &Context, changed: Changed, text: &str) -> Result<(), Failure> {
    let is = changed == Changed::Yes;
    context.out.line(&json!({ "changed": is }), if is { text } else { "Nothing to change." })
}
