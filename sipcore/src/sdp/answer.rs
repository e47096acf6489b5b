//! The answer, as the caller reads it.

use super::offer::Offer;
use super::{End, Place, SdpError, Setup, session, shown};

/// A peer's answer to [`Offer`]: the one flow that it takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Which flow of the offer it is.
    pub line: usize,
    /// The peer's end of it.
    pub end: End,
}

impl Answer {
    /// Reads the answer to `offer`: exactly one of its m= lines accepted, with the same protocol.
    pub fn parse(sdp: &[u8], offer: &Offer) -> Result<Answer, SdpError> {
        let session = session(sdp)?;
        let (offered, answered) = (offer.flows.len(), session.medias.len());
        if answered != offered {
            return Err(SdpError::MediaCount { offered, answered });
        }
        let mut accepted = session.medias.iter().enumerate().filter(|(_, media)| media.port != 0);
        let (line, media) = accepted.next().ok_or(SdpError::Refused)?;
        if accepted.next().is_some() {
            return Err(SdpError::TwoFlows);
        }
        let other = || SdpError::Protocol(shown(&format!("{} {}", media.proto, media.fmt)));
        let read = End::parse(&session, media, Place::Answer)?.ok_or_else(other)?;
        match (offer.flows.get(line), &read.end) {
            (Some(End::Direct(own)), End::Direct(end)) if read.proto == offer.label.proto => {
                if read.proto == crate::label::Proto::Tcp {
                    fits(own.setup, end.setup)?;
                }
            }
            (Some(End::Tls(own)), End::Tls(end)) => fits(own.setup, end.setup)?,
            (Some(End::Quic(_)), End::Quic(_)) => {}
            (Some(End::Channels(own)), End::Quic(_)) if own.quic => {}
            (Some(End::Channels(own)), End::Channels(end)) => fits(own.setup, end.setup)?,
            _ => return Err(other()),
        }
        Ok(Answer { line, end: read.end })
    }
}

/// Whether this setup answers that one (RFC 4145 section 4.1).
pub(super) fn fits(offered: Setup, answered: Setup) -> Result<(), SdpError> {
    match (offered, answered) {
        (Setup::Active, Setup::Passive) | (Setup::Passive, Setup::Active) => Ok(()),
        (Setup::Actpass, Setup::Active | Setup::Passive) => Ok(()),
        _ => Err(SdpError::Setup(answered.as_str().to_owned())),
    }
}
