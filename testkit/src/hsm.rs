//! Real `casemated` processes, all provisioned in the same way.

use std::env;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use casemate_api::body::cluster::Join;
use casemate_api::body::system::Provision;
use casemate_api::body::users::NewUser;
use casemate_api::{Role, UserId};
use casemate_client::{Client, Error, Fingerprint, Settings, Trust};
use jiff::Timestamp;

use crate::etcd::EtcdServer;
use crate::fixtures::{ADMIN, BACKUP, OPERATOR, UNLOCK, admin, ed25519, key, secret};
use crate::folder::Folder;

/// One `casemated` with its own folder. When it is dropped, the process is killed and the folder deleted.
pub struct Hsm {
    child: Child,
    settings: Vec<String>,
    /// Its folder. `data` in it belongs to the process, the rest to the test.
    pub folder: Folder,
    /// `address:port`.
    pub address: String,
}

impl Hsm {
    /// Starts one that is Unprovisioned.
    pub fn start() -> Self {
        Self::start_with(|_| Vec::new())
    }

    /// Starts one that is Unprovisioned, with further arguments. `settings` returns them and may create the files that
    /// they name in the folder.
    pub fn start_with(settings: impl FnOnce(&Folder) -> Vec<String>) -> Self {
        let folder = Folder::new();
        let settings = settings(&folder);
        let (child, address) = spawn(&folder, "127.0.0.1:0", &settings);
        Self { child, settings, folder, address }
    }

    /// Starts one that is Operational, with the Operator `op`.
    pub fn operational() -> Self {
        let hsm = Self::start();
        hsm.provision();
        hsm
    }

    /// Makes an Unprovisioned one Operational, and adds the Operator `op`.
    pub fn provision(&self) {
        let client = self.client();
        let (unlock_passphrase, admin_passphrase) = (secret(UNLOCK), secret(ADMIN));
        let provision = Provision { unlock_passphrase, admin_passphrase, system_time: now() };
        client.anonymous().provision(&provision).unwrap();
        let user = NewUser { real_name: String::new(), role: Role::Operator, passphrase: secret(OPERATOR) };
        admin(&client).users().create_as(&UserId::parse("op").unwrap(), &user).unwrap();
    }

    /// Starts one that is Operational, with the Operator `op` and the key `k`, see [`ed25519`].
    pub fn with_key() -> Self {
        let hsm = Self::operational();
        admin(&hsm.client()).keys().import_as(&key("k"), &ed25519()).unwrap();
        hsm
    }

    /// The id of the process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Starts the first node of a cluster on `etcd`, Operational and with the Operator `op`.
    pub fn founder(etcd: &EtcdServer) -> Self {
        let hsm = Self::start_with(|_| etcd.settings());
        hsm.provision();
        admin(&hsm.client()).config().set_backup_passphrase(secret(""), secret(BACKUP)).unwrap();
        hsm
    }

    /// Starts a further node beside [`Hsm::founder`], Operational.
    pub fn beside(founder: &Self) -> Self {
        let hsm = Self::start_with(|_| founder.settings.clone());
        let invitation =
            admin(&founder.client()).cluster().add_serving(vec![format!("https://{}", hsm.address)]).unwrap();
        let join = Join {
            members: Vec::new(),
            joiner_kit: invitation.joiner_kit,
            backup_passphrase: secret(BACKUP),
            system_time: Some(now()),
        };
        let client = hsm.client();
        client.anonymous().cluster().join(&join, Duration::from_secs(60)).unwrap();
        client.anonymous().unlock(secret(UNLOCK)).unwrap();
        hsm
    }

    /// Kills the process, as a power cut would.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Starts it again at the same address. If it was provisioned, it is Locked.
    pub fn restart(&mut self) {
        (self.child, self.address) = spawn(&self.folder, &self.address, &self.settings);
    }

    /// Starts it again with further arguments.
    pub fn restart_with(&mut self, arguments: &[&str]) {
        let settings: Vec<String> =
            self.settings.iter().cloned().chain(arguments.iter().map(|one| (*one).into())).collect();
        (self.child, self.address) = spawn(&self.folder, &self.address, &settings);
    }

    /// A client of this HSM alone, with its certificate pinned.
    pub fn client(&self) -> Client {
        client_of(&[self])
    }
}

impl Drop for Hsm {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn now() -> String {
    Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// The path of the program. It is built first, because cargo does not build the binaries of another package for a test.
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

fn spawn(folder: &Folder, listen: &str, settings: &[String]) -> (Child, String) {
    let mut child = Command::new(casemated())
        .args(["--log", "error", "--listen", listen, "--data-dir"])
        .arg(folder.path("data"))
        .args(settings)
        .env_clear()
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
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

/// The fingerprint of the certificate at `address`, found by a client that trusts no certificate.
pub fn fingerprint(address: &str) -> Fingerprint {
    let trust = Trust::Pinned(vec![Fingerprint::of(b"no certificate")]);
    let client = Client::new(Settings { trust, ..Settings::of([address]) }).unwrap();
    match client.anonymous().info() {
        Err(Error::NotPinned { fingerprint, .. }) => fingerprint,
        other => panic!("{other:?}"),
    }
}

/// A client of these nodes, in this order, with their certificates pinned.
pub fn client_of(nodes: &[&Hsm]) -> Client {
    let trust = Trust::Pinned(nodes.iter().map(|hsm| fingerprint(&hsm.address)).collect());
    Client::new(Settings { trust, ..Settings::of(nodes.iter().map(|hsm| hsm.address.clone())) }).unwrap()
}
