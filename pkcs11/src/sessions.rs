//! Sessions of the application: their handles, their states, and which operations they are in the middle of.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use casemate_api::limits::PKCS11_SESSIONS_MAX;
use cryptoki_sys::*;

use crate::login::{self, Who};
use crate::module::{Module, locked};
use crate::operations::Active;
use crate::rv::Rv;
use crate::slots::Slot;

/// The sessions that are open.
#[derive(Default)]
pub struct Sessions {
    last: AtomicU64,
    open: RwLock<HashMap<CK_SESSION_HANDLE, Arc<Session>>>,
}

/// One session.
pub struct Session {
    /// Its handle.
    pub handle: CK_SESSION_HANDLE,
    /// Its slot.
    pub slot: Arc<Slot>,
    /// Whether it was opened with `CKF_RW_SESSION`.
    pub writable: bool,
    /// See [`Session::active`].
    active: Mutex<Active>,
}

impl Sessions {
    fn open(&self) -> RwLockReadGuard<'_, HashMap<CK_SESSION_HANDLE, Arc<Session>>> {
        self.open.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self) -> RwLockWriteGuard<'_, HashMap<CK_SESSION_HANDLE, Arc<Session>>> {
        self.open.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// The session with this handle.
    pub fn get(&self, handle: CK_SESSION_HANDLE) -> Result<Arc<Session>, Rv> {
        self.open().get(&handle).cloned().ok_or(Rv(CKR_SESSION_HANDLE_INVALID))
    }

    /// How many sessions a slot has, and how many of them are read/write sessions.
    pub(crate) fn count(&self, slot: CK_SLOT_ID) -> (CK_ULONG, CK_ULONG) {
        let open = self.open();
        let of_slot = || open.values().filter(|session| session.slot.id() == slot);
        (of_slot().count() as CK_ULONG, of_slot().filter(|session| session.writable).count() as CK_ULONG)
    }

    /// Ends all sessions of all slots, and with them the logins.
    pub(crate) fn close_everything(&self, slots: &[Arc<Slot>]) {
        for slot in slots {
            self.close_all(slot);
        }
    }

    /// `C_CloseAllSessions`
    pub fn close_all(&self, slot: &Slot) {
        let mut closed = Vec::new();
        self.change().retain(|_, session| {
            let stays = session.slot.id() != slot.id();
            if !stays {
                closed.push(session.handle);
            }
            stays
        });
        slot.objects.close_sessions(&slot.held().access(), &closed);
        self.forget_if_none_is_left(slot);
    }

    /// Logs out with the last session of a slot. Somebody may open one meanwhile and log in, who stays so.
    fn forget_if_none_is_left(&self, slot: &Slot) {
        if self.count(slot.id()).0 > 0 {
            return;
        }
        let _one_at_a_time = locked(&slot.login);
        if self.count(slot.id()).0 == 0 {
            login::forget(slot);
        }
    }
}

/// `C_OpenSession`
pub fn open(module: &Module, slot: CK_SLOT_ID, flags: CK_FLAGS) -> Result<CK_SESSION_HANDLE, Rv> {
    let slot = module.slot(slot)?;
    if flags & CKF_SERIAL_SESSION == 0 {
        return Err(Rv(CKR_SESSION_PARALLEL_NOT_SUPPORTED));
    }
    if flags & CKF_ASYNC_SESSION != 0 {
        return Err(Rv(CKR_SESSION_ASYNC_NOT_SUPPORTED));
    }
    let writable = flags & CKF_RW_SESSION != 0;
    let sessions = &module.sessions;
    let mut open = sessions.change();
    // Under the lock, so that the SO does not log in between.
    if !writable && matches!(slot.who(), Who::So(_)) {
        return Err(Rv(CKR_SESSION_READ_WRITE_SO_EXISTS));
    }
    if open.len() >= PKCS11_SESSIONS_MAX {
        return Err(Rv(CKR_SESSION_COUNT));
    }
    let handle = sessions.last.fetch_add(1, Ordering::Relaxed) + 1;
    let active = Mutex::new(Active::default());
    open.insert(handle, Arc::new(Session { handle, slot: Arc::clone(slot), writable, active }));
    Ok(handle)
}

/// `C_CloseSession`. The last one of a slot logs out.
pub fn close(module: &Module, handle: CK_SESSION_HANDLE) -> Result<(), Rv> {
    let session = module.sessions.change().remove(&handle).ok_or(Rv(CKR_SESSION_HANDLE_INVALID))?;
    let slot = &session.slot;
    slot.objects.close_sessions(&slot.held().access(), &[handle]);
    module.sessions.forget_if_none_is_left(slot);
    Ok(())
}

impl Session {
    /// What it is in the middle of. A thread that uses the session holds it, as the standard has one call at a time for a session. What
    /// was begun before a logout has ended.
    pub(crate) fn active(&self) -> MutexGuard<'_, Active> {
        let mut active = locked(&self.active);
        active.is_of_login(self.slot.logouts());
        active
    }

    /// `C_GetSessionInfo`
    pub fn info(&self) -> CK_SESSION_INFO {
        let state = match (self.slot.who(), self.writable) {
            (Who::Nobody, false) => CKS_RO_PUBLIC_SESSION,
            (Who::Nobody, true) => CKS_RW_PUBLIC_SESSION,
            (Who::User(_), false) => CKS_RO_USER_FUNCTIONS,
            (Who::User(_), true) => CKS_RW_USER_FUNCTIONS,
            (Who::So(_), _) => CKS_RW_SO_FUNCTIONS,
        };
        let flags = CKF_SERIAL_SESSION | if self.writable { CKF_RW_SESSION } else { 0 };
        CK_SESSION_INFO { slotID: self.slot.id(), state, flags, ulDeviceError: 0 }
    }
}
