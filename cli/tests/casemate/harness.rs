//! `casemate` run against a real `casemated`, in an environment of its own.

use std::env;
use std::io::Write;
use std::ops::{Deref, DerefMut};
use std::process::{Command, Stdio};

pub(crate) use casemate_testkit::{ADMIN, EtcdServer, Folder, OPERATOR, UNLOCK, Vendor};
use casemate_testkit::{etcd, free_port};
use serde_json::Value;

/// One HSM, and runs of `casemate` with it.
pub(crate) struct Hsm(casemate_testkit::Hsm);

impl Deref for Hsm {
    type Target = casemate_testkit::Hsm;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl DerefMut for Hsm {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.0
    }
}

impl Hsm {
    /// Starts one that is Unprovisioned.
    pub(crate) fn start() -> Self {
        Self::with_files(casemate_testkit::Hsm::start())
    }

    /// Starts one that is Operational, with the Operator `op`.
    pub(crate) fn operational() -> Self {
        Self::with_files(casemate_testkit::Hsm::operational())
    }

    /// Starts one that is Operational and takes the updates of [`Vendor`].
    pub(crate) fn updatable() -> Self {
        let hsm = casemate_testkit::Hsm::start_with(Vendor::settings);
        hsm.provision();
        Self::with_files(hsm)
    }

    /// Starts one that is Operational and can run an etcd of its own.
    pub(crate) fn with_etcd() -> Self {
        let program = format!("--etcd-program={}", etcd().display());
        let listen = format!("--peer-listen=127.0.0.1:{}", free_port());
        let hsm = casemate_testkit::Hsm::start_with(|_| vec![program, listen]);
        hsm.provision();
        Self::with_files(hsm)
    }

    /// Starts the first node of a store that others may share.
    pub(crate) fn founder(etcd: &EtcdServer) -> Self {
        Self::with_files(casemate_testkit::Hsm::founder(etcd))
    }

    /// Starts two nodes that share a store.
    pub(crate) fn pair(etcd: &EtcdServer) -> [Self; 2] {
        let first = casemate_testkit::Hsm::founder(etcd);
        let second = casemate_testkit::Hsm::beside(&first);
        [first, second].map(Self::with_files)
    }

    /// Adds files with the passphrases.
    fn with_files(hsm: casemate_testkit::Hsm) -> Self {
        hsm.folder.file("unlock", format!("{UNLOCK}\n"));
        hsm.folder.file("admin", ADMIN);
        hsm.folder.file("op", OPERATOR);
        Self(hsm)
    }

    /// The path of a file in the folder.
    pub(crate) fn at(&self, name: &str) -> String {
        self.folder.at(name)
    }

    pub(crate) fn nobody(&self, arguments: &[&str]) -> Ran {
        run(&[&["--host", &self.address, "--insecure"], arguments].concat(), &[], b"")
    }

    pub(crate) fn admin(&self, arguments: &[&str]) -> Ran {
        self.with(("admin", ADMIN), arguments, b"")
    }

    pub(crate) fn operator(&self, arguments: &[&str]) -> Ran {
        self.with(("op", OPERATOR), arguments, b"")
    }

    /// Runs `casemate` as a user, with `stdin` on standard input.
    pub(crate) fn with(&self, (user, passphrase): (&str, &str), arguments: &[&str], stdin: &[u8]) -> Ran {
        let arguments = [&["--host", &self.address, "--insecure", "--user", user], arguments].concat();
        run(&arguments, &[("CASEMATE_PASSPHRASE", passphrase)], stdin)
    }
}

/// The result of a run of `casemate`.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: i32,
    pub(crate) out: Vec<u8>,
    pub(crate) err: String,
}

impl Ran {
    /// Its standard output; it must have ended with code 0 and without a word on standard error.
    #[track_caller]
    pub(crate) fn ok(self) -> String {
        assert_eq!((self.code, self.err.as_str()), (0, ""), "{}", String::from_utf8_lossy(&self.out));
        String::from_utf8(self.out).unwrap()
    }

    /// Its standard output as JSON, on the same conditions.
    #[track_caller]
    pub(crate) fn json(self) -> Value {
        serde_json::from_str(&self.ok()).unwrap()
    }

    /// Its standard error; it must have ended with `code`, one line on standard error, and nothing on standard output.
    #[track_caller]
    pub(crate) fn fails(self, code: i32) -> String {
        assert_eq!((self.code, self.out.as_slice()), (code, b"".as_slice()), "{}", self.err);
        assert_eq!(self.err.lines().count(), 1, "{}", self.err);
        self.err
    }
}

/// Runs `casemate` without a terminal.
pub(crate) fn run(arguments: &[&str], environment: &[(&str, &str)], stdin: &[u8]) -> Ran {
    let mut child = Command::new("setsid")
        .args(["--wait", env!("CARGO_BIN_EXE_casemate")])
        .args(arguments)
        .env_clear()
        .env("PATH", env::var_os("PATH").unwrap())
        .envs(environment.iter().copied())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A command that does not read its input closes it.
    let _ = child.stdin.take().unwrap().write_all(stdin);
    let output = child.wait_with_output().unwrap();
    let err = String::from_utf8(output.stderr).unwrap();
    Ran { code: output.status.code().unwrap(), out: output.stdout, err }
}
