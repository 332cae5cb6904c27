//! HTTP/1.1 over one TLS connection, with control over every byte.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::any_certificate;

/// Longest wait for an answer.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// A complete request.
#[derive(Clone)]
pub struct Ask {
    pub method: &'static str,
    /// Path below `/api/v1`.
    pub path: String,
    /// `user:passphrase`
    pub login: Option<String>,
    pub media: &'static str,
    pub body: Vec<u8>,
}

impl Ask {
    pub fn get(path: impl Into<String>) -> Self {
        Self { method: "GET", path: path.into(), login: None, media: JSON, body: Vec::new() }
    }

    pub fn post(path: impl Into<String>, body: impl Into<Vec<u8>>) -> Self {
        Self { method: "POST", body: body.into(), ..Self::get(path) }
    }

    pub fn put(path: impl Into<String>, body: impl Into<Vec<u8>>) -> Self {
        Self { method: "PUT", ..Self::post(path, body) }
    }

    pub fn login(self, login: impl Into<Option<String>>) -> Self {
        Self { login: login.into(), ..self }
    }

    /// `Authorization`, if there are credentials.
    pub fn basic(&self) -> Option<String> {
        self.login.as_ref().map(|login| format!("Basic {}", BASE64_STANDARD.encode(login)))
    }

    /// The head of the request over HTTP/1.1, with the length of its body.
    pub fn head(&self) -> Vec<u8> {
        let mut head = format!("{} /api/v1{} HTTP/1.1\r\nhost: hsm\r\n", self.method, self.path);
        if let Some(basic) = self.basic() {
            head.push_str(&format!("authorization: {basic}\r\n"));
        }
        if !self.body.is_empty() {
            head.push_str(&format!("content-type: {}\r\n", self.media));
        }
        head.push_str(&format!("content-length: {}\r\n\r\n", self.body.len()));
        head.into_bytes()
    }
}

/// The parts of a reply that are evaluated.
pub struct Reply {
    pub status: u16,
    /// Whether it has a Retry-After header.
    pub retry_after: bool,
    /// Whether the server closes the connection after it.
    pub last: bool,
}

/// A connection.
pub struct Line {
    tls: TlsStream<TcpStream>,
    ahead: Vec<u8>,
}

impl Line {
    /// Connects from `source`, an address of this machine.
    pub async fn open(source: IpAddr, server: SocketAddr) -> io::Result<Self> {
        Ok(Self { tls: secure(source, server, any_certificate::config()).await?, ahead: Vec::new() })
    }

    /// Sends bytes.
    pub async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.tls.write_all(bytes).await?;
        self.tls.flush().await
    }

    /// Sends a request and reads its reply.
    pub async fn call(&mut self, ask: &Ask) -> io::Result<Reply> {
        // A server that refuses at the head may have stopped reading; its reply is still there.
        let _ = self.send(&[ask.head(), ask.body.clone()].concat()).await;
        self.reply().await
    }

    /// Reads one reply to its end.
    pub async fn reply(&mut self) -> io::Result<Reply> {
        let end = loop {
            if let Some(at) = find(&self.ahead, b"\r\n\r\n") {
                break at + 4;
            }
            self.more().await?;
        };
        let rest = self.ahead.split_off(end);
        let head = std::mem::replace(&mut self.ahead, rest).to_ascii_lowercase();
        let head = String::from_utf8(head).map_err(io::Error::other)?;
        let header = |name: &str| head.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
        let status = status.ok_or_else(|| io::Error::other("no status"))?;
        if header("transfer-encoding:") == Some("chunked") {
            while !self.ahead.ends_with(b"0\r\n\r\n") {
                self.more().await?;
            }
            self.ahead.clear();
        } else {
            let length = header("content-length:").and_then(|length| length.parse().ok()).unwrap_or(0);
            while self.ahead.len() < length {
                self.more().await?;
            }
            self.ahead.drain(..length);
        }
        let last = header("connection:") == Some("close");
        Ok(Reply { status, retry_after: header("retry-after:").is_some(), last })
    }

    async fn more(&mut self) -> io::Result<()> {
        match self.tls.read_buf(&mut self.ahead).await? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }
}

/// A TLS connection from `source`.
pub async fn secure(source: IpAddr, server: SocketAddr, config: Arc<ClientConfig>) -> io::Result<TlsStream<TcpStream>> {
    let socket = TcpSocket::new_v4()?;
    socket.bind(SocketAddr::new(source, 0))?;
    let tcp = socket.connect(server).await?;
    tcp.set_nodelay(true)?;
    TlsConnector::from(config).connect(ServerName::IpAddress(server.ip().into()), tcp).await
}

fn find(text: &[u8], what: &[u8]) -> Option<usize> {
    text.windows(what.len()).position(|window| window == what)
}

const JSON: &str = "application/json";
