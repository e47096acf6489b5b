//! Building, editing and framing of messages.

use bytes::Bytes;

use super::*;

const REQUEST: &str = "INVITE sip:bob@example.com SIP/2.0\r\n\
    v :SIP/2.0/UDP 10.0.0.1:5070;branch=z9hG4bKa;rport ,\r\n SIP/2.0/TCP b.example.com;branch=z9hG4bKb\r\n\
    Via: SIP/2.0/TLS c.example.com;branch=z9hG4bKc\r\n\
    ROUTE: <sip:p1;lr>,<sip:u,x@p2;lr>\r\n\
    Record-Route: <sip:r1;lr>\r\n\
    f:\"Bob, \\\"B\\\"\" <sip:alice@example.com>;tag=1\r\n\
    To: <sip:bob@example.com>\r\n\
    Call-ID: abc\r\n\
    cSeq:  7   INVITE\r\n\
    Timestamp: 54\r\n\
    Max-Forwards: 12\r\n\
    X-Odd:\tq \r\n\
    l: 4\r\n\r\nbody";

fn request() -> Message {
    Message::parse_datagram(Bytes::from_static(REQUEST.as_bytes())).unwrap()
}

fn text(message: &Message) -> String {
    String::from_utf8(message.to_bytes().to_vec()).unwrap()
}

#[test]
fn a_proxy_changes_only_what_it_must() {
    let mut m = request();
    assert_eq!(text(&m), REQUEST);
    m.note_source("192.0.2.1:4000".parse().unwrap()).unwrap();
    m.push_front(name::VIA, via_value("TCP", "[::1]:5060", "z9hG4bKnew"));
    m.push_front(name::RECORD_ROUTE, "<sip:me;lr>");
    assert_eq!(m.pop_first(name::ROUTE).unwrap(), b"<sip:p1;lr>");
    assert_eq!(m.decrement_max_forwards(), Ok(true));
    m.set_request_uri(&"sip:bob@10.0.0.9;x".parse().unwrap());
    let wanted = REQUEST
        .replace("sip:bob@example.com SIP/2.0", "sip:bob@10.0.0.9;x SIP/2.0")
        .replace(
            "v :SIP/2.0/UDP 10.0.0.1:5070;branch=z9hG4bKa;rport ,",
            "Via: SIP/2.0/TCP [::1]:5060;rport;branch=z9hG4bKnew\r\nv: SIP/2.0/UDP 10.0.0.1:5070;branch=z9hG4bKa;rport=4000;received=192.0.2.1,",
        )
        .replace("ROUTE: <sip:p1;lr>,<sip:u,x@p2;lr>", "ROUTE: <sip:u,x@p2;lr>")
        .replace("Record-Route: <sip:r1;lr>", "Record-Route: <sip:me;lr>\r\nRecord-Route: <sip:r1;lr>")
        .replace("Max-Forwards: 12", "Max-Forwards: 11");
    assert_eq!(text(&m), wanted);
}

#[test]
fn values_are_popped_one_by_one() {
    let mut m = request();
    for host in ["10.0.0.1", "b.example.com", "c.example.com"] {
        assert_eq!(m.via().unwrap().host, host);
        m.pop_first(name::VIA).unwrap();
    }
    assert_eq!((m.pop_first(name::VIA), m.via().is_err()), (None, true));
    assert_eq!(m.pop_first(name::ROUTE).unwrap(), b"<sip:p1;lr>");
    assert_eq!(m.pop_first(name::ROUTE).unwrap(), b"<sip:u,x@p2;lr>");
    assert!(m.header(name::ROUTE).is_none());
}

#[test]
fn where_a_response_goes() {
    let mut m = request();
    assert_eq!(m.response_address(), Some("10.0.0.1:5070".parse().unwrap()));
    m.note_source("[::ffff:192.0.2.1]:4000".parse().unwrap()).unwrap();
    assert_eq!(m.response_address(), Some("192.0.2.1:4000".parse().unwrap()));
    m.pop_first(name::VIA);
    assert_eq!(m.response_address(), None);
    m.note_source("192.0.2.2:4000".parse().unwrap()).unwrap();
    // No rport asked for: the port of sent-by.
    assert_eq!(m.response_address(), Some("192.0.2.2:5060".parse().unwrap()));
}

#[test]
fn a_response_copies_what_it_must() {
    let lines = |status| {
        let m = Message::response_to(&request(), status, "Why\r\nNot").to_tag("x").build();
        text(&m).lines().map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(
        lines(200),
        [
            "SIP/2.0 200 Why  Not",
            "v :SIP/2.0/UDP 10.0.0.1:5070;branch=z9hG4bKa;rport ,",
            " SIP/2.0/TCP b.example.com;branch=z9hG4bKb",
            "Via: SIP/2.0/TLS c.example.com;branch=z9hG4bKc",
            "Record-Route: <sip:r1;lr>",
            "f:\"Bob, \\\"B\\\"\" <sip:alice@example.com>;tag=1",
            "To: <sip:bob@example.com>;tag=x",
            "Call-ID: abc",
            "cSeq:  7   INVITE",
            "Content-Length: 0",
            "",
        ]
    );
    assert!(lines(100).contains(&"Timestamp: 54".to_owned()) && !lines(100).iter().any(|l| l.starts_with("Record")));
    assert!(!lines(404).iter().any(|l| l.starts_with("Record") || l.starts_with("Timestamp")));
    let kept = Message::response_to(&request(), 180, "").to_tag("x").to_tag("y").build();
    assert_eq!(kept.to_tag(), Some("x"));
    assert_eq!(Message::response(99, "").build().status(), Some(500));
}

#[test]
fn a_new_request_reads_back() {
    let uri: Uri = "sip:bob@example.com".parse().unwrap();
    let m = Message::request(Method::Message, &uri)
        .header(name::VIA, via_value("UDP", "192.0.2.1:5060", "z9hG4bK1"))
        .header(name::FROM, address(Some("A \"B\""), &uri, &[("tag", Some("1")), ("x", None)]))
        .header("X", "a\r\nVia: evil\0")
        .body("text/plain", "hello")
        .build();
    let m = Message::parse_datagram(m.to_bytes()).unwrap();
    assert_eq!((m.from().unwrap().display().as_deref(), m.from_tag()), (Some("A \"B\""), Some("1")));
    assert_eq!((m.vias().count(), m.header("X").unwrap().text().as_ref()), (1, "a  Via: evil"));
    assert_eq!((m.content_length(), m.body().as_ref()), (Ok(Some(5)), b"hello".as_slice()));
    let mut m = m;
    m.set_body("", Bytes::new());
    assert_eq!((m.content_length(), m.header("c").is_none()), (Ok(Some(0)), true));
}

#[test]
fn set_replaces_all_of_a_name() {
    let mut m = request();
    m.set(name::VIA, "SIP/2.0/UDP h");
    assert_eq!((m.vias().count(), m.headers().first().unwrap().line()), (1, b"Via: SIP/2.0/UDP h".as_slice()));
    m.set("New", 5);
    assert_eq!(m.headers().last().unwrap().line(), b"New: 5");
    assert_eq!((m.remove("x-odd"), m.remove("x-odd")), (1, 0));
}

#[test]
fn authorization_and_body_stay_out_of_debug() {
    let m = Message::request(Method::Register, &"sip:x".parse().unwrap())
        .header("Authorization", "Digest secret")
        .body("a/b", "secret")
        .build();
    assert!(!format!("{m:?} {:?}", m.headers()).contains("secret"));
}

fn drain(stream: &mut StreamParser) -> Vec<Result<Frame, StreamError>> {
    std::iter::from_fn(|| stream.pull()).collect()
}

#[test]
fn a_stream_in_pieces_of_any_size() {
    let bytes = format!("\r\n\r\n{REQUEST}\r\n{REQUEST}\r\n\r\n").into_bytes();
    for size in 1..bytes.len() {
        let mut stream = StreamParser::new(Limits::default());
        let mut frames = Vec::new();
        for piece in bytes.chunks(size) {
            stream.push(piece);
            frames.extend(drain(&mut stream));
        }
        let messages = frames.iter().filter_map(|f| match f {
            Ok(Frame::Message(m)) => Some(text(m)),
            Ok(_) => None,
            Err(e) => panic!("{e}"),
        });
        let messages: Vec<_> = messages.collect();
        assert_eq!(messages, [REQUEST, REQUEST], "{size}");
    }
    let mut stream = StreamParser::new(Limits::default());
    stream.push(&bytes);
    let kinds: Vec<_> = drain(&mut stream)
        .iter()
        .map(|f| match f {
            Ok(Frame::Message(_)) => 'm',
            Ok(Frame::Ping) => 'p',
            Ok(Frame::Pong) => 'o',
            Err(_) => 'e',
        })
        .collect();
    assert_eq!(kinds, ['p', 'm', 'o', 'm', 'p']);
}

#[test]
fn a_stream_past_its_limits() {
    let limits = Limits { header_bytes: 300, headers: 4, body_bytes: 10 };
    let fault = |bytes: &[u8]| {
        let mut stream = StreamParser::new(limits);
        stream.push(bytes);
        let error = drain(&mut stream).pop().unwrap().unwrap_err();
        stream.push(REQUEST.as_bytes());
        assert!(stream.pull().is_none(), "nothing more after an error");
        (error.status(), error.message.is_some(), error.why)
    };
    let start = "OPTIONS sip:a SIP/2.0\r\n";
    let (status, message, why) = fault("x".repeat(400).as_bytes());
    assert_eq!((status, message, why), (513, false, StreamFault::Parse(ParseError::HeadersTooLong)));
    let (status, _, why) = fault(format!("{start}{}\r\n", "A: b\r\n".repeat(5)).as_bytes());
    assert_eq!((status, why), (513, StreamFault::Parse(ParseError::TooManyHeaders)));
    let (status, message, why) = fault(format!("{start}l: 11\r\n\r\n").as_bytes());
    assert_eq!((status, message, why), (413, true, StreamFault::Parse(ParseError::BodyTooLong)));
    for (line, wanted) in
        [("", true), ("l: -1\r\n", true), ("l: 1\r\nl: 2\r\n", true), ("l: 99999999999999999999\r\n", true)]
    {
        let (status, message, why) = fault(format!("{start}{line}\r\n").as_bytes());
        assert_eq!((status, message, matches!(why, StreamFault::Length(_))), (400, wanted, true), "{line}");
    }
    assert_eq!(fault(b"GET / HTTP/1.1\r\n\r\n").2, StreamFault::Parse(ParseError::NotSip));
}

#[test]
fn what_is_no_message() {
    let parse = |bytes: &'static [u8]| Message::parse_datagram(Bytes::from_static(bytes)).err();
    assert_eq!(parse(b""), Some(ParseError::Empty));
    assert_eq!(parse(b"\r\n\r\n"), Some(ParseError::Empty));
    for bad in [
        &b"GET / HTTP/1.1\r\n\r\n"[..],
        b"\x16\x03\x01\0\xa5",
        b"INVITE",
        b"IN\xffVITE sip:a SIP/2.0\r\n",
        b"SIP/2.0\r\n",
    ] {
        assert!(matches!(parse(bad), Some(ParseError::NotSip | ParseError::StatusCode)), "{}", bad.escape_ascii());
    }
    for bad in [&b"SIP/2.0 99 x\r\n"[..], b"SIP/2.0 700 x\r\n", b"SIP/2.0 0200 x\r\n", b"SIP/2.0 -200 x\r\n"] {
        assert_eq!(parse(bad), Some(ParseError::StatusCode));
    }
}

#[test]
fn faults_beyond_the_torture_messages() {
    let fault = |from: &str, to: &str| {
        assert!(REQUEST.contains(from), "{from}");
        let m = Message::parse_datagram(Bytes::from(REQUEST.replace(from, to))).unwrap();
        validate(&m).err().map(|f| f.status)
    };
    assert_eq!(fault("body", "body"), None);
    assert_eq!(fault("SIP/2.0\r\nv", "SIP/2.0\r\n x: y\r\nv"), Some(400));
    assert_eq!(fault("Call-ID: abc", "Call-ID: a b"), Some(400));
    assert_eq!(fault("Call-ID: abc", "Call-ID: a\rVia: x"), Some(400));
    assert_eq!(fault("7   INVITE", "2147483648 INVITE"), Some(400));
    assert_eq!(fault("7   INVITE", "7   INVITE x"), Some(400));
    assert_eq!(fault("tag=1", "tag=\"1\""), Some(400));
    assert_eq!(fault("l: 4", "l: 5"), Some(400));
    assert_eq!(fault("<sip:p1;lr>", "<sip:p1:x>"), Some(400));
    assert_eq!(fault("X-Odd:\tq", "m: *, <sip:a>"), Some(400));
    assert_eq!(fault("X-Odd:\tq", "m: *"), None);
    assert_eq!(fault("X-Odd:\tq", "Expires: 5\r\nExpires: 6"), Some(400));
    assert_eq!(fault("INVITE sip:bob@example.com SIP/2.0", "INVITE sip:bob@example.com SIP/2.1"), Some(505));
    assert_eq!(fault("INVITE sip:bob", "INVITE urn:service:sos.bob"), Some(416));
    assert_eq!(fault("SIP/2.0/UDP", "SIP/3.0/UDP"), Some(400));
    let long = format!("INVITE sip:{}", "b".repeat(9000));
    assert_eq!(fault("INVITE sip:bob", &long), Some(414));
}
