//! One attempt at one node: sends the request through ureq, reads the reply, and tells how far a failed attempt came.

use std::io::{self, Read, Write};
use std::time::Duration;

use casemate_api::limits::CLIENT_REPLY_MAX_BYTES;
use ureq::http::header::{
    ACCEPT, AUTHORIZATION, CONTENT_TYPE, DATE, ETAG, HeaderName, IF_NONE_MATCH, LINK, RETRY_AFTER,
};
use ureq::http::{self, Method, Response, request::Builder};
use ureq::{AsSendBody, Body};
use zeroize::Zeroizing;

use crate::credentials::Credentials;
use crate::error::{Cause, Error};
use crate::pool::Connections;
use crate::request::{Reply, Request};
use crate::retry::{Outcome, Repeat};
use crate::transport::NotSent;
use crate::wipe::WipedBytes;

/// How one attempt ended, and the reply if there is one.
pub(crate) type Attempt = (Outcome, Option<Reply>);

/// Time limits of one attempt.
#[derive(Clone, Copy)]
pub(crate) enum TimeLimit {
    /// From the first byte of the request to the last of the reply.
    Whole(Duration),
    /// For each read and each write.
    Stream { read: Duration, write: Duration },
}

/// The head of `request` to `node`, without `Content-Type`.
pub(crate) fn head(request: &Request<'_>, node: &str, credentials: Option<&Credentials>) -> Result<Builder, Error> {
    let uri = format!("https://{node}/api/v1{}", request.path);
    let mut head = http::Request::builder().method(request.method).uri(uri).header(ACCEPT, request.accept);
    if let Some(credentials) = credentials {
        head = head.header(AUTHORIZATION, credentials.authorization()?);
    }
    if let Some(etag) = request.if_none_match {
        head = head.header(IF_NONE_MATCH, etag);
    }
    Ok(head)
}

/// Sends `request` to `node`. The outer error is the caller's fault, the inner one the node's or the network's.
pub(crate) fn send(
    connections: &Connections,
    node: &str,
    credentials: Option<&Credentials>,
    request: &Request<'_>,
    time_limit: TimeLimit,
) -> Result<Result<Response<Body>, ureq::Error>, Error> {
    let head = head(request, node, credentials)?;
    match request.body {
        Some((content_type, bytes)) => {
            transmit(connections, head.header(CONTENT_TYPE, content_type), bytes, time_limit)
        }
        None if matches!(*request.method, Method::POST | Method::PUT) => {
            transmit(connections, head, EMPTY_BODY, time_limit)
        }
        None => transmit(connections, head, (), time_limit),
    }
}

/// Sends a head with a body, with the errors of [`send`].
pub(crate) fn transmit<B: AsSendBody>(
    connections: &Connections,
    head: Builder,
    body: B,
    time_limit: TimeLimit,
) -> Result<Result<Response<Body>, ureq::Error>, Error> {
    let request = head.body(body).map_err(|why| Error::Settings(format!("this request cannot be formed: {why}")))?;
    let config = connections.agent.configure_request(request);
    let config = match time_limit {
        TimeLimit::Whole(limit) => config.timeout_global(Some(limit)),
        TimeLimit::Stream { read, write } => config.timeout_per_read(Some(read)).timeout_per_write(Some(write)),
    };
    Ok(connections.agent.run(config.build()))
}

/// A body of length zero, which is sent with `Content-Length: 0`; without a body ureq sends no length.
const EMPTY_BODY: &[u8] = &[];

/// Reads a complete reply, at most [`CLIENT_REPLY_MAX_BYTES`].
pub(crate) fn read_whole(node: String, mut response: Response<Body>) -> Attempt {
    let status = response.status().as_u16();
    let header = |name: HeaderName| response.headers().get(name)?.to_str().ok().map(str::to_owned);
    let retry_after_s = header(RETRY_AFTER).and_then(|text| text.parse().ok());
    let (date, etag, next) = (header(DATE), header(ETAG), header(LINK));
    let length = response.body().content_length().unwrap_or_default().min(CLIENT_REPLY_MAX_BYTES);
    let mut bytes = WipedBytes::with_capacity(usize::try_from(length).unwrap_or_default());
    let mut body = response.body_mut().with_config().limit(CLIENT_REPLY_MAX_BYTES).reader();
    if let Err((_, CopyError::Read(why) | CopyError::Write(why))) = copy(&mut body, &mut bytes) {
        return (Outcome::Lost(cause_of_broken_body(&why)), None);
    }
    let body = bytes.into_inner();
    let message = if status >= 400 { message(&body) } else { String::new() };
    let reply = Reply { node, status, date, etag, next, body, repeat: Repeat::Freely };
    (Outcome::Reply { status, message, retry_after_s }, Some(reply))
}

/// The attempt of a download whose body was written elsewhere.
pub(crate) fn downloaded(node: String) -> Attempt {
    let reply = Reply {
        node,
        status: 200,
        date: None,
        etag: None,
        next: None,
        body: Zeroizing::default(),
        repeat: Repeat::Freely,
    };
    (Outcome::Reply { status: 200, message: String::new(), retry_after_s: None }, Some(reply))
}

/// Which end of a copy failed.
pub(crate) enum CopyError {
    /// The source.
    Read(io::Error),
    /// The destination.
    Write(io::Error),
}

/// Copies until the end of `from` through a buffer that is wiped. Returns the bytes copied, also with the error.
pub(crate) fn copy(from: &mut dyn Read, to: &mut dyn Write) -> Result<u64, (u64, CopyError)> {
    let mut buffer = Zeroizing::new(vec![0; 32 << 10]);
    let mut bytes = 0;
    loop {
        let amount = from.read(&mut buffer).map_err(|why| (bytes, CopyError::Read(why)))?;
        if amount == 0 {
            return to.flush().map(|()| bytes).map_err(|why| (bytes, CopyError::Write(why)));
        }
        to.write_all(buffer.get(..amount).unwrap_or_default()).map_err(|why| (bytes, CopyError::Write(why)))?;
        bytes += amount as u64;
    }
}

/// The message in the body of an error, without control characters; empty if there is none.
fn message(body: &[u8]) -> String {
    #[derive(serde::Deserialize)]
    struct ErrorBody {
        message: String,
    }
    let message = serde_json::from_slice(body).map(|body: ErrorBody| body.message).unwrap_or_default();
    message.chars().filter(|c| !c.is_control()).take(MESSAGE_MAX_CHARS).collect()
}

/// Longest message of a server that is shown.
const MESSAGE_MAX_CHARS: usize = 500;

/// How an attempt without a reply ended.
pub(crate) fn outcome_of_failure(error: ureq::Error) -> Outcome {
    match error {
        ureq::Error::Other(cause) => match cause.downcast::<NotSent>() {
            Ok(not_sent) => Outcome::NotSent(not_sent.0),
            Err(other) => Outcome::Lost(Cause::InvalidHttp(other.to_string())),
        },
        ureq::Error::Timeout(_) => Outcome::Lost(Cause::TimedOut),
        ureq::Error::Io(why) => Outcome::Lost(Cause::ConnectionLost(why.kind())),
        other => Outcome::Lost(Cause::InvalidHttp(other.to_string())),
    }
}

/// Why the body of a reply is incomplete.
pub(crate) fn cause_of_broken_body(error: &io::Error) -> Cause {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<ureq::Error>()) {
        Some(ureq::Error::Timeout(_)) => Cause::TimedOut,
        Some(ureq::Error::Io(why)) => Cause::ConnectionLost(why.kind()),
        Some(other) => Cause::InvalidHttp(other.to_string()),
        None => Cause::ConnectionLost(error.kind()),
    }
}
