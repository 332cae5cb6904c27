//! Users: authentication (`caller`, `guesses`; the limit on guesses is in `device/limiter.rs`), access to other users, and rights
//! that still hold at the moment of a write (`right`).

pub mod caller;
pub mod guesses;
pub mod right;
pub mod users;
