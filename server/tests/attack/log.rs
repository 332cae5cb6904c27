//! Text chosen by others, on its way into the log.

use casemate_core::backup::format::{ENTRY_LABEL, Field, Version, push_end, push_framed, push_start};
use casemate_core::crypto::{kdf, seal};
use serde_json::{Value, json};

use crate::daemon::{Daemon, Folder, casemated, run};
use crate::from::{HONEST, connect};

const BACKUP: &str = "the backup passphrase";

/// What an attacker would like to see as a line of the log, or as the end of one.
const FORGED: &str =
    "\n2026-01-01T00:00:00.000000Z  INFO added Eve (eve): R-Administrator\r\u{1b}[2K\u{85}\u{2028}\u{202e}";

/// A backup of a device with this id, with a single entry at this path, and otherwise invalid.
fn file(device: &str, path: &str) -> Vec<u8> {
    let salt = [7; 16];
    let key = kdf::backup_key(BACKUP.as_bytes(), &salt);
    let sealed = |label: &str, plain: &[u8]| seal::seal_at(key.expose(), [9; 12], label.as_bytes(), plain);
    let mut file = Vec::new();
    push_start(&mut file, Version::V1, &salt).unwrap();
    let fields: [(Field, &[u8]); 4] = [
        (Field::Version, &[1]),
        (Field::DomainKey, &[0; 60]),
        (Field::DeviceId, device.as_bytes()),
        (Field::ConfigKey, &[1; 32]),
    ];
    for (field, plain) in fields {
        push_framed(&mut file, &sealed(field.label(), plain)).unwrap();
    }
    let mut entry = Vec::new();
    push_framed(&mut entry, path.as_bytes()).unwrap();
    entry.extend_from_slice(b"a value");
    push_framed(&mut file, &sealed(ENTRY_LABEL, &entry)).unwrap();
    push_end(&mut file);
    file
}

/// The id of a device, which has at most 64 bytes.
fn forged_id() -> String {
    format!("d{}", &FORGED[..62])
}

/// What an unauthenticated restore of a file of forged names writes to the log of a new device.
fn log_of_restore(format: &str) -> String {
    let folder = Folder::new();
    let daemon = Daemon::start_with(&folder, &["--log", "info", "--log-format", format]);
    let arguments = json!({"backupPassphrase": BACKUP}).to_string();
    let mut body = Vec::new();
    for (name, content) in
        [("arguments", arguments.as_bytes()), ("backup_file", &file(&forged_id(), &format!("/x{FORGED}")))]
    {
        let head = format!("--b\r\ncontent-disposition: form-data; name=\"{name}\"; filename=\"{name}\"\r\n\r\n");
        body.extend_from_slice(head.as_bytes());
        body.extend_from_slice(content);
        body.extend_from_slice(b"\r\n");
    }
    body.extend_from_slice(b"--b--\r\n");
    let mut wire = connect(&daemon, HONEST);
    let head = format!(
        "POST /api/v1/system/restore HTTP/1.1\r\nhost: hsm\r\ncontent-type: multipart/form-data; boundary=b\r\n\
         content-length: {}\r\n\r\n",
        body.len()
    );
    wire.send(&[head.as_bytes(), &body].concat());
    assert_eq!(wire.reply("POST").status, 400, "the file is good for nothing");
    daemon.log()
}

/// Nothing in a log may end a line, control a terminal or change the direction of text.
fn assert_harmless(log: &str) {
    for line in log.lines() {
        assert!(!line.starts_with("2026-01-01"), "a forged line: {log:?}");
        let steers = |c: char| c.is_control() || matches!(c, '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}');
        assert!(!line.contains(steers), "{line:?}");
    }
    let count = |what: &str| log.lines().filter(|line| line.contains(what)).count();
    assert_eq!((count("a backup is being restored"), count("is not known and is left out")), (1, 1), "{log:?}");
    assert_eq!(count("added Eve"), 2, "the text is there, inside the two lines it belongs to: {log:?}");
}

#[test]
fn a_backup_cannot_write_lines_of_its_own_into_a_log_for_people() {
    assert_harmless(&log_of_restore("text"));
}

#[test]
fn a_backup_cannot_write_lines_of_its_own_into_a_log_for_machines() {
    let log = log_of_restore("json");
    assert_harmless(&log);
    let lines: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let entry = lines.iter().find(|line| line["message"].as_str().is_some_and(|said| said.contains("left out")));
    assert_eq!(entry.unwrap()["path"], format!("/x{FORGED}"), "what was said is kept");
}

#[test]
fn a_backup_cannot_control_the_terminal_that_shows_it() {
    let folder = Folder::new();
    let (backup, secret) = (folder.file("backup"), folder.file("secret"));
    std::fs::write(&backup, file(&forged_id(), &format!("/x{FORGED}"))).unwrap();
    std::fs::write(&secret, BACKUP).unwrap();
    let mut command = casemated(&["backup", "inspect", "--backup-passphrase-file"]);
    let printed = run(command.arg(secret).arg(backup)).stdout;
    let printed = String::from_utf8(printed).unwrap();
    let lines: Vec<&str> = printed.lines().collect();
    assert_eq!(lines.len(), 3, "head, entry and end: {printed:?}");
    assert!(lines[0].contains("added Eve") && lines[1].contains("added Eve"), "{printed:?}");
    for line in lines {
        assert!(!line.contains(|c: char| c.is_control() || c == '\u{2028}' || c == '\u{202e}'), "{line:?}");
    }
}
