//! The contents of a log event, extracted once for all destinations.

use std::borrow::Cow;
use std::fmt::{Debug, Write as _};

use casemate_api::limits::LOG_TEXT_MAX_BYTES;
use serde_json::{Map, Value};
use tracing::field::{Field, Visit};
use tracing::{Event, Level};

use super::plain::{plain, plain_json};

/// Level, source, message and fields of an event.
#[derive(Clone, Debug)]
pub(super) struct LogEntry {
    pub(super) level: Level,
    /// Its source, named as in NetHSM: `hsm.key`, `http.access`, `application`.
    pub(super) source: String,
    message: String,
    fields: Vec<(&'static str, Value)>,
}

impl LogEntry {
    /// Extracts the contents of `event`.
    pub(super) fn of(event: &Event<'_>) -> Self {
        let about = event.metadata();
        let mut entry = Self::new(*about.level(), about.target(), String::new());
        event.record(&mut entry);
        entry
    }

    /// An entry with a message and no fields.
    pub(super) fn new(level: Level, target: &str, message: String) -> Self {
        Self { level, source: source(target), message, fields: Vec::new() }
    }

    /// Severity in syslog's numbers (RFC 5424 §6.2.1).
    pub(super) fn severity(&self) -> u8 {
        match self.level {
            Level::ERROR => 3,
            Level::WARN => 4,
            Level::INFO => 6,
            Level::DEBUG | Level::TRACE => 7,
        }
    }

    /// Message and fields on one line: a name chosen by a user cannot break it.
    pub(super) fn text(&self) -> String {
        let mut text = self.message.clone();
        for (name, value) in &self.fields {
            // Writing to a string cannot fail.
            let _ = match value {
                Value::String(value) => write!(text, " {name}={value}"),
                value => write!(text, " {name}={value}"),
            };
        }
        if let Cow::Owned(escaped) = plain(&text) {
            text = escaped;
        }
        truncate(&mut text, LOG_TEXT_MAX_BYTES);
        text
    }

    /// A JSON object on one line. `time` is left out where the destination adds its own.
    pub(super) fn json(&self, time: Option<String>) -> String {
        let mut members = Map::new();
        members.extend(time.map(|time| ("time".to_owned(), time.into())));
        members.insert("level".into(), self.level.as_str().to_lowercase().into());
        members.insert("source".into(), self.source.as_str().into());
        members.insert("message".into(), self.message.as_str().into());
        for (name, value) in &self.fields {
            // Fields cannot override the four members above.
            let name = if members.contains_key(*name) { format!("{name}_") } else { (*name).to_owned() };
            members.insert(name, value.clone());
        }
        plain_json(Value::Object(members).to_string())
    }

    fn put(&mut self, field: &Field, mut value: Value) {
        // Names may be long; only as much of one is kept as fits a line.
        if let Value::String(text) = &mut value {
            truncate(text, LOG_TEXT_MAX_BYTES);
        }
        match (field.name(), value) {
            ("message", Value::String(text)) => self.message = text,
            ("message", value) => self.message = value.to_string(),
            (name, value) => self.fields.push((name, value)),
        }
    }
}

impl Visit for LogEntry {
    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, value.into());
    }
    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, value.into());
    }
    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, value.into());
    }
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, value.into());
    }
    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, value.into());
    }
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.put(field, format!("{value:?}").into());
    }
}

/// The name of an event's source. Targets that are module paths of ours become `application`, NetHSM's name for unnamed
/// sources; for foreign crates it is the crate's name. At most 32 characters of printable ASCII.
fn source(target: &str) -> String {
    if target.starts_with("casemate") {
        return "application".into();
    }
    let name = target.split("::").next().unwrap_or_default();
    let plain = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-') { c } else { '_' };
    let name: String = name.chars().take(SOURCE_MAX_CHARS).map(plain).collect();
    if name.is_empty() { "application".into() } else { name }
}

/// Truncates a text at a character boundary to at most `bytes_max` bytes.
pub(super) fn truncate(text: &mut String, bytes_max: usize) {
    if text.len() > bytes_max {
        text.truncate(text.floor_char_boundary(bytes_max));
    }
}

const SOURCE_MAX_CHARS: usize = 32;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_have_short_plain_names() {
        for (target, name) in [
            ("hsm.key", "hsm.key"),
            ("casemate_server::run", "application"),
            ("rustls::conn", "rustls"),
            ("", "application"),
            ("a b\u{fc}", "a_b_"),
        ] {
            assert_eq!(source(target), name);
        }
        assert_eq!(source(&"x".repeat(40)).len(), 32);
    }

    #[test]
    fn a_text_is_one_line_of_bounded_length() {
        let mut entry = LogEntry::new(Level::INFO, "hsm.key", "a\nb\u{1b}[31m \u{fc}".into());
        entry.fields.push(("count", 3.into()));
        entry.fields.push(("why", "x\r\0y\u{85}".into()));
        assert_eq!(entry.text(), "a\\nb\\u{1b}[31m \u{fc} count=3 why=x\\r\\u{0}y\\u{85}");
        let long = LogEntry::new(Level::INFO, "hsm", "\u{fc}".repeat(LOG_TEXT_MAX_BYTES)).text();
        assert!(long.len() <= LOG_TEXT_MAX_BYTES && long.len() > LOG_TEXT_MAX_BYTES - 2);
    }

    #[test]
    fn json_keeps_types_and_its_own_members() {
        let mut entry = LogEntry::new(Level::WARN, "hsm", "a \"word\"\n".into());
        entry.fields.push(("count", 3.into()));
        entry.fields.push(("level", true.into()));
        let expected = r#"{"time":"T","level":"warn","source":"hsm","message":"a \"word\"\n","count":3,"level_":true}"#;
        let parse = |text: &str| serde_json::from_str::<Value>(text).unwrap();
        assert_eq!(parse(&entry.json(Some("T".into()))), parse(expected));
        assert!(!entry.json(None).contains("time"));
    }
}
