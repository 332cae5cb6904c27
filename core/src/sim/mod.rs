//! A world in memory, for tests: time that only moves when told, randomness from a seed, stores that fail on demand.
//! Nothing here is safe for real keys.

mod clock;
pub mod conformance;
mod device;
mod rng;
mod store;

use std::sync::Arc;

pub use clock::SimClock;
pub use device::{InlinePool, SimDevice, SimHost};
pub use rng::SimRng;
pub use store::SimStore;

use crate::platform::Platform;

/// All parts of one simulated world, at hand for a test.
pub struct Sim {
    /// Time.
    pub clock: Arc<SimClock>,
    /// Randomness.
    pub rng: Arc<SimRng>,
    /// The shared store.
    pub store: Arc<SimStore>,
    /// The local store.
    pub local: Arc<SimStore>,
    /// Keeper of the Device Key.
    pub device: Arc<SimDevice>,
    /// What was asked of the process.
    pub host: Arc<SimHost>,
}

impl Sim {
    /// A fresh world; equal seeds behave equally.
    pub fn new(seed: u64) -> Self {
        let rng = Arc::new(SimRng::new(seed));
        Self {
            clock: Arc::new(SimClock::new()),
            store: Arc::new(SimStore::new(seed.wrapping_add(1))),
            local: Arc::new(SimStore::new(seed.wrapping_add(2))),
            device: Arc::new(SimDevice::new(rng.clone())),
            host: Arc::default(),
            rng,
        }
    }

    /// The world as the core sees it. Jobs run where they are queued.
    pub fn platform(&self) -> Platform {
        Platform {
            clock: self.clock.clone(),
            rng: self.rng.clone(),
            store: self.store.clone(),
            local: self.local.clone(),
            device: self.device.clone(),
            pool: Arc::new(InlinePool),
            host: self.host.clone(),
        }
    }
}
