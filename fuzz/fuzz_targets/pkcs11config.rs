//! libFuzzer's entry to [`casemate_fuzz::pkcs11::configuration`].
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| casemate_fuzz::pkcs11::configuration(bytes));
