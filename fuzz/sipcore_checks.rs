//! What must hold for any input, shared by the fuzz targets and by `sipcore/tests/mutations.rs`.

use bytes::Bytes;
use sipcore::auth::{AuthHeader, Challenge};
use sipcore::flow::datachannel::dcep;
use sipcore::label::Label;
use sipcore::message::{Frame, Limits, Message, StreamParser, Uri, name, validate, via_value};
use sipcore::presence::{Document, MAX_NOTE, Update, members};
use sipcore::sdp::{Answer, Direct, End, Offer, Origin, ReceivedOffer, Setup, Tls};

/// Growth by normal line ends could pass the limit of a datagram; such inputs prove nothing.
const MAX: usize = 30_000;

/// A datagram: parsed, written and parsed again it is the same; every view, edit and response holds.
pub fn message(data: &[u8]) {
    if data.len() > MAX {
        return;
    }
    let Ok(parsed) = Message::parse_datagram(Bytes::copy_from_slice(data)) else { return };
    let out = parsed.to_bytes();
    let again = same(&out, "written and parsed again");
    assert_eq!(again.to_bytes(), out);
    assert_eq!(again.headers().len(), parsed.headers().len());
    assert_eq!(validate(&again), validate(&parsed));
    views(&parsed);
    edits(&parsed);
    if parsed.is_request() {
        let response = Message::response_to(&parsed, 200, "OK").to_tag("t").build();
        let response = same(&response.to_bytes(), "a response");
        if validate(&parsed).is_ok() {
            assert_eq!(validate(&response), Ok(()));
            assert!(response.to_tag().is_some());
        }
    }
}

fn same(bytes: &Bytes, what: &str) -> Message {
    match Message::parse_datagram(bytes.clone()) {
        Ok(m) => m,
        Err(e) => panic!("{what}: {e}: {}", bytes.escape_ascii()),
    }
}

fn views(m: &Message) {
    let addresses = m.contacts().chain(m.routes()).chain(m.record_routes()).chain([m.from(), m.to()]);
    for address in addresses.flatten() {
        let _ = (address.display(), address.tag(), address.expires(), address.q(), address.params.iter().count());
        uri(address.uri_text().as_bytes());
    }
    for via in m.vias().flatten() {
        let _ = (via.transaction(), via.received(), via.rport(), via.maddr(), via.host_ip());
    }
    let _ = (m.cseq(), m.call_id(), m.max_forwards(), m.expires(), m.retry_after(), m.content_length(), m.reason());
    let _ = (m.content_type().is_ok(), m.warnings().count(), m.tokens(name::REQUIRE).count(), m.has_star_contact());
    let _ = (m.response_address(), Challenge::strongest(m).len(), format!("{m:?} {:?}", m.headers()));
    for header in m.headers() {
        digest(header.value());
    }
    sdp(m.body());
}

fn edits(m: &Message) {
    let lines = |m: &Message, skip: usize| m.headers().iter().skip(skip).map(|h| h.line().to_vec()).collect::<Vec<_>>();
    let mut proxied = m.clone();
    proxied.push_front("X-Front", "<sip:me;lr>");
    let read = same(&proxied.to_bytes(), "a header in front");
    if !m.headers().iter().any(|h| h.is("X-Front")) {
        assert_eq!((lines(&read, 1), read.headers().len()), (lines(m, 0), m.headers().len() + 1));
    }
    let mut popped = m.clone();
    let values = m.elements(name::VIA).filter(|e| !e.is_empty()).count();
    let _ = popped.note_source(([192, 0, 2, 1], 9).into());
    let mut taken = 0;
    while popped.pop_first(name::VIA).is_some() {
        taken += 1;
        assert!(taken <= data_bound(m), "popping ends");
    }
    assert!(taken >= values.min(1));
    let mut edited = m.clone();
    edited.push_front(name::VIA, via_value("UDP", "192.0.2.1:5060", "z9hG4bK1"));
    let _ = edited.decrement_max_forwards();
    edited.set_body("text/plain", Bytes::from_static(b"x"));
    let read = same(&edited.to_bytes(), "an edited message");
    assert_eq!((read.via().ok().and_then(|v| v.transaction()), read.body().as_ref()), (Some("z9hG4bK1"), &b"x"[..]));
}

fn data_bound(m: &Message) -> usize {
    m.headers().iter().map(|h| h.line().len()).sum::<usize>() + 1
}

/// A stream: cut anywhere it yields the same messages, and it ends.
pub fn stream(data: &[u8]) {
    let limits = Limits { header_bytes: 4096, headers: 64, body_bytes: 4096 };
    let run = |piece: usize| {
        let (mut parser, mut seen) = (StreamParser::new(limits), Vec::new());
        for bytes in data.chunks(piece) {
            parser.push(bytes);
            let mut pulled = 0;
            while let Some(frame) = parser.pull() {
                pulled += 1;
                assert!(pulled <= data.len() + 1, "pulling ends");
                match frame {
                    Ok(Frame::Message(m)) => seen.push(Ok(m.to_bytes())),
                    Ok(Frame::Ping | Frame::Pong) => {}
                    Err(e) => seen.push(Err(e.status())),
                }
            }
        }
        seen
    };
    let whole = run(data.len().max(1));
    for piece in [1, 7] {
        assert_eq!(run(piece).iter().filter(|f| f.is_ok()).count(), whole.iter().filter(|f| f.is_ok()).count());
    }
    for bytes in whole.into_iter().flatten() {
        same(&bytes, "a message of a stream");
    }
}

/// A URI: shown as written, equal to itself, and its key is a fixed point.
pub fn uri(data: &[u8]) {
    let Ok(uri) = Uri::from_bytes(data) else { return };
    assert_eq!(uri.as_str().as_bytes(), data);
    assert!(uri.equivalent(&uri));
    let key = uri.aor();
    assert_eq!(key.aor(), key);
    let _ = (uri.user(), uri.password(), uri.host(), uri.host_ip(), uri.port_or_default(), uri.user_decoded());
    let _ = (uri.params().count(), uri.headers().count(), uri.transport());
    if uri.is_sip() {
        assert!(!uri.host().is_empty());
        assert!(!uri.without_param("lr").has_param("lr"));
        if let Ok(with) = uri.with_param("lr", None) {
            assert!(with.has_param("lr") && with.equivalent(&uri.without_param("lr")));
        }
    }
}

/// A session description: whatever is taken can be answered, and the answer reads back.
pub fn sdp(data: &[u8]) {
    let origin = Origin { id: 1, version: 1 };
    let Ok(label) = "tcp/7000".parse::<Label>() else { return };
    let source = ([192, 0, 2, 1], 9).into();
    let ours = Offer::direct(label, source, ([198, 18, 0, 1], 9).into());
    let _ = Answer::parse(data, &ours);
    let Ok(offer) = ReceivedOffer::parse(data) else { return };
    for line in &offer.lines {
        let ends = match &line.end {
            End::Direct(_) => vec![End::Direct(Direct::active(source)), End::Direct(Direct::passive(source))],
            End::Tls(tls) => vec![Setup::Active, Setup::Passive]
                .into_iter()
                .map(|setup| End::Tls(Tls { setup, listen: vec![source], ..tls.clone() }))
                .collect(),
            End::Channels(channels) => vec![End::Channels(channels.answer(channels.ice.clone()))],
            other => vec![other.clone()],
        };
        for end in ends {
            let Ok(answer) = offer.answer(line.index, &end, origin) else { continue };
            // An answer of QUIC has no label.
            let read = ReceivedOffer::parse(&answer).is_ok() || matches!(end, End::Quic(_));
            assert!(read, "{}", answer.escape_ascii());
        }
    }
    // What was read can be offered, and reads back as it was.
    let mut ends: Vec<End> = offer.lines.iter().map(|line| line.end.clone()).collect();
    ends.retain(|end| match end {
        End::Tls(_) | End::Quic(_) => true,
        // Another end's label is another one's.
        End::Channels(channels) => channels.sipbox,
        _ => false,
    });
    ends.truncate(8);
    ends.insert(0, End::Direct(Direct::active(source)));
    let all = Offer { flows: ends, ..ours };
    let read = ReceivedOffer::parse(&all.to_sdp(origin));
    assert!(read.as_ref().is_ok_and(|read| read.lines.len() == all.flows.len()), "{read:?}");
    let _ = Answer::parse(data, &all);
}

/// A message of DCEP; and the attributes of a section of data channels.
pub fn datachannel(data: &[u8]) {
    if let Some(message) = dcep::Message::parse(data) {
        assert_eq!(dcep::Message::parse(&message.to_bytes()).as_ref(), Some(&message));
    }
    let fingerprint = "AA:".repeat(31) + "AA";
    let mut section =
        b"v=0\r\no=- 1 1 IN IP4 192.0.2.1\r\ns=-\r\nt=0 0\r\nm=application 9 UDP/DTLS/SCTP webrtc-datachannel\r\n\
        c=IN IP4 192.0.2.1\r\na=ice-ufrag:abcd\r\na=ice-pwd:abcdefghijklmnopqrstuv\r\na=fingerprint:sha-256 "
            .to_vec();
    section.extend_from_slice(fingerprint.as_bytes());
    section.extend_from_slice(b"\r\n");
    section.extend_from_slice(data);
    sdp(&section);
}

/// The body of a PUBLISH or NOTIFY: a presence document that is taken is the same when it is written and read again, whatever else is in it;
/// a list that is taken names its resources. With a first line that is a media type the rest is a body of that type (RFC 4662 5: several parts).
pub fn presence(data: &[u8]) {
    if let Ok(document) = Document::parse(data) {
        let xml = document.to_xml();
        match Document::parse(xml.as_bytes()) {
            Ok(again) => assert_eq!(again, document, "{xml}"),
            Err(error) => panic!("{error}: {xml}"),
        }
        for tuple in &document.tuples {
            assert!(tuple.note.as_ref().is_none_or(|note| note.chars().count() <= MAX_NOTE));
        }
    }
    if let Ok(members) = members(data) {
        members.iter().for_each(|uri| self::uri(uri.as_str().as_bytes()));
    }
    let Some(end) = data.iter().position(|byte| *byte == b'\n') else { return };
    let (Ok(kind), Ok(resource)) = (std::str::from_utf8(&data[..end]), "sip:friends@example.org".parse::<Uri>()) else {
        return;
    };
    let body = Bytes::copy_from_slice(&data[end + 1..]);
    if let Ok(update) = Update::parse(&resource, kind.trim_end(), &body) {
        assert!(update.changes.len() <= body.len());
    }
}

/// A header of authentication.
pub fn digest(data: &[u8]) {
    if let Ok(auth) = AuthHeader::parse(data) {
        let _ = (auth.is_digest(), auth.get("nonce"), auth.get("qop"));
    }
}
