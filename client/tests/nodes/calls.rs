//! The typed calls against a real HSM: both ends understand the bodies in the same way.

use std::collections::BTreeSet;

use casemate_api::body::config::Switch;
use casemate_api::body::keys::{
    Decrypt, DistinguishedName, Encrypt, GenerateKey, ImportArguments, PublicParts, Restrictions,
};
use casemate_api::body::users::{NewNamespaceQuota, NewUser};
use casemate_api::{DecryptMode, EncryptMode, KeyType, Mechanism, NamespaceId, Role, State, Tag, UserId};
use casemate_client::{Changed, Error, KeyFilter, KeyPageRequest, Upload};
use casemate_testkit::{ADMIN, Hsm, UNLOCK, admin, client_of, key, operator, secret};
use zeroize::Zeroizing;

fn generate(id: &str, key_type: KeyType, mechanisms: &[Mechanism], length: i64) -> GenerateKey {
    let mechanisms = mechanisms.to_vec();
    GenerateKey {
        mechanisms,
        key_type,
        length,
        id: id.into(),
        restrictions: Restrictions::default(),
        label: String::new(),
    }
}

fn name(common_name: &str) -> DistinguishedName {
    serde_json::from_value(serde_json::json!({ "commonName": common_name })).unwrap()
}

#[test]
fn the_states_of_a_device() {
    let hsm = Hsm::start();
    let nobody = hsm.client().anonymous();
    assert_eq!(nobody.info().unwrap().vendor, "Casemate");
    assert_eq!(nobody.health().state().unwrap(), State::Unprovisioned);
    assert!(nobody.health().alive().unwrap() && !nobody.health().ready().unwrap());
    assert!(matches!(nobody.keys().list(&KeyFilter::default()), Err(Error::WrongState { .. })));
    drop(hsm);

    let hsm = Hsm::with_key();
    let client = hsm.client();
    let admin = admin(&client);
    assert!(client.anonymous().health().ready().unwrap());
    assert!(matches!(client.anonymous().unlock(secret(UNLOCK)), Err(Error::WrongState { .. })));
    admin.lock().unwrap();
    assert_eq!(client.anonymous().health().state().unwrap(), State::Locked);
    assert!(matches!(client.anonymous().unlock(secret("wrong passphrase")), Err(Error::Forbidden { .. })));
    // The failed attempt blocks the next one for a second: the client waits.
    client.anonymous().unlock(secret(UNLOCK)).unwrap();
    assert_eq!(client.anonymous().health().state().unwrap(), State::Operational);
    assert_eq!(admin.system().info().unwrap().device_id.len(), 10);
    assert_eq!(admin.config().unattended_boot().unwrap(), Switch::Off);
    admin.config().set_unattended_boot(Switch::On).unwrap();
    assert_eq!(admin.config().unattended_boot().unwrap(), Switch::On);
    admin.config().set_unlock_passphrase(secret(UNLOCK), secret("another passphrase")).unwrap();
    assert!(!client.anonymous().health().diagnose().is_ok_and(|d| d.cluster_state.running));
}

#[test]
fn the_life_of_keys() {
    let hsm = Hsm::with_key();
    let client = hsm.client();
    let (admin, operator) = (admin(&client), operator(&client));
    let keys = admin.keys();
    assert_eq!(keys.generate(&generate("ec", KeyType::EC_P256, &[Mechanism::ECDSA_Signature], 0)).unwrap().id, "ec");
    let aes = [Mechanism::AES_Encryption_CBC, Mechanism::AES_Decryption_CBC];
    keys.generate(&generate("aes", KeyType::Generic, &aes, 256)).unwrap();
    let listed: Vec<_> = keys.list(&KeyFilter::default()).unwrap().into_iter().map(|item| item.id).collect();
    assert_eq!(listed, ["aes", "ec", "k"]);

    let read = keys.read(&key("ec")).unwrap();
    assert_eq!((read.key_type, read.operations, read.label.as_str()), (KeyType::EC_P256, 0, ""));
    assert!(matches!(read.public, Some(PublicParts::Data { .. })));
    assert!(keys.read(&key("aes")).unwrap().public.is_none());
    assert!(keys.public_pem(&key("ec")).unwrap().starts_with("-----BEGIN PUBLIC KEY-----"));
    assert!(keys.csr(&key("ec"), &name("example.org")).unwrap().contains("CERTIFICATE REQUEST"));

    assert_eq!(keys.set_label(&key("ec"), "a & b").unwrap(), Changed::Yes);
    assert_eq!(keys.set_label(&key("ec"), "a & b").unwrap(), Changed::No);
    let labelled = KeyFilter { label: Some("a & b".into()), ..KeyFilter::default() };
    assert_eq!(keys.list(&labelled).unwrap()[0].id, "ec");
    let prefixed = KeyFilter { prefix: Some(key("a")), ..KeyFilter::default() };
    assert_eq!(keys.list(&prefixed).unwrap()[0].id, "aes");
    keys.delete_label(&key("ec")).unwrap();

    let tag = Tag::parse("berlin").unwrap();
    assert_eq!(keys.add_tag(&key("aes"), &tag).unwrap(), Changed::Yes);
    assert_eq!(keys.read(&key("aes")).unwrap().restrictions.tags, ["berlin"]);
    let usable = KeyFilter { usable: true, ..KeyFilter::default() };
    assert_eq!(operator.keys().list(&usable).unwrap().len(), 2);
    let encrypt = |message: &str| {
        let message = Zeroizing::new(message.to_owned());
        operator.keys().encrypt(&key("aes"), &Encrypt { mode: EncryptMode::AES_CBC, message, iv: None })
    };
    assert!(matches!(encrypt("ZmlmdGVlbiBieXRlcyEh"), Err(Error::Forbidden { .. })));
    keys.remove_tag(&key("aes"), &tag).unwrap();
    assert!(
        matches!(encrypt("ZmlmdGVlbiBieXRlcyEh"), Err(Error::Refused { status: 400, .. })),
        "15 bytes are no block"
    );
    let message = "MDEyMzQ1Njc4OWFiY2RlZg==";
    let sealed = encrypt(message).unwrap();
    let request = Decrypt { mode: DecryptMode::AES_CBC, encrypted: sealed.encrypted, iv: Some(sealed.iv) };
    assert_eq!(*operator.keys().decrypt(&key("aes"), &request).unwrap().decrypted, message);

    assert_eq!(keys.certificate(&key("ec")).unwrap(), None);
    keys.set_certificate(&key("ec"), b"any bytes").unwrap();
    assert_eq!(keys.certificate(&key("ec")).unwrap().unwrap().as_slice(), b"any bytes");
    assert!(matches!(keys.set_certificate(&key("ec"), b"more"), Err(Error::Refused { status: 409, .. })));
    keys.delete_certificate(&key("ec")).unwrap();
    assert_eq!(keys.rename(&key("ec"), &key("ec2")).unwrap().id, "ec2");
    keys.delete(&key("ec2")).unwrap();
    assert!(matches!(keys.read(&key("ec2")), Err(Error::NotFound { .. })));

    let pem = "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIEzNCJso/5banbbDRuwRTg9bijGfNaumJNqM9u1PuKb7\n-----END PRIVATE KEY-----\n";
    let arguments = ImportArguments {
        mechanisms: vec![Mechanism::EdDSA_Signature],
        restrictions: Restrictions::default(),
        label: String::new(),
    };
    keys.import_pem_as(&key("pem"), &arguments, pem).unwrap();
    let picked = keys.import_pem(&arguments, pem).unwrap().id;
    assert_eq!(keys.public_pem(&key(&picked)).unwrap(), keys.public_pem(&key("k")).unwrap());
    assert_eq!(operator.random(40).unwrap().random.len(), 56);
}

#[test]
fn keys_with_details_are_read_in_pages() {
    let hsm = Hsm::with_key();
    let client = hsm.client();
    let (admin, operator) = (admin(&client), operator(&client));
    let keys = admin.keys();
    keys.generate(&generate("aes", KeyType::Generic, &[Mechanism::AES_Encryption_CBC], 256)).unwrap();
    keys.generate(&generate("ec", KeyType::EC_P256, &[Mechanism::ECDSA_Signature], 0)).unwrap();
    keys.set_label(&key("ec"), "a & b").unwrap();
    keys.set_certificate(&key("ec"), b"any bytes").unwrap();

    let all = KeyFilter::default();
    let listed = |filter: &KeyFilter, limit| {
        let pages: Result<Vec<_>, _> = operator.keys().list_details(filter, limit).collect();
        pages.unwrap().into_iter().map(|page| page.keys).collect::<Vec<_>>()
    };
    let pages = listed(&all, 2);
    assert_eq!(pages.iter().map(Vec::len).collect::<Vec<_>>(), [2, 1]);
    let flat: Vec<_> = pages.into_iter().flatten().collect();
    assert_eq!(listed(&all, 1000), [flat]);
    let labelled = KeyFilter { label: Some("a & b".into()), usable: true, ..KeyFilter::default() };
    let found: Vec<_> = listed(&labelled, 1).into_iter().flatten().collect();
    let [ec] = &found[..] else { panic!("{found:?}") };
    let read = keys.read(&key("ec")).unwrap();
    assert_eq!((&*ec.id, &ec.uid, &ec.label, ec.certificate), ("ec", &read.uid, &read.label, true));
    assert_eq!((ec.key_type, &ec.mechanisms, &ec.public), (read.key_type, &read.mechanisms, &read.public));

    // A page that is known is not sent again until it is another one.
    let request = KeyPageRequest { after: Some(&key("b")), limit: 1, known: None };
    let page = keys.page_of_details(&all, request).unwrap().unwrap();
    assert_eq!((page.keys.len(), page.next), (1, Some(key("ec"))));
    let again = KeyPageRequest { known: Some(&page.etag), ..request };
    assert!(keys.page_of_details(&all, again).unwrap().is_none());
    keys.delete_certificate(&key("ec")).unwrap();
    assert!(!keys.page_of_details(&all, again).unwrap().unwrap().keys[0].certificate);

    let refused: Vec<_> = keys.list_details(&all, 0).collect();
    assert!(matches!(refused[..], [Err(Error::Refused { status: 400, .. })]), "{refused:?}");
}

#[test]
fn users_and_namespaces() {
    let hsm = Hsm::with_key();
    let client = hsm.client();
    let admin = admin(&client);
    let user = |role| NewUser { real_name: "Ada".into(), role, passphrase: secret("passphrase of ada") };
    let (ada, ns) = (UserId::parse("ns~ada").unwrap(), NamespaceId::parse("ns").unwrap());
    admin.users().create_as(&ada, &user(Role::Administrator)).unwrap();
    admin.namespaces().create(&ns).unwrap();
    assert_eq!(admin.namespaces().list().unwrap()[0].id, "ns");
    let session = client.log_in(&ada, secret("passphrase of ada"));
    let picked = session.users().create(&user(Role::Operator)).unwrap().id;
    assert!(picked.starts_with("ns~"));
    session.users().create_in(&ns, &user(Role::Operator)).unwrap();
    assert_eq!(session.users().list().unwrap().len(), 3);
    let picked = UserId::parse(&picked).unwrap();
    let tag = Tag::parse("berlin").unwrap();
    assert_eq!(session.users().add_tag(&picked, &tag).unwrap(), Changed::Yes);
    assert_eq!(session.users().add_tag(&picked, &tag).unwrap(), Changed::No);
    assert_eq!(session.users().tags(&picked).unwrap(), ["berlin"]);
    session.users().remove_tag(&picked, &tag).unwrap();
    assert_eq!(session.users().read(&picked).unwrap().role, Role::Operator);
    session.users().set_passphrase(&picked, secret("new passphrase")).unwrap();
    client.log_in(&picked, secret("new passphrase")).random(1).unwrap();
    session.users().delete(&picked).unwrap();
    assert!(matches!(admin.users().create_as(&ada, &user(Role::Operator)), Err(Error::Forbidden { .. })));
    admin.namespaces().set_quota(&ns, NewNamespaceQuota { max_keys: Some(0), max_bytes: None }).unwrap();
    let quota = admin.namespaces().quota(&ns).unwrap();
    assert_eq!((quota.max_keys, quota.max_bytes), (Some(0), None));
    let one_more = session.keys().generate(&generate("q", KeyType::EC_P256, &[Mechanism::ECDSA_Signature], 0));
    assert!(matches!(one_more, Err(Error::Refused { status: 507, .. })), "{one_more:?}");
    admin.namespaces().delete(&ns).unwrap();

    let wrong = client.log_in(&UserId::parse("admin").unwrap(), secret("wrong passphrase"));
    assert!(matches!(wrong.users().list(), Err(Error::Unauthenticated { .. })));
    // Logins are blocked for a second now; the client waits.
    let right = client.log_in(&UserId::parse("admin").unwrap(), secret(ADMIN));
    let users: BTreeSet<_> = right.users().list().unwrap().into_iter().map(|item| item.user).collect();
    assert!(users.contains("admin"));
}

#[test]
fn a_device_call_with_several_devices_asks_which() {
    let nodes = [Hsm::with_key(), Hsm::with_key()];
    let client = client_of(&[&nodes[0], &nodes[1]]);
    assert!(matches!(admin(&client).lock(), Err(Error::NodeRequired { nodes }) if nodes.len() == 2));
    assert!(matches!(client.anonymous().at(2), Err(Error::NodeRequired { .. })));
}

#[test]
fn an_update_is_streamed_and_its_refusal_has_a_message() {
    let hsm = Hsm::with_key();
    let admin = admin(&hsm.client());
    let image = vec![0_u8; 3 << 20];
    let (mut reader, mut sent) = (image.as_slice(), 0);
    let mut progress = |bytes| sent = bytes;
    let upload = Upload::new(&mut reader, image.len() as u64).on_progress(&mut progress);
    match admin.system().update(upload) {
        Err(Error::Refused { status, message, .. }) => assert!(status == 400 || status == 412, "{status} {message}"),
        other => panic!("{other:?}"),
    }
    assert!(sent > 0);
}
