//! Users: authentication, access to other users, and rights that still hold at the moment of a write.

pub mod caller;
pub mod guesses;
pub mod right;
pub mod users;
