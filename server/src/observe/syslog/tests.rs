//! Against real sockets of this machine.
#![allow(clippy::disallowed_methods, reason = "these tests live in real time")]

use std::io::{BufRead, BufReader};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::sync::mpsc;
use std::time::Instant;

use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use tracing::level_filters::LevelFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::reload;

use super::*;
use crate::clock::SystemClock;
use crate::scratch::Scratch;

/// Waiting longer than this is a failure.
const PATIENCE: Duration = Duration::from_secs(20);

const QUICK: Timing = Timing {
    connect: Duration::from_secs(2),
    write: Duration::from_millis(300),
    retry_min: Duration::from_millis(10),
    retry_max: Duration::from_millis(50),
};

struct Setup {
    remote: Remote,
    metrics: Arc<Metrics>,
}

fn setup(servers: &[Server], tls: Option<Arc<ClientConfig>>) -> Setup {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let metrics = Arc::new(Metrics::new(Duration::ZERO));
    let remote = Remote::start(servers, tls, QUICK, clock, &metrics).unwrap();
    Setup { remote, metrics }
}

impl Setup {
    /// Runs `work` with its events going to the remote.
    fn logging(&self, work: impl FnOnce()) {
        let subscriber = tracing_subscriber::registry().with(LevelFilter::INFO).with(SyslogLayer(self.remote.clone()));
        tracing::subscriber::with_default(subscriber, work);
    }

    fn dropped(&self) -> u64 {
        self.metrics.counted(Count::SyslogDropped)
    }
}

fn tcp(listener: &TcpListener) -> Server {
    Server { tls: false, host: "127.0.0.1".into(), port: listener.local_addr().unwrap().port() }
}

fn udp() -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

fn datagram(socket: &UdpSocket) -> String {
    let mut bytes = [0; 70_000];
    let length = socket.recv(&mut bytes).unwrap();
    String::from_utf8(bytes[..length].to_vec()).unwrap()
}

/// One message framed by its length: header and text.
fn framed(reader: &mut impl BufRead) -> Option<String> {
    let mut length = Vec::new();
    reader.read_until(b' ', &mut length).ok().filter(|read| *read > 0)?;
    let length: usize = std::str::from_utf8(&length).unwrap().trim_end().parse().unwrap();
    let mut message = vec![0; length];
    reader.read_exact(&mut message).ok()?;
    Some(String::from_utf8(message).unwrap())
}

/// The parts of an RFC 5424 message: priority, version, time, host, app, process, source, structured data, text.
fn parts(message: &str) -> [String; 9] {
    let (priority, rest) = message.strip_prefix('<').unwrap().split_once('>').unwrap();
    let (header, rest) = rest.split_once(" [").unwrap();
    let (data, text) = rest.split_once("] ").unwrap();
    let words: Vec<&str> = header.split(' ').collect();
    let [version, time, host, app, process, source] = words[..] else { panic!("{message}") };
    [priority, version, time, host, app, process, source, data, text].map(str::to_owned)
}

fn text_of(message: &str) -> String {
    let [.., text] = parts(message);
    text
}

#[test]
fn servers_are_named_by_urls() {
    for text in ["tcp://192.0.2.7:601", "tls://logs.example.org:6514", "tls://[2001:db8::7]:6514"] {
        assert_eq!(Server::parse(text).unwrap().to_string(), text);
    }
    for text in ["", "udp://a:1", "tcp://a", "tcp://a:0", "tcp://a:x", "tcp://:1", "tcp://a/b:1", "tcp://::1:1", "a:1"]
    {
        assert_eq!(Server::parse(text), None, "{text}");
    }
}

#[test]
fn udp_lines_are_numbered_and_spelled_as_nethsm_spells_them() {
    let (setup, socket) = (setup(&[], None), udp());
    setup.remote.send_to(Some(socket.local_addr().unwrap()));
    setup.logging(|| {
        tracing::info!(target: "hsm.key", "created ({})", "k");
        tracing::error!(count = 3, why = "a\nb", "broken");
    });
    let first = datagram(&socket);
    let bytes = first.as_bytes();
    let month: &[u8] = &bytes[4..7];
    assert_eq!(&bytes[..4], b"<30>");
    assert!(b"JanFebMarAprMayJunJulAugSepOctNovDec".chunks(3).any(|name| name == month), "{first}");
    let digits = |range: std::ops::Range<usize>| bytes[range].iter().all(u8::is_ascii_digit);
    assert!(bytes[7] == b' ' && digits(8..10) && bytes[10] == b' ', "{first}");
    assert!(digits(11..13) && bytes[13] == b':' && digits(14..16) && bytes[16] == b':' && digits(17..19), "{first}");
    assert_eq!(&first[19..], " keyfender hsm.key [1] created (k)");
    let second = datagram(&socket);
    assert!(second.starts_with("<27>"), "{second}");
    assert_eq!(&second[19..], " keyfender application [2] broken count=3 why=a\\nb");
}

#[test]
fn a_new_target_is_used_at_once_and_numbered_from_one() {
    let (setup, first, second) = (setup(&[], None), udp(), udp());
    let say = || setup.logging(|| tracing::info!(target: "hsm", "word"));
    setup.remote.send_to(Some(first.local_addr().unwrap()));
    say();
    assert!(datagram(&first).ends_with("hsm [1] word"));
    setup.remote.send_to(Some(second.local_addr().unwrap()));
    say();
    say();
    assert!(datagram(&second).ends_with("[1] word"));
    assert!(datagram(&second).ends_with("[2] word"));
    for off in [None, Some("0.0.0.0:514".parse().unwrap())] {
        setup.remote.send_to(off);
        say();
        first.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        second.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        assert!(first.recv(&mut [0; 99]).is_err() && second.recv(&mut [0; 99]).is_err());
    }
}

#[test]
fn a_level_counts_from_the_moment_it_is_set() {
    let (setup, socket) = (setup(&[], None), udp());
    setup.remote.send_to(Some(socket.local_addr().unwrap()));
    let (filter, handle) = reload::Layer::new(LevelFilter::INFO);
    let subscriber = tracing_subscriber::registry().with(filter).with(SyslogLayer(setup.remote.clone()));
    tracing::subscriber::with_default(subscriber, || {
        tracing::debug!("one");
        handle.reload(LevelFilter::DEBUG).unwrap();
        tracing::debug!("two");
        handle.reload(LevelFilter::ERROR).unwrap();
        tracing::warn!("three");
        tracing::error!("four");
    });
    assert!(datagram(&socket).ends_with("[1] two"));
    assert!(datagram(&socket).ends_with("[2] four"));
}

#[test]
fn a_datagram_is_as_long_as_one_can_be() {
    let (setup, socket) = (setup(&[], None), udp());
    setup.remote.send_to(Some(socket.local_addr().unwrap()));
    setup.logging(|| tracing::info!("{}", "x".repeat(100_000)));
    assert_eq!(datagram(&socket).len(), casemate_api::limits::SYSLOG_DATAGRAM_MAX_BYTES);
}

#[test]
fn lines_that_a_network_refuses_are_counted_and_reported() {
    let (setup, socket) = (setup(&[], None), udp());
    // Broadcasts need a permission that the socket does not have.
    setup.remote.send_to(Some("255.255.255.255:9".parse().unwrap()));
    setup.logging(|| (0..3).for_each(|_| tracing::info!("lost")));
    setup.remote.finish();
    assert_eq!(setup.dropped(), 3);
    setup.remote.send_to(Some(socket.local_addr().unwrap()));
    setup.logging(|| tracing::info!("back"));
    assert!(datagram(&socket).ends_with("[1] back"));
    assert!(datagram(&socket).contains("syslog [2] 3 log lines were not sent"));
}

#[test]
fn tcp_gets_rfc5424_with_its_length() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let setup = setup(&[tcp(&listener)], None);
    setup.logging(|| {
        tracing::warn!(target: "hsm.user", id = "a", "added {}", "b\u{fc}");
        tracing::info!("second");
    });
    let mut reader = BufReader::new(listener.accept().unwrap().0);
    let [priority, version, time, host, app, process, source, data, text] = parts(&framed(&mut reader).unwrap());
    assert_eq!((priority.as_str(), version.as_str(), app.as_str()), ("28", "1", "casemated"));
    let time: jiff::Timestamp = time.parse().unwrap();
    let now = jiff::Timestamp::from_second(SystemClock::new().wall().as_secs() as i64).unwrap();
    assert!((now.as_second() - time.as_second()).abs() < 30);
    assert!(!host.is_empty());
    assert_eq!((process, source.as_str()), (std::process::id().to_string(), "hsm.user"));
    assert_eq!((data.as_str(), text.as_str()), ("meta sequenceId=\"1\"", "added b\u{fc} id=a"));
    let [.., data, text] = parts(&framed(&mut reader).unwrap());
    assert_eq!((data.as_str(), text.as_str()), ("meta sequenceId=\"2\"", "second"));
}

/// A self-signed certificate for `localhost`, as the client's root of trust and the server's identity.
fn identity() -> (String, Arc<ServerConfig>) {
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(vec!["localhost".into()]).unwrap().self_signed(&key).unwrap();
    let private = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let config = config.with_no_client_auth().with_single_cert(vec![certificate.der().clone()], private).unwrap();
    (certificate.pem(), Arc::new(config))
}

fn tls_reader(config: &Arc<ServerConfig>, tcp: TcpStream) -> impl BufRead + use<> {
    BufReader::new(StreamOwned::new(ServerConnection::new(config.clone()).unwrap(), tcp))
}

#[test]
fn tls_is_verified_with_the_named_file_and_connected_again_when_it_ends() {
    let (pem, config) = identity();
    let folder = Scratch::new();
    std::fs::write(folder.path("ca.pem"), pem).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let server = Server { tls: true, host: "localhost".into(), ..tcp(&listener) };
    let setup = setup(&[server], Some(trust(Some(&folder.path("ca.pem"))).unwrap()));
    for round in ["one", "two"] {
        setup.logging(|| tracing::info!("{round}"));
        let mut reader = tls_reader(&config, listener.accept().unwrap().0);
        assert_eq!(text_of(&framed(&mut reader).unwrap()), round);
        setup.logging(|| tracing::info!("{round} again"));
        assert_eq!(text_of(&framed(&mut reader).unwrap()), format!("{round} again"));
        // Dropped: the server closes the connection, and the sender notices before it writes the next line.
    }
    assert_eq!(setup.dropped(), 0);
}

#[test]
fn a_server_with_another_certificate_gets_nothing() {
    let (pem, _) = identity();
    let (_, stranger) = identity();
    let folder = Scratch::new();
    std::fs::write(folder.path("ca.pem"), pem).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let server = Server { tls: true, host: "localhost".into(), ..tcp(&listener) };
    let setup = setup(&[server], Some(trust(Some(&folder.path("ca.pem"))).unwrap()));
    setup.logging(|| tracing::info!("for friends"));
    let mut reader = tls_reader(&stranger, listener.accept().unwrap().0);
    assert!(reader.read_until(b' ', &mut Vec::new()).is_err());
}

#[test]
fn an_unusable_ca_file_is_one_sentence() {
    let folder = Scratch::new();
    let refused = |text: &str| {
        std::fs::write(folder.path("ca.pem"), text).unwrap();
        trust(Some(&folder.path("ca.pem"))).unwrap_err()
    };
    assert!(refused("").contains("contains no certificate"));
    assert!(refused("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n").contains("ca.pem: "));
    assert!(trust(Some(&folder.path("none"))).unwrap_err().contains("No such file"));
}

#[test]
fn a_server_that_comes_back_gets_the_waiting_lines_and_the_number_of_lost_ones() {
    // No listener yet.
    let reserved = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = reserved.local_addr().unwrap();
    let server = tcp(&reserved);
    drop(reserved);
    let setup = setup(&[server], None);
    let lines = SYSLOG_WAITING_MAX + 500;
    let begun = Instant::now();
    setup.logging(|| (0..lines).for_each(|number| tracing::info!("line {number}")));
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    let dropped = setup.dropped();
    assert!((490..=500).contains(&dropped), "{dropped}");

    let listener = TcpListener::bind(address).unwrap();
    let mut reader = BufReader::new(listener.accept().unwrap().0);
    let loss_report = text_of(&framed(&mut reader).unwrap());
    assert_eq!(loss_report, format!("{dropped} log lines were not sent here: the connection was down or too slow"));
    for number in 0..lines as u64 - dropped {
        assert_eq!(text_of(&framed(&mut reader).unwrap()), format!("line {number}"));
    }
    setup.logging(|| tracing::info!("last"));
    assert_eq!(text_of(&framed(&mut reader).unwrap()), "last");
}

#[test]
fn a_peer_that_does_not_read_holds_nobody_up() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let setup = setup(&[tcp(&listener)], None);
    let (accepted, stalled) = mpsc::channel();
    std::thread::spawn(move || listener.incoming().for_each(|peer| drop(accepted.send(peer))));
    let line = "x".repeat(4_000);
    let begun = Instant::now();
    setup.logging(|| (0..20_000).for_each(|_| tracing::info!("{line}")));
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    assert!(setup.dropped() > 10_000, "{}", setup.dropped());
    let waiting = setup.remote.0.streams[0].held_bytes.load(Ordering::SeqCst);
    assert!(waiting <= SYSLOG_WAITING_MAX_BYTES, "{waiting}");
    drop(stalled.recv_timeout(PATIENCE).unwrap());
}

#[test]
fn log_lines_of_the_senders_are_not_sent() {
    let (setup, socket) = (setup(&[], None), udp());
    setup.remote.send_to(Some(socket.local_addr().unwrap()));
    setup.logging(|| {
        QUIET.set(true);
        tracing::warn!(target: "syslog", "a syslog server cannot be reached");
        QUIET.set(false);
        tracing::info!("other");
    });
    assert!(datagram(&socket).ends_with("[1] other"));
}
