//! libFuzzer's entry to [`casemate_fuzz::update`].
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| casemate_fuzz::update(bytes));
