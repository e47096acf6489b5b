//! The answer, as the caller reads it.

use std::net::SocketAddr;

use super::attribute::Sipbox;
use super::offer::Offer;
use super::{SdpError, Setup, address, attribute, direct, session, shown};
use crate::label::Proto;

/// A peer's answer to [`Offer`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Protocol of the flow, that of the offer.
    pub proto: Proto,
    /// Where to connect or send.
    pub media: SocketAddr,
    /// The peer is a sipbox.
    pub sipbox: bool,
}

impl Answer {
    /// Reads the answer to `offer`: one m= line, accepted, of the same protocol, its end passive.
    pub fn parse(sdp: &[u8], offer: &Offer) -> Result<Answer, SdpError> {
        let session = session(sdp)?;
        let [media] = session.medias.as_slice() else {
            return Err(SdpError::MediaCount { offered: 1, answered: session.medias.len() });
        };
        if media.port == 0 {
            return Err(SdpError::Refused);
        }
        let proto = direct(media).filter(|p| *p == offer.label.proto);
        let Some(proto) = proto else {
            return Err(SdpError::Protocol(shown(&format!("{} {}", media.proto, media.fmt))));
        };
        if proto == Proto::Tcp {
            let setup = attribute(&session, media, "setup").map_or(Ok(Setup::Passive), Setup::parse)?;
            if setup != Setup::Passive {
                return Err(SdpError::Setup(setup.as_str().to_owned()));
            }
        }
        let sipbox = media.get_first_attribute_value("sipbox").flatten();
        let sipbox = sipbox.map_or(Ok(None), Sipbox::parse)?.is_some();
        Ok(Answer { proto, media: SocketAddr::new(address(&session, media)?, media.port), sipbox })
    }
}
