//! Searches, and which requests they make. With an id or a label they ask for the keys that can match, else all keys are listed:
//! page by page with their details, of which a Casemate sends again only those that have changed, or, if the server knows no
//! details, by their ids, and each key that is not known is then read once. A search for objects that no server has asks nothing.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use casemate_api::limits::LABEL_MAX_BYTES;
use casemate_api::{KeyId, KeyType};
use casemate_client::{Error, KeyFilter, KeyPage, KeyPageRequest, Session};
use cryptoki_sys::*;

use super::certificate::Certificate;
use super::key::{KnownCertificate, Origin, TokenKey};
use super::local::{self, LocalObject, trimmed};
use super::{Access, Object, Objects, Part, Source, State, Template, attributes, id};
use crate::ec;
use crate::rv::{Asked, Rv};

/// How a server lists keys, and what it has told.
#[derive(Default)]
pub(super) struct Lists {
    /// How many lists it is still taken for a server that does not tell details.
    only_ids: u32,
    /// The pages of the last list of all keys, by the id that they begin after.
    pages: HashMap<Option<KeyId>, Arc<Page>>,
}

impl Lists {
    /// Whether to ask for details. A server that does not tell them is asked again after a while: it may have been replaced.
    fn may_tell_details(&mut self) -> bool {
        let may = self.only_ids == 0;
        self.only_ids = self.only_ids.saturating_sub(1);
        may
    }
}

/// A page of the list of all keys.
struct Page {
    keys: Vec<Arc<TokenKey>>,
    etag: String,
    next: Option<KeyId>,
}

/// Keys in a page. It is what a Casemate sends at most.
const PAGE_KEYS: usize = *KeyPageRequest::LIMITS.end();
/// Lists after which a server that does not tell details is asked for them again.
const ONLY_IDS: u32 = 100;

/// How many keys that are in no list any more are asked for, one by one, before they are forgotten.
const ASKED_FOR: usize = 64;

/// A key that can match a search.
struct Found {
    key: Arc<TokenKey>,
    /// The server has just told whether it has a certificate.
    told: bool,
}

impl Found {
    fn told(key: Arc<TokenKey>) -> Self {
        Self { key, told: true }
    }

    fn asked(key: Arc<TokenKey>) -> Self {
        Self { key, told: false }
    }
}

impl Objects {
    /// The objects that match `template`, private ones only if `private`.
    pub fn find(&self, access: &Access<'_>, template: &Template, private: bool) -> Result<Vec<CK_OBJECT_HANDLE>, Rv> {
        let class = template.ulong(CKA_CLASS)?;
        let mut found = self.state(|state| state.find_local(template, class, private));
        let parts: Vec<_> = Part::ALL
            .into_iter()
            .filter(|part| class.is_none_or(|class| has_class(*part, class)))
            .filter(|part| private || !attributes::is_private(*part))
            .filter(|part| *part != Part::Certificate || can_be_certificate(template))
            .collect();
        if parts.is_empty() {
            return Ok(found);
        }
        for Found { key, told } in self.keys_for(access, template)? {
            for part in &parts {
                if *part == Part::Certificate {
                    let Some(session) = access.reader() else { continue };
                    self.learn_certificate(session, &key, template, class, told)?;
                }
                found.extend(self.state(|state| state.find_part(&key, *part, template)));
            }
        }
        Ok(found)
    }

    /// The keys that can match.
    fn keys_for(&self, access: &Access<'_>, template: &Template) -> Result<Vec<Found>, Rv> {
        let Some(session) = access.reader().filter(|_| template.bool(CKA_TOKEN) != Ok(Some(false))) else {
            return Ok(self.state(|state| state.session_keys.clone()).into_iter().map(Found::asked).collect());
        };
        if let Some(cka_id) = template.bytes(CKA_ID) {
            for id in id::candidates(cka_id) {
                if let Some(key) = self.read(session, &id)? {
                    return Ok(vec![Found::asked(key)]);
                }
            }
            return Ok(Vec::new());
        }
        if let Some(uid) = template.bytes(CKA_UNIQUE_ID).and_then(attributes::uid_in) {
            let keys = self.with_uid(session, Some(uid))?;
            if !keys.is_empty() {
                return Ok(keys.into_iter().map(Found::told).collect());
            }
        }
        match template.text(CKA_LABEL) {
            Ok(Some(label)) if !label.is_empty() => self.keys_with_label(session, label),
            // No label of a server is like that.
            Err(_) => Ok(Vec::new()),
            Ok(_) => self.list_keys(session),
        }
    }

    /// The keys that may show this label: those that have it, and one of that id, which shows it if it has none.
    fn keys_with_label(&self, session: &Session, label: &str) -> Result<Vec<Found>, Rv> {
        let mut keys = Vec::new();
        if label.len() <= LABEL_MAX_BYTES {
            let filter = KeyFilter { label: Some(label.to_owned()), ..KeyFilter::default() };
            match self.list_details(session, &filter)? {
                Some(told) => keys.extend(told.into_iter().map(Found::told)),
                None => {
                    for id in ids(session, &filter)? {
                        let known = self.known(&id).filter(|key| key.name().label == label);
                        let key = known.map_or_else(|| self.read(session, &id), |key| Ok(Some(key)))?;
                        keys.extend(key.map(Found::asked));
                    }
                }
            }
        }
        if let Ok(id) = KeyId::parse(label)
            && !keys.iter().any(|found| found.key.name().id == id)
        {
            keys.extend(self.read(session, &id)?.map(Found::asked));
        }
        Ok(keys)
    }

    /// All keys.
    fn list_keys(&self, session: &Session) -> Result<Vec<Found>, Rv> {
        let begun = self.state(|state| state.now);
        let keys = match self.list_details(session, &KeyFilter::default())? {
            Some(told) => told.into_iter().map(Found::told).collect(),
            None => self.list_ids(session)?,
        };
        let listed: HashSet<_> = keys.iter().map(|found| Arc::as_ptr(&found.key)).collect();
        let unlisted = |key: &&Arc<TokenKey>| !listed.contains(&Arc::as_ptr(key)) && key.is_as_of(begun);
        let unlisted: Vec<_> = self.state(|state| state.keys.values().filter(unlisted).cloned().collect());
        for (number, key) in unlisted.iter().enumerate() {
            // Another process may have renamed it while the pages were read, so that it is on none of them.
            let renamed = number < ASKED_FOR && key.uid.is_some() && !self.with_uid(session, key.uid)?.is_empty();
            if !renamed {
                self.state(|state| state.forget_gone(key, begun));
            }
        }
        Ok(keys)
    }

    /// The key with this uid, from a server that tells uids.
    fn with_uid(&self, session: &Session, uid: Option<u128>) -> Result<Vec<Arc<TokenKey>>, Rv> {
        let filter = KeyFilter { uid: uid.map(|uid| format!("{uid:032x}")), ..KeyFilter::default() };
        Ok(self.list_details(session, &filter)?.unwrap_or_default())
    }

    /// All keys of a server that lists only ids: those that are not known are asked for, one by one.
    fn list_ids(&self, session: &Session) -> Result<Vec<Found>, Rv> {
        let ids = ids(session, &KeyFilter::default())?;
        let mut keys = Vec::with_capacity(ids.len());
        for id in &ids {
            let key = self.known(id).map_or_else(|| self.read(session, id), |key| Ok(Some(key)))?;
            keys.extend(key.map(Found::asked));
        }
        Ok(keys)
    }

    /// The keys that the filter lets through, from a server that tells their details. `None`: it tells only ids. Pages of all keys
    /// are asked for with the ETag of the last time, and not sent again if nothing in them has changed.
    fn list_details(&self, session: &Session, filter: &KeyFilter) -> Result<Option<Vec<Arc<TokenKey>>>, Rv> {
        if !self.state(|state| state.lists.may_tell_details()) {
            return Ok(None);
        }
        let whole = filter.label.is_none() && filter.uid.is_none();
        let (mut keys, mut pages, mut after) = (Vec::new(), HashMap::new(), None);
        loop {
            let (begun, known) = self.state(|state| (state.now, whole.then(|| state.known_page(&after)).flatten()));
            let etag = known.as_ref().map(|page| &*page.etag);
            let request = KeyPageRequest { after: after.as_ref(), limit: PAGE_KEYS, known: etag };
            let page = match (session.keys().page_of_details(filter, request), known) {
                (Ok(Some(read)), _) => Arc::new(self.state(|state| state.learn(read, begun))),
                (Ok(None), Some(known)) => known,
                (Err(Error::Garbled { .. }), _) => {
                    self.state(|state| state.lists = Lists { only_ids: ONLY_IDS, ..Lists::default() });
                    return Ok(None);
                }
                (Err(why), _) => return Err(Rv::of(&why, Asked::Read)),
                (Ok(None), None) => return Err(Rv(CKR_FUNCTION_FAILED)),
            };
            keys.extend(page.keys.iter().cloned());
            let next = page.next.clone();
            if whole {
                pages.insert(after.clone(), page);
            }
            match next {
                None => break,
                // Else it would never end.
                next if next <= after => return Err(Rv(CKR_FUNCTION_FAILED)),
                next => after = next,
            }
        }
        if whole {
            self.state(|state| state.lists.pages = pages);
        }
        Ok(Some(keys))
    }

    fn known(&self, id: &KeyId) -> Option<Arc<TokenKey>> {
        self.state(|state| state.keys.get(id).cloned())
    }

    /// Reads a key. None: there is no such key, or it is of a kind that this module does not know.
    pub(super) fn read(&self, session: &Session, id: &KeyId) -> Result<Option<Arc<TokenKey>>, Rv> {
        let (begun, before) = self.state(|state| (state.now, state.keys.get(id).cloned()));
        match session.keys().read(id) {
            // A key that makes no sense hides no others.
            Ok(key) => Ok(TokenKey::new(id.clone(), key, Origin::default()).ok())
                .map(|key| key.map(|key| self.state(|state| state.update(key, begun).0))),
            Err(Error::NotFound { .. }) => {
                if let Some(key) = before {
                    self.state(|state| state.forget_gone(&key, begun));
                }
                Ok(None)
            }
            Err(Error::Garbled { .. }) => Ok(None),
            Err(why) => Err(Rv::of(&why, Asked::Read)),
        }
    }

    /// Fails if the server has another key in the place of this one by now, as far as it tells: before it is changed or deleted.
    pub(super) fn check_there(&self, session: &Session, key: &Arc<TokenKey>) -> Result<(), Rv> {
        if key.uid.is_none() {
            return Ok(());
        }
        let found = self.read(session, &key.name().id)?;
        if found.is_some_and(|found| Arc::ptr_eq(&found, key)) { Ok(()) } else { Err(Rv(CKR_OBJECT_HANDLE_INVALID)) }
    }

    /// Asks for the certificate of a key, unless it is known. A search that can only mean this one, or certificates
    /// only, does not rely on there having been none before, unless the server has just `told` so.
    fn learn_certificate(
        &self,
        session: &Session,
        key: &TokenKey,
        template: &Template,
        class: Option<CK_OBJECT_CLASS>,
        told: bool,
    ) -> Result<(), Rv> {
        let names_key = template.bytes(CKA_ID).is_some() || template.bytes(CKA_LABEL).is_some();
        let ask = match key.status(|status| status.certificate.clone()) {
            KnownCertificate::Unknown => true,
            KnownCertificate::None => !told && (names_key || class.is_some()),
            KnownCertificate::Some(_) => names_key,
        };
        if key.key_type == KeyType::Generic || !ask {
            return Ok(());
        }
        self.read_certificate(session, key)
    }

    /// Reads the certificate of a key.
    pub(super) fn read_certificate(&self, session: &Session, key: &TokenKey) -> Result<(), Rv> {
        let bytes = session.keys().certificate(&key.name().id).map_err(|why| Rv::of(&why, Asked::Read))?;
        let read = match bytes.and_then(|bytes| Certificate::read(&bytes)) {
            Some(certificate) => KnownCertificate::Some(Arc::new(certificate)),
            None => KnownCertificate::None,
        };
        let gone = matches!(read, KnownCertificate::None);
        let changed = match (&read, key.certificate()) {
            (KnownCertificate::Some(new), Some(old)) => **new != *old,
            _ => gone,
        };
        let handle = key.status(|status| {
            status.certificate = read;
            status.handles.certificate.take_if(|_| changed)
        });
        if let Some(handle) = handle {
            self.state(|state| state.objects.remove(&handle));
        }
        Ok(())
    }
}

impl State {
    /// The key as it was read, by a request that had `begun` then, and whether that is what is known of it now. The record of the same key is
    /// kept, with its handles. What another thread has learnt since then is newer.
    fn update(&mut self, read: TokenKey, begun: u64) -> (Arc<TokenKey>, bool) {
        let name = read.name();
        let same = read.uid.and_then(|uid| self.uids.get(&uid)).or_else(|| self.keys.get(&name.id));
        if let Some(known) = same.cloned().filter(|known| known.is(&read)) {
            let before = known.name();
            if !known.is_as_of(begun) || (before.id != name.id && self.make_room(&name.id, begun).is_some()) {
                return (known, false);
            }
            if before.id != name.id || before.label != name.label {
                // Somebody else has changed it.
                self.unname(&before.id, &known);
                known.change_name(|known| *known = name);
                self.know(&known);
            }
            return (known, true);
        }
        if let Some(newer) = self.make_room(&name.id, begun) {
            return (newer, false);
        }
        let key = Arc::new(read);
        self.know(&key);
        (key, true)
    }

    /// Forgets a key that is known by an id where the server has another one, unless that is what is newer.
    fn make_room(&mut self, id: &KeyId, begun: u64) -> Option<Arc<TokenKey>> {
        let known = self.keys.get(id).cloned()?;
        if !known.is_as_of(begun) {
            return Some(known);
        }
        self.forget(&known);
        None
    }

    /// Forgets a key that the server did not have when it was asked, by a request that had `begun` then. One that another thread
    /// renames, or has renamed since then, is not gone.
    fn forget_gone(&mut self, key: &TokenKey, begun: u64) {
        if key.is_as_of(begun) {
            self.forget(key);
        }
    }

    /// The keys of a page that was read by a request that had `begun` then. Those that make no sense are left out. One that is not as it is
    /// known by now has no ETag, so that it is read again.
    fn learn(&mut self, page: KeyPage, begun: u64) -> Page {
        let (mut keys, mut etag) = (Vec::with_capacity(page.keys.len()), page.etag);
        for details in page.keys {
            let has_certificate = details.certificate;
            let Some(key) = TokenKey::described(details) else { continue };
            let (key, is_known) = self.update(key, begun);
            if is_known {
                self.told_certificate(&key, has_certificate);
            } else {
                etag.clear();
            }
            keys.push(key);
        }
        Page { keys, etag, next: page.next }
    }

    /// The server tells whether a key has a certificate.
    fn told_certificate(&mut self, key: &TokenKey, there: bool) {
        let gone = key.status(|status| match (&status.certificate, there) {
            (KnownCertificate::None, true) => {
                status.certificate = KnownCertificate::Unknown;
                None
            }
            (KnownCertificate::Unknown | KnownCertificate::Some(_), false) => {
                status.certificate = KnownCertificate::None;
                status.handles.certificate.take()
            }
            _ => None,
        });
        if let Some(handle) = gone {
            self.objects.remove(&handle);
        }
    }

    /// The page that began after this id, if all its keys are still those that are known.
    fn known_page(&self, after: &Option<KeyId>) -> Option<Arc<Page>> {
        let is_known = |key: &Arc<TokenKey>| self.keys.get(&key.name().id).is_some_and(|known| Arc::ptr_eq(known, key));
        self.lists.pages.get(after).filter(|page| !page.etag.is_empty() && page.keys.iter().all(is_known)).cloned()
    }

    /// The object of a key, if it has that and it matches.
    fn find_part(&mut self, key: &Arc<TokenKey>, part: Part, template: &Template) -> Option<CK_OBJECT_HANDLE> {
        let there = match part {
            Part::Private => true,
            Part::Public => key.public.is_some() && !key.status(|status| status.public_deleted),
            Part::Certificate => key.certificate().is_some(),
        };
        let object = Object(Source::Key { key: Arc::clone(key), part, alias: false });
        (there && object.matches(template)).then(|| self.handle(key, part))
    }

    /// Objects of the module. Profiles are found by their class only, since many applications do not know it.
    fn find_local(
        &mut self,
        template: &Template,
        class: Option<CK_OBJECT_CLASS>,
        private: bool,
    ) -> Vec<CK_OBJECT_HANDLE> {
        if class == Some(CKO_PROFILE) && self.profiles.is_empty() {
            for profile in [CKP_BASELINE_PROVIDER, CKP_EXTENDED_PROVIDER] {
                let handle = self.add(Object(Source::Local(LocalObject::profile(profile))));
                self.profiles.push(handle);
            }
        }
        let matching = self.locals.iter().filter(|(_, object)| match &object.0 {
            Source::Local(local) => {
                (local.class != CKO_PROFILE || class == Some(CKO_PROFILE))
                    && (private || !local.is(CKA_PRIVATE))
                    && object.matches(template)
            }
            Source::Key { .. } => false,
        });
        let mut found: Vec<_> = matching.map(|(handle, _)| *handle).collect();
        found.sort_unstable();
        found
    }
}

impl Object {
    /// Whether every attribute of the template has this value. Numbers and curves may be written in either way.
    fn matches(&self, template: &Template) -> bool {
        template.iter().all(|(attribute, wanted)| {
            let Ok(value) = self.value(attribute) else { return false };
            match (attribute, self.key_type()) {
                (CKA_LABEL, _) => value == wanted.strip_suffix(&[0]).unwrap_or(wanted),
                (CKA_MODULUS | CKA_PUBLIC_EXPONENT, _) => value == trimmed(wanted),
                (CKA_EC_PARAMS, Some(curve)) => ec::key_type_of(wanted) == Some(curve),
                (CKA_EC_POINT, Some(curve)) => {
                    ec::point(curve, wanted).is_some_and(|point| Some(point) == ec::point(curve, &value))
                }
                _ => value == wanted,
            }
        })
    }
}

fn has_class(part: Part, class: CK_OBJECT_CLASS) -> bool {
    match part {
        Part::Private => matches!(class, CKO_PRIVATE_KEY | CKO_SECRET_KEY),
        Part::Public => class == CKO_PUBLIC_KEY,
        Part::Certificate => class == CKO_CERTIFICATE,
    }
}

/// Whether certificates have all these attributes: if not, none is asked for.
fn can_be_certificate(template: &Template) -> bool {
    template.iter().all(|(attribute, _)| attribute == CKA_UNIQUE_ID || local::is_known(CKO_CERTIFICATE, attribute))
}

/// The ids of keys, in the server's order.
fn ids(session: &Session, filter: &KeyFilter) -> Result<Vec<KeyId>, Rv> {
    let items = session.keys().list(filter).map_err(|why| Rv::of(&why, Asked::Read))?;
    Ok(items.iter().filter_map(|item| KeyId::parse(&item.id).ok()).collect())
}
