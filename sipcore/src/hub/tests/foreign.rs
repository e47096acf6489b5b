//! Requests for other domains, with DNS by hand.

use super::*;
use crate::agent::Registrar;
use crate::hub::Hub;
use crate::locate::LocateError;
use crate::message::{Method, Uri};
use crate::tls::{ServerTls, Trust};

pub(super) const BOB: &str = "sip:bob@else.example";

pub(super) fn foreign_bench() -> Bench {
    bench_with(HubConfig { foreign: vec!["Else.example".to_owned(), "10.0.0.7".to_owned()], ..HubConfig::default() })
}

pub(super) fn server(host: u8, transport: Transport) -> Registrar {
    Registrar { addr: SocketAddr::from(([10, 0, 0, host], 5060)), transport }
}

impl Bench {
    /// A request of a user for another domain, and what DNS is asked then.
    pub(super) fn asked(&mut self, method: &str, uri: &str, extra: &str) -> (Message, u64, Uri) {
        let request = self.request(method, uri, extra);
        assert!(self.put(9, request.clone()).is_empty());
        let (id, to) = self.hub.poll_ask().expect("a question for DNS");
        (request, id, to)
    }

    pub(super) fn located(&mut self, id: u64, found: Result<Vec<Registrar>, LocateError>) -> Vec<(u8, Message)> {
        self.hub.on_located(self.now, id, found);
        self.sent()
    }
}

#[test]
fn users_are_led_to_the_domains_that_are_named() {
    for method in ["INVITE", "SUBSCRIBE", "OPTIONS"] {
        let mut bench = foreign_bench();
        let (_, id, to) = bench.asked(method, BOB, "Contact: <sip:alice@10.0.0.9>\r\nEvent: presence\r\n");
        assert_eq!(to.as_str(), BOB);
        let sent = bench.located(id, Ok(vec![server(7, Transport::Tls), server(8, Transport::Udp)]));
        let [(8, passed)] = &sent[..] else { panic!("{sent:?}") };
        assert_eq!(passed.request_uri().unwrap().as_str(), BOB);
        assert_eq!(passed.header(name::RECORD_ROUTE).is_some(), method != "OPTIONS");
        let answer = bench.put(8, Message::response_to(passed, 200, "OK").to_tag("b").build());
        assert!(matches!(&answer[..], [(9, answer)] if answer.status() == Some(200)), "{answer:?}");
        bench.pass(200 * SECOND);
        assert_eq!(bench.hub.leftovers(), [0; 6], "{method}");
    }
    // An address that is named; nobody else's.
    let mut bench = foreign_bench();
    assert_eq!(bench.asked("OPTIONS", "sip:bob@10.0.0.7", "").2.as_str(), "sip:bob@10.0.0.7");
    for (uri, status) in
        [("sip:bob@other.example", 404), ("sip:bob@10.0.0.6", 403), ("sip:else.example@x.example", 404)]
    {
        let request = bench.request("INVITE", uri, "");
        assert_eq!(bench.status(request), status, "{uri}");
    }
    assert!(bench.hub.poll_ask().is_none());
}

#[test]
fn who_is_of_another_domain_is_passed_on_to_nobody() {
    let mut bench = foreign_bench();
    for from in ["<sip:eve@else.example>;tag=x", "<sip:eve@third.example>;tag=x", "<tel:+1>;tag=x"] {
        let mut request = bench.request("INVITE", BOB, "");
        request.set(name::FROM, from);
        assert_eq!(bench.status(request), 403, "{from}");
    }
    let register = bench.request("REGISTER", "sip:else.example", "");
    assert_eq!(bench.status(register), 403);
    // With users it takes a password, too; and who has one is of the hub's domains, not of others.
    let users = Some(Users::new("sipbox").with("alice", "secret".to_owned()));
    let mut bench = bench_with(HubConfig { foreign: vec!["else.example".to_owned()], users, ..HubConfig::default() });
    let request = bench.request("INVITE", BOB, "");
    assert_eq!(bench.status(request), 407);
    for (from, status) in
        [("else.example", 403), ("third.example", 403), ("10.0.0.7", 403), ("sipbox.invalid", 404), ("10.0.0.1", 404)]
    {
        let mut request = bench.request("INVITE", "sip:nobody@sipbox.invalid", "");
        request.set(name::FROM, format_args!("<sip:alice@{from}>;tag=x"));
        let challenge = bench.answer(request.clone());
        assert_eq!(challenge.status(), Some(407), "{from}");
        let mut client = DigestClient::new(Credentials::new("alice", "secret".to_owned()), [1; 32]);
        client.retry(&mut request, &challenge).unwrap();
        request.set_first_param(name::VIA, "branch", Some(&format!("z9hG4bK{from}")));
        assert_eq!(bench.status(request), status, "{from}");
    }
    assert!(bench.hub.poll_ask().is_none());
}

#[test]
fn a_domain_that_is_not_found_is_said() {
    let failed = |host: &str| LocateError::Failed { host: host.to_owned(), why: "timed out".to_owned() };
    let none = |host: &str| LocateError::NoAddress { host: host.to_owned(), asked: "A, AAAA" };
    for (found, status) in [
        (Err(failed("else.example")), 504),
        (Err(none("else.example")), 404),
        (Ok(vec![server(7, Transport::Tls)]), 502),
        (Ok(Vec::new()), 502),
    ] {
        let mut bench = foreign_bench();
        let (_, id, _) = bench.asked("INVITE", BOB, "");
        let sent = bench.located(id, found.clone());
        assert!(matches!(&sent[..], [(9, answer)] if answer.status() == Some(status)), "{found:?}: {sent:?}");
        // An answer that comes twice is none.
        assert!(bench.located(id, found).is_empty());
        bench.pass(200 * SECOND);
        assert_eq!(bench.hub.leftovers(), [0; 6]);
    }
}

/// CANCEL while DNS is being asked, and a server that is not there while another is.
#[test]
fn what_happens_meanwhile() {
    let mut bench = foreign_bench();
    let (invite, id, _) = bench.asked("INVITE", BOB, "");
    let mut cancel = bench.request("CANCEL", BOB, "");
    for same in [name::VIA, name::FROM, name::CALL_ID] {
        cancel.set(same, invite.header(same).unwrap().text());
    }
    cancel.set(name::CSEQ, format_args!("{} CANCEL", invite.cseq().unwrap().number));
    assert_eq!(bench.status(cancel), 200);
    let sent = bench.located(id, Ok(vec![server(8, Transport::Udp)]));
    assert!(matches!(&sent[..], [(9, answer)] if answer.status() == Some(487)), "{sent:?}");

    let (_, id, _) = bench.asked("INVITE", BOB, "");
    let sent = bench.located(id, Ok(vec![server(7, Transport::Tcp), server(8, Transport::Tcp)]));
    assert!(matches!(&sent[..], [(7, _)]), "{sent:?}");
    let flow = Flow { transport: Transport::Tcp, local: 0, remote: server(7, Transport::Tcp).addr };
    bench.hub.handle_unreachable(bench.now, flow, "Connection refused");
    let sent = bench.sent();
    assert!(matches!(&sent[..], [(8, message)] if message.is_request()), "{sent:?}");
}

/// A server that cannot, that says nothing or is not there: the next one is asked, and the ones that failed come last for a while (RFC 3263 4.3).
#[test]
fn every_server_of_a_domain_is_tried() {
    let servers = || Ok([5, 6, 7, 8].map(|host| server(host, Transport::Udp)).to_vec());
    for method in ["INVITE", "OPTIONS"] {
        for route in ["", "Route: <sip:else.example;lr>\r\n"] {
            let mut bench = foreign_bench();
            let (_, id, _) = bench.asked(method, BOB, route);
            let sent = bench.located(id, servers());
            let [(5, first)] = &sent[..] else { panic!("{sent:?}") };
            // 503: at once.
            let sent = bench.put(5, Message::response_to(first, 503, "Busy").to_tag("b").build());
            let sent: Vec<&(u8, Message)> =
                sent.iter().filter(|(_, message)| message.method() != Some(&Method::Ack)).collect();
            let [(6, second)] = &sent[..] else { panic!("{sent:?}") };
            assert_eq!(second.routes().count(), usize::from(!route.is_empty()));
            // Silence, in spite of repetitions.
            bench.pass(5 * SECOND);
            let sent = bench.sent();
            let third = sent.iter().find(|(host, _)| *host == 7);
            assert!(third.is_some() && sent.iter().all(|(host, _)| [6, 7].contains(host)), "{sent:?}");
            // Nobody there.
            let flow = Flow { transport: Transport::Udp, local: 0, remote: server(7, Transport::Udp).addr };
            bench.hub.handle_unreachable(bench.now, flow, "Connection refused");
            let sent = bench.sent();
            let [(8, last)] = &sent[..] else { panic!("{sent:?}") };
            let answer = bench.put(8, Message::response_to(last, 200, "OK").to_tag("b").build());
            assert!(matches!(&answer[..], [(9, answer)] if answer.status() == Some(200)), "{answer:?}");
            // What has failed comes last.
            let (_, id, _) = bench.asked(method, BOB, route);
            let sent = bench.located(id, servers());
            assert!(matches!(&sent[..], [(8, _)]), "{sent:?}");
            bench.pass(200 * SECOND);
            bench.sent();
            let (_, id, _) = bench.asked(method, BOB, route);
            assert!(matches!(&bench.located(id, servers())[..], [(5, _)]));
            bench.pass(300 * SECOND);
            assert_eq!(bench.hub.leftovers(), [0; 6], "{method}");
        }
    }
}

/// When none serves, the caller is told by the hub, which is not to be left for another one because of that.
#[test]
fn servers_that_all_fail_are_not_the_hub_s_fault() {
    let mut bench = foreign_bench();
    let (_, id, _) = bench.asked("OPTIONS", BOB, "");
    let sent = bench.located(id, Ok(vec![server(8, Transport::Udp)]));
    let answer = bench.put(8, Message::response_to(&sent[0].1, 503, "Busy").to_tag("b").build());
    assert!(matches!(&answer[..], [(9, answer)] if answer.status() == Some(500)), "{answer:?}");
    let (_, id, _) = bench.asked("OPTIONS", BOB, "");
    bench.located(id, Ok(vec![server(8, Transport::Tcp)]));
    let flow = Flow { transport: Transport::Tcp, local: 0, remote: server(8, Transport::Tcp).addr };
    bench.hub.handle_unreachable(bench.now, flow, "Connection \"refused\"");
    let answer = bench.sent();
    let [(9, answer)] = &answer[..] else { panic!("{answer:?}") };
    assert_eq!(answer.status(), Some(502));
    assert_eq!(answer.header(name::WARNING).unwrap().text(), "399 sipbox \"Connection refused\"");
    // A server that is silent while there is no other gets the time of a transaction.
    let (_, id, _) = bench.asked("OPTIONS", BOB, "");
    bench.located(id, Ok(vec![server(8, Transport::Udp)]));
    bench.pass(20 * SECOND);
    assert!(bench.sent().iter().all(|(host, _)| *host == 8));
    bench.pass(20 * SECOND);
    let sent = bench.sent();
    assert!(matches!(sent.last(), Some((9, answer)) if answer.status() == Some(408)), "{sent:?}");
}

/// By TLS each domain is spoken to from a place of its own, and who comes from there is of it.
#[test]
fn domains_that_show_certificates() {
    let tls: SocketAddr = "10.0.0.1:5061".parse().unwrap();
    let points = [Listen::plain("10.0.0.1:5060".parse().unwrap()), Listen { addr: tls, transport: Transport::Tls }];
    let users = Some(Users::new("sipbox").with("alice", "secret".to_owned()));
    let foreign = vec!["third.example".to_owned(), "else.example".to_owned()];
    let config = HubConfig { foreign, users, ..HubConfig::default() };
    let now = Instant::now();
    let mut hub = HomeProxy::new(&config, &points, Timing::default(), now);
    hub.open_gates();
    let mut bench = Bench { hub, now, ..bench() };
    // Points 0 and 1 listen, 2 is for third.example, 3 for else.example.
    let from = |local: u16| Flow { transport: Transport::Tls, local, remote: "10.0.0.8:40000".parse().unwrap() };
    let register = bench.request("REGISTER", "sip:sipbox.invalid", "");
    assert_eq!(bench.status(register), 401);
    for (local, from_uri, to, status) in [
        (3, "sip:bob@else.example", "sip:alice@sipbox.invalid", 480),
        (3, "sip:bob@Else.Example", "sip:nobody@sipbox.invalid", 404),
        // Not from there, not of it, or further on.
        (1, "sip:bob@else.example", "sip:alice@sipbox.invalid", 407),
        (2, "sip:bob@else.example", "sip:alice@sipbox.invalid", 407),
        (3, "sip:bob@third.example", "sip:alice@sipbox.invalid", 407),
        (3, "sip:alice@sipbox.invalid", "sip:alice@sipbox.invalid", 407),
        (3, "sip:bob@else.example", "sip:carol@third.example", 403),
        (3, "sip:bob@else.example", "sip:carol@10.0.0.9", 403),
    ] {
        for method in ["INVITE", "MESSAGE"] {
            let mut request = bench.request(method, to, "");
            request.set(name::FROM, format_args!("<{from_uri}>;tag=x"));
            bench.hub.handle_message(now, from(local), request);
            let answer = bench.sent().pop().unwrap().1;
            assert_eq!(answer.status(), Some(status), "{local} {from_uri} {to} {method}");
        }
    }
    assert!(bench.hub.poll_ask().is_none());
    // A certificate that speaks for both, as long as its connection stands.
    let mut status = |hub: &mut dyn FnMut(&mut HomeProxy), user: &str| {
        hub(&mut bench.hub);
        let mut request = bench.request("MESSAGE", "sip:alice@sipbox.invalid", "");
        request.set(name::FROM, format_args!("<{user}>;tag=x"));
        bench.hub.handle_message(now, from(2), request);
        bench.sent().pop().unwrap().1.status()
    };
    assert_eq!(status(&mut |hub| hub.handle_shown(from(2), &[0, 1]), "sip:bob@else.example"), Some(480));
    assert_eq!(status(&mut |_| {}, "sip:bob@third.example"), Some(480));
    assert_eq!(status(&mut |_| {}, "sip:alice@sipbox.invalid"), Some(407));
    assert_eq!(status(&mut |hub| hub.handle_unreachable(now, from(2), "gone"), "sip:bob@else.example"), Some(407));
    status(&mut |hub| hub.handle_shown(from(2), &[0, 1]), "sip:bob@else.example");
    assert_eq!(status(&mut |hub| hub.handle_shown(from(2), &[0]), "sip:bob@else.example"), Some(407));
}

/// However many domains there are, machine and sockets number the places from where TLS is spoken to them alike.
#[tokio::test]
async fn each_domain_has_a_gate_of_its_own() {
    let loopback = || vec!["127.0.0.1:0".parse().unwrap()];
    let tls = ServerTls::self_made(&["sipbox.invalid".to_owned()], &[]).unwrap();
    let trust = Trust { fingerprint: Some(tls.fingerprint()), ..Trust::default() };
    let domains: Vec<String> = (0..5).map(|number| format!("d{number}.example")).collect();
    let config = HubConfig {
        listen: loopback(),
        listen_tls: [loopback(), loopback()].concat(),
        tls: Some(tls),
        foreign: domains.clone(),
        foreign_trust: Some(trust),
        ..HubConfig::default()
    };
    let hub = Hub::start(config).await.unwrap();
    let core = &hub.driver.core;
    let remote: SocketAddr = "127.0.0.1:5061".parse().unwrap();
    for domain in &domains {
        let uri: Uri = format!("sip:bob@{domain}").parse().unwrap();
        let local = core.with(|home, _| home.foreign.gate_to(&uri, remote.ip())).unwrap();
        let client = core.client(Flow { transport: Transport::Tls, local, remote }).expect("TLS is spoken from there");
        assert_eq!(client.domain.to_str(), domain.as_str());
    }
    assert!(core.client(Flow { transport: Transport::Tls, local: 3 + 2 * 5, remote }).is_none(), "there are no more");
    hub.shutdown().await;
}

/// Within a dialog that goes through here, the next hop may have a name: for requests and for ACK. It is no way for others.
#[test]
fn names_within_a_dialog_are_looked_for() {
    let mut bench = foreign_bench();
    let (invite, id, _) = bench.asked("INVITE", BOB, "");
    bench.located(id, Ok(vec![server(5, Transport::Udp), server(8, Transport::Udp)]));
    let dead = Flow { transport: Transport::Udp, local: 0, remote: server(5, Transport::Udp).addr };
    bench.hub.handle_unreachable(bench.now, dead, "Connection refused");
    let sent = bench.sent();
    let recorded = sent[0].1.header(name::RECORD_ROUTE).unwrap().text().into_owned();
    let routes = format!("Route: {recorded}, <sip:proxy.third.example;lr>\r\n");
    let alice = invite.header(name::FROM).unwrap().text().into_owned();
    let bob = format!("<{BOB}>;tag=b");
    let within = |bench: &mut Bench, method: &str, call_id: &str, from: &str, to: &str| {
        let mut request = bench.request(method, "sip:bob@10.1.1.1", &routes);
        request.set(name::CALL_ID, call_id);
        request.set(name::FROM, from);
        request.set(name::TO, to);
        request
    };
    let call_id = invite.call_id().unwrap().to_owned();
    for (method, [from, to]) in [("ACK", [&alice, &bob]), ("BYE", [&alice, &bob]), ("BYE", [&bob, &alice])] {
        let request = within(&mut bench, method, &call_id, from, to);
        assert!(bench.put(9, request).is_empty());
        let (id, to) = bench.hub.poll_ask().expect("a question for DNS");
        assert_eq!(to.host(), "proxy.third.example");
        // A server that did not serve lately comes last, for an ACK, too.
        let sent = bench.located(id, Ok(vec![server(5, Transport::Udp), server(6, Transport::Udp)]));
        assert!(matches!(&sent[..], [(6, passed)] if passed.method().unwrap().as_str() == method), "{sent:?}");
    }
    for (call_id, from, to) in [
        ("another", &*alice, &*bob),
        (&call_id, "<sip:alice@sipbox.invalid>;tag=mine", &bob),
        (&call_id, "<sip:alice@sipbox.invalid>;tag=b", "<sip:bob@else.example>;tag=mine"),
        // Without a tag of To it is no dialog.
        (&call_id, &alice, "<sip:bob@else.example>"),
    ] {
        let other = within(&mut bench, "BYE", call_id, from, to);
        assert_eq!(bench.status(other), 404, "{call_id} {from} {to}");
    }
    let other = within(&mut bench, "ACK", "another", &alice, &bob);
    assert!(bench.put(9, other).is_empty());
    assert!(bench.hub.poll_ask().is_none());
}

/// A contact at a domain that is led to does not take its calls, nor is ACK led there for anybody.
#[test]
fn contacts_take_nothing_from_other_domains() {
    let mut bench = foreign_bench();
    for host in ["else.example", "10.0.0.7"] {
        bench.bind(&format!("<sip:mallory@{host}>"));
        bench.bind(&format!("<sip:bob@{host}>"));
        let uri = format!("sip:bob@{host}");
        let (_, id, to) = bench.asked("INVITE", &uri, "");
        assert_eq!(to.as_str(), uri);
        assert!(matches!(&bench.located(id, Ok(vec![server(8, Transport::Udp)]))[..], [(8, _)]));
        for tag in ["", ";tag=b"] {
            let mut ack = bench.request("ACK", &uri, "");
            ack.set(name::TO, format!("<{uri}>{tag}"));
            assert!(bench.put(9, ack).is_empty());
            assert!(bench.hub.poll_ask().is_none());
        }
    }
}

#[test]
fn what_waits_for_dns_is_bounded() {
    let mut bench = foreign_bench();
    let mut refused_of = |host: u8, count: usize| {
        let mut ask = || {
            let request = bench.request("OPTIONS", BOB, "");
            bench.put(host, request).iter().filter(|(_, answer)| answer.status() == Some(503)).count()
        };
        (0..count).map(|_| ask()).sum::<usize>()
    };
    // One source, then others, and then no one more.
    assert_eq!(refused_of(9, 300), 50);
    assert_eq!([10, 11, 12].map(|host| refused_of(host, 250)), [0; 3]);
    assert_eq!(refused_of(13, 10), 10);
}
