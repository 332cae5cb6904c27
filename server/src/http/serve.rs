//! Accepts TLS connections and serves HTTP requests on them.
//!
//! One thread accepts on every listen address and hands each connection to the worker that has the fewest; a worker is
//! a thread with a runtime of its own, and a connection never leaves it. (With SO_REUSEPORT the kernel would spread
//! connections without regard to load, and a port taken by another user would go unnoticed.) HTTP/1.1 (RFC 9112) and
//! HTTP/2 (RFC 9113) are implemented by hyper, TLS by rustls; this file sets their limits, so that no client can occupy
//! what it does not use.
//!
//! Nothing is trusted here: every byte comes from the network.

mod extra_listeners;
mod pace;
mod shares;

use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::thread::JoinHandle;
use std::time::Duration;

use arc_swap::ArcSwap;
use casemate_api::limits;
use casemate_core::runtime::BoxFuture;
use casemate_core::runtime::stall;
use hyper::body::{Body, Bytes, Frame, Incoming, SizeHint};
use hyper::server::conn::{http1, http2};
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::{Instant, MissedTickBehavior};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use self::extra_listeners::Opening;
pub use self::extra_listeners::{ExtraListener, ExtraListeners};
use self::pace::{Activity, Counted, Running as RunningRequest, Watch};
pub(in crate::http) use self::shares::client_of;
use self::shares::{Share, Shares};
use super::budget::{Account, Budget, Grant};
use super::pieces::{Pieces, free_in_pieces};
use crate::process::Stop;

/// The application behind the server.
pub trait Service: Send + Sync + 'static {
    /// Answers one request of `peer`. A panic becomes a `500`. If the future is dropped, the client has disconnected or
    /// the grace period of a stopping server has ended.
    fn call(self: Arc<Self>, request: Request<Incoming>, peer: Peer) -> BoxFuture<'static, Response<ReplyBody>>;
}

/// The client of a connection.
#[derive(Clone)]
pub struct Peer {
    /// Address and port.
    pub address: SocketAddr,
    /// The memory account of the client.
    pub account: Arc<Account>,
}

/// Time and resource limits for clients.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Connections served at once; further ones wait in the kernel's queue.
    pub connections: usize,
    /// Limit per client, which is one IPv4 address or the first 64 bits of an IPv6 address; further connections are
    /// closed.
    pub per_client: usize,
    /// Time for the TLS handshake.
    pub handshake: Duration,
    /// Time from the handshake to the first complete request head.
    pub head: Duration,
    /// Time from a reply to the next complete request head.
    pub idle: Duration,
    /// Time a client may read nothing of a reply before the minimum pace applies.
    pub reply_grace: Duration,
    /// Minimum pace at which replies must be read, in bytes per second.
    pub reply_pace: u64,
    /// Maximum time credit for reading faster.
    pub reply_credit: Duration,
    /// Memory that all clients together may make the server use, in bytes.
    pub memory: usize,
    /// Time for running requests after a stop was requested.
    pub grace: Duration,
}

impl Bounds {
    /// The defaults, with as many connections as a process that may open `files` files can serve.
    pub fn within(files: usize) -> Self {
        let connections = limits::CONNECTIONS_MAX.min(files.saturating_sub(FILES_FOR_OTHERS).max(1));
        let per_client = limits::CONNECTIONS_PER_CLIENT_MAX.min(connections.div_ceil(4));
        Self { connections, per_client, ..Self::default() }
    }
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            connections: limits::CONNECTIONS_MAX,
            per_client: limits::CONNECTIONS_PER_CLIENT_MAX,
            handshake: Duration::from_millis(limits::HANDSHAKE_TIMEOUT_MS),
            head: Duration::from_millis(limits::HEAD_TIMEOUT_MS),
            idle: Duration::from_millis(limits::IDLE_TIMEOUT_MS),
            reply_grace: Duration::from_millis(limits::REPLY_GRACE_MS),
            reply_pace: limits::REPLY_PACE_BYTES_PER_S,
            reply_credit: Duration::from_millis(limits::REPLY_CREDIT_MS),
            memory: limits::MEMORY_BUDGET_BYTES,
            grace: Duration::from_millis(limits::SHUTDOWN_GRACE_MS),
        }
    }
}

/// Binds a listen address, early, so that a taken port is one clear error before anything else happens.
pub fn bind(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    std::net::TcpListener::bind(address)
}

/// Serves on the listeners of [`bind`] until `stop`, with `workers` serving threads. Returns at once; fails if a thread
/// or runtime cannot be created. To serve again after a stop without giving up the port, keep a clone
/// ([`std::net::TcpListener::try_clone`]) of each listener.
pub fn start(
    listeners: Vec<std::net::TcpListener>,
    tls: Arc<CertSlot>,
    workers: usize,
    service: Arc<dyn Service>,
    bounds: Bounds,
    stop: &Stop,
) -> io::Result<Running> {
    let budget = Budget::new(bounds.memory);
    let shared = Arc::new(Shared { tls: acceptor(tls)?, service, bounds, budget, stop: stop.clone() });
    let accepting = runtime()?;
    let listeners = {
        let _inside = accepting.enter();
        let listeners = listeners.into_iter().map(|listener| {
            listener.set_nonblocking(true)?;
            TcpListener::from_std(listener)
        });
        listeners.collect::<io::Result<Vec<_>>>()?
    };
    let mut threads = Vec::with_capacity(workers + 1);
    let mut inboxes = Vec::with_capacity(workers);
    for number in 0..workers.max(1) {
        let (send, receive) = mpsc::unbounded_channel();
        let (serving, shared) = (runtime()?, Arc::clone(&shared));
        // Dropping the runtime at the end cuts off connections that outlived the grace period.
        let work = move || {
            stall::serving();
            serving.block_on(work(receive, shared));
        };
        threads.push(std::thread::Builder::new().name(format!("serve-{number}")).spawn(work)?);
        inboxes.push(Worker { inbox: send, load: Arc::default() });
    }
    let (extra, openings) = mpsc::unbounded_channel();
    let accept = move || accepting.block_on(accept(listeners, openings, inboxes, shared));
    threads.push(std::thread::Builder::new().name("accept".into()).spawn(accept)?);
    Ok(Running { threads, extra: ExtraListeners(extra) })
}

/// A running server.
pub struct Running {
    threads: Vec<JoinHandle<()>>,
    extra: ExtraListeners,
}

impl Running {
    /// A handle to open further listeners.
    pub fn extra_listeners(&self) -> ExtraListeners {
        self.extra.clone()
    }

    /// Waits until the server has stopped and its last request has ended, at most [`Bounds::grace`] after the stop.
    pub fn wait(self) {
        for thread in self.threads {
            let name = thread.thread().name().unwrap_or_default().to_owned();
            if thread.join().is_err() {
                tracing::error!(name, "a serving thread panicked");
            }
        }
    }
}

/// Certificate chain and key of the server, replaceable while it runs; later handshakes present the new ones.
pub struct CertSlot(ArcSwap<CertifiedKey>);

/// Why a certificate chain and key cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum CertError {
    /// The first certificate does not match the key.
    #[error("the certificate does not belong to the key")]
    OtherKey,
    /// The chain is empty or a certificate of it cannot be read, or the key cannot be used for TLS.
    #[error("the certificate or its key cannot be used for TLS")]
    Unusable,
}

impl CertSlot {
    /// Takes a chain of DER certificates (RFC 5280), the server's own first, and its PKCS#8 key (RFC 5958).
    pub fn new(chain: Vec<Vec<u8>>, key: &[u8]) -> Result<Self, CertError> {
        certified(chain, key).map(|key| Self(ArcSwap::from_pointee(key)))
    }

    /// Checks a chain and key that are to replace the current ones.
    pub fn prepare(chain: Vec<Vec<u8>>, key: &[u8]) -> Result<Ready, CertError> {
        certified(chain, key).map(Ready)
    }

    /// Replaces chain and key.
    pub fn install(&self, ready: Ready) {
        self.0.store(Arc::new(ready.0));
    }

    /// Replaces chain and key; on error neither.
    pub fn replace(&self, chain: Vec<Vec<u8>>, key: &[u8]) -> Result<(), CertError> {
        Self::prepare(chain, key).map(|ready| self.install(ready))
    }
}

/// A checked chain and key.
pub struct Ready(CertifiedKey);

impl std::fmt::Debug for CertSlot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("CertSlot")
    }
}

impl ResolvesServerCert for CertSlot {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.load_full())
    }
}

fn certified(chain: Vec<Vec<u8>>, key: &[u8]) -> Result<CertifiedKey, CertError> {
    let chain: Vec<_> = chain.into_iter().map(CertificateDer::from).collect();
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.to_vec()));
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    CertifiedKey::from_der(chain, key, &provider).map_err(|error| match error {
        rustls::Error::InconsistentKeys(_) => CertError::OtherKey,
        _ => CertError::Unusable,
    })
}

fn acceptor(slot: Arc<CertSlot>) -> io::Result<TlsAcceptor> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
        .map_err(io::Error::other)?
        .with_no_client_auth()
        .with_cert_resolver(slot);
    config.alpn_protocols = vec![ALPN_H2.to_vec(), b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// Body of a reply: empty, complete, or streamed.
pub struct ReplyBody {
    content: Content,
    /// The grant that counts it until its last piece was read.
    grant: Option<Arc<Grant>>,
}

enum Content {
    /// The next bytes, and the pieces after them.
    Whole(Bytes, VecDeque<Vec<u8>>),
    Stream(mpsc::Receiver<Piece>),
}

enum Piece {
    Data(Bytes),
    End,
}

impl ReplyBody {
    /// An empty body.
    pub fn empty() -> Self {
        Self::whole(Bytes::new())
    }

    /// A complete body; the reply has a Content-Length.
    pub fn whole(bytes: impl Into<Bytes>) -> Self {
        Self { content: Content::Whole(bytes.into(), VecDeque::new()), grant: None }
    }

    /// A complete body in pieces.
    pub fn pieces(pieces: Pieces) -> Self {
        let (first, more) = pieces.apart();
        Self { content: Content::Whole(first.into(), more), grant: None }
    }

    /// A streamed body of unknown length, and its writer. At most `REPLY_PIECES_MAX` pieces wait for a slow client.
    pub fn stream() -> (ReplyWriter, Self) {
        let (send, receive) = mpsc::channel(limits::REPLY_PIECES_MAX);
        (ReplyWriter(send), Self { content: Content::Stream(receive), grant: None })
    }

    /// Keeps `grant` until the last piece of the body was read.
    pub fn holding(mut self, grant: Arc<Grant>) -> Self {
        self.grant = Some(grant);
        self
    }
}

impl Drop for ReplyBody {
    /// The client may have disconnected before it has read much of it.
    fn drop(&mut self) {
        if let Content::Whole(_, more) = &mut self.content {
            free_in_pieces(std::mem::take(more), self.grant.take());
        }
    }
}

/// Writes a streamed body. If dropped before [`ReplyWriter::finish`] it breaks the connection, so that a partial body
/// is never taken for a complete one.
pub struct ReplyWriter(mpsc::Sender<Piece>);

/// The client has disconnected.
#[derive(Debug, thiserror::Error)]
#[error("the client has disconnected")]
pub struct ClientGone;

/// The writer of a streamed body was dropped before its end.
#[derive(Debug, thiserror::Error)]
#[error("the reply was cut off")]
pub struct BrokenOff;

impl ReplyWriter {
    /// Sends some bytes; waits while the client is behind.
    pub async fn write(&self, bytes: impl Into<Bytes>) -> Result<(), ClientGone> {
        // Also of nothing: whoever has much to look at and little to say is not to go on for nobody.
        if self.0.is_closed() {
            return Err(ClientGone);
        }
        let mut bytes = bytes.into();
        while !bytes.is_empty() {
            self.0.send(Piece::Data(next_piece(&mut bytes))).await.map_err(|_| ClientGone)?;
        }
        Ok(())
    }

    /// Ends the body.
    pub async fn finish(self) -> Result<(), ClientGone> {
        self.0.send(Piece::End).await.map_err(|_| ClientGone)
    }
}

/// Splits a piece off the front of `bytes`, small enough to measure the pace of its client.
fn next_piece(bytes: &mut Bytes) -> Bytes {
    bytes.split_to(bytes.len().min(limits::REPLY_PIECE_BYTES))
}

impl Body for ReplyBody {
    type Data = Bytes;
    type Error = BrokenOff;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BrokenOff>>> {
        match &mut self.content {
            Content::Whole(bytes, more) => {
                if bytes.is_empty() {
                    *bytes = more.pop_front().unwrap_or_default().into();
                }
                Poll::Ready((!bytes.is_empty()).then(|| Ok(Frame::data(next_piece(bytes)))))
            }
            Content::Stream(pieces) => pieces.poll_recv(cx).map(|piece| match piece {
                Some(Piece::Data(bytes)) => Some(Ok(Frame::data(bytes))),
                Some(Piece::End) => None,
                None => Some(Err(BrokenOff)),
            }),
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(&self.content, Content::Whole(bytes, more) if bytes.is_empty() && more.is_empty())
    }

    fn size_hint(&self) -> SizeHint {
        match &self.content {
            Content::Whole(bytes, more) => {
                let more: usize = more.iter().map(Vec::len).sum();
                SizeHint::with_exact((bytes.len() + more) as u64)
            }
            Content::Stream(_) => SizeHint::default(),
        }
    }
}

/// State shared by all threads.
struct Shared {
    tls: TlsAcceptor,
    service: Arc<dyn Service>,
    bounds: Bounds,
    budget: Arc<Budget>,
    stop: Stop,
}

fn runtime() -> io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}

/// A worker, as the acceptor sees it.
struct Worker {
    inbox: mpsc::UnboundedSender<Accepted>,
    load: Arc<AtomicUsize>,
}

/// A connection on its way to a worker. The channel needs no limit of its own: `Slot` limits it.
struct Accepted {
    stream: std::net::TcpStream,
    peer: SocketAddr,
    slot: Slot,
}

/// One of [`Bounds::connections`], counted as load of one worker; returned when dropped.
struct Slot {
    load: Arc<AtomicUsize>,
    _permit: OwnedSemaphorePermit,
    _share: Share,
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.load.fetch_sub(1, Ordering::Relaxed);
    }
}

async fn accept(
    listeners: Vec<TcpListener>,
    mut openings: mpsc::UnboundedReceiver<Opening>,
    workers: Vec<Worker>,
    shared: Arc<Shared>,
) {
    let permits = Arc::new(Semaphore::new(shared.bounds.connections));
    let (workers, shares) = (Arc::new(workers), Shares::new(shared.bounds.per_client));
    for listener in listeners {
        tokio::spawn(accept_on(listener, Arc::clone(&workers), Arc::clone(&permits), Arc::clone(&shares)));
    }
    loop {
        let opening = tokio::select! {
            () = shared.stop.requested() => break,
            opening = openings.recv() => opening,
        };
        // No further listeners can be opened: only the stop remains to be awaited.
        let Some(opening) = opening else { break shared.stop.requested().await };
        tokio::spawn(accept_through(opening, Arc::clone(&workers), Arc::clone(&permits), Arc::clone(&shares)));
    }
    // The tasks end with this runtime, and with them the senders they hold: the workers get no further connections.
}

/// Accepts on a listener until it is to be closed.
async fn accept_through(opening: Opening, workers: Arc<Vec<Worker>>, permits: Arc<Semaphore>, shares: Arc<Shares>) {
    let Opening { listener, closing, closed } = opening;
    match TcpListener::from_std(listener) {
        Ok(listener) => tokio::select! {
            () = accept_on(listener, workers, permits, shares) => {}
            _ = closing => {}
        },
        Err(error) => tracing::warn!(%error, "cannot open a listener"),
    }
    // Only after the listener was dropped.
    drop(closed);
}

async fn accept_on(listener: TcpListener, workers: Arc<Vec<Worker>>, permits: Arc<Semaphore>, shares: Arc<Shares>) {
    loop {
        let Ok(permit) = Arc::clone(&permits).acquire_owned().await else { return };
        match listener.accept().await.and_then(|(stream, peer)| Ok((stream.into_std()?, peer))) {
            Ok((stream, peer)) => match shares.take(peer.ip()) {
                Some(share) => hand_over(&workers, stream, peer, permit, share),
                // Before TLS, so that it costs as little as possible.
                None => tracing::debug!(%peer, "closed: this client has too many connections"),
            },
            // A client that gave up is not worth a log line; without free descriptors all we can do is wait.
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_RETRY).await;
            }
        }
    }
}

fn hand_over(
    workers: &[Worker],
    stream: std::net::TcpStream,
    peer: SocketAddr,
    permit: OwnedSemaphorePermit,
    share: Share,
) {
    let Some(worker) = workers.iter().min_by_key(|worker| worker.load.load(Ordering::Relaxed)) else { return };
    worker.load.fetch_add(1, Ordering::Relaxed);
    let slot = Slot { load: Arc::clone(&worker.load), _permit: permit, _share: share };
    // An IPv4 client of an IPv6 socket is counted as an IPv4 client.
    let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
    // A worker that has ended drops the connection, as intended.
    let _ = worker.inbox.send(Accepted { stream, peer, slot });
}

/// One worker: serves its connections until the acceptor ends, then waits for them to finish, within the grace period.
async fn work(mut inbox: mpsc::UnboundedReceiver<Accepted>, shared: Arc<Shared>) {
    let (alive, mut ended) = mpsc::channel::<Infallible>(1);
    while let Some(accepted) = inbox.recv().await {
        let (shared, alive) = (Arc::clone(&shared), alive.clone());
        tokio::spawn(async move {
            connection(accepted, shared).await;
            drop(alive);
        });
    }
    drop(alive);
    if tokio::time::timeout(shared.bounds.grace, ended.recv()).await.is_err() {
        tracing::warn!("requests were still running at the end of the grace period and were cut off");
    }
}

async fn connection(accepted: Accepted, shared: Arc<Shared>) {
    let Accepted { stream, peer, slot: _slot } = accepted;
    // Replies are written as a whole: waiting for more bytes (RFC 896) would only delay them.
    let Ok(stream) = stream.set_nodelay(true).and_then(|()| TcpStream::from_std(stream)) else { return };
    let activity = Arc::new(Activity::default());
    let stream = Counted::new(stream, Arc::clone(&activity));
    let handshake = tokio::time::timeout(shared.bounds.handshake, shared.tls.accept(stream));
    let stream = tokio::select! {
        done = handshake => match done {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return tracing::debug!(%peer, %error, "TLS handshake failed"),
            Err(_) => return tracing::debug!(%peer, "TLS handshake took too long"),
        },
        () = shared.stop.requested() => return,
    };
    let speaks_h2 = stream.get_ref().1.alpn_protocol() == Some(ALPN_H2);
    let peer = Peer { address: peer, account: shared.budget.account(peer.ip()) };
    let answers = Answers { service: Arc::clone(&shared.service), activity: Arc::clone(&activity), peer };
    let stream = TokioIo::new(stream);
    if speaks_h2 {
        let connection = h2().serve_connection(stream, answers);
        drive(connection, activity, shared).await;
    } else {
        let connection = h1().serve_connection(stream, answers);
        drive(connection, activity, shared).await;
    }
}

fn h1() -> http1::Builder {
    let mut builder = http1::Builder::new();
    // hyper's own head timeout would also count the idle time between requests; `drive` distinguishes them.
    builder.header_read_timeout(None).max_header_size(limits::HEAD_MAX_BYTES).auto_date_header(false);
    builder.max_buf_size(H1_BUFFER_BYTES);
    builder
}

fn h2() -> http2::Builder<TokioExecutor> {
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder.timer(TokioTimer::new()).auto_date_header(false);
    builder.max_concurrent_streams(limits::H2_STREAMS_MAX).max_header_list_size(H2_HEAD_BYTES);
    // Buffers that neither side has read yet exist for every stream: hyper's defaults are more than a megabyte each.
    builder.initial_stream_window_size(limits::H2_WINDOW_BYTES).initial_connection_window_size(limits::H2_WINDOW_BYTES);
    builder.max_send_buf_size(limits::REPLY_PIECE_BYTES);
    builder
}

/// What HTTP/1.1 and HTTP/2 connections have in common.
trait Connection: Future {
    /// Stops taking requests.
    fn finish(self: Pin<&mut Self>);
}

impl Connection for http1::Connection<Stream, Answers> {
    fn finish(self: Pin<&mut Self>) {
        self.graceful_shutdown();
    }
}

impl Connection for http2::Connection<Stream, Answers, TokioExecutor> {
    fn finish(self: Pin<&mut Self>) {
        self.graceful_shutdown();
    }
}

type Stream = TokioIo<TlsStream<Counted<TcpStream>>>;

/// Drives a connection to its end: by the client, by the stop, or because it makes no progress for too long.
async fn drive<C: Connection>(connection: C, activity: Arc<Activity>, shared: Arc<Shared>) {
    let mut connection = pin!(connection);
    let mut stopping = pin!(shared.stop.requested());
    let mut finishing = false;
    let (bounds, now) = (shared.bounds, Instant::now());
    let mut watch = Watch::new(bounds, activity, now);
    // A third of the shortest limit: what is checked every tick is at most that much late.
    let tick = bounds.head.min(bounds.idle).min(bounds.reply_grace) / 3;
    let mut ticks = tokio::time::interval_at(now + tick, tick);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            biased;
            _ = &mut connection => return,
            now = ticks.tick() => if let Some(why) = watch.look(now) {
                return tracing::debug!(why, "a connection was closed");
            },
            () = &mut stopping, if !finishing => {
                finishing = true;
                connection.as_mut().finish();
            }
        }
    }
}

/// A reply body whose pieces are tracked until they are sent.
struct Sent {
    body: ReplyBody,
    running: RunningRequest,
}

impl Body for Sent {
    type Data = Bytes;
    type Error = BrokenOff;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BrokenOff>>> {
        let Sent { body, running } = &mut *self;
        let frame = Pin::new(&mut *body).poll_frame(cx);
        frame.map_ok(|frame| frame.map_data(|bytes| running.piece(bytes, body.grant.as_ref())))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// The service as used by one connection.
struct Answers {
    service: Arc<dyn Service>,
    activity: Arc<Activity>,
    peer: Peer,
}

impl hyper::service::Service<Request<Incoming>> for Answers {
    type Response = Response<Sent>;
    type Error = Infallible;
    type Future = Answer;

    fn call(&self, request: Request<Incoming>) -> Answer {
        let running = self.activity.begin();
        let service = Arc::clone(&self.service);
        let reply = catch_unwind(AssertUnwindSafe(|| service.call(request, self.peer.clone()))).ok();
        Answer { reply, running: Some(running) }
    }
}

/// A pending answer. A panic becomes a `500`: one request must not affect others.
struct Answer {
    reply: Option<BoxFuture<'static, Response<ReplyBody>>>,
    running: Option<RunningRequest>,
}

impl Future for Answer {
    type Output = Result<Response<Sent>, Infallible>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let polled = match &mut self.reply {
            Some(reply) => catch_unwind(AssertUnwindSafe(|| reply.as_mut().poll(cx))),
            None => Ok(Poll::Ready(broken())),
        };
        let reply = match polled {
            Ok(Poll::Pending) => return Poll::Pending,
            Ok(Poll::Ready(reply)) => reply,
            Err(_) => broken(),
        };
        // Polled after its end, it has no further result, like any future.
        let Some(running) = self.running.take() else { return Poll::Pending };
        running.reply();
        Poll::Ready(Ok(reply.map(|body| Sent { body, running })))
    }
}

fn broken() -> Response<ReplyBody> {
    let mut reply = Response::new(ReplyBody::whole(r#"{"message":"internal error"}"#));
    *reply.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
    let json = hyper::header::HeaderValue::from_static("application/json");
    reply.headers_mut().insert(hyper::header::CONTENT_TYPE, json);
    reply
}

/// File descriptors reserved for the store, logs, listeners and runtimes.
const FILES_FOR_OTHERS: usize = 128;
const ALPN_H2: &[u8] = b"h2";
const ACCEPT_RETRY: Duration = Duration::from_millis(100);
/// Read buffer of an HTTP/1.1 connection: a head of maximum size and some of the body.
const H1_BUFFER_BYTES: usize = limits::HEAD_MAX_BYTES + (16 << 10);
const H2_HEAD_BYTES: u32 = limits::HEAD_MAX_BYTES as u32;

#[cfg(test)]
mod tests;
