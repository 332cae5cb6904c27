//! Cryptography: key material, mechanisms, encodings, sealing. This room does not know users, rows or phases.

pub mod digest;
pub mod import;
pub mod kdf;
pub mod material;
pub mod mech;
mod pem;
pub mod public;
pub mod seal;
pub mod secret;
pub mod user_digest;
pub mod x509;
