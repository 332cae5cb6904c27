//! The boundary to C: every function of the standard, and the tables in which applications find them.
//!
//! The only file with `unsafe`. A function here checks pointers and lengths, copies what they lead to, calls safe code, and
//! writes the result. What the standard lets a caller be trusted with is trusted: that a pointer that is not null leads to as
//! many bytes as its length says, for as long as the call lasts. A panic does not leave a function.

#![expect(unsafe_code, reason = "the boundary to C")]
#![expect(clippy::missing_safety_doc, reason = "the standard says what callers owe")]
#![expect(missing_docs, reason = "the standard says what each function does")]

use std::ffi::c_void;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr;
use std::slice;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use casemate_api::limits::{PKCS11_ATTRIBUTES_MAX, PKCS11_INPUT_MAX_BYTES, PKCS11_VALUE_MAX_BYTES};
use cryptoki_sys::*;
use zeroize::Zeroizing;

use crate::module::{self, Module};
use crate::objects::{AttributeError, Template};
use crate::operations::mechanisms::offers;
use crate::operations::{Mechanism, Parameter, Produced, find, random};
use crate::rv::Rv;
use crate::sessions::{self, Session};
use crate::{login, slots};

// ---- What all functions share -----------------------------------------------------------------------------------------

/// Runs the body of a function.
fn guarded(body: impl FnOnce() -> Result<(), Rv>) -> CK_RV {
    match catch_unwind(AssertUnwindSafe(body)) {
        Ok(Ok(())) => CKR_OK,
        Ok(Err(Rv(code))) => code,
        Err(_) => CKR_GENERAL_ERROR,
    }
}

/// The same with the module, which must be initialised.
fn in_module(body: impl FnOnce(&Arc<Module>) -> Result<(), Rv>) -> CK_RV {
    guarded(|| body(&module::current()?))
}

/// The same with a session.
fn in_session(handle: CK_SESSION_HANDLE, body: impl FnOnce(&Session) -> Result<(), Rv>) -> CK_RV {
    in_module(|module| body(&*module.sessions.get(handle)?))
}

/// What a function answers that the module does not offer.
fn not_supported() -> CK_RV {
    in_module(|_| Err(Rv(CKR_FUNCTION_NOT_SUPPORTED)))
}

/// So many bytes of the caller. Null is nothing, if that is what the length says.
unsafe fn bytes<'a>(pointer: *const CK_BYTE, length: CK_ULONG) -> Result<&'a [u8], Rv> {
    // SAFETY: as the caller owes it.
    unsafe { array(pointer, length, PKCS11_INPUT_MAX_BYTES) }
}

/// The bytes of a step of an operation, which ends if there are more than the module takes, or none behind the pointer.
unsafe fn input<'a>(
    session: &Session,
    kind: CK_FLAGS,
    pointer: *const CK_BYTE,
    length: CK_ULONG,
) -> Result<&'a [u8], Rv> {
    // SAFETY: as the caller owes it.
    let input = unsafe { bytes(pointer, length) };
    if input.is_err() {
        session.cancel(kind)?;
    }
    input.map_err(|why| match kind {
        _ if pointer.is_null() => why,
        CKF_DECRYPT => Rv(CKR_ENCRYPTED_DATA_LEN_RANGE),
        _ => Rv(CKR_DATA_LEN_RANGE),
    })
}

/// So many items of the caller, at most `most`.
unsafe fn array<'a, T>(pointer: *const T, length: CK_ULONG, most: usize) -> Result<&'a [T], Rv> {
    let length = usize::try_from(length).ok().filter(|length| *length <= most).ok_or(Rv(CKR_ARGUMENTS_BAD))?;
    if length == 0 {
        return Ok(&[]);
    }
    if pointer.is_null() || !pointer.is_aligned() {
        return Err(Rv(CKR_ARGUMENTS_BAD));
    }
    // SAFETY: the pointer is not null and aligned, the length is bounded, and that it holds so many is owed.
    Ok(unsafe { slice::from_raw_parts(pointer, length) })
}

/// The value behind a pointer of the caller.
unsafe fn value<T: Copy>(pointer: *const T) -> Result<T, Rv> {
    if pointer.is_null() {
        return Err(Rv(CKR_ARGUMENTS_BAD));
    }
    // SAFETY: the pointer is not null, and that it holds a value is owed. It may be unaligned.
    Ok(unsafe { pointer.read_unaligned() })
}

/// Writes behind a pointer of the caller.
unsafe fn write<T>(pointer: *mut T, value: T) -> Result<(), Rv> {
    if pointer.is_null() {
        return Err(Rv(CKR_ARGUMENTS_BAD));
    }
    // SAFETY: the pointer is not null, and that there is room for a value is owed.
    unsafe { pointer.write_unaligned(value) };
    Ok(())
}

/// Copies items to the caller, who has said that there is room for them.
unsafe fn copy_out<T: Copy>(items: &[T], to: *mut T) {
    // SAFETY: both hold so many items, and do not overlap, as ours are not the caller's.
    unsafe { ptr::copy_nonoverlapping(items.as_ptr(), to, items.len()) }
}

/// The room that a caller has for a result; `None`: the length alone is asked for.
unsafe fn room<T>(out: *const T, length: *const CK_ULONG) -> Result<Option<usize>, Rv> {
    // SAFETY: as the caller owes it.
    let length = unsafe { value(length) }?;
    Ok((!out.is_null()).then(|| usize::try_from(length).unwrap_or(usize::MAX)))
}

/// Delivers a result into the room that the caller has, or the length that it takes.
unsafe fn deliver(produced: Produced, out: *mut CK_BYTE, length: *mut CK_ULONG) -> Result<(), Rv> {
    match produced {
        Produced::Bytes(bytes) => {
            if !bytes.is_empty() {
                // SAFETY: it is produced only if there is room for it.
                unsafe { copy_out(&bytes, out) };
            }
            // SAFETY: as the caller owes it.
            unsafe { write(length, bytes.len() as CK_ULONG) }
        }
        Produced::Needs(needs) => {
            // SAFETY: as the caller owes it.
            unsafe { write(length, needs as CK_ULONG) }?;
            if out.is_null() { Ok(()) } else { Err(Rv(CKR_BUFFER_TOO_SMALL)) }
        }
    }
}

/// Delivers a list, or how long it is.
unsafe fn deliver_list<T: Copy>(items: &[T], out: *mut T, length: *mut CK_ULONG) -> Result<(), Rv> {
    // SAFETY: as the caller owes it.
    let room = unsafe { room(out, length) }?;
    // SAFETY: the same.
    unsafe { write(length, items.len() as CK_ULONG) }?;
    match room {
        None => Ok(()),
        Some(room) if room < items.len() => Err(Rv(CKR_BUFFER_TOO_SMALL)),
        Some(_) => {
            // SAFETY: there is room.
            unsafe { copy_out(items, out) };
            Ok(())
        }
    }
}

/// Runs an operation that delivers bytes.
unsafe fn producing(
    session: CK_SESSION_HANDLE,
    out: *mut CK_BYTE,
    length: *mut CK_ULONG,
    body: impl FnOnce(&Session, Option<usize>) -> Result<Produced, Rv>,
) -> CK_RV {
    in_session(session, |session| {
        // SAFETY: as the caller owes it.
        let room = unsafe { room(out, length) }?;
        let produced = body(session, room)?;
        // SAFETY: the same.
        unsafe { deliver(produced, out, length) }
    })
}

/// A template of the caller.
unsafe fn template(attributes: *const CK_ATTRIBUTE, count: CK_ULONG) -> Result<Template, Rv> {
    // SAFETY: as the caller owes it.
    let attributes = unsafe { array(attributes, count, PKCS11_ATTRIBUTES_MAX) }?;
    let copied = attributes.iter().map(|attribute| {
        let (pointer, length) = (attribute.pValue.cast::<CK_BYTE>(), attribute.ulValueLen);
        // SAFETY: the same.
        let value = unsafe { array(pointer, length, PKCS11_VALUE_MAX_BYTES) };
        let value = value.map_err(|_| Rv(CKR_ATTRIBUTE_VALUE_INVALID))?;
        Ok((attribute.type_, Zeroizing::new(value.to_vec())))
    });
    copied.collect::<Result<_, Rv>>().map(Template::new)
}

/// A mechanism of the caller, with the parameter that mechanisms of its kind have.
unsafe fn mechanism(pointer: *const CK_MECHANISM) -> Result<Mechanism, Rv> {
    // SAFETY: as the caller owes it.
    let given = unsafe { value(pointer) }?;
    let kind = given.mechanism;
    // SAFETY: the same.
    let raw = unsafe { array(given.pParameter.cast::<CK_BYTE>(), given.ulParameterLen, PARAMETER_MAX_BYTES) };
    let raw = raw.map_err(|_| Rv(CKR_MECHANISM_PARAM_INVALID))?;
    let parameter = match kind {
        _ if raw.is_empty() => Parameter::None,
        CKM_RSA_PKCS_PSS
        | CKM_SHA1_RSA_PKCS_PSS
        | CKM_SHA224_RSA_PKCS_PSS
        | CKM_SHA256_RSA_PKCS_PSS
        | CKM_SHA384_RSA_PKCS_PSS
        | CKM_SHA512_RSA_PKCS_PSS => {
            // SAFETY: of any bytes of this length these numbers can be made.
            let pss: CK_RSA_PKCS_PSS_PARAMS = unsafe { structure(raw) }?;
            Parameter::Pss { hash: pss.hashAlg, mgf: pss.mgf, salt_bytes: pss.sLen }
        }
        CKM_RSA_PKCS_OAEP => {
            // SAFETY: the same.
            let oaep: CK_RSA_PKCS_OAEP_PARAMS = unsafe { structure(raw) }?;
            let (pointer, length) = (oaep.pSourceData.cast::<CK_BYTE>(), oaep.ulSourceDataLen);
            // SAFETY: as the caller owes it.
            let label = unsafe { array(pointer, length, PARAMETER_MAX_BYTES) };
            let label = label.map_err(|_| Rv(CKR_MECHANISM_PARAM_INVALID))?.to_vec();
            // Without a source there is no label; some callers leave it at zero.
            if oaep.source != CKZ_DATA_SPECIFIED && !label.is_empty() {
                return Err(Rv(CKR_MECHANISM_PARAM_INVALID));
            }
            Parameter::Oaep { hash: oaep.hashAlg, mgf: oaep.mgf, label }
        }
        CKM_EDDSA => {
            // SAFETY: the same.
            let eddsa: CK_EDDSA_PARAMS = unsafe { structure(raw) }?;
            Parameter::Eddsa { prehash: eddsa.phFlag != CK_FALSE, context: eddsa.ulContextDataLen != 0 }
        }
        _ => Parameter::Bytes(raw.to_vec()),
    };
    Ok(Mechanism { kind, parameter })
}

/// No mechanism has a longer parameter.
const PARAMETER_MAX_BYTES: usize = 64 << 10;

/// A structure of exactly these bytes. Every content must be a valid one of `T`.
unsafe fn structure<T: Copy>(raw: &[u8]) -> Result<T, Rv> {
    if raw.len() != size_of::<T>() {
        return Err(Rv(CKR_MECHANISM_PARAM_INVALID));
    }
    // SAFETY: there are as many bytes as it takes, and the caller promises that any will do.
    Ok(unsafe { raw.as_ptr().cast::<T>().read_unaligned() })
}

/// A PIN or a name; null is none.
unsafe fn optional<'a>(pointer: *const CK_UTF8CHAR, length: CK_ULONG) -> Result<Option<&'a [u8]>, Rv> {
    if pointer.is_null() {
        return if length == 0 { Ok(None) } else { Err(Rv(CKR_ARGUMENTS_BAD)) };
    }
    // SAFETY: as the caller owes it.
    unsafe { bytes(pointer, length) }.map(Some)
}

// ---- General ----------------------------------------------------------------------------------------------------------

unsafe extern "C" {
    /// POSIX. Its handlers are removed with the module that registered them.
    fn pthread_atfork(
        prepare: Option<unsafe extern "C" fn()>,
        parent: Option<unsafe extern "C" fn()>,
        child: Option<unsafe extern "C" fn()>,
    ) -> std::ffi::c_int;

    /// An entry of the auxiliary vector; 0: there is none.
    safe fn getauxval(kind: std::ffi::c_ulong) -> std::ffi::c_ulong;
}

/// Whether the process has rights that whoever started it lacks (setuid, setgid, file capabilities), so that nothing which
/// that user says may count.
pub(crate) fn runs_for_another() -> bool {
    getauxval(AT_SECURE) != 0
}

/// `<elf.h>`
const AT_SECURE: std::ffi::c_ulong = 23;

unsafe extern "C" fn in_child() {
    module::forked();
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_Initialize(arguments: *mut c_void) -> CK_RV {
    static WATCHES_FORKS: AtomicBool = AtomicBool::new(false);
    guarded(|| {
        if !arguments.is_null() {
            // SAFETY: as the caller owes it.
            let arguments = unsafe { value(arguments.cast::<CK_C_INITIALIZE_ARGS>()) }?;
            let functions = [
                arguments.CreateMutex.is_some(),
                arguments.DestroyMutex.is_some(),
                arguments.LockMutex.is_some(),
                arguments.UnlockMutex.is_some(),
            ];
            // All or none. They are not called even if the caller prefers them: our locks work between any threads, and
            // that we start none is what `CKF_LIBRARY_CANT_CREATE_OS_THREADS` asks for.
            if !arguments.pReserved.is_null() || functions.contains(&true) && functions.contains(&false) {
                return Err(Rv(CKR_ARGUMENTS_BAD));
            }
        }
        if !WATCHES_FORKS.swap(true, Ordering::Relaxed) {
            // SAFETY: the handler does nothing but increase a number.
            let failed = unsafe { pthread_atfork(None, None, Some(in_child)) } != 0;
            if failed {
                return Err(Rv(CKR_HOST_MEMORY));
            }
        }
        module::initialize()
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_Finalize(reserved: *mut c_void) -> CK_RV {
    in_module(|_| if reserved.is_null() { module::finalize() } else { Err(Rv(CKR_ARGUMENTS_BAD)) })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_GetInfo(info: *mut CK_INFO) -> CK_RV {
    // SAFETY: as the caller owes it.
    in_module(|_| unsafe { write(info, slots::library_info()) })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_GetFunctionList(list: *mut *mut CK_FUNCTION_LIST) -> CK_RV {
    // SAFETY: as the caller owes it. Callers get a table that they must not change.
    guarded(|| unsafe { write(list, ptr::from_ref(&V2_40).cast_mut()) })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_GetInterfaceList(list: *mut CK_INTERFACE, count: *mut CK_ULONG) -> CK_RV {
    let interfaces = INTERFACES.0.map(|(interface, _)| interface);
    // SAFETY: as the caller owes it.
    guarded(|| unsafe { deliver_list(&interfaces, list, count) })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_GetInterface(
    name: *mut CK_UTF8CHAR,
    version: *mut CK_VERSION,
    interface: *mut *mut CK_INTERFACE,
    flags: CK_FLAGS,
) -> CK_RV {
    guarded(|| {
        if interface.is_null() {
            return Err(Rv(CKR_ARGUMENTS_BAD));
        }
        // Without a name it is the default one: the newest.
        // SAFETY: a name ends with a zero, as the caller owes it.
        let named = name.is_null() || unsafe { std::ffi::CStr::from_ptr(name.cast()) } == NAME;
        // SAFETY: as the caller owes it.
        let version = if version.is_null() { None } else { Some(unsafe { value(version) }?) };
        let found = INTERFACES.0.iter().find(|(has, of)| {
            let fits = version.is_none_or(|version| (version.major, version.minor) == (of.major, of.minor));
            named && fits && flags & !has.flags == 0
        });
        let (found, _) = found.ok_or(Rv(CKR_FUNCTION_FAILED))?;
        // SAFETY: as the caller owes it. Callers get a table that they must not change.
        unsafe { write(interface, ptr::from_ref(found).cast_mut()) }
    })
}

// ---- Slots and tokens -------------------------------------------------------------------------------------------------

#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_GetSlotList(_present: CK_BBOOL, list: *mut CK_SLOT_ID, count: *mut CK_ULONG) -> CK_RV {
    in_module(|module| {
        let ids: Vec<CK_SLOT_ID> = module.slots.iter().map(|slot| slot.id()).collect();
        // SAFETY: as the caller owes it.
        unsafe { deliver_list(&ids, list, count) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_GetSlotInfo(slot: CK_SLOT_ID, info: *mut CK_SLOT_INFO) -> CK_RV {
    // SAFETY: as the caller owes it.
    in_module(|module| unsafe { write(info, module.slot(slot)?.info()) })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_GetTokenInfo(slot: CK_SLOT_ID, info: *mut CK_TOKEN_INFO) -> CK_RV {
    // SAFETY: as the caller owes it.
    in_module(|module| unsafe { write(info, module.slot(slot)?.token_info(module)) })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_WaitForSlotEvent(flags: CK_FLAGS, slot: *mut CK_SLOT_ID, reserved: *mut c_void) -> CK_RV {
    in_module(|module| {
        if slot.is_null() || !reserved.is_null() {
            return Err(Rv(CKR_ARGUMENTS_BAD));
        }
        Err(module.wait_for_slot_event(flags & CKF_DONT_BLOCK == 0))
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_GetMechanismList(
    slot: CK_SLOT_ID,
    list: *mut CK_MECHANISM_TYPE,
    count: *mut CK_ULONG,
) -> CK_RV {
    in_module(|module| {
        module.slot(slot)?;
        let kinds: Vec<CK_MECHANISM_TYPE> = offers().iter().map(|offer| offer.kind).collect();
        // SAFETY: as the caller owes it.
        unsafe { deliver_list(&kinds, list, count) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_GetMechanismInfo(
    slot: CK_SLOT_ID,
    kind: CK_MECHANISM_TYPE,
    info: *mut CK_MECHANISM_INFO,
) -> CK_RV {
    in_module(|module| {
        module.slot(slot)?;
        let offer = offers().into_iter().find(|offer| offer.kind == kind).ok_or(Rv(CKR_MECHANISM_INVALID))?;
        let told = CK_MECHANISM_INFO { ulMinKeySize: offer.min, ulMaxKeySize: offer.max, flags: offer.flags };
        // SAFETY: as the caller owes it.
        unsafe { write(info, told) }
    })
}

/// Refused: who may use an HSM, and erasing it, is not for applications.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_InitToken(
    slot: CK_SLOT_ID,
    _pin: *mut CK_UTF8CHAR,
    _pin_length: CK_ULONG,
    _label: *mut CK_UTF8CHAR,
) -> CK_RV {
    in_module(|module| module.slot(slot).and(Err(Rv(CKR_TOKEN_WRITE_PROTECTED))))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_InitPIN(session: CK_SESSION_HANDLE, pin: *mut CK_UTF8CHAR, length: CK_ULONG) -> CK_RV {
    // SAFETY: as the caller owes it.
    in_session(session, |session| login::init_pin(session, unsafe { bytes(pin, length) }?))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_SetPIN(
    session: CK_SESSION_HANDLE,
    old: *mut CK_UTF8CHAR,
    old_length: CK_ULONG,
    new: *mut CK_UTF8CHAR,
    new_length: CK_ULONG,
) -> CK_RV {
    in_session(session, |session| {
        // SAFETY: as the caller owes it.
        let (old, new) = unsafe { (bytes(old, old_length)?, bytes(new, new_length)?) };
        login::set_pin(session, old, new)
    })
}

// ---- Sessions ---------------------------------------------------------------------------------------------------------

#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_OpenSession(
    slot: CK_SLOT_ID,
    flags: CK_FLAGS,
    _application: *mut c_void,
    _notify: CK_NOTIFY,
    handle: *mut CK_SESSION_HANDLE,
) -> CK_RV {
    in_module(|module| {
        if handle.is_null() {
            return Err(Rv(CKR_ARGUMENTS_BAD));
        }
        // SAFETY: as the caller owes it.
        unsafe { write(handle, sessions::open(module, slot, flags)?) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_CloseSession(session: CK_SESSION_HANDLE) -> CK_RV {
    in_module(|module| sessions::close(module, session))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_CloseAllSessions(slot: CK_SLOT_ID) -> CK_RV {
    in_module(|module| {
        module.sessions.close_all(module.slot(slot)?);
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_GetSessionInfo(session: CK_SESSION_HANDLE, info: *mut CK_SESSION_INFO) -> CK_RV {
    // SAFETY: as the caller owes it.
    in_session(session, |session| unsafe { write(info, session.info()) })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_SessionCancel(session: CK_SESSION_HANDLE, flags: CK_FLAGS) -> CK_RV {
    in_session(session, |session| session.cancel(flags))
}

/// Refused: what the server is in the middle of cannot be taken elsewhere.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_GetOperationState(
    session: CK_SESSION_HANDLE,
    _state: *mut CK_BYTE,
    _length: *mut CK_ULONG,
) -> CK_RV {
    in_session(session, |_| Err(Rv(CKR_STATE_UNSAVEABLE)))
}

/// Refused: there is no state that could be saved.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_SetOperationState(
    session: CK_SESSION_HANDLE,
    _state: *mut CK_BYTE,
    _length: CK_ULONG,
    _encryption_key: CK_OBJECT_HANDLE,
    _authentication_key: CK_OBJECT_HANDLE,
) -> CK_RV {
    in_session(session, |_| Err(Rv(CKR_SAVED_STATE_INVALID)))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_Login(
    session: CK_SESSION_HANDLE,
    user: CK_USER_TYPE,
    pin: *mut CK_UTF8CHAR,
    length: CK_ULONG,
) -> CK_RV {
    in_module(|module| {
        let session = module.sessions.get(session)?;
        // SAFETY: as the caller owes it.
        login::login(module, &session, user, unsafe { optional(pin, length) }?, None)
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_LoginUser(
    session: CK_SESSION_HANDLE,
    user: CK_USER_TYPE,
    pin: *mut CK_UTF8CHAR,
    length: CK_ULONG,
    name: *mut CK_UTF8CHAR,
    name_length: CK_ULONG,
) -> CK_RV {
    in_module(|module| {
        let session = module.sessions.get(session)?;
        // SAFETY: as the caller owes it.
        let (pin, name) = unsafe { (optional(pin, length)?, optional(name, name_length)?) };
        login::login(module, &session, user, pin, name)
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_Logout(session: CK_SESSION_HANDLE) -> CK_RV {
    in_module(|module| login::logout(&*module.sessions.get(session)?))
}

// ---- Objects ----------------------------------------------------------------------------------------------------------

#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_CreateObject(
    session: CK_SESSION_HANDLE,
    attributes: *mut CK_ATTRIBUTE,
    count: CK_ULONG,
    object: *mut CK_OBJECT_HANDLE,
) -> CK_RV {
    in_session(session, |session| {
        if object.is_null() {
            return Err(Rv(CKR_ARGUMENTS_BAD));
        }
        // SAFETY: as the caller owes it.
        unsafe { write(object, session.create(&template(attributes, count)?)?) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_CopyObject(
    session: CK_SESSION_HANDLE,
    object: CK_OBJECT_HANDLE,
    attributes: *mut CK_ATTRIBUTE,
    count: CK_ULONG,
    copy: *mut CK_OBJECT_HANDLE,
) -> CK_RV {
    in_session(session, |session| {
        if copy.is_null() {
            return Err(Rv(CKR_ARGUMENTS_BAD));
        }
        // SAFETY: as the caller owes it.
        unsafe { write(copy, session.copy(object, &template(attributes, count)?)?) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_DestroyObject(session: CK_SESSION_HANDLE, object: CK_OBJECT_HANDLE) -> CK_RV {
    in_session(session, |session| session.destroy(object))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_GetObjectSize(
    session: CK_SESSION_HANDLE,
    object: CK_OBJECT_HANDLE,
    size: *mut CK_ULONG,
) -> CK_RV {
    // SAFETY: as the caller owes it.
    in_session(session, |session| unsafe { write(size, session.size(object)?) })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_GetAttributeValue(
    session: CK_SESSION_HANDLE,
    object: CK_OBJECT_HANDLE,
    attributes: *mut CK_ATTRIBUTE,
    count: CK_ULONG,
) -> CK_RV {
    in_session(session, |session| {
        // SAFETY: as the caller owes it.
        let given = unsafe { array(attributes.cast_const(), count, PKCS11_ATTRIBUTES_MAX) }?;
        let kinds: Vec<CK_ATTRIBUTE_TYPE> = given.iter().map(|attribute| attribute.type_).collect();
        let values = session.attributes(object, &kinds)?;
        // Every attribute is answered; of several reasons for failure, one is told.
        let mut outcome = Ok(());
        for (index, value) in values.into_iter().enumerate() {
            // SAFETY: the index is below the count, and nothing else refers to this attribute now.
            let answered = unsafe { answer(attributes.add(index), value) };
            outcome = outcome.and(answered);
        }
        outcome
    })
}

/// Answers one attribute: its value, its length, or that there is none.
unsafe fn answer(attribute: *mut CK_ATTRIBUTE, found: Result<Vec<u8>, AttributeError>) -> Result<(), Rv> {
    // SAFETY: as the caller owes it.
    let given = unsafe { value(attribute) }?;
    let (length, outcome) = match found {
        Err(AttributeError::Sensitive) => (CK_UNAVAILABLE_INFORMATION, Err(Rv(CKR_ATTRIBUTE_SENSITIVE))),
        Err(AttributeError::Unknown) => (CK_UNAVAILABLE_INFORMATION, Err(Rv(CKR_ATTRIBUTE_TYPE_INVALID))),
        Err(AttributeError::Rv(rv)) => (CK_UNAVAILABLE_INFORMATION, Err(rv)),
        Ok(found) if given.pValue.is_null() => (found.len() as CK_ULONG, Ok(())),
        Ok(found) if given.ulValueLen < found.len() as CK_ULONG => {
            (CK_UNAVAILABLE_INFORMATION, Err(Rv(CKR_BUFFER_TOO_SMALL)))
        }
        Ok(found) => {
            // SAFETY: there is room.
            unsafe { copy_out(&found, given.pValue.cast()) };
            (found.len() as CK_ULONG, Ok(()))
        }
    };
    // SAFETY: as the caller owes it.
    unsafe { write(attribute, CK_ATTRIBUTE { ulValueLen: length, ..given }) }?;
    outcome
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_SetAttributeValue(
    session: CK_SESSION_HANDLE,
    object: CK_OBJECT_HANDLE,
    attributes: *mut CK_ATTRIBUTE,
    count: CK_ULONG,
) -> CK_RV {
    // SAFETY: as the caller owes it.
    in_session(session, |session| session.set(object, &unsafe { template(attributes, count) }?))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_FindObjectsInit(
    session: CK_SESSION_HANDLE,
    attributes: *mut CK_ATTRIBUTE,
    count: CK_ULONG,
) -> CK_RV {
    // SAFETY: as the caller owes it.
    in_session(session, |session| find::begin(session, &unsafe { template(attributes, count) }?))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_FindObjects(
    session: CK_SESSION_HANDLE,
    objects: *mut CK_OBJECT_HANDLE,
    most: CK_ULONG,
    count: *mut CK_ULONG,
) -> CK_RV {
    in_session(session, |session| {
        if count.is_null() || objects.is_null() && most != 0 {
            return Err(Rv(CKR_ARGUMENTS_BAD));
        }
        let found = find::next(session, usize::try_from(most).unwrap_or(usize::MAX))?;
        if !found.is_empty() {
            // SAFETY: there is room for `most`, as the caller owes it.
            unsafe { copy_out(&found, objects) };
        }
        // SAFETY: the same.
        unsafe { write(count, found.len() as CK_ULONG) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_FindObjectsFinal(session: CK_SESSION_HANDLE) -> CK_RV {
    in_session(session, find::end)
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_GenerateKey(
    session: CK_SESSION_HANDLE,
    by: *mut CK_MECHANISM,
    attributes: *mut CK_ATTRIBUTE,
    count: CK_ULONG,
    key: *mut CK_OBJECT_HANDLE,
) -> CK_RV {
    in_session(session, |session| {
        if key.is_null() {
            return Err(Rv(CKR_ARGUMENTS_BAD));
        }
        // SAFETY: as the caller owes it.
        let (by, template) = unsafe { (mechanism(by)?, template(attributes, count)?) };
        by.without_parameter()?;
        // SAFETY: the same.
        unsafe { write(key, session.generate(by.kind, &template)?) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_GenerateKeyPair(
    session: CK_SESSION_HANDLE,
    by: *mut CK_MECHANISM,
    public: *mut CK_ATTRIBUTE,
    public_count: CK_ULONG,
    private: *mut CK_ATTRIBUTE,
    private_count: CK_ULONG,
    public_key: *mut CK_OBJECT_HANDLE,
    private_key: *mut CK_OBJECT_HANDLE,
) -> CK_RV {
    in_session(session, |session| {
        if public_key.is_null() || private_key.is_null() {
            return Err(Rv(CKR_ARGUMENTS_BAD));
        }
        // SAFETY: as the caller owes it.
        let by = unsafe { mechanism(by) }?;
        by.without_parameter()?;
        // SAFETY: the same.
        let (public, private) = unsafe { (template(public, public_count)?, template(private, private_count)?) };
        let (public, private) = session.generate_pair(by.kind, &public, &private)?;
        // SAFETY: the same.
        unsafe { write(public_key, public).and(write(private_key, private)) }
    })
}

// ---- Operations -------------------------------------------------------------------------------------------------------

/// A function that begins an operation by a mechanism and a key. Without a mechanism it ends one, as version 3.0 has it.
macro_rules! begins {
    ($($name:ident, $kind:expr => $begin:expr;)*) => {$(
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name(
            session: CK_SESSION_HANDLE,
            by: *mut CK_MECHANISM,
            key: CK_OBJECT_HANDLE,
        ) -> CK_RV {
            in_session(session, |session| {
                let begin: fn(&Session, &Mechanism, CK_OBJECT_HANDLE) -> Result<(), Rv> = $begin;
                if by.is_null() {
                    return session.cancel($kind);
                }
                // SAFETY: as the caller owes it.
                begin(session, &unsafe { mechanism(by) }?, key)
            })
        }
    )*};
}

begins! {
    C_EncryptInit, CKF_ENCRYPT => Session::encrypt_init;
    C_DecryptInit, CKF_DECRYPT => Session::decrypt_init;
    C_SignInit, CKF_SIGN => Session::sign_init;
    C_VerifyInit, CKF_VERIFY => |session, by, key| session.verify_init(by, key, None);
}

/// A function that takes bytes and delivers bytes.
macro_rules! transforms {
    ($($name:ident, $kind:expr => $step:path;)*) => {$(
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name(
            session: CK_SESSION_HANDLE,
            data: *mut CK_BYTE,
            length: CK_ULONG,
            out: *mut CK_BYTE,
            out_length: *mut CK_ULONG,
        ) -> CK_RV {
            // SAFETY: as the caller owes it. The result is written when the data are no longer used, as it may go where
            // they are.
            unsafe {
                producing(session, out, out_length, |session, room| {
                    $step(session, input(session, $kind, data, length)?, room)
                })
            }
        }
    )*};
}

transforms! {
    C_Encrypt, CKF_ENCRYPT => Session::encrypt;
    C_EncryptUpdate, CKF_ENCRYPT => Session::encrypt_update;
    C_Decrypt, CKF_DECRYPT => Session::decrypt;
    C_DecryptUpdate, CKF_DECRYPT => Session::decrypt_update;
    C_Digest, CKF_DIGEST => Session::digest;
    C_Sign, CKF_SIGN => Session::sign;
}

/// A function that delivers bytes.
macro_rules! ends {
    ($($name:ident => $step:path;)*) => {$(
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name(
            session: CK_SESSION_HANDLE,
            out: *mut CK_BYTE,
            out_length: *mut CK_ULONG,
        ) -> CK_RV {
            // SAFETY: as the caller owes it.
            unsafe { producing(session, out, out_length, |session, room| $step(session, room)) }
        }
    )*};
}

ends! {
    C_EncryptFinal => Session::encrypt_final;
    C_DecryptFinal => Session::decrypt_final;
    C_DigestFinal => Session::digest_final;
    C_SignFinal => Session::sign_final;
}

/// A function that takes bytes.
macro_rules! takes {
    ($($name:ident, $kind:expr => $step:expr;)*) => {$(
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name(session: CK_SESSION_HANDLE, data: *mut CK_BYTE, length: CK_ULONG) -> CK_RV {
            in_session(session, |session| {
                let step: fn(&Session, &[u8]) -> Result<(), Rv> = $step;
                // SAFETY: as the caller owes it.
                step(session, unsafe { input(session, $kind, data, length) }?)
            })
        }
    )*};
}

takes! {
    C_DigestUpdate, CKF_DIGEST => Session::digest_update;
    C_SignUpdate, CKF_SIGN => Session::sign_update;
    C_VerifyUpdate, CKF_VERIFY => Session::verify_update;
    C_VerifyFinal, CKF_VERIFY => |session, signature| session.verify_final(Some(signature));
    C_VerifySignature, CKF_VERIFY => |session, data| session.verify(data, None);
    C_VerifySignatureUpdate, CKF_VERIFY => Session::verify_update;
    C_SeedRandom, 0 => |_, _| Err(Rv(CKR_RANDOM_SEED_NOT_SUPPORTED));
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_DigestInit(session: CK_SESSION_HANDLE, by: *mut CK_MECHANISM) -> CK_RV {
    in_session(session, |session| {
        if by.is_null() {
            return session.cancel(CKF_DIGEST);
        }
        // SAFETY: as the caller owes it.
        session.digest_init(&unsafe { mechanism(by) }?)
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_DigestKey(session: CK_SESSION_HANDLE, key: CK_OBJECT_HANDLE) -> CK_RV {
    in_session(session, |session| session.digest_key(key))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_Verify(
    session: CK_SESSION_HANDLE,
    data: *mut CK_BYTE,
    length: CK_ULONG,
    signature: *mut CK_BYTE,
    signature_length: CK_ULONG,
) -> CK_RV {
    in_session(session, |session| {
        // SAFETY: as the caller owes it.
        let (data, signature) = unsafe {
            (input(session, CKF_VERIFY, data, length)?, input(session, CKF_VERIFY, signature, signature_length)?)
        };
        session.verify(data, Some(signature))
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_VerifySignatureInit(
    session: CK_SESSION_HANDLE,
    by: *mut CK_MECHANISM,
    key: CK_OBJECT_HANDLE,
    signature: *mut CK_BYTE,
    length: CK_ULONG,
) -> CK_RV {
    in_session(session, |session| {
        if by.is_null() {
            return session.cancel(CKF_VERIFY);
        }
        // SAFETY: as the caller owes it.
        let (by, signature) = unsafe { (mechanism(by)?, bytes(signature, length)?) };
        session.verify_init(&by, key, Some(signature))
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_VerifySignatureFinal(session: CK_SESSION_HANDLE) -> CK_RV {
    in_session(session, |session| session.verify_final(None))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_GenerateRandom(session: CK_SESSION_HANDLE, out: *mut CK_BYTE, length: CK_ULONG) -> CK_RV {
    in_session(session, |session| {
        let length = usize::try_from(length).map_err(|_| Rv(CKR_ARGUMENTS_BAD))?;
        if length == 0 {
            return Ok(());
        }
        if out.is_null() {
            return Err(Rv(CKR_ARGUMENTS_BAD));
        }
        let random = random::bytes(session, length)?;
        // SAFETY: there is room, as the caller owes it.
        unsafe { copy_out(&random, out) };
        Ok(())
    })
}

/// Functions of versions before 2.0, for which the standard has this answer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_GetFunctionStatus(session: CK_SESSION_HANDLE) -> CK_RV {
    in_session(session, |_| Err(Rv(CKR_FUNCTION_NOT_PARALLEL)))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_CancelFunction(session: CK_SESSION_HANDLE) -> CK_RV {
    in_session(session, |_| Err(Rv(CKR_FUNCTION_NOT_PARALLEL)))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_GetSessionValidationFlags(
    session: CK_SESSION_HANDLE,
    kind: CK_SESSION_VALIDATION_FLAGS_TYPE,
    flags: *mut CK_FLAGS,
) -> CK_RV {
    in_session(session, |_| {
        if kind != CKS_LAST_VALIDATION_OK {
            return Err(Rv(CKR_ARGUMENTS_BAD));
        }
        // SAFETY: as the caller owes it. No validation is claimed.
        unsafe { write(flags, 0) }
    })
}

// ---- What is not offered ----------------------------------------------------------------------------------------------

/// Functions that answer `CKR_FUNCTION_NOT_SUPPORTED`, by the types of their arguments.
macro_rules! refuses {
    ($($name:ident($($argument:ty),*);)*) => {$(
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name($(_: $argument),*) -> CK_RV {
            not_supported()
        }
    )*};
}

type Handle = CK_SESSION_HANDLE;
type Key = CK_OBJECT_HANDLE;
type By = *mut CK_MECHANISM;
type Bytes = *mut CK_BYTE;
type Void = *mut c_void;
type Length = CK_ULONG;
type LengthOut = *mut CK_ULONG;
type Attributes = *mut CK_ATTRIBUTE;
type KeyOut = *mut CK_OBJECT_HANDLE;

refuses! {
    C_SignRecoverInit(Handle, By, Key);
    C_SignRecover(Handle, Bytes, Length, Bytes, LengthOut);
    C_VerifyRecoverInit(Handle, By, Key);
    C_VerifyRecover(Handle, Bytes, Length, Bytes, LengthOut);
    C_DigestEncryptUpdate(Handle, Bytes, Length, Bytes, LengthOut);
    C_DecryptDigestUpdate(Handle, Bytes, Length, Bytes, LengthOut);
    C_SignEncryptUpdate(Handle, Bytes, Length, Bytes, LengthOut);
    C_DecryptVerifyUpdate(Handle, Bytes, Length, Bytes, LengthOut);
    C_WrapKey(Handle, By, Key, Key, Bytes, LengthOut);
    C_UnwrapKey(Handle, By, Key, Bytes, Length, Attributes, Length, KeyOut);
    C_DeriveKey(Handle, By, Key, Attributes, Length, KeyOut);
    C_MessageEncryptInit(Handle, By, Key);
    C_EncryptMessage(Handle, Void, Length, Bytes, Length, Bytes, Length, Bytes, LengthOut);
    C_EncryptMessageBegin(Handle, Void, Length, Bytes, Length);
    C_EncryptMessageNext(Handle, Void, Length, Bytes, Length, Bytes, LengthOut, CK_FLAGS);
    C_MessageEncryptFinal(Handle);
    C_MessageDecryptInit(Handle, By, Key);
    C_DecryptMessage(Handle, Void, Length, Bytes, Length, Bytes, Length, Bytes, LengthOut);
    C_DecryptMessageBegin(Handle, Void, Length, Bytes, Length);
    C_DecryptMessageNext(Handle, Void, Length, Bytes, Length, Bytes, LengthOut, CK_FLAGS);
    C_MessageDecryptFinal(Handle);
    C_MessageSignInit(Handle, By, Key);
    C_SignMessage(Handle, Void, Length, Bytes, Length, Bytes, LengthOut);
    C_SignMessageBegin(Handle, Void, Length);
    C_SignMessageNext(Handle, Void, Length, Bytes, Length, Bytes, LengthOut);
    C_MessageSignFinal(Handle);
    C_MessageVerifyInit(Handle, By, Key);
    C_VerifyMessage(Handle, Void, Length, Bytes, Length, Bytes, Length);
    C_VerifyMessageBegin(Handle, Void, Length);
    C_VerifyMessageNext(Handle, Void, Length, Bytes, Length, Bytes, Length);
    C_MessageVerifyFinal(Handle);
    C_EncapsulateKey(Handle, By, Key, Attributes, Length, Bytes, LengthOut, KeyOut);
    C_DecapsulateKey(Handle, By, Key, Attributes, Length, Bytes, Length, KeyOut);
    C_AsyncComplete(Handle, *mut CK_UTF8CHAR, *mut CK_ASYNC_DATA);
    C_AsyncGetID(Handle, *mut CK_UTF8CHAR, LengthOut);
    C_AsyncJoin(Handle, *mut CK_UTF8CHAR, Length, Bytes, Length);
    C_WrapKeyAuthenticated(Handle, By, Key, Key, Bytes, Length, Bytes, LengthOut);
    C_UnwrapKeyAuthenticated(Handle, By, Key, Bytes, Length, Attributes, Length, Bytes, Length, KeyOut);
}

// ---- The tables -------------------------------------------------------------------------------------------------------

/// A table, by the functions that its version of the standard has.
macro_rules! table {
    ($table:ident, $major:literal, $minor:literal; $($name:ident)*) => {
        $table {
            version: CK_VERSION { major: $major, minor: $minor },
            $($name: Some($name),)*
        }
    };
}

/// A table of the functions of 2.40, and of those that follow them.
macro_rules! table_from_2_40 {
    ($table:ident, $major:literal, $minor:literal; $($more:ident)*) => {
        table! { $table, $major, $minor;
            C_Initialize C_Finalize C_GetInfo C_GetFunctionList C_GetSlotList C_GetSlotInfo C_GetTokenInfo
            C_GetMechanismList C_GetMechanismInfo C_InitToken C_InitPIN C_SetPIN C_OpenSession C_CloseSession
            C_CloseAllSessions C_GetSessionInfo C_GetOperationState C_SetOperationState C_Login C_Logout
            C_CreateObject C_CopyObject C_DestroyObject C_GetObjectSize C_GetAttributeValue C_SetAttributeValue
            C_FindObjectsInit C_FindObjects C_FindObjectsFinal C_EncryptInit C_Encrypt C_EncryptUpdate C_EncryptFinal
            C_DecryptInit C_Decrypt C_DecryptUpdate C_DecryptFinal C_DigestInit C_Digest C_DigestUpdate C_DigestKey
            C_DigestFinal C_SignInit C_Sign C_SignUpdate C_SignFinal C_SignRecoverInit C_SignRecover C_VerifyInit
            C_Verify C_VerifyUpdate C_VerifyFinal C_VerifyRecoverInit C_VerifyRecover C_DigestEncryptUpdate
            C_DecryptDigestUpdate C_SignEncryptUpdate C_DecryptVerifyUpdate C_GenerateKey C_GenerateKeyPair C_WrapKey
            C_UnwrapKey C_DeriveKey C_SeedRandom C_GenerateRandom C_GetFunctionStatus C_CancelFunction
            C_WaitForSlotEvent $($more)*
        }
    };
}

/// A table of the functions of 3.0, and of those that follow them.
macro_rules! table_from_3_0 {
    ($table:ident, $major:literal, $minor:literal; $($more:ident)*) => {
        table_from_2_40! { $table, $major, $minor;
            C_GetInterfaceList C_GetInterface C_LoginUser C_SessionCancel C_MessageEncryptInit C_EncryptMessage
            C_EncryptMessageBegin C_EncryptMessageNext C_MessageEncryptFinal C_MessageDecryptInit C_DecryptMessage
            C_DecryptMessageBegin C_DecryptMessageNext C_MessageDecryptFinal C_MessageSignInit C_SignMessage
            C_SignMessageBegin C_SignMessageNext C_MessageSignFinal C_MessageVerifyInit C_VerifyMessage
            C_VerifyMessageBegin C_VerifyMessageNext C_MessageVerifyFinal $($more)*
        }
    };
}

static V2_40: CK_FUNCTION_LIST = table_from_2_40! { CK_FUNCTION_LIST, 2, 40; };
static V3_0: CK_FUNCTION_LIST_3_0 = table_from_3_0! { CK_FUNCTION_LIST_3_0, 3, 0; };
static V3_1: CK_FUNCTION_LIST_3_0 = table_from_3_0! { CK_FUNCTION_LIST_3_0, 3, 1; };
static V3_2: CK_FUNCTION_LIST_3_2 = table_from_3_0! { CK_FUNCTION_LIST_3_2, 3, 2;
    C_EncapsulateKey C_DecapsulateKey C_VerifySignatureInit C_VerifySignature C_VerifySignatureUpdate
    C_VerifySignatureFinal C_GetSessionValidationFlags C_AsyncComplete C_AsyncGetID C_AsyncJoin
    C_WrapKeyAuthenticated C_UnwrapKeyAuthenticated
};

/// The interfaces with their versions, the default one first.
struct Interfaces([(CK_INTERFACE, CK_VERSION); 4]);

// SAFETY: the pointers lead to tables that never change.
unsafe impl Sync for Interfaces {}

static INTERFACES: Interfaces = Interfaces([
    (interface(&raw const V3_2), CK_VERSION { major: 3, minor: 2 }),
    (interface(&raw const V3_1), CK_VERSION { major: 3, minor: 1 }),
    (interface(&raw const V3_0), CK_VERSION { major: 3, minor: 0 }),
    (interface(&raw const V2_40), CK_VERSION { major: 2, minor: 40 }),
]);

/// Without `CKF_INTERFACE_FORK_SAFE`, which promises that sessions and logins outlive a fork: a child initialises the module
/// again.
const fn interface<T>(table: *const T) -> CK_INTERFACE {
    CK_INTERFACE { pInterfaceName: NAME.as_ptr().cast_mut().cast(), pFunctionList: table.cast_mut().cast(), flags: 0 }
}

const NAME: &std::ffi::CStr = c"PKCS 11";
