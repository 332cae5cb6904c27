//! Slows down guessing: one wrong guess a second at one secret from one neighbourhood (an IPv4 address or an IPv6 /64).
//!
//! A guess is counted as a strike before it is checked: looking for a strike and recording one is a single step, so that of
//! many simultaneous guesses only one is checked. If the guess is right, its strike is removed.
//!
//! No strike is forgotten before its second is over. When [`LOGIN_STRIKES_MAX`] strikes are remembered, further guesses are
//! refused without being checked.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use casemate_api::UserId;
use casemate_api::limits::{LOGIN_PENALTY_MS, LOGIN_STRIKES_MAX};

use crate::runtime::Clock;
use crate::runtime::party::Neighbourhood;

/// Which secret is guessed at, and by whom.
#[derive(Clone, Copy, Debug, Hash)]
pub enum Guess<'a> {
    /// At the passphrase of the user with this name, exactly as it was sent.
    Login(Neighbourhood, &'a str),
    /// At the unlock passphrase, by somebody without credentials.
    Unlock(Neighbourhood),
    /// At the backup passphrase of a joiner kit, by somebody without credentials.
    Join(Neighbourhood),
    /// At the current unlock passphrase, by a user who may change it.
    CurrentUnlock(&'a UserId),
    /// At the current backup passphrase, by a user who may change it.
    CurrentBackup(&'a UserId),
}

/// A keyed hash of a [`Guess`]: equal for equal guesses, and of the same size for names of any length.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct LimiterKey(u64, u64);

impl LimiterKey {
    /// The index of the lock for this guess among `stripes` locks, which is not zero.
    pub(crate) fn stripe(self, stripes: usize) -> usize {
        usize::try_from(self.0 % stripes.max(1) as u64).unwrap_or(0)
    }
}

/// Remembers guesses for a second.
pub struct Limiter {
    clock: Arc<dyn Clock>,
    keys: [RandomState; 2],
    strikes: Mutex<Strikes>,
    /// Number of remembered keys, readable without the lock. It is nearly always zero.
    count: AtomicUsize,
}

/// A strike is in `recent` for up to a second, then in `older` for at least another second.
#[derive(Default)]
struct Strikes {
    began: Duration,
    recent: HashMap<LimiterKey, Duration>,
    older: HashMap<LimiterKey, Duration>,
    /// Guesses that are being checked.
    pending: HashSet<LimiterKey>,
}

impl Limiter {
    /// A limiter without strikes.
    pub fn new(clock: Arc<dyn Clock>) -> Arc<Self> {
        let keys = [RandomState::new(), RandomState::new()];
        Arc::new(Self { clock, keys, strikes: Mutex::default(), count: AtomicUsize::new(0) })
    }

    /// The hash that identifies `guess`.
    pub fn key(&self, guess: Guess<'_>) -> LimiterKey {
        let [first, second] = &self.keys;
        LimiterKey(first.hash_one(guess), second.hash_one(guess))
    }

    /// Whether a guess would be refused now, because one is being checked or one was made less than a second ago.
    pub fn blocks(&self, key: LimiterKey) -> bool {
        if self.count.load(Ordering::SeqCst) == 0 {
            return false;
        }
        let now = self.clock.monotonic();
        let mut strikes = self.strikes();
        strikes.rotate(now);
        self.store_count(&strikes);
        strikes.block(key, now)
    }

    /// Counts a guess and lets it be checked, in one step. `None`: it is refused.
    pub fn admit(self: &Arc<Self>, key: LimiterKey) -> Option<Admitted> {
        let now = self.clock.monotonic();
        let mut strikes = self.strikes();
        strikes.rotate(now);
        if strikes.block(key, now) || strikes.recent.len() >= LOGIN_STRIKES_MAX {
            return None;
        }
        strikes.recent.insert(key, now);
        strikes.pending.insert(key);
        self.store_count(&strikes);
        Some(Admitted { limiter: self.clone(), key, outcome: Outcome::Unknown })
    }

    /// Counts a wrong guess that was checked by other means: for a second, further ones are refused.
    pub fn strike(&self, key: LimiterKey) {
        let mut strikes = self.strikes();
        strikes.rotate(self.clock.monotonic());
        self.strike_in(&mut strikes, key);
    }

    /// Does not check the limit on strikes: only guesses that are being checked get here, and those are bounded.
    fn strike_in(&self, strikes: &mut Strikes, key: LimiterKey) {
        strikes.recent.insert(key, self.clock.monotonic());
        self.store_count(strikes);
    }

    fn strikes(&self) -> MutexGuard<'_, Strikes> {
        self.strikes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn store_count(&self, strikes: &Strikes) {
        let count = strikes.recent.len() + strikes.older.len() + strikes.pending.len();
        self.count.store(count, Ordering::SeqCst);
    }
}

impl Strikes {
    fn block(&self, key: LimiterKey, now: Duration) -> bool {
        let struck = self.recent.get(&key).or_else(|| self.older.get(&key));
        self.pending.contains(&key) || struck.is_some_and(|at| now.saturating_sub(*at) < PENALTY)
    }

    /// Forgets strikes whose second is over, one generation at a time.
    fn rotate(&mut self, now: Duration) {
        let age = now.saturating_sub(self.began);
        if age < PENALTY {
            return;
        }
        self.older = std::mem::take(&mut self.recent);
        if age >= 2 * PENALTY {
            self.older.clear();
        }
        self.began = now;
    }
}

/// A guess that is being checked. If it is dropped without a result, its strike stays.
pub struct Admitted {
    limiter: Arc<Limiter>,
    key: LimiterKey,
    outcome: Outcome,
}

enum Outcome {
    Unknown,
    Right,
    Wrong,
}

impl Admitted {
    /// The guess was right: its strike is removed. No other strike is lost by this, because no other guess at the same secret
    /// was admitted while this one was checked.
    pub fn right(mut self) {
        self.outcome = Outcome::Right;
    }

    /// The guess was wrong: its second starts now.
    pub fn wrong(mut self) {
        self.outcome = Outcome::Wrong;
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        let mut strikes = self.limiter.strikes();
        strikes.rotate(self.limiter.clock.monotonic());
        strikes.pending.remove(&self.key);
        match self.outcome {
            Outcome::Unknown => {}
            Outcome::Right => {
                strikes.recent.remove(&self.key);
                strikes.older.remove(&self.key);
            }
            Outcome::Wrong => self.limiter.strike_in(&mut strikes, self.key),
        }
        self.limiter.store_count(&strikes);
    }
}

const PENALTY: Duration = Duration::from_millis(LOGIN_PENALTY_MS);

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;
    use crate::sim::SimClock;

    struct Rig {
        clock: Arc<SimClock>,
        limiter: Arc<Limiter>,
    }

    impl Rig {
        fn new() -> Self {
            let clock = Arc::new(SimClock::new());
            Self { limiter: Limiter::new(clock.clone()), clock }
        }

        fn key(&self, address: &str, name: &str) -> LimiterKey {
            self.limiter.key(Guess::Login(address.parse::<IpAddr>().unwrap().into(), name))
        }

        fn advance_ms(&self, ms: u64) {
            self.clock.advance(Duration::from_millis(ms));
        }
    }

    #[test]
    fn a_failure_blocks_the_same_name_from_the_same_address_for_a_second() {
        let rig = Rig::new();
        let key = rig.key("10.0.0.1", "a");
        rig.limiter.admit(key).unwrap().wrong();
        rig.advance_ms(999);
        assert!(rig.limiter.blocks(key) && rig.limiter.admit(key).is_none());
        for other in [rig.key("10.0.0.1", "b"), rig.key("10.0.0.2", "a")] {
            assert!(!rig.limiter.blocks(other));
        }
        rig.advance_ms(1);
        assert!(!rig.limiter.blocks(key) && rig.limiter.admit(key).is_some());
    }

    #[test]
    fn a_guess_counts_before_it_is_checked_and_again_when_it_is_wrong() {
        let rig = Rig::new();
        let key = rig.key("10.0.0.1", "a");
        let guess = rig.limiter.admit(key).unwrap();
        assert!(rig.limiter.admit(key).is_none());
        rig.advance_ms(5_000);
        assert!(rig.limiter.blocks(key), "it is still being checked");
        guess.wrong();
        rig.advance_ms(999);
        assert!(rig.limiter.blocks(key));
        rig.advance_ms(1);
        assert!(!rig.limiter.blocks(key));
    }

    #[test]
    fn only_a_right_guess_gets_its_strike_back() {
        let rig = Rig::new();
        let key = rig.key("10.0.0.1", "a");
        rig.limiter.admit(key).unwrap().right();
        assert!(!rig.limiter.blocks(key));
        drop(rig.limiter.admit(key).unwrap());
        assert!(rig.limiter.blocks(key), "it was not checked, and it counts");
        assert!(rig.limiter.admit(key).is_none());
    }

    #[test]
    fn a_network_of_ipv6_is_one_address_and_an_ipv4_client_is_the_same_through_ipv6() {
        let rig = Rig::new();
        rig.limiter.admit(rig.key("2001:db8::1", "a")).unwrap().wrong();
        assert!(rig.limiter.blocks(rig.key("2001:db8::2:3:4:5", "a")));
        assert!(!rig.limiter.blocks(rig.key("2001:db8:0:1::1", "a")));
        rig.limiter.admit(rig.key("::ffff:10.0.0.1", "a")).unwrap().wrong();
        assert!(rig.limiter.blocks(rig.key("10.0.0.1", "a")));
    }

    #[test]
    fn guesses_at_different_secrets_do_not_block_each_other() {
        let rig = Rig::new();
        let here = Neighbourhood::V4(1);
        let id = UserId::parse("admin").unwrap();
        let guesses = [
            Guess::Login(here, "admin"),
            Guess::Unlock(here),
            Guess::Join(here),
            Guess::CurrentUnlock(&id),
            Guess::CurrentBackup(&id),
        ];
        for guess in guesses {
            rig.limiter.admit(rig.limiter.key(guess)).unwrap().wrong();
        }
    }

    #[test]
    fn a_flood_makes_no_strike_forgotten_and_is_over_after_two_seconds() {
        let rig = Rig::new();
        let first = rig.key("10.0.0.1", "first");
        rig.limiter.admit(first).unwrap().wrong();
        rig.advance_ms(900);
        for n in 0..LOGIN_STRIKES_MAX {
            drop(rig.limiter.admit(LimiterKey(n as u64, 0)));
        }
        let late = rig.key("10.0.0.1", "late");
        assert!(rig.limiter.blocks(first));
        assert!(rig.limiter.admit(late).is_none(), "refused rather than admitted and forgotten");
        rig.advance_ms(99);
        assert!(rig.limiter.blocks(first));
        rig.advance_ms(1);
        assert!(!rig.limiter.blocks(first));
        assert!(rig.limiter.blocks(LimiterKey(1, 0)), "the generation is over, its strikes are not");
        rig.limiter.admit(late).unwrap().right();
        rig.advance_ms(2_000);
        assert!(!rig.limiter.blocks(late));
        assert_eq!(rig.limiter.count.load(Ordering::SeqCst), 0, "and no lock is taken again");
    }
}
