//! `cargo xtask bench etcd`: what a shared store in etcd costs, and how fast changes and failures get through to other nodes.
//! Run by `testkit/examples/etcd`, which has real nodes and a real etcd at hand.

use std::process::Command;

use anyhow::Result;

use super::rig;
use crate::steps::{cargo, run as run_command};
use crate::{metadata, setup};

/// Builds all of it in release mode and runs it with these arguments: `--quick`, `--keys N`, names of parts.
pub(super) fn run(args: &[&str]) -> Result<()> {
    setup::etcd()?;
    run_command(&mut cargo(&["build", "--release", "--locked", "-p", "casemate-server", "--bin", "casemated"]))?;
    run_command(&mut cargo(&["build", "--release", "--locked", "-p", "casemate-testkit", "--example", "etcd"]))?;
    let target = metadata::target_dir()?;
    print!("\n{}", rig::machine(&target.join("etcd/etcd").to_string_lossy()));
    run_command(Command::new(target.join("release/examples/etcd")).args(args))
}
