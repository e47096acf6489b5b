//! The same messages read by sipbox, by rsipstack 0.7 and by ezk-sip-types 0.6: where they can read them, they must say the same.
//!
//! Known differences, left out by name: rsipstack keeps compact header names as unknown headers, and drops transport=udp from a Contact; both know `sip:` and `sips:` URIs only.
#![allow(clippy::unwrap_used)]

#[path = "common/dice.rs"]
mod dice;

use bytes::Bytes;
use bytesstr::BytesStr;
use dice::Dice;
use ezk_sip_types::header::typed::{CSeq, CallID, Contact, FromTo, Via};
use ezk_sip_types::msg::{Line, MessageLine, PullParser};
use ezk_sip_types::parse::Parse;
use ezk_sip_types::uri::{SipUri, SipUriUserPart};
use ezk_sip_types::{Headers, Name};
use rsipstack::sip::headers::ToTypedHeader;
use rsipstack::sip::{self, HasHeaders, HeadersExt};
use sipcore::message::{Message, NameAddr, Scheme, Uri};

/// A message as ezk reads it.
struct Ezk {
    line: MessageLine,
    headers: Headers,
}

impl Ezk {
    fn parse(bytes: &Bytes) -> Ezk {
        let mut lines = PullParser::new(bytes, 0).map(|line| std::str::from_utf8(line.unwrap()).unwrap());
        let first = BytesStr::from_parse(bytes, lines.next().unwrap());
        let line = MessageLine::parse(first.as_ref())(&first).unwrap().1;
        let mut headers = Headers::new();
        for line in lines {
            let (_, Line { name, value }) = Line::parse(bytes, line).unwrap();
            headers.insert(name, value);
        }
        Ezk { line, headers }
    }
}

fn same_as_ezk(ours: &Uri, theirs: &SipUri, context: &str) {
    assert_eq!(ours.scheme() == Scheme::Sips, theirs.sips, "{context}");
    let user = match &theirs.user_part {
        SipUriUserPart::Empty => None,
        SipUriUserPart::User(user) => Some(user.as_str()),
        SipUriUserPart::UserPw(both) => Some(both.user.as_str()),
    };
    assert_eq!(ours.user_decoded().as_deref(), user, "{context}");
    assert_eq!(
        (ours.host().to_owned(), ours.port()),
        (theirs.host_port.host.to_string(), theirs.host_port.port),
        "{context}"
    );
}

fn same_address_as_ezk(ours: NameAddr<'_>, theirs: &FromTo, context: &str) {
    same_as_ezk(&ours.uri().unwrap(), &theirs.uri.uri, context);
    assert_eq!(ours.tag(), theirs.tag.as_ref().map(|tag| tag.as_str()), "{context}");
    assert_eq!(ours.display().as_deref(), theirs.uri.name.as_ref().map(|name| name.as_str().trim()), "{context}");
}

fn compare_with_ezk(ours: &Message, theirs: &Ezk, context: &str) {
    match &theirs.line {
        MessageLine::Request(line) => {
            assert_eq!(ours.method().unwrap().as_str(), line.method.to_string(), "{context}");
            same_as_ezk(&ours.request_uri().unwrap(), &line.uri, context);
        }
        MessageLine::Response(line) => assert_eq!(ours.status().unwrap(), line.code.into_u16(), "{context}"),
    }
    let headers = &theirs.headers;
    same_address_as_ezk(ours.from().unwrap(), &headers.get(Name::FROM).unwrap(), context);
    same_address_as_ezk(ours.to().unwrap(), &headers.get(Name::TO).unwrap(), context);
    let contact: Vec<Contact> = headers.get_named().unwrap();
    same_as_ezk(&ours.contacts().next().unwrap().unwrap().uri().unwrap(), &contact[0].uri.uri, context);
    let cseq: CSeq = headers.get_named().unwrap();
    let our_cseq = ours.cseq().unwrap();
    assert_eq!((our_cseq.number, our_cseq.method.to_string()), (cseq.cseq, cseq.method.to_string()), "{context}");
    let call_id: CallID = headers.get_named().unwrap();
    assert_eq!(ours.call_id().unwrap(), call_id.0.as_str(), "{context}");
    let via: Vec<Via> = headers.get_named().unwrap();
    let our_via = ours.via().unwrap();
    assert_eq!(our_via.transport, via[0].transport.as_str(), "{context}");
    assert_eq!(our_via.branch(), via[0].params.get_val("branch").map(|branch| branch.as_str()), "{context}");
    assert_eq!(
        (our_via.host.to_owned(), our_via.port),
        (via[0].sent_by.host.to_string(), via[0].sent_by.port),
        "{context}"
    );
}

fn same_as_rsipstack(ours: &Uri, theirs: &sip::Uri, context: &str) {
    assert_eq!(ours.user(), theirs.user(), "{context}");
    assert_eq!(ours.host(), theirs.host().to_string(), "{context}");
    assert_eq!(ours.port(), theirs.host_with_port.port.as_ref().map(|port| port.value()), "{context}");
    // In a Contact rsipstack drops transport=udp, the default.
    let dropped = ours.transport() == Some("udp");
    let params = ours.params().filter(|(name, _)| !(dropped && *name == "transport")).count();
    let theirs = theirs.params.iter().filter(|param| !(dropped && matches!(param, sip::Param::Transport(_)))).count();
    assert_eq!(params, theirs, "{context}");
}

fn compare_with_rsipstack(ours: &Message, theirs: &sip::SipMessage, context: &str) {
    match theirs {
        sip::SipMessage::Request(request) => {
            assert_eq!(ours.method().unwrap().as_str(), request.method.to_string(), "{context}");
            same_as_rsipstack(&ours.request_uri().unwrap(), &request.uri, context);
        }
        sip::SipMessage::Response(response) => {
            assert_eq!(ours.status().unwrap(), response.status_code.code(), "{context}");
        }
    }
    assert_eq!(ours.headers().len(), theirs.headers().iter().count(), "{context}");
    assert_eq!(ours.call_id().unwrap(), theirs.call_id_header().unwrap().value(), "{context}");
    for (ours, theirs) in [
        (ours.from().unwrap(), theirs.from_header().unwrap().typed().map(|from| (from.uri, from.params)).unwrap()),
        (ours.to().unwrap(), theirs.to_header().unwrap().typed().map(|to| (to.uri, to.params)).unwrap()),
    ] {
        let (uri, params) = theirs;
        same_as_rsipstack(&ours.uri().unwrap(), &uri, context);
        let tag =
            params.iter().find_map(|param| if let sip::Param::Tag(tag) = param { Some(tag.to_string()) } else { None });
        assert_eq!(ours.tag(), tag.as_deref(), "{context}");
    }
    let contact = theirs.contact_header().unwrap().typed().unwrap();
    same_as_rsipstack(&ours.contacts().next().unwrap().unwrap().uri().unwrap(), &contact.uri, context);
    let cseq = theirs.cseq_header().unwrap().typed().unwrap();
    let our_cseq = ours.cseq().unwrap();
    assert_eq!((our_cseq.number, our_cseq.method.to_string()), (cseq.seq, cseq.method.to_string()), "{context}");
    let via = theirs.via_header().unwrap().typed().unwrap();
    let our_via = ours.via().unwrap();
    assert_eq!(our_via.transport, via.transport.to_string(), "{context}");
    assert_eq!(our_via.branch(), via.branch().map(|branch| branch.value()), "{context}");
}

#[test]
fn ezk_reads_the_same() {
    let mut dice = Dice::new(0xe2c0_51b5);
    for _ in 0..3000 {
        let bytes = Bytes::from(dice.message());
        let text = String::from_utf8_lossy(&bytes).into_owned();
        compare_with_ezk(&Message::parse_datagram(bytes.clone()).unwrap(), &Ezk::parse(&bytes), &text);
    }
}

#[test]
fn rsipstack_reads_the_same() {
    let mut dice = Dice::new(0x2515_57ac);
    for _ in 0..3000 {
        let text = dice.message();
        let theirs = sip::SipMessage::try_from(text.as_str()).unwrap_or_else(|e| panic!("{e}: {text}"));
        compare_with_rsipstack(&Message::parse_datagram(Bytes::from(text.clone())).unwrap(), &theirs, &text);
    }
}
