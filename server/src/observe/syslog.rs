//! Log lines to syslog servers: over UDP, as in NetHSM, to the address of `/config/logging`, and over TCP or TLS to the
//! servers in the settings.
//!
//! Emitting an event never waits for a network: lines go through bounded queues to separate threads. What does not fit
//! is dropped and counted, and a server that is reachable again is told how many lines it missed. Log events of these
//! threads are not sent to syslog, so that an unreachable server does not cause more lines for itself.

mod format;
mod send;
#[cfg(test)]
mod tests;

use std::cell::Cell;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use casemate_api::limits::{SYSLOG_FINISH_MS, SYSLOG_WAITING_MAX, SYSLOG_WAITING_MAX_BYTES};
use casemate_core::runtime::Clock;
use rustls::ClientConfig;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::layer::{Context, Layer};

use super::event::LogEntry;
use super::metrics::{Count, Metrics};
use crate::queue::Queue;
pub use send::{Timing, trust};

/// A syslog server reached over a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// Whether over TLS (RFC 5425) or bare TCP (RFC 6587).
    pub tls: bool,
    /// Name or address.
    pub host: String,
    /// Port.
    pub port: u16,
}

impl Server {
    /// Parses `tcp://host:port` or `tls://host:port`; an IPv6 address stands in brackets.
    pub fn parse(text: &str) -> Option<Self> {
        let (scheme, rest) = text.split_once("://")?;
        let tls = match scheme {
            "tcp" => false,
            "tls" => true,
            _ => return None,
        };
        let (host, port) = rest.rsplit_once(':')?;
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        if bare.is_none() && host.contains(':') {
            return None;
        }
        let host = bare.unwrap_or(host);
        let port = port.parse().ok().filter(|port| *port > 0)?;
        let plain = !host.is_empty() && !host.contains(|c: char| c == '/' || c == '@' || c.is_whitespace());
        plain.then(|| Self { tls, host: host.to_owned(), port })
    }
}

impl std::fmt::Display for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let scheme = if self.tls { "tls" } else { "tcp" };
        match self.host.contains(':') {
            true => write!(f, "{scheme}://[{}]:{}", self.host, self.port),
            false => write!(f, "{scheme}://{}:{}", self.host, self.port),
        }
    }
}

/// The syslog destinations of log lines.
#[derive(Clone)]
pub struct Remote(Arc<Inner>);

struct Inner {
    reporter: ArcSwapOption<Reporter>,
    datagrams: Arc<Outbox>,
    streams: Vec<Arc<Outbox>>,
    clock: Arc<dyn Clock>,
}

/// A UDP target and how many lines were sent to it.
struct Reporter {
    address: SocketAddr,
    sent: AtomicU32,
}

/// A log line in a queue.
struct Line {
    entry: LogEntry,
    text: String,
    /// Wall-clock time of the machine, without the offset of the HSM's own time.
    at: Duration,
    reporter: Option<Arc<Reporter>>,
}

impl Remote {
    /// Starts the sending threads: one for UDP, which has no target yet, and one for each of `servers`. `tls` verifies
    /// servers over TLS. Fails if a thread cannot be created.
    pub fn start(
        servers: &[Server],
        tls: Option<Arc<ClientConfig>>,
        timing: Timing,
        clock: Arc<dyn Clock>,
        metrics: &Arc<Metrics>,
    ) -> io::Result<Self> {
        let thread = |name: &str, work: Box<dyn FnOnce() + Send>| {
            let work = move || {
                QUIET.set(true);
                work();
            };
            std::thread::Builder::new().name(name.into()).spawn(work)
        };
        let datagrams = Arc::new(Outbox::new(metrics));
        let (outbox, now) = (datagrams.clone(), clock.clone());
        thread("syslog-udp", Box::new(move || send::datagrams(&outbox, &*now)))?;
        let mut streams = Vec::new();
        for server in servers {
            let outbox = Arc::new(Outbox::new(metrics));
            streams.push(outbox.clone());
            let mut to = send::Stream::new(server.clone(), tls.clone(), timing);
            let now = clock.clone();
            thread("syslog-tcp", Box::new(move || to.run(&outbox, &*now)))?;
        }
        Ok(Self(Arc::new(Inner { reporter: ArcSwapOption::empty(), datagrams, streams, clock })))
    }

    /// Sends lines over UDP to `target` from now on, or nowhere if `None` or the unspecified address. Lines to a new
    /// target are numbered from 1.
    pub fn send_to(&self, target: Option<SocketAddr>) {
        let target = target.filter(|address| !address.ip().is_unspecified());
        if self.0.reporter.load().as_ref().map(|reporter| reporter.address) != target {
            let reporter = |address| Arc::new(Reporter { address, sent: AtomicU32::new(0) });
            self.0.reporter.store(target.map(reporter));
        }
    }

    /// Waits, for a limited time, until everything was sent: for the end of the process.
    pub fn finish(&self) {
        let begun = self.0.clock.monotonic();
        let patience = Duration::from_millis(SYSLOG_FINISH_MS);
        let boxes = || self.0.streams.iter().chain([&self.0.datagrams]);
        while boxes().any(|outbox| outbox.held_bytes.load(Ordering::SeqCst) > 0) {
            if self.0.clock.monotonic().saturating_sub(begun) > patience {
                break;
            }
            std::thread::park_timeout(Duration::from_millis(5));
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.datagrams.queue.close();
        self.streams.iter().for_each(|outbox| outbox.queue.close());
    }
}

/// The tracing layer that passes events to [`Remote`].
pub(super) struct SyslogLayer(pub(super) Remote);

impl<S: Subscriber> Layer<S> for SyslogLayer {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let Remote(inner) = &self.0;
        let reporter = inner.reporter.load_full();
        if QUIET.try_with(Cell::get).unwrap_or(true) || (reporter.is_none() && inner.streams.is_empty()) {
            return;
        }
        let entry = LogEntry::of(event);
        let line = Arc::new(Line { text: entry.text(), entry, at: inner.clock.wall(), reporter });
        if line.reporter.is_some() {
            inner.datagrams.put(line.clone());
        }
        inner.streams.iter().for_each(|outbox| outbox.put(line.clone()));
    }
}

thread_local! {
    /// Whether this is a sending thread, whose events are ignored.
    static QUIET: Cell<bool> = const { Cell::new(false) };
}

/// The queue of one sender.
struct Outbox {
    queue: Queue<Arc<Line>>,
    /// Size of lines that wait or are being sent, in bytes.
    held_bytes: AtomicUsize,
    /// Lines dropped since the receiver was last told.
    lost: AtomicU64,
    metrics: Arc<Metrics>,
}

impl Outbox {
    fn new(metrics: &Arc<Metrics>) -> Self {
        Self {
            queue: Queue::new(SYSLOG_WAITING_MAX),
            held_bytes: AtomicUsize::new(0),
            lost: AtomicU64::new(0),
            metrics: metrics.clone(),
        }
    }

    /// Adds a line, or drops it if the limit is reached.
    fn put(&self, line: Arc<Line>) {
        let bytes = line.bytes();
        let full = self.held_bytes.fetch_add(bytes, Ordering::SeqCst) + bytes > SYSLOG_WAITING_MAX_BYTES;
        if full || self.queue.push(line).is_err() {
            self.held_bytes.fetch_sub(bytes, Ordering::SeqCst);
            self.lose();
        }
    }

    /// The line was sent or given up.
    fn done(&self, line: &Line) {
        self.held_bytes.fetch_sub(line.bytes(), Ordering::SeqCst);
    }

    /// Counts a dropped line.
    fn lose(&self) {
        self.lost.fetch_add(1, Ordering::Relaxed);
        self.metrics.count(Count::SyslogDropped);
    }

    /// How many lines the receiver missed since it was last told, and a line that says so; `None` if it missed none. If
    /// that line cannot be sent, the caller adds the number back to `lost`.
    fn loss_report(&self, clock: &dyn Clock) -> Option<(u64, Line)> {
        let lost = self.lost.swap(0, Ordering::Relaxed);
        let text = format!("{lost} log lines were not sent here: the connection was down or too slow");
        let entry = LogEntry::new(Level::WARN, "syslog", text.clone());
        (lost > 0).then(|| (lost, Line { entry, text, at: clock.wall(), reporter: None }))
    }
}

impl Line {
    fn bytes(&self) -> usize {
        // The text is stored twice, as a whole and in parts.
        2 * self.text.len() + LINE_OVERHEAD_BYTES
    }
}

/// Memory of a line besides its text, approximately.
const LINE_OVERHEAD_BYTES: usize = 256;
