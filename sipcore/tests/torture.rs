//! Every message of RFC 4475, one by one: what its section says, and what sipbox makes of it.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::path::PathBuf;

use bytes::Bytes;
use sipcore::message::{Fault, Frame, Limits, Message, Method, ParseError, Scheme, StreamParser, Uri, name, validate};
use sipcore::sdp::{ReceivedOffer, SdpError};

/// What is owed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Owed {
    /// Well-formed: goes on to the user agent or proxy, which may have its own answer.
    Passed,
    /// A request answered with this status.
    Status(u16),
    /// A response that is dropped after parsing.
    Dropped,
    /// Bytes that are no message.
    Refused(ParseError),
}

use Owed::{Dropped, Passed, Refused, Status};

/// File, section, owed, and what to look at.
type Case = (&'static str, &'static str, Owed, fn(&Message));

const CASES: &[Case] = &[
    ("TC_WSINV", "3.1.1.1 a short tortuous INVITE", Passed, wsinv),
    ("TC_INTMETH", "3.1.1.2 wide range of valid characters", Passed, intmeth),
    ("TC_ESC01_V", "3.1.1.3 valid use of the % escaping mechanism", Passed, esc01),
    ("TC_ESCNULL_V", "3.1.1.4 escaped nulls in URIs", Passed, escnull),
    ("TC_ESC02_V", "3.1.1.5 % when it is not an escape", Passed, esc02),
    ("TC_LWSDISP_V", "3.1.1.6 no LWS between display name and <", Passed, lwsdisp),
    ("TC_LONGREQ_V", "3.1.1.7 long values in header fields", Passed, longreq),
    ("TC_DBLREQ", "3.1.1.8 extra trailing octets in a UDP datagram", Passed, dblreq),
    ("TC_SEMIURI_V", "3.1.1.9 semicolon-separated parameters in the user part", Passed, semiuri),
    ("TC_TRANSPORTS_V", "3.1.1.10 varied and unknown transport types", Passed, transports),
    ("TC_MPART01", "3.1.1.11 multipart MIME message", Passed, mpart01),
    ("TC_UNREASON_V", "3.1.1.12 unusual reason phrase", Passed, unreason),
    ("TC_NOREASON_V", "3.1.1.13 empty reason phrase", Passed, noreason),
    ("TC_BADINV01_I", "3.1.2.1 extraneous header field separators: 400", Status(400), any),
    ("TC_CLERR_I", "3.1.2.2 Content-Length larger than message: 400", Status(400), any),
    ("TC_NCL_I", "3.1.2.3 negative Content-Length: 400", Status(400), any),
    ("TC_SCALAR02_V", "3.1.2.4 request scalar fields with overlarge values: 400", Status(400), scalar02),
    ("TC_SCALARLG_V", "3.1.2.5 response scalar fields with overlarge values: discard", Dropped, scalarlg),
    ("TC_QUOTBAL_I", "3.1.2.6 unterminated quoted string in display name: 400", Status(400), any),
    ("TC_LTGTRURI_I", "3.1.2.7 <> enclosing Request-URI: 400", Status(400), any),
    ("TC_LWSRURI_I", "3.1.2.8 LWS in Request-URI: 400", Status(400), any),
    ("TC_LWSSTART_V", "3.1.2.9 several SP in the request line: 400 is acceptable", Status(400), lwsstart),
    ("TC_TRWS_I", "3.1.2.10 SP at the end of the request line: 400 is acceptable", Status(400), trws),
    ("TC_ESCRURI_V", "3.1.2.11 escaped headers in Request-URI: 400 is acceptable", Status(400), escruri),
    ("TC_BADDATE_V", "3.1.2.12 invalid time zone in Date: may be ignored", Passed, baddate),
    ("TC_REGBADCT_I", "3.1.2.13 name-addr URI not in <>: 400", Status(400), any),
    ("TC_BADASPEC_I", "3.1.2.14 spaces within addr-spec: 400 is acceptable", Status(400), any),
    ("TC_BADDN_I", "3.1.2.15 non-token characters in display name: 400 is acceptable", Status(400), any),
    ("TC_BADVERS_V", "3.1.2.16 unknown protocol version: 505", Status(505), any),
    ("TC_MISMATCH01_V", "3.1.2.17 start line and CSeq method differ: 400", Status(400), any),
    ("TC_MISMATCH02_V", "3.1.2.18 unknown method with CSeq error: 501 or 400", Status(400), any),
    ("TC_BIGCODE_V", "3.1.2.19 overlarge response code: discard", Refused(ParseError::StatusCode), any),
    ("TC_BADBRANCH_V", "3.2.1 branch without transaction identifier: as RFC 2543", Passed, badbranch),
    ("TC_INSUF_I", "3.3.1 missing required header fields: 400", Status(400), insuf),
    ("TC_UNKSCM_V", "3.3.2 Request-URI with unknown scheme: 416", Status(416), any),
    ("TC_NOVELSC_V", "3.3.3 Request-URI with unknown but registered scheme: 416", Status(416), any),
    ("TC_UNKSM2_V", "3.3.4 unknown schemes in header fields: up to the registrar", Passed, unksm2),
    ("TC_BEXT01_V", "3.3.5 Proxy-Require and Require: 420 of the user agent", Passed, bext01),
    ("TC_INVUT_V", "3.3.6 unknown Content-Type: 415 of the user agent", Passed, invut),
    ("TC_REGAUT01_V", "3.3.7 unknown authorization scheme: 401 of the registrar", Passed, regaut01),
    ("TC_MULTI01_I", "3.3.8 multiple values in single value required fields: 400", Status(400), any),
    ("TC_MCL01_I", "3.3.9 multiple Content-Length values: 400", Status(400), any),
    ("TC_BCAST_V", "3.3.10 200 OK with broadcast Via: not forwarded", Passed, bcast),
    ("TC_ZEROMF_V", "3.3.11 Max-Forwards of zero: 483 of the proxy", Passed, zeromf),
    ("TC_CPARAM01_V", "3.3.12 REGISTER with a contact header parameter", Passed, cparam01),
    ("TC_CPARAM02_V", "3.3.13 REGISTER with a URI parameter", Passed, cparam02),
    ("TC_REGESCRT_V", "3.3.14 REGISTER with a URI escaped header", Passed, regescrt),
    ("TC_SDP01_V", "3.3.15 unacceptable Accept offering: 406 of the user agent", Passed, sdp01),
    ("TC_INV2543_I", "3.4.1 INVITE with RFC 2543 syntax: compatible", Passed, inv2543),
    ("TC_TEST_I", "an earlier draft: request line without version, header without name, no Via", Status(400), test_i),
];

fn corpus() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/corpus/rfc4475"))
}

fn read(name: &str) -> Bytes {
    let path = corpus().join(format!("{name}.dat"));
    match std::fs::read(&path) {
        Ok(bytes) => bytes.into(),
        Err(e) => panic!("{} of the corpus beside the clone cannot be read: {e}", path.display()),
    }
}

fn message(name: &str) -> Message {
    Message::parse_datagram(read(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
}

#[test]
fn every_message_gets_what_the_rfc_says() {
    for (file, section, owed, look) in CASES {
        let parsed = Message::parse_datagram(read(file));
        let found = match &parsed {
            Err(e) => Refused(*e),
            Ok(m) => match validate(m) {
                Ok(()) => Passed,
                Err(Fault { status, .. }) if m.is_request() => Status(status),
                Err(_) => Dropped,
            },
        };
        assert_eq!(found, *owed, "{file}: {section}: {:?}", parsed.as_ref().map(validate));
        if let Ok(message) = parsed {
            look(&message);
        }
    }
}

#[test]
fn every_file_is_in_the_table() {
    let dir = corpus();
    let listed = std::fs::read_dir(&dir).unwrap_or_else(|e| panic!("{} cannot be read: {e}", dir.display()));
    let files: BTreeSet<String> = listed
        .map(|f| f.unwrap().file_name().into_string().unwrap())
        .filter_map(|f| f.strip_suffix(".dat").map(str::to_owned))
        .collect();
    let table: BTreeSet<String> = CASES.iter().map(|c| c.0.to_owned()).collect();
    assert_eq!(files, table);
    assert_eq!(files.len(), 50);
}

/// What was parsed goes out byte for byte as it came; only octets behind the body are left out, and a missing empty line added.
#[test]
fn every_message_is_kept_byte_for_byte() {
    for (file, _, owed, _) in CASES {
        if matches!(owed, Refused(_)) {
            continue;
        }
        let bytes = read(file);
        let out = message(file).to_bytes();
        match *file {
            "TC_BADDN_I" => assert_eq!(out, [&bytes[..], b"\r\n"].concat(), "{file}"),
            "TC_DBLREQ" | "TC_MCL01_I" => assert_eq!(out, bytes[..out.len()], "{file}"),
            _ if bytes.len() > out.len() => {
                assert_eq!(out, bytes[..out.len()], "{file}");
                assert!(bytes[out.len()..].iter().all(|b| b"\r\n".contains(b)), "{file}");
            }
            _ => assert_eq!(out, bytes, "{file}"),
        }
        let again = Message::parse_datagram(out.clone()).unwrap();
        assert_eq!(again.to_bytes(), out, "{file}");
    }
}

/// A request at fault can be answered: the answer repeats Via, From, To, Call-ID and CSeq as they came.
#[test]
fn every_faulty_request_can_be_answered() {
    let mut answered = 0;
    for (file, _, owed, _) in CASES {
        let Status(_) = owed else { continue };
        let request = message(file);
        let fault = validate(&request).unwrap_err();
        let response = Message::response_to(&request, fault.status, &fault.reason).to_tag("t").build();
        let response = Message::parse_datagram(response.to_bytes()).unwrap();
        assert_eq!(response.status(), Some(fault.status));
        for name in [name::VIA, name::CALL_ID, name::CSEQ, name::FROM] {
            let of = |m: &Message| m.headers_named(name).map(|h| h.line().to_vec()).collect::<Vec<_>>();
            assert_eq!(of(&request), of(&response), "{file}");
        }
        answered += 1;
    }
    assert_eq!(answered, 22);
}

/// The same messages over a stream, byte by byte, as far as their Content-Length allows it.
#[test]
fn over_a_stream_too() {
    let mut whole = 0;
    for (file, _, owed, _) in CASES {
        let bytes = read(file);
        let mut stream = StreamParser::new(Limits::default());
        let mut frames = Vec::new();
        for byte in &bytes {
            stream.push(&[*byte]);
            while let Some(frame) = stream.pull() {
                frames.push(frame);
            }
        }
        match frames.first() {
            Some(Ok(Frame::Message(m))) => {
                assert_eq!(m.to_bytes(), message(file).to_bytes(), "{file}");
                whole += 1;
            }
            Some(Err(e)) => assert!(matches!(owed, Status(400) | Refused(_)) || file == &"TC_INV2543_I", "{file}: {e}"),
            other => assert!(["TC_CLERR_I", "TC_BADDN_I"].contains(file), "{file}: {other:?}"),
        }
        if file == &"TC_DBLREQ" {
            let messages: Vec<_> = frames.iter().filter(|f| matches!(f, Ok(Frame::Message(_)))).collect();
            let Ok(Frame::Message(second)) = messages[1] else { panic!() };
            assert_eq!((messages.len(), second.method()), (2, Some(&Method::Invite)));
            assert!(matches!(frames[1], Ok(Frame::Ping | Frame::Pong)));
        }
    }
    assert_eq!(whole, 44);
}

fn any(_: &Message) {}

fn uri(text: &str) -> Uri {
    text.parse().unwrap()
}

fn wsinv(m: &Message) {
    assert_eq!(m.method(), Some(&Method::Invite));
    assert_eq!(m.request_uri().unwrap().param("unknownparam"), Some(""));
    assert_eq!(m.to().unwrap().uri_text(), "sip:vivekg@chair-dnrc.example.com");
    assert_eq!((m.to_tag(), m.from_tag()), (Some("1918181833n"), Some("98asjd8")));
    assert_eq!(m.from().unwrap().display().as_deref(), Some("J Rosenberg \\\""));
    assert_eq!(m.max_forwards(), Ok(Some(68)));
    assert_eq!(m.content_length(), Ok(Some(150)));
    assert_eq!(m.cseq().unwrap().to_string(), "9 INVITE");
    let vias: Vec<_> = m.vias().map(|v| v.unwrap()).map(|v| (v.transport, v.host, v.branch())).collect();
    assert_eq!(
        vias,
        [
            ("UDP", "192.0.2.2", Some("390skdjuw")),
            ("TCP", "spindle.example.com", Some("z9hG4bK9ikj8")),
            ("UDP", "192.168.255.111", Some("z9hG4bK30239")),
        ]
    );
    assert_eq!(m.header("Subject").unwrap().value(), b"");
    assert_eq!(m.header("NewFangledHeader").unwrap().text(), "newfangled value continued newfangled value");
    assert_eq!(m.header("unknownheaderwithunusualvalue").unwrap().text(), ";;,,;;,;");
    let route = m.routes().next().unwrap().unwrap().uri().unwrap();
    assert_eq!(
        (route.param("unknownwith"), route.has_param("unknown-no-value"), route.has_param("lr")),
        (Some("value"), true, true)
    );
    let contact = m.contacts().next().unwrap().unwrap();
    assert_eq!(contact.display().as_deref(), Some("Quoted string \"\""));
    assert_eq!((contact.q(), contact.params.token("newparam")), (Some(330), Some("newvalue")));
    assert!(contact.params.has("secondparam"));
    assert_eq!(m.body().len(), 150);
}

fn intmeth(m: &Message) {
    assert_eq!(*m.method().unwrap(), "!interesting-Method0123456789_*+`.%indeed'~");
    let uri = m.request_uri().unwrap();
    assert_eq!(uri.user(), Some("1_unusual.URI~(to-be!sure)&isn't+it$/crazy?,/;;*"));
    assert_eq!(uri.password(), Some("&it+has=1,weird!*pas$wo~d_too.(doesn't-it)"));
    assert_eq!(uri.host(), "example.com");
    assert_eq!(m.to().unwrap().display().as_deref(), Some("BEL:\u{7} NUL:\0 DEL:\u{7f}"));
    let from = m.from().unwrap();
    assert_eq!(from.display().as_deref(), Some("token1~` token2'+_ token3*%!.-"));
    assert_eq!(from.params.get("fromParam''~+*_!.-%").as_deref(), Some("работающий"));
    assert_eq!(from.tag(), Some("_token~1'+`*%!-."));
    assert_eq!(m.call_id(), Ok("intmeth.word%ZK-!.*_+'@word`~)(><:\\/\"][?}{"));
    assert_eq!(m.cseq().unwrap().number, 139_122_385);
    assert_eq!(m.via().unwrap().transaction(), Some("z9hG4bK-.!%66*_+`'~"));
    assert_eq!(m.header("extensionHeader-!.%*+_`'~").unwrap().value(), "\u{feff}大停電".as_bytes());
}

fn esc01(m: &Message) {
    let target = m.request_uri().unwrap();
    assert_eq!((target.user(), target.host()), (Some("sips%3Auser%40example.com"), "example.net"));
    assert_eq!(target.user_decoded().as_deref(), Some("sips:user@example.com"));
    assert!(m.to().unwrap().uri().unwrap().equivalent(&uri("sip:user@example.com")));
    assert_eq!(m.from().unwrap().uri().unwrap().user_decoded().as_deref(), Some("I have spaces"));
    let contact = m.contacts().next().unwrap().unwrap().uri().unwrap();
    assert_eq!(contact.param("lr"), Some(""));
    assert!(contact.equivalent(&uri("sip:caller@host5.example.net;lr;name=value%2541")));
}

fn escnull(m: &Message) {
    assert_eq!(m.to().unwrap().uri().unwrap().user_decoded().as_deref(), Some("null-\0-null"));
    let contacts: Vec<_> = m.contacts().map(|c| c.unwrap().uri().unwrap()).collect();
    assert_eq!(contacts[0].user_decoded().as_deref(), Some("\0"));
    assert!(!contacts[0].equivalent(&contacts[1]));
}

fn esc02(m: &Message) {
    assert_eq!(*m.method().unwrap(), "RE%47IST%45R");
    assert_eq!(m.to().unwrap().display().as_deref(), Some("%Z%45"));
    assert_eq!(m.via().unwrap().branch(), Some("z9hG4bK209%fzsnel234"));
    assert_eq!(m.contacts().count(), 2);
    assert!(m.header("C%6Fntact").is_some());
}

fn lwsdisp(m: &Message) {
    let from = m.from().unwrap();
    assert_eq!((from.display().as_deref(), from.tag()), (Some("caller"), Some("323")));
}

fn longreq(m: &Message) {
    assert_eq!(m.vias().filter(Result::is_ok).count(), 34);
    assert_eq!(m.vias().last().unwrap().unwrap().received(), Some("192.0.2.5".parse().unwrap()));
    assert!(m.to().unwrap().display().unwrap().starts_with("I have a user name of extremeextreme"));
    assert_eq!(m.to().unwrap().uri().unwrap().port(), Some(6000));
    assert!(m.from_tag().unwrap().len() > 50);
    assert_eq!(m.body().len(), 150);
}

fn dblreq(m: &Message) {
    assert_eq!((m.method(), m.body().len()), (Some(&Method::Register), 0));
}

fn semiuri(m: &Message) {
    let uri = m.request_uri().unwrap();
    assert_eq!((uri.user(), uri.host(), uri.params().count()), (Some("user;par=u%40example.net"), "example.com", 0));
    assert_eq!(m.elements("Accept").count(), 6);
}

fn transports(m: &Message) {
    let seen: Vec<_> = m.vias().map(|v| v.unwrap().transport.to_owned()).collect();
    assert_eq!(seen, ["UDP", "SCTP", "TLS", "UNKNOWN", "TCP"]);
}

fn mpart01(m: &Message) {
    let content = m.content_type().unwrap().unwrap();
    assert!(content.is("multipart", "mixed"));
    assert_eq!(content.params.token("boundary"), Some("7a9cbec02ceef655"));
    assert_eq!(m.body().len(), 553);
    assert_eq!(m.via().unwrap().rport(), Some(None));
    assert_eq!(m.header("y").unwrap().name(), "Identity");
}

fn unreason(m: &Message) {
    assert_eq!(m.status(), Some(200));
    assert_eq!(m.reason(), "= 2**3 * 5**2 но сто девяносто девять - простое");
}

fn noreason(m: &Message) {
    assert_eq!((m.status(), m.reason().as_ref()), (Some(100), ""));
}

fn scalar02(m: &Message) {
    assert!(m.cseq().is_err() && m.max_forwards().is_err());
    assert_eq!(m.expires(), Some(u32::MAX));
    assert_eq!(m.contacts().next().unwrap().unwrap().expires(), Some(u32::MAX));
}

fn scalarlg(m: &Message) {
    assert!(m.cseq().is_err());
    assert_eq!((m.retry_after(), m.warnings().count()), (Some(u32::MAX), 0));
}

fn lwsstart(m: &Message) {
    assert_eq!(m.request_uri().unwrap(), uri("sip:user@example.com"));
}

fn trws(m: &Message) {
    assert_eq!(m.request_uri().unwrap(), uri("sip:remote-target@example.com"));
}

fn escruri(m: &Message) {
    assert_eq!(m.request_uri().unwrap().headers().next(), Some(("Route", "%3Csip:example.com%3E")));
}

fn baddate(m: &Message) {
    assert_eq!(m.header("Date").unwrap().text(), "Fri, 01 Jan 2010 16:00:00 EST");
}

fn badbranch(m: &Message) {
    let via = m.via().unwrap();
    assert_eq!((via.branch(), via.transaction()), (Some("z9hG4bK"), None));
}

fn insuf(m: &Message) {
    assert!(m.call_id().is_err() && m.from().is_err() && m.to().is_err());
    assert_eq!(m.via().unwrap().host, "192.0.2.95");
}

fn unksm2(m: &Message) {
    assert_eq!(m.to().unwrap().uri().unwrap().scheme(), Scheme::Other);
    assert_eq!(m.from().unwrap().uri().unwrap().scheme_text(), "http");
    assert_eq!(m.contacts().next().unwrap().unwrap().uri_text(), "name:John_Smith");
}

fn bext01(m: &Message) {
    let words: Vec<_> = m.tokens(name::REQUIRE).chain(m.tokens(name::PROXY_REQUIRE)).collect();
    let wanted =
        ["nothingSupportsThis", "nothingSupportsThisEither", "noProxiesSupportThis", "norDoAnyProxiesSupportThis"];
    assert_eq!(words, wanted);
}

fn invut(m: &Message) {
    assert!(m.content_type().unwrap().unwrap().is("application", "unknownformat"));
}

fn regaut01(m: &Message) {
    let auth = sipcore::auth::AuthHeader::parse(m.header(name::AUTHORIZATION).unwrap().value()).unwrap();
    assert_eq!(auth.scheme, "NoOneKnowsThisScheme");
}

fn bcast(m: &Message) {
    let second = m.vias().nth(1).unwrap().unwrap();
    assert_eq!(second.host_ip(), Some("255.255.255.255".parse().unwrap()));
}

fn zeromf(m: &Message) {
    assert_eq!(m.max_forwards(), Ok(Some(0)));
    assert_eq!(m.clone().decrement_max_forwards(), Ok(false));
}

fn cparam01(m: &Message) {
    let contact = m.contacts().next().unwrap().unwrap();
    assert!(contact.params.has("unknownparam") && !contact.uri().unwrap().has_param("unknownparam"));
}

fn cparam02(m: &Message) {
    let contact = m.contacts().next().unwrap().unwrap();
    assert!(!contact.params.has("unknownparam") && contact.uri().unwrap().has_param("unknownparam"));
}

fn regescrt(m: &Message) {
    let contact = m.contacts().next().unwrap().unwrap().uri().unwrap();
    assert_eq!(contact.headers().next(), Some(("Route", "%3Csip:sip.example.com%3E")));
}

fn sdp01(m: &Message) {
    assert_eq!(m.header("Accept").unwrap().text(), "text/nobodyKnowsThis");
    assert!(matches!(ReceivedOffer::parse(m.body()), Err(SdpError::NoFlow(_))));
}

fn inv2543(m: &Message) {
    assert_eq!((m.max_forwards(), m.from_tag(), m.via().unwrap().branch()), (Ok(None), None, None));
    assert_eq!((m.content_length(), m.body().len() > 50), (Ok(None), true));
    assert_eq!(m.record_routes().next().unwrap().unwrap().uri().unwrap().param("maddr"), Some("ss1.example.com"));
}

fn test_i(m: &Message) {
    assert_eq!(m.request_uri().unwrap(), uri("sip:alan@jasomi.com"));
    assert!(m.via().is_err());
    assert!(m.headers().iter().any(|h| h.name().is_empty() && h.line() == b"Foobar roobar"));
}
