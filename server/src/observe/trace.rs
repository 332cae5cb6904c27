//! Log lines: to standard error, one per event, at a level that can be changed while the process runs.
//!
//! Whoever emits an event answers for what is in it; secrets have no `Debug` and no `Display` to be logged by.

use std::io::{self, IsTerminal};
use std::panic::PanicHookInfo;
use std::sync::Arc;

use tracing::level_filters::LevelFilter;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::registry::Registry;
use tracing_subscriber::reload;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};

use super::metrics::{Count, Metrics};

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

/// Starts logging for the whole process, panics included, and counts warnings and errors in `metrics`. Fails if logging
/// was started before.
pub fn start(level: LevelFilter, metrics: Arc<Metrics>) -> Result<LogLevel, TryInitError> {
    let (filter, handle) = reload::Layer::new(level);
    let lines = tracing_subscriber::fmt::layer()
        .compact()
        .with_target(false)
        .with_ansi(io::stderr().is_terminal())
        .with_writer(io::stderr);
    tracing_subscriber::registry().with(filter).with(lines).with(Counting(metrics)).try_init()?;
    std::panic::set_hook(Box::new(log_panic));
    Ok(LogLevel(handle))
}

/// Logs where a panic was. What it says only if that is a constant: a formatted text may hold what must not be logged.
fn log_panic(panic: &PanicHookInfo<'_>) {
    let place = panic.location().map_or_else(|| "unknown".into(), ToString::to_string);
    let text = panic.payload().downcast_ref::<&'static str>().copied().unwrap_or("(not shown)");
    tracing::error!(place, text, "panic");
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
