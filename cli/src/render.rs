//! The output of commands: tables and sentences for people, JSON with stable members for scripts.

use std::fmt::Write as _;
use std::io::{self, IsTerminal, Write};

use comfy_table::{Table, presets};
use serde::Serialize;
use zeroize::Zeroizing;

use crate::exit::{Failure, local};

/// How a command prints.
pub(crate) struct Out {
    /// JSON instead of text.
    pub(crate) json: bool,
}

impl Out {
    /// Prints a list, one row for each item.
    pub(crate) fn list(
        &self,
        value: &impl Serialize,
        heads: &[&str],
        rows: impl IntoIterator<Item = Vec<String>>,
    ) -> Result<(), Failure> {
        if self.json {
            return self.as_json(value);
        }
        let mut table = Table::new();
        table.load_preset(presets::NOTHING).set_header(heads.iter().map(|head| head.to_uppercase()));
        for row in rows {
            table.add_row(row.iter().map(|cell| clean(cell)));
        }
        write(format!("{}\n", table.trim_fmt()).as_bytes())
    }

    /// Prints one object, one row for each member.
    pub(crate) fn record(&self, value: &impl Serialize, members: Vec<(&str, String)>) -> Result<(), Failure> {
        if self.json {
            return self.as_json(value);
        }
        let mut table = Table::new();
        table.load_preset(presets::NOTHING);
        for (name, member) in members {
            table.add_row([name.to_owned(), clean(&member)]);
        }
        write(format!("{}\n", table.trim_fmt()).as_bytes())
    }

    /// Prints one line, or `value` as JSON.
    pub(crate) fn line(&self, value: &impl Serialize, text: &str) -> Result<(), Failure> {
        if self.json { self.as_json(value) } else { write(format!("{}\n", clean(text)).as_bytes()) }
    }

    /// Prints several lines, or `value` as JSON.
    pub(crate) fn lines(
        &self,
        value: &impl Serialize,
        lines: impl IntoIterator<Item = impl AsRef<str>>,
    ) -> Result<(), Failure> {
        if self.json {
            return self.as_json(value);
        }
        let text: String = lines.into_iter().map(|line| clean(line.as_ref()) + "\n").collect();
        write(text.as_bytes())
    }

    /// Prints a text of several lines, such as PEM; in JSON as the only member `name`.
    pub(crate) fn text(&self, name: &str, text: &str) -> Result<(), Failure> {
        if self.json {
            return self.as_json(&serde_json::json!({ name: text }));
        }
        let (text, mut bytes) = (text.trim_end_matches('\n'), Zeroizing::new(Vec::with_capacity(3 * text.len() + 1)));
        for line in text.split('\n') {
            bytes.extend_from_slice(Zeroizing::new(clean(line.trim_end_matches('\r'))).as_bytes());
            bytes.push(b'\n');
        }
        write(&bytes)
    }

    /// Prints that something was done.
    pub(crate) fn done(&self, text: &str) -> Result<(), Failure> {
        self.line(&serde_json::json!({ "done": true }), text)
    }

    fn as_json(&self, value: &impl Serialize) -> Result<(), Failure> {
        let json = Zeroizing::new(serde_json::to_string(value).map_err(local("The result cannot be written as JSON"))?);
        write(escaped(&json).as_bytes())?;
        write(b"\n")
    }
}

/// Writes bytes that others may have chosen: as they are, but no control characters to a terminal.
pub(crate) fn raw(bytes: &[u8]) -> Result<(), Failure> {
    let plain = str::from_utf8(bytes)
        .is_ok_and(|text| !text.chars().any(|c| is_control(c) && !matches!(c, '\n' | '\r' | '\t')));
    if !plain && io::stdout().is_terminal() {
        return Err(Failure::Usage(
            "This is binary data, which must not be written to a terminal: redirect it to a file, or use another format.".into(),
        ));
    }
    write(bytes)
}

/// Writes bytes as they are.
pub(crate) fn write(bytes: &[u8]) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    let written = out.write_all(bytes).and_then(|()| out.flush());
    match written {
        // The reader, such as `head`, needs no more.
        Err(why) if why.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => written.map_err(local("The output cannot be written")),
    }
}

/// Prints a failure on standard error.
pub(crate) fn failure(failure: &Failure, json: bool) {
    let (exit, code) = failure.code();
    let message = failure.to_string();
    let line = if json {
        escaped(&serde_json::json!({ "error": { "code": code, "exit": exit, "message": message } }).to_string())
            .to_string()
    } else {
        format!("casemate: {}", clean(&message))
    };
    // Without standard error, the exit code tells it.
    let _ = writeln!(io::stderr().lock(), "{line}");
}

/// Prints a remark on standard error, beside a result on standard output.
pub(crate) fn remark(text: &str) {
    // Without standard error nobody reads it.
    let _ = writeln!(io::stderr().lock(), "{}", clean(text));
}

/// Prints a warning on standard error.
pub(crate) fn warning(text: &str) {
    // Without standard error nobody reads it.
    let _ = writeln!(io::stderr().lock(), "casemate: warning: {}", clean(text));
}

/// `bytes` as lower-case hex. The text does not move while it grows, so a caller that wipes it leaves no copy.
pub(crate) fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(2 * bytes.len());
    for byte in bytes {
        text.extend([byte >> 4, byte & 15].into_iter().filter_map(|digit| char::from_digit(digit.into(), 16)));
    }
    text
}

/// `text` with control characters replaced, as names and messages come from others (U+FFFD).
pub(crate) fn clean(text: &str) -> String {
    text.chars().map(|c| if is_control(c) { char::REPLACEMENT_CHARACTER } else { c }).collect()
}

/// JSON with control characters escaped. They can only be in strings, as JSON has none elsewhere (RFC 8259 §2).
fn escaped(json: &str) -> Zeroizing<String> {
    let mut escaped = Zeroizing::new(String::with_capacity(json.len()));
    for c in json.chars() {
        match c {
            c if is_control(c) => {
                let _ = write!(escaped, "\\u{:04x}", u32::from(c));
            }
            c => escaped.push(c),
        }
    }
    escaped
}

/// Whether a character could control the terminal: control characters, and those that change the direction of text
/// (Unicode UAX #9).
fn is_control(c: char) -> bool {
    c.is_control() || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hex_has_two_digits_a_byte() {
        assert_eq!(hex(&[0, 0x0f, 0xa0, 0xff]), "000fa0ff");
    }

    #[test]
    fn no_control_characters_reach_the_terminal() {
        let evil = "a\u{1b}[2J\u{9b}31m\u{202e}z";
        assert_eq!(clean(evil), "a\u{fffd}[2J\u{fffd}31m\u{fffd}z");
        let json = serde_json::to_string(evil).unwrap();
        let safe = escaped(&json);
        assert!(safe.is_ascii(), "{}", *safe);
        assert_eq!(serde_json::from_str::<String>(&safe).unwrap(), evil);
    }
}
