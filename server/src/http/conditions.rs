//! What a path currently holds, and how the conditions of a request apply to it (RFC 9110 §13).
//!
//! The endpoint supplies what GET answers at the path: it has checked whether this caller may know.

use casemate_api::limits::BODY_INLINE_MAX_BYTES;
use casemate_core::Error;
use casemate_core::runtime::party::Party;
use casemate_core::runtime::stall;
use hyper::StatusCode;

use super::budget::NoRoom;
use super::context::RequestContext;
use super::negotiate::{Current, Effect, Verdict};
use super::pieces::Pieces;
use super::reply::{Content, Refusal, Reply};
use super::respond::{no_room, unix_time};

/// The current state of what a conditional request would change.
pub(super) enum Present {
    /// Something without an ETag, or nothing the caller may know about.
    Untagged,
    /// Nothing exists at the path.
    Missing,
    /// Something with this ETag.
    Tagged(String),
}

impl Present {
    pub(super) fn current(&self) -> Current<'_> {
        match self {
            Present::Untagged => Current::Untagged,
            Present::Missing => Current::Missing,
            Present::Tagged(tag) => Current::Tagged(tag),
        }
    }
}

impl RequestContext {
    pub(super) fn verdict(&self, current: Current<'_>) -> Verdict {
        let conditions = self.conditions();
        if conditions.is_empty() {
            return Verdict::Proceed;
        }
        let effect = if self.reads() { Effect::Reads } else { Effect::Changes };
        conditions.verdict(effect, current, std::time::SystemTime::UNIX_EPOCH + unix_time(&self.hsm))
    }

    /// Evaluates the conditions of a GET against its reply: 304, 412.
    pub(super) async fn conditional(&self, mut reply: Reply) -> Result<Reply, Refusal> {
        if let Content::Whole(bytes) = &mut reply.body
            && self.spec.etag
            && reply.tag.is_none()
        {
            let whole = std::mem::take(bytes);
            let (tag, whole) = self.tagged(whole.len(), move || whole).await?;
            (*bytes, reply.tag) = (whole, Some(tag));
        }
        match self.verdict(reply.tag.as_deref().map_or(Current::Untagged, Current::Tagged)) {
            Verdict::Proceed => Ok(reply),
            Verdict::NotModified => Ok(Reply { next: reply.next, ..Reply::unchanged() }),
            Verdict::Failed => Err(Refusal::bare(StatusCode::PRECONDITION_FAILED)),
        }
    }

    /// The current state of what a change would change, from what GET would answer there. If that cannot be determined,
    /// it counts as something without an ETag: the cause, such as a missing right or the store, refuses the change
    /// itself later in the order.
    pub(super) async fn present(&self, content: Result<Option<Vec<u8>>, Error>) -> Present {
        let tag = match content {
            Ok(None) => return Present::Untagged,
            Ok(Some(whole)) => self.tagged(whole.len(), move || whole.into()).await,
            Err(error) => Err(Refusal::from_core(error, &self.spec)),
        };
        match tag {
            Ok((tag, _)) => Present::Tagged(tag),
            Err(refusal) if refusal.status == StatusCode::NOT_FOUND => Present::Missing,
            Err(_) => Present::Untagged,
        }
    }

    /// Computes the ETag of `length` bytes from `pieces`, on the pool if they are many, and returns the bytes too.
    async fn tagged(
        &self,
        length: usize,
        pieces: impl FnOnce() -> Pieces + Send + 'static,
    ) -> Result<(String, Pieces), Refusal> {
        self.grant.cover(length).map_err(|NoRoom| no_room())?;
        let (party, grant) = (Party::Address(self.address.into()), self.grant.clone());
        let tag = move || {
            let whole = pieces();
            let tag = etag(&whole);
            drop(grant);
            (tag, whole)
        };
        let tagged = self.hsm.run_by_size(length, party, tag).await;
        tagged.map_err(|error| Refusal::from_core(error, &self.spec))
    }
}

/// The ETag of a body, in quotes: equal bodies have equal tags.
fn etag(body: &Pieces) -> String {
    if body.len() > BODY_INLINE_MAX_BYTES {
        stall::begins("tagging a large reply");
    }
    etag_of(body.iter())
}

/// The ETag of something that determines a body.
pub(super) fn etag_of<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> String {
    let digest = casemate_core::crypto::digest::sha256_of(parts);
    let half = digest.get(..16).unwrap_or_default();
    format!("\"{}\"", base16ct::lower::encode_string(half))
}
