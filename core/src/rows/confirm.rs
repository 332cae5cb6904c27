//! How long ago it was certain that this node had seen every change of the shared store, and what follows for reads.
//!
//! A node asks the majority for the newest revision, and waits until its watch has reported everything up to it. Then its
//! caches are as new as the moment of the question: the node is *confirmed* as of that moment. A cached row may be used for
//! [`STORE_CONFIRMED_MS`] from then on; after that rows are read from the store again, which fails if there is no majority. So
//! a change made elsewhere, such as the removal of a user, is in force on every node after that time at the latest.
//!
//! If the HSM is set to go on without a majority, a node that has its own copy of all rows uses what it has from
//! [`STORE_STALE_AFTER_MS`] after the last answer of the majority on, and until the time of that setting is over since the last
//! confirmation. A majority that answers is asked for each row instead, however late the watch is. Only requests that say so
//! are served that way (`runtime/stale.rs`). This file is the one place that decides which reads these are.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
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
    /// The same of the last question that a majority has answered, whether or not the watch has followed.
    answered_ms: AtomicU64,
    /// The newest revision that this node had seen at the last confirmation.
    revision: AtomicU64,
    /// How old what is used may be, in milliseconds. 0: without a majority nothing is.
    stale_max_ms: AtomicU64,
    /// Whether that is as it is stored.
    knows_setting: AtomicBool,
}

/// How long ago something was.
struct Age {
    /// The last confirmation.
    confirmed: Duration,
    /// The last answer of a majority.
    answered: Duration,
    /// How old the last confirmation may be.
    max: Duration,
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
        let knows_setting = AtomicBool::new(false);
        let (until_ms, last_ms, answered_ms, revision, stale_max_ms) = (zero(), zero(), zero(), zero(), zero());
        Self { clock, until_ms, last_ms, answered_ms, revision, stale_max_ms, knows_setting }
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
        let Some(Age { confirmed, answered, max }) = self.age() else { return Freshness::Fresh };
        if confirmed >= max || max <= STALE_AFTER {
            Freshness::Fresh
        } else if answered < STALE_AFTER {
            Freshness::FreshFor(STALE_AFTER - answered)
        } else {
            stale::note(confirmed);
            Freshness::Own
        }
    }

    /// For how long this node has not been confirmed, if it goes on without a majority now.
    pub fn stale(&self) -> Option<Duration> {
        let age = self.age().filter(|age| age.answered >= STALE_AFTER && age.confirmed < age.max);
        age.map(|age| age.confirmed)
    }

    /// `None`: nothing is used without a majority.
    fn age(&self) -> Option<Age> {
        let max = Some(self.stale_max_ms.load(Ordering::SeqCst)).filter(|max| *max > 0)?;
        let last_ms = self.last_ms.load(Ordering::SeqCst).checked_sub(1)?;
        let answered_ms = last_ms.max(self.answered_ms.load(Ordering::SeqCst).saturating_sub(1));
        let now_ms = millis(self.clock.as_ref()?.monotonic());
        let since = |ms| Duration::from_millis(now_ms.saturating_sub(ms));
        Some(Age { confirmed: since(last_ms), answered: since(answered_ms), max: Duration::from_millis(max) })
    }

    /// A majority has answered what it was asked at the moment `asked`.
    pub fn answered(&self, asked: Duration) {
        self.answered_ms.fetch_max(millis(asked).saturating_add(1), Ordering::SeqCst);
    }

    /// Waits for this time.
    pub fn sleep(&self, time: Duration) -> BoxFuture<'static, ()> {
        self.clock.as_ref().map_or_else(|| Box::pin(std::future::ready(())) as _, |clock| clock.sleep(time))
    }

    /// Every change up to the newest revision of the moment `asked` was reported, and `seen` is the newest one that is known.
    pub fn confirm(&self, asked: Duration, seen: Revision) {
        // What was allowed before changes were missed must not count from now on, too.
        if !self.knows_setting.load(Ordering::SeqCst) {
            self.stale_max_ms.store(0, Ordering::SeqCst);
        }
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

    /// Changes may have been missed. The setting is as of the last confirmation, and is to be read before the next one.
    pub fn withdraw(&self) {
        self.until_ms.store(0, Ordering::SeqCst);
        self.knows_setting.store(false, Ordering::SeqCst);
    }

    /// Whether the setting is known as it is stored. If not, the caller reads it for [`Confirmation::allow_stale`].
    pub fn begins_to_know(&self) -> bool {
        self.knows_setting.swap(true, Ordering::SeqCst)
    }

    /// How old what is used without a majority may be from now on, as the setting was read. `None`: it could not be.
    pub fn allow_stale(&self, max: Option<Duration>) {
        self.stale_max_ms.store(max.map_or(0, millis), Ordering::SeqCst);
        // Or it was changed while it was read.
        if max.is_none() || !self.knows_setting.load(Ordering::SeqCst) {
            self.forbid_stale();
        }
    }

    /// Nothing is used without a majority until the setting was read again.
    pub fn forbid_stale(&self) {
        self.knows_setting.store(false, Ordering::SeqCst);
        self.stale_max_ms.store(0, Ordering::SeqCst);
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

    fn allow(confirmation: &Confirmation, max_ms: u64) {
        assert!(!confirmation.begins_to_know());
        confirmation.allow_stale(Some(ms(max_ms)));
        assert!(confirmation.begins_to_know());
    }

    #[test]
    fn what_a_node_knows_is_used_from_three_seconds_after_the_last_confirmation_up_to_the_limit() {
        let clock = Arc::new(SimClock::new());
        let confirmation = Confirmation::by(clock.clone());
        allow(&confirmation, 10_000);
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
        confirmation.forbid_stale();
        assert_eq!((tolerant(&confirmation).0, confirmation.stale()), (Freshness::Fresh, None));
    }

    #[test]
    fn a_limit_that_is_over_before_it_begins_changes_nothing() {
        let clock = Arc::new(SimClock::new());
        let confirmation = Confirmation::by(clock.clone());
        allow(&confirmation, 3_000);
        confirmation.confirm(clock.monotonic(), Revision(1));
        for _ in 0..40 {
            assert_eq!((tolerant(&confirmation).0, confirmation.stale()), (Freshness::Fresh, None));
            clock.advance(ms(100));
        }
    }

    #[test]
    fn a_setting_that_is_changed_while_it_is_read_or_cannot_be_read_allows_nothing() {
        let clock = Arc::new(SimClock::new());
        let confirmation = Confirmation::by(clock.clone());
        confirmation.confirm(clock.monotonic(), Revision(1));
        clock.advance(ms(5_000));
        assert!(!confirmation.begins_to_know());
        confirmation.forbid_stale();
        confirmation.allow_stale(Some(ms(60_000)));
        assert_eq!(confirmation.stale(), None);
        assert!(!confirmation.begins_to_know(), "it is to be read again");
        confirmation.allow_stale(None);
        assert!(!confirmation.begins_to_know() && confirmation.stale().is_none());
        confirmation.allow_stale(Some(ms(60_000)));
        assert_eq!(confirmation.stale(), Some(ms(5_000)));
    }

    #[test]
    fn a_copy_from_before_the_confirmation_is_known() {
        let confirmation = Confirmation::by(Arc::new(SimClock::new()));
        confirmation.confirm(ms(0), Revision(7));
        assert!(confirmation.covers(Revision(7)) && !confirmation.covers(Revision(6)));
    }
}
