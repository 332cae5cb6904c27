//! Calls with one user's credentials: the loop over nodes, and the generic calls on which all endpoints stand.

use std::fmt;
use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use casemate_api::limits::UPDATE_COMMAND_MAX_MS;
use casemate_api::{Passphrase, UserId};
use serde::Serialize;
use serde::de::DeserializeOwned;
use ureq::SendBody;
use ureq::http::Method;
use ureq::http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use zeroize::Zeroizing;

use crate::clock;
use crate::credentials::Credentials;
use crate::error::{Cause, Error, NodeFailure, summarize};
use crate::exchange::{
    Attempt, CopyError, TimeLimit, cause_of_broken_body, copy, downloaded, head, outcome_of_failure, read_whole, send,
    transmit,
};
use crate::media::{JSON, OCTETS, to_json};
use crate::pick::Tried;
use crate::pool::{Connections, Pool};
use crate::request::{Changed, Reply, Request, Target};
use crate::retry::{Decision, Outcome, Repeat, decide};
use crate::upload::{Upload, UploadBody};

/// Calls as one user, or without credentials. Clones share the credentials.
#[derive(Clone)]
pub struct Session {
    pool: Arc<Pool>,
    credentials: Option<Arc<Credentials>>,
    /// The node that [`Session::at`] chose.
    node: Option<usize>,
}

/// The generic calls. The typed calls, such as those of [`Session::keys`], are built on them; use these for endpoints
/// that have no typed call yet. Their errors are the variants of [`Error`].
impl Session {
    /// The same session for one node only, an index into [`crate::Client::nodes`]. Calls about a device need one,
    /// unless the client has one node only. [`Error::NodeRequired`] if there is no such node.
    pub fn at(&self, node: usize) -> Result<Self, Error> {
        if node >= self.pool.nodes.len() {
            return Err(Error::NodeRequired { nodes: self.pool.nodes.clone() });
        }
        Ok(Self { node: Some(node), ..self.clone() })
    }

    /// `GET` of JSON below `/api/v1`.
    pub fn get_json<T: DeserializeOwned>(&self, path: &str) -> Result<T, Error> {
        self.run(Request::get(path))?.json()
    }

    /// `GET` of content of another type, such as a certificate.
    pub fn get_bytes(&self, path: &str, accept: &'static str) -> Result<Zeroizing<Vec<u8>>, Error> {
        Ok(self.run(Request::get(path).accepting(accept))?.body)
    }

    /// `POST` of JSON with a reply of JSON.
    pub fn post_json<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
        repeat: Repeat,
    ) -> Result<T, Error> {
        let body = to_json(body)?;
        self.run(Request { repeat, ..Request::change(&Method::POST, path).with_body(JSON, body.as_slice()) })?.json()
    }

    /// `POST` of JSON; the body of the reply is ignored.
    pub fn post(&self, path: &str, body: &impl Serialize) -> Result<Changed, Error> {
        let body = to_json(body)?;
        let request = Request::change(&Method::POST, path).with_body(JSON, body.as_slice());
        self.run(request).map(|reply| reply.changed())
    }

    /// `PUT` of JSON.
    pub fn put_json(&self, path: &str, body: &impl Serialize) -> Result<Changed, Error> {
        let body = to_json(body)?;
        self.put(path, JSON, body.as_slice())
    }

    /// `PUT` of bytes.
    pub fn put(&self, path: &str, content_type: &str, bytes: &[u8]) -> Result<Changed, Error> {
        let request = Request::change(&Method::PUT, path).with_body(content_type, bytes).accepting("*/*");
        self.run(request).map(|reply| reply.changed())
    }

    /// `DELETE`
    pub fn delete(&self, path: &str) -> Result<(), Error> {
        self.run(Request::change(&Method::DELETE, path).accepting("*/*")).map(drop)
    }

    /// `POST` whose reply is streamed to `to`, such as a backup. Returns the number of bytes. Another node is tried only
    /// before the first byte; after it, a failure is [`Error::Incomplete`].
    pub fn download(&self, path: &str, to: &mut dyn Write) -> Result<u64, Error> {
        self.download_reply(Request::change(&Method::POST, path).repeatable().accepting(OCTETS), to)
    }

    /// As [`Session::download`], for any request.
    pub(crate) fn download_reply(&self, request: Request<'_>, to: &mut dyn Write) -> Result<u64, Error> {
        let mut downloaded_bytes = 0;
        self.with_failover(request, &mut |connections, node, _| {
            let name = self.pool.name(node);
            let time_limit = TimeLimit::Stream { read: self.pool.settings.request, write: self.pool.settings.request };
            let mut response = match send(connections, &name, self.credentials.as_deref(), &request, time_limit)? {
                Ok(response) => response,
                Err(why) => return Ok((outcome_of_failure(why), None)),
            };
            match response.status().as_u16() {
                200 => {}
                status @ (201..=299 | 304) => {
                    return Err(Error::Garbled { node: name, why: format!("a download does not begin with {status}") });
                }
                _ => return Ok(read_whole(name, response)),
            }
            match copy(&mut response.body_mut().as_reader(), to) {
                Ok(bytes) => downloaded_bytes = bytes,
                Err((_, CopyError::Write(why))) => return Err(Error::Local(why)),
                Err((0, CopyError::Read(why))) => return Ok((Outcome::Lost(cause_of_broken_body(&why)), None)),
                Err((bytes, CopyError::Read(why))) => {
                    return Err(Error::Incomplete { node: name, bytes, cause: cause_of_broken_body(&why) });
                }
            }
            Ok(downloaded(name))
        })?;
        Ok(downloaded_bytes)
    }

    /// `POST` of a stream, such as an update or a backup to restore, to one node. It is sent at most once, as the
    /// stream can be read only once.
    pub fn upload<T: DeserializeOwned>(&self, path: &str, upload: Upload<'_>) -> Result<Option<T>, Error> {
        let request = Request::change(&Method::POST, path).to_one_node();
        let mut upload = Some(upload);
        let mut last = Cause::TooManyLogins;
        let reply = self.with_failover(request, &mut |connections, node, _| {
            let Some(upload) = upload.take() else {
                return Ok((Outcome::NotSent(last.clone()), None));
            };
            let name = self.pool.name(node);
            let head = head(&request, &name, self.credentials.as_deref())?
                .header(CONTENT_TYPE, upload.content_type())
                .header(CONTENT_LENGTH, upload.total_bytes());
            let mut body = UploadBody::new(upload);
            // The node does its work before it answers, which may take as long as a command of its host.
            let read = Duration::from_millis(2 * UPDATE_COMMAND_MAX_MS).max(self.pool.settings.request);
            let time_limit = TimeLimit::Stream { read, write: self.pool.settings.request };
            let sent = transmit(connections, head, SendBody::from_reader(&mut body), time_limit)?;
            if let Some(why) = body.failure() {
                return Err(Error::Local(why));
            }
            let attempt = match sent {
                Ok(response) => read_whole(name, response),
                Err(why) => (outcome_of_failure(why), None),
            };
            if let Decision::TryAnotherNode(cause) = decide(request.repeat, &attempt.0) {
                last = cause;
            }
            Ok(attempt)
        })?;
        if reply.body.is_empty() { Ok(None) } else { reply.json().map(Some) }
    }
}

/// Makes one attempt over these connections, at this node, within this time.
type AttemptFn<'a> = dyn FnMut(&Connections, usize, Duration) -> Result<Attempt, Error> + 'a;

/// What asking one node came to.
enum NodeResult {
    Reply(Reply),
    Failed(Cause),
}

/// With less time left than this no attempt is made: it would end as a request whose answer was lost, although it was
/// never sent.
const SHORTEST_ATTEMPT: Duration = Duration::from_millis(20);

impl Session {
    pub(crate) fn new(pool: Arc<Pool>, credentials: Option<(&UserId, Passphrase)>) -> Self {
        let credentials =
            credentials.map(|(user, passphrase)| Arc::new(Credentials { user: user.to_string(), passphrase }));
        Self { pool, credentials, node: None }
    }

    /// Carries `request` out. Statuses that are errors are returned as such.
    pub(crate) fn run(&self, request: Request<'_>) -> Result<Reply, Error> {
        self.with_failover(request, &mut |connections, node, limit| {
            let name = self.pool.name(node);
            let time_limit = TimeLimit::Whole(limit);
            Ok(match send(connections, &name, self.credentials.as_deref(), &request, time_limit)? {
                Ok(response) => read_whole(name, response),
                Err(why) => (outcome_of_failure(why), None),
            })
        })
    }

    /// Asks node after node by `attempt`, as `retry.rs` allows, until there is a reply.
    fn with_failover(&self, request: Request<'_>, attempt: &mut AttemptFn<'_>) -> Result<Reply, Error> {
        let only = self.only_node(request.target)?;
        let settings = &self.pool.settings;
        let connections = self.pool.connections();
        let started = clock::now();
        let deadline = settings.deadline.max(request.min_time_limit);
        let time_left = || deadline.saturating_sub(started.elapsed());
        let mut failures = Vec::new();
        for round in 0..settings.rounds.max(1) {
            if round > 0 {
                clock::sleep(settings.pause.min(time_left()));
            }
            let mut tried = Tried::default();
            loop {
                let next = match only {
                    Some(node) if tried == Tried::default() => Some(node),
                    Some(_) => None,
                    None => connections.pick(&mut tried, &self.pool, time_left()),
                };
                let Some(node) = next else { break };
                if time_left() < SHORTEST_ATTEMPT {
                    return Err(Error::DeadlineExceeded { limit: deadline, nodes: failures });
                }
                tried.add(node);
                match self.ask_node(request, &connections, node, only.is_none(), &time_left, attempt)? {
                    NodeResult::Reply(reply) => return Ok(reply),
                    NodeResult::Failed(cause) => failures.push(NodeFailure { node: self.pool.name(node), cause }),
                }
            }
        }
        Err(summarize(failures, (time_left() < SHORTEST_ATTEMPT).then_some(deadline)))
    }

    /// Asks `node`. If it takes no login for a moment, it is asked again: once if there are other nodes, else as long as
    /// there is time. `report`: whether the outcome counts for the choice of nodes.
    fn ask_node(
        &self,
        request: Request<'_>,
        connections: &Connections,
        node: usize,
        report: bool,
        time_left: &dyn Fn() -> Duration,
        attempt: &mut AttemptFn<'_>,
    ) -> Result<NodeResult, Error> {
        for waited in 0_u32.. {
            let limit = self.pool.settings.request.max(request.min_time_limit);
            let (outcome, reply) = attempt(connections, node, limit.min(time_left()))?;
            let decision = decide(request.repeat, &outcome);
            if report {
                match decision {
                    Decision::Return | Decision::RetryAfterMs(_) => connections.succeeded(node),
                    Decision::TryAnotherNode(_) | Decision::Unknown(_) => connections.failed(node),
                }
            }
            match decision {
                Decision::Return => {
                    let reply = reply.map(|reply| Reply { repeat: request.repeat, ..reply });
                    return self.check_status(node, outcome, reply).map(NodeResult::Reply);
                }
                Decision::TryAnotherNode(cause) => return Ok(NodeResult::Failed(cause)),
                Decision::Unknown(cause) => return Err(Error::Unknown { node: self.pool.name(node), cause }),
                Decision::RetryAfterMs(ms) => {
                    let wait = Duration::from_millis(ms);
                    if report && waited > 0 && self.pool.nodes.len() > 1 || wait + SHORTEST_ATTEMPT >= time_left() {
                        break;
                    }
                    clock::sleep(wait);
                }
            }
        }
        Ok(NodeResult::Failed(Cause::TooManyLogins))
    }

    /// The only node that may get a request; none: any may.
    fn only_node(&self, target: Target) -> Result<Option<usize>, Error> {
        match (target, self.node) {
            (_, Some(node)) => Ok(Some(node)),
            (Target::AnyNode, None) => Ok(None),
            (Target::OneNode, None) if self.pool.nodes.len() == 1 => Ok(Some(0)),
            (Target::OneNode, None) => Err(Error::NodeRequired { nodes: self.pool.nodes.clone() }),
        }
    }

    /// The reply, or the error that its status stands for.
    fn check_status(&self, node: usize, outcome: Outcome, reply: Option<Reply>) -> Result<Reply, Error> {
        let node = self.pool.name(node);
        let Outcome::Reply { status, message, .. } = outcome else {
            return Err(Error::Garbled { node, why: "there is none".into() });
        };
        match (status, reply) {
            (200..=299 | 304, Some(reply)) => Ok(reply),
            (401, _) => Err(Error::Unauthenticated { node }),
            (403, _) => Err(Error::Forbidden { node, message }),
            (404, _) => Err(Error::NotFound { node, message }),
            (400..=499, _) if message.is_empty() => {
                Err(Error::Refused { node, status, message: "no reason was given".into() })
            }
            (400..=499 | 507, _) => Err(Error::Refused { node, status, message }),
            _ => Err(Error::Garbled { node, why: format!("an HSM does not answer {status}") }),
        }
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let user = self.credentials.as_ref().map(|credentials| &credentials.user);
        f.debug_struct("Session").field("user", &user).field("node", &self.node).finish_non_exhaustive()
    }
}
