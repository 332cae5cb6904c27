//! A real `casemated` process in a folder of its own, and a client for it.
//!
//! The client accepts every certificate: these tests are about the process, and talk to it over loopback.

#![allow(dead_code, reason = "each test binary uses its part")]

pub(crate) mod dice;

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, ExitStatus, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use casemate_testkit::Place;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use ureq::tls::{TlsConfig, TlsProvider};

/// The program under test.
pub(crate) const CASEMATED: &str = env!("CARGO_BIN_EXE_casemated");

/// The unlock passphrase of every test.
pub(crate) const UNLOCK: &str = "unlock passphrase";
/// The administrator's passphrase of every test.
pub(crate) const ADMIN: &str = "admin passphrase";

/// An empty folder, removed when dropped.
pub(crate) struct Folder(PathBuf);

impl Folder {
    pub(crate) fn new() -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let name = format!("casemated-test-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    /// The data folder of the process; not created yet.
    pub(crate) fn data(&self) -> PathBuf {
        self.0.join("data")
    }

    /// A file beside the data.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// Copies the data of this folder to where a process of another folder expects it.
    pub(crate) fn copy_data_to(&self, other: &Folder) {
        let _ = fs::remove_dir_all(other.data());
        fs::create_dir(other.data()).unwrap();
        for entry in fs::read_dir(self.data()).unwrap() {
            let entry = entry.unwrap();
            fs::copy(entry.path(), other.data().join(entry.file_name())).unwrap();
        }
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// `casemated` with these arguments, and no environment but what is given here.
pub(crate) fn casemated(args: &[&str]) -> Command {
    let mut command = Command::new(CASEMATED);
    command.args(args).env_clear().stdin(Stdio::null());
    command
}

/// `casemated` on the data of `folder`, at a port chosen by the kernel.
pub(crate) fn on(folder: &Folder, more: &[&str]) -> Command {
    let mut command = casemated(&["--listen", "127.0.0.1:0", "--data-dir"]);
    command.arg(folder.data()).args(more);
    command
}

/// Runs until the process exits, which must happen within 20 s, and returns its output.
pub(crate) fn run(command: &mut Command) -> Output {
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    if wait(&mut child, Duration::from_secs(20)).is_none() {
        child.kill().unwrap();
        let output = child.wait_with_output().unwrap();
        panic!("it did not end: {}", String::from_utf8_lossy(&output.stderr));
    }
    child.wait_with_output().unwrap()
}

fn wait(child: &mut Child, limit: Duration) -> Option<ExitStatus> {
    let begun = Instant::now();
    while begun.elapsed() < limit {
        if let Some(status) = child.try_wait().unwrap() {
            return Some(status);
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    None
}

/// A process that listens. Dropped, it is killed.
pub(crate) struct Daemon {
    child: Child,
    stdout: BufReader<ChildStdout>,
    log: PathBuf,
    /// Its address and port.
    pub(crate) address: String,
    /// The lines of standard output up to the one with the listen address.
    pub(crate) first_lines: Vec<String>,
    /// From the start of the process to that line.
    pub(crate) took: Duration,
}

impl Daemon {
    /// Starts it at a node of a network, at port 8443 of both addresses.
    pub(crate) fn start_at(place: &Place, folder: &Folder, more: &[&str]) -> Self {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &place.namespace, CASEMATED, "--data-dir"]).arg(folder.data()).args(more);
        command.arg(format!("--listen={}:8443", place.v4)).arg(format!("--listen=[{}]:8443", place.v6));
        command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default()).stdin(Stdio::null());
        Self::start_by(folder, &mut command)
    }

    /// Starts it on the data of `folder` and waits until it listens.
    pub(crate) fn start(folder: &Folder) -> Self {
        Self::start_with(folder, &["--log", "warn"])
    }

    /// The same with further arguments.
    pub(crate) fn start_with(folder: &Folder, more: &[&str]) -> Self {
        let mut command = on(folder, more);
        Self::start_by(folder, &mut command)
    }

    /// The same by a command that starts it on the data of `folder`, wherever that is.
    pub(crate) fn start_by(folder: &Folder, command: &mut Command) -> Self {
        let begun = Instant::now();
        let mut child = Self::spawn_by(folder, command);
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let log = folder.file("log");
        let mut daemon =
            Self { child, stdout, log, address: String::new(), first_lines: Vec::new(), took: Duration::ZERO };
        daemon.await_listening();
        daemon.took = begun.elapsed();
        daemon
    }

    /// Starts it and returns at once.
    pub(crate) fn spawn(folder: &Folder, more: &[&str]) -> Child {
        Self::spawn_by(folder, &mut on(folder, more))
    }

    fn spawn_by(folder: &Folder, command: &mut Command) -> Child {
        let log = File::options().create(true).append(true).open(folder.file("log")).unwrap();
        command.stdout(Stdio::piped()).stderr(log).spawn().unwrap()
    }

    /// Reads standard output up to the line with the listen address.
    fn await_listening(&mut self) {
        loop {
            let Some(line) = self.line() else {
                let _ = self.child.kill();
                panic!("it ended with {:?} before it listened: {}", self.child.wait(), self.log());
            };
            self.first_lines.push(line.clone());
            if let Some((_, address)) = line.split_once(" is listening on https://") {
                // The first one, if there are several.
                let address = address.split(',').next().unwrap_or(address);
                address.clone_into(&mut self.address);
                return;
            }
        }
    }

    /// The next line of standard output; `None` once the process has closed it.
    pub(crate) fn line(&mut self) -> Option<String> {
        let mut line = String::new();
        match self.stdout.read_line(&mut line).unwrap() {
            0 => None,
            _ => Some(line.trim_end().to_owned()),
        }
    }

    /// Everything every process of this folder has logged.
    pub(crate) fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap()).into_owned()
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// A client without credentials. Clones of it share connections.
    pub(crate) fn client(&self) -> Client {
        Client::new(&self.address)
    }

    /// Kills it, which for the process is like a power cut.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Waits up to 20 s for the exit code.
    pub(crate) fn exit_code(&mut self) -> Option<i32> {
        wait(&mut self.child, Duration::from_secs(20)).expect("it ends").code()
    }

    /// Terminates it with SIGTERM, and returns its exit code and what it printed after the listen address.
    pub(crate) fn terminate(mut self) -> (Option<i32>, String) {
        self.signal(Signal::TERM);
        let code = self.exit_code();
        let lines: Vec<_> = std::iter::from_fn(|| self.line()).collect();
        (code, lines.join("\n"))
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// One HTTPS client; its connections are kept.
#[derive(Clone)]
pub(crate) struct Client {
    agent: ureq::Agent,
    base: String,
    authorization: Option<String>,
}

/// A reply.
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// Its `Casemate-Note`.
    pub(crate) note: Option<String>,
    /// Its `Casemate-Stale`.
    pub(crate) stale: Option<u64>,
    pub(crate) bytes: Vec<u8>,
}

impl Answer {
    /// The body as JSON, `Null` if it is not JSON.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.bytes).unwrap_or_default()
    }

    /// Returns the answer if it has this status; panics otherwise.
    #[track_caller]
    pub(crate) fn expect(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{}", String::from_utf8_lossy(&self.bytes));
        self
    }
}

impl Client {
    fn new(address: &str) -> Self {
        Self { agent: agent(), base: format!("https://{address}/api/v1"), authorization: None }
    }

    /// The same credentials with connections of its own.
    pub(crate) fn alone(&self) -> Self {
        Self { agent: agent(), ..self.clone() }
    }

    /// The same connections with a user's credentials.
    pub(crate) fn log_in(&self, user: &str, passphrase: &str) -> Self {
        let basic = BASE64_STANDARD.encode(format!("{user}:{passphrase}"));
        Self { authorization: Some(format!("Basic {basic}")), ..self.clone() }
    }

    /// One request. `Err`: there was no complete answer, so the request may or may not have been carried out.
    pub(crate) fn call(&self, method: &str, path: &str, body: Option<&Value>) -> Result<Answer, ureq::Error> {
        match body {
            Some(body) => self.send(method, path, "application/json", body.to_string().into_bytes()),
            None => answer(self.agent.run(self.request(method, path).body(()).unwrap())?),
        }
    }

    /// `PUT` of a certificate in PEM.
    pub(crate) fn put_pem(&self, path: &str, pem: &str) -> Answer {
        self.try_put_pem(path, pem).unwrap()
    }

    /// The same, for a process that may end meanwhile.
    pub(crate) fn try_put_pem(&self, path: &str, pem: &str) -> Result<Answer, ureq::Error> {
        self.send("PUT", path, "application/x-pem-file", pem.into())
    }

    /// `POST /system/restore`, with a body that takes as long as `body` does: what [`Client::restore_body`] returns.
    pub(crate) fn restore_from(&self, body: impl std::io::Read + 'static) -> Result<Answer, ureq::Error> {
        let request =
            self.request("POST", "/system/restore").header("content-type", "multipart/form-data; boundary=part");
        answer(self.agent.run(request.body(ureq::SendBody::from_owned_reader(body)).unwrap())?)
    }

    /// `POST /system/restore`
    pub(crate) fn restore(&self, arguments: &Value, backup: &[u8]) -> Result<Answer, ureq::Error> {
        let body = Self::restore_body(arguments, backup);
        self.send("POST", "/system/restore", "multipart/form-data; boundary=part", body)
    }

    /// The body of `POST /system/restore`.
    pub(crate) fn restore_body(arguments: &Value, backup: &[u8]) -> Vec<u8> {
        let mut body = format!("--part\r\ncontent-disposition: form-data; name=\"arguments\"\r\n\r\n{arguments}\r\n");
        body.push_str("--part\r\ncontent-disposition: form-data; name=\"backup_file\"\r\n\r\n");
        [body.as_bytes(), backup, b"\r\n--part--\r\n"].concat()
    }

    /// One request with a body of any kind.
    pub(crate) fn send(&self, method: &str, path: &str, kind: &str, body: Vec<u8>) -> Result<Answer, ureq::Error> {
        let request = self.request(method, path).header("content-type", kind).body(body);
        answer(self.agent.run(request.unwrap())?)
    }

    fn request(&self, method: &str, path: &str) -> ureq::http::request::Builder {
        let request = ureq::http::Request::builder().method(method).uri(format!("{}{path}", self.base));
        match &self.authorization {
            Some(authorization) => request.header("authorization", authorization),
            None => request,
        }
    }

    /// The state of the HSM.
    pub(crate) fn state(&self) -> String {
        let answer = self.call("GET", "/health/state", None).unwrap().expect(200);
        answer.json()["state"].as_str().unwrap().to_owned()
    }

    /// `POST /provision` with the passphrases of this file.
    pub(crate) fn provision(&self) -> Result<Answer, ureq::Error> {
        let body = json!({
            "unlockPassphrase": UNLOCK, "adminPassphrase": ADMIN, "systemTime": "2026-01-01T00:00:00Z",
        });
        self.call("POST", "/provision", Some(&body))
    }

    /// `POST /unlock`
    pub(crate) fn unlock(&self, passphrase: &str) -> Answer {
        self.call("POST", "/unlock", Some(&json!({ "passphrase": passphrase }))).unwrap()
    }

    /// Creates an Operator.
    pub(crate) fn create_operator(&self, name: &str, passphrase: &str) {
        let body = json!({ "realName": "", "role": "Operator", "passphrase": passphrase });
        self.call("PUT", &format!("/users/{name}"), Some(&body)).unwrap().expect(201);
    }

    /// Turns unattended boot on or off.
    pub(crate) fn boot_unattended(&self, status: &str) {
        self.call("PUT", "/config/unattended-boot", Some(&json!({ "status": status }))).unwrap().expect(204);
    }
}

fn answer(mut response: ureq::http::Response<ureq::Body>) -> Result<Answer, ureq::Error> {
    let bytes = response.body_mut().with_config().limit(100 << 20).read_to_vec()?;
    let note = response.headers().get("casemate-note").map(|note| note.to_str().unwrap().to_owned());
    let stale = response.headers().get("casemate-stale").map(|age| age.to_str().unwrap().parse().unwrap());
    Ok(Answer { status: response.status().as_u16(), note, stale, bytes })
}

fn agent() -> ureq::Agent {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let tls = TlsConfig::builder()
        .provider(TlsProvider::Rustls)
        .unversioned_rustls_crypto_provider(provider)
        .disable_verification(true)
        .build();
    let config = ureq::Agent::config_builder()
        .tls_config(tls)
        .proxy(None)
        .http_status_as_error(false)
        .timeout_global(Some(Duration::from_secs(60)))
        .build();
    config.into()
}
