//! Who is logged in at a slot, and with which credentials.
//!
//! The standard has two users, of whom one is logged in; the server has Administrators, who manage keys, and Operators, who
//! use them. Applications log in as `CKU_USER` and then do both. So a login as user makes the Operator's session and, if the
//! Administrator's passphrase is configured, one of the Administrator beside it. `CKU_SO` is the Administrator alone.

use std::sync::{Arc, PoisonError};

use casemate_api::{Passphrase, Role, UserId};
use casemate_client::Session as Server;
use cryptoki_sys::*;

use crate::config::Login;
use crate::log;
use crate::module::{Module, locked};
use crate::objects::Access;
use crate::rv::{Asked, Rv};
use crate::sessions::Session;
use crate::slots::Slot;

/// Who is logged in at a slot.
#[derive(Clone, Default)]
pub enum Who {
    /// Nobody.
    #[default]
    Nobody,
    /// `CKU_USER`
    User(Arc<Held>),
    /// `CKU_SO`
    So(Arc<Held>),
}

/// The sessions with the server that a login came to.
#[derive(Default)]
pub struct Held {
    /// For the use of keys.
    pub operator: Option<Server>,
    /// For their management.
    pub administrator: Option<Server>,
    /// Who has logged in; none: nobody.
    pub user: Option<UserId>,
}

impl Held {
    fn administrator(server: Server, user: UserId) -> Self {
        Self { operator: None, administrator: Some(server), user: Some(user) }
    }

    /// What objects may be reached with.
    pub fn access(&self) -> Access<'_> {
        Access { operator: self.operator.as_ref(), administrator: self.administrator.as_ref() }
    }
}

/// `C_Login` and `C_LoginUser`. Without a PIN the configured passphrase is used; without a name, the configured user.
pub fn login(
    module: &Module,
    session: &Session,
    user: CK_USER_TYPE,
    pin: Option<&[u8]>,
    name: Option<&[u8]>,
) -> Result<(), Rv> {
    let slot = &session.slot;
    match user {
        CKU_USER | CKU_SO => {}
        CKU_CONTEXT_SPECIFIC => return confirm(session, pin),
        _ => return Err(Rv(CKR_USER_TYPE_INVALID)),
    }
    let _one_at_a_time = locked(&slot.login);
    match (slot.who(), user) {
        (Who::Nobody, _) => {}
        (Who::User(_), CKU_USER) | (Who::So(_), CKU_SO) => return Err(Rv(CKR_USER_ALREADY_LOGGED_IN)),
        (Who::User(_) | Who::So(_), _) => return Err(Rv(CKR_USER_ANOTHER_ALREADY_LOGGED_IN)),
    }
    let read_only_exists = || {
        let (all, writable) = module.sessions.count(slot.id());
        all > writable
    };
    if user == CKU_SO && read_only_exists() {
        return Err(Rv(CKR_SESSION_READ_ONLY_EXISTS));
    }
    let login = login_of(slot, user)?;
    let name = name.map(named).transpose()?.unwrap_or_else(|| login.user.clone());
    let (server, role) = authenticate(slot, login, &name, pin)?;
    let who = match (user, role) {
        (CKU_USER, Role::Operator) => {
            // The Administrator stands beside the Operator of the configuration, not beside anybody. It is judged when it is
            // needed: with a wrong passphrase, keys can still be used.
            let administrator = slot.administrator.as_ref().filter(|_| name == login.user);
            let administrator = slot.configured(administrator);
            Who::User(Arc::new(Held { operator: Some(server), administrator, user: Some(name) }))
        }
        (CKU_USER, Role::Administrator) => Who::User(Arc::new(Held::administrator(server, name))),
        (CKU_SO, Role::Administrator) => Who::So(Arc::new(Held::administrator(server, name))),
        _ => return Err(Rv(CKR_USER_TYPE_INVALID)),
    };
    *slot.who.write().unwrap_or_else(PoisonError::into_inner) = who;
    // Sessions that were opened or closed while the server was asked.
    if module.sessions.count(slot.id()).0 == 0 {
        forget(slot);
        return Err(Rv(CKR_SESSION_CLOSED));
    }
    if user == CKU_SO && read_only_exists() {
        forget(slot);
        return Err(Rv(CKR_SESSION_READ_ONLY_EXISTS));
    }
    Ok(())
}

/// Who a user of the standard is. A slot without an Operator is for management: its user is the Administrator.
fn login_of(slot: &Slot, user: CK_USER_TYPE) -> Result<&Login, Rv> {
    match user {
        CKU_SO => slot.administrator.as_ref().ok_or(Rv(CKR_USER_TYPE_INVALID)),
        _ => slot.operator.as_ref().or(slot.administrator.as_ref()).ok_or(Rv(CKR_USER_PIN_NOT_INITIALIZED)),
    }
}

/// Asks the server whether the credentials are right. While it takes no logins because one has just failed, the client
/// waits.
fn authenticate(slot: &Slot, login: &Login, user: &UserId, pin: Option<&[u8]>) -> Result<(Server, Role), Rv> {
    let passphrase = match pin.filter(|pin| !pin.is_empty()) {
        Some(pin) => passphrase(pin)?,
        // A configured passphrase is that of the configured user.
        None if *user != login.user => return Err(Rv(CKR_PIN_INCORRECT)),
        None => match login.passphrase() {
            Ok(Some(passphrase)) => passphrase,
            Ok(None) if pin.is_none() => return Err(Rv(CKR_ARGUMENTS_BAD)),
            Ok(None) => return Err(Rv(CKR_PIN_INCORRECT)),
            Err(why) => {
                log::line(&why.to_string());
                return Err(Rv(CKR_FUNCTION_FAILED));
            }
        },
    };
    let server = slot.client.log_in(user, passphrase);
    // The cheapest request that Administrators and Operators may make and that tells which of them it is.
    let role = server.users().read(user).map_err(|why| Rv::of(&why, Asked::Login))?.role;
    Ok((server, role))
}

/// The user of this name. One that no user can have is nobody's.
fn named(name: &[u8]) -> Result<UserId, Rv> {
    let name = std::str::from_utf8(name).map_err(|_| Rv(CKR_PIN_INCORRECT))?;
    UserId::parse(name).map_err(|_| Rv(CKR_PIN_INCORRECT))
}

/// A PIN as a passphrase. One that is not UTF-8 is nobody's.
fn passphrase(pin: &[u8]) -> Result<Passphrase, Rv> {
    let text = std::str::from_utf8(pin).map_err(|_| Rv(CKR_PIN_INCORRECT))?;
    Ok(Passphrase::from_text(text.to_owned()))
}

/// A login for one operation. No key asks for it (`CKA_ALWAYS_AUTHENTICATE` is false), but an application may.
fn confirm(session: &Session, pin: Option<&[u8]>) -> Result<(), Rv> {
    if !session.active().uses_a_key() {
        return Err(Rv(CKR_OPERATION_NOT_INITIALIZED));
    }
    let slot = &session.slot;
    let (held, kind) = match slot.who() {
        Who::Nobody => return Err(Rv(CKR_USER_NOT_LOGGED_IN)),
        Who::User(held) => (held, CKU_USER),
        Who::So(held) => (held, CKU_SO),
    };
    let login = login_of(slot, kind)?;
    authenticate(slot, login, held.user.as_ref().unwrap_or(&login.user), pin).map(drop)
}

/// `C_Logout`
pub fn logout(session: &Session) -> Result<(), Rv> {
    let slot = &session.slot;
    let _one_at_a_time = locked(&slot.login);
    if matches!(slot.who(), Who::Nobody) {
        return Err(Rv(CKR_USER_NOT_LOGGED_IN));
    }
    forget(slot);
    Ok(())
}

/// Makes it so that nobody is logged in. Calls that are under way end by themselves.
pub(crate) fn forget(slot: &Slot) {
    let held = slot.held();
    // First of all, so that nothing is begun while the server deletes what ends with the login.
    *slot.who.write().unwrap_or_else(PoisonError::into_inner) = Who::Nobody;
    slot.count_logout();
    slot.objects.logout(&held.access());
}

/// `C_SetPIN`: another passphrase for whoever is logged in, or for the user.
pub fn set_pin(session: &Session, old: &[u8], new: &[u8]) -> Result<(), Rv> {
    if !session.writable {
        return Err(Rv(CKR_SESSION_READ_ONLY));
    }
    let slot = &session.slot;
    let _one_at_a_time = locked(&slot.login);
    let who = slot.who();
    let login = login_of(slot, if matches!(who, Who::So(_)) { CKU_SO } else { CKU_USER })?;
    let user = slot.held().user.clone().unwrap_or_else(|| login.user.clone());
    is_nowhere_else(slot, &user)?;
    let (server, _) = authenticate(slot, login, &user, Some(old))?;
    replace(&server, &user, new)?;
    let server = slot.client.log_in(&user, passphrase(new)?);
    slot.forget_reader();
    let who = match who {
        Who::Nobody => Who::Nobody,
        Who::So(_) => Who::So(Arc::new(Held::administrator(server, user))),
        Who::User(held) if held.operator.is_some() => {
            let administrator = held.administrator.clone();
            Who::User(Arc::new(Held { operator: Some(server), administrator, user: Some(user) }))
        }
        Who::User(_) => Who::User(Arc::new(Held::administrator(server, user))),
    };
    *slot.who.write().unwrap_or_else(PoisonError::into_inner) = who;
    Ok(())
}

/// `C_InitPIN`: the SO sets the passphrase of the user.
pub fn init_pin(session: &Session, pin: &[u8]) -> Result<(), Rv> {
    let slot = &session.slot;
    let Who::So(held) = slot.who() else { return Err(Rv(CKR_USER_NOT_LOGGED_IN)) };
    let (Some(administrator), Some(operator)) = (&held.administrator, &slot.operator) else {
        return Err(Rv(CKR_USER_TYPE_INVALID));
    };
    is_nowhere_else(slot, &operator.user)?;
    replace(administrator, &operator.user, pin)?;
    slot.forget_reader();
    Ok(())
}

/// Fails if the passphrase of `user` is configured, where the module cannot change it: it would go on to try
/// the old one, and each failure blocks logins of the user.
fn is_nowhere_else(slot: &Slot, user: &UserId) -> Result<(), Rv> {
    let configured = [&slot.operator, &slot.administrator];
    if configured.into_iter().flatten().any(|login| login.user == *user && login.has_passphrase()) {
        log::line(&format!("The passphrase of {user} is configured: change it on the HSM and in the configuration."));
        return Err(Rv(CKR_ACTION_PROHIBITED));
    }
    Ok(())
}

fn replace(by: &Server, user: &UserId, new: &[u8]) -> Result<(), Rv> {
    let passphrase = passphrase(new).map_err(|_| Rv(CKR_PIN_INVALID))?;
    if !passphrase.has_valid_length() {
        return Err(Rv(CKR_PIN_LEN_RANGE));
    }
    by.users().set_passphrase(user, passphrase).map_err(|why| Rv::of(&why, Asked::NewPin))
}
