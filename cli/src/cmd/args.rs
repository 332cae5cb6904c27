//! What several commands take as arguments, and the answer of those that may have nothing to do.

use casemate_api::NamespaceId;
use casemate_client::Changed;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::exit::Failure;
use crate::profile::Context;

/// Parses a word of the API, in its own spelling; the error lists the words there are.
pub(crate) fn word<T: DeserializeOwned>(text: &str) -> Result<T, String> {
    serde_json::from_value(Value::from(text)).map_err(|why| why.to_string())
}

/// A namespace as an argument.
pub(crate) fn namespace(text: &str) -> Result<NamespaceId, casemate_api::IdError> {
    NamespaceId::parse(text)
}

/// Says whether something was changed.
pub(crate) fn changed(context: &Context, changed: Changed, text: &str) -> Result<(), Failure> {
    let is = changed == Changed::Yes;
    context.out.line(&json!({ "changed": is }), if is { text } else { "It was so already." })
}
