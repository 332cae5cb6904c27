//! The metrics in Prometheus' text format, version 0.0.4.
//!
//! Written here because the libraries available own their counters, and write OpenMetrics, which names counters
//! differently.

use std::fmt::{Display, Write as _};
use std::fs;
use std::time::Duration;

use casemate_api::State;
use casemate_core::Hsm;

use super::metrics::{BOUNDS_NS, Count, Durations, Metrics, StoreName};

/// The media type of [`text`].
pub const MEDIA: &str = "text/plain; version=0.0.4; charset=utf-8";

/// All metrics, and figures of the process, at the monotonic time `now`.
pub fn text(metrics: &Metrics, hsm: &Hsm, now: Duration) -> String {
    let mut out = Text::default();
    process(&mut out, metrics, hsm, now);
    http(&mut out, metrics);
    keys(&mut out, metrics);
    caches(&mut out, hsm);
    stores(&mut out, metrics);
    logs(&mut out, metrics);
    out.0
}

fn process(out: &mut Text, metrics: &Metrics, hsm: &Hsm, now: Duration) {
    out.family("casemate_build_info", Kind::Gauge, "Always 1; the version is in its label.");
    out.sample("casemate_build_info", &[("version", &env!("CARGO_PKG_VERSION"))], &1);
    out.family("casemate_state", Kind::Gauge, "1 for the state the HSM is in, 0 for the others.");
    let current = hsm.state();
    for state in State::ALL {
        out.sample("casemate_state", &[("state", &format_args!("{state:?}"))], &u8::from(state == current));
    }
    out.family(
        "casemate_stale_seconds",
        Kind::Gauge,
        "Age of what is served without a majority; 0 while there is one.",
    );
    out.sample("casemate_stale_seconds", &[], &hsm.stale().unwrap_or_default().as_secs_f64());
    out.family("casemate_uptime_seconds", Kind::Gauge, "Time since the process began to count.");
    out.sample("casemate_uptime_seconds", &[], &metrics.uptime(now).as_secs_f64());
    if let Some(bytes) = resident_bytes() {
        out.family("process_resident_memory_bytes", Kind::Gauge, "Resident memory size in bytes.");
        out.sample("process_resident_memory_bytes", &[], &bytes);
    }
    if let Some(files) = open_files() {
        out.family("process_open_fds", Kind::Gauge, "Number of open file descriptors.");
        out.sample("process_open_fds", &[], &files);
    }
}

fn http(out: &mut Text, metrics: &Metrics) {
    let answered = metrics.answered();
    out.family("casemate_http_requests_total", Kind::Counter, "Requests answered, by endpoint and status.");
    let names = |endpoint: Option<super::metrics::EndpointName>| {
        endpoint.map_or(("other", "other"), |endpoint| (endpoint.method, endpoint.path))
    };
    for one in &answered {
        let (method, path) = names(one.endpoint);
        for (code, count) in &one.codes {
            let code = code.map_or_else(|| "other".to_owned(), |code| code.to_string());
            out.sample("casemate_http_requests_total", &[("method", &method), ("path", &path), ("code", &code)], count);
        }
    }
    let name = "casemate_http_request_duration_seconds";
    out.family(name, Kind::Histogram, "Time from a request's head to its answer, by endpoint.");
    for one in &answered {
        let (method, path) = names(one.endpoint);
        out.histogram(name, &[("method", &method), ("path", &path)], &one.took);
    }
}

fn keys(out: &mut Text, metrics: &Metrics) {
    let name = "casemate_key_operations_total";
    out.family(name, Kind::Counter, "Signatures, decryptions and encryptions made, by mechanism.");
    for (mechanism, count) in metrics.operations() {
        out.sample(name, &[("mechanism", &format_args!("{mechanism:?}"))], &count);
    }
    out.family("casemate_keys_generated_total", Kind::Counter, "Keys generated.");
    out.sample("casemate_keys_generated_total", &[], &metrics.counted(Count::Generate));
    let name = "casemate_logins_refused_total";
    out.family(name, Kind::Counter, "Logins refused: for their credentials, right after another, or for lack of time.");
    for (reason, count) in [
        ("credentials", Count::RefusedCredentials),
        ("rate_limit", Count::RefusedTooMany),
        ("busy", Count::RefusedBusy),
    ] {
        out.sample(name, &[("reason", &reason)], &metrics.counted(count));
    }
}

/// Only while Operational: the caches end with the phase, and their counts start from zero in the next.
fn caches(out: &mut Text, hsm: &Hsm) {
    let Some(figures) = hsm.operational().map(|op| op.cache_figures()) else { return };
    let mut family =
        |name: &str, kind: Kind, help: &str, value: fn(&casemate_core::rows::table::CacheFigures) -> u64| {
            out.family(name, kind, help);
            for one in &figures {
                out.sample(name, &[("table", &one.table)], &value(one));
            }
        };
    family("casemate_cache_entries", Kind::Gauge, "Rows in the cache of opened rows.", |one| one.entries);
    family("casemate_cache_bytes", Kind::Gauge, "Memory they take, roughly.", |one| one.bytes);
    family("casemate_cache_hits_total", Kind::Counter, "Rows found there since the last unlock.", |one| one.hits);
    family("casemate_cache_misses_total", Kind::Counter, "Rows asked from the store since then.", |one| one.misses);
}

fn stores(out: &mut Text, metrics: &Metrics) {
    let label = |store: StoreName| match store {
        StoreName::Shared => "shared",
        StoreName::Local => "local",
    };
    out.family("casemate_store_transactions_total", Kind::Counter, "Transactions committed, both stores together.");
    out.sample("casemate_store_transactions_total", &[], &metrics.counted(Count::KvWrite));
    let name = "casemate_store_commit_duration_seconds";
    out.family(name, Kind::Histogram, "Time until a group of transactions was durable.");
    for store in StoreName::ALL {
        out.histogram(name, &[("store", &label(store))], &metrics.commits(store));
    }
    let size = |store| fs::metadata(metrics.store_file(store)?).ok().map(|about| (label(store), about.len()));
    let sizes: Vec<_> = StoreName::ALL.into_iter().filter_map(size).collect();
    if !sizes.is_empty() {
        out.family("casemate_store_size_bytes", Kind::Gauge, "Size of the store's file.");
        for (store, bytes) in sizes {
            out.sample("casemate_store_size_bytes", &[("store", &store)], &bytes);
        }
    }
}

fn logs(out: &mut Text, metrics: &Metrics) {
    out.family("casemate_log_lines_total", Kind::Counter, "Warnings and errors logged.");
    for (level, count) in [("warning", Count::LogWarning), ("error", Count::LogError)] {
        out.sample("casemate_log_lines_total", &[("level", &level)], &metrics.counted(count));
    }
    out.family("casemate_syslog_dropped_total", Kind::Counter, "Log lines that did not reach a syslog server.");
    out.sample("casemate_syslog_dropped_total", &[], &metrics.counted(Count::SyslogDropped));
}

/// From `/proc/self/status`, because that counts in kilobytes rather than in pages.
fn resident_bytes() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// The length of this folder is the number of its entries since Linux 6.2; before that it is 0, and counting thousands
/// of connections one by one is not worth it.
fn open_files() -> Option<u64> {
    fs::metadata("/proc/self/fd").ok().map(|about| about.len()).filter(|files| *files > 0)
}

#[derive(Clone, Copy)]
enum Kind {
    Counter,
    Gauge,
    Histogram,
}

/// The output so far.
#[derive(Default)]
struct Text(String);

/// A label's name and value. The value needs no escaping: it is one of our own words or a path of the API.
type Label<'a> = (&'a str, &'a dyn Display);

impl Text {
    /// Writes the header of a metric.
    fn family(&mut self, name: &str, kind: Kind, help: &str) {
        let kind = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        // Writing to a string cannot fail.
        let _ = write!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
    }

    fn sample(&mut self, name: &str, labels: &[Label<'_>], value: &dyn Display) {
        self.0.push_str(name);
        for (at, (label, text)) in labels.iter().enumerate() {
            let open = if at == 0 { '{' } else { ',' };
            let _ = write!(self.0, "{open}{label}=\"{text}\"");
        }
        let _ = writeln!(self.0, "{} {value}", if labels.is_empty() { "" } else { "}" });
    }

    fn histogram(&mut self, name: &str, labels: &[Label<'_>], durations: &Durations) {
        let bucket = format!("{name}_bucket");
        for (bound_ns, count) in BOUNDS_NS.iter().zip(durations.at_most) {
            let bound = Duration::from_nanos(*bound_ns).as_secs_f64();
            self.sample(&bucket, &[labels, &[("le", &bound)]].concat(), &count);
        }
        self.sample(&bucket, &[labels, &[("le", &"+Inf")]].concat(), &durations.count);
        self.sample(&format!("{name}_sum"), labels, &durations.sum_s);
        self.sample(&format!("{name}_count"), labels, &durations.count);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_spelled_as_the_format_has_it() {
        let mut text = Text::default();
        text.family("a_total", Kind::Counter, "All of a.");
        text.sample("a_total", &[], &3);
        text.sample("a_total", &[("x", &"1"), ("y", &"/b/{c}")], &1.5);
        let expected =
            "# HELP a_total All of a.\n# TYPE a_total counter\na_total 3\na_total{x=\"1\",y=\"/b/{c}\"} 1.5\n";
        assert_eq!(text.0, expected);
    }

    #[test]
    fn buckets_hold_what_is_below_them() {
        let metrics = Metrics::new(Duration::ZERO);
        metrics.commit(StoreName::Local, Duration::from_millis(1));
        metrics.commit(StoreName::Local, Duration::from_secs(60));
        let mut text = Text::default();
        text.histogram("t_seconds", &[("s", &"l")], &metrics.commits(StoreName::Local));
        let lines: Vec<&str> = text.0.lines().collect();
        assert_eq!(lines.len(), BOUNDS_NS.len() + 3);
        assert_eq!(
            lines[..2],
            ["t_seconds_bucket{s=\"l\",le=\"0.00025\"} 0", "t_seconds_bucket{s=\"l\",le=\"0.001\"} 1"]
        );
        let end =
            ["t_seconds_bucket{s=\"l\",le=\"+Inf\"} 2", "t_seconds_sum{s=\"l\"} 60.001", "t_seconds_count{s=\"l\"} 2"];
        assert_eq!(lines[9..], end);
    }

    #[test]
    fn the_process_knows_its_memory() {
        assert!(resident_bytes().unwrap() > 1 << 20);
    }
}
