//! A `casemated` with a store of its own that can become a member of a cluster, as an operator sets it up.

#![allow(dead_code, reason = "each test binary uses its part")]

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use casemate_testkit::{EtcdCertificates, Place, etcd, free_port};
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
    /// `None`: where the test process is.
    place: Option<Place>,
    /// Where its etcd listens for others.
    peers: Vec<SocketAddr>,
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
        let (folder, peers) = (Folder::new(), vec![peer]);
        Self::set_up(Self { name, folder, place: None, peers, clients, daemon: None }, certificates)
    }

    /// As [`Node::start`], at a node of a network. It listens for other members at both of its addresses.
    pub(crate) fn start_at(place: &Place, name: &'static str, certificates: &EtcdCertificates) -> Self {
        Self::set_up(Self::of(place, name, peers(place)), certificates)
    }

    /// Starts a node that is not provisioned, at a node of a network. It listens for other members at these addresses.
    pub(crate) fn start_empty(place: &Place, name: &'static str, peers: Vec<SocketAddr>) -> Self {
        let mut node = Self::of(place, name, peers);
        node.start_process();
        node
    }

    fn of(place: &Place, name: &'static str, peers: Vec<SocketAddr>) -> Self {
        Self { name, folder: Folder::new(), place: Some(place.clone()), peers, clients: None, daemon: None }
    }

    fn set_up(mut node: Self, certificates: &EtcdCertificates) -> Self {
        node.start_process();
        node.provision();
        node.put_certificate(certificates);
        node
    }

    /// Provisions it, with the Operator `op` and one key.
    pub(crate) fn provision(&self) {
        let name = self.name;
        let provision = json!({
            "unlockPassphrase": unlock_passphrase(self.name),
            "adminPassphrase": admin_passphrase(self.name),
            "systemTime": "2026-01-01T00:00:00Z",
        });
        self.anybody().call("POST", "/provision", Some(&provision)).unwrap().expect(204);
        let admin = self.admin();
        admin.create_operator("op", OPERATOR);
        admin.create_operator(name, OPERATOR);
        self.create_key(name, name);
    }

    /// Starts its process.
    pub(crate) fn start_process(&mut self) {
        let etcd = format!("--etcd-program={}", etcd().display());
        let peers = self.peers.iter().map(|peer| format!("--peer-listen={peer}"));
        let listen: Vec<String> = peers.chain(self.clients.map(|at| format!("--client-listen={at}"))).collect();
        let mut settings = vec!["--log=info", &etcd];
        settings.extend(listen.iter().map(String::as_str));
        self.daemon = Some(match &self.place {
            Some(place) => Daemon::start_at(place, &self.folder, &settings),
            None => Daemon::start_with(&self.folder, &settings),
        });
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

    /// Its `address:port`.
    pub(crate) fn host(&self) -> &str {
        &self.daemon().address
    }

    /// Waits until its process has ended by itself, and returns the exit code.
    pub(crate) fn await_end(&mut self) -> Option<i32> {
        self.daemon.take().expect("it runs").exit_code()
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

    /// Where its etcd listens for others, the first address.
    pub(crate) fn peer(&self) -> SocketAddr {
        self.peers[0]
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

    /// How others reach its etcd, by the first address.
    pub(crate) fn url(&self) -> String {
        format!("https://{}", self.peer())
    }

    /// How others reach its etcd.
    pub(crate) fn urls(&self) -> Vec<String> {
        self.peers.iter().map(|peer| format!("https://{peer}")).collect()
    }

    /// Has a new certificate signed and installs it. Returns the certificate.
    pub(crate) fn put_certificate(&self, certificates: &EtcdCertificates) -> String {
        self.put_certificate_as(&self.admin(), certificates)
    }

    /// The same as somebody else than the Administrator.
    pub(crate) fn put_certificate_as(&self, who: &Client, certificates: &EtcdCertificates) -> String {
        let certificate = certificates.sign(&self.certificate_request_as(who));
        who.put_pem("/config/tls/cert.pem", &certificate).expect(201);
        certificate
    }

    /// A request for a certificate with its addresses, in PEM.
    pub(crate) fn certificate_request(&self) -> String {
        self.certificate_request_as(&self.admin())
    }

    fn certificate_request_as(&self, who: &Client) -> String {
        let names: Vec<String> = self.peers.iter().map(|peer| format!("IP:{}", peer.ip())).collect();
        let subject = json!({ "commonName": self.name, "subjectAltNames": names });
        let request = who.call("POST", "/config/tls/csr.pem", Some(&subject)).unwrap().expect(200);
        String::from_utf8(request.bytes).unwrap()
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

/// Where etcd listens at a node of a network: at both addresses.
pub(crate) fn peers(place: &Place) -> Vec<SocketAddr> {
    [place.v4.into(), place.v6.into()].map(|ip: IpAddr| SocketAddr::new(ip, 2380)).to_vec()
}

/// The unlock passphrase of the node `holder`.
pub(crate) fn unlock_passphrase(holder: &str) -> String {
    format!("unlock passphrase of {holder}")
}

/// The passphrase of the Administrator of the node `holder`.
pub(crate) fn admin_passphrase(holder: &str) -> String {
    format!("admin passphrase of {holder}")
}
