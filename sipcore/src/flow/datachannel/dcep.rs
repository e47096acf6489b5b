//! The Data Channel Establishment Protocol (RFC 8832): how a channel says what it is for.
//!
//! ```text
//! OPEN: 3 | type 1 byte | priority u16 | reliability u32 | label length u16 | protocol length u16 | label | protocol
//! ACK:  2
//! ```

use bytes::{BufMut, Bytes, BytesMut};

const ACK: u8 = 2;
const OPEN: u8 = 3;
/// Bytes before the label.
const FIXED: usize = 12;
/// Channel types (RFC 8832 section 5.1): the order is not kept.
const UNORDERED: u8 = 0x80;
const RELIABLE: u8 = 0;
const RETRANSMITS: u8 = 1;
const LIFETIME: u8 = 2;
/// The priority of a channel that has none of its own (RFC 8831 section 6.4: normal).
const NORMAL: u16 = 256;

/// What a channel does to messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// All of them, in order: a stream.
    Stream,
    /// Each once at most, in any order: datagrams.
    Datagrams,
    /// What else a peer may want (a limit of retransmissions or of time, or no order): it sends so, and nothing depends on it here.
    Other {
        /// The channel type.
        kind: u8,
        /// Its parameter: retransmissions, or milliseconds.
        limit: u32,
    },
}

impl Delivery {
    fn parse(kind: u8, limit: u32) -> Option<Delivery> {
        match (kind & !UNORDERED, kind & UNORDERED != 0, limit) {
            (RELIABLE, false, _) => Some(Delivery::Stream),
            (RETRANSMITS, true, 0) => Some(Delivery::Datagrams),
            (RELIABLE | RETRANSMITS | LIFETIME, _, _) => Some(Delivery::Other { kind, limit }),
            _ => None,
        }
    }

    /// Of the parameters of a session description (RFC 8864 section 5.1). `None`: retransmissions and time are both limited.
    pub fn of(ordered: bool, retransmits: Option<u32>, lifetime: Option<u32>) -> Option<Delivery> {
        let (kind, limit) = match (retransmits, lifetime) {
            (None, None) => (RELIABLE, 0),
            (Some(limit), None) => (RETRANSMITS, limit),
            (None, Some(limit)) => (LIFETIME, limit),
            (Some(_), Some(_)) => return None,
        };
        Delivery::parse(if ordered { kind } else { kind | UNORDERED }, limit)
    }

    fn parts(self) -> (u8, u32) {
        match self {
            Delivery::Stream => (RELIABLE, 0),
            Delivery::Datagrams => (RETRANSMITS | UNORDERED, 0),
            Delivery::Other { kind, limit } => (kind, limit),
        }
    }

    /// Whether the program behind it should be one of datagrams.
    pub fn is_datagrams(self) -> bool {
        self != Delivery::Stream
    }
}

/// A channel, as its opener describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Open {
    /// How messages are delivered.
    pub delivery: Delivery,
    /// What it is for: `tcp/80`.
    pub label: String,
    /// What is spoken on it: `sipbox`, or nothing.
    pub protocol: String,
}

/// A message of the protocol.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// The first on a channel.
    Open(Open),
    /// The channel is taken.
    Ack,
}

impl Message {
    /// Reads one. `None`: it is malformed.
    pub fn parse(bytes: &[u8]) -> Option<Message> {
        match *bytes.first()? {
            // RFC 8832 section 5.2 has one byte; more are ignored by others too.
            ACK => Some(Message::Ack),
            OPEN => {
                let fixed: &[u8; FIXED] = bytes.first_chunk()?;
                let limit = u32::from_be_bytes([fixed[4], fixed[5], fixed[6], fixed[7]]);
                let label = usize::from(u16::from_be_bytes([fixed[8], fixed[9]]));
                let protocol = usize::from(u16::from_be_bytes([fixed[10], fixed[11]]));
                let text = &bytes[FIXED..];
                if text.len() != label + protocol {
                    return None;
                }
                let (label, protocol) = text.split_at(label);
                Some(Message::Open(Open {
                    delivery: Delivery::parse(fixed[1], limit)?,
                    label: std::str::from_utf8(label).ok()?.to_owned(),
                    protocol: std::str::from_utf8(protocol).ok()?.to_owned(),
                }))
            }
            _ => None,
        }
    }

    /// Writes one. Of a label or protocol longer than 65,535 bytes the beginning is written.
    pub fn to_bytes(&self) -> Bytes {
        let Message::Open(open) = self else { return Bytes::from_static(&[ACK]) };
        let cut = |text: &str| text.as_bytes()[..text.len().min(usize::from(u16::MAX))].to_vec();
        let (label, protocol) = (cut(&open.label), cut(&open.protocol));
        let (kind, limit) = open.delivery.parts();
        let mut out = BytesMut::with_capacity(FIXED + label.len() + protocol.len());
        out.put_u8(OPEN);
        out.put_u8(kind);
        out.put_u16(NORMAL);
        out.put_u32(limit);
        out.put_u16(label.len() as u16);
        out.put_u16(protocol.len() as u16);
        out.put_slice(&label);
        out.put_slice(&protocol);
        out.freeze()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(delivery: Delivery, label: &str, protocol: &str) -> Message {
        Message::Open(Open { delivery, label: label.into(), protocol: protocol.into() })
    }

    #[test]
    fn there_and_back() {
        for message in [
            open(Delivery::Stream, "tcp/80", "sipbox"),
            open(Delivery::Datagrams, "udp/53", ""),
            open(Delivery::Other { kind: 0x82, limit: 300 }, "", "x"),
            Message::Ack,
        ] {
            assert_eq!(Message::parse(&message.to_bytes()), Some(message));
        }
    }

    #[test]
    fn as_a_browser_writes_it() {
        // Chromium: createDataChannel("tcp/80", {protocol: "sipbox"}).
        let bytes = b"\x03\x00\x01\x00\x00\x00\x00\x00\x00\x06\x00\x06tcp/80sipbox";
        assert_eq!(Message::parse(bytes), Some(open(Delivery::Stream, "tcp/80", "sipbox")));
    }

    #[test]
    fn malformed() {
        let good = open(Delivery::Stream, "tcp/80", "sipbox").to_bytes();
        for n in 0..good.len() {
            assert_eq!(Message::parse(&good[..n]), None, "{n}");
        }
        let mut long = good.to_vec();
        long.push(0);
        assert_eq!(Message::parse(&long), None);
        let mut kind = good.to_vec();
        kind[1] = 3;
        assert_eq!(Message::parse(&kind), None);
        let mut utf8 = good.to_vec();
        utf8[FIXED] = 0xff;
        assert_eq!(Message::parse(&utf8), None);
        assert_eq!(Message::parse(&[9]), None);
    }
}
