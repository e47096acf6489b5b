//! The offer: written by the caller, read by the called end.

use std::net::{IpAddr, SocketAddr};

use sdp_types::{Media, Session};

use super::attribute::Sipbox;
use super::quic::{Quic, shown_address};
use super::{Machine, Origin, SdpError, Setup, address, attribute, direct, frame, line, media, session, shown, write};
use crate::label::{Label, Proto};

/// What this end offers for one socket of its program. The socket connects or sends, so this is the active end of a direct flow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offer {
    /// What the program asked for, at the called side.
    pub label: Label,
    /// Address under which the called program should see this end.
    pub virtual_source: SocketAddr,
    /// A flow in the clear between the two programs' own sockets.
    pub direct: Option<Direct>,
    /// An encrypted flow.
    pub quic: Option<Quic>,
}

/// A direct flow, as its active end offers it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Direct {
    /// Physical address of the socket that will connect or send.
    pub source: SocketAddr,
    /// The machine that the socket is on.
    pub machine: Option<Machine>,
}

impl Offer {
    /// Of a direct flow alone.
    pub fn direct(label: Label, source: SocketAddr, virtual_source: SocketAddr) -> Offer {
        Offer { label, virtual_source, direct: Some(Direct { source, machine: None }), quic: None }
    }

    /// The session description; the direct flow comes first. A TCP flow has port 9, as RFC 4145 section 4.1 wants of the active end.
    pub fn to_sdp(&self, origin: Origin) -> Vec<u8> {
        let ip = self.direct.as_ref().map(|direct| direct.source.ip()).or(self.quic.as_ref().map(Quic::ip));
        let mut session = frame(origin, ip.unwrap_or(self.virtual_source.ip()));
        let sipbox = Sipbox { label: Some(self.label), virtual_source: Some(self.virtual_source), ..Sipbox::default() };
        if let Some(direct) = &self.direct {
            let mut media = media(self.label.proto, direct.source, Setup::Active);
            let machine = direct.machine.clone();
            media.attributes.push(Sipbox { source: Some(direct.source), machine, ..sipbox.clone() }.attribute());
            session.medias.push(media);
        }
        if let Some(quic) = &self.quic {
            session.medias.push(quic.media(Setup::Actpass, sipbox));
        }
        write(&session)
    }

    /// How many m= lines it has.
    pub(super) fn lines(&self) -> usize {
        usize::from(self.direct.is_some()) + usize::from(self.quic.is_some())
    }

    /// Whether the m= line at `index` is the direct flow.
    pub(super) fn is_direct(&self, index: usize) -> bool {
        index == 0 && self.direct.is_some()
    }
}

/// One m= line of a peer's offer that can be taken as a direct flow.
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
        self.sipbox.as_ref()?.label
    }
}

/// The m= line of a peer's offer that can be taken as an encrypted flow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QuicFlow {
    /// Its place among the m= lines.
    pub index: usize,
    /// The socket that is meant.
    pub label: Label,
    /// Address under which the program should see the caller; the default candidate where the caller says none.
    pub virtual_source: SocketAddr,
    /// The other end.
    pub quic: Quic,
}

/// A peer's offer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReceivedOffer {
    /// The direct flows that can be taken, best first.
    pub flows: Vec<Flow>,
    /// The encrypted flow. If it is `None`, `flows` is not empty.
    pub quic: Option<QuicFlow>,
    /// Every m= line: media, proto, fmt, for the answer.
    lines: Vec<(String, String, String)>,
}

impl ReceivedOffer {
    /// Reads an offer. An m= line that cannot be taken is passed over; [`SdpError::NoFlow`] (or what is wrong with the only
    /// candidate) when none is left. A fingerprint that cannot be trusted is an error of the whole offer.
    pub fn parse(sdp: &[u8]) -> Result<ReceivedOffer, SdpError> {
        let session = session(sdp)?;
        let (mut flows, mut quic, mut wrong) = (Vec::new(), None, None);
        for (index, media) in session.medias.iter().enumerate().filter(|(_, media)| media.port != 0) {
            let read = match direct(media) {
                Some(proto) => read_direct(&session, media, index, proto).map(|flow| flows.push(flow)),
                None => read_quic(&session, media, index).map(|flow| quic = quic.take().or(flow)),
            };
            match read {
                Ok(()) => {}
                Err(e @ SdpError::Fingerprint(_)) => return Err(e),
                Err(e) => wrong = Some(e),
            }
        }
        if flows.is_empty() && quic.is_none() {
            return Err(wrong.unwrap_or_else(|| {
                let seen: Vec<_> =
                    session.medias.iter().map(|m| format!("{} {} {}", m.media, m.proto, m.fmt)).collect();
                SdpError::NoFlow(if seen.is_empty() { "no m= line".into() } else { shown(&seen.join(", ")) })
            }));
        }
        let lines = session.medias.into_iter().map(|m| (m.media, m.proto, m.fmt)).collect();
        Ok(ReceivedOffer { flows, quic, lines })
    }

    /// The answer that accepts one direct flow and refuses all other m= lines with port 0 (RFC 3264 section 6). `local` is where
    /// this end listens or receives; `setup` says which end connects and must fit the offer (RFC 4145 section 4.1).
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
        let mut accepted = media(flow.proto, local, setup);
        if flow.sipbox.is_some() {
            accepted.attributes.push(Sipbox::default().attribute());
        }
        Ok(self.accept(flow.index, accepted, local.ip(), origin))
    }

    /// The answer that accepts the encrypted flow: this end opens the QUIC connection (`setup:active`).
    pub fn answer_quic(&self, local: &Quic, origin: Origin) -> Result<Vec<u8>, SdpError> {
        let flow = self.quic.as_ref().ok_or(SdpError::NoSuchFlow)?;
        let accepted = local.media(Setup::Active, Sipbox::default());
        Ok(self.accept(flow.index, accepted, local.ip(), origin))
    }

    fn accept(&self, chosen: usize, accepted: Media, ip: IpAddr, origin: Origin) -> Vec<u8> {
        let mut session = frame(origin, ip);
        let mut accepted = Some(accepted);
        for (index, (kind, proto, fmt)) in self.lines.iter().enumerate() {
            let taken = accepted.take_if(|_| index == chosen);
            session.medias.push(taken.unwrap_or_else(|| line(kind, 0, proto, fmt)));
        }
        write(&session)
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

fn read_direct(session: &Session, media: &Media, index: usize, proto: Proto) -> Result<Flow, SdpError> {
    let setup = attribute(session, media, "setup").map_or(Ok(Setup::Active), Setup::parse)?;
    let sipbox = media.get_first_attribute_value("sipbox").flatten();
    let sipbox = sipbox.map_or(Ok(None), Sipbox::parse)?;
    if sipbox.as_ref().and_then(|s| s.label).is_some_and(|l| l.proto != proto) {
        return Err(SdpError::Sipbox("the label has another protocol than the m= line"));
    }
    let address = SocketAddr::new(address(session, media)?, media.port);
    Ok(Flow { index, proto, address, setup, sipbox })
}

fn read_quic(session: &Session, media: &Media, index: usize) -> Result<Option<QuicFlow>, SdpError> {
    let Some((quic, setup, sipbox)) = Quic::parse(session, media)? else { return Ok(None) };
    if setup != Setup::Actpass && setup != Setup::Passive {
        return Err(SdpError::Setup(setup.as_str().to_owned()));
    }
    let label = sipbox.label.ok_or(SdpError::Sipbox("an offer of quic has no label"))?;
    let virtual_source = sipbox.virtual_source.unwrap_or_else(|| shown_address(session, media));
    Ok(Some(QuicFlow { index, label, virtual_source, quic }))
}
