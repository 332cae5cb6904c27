//! The shared store as typed tables: paths of rows, records, and the tables that seal and cache them.
//!
//! The path of a row carries the type of its record, so no other table accepts it:
//!
//! ```compile_fail
//! use casemate_core::rows::{path::RowPath, tables::Tables, user::UserRecord};
//! async fn read(tables: &Tables, path: &RowPath<UserRecord>) {
//!     let _ = tables.keys.get(path).await; // the path of a user
//! }
//! ```
//! ```
//! use casemate_core::rows::{path::RowPath, tables::Tables, user::UserRecord};
//! async fn read(tables: &Tables, path: &RowPath<UserRecord>) {
//!     let _ = tables.users.get(path).await;
//! }
//! ```

pub mod backup_secret;
pub mod certificate;
pub mod chores;
pub mod cluster_ca;
pub mod cluster_id;
pub mod confirm;
pub mod counter;
pub mod encoding;
pub(crate) mod fence;
pub mod index;
pub mod key;
mod migrate;
pub mod namespace;
pub mod path;
pub mod record;
pub mod staged;
pub mod table;
pub mod tables;
pub mod tls_identity;
pub mod transaction;
pub mod usage;
pub mod user;
pub mod without_majority;
