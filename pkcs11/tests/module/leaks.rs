//! The module under valgrind: nothing reads or writes where it must not, and no memory is lost.
//!
//! It takes no suppressions. Memory that is still reachable at the end is no leak: the module stays loaded, and AWS-LC keeps some.

use std::process::Command;

use casemate_testkit::OPERATOR;

use crate::harness::{Passphrases, Rig, module, succeeds};

/// Of blocks that are lost for good.
const FLAGS: [&str; 6] = [
    "--quiet",
    "--leak-check=full",
    "--show-leak-kinds=definite",
    "--errors-for-leak-kinds=definite",
    "--error-exitcode=99",
    "--num-callers=30",
];

#[test]
fn random_calls_lose_no_memory() {
    let rig = Rig::without_hsm();
    let mut valgrind: Command = rig.command("valgrind");
    succeeds(valgrind.args(FLAGS).arg(rig.built("random")).arg(module()).args(["60000", "2"]));
}

#[test]
fn threads_lose_no_memory() {
    let rig = Rig::new(Passphrases::None);
    let mut valgrind: Command = rig.command("valgrind");
    succeeds(valgrind.args(FLAGS).arg(rig.built("lifecycle")).arg(module()).args(["threads", OPERATOR]));
}

/// Whatever else these tests show, they would notice it.
#[test]
fn a_program_that_loses_memory_fails() {
    let rig = Rig::without_hsm();
    let mut valgrind: Command = rig.command("valgrind");
    let output = valgrind.args(FLAGS).arg(rig.built("leak")).output().unwrap();
    assert_eq!(output.status.code(), Some(99), "{output:?}");
}
