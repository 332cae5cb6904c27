//! `/keys*`.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use casemate_api::body::Created;
use casemate_api::body::keys as bodies;
use casemate_api::limits::{BODY_INLINE_MAX_BYTES, LIST_TURN_ROWS};
use casemate_api::mechanisms::{Mode, of_mode};
use casemate_api::{KeyId, Role, Tag};
use casemate_core::Error;
use casemate_core::crypto::material::Material;
use casemate_core::hsm::phase::Operational;
use casemate_core::identity::caller::{Caller, Scope};
use casemate_core::identity::right::Change;
use casemate_core::keys::usable::{Key, UsableKey};
use casemate_core::keys::{NewId, PageEnd, Properties};
use casemate_core::rows::key::Mechanisms;
use casemate_core::runtime::party::Party;
use casemate_core::runtime::pool::Work;
use casemate_core::runtime::{stale, stall};
use hyper::StatusCode;
use zeroize::Zeroizing;

use crate::http::decode::Import;
use crate::http::endpoint::OperationalGuard;
use crate::http::find::{KeyOrPrefix, Listing};
use crate::http::reply::Reply;
use crate::http::represent;
use crate::http::route::BASE;
use crate::http::serve::ReplyBody;
use crate::observe::metrics::{Count, Metrics};

/// `GET /keys`
pub async fn list(op: OperationalGuard, caller: Caller, listing: Listing, (): ()) -> Result<Reply, Error> {
    listed(op, caller, listing).await
}

/// `GET /keys/{key}` and `GET /keys/{prefix}*`
pub async fn read(op: OperationalGuard, caller: Caller, found: KeyOrPrefix, (): ()) -> Result<Reply, Error> {
    match found {
        KeyOrPrefix::One(key) => Ok(Reply::ok(represent::key(&op, &key).await?)),
        KeyOrPrefix::Prefix(listing) => listed(op, caller, listing).await,
    }
}

/// A list that fits one page is answered at once; a longer one is streamed page by page, holding the phase only while a
/// page is read, so that a slow client cannot keep the HSM from locking.
async fn listed(op: OperationalGuard, caller: Caller, listing: Listing) -> Result<Reply, Error> {
    let scope = caller.scope()?.clone();
    let usable_by = (listing.usable && caller.role() == Role::Operator).then_some(caller);
    let wanted = Wanted { scope, listing, usable_by };
    let mut list = List::default();
    let mut end = wanted.page(&op, None, &mut list).await?;
    if end.is_none() {
        return Ok(Reply::ok(list.end()));
    }
    let weak = op.weak();
    drop(op);
    let (writer, body) = ReplyBody::stream();
    tokio::spawn(stale::carried(async move {
        // A writer dropped before its end breaks the connection, so that a partial list is not taken for a complete
        // one.
        while let Some(after) = end {
            if writer.write(list.piece()).await.is_err() {
                return;
            }
            let Some(op) = weak.upgrade() else { return };
            match wanted.page(&op, Some(&after), &mut list).await {
                Ok(next) => end = next,
                Err(error) => {
                    tracing::warn!(target: "http", %error, "a list of keys was aborted");
                    return;
                }
            }
        }
        // If the client has disconnected, an error cannot be reported.
        if writer.write(list.end()).await.is_ok() {
            let _ = writer.finish().await;
        }
    }));
    Ok(Reply::stream(body))
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
    fn push(&mut self, id: &KeyId) {
        if !std::mem::replace(&mut self.empty, false) {
            self.json.push(b',');
        }
        // An id needs no escaping.
        self.json.extend_from_slice(b"{\"id\":\"");
        self.json.extend_from_slice(id.as_str().as_bytes());
        self.json.extend_from_slice(b"\"}");
    }

    /// What was written since the last piece.
    fn piece(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.json)
    }

    /// The last piece.
    fn end(mut self) -> Vec<u8> {
        self.json.push(b']');
        self.json
    }
}

struct Wanted {
    scope: Scope,
    listing: Listing,
    usable_by: Option<Caller>,
}

impl Wanted {
    /// Appends one page to `list`.
    async fn page(&self, op: &Operational, after: Option<&PageEnd>, list: &mut List) -> Result<Option<PageEnd>, Error> {
        let keys = op.keys().of(&self.scope);
        let (ids, end) = keys.page(&self.listing.prefix, after).await?;
        for (number, id) in ids.into_iter().enumerate() {
            // Rows in the cache are read without waiting.
            if number % LIST_TURN_ROWS == LIST_TURN_ROWS - 1 {
                tokio::task::yield_now().await;
            }
            if (self.listing.label.is_some() || self.usable_by.is_some()) && !self.wants(op, &id).await? {
                continue;
            }
            list.push(&id);
        }
        Ok(end)
    }

    async fn wants(&self, op: &Operational, id: &KeyId) -> Result<bool, Error> {
        let Some(key) = op.keys().of(&self.scope).get(id).await? else { return Ok(false) };
        let label = self.listing.label.as_ref().is_none_or(|label| key.label() == label);
        let usable = self.usable_by.as_ref().is_none_or(|caller| caller.has_one_of(key.tags()));
        Ok(label && usable)
    }
}

fn created(id: &KeyId) -> Result<Reply, Error> {
    let reply = Reply::json(&Created { id: id.to_string() })?;
    Ok(reply.status(StatusCode::CREATED).at(format!("{BASE}/keys/{id}")))
}

/// `POST /keys/generate`
pub async fn generate(
    op: OperationalGuard,
    caller: Caller,
    (metrics, _): (Arc<Metrics>, Duration),
    wanted: bodies::GenerateKey,
) -> Result<Reply, Error> {
    let keys = op.keys().managed_by(&caller)?;
    let bodies::GenerateKey { mechanisms, key_type, length, id, restrictions, label } = wanted;
    let id = keys.generate(&id, key_type, length, &mechanisms, (label, restrictions.tags)).await?;
    metrics.count(Count::Generate);
    created(&id)
}

/// `POST /keys`
pub async fn import(op: OperationalGuard, caller: Caller, (): (), body: Import) -> Result<Reply, Error> {
    let party = caller.scope()?.party();
    let (material, properties) = op.off_thread(Work::Slow, party, || imported(body)).await??;
    created(&op.keys().managed_by(&caller)?.create(NewId::Picked, material, properties).await?)
}

/// `PUT /keys/{key}`
pub async fn import_as(op: OperationalGuard, caller: Caller, id: KeyId, body: Import) -> Result<Reply, Error> {
    let party = caller.scope()?.party();
    let (material, properties) = op.off_thread(Work::Slow, party, || imported(body)).await??;
    op.keys().managed_by(&caller)?.create(NewId::Given(id), material, properties).await?;
    Ok(Reply::no_content())
}

/// Parses a key to import; the primes of an RSA key are tested, which takes time.
fn imported(body: Import) -> Result<(Material, Properties), Error> {
    let (material, mechanisms, label, restrictions) = match body {
        Import::Json(key) => {
            (Material::from_parts(key.key_type, &key.private)?, key.mechanisms, key.label, key.restrictions)
        }
        Import::Pem(arguments, pem) => (
            Material::from_pem(&pem).map_err(|error| error.in_field("key_file"))?,
            arguments.mechanisms,
            arguments.label,
            arguments.restrictions,
        ),
    };
    Ok((material, Properties::new(Mechanisms::of(&mechanisms), label, restrictions.tags)?))
}

/// `DELETE /keys/{key}`
pub async fn delete(op: OperationalGuard, caller: Caller, key: Key, (): ()) -> Result<Reply, Error> {
    op.keys().managed_by(&caller)?.delete(&key).await?;
    Ok(Reply::no_content())
}

/// `GET /keys/{key}/public.pem`
pub async fn public_pem(op: OperationalGuard, _: Caller, key: Key, (): ()) -> Result<Reply, Error> {
    Ok(Reply::ok(key.public_pem(op.keys()).await?))
}

/// `POST /keys/{key}/csr.pem`
pub async fn csr(
    op: OperationalGuard,
    _: Caller,
    key: Key,
    subject: bodies::DistinguishedName,
) -> Result<Reply, Error> {
    Ok(Reply::ok(key.csr(op.keys(), subject).await?))
}

/// `GET /keys/{key}/cert`
pub async fn certificate(op: OperationalGuard, caller: Caller, key: Key, (): ()) -> Result<Reply, Error> {
    Ok(Reply::ok(represent::certificate(&op, &caller, &key).await?))
}

/// `PUT /keys/{key}/cert`
pub async fn set_certificate(
    op: OperationalGuard,
    caller: Caller,
    id: KeyId,
    certificate: Vec<u8>,
) -> Result<Reply, Error> {
    op.keys().managed_by(&caller)?.set_certificate(&id, certificate).await?;
    Ok(Reply::created())
}

/// `DELETE /keys/{key}/cert`
pub async fn delete_certificate(op: OperationalGuard, caller: Caller, key: Key, (): ()) -> Result<Reply, Error> {
    op.keys().managed_by(&caller)?.delete_certificate(&key).await?;
    Ok(Reply::no_content())
}

/// `PUT /keys/{key}/label`
pub async fn set_label(
    op: OperationalGuard,
    caller: Caller,
    id: KeyId,
    body: bodies::SetLabel,
) -> Result<Reply, Error> {
    Ok(put_into_set(op.keys().managed_by(&caller)?.set_label(&id, &body.label).await?))
}

/// `DELETE /keys/{key}/label`
pub async fn delete_label(op: OperationalGuard, caller: Caller, key: Key, (): ()) -> Result<Reply, Error> {
    op.keys().managed_by(&caller)?.set_label(&key.id, "").await?;
    Ok(Reply::no_content())
}

/// `POST /keys/{key}/move`
pub async fn rename(op: OperationalGuard, caller: Caller, key: Key, body: bodies::MoveKey) -> Result<Reply, Error> {
    let new_id = KeyId::parse(&body.new_id).map_err(|why| Error::invalid_field("newId", why.to_string()))?;
    op.keys().managed_by(&caller)?.rename(&key, &new_id).await?;
    Reply::json(&Created { id: new_id.to_string() })
}

/// `PUT /keys/{key}/restrictions/tags/{tag}`
pub async fn add_tag(op: OperationalGuard, caller: Caller, (id, tag): (KeyId, Tag), (): ()) -> Result<Reply, Error> {
    Ok(put_into_set(op.keys().managed_by(&caller)?.add_tag(&id, tag.as_str()).await?))
}

/// `DELETE /keys/{key}/restrictions/tags/{tag}`
pub async fn remove_tag(op: OperationalGuard, caller: Caller, (id, tag): (KeyId, Tag), (): ()) -> Result<Reply, Error> {
    taken_from_set(op.keys().managed_by(&caller)?.remove_tag(&id, tag.as_str()).await)
}

/// `204` for a change, `304` for none.
pub(super) fn put_into_set(change: Change) -> Reply {
    match change {
        Change::Done => Reply::no_content(),
        Change::Unchanged => Reply::unchanged(),
    }
}

/// `204` for a change, an empty `404` for none.
pub(super) fn taken_from_set(change: Result<Change, Error>) -> Result<Reply, Error> {
    match change {
        Ok(Change::Done) => Ok(Reply::no_content()),
        Ok(Change::Unchanged) | Err(Error::NotFound(_) | Error::NoUserToTag) => Err(Error::not_found()),
        Err(error) => Err(error),
    }
}

type ToUse = (Key, Arc<Metrics>);

/// Checks the restriction of the key. A refusal is given by what is stored, and not by what is cached.
async fn usable(op: &OperationalGuard, caller: &Caller, key: Key) -> Result<UsableKey, Error> {
    match key.usable_by(caller) {
        Ok(usable) => Ok(usable),
        // Boxed because it is rare.
        Err(key) => Box::pin(op.keys().usable_after_all(caller, key)).await,
    }
}

/// `POST /keys/{key}/sign`
pub async fn sign(
    op: OperationalGuard,
    caller: Caller,
    (key, metrics): ToUse,
    body: bodies::Sign,
) -> Result<Reply, Error> {
    let (key, party) = (usable(&op, &caller, key).await?, caller.scope()?.party());
    let message = message(&op, party, "message", body.message).await?;
    let mode = Mode::Sign(body.mode);
    let output = key.permit(mode)?.run(op.keys(), message, None).await?;
    metrics.operation(Count::Sign, of_mode(mode));
    replied(&op, party, output, |text| Ok(Reply::json_member("signature", &text))).await
}

/// `POST /keys/{key}/decrypt`
pub async fn decrypt(
    op: OperationalGuard,
    caller: Caller,
    (key, metrics): ToUse,
    body: bodies::Decrypt,
) -> Result<Reply, Error> {
    let (key, party) = (usable(&op, &caller, key).await?, caller.scope()?.party());
    let encrypted = message(&op, party, "encrypted", body.encrypted).await?;
    let iv = match body.iv {
        Some(iv) => Some(message(&op, party, "iv", iv).await?.to_vec()),
        None => None,
    };
    let mode = Mode::Decrypt(body.mode);
    let permit = key.permit(mode)?;
    let output = permit.run(op.keys(), encrypted, iv).await?;
    metrics.operation(Count::Decrypt, of_mode(mode));
    replied(&op, party, output, |text| Reply::json(&bodies::Decrypted { decrypted: Zeroizing::new(text) })).await
}

/// `POST /keys/{key}/encrypt`
pub async fn encrypt(
    op: OperationalGuard,
    caller: Caller,
    (key, metrics): ToUse,
    body: bodies::Encrypt,
) -> Result<Reply, Error> {
    let (key, party) = (usable(&op, &caller, key).await?, caller.scope()?.party());
    let plain = message(&op, party, "message", body.message).await?;
    let iv = match body.iv {
        Some(iv) => message(&op, party, "iv", iv).await?.to_vec(),
        None => op.random(IV_BYTES).to_vec(),
    };
    let mode = Mode::Encrypt(body.mode);
    let permit = key.permit(mode)?;
    let output = permit.run(op.keys(), plain, Some(iv.clone())).await?;
    metrics.operation(Count::Encrypt, of_mode(mode));
    let iv = BASE64.encode(iv);
    replied(&op, party, output, |text| Reply::json(&bodies::Encrypted { encrypted: text, iv })).await
}

const IV_BYTES: usize = 16;

/// Base64 of messages: padded, and lenient about the unused bits before the padding (RFC 4648 §3.5).
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_allow_trailing_bits(true)
        .with_decode_padding_mode(DecodePaddingMode::RequireCanonical),
);

/// Decodes the member `field` of the body, on the pool if it is long.
async fn message<T>(op: &Operational, party: Party, field: &'static str, text: T) -> Result<Zeroizing<Vec<u8>>, Error>
where
    T: std::ops::Deref<Target: AsRef<str>> + Send + 'static,
{
    op.run_by_size(text.as_ref().len(), party, move || decoded(text.as_ref()))
        .await?
        .map_err(|error| error.in_field(field))
}

/// Encodes the result of an operation as a reply, on the pool if it is long.
async fn replied(
    op: &Operational,
    party: Party,
    output: Zeroizing<Vec<u8>>,
    reply: impl FnOnce(String) -> Result<Reply, Error> + Send + 'static,
) -> Result<Reply, Error> {
    let bytes = output.len();
    let encode = move || {
        if bytes > BODY_INLINE_MAX_BYTES {
            stall::begins("encoding a long output");
        }
        reply(BASE64.encode(&*output))
    };
    op.run_by_size(bytes, party, encode).await?
}

/// Decodes base64; newlines in it are ignored, other characters are an error.
fn decoded(text: &str) -> Result<Zeroizing<Vec<u8>>, Error> {
    if text.len() > BODY_INLINE_MAX_BYTES {
        stall::begins("decoding a long message");
    }
    let decoded = match text.as_bytes().contains(&b'\n') {
        false => BASE64.decode(text),
        true => BASE64.decode(Zeroizing::new(text.replace('\n', ""))),
    };
    decoded.map(Zeroizing::new).map_err(|why| Error::invalid(format!("Couldn't decode data from base64: {why}.")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::reply::Content;

    #[test]
    fn a_list_is_one_array_however_it_is_cut_into_pieces() {
        let id = |text: &str| KeyId::parse(text).unwrap();
        let mut list = List::default();
        let mut json = list.piece();
        json.extend(list.piece());
        list.push(&id("a"));
        json.extend(list.piece());
        list.push(&id("b"));
        json.extend(list.end());
        assert_eq!(json, b"[{\"id\":\"a\"},{\"id\":\"b\"}]");
        assert_eq!(List::default().end(), b"[]");
    }

    #[test]
    fn a_signature_is_written_as_its_schema_has_it() {
        let signature = BASE64.encode([0xfb, 0xef, 0xff, 0, 1, 2, 3]);
        let Content::Whole(written) = Reply::json_member("signature", &signature).body else { panic!("not streamed") };
        let of_schema = serde_json::to_vec(&bodies::Signature { signature }).unwrap();
        assert_eq!(written.iter().collect::<Vec<_>>().concat(), of_schema);
    }

    #[test]
    fn messages_may_hold_newlines_and_trailing_bits_but_no_spaces() {
        assert_eq!(*decoded("AAEC\n/w==\n").unwrap(), [0, 1, 2, 255]);
        assert_eq!(*decoded("/x==").unwrap(), [255]);
        for text in ["AA EC", "AAEC\r\n", "AAE", "AAECA", "A-_C"] {
            assert!(decoded(text).is_err(), "{text}");
        }
    }
}
