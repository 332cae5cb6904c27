//! An Administrator of one namespace against all others.

use serde_json::json;

use crate::daemon::{ADMIN, Daemon, Folder};
use crate::from::{HONEST, address, call, connect, request};

const PASSPHRASE: &str = "tenant passphrase";

#[test]
fn the_generation_of_large_keys_stops_neither_a_backup_nor_another_namespace() {
    let folder = Folder::new();
    let daemon = Daemon::start(&folder);
    daemon.client().provision().unwrap().expect(204);
    let admin = format!("admin:{ADMIN}");
    let mut wire = connect(&daemon, HONEST);
    let mut change = |method: &str, path: &str, body: Option<String>| {
        let status = call(&mut wire, method, path, Some(&admin), body.as_deref()).status;
        assert!(matches!(status, 201 | 204), "{method} {path}: {status}");
    };
    for (name, role) in [("t1~admin", "Administrator"), ("t2~admin", "Administrator"), ("backup", "Backup")] {
        let body = json!({ "realName": "", "role": role, "passphrase": PASSPHRASE });
        change("PUT", &format!("/users/{name}"), Some(body.to_string()));
    }
    change("PUT", "/namespaces/t1", None);
    change("PUT", "/namespaces/t2", None);
    let passphrase = json!({ "newPassphrase": PASSPHRASE, "currentPassphrase": "" });
    change("PUT", "/config/backup-passphrase", Some(passphrase.to_string()));

    let generate = |bits: u32| {
        json!({ "mechanisms": ["RSA_Signature_PSS_SHA256"], "type": "RSA", "length": bits, "label": "" }).to_string()
    };
    let login = |namespace: &str| format!("{namespace}~admin:{PASSPHRASE}");
    // More than the queue has room for; no client reads an answer.
    let wanting: Vec<_> = (0..80)
        .map(|n| {
            let mut wire = connect(&daemon, address(n % 4));
            wire.send(request("POST", "/keys/generate", Some(&login("t1")), Some(&generate(8192))).as_bytes());
            wire
        })
        .collect();
    // At the latest one login and one hash later, all of them have reached the pool.
    let mut wire = connect(&daemon, HONEST);
    let made = call(&mut wire, "POST", "/keys/generate", Some(&login("t2")), Some(&generate(2048)));
    assert_eq!(made.status, 201, "{made}");
    let backup = call(&mut wire, "POST", "/system/backup", Some(&format!("backup:{PASSPHRASE}")), None);
    assert_eq!(backup.status, 200, "{backup}");
    drop(wanting);
}
