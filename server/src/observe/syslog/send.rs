//! The sending threads.

use std::fs::File;
use std::io::{self, BufReader, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, ToSocketAddrs, UdpSocket};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use casemate_api::limits;
use casemate_core::runtime::Clock;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use super::{Line, Outbox, Server, format};

/// Sends lines over UDP, each to the target that was set when it was logged, until the queue is closed.
pub(super) fn datagrams(outbox: &Outbox, clock: &dyn Clock) {
    let mut sockets = Sockets::default();
    while let Some(line) = outbox.queue.pop() {
        if let Some(reporter) = &line.reporter {
            let mut send = |line: &Line| {
                let number = reporter.sent.fetch_add(1, Ordering::Relaxed).wrapping_add(1);
                sockets.send(format::rfc3164(line, number).as_bytes(), reporter.address)
            };
            match send(&line) {
                Ok(()) => {
                    if let Some((lost, loss_report)) = outbox.loss_report(clock)
                        && send(&loss_report).is_err()
                    {
                        outbox.lost.fetch_add(lost, Ordering::Relaxed);
                    }
                }
                Err(_) => outbox.lose(),
            }
        }
        outbox.done(&line);
    }
}

/// A socket for each address family, created when first needed.
#[derive(Default)]
struct Sockets {
    v4: Option<UdpSocket>,
    v6: Option<UdpSocket>,
}

impl Sockets {
    fn send(&mut self, datagram: &[u8], to: SocketAddr) -> io::Result<()> {
        let (socket, any) = match to {
            SocketAddr::V4(_) => (&mut self.v4, SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0))),
            SocketAddr::V6(_) => (&mut self.v6, SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0))),
        };
        let socket = match socket {
            Some(socket) => socket,
            none => none.insert(UdpSocket::bind(any)?),
        };
        socket.send_to(datagram, to).map(|_| ())
    }
}

/// Timeouts of a sender over a stream.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// Connecting, and the TLS handshake.
    pub connect: Duration,
    /// Writing to a peer that does not read.
    pub write: Duration,
    /// Wait before the second attempt to connect; doubled after each failure.
    pub retry_min: Duration,
    /// Longest wait between attempts.
    pub retry_max: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            connect: Duration::from_millis(limits::SYSLOG_CONNECT_TIMEOUT_MS),
            write: Duration::from_millis(limits::SYSLOG_WRITE_TIMEOUT_MS),
            retry_min: Duration::from_millis(limits::SYSLOG_RETRY_MIN_MS),
            retry_max: Duration::from_millis(limits::SYSLOG_RETRY_MAX_MS),
        }
    }
}

/// The roots of trust for servers over TLS: the certificates of `file` (PEM), otherwise those of this machine. `Err` is
/// a sentence for the operator.
pub fn trust(file: Option<&Path>) -> Result<Arc<ClientConfig>, String> {
    let mut roots = RootCertStore::empty();
    match file {
        Some(file) => {
            let fault = |why: &dyn std::fmt::Display| format!("{}: {why}", file.display());
            let reader = File::open(file).map(BufReader::new).map_err(|error| fault(&error))?;
            for certificate in CertificateDer::pem_reader_iter(reader) {
                let certificate = certificate.map_err(|error| fault(&error))?;
                roots.add(certificate).map_err(|error| fault(&error))?;
            }
            if roots.is_empty() {
                return Err(fault(&"contains no certificate; a PEM file of CA certificates is needed"));
            }
        }
        None => {
            // A root that cannot be parsed only matters if the server's chain needs it, and then the handshake reports
            // it.
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            if roots.is_empty() {
                return Err("this machine has no root certificates; name those to trust with syslog-ca".into());
            }
        }
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
        .map_err(|error| error.to_string())?;
    Ok(Arc::new(config.with_root_certificates(roots).with_no_client_auth()))
}

/// The connection to one server.
pub(super) struct Stream {
    server: Server,
    tls: Option<Arc<ClientConfig>>,
    timing: Timing,
    connection: Option<Connection>,
    /// The sequence number of the last line.
    number: u32,
    host: String,
}

impl Stream {
    pub(super) fn new(server: Server, tls: Option<Arc<ClientConfig>>, timing: Timing) -> Self {
        Self { server, tls, timing, connection: None, number: 0, host: format::host_name() }
    }

    /// Sends lines until the queue is closed. A line that was not sent completely is sent again on the next connection.
    pub(super) fn run(&mut self, outbox: &Outbox, clock: &dyn Clock) {
        while let Some(line) = outbox.queue.pop() {
            let frame = self.frame(&line);
            let mut wait = self.timing.retry_min;
            let mut told = false;
            while let Err(error) = self.deliver(&frame, outbox, clock) {
                self.connection = None;
                if !std::mem::replace(&mut told, true) {
                    tracing::warn!(target: "syslog", server = %self.server, %error, "cannot reach a syslog server");
                }
                if outbox.queue.is_closed() {
                    return;
                }
                std::thread::park_timeout(wait);
                wait = (wait * 2).min(self.timing.retry_max);
            }
            if told {
                tracing::info!(target: "syslog", server = %self.server, "a syslog server is reachable again");
            }
            outbox.done(&line);
        }
    }

    fn frame(&mut self, line: &Line) -> String {
        // 2³¹ − 1 is the largest sequence number (RFC 5424 §7.3.1).
        self.number = if self.number >= i32::MAX.unsigned_abs() { 1 } else { self.number + 1 };
        format::rfc5424(line, self.number, &self.host)
    }

    fn deliver(&mut self, frame: &str, outbox: &Outbox, clock: &dyn Clock) -> io::Result<()> {
        // Data written to a connection that the peer has closed is lost without an error, so check first.
        if !self.connection.as_mut().is_some_and(|connection| connection.is_open()) {
            self.connection = Some(self.connect()?);
        }
        if let Some((lost, loss_report)) = outbox.loss_report(clock) {
            let loss_report = self.frame(&loss_report);
            if let Err(error) = self.write(&loss_report) {
                outbox.lost.fetch_add(lost, Ordering::Relaxed);
                return Err(error);
            }
        }
        self.write(frame)
    }

    fn write(&mut self, frame: &str) -> io::Result<()> {
        let connection = self.connection.as_mut().ok_or(ErrorKind::NotConnected)?;
        connection.write(frame.as_bytes())
    }

    fn connect(&self) -> io::Result<Connection> {
        let mut last = io::Error::new(ErrorKind::NotFound, "its name has no address");
        for address in (self.server.host.as_str(), self.server.port).to_socket_addrs()? {
            match TcpStream::connect_timeout(&address, self.timing.connect) {
                Ok(tcp) => return self.greet(tcp),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    fn greet(&self, mut tcp: TcpStream) -> io::Result<Connection> {
        tcp.set_nodelay(true)?;
        tcp.set_write_timeout(Some(self.timing.write))?;
        let Some(config) = self.tls.as_ref().filter(|_| self.server.tls) else { return Ok(Connection::Tcp(tcp)) };
        tcp.set_read_timeout(Some(self.timing.connect))?;
        let name = ServerName::try_from(self.server.host.clone()).map_err(io::Error::other)?;
        let mut tls = ClientConnection::new(config.clone(), name).map_err(io::Error::other)?;
        while tls.is_handshaking() {
            tls.complete_io(&mut tcp)?;
        }
        Ok(Connection::Tls(Box::new(StreamOwned::new(tls, tcp))))
    }
}

enum Connection {
    Tcp(TcpStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

impl Connection {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Connection::Tcp(tcp) => tcp.write_all(bytes),
            Connection::Tls(tls) => tls.write_all(bytes).and_then(|()| tls.flush()),
        }
    }

    /// Whether the peer has not closed it, as far as is known here.
    fn is_open(&mut self) -> bool {
        let tcp = match self {
            Connection::Tcp(tcp) => &*tcp,
            Connection::Tls(tls) => &tls.sock,
        };
        if tcp.set_nonblocking(true).is_err() {
            return false;
        }
        let open = self.look();
        let tcp = match self {
            Connection::Tcp(tcp) => &*tcp,
            Connection::Tls(tls) => &tls.sock,
        };
        tcp.set_nonblocking(false).is_ok() && open
    }

    /// Reads and discards data, which a syslog server has no reason to send, to reach the end of the connection.
    fn look(&mut self) -> bool {
        for _ in 0..LOOKS_MAX {
            let read = match self {
                Connection::Tcp(tcp) => tcp.read(&mut [0; 512]),
                Connection::Tls(tls) => match tls.conn.read_tls(&mut tls.sock) {
                    Ok(read) => match tls.conn.process_new_packets() {
                        Ok(state) if state.peer_has_closed() => Ok(0),
                        Ok(_) => {
                            // Dropped; an error here only means that there is nothing to read.
                            let _ = tls.conn.reader().read(&mut [0; 512]);
                            Ok(read)
                        }
                        Err(_) => Ok(0),
                    },
                    Err(error) => Err(error),
                },
            };
            match read {
                Ok(0) => return false,
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return error.kind() == ErrorKind::WouldBlock,
            }
        }
        // A server that sends this much is not a syslog server.
        false
    }
}

const LOOKS_MAX: usize = 16;
