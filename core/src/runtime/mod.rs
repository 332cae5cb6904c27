//! What code of any kind needs to run: time, randomness, futures, workers. Below every other room.

pub mod lifetime;
pub mod party;
pub mod pool;
pub mod stall;
pub mod tally;

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

/// A future whose type does not matter.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Time.
pub trait Clock: Send + Sync {
    /// The hardware's wall clock, as time since 1970-01-01T00:00:00Z; the HSM's own time adds its stored offset.
    fn wall(&self) -> Duration;
    /// Time since some fixed instant; never goes back.
    fn monotonic(&self) -> Duration;
    /// Ends after `duration`.
    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()>;
}

/// Randomness, from the kernel outside simulations.
pub trait Rng: Send + Sync {
    /// Fills `bytes` with random ones.
    fn fill(&self, bytes: &mut [u8]);
}
