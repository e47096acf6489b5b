#![forbid(unsafe_code)]
//! The SIP session engine.
