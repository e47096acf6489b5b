//! Encrypted flows: ICE (RFC 8445) finds a pair of addresses; QUIC (RFC 9000) between two sipboxes, or data channels (RFC 8831) with
//! any standard peer, run on it, pinned to the fingerprints of the session descriptions.
//!
//! A [`Link`] is what one SIP session carries: any number of streams (one for each TCP socket of a program) and datagram flows (one
//! for each pair of UDP sockets). The way to one: [`Gathered::start`] binds sockets and asks the servers, its description goes into
//! the offer or answer, [`Gathered::connect`] does the rest.
//!
//! When addresses change, or the path does not work any more, the two look for another one while the connection goes on ([`Road`]).
//! A flow may also be a TCP connection of its own ([`Listening`]), with TLS in it.
//!
//! `paths` (candidates, checks, relays) and `open` (what is said at the start of a stream) are pure; `wire` and `link` do I/O.

pub mod datachannel;
mod echo;
#[cfg(test)]
mod faults;
mod gather;
mod handshake;
mod incoming;
mod interfaces;
mod link;
mod news;
mod open;
mod paths;
mod pressure;
mod probe;
mod protection;
mod record;
mod road;
mod socket;
mod stream;
mod switch;
mod tcp;
#[cfg(test)]
mod tests;
mod tls;
mod window;
mod wire;

pub use crate::sdp::{Fingerprint, Quic};
pub use echo::Echo;
pub use gather::LinkConfig;
pub use incoming::{Asked, Incoming, Purpose};
pub use interfaces::{Addresses, watch as watch_interfaces};
pub use link::{Gathered, Link, LinkError, OpenError, Role};
pub use open::Opening;
pub use paths::{Relay, RelayBy, Servers};
pub use pressure::{Backlog, Brake, Turn};
pub use record::{Received, Secure};
pub use road::{Candidate, Checks, Path, Paths, Prepared, Road, Tried};
pub use stream::{Broken, RecvStream, SendStream, Stopped, Stream};
pub use tcp::{Joined, Listening, Part, Trust};
pub use tls::{Certificate, CertificateError};

/// The protocol on top of QUIC (ALPN, RFC 7301). The third one tells changes of what is listened on, in the fourth one an opener may not wait
/// for the 200, the fifth one has windows of streams.
pub const ALPN: &[u8] = b"sipbox/5";
/// Error code of RESET_STREAM and STOP_SENDING that stands for a TCP reset.
pub const RESET: u32 = 1;

/// What keeps the path of plain datagrams between sipboxes open, and tells who is between where an end is. No STUN message: media servers
/// take those for themselves, and learn nothing from them (rtpengine 10.5).
pub const KEEP_ALIVE: [u8; 20] = *b"\0sipbox keep-alive\0\0";

/// Whether a datagram is one.
pub fn is_keep_alive(data: &[u8]) -> bool {
    data == KEEP_ALIVE
}
