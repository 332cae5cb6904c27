//! `cargo xtask siege`: a million hostile requests beside an honest client, run and judged by `server/examples/siege`.

use anyhow::Result;

use crate::metadata;
use crate::steps::{cargo, run};

/// Builds the server and the siege in release mode and runs it; `args` may be the number of hostile requests.
pub(crate) fn start(args: &[&str]) -> Result<()> {
    for what in [["--bin", "casemated"], ["--example", "siege"]] {
        run(cargo(&["build", "--release", "--locked", "-p", "casemate-server"]).args(what))?;
    }
    let release = metadata::target_dir()?.join("release");
    run(std::process::Command::new(release.join("examples/siege")).arg(release.join("casemated")).args(args))
}
