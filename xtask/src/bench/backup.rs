//! Backup and restore of many keys: duration and memory.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use super::mib;
use super::rig::{ADMIN, How, Server, UNLOCK, User};

const BACKUP: User = ("backup", "backup passphrase");

/// Takes a backup of `server`, restores it there, and on a new device.
pub(super) fn measure(server: &mut Server, release: &Path) -> Result<()> {
    let user = format!(r#"{{"realName":"","role":"Backup","passphrase":"{}"}}"#, BACKUP.1);
    server.call("PUT", "/users/backup", Some(ADMIN), Some(&user))?;
    let passphrase = format!(r#"{{"newPassphrase":"{}","currentPassphrase":""}}"#, BACKUP.1);
    server.call("PUT", "/config/backup-passphrase", Some(ADMIN), Some(&passphrase))?;
    let file = std::env::temp_dir().join(format!("casemate-bench-{}.backup", std::process::id()));
    let figures: Result<_> = (|| {
        server.restart(How::Asked)?;
        let backup = timed(server, || server.download("/system/backup", BACKUP, &file))?;
        let size = fs::metadata(&file)?.len();
        server.restart(How::Asked)?;
        let in_place = timed(server, || server.restore(Some(ADMIN), "{}", &file))?;
        let fresh = Server::start(release, "fresh")?;
        let arguments = format!(r#"{{"backupPassphrase":"{}"}}"#, BACKUP.1);
        let full = timed(&fresh, || fresh.restore(None, &arguments, &file))?;
        let unlock = format!(r#"{{"passphrase":"{UNLOCK}"}}"#);
        let unlocked = timed(&fresh, || fresh.call("POST", "/unlock", None, Some(&unlock)).map(drop))?;
        fresh.stop()?;
        Ok((size, [backup, in_place, full, unlocked]))
    })();
    let _ = fs::remove_file(&file);
    let (size, times): (u64, [(Duration, u64); 4]) = figures?;
    println!("\n## Their backup, a file of {:.1} MiB\n", mib(size / 1024));
    println!("| | time | most memory since the start (RSS) |\n|---|---|---|");
    let names = ["backup", "restore in place", "restore on a new device", "its first unlock"];
    for (name, (took, peak)) in names.iter().zip(times) {
        println!("| {name} | {took:.1?} | {:.1} MiB |", mib(peak));
    }
    Ok(())
}

/// The duration of `work`, and the peak memory of `server` since its start, in KiB.
fn timed(server: &Server, work: impl FnOnce() -> Result<()>) -> Result<(Duration, u64)> {
    let begun = Instant::now();
    work()?;
    Ok((begun.elapsed(), server.peak_kib()?))
}

impl Server {
    fn download(&self, path: &str, user: User, to: &Path) -> Result<()> {
        let mut curl = self.curl("POST", path, Some(user));
        let status = curl.arg("-o").arg(to).status()?;
        ensure!(status.success(), "POST {path} ended with {status}");
        Ok(())
    }

    fn restore(&self, user: Option<User>, arguments: &str, file: &Path) -> Result<()> {
        let mut curl: Command = self.curl("POST", "/system/restore", user);
        curl.args(["-F", &format!("arguments={arguments}"), "-F", &format!("backup_file=@{}", file.display())]);
        let output = curl.output()?;
        ensure!(output.status.success(), "restore: {}", String::from_utf8_lossy(&output.stdout));
        Ok(())
    }
}
