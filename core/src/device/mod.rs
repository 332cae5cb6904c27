//! This device: its own store, the slots of the Domain Key, and procedures that a crash may interrupt.

pub(crate) mod procedure;
pub(crate) mod slots;
pub mod store;
