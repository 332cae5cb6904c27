//! Every mechanism, with OpenSSL on the other side.

use casemate_testkit::{OPERATOR, admin, key};
use cryptoki::error::{Error, RvError};
use cryptoki::mechanism::Mechanism as M;
use cryptoki::mechanism::MechanismType;
use cryptoki::mechanism::eddsa::{EddsaParams, EddsaSignatureScheme};
use cryptoki::mechanism::rsa::{PkcsMgfType, PkcsOaepParams, PkcsOaepSource, PkcsPssParams};
use cryptoki::object::{Attribute, AttributeType, KeyType, ObjectClass, ObjectHandle};
use cryptoki::session::{Session, UserType};
use cryptoki::types::AuthPin;
use openssl::bn::BigNum;
use openssl::ec::{EcGroup, EcKey, EcPoint};
use openssl::ecdsa::EcdsaSig;
use openssl::encrypt::Encrypter;
use openssl::hash::{MessageDigest, hash};
use openssl::nid::Nid;
use openssl::pkey::{Id, PKey, Public};
use openssl::rsa::{Padding, Rsa};
use openssl::sign::{RsaPssSaltlen, Verifier};

use crate::harness::{Passphrases, Rig, initialized, inside, session};

fn logged_in(session: &Session) {
    session.login(UserType::User, Some(&AuthPin::new(OPERATOR.into()))).unwrap();
}

/// An attribute's bytes.
fn bytes(session: &Session, object: ObjectHandle, of: AttributeType) -> Vec<u8> {
    match session.get_attributes(object, &[of]).unwrap().pop() {
        Some(Attribute::Modulus(bytes) | Attribute::PublicExponent(bytes) | Attribute::EcPoint(bytes)) => bytes,
        other => panic!("{other:?}"),
    }
}

/// A pair of the token.
fn pair(session: &Session, by: &M<'_>, public: Vec<Attribute>) -> (ObjectHandle, ObjectHandle) {
    let private = [Attribute::Token(true), Attribute::Private(true)];
    let public: Vec<_> = public.into_iter().chain([Attribute::Token(true)]).collect();
    session.generate_key_pair(by, &public, &private).unwrap()
}

/// Verifies by the module: the signature, not one of another message, and not an altered one.
fn verified(session: &Session, key: ObjectHandle, by: &M<'_>, message: &[u8], signature: &[u8]) {
    session.verify(by, key, message, signature).unwrap();
    let invalid = |result: cryptoki::error::Result<()>| {
        assert!(matches!(result, Err(Error::Pkcs11(RvError::SignatureInvalid, _))), "{result:?}");
    };
    let other = [&[message[0] ^ 1], &message[1..]].concat();
    invalid(session.verify(by, key, &other, signature));
    let mut altered = signature.to_vec();
    altered[signature.len() / 2] ^= 1;
    invalid(session.verify(by, key, message, &altered));
    let short = session.verify(by, key, message, &signature[1..]);
    assert!(matches!(short, Err(Error::Pkcs11(RvError::SignatureLenRange, _))), "{short:?}");
}

const MESSAGE: &[u8] = b"a message that is longer than any digest, so that it is hashed, and hashed again";

fn digests() -> [(MessageDigest, MechanismType, PkcsMgfType); 5] {
    [
        (MessageDigest::sha1(), MechanismType::SHA1, PkcsMgfType::MGF1_SHA1),
        (MessageDigest::sha224(), MechanismType::SHA224, PkcsMgfType::MGF1_SHA224),
        (MessageDigest::sha256(), MechanismType::SHA256, PkcsMgfType::MGF1_SHA256),
        (MessageDigest::sha384(), MechanismType::SHA384, PkcsMgfType::MGF1_SHA384),
        (MessageDigest::sha512(), MechanismType::SHA512, PkcsMgfType::MGF1_SHA512),
    ]
}

/// Whether OpenSSL accepts a signature of [`MESSAGE`].
fn openssl_accepts(key: &PKey<Public>, digest: MessageDigest, pss: bool, signature: &[u8]) -> bool {
    let mut verifier = Verifier::new(digest, key).unwrap();
    if pss {
        verifier.set_rsa_padding(Padding::PKCS1_PSS).unwrap();
        verifier.set_rsa_pss_saltlen(RsaPssSaltlen::DIGEST_LENGTH).unwrap();
    }
    verifier.verify_oneshot(signature, MESSAGE).unwrap()
}

#[test]
fn rsa_signs_as_openssl_verifies() {
    if !inside() {
        return Rig::new(Passphrases::Administrator).run_again("mechanisms::rsa_signs_as_openssl_verifies");
    }
    let pkcs11 = initialized();
    let session = session(&pkcs11);
    logged_in(&session);
    let (public, private) = pair(&session, &M::RsaPkcsKeyPairGen, vec![Attribute::ModulusBits(2048.into())]);
    let number = |of| BigNum::from_slice(&bytes(&session, public, of)).unwrap();
    let rsa =
        Rsa::from_public_components(number(AttributeType::Modulus), number(AttributeType::PublicExponent)).unwrap();
    let key = PKey::from_rsa(rsa.clone()).unwrap();

    let pkcs1 = [M::Sha1RsaPkcs, M::Sha224RsaPkcs, M::Sha256RsaPkcs, M::Sha384RsaPkcs, M::Sha512RsaPkcs];
    for ((digest, hash_alg, mgf), by) in digests().into_iter().zip(pkcs1) {
        let signature = session.sign(&by, private, MESSAGE).unwrap();
        assert!(openssl_accepts(&key, digest, false, &signature), "{by:?}");
        verified(&session, public, &by, MESSAGE, &signature);

        // In parts.
        session.sign_init(&by, private).unwrap();
        MESSAGE.chunks(7).for_each(|part| session.sign_update(part).unwrap());
        assert_eq!(session.sign_final().unwrap(), signature);

        let s_len = digest.size();
        let params = PkcsPssParams { hash_alg, mgf, s_len: (s_len as u64).into() };
        let digested = hash(digest, MESSAGE).unwrap();
        let mut pairs = vec![(M::RsaPkcsPss(params), digested.as_ref())];
        match s_len {
            20 => pairs.push((M::Sha1RsaPkcsPss(params), MESSAGE)),
            32 => pairs.push((M::Sha256RsaPkcsPss(params), MESSAGE)),
            48 => pairs.push((M::Sha384RsaPkcsPss(params), MESSAGE)),
            64 => pairs.push((M::Sha512RsaPkcsPss(params), MESSAGE)),
            // The crate does not name it.
            _ => {}
        }
        for (by, data) in &pairs {
            let signature = session.sign(by, private, data).unwrap();
            assert!(openssl_accepts(&key, digest, true, &signature), "{by:?}");
            verified(&session, public, by, data, &signature);
        }
        // Salts of another length are refused, and not made silently.
        let other = M::RsaPkcsPss(PkcsPssParams { s_len: 0.into(), ..params });
        let refused = session.sign(&other, private, &digested);
        assert!(matches!(refused, Err(Error::Pkcs11(RvError::MechanismParamInvalid, _))), "{refused:?}");
    }

    let mut block = vec![0; 256];
    let signature = session.sign(&M::RsaPkcs, private, b"short").unwrap();
    let length = rsa.public_decrypt(&signature, &mut block, Padding::PKCS1).unwrap();
    assert_eq!(&block[..length], b"short");
    verified(&session, public, &M::RsaPkcs, b"short", &signature);
    let too_long = session.sign(&M::RsaPkcs, private, &[1; 246]);
    assert!(matches!(too_long, Err(Error::Pkcs11(RvError::DataLenRange, _))), "{too_long:?}");
    let signature = session.sign(&M::RsaX509, private, b"a number").unwrap();
    rsa.public_decrypt(&signature, &mut block, Padding::NONE).unwrap();
    assert!(block.ends_with(b"\0a number"));
    verified(&session, public, &M::RsaX509, b"a number", &signature);
}

#[test]
fn rsa_decrypts_what_openssl_and_the_module_encrypt() {
    if !inside() {
        let name = "mechanisms::rsa_decrypts_what_openssl_and_the_module_encrypt";
        return Rig::new(Passphrases::Administrator).run_again(name);
    }
    let pkcs11 = initialized();
    let session = session(&pkcs11);
    logged_in(&session);
    let (public, private) = pair(&session, &M::RsaPkcsKeyPairGen, vec![Attribute::ModulusBits(2048.into())]);
    let number = |of| BigNum::from_slice(&bytes(&session, public, of)).unwrap();
    let rsa =
        Rsa::from_public_components(number(AttributeType::Modulus), number(AttributeType::PublicExponent)).unwrap();
    let key = PKey::from_rsa(rsa.clone()).unwrap();

    let mut encrypted = vec![0; 256];
    rsa.public_encrypt(b"text", &mut encrypted, Padding::PKCS1).unwrap();
    assert_eq!(session.decrypt(&M::RsaPkcs, private, &encrypted).unwrap(), b"text");
    let encrypted = session.encrypt(&M::RsaPkcs, public, b"text").unwrap();
    assert_eq!(session.decrypt(&M::RsaPkcs, private, &encrypted).unwrap(), b"text");
    let encrypted = session.encrypt(&M::RsaX509, public, b"text").unwrap();
    assert!(session.decrypt(&M::RsaX509, private, &encrypted).unwrap().ends_with(b"\0text"));
    for (digest, hash, mgf) in digests() {
        let by = M::RsaPkcsOaep(PkcsOaepParams::new(hash, mgf, PkcsOaepSource::empty()));
        let mut encrypter = Encrypter::new(&key).unwrap();
        encrypter.set_rsa_padding(Padding::PKCS1_OAEP).unwrap();
        encrypter.set_rsa_oaep_md(digest).unwrap();
        encrypter.set_rsa_mgf1_md(digest).unwrap();
        let mut encrypted = vec![0; encrypter.encrypt_len(b"text").unwrap()];
        let length = encrypter.encrypt(b"text", &mut encrypted).unwrap();
        encrypted.truncate(length);
        assert_eq!(session.decrypt(&by, private, &encrypted).unwrap(), b"text", "{by:?}");
        if digest.size() != 28 {
            let encrypted = session.encrypt(&by, public, b"text").unwrap();
            assert_eq!(session.decrypt(&by, private, &encrypted).unwrap(), b"text", "{by:?}");
        }
        // A label is refused, and not left out.
        let by = M::RsaPkcsOaep(PkcsOaepParams::new(hash, mgf, PkcsOaepSource::data_specified(b"label")));
        let refused = session.decrypt(&by, private, &encrypted);
        assert!(matches!(refused, Err(Error::Pkcs11(RvError::MechanismParamInvalid, _))), "{refused:?}");
    }
    let garbage = session.decrypt(&M::RsaPkcs, private, &[1; 256]);
    assert!(matches!(garbage, Err(Error::Pkcs11(RvError::EncryptedDataInvalid, _))), "{garbage:?}");
    let short = session.decrypt(&M::RsaPkcs, private, &[1; 255]);
    assert!(matches!(short, Err(Error::Pkcs11(RvError::EncryptedDataLenRange, _))), "{short:?}");
}

#[test]
fn elliptic_curves_sign_as_openssl_verifies() {
    if !inside() {
        return Rig::new(Passphrases::Administrator).run_again("mechanisms::elliptic_curves_sign_as_openssl_verifies");
    }
    let pkcs11 = initialized();
    let session = session(&pkcs11);
    logged_in(&session);
    let curves: [(Nid, &[u8], bool); 7] = [
        (Nid::X9_62_PRIME256V1, &[6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 7], true),
        (Nid::SECP384R1, &[6, 5, 0x2b, 0x81, 4, 0, 34], true),
        (Nid::SECP521R1, &[6, 5, 0x2b, 0x81, 4, 0, 35], true),
        (Nid::SECP256K1, &[6, 5, 0x2b, 0x81, 4, 0, 10], true),
        (Nid::BRAINPOOL_P256R1, &[6, 9, 0x2b, 0x24, 3, 3, 2, 8, 1, 1, 7], false),
        (Nid::BRAINPOOL_P384R1, &[6, 9, 0x2b, 0x24, 3, 3, 2, 8, 1, 1, 11], false),
        (Nid::BRAINPOOL_P512R1, &[6, 9, 0x2b, 0x24, 3, 3, 2, 8, 1, 1, 13], false),
    ];
    let hashing = [M::EcdsaSha1, M::EcdsaSha224, M::EcdsaSha256, M::EcdsaSha384, M::EcdsaSha512];
    for (nid, parameters, verifies) in curves {
        let (public, private) = pair(&session, &M::EccKeyPairGen, vec![Attribute::EcParams(parameters.to_vec())]);
        let group = EcGroup::from_curve_name(nid).unwrap();
        let point = bytes(&session, public, AttributeType::EcPoint);
        // A DER OCTET STRING; of P-521 its length takes two bytes.
        let point = &point[if point[1] == 0x81 { 3 } else { 2 }..];
        let mut context = openssl::bn::BigNumContext::new().unwrap();
        let point = EcPoint::from_bytes(&group, point, &mut context).unwrap();
        let key = EcKey::from_public_key(&group, &point).unwrap();
        let half = usize::try_from(group.degree()).unwrap().div_ceil(8);
        for ((digest, ..), by) in digests().into_iter().zip(&hashing) {
            let digested = hash(digest, MESSAGE).unwrap();
            for (by, data) in [(by, MESSAGE), (&M::Ecdsa, digested.as_ref())] {
                let signature = session.sign(by, private, data).unwrap();
                assert_eq!(signature.len(), 2 * half);
                let (r, s) = signature.split_at(half);
                let (r, s) = (BigNum::from_slice(r).unwrap(), BigNum::from_slice(s).unwrap());
                let parsed = EcdsaSig::from_private_components(r, s).unwrap();
                assert!(parsed.verify(&digested, &key).unwrap(), "{nid:?} {by:?}");
                if verifies {
                    verified(&session, public, by, data, &signature);
                } else {
                    let refused = session.verify(by, public, data, &signature);
                    assert!(matches!(refused, Err(Error::Pkcs11(RvError::MechanismInvalid, _))), "{refused:?}");
                }
            }
        }
    }
    let curve = vec![Attribute::EcParams(vec![6, 3, 0x2b, 0x65, 0x70])];
    let (public, private) = pair(&session, &M::EccEdwardsKeyPairGen, curve);
    let by = M::Eddsa(EddsaParams::new(EddsaSignatureScheme::Ed25519));
    let signature = session.sign(&by, private, MESSAGE).unwrap();
    let point = bytes(&session, public, AttributeType::EcPoint);
    let key = PKey::public_key_from_raw_bytes(&point[point.len() - 32..], Id::ED25519).unwrap();
    assert!(Verifier::new_without_digest(&key).unwrap().verify_oneshot(&signature, MESSAGE).unwrap());
    verified(&session, public, &by, MESSAGE, &signature);
    // A signature that is given first (3.2).
    session.verify_signature_init(&by, public, &signature).unwrap();
    session.verify_signature(MESSAGE).unwrap();
}

#[test]
fn aes_is_that_of_openssl_by_the_server_and_in_the_module() {
    if !inside() {
        let name = "mechanisms::aes_is_that_of_openssl_by_the_server_and_in_the_module";
        return Rig::new(Passphrases::Administrator).run_again(name);
    }
    let pkcs11 = initialized();
    let session = session(&pkcs11);
    logged_in(&session);
    let (value, iv) = (*b"0123456789abcdef0123456789abcdef", [7; 16]);
    let secret = |token| {
        let template = [
            Attribute::Class(ObjectClass::SECRET_KEY),
            Attribute::KeyType(KeyType::AES),
            Attribute::Token(token),
            Attribute::Value(value.to_vec()),
            Attribute::Encrypt(true),
            Attribute::Decrypt(true),
        ];
        session.create_object(&template).unwrap()
    };
    for key in [secret(true), secret(false)] {
        for length in [0, 1, 15, 16, 17, 80] {
            let text = &MESSAGE[..length];
            let padded = openssl::symm::encrypt(openssl::symm::Cipher::aes_256_cbc(), &value, Some(&iv), text).unwrap();
            assert_eq!(session.encrypt(&M::AesCbcPad(iv), key, text).unwrap(), padded);
            assert_eq!(session.decrypt(&M::AesCbcPad(iv), key, &padded).unwrap(), text);
            // In parts of any length.
            for part in [1, 16, 33] {
                session.encrypt_init(&M::AesCbcPad(iv), key).unwrap();
                let mut parts: Vec<u8> =
                    text.chunks(part).flat_map(|part| session.encrypt_update(part).unwrap()).collect();
                parts.extend(session.encrypt_final().unwrap());
                assert_eq!(parts, padded, "{length} {part}");
                session.decrypt_init(&M::AesCbcPad(iv), key).unwrap();
                let mut parts: Vec<u8> =
                    padded.chunks(part).flat_map(|part| session.decrypt_update(part).unwrap()).collect();
                parts.extend(session.decrypt_final().unwrap());
                assert_eq!(parts, text, "{length} {part}");
            }
            if length % 16 == 0 {
                let whole = &padded[..length];
                assert_eq!(session.encrypt(&M::AesCbc(iv), key, text).unwrap(), whole);
                assert_eq!(session.decrypt(&M::AesCbc(iv), key, whole).unwrap(), text);
            } else {
                let refused = session.encrypt(&M::AesCbc(iv), key, text);
                assert!(matches!(refused, Err(Error::Pkcs11(RvError::DataLenRange, _))), "{refused:?}");
            }
        }
        let wrong = session.decrypt(&M::AesCbcPad(iv), key, &[1; 32]);
        assert!(matches!(wrong, Err(Error::Pkcs11(RvError::EncryptedDataInvalid, _))), "{wrong:?}");
    }
}

#[test]
fn a_signature_whose_length_was_asked_for_is_made_once() {
    if !inside() {
        let rig = Rig::new(Passphrases::None);
        rig.run_again("mechanisms::a_signature_whose_length_was_asked_for_is_made_once");
        let used = admin(&rig.hsm.as_ref().unwrap().client()).keys().read(&key("k")).unwrap().operations;
        return assert_eq!(used, 3);
    }
    let pkcs11 = initialized();
    let session = session(&pkcs11);
    logged_in(&session);
    let template = [Attribute::Class(ObjectClass::PRIVATE_KEY), Attribute::Id(b"k".to_vec())];
    let private = session.find_objects(&template).unwrap()[0];
    let by = M::Eddsa(EddsaParams::new(EddsaSignatureScheme::Ed25519));
    // The crate asks for the length before each of them.
    for _ in 0..3 {
        session.sign(&by, private, MESSAGE).unwrap();
    }
}
