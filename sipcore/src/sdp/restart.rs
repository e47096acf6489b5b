//! A description of a session that stands, with other ICE credentials: the offer and the answer of a restart (RFC 8839 section 4.4.1.1.1).

use sdp_types::{Attribute, Media, Session};

use super::attribute::named;
use super::quic::{MAX_CANDIDATES, Quic};
use super::{End, Place, SdpError, Setup, session, shown, write};

/// Attributes that a restart writes anew.
const OF_ICE: [&str; 3] = ["ice-ufrag", "ice-pwd", "candidate"];

/// What stays of a session whose flow runs over ICE.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Agreed {
    /// The place of its m= line.
    line: usize,
    /// The other end as it was described last.
    remote: Quic,
    /// Whether this end opens the connection in the flow.
    active: bool,
}

impl Agreed {
    /// Of the two descriptions that were exchanged. `None`: the flow does not run over ICE.
    pub fn of(local: &[u8], remote: &[u8]) -> Option<Agreed> {
        let has_ice = |sdp: &[u8]| sdp.windows(OF_ICE[0].len()).any(|word| word == OF_ICE[0].as_bytes());
        if !has_ice(local) || !has_ice(remote) {
            return None;
        }
        let (local, remote) = (session(local).ok()?, session(remote).ok()?);
        // One line is accepted: the other side of the exchange has refused all others.
        let line = local.medias.iter().zip(&remote.medias).position(|(one, other)| one.port != 0 && other.port != 0)?;
        let (quic, setup) = read(&remote, remote.medias.get(line)?).ok()??;
        let own = local.medias.get(line)?.get_first_attribute_value("setup").flatten().map(Setup::parse)?.ok()?;
        let active = own == Setup::Active || (own == Setup::Actpass && setup == Some(Setup::Passive));
        Some(Agreed { line, remote: quic, active })
    }

    /// What the other end describes anew. The error is owed 488; `Ok(None)`: its ICE goes on as it was.
    pub fn read(&self, sdp: &[u8]) -> Result<Option<Quic>, SdpError> {
        let session = session(sdp)?;
        let others = session.medias.iter().enumerate().any(|(n, media)| n != self.line && media.port != 0);
        let media = session.medias.get(self.line).filter(|media| media.port != 0).ok_or(SdpError::Refused)?;
        if others {
            return Err(SdpError::TwoFlows);
        }
        let Some((quic, _)) = read(&session, media)? else {
            return Err(SdpError::Protocol(shown(&media.proto)));
        };
        if quic.fingerprint != self.remote.fingerprint {
            return Err(SdpError::Fingerprint("it is another than the session was set up with"));
        }
        // Both change, or none (RFC 8839 section 4.4.1.1.1).
        let restarts = quic.ufrag != self.remote.ufrag || quic.pwd != self.remote.pwd;
        Ok(restarts.then_some(quic))
    }

    /// From now on the other end is described so.
    pub fn settle(&mut self, remote: Quic) {
        self.remote = remote;
    }

    /// The description `last` of this end with the credentials and candidates of `local`, one version later.
    pub fn write(&self, last: &[u8], local: &Quic, is_offer: bool) -> Result<Vec<u8>, SdpError> {
        let mut session: Session = session(last)?;
        session.origin.sess_version += 1;
        for (_, media) in session.medias.iter_mut().enumerate().filter(|(n, _)| *n != self.line) {
            // What was refused stays so (RFC 3264 section 8).
            media.port = 0;
            media.attributes.clear();
        }
        let media = session.medias.get_mut(self.line).ok_or(SdpError::NoSuchFlow)?;
        let default = local.default_address();
        media.port = default.port();
        media.connections = vec![sdp_types::Connection::from_ip_addr(default.ip())];
        media.attributes.retain(|a| !OF_ICE.contains(&a.attribute.as_str()));
        let candidates = local.candidates.iter().take(MAX_CANDIDATES).map(super::quic::candidate);
        let credentials = [named("ice-ufrag", &local.ufrag), named("ice-pwd", &local.pwd)];
        media.attributes.splice(0..0, credentials.into_iter().chain(candidates));
        // Who opens connections is settled; an offer leaves it open all the same (RFC 8842 section 5.5).
        let setup = match (is_offer, self.active) {
            (true, _) => Setup::Actpass,
            (false, true) => Setup::Active,
            (false, false) => Setup::Passive,
        };
        for said in media.attributes.iter_mut().filter(|a| a.attribute == "setup") {
            *said = Attribute { attribute: "setup".to_owned(), value: Some(setup.as_str().to_owned()) };
        }
        Ok(write(&session))
    }
}

/// What runs over ICE in an m= line. Who opens connections was settled when the session was: what is said of it means nothing here.
fn read(session: &Session, media: &Media) -> Result<Option<(Quic, Option<Setup>)>, SdpError> {
    let mut media = media.clone();
    let setup = media.get_first_attribute_value("setup").flatten().map(Setup::parse).transpose()?;
    media.attributes.retain(|a| a.attribute != "setup");
    Ok(match End::parse(session, &media, Place::Offer)?.map(|read| read.end) {
        Some(End::Quic(quic)) => Some((quic, setup)),
        Some(End::Channels(channels)) => Some((channels.ice, setup)),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sdp::{Answer, Direct, Fingerprint, Offer, Origin, ReceivedOffer};

    fn quic(ufrag: &str, port: u16) -> Quic {
        let host = format!("192.0.2.{}:{port}", port % 250).parse().unwrap();
        Quic {
            ufrag: ufrag.to_owned(),
            pwd: "0123456789012345678901".to_owned(),
            candidates: vec![is::Candidate::host(host, "udp").unwrap()],
            fingerprint: Fingerprint([port as u8 & 1; 32]),
        }
    }

    fn offer(direct: bool) -> Offer {
        Offer {
            label: "tcp/7000".parse().unwrap(),
            virtual_source: "198.18.0.9:40000".parse().unwrap(),
            flows: direct
                .then(|| End::Direct(Direct::active("127.64.0.1:40000".parse().unwrap())))
                .into_iter()
                .chain([End::Quic(quic("first", 40_000))])
                .collect(),
        }
    }

    #[test]
    fn either_end_restarts() {
        for direct in [true, false] {
            let offer = offer(direct);
            let offered = offer.to_sdp(Origin { id: 7, version: 1 });
            let received = ReceivedOffer::parse(&offered).unwrap();
            let answered = received
                .answer(usize::from(direct), &End::Quic(quic("other", 40_001)), Origin { id: 9, version: 1 })
                .unwrap();
            assert!(matches!(Answer::parse(&answered, &offer), Ok(Answer { end: End::Quic(_), .. })));
            let mut caller = Agreed::of(&offered, &answered).unwrap();
            let mut called = Agreed::of(&answered, &offered).unwrap();
            assert!(caller.active && !called.active);
            assert_eq!(caller.read(&answered), Ok(None), "the same again is no restart");

            let fresh = quic("fresh", 40_010);
            let again = caller.write(&offered, &fresh, true).unwrap();
            let read = called.read(&again).unwrap().unwrap();
            let addresses = |quic: &Quic| quic.candidates.iter().map(is::Candidate::addr).collect::<Vec<_>>();
            assert_eq!((&read.ufrag, addresses(&read)), (&fresh.ufrag, addresses(&fresh)));
            let text = String::from_utf8(again.clone()).unwrap();
            assert!(
                text.contains("o=- 7 2 ") && text.contains("a=setup:actpass") && text.contains("label=\"tcp/7000\"")
            );
            assert_eq!(text.matches("\r\nm=").count(), 1 + usize::from(direct));
            assert_eq!(text.contains("m=application 0 TCP "), direct, "{text}");
            called.settle(read);
            let back = called.write(&answered, &quic("moved", 40_011), false).unwrap();
            assert!(String::from_utf8_lossy(&back).contains("a=setup:passive"));
            caller.settle(caller.read(&back).unwrap().unwrap());

            // And now the called end.
            let offered = called.write(&back, &quic("third", 40_013), true).unwrap();
            assert_eq!(caller.read(&offered).unwrap().unwrap().ufrag, "third");
            let answer = caller.write(&again, &quic("fourth", 40_014), false).unwrap();
            assert!(String::from_utf8_lossy(&answer).contains("a=setup:active"));
            assert_eq!(called.read(&answer).unwrap().unwrap().ufrag, "fourth");
        }
    }

    /// The first ones are read, in bounded time and memory; a description of more lines than anybody needs is refused.
    #[test]
    fn a_thousand_candidates() {
        let offered = offer(false).to_sdp(Origin { id: 7, version: 1 });
        let text = String::from_utf8(offered).unwrap();
        let with = |count: u32| {
            let line =
                |n: u32| format!("a=candidate:{n} 1 udp {n} 198.51.{}.{} 4000 typ host\r\n", n / 250, n % 250 + 1);
            text.clone() + &(1..=count).map(line).collect::<String>()
        };
        let received = ReceivedOffer::parse(with(1000).as_bytes()).unwrap();
        let Some(End::Quic(quic)) = received.line(0).map(|line| &line.end) else { panic!("no flow") };
        assert_eq!(quic.candidates.len(), MAX_CANDIDATES);
        assert!(matches!(ReceivedOffer::parse(with(2000).as_bytes()), Err(SdpError::TooLarge(_))));
    }

    #[test]
    fn what_is_no_restart() {
        let offer = offer(true);
        let offered = offer.to_sdp(Origin { id: 7, version: 1 });
        let received = ReceivedOffer::parse(&offered).unwrap();
        let answered = received.answer(1, &End::Quic(quic("other", 40_001)), Origin { id: 9, version: 1 }).unwrap();
        let caller = Agreed::of(&offered, &answered).unwrap();
        let mut stranger = quic("fresh", 40_001);
        stranger.fingerprint = Fingerprint([9; 32]);
        let other_key = received.answer(1, &End::Quic(stranger), Origin { id: 9, version: 2 }).unwrap();
        assert!(matches!(caller.read(&other_key), Err(SdpError::Fingerprint(_))));
        assert_eq!(caller.read(&offered), Err(SdpError::TwoFlows), "the direct flow was refused");
        let held = String::from_utf8(answered).unwrap().replace("m=application 40001", "m=application 0");
        assert_eq!(caller.read(held.as_bytes()), Err(SdpError::Refused));
        let direct = Offer { flows: offer.flows[..1].to_vec(), ..offer };
        let sdp = direct.to_sdp(Origin { id: 1, version: 1 });
        assert_eq!(Agreed::of(&sdp, &sdp), None);
    }
}
