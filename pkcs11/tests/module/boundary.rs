//! What is exported, and what functions answer to anybody who calls them.

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
