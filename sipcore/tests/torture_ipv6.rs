//! The messages of RFC 5118, section by section: what it says of each, and what sipbox makes of it; then at a hub on the wire. Their
//! Content-Length is counted here: what the RFC prints does not fit its own bodies.
#![allow(clippy::unwrap_used)]

mod common;

use bytes::Bytes;
use common::{hub_on, soon};
use sipcore::message::{Frame, Limits, Message, StreamParser, validate};
use std::net::{IpAddr, Ipv6Addr};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};

/// Section, start line, headers between it and the body, body, status owed (`None`: well-formed), and what to look at.
struct Case {
    section: &'static str,
    start: &'static str,
    headers: &'static str,
    body: &'static str,
    owed: Option<u16>,
    look: fn(&Message),
}

const REGISTER: &str = "To: sip:user@example.com\nFrom: sip:user@example.com;tag=81x2\n\
    Via: SIP/2.0/UDP [2001:db8::9:1];branch=z9hG4bKas3-111\nCall-ID: SSG9559905523997077@hlau_4100\nMax-Forwards: 70\n\
    Contact: \"Caller\" <sip:caller@[2001:db8::1]>\nCSeq: 98176 REGISTER\n";
const INVITE: &str = "To: sip:user@[2001:db8::10]\nFrom: sip:user@example.com;tag=81x2\n\
    Via: SIP/2.0/UDP [2001:db8::20];branch=z9hG4bKas3-111\nCall-ID: SSG9559905523997077@hlau_4100\n\
    Contact: \"Caller\" <sip:caller@[2001:db8::20]>\nCSeq: 8612 INVITE\nMax-Forwards: 70\nContent-Type: application/sdp\n";

fn ip(text: &str) -> Option<IpAddr> {
    Some(text.parse().unwrap())
}

fn target(message: &Message) -> (Option<IpAddr>, Option<u16>) {
    let uri = message.request_uri().unwrap();
    (uri.host_ip(), uri.port())
}

const CASES: &[Case] = &[
    Case {
        section: "4.1 valid SIP message with an IPv6 reference",
        start: "REGISTER sip:[2001:db8::10] SIP/2.0",
        headers: REGISTER,
        body: "",
        owed: None,
        look: |message| {
            assert_eq!(target(message), (ip("2001:db8::10"), None));
            assert_eq!(message.via().unwrap().host_ip(), ip("2001:db8::9:1"));
            let contact = message.contacts().next().unwrap().unwrap().uri().unwrap();
            assert_eq!(contact.host_ip(), ip("2001:db8::1"));
        },
    },
    Case {
        section: "4.2 invalid SIP message with an IPv6 reference: no brackets",
        start: "REGISTER sip:2001:db8::10 SIP/2.0",
        headers: REGISTER,
        body: "",
        owed: Some(400),
        look: |message| assert!(message.request_uri().is_err()),
    },
    Case {
        section: "4.3 port ambiguous in a SIP URI: it belongs to the address",
        start: "REGISTER sip:[2001:db8::10:5070] SIP/2.0",
        headers: REGISTER,
        body: "",
        owed: None,
        look: |message| assert_eq!(target(message), (ip("2001:db8::10:5070"), None)),
    },
    Case {
        section: "4.4 port unambiguous in a SIP URI",
        start: "REGISTER sip:[2001:db8::10]:5070 SIP/2.0",
        headers: REGISTER,
        body: "",
        owed: None,
        look: |message| assert_eq!(target(message), (ip("2001:db8::10"), Some(5070))),
    },
    Case {
        section: "4.5 IPv6 reference delimiters in Via: received with brackets",
        start: "BYE sip:[2001:db8::10] SIP/2.0",
        headers: "To: sip:user@example.com;tag=bd76ya\nFrom: sip:user@example.com;tag=81x2\n\
            Via: SIP/2.0/UDP [2001:db8::9:1];received=[2001:db8::9:255];branch=z9hG4bKas3-111\n\
            Call-ID: SSG9559905523997077@hlau_4100\nMax-Forwards: 70\nCSeq: 321 BYE\n",
        body: "",
        owed: None,
        look: |message| assert_eq!(message.via().unwrap().received(), ip("2001:db8::9:255")),
    },
    Case {
        section: "4.5 IPv6 reference delimiters in Via: received without brackets",
        start: "OPTIONS sip:[2001:db8::10] SIP/2.0",
        headers: "To: sip:user@example.com\nFrom: sip:user@example.com;tag=81x2\n\
            Via: SIP/2.0/UDP [2001:db8::9:1];received=2001:db8::9:255;branch=z9hG4bKas3\n\
            Call-ID: SSG95523997077@hlau_4100\nMax-Forwards: 70\nContact: \"Caller\" <sip:caller@[2001:db8::9:1]>\nCSeq: 921 OPTIONS\n",
        body: "",
        owed: None,
        look: |message| assert_eq!(message.via().unwrap().received(), ip("2001:db8::9:255")),
    },
    Case {
        section: "4.6 SIP request with IPv6 addresses in its session description",
        start: "INVITE sip:user@[2001:db8::10] SIP/2.0",
        headers: INVITE,
        body: "v=0\no=assistant 971731711378798081 0 IN IP6 2001:db8::20\ns=Live video feed for today's meeting\nc=IN IP6 2001:db8::20\n\
            t=3338481189 3370017201\nm=audio 6000 RTP/AVP 2\na=rtpmap:2 G726-32/8000\nm=video 6024 RTP/AVP 107\na=rtpmap:107 H263-1998/90000\n",
        owed: None,
        look: |message| {
            assert_eq!(target(message), (ip("2001:db8::10"), None));
            assert!(message.body().ends_with(b"H263-1998/90000\r\n"));
        },
    },
    Case {
        section: "4.7 multiple IP addresses in SIP headers",
        start: "BYE sip:user@host.example.net SIP/2.0",
        headers: "Via: SIP/2.0/UDP [2001:db8::9:1]:6050;branch=z9hG4bKas3-111\nVia: SIP/2.0/UDP 192.0.2.1;branch=z9hG4bKjhja8781hjuaij65144\n\
            Via: SIP/2.0/TCP [2001:db8::9:255];branch=z9hG4bK451jj;received=192.0.2.200\nCall-ID: 997077@lau_4100\nMax-Forwards: 70\n\
            CSeq: 89187 BYE\nTo: sip:user@example.net;tag=9817--94\nFrom: sip:user@example.com;tag=81x2\n",
        body: "",
        owed: None,
        look: |message| {
            let vias: Vec<_> = message.vias().map(Result::unwrap).collect();
            let hosts: Vec<_> = vias.iter().map(|via| (via.host_ip(), via.port, via.received())).collect();
            assert_eq!(
                hosts,
                [
                    (ip("2001:db8::9:1"), Some(6050), None),
                    (ip("192.0.2.1"), None, None),
                    (ip("2001:db8::9:255"), None, ip("192.0.2.200")),
                ]
            );
        },
    },
    Case {
        section: "4.8 multiple IP addresses in SDP",
        start: "INVITE sip:user@[2001:db8::10] SIP/2.0",
        headers: "To: sip:user@[2001:db8::10]\nFrom: sip:user@example.com;tag=81x2\n\
            Via: SIP/2.0/UDP [2001:db8::9:1];branch=z9hG4bKas3-111\nCall-ID: SSG9559905523997077@hlau_4100\n\
            Contact: \"Caller\" <sip:caller@[2001:db8::9:1]>\nMax-Forwards: 70\nCSeq: 8912 INVITE\nContent-Type: application/sdp\n",
        body: "v=0\no=bob 280744730 28977631 IN IP4 host.example.com\ns=\nt=0 0\nm=audio 22334 RTP/AVP 0\nc=IN IP4 192.0.2.1\n\
            m=video 6024 RTP/AVP 107\nc=IN IP6 2001:db8::1\na=rtpmap:107 H263-1998/90000\n",
        owed: None,
        look: |message| assert_eq!(message.content_type().unwrap().unwrap().subtype, "sdp"),
    },
    Case {
        section: "4.9 IPv4-mapped IPv6 addresses",
        start: "INVITE sip:user@example.com SIP/2.0",
        headers: "To: sip:user@example.com\nFrom: sip:user@east.example.com;tag=81x2\n\
            Via: SIP/2.0/UDP [::ffff:192.0.2.10]:19823;branch=z9hG4bKbh19\nVia: SIP/2.0/UDP [::ffff:192.0.2.2];branch=z9hG4bKas3-111\n\
            Call-ID: SSG9559905523997077@hlau_4100\nContact: \"T. desk phone\" <sip:ted@[::ffff:192.0.2.2]>\nCSeq: 612 INVITE\nMax-Forwards: 70\n\
            Content-Type: application/sdp\n",
        body: "v=0\no=assistant 971731711378798081 0 IN IP6 ::ffff:192.0.2.2\ns=Call me soon, please!\nc=IN IP6 ::ffff:192.0.2.2\n\
            t=3338481189 3370017201\nm=audio 6000 RTP/AVP 2\na=rtpmap:2 G726-32/8000\nm=video 6024 RTP/AVP 107\na=rtpmap:107 H263-1998/90000\n",
        owed: None,
        look: |message| {
            let via = message.via().unwrap();
            assert_eq!((via.host_ip(), via.port), (ip("::ffff:192.0.2.10"), Some(19823)));
        },
    },
    Case {
        section: "4.10 IPv6 reference bug in RFC 3261 ABNF: a colon too many before an IPv4 address",
        start: "OPTIONS sip:user@[2001:db8:::192.0.2.1] SIP/2.0",
        headers: "To: sip:user@[2001:db8:::192.0.2.1]\nFrom: sip:user@example.com;tag=810x2\n\
            Via: SIP/2.0/UDP lab1.east.example.com;branch=z9hG4bKas3-111\nCall-ID: G9559905523997077@hlau_4100\nCSeq: 689 OPTIONS\nMax-Forwards: 70\n",
        body: "",
        owed: None,
        look: |message| assert_eq!(target(message), (ip("2001:db8::192.0.2.1"), None)),
    },
    Case {
        section: "4.10 the same without it",
        start: "OPTIONS sip:user@[2001:db8::192.0.2.1] SIP/2.0",
        headers: "To: sip:user@[2001:db8::192.0.2.1]\nFrom: sip:user@example.com;tag=810x2\n\
            Via: SIP/2.0/UDP lab1.east.example.com;branch=z9hG4bKas3-111\nCall-ID: G9559905523997077@hlau_4100\nCSeq: 689 OPTIONS\nMax-Forwards: 70\n",
        body: "",
        owed: None,
        look: |message| assert_eq!(target(message), (ip("2001:db8::192.0.2.1"), None)),
    },
];

impl Case {
    fn bytes(&self, via: &str) -> Bytes {
        let body = self.body.replace('\n', "\r\n");
        let headers = self.headers.replace('\n', "\r\n").replacen("SIP/2.0/UDP", via, 1);
        format!("{}\r\n{headers}Content-Length: {}\r\n\r\n{body}", self.start, body.len()).into()
    }
}

#[test]
fn every_message_is_read_as_the_rfc_says() {
    for case in CASES {
        let message = Message::parse_datagram(case.bytes("SIP/2.0/UDP")).unwrap();
        assert_eq!(validate(&message).err().map(|fault| fault.status), case.owed, "{}", case.section);
        (case.look)(&message);
        assert_eq!(message.to_bytes(), case.bytes("SIP/2.0/UDP"), "{}", case.section);
        let mut stream = StreamParser::new(Limits::default());
        for byte in &case.bytes("SIP/2.0/UDP") {
            stream.push(&[*byte]);
        }
        let Some(Ok(Frame::Message(message))) = stream.pull() else { panic!("{}", case.section) };
        (case.look)(&message);
    }
}

/// A hub on IPv6 answers each by TCP, with 400 where that is owed, and outlives all of them by UDP.
#[tokio::test]
async fn at_a_hub() {
    let hub = hub_on(Ipv6Addr::LOCALHOST.into()).await;
    let at = hub.addresses()[0];
    for case in CASES {
        let mut stream = TcpStream::connect(at).await.unwrap();
        stream.write_all(&case.bytes("SIP/2.0/TCP")).await.unwrap();
        let mut buffer = vec![0; 4096];
        let n = soon(case.section, stream.read(&mut buffer)).await.unwrap();
        let status: u16 = String::from_utf8_lossy(&buffer[..n]).split(' ').nth(1).unwrap().parse().unwrap();
        assert_eq!(status == 400, case.owed == Some(400), "{}: {status}", case.section);
    }
    let socket = UdpSocket::bind((Ipv6Addr::LOCALHOST, 0)).await.unwrap();
    for case in CASES {
        socket.send_to(&case.bytes("SIP/2.0/UDP"), at).await.unwrap();
    }
    let from = socket.local_addr().unwrap();
    let alive = format!(
        "OPTIONS sip:{at} SIP/2.0\r\nVia: SIP/2.0/UDP {from};branch=z9hG4bKalive;rport\r\nMax-Forwards: 70\r\nFrom: <sip:a@a>;tag=1\r\n\
         To: <sip:{at}>\r\nCall-ID: alive\r\nCSeq: 1 OPTIONS\r\nContent-Length: 0\r\n\r\n"
    );
    socket.send_to(alive.as_bytes(), at).await.unwrap();
    let mut buffer = vec![0; 4096];
    loop {
        let n = soon("an answer", socket.recv(&mut buffer)).await.unwrap();
        let answer = String::from_utf8_lossy(&buffer[..n]).into_owned();
        if answer.contains("Call-ID: alive") {
            break assert!(answer.starts_with("SIP/2.0 200 OK"), "{answer}");
        }
    }
}
