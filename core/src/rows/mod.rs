//! What is stored in the shared store: names of rows, records, and the tables that seal and cache them.

pub mod backup_secret;
pub mod certificate;
pub mod chores;
pub mod cluster_ca;
pub mod counter;
pub mod encoding;
pub mod key;
mod migrate;
pub mod namespace;
pub mod path;
pub mod staged;
pub mod table;
pub mod tables;
pub mod tls_identity;
pub mod transaction;
pub mod user;
