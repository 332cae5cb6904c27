//! `casemate` on a terminal: a pseudo terminal whose other end the test reads and types on.

use std::env;
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::process::{Child, Command, Stdio};
use std::thread;

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, tcgetattr};

/// A running `casemate`, and the person in front of it.
pub(crate) struct Person {
    child: Child,
    screen: File,
    /// What was shown and not yet waited for.
    unread: String,
}

impl Person {
    /// Starts it with standard input and error on the terminal; standard output is kept apart.
    pub(crate) fn runs(arguments: &[&str], environment: &[(&str, &str)]) -> Self {
        let screen = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&screen).unwrap();
        unlockpt(&screen).unwrap();
        let name = ptsname(&screen, Vec::new()).unwrap().into_string().unwrap();
        let end = || Stdio::from(OpenOptions::new().read(true).write(true).open(&name).unwrap());
        let child = Command::new("setsid")
            .args(["--ctty", "--wait", env!("CARGO_BIN_EXE_casemate")])
            .args(arguments)
            .env_clear()
            .env("PATH", env::var_os("PATH").unwrap())
            .envs(environment.iter().copied())
            .stdin(end())
            .stdout(Stdio::piped())
            .stderr(end())
            .spawn()
            .unwrap();
        Self { child, screen: File::from(screen), unread: String::new() }
    }

    /// Waits until this is shown; what stood before it.
    #[track_caller]
    pub(crate) fn sees(&mut self, text: &str) -> String {
        loop {
            if let Some((before, after)) = self.unread.split_once(text) {
                let (before, after) = (before.to_owned(), after.to_owned());
                self.unread = after;
                return before;
            }
            assert!(self.read(), "instead of {text:?}: {:?}", self.unread);
        }
    }

    /// Types a line.
    pub(crate) fn types(&mut self, line: &str) {
        self.screen.write_all(format!("{line}\n").as_bytes()).unwrap();
    }

    /// Waits until nothing that is typed is shown, then types a line.
    pub(crate) fn types_unseen(&mut self, line: &str) {
        while tcgetattr(&self.screen).unwrap().local_modes.contains(LocalModes::ECHO) {
            thread::yield_now();
        }
        self.types(line);
    }

    /// Waits for the end: exit code, standard output, and the rest of what was shown.
    pub(crate) fn ends(mut self) -> (i32, String, String) {
        while self.read() {}
        let mut out = String::new();
        self.child.stdout.take().unwrap().read_to_string(&mut out).unwrap();
        (self.child.wait().unwrap().code().unwrap(), out, self.unread)
    }

    /// Reads on; `false` when everybody has left the terminal.
    fn read(&mut self) -> bool {
        let mut buffer = [0; 4096];
        match self.screen.read(&mut buffer) {
            Ok(read) => {
                self.unread.push_str(str::from_utf8(&buffer[..read]).unwrap());
                read > 0
            }
            // Linux returns an error when the last process has closed its end.
            Err(_) => false,
        }
    }
}
