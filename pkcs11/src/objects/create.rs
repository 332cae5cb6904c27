//! What makes, changes and destroys objects. Keys and their certificates are the Administrator's business on the server;
//! session objects other than private keys need no server.
//!
//! Keys of the server are private, sensitive and not extractable, whatever a template says: nobody gets less protection
//! than was asked for. A private key of a session is a key of the server that is deleted with the session: what must not
//! leave the HSM cannot live in the module. It becomes a token object by `C_CopyObject`, as keytool does it.

use std::sync::Arc;

use aws_lc_rs::rand;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use casemate_api::body::keys::{GenerateKey, ImportKey, PrivateParts, Restrictions};
use casemate_api::limits::LABEL_MAX_BYTES;
use casemate_api::{KeyId, KeyType, Mechanism, SecretText};
use casemate_client::{Error, Session};
use cryptoki_sys::*;
use zeroize::Zeroizing;

use super::certificate::Certificate;
use super::key::{KnownCertificate, Origin, TokenKey};
use super::local::{self, LocalObject, bits, trimmed};
use super::{Access, Object, Objects, Part, Source, Template, attributes, id, ulong, usage};
use crate::ec;
use crate::log;
use crate::rv::{Asked, Rv};

/// The label of a private session key that has none, so that one which outlives its process is known as such.
const SESSION_LABEL: &str = "PKCS#11 session object";

/// The only exponent of keys that servers generate: 65537.
const PUBLIC_EXPONENT: &[u8] = &[1, 0, 1];

/// Bytes of a secret key: as many as a server takes.
const SECRET_MAX_BYTES: CK_ULONG = 1024;

/// The names of a new key, and the session that it belongs to.
struct New {
    id: Option<KeyId>,
    label: String,
    session: Option<CK_SESSION_HANDLE>,
}

impl New {
    /// Of templates that describe the same key, the first that has a name gives it. Protection that a server does not give is
    /// refused.
    fn of(templates: &[&Template], session: CK_SESSION_HANDLE) -> Result<Self, Rv> {
        let mut new = Self { id: None, label: String::new(), session: None };
        for template in templates {
            for (flag, given) in [(CKA_ALWAYS_AUTHENTICATE, false), (CKA_DESTROYABLE, true), (CKA_MODIFIABLE, true)] {
                if template.bool(flag)?.is_some_and(|asked| asked != given) {
                    return Err(Rv(CKR_TEMPLATE_INCONSISTENT));
                }
            }
            // An empty one says that there is none.
            let id = template.bytes(CKA_ID).filter(|id| !id.is_empty()).map(new_id).transpose()?;
            match (&new.id, id) {
                (Some(first), Some(id)) if *first != id => return Err(Rv(CKR_TEMPLATE_INCONSISTENT)),
                (None, Some(id)) => new.id = Some(id),
                _ => {}
            }
            if new.label.is_empty() {
                new.label = new_label(template)?.unwrap_or_default();
            }
        }
        let token = templates.first().map(|template| template.bool(CKA_TOKEN)).transpose()?.flatten();
        if token != Some(true) {
            new.session = Some(session);
            if new.label.is_empty() {
                SESSION_LABEL.clone_into(&mut new.label);
            }
        }
        Ok(new)
    }
}

fn new_id(cka_id: &[u8]) -> Result<KeyId, Rv> {
    id::for_new(cka_id).ok_or(Rv(CKR_ATTRIBUTE_VALUE_INVALID))
}

fn new_label(template: &Template) -> Result<Option<String>, Rv> {
    match template.text(CKA_LABEL)? {
        Some(label) if label.len() > LABEL_MAX_BYTES => Err(Rv(CKR_ATTRIBUTE_VALUE_INVALID)),
        label => Ok(label.map(str::to_owned)),
    }
}

impl Objects {
    /// `C_CreateObject`
    pub fn create(
        &self,
        access: &Access<'_>,
        session: CK_SESSION_HANDLE,
        template: &Template,
    ) -> Result<CK_OBJECT_HANDLE, Rv> {
        let class = template.ulong(CKA_CLASS)?.ok_or(Rv(CKR_TEMPLATE_INCOMPLETE))?;
        let token = template.bool(CKA_TOKEN)?.unwrap_or_default();
        if !matches!(class, CKO_DATA | CKO_CERTIFICATE | CKO_PUBLIC_KEY | CKO_PRIVATE_KEY | CKO_SECRET_KEY) {
            return Err(Rv(CKR_TEMPLATE_INCONSISTENT));
        }
        check_known(class, template)?;
        match class {
            CKO_PRIVATE_KEY => self.import_private(access, session, template),
            _ if !token => self.add_local(LocalObject::new(session, template, None)?),
            CKO_SECRET_KEY => self.import_secret(access, session, template),
            CKO_PUBLIC_KEY => self.attach_public(access, template),
            CKO_CERTIFICATE => self.attach_certificate(access, template),
            // Servers keep no data objects.
            _ => Err(Rv(CKR_TEMPLATE_INCONSISTENT)),
        }
    }

    /// `C_GenerateKey`
    pub fn generate(
        &self,
        access: &Access<'_>,
        session: CK_SESSION_HANDLE,
        mechanism: CK_MECHANISM_TYPE,
        template: &Template,
    ) -> Result<CK_OBJECT_HANDLE, Rv> {
        let key_type = match mechanism {
            CKM_AES_KEY_GEN => CKK_AES,
            CKM_GENERIC_SECRET_KEY_GEN => CKK_GENERIC_SECRET,
            _ => return Err(Rv(CKR_MECHANISM_INVALID)),
        };
        expect(template, CKA_CLASS, CKO_SECRET_KEY)?;
        let given = template.ulong(CKA_KEY_TYPE)?.unwrap_or(key_type);
        if given != key_type && key_type == CKK_AES || template.bytes(CKA_VALUE).is_some() {
            return Err(Rv(CKR_TEMPLATE_INCONSISTENT));
        }
        check_known(CKO_SECRET_KEY, template)?;
        let length = template.ulong(CKA_VALUE_LEN)?.ok_or(Rv(CKR_TEMPLATE_INCOMPLETE))?;
        if length == 0 || length > SECRET_MAX_BYTES || key_type == CKK_AES && !matches!(length, 16 | 24 | 32) {
            return Err(Rv(CKR_ATTRIBUTE_VALUE_INVALID));
        }
        let bytes = usize::try_from(length).map_err(|_| Rv(CKR_ATTRIBUTE_VALUE_INVALID))?;
        if template.bool(CKA_TOKEN)? != Some(true) {
            let mut value = Zeroizing::new(vec![0; bytes]);
            rand::fill(&mut value).map_err(|_| Rv(CKR_FUNCTION_FAILED))?;
            let made = [(CKA_CLASS, ulong(CKO_SECRET_KEY).to_vec()), (CKA_KEY_TYPE, ulong(given).to_vec())];
            let made = made.into_iter().map(|(attribute, bytes)| (attribute, Zeroizing::new(bytes)));
            let made = made.chain([(CKA_VALUE, value)]).collect();
            return self.add_local(LocalObject::new(session, &template.with(made), Some(mechanism))?);
        }
        // A server uses secret keys for AES only.
        if key_type != CKK_AES {
            return Err(Rv(CKR_TEMPLATE_INCONSISTENT));
        }
        let new = New::of(&[template], session)?;
        let origin = Origin { generated_by: Some(mechanism), value_bytes: Some(bytes), session: new.session };
        let mechanisms = usage::requested(KeyType::Generic, template)?;
        let key = self.generated(access, new, KeyType::Generic, 8 * length, mechanisms, origin)?;
        Ok(self.state(|state| state.handle(&key, Part::Private)))
    }

    /// `C_GenerateKeyPair`: the handles of the public and of the private key.
    pub fn generate_pair(
        &self,
        access: &Access<'_>,
        session: CK_SESSION_HANDLE,
        mechanism: CK_MECHANISM_TYPE,
        public: &Template,
        private: &Template,
    ) -> Result<(CK_OBJECT_HANDLE, CK_OBJECT_HANDLE), Rv> {
        for (template, class) in [(public, CKO_PUBLIC_KEY), (private, CKO_PRIVATE_KEY)] {
            expect(template, CKA_CLASS, class)?;
            check_known(class, template)?;
        }
        let (key_type, bits) = match mechanism {
            CKM_RSA_PKCS_KEY_PAIR_GEN => {
                let exponent = public.bytes(CKA_PUBLIC_EXPONENT).unwrap_or(PUBLIC_EXPONENT);
                if trimmed(exponent) != PUBLIC_EXPONENT {
                    return Err(Rv(CKR_ATTRIBUTE_VALUE_INVALID));
                }
                (KeyType::RSA, public.ulong(CKA_MODULUS_BITS)?.ok_or(Rv(CKR_TEMPLATE_INCOMPLETE))?)
            }
            // GnuTLS 3.7 names the mechanism of the signature when it generates Ed25519 keys.
            CKM_EC_KEY_PAIR_GEN | CKM_EC_EDWARDS_KEY_PAIR_GEN | CKM_EDDSA => {
                let params = public.bytes(CKA_EC_PARAMS).or_else(|| private.bytes(CKA_EC_PARAMS));
                let curve = ec::key_type_of(params.ok_or(Rv(CKR_TEMPLATE_INCOMPLETE))?);
                (curve.ok_or(Rv(CKR_CURVE_NOT_SUPPORTED))?, 0)
            }
            _ => return Err(Rv(CKR_MECHANISM_INVALID)),
        };
        let edwards = matches!(mechanism, CKM_EC_EDWARDS_KEY_PAIR_GEN | CKM_EDDSA);
        if edwards && key_type != KeyType::Curve25519 {
            return Err(Rv(CKR_CURVE_NOT_SUPPORTED));
        }
        let mechanism = if edwards { CKM_EC_EDWARDS_KEY_PAIR_GEN } else { mechanism };
        if key_type == KeyType::RSA && !(1024..=8192).contains(&bits) {
            return Err(Rv(CKR_KEY_SIZE_RANGE));
        }
        let standards_type = match key_type {
            KeyType::RSA => CKK_RSA,
            KeyType::Curve25519 => CKK_EC_EDWARDS,
            _ => CKK_EC,
        };
        for template in [public, private] {
            expect(template, CKA_KEY_TYPE, standards_type)?;
        }
        let new = New::of(&[private, public], session)?;
        let origin = Origin { generated_by: Some(mechanism), value_bytes: None, session: new.session };
        let mechanisms = usage::requested(key_type, private)?;
        let key = self.generated(access, new, key_type, bits, mechanisms, origin)?;
        Ok(self.state(|state| (state.handle(&key, Part::Public), state.handle(&key, Part::Private))))
    }

    /// Has the server generate a key.
    fn generated(
        &self,
        access: &Access<'_>,
        new: New,
        key_type: KeyType,
        bits: CK_ULONG,
        mechanisms: Vec<Mechanism>,
        origin: Origin,
    ) -> Result<Arc<TokenKey>, Rv> {
        let manager = access.manager()?;
        let request = GenerateKey {
            mechanisms,
            key_type,
            length: i64::try_from(bits).map_err(|_| Rv(CKR_KEY_SIZE_RANGE))?,
            id: new.id.as_ref().map(ToString::to_string).unwrap_or_default(),
            restrictions: Restrictions::default(),
            label: new.label,
        };
        let created =
            manager.keys().generate(&request).map_err(|why| why_not_created(manager, new.id.as_ref(), &why))?;
        self.created(manager, &created.id, origin)
    }

    /// Has the server take a key.
    fn imported(
        &self,
        access: &Access<'_>,
        new: New,
        key_type: KeyType,
        mechanisms: Vec<Mechanism>,
        private: PrivateParts,
        value_bytes: Option<usize>,
    ) -> Result<Arc<TokenKey>, Rv> {
        let manager = access.manager()?;
        let request =
            ImportKey { mechanisms, key_type, private, restrictions: Restrictions::default(), label: new.label };
        let id = match &new.id {
            Some(id) => manager.keys().import_as(id, &request).map(|()| id.to_string()),
            None => manager.keys().import(&request).map(|created| created.id),
        };
        let id = id.map_err(|why| why_not_created(manager, new.id.as_ref(), &why))?;
        self.created(manager, &id, Origin { generated_by: None, value_bytes, session: new.session })
    }

    /// Reads a key that was just created.
    fn created(&self, manager: &Session, id: &str, origin: Origin) -> Result<Arc<TokenKey>, Rv> {
        let id = KeyId::parse(id).map_err(|_| Rv(CKR_FUNCTION_FAILED))?;
        let key = manager.keys().read(&id).map_err(|why| Rv::of(&why, Asked::Read))?;
        let key = TokenKey::new(id, key, origin)?;
        key.status(|status| status.certificate = KnownCertificate::None);
        Ok(self.state(|state| {
            // Another thread may have found it already, but knows nothing of where it comes from.
            let name = key.name();
            if let Some(known) = state.keys.get(&name.id).cloned()
                // One that has had this id until now stays known by its new one.
                && known.status(|status| !status.renaming)
            {
                state.forget(&known);
            }
            let key = Arc::new(key);
            state.know(&key);
            if key.status(|status| status.session.is_some()) {
                state.session_keys.push(Arc::clone(&key));
            }
            key
        }))
    }

    fn import_private(
        &self,
        access: &Access<'_>,
        session: CK_SESSION_HANDLE,
        template: &Template,
    ) -> Result<CK_OBJECT_HANDLE, Rv> {
        let given = |attribute| template.bytes(attribute).ok_or(Rv(CKR_TEMPLATE_INCOMPLETE));
        let (key_type, private) = match template.ulong(CKA_KEY_TYPE)?.ok_or(Rv(CKR_TEMPLATE_INCOMPLETE))? {
            CKK_RSA => {
                let modulus_bits = template.bytes(CKA_MODULUS).map_or(2048, |modulus| bits(trimmed(modulus)));
                if !(1024..=8192).contains(&modulus_bits) {
                    return Err(Rv(CKR_KEY_SIZE_RANGE));
                }
                let parts = PrivateParts {
                    prime_p: secret(trimmed(given(CKA_PRIME_1)?)),
                    prime_q: secret(trimmed(given(CKA_PRIME_2)?)),
                    public_exponent: secret(trimmed(given(CKA_PUBLIC_EXPONENT)?)),
                    ..PrivateParts::default()
                };
                (KeyType::RSA, parts)
            }
            CKK_EC | CKK_EC_EDWARDS => {
                let curve = ec::key_type_of(given(CKA_EC_PARAMS)?).ok_or(Rv(CKR_CURVE_NOT_SUPPORTED))?;
                let scalar = ec::scalar(curve, given(CKA_VALUE)?).ok_or(Rv(CKR_ATTRIBUTE_VALUE_INVALID))?;
                (curve, PrivateParts { data: secret(&scalar), ..PrivateParts::default() })
            }
            _ => return Err(Rv(CKR_ATTRIBUTE_VALUE_INVALID)),
        };
        let new = New::of(&[template], session)?;
        let key = self.imported(access, new, key_type, usage::requested(key_type, template)?, private, None)?;
        Ok(self.state(|state| state.handle(&key, Part::Private)))
    }

    fn import_secret(
        &self,
        access: &Access<'_>,
        session: CK_SESSION_HANDLE,
        template: &Template,
    ) -> Result<CK_OBJECT_HANDLE, Rv> {
        // A server uses secret keys for AES only.
        match template.ulong(CKA_KEY_TYPE)?.ok_or(Rv(CKR_TEMPLATE_INCOMPLETE))? {
            CKK_AES => {}
            _ => return Err(Rv(CKR_TEMPLATE_INCONSISTENT)),
        }
        let value = template.bytes(CKA_VALUE).ok_or(Rv(CKR_TEMPLATE_INCOMPLETE))?;
        if !matches!(value.len(), 16 | 24 | 32) {
            return Err(Rv(CKR_ATTRIBUTE_VALUE_INVALID));
        }
        let private = PrivateParts { data: secret(value), ..PrivateParts::default() };
        let mechanisms = usage::requested(KeyType::Generic, template)?;
        let new = New::of(&[template], session)?;
        let key = self.imported(access, new, KeyType::Generic, mechanisms, private, Some(value.len()))?;
        Ok(self.state(|state| state.handle(&key, Part::Private)))
    }

    /// A public token object is the public half of a key that is there: applications create it next to the private one.
    fn attach_public(&self, access: &Access<'_>, template: &Template) -> Result<CK_OBJECT_HANDLE, Rv> {
        let manager = access.manager()?;
        let public = local::public_key(template)?;
        let info = attributes::spki(&public).ok_or(Rv(CKR_ATTRIBUTE_VALUE_INVALID))?;
        let key = self.key_of(access, template, &info)?.ok_or(Rv(CKR_TEMPLATE_INCONSISTENT))?;
        key.status(|status| status.public_deleted = false);
        self.rename_as(manager, &key, template)?;
        Ok(self.state(|state| state.handle(&key, Part::Public)))
    }

    /// A certificate on the server belongs to a key: the one with its public key.
    fn attach_certificate(&self, access: &Access<'_>, template: &Template) -> Result<CK_OBJECT_HANDLE, Rv> {
        let manager = access.manager()?;
        if template.ulong(CKA_CERTIFICATE_TYPE)?.is_some_and(|given| given != CKC_X_509) {
            return Err(Rv(CKR_ATTRIBUTE_VALUE_INVALID));
        }
        let value = template.bytes(CKA_VALUE).ok_or(Rv(CKR_TEMPLATE_INCOMPLETE))?;
        let certificate = Certificate::read(value).ok_or(Rv(CKR_ATTRIBUTE_VALUE_INVALID))?;
        let key = self.key_of(access, template, &certificate.public_key_info)?.ok_or(Rv(CKR_TEMPLATE_INCONSISTENT))?;
        self.read_certificate(manager, &key)?;
        if key.certificate().is_none_or(|there| *there != certificate) {
            let stored = certificate.stored(self.format).ok_or(Rv(CKR_FUNCTION_FAILED))?;
            self.replace_certificate(manager, &key, &stored)?;
            self.read_certificate(manager, &key)?;
            self.state(|state| state.changed(&key));
        }
        self.rename_as(manager, &key, template)?;
        Ok(self.state(|state| state.handle(&key, Part::Certificate)))
    }

    /// Gives a key another certificate. A server takes none while there is one, so the old one is deleted first, and is put
    /// back if the new one is not taken.
    fn replace_certificate(&self, manager: &Session, key: &Arc<TokenKey>, stored: &[u8]) -> Result<(), Rv> {
        self.check_there(manager, key)?;
        let (id, uid) = (key.name().id, key.uid_text());
        let old = key.certificate();
        if old.is_some() {
            let keys = manager.keys().expecting(uid.as_deref());
            keys.delete_certificate(&id).map_err(|why| Rv::of(&why, Asked::Change))?;
        }
        let Err(why) = manager.keys().set_certificate(&id, stored) else { return Ok(()) };
        if let Some(old) = old.and_then(|old| old.stored(self.format))
            && let Err(also) = manager.keys().set_certificate(&id, &old)
        {
            log::line(&format!(
                "The key {id} has lost its certificate, which could not be replaced. Store it again: {also}"
            ));
            key.status(|status| status.certificate = KnownCertificate::Unknown);
        }
        Err(Rv::of(&why, Asked::Change))
    }

    /// The key with this public key: the one of the template's `CKA_ID`, or else any.
    fn key_of(&self, access: &Access<'_>, template: &Template, info: &[u8]) -> Result<Option<Arc<TokenKey>>, Rv> {
        let by_id = template.bytes(CKA_ID).filter(|id| !id.is_empty());
        let by_id = by_id.map(|id| vec![(CKA_ID, Zeroizing::new(id.to_vec()))]);
        let is_it = |handle: CK_OBJECT_HANDLE| match &self.object(handle).ok()?.0 {
            Source::Key { key, .. } => {
                let public = key.public.as_ref().and_then(attributes::spki);
                (public.as_deref() == Some(info)).then(|| Arc::clone(key))
            }
            Source::Local(_) => None,
        };
        for searched in by_id.into_iter().chain([Vec::new()]) {
            // The private one is there even if the application has destroyed the public one.
            let class = (CKA_CLASS, Zeroizing::new(ulong(CKO_PRIVATE_KEY).to_vec()));
            let class = [class, (CKA_TOKEN, Zeroizing::new(vec![CK_TRUE]))];
            let found = self.find(access, &Template::new(class.into_iter().chain(searched).collect()), true)?;
            if let Some(key) = found.into_iter().find_map(is_it) {
                return Ok(Some(key));
            }
        }
        Ok(None)
    }

    /// Gives a key the names in the template of another of its objects. The last ones count: keytool renames a key by
    /// creating its certificate again, and then deletes what has the old names, with the private key.
    fn rename_as(&self, manager: &Session, key: &Arc<TokenKey>, template: &Template) -> Result<(), Rv> {
        if let Some(cka_id) = template.bytes(CKA_ID).filter(|id| !id.is_empty()) {
            self.rename(manager, key, cka_id)?;
        }
        match new_label(template)? {
            Some(label) if !label.is_empty() => self.relabel(manager, key, &label),
            _ => Ok(()),
        }
    }

    /// Gives a key another `CKA_ID`. Its handles stay.
    fn rename(&self, manager: &Session, key: &Arc<TokenKey>, cka_id: &[u8]) -> Result<(), Rv> {
        let old = key.name().id;
        if id::of_key(&old) == cka_id {
            return Ok(());
        }
        let new = new_id(cka_id)?;
        self.check_there(manager, key)?;
        // Other threads may search meanwhile, and must find the same key.
        let free = self.state(|state| {
            key.status(|status| status.renaming = true);
            let free = !state.keys.contains_key(&new);
            if free {
                state.keys.insert(new.clone(), Arc::clone(key));
            }
            free
        });
        let renamed = manager.keys().expecting(key.uid_text().as_deref()).rename(&old, &new);
        self.state(|state| {
            key.status(|status| status.renaming = false);
            state.changed(key);
            if renamed.is_ok() {
                state.unname(&old, key);
                key.change_name(|name| name.id = new.clone());
                if let Some(gone) = state.keys.get(&new).cloned().filter(|known| !Arc::ptr_eq(known, key)) {
                    state.forget(&gone);
                }
                state.know(key);
            } else if free {
                state.unname(&new, key);
            }
        });
        renamed.map(drop).map_err(|why| match why {
            // Another key has it.
            Error::Refused { status: 409, .. } => Rv(CKR_ATTRIBUTE_VALUE_INVALID),
            why => Rv::of(&why, Asked::Change),
        })
    }

    fn relabel(&self, manager: &Session, key: &Arc<TokenKey>, label: &str) -> Result<(), Rv> {
        if key.name().label == label {
            return Ok(());
        }
        self.check_there(manager, key)?;
        manager.keys().set_label(&key.name().id, label).map_err(|why| Rv::of(&why, Asked::Change))?;
        self.state(|state| {
            key.change_name(|name| label.clone_into(&mut name.label));
            state.changed(key);
        });
        Ok(())
    }

    /// `C_SetAttributeValue`: the names of an object. What it has already may be set again.
    pub fn set(&self, access: &Access<'_>, handle: CK_OBJECT_HANDLE, template: &Template) -> Result<(), Rv> {
        let object = self.object(handle)?;
        let (key, alias) = match &object.0 {
            Source::Local(local) => {
                let session = local.session.ok_or(Rv(CKR_ACTION_PROHIBITED))?;
                if !local.is(CKA_MODIFIABLE) {
                    return Err(Rv(CKR_ACTION_PROHIBITED));
                }
                // A copy may have them, but they stay as they are for the life of an object.
                let fixed = [CKA_TOKEN, CKA_PRIVATE, CKA_MODIFIABLE, CKA_DESTROYABLE, CKA_COPYABLE];
                for (attribute, value) in template.iter().filter(|(attribute, _)| fixed.contains(attribute)) {
                    if local.value(attribute).as_deref() != Ok(value) {
                        return Err(Rv(CKR_ATTRIBUTE_READ_ONLY));
                    }
                }
                let changed = Arc::new(Object(Source::Local(local.copied(session, template)?)));
                return match self.replace(handle, &object, changed) {
                    true => Ok(()),
                    // Another thread was faster: this is a change of what it has left.
                    false => self.set(access, handle, template),
                };
            }
            Source::Key { key, alias, .. } => (key, *alias),
        };
        let label = new_label(template)?;
        let mut changes = false;
        for (attribute, value) in template.iter() {
            match (attribute, object.value(attribute)) {
                (CKA_ID, _) => changes |= new_id(value)? != key.name().id,
                (CKA_LABEL, _) => changes |= label.as_ref().is_some_and(|label| key.name().label != *label),
                (_, Ok(current)) if current == value => {}
                // It is that of the certificate.
                (CKA_SUBJECT, Ok(_)) => {}
                (_, Ok(_) | Err(super::AttributeError::Sensitive)) => return Err(Rv(CKR_ATTRIBUTE_READ_ONLY)),
                // Applications note things of their own, such as NSS.
                _ if attribute & CKA_VENDOR_DEFINED != 0 => {}
                (_, Err(_)) if local::is_known(object.class(), attribute) => return Err(Rv(CKR_ATTRIBUTE_READ_ONLY)),
                (_, Err(_)) => return Err(Rv(CKR_ATTRIBUTE_TYPE_INVALID)),
            }
        }
        if !changes || alias {
            return Ok(());
        }
        let manager = access.manager()?;
        if let Some(cka_id) = template.bytes(CKA_ID) {
            self.rename(manager, key, cka_id)?;
        }
        label.map_or(Ok(()), |label| self.relabel(manager, key, &label))
    }

    /// Puts an object in the place of another, if that is still there.
    fn replace(&self, handle: CK_OBJECT_HANDLE, old: &Arc<Object>, new: Arc<Object>) -> bool {
        self.state(|state| match state.locals.get_mut(&handle) {
            Some(there) if Arc::ptr_eq(there, old) => {
                *there = new;
                true
            }
            _ => false,
        })
    }

    /// `C_DestroyObject`: of a private key, the key with everything that belongs to it; of a public one, only the object.
    pub fn destroy(&self, access: &Access<'_>, handle: CK_OBJECT_HANDLE) -> Result<(), Rv> {
        let object = self.object(handle)?;
        match &object.0 {
            Source::Local(local) if local.session.is_none() || !local.is(CKA_DESTROYABLE) => {
                return Err(Rv(CKR_ACTION_PROHIBITED));
            }
            Source::Local(_) | Source::Key { alias: true, .. } => {}
            Source::Key { key, .. } if key.status(|status| status.deleted) => {}
            Source::Key { key, part, .. } => {
                let manager = access.manager()?;
                if *part != Part::Public {
                    self.check_there(manager, key)?;
                }
                let (id, uid) = (key.name().id, key.uid_text());
                match part {
                    Part::Private => {
                        let keys = manager.keys().expecting(uid.as_deref());
                        keys.delete(&id).map_err(|why| Rv::of(&why, Asked::Change))?;
                        self.state(|state| state.forget(key));
                    }
                    Part::Public => key.status(|status| {
                        status.public_deleted = true;
                        status.handles.public = None;
                    }),
                    Part::Certificate => {
                        let keys = manager.keys().expecting(uid.as_deref());
                        keys.delete_certificate(&id).map_err(|why| Rv::of(&why, Asked::Change))?;
                        key.status(|status| {
                            status.certificate = KnownCertificate::None;
                            status.handles.certificate = None;
                        });
                    }
                }
            }
        }
        self.state(|state| state.remove(handle));
        Ok(())
    }

    /// `C_CopyObject`: of session objects, and of public objects and certificates of the server. A private session key
    /// is copied into a token object by keeping it.
    pub fn copy(
        &self,
        access: &Access<'_>,
        session: CK_SESSION_HANDLE,
        handle: CK_OBJECT_HANDLE,
        template: &Template,
    ) -> Result<CK_OBJECT_HANDLE, Rv> {
        let object = self.object(handle)?;
        let token = template.bool(CKA_TOKEN)?;
        match &object.0 {
            Source::Local(local) if !local.is(CKA_COPYABLE) => Err(Rv(CKR_ACTION_PROHIBITED)),
            Source::Local(local) if token != Some(true) => self.add_local(local.copied(session, template)?),
            Source::Key { key, part: part @ (Part::Private | Part::Public), alias: false }
                if token == Some(true) && key.status(|status| status.session.is_some() && !status.deleted) =>
            {
                self.keep(access, handle, key, *part, template)
            }
            Source::Key { part: Part::Private, .. } => Err(Rv(CKR_ACTION_PROHIBITED)),
            Source::Key { .. } | Source::Local(_) => self.create(access, session, &described(&object, template)),
        }
    }

    /// Makes a key of a session one of the token, with new handles. The old ones stay for the rest of the session.
    fn keep(
        &self,
        access: &Access<'_>,
        handle: CK_OBJECT_HANDLE,
        key: &Arc<TokenKey>,
        part: Part,
        template: &Template,
    ) -> Result<CK_OBJECT_HANDLE, Rv> {
        let manager = access.manager()?;
        // Whoever ends its session meanwhile does not delete it any more.
        if self.state(|state| state.take_session_keys(|other| Arc::ptr_eq(other, key))).is_empty() {
            return Err(Rv(CKR_OBJECT_HANDLE_INVALID));
        }
        let name = || -> Result<(), Rv> {
            if let Some(cka_id) = template.bytes(CKA_ID).filter(|id| !id.is_empty()) {
                self.rename(manager, key, cka_id)?;
            }
            match new_label(template)? {
                Some(label) => self.relabel(manager, key, &label),
                None if key.name().label == SESSION_LABEL => self.relabel(manager, key, ""),
                None => Ok(()),
            }
        };
        name().inspect_err(|_| self.state(|state| state.session_keys.push(Arc::clone(key))))?;
        Ok(self.state(|state| {
            let old = key.status(|status| {
                status.session = None;
                std::mem::take(&mut status.handles)
            });
            let old = [(old.private, Part::Private), (old.public, Part::Public)];
            for (old, part) in old.into_iter().filter_map(|(old, part)| Some((old?, part))).chain([(handle, part)]) {
                let alias = Object(Source::Key { key: Arc::clone(key), part, alias: true });
                state.objects.insert(old, Arc::new(alias));
            }
            state.handle(key, part)
        }))
    }

    fn add_local(&self, object: LocalObject) -> Result<CK_OBJECT_HANDLE, Rv> {
        Ok(self.state(|state| state.add(Object(Source::Local(object)))))
    }
}

/// What an object shows, with the changes of `template`, as the template of a new one.
fn described(object: &Object, template: &Template) -> Template {
    let class = object.class();
    let own =
        attributes::ALL.iter().filter(|attribute| local::is_known(class, **attribute) && **attribute != CKA_TOKEN);
    let own = own.filter_map(|attribute| Some((*attribute, Zeroizing::new(object.value(*attribute).ok()?))));
    let own: Vec<_> = own.filter(|(_, value)| !value.is_empty()).collect();
    let given = template.iter().map(|(attribute, value)| (attribute, Zeroizing::new(value.to_vec())));
    Template::new(own).with(given.collect())
}

/// Fails if the template says that an attribute has another value.
fn expect(template: &Template, attribute: CK_ATTRIBUTE_TYPE, value: CK_ULONG) -> Result<(), Rv> {
    match template.ulong(attribute)? {
        Some(given) if given != value => Err(Rv(CKR_TEMPLATE_INCONSISTENT)),
        _ => Ok(()),
    }
}

/// Fails if the template has an attribute that objects of this class do not have or has it with two values, or flags that
/// are no flags, or is to be trusted.
fn check_known(class: CK_OBJECT_CLASS, template: &Template) -> Result<(), Rv> {
    for (attribute, value) in template.iter() {
        if template.bytes(attribute) != Some(value) {
            return Err(Rv(CKR_TEMPLATE_INCONSISTENT));
        }
        if attribute & CKA_VENDOR_DEFINED == 0 && !local::is_known(class, attribute) {
            return Err(Rv(CKR_ATTRIBUTE_TYPE_INVALID));
        }
    }
    local::FLAGS.iter().try_for_each(|flag| template.bool(*flag).map(drop))?;
    // Nobody has decided that: no server keeps it.
    if template.bool(CKA_TRUSTED)? == Some(true) { Err(Rv(CKR_ATTRIBUTE_READ_ONLY)) } else { Ok(()) }
}

fn secret(bytes: &[u8]) -> SecretText {
    SecretText::from_text(BASE64_STANDARD.encode(bytes))
}

/// Why a key was not created. That its id is taken is told by a status that means other things, too.
fn why_not_created(manager: &Session, id: Option<&KeyId>, why: &Error) -> Rv {
    if let (Error::Refused { status: 400 | 409, .. }, Some(id)) = (why, id)
        && manager.keys().read(id).is_ok()
    {
        return Rv(CKR_ATTRIBUTE_VALUE_INVALID);
    }
    Rv::of(why, Asked::Create)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::CertificateFormat;

    #[test]
    fn a_change_does_not_bring_back_an_object_that_was_destroyed_meanwhile() {
        let objects = Objects::new(CertificateFormat::Pem);
        let nobody = Access { operator: None, administrator: None };
        let data = Template::new(vec![(CKA_CLASS, ulong(CKO_DATA).to_vec().into())]);
        let handle = objects.create(&nobody, 1, &data).unwrap();
        let object = objects.object(handle).unwrap();
        let changed = || Arc::new(Object(Source::Local(LocalObject::new(1, &data, None).unwrap())));
        assert!(objects.replace(handle, &object, changed()));
        assert!(!objects.replace(handle, &object, changed()), "another thread has changed it");
        objects.destroy(&nobody, handle).unwrap();
        assert!(!objects.replace(handle, &object, changed()));
        assert!(objects.object(handle).is_err());
        assert_eq!(objects.set(&nobody, handle, &data), Err(Rv(CKR_OBJECT_HANDLE_INVALID)));
    }
}
