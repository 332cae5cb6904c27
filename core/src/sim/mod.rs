//! A simulated environment for tests: time that only moves when told, randomness from a seed, stores that fail on demand.
//! Nothing here is safe for real keys.

mod clock;
pub mod conformance;
mod device;
mod link;
mod rng;
mod store;
mod stores;

use std::sync::Arc;

pub use clock::SimClock;
pub use device::{InlinePool, SimDevice, SimHost};
pub use link::SimLink;
pub use rng::SimRng;
pub use store::SimStore;
pub use stores::SimKeeper;

use crate::platform::Platform;
use crate::platform::stores::Movable;
use crate::store::switch::{Away, Switch};

/// All parts of one simulated environment, for use by a test.
pub struct Sim {
    /// The clock.
    pub clock: Arc<SimClock>,
    /// Random bytes from a seed.
    pub rng: Arc<SimRng>,
    /// The shared store.
    pub store: Arc<SimStore>,
    /// The store of the device.
    pub local: Arc<SimStore>,
    /// Keeps the Device Key.
    pub device: Arc<SimDevice>,
    /// Counts calls to the process.
    pub host: Arc<SimHost>,
}

impl Sim {
    /// A new environment. Equal seeds behave equally.
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

    /// The environment of a node whose store can be moved, with `keeper` for its stores. [`Sim::store`] is not used.
    pub fn movable_platform(&self, keeper: &Arc<SimKeeper>) -> Platform {
        let switch = Switch::new(Arc::new(Away("it is not open yet".into())));
        let movable = Movable { switch: switch.clone(), keeper: keeper.clone() };
        Platform { store: switch.clone(), switch, movable: Some(movable), ..self.platform() }
    }

    /// The environment as the core sees it. Jobs run at once, on the thread that queues them.
    pub fn platform(&self) -> Platform {
        let switch = Switch::new(self.store.clone());
        Platform {
            clock: self.clock.clone(),
            rng: self.rng.clone(),
            store: switch.clone(),
            switch,
            movable: None,
            local: self.local.clone(),
            device: self.device.clone(),
            pool: Arc::new(InlinePool),
            host: self.host.clone(),
        }
    }
}
