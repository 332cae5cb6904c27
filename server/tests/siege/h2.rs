//! The same attacks over HTTP/2, where a connection outlives aborted requests.

use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http_body_util::BodyExt;
use hyper::Request;
use hyper::body::{Body, Bytes, Frame};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};

use super::Outcome;
use super::attacks::{Attack, Manner};
use super::line::secure;
use crate::any_certificate;

/// A connection.
pub type Sender = http2::SendRequest<Piece>;

/// Connects from `source`, an address of this machine.
pub async fn connect(source: IpAddr, server: SocketAddr) -> io::Result<Sender> {
    let mut config = (*any_certificate::config()).clone();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let tls = secure(source, server, Arc::new(config)).await?;
    let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(tls)).await.map_err(other)?;
    tokio::spawn(connection);
    Ok(sender)
}

/// One request; an attacker that leaves early resets the stream.
pub async fn send(sender: &mut Sender, attack: &Attack, linger: Duration) -> io::Result<Outcome> {
    let ask = &attack.ask;
    let request = Request::builder().method(ask.method).uri(format!("https://hsm/api/v1{}", ask.path));
    let request = request.header("content-type", ask.media).header("content-length", ask.body.len());
    let request = match ask.basic() {
        Some(basic) => request.header("authorization", basic),
        None => request,
    };
    let body = match attack.manner {
        Manner::Whole | Manner::Unread | Manner::Raw => Piece { data: Some(ask.body.clone().into()), whole: true },
        Manner::HeadOnly => Piece { data: None, whole: false },
        Manner::Half => {
            let half = ask.body.get(..ask.body.len() / 2).unwrap_or_default();
            Piece { data: Some(Bytes::copy_from_slice(half)), whole: false }
        }
    };
    sender.ready().await.map_err(other)?;
    let answer = sender.send_request(request.body(body).map_err(io::Error::other)?);
    match attack.manner {
        Manner::Whole | Manner::Raw => {
            let reply = answer.await.map_err(other)?;
            let status = reply.status().as_u16();
            reply.into_body().collect().await.map_err(other)?;
            Ok(Outcome::Answered(status))
        }
        Manner::HeadOnly | Manner::Half => match tokio::time::timeout(linger, answer).await {
            Ok(reply) => Ok(Outcome::Answered(reply.map_err(other)?.status().as_u16())),
            Err(_) => Ok(Outcome::Left),
        },
        Manner::Unread => {
            let _reply = answer.await.map_err(other)?;
            tokio::time::sleep(linger).await;
            Ok(Outcome::Left)
        }
    }
}

fn other(why: hyper::Error) -> io::Error {
    io::Error::other(why)
}

/// A body in one piece, or the beginning of one that never ends.
pub struct Piece {
    data: Option<Bytes>,
    whole: bool,
}

impl Body for Piece {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match self.data.take() {
            Some(data) => Poll::Ready(Some(Ok(Frame::data(data)))),
            None if self.whole => Poll::Ready(None),
            None => Poll::Pending,
        }
    }
}
