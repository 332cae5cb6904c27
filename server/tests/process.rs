//! How the process starts, refuses to start, and ends.

#![allow(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a test of processes: it lives in real time, and whatever goes wrong fails it"
)]

mod daemon;

use std::fs;
use std::io::Read;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::prelude::{BASE64_STANDARD, BASE64_STANDARD_NO_PAD, BASE64_URL_SAFE};
use rustix::process::Signal;
use serde_json::json;

use daemon::{ADMIN, Client, Daemon, Folder, UNLOCK, casemated, on, run};

/// Runs `casemated`, which must refuse to start with `code` and one sentence on standard error. Returns the sentence.
#[track_caller]
fn refused(command: &mut std::process::Command, code: i32) -> String {
    let output = run(command);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(code), "{stderr}");
    let said: Vec<&str> = stderr.lines().filter(|line| line.starts_with("casemated: ")).collect();
    assert_eq!(said.len(), 1, "one sentence: {stderr}");
    assert_eq!(output.stdout, b"", "a process that does not serve does not say that it listens");
    said[0].trim_start_matches("casemated: ").to_owned()
}

#[track_caller]
fn assert_mentions(sentence: &str, words: &[&str]) {
    for word in words {
        assert!(sentence.contains(word), "`{word}` in: {sentence}");
    }
}

fn provisioned() -> Folder {
    let folder = Folder::new();
    let daemon = Daemon::start(&folder);
    daemon.client().provision().unwrap().expect(204);
    daemon.client().log_in("admin", ADMIN).boot_unattended("on");
    assert_eq!(daemon.terminate().0, Some(0));
    folder
}

#[test]
fn a_taken_port_is_reported() {
    let folder = Folder::new();
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = other.local_addr().unwrap().to_string();
    let mut command = casemated(&["--listen", &port, "--data-dir"]);
    let sentence = refused(command.arg(folder.data()), 3);
    assert_mentions(&sentence, &[&port, "another program", "--listen"]);
}

#[test]
fn a_taken_port_for_metrics_is_reported() {
    let folder = Folder::new();
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = other.local_addr().unwrap().to_string();
    let sentence = refused(&mut on(&folder, &["--metrics-listen", &port]), 3);
    assert_mentions(&sentence, &[&port, "another program", "--metrics-listen"]);
}

#[test]
fn an_unusable_file_of_roots_is_reported() {
    let folder = Folder::new();
    let more = ["--syslog", "tls://localhost:6514", "--syslog-ca", "/no/such/file"];
    assert_mentions(&refused(&mut on(&folder, &more), 2), &["/no/such/file", "No such file"]);
}

#[test]
fn requests_are_logged_at_debug() {
    let folder = Folder::new();
    let daemon = Daemon::start_with(&folder, &["--log", "debug"]);
    assert_eq!(daemon.client().state(), "Unprovisioned");
    let log = daemon.log();
    assert_mentions(&log, &["request GET /api/v1/health/state", "response 200 response time 0.0"]);
}

#[test]
fn changes_are_logged_as_in_nethsm() {
    let folder = Folder::new();
    let daemon = Daemon::start_with(&folder, &["--log", "info"]);
    daemon.client().provision().unwrap().expect(204);
    let admin = daemon.client().log_in("admin", ADMIN);
    let put = |path: &str, body: serde_json::Value| admin.call("PUT", path, Some(&body)).unwrap();
    let user = json!({"realName": "Ada\nL", "role": "Operator", "passphrase": "a passphrase of Ada"});
    put("/users/ada", user).expect(201);
    put("/users/ada/tags/berlin", json!({})).expect(204);
    put("/users/ada/tags/berlin", json!({})).expect(304);
    let passphrase = json!({"passphrase": "another passphrase"});
    admin.call("POST", "/users/ada/passphrase", Some(&passphrase)).unwrap().expect(204);
    let key = json!({
        "mechanisms": ["EdDSA_Signature"], "type": "Curve25519", "id": "k", "restrictions": {"tags": ["berlin"]},
    });
    admin.call("POST", "/keys/generate", Some(&key)).unwrap().expect(201);
    put("/keys/k/label", json!({"label": "mine"})).expect(204);
    put("/keys/k/restrictions/tags/rome", json!({})).expect(204);
    admin.call("DELETE", "/keys/k/restrictions/tags/rome", None).unwrap().expect(204);
    admin.call("DELETE", "/users/ada/tags/berlin", None).unwrap().expect(204);
    admin.call("POST", "/keys/k/move", Some(&json!({"newId": "l"}))).unwrap().expect(200);
    let log = daemon.log();
    let lines = [
        "added Ada\\nL (ada): R-Operator",
        "added a tag to ada: \"berlin\"",
        "changed ada (Ada\\nL) passphrase",
        "created (k)",
        "tags (k): [\"berlin\"]",
        "update (k): label is now 'mine'",
        "update (k): added tag \"rome\"",
        "update (k): removed tag \"rome\"",
        "removed a tag from ada: \"berlin\"",
        "moved (k) to (l)",
    ];
    assert_mentions(&log, &lines);
    assert_eq!(log.matches("added a tag").count(), 1, "what did not change is not logged: {log}");
    assert!(!log.contains("another passphrase") && !log.contains("a passphrase of Ada"), "{log}");
}

#[test]
fn the_last_lines_still_reach_syslog() {
    let folder = Folder::new();
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("tcp://{}", server.local_addr().unwrap());
    let daemon = Daemon::start_with(&folder, &["--syslog", &url]);
    assert_eq!(daemon.terminate().0, Some(0));
    let mut text = String::new();
    server.accept().unwrap().0.read_to_string(&mut text).unwrap();
    assert_mentions(&text, &["casemated", "application", "stopping: running requests may finish"]);
}

#[test]
fn a_foreign_address_is_reported() {
    let folder = Folder::new();
    // From the documentation block (RFC 5737): an address of no machine.
    let mut command = casemated(&["--listen", "192.0.2.1:8443", "--data-dir"]);
    assert_mentions(&refused(command.arg(folder.data()), 3), &["192.0.2.1:8443"]);
}

#[test]
fn an_unusable_folder_is_reported() {
    let folder = Folder::new();
    let file = folder.file("file");
    fs::write(&file, "").unwrap();
    for impossible in [file.join("data"), "/proc/casemate".into(), file.clone()] {
        let mut command = casemated(&["--listen", "127.0.0.1:0", "--data-dir"]);
        let sentence = refused(command.arg(&impossible), 4);
        assert_mentions(&sentence, &[impossible.to_str().unwrap()]);
    }
}

#[test]
fn a_second_process_on_the_same_data_is_refused() {
    let folder = Folder::new();
    let first = Daemon::start(&folder);
    let sentence = refused(&mut on(&folder, &[]), 5);
    assert_mentions(&sentence, &[&format!("pid {}", first.pid()), folder.data().to_str().unwrap()]);
    assert_eq!(first.client().state(), "Unprovisioned", "the first one goes on");
}

/// What happens to a file.
type Damage = fn(Vec<u8>) -> Vec<u8>;

#[test]
fn a_damaged_store_is_refused_and_left_alone() {
    let good = provisioned();
    let damages: [(&str, Damage); 4] = [
        ("no store", |_| b"this is a letter, not a store".repeat(500)),
        ("garbage in the place of its head", |mut bytes| {
            bytes.iter_mut().take(512).for_each(|byte| *byte ^= 0x5A);
            bytes
        }),
        ("cut off", |bytes| bytes[..bytes.len() / 2].to_vec()),
        ("empty but for zeros", |bytes| vec![0; bytes.len()]),
    ];
    for store in ["store.redb", "local.redb"] {
        for (what, damage) in damages {
            let folder = Folder::new();
            good.copy_data_to(&folder);
            let path = folder.data().join(store);
            let bad = damage(fs::read(&path).unwrap());
            fs::write(&path, &bad).unwrap();
            let sentence = refused(&mut on(&folder, &[]), 6);
            assert_mentions(&sentence, &[store]);
            assert!(fs::read(&path).unwrap() == bad, "{store}, {what}: it is as it was found");
        }
    }
}

/// One flipped bit somewhere in the pages: the process refuses to start, or serves correct data. It never serves wrong
/// data and never panics.
#[test]
fn a_flipped_bit_is_noticed_or_harmless() {
    let good = provisioned();
    let files = ["store.redb", "local.redb"];
    let (mut refusals, mut harmless) = (0, 0);
    for store in files {
        let whole = fs::read(good.data().join(store)).unwrap();
        // Where there is data; most of a fresh store is zeros.
        let written: Vec<usize> = (0..whole.len()).filter(|at| whole[*at] != 0).collect();
        for step in 0..12 {
            let at = written[written.len() * step / 12];
            let folder = Folder::new();
            good.copy_data_to(&folder);
            let mut bad = whole.clone();
            bad[at] ^= 1;
            fs::write(folder.data().join(store), &bad).unwrap();
            let mut child = Daemon::spawn(&folder, &[]);
            let begun = Instant::now();
            // It either ends, or prints that it is listening.
            let mut stdout = std::io::BufReader::new(child.stdout.take().unwrap());
            let mut line = String::new();
            std::io::BufRead::read_line(&mut stdout, &mut line).unwrap();
            if line.is_empty() {
                let code = child.wait().unwrap().code();
                assert!(matches!(code, Some(6 | 7)), "{store}, byte {at}: {code:?} after {:?}", begun.elapsed());
                refusals += 1;
            } else {
                let _ = child.kill();
                let _ = child.wait();
                harmless += 1;
            }
            let log = fs::read_to_string(folder.file("log")).unwrap();
            assert!(!log.contains("panicked"), "{store}, byte {at}: {log}");
        }
    }
    println!("{refusals} refused, {harmless} served");
}

/// What is done to a file.
type Spoil<'a> = &'a dyn Fn(&Path);

#[test]
fn a_device_key_that_is_not_as_it_should_be_is_refused() {
    let good = provisioned();
    let text = fs::read_to_string(good.data().join("device-key")).unwrap();
    let open_to_all = |path: &Path| fs::set_permissions(path, fs::Permissions::from_mode(0o644)).unwrap();
    let cases: [(&str, Spoil); 4] = [
        ("missing", &|path| fs::remove_file(path).unwrap()),
        ("malformed", &|path| fs::write(path, &text[..40]).unwrap()),
        ("can be read or written by other users", &open_to_all),
        ("not the key it was sealed under", &|path| {
            // Well-formed, but of another device.
            let other = text.replace(|digit: char| digit.is_ascii_digit(), "7").replacen("key-7", "key-1", 1);
            fs::write(path, other).unwrap();
        }),
    ];
    for (what, spoil) in cases {
        let folder = Folder::new();
        good.copy_data_to(&folder);
        let path = folder.data().join("device-key");
        spoil(&path);
        let before = fs::read(&path).ok();
        let sentence = refused(&mut on(&folder, &[]), 7);
        assert_mentions(&sentence, &[what]);
        assert_eq!(fs::read(&path).ok(), before, "{what}: left alone");
    }
}

#[test]
fn an_unknown_setting_is_named() {
    let folder = Folder::new();
    let file = folder.file("settings.toml");
    fs::write(&file, "log = 'warn'\nlisten-on = '127.0.0.1:0'\n").unwrap();
    let sentence = refused(&mut on(&folder, &["--config", file.to_str().unwrap()]), 2);
    assert_mentions(&sentence, &["listen-on", "line 2", file.to_str().unwrap()]);
    assert!(!folder.data().exists(), "nothing was made");
    assert_mentions(&refused(&mut casemated(&["--lisden", "x"]), 2), &["--lisden", "--help"]);
}

#[test]
fn help_and_version_are_answered() {
    for (flag, words) in [("--help", &["--data-dir", "--listen"][..]), ("--version", &[env!("CARGO_PKG_VERSION")])] {
        let output = run(&mut casemated(&[flag]));
        assert_eq!(output.status.code(), Some(0));
        assert_mentions(&String::from_utf8(output.stdout).unwrap(), words);
        assert_eq!(output.stderr, b"");
    }
}

#[test]
fn the_first_line_says_where_it_listens() {
    let folder = Folder::new();
    let daemon = Daemon::start(&folder);
    let expected = format!("casemated {} is listening on https://{}", env!("CARGO_PKG_VERSION"), daemon.address);
    assert_eq!(daemon.first_lines, [expected]);
    assert_eq!(daemon.client().state(), "Unprovisioned");
    let rest = daemon.terminate().1;
    assert_mentions(&rest, &["Unprovisioned", folder.data().to_str().unwrap(), "SHA-256 "]);
}

#[test]
fn configuration_survives_a_power_cut() {
    let folder = provisioned();
    let daemon = Daemon::start(&folder);
    let admin = daemon.client().log_in("admin", ADMIN);
    let network = json!({ "ipAddress": "127.0.0.71", "netmask": "255.0.0.0", "gateway": "127.0.0.1",
        "ipv6": { "cidr": "2001:db8::7/64", "gateway": null } });
    let logging = json!({ "ipAddress": "0.0.0.0", "port": 514, "logLevel": "info" });
    let ntp = json!({ "ntpIP": "192.0.2.3", "ntsName": "nts.example.com" });
    let settings = [("/config/network", network), ("/config/logging", logging), ("/config/ntp", ntp)];
    for (path, body) in &settings {
        admin.call("PUT", path, Some(body)).unwrap().expect(204);
    }
    admin.call("PUT", "/config/time", Some(&json!({ "time": "2040-01-01T00:00:00Z" }))).unwrap().expect(204);
    admin.call("POST", "/config/tls/generate", Some(&json!({ "type": "EC_P384" }))).unwrap().expect(204);
    let key = admin.call("GET", "/config/tls/public.pem", None).unwrap().expect(200).bytes;
    let said = daemon.log();
    assert_mentions(
        &said,
        &["the network address 2001:db8::7 is stored and not served: this machine does not have it"],
    );
    assert_mentions(&said, &["the time servers are stored and not used", "nts.example.com"]);
    daemon.kill();

    let daemon = Daemon::start_with(&folder, &["--log", "error"]);
    let admin = daemon.client().log_in("admin", ADMIN);
    for (path, body) in &settings {
        assert_eq!(admin.call("GET", path, None).unwrap().expect(200).json(), *body);
    }
    let time = admin.call("GET", "/config/time", None).unwrap().expect(200).json();
    assert!(time["time"].as_str().unwrap().starts_with("2040-01-01T00:0"), "{time}");
    assert_eq!(admin.call("GET", "/config/tls/public.pem", None).unwrap().expect(200).bytes, key);
    let port = daemon.address.rsplit_once(':').unwrap().1;
    let second = format!("127.0.0.71:{port}");
    // In the log, because the stored level takes precedence over that of the command line.
    assert_mentions(&daemon.log(), &[&format!("the configured network address is served at https://{second}")]);
    std::net::TcpStream::connect(&second).unwrap();
}

/// A request for a key that takes seconds to find, running in a thread.
fn slow_request(admin: &Client) -> std::thread::JoinHandle<Result<daemon::Answer, ureq::Error>> {
    let admin = admin.clone();
    let body = json!({ "type": "RSA", "length": 4096, "mechanisms": ["RSA_Signature_PKCS1"], "id": "slow" });
    let request = std::thread::spawn(move || admin.call("POST", "/keys/generate", Some(&body)));
    std::thread::sleep(Duration::from_millis(60));
    request
}

#[test]
fn a_signal_lets_running_requests_finish() {
    let folder = provisioned();
    // The time to find a key is random: one that is found at once proves nothing.
    for _ in 0..20 {
        let daemon = Daemon::start_with(&folder, &["--log", "info"]);
        let admin = daemon.client().log_in("admin", ADMIN);
        admin.call("GET", "/system/info", None).unwrap().expect(200);
        let request = slow_request(&admin);
        let was_running = !request.is_finished();
        let (code, _) = daemon.terminate();
        let answer = request.join().unwrap().expect("an answer").expect(201);
        assert_eq!(answer.json(), json!({ "id": "slow" }));
        assert_eq!(code, Some(0));

        let daemon = Daemon::start(&folder);
        let admin = daemon.client().log_in("admin", ADMIN);
        admin.call("GET", "/keys/slow", None).unwrap().expect(200);
        if was_running {
            return;
        }
        admin.call("DELETE", "/keys/slow", None).unwrap().expect(204);
    }
    panic!("every key was found at once");
}

#[test]
fn a_second_signal_ends_at_once() {
    let folder = provisioned();
    for _ in 0..20 {
        let mut daemon = Daemon::start_with(&folder, &["--log", "info"]);
        let admin = daemon.client().log_in("admin", ADMIN);
        admin.call("GET", "/system/info", None).unwrap().expect(200);
        let request = slow_request(&admin);
        daemon.signal(Signal::TERM);
        while !daemon.log().contains("a second signal ends at once") {
            std::thread::sleep(Duration::from_millis(1));
        }
        let was_running = !request.is_finished();
        daemon.signal(Signal::INT);
        let code = daemon.exit_code();
        let answer = request.join().unwrap();
        if was_running && answer.is_err() {
            assert_eq!(code, Some(130));
            return;
        }
        // The key was found before the signal: try again.
        drop(daemon);
        let daemon = Daemon::start(&folder);
        let _ = daemon.client().log_in("admin", ADMIN).call("DELETE", "/keys/slow", None).unwrap();
    }
    panic!("every key was found at once");
}

/// A session that uses every kind of secret, at the most verbose level: none of them may be written anywhere.
#[test]
fn no_secret_is_logged() {
    const OPERATOR_PASSPHRASE: &str = "passphrase of the operator";
    const NEW_PASSPHRASE: &str = "a new passphrase for it";
    const NEW_UNLOCK: &str = "a new passphrase to unlock";
    const WRONG: &str = "not the passphrase";
    let key = BASE64_STANDARD.encode([0x5A; 32]);
    let plaintext = BASE64_STANDARD.encode(b"sixteen secret b");

    let folder = Folder::new();
    let daemon = Daemon::start_with(&folder, &["--log", "trace"]);
    let client = daemon.client();
    client.provision().unwrap().expect(204);
    let admin = client.log_in("admin", ADMIN);
    admin.create_operator("op", OPERATOR_PASSPHRASE);
    let call = |method: &str, path: &str, body: serde_json::Value| admin.call(method, path, Some(&body)).unwrap();
    let mechanisms = ["AES_Encryption_CBC", "AES_Decryption_CBC"];
    let import = json!({ "type": "Generic", "mechanisms": mechanisms, "private": { "data": key } });
    call("PUT", "/keys/aes", import.clone()).expect(204);
    call("PUT", "/keys/aes", import).expect(400);
    // Broken in the middle of a secret: the parser's message must not repeat it.
    let broken = json!({ "type": "Generic", "mechanisms": ["AES"], "private": { "data": key, "deta": key } });
    call("PUT", "/keys/aes2", broken).expect(400);
    call("POST", "/users/op/passphrase", json!({ "passphrase": NEW_PASSPHRASE, "more": NEW_PASSPHRASE })).expect(400);
    call("POST", "/users/op/passphrase", json!({ "passphrase": NEW_PASSPHRASE })).expect(204);
    let operator = client.log_in("op", NEW_PASSPHRASE);
    let encrypt = json!({ "mode": "AES_CBC", "message": plaintext });
    let encrypted = operator.call("POST", "/keys/aes/encrypt", Some(&encrypt)).unwrap().expect(200).json();
    let decrypt = json!({ "mode": "AES_CBC", "encrypted": encrypted["encrypted"], "iv": encrypted["iv"] });
    let decrypted = operator.call("POST", "/keys/aes/decrypt", Some(&decrypt)).unwrap().expect(200).json();
    assert_eq!(decrypted["decrypted"], plaintext.as_str());
    client.log_in("op", WRONG).call("GET", "/keys", None).unwrap().expect(401);
    let change = json!({ "newPassphrase": NEW_UNLOCK, "currentPassphrase": WRONG });
    call("PUT", "/config/unlock-passphrase", change).expect(403);
    // A wrong current passphrase blocks the next for a second.
    std::thread::sleep(Duration::from_millis(1010));
    let change = json!({ "newPassphrase": NEW_UNLOCK, "currentPassphrase": UNLOCK });
    call("PUT", "/config/unlock-passphrase", change).expect(204);
    admin.call("POST", "/lock", None).unwrap().expect(204);
    client.unlock(WRONG).expect(403);
    std::thread::sleep(Duration::from_millis(1010));
    client.unlock(NEW_UNLOCK).expect(204);

    daemon.signal(Signal::TERM);
    let mut daemon = daemon;
    assert_eq!(daemon.exit_code(), Some(0));
    let printed: Vec<String> = std::iter::from_fn(|| daemon.line()).collect();
    let said = format!("{}\n{}", daemon.log(), printed.join("\n"));
    assert_mentions(&said, &["request POST /api/v1/unlock", "Operational"]);
    let device_key = fs::read_to_string(folder.data().join("device-key")).unwrap();
    let secrets =
        [UNLOCK, ADMIN, OPERATOR_PASSPHRASE, NEW_PASSPHRASE, NEW_UNLOCK, WRONG, "sixteen secret b", &key, &plaintext];
    let device_key = device_key.split_whitespace().nth(1).unwrap();
    for secret in secrets.into_iter().chain([device_key]) {
        let credentials = ["admin", "op"].map(|user| BASE64_STANDARD_NO_PAD.encode(format!("{user}:{secret}")));
        let forms = [
            secret.to_owned(),
            BASE64_STANDARD_NO_PAD.encode(secret),
            BASE64_URL_SAFE.encode(secret),
            base16ct::lower::encode_string(secret.as_bytes()),
        ];
        for form in forms.iter().chain(&credentials) {
            assert!(!said.contains(form.as_str()), "`{secret}` was written, as {form}");
        }
    }
    for list in [format!("{:?}", [0x5A_u8; 8]), "5a5a5a5a".into(), "5A5A5A5A".into(), format!("{:?}", b"sixteen")] {
        let list = list.trim_matches(['[', ']']);
        assert!(!said.contains(list), "bytes of a key were written, as {list}");
    }
}
