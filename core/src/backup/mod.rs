//! Backups of the whole HSM, in NetHSM's format: written by us, restored by us or by a NetHSM, and the other way round.
//!
//! [`mod@format`] knows frames, [`json`] and [`upstream`] NetHSM's records, [`read`] joins them to a file that is opened as it
//! comes. [`mod@write`] makes one, under the key of [`mod@passphrase`];
//! [`restore`] takes one, by way of rows that wait where nobody reads.

pub(crate) mod convert;
mod device;
pub mod format;
pub mod inspect;
pub mod json;
pub mod passphrase;
pub mod read;
pub mod restore;
pub(crate) mod stage;
pub mod upstream;
pub mod write;

#[cfg(test)]
mod tests;
