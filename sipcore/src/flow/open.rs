//! What is said at the start of a stream, and around a datagram.
//!
//! ```text
//! opener:   kind 1 byte (6 tcp, 17 udp, 1 echo) | port u16 | family 1 byte (4, 6) | address 4 or 16 bytes | port u16
//! acceptor: status u16 (a SIP status: 200, 403, 486, 503) | after 200, but for echo: last change u32 (`news`)
//! ```
//! With 0x80 in its kind the opener of a TCP stream does not wait for the 200: it may come with the first bytes.
//! An echo is for nobody's socket: port and address are 0, and every byte comes back.
//! Then, for TCP, the bytes of the two programs. A UDP stream carries nothing more and lasts as long as the flow does; a datagram is
//! the stream's number (a variable-length integer, RFC 9000 section 16) and the payload, in a DATAGRAM frame (RFC 9221) or, if it is too
//! large for one, on a unidirectional stream of its own.

use std::net::{IpAddr, SocketAddr};

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::label::{Label, Proto};

/// Protocol numbers (IANA).
const TCP: u8 = 6;
const UDP: u8 = 17;
/// ICMP, whose echo it is like.
const ECHO: u8 = 1;
/// In the kind: the opener does not wait for the answer.
const UNASKED: u8 = 0x80;
/// The longest opening.
pub(super) const LONGEST: usize = 1 + 2 + 1 + 16 + 2;
/// The shortest, by which its length is known.
pub(super) const SHORTEST: usize = 1 + 2 + 1 + 4 + 2;

/// What a stream is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Opening {
    /// The socket that is meant.
    pub label: Label,
    /// Address under which its program should see the opener.
    pub virtual_source: SocketAddr,
}

/// What is said at the start of an echo stream.
pub(super) const ECHO_OPENING: [u8; SHORTEST] = [ECHO, 0, 0, 4, 0, 0, 0, 0, 0, 0];

impl Opening {
    pub(super) fn to_bytes(self) -> Bytes {
        let mut out = BytesMut::with_capacity(LONGEST);
        out.put_u8(if self.label.proto == Proto::Tcp { TCP } else { UDP });
        out.put_u16(self.label.port);
        match self.virtual_source.ip() {
            IpAddr::V4(ip) => {
                out.put_u8(4);
                out.put_slice(&ip.octets());
            }
            IpAddr::V6(ip) => {
                out.put_u8(6);
                out.put_slice(&ip.octets());
            }
        }
        out.put_u16(self.virtual_source.port());
        out.freeze()
    }

    /// For who does not wait for the answer.
    pub(super) fn to_bytes_unasked(self) -> Bytes {
        let mut out = BytesMut::from(self.to_bytes());
        out[0] |= UNASKED;
        out.freeze()
    }

    /// Whether the opener does not wait for the answer; that mark is taken off.
    pub(super) fn take_unasked(start: &mut [u8; SHORTEST]) -> bool {
        let unasked = start[0] == TCP | UNASKED;
        start[0] &= if unasked { !UNASKED } else { u8::MAX };
        unasked
    }

    /// How long an opening is that begins with these [`SHORTEST`] bytes. `None`: it is none.
    pub(super) fn length(start: &[u8; SHORTEST]) -> Option<usize> {
        match (start[0], start[3]) {
            (TCP | UDP, 4) => Some(SHORTEST),
            (TCP | UDP, 6) => Some(LONGEST),
            _ => None,
        }
    }

    pub(super) fn parse(mut bytes: &[u8]) -> Option<Opening> {
        let proto = match bytes.try_get_u8().ok()? {
            TCP => Proto::Tcp,
            UDP => Proto::Udp,
            _ => return None,
        };
        let label = Label { proto, port: bytes.try_get_u16().ok()? };
        let ip = match bytes.try_get_u8().ok()? {
            4 => {
                let mut octets = [0; 4];
                bytes.try_copy_to_slice(&mut octets).ok()?;
                IpAddr::from(octets)
            }
            6 => {
                let mut octets = [0; 16];
                bytes.try_copy_to_slice(&mut octets).ok()?;
                IpAddr::from(octets)
            }
            _ => return None,
        };
        let virtual_source = SocketAddr::new(ip, bytes.try_get_u16().ok()?);
        bytes.is_empty().then_some(Opening { label, virtual_source })
    }
}

/// Writes a variable-length integer (RFC 9000 section 16).
pub(super) fn put_varint(out: &mut impl BufMut, value: u64) {
    match value {
        0..0x40 => out.put_u8(value as u8),
        0x40..0x4000 => out.put_u16(value as u16 | 0x4000),
        0x4000..0x4000_0000 => out.put_u32(value as u32 | 0x8000_0000),
        _ => out.put_u64(value & (u64::MAX >> 2) | 0xc000_0000_0000_0000),
    }
}

/// Reads one, and takes it off.
pub(super) fn get_varint(bytes: &mut Bytes) -> Option<u64> {
    let length = 1usize << (bytes.first()? >> 6);
    if bytes.len() < length {
        return None;
    }
    let mut value = u64::from(bytes.get_u8() & 0x3f);
    for _ in 1..length {
        value = value << 8 | u64::from(bytes.get_u8());
    }
    Some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn openings() {
        for (label, source) in
            [("tcp/7000", "198.18.3.4:40112"), ("udp/53", "[2001:2::7]:9"), ("tcp/0", "127.0.0.1:65535")]
        {
            let opening = Opening { label: label.parse().unwrap(), virtual_source: source.parse().unwrap() };
            let bytes = opening.to_bytes();
            assert_eq!(Opening::parse(&bytes), Some(opening));
            let mut start = *bytes.first_chunk().unwrap();
            assert_eq!(Opening::length(&start), Some(bytes.len()));
            assert!(!Opening::take_unasked(&mut start));
            let mut marked = *opening.to_bytes_unasked().first_chunk().unwrap();
            assert_eq!(Opening::take_unasked(&mut marked), opening.label.proto == Proto::Tcp);
            assert_eq!(marked == start, opening.label.proto == Proto::Tcp);
            for n in 0..bytes.len() {
                assert_eq!(Opening::parse(&bytes[..n]), None);
            }
        }
        assert_eq!(Opening::parse(&[1, 0, 7, 4, 1, 2, 3, 4, 0, 9]), None);
        assert_eq!(Opening::parse(&[6, 0, 7, 5, 1, 2, 3, 4, 0, 9]), None);
        assert_eq!(Opening::parse(&[6, 0, 7, 4, 1, 2, 3, 4, 0, 9, 0]), None);
    }

    #[test]
    fn varints() {
        for value in [0, 63, 64, 16383, 16384, (1 << 30) - 1, 1 << 30, (1 << 62) - 1] {
            let mut out = BytesMut::new();
            put_varint(&mut out, value);
            let mut bytes = out.freeze();
            for n in 0..bytes.len() {
                assert_eq!(get_varint(&mut bytes.slice(..n)), None);
            }
            assert_eq!(get_varint(&mut bytes), Some(value));
            assert!(bytes.is_empty());
        }
    }
}
