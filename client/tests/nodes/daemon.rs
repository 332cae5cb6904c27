//! Real `casemated` processes, provisioned alike.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::{env, fs};

use casemate_api::body::keys::{ImportKey, PrivateParts, Restrictions};
use casemate_api::body::system::Provision;
use casemate_api::body::users::NewUser;
use casemate_api::{KeyId, KeyType, Mechanism, Passphrase, Role, SecretText, UserId};
use casemate_client::{Client, Error, Fingerprint, Session, Settings, Trust};

pub(crate) const UNLOCK: &str = "unlock passphrase";
pub(crate) const ADMIN: &str = "admin passphrase";
pub(crate) const OPERATOR: &str = "operator passphrase";

/// The program, built if need be: no other package's test can ask cargo for it.
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

/// One HSM with a folder of its own. Dropped, it is killed and forgotten.
pub(crate) struct Hsm {
    child: Child,
    folder: PathBuf,
    pub(crate) address: String,
}

impl Hsm {
    /// A fresh one.
    pub(crate) fn start() -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let name = format!("casemate-client-test-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let folder = env::temp_dir().join(name);
        fs::create_dir(&folder).unwrap();
        let (child, address) = spawn(&folder, "127.0.0.1:0");
        Self { child, folder, address }
    }

    /// One that is Operational, with an Operator `op` and an Ed25519 key `k` that is the same everywhere.
    pub(crate) fn operational() -> Self {
        let hsm = Self::start();
        let client = hsm.client();
        let system_time = "2026-01-01T00:00:00Z".into();
        let provision = Provision { unlock_passphrase: secret(UNLOCK), admin_passphrase: secret(ADMIN), system_time };
        client.anonymous().provision(&provision).unwrap();
        let admin = admin(&client);
        let user = NewUser { real_name: String::new(), role: Role::Operator, passphrase: secret(OPERATOR) };
        admin.users().create_as(&UserId::parse("op").unwrap(), &user).unwrap();
        admin.keys().import_as(&key("k"), &ed25519()).unwrap();
        hsm
    }

    /// Ends the process as a power cut does.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Starts it again at the same address; it is Locked then.
    pub(crate) fn restart(&mut self) {
        (self.child, self.address) = spawn(&self.folder, &self.address);
    }

    /// A client for this one alone, which trusts the certificate it shows.
    pub(crate) fn client(&self) -> Client {
        client_of(&[self])
    }
}

impl Drop for Hsm {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.folder);
    }
}

fn spawn(folder: &Path, listen: &str) -> (Child, String) {
    let mut child = Command::new(casemated())
        .args(["--log", "warn", "--listen", listen, "--data-dir"])
        .arg(folder.join("data"))
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

/// What `address` shows to who trusts nobody.
pub(crate) fn fingerprint(address: &str) -> Fingerprint {
    let trust = Trust::Pinned(vec![Fingerprint::of(b"nobody's")]);
    let client = Client::new(Settings { trust, ..Settings::of([address]) }).unwrap();
    match client.anonymous().info() {
        Err(Error::Untrusted { fingerprint, .. }) => fingerprint,
        other => panic!("{other:?}"),
    }
}

/// A client for these nodes, in this order.
pub(crate) fn client_of(nodes: &[&Hsm]) -> Client {
    let trust = Trust::Pinned(nodes.iter().map(|hsm| fingerprint(&hsm.address)).collect());
    Client::new(Settings { trust, ..Settings::of(nodes.iter().map(|hsm| hsm.address.clone())) }).unwrap()
}

pub(crate) fn secret(text: &str) -> Passphrase {
    Passphrase::from_text(text.into())
}

pub(crate) fn admin(client: &Client) -> Session {
    client.log_in(&UserId::parse("admin").unwrap(), secret(ADMIN))
}

pub(crate) fn operator(client: &Client) -> Session {
    client.log_in(&UserId::parse("op").unwrap(), secret(OPERATOR))
}

pub(crate) fn key(id: &str) -> KeyId {
    KeyId::parse(id).unwrap()
}

/// The seed of RFC 8032 §7.1, test 2.
pub(crate) fn ed25519() -> ImportKey {
    let seed = "TM0Imyj/ltqdtsNG7BFOD1uKMZ81q6Yk2oz27U+4pvs=";
    ImportKey {
        mechanisms: vec![Mechanism::EdDSA_Signature],
        key_type: KeyType::Curve25519,
        private: PrivateParts { data: SecretText::from_text(seed.into()), ..PrivateParts::default() },
        restrictions: Restrictions::default(),
        label: String::new(),
    }
}
