//! The calls, and what becomes of them when an endpoint fails.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use casemate_api::limits::{ETCD_CALL_MS, ETCD_CONNECT_MS, ETCD_ENDPOINTS_MAX, ETCD_REQUEST_MAX_BYTES, ETCD_WRITE_MS};
use tokio::time::Instant;

use crate::address::Address;
use crate::connection::{Expected, Message, Method, Node};
use crate::error::Error;
use crate::proto::{
    AlarmMember, AlarmRequest, AlarmResponse, CompactionRequest, CompactionResponse, DefragmentRequest,
    DefragmentResponse, LeaseGrantRequest, LeaseGrantResponse, LeaseKeepAliveRequest, LeaseKeepAliveResponse,
    LeaseRevokeRequest, LeaseRevokeResponse, RangeRequest, RangeResponse, StatusRequest, StatusResponse, TxnRequest,
    TxnResponse,
};
use crate::request;
use crate::tls::Tls;
use crate::watch::Watch;

/// Where etcd is, and how long to wait for it.
#[derive(Clone)]
pub struct Settings {
    /// The client ports, all of one cluster, in the order in which they are tried.
    pub endpoints: Vec<Address>,
    /// `None`: plain HTTP, which is accepted for this machine only.
    pub tls: Option<Tls>,
    /// Time for an endpoint to accept a connection, finish the TLS handshake and answer a first call.
    pub connect: Duration,
    /// Time for a call with all its attempts. A write waits for its answer no longer than [`ETCD_WRITE_MS`].
    pub deadline: Duration,
}

impl Settings {
    /// These endpoints, with the usual times.
    pub fn of(endpoints: Vec<Address>, tls: Option<Tls>) -> Self {
        let (connect, deadline) = (Duration::from_millis(ETCD_CONNECT_MS), Duration::from_millis(ETCD_CALL_MS));
        Self { endpoints, tls, connect, deadline }
    }
}

/// A client of one cluster, for any number of concurrent calls.
///
/// Calls go to the endpoint at the head of a list, over one connection. An endpoint that fails goes to the end. A read goes
/// to the next endpoint after every failure; a write only when it certainly did not begin.
pub struct Client {
    nodes: Mutex<Vec<Arc<Node>>>,
    expected: Expected,
    connect: Duration,
    pub(crate) deadline: Duration,
}

/// What is done when a call was sent, and no answer came.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unanswered {
    /// It goes to the next endpoint.
    Repeat,
    /// The caller is told so.
    Tell,
}

impl Client {
    /// Makes no connection yet. `Err` is a sentence for the operator.
    pub fn new(settings: Settings) -> Result<Self, String> {
        let Settings { endpoints, tls, connect, deadline } = settings;
        if endpoints.is_empty() || endpoints.len() > ETCD_ENDPOINTS_MAX {
            return Err(format!("etcd must have from 1 to {ETCD_ENDPOINTS_MAX} endpoints, not {}", endpoints.len()));
        }
        if let Some(far) = endpoints.iter().find(|endpoint| tls.is_none() && !endpoint.is_loopback()) {
            return Err(format!("{far} is another machine: etcd there is used with TLS only, so name its CA"));
        }
        let nodes = endpoints.into_iter().map(|address| Arc::new(Node::new(address, tls.clone()))).collect();
        Ok(Self { nodes: Mutex::new(nodes), expected: Expected::default(), connect, deadline })
    }

    /// The endpoints, in the order in which the next call tries them.
    pub fn endpoints(&self) -> Vec<Address> {
        self.nodes().iter().map(|node| node.address.clone()).collect()
    }

    /// Reads a row or a range of rows. With `serializable` it is answered from what one member knows.
    pub async fn range(&self, request: RangeRequest) -> Result<RangeResponse, Error> {
        let method = Method { path: "/etcdserverpb.KV/Range", leader: !request.serializable };
        self.call(method, request, Unanswered::Repeat).await
    }

    /// Carries out a transaction. One that only reads is repeated as a read is.
    pub async fn txn(&self, request: TxnRequest) -> Result<TxnResponse, Error> {
        let method = Method { path: "/etcdserverpb.KV/Txn", leader: !request::is_serializable(&request) };
        let unanswered = if request::writes(&request) { Unanswered::Tell } else { Unanswered::Repeat };
        self.call(method, request, unanswered).await
    }

    /// Forgets the history before `revision`, which can still be read. It may come true later than the answer.
    pub async fn compact(&self, revision: i64) -> Result<(), Error> {
        let method = Method { path: "/etcdserverpb.KV/Compact", leader: true };
        let request = CompactionRequest { revision, physical: false };
        self.call::<_, CompactionResponse>(method, request, Unanswered::Tell).await.map(drop)
    }

    /// Starts a watch of all keys that start with `prefix` from `start` on (inclusive; 0: from now). It waits until etcd has
    /// confirmed it; that the start is compacted is then told by the first [`Watch::next`].
    pub async fn watch(&self, prefix: &[u8], start: i64) -> Result<Watch, Error> {
        let method = Method { path: "/etcdserverpb.Watch/Watch", leader: true };
        self.attempts(Unanswered::Repeat, |node, until| {
            let create = request::watch(prefix, start);
            async move { Watch::create(&node, &self.expected, method, create, until).await }
        })
        .await
    }

    /// A new lease of `ttl_s` seconds at least. Returns its id and the seconds it was given. One whose answer is lost ends
    /// by itself.
    pub async fn lease_grant(&self, ttl_s: i64) -> Result<(i64, i64), Error> {
        let method = Method { path: "/etcdserverpb.Lease/LeaseGrant", leader: true };
        let request = LeaseGrantRequest { ttl: ttl_s, id: 0 };
        let granted: LeaseGrantResponse = self.call(method, request, Unanswered::Repeat).await?;
        Ok((granted.id, granted.ttl))
    }

    /// Starts the time of a lease again and returns it, in seconds.
    pub async fn lease_keepalive(&self, id: i64) -> Result<i64, Error> {
        // A stream to etcd; with one message in each direction it is on the wire what a simple call is.
        let method = Method { path: "/etcdserverpb.Lease/LeaseKeepAlive", leader: true };
        let kept: LeaseKeepAliveResponse = self.call(method, LeaseKeepAliveRequest { id }, Unanswered::Repeat).await?;
        if kept.ttl > 0 { Ok(kept.ttl) } else { Err(Error::LeaseNotFound) }
    }

    /// Ends a lease, which removes the rows that are bound to it.
    pub async fn lease_revoke(&self, id: i64) -> Result<(), Error> {
        let method = Method { path: "/etcdserverpb.Lease/LeaseRevoke", leader: true };
        self.call::<_, LeaseRevokeResponse>(method, LeaseRevokeRequest { id }, Unanswered::Tell).await.map(drop)
    }

    /// What one member says about itself, the first that answers.
    pub async fn status(&self) -> Result<StatusResponse, Error> {
        self.call(Method::STATUS, StatusRequest {}, Unanswered::Repeat).await
    }

    /// What the member at `endpoint` says about itself.
    pub async fn status_of(&self, endpoint: &Address) -> Result<StatusResponse, Error> {
        self.call_at(endpoint, Method::STATUS, StatusRequest {}, self.deadline).await
    }

    /// The alarms that are raised in the cluster. Needs a majority.
    pub async fn alarms(&self) -> Result<Vec<AlarmMember>, Error> {
        let method = Method { path: "/etcdserverpb.Maintenance/Alarm", leader: true };
        // `AlarmAction` 0 is GET, the alarm 0 is any.
        let request = AlarmRequest { action: 0, member_id: 0, alarm: 0 };
        let raised: AlarmResponse = self.call(method, request, Unanswered::Repeat).await?;
        Ok(raised.alarms)
    }

    /// Takes back an alarm, when its cause is gone; the one that the database of a member has reached its quota comes again at the next
    /// write if it has not been made smaller. Needs a majority.
    pub async fn lift_alarm(&self, alarm: AlarmMember) -> Result<(), Error> {
        let method = Method { path: "/etcdserverpb.Maintenance/Alarm", leader: true };
        // `AlarmAction` 2 is DEACTIVATE.
        let request = AlarmRequest { action: 2, member_id: alarm.member_id, alarm: alarm.alarm };
        self.call::<_, AlarmResponse>(method, request, Unanswered::Repeat).await.map(drop)
    }

    /// Gives free pages of the database of the member at `endpoint` back to its disk. That member answers nothing else
    /// while it does, so it takes a deadline of its own, by the size of the database.
    pub async fn defragment(&self, endpoint: &Address, deadline: Duration) -> Result<(), Error> {
        let method = Method { path: "/etcdserverpb.Maintenance/Defragment", leader: false };
        self.call_at::<_, DefragmentResponse>(endpoint, method, DefragmentRequest {}, deadline).await.map(drop)
    }

    /// Calls one member and no other.
    pub(crate) async fn call_at<Req: Message, Res: Message>(
        &self,
        endpoint: &Address,
        method: Method,
        request: Req,
        deadline: Duration,
    ) -> Result<Res, Error> {
        let now = Instant::now();
        let until = (now + self.connect, now + deadline);
        self.node(endpoint)?.unary(&self.expected, method, request, until).await
    }

    pub(crate) async fn call<Req: Message, Res: Message>(
        &self,
        method: Method,
        request: Req,
        unanswered: Unanswered,
    ) -> Result<Res, Error> {
        if request.encoded_len() > ETCD_REQUEST_MAX_BYTES {
            return Err(Error::TooLarge);
        }
        self.attempts(unanswered, |node, until| {
            let request = request.clone();
            async move { node.unary(&self.expected, method, request, until).await }
        })
        .await
    }

    /// Tries endpoints until one gives an answer, all of them have failed, or the time is over. `attempt` gets the instants
    /// until when it may connect and until when it must be done.
    async fn attempts<T, F: Future<Output = Result<T, Error>>>(
        &self,
        unanswered: Unanswered,
        attempt: impl Fn(Arc<Node>, (Instant, Instant)) -> F,
    ) -> Result<T, Error> {
        let end = Instant::now() + self.deadline;
        let nodes = self.nodes().clone();
        let mut failures = Vec::new();
        for (waiting, node) in (1..=nodes.len()).rev().zip(&nodes) {
            let now = Instant::now();
            // Those that have not been tried get their part of the time that is left.
            let share = end.saturating_duration_since(now) / u32::try_from(waiting).unwrap_or(u32::MAX);
            let connect = now + self.connect.min(share);
            let until = match unanswered {
                Unanswered::Repeat => now + share,
                Unanswered::Tell => end.min(now + Duration::from_millis(ETCD_WRITE_MS)),
            };
            let error = match attempt(Arc::clone(node), (connect, until)).await {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            let again = match &error {
                Error::NotBegun(_) | Error::NoLeader | Error::Learner | Error::Refused(_) | Error::Unsupported(_) => {
                    true
                }
                Error::Unknown(_) => unanswered == Unanswered::Repeat,
                Error::NoSpace
                | Error::Compacted
                | Error::TooLarge
                | Error::LeaseNotFound
                | Error::Member(_)
                | Error::Other(_) => return Err(error),
            };
            tracing::debug!(endpoint = %node.address, %error, "an endpoint of etcd has failed");
            self.put_last(node);
            failures.push((node.address.clone(), error));
            if !again {
                break;
            }
        }
        Err(summary(failures))
    }

    fn put_last(&self, node: &Arc<Node>) {
        let mut nodes = self.nodes();
        if let Some(at) = nodes.iter().position(|other| Arc::ptr_eq(other, node)) {
            let node = nodes.remove(at);
            nodes.push(node);
        }
    }

    fn node(&self, endpoint: &Address) -> Result<Arc<Node>, Error> {
        let node = self.nodes().iter().find(|node| node.address == *endpoint).map(Arc::clone);
        node.ok_or_else(|| Error::Other(format!("{endpoint} is not an endpoint of this client")))
    }

    fn nodes(&self) -> MutexGuard<'_, Vec<Arc<Node>>> {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One error for those of all endpoints: what may have been done comes first, then what can be mended by waiting.
fn summary(failures: Vec<(Address, Error)>) -> Error {
    let why = || {
        let mut causes = Vec::new();
        for (address, error) in &failures {
            causes.push(match error {
                Error::NotBegun(why) | Error::Unknown(why) | Error::Refused(why) | Error::Unsupported(why) => {
                    format!("{address} ({why})")
                }
                other => format!("{address} ({other})"),
            });
        }
        causes.join(", ")
    };
    let any = |wanted: fn(&Error) -> bool| failures.iter().any(|(_, error)| wanted(error));
    if any(|error| matches!(error, Error::Unknown(_))) {
        Error::Unknown(why())
    } else if any(|error| matches!(error, Error::NoLeader)) {
        Error::NoLeader
    } else if any(|error| matches!(error, Error::NotBegun(_))) {
        Error::NotBegun(why())
    } else if any(|error| matches!(error, Error::Learner)) {
        Error::Learner
    } else if any(|error| matches!(error, Error::Unsupported(_))) {
        Error::Unsupported(why())
    } else {
        Error::Refused(why())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> Address {
        Address::parse(text).unwrap()
    }

    #[test]
    fn an_endpoint_that_has_failed_is_tried_last() {
        let all: Vec<Address> = (1..=3).map(|port| address(&format!("127.0.0.1:{port}"))).collect();
        let client = Client::new(Settings::of(all.clone(), None)).unwrap();
        let failed = client.node(&all[0]).unwrap();
        client.put_last(&failed);
        assert_eq!(client.endpoints(), [all[1].clone(), all[2].clone(), all[0].clone()]);
        client.put_last(&client.node(&all[2]).unwrap());
        assert_eq!(client.endpoints(), [all[1].clone(), all[0].clone(), all[2].clone()]);
    }

    #[test]
    fn another_machine_is_not_used_without_tls() {
        let refusal =
            Client::new(Settings::of(vec![address("127.0.0.1:1"), address("192.0.2.1:1")], None)).err().unwrap();
        assert_eq!(refusal, "192.0.2.1:1 is another machine: etcd there is used with TLS only, so name its CA");
        assert!(Client::new(Settings::of(Vec::new(), None)).is_err());
        assert!(Client::new(Settings::of(vec![address("[::1]:1")], None)).is_ok());
    }

    #[test]
    fn a_call_that_one_endpoint_may_have_carried_out_is_unknown() {
        let at = |error| (address("a:1"), error);
        let (not_begun, unknown) = (Error::NotBegun("closed".into()), Error::Unknown("late".into()));
        let refused = Error::Refused("bad certificate".into());
        let all = vec![at(not_begun.clone()), at(Error::NoLeader), at(unknown), at(refused.clone())];
        assert!(matches!(summary(all), Error::Unknown(why) if why.contains("a:1 (late)")));
        assert_eq!(summary(vec![at(not_begun.clone()), at(Error::NoLeader)]), Error::NoLeader);
        assert_eq!(
            summary(vec![at(refused.clone()), at(not_begun)]),
            Error::NotBegun("a:1 (bad certificate), a:1 (closed)".into())
        );
        assert_eq!(summary(vec![at(refused.clone())]), Error::Refused("a:1 (bad certificate)".into()));
        let old = Error::Unsupported("etcd is 3.4".into());
        assert_eq!(
            summary(vec![at(refused), at(old)]),
            Error::Unsupported("a:1 (bad certificate), a:1 (etcd is 3.4)".into())
        );
    }
}
