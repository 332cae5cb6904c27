//! Every endpoint as a typed call, grouped as the API groups them.

pub(crate) mod audit;
pub(crate) mod cluster;
pub(crate) mod config;
pub(crate) mod health;
pub(crate) mod keys;
pub(crate) mod system;
pub(crate) mod users;
