//! The vocabulary of Casemate's REST API, shared by the server and all clients.
//!
//! Data only: no cryptography, no input or output, no runtime. The format of bodies and ids, which role may do what,
//! which mechanism belongs to which key type, and every limit of the system are defined here once.

pub mod body;
pub mod ids;
pub mod limits;
pub mod mechanisms;
pub mod secret;
pub mod sentences;
pub mod words;

pub use ids::{IdError, KeyId, NamespaceId, Tag, UserId, UserName};
pub use secret::{Passphrase, SecretText};
pub use words::{Action, DecryptMode, EncryptMode, KeyType, Mechanism, Role, SignMode, State};
