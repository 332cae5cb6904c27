//! `cargo xtask test`: everything, in the order in which it is cheapest to fail.

use anyhow::Result;

use crate::steps::{Steps, cargo, run, succeeds};
use crate::{check, compat, fuzz, setup};

/// Checks, tests, real clients, fuzz smoke, supply chain.
pub(crate) fn all(steps: &mut Steps) -> Result<()> {
    steps.step("system packages", setup::system_packages)?;
    check::lints(steps)?;
    // No `--quiet`: the closing lines of `cargo test` are what people and CI read.
    steps.step("tests", || run(&mut cargo(&["test", "--workspace", "--locked"])))?;
    check::documentation(steps)?;
    compat::all(steps, &[])?;
    steps.step("fuzz smoke", fuzz::smoke)?;
    supply_chain(steps)
}

/// `cargo deny` adds the advisory database to what `tidy` already checks (licences, bans, duplicates). It takes long to
/// build and needs the network, so it runs where it is installed.
fn supply_chain(steps: &mut Steps) -> Result<()> {
    if !succeeds("cargo", &["deny", "--version"]) {
        steps.skip("cargo deny", "not installed; `cargo install --locked cargo-deny` adds the check for advisories");
        return Ok(());
    }
    steps.step("cargo deny", || run(&mut cargo(&["deny", "--all-features", "check"])))
}
