//! What the presence server answers and tells, message by message.

use crate::auth::{Credentials, DigestClient};
use crate::hub::home::HomeProxy;
use crate::hub::{HubConfig, Users};
use crate::message::{Message, name};
use crate::presence::Update;
use crate::transaction::Timing;
use crate::transport::{Flow, Listen, Machine, Transport};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

struct Bench {
    now: Instant,
    hub: HomeProxy,
    serial: u32,
}

const EVENT: &str = "Event: presence\r\n";

fn bench(config: HubConfig) -> Bench {
    let now = Instant::now();
    let own = [Listen::plain("10.0.0.1:5060".parse().unwrap())];
    Bench { now, hub: HomeProxy::new(&config, &own, Timing::default(), now), serial: 0 }
}

fn pidf(tuples: &str) -> String {
    format!("<presence xmlns=\"urn:ietf:params:xml:ns:pidf\" entity=\"sip:bob@sipbox.invalid\">{tuples}</presence>")
}

const TUPLE: &str = "<tuple id=\"t\"><status><basic>open</basic></status><note>hello</note></tuple>";

impl Bench {
    fn request(&mut self, method: &str, uri: &str, from: &str, extra: &str, body: &str) -> Message {
        self.serial += 1;
        let (serial, length) = (self.serial, body.len());
        let text = format!(
            "{method} {uri} SIP/2.0\r\nVia: SIP/2.0/UDP 10.0.0.9:5060;branch=z9hG4bKx{serial};rport\r\nMax-Forwards: 70\r\n\
             To: <{uri}>\r\nFrom: <{from}>;tag=a\r\nCall-ID: c{serial}\r\nCSeq: {serial} {method}\r\n\
             Contact: <sip:x@10.0.0.9:5060>\r\n{extra}Content-Length: {length}\r\n\r\n{body}"
        );
        Message::parse_datagram(text.into()).unwrap()
    }

    fn put(&mut self, message: Message) -> Vec<Message> {
        let remote = SocketAddr::from(([10, 0, 0, 9], 5060));
        let flow = Flow { transport: Transport::Udp, local: 0, remote };
        self.hub.handle_message(self.now, flow, message);
        std::iter::from_fn(|| self.hub.poll_transmit())
            .map(|transmit| Message::parse_datagram(transmit.payload).unwrap())
            .collect()
    }

    fn publish(&mut self, extra: &str, body: &str) -> Message {
        let kind = if body.is_empty() { "" } else { "Content-Type: application/pidf+xml\r\n" };
        let bob = "sip:bob@sipbox.invalid";
        let request = self.request("PUBLISH", bob, bob, &format!("{EVENT}{kind}{extra}"), body);
        self.put(request).remove(0)
    }

    fn subscribe(&mut self, uri: &str, extra: &str) -> Vec<Message> {
        let request = self.request("SUBSCRIBE", uri, "sip:alice@sipbox.invalid", extra, "");
        self.put(request)
    }

    /// Answers a NOTIFY; what is sent then.
    fn answer(&mut self, notify: &Message, status: u16) -> Vec<Message> {
        self.put(Message::response_to(notify, status, "Answer").build())
    }
}

fn status(message: &Message) -> u16 {
    message.status().unwrap_or_default()
}

fn header(message: &Message, name: &str) -> String {
    message.header(name).map(|header| header.text().into_owned()).unwrap_or_default()
}

#[test]
fn publications_as_the_rfc_says() {
    let mut bench = bench(HubConfig::default());
    let created = bench.publish("Expires: 7200\r\n", &pidf(TUPLE));
    assert_eq!((status(&created), header(&created, name::EXPIRES).as_str()), (200, "3600"));
    let etag = header(&created, name::SIP_ETAG);
    let refreshed = bench.publish(&format!("SIP-If-Match: {etag}\r\n"), "");
    assert_eq!(status(&refreshed), 200);
    assert_eq!(status(&bench.publish(&format!("SIP-If-Match: {etag}\r\n"), "")), 412);
    assert_eq!(status(&bench.publish("", "")), 400, "nothing is published");
    let brief = bench.publish("Expires: 1\r\n", &pidf(TUPLE));
    assert_eq!((status(&brief), header(&brief, name::MIN_EXPIRES).as_str()), (423, "10"));
    let etag = header(&refreshed, name::SIP_ETAG);
    let removed = bench.publish(&format!("SIP-If-Match: {etag}\r\nExpires: 0\r\n"), "");
    assert_eq!((status(&removed), header(&removed, name::EXPIRES).as_str()), (200, "0"));
    assert_eq!(bench.hub.activity().publications, 0);
    let other = bench.request("PUBLISH", "sip:bob@sipbox.invalid", "sip:eve@sipbox.invalid", EVENT, "");
    assert_eq!(status(&bench.put(other)[0]), 403, "that is bob's");
    let bob = "sip:bob@sipbox.invalid";
    let package = bench.request("PUBLISH", bob, bob, "Event: dialog\r\n", "");
    let answer = bench.put(package).remove(0);
    assert!(matches!(status(&answer), 404 | 480), "other packages are for bob's agents: {answer:?}");
    let required = bench.publish("Require: x-new\r\n", &pidf(TUPLE));
    assert_eq!((status(&required), header(&required, name::UNSUPPORTED).as_str()), (420, "x-new"));
}

/// Malformed presence documents, and bodies that are none.
#[test]
fn bad_documents_are_refused_with_what_is_wrong() {
    let mut bench = bench(HubConfig::default());
    let bomb = "<!DOCTYPE p [<!ENTITY a \"b\"><!ENTITY c \"&a;&a;\">]><p>&c;</p>";
    let deep = "<a>".repeat(100);
    let twice = pidf(&format!("{TUPLE}{TUPLE}"));
    for (body, why) in [
        ("hello", "XML"),
        ("<presence/>", "presence document"),
        (bomb, "entity"),
        (&deep, "larger"),
        (&pidf("<tuple id=\"a\"/>"), "status"),
        (&twice, "one id"),
        (&pidf(TUPLE)[..60], "XML"),
        ("<presence xmlns=\"urn:ietf:params:xml:ns:pidf\" entity=\"x\">\u{1}</presence>", "U+0001"),
    ] {
        let answer = bench.publish("", body);
        assert_eq!(status(&answer), 400, "{body}");
        assert!(answer.reason().contains(why), "{body}: {}", answer.reason());
    }
    let bob = "sip:bob@sipbox.invalid";
    for kind in ["text/plain", "multipart/mixed;boundary=x", "application/pidf-diff+xml"] {
        let request = bench.request("PUBLISH", bob, bob, &format!("{EVENT}Content-Type: {kind}\r\n"), &pidf(TUPLE));
        let answer = bench.put(request).remove(0);
        assert_eq!((status(&answer), header(&answer, name::ACCEPT).as_str()), (415, "application/pidf+xml"));
    }
    let huge = pidf(&"<!-- -->".repeat(7000));
    assert_eq!(status(&bench.publish("", &huge)), 413);
    assert_eq!(bench.hub.activity().publications, 0);
}

#[test]
fn a_subscription_from_its_first_to_its_last_notification() {
    let mut bench = bench(HubConfig::default());
    let bob = "sip:bob@sipbox.invalid";
    let sent = bench.subscribe(bob, &format!("{EVENT}Expires: 60\r\n"));
    let [accepted, notify] = &sent[..] else { panic!("{sent:?}") };
    assert_eq!((status(accepted), header(accepted, name::EXPIRES).as_str()), (200, "60"));
    assert_eq!(header(notify, name::SUBSCRIPTION_STATE), "active;expires=60");
    assert_eq!((notify.to_tag(), notify.from_tag()), (Some("a"), accepted.to_tag()));
    bench.publish("", &pidf(TUPLE));
    let sent = bench.answer(notify, 200);
    let update = Update::parse(&bob.parse().unwrap(), &header(&sent[0], name::CONTENT_TYPE), sent[0].body()).unwrap();
    assert_eq!(update.changes[0].1.as_ref().unwrap().tuples[0].note.as_deref(), Some("hello"));
    assert!(bench.answer(&sent[0], 200).is_empty(), "nothing new");
    let refresh = |bench: &mut Bench, extra: &str| {
        let mut request = bench.request("SUBSCRIBE", "sip:10.0.0.1:5060", "sip:alice@sipbox.invalid", extra, "");
        request.set(name::TO, header(&sent[0], name::FROM));
        request.set(name::CALL_ID, header(&sent[0], name::CALL_ID));
        bench.put(request)
    };
    let again = refresh(&mut bench, &format!("{EVENT}Expires: 60\r\n"));
    assert_eq!((status(&again[0]), again.len()), (200, 2), "each SUBSCRIBE is followed by the state");
    bench.answer(&again[1], 200);
    assert_eq!(status(&refresh(&mut bench, "Event: reg\r\n")[0]), 489);
    let last = refresh(&mut bench, &format!("{EVENT}Expires: 0\r\n"));
    assert_eq!(header(&last[1], name::SUBSCRIPTION_STATE), "terminated;reason=timeout");
    bench.answer(&last[1], 200);
    assert_eq!(bench.hub.activity().subscriptions, 0);
    assert_eq!(status(&refresh(&mut bench, EVENT)[0]), 481);
}

#[test]
fn subscriptions_end_with_their_subscriber() {
    let mut bench = bench(HubConfig::default());
    for (refusal, left) in [(481, 0), (500, 0), (200, 1)] {
        let sent = bench.subscribe("sip:bob@sipbox.invalid", EVENT);
        bench.answer(&sent[1], refusal);
        assert_eq!(bench.hub.activity().subscriptions, left);
    }
    // Nobody refreshes it: it ends by itself, and so does the NOTIFY that nobody answers.
    let end = bench.now + Duration::from_secs(200);
    while let Some(at) = bench.hub.poll_timeout().filter(|at| *at <= end) {
        bench.hub.handle_timeout(at);
    }
    assert_eq!(bench.hub.activity().subscriptions, 0);
}

#[test]
fn what_cannot_be_subscribed_to() {
    let mut bench = bench(HubConfig::default());
    let bob = "sip:bob@sipbox.invalid";
    assert_eq!(status(&bench.subscribe("sip:sipbox.invalid", "Event: winter\r\n")[0]), 489);
    assert_eq!(status(&bench.subscribe("sip:sipbox.invalid", EVENT)[0]), 421, "a list needs eventlist");
    assert_eq!(status(&bench.subscribe(bob, "Event: presence\r\nExpires: 3\r\n")[0]), 423);
    assert_eq!(status(&bench.subscribe(bob, "Event: reg\r\n")[0]), 403, "registrations are their owner's");
    let mut without = bench.request("SUBSCRIBE", bob, "sip:alice@sipbox.invalid", EVENT, "");
    without.remove(name::CONTACT);
    assert_eq!(status(&bench.put(without)[0]), 400);
    let list = |body: &str| {
        (format!("{EVENT}Supported: eventlist\r\nContent-Type: application/resource-lists+xml\r\n"), body.to_owned())
    };
    for (body, owed) in [
        ("<resource-lists xmlns=\"urn:ietf:params:xml:ns:resource-lists\"><list/></resource-lists>", 400),
        ("<resource-lists>", 400),
        (
            "<resource-lists xmlns=\"urn:ietf:params:xml:ns:resource-lists\"><list><entry uri=\"sip:a@elsewhere\"/></list></resource-lists>",
            403,
        ),
    ] {
        let (extra, body) = list(body);
        let request = bench.request("SUBSCRIBE", "sip:sipbox.invalid", "sip:alice@sipbox.invalid", &extra, &body);
        assert_eq!(status(&bench.put(request)[0]), owed, "{body}");
    }
    assert_eq!(bench.hub.activity().subscriptions, 0);
}

#[test]
fn groups_and_lists_that_are_sent_along() {
    let groups = [("friends".to_owned(), vec!["bob".to_owned(), "carol".to_owned()])].into();
    let mut bench = bench(HubConfig { groups, ..HubConfig::default() });
    bench.publish("", &pidf(TUPLE));
    let extra = format!("{EVENT}Supported: eventlist\r\nExpires: 0\r\n");
    let group = bench.subscribe("sip:friends@sipbox.invalid", &extra);
    let kind = format!("{extra}Content-Type: application/resource-lists+xml\r\n");
    let body = "<resource-lists xmlns=\"urn:ietf:params:xml:ns:resource-lists\"><list><entry uri=\"sip:bob@sipbox.invalid\"/>\
        <entry uri=\"sip:carol@sipbox.invalid\"/></list></resource-lists>";
    let request = bench.request("SUBSCRIBE", "sip:sipbox.invalid", "sip:alice@sipbox.invalid", &kind, body);
    let along = bench.put(request);
    for sent in [group, along] {
        assert_eq!((status(&sent[0]), header(&sent[0], name::REQUIRE).as_str()), (200, "eventlist"));
        let notify = &sent[1];
        let text = String::from_utf8_lossy(notify.body()).into_owned();
        assert!(text.contains("sip:carol@sipbox.invalid"), "{text}");
        let update =
            Update::parse(&"sip:x@y".parse().unwrap(), &header(notify, name::CONTENT_TYPE), notify.body()).unwrap();
        assert!(update.full && update.changes.len() == 1 && update.changes[0].0.as_str() == "sip:bob@sipbox.invalid");
    }
    let bob = "sip:friends@sipbox.invalid";
    let request = bench.request("PUBLISH", bob, bob, EVENT, "");
    assert_eq!(status(&bench.put(request)[0]), 404, "a group is nobody");
}

/// A list that does not fit into one notification comes in several; the first says who is in it.
#[test]
fn long_lists_come_in_pieces() {
    let mut bench = bench(HubConfig::default());
    for n in 0..200 {
        let who = format!("sip:user{n}@sipbox.invalid");
        let body = pidf(&TUPLE.replace("hello", &"x".repeat(400)));
        let extra = format!("{EVENT}Content-Type: application/pidf+xml\r\n");
        let request = bench.request("PUBLISH", &who, &who, &extra, &body);
        assert_eq!(status(&bench.put(request)[0]), 200);
    }
    // A subscription, and a fetch, which ends with the last piece.
    for (extra, last) in [("", "active"), ("Expires: 0\r\n", "terminated;reason=timeout")] {
        let sent = bench.subscribe("sip:sipbox.invalid", &format!("{EVENT}{extra}Supported: eventlist\r\n"));
        pieces_of_a_list(&mut bench, sent, last);
    }
    assert_eq!(bench.hub.activity().subscriptions, 1);
}

fn pieces_of_a_list(bench: &mut Bench, mut sent: Vec<Message>, last: &str) {
    let mut notify = sent.remove(1);
    let (mut known, mut pieces) = (0, 0);
    loop {
        let kind = header(&notify, name::CONTENT_TYPE);
        assert!(notify.body().len() < 60_000, "{}", notify.body().len());
        let update = Update::parse(&"sip:x@y".parse().unwrap(), &kind, notify.body()).unwrap();
        assert_eq!((update.full, update.version), (pieces == 0, Some(pieces)));
        known += update.changes.len();
        pieces += 1;
        let state = header(&notify, name::SUBSCRIPTION_STATE);
        let Some(next) = bench.answer(&notify, 200).into_iter().next() else {
            assert!(state.starts_with(last), "{state}");
            break;
        };
        assert!(state.starts_with("active"), "{state}");
        notify = next;
    }
    assert_eq!(known, 200);
    assert!(pieces > 2);
}

#[test]
fn registrations_are_told_to_their_owner() {
    let mut bench = bench(HubConfig::default());
    let alice = "sip:alice@sipbox.invalid";
    let sent = bench.subscribe(alice, "Event: reg\r\n");
    let text = |message: &Message| String::from_utf8_lossy(message.body()).into_owned();
    assert!(text(&sent[1]).contains("state=\"init\""), "{}", text(&sent[1]));
    bench.answer(&sent[1], 200);
    let extra = "Expires: 60\r\n";
    let mut register = bench.request("REGISTER", "sip:sipbox.invalid", alice, extra, "");
    register.set(name::TO, format!("<{alice}>"));
    register.set(name::CONTACT, "<sip:alice@10.0.0.9:5060>;+sip.instance=\"<urn:uuid:1>\"");
    let sent = bench.put(register);
    let notify = sent.iter().find(|message| message.is_request()).expect("a NOTIFY");
    let body = text(notify);
    for said in ["version=\"1\"", "state=\"active\"", "sip:alice@10.0.0.9:5060", "gr=urn:uuid:1"] {
        assert!(body.contains(said), "no {said} in {body}");
    }
    bench.answer(notify, 200);
    let end = bench.now + Duration::from_secs(59);
    let mut told = Vec::new();
    while let Some(at) = bench.hub.poll_timeout().filter(|at| *at <= end + Duration::from_secs(2)) {
        bench.hub.handle_timeout(at);
        told.extend(std::iter::from_fn(|| bench.hub.poll_transmit()));
    }
    let last = Message::parse_datagram(told.first().expect("expiry is told").payload.clone()).unwrap();
    assert!(text(&last).contains("state=\"init\"") || text(&last).contains("<reginfo"), "{}", text(&last));
}

#[test]
fn a_hub_with_users_knows_who_asks() {
    let users = Users::new("sipbox").with("alice", "secret".to_owned()).with("bob", "b".to_owned());
    let mut bench = bench(HubConfig { users: Some(users), ..HubConfig::default() });
    let (alice, bob) = ("sip:alice@sipbox.invalid", "sip:bob@sipbox.invalid");
    let mut digest = DigestClient::new(Credentials::new("alice", "secret"), [1; 32]);
    let mut ask = |bench: &mut Bench, method: &str, uri: &str, from: &str| {
        let request = bench.request(method, uri, from, EVENT, "");
        let challenge = bench.put(request.clone()).remove(0);
        assert_eq!(status(&challenge), 401, "{method} {uri}");
        let mut again = request;
        digest.retry(&mut again, &challenge).unwrap();
        bench.serial += 1;
        let serial = bench.serial;
        again.pop_first(name::VIA);
        again.push_front(name::VIA, format!("SIP/2.0/UDP 10.0.0.9:5060;branch=z9hG4bKy{serial};rport"));
        status(&bench.put(again)[0])
    };
    assert_eq!(ask(&mut bench, "SUBSCRIBE", bob, alice), 200);
    assert_eq!(ask(&mut bench, "SUBSCRIBE", "sip:nobody@sipbox.invalid", alice), 404);
    assert_eq!(ask(&mut bench, "SUBSCRIBE", bob, "sip:alice@elsewhere.example"), 403, "a forged domain");
    assert_eq!(ask(&mut bench, "PUBLISH", bob, alice), 403);
}
