//! A small HTTP/1.1 client that sends exactly the bytes it is given, valid or not, and parses replies strictly.
//!
//! It is blocking and has no threads of its own, so that a test states in order what goes over the wire.

use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, RootCertStore};
use serde_json::Value;

/// A test that waits longer than this for a byte has found a hanging server.
const PATIENCE: Duration = Duration::from_secs(30);

/// Trusts exactly this certificate.
pub fn trusting(certificate: Vec<u8>) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(certificate.into()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    Arc::new(config.with_root_certificates(roots).with_no_client_auth())
}

/// One TLS connection.
pub struct Wire {
    tls: ClientConnection,
    tcp: TcpStream,
    /// Received and not yet read.
    ahead: Vec<u8>,
}

impl Wire {
    /// Connects from `source`, an address of this machine.
    pub fn connect(config: Arc<ClientConfig>, source: IpAddr, server: SocketAddr) -> Self {
        Self::try_connect(config, source, server).unwrap()
    }

    /// The same; `Err` if the handshake fails, for instance because the server is not trusted.
    pub fn try_connect(config: Arc<ClientConfig>, source: IpAddr, server: SocketAddr) -> io::Result<Self> {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        socket.bind(&SocketAddr::new(source, 0).into()).unwrap();
        socket.connect(&server.into()).unwrap();
        let mut tcp = TcpStream::from(socket);
        tcp.set_nodelay(true).unwrap();
        tcp.set_read_timeout(Some(PATIENCE)).unwrap();
        tcp.set_write_timeout(Some(PATIENCE)).unwrap();
        let name = ServerName::IpAddress(server.ip().into());
        let mut tls = ClientConnection::new(config, name).unwrap();
        while tls.is_handshaking() {
            tls.complete_io(&mut tcp)?;
        }
        Ok(Self { tls, tcp, ahead: Vec::new() })
    }

    /// Sends bytes. A server may answer and close before it has read everything, which shows in the reply.
    pub fn send(&mut self, bytes: &[u8]) {
        for piece in bytes.chunks(16 << 10) {
            self.tls.writer().write_all(piece).unwrap();
            while self.tls.wants_write() {
                if self.tls.write_tls(&mut self.tcp).is_err() {
                    return;
                }
            }
        }
    }

    /// Reads one reply to a request of this method.
    pub fn reply(&mut self, method: &str) -> Reply {
        self.try_reply(method).expect("a whole reply")
    }

    /// Reads one reply; `Err` if the connection breaks before its end.
    pub fn try_reply(&mut self, method: &str) -> io::Result<Reply> {
        let head = self.until(b"\r\n\r\n")?;
        let head = String::from_utf8(head).expect("the head of a reply is text");
        let mut lines = head.trim_end_matches("\r\n").split("\r\n");
        let status_line = lines.next().unwrap();
        let mut words = status_line.splitn(3, ' ');
        assert_eq!(words.next(), Some("HTTP/1.1"), "{status_line}");
        let status = words.next().unwrap().parse().unwrap();
        let headers = lines.map(|line| {
            let (name, value) = line.split_once(": ").unwrap_or_else(|| panic!("a header line: {line:?}"));
            (name.to_ascii_lowercase(), value.to_owned())
        });
        let mut reply = Reply { asked: String::new(), status, headers: headers.collect(), body: Vec::new() };
        if method == "HEAD" || status < 200 || status == 204 || status == 304 {
            return Ok(reply);
        }
        reply.body = match (reply.header("content-length"), reply.header("transfer-encoding")) {
            (Some(length), None) => self.exactly(length.parse().expect("a length"))?,
            (None, Some("chunked")) => self.chunks()?,
            framing => panic!("one framing: {framing:?}"),
        };
        Ok(reply)
    }

    fn chunks(&mut self) -> io::Result<Vec<u8>> {
        let mut body = Vec::new();
        loop {
            let line = self.until(b"\r\n")?;
            let size = usize::from_str_radix(std::str::from_utf8(&line).unwrap().trim_end(), 16).expect("a chunk size");
            let chunk = self.exactly(size + 2)?;
            assert!(chunk.ends_with(b"\r\n"), "a chunk ends with its line");
            body.extend_from_slice(&chunk[..size]);
            if size == 0 {
                return Ok(body);
            }
        }
    }

    fn until(&mut self, end: &[u8]) -> io::Result<Vec<u8>> {
        loop {
            if let Some(at) = self.ahead.windows(end.len()).position(|window| window == end) {
                return self.exactly(at + end.len());
            }
            self.more()?;
        }
    }

    fn exactly(&mut self, length: usize) -> io::Result<Vec<u8>> {
        while self.ahead.len() < length {
            self.more()?;
        }
        let rest = self.ahead.split_off(length);
        Ok(std::mem::replace(&mut self.ahead, rest))
    }

    /// Reads what has arrived, and never writes: a server that has stopped reading may still have sent a reason.
    fn more(&mut self) -> io::Result<()> {
        loop {
            let mut piece = [0; 16 << 10];
            match self.tls.reader().read(&mut piece) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(length) => {
                    self.ahead.extend_from_slice(&piece[..length]);
                    return Ok(());
                }
                Err(why) if why.kind() == io::ErrorKind::WouldBlock => {}
                Err(why) => return Err(why),
            }
            self.tls.read_tls(&mut self.tcp)?;
            self.tls.process_new_packets().map_err(io::Error::other)?;
        }
    }
}

/// A complete reply.
#[derive(Clone, Debug)]
pub struct Reply {
    /// The request, for messages of failed tests.
    pub asked: String,
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Reply {
    /// The only header of this name, in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut found = self.headers.iter().filter(|(known, _)| known == name);
        let value = found.next().map(|(_, value)| value.as_str());
        assert!(found.next().is_none(), "{name} twice: {self}");
        value
    }

    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("text")
    }

    #[track_caller]
    pub fn json(&self) -> Value {
        assert_eq!(self.header("content-type"), Some("application/json"), "{self}");
        serde_json::from_slice(&self.body).unwrap_or_else(|why| panic!("{why}: {self}"))
    }

    /// The message of an error body, which has no other member.
    #[track_caller]
    pub fn message(&self) -> String {
        let json = self.json();
        let members = json.as_object().unwrap_or_else(|| panic!("an object: {self}"));
        assert_eq!(members.len(), 1, "{self}");
        members["message"].as_str().unwrap_or_else(|| panic!("a message: {self}")).to_owned()
    }

    #[track_caller]
    pub fn is(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{self}");
        self
    }

    /// Asserts the status that case `number` of `docs/contract.md` requires.
    #[track_caller]
    pub fn case(self, number: u32, status: u16) -> Self {
        assert_eq!(self.status, status, "case {number}: {self}");
        self
    }

    /// Asserts that the body is empty.
    #[track_caller]
    pub fn empty(self) -> Self {
        assert!(self.body.is_empty(), "no body: {self}");
        self
    }

    /// Asserts that the body is a JSON error with this message.
    #[track_caller]
    pub fn says(self, message: &str) -> Self {
        assert_eq!(self.message(), message, "{self}");
        self
    }
}

impl std::fmt::Display for Reply {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let body = String::from_utf8_lossy(&self.body);
        write!(f, "{}\n -> {} {:?}\n    {}", self.asked, self.status, self.headers, body)
    }
}
