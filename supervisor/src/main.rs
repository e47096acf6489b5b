#![forbid(unsafe_code)]
//! The program `sipbox`.

fn main() {}
