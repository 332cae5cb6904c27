//! Request and reply bodies, field order as the API documents it. Requests are strict: an unknown member is an error.
//! What a client leaves at its default it does not send, because older servers do not know every member.

pub mod cluster;
pub mod config;
pub mod keys;
pub mod system;
pub mod users;

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

/// Every JSON error body.
#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ErrorBody<'a> {
    /// What went wrong, for a person to read.
    pub message: Cow<'a, str>,
}

/// Reply of every call that creates something or moves it.
#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Created {
    /// The new id.
    pub id: String,
}
