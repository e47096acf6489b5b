//! The answer, as the caller reads it.

use std::net::SocketAddr;

use sdp_types::{Media, Session};

use super::attribute::Sipbox;
use super::offer::Offer;
use super::quic::{Quic, foreign, is_ice};
use super::{SdpError, Setup, address, attribute, direct, session, shown};

/// A peer's answer to [`Offer`]: the one flow that it takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The direct flow.
    Direct {
        /// Where to connect or send.
        media: SocketAddr,
        /// The peer is a sipbox.
        sipbox: bool,
    },
    /// The encrypted flow; the peer opens the QUIC connection.
    Quic(Quic),
}

impl Answer {
    /// Reads the answer to `offer`: exactly one of its m= lines accepted, with the same protocol.
    pub fn parse(sdp: &[u8], offer: &Offer) -> Result<Answer, SdpError> {
        let session = session(sdp)?;
        let (offered, answered) = (offer.lines(), session.medias.len());
        if answered != offered {
            return Err(SdpError::MediaCount { offered, answered });
        }
        let mut accepted = session.medias.iter().enumerate().filter(|(_, media)| media.port != 0);
        let (index, media) = accepted.next().ok_or(SdpError::Refused)?;
        if accepted.next().is_some() {
            return Err(SdpError::TwoFlows);
        }
        let other = || SdpError::Protocol(shown(&format!("{} {}", media.proto, media.fmt)));
        match offer.is_direct(index) {
            true if direct(media) == Some(offer.label.proto) => direct_answer(&session, media, offer),
            false if is_ice(media) => match Quic::parse(&session, media)? {
                Some((_, Setup::Passive | Setup::Holdconn, _)) => Err(SdpError::Setup("passive".into())),
                Some((quic, _, _)) => Ok(Answer::Quic(quic)),
                None => Err(foreign(media)),
            },
            _ => Err(other()),
        }
    }
}

fn direct_answer(session: &Session, media: &Media, offer: &Offer) -> Result<Answer, SdpError> {
    if offer.label.proto == crate::label::Proto::Tcp {
        let setup = attribute(session, media, "setup").map_or(Ok(Setup::Passive), Setup::parse)?;
        if setup != Setup::Passive {
            return Err(SdpError::Setup(setup.as_str().to_owned()));
        }
    }
    let sipbox = media.get_first_attribute_value("sipbox").flatten();
    let sipbox = sipbox.map_or(Ok(None), Sipbox::parse)?.is_some();
    Ok(Answer::Direct { media: SocketAddr::new(address(session, media)?, media.port), sipbox })
}
