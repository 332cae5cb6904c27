//! libFuzzer's entry to [`casemate_fuzz::log_file`].
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| casemate_fuzz::log_file(bytes));
