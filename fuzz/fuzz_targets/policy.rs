#![no_main]
//! A policy file and the flags of the command line: an error with a place, or a policy that decides. Never a panic.

use libfuzzer_sys::fuzz_target;
use policy::{Flags, Policy, Proto};

fuzz_target!(|text: &str| {
    if let Ok(policy) = Policy::parse("fuzz.toml", text) {
        for destination in ["198.18.0.9:7000", "127.0.0.1:80", "[2001:2::9]:443"] {
            if let Ok(destination) = destination.parse() {
                let _ = policy.connect(Proto::Tcp, destination);
                let _ = policy.bind(Proto::Udp, destination.ip(), destination.port());
            }
        }
        let _ = policy.resolve(text);
        let _ = policy.accept_from(Proto::Tcp, 80, text);
    }
    let flags = Flags { maps: vec![text.to_owned()], to: Some(text.to_owned()), ..Flags::default() };
    let _ = Policy::from_flags(&flags);
});
