//! Counters of the server's activity, and their JSON form for `/metrics`.
//!
//! Every thread counts in its own cache lines ([`Sharded`]) with relaxed additions, so that counting costs a request
//! nanoseconds and never makes two workers wait for each other. Reading sums over the threads.

use std::array;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use casemate_api::Mechanism;
use casemate_api::limits::REFUSALS_LOGGED_PER_S;
use casemate_core::identity::caller::Denied;
use casemate_core::runtime::tally::Sharded;

/// What is counted, besides replies, key operations and commits.
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
    /// A login was refused for wrong credentials.
    RefusedCredentials,
    /// A login was refused by the rate limit, after a wrong guess.
    RefusedTooMany,
    /// A login was refused because too many passphrases were being checked.
    RefusedBusy,
    /// A log line was not sent to a syslog server.
    SyslogDropped,
}

impl From<Denied> for Count {
    fn from(denied: Denied) -> Self {
        match denied {
            Denied::Unauthenticated => Count::RefusedCredentials,
            Denied::TooMany => Count::RefusedTooMany,
            Denied::Busy => Count::RefusedBusy,
        }
    }
}

/// The store of a commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreName {
    /// Users, namespaces, keys.
    Shared,
    /// Data of this device.
    Local,
}

impl StoreName {
    /// Both stores.
    pub const ALL: [StoreName; 2] = [StoreName::Shared, StoreName::Local];
}

/// An endpoint, as named in metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EndpointName {
    /// The method.
    pub method: &'static str,
    /// The path, with ids in braces.
    pub path: &'static str,
}

/// All counters. Times are those of [`casemate_core::runtime::Clock::monotonic`].
pub struct Metrics {
    since: Duration,
    refusal_second: AtomicU64,
    refusals: AtomicU64,
    endpoints: OnceLock<Vec<EndpointName>>,
    stores: OnceLock<[PathBuf; 2]>,
    shards: Sharded<Shard>,
}

/// The counters of some threads.
struct Shard {
    counts: [AtomicU64; COUNTS.len()],
    replies: [AtomicU64; STATUSES],
    operations: [AtomicU64; Mechanism::ALL.len()],
    commits: [Histogram; StoreName::ALL.len()],
    /// One per endpoint; the last one is for requests that match no endpoint.
    endpoints: OnceLock<Box<[Answers]>>,
    /// Bits of the smoothed reply time in seconds; 0 before the first reply.
    reply_seconds: AtomicU64,
}

/// The replies of one endpoint; on separate cache lines, as other shards' counters may be adjacent.
#[derive(Default)]
#[repr(align(128))]
struct Answers {
    codes: [AtomicU64; CODES.len() + 1],
    took: Histogram,
}

/// Durations in a few buckets.
#[derive(Default)]
struct Histogram {
    buckets: [AtomicU64; BOUNDS_NS.len() + 1],
    sum_ns: AtomicU64,
}

impl Histogram {
    fn add(&self, took: Duration) {
        let ns = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        let at = BOUNDS_NS.iter().take_while(|bound| ns > **bound).count();
        if let Some(bucket) = self.buckets.get(at) {
            bucket.fetch_add(1, Ordering::Relaxed);
            self.sum_ns.fetch_add(ns, Ordering::Relaxed);
        }
    }
}

/// A histogram as read: how many durations were at most each of [`BOUNDS_NS`], and how many there were in total.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Durations {
    /// Count for each bound.
    pub at_most: [u64; BOUNDS_NS.len()],
    /// Total count.
    pub count: u64,
    /// Sum of all durations, in seconds.
    pub sum_s: f64,
}

/// Bounds of the buckets, in nanoseconds: from a signature to a hashed passphrase to the generation of an RSA key.
pub const BOUNDS_NS: [u64; 9] =
    [250_000, 1_000_000, 4_000_000, 16_000_000, 64_000_000, 250_000_000, 1_000_000_000, 4_000_000_000, 16_000_000_000];

/// The replies of an endpoint, over all threads.
#[derive(Debug, PartialEq)]
pub struct Answered {
    /// The endpoint; `None` for requests that match no endpoint.
    pub endpoint: Option<EndpointName>,
    /// Replies by status, only those that occurred; `None` is any other status.
    pub codes: Vec<(Option<u16>, u64)>,
    /// Time until the reply.
    pub took: Durations,
}

impl Metrics {
    /// All counters at zero, at the monotonic time `now`.
    pub fn new(now: Duration) -> Self {
        let zero = || AtomicU64::new(0);
        let shard = || Shard {
            counts: array::from_fn(|_| zero()),
            replies: array::from_fn(|_| zero()),
            operations: array::from_fn(|_| zero()),
            commits: Default::default(),
            endpoints: OnceLock::new(),
            reply_seconds: zero(),
        };
        Self {
            since: now,
            refusal_second: zero(),
            refusals: zero(),
            endpoints: OnceLock::new(),
            stores: OnceLock::new(),
            shards: Sharded::new(shard),
        }
    }

    /// Sets the endpoints; [`Metrics::reply`] refers to them by their index in `table`. Only the first call has an
    /// effect: the table is the same at every boot.
    pub fn set_endpoints(&self, table: Vec<EndpointName>) {
        let number = self.endpoints.get_or_init(|| table).len();
        for shard in self.shards.iter() {
            shard.endpoints.get_or_init(|| (0..=number).map(|_| Answers::default()).collect());
        }
    }

    /// Sets the paths of the store files, in the order of [`StoreName::ALL`], whose sizes are reported.
    pub fn set_store_files(&self, files: [PathBuf; 2]) {
        let _ = self.stores.set(files);
    }

    /// Counts one event.
    pub fn count(&self, what: Count) {
        if let Some(counter) = self.shards.mine().and_then(|shard| shard.counts.get(what as usize)) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Counts a successful key operation: `what` is one of `Sign`, `Decrypt` and `Encrypt`.
    pub fn operation(&self, what: Count, mechanism: Mechanism) {
        self.count(what);
        if let Some(counter) = self.shards.mine().and_then(|shard| shard.operations.get(mechanism as usize)) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Counts a group of transactions, and the time its commit took.
    pub fn commit(&self, store: StoreName, took: Duration) {
        if let Some(histogram) = self.shards.mine().and_then(|shard| shard.commits.get(store as usize)) {
            histogram.add(took);
        }
    }

    /// Whether a refused login at the monotonic time `now` gets a log line of its own: only the first few of each
    /// second do.
    pub fn may_log_refusal(&self, now: Duration) -> bool {
        let second = now.as_secs() + 1;
        if self.refusal_second.swap(second, Ordering::Relaxed) != second {
            self.refusals.store(0, Ordering::Relaxed);
        }
        self.refusals.fetch_add(1, Ordering::Relaxed) < REFUSALS_LOGGED_PER_S
    }

    /// Counts a reply with this HTTP status and duration, by the endpoint's index; `None`: no endpoint.
    pub fn reply(&self, endpoint: Option<usize>, status: u16, took: Duration) {
        let Some(shard) = self.shards.mine() else { return };
        if let Some(counter) = usize::from(status).checked_sub(STATUS_MIN).and_then(|at| shard.replies.get(at)) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
        // Two threads of one shard may overwrite each other's sample; that does not matter for a mean.
        let old = f64::from_bits(shard.reply_seconds.load(Ordering::Relaxed));
        let new = if old > 0.0 { 0.7 * old + 0.3 * took.as_secs_f64() } else { took.as_secs_f64() };
        shard.reply_seconds.store(new.to_bits(), Ordering::Relaxed);

        let Some(endpoints) = shard.endpoints.get() else { return };
        let none = endpoints.len().saturating_sub(1);
        let Some(answers) = endpoints.get(endpoint.unwrap_or(none)) else { return };
        let code = CODES.iter().position(|code| *code == status).unwrap_or(CODES.len());
        if let Some(counter) = answers.codes.get(code) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
        answers.took.add(took);
    }

    /// The body of `/metrics` at the monotonic time `now`: a flat object of strings, with only what was counted, except
    /// uptime and log lines, which clients expect from the start.
    pub fn json(&self, now: Duration) -> String {
        let mut json = format!("{{\"uptime\":\"{}\"", self.uptime(now).as_secs());
        let mut member = |name: &str, value: &dyn std::fmt::Display| {
            // Writing to a string cannot fail.
            let _ = write!(json, ",\"{name}\":\"{value}\"");
        };
        for (what, name) in COUNTS {
            let Some(name) = name else { continue };
            let sum = self.counted(what);
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

    /// Time since the counters began, at the monotonic time `now`.
    pub fn uptime(&self, now: Duration) -> Duration {
        now.saturating_sub(self.since)
    }

    /// The value of a counter.
    pub fn counted(&self, what: Count) -> u64 {
        self.sum(|shard| shard.counts.get(what as usize))
    }

    /// Key operations of each mechanism.
    pub fn operations(&self) -> impl Iterator<Item = (Mechanism, u64)> {
        let count = |mechanism| self.sum(|shard| shard.operations.get(mechanism as usize));
        Mechanism::ALL.into_iter().map(move |mechanism| (mechanism, count(mechanism)))
    }

    /// The durations of commits to a store.
    pub fn commits(&self, store: StoreName) -> Durations {
        self.durations(|shard| shard.commits.get(store as usize))
    }

    /// The path of a store file, if it was set.
    pub fn store_file(&self, store: StoreName) -> Option<&PathBuf> {
        self.stores.get()?.get(store as usize)
    }

    /// The replies of each endpoint; those without replies are left out.
    pub fn answered(&self) -> Vec<Answered> {
        let table = self.endpoints.get().map(Vec::as_slice).unwrap_or_default();
        let endpoints = table.iter().copied().map(Some).chain([None]).enumerate();
        let answered =
            endpoints.map(|(at, endpoint)| {
                let codes =
                    CODES.iter().copied().map(Some).chain([None]).enumerate().map(|(code, status)| {
                        (status, self.sum(|shard| shard.endpoints.get()?.get(at)?.codes.get(code)))
                    });
                Answered {
                    endpoint,
                    codes: codes.filter(|(_, count)| *count > 0).collect(),
                    took: self.durations(|shard| Some(&shard.endpoints.get()?.get(at)?.took)),
                }
            });
        answered.filter(|answered| !answered.codes.is_empty()).collect()
    }

    fn durations<'a>(&'a self, histogram: impl Fn(&'a Shard) -> Option<&'a Histogram>) -> Durations {
        let mut durations = Durations::default();
        for (bound, at_most) in durations.at_most.iter_mut().enumerate() {
            durations.count += self.sum(|shard| histogram(shard)?.buckets.get(bound));
            *at_most = durations.count;
        }
        durations.count += self.sum(|shard| histogram(shard)?.buckets.last());
        durations.sum_s = Duration::from_nanos(self.sum(|shard| Some(&histogram(shard)?.sum_ns))).as_secs_f64();
        durations
    }

    fn sum<'a>(&'a self, counter: impl Fn(&'a Shard) -> Option<&'a AtomicU64>) -> u64 {
        self.shards.iter().filter_map(counter).map(|counter| counter.load(Ordering::Relaxed)).sum()
    }

    /// Mean over the threads that sent replies.
    fn reply_seconds(&self) -> f64 {
        let seconds = |shard: &Shard| f64::from_bits(shard.reply_seconds.load(Ordering::Relaxed));
        let used = || self.shards.iter().map(seconds).filter(|seconds| *seconds > 0.0);
        used().sum::<f64>() / used().count().max(1) as f64
    }
}

const STATUS_MIN: usize = 100;
const STATUSES: usize = 500;

/// Statuses counted separately for each endpoint, frequent ones first; an API test compares them with the documented
/// ones.
pub const CODES: [u16; 22] =
    [200, 204, 201, 401, 403, 404, 400, 412, 304, 429, 503, 405, 406, 408, 409, 413, 414, 415, 500, 501, 202, 507];

/// The names of NetHSM's metrics, in the order of [`Count`]; `None` for what NetHSM does not count.
const COUNTS: [(Count, Option<&str>); 11] = [
    (Count::Generate, Some("generate")),
    (Count::Sign, Some("sign")),
    (Count::Decrypt, Some("decrypt")),
    (Count::Encrypt, Some("encrypt")),
    (Count::KvWrite, Some("kv write")),
    (Count::LogWarning, Some("log warnings")),
    (Count::LogError, Some("log errors")),
    (Count::RefusedCredentials, None),
    (Count::RefusedTooMany, None),
    (Count::RefusedBusy, None),
    (Count::SyslogDropped, None),
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
        metrics.operation(Count::Sign, Mechanism::ECDSA_Signature);
        metrics.count(Count::Sign);
        metrics.count(Count::LogError);
        metrics.count(Count::SyslogDropped);
        metrics.reply(None, 200, Duration::from_secs(1));
        metrics.reply(None, 404, Duration::from_secs(2));
        metrics.reply(Some(7), 200, Duration::from_secs(2));
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
    fn endpoints_are_told_apart_by_status_and_duration() {
        let metrics = Metrics::new(Duration::ZERO);
        let (a, b) = (EndpointName { method: "GET", path: "/a" }, EndpointName { method: "PUT", path: "/b" });
        metrics.set_endpoints(vec![a, b]);
        metrics.reply(Some(1), 200, Duration::from_micros(250));
        metrics.reply(Some(1), 200, Duration::from_micros(251));
        metrics.reply(Some(1), 418, Duration::from_secs(100));
        metrics.reply(None, 404, Duration::ZERO);
        let answered = metrics.answered();
        let of = |endpoint| answered.iter().find(|answered| answered.endpoint == endpoint);
        assert!(of(Some(a)).is_none() && answered.len() == 2);
        let put = of(Some(b)).unwrap();
        assert_eq!(put.codes, [(Some(200), 2), (None, 1)]);
        assert_eq!((put.took.at_most, put.took.count), ([1, 2, 2, 2, 2, 2, 2, 2, 2], 3));
        assert!((put.took.sum_s - 100.000_501).abs() < 1e-9);
        assert_eq!(of(None).unwrap().codes, [(Some(404), 1)]);
    }

    #[test]
    fn names_stand_in_the_order_of_their_counters() {
        for (at, (what, _)) in COUNTS.iter().enumerate() {
            assert_eq!(*what as usize, at);
        }
        for (at, mechanism) in Mechanism::ALL.iter().enumerate() {
            assert_eq!(*mechanism as usize, at);
        }
        for (at, store) in StoreName::ALL.iter().enumerate() {
            assert_eq!(*store as usize, at);
        }
    }
}
