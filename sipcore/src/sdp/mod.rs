//! Offer and answer (RFC 3264) of flows in SDP (RFC 8866): direct ones (`TCP` with setup and connection, RFC 4145, and `udp`) and
//! encrypted ones over ICE (RFC 8839).
//!
//! ```text
//! m=application 9 TCP octet-stream
//! a=setup:active
//! a=connection:new
//! a=sipbox:1 label="tcp/7000" source="127.64.1.2:40112" virtual="198.18.3.4:40112"
//! ```
//! Each flow is an m= line of its own, best first: `TCP` and `udp` ([`Direct`]), `TCP/TLS` (RFC 8122, [`Tls`]), ICE ([`Quic`], [`Channels`]); the answer
//! accepts exactly one.
//!
//! Pure functions from values to bytes and back. Lines and attributes that nobody here knows are ignored.

mod answer;
mod attribute;
mod channels;
mod machine;
mod offer;
mod quic;
mod restart;
mod tcp;
#[cfg(test)]
mod tests;

use std::net::IpAddr;

use sdp_types::{Media, Session};

pub use crate::label::{Label, Proto};
pub use answer::Answer;
pub use attribute::Sipbox;
pub use channels::Channels;
pub use machine::Machine;
pub use offer::{Line, Offer, ReceivedOffer};
pub use quic::{Fingerprint, MAX_CANDIDATES, Quic};
pub use restart::Agreed;
pub use tcp::{Direct, Tls};

/// The longest session description read.
pub const MAX_BYTES: usize = 64 * 1024;
/// The most lines read.
pub const MAX_LINES: usize = 1024;
/// The most m= lines read.
pub const MAX_MEDIA: usize = 64;

/// The media type of a session description, for Content-Type.
pub const CONTENT_TYPE: &str = "application/sdp";

/// Who opens the connection, RFC 4145 section 4.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Setup {
    /// The end that says it connects.
    Active,
    /// The end that says it listens.
    Passive,
    /// Either; only in an offer.
    Actpass,
    /// Nobody for now.
    Holdconn,
}

impl Setup {
    fn as_str(self) -> &'static str {
        match self {
            Setup::Active => "active",
            Setup::Passive => "passive",
            Setup::Actpass => "actpass",
            Setup::Holdconn => "holdconn",
        }
    }

    fn parse(text: &str) -> Result<Setup, SdpError> {
        [Setup::Active, Setup::Passive, Setup::Actpass, Setup::Holdconn]
            .into_iter()
            .find(|s| s.as_str().eq_ignore_ascii_case(text.trim()))
            .ok_or_else(|| SdpError::Setup(shown(text)))
    }
}

/// One end of a flow: what an m= line says of it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum End {
    /// In the clear: a socket of the program itself, or of one who stands for it.
    Direct(Direct),
    /// A TLS connection, and whom to expect in it.
    Tls(Tls),
    /// Where to look for the other end by ICE, and whom to expect there.
    Quic(Quic),
    /// The same, with data channels.
    Channels(Channels),
}

impl End {
    /// The address for the frame of a session description.
    fn ip(&self) -> IpAddr {
        match self {
            End::Direct(direct) => direct.source.ip(),
            End::Tls(tls) => tls.address().ip(),
            End::Quic(quic) => quic.ip(),
            End::Channels(channels) => channels.address().ip(),
        }
    }

    /// The m= line.
    fn media(&self, place: Place, proto: Proto, sipbox: Sipbox) -> Media {
        match self {
            End::Direct(direct) => direct.media(proto, sipbox),
            End::Tls(tls) => tls.media(sipbox),
            End::Quic(quic) => quic.media(place, sipbox),
            End::Channels(channels) => channels.media(sipbox),
        }
    }

    /// Reads an m= line, with what a sipbox has said in it. `None`: it is no flow that is known here.
    fn parse(session: &Session, media: &Media, place: Place) -> Result<Option<Read>, SdpError> {
        let sipbox = media.get_first_attribute_value("sipbox").flatten();
        let sipbox = sipbox.map_or(Ok(None), Sipbox::parse)?;
        let (proto, end) = if let Some(proto) = direct(media) {
            (proto, End::Direct(Direct::parse(session, media, place, sipbox.as_ref())?))
        } else if tcp::is_tls(media) {
            (Proto::Tcp, End::Tls(Tls::parse(session, media, place, sipbox.as_ref())?))
        } else if let Some(channels) = Channels::parse(session, media, place, sipbox.as_ref())? {
            let said = sipbox.as_ref().and_then(|s| s.label).or_else(|| channels.label());
            (said.map_or(Proto::Tcp, |label| label.proto), End::Channels(channels))
        } else if let Some(quic) = Quic::parse(session, media, place, sipbox.as_ref())? {
            // It carries both; the label says which is meant.
            (sipbox.as_ref().and_then(|s| s.label).map_or(Proto::Tcp, |label| label.proto), End::Quic(quic))
        } else {
            return Ok(None);
        };
        if sipbox.as_ref().and_then(|s| s.label).is_some_and(|label| label.proto != proto) {
            return Err(SdpError::Sipbox("the label has another protocol than the m= line"));
        }
        Ok(Some(Read { proto, end, sipbox }))
    }
}

/// An m= line that was read.
struct Read {
    proto: Proto,
    end: End,
    sipbox: Option<Sipbox>,
}

/// What a session description is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Offer,
    Answer,
}

impl Place {
    /// Who opens a TCP connection where nothing is said (RFC 4145 section 4).
    fn default_setup(self) -> Setup {
        match self {
            Place::Offer => Setup::Active,
            Place::Answer => Setup::Passive,
        }
    }
}

/// The o= line of one end: the same id throughout a session, the version one higher with every change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Origin {
    /// sess-id
    pub id: u64,
    /// sess-version
    pub version: u64,
}

/// What is wrong with a session description.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SdpError {
    /// More than [`MAX_BYTES`], [`MAX_LINES`] or [`MAX_MEDIA`].
    #[error("the session description is too large: {0}")]
    TooLarge(&'static str),
    /// Not a session description.
    #[error("not a session description: {0}")]
    Syntax(String),
    /// No m= line is a flow that is known here: 488 is owed.
    #[error("no flow offered that can be taken: {0}")]
    NoFlow(String),
    /// No c= line, or its address is a name, unspecified or multicast.
    #[error("c={0} is not an address to connect to")]
    Address(String),
    /// A setup attribute that does not exist or does not fit.
    #[error("a=setup:{0} does not fit here")]
    Setup(String),
    /// The sipbox attribute cannot be read.
    #[error("a=sipbox: {0}")]
    Sipbox(&'static str),
    /// The answer has another number of m= lines than the offer (RFC 3264 section 6).
    #[error("{offered} m= lines offered, {answered} answered")]
    MediaCount {
        /// In the offer.
        offered: usize,
        /// In the answer.
        answered: usize,
    },
    /// The answer speaks of another protocol than the offer.
    #[error("{0} answered, which was not offered")]
    Protocol(String),
    /// The answer sets the port of the flow to 0.
    #[error("the flow was refused: port 0 in the answer")]
    Refused,
    /// ice-ufrag or ice-pwd (named) is missing or not as RFC 8839 section 5.4 has it.
    #[error("a={0} is missing or is not one")]
    Ice(&'static str),
    /// A fingerprint cannot be read, is missing, or the two differ.
    #[error("the fingerprint cannot be trusted: {0}")]
    Fingerprint(&'static str),
    /// The line of data channels (named) is not one.
    #[error("the section of data channels: {0}")]
    Channels(String),
    /// More than one m= line accepted.
    #[error("more than one flow was accepted")]
    TwoFlows,
    /// The flow is not one of this offer.
    #[error("the offer has no such flow")]
    NoSuchFlow,
}

/// A piece of a peer's text short enough for an error.
fn shown(text: &str) -> String {
    text.chars().take(80).collect()
}

/// The session, after the limits.
fn session(bytes: &[u8]) -> Result<Session, SdpError> {
    if bytes.len() > MAX_BYTES {
        return Err(SdpError::TooLarge("more than 64 KiB"));
    }
    let mut media = 0;
    for (n, line) in bytes.split(|b| *b == b'\n').enumerate() {
        media += usize::from(line.starts_with(b"m="));
        if n >= MAX_LINES {
            return Err(SdpError::TooLarge("more than 1024 lines"));
        }
        if media > MAX_MEDIA {
            return Err(SdpError::TooLarge("more than 64 m= lines"));
        }
    }
    Session::parse(bytes).map_err(|e| SdpError::Syntax(shown(&e.to_string())))
}

/// The protocol of an m= line that is a direct flow.
fn direct(media: &Media) -> Option<Proto> {
    if !media.media.eq_ignore_ascii_case("application") || !media.fmt.trim().eq_ignore_ascii_case("octet-stream") {
        return None;
    }
    match media.proto.as_str() {
        p if p.eq_ignore_ascii_case("TCP") => Some(Proto::Tcp),
        p if p.eq_ignore_ascii_case("udp") => Some(Proto::Udp),
        _ => None,
    }
}

/// The address of an m= line: its own c=, else that of the session.
fn address(session: &Session, media: &Media) -> Result<IpAddr, SdpError> {
    let line = media.connections.first().or(session.connection.as_ref());
    let text = line.map(|c| c.connection_address.as_str()).ok_or_else(|| SdpError::Address(String::new()))?;
    match text.parse::<IpAddr>() {
        Ok(ip) if !ip.is_unspecified() && !ip.is_multicast() => Ok(ip),
        _ => Err(SdpError::Address(shown(text))),
    }
}

/// `a=name:value` of an m= line, else of the session.
fn attribute<'s>(session: &'s Session, media: &'s Media, name: &'s str) -> Option<&'s str> {
    let own = media.get_first_attribute_value(name).flatten();
    own.or_else(|| session.get_first_attribute_value(name).flatten())
}

/// The frame of every session description that this end writes.
fn frame(origin: Origin, ip: IpAddr) -> Session {
    let mut session = Session::new(sdp_types::Origin::with_ip_addr(origin.id, origin.version, ip), "-");
    session.connection = Some(sdp_types::Connection::from_ip_addr(ip));
    session.times.push(sdp_types::Time { start_time: 0, stop_time: 0, repeats: Vec::new() });
    session
}

fn line(kind: &str, port: u16, proto: &str, fmt: &str) -> Media {
    Media {
        media: kind.to_owned(),
        port,
        num_ports: None,
        proto: proto.to_owned(),
        fmt: fmt.to_owned(),
        media_title: None,
        connections: Vec::new(),
        bandwidths: Vec::new(),
        key: None,
        attributes: Vec::new(),
    }
}

/// Adds an m= line; c= is left out of it where the session's says the same.
fn add(session: &mut Session, mut media: Media) {
    media.connections.retain(|own| Some(own) != session.connection.as_ref());
    session.medias.push(media);
}

fn write(session: &Session) -> Vec<u8> {
    let mut out = Vec::with_capacity(512);
    // Writing to a Vec does not fail.
    let _ = session.write(&mut out);
    out
}
