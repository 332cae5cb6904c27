//! What answers each row: thin, one call of the core each.

pub mod config;
pub mod health;
pub mod keys;
pub mod lock;
pub mod namespaces;
pub mod system;
pub mod users;
