//! Counters of what the HSM did, and their JSON view for `/metrics`.
//!
//! Every thread counts in cache lines of its own, with plain relaxed additions, so that counting costs a request
//! nanoseconds and never makes two workers wait for each other. Reading adds the threads up.

use std::array;
use std::cell::Cell;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use casemate_api::limits::REFUSALS_LOGGED_PER_S;

/// What is counted beside replies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Count {
    /// A key was generated.
    Generate,
    /// A signature was made.
    Sign,
    /// A message was decrypted.
    Decrypt,
    /// A message was encrypted.
    Encrypt,
    /// A transaction was committed to a store.
    KvWrite,
    /// A warning was logged.
    LogWarning,
    /// An error was logged.
    LogError,
}

/// All counters, since some moment of [`casemate_core::platform::Clock::monotonic`].
pub struct Metrics {
    since: Duration,
    refusal_second: AtomicU64,
    refusals: AtomicU64,
    shards: [Shard; SHARDS],
}

/// The counters of a few threads; alone in its cache lines, of which processors fetch two at once.
#[repr(align(128))]
struct Shard {
    counts: [AtomicU64; COUNTS.len()],
    replies: [AtomicU64; STATUSES],
    /// Bits of the smoothed seconds a reply took; 0 before the first.
    reply_seconds: AtomicU64,
}

impl Metrics {
    /// Nothing counted yet, at the monotonic time `now`.
    pub fn new(now: Duration) -> Self {
        let zero = || AtomicU64::new(0);
        let shard =
            || Shard { counts: array::from_fn(|_| zero()), replies: array::from_fn(|_| zero()), reply_seconds: zero() };
        Self { since: now, refusal_second: zero(), refusals: zero(), shards: array::from_fn(|_| shard()) }
    }

    /// Counts one event.
    pub fn count(&self, what: Count) {
        if let Some(counter) = self.shard().and_then(|shard| shard.counts.get(what as usize)) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Whether a refused login at the monotonic time `now` is to be logged: the first few of each second are.
    pub fn itemise(&self, now: Duration) -> bool {
        let second = now.as_secs() + 1;
        if self.refusal_second.swap(second, Ordering::Relaxed) != second {
            self.refusals.store(0, Ordering::Relaxed);
        }
        self.refusals.fetch_add(1, Ordering::Relaxed) < REFUSALS_LOGGED_PER_S
    }

    /// Counts a reply of this HTTP status that took this long.
    pub fn reply(&self, status: u16, took: Duration) {
        let Some(shard) = self.shard() else { return };
        if let Some(counter) = usize::from(status).checked_sub(STATUS_MIN).and_then(|at| shard.replies.get(at)) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
        // Two threads of one shard may lose each other's sample; the mean does not mind.
        let old = f64::from_bits(shard.reply_seconds.load(Ordering::Relaxed));
        let new = if old > 0.0 { 0.7 * old + 0.3 * took.as_secs_f64() } else { took.as_secs_f64() };
        shard.reply_seconds.store(new.to_bits(), Ordering::Relaxed);
    }

    /// The body of `/metrics` at the monotonic time `now`: a flat object of strings, with only what was counted, except
    /// uptime and log lines, which clients look for from the start.
    pub fn json(&self, now: Duration) -> String {
        let mut json = format!("{{\"uptime\":\"{}\"", now.saturating_sub(self.since).as_secs());
        let mut member = |name: &str, value: &dyn std::fmt::Display| {
            // Writing to a string cannot fail.
            let _ = write!(json, ",\"{name}\":\"{value}\"");
        };
        for (what, name) in COUNTS {
            let sum = self.sum(|shard| shard.counts.get(what as usize));
            if sum > 0 || matches!(what, Count::LogWarning | Count::LogError) {
                member(name, &sum);
            }
        }
        let mut total = 0;
        for at in 0..STATUSES {
            let sum = self.sum(|shard| shard.replies.get(at));
            if sum > 0 {
                member(&format!("http response {}", STATUS_MIN + at), &sum);
            }
            total += sum;
        }
        if total > 0 {
            member("http response total", &total);
            member("http response time", &format_args!("{:.6}", self.reply_seconds()));
        }
        json + "}"
    }

    fn sum<'a>(&'a self, counter: impl Fn(&'a Shard) -> Option<&'a AtomicU64>) -> u64 {
        self.shards.iter().filter_map(counter).map(|counter| counter.load(Ordering::Relaxed)).sum()
    }

    /// Mean over the threads that answered.
    fn reply_seconds(&self) -> f64 {
        let seconds = |shard: &Shard| f64::from_bits(shard.reply_seconds.load(Ordering::Relaxed));
        let used = || self.shards.iter().map(seconds).filter(|seconds| *seconds > 0.0);
        used().sum::<f64>() / used().count().max(1) as f64
    }

    fn shard(&self) -> Option<&Shard> {
        thread_local! {
            static THREAD: Cell<usize> = Cell::new(NEXT_THREAD.fetch_add(1, Ordering::Relaxed));
        }
        // Not at hand while a thread ends: what it counts then is lost.
        let thread = THREAD.try_with(Cell::get).ok()?;
        self.shards.get(thread % SHARDS)
    }
}

static NEXT_THREAD: AtomicUsize = AtomicUsize::new(0);

const SHARDS: usize = 16;
const STATUS_MIN: usize = 100;
const STATUSES: usize = 500;

/// The names of upstream's metrics, in the order of [`Count`].
const COUNTS: [(Count, &str); 7] = [
    (Count::Generate, "generate"),
    (Count::Sign, "sign"),
    (Count::Decrypt, "decrypt"),
    (Count::Encrypt, "encrypt"),
    (Count::KvWrite, "kv write"),
    (Count::LogWarning, "log warnings"),
    (Count::LogError, "log errors"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fresh_process_tells_its_uptime_and_log_lines() {
        let metrics = Metrics::new(Duration::from_secs(5));
        let expected = r#"{"uptime":"60","log warnings":"0","log errors":"0"}"#;
        assert_eq!(metrics.json(Duration::from_millis(65_900)), expected);
    }

    #[test]
    fn what_was_counted_appears_as_strings() {
        let metrics = Metrics::new(Duration::ZERO);
        metrics.count(Count::Sign);
        metrics.count(Count::Sign);
        metrics.count(Count::LogError);
        metrics.reply(200, Duration::from_secs(1));
        metrics.reply(404, Duration::from_secs(2));
        metrics.reply(200, Duration::from_secs(2));
        let expected = concat!(
            r#"{"uptime":"0","sign":"2","log warnings":"0","log errors":"1","http response 200":"2","#,
            r#""http response 404":"1","http response total":"3","http response time":"1.510000"}"#
        );
        assert_eq!(metrics.json(Duration::ZERO), expected);
        serde_json::from_str::<std::collections::HashMap<String, String>>(expected).unwrap();
    }

    #[test]
    fn threads_are_added_up() {
        let metrics = Metrics::new(Duration::ZERO);
        std::thread::scope(|scope| {
            for _ in 0..20 {
                scope.spawn(|| (0..1_000).for_each(|_| metrics.count(Count::KvWrite)));
            }
        });
        assert!(metrics.json(Duration::ZERO).contains(r#""kv write":"20000""#));
    }

    #[test]
    fn names_stand_in_the_order_of_their_counters() {
        for (at, (what, _)) in COUNTS.iter().enumerate() {
            assert_eq!(*what as usize, at);
        }
    }
}
