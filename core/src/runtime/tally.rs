//! Counters for many threads that do not wait for each other: threads add in separate cache lines, and a reader sums them up.

use std::array;
use std::cell::Cell;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// Several `T`, each shared by a few threads only.
pub struct Sharded<T>([Shard<T>; SHARDS]);

/// The `T` of a few threads. Aligned to two cache lines, because processors fetch them in pairs.
#[repr(align(128))]
#[derive(Default)]
struct Shard<T>(T);

const SHARDS: usize = 16;

impl<T> Sharded<T> {
    /// Creates each `T` with `make`.
    pub fn new(make: impl Fn() -> T) -> Self {
        Self(array::from_fn(|_| Shard(make())))
    }

    /// The `T` of the calling thread. `None` while the thread is ending, so what it counts then is lost.
    pub fn mine(&self) -> Option<&T> {
        thread_local! {
            static THREAD: Cell<usize> = Cell::new(NEXT_THREAD.fetch_add(1, Ordering::Relaxed));
        }
        let thread = THREAD.try_with(Cell::get).ok()?;
        self.0.get(thread % SHARDS).map(|shard| &shard.0)
    }

    /// Every `T`, to be summed up.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.0.iter().map(|shard| &shard.0)
    }
}

impl<T: Default> Default for Sharded<T> {
    fn default() -> Self {
        Self::new(T::default)
    }
}

/// A count that only grows.
pub type Tally = Sharded<AtomicU64>;

impl Tally {
    /// Adds one.
    pub fn add(&self) {
        if let Some(count) = self.mine() {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The total.
    pub fn sum(&self) -> u64 {
        self.iter().map(|count| count.load(Ordering::Relaxed)).sum()
    }
}

static NEXT_THREAD: AtomicUsize = AtomicUsize::new(0);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_of_all_threads_are_summed_up() {
        let tally = Tally::default();
        std::thread::scope(|scope| {
            for _ in 0..20 {
                scope.spawn(|| (0..1_000).for_each(|_| tally.add()));
            }
        });
        assert_eq!(tally.sum(), 20_000);
    }
}
