//! `cargo xtask bench etcd`: what a shared store in etcd costs, and how fast changes and failures get through to other nodes; and
//! `cargo xtask bench cluster`: what becoming a cluster, growing it and losing a member costs.
//! Run by examples of `testkit`, which has real nodes and a real etcd at hand.

use std::process::Command;

use anyhow::Result;

use super::rig;
use crate::steps::{cargo, run as run_command};
use crate::{metadata, setup};

/// Builds the example and all that it needs in release mode, and runs it with these arguments: `--quick`, `--keys N`, names of parts.
pub(super) fn run(example: &str, args: &[&str]) -> Result<()> {
    setup::etcd()?;
    run_command(&mut cargo(&["build", "--release", "--locked", "-p", "casemate-server", "--bin", "casemated"]))?;
    run_command(&mut cargo(&["build", "--release", "--locked", "-p", "casemate-testkit", "--example", example]))?;
    let target = metadata::target_dir()?;
    print!("\n{}", rig::machine(&target.join("etcd/etcd").to_string_lossy()));
    run_command(Command::new(target.join("release/examples").join(example)).args(args))
}
