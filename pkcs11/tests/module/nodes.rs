//! A slot is one HSM with several nodes: what the loss of one of them is to an application.

use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{env, fs, thread};

use casemate_testkit::{EtcdServer, Hsm, OPERATOR, admin, ed25519, key};
use cryptoki::mechanism::Mechanism;
use cryptoki::mechanism::eddsa::{EddsaParams, EddsaSignatureScheme};
use cryptoki::object::{Attribute, ObjectClass};
use cryptoki::session::UserType;
use cryptoki::types::AuthPin;

use crate::harness::{Rig, initialized, inside, session};

/// Signs until the node was killed, and then some more.
fn sign_until_killed(folder: &Path) {
    let pkcs11 = initialized();
    let session = session(&pkcs11);
    session.login(UserType::User, Some(&AuthPin::new(OPERATOR.into()))).unwrap();
    let template = [Attribute::Class(ObjectClass::PRIVATE_KEY), Attribute::Id(b"k".to_vec())];
    let private = session.find_objects(&template).unwrap()[0];
    let by = Mechanism::Eddsa(EddsaParams::new(EddsaSignatureScheme::Ed25519));
    let mut after = 0;
    for count in 1.. {
        let signature = session.sign(&by, private, b"message").unwrap();
        assert_eq!(signature.len(), 64);
        if count == 20 {
            fs::write(folder.join("signing"), "").unwrap();
        }
        if after > 0 || folder.join("killed").exists() {
            after += 1;
        }
        if after == 50 {
            break;
        }
    }
}

#[test]
fn no_call_fails_when_a_node_is_killed() {
    if inside() {
        let config = PathBuf::from(env::var_os("CASEMATE_PKCS11_CONFIG").unwrap());
        return sign_until_killed(config.parent().unwrap());
    }
    let etcd = EtcdServer::single();
    let founder = Hsm::founder(&etcd);
    admin(&founder.client()).keys().import_as(&key("k"), &ed25519()).unwrap();
    let mut other = Hsm::beside(&founder);
    let rig = Rig::of(&[&other, &founder]);
    thread::scope(|scope| {
        let signing = scope.spawn(|| rig.run_again("nodes::no_call_fails_when_a_node_is_killed"));
        while !rig.folder.path("signing").exists() && !signing.is_finished() {
            thread::sleep(Duration::from_millis(20));
        }
        other.kill();
        fs::write(rig.folder.path("killed"), "").unwrap();
        signing.join().unwrap();
    });
}
