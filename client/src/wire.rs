//! One connection: TCP, TLS and the buffers between them and ureq.
//!
//! It is our own for four reasons: the certificate check is ours ([`crate::tls`]); name lookup starts no thread; the
//! buffers wipe themselves; and whatever fails before a request was begun comes back as a [`Setback`], so that it is
//! certain, and not guessed, that the node never saw the request.

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
use crate::tls::Rejected;
use crate::wipe::WipedBuffers;

/// No connection came about, so no byte of the request was sent. Travels through ureq as the cause of its error.
#[derive(Debug)]
pub(crate) struct Setback(pub(crate) Cause);

impl fmt::Display for Setback {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl std::error::Error for Setback {}

impl From<Setback> for ureq::Error {
    fn from(setback: Setback) -> Self {
        ureq::Error::Other(Box::new(setback))
    }
}

/// Looks nothing up: ureq asks before every request, but only a new connection needs an address. See [`Dialer`].
#[derive(Debug)]
pub(crate) struct Later;

impl Resolver for Later {
    fn resolve(&self, _: &Uri, _: &Config, _: NextTimeout) -> Result<ResolvedSocketAddrs, ureq::Error> {
        let mut one = self.empty();
        one.push(SocketAddr::from(([0, 0, 0, 0], 0)));
        Ok(one)
    }
}

/// Makes connections.
pub(crate) struct Dialer {
    pub(crate) tls: Arc<ClientConfig>,
    pub(crate) connect: Duration,
    /// Handshakes that were completed.
    pub(crate) handshakes: Arc<AtomicU64>,
}

impl fmt::Debug for Dialer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Dialer")
    }
}

impl Connector for Dialer {
    type Out = Wire;

    fn connect(&self, details: &ConnectionDetails<'_>, _: Option<()>) -> Result<Option<Wire>, ureq::Error> {
        let limit = self.connect.min(*details.timeout.after);
        let deadline = clock::now() + limit;
        let host = bare(details.uri.host().unwrap_or_default());
        let port = details.uri.port_u16().unwrap_or(443);
        let tcp = dial(&look_up(host, port)?, deadline)?;
        let tls = shake_hands(&self.tls, host, &tcp, deadline)?;
        self.handshakes.fetch_add(1, Ordering::Relaxed);
        Ok(Some(Wire { tcp: Socket::new(tcp), tls, buffers: WipedBuffers::new(), hung_up: false }))
    }
}

/// A host without the brackets of an IPv6 address.
pub(crate) fn bare(host: &str) -> &str {
    host.trim_start_matches('[').trim_end_matches(']')
}

/// Proves who the node is, as `config` asks.
pub(crate) fn shake_hands(
    config: &Arc<ClientConfig>,
    host: &str,
    tcp: &TcpStream,
    deadline: Instant,
) -> Result<ClientConnection, Setback> {
    let name = ServerName::try_from(host.to_owned()).map_err(|why| Setback(Cause::NoTls(why.to_string())))?;
    let no_tls = |why: rustls::Error| Setback(Cause::NoTls(why.to_string()));
    let mut tls = ClientConnection::new(Arc::clone(config), name).map_err(no_tls)?;
    let mut timed = Timed { tcp, deadline };
    while tls.is_handshaking() {
        tls.complete_io(&mut timed).map_err(|why| Setback(of_handshake(&why)))?;
    }
    Ok(tls)
}

/// The addresses of `host`. Name lookup is the system's, blocking, within its own limits.
pub(crate) fn look_up(host: &str, port: u16) -> Result<Vec<SocketAddr>, Setback> {
    let addresses = (host, port).to_socket_addrs().map_err(|why| Setback(Cause::NoAddress(why.to_string())))?;
    Ok(addresses.take(CLIENT_ADDRESSES_MAX).collect())
}

/// Connects to the first of the addresses that answers.
pub(crate) fn dial(addresses: &[SocketAddr], deadline: Instant) -> Result<TcpStream, Setback> {
    let mut last = Setback(Cause::NoAddress("the lookup gave none".into()));
    for (at, address) in addresses.iter().enumerate() {
        // What is left is shared, so that one silent address does not use up the time of the others.
        let share = left(deadline) / u32::try_from(addresses.len() - at).unwrap_or(1).max(1);
        match TcpStream::connect_timeout(address, share.max(SHORTEST)) {
            Ok(tcp) => {
                let _ = tcp.set_nodelay(true);
                return Ok(tcp);
            }
            Err(why) if is_timeout(&why) => last = Setback(Cause::TimedOut),
            Err(why) => last = Setback(Cause::NoConnection(why.kind())),
        }
    }
    Err(last)
}

fn of_handshake(error: &io::Error) -> Cause {
    if is_timeout(error) {
        return Cause::TimedOut;
    }
    let Some(tls) = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) else {
        return Cause::NoTls(error.kind().to_string());
    };
    Rejected::behind(tls).map_or_else(|| Cause::NoTls(tls.to_string()), |rejected| rejected.clone().into())
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock)
}

fn left(deadline: Instant) -> Duration {
    deadline.saturating_duration_since(clock::now())
}

/// The shortest limit a socket is given: zero would mean none.
const SHORTEST: Duration = Duration::from_millis(1);

/// A socket whose every read and write ends by `deadline`.
struct Timed<'a> {
    tcp: &'a TcpStream,
    deadline: Instant,
}

impl Timed<'_> {
    fn rest(&self) -> io::Result<Duration> {
        let rest = left(self.deadline);
        if rest.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(rest.max(SHORTEST)) }
    }
}

impl Read for Timed<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            self.tcp.set_read_timeout(Some(self.rest()?))?;
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
            self.tcp.set_write_timeout(Some(self.rest()?))?;
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

/// The socket of a finished connection. It remembers which limits are set, because each change is a system call.
struct Socket {
    tcp: TcpStream,
    read_limit: Duration,
    write_limit: Duration,
}

/// Reads and writes of a [`Socket`] until a deadline; none: as long as it takes.
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

/// When `timeout` ends; none: never.
fn end_of(timeout: NextTimeout) -> Option<Instant> {
    (!timeout.after.is_not_happening()).then(|| clock::now() + *timeout.after)
}

/// A limit that is set stays if it ends in time and is not much too short: who wakes too early just waits again.
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

/// A connection that has shaken hands.
pub(crate) struct Wire {
    tcp: Socket,
    tls: ClientConnection,
    buffers: WipedBuffers,
    /// The node takes no more bytes.
    hung_up: bool,
}

impl fmt::Debug for Wire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Wire")
    }
}

impl Wire {
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

    /// Reads until there is plaintext or the end; how much plaintext came. The limit is for all of it: who drips bytes of
    /// a record that is never whole, or empty ones, gains no time.
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
            // Alerts and key updates want to go out, also when the packet was refused.
            let _ = self.flush(deadline);
            state.map_err(io::Error::other)?;
        }
    }

    /// Takes in what has come without waiting; whether the connection is still good for a request.
    fn is_quiet(&mut self) -> bool {
        if self.tcp.tcp.set_nonblocking(true).is_err() {
            return false;
        }
        let mut quiet = true;
        while quiet {
            match self.tls.read_tls(&mut self.tcp.tcp) {
                Ok(0) => quiet = false,
                // Session tickets are fine; a request that nobody made has no answer.
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

/// As ureq wants it: time limits apart from other failures.
fn of_io(error: io::Error, timeout: NextTimeout) -> ureq::Error {
    if is_timeout(&error) { ureq::Error::Timeout(timeout.reason) } else { ureq::Error::Io(error) }
}

/// An end without TLS's own word for it. ureq takes some of these errors for the end of a body that has no length, which
/// anybody on the way could bring about.
fn cut_off(error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset => {
            io::Error::new(io::ErrorKind::BrokenPipe, error)
        }
        _ => error,
    }
}

impl Transport for Wire {
    fn buffers(&mut self) -> &mut dyn Buffers {
        &mut self.buffers
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), ureq::Error> {
        // A node that refuses an upload answers and hangs up before it has read everything: the answer counts, not that
        // the rest could not be sent. If there is none, reading says so.
        let sent = if self.hung_up { Ok(()) } else { self.send(amount, timeout) };
        self.buffers.sent(amount);
        match sent {
            Err(why) if matches!(why.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset) => {
                self.hung_up = true;
                Ok(())
            }
            sent => sent.map_err(|why| of_io(why, timeout.for_write())),
        }
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, ureq::Error> {
        let amount = self.receive(timeout).map_err(|why| of_io(cut_off(why), timeout.for_read()))?;
        Ok(amount > 0)
    }

    fn is_open(&mut self) -> bool {
        !self.hung_up && self.is_quiet()
    }

    fn is_tls(&self) -> bool {
        true
    }
}
