//! Calls with one user's credentials: the loop over nodes, and the thin generic layer under every endpoint.

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
use crate::credentials::User;
use crate::error::{Cause, Error, Trouble, sum_up};
use crate::exchange::{Attempt, Side, Time, answer, build, copy, go, head, of_body, of_ureq, read_whole, send};
use crate::media::{JSON, OCTETS, to_json};
use crate::pick::Tried;
use crate::pool::{Lines, Pool};
use crate::request::{Answer, Call, Changed, Place};
use crate::retry::{Outcome, Repeat, Verdict, judge};
use crate::upload::{Counted, Upload};

/// Calls as one user, or as nobody. Clones share the credentials.
#[derive(Clone)]
pub struct Session {
    pool: Arc<Pool>,
    user: Option<Arc<User>>,
    only: Option<usize>,
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
            let mut reply = match send(lines, &self.pool.name(node), self.user.as_deref(), &call, time)? {
                Ok(reply) => reply,
                Err(why) => return Ok((of_ureq(why), None)),
            };
            match reply.status().as_u16() {
                200 => {}
                status @ (201..=299 | 304) => {
                    let why = format!("a download does not begin with {status}");
                    return Err(Error::Garbled { node: self.pool.name(node), why });
                }
                _ => return Ok(read_whole(self.pool.name(node), reply)),
            }
            match copy(&mut reply.body_mut().as_reader(), to) {
                Ok(bytes) => fetched = bytes,
                Err((_, Side::Local(why))) => return Err(Error::Local(why)),
                Err((0, Side::Node(why))) => return Ok((Outcome::Lost(of_body(&why)), None)),
                Err((bytes, Side::Node(why))) => {
                    return Err(Error::Incomplete { node: self.pool.name(node), bytes, cause: of_body(&why) });
                }
            }
            Ok(answer(self.pool.name(node), 200, String::new(), None, Zeroizing::default()))
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
            let request =
                head(&call, &self.pool.name(node), self.user.as_deref())?.header(CONTENT_TYPE, upload.content_type());
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
                Ok(reply) => read_whole(self.pool.name(node), reply),
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
            Ok(match send(lines, &self.pool.name(node), self.user.as_deref(), &call, Time::Whole(limit))? {
                Ok(reply) => read_whole(self.pool.name(node), reply),
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
}

/// What came of asking one node.
enum Asked {
    Answer(Answer),
    Trouble(Cause),
}

/// With less time than this nothing is begun: it would end as a request whose answer was lost, though it never left.
const SHORTEST_ATTEMPT: Duration = Duration::from_millis(20);

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let user = self.user.as_ref().map(|user| &user.name);
        f.debug_struct("Session").field("user", &user).field("only", &self.only).finish_non_exhaustive()
    }
}
