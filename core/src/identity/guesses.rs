//! Logins that are being checked. Equal ones share one run of the slow hash; of different ones for the same name from
//! the same neighbourhood only one is checked.
//!
//! Why at most one *wrong* guess a second is checked for a name and a neighbourhood, however many threads serve and
//! however many guesses arrive at once: a guess is checked in one of three ways.
//!
//! - By the hash. Then [`Limiter::admit`] has admitted it, which happens once a second, and not while another guess is
//!   checked.
//! - By comparison with credentials that are known ([`Operational::authenticate`]). A right guess is accepted only if
//!   the limiter has no strike, and a wrong one leaves its strike before the next guess of that name and neighbourhood
//!   is compared: both happen under [`Guesses::comparing`]. (A limiter that is full refuses unknown guesses without a strike.
//!   It is full after [`casemate_api::limits::LOGIN_STRIKES_MAX`] different guesses within a second.)
//! - By comparison with the guess that is being checked. The first that differs leaves a strike, and from then on no
//!   guess can join; the strike stays even if the guess being checked turns out to be right.
//!
//! [`Operational::authenticate`]: crate::hsm::phase::Operational::authenticate

use std::collections::{HashMap, hash_map};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_lock::OnceCell;
use casemate_api::limits::LOGINS_CHECKED_PER_CLIENT_MAX;
use futures_channel::oneshot;
use subtle::ConstantTimeEq;

use crate::device::limiter::{Admitted, Limiter, LimiterKey};
use crate::runtime::party::Neighbourhood;

/// The result of checking a guess.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The passphrase is the one whose digest has this salt.
    Right([u8; 16]),
    /// It is not the one whose digest has this salt.
    Wrong([u8; 16]),
}

/// What happens to a guess that came in.
#[derive(Debug)]
pub enum Entry {
    /// The caller must check it: the handle to give the verdict with, and the receiver of the verdict.
    First(Judging, Awaited),
    /// An equal guess is being checked; this receives its verdict. What is stored after the verdict is read once for all of them.
    Joined(Awaited, StoredAfter),
    /// A guess failed less than a second ago, or a different one is being checked.
    Refused,
    /// Too many guesses from the same neighbourhood are being checked. This one was compared with nothing.
    Busy,
}

/// The salt of the user's digest as it is stored after a verdict; `None` if it could not be read.
pub type StoredAfter = Arc<OnceCell<Option<[u8; 16]>>>;

/// Receives a verdict; an error if there will be none.
pub type Awaited = oneshot::Receiver<Verdict>;

/// The guesses that are being checked.
pub struct Guesses {
    limiter: Arc<Limiter>,
    flights: Mutex<Flights>,
    /// Each is held during one comparison with known credentials and the strike that may follow.
    comparing: [Mutex<()>; STRIPES],
}

/// So many locks that guesses at different names rarely share one; each is held for a look-up in a hash table.
const STRIPES: usize = 64;

#[derive(Default)]
struct Flights {
    of: HashMap<LimiterKey, Flight>,
    /// How many there are from each neighbourhood.
    from: HashMap<Neighbourhood, usize>,
}

struct Flight {
    by: Neighbourhood,
    /// A keyed hash of name and passphrase.
    tag: [u8; 32],
    waiting: Vec<oneshot::Sender<Verdict>>,
    after: StoredAfter,
    /// Another guess was compared with this one and differed.
    differed: bool,
}

impl Guesses {
    /// No guesses yet.
    pub fn new(limiter: Arc<Limiter>) -> Arc<Self> {
        Arc::new(Self { limiter, flights: Mutex::default(), comparing: [const { Mutex::new(()) }; STRIPES] })
    }

    /// Hold this while a guess is compared with known credentials and, if it differs, entered: if two threads compare
    /// guesses at the same instant, the second one sees the strike of the first.
    #[expect(clippy::indexing_slicing, reason = "the index is taken modulo the length")]
    pub fn comparing(&self, key: LimiterKey) -> MutexGuard<'_, ()> {
        self.comparing[key.stripe(STRIPES)].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Admits a guess by a client in the neighbourhood `by`, or refuses it. Nothing is awaited between the check and the strike.
    pub fn enter(self: &Arc<Self>, by: Neighbourhood, key: LimiterKey, tag: [u8; 32]) -> Entry {
        let (send, awaited) = oneshot::channel();
        let mut flights = self.flights();
        if let Some(flight) = flights.of.get_mut(&key) {
            if flight.differed {
                return Entry::Refused;
            }
            if flight.tag.ct_eq(&tag).into() {
                flight.waiting.push(send);
                return Entry::Joined(awaited, flight.after.clone());
            }
            flight.differed = true;
            self.limiter.strike(key);
            return Entry::Refused;
        }
        if flights.from.get(&by).is_some_and(|running| *running >= LOGINS_CHECKED_PER_CLIENT_MAX) {
            return Entry::Busy;
        }
        let Some(admitted) = self.limiter.admit(key) else { return Entry::Refused };
        *flights.from.entry(by).or_default() += 1;
        flights.of.insert(key, Flight { by, tag, waiting: vec![send], after: StoredAfter::default(), differed: false });
        Entry::First(Judging { guesses: self.clone(), key, admitted: Some(admitted), verdict: None }, awaited)
    }

    /// Ends all waits without a verdict, for the end of the phase.
    pub fn abandon(&self) {
        self.flights().of.values_mut().for_each(|flight| flight.waiting.clear());
    }

    fn flights(&self) -> MutexGuard<'_, Flights> {
        self.flights.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The one guess of a name and a neighbourhood that is being checked. If it is dropped without a verdict, because its
/// client left before it was queued or the pool was full, its strike stays and all who joined get an error.
pub struct Judging {
    guesses: Arc<Guesses>,
    key: LimiterKey,
    admitted: Option<Admitted>,
    verdict: Option<Verdict>,
}

impl std::fmt::Debug for Judging {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Judging")
    }
}

impl Judging {
    /// Ends the check; everybody who waits gets `verdict`.
    pub fn judge(mut self, verdict: Verdict) {
        self.verdict = Some(verdict);
    }
}

impl Drop for Judging {
    fn drop(&mut self) {
        let mut flights = self.guesses.flights();
        let Some(flight) = flights.of.remove(&self.key) else { return };
        if let hash_map::Entry::Occupied(mut running) = flights.from.entry(flight.by) {
            *running.get_mut() -= 1;
            if *running.get() == 0 {
                running.remove();
            }
        }
        // Before another guess can be admitted.
        if let Some(admitted) = self.admitted.take() {
            match self.verdict {
                Some(Verdict::Right(_)) if !flight.differed => admitted.right(),
                Some(Verdict::Wrong(_)) => admitted.wrong(),
                Some(Verdict::Right(_)) | None => drop(admitted),
            }
        }
        drop(flights);
        if let Some(verdict) = self.verdict {
            for waiting in flight.waiting {
                // The client may have left.
                let _ = waiting.send(verdict);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures_channel::oneshot::Canceled;
    use pollster::block_on;

    use super::*;
    use crate::device::limiter::Guess;
    use crate::sim::SimClock;

    const RIGHT: Verdict = Verdict::Right([7; 16]);

    struct Rig {
        clock: Arc<SimClock>,
        guesses: Arc<Guesses>,
    }

    impl Rig {
        fn new() -> Self {
            let clock = Arc::new(SimClock::new());
            Self { guesses: Guesses::new(Limiter::new(clock.clone())), clock }
        }

        fn enter(&self, name: &str, passphrase: u8) -> Entry {
            let key = self.guesses.limiter.key(Guess::Login(Neighbourhood::V4(1), name));
            self.guesses.enter(Neighbourhood::V4(1), key, [passphrase; 32])
        }

        fn first(&self, name: &str, passphrase: u8) -> (Judging, Awaited) {
            match self.enter(name, passphrase) {
                Entry::First(judging, verdict) => (judging, verdict),
                other => panic!("{other:?}"),
            }
        }

        fn joined(&self, name: &str, passphrase: u8) -> Awaited {
            match self.enter(name, passphrase) {
                Entry::Joined(verdict, _) => verdict,
                other => panic!("{other:?}"),
            }
        }

        #[track_caller]
        fn refused(&self, name: &str, passphrase: u8) {
            let entry = self.enter(name, passphrase);
            assert!(matches!(entry, Entry::Refused), "{entry:?}");
        }
    }

    #[test]
    fn equal_guesses_share_a_verdict_and_others_wait_a_second() {
        let rig = Rig::new();
        let (judging, first) = rig.first("a", 1);
        let equal = rig.joined("a", 1);
        let (other, _) = rig.first("b", 2);
        judging.judge(RIGHT);
        assert_eq!([first, equal].map(block_on), [Ok(RIGHT); 2]);
        other.judge(Verdict::Wrong([7; 16]));
        rig.refused("b", 3);
        rig.clock.advance(Duration::from_secs(1));
        drop(rig.first("b", 3));
    }

    #[test]
    fn one_different_guess_is_compared_and_leaves_a_strike() {
        let rig = Rig::new();
        let (judging, first) = rig.first("a", 1);
        rig.clock.advance(Duration::from_secs(5));
        rig.refused("a", 2);
        // From here on even an equal guess is refused.
        rig.refused("a", 1);
        rig.refused("a", 3);
        judging.judge(RIGHT);
        assert_eq!(block_on(first), Ok(RIGHT));
        rig.clock.advance(Duration::from_millis(999));
        rig.refused("a", 1);
        rig.clock.advance(Duration::from_millis(1));
        drop(rig.first("a", 1));
    }

    #[test]
    fn an_abandoned_guess_ends_the_joined_ones_and_counts_as_a_failure() {
        let rig = Rig::new();
        let (judging, first) = rig.first("a", 1);
        let equal = rig.joined("a", 1);
        drop(judging);
        assert_eq!([first, equal].map(block_on), [Err(Canceled); 2]);
        rig.refused("a", 1);
        let flights = rig.guesses.flights();
        assert!(flights.of.is_empty() && flights.from.is_empty());
    }

    #[test]
    fn one_neighbourhood_has_no_more_than_its_share_of_the_checks() {
        let rig = Rig::new();
        let mut running: Vec<_> =
            (0..LOGINS_CHECKED_PER_CLIENT_MAX).map(|n| rig.first(&format!("name{n}"), 1)).collect();
        assert!(matches!(rig.enter("another", 1), Entry::Busy));
        let elsewhere = Neighbourhood::V4(2);
        let key = rig.guesses.limiter.key(Guess::Login(elsewhere, "another"));
        assert!(matches!(rig.guesses.enter(elsewhere, key, [1; 32]), Entry::First(..)));
        // Equal guesses share a check that is under way, and others still differ from it.
        drop(rig.joined("name0", 1));
        rig.refused("name1", 2);
        running.pop();
        drop(rig.first("another", 1));
    }

    #[test]
    fn the_end_of_the_phase_ends_all_waits() {
        let rig = Rig::new();
        let (judging, first) = rig.first("a", 1);
        let equal = rig.joined("a", 1);
        rig.guesses.abandon();
        assert_eq!([first, equal].map(block_on), [Err(Canceled); 2]);
        judging.judge(RIGHT);
    }
}
