//! The words of Casemate's REST API, shared by the server and by every client of it.
//!
//! Data only: no cryptography, no input or output, no runtime. What a body looks like, what an id may contain, which
//! role may do what, which mechanism belongs to which key type, and every bound of the system are stated here once.

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
