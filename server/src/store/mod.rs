//! Stores behind [`casemate_core::store::Store`].

mod counted;
mod disk;
mod embedded;
mod etcd;
mod file;
mod row;
#[cfg(test)]
mod tests;
mod volume;

pub use counted::Counted;
pub use embedded::Embedded;
pub use etcd::EtcdStore;
pub use file::OpenError;
pub use volume::Volume;
