//! One attempt at one node: the request as ureq sends it, the reply as it comes, and how what fails is called.

use std::io::{self, Read, Write};
use std::time::Duration;

use casemate_api::limits::CLIENT_REPLY_MAX_BYTES;
use ureq::http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, DATE, RETRY_AFTER};
use ureq::http::{Method, Request, Response};
use ureq::{AsSendBody, Body};
use zeroize::Zeroizing;

use crate::credentials::User;
use crate::error::{Cause, Error};
use crate::pool::Lines;
use crate::request::{Answer, Call};
use crate::retry::{Outcome, Repeat};
use crate::wipe::WipedBytes;
use crate::wire::Setback;

/// How one attempt ended, and the answer if there is one.
pub(crate) type Attempt = (Outcome, Option<Answer>);

/// The request line and the headers that every request has.
pub(crate) fn head(call: &Call<'_>, node: &str, user: Option<&User>) -> Result<ureq::http::request::Builder, Error> {
    let uri = format!("https://{node}/api/v1{}", call.path);
    let mut request = Request::builder().method(call.method).uri(uri).header(ACCEPT, call.accept);
    if let Some(user) = user {
        request = request.header(AUTHORIZATION, user.authorization()?);
    }
    Ok(request)
}

/// Sends `call` to `node`. The outer error is the caller's, the inner one the network's.
pub(crate) fn send(
    lines: &Lines,
    node: &str,
    user: Option<&User>,
    call: &Call<'_>,
    time: Time,
) -> Result<Result<Response<Body>, ureq::Error>, Error> {
    let head = head(call, node, user)?;
    Ok(match call.body {
        Some((content_type, bytes)) => go(lines, build(head.header(CONTENT_TYPE, content_type), bytes)?, time),
        None if matches!(*call.method, Method::POST | Method::PUT) => go(lines, build(head, NOTHING)?, time),
        None => go(lines, build(head, ())?, time),
    })
}

/// Reads a whole reply.
pub(crate) fn read_whole(node: String, mut reply: Response<Body>) -> Attempt {
    let status = reply.status().as_u16();
    let retry_after_s =
        reply.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()).and_then(|text| text.parse().ok());
    let length = reply.body().content_length().unwrap_or_default().min(CLIENT_REPLY_MAX_BYTES);
    let mut bytes = WipedBytes::with_capacity(usize::try_from(length).unwrap_or_default());
    let mut body = reply.body_mut().with_config().limit(CLIENT_REPLY_MAX_BYTES).reader();
    if let Err((_, side)) = copy(&mut body, &mut bytes) {
        let cause = match side {
            Side::Node(why) | Side::Local(why) => of_body(&why),
        };
        return (Outcome::Lost(cause), None);
    }
    let body = bytes.into_inner();
    let message = if status >= 400 { message(&body) } else { String::new() };
    let date = reply.headers().get(DATE).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let (outcome, answer) = answer(node, status, message, retry_after_s, body);
    (outcome, answer.map(|answer| Answer { date, ..answer }))
}

/// A whole answer.
pub(crate) fn answer(
    node: String,
    status: u16,
    message: String,
    retry_after_s: Option<u64>,
    body: Zeroizing<Vec<u8>>,
) -> Attempt {
    let answer = Answer { node, status, date: None, body, repeat: Repeat::Freely };
    (Outcome::Answer { status, message, retry_after_s }, Some(answer))
}

/// Time limits of one attempt.
#[derive(Clone, Copy)]
pub(crate) enum Time {
    /// From the first byte of the request to the last of the reply.
    Whole(Duration),
    /// Of each read and each write.
    Stream { read: Duration, write: Duration },
}

/// An empty body that says that it is empty.
const NOTHING: &[u8] = &[];

pub(crate) fn build<B>(head: ureq::http::request::Builder, body: B) -> Result<Request<B>, Error> {
    head.body(body).map_err(|why| Error::Settings(format!("this cannot be asked for: {why}")))
}

pub(crate) fn go<B: AsSendBody>(lines: &Lines, request: Request<B>, time: Time) -> Result<Response<Body>, ureq::Error> {
    let config = lines.agent.configure_request(request);
    let config = match time {
        Time::Whole(limit) => config.timeout_global(Some(limit)),
        Time::Stream { read, write } => config.timeout_per_read(Some(read)).timeout_per_write(Some(write)),
    };
    lines.agent.run(config.build())
}

/// Which end of a copy failed.
pub(crate) enum Side {
    Node(io::Error),
    Local(io::Error),
}

pub(crate) fn copy(from: &mut dyn Read, to: &mut dyn Write) -> Result<u64, (u64, Side)> {
    let mut buffer = Zeroizing::new(vec![0; 32 << 10]);
    let mut bytes = 0;
    loop {
        let amount = from.read(&mut buffer).map_err(|why| (bytes, Side::Node(why)))?;
        if amount == 0 {
            return to.flush().map(|()| bytes).map_err(|why| (bytes, Side::Local(why)));
        }
        to.write_all(buffer.get(..amount).unwrap_or_default()).map_err(|why| (bytes, Side::Local(why)))?;
        bytes += amount as u64;
    }
}

/// The sentence of an error's body, made safe to print; empty if there is none.
fn message(body: &[u8]) -> String {
    #[derive(serde::Deserialize)]
    struct Said {
        message: String,
    }
    let said = serde_json::from_slice(body).map(|said: Said| said.message).unwrap_or_default();
    said.chars().filter(|c| !c.is_control()).take(MESSAGE_MAX_CHARS).collect()
}

/// Longest sentence of a server that is shown.
const MESSAGE_MAX_CHARS: usize = 500;

/// Why a request has no answer.
pub(crate) fn of_ureq(error: ureq::Error) -> Outcome {
    match error {
        ureq::Error::Other(cause) => match cause.downcast::<Setback>() {
            Ok(setback) => Outcome::NotBegun(setback.0),
            Err(other) => Outcome::Lost(Cause::NoHttp(other.to_string())),
        },
        ureq::Error::Timeout(_) => Outcome::Lost(Cause::TimedOut),
        ureq::Error::Io(why) => Outcome::Lost(Cause::Broken(why.kind())),
        other => Outcome::Lost(Cause::NoHttp(other.to_string())),
    }
}

/// Why a reply's body is not whole.
pub(crate) fn of_body(error: &io::Error) -> Cause {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<ureq::Error>()) {
        Some(ureq::Error::Timeout(_)) => Cause::TimedOut,
        Some(ureq::Error::Io(why)) => Cause::Broken(why.kind()),
        Some(other) => Cause::NoHttp(other.to_string()),
        None => Cause::Broken(error.kind()),
    }
}
