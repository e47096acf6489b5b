//! The values that pass between an agent and its user.

use crate::auth::Credentials;
use crate::locate::Locator;
use crate::message::Uri;
use crate::sdp::End;
use crate::tls::ClientTls;
use crate::transport::{Tap, Transport};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Where an agent sends everything: its registrar, which is also its outbound proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Registrar {
    /// Address and port.
    pub addr: SocketAddr,
    /// How it is spoken to.
    pub transport: Transport,
}

/// What an agent is.
#[derive(Clone)]
pub struct AgentConfig {
    /// The address of record: `sip:echo@sipbox.invalid`.
    pub aor: Uri,
    /// Registrar and outbound proxy.
    pub registrar: Registrar,
    /// For registrars and proxies that ask.
    pub credentials: Option<Credentials>,
    /// The SIP sockets (UDP and TCP on one ephemeral port) are bound here.
    pub local_ip: IpAddr,
    /// `urn:uuid:...`, the `+sip.instance` of this agent (RFC 5626 4.1).
    pub instance: String,
    /// Registration expiry to ask for.
    pub expires: Duration,
    /// Sees every message sent and received.
    pub tap: Option<Tap>,
    /// Servers to be used instead when the registrar fails, best first (RFC 3263 4.3).
    pub others: Vec<Registrar>,
    /// The URI that all of them were found by, to be asked for again when all have failed.
    pub locate: Option<(Locator, Uri)>,
    /// How a registrar is spoken to by TLS.
    pub tls: Option<ClientTls>,
}

impl fmt::Debug for AgentConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AgentConfig")
            .field("aor", &self.aor)
            .field("registrar", &self.registrar)
            .field("credentials", &self.credentials)
            .field("local_ip", &self.local_ip)
            .field("instance", &self.instance)
            .field("expires", &self.expires)
            .finish_non_exhaustive()
    }
}

/// A flow by which an agent is registered, or wants to be (RFC 5626 4.2).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegistrationFlow {
    /// The server.
    pub server: SocketAddr,
    /// How it is spoken to.
    pub transport: Transport,
    /// Requests of ours go by it. The others are there to take its place, and to be called by.
    pub in_use: bool,
    /// Requests find the agent by it, as far as is known.
    pub up: bool,
    /// For how long it has been so.
    pub since: Duration,
    /// When it is tried again, if it is not up and no attempt is on its way.
    pub retry: Option<Duration>,
}

static LAST_SESSION: AtomicU64 = AtomicU64::new(0);

/// A session, unique in the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionId(u64);

impl SessionId {
    /// A number that no other session of this process has.
    pub fn next() -> Self {
        SessionId(LAST_SESSION.fetch_add(1, Ordering::Relaxed) + 1)
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

static LAST_SUBSCRIPTION: AtomicU64 = AtomicU64::new(0);

/// A subscription, unique in the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SubscriptionId(u64);

impl SubscriptionId {
    /// A number that no other subscription of this process has.
    pub fn next() -> Self {
        SubscriptionId(LAST_SUBSCRIPTION.fetch_add(1, Ordering::Relaxed) + 1)
    }
}

/// A session that stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    /// For `bye` and `Event::Ended`.
    pub id: SessionId,
    /// Who answered, as an address of record.
    pub remote_aor: Uri,
    /// Which of the flows that were offered was taken.
    pub line: usize,
    /// The other end of it.
    pub end: End,
    /// The program of the other end, as it says: Server, or User-Agent.
    pub software: Option<String>,
}

/// What somebody says of himself (RFC 3261 11).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Capabilities {
    /// Server, or User-Agent: `sipbox/0.1.0`.
    pub software: Option<String>,
    /// Allow.
    pub methods: Vec<String>,
    /// Accept.
    pub accepts: Vec<String>,
    /// From the question to the answer.
    pub round_trip: Duration,
}

/// A STUN or TURN server that a registrar tells of.
#[derive(Clone, PartialEq, Eq)]
pub struct IceServer {
    /// `stun:HOST:PORT` or `turn:HOST:PORT?transport=udp` (RFC 7064, RFC 7065).
    pub uri: String,
    /// Who we are there.
    pub username: Option<String>,
    /// The password.
    pub credential: Option<String>,
}

impl fmt::Debug for IceServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IceServer").field("uri", &self.uri).field("username", &self.username).finish_non_exhaustive()
    }
}

/// Why a session ended without our doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum EndReason {
    /// The other side sent BYE.
    PeerHungUp,
    /// The caller gave up before the call was accepted.
    Cancelled,
    /// The call was accepted, but the caller never acknowledged it.
    NotAcknowledged,
    /// The other side took up the session from elsewhere: another one has its place (RFC 3891).
    Replaced,
    /// The other side no longer takes part in the session: it answered no refresh, or sent none (RFC 4028).
    PeerVanished,
}

impl fmt::Display for EndReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            EndReason::PeerHungUp => "the other side hung up",
            EndReason::Cancelled => "the caller gave up",
            EndReason::NotAcknowledged => "the caller never acknowledged the answer",
            EndReason::Replaced => "another session of the other side took its place",
            EndReason::PeerVanished => "the other side no longer takes part",
        })
    }
}
