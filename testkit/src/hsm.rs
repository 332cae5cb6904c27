//! Real `casemated` processes, all provisioned in the same way.

use std::env;
use std::io::{BufRead, BufReader};
use std::net::{IpAddr, SocketAddr};
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
use crate::net::Place;
use crate::process::{mortal, spawn};

/// One `casemated` with its own folder. When it is dropped, the process is killed and the folder deleted.
pub struct Hsm {
    child: Child,
    /// `None`: where the test process is.
    place: Option<Place>,
    settings: Vec<String>,
    /// Its folder. `data` in it belongs to the process, the rest to the test.
    pub folder: Folder,
    /// `address:port`, the first one.
    pub address: String,
    addresses: Vec<String>,
}

impl Hsm {
    /// Starts one that is Unprovisioned.
    pub fn start() -> Self {
        Self::start_with(|_| Vec::new())
    }

    /// Starts one that is Unprovisioned, with further arguments. `settings` returns them and may create the files that
    /// they name in the folder.
    pub fn start_with(settings: impl FnOnce(&Folder) -> Vec<String>) -> Self {
        Self::start_somewhere(None, &["127.0.0.1:0".into()], settings)
    }

    /// As [`Hsm::start_with`], at port 8443 of both addresses of a node. It must be dropped before the network.
    pub fn start_at(place: &Place, settings: impl FnOnce(&Folder) -> Vec<String>) -> Self {
        let addresses = [place.v4.into(), place.v6.into()].map(|ip: IpAddr| SocketAddr::new(ip, 8443).to_string());
        Self::start_somewhere(Some(place.clone()), &addresses, settings)
    }

    fn start_somewhere(place: Option<Place>, listen: &[String], settings: impl FnOnce(&Folder) -> Vec<String>) -> Self {
        let folder = Folder::new();
        let settings = settings(&folder);
        let (child, addresses) = start_process(place.as_ref(), &folder, listen, &settings);
        Self { child, place, settings, folder, address: addresses[0].clone(), addresses }
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
        hsm.found();
        hsm
    }

    /// Provisions an Unprovisioned one as the first node of a cluster.
    pub fn found(&self) {
        self.provision();
        admin(&self.client()).config().set_backup_passphrase(secret(""), secret(BACKUP)).unwrap();
    }

    /// Starts a further node beside [`Hsm::founder`], Operational.
    pub fn beside(founder: &Self) -> Self {
        let hsm = Self::start_with(|_| founder.settings.clone());
        hsm.join(founder);
        hsm
    }

    /// Makes an Unprovisioned one with the same shared store a further node beside [`Hsm::found`], Operational.
    pub fn join(&self, founder: &Self) {
        let invitation =
            admin(&founder.client()).cluster().add_serving(vec![format!("https://{}", self.address)]).unwrap();
        let join = Join {
            members: Vec::new(),
            joiner_kit: invitation.joiner_kit,
            backup_passphrase: secret(BACKUP),
            system_time: Some(now()),
        };
        let client = self.client();
        client.anonymous().cluster().join(&join, Duration::from_secs(60)).unwrap();
        client.anonymous().unlock(secret(UNLOCK)).unwrap();
    }

    /// Kills the process, as a power cut would.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Starts it again at the same address. If it was provisioned, it is Locked.
    pub fn restart(&mut self) {
        self.restart_with(&[]);
    }

    /// Starts it again with further arguments.
    pub fn restart_with(&mut self, arguments: &[&str]) {
        let settings: Vec<String> =
            self.settings.iter().cloned().chain(arguments.iter().map(|one| (*one).into())).collect();
        (self.child, _) = start_process(self.place.as_ref(), &self.folder, &self.addresses, &settings);
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

/// Returns the process and the addresses at which it listens.
fn start_process(
    place: Option<&Place>,
    folder: &Folder,
    listen: &[String],
    settings: &[String],
) -> (Child, Vec<String>) {
    // Without PATH it finds no etcd of this machine.
    let mut command = mortal("env", place);
    command
        .args(["-u", "PATH"])
        .arg(casemated())
        .args(["--log", "error", "--data-dir"])
        .arg(folder.path("data"))
        .args(settings);
    command.args(listen.iter().map(|address| format!("--listen={address}")));
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    let mut child = spawn(command).expect("setpriv (Debian: util-linux) starts casemated");
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let addresses = loop {
        let line = lines.next().expect("it listens").unwrap();
        if let Some((_, urls)) = line.split_once(" is listening on https://") {
            break urls.split(", https://").map(str::to_owned).collect();
        }
    };
    (child, addresses)
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
