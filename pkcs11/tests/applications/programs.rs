//! Programs of ours, with the module and with SoftHSM2: a failure with both is not the module's.

use std::path::Path;
use std::process::Command;

use casemate_testkit::OPERATOR;

use crate::harness::{module, succeeds};
use crate::{printed, rig, softhsm};

#[test]
fn a_program_of_go_uses_the_module_by_crypto11() {
    let rig = rig();
    let program = rig.folder.at("crypto11");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/crypto11");
    let mut build = Command::new("go");
    build.args(["build", "-mod=readonly", "-trimpath", "-buildvcs=false", "-o", &program, "."]).current_dir(source);
    succeeds(build.env("CGO_ENABLED", "1"));

    let mut ours = rig.command(&program);
    let mut others = Command::new(&program);
    ours.arg(module()).env("PIN", OPERATOR);
    let (softhsm, config) = softhsm(&rig.folder);
    others.arg(softhsm).env("SOFTHSM2_CONF", config).env("PIN", "12345678");
    for mut command in [others, ours] {
        let steps = printed(&succeeds(command.arg("test")));
        assert_eq!(
            steps.lines().collect::<Vec<_>>(),
            ["rsa ok", "ec ok", "random ok", "threads ok", "tls ok", "delete ok"]
        );
    }
}
