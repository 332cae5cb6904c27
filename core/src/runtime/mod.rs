//! What all other modules need to run: time, randomness, futures, worker threads. It uses none of them.

pub mod lifetime;
pub mod party;
pub mod pool;
pub mod stale;
pub mod stall;
pub mod tally;
pub mod witness;

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::task::Poll;
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

/// Which of two futures was ready, with its result.
pub enum First<A, B> {
    /// The left one.
    Left(A),
    /// The right one.
    Right(B),
}

/// Waits until one of two futures is ready. The left one takes precedence if both are. The other one can go on afterwards if
/// it was passed by reference.
pub async fn first<A, B>(left: impl Future<Output = A>, right: impl Future<Output = B>) -> First<A, B> {
    let (mut left, mut right) = (pin!(left), pin!(right));
    poll_fn(|context| {
        if let Poll::Ready(value) = left.as_mut().poll(context) {
            return Poll::Ready(First::Left(value));
        }
        right.as_mut().poll(context).map(First::Right)
    })
    .await
}
