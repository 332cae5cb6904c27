//! What is known of the store, for those who look after the HSM: since when it does not answer and why, and how far this node has
//! followed what others write.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use casemate_api::body::system::StoreTrouble;

pub use crate::store::facts::{Endpoint, Facts};
use crate::store::{Event, Revision, Store, StoreError};

/// What was seen so far. Times are of the monotonic clock.
#[derive(Default)]
pub(super) struct StoreHealth(Mutex<Known>);

#[derive(Default)]
struct Known {
    /// Since when it does not answer, and why not the last time.
    silent: Option<(Duration, StoreTrouble)>,
    /// Since when it is known not to hold the data of this HSM.
    other_data: Option<Duration>,
    failed: Option<Duration>,
    /// When it was last said that the node goes on without a majority, while it does.
    stale_said: Option<Duration>,
    watched: Option<Duration>,
    /// The moment as of which everything was applied, and up to which revision.
    confirmed: Option<(Duration, Revision)>,
    applied: Option<Revision>,
}

/// Why a store that gave this error cannot be used. `None`: it answers.
fn trouble(error: &StoreError) -> Option<StoreTrouble> {
    match error {
        StoreError::Unreachable(_) => Some(StoreTrouble::NoAnswer),
        StoreError::Refused(_) => Some(StoreTrouble::Refused),
        StoreError::Unsupported(_) => Some(StoreTrouble::Unsupported),
        StoreError::NoMajority => Some(StoreTrouble::NoMajority),
        StoreError::Compacted
        | StoreError::Busy
        | StoreError::Held
        | StoreError::Full
        | StoreError::Damaged(_)
        | StoreError::TooLarge => None,
    }
}

/// What is to be said about a node that goes on without a majority.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum StaleNews {
    Begins,
    GoesOn,
    Ends,
}

/// What is known of the store now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreReport {
    /// Whether others share it.
    pub shared: bool,
    /// Why it cannot be used, and for how long that has been so.
    pub trouble: Option<(StoreTrouble, Duration)>,
    /// For how long the HSM has been Failed.
    pub failed: Option<Duration>,
    /// For how long the watch on what others write has been running.
    pub watched: Option<Duration>,
    /// How long ago a majority confirmed that this node had seen everything, and up to which revision.
    pub confirmed: Option<(Duration, Revision)>,
    /// The newest revision that this node has seen.
    pub applied: Option<Revision>,
    /// What the store says about itself.
    pub facts: Option<Facts>,
}

impl StoreHealth {
    /// A probe of the shared store has ended, at `now`.
    pub(super) fn probed(&self, now: Duration, error: Option<&StoreError>) {
        let mut known = self.known();
        let since = known.silent.map_or(now, |(since, _)| since);
        known.silent = error.and_then(trouble).map(|trouble| (since, trouble));
    }

    /// The boot cannot go on because of what the store holds.
    pub(super) fn holds_other_data(&self, now: Duration) {
        self.known().other_data.get_or_insert(now);
    }

    /// The HSM is Failed, or is not.
    pub(super) fn is_failed(&self, now: Duration, failed: bool) {
        let mut known = self.known();
        if failed {
            known.failed.get_or_insert(now);
        } else {
            (known.failed, known.other_data) = (None, None);
        }
    }

    /// The node goes on without a majority, or does not. Returns what is to be said: once in `interval` while it does.
    pub(super) fn is_stale(&self, now: Duration, stale: bool, interval: Duration) -> Option<StaleNews> {
        let said = &mut self.known().stale_said;
        let (news, say) = match (*said, stale) {
            (None, true) => (StaleNews::Begins, Some(now)),
            (Some(last), true) if now.saturating_sub(last) >= interval => (StaleNews::GoesOn, Some(now)),
            (Some(_), false) => (StaleNews::Ends, None),
            (Some(_), true) | (None, false) => return None,
        };
        *said = say;
        Some(news)
    }

    /// The watch has reported `event`.
    pub(super) fn reported(&self, now: Duration, event: &Event) {
        let mut known = self.known();
        match event {
            Event::Changed { revision, .. } | Event::Progress(revision) => {
                known.watched.get_or_insert(now);
                known.applied = known.applied.max(Some(*revision));
            }
            Event::Lost | Event::Compacted => known.watched = None,
        }
    }

    /// Everything up to the moment `asked` was reported.
    pub(super) fn confirmed(&self, asked: Duration) {
        let mut known = self.known();
        known.confirmed = known.applied.map(|revision| (asked, revision));
    }

    /// What is known of `store` at `now`.
    pub(super) fn report(&self, now: Duration, store: &dyn Store) -> StoreReport {
        let known = self.known();
        let ago = |then: Duration| now.saturating_sub(then);
        let other_data = known.other_data.map(|since| (since, StoreTrouble::OtherData));
        StoreReport {
            shared: store.is_shared(),
            trouble: known.silent.or(other_data).map(|(since, trouble)| (trouble, ago(since))),
            failed: known.failed.map(ago),
            watched: known.watched.map(ago),
            confirmed: known.confirmed.map(|(asked, revision)| (ago(asked), revision)),
            applied: known.applied,
            facts: store.facts(),
        }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn trouble_lasts_from_its_beginning_and_has_its_latest_cause() {
        let health = StoreHealth::default();
        health.probed(at(1), Some(&StoreError::Unreachable("x".into())));
        health.probed(at(2), Some(&StoreError::NoMajority));
        assert_eq!(health.known().silent, Some((at(1), StoreTrouble::NoMajority)));
        // It answers that it is busy.
        health.probed(at(3), Some(&StoreError::Busy));
        assert_eq!(health.known().silent, None);
    }

    #[test]
    fn that_a_node_goes_on_without_a_majority_is_said_at_the_beginning_the_end_and_in_between() {
        let health = StoreHealth::default();
        let news = |second, stale| health.is_stale(at(second), stale, at(60));
        assert_eq!(news(1, false), None);
        assert_eq!([2, 3, 61, 62, 63].map(|second| news(second, true)), {
            use StaleNews::{Begins, GoesOn};
            [Some(Begins), None, None, Some(GoesOn), None]
        });
        assert_eq!([64, 65].map(|second| news(second, false)), [Some(StaleNews::Ends), None]);
    }

    #[test]
    fn other_data_is_known_until_the_hsm_goes_on() {
        let health = StoreHealth::default();
        health.is_failed(at(1), true);
        health.holds_other_data(at(2));
        health.probed(at(3), None);
        health.holds_other_data(at(3));
        health.is_failed(at(3), true);
        let times = || {
            let known = health.known();
            (known.failed, known.other_data)
        };
        assert_eq!(times(), (Some(at(1)), Some(at(2))));
        health.is_failed(at(4), false);
        assert_eq!(times(), (None, None));
    }

    #[test]
    fn a_watch_is_as_old_as_its_first_report() {
        let health = StoreHealth::default();
        health.confirmed(at(1));
        assert_eq!(health.known().confirmed, None, "nothing was reported yet");
        health.reported(at(2), &Event::Progress(Revision(7)));
        health.reported(at(3), &Event::Progress(Revision(6)));
        health.confirmed(at(3));
        assert_eq!(health.known().watched, Some(at(2)));
        assert_eq!(health.known().confirmed, Some((at(3), Revision(7))));
        health.reported(at(4), &Event::Lost);
        assert_eq!(health.known().watched, None);
        assert_eq!(health.known().applied, Some(Revision(7)));
    }
}
