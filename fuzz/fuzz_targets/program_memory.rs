#![no_main]
//! What a hostile program passes by pointer: socket addresses and control data.

use libfuzzer_sys::fuzz_target;
use sandbox::memory::{Address, sockaddr_bytes};
use sandbox::message::{build_control, parse_control};

fuzz_target!(|bytes: &[u8]| {
    if let Address::Inet(address) = Address::parse(bytes) {
        assert_eq!(Address::parse(&sockaddr_bytes(&address)), Address::Inet(address));
    }
    if let Ok(messages) = parse_control(bytes) {
        assert_eq!(parse_control(&build_control(&messages)).as_deref(), Ok(&messages[..]));
    }
});
