//! Runs the transcripts of `docs/cli/*.md`: each command, in the order of its file and against HSMs of its own, has to
//! print what the file shows.
//!
//! A new file needs nothing here, unless it wants other HSMs than one that is Operational: see [`hsms_of`]. Write the
//! commands; `TRYCMD=overwrite cargo test -p casemate-cli --test transcripts` fills in what they print; then put `[..]`
//! where it differs from run to run. Commands run in an [`Environment`] with its files and the profiles `default` (the
//! Administrator `admin`), `op`, `metrics` and `backup`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]
#![allow(clippy::disallowed_methods, reason = "tests look at their environment")]

#[path = "transcripts/commands.rs"]
mod commands;
#[path = "transcripts/environment.rs"]
mod environment;

use std::path::PathBuf;
use std::{fs, thread};

use environment::{Environment, HsmKind};

/// The HSMs of a file, each under its profile. Unless a file is listed, there is one that is Operational.
fn hsms_of(file: &str) -> &'static [(&'static str, HsmKind)] {
    match file {
        "setup" => &[("default", HsmKind::Fresh), ("amsterdam", HsmKind::Fresh), ("stuttgart", HsmKind::Fresh)],
        "configure" => &[("default", HsmKind::Operational), ("amsterdam", HsmKind::Operational)],
        "update" => &[("default", HsmKind::Updatable), ("amsterdam", HsmKind::Updatable)],
        "system" => &[
            ("default", HsmKind::Operational),
            ("amsterdam", HsmKind::Operational),
            ("stuttgart", HsmKind::Operational),
        ],
        "cluster" => &[
            ("default", HsmKind::Member),
            ("amsterdam", HsmKind::Joiner),
            ("stuttgart", HsmKind::Joiner),
            ("barcelona", HsmKind::Serving),
        ],
        "audit" => &[("default", HsmKind::Founder), ("amsterdam", HsmKind::Further)],
        "nethsm" => &[("default", HsmKind::NetHsm)],
        _ => &[("default", HsmKind::Operational)],
    }
}

/// Commands that no transcript shows yet: most, because no `casemated` succeeds at them.
const NOT_SHOWN: &[&str] = &[
    // The last member of the cluster of `cluster.md` is not alone at its end.
    "cluster dissolve",
    "cluster force-new",
    "config tls cluster-ca rm",
    // It needs the address of an HSM, which differs from run to run.
    "profile add",
];

/// The files that are documentation.
const DOCUMENTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/cli");
/// Those that are only tests.
const TESTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/transcripts");

/// The transcripts of a folder, by their names without `.md`.
fn files(folder: &str) -> Vec<(String, PathBuf)> {
    let mut files: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "md"))
        .map(|path| (path.file_stem().unwrap().to_str().unwrap().to_owned(), path))
        .collect();
    files.sort();
    files
}

#[test]
fn every_transcript_is_what_happens() {
    let files = [files(DOCUMENTS), files(TESTS)].concat();
    assert!(files.len() >= 8, "{files:?}");
    thread::scope(|scope| {
        for (name, path) in &files {
            // trycmd runs the commands of a file one after the other, and the files of one `TestCases` at once.
            scope.spawn(move || {
                let environment = Environment::new(hsms_of(name));
                let cases = trycmd::TestCases::new();
                cases.register_bins(environment.programs());
                for (variable, value) in environment.variables() {
                    cases.insert_var(variable, value).unwrap();
                }
                cases.case(path).run();
            });
        }
    });
}

#[test]
fn every_command_has_a_transcript() {
    let shown: Vec<String> = files(DOCUMENTS).iter().map(|(_, path)| fs::read_to_string(path).unwrap()).collect();
    let tree = commands::Tree::of_casemate();
    let shown = tree.shown_in(&shown);
    let missing: Vec<_> = tree.leaves.iter().filter(|leaf| !shown.contains(*leaf)).map(String::as_str).collect();
    for name in NOT_SHOWN {
        assert!(tree.leaves.contains(*name), "there is no command `{name}`: take it out of NOT_SHOWN");
        assert!(missing.contains(name), "`{name}` is shown: take it out of NOT_SHOWN");
    }
    let missing: Vec<_> = missing.into_iter().filter(|name| !NOT_SHOWN.contains(name)).collect();
    assert!(missing.is_empty(), "docs/cli/*.md show no run that succeeds of: {}", missing.join(", "));
}
