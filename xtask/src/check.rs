//! `cargo xtask check`: what must hold before every commit. Under two minutes when warm.

use anyhow::Result;

use crate::steps::{Steps, cargo, run};
use crate::{fuzz, metadata, setup, tidy};

/// Formatting, lints, house rules, unit tests, documentation.
pub(crate) fn all(steps: &mut Steps) -> Result<()> {
    lints(steps)?;
    steps.step("unit tests", || run(&mut cargo(&["test", "--workspace", "--lib", "--bins"])))?;
    documentation(steps)
}

/// Formatting, lints and house rules: everything that runs no tests.
pub(crate) fn lints(steps: &mut Steps) -> Result<()> {
    steps.step("rust components", setup::rust_components)?;
    steps.step("fmt", || {
        run(&mut cargo(&["fmt", "--all", "--check"]))?;
        run(&mut cargo(&["fmt", "--manifest-path", "fuzz/Cargo.toml", "--check"]))
    })?;
    steps.step("tidy", tidy::all)?;
    steps.step("clippy", || {
        run(&mut cargo(&["clippy", "--workspace", "--all-targets", "--locked", "--", "-D", "warnings"]))?;
        fuzz::lock()?;
        // In the same target directory, so that dependencies are not built a second time.
        let target = metadata::target_dir()?;
        let mut fuzz = cargo(&["clippy", "--manifest-path", "fuzz/Cargo.toml", "--target-dir"]);
        run(fuzz.arg(target).args(["--", "-D", "warnings"]))
    })
}

/// The API documentation builds without a warning.
pub(crate) fn documentation(steps: &mut Steps) -> Result<()> {
    steps
        .step("doc", || run(cargo(&["doc", "--workspace", "--no-deps", "--locked"]).env("RUSTDOCFLAGS", "-D warnings")))
}
