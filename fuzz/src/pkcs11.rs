//! The PKCS#11 module: its boundary to C, and its configuration files.
//!
//! The only `unsafe` of the targets: bytes become a sequence of calls, with templates, mechanisms, lengths that cannot be, and
//! null. What a pointer leads to is as long as its length says and not longer, so that an address sanitizer sees what is read
//! behind it; a length that cannot be is one that the module must refuse. Nothing listens where its HSM should be.

#![allow(unsafe_code, reason = "calls of a C interface")]

use std::path::Path;
use std::ptr;
use std::sync::Once;

use casemate_pkcs11::config::{self, Form};
use casemate_pkcs11::functions::*;
use cryptoki_sys::*;

/// Configuration files: the first byte says which of the two.
pub fn configuration(bytes: &[u8]) {
    let Some((form, text)) = bytes.split_first() else { return };
    let Ok(text) = std::str::from_utf8(text) else { return };
    let form = if form % 2 == 0 { Form::Own } else { Form::NetHsm };
    match config::parse(form, Path::new("FILE"), text) {
        Ok(configuration) => {
            // Passphrases and those who know them are not printed.
            assert!(!format!("{configuration:?}").contains("passphrase of the seed"));
        }
        Err(why) => {
            // The sentence goes into a log, where a line is a sentence.
            let sentence = why.to_string();
            assert!(sentence.starts_with("FILE") && !sentence.contains(['\n', '\r']), "{sentence:?}");
        }
    }
}

/// Calls of the module.
pub fn boundary(bytes: &[u8]) {
    initialize();
    let mut calls = Calls { left: bytes, sessions: [0; 4], objects: [0; 8] };
    for session in 0..2 {
        let flags = CKF_SERIAL_SESSION | CKF_RW_SESSION;
        // SAFETY: there is room for a handle.
        let rv = unsafe { C_OpenSession(0, flags, ptr::null_mut(), None, &raw mut calls.sessions[session]) };
        assert_eq!(rv, CKR_OK);
    }
    // No input needs more, and each call may take milliseconds.
    for _ in 0..200 {
        if calls.left.is_empty() {
            break;
        }
        let which = calls.byte();
        let rv = calls.call(which);
        assert_ne!(rv, CKR_GENERAL_ERROR, "call {which} has panicked");
    }
    // SAFETY: no pointers.
    assert_eq!(unsafe { C_CloseAllSessions(0) }, CKR_OK);
}

/// Initialises the module once, with a slot whose HSM is nowhere.
fn initialize() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let path = std::env::temp_dir().join(format!("casemate-fuzz-{}.toml", std::process::id()));
        let slot = "[[slot]]\nlabel = \"x\"\nhosts = [\"127.0.0.1:1\"]\ninsecure = true\noperator = { user = \"x\" }\n";
        std::fs::write(&path, slot).expect("the temporary folder can be written");
        // SAFETY: nothing else runs in this process yet.
        unsafe { std::env::set_var("CASEMATE_PKCS11_CONFIG", &path) };
        // SAFETY: null is allowed.
        assert_eq!(unsafe { C_Initialize(ptr::null_mut()) }, CKR_OK);
        std::fs::remove_file(&path).expect("the file can be removed");
    });
}

/// What the bytes that are left tell, and which handles there are.
struct Calls<'a> {
    left: &'a [u8],
    sessions: [CK_SESSION_HANDLE; 4],
    objects: [CK_OBJECT_HANDLE; 8],
}

/// Bytes behind a pointer, or a pointer and a length that are no bytes.
struct Given {
    pointer: *mut u8,
    length: CK_ULONG,
    /// What it leads to.
    _bytes: Box<[u8]>,
}

impl Given {
    fn of(bytes: Vec<u8>) -> Self {
        let mut bytes = bytes.into_boxed_slice();
        Self { pointer: bytes.as_mut_ptr(), length: bytes.len() as CK_ULONG, _bytes: bytes }
    }
}

/// Attributes, with what they lead to.
struct Attributes {
    raw: Vec<CK_ATTRIBUTE>,
    count: CK_ULONG,
    _values: Vec<Given>,
}

impl Attributes {
    fn pointer(&mut self) -> *mut CK_ATTRIBUTE {
        if self.raw.is_empty() { ptr::null_mut() } else { self.raw.as_mut_ptr() }
    }
}

/// A mechanism, with its parameter.
struct By {
    raw: CK_MECHANISM,
    null: bool,
    _parameter: Given,
}

impl By {
    fn pointer(&mut self) -> *mut CK_MECHANISM {
        if self.null { ptr::null_mut() } else { &raw mut self.raw }
    }
}

/// Room for a result, with a fence behind it.
struct Room {
    bytes: Vec<u8>,
    length: CK_ULONG,
    room: usize,
    null: bool,
    without_length: bool,
}

const FENCE: [u8; 16] = [0xa5; 16];

impl Room {
    fn pointer(&mut self) -> *mut u8 {
        if self.null { ptr::null_mut() } else { self.bytes.as_mut_ptr() }
    }

    fn length(&mut self) -> *mut CK_ULONG {
        if self.without_length { ptr::null_mut() } else { &raw mut self.length }
    }

    /// What holds after a call.
    fn check(&self, rv: CK_RV) -> CK_RV {
        assert!(self.bytes.ends_with(&FENCE), "more was written than there is room for");
        let fits = self.length as usize <= self.room;
        assert!(rv != CKR_OK || self.null || fits, "more was delivered than there is room for");
        assert!(rv != CKR_BUFFER_TOO_SMALL || !self.null && !fits, "there is enough room");
        rv
    }
}

impl Calls<'_> {
    fn byte(&mut self) -> u8 {
        let Some((first, left)) = self.left.split_first() else { return 0 };
        self.left = left;
        *first
    }

    fn taken(&mut self, count: usize) -> Vec<u8> {
        let (taken, left) = self.left.split_at(count.min(self.left.len()));
        self.left = left;
        taken.to_vec()
    }

    fn one_of(&mut self, from: &[CK_ULONG]) -> CK_ULONG {
        match usize::from(self.byte()) {
            255 => CK_ULONG::MAX,
            254 => CK_ULONG::from(self.byte()),
            at => from[at % from.len()],
        }
    }

    fn session(&mut self) -> CK_SESSION_HANDLE {
        match self.byte() {
            255 => 12345,
            at => self.sessions[usize::from(at) % self.sessions.len()],
        }
    }

    fn object(&mut self) -> CK_OBJECT_HANDLE {
        match self.byte() {
            255 => 12345,
            at => self.objects[usize::from(at) % self.objects.len()],
        }
    }

    fn new_object(&mut self) -> *mut CK_OBJECT_HANDLE {
        match self.byte() {
            255 => ptr::null_mut(),
            at => &raw mut self.objects[usize::from(at) % 8],
        }
    }

    fn impossible(&mut self) -> CK_ULONG {
        CK_ULONG::MAX >> (self.byte() % 16)
    }

    fn bytes(&mut self) -> Given {
        let mut given = Given::of(Vec::new());
        match self.byte() {
            255 => (given.pointer, given.length) = (ptr::null_mut(), 0),
            254 => (given.pointer, given.length) = (ptr::null_mut(), self.byte().into()),
            253 => given.length = self.impossible(),
            // More than any buffer of one block.
            252 => {
                let length = 97 * usize::from(self.byte());
                given = Given::of(vec![self.byte(); length]);
            }
            length => given = Given::of(self.taken(length.into())),
        }
        given
    }

    /// The value of an attribute.
    fn value(&mut self) -> Given {
        match self.byte() {
            0..64 => Given::of(vec![self.byte() % 3]),
            64..128 => Given::of(self.one_of(NUMBERS).to_ne_bytes().to_vec()),
            _ => self.bytes(),
        }
    }

    fn attributes(&mut self) -> Attributes {
        let count = match self.byte() {
            255 => return Attributes { raw: Vec::new(), count: self.impossible(), _values: Vec::new() },
            count => count % 16,
        };
        let (mut raw, mut values) = (Vec::new(), Vec::new());
        for _ in 0..count {
            let type_ = self.one_of(ATTRIBUTES);
            let value = self.value();
            raw.push(CK_ATTRIBUTE { type_, pValue: value.pointer.cast(), ulValueLen: value.length });
            values.push(value);
        }
        Attributes { count: raw.len() as CK_ULONG, raw, _values: values }
    }

    fn mechanism(&mut self) -> By {
        let mechanism = self.one_of(MECHANISMS);
        let mut words = |from: &[&[CK_ULONG]]| -> Given {
            let words = from.iter().flat_map(|from| self.one_of(from).to_ne_bytes());
            Given::of(words.collect())
        };
        let null = mechanism == CK_ULONG::MAX;
        let parameter = match mechanism {
            CKM_RSA_PKCS_PSS
            | CKM_SHA1_RSA_PKCS_PSS
            | CKM_SHA224_RSA_PKCS_PSS
            | CKM_SHA256_RSA_PKCS_PSS
            | CKM_SHA384_RSA_PKCS_PSS
            | CKM_SHA512_RSA_PKCS_PSS => words(&[MECHANISMS, MASKS, LENGTHS]),
            // Of a source that is null, with any length.
            CKM_RSA_PKCS_OAEP => words(&[MECHANISMS, MASKS, &[0, 1], &[0], LENGTHS]),
            CKM_EDDSA => words(&[&[0, 1], LENGTHS, &[0]]),
            CKM_AES_CBC | CKM_AES_CBC_PAD if self.byte() < 128 => Given::of(vec![7; 16]),
            _ => self.bytes(),
        };
        let raw = CK_MECHANISM { mechanism, pParameter: parameter.pointer.cast(), ulParameterLen: parameter.length };
        By { raw, null, _parameter: parameter }
    }

    fn room(&mut self) -> Room {
        let size = self.byte();
        let (null, without_length) = (size == 0, size == 255);
        let room = 4 * usize::from(size);
        let bytes = [vec![0; room], FENCE.to_vec()].concat();
        Room { bytes, length: room as CK_ULONG, room, null, without_length }
    }

    /// One call.
    fn call(&mut self, which: u8) -> CK_RV {
        let session = self.session();
        // SAFETY: what pointers lead to lives until the end of this function, and is as long as the lengths say, unless a length
        // is more than the module takes.
        unsafe {
            match which % 44 {
                0 => C_SessionCancel(session, self.one_of(NUMBERS)),
                1 => {
                    let at = usize::from(self.byte()) % 4;
                    // Not too many: they stay open until the input ends.
                    if self.sessions[at] != 0 {
                        C_CloseSession(self.sessions[at]);
                    }
                    let flags = self.one_of(&[CKF_SERIAL_SESSION | CKF_RW_SESSION, CKF_SERIAL_SESSION, 0]);
                    let slot = self.one_of(&[0, 0, 0, 1]);
                    C_OpenSession(slot, flags, ptr::null_mut(), None, &raw mut self.sessions[at])
                }
                2 => C_CloseSession(session),
                3..=6 => {
                    let mut template = self.attributes();
                    C_CreateObject(session, template.pointer(), template.count, self.new_object())
                }
                7 => {
                    let (object, mut template) = (self.object(), self.attributes());
                    C_CopyObject(session, object, template.pointer(), template.count, self.new_object())
                }
                8 => C_DestroyObject(session, self.object()),
                9 => {
                    let mut size = 0;
                    C_GetObjectSize(session, self.object(), &raw mut size)
                }
                10 | 11 => {
                    let (object, mut template) = (self.object(), self.attributes());
                    C_GetAttributeValue(session, object, template.pointer(), template.count)
                }
                12 => {
                    let (object, mut template) = (self.object(), self.attributes());
                    C_SetAttributeValue(session, object, template.pointer(), template.count)
                }
                13 => {
                    let mut template = self.attributes();
                    C_FindObjectsInit(session, template.pointer(), template.count)
                }
                14 => {
                    let mut count = 0;
                    let rv = C_FindObjects(session, self.objects.as_mut_ptr(), 8, &raw mut count);
                    assert!(rv != CKR_OK || count <= 8);
                    rv
                }
                15 => C_FindObjectsFinal(session),
                16 => {
                    let mut by = self.mechanism();
                    let mut template = self.attributes();
                    C_GenerateKey(session, by.pointer(), template.pointer(), template.count, self.new_object())
                }
                17 => {
                    let (mut by, mut public, mut private) = (self.mechanism(), self.attributes(), self.attributes());
                    let (one, other) = (self.new_object(), self.new_object());
                    let (publics, privates) = (public.count, private.count);
                    C_GenerateKeyPair(
                        session,
                        by.pointer(),
                        public.pointer(),
                        publics,
                        private.pointer(),
                        privates,
                        one,
                        other,
                    )
                }
                18..=21 => {
                    let begin = [C_EncryptInit, C_DecryptInit, C_SignInit, C_VerifyInit][usize::from(which % 44 - 18)];
                    let (mut by, key) = (self.mechanism(), self.object());
                    begin(session, by.pointer(), key)
                }
                22 => C_DigestInit(session, self.mechanism().pointer()),
                23..=28 => {
                    let steps = [C_Encrypt, C_Decrypt, C_Sign, C_Digest, C_EncryptUpdate, C_DecryptUpdate];
                    let (data, mut room) = (self.bytes(), self.room());
                    let (out, length) = (room.pointer(), room.length());
                    let rv = steps[usize::from(which % 44 - 23)](session, data.pointer, data.length, out, length);
                    room.check(rv)
                }
                29..=32 => {
                    let ends = [C_EncryptFinal, C_DecryptFinal, C_SignFinal, C_DigestFinal];
                    let mut room = self.room();
                    let (out, length) = (room.pointer(), room.length());
                    let rv = ends[usize::from(which % 44 - 29)](session, out, length);
                    room.check(rv)
                }
                33..=36 => {
                    let takes = [C_SignUpdate, C_VerifyUpdate, C_DigestUpdate, C_VerifyFinal];
                    let data = self.bytes();
                    takes[usize::from(which % 44 - 33)](session, data.pointer, data.length)
                }
                37 => {
                    let (data, signature) = (self.bytes(), self.bytes());
                    C_Verify(session, data.pointer, data.length, signature.pointer, signature.length)
                }
                38 => C_DigestKey(session, self.object()),
                39 => {
                    let (mut by, key, signature) = (self.mechanism(), self.object(), self.bytes());
                    C_VerifySignatureInit(session, by.pointer(), key, signature.pointer, signature.length)
                }
                40 => {
                    let data = self.bytes();
                    C_VerifySignature(session, data.pointer, data.length)
                }
                41 => {
                    let mut info = CK_MECHANISM_INFO::default();
                    C_GetMechanismInfo(0, self.one_of(MECHANISMS), &raw mut info)
                }
                42 => C_Logout(session),
                _ => {
                    let (user, pin) = (self.one_of(&[CKU_USER, CKU_SO, CKU_CONTEXT_SPECIFIC]), self.bytes());
                    C_Login(session, user, pin.pointer, pin.length)
                }
            }
        }
    }
}

const ATTRIBUTES: &[CK_ULONG] = &[
    CKA_CLASS,
    CKA_TOKEN,
    CKA_PRIVATE,
    CKA_LABEL,
    CKA_VALUE,
    CKA_CERTIFICATE_TYPE,
    CKA_ID,
    CKA_KEY_TYPE,
    CKA_SIGN,
    CKA_VERIFY,
    CKA_ENCRYPT,
    CKA_DECRYPT,
    CKA_MODULUS,
    CKA_PUBLIC_EXPONENT,
    CKA_MODULUS_BITS,
    CKA_VALUE_LEN,
    CKA_EC_PARAMS,
    CKA_EC_POINT,
    CKA_SENSITIVE,
    CKA_EXTRACTABLE,
    CKA_ALLOWED_MECHANISMS,
    CKA_SUBJECT,
    CKA_ISSUER,
    CKA_SERIAL_NUMBER,
    CKA_PRIVATE_EXPONENT,
    CKA_PRIME_1,
    CKA_PRIME_2,
    CKA_START_DATE,
    CKA_UNIQUE_ID,
    CKA_WRAP_TEMPLATE,
    CKA_APPLICATION,
];

const NUMBERS: &[CK_ULONG] = &[
    CKO_DATA,
    CKO_CERTIFICATE,
    CKO_PUBLIC_KEY,
    CKO_PRIVATE_KEY,
    CKO_SECRET_KEY,
    CKK_GENERIC_SECRET,
    CKK_AES,
    CKK_EC_EDWARDS,
    16,
    32,
    2048,
    CKF_SIGN,
    CKF_VERIFY,
    CKF_FIND_OBJECTS,
];

const LENGTHS: &[CK_ULONG] = &[0, 20, 28, 32, 48, 64, 1 << 40];

const MASKS: &[CK_ULONG] = &[CKG_MGF1_SHA1, CKG_MGF1_SHA224, CKG_MGF1_SHA256, CKG_MGF1_SHA384, CKG_MGF1_SHA512];

const MECHANISMS: &[CK_ULONG] = &[
    CKM_SHA_1,
    CKM_SHA224,
    CKM_SHA256,
    CKM_SHA384,
    CKM_SHA512,
    CKM_SHA_1_HMAC,
    CKM_SHA256_HMAC,
    CKM_SHA512_HMAC,
    CKM_AES_CBC,
    CKM_AES_CBC_PAD,
    CKM_RSA_PKCS,
    CKM_RSA_X_509,
    CKM_SHA256_RSA_PKCS,
    CKM_RSA_PKCS_PSS,
    CKM_SHA1_RSA_PKCS_PSS,
    CKM_SHA256_RSA_PKCS_PSS,
    CKM_RSA_PKCS_OAEP,
    CKM_ECDSA,
    CKM_ECDSA_SHA1,
    CKM_ECDSA_SHA512,
    CKM_EDDSA,
    CKM_AES_KEY_GEN,
    CKM_GENERIC_SECRET_KEY_GEN,
    CKM_RSA_PKCS_KEY_PAIR_GEN,
    CKM_EC_KEY_PAIR_GEN,
];
