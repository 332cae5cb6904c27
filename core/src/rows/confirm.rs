//! How long ago it was certain that this node had seen every change of the shared store.
//!
//! A node asks the majority for the newest revision, and waits until its watch has reported everything up to it. Then its
//! caches are as new as the moment of the question: the node is *confirmed* as of that moment. A cached row may be used for
//! [`STORE_CONFIRMED_MS`] from then on; after that rows are read from the store again, which fails if there is no majority. So
//! a change made elsewhere, such as the removal of a user, is in force on every node after that time at the latest.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use casemate_api::limits::STORE_CONFIRMED_MS;

use crate::runtime::Clock;

/// When the caches were last confirmed.
pub struct Confirmation {
    /// `None`: nobody else writes to the store, and the caches are always right.
    clock: Option<Arc<dyn Clock>>,
    /// Milliseconds of the monotonic clock until which cached rows may be used.
    until_ms: AtomicU64,
}

impl Confirmation {
    /// For a store that nobody else writes to.
    pub fn always() -> Self {
        Self { clock: None, until_ms: AtomicU64::new(0) }
    }

    /// For a store that others share. Not confirmed yet.
    pub fn by(clock: Arc<dyn Clock>) -> Self {
        Self { clock: Some(clock), until_ms: AtomicU64::new(0) }
    }

    /// Whether cached rows may be used now.
    pub fn holds(&self) -> bool {
        self.clock.as_ref().is_none_or(|clock| millis(clock.monotonic()) < self.until_ms.load(Ordering::SeqCst))
    }

    /// Every change up to the newest revision of the moment `asked` was reported.
    pub fn confirm(&self, asked: Duration) {
        self.until_ms.fetch_max(millis(asked).saturating_add(STORE_CONFIRMED_MS), Ordering::SeqCst);
    }

    /// Changes may have been missed.
    pub fn withdraw(&self) {
        self.until_ms.store(0, Ordering::SeqCst);
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
