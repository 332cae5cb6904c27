//! Slots: one for each HSM of the configuration, with its client, its objects and who is logged in.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use casemate_api::limits::PASSPHRASE_MAX_BYTES;
use casemate_client::{Client, Session};
use cryptoki_sys::*;

use crate::config::{Login, SlotConfig};
use crate::log;
use crate::login::{Held, Who};
use crate::module::{Module, locked};
use crate::objects::Objects;
use crate::operations::digest::sha256;

/// An HSM. Its token is always there, so that nothing is asked before somebody uses it.
pub struct Slot {
    id: CK_SLOT_ID,
    label: String,
    description: String,
    /// Who uses keys.
    pub(crate) operator: Option<Login>,
    /// Who manages keys.
    pub(crate) administrator: Option<Login>,
    pub(crate) client: Client,
    /// The objects that its sessions share.
    pub objects: Objects,
    /// One login for all sessions of the application.
    pub(crate) who: RwLock<Who>,
    /// Held while somebody logs in or out.
    pub(crate) login: Mutex<()>,
    /// How often somebody has logged out.
    logouts: AtomicU64,
    /// What public objects are read with before a login, once it has been needed.
    reader: Mutex<Option<Arc<Held>>>,
}

impl Slot {
    /// How often somebody has logged out.
    pub(crate) fn logouts(&self) -> u64 {
        self.logouts.load(Ordering::SeqCst)
    }

    /// Somebody logs out: what was begun with keys has ended.
    pub(crate) fn count_logout(&self) {
        self.logouts.fetch_add(1, Ordering::SeqCst);
    }

    /// A slot whose HSM is not asked anything yet.
    pub(crate) fn new(id: CK_SLOT_ID, config: SlotConfig) -> Self {
        let SlotConfig { label, description, client, operator, administrator, certificate_format } = config;
        Self {
            id,
            label,
            description,
            operator,
            administrator,
            client,
            objects: Objects::new(certificate_format),
            who: RwLock::new(Who::Nobody),
            logouts: AtomicU64::new(0),
            login: Mutex::new(()),
            reader: Mutex::new(None),
        }
    }

    /// Its number.
    pub fn id(&self) -> CK_SLOT_ID {
        self.id
    }

    /// Who is logged in.
    pub(crate) fn who(&self) -> Who {
        self.who.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What the login permits. Before a login that is nothing.
    pub(crate) fn held(&self) -> Arc<Held> {
        match self.who() {
            Who::Nobody => Arc::default(),
            Who::User(held) | Who::So(held) => held,
        }
    }

    /// What objects are read with. Before a login these are the public ones, read as a user whose passphrase is configured.
    pub(crate) fn reading(&self) -> Arc<Held> {
        match self.who() {
            Who::User(held) | Who::So(held) => held,
            Who::Nobody => {
                let mut reader = locked(&self.reader);
                Arc::clone(reader.get_or_insert_with(|| Arc::new(self.reader())))
            }
        }
    }

    fn reader(&self) -> Held {
        let operator = self.configured(self.operator.as_ref());
        // One suffices, and public sessions manage nothing.
        let administrator = if operator.is_none() { self.configured(self.administrator.as_ref()) } else { None };
        Held { operator, administrator, user: None }
    }

    /// A session of `login`, if its passphrase is configured and can be had.
    pub(crate) fn configured(&self, login: Option<&Login>) -> Option<Session> {
        let login = login?;
        match login.passphrase() {
            Ok(passphrase) => Some(self.client.log_in(&login.user, passphrase?)),
            Err(why) => {
                log::line(&format!("slot {} ({}): {why}", self.id, self.label));
                None
            }
        }
    }

    /// Forgets with what public objects are read, as the passphrase has changed.
    pub(crate) fn forget_reader(&self) {
        *locked(&self.reader) = None;
    }

    /// `C_GetSlotInfo`
    pub fn info(&self) -> CK_SLOT_INFO {
        CK_SLOT_INFO {
            slotDescription: padded(&self.description),
            manufacturerID: padded(MANUFACTURER),
            flags: CKF_TOKEN_PRESENT | CKF_HW_SLOT,
            hardwareVersion: CK_VERSION { major: 0, minor: 0 },
            firmwareVersion: VERSION,
        }
    }

    /// `C_GetTokenInfo`. All of it is known without the HSM, so that URIs (RFC 7512) name the same token whether the HSM
    /// can be reached or not.
    pub fn token_info(&self, module: &Module) -> CK_TOKEN_INFO {
        let (sessions, writable) = module.sessions.count(self.id);
        let mut flags = CKF_RNG | CKF_LOGIN_REQUIRED | CKF_USER_PIN_INITIALIZED | CKF_TOKEN_INITIALIZED;
        if self.operator.as_ref().or(self.administrator.as_ref()).is_some_and(Login::has_passphrase) {
            flags |= CKF_PROTECTED_AUTHENTICATION_PATH;
        }
        if self.administrator.is_none() {
            flags |= CKF_WRITE_PROTECTED;
        }
        CK_TOKEN_INFO {
            label: padded(&self.label),
            manufacturerID: padded(MANUFACTURER),
            model: padded(MODEL),
            serialNumber: padded(&self.serial()),
            flags,
            ulMaxSessionCount: CK_EFFECTIVELY_INFINITE,
            ulSessionCount: sessions,
            ulMaxRwSessionCount: CK_EFFECTIVELY_INFINITE,
            ulRwSessionCount: writable,
            ulMaxPinLen: PASSPHRASE_MAX_BYTES as CK_ULONG,
            // Passphrases that an HSM has taken over from elsewhere may be shorter than those that it lets set.
            ulMinPinLen: 1,
            ulTotalPublicMemory: CK_UNAVAILABLE_INFORMATION,
            ulFreePublicMemory: CK_UNAVAILABLE_INFORMATION,
            ulTotalPrivateMemory: CK_UNAVAILABLE_INFORMATION,
            ulFreePrivateMemory: CK_UNAVAILABLE_INFORMATION,
            hardwareVersion: CK_VERSION { major: 0, minor: 0 },
            firmwareVersion: VERSION,
            utcTime: padded(""),
        }
    }

    /// Several nodes have no serial number in common, so it is derived from the label, by which slots are told apart.
    fn serial(&self) -> String {
        sha256(self.label.as_bytes()).iter().take(8).map(|byte| format!("{byte:02x}")).collect()
    }
}

impl fmt::Debug for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Slot").field("id", &self.id).field("label", &self.label).finish_non_exhaustive()
    }
}

/// `C_GetInfo`
pub fn library_info() -> CK_INFO {
    CK_INFO {
        cryptokiVersion: CK_VERSION { major: 3, minor: 2 },
        manufacturerID: padded(MANUFACTURER),
        flags: 0,
        libraryDescription: padded("Casemate PKCS#11"),
        libraryVersion: VERSION,
    }
}

/// A text as the standard has it in a field of fixed length: padded with blanks, cut between characters.
fn padded<const N: usize>(text: &str) -> [u8; N] {
    let mut field = [b' '; N];
    let end = (0..=N.min(text.len())).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
    let (text, _) = text.as_bytes().split_at(end);
    for (to, from) in field.iter_mut().zip(text) {
        *to = *from;
    }
    field
}

const MANUFACTURER: &str = "Casemate";
const MODEL: &str = "Network HSM";
/// That of the package.
const VERSION: CK_VERSION =
    CK_VERSION { major: decimal(env!("CARGO_PKG_VERSION_MAJOR")), minor: decimal(env!("CARGO_PKG_VERSION_MINOR")) };

const fn decimal(text: &str) -> u8 {
    match u8::from_str_radix(text, 10) {
        Ok(number) => number,
        Err(_) => u8::MAX,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_is_padded_with_blanks_and_cut_between_characters() {
        assert_eq!(&padded::<4>("ab"), b"ab  ");
        assert_eq!(&padded::<4>("abcdef"), b"abcd");
        assert_eq!(&padded::<4>("abcé"), b"abc ");
        assert_eq!(&padded::<4>("é\u{20ac}"), b"\xc3\xa9  ");
    }
}
