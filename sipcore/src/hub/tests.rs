//! What the hub answers and passes on, message by message.

mod foreign;
mod silence;

use super::home::HomeProxy;
use super::{HubConfig, Users};
use crate::auth::{Credentials, DigestClient};
use crate::message::{Message, name};
use crate::transaction::{Layer, Timing};
use crate::transport::{Flow, Listen, Machine, Sign, Transport, stun};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

const SECOND: Duration = Duration::from_secs(1);

struct Bench {
    now: Instant,
    hub: HomeProxy,
    serial: u32,
}

fn bench() -> Bench {
    bench_with(HubConfig::default())
}

fn bench_with(config: HubConfig) -> Bench {
    let now = Instant::now();
    let own = [Listen::plain("10.0.0.1:5060".parse().unwrap())];
    Bench { now, hub: HomeProxy::new(&config, &own, Timing::default(), now), serial: 0 }
}

fn from(host: u8) -> Flow {
    Flow { transport: Transport::Udp, local: 0, remote: SocketAddr::from(([10, 0, 0, host], 5060)) }
}

impl Bench {
    fn request(&mut self, method: &str, uri: &str, extra: &str) -> Message {
        self.serial += 1;
        let serial = self.serial;
        let text = format!(
            "{method} {uri} SIP/2.0\r\nVia: SIP/2.0/UDP 10.0.0.9:5060;branch=z9hG4bKx{serial};rport\r\n\
             Max-Forwards: 70\r\nTo: <sip:bob@sipbox.invalid>\r\nFrom: <sip:alice@sipbox.invalid>;tag=a{serial}\r\n\
             Call-ID: c{serial}\r\nCSeq: {serial} {method}\r\n{extra}Content-Length: 0\r\n\r\n"
        );
        Message::parse_datagram(text.into()).unwrap()
    }

    fn register(&mut self, extra: &str) -> Message {
        let mut request = self.request("REGISTER", "sip:sipbox.invalid", extra);
        request.set(name::CALL_ID, "always");
        request
    }

    fn put(&mut self, host: u8, message: Message) -> Vec<(u8, Message)> {
        self.hub.handle_message(self.now, from(host), message);
        self.sent()
    }

    /// What was sent: last byte of the address, and the message.
    fn sent(&mut self) -> Vec<(u8, Message)> {
        std::iter::from_fn(|| self.hub.poll_transmit())
            .map(|transmit| {
                let host = match transmit.flow.remote {
                    SocketAddr::V4(addr) => addr.ip().octets()[3],
                    SocketAddr::V6(_) => 0,
                };
                (host, Message::parse_datagram(transmit.payload).unwrap())
            })
            .filter(|(_, message)| message.status() != Some(100))
            .collect()
    }

    fn answer(&mut self, request: Message) -> Message {
        let mut sent = self.put(9, request);
        assert_eq!(sent.len(), 1, "{sent:?}");
        sent.remove(0).1
    }

    fn status(&mut self, request: Message) -> u16 {
        self.answer(request).status().unwrap()
    }

    /// Registers from the host that the contact names.
    fn bind_at(&mut self, host: u8, params: &str, headers: &str) -> Message {
        let register = self.register(&format!("Contact: <sip:bob@10.0.0.{host}>;{params}\r\n{headers}"));
        let answers = self.put(host, register);
        answers.into_iter().next().unwrap().1
    }

    fn bind(&mut self, contact: &str) {
        let register = self.register(&format!("Contact: {contact}\r\n"));
        assert_eq!(self.status(register), 200);
    }

    fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(at) = self.hub.poll_timeout().filter(|at| *at <= end) {
            self.now = self.now.max(at);
            self.hub.handle_timeout(self.now);
        }
        self.now = end;
    }
}

fn contacts(answer: &Message) -> Vec<String> {
    answer.contacts().map(|contact| contact.unwrap().uri_text().to_string()).collect()
}

#[test]
fn bindings_come_and_go() {
    let mut bench = bench();
    let register =
        bench.register("Contact: <sip:bob@10.0.0.9>;q=0.5, <sip:bob@10.0.0.8>;expires=30\r\nExpires: 7200\r\n");
    let answer = bench.answer(register);
    assert_eq!(contacts(&answer), ["sip:bob@10.0.0.8", "sip:bob@10.0.0.9"], "best q first");
    let expires: Vec<_> = answer.contacts().map(|contact| contact.unwrap().expires()).collect();
    assert_eq!(expires, [Some(30), Some(3600)], "the longest is an hour");
    bench.pass(31 * SECOND);
    let query = bench.register("");
    assert_eq!(contacts(&bench.answer(query)), ["sip:bob@10.0.0.9"]);
    let remove = bench.register("Contact: <sip:bob@10.0.0.9>;expires=0\r\n");
    assert!(contacts(&bench.answer(remove)).is_empty());
    bench.bind("<sip:bob@10.0.0.7>");
    let half = bench.register("Contact: *\r\n");
    assert_eq!(bench.status(half), 400, "* goes with Expires: 0 only");
    let all = bench.register("Contact: *\r\nExpires: 0\r\n");
    assert!(contacts(&bench.answer(all)).is_empty());
    assert_eq!(bench.hub.activity().bindings, 0);
}

#[test]
fn an_instance_has_one_contact() {
    let mut bench = bench();
    let instance = "+sip.instance=\"<urn:uuid:00000000-0000-4000-8000-000000000001>\"";
    bench.bind(&format!("<sip:bob@10.0.0.9:1000>;{instance}"));
    bench.bind(&format!("<sip:bob@10.0.0.9:2000>;{instance}"));
    let query = bench.register("");
    let answer = bench.answer(query);
    assert_eq!(contacts(&answer), ["sip:bob@10.0.0.9:2000"]);
    assert!(answer.header(name::CONTACT).unwrap().text().contains(instance));
}

const INSTANCE: &str = "+sip.instance=\"<urn:uuid:00000000-0000-4000-8000-000000000001>\"";
const OTHER: &str = "+sip.instance=\"<urn:uuid:00000000-0000-4000-8000-000000000002>\"";

/// A parameter of each Contact.
fn of_contacts(answer: &Message, param: &str) -> Vec<String> {
    answer.contacts().filter_map(|contact| Some(contact.unwrap().params.get(param)?.into_owned())).collect()
}

#[test]
fn a_gruu_leads_to_one_instance() {
    let mut bench = bench();
    bench.bind_at(7, OTHER, "");
    let answer = bench.bind_at(8, INSTANCE, "Supported: gruu\r\n");
    let public = of_contacts(&answer, "pub-gruu");
    assert!(public.contains(&"sip:bob@sipbox.invalid;gr=urn:uuid:00000000-0000-4000-8000-000000000001".to_string()));
    let contact = answer.contacts().flatten().find(|contact| contact.uri_text().contains("10.0.0.8")).unwrap();
    let gruus = ["pub-gruu", "temp-gruu"].map(|param| contact.params.get(param).unwrap().into_owned());
    let again = bench.register("Supported: gruu\r\n");
    assert!(!of_contacts(&bench.answer(again), "temp-gruu").contains(&gruus[1]), "no two are alike");
    let to_gruus = |bench: &mut Bench| -> Vec<Vec<(u8, String)>> {
        let calls = gruus.each_ref().map(|gruu| bench.request("INVITE", gruu, ""));
        let line = |(host, message): &(u8, Message)| (*host, message.start_line().into_owned());
        calls.into_iter().map(|call| bench.put(9, call).iter().map(line).collect()).collect()
    };
    for sent in to_gruus(&mut bench) {
        assert_eq!(sent, [(8, "INVITE sip:bob@10.0.0.8 SIP/2.0".to_string())]);
    }
    // A refresh keeps both, wherever the instance is now.
    bench.bind_at(6, INSTANCE, "");
    for sent in to_gruus(&mut bench) {
        assert_eq!(sent[0].0, 6);
    }
    // With another Call-ID it is another life of the instance: the public GRUU alone still leads to it (RFC 5627 5.1).
    let mut reborn = bench.register(&format!("Contact: <sip:bob@10.0.0.5>;{INSTANCE}\r\n"));
    reborn.set(name::CALL_ID, "another");
    assert_eq!(bench.put(5, reborn)[0].1.status(), Some(200));
    let [public, temporary] = <[_; 2]>::try_from(to_gruus(&mut bench)).unwrap();
    assert_eq!((public[0].0, temporary[0].1.as_str()), (5, "SIP/2.0 404 Not Found"));
    // Nobody is there any more, and nobody ever was.
    let remove = bench.register("Contact: *\r\nExpires: 0\r\n");
    assert_eq!(bench.status(remove), 200);
    let gone = bench.request("INVITE", &gruus[0], "");
    assert_eq!(bench.status(gone), 480);
    let forged = bench.request("INVITE", "sip:tgruu.00000000@sipbox.invalid;gr", "");
    assert_eq!(bench.status(forged), 404);
    let itself = bench.register(&format!("Contact: <{}>\r\n", gruus[0]));
    assert_eq!(bench.status(itself), 403);
}

#[test]
fn of_the_flows_of_an_instance_the_latest_is_used() {
    let mut bench = bench();
    let flow = |bench: &mut Bench, host: u8, reg_id: u8| {
        bench.bind_at(host, &format!("{INSTANCE};reg-id={reg_id}"), "Supported: outbound, path\r\n")
    };
    let answer = flow(&mut bench, 7, 1);
    assert!(answer.has_token(name::REQUIRE, "outbound"));
    let answer = flow(&mut bench, 8, 2);
    assert_eq!(contacts(&answer).len(), 2, "two flows are two bindings");
    assert_eq!(of_contacts(&answer, "reg-id").len(), 2);
    let called = |bench: &mut Bench| {
        let invite = bench.request("INVITE", "sip:bob@sipbox.invalid", "");
        bench.put(9, invite).iter().map(|(host, _)| *host).collect::<Vec<_>>()
    };
    assert_eq!(called(&mut bench), [8]);
    flow(&mut bench, 7, 1);
    assert_eq!(called(&mut bench), [7]);
    bench.bind("<sip:bob@10.0.0.5>");
    assert_eq!(called(&mut bench).len(), 2, "others are asked as well");
    // Two hops, and the first one does not keep flows.
    let mut hops = bench.register(&format!(
        "Contact: <sip:bob@10.0.0.7>;{INSTANCE};reg-id=1\r\nSupported: outbound, path\r\nPath: <sip:10.0.0.3;lr>\r\n"
    ));
    assert_eq!(bench.status(hops.clone()), 439);
    hops.set(name::PATH, "<sip:10.0.0.3;lr;ob>");
    hops.set_first_param(name::VIA, "branch", Some("z9hG4bKsecond"));
    assert_eq!(bench.status(hops), 200);
}

/// A flow that turns out to be lost, by the network or by a proxy before the agent that says so (430): the request takes another flow of the same agent.
#[test]
fn of_the_flows_of_an_instance_another_is_tried() {
    let mut bench = bench();
    for (host, reg_id) in [(6, 1), (7, 2), (8, 3)] {
        bench.bind_at(host, &format!("{INSTANCE};reg-id={reg_id}"), "Supported: outbound, path\r\n");
    }
    let invite = bench.request("INVITE", "sip:bob@sipbox.invalid", "Contact: <sip:alice@10.0.0.9>\r\n");
    let first = bench.put(9, invite);
    assert_eq!(first.iter().map(|(host, _)| *host).collect::<Vec<_>>(), [8]);
    bench.hub.handle_unreachable(bench.now, from(8), "Connection refused");
    let second = bench.sent();
    assert_eq!(second.iter().map(|(host, _)| *host).collect::<Vec<_>>(), [7]);
    let copy = &second[0].1;
    assert_eq!((copy.start_line().as_ref(), copy.vias().count()), ("INVITE sip:bob@10.0.0.7 SIP/2.0", 2));
    assert_eq!(copy.max_forwards(), Ok(Some(69)));
    let lost = |copy: &Message| Message::response_to(copy, 430, "Flow Failed").to_tag("x").build();
    let third = bench.put(7, lost(copy));
    let lines: Vec<_> = third.iter().map(|(host, message)| (*host, message.start_line().into_owned())).collect();
    assert_eq!(lines, [(7, "ACK sip:bob@10.0.0.7 SIP/2.0".into()), (6, "INVITE sip:bob@10.0.0.6 SIP/2.0".into())]);
    // There is no other: the caller is not told of flows.
    let last = bench.put(6, lost(&third[1].1));
    assert_eq!(
        last.iter().map(|(host, message)| (*host, message.status())).collect::<Vec<_>>(),
        [(6, None), (9, Some(480))]
    );
    bench.pass(100 * SECOND);
    assert_eq!(bench.hub.leftovers(), [0; 6]);
}

#[test]
fn requests_take_the_path_of_the_registration() {
    let mut bench = bench();
    let path = "Path: <sip:10.0.0.3;lr>, <sip:10.0.0.4;lr>\r\n";
    let without = bench.register(&format!("Contact: <sip:bob@192.168.1.2>\r\n{path}"));
    let answer = bench.answer(without);
    assert_eq!(answer.status(), Some(420));
    assert!(answer.has_token(name::UNSUPPORTED, "path"));
    let register = bench.register(&format!("Contact: <sip:bob@192.168.1.2>\r\nSupported: path\r\n{path}"));
    let answer = bench.answer(register);
    assert_eq!((answer.status(), answer.elements(name::PATH).count()), (Some(200), 2));
    let invite = bench.request("INVITE", "sip:bob@sipbox.invalid", "");
    let sent = bench.put(9, invite);
    let (host, message) = &sent[0];
    assert_eq!((*host, message.start_line().as_ref()), (3, "INVITE sip:bob@192.168.1.2 SIP/2.0"));
    let routes: Vec<_> = message.routes().map(|route| route.unwrap().uri_text().to_string()).collect();
    assert_eq!(routes, ["sip:10.0.0.3;lr", "sip:10.0.0.4;lr"]);
}

#[test]
fn stun_is_answered_with_where_it_came_from() {
    let mut bench = bench();
    let (id, request) = stun::request(1);
    bench.hub.handle_sign(bench.now, from(9), Sign::Stun(&request));
    let answer = bench.hub.poll_transmit().unwrap();
    assert_eq!((answer.flow, stun::mapped(&answer.payload, id)), (from(9), Some(from(9).remote)));
    bench.hub.handle_sign(bench.now, from(9), Sign::Stun(b"\0\x01 and no more of it at all"));
    assert!(bench.hub.poll_transmit().is_none());
}

#[test]
fn registers_that_are_refused() {
    let mut bench = bench();
    let brief = bench.register("Contact: <sip:bob@10.0.0.9>;expires=1\r\n");
    let answer = bench.answer(brief);
    assert_eq!((answer.status(), answer.seconds(name::MIN_EXPIRES)), (Some(423), Some(10)));
    bench.bind("<sip:bob@10.0.0.9>");
    let mut old = bench.register("Contact: <sip:bob@10.0.0.9>\r\n");
    old.set(name::CSEQ, "1 REGISTER");
    assert_eq!(bench.status(old), 500, "older than the last one");
    let require = bench.register("Require: outbound, magic\r\n");
    assert_eq!(bench.status(require), 420);
    let mut foreign = bench.register("Contact: <sip:bob@10.0.0.9>\r\n");
    foreign.set(name::TO, "<sip:bob@elsewhere.example>");
    assert_eq!(bench.status(foreign), 404);
    let many: Vec<_> = (0..65).map(|port| format!("<sip:bob@10.0.0.9:{}>", 2000 + port)).collect();
    let many = bench.register(&format!("Contact: {}\r\n", many.join(", ")));
    assert_eq!(bench.status(many), 503);
    // What a binding keeps is bounded.
    let long = "x".repeat(600);
    let contacts = [format!("<sip:{long}@10.0.0.9>"), format!("<sip:bob@10.0.0.9>;+sip.instance=\"<urn:x:{long}>\"")];
    for contact in contacts {
        let register = bench.register(&format!("Contact: {contact}\r\n"));
        assert_eq!(bench.status(register), 400, "{contact}");
    }
    let mut by_call_id = bench.register("Contact: <sip:bob@10.0.0.9>\r\n");
    by_call_id.set(name::CALL_ID, &long);
    assert_eq!(bench.status(by_call_id), 400);
    let mut by_name = bench.register("Contact: <sip:bob@10.0.0.9>\r\n");
    by_name.set(name::TO, format!("<sip:{long}@sipbox.invalid>"));
    assert_eq!(bench.status(by_name), 400);
    assert_eq!(bench.hub.activity().bindings, 1);
}

#[test]
fn a_request_is_passed_on_to_every_contact() {
    let mut bench = bench();
    bench.bind("<sip:bob@10.0.0.7>");
    bench.bind("<sip:bob@10.0.0.8>");
    let invite = bench.request("INVITE", "sip:bob@sipbox.invalid", "Contact: <sip:alice@10.0.0.9>\r\n");
    let sent = bench.put(9, invite);
    assert_eq!(sent.iter().map(|(host, _)| *host).collect::<Vec<_>>(), [7, 8]);
    let lines: Vec<_> = sent.iter().map(|(_, message)| message.start_line().into_owned()).collect();
    assert_eq!(lines, ["INVITE sip:bob@10.0.0.7 SIP/2.0", "INVITE sip:bob@10.0.0.8 SIP/2.0"]);
    for (_, copy) in &sent {
        assert_eq!((copy.vias().count(), copy.max_forwards()), (2, Ok(Some(69))));
        let route = copy.record_routes().next().unwrap().unwrap().uri().unwrap();
        assert!(route.has_param("lr") && route.host() == "10.0.0.1");
    }
    // 486 alone is not passed on; 603 decides and cancels the other.
    let ringing = Message::response_to(&sent[0].1, 180, "Ringing").to_tag("x").build();
    let back = bench.put(9, ringing);
    assert_eq!(back.len(), 1);
    assert_eq!((back[0].1.status(), back[0].1.vias().count()), (Some(180), 1));
    let decline = Message::response_to(&sent[1].1, 603, "Decline").to_tag("y").build();
    let methods: Vec<_> =
        bench.put(9, decline).into_iter().map(|(_, message)| message.start_line().into_owned()).collect();
    assert_eq!(methods, ["ACK sip:bob@10.0.0.8 SIP/2.0", "CANCEL sip:bob@10.0.0.7 SIP/2.0"]);
    let over = Message::response_to(&sent[0].1, 487, "Request Terminated").to_tag("x").build();
    let back = bench.put(9, over);
    assert!(back.iter().any(|(_, message)| message.status() == Some(603)), "{back:?}");
}

#[test]
fn a_contact_that_never_answers_times_out() {
    let mut bench = bench();
    bench.bind("<sip:bob@10.0.0.9:7777>");
    let invite = bench.request("INVITE", "sip:bob@sipbox.invalid", "");
    bench.put(9, invite);
    bench.pass(33 * SECOND);
    let answers: Vec<_> = bench.sent().into_iter().filter_map(|(_, message)| message.status()).collect();
    assert_eq!(answers.first(), Some(&408));
    bench.pass(40 * SECOND);
    assert_eq!(bench.hub.leftovers(), [0; 6]);
}

#[test]
fn requests_that_go_no_further() {
    let mut bench = bench();
    bench.bind("<sip:bob@10.0.0.9:7777>");
    let options = bench.request("OPTIONS", "sip:sipbox.invalid", "");
    assert_eq!(bench.status(options), 200);
    let options = bench.request("OPTIONS", "sip:10.0.0.1:5060", "");
    assert_eq!(bench.status(options), 200);
    let mut worn = bench.request("OPTIONS", "sip:bob@sipbox.invalid", "");
    worn.set(name::MAX_FORWARDS, 0);
    assert_eq!(bench.status(worn), 483);
    let unknown = bench.request("INVITE", "sip:nobody@sipbox.invalid", "");
    assert_eq!(bench.status(unknown), 404);
    let scheme = bench.request("INVITE", "mailto:bob@sipbox.invalid", "");
    assert_eq!(bench.status(scheme), 416);
    let extension = bench.request("INVITE", "sip:bob@sipbox.invalid", "Proxy-Require: magic\r\n");
    assert_eq!(bench.status(extension), 420);
    let relay = bench.request("INVITE", "sip:carol@192.0.2.7", "");
    assert_eq!(bench.status(relay), 403);
    let route = bench.request("INVITE", "sip:bob@sipbox.invalid", "Route: <sip:192.0.2.7;lr>\r\n");
    assert_eq!(bench.status(route), 403);
    let forged = "Route: <sip:10.0.0.1:5060;lr;s=0123456789abcdef>, <sip:192.0.2.7;lr>\r\n";
    let forged = bench.request("BYE", "sip:bob@192.0.2.8", forged);
    assert_eq!(bench.status(forged), 403);
    let cancel = bench.request("CANCEL", "sip:bob@sipbox.invalid", "");
    assert_eq!(bench.status(cancel), 481);
    let mut broken = bench.request("INVITE", "sip:bob@sipbox.invalid", "");
    broken.set(name::CSEQ, "x INVITE");
    assert_eq!(bench.status(broken), 400);
}

#[test]
fn a_loop_is_found() {
    let mut bench = bench();
    // The contact is the hub itself, under a name that leads back to it.
    bench.bind("<sip:bob@10.0.0.1:5060>");
    let invite = bench.request("INVITE", "sip:bob@sipbox.invalid", "");
    let mut on_the_way = bench.put(9, invite);
    let mut rounds = 0;
    while let Some((host, message)) = on_the_way.pop() {
        rounds += 1;
        assert!(rounds < 50, "it goes on and on");
        if host == 1 {
            bench.hub.handle_message(bench.now, from(1), message);
            on_the_way.extend(bench.sent());
        } else if host == 9 && message.status().is_some() {
            assert_eq!(message.status(), Some(482));
            return;
        }
    }
    panic!("no answer");
}

#[test]
fn later_requests_of_a_dialog_take_the_recorded_route() {
    let mut bench = bench();
    bench.bind("<sip:bob@10.0.0.9:7777>");
    let invite = bench.request("INVITE", "sip:bob@sipbox.invalid", "Contact: <sip:alice@10.0.0.5:6666>\r\n");
    let call_id = invite.call_id().unwrap().to_string();
    let caller = invite.header(name::FROM).unwrap().text().into_owned();
    let passed = bench.put(9, invite).remove(0).1;
    let recorded = passed.header(name::RECORD_ROUTE).unwrap().text().into_owned();
    // To a contact that is not bound here, but by a route that was made here for this Call-ID.
    let mut bye = bench.request("BYE", "sip:alice@10.0.0.5:6666", &format!("Route: {recorded}\r\n"));
    bye.set(name::CALL_ID, &call_id);
    bye.set(name::FROM, &caller);
    bye.set(name::TO, "<sip:bob@sipbox.invalid>;tag=b");
    let sent = bench.put(9, bye);
    assert_eq!(sent[0].0, 5);
    assert_eq!(sent[0].1.header(name::ROUTE).map(|route| route.text().into_owned()), None);
    // A strict router in between: the route stands in the Request-URI and the target in Route (RFC 3261 16.4).
    let uri = recorded.trim_matches(['<', '>']).to_string();
    let mut strict = bench.request("BYE", &uri, "Route: <sip:alice@10.0.0.5:6666>\r\n");
    strict.set(name::CALL_ID, &call_id);
    strict.set(name::FROM, &caller);
    strict.set(name::TO, "<sip:bob@sipbox.invalid>;tag=b");
    let sent = bench.put(9, strict);
    assert_eq!((sent[0].0, sent[0].1.start_line().into_owned()), (5, "BYE sip:alice@10.0.0.5:6666 SIP/2.0".into()));
    // The same route with another Call-ID leads nowhere.
    let mut stolen = bench.request("BYE", "sip:alice@10.0.0.5:6666", &format!("Route: {recorded}\r\n"));
    stolen.set(name::TO, "<sip:bob@sipbox.invalid>;tag=b");
    assert_eq!(bench.status(stolen), 403);
    // Nor does what begins a dialog of its own.
    let mut beginning = bench.request("INVITE", "sip:alice@10.0.0.5:6666", &format!("Route: {recorded}\r\n"));
    beginning.set(name::CALL_ID, &call_id);
    beginning.set(name::FROM, &caller);
    assert_eq!(bench.status(beginning), 403);
    // To a host whose name is bound no more: nobody is asked where it is.
    let mut gone = bench.request("BYE", "sip:alice@x.invalid", &format!("Route: {recorded}\r\n"));
    gone.set(name::CALL_ID, &call_id);
    gone.set(name::FROM, &caller);
    gone.set(name::TO, "<sip:bob@sipbox.invalid>;tag=b");
    assert_eq!(bench.status(gone), 404);
    bench.pass(300 * SECOND);
    assert_eq!(bench.hub.leftovers()[2..], [0; 4]);
}

#[test]
fn users_are_asked_for_their_password() {
    let users = Users::new("sipbox").with("bob", "secret".to_owned());
    let mut bench = bench_with(HubConfig { users: Some(users), ..HubConfig::default() });
    let register = bench.register("Contact: <sip:bob@10.0.0.9>\r\n");
    let answer = bench.answer(register);
    assert_eq!(answer.status(), Some(401));
    assert_eq!(answer.headers_named(name::WWW_AUTHENTICATE).count(), 2, "SHA-256 and MD5");
    let invite = bench.request("INVITE", "sip:bob@sipbox.invalid", "");
    assert_eq!(bench.status(invite), 407);
    let options = bench.request("OPTIONS", "sip:bob@sipbox.invalid", "");
    assert_eq!(bench.status(options), 407);
    // Whether the hub itself lives is for everybody to ask (RFC 3261 11).
    for (method, owed) in [("OPTIONS", 200), ("MESSAGE", 407)] {
        let asked = bench.request(method, "sip:sipbox.invalid", "");
        assert_eq!(bench.status(asked), owed);
    }
}

#[test]
fn a_crowd_is_answered_503() {
    let mut bench = bench();
    bench.bind("<sip:bob@10.0.0.9:7777>");
    let mut refused = 0;
    bench.hub.layer = Layer::new(Timing::default(), vec![bench.hub.own[0].addr], 100);
    for _ in 0..200 {
        let options = bench.request("OPTIONS", "sip:nobody@sipbox.invalid", "");
        assert_eq!(bench.status(options), 404, "what has been answered makes room");
    }
    for _ in 0..200 {
        let options = bench.request("OPTIONS", "sip:bob@sipbox.invalid", "");
        let sent = bench.put(9, options);
        refused += usize::from(sent.iter().any(|(_, message)| message.status() == Some(503)));
    }
    assert_eq!(refused, 100);
    bench.pass(100 * SECOND);
    assert_eq!(bench.hub.leftovers(), [0; 6]);
}

#[test]
fn a_source_that_asks_too_much_is_put_off() {
    let mut bench = bench_with(HubConfig { rate: Some(10), ..HubConfig::default() });
    let mut put_off = 0;
    for _ in 0..30 {
        let options = bench.request("OPTIONS", "sip:sipbox.invalid", "");
        let answer = bench.answer(options);
        put_off += usize::from(answer.status() == Some(503) && answer.retry_after() == Some(1));
    }
    assert_eq!(put_off, 20);
    let other = bench.request("OPTIONS", "sip:sipbox.invalid", "");
    assert_eq!(bench.put(8, other)[0].1.status(), Some(200));
    // What ends something is always taken.
    let bye = bench.request("BYE", "sip:sipbox.invalid", "");
    assert_eq!(bench.status(bye), 405);
    bench.pass(SECOND);
    let options = bench.request("OPTIONS", "sip:sipbox.invalid", "");
    assert_eq!(bench.status(options), 200);
}

#[test]
fn passwords_cannot_be_tried_out() {
    let users = Users::new("sipbox").with("bob", "secret".to_owned());
    let mut bench = bench_with(HubConfig { users: Some(users), ..HubConfig::default() });
    let mut statuses = Vec::new();
    for guess in 0..30 {
        let mut client = DigestClient::new(Credentials::new("bob", format!("guess{guess}")), [1; 32]);
        let mut register = bench.register("Contact: <sip:bob@10.0.0.9>\r\n");
        let challenge = bench.answer(register.clone());
        if client.retry(&mut register, &challenge).is_ok() {
            register.set_first_param(name::VIA, "branch", Some(&format!("z9hG4bKguess{guess}")));
            statuses.push(bench.status(register));
        }
    }
    assert_eq!(statuses.iter().filter(|status| **status == 401).count(), 20, "{statuses:?}");
    assert_eq!(statuses.last(), Some(&503));
}
