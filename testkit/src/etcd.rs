//! Real etcd processes, as clusters of one or more members on this machine or on the nodes of a network.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use std::{env, fs, thread};

use rustix::process::{Pid, Signal, kill_process};

use crate::certificates::EtcdCertificates;
use crate::folder::Folder;
use crate::net::{Network, Place};
use crate::process::{mortal, spawn};
use crate::seat::Seat;

/// An etcd cluster. Members are known by their index, from 0. When it is dropped, all processes are killed and the folder is
/// deleted; they do not survive the test process either.
pub struct EtcdServer {
    members: Vec<Member>,
    /// The arguments of all members that tell nothing about the others.
    shared: Vec<String>,
    /// Its folder. The test may keep files there, too.
    pub folder: Folder,
    /// `None`: plain HTTP.
    certificates: Option<EtcdCertificates>,
}

struct Member {
    seat: Seat,
    arguments: Vec<String>,
    process: Option<Process>,
}

struct Process {
    child: Child,
    ready: Receiver<()>,
    /// The last lines of its log.
    log: Arc<Mutex<VecDeque<String>>>,
}

impl EtcdServer {
    /// Starts one member and waits until it serves clients, over TLS with client certificates.
    pub fn single() -> Self {
        Self::start(1, &[])
    }

    /// Starts three members and waits until all of them serve clients, over TLS with client certificates.
    pub fn three() -> Self {
        Self::start(3, &[])
    }

    /// Starts `members` of them with further flags, such as `--quota-backend-bytes=…`.
    pub fn start(members: usize, flags: &[&str]) -> Self {
        Self::start_at((0..members).map(|_| Seat::here()).collect(), flags, Some(EtcdCertificates::new()))
    }

    /// As [`EtcdServer::start`], but without TLS.
    pub fn start_plain(members: usize, flags: &[&str]) -> Self {
        Self::start_at((0..members).map(|_| Seat::here()).collect(), flags, None)
    }

    /// Starts one member at each node of a network and waits until all of them serve clients, over TLS with client
    /// certificates. They use the IPv4 addresses, and serve clients at both. It must be dropped before the network.
    pub fn across(network: &Network, flags: &[&str]) -> Self {
        Self::start_at(network.places().iter().map(Seat::at).collect(), flags, Some(EtcdCertificates::new()))
    }

    /// One member, at this node of a network, as [`EtcdServer::across`] starts them.
    pub fn at(place: &Place) -> Self {
        Self::start_at(vec![Seat::at(place)], &[], Some(EtcdCertificates::new()))
    }

    /// One member that serves clients on a Unix socket only. The path of the socket is longer than the address of one can be.
    pub fn on_unix_socket() -> Self {
        // etcd must tell the others something, and not an address that somebody listens at.
        let flags =
            [format!("--listen-client-urls=unix://{SOCKET}"), "--advertise-client-urls=http://invalid:1".into()];
        Self::start_plain(1, &flags.each_ref().map(String::as_str))
    }

    /// The socket of [`EtcdServer::on_unix_socket`].
    pub fn socket(&self) -> PathBuf {
        self.directory().join(SOCKET)
    }

    /// Where its members run.
    fn directory(&self) -> PathBuf {
        self.folder.path(&"x".repeat(100))
    }

    fn start_at(seats: Vec<Seat>, flags: &[&str], certificates: Option<EtcdCertificates>) -> Self {
        let folder = Folder::new();
        // The id of a cluster is made of this and the addresses.
        let mut shared = vec![format!("--initial-cluster-token={}", folder.at(""))];
        if let Some(certificates) = &certificates {
            let ca = folder.file("ca.pem", &certificates.ca);
            folder.file("client.pem", &certificates.client.certificate);
            folder.file("client.key", &certificates.client.key);
            for peer in ["", "peer-"] {
                shared.push(format!("--{peer}trusted-ca-file={ca}"));
                shared.push(format!("--{peer}client-cert-auth"));
            }
        }
        shared.extend(flags.iter().map(|flag| (*flag).to_owned()));
        let mut server = Self { members: Vec::new(), shared, folder, certificates };
        let all: Vec<usize> = seats.into_iter().map(|seat| server.prepare_at(seat)).collect();
        for member in &all {
            server.found(*member, "new", &all);
        }
        fs::create_dir(server.directory()).unwrap();
        server.start_all();
        server
    }

    /// A further member on this machine, which is not started: its index. It has to be added to the cluster by its URL, and
    /// can then [`EtcdServer::join`].
    pub fn prepare(&mut self) -> usize {
        self.prepare_at(Seat::here())
    }

    fn prepare_at(&mut self, seat: Seat) -> usize {
        let index = self.members.len();
        let name = format!("m{index}");
        let (clients, peers) = (seat.sockets(seat.client_port), seat.sockets(seat.peer_port));
        let mut arguments = vec![
            format!("--name={name}"),
            format!("--data-dir={}", self.folder.at(&name)),
            format!("--listen-client-urls={}", self.urls(&clients)),
            format!("--advertise-client-urls={}", self.urls(&clients[..1])),
            format!("--listen-peer-urls={}", self.urls(&peers)),
            format!("--initial-advertise-peer-urls={}", self.urls(&peers[..1])),
        ];
        if let Some(certificates) = &self.certificates {
            let identity = certificates.issue_at(&name, &seat.addresses);
            let chain = self.folder.file(&format!("{name}.pem"), &identity.certificate);
            let key = self.folder.file(&format!("{name}.key"), &identity.key);
            for peer in ["", "peer-"] {
                arguments.extend([format!("--{peer}cert-file={chain}"), format!("--{peer}key-file={key}")]);
            }
        }
        arguments.extend(self.shared.iter().cloned());
        self.members.push(Member { seat, arguments, process: None });
        index
    }

    fn urls(&self, sockets: &[SocketAddr]) -> String {
        let scheme = if self.certificates.is_some() { "https" } else { "http" };
        sockets.iter().map(|socket| format!("{scheme}://{socket}")).collect::<Vec<_>>().join(",")
    }

    /// Starts a prepared member, which the cluster of the members `with`, itself among them, has added, and waits until it
    /// serves clients.
    pub fn join(&mut self, member: usize, with: &[usize]) {
        self.found(member, "existing", with);
        self.restart(member);
    }

    /// As [`EtcdServer::join`], but with these arguments in place of its own. It must serve clients at its port.
    pub fn join_by(&mut self, member: usize, arguments: Vec<String>) {
        self.members[member].arguments = arguments;
        self.restart(member);
    }

    fn found(&mut self, member: usize, state: &str, with: &[usize]) {
        let cluster: Vec<String> = with.iter().map(|at| format!("m{at}={}", self.peer_url(*at))).collect();
        let arguments = &mut self.members[member].arguments;
        arguments.push(format!("--initial-cluster={}", cluster.join(",")));
        arguments.push(format!("--initial-cluster-state={state}"));
    }

    /// The URL at which the others reach a member.
    pub fn peer_url(&self, member: usize) -> String {
        let seat = &self.members[member].seat;
        self.urls(&[seat.socket(seat.peer_port)])
    }

    /// The file in which a member keeps all its data.
    pub fn data_file(&self, member: usize) -> PathBuf {
        self.folder.path(&format!("m{member}/member/snap/db"))
    }

    /// `address:port` of the client port of each member.
    pub fn endpoints(&self) -> Vec<String> {
        self.members.iter().map(|member| member.seat.socket(member.seat.client_port).to_string()).collect()
    }

    /// The arguments with which a `casemated` has its shared store here.
    pub fn settings(&self) -> Vec<String> {
        let mut settings = vec!["--store=etcd".to_owned()];
        settings.extend(self.endpoints().iter().map(|endpoint| format!("--etcd-endpoints={endpoint}")));
        if self.certificates.is_some() {
            let files = [("ca", "ca.pem"), ("cert", "client.pem"), ("key", "client.key")];
            settings.extend(files.map(|(name, file)| format!("--etcd-{name}={}", self.folder.at(file))));
        }
        settings
    }

    /// The certificates; `None`: plain HTTP. Those of clients are in its folder as well: `ca.pem`, `client.pem` and
    /// `client.key`.
    pub fn certificates(&self) -> Option<&EtcdCertificates> {
        self.certificates.as_ref()
    }

    /// The id of the process of a member that runs.
    pub fn pid(&self, member: usize) -> u32 {
        self.members[member].process.as_ref().expect("the member runs").child.id()
    }

    /// Kills a member, as a power cut would, except that what it had written to files stays.
    pub fn kill(&mut self, member: usize) {
        self.members[member].process = None;
    }

    /// Stops a member in order, and waits until it has ended.
    pub fn stop(&mut self, member: usize) {
        self.signal(member, Signal::TERM);
        self.await_end(member);
    }

    /// Waits until a member has ended by itself, as one does that was removed.
    pub fn await_end(&mut self, member: usize) {
        let mut process = self.members[member].process.take().expect("the member runs");
        process.child.wait().unwrap();
    }

    /// Starts a killed member on its folder and at its ports, and waits until it serves clients. That takes a majority.
    pub fn restart(&mut self, member: usize) {
        self.spawn(member);
        self.await_ready(member);
    }

    /// Starts all members that do not run, and waits until they serve clients. All must have joined.
    pub fn start_all(&mut self) {
        let idle: Vec<usize> = (0..self.members.len()).filter(|at| self.members[*at].process.is_none()).collect();
        for member in &idle {
            self.spawn(*member);
        }
        for member in idle {
            self.await_ready(member);
        }
    }

    /// Stops a member in the middle of what it does. Its connections stay open, and nothing answers.
    pub fn pause(&self, member: usize) {
        self.signal(member, Signal::STOP);
    }

    /// Lets a paused member go on.
    pub fn resume(&self, member: usize) {
        self.signal(member, Signal::CONT);
    }

    fn signal(&self, member: usize, signal: Signal) {
        let pid = Pid::from_raw(self.pid(member).cast_signed()).unwrap();
        kill_process(pid, signal).unwrap();
    }

    fn spawn(&mut self, member: usize) {
        let place = self.directory();
        let member = &mut self.members[member];
        assert!(member.process.is_none(), "the member runs already");
        let mut command = mortal(etcd(), member.seat.place.as_ref());
        command.args(&member.arguments);
        command.current_dir(place);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = spawn(command).expect("setpriv (Debian: util-linux) starts etcd");
        let log = Arc::new(Mutex::new(VecDeque::new()));
        let (sender, ready) = mpsc::channel();
        let (stderr, lines) = (child.stderr.take().unwrap(), Arc::clone(&log));
        thread::spawn(move || follow(stderr, &lines, &sender));
        member.process = Some(Process { child, ready, log });
    }

    fn await_ready(&self, member: usize) {
        let process = self.members[member].process.as_ref().unwrap();
        let failed = match process.ready.recv_timeout(READY) {
            Ok(()) => return,
            Err(RecvTimeoutError::Timeout) => "is not ready in time",
            Err(RecvTimeoutError::Disconnected) => "has ended",
        };
        let log: Vec<String> = process.log.lock().unwrap().iter().cloned().collect();
        panic!("etcd {failed}:\n{}", log.join("\n"));
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Reads the log of a process to its end, keeps its last lines, and tells when clients are served.
fn follow(stderr: ChildStderr, log: &Mutex<VecDeque<String>>, ready: &Sender<()>) {
    for line in BufReader::new(stderr).lines().map_while(Result::ok) {
        if line.contains("ready to serve client requests") {
            let _ = ready.send(());
        }
        let mut log = log.lock().unwrap();
        if log.len() == LOG_LINES_MAX {
            log.pop_front();
        }
        log.push_back(line);
    }
}

const SOCKET: &str = "client.sock";

const LOG_LINES_MAX: usize = 100;

/// Time to start, on a machine that is busy with other tests.
const READY: Duration = Duration::from_secs(60);

/// The program that `cargo xtask etcd` builds.
pub fn etcd() -> PathBuf {
    let exe = env::current_exe().unwrap();
    let target = exe.parent().and_then(Path::parent).and_then(Path::parent).unwrap();
    let etcd = target.join("etcd/etcd");
    assert!(etcd.is_file(), "there is no etcd for this test: run `cargo xtask etcd`");
    etcd
}
