//! What all other modules need to run: time, randomness, futures, worker threads. It uses none of them.

pub mod lifetime;
pub mod party;
pub mod pool;
pub mod stall;
pub mod tally;

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

/// A boxed future, for traits used as `dyn`.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Clocks and timers.
pub trait Clock: Send + Sync {
    /// The hardware's wall clock, as time since 1970-01-01T00:00:00Z. The HSM's own time is this plus a stored offset.
    fn wall(&self) -> Duration;
    /// Time since a fixed instant. It never goes back.
    fn monotonic(&self) -> Duration;
    /// Resolves after `duration`.
    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()>;
}

/// A source of random bytes: the kernel, except in simulations.
pub trait Rng: Send + Sync {
    /// Fills `bytes` with random bytes.
    fn fill(&self, bytes: &mut [u8]);
}
