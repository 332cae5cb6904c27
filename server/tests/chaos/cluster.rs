//! Members of one cluster, each with an etcd of its own, on the nodes of a network: one namespace for each.
//!
//! All processes are started by the thread of the test, because they end with the thread that has started them.

use std::path::PathBuf;
use std::process::Stdio;
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use casemate_etcd::{Address, Settings};
use casemate_server::stores::Stores;
use casemate_testkit::{EtcdCertificates, Network, Place, etcd};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use super::daemon::{ADMIN, Answer, CASEMATED, Client, Daemon, Folder, UNLOCK};

/// How many members there are at first.
pub(crate) const NODES: usize = 3;

/// The backup passphrase of the cluster.
pub(crate) const BACKUP: &str = "backup passphrase";

/// Time for what comes soon, on a machine that is busy with other tests.
pub(crate) const PATIENCE: Duration = Duration::from_secs(180);

/// The processes. Moments are counted from its start.
pub(crate) struct Cluster {
    begun: Instant,
    pub(crate) certificates: EtcdCertificates,
    nodes: Vec<Node>,
    /// Dropped after the processes in it.
    pub(crate) network: Network,
}

struct Node {
    place: Place,
    folder: Mutex<Folder>,
    daemon: Mutex<Option<Daemon>>,
    /// Its process, by number, and the connections of all clients to it; `None` while it is down.
    client: Mutex<Option<(usize, Client)>>,
    /// When each of its processes was opened.
    opened: Mutex<Vec<Duration>>,
}

impl Cluster {
    /// A cluster of [`NODES`] members, the first of which has made it, and `others` that are not in it and not started.
    pub(crate) fn start(others: usize) -> Self {
        let network = Network::new(NODES + others);
        for node in 0..NODES + others {
            // As docs/operate/cluster.md tells to; what Linux does without is measured by `cargo xtask bench etcd partition`.
            if !network.sysctl(node, "net.ipv4.tcp_rto_max_ms", "1000") {
                network.sysctl(node, "net.ipv4.tcp_retries2", "5");
            }
        }
        let node = |place: &Place| Node {
            place: place.clone(),
            folder: Mutex::new(Folder::new()),
            daemon: Mutex::default(),
            client: Mutex::default(),
            opened: Mutex::default(),
        };
        let nodes = network.places().iter().map(node).collect();
        let cluster = Self { begun: Instant::now(), certificates: EtcdCertificates::new(), nodes, network };
        (0..NODES).for_each(|node| cluster.set_up(node));
        let change = json!({ "newPassphrase": BACKUP, "currentPassphrase": "" });
        cluster.admin(0).call("PUT", "/config/backup-passphrase", Some(&change)).unwrap().expect(204);
        (1..NODES).for_each(|node| cluster.join(node));
        cluster.nodes[..NODES].iter().for_each(|node| lock(&node.opened).push(cluster.now()));
        cluster
    }

    /// Starts a new node at this place and moves its store into an etcd, so that it is a cluster of its own.
    pub(crate) fn set_up(&self, node: usize) {
        *lock(&self.nodes[node].folder) = Folder::new();
        self.start_process(node);
        self.client(node).provision().unwrap().expect(204);
        let admin = self.admin(node);
        let address = self.nodes[node].place.v4;
        let subject = json!({ "commonName": address.to_string(), "subjectAltNames": [format!("IP:{address}")] });
        let request = admin.call("POST", "/config/tls/csr.pem", Some(&subject)).unwrap().expect(200);
        let certificate = self.certificates.sign(std::str::from_utf8(&request.bytes).unwrap());
        admin.put_pem("/config/tls/cert.pem", &certificate).expect(201);
        admin.put_pem("/config/tls/cluster-ca.pem", &self.certificates.ca).expect(201);
    }

    /// Makes a node that was set up a member of the first node's cluster, Operational.
    pub(crate) fn join(&self, node: usize) {
        let invitation = self.register(0, node).expect(201).json();
        let id = id_of_new(&invitation);
        let promote = format!("/cluster/members/{id}/promote");
        std::thread::scope(|scope| {
            let joining = scope.spawn(|| self.join_with(node, &invitation).unwrap());
            self.eventually(node, "it is promoted", || {
                let answer = self.admin(0).call("POST", &promote, None).unwrap();
                answer.status == 204 || joining.is_finished()
            });
            joining.join().unwrap().expect(204);
        });
        self.unlock(node);
    }

    /// Registers a node at `by`.
    pub(crate) fn register(&self, by: usize, node: usize) -> Answer {
        let body = json!({ "urls": [self.url(node)] });
        self.admin(by).call("POST", "/cluster/members", Some(&body)).unwrap()
    }

    /// Joins with the reply to a registration. `Err`: the node has ended meanwhile.
    pub(crate) fn join_with(&self, node: usize, invitation: &Value) -> Result<Answer, ureq::Error> {
        let mut body = invitation.clone();
        body["backupPassphrase"] = BACKUP.into();
        self.admin(node).call("POST", "/cluster/join", Some(&body))
    }

    /// Where a node serves clients.
    pub(crate) fn address(&self, node: usize) -> String {
        format!("{}:8443", self.nodes[node].place.v4)
    }

    /// How other members reach the etcd of a node.
    pub(crate) fn url(&self, node: usize) -> String {
        format!("https://{}:2380", self.nodes[node].place.v4)
    }

    /// The time now.
    pub(crate) fn now(&self) -> Duration {
        self.begun.elapsed()
    }

    /// A client of a node that runs.
    pub(crate) fn client(&self, node: usize) -> Client {
        self.process(node).expect("it runs").1
    }

    /// The Administrator, at a node that runs.
    pub(crate) fn admin(&self, node: usize) -> Client {
        self.client(node).log_in("admin", ADMIN)
    }

    /// The number of the process of a node, and a client of it; `None` while it is down.
    pub(crate) fn process(&self, node: usize) -> Option<(usize, Client)> {
        lock(&self.nodes[node].client).clone()
    }

    /// When each process of each node was opened. What earlier processes had sent to the store is void from then on.
    pub(crate) fn opened(&self) -> Vec<Vec<Duration>> {
        self.nodes.iter().map(|node| lock(&node.opened).clone()).collect()
    }

    /// Kills a node while its clients wait, and its etcd with it.
    pub(crate) fn kill(&self, node: usize) {
        let daemon = lock(&self.nodes[node].daemon).take().expect("it runs");
        daemon.kill();
        *lock(&self.nodes[node].client) = None;
    }

    /// Starts a killed node and unlocks it, which takes a majority.
    pub(crate) fn restart(&self, node: usize) {
        self.start_process(node);
        self.unlock_again(node);
    }

    /// Unlocks a node that was started again.
    pub(crate) fn unlock_again(&self, node: usize) {
        self.unlock(node);
        lock(&self.nodes[node].opened).push(self.now());
    }

    /// Unlocks a node as soon as that can be done.
    pub(crate) fn unlock(&self, node: usize) {
        let client = self.client(node);
        let body = json!({ "passphrase": UNLOCK });
        self.eventually(node, "it is unlocked", || {
            client.call("POST", "/unlock", Some(&body)).is_ok_and(|answer| answer.status == 204)
        });
    }

    /// Waits until this is so.
    #[track_caller]
    pub(crate) fn eventually(&self, node: usize, what: &str, mut is_so: impl FnMut() -> bool) {
        let begun = Instant::now();
        while !is_so() {
            assert!(begun.elapsed() < PATIENCE, "not in time at node {node}: {what}\n{}", self.log(node));
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// The state of a node that runs.
    pub(crate) fn state(&self, node: usize) -> String {
        self.client(node).state()
    }

    /// Waits until the nodes agree with each other, and all of them take changes.
    pub(crate) fn settle(&self) {
        for node in 0..NODES {
            let (admin, key) = (self.admin(node), json!({ "type": "Curve25519", "mechanisms": ["EdDSA_Signature"] }));
            self.eventually(node, "it takes changes", || {
                let answer = admin.call("POST", "/keys/generate", Some(&key));
                answer.is_ok_and(|answer| answer.status == 201)
            });
        }
    }

    /// What all processes of a node have logged.
    pub(crate) fn log(&self, node: usize) -> String {
        String::from_utf8_lossy(&std::fs::read(lock(&self.nodes[node].folder).file("log")).unwrap()).into_owned()
    }

    /// The data folder of a node.
    pub(crate) fn data(&self, node: usize) -> PathBuf {
        lock(&self.nodes[node].folder).data()
    }

    /// A client of the etcd of a node, with all the rights that the node itself has, and any other member.
    pub(crate) fn etcd(&self, node: usize) -> casemate_etcd::Client {
        let socket = self.etcd_folder(node).join("client.sock");
        casemate_etcd::Client::new(Settings::of(vec![Address::unix(socket)], None)).unwrap()
    }

    /// The folder of the etcd of a node.
    pub(crate) fn etcd_folder(&self, node: usize) -> PathBuf {
        let found = Stores::found_in(&self.data(node));
        found.into_iter().max().expect("it has a store").1
    }

    /// Signals the etcd of a node, if it runs.
    pub(crate) fn signal_etcd(&self, node: usize, signal: Signal) {
        let of_node = lock(&self.nodes[node].daemon).as_ref().expect("it runs").pid();
        for pid in children(of_node) {
            // It may have ended since.
            let _ = kill_process(Pid::from_raw(pid).unwrap(), signal);
        }
    }

    /// The node whose etcd leads; `None` while there is none, or too little answers.
    pub(crate) fn leader(&self) -> Option<usize> {
        let mut running = (0..self.nodes.len()).filter(|node| self.process(*node).is_some());
        let leads = |node: &usize| {
            let status = block(self.etcd(*node).status());
            status.is_ok_and(|status| status.leader == status.header.map_or(0, |header| header.member_id))
        };
        running.find(leads)
    }

    /// The node whose etcd leads, as soon as one does.
    pub(crate) fn some_leader(&self) -> usize {
        let mut found = None;
        self.eventually(0, "there is a leader", || {
            found = self.leader();
            found.is_some()
        });
        found.unwrap()
    }

    pub(crate) fn start_process(&self, node: usize) {
        let Node { place, folder, daemon, client, opened } = &self.nodes[node];
        let folder = lock(folder);
        let mut command = self.network.command(node, CASEMATED);
        let address = |port: u16| format!("{}:{port}", place.v4);
        command.args(["--log", "info", "--listen", &address(8443), "--peer-listen", &address(2380), "--etcd-program"]);
        command.arg(etcd()).arg("--data-dir").arg(folder.data()).stdin(Stdio::null());
        let started = Daemon::start_by(&folder, &mut command);
        *lock(client) = Some((lock(opened).len(), started.client()));
        *lock(daemon) = Some(started);
    }
}

/// The processes that a process has started.
fn children(pid: u32) -> Vec<i32> {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten();
    let of_thread = |thread: std::fs::DirEntry| std::fs::read_to_string(thread.path().join("children")).ok();
    let all: Vec<String> = threads.filter_map(of_thread).collect();
    all.iter().flat_map(|text| text.split_whitespace()).map(|pid| pid.parse().unwrap()).collect()
}

/// The id of the member without a name, as the API writes it.
pub(crate) fn id_of_new(invitation: &Value) -> String {
    let members = invitation["members"].as_array().unwrap();
    let new = members.iter().find(|member| member["name"] == "").expect("it was registered");
    new["id"].as_str().unwrap().to_owned()
}

/// Calls etcd.
pub(crate) fn block<T>(call: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(call)
}

/// A thread that panics fails the test anyway.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
