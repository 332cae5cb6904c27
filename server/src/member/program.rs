//! Which etcd is run.

use std::ffi::OsStr;
use std::fs;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use casemate_api::limits::MEMBER_VERSION_MS;

/// An etcd that can be run as a member: its version is one that keeps its promises.
#[derive(Clone, Debug)]
pub struct Program {
    pub(super) etcd: PathBuf,
    pub(super) version: String,
    /// The `casemated` that confines it.
    pub(super) launcher: PathBuf,
}

impl Program {
    /// The etcd at the absolute path `setting`, or else the first one in `search`, a list of folders as in the environment
    /// variable `PATH`. It is asked for its version. `Err` is a sentence for the operator.
    pub fn find(setting: Option<&Path>, search: Option<&OsStr>) -> Result<Self, String> {
        let etcd = match setting {
            Some(path) if path.is_absolute() => path.to_owned(),
            Some(path) => return Err(format!("{} is not an absolute path of an etcd program", path.display())),
            None => {
                let found = search.and_then(on_path);
                found
                    .ok_or("there is no etcd on PATH: install etcd 3.6.13 or later, or name its file in the settings")?
            }
        };
        let version = version(&etcd).map_err(|why| format!("cannot use {} as etcd: {why}", etcd.display()))?;
        // The running program, also when its file has been replaced.
        Ok(Self { etcd, version, launcher: "/proc/self/exe".into() })
    }

    /// For processes that are not `casemated`: its file, which is run to confine etcd.
    pub fn launched_by(self, casemated: PathBuf) -> Self {
        Self { launcher: casemated, ..self }
    }

    /// The version of etcd, such as `3.6.16`.
    pub fn version(&self) -> &str {
        &self.version
    }
}

fn on_path(search: &OsStr) -> Option<PathBuf> {
    let runs = |file: &PathBuf| {
        fs::metadata(file).is_ok_and(|about| about.is_file() && about.permissions().mode() & 0o111 != 0)
    };
    std::env::split_paths(search).filter(|folder| folder.is_absolute()).map(|folder| folder.join("etcd")).find(runs)
}

fn version(etcd: &Path) -> Result<String, String> {
    let said = ask(etcd)?;
    let version = said.lines().find_map(|line| line.strip_prefix("etcd Version: ")).map(str::trim);
    let version = version.ok_or("it does not tell its version as etcd does")?;
    if is_used(version) {
        Ok(version.to_owned())
    } else {
        Err(format!("its version is {version:?}, and 3.6.13 or a later 3.x is needed"))
    }
}

/// Earlier ones lose data, or forget that a learner was promoted; a next major version may have other flags.
fn is_used(version: &str) -> bool {
    let mut numbers = version.split(['.', '-', '+']).map(|number| number.parse::<u32>().ok());
    let [major, minor, patch] = std::array::from_fn(|_| numbers.next().flatten());
    matches!((major, minor, patch), (Some(3), Some(6), Some(13..)) | (Some(3), Some(7..), Some(_)))
}

/// What `etcd --version` prints.
fn ask(etcd: &Path) -> Result<String, String> {
    let mut command = Command::new(etcd);
    command.arg("--version").env_clear().stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().map_err(|error| error.to_string())?;
    let stdout = child.stdout.take();
    let (sender, said) = mpsc::channel();
    thread::spawn(move || {
        let mut text = String::new();
        let read = stdout.map(|stdout| stdout.take(ANSWER_MAX_BYTES).read_to_string(&mut text));
        let _ = sender.send(read.is_some_and(|read| read.is_ok()).then_some(text));
    });
    let said = said.recv_timeout(Duration::from_millis(MEMBER_VERSION_MS));
    // It has said what it had to say, or nothing in time.
    let _ = child.kill();
    let _ = child.wait();
    let said = said.map_err(|_| format!("it has not told its version within {MEMBER_VERSION_MS} ms"))?;
    said.ok_or_else(|| "it does not tell its version as etcd does".into())
}

const ANSWER_MAX_BYTES: u64 = 4096;

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;

    use super::*;
    use crate::scratch::Scratch;

    /// A program that prints `text`.
    fn script(folder: &Scratch, name: &str, text: &str) -> PathBuf {
        let path = folder.path(name);
        fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        // Another test may fork while the file is open for writing, and it cannot be run until that process is another program.
        while Command::new(&path).output().is_err_and(|error| error.kind() == ErrorKind::ExecutableFileBusy) {}
        path
    }

    #[test]
    fn only_versions_that_keep_their_promises_are_run() {
        for used in ["3.6.13", "3.6.16", "3.7.0", "3.7.3", "3.10.0-rc.1"] {
            assert!(is_used(used), "{used}");
        }
        for refused in ["3.6.12", "3.5.30", "3.4.23", "2.3.8", "4.0.0", "3.7", "", "three"] {
            assert!(!is_used(refused), "{refused}");
        }
        let folder = Scratch::new();
        let old = script(&folder, "old", "echo 'etcd Version: 3.5.30'; echo 'Git SHA: 1'");
        let refused = Program::find(Some(&old), None).unwrap_err();
        let expected = format!(
            "cannot use {} as etcd: its version is \"3.5.30\", and 3.6.13 or a later 3.x is needed",
            old.display()
        );
        assert_eq!(refused, expected);
        let other = Program::find(Some(&script(&folder, "other", "echo hello")), None).unwrap_err();
        assert!(other.ends_with("it does not tell its version as etcd does"), "{other}");
        let nowhere = Program::find(Some(Path::new("/no/etcd")), None).unwrap_err();
        assert!(nowhere.starts_with("cannot use /no/etcd as etcd: No such file"), "{nowhere}");
        assert!(Program::find(Some(Path::new("etcd")), None).unwrap_err().contains("not an absolute path"));
    }

    #[test]
    fn without_a_setting_the_first_one_on_the_path_is_run() {
        let folder = Scratch::new();
        for name in ["a", "b", "c"] {
            fs::create_dir(folder.path(name)).unwrap();
        }
        fs::write(folder.path("a/etcd"), "no program").unwrap();
        let etcd = script(&folder, "b/etcd", "echo 'etcd Version: 3.6.14'");
        script(&folder, "c/etcd", "echo 'etcd Version: 3.4.0'");
        let search = std::env::join_paths(["a", "b", "c"].map(|name| folder.path(name))).unwrap();
        let found = Program::find(None, Some(&search)).unwrap();
        assert_eq!((found.etcd.as_path(), found.version()), (etcd.as_path(), "3.6.14"));
        for nothing in [None, Some(OsStr::new("")), Some(OsStr::new("."))] {
            assert!(Program::find(None, nothing).unwrap_err().starts_with("there is no etcd on PATH"));
        }
    }
}
