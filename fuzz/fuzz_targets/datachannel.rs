#![no_main]
#[path = "../sipcore_checks.rs"]
#[allow(dead_code, reason = "each target uses one of the checks that stand in one file")]
mod sipcore_checks;

libfuzzer_sys::fuzz_target!(|data: &[u8]| sipcore_checks::datachannel(data));
