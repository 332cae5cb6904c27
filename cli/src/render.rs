//! What commands print: tables and sentences for people, JSON with stable members for scripts.

use std::io::{self, Write};

use comfy_table::{Table, presets};
use serde::Serialize;

use crate::exit::{Failure, local};

/// Where and how a command prints.
pub(crate) struct Out {
    /// JSON instead of tables.
    pub(crate) json: bool,
}

impl Out {
    /// A list: one row an item.
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

    /// One thing: one row a member.
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

    /// Some lines for people; for scripts the value.
    pub(crate) fn lines(&self, value: &impl Serialize, lines: &[String]) -> Result<(), Failure> {
        if self.json {
            return self.as_json(value);
        }
        write(lines.iter().map(|line| clean(line) + "\n").collect::<String>().as_bytes())
    }

    /// One line for people; for scripts the value.
    pub(crate) fn line(&self, value: &impl Serialize, text: &str) -> Result<(), Failure> {
        if self.json { self.as_json(value) } else { write(format!("{}\n", clean(text)).as_bytes()) }
    }

    /// Text as it is, such as PEM; in JSON as the only member `name`.
    pub(crate) fn text(&self, name: &str, text: &str) -> Result<(), Failure> {
        if self.json {
            return self.as_json(&serde_json::json!({ name: text }));
        }
        let end = if text.ends_with('\n') { "" } else { "\n" };
        write(format!("{text}{end}").as_bytes())
    }

    /// That something was done.
    pub(crate) fn done(&self, text: &str) -> Result<(), Failure> {
        self.line(&serde_json::json!({ "done": true }), text)
    }

    fn as_json(&self, value: &impl Serialize) -> Result<(), Failure> {
        let mut json = serde_json::to_string(value).map_err(local("The result is no JSON"))?;
        json.push('\n');
        write(json.as_bytes())
    }
}

/// Writes bytes as they are.
pub(crate) fn write(bytes: &[u8]) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    let written = out.write_all(bytes).and_then(|()| out.flush());
    match written {
        // The reader, such as `head`, has seen enough.
        Err(why) if why.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => written.map_err(local("The output cannot be written")),
    }
}

/// Says a failure on standard error.
pub(crate) fn failure(failure: &Failure, json: bool) {
    let (exit, code) = failure.code();
    let message = failure.to_string();
    let line = if json {
        serde_json::json!({ "error": { "code": code, "exit": exit, "message": message } }).to_string()
    } else {
        format!("casemate: {}", clean(&message))
    };
    // Without standard error there is nobody left to tell; the exit code still does.
    let _ = writeln!(io::stderr().lock(), "{line}");
}

/// Names and messages come from others: what could steer the terminal is shown as a mark.
fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c }).collect()
}
