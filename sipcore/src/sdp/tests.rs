//! The exchange of a direct flow, both ends.

use super::*;

const ORIGIN: Origin = Origin { id: 7, version: 1 };

fn offer(label: &str, source: &str, virtual_source: &str) -> Offer {
    Offer::direct(label.parse().unwrap(), source.parse().unwrap(), virtual_source.parse().unwrap())
}

fn passive(address: &str) -> End {
    End::Direct(Direct::passive(address.parse().unwrap()))
}

/// What a peer that is no sipbox says.
fn foreign(setup: Setup, address: &str) -> End {
    End::Direct(Direct { source: address.parse().unwrap(), setup, machine: None, sipbox: false })
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
    let [line] = received.lines.as_slice() else { panic!("{received:?}") };
    assert_eq!((line.label, line.proto, line.virtual_source), (Some(offer.label), Proto::Tcp, offer.virtual_source));
    assert_eq!(Some(&line.end), offer.flows.first());
    let local = passive("127.64.9.9:7000");
    let answer = received.answer(0, &local, Origin { id: 9, version: 3 }).unwrap();
    assert_eq!(
        text(&answer),
        "v=0\r\no=- 9 3 IN IP4 127.64.9.9\r\ns=-\r\nc=IN IP4 127.64.9.9\r\nt=0 0\r\n\
         m=application 7000 TCP octet-stream\r\na=setup:passive\r\na=connection:new\r\na=sipbox:1\r\n"
    );
    assert_eq!(Answer::parse(&answer, &offer).unwrap(), Answer { line: 0, end: local });
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
    assert_eq!(Some(&received.lines[0].end), offer.flows.first());
    let local = passive("[2001:db8::2]:53");
    let answer = received.answer(0, &local, ORIGIN).unwrap();
    // Nothing is said of who connects.
    assert_eq!(Answer::parse(&answer, &offer).unwrap(), Answer { line: 0, end: local });
}

/// A media relay has put its own address into a description; what it does not know, it has left.
#[test]
fn who_stands_between_is_asked() {
    let lines = |attribute: &str, media: &str| {
        let label = if media.ends_with("TCP") { "tcp/7000" } else { "udp/7000" };
        let text = format!(
            "v=0\r\no=- 1 1 IN IP4 198.51.100.10\r\ns=-\r\nc=IN IP4 198.51.100.10\r\nt=0 0\r\nm=application {media} octet-stream\r\n\
             a=sipbox:1 label=\"{label}\" source=\"192.168.1.2:5000\" virtual=\"198.18.0.1:5\"{attribute}\r\n"
        );
        let received = ReceivedOffer::parse(text.as_bytes()).unwrap();
        let End::Direct(direct) = &received.lines[0].end else { panic!("{received:?}") };
        direct.source.to_string()
    };
    assert_eq!(lines("", "31032 udp"), "198.51.100.10:31032");
    // Both ends may be on one machine.
    let machine = format!(" machine=\"{}\"", Machine::new(b"secret"));
    assert_eq!(lines(&machine, "31032 udp"), "192.168.1.2:5000");
    assert_eq!(lines("\r\na=setup:passive", "31032 TCP"), "198.51.100.10:31032");
    assert_eq!(lines("\r\na=setup:active", "9 TCP"), "192.168.1.2:5000");
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
    let [tcp, udp] = received.lines.as_slice() else { panic!("{received:?}") };
    assert_eq!((tcp.index, tcp.proto, tcp.label), (2, Proto::Tcp, None));
    assert_eq!(tcp.end, foreign(Setup::Passive, "192.0.2.10:5000"));
    assert_eq!((udp.index, udp.proto, &udp.end), (4, Proto::Udp, &foreign(Setup::Passive, "192.0.2.9:6000")));
    let local = "192.0.2.20:7";
    assert_eq!(received.answer(2, &passive(local), ORIGIN), Err(SdpError::Setup("passive".into())));
    assert_eq!(received.answer(0, &foreign(Setup::Active, local), ORIGIN), Err(SdpError::NoSuchFlow));
    let answer = text(&received.answer(2, &foreign(Setup::Active, local), ORIGIN).unwrap());
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
    let answer = |setup| received.answer(2, &foreign(setup, "192.0.2.20:7"), ORIGIN);
    for setup in [Setup::Active, Setup::Passive] {
        assert!(answer(setup).is_ok());
    }
    for setup in [Setup::Actpass, Setup::Holdconn] {
        assert!(answer(setup).is_err());
    }
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
    assert_eq!(many(media, 63).unwrap().lines.len(), 64);
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
    assert_eq!(parse(tcp), Ok(Answer { line: 0, end: foreign(Setup::Passive, "192.0.2.1:7") }));
}

fn quic(port: u16) -> Quic {
    let address = format!("192.0.2.7:{port}").parse().unwrap();
    let outside = format!("203.0.113.9:{port}").parse().unwrap();
    Quic {
        ufrag: "Yd3xAbCd".into(),
        pwd: "9f2kq0XbW3hT5uZr7aQm1c".into(),
        candidates: vec![
            is::Candidate::host(address, "udp").unwrap(),
            is::Candidate::server_reflexive(outside, address, "udp").unwrap(),
        ],
        fingerprint: Fingerprint([0x4a; 32]),
    }
}

fn of(flows: Vec<End>) -> Offer {
    Offer { label: "tcp/7000".parse().unwrap(), virtual_source: "198.18.3.4:40112".parse().unwrap(), flows }
}

fn tls(setup: Setup, listen: &[&str]) -> End {
    let listen = listen.iter().map(|address| address.parse().unwrap()).collect();
    End::Tls(Tls { listen, setup, fingerprint: Fingerprint([0x4a; 32]), sipbox: true })
}

fn everything() -> Offer {
    let direct = End::Direct(Direct::active("127.64.1.2:40112".parse().unwrap()));
    of(vec![direct, End::Quic(quic(40012)), tls(Setup::Actpass, &["192.0.2.7:40013", "[2001:db8::7]:40013"])])
}

#[test]
fn every_flow_is_a_line_and_one_is_taken() {
    let offer = everything();
    let sdp = text(&offer.to_sdp(ORIGIN));
    let line =
        "m=application 40012 UDP/DTLS/SCTP webrtc-datachannel\r\nc=IN IP4 203.0.113.9\r\na=ice-ufrag:Yd3xAbCd\r\n";
    assert!(sdp.contains("m=application 9 TCP octet-stream\r\n") && sdp.contains(line), "{sdp}");
    assert!(sdp.contains(" 192.0.2.7 40012 typ host\r\n") && !sdp.contains(" ufrag "), "{sdp}");
    let line = "m=application 40013 TCP/TLS octet-stream\r\nc=IN IP4 192.0.2.7\r\na=setup:actpass\r\na=connection:new\r\n\
                a=fingerprint:sha-256 4A:4A";
    assert!(sdp.contains(line) && sdp.contains(" listen=\"192.0.2.7:40013 [2001:db8::7]:40013\"\r\n"), "{sdp}");
    assert_eq!(sdp.matches("sha-256 4A:4A").count(), 4);
    let received = ReceivedOffer::parse(sdp.as_bytes()).unwrap();
    let ends: Vec<End> = received.lines.iter().map(|line| line.end.clone()).collect();
    assert_eq!(text(&of(ends).to_sdp(ORIGIN)), sdp);
    for (index, line) in received.lines.iter().enumerate() {
        assert_eq!((line.index, line.label, line.virtual_source), (index, Some(offer.label), offer.virtual_source));
    }

    let answer = received.answer(1, &End::Quic(quic(50000)), ORIGIN).unwrap();
    let shown = text(&answer);
    assert!(shown.contains("m=application 0 TCP octet-stream\r\nm=application 50000 UDP/DTLS/SCTP"), "{shown}");
    assert!(shown.contains("a=setup:passive\r\n") && shown.contains("a=sipbox:1 quic fp=\"sha-256 4A:"), "{shown}");
    assert!(shown.contains("m=application 0 TCP/TLS octet-stream\r\n"), "{shown}");
    let Answer { line: 1, end: End::Quic(read) } = Answer::parse(&answer, &offer).unwrap() else { panic!("{shown}") };
    let addresses = |quic: &Quic| quic.candidates.iter().map(is::Candidate::addr).collect::<Vec<_>>();
    assert_eq!(addresses(&read), addresses(&quic(50000)));

    // Who connects listens too, for a sipbox.
    for (setup, port) in [(Setup::Active, 9), (Setup::Passive, 6000)] {
        let local = tls(setup, &["192.0.2.9:6000"]);
        let answer = received.answer(2, &local, ORIGIN).unwrap();
        assert!(
            text(&answer).contains(&format!("m=application {port} TCP/TLS octet-stream\r\na=setup:{}", setup.as_str()))
        );
        let Answer { line: 2, end: End::Tls(read) } = Answer::parse(&answer, &offer).unwrap() else { panic!() };
        assert!(read.listen.contains(&"192.0.2.9:6000".parse().unwrap()) && read.setup == setup, "{read:?}");
    }
    let answer = received.answer(0, &passive("127.64.9.9:7000"), ORIGIN).unwrap();
    assert_eq!(Answer::parse(&answer, &offer), Ok(Answer { line: 0, end: passive("127.64.9.9:7000") }));
    // A line is answered by what it is.
    assert_eq!(received.answer(1, &passive("127.64.9.9:7000"), ORIGIN), Err(SdpError::NoSuchFlow));
    assert_eq!(received.answer(2, &End::Quic(quic(1)), ORIGIN), Err(SdpError::NoSuchFlow));
}

#[test]
fn an_encrypted_flow_alone() {
    let offer = Offer { label: "udp/53".parse().unwrap(), ..of(vec![End::Quic(quic(40012))]) };
    let sdp = offer.to_sdp(ORIGIN);
    let received = ReceivedOffer::parse(&sdp).unwrap();
    assert_eq!(received.lines[0].proto, Proto::Udp);
    assert_eq!(received.answer(0, &passive("192.0.2.1:7"), ORIGIN), Err(SdpError::NoSuchFlow));
    let answer = text(&received.answer(0, &End::Quic(quic(5)), ORIGIN).unwrap());
    assert!(matches!(Answer::parse(answer.as_bytes(), &offer), Ok(Answer { end: End::Quic(_), .. })));
    let standard = answer.replace("a=sipbox", "a=other");
    assert!(matches!(Answer::parse(standard.as_bytes(), &offer), Err(SdpError::Protocol(_))));
    let active = answer.replace("setup:passive", "setup:active");
    assert_eq!(Answer::parse(active.as_bytes(), &offer), Err(SdpError::Setup("active".into())));
}

#[test]
fn an_answer_takes_one_flow() {
    let offer = everything();
    let received = ReceivedOffer::parse(&offer.to_sdp(ORIGIN)).unwrap();
    let answer = text(&received.answer(1, &End::Quic(quic(50000)), ORIGIN).unwrap());
    let both = answer.replace("m=application 0 TCP ", "m=application 7 TCP ");
    assert_eq!(Answer::parse(both.as_bytes(), &offer), Err(SdpError::TwoFlows));
    let none = answer.replace("m=application 50000", "m=application 0");
    assert_eq!(Answer::parse(none.as_bytes(), &offer), Err(SdpError::Refused));
    // A downgrade: the direct flow is taken where it was not offered.
    let only = of(vec![End::Quic(quic(40012))]);
    let downgraded =
        "v=0\r\no=- 1 1 IN IP4 192.0.2.1\r\ns=-\r\nc=IN IP4 192.0.2.1\r\nt=0 0\r\nm=application 7 TCP octet-stream\r\n";
    assert!(matches!(Answer::parse(downgraded.as_bytes(), &only), Err(SdpError::Protocol(_))));
    let only = of(vec![tls(Setup::Actpass, &["192.0.2.7:40013"])]);
    assert!(matches!(Answer::parse(downgraded.as_bytes(), &only), Err(SdpError::Protocol(_))));
}

/// What a standard peer offers (RFC 8122 section 4's example has two fingerprints).
#[test]
fn tls_of_a_standard_peer() {
    let head = "v=0\r\no=- 1 1 IN IP4 192.0.2.1\r\ns=-\r\nc=IN IP4 192.0.2.1\r\nt=0 0\r\n";
    let media = "m=application 54111 TCP/TLS octet-stream\r\na=setup:passive\r\na=connection:new\r\n";
    let parse = |lines: &str| ReceivedOffer::parse(format!("{head}{media}{lines}").as_bytes());
    let ours = format!("a=fingerprint:{}\r\n", Fingerprint([0x4a; 32]));
    let other = "a=fingerprint:SHA-1 4A:AD:B9:B1:3F:82:18:3B:54:02:12:DF:3E:5D:49:6B:19:E5:7C:AB\r\n";
    for lines in [ours.clone(), format!("{other}{ours}"), format!("{ours}{other}{ours}")] {
        let received = parse(&lines).unwrap();
        let End::Tls(found) = &received.lines[0].end else { panic!("{received:?}") };
        assert_eq!((found.setup, found.sipbox, found.fingerprint), (Setup::Passive, false, Fingerprint([0x4a; 32])));
        let End::Tls(local) = tls(Setup::Active, &["192.0.2.9:9"]) else { panic!() };
        let answer = text(&received.answer(0, &End::Tls(Tls { sipbox: false, ..local }), ORIGIN).unwrap());
        assert!(answer.contains("m=application 9 TCP/TLS octet-stream\r\na=setup:active\r\n"), "{answer}");
        assert!(!answer.contains("sipbox:"), "{answer}");
    }
    let differs = ours.replace("4A:4A\r", "4A:4B\r");
    for (lines, word) in
        [(String::new(), "none"), (other.to_owned(), "sha-256"), (format!("{ours}{differs}"), "differ")]
    {
        let Err(SdpError::Fingerprint(why)) = parse(&lines) else { panic!("{lines}") };
        assert!(why.contains(word), "{why}");
    }
    let said = format!("{ours}a=sipbox:1 label=\"tcp/7\" fp=\"{}\"\r\n", Fingerprint([0x4b; 32]));
    assert!(matches!(parse(&said), Err(SdpError::Fingerprint(why)) if why.contains("somebody on the way")));
}

#[test]
fn fingerprints_are_compared() {
    let offer = of(vec![End::Quic(quic(40012))]);
    let sdp = text(&offer.to_sdp(ORIGIN));
    let direct = "m=application 9 TCP octet-stream\r\n";
    let parse = |sdp: &str| ReceivedOffer::parse(format!("{sdp}{direct}").as_bytes());
    let stripped: String = sdp.split_inclusive('\n').filter(|l| !l.starts_with("a=fingerprint")).collect();
    assert!(matches!(parse(&stripped).unwrap().lines[0].end, End::Quic(_)));
    let changed = sdp.replace("a=fingerprint:sha-256 4A", "a=fingerprint:sha-256 4B");
    assert!(matches!(parse(&changed), Err(SdpError::Fingerprint(_))));
    let other = sdp.replace("fp=\"sha-256 4A", "fp=\"sha-256 5A");
    assert!(matches!(parse(&other), Err(SdpError::Fingerprint(_))));
    let missing: String = sdp.replace(" fp=\"", " pf=\"");
    assert!(matches!(parse(&missing), Err(SdpError::Fingerprint(_))));
    for bad in ["sha-1 4A:4A", "sha-256", "sha-256 4A:4A", &format!("sha-256 {}", "4A:".repeat(33))] {
        assert!(bad.parse::<Fingerprint>().is_err(), "{bad}");
    }
    let round: Fingerprint = Fingerprint([0xf0; 32]).to_string().parse().unwrap();
    assert_eq!(round, Fingerprint([0xf0; 32]));
}

#[test]
fn ice_attributes_that_are_none() {
    let offer = of(vec![End::Quic(quic(40012))]);
    let sdp = text(&offer.to_sdp(ORIGIN));
    let parse = |sdp: &str| ReceivedOffer::parse(sdp.as_bytes());
    assert_eq!(parse(&sdp.replace("a=ice-ufrag:Yd3xAbCd", "a=ice-ufrag:Y")), Err(SdpError::Ice("ice-ufrag")));
    assert_eq!(parse(&sdp.replace("a=ice-pwd", "a=pwd")), Err(SdpError::Ice("ice-pwd")));
    assert_eq!(parse(&sdp.replace("setup:actpass", "setup:active")), Err(SdpError::Setup("active".into())));
    // Names, TCP and nonsense are passed over, and of a thousand candidates the first few are taken.
    let line = "a=candidate:9 1 udp 5 192.0.2.8 7 typ host\r\n";
    let more = "a=candidate:1 1 udp 5 host.local 7 typ host\r\na=candidate:2 1 tcp 5 192.0.2.1 7 typ host tcptype active\r\n\
                a=candidate:3 1 udp 5 0.0.0.0 7 typ host\r\na=candidate:x\r\na=candidate:4 1 udp 5 192.0.2.1 0 typ host\r\n";
    let found = |sdp: String| match &parse(&sdp).unwrap().lines[0].end {
        End::Quic(found) => found.candidates.len(),
        other => panic!("{other:?}"),
    };
    assert_eq!(found(format!("{sdp}{more}{line}")), 3);
    assert_eq!(found(format!("{sdp}{}", line.repeat(900))), MAX_CANDIDATES);
}
