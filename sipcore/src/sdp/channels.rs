//! The m= line of data channels: RFC 8841, with the channels that both ends know beforehand (RFC 8864).
//!
//! ```text
//! m=application 40012 UDP/DTLS/SCTP webrtc-datachannel
//! a=ice-ufrag:Yd3x
//! a=ice-pwd:9f2kq0XbW3hT5uZr7aQm1c
//! a=candidate:1 1 udp 2130706431 192.0.2.7 40012 typ host
//! a=fingerprint:sha-256 4A:AD:...
//! a=setup:actpass
//! a=tls-id:7f3c...
//! a=sctp-port:5000
//! a=max-message-size:262144
//! a=dcmap:1000 label="tcp/30000";subprotocol="sipbox"
//! a=sipbox:1 quic label="tcp/30000" virtual="198.18.3.4:40112" fp="sha-256 4A:AD:..."
//! ```
//! A sipbox that takes QUIC too says so in the same line: who does not know the word has a line of data channels like any other.

use std::net::SocketAddr;

use sdp_types::{Media, Session};

use super::attribute::{Sipbox, named};
use super::quic::{Quic, fingerprint, is_ice};
use super::{Place, SdpError, Setup, attribute, shown};
use crate::flow::datachannel::dcep::{Delivery, Open};
use crate::flow::datachannel::{DEFAULT_MAX_MESSAGE, MAX_MESSAGE, PROTOCOL, SCTP_PORT};
use crate::label::{Label, Proto};

/// Channels that are read of one description.
const MAX_CHANNELS: usize = 16;
/// The first identifier of a channel that a description names (3GPP TS 26.114 section 6.2.10.1).
const FIRST_ID: u16 = 1000;
/// Lengths of tls-id (RFC 8842 section 4).
const TLS_ID: std::ops::RangeInclusive<usize> = 20..=255;

/// One end of a flow of data channels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Channels {
    /// Where to look for it, and whom to expect there.
    pub ice: Quic,
    /// Who opens the DTLS connection.
    pub setup: Setup,
    /// Its SCTP port.
    pub port: u16,
    /// The largest message that it takes; 0 is any.
    pub max_message: u32,
    /// Names the DTLS association (RFC 8842).
    pub tls_id: Option<String>,
    /// Channels that need no opening, by their identifiers.
    pub channels: Vec<(u16, Open)>,
    /// The line's name (RFC 5888), and whether it stands alone in a bundle (RFC 9143).
    pub mid: Option<(String, bool)>,
    /// This end is a sipbox.
    pub sipbox: bool,
    /// And takes QUIC on the same pair of addresses instead.
    pub quic: bool,
}

impl Channels {
    /// What this end offers for a socket.
    pub fn offer(ice: Quic, label: Label, quic: bool) -> Channels {
        let delivery = if label.proto == Proto::Tcp { Delivery::Stream } else { Delivery::Datagrams };
        let open = Open { delivery, label: label.to_string(), protocol: PROTOCOL.to_owned() };
        Channels {
            ice,
            setup: Setup::Actpass,
            port: SCTP_PORT,
            max_message: MAX_MESSAGE,
            tls_id: Some(tls_id()),
            channels: vec![(FIRST_ID, open)],
            mid: None,
            sipbox: true,
            quic,
        }
    }

    /// What this end answers: it opens the DTLS connection if it may, and takes the channels that are named.
    pub fn answer(&self, ice: Quic) -> Channels {
        Channels {
            ice,
            setup: if self.setup == Setup::Active { Setup::Passive } else { Setup::Active },
            port: SCTP_PORT,
            max_message: MAX_MESSAGE,
            tls_id: self.tls_id.as_ref().map(|_| tls_id()),
            channels: self.channels.clone(),
            mid: self.mid.clone(),
            sipbox: self.sipbox,
            quic: false,
        }
    }

    /// The socket that is meant, if a channel says so.
    pub fn label(&self) -> Option<Label> {
        self.channels.iter().find_map(|(_, open)| open.label.parse().ok())
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.ice.default_address()
    }

    pub(super) fn media(&self, sipbox: Sipbox) -> Media {
        let mut media = self.ice.ice_media(self.setup);
        let mut add = |name: &str, value: &str| media.attributes.push(named(name, value));
        if let Some(tls_id) = &self.tls_id {
            add("tls-id", tls_id);
        }
        add("sctp-port", &self.port.to_string());
        add("max-message-size", &self.max_message.to_string());
        for (id, open) in &self.channels {
            add("dcmap", &dcmap(*id, open));
        }
        if let Some((mid, _)) = &self.mid {
            add("mid", mid);
        }
        if self.sipbox {
            let said = Sipbox { quic: self.quic, fingerprint: Some(self.ice.fingerprint), ..sipbox };
            media.attributes.push(said.attribute());
        }
        media
    }

    /// Reads an m= line. `None`: it is another kind of flow.
    pub(super) fn parse(
        session: &Session,
        media: &Media,
        place: Place,
        sipbox: Option<&Sipbox>,
    ) -> Result<Option<Channels>, SdpError> {
        // A sipbox that speaks QUIC alone says nothing of messages.
        let quic = sipbox.is_some_and(|sipbox| sipbox.quic);
        let size = attribute(session, media, "max-message-size").map(str::trim);
        if !is_ice(media) || (quic && size.is_none()) {
            return Ok(None);
        }
        let said = sipbox.and_then(|sipbox| sipbox.fingerprint);
        if said.is_none() && attribute(session, media, "fingerprint").is_none() {
            return Err(SdpError::Channels("there is no fingerprint".to_owned()));
        }
        check(session, media)?;
        let fingerprint = fingerprint(session, media, said)?;
        let ice = Quic::parse_ice(session, media, fingerprint)?;
        // Media servers strip a=setup: what stands in its place is what this side of the exchange says anyway.
        let setup = attribute(session, media, "setup").map(Setup::parse).transpose()?;
        let setup = match (place, setup) {
            (Place::Offer, setup) => setup.unwrap_or(Setup::Actpass),
            (Place::Answer, setup) => setup.unwrap_or(Setup::Active),
        };
        if setup == Setup::Holdconn || (place == Place::Answer && setup == Setup::Actpass) {
            return Err(SdpError::Setup(setup.as_str().to_owned()));
        }
        let number = |name: &'static str, default: u32| match attribute(session, media, name).map(str::trim) {
            Some(text) => text.parse().map_err(|_| SdpError::Channels(shown(&format!("a={name}:{text}")))),
            None => Ok(default),
        };
        let port = u16::try_from(number("sctp-port", SCTP_PORT.into())?).ok().filter(|port| *port != 0);
        let tls_id = attribute(session, media, "tls-id").map(str::trim).filter(|id| TLS_ID.contains(&id.len()));
        let lines = media.attributes.iter().filter(|a| a.attribute == "dcmap").filter_map(|a| a.value.as_deref());
        let channels = lines.take(MAX_CHANNELS).map(parse_dcmap).collect::<Result<_, _>>()?;
        let mid = media.get_first_attribute_value("mid").flatten().map(str::trim);
        let bundled = |mid: &str| {
            let groups =
                session.attributes.iter().filter(|a| a.attribute == "group").filter_map(|a| a.value.as_deref());
            let mut words = groups.map(str::split_ascii_whitespace);
            words.any(|mut words| words.next() == Some("BUNDLE") && words.any(|word| word == mid))
        };
        Ok(Some(Channels {
            ice,
            setup,
            port: port.ok_or_else(|| SdpError::Channels("a=sctp-port:0".to_owned()))?,
            max_message: number("max-message-size", DEFAULT_MAX_MESSAGE)?,
            tls_id: tls_id.map(str::to_owned),
            channels,
            mid: mid.map(|mid| (mid.to_owned(), bundled(mid))),
            sipbox: sipbox.is_some(),
            quic,
        }))
    }
}

/// A fresh name of a DTLS association (RFC 8842 section 4: 120 bits at least).
fn tls_id() -> String {
    format!("{:016x}{:016x}", crate::random::number(), crate::random::number())
}

/// `1000 label="tcp/80";subprotocol="sipbox"` (RFC 8864 section 5.1).
fn dcmap(id: u16, open: &Open) -> String {
    let order = if open.delivery == Delivery::Datagrams { ";ordered=false;max-retr=0" } else { "" };
    format!("{id} label=\"{}\";subprotocol=\"{}\"{order}", escaped(&open.label), escaped(&open.protocol))
}

/// What may not stand in quotes is written by its number (RFC 8864 section 5.1.1).
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '"' | '%' | ';' => out.push_str(&format!("%{:02X}", c as u32)),
            c if c.is_ascii_control() => out.push_str(&format!("%{:02X}", c as u32)),
            c => out.push(c),
        }
    }
    out
}

fn parse_dcmap(text: &str) -> Result<(u16, Open), SdpError> {
    let wrong = || SdpError::Channels(shown(&format!("a=dcmap:{text}")));
    let (id, options) = text.trim().split_once(' ').unwrap_or((text.trim(), ""));
    // 65,535 is none (RFC 8832 section 6).
    let id = id.parse().ok().filter(|id| *id != u16::MAX).ok_or_else(wrong)?;
    let (mut label, mut protocol) = (String::new(), String::new());
    let (mut ordered, mut retransmits, mut lifetime) = (true, None, None);
    for option in options.split(';').map(str::trim).filter(|option| !option.is_empty()) {
        let (name, value) = option.split_once('=').ok_or_else(wrong)?;
        let quoted = || value.strip_prefix('"').and_then(|v| v.strip_suffix('"')).map(unescaped).ok_or_else(wrong);
        match name {
            "label" => label = quoted()?,
            "subprotocol" => protocol = quoted()?,
            "ordered" => ordered = value != "false",
            "max-retr" => retransmits = Some(value.parse::<u32>().map_err(|_| wrong())?),
            "max-time" => lifetime = Some(value.parse::<u32>().map_err(|_| wrong())?),
            _ => {}
        }
    }
    let delivery = Delivery::of(ordered, retransmits, lifetime).ok_or_else(wrong)?;
    Ok((id, Open { delivery, label, protocol }))
}

fn unescaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut parts = text.split('%');
    out.push_str(parts.next().unwrap_or_default());
    for part in parts {
        match part.get(..2).and_then(|hex| u8::from_str_radix(hex, 16).ok()).filter(u8::is_ascii) {
            Some(byte) => {
                out.push(char::from(byte));
                out.push_str(&part[2..]);
            }
            None => {
                out.push('%');
                out.push_str(part);
            }
        }
    }
    out
}

/// Attributes of the section that a reader written for browsers knows.
const KNOWN: [&str; 8] =
    ["setup", "fingerprint", "candidate", "sctp-port", "max-message-size", "ice-ufrag", "ice-pwd", "ice-options"];

/// What the browsers' own reader says of the section (webrtc-sdp; it would pass over a line with a warning, and take what follows for
/// attributes of another). What it does not know is left out.
fn check(session: &Session, media: &Media) -> Result<(), SdpError> {
    let mut text = String::from("v=0\r\no=- 1 1 IN IP4 0.0.0.0\r\ns=-\r\nt=0 0\r\n");
    text.push_str(&format!("m={} {} {} {}\r\n", media.media, media.port, media.proto, media.fmt));
    text.push_str("c=IN IP4 0.0.0.0\r\n");
    let own = |name: &str| media.attributes.iter().any(|a| a.attribute == name);
    let inherited = session.attributes.iter().filter(|a| !own(&a.attribute));
    for line in media.attributes.iter().chain(inherited).filter(|a| KNOWN.contains(&a.attribute.as_str())) {
        text.push_str(&format!("a={}:{}\r\n", line.attribute, line.value.as_deref().unwrap_or_default()));
    }
    match webrtc_sdp::parse_sdp(&text, true) {
        Ok(_) => Ok(()),
        Err(error) => Err(SdpError::Channels(shown(&error.to_string()))),
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Answer, End, Offer, Origin, ReceivedOffer};
    use super::*;

    const ORIGIN: Origin = Origin { id: 1, version: 1 };

    /// As Chromium 156 writes it, with a candidate that has a name (mDNS).
    const BROWSER: &str = "v=0\r\no=- 4611731400430051336 2 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\na=group:BUNDLE 0\r\n\
        a=extmap-allow-mixed\r\na=msid-semantic: WMS\r\nm=application 36612 UDP/DTLS/SCTP webrtc-datachannel\r\n\
        c=IN IP4 192.0.2.7\r\na=candidate:1 1 udp 2113937151 0f1c2b3a-aaaa-4bbb-8ccc-1234567890ab.local 36612 typ host \
        generation 0 network-cost 999\r\na=candidate:2 1 udp 1677729535 192.0.2.7 36612 typ srflx raddr 0.0.0.0 rport 0 \
        generation 0\r\na=ice-ufrag:lV1R\r\na=ice-pwd:PAoN7oQRBlLaFgIVQ0kfy4Um\r\na=ice-options:trickle\r\n\
        a=fingerprint:sha-256 49:66:12:17:0D:1C:91:AE:57:4C:C6:36:DD:D5:97:D2:7D:62:C9:9A:7F:B9:A3:F4:70:03:E7:43:91:73:23:5E\r\n\
        a=setup:actpass\r\na=mid:0\r\na=sctp-port:5000\r\na=max-message-size:262144\r\n";

    fn ice() -> Quic {
        let ReceivedOffer { lines, .. } = ReceivedOffer::parse(BROWSER.as_bytes()).unwrap();
        let End::Channels(channels) = &lines[0].end else { panic!("{lines:?}") };
        channels.ice.clone()
    }

    #[test]
    fn a_browser_offers() {
        let received = ReceivedOffer::parse(BROWSER.as_bytes()).unwrap();
        let End::Channels(offered) = &received.lines[0].end else { panic!("{received:?}") };
        assert_eq!((offered.setup, offered.port, offered.max_message), (Setup::Actpass, 5000, 262_144));
        // The one with a name is passed over.
        assert_eq!((offered.ice.candidates.len(), received.lines[0].label), (1, None));
        let local = offered.answer(ice());
        let answer = String::from_utf8(received.answer(0, &End::Channels(local), ORIGIN).unwrap()).unwrap();
        for line in ["a=setup:active", "a=mid:0", "a=group:BUNDLE 0", "a=sctp-port:5000", "a=max-message-size:262144"] {
            assert!(answer.contains(&format!("{line}\r\n")), "{line}: {answer}");
        }
        assert!(!answer.contains("sipbox") && !answer.contains("tls-id"), "{answer}");
    }

    #[test]
    fn between_two_sipboxes() {
        for (text, quic) in [("tcp/7000", true), ("udp/53", false)] {
            let label: Label = text.parse().unwrap();
            let own = Channels::offer(ice(), label, quic);
            let source = "198.18.0.1:9".parse().unwrap();
            let offer = Offer { label, virtual_source: source, flows: vec![End::Channels(own.clone())] };
            let received = ReceivedOffer::parse(&offer.to_sdp(ORIGIN)).unwrap();
            let line = &received.lines[0];
            assert_eq!((line.label, line.proto, line.virtual_source), (Some(label), label.proto, source));
            assert_eq!(line.end, End::Channels(own.clone()));
            let local = own.answer(ice());
            let answer = received.answer(0, &End::Channels(local.clone()), ORIGIN).unwrap();
            assert_eq!(Answer::parse(&answer, &offer).unwrap().end, End::Channels(local));
            // QUIC instead, where it was offered.
            let answer = received.answer(0, &End::Quic(ice()), ORIGIN);
            assert_eq!(answer.is_ok(), quic);
            if let Ok(answer) = answer {
                assert_eq!(Answer::parse(&answer, &offer).unwrap().end, End::Quic(ice()));
            }
        }
    }

    #[test]
    fn sections_that_are_none() {
        for (from, to) in [
            ("a=setup:actpass", "a=setup:sometimes"),
            ("a=sctp-port:5000", "a=sctp-port:0"),
            ("a=sctp-port:5000", "a=sctp-port:x"),
            ("a=max-message-size:262144", "a=max-message-size:-1"),
            ("a=ice-pwd:PAoN7oQRBlLaFgIVQ0kfy4Um", "a=ice-pwd:short"),
            ("a=fingerprint:", "a=finger:"),
            ("a=fingerprint:sha-256 49", "a=fingerprint:sha-256 4"),
            ("a=mid:0", "a=dcmap:x"),
        ] {
            assert!(ReceivedOffer::parse(BROWSER.replace(from, to).as_bytes()).is_err(), "{to}");
        }
    }

    #[test]
    fn maps_of_channels() {
        let stream = Open { delivery: Delivery::Stream, label: "tcp/80".into(), protocol: "sipbox".into() };
        assert_eq!(dcmap(1000, &stream), "1000 label=\"tcp/80\";subprotocol=\"sipbox\"");
        let datagrams = Open { delivery: Delivery::Datagrams, label: "udp/53".into(), ..stream.clone() };
        assert_eq!(dcmap(7, &datagrams), "7 label=\"udp/53\";subprotocol=\"sipbox\";ordered=false;max-retr=0");
        let odd = Open { label: "a\"b%c;d\n".into(), ..stream.clone() };
        for (id, open) in [(1000, stream), (7, datagrams), (8, odd)] {
            assert_eq!(parse_dcmap(&dcmap(id, &open)), Ok((id, open)));
        }
        // RFC 8864 section 5.1.
        let rfc = "3 label=\"Text Chat\";subprotocol=\"MSRP\";ordered=true;max-time=150";
        let (id, open) = parse_dcmap(rfc).unwrap();
        assert_eq!((id, open.label.as_str(), open.delivery), (3, "Text Chat", Delivery::Other { kind: 2, limit: 150 }));
        assert_eq!(parse_dcmap("4").unwrap().0, 4);
        for bad in [
            "",
            "x",
            "65535",
            "70000",
            "1 label=x",
            "1 label=\"x",
            "1 max-retr=no",
            "1 label",
            "1 max-retr=1;max-time=1",
        ] {
            assert!(parse_dcmap(bad).is_err(), "{bad}");
        }
    }
}
