//! Log lines on standard error for machines: JSON, and text for the journal, which adds the time itself and takes the
//! level as a prefix (sd-daemon(3)).

use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use std::time::Duration;

use casemate_core::platform::Clock;
use jiff::Timestamp;
use tracing::{Event, Subscriber};
use tracing_subscriber::layer::{Context, Layer};

use super::event::Said;

/// How log lines are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Writes each event as one line.
pub(super) struct Lines {
    pub(super) format: LogFormat,
    /// Whether the journal reads them.
    pub(super) journal: bool,
    pub(super) clock: Arc<dyn Clock>,
}

impl Lines {
    fn line(&self, said: &Said, now: Duration) -> String {
        let prefix = if self.journal { format!("<{}>", said.severity()) } else { String::new() };
        let time = || (!self.journal).then(|| rfc3339(now));
        match self.format {
            LogFormat::Json => format!("{prefix}{}\n", said.json(time())),
            LogFormat::Text => format!("{prefix}{}\n", said.text()),
        }
    }
}

impl<S: Subscriber> Layer<S> for Lines {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let line = self.line(&Said::by(event), self.clock.wall());
        // One write, so that lines of two threads do not mix. If standard error is gone there is nobody to tell.
        let _ = io::stderr().write_all(line.as_bytes());
    }
}

/// A wall clock's time (since 1970) as RFC 3339 has it, in UTC, with microseconds.
pub(super) fn rfc3339(wall: Duration) -> String {
    let micros = i64::try_from(wall.as_micros()).unwrap_or(i64::MAX);
    let time = Timestamp::from_microsecond(micros).unwrap_or(Timestamp::MAX);
    format!("{time:.6}")
}

/// Whether standard error is the stream that systemd named in `JOURNAL_STREAM`, as `device:inode`. The variable alone
/// says little: it is inherited by processes whose output goes elsewhere.
pub(super) fn is_journal(stream: Option<&str>) -> bool {
    let numbers = stream.and_then(|text| text.split_once(':'));
    let Some((Ok(device), Ok(inode))) = numbers.map(|(device, inode)| (device.parse::<u64>(), inode.parse::<u64>()))
    else {
        return false;
    };
    std::fs::metadata("/proc/self/fd/2").is_ok_and(|about| (about.dev(), about.ino()) == (device, inode))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::SystemClock;
    use tracing::Level;

    fn line(format: LogFormat, journal: bool) -> String {
        let lines = Lines { format, journal, clock: Arc::new(SystemClock::new()) };
        lines.line(&Said::new(Level::WARN, "hsm", "careful".into()), Duration::from_micros(1_767_225_600_000_001))
    }

    #[test]
    fn the_journal_gets_levels_and_no_times() {
        assert_eq!(line(LogFormat::Text, true), "<4>careful\n");
        assert_eq!(line(LogFormat::Json, true), "<4>{\"level\":\"warn\",\"message\":\"careful\",\"source\":\"hsm\"}\n");
        let json = line(LogFormat::Json, false);
        assert!(json.contains("\"time\":\"2026-01-01T00:00:00.000001Z\"") && !json.starts_with('<'), "{json}");
    }

    #[test]
    fn the_journal_is_the_stream_that_systemd_named() {
        let about = std::fs::metadata("/proc/self/fd/2").unwrap();
        assert!(is_journal(Some(&format!("{}:{}", about.dev(), about.ino()))));
        for other in [None, Some(""), Some("1"), Some("0:0"), Some("a:b")] {
            assert!(!is_journal(other), "{other:?}");
        }
    }
}
