//! How long ago it was certain that this node had seen every change of the shared store, and what follows for reads.
//!
//! A node asks the majority for the newest revision, and waits until its watch has reported everything up to it. Then its
//! caches are as new as the moment of the question: the node is *confirmed* as of that moment. A cached row may be used for
//! [`STORE_CONFIRMED_MS`] from then on; after that rows are read from the store again, which fails if there is no majority. So
//! a change made elsewhere, such as the removal of a user, is in force on every node after that time at the latest.
//!
//! If the HSM is set to go on without a majority, a node that has its own copy of all rows uses what it has from
//! [`STORE_STALE_AFTER_MS`] on, and until the time of that setting is over. Both count from the last confirmation, and only
//! requests that say so are served that way (`runtime/stale.rs`). This file is the one place that decides which reads these are.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use casemate_api::limits::{STORE_CONFIRMED_MS, STORE_STALE_AFTER_MS};

use crate::runtime::stale::{self, Tolerance};
use crate::runtime::{BoxFuture, Clock};
use crate::store::Revision;

/// When the caches were last confirmed.
pub struct Confirmation {
    /// `None`: nobody else writes to the store, and the caches are always right.
    clock: Option<Arc<dyn Clock>>,
    /// Milliseconds of the monotonic clock until which cached rows may be used.
    until_ms: AtomicU64,
    /// One more than the milliseconds of the monotonic clock as of which the last confirmation was; 0: there was none.
    last_ms: AtomicU64,
    /// The newest revision that this node had seen then.
    revision: AtomicU64,
    /// How old what is used may be, in milliseconds. 0: without a majority nothing is.
    stale_max_ms: AtomicU64,
}

/// How a row is to be read from the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Freshness {
    /// As the majority has it.
    Fresh,
    /// As the majority has it, if it answers within this time; then it is to be asked again what to do.
    FreshFor(Duration),
    /// As this node's own copy has it.
    Own,
}

impl Confirmation {
    /// For a store that nobody else writes to.
    pub fn always() -> Self {
        Self::new(None)
    }

    /// For a store that others share. Not confirmed yet, and nothing is used without a majority.
    pub fn by(clock: Arc<dyn Clock>) -> Self {
        Self::new(Some(clock))
    }

    fn new(clock: Option<Arc<dyn Clock>>) -> Self {
        let zero = || AtomicU64::new(0);
        Self { clock, until_ms: zero(), last_ms: zero(), revision: zero(), stale_max_ms: zero() }
    }

    /// Whether cached rows may be used now.
    pub fn allows_cached(&self) -> bool {
        self.holds() || self.freshness() == Freshness::Own
    }

    /// Whether the caches are as new as they are to be while there is a majority.
    fn holds(&self) -> bool {
        self.clock.as_ref().is_none_or(|clock| millis(clock.monotonic()) < self.until_ms.load(Ordering::SeqCst))
    }

    /// How the future that is being polled is to read what is not cached. [`Freshness::Own`] is noted for it.
    pub fn freshness(&self) -> Freshness {
        if stale::tolerance() == Tolerance::Nothing {
            return Freshness::Fresh;
        }
        let Some((age, max)) = self.age() else { return Freshness::Fresh };
        if age >= max || max <= STALE_AFTER {
            Freshness::Fresh
        } else if age < STALE_AFTER {
            Freshness::FreshFor(STALE_AFTER - age)
        } else {
            stale::note(age);
            Freshness::Own
        }
    }

    /// For how long this node has not been confirmed, if it goes on without a majority now.
    pub fn stale(&self) -> Option<Duration> {
        self.age().filter(|(age, max)| *age >= STALE_AFTER && age < max).map(|(age, _)| age)
    }

    /// The time since the last confirmation, and how long it may be. `None`: nothing is used without a majority.
    fn age(&self) -> Option<(Duration, Duration)> {
        let max = Some(self.stale_max_ms.load(Ordering::SeqCst)).filter(|max| *max > 0)?;
        let last_ms = self.last_ms.load(Ordering::SeqCst).checked_sub(1)?;
        let now_ms = millis(self.clock.as_ref()?.monotonic());
        Some((Duration::from_millis(now_ms.saturating_sub(last_ms)), Duration::from_millis(max)))
    }

    /// Waits for this time.
    pub fn sleep(&self, time: Duration) -> BoxFuture<'static, ()> {
        self.clock.as_ref().map_or_else(|| Box::pin(std::future::ready(())) as _, |clock| clock.sleep(time))
    }

    /// Every change up to the newest revision of the moment `asked` was reported, and `seen` is the newest one that is known.
    pub fn confirm(&self, asked: Duration, seen: Revision) {
        self.until_ms.fetch_max(millis(asked).saturating_add(STORE_CONFIRMED_MS), Ordering::SeqCst);
        // Before the moment: a copy that is older than that moment must not be taken for one that is not.
        self.revision.fetch_max(seen.0, Ordering::SeqCst);
        self.last_ms.fetch_max(millis(asked).saturating_add(1), Ordering::SeqCst);
    }

    /// Whether a copy of the store as of this revision has everything that was confirmed. The copy of a node that has lost power may
    /// lack its last moments.
    pub fn covers(&self, copy: Revision) -> bool {
        copy.0 >= self.revision.load(Ordering::SeqCst)
    }

    /// Changes may have been missed.
    pub fn withdraw(&self) {
        self.until_ms.store(0, Ordering::SeqCst);
    }

    /// How old what is used without a majority may be from now on.
    pub fn allow_stale(&self, max: Duration) {
        self.stale_max_ms.store(millis(max), Ordering::SeqCst);
    }
}

const STALE_AFTER: Duration = Duration::from_millis(STORE_STALE_AFTER_MS);

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use pollster::block_on;

    use super::*;
    use crate::sim::SimClock;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn tolerant(confirmation: &Confirmation) -> (Freshness, Duration) {
        block_on(stale::within(Tolerance::OwnData, async { confirmation.freshness() }))
    }

    #[test]
    fn what_a_node_knows_is_used_from_three_seconds_after_the_last_confirmation_up_to_the_limit() {
        let clock = Arc::new(SimClock::new());
        let confirmation = Confirmation::by(clock.clone());
        confirmation.allow_stale(ms(10_000));
        clock.advance(ms(50_000));
        assert_eq!(tolerant(&confirmation).0, Freshness::Fresh, "it was never confirmed");
        confirmation.confirm(clock.monotonic(), Revision(1));
        assert_eq!(tolerant(&confirmation), (Freshness::FreshFor(ms(3_000)), ms(0)));
        clock.advance(ms(2_999));
        assert_eq!((tolerant(&confirmation).0, confirmation.stale()), (Freshness::FreshFor(ms(1)), None));
        clock.advance(ms(1));
        assert_eq!((tolerant(&confirmation), confirmation.stale()), ((Freshness::Own, ms(3_000)), Some(ms(3_000))));
        assert_eq!(confirmation.freshness(), Freshness::Fresh, "to others it is as it always is");
        assert!(!confirmation.allows_cached());
        // Whatever was missed since, the time counts from the last confirmation.
        confirmation.withdraw();
        clock.advance(ms(6_999));
        assert_eq!(tolerant(&confirmation), (Freshness::Own, ms(9_999)));
        clock.advance(ms(1));
        assert_eq!((tolerant(&confirmation), confirmation.stale()), ((Freshness::Fresh, ms(0)), None));
        confirmation.confirm(clock.monotonic(), Revision(2));
        clock.advance(ms(3_000));
        confirmation.allow_stale(Duration::ZERO);
        assert_eq!((tolerant(&confirmation).0, confirmation.stale()), (Freshness::Fresh, None));
    }

    #[test]
    fn a_limit_that_is_over_before_it_begins_changes_nothing() {
        let clock = Arc::new(SimClock::new());
        let confirmation = Confirmation::by(clock.clone());
        confirmation.allow_stale(ms(3_000));
        confirmation.confirm(clock.monotonic(), Revision(1));
        for _ in 0..40 {
            assert_eq!((tolerant(&confirmation).0, confirmation.stale()), (Freshness::Fresh, None));
            clock.advance(ms(100));
        }
    }

    #[test]
    fn a_copy_from_before_the_confirmation_is_known() {
        let confirmation = Confirmation::by(Arc::new(SimClock::new()));
        confirmation.confirm(ms(0), Revision(7));
        assert!(confirmation.covers(Revision(7)) && !confirmation.covers(Revision(6)));
    }
}
