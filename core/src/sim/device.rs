//! The simulated Device Key, worker pool and process.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use casemate_api::body::config::{Logging, Network};

use crate::crypto::secret::DeviceKey;
use crate::platform::{Applied, DeviceKeeper, DeviceKeyError, EraseError, Host, ServeError, Swap};
use crate::rows::tls_identity::TlsIdentity;
use crate::runtime::Rng;
use crate::runtime::party::Party;
use crate::runtime::pool::{Job, Pool, Work};

/// Keeps a Device Key in memory.
pub struct SimDevice {
    rng: Arc<dyn Rng>,
    key: Mutex<Option<DeviceKey>>,
}

impl SimDevice {
    /// A new device. Its key is created at the first load.
    pub fn new(rng: Arc<dyn Rng>) -> Self {
        Self { rng, key: Mutex::new(None) }
    }
}

impl DeviceKeeper for SimDevice {
    fn load(&self) -> Result<DeviceKey, DeviceKeyError> {
        let mut key = self.key.lock().unwrap_or_else(PoisonError::into_inner);
        let key = key.get_or_insert_with(|| DeviceKey::random(&*self.rng));
        Ok(DeviceKey::new(*key.expose()))
    }

    fn destroy(&self) -> Result<(), DeviceKeyError> {
        *self.key.lock().unwrap_or_else(PoisonError::into_inner) = None;
        Ok(())
    }
}

/// A pool that runs every job at once, on the thread that queues it.
pub struct InlinePool;

impl Pool for InlinePool {
    fn spawn(&self, _work: Work, _party: Party, job: Job) {
        job();
    }
}

/// A process that only counts what was asked of it.
#[derive(Default)]
pub struct SimHost {
    reboots: AtomicUsize,
    erasures: AtomicUsize,
    shutdowns: AtomicUsize,
    swaps: Arc<AtomicUsize>,
    loggings: Mutex<Vec<Logging>>,
}

impl SimHost {
    /// Changes of the TLS identity so far.
    pub fn swaps(&self) -> usize {
        self.swaps.load(Ordering::Relaxed)
    }

    /// The logging configurations it was given, in order.
    pub fn loggings(&self) -> Vec<Logging> {
        self.loggings.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Reboots asked for so far.
    pub fn reboots(&self) -> usize {
        self.reboots.load(Ordering::Relaxed)
    }

    /// Erasures asked for so far.
    pub fn erasures(&self) -> usize {
        self.erasures.load(Ordering::Relaxed)
    }

    /// Shutdowns asked for so far.
    pub fn shutdowns(&self) -> usize {
        self.shutdowns.load(Ordering::Relaxed)
    }
}

impl Host for SimHost {
    fn erase(&self) -> Result<(), EraseError> {
        self.erasures.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    fn reboot(&self) {
        self.reboots.fetch_add(1, Ordering::Relaxed);
    }

    fn shutdown(&self) {
        self.shutdowns.fetch_add(1, Ordering::Relaxed);
    }

    fn serve_with(&self, _: &TlsIdentity) -> Result<Swap, ServeError> {
        let swaps = self.swaps.clone();
        Ok(Box::new(move || {
            swaps.fetch_add(1, Ordering::Relaxed);
        }))
    }

    fn names(&self) -> Vec<String> {
        vec!["localhost".into(), "IP:127.0.0.1".into()]
    }

    fn use_network(&self, _: &Network) -> Applied {
        Applied::default()
    }

    fn log_to(&self, logging: &Logging) {
        self.loggings.lock().unwrap_or_else(PoisonError::into_inner).push(logging.clone());
    }
}

#[cfg(test)]
mod tests {
    use crate::platform::DeviceKeeper;
    use crate::sim::Sim;

    #[test]
    fn the_device_key_stays_until_it_is_destroyed() {
        let device = Sim::new(1).device;
        let key = device.load().unwrap();
        assert!(key.ct_eq(&device.load().unwrap()));
        device.destroy().unwrap();
        assert!(!key.ct_eq(&device.load().unwrap()));
    }
}
