//! The etcd that a node runs for itself: real processes, confined by a real `casemated`.

#![allow(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a test of processes: it lives in real time, and whatever goes wrong fails it"
)]

#[path = "member/confined.rs"]
mod confined;
#[path = "member/shown.rs"]
mod shown;

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use casemate_core::crypto::secret::SecretBytes;
use casemate_etcd::proto::TxnRequest;
use casemate_etcd::request::{get, put};
use casemate_etcd::{Client, MemberKind, Settings, when_healthy};
use casemate_server::member::{Config, Identity, Member, MemberState, PeerTls, Program, Start};
use casemate_testkit::{EtcdCertificates, EtcdIdentity, Folder, etcd, free_port};
use rustix::process::{Pid, Signal, kill_process};
use rustls::pki_types::{CertificateDer, pem::PemObject};
use shown::shown;

/// The program that confines etcd.
pub(crate) const CASEMATED: &str = env!("CARGO_BIN_EXE_casemated");

fn program() -> Program {
    Program::find(Some(&etcd()), None).unwrap().launched_by(CASEMATED.into())
}

/// Time for what comes soon, on a machine that is busy with other tests.
const SOON: Duration = Duration::from_secs(60);

/// Waits until `what` is there.
#[track_caller]
fn wait<T>(name: &str, mut what: impl FnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(found) = what() {
            return found;
        }
        assert!(began.elapsed() < SOON, "{name} did not come");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Calls etcd. Its connections end with the call, as etcd waits for them when it stops.
fn block<T>(call: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(call)
}

fn is_ready(member: &Member) -> bool {
    block(member.is_ready())
}

fn ready(member: &Member) {
    wait("a member that is ready", || is_ready(member).then_some(()));
}

/// Where a member is, and as what.
struct Place {
    folder: PathBuf,
    name: String,
    port: u16,
}

impl Place {
    fn new(folder: &Folder, name: &str) -> Self {
        Self { folder: folder.path(name), name: name.into(), port: free_port() }
    }

    fn url(&self, scheme: &str) -> String {
        format!("{scheme}://127.0.0.1:{}", self.port)
    }

    fn listen(&self) -> SocketAddr {
        ([127, 0, 0, 1], self.port).into()
    }

    fn config(&self, start: Start, tls: Option<PeerTls>) -> Config {
        Config {
            folder: self.folder.clone(),
            name: self.name.clone(),
            peer_urls: vec![self.url(if tls.is_some() { "https" } else { "http" })],
            listen: vec![self.listen()],
            clients: Vec::new(),
            client_urls: Vec::new(),
            tls,
            behind_nat: false,
            memory_bytes: 1 << 30,
            quota_bytes: 1 << 30,
            start,
        }
    }

    fn start(&self, start: Start, tls: Option<PeerTls>) -> Member {
        Member::start(&program(), &self.config(start, tls)).unwrap()
    }

    /// Founds a cluster without TLS.
    fn found(&self) -> Member {
        self.start(token(), None)
    }
}

fn token() -> Start {
    Start::Found { token: "a test".into() }
}

fn identity(issued: &EtcdIdentity) -> Identity {
    Identity { chain: issued.certificate.clone().into(), key: SecretBytes::from_slice(issued.key.as_bytes()) }
}

fn tls(certificates: &EtcdCertificates, issued: &EtcdIdentity) -> PeerTls {
    PeerTls { identity: identity(issued), ca: certificates.ca.clone().into() }
}

fn client(member: &Member) -> Client {
    Client::new(Settings::of(vec![member.endpoint()], None)).unwrap()
}

/// Writes a row, as soon as there is a leader.
fn write(member: &Member, key: &'static str, value: &'static str) {
    let txn = TxnRequest { success: vec![put(key, value, 0)], ..TxnRequest::default() };
    wait("the write", || block(client(member).txn(txn.clone())).ok());
}

/// Reads a row, as soon as there is a leader and the member knows that it votes.
fn value(member: &Member, key: &'static str) -> Option<String> {
    let found = wait("the read", || block(client(member).range(get(key))).ok());
    found.kvs.first().map(|row| String::from_utf8(row.value.to_vec()).unwrap())
}

fn kill(member: &Member, signal: Signal) {
    if let Some(pid) = member.diagnosis().pid {
        kill_process(Pid::from_raw(pid.cast_signed()).unwrap(), signal).unwrap();
    }
}

#[test]
fn rows_outlive_a_stop_and_the_folder_is_for_nobody_else() {
    let folder = Folder::new();
    // Its socket has a path that is longer than the address of a socket can be.
    let place = Place::new(&folder, &"m".repeat(100));
    let member = place.found();
    ready(&member);
    write(&member, "k", "v");
    let diagnosis = member.diagnosis();
    assert_eq!((diagnosis.state, diagnosis.starts, diagnosis.confined), (MemberState::Running, 1, true));
    assert_eq!(diagnosis.version, block(member.status()).unwrap().version);
    let mode = std::os::unix::fs::PermissionsExt::mode(&fs::metadata(&place.folder).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o700);
    member.stop();
    assert_eq!((member.state(), member.diagnosis().pid), (MemberState::Stopped, None));
    assert!(!is_ready(&member));

    let refused = Member::start(&program(), &place.config(token(), None)).err().unwrap();
    assert!(refused.contains("has the data of another member"), "{refused}");
    let again = place.start(Start::Again, None);
    ready(&again);
    assert_eq!(value(&again, "k").as_deref(), Some("v"));
    // The pid is that of etcd itself, and it ends with its owner.
    let pid = again.diagnosis().pid.unwrap();
    let arguments = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap();
    assert!(arguments.starts_with(etcd().to_str().unwrap()), "{arguments}");
    let process = Pid::from_raw(pid.cast_signed()).unwrap();
    assert_eq!(rustix::process::getpgid(Some(process)).unwrap(), process, "no signal of a terminal reaches it");
    drop(again);
    assert!(!Path::new(&format!("/proc/{pid}")).exists());
}

#[test]
fn it_is_started_again_when_it_is_killed_and_when_its_owner_wants_that() {
    let folder = Folder::new();
    let member = Place::new(&folder, "m").found();
    ready(&member);
    write(&member, "k", "v");
    // The pauses become longer, so that one of them is seen.
    wait("a pause", || {
        kill(&member, Signal::KILL);
        (member.state() == MemberState::Signaled(9)).then_some(())
    });
    ready(&member);
    assert_eq!(value(&member, "k").as_deref(), Some("v"));
    let starts = member.diagnosis().starts;
    assert!(starts > 1);
    member.restart();
    wait("another process", || (member.diagnosis().starts == starts + 1).then_some(()));
    ready(&member);
    // Somebody else asks it to end: it was not removed.
    kill(&member, Signal::TERM);
    wait("another process", || (member.diagnosis().starts == starts + 2).then_some(()));
    ready(&member);
    assert_eq!((member.state(), value(&member, "k").as_deref()), (MemberState::Running, Some("v")));
}

#[test]
fn it_is_told_to_stop_while_it_waits_to_be_started_again() {
    let folder = Folder::new();
    let place = Place::new(&folder, "m");
    let member = place.found();
    ready(&member);
    member.stop();
    // Somebody else listens at its port.
    let other = std::net::TcpListener::bind(place.listen()).unwrap();
    let member = place.start(Start::Again, None);
    wait("an exit", || (member.state() == MemberState::Exited(1)).then_some(()));
    let logs = serde_json::to_string(&member.diagnosis().logs).unwrap();
    assert!(logs.contains("address already in use"), "{logs}");
    drop(other);
    member.stop();
    assert_eq!(member.state(), MemberState::Stopped);
}

#[test]
fn members_join_over_tls_and_one_that_is_removed_does_not_come_back() {
    let folder = Folder::new();
    let certificates = EtcdCertificates::new();
    let places = ["one", "two", "three"].map(|name| Place::new(&folder, name));
    let own = |place: &Place| Some(tls(&certificates, &certificates.issue(&place.name)));
    let mut running = vec![places[0].start(token(), own(&places[0]))];
    ready(&running[0]);
    write(&running[0], "k", "v");
    for (index, place) in places.iter().enumerate().skip(1) {
        let first = client(&running[0]);
        let urls = [place.url("https")];
        let (added, _) = block(when_healthy(|| first.member_add(&urls, MemberKind::Learner))).unwrap();
        let members = places[..=index].iter().map(|place| (place.name.clone(), place.url("https"))).collect();
        running.push(place.start(Start::Join { members }, own(place)));
        ready(&running[index]);
        wait("the promotion", || block(client(&running[0]).member_promote(added.id)).ok());
        assert_eq!(value(&running[index], "k").as_deref(), Some("v"));
    }
    let gone = running.pop().unwrap();
    let id = block(gone.status()).unwrap().header.unwrap().member_id;
    let first = client(&running[0]);
    block(when_healthy(|| first.member_remove(id))).unwrap();
    wait("the removal", || (gone.state() == MemberState::Removed).then_some(()));
    assert_eq!(gone.diagnosis().starts, 1);
    gone.stop();
    assert_eq!(gone.state(), MemberState::Removed);
    let back = places[2].start(Start::Again, own(&places[2]));
    wait("the removal", || (back.state() == MemberState::Removed).then_some(()));
    write(&running[0], "k", "w");
    assert_eq!(value(&running[1], "k").as_deref(), Some("w"));
}

#[test]
fn the_last_one_goes_on_alone_by_force() {
    let folder = Folder::new();
    let (place, lost) = (Place::new(&folder, "m"), Place::new(&folder, "lost"));
    let member = place.found();
    ready(&member);
    write(&member, "k", "v");
    // One that never starts takes the majority away.
    block(client(&member).member_add(&[lost.url("http")], MemberKind::Voter)).unwrap();
    kill(&member, Signal::KILL);
    member.stop();
    let forced = place.start(Start::ForceNew, None);
    ready(&forced);
    assert_eq!(value(&forced, "k").as_deref(), Some("v"));
    write(&forced, "k", "w");
    assert_eq!(block(client(&forced).member_list()).unwrap().len(), 1);
    assert!(TcpStream::connect(place.listen()).is_err(), "it listens for no peers");
    forced.stop();
    let again = place.start(Start::Again, None);
    ready(&again);
    assert_eq!(value(&again, "k").as_deref(), Some("w"));
    assert!(TcpStream::connect(place.listen()).is_ok());
}

#[test]
fn another_identity_is_shown_at_the_next_handshake() {
    let folder = Folder::new();
    let certificates = EtcdCertificates::new();
    let (first, second, peer) = (certificates.issue("m"), certificates.issue("m"), certificates.issue("peer"));
    let der = |issued: &EtcdIdentity| CertificateDer::from_pem_slice(issued.certificate.as_bytes()).unwrap().to_vec();
    let place = Place::new(&folder, "m");
    let member = place.start(token(), Some(tls(&certificates, &first)));
    ready(&member);
    assert_eq!(shown(place.listen(), &certificates, &peer).unwrap(), der(&first));
    member.replace_identity(&identity(&second)).unwrap();
    assert_eq!(shown(place.listen(), &certificates, &peer).unwrap(), der(&second));
    assert_eq!(member.diagnosis().starts, 1);
    // Handshakes while it is replaced show one or the other, or fail.
    std::thread::scope(|threads| {
        let replacing = threads.spawn(|| {
            for _ in 0..2_000 {
                member.replace_identity(&identity(&first)).unwrap();
                member.replace_identity(&identity(&second)).unwrap();
            }
        });
        let mut seen = 0;
        while !replacing.is_finished() {
            if let Ok(certificate) = shown(place.listen(), &certificates, &peer) {
                assert!(certificate == der(&first) || certificate == der(&second));
                seen += 1;
            }
        }
        assert!(seen > 0);
    });
    assert_eq!(shown(place.listen(), &certificates, &peer).unwrap(), der(&second));
    // After a start, too.
    member.restart();
    wait("another process", || (member.diagnosis().starts == 2).then_some(()));
    ready(&member);
    assert_eq!(shown(place.listen(), &certificates, &peer).unwrap(), der(&second));
    let plain = Place::new(&folder, "plain").found();
    assert_eq!(plain.replace_identity(&identity(&first)).unwrap_err(), "this member has no TLS with peers");
}

#[test]
fn the_key_is_in_no_file_no_argument_and_no_variable() {
    let folder = Folder::new();
    let certificates = EtcdCertificates::new();
    let issued = certificates.issue("m");
    let member = Place::new(&folder, "m").start(token(), Some(tls(&certificates, &issued)));
    ready(&member);
    let secret = issued.key.lines().nth(1).unwrap();
    let has_it = |bytes: &[u8]| String::from_utf8_lossy(bytes).contains(secret);
    let proc = |name: &str| fs::read(format!("/proc/{}/{name}", member.diagnosis().pid.unwrap())).unwrap();
    // What is looked for would be found.
    assert!(has_it(&proc("fd/0")));
    let mut files = 0;
    let mut folders = vec![folder.path("")];
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(next).unwrap().map(Result::unwrap) {
            let kind = entry.file_type().unwrap();
            if kind.is_dir() {
                folders.push(entry.path());
            } else if kind.is_file() {
                files += 1;
                assert!(!has_it(&fs::read(entry.path()).unwrap()), "{}", entry.path().display());
            }
        }
    }
    assert!(files > 2, "of etcd");
    assert!(!has_it(&proc("cmdline")) && !has_it(&proc("environ")));
    assert_eq!(proc("environ"), b"GOMEMLIMIT=1073741824\0");
    assert!(!has_it(format!("{:?}", member.diagnosis()).as_bytes()));
}

#[test]
#[ignore = "changes the whole process: run by the test below"]
fn start_it_from_a_hardened_process() {
    casemate_server::process::harden().unwrap();
    let folder = Folder::new();
    let certificates = EtcdCertificates::new();
    let member = Place::new(&folder, "m").start(token(), Some(tls(&certificates, &certificates.issue("m"))));
    ready(&member);
    member.replace_identity(&identity(&certificates.issue("m"))).unwrap();
    // As casemated is found when nobody says where it is.
    assert!(Command::new("/proc/self/exe").arg("--list").stdout(Stdio::null()).status().unwrap().success());
}

/// A hardened process has no right to its own entries in `/proc` but the kernel's exceptions.
#[test]
fn a_hardened_process_can_start_it() {
    let test = std::env::current_exe().unwrap();
    let arguments = ["--exact", "start_it_from_a_hardened_process", "--ignored"];
    let output = Command::new(test).args(arguments).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}
