//! The objects of one slot: keys of the server as private or secret, public and certificate objects, and objects of the
//! module.
//!
//! A key of the server is one record, `key.rs`, which its objects share. It is read once and then known, until a search
//! shows that it has changed or is gone; `find.rs` tells which requests a search makes. Handles are never used again.
//!
//! No lock is held while the server is asked.

mod attributes;
mod certificate;
mod create;
mod find;
mod id;
mod key;
mod local;
mod template;
mod usage;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use casemate_api::{KeyId, KeyType, Mechanism};
use casemate_client::{Error, Session};
use cryptoki_sys::*;

use crate::config::CertificateFormat;
use crate::log;
use crate::rv::Rv;

use find::Lists;
use key::TokenKey;
use local::LocalObject;

pub(crate) use attributes::spki;
pub(crate) use local::bits;
pub use template::Template;

/// Sessions with the server that the state of the login permits.
#[derive(Clone, Copy)]
pub struct Access<'a> {
    /// For the use of keys.
    pub operator: Option<&'a Session>,
    /// For their management.
    pub administrator: Option<&'a Session>,
}

impl<'a> Access<'a> {
    /// Who reads keys: whoever is there.
    fn reader(&self) -> Option<&'a Session> {
        self.operator.or(self.administrator)
    }

    /// Who manages keys. Without a login, `CKR_USER_NOT_LOGGED_IN`; without the Administrator's credentials nothing on
    /// the server can be changed: `CKR_TOKEN_WRITE_PROTECTED`.
    fn manager(&self) -> Result<&'a Session, Rv> {
        let without = if self.operator.is_some() { CKR_TOKEN_WRITE_PROTECTED } else { CKR_USER_NOT_LOGGED_IN };
        self.administrator.ok_or(Rv(without))
    }
}

/// Why an attribute has no value to show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttributeError {
    /// The value never leaves the HSM: `CKR_ATTRIBUTE_SENSITIVE`.
    Sensitive,
    /// The object has no such attribute: `CKR_ATTRIBUTE_TYPE_INVALID`.
    Unknown,
    /// It could not be read.
    Rv(Rv),
}

/// A public key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PublicKey {
    /// RSA: big-endian integers without leading zeros.
    Rsa {
        /// The modulus.
        modulus: Vec<u8>,
        /// The public exponent.
        exponent: Vec<u8>,
    },
    /// ECDSA: the uncompressed point on the curve of this key type.
    Ec {
        /// The curve.
        curve: KeyType,
        /// `04`, x, y.
        point: Vec<u8>,
    },
    /// Ed25519: 32 bytes.
    Ed25519(Vec<u8>),
}

/// A key of the server as requests name it.
#[derive(Clone)]
pub struct KeyOnServer {
    /// Its id.
    pub id: KeyId,
    uid: Option<String>,
}

impl KeyOnServer {
    /// Its uid, so that no other key is used that has got its id.
    pub fn uid(&self) -> Option<&str> {
        self.uid.as_deref()
    }
}

/// Which of the objects of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    /// The private or secret key.
    Private,
    Public,
    Certificate,
}

impl Part {
    const ALL: [Part; 3] = [Part::Private, Part::Public, Part::Certificate];

    fn name(self) -> &'static str {
        match self {
            Part::Private => "key",
            Part::Public => "public",
            Part::Certificate => "certificate",
        }
    }
}

/// One object. It stays usable while somebody holds it, also if its key is renamed meanwhile.
pub struct Object(Source);

enum Source {
    /// `alias`: the handle of a session object whose key has since become a token object of another handle.
    Key {
        key: Arc<TokenKey>,
        part: Part,
        alias: bool,
    },
    Local(LocalObject),
}

impl Object {
    /// `CKO_*`
    pub fn class(&self) -> CK_OBJECT_CLASS {
        match &self.0 {
            Source::Key { key, part, .. } => attributes::class(key, *part),
            Source::Local(object) => object.class,
        }
    }

    /// The id of its key on the server, as it is now; none: it is an object of the module.
    pub fn key_id(&self) -> Option<KeyId> {
        match &self.0 {
            Source::Key { key, .. } => Some(key.name().id),
            Source::Local(_) => None,
        }
    }

    /// Its key on the server, for requests to use it; none: it is an object of the module.
    pub fn on_server(&self) -> Option<KeyOnServer> {
        match &self.0 {
            Source::Key { key, .. } => Some(KeyOnServer { id: key.name().id, uid: key.uid_text() }),
            Source::Local(_) => None,
        }
    }

    /// The type of the key; none: it is not a key, or of no type that servers have.
    pub fn key_type(&self) -> Option<KeyType> {
        match &self.0 {
            Source::Key { key, .. } => Some(key.key_type),
            Source::Local(object) => object.key_type,
        }
    }

    /// What the server lets the key do.
    pub fn mechanisms(&self) -> &[Mechanism] {
        match &self.0 {
            Source::Key { key, .. } => &key.mechanisms,
            Source::Local(_) => &[],
        }
    }

    /// The public key, or that of the private key.
    pub fn public_key(&self) -> Option<&PublicKey> {
        match &self.0 {
            Source::Key { key, .. } => key.public.as_ref(),
            Source::Local(object) => object.public.as_ref(),
        }
    }

    /// The value of a secret key that is an object of the module.
    pub fn secret(&self) -> Option<&[u8]> {
        match &self.0 {
            Source::Key { .. } => None,
            Source::Local(object) => object.secret(),
        }
    }

    /// The value of a boolean attribute, such as `CKA_SIGN`; one that the object does not have is false.
    pub fn is(&self, attribute: CK_ATTRIBUTE_TYPE) -> bool {
        self.value(attribute).is_ok_and(|value| value == [CK_TRUE])
    }

    /// Whether its key is gone.
    fn is_left_over(&self) -> bool {
        matches!(&self.0, Source::Key { key, .. } if key.status(|status| status.deleted))
    }

    /// The value of an attribute.
    fn value(&self, attribute: CK_ATTRIBUTE_TYPE) -> Result<Vec<u8>, AttributeError> {
        match &self.0 {
            Source::Key { key, part, alias } => attributes::value(key, *part, *alias, attribute),
            Source::Local(object) => object.value(attribute),
        }
    }
}

/// The objects of one slot. All its sessions share them.
pub struct Objects {
    format: CertificateFormat,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    last: CK_OBJECT_HANDLE,
    /// Counts what this module changes, and thus tells what is newer than an answer of the server.
    now: u64,
    /// Objects of keys of the server.
    objects: HashMap<CK_OBJECT_HANDLE, Arc<Object>>,
    /// Objects of the module: few, while a server may have very many keys.
    locals: HashMap<CK_OBJECT_HANDLE, Arc<Object>>,
    /// Keys of the server that are known, by their ids.
    keys: HashMap<KeyId, Arc<TokenKey>>,
    /// The same by their uids, so far as they have some.
    uids: HashMap<u128, Arc<TokenKey>>,
    /// Those that end with a session.
    session_keys: Vec<Arc<TokenKey>>,
    /// How the server lists keys.
    lists: Lists,
    /// The profiles of the provider, once somebody has looked for them.
    profiles: Vec<CK_OBJECT_HANDLE>,
}

impl State {
    fn add(&mut self, object: Object) -> CK_OBJECT_HANDLE {
        self.last += 1;
        let objects = match &object.0 {
            Source::Key { .. } => &mut self.objects,
            Source::Local(_) => &mut self.locals,
        };
        objects.insert(self.last, Arc::new(object));
        self.last
    }

    fn remove(&mut self, handle: CK_OBJECT_HANDLE) {
        self.objects.remove(&handle);
        self.locals.remove(&handle);
    }

    /// Notes that what is known of a key is newer than the answers to all requests that have begun.
    fn changed(&mut self, key: &TokenKey) {
        self.now += 1;
        key.status(|status| status.changed = self.now);
    }

    /// Makes a key known by the id that it has.
    fn know(&mut self, key: &Arc<TokenKey>) {
        self.changed(key);
        self.keys.insert(key.name().id, Arc::clone(key));
        if let Some(uid) = key.uid {
            self.uids.insert(uid, Arc::clone(key));
        }
    }

    /// Ends that a key is known by an id, if it is.
    fn unname(&mut self, id: &KeyId, key: &TokenKey) {
        if self.keys.get(id).is_some_and(|known| std::ptr::eq(&**known, key)) {
            self.keys.remove(id);
        }
    }

    /// Takes out keys that end with a session. Who has taken one decides what becomes of it.
    fn take_session_keys(&mut self, which: impl Fn(&Arc<TokenKey>) -> bool) -> Vec<Arc<TokenKey>> {
        let (taken, left) = std::mem::take(&mut self.session_keys).into_iter().partition(which);
        self.session_keys = left;
        taken
    }

    /// The handle of a key's object. It is made when it is first asked for.
    fn handle(&mut self, key: &Arc<TokenKey>, part: Part) -> CK_OBJECT_HANDLE {
        if let Some(handle) = key.status(|status| *status.handles.of(part)) {
            return handle;
        }
        let handle = self.add(Object(Source::Key { key: Arc::clone(key), part, alias: false }));
        key.status(|status| *status.handles.of(part) = Some(handle));
        handle
    }

    /// Forgets a key that is gone. Its public object and its certificate stay usable for those who have their handles,
    /// and until then can be destroyed: applications delete the objects of a pair one after the other.
    fn forget(&mut self, key: &TokenKey) {
        self.unname(&key.name().id, key);
        if let Some(uid) = key.uid
            && self.uids.get(&uid).is_some_and(|known| std::ptr::eq(&**known, key))
        {
            self.uids.remove(&uid);
        }
        self.session_keys.retain(|other| !std::ptr::eq(&**other, key));
        let private = key.status(|status| {
            status.deleted = true;
            status.handles.private.take()
        });
        if let Some(handle) = private {
            self.objects.remove(&handle);
        }
    }
}

impl key::Handles {
    fn of(&mut self, part: Part) -> &mut Option<CK_OBJECT_HANDLE> {
        match part {
            Part::Private => &mut self.private,
            Part::Public => &mut self.public,
            Part::Certificate => &mut self.certificate,
        }
    }
}

impl Objects {
    /// No objects yet: they are read when they are looked for.
    pub fn new(format: CertificateFormat) -> Self {
        Self { format, state: Mutex::default() }
    }

    /// Reads or changes what is known. Nothing may wait inside.
    fn state<T>(&self, look: impl FnOnce(&mut State) -> T) -> T {
        look(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The object with this handle, or `CKR_OBJECT_HANDLE_INVALID`.
    pub fn object(&self, handle: CK_OBJECT_HANDLE) -> Result<Arc<Object>, Rv> {
        self.state(|state| state.objects.get(&handle).or_else(|| state.locals.get(&handle)).cloned())
            .ok_or(Rv(CKR_OBJECT_HANDLE_INVALID))
    }

    /// The value of an attribute.
    pub fn attribute(
        &self,
        _: &Access<'_>,
        object: &Object,
        attribute: CK_ATTRIBUTE_TYPE,
    ) -> Result<Vec<u8>, AttributeError> {
        object.value(attribute)
    }

    /// `C_GetObjectSize`: the bytes of all values that can be read.
    pub fn size(&self, _: &Access<'_>, object: &Object) -> Result<CK_ULONG, Rv> {
        let values = attributes::ALL.iter().filter_map(|attribute| object.value(*attribute).ok());
        Ok(values.map(|value| value.len() as CK_ULONG).sum())
    }

    /// Ends the session objects of these sessions. Access is that before they were closed: a private key of a session is on
    /// the server, from which it is deleted here.
    pub fn close_sessions(&self, access: &Access<'_>, sessions: &[CK_SESSION_HANDLE]) {
        let ended = self.state(|state| {
            state.locals.retain(|_, object| match &object.0 {
                Source::Local(object) => object.session.is_none_or(|session| !sessions.contains(&session)),
                Source::Key { .. } => true,
            });
            let ends = |session| sessions.contains(&session);
            state.take_session_keys(|key| key.status(|status| status.session.is_some_and(ends)))
        });
        self.end(access, &ended);
    }

    /// Deletes keys of sessions, as far as that is possible, and forgets them.
    fn end(&self, access: &Access<'_>, keys: &[Arc<TokenKey>]) {
        if let Ok(manager) = access.manager() {
            for key in keys {
                // Nobody is there to be told. What is left over has a label by which administrators know it.
                match manager.keys().expecting(key.uid_text().as_deref()).delete(&key.name().id) {
                    // Each further one would take as long as this one to fail.
                    Err(why) if !is_reply(&why) => {
                        log::line(&format!("Keys of sessions are left over: {why}"));
                        break;
                    }
                    _ => {}
                }
            }
        }
        self.state(|state| {
            for key in keys {
                state.forget(key);
                let handles = key.status(|status| std::mem::take(&mut status.handles));
                for handle in [handles.private, handles.public, handles.certificate].into_iter().flatten() {
                    state.objects.remove(&handle);
                }
            }
        });
    }

    /// Makes the handles of private objects invalid, and ends private session objects. Access as in
    /// [`Objects::close_sessions`].
    pub fn logout(&self, access: &Access<'_>) {
        let ended = self.state(|state| state.take_session_keys(|_| true));
        self.end(access, &ended);
        self.state(|state| {
            // With what was left for those who have a handle of a key that is gone.
            state.objects.retain(|_, object| !object.is(CKA_PRIVATE) && !object.is_left_over());
            state.locals.retain(|_, object| !object.is(CKA_PRIVATE));
            for key in state.keys.values() {
                key.status(|status| status.handles.private = None);
            }
        });
    }
}

/// Whether the server has answered, so that it will answer the next request, too.
fn is_reply(why: &Error) -> bool {
    matches!(
        why,
        Error::Refused { .. }
            | Error::Unauthenticated { .. }
            | Error::Forbidden { .. }
            | Error::NotFound { .. }
            | Error::WrongState { .. }
    )
}

/// A number as an attribute has it.
fn ulong(number: CK_ULONG) -> [u8; size_of::<CK_ULONG>()] {
    number.to_ne_bytes()
}
