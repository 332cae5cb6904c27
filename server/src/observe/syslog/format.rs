//! The two syslog formats.

use std::time::Duration;

use casemate_api::limits::{SYSLOG_DATAGRAM_MAX_BYTES, SYSLOG_MESSAGE_MAX_BYTES};
use jiff::Timestamp;

use super::Line;
use crate::observe::event::truncate;
use crate::observe::lines::rfc3339;

/// RFC 3164 as NetHSM writes it: facility daemon, a fixed host name, the source as tag, and a sequence number in
/// brackets, where other programs put their process id. Control characters were escaped before.
pub(super) fn rfc3164(line: &Line, number: u32) -> String {
    let mut message = format!(
        "<{}>{} keyfender {} [{number}] {}",
        DAEMON | line.entry.severity(),
        month_and_time(line.at),
        line.entry.source,
        line.text
    );
    truncate(&mut message, SYSLOG_DATAGRAM_MAX_BYTES);
    message
}

/// RFC 5424, framed by its length (RFC 6587 §3.4.1, RFC 5425 §4.3). The sequence number is in structured data, so that
/// gaps can be noticed; fields stay in the text, since names of structured data have to be registered.
pub(super) fn rfc5424(line: &Line, number: u32, host: &str) -> String {
    let mut message = format!(
        "<{}>1 {} {host} casemated {} {} [meta sequenceId=\"{number}\"] {}",
        DAEMON | line.entry.severity(),
        rfc3339(line.at),
        std::process::id(),
        line.entry.source,
        line.text
    );
    truncate(&mut message, SYSLOG_MESSAGE_MAX_BYTES);
    format!("{} {message}", message.len())
}

/// This machine's host name in the form of RFC 5424 §6.2.4, or `-`.
pub(super) fn host_name() -> String {
    let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let plain = !name.is_empty() && name.len() <= 255 && name.bytes().all(|byte| byte.is_ascii_graphic());
    if plain { name } else { "-".into() }
}

/// `Jan 02 03:04:05`, in UTC.
fn month_and_time(wall: Duration) -> String {
    let seconds = i64::try_from(wall.as_secs()).unwrap_or(i64::MAX);
    Timestamp::from_second(seconds).unwrap_or(Timestamp::MAX).strftime("%b %d %H:%M:%S").to_string()
}

/// The facility (RFC 5424 §6.2.1), shifted to its position in the priority.
const DAEMON: u8 = 3 << 3;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::event::LogEntry;
    use tracing::Level;

    fn line(level: Level, text: &str) -> Line {
        let at = Duration::from_millis(1_767_323_045_250);
        Line { entry: LogEntry::new(level, "hsm.key", text.into()), text: text.into(), at, reporter: None }
    }

    #[test]
    fn rfc3164_is_spelled_as_nethsm_spells_it() {
        for (level, priority) in
            [(Level::ERROR, 27), (Level::WARN, 28), (Level::INFO, 30), (Level::DEBUG, 31), (Level::TRACE, 31)]
        {
            let expected = format!("<{priority}>Jan 02 03:04:05 keyfender hsm.key [7] created (k)");
            assert_eq!(rfc3164(&line(level, "created (k)"), 7), expected);
        }
        assert_eq!(rfc3164(&line(Level::INFO, &"x".repeat(70_000)), 1).len(), SYSLOG_DATAGRAM_MAX_BYTES);
    }

    #[test]
    fn rfc5424_says_its_length_first() {
        let framed = rfc5424(&line(Level::INFO, "created (\u{fc})"), 7, "host");
        let pid = std::process::id();
        let message = format!(
            "<30>1 2026-01-02T03:04:05.250000Z host casemated {pid} hsm.key [meta sequenceId=\"7\"] created (\u{fc})"
        );
        assert_eq!(framed, format!("{} {message}", message.len()));
        let long = rfc5424(&line(Level::INFO, &"\u{fc}".repeat(9_000)), 1, "host");
        let (length, message) = long.split_once(' ').unwrap();
        assert_eq!(length.parse(), Ok(message.len()));
        assert!(message.len() <= SYSLOG_MESSAGE_MAX_BYTES);
    }

    #[test]
    fn this_machine_has_a_name_for_syslog() {
        assert!(host_name().bytes().all(|byte| byte.is_ascii_graphic()));
        assert!(!host_name().is_empty());
    }
}
