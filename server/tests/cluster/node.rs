//! A `casemated` with a store of its own that can become a member of a cluster, as an operator sets it up.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use casemate_testkit::{EtcdCertificates, etcd, free_port};
use serde_json::{Value, json};

use super::daemon::{Answer, Client, Daemon, Folder};

/// The backup passphrase of the nodes that have one.
pub(crate) const BACKUP: &str = "backup passphrase";

/// The passphrase of the Operator `op` of each node.
pub(crate) const OPERATOR: &str = "operator passphrase";

/// Time for what comes soon, on a machine that is busy with other tests.
pub(crate) const SOON: Duration = Duration::from_secs(120);

/// A process and its folder.
pub(crate) struct Node {
    /// Its user, key and passphrases carry this name until it joins others.
    name: &'static str,
    pub(crate) folder: Folder,
    peer: SocketAddr,
    /// Where its etcd serves nodes without a vote, if it does.
    clients: Option<SocketAddr>,
    daemon: Option<Daemon>,
}

impl Node {
    /// Starts a node and provisions it, with the Operator `op` and one key, both its own, and a certificate of the CA.
    pub(crate) fn start(name: &'static str, certificates: &EtcdCertificates) -> Self {
        Self::start_with(name, certificates, None)
    }

    /// The same, and its etcd serves nodes without a vote.
    pub(crate) fn start_open(name: &'static str, certificates: &EtcdCertificates) -> Self {
        Self::start_with(name, certificates, Some(SocketAddr::from(([127, 0, 0, 1], free_port()))))
    }

    fn start_with(name: &'static str, certificates: &EtcdCertificates, clients: Option<SocketAddr>) -> Self {
        let peer = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let mut node = Self { name, folder: Folder::new(), peer, clients, daemon: None };
        node.start_process();
        node.provision(certificates);
        node
    }

    /// Provisions it, with the Operator `op` and one key, both its own, and a certificate of the CA.
    pub(crate) fn provision(&self, certificates: &EtcdCertificates) {
        let provision = json!({
            "unlockPassphrase": unlock_passphrase(self.name),
            "adminPassphrase": admin_passphrase(self.name),
            "systemTime": "2026-01-01T00:00:00Z",
        });
        self.anybody().call("POST", "/provision", Some(&provision)).unwrap().expect(204);
        let admin = self.admin();
        admin.create_operator("op", OPERATOR);
        admin.create_operator(self.name, OPERATOR);
        self.create_key(self.name, self.name);
        self.put_certificate(certificates);
    }

    /// Starts its process.
    pub(crate) fn start_process(&mut self) {
        let (peer, etcd) = (self.peer.to_string(), etcd());
        let etcd = etcd.to_str().unwrap();
        let mut settings = vec!["--log", "info", "--peer-listen", &peer, "--etcd-program", etcd];
        let clients = self.clients.map(|clients| clients.to_string());
        settings.extend(clients.iter().flat_map(|clients| ["--client-listen", clients]));
        self.daemon = Some(Daemon::start_with(&self.folder, &settings));
    }

    /// The id of its process.
    pub(crate) fn pid(&self) -> u32 {
        self.daemon().pid()
    }

    /// Kills the process, as a power cut would.
    pub(crate) fn kill(&mut self) {
        self.daemon.take().expect("it runs").kill();
    }

    /// Starts it again, and unlocks it with the passphrase of `holder` when its store answers.
    pub(crate) fn restart(&mut self, holder: &str) {
        self.start_process();
        self.unlock(holder);
    }

    /// Unlocks it with the passphrase of `holder`, when it is Locked.
    pub(crate) fn unlock(&self, holder: &str) {
        let client = self.anybody();
        self.await_state("Locked");
        let body = json!({ "passphrase": unlock_passphrase(holder) });
        self.eventually("it is unlocked", || client.call("POST", "/unlock", Some(&body)).unwrap().status == 204);
    }

    /// Who knows the unlock passphrase of the node `holder`.
    pub(crate) fn unlock_holder(&self, holder: &str) -> Client {
        self.anybody().log_in("unlock", &unlock_passphrase(holder))
    }

    /// Waits until it is in this state.
    pub(crate) fn await_state(&self, state: &str) {
        let client = self.anybody();
        self.eventually(state, || client.state() == state);
    }

    /// Waits until this is so.
    #[track_caller]
    pub(crate) fn eventually(&self, what: &str, mut is_so: impl FnMut() -> bool) {
        let begun = Instant::now();
        while !is_so() {
            assert!(begun.elapsed() < SOON, "not in time at {}: {what}\n{}", self.name, self.log());
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    fn daemon(&self) -> &Daemon {
        self.daemon.as_ref().expect("it runs")
    }

    /// Its name, and that of its own key and passphrases.
    pub(crate) fn name(&self) -> &str {
        self.name
    }

    /// What its processes have logged.
    pub(crate) fn log(&self) -> String {
        self.daemon().log()
    }

    /// A client without credentials.
    pub(crate) fn anybody(&self) -> Client {
        self.daemon().client()
    }

    /// Its Administrator, as long as it has its own users.
    pub(crate) fn admin(&self) -> Client {
        self.admin_of(self.name)
    }

    /// The Administrator of the node `holder`, here.
    pub(crate) fn admin_of(&self, holder: &str) -> Client {
        self.anybody().log_in("admin", &admin_passphrase(holder))
    }

    /// Its Operator, which is of the same name and passphrase at all nodes.
    pub(crate) fn operator(&self) -> Client {
        self.anybody().log_in("op", OPERATOR)
    }

    /// The signature of a key, which no other key would make.
    #[track_caller]
    pub(crate) fn signs(&self, key: &str) -> Vec<u8> {
        let operator = self.operator();
        answer(|| sign(&operator, key)).expect(200).bytes
    }

    /// Creates a key for the Administrator of `holder`.
    pub(crate) fn create_key(&self, holder: &str, id: &str) {
        let admin = self.admin_of(holder);
        // It may be there after an attempt of unknown outcome.
        let is_there = || admin.call("GET", &format!("/keys/{id}"), None).unwrap().status == 200;
        self.eventually("a key is created", || is_there() || generate(&admin, id).status == 201);
    }

    /// Its device id.
    pub(crate) fn device_id(&self, holder: &str) -> Value {
        get(&self.admin_of(holder), "/system/info")["deviceId"].take()
    }

    /// Where its etcd listens for others.
    pub(crate) fn peer(&self) -> SocketAddr {
        self.peer
    }

    /// Where its etcd serves nodes without a vote.
    pub(crate) fn clients(&self) -> SocketAddr {
        self.clients.expect("it serves them")
    }

    /// Invites a node without a vote.
    pub(crate) fn invite(&self) -> Answer {
        let body = json!({ "urls": ["https://127.0.0.1:8443"], "serving": true });
        self.admin().call("POST", "/cluster/members", Some(&body)).unwrap()
    }

    /// How others reach its etcd.
    pub(crate) fn url(&self) -> String {
        format!("https://{}", self.peer)
    }

    /// Has a new certificate signed and installs it. Returns the certificate.
    pub(crate) fn put_certificate(&self, certificates: &EtcdCertificates) -> String {
        self.put_certificate_as(&self.admin(), certificates)
    }

    /// The same as somebody else than the Administrator.
    pub(crate) fn put_certificate_as(&self, who: &Client, certificates: &EtcdCertificates) -> String {
        let subject = json!({ "commonName": self.name, "subjectAltNames": ["IP:127.0.0.1"] });
        let request = who.call("POST", "/config/tls/csr.pem", Some(&subject)).unwrap().expect(200);
        let certificate = certificates.sign(std::str::from_utf8(&request.bytes).unwrap());
        who.put_pem("/config/tls/cert.pem", &certificate).expect(201);
        certificate
    }

    /// Sets the cluster CA, which moves its store into an etcd.
    pub(crate) fn put_cluster_ca(&self, certificates: &EtcdCertificates) {
        self.admin().put_pem("/config/tls/cluster-ca.pem", &certificates.ca).expect(201);
    }

    /// Sets the backup passphrase.
    pub(crate) fn set_backup_passphrase(&self) {
        let change = json!({ "newPassphrase": BACKUP, "currentPassphrase": "" });
        self.admin().call("PUT", "/config/backup-passphrase", Some(&change)).unwrap().expect(204);
    }

    /// Registers a learner at `url`.
    pub(crate) fn register(&self, url: &str) -> Answer {
        let body = json!({ "urls": [url] });
        self.admin().call("POST", "/cluster/members", Some(&body)).unwrap()
    }

    /// Joins a cluster. The answer comes when it was promoted.
    pub(crate) fn join(&self, body: &Value) -> Answer {
        self.admin()
            .call("POST", "/cluster/join", Some(body))
            .unwrap_or_else(|error| panic!("{error}, at {}:\n{}", self.name, self.log()))
    }
}

/// The first answer that is not 503, which a cluster gives while it has no leader.
fn answer(call: impl Fn() -> Answer) -> Answer {
    let begun = Instant::now();
    loop {
        let answer = call();
        if answer.status != 503 || begun.elapsed() > SOON {
            return answer;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Generates a key for Ed25519, whose signatures are deterministic.
pub(crate) fn generate(admin: &Client, id: &str) -> Answer {
    let key = json!({ "id": id, "type": "Curve25519", "mechanisms": ["EdDSA_Signature"] });
    admin.call("POST", "/keys/generate", Some(&key)).unwrap()
}

/// Signs always the same with a key.
pub(crate) fn sign(operator: &Client, key: &str) -> Answer {
    let message = json!({ "mode": "EdDSA", "message": "c29tZXRoaW5n" });
    operator.call("POST", &format!("/keys/{key}/sign"), Some(&message)).unwrap()
}

/// What is at `path`.
#[track_caller]
pub(crate) fn get(client: &Client, path: &str) -> Value {
    answer(|| client.call("GET", path, None).unwrap()).expect(200).json()
}

/// The ids of the keys, or of the users, sorted.
#[track_caller]
pub(crate) fn ids(client: &Client, path: &str) -> Vec<String> {
    let list = get(client, path);
    let id = |item: &Value| item.get("id").or_else(|| item.get("user")).unwrap().as_str().unwrap().to_owned();
    let mut ids: Vec<String> = list.as_array().unwrap().iter().map(id).collect();
    ids.sort();
    ids
}

pub(crate) fn unlock_passphrase(holder: &str) -> String {
    format!("unlock passphrase of {holder}")
}

pub(crate) fn admin_passphrase(holder: &str) -> String {
    format!("admin passphrase of {holder}")
}
