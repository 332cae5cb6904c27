//! Request and reply bodies, with fields in the order of the API documentation. Requests are strict: an unknown member
//! is an error. Clients leave out members at their default, because older servers do not know every member.

pub mod cluster;
pub mod config;
pub mod keys;
pub mod system;
pub mod users;

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

/// The JSON body of every error.
#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ErrorBody<'a> {
    /// The error as a sentence for people.
    pub message: Cow<'a, str>,
}

/// Reply of every call that creates or moves something.
#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Created {
    /// The new id.
    pub id: String,
}
