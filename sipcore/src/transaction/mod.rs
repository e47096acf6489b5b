//! Transactions (RFC 3261 17, RFC 6026): every request sent and received passes through here. Sans-IO: time is a parameter, messages,
//! events and deadlines come out.

mod answers;
mod clients;
mod invite_client;
mod invite_server;
mod key;
mod layer;
mod non_invite_client;
mod servers;
#[cfg(test)]
mod tests;
mod timers;
mod timing;
mod window;

pub(crate) use key::{ClientId, ServerId, mark_of};
pub(crate) use layer::{Event, Layer};
pub(crate) use timers::Timers;
pub use timing::Timing;
pub(crate) use timing::{Clock, Due};
