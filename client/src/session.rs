//! Calls with one user's credentials: the loop over nodes, and the thin generic layer under every endpoint.

use std::fmt;
use std::io::{self, Read, Write};
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use casemate_api::limits::{CLIENT_REPLY_MAX_BYTES, UPDATE_COMMAND_MAX_MS};
use casemate_api::{Passphrase, UserId};
use serde::Serialize;
use serde::de::DeserializeOwned;
use ureq::http::header::{ACCEPT, AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, DATE, RETRY_AFTER};
use ureq::http::{HeaderValue, Method, Request, Response};
use ureq::{AsSendBody, Body, SendBody};
use zeroize::Zeroizing;

use crate::clock;
use crate::error::{Cause, Error, Trouble};
use crate::pick::Tried;
use crate::pool::{Lines, Pool};
use crate::retry::{Outcome, Repeat, Verdict, judge};
use crate::upload::{Counted, Upload};
use crate::wipe::WipedBytes;
use crate::wire::Setback;

/// Calls as one user, or as nobody. Clones share the credentials.
#[derive(Clone)]
pub struct Session {
    pool: Arc<Pool>,
    user: Option<Arc<User>>,
    only: Option<usize>,
}

struct User {
    name: String,
    passphrase: Passphrase,
}

/// Whether a call that sets something changed anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Changed {
    /// It is different now.
    Yes,
    /// It was so already.
    No,
}

/// Which node may carry a call out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// Any: it is about users, keys and namespaces, which the nodes share.
    Any,
    /// The one that was chosen: it is about the device itself.
    One,
}

/// One request, before it is known who gets it.
#[derive(Clone, Copy)]
pub(crate) struct Call<'a> {
    pub(crate) method: &'a Method,
    /// Below `/api/v1`, with its query.
    pub(crate) path: &'a str,
    pub(crate) repeat: Repeat,
    pub(crate) place: Place,
    pub(crate) accept: &'static str,
    /// Type and bytes of the body.
    pub(crate) body: Option<(&'a str, &'a [u8])>,
    /// Time that the node may take, where that is more than the settings allow.
    pub(crate) patience: Duration,
}

/// JSON (RFC 8259).
pub(crate) const JSON: &str = "application/json";
/// PEM, as the API names it.
pub(crate) const PEM: &str = "application/x-pem-file";
/// Bytes.
pub(crate) const OCTETS: &str = "application/octet-stream";

impl<'a> Call<'a> {
    /// A read of JSON that any node can answer.
    pub(crate) fn get(path: &'a str) -> Self {
        Self {
            method: &Method::GET,
            path,
            repeat: Repeat::Freely,
            place: Place::Any,
            accept: JSON,
            body: None,
            patience: Duration::ZERO,
        }
    }

    /// A change that any node can carry out.
    pub(crate) fn change(method: &'a Method, path: &'a str) -> Self {
        Self { method, repeat: Repeat::IfNotBegun, ..Self::get(path) }
    }

    /// The same about the device itself.
    pub(crate) fn at_one(self) -> Self {
        Self { place: Place::One, ..self }
    }

    /// The same, which may be carried out twice.
    pub(crate) fn freely(self) -> Self {
        Self { repeat: Repeat::Freely, ..self }
    }

    /// The same, for which the node may take so long.
    pub(crate) fn patient(self, patience: Duration) -> Self {
        Self { patience, ..self }
    }

    /// The same with a reply of this type.
    pub(crate) fn accept(self, accept: &'static str) -> Self {
        Self { accept, ..self }
    }

    /// The same with a body.
    pub(crate) fn with(self, content_type: &'a str, bytes: &'a [u8]) -> Self {
        Self { body: Some((content_type, bytes)), ..self }
    }
}

/// An answer that is no error.
pub(crate) struct Answer {
    pub(crate) node: String,
    pub(crate) status: u16,
    /// When the node says it answered.
    pub(crate) date: Option<String>,
    pub(crate) body: Zeroizing<Vec<u8>>,
    /// Of the call.
    pub(crate) repeat: Repeat,
}

impl Answer {
    /// The body as `T`.
    pub(crate) fn json<T: DeserializeOwned>(&self) -> Result<T, Error> {
        // The error of serde_json may quote the body, which may be a plaintext: only the place is told.
        serde_json::from_slice(&self.body).map_err(|why| {
            self.unreadable(format!("its JSON is not as expected at line {} column {}", why.line(), why.column()))
        })
    }

    /// The body as text.
    pub(crate) fn text(self) -> Result<String, Error> {
        String::from_utf8(self.body.to_vec()).map_err(|_| self.unreadable("it is no UTF-8".into()))
    }

    /// A change that was answered with success is not called a failure because nobody understands the rest.
    fn unreadable(&self, why: String) -> Error {
        let node = self.node.clone();
        match self.repeat {
            Repeat::Freely => Error::Garbled { node, why },
            Repeat::IfNotBegun => Error::Unknown { node, cause: Cause::Unreadable(why) },
        }
    }

    /// Whether something was changed.
    pub(crate) fn changed(&self) -> Changed {
        if self.status == 304 { Changed::No } else { Changed::Yes }
    }
}

/// The thin layer. The typed calls of [`Session::keys`] and its like stand on it; use it for what they do not know yet.
impl Session {
    /// The same session for one node only, an index into [`crate::Client::nodes`]. Calls about a device need one, unless
    /// the client knows one node only.
    pub fn at(&self, node: usize) -> Result<Self, Error> {
        if node >= self.pool.nodes.len() {
            return Err(Error::WhichNode { nodes: self.pool.nodes.clone() });
        }
        Ok(Self { only: Some(node), ..self.clone() })
    }

    /// `GET` of JSON below `/api/v1`.
    pub fn get_json<T: DeserializeOwned>(&self, path: &str) -> Result<T, Error> {
        self.run(Call::get(path))?.json()
    }

    /// `GET` of anything else, such as a certificate.
    pub fn get_bytes(&self, path: &str, accept: &'static str) -> Result<Zeroizing<Vec<u8>>, Error> {
        Ok(self.run(Call::get(path).accept(accept))?.body)
    }

    /// `POST` of JSON with a reply of JSON.
    pub fn post_json<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
        repeat: Repeat,
    ) -> Result<T, Error> {
        let body = to_json(body)?;
        self.run(Call { repeat, ..Call::change(&Method::POST, path).with(JSON, body.as_slice()) })?.json()
    }

    /// `POST` of JSON without a reply that matters.
    pub fn post(&self, path: &str, body: &impl Serialize) -> Result<Changed, Error> {
        let body = to_json(body)?;
        self.run(Call::change(&Method::POST, path).with(JSON, body.as_slice())).map(|answer| answer.changed())
    }

    /// `PUT` of JSON.
    pub fn put_json(&self, path: &str, body: &impl Serialize) -> Result<Changed, Error> {
        let body = to_json(body)?;
        self.put(path, JSON, body.as_slice())
    }

    /// `PUT` of bytes.
    pub fn put(&self, path: &str, content_type: &str, bytes: &[u8]) -> Result<Changed, Error> {
        let call = Call::change(&Method::PUT, path).with(content_type, bytes).accept("*/*");
        self.run(call).map(|answer| answer.changed())
    }

    /// `DELETE`
    pub fn delete(&self, path: &str) -> Result<(), Error> {
        self.run(Call::change(&Method::DELETE, path).accept("*/*")).map(drop)
    }

    /// `POST` whose reply streams into `to`, such as a backup; how many bytes. Nodes are changed only before the first
    /// byte. `Err(Incomplete)`: some bytes were written and more should have come.
    pub fn download(&self, path: &str, to: &mut dyn Write) -> Result<u64, Error> {
        self.fetch(Call::change(&Method::POST, path).freely().accept(OCTETS), to)
    }

    /// The same of any call.
    pub(crate) fn fetch(&self, call: Call<'_>, to: &mut dyn Write) -> Result<u64, Error> {
        let mut fetched = 0;
        self.choose(call, &mut |lines, node, _| {
            let time = Time::Stream { read: self.pool.settings.request, write: self.pool.settings.request };
            let mut reply = match self.send(lines, node, &call, time)? {
                Ok(reply) => reply,
                Err(why) => return Ok((of_ureq(why), None)),
            };
            match reply.status().as_u16() {
                200 => {}
                status @ (201..=299 | 304) => {
                    let why = format!("a download does not begin with {status}");
                    return Err(Error::Garbled { node: self.pool.name(node), why });
                }
                _ => return Ok(self.read(node, reply)),
            }
            match copy(&mut reply.body_mut().as_reader(), to) {
                Ok(bytes) => fetched = bytes,
                Err((_, Side::Local(why))) => return Err(Error::Local(why)),
                Err((0, Side::Node(why))) => return Ok((Outcome::Lost(of_body(&why)), None)),
                Err((bytes, Side::Node(why))) => {
                    return Err(Error::Incomplete { node: self.pool.name(node), bytes, cause: of_body(&why) });
                }
            }
            Ok(self.answer(node, 200, String::new(), None, Zeroizing::default()))
        })?;
        Ok(fetched)
    }

    /// `POST` of a stream, such as an update or a restore, to one node. It is sent once.
    pub fn upload<T: DeserializeOwned>(&self, path: &str, upload: Upload<'_>) -> Result<Option<T>, Error> {
        let call = Call::change(&Method::POST, path).at_one();
        let mut upload = Some(upload);
        let mut last = Cause::TooMany;
        let answer = self.choose(call, &mut |lines, node, _| {
            let Some(upload) = upload.take() else {
                return Ok((Outcome::NotBegun(last.clone()), None));
            };
            let request = self.head(&call, node)?.header(CONTENT_TYPE, upload.content_type());
            let request = request.header(CONTENT_LENGTH, upload.total());
            let mut body = Counted::new(upload);
            // The node does its work before it answers, and that may take as long as a command of its host.
            let read = Duration::from_millis(2 * UPDATE_COMMAND_MAX_MS).max(self.pool.settings.request);
            let time = Time::Stream { read, write: self.pool.settings.request };
            let sent = go(lines, build(request, SendBody::from_reader(&mut body))?, time);
            if let Some(why) = body.failure() {
                return Err(Error::Local(why));
            }
            let attempt = match sent {
                Ok(reply) => self.read(node, reply),
                Err(why) => (of_ureq(why), None),
            };
            if let Verdict::Elsewhere(cause) = judge(call.repeat, &attempt.0) {
                last = cause;
            }
            Ok(attempt)
        })?;
        if answer.body.is_empty() { Ok(None) } else { answer.json().map(Some) }
    }
}

/// How one attempt ended, and the answer if there is one.
type Attempt = (Outcome, Option<Answer>);

/// One attempt: with these lines, at this node, within this time.
type Try<'a> = dyn FnMut(&Lines, usize, Duration) -> Result<Attempt, Error> + 'a;

impl Session {
    pub(crate) fn new(pool: Arc<Pool>, user: Option<(&UserId, Passphrase)>) -> Self {
        let user = user.map(|(name, passphrase)| Arc::new(User { name: name.to_string(), passphrase }));
        Self { pool, user, only: None }
    }

    /// Carries `call` out.
    pub(crate) fn run(&self, call: Call<'_>) -> Result<Answer, Error> {
        self.choose(call, &mut |lines, node, limit| {
            Ok(match self.send(lines, node, &call, Time::Whole(limit))? {
                Ok(reply) => self.read(node, reply),
                Err(why) => (of_ureq(why), None),
            })
        })
    }

    /// Asks node after node by `attempt`, as `retry.rs` allows, until there is an answer.
    fn choose(&self, call: Call<'_>, attempt: &mut Try<'_>) -> Result<Answer, Error> {
        let fixed = self.fixed(call.place)?;
        let settings = &self.pool.settings;
        let lines = self.pool.lines();
        let begun = clock::now();
        let deadline = settings.deadline.max(call.patience);
        let rest = || deadline.saturating_sub(begun.elapsed());
        let mut troubles = Vec::new();
        for round in 0..settings.rounds.max(1) {
            if round > 0 {
                clock::sleep(settings.pause.min(rest()));
            }
            let mut tried = Tried::default();
            loop {
                let next = match fixed {
                    Some(node) if tried == Tried::default() => Some(node),
                    Some(_) => None,
                    None => lines.pick(&mut tried, &self.pool, rest()),
                };
                let Some(node) = next else { break };
                if rest() < SHORTEST_ATTEMPT {
                    return Err(Error::TooSlow { limit: deadline, nodes: troubles });
                }
                tried.add(node);
                match self.ask(call, &lines, node, fixed.is_none(), &rest, attempt)? {
                    Asked::Answer(answer) => return Ok(answer),
                    Asked::Trouble(cause) => troubles.push(Trouble { node: self.pool.name(node), cause }),
                }
            }
        }
        Err(sum_up(troubles, (rest() < SHORTEST_ATTEMPT).then_some(deadline)))
    }

    /// Asks `node`. If it only wants to be left alone for a moment it is asked again: once if there are others, else as
    /// long as there is time.
    fn ask(
        &self,
        call: Call<'_>,
        lines: &Lines,
        node: usize,
        learn: bool,
        rest: &dyn Fn() -> Duration,
        attempt: &mut Try<'_>,
    ) -> Result<Asked, Error> {
        for waited in 0_u32.. {
            let limit = self.pool.settings.request.max(call.patience);
            let (outcome, answer) = attempt(lines, node, limit.min(rest()))?;
            let verdict = judge(call.repeat, &outcome);
            if learn {
                match verdict {
                    Verdict::Answer | Verdict::Later(_) => lines.well(node),
                    Verdict::Elsewhere(_) | Verdict::Unknown(_) => lines.failed(node),
                }
            }
            match verdict {
                Verdict::Answer => {
                    let answer = answer.map(|answer| Answer { repeat: call.repeat, ..answer });
                    return self.judge_status(node, outcome, answer).map(Asked::Answer);
                }
                Verdict::Elsewhere(cause) => return Ok(Asked::Trouble(cause)),
                Verdict::Unknown(cause) => return Err(Error::Unknown { node: self.pool.name(node), cause }),
                Verdict::Later(ms) => {
                    let wait = Duration::from_millis(ms);
                    if learn && waited > 0 && self.pool.nodes.len() > 1 || wait + SHORTEST_ATTEMPT >= rest() {
                        break;
                    }
                    clock::sleep(wait);
                }
            }
        }
        Ok(Asked::Trouble(Cause::TooMany))
    }

    /// The node that a call about a device goes to; none: any.
    fn fixed(&self, place: Place) -> Result<Option<usize>, Error> {
        match (place, self.only) {
            (_, Some(node)) => Ok(Some(node)),
            (Place::Any, None) => Ok(None),
            (Place::One, None) if self.pool.nodes.len() == 1 => Ok(Some(0)),
            (Place::One, None) => Err(Error::WhichNode { nodes: self.pool.nodes.clone() }),
        }
    }

    /// Answers that are errors for the caller.
    fn judge_status(&self, node: usize, outcome: Outcome, answer: Option<Answer>) -> Result<Answer, Error> {
        let node = self.pool.name(node);
        let Outcome::Answer { status, message, .. } = outcome else {
            return Err(Error::Garbled { node, why: "there is none".into() });
        };
        match (status, answer) {
            (200..=299 | 304, Some(answer)) => Ok(answer),
            (401, _) => Err(Error::Unauthenticated { node }),
            (403, _) => Err(Error::Forbidden { node, message }),
            (404, _) => Err(Error::NotFound { node, message }),
            (400..=499, _) if message.is_empty() => {
                Err(Error::Refused { node, status, message: "it does not say why".into() })
            }
            (400..=499 | 507, _) => Err(Error::Refused { node, status, message }),
            _ => Err(Error::Garbled { node, why: format!("an HSM does not answer {status}") }),
        }
    }

    fn head(&self, call: &Call<'_>, node: usize) -> Result<ureq::http::request::Builder, Error> {
        let uri = format!("https://{}/api/v1{}", self.pool.name(node), call.path);
        let mut request = Request::builder().method(call.method).uri(uri).header(ACCEPT, call.accept);
        if let Some(user) = &self.user {
            request = request.header(AUTHORIZATION, user.authorization()?);
        }
        Ok(request)
    }

    /// Sends `call` to `node`. The outer error is the caller's, the inner one the network's.
    fn send(
        &self,
        lines: &Lines,
        node: usize,
        call: &Call<'_>,
        time: Time,
    ) -> Result<Result<Response<Body>, ureq::Error>, Error> {
        let head = self.head(call, node)?;
        Ok(match call.body {
            Some((content_type, bytes)) => go(lines, build(head.header(CONTENT_TYPE, content_type), bytes)?, time),
            None if matches!(*call.method, Method::POST | Method::PUT) => go(lines, build(head, NOTHING)?, time),
            None => go(lines, build(head, ())?, time),
        })
    }

    /// Reads a whole reply.
    fn read(&self, node: usize, mut reply: Response<Body>) -> Attempt {
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
        let (outcome, answer) = self.answer(node, status, message, retry_after_s, body);
        (outcome, answer.map(|answer| Answer { date, ..answer }))
    }

    fn answer(
        &self,
        node: usize,
        status: u16,
        message: String,
        retry_after_s: Option<u64>,
        body: Zeroizing<Vec<u8>>,
    ) -> Attempt {
        let answer = Answer { node: self.pool.name(node), status, date: None, body, repeat: Repeat::Freely };
        (Outcome::Answer { status, message, retry_after_s }, Some(answer))
    }
}

/// What came of asking one node.
enum Asked {
    Answer(Answer),
    Trouble(Cause),
}

impl User {
    /// `Authorization` (RFC 7617). The value wipes itself when the request is gone.
    fn authorization(&self) -> Result<HeaderValue, Error> {
        let mut plain = WipedBytes::with_capacity(self.name.len() + 1 + self.passphrase.expose().len());
        plain.push(self.name.as_bytes());
        plain.push(b":");
        plain.push(self.passphrase.expose());
        let wrong = |_| Error::Settings("the credentials do not fit into a header".into());
        let mut value = Zeroizing::new(vec![0; BASIC.len() + plain.as_slice().len().div_ceil(3) * 4]);
        let (scheme, token) = value.split_at_mut(BASIC.len());
        scheme.copy_from_slice(BASIC);
        BASE64_STANDARD.encode_slice(plain.as_slice(), token).map_err(wrong)?;
        let mut header = HeaderValue::from_maybe_shared(Bytes::from_owner(value))
            .map_err(|_| Error::Settings("the credentials do not fit into a header".into()))?;
        header.set_sensitive(true);
        Ok(header)
    }
}

const BASIC: &[u8] = b"Basic ";

/// Time limits of one attempt.
#[derive(Clone, Copy)]
enum Time {
    /// From the first byte of the request to the last of the reply.
    Whole(Duration),
    /// Of each read and each write.
    Stream { read: Duration, write: Duration },
}

/// With less time than this nothing is begun: it would end as a request whose answer was lost, though it never left.
const SHORTEST_ATTEMPT: Duration = Duration::from_millis(20);

/// An empty body that says that it is empty.
const NOTHING: &[u8] = &[];

fn build<B>(head: ureq::http::request::Builder, body: B) -> Result<Request<B>, Error> {
    head.body(body).map_err(|why| Error::Settings(format!("this cannot be asked for: {why}")))
}

fn go<B: AsSendBody>(lines: &Lines, request: Request<B>, time: Time) -> Result<Response<Body>, ureq::Error> {
    let config = lines.agent.configure_request(request);
    let config = match time {
        Time::Whole(limit) => config.timeout_global(Some(limit)),
        Time::Stream { read, write } => config.timeout_per_read(Some(read)).timeout_per_write(Some(write)),
    };
    lines.agent.run(config.build())
}

/// `body` in a buffer that wipes itself.
pub(crate) fn to_json(body: &impl Serialize) -> Result<WipedBytes, Error> {
    let mut bytes = WipedBytes::with_capacity(256);
    serde_json::to_writer(&mut bytes, body).map_err(|why| Error::Settings(format!("the request is no JSON: {why}")))?;
    Ok(bytes)
}

/// Which end of a copy failed.
enum Side {
    Node(io::Error),
    Local(io::Error),
}

fn copy(from: &mut dyn Read, to: &mut dyn Write) -> Result<u64, (u64, Side)> {
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
fn of_ureq(error: ureq::Error) -> Outcome {
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
fn of_body(error: &io::Error) -> Cause {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<ureq::Error>()) {
        Some(ureq::Error::Timeout(_)) => Cause::TimedOut,
        Some(ureq::Error::Io(why)) => Cause::Broken(why.kind()),
        Some(other) => Cause::NoHttp(other.to_string()),
        None => Cause::Broken(error.kind()),
    }
}

/// The error of a call that no node answered: the one that tells most about what to do.
pub(crate) fn sum_up(mut troubles: Vec<Trouble>, too_slow: Option<Duration>) -> Error {
    let of_trust =
        |t: &Trouble| matches!(t.cause, Cause::Untrusted { .. } | Cause::NotPinned { .. } | Cause::Expired { .. });
    let telling = troubles.iter().position(of_trust);
    if let Some(at) = telling {
        let Trouble { node, cause } = troubles.swap_remove(at);
        match cause {
            Cause::Untrusted { fingerprint, why } => return Error::Untrusted { node, fingerprint, why },
            Cause::NotPinned { fingerprint } => return Error::NotPinned { node, fingerprint },
            Cause::Expired { fingerprint } => return Error::Expired { node, fingerprint },
            cause => troubles.push(Trouble { node, cause }),
        }
    }
    let too_many = troubles.last().is_some_and(|trouble| trouble.cause == Cause::TooMany);
    if let Some(limit) = too_slow.filter(|_| !too_many) {
        return Error::TooSlow { limit, nodes: troubles };
    }
    let all = |cause: Cause| troubles.iter().all(|trouble| trouble.cause == cause);
    let (in_wrong_state, too_many) = (all(Cause::WrongState), all(Cause::TooMany));
    match troubles.pop() {
        Some(Trouble { node, .. }) if in_wrong_state => Error::WrongState { node },
        Some(Trouble { node, .. }) if too_many => Error::TooMany { node },
        last => {
            troubles.extend(last);
            Error::Unreachable { nodes: troubles }
        }
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let user = self.user.as_ref().map(|user| &user.name);
        f.debug_struct("Session").field("user", &user).field("only", &self.only).finish_non_exhaustive()
    }
}
