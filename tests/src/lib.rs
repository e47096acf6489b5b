#![forbid(unsafe_code)]
//! What the end-to-end tests and the benchmarks share: a world of its own for every test ([`World`]), processes that are
//! watched, bounded and cleaned up ([`Launch`], [`Process`], [`Done`]), a few raw SIP messages ([`sip`]) and a real
//! registrar ([`Kamailio`]).
//!
//! Nothing here sleeps for luck: every wait is for a condition and has a deadline. Failures panic with the output of all
//! programs of the world.

pub mod browser;
pub mod certificate;
mod coturn;
mod dns;
mod kamailio;
pub mod lab;
mod process;
mod rtpengine;
pub mod servers;
mod signalling;
pub mod sip;
mod world;

pub use coturn::{Accounts, Coturn};
pub use dns::Dns;
pub use kamailio::{Algorithm, Kamailio};
pub use process::{Done, Launch, PATIENCE, Process, descendants, until, within};
pub use rtpengine::Rtpengine;
pub use signalling::{Registrar, Signalling};
pub use world::{World, direct_flows, free_port, has_udp_socket};
