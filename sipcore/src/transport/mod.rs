//! How SIP messages travel (RFC 3261 18): the names that the state machines use, and the tokio driver that moves the bytes.

mod admission;
mod connection;
mod datagrams;
mod driver;
mod layered;
mod refusals;
pub(crate) mod stun;
mod tap;
mod web;

pub(crate) use admission::{Admission, source};
pub use driver::StartError;
pub(crate) use driver::{Core, Driver, Secrets, Setup};
pub use tap::{Counters, Direction, Tap, TapEvent};

use bytes::Bytes;
use std::fmt;
use std::net::SocketAddr;
use std::time::Instant;

/// Transport protocol of SIP itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Transport {
    /// Datagrams; the transactions retransmit.
    Udp,
    /// One connection per remote address, reused in both directions.
    Tcp,
    /// The same, encrypted.
    Tls,
    /// Messages over WebSocket (RFC 7118), on connections that the other side made.
    Ws,
    /// The same, encrypted.
    Wss,
}

impl Transport {
    /// The transport itself delivers or fails (RFC 3261 17: "reliable").
    pub fn is_reliable(self) -> bool {
        self != Transport::Udp
    }

    /// WebSocket, encrypted or not: a URI does not tell them apart (RFC 7118 5.2).
    pub(crate) fn is_web(self) -> bool {
        matches!(self, Transport::Ws | Transport::Wss)
    }

    /// Whoever has such a connection made it: it cannot be made the other way (RFC 7118 5, and a user agent has no certificate for its host).
    pub(crate) fn is_one_way(self) -> bool {
        matches!(self, Transport::Tls | Transport::Ws | Transport::Wss)
    }

    /// As it stands in a Via header: `UDP`, `TCP`, `TLS`, `WS`, `WSS`.
    pub fn as_via(self) -> &'static str {
        match self {
            Transport::Udp => "UDP",
            Transport::Tcp => "TCP",
            Transport::Tls => "TLS",
            Transport::Ws => "WS",
            Transport::Wss => "WSS",
        }
    }

    /// The `transport` parameter of a URI; `None` where it is the default.
    pub(crate) fn as_param(self) -> Option<&'static str> {
        match self {
            Transport::Udp => None,
            Transport::Tcp => Some("tcp"),
            Transport::Tls => Some("tls"),
            Transport::Ws | Transport::Wss => Some("ws"),
        }
    }

    /// The transport with a name as `Display` writes it.
    pub(crate) fn named(name: &str) -> Option<Transport> {
        let all = [Transport::Udp, Transport::Tcp, Transport::Tls, Transport::Ws, Transport::Wss];
        all.into_iter().find(|transport| transport.as_via().eq_ignore_ascii_case(name))
    }
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Transport::Udp => "udp",
            Transport::Tcp => "tcp",
            Transport::Tls => "tls",
            Transport::Ws => "ws",
            Transport::Wss => "wss",
        })
    }
}

/// An address on which we listen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Listen {
    pub addr: SocketAddr,
    /// What is taken there; UDP stands for UDP and TCP.
    pub transport: Transport,
}

impl Listen {
    /// UDP and TCP.
    pub fn plain(addr: SocketAddr) -> Self {
        Listen { addr, transport: Transport::Udp }
    }

    /// Messages leave from here by a transport.
    pub fn carries(&self, transport: Transport) -> bool {
        self.transport == transport || (self.transport == Transport::Udp && transport == Transport::Tcp)
    }
}

/// A way to one remote address from one of our listening points (RFC 5626 "flow").
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Flow {
    pub transport: Transport,
    /// Index of the listening point.
    pub local: u16,
    pub remote: SocketAddr,
}

/// Bytes to be sent.
#[derive(Debug, Clone)]
pub(crate) struct Transmit {
    pub flow: Flow,
    pub payload: Bytes,
}

/// What tells that the other end of a flow lives, and is no message.
#[derive(Debug)]
pub(crate) enum Sign<'a> {
    /// CRLF, the answer to a keep-alive on a connection (RFC 5626 3.5.1).
    Pong,
    /// A STUN message (RFC 5626 3.5.2).
    Stun(&'a [u8]),
}

/// A state machine that the driver runs: bytes and time in, bytes and deadlines out.
pub(crate) trait Machine: Send + 'static {
    /// One message that arrived on `flow`.
    fn handle_message(&mut self, now: Instant, flow: Flow, message: crate::message::Message);
    /// A sign of life that arrived on `flow`.
    fn handle_sign(&mut self, now: Instant, flow: Flow, sign: Sign<'_>);
    /// The remote side of `flow` cannot be reached, or its connection ended.
    fn handle_unreachable(&mut self, now: Instant, flow: Flow, why: &str);
    /// Whoever has just connected and is known by `flow` has shown that he speaks for these domains, by their places in `Secrets::domains`.
    fn handle_shown(&mut self, _flow: Flow, _domains: &[usize]) {}
    /// The deadline that `poll_timeout` named has passed.
    fn handle_timeout(&mut self, now: Instant);
    /// The next bytes to send.
    fn poll_transmit(&mut self) -> Option<Transmit>;
    /// The next connection to close. Its end is told by `handle_unreachable`, as any other.
    fn poll_close(&mut self) -> Option<Flow>;
    /// When `handle_timeout` wants to be called.
    fn poll_timeout(&self) -> Option<Instant>;
    /// Hands over what the machine has to tell its user; called after every input, under the machine's lock.
    fn deliver_events(&mut self, now: Instant);
}
