//! Keys and what they do. OpenSSL's command line, where there is one, has the second opinion on signatures.

use std::fs;
use std::process::Command;

use serde_json::{Value, json};

use crate::harness::Hsm;

/// The seed of RFC 8032 §7.1, test 2, its public key and its signature of the byte 72.
const SEED: &str = r#"{"data":"TM0Imyj/ltqdtsNG7BFOD1uKMZ81q6Yk2oz27U+4pvs="}"#;
const SIGNATURE: &str = "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da\
                         085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00";

fn import_ed25519(hsm: &Hsm) {
    let parts = hsm.folder.file("parts", SEED);
    let import = ["key", "import", "ed", "-t", "Curve25519", "-m", "EdDSA_Signature", "--parts", &parts];
    assert_eq!(hsm.admin(&[&import[..], &["--json"]].concat()).json(), json!({ "id": "ed" }));
}

#[test]
fn keys_are_generated_shown_changed_and_deleted() {
    let hsm = Hsm::operational();
    let generate = ["key", "generate", "web", "--type", "EC_P256", "-m", "ECDSA_Signature", "--label", "Web"];
    assert_eq!(hsm.admin(&generate).ok(), "The key web was generated.\n");
    // For keys that exist the HSM answers 400, for users 409.
    assert!(hsm.admin(&generate).fails(10).contains("already exists"));
    assert_eq!(hsm.admin(&["key", "list", "--json"]).json(), json!([{ "id": "web" }]));
    assert_eq!(hsm.admin(&["key", "list", "--prefix", "x", "--json"]).json(), json!([]));
    let long = hsm.admin(&["key", "list", "--long"]).ok();
    assert!(long.contains("EC_P256") && long.contains("ECDSA_Signature") && long.contains("Web"), "{long}");
    let shown = hsm.admin(&["key", "show", "web", "--json"]).json();
    assert_eq!((&shown["id"], &shown["type"], &shown["label"]), (&json!("web"), &json!("EC_P256"), &json!("Web")));
    assert!(hsm.admin(&["key", "show", "web"]).ok().contains("Operations"));

    hsm.admin(&["key", "label", "web", "Shop"]).ok();
    assert_eq!(hsm.admin(&["key", "list", "--label", "Shop", "--json"]).json(), json!([{ "id": "web" }]));
    hsm.admin(&["key", "tag", "add", "web", "t"]).ok();
    assert_eq!(hsm.admin(&["key", "show", "web", "--json"]).json()["restrictions"], json!({ "tags": ["t"] }));
    let file = hsm.folder.file("file", "x");
    hsm.operator(&["sign", "web", &file, "-m", "ECDSA"]).fails(6);
    hsm.admin(&["key", "tag", "rm", "web", "t"]).ok();
    hsm.operator(&["sign", "web", &file, "-m", "ECDSA"]).ok();

    assert_eq!(hsm.admin(&["key", "rename", "web", "shop", "--json"]).json(), json!({ "id": "shop" }));
    assert!(hsm.admin(&["key", "delete", "shop"]).fails(2).contains("--yes"));
    hsm.admin(&["key", "delete", "shop", "--yes"]).ok();
    let gone = hsm.admin(&["key", "show", "shop"]).fails(7);
    assert!(gone.contains("Check the id"), "{gone}");
}

#[test]
fn an_imported_key_signs_what_it_must() {
    let hsm = Hsm::operational();
    import_ed25519(&hsm);
    let sign = ["sign", "ed", "--mode", "EdDSA", "--format", "hex"];
    let signature = hsm.with(("op", crate::harness::OPERATOR), &sign, b"\x72").ok();
    assert_eq!(signature.trim(), SIGNATURE);
    assert_eq!(
        hsm.with(("op", crate::harness::OPERATOR), &["sign", "ed", "-m", "EdDSA", "--format", "raw"], b"").out.len(),
        64
    );
    let wrong = hsm.with(("op", crate::harness::OPERATOR), &["sign", "ed", "-m", "ECDSA"], b"").fails(2);
    assert!(wrong.contains("does not support ECDSA"), "{wrong}");
}

#[test]
fn public_keys_come_in_three_forms() {
    let hsm = Hsm::operational();
    import_ed25519(&hsm);
    assert!(hsm.admin(&["key", "export-public", "ed"]).ok().starts_with("-----BEGIN PUBLIC KEY-----"));
    let jwk: Value = hsm.admin(&["key", "export-public", "ed", "--format", "jwk"]).json();
    let x = "PUAXw-hDiVqStwqnTRt-vJyYLM8uxJaMwM1V8Sr0Zgw";
    assert_eq!(jwk, json!({ "kty": "OKP", "crv": "Ed25519", "x": x }));
    let line = hsm.admin(&["key", "export-public", "ed", "--format", "openssh"]).ok();
    assert_eq!(line, "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAID1AF8PoQ4lakrcKp00bfrycmCzPLsSWjMDNVfEq9GYM ed\n");
}

#[test]
fn files_are_hashed_here_and_openssl_takes_the_signatures() {
    let hsm = Hsm::operational();
    let file = hsm.folder.file("file", vec![7; 200_000]);
    let rsa = "RSA_Signature_PKCS1,RSA_Signature_PSS_SHA384,RSA_Decryption_PKCS1";
    hsm.admin(&["key", "generate", "rsa", "--type", "RSA", "--length", "2048", "-m", rsa]).ok();
    for (id, kind) in [("p256", "EC_P256"), ("p521", "EC_P521")] {
        hsm.admin(&["key", "generate", id, "-t", kind, "-m", "ECDSA_Signature"]).ok();
    }
    let pss: &[&str] = &["-sigopt", "rsa_padding_mode:pss", "-sigopt", "rsa_pss_saltlen:digest"];
    for (key, mode, extra, hash, options) in [
        ("rsa", "PKCS1", &[][..], "-sha256", &[][..]),
        ("rsa", "PKCS1", &["--hash", "sha512"][..], "-sha512", &[][..]),
        ("rsa", "PSS_SHA384", &[][..], "-sha384", pss),
        ("p256", "ECDSA", &[][..], "-sha256", &[][..]),
        ("p521", "ECDSA", &[][..], "-sha512", &[][..]),
    ] {
        let public = hsm.folder.file("public", hsm.admin(&["key", "export-public", key]).ok());
        let sign = [&["sign", key, &file, "-m", mode, "--format", "raw"], extra].concat();
        let signature = hsm.folder.file("signature", hsm.operator(&sign).out);
        let mut openssl = Command::new("openssl");
        openssl.args(["dgst", hash, "-verify", &public, "-signature", &signature]).args(options).arg(&file);
        let message = openssl.output().unwrap();
        assert!(message.status.success(), "{key} {mode}: {}", String::from_utf8_lossy(&message.stderr));
    }
    assert!(hsm.admin(&["key", "export-public", "p521", "--format", "jwk"]).ok().contains("P-521"));
    let line = hsm.folder.file("line", hsm.admin(&["key", "export-public", "rsa", "--format", "openssh"]).ok());
    assert!(fs::read_to_string(line).unwrap().starts_with("ssh-rsa AAAAB3NzaC1yc2E"));

    let (public, cipher) = (hsm.folder.file("rsa", hsm.admin(&["key", "export-public", "rsa"]).ok()), hsm.at("cipher"));
    let plain = hsm.folder.file("plain", "a secret");
    let mut openssl = Command::new("openssl");
    openssl.args(["pkeyutl", "-encrypt", "-pubin", "-inkey", &public, "-in", &plain, "-out", &cipher]);
    assert!(openssl.status().unwrap().success());
    assert_eq!(hsm.operator(&["decrypt", "rsa", &cipher, "-m", "PKCS1"]).ok(), "a secret");

    assert_eq!(hsm.operator(&["decrypt", "rsa", &cipher]).ok(), "a secret", "the only mode need not be named");
    let named = hsm.operator(&["sign", "p256", &file, "-m", "ECDSA"]).ok().len();
    assert!(hsm.operator(&["sign", "p256", &file]).ok().len().abs_diff(named) < 10);
    let message = hsm.operator(&["sign", "rsa", &file]).fails(2);
    assert!(message.contains("--mode PKCS1 or PSS_SHA384"), "{message}");
    assert!(hsm.operator(&["decrypt", "p256", &cipher]).fails(2).contains("cannot decrypt"));
}

#[test]
fn what_a_generic_key_encrypts_it_decrypts() {
    let hsm = Hsm::operational();
    let both = "AES_Encryption_CBC,AES_Decryption_CBC";
    hsm.admin(&["key", "generate", "aes", "--type", "Generic", "--length", "256", "-m", both]).ok();
    let plain = hsm.folder.file("plain", "sixteen bytes ok");
    let done = hsm.operator(&["encrypt", "aes", &plain, "--json"]).json();
    let cipher = hsm.folder.file("cipher", done["encrypted"].as_str().unwrap());
    let decrypt = ["decrypt", "aes", &cipher, "-m", "AES_CBC", "--base64", "--iv", done["iv"].as_str().unwrap()];
    assert_eq!(hsm.operator(&decrypt).ok(), "sixteen bytes ok");
    assert!(hsm.operator(&["encrypt", "aes", &plain]).ok().contains("\niv "));
    assert!(hsm.admin(&["key", "export-public", "aes", "--format", "jwk"]).fails(2).contains("Generic"));
}

#[test]
fn pem_keys_requests_and_certificates() {
    let hsm = Hsm::operational();
    let pem = rcgen::KeyPair::generate().unwrap().serialize_pem();
    let import = ["key", "import", "p", "--pem", "-", "-m", "ECDSA_Signature"];
    hsm.with(("admin", crate::harness::ADMIN), &import, pem.as_bytes()).ok();
    let csr = hsm.admin(&["key", "csr", "p", "--common-name", "shop.example"]).ok();
    assert!(csr.starts_with("-----BEGIN CERTIFICATE REQUEST-----"), "{csr}");
    let missing = hsm.admin(&["key", "cert", "get", "p"]).fails(7);
    assert!(missing.contains("no certificate"), "{missing}");
    let certificate = hsm.folder.file("certificate", b"anything \xff");
    hsm.admin(&["key", "cert", "set", "p", &certificate]).ok();
    assert_eq!(hsm.admin(&["key", "cert", "get", "p"]).out, b"anything \xff");
    assert!(hsm.admin(&["key", "cert", "rm", "p"]).fails(2).contains("--yes"));
    hsm.admin(&["key", "cert", "rm", "p", "--yes"]).ok();
}
