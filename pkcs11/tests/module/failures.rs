//! What a server refuses, in the standard's words, and that an application goes on when the reason is gone.

use casemate_api::{Tag, UserId};
use casemate_testkit::{OPERATOR, UNLOCK, admin, key, secret};
use cryptoki::error::{Error, RvError};
use cryptoki::mechanism::Mechanism;
use cryptoki::mechanism::eddsa::{EddsaParams, EddsaSignatureScheme};
use cryptoki::object::{Attribute, ObjectClass};
use cryptoki::session::UserType;
use cryptoki::types::AuthPin;

use crate::harness::{Passphrases, Rig, client, initialized, inside, session};

#[test]
fn each_refusal_has_its_code_and_no_session_is_lost() {
    if !inside() {
        return Rig::new(Passphrases::None).run_again("failures::each_refusal_has_its_code_and_no_session_is_lost");
    }
    let pkcs11 = initialized();
    let session = session(&pkcs11);
    session.login(UserType::User, Some(&AuthPin::new(OPERATOR.into()))).unwrap();
    let template = [Attribute::Class(ObjectClass::PRIVATE_KEY), Attribute::Id(b"k".to_vec())];
    let private = session.find_objects(&template).unwrap()[0];
    let signs =
        || session.sign(&Mechanism::Eddsa(EddsaParams::new(EddsaSignatureScheme::Ed25519)), private, b"message");
    let refused = |expected| match signs() {
        Err(Error::Pkcs11(rv, _)) => assert_eq!(rv, expected),
        other => panic!("{other:?}"),
    };
    signs().unwrap();

    let client = client();
    let (admin, k) = (admin(&client), key("k"));
    let tag = Tag::parse("tag").unwrap();
    admin.keys().add_tag(&k, &tag).unwrap();
    refused(RvError::KeyFunctionNotPermitted);
    admin.keys().remove_tag(&k, &tag).unwrap();
    signs().unwrap();

    admin.lock().unwrap();
    refused(RvError::DeviceRemoved);
    client.anonymous().unlock(secret(UNLOCK)).unwrap();
    signs().unwrap();

    let operator = UserId::parse("op").unwrap();
    admin.users().set_passphrase(&operator, secret("another passphrase")).unwrap();
    refused(RvError::UserNotLoggedIn);
    admin.users().set_passphrase(&operator, secret(OPERATOR)).unwrap();
    signs().unwrap();

    admin.keys().delete(&k).unwrap();
    refused(RvError::KeyHandleInvalid);
}
