//! What tests do with a machine that no peer should.

use std::time::Instant;

use bytes::Bytes;
use sctp_proto::{Payload, PayloadProtocolIdentifier as Ppid};

use super::Machine;

impl Machine {
    /// Does what no peer should: sends a message on any stream.
    pub fn misbehave(&mut self, id: u16, ppid: Ppid, message: &[u8]) {
        let Some((_, association)) = &mut self.association else { return };
        association.set_max_send_message_size(u32::MAX);
        let open = association.open_stream(id, ppid).is_ok();
        let sent =
            association.stream(id).and_then(|mut stream| stream.write_sctp(&Bytes::copy_from_slice(message), ppid));
        assert!(sent.is_ok(), "{open} {sent:?}");
    }

    /// The same, with a whole packet.
    pub fn misbehave_with_packet(&mut self, packet: &[u8]) {
        self.protect(packet);
    }

    /// Messages that the association keeps, unread.
    pub fn unread(&self) -> usize {
        self.unread
    }

    /// Packets of SCTP that are to be sent, before DTLS has them.
    pub fn packets(&mut self, now: Instant) -> Vec<Bytes> {
        match self.association.as_mut().and_then(|(_, association)| association.poll_transmit(now)).map(|t| t.payload) {
            Some(Payload::RawEncode(packets)) => packets,
            _ => Vec::new(),
        }
    }
}
