//! OpenSC's own tests of modules.

use crate::{printed, rig, shell};

const GENERATE: &str = "
    for key in rsa:2048-01 EC:prime256v1-02 EC:edwards25519-03; do
        pkcs11-tool --module $M --login --pin \"$PIN\" --keypairgen --key-type ${key%-*} --id ${key#*-} --label k${key#*-}
    done";

#[test]
fn opensc_tests_the_module() {
    let rig = rig();
    shell(&rig, GENERATE);
    let tested = printed(&shell(&rig, "pkcs11-tool --module $M --login --pin \"$PIN\" --test 2>&1"));
    assert!(tested.contains("No errors"), "{tested}");
    for mechanism in ["RSA-X-509: OK", "RSA-PKCS: OK", "SHA256-RSA-PKCS: OK"] {
        assert!(tested.contains(mechanism), "{tested}");
    }
}

#[test]
fn opensc_tests_the_module_in_threads() {
    let rig = rig();
    // Each pair of letters is a step of OpenSC's: to initialise, to get information, to list slots and tokens.
    let steps = "--test-threads ILGISLT0 --test-threads ILGISLT0 --test-threads ILGISLT0";
    let tested = printed(&shell(&rig, &format!("pkcs11-tool --module $M --use-locking {steps} -L 2>&1")));
    assert!(tested.contains("all threads have ended with CKR_OK"), "{tested}");
}
