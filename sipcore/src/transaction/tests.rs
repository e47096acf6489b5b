//! The table of transactions, message by message.

use super::{ClientId, Event, Layer, ServerId, Timing};
use crate::message::{Message, Method, name};
use crate::transport::{Flow, Transport};
use std::time::{Duration, Instant};

const SECOND: Duration = Duration::from_secs(1);

fn layer() -> (Layer, Instant) {
    (Layer::new(Timing::default(), vec!["10.0.0.1:5060".parse().unwrap()], 1000), Instant::now())
}

fn flow(transport: Transport) -> Flow {
    Flow { transport, local: 0, remote: "10.0.0.2:5060".parse().unwrap() }
}

fn request(method: Method) -> Message {
    Message::request(method.clone(), &"sip:bob@b.example".parse().unwrap())
        .header(name::MAX_FORWARDS, 70)
        .header(name::FROM, "<sip:a@b>;tag=1")
        .header(name::TO, "<sip:c@d>")
        .header(name::CALL_ID, "x")
        .header(name::CSEQ, format_args!("1 {method}"))
        .build()
}

fn sent(layer: &mut Layer) -> Vec<Message> {
    std::iter::from_fn(|| layer.poll_transmit())
        .map(|transmit| Message::parse_datagram(transmit.payload).unwrap())
        .collect()
}

fn pass(layer: &mut Layer, from: Instant, time: Duration) -> Instant {
    let end = from + time;
    while let Some(at) = layer.poll_timeout().filter(|at| *at <= end) {
        layer.handle_timeout(at.max(from));
    }
    end
}

fn methods(messages: &[Message]) -> Vec<String> {
    messages.iter().map(|message| message.start_line().split(' ').next().unwrap_or_default().to_string()).collect()
}

fn answer(layer: &mut Layer, now: Instant, transport: Transport, invite: &Message, status: u16) {
    let answer = Message::response_to(invite, status, "x").to_tag("t").build();
    layer.handle_message(now, flow(transport), answer);
}

#[test]
fn a_refusal_is_acknowledged_each_time_and_told_once() {
    let (mut layer, now) = layer();
    layer.request(now, flow(Transport::Udp), request(Method::Invite), None);
    let invite = sent(&mut layer).remove(0);
    for _ in 0..3 {
        answer(&mut layer, now, Transport::Udp, &invite, 486);
        let ack = sent(&mut layer).remove(0);
        assert_eq!(ack.method(), Some(&Method::Ack));
        assert_eq!(ack.to_tag(), Some("t"));
        assert_eq!(ack.via().unwrap().branch(), invite.via().unwrap().branch());
    }
    assert!(matches!(layer.poll_event(), Some(Event::Response { .. })));
    assert!(layer.poll_event().is_none());
    pass(&mut layer, now, 33 * SECOND);
    assert_eq!((layer.len(), layer.poll_timeout()), (0, None), "timer D");
}

#[test]
fn datagrams_are_repeated_and_streams_are_not() {
    for (transport, invites, others) in [(Transport::Udp, 6, 10), (Transport::Tcp, 0, 0)] {
        for (method, repeated) in [(Method::Invite, invites), (Method::Options, others)] {
            let (mut layer, now) = layer();
            layer.request(now, flow(transport), request(method), None);
            assert_eq!(sent(&mut layer).len(), 1);
            pass(&mut layer, now, 33 * SECOND);
            assert_eq!(sent(&mut layer).len(), repeated);
            assert!(matches!(layer.poll_event(), Some(Event::Timeout { .. })), "timers B and F");
            assert_eq!((layer.len(), layer.windows()), (0, 0));
        }
    }
}

#[test]
fn an_accepted_invite_passes_on_every_2xx_until_timer_m() {
    let (mut layer, now) = layer();
    let id = layer.request(now, flow(Transport::Tcp), request(Method::Invite), None);
    let invite = sent(&mut layer).remove(0);
    for _ in 0..2 {
        answer(&mut layer, now, Transport::Tcp, &invite, 200);
        assert!(matches!(layer.poll_event(), Some(Event::Response { .. })));
    }
    answer(&mut layer, now, Transport::Tcp, &invite, 486);
    assert!(layer.poll_event().is_none());
    pass(&mut layer, now, 33 * SECOND);
    assert!(matches!(layer.poll_event(), Some(Event::Gone { id: gone }) if gone == id));
    assert_eq!(layer.len(), 0);
}

#[test]
fn responses_of_others_are_dropped() {
    let (mut layer, now) = layer();
    layer.request(now, flow(Transport::Udp), request(Method::Options), None);
    let options = sent(&mut layer).remove(0);
    let mut other = options.clone();
    other.set_first_param(name::VIA, "branch", Some(&ClientId::random(&Method::Options).branch(None)));
    answer(&mut layer, now, Transport::Udp, &other, 200);
    other.set_first_param(name::VIA, "branch", Some("z9hG4bK-short"));
    answer(&mut layer, now, Transport::Udp, &other, 200);
    let mut cancel = options.clone();
    cancel.set(name::CSEQ, "1 CANCEL");
    answer(&mut layer, now, Transport::Udp, &cancel, 200);
    assert!(layer.poll_event().is_none());
    answer(&mut layer, now, Transport::Udp, &options, 200);
    assert!(matches!(layer.poll_event(), Some(Event::Response { .. })));
}

fn received(layer: &mut Layer, now: Instant, transport: Transport, message: &Message) -> Option<ServerId> {
    layer.handle_message(now, flow(transport), message.clone());
    match layer.poll_event() {
        Some(Event::Request { id, .. }) => Some(id),
        _ => None,
    }
}

/// An INVITE as it arrives, its ACK and its CANCEL; `branch` as the peer writes it, if it does.
fn arriving(branch: &str) -> [Message; 3] {
    [Method::Invite, Method::Ack, Method::Cancel].map(|method| {
        let mut message = request(method);
        message.push_front(name::VIA, format_args!("SIP/2.0/UDP 10.0.0.2:5060{branch}"));
        message
    })
}

#[test]
fn a_peer_with_and_without_branches_is_understood() {
    for branch in [";branch=z9hG4bKabc", ";branch=old", ""] {
        let (mut layer, now) = layer();
        let [invite, ack, cancel] = arriving(branch);
        let id = received(&mut layer, now, Transport::Udp, &invite).unwrap();
        assert_eq!(received(&mut layer, now, Transport::Udp, &invite), None, "absorbed, {branch}");
        assert_eq!(layer.cancelled_by(&cancel), Some(id), "{branch}");
        layer.respond(now, id, &Message::response_to(&invite, 486, "x").to_tag("t").build());
        assert!(received(&mut layer, now, Transport::Udp, &invite).is_none());
        assert_eq!(methods(&sent(&mut layer)), ["SIP/2.0", "SIP/2.0"], "the answer and its repetition");
        let now = pass(&mut layer, now, SECOND);
        assert_eq!(sent(&mut layer).len(), 1, "timer G");
        layer.handle_message(now, flow(Transport::Udp), ack);
        assert!(layer.poll_event().is_none(), "this ACK is nobody else's business");
        pass(&mut layer, now, 6 * SECOND);
        assert!(sent(&mut layer).is_empty());
        assert_eq!(layer.len(), 0, "timer I");
    }
}

#[test]
fn a_refusal_that_is_never_acknowledged_is_forgotten() {
    for transport in [Transport::Udp, Transport::Tcp] {
        let (mut layer, now) = layer();
        let [invite, ..] = arriving(";branch=z9hG4bKabc");
        let id = received(&mut layer, now, transport, &invite).unwrap();
        layer.respond(now, id, &Message::response_to(&invite, 486, "x").to_tag("t").build());
        pass(&mut layer, now, 33 * SECOND);
        assert_eq!((layer.len(), layer.poll_timeout()), (0, None), "timer H");
    }
}

#[test]
fn the_ack_of_a_2xx_reaches_the_user() {
    let (mut layer, now) = layer();
    let [invite, ack, _] = arriving(";branch=z9hG4bKabc");
    let id = received(&mut layer, now, Transport::Udp, &invite).unwrap();
    layer.respond(now, id, &Message::response_to(&invite, 200, "OK").to_tag("t").build());
    layer.handle_message(now, flow(Transport::Udp), ack);
    assert!(matches!(layer.poll_event(), Some(Event::Ack { .. })));
    let [_, other, _] = arriving(";branch=z9hG4bKother");
    layer.handle_message(now, flow(Transport::Udp), other);
    assert!(matches!(layer.poll_event(), Some(Event::Ack { .. })));
    pass(&mut layer, now, 33 * SECOND);
    assert_eq!(layer.len(), 0, "timer L");
}

#[test]
fn bursts_wait_for_signs_of_life() {
    let (mut layer, now) = layer();
    for _ in 0..100 {
        layer.request(now, flow(Transport::Udp), request(Method::Options), None);
    }
    let mut on_the_way = sent(&mut layer);
    let first = on_the_way.len();
    assert!((10..90).contains(&first), "{first}");
    let mut answered = 0;
    while let Some(options) = on_the_way.pop() {
        answer(&mut layer, now, Transport::Udp, &options, 200);
        answered += 1;
        on_the_way.extend(sent(&mut layer));
        assert!(on_the_way.len() <= first);
    }
    assert_eq!((answered, layer.windows()), (100, 0));
}

#[test]
fn a_hundred_thousand_transactions_end_in_time() {
    let mut layer = Layer::new(Timing::default(), vec!["10.0.0.1:5060".parse().unwrap()], usize::MAX);
    let now = Instant::now();
    let [_, _, template] = arriving("");
    for serial in 0..100_000 {
        let mut message = template.clone();
        message.set_first_param(name::VIA, "branch", Some(&format!("z9hG4bK{serial}")));
        let id = received(&mut layer, now, Transport::Udp, &message).unwrap();
        layer.respond(now, id, &Message::response_to(&message, 481, "x").build());
        layer.poll_transmit();
    }
    let start = Instant::now();
    pass(&mut layer, now, 33 * SECOND);
    assert_eq!(layer.len(), 0);
    assert!(start.elapsed() < 10 * SECOND, "{:?}", start.elapsed());
}
