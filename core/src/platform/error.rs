//! What can fail in the process around the core. `Display` of each is a sentence for people; the variant is what code
//! decides by.

use std::error::Error as StdError;

/// What the operating system or a device reported.
pub type Cause = Box<dyn StdError + Send + Sync>;

/// The Device Key could not be loaded, created or destroyed. `Display` tells the operator where the key is kept, what is
/// wrong, and what to do about it; it never holds key bytes.
#[derive(Debug, thiserror::Error)]
pub enum DeviceKeyError {
    /// It could not be read.
    #[error("The Device Key in {place} cannot be read: {cause}.")]
    Unreadable {
        /// Where the key is kept, such as the path of its file.
        place: String,
        /// Why reading failed.
        cause: Cause,
    },
    /// Its file is a folder, a pipe or something else that is not a regular file.
    #[error("The Device Key in {place} is not a regular file.")]
    NotARegularFile {
        /// The path of the file.
        place: String,
    },
    /// Its file belongs to another user of the operating system, who may have read it.
    #[error(
        "The Device Key in {place} belongs to another user (uid {uid}); change its owner to the one that runs \
         casemated, and assume that the other user knows the key."
    )]
    OwnedByAnother {
        /// The path of the file.
        place: String,
        /// The user id of its owner.
        uid: u32,
    },
    /// Its file can be read or written by other users of the operating system.
    #[error(
        "The Device Key in {place} can be read or written by other users; set its mode to 0600, and assume that they \
         know the key."
    )]
    OpenToOthers {
        /// The path of the file.
        place: String,
    },
    /// What is stored there is not a Device Key.
    #[error("The Device Key in {place} is malformed; restore the file, or reset the device.")]
    Malformed {
        /// The path of the file.
        place: String,
    },
    /// There was none, and a new one could not be stored.
    #[error("The Device Key in {place} cannot be created: {cause}.")]
    NotCreated {
        /// Where the key would have been kept.
        place: String,
        /// Why storing it failed.
        cause: Cause,
    },
    /// It could not be destroyed, and may still be there.
    #[error("The Device Key in {place} cannot be destroyed: {cause}.")]
    NotDestroyed {
        /// Where the key is kept.
        place: String,
        /// Why destroying it failed.
        cause: Cause,
    },
}

/// An erasure could not be scheduled: nothing is erased, now or at the next boot. `Display` is for the log.
#[derive(Debug, thiserror::Error)]
pub enum EraseError {
    /// The mark that the next boot looks for could not be stored durably.
    #[error("{place}: {cause}")]
    NotMarked {
        /// The path of the mark.
        place: String,
        /// Why storing it failed.
        cause: Cause,
    },
}

/// TLS cannot be served with a key and chain. `Display` is a sentence for the client that sent them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ServeError {
    /// The server does not run yet.
    #[error("The server is still starting. Try again.")]
    Starting,
    /// The first certificate of the chain is for another key.
    #[error("The certificate does not belong to the TLS key.")]
    OtherKey,
    /// The chain is empty, a certificate of it cannot be read, or the key is of a type or size that TLS cannot use.
    #[error(
        "TLS cannot be served with this key or certificate: the key must be RSA of 2048 to 8192 bits, EC_P256, EC_P384, \
         EC_P521 or Curve25519, the certificate of X.509 version 3."
    )]
    Unusable,
}

/// The server does not listen at a configured address. `Display` is the part of a log line after "not served: ".
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// The address is unspecified (such as `0.0.0.0`) or multicast.
    #[error("it is not the address of one machine")]
    NotOneMachine,
    /// No interface of this machine has the address.
    #[error("this machine does not have it")]
    NotOfThisMachine,
    /// The address is there, and its port is not free.
    #[error("port {port}: {cause}")]
    Port {
        /// The TCP port.
        port: u16,
        /// Why it cannot be listened at.
        cause: Cause,
    },
    /// The operating system refused for another reason.
    #[error("{0}")]
    Other(Cause),
}
