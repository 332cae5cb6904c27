//! `/keys*`

use std::ops::RangeInclusive;

use casemate_api::body::Created;
use casemate_api::body::keys::{
    Decrypt, Decrypted, DistinguishedName, Encrypt, Encrypted, GenerateKey, ImportArguments, ImportKey, Key,
    KeyDetails, KeyItem, MoveKey, SetLabel, Sign, Signature,
};
use casemate_api::limits::LIST_PAGE_ROWS;
use casemate_api::{KeyId, Tag};
use serde::Serialize;
use ureq::http::Method;
use zeroize::Zeroizing;

use crate::error::Error;
use crate::media::{JSON, OCTETS, PEM, form, to_json};
use crate::request::{Changed, Request, quoted};
use crate::retry::Repeat;
use crate::session::Session;

/// Calls of `/keys`, for the keys of the user's namespace.
pub struct Keys<'a> {
    session: &'a Session,
    /// The uid that the key has to have.
    uid: Option<&'a str>,
}

/// Which keys are listed.
#[derive(Clone, Debug, Default)]
pub struct KeyFilter {
    /// Only ids with this prefix.
    pub prefix: Option<KeyId>,
    /// Only keys that the calling Operator may use. Ignored if there is a prefix.
    pub usable: bool,
    /// Only keys with this label; empty: only keys without one.
    pub label: Option<String>,
    /// Only keys whose labels begin like this, unless there is a label. A Casemate only: to a NetHSM it is a label with `*` at its end.
    pub label_prefix: Option<String>,
    /// Only the key with this uid. A Casemate only: a NetHSM lists all keys.
    pub uid: Option<String>,
}

/// Which page of a list is read.
#[derive(Clone, Copy, Debug)]
pub struct KeyPageRequest<'a> {
    /// Only ids behind this one, which need not exist; `None`: from the start.
    pub after: Option<&'a KeyId>,
    /// The most keys of the page, 1 to 1000.
    pub limit: usize,
    /// The ETag of the page as it was read before: if it is still the same, it is not sent again.
    pub known: Option<&'a str>,
}

impl KeyPageRequest<'_> {
    /// What [`KeyPageRequest::limit`] can be.
    pub const LIMITS: RangeInclusive<usize> = 1..=LIST_PAGE_ROWS;
}

/// A page of keys with their details.
#[derive(Debug)]
pub struct KeyPage {
    /// The keys, sorted by id. They may be fewer than the limit, or none, although there is a next page.
    pub keys: Vec<KeyDetails>,
    /// The ETag of the page. It is the same at all nodes.
    pub etag: String,
    /// After which id the next page begins; `None`: there is none.
    pub next: Option<KeyId>,
}

/// The pages of [`Keys::list_details`].
pub struct KeyPages<'a> {
    keys: Keys<'a>,
    filter: KeyFilter,
    limit: usize,
    /// After which id the next page begins. The outer `None`: there is no next page.
    after: Option<Option<KeyId>>,
}

impl Iterator for KeyPages<'_> {
    type Item = Result<KeyPage, Error>;

    /// The next page. It may have no keys. After an error there are no more.
    fn next(&mut self) -> Option<Self::Item> {
        let after = self.after.take()?;
        let request = KeyPageRequest { after: after.as_ref(), limit: self.limit, known: None };
        let page = self.keys.page_of_details(&self.filter, request).transpose()?;
        if let Ok(page) = &page {
            self.after = page.next.clone().map(Some);
        }
        Some(page)
    }
}

impl KeyFilter {
    /// Path and query of the list.
    fn path(&self, others: &[String]) -> String {
        let usable = self.usable.then(|| "filter=true".to_owned());
        let beginning = self.label_prefix.as_ref().map(|label| format!("label={}*", quoted(label)));
        let label = self.label.as_ref().map(|label| format!("label={}", quoted(label))).or(beginning);
        let uid = self.uid.as_ref().map(|uid| format!("uid={}", quoted(uid)));
        let query: Vec<_> = usable.into_iter().chain(label).chain(uid).chain(others.iter().cloned()).collect();
        let prefix = self.prefix.as_ref().map(|prefix| format!("/{prefix}*")).unwrap_or_default();
        let mark = if query.is_empty() { "" } else { "?" };
        format!("/keys{prefix}{mark}{}", query.join("&"))
    }
}

impl Session {
    /// Calls of `/keys`.
    pub fn keys(&self) -> Keys<'_> {
        Keys { session: self, uid: None }
    }
}

impl<'a> Keys<'a> {
    /// Only if the key has this uid: reading, using, renaming or deleting it, and deleting its certificate or label, is otherwise
    /// [`Error::NotFound`]. A Casemate only; `None`, and a NetHSM: whatever key has the id.
    pub fn expecting(self, uid: Option<&'a str>) -> Keys<'a> {
        Keys { uid, ..self }
    }

    fn expected(&self) -> String {
        self.uid.map(|uid| format!("?uid={}", quoted(uid))).unwrap_or_default()
    }
}

impl Keys<'_> {
    /// `GET /keys`, sorted.
    pub fn list(&self, filter: &KeyFilter) -> Result<Vec<KeyItem>, Error> {
        self.session.get_json(&filter.path(&[]))
    }

    /// `GET /keys?details`, page by page, with at most `limit` keys ([`KeyPageRequest::LIMITS`]) each. A Casemate only: a NetHSM knows
    /// neither details nor pages, and its answer is [`Error::Garbled`].
    pub fn list_details(&self, filter: &KeyFilter, limit: usize) -> KeyPages<'_> {
        KeyPages { keys: Keys { session: self.session, uid: None }, filter: filter.clone(), limit, after: Some(None) }
    }

    /// One page of [`Keys::list_details`]; `None`: it is as it was when it had the ETag that is known.
    pub fn page_of_details(&self, filter: &KeyFilter, page: KeyPageRequest<'_>) -> Result<Option<KeyPage>, Error> {
        let after = page.after.map(|after| format!("after={after}"));
        let query: Vec<_> = ["details".to_owned(), format!("limit={}", page.limit)].into_iter().chain(after).collect();
        let path = filter.path(&query);
        let reply = self.session.run(Request { if_none_match: page.known, ..Request::get(&path) })?;
        if reply.status == 304 {
            return Ok(None);
        }
        let keys = reply.json()?;
        let next = reply.next.as_deref().map(|reference| after_of(reference).ok_or_else(|| reply.no_page()));
        Ok(Some(KeyPage { keys, etag: reply.etag.clone().ok_or_else(|| reply.no_page())?, next: next.transpose()? }))
    }

    /// `POST /keys/generate`. If the answer is lost, an id of your choice tells whether the key was created.
    pub fn generate(&self, key: &GenerateKey) -> Result<Created, Error> {
        self.session.post_json("/keys/generate", key, Repeat::IfNotStarted)
    }

    /// `POST /keys`: the HSM chooses the id.
    pub fn import(&self, key: &ImportKey) -> Result<Created, Error> {
        self.session.post_json("/keys", key, Repeat::IfNotStarted)
    }

    /// `PUT /keys/{key}`
    pub fn import_as(&self, id: &KeyId, key: &ImportKey) -> Result<(), Error> {
        self.session.put_json(&format!("/keys/{id}"), key).map(drop)
    }

    /// `POST /keys` of a private key in PEM: the HSM chooses the id.
    pub fn import_pem(&self, arguments: &ImportArguments, pem: &str) -> Result<Created, Error> {
        let (content_type, body) = form(arguments, "key_file", pem.as_bytes())?;
        self.session.run(Request::change(&Method::POST, "/keys").with_body(&content_type, body.as_slice()))?.json()
    }

    /// `PUT /keys/{key}` of a private key in PEM.
    pub fn import_pem_as(&self, id: &KeyId, arguments: &ImportArguments, pem: &str) -> Result<(), Error> {
        let (content_type, body) = form(arguments, "key_file", pem.as_bytes())?;
        self.session
            .run(Request::change(&Method::PUT, &format!("/keys/{id}")).with_body(&content_type, body.as_slice()))
            .map(drop)
    }

    /// `GET /keys/{key}`
    pub fn read(&self, id: &KeyId) -> Result<Key, Error> {
        self.session.get_json(&format!("/keys/{id}{}", self.expected()))
    }

    /// `DELETE /keys/{key}`, with its certificate.
    pub fn delete(&self, id: &KeyId) -> Result<(), Error> {
        self.session.delete(&format!("/keys/{id}{}", self.expected()))
    }

    /// `GET /keys/{key}/public.pem`
    pub fn public_pem(&self, id: &KeyId) -> Result<String, Error> {
        self.session.run(Request::get(&format!("/keys/{id}/public.pem{}", self.expected())).accepting(PEM))?.text()
    }

    /// `POST /keys/{key}/csr.pem`: a certificate signing request.
    pub fn csr(&self, id: &KeyId, subject: &DistinguishedName) -> Result<String, Error> {
        let (path, body) = (format!("/keys/{id}/csr.pem{}", self.expected()), to_json(subject)?);
        self.session
            .run(Request::change(&Method::POST, &path).repeatable().with_body(JSON, body.as_slice()).accepting(PEM))?
            .text()
    }

    /// `POST /keys/{key}/sign`
    pub fn sign(&self, id: &KeyId, request: &Sign) -> Result<Signature, Error> {
        self.use_key(id, "sign", request)
    }

    /// `POST /keys/{key}/decrypt`. The plaintext is wiped when it is dropped.
    pub fn decrypt(&self, id: &KeyId, request: &Decrypt) -> Result<Decrypted, Error> {
        self.use_key(id, "decrypt", request)
    }

    /// `POST /keys/{key}/encrypt`
    pub fn encrypt(&self, id: &KeyId, request: &Encrypt) -> Result<Encrypted, Error> {
        self.use_key(id, "encrypt", request)
    }

    /// `GET /keys/{key}/cert`; `None` if the key has no certificate or does not exist.
    pub fn certificate(&self, id: &KeyId) -> Result<Option<Zeroizing<Vec<u8>>>, Error> {
        match self.session.get_bytes(&format!("/keys/{id}/cert{}", self.expected()), OCTETS) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(Error::NotFound { .. }) => Ok(None),
            Err(why) => Err(why),
        }
    }

    /// `PUT /keys/{key}/cert`: any bytes, at most 1 MiB. Refused if there is a certificate already.
    pub fn set_certificate(&self, id: &KeyId, bytes: &[u8]) -> Result<(), Error> {
        self.session.put(&format!("/keys/{id}/cert"), OCTETS, bytes).map(drop)
    }

    /// `DELETE /keys/{key}/cert`
    pub fn delete_certificate(&self, id: &KeyId) -> Result<(), Error> {
        self.session.delete(&format!("/keys/{id}/cert{}", self.expected()))
    }

    /// `PUT /keys/{key}/label`: at most 32 bytes; an empty label removes it.
    pub fn set_label(&self, id: &KeyId, label: &str) -> Result<Changed, Error> {
        self.session.put_json(&format!("/keys/{id}/label"), &SetLabel { label: label.into() })
    }

    /// `DELETE /keys/{key}/label`
    pub fn delete_label(&self, id: &KeyId) -> Result<(), Error> {
        self.session.delete(&format!("/keys/{id}/label{}", self.expected()))
    }

    /// `POST /keys/{key}/move`: gives the key another id.
    pub fn rename(&self, id: &KeyId, new_id: &KeyId) -> Result<Created, Error> {
        let body = MoveKey { new_id: new_id.as_str().into() };
        self.session.post_json(&format!("/keys/{id}/move{}", self.expected()), &body, Repeat::IfNotStarted)
    }

    /// `PUT /keys/{key}/restrictions/tags/{tag}`
    pub fn add_tag(&self, id: &KeyId, tag: &Tag) -> Result<Changed, Error> {
        self.session.put(&format!("/keys/{id}/restrictions/tags/{tag}"), JSON, b"")
    }

    /// `DELETE /keys/{key}/restrictions/tags/{tag}`
    pub fn remove_tag(&self, id: &KeyId, tag: &Tag) -> Result<(), Error> {
        self.session.delete(&format!("/keys/{id}/restrictions/tags/{tag}"))
    }

    fn use_key<T: serde::de::DeserializeOwned>(
        &self,
        id: &KeyId,
        operation: &str,
        request: &impl Serialize,
    ) -> Result<T, Error> {
        self.session.post_json(&format!("/keys/{id}/{operation}{}", self.expected()), request, Repeat::Freely)
    }
}

/// The id after which the page begins that a `Link` refers to.
fn after_of(link: &str) -> Option<KeyId> {
    let (reference, _) = link.strip_prefix('<')?.split_once('>')?;
    let (_, query) = reference.split_once('?')?;
    let after = query.split('&').find_map(|pair| pair.strip_prefix("after="))?;
    KeyId::parse(after).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_page_begins_where_the_link_says() {
        let after = |link: &str| after_of(link).map(|id| id.to_string());
        assert_eq!(after("<?after=a.b-c&details&limit=3>; rel=\"next\"").as_deref(), Some("a.b-c"));
        assert_eq!(after("</api/v1/keys?limit=3&after=k>; rel=next").as_deref(), Some("k"));
        for link in ["", "<?after=k", "<?limit=3>; rel=\"next\"", "<?after=>; rel=\"next\"", "?after=k"] {
            assert_eq!(after(link), None, "{link}");
        }
    }

    #[test]
    fn filters_are_queries() {
        let prefix = Some(KeyId::parse("p").unwrap());
        let filter = KeyFilter { prefix, usable: true, label: Some("a b".into()), ..KeyFilter::default() };
        assert_eq!(filter.path(&["limit=3".into()]), "/keys/p*?filter=true&label=a%20b&limit=3");
        let filter = |filter: KeyFilter| filter.path(&[]);
        assert_eq!(filter(KeyFilter { label: Some("a*".into()), ..KeyFilter::default() }), "/keys?label=a%2A");
        assert_eq!(filter(KeyFilter { label_prefix: Some("a*".into()), ..KeyFilter::default() }), "/keys?label=a%2A*");
        assert_eq!(filter(KeyFilter { uid: Some("0f".into()), ..KeyFilter::default() }), "/keys?uid=0f");
        assert_eq!(KeyFilter::default().path(&[]), "/keys");
        assert_eq!(KeyFilter::default().path(&["details".into()]), "/keys?details");
    }
}
