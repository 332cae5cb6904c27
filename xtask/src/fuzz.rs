//! Fuzzing. The targets are plain functions in `fuzz/src/lib.rs`; the smoke run uses seeded mutations and the stable
//! compiler, `cargo fuzz` runs the same functions with coverage feedback.

use std::fs;

use anyhow::{Context, Result};

use crate::metadata;
use crate::steps::{cargo, run, succeeds};

/// Seconds of the smoke run, over all targets together.
const SMOKE_SECONDS: &str = "20";

/// Runs every target for a short time. A crash prints the seed and the path of the input.
pub(crate) fn smoke() -> Result<()> {
    lock()?;
    // The same target directory and profile as the workspace, so that dependencies are not built a second time.
    let target = metadata::target_dir()?;
    let mut command = cargo(&["run", "--manifest-path", "fuzz/Cargo.toml", "--bin", "smoke"]);
    run(command.arg("--target-dir").arg(target).args(["--", SMOKE_SECONDS]))
}

/// Copies the lock file of the workspace to the targets, so that both build the same versions; cargo adds what only the
/// targets need.
pub(crate) fn lock() -> Result<()> {
    let (ours, theirs) = (metadata::root().join("Cargo.lock"), metadata::root().join("fuzz/Cargo.lock"));
    let modified = |path| fs::metadata(path).and_then(|file| file.modified());
    if modified(&theirs).ok() < Some(modified(&ours).context("Cargo.lock")?) {
        fs::copy(&ours, &theirs).context("fuzz/Cargo.lock")?;
    }
    Ok(())
}

/// Runs one target under `cargo fuzz`, until it crashes or is interrupted.
pub(crate) fn libfuzzer(target: &str, args: &[&str]) -> Result<()> {
    anyhow::ensure!(
        succeeds("cargo", &["+nightly", "fuzz", "--version"]),
        "cargo-fuzz on a nightly toolchain is needed:\n  rustup toolchain install nightly\n  cargo install --locked cargo-fuzz"
    );
    lock()?;
    let mut command = std::process::Command::new("rustup");
    command.args(["run", "nightly", "cargo", "fuzz", "run", "--features", "libfuzzer", target]);
    // New inputs go into the first folder, the second contains the seeds.
    let corpus = format!("fuzz/corpus/{target}");
    fs::create_dir_all(metadata::root().join(&corpus))?;
    command.args([corpus, format!("fuzz/seeds/{target}")]);
    run(command.args(args).current_dir(metadata::root())).with_context(|| format!("fuzz target {target}"))
}
