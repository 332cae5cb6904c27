//! The terminal itself, wherever standard input and output go: for questions, and for output that must not be redirected.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Write};

use crate::exit::{Failure, local};
use crate::render::clean;

/// The controlling terminal of this process.
pub(crate) struct Terminal(File);

impl Terminal {
    /// Opens it; `None` if there is none, as in scripts.
    pub(crate) fn open() -> Option<Self> {
        OpenOptions::new().read(true).write(true).open("/dev/tty").ok().map(Self)
    }

    /// Shows a line.
    pub(crate) fn show(&self, line: &str) -> Result<(), Failure> {
        self.write(&format!("{}\n", clean(line)))
    }

    /// Asks a question; an empty answer counts as `default`.
    pub(crate) fn ask_yes_no(&self, question: &str, default: DefaultAnswer) -> Result<bool, Failure> {
        let choice = if default == DefaultAnswer::Yes { "[Y/n]" } else { "[y/N]" };
        self.write(&format!("{} {choice} ", clean(question)))?;
        let mut line = String::new();
        // A terminal returns one line at a time, so nothing of the next one is read.
        let read = BufReader::new(&self.0).read_line(&mut line).map_err(local("The terminal cannot be read"))?;
        if read == 0 {
            return Err(Failure::Declined);
        }
        Ok(match line.trim() {
            "" => default == DefaultAnswer::Yes,
            answer => matches!(answer, "y" | "Y" | "yes"),
        })
    }

    fn write(&self, text: &str) -> Result<(), Failure> {
        (&self.0).write_all(text.as_bytes()).map_err(local("The terminal cannot be written"))
    }
}

/// What an empty answer counts as.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum DefaultAnswer {
    Yes,
    No,
}
