//! The offer: written by the caller, read by the called end.

use std::net::SocketAddr;

use super::answer::fits;
use super::attribute::{Sipbox, named};
use super::channels::Channels;
use super::tcp::Direct;
use super::{End, Origin, Place, Read, SdpError, Setup, add, frame, line, session, shown, write};
use crate::label::{Label, Proto};

/// What this end offers for one socket of its program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offer {
    /// What the program asked for, at the called side.
    pub label: Label,
    /// Address under which the called program should see this end.
    pub virtual_source: SocketAddr,
    /// One m= line each, best first; at least one.
    pub flows: Vec<End>,
}

impl Offer {
    /// Of a direct flow alone, whose socket connects or sends.
    pub fn direct(label: Label, source: SocketAddr, virtual_source: SocketAddr) -> Offer {
        Offer { label, virtual_source, flows: vec![End::Direct(Direct::active(source))] }
    }

    /// The session description.
    pub fn to_sdp(&self, origin: Origin) -> Vec<u8> {
        let ip = self.flows.first().map_or(self.virtual_source.ip(), End::ip);
        let mut session = frame(origin, ip);
        let sipbox = Sipbox { label: Some(self.label), virtual_source: Some(self.virtual_source), ..Sipbox::default() };
        for flow in &self.flows {
            add(&mut session, flow.media(Place::Offer, self.label.proto, sipbox.clone()));
        }
        write(&session)
    }
}

/// One m= line of a peer's offer that can be taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// Its place among the m= lines.
    pub index: usize,
    /// Stream or datagrams.
    pub proto: Proto,
    /// What the caller's program asked for; `None` when the caller is no sipbox, or says none.
    pub label: Option<Label>,
    /// Address under which the program should see the caller; that of its end when it is no sipbox.
    pub virtual_source: SocketAddr,
    /// The caller's end.
    pub end: End,
}

/// A peer's offer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReceivedOffer {
    /// The flows that are known here, best first; at least one.
    pub lines: Vec<Line>,
    /// Every m= line: media, proto, fmt, for the answer.
    all: Vec<(String, String, String)>,
}

impl ReceivedOffer {
    /// Reads an offer. An m= line that cannot be taken is passed over; [`SdpError::NoFlow`] (or what is wrong with the only
    /// candidate) when none is left. A fingerprint that cannot be trusted is an error of the whole offer.
    pub fn parse(sdp: &[u8]) -> Result<ReceivedOffer, SdpError> {
        let session = session(sdp)?;
        let (mut lines, mut wrong) = (Vec::new(), None);
        for (index, media) in session.medias.iter().enumerate().filter(|(_, media)| media.port != 0) {
            match End::parse(&session, media, Place::Offer).and_then(|read| read.map(|r| r.line(index)).transpose()) {
                Ok(Some(line)) => lines.push(line),
                Ok(None) => {}
                Err(e @ SdpError::Fingerprint(_)) => return Err(e),
                Err(e) => wrong = Some(e),
            }
        }
        // Several flows for one socket: what is said of it differs only if somebody means to confuse.
        let first: Option<Option<Label>> = lines.first().map(|line: &Line| line.label);
        lines.retain(|line| line.label.is_none() || Some(line.label) == first);
        if lines.is_empty() {
            return Err(wrong.unwrap_or_else(|| {
                let seen: Vec<_> =
                    session.medias.iter().map(|m| format!("{} {} {}", m.media, m.proto, m.fmt)).collect();
                SdpError::NoFlow(if seen.is_empty() { "no m= line".into() } else { shown(&seen.join(", ")) })
            }));
        }
        let all = session.medias.into_iter().map(|m| (m.media, m.proto, m.fmt)).collect();
        Ok(ReceivedOffer { lines, all })
    }

    /// The line at this place among the m= lines.
    pub fn line(&self, index: usize) -> Option<&Line> {
        self.lines.iter().find(|line| line.index == index)
    }

    /// The answer that accepts the line at `index` with `local`, and refuses all other m= lines with port 0 (RFC 3264 section 6). What
    /// `local` is, and which end connects (RFC 4145 section 4.1), must fit the offer.
    pub fn answer(&self, index: usize, local: &End, origin: Origin) -> Result<Vec<u8>, SdpError> {
        let taken = self.line(index).ok_or(SdpError::NoSuchFlow)?;
        match (&taken.end, local) {
            (End::Direct(_), End::Direct(_)) if taken.proto == Proto::Udp => {}
            (End::Direct(offered), End::Direct(local)) => fits(offered.setup, local.setup)?,
            (End::Tls(offered), End::Tls(local)) => fits(offered.setup, local.setup)?,
            (End::Quic(_), End::Quic(_)) => {}
            (End::Channels(offered), End::Quic(_)) if offered.quic => {}
            (End::Channels(offered), End::Channels(local)) => fits(offered.setup, local.setup)?,
            _ => return Err(SdpError::NoSuchFlow),
        }
        let mut session = frame(origin, local.ip());
        for (at, (kind, proto, fmt)) in self.all.iter().enumerate() {
            match at == index {
                true => {
                    if let End::Channels(Channels { mid: Some((mid, true)), .. }) = local {
                        session.attributes.push(named("group", &format!("BUNDLE {mid}")));
                    }
                    add(&mut session, local.media(Place::Answer, taken.proto, Sipbox::default()));
                }
                false => session.medias.push(line(kind, 0, proto, fmt)),
            }
        }
        Ok(write(&session))
    }
}

impl Setup {
    /// What answers this one when this end has no wish of its own: passive to active and actpass, active to passive.
    pub fn answered(self) -> Setup {
        match self {
            Setup::Active | Setup::Actpass => Setup::Passive,
            Setup::Passive => Setup::Active,
            Setup::Holdconn => Setup::Holdconn,
        }
    }
}

impl Read {
    fn line(self, index: usize) -> Result<Line, SdpError> {
        let Read { proto, end, sipbox } = self;
        let said = sipbox.unwrap_or_default();
        if matches!(end, End::Quic(_)) && said.label.is_none() {
            return Err(SdpError::Sipbox("an offer of quic has no label"));
        }
        let shown = match &end {
            End::Direct(direct) => direct.source,
            End::Tls(tls) => tls.address(),
            End::Quic(quic) => quic.default_address(),
            End::Channels(channels) => channels.address(),
        };
        let virtual_source = said.virtual_source.unwrap_or(shown);
        let named = if let End::Channels(channels) = &end { channels.label() } else { None };
        Ok(Line { index, proto, label: said.label.or(named), virtual_source, end })
    }
}
