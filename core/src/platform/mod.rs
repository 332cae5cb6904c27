//! Everything the core needs from the world, passed down and never global, so that a whole HSM can run in one test.

mod error;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use casemate_api::body::config::{Logging, Network};

use crate::crypto::secret::DeviceKey;
use crate::rows::tls_identity::TlsIdentity;
use crate::runtime::pool::Pool;
use crate::runtime::{Clock, Rng};
use crate::store::Store;

pub use error::{Cause, DeviceKeyError, EraseError, ListenError, ServeError};

/// The world as the core sees it.
#[derive(Clone)]
pub struct Platform {
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Randomness.
    pub rng: Arc<dyn Rng>,
    /// What all members of a cluster share: users, namespaces, keys.
    pub store: Arc<dyn Store>,
    /// What belongs to this device alone: slots, salts, TLS key, clock offset.
    pub local: Arc<dyn Store>,
    /// Keeper of the Device Key.
    pub device: Arc<dyn DeviceKeeper>,
    /// Threads for work that would stall a serving thread.
    pub pool: Arc<dyn Pool>,
    /// What only the process around the core can do.
    pub host: Arc<dyn Host>,
}

/// Keeps the Device Key: a file of mode 0600, a TPM.
pub trait DeviceKeeper: Send + Sync {
    /// The Device Key, made at the first call on a new device.
    fn load(&self) -> Result<DeviceKey, DeviceKeyError>;
    /// Destroys the Device Key, and with it everything sealed under it. The next [`DeviceKeeper::load`] makes a new one.
    fn destroy(&self) -> Result<(), DeviceKeyError>;
}

/// What only the process around the core can do. Reboot and shutdown answer at once and act after the running reply.
pub trait Host: Send + Sync {
    /// Marks, durably, that Device Key and stores are to be erased: the next boot, even one after a crash, does it before
    /// anything else.
    fn erase(&self) -> Result<(), EraseError>;
    /// Start over: finish running requests, then run boot again.
    fn reboot(&self);
    /// End the process after running requests.
    fn shutdown(&self);
    /// Checks that TLS can be served with this key and chain, and gives what makes connections from then on get them;
    /// running ones stay.
    fn serve_with(&self, identity: &TlsIdentity) -> Result<Swap, ServeError>;
    /// Names and addresses the server is reached at, for a certificate; addresses have `IP:` in front.
    fn names(&self) -> Vec<String>;
    /// Serves at these addresses, too, as far as this machine has them, and no longer at those of an earlier call.
    fn use_network(&self, network: &Network) -> Applied;
    /// Logs as this says from now on.
    fn log_to(&self, logging: &Logging);
}

/// Puts what was checked in place.
pub type Swap = Box<dyn FnOnce() + Send>;

/// What came of a network configuration.
#[derive(Debug, Default)]
pub struct Applied {
    /// Where the server listens now because of it, or did already.
    pub serving: Vec<SocketAddr>,
    /// Addresses that are not served, and why.
    pub stored: Vec<(IpAddr, ListenError)>,
}
