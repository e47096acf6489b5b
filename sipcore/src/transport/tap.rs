//! What an observer may see of the traffic.

use super::Transport;
use crate::message::{Message, name};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Which way a message went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// Sent by this end.
    Sent,
    /// Received by this end.
    Received,
}

/// One message on the wire. Bodies and credentials are not part of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TapEvent {
    /// Sent or received.
    pub direction: Direction,
    /// Our address.
    pub local: SocketAddr,
    /// The other side's address.
    pub remote: SocketAddr,
    /// How it travelled.
    pub transport: Transport,
    /// `INVITE sip:bob@example.org SIP/2.0` or `SIP/2.0 200 OK`.
    pub start_line: String,
    /// Call-ID header.
    pub call_id: String,
    /// CSeq header.
    pub cseq: String,
}

/// Is called for every message sent and received; it must be quick and must not call back into the agent or hub.
pub type Tap = Arc<dyn Fn(&TapEvent) + Send + Sync>;

impl TapEvent {
    pub(super) fn of(
        direction: Direction,
        local: SocketAddr,
        remote: SocketAddr,
        transport: Transport,
        message: &Message,
    ) -> TapEvent {
        TapEvent {
            direction,
            local,
            remote,
            transport,
            start_line: message.start_line().into_owned(),
            call_id: message.call_id().unwrap_or_default().to_string(),
            cseq: message.header(name::CSEQ).map(|header| header.text().into_owned()).unwrap_or_default(),
        }
    }
}

/// What the driver has counted since its start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Messages that were read and understood as SIP.
    pub received: u64,
    /// Messages that were handed to the network.
    pub sent: u64,
    /// Messages that are none or cannot be answered, and connections closed because of their bytes.
    pub garbage: u64,
    /// Messages that could not be sent: unreachable, connection lost, buffers full.
    pub unsent: u64,
    /// Connections refused because too many were open, or too many from one address.
    pub refused_connections: u64,
    /// Connections closed because no whole message came in time.
    pub slow_connections: u64,
    /// Connections on which TLS or WebSocket did not come about.
    pub failed_handshakes: u64,
    /// Connections that are open.
    pub connections: u64,
}

#[derive(Debug, Default)]
pub(super) struct CounterCells {
    pub received: AtomicU64,
    pub sent: AtomicU64,
    pub garbage: AtomicU64,
    pub unsent: AtomicU64,
    pub refused_connections: AtomicU64,
    pub slow_connections: AtomicU64,
    pub failed_handshakes: AtomicU64,
}

impl CounterCells {
    pub fn read(&self) -> Counters {
        let get = |cell: &AtomicU64| cell.load(Ordering::Relaxed);
        Counters {
            received: get(&self.received),
            sent: get(&self.sent),
            garbage: get(&self.garbage),
            unsent: get(&self.unsent),
            refused_connections: get(&self.refused_connections),
            slow_connections: get(&self.slow_connections),
            failed_handshakes: get(&self.failed_handshakes),
            connections: 0,
        }
    }
}

pub(super) fn count(cell: &AtomicU64) {
    cell.fetch_add(1, Ordering::Relaxed);
}
