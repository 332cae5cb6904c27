//! Keepers of the Device Key.

mod file;

pub use file::FileDevice;
