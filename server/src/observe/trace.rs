//! Log lines: to standard error and to syslog, one per event, at a level that can be changed while the process runs.
//!
//! Whoever emits an event answers for what is in it; secrets have no `Debug` and no `Display` to be logged by. Foreign text may
//! be in it as it is: [`super::plain`] makes it harmless on its way out.

use std::net::SocketAddr;
use std::panic::PanicHookInfo;
use std::sync::Arc;

use casemate_core::runtime::Clock;
use tracing::level_filters::LevelFilter;
use tracing::subscriber::Interest;
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::registry::Registry;
use tracing_subscriber::reload;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};

use super::lines::{self, Lines, LogFormat};
use super::metrics::{Count, Metrics};
use super::syslog::{Remote, Tap};

/// Changes what is logged.
#[derive(Clone)]
pub struct LogLevel(reload::Handle<LevelFilter, Registry>);

impl LogLevel {
    /// From now on, log what is at least this important.
    pub fn set(&self, level: LevelFilter) {
        // It fails only once the subscriber is gone, and then there is nothing to set.
        let _ = self.0.reload(level);
    }
}

/// What of logging can be changed while the process runs.
#[derive(Clone)]
pub struct Logging {
    /// What is logged.
    pub level: LogLevel,
    /// Where to, besides standard error.
    pub remote: Remote,
}

impl Logging {
    /// From now on, log what is at least as important as `level`, and send it over UDP to `udp` as well, if anywhere.
    pub fn apply(&self, level: LevelFilter, udp: Option<SocketAddr>) {
        self.remote.send_to(udp);
        self.level.set(level);
    }
}

/// How logging starts.
pub struct Start {
    /// What is logged.
    pub level: LevelFilter,
    /// The form of lines on standard error.
    pub format: LogFormat,
    /// What systemd says the journal's stream is (`JOURNAL_STREAM`).
    pub journal_stream: Option<String>,
    /// Where lines go besides.
    pub remote: Remote,
    /// For the times in lines.
    pub clock: Arc<dyn Clock>,
    /// Where warnings and errors are counted.
    pub metrics: Arc<Metrics>,
}

/// Starts logging for the whole process, panics included. Fails if logging was started before.
pub fn start(how: Start) -> Result<Logging, TryInitError> {
    let Start { level, format, journal_stream, remote, clock, metrics } = how;
    let (filter, handle) = reload::Layer::new(level);
    let journal = lines::is_journal(journal_stream.as_deref());
    let lines = Lines { format, journal, clock };
    let registry = tracing_subscriber::registry().with(filter).with(Discretion).with(lines);
    registry.with(Tap(remote.clone())).with(Counting(metrics)).try_init()?;
    std::panic::set_hook(Box::new(log_panic));
    Ok(Logging { level: LogLevel(handle), remote })
}

/// Logs where a panic was. What it says only if that is a constant: a formatted text may hold what must not be logged.
fn log_panic(panic: &PanicHookInfo<'_>) {
    let place = panic.location().map_or_else(|| "unknown".into(), ToString::to_string);
    let text = panic.payload().downcast_ref::<&'static str>().copied().unwrap_or("(not shown)");
    tracing::error!(place, text, "panic");
}

/// Keeps what other crates say below an error to ourselves: it is much, nobody here answers for what is in it, and
/// strangers can bring some of it about as often as they like.
struct Discretion;

impl Discretion {
    fn passes(module: Option<&str>, level: Level) -> bool {
        level <= Level::ERROR || module.is_some_and(|module| module.starts_with("casemate"))
    }
}

impl<S: Subscriber> Layer<S> for Discretion {
    fn register_callsite(&self, about: &'static Metadata<'static>) -> Interest {
        match Self::passes(about.module_path(), *about.level()) {
            true => Interest::always(),
            false => Interest::never(),
        }
    }

    fn enabled(&self, about: &Metadata<'_>, _: Context<'_, S>) -> bool {
        Self::passes(about.module_path(), *about.level())
    }
}

/// Counts warnings and errors that are logged.
struct Counting(Arc<Metrics>);

impl<S: Subscriber> Layer<S> for Counting {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        match *event.metadata().level() {
            Level::ERROR => self.0.count(Count::LogError),
            Level::WARN => self.0.count(Count::LogWarning),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn of_other_crates_only_errors_are_logged() {
        let ours = Some("casemate_core::keys");
        for (module, level, passes) in [
            (ours, Level::TRACE, true),
            (Some("h2::proto"), Level::INFO, false),
            (Some("h2::proto"), Level::WARN, false),
            (Some("h2::proto"), Level::ERROR, true),
            (None, Level::DEBUG, false),
        ] {
            assert_eq!(Discretion::passes(module, level), passes, "{module:?} {level}");
        }
        let metrics = Arc::new(Metrics::new(Duration::ZERO));
        let subscriber = tracing_subscriber::registry().with(Discretion).with(Counting(Arc::clone(&metrics)));
        tracing::subscriber::with_default(subscriber, || tracing::warn!("ours"));
        assert_eq!(metrics.counted(Count::LogWarning), 1);
    }

    #[test]
    fn warnings_and_errors_are_counted_as_far_as_they_are_logged() {
        let metrics = Arc::new(Metrics::new(Duration::ZERO));
        let (filter, handle) = reload::Layer::new(LevelFilter::INFO);
        let level = LogLevel(handle);
        let subscriber = tracing_subscriber::registry().with(filter).with(Counting(Arc::clone(&metrics)));
        tracing::subscriber::with_default(subscriber, || {
            tracing::info!("not counted");
            tracing::warn!("counted");
            tracing::error!("counted");
            level.set(LevelFilter::ERROR);
            tracing::warn!("not logged any more");
            tracing::error!("counted");
        });
        let json = metrics.json(Duration::ZERO);
        assert!(json.contains(r#""log warnings":"1","log errors":"2""#), "{json}");
    }
}
