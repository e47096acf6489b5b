//! The exchange of a direct flow, both ends.

use super::*;

const ORIGIN: Origin = Origin { id: 7, version: 1 };

fn offer(label: &str, source: &str, virtual_source: &str) -> Offer {
    Offer {
        label: label.parse().unwrap(),
        source: source.parse().unwrap(),
        virtual_source: virtual_source.parse().unwrap(),
    }
}

fn text(sdp: &[u8]) -> String {
    String::from_utf8(sdp.to_vec()).unwrap()
}

#[test]
fn a_stream() {
    let offer = offer("tcp/7000", "127.64.1.2:40112", "198.18.3.4:40112");
    let sdp = offer.to_sdp(ORIGIN);
    assert_eq!(
        text(&sdp),
        "v=0\r\no=- 7 1 IN IP4 127.64.1.2\r\ns=-\r\nc=IN IP4 127.64.1.2\r\nt=0 0\r\n\
         m=application 9 TCP octet-stream\r\na=setup:active\r\na=connection:new\r\n\
         a=sipbox:1 label=\"tcp/7000\" source=\"127.64.1.2:40112\" virtual=\"198.18.3.4:40112\"\r\n"
    );
    let received = ReceivedOffer::parse(&sdp).unwrap();
    let [flow] = received.flows.as_slice() else { panic!("{received:?}") };
    assert_eq!((flow.label(), flow.setup, flow.proto), (Some(offer.label), Setup::Active, Proto::Tcp));
    assert_eq!(flow.sipbox.unwrap().virtual_source, Some(offer.virtual_source));
    let local = "127.64.9.9:7000".parse().unwrap();
    let answer = received.answer(0, local, ReceivedOffer::default_setup(flow), Origin { id: 9, version: 3 }).unwrap();
    assert_eq!(
        text(&answer),
        "v=0\r\no=- 9 3 IN IP4 127.64.9.9\r\ns=-\r\nc=IN IP4 127.64.9.9\r\nt=0 0\r\n\
         m=application 7000 TCP octet-stream\r\na=setup:passive\r\na=connection:new\r\na=sipbox:1\r\n"
    );
    assert_eq!(Answer::parse(&answer, &offer).unwrap(), Answer { proto: Proto::Tcp, media: local, sipbox: true });
}

#[test]
fn datagrams_over_ipv6() {
    let offer = offer("udp/53", "[2001:db8::1]:40112", "[fd00::1]:9");
    let sdp = offer.to_sdp(ORIGIN);
    assert!(
        text(&sdp).contains("c=IN IP6 2001:db8::1\r\n")
            && text(&sdp).contains("m=application 40112 udp octet-stream\r\n")
    );
    assert!(!text(&sdp).contains("setup"));
    let received = ReceivedOffer::parse(&sdp).unwrap();
    assert_eq!(received.flows.first().unwrap().address, offer.source);
    let local = "[2001:db8::2]:53".parse().unwrap();
    let answer = received.answer(0, local, Setup::Passive, ORIGIN).unwrap();
    assert_eq!(Answer::parse(&answer, &offer).unwrap().media, local);
}

/// Another peer's offer: several m= lines, unknown lines and attributes, media-level c=, no sipbox.
const FOREIGN: &str = "v=0\r\no=alice 1 1 IN IP4 host.example.com\r\ns= \r\nx=what\r\nc=IN IP4 192.0.2.9\r\nt=0 0\r\n\
    a=setup:passive\r\n\
    m=audio 4000 RTP/AVP 0 8\r\na=rtpmap:0 PCMU/8000\r\n\
    m=application 0 TCP octet-stream\r\n\
    m=application 5000 TCP octet-stream\r\nc=IN IP4 192.0.2.10\r\na=unknown:x\r\n\
    m=application 40012 UDP/DTLS/SCTP webrtc-datachannel\r\n\
    m=application 6000 udp octet-stream\r\n";

#[test]
fn one_of_many_is_accepted_and_the_others_refused() {
    let received = ReceivedOffer::parse(FOREIGN.as_bytes()).unwrap();
    let [tcp, udp] = received.flows.as_slice() else { panic!("{received:?}") };
    assert_eq!((tcp.index, tcp.setup, tcp.label()), (2, Setup::Passive, None));
    assert_eq!(tcp.address, "192.0.2.10:5000".parse().unwrap());
    assert_eq!((udp.index, udp.address), (4, "192.0.2.9:6000".parse().unwrap()));
    let local = "192.0.2.20:7".parse().unwrap();
    assert_eq!(received.answer(2, local, Setup::Passive, ORIGIN), Err(SdpError::Setup("passive".into())));
    assert_eq!(received.answer(0, local, Setup::Active, ORIGIN), Err(SdpError::NoSuchFlow));
    let answer = text(&received.answer(2, local, Setup::Active, ORIGIN).unwrap());
    let media: Vec<_> = answer.lines().filter(|l| l.starts_with("m=")).collect();
    assert_eq!(
        media,
        [
            "m=audio 0 RTP/AVP 0 8",
            "m=application 0 TCP octet-stream",
            "m=application 9 TCP octet-stream",
            "m=application 0 UDP/DTLS/SCTP webrtc-datachannel",
            "m=application 0 udp octet-stream",
        ]
    );
    assert!(answer.contains("a=setup:active") && !answer.contains("sipbox"));
}

#[test]
fn actpass_may_be_answered_either_way() {
    let sdp = FOREIGN.replace("passive", "actpass");
    let received = ReceivedOffer::parse(sdp.as_bytes()).unwrap();
    let local = "192.0.2.20:7".parse().unwrap();
    for setup in [Setup::Active, Setup::Passive, Setup::Holdconn] {
        assert!(received.answer(2, local, setup, ORIGIN).is_ok());
    }
    assert!(received.answer(2, local, Setup::Actpass, ORIGIN).is_err());
}

#[test]
fn offers_that_cannot_be_taken() {
    let parse = |sdp: &str| ReceivedOffer::parse(sdp.as_bytes()).unwrap_err();
    let head = "v=0\r\no=- 1 1 IN IP4 192.0.2.1\r\ns=-\r\nt=0 0\r\n";
    assert!(matches!(parse(""), SdpError::Syntax(_)));
    assert!(matches!(parse(&format!("{head}m=application x TCP octet-stream\r\n")), SdpError::Syntax(_)));
    assert_eq!(parse(head), SdpError::NoFlow("no m= line".into()));
    assert!(matches!(parse(&format!("{head}m=audio 1 RTP/AVP 0\r\n")), SdpError::NoFlow(_)));
    let tcp = format!("{head}m=application 9 TCP octet-stream\r\n");
    assert_eq!(parse(&tcp), SdpError::Address("".into()));
    for bad in ["0.0.0.0", "224.2.1.1/127", "host.example.com", "::"] {
        assert_eq!(parse(&format!("{tcp}c=IN IP4 {bad}\r\n")), SdpError::Address(bad.into()));
    }
    assert_eq!(parse(&format!("{tcp}c=IN IP4 192.0.2.1\r\na=setup:maybe\r\n")), SdpError::Setup("maybe".into()));
    let wrong = "a=sipbox:1 label=\"udp/53\"\r\n";
    assert!(matches!(parse(&format!("{tcp}c=IN IP4 192.0.2.1\r\n{wrong}")), SdpError::Sipbox(_)));
}

#[test]
fn a_flood_of_lines_is_refused() {
    let head = "v=0\r\no=- 1 1 IN IP4 192.0.2.1\r\ns=-\r\nc=IN IP4 192.0.2.1\r\nt=0 0\r\n";
    let media = "m=application 9 TCP octet-stream\r\n";
    let many = |line: &str, n: usize| ReceivedOffer::parse(format!("{head}{media}{}", line.repeat(n)).as_bytes());
    assert!(matches!(many(media, 1000), Err(SdpError::TooLarge(_))));
    assert!(matches!(many("a=candidate:1 1 UDP 1 192.0.2.1 1 typ host\r\n", 2000), Err(SdpError::TooLarge(_))));
    assert!(matches!(many(&"a".repeat(70_000), 1), Err(SdpError::TooLarge(_))));
    assert!(many("a=candidate:1 1 UDP 1 192.0.2.1 1 typ host\r\n", 900).is_ok());
    assert_eq!(many(media, 63).unwrap().flows.len(), 64);
}

#[test]
fn answers_that_do_not_fit() {
    let offer = offer("tcp/7000", "127.64.1.2:40112", "198.18.3.4:40112");
    let head = "v=0\r\no=- 1 1 IN IP4 192.0.2.1\r\ns=-\r\nc=IN IP4 192.0.2.1\r\nt=0 0\r\n";
    let parse = |media: &str| Answer::parse(format!("{head}{media}").as_bytes(), &offer);
    assert_eq!(parse("m=application 0 TCP octet-stream\r\n"), Err(SdpError::Refused));
    assert_eq!(parse(""), Err(SdpError::MediaCount { offered: 1, answered: 0 }));
    assert_eq!(parse("m=application 7 udp octet-stream\r\n"), Err(SdpError::Protocol("udp octet-stream".into())));
    let tcp = "m=application 7 TCP octet-stream\r\n";
    assert_eq!(parse(&format!("{tcp}a=setup:active\r\n")), Err(SdpError::Setup("active".into())));
    assert_eq!(parse(&format!("{tcp}{tcp}")), Err(SdpError::MediaCount { offered: 1, answered: 2 }));
    let plain = parse(tcp).unwrap();
    assert_eq!((plain.media, plain.sipbox), ("192.0.2.1:7".parse().unwrap(), false));
}
