//! What is known about one request between route and reply.
//!
//! Data only; it decides nothing. What a request is refused for, and in which order, is in [`super::gate`]. Nothing in
//! it is trusted before the gate has checked it.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use casemate_api::UserId;
use casemate_core::Hsm;
use casemate_core::runtime::Clock;
use hyper::Method;
use hyper::body::Incoming;
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};

use super::access::FailedState;
use super::budget::Grant;
use super::endpoint::Spec;
use super::negotiate::{Basic, Conditions};
use super::route::Ids;
use super::running_changes::RunningChanges;
use super::upload::{LeftOver, Upload};
use crate::observe::metrics::Metrics;
use crate::update::Updates;

/// One request on its way through the gate.
pub struct RequestContext {
    /// The HSM.
    pub hsm: Arc<Hsm>,
    /// The client's address.
    pub address: IpAddr,
    /// Metrics of this server.
    pub metrics: Arc<Metrics>,
    /// The ids in the path, decoded but not parsed.
    pub ids: Ids,
    /// The query: what follows `?`.
    pub query: Option<String>,
    /// Software updates of this server.
    pub updates: Arc<Updates>,
    /// The endpoint's description.
    pub(super) spec: Arc<Spec>,
    /// Who may call while the HSM is Failed.
    pub(super) failed: FailedState,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) method: Method,
    pub(super) headers: HeaderMap,
    pub(super) body: Option<Incoming>,
    /// Where a handler that reads the body itself leaves the unread rest.
    pub(super) left_over: Option<LeftOver>,
    /// The memory granted to this request.
    pub(super) grant: Arc<Grant>,
    pub(super) changes: Arc<RunningChanges>,
    /// What the audit log knows about it.
    pub(super) audit_progress: AuditProgress,
}

/// What the audit log knows about a call.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum AuditProgress {
    /// Nothing, and the caller was not authenticated.
    Anonymous,
    /// Nothing, but the caller was authenticated.
    Authenticated,
    /// Everything: its intent or result is recorded.
    Recorded,
}

impl RequestContext {
    /// The authenticated user: the name in the credentials, once they were verified.
    pub(super) fn user(&self) -> Option<UserId> {
        if self.audit_progress == AuditProgress::Anonymous {
            return None;
        }
        let basic = Basic::parse(self.headers.get(header::AUTHORIZATION)?.as_bytes())?;
        UserId::parse(basic.name()).ok()
    }

    /// Monotonic time of the HSM's clock.
    pub fn now(&self) -> Duration {
        self.clock.monotonic()
    }

    /// The body, for a handler that reads it itself; what it leaves unread is put in `left_over`.
    pub(super) fn upload(&mut self) -> Upload {
        let left_over = self.left_over.insert(LeftOver::default()).clone();
        let content_type = self.content_type().map(<[u8]>::to_vec);
        Upload::new(self.body.take(), content_type, self.hsm.clone(), self.clock.clone(), left_over)
    }

    pub(super) fn reads(&self) -> bool {
        self.method == Method::GET || self.method == Method::HEAD
    }

    pub(super) fn takes_body(&self) -> bool {
        self.method == Method::PUT || self.method == Method::POST
    }

    pub(super) fn content_type(&self) -> Option<&[u8]> {
        self.headers.get(header::CONTENT_TYPE).map(HeaderValue::as_bytes)
    }

    pub(super) fn conditions(&self) -> Conditions<'_> {
        let text = |name: HeaderName| self.headers.get(name).and_then(|value| value.to_str().ok());
        Conditions {
            if_match: text(header::IF_MATCH),
            if_none_match: text(header::IF_NONE_MATCH),
            if_modified_since: text(header::IF_MODIFIED_SINCE),
        }
    }
}
