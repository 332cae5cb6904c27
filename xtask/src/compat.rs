//! Real clients against a real `casemated`: the pytest suite in `tests/compat`, and the tour of a cluster in `server/tests/network`.

use std::process::Command;

use anyhow::{Result, ensure};

use crate::metadata;
use crate::setup;
use crate::steps::{Steps, cargo, run};

/// Builds the server, installs the clients and runs the suite, passing `args` to pytest. Without any, the tour of a cluster follows.
pub(crate) fn all(steps: &mut Steps, args: &[&str]) -> Result<()> {
    steps.step("build casemated", || {
        run(&mut cargo(&["build", "--package", "casemate-server", "--bin", "casemated", "--locked"]))
    })?;
    steps.step("build the PKCS#11 module", || {
        run(&mut cargo(&["build", "--package", "casemate-pkcs11", "--lib", "--locked"]))
    })?;
    steps.step("python clients", || setup::python().map(drop))?;
    steps.step("compat", || pytest(args))?;
    if args.is_empty() {
        steps.step("tour of a cluster", tour)?;
    }
    Ok(())
}

/// The tests of members in network namespaces: those that take the clients, and those that measure time.
fn tour() -> Result<()> {
    setup::etcd()?;
    let mut test = cargo(&["test", "-p", "casemate-server", "--test", "network", "--locked"]);
    run(test.args(["--", "--ignored", "--nocapture", "--test-threads=4"]))
}

fn pytest(args: &[&str]) -> Result<()> {
    let casemated = metadata::target_dir()?.join("debug").join("casemated");
    ensure!(casemated.is_file(), "{} is not there", casemated.display());
    let module = metadata::target_dir()?.join("debug").join("libcasemate_pkcs11.so");
    ensure!(module.is_file(), "{} is not there", module.display());
    let bin = setup::python()?;
    let mut command = Command::new(bin.join("python"));
    command.args(["-B", "-m", "pytest", "-p", "no:cacheprovider", "--durations=5"]).args(args);
    command.env("CASEMATED", casemated).env("CASEMATE_PKCS11_MODULE", module);
    command.current_dir(metadata::root().join("tests/compat"));
    run(&mut command)
}
