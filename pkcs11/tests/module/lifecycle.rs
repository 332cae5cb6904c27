//! What processes do to a module: they fork, use it in many threads, unload it, and end without a word.

use casemate_testkit::OPERATOR;

use crate::harness::{Passphrases, Rig};

fn lifecycle(what: &str) {
    Rig::new(Passphrases::None).run_c("lifecycle", &[what, OPERATOR]);
}

#[test]
fn a_child_begins_anew_wherever_its_parent_was() {
    lifecycle("fork");
}

#[test]
fn a_child_is_one_although_it_has_the_process_number_of_its_parent() {
    lifecycle("unshare");
}

#[test]
fn sixty_four_threads_sign_search_and_digest_at_once() {
    lifecycle("threads");
}

#[test]
fn a_process_forks_while_eight_threads_call() {
    lifecycle("fork-threads");
}

#[test]
fn the_module_is_finalised_while_eight_threads_call() {
    lifecycle("finalize-threads");
}

#[test]
fn a_process_ends_without_finalising() {
    let rig = Rig::new(Passphrases::None);
    rig.run_c("lifecycle", &["exit", OPERATOR]);
    rig.run_c("lifecycle", &["exit-threads", OPERATOR]);
}

#[test]
fn the_module_is_loaded_and_unloaded_a_thousand_times() {
    let rig = Rig::new(Passphrases::None);
    rig.run_c("lifecycle", &["unload", OPERATOR]);
    rig.run_c("lifecycle", &["unload-threads", OPERATOR]);
}
