#![forbid(unsafe_code)]
//! What the end-to-end tests share.
