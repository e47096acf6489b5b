#![forbid(unsafe_code)]
//! The SIP session engine: messages, transactions, dialogs, registration, calls, offer/answer, presence, and the embedded hub.

pub mod agent;
pub mod auth;
mod backoff;
mod dialog;
pub mod flow;
pub mod hub;
pub mod label;
pub mod locate;
pub mod message;
pub mod netcheck;
pub mod presence;
mod random;
mod registration;
pub mod sdp;
mod session_timer;
#[cfg(test)]
mod simulation;
pub mod tls;
mod transaction;
mod transport;
pub mod turn;
mod user_agent;
