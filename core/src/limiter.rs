//! Slows down guessing: after a failed login the same name is refused from the same address for a second.
//!
//! Failures are as rare as runs of the password hash, so the bounded table holds all of the last second.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use casemate_api::limits::{LOGIN_FAILURES_MAX, LOGIN_PENALTY_MS};

/// Who tries: an address, and the user name exactly as it was sent.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Attempt {
    /// The client's address.
    pub address: IpAddr,
    /// The name it sent.
    pub name: Box<str>,
}

impl Attempt {
    /// An attempt to log in.
    pub fn new(address: IpAddr, name: &str) -> Self {
        Self { address: address.to_canonical(), name: name.into() }
    }

    /// An attempt to unlock, which has no user. `_unlock` is no valid user name.
    pub fn unlock(address: IpAddr) -> Self {
        Self::new(address, "_unlock")
    }
}

/// Remembers failed attempts for a second.
#[derive(Default)]
pub struct Limiter {
    failures: Mutex<HashMap<Attempt, Duration>>,
    /// Length of `failures`, readable without its lock: it is zero nearly always.
    count: AtomicUsize,
}

impl Limiter {
    /// Whether `attempt` failed less than a second before `now` (monotonic).
    pub fn blocks(&self, attempt: &Attempt, now: Duration) -> bool {
        if self.count.load(Ordering::Relaxed) == 0 {
            return false;
        }
        let failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        failures.get(attempt).is_some_and(|failed| now.saturating_sub(*failed) < PENALTY)
    }

    /// Remembers that `attempt` failed at `now` (monotonic).
    pub fn strike(&self, attempt: Attempt, now: Duration) {
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        if failures.len() >= LOGIN_FAILURES_MAX {
            failures.retain(|_, failed| now.saturating_sub(*failed) < PENALTY);
            // Still full: somebody commands thousands of addresses. Any one makes room.
            if let Some(any) = failures.keys().next().filter(|_| failures.len() >= LOGIN_FAILURES_MAX).cloned() {
                failures.remove(&any);
            }
        }
        failures.insert(attempt, now);
        self.count.store(failures.len(), Ordering::Relaxed);
    }
}

const PENALTY: Duration = Duration::from_millis(LOGIN_PENALTY_MS);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_blocks_the_same_name_from_the_same_address_for_a_second() {
        let limiter = Limiter::default();
        let (here, there) = ("10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap());
        let at = Duration::from_millis;
        limiter.strike(Attempt::new(here, "a"), at(5_000));
        assert!(limiter.blocks(&Attempt::new(here, "a"), at(5_999)));
        assert!(!limiter.blocks(&Attempt::new(here, "a"), at(6_000)));
        assert!(!limiter.blocks(&Attempt::new(here, "b"), at(5_500)));
        assert!(!limiter.blocks(&Attempt::new(there, "a"), at(5_500)));
    }

    #[test]
    fn the_table_forgets_what_no_longer_counts() {
        let limiter = Limiter::default();
        let address = "10.0.0.1".parse().unwrap();
        for i in 0..LOGIN_FAILURES_MAX {
            limiter.strike(Attempt::new(address, &i.to_string()), Duration::ZERO);
        }
        limiter.strike(Attempt::new(address, "late"), Duration::from_secs(2));
        assert_eq!(limiter.count.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn an_ipv4_client_is_the_same_through_an_ipv6_socket() {
        let limiter = Limiter::default();
        limiter.strike(Attempt::new("::ffff:10.0.0.1".parse().unwrap(), "a"), Duration::ZERO);
        assert!(limiter.blocks(&Attempt::new("10.0.0.1".parse().unwrap(), "a"), Duration::ZERO));
    }
}
