//! Objects of a real server: what is found, created, changed and destroyed.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]

use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use casemate_api::body::keys::{GenerateKey, ImportKey, Sign};
use casemate_api::body::users::NewUser;
use casemate_api::{KeyType, Mechanism, Role, SignMode, UserId};
use casemate_client::{Client, Session, Settings, Trust};
use casemate_pkcs11::config::CertificateFormat;
use casemate_pkcs11::objects::{Access, AttributeError, Objects, PublicKey, Template};
use casemate_pkcs11::rv::Rv;
use casemate_testkit::{Hsm, admin, ed25519, key, operator, secret};
use cryptoki_sys::*;

/// A server, and the objects that one process knows of it.
struct World {
    admin: Session,
    operator: Session,
    objects: Objects,
    hsm: Hsm,
}

type Attribute<'a> = (CK_ATTRIBUTE_TYPE, &'a [u8]);

const TRUE: &[u8] = &[CK_TRUE];
const FALSE: &[u8] = &[CK_FALSE];
const RSA: [u8; 8] = CKK_RSA.to_ne_bytes();
const EC: [u8; 8] = CKK_EC.to_ne_bytes();
const AES: [u8; 8] = CKK_AES.to_ne_bytes();
const PRIVATE: [u8; 8] = CKO_PRIVATE_KEY.to_ne_bytes();
const PUBLIC: [u8; 8] = CKO_PUBLIC_KEY.to_ne_bytes();
const SECRET: [u8; 8] = CKO_SECRET_KEY.to_ne_bytes();
const CERTIFICATE: [u8; 8] = CKO_CERTIFICATE.to_ne_bytes();
/// `CKA_EC_PARAMS` of P-256.
const P256: &[u8] = b"\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07";
/// Nothing is found.
const NONE: [CK_OBJECT_HANDLE; 0] = [];
/// The session of the application.
const SESSION: CK_SESSION_HANDLE = 7;

fn template(attributes: &[Attribute<'_>]) -> Template {
    Template::new(attributes.iter().map(|(attribute, value)| (*attribute, value.to_vec().into())).collect())
}

impl World {
    fn new() -> Self {
        let hsm = Hsm::operational();
        let client = hsm.client();
        let objects = Objects::new(CertificateFormat::Pem);
        Self { admin: admin(&client), operator: operator(&client), objects, hsm }
    }

    fn access(&self) -> Access<'_> {
        Access { operator: Some(&self.operator), administrator: Some(&self.admin) }
    }

    fn on_server(&self, id: &str, key_type: KeyType, length: i64, mechanisms: &[Mechanism], label: &str) {
        let request = GenerateKey {
            mechanisms: mechanisms.to_vec(),
            key_type,
            length,
            id: id.into(),
            restrictions: Default::default(),
            label: label.into(),
        };
        self.admin.keys().generate(&request).unwrap();
    }

    /// As another process finds it.
    fn elsewhere(&self, attributes: &[Attribute<'_>]) -> usize {
        let objects = Objects::new(CertificateFormat::Pem);
        objects.find(&self.access(), &template(attributes), true).unwrap().len()
    }

    fn find(&self, attributes: &[Attribute<'_>]) -> Vec<CK_OBJECT_HANDLE> {
        self.objects.find(&self.access(), &template(attributes), true).unwrap()
    }

    fn one(&self, attributes: &[Attribute<'_>]) -> CK_OBJECT_HANDLE {
        let found = self.find(attributes);
        assert_eq!(found.len(), 1, "{attributes:?}");
        found[0]
    }

    fn value(&self, handle: CK_OBJECT_HANDLE, attribute: CK_ATTRIBUTE_TYPE) -> Result<Vec<u8>, AttributeError> {
        let object = self.objects.object(handle).unwrap();
        self.objects.attribute(&self.access(), &object, attribute)
    }

    fn pair(&self, public: &[Attribute<'_>], private: &[Attribute<'_>]) -> (CK_OBJECT_HANDLE, CK_OBJECT_HANDLE) {
        let (public, private) = (template(public), template(private));
        self.objects.generate_pair(&self.access(), SESSION, CKM_EC_KEY_PAIR_GEN, &public, &private).unwrap()
    }

    fn create(&self, attributes: &[Attribute<'_>]) -> Result<CK_OBJECT_HANDLE, Rv> {
        self.objects.create(&self.access(), SESSION, &template(attributes))
    }

    fn set(&self, handle: CK_OBJECT_HANDLE, attributes: &[Attribute<'_>]) -> Result<(), Rv> {
        self.objects.set(&self.access(), handle, &template(attributes))
    }

    fn destroy(&self, handle: CK_OBJECT_HANDLE) -> Result<(), Rv> {
        self.objects.destroy(&self.access(), handle)
    }

    fn ids(&self) -> Vec<String> {
        self.admin.keys().list(&Default::default()).unwrap().into_iter().map(|item| item.id).collect()
    }
}

#[test]
fn keys_of_the_server_are_found_by_id_label_class_and_type() {
    let world = World::new();
    world.on_server("web", KeyType::EC_P256, 0, &[Mechanism::ECDSA_Signature], "");
    world.on_server("0---01ff", KeyType::RSA, 1024, &[Mechanism::RSA_Signature_PKCS1], "signing");
    world.on_server("aes", KeyType::Generic, 256, &[Mechanism::AES_Encryption_CBC], "");
    assert_eq!(world.find(&[]).len(), 5, "two pairs and a secret key");
    assert_eq!(world.find(&[(CKA_CLASS, &PRIVATE)]).len(), 2);
    assert_eq!(world.find(&[(CKA_CLASS, &PUBLIC), (CKA_KEY_TYPE, &RSA)]).len(), 1);
    let private = world.one(&[(CKA_CLASS, &PRIVATE), (CKA_ID, &[1, 0xff])]);
    assert_eq!(world.value(private, CKA_LABEL).unwrap(), b"signing");
    assert_eq!(world.value(private, CKA_ID).unwrap(), [1, 0xff]);
    assert_eq!(world.one(&[(CKA_CLASS, &PRIVATE), (CKA_LABEL, b"signing")]), private);
    assert_eq!(world.find(&[(CKA_LABEL, b"web")]).len(), 2, "the id stands for a label that is not there");
    assert_eq!(world.find(&[(CKA_LABEL, b"nothing")]), NONE);
    assert_eq!(world.find(&[(CKA_LABEL, &[b'x'; 40])]), NONE);
    assert_eq!(world.find(&[(CKA_ID, b"nothing")]), NONE);
    assert_eq!(world.find(&[(CKA_ID, b"")]), NONE);
    let modulus = world.value(private, CKA_MODULUS).unwrap();
    let public = world.one(&[(CKA_CLASS, &PUBLIC), (CKA_MODULUS, &[&[0][..], &modulus].concat())]);
    assert_eq!(world.value(public, CKA_MODULUS_BITS).unwrap(), 1024_u64.to_ne_bytes());
    let point = world.value(world.one(&[(CKA_CLASS, &PRIVATE), (CKA_ID, b"web")]), CKA_EC_POINT).unwrap();
    assert_eq!(world.find(&[(CKA_CLASS, &PUBLIC), (CKA_EC_POINT, &point[2..]), (CKA_EC_PARAMS, P256)]).len(), 1);
    let secret = world.one(&[(CKA_CLASS, &SECRET), (CKA_KEY_TYPE, &AES)]);
    assert_eq!(world.value(secret, CKA_VALUE), Err(AttributeError::Sensitive));
    assert_eq!(world.value(secret, CKA_VALUE_LEN), Err(AttributeError::Unknown), "the server does not tell");
    assert_eq!(
        (world.value(secret, CKA_ENCRYPT).unwrap(), world.value(secret, CKA_DECRYPT).unwrap()),
        (TRUE.into(), FALSE.into())
    );
    assert_eq!(world.find(&[(CKA_CLASS, &CKO_PROFILE.to_ne_bytes())]).len(), 2);
}

#[test]
fn without_a_login_private_objects_are_hidden_and_without_credentials_all_of_the_server() {
    let world = World::new();
    world.on_server("web", KeyType::EC_P256, 0, &[Mechanism::ECDSA_Signature], "");
    let public = world.objects.find(&world.access(), &template(&[]), false).unwrap();
    assert_eq!(public.len(), 1);
    assert_eq!(world.objects.object(public[0]).unwrap().class(), CKO_PUBLIC_KEY);
    let nobody = Access { operator: None, administrator: None };
    assert_eq!(world.objects.find(&nobody, &template(&[]), true).unwrap(), NONE);
    let private = world.one(&[(CKA_CLASS, &PRIVATE)]);
    world.objects.logout(&nobody);
    assert_eq!(world.objects.object(private).err(), Some(Rv(CKR_OBJECT_HANDLE_INVALID)));
    assert!(world.objects.object(public[0]).is_ok());
    assert_ne!(world.one(&[(CKA_CLASS, &PRIVATE)]), private, "a handle is never used again");
}

#[test]
fn what_others_change_on_the_server_is_seen() {
    let world = World::new();
    world.on_server("a", KeyType::EC_P256, 0, &[Mechanism::ECDSA_Signature], "");
    let first = world.one(&[(CKA_CLASS, &PRIVATE), (CKA_ID, b"a")]);
    world.admin.keys().set_label(&key("a"), "renamed").unwrap();
    assert_eq!(world.one(&[(CKA_CLASS, &PRIVATE), (CKA_LABEL, b"renamed")]), first);
    world.admin.keys().delete(&key("a")).unwrap();
    world.on_server("a", KeyType::EC_P256, 0, &[Mechanism::ECDSA_Signature], "");
    assert_ne!(world.one(&[(CKA_CLASS, &PRIVATE), (CKA_ID, b"a")]), first, "it is another key");
    assert!(world.objects.object(first).is_err());
    world.admin.keys().delete(&key("a")).unwrap();
    assert_eq!(world.find(&[]), NONE);
}

#[test]
fn generated_pairs_have_the_names_of_either_template_and_can_be_renamed() {
    let world = World::new();
    let (public, private) = world.pair(
        &[(CKA_EC_PARAMS, P256), (CKA_TOKEN, TRUE), (CKA_ID, &[1, 2])],
        &[(CKA_TOKEN, TRUE), (CKA_LABEL, b"web"), (CKA_SENSITIVE, TRUE)],
    );
    assert_eq!(world.ids(), ["0---0102"]);
    for handle in [public, private] {
        assert_eq!(world.value(handle, CKA_ID).unwrap(), [1, 2]);
        assert_eq!(world.value(handle, CKA_LABEL).unwrap(), b"web");
        assert_eq!(world.value(handle, CKA_LOCAL).unwrap(), TRUE);
    }
    let object = world.objects.object(private).unwrap();
    assert!(matches!(object.public_key(), Some(PublicKey::Ec { curve: KeyType::EC_P256, point }) if point.len() == 65));
    assert_eq!(world.set(private, &[(CKA_ID, b"server-2026"), (CKA_LABEL, "Schlüssel".as_bytes())]), Ok(()));
    assert_eq!(object.key_id().unwrap().as_str(), "server-2026", "who holds the object follows the key");
    assert_eq!(world.set(public, &[(CKA_ID, b"server-2026")]), Ok(()), "the other half has it already");
    assert_eq!(world.one(&[(CKA_CLASS, &PRIVATE), (CKA_ID, b"server-2026")]), private, "handles survive");
    assert_eq!(world.elsewhere(&[(CKA_LABEL, "Schlüssel".as_bytes())]), 2);
    assert_eq!(world.set(private, &[(CKA_LABEL, &[b'x'; 33])]), Err(Rv(CKR_ATTRIBUTE_VALUE_INVALID)));
    assert_eq!(world.set(private, &[(CKA_SIGN, FALSE)]), Err(Rv(CKR_ATTRIBUTE_READ_ONLY)));
    assert_eq!(world.set(private, &[(CKA_SIGN, TRUE)]), Ok(()), "it is");
    world.pair(&[(CKA_EC_PARAMS, P256)], &[(CKA_TOKEN, TRUE), (CKA_ID, b"other")]);
    assert_eq!(world.set(private, &[(CKA_ID, b"other")]), Err(Rv(CKR_ATTRIBUTE_VALUE_INVALID)), "it is taken");
    let (public, private) = (template(&[(CKA_EC_PARAMS, P256)]), template(&[(CKA_TOKEN, TRUE), (CKA_ID, b"other")]));
    let taken = world.objects.generate_pair(&world.access(), SESSION, CKM_EC_KEY_PAIR_GEN, &public, &private);
    assert_eq!(taken, Err(Rv(CKR_ATTRIBUTE_VALUE_INVALID)));
}

#[test]
fn without_the_administrator_nothing_is_changed() {
    let world = World::new();
    let (public, private) = (template(&[(CKA_EC_PARAMS, P256)]), template(&[(CKA_TOKEN, TRUE)]));
    let generate = |operator, administrator| {
        let access = Access { operator, administrator };
        world.objects.generate_pair(&access, SESSION, CKM_EC_KEY_PAIR_GEN, &public, &private).err()
    };
    assert_eq!(generate(Some(&world.operator), None), Some(Rv(CKR_TOKEN_WRITE_PROTECTED)));
    assert_eq!(generate(None, None), Some(Rv(CKR_USER_NOT_LOGGED_IN)));
    assert_eq!(world.ids(), [] as [&str; 0]);
}

#[test]
fn destroying_the_public_object_leaves_the_key_and_destroying_the_private_one_does_not() {
    let world = World::new();
    let (public, private) = world.pair(&[(CKA_EC_PARAMS, P256)], &[(CKA_TOKEN, TRUE), (CKA_ID, b"a")]);
    assert_eq!(world.destroy(public), Ok(()));
    assert_eq!(world.find(&[(CKA_CLASS, &PUBLIC)]), NONE);
    assert_eq!(world.ids(), ["a"]);
    assert_eq!(world.destroy(private), Ok(()));
    assert_eq!(world.ids(), [] as [&str; 0]);
    let (public, private) = world.pair(&[(CKA_EC_PARAMS, P256)], &[(CKA_TOKEN, TRUE), (CKA_ID, b"a")]);
    assert_eq!(world.destroy(private), Ok(()));
    assert_eq!(world.destroy(public), Ok(()), "in the other order, too");
    assert!(world.objects.object(public).is_err());
    assert_eq!(world.destroy(private), Err(Rv(CKR_OBJECT_HANDLE_INVALID)));
}

#[test]
fn a_private_session_key_ends_with_its_session_unless_it_is_copied_to_the_token() {
    let world = World::new();
    let (_, lost) = world.pair(&[(CKA_EC_PARAMS, P256)], &[]);
    assert_eq!(world.value(lost, CKA_TOKEN).unwrap(), FALSE);
    assert_eq!(world.find(&[(CKA_TOKEN, FALSE), (CKA_CLASS, &PRIVATE)]), [lost]);
    assert_eq!(world.find(&[(CKA_TOKEN, TRUE)]), NONE);
    let (public, kept) = world.pair(&[(CKA_EC_PARAMS, P256)], &[]);
    let copy = template(&[(CKA_TOKEN, TRUE), (CKA_ID, b"kept"), (CKA_LABEL, b"alias")]);
    let token = world.objects.copy(&world.access(), SESSION, kept, &copy).unwrap();
    assert_eq!(world.value(token, CKA_TOKEN).unwrap(), TRUE);
    assert_eq!(world.value(kept, CKA_TOKEN).unwrap(), FALSE);
    assert_eq!(world.value(public, CKA_ID).unwrap(), b"kept");
    assert_eq!(world.destroy(kept), Ok(()), "the session object is gone, the key is not");
    assert_eq!(world.find(&[(CKA_CLASS, &PRIVATE), (CKA_TOKEN, TRUE)]), [token]);
    world.objects.close_sessions(&world.access(), &[SESSION]);
    assert_eq!(world.ids(), ["kept"]);
    assert!(world.objects.object(lost).is_err());
    let again = template(&[(CKA_TOKEN, TRUE), (CKA_ID, b"second")]);
    assert_eq!(world.objects.copy(&world.access(), SESSION, token, &again), Err(Rv(CKR_ACTION_PROHIBITED)));
}

#[test]
fn private_keys_are_imported_and_their_public_halves_found() {
    let world = World::new();
    // RFC 6979 §A.2.5, with a leading zero as some applications write integers.
    let scalar = hex("00C9AFA9D845BA75166B5C215767B1D6934E50C3DB36E89B127B8A622B120F6721");
    let point = hex(
        "0460FED4BA255A9D31C961EB74C6356D68C049B8923B61FA6CE669622E60F29FB67903FE1008B8BC99A41AE9E95628BC64F2F1B20C2D7E9F5177A3C294D4462299",
    );
    let private = [
        (CKA_CLASS, &PRIVATE[..]),
        (CKA_KEY_TYPE, &EC),
        (CKA_TOKEN, TRUE),
        (CKA_ID, &[9]),
        (CKA_EC_PARAMS, P256),
        (CKA_VALUE, &scalar),
    ];
    let handle = world.create(&private).unwrap();
    assert_eq!(world.value(handle, CKA_VALUE), Err(AttributeError::Sensitive));
    assert_eq!(world.value(handle, CKA_NEVER_EXTRACTABLE).unwrap(), FALSE, "it has been outside");
    let public = [
        (CKA_CLASS, &PUBLIC[..]),
        (CKA_KEY_TYPE, &EC),
        (CKA_TOKEN, TRUE),
        (CKA_ID, &[9]),
        (CKA_EC_PARAMS, P256),
        (CKA_EC_POINT, &point),
        (CKA_LABEL, b"imported"),
    ];
    let public = world.create(&public).unwrap();
    assert_eq!(world.one(&[(CKA_CLASS, &PUBLIC), (CKA_ID, &[9])]), public);
    assert_eq!(world.value(handle, CKA_LABEL).unwrap(), b"imported");
    let incomplete = world.create(&private[..5]);
    assert_eq!(incomplete, Err(Rv(CKR_TEMPLATE_INCOMPLETE)));
    let unknown = [(CKA_CLASS, &PRIVATE[..]), (CKA_KEY_TYPE, &EC), (CKA_EC_PARAMS, b"\x13\x01x"), (CKA_VALUE, &scalar)];
    assert_eq!(world.create(&unknown), Err(Rv(CKR_CURVE_NOT_SUPPORTED)));
}

#[test]
fn a_certificate_belongs_to_the_key_with_its_public_key() {
    let world = World::new();
    let pair = rcgen::KeyPair::generate().unwrap();
    let certificate = rcgen::CertificateParams::new(["web.example".to_owned()]).unwrap().self_signed(&pair).unwrap();
    let foreign = rcgen::generate_simple_self_signed(["other.example".to_owned()]).unwrap().cert;
    let pem = casemate_api::body::keys::ImportArguments {
        mechanisms: vec![Mechanism::ECDSA_Signature],
        restrictions: Default::default(),
        label: String::new(),
    };
    world.admin.keys().import_pem_as(&key("web"), &pem, &pair.serialize_pem()).unwrap();
    let base = [(CKA_CLASS, &CERTIFICATE[..]), (CKA_CERTIFICATE_TYPE, &CKC_X_509.to_ne_bytes()), (CKA_TOKEN, TRUE)];
    let with = |value: &[u8], more: &[Attribute<'_>]| {
        world.create(&[&base[..], &[(CKA_VALUE, value)], more].concat().iter().map(|a| (a.0, a.1)).collect::<Vec<_>>())
    };
    assert_eq!(world.find(&[(CKA_CLASS, &CERTIFICATE)]), NONE);
    let handle = with(certificate.der(), &[]).unwrap();
    assert_eq!(world.value(handle, CKA_VALUE).unwrap(), certificate.der().as_ref());
    assert_eq!(world.value(handle, CKA_ID).unwrap(), b"web");
    assert!(!world.value(handle, CKA_SUBJECT).unwrap().is_empty());
    let stored = world.operator.keys().certificate(&key("web")).unwrap().unwrap();
    assert!(stored.starts_with(b"-----BEGIN CERTIFICATE-----"));
    assert_eq!(world.elsewhere(&[(CKA_CLASS, &CERTIFICATE), (CKA_ID, b"web")]), 1);
    assert_eq!(world.elsewhere(&[(CKA_CLASS, &CERTIFICATE)]), 1);
    assert_eq!(with(certificate.der(), &[]), Ok(handle), "it is there already");
    assert_eq!(with(foreign.der(), &[]), Err(Rv(CKR_TEMPLATE_INCONSISTENT)), "no key has its public key");
    assert_eq!(with(b"no certificate", &[]), Err(Rv(CKR_ATTRIBUTE_VALUE_INVALID)));
    // keytool deletes a certificate, creates it with other names, and then everything that still has the old ones.
    assert_eq!(with(certificate.der(), &[(CKA_ID, &[5]), (CKA_LABEL, b"first")]), Ok(handle));
    assert_eq!(with(certificate.der(), &[(CKA_ID, &[5]), (CKA_LABEL, b"second")]), Ok(handle));
    assert_eq!(world.value(handle, CKA_LABEL).unwrap(), b"second");
    assert_eq!(world.ids(), ["0---05"], "one record has one id");
    assert_eq!(world.destroy(handle), Ok(()));
    assert_eq!(world.find(&[(CKA_CLASS, &CERTIFICATE)]), NONE);
    assert_eq!(world.ids(), ["0---05"]);
}

#[test]
fn session_objects_live_in_the_module() {
    let world = World::new();
    let nobody = Access { operator: None, administrator: None };
    let aes = template(&[(CKA_VALUE_LEN, &32_u64.to_ne_bytes()), (CKA_SENSITIVE, TRUE), (CKA_EXTRACTABLE, FALSE)]);
    let aes = world.objects.generate(&nobody, SESSION, CKM_AES_KEY_GEN, &aes).unwrap();
    assert_eq!(world.value(aes, CKA_VALUE), Err(AttributeError::Sensitive));
    assert_eq!(world.value(aes, CKA_ALWAYS_SENSITIVE).unwrap(), TRUE);
    assert_eq!(world.objects.object(aes).unwrap().secret().unwrap().len(), 32);
    let value = [(CKA_CLASS, &SECRET[..]), (CKA_KEY_TYPE, &AES), (CKA_VALUE, &[7; 16]), (CKA_LABEL, b"x")];
    let plain = world.create(&value).unwrap();
    assert_eq!(world.value(plain, CKA_VALUE).unwrap(), [7; 16]);
    assert_eq!(world.find(&[(CKA_LABEL, b"x")]), [plain]);
    assert_eq!(world.set(plain, &[(CKA_LABEL, b"y"), (CKA_SENSITIVE, TRUE)]), Ok(()));
    assert_eq!(world.value(plain, CKA_VALUE), Err(AttributeError::Sensitive));
    assert_eq!(world.set(plain, &[(CKA_SENSITIVE, FALSE)]), Err(Rv(CKR_ATTRIBUTE_READ_ONLY)));
    assert_eq!(world.set(plain, &[(CKA_PRIVATE, FALSE)]), Err(Rv(CKR_ATTRIBUTE_READ_ONLY)));
    let twice = [(CKA_CLASS, &SECRET[..]), (CKA_LABEL, b"x"), (CKA_LABEL, b"y")];
    assert_eq!(world.create(&twice), Err(Rv(CKR_TEMPLATE_INCONSISTENT)));
    let copy = world.objects.copy(&nobody, 8, plain, &template(&[(CKA_LABEL, b"z")])).unwrap();
    world.objects.close_sessions(&nobody, &[SESSION]);
    assert!(world.objects.object(plain).is_err());
    assert_eq!(world.find(&[(CKA_CLASS, &SECRET)]), [copy]);
    assert_eq!(
        world.create(&[(CKA_CLASS, &SECRET), (CKA_KEY_TYPE, &AES), (CKA_VALUE, &[7; 15])]),
        Err(Rv(CKR_ATTRIBUTE_VALUE_INVALID))
    );
    assert_eq!(world.create(&[(CKA_CLASS, &SECRET), (CKA_MODULUS, b"1")]), Err(Rv(CKR_ATTRIBUTE_TYPE_INVALID)));
    assert_eq!(world.create(&[(CKA_KEY_TYPE, &AES)]), Err(Rv(CKR_TEMPLATE_INCOMPLETE)));
    let data = [(CKA_CLASS, &CKO_DATA.to_ne_bytes()[..]), (CKA_VALUE, b"note")];
    assert!(world.create(&data).is_ok());
    assert_eq!(world.create(&[data[0], data[1], (CKA_TOKEN, TRUE)]), Err(Rv(CKR_TEMPLATE_INCONSISTENT)));
}

#[test]
fn secret_keys_of_the_server_are_for_aes() {
    let world = World::new();
    let aes = template(&[(CKA_VALUE_LEN, &32_u64.to_ne_bytes()), (CKA_TOKEN, TRUE), (CKA_LABEL, b"k")]);
    let handle = world.objects.generate(&world.access(), SESSION, CKM_AES_KEY_GEN, &aes).unwrap();
    assert_eq!(world.value(handle, CKA_VALUE_LEN).unwrap(), 32_u64.to_ne_bytes());
    assert_eq!(world.find(&[(CKA_CLASS, &SECRET), (CKA_LABEL, b"k")]), [handle]);
    let import = [(CKA_CLASS, &SECRET[..]), (CKA_KEY_TYPE, &AES), (CKA_VALUE, &[7; 16]), (CKA_TOKEN, TRUE)];
    let imported = world.create(&import).unwrap();
    assert_eq!(world.value(imported, CKA_LOCAL).unwrap(), FALSE);
    let generic = world.objects.generate(&world.access(), SESSION, CKM_GENERIC_SECRET_KEY_GEN, &aes);
    assert_eq!(generic, Err(Rv(CKR_TEMPLATE_INCONSISTENT)));
}

#[test]
fn threads_that_create_find_and_destroy_do_not_disturb_each_other() {
    let world = World::new();
    let kept = world.pair(&[(CKA_EC_PARAMS, P256)], &[(CKA_TOKEN, TRUE), (CKA_ID, b"kept")]).1;
    std::thread::scope(|scope| {
        for thread in 0..8_u8 {
            let world = &world;
            scope.spawn(move || {
                for round in 0..4_u8 {
                    let (first, second) = ([thread, round], [thread, round, 0]);
                    let template = [(CKA_TOKEN, TRUE), (CKA_ID, &first[..]), (CKA_LABEL, b"stress")];
                    let (public, private) = world.pair(&[(CKA_EC_PARAMS, P256)], &template);
                    assert_eq!(world.one(&[(CKA_CLASS, &PRIVATE), (CKA_ID, &first)]), private);
                    assert_eq!(world.set(private, &[(CKA_ID, &second)]), Ok(()));
                    assert_eq!(world.one(&[(CKA_CLASS, &PUBLIC), (CKA_ID, &second)]), public);
                    assert!(world.find(&[(CKA_CLASS, &PRIVATE)]).contains(&private));
                    assert_eq!(world.destroy(private), Ok(()));
                    assert_eq!(world.destroy(public), Ok(()));
                }
            });
        }
    });
    assert_eq!(world.find(&[(CKA_CLASS, &PRIVATE)]), [kept]);
    assert_eq!(world.ids(), ["kept"]);
}

#[test]
fn a_search_asks_only_for_what_can_match() {
    // It answers as NetHSM is documented to, where two of the keys have a public key that is none.
    let server = casemate_testkit::nethsm::start();
    let trust = casemate_client::Trust::Anyone;
    let settings = casemate_client::Settings { trust, ..casemate_client::Settings::of([server.address.clone()]) };
    let operator = operator(&casemate_client::Client::new(settings).unwrap());
    let access = Access { operator: Some(&operator), administrator: None };
    let objects = Objects::new(CertificateFormat::Pem);
    let find = |attributes: &[Attribute<'_>]| {
        let before = server.requests();
        let found = objects.find(&access, &template(attributes), true).unwrap();
        (found.len(), server.requests() - before)
    };
    assert_eq!(find(&[(CKA_CLASS, &CKO_DATA.to_ne_bytes())]), (0, 0));
    assert_eq!(find(&[(CKA_TOKEN, FALSE)]), (0, 0));
    assert_eq!(find(&[(CKA_CLASS, &PRIVATE), (CKA_ID, b"ed")]), (1, 1));
    assert_eq!(find(&[(CKA_CLASS, &CERTIFICATE), (CKA_ID, b"ed")]), (0, 2), "the key and its certificate");
    assert_eq!(find(&[(CKA_CLASS, &PRIVATE), (CKA_ID, &[1])]), (0, 1));
    // The list with this label has all keys, as an old NetHSM ignores the label: one is known, the others are read.
    assert_eq!(find(&[(CKA_CLASS, &PRIVATE), (CKA_LABEL, b"labeltoset")]).0, 1);
    assert_eq!(find(&[(CKA_CLASS, &PRIVATE)]), (1, 3), "the list, and the keys that make no sense");
    assert_eq!(find(&[(CKA_CLASS, &SECRET)]), (1, 3));
}

/// How many requests a server has answered, those for its metrics left out.
struct Requests {
    metrics: Session,
    own: std::cell::Cell<u64>,
}

impl Requests {
    fn of(world: &World) -> Self {
        let user = NewUser { real_name: "m".into(), role: Role::Metrics, passphrase: secret("metrics passphrase") };
        let id = UserId::parse("m").unwrap();
        world.admin.users().create_as(&id, &user).unwrap();
        Self { metrics: world.hsm.client().log_in(&id, secret("metrics passphrase")), own: Default::default() }
    }

    fn answered(&self) -> u64 {
        let metrics = self.metrics.metrics().unwrap();
        self.own.set(self.own.get() + 1);
        // Not this one yet.
        metrics["http response total"].parse::<u64>().unwrap() + 1 - self.own.get()
    }

    fn of_call<T>(&self, call: impl FnOnce() -> T) -> (T, u64) {
        let before = self.answered();
        let result = call();
        (result, self.answered() - before)
    }
}

#[test]
fn a_search_for_all_objects_reads_pages_and_again_only_those_that_have_changed() {
    let world = World::new();
    const KEYS: usize = 2_100;
    thread::scope(|scope| {
        for part in 0..4 {
            let admin = &world.admin;
            scope.spawn(move || {
                for n in (part..KEYS).step_by(4) {
                    admin.keys().import_as(&key(&format!("k{n:04}")), &ed25519()).unwrap();
                }
            });
        }
    });
    let requests = Requests::of(&world);
    let all = || world.find(&[(CKA_TOKEN, TRUE)]).len();
    assert_eq!(requests.of_call(all), (2 * KEYS, 3), "no request for a key, nor for the certificate that it has not");
    assert_eq!(requests.of_call(all), (2 * KEYS, 3), "which are answered that nothing has changed");
    assert_eq!(requests.of_call(|| world.find(&[(CKA_CLASS, &CERTIFICATE)])), (vec![], 3));

    let handle = world.one(&[(CKA_CLASS, &PRIVATE), (CKA_ID, b"k1500")]);
    world.admin.keys().set_label(&key("k1500"), "by another").unwrap();
    world.admin.keys().delete(&key("k0001")).unwrap();
    assert_eq!(requests.of_call(all).0, 2 * (KEYS - 1));
    assert_eq!(world.value(handle, CKA_LABEL).unwrap(), b"by another");
    assert_eq!(world.find(&[(CKA_ID, b"k0001")]), NONE);
    let (found, asked) = requests.of_call(|| world.find(&[(CKA_CLASS, &PRIVATE), (CKA_LABEL, b"by another")]));
    assert_eq!((found, asked), (vec![handle], 1));
    let unique = world.value(handle, CKA_UNIQUE_ID).unwrap();
    assert_eq!(requests.of_call(|| world.find(&[(CKA_UNIQUE_ID, &unique)])), (vec![handle], 1));
}

#[test]
fn a_key_is_known_by_its_uid() {
    let world = World::new();
    world.on_server("a", KeyType::EC_P256, 0, &[Mechanism::ECDSA_Signature], "");
    let private = world.one(&[(CKA_CLASS, &PRIVATE), (CKA_ID, b"a")]);
    let public = world.one(&[(CKA_CLASS, &PUBLIC), (CKA_ID, b"a")]);
    let unique = world.value(private, CKA_UNIQUE_ID).unwrap();

    // Another process renames it: all that is known of it stays.
    world.admin.keys().rename(&key("a"), &key("b")).unwrap();
    assert_eq!(world.one(&[(CKA_CLASS, &PRIVATE)]), private, "by a list");
    assert_eq!(world.value(public, CKA_ID).unwrap(), b"b");
    world.admin.keys().rename(&key("b"), &key("c")).unwrap();
    assert_eq!(world.one(&[(CKA_CLASS, &PRIVATE), (CKA_ID, b"c")]), private, "by its id");
    assert_eq!(world.value(private, CKA_UNIQUE_ID).unwrap(), unique);
    assert_eq!(world.one(&[(CKA_UNIQUE_ID, &unique)]), private);
    assert_eq!(world.elsewhere(&[(CKA_UNIQUE_ID, &unique)]), 1, "another process finds it by that, too");

    // Another process puts another key in its place.
    world.admin.keys().delete(&key("c")).unwrap();
    world.on_server("c", KeyType::EC_P256, 0, &[Mechanism::ECDSA_Signature], "");
    for refused in
        [world.set(private, &[(CKA_ID, b"d")]), world.set(public, &[(CKA_LABEL, b"d")]), world.destroy(private)]
    {
        assert_eq!(refused, Err(Rv(CKR_OBJECT_HANDLE_INVALID)));
    }
    assert_eq!(world.ids(), ["c"], "the other key is as it was");
    let other = world.one(&[(CKA_CLASS, &PRIVATE)]);
    assert_ne!(other, private);
    assert_ne!(world.value(other, CKA_UNIQUE_ID).unwrap(), unique);
    assert_eq!(world.find(&[(CKA_UNIQUE_ID, &unique)]), NONE);
    world.destroy(other).unwrap();
    assert_eq!(world.ids(), [""; 0]);
}

#[test]
fn a_handle_never_signs_with_another_key_nor_closes_it_with_its_session() {
    let world = World::new();
    world.on_server("a", KeyType::EC_P256, 0, &[Mechanism::ECDSA_Signature], "");
    let private = world.one(&[(CKA_CLASS, &PRIVATE), (CKA_ID, b"a")]);
    let (_, session_key) = world.pair(&[(CKA_EC_PARAMS, P256)], &[(CKA_ID, b"of-session")]);
    let names = [(private, "a"), (session_key, "of-session")].map(|(handle, id)| {
        let name = world.objects.object(handle).unwrap().on_server().unwrap();
        assert_eq!((name.id.as_str(), name.uid().is_some()), (id, true));
        // Another process puts another key in its place.
        world.admin.keys().delete(&key(id)).unwrap();
        world.on_server(id, KeyType::EC_P256, 0, &[Mechanism::ECDSA_Signature], "");
        name
    });
    let request = Sign { mode: SignMode::ECDSA, message: "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=".into() };
    for name in &names {
        let with = |uid| world.operator.keys().expecting(uid).sign(&name.id, &request);
        assert!(matches!(with(name.uid()), Err(casemate_client::Error::NotFound { .. })));
        with(None).unwrap();
    }
    world.objects.close_sessions(&world.access(), &[SESSION]);
    assert_eq!(world.ids(), ["a", "of-session"], "neither is that of this process");
}

/// A certificate belongs to the key with its public key that the server has now, and not to one that had been there.
#[test]
fn a_certificate_is_not_attached_to_a_key_that_took_the_place_of_its_own() {
    let world = World::new();
    let import = |id: &str, key: ImportKey| world.admin.keys().import_as(&casemate_testkit::key(id), &key).unwrap();
    import("y", ed25519());
    let known = world.one(&[(CKA_CLASS, &PRIVATE), (CKA_ID, b"y")]);
    world.admin.keys().delete(&key("y")).unwrap();
    world.on_server("y", KeyType::EC_P256, 0, &[Mechanism::ECDSA_Signature], "");
    world.admin.keys().set_certificate(&key("y"), b"that of the other").unwrap();
    import("x", ed25519());
    let public = world.objects.object(known).unwrap().public_key().cloned().unwrap();
    let PublicKey::Ed25519(point) = &public else { panic!("{public:?}") };
    let point = [&[4, 32][..], point].concat();
    let kind = CKK_EC_EDWARDS.to_ne_bytes();
    let edwards = b"\x13\x0cedwards25519";
    let half = [
        (CKA_CLASS, &PUBLIC[..]),
        (CKA_TOKEN, TRUE),
        (CKA_KEY_TYPE, &kind),
        (CKA_EC_PARAMS, edwards),
        (CKA_EC_POINT, &point),
        (CKA_LABEL, b"mine"),
    ];
    let handle = world.create(&half).unwrap();
    assert_eq!(world.value(handle, CKA_ID).unwrap(), b"x");
    assert_eq!(world.admin.keys().read(&key("x")).unwrap().label, "mine");
    assert_eq!(world.admin.keys().read(&key("y")).unwrap().label, "");
}

/// A key that other threads rename while lists are read is in all of them, with the handles that it had.
#[test]
fn keys_that_are_renamed_all_the_time_keep_their_handles() {
    let world = World::new();
    for n in 0..5 {
        world.on_server(&format!("k{n}"), KeyType::EC_P256, 0, &[Mechanism::ECDSA_Signature], "");
    }
    let handles = world.find(&[(CKA_CLASS, &PRIVATE)]);
    assert_eq!(handles.len(), 5);
    thread::scope(|scope| {
        let other = scope.spawn(|| {
            // Another process.
            let mut names: Vec<_> = (0..2).map(|n| format!("k{n}")).collect();
            for round in 0..40 {
                for (n, name) in names.iter_mut().enumerate() {
                    let new = format!("{}{n}-{round}", if round % 2 == 0 { "a" } else { "z" });
                    world.admin.keys().rename(&key(name), &key(&new)).unwrap();
                    *name = new;
                }
            }
        });
        let own = scope.spawn(|| {
            for round in 0..20 {
                for handle in &handles[3..] {
                    world.set(*handle, &[(CKA_ID, format!("own-{handle}-{round}").as_bytes())]).unwrap();
                }
            }
        });
        while !(other.is_finished() && own.is_finished()) {
            world.find(&[(CKA_CLASS, &PRIVATE)]);
        }
    });
    let mut after = world.find(&[(CKA_CLASS, &PRIVATE)]);
    after.sort_unstable();
    assert_eq!(after, handles);
}

fn hex(digits: &str) -> Vec<u8> {
    (0..digits.len() / 2).map(|at| u8::from_str_radix(&digits[2 * at..2 * at + 2], 16).unwrap()).collect()
}

#[test]
fn a_session_object_neither_becomes_one_of_the_token_nor_trusted_by_a_change() {
    let world = World::new();
    let kind = CKK_GENERIC_SECRET.to_ne_bytes();
    let secret =
        world.create(&[(CKA_CLASS, &SECRET), (CKA_KEY_TYPE, &kind), (CKA_VALUE, b"a secret of some length")]).unwrap();
    for flag in [CKA_TOKEN, CKA_TRUSTED] {
        assert_eq!(world.set(secret, &[(flag, TRUE)]), Err(Rv(CKR_ATTRIBUTE_READ_ONLY)), "{flag:#x}");
        assert_eq!(world.value(secret, flag), Ok(FALSE.to_vec()));
        world.set(secret, &[(flag, FALSE)]).unwrap();
    }
    world.set(secret, &[(CKA_SIGN, FALSE)]).unwrap();
    let trusted =
        world.create(&[(CKA_CLASS, &SECRET), (CKA_KEY_TYPE, &kind), (CKA_VALUE, b"secret"), (CKA_TRUSTED, TRUE)]);
    assert_eq!(trusted, Err(Rv(CKR_ATTRIBUTE_READ_ONLY)));
    let trusted = template(&[(CKA_TRUSTED, TRUE)]);
    let copy = world.objects.copy(&world.access(), SESSION, secret, &trusted);
    assert_eq!(copy, Err(Rv(CKR_ATTRIBUTE_READ_ONLY)));
}

/// Their values are pointers of the application, which mean nothing later.
#[test]
fn templates_within_templates_are_refused() {
    let world = World::new();
    let kind = CKK_GENERIC_SECRET.to_ne_bytes();
    for nested in [CKA_WRAP_TEMPLATE, CKA_UNWRAP_TEMPLATE, CKA_DERIVE_TEMPLATE] {
        let secret = [(CKA_CLASS, &SECRET[..]), (CKA_KEY_TYPE, &kind), (CKA_VALUE, b"secret"), (nested, &[7; 24])];
        assert_eq!(world.create(&secret), Err(Rv(CKR_ATTRIBUTE_TYPE_INVALID)), "{nested:#x}");
    }
}

#[test]
fn rsa_keys_of_absurd_size_are_refused() {
    let world = World::new();
    let rsa = |bytes: usize, exponent: &[u8]| {
        let modulus = vec![0xff; bytes];
        let key =
            [(CKA_CLASS, &PUBLIC[..]), (CKA_KEY_TYPE, &RSA), (CKA_MODULUS, &modulus), (CKA_PUBLIC_EXPONENT, exponent)];
        world.create(&key).map(drop)
    };
    let refused = Err(Rv(CKR_ATTRIBUTE_VALUE_INVALID));
    for (bytes, exponent) in
        [(127, &[3][..]), (2049, &[3]), (256, &[1]), (256, &[1, 0]), (256, &[2, 0, 0, 0, 1]), (256, &[0xff; 256])]
    {
        assert_eq!(rsa(bytes, exponent), refused, "{bytes} {exponent:?}");
    }
    for (bytes, exponent) in [(128, &[3][..]), (2048, &[1, 0, 1]), (256, &[1, 0, 0, 0, 1])] {
        assert_eq!(rsa(bytes, exponent), Ok(()), "{bytes} {exponent:?}");
    }
}

#[test]
fn a_certificate_stays_if_the_one_that_is_to_replace_it_is_refused() {
    let world = World::new();
    let pair = rcgen::KeyPair::generate().unwrap();
    let mut of = rcgen::CertificateParams::new(["web.example".to_owned()]).unwrap();
    let first = of.self_signed(&pair).unwrap();
    // Longer than a server takes.
    let long = vec![0; casemate_api::limits::CERTIFICATE_MAX_BYTES];
    of.custom_extensions = vec![rcgen::CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 99999], long)];
    let second = of.self_signed(&pair).unwrap();
    let pem = casemate_api::body::keys::ImportArguments {
        mechanisms: vec![Mechanism::ECDSA_Signature],
        restrictions: Default::default(),
        label: String::new(),
    };
    world.admin.keys().import_pem_as(&key("web"), &pem, &pair.serialize_pem()).unwrap();
    let certificate = |der| [(CKA_CLASS, &CERTIFICATE[..]), (CKA_VALUE, der), (CKA_TOKEN, TRUE)];
    world.create(&certificate(first.der())).unwrap();
    assert_eq!(world.create(&certificate(second.der())), Err(Rv(CKR_ATTRIBUTE_VALUE_INVALID)));
    assert_eq!(world.elsewhere(&[(CKA_CLASS, &CERTIFICATE), (CKA_VALUE, first.der())]), 1);
    world.one(&[(CKA_CLASS, &CERTIFICATE), (CKA_VALUE, first.der())]);
}

/// Nobody gets less protection than was asked for.
#[test]
fn protection_that_a_server_does_not_give_is_refused() {
    let world = World::new();
    let refused = Rv(CKR_TEMPLATE_INCONSISTENT);
    for flag in [(CKA_ALWAYS_AUTHENTICATE, TRUE), (CKA_DESTROYABLE, FALSE), (CKA_MODIFIABLE, FALSE)] {
        let public = template(&[(CKA_EC_PARAMS, P256)]);
        let private = template(&[(CKA_TOKEN, TRUE), flag]);
        let pair = world.objects.generate_pair(&world.access(), SESSION, CKM_EC_KEY_PAIR_GEN, &public, &private);
        assert_eq!(pair, Err(refused), "{flag:?}");
        let private =
            [(CKA_CLASS, &PRIVATE[..]), (CKA_KEY_TYPE, &EC), (CKA_EC_PARAMS, P256), (CKA_VALUE, &[1; 32]), flag];
        assert_eq!(world.create(&private), Err(refused), "{flag:?}");
    }
    let aes = template(&[(CKA_TOKEN, TRUE), (CKA_VALUE_LEN, &16u64.to_ne_bytes()), (CKA_MODIFIABLE, FALSE)]);
    assert_eq!(world.objects.generate(&world.access(), SESSION, CKM_AES_KEY_GEN, &aes), Err(refused));
    assert!(world.ids().is_empty());
}

#[test]
fn keys_of_a_session_are_deleted_until_the_server_does_not_answer() {
    let world = World::new();
    for _ in 0..3 {
        world.pair(&[(CKA_EC_PARAMS, P256)], &[]);
    }
    // It hangs up on everybody, and counts them.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let settings = Settings { trust: Trust::Anyone, ..Settings::of([listener.local_addr().unwrap().to_string()]) };
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&calls);
    thread::spawn(move || {
        for _call in listener.incoming() {
            counted.fetch_add(1, Ordering::SeqCst);
        }
    });
    let away = admin(&Client::new(settings).unwrap());
    away.keys().delete(&key("one")).unwrap_err();
    let of_one = calls.swap(0, Ordering::SeqCst);
    assert!(of_one > 0);
    let access = Access { operator: None, administrator: Some(&away) };
    world.objects.close_sessions(&access, &[SESSION]);
    assert_eq!(calls.load(Ordering::SeqCst), of_one);
    assert_eq!(world.find(&[(CKA_TOKEN, FALSE), (CKA_CLASS, &PRIVATE)]), NONE);
    assert_eq!(world.ids().len(), 3);
}
