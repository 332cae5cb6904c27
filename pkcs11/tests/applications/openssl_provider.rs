//! OpenSSL 3 by pkcs11-provider. The token keeps its key on Ed25519, which the engine cannot bear.

use std::process::{Child, Command};

use casemate_testkit::{OPERATOR, free_port};

use crate::harness::{Passphrases, Rig, module};
use crate::{VERIFIED_BY_OPENSSL, printed, shell};

/// An HSM with the keys `k01` to `k04`, and `openssl.cnf` for the provider.
pub(crate) fn rig() -> Rig {
    let rig = Rig::new(Passphrases::Administrator);
    let config = format!(
        "openssl_conf = init\n[init]\nproviders = providers\n[providers]\ndefault = builtin\npkcs11 = pkcs11\n[builtin]\n\
         activate = 1\n[pkcs11]\npkcs11-module-path = {}\npkcs11-module-token-pin = {OPERATOR}\n\
         pkcs11-module-encode-provider-uri-to-pem = true\nactivate = 1\n[req]\n\
         distinguished_name = none\n[none]\n",
        module().display()
    );
    rig.folder.file("openssl.cnf", config);
    rig.folder.file("template", "to be signed\n");
    for (kind, id) in [("rsa:2048", "01"), ("EC:prime256v1", "02"), ("EC:secp384r1", "03"), ("EC:secp521r1", "04")] {
        shell(
            &rig,
            &format!(
                "unset OPENSSL_CONF
                pkcs11-tool --module $M --login --pin \"$PIN\" --keypairgen --key-type {kind} --id {id} --label k{id}"
            ),
        );
    }
    rig
}

#[test]
fn openssl_signs_and_decrypts_by_its_provider() {
    let rig = rig();
    let script = "
        key='pkcs11:token=test;object=kID;type=private'
        openssl req -new -key \"$key\" -subj /CN=web.example -out kID.csr
        openssl req -x509 -key \"$key\" -subj /CN=web.example -days 2 -out kID.crt
        openssl dgst -sha256 -sign \"$key\" -out kID.sig template
        openssl cms -sign -nodetach -inkey \"$key\" -signer kID.crt -binary -in template -outform DER -out kID.cms";
    for id in ["01", "02", "03", "04"] {
        shell(&rig, &format!("{script}\n{VERIFIED_BY_OPENSSL}").replace("ID", id));
    }
    shell(
        &rig,
        "key='pkcs11:token=test;object=k;type=private'
        openssl pkeyutl -sign -rawin -inkey \"$key\" -in template -out ed
        openssl pkey -in 'pkcs11:token=test;object=k;type=public' -pubin -pubout -out ed.pub
        OPENSSL_CONF= openssl pkeyutl -verify -rawin -pubin -inkey ed.pub -in template -sigfile ed
        key='pkcs11:token=test;object=k01;type=private'
        openssl dgst -sha256 -sigopt rsa_padding_mode:pss -sigopt rsa_pss_saltlen:digest -sign \"$key\" -out pss template
        OPENSSL_CONF= openssl dgst -sha256 -sigopt rsa_padding_mode:pss -verify k01.pub -signature pss template
        oaep='-pkeyopt rsa_padding_mode:oaep -pkeyopt rsa_oaep_md:sha256 -pkeyopt rsa_mgf1_md:sha256'
        for padding in '-pkeyopt rsa_padding_mode:pkcs1' \"$oaep\"; do
            OPENSSL_CONF= openssl pkeyutl -encrypt -pubin -inkey k01.pub $padding -in template -out cipher
            openssl pkeyutl -decrypt -inkey \"$key\" $padding -in cipher -out plain
            cmp plain template
        done",
    );
}

/// A process that is killed when the test ends.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn openssl_serves_tls_by_its_provider_to_a_client_with_its_key_in_the_hsm() {
    let rig = rig();
    shell(
        &rig,
        "for name in server-01 client-02; do
            openssl req -x509 -key \"pkcs11:token=test;object=k${name#*-};type=private\" -subj /CN=${name%-*}.example -days 2 -out ${name%-*}.crt
        done",
    );
    let port = free_port();
    let mut server = rig.command("openssl");
    server.args([
        "s_server",
        "-key",
        "pkcs11:token=test;object=k01;type=private",
        "-cert",
        "server.crt",
        "-www",
        "-quiet",
    ]);
    server.args([
        "-Verify",
        "1",
        "-verify_return_error",
        "-CAfile",
        "client.crt",
        "-accept",
        &format!("127.0.0.1:{port}"),
    ]);
    server.current_dir(rig.folder.path(".")).env("OPENSSL_CONF", rig.folder.at("openssl.cnf"));
    let _server = Server(server.env("CASEMATE_PKCS11_LOG", "off").spawn().unwrap());
    await_listener(port);
    let page = printed(&shell(
        &rig,
        &format!(
            "printf 'GET / HTTP/1.0\\r\\n\\r\\n' | openssl s_client -connect 127.0.0.1:{port} -ign_eof -CAfile server.crt \
             -verify_return_error -cert client.crt -key 'pkcs11:token=test;object=k02;type=private' 2>&1"
        ),
    ));
    assert!(page.contains("HTTP/1.0 200 ok") && page.contains("Verify return code: 0 (ok)"), "{page}");
    assert!(page.contains("client.example"), "the server has seen the certificate: {page}");
}

/// Waits until a process listens there, without a connection to it.
fn await_listener(port: u16) {
    let listens = || {
        let sockets = Command::new("ss").args(["-Hltn", &format!("sport = :{port}")]).output().unwrap();
        !sockets.stdout.is_empty()
    };
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
    while !listens() {
        assert!(std::time::Instant::now() < deadline, "nobody listens at port {port}");
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
}
