//! Settings and certificates.

use std::process::Command;

use serde_json::{Value, json};

use crate::harness::{ADMIN, Hsm, run};

#[test]
fn addresses_are_set_and_what_is_not_said_stays() {
    let hsm = Hsm::operational();
    let before = hsm.admin(&["config", "network", "show", "--json"]).json();
    let set = ["config", "network", "set", "--gateway", "192.168.1.9", "--ipv6", "2001:db8::7/64", "--json"];
    let message = hsm.admin(&set).json();
    assert_eq!(message["ipAddress"], before["ipAddress"]);
    assert_eq!(message["gateway"], "192.168.1.9");
    assert_eq!(message["ipv6"], json!({ "cidr": "2001:db8::7/64", "gateway": null }));
    assert_eq!(hsm.admin(&["config", "network", "show", "--json"]).json(), message);
    hsm.admin(&["config", "network", "set", "--ipv6-gateway", "fe80::1"]).ok();
    let shown = hsm.admin(&["config", "network", "show"]).ok();
    assert!(shown.contains("2001:db8::7/64") && shown.contains("fe80::1"), "{shown}");
    let gone = hsm.admin(&["config", "network", "set", "--no-ipv6", "--json"]).json();
    assert_eq!((gone.get("ipv6"), &gone["gateway"]), (None, &json!("192.168.1.9")));
    assert!(hsm.admin(&["config", "network", "set", "--ipv6-gateway", "fe80::1"]).fails(2).contains("--ipv6"));
    assert!(hsm.admin(&["config", "network", "set", "--netmask", "255.0.255.0"]).fails(10).contains("netmask"));
    assert_eq!(hsm.admin(&["config", "network", "set"]).code, 2);
}

#[test]
fn the_clock_its_source_and_the_log_are_set() {
    let hsm = Hsm::operational();
    let set = ["config", "time", "set", "2031-02-03T04:05:06Z"];
    assert_eq!(hsm.admin(&set).ok(), "2031-02-03T04:05:06Z\n");
    let shown = hsm.admin(&["config", "time", "show", "--json"]).json();
    assert!(shown["time"].as_str().unwrap().starts_with("2031-02-03T04:05"), "{shown}");
    let now = hsm.admin(&["config", "time", "set", "--json"]).json();
    assert!(!now["time"].as_str().unwrap().starts_with("2031"), "{now}");

    let ntp = |arguments: &[&str]| hsm.admin(&[&["config", "ntp"], arguments, &["--json"]].concat()).json();
    assert_eq!(ntp(&["set", "--server", "192.0.2.9"]), json!({ "ntpIP": "192.0.2.9" }));
    let both = json!({ "ntpIP": "192.0.2.9", "ntsName": "time.example" });
    assert_eq!(ntp(&["set", "--nts", "time.example"]), both);
    assert_eq!(ntp(&["show"]), both);
    assert_eq!(ntp(&["set", "--off"]), json!({}));
    assert!(hsm.admin(&["config", "ntp", "show"]).ok().contains("none"));

    let logging = ["config", "logging", "set", "--address", "127.0.0.1", "--port", "5514", "--json"];
    assert_eq!(hsm.admin(&logging).json()["port"], 5514);
    let message = hsm.admin(&["config", "logging", "set", "--level", "warning"]).ok();
    assert!(message.contains("127.0.0.1:5514") && message.contains("warning"), "{message}");
    assert!(hsm.admin(&["config", "logging", "show"]).ok().contains("127.0.0.1:5514"));
}

#[test]
fn everything_is_shown_together() {
    let hsm = Hsm::operational();
    let all = hsm.admin(&["config", "show", "--json"]).json();
    let members: Vec<_> = all.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(members, ["logging", "network", "ntp", "time", "tlsFingerprint", "unattendedBoot", "withoutMajority"]);
    assert_eq!(all["tlsFingerprint"], casemate_testkit::fingerprint(&hsm.address).to_string());
    let shown = hsm.admin(&["config", "show"]).ok();
    assert!(shown.contains("TLS fingerprint") && shown.contains("Unattended boot"), "{shown}");
}

#[test]
fn settings_that_an_hsm_does_not_have_are_left_out() {
    let old = casemate_testkit::MockServer::start(|request| {
        let path = request.split(' ').nth(1).unwrap();
        match path.trim_start_matches("/api/v1/config/") {
            "time" => casemate_testkit::reply(200, r#"{"time":"2020-01-01T00:00:00Z"}"#),
            "unattended-boot" => casemate_testkit::reply(200, r#"{"status":"off"}"#),
            _ => casemate_testkit::reply(404, ""),
        }
    });
    let arguments = ["--host", &old.address, "--insecure", "--user", "admin", "config", "show", "--json"];
    let shown = run(&arguments, &[("CASEMATE_PASSPHRASE", ADMIN)], b"").json();
    assert_eq!(shown, json!({ "time": "2020-01-01T00:00:00Z", "unattendedBoot": "off" }));
}

#[test]
fn the_backup_passphrase_is_set_once_without_and_then_with_the_current_one() {
    let hsm = Hsm::operational();
    let (unlock, op) = (hsm.at("unlock"), hsm.at("op"));
    hsm.admin(&["config", "backup-passphrase", "--first", "--new-passphrase-file", &op]).ok();
    hsm.admin(&["config", "backup-passphrase", "--first", "--new-passphrase-file", &unlock]).fails(6);
    let change = ["config", "backup-passphrase", "--current-passphrase-file", &op, "--new-passphrase-file", &unlock];
    hsm.admin(&change).ok();
}

fn openssl(arguments: &[&str]) {
    let message = Command::new("openssl").args(arguments).output().unwrap();
    assert!(message.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&message.stderr));
}

#[test]
fn a_certificate_is_installed_and_a_new_key_generated_with_the_new_pin() {
    let hsm = Hsm::operational();
    let (ca, key, csr, cert) = (hsm.at("ca.pem"), hsm.at("ca.key"), hsm.at("hsm.csr"), hsm.at("hsm.pem"));
    let new =
        ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", "/CN=Test CA"];
    openssl(&[&new[..], &["-addext", "keyUsage=critical,keyCertSign", "-keyout", &key, "-out", &ca]].concat());
    let request = ["csr", "--tls", "--common-name", "localhost", "--san", "localhost", "--san", "IP:127.0.0.1"];
    hsm.folder.file("hsm.csr", hsm.admin(&request).ok());
    let sign = ["x509", "-req", "-in", &csr, "-CA", &ca, "-CAkey", &key, "-copy_extensions", "copy", "-days", "9"];
    openssl(&[&sign[..], &["-out", &cert]].concat());
    hsm.folder.file("chain.pem", std::fs::read_to_string(&cert).unwrap() + &std::fs::read_to_string(&ca).unwrap());

    // A certificate that was made a moment ago has to be valid there.
    hsm.admin(&["config", "time", "set"]).ok();
    let message = hsm.admin(&["cert", "set", "--tls", &hsm.at("chain.pem"), "--json"]).json();
    assert_eq!(message["fingerprint"], casemate_testkit::fingerprint(&hsm.address).to_string());
    // Now the authority vouches for it.
    let trusting = ["--host", &hsm.address, "--ca-file", &ca];
    run(&[&trusting[..], &["info"]].concat(), &[], b"").ok();
    let chain = hsm.admin(&["cert", "get", "--tls"]).ok();
    assert_eq!(chain.matches("BEGIN CERTIFICATE").count(), 2);
    assert_eq!(hsm.admin(&["config", "tls", "cert", "get"]).ok(), chain);
    assert!(hsm.admin(&["config", "tls", "public"]).ok().starts_with("-----BEGIN PUBLIC KEY-----"));
    assert!(hsm.admin(&["config", "tls", "csr", "--common-name", "x"]).ok().contains("CERTIFICATE REQUEST"));
    hsm.admin(&["cert", "set", "--tls", &hsm.at("admin")]).fails(1);

    assert!(hsm.admin(&["config", "tls", "generate", "--type", "EC_P384"]).fails(2).contains("pin has to be changed"));
    let pin = message["fingerprint"].as_str().unwrap();
    let arguments = ["--host", &hsm.address, "--pin", pin, "--user", "admin", "config", "tls", "generate"];
    let arguments = [&arguments[..], &["--type", "EC_P384", "--yes"]].concat();
    let message = run(&arguments, &[("CASEMATE_PASSPHRASE", ADMIN)], b"").ok();
    let now = casemate_testkit::fingerprint(&hsm.address).to_string();
    assert!(now != pin && message.contains(&format!("--pin {now}")), "{message}");
}

#[test]
fn a_cluster_ca_ties_the_hsm_to_it() {
    let hsm = Hsm::operational();
    assert!(hsm.admin(&["config", "tls", "cluster-ca", "get"]).fails(7).contains("absent"));
    let (ca, key) = (hsm.at("ca.pem"), hsm.at("ca.key"));
    let new = ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", "/CN=Other"];
    openssl(&[&new[..], &["-keyout", &key, "-out", &ca]].concat());
    assert!(hsm.admin(&["config", "tls", "cluster-ca", "set", &ca]).fails(2).contains("factory reset"));
    // It has not signed the certificate.
    hsm.admin(&["config", "tls", "cluster-ca", "set", &ca, "--yes"]).fails(10);
    hsm.admin(&["config", "tls", "cluster-ca", "rm", "--yes"]).fails(10);
}

#[test]
fn requests_and_certificates_of_keys_have_two_names() {
    let hsm = Hsm::operational();
    hsm.admin(&["key", "generate", "web", "--type", "EC_P256", "-m", "ECDSA_Signature"]).ok();
    for request in [&["csr", "--key", "web"][..], &["key", "csr", "web"]] {
        let message: Value = hsm.admin(&[request, &["--common-name", "web.example", "--json"]].concat()).json();
        let file = hsm.folder.file("csr", message["csr"].as_str().unwrap());
        openssl(&["req", "-in", &file, "-verify", "-noout"]);
    }
    let file = hsm.folder.file("cert", "any bytes");
    hsm.admin(&["cert", "set", "--key", "web", &file]).ok();
    assert_eq!(hsm.admin(&["cert", "get", "--key", "web"]).ok(), "any bytes");
    assert_eq!(hsm.admin(&["key", "cert", "get", "web"]).ok(), "any bytes");
    hsm.admin(&["cert", "rm", "--key", "web", "--yes"]).ok();
    hsm.admin(&["key", "cert", "get", "web"]).fails(7);
    assert_eq!(hsm.admin(&["cert", "get"]).code, 2);
    assert_eq!(hsm.admin(&["cert", "get", "--key", "web", "--tls"]).code, 2);
}
