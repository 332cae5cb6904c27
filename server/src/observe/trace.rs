//! Log lines to standard error and to syslog, one per event, at a level that can be changed while the process runs.
//!
//! Code that emits an event is responsible for its contents; secrets have no `Debug` or `Display` with which they could
//! be logged. Foreign text may be included unchanged: [`super::plain`] escapes it on output.

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
use super::syslog::{Remote, SyslogLayer};

/// Handle to change the log level.
#[derive(Clone)]
pub struct LogLevel(reload::Handle<LevelFilter, Registry>);

impl LogLevel {
    /// From now on, logs events of at least this level.
    pub fn set(&self, level: LevelFilter) {
        // It fails only if the subscriber is gone, and then there is nothing to set.
        let _ = self.0.reload(level);
    }
}

/// The part of logging that can be changed while the process runs.
#[derive(Clone)]
pub struct Logging {
    /// The log level.
    pub level: LogLevel,
    /// The syslog destinations.
    pub remote: Remote,
}

impl Logging {
    /// From now on, logs events of at least `level`, and sends them to the syslog server `udp` as well, if there is
    /// one.
    pub fn apply(&self, level: LevelFilter, udp: Option<SocketAddr>) {
        self.remote.send_to(udp);
        self.level.set(level);
    }
}

/// The initial configuration of logging.
pub struct Start {
    /// The log level.
    pub level: LevelFilter,
    /// The format of lines on standard error.
    pub format: LogFormat,
    /// systemd's name of the journal's stream (`JOURNAL_STREAM`).
    pub journal_stream: Option<String>,
    /// The syslog destinations.
    pub remote: Remote,
    /// The clock for the times in lines.
    pub clock: Arc<dyn Clock>,
    /// The metrics that count warnings and errors.
    pub metrics: Arc<Metrics>,
}

/// Starts logging for the whole process, panics included. Fails if logging was started before.
pub fn start(how: Start) -> Result<Logging, TryInitError> {
    let Start { level, format, journal_stream, remote, clock, metrics } = how;
    let (filter, handle) = reload::Layer::new(level);
    let journal = lines::is_journal(journal_stream.as_deref());
    let lines = Lines { format, journal, clock };
    let registry = tracing_subscriber::registry().with(filter).with(ForeignFilter).with(lines);
    registry.with(SyslogLayer(remote.clone())).with(Counting(metrics)).try_init()?;
    std::panic::set_hook(Box::new(log_panic));
    Ok(Logging { level: LogLevel(handle), remote })
}

/// Logs the location of a panic, and its message only if that is a constant: formatted text may contain what must not
/// be logged.
fn log_panic(panic: &PanicHookInfo<'_>) {
    let place = panic.location().map_or_else(|| "unknown".into(), ToString::to_string);
    let text = panic.payload().downcast_ref::<&'static str>().copied().unwrap_or("(not shown)");
    tracing::error!(place, text, "panic");
}

/// Drops events of other crates below the level of errors: there are many, we cannot vouch for their contents, and
/// clients without credentials can cause some of them at will.
struct ForeignFilter;

impl ForeignFilter {
    fn passes(module: Option<&str>, level: Level) -> bool {
        level <= Level::ERROR || module.is_some_and(|module| module.starts_with("casemate"))
    }
}

impl<S: Subscriber> Layer<S> for ForeignFilter {
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
            assert_eq!(ForeignFilter::passes(module, level), passes, "{module:?} {level}");
        }
        let metrics = Arc::new(Metrics::new(Duration::ZERO));
        let subscriber = tracing_subscriber::registry().with(ForeignFilter).with(Counting(Arc::clone(&metrics)));
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
