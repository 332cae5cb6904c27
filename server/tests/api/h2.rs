//! The same API over HTTP/2 (RFC 9113), which browsers and many libraries choose by themselves.

use std::sync::Arc;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use casemate_api::limits::{CHANGES_RUNNING_MAX, H2_STREAMS_MAX};
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::client::conn::http2;
use hyper::{Method, Request};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::rig::{BASE, Rig, passphrase_of, sign_something};

type Sender = http2::SendRequest<Full<Bytes>>;

async fn secure(rig: &Rig) -> TokioIo<TlsStream<TcpStream>> {
    let (address, mut config) = rig.server();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let tcp = TcpStream::connect(address).await.unwrap();
    let name = ServerName::IpAddress(address.ip().into());
    TokioIo::new(TlsConnector::from(Arc::new(config)).connect(name, tcp).await.unwrap())
}

async fn connect(rig: &Rig) -> Sender {
    let (sender, connection) = http2::handshake(TokioExecutor::new(), secure(rig).await).await.unwrap();
    tokio::spawn(connection);
    sender
}

async fn ask(sender: &Sender, user: &str, method: Method, path: &str, body: Vec<u8>) -> (u16, String) {
    let basic = BASE64_STANDARD.encode(format!("{user}:{}", passphrase_of(user)));
    let request = Request::builder().method(method).uri(format!("https://hsm{BASE}{path}"));
    let request = request.header("authorization", format!("Basic {basic}"));
    let request = request.header("content-type", "application/json").body(Full::new(body.into())).unwrap();
    let reply = sender.clone().send_request(request).await.unwrap();
    let status = reply.status().as_u16();
    assert!(reply.headers().get("vary").is_some());
    let text = reply.into_body().collect().await.unwrap().to_bytes();
    (status, String::from_utf8(text.to_vec()).unwrap())
}

#[test]
fn requests_share_a_connection_and_none_of_them_ends_it() {
    let rig = Rig::operational();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let hsm = connect(&rig).await;
        let body = sign_something().to_string();
        let large = vec![b' '; 3 << 20];
        for _ in 0..2 {
            let (status, text) = ask(&hsm, "operator", Method::POST, "/keys/k/sign", body.clone().into()).await;
            assert_eq!((status, text.starts_with("{\"signature\":")), (200, true), "{text}");
            // Refused before its body was read, whether short or long.
            assert_eq!(ask(&hsm, "admin", Method::POST, "/keys/k/sign", body.clone().into()).await.0, 403);
            assert_eq!(ask(&hsm, "admin", Method::POST, "/keys/k/sign", large.clone()).await.0, 403);
            assert_eq!(ask(&hsm, "operator", Method::POST, "/random", large.clone()).await.0, 413);
            assert_eq!(ask(&hsm, "admin", Method::DELETE, "/keys", large.clone()).await.0, 405);
            assert_eq!(ask(&hsm, "admin", Method::GET, "/keys", Vec::new()).await, (200, "[{\"id\":\"k\"}]".into()));
        }
        let mut many = tokio::task::JoinSet::new();
        for _ in 0..50 {
            let (hsm, body) = (hsm.clone(), body.clone());
            many.spawn(async move { ask(&hsm, "operator", Method::POST, "/keys/k/sign", body.into()).await.0 });
        }
        assert!(many.join_all().await.iter().all(|status| *status == 200));
        assert_eq!(ask(&hsm, "admin", Method::POST, "/lock", Vec::new()).await.0, 204);
        assert_eq!(ask(&hsm, "operator", Method::POST, "/keys/k/sign", body.into()).await.0, 412);
    });
}

/// A body that never arrives.
struct Endless;

impl hyper::body::Body for Endless {
    type Data = Bytes;
    type Error = std::convert::Infallible;
    fn poll_frame(
        self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<hyper::body::Frame<Bytes>, Self::Error>>> {
        std::task::Poll::Pending
    }
}

/// Uploads without credentials, as many as a few connections carry, none of which ends.
#[test]
fn slow_uploads_without_credentials_do_not_block_changes() {
    let rig = Rig::locked();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let _connections = runtime.block_on(async {
        let mut connections = Vec::new();
        for _ in 0..=CHANGES_RUNNING_MAX / H2_STREAMS_MAX as usize {
            let (sender, connection) = http2::handshake(TokioExecutor::new(), secure(&rig).await).await.unwrap();
            tokio::spawn(connection);
            for _ in 0..H2_STREAMS_MAX {
                let request = Request::post(format!("https://hsm{BASE}/unlock")).body(Endless).unwrap();
                tokio::spawn(sender.clone().send_request(request));
            }
            connections.push(sender);
        }
        // Time for them to arrive.
        tokio::time::sleep(std::time::Duration::from_millis(500)).await;
        connections
    });
    rig.unlock().is(204);
    rig.admin().put("/namespaces/new", "").is(204);
    rig.admin().post("/lock", "").is(204);
}
