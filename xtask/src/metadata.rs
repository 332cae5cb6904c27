//! cargo's metadata of this workspace.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::steps::cargo;

/// Root of the workspace.
pub(crate) fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

/// Whether to resolve the whole tree of dependencies or to read only the workspace's own manifests.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Depth {
    /// Own manifests.
    Workspace,
    /// Every package brought in by the lock file and the enabled features.
    Tree,
}

/// `cargo metadata`, format 1. Fails if `Cargo.lock` does not fit the manifests.
pub(crate) fn read(depth: Depth) -> Result<Value> {
    let mut command = cargo(&["metadata", "--format-version", "1", "--locked"]);
    if depth == Depth::Workspace {
        command.arg("--no-deps");
    }
    let output = command.output().context("cannot start cargo metadata")?;
    if !output.status.success() {
        bail!("cargo metadata failed:\n{}", String::from_utf8_lossy(&output.stderr));
    }
    serde_json::from_slice(&output.stdout).context("cargo metadata printed no JSON")
}

/// The directory of build outputs, wherever the environment puts it.
pub(crate) fn target_dir() -> Result<PathBuf> {
    let metadata = read(Depth::Workspace)?;
    Ok(PathBuf::from(text(&metadata, "target_directory")?))
}

/// A member of a JSON object that must be a list.
pub(crate) fn list<'a>(value: &'a Value, member: &str) -> Result<&'a [Value]> {
    value.get(member).and_then(Value::as_array).map(Vec::as_slice).with_context(|| format!("no list {member}"))
}

/// A member of a JSON object that must be a string.
pub(crate) fn text<'a>(value: &'a Value, member: &str) -> Result<&'a str> {
    value.get(member).and_then(Value::as_str).with_context(|| format!("no string {member}"))
}
