//! Three `casemated` processes on one etcd of three members, and what happens to them.

use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use casemate_testkit::EtcdServer;
use rustix::process::Signal;
use serde_json::{Value, json};

use super::daemon::{ADMIN, Client, Daemon, Folder, UNLOCK};

/// How many nodes there are, and members of etcd.
pub(crate) const NODES: usize = 3;

const BACKUP: &str = "backup passphrase";

/// The processes. Moments are counted from its start.
pub(crate) struct Cluster {
    begun: Instant,
    pub(crate) etcd: Mutex<EtcdServer>,
    endpoints: Vec<String>,
    settings: Vec<String>,
    nodes: Vec<Node>,
}

struct Node {
    folder: Folder,
    daemon: Mutex<Option<Daemon>>,
    /// Its process, by number, and the connections of all clients to it; `None` while it is down.
    client: Mutex<Option<(usize, Client)>>,
    /// When each of its processes was opened.
    opened: Mutex<Vec<Duration>>,
}

impl Cluster {
    /// Provisions the first node, joins the others with its joiner kits, and unlocks them.
    pub(crate) fn start() -> Self {
        let etcd = EtcdServer::three();
        let mut settings = vec!["--log".into(), "warn".into(), "--store".into(), "etcd".into()];
        for (flag, file) in [("ca", "ca.pem"), ("cert", "client.pem"), ("key", "client.key")] {
            settings.extend([format!("--etcd-{flag}"), etcd.folder.at(file)]);
        }
        let node = |_| Node {
            folder: Folder::new(),
            daemon: Mutex::default(),
            client: Mutex::default(),
            opened: Mutex::default(),
        };
        let nodes = (0..NODES).map(node).collect();
        let endpoints = etcd.endpoints();
        let cluster = Self { begun: Instant::now(), etcd: Mutex::new(etcd), endpoints, settings, nodes };
        (0..NODES).for_each(|node| cluster.start_process(node));
        let first = cluster.client(0);
        first.provision().unwrap().expect(204);
        let admin = first.log_in("admin", ADMIN);
        let backup = json!({ "newPassphrase": BACKUP, "currentPassphrase": "" });
        admin.call("PUT", "/config/backup-passphrase", Some(&backup)).unwrap().expect(204);
        for node in 1..NODES {
            let new = cluster.client(node);
            let invitation = json!({ "urls": [format!("https://192.0.2.{node}:8443")], "serving": true });
            let reply = admin.call("POST", "/cluster/members", Some(&invitation)).unwrap().expect(201);
            let mut body = reply.json();
            body["backupPassphrase"] = Value::from(BACKUP);
            new.call("POST", "/cluster/join", Some(&body)).unwrap().expect(204);
            new.unlock(UNLOCK).expect(204);
        }
        cluster.nodes.iter().for_each(|node| lock(&node.opened).push(cluster.now()));
        cluster
    }

    /// The time now.
    pub(crate) fn now(&self) -> Duration {
        self.begun.elapsed()
    }

    /// A client of a node that runs.
    pub(crate) fn client(&self, node: usize) -> Client {
        self.process(node).expect("it runs").1
    }

    /// The number of the process of a node, and a client of it; `None` while it is down.
    pub(crate) fn process(&self, node: usize) -> Option<(usize, Client)> {
        lock(&self.nodes[node].client).clone()
    }

    /// When each process of each node was opened. What earlier processes had sent to the store is void from then on.
    pub(crate) fn opened(&self) -> Vec<Vec<Duration>> {
        self.nodes.iter().map(|node| lock(&node.opened).clone()).collect()
    }

    /// Kills a node while its clients wait.
    pub(crate) fn kill(&self, node: usize) {
        let daemon = lock(&self.nodes[node].daemon).take().expect("it runs");
        daemon.kill();
        *lock(&self.nodes[node].client) = None;
    }

    /// Starts a killed node and unlocks it, which takes a majority of etcd.
    pub(crate) fn restart(&self, node: usize) {
        self.start_process(node);
        let client = self.client(node);
        let body = json!({ "passphrase": UNLOCK });
        let begun = Instant::now();
        while !client.call("POST", "/unlock", Some(&body)).is_ok_and(|answer| answer.status == 204) {
            assert!(begun.elapsed() < PATIENCE, "node {node} cannot be unlocked:\n{}", self.log(node));
            std::thread::sleep(Duration::from_millis(50));
        }
        lock(&self.nodes[node].opened).push(self.now());
    }

    /// Stops a node in the middle of what it does. Its connections stay open, and nothing answers.
    pub(crate) fn pause(&self, node: usize) {
        self.signal(node, Signal::STOP);
    }

    /// Lets a paused node go on.
    pub(crate) fn resume(&self, node: usize) {
        self.signal(node, Signal::CONT);
    }

    /// What all processes of a node have logged.
    pub(crate) fn log(&self, node: usize) -> String {
        String::from_utf8_lossy(&std::fs::read(self.nodes[node].folder.file("log")).unwrap()).into_owned()
    }

    fn signal(&self, node: usize, signal: Signal) {
        lock(&self.nodes[node].daemon).as_ref().expect("it runs").signal(signal);
    }

    fn start_process(&self, node: usize) {
        let Node { folder, daemon, client, opened } = &self.nodes[node];
        let mut settings: Vec<&str> = self.settings.iter().map(String::as_str).collect();
        // Each node begins with another member, so that a paused one is not that of all nodes.
        let endpoints = self.endpoints.iter().cycle().skip(node).take(NODES);
        settings.extend(endpoints.flat_map(|endpoint| ["--etcd-endpoints", endpoint.as_str()]));
        let started = Daemon::start_with(folder, &settings);
        *lock(client) = Some((lock(opened).len(), started.client()));
        *lock(daemon) = Some(started);
    }
}

/// Time for a restarted node to be unlocked, on a machine that is busy with other tests.
const PATIENCE: Duration = Duration::from_secs(120);

/// A thread that panics fails the test anyway.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
