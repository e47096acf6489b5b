//! STUN as the keep-alive of SIP over UDP (RFC 5626 4.4.2, 8; RFC 8489).

use bytes::Bytes;
use std::net::SocketAddr;
use stun_types::attribute::XorMappedAddress;
use stun_types::message::{BINDING, Message, MessageClass, MessageWriteVec, TransactionId};
use stun_types::prelude::*;

/// Which Binding request a response belongs to.
pub(crate) type Id = TransactionId;

/// The first byte of SIP is a letter or a line end; that of STUN is neither (RFC 5626 8).
pub(crate) fn is_stun(datagram: &[u8]) -> bool {
    datagram.first().is_some_and(|byte| *byte < 4) && datagram.len() >= 20
}

/// A Binding request.
pub(crate) fn request(id: u128) -> (Id, Bytes) {
    let id = TransactionId::from(id);
    let kind = stun_types::message::MessageType::from_class_method(MessageClass::Request, BINDING);
    (id, Message::builder(kind, id, MessageWriteVec::new()).finish().into())
}

/// The response to a Binding request that came from `source`; `None` when it is none.
pub(crate) fn answer(request: &[u8], source: SocketAddr) -> Option<Bytes> {
    let request = Message::from_bytes(request).ok()?;
    if !request.has_class(MessageClass::Request) || !request.has_method(BINDING) {
        return None;
    }
    let mut response = Message::builder_success(&request, MessageWriteVec::new());
    response.add_attribute(&XorMappedAddress::new(source, request.transaction_id())).ok()?;
    Some(response.finish().into())
}

/// The address under which the other side saw the request with this id; `None` when this is no response to it.
pub(crate) fn mapped(response: &[u8], id: Id) -> Option<SocketAddr> {
    let response = Message::from_bytes(response).ok()?;
    if !response.has_class(MessageClass::Success) || response.transaction_id() != id {
        return None;
    }
    Some(response.attribute::<XorMappedAddress>().ok()?.addr(id))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn request_and_response() {
        let source: SocketAddr = "192.0.2.7:40000".parse().unwrap();
        let (id, asked) = request(7);
        let (other, _) = request(8);
        assert!(is_stun(&asked) && !is_stun(b"OPTIONS sip:a SIP/2.0\r\n\r\n") && !is_stun(b"\r\n\r\n"));
        let told = answer(&asked, source).unwrap();
        assert_eq!(mapped(&told, id), Some(source));
        assert_eq!(mapped(&told, other), None);
        assert_eq!(answer(&told, source), None, "a response is not answered");
        for n in 0..asked.len() {
            assert_eq!(answer(&asked[..n], source), None);
        }
    }
}
