//! Who calls, what they may reach, and that a right holds at the moment of the write.

pub mod caller;
pub mod guesses;
pub mod right;
pub mod users;
