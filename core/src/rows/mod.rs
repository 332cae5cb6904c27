//! What is stored in the shared store: names of rows, records, and the tables that seal and cache them.

pub mod backup_secret;
pub mod certificate;
pub mod cluster_ca;
pub mod counter;
pub mod encoding;
pub mod key;
pub mod namespace;
pub mod path;
pub mod table;
pub mod tls_identity;
pub mod transaction;
pub mod user;
