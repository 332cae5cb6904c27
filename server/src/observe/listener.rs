//! A listener for metrics only, off by default: plain HTTP, no credentials, one path. It is for a Prometheus on the
//! same machine or in a separate network, and answers in every state, even when users cannot log in.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use casemate_api::limits::{HEAD_MAX_BYTES, METRICS_CONNECTIONS_MAX, METRICS_TIMEOUT_MS};
use casemate_core::Hsm;
use casemate_core::runtime::Clock;
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{self, HeaderValue};
use hyper::server::conn::http1;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use super::metrics::Metrics;
use super::prometheus;
use crate::process::Stop;

/// The sources of an answer.
pub struct Source {
    /// The HSM.
    pub hsm: Arc<Hsm>,
    /// The metrics of the server.
    pub metrics: Arc<Metrics>,
    /// The clock for uptime.
    pub clock: Arc<dyn Clock>,
}

/// Serves `GET /metrics` on `listener` until `stop`, on a thread of its own.
pub fn start(listener: std::net::TcpListener, source: Arc<Source>, stop: &Stop) -> io::Result<JoinHandle<()>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    listener.set_nonblocking(true)?;
    let listener = {
        let _inside = runtime.enter();
        TcpListener::from_std(listener)?
    };
    let stop = stop.clone();
    std::thread::Builder::new().name("metrics".into()).spawn(move || {
        runtime.block_on(async {
            tokio::select! {
                () = accept(listener, source) => {}
                () = stop.requested() => {}
            }
        });
    })
}

async fn accept(listener: TcpListener, source: Arc<Source>) {
    let connections = Arc::new(Semaphore::new(METRICS_CONNECTIONS_MAX));
    loop {
        let Ok(connection) = connections.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let source = source.clone();
                tokio::spawn(async move {
                    let patience = Duration::from_millis(METRICS_TIMEOUT_MS);
                    // Clients that are too slow are cut off; disconnected ones are not worth a log line.
                    let _ = tokio::time::timeout(patience, serve(stream, source)).await;
                    drop(connection);
                });
            }
            Err(_) => tokio::time::sleep(ACCEPT_RETRY).await,
        }
    }
}

async fn serve(stream: TcpStream, source: Arc<Source>) -> hyper::Result<()> {
    let answer = hyper::service::service_fn(move |request: Request<Incoming>| {
        let source = source.clone();
        async move { Ok::<_, Infallible>(answer(&request, &source)) }
    });
    // One request per connection: a scrape every few seconds need not occupy one of the few connections.
    let mut http = http1::Builder::new();
    http.keep_alive(false).header_read_timeout(None).max_buf_size(HEAD_MAX_BYTES);
    http.serve_connection(TokioIo::new(stream), answer).await
}

fn answer(request: &Request<Incoming>, source: &Source) -> Response<Full<Bytes>> {
    let (status, media, body) = match (request.uri().path(), request.method()) {
        ("/metrics", &Method::GET) => {
            let text = prometheus::text(&source.metrics, &source.hsm, source.clock.monotonic());
            (StatusCode::OK, prometheus::MEDIA, Bytes::from(text))
        }
        ("/metrics", _) => (StatusCode::METHOD_NOT_ALLOWED, "text/plain", Bytes::from_static(b"GET only\n")),
        _ => (StatusCode::NOT_FOUND, "text/plain", Bytes::from_static(b"/metrics is all there is\n")),
    };
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(media));
    if status == StatusCode::METHOD_NOT_ALLOWED {
        response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET"));
    }
    response
}

const ACCEPT_RETRY: Duration = Duration::from_millis(100);
