//! The PKCS#11 module of Casemate, for Casemate and NetHSM servers.

pub mod config;
pub mod ec;
pub mod objects;
pub mod rv;
