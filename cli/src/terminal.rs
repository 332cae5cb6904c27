//! The terminal itself, whatever standard input and output are: for questions, and for what nobody else shall read.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Write};

use crate::exit::{Failure, local};
use crate::render::clean;

/// The terminal this process was started from.
pub(crate) struct Terminal(File);

impl Terminal {
    /// None: there is none, as in scripts.
    pub(crate) fn open() -> Option<Self> {
        OpenOptions::new().read(true).write(true).open("/dev/tty").ok().map(Self)
    }

    /// Shows a line.
    pub(crate) fn say(&self, line: &str) -> Result<(), Failure> {
        self.write(&format!("{}\n", clean(line)))
    }

    /// Asks for yes or no; an empty answer is `otherwise`.
    pub(crate) fn agrees(&self, question: &str, otherwise: Answer) -> Result<bool, Failure> {
        let choice = if otherwise == Answer::Yes { "[Y/n]" } else { "[y/N]" };
        self.write(&format!("{} {choice} ", clean(question)))?;
        let mut line = String::new();
        // A terminal gives one line at a time, so nothing of the next one is taken.
        let read = BufReader::new(&self.0).read_line(&mut line).map_err(local("The terminal cannot be read"))?;
        if read == 0 {
            return Err(Failure::Declined);
        }
        Ok(match line.trim() {
            "" => otherwise == Answer::Yes,
            answer => matches!(answer, "y" | "Y" | "yes"),
        })
    }

    fn write(&self, text: &str) -> Result<(), Failure> {
        (&self.0).write_all(text.as_bytes()).map_err(local("The terminal cannot be written"))
    }
}

/// What an empty answer means.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    Yes,
    No,
}
