//! One thin function per endpoint, each with one call into the core.

pub mod audit;
pub mod backup;
pub mod cluster;
pub mod config;
pub mod diagnose;
pub mod health;
pub mod key_list;
pub mod keys;
pub mod lock;
pub mod namespaces;
pub mod system;
pub mod tls;
pub mod users;
