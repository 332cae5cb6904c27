//! Searches, and which requests they make. With an id or a label they ask for the keys that can match; else all ids are
//! listed, and each key that is not known is read once. A search for objects that no server has asks nothing.

use std::collections::HashSet;
use std::sync::Arc;

use casemate_api::limits::LABEL_MAX_BYTES;
use casemate_api::{KeyId, KeyType};
use casemate_client::{Error, KeyFilter, Session};
use cryptoki_sys::*;

use super::certificate::Certificate;
use super::key::{KnownCertificate, Origin, TokenKey};
use super::local::{self, LocalObject, trimmed};
use super::{Access, Object, Objects, Part, Source, State, Template, attributes, id};
use crate::ec;
use crate::rv::{Asked, Rv};

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
        for key in self.keys_for(access, template)? {
            for part in &parts {
                if *part == Part::Certificate {
                    let Some(session) = access.reader() else { continue };
                    self.learn_certificate(session, &key, template, class)?;
                }
                found.extend(self.state(|state| state.find_part(&key, *part, template)));
            }
        }
        Ok(found)
    }

    /// The keys that can match.
    fn keys_for(&self, access: &Access<'_>, template: &Template) -> Result<Vec<Arc<TokenKey>>, Rv> {
        let of_sessions = || {
            let mut keys = self.state(|state| state.keys.values().cloned().collect::<Vec<_>>());
            keys.retain(|key| key.status(|status| status.session.is_some() && !status.deleted));
            keys
        };
        let Some(session) = access.reader().filter(|_| template.bool(CKA_TOKEN) != Ok(Some(false))) else {
            return Ok(of_sessions());
        };
        if let Some(cka_id) = template.bytes(CKA_ID) {
            for id in id::candidates(cka_id) {
                if let Some(key) = self.read(session, &id)? {
                    return Ok(vec![key]);
                }
            }
            return Ok(Vec::new());
        }
        match template.text(CKA_LABEL) {
            Ok(Some(label)) if !label.is_empty() => self.keys_with_label(session, label),
            // No label of a server is like that.
            Err(_) => Ok(Vec::new()),
            Ok(_) => self.list_keys(session),
        }
    }

    /// The keys that may show this label: those that have it, and one of that id, which shows it if it has none.
    fn keys_with_label(&self, session: &Session, label: &str) -> Result<Vec<Arc<TokenKey>>, Rv> {
        let mut keys = Vec::new();
        if label.len() <= LABEL_MAX_BYTES {
            let filter = KeyFilter { label: Some(label.to_owned()), ..KeyFilter::default() };
            for id in ids(session, &filter)? {
                let known = self.known(&id).filter(|key| key.name().label == label);
                keys.extend(known.map_or_else(|| self.read(session, &id), |key| Ok(Some(key)))?);
            }
        }
        if let Ok(id) = KeyId::parse(label)
            && !keys.iter().any(|key| key.name().id == id)
        {
            keys.extend(self.read(session, &id)?);
        }
        Ok(keys)
    }

    /// All keys.
    // A server that lists keys with their details spares the requests for each.
    fn list_keys(&self, session: &Session) -> Result<Vec<Arc<TokenKey>>, Rv> {
        let before = self.state(|state| {
            let settled = state.keys.iter().filter(|(_, key)| key.is_settled());
            settled.map(|(id, key)| (id.clone(), Arc::clone(key))).collect::<Vec<_>>()
        });
        let ids = ids(session, &KeyFilter::default())?;
        let listed: HashSet<_> = ids.iter().collect();
        for (id, key) in before.iter().filter(|(id, _)| !listed.contains(id)) {
            self.state(|state| state.forget_gone(id, key));
        }
        let mut keys = Vec::with_capacity(ids.len());
        for id in &ids {
            keys.extend(self.known(id).map_or_else(|| self.read(session, id), |key| Ok(Some(key)))?);
        }
        Ok(keys)
    }

    fn known(&self, id: &KeyId) -> Option<Arc<TokenKey>> {
        self.state(|state| state.keys.get(id).cloned())
    }

    /// Reads a key. None: there is no such key, or it is of a kind that this module does not know.
    pub(super) fn read(&self, session: &Session, id: &KeyId) -> Result<Option<Arc<TokenKey>>, Rv> {
        let before = self.known(id).filter(|key| key.is_settled());
        match session.keys().read(id) {
            // A key that makes no sense hides no others.
            Ok(key) => Ok(TokenKey::new(id.clone(), key, Origin::default()).ok())
                .map(|key| key.map(|key| self.state(|state| state.update(key, before.as_ref())))),
            Err(Error::NotFound { .. }) => {
                if let Some(key) = before {
                    self.state(|state| state.forget_gone(id, &key));
                }
                Ok(None)
            }
            Err(Error::Garbled { .. }) => Ok(None),
            Err(why) => Err(Rv::of(&why, Asked::Read)),
        }
    }

    /// Asks for the certificate of a key, unless it is known. A search that can only mean this one, or certificates
    /// only, does not rely on there having been none before.
    fn learn_certificate(
        &self,
        session: &Session,
        key: &TokenKey,
        template: &Template,
        class: Option<CK_OBJECT_CLASS>,
    ) -> Result<(), Rv> {
        let names_key = template.bytes(CKA_ID).is_some() || template.bytes(CKA_LABEL).is_some();
        let ask = match key.status(|status| status.certificate.clone()) {
            KnownCertificate::Unknown => true,
            KnownCertificate::None => names_key || class.is_some(),
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
    /// The key as it was read now. The record of the same key is kept, with its handles. `before`: what was known before it
    /// was asked for. If another thread has learnt something else since then, that is newer.
    fn update(&mut self, read: TokenKey, before: Option<&Arc<TokenKey>>) -> Arc<TokenKey> {
        let name = read.name();
        if let Some(known) = self.keys.get(&name.id).cloned() {
            if known.is(&read) {
                known.change_name(|known| known.label = name.label);
                return known;
            }
            if !before.is_some_and(|before| Arc::ptr_eq(before, &known)) {
                return known;
            }
            self.forget(&known);
        }
        let key = Arc::new(read);
        self.keys.insert(name.id, Arc::clone(&key));
        key
    }

    /// Forgets a key that was known by this id before the server was asked, and is not there. One that another thread
    /// renames, or has renamed since then, is not gone.
    fn forget_gone(&mut self, id: &KeyId, key: &Arc<TokenKey>) {
        if key.name().id == *id && key.is_settled() {
            self.forget(key);
        }
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
        let matching = self.objects.iter().filter(|(_, object)| match &object.0 {
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
