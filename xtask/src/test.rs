//! `cargo xtask test`: everything, cheapest failures first.

use anyhow::Result;

use crate::steps::{Steps, cargo, run};
use crate::{check, compat, fuzz, setup};

/// Checks, supply chain, tests, real clients, fuzz smoke.
pub(crate) fn all(steps: &mut Steps) -> Result<()> {
    steps.step("system packages", setup::system_packages)?;
    check::lints(steps)?;
    supply_chain(steps)?;
    steps.step("etcd", setup::etcd)?;
    steps.step("crypto11", setup::crypto11)?;
    // No `--quiet`: people and CI read the closing lines of `cargo test`. All of it runs, so that one run tells all failures.
    steps.step("tests", || run(&mut cargo(&["test", "--workspace", "--locked", "--no-fail-fast"])))?;
    steps.step("tests of the API on etcd", || {
        let mut command = cargo(&["test", "-p", "casemate-server", "--test", "api", "--locked"]);
        run(command.env("CASEMATE_TEST_STORE", "etcd"))
    })?;
    check::documentation(steps)?;
    compat::all(steps, &[])?;
    steps.step("fuzz smoke", fuzz::smoke)
}

/// `cargo deny` checks licences, bans and sources more closely than `tidy`, and advisories if their database can be
/// reached.
fn supply_chain(steps: &mut Steps) -> Result<()> {
    steps.step("cargo deny", || {
        setup::cargo_deny()?;
        run(&mut cargo(&["deny", "--locked", "check", "bans", "licenses", "sources"]))
    })?;
    if !cargo(&["deny", "fetch", "db"]).output()?.status.success() {
        steps.skip(
            "advisories",
            "the database of advisories (github.com/rustsec/advisory-db) cannot be reached from here",
        );
        return Ok(());
    }
    steps.step("advisories", || run(&mut cargo(&["deny", "--locked", "check", "--disable-fetch", "advisories"])))
}
