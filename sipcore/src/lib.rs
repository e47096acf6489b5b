#![forbid(unsafe_code)]
//! The SIP session engine: messages, transactions, dialogs, registration, calls, offer/answer, and the embedded hub.

pub mod auth;
pub mod label;
pub mod message;
pub mod sdp;
