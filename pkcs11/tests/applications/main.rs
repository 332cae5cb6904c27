//! Applications that people use, with the module and a real server: the recipes of `docs/pkcs11.md`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]
#![allow(clippy::disallowed_methods, reason = "tests look at their environment")]

#[path = "../module/harness.rs"]
#[allow(dead_code, reason = "other tests use the rest")]
mod harness;
mod nginx;
mod opendnssec;
mod opensc;
mod openssl_provider;
mod programs;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use casemate_testkit::{Folder, OPERATOR, admin};
use harness::{Passphrases, Rig, module, succeeds};

/// OpenSSL alone verifies what it has made with the key of this ID: a request, a signature and a message of CMS.
const VERIFIED_BY_OPENSSL: &str = "unset OPENSSL_CONF
    openssl req -in kID.csr -verify -noout
    openssl x509 -in kID.crt -pubkey -noout > kID.pub
    openssl dgst -sha256 -verify kID.pub -signature kID.sig template
    openssl cms -verify -in kID.cms -inform DER -CAfile kID.crt -purpose any -binary -out kID.out
    cmp kID.out template";

/// A shell with the module as `$M`, the PIN of the Operator as `$PIN`, in the folder of the rig.
fn shell(rig: &Rig, script: &str) -> Output {
    let mut command = rig.command("sh");
    command.args(["-euc", script]).current_dir(rig.folder.path("."));
    command.env("M", module()).env("PIN", OPERATOR).env("GNUTLS_PIN", OPERATOR);
    // The engine reads it.
    command.env("OPENSSL_CONF", rig.folder.at("openssl.cnf")).env("CASEMATE_PKCS11_LOG", "off");
    succeeds(&mut command)
}

fn printed(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// An HSM whose Operator has the PIN, and `openssl.cnf` for the engine.
fn rig() -> Rig {
    let rig = Rig::new(Passphrases::Administrator);
    let config = format!(
        "openssl_conf = init\n[init]\nengines = engines\n[engines]\npkcs11 = pkcs11\n[pkcs11]\nengine_id = pkcs11\n\
         MODULE_PATH = {}\nPIN = {OPERATOR}\ninit = 0\n[req]\ndistinguished_name = none\n[none]\n",
        module().display()
    );
    rig.folder.file("openssl.cnf", config);
    rig
}

/// SoftHSM2 with a token `test` whose PIN is 12345678: the module and the file that `SOFTHSM2_CONF` has to name.
fn softhsm(folder: &Folder) -> (PathBuf, String) {
    fs::create_dir(folder.path("tokens")).unwrap();
    let config = folder.file("softhsm2.conf", format!("directories.tokendir = {}\n", folder.at("tokens")));
    let mut init = Command::new("softhsm2-util");
    init.args(["--init-token", "--free", "--label", "test", "--so-pin", "12345678", "--pin", "12345678"]);
    succeeds(init.env("SOFTHSM2_CONF", &config));
    let module = Path::new("/usr/lib/softhsm/libsofthsm2.so");
    assert!(module.exists(), "SoftHSM2 is missing (Debian: softhsm2)");
    (module.into(), config)
}

#[test]
fn gnutls_generates_signs_and_stores_a_certificate() {
    let rig = rig();
    for (kind, label) in [("rsa --bits 2048", "rsa"), ("ecdsa --curve secp256r1", "ec"), ("ed25519", "ed")] {
        shell(
            &rig,
            &format!(
                "p11tool --provider $M --login --generate-privkey {kind} --label {label} --outfile {label}.pem 'pkcs11:token=test'"
            ),
        );
    }
    for label in ["rsa", "ec"] {
        let signed = shell(
            &rig,
            &format!("p11tool --provider $M --login --test-sign 'pkcs11:token=test;object={label};type=private' 2>&1"),
        );
        assert_eq!(printed(&signed).matches(" ok").count(), 3, "{}", printed(&signed));
    }
    rig.folder.file("template", "cn = web.example\nexpiration_days = 30\nsigning_key\n");
    shell(
        &rig,
        "certtool --provider $M --generate-self-signed --load-privkey 'pkcs11:token=test;object=ec;type=private' \
         --load-pubkey 'pkcs11:token=test;object=ec;type=public' --template template --outfile cert.pem
         unset OPENSSL_CONF; openssl verify -CAfile cert.pem cert.pem
         p11tool --provider $M --login --write --load-certificate cert.pem --label ec 'pkcs11:token=test'",
    );
    let listed = printed(&shell(&rig, "p11tool --provider $M --login --list-all 'pkcs11:token=test'"));
    for kind in ["type=private", "type=public", "type=cert"] {
        assert!(listed.contains(&format!("object=ec;{kind}")), "{listed}");
    }
    shell(&rig, "p11tool --provider $M --login --export 'pkcs11:token=test;object=ec;type=cert' --outfile again.pem
        unset OPENSSL_CONF; openssl x509 -in again.pem -outform DER -out a; openssl x509 -in cert.pem -outform DER -out b; cmp a b");
}

#[test]
fn openssl_signs_by_its_engine() {
    let rig = rig();
    // The engine of Debian 12 finds no key of a token that has one on Ed25519, with SoftHSM as with this module.
    admin(&rig.hsm.as_ref().unwrap().client()).keys().delete(&casemate_testkit::key("k")).unwrap();
    for (kind, id) in [("rsa:2048", "01"), ("EC:prime256v1", "02"), ("EC:secp384r1", "03"), ("EC:secp521r1", "04")] {
        shell(
            &rig,
            &format!(
                "pkcs11-tool --module $M --login --pin \"$PIN\" --keypairgen --key-type {kind} --id {id} --label k{id}"
            ),
        );
        let script = "
            key='pkcs11:token=test;object=kID;type=private'
            openssl req -engine pkcs11 -keyform engine -new -key \"$key\" -subj /CN=web.example -out kID.csr
            openssl req -engine pkcs11 -keyform engine -x509 -key \"$key\" -subj /CN=web.example -days 2 -out kID.crt
            openssl dgst -engine pkcs11 -keyform engine -sha256 -sign \"$key\" -out kID.sig template
            openssl cms -sign -nodetach -engine pkcs11 -keyform engine -inkey \"$key\" -signer kID.crt -binary -in template -outform DER -out kID.cms";
        rig.folder.file("template", "to be signed\n");
        shell(&rig, &format!("{script}\n{VERIFIED_BY_OPENSSL}").replace("ID", id));
    }
    shell(
        &rig,
        "openssl dgst -engine pkcs11 -keyform engine -sha256 -sigopt rsa_padding_mode:pss -sigopt rsa_pss_saltlen:digest \
         -sign 'pkcs11:token=test;object=k01;type=private' -out pss template
         unset OPENSSL_CONF
         openssl dgst -sha256 -sigopt rsa_padding_mode:pss -verify k01.pub -signature pss template",
    );
}

#[test]
fn openssl_serves_tls_with_its_key_in_the_hsm() {
    let rig = rig();
    admin(&rig.hsm.as_ref().unwrap().client()).keys().delete(&casemate_testkit::key("k")).unwrap();
    shell(&rig, "pkcs11-tool --module $M --login --pin \"$PIN\" --keypairgen --key-type EC:prime256v1 --id 01 --label web
        openssl req -engine pkcs11 -keyform engine -x509 -key 'pkcs11:token=test;object=web;type=private' -subj /CN=localhost -days 2 -out web.crt");
    let port = casemate_testkit::free_port();
    let mut server = rig.command("openssl");
    server.args([
        "s_server",
        "-engine",
        "pkcs11",
        "-keyform",
        "engine",
        "-key",
        "pkcs11:token=test;object=web;type=private",
    ]);
    server.args(["-cert", &rig.folder.at("web.crt"), "-accept", &format!("127.0.0.1:{port}"), "-www", "-quiet"]);
    server.env("OPENSSL_CONF", rig.folder.at("openssl.cnf")).env("CASEMATE_PKCS11_LOG", "off");
    let mut server = server.spawn().unwrap();
    let mut curl = Command::new("curl");
    curl.args([
        "-sS",
        "--retry",
        "60",
        "--retry-connrefused",
        "--retry-delay",
        "1",
        "--cacert",
        &rig.folder.at("web.crt"),
    ]);
    let page = curl.arg(format!("https://localhost:{port}/")).output().unwrap();
    server.kill().unwrap();
    server.wait().unwrap();
    assert!(page.status.success(), "{}", String::from_utf8_lossy(&page.stderr));
    assert!(printed(&page).contains("TLSv1.3"), "{}", printed(&page));
}

#[test]
fn java_generates_renames_and_signs() {
    let rig = rig();
    rig.folder.file("java.cfg", format!("name = Casemate\nlibrary = {}\nslotListIndex = 0\n", module().display()));
    let keytool = |command: &str| {
        printed(&shell(
            &rig,
            &format!(
                "keytool -keystore NONE -storetype PKCS11 -providerClass sun.security.pkcs11.SunPKCS11 \
                 -providerArg java.cfg -storepass \"$PIN\" {command} 2>&1"
            ),
        ))
    };
    let keys = || {
        let keys = admin(&rig.hsm.as_ref().unwrap().client()).keys().list(&Default::default()).unwrap();
        keys.into_iter().map(|key| key.id).collect::<Vec<_>>()
    };
    keytool("-genkeypair -alias rsa -keyalg RSA -keysize 2048 -dname CN=java.example");
    keytool("-genkeypair -alias ec -keyalg EC -groupname secp256r1 -dname CN=java.example");
    assert_eq!(keys(), ["ec", "k", "rsa"]);
    // It gives the key another id, its certificate another label, and deletes what has the old ones.
    keytool("-changealias -alias ec -destalias web");
    assert_eq!(keys(), ["k", "rsa", "web"]);
    let listed = keytool("-list");
    assert!(listed.contains("rsa, PrivateKeyEntry") && listed.contains("web, PrivateKeyEntry"), "{listed}");
    for alias in ["rsa", "web"] {
        fs::write(rig.folder.path("request"), keytool(&format!("-certreq -alias {alias}"))).unwrap();
        shell(&rig, "unset OPENSSL_CONF; openssl req -in request -verify -noout");
    }
    keytool("-delete -alias web");
    assert_eq!(keys(), ["k", "rsa"]);
    shell(&rig, "mkdir content; echo x > content/file; jar -cf signed.jar -C content file
        jarsigner -keystore NONE -storetype PKCS11 -providerClass sun.security.pkcs11.SunPKCS11 -providerArg java.cfg -storepass \"$PIN\" signed.jar rsa
        jarsigner -verify signed.jar | grep 'jar verified'");
}

#[test]
fn ssh_lists_keys_and_its_agent_signs() {
    let rig = rig();
    rig.folder.file("ask", "#!/bin/sh\necho \"$PIN\"\n");
    shell(
        &rig,
        "unset OPENSSL_CONF; chmod +x ask
        pkcs11-tool --module $M --login --pin \"$PIN\" --keypairgen --key-type EC:prime256v1 --id 01 --label host
        export SSH_ASKPASS=./ask SSH_ASKPASS_REQUIRE=force
        ssh-keygen -D $M | grep ecdsa > key.pub
        eval $(ssh-agent -a ./agent -P '/*'); trap 'kill $SSH_AGENT_PID' EXIT
        ssh-add -s $M
        ssh-add -L | grep -q \"$(cut -d' ' -f2 key.pub)\"
        echo data > data; ssh-keygen -Y sign -f key.pub -n file data
        echo \"me $(cat key.pub)\" > allowed
        ssh-keygen -Y verify -f allowed -I me -n file -s data.sig < data",
    );
}

#[test]
fn p11_kit_finds_the_module_and_uris_name_its_keys() {
    let rig = rig();
    let file = format!("module: {}\n", module().display());
    // In a mount namespace: root has no p11-kit configuration of its own.
    let listed = shell(
        &rig,
        &format!(
            "unset OPENSSL_CONF; mkdir modules; printf '{file}' > modules/casemate.module
        pkcs11-tool --module $M --login --pin \"$PIN\" --keypairgen --key-type EC:prime256v1 --id 01ff --label host
        mkdir -p /usr/share/p11-kit/modules
        unshare --mount sh -euc \"
            mount --bind modules /usr/share/p11-kit/modules
            p11tool --list-tokens
            p11tool --login --list-privkeys 'pkcs11:token=test;id=%01%FF'\""
        ),
    );
    let listed = printed(&listed);
    assert!(listed.contains("model=Network%20HSM;manufacturer=Casemate;serial="), "{listed}");
    assert!(listed.contains("token=test;id=%01%FF;object=host;type=private"), "{listed}");
}

#[test]
fn nss_requests_and_stores_certificates() {
    let rig = rig();
    shell(
        &rig,
        "unset OPENSSL_CONF; mkdir nss; printf '%s\n' \"$PIN\" > pin; head -c 200 /dev/urandom > noise
        certutil -N -d sql:nss --empty-password
        modutil -dbdir sql:nss -add casemate -libfile $M -force
        for kind in '-k ec -q nistp256' '-k rsa -g 2048'; do
            certutil -R -d sql:nss -h test -f pin $kind -s CN=nss.example -z noise -o request
            openssl req -inform DER -in request -verify -noout
        done
        certutil -S -d sql:nss -h test -f pin -k rsa -g 2048 -s CN=self -n self -x -t ,, -z noise -m 77",
    );
    let keys = printed(&shell(&rig, "certutil -K -d sql:nss -h test -f pin"));
    assert_eq!(keys.matches("orphan").count(), 2, "{keys}");
    assert!(keys.contains("self"), "{keys}");
    let certificates = printed(&shell(&rig, "certutil -L -d sql:nss -h test -f pin"));
    assert!(certificates.contains("test:self") && certificates.contains("u,u,u"), "{certificates}");
}

#[test]
fn knot_signs_a_zone() {
    let rig = rig();
    let folder = rig.folder.at(".");
    // A PIN in a URI (RFC 7512) has its blanks encoded.
    let pin = OPERATOR.replace(' ', "%20");
    let config = format!(
        "server:\n  rundir: {folder}\ndatabase:\n  storage: {folder}\nkeystore:\n  - id: hsm\n    backend: pkcs11\n    \
         config: \"pkcs11:token=test;pin-value={pin} {}\"\npolicy:\n  - id: hsm\n    keystore: hsm\n    \
         algorithm: ECDSAP256SHA256\nzone:\n  - domain: example.test\n    storage: {folder}\n    \
         file: example.test.zone\n    dnssec-signing: on\n    dnssec-policy: hsm\n",
        module().display()
    );
    rig.folder.file("knot.conf", config);
    rig.folder.file(
        "example.test.zone",
        "example.test. 3600 SOA ns.example.test. admin.example.test. 1 3600 900 86400 300\n\
         example.test. 3600 NS ns.example.test.\nns.example.test. 3600 A 127.0.0.1\n",
    );
    shell(
        &rig,
        "unset OPENSSL_CONF; mkdir signed
        keymgr -c knot.conf example.test generate algorithm=ECDSAP256SHA256 ksk=yes
        keymgr -c knot.conf example.test generate algorithm=ECDSAP256SHA256
        kzonesign -c knot.conf -o signed example.test
        kzonecheck -d on -o example.test signed/example.test.zone",
    );
    assert!(fs::read_to_string(rig.folder.path("signed/example.test.zone")).unwrap().contains("RRSIG"));
    let keys = admin(&rig.hsm.as_ref().unwrap().client()).keys().list(&Default::default()).unwrap();
    assert_eq!(keys.len(), 3, "those of the zone, and the one that was there");
}

#[test]
fn opensc_imports_a_key_with_its_certificate_and_deletes_them() {
    let rig = rig();
    shell(
        &rig,
        "unset OPENSSL_CONF
        openssl genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:2048 -out key.pem 2>/dev/null
        openssl req -x509 -new -key key.pem -subj /CN=imported -days 2 -out cert.pem
        openssl rsa -in key.pem -outform DER -out key.der 2>/dev/null
        openssl rsa -in key.pem -pubout -outform DER -out pub.der 2>/dev/null
        openssl x509 -in cert.pem -outform DER -out cert.der",
    );
    for (kind, file) in [("privkey", "key.der"), ("pubkey", "pub.der"), ("cert", "cert.der")] {
        shell(
            &rig,
            &format!(
                "pkcs11-tool --module $M --login --pin \"$PIN\" --write-object {file} --type {kind} --id a1b2 --label imported"
            ),
        );
    }
    shell(&rig, "pkcs11-tool --module $M --login --pin \"$PIN\" --read-object --type cert --id a1b2 --output-file read.der; cmp read.der cert.der
        echo to be signed > data
        pkcs11-tool --module $M --login --pin \"$PIN\" --sign --mechanism SHA256-RSA-PKCS --id a1b2 --input-file data --output-file sig
        unset OPENSSL_CONF; openssl rsa -pubin -inform DER -in pub.der -out pub.pem 2>/dev/null
        openssl dgst -sha256 -verify pub.pem -signature sig data
        openssl pkeyutl -encrypt -pubin -inkey pub.pem -pkeyopt rsa_padding_mode:oaep -pkeyopt rsa_oaep_md:sha256 -in data -out cipher
        pkcs11-tool --module $M --login --pin \"$PIN\" --decrypt --mechanism RSA-PKCS-OAEP --hash-algorithm SHA256 --id a1b2 --input-file cipher --output-file plain
        cmp plain data");
    for kind in ["cert", "pubkey", "privkey"] {
        shell(&rig, &format!("pkcs11-tool --module $M --login --pin \"$PIN\" --delete-object --type {kind} --id a1b2"));
    }
    let keys = admin(&rig.hsm.as_ref().unwrap().client()).keys().list(&Default::default()).unwrap();
    assert_eq!(keys.into_iter().map(|key| key.id).collect::<Vec<_>>(), ["k"]);
    assert!(fs::exists(rig.folder.path("plain")).unwrap());
}
