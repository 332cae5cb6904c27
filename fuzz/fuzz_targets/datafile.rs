//! libFuzzer's entry to [`casemate_fuzz::data_file`].
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| casemate_fuzz::data_file(bytes));
