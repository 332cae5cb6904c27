//! The log of etcd: what it has said last, for `GET /health/diagnose`.

use std::collections::VecDeque;
use std::io::{self, BufRead, Read};

use casemate_api::limits::{MEMBER_LOG_LINE_MAX_BYTES, MEMBER_LOG_MAX_BYTES, MEMBER_LOG_RECORDS_MAX};
use serde_json::{Map, Value};

/// A record of the log: the fields that etcd has written, `level` and `msg` among them.
pub type Record = Map<String, Value>;

/// The last records.
#[derive(Default)]
pub(super) struct Log {
    /// With the bytes of their lines.
    records: VecDeque<(usize, Record)>,
    bytes: usize,
}

impl Log {
    pub(super) fn push(&mut self, line: &str) {
        self.bytes += line.len();
        self.records.push_back((line.len(), parse(line)));
        while self.records.len() > MEMBER_LOG_RECORDS_MAX || self.bytes > MEMBER_LOG_MAX_BYTES {
            let Some((bytes, _)) = self.records.pop_front() else { break };
            self.bytes -= bytes;
        }
    }

    /// The oldest first.
    pub(super) fn records(&self) -> Vec<Record> {
        self.records.iter().map(|(_, record)| record.clone()).collect()
    }

    /// What it has said last that is worse than a warning, with the cause; empty if there is nothing.
    pub(super) fn last_error(&self) -> String {
        let mut newest = self.records.iter().rev().map(|(_, record)| record);
        let bad = newest.find(|record| !matches!(text(record, "level"), "debug" | "info" | "warn"));
        let words = bad.into_iter().flat_map(|record| ["msg", "error"].map(|field| text(record, field)));
        words.filter(|text| !text.is_empty()).collect::<Vec<_>>().join(": ")
    }
}

fn text<'a>(record: &'a Record, field: &str) -> &'a str {
    record.get(field).and_then(Value::as_str).unwrap_or_default()
}

fn parse(line: &str) -> Record {
    serde_json::from_str(line).unwrap_or_else(|_| {
        // What is not written by its logger comes from Go when the process breaks down, or from `confine`.
        let fields = [("level", "error"), ("msg", line)];
        fields.map(|(name, value)| (name.to_owned(), value.into())).into_iter().collect()
    })
}

/// Whether a line says that the cluster has removed this member.
pub(super) fn tells_removal(line: &str) -> bool {
    ["the member has been permanently removed from the cluster", "data-dir used by this member must be removed"]
        .iter()
        .any(|sentence| line.contains(sentence))
}

/// The next line without its end; of a long one the beginning. `None` at the end.
pub(super) fn next_line(from: &mut impl BufRead) -> io::Result<Option<String>> {
    let mut line = Vec::new();
    from.by_ref().take(MEMBER_LOG_LINE_MAX_BYTES as u64).read_until(b'\n', &mut line)?;
    match line.pop() {
        None => return Ok(None),
        Some(b'\n') => {}
        Some(last) => {
            line.push(last);
            from.skip_until(b'\n')?;
        }
    }
    Ok(Some(String::from_utf8_lossy(&line).into_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_records_are_kept_within_bounds() {
        let mut log = Log::default();
        for i in 0..MEMBER_LOG_RECORDS_MAX + 7 {
            log.push(&format!(r#"{{"level":"warn","msg":"{i}"}}"#));
        }
        let records = log.records();
        assert_eq!((records.len(), &records[0]["msg"]), (MEMBER_LOG_RECORDS_MAX, &Value::from("7")));
        let long = "x".repeat(MEMBER_LOG_LINE_MAX_BYTES);
        for _ in 0..2 * MEMBER_LOG_MAX_BYTES / long.len() {
            log.push(&long);
        }
        assert_eq!(log.records().len(), MEMBER_LOG_MAX_BYTES / long.len());
        assert!(log.bytes <= MEMBER_LOG_MAX_BYTES);
    }

    #[test]
    fn a_removal_is_told_by_the_words_of_etcd() {
        let stopped = r#"{"level":"warn","msg":"server error","error":"the member has been permanently removed from the cluster"}"#;
        let advice = r#"{"level":"warn","msg":"data-dir used by this member must be removed"}"#;
        assert!(tells_removal(stopped) && tells_removal(advice));
        assert!(!tells_removal(r#"{"level":"warn","msg":"prober detected unhealthy status"}"#));
    }

    #[test]
    fn a_line_that_is_not_json_is_kept_as_an_error() {
        let mut log = Log::default();
        log.push("panic: out of luck");
        log.push("3");
        let expected = serde_json::json!([
            { "level": "error", "msg": "panic: out of luck" },
            { "level": "error", "msg": "3" },
        ]);
        assert_eq!(serde_json::to_value(log.records()).unwrap(), expected);
    }

    #[test]
    fn the_last_error_is_told_with_its_cause() {
        let mut log = Log::default();
        assert_eq!(log.last_error(), "");
        log.push("panic: out of luck");
        log.push(r#"{"level":"fatal","msg":"discovery failed","error":"no data"}"#);
        log.push(r#"{"level":"warn","msg":"closing"}"#);
        assert_eq!(log.last_error(), "discovery failed: no data");
    }

    #[test]
    fn a_long_line_is_cut_and_the_next_one_is_whole() {
        let long = "y".repeat(3 * MEMBER_LOG_LINE_MAX_BYTES);
        let full = "z".repeat(MEMBER_LOG_LINE_MAX_BYTES);
        let text = format!("a\n\n{long}\n{full}\nb");
        let mut from = text.as_bytes();
        let mut lines = Vec::new();
        while let Some(line) = next_line(&mut from).unwrap() {
            lines.push(line);
        }
        assert_eq!(lines, ["a", "", &long[..MEMBER_LOG_LINE_MAX_BYTES], &full, "b"]);
    }
}
