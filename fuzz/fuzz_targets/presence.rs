#![no_main]
#[path = "../sipcore_checks.rs"]
#[allow(dead_code)]
mod sipcore_checks;

libfuzzer_sys::fuzz_target!(|data: &[u8]| sipcore_checks::presence(data));
