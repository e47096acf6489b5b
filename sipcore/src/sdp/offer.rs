//! The offer: written by the caller, read by the called end.

use std::net::{IpAddr, SocketAddr};

use super::attribute::Sipbox;
use super::{Origin, SdpError, Setup, address, attribute, direct, frame, line, media, session, shown, write};
use crate::label::{Label, Proto};

/// What this end offers for one socket of its program. The socket connects or sends, so this is the active end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offer {
    /// What the program asked for, at the called side.
    pub label: Label,
    /// Physical address of the socket that will connect or send.
    pub source: SocketAddr,
    /// Address under which the called program should see this end.
    pub virtual_source: SocketAddr,
}

impl Offer {
    /// The session description. A TCP flow has port 9, as RFC 4145 section 4.1 wants of the active end.
    pub fn to_sdp(&self, origin: Origin) -> Vec<u8> {
        let mut session = frame(origin, self.source.ip());
        let mut media = media(self.label.proto, self.source, Setup::Active);
        let sipbox =
            Sipbox { label: Some(self.label), source: Some(self.source), virtual_source: Some(self.virtual_source) };
        media.attributes.push(sipbox.attribute());
        session.medias.push(media);
        write(&session)
    }
}

/// One m= line of a peer's offer that can be taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flow {
    /// Its place among the m= lines.
    pub index: usize,
    /// Protocol of the m= line.
    pub proto: Proto,
    /// Address of c= and port of m=; the port is 9 for the active end of TCP.
    pub address: SocketAddr,
    /// Who connects, as the peer says; `active` where it says nothing (RFC 4145 section 4). Means nothing for udp.
    pub setup: Setup,
    /// What a sipbox said; `None` for any other peer.
    pub sipbox: Option<Sipbox>,
}

impl Flow {
    /// The label, when the peer is a sipbox and said one.
    pub fn label(&self) -> Option<Label> {
        self.sipbox?.label
    }
}

/// A peer's offer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReceivedOffer {
    /// The flows that can be taken, best first; never empty.
    pub flows: Vec<Flow>,
    /// Every m= line: media, proto, fmt, for the answer.
    lines: Vec<(String, String, String)>,
}

impl ReceivedOffer {
    /// Reads an offer. An m= line that cannot be taken is passed over; [`SdpError::NoFlow`] (or what is wrong with the only
    /// candidate) when none is left.
    pub fn parse(sdp: &[u8]) -> Result<ReceivedOffer, SdpError> {
        let session = session(sdp)?;
        let mut flows = Vec::new();
        let mut wrong = None;
        for (index, media) in session.medias.iter().enumerate() {
            let Some(proto) = direct(media).filter(|_| media.port != 0) else { continue };
            let read = || {
                let setup = attribute(&session, media, "setup").map_or(Ok(Setup::Active), Setup::parse)?;
                let sipbox = media.get_first_attribute_value("sipbox").flatten();
                let sipbox = sipbox.map_or(Ok(None), Sipbox::parse)?;
                if sipbox.and_then(|s| s.label).is_some_and(|l| l.proto != proto) {
                    return Err(SdpError::Sipbox("the label has another protocol than the m= line"));
                }
                let address = SocketAddr::new(address(&session, media)?, media.port);
                Ok(Flow { index, proto, address, setup, sipbox })
            };
            match read() {
                Ok(flow) => flows.push(flow),
                Err(e) => wrong = Some(e),
            }
        }
        if flows.is_empty() {
            return Err(wrong.unwrap_or_else(|| {
                let seen: Vec<_> =
                    session.medias.iter().map(|m| format!("{} {} {}", m.media, m.proto, m.fmt)).collect();
                SdpError::NoFlow(if seen.is_empty() { "no m= line".into() } else { shown(&seen.join(", ")) })
            }));
        }
        let lines = session.medias.into_iter().map(|m| (m.media, m.proto, m.fmt)).collect();
        Ok(ReceivedOffer { flows, lines })
    }

    /// The answer that accepts one flow and refuses all other m= lines with port 0 (RFC 3264 section 6). `local` is where this
    /// end listens or receives; `setup` says which end connects and must fit the offer (RFC 4145 section 4.1).
    pub fn answer(&self, flow: usize, local: SocketAddr, setup: Setup, origin: Origin) -> Result<Vec<u8>, SdpError> {
        let flow = self.flows.iter().find(|f| f.index == flow).ok_or(SdpError::NoSuchFlow)?;
        let fits = match (flow.setup, setup) {
            (_, Setup::Actpass) => false,
            (_, Setup::Holdconn) => true,
            (Setup::Active, Setup::Passive) | (Setup::Passive, Setup::Active) | (Setup::Actpass, _) => true,
            _ => flow.proto == Proto::Udp,
        };
        if !fits {
            return Err(SdpError::Setup(setup.as_str().to_owned()));
        }
        let ip: IpAddr = local.ip();
        let mut session = frame(origin, ip);
        for (index, (kind, proto, fmt)) in self.lines.iter().enumerate() {
            if index == flow.index {
                let mut accepted = media(flow.proto, local, setup);
                if flow.sipbox.is_some() {
                    accepted.attributes.push(Sipbox::default().attribute());
                }
                session.medias.push(accepted);
            } else {
                session.medias.push(line(kind, 0, proto, fmt));
            }
        }
        Ok(write(&session))
    }

    /// The setup that answers a flow of this offer when this end has no wish of its own: passive to active and actpass,
    /// active to passive.
    pub fn default_setup(flow: &Flow) -> Setup {
        match flow.setup {
            Setup::Active | Setup::Actpass => Setup::Passive,
            Setup::Passive => Setup::Active,
            Setup::Holdconn => Setup::Holdconn,
        }
    }
}
