//! Sessions, their states, and who is logged in.

use std::thread;

use casemate_api::body::users::NewUser;
use casemate_api::{Role, UserId};
use casemate_pkcs11::objects::Template;
use casemate_pkcs11::operations::find;
use casemate_pkcs11::{login, module, sessions};
use casemate_testkit::{ADMIN, OPERATOR, admin, secret};
use cryptoki::context::Pkcs11;
use cryptoki::error::{Error, RvError};
use cryptoki::mechanism::eddsa::{EddsaParams, EddsaSignatureScheme};
use cryptoki::mechanism::{Mechanism, MechanismType};
use cryptoki::object::{Attribute, KeyType, ObjectClass, ObjectHandle};
use cryptoki::session::{Session, SessionState, UserType};
use cryptoki::types::AuthPin;

use crate::harness::{Passphrases, Rig, client, initialized, inside, session};

fn pin(text: &str) -> AuthPin {
    AuthPin::new(text.into())
}

fn rv<T>(result: cryptoki::error::Result<T>) -> RvError {
    match result {
        Err(Error::Pkcs11(rv, _)) => rv,
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("it succeeded"),
    }
}

fn state(session: &Session) -> SessionState {
    session.get_session_info().unwrap().session_state()
}

fn private_key(session: &Session) -> Option<ObjectHandle> {
    let template = [Attribute::Class(ObjectClass::PRIVATE_KEY), Attribute::Id(b"k".to_vec())];
    session.find_objects(&template).unwrap().first().copied()
}

fn sign(session: &Session, key: ObjectHandle) -> cryptoki::error::Result<Vec<u8>> {
    session.sign(&Mechanism::Eddsa(EddsaParams::new(EddsaSignatureScheme::Ed25519)), key, b"message")
}

fn read_only(pkcs11: &Pkcs11) -> Session {
    pkcs11.open_ro_session(pkcs11.get_slots_with_token().unwrap()[0]).unwrap()
}

#[test]
fn one_login_is_that_of_all_sessions_of_a_slot() {
    if !inside() {
        return Rig::new(Passphrases::None).run_again("logins::one_login_is_that_of_all_sessions_of_a_slot");
    }
    let pkcs11 = initialized();
    let (one, two) = (session(&pkcs11), read_only(&pkcs11));
    assert_eq!((state(&one), state(&two)), (SessionState::RwPublic, SessionState::RoPublic));
    assert_eq!(private_key(&one), None);
    assert_eq!(rv(one.logout()), RvError::UserNotLoggedIn);
    one.login(UserType::User, Some(&pin(OPERATOR))).unwrap();
    assert_eq!((state(&one), state(&two)), (SessionState::RwUser, SessionState::RoUser));
    assert_eq!(rv(two.login(UserType::User, Some(&pin(OPERATOR)))), RvError::UserAlreadyLoggedIn);
    assert_eq!(rv(two.login(UserType::So, Some(&pin(ADMIN)))), RvError::UserAnotherAlreadyLoggedIn);
    let key = private_key(&two).unwrap();
    sign(&one, key).unwrap();
    // Of another thread, too.
    let other = read_only(&pkcs11);
    thread::spawn(move || sign(&other, key).unwrap()).join().unwrap();
    one.logout().unwrap();
    assert_eq!(state(&two), SessionState::RoPublic);
    assert_eq!(rv(sign(&two, key)), RvError::KeyHandleInvalid);
    assert_eq!(private_key(&two), None);

    // The SO needs sessions that can write.
    assert_eq!(rv(one.login(UserType::So, Some(&pin(ADMIN)))), RvError::SessionReadOnlyExists);
    two.close().unwrap();
    one.login(UserType::So, Some(&pin(ADMIN))).unwrap();
    assert_eq!(state(&one), SessionState::RwSecurityOfficer);
    let slot = pkcs11.get_slots_with_token().unwrap()[0];
    assert_eq!(rv(pkcs11.open_ro_session(slot)), RvError::SessionReadWriteSoExists);
    let key = private_key(&one).unwrap();
    assert_eq!(rv(sign(&one, key)), RvError::UserNotLoggedIn);
    one.close().unwrap();

    // The last one that is closed has logged out.
    let three = session(&pkcs11);
    assert_eq!(state(&three), SessionState::RwPublic);
    three.login(UserType::User, Some(&pin(OPERATOR))).unwrap();
    assert_eq!(rv(three.login(UserType::ContextSpecific, Some(&pin(OPERATOR)))), RvError::OperationNotInitialized);
}

#[test]
fn a_wrong_pin_leaves_nothing_behind_and_a_right_one_succeeds_at_once() {
    if !inside() {
        let name = "logins::a_wrong_pin_leaves_nothing_behind_and_a_right_one_succeeds_at_once";
        return Rig::new(Passphrases::None).run_again(name);
    }
    let pkcs11 = initialized();
    let session = session(&pkcs11);
    for wrong in ["wrong", "", "\u{e9}"] {
        assert_eq!(rv(session.login(UserType::User, Some(&pin(wrong)))), RvError::PinIncorrect);
        assert_eq!(state(&session), SessionState::RwPublic);
    }
    assert_eq!(rv(session.login(UserType::User, None)), RvError::ArgumentsBad);
    session.login(UserType::User, Some(&pin(OPERATOR))).unwrap();
    sign(&session, private_key(&session).unwrap()).unwrap();
}

#[test]
fn a_user_manages_keys_only_with_the_administrators_passphrase() {
    let name = "logins::a_user_manages_keys_only_with_the_administrators_passphrase";
    if !inside() {
        return Rig::new(Passphrases::None).run_again(name);
    }
    let pkcs11 = initialized();
    let session = session(&pkcs11);
    let curve = Attribute::EcParams(vec![6, 3, 0x2b, 0x65, 0x70]);
    let generate = || {
        let public = [Attribute::Token(true), curve.clone(), Attribute::Verify(true)];
        let private = [Attribute::Token(true), Attribute::Sign(true), Attribute::Id(b"new".to_vec())];
        session.generate_key_pair(&Mechanism::EccEdwardsKeyPairGen, &public, &private)
    };
    assert_eq!(rv(generate()), RvError::UserNotLoggedIn);
    session.login(UserType::User, Some(&pin(OPERATOR))).unwrap();
    assert_eq!(rv(generate()), RvError::UserNotLoggedIn);
    session.logout().unwrap();
    session.login(UserType::So, Some(&pin(ADMIN))).unwrap();
    let (_, private) = generate().unwrap();
    let of_pair = || session.find_objects(&[Attribute::Id(b"new".to_vec())]).unwrap().len();
    assert_eq!(of_pair(), 2);
    // Both are one record of the server.
    session.destroy_object(private).unwrap();
    assert_eq!(of_pair(), 0);
}

#[test]
fn with_a_configured_passphrase_no_pin_is_needed_and_public_objects_are_seen_by_anybody() {
    let name = "logins::with_a_configured_passphrase_no_pin_is_needed_and_public_objects_are_seen_by_anybody";
    if !inside() {
        return Rig::new(Passphrases::Both).run_again(name);
    }
    let pkcs11 = initialized();
    let session = session(&pkcs11);
    let info = pkcs11.get_token_info(pkcs11.get_slots_with_token().unwrap()[0]).unwrap();
    assert!(info.login_required() && info.protected_authentication_path());
    let of_class = |class| session.find_objects(&[Attribute::Class(class)]).unwrap().len();
    assert_eq!((of_class(ObjectClass::PUBLIC_KEY), of_class(ObjectClass::PRIVATE_KEY)), (1, 0));
    let read_only = read_only(&pkcs11);
    session.login(UserType::User, None).unwrap();
    assert_eq!((of_class(ObjectClass::PUBLIC_KEY), of_class(ObjectClass::PRIVATE_KEY)), (1, 1));
    sign(&session, private_key(&session).unwrap()).unwrap();
    assert_eq!(session.generate_random_vec(3000).unwrap().len(), 3000);

    // A session that was opened for reading changes nothing that lasts.
    let key = private_key(&read_only).unwrap();
    assert_eq!(rv(read_only.destroy_object(key)), RvError::SessionReadOnly);
    let label = [Attribute::Label(b"x".to_vec())];
    assert_eq!(rv(read_only.update_attributes(key, &label)), RvError::SessionReadOnly);
    let secret = [
        Attribute::Class(ObjectClass::SECRET_KEY),
        Attribute::KeyType(KeyType::GENERIC_SECRET),
        Attribute::Value(vec![1; 32]),
        Attribute::Sign(true),
        Attribute::Verify(true),
    ];
    let secret = read_only.create_object(&secret).unwrap();
    let mac = read_only.sign(&Mechanism::Sha256Hmac, secret, b"message").unwrap();
    read_only.verify(&Mechanism::Sha256Hmac, secret, b"message", &mac).unwrap();
    assert_eq!(rv(read_only.verify(&Mechanism::Sha256Hmac, secret, b"other", &mac)), RvError::SignatureInvalid);
}

#[test]
fn a_pin_is_changed_and_the_login_goes_on() {
    if !inside() {
        return Rig::new(Passphrases::None).run_again("logins::a_pin_is_changed_and_the_login_goes_on");
    }
    let pkcs11 = initialized();
    let session = session(&pkcs11);
    session.login(UserType::User, Some(&pin(OPERATOR))).unwrap();
    assert_eq!(rv(session.set_pin(&pin(OPERATOR), &pin("short"))), RvError::PinLenRange);
    assert_eq!(rv(session.set_pin(&pin("wrong"), &pin("a new passphrase"))), RvError::PinIncorrect);
    session.set_pin(&pin(OPERATOR), &pin("a new passphrase")).unwrap();
    let key = private_key(&session).unwrap();
    sign(&session, key).unwrap();
    session.logout().unwrap();
    assert_eq!(rv(session.login(UserType::User, Some(&pin(OPERATOR)))), RvError::PinIncorrect);
    session.login(UserType::User, Some(&pin("a new passphrase"))).unwrap();
    session.logout().unwrap();
    session.login(UserType::So, Some(&pin(ADMIN))).unwrap();
    session.init_pin(&pin(OPERATOR)).unwrap();
    session.logout().unwrap();
    session.login(UserType::User, Some(&pin(OPERATOR))).unwrap();
    let slot = pkcs11.get_slots_with_token().unwrap()[0];
    assert_eq!(rv(pkcs11.init_token(slot, &pin(ADMIN), "label")), RvError::TokenWriteProtected);
    assert!(pkcs11.get_mechanism_list(slot).unwrap().contains(&MechanismType::EDDSA));
}

#[test]
fn an_hsm_that_cannot_be_reached_is_told_when_it_is_needed() {
    let name = "logins::an_hsm_that_cannot_be_reached_is_told_when_it_is_needed";
    if !inside() {
        return Rig::without_hsm().run_again(name);
    }
    let pkcs11 = initialized();
    let slots = pkcs11.get_slots_with_token().unwrap();
    let label = |slot| pkcs11.get_token_info(slot).unwrap().label().to_owned();
    assert_eq!((label(slots[0]), label(slots[1])), ("one".into(), "two".into()));
    assert!(pkcs11.get_token_info(slots[0]).unwrap().write_protected());
    let session = session(&pkcs11);
    assert_eq!(rv(session.login(UserType::User, Some(&pin(OPERATOR)))), RvError::DeviceError);
    assert_eq!(state(&session), SessionState::RwPublic);
}

#[test]
fn a_passphrase_that_is_configured_is_not_changed() {
    if !inside() {
        return Rig::new(Passphrases::Both).run_again("logins::a_passphrase_that_is_configured_is_not_changed");
    }
    let pkcs11 = initialized();
    let session = session(&pkcs11);
    session.login(UserType::User, None).unwrap();
    assert_eq!(rv(session.set_pin(&pin(OPERATOR), &pin("a new passphrase"))), RvError::ActionProhibited);
    session.logout().unwrap();
    session.login(UserType::So, None).unwrap();
    assert_eq!(rv(session.set_pin(&pin(ADMIN), &pin("a new passphrase"))), RvError::ActionProhibited);
    assert_eq!(rv(session.init_pin(&pin("a new passphrase"))), RvError::ActionProhibited);
    session.logout().unwrap();
    session.login(UserType::User, Some(&pin(OPERATOR))).unwrap();
}

/// A call of another session that is under way ends by itself.
#[test]
fn a_logout_waits_for_no_other_session() {
    if !inside() {
        return Rig::new(Passphrases::Both).run_again("logins::a_logout_waits_for_no_other_session");
    }
    let pkcs11 = initialized();
    // How long a key takes to make is a matter of luck.
    let was_first = (0..20).any(|n| {
        let (ours, other) = (session(&pkcs11), session(&pkcs11));
        ours.login(UserType::User, None).unwrap();
        let (begun, begins) = std::sync::mpsc::channel();
        let generating = thread::spawn(move || {
            let public = [Attribute::ModulusBits(4096.into()), Attribute::Token(true)];
            begun.send(()).unwrap();
            let private = [Attribute::Id(format!("rsa{n}").into_bytes()), Attribute::Token(true)];
            // If the logout came before it, it is refused.
            drop(other.generate_key_pair(&Mechanism::RsaPkcsKeyPairGen, &public, &private));
        });
        begins.recv().unwrap();
        thread::sleep(std::time::Duration::from_millis(50));
        ours.logout().unwrap();
        let was_first = !generating.is_finished();
        assert_eq!(state(&ours), SessionState::RwPublic);
        generating.join().unwrap();
        was_first
    });
    assert!(was_first, "it has waited twenty times");
}

/// Of the crate that is linked, since `cryptoki` cannot log in by a name.
#[test]
fn who_logs_in_by_a_name_stays_that_user() {
    if !inside() {
        return Rig::new(Passphrases::Administrator).run_again("logins::who_logs_in_by_a_name_stays_that_user");
    }
    let alice = UserId::parse("alice").unwrap();
    let user = NewUser { real_name: "Alice".into(), role: Role::Operator, passphrase: secret("passphrase of Alice") };
    let client = client();
    let admin = admin(&client);
    admin.users().create_as(&alice, &user).unwrap();
    module::initialize().unwrap();
    let module = module::current().unwrap();
    let flags = cryptoki_sys::CKF_SERIAL_SESSION | cryptoki_sys::CKF_RW_SESSION;
    let handle = sessions::open(&module, 0, flags).unwrap();
    let session = module.sessions.get(handle).unwrap();
    let as_alice = |pin: &str| {
        login::login(&module, &session, cryptoki_sys::CKU_USER, Some(pin.as_bytes()), Some(b"alice")).map_err(|rv| rv.0)
    };
    assert_eq!(as_alice(OPERATOR), Err(cryptoki_sys::CKR_PIN_INCORRECT));
    as_alice("passphrase of Alice").unwrap();
    // The Administrator of the configuration is for its Operator.
    let label = Template::new(vec![(cryptoki_sys::CKA_LABEL, b"x".to_vec().into())]);
    let key = Template::new(vec![(cryptoki_sys::CKA_ID, b"k".to_vec().into())]);
    find::begin(&session, &key).unwrap();
    let found = find::next(&session, 9).unwrap();
    assert!(session.set(found[0], &label).is_err());
    login::set_pin(&session, b"passphrase of Alice", b"another of Alice").unwrap();
    login::logout(&session).unwrap();
    as_alice("another of Alice").unwrap();
}
