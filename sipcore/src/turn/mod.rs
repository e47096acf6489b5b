//! The embedded STUN and TURN server of a hub (RFC 8489, 8656, 5780): it tells its clients their public addresses and how their NATs behave, and
//! relays for those that have no other way.
//!
//! The state machine is our own, on the messages of `stun-types` and `turn-types`: the one of `turn-server-proto` (0.7.3) keeps state for every
//! address that ever asked, knows no limits per user, no forbidden peers and no passwords that expire.

mod allocation;
mod answer;
mod behaviour;
mod credentials;
mod driver;
mod peers;
mod server;
#[cfg(test)]
mod tests;

pub use credentials::{Credentials, Mint};
pub use driver::{TurnError, TurnServer};
pub use peers::Network;

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::time::Duration;

/// What a server is.
#[derive(Debug, Clone)]
pub struct TurnConfig {
    /// UDP and TCP are opened on each; not a wildcard. The first one of a family is what relays of that family are opened on. With two of a family
    /// and the same port the server also tells how NATs behave (RFC 5780); it then opens UDP on the next port too.
    pub listen: Vec<SocketAddr>,
    /// The realm of its challenges.
    pub realm: String,
    /// Ports of the relays.
    pub ports: RangeInclusive<u16>,
    /// Peers that would be refused otherwise (loopback, private and link-local networks, ...).
    pub allow: Vec<Network>,
    /// What it grants.
    pub limits: TurnLimits,
}

/// What one client, one user and all together may take.
#[derive(Debug, Clone, Copy)]
pub struct TurnLimits {
    /// Allocations of one user (486 above it).
    pub allocations_per_user: usize,
    /// Allocations of all (508 above it).
    pub allocations: usize,
    /// Peer addresses with a permission, and channels, of one allocation (508 above it).
    pub peers: usize,
    /// Bytes a second that one user's relays carry, both directions together; what is above it is dropped.
    pub bytes_per_second: u64,
    /// Requests that one address without an allocation may send in a second; what is above it is dropped.
    pub requests_per_second: u32,
    /// TCP connections of clients.
    pub connections: usize,
    /// Longest lifetime of an allocation (RFC 8656 7.2: an hour is usual).
    pub lifetime: Duration,
}

impl Default for TurnLimits {
    fn default() -> Self {
        TurnLimits {
            allocations_per_user: 32,
            allocations: 4096,
            peers: 64,
            bytes_per_second: 64 * 1024 * 1024,
            requests_per_second: 200,
            connections: 4096,
            lifetime: Duration::from_secs(3600),
        }
    }
}

impl Default for TurnConfig {
    fn default() -> Self {
        TurnConfig {
            listen: Vec::new(),
            realm: "sipbox".to_owned(),
            ports: 49152..=65535,
            allow: Vec::new(),
            limits: TurnLimits::default(),
        }
    }
}
