//! How NATs behave: Binding requests that are answered from another address or port (RFC 5780).

use std::net::SocketAddr;
use stun_types::attribute::MappedSocketAddr;
use stun_types::attribute::{AttributeType, RawAttribute, XorMappedAddress};
use stun_types::message::Message;

use super::answer::Answer;

/// CHANGE-REQUEST (RFC 5780 7.2): the response is to come from elsewhere.
pub(super) const CHANGE_REQUEST: AttributeType = AttributeType::new(0x0003);
/// RESPONSE-ORIGIN (7.3): where the response comes from.
pub(super) const RESPONSE_ORIGIN: AttributeType = AttributeType::new(0x802b);
/// OTHER-ADDRESS (7.4): the server's other address and port.
pub(super) const OTHER_ADDRESS: AttributeType = AttributeType::new(0x802c);

const CHANGE_IP: u32 = 4;
const CHANGE_PORT: u32 = 2;

/// Two addresses and two ports, each with each: `points[address][port]`, with the index of the socket.
#[derive(Debug, Clone, Copy)]
pub(super) struct Square {
    pub points: [[(u16, SocketAddr); 2]; 2],
}

impl Square {
    /// Where the socket of this index is in it.
    fn place(&self, local: u16) -> Option<(usize, usize)> {
        (0..2).flat_map(|a| (0..2).map(move |p| (a, p))).find(|(a, p)| self.points[*a][*p].0 == local)
    }
}

/// The response to a Binding request that reached the socket `local` from `source`, and the socket that it leaves by.
pub(super) fn binding(request: &Message<'_>, local: u16, source: SocketAddr, squares: &[Square]) -> (u16, Vec<u8>) {
    let mapped = XorMappedAddress::new(source, request.transaction_id());
    let answer = Answer::success(request).with(&mapped);
    let Some((square, (address, port))) = squares.iter().find_map(|s| Some((s, s.place(local)?))) else {
        return match request.has_attribute(CHANGE_REQUEST) {
            true => (local, Answer::unknown(request, &[CHANGE_REQUEST]).plain()),
            false => (local, answer.plain()),
        };
    };
    let change = request.raw_attribute(CHANGE_REQUEST).and_then(|raw| <[u8; 4]>::try_from(&*raw.value).ok());
    let change = change.map_or(0, u32::from_be_bytes);
    let by =
        square.points[address ^ usize::from(change & CHANGE_IP != 0)][port ^ usize::from(change & CHANGE_PORT != 0)];
    let other = square.points[address ^ 1][port ^ 1];
    let (origin, other) = (MappedSocketAddr::new(by.1), MappedSocketAddr::new(other.1));
    (by.0, answer.with(&raw(RESPONSE_ORIGIN, &origin)).with(&raw(OTHER_ADDRESS, &other)).plain())
}

/// An address as the value of an attribute (RFC 8489 14.1).
fn raw(kind: AttributeType, address: &MappedSocketAddr) -> RawAttribute<'static> {
    address.to_raw(kind).into_owned()
}
