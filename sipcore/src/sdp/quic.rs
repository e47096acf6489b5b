//! The m= line of an encrypted flow: ICE (RFC 8839), the certificate's fingerprint (RFC 8122), and QUIC for a sipbox.
//!
//! ```text
//! m=application 40012 UDP/DTLS/SCTP webrtc-datachannel
//! a=ice-ufrag:Yd3x
//! a=ice-pwd:9f2kq0XbW3hT5uZr7aQm1c
//! a=candidate:1 1 udp 2130706431 192.0.2.7 40012 typ host
//! a=fingerprint:sha-256 4A:AD:...
//! a=setup:actpass
//! a=sctp-port:5000
//! a=sipbox:1 quic label="tcp/7000" fp="sha-256 4A:AD:..."
//! ```
//! The fingerprint stands twice, since media servers strip `a=fingerprint` from what they do not know: both are compared.

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;

use is::{Candidate, CandidateKind, Protocol};
use sdp_types::{Media, Session};

use super::attribute::{Sipbox, named};
use super::{Place, SdpError, Setup, attribute, line};

/// Candidates that are read of one peer and written to it; ICE pairs each with each of the other end's.
pub const MAX_CANDIDATES: usize = 32;
/// Lengths of ice-ufrag and ice-pwd (RFC 8839 section 5.4).
const UFRAG: std::ops::RangeInclusive<usize> = 4..=256;
const PWD: std::ops::RangeInclusive<usize> = 22..=256;

/// SHA-256 of a certificate's DER form: `sha-256 4A:AD:...` (RFC 8122 section 5).
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Fingerprint(pub [u8; 32]);

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("sha-256 ")?;
        for (i, byte) in self.0.iter().enumerate() {
            let colon = if i == 0 { "" } else { ":" };
            write!(f, "{colon}{byte:02X}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Fingerprint {
    type Err = SdpError;

    fn from_str(text: &str) -> Result<Self, SdpError> {
        const WRONG: SdpError = SdpError::Fingerprint("it is not sha-256 and 32 hexadecimal bytes");
        let (hash, bytes) = text.trim().split_once(' ').ok_or(WRONG)?;
        if !hash.eq_ignore_ascii_case("sha-256") {
            return Err(WRONG);
        }
        let mut out = [0; 32];
        let mut read = bytes.trim().split(':');
        for byte in &mut out {
            let pair = read.next().filter(|pair| pair.len() == 2).ok_or(WRONG)?;
            *byte = u8::from_str_radix(pair, 16).map_err(|_| WRONG)?;
        }
        if read.next().is_some() { Err(WRONG) } else { Ok(Fingerprint(out)) }
    }
}

/// One end of an encrypted flow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quic {
    /// ice-ufrag
    pub ufrag: String,
    /// ice-pwd
    pub pwd: String,
    /// Where this end may be reached; UDP, component 1.
    pub candidates: Vec<Candidate>,
    /// Of the certificate that this end shows.
    pub fingerprint: Fingerprint,
}

impl Quic {
    /// Whether this end may be reached by a relay.
    pub fn is_relayed(&self) -> bool {
        self.candidates.iter().any(|candidate| candidate.kind() == CandidateKind::Relayed)
    }

    /// The default destination (RFC 8839 section 4.2.1.1): what works for most comes first.
    pub(super) fn default_address(&self) -> SocketAddr {
        let of = |kind| self.candidates.iter().find(|c| c.kind() == kind).map(Candidate::addr);
        let found = of(CandidateKind::Relayed).or(of(CandidateKind::ServerReflexive)).or(of(CandidateKind::Host));
        // RFC 8839 section 4.2.5: no candidate yet, port 9 on the unspecified address. A port of 0 would refuse the line.
        found.unwrap_or(SocketAddr::from(([0, 0, 0, 0], 9)))
    }

    pub(super) fn ip(&self) -> std::net::IpAddr {
        self.default_address().ip()
    }

    /// The m= line; `sipbox` says the rest. Who offers opens the connection: it is the one whose socket waits.
    pub(super) fn media(&self, place: Place, sipbox: Sipbox) -> Media {
        let mut media = self.ice_media(if place == Place::Offer { Setup::Actpass } else { Setup::Passive });
        media.attributes.push(named("sctp-port", "5000"));
        media.attributes.push(Sipbox { quic: true, fingerprint: Some(self.fingerprint), ..sipbox }.attribute());
        media
    }

    /// What is said of the path and of the certificate.
    pub(super) fn ice_media(&self, setup: Setup) -> Media {
        let default = self.default_address();
        let mut media = line("application", default.port(), "UDP/DTLS/SCTP", "webrtc-datachannel");
        media.connections.push(sdp_types::Connection::from_ip_addr(default.ip()));
        media.attributes.push(named("ice-ufrag", &self.ufrag));
        media.attributes.push(named("ice-pwd", &self.pwd));
        for candidate in self.candidates.iter().take(MAX_CANDIDATES) {
            media.attributes.push(self::candidate(candidate));
        }
        media.attributes.push(named("fingerprint", &self.fingerprint.to_string()));
        media.attributes.push(named("setup", setup.as_str()));
        media
    }

    /// Reads an m= line. `None`: it is another kind of flow, or its peer is no sipbox.
    pub(super) fn parse(
        session: &Session,
        media: &Media,
        place: Place,
        sipbox: Option<&Sipbox>,
    ) -> Result<Option<Quic>, SdpError> {
        let Some(sipbox) = sipbox.filter(|sipbox| sipbox.quic && is_ice(media)) else { return Ok(None) };
        let said = sipbox.fingerprint.ok_or(SdpError::Fingerprint("a=sipbox has no fp"))?;
        let fingerprint = fingerprint(session, media, Some(said))?;
        // Media servers strip a=setup too: what stands in its place is what this side of the exchange says anyway.
        let setup = attribute(session, media, "setup").map(Setup::parse).transpose()?;
        match (place, setup) {
            (_, None) | (Place::Offer, Some(Setup::Actpass | Setup::Passive)) => {}
            (Place::Answer, Some(Setup::Passive | Setup::Actpass)) => {}
            (_, Some(setup)) => return Err(SdpError::Setup(setup.as_str().to_owned())),
        }
        Quic::parse_ice(session, media, fingerprint).map(Some)
    }

    /// Reads what is said of the path.
    pub(super) fn parse_ice(session: &Session, media: &Media, fingerprint: Fingerprint) -> Result<Quic, SdpError> {
        let word = |name, lengths: std::ops::RangeInclusive<usize>| {
            let ice_char = |c: char| c.is_ascii_alphanumeric() || matches!(c, '+' | '/');
            let value = attribute(session, media, name).map(str::trim).unwrap_or_default();
            let fits = lengths.contains(&value.len()) && value.chars().all(ice_char);
            if fits { Ok(value.to_owned()) } else { Err(SdpError::Ice(name)) }
        };
        let (ufrag, pwd) = (word("ice-ufrag", UFRAG)?, word("ice-pwd", PWD)?);
        // What cannot be read (a name, another transport) is passed over.
        let candidates = media
            .attributes
            .iter()
            .filter(|a| a.attribute == "candidate")
            .filter_map(|a| Candidate::from_sdp_string(&format!("candidate:{}", a.value.as_deref()?)).ok())
            .filter(|c| c.proto() == Protocol::Udp && c.addr().port() != 0 && !is_nowhere(c.addr()))
            .take(MAX_CANDIDATES)
            .collect();
        Ok(Quic { ufrag, pwd, candidates, fingerprint })
    }
}

/// a=candidate (RFC 8839 section 5.1), without the ufrag that stands beside it.
pub(super) fn candidate(candidate: &Candidate) -> sdp_types::Attribute {
    let text = candidate.to_sdp_string();
    let text = text.split(" ufrag ").next().unwrap_or_default();
    named("candidate", text.trim_start_matches("candidate:"))
}

fn is_nowhere(address: SocketAddr) -> bool {
    let ip = address.ip().to_canonical();
    ip.is_unspecified() || ip.is_multicast() || matches!(ip, std::net::IpAddr::V4(v4) if v4.is_broadcast())
}

/// An m= line of a data channel (RFC 8841), whoever its peer is.
pub(super) fn is_ice(media: &Media) -> bool {
    media.media.eq_ignore_ascii_case("application")
        && media.proto.eq_ignore_ascii_case("UDP/DTLS/SCTP")
        && media.fmt.trim().eq_ignore_ascii_case("webrtc-datachannel")
}

/// What `a=fingerprint` and the `fp` of a sipbox say: one SHA-256, the same wherever it stands.
pub(super) fn fingerprint(
    session: &Session,
    media: &Media,
    said: Option<Fingerprint>,
) -> Result<Fingerprint, SdpError> {
    const DIFFER: SdpError =
        SdpError::Fingerprint("a=fingerprint and a=sipbox differ: somebody on the way has changed one");
    let of = |attributes: &[sdp_types::Attribute]| -> Vec<String> {
        let lines = attributes.iter().filter(|a| a.attribute.eq_ignore_ascii_case("fingerprint"));
        lines.filter_map(|a| a.value.clone()).collect()
    };
    let mut lines = of(&media.attributes);
    if lines.is_empty() {
        lines = of(&session.attributes);
    }
    let mut found = said;
    let mut unknown = None;
    for line in &lines {
        match line.parse::<Fingerprint>() {
            Ok(one) if found.is_none_or(|other| other == one) => found = Some(one),
            Ok(_) if said.is_some() => return Err(DIFFER),
            Ok(_) => return Err(SdpError::Fingerprint("two of sha-256 differ, and one certificate is shown")),
            // Of another hash (RFC 8122 section 5 allows several): sha-256 must be among them.
            Err(error) => unknown = Some(error),
        }
    }
    found.ok_or(unknown.unwrap_or(SdpError::Fingerprint("there is none")))
}
