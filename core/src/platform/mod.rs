//! Everything the core needs from its environment. It is passed down and never global, so that a whole HSM can run in one
//! test.

mod error;
pub mod stores;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use casemate_api::body::config::{Logging, Network};

use crate::crypto::secret::DeviceKey;
use crate::rows::tls_identity::TlsIdentity;
use crate::runtime::pool::Pool;
use crate::runtime::{Clock, Rng};
use crate::store::Store;
use crate::store::switch::Switch;
use stores::Movable;

pub use error::{Cause, DeviceKeyError, EraseError, ListenError, ServeError};

/// The environment of the core.
#[derive(Clone)]
pub struct Platform {
    /// Wall clock, monotonic clock and timers.
    pub clock: Arc<dyn Clock>,
    /// Source of random bytes.
    pub rng: Arc<dyn Rng>,
    /// What all members of a cluster share: users, namespaces, keys.
    pub store: Arc<dyn Store>,
    /// What is behind `store`.
    pub switch: Arc<Switch>,
    /// If the store can be moved: how. `None`: it is where the settings say.
    pub movable: Option<Movable>,
    /// What belongs to this device alone: slots, salts, TLS key, clock offset.
    pub local: Arc<dyn Store>,
    /// Stores the Device Key.
    pub device: Arc<dyn DeviceKeeper>,
    /// Threads for work that would block a serving thread for too long.
    pub pool: Arc<dyn Pool>,
    /// What only the process around the core can do.
    pub host: Arc<dyn Host>,
}

/// Stores the Device Key, for instance in a file of mode 0600 or in a TPM.
pub trait DeviceKeeper: Send + Sync {
    /// The Device Key. On a new device the first call creates it.
    fn load(&self) -> Result<DeviceKey, DeviceKeyError>;
    /// Destroys the Device Key, so that nothing sealed under it can be opened. The next [`DeviceKeeper::load`] creates a
    /// new one.
    fn destroy(&self) -> Result<(), DeviceKeyError>;
}

/// What only the process around the core can do. Reboot and shutdown return at once and act after the current reply is
/// sent.
pub trait Host: Send + Sync {
    /// Records durably that Device Key and stores must be erased. The next boot, even one after a crash, does it before
    /// anything else.
    fn erase(&self) -> Result<(), EraseError>;
    /// Finishes running requests, then boots again.
    fn reboot(&self);
    /// Finishes running requests, then ends the process.
    fn shutdown(&self);
    /// Checks that TLS can be served with this key and chain. Calling the result makes new connections use them; open
    /// connections stay as they are.
    fn serve_with(&self, identity: &TlsIdentity) -> Result<Swap, ServeError>;
    /// Names and addresses of the server, for its certificate. Addresses are prefixed with `IP:`.
    fn names(&self) -> Vec<String>;
    /// Listens at these addresses in addition to those of the settings, as far as this machine has them, and stops
    /// listening at those of an earlier call.
    fn use_network(&self, network: &Network) -> Applied;
    /// Applies this logging configuration from now on.
    fn log_to(&self, logging: &Logging);
}

/// Installs a key and chain that were checked.
pub type Swap = Box<dyn FnOnce() + Send>;

/// The result of applying a network configuration.
#[derive(Debug, Default)]
pub struct Applied {
    /// Configured addresses at which the server listens now.
    pub serving: Vec<SocketAddr>,
    /// Configured addresses at which the server does not listen, and why.
    pub not_served: Vec<(IpAddr, ListenError)>,
}
