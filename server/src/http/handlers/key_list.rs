//! `GET /keys` and `GET /keys/{prefix}*`: lists of keys of any length, whole or page by page, of ids or with details.
//!
//! A list that is not cut into pages is streamed, and the phase held only while some of it is read, so that a slow client cannot
//! keep the HSM from locking. A page is answered as a whole, with an ETag and a reference to the next page.

use std::collections::VecDeque;
use std::sync::Weak;

use casemate_api::limits::{KEY_DETAILS_ROWS, LIST_PAGE_BYTES, LIST_TURN_ROWS, REPLY_PIECE_BYTES};
use casemate_api::{KeyId, Role};
use casemate_core::Error;
use casemate_core::hsm::phase::Operational;
use casemate_core::identity::caller::{Caller, Scope};
use casemate_core::keys::details::DescribedKey;
use casemate_core::keys::usable::Key;
use casemate_core::keys::{Keys, PageEnd};
use casemate_core::runtime::stale;
use serde::Serialize;
use tokio::task::yield_now;

use crate::http::conditions::etag_of;
use crate::http::endpoint::OperationalGuard;
use crate::http::find::Listing;
use crate::http::negotiate::{Conditions, Current, Effect, Verdict};
use crate::http::pieces::Pieces;
use crate::http::reply::Reply;
use crate::http::serve::{ReplyBody, ReplyWriter};

/// `GET /keys`, and `GET /keys/{prefix}*`
pub async fn list(op: OperationalGuard, caller: Caller, listing: Listing, (): ()) -> Result<Reply, Error> {
    let scope = caller.scope()?.clone();
    let usable_by = (listing.usable && caller.role() == Role::Operator).then_some(caller);
    let wanted = Wanted { scope, listing, usable_by };
    match wanted.listing.limit {
        Some(limit) => page(&op, &wanted, limit).await,
        None => whole(op, wanted).await,
    }
}

/// One page. Its public keys are derived only if the client does not have it yet.
async fn page(op: &Operational, wanted: &Wanted, limit: usize) -> Result<Reply, Error> {
    let mut walk = wanted.begin(op).await?;
    let mut part = wanted.read(op, &mut walk, limit, LIST_PAGE_BYTES).await?;
    let next = walk.passed.take().filter(|_| !walk.is_done());
    let text = std::mem::take(&mut part.text);
    // One with the same keys is another page if the next one begins elsewhere: whoever has it would not see what is between.
    let end = [&[TAGGED_FORM, u8::from(next.is_some())][..], next.as_ref().map_or(&[], |id| id.as_str().as_bytes())];
    let end = end.concat();
    let tag = move || etag_of([&end[..], b"\n", &text]);
    let tag = op.run_by_size(part.bytes, wanted.scope.party(), tag).await?;
    let mut list = List::default();
    if !wanted.listing.is_known(&tag) {
        wanted.write(op, part, &mut list).await?;
    }
    let next = next.map(|id| {
        let others = Some(&*wanted.listing.query).filter(|query| !query.is_empty());
        others.iter().fold(format!("?after={id}"), |query, others| format!("{query}&{others}"))
    });
    Ok(Reply { tag: Some(tag), next, ..Reply::pieces(list.end()) })
}

/// The form of what the ETag of a page is computed from. The uid of a key stands for its public key.
const TAGGED_FORM: u8 = 1;

impl Listing {
    /// Whether the client has what has this ETag, so that the reply will be `304`, or `412`.
    fn is_known(&self, tag: &str) -> bool {
        let conditions = Conditions { if_none_match: self.known.as_deref(), ..Conditions::default() };
        let now = std::time::SystemTime::UNIX_EPOCH;
        conditions.verdict(Effect::Reads, Current::Tagged(tag), now) == Verdict::NotModified
    }
}

/// The whole list: answered at once if it is short, else streamed.
async fn whole(op: OperationalGuard, wanted: Wanted) -> Result<Reply, Error> {
    let mut walk = wanted.begin(&op).await?;
    let mut list = List::default();
    wanted.add(&op, &mut walk, &mut list).await?;
    if walk.is_done() {
        return Ok(Reply::pieces(list.end()));
    }
    let weak = op.weak();
    drop(op);
    let (writer, body) = ReplyBody::stream();
    tokio::spawn(stale::carried(stream(weak, wanted, walk, list, writer)));
    Ok(Reply::stream(body))
}

/// Writes the rest of a list. A writer dropped before its end breaks the connection, so that a partial list is not taken for a
/// complete one.
async fn stream(phase: Weak<Operational>, wanted: Wanted, mut walk: Walk, mut list: List, writer: ReplyWriter) {
    while !walk.is_done() {
        if writer.write(list.piece()).await.is_err() {
            return;
        }
        let Some(op) = phase.upgrade() else { return };
        if let Err(error) = wanted.add(&op, &mut walk, &mut list).await {
            tracing::warn!(target: "http", %error, "a list of keys was aborted");
            return;
        }
    }
    // If the client has disconnected, an error cannot be reported.
    list.json.push(b']');
    if writer.write(list.piece()).await.is_ok() {
        let _ = writer.finish().await;
    }
}

/// Which keys are listed, and for whom.
struct Wanted {
    scope: Scope,
    listing: Listing,
    usable_by: Option<Caller>,
}

/// How far a list has got.
struct Walk {
    /// Ids that were read and not listed yet.
    ids: VecDeque<KeyId>,
    /// Where the ids behind them begin; `None`: there are none.
    ahead: Option<Ahead>,
    /// The last id that was listed or left out.
    passed: Option<KeyId>,
}

enum Ahead {
    Start,
    After(PageEnd),
}

impl Walk {
    fn is_done(&self) -> bool {
        self.ids.is_empty() && self.ahead.is_none()
    }

    fn pass(&mut self) {
        self.passed = self.ids.pop_front();
    }

    /// Reads more ids if none are left.
    async fn read_on(&mut self, keys: &Keys<'_>, prefix: &str) -> Result<(), Error> {
        if !self.ids.is_empty() {
            return Ok(());
        }
        let after = match &self.ahead {
            None => return Ok(()),
            Some(Ahead::Start) => None,
            Some(Ahead::After(end)) => Some(end),
        };
        let (ids, end) = keys.page(prefix, after).await?;
        (self.ids, self.ahead) = (ids.into(), end.map(Ahead::After));
        Ok(())
    }
}

/// A part of a list that was read.
#[derive(Default)]
struct Part {
    /// The ids, if no details are wanted.
    ids: Vec<KeyId>,
    /// The details, if they are wanted, still without the public keys.
    details: Vec<DescribedKey>,
    /// All of that as JSON.
    text: Vec<u8>,
    /// Length of `text`.
    bytes: usize,
}

impl Part {
    fn is_full(&self, limit: usize, max_bytes: usize) -> bool {
        self.ids.len() + self.details.len() >= limit || self.text.len() >= max_bytes
    }
}

impl Wanted {
    async fn begin(&self, op: &Operational) -> Result<Walk, Error> {
        let keys = op.keys().of(&self.scope);
        let after = self.listing.after.as_ref();
        if let Some(search) = self.listing.searches.first()
            && let Some(mut ids) = keys.search(search).await?
        {
            ids.retain(|id| id.as_str().starts_with(&self.listing.prefix) && after.is_none_or(|after| id > after));
            return Ok(Walk { ids: ids.into(), ahead: None, passed: None });
        }
        let ahead = after.map_or(Ahead::Start, |after| Ahead::After(keys.page_end(after)));
        Ok(Walk { ids: VecDeque::new(), ahead: Some(ahead), passed: None })
    }

    /// Reads a part of at most `limit` keys that ends soon after `max_bytes` bytes. It may have fewer keys, or none, before the list
    /// has ended: many may not be wanted.
    async fn read(&self, op: &Operational, walk: &mut Walk, limit: usize, max_bytes: usize) -> Result<Part, Error> {
        let keys = op.keys().of(&self.scope);
        walk.read_on(&keys, &self.listing.prefix).await?;
        let mut part = Part::default();
        let mut number = 0;
        while !walk.ids.is_empty() && !part.is_full(limit, max_bytes) {
            if self.listing.details {
                self.read_details(&keys, walk, limit, max_bytes, &mut part).await?;
                continue;
            }
            // Rows in the cache are read without waiting.
            number += 1;
            if number % LIST_TURN_ROWS == 0 {
                yield_now().await;
            }
            if let Some(id) = walk.ids.front()
                && self.wants_id(&keys, id).await?
            {
                append(&mut part.text, &Item { id: id.as_str() })?;
                part.ids.push(id.clone());
            }
            walk.pass();
        }
        part.bytes = part.text.len();
        Ok(part)
    }

    async fn read_details(
        &self,
        keys: &Keys<'_>,
        walk: &mut Walk,
        limit: usize,
        max_bytes: usize,
        part: &mut Part,
    ) -> Result<(), Error> {
        let ids: Vec<_> = walk.ids.iter().take(KEY_DETAILS_ROWS).cloned().collect();
        let mut described = keys.describe_many(&ids, |key| self.wants(key)).await?.into_iter().peekable();
        for id in ids {
            if part.is_full(limit, max_bytes) {
                return Ok(());
            }
            if let Some(key) = described.next_if(|key| key.details.id == id.as_str()) {
                append(&mut part.text, &key.details)?;
                part.details.push(key);
            }
            walk.pass();
        }
        Ok(())
    }

    async fn wants_id(&self, keys: &Keys<'_>, id: &KeyId) -> Result<bool, Error> {
        if self.listing.searches.is_empty() && self.usable_by.is_none() {
            return Ok(true);
        }
        Ok(keys.get(id).await?.is_some_and(|key| self.wants(&key)))
    }

    fn wants(&self, key: &Key) -> bool {
        self.listing.searches.iter().all(|search| key.is_meant_by(search))
            && self.usable_by.as_ref().is_none_or(|caller| caller.has_one_of(key.tags()))
    }

    /// Adds what was read to `list`, with the public keys.
    async fn write(&self, op: &Operational, mut part: Part, list: &mut List) -> Result<(), Error> {
        part.ids.iter().try_for_each(|id| list.push(&Item { id: id.as_str() }))?;
        op.keys().add_public(self.scope.party(), &mut part.details).await?;
        for some in part.details.chunks(LIST_TURN_ROWS) {
            some.iter().try_for_each(|key| list.push(&key.details))?;
            yield_now().await;
        }
        Ok(())
    }

    /// Adds the next part to `list`.
    async fn add(&self, op: &Operational, walk: &mut Walk, list: &mut List) -> Result<(), Error> {
        let part = self.read(op, walk, usize::MAX, REPLY_PIECE_BYTES).await?;
        self.write(op, part, list).await
    }
}

/// An item of a list without details.
#[derive(Serialize)]
struct Item<'a> {
    id: &'a str,
}

fn append(json: &mut Vec<u8>, item: &impl Serialize) -> Result<(), Error> {
    serde_json::to_writer(json, item).map_err(|why| Error::internal(why.to_string()))
}

/// A JSON array that is written in pieces.
struct List {
    json: Vec<u8>,
    empty: bool,
}

impl Default for List {
    fn default() -> Self {
        Self { json: b"[".to_vec(), empty: true }
    }
}

impl List {
    fn push(&mut self, item: &impl Serialize) -> Result<(), Error> {
        if !std::mem::replace(&mut self.empty, false) {
            self.json.push(b',');
        }
        append(&mut self.json, item)
    }

    /// What was written since the last piece.
    fn piece(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.json)
    }

    /// All of a list that was not cut into pieces.
    fn end(mut self) -> Pieces {
        self.json.push(b']');
        let mut pieces = Pieces::default();
        pieces.append(&self.json);
        pieces
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_one_array_however_it_is_cut_into_pieces() {
        let push = |list: &mut List, text: &str| list.push(&Item { id: text }).unwrap();
        let mut list = List::default();
        let mut json = list.piece();
        json.extend(list.piece());
        push(&mut list, "a");
        json.extend(list.piece());
        push(&mut list, "b");
        json.extend(list.end().iter().flatten());
        assert_eq!(json, b"[{\"id\":\"a\"},{\"id\":\"b\"}]");
        assert_eq!(List::default().end().iter().collect::<Vec<_>>(), [b"[]"]);
    }
}
