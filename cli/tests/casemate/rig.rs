//! A real `casemated`, and `casemate` run against it in an environment of its own.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::{env, fs};

use serde_json::Value;

pub(crate) const UNLOCK: &str = "unlock passphrase";
pub(crate) const ADMIN: &str = "admin passphrase";
pub(crate) const OPERATOR: &str = "operator passphrase";

/// The server, built if need be: no other package's test can ask cargo for it.
fn casemated() -> &'static Path {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| {
        let exe = env::current_exe().unwrap();
        let profile = exe.parent().and_then(Path::parent).unwrap();
        let mut build = Command::new(env!("CARGO"));
        build.args(["build", "--quiet", "--package", "casemate-server"]);
        if profile.ends_with("release") {
            build.arg("--release");
        }
        assert!(build.status().unwrap().success(), "casemated does not build");
        profile.join("casemated")
    })
}

/// A folder that goes with the test.
pub(crate) struct Folder(pub(crate) PathBuf);

impl Folder {
    pub(crate) fn new() -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let name = format!("casemate-cli-test-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let folder = env::temp_dir().join(name);
        fs::create_dir(&folder).unwrap();
        Self(folder)
    }

    /// A file in it; its path as an argument.
    pub(crate) fn file(&self, name: &str, content: impl AsRef<[u8]>) -> String {
        let path = self.0.join(name);
        fs::write(&path, content).unwrap();
        path.to_str().unwrap().to_owned()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// One HSM. Dropped, it is killed and forgotten.
pub(crate) struct Hsm {
    child: Child,
    pub(crate) folder: Folder,
    pub(crate) address: String,
}

impl Hsm {
    /// A fresh one.
    pub(crate) fn start() -> Self {
        let folder = Folder::new();
        let (child, address) = Self::serve(&folder);
        folder.file("unlock", format!("{UNLOCK}\n"));
        folder.file("admin", ADMIN);
        folder.file("op", OPERATOR);
        Self { child, folder, address }
    }

    /// Ends it as a power cut would.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Starts the same HSM again, after [`Hsm::kill`], and unlocks it.
    pub(crate) fn start_again(&mut self) {
        (self.child, self.address) = Self::serve(&self.folder);
        self.nobody(&["unlock", "--unlock-passphrase-file", &self.at("unlock")]).ok();
    }

    fn serve(folder: &Folder) -> (Child, String) {
        let mut child = Command::new(casemated())
            .args(["--log", "warn", "--listen", "127.0.0.1:0", "--data-dir"])
            .arg(folder.0.join("data"))
            .env_clear()
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let address = loop {
            let line = lines.next().expect("it listens").unwrap();
            if let Some((_, address)) = line.split_once(" is listening on https://") {
                break address.to_owned();
            }
        };
        (child, address)
    }

    /// One that is Operational, with an Operator `op`.
    pub(crate) fn operational() -> Self {
        let hsm = Self::start();
        hsm.nobody(&[
            "provision",
            "--unlock-passphrase-file",
            &hsm.at("unlock"),
            "--admin-passphrase-file",
            &hsm.at("admin"),
        ])
        .ok();
        hsm.admin(&["user", "add", "op", "--role", "Operator", "--new-passphrase-file", &hsm.at("op")]).ok();
        hsm
    }

    /// The path of a file in the folder.
    pub(crate) fn at(&self, name: &str) -> String {
        self.folder.0.join(name).to_str().unwrap().to_owned()
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

    /// As a user, with something on standard input.
    pub(crate) fn with(&self, (user, passphrase): (&str, &str), arguments: &[&str], stdin: &[u8]) -> Ran {
        let arguments = [&["--host", &self.address, "--insecure", "--user", user], arguments].concat();
        run(&arguments, &[("CASEMATE_PASSPHRASE", passphrase)], stdin)
    }
}

impl Drop for Hsm {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a run of `casemate` left.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: i32,
    pub(crate) out: Vec<u8>,
    pub(crate) err: String,
}

impl Ran {
    /// What it printed, after exit code 0.
    #[track_caller]
    pub(crate) fn ok(self) -> String {
        assert_eq!((self.code, self.err.as_str()), (0, ""), "{}", String::from_utf8_lossy(&self.out));
        String::from_utf8(self.out).unwrap()
    }

    /// The same as JSON.
    #[track_caller]
    pub(crate) fn json(self) -> Value {
        serde_json::from_str(&self.ok()).unwrap()
    }

    /// What it said on standard error: one line, after this exit code, and nothing printed.
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
    // Who does not read its input closes it.
    let _ = child.stdin.take().unwrap().write_all(stdin);
    let output = child.wait_with_output().unwrap();
    let err = String::from_utf8(output.stderr).unwrap();
    Ran { code: output.status.code().unwrap(), out: output.stdout, err }
}
