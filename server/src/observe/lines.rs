//! Log lines on standard error: text for people or JSON for machines. The systemd journal adds the time itself and
//! takes the level from a prefix (sd-daemon(3)).

use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use std::time::Duration;

use casemate_core::runtime::Clock;
use jiff::Timestamp;
use tracing::{Event, Subscriber};
use tracing_subscriber::layer::{Context, Layer};

use super::event::LogEntry;

/// Format of log lines (setting `log-format`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object per line.
    Json,
}

/// Writes each event as one line.
pub(super) struct Lines {
    pub(super) format: LogFormat,
    /// Whether the destination is the systemd journal.
    pub(super) journal: bool,
    pub(super) clock: Arc<dyn Clock>,
}

impl Lines {
    fn line(&self, entry: &LogEntry, now: Duration) -> String {
        match (self.format, self.journal) {
            (LogFormat::Json, false) => format!("{}\n", entry.json(Some(rfc3339(now)))),
            (LogFormat::Json, true) => format!("<{}>{}\n", entry.severity(), entry.json(None)),
            (LogFormat::Text, false) => format!("{} {:>5} {}\n", rfc3339(now), entry.level, entry.text()),
            (LogFormat::Text, true) => format!("<{}>{}\n", entry.severity(), entry.text()),
        }
    }
}

impl<S: Subscriber> Layer<S> for Lines {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let line = self.line(&LogEntry::of(event), self.clock.wall());
        // A single write, so that lines of two threads do not mix. If standard error is closed, the error cannot be
        // reported.
        let _ = io::stderr().write_all(line.as_bytes());
    }
}

/// Formats a wall-clock time (since 1970) as in RFC 3339, in UTC, with microseconds.
pub(super) fn rfc3339(wall: Duration) -> String {
    let micros = i64::try_from(wall.as_micros()).unwrap_or(i64::MAX);
    let time = Timestamp::from_microsecond(micros).unwrap_or(Timestamp::MAX);
    format!("{time:.6}")
}

/// Whether standard error is the stream that systemd named in `JOURNAL_STREAM`, as `device:inode`. The variable alone
/// is not enough: processes whose output goes elsewhere inherit it.
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
    use proptest::prelude::*;
    use serde_json::Value;
    use std::sync::Mutex;
    use tracing::Level;
    use tracing_subscriber::layer::SubscriberExt;

    fn line(format: LogFormat, journal: bool) -> String {
        let lines = Lines { format, journal, clock: Arc::new(SystemClock::new()) };
        lines.line(&LogEntry::new(Level::WARN, "hsm", "careful".into()), Duration::from_micros(1_767_225_600_000_001))
    }

    #[test]
    fn the_journal_gets_levels_and_no_times() {
        assert_eq!(line(LogFormat::Text, true), "<4>careful\n");
        assert_eq!(line(LogFormat::Text, false), "2026-01-01T00:00:00.000001Z  WARN careful\n");
        assert_eq!(line(LogFormat::Json, true), "<4>{\"level\":\"warn\",\"message\":\"careful\",\"source\":\"hsm\"}\n");
        let json = line(LogFormat::Json, false);
        assert!(json.contains("\"time\":\"2026-01-01T00:00:00.000001Z\"") && !json.starts_with('<'), "{json}");
    }

    /// The lines written for an event with this text in its message and in fields of each kind.
    fn lines_of(text: &str) -> Vec<String> {
        struct Caught(Mutex<Vec<String>>);
        impl<S: Subscriber> Layer<S> for &'static Caught {
            fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
                for (format, journal) in FORMS {
                    let lines = Lines { format, journal, clock: Arc::new(SystemClock::new()) };
                    self.0.lock().unwrap().push(lines.line(&LogEntry::of(event), Duration::from_secs(1)));
                }
            }
        }
        let caught: &'static Caught = Box::leak(Box::new(Caught(Mutex::default())));
        let subscriber = tracing_subscriber::registry().with(caught);
        tracing::subscriber::with_default(
            subscriber,
            || tracing::warn!(target: "hsm", shown = %text, plain = text, told = ?text, "entry: {text}"),
        );
        std::mem::take(&mut *caught.0.lock().unwrap())
    }

    const FORMS: [(LogFormat, bool); 4] =
        [(LogFormat::Text, false), (LogFormat::Text, true), (LogFormat::Json, false), (LogFormat::Json, true)];

    fn assert_one_line_each(text: &str) {
        let lines = lines_of(text);
        assert_eq!(lines.len(), FORMS.len());
        for (line, (format, _)) in lines.iter().zip(FORMS) {
            let line = line.strip_suffix('\n').unwrap();
            let steers = |c: char| c.is_control() || matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
            assert!(!line.contains(steers), "{line:?}");
            if format == LogFormat::Json {
                let entry: Value = serde_json::from_str(line.trim_start_matches("<4>")).unwrap();
                assert_eq!((&entry["shown"], &entry["plain"]), (&text.into(), &text.into()));
                assert_eq!(entry["message"], format!("entry: {text}"));
            }
        }
    }

    #[test]
    fn no_text_ends_its_line_or_controls_the_terminal() {
        for text in
            ["a\nb", "a\rb", "\u{1b}[2J", "\u{9b}31m", "\u{85}", "\u{2028}", "\u{2029}", "\u{202e}", "\u{2066}", "\0"]
        {
            assert_one_line_each(text);
        }
    }

    proptest! {
        #[test]
        fn whatever_an_event_says_is_one_line(text in any::<String>()) {
            assert_one_line_each(&text);
        }
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
