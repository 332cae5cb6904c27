//! Real etcd processes, as clusters of one or more members on this machine.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use std::{env, fs, thread};

use rcgen::{
    BasicConstraints, Certificate, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};
use rustix::process::{Pid, Signal, kill_process};

use crate::folder::Folder;
use crate::process::{mortal, spawn};

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
    arguments: Vec<String>,
    client_port: u16,
    peer_url: String,
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
        Self::start_as(members, flags, Some(EtcdCertificates::new()))
    }

    /// As [`EtcdServer::start`], but without TLS.
    pub fn start_plain(members: usize, flags: &[&str]) -> Self {
        Self::start_as(members, flags, None)
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
        self.place().join(SOCKET)
    }

    /// Where its members run.
    fn place(&self) -> PathBuf {
        self.folder.path(&"x".repeat(100))
    }

    fn start_as(members: usize, flags: &[&str], certificates: Option<EtcdCertificates>) -> Self {
        let folder = Folder::new();
        // The id of a cluster is made of this and the addresses.
        let mut shared = vec![format!("--initial-cluster-token={}", folder.at(""))];
        if let Some(certificates) = &certificates {
            let ca = folder.file("ca.pem", &certificates.ca);
            let chain = folder.file("server.pem", &certificates.server.certificate);
            let key = folder.file("server.key", &certificates.server.key);
            folder.file("client.pem", &certificates.client.certificate);
            folder.file("client.key", &certificates.client.key);
            for peer in ["", "peer-"] {
                shared.push(format!("--{peer}cert-file={chain}"));
                shared.push(format!("--{peer}key-file={key}"));
                shared.push(format!("--{peer}trusted-ca-file={ca}"));
                shared.push(format!("--{peer}client-cert-auth"));
            }
        }
        shared.extend(flags.iter().map(|flag| (*flag).to_owned()));
        let mut server = Self { members: Vec::new(), shared, folder, certificates };
        let all: Vec<usize> = (0..members).map(|_| server.prepare()).collect();
        for member in &all {
            server.found(*member, "new", &all);
        }
        fs::create_dir(server.place()).unwrap();
        server.start_all();
        server
    }

    /// A further member that is not started: its index. It has to be added to the cluster by its URL, and can then
    /// [`EtcdServer::join`].
    pub fn prepare(&mut self) -> usize {
        let (index, client_port, peer_port) = (self.members.len(), free_port(), free_port());
        let scheme = if self.certificates.is_some() { "https" } else { "http" };
        let url = |port: u16| format!("{scheme}://127.0.0.1:{port}");
        let mut arguments = vec![
            format!("--name=m{index}"),
            format!("--data-dir={}", self.folder.at(&format!("m{index}"))),
            format!("--listen-client-urls={}", url(client_port)),
            format!("--advertise-client-urls={}", url(client_port)),
            format!("--listen-peer-urls={}", url(peer_port)),
            format!("--initial-advertise-peer-urls={}", url(peer_port)),
        ];
        arguments.extend(self.shared.iter().cloned());
        self.members.push(Member { arguments, client_port, peer_url: url(peer_port), process: None });
        index
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
        let cluster: Vec<String> = with.iter().map(|at| format!("m{at}={}", self.members[*at].peer_url)).collect();
        let arguments = &mut self.members[member].arguments;
        arguments.push(format!("--initial-cluster={}", cluster.join(",")));
        arguments.push(format!("--initial-cluster-state={state}"));
    }

    /// The URL at which a member listens for the others.
    pub fn peer_url(&self, member: usize) -> String {
        self.members[member].peer_url.clone()
    }

    /// The file in which a member keeps all its data.
    pub fn data_file(&self, member: usize) -> PathBuf {
        self.folder.path(&format!("m{member}/member/snap/db"))
    }

    /// `127.0.0.1:port` of the client port of each member.
    pub fn endpoints(&self) -> Vec<String> {
        self.members.iter().map(|member| format!("127.0.0.1:{}", member.client_port)).collect()
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
        let place = self.place();
        let member = &mut self.members[member];
        assert!(member.process.is_none(), "the member runs already");
        let mut command = mortal(etcd(), None);
        command.args(&member.arguments);
        command.current_dir(place).env_clear().env("PATH", env::var_os("PATH").unwrap_or_default());
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

/// A port that nobody uses. It is below the ports that Linux gives to outgoing connections, so that it stays free while a
/// member is down.
pub fn free_port() -> u16 {
    const FIRST: u16 = 12_000;
    const COUNT: u16 = 20_000;
    static NEXT: AtomicU16 = AtomicU16::new(0);
    // Test programs that run at the same time begin at different places.
    let offset = (std::process::id().wrapping_mul(211) % u32::from(COUNT)) as u16;
    for _ in 0..COUNT {
        let port = FIRST + (NEXT.fetch_add(1, Ordering::Relaxed).wrapping_add(offset)) % COUNT;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
    panic!("all ports are in use");
}

/// A CA, and what it has issued for the members and for clients, in PEM.
pub struct EtcdCertificates {
    /// The certificate of the CA.
    pub ca: String,
    /// The members' certificate and key, for `127.0.0.1`, `::1` and `localhost`.
    pub server: EtcdIdentity,
    /// The clients' certificate and key.
    pub client: EtcdIdentity,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate and its key, in PEM.
pub struct EtcdIdentity {
    /// The certificate.
    pub certificate: String,
    /// The key, PKCS #8.
    pub key: String,
}

impl EtcdCertificates {
    /// Makes a new CA and new certificates.
    #[expect(clippy::new_without_default, reason = "each one is another")]
    pub fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.distinguished_name = named("etcd test CA");
        let key = KeyPair::generate().unwrap();
        let ca = params.self_signed(&key).unwrap().pem();
        let issuer = Issuer::new(params, key);
        let hosts = ["127.0.0.1", "::1", "localhost"];
        let both = [ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let server = identity(&issuer, "etcd", &hosts, &both);
        let client = identity(&issuer, "casemate", &[], &[ExtendedKeyUsagePurpose::ClientAuth]);
        Self { ca, server, client, issuer }
    }

    /// Another certificate of the CA, for both sides of a connection at `127.0.0.1`, and its key.
    pub fn issue(&self, name: &str) -> EtcdIdentity {
        let both = [ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        identity(&self.issuer, name, &["127.0.0.1"], &both)
    }

    /// Signs a request (PEM) of a member, with the names in it. Returns the certificate, in PEM.
    pub fn sign(&self, request: &str) -> String {
        let mut request = CertificateSigningRequestParams::from_pem(request).unwrap();
        request.params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        request.params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        request.signed_by(&self.issuer).unwrap().pem()
    }
}

fn identity(
    issuer: &Issuer<'_, KeyPair>,
    name: &str,
    hosts: &[&str],
    purposes: &[ExtendedKeyUsagePurpose],
) -> EtcdIdentity {
    let hosts: Vec<String> = hosts.iter().map(|host| (*host).to_owned()).collect();
    let mut params = CertificateParams::new(hosts).unwrap();
    params.distinguished_name = named(name);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = purposes.to_vec();
    let key = KeyPair::generate().unwrap();
    let certificate: Certificate = params.signed_by(&key, issuer).unwrap();
    EtcdIdentity { certificate: certificate.pem(), key: key.serialize_pem() }
}

fn named(name: &str) -> DistinguishedName {
    let mut names = DistinguishedName::new();
    names.push(DnType::CommonName, name);
    names
}
