//! One endpoint, and the connection to it.

use std::fmt::Display;
use std::fs::File;
use std::future::{Future, poll_fn};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use casemate_api::limits::{
    ETCD_ADDRESSES_MAX, ETCD_PING_ANSWER_MS, ETCD_PING_MS, ETCD_REPLY_MAX_BYTES, ETCD_REQUEST_MAX_BYTES,
    ETCD_WINDOW_BYTES,
};
use hyper::body::Incoming;
use hyper::client::conn::http2::{Builder, SendRequest};
use hyper::http::uri::PathAndQuery;
use hyper::{Request, Response, Uri};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::ProtocolVersion;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::{Mutex, oneshot};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::body::Body;
use tonic::client::Grpc;
use tonic::metadata::MetadataValue;
use tonic::{Status, Streaming};
use tonic_prost::ProstCodec;
use tower_service::Service;

use crate::address::{Address, Place};
use crate::error::{Error, Sending, with_causes};
use crate::proto::{StatusRequest, StatusResponse};
use crate::tls::{ALPN, Tls};
use crate::version::refused_version;

/// What etcd calls a message: it can be sent, received and measured.
pub(crate) trait Message: prost::Message + Default + Clone + Send + Sync + 'static {}
impl<M: prost::Message + Default + Clone + Send + Sync + 'static> Message for M {}

/// A method of etcd, and how it is called.
#[derive(Clone, Copy)]
pub(crate) struct Method {
    /// `/package.Service/Method`.
    pub(crate) path: &'static str,
    /// Whether a member without a leader is to refuse it at once.
    pub(crate) leader: bool,
}

impl Method {
    pub(crate) const STATUS: Self = Self { path: "/etcdserverpb.Maintenance/Status", leader: false };

    fn path(self) -> PathAndQuery {
        PathAndQuery::from_static(self.path)
    }

    fn request<M>(self, message: M) -> tonic::Request<M> {
        let mut request = tonic::Request::new(message);
        if self.leader {
            // `rpctypes.MetadataRequireLeaderKey`.
            request.metadata_mut().insert("hasleader", MetadataValue::from_static("true"));
        }
        request
    }
}

/// One endpoint. It has no connection, or one that all calls share.
pub(crate) struct Node {
    pub(crate) address: Address,
    tls: Option<Tls>,
    connected: Mutex<Option<Connected>>,
}

/// A connection that has answered a call.
#[derive(Clone)]
struct Connected {
    channel: Channel,
    /// Whether a call on it got no answer in time. It may be dead without anybody having noticed, so the next call makes
    /// another one, or finds that it cannot. Calls that run on it go on: it ends with the last of them.
    suspect: Arc<AtomicBool>,
}

impl Connected {
    fn is_usable(&self) -> bool {
        !self.channel.0.is_closed() && !self.suspect.load(Ordering::Relaxed)
    }
}

impl Node {
    pub(crate) fn new(address: Address, tls: Option<Tls>) -> Self {
        Self { address, tls, connected: Mutex::new(None) }
    }

    /// Calls `method`, until `until`; to connect, until `connect_until` at most.
    pub(crate) async fn unary<Req: Message, Res: Message>(
        &self,
        expected: &Expected,
        method: Method,
        message: Req,
        (connect_until, until): (Instant, Instant),
    ) -> Result<Res, Error> {
        let connected = self.connected(expected, connect_until.min(until)).await?;
        let left = until.saturating_duration_since(Instant::now());
        let mut request = method.request(message);
        // So that etcd, too, gives up.
        request.set_timeout(left);
        let mut grpc = self.grpc(&connected.channel);
        ready(&mut grpc).await?;
        let call = grpc.unary(request, method.path(), ProstCodec::<Req, Res>::default());
        match timeout_at(until, call).await {
            Ok(Ok(response)) => Ok(response.into_inner()),
            Ok(Err(status)) => Err(Error::of(&status)),
            Err(_) => {
                connected.suspect.store(true, Ordering::Relaxed);
                Err(Error::Unknown(format!("no answer within {} ms", left.as_millis())))
            }
        }
    }

    /// Opens a stream in both directions. `requests` must have the first message in it, for which etcd waits.
    pub(crate) async fn stream<Req: Message, Res: Message>(
        &self,
        expected: &Expected,
        method: Method,
        requests: impl tokio_stream::Stream<Item = Req> + Send + 'static,
        (connect_until, until): (Instant, Instant),
    ) -> Result<Streaming<Res>, Error> {
        let connected = self.connected(expected, connect_until.min(until)).await?;
        let mut grpc = self.grpc(&connected.channel);
        ready(&mut grpc).await?;
        let call = grpc.streaming(method.request(requests), method.path(), ProstCodec::<Req, Res>::default());
        match timeout_at(until, call).await {
            Ok(Ok(response)) => Ok(response.into_inner()),
            Ok(Err(status)) => Err(Error::of(&status)),
            Err(_) => {
                connected.suspect.store(true, Ordering::Relaxed);
                Err(Error::Unknown("no answer in time".into()))
            }
        }
    }

    /// The present connection, or a new one. Errors: `NotBegun`, `Refused`, `Unsupported`.
    async fn connected(&self, expected: &Expected, until: Instant) -> Result<Connected, Error> {
        let attempt = async {
            let mut connected = self.connected.lock().await;
            if let Some(connected) = connected.as_ref().filter(|connected| connected.is_usable()) {
                return Ok(connected.clone());
            }
            *connected = None;
            let new = Connected { channel: self.connect(expected).await?, suspect: Arc::default() };
            *connected = Some(new.clone());
            Ok(new)
        };
        timeout_at(until, attempt).await.unwrap_or_else(|_| Err(Error::NotBegun("no connection in time".into())))
    }

    async fn connect(&self, expected: &Expected) -> Result<Channel, Error> {
        let (channel, ended) = match (&self.address.0, &self.tls) {
            (Place::Unix(path), _) => handshake(unix(path).await.map_err(not_begun)?).await?,
            (Place::Host { host, port }, None) => handshake(self.tcp(host, *port).await?).await?,
            (Place::Host { host, port }, Some(tls)) => {
                let name = ServerName::try_from(host.clone()).map_err(not_begun)?;
                let tcp = self.tcp(host, *port).await?;
                let mut stream =
                    TlsConnector::from(Arc::clone(&tls.0)).connect(name, tcp).await.map_err(tls_failure)?;
                if stream.get_ref().1.alpn_protocol() != Some(ALPN) {
                    return Err(Error::NotBegun("it does not speak HTTP/2 over TLS, as etcd does".into()));
                }
                await_first_record(&mut stream).await?;
                handshake(stream).await?
            }
        };
        self.probe(expected, &channel, ended).await?;
        tracing::debug!(endpoint = %self.address, "connected to etcd");
        Ok(channel)
    }

    async fn tcp(&self, host: &str, port: u16) -> Result<TcpStream, Error> {
        let found: Vec<SocketAddr> = match host.parse::<IpAddr>() {
            Ok(ip) => vec![(ip, port).into()],
            Err(_) => tokio::net::lookup_host((host, port)).await.map_err(not_begun)?.collect(),
        };
        let mut why = Error::NotBegun("the name has no address".into());
        for address in found.into_iter().take(ETCD_ADDRESSES_MAX) {
            if self.tls.is_none() && !address.ip().is_loopback() {
                return Err(Error::Refused("without TLS it must be on this machine".into()));
            }
            match TcpStream::connect(address).await {
                Ok(tcp) => {
                    let _ = tcp.set_nodelay(true);
                    return Ok(tcp);
                }
                Err(error) => why = not_begun(error),
            }
        }
        Err(why)
    }

    /// A first call: only its answer shows that the member is there and accepts this client.
    async fn probe(
        &self,
        expected: &Expected,
        channel: &Channel,
        ended: oneshot::Receiver<String>,
    ) -> Result<(), Error> {
        let codec = ProstCodec::<StatusRequest, StatusResponse>::default();
        let request = Method::STATUS.request(StatusRequest {});
        let mut grpc = self.grpc(channel);
        ready(&mut grpc).await?;
        let status = match grpc.unary(request, Method::STATUS.path(), codec).await {
            Ok(status) => status.into_inner(),
            Err(status) => {
                if let refused @ Error::Refused(_) = Error::of(&status) {
                    return Err(refused);
                }
                // The connection knows more than the call, if it has ended.
                let ended = timeout(Duration::from_millis(100), ended).await.ok().and_then(Result::ok);
                let why = ended.unwrap_or_else(|| with_causes(&status));
                return Err(if why.contains(ALERT) { Error::Refused(why) } else { Error::NotBegun(why) });
            }
        };
        expected.admit(&status)
    }

    fn grpc(&self, channel: &Channel) -> Grpc<Channel> {
        let tls = self.tls.is_some() && matches!(self.address.0, Place::Host { .. });
        let scheme = if tls { "https" } else { "http" };
        let origin = Uri::builder().scheme(scheme).authority(self.address.authority()).path_and_query("/").build();
        // An address always makes a URI; without one etcd refuses the call, and nothing is done.
        Grpc::with_origin(channel.clone(), origin.unwrap_or_default())
            .max_decoding_message_size(ETCD_REPLY_MAX_BYTES)
            .max_encoding_message_size(ETCD_REQUEST_MAX_BYTES)
    }
}

/// What every member has to be.
#[derive(Default)]
pub(crate) struct Expected {
    /// The cluster that all endpoints belong to: that of the first one that answered.
    cluster: AtomicU64,
}

impl Expected {
    /// Whether the member that says this about itself is used. Errors: `Refused`, `Unsupported`.
    fn admit(&self, status: &StatusResponse) -> Result<(), Error> {
        if let Some(why) = refused_version(&status.version) {
            return Err(Error::Unsupported(why));
        }
        // Revisions of two clusters have nothing to do with each other, so failing over to another one would be worse than
        // no answer.
        let found = status.header.as_ref().map_or(0, |header| header.cluster_id);
        let first = self.cluster.compare_exchange(0, found, Ordering::Relaxed, Ordering::Relaxed);
        match first {
            Err(known) if known != found => {
                Err(Error::Refused(format!("it belongs to the cluster {found:x}, others to {known:x}")))
            }
            _ => Ok(()),
        }
    }
}

/// Connects through the open folder of the socket, because the address of a socket has 107 bytes only.
async fn unix(path: &Path) -> io::Result<UnixStream> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not the path of a socket"));
    };
    let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
    let folder = File::open(parent)?;
    UnixStream::connect(Path::new("/proc/self/fd").join(folder.as_raw_fd().to_string()).join(name)).await
}

async fn ready(grpc: &mut Grpc<Channel>) -> Result<(), Error> {
    grpc.ready().await.map_err(not_begun)
}

/// Starts HTTP/2 and the task that moves its frames. The receiver gets the reason when the connection fails.
async fn handshake<T>(stream: T) -> Result<(Channel, oneshot::Receiver<String>), Error>
where
    T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        // etcd closes connections that ping without a stream, or more often than every five seconds
        // (`--grpc-keepalive-min-time`).
        .keep_alive_interval(Duration::from_millis(ETCD_PING_MS))
        .keep_alive_timeout(Duration::from_millis(ETCD_PING_ANSWER_MS))
        .keep_alive_while_idle(false)
        .initial_stream_window_size(ETCD_WINDOW_BYTES)
        .initial_connection_window_size(ETCD_WINDOW_BYTES);
    let (sender, connection) = builder.handshake(TokioIo::new(stream)).await.map_err(not_begun)?;
    let (ended, end) = oneshot::channel();
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            // Nobody listens any more once the connection is in use.
            let _ = ended.send(with_causes(&error));
        }
    });
    Ok((Channel(sender), end))
}

/// With TLS 1.3 a server looks at the certificate of a client after the handshake has ended for the client (RFC 8446 §4.4.2),
/// and if it refuses it, a request that is already on the way makes the network stack throw the alert away that tells why. So
/// its first record is awaited, which is a session ticket or that alert. A server that sends neither is not waited for.
async fn await_first_record(stream: &mut TlsStream<TcpStream>) -> Result<(), Error> {
    if stream.get_ref().1.protocol_version() != Some(ProtocolVersion::TLSv1_3) {
        return Ok(());
    }
    let first = poll_fn(|context| {
        // It takes no data out.
        match Pin::new(&mut *stream).poll_read(context, &mut ReadBuf::new(&mut [])) {
            Poll::Pending if stream.get_ref().1.tls13_tickets_received() > 0 => Poll::Ready(Ok(())),
            read => read,
        }
    });
    match timeout(FIRST_RECORD, first).await {
        Ok(Err(error)) => Err(tls_failure(error)),
        Ok(Ok(())) | Err(_) => Ok(()),
    }
}

/// Go's TLS, and so etcd, sends a ticket at once.
const FIRST_RECORD: Duration = Duration::from_millis(200);

fn not_begun(why: impl Display) -> Error {
    Error::NotBegun(why.to_string())
}

fn tls_failure(error: std::io::Error) -> Error {
    use rustls::Error::{AlertReceived, InvalidCertificate};
    match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        Some(inner @ (InvalidCertificate(_) | AlertReceived(_))) => Error::Refused(inner.to_string()),
        _ => not_begun(error),
    }
}

/// How rustls calls it when the other side breaks off. Through HTTP/2 only the text of an error comes.
const ALERT: &str = "received fatal alert";

/// A connection as tonic wants it.
#[derive(Clone)]
pub(crate) struct Channel(SendRequest<Body>);

impl Service<Request<Body>> for Channel {
    type Response = Response<Incoming>;
    type Error = Sending;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Sending>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Sending>> {
        self.0.poll_ready(context).map_err(|error| Sending { begun: false, why: with_causes(&error) })
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let sent = self.0.try_send_request(request);
        Box::pin(async move {
            sent.await.map_err(|mut error| {
                // hyper gives the request back if it has not begun to write it.
                let begun = error.take_message().is_none();
                Sending { begun, why: with_causes(error.error()) }
            })
        })
    }
}

/// For the type of a stream's end.
pub(crate) fn interrupted(status: &Status) -> Error {
    match Error::of(status) {
        Error::NotBegun(why) => Error::Unknown(why),
        error => error,
    }
}
