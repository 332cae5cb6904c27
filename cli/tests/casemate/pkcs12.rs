//! PKCS#12 files as openssl writes them.

use std::fs;
use std::process::Command;

use crate::harness::{ADMIN, Folder, Hsm};
use crate::pty::Person;

const PASSWORD: &str = "of the file";

#[track_caller]
fn openssl(arguments: &[&str]) -> Vec<u8> {
    let output = Command::new("openssl").args(arguments).output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

/// A key with a certificate; their paths.
fn pair(folder: &Folder, name: &str, kind: &[&str]) -> (String, String) {
    let at = |end: &str| folder.at(&format!("{name}.{end}"));
    let (key, certificate) = (at("key"), at("crt"));
    let subject = format!("/CN={name}");
    let make = ["req", "-x509", "-nodes", "-subj", &subject, "-keyout", &key, "-out", &certificate];
    openssl(&[&make[..], kind].concat());
    (key, certificate)
}

/// The same in a PKCS#12 file.
fn export(folder: &Folder, name: &str, (key, certificate): (&str, &str), options: &[&str]) -> String {
    let file = folder.at(&format!("{name}.p12"));
    let password = format!("pass:{PASSWORD}");
    let make = ["pkcs12", "-export", "-inkey", key, "-in", certificate, "-out", &file, "-passout", &password];
    openssl(&[&make[..], options].concat());
    file
}

const RSA: &[&str] = &["-newkey", "rsa:2048"];
const P256: &[&str] = &["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"];

#[test]
fn files_of_today_and_of_old_are_imported_with_their_certificates() {
    let hsm = Hsm::operational();
    let password = hsm.folder.file("password", PASSWORD);
    for (name, kind, mechanism, options) in [
        ("rsa", RSA, "RSA_Signature_PKCS1", &[][..]),
        ("old", RSA, "RSA_Signature_PKCS1", &["-legacy"][..]),
        ("p256", P256, "ECDSA_Signature", &["-macalg", "sha512", "-iter", "100000"][..]),
    ] {
        let (key, certificate) = pair(&hsm.folder, name, kind);
        let (_, other) = pair(&hsm.folder, "other", P256);
        // A chain: only the certificate of the key is its own.
        let options = [options, &["-certfile", &other]].concat();
        let file = export(&hsm.folder, name, (&key, &certificate), &options);
        let import = ["key", "import", name, "--pkcs12", &file, "--pkcs12-password-file", &password, "-m", mechanism];
        assert!(hsm.admin(&import).ok().contains(name));
        let public = String::from_utf8(openssl(&["pkey", "-in", &key, "-pubout"])).unwrap();
        assert_eq!(hsm.admin(&["key", "export-public", name]).ok(), public, "{name}");
        let stored = hsm.folder.file("stored", hsm.admin(&["key", "cert", "get", name]).out);
        let der = |file: &str| openssl(&["x509", "-in", file, "-outform", "DER"]);
        assert_eq!(der(&stored), der(&certificate), "{name}");
    }
    let file = hsm.at("rsa.p12");
    let import = ["key", "import", "bare", "--pkcs12", &file, "--pkcs12-password-file", &password, "--no-certificate"];
    hsm.admin(&[&import[..], &["-m", "RSA_Signature_PKCS1"]].concat()).ok();
    hsm.admin(&["key", "cert", "get", "bare"]).fails(7);
}

#[test]
fn the_password_is_asked_for_and_a_wrong_one_is_refused() {
    let hsm = Hsm::operational();
    let (key, certificate) = pair(&hsm.folder, "web", P256);
    let file = export(&hsm.folder, "web", (&key, &certificate), &[]);
    let import = ["--host", &hsm.address, "--insecure", "--user", "admin", "key", "import", "web", "--pkcs12", &file];
    let import = [&import[..], &["-m", "ECDSA_Signature"]].concat();
    for (password, code, says) in [("not of the file", 2, "cannot be opened with this password"), (PASSWORD, 0, "")] {
        let mut person = Person::runs(&import, &[("CASEMATE_PASSPHRASE", ADMIN)]);
        person.sees("Password of ");
        person.types_unseen(password);
        let (ended, _, shown) = person.ends();
        assert!(ended == code && shown.contains(says), "{shown}");
        assert!(!shown.contains(password), "{shown}");
    }
    hsm.admin(&["key", "show", "web"]).ok();
}

#[test]
fn files_without_one_key_are_refused() {
    let hsm = Hsm::operational();
    let password = hsm.folder.file("password", PASSWORD);
    let (_, certificate) = pair(&hsm.folder, "lone", P256);
    let none = hsm.at("none.p12");
    let make = ["pkcs12", "-export", "-nokeys", "-in", &certificate, "-out", &none, "-passout"];
    openssl(&[&make[..], &[&format!("pass:{PASSWORD}")]].concat());
    let garbage = hsm.folder.file("garbage", fs::read(&certificate).unwrap());
    for (file, says) in [(&none, "has no private key"), (&garbage, "is not a PKCS#12 file")] {
        let import = ["key", "import", "--pkcs12", file, "--pkcs12-password-file", &password, "-m", "ECDSA_Signature"];
        let message = hsm.admin(&import).fails(2);
        assert!(message.contains(says), "{message}");
    }
    assert_eq!(hsm.admin(&["key", "list"]).ok().lines().count(), 1);
    assert_eq!(hsm.admin(&["key", "import", "x", "-m", "ECDSA_Signature"]).code, 2);
    let both = ["key", "import", "x", "--pkcs12", &none, "--pem", &none, "-m", "ECDSA_Signature"];
    assert_eq!(hsm.admin(&both).code, 2);
}
