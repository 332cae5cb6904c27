//! A count that many threads add to without waiting for each other: each in a cache line of its own.

use std::array;
use std::cell::Cell;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// A count that only grows.
pub(crate) struct Tally([Shard; SHARDS]);

/// The part of a few threads; processors fetch two lines at once.
#[repr(align(128))]
#[derive(Default)]
struct Shard(AtomicU64);

const SHARDS: usize = 16;

impl Default for Tally {
    fn default() -> Self {
        Self(array::from_fn(|_| Shard::default()))
    }
}

impl Tally {
    /// One more.
    pub(crate) fn add(&self) {
        thread_local! {
            static THREAD: Cell<usize> = Cell::new(NEXT_THREAD.fetch_add(1, Ordering::Relaxed));
        }
        // Not at hand while a thread ends: what it counts then is lost.
        let shard = THREAD.try_with(Cell::get).ok().and_then(|thread| self.0.get(thread % SHARDS));
        if let Some(shard) = shard {
            shard.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// All of them.
    pub(crate) fn sum(&self) -> u64 {
        self.0.iter().map(|shard| shard.0.load(Ordering::Relaxed)).sum()
    }
}

static NEXT_THREAD: AtomicUsize = AtomicUsize::new(0);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_are_added_up() {
        let tally = Tally::default();
        std::thread::scope(|scope| {
            for _ in 0..20 {
                scope.spawn(|| (0..1_000).for_each(|_| tally.add()));
            }
        });
        assert_eq!(tally.sum(), 20_000);
    }
}
