//! Request and reply bodies, field order as the API documents it. Requests are strict: an unknown member is an error.

pub mod config;
pub mod keys;
pub mod system;
pub mod users;

use serde::Serialize;

/// Every JSON error body.
#[derive(Debug, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ErrorBody<'a> {
    /// What went wrong, for a person to read.
    pub message: &'a str,
}

/// Reply of every call that creates something or moves it.
#[derive(Debug, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Created {
    /// The new id.
    pub id: String,
}
