//! A restore of a file whose unlock passphrase is not known.

use serde_json::json;

use crate::daemon::{ADMIN, Client, Daemon, Folder, UNLOCK};

const BACKUP: &str = "the backup passphrase";

fn set_backup_passphrase(admin: &Client) {
    let passphrase = json!({ "newPassphrase": BACKUP, "currentPassphrase": "" });
    admin.call("PUT", "/config/backup-passphrase", Some(&passphrase)).unwrap().expect(204);
}

#[test]
fn a_backup_with_an_unknown_unlock_passphrase_locks_nobody_out() {
    let foreign = {
        let folder = Folder::new();
        let daemon = Daemon::start(&folder);
        daemon.client().provision().unwrap().expect(204);
        let admin = daemon.client().log_in("admin", ADMIN);
        set_backup_passphrase(&admin);
        let lost = json!({ "newPassphrase": "a passphrase that is lost", "currentPassphrase": UNLOCK });
        admin.call("PUT", "/config/unlock-passphrase", Some(&lost)).unwrap().expect(204);
        let user = json!({ "realName": "", "role": "Backup", "passphrase": BACKUP });
        admin.call("PUT", "/users/backup", Some(&user)).unwrap().expect(201);
        let backup = daemon.client().log_in("backup", BACKUP);
        backup.call("POST", "/system/backup", None).unwrap().expect(200).bytes
    };
    let folder = Folder::new();
    let daemon = Daemon::start(&folder);
    daemon.client().provision().unwrap().expect(204);
    let admin = daemon.client().log_in("admin", ADMIN);
    admin.create_operator("operator", "the operator's passphrase");
    admin.restore(&json!({ "backupPassphrase": BACKUP }), &foreign).unwrap().expect(204);
    assert_eq!(daemon.client().state(), "Locked");
    // Not even a kill in between prevents undoing it.
    daemon.kill();
    let daemon = Daemon::start(&folder);
    daemon.client().unlock(UNLOCK).expect(204);
    assert_eq!(daemon.client().state(), "Operational");
    let admin = daemon.client().log_in("admin", ADMIN);
    admin.call("GET", "/users/operator", None).unwrap().expect(200);
}
