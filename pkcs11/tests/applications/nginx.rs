//! nginx with the key of its certificate in the HSM: its master loads the key, and its workers are forks that sign with it.

use std::collections::BTreeSet;
use std::fs;
use std::process::{Child, Command};
use std::thread;
use std::time::{Duration, Instant};

use casemate_testkit::{admin, free_port, key};

use crate::harness::{Rig, succeeds};
use crate::{openssl_provider, printed, rig, shell};

const DEADLINE: Duration = Duration::from_secs(60);

/// The master. Its workers end with it, when it is told to.
struct Nginx(Child);

impl Nginx {
    fn signal(&self, signal: &str) {
        succeeds(Command::new("kill").args([&format!("-{signal}"), &self.0.id().to_string()]));
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        let _ = Command::new("kill").args(["-TERM", &self.0.id().to_string()]).status();
        let _ = self.0.wait();
    }
}

#[test]
fn nginx_serves_tls_by_the_engine_before_and_after_a_reload() {
    let rig = rig();
    admin(&rig.hsm.as_ref().unwrap().client()).keys().delete(&key("k")).unwrap();
    shell(&rig, "pkcs11-tool --module $M --login --pin \"$PIN\" --keypairgen --key-type EC:prime256v1 --id 01 --label web
        openssl req -engine pkcs11 -keyform engine -x509 -key 'pkcs11:token=test;object=web;type=private' -subj /CN=localhost -days 2 -out web.crt");
    serve_and_reload(&rig, "ssl_engine pkcs11;", "engine:pkcs11:pkcs11:token=test;object=web;type=private");
}

#[test]
fn nginx_serves_tls_by_the_provider_before_and_after_a_reload() {
    let rig = openssl_provider::rig();
    shell(
        &rig,
        "key='pkcs11:token=test;object=k02;type=private'
        openssl pkey -in \"$key\" -out key.pem
        grep -q 'BEGIN PKCS#11 PROVIDER URI' key.pem
        openssl req -x509 -key \"$key\" -subj /CN=localhost -days 2 -out web.crt",
    );
    serve_and_reload(&rig, "", &rig.folder.at("key.pem"));
}

fn serve_and_reload(rig: &Rig, engine: &str, key: &str) {
    let (folder, port) = (rig.folder.at("."), free_port());
    let config = rig.folder.file(
        "nginx.conf",
        format!(
            "daemon off;\nworker_processes 2;\nuser www-data;\npid {folder}/pid;\nerror_log {folder}/errors;\n\
             env CASEMATE_PKCS11_CONFIG;\n{engine}\nevents {{}}\nhttp {{\naccess_log off;\n\
             client_body_temp_path {folder}/body;\nserver {{\nlisten 127.0.0.1:{port} ssl;\n\
             ssl_certificate {folder}/web.crt;\nssl_certificate_key \"{key}\";\n\
             location / {{ return 200 \"$pid\"; }}\n}}\n}}\n"
        ),
    );
    let mut nginx = rig.command("nginx");
    nginx.args(["-e", &rig.folder.at("errors"), "-c", &config]).env("OPENSSL_CONF", rig.folder.at("openssl.cnf"));
    let nginx = Nginx(nginx.env("CASEMATE_PKCS11_LOG", "off").spawn().expect("nginx (Debian: nginx-light)"));

    let before = await_workers(rig, port, &BTreeSet::new());
    nginx.signal("HUP");
    let after = await_workers(rig, port, &before);
    assert!(after.is_disjoint(&before));
    // A worker that crashes is replaced, and nothing but this tells of it.
    let errors = fs::read_to_string(rig.folder.path("errors")).unwrap_or_default();
    assert!(!errors.contains("exited on signal") && !errors.contains("SSL_do_handshake"), "{errors}");
}

/// Connects until both workers that are not among `old` have served, and returns these.
fn await_workers(rig: &Rig, port: u16, old: &BTreeSet<String>) -> BTreeSet<String> {
    let (url, certificate) = (format!("https://localhost:{port}/"), rig.folder.at("web.crt"));
    let mut workers = BTreeSet::new();
    let deadline = Instant::now() + DEADLINE;
    while workers.len() < 2 {
        assert!(Instant::now() < deadline, "{:?}", fs::read_to_string(rig.folder.path("errors")));
        let mut curl = Command::new("curl");
        let page = curl.args(["-sS", "--cacert", &certificate, &url]).output().unwrap();
        match page.status.code() {
            Some(0) => workers.extend(Some(printed(&page)).filter(|worker| !old.contains(worker))),
            // It does not listen yet.
            Some(7) => thread::sleep(Duration::from_millis(50)),
            _ => panic!("{}", String::from_utf8_lossy(&page.stderr)),
        }
    }
    workers
}
