//! The module as applications have it: the file that they load, with a configuration, in a process of its own.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::{env, fs};

use casemate_client::{Client, Settings, Trust};
use casemate_testkit::{ADMIN, Folder, Hsm, Network, OPERATOR, fingerprint};
use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use cryptoki::session::Session;

/// The file. cargo builds it with the tests.
pub(crate) fn module() -> PathBuf {
    let exe = env::current_exe().unwrap();
    let path = exe.parent().unwrap().join("libcasemate_pkcs11.so");
    assert!(path.exists(), "{} is not there", path.display());
    path
}

/// A configuration, and the HSM that it names.
pub(crate) struct Rig {
    pub(crate) folder: Folder,
    pub(crate) hsm: Option<Hsm>,
    config: String,
}

/// What a slot tells of its users.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Passphrases {
    /// Neither: PINs are the passphrases.
    None,
    /// That of the Administrator, so that a user may manage keys.
    Administrator,
    /// Both: no PIN is needed.
    Both,
}

impl Rig {
    /// An HSM, with the key `k` of the fixtures, as one slot.
    pub(crate) fn new(passphrases: Passphrases) -> Self {
        let hsm = Hsm::with_key();
        let (folder, config) = configured(&[&hsm], passphrases);
        Self { folder, hsm: Some(hsm), config }
    }

    /// These nodes, which somebody else keeps, as one slot.
    pub(crate) fn of(nodes: &[&Hsm]) -> Self {
        let (folder, config) = configured(nodes, Passphrases::None);
        Self { folder, hsm: None, config }
    }

    /// Slots whose HSMs cannot be reached.
    pub(crate) fn without_hsm() -> Self {
        let folder = Folder::new();
        let slot = |label| {
            format!(
                "[[slot]]\nlabel = \"{label}\"\nhosts = [\"127.0.0.1:1\"]\ninsecure = true\noperator = {{ user = \"op\" }}\n"
            )
        };
        let config = folder.file("pkcs11.toml", slot("one") + &slot("two"));
        Self { folder, hsm: None, config }
    }

    /// A command whose process finds this configuration.
    pub(crate) fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        self.configure(Command::new(program))
    }

    fn configure(&self, mut command: Command) -> Command {
        command.env("CASEMATE_PKCS11_CONFIG", &self.config).env("CASEMATE_PKCS11_LOG", "stderr");
        command
    }

    /// Adds lines to the configuration of the slot.
    pub(crate) fn add_setting(&self, lines: &str) {
        let config = fs::read_to_string(&self.config).unwrap();
        fs::write(&self.config, config + lines).unwrap();
    }

    /// Builds a program of `tests/c` and runs it with the module as its first argument.
    pub(crate) fn run_c(&self, name: &str, arguments: &[&str]) {
        let program = self.built(name);
        succeeds(self.command(&program).arg(module()).args(arguments));
    }

    /// Builds a program of `tests/c`.
    pub(crate) fn built(&self, name: &str) -> String {
        let program = self.folder.at(name);
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/c").join(format!("{name}.c"));
        let mut cc = Command::new("cc");
        cc.args(["-std=gnu11", "-O1", "-g", "-Wall", "-Werror", "-pthread", "-I/usr/include/p11-kit-1", "-o"]);
        succeeds(cc.arg(&program).arg(source).arg("-ldl"));
        program
    }

    /// That of its HSM; empty: somebody else keeps that.
    fn address(&self) -> &str {
        self.hsm.as_ref().map_or("", |hsm| &hsm.address)
    }

    /// Runs the test `name` once more in a process of its own, in which [`inside`] is true.
    pub(crate) fn run_again(&self, name: &str) {
        self.run_again_by(Command::new(env::current_exe().unwrap()), name);
    }

    /// The same at a node of a network.
    pub(crate) fn run_again_at(&self, network: &Network, node: usize, name: &str) {
        self.run_again_by(network.command(node, env::current_exe().unwrap().to_str().unwrap()), name);
    }

    fn run_again_by(&self, program: Command, name: &str) {
        let mut command = self.configure(program);
        succeeds(command.args(["--exact", name, "--nocapture", "--test-threads=1"]).env(INSIDE, self.address()));
    }
}

/// A folder with a configuration of these nodes as one slot, and its path.
fn configured(nodes: &[&Hsm], passphrases: Passphrases) -> (Folder, String) {
    let folder = Folder::new();
    let hosts: Vec<&str> = nodes.iter().map(|hsm| hsm.address.as_str()).collect();
    let pins: Vec<String> = hosts.iter().map(|address| fingerprint(address).to_string()).collect();
    let (admin, op) = (folder.file("admin", ADMIN), folder.file("op", OPERATOR));
    let admin = match passphrases {
        Passphrases::None => String::new(),
        Passphrases::Administrator | Passphrases::Both => format!(", passphrase-file = {admin:?}"),
    };
    let op = if passphrases == Passphrases::Both { format!(", passphrase-file = {op:?}") } else { String::new() };
    let config = format!(
        "[[slot]]\nlabel = \"test\"\nhosts = {hosts:?}\npin = {pins:?}\n\
         operator = {{ user = \"op\"{op} }}\nadministrator = {{ user = \"admin\"{admin} }}\n"
    );
    let config = folder.file("pkcs11.toml", config);
    (folder, config)
}

const INSIDE: &str = "CASEMATE_PKCS11_TEST_INSIDE";

/// Whether this process has a configuration of its own.
pub(crate) fn inside() -> bool {
    env::var_os(INSIDE).is_some()
}

/// A client of the HSM, in such a process.
pub(crate) fn client() -> Client {
    let address = env::var(INSIDE).unwrap();
    let trust = Trust::Pinned(vec![fingerprint(&address)]);
    Client::new(Settings { trust, ..Settings::of([address]) }).unwrap()
}

/// Runs a command that must succeed.
pub(crate) fn succeeds(command: &mut Command) -> Output {
    let output = command.output().unwrap_or_else(|why| panic!("{command:?}: {why}"));
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{command:?}: {}\n{out}\n{err}", output.status);
    output
}

/// The module, initialised in this process.
pub(crate) fn initialized() -> Pkcs11 {
    let pkcs11 = Pkcs11::new(module()).unwrap();
    pkcs11.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK)).unwrap();
    pkcs11
}

/// A read/write session of the first slot.
pub(crate) fn session(pkcs11: &Pkcs11) -> Session {
    let slot = pkcs11.get_slots_with_token().unwrap()[0];
    pkcs11.open_rw_session(slot).unwrap()
}
