//! A flow that stands, and the way there: sockets, servers, the other end's description, ICE, QUIC.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use futures_util::FutureExt;
use parking_lot::Mutex;
use quinn::{
    Connection, ConnectionError, Endpoint, EndpointConfig, SendDatagramError, TokioRuntime, TransportErrorCode,
};
use tokio::time::{sleep, timeout};

use super::ALPN;
use super::datachannel::{self, Terms, dcep};
use super::echo::Echo;
use super::gather::{LinkConfig, Search};
use super::incoming::{Incoming, channel, early, quic};
use super::news::{self, Early, News};
use super::open::{self, Opening};
use super::pressure::{self, Backlog, Brake, Pressure};
use super::road::{Checks, Road};
use super::stream::Stream;
use super::switch::Switch;
use super::tls;
use super::window::Window;
use super::wire::PEER;
use crate::label::{Label, Proto};
use crate::sdp::Quic;

/// How long the two ends look for a path: what the checks take to fail (RFC 8445 section 14.3), and a little.
const PATH_WITHIN: Duration = Duration::from_secs(15);
/// How long the QUIC handshake may take on a path that works.
const HANDSHAKE_WITHIN: Duration = Duration::from_secs(10);
/// How long the other end's supervisor may take for a stream: its program's listener may have a full queue.
pub(super) const OPEN_WITHIN: Duration = Duration::from_secs(20);
/// Who was heard so short a time ago is taken to be there.
const HEARD_WITHIN: Duration = Duration::from_secs(1);
/// Who says nothing at all for so long, when he is asked for something, may be there no more.
const SILENT: Duration = Duration::from_secs(2);
/// On a slow path it may be silent for so many round trips.
const ROUND_TRIPS: u32 = 4;
/// In so many pieces: what has come in is read between them, also by who could not run for a while.
const PIECES: u32 = 8;
/// How often somebody who waits for the other end to be heard again looks.
const LOOK: Duration = Duration::from_millis(20);
/// The largest payload of a datagram of a program (UDP over IPv4).
const LARGEST_DATAGRAM: usize = 65_507;

/// Which end of the session this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It sent the offer: it opens the connection.
    Offerer,
    /// It sent the answer: it waits for the connection.
    Answerer,
}

/// Why there is no flow.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LinkError {
    /// No socket could be bound.
    #[error("no UDP socket can be bound: {0}")]
    NoSocket(String),
    /// No listener could be bound.
    #[error("no TCP socket can be bound: {0}")]
    NoListener(String),
    /// Nobody is connected to over TCP.
    #[error("no connection to the other end: none of its {addresses} addresses is reached over TCP, nor does it come")]
    Unreachable {
        /// Where the other end waits.
        addresses: usize,
    },
    /// No pair of addresses works.
    #[error("no path to the other end: none of {local} own and {remote} of its addresses reach each other")]
    NoPath {
        /// Candidates of this end.
        local: usize,
        /// Candidates of the other end.
        remote: usize,
    },
    /// The other end does not show the certificate that it announced, or speaks something else.
    #[error("the other end cannot be trusted, or does not answer: {0}")]
    Handshake(String),
    /// No protocol is common to both ends (no_application_protocol, RFC 7301 3.2): theirs is a sipbox that carries flows in another way.
    #[error(
        "the other end is of another version of sipbox: it does not speak {}, as encrypted flows of this one do",
        String::from_utf8_lossy(ALPN)
    )]
    OtherVersion,
    /// The cryptography cannot be set up.
    #[error("encryption cannot be set up: {0}")]
    Crypto(String),
    /// It stood, and is gone.
    #[error("the flow is lost: {0}")]
    Lost(String),
}

/// Why a stream was not opened.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The other end refused, with a SIP status: 403, 486, 503.
    #[error("refused with {0}")]
    Refused(u16),
    /// Nothing at all comes from the other end, which has perhaps been started again; or the path is gone for the moment.
    #[error("the peer does not answer any more")]
    Silent,
    /// As many streams are open as the other end takes at once, and too few of them have ended in time.
    #[error(
        "the peer takes {} connections at once: so many are open, and too few were closed within {} s",
        tls::STREAMS,
        OPEN_WITHIN.as_secs()
    )]
    Full,
    /// The other end is there, and has not taken it in time.
    #[error("the peer did not take the connection within {} s", OPEN_WITHIN.as_secs())]
    Late,
    /// It was reset, or closed, before the other end said that it was taken: as by a program that resets what it accepts. Only this one is concerned.
    #[error("the peer's end has reset the connection at once")]
    Reset,
    /// The flow ended meanwhile.
    #[error(transparent)]
    Lost(LinkError),
}

/// This end's sockets and what was learned of them; ready to be told to the other end.
pub struct Gathered {
    ground: Ground,
    search: Search,
    certificate: Arc<super::Certificate>,
    description: Quic,
}

impl Gathered {
    /// Binds the sockets and asks the servers, at most 2.5 seconds. To be called in a tokio runtime.
    pub async fn start(config: LinkConfig) -> Result<Gathered, LinkError> {
        let mut search = Search::begin(&config).await?;
        let switch = Switch::new(search.wire.clone());
        search.read_by(switch.clone());
        let mut endpoint = EndpointConfig::default();
        // What is QUIC is told by its first byte.
        endpoint.grease_quic_bit(false);
        let socket: Arc<dyn quinn::AsyncUdpSocket> = switch.clone();
        let endpoint = Endpoint::new_with_abstract_socket(endpoint, None, socket, Arc::new(TokioRuntime));
        let endpoint = endpoint.map_err(|e| LinkError::NoSocket(e.to_string()))?;
        let description = search.gathered().await;
        Ok(Gathered { ground: Ground { switch, endpoint }, search, certificate: config.certificate, description })
    }

    /// For the offer or the answer.
    pub fn description(&self) -> &Quic {
        &self.description
    }

    /// The TURN servers to which there is no connection, and why.
    pub fn unreached_relays(&self) -> &[(SocketAddr, String)] {
        self.search.unreached_relays()
    }

    /// Looks again at what was gathered a while ago. `false`: it is not good any more (this host's addresses have changed, a relay is gone).
    pub fn renew(&mut self) -> bool {
        let Some(description) = self.search.again() else { return false };
        self.description = description;
        true
    }

    /// How far the search for a path is, while [`Gathered::connect`] runs.
    pub fn checks(&self) -> Checks {
        Checks { state: self.search.state() }
    }

    /// Finds a path to the other end and sets up the encrypted connection.
    pub async fn connect(self, remote: &Quic, role: Role) -> Result<Link, LinkError> {
        self.connect_speaking(ALPN, remote, role).await
    }

    /// As [`Gathered::connect`]; `protocol` is the one on top of QUIC.
    pub(super) async fn connect_speaking(self, protocol: &[u8], remote: &Quic, role: Role) -> Result<Link, LinkError> {
        let Gathered { ground, search, certificate, .. } = self;
        let endpoint = &ground.endpoint;
        // Before anything can come in: it is known whom to expect.
        let client = match role {
            Role::Answerer => {
                endpoint.set_server_config(Some(
                    tls::server(&certificate, remote.fingerprint, protocol).map_err(LinkError::Crypto)?,
                ));
                None
            }
            // Its program's socket waits: the first stream goes out with the end of the handshake.
            Role::Offerer => Some(tls::client(&certificate, remote.fingerprint, protocol).map_err(LinkError::Crypto)?),
        };
        search.find(remote, role == Role::Offerer, PATH_WITHIN).await?;
        let handshake = |e: &dyn std::fmt::Display| LinkError::Handshake(e.to_string());
        // What is said when nothing better comes.
        let mut silent = handshake(&"no answer in time");
        let connecting = async {
            match client {
                Some(client) => {
                    let connecting = endpoint.connect_with(client, PEER, "sipbox").map_err(|e| handshake(&e))?;
                    connecting
                        .await
                        .map_err(|e| if is_other_version(&e) { LinkError::OtherVersion } else { handshake(&e) })
                }
                None => loop {
                    let incoming = endpoint.accept().await.ok_or_else(|| handshake(&"it was closed"))?;
                    match incoming.await {
                        Ok(connection) => break Ok(connection),
                        // Somebody else's, or one with the wrong certificate: the right one may still come.
                        Err(error) => {
                            tracing::debug!(%error, "a connection was refused");
                            if is_other_version(&error) {
                                silent = LinkError::OtherVersion;
                            }
                        }
                    }
                },
            }
        };
        let connection = timeout(HANDSHAKE_WITHIN, connecting).await;
        let connection = connection.unwrap_or_else(|_: tokio::time::error::Elapsed| Err(silent))?;
        endpoint.set_server_config(None);
        let road = Road::new(search, ground.switch.clone(), role);
        Ok(Link::new(Carrier::Quic(connection), road, ground))
    }

    /// As [`Gathered::connect`], with data channels instead of QUIC.
    pub async fn connect_channels(self, remote: &Quic, role: Role, terms: Terms) -> Result<Link, LinkError> {
        let Gathered { ground, search, certificate, .. } = self;
        // Before anything can come in.
        let datagrams = ground.switch.divert();
        search.find(remote, role == Role::Offerer, PATH_WITHIN).await?;
        let road = Road::new(search, ground.switch.clone(), role);
        let paths = road.state();
        let connecting =
            datachannel::Association::connect(ground.switch.clone(), paths, datagrams, &certificate, terms);
        let association = timeout(HANDSHAKE_WITHIN, connecting).await;
        let association =
            association.unwrap_or_else(|_: tokio::time::error::Elapsed| Err("no answer in time".to_owned()));
        let carrier = Carrier::Channels(association.map_err(LinkError::Handshake)?);
        Ok(Link::new(carrier, road, ground))
    }
}

/// The QUIC endpoint and its socket; given back when it is dropped.
struct Ground {
    switch: Arc<Switch>,
    endpoint: Endpoint,
}

impl Drop for Ground {
    fn drop(&mut self) {
        self.endpoint.close(0u32.into(), b"");
    }
}

/// An encrypted connection on a path that ICE keeps.
pub struct Link {
    carrier: Carrier,
    road: Road,
    /// How much may wait in it.
    window: Mutex<Window>,
    /// Of QUIC.
    pressure: Option<Arc<Pressure>>,
    /// Of QUIC: who listens.
    news: Arc<News>,
    ground: Ground,
}

/// What carries the streams.
enum Carrier {
    Quic(Connection),
    Channels(datachannel::Association),
}

impl Link {
    fn new(carrier: Carrier, road: Road, ground: Ground) -> Link {
        let news = News::new();
        let pressure = match &carrier {
            Carrier::Quic(connection) => {
                tokio::spawn(news.clone().tell(connection.clone()));
                let pressure = Pressure::new();
                tokio::spawn(pressure.clone().tell(connection.clone()));
                Some(pressure)
            }
            Carrier::Channels(_) => None,
        };
        Link { carrier, road, window: Mutex::new(Window::new(Instant::now())), pressure, news, ground }
    }

    /// For who writes to this stream. One at a time.
    pub fn brake(&self, stream: &Stream) -> Brake {
        Brake::new(self.pressure.as_ref(), stream.id(), stream.receive.is_taken())
    }

    /// For who reads from the stream with this number. One at a time.
    pub fn backlog(&self, stream: u64) -> Backlog {
        Backlog::new(self.pressure.as_ref(), stream)
    }

    /// Something was written to a stream: sees to it that as much is on its way as the path holds, and not more.
    pub fn written(&self) {
        // A channel has a bound of its own.
        let Carrier::Quic(connection) = &self.carrier else { return };
        let now = Instant::now();
        // Who holds it measures.
        if let Some(mut window) = self.window.try_lock().filter(|window| window.is_due(now)) {
            let before = window.size();
            window.measure(now, connection.stats().udp_tx.bytes, connection.rtt());
            if window.size() != before {
                connection.set_send_window(window.size());
            }
        }
    }

    /// Opens a stream, and waits until the other end has taken it. `patient`: also when nothing at all comes from there meanwhile.
    pub async fn open(&self, opening: Opening, patient: bool) -> Result<Stream, OpenError> {
        let connection = match &self.carrier {
            Carrier::Quic(connection) => connection,
            Carrier::Channels(association) => return open_channel(association, opening.label).await,
        };
        let mut opened = None;
        let answered = {
            let ended = |e: &dyn std::fmt::Display| match connection.close_reason() {
                Some(_) => OpenError::Lost(lost(e)),
                None => OpenError::Reset,
            };
            let asking = async {
                let both = connection.open_bi().await.map_err(|e| ended(&e))?;
                let (send, receive) = opened.insert(both);
                send.write_chunk(opening.to_bytes()).await.map_err(|e| ended(&e))?;
                news::answer(receive).await.map_err(|e| ended(&e))
            };
            tokio::select! {
                answered = asking => answered,
                () = sleep(OPEN_WITHIN) => Err(OpenError::Late),
                () = self.silent(), if !patient => Err(OpenError::Silent),
            }
        };
        match (answered, opened) {
            (Ok((200, as_of)), Some((send, receive))) => {
                self.news.learn(opening.label, as_of);
                Ok(quic(send, receive))
            }
            (Ok((status, _)), _) => Err(OpenError::Refused(status)),
            (Err(OpenError::Late), None) => Err(OpenError::Full),
            (Err(why), opened) => {
                // The other end, if it is there, would take it for a connection that says nothing.
                if let Some((mut send, _)) = opened {
                    let _ = send.reset(super::RESET.into());
                }
                Err(why)
            }
        }
    }

    /// Ends when the other end is asked for a sign of life, and nothing at all, not even an acknowledgement, comes from there for a while. One that is
    /// there may take its time: it is asked again and again, and whatever it had sent before counts for nothing.
    pub async fn silent(&self) {
        let Carrier::Quic(connection) = &self.carrier else { return std::future::pending().await };
        loop {
            let half = SILENT.max(ROUND_TRIPS * connection.rtt()) / 2;
            sleep(half).await;
            let before = self.signs();
            // What else was asked may still wait for room at the other end. This waits for none, belongs to no flow, and is acknowledged.
            let _ = connection.send_datagram(Bytes::new());
            for _ in 0..PIECES {
                sleep(half / PIECES).await;
            }
            if self.signs() == before {
                return;
            }
        }
    }

    /// Waits until something comes from the other end, from now on.
    pub async fn heard(&self) {
        let before = self.signs();
        while self.signs() == before {
            sleep(LOOK).await;
        }
    }

    /// Grows with what comes from the other end, and from nobody else: what QUIC has decrypted.
    fn signs(&self) -> u64 {
        match &self.carrier {
            Carrier::Quic(connection) => {
                let frames = connection.stats().frame_rx;
                [frames.acks, frames.ping, frames.datagram, frames.stream].iter().sum()
            }
            Carrier::Channels(association) => association.bytes().1,
        }
    }

    /// For how long nothing has come from the other end.
    pub fn silence(&self) -> Duration {
        self.ground.switch.silence()
    }

    /// Whether the other end is known to listen on this socket, and has been heard a moment ago: a stream for it need not wait for an answer
    /// ([`Link::open_early`]). Waits for nobody who sends or receives by this connection.
    pub fn promises(&self, label: Label) -> bool {
        let heard = self.silence() < HEARD_WITHIN;
        matches!(self.carrier, Carrier::Quic(_)) && self.news.knows(label) && self.road.works() && heard
    }

    /// Opens a stream for a socket that was promised, now, without waiting for the other end's answer: that comes before the first byte
    /// which is read. If it is a refusal after all, reading fails. `None`: that cannot be; [`Link::open`] can.
    pub fn open_early(&self, opening: Opening) -> Option<Stream> {
        let Carrier::Quic(connection) = &self.carrier else { return None };
        let (mut send, receive) = connection.open_bi().now_or_never()?.ok()?;
        let waits = Early::new(self.news.clone(), opening.label);
        match send.write_chunk(opening.to_bytes_unasked()).now_or_never() {
            Some(Ok(())) => Some(early(send, receive, waits)),
            // No room for so little: it is nobody's.
            _ => {
                let _ = send.reset(super::RESET.into());
                None
            }
        }
    }

    /// This end listens on other sockets than before: the other end is told.
    pub fn changed(&self) {
        self.news.change();
    }

    /// The last of these changes.
    pub fn last_change(&self) -> u32 {
        self.news.last()
    }

    /// The next stream that the other end opens.
    pub async fn accept(&self) -> Result<Incoming, LinkError> {
        match &self.carrier {
            Carrier::Quic(connection) => {
                let (send, receive) = connection.accept_bi().await.map_err(|e| lost(&e))?;
                Ok(Incoming::Quic { send, receive, unasked: false })
            }
            Carrier::Channels(association) => Ok(Incoming::Channel(association.offered().await.map_err(|e| lost(&e))?)),
        }
    }

    /// Sends a datagram of a flow. What finds no room is lost, as on the way; one too large for a packet waits for its turn.
    pub async fn send_datagram(&self, flow: u64, payload: &[u8]) -> Result<(), LinkError> {
        let connection = match &self.carrier {
            Carrier::Quic(connection) => connection,
            Carrier::Channels(association) => {
                // It is one of theirs.
                if let Ok(channel) = u16::try_from(flow) {
                    association.send_datagram(channel, payload);
                }
                return if association.is_closed() { Err(lost(&"it has ended")) } else { Ok(()) };
            }
        };
        let framed = || {
            let mut data = BytesMut::with_capacity(payload.len() + 8);
            open::put_varint(&mut data, flow);
            data.extend_from_slice(payload);
            data.freeze()
        };
        match connection.send_datagram(framed()) {
            Ok(()) => Ok(()),
            Err(SendDatagramError::TooLarge) => {
                let mut stream = connection.open_uni().await.map_err(|e| lost(&e))?;
                stream.write_chunk(framed()).await.map_err(|e| lost(&e))?;
                // Nobody closes it before.
                let _ = stream.finish();
                Ok(())
            }
            Err(e) => Err(lost(&e)),
        }
    }

    /// The next datagram, with the flow that it belongs to.
    pub async fn datagram(&self) -> Result<(u64, Bytes), LinkError> {
        let connection = match &self.carrier {
            Carrier::Quic(connection) => connection,
            Carrier::Channels(association) => {
                let (channel, data) = association.datagram().await.map_err(|e| lost(&e))?;
                return Ok((channel.into(), data));
            }
        };
        loop {
            let mut data = connection.read_datagram().await.map_err(|e| lost(&e))?;
            if let Some(flow) = open::get_varint(&mut data) {
                return Ok((flow, data));
            }
        }
    }

    /// The next datagrams: those that are there, or the first one that comes. They are appended, up to `most` of them.
    pub async fn datagrams(&self, out: &mut Vec<(u64, Bytes)>, most: usize) -> Result<(), LinkError> {
        out.push(self.datagram().await?);
        for _ in 1..most {
            match self.datagram().now_or_never() {
                Some(Ok(next)) => out.push(next),
                // Who asks next hears of an error.
                Some(Err(_)) | None => break,
            }
        }
        Ok(())
    }

    /// The next datagram that was too large for a packet.
    pub async fn large_datagram(&self) -> Result<(u64, Bytes), LinkError> {
        let connection = match &self.carrier {
            Carrier::Quic(connection) => connection,
            // A message may be as long as any datagram.
            Carrier::Channels(_) => return Err(self.closed().await),
        };
        loop {
            let mut stream = connection.accept_uni().await.map_err(|e| lost(&e))?;
            let mut first = [0];
            if !matches!(timeout(OPEN_WITHIN, stream.read_exact(&mut first)).await, Ok(Ok(()))) {
                continue;
            }
            if first == [news::CHANGES] {
                tokio::spawn(self.news.clone().listen(stream));
                continue;
            }
            if let Some(pressure) = self.pressure.as_ref().filter(|_| first == [pressure::TAKEN]) {
                tokio::spawn(pressure.clone().listen(stream, connection.clone()));
                continue;
            }
            let Ok(Ok(rest)) = timeout(OPEN_WITHIN, stream.read_to_end(LARGEST_DATAGRAM + 8)).await else { continue };
            let mut data = Bytes::from([&first, &*rest].concat());
            if let Some(flow) = open::get_varint(&mut data) {
                return Ok((flow, data));
            }
        }
    }

    /// The way that the connection takes.
    pub fn road(&self) -> &Road {
        &self.road
    }

    /// Opens a stream whose other end sends back what it gets; only QUIC has it.
    pub async fn echo(&self) -> Result<Echo, OpenError> {
        let Carrier::Quic(connection) = &self.carrier else { return Err(OpenError::Refused(501)) };
        let opened = async {
            let (mut send, mut receive) = connection.open_bi().await.map_err(|e| lost(&e))?;
            send.write_all(&open::ECHO_OPENING).await.map_err(|e| lost(&e))?;
            let mut status = [0; 2];
            receive.read_exact(&mut status).await.map_err(|e| lost(&e))?;
            Ok((u16::from_be_bytes(status), Echo::new(send, receive)))
        };
        let opened = timeout(OPEN_WITHIN, opened).await.unwrap_or_else(|_| Err(lost(&"no answer to a stream")));
        match opened.map_err(OpenError::Lost)? {
            (200, echo) => Ok(echo),
            (status, _) => Err(OpenError::Refused(status)),
        }
    }

    /// Bytes on the wire: sent, and received.
    pub fn bytes(&self) -> (u64, u64) {
        match &self.carrier {
            Carrier::Quic(connection) => {
                let stats = connection.stats();
                (stats.udp_tx.bytes, stats.udp_rx.bytes)
            }
            Carrier::Channels(association) => association.bytes(),
        }
    }

    /// What carries the streams, as the policy calls it.
    pub fn flow(&self) -> &'static str {
        match &self.carrier {
            Carrier::Quic(_) => "quic",
            Carrier::Channels(_) => "datachannel",
        }
    }

    /// What carries the streams, in words for the user.
    pub fn kind(&self) -> &'static str {
        match &self.carrier {
            Carrier::Quic(_) => "encrypted flow",
            Carrier::Channels(_) => "data channel flow",
        }
    }

    /// Round trip of the path: as QUIC sees it; of data channels as the checks of the path do (what sctp-proto calls so is the timeout of a
    /// retransmission). `None`: nothing was measured yet.
    pub fn rtt(&self) -> Option<Duration> {
        match &self.carrier {
            Carrier::Quic(connection) => Some(connection.rtt()),
            Carrier::Channels(_) => self.road.round_trip(),
        }
    }

    /// Waits until the connection has ended; why.
    pub async fn closed(&self) -> LinkError {
        match &self.carrier {
            Carrier::Quic(connection) => lost(&connection.closed().await),
            Carrier::Channels(association) => lost(&association.closed().await),
        }
    }

    /// Whether the connection has ended.
    pub fn is_closed(&self) -> bool {
        match &self.carrier {
            Carrier::Quic(connection) => connection.close_reason().is_some(),
            Carrier::Channels(association) => association.is_closed(),
        }
    }

    /// Ends the connection. What was not delivered is lost.
    pub fn close(&self) {
        self.news.end();
        match &self.carrier {
            Carrier::Quic(connection) => connection.close(0u32.into(), b""),
            Carrier::Channels(association) => association.close(),
        }
    }

    /// Waits until the other end has been told of the end.
    pub async fn wait_idle(&self) {
        self.ground.endpoint.wait_idle().await;
    }
}

/// Whether either end has found that there is no common protocol.
fn is_other_version(error: &ConnectionError) -> bool {
    /// The alert no_application_protocol (RFC 7301 3.2).
    const NO_APPLICATION_PROTOCOL: u8 = 120;
    let no_protocol = TransportErrorCode::crypto(NO_APPLICATION_PROTOCOL);
    match error {
        ConnectionError::TransportError(error) => error.code == no_protocol,
        ConnectionError::ConnectionClosed(close) => close.error_code == no_protocol,
        _ => false,
    }
}

pub(super) fn lost(why: &dyn std::fmt::Display) -> LinkError {
    LinkError::Lost(why.to_string())
}

/// A channel for a socket: the one that both session descriptions name, if it is for it, else a new one.
async fn open_channel(association: &datachannel::Association, label: Label) -> Result<Stream, OpenError> {
    let text = label.to_string();
    if let Some(named) = association.negotiated(&text).await {
        return Ok(channel(named));
    }
    let delivery = match label.proto {
        Proto::Tcp => dcep::Delivery::Stream,
        Proto::Udp => dcep::Delivery::Datagrams,
    };
    let asked = dcep::Open { delivery, label: text, protocol: datachannel::PROTOCOL.to_owned() };
    match timeout(OPEN_WITHIN, association.open(asked)).await {
        Ok(Ok(opened)) => Ok(channel(opened)),
        // It says no more than that.
        Ok(Err(None)) => Err(OpenError::Refused(486)),
        Ok(Err(Some(why))) => Err(OpenError::Lost(lost(&why))),
        // The others in the association go on.
        Err(_) => Err(OpenError::Late),
    }
}
