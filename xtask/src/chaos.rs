//! `cargo xtask chaos`: three nodes on a real etcd of three members, under load while processes are killed, for ten minutes.

use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};

use crate::setup;
use crate::steps::{cargo, run};

/// The test that is run, in `server/tests/nodes.rs`.
const TEST: &str = "what_clients_are_told_has_one_explanation_whatever_is_killed";

/// Runs the test in release mode and prints its figures. `args` may be `--seconds` and `--seed`, each with a number.
pub(crate) fn start(args: &[&str]) -> Result<()> {
    let mut seconds = 600;
    let mut seed = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    for pair in args.chunks(2) {
        let [name, value] = pair else { bail!("{} needs a number", pair.concat()) };
        let number = value.parse().with_context(|| format!("{value} is not a number"))?;
        match *name {
            "--seconds" => seconds = number,
            "--seed" => seed = number,
            other => bail!("no such option: {other}; there are --seconds and --seed"),
        }
    }
    setup::etcd()?;
    let mut test = cargo(&["test", "--release", "--locked", "-p", "casemate-server", "--test", "nodes"]);
    test.args(["--", "--nocapture", "--exact", TEST]);
    test.env("CASEMATE_NODES_SECONDS", seconds.to_string()).env("CASEMATE_NODES_SEED", seed.to_string());
    run(&mut test)
}
