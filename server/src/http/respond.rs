//! From replies and refusals to responses: the audit record of a refusal, the unread rest of its body, the memory that
//! a reply uses, and the headers.

use std::sync::Arc;
use std::time::Duration;

use casemate_api::limits::{DRAIN_MAX_BYTES, DRAIN_MAX_MS, REPLY_STREAM_BYTES, REQUEST_BYTES};
use casemate_api::sentences;
use casemate_core::Hsm;
use http_body_util::BodyExt;
use hyper::body::{Body as _, Incoming};
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::{Response, StatusCode};

use super::budget::{Grant, NoRoom};
use super::context::{AuditProgress, RequestContext};
use super::endpoint::{FindReachable, Handler, PhaseAccess, Spec, TypedEndpoint};
use super::gate;
use super::reply::{Content, Refusal, Reply};
use super::serve::ReplyBody;
use super::trail;

/// Passes a request through the gate, from the credentials to the reply. A refusal is recorded in the audit log once,
/// and what its client still sends is read for a moment.
#[expect(clippy::manual_async_fn, reason = "the future of an async fn has room for its arguments twice")]
pub(super) fn admit<C, F, B, H>(
    mut context: RequestContext,
    endpoint: Arc<TypedEndpoint<F, B, H>>,
) -> impl Future<Output = Result<Reply, Refusal>> + Send
where
    C: PhaseAccess,
    F: FindReachable<C>,
    B: Send + 'static,
    H: Handler<C, F::Found, B>,
{
    async move {
        match gate::pass(&mut context, endpoint).await {
            Err(refusal) => {
                if context.audit_progress != AuditProgress::Recorded {
                    let user = context.user();
                    trail::refused(&context.hsm, &context.spec, &refusal, context.address, user, &context.ids);
                }
                // Boxed because it is rare.
                let drained = Box::pin(drain(&context.headers, context.body.take())).await;
                Err(if drained { refusal } else { refusal.closing() })
            }
            reply => reply,
        }
    }
}

/// Reads on for a moment when a request is refused before its body was read: many clients look for the answer only
/// after sending everything, and lose it if the connection is closed before. Returns whether the end of the body was
/// reached; otherwise the connection is out of sync and must be closed after the reply.
pub(super) async fn drain(headers: &HeaderMap, body: Option<Incoming>) -> bool {
    let Some(mut body) = body else { return true };
    // A client that waits for `100 Continue` has sent nothing yet, and is not asked to.
    if body.is_end_stream() || headers.contains_key(header::EXPECT) {
        return body.is_end_stream();
    }
    let mut left = DRAIN_MAX_BYTES;
    let read = async {
        while let Some(frame) = body.frame().await {
            left = left.saturating_sub(frame.ok()?.data_ref().map_or(0, |data| data.len()));
            if left == 0 {
                return None;
            }
        }
        Some(())
    };
    let read = tokio::time::timeout(Duration::from_millis(DRAIN_MAX_MS), read).await;
    read.is_ok_and(|end| end.is_some())
}

/// Charges the reply to the budget until the client has read it.
pub(super) fn charge(reply: Reply, grant: &Grant, spec: &Spec) -> Result<Reply, Refusal> {
    let bytes = match &reply.body {
        Content::Whole(bytes) => bytes.len(),
        Content::Stream(_) => REPLY_STREAM_BYTES,
    };
    // The difference for small replies is not worth the access to the account.
    grant.shrink(bytes.max(2 * REQUEST_BYTES));
    match grant.cover(bytes) {
        // A change that was made must not be reported as refused; replies to changes are short.
        Err(NoRoom) if !spec.changes() => Err(no_room()),
        Ok(()) | Err(NoRoom) => Ok(reply),
    }
}

/// 503: the client already uses its full share of memory.
pub(super) fn no_room() -> Refusal {
    Refusal::because(StatusCode::SERVICE_UNAVAILABLE, sentences::BUSY).with("retry-after", "1")
}

pub(super) fn broken() -> Refusal {
    Refusal::because(StatusCode::INTERNAL_SERVER_ERROR, "Internal error. Check the log.")
}

pub(super) fn succeed(reply: Reply, spec: &Spec) -> Response<ReplyBody> {
    let body = match reply.body {
        Content::Whole(bytes) => ReplyBody::pieces(bytes),
        Content::Stream(body) => body,
    };
    let mut response = Response::new(body);
    *response.status_mut() = reply.status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(spec.media.as_str()));
    let texts = [
        (header::ETAG, reply.tag),
        (header::LOCATION, reply.location),
        (header::LINK, reply.next.map(|next| format!("<{next}>; rel=\"next\""))),
        (HeaderName::from_static("casemate-note"), reply.note.map(str::to_owned)),
    ];
    for (name, text) in texts {
        match text.map(HeaderValue::try_from) {
            None => {}
            Some(Ok(value)) => _ = headers.insert(name, value),
            // Without `Link`, a page would look like the last one.
            Some(Err(_)) => {
                tracing::error!(target: "http", path = spec.path, header = %name, "a reply has a header that cannot be sent");
                return refuse(broken(), Some(spec));
            }
        }
    }
    response
}

pub(super) fn refuse(refusal: Refusal, spec: Option<&Spec>) -> Response<ReplyBody> {
    let mut response = Response::new(ReplyBody::whole(refusal.body()));
    *response.status_mut() = refusal.status;
    let headers = response.headers_mut();
    if refusal.close {
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    if refusal.message.is_some() {
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    } else if let (true, Some(spec)) = (refusal.typed, spec) {
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(spec.media.as_str()));
    }
    if let Some((name, value)) = refusal.header
        && let Ok(value) = HeaderValue::from_str(&value)
    {
        headers.insert(HeaderName::from_static(name), value);
    }
    response
}

/// The HSM's time since 1970, for headers.
pub(super) fn unix_time(hsm: &Hsm) -> Duration {
    Duration::from_secs(u64::try_from(hsm.now().as_second()).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reply_without_a_reference_that_it_should_have_is_not_sent() {
        let table = crate::http::endpoints::table();
        let spec = &table.iter().find(|endpoint| endpoint.spec.path == "/keys").unwrap().spec;
        let status = |next: &str| succeed(Reply { next: Some(next.into()), ..Reply::ok("[]") }, spec).status();
        assert_eq!(status("?after=k"), StatusCode::OK);
        assert_eq!(status("?after=k\n"), StatusCode::INTERNAL_SERVER_ERROR, "not for the end of the list");
    }
}
