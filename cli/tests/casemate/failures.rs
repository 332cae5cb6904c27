//! Failures: each is one line with what to do next.

use std::net::TcpListener;

use serde_json::Value;

use crate::harness::{ADMIN, Hsm, run};
use crate::other_servers::{Web, plain};

#[test]
fn nobody_answers_at_a_wrong_host() {
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let message = run(&["--host", &closed, "info"], &[], b"").fails(3);
    assert!(message.contains(&closed) && message.contains("Check the addresses"), "{message}");
    assert!(run(&["info"], &[], b"").fails(2).contains("use --host"));
}

#[test]
fn the_error_about_an_untrusted_certificate_tells_how_to_pin_it() {
    let hsm = Hsm::start();
    let message = run(&["--host", &hsm.address, "info"], &[], b"").fails(4);
    let (_, pin) = message.split_once("--pin ").expect("the way to pin it");
    let pin = pin.split(',').next().unwrap();
    run(&["--host", &hsm.address, "--pin", pin, "info"], &[], b"").ok();
    let json = run(&["--host", &hsm.address, "--json", "info"], &[], b"").fails(4);
    let json: Value = serde_json::from_str(&json).unwrap();
    assert_eq!((json["error"]["code"].as_str(), json["error"]["exit"].as_i64()), (Some("untrusted"), Some(4)));
}

#[test]
fn an_expired_certificate_is_reported_as_expired() {
    let web = Web::start("2021-01-01", "");
    let message = run(&["--host", &web.address, "--ca-file", &web.ca, "info"], &[], b"").fails(4);
    assert!(message.contains("has expired. Renew it"), "{message}");
}

#[test]
fn a_name_without_an_address_is_reported() {
    let message = run(&["--host", "nowhere.invalid:8443", "info"], &[], b"").fails(3);
    assert!(message.contains("nowhere.invalid:8443") && message.contains("its name cannot be resolved"), "{message}");
    assert!(message.contains("Check the addresses"), "{message}");
}

#[test]
fn a_host_without_tls_is_recognised() {
    let address = plain();
    let message = run(&["--host", &address, "--insecure", "info"], &[], b"").fails(3);
    assert!(message.contains(&address) && message.contains("the TLS handshake failed"), "{message}");
    assert!(message.contains("Check the addresses"), "{message}");
}

#[test]
fn another_web_server_is_recognised() {
    for (answer, code, word) in [
        ("HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\n<html>", 12, "Check that the address is that of an HSM"),
        ("HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n", 12, "does not answer 404"),
        ("HTTP/1.1 302 Found\r\nlocation: /\r\ncontent-length: 0\r\n\r\n", 12, "does not answer 302"),
        ("SSH-2.0-OpenSSH_9.9\r\n", 3, "its answer is not valid HTTP"),
    ] {
        let web = Web::start("2100-01-01", answer);
        let message = run(&["--host", &web.address, "--ca-file", &web.ca, "info"], &[], b"").fails(code);
        assert!(message.contains(word), "{message}");
    }
}

#[test]
fn a_wrong_passphrase_and_a_missing_one_are_told_apart() {
    let hsm = Hsm::operational();
    let message = hsm.with(("admin", "not the passphrase"), &["user", "list"], b"").fails(5);
    assert!(message.contains("Check both and log in again"), "{message}");
    let host = ["--host", &hsm.address, "--insecure"];
    let message = run(&[&host[..], &["--user", "admin", "user", "list"]].concat(), &[], b"").fails(2);
    assert!(message.contains("--passphrase-file"), "{message}");
    assert!(run(&[&host[..], &["user", "list"]].concat(), &[], b"").fails(2).contains("use --user"));
}

#[test]
fn the_error_about_a_wrong_state_tells_how_to_see_it() {
    let hsm = Hsm::start();
    let message = hsm.admin(&["key", "list"]).fails(8);
    assert!(message.contains("Provision or unlock") && message.contains("casemate state"), "{message}");
}

#[test]
fn passphrases_are_taken_from_files_and_commands_and_checked_before_they_are_set() {
    let hsm = Hsm::operational();
    let host = ["--host", &hsm.address, "--insecure", "--user", "admin"];
    run(&[&host[..], &["--passphrase-file", &hsm.at("admin"), "user", "list"]].concat(), &[], b"").ok();
    let command = format!("echo '{ADMIN}'");
    run(&[&host[..], &["--passphrase-command", &command, "user", "list"]].concat(), &[], b"").ok();
    // The variable of another one is not handed on, and neither is what stands on standard input.
    let command = format!("test -z \"$CASEMATE_PASSPHRASE\" && ! read -r line && echo '{ADMIN}'");
    let other = [("CASEMATE_PASSPHRASE", "of another one")];
    run(&[&host[..], &["--passphrase-command", &command, "user", "list"]].concat(), &other, b"a message\n").ok();
    run(&[&host[..], &["--passphrase-command", "exit 3", "user", "list"]].concat(), &[], b"").fails(1);
    run(&[&host[..], &["--passphrase-file", "/nowhere", "user", "list"]].concat(), &[], b"").fails(1);
    let short = hsm.folder.file("short", "short");
    let add = ["user", "add", "x", "--role", "Operator", "--new-passphrase-file", &short];
    assert!(hsm.admin(&add).fails(2).contains("10 to 200 bytes"));
}

#[test]
fn a_profile_is_enough_and_is_parsed_strictly() {
    let hsm = Hsm::operational();
    let message = run(&["--host", &hsm.address, "info"], &[], b"").fails(4);
    let pin = message.split_once("--pin ").unwrap().1.split(',').next().unwrap();
    let (address, admin) = (&hsm.address, hsm.at("admin"));
    let profile =
        format!("hosts = [\"{address}\"]\npin = [\"{pin}\"]\nuser = \"admin\"\npassphrase-file = \"{admin}\"\n");
    let file = hsm.folder.file("config.toml", format!("[profile.default]\n{profile}"));
    let home = [("CASEMATE_CONFIG", file.as_str())];
    run(&["user", "list"], &home, b"").ok();
    // A host named by hand gets nothing of the default profile.
    run(&["--host", address, "user", "list"], &home, b"").fails(2);
    // The profile's passphrase is used for no other user, no other host, and no host whose certificate is not checked.
    let asked: [&[&str]; 3] = [&["--user", "op"], &["--host", "127.0.0.1:9"], &["--insecure"]];
    for other in asked {
        let message = run(&[&["--profile", "default"], other, &["user", "list"]].concat(), &home, b"").fails(2);
        assert!(message.contains("no terminal to ask for"), "{other:?}: {message}");
    }
    run(&["--profile", "default", "--user", "admin", "--host", address, "user", "list"], &home, b"").ok();
    let message = run(&["--profile", "other", "state"], &home, b"").fails(2);
    assert!(message.contains("no profile other; its profiles: default"), "{message}");
    let file = hsm.folder.file("config.toml", format!("[profile.default]\n{profile}pasphrase = 1\n"));
    let message = run(&["state"], &[("CASEMATE_CONFIG", file.as_str())], b"").fails(2);
    assert!(message.contains("line 6") && message.contains("pasphrase"), "{message}");
    let both = hsm.folder.file("config.toml", format!("[profile.default]\nca-file = \"x\"\n{profile}"));
    let message = run(&["state"], &[("CASEMATE_CONFIG", both.as_str())], b"").fails(2);
    assert!(message.contains("keep one"), "{message}");
}

#[test]
fn with_several_nodes_a_device_is_chosen_and_states_are_shown_together() {
    let (one, two) = (Hsm::operational(), Hsm::start());
    let hosts = ["--insecure", "--host", &one.address, "--host", &two.address];
    let states = run(&[&hosts[..], &["state"]].concat(), &[], b"").ok();
    assert!(states.contains("Operational") && states.contains("Unprovisioned"), "{states}");
    let arguments = [&hosts[..], &["--user", "admin", "lock"]].concat();
    let message = run(&arguments, &[("CASEMATE_PASSPHRASE", ADMIN)], b"").fails(2);
    assert!(message.contains("choose one of") && message.contains("--host"), "{message}");
}
