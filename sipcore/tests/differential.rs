//! The same messages read by sipbox and by rsip 0.4: where both can read them, they must say the same.
//!
//! Known errors of rsip, left out by name: it cuts a URI parameter at its first colon (`;gr=urn:uuid:..` becomes `gr=urn`),
//! knows a closed set of methods, takes a user with a dot for a part of
//! the host, reads no IPv6 reference with a port, keeps compact header names as unknown headers, and does not join folded lines.
#![allow(clippy::unwrap_used)]

use std::path::PathBuf;

use bytes::Bytes;
use rsip::headers::UntypedHeader;
use rsip::message::{HasHeaders, HeadersExt};
use rsip::prelude::ToTypedHeader;
use sipcore::message::{Message, Uri};

#[path = "common/dice.rs"]
mod dice;

use dice::Dice;

/// Part by part, as both see it.
fn same_uri(ours: &Uri, theirs: &rsip::Uri, context: &str) {
    let text = theirs.to_string();
    assert!(ours.as_str().eq_ignore_ascii_case(&text), "{context}: {ours} {text}");
    assert_eq!(ours.user(), theirs.user(), "{context}");
    assert_eq!(ours.host(), theirs.host().to_string(), "{context}");
    assert_eq!(ours.port(), theirs.port().map(|p| *p.value()), "{context}");
    assert_eq!(ours.params().count(), theirs.params.len(), "{context}");
}

fn same_address(
    ours: sipcore::message::NameAddr<'_>,
    display: Option<&str>,
    uri: &rsip::Uri,
    tag: Option<String>,
    context: &str,
) {
    same_uri(&ours.uri().unwrap(), uri, context);
    assert_eq!(ours.display().as_deref(), display.map(|d| d.trim_matches('"')).filter(|d| !d.is_empty()), "{context}");
    assert_eq!(ours.tag().map(str::to_owned), tag, "{context}");
}

fn compare(ours: &Message, theirs: &rsip::SipMessage, context: &str) {
    match theirs {
        rsip::SipMessage::Request(r) => {
            assert_eq!(ours.method().unwrap().as_str(), r.method().to_string(), "{context}");
            same_uri(&ours.request_uri().unwrap(), r.uri(), context);
        }
        rsip::SipMessage::Response(r) => assert_eq!(ours.status().unwrap(), r.status_code().code(), "{context}"),
    }
    assert_eq!(ours.headers().len(), theirs.headers().iter().count(), "{context}");
    for (ours, theirs) in ours.headers().iter().zip(theirs.headers().iter()) {
        let theirs = theirs.to_string();
        let (name, value) = theirs.split_once(':').unwrap();
        assert!(ours.name().eq_ignore_ascii_case(name), "{context}");
        assert_eq!(ours.text(), value.trim(), "{context}");
    }
    assert_eq!(ours.body().as_ref(), theirs.body().as_slice(), "{context}");
    assert_eq!(ours.call_id().unwrap(), theirs.call_id_header().unwrap().value(), "{context}");
    let cseq = theirs.cseq_header().unwrap().typed().unwrap();
    let our_cseq = ours.cseq().unwrap();
    assert_eq!((our_cseq.number, our_cseq.method.to_string()), (cseq.seq, cseq.method.to_string()), "{context}");
    let via = theirs.via_header().unwrap().typed().unwrap();
    let our_via = ours.via().unwrap();
    assert_eq!(our_via.transport, via.transport.to_string(), "{context}");
    assert_eq!(our_via.branch(), via.branch().map(|b| b.value()), "{context}");
    assert_eq!(our_via.received(), via.received().unwrap(), "{context}");
    assert_eq!(
        (our_via.host.to_owned(), our_via.port),
        (via.uri.host().to_string(), via.uri.port().map(|p| *p.value()))
    );
    let from = theirs.from_header().unwrap().typed().unwrap();
    let tag = from.tag().map(|t| t.value().to_owned());
    same_address(ours.from().unwrap(), from.display_name.as_deref(), &from.uri, tag, context);
    let to = theirs.to_header().unwrap().typed().unwrap();
    let tag = to.tag().map(|t| t.value().to_owned());
    same_address(ours.to().unwrap(), to.display_name.as_deref(), &to.uri, tag, context);
    if let Ok(contact) = theirs.contact_header() {
        let contact = contact.typed().unwrap();
        same_uri(&ours.contacts().next().unwrap().unwrap().uri().unwrap(), &contact.uri, context);
    }
}

#[test]
fn generated_messages() {
    let mut dice = Dice::new(0x5109_b0c5);
    for _ in 0..3000 {
        let text = dice.message();
        let ours = Message::parse_datagram(Bytes::from(text.clone())).unwrap();
        assert_eq!(ours.to_bytes(), text);
        assert_eq!(sipcore::message::validate(&ours), Ok(()), "{text}");
        let theirs = rsip::SipMessage::try_from(text.as_str()).unwrap_or_else(|e| panic!("{e}: {text}"));
        compare(&ours, &theirs, &text);
    }
}

/// Messages of RFC 4475 that rsip does not read or reads wrong, and why; all others that are valid must be read alike.
const RSIP_FAILS: &[(&str, &str)] = &[
    ("TC_DBLREQ", "octets behind Content-Length stay in the body"),
    ("TC_ESC01_V", "a folded header"),
    ("TC_ESC02_V", "an unknown method"),
    ("TC_INTMETH", "an unknown method"),
    ("TC_INVUT_V", "a user with a dot"),
    ("TC_LONGREQ_V", "white space before the colon of a header"),
    ("TC_REGAUT01_V", "a user with a dot"),
    ("TC_SEMIURI_V", "a user with a semicolon"),
    ("TC_UNKSM2_V", "the host of an http URI, which is one piece here"),
    ("TC_WSINV", "folded headers"),
];

#[test]
fn the_torture_messages_that_rsip_reads() {
    let dir = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/corpus/rfc4475"));
    let files = std::fs::read_dir(&dir).unwrap_or_else(|e| panic!("{} cannot be read: {e}", dir.display()));
    let mut compared = 0;
    for file in files {
        let path = file.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        let bytes = Bytes::from(std::fs::read(&path).unwrap());
        let Ok(ours) = Message::parse_datagram(bytes.clone()) else { continue };
        if sipcore::message::validate(&ours).is_err() || RSIP_FAILS.iter().any(|(n, _)| *n == name) {
            continue;
        }
        compare(&ours, &rsip::SipMessage::try_from(bytes).unwrap(), &name);
        compared += 1;
    }
    assert_eq!(compared, 16);
}
