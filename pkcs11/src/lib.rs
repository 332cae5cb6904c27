//! The PKCS#11 module of Casemate, for Casemate and NetHSM servers.
//!
//! It is loaded into processes of others. So it starts no threads, sets no signal handlers, writes to no log unless
//! `CASEMATE_PKCS11_LOG` says so, and exports the functions of the standard only.

pub mod config;
pub mod ec;
pub mod functions;
mod log;
pub mod login;
mod manage;
pub mod module;
pub mod objects;
pub mod operations;
pub mod rv;
pub mod sessions;
pub mod slots;
