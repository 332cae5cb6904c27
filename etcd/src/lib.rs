//! A client of etcd through its client port (gRPC over HTTP/2 over TLS).
//!
//! What a store needs of a client, and other clients do not give, is the difference between "certainly not done" and
//! "perhaps done": see [`Error`]. So the connections are made here and not by tonic, which has a pool that dials again by
//! itself and does not tell whether a request had left. tonic does what is gRPC: frames, status, metadata. A connection is
//! used only once the endpoint has answered a first call on it, which also shows that both sides accept each other's
//! certificate and that the endpoint belongs to the same cluster as the others.
//!
//! All calls run on the tokio runtime of the caller, and so do the connections.
//!
//! It is a crate of its own because the generated messages and their derived code are then compiled once and not with each
//! change of the server, and so that nothing of the HSM is at hand here: keys and values are opaque bytes.

mod address;
mod client;
mod connection;
mod data_file;
mod error;
mod log_file;
mod members;
#[allow(missing_docs, clippy::all, clippy::pedantic, reason = "generated")]
pub mod proto;
pub mod request;
mod tls;
mod version;
mod watch;

pub use address::Address;
pub use client::{Client, Settings};
pub use data_file::{DataFile, Facts, FileError, Rows, Summary};
pub use error::Error;
pub use log_file::{Committed, commit_all};
pub use members::{MemberError, MemberKind, when_healthy};
pub use tls::Tls;
pub use watch::{Notice, Watch};
