//! The association, without I/O: datagrams, time and what the program does go in; datagrams, timers and events come out.

use std::collections::{HashMap, HashSet, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use dimpl::{Dtls, Output};
use sctp_proto::{
    Association, AssociationHandle, ClientConfig, DatagramEvent, Endpoint, EndpointConfig, Event as Sctp, Payload,
    PayloadProtocolIdentifier as Ppid, ReliabilityType, ServerConfig, StreamEvent, TransportConfig,
};
use sha2::{Digest, Sha256};

use super::channel::{Channel, Read, Setup, Violation};
use super::dcep::{Delivery, Message, Open};
use super::{MAX_MESSAGE, SCTP_PORT, Terms, crypto};
use crate::flow::Certificate;
use crate::sdp::Fingerprint;

#[cfg(test)]
mod misbehaving;

/// What the other end may send before the programs here have read it, in all channels of the association.
const WINDOW: u32 = 2 << 20;
/// Messages that may be in it: small ones cost more memory than their bytes.
const WINDOW_MESSAGES: usize = 16 * 1024;
/// Bytes that wait to be sent or acknowledged: in one channel, and in all.
const CHANNEL_QUEUE: usize = 256 * 1024;
const QUEUE: usize = 1 << 20;
/// The longest message that a stream is cut into: a larger one would keep other channels waiting.
const PIECE: usize = 16 * 1024;
/// Datagrams that came and wait for their sockets.
const DATAGRAMS: usize = 1024;
/// Channels at once.
const CHANNELS: usize = 4096;
/// User data in one SCTP packet: with the headers of SCTP, DTLS, UDP, IPv6 and a TURN channel it fits the 1,280 bytes that every path
/// of IPv6 carries.
const PAYLOAD: u32 = 1152;
/// The largest datagram of the DTLS handshake.
const HANDSHAKE_MTU: usize = 1200;
/// Retransmission: a delayed acknowledgement (200 ms) must not look like a loss. A path that comes back is used soon.
const RTO_INITIAL: u64 = 500;
const RTO_MIN: u64 = 400;
const RTO_MAX: u64 = 3000;
/// The first repetition in the DTLS handshake.
const HANDSHAKE_RTO: Duration = Duration::from_millis(400);
/// The other end has one address, whatever ICE chooses (TEST-NET-1, RFC 5737).
const PEER: ([u8; 4], u16) = ([192, 0, 2, 1], 1);

/// What happened.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::flow) enum Event {
    /// The association stands.
    Connected,
    /// The other end opens a channel; or both descriptions name one.
    Offered(u16),
    /// A channel that this end has opened is taken.
    Opened(u16),
    /// There is something to read, or an end.
    Readable(u16),
    /// There may be room to write.
    Writable(u16),
    /// The other end has all that was written, up to the end.
    Delivered(u16),
    /// The channel is gone.
    Closed(u16),
    /// A datagram came.
    Datagram,
    /// Nothing comes any more.
    Lost,
}

/// Why an association ended.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(in crate::flow) enum Why {
    #[error("it does not show the certificate that it announced")]
    Fingerprint,
    #[error("DTLS: {0}")]
    Dtls(String),
    #[error("SCTP: {0}")]
    Sctp(String),
    #[error("it closed the connection")]
    ClosedByPeer,
    #[error("it was closed")]
    Closed,
}

/// Nothing can be written to this channel.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::flow) struct Gone;

/// The machine.
pub(in crate::flow) struct Machine {
    dtls: Dtls,
    /// Of the output of DTLS.
    buffer: Vec<u8>,
    dtls_due: Option<Instant>,
    expected: Fingerprint,
    trusted: bool,
    active: bool,
    transport: Arc<TransportConfig>,
    endpoint: Endpoint,
    association: Option<(AssociationHandle, Association)>,
    connected: bool,
    max_message: usize,
    channels: HashMap<u16, Channel>,
    /// Stream identifiers whose reset is not complete.
    resetting: HashSet<u16>,
    next_id: u16,
    /// Channels whose end this end has said, and the other end has not acknowledged.
    draining: Vec<u16>,
    datagrams: VecDeque<(u16, Bytes)>,
    /// Writers, in the order in which they have found no room.
    waiting: VecDeque<u16>,
    /// Bytes that wait to be sent or acknowledged; too many rather than too few.
    queued: usize,
    /// Messages in the window.
    unread: usize,
    /// Bytes read since a channel paused.
    freed: usize,
    /// The last packet with data: it asks once more for an acknowledgement, which tells that the window is open again.
    last_data: Bytes,
    out: VecDeque<Vec<u8>>,
    events: VecDeque<Event>,
    lost: Option<Why>,
}

impl Machine {
    pub fn new(now: Instant, certificate: &Certificate, terms: Terms) -> Result<Machine, String> {
        let config = dimpl::Config::builder()
            .with_crypto_provider(crypto::provider())
            .mtu(HANDSHAKE_MTU)
            .flight_start_rto(HANDSHAKE_RTO)
            .require_client_certificate(true)
            .build()
            .map_err(|e| e.to_string())?;
        let mut dtls = Dtls::new_12(Arc::new(config), certificate.for_dtls(), now);
        dtls.set_active(terms.active);
        let max_message = if terms.max_message == 0 { MAX_MESSAGE } else { terms.max_message.min(MAX_MESSAGE) };
        let transport = TransportConfig::default()
            .with_max_receive_buffer_size(WINDOW)
            .with_max_receive_message_size(MAX_MESSAGE)
            .with_max_send_message_size(max_message)
            .with_max_init_retransmits(None)
            .with_rto_initial_ms(RTO_INITIAL)
            .with_rto_min_ms(RTO_MIN)
            .with_rto_max_ms(RTO_MAX)
            .with_local_port(SCTP_PORT)
            .with_remote_port(terms.port);
        let transport = Arc::new(transport);
        let mut endpoint = EndpointConfig::new();
        endpoint.max_payload_size(PAYLOAD);
        let mut server = ServerConfig::new();
        server.transport = transport.clone();
        let mut endpoint = Endpoint::new(Arc::new(endpoint), Some(Arc::new(server)));
        if terms.active {
            // This end begins. Where the other one does too it is one association (RFC 9260 section 5.2.1), by what it answers.
            endpoint.reject_new_associations();
        }
        let channels = terms.negotiated.into_iter().map(|(id, open)| (id, Channel::new(open, Setup::Open)));
        let mut machine = Machine {
            dtls,
            buffer: vec![0; 2048],
            dtls_due: None,
            expected: terms.fingerprint,
            trusted: false,
            active: terms.active,
            transport,
            endpoint,
            association: None,
            connected: false,
            max_message: max_message as usize,
            channels: channels.collect(),
            resetting: HashSet::new(),
            draining: Vec::new(),
            // The end that opens the DTLS connection has the even ones (RFC 8832 section 6).
            next_id: u16::from(!terms.active),
            datagrams: VecDeque::new(),
            waiting: VecDeque::new(),
            queued: 0,
            unread: 0,
            freed: 0,
            last_data: Bytes::new(),
            out: VecDeque::new(),
            events: VecDeque::new(),
            lost: None,
        };
        machine.handle_timeout(now);
        Ok(machine)
    }

    /// Why it ended, if it has.
    pub fn lost(&self) -> Option<&Why> {
        self.lost.as_ref()
    }

    pub fn is_connected(&self) -> bool {
        self.connected && self.lost.is_none()
    }

    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// When [`Machine::handle_timeout`] is wanted again.
    pub fn poll_timeout(&self) -> Option<Instant> {
        if self.lost.is_some() {
            return None;
        }
        let sctp = self.association.as_ref().and_then(|(_, association)| association.poll_timeout());
        self.dtls_due.into_iter().chain(sctp).min()
    }

    /// The next datagram to be sent.
    pub fn poll_transmit(&mut self, now: Instant) -> Option<Vec<u8>> {
        while self.out.is_empty() && self.lost.is_none() {
            let transmit = self.association.as_mut()?.1.poll_transmit(now)?;
            if let Payload::RawEncode(packets) = transmit.payload {
                packets.iter().for_each(|packet| self.protect(packet));
            }
            self.drain_dtls(now);
        }
        self.out.pop_front()
    }

    /// A datagram that came.
    pub fn handle_datagram(&mut self, now: Instant, datagram: &[u8]) {
        if self.lost.is_some() {
            return;
        }
        let handled = self.dtls.handle_timeout(now).and_then(|()| self.dtls.handle_packet(datagram));
        if let Err(error) = handled {
            return self.lose(Why::Dtls(error.to_string()));
        }
        self.drain_dtls(now);
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.lost.is_some() {
            return;
        }
        if let Err(error) = self.dtls.handle_timeout(now) {
            return self.lose(Why::Dtls(error.to_string()));
        }
        self.drain_dtls(now);
        if let Some((_, association)) = &mut self.association {
            association.handle_timeout(now);
        }
        self.settle();
    }

    /// To be called after a number of datagrams: tells writers of room, and what has arrived at the other end.
    pub fn settle(&mut self) {
        self.poll_sctp();
        let Some((_, association)) = &mut self.association else { return };
        let mut is_empty = |id: &u16| association.stream(*id).is_ok_and(|stream| stream.buffered_amount() == Ok(0));
        for id in self.draining.extract_if(.., |id| is_empty(id)).collect::<Vec<_>>() {
            if let Some(channel) = self.channels.get_mut(&id) {
                channel.delivered = true;
                self.events.push_back(Event::Delivered(id));
            }
            self.retire(id);
        }
        if self.waiting.is_empty() {
            return;
        }
        self.count_queued();
        while self.queued < QUEUE
            && let Some(id) = self.waiting.pop_front()
        {
            let Some(channel) = self.channels.get_mut(&id) else { continue };
            channel.waiting = false;
            // It takes at least that much, or waits again.
            self.queued += PIECE;
            self.events.push_back(Event::Writable(id));
        }
        self.count_queued();
    }

    fn count_queued(&mut self) {
        let Some((_, association)) = &mut self.association else { return };
        let queued = |id: &u16| association.stream(*id).ok()?.buffered_amount().ok();
        self.queued = self.channels.keys().filter_map(queued).sum();
    }

    /// Ends the association: the other end is told.
    pub fn close(&mut self, now: Instant) {
        if self.lost.is_some() {
            return;
        }
        let _ = self.dtls.close();
        self.drain_dtls(now);
        self.lose(Why::Closed);
    }

    fn lose(&mut self, why: Why) {
        if self.lost.is_none() {
            self.lost = Some(why);
            for (id, channel) in &mut self.channels {
                channel.closed = true;
                self.events.push_back(Event::Closed(*id));
            }
            self.events.push_back(Event::Lost);
        }
    }

    fn protect(&mut self, packet: &[u8]) {
        match self.dtls.send_application_data(packet) {
            Ok(_) => self.collect_dtls(),
            Err(error) => self.lose(Why::Dtls(error.to_string())),
        }
    }

    /// What DTLS has to send, after something was given to it. Nothing else comes of that.
    fn collect_dtls(&mut self) {
        loop {
            match self.dtls.poll_output(&mut self.buffer) {
                Output::Packet(datagram) => self.out.push_back(datagram.to_vec()),
                Output::BufferTooSmall { needed } => self.buffer.resize(needed, 0),
                Output::Timeout(due) => {
                    self.dtls_due = Some(due);
                    return;
                }
                _ => {}
            }
        }
    }

    /// All that DTLS has to say.
    fn drain_dtls(&mut self, now: Instant) {
        let mut buffer = std::mem::take(&mut self.buffer);
        loop {
            match self.dtls.poll_output(&mut buffer) {
                Output::Packet(datagram) => self.out.push_back(datagram.to_vec()),
                Output::BufferTooSmall { needed } => buffer.resize(needed, 0),
                Output::Timeout(due) => {
                    self.dtls_due = Some(due);
                    break;
                }
                Output::PeerCert(der) => {
                    self.trusted = <[u8; 32]>::from(Sha256::digest(der)) == self.expected.0;
                    if !self.trusted {
                        self.lose(Why::Fingerprint);
                        break;
                    }
                }
                Output::Connected if self.trusted => self.associate(),
                Output::Connected => {
                    self.lose(Why::Fingerprint);
                    break;
                }
                Output::ApplicationData(packet) if self.trusted => {
                    self.handle_packet(now, Bytes::copy_from_slice(packet))
                }
                Output::CloseNotify => {
                    self.lose(Why::ClosedByPeer);
                    break;
                }
                _ => {}
            }
        }
        self.buffer = buffer;
    }

    /// DTLS stands: SCTP begins. The end that opened the one opens the other too.
    fn associate(&mut self) {
        if !self.active || self.association.is_some() {
            return;
        }
        let mut config = ClientConfig::new();
        config.transport = self.transport.clone();
        match self.endpoint.connect(config, SocketAddr::from(PEER)) {
            Ok(begun) => self.association = Some(begun),
            Err(error) => self.lose(Why::Sctp(error.to_string())),
        }
    }

    /// A packet of SCTP.
    fn handle_packet(&mut self, now: Instant, packet: Bytes) {
        if has_data(&packet) {
            // Whoever fills the window with tiny messages sends them again once they are read.
            if self.unread >= WINDOW_MESSAGES {
                return;
            }
            self.last_data = packet.clone();
        }
        self.deliver(now, packet);
        self.poll_sctp();
    }

    fn deliver(&mut self, now: Instant, packet: Bytes) {
        match (self.endpoint.handle(now, SocketAddr::from(PEER), None, None, packet), &mut self.association) {
            (Some((handle, DatagramEvent::AssociationEvent(event))), Some((ours, association))) if handle == *ours => {
                association.handle_event(event);
            }
            (Some((handle, DatagramEvent::NewAssociation(association))), None) => {
                self.association = Some((handle, association));
                // There is one for a session.
                self.endpoint.reject_new_associations();
            }
            _ => {}
        }
    }

    /// All that SCTP has to say.
    fn poll_sctp(&mut self) {
        while let Some((handle, association)) = &mut self.association {
            let Some(event) = association.poll() else {
                while let Some(event) = association.poll_endpoint_event() {
                    let _ = self.endpoint.handle_event(*handle, event);
                }
                return;
            };
            match event {
                Sctp::Connected => self.connect(),
                Sctp::HandshakeFailed { reason } | Sctp::AssociationLost { reason } => {
                    return self.lose(Why::Sctp(reason.to_string()));
                }
                Sctp::Stream(StreamEvent::Opened { .. }) => drop(association.accept_stream()),
                Sctp::Stream(StreamEvent::Readable { id }) => {
                    self.unread += 1;
                    self.pull(id);
                }
                Sctp::Stream(StreamEvent::Finished { id }) => self.finished(id),
                Sctp::Stream(StreamEvent::ResetComplete { id }) => drop(self.resetting.remove(&id)),
                _ => {}
            }
        }
    }

    fn connect(&mut self) {
        self.connected = true;
        self.events.push_back(Event::Connected);
        let Some((_, association)) = &mut self.association else { return };
        for (id, channel) in &self.channels {
            if let Ok(stream) = association.open_stream(*id, Ppid::Binary) {
                set_delivery(stream, channel.open.delivery);
                self.events.push_back(Event::Offered(*id));
            }
        }
    }

    /// Takes messages out of the window, as many as the channel has room for.
    fn pull(&mut self, id: u16) {
        loop {
            if let Some(channel) = self.channels.get_mut(&id)
                && !channel.has_room()
                && !channel.open.delivery.is_datagrams()
            {
                channel.paused = true;
                return;
            }
            let Some((_, association)) = &mut self.association else { return };
            let read = association.stream(id).and_then(|mut stream| stream.read());
            let Ok(Some(mut message)) = read else {
                if let Some(channel) = self.channels.get_mut(&id) {
                    channel.paused = false;
                }
                return;
            };
            self.unread = self.unread.saturating_sub(1);
            let length = message.len();
            self.freed += length;
            let data = message.next(length.max(1)).map(|chunk| chunk.bytes).unwrap_or_default();
            if let Err(Violation(what)) = self.take(id, message.ppi, data) {
                tracing::debug!(id, what, "a channel is closed");
                self.reset(id);
                if let Some(channel) = self.channels.get_mut(&id) {
                    channel.closed = true;
                    self.events.push_back(Event::Closed(id));
                }
                return;
            }
        }
    }

    /// One message of the other end.
    fn take(&mut self, id: u16, ppid: Ppid, data: Bytes) -> Result<(), Violation> {
        let count = self.channels.len();
        let Some(channel) = self.channels.get_mut(&id) else {
            let Some(Message::Open(open)) = Message::parse(&data).filter(|_| ppid == Ppid::Dcep) else {
                return Err(Violation("it does not begin with an OPEN"));
            };
            if id % 2 != u16::from(self.active) {
                return Err(Violation("the identifier is one of the other end's"));
            }
            if count >= CHANNELS {
                return Err(Violation("there are too many"));
            }
            self.channels.insert(id, Channel::new(open, Setup::Offered));
            self.events.push_back(Event::Offered(id));
            return Ok(());
        };
        match ppid {
            Ppid::Dcep => match (Message::parse(&data), channel.setup) {
                (Some(Message::Ack), Setup::Opening) => {
                    channel.setup = Setup::Open;
                    self.events.push_back(Event::Opened(id));
                    Ok(())
                }
                (Some(Message::Ack), Setup::Open) => Ok(()),
                _ => Err(Violation("a message of DCEP that cannot be")),
            },
            Ppid::Binary | Ppid::String if channel.open.delivery.is_datagrams() => {
                // What finds no room is lost, as it is in the kernel.
                if self.datagrams.len() < DATAGRAMS && !channel.released {
                    self.datagrams.push_back((id, data));
                    self.events.push_back(Event::Datagram);
                }
                Ok(())
            }
            Ppid::Binary | Ppid::String => {
                channel.take(data)?;
                self.events.push_back(Event::Readable(id));
                Ok(())
            }
            // An empty datagram (RFC 8831 section 6.6).
            Ppid::BinaryEmpty if channel.open.delivery.is_datagrams() => {
                if self.datagrams.len() < DATAGRAMS && !channel.released {
                    self.datagrams.push_back((id, Bytes::new()));
                    self.events.push_back(Event::Datagram);
                }
                Ok(())
            }
            Ppid::BinaryEmpty => {
                channel.peer_ended = true;
                self.events.push_back(Event::Readable(id));
                self.retire(id);
                Ok(())
            }
            Ppid::StringEmpty => Ok(()),
            Ppid::Unknown => Err(Violation("a message of another protocol")),
        }
    }

    /// The other end, or both, have reset the stream.
    fn finished(&mut self, id: u16) {
        self.reset(id);
        self.draining.retain(|other| *other != id);
        let Some(channel) = self.channels.get_mut(&id) else { return };
        // It has had the last word of both before it closed.
        channel.delivered |= channel.ended && channel.peer_ended;
        if !channel.closed {
            channel.closed = true;
            self.events.push_back(Event::Closed(id));
        }
        if channel.released {
            self.channels.remove(&id);
        }
    }

    /// Closes a channel whose directions have both ended.
    fn retire(&mut self, id: u16) {
        if self.channels.get(&id).is_some_and(Channel::is_over) {
            self.reset(id);
        }
    }

    fn reset(&mut self, id: u16) {
        let Some((_, association)) = &mut self.association else { return };
        if let Ok(mut stream) = association.stream(id)
            && stream.close().is_ok()
        {
            self.resetting.insert(id);
        }
    }

    /// Opens a channel; [`Event::Opened`] or [`Event::Closed`] follow. `None`: there are too many, or no association.
    pub fn open(&mut self, open: Open) -> Option<u16> {
        if !self.is_connected() || self.channels.len() >= CHANNELS {
            return None;
        }
        let (_, association) = self.association.as_mut()?;
        let (start, mut id) = (self.next_id, self.next_id);
        loop {
            // 65,535 is none (RFC 8832 section 6).
            let next = if id >= u16::MAX - 2 { id % 2 } else { id + 2 };
            if !self.channels.contains_key(&id) && !self.resetting.contains(&id) {
                self.next_id = next;
                break;
            }
            id = next;
            if id == start {
                return None;
            }
        }
        let mut stream = association.open_stream(id, Ppid::Binary).ok()?;
        // Before the channel's own way of delivery: it is delivered in any case.
        stream.write_sctp(&Message::Open(open.clone()).to_bytes(), Ppid::Dcep).ok()?;
        set_delivery(stream, open.delivery);
        self.channels.insert(id, Channel::new(open, Setup::Opening));
        Some(id)
    }

    /// What the opener says of a channel.
    pub fn description(&self, id: u16) -> Option<&Open> {
        self.channels.get(&id).map(|channel| &channel.open)
    }

    /// Takes a channel that the other end has opened.
    pub fn accept(&mut self, id: u16) -> Result<(), Gone> {
        let channel = self.channels.get_mut(&id).filter(|channel| !channel.closed).ok_or(Gone)?;
        if channel.setup == Setup::Offered {
            channel.setup = Setup::Open;
            let (_, association) = self.association.as_mut().ok_or(Gone)?;
            let mut stream = association.stream(id).map_err(|_| Gone)?;
            stream.write_sctp(&Message::Ack.to_bytes(), Ppid::Dcep).map_err(|_| Gone)?;
            set_delivery(stream, channel.open.delivery);
        }
        Ok(())
    }

    /// The next bytes of a stream.
    pub fn read(&mut self, now: Instant, id: u16) -> Read {
        let Some(channel) = self.channels.get_mut(&id) else { return Read::Reset };
        let read = channel.read();
        if channel.paused && channel.has_room() {
            self.pull(id);
            self.reopen(now);
        }
        read
    }

    /// Tells the other end that the window is open again, once it is by a quarter or nothing waits any more.
    fn reopen(&mut self, now: Instant) {
        if self.freed < WINDOW as usize / 4 && self.unread > 0 {
            return;
        }
        self.freed = 0;
        // RFC 9260 section 6.2 has a SACK sent then, sctp-proto has none: a packet that came twice, twice, is answered at once.
        for _ in 0..2 {
            self.deliver(now, self.last_data.clone());
        }
        self.poll_sctp();
    }

    /// The next datagram, and the channel that it came by.
    pub fn datagram(&mut self) -> Option<(u16, Bytes)> {
        self.datagrams.pop_front()
    }

    /// Writes the beginning of `data` to a stream: how much of it. With 0 there is no room now, and [`Event::Writable`] follows.
    pub fn write(&mut self, id: u16, data: &Bytes) -> Result<usize, Gone> {
        if self.queued >= QUEUE {
            // What has been acknowledged since is not counted yet.
            self.count_queued();
        }
        let channel = self.channels.get_mut(&id).filter(|channel| !channel.closed && !channel.ended).ok_or(Gone)?;
        let (_, association) = self.association.as_mut().ok_or(Gone)?;
        let mut stream = association.stream(id).map_err(|_| Gone)?;
        let queued = stream.buffered_amount().map_err(|_| Gone)?;
        if queued >= CHANNEL_QUEUE || self.queued >= QUEUE {
            if !channel.waiting {
                channel.waiting = true;
                self.waiting.push_back(id);
            }
            return Ok(0);
        }
        let piece = data.slice(..data.len().min(PIECE).min(self.max_message));
        stream.write_sctp(&piece, Ppid::Binary).map_err(|_| Gone)?;
        self.queued += piece.len();
        Ok(piece.len())
    }

    /// Sends a datagram. What finds no room, or is larger than the other end takes, is lost.
    pub fn send_datagram(&mut self, id: u16, data: &[u8]) {
        let Some((_, association)) = &mut self.association else { return };
        let Ok(mut stream) = association.stream(id) else { return };
        if data.len() > self.max_message || stream.buffered_amount().is_ok_and(|queued| queued >= CHANNEL_QUEUE) {
            return;
        }
        let _ = match data.is_empty() {
            true => stream.write_sctp(&EMPTY, Ppid::BinaryEmpty),
            false => stream.write_sctp(&Bytes::copy_from_slice(data), Ppid::Binary),
        };
    }

    /// Ends this direction of a stream, or a flow of datagrams; [`Event::Delivered`] follows.
    pub fn finish(&mut self, id: u16) -> Result<(), Gone> {
        let channel = self.channels.get_mut(&id).filter(|channel| !channel.closed).ok_or(Gone)?;
        if std::mem::replace(&mut channel.ended, true) {
            return Ok(());
        }
        let (_, association) = self.association.as_mut().ok_or(Gone)?;
        let mut stream = association.stream(id).map_err(|_| Gone)?;
        if !channel.open.delivery.is_datagrams() {
            stream.write_sctp(&EMPTY, Ppid::BinaryEmpty).map_err(|_| Gone)?;
        }
        self.draining.push(id);
        // Of datagrams nothing may be on its way.
        self.settle();
        Ok(())
    }

    /// Whether all that was written has arrived, up to the end.
    pub fn is_delivered(&self, id: u16) -> bool {
        self.channels.get(&id).is_some_and(|channel| channel.delivered)
    }

    /// Whether messages may be sent.
    pub fn is_open(&self, id: u16) -> bool {
        self.channels.get(&id).is_some_and(|channel| channel.setup == Setup::Open)
    }

    /// Whether the channel is gone.
    pub fn is_closed(&self, id: u16) -> bool {
        self.channels.get(&id).is_none_or(|channel| channel.closed)
    }

    /// Closes a channel: what waits to be sent is still sent, what came is thrown away.
    pub fn shut(&mut self, id: u16) {
        self.reset(id);
        if let Some(channel) = self.channels.get_mut(&id)
            && !channel.closed
        {
            channel.closed = true;
            self.events.push_back(Event::Closed(id));
        }
    }

    /// Nobody uses the channel any more.
    pub fn release(&mut self, now: Instant, id: u16) {
        let Some(channel) = self.channels.get_mut(&id) else { return };
        channel.release();
        let over = channel.closed;
        self.reset(id);
        if over {
            self.channels.remove(&id);
        }
        self.pull(id);
        self.reopen(now);
    }
}

/// One byte stands for none (RFC 8831 section 6.6).
static EMPTY: Bytes = Bytes::from_static(&[0]);

/// How messages of this end are delivered.
fn set_delivery(mut stream: sctp_proto::Stream<'_>, delivery: Delivery) {
    let (unordered, kind, limit) = match delivery {
        Delivery::Stream => (false, ReliabilityType::Reliable, 0),
        Delivery::Datagrams => (true, ReliabilityType::Rexmit, 0),
        Delivery::Other { kind, limit } => {
            let reliability = match kind & 0x7f {
                1 => ReliabilityType::Rexmit,
                2 => ReliabilityType::Timed,
                _ => ReliabilityType::Reliable,
            };
            (kind & 0x80 != 0, reliability, limit)
        }
    };
    // It is there: it has just been found.
    let _ = stream.set_reliability_params(unordered, kind, limit);
}

/// Whether a packet of SCTP carries user data: a chunk of type DATA or I-DATA (RFC 9260 section 3.2, RFC 8260 section 2.1).
fn has_data(packet: &[u8]) -> bool {
    let mut rest = packet.get(12..).unwrap_or_default();
    while let Some(&[kind, _, high, low]) = rest.first_chunk::<4>() {
        if matches!(kind, 0 | 64) {
            return true;
        }
        let length = usize::from(u16::from_be_bytes([high, low])).max(4).next_multiple_of(4);
        rest = rest.get(length..).unwrap_or_default();
    }
    false
}
