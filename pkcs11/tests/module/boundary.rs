//! What is exported, and what functions answer to anybody who calls them.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, chown};
use std::process::Command;

use crate::harness::{Rig, module, succeeds};

#[test]
fn only_functions_of_the_standard_are_exported() {
    let output = succeeds(Command::new("nm").args(["-D", "--defined-only"]).arg(module()));
    let text = String::from_utf8(output.stdout).unwrap();
    let names: Vec<&str> = text.lines().filter_map(|line| line.split_whitespace().last()).collect();
    assert_eq!(names.len(), 104, "{names:?}");
    assert!(names.iter().all(|name| name.starts_with("C_")), "{names:?}");
}

#[test]
fn every_table_is_complete_and_every_function_survives_null() {
    Rig::without_hsm().run_c("tables", &[]);
}

#[test]
fn no_sequence_of_calls_crashes_the_module() {
    let rig = Rig::without_hsm();
    for seed in ["1", "2"] {
        rig.run_c("random", &["400000", seed]);
    }
}

/// A program with rights that its user lacks. Only root can make one.
#[test]
fn a_setgid_program_takes_nothing_from_its_user() {
    let rig = Rig::without_hsm();
    rig.run_c("slots", &["2"]);
    let program = rig.folder.at("slots");
    chown(&program, None, Some(65534)).unwrap();
    fs::set_permissions(&program, Permissions::from_mode(0o2755)).unwrap();
    let log = rig.folder.at("log");
    let mut command = rig.command(&program);
    // A mistake in the file would be told to the log.
    fs::write(rig.folder.at("pkcs11.toml"), "no TOML").unwrap();
    succeeds(command.env("CASEMATE_PKCS11_LOG", &log).arg(module()).arg("0"));
    assert!(!fs::exists(&log).unwrap());
}
