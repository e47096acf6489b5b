//! One message read, with six typed headers: Via, From, To, Contact, CSeq and Call-ID; sipbox against rsip, rsipstack and ezk-sip-types in
//! turns, by the processor's time, in which other programs of the machine have no part. Prints a table; asserts nothing.
#![allow(clippy::unwrap_used)]

use bytes::Bytes;
use bytesstr::BytesStr;
use ezk_sip_types::header::typed::{CSeq, CallID, Contact, FromTo, Via};
use ezk_sip_types::msg::{Line, MessageLine, PullParser};
use ezk_sip_types::parse::Parse;
use ezk_sip_types::{Headers, Name};
use sipcore::message::Message;
use std::hint::black_box;
use std::time::Duration;

/// Rounds in which every parser has its turn, and messages of one turn.
const ROUNDS: usize = 25;
const MESSAGES: u32 = 4000;
/// What sipbox has to stay below, in nanoseconds a message.
const GOAL: f64 = 2500.0;

const INVITE: &str = "INVITE sip:bob@example.com;gr=urn-uuid-f81d4fae SIP/2.0\r\n\
    Via: SIP/2.0/UDP 192.0.2.4:5060;branch=z9hG4bK1d32hash4;rport\r\n\
    Via: SIP/2.0/TCP edge.example.org:5070;branch=z9hG4bK77ef4c2312983.1;received=192.0.2.9\r\n\
    Max-Forwards: 69\r\n\
    From: \"Alice L.\" <sip:alice@example.org>;tag=1928301774\r\n\
    To: Bob <sip:bob@example.com>\r\n\
    Call-ID: a84b4c76e66710@pc33.example.org\r\n\
    CSeq: 314159 INVITE\r\n\
    Contact: <sip:alice@192.0.2.4:5060;transport=tcp>;expires=60\r\n\
    Allow: INVITE, ACK, CANCEL, BYE, OPTIONS, UPDATE, PRACK\r\n\
    Supported: gruu, timer\r\n\
    User-Agent: bench/1\r\n\
    Content-Type: application/sdp\r\n\
    Content-Length: 136\r\n\r\n\
    v=0\r\no=- 1 1 IN IP4 192.0.2.4\r\ns=-\r\nc=IN IP4 192.0.2.4\r\nt=0 0\r\nm=application 40014 TCP octet-stream\r\na=setup:actpass\r\na=connection:new\r\n";

fn sipbox(bytes: &Bytes) {
    let message = Message::parse_datagram(bytes.clone()).unwrap();
    black_box(message.via().unwrap().branch());
    for address in [message.from().unwrap(), message.to().unwrap(), message.contacts().next().unwrap().unwrap()] {
        black_box((address.uri().unwrap(), address.tag()));
    }
    black_box((message.cseq().unwrap(), message.call_id().unwrap()));
    black_box(&message);
}

fn rsip(bytes: &Bytes) {
    use rsip::headers::UntypedHeader;
    use rsip::message::HeadersExt;
    use rsip::prelude::ToTypedHeader;
    let message = rsip::SipMessage::try_from(bytes.as_ref()).unwrap();
    black_box(message.via_header().unwrap().typed().unwrap());
    black_box(message.from_header().unwrap().typed().unwrap());
    black_box(message.to_header().unwrap().typed().unwrap());
    black_box(message.contact_header().unwrap().typed().unwrap());
    black_box(message.cseq_header().unwrap().typed().unwrap());
    black_box(message.call_id_header().unwrap().value());
    black_box(&message);
}

fn rsipstack(bytes: &Bytes) {
    use rsipstack::sip::headers::ToTypedHeader;
    use rsipstack::sip::{HeadersExt, SipMessage};
    let message = SipMessage::try_from(bytes.clone()).unwrap();
    black_box(message.via_header().unwrap().typed().unwrap());
    black_box(message.from_header().unwrap().typed().unwrap());
    black_box(message.to_header().unwrap().typed().unwrap());
    black_box(message.contact_header().unwrap().typed().unwrap());
    black_box(message.cseq_header().unwrap().typed().unwrap());
    black_box(message.call_id_header().unwrap().value());
    black_box(&message);
}

fn ezk(bytes: &Bytes) {
    let mut parser = PullParser::new(bytes, 0);
    let first = BytesStr::from_parse(bytes, std::str::from_utf8(parser.next().unwrap().unwrap()).unwrap());
    black_box(MessageLine::parse(first.as_ref())(&first).unwrap().1);
    let mut headers = Headers::new();
    for line in &mut parser {
        let (_, Line { name, value }) = Line::parse(bytes, std::str::from_utf8(line.unwrap()).unwrap()).unwrap();
        headers.insert(name, value);
    }
    black_box(bytes.slice(parser.head_end()..));
    black_box(headers.get_named::<Vec<Via>>().unwrap());
    black_box(headers.get::<FromTo>(Name::FROM).unwrap());
    black_box(headers.get::<FromTo>(Name::TO).unwrap());
    black_box(headers.get_named::<Vec<Contact>>().unwrap());
    black_box(headers.get_named::<CSeq>().unwrap());
    black_box(headers.get_named::<CallID>().unwrap());
}

/// Reads a message and looks at its six headers.
type Parser = fn(&Bytes);

/// Of this thread (clock_gettime(2)).
fn processor_time() -> Duration {
    nix::time::clock_gettime(nix::time::ClockId::CLOCK_THREAD_CPUTIME_ID).unwrap().into()
}

fn main() {
    let bytes = Bytes::from_static(INVITE.as_bytes());
    let parsers: [(&str, Parser); 4] =
        [("sipbox", sipbox), ("rsip", rsip), ("rsipstack", rsipstack), ("ezk-sip-types", ezk)];
    let mut taken: Vec<Vec<f64>> = vec![Vec::new(); parsers.len()];
    for _ in 0..ROUNDS {
        for ((_, parse), taken) in parsers.iter().zip(&mut taken) {
            let start = processor_time();
            for _ in 0..MESSAGES {
                parse(black_box(&bytes));
            }
            taken.push((processor_time() - start).as_nanos() as f64 / f64::from(MESSAGES));
        }
    }
    let medians: Vec<f64> = taken
        .iter_mut()
        .map(|taken| {
            taken.sort_by(f64::total_cmp);
            taken.get(taken.len() / 2).copied().unwrap_or_default()
        })
        .collect();
    let ours = medians.first().copied().unwrap_or_default();
    println!(
        "parse, six typed headers: ns a message, and as a multiple of sipbox (goal: sipbox <= {GOAL} ns, and first)"
    );
    for ((name, _), median) in parsers.iter().zip(&medians) {
        println!("  {name:<16} {median:>8.0} ns {:>8.2}", median / ours);
    }
    let reached = ours <= GOAL && medians.iter().skip(1).all(|median| *median > ours);
    println!("  reached: {}", if reached { "yes" } else { "NO" });
}
