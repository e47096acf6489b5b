//! Flows that are a TCP connection, or plain datagrams: RFC 4145 (setup, connection) and RFC 8122 (TLS with fingerprints).
//!
//! ```text
//! m=application 40013 TCP/TLS octet-stream
//! a=setup:actpass
//! a=connection:new
//! a=fingerprint:sha-256 4A:AD:...
//! a=sipbox:1 label="tcp/7000" fp="sha-256 4A:AD:..." listen="192.0.2.7:40013 [2001:db8::7]:40013"
//! ```

use std::net::SocketAddr;

use sdp_types::{Media, Session};

use super::attribute::{Sipbox, named};
use super::quic::{Fingerprint, fingerprint};
use super::{Machine, Place, Proto, SdpError, Setup, address, attribute, direct, line};

/// The port of an end that only connects (RFC 4145 section 4.1).
const DISCARD: u16 = 9;

/// One end of a flow in the clear.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Direct {
    /// Where this end connects or sends from, and listens or receives. The port of a TCP end that only connects means nothing unless it is
    /// a sipbox.
    pub source: SocketAddr,
    /// Who connects; means nothing for udp.
    pub setup: Setup,
    /// The machine that the source is on, if it says so.
    pub machine: Option<Machine>,
    /// This end is a sipbox.
    pub sipbox: bool,
}

impl Direct {
    /// A socket that connects or sends.
    pub fn active(source: SocketAddr) -> Direct {
        Direct { source, setup: Setup::Active, machine: None, sipbox: true }
    }

    /// A socket that listens or receives.
    pub fn passive(source: SocketAddr) -> Direct {
        Direct { setup: Setup::Passive, ..Direct::active(source) }
    }

    pub(super) fn media(&self, proto: Proto, sipbox: Sipbox) -> Media {
        let (name, port) = match (proto, self.setup) {
            (Proto::Tcp, Setup::Active) => ("TCP", DISCARD),
            (Proto::Tcp, _) => ("TCP", self.source.port()),
            (Proto::Udp, _) => ("udp", self.source.port()),
        };
        let mut media = line("application", port, name, "octet-stream");
        media.connections.push(sdp_types::Connection::from_ip_addr(self.source.ip()));
        if proto == Proto::Tcp {
            media.attributes.push(named("setup", self.setup.as_str()));
            media.attributes.push(named("connection", "new"));
        }
        if self.sipbox {
            // What an answer is about is known.
            let source = sipbox.label.map(|_| self.source);
            media.attributes.push(Sipbox { source, machine: self.machine.clone(), ..sipbox }.attribute());
        }
        media
    }

    pub(super) fn parse(
        session: &Session,
        media: &Media,
        place: Place,
        sipbox: Option<&Sipbox>,
    ) -> Result<Direct, SdpError> {
        let setup = attribute(session, media, "setup").map_or(Ok(place.default_setup()), Setup::parse)?;
        let shown = SocketAddr::new(address(session, media)?, media.port);
        let machine = sipbox.and_then(|sipbox| sipbox.machine.clone());
        // Who stands between the ends, and puts addresses of his own into descriptions, is to be asked; but not by an end on the same machine,
        // and who connects shows no port.
        let connects = setup == Setup::Active && direct(media) == Some(Proto::Tcp);
        let told = sipbox.and_then(|sipbox| sipbox.source).filter(|_| machine.is_some() || connects);
        Ok(Direct { source: told.unwrap_or(shown), setup, machine, sipbox: sipbox.is_some() })
    }
}

/// One end of a TLS connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tls {
    /// Where this end takes connections, best first; port 9 where it takes none. At least one.
    pub listen: Vec<SocketAddr>,
    /// Who connects; that end is the TLS client too (RFC 8122 section 5).
    pub setup: Setup,
    /// Of the certificate that this end shows, whoever connects.
    pub fingerprint: Fingerprint,
    /// This end is a sipbox.
    pub sipbox: bool,
}

impl Tls {
    /// The address of c= and m=.
    pub(super) fn address(&self) -> SocketAddr {
        self.listen.first().copied().unwrap_or(SocketAddr::from(([0, 0, 0, 0], DISCARD)))
    }

    /// Whether something can be reached there.
    pub fn takes(address: &SocketAddr) -> bool {
        address.port() != DISCARD && address.port() != 0 && !address.ip().is_unspecified()
    }

    pub(super) fn media(&self, sipbox: Sipbox) -> Media {
        let shown = self.address();
        let port = if self.setup == Setup::Active { DISCARD } else { shown.port() };
        let mut media = line("application", port, "TCP/TLS", "octet-stream");
        media.connections.push(sdp_types::Connection::from_ip_addr(shown.ip()));
        media.attributes.push(named("setup", self.setup.as_str()));
        media.attributes.push(named("connection", "new"));
        media.attributes.push(named("fingerprint", &self.fingerprint.to_string()));
        if self.sipbox {
            let listen = self.listen.clone();
            media.attributes.push(Sipbox { fingerprint: Some(self.fingerprint), listen, ..sipbox }.attribute());
        }
        media
    }

    pub(super) fn parse(
        session: &Session,
        media: &Media,
        place: Place,
        sipbox: Option<&Sipbox>,
    ) -> Result<Tls, SdpError> {
        let setup = attribute(session, media, "setup").map_or(Ok(place.default_setup()), Setup::parse)?;
        let fingerprint = fingerprint(session, media, sipbox.and_then(|sipbox| sipbox.fingerprint))?;
        let mut listen = vec![SocketAddr::new(address(session, media)?, media.port)];
        // What a sipbox says beside c= is whole, and c= of an active end has no port.
        if let Some(sipbox) = sipbox.filter(|sipbox| !sipbox.listen.is_empty()) {
            listen.extend(sipbox.listen.iter().filter(|other| **other != listen[0]).copied().collect::<Vec<_>>());
        }
        Ok(Tls { listen, setup, fingerprint, sipbox: sipbox.is_some() })
    }
}

/// An m= line of TLS over TCP, whoever its peer is.
pub(super) fn is_tls(media: &Media) -> bool {
    media.media.eq_ignore_ascii_case("application")
        && media.proto.eq_ignore_ascii_case("TCP/TLS")
        && media.fmt.trim().eq_ignore_ascii_case("octet-stream")
}
