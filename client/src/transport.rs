//! One connection: TCP, TLS and the buffers between them and ureq.
//!
//! ureq's own transport is not used, for four reasons: the certificate check is ours ([`crate::tls`]); name lookup must
//! not start a thread; the buffers have to be wiped; and what fails before a request is sent must come back as
//! [`NotSent`], so that it is certain that the node never saw the request.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use casemate_api::limits::{CLIENT_ADDRESSES_MAX, CLIENT_PROBE_MS};
use rustls::{ClientConfig, ClientConnection};
use rustls_pki_types::ServerName;
use ureq::config::Config;
use ureq::http::Uri;
use ureq::unversioned::resolver::{ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{Buffers, ConnectionDetails, Connector, NextTimeout, Transport};

use crate::clock;
use crate::error::Cause;
use crate::tls::Rejection;
use crate::wipe::WipedBuffers;

/// No connection could be made, so no byte of the request was sent. ureq carries it as the cause of its error.
#[derive(Debug)]
pub(crate) struct NotSent(pub(crate) Cause);

impl fmt::Display for NotSent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl std::error::Error for NotSent {}

impl From<NotSent> for ureq::Error {
    fn from(not_sent: NotSent) -> Self {
        ureq::Error::Other(Box::new(not_sent))
    }
}

/// A resolver that resolves nothing: ureq asks it before every request, but only a new connection needs an address, which
/// [`TlsConnector`] looks up.
#[derive(Debug)]
pub(crate) struct NoLookup;

impl Resolver for NoLookup {
    fn resolve(&self, _: &Uri, _: &Config, _: NextTimeout) -> Result<ResolvedSocketAddrs, ureq::Error> {
        let mut one = self.empty();
        one.push(SocketAddr::from(([0, 0, 0, 0], 0)));
        Ok(one)
    }
}

/// Makes connections with TLS.
pub(crate) struct TlsConnector {
    pub(crate) tls: Arc<ClientConfig>,
    pub(crate) connect: Duration,
    /// Counts completed handshakes.
    pub(crate) handshakes: Arc<AtomicU64>,
}

impl fmt::Debug for TlsConnector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TlsConnector")
    }
}

impl Connector for TlsConnector {
    type Out = TlsTransport;

    fn connect(&self, details: &ConnectionDetails<'_>, _: Option<()>) -> Result<Option<TlsTransport>, ureq::Error> {
        let limit = self.connect.min(*details.timeout.after);
        let deadline = clock::now() + limit;
        let host = bare(details.uri.host().unwrap_or_default());
        let port = details.uri.port_u16().unwrap_or(443);
        let tcp = dial(&look_up(host, port)?, deadline)?;
        let tls = shake_hands(&self.tls, host, &tcp, deadline)?;
        self.handshakes.fetch_add(1, Ordering::Relaxed);
        Ok(Some(TlsTransport { tcp: Socket::new(tcp), tls, buffers: WipedBuffers::new(), input_closed: false }))
    }
}

/// A host without the brackets of an IPv6 address.
pub(crate) fn bare(host: &str) -> &str {
    host.trim_start_matches('[').trim_end_matches(']')
}

/// Makes the TLS handshake until `deadline`; `config` checks the certificate.
pub(crate) fn shake_hands(
    config: &Arc<ClientConfig>,
    host: &str,
    tcp: &TcpStream,
    deadline: Instant,
) -> Result<ClientConnection, NotSent> {
    let name = ServerName::try_from(host.to_owned()).map_err(|why| NotSent(Cause::TlsFailed(why.to_string())))?;
    let no_tls = |why: rustls::Error| NotSent(Cause::TlsFailed(why.to_string()));
    let mut tls = ClientConnection::new(Arc::clone(config), name).map_err(no_tls)?;
    let mut timed = Timed { tcp, deadline };
    while tls.is_handshaking() {
        tls.complete_io(&mut timed).map_err(|why| NotSent(cause_of_handshake(&why)))?;
    }
    Ok(tls)
}

/// The addresses of `host`, at most [`CLIENT_ADDRESSES_MAX`]. The lookup is the system's: it blocks, within its own
/// time limits.
pub(crate) fn look_up(host: &str, port: u16) -> Result<Vec<SocketAddr>, NotSent> {
    let addresses = (host, port).to_socket_addrs().map_err(|why| NotSent(Cause::LookupFailed(why.to_string())))?;
    Ok(addresses.take(CLIENT_ADDRESSES_MAX).collect())
}

/// Connects to the first of the addresses that answers.
pub(crate) fn dial(addresses: &[SocketAddr], deadline: Instant) -> Result<TcpStream, NotSent> {
    let mut last = NotSent(Cause::LookupFailed("it has no address".into()));
    for (at, address) in addresses.iter().enumerate() {
        // Each address gets an equal share of the time left, so that one that does not answer does not use it up.
        let share = left(deadline) / u32::try_from(addresses.len() - at).unwrap_or(1).max(1);
        match TcpStream::connect_timeout(address, share.max(SHORTEST)) {
            Ok(tcp) => {
                let _ = tcp.set_nodelay(true);
                return Ok(tcp);
            }
            Err(why) if is_timeout(&why) => last = NotSent(Cause::TimedOut),
            Err(why) => last = NotSent(Cause::ConnectFailed(why.kind())),
        }
    }
    Err(last)
}

fn cause_of_handshake(error: &io::Error) -> Cause {
    if is_timeout(error) {
        return Cause::TimedOut;
    }
    let Some(tls) = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) else {
        return Cause::TlsFailed(error.kind().to_string());
    };
    Rejection::in_error(tls).map_or_else(|| Cause::TlsFailed(tls.to_string()), |rejection| rejection.clone().into())
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock)
}

fn left(deadline: Instant) -> Duration {
    deadline.saturating_duration_since(clock::now())
}

/// The shortest time limit of a socket: zero would mean no limit.
const SHORTEST: Duration = Duration::from_millis(1);

/// A socket whose reads and writes end at `deadline`.
struct Timed<'a> {
    tcp: &'a TcpStream,
    deadline: Instant,
}

impl Timed<'_> {
    fn time_left(&self) -> io::Result<Duration> {
        let left = left(self.deadline);
        if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(left.max(SHORTEST)) }
    }
}

impl Read for Timed<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            self.tcp.set_read_timeout(Some(self.time_left()?))?;
            match Read::read(&mut self.tcp, buffer) {
                Err(why) if why.kind() == io::ErrorKind::Interrupted => {}
                read => return read,
            }
        }
    }
}

impl Write for Timed<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            self.tcp.set_write_timeout(Some(self.time_left()?))?;
            match Write::write(&mut self.tcp, bytes) {
                Err(why) if why.kind() == io::ErrorKind::Interrupted => {}
                written => return written,
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The socket of a connection in use. It remembers which time limits are set, because each change is a system call.
struct Socket {
    tcp: TcpStream,
    read_limit: Duration,
    write_limit: Duration,
}

/// Reads and writes of a [`Socket`] until a deadline; without one, as long as they take.
struct Until<'a> {
    socket: &'a mut Socket,
    deadline: Option<Instant>,
}

impl Socket {
    fn new(tcp: TcpStream) -> Self {
        Self { tcp, read_limit: Duration::ZERO, write_limit: Duration::ZERO }
    }

    fn until(&mut self, deadline: Option<Instant>) -> Until<'_> {
        Until { socket: self, deadline }
    }
}

/// When `timeout` ends; `None`: never.
fn end_of(timeout: NextTimeout) -> Option<Instant> {
    (!timeout.after.is_not_happening()).then(|| clock::now() + *timeout.after)
}

/// Whether the limit that is set can stay: it ends in time, and is not less than half of what is wanted. A read that
/// ends too early is simply repeated.
fn fits(set: Duration, wanted: Duration) -> bool {
    !set.is_zero() && set <= wanted && set >= wanted / 2
}

impl Until<'_> {
    /// How long the next system call may wait.
    fn limit(&self) -> io::Result<Duration> {
        match self.deadline {
            None => Ok(Duration::from_millis(CLIENT_PROBE_MS)),
            Some(deadline) if left(deadline).is_zero() => Err(io::ErrorKind::TimedOut.into()),
            Some(deadline) => Ok(left(deadline).max(SHORTEST)),
        }
    }
}

impl Read for Until<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let limit = self.limit()?;
            if !fits(self.socket.read_limit, limit) {
                self.socket.tcp.set_read_timeout(Some(limit))?;
                self.socket.read_limit = limit;
            }
            match Read::read(&mut self.socket.tcp, buffer) {
                Err(why) if is_timeout(&why) || why.kind() == io::ErrorKind::Interrupted => {}
                read => return read,
            }
        }
    }
}

impl Write for Until<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            let limit = self.limit()?;
            if !fits(self.socket.write_limit, limit) {
                self.socket.tcp.set_write_timeout(Some(limit))?;
                self.socket.write_limit = limit;
            }
            match Write::write(&mut self.socket.tcp, bytes) {
                Err(why) if is_timeout(&why) || why.kind() == io::ErrorKind::Interrupted => {}
                written => return written,
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A connection after its TLS handshake.
pub(crate) struct TlsTransport {
    tcp: Socket,
    tls: ClientConnection,
    buffers: WipedBuffers,
    /// The node accepts no more bytes.
    input_closed: bool,
}

impl fmt::Debug for TlsTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TlsTransport")
    }
}

impl TlsTransport {
    fn flush(&mut self, deadline: Option<Instant>) -> io::Result<()> {
        let mut until = self.tcp.until(deadline);
        while self.tls.wants_write() {
            if self.tls.write_tls(&mut until)? == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
        }
        Ok(())
    }

    fn send(&mut self, amount: usize, timeout: NextTimeout) -> io::Result<()> {
        let deadline = end_of(timeout.for_write());
        let mut at = 0;
        while at < amount {
            let rest = self.buffers.to_send(amount).get(at..).unwrap_or_default();
            let taken = self.tls.writer().write(rest)?;
            at += taken;
            self.flush(deadline)?;
        }
        Ok(())
    }

    /// Reads until there is plaintext or the end of the stream, and returns the number of plaintext bytes. The time
    /// limit is for all reads together, so that a peer that sends single bytes of a record, or empty records, gains no
    /// time.
    fn receive(&mut self, timeout: NextTimeout) -> io::Result<usize> {
        let deadline = end_of(timeout.for_read());
        loop {
            match self.tls.reader().read(self.buffers.input_append_buf()) {
                Ok(amount) => {
                    self.buffers.input_appended(amount);
                    return Ok(amount);
                }
                Err(why) if why.kind() == io::ErrorKind::WouldBlock => {}
                Err(why) => return Err(why),
            }
            self.tls.read_tls(&mut self.tcp.until(deadline))?;
            let state = self.tls.process_new_packets();
            // Alerts and key updates have to be sent, also when the packet was refused.
            let _ = self.flush(deadline);
            state.map_err(io::Error::other)?;
        }
    }

    /// Reads what has arrived, without waiting. Returns whether the connection can be used for a request.
    fn is_quiet(&mut self) -> bool {
        if self.tcp.tcp.set_nonblocking(true).is_err() {
            return false;
        }
        let mut quiet = true;
        while quiet {
            match self.tls.read_tls(&mut self.tcp.tcp) {
                Ok(0) => quiet = false,
                // Session tickets may arrive at any time; plaintext may not, as no request is open.
                Ok(_) => {
                    quiet = self
                        .tls
                        .process_new_packets()
                        .is_ok_and(|state| state.plaintext_bytes_to_read() == 0 && !state.peer_has_closed());
                }
                Err(why) if why.kind() == io::ErrorKind::WouldBlock => break,
                Err(why) if why.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => quiet = false,
            }
        }
        quiet && self.tcp.tcp.set_nonblocking(false).is_ok()
    }
}

/// An error as ureq expects it: time limits apart from other failures.
fn to_ureq(error: io::Error, timeout: NextTimeout) -> ureq::Error {
    if is_timeout(&error) { ureq::Error::Timeout(timeout.reason) } else { ureq::Error::Io(error) }
}

/// An error that ureq does not take for the end of the stream. Without a `close_notify` (RFC 8446 §6.1) the end may
/// come from anybody on the network path, but ureq would end a body of unknown length with it.
fn cut_off(error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset => {
            io::Error::new(io::ErrorKind::BrokenPipe, error)
        }
        _ => error,
    }
}

impl Transport for TlsTransport {
    fn buffers(&mut self) -> &mut dyn Buffers {
        &mut self.buffers
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), ureq::Error> {
        // A node that refuses an upload answers and closes the connection before it has read everything. The answer
        // counts, not that the rest could not be sent. If there is no answer, reading it fails.
        let sent = if self.input_closed { Ok(()) } else { self.send(amount, timeout) };
        self.buffers.sent(amount);
        match sent {
            Err(why) if matches!(why.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset) => {
                self.input_closed = true;
                Ok(())
            }
            sent => sent.map_err(|why| to_ureq(why, timeout.for_write())),
        }
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, ureq::Error> {
        let amount = self.receive(timeout).map_err(|why| to_ureq(cut_off(why), timeout.for_read()))?;
        Ok(amount > 0)
    }

    fn is_open(&mut self) -> bool {
        !self.input_closed && self.is_quiet()
    }

    fn is_tls(&self) -> bool {
        true
    }
}
