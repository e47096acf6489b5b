//! Data channels (RFC 8831): SCTP (RFC 9260) over DTLS (RFC 8261, RFC 6347), for any standard peer.
//!
//! A stream is a channel whose binary messages, one after the other, are its bytes; an empty binary message ends one direction, for
//! which RFC 8831 has nothing; closing the channel is a reset. A datagram is one message on a channel that keeps no order and repeats
//! nothing. What a channel is for says its label (`tcp/80`), by its opener's [`dcep`] message or by both session descriptions.
//!
//! `machine` and `channel` are pure: bytes and time in, bytes, timers and events out. `driver` does I/O.

mod channel;
mod crypto;
pub mod dcep;
mod driver;
mod machine;
#[cfg(test)]
mod tests;

pub(super) use driver::{Association, Stopped};
pub use driver::{Offered, Receiver, Sender};

/// The largest message taken: said in the session description (RFC 8841 section 6).
pub const MAX_MESSAGE: u32 = 256 * 1024;
/// What a peer takes that does not say so (RFC 8841 section 6.1).
pub const DEFAULT_MAX_MESSAGE: u32 = 65_536;
/// What is spoken on a channel between two sockets: the subprotocol of its opener.
pub const PROTOCOL: &str = "sipbox";
/// The SCTP port of this end.
pub const SCTP_PORT: u16 = 5000;

/// What the two session descriptions have agreed on, besides the path.
#[derive(Clone, Debug)]
pub struct Terms {
    /// This end opens the DTLS connection: it said `a=setup:active`.
    pub active: bool,
    /// Of the certificate that the other end shows.
    pub fingerprint: crate::sdp::Fingerprint,
    /// The other end's SCTP port.
    pub port: u16,
    /// The largest message that the other end takes; 0 is any.
    pub max_message: u32,
    /// Channels that both descriptions name (RFC 8864): they need no OPEN.
    pub negotiated: Vec<(u16, dcep::Open)>,
}

impl Terms {
    /// With what the other end says. `ours`: the channels that this end has named.
    pub fn new(remote: &crate::sdp::Channels, active: bool, ours: &[(u16, dcep::Open)]) -> Terms {
        let both = remote.channels.iter().filter(|(id, _)| ours.iter().any(|(own, _)| own == id));
        Terms {
            active,
            fingerprint: remote.ice.fingerprint,
            port: remote.port,
            max_message: remote.max_message,
            negotiated: both.cloned().collect(),
        }
    }
}
