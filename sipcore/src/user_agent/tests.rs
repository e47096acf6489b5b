//! What one user agent answers, message by message.

mod querying;
mod ringing;

use super::{Config, Notice, UserAgent, contact_uri};
use crate::agent::{CallError, Direct, End, EndReason, PresenceError, SessionId, SubscriptionId, Update};
use crate::label::{Label, Proto};
use crate::message::{Message, Method, name};
use crate::presence::{Tuple, Watchers};
use crate::sdp::Offer;
use crate::transaction::Timing;
use crate::transport::{Flow, Sign, Transport, stun};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

const SDP: &str = "v=0\r\no=- 1 1 IN IP4 10.0.0.9\r\ns=-\r\nc=IN IP4 10.0.0.9\r\nt=0 0\r\nm=application 9 TCP octet-stream\r\n\
    a=setup:active\r\na=connection:new\r\n";
const SECOND: Duration = Duration::from_secs(1);

struct Bench {
    now: Instant,
    agent: UserAgent,
    hop: Flow,
    serial: u32,
}

fn bench() -> Bench {
    bench_of("bob")
}

fn bench_of(user: &str) -> Bench {
    let local: SocketAddr = "10.0.0.2:5062".parse().unwrap();
    let hop = Flow { transport: Transport::Udp, local: 0, remote: "10.0.0.1:5060".parse().unwrap() };
    let aor = format!("sip:{user}@sipbox.invalid").parse().unwrap();
    let config = Config {
        contact: contact_uri(&aor, local, Transport::Udp).unwrap(),
        aor,
        instance: "urn:uuid:00000000-0000-4000-8000-000000000001".into(),
        next_hop: hop,
        credentials: None,
        expires: 60 * SECOND,
        refresh: None,
        timing: Timing::default(),
    };
    Bench { now: Instant::now(), agent: UserAgent::new(config, local), hop, serial: 0 }
}

impl Bench {
    /// A request as text, from the top Via on completed with what every request has.
    fn request(&mut self, method: &str, extra: &str, body: &str) -> Message {
        self.serial += 1;
        let serial = self.serial;
        let text = format!(
            "{method} sip:bob@10.0.0.2:5062 SIP/2.0\r\nVia: SIP/2.0/UDP 10.0.0.1:5060;branch=z9hG4bKx{serial};rport\r\n\
             Max-Forwards: 70\r\nTo: <sip:bob@sipbox.invalid>\r\nFrom: <sip:alice@sipbox.invalid>;tag=a{serial}\r\n\
             Call-ID: c{serial}\r\nCSeq: 1 {method}\r\nContact: <sip:alice@10.0.0.9:5064>\r\n{extra}\
             Content-Length: {}\r\n\r\n{body}",
            body.len()
        );
        Message::parse_datagram(text.into()).unwrap()
    }

    fn invite(&mut self) -> Message {
        self.request("INVITE", "Content-Type: application/sdp\r\n", SDP)
    }

    fn put(&mut self, message: Message) {
        self.agent.handle_message(self.now, self.hop, message);
    }

    fn sent(&mut self) -> Vec<Message> {
        std::iter::from_fn(|| self.agent.poll_transmit())
            .filter_map(|transmit| Message::parse_datagram(transmit.payload).ok())
            .collect()
    }

    /// The final answer to a request.
    fn answer(&mut self, request: Message) -> Message {
        self.put(request);
        let mut sent = self.sent();
        sent.retain(|message| message.status() != Some(100));
        assert_eq!(sent.len(), 1, "{sent:?}");
        sent.remove(0)
    }

    fn status(&mut self, request: Message) -> u16 {
        self.answer(request).status().unwrap()
    }

    fn offered(&mut self) -> Option<SessionId> {
        match self.agent.poll_notice() {
            Some(Notice::Incoming { id, .. }) => Some(id),
            _ => None,
        }
    }

    fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(at) = self.agent.poll_timeout().filter(|at| *at <= end) {
            self.now = self.now.max(at);
            self.agent.handle_timeout(self.now);
        }
        self.now = end;
    }

    /// An INVITE that we have accepted: it, and the 200.
    fn accepted(&mut self) -> (SessionId, Message, Message) {
        let invite = self.invite();
        self.put(invite.clone());
        let id = self.offered().unwrap();
        self.agent.accept(self.now, id, 0, &End::Direct(Direct::passive("10.0.0.2:7000".parse().unwrap())));
        let ok = self.sent().pop().unwrap();
        assert_eq!(ok.status(), Some(200));
        (id, invite, ok)
    }

    /// A later request of the caller within the dialog.
    fn within(&mut self, method: &str, cseq: u32, invite: &Message, ok: &Message) -> Message {
        let mut request = self.request(method, "", "");
        for same in [name::FROM, name::CALL_ID] {
            request.set(same, invite.header(same).unwrap().text());
        }
        request.set(name::TO, ok.header(name::TO).unwrap().text());
        request.set(name::CSEQ, format_args!("{cseq} {method}"));
        request
    }
}

#[test]
fn requests_that_are_not_taken() {
    let mut bench = bench();
    let options = bench.request("OPTIONS", "", "");
    let answer = bench.answer(options);
    assert_eq!(answer.status(), Some(200));
    assert!(answer.has_token(name::ALLOW, "INVITE"));
    let message = bench.request("MESSAGE", "", "");
    let answer = bench.answer(message);
    assert_eq!(answer.status(), Some(405));
    assert!(answer.has_token(name::ALLOW, "BYE"));
    let unknown = bench.request("DANCE", "", "");
    assert_eq!(bench.status(unknown), 405);
    let bye = bench.request("BYE", "", "");
    assert_eq!(bench.status(bye), 481);
    let cancel = bench.request("CANCEL", "", "");
    assert_eq!(bench.status(cancel), 481);
    let mut broken = bench.request("OPTIONS", "", "");
    broken.set(name::CSEQ, "1 INVITE");
    assert_eq!(bench.status(broken), 400);
}

#[test]
fn invites_that_are_not_taken() {
    let mut bench = bench();
    let extension = bench.request("INVITE", "Require: bar, 100rel, foo\r\nContent-Type: application/sdp\r\n", SDP);
    let answer = bench.answer(extension);
    assert_eq!(answer.status(), Some(420));
    assert_eq!(answer.header(name::UNSUPPORTED).unwrap().text(), "bar, foo");
    let text = bench.request("INVITE", "Content-Type: text/plain\r\n", "hello");
    let answer = bench.answer(text);
    assert_eq!(answer.status(), Some(415));
    assert_eq!(answer.header(name::ACCEPT).unwrap().text(), "application/sdp");
    let audio = SDP.replace("m=application 9 TCP octet-stream", "m=audio 4000 RTP/AVP 0");
    let audio = bench.request("INVITE", "Content-Type: application/sdp\r\n", &audio);
    let answer = bench.answer(audio);
    assert_eq!(answer.status(), Some(488));
    assert_eq!(answer.warnings().next().unwrap().code, 305);
    let garbage = bench.request("INVITE", "Content-Type: application/sdp\r\n", "v=");
    assert_eq!(bench.status(garbage), 400);
    let empty = bench.request("INVITE", "", "");
    assert_eq!(bench.status(empty), 488);
    let mut other = bench.invite();
    other.set_request_uri(&"sip:carol@10.0.0.2:5062".parse().unwrap());
    assert_eq!(bench.status(other), 404);
    let mut homeless = bench.invite();
    homeless.remove(name::CONTACT);
    assert_eq!(bench.status(homeless), 400);
    assert!(bench.offered().is_none());
}

#[test]
fn a_copy_that_took_another_way_is_merged() {
    let mut bench = bench();
    let invite = bench.invite();
    bench.put(invite.clone());
    let id = bench.offered().unwrap();
    bench.sent();
    bench.put(invite.clone());
    assert_eq!(bench.sent().len(), 1, "a repeated INVITE gets the 100 again");
    let mut copy = invite;
    copy.set_first_param(name::VIA, "branch", Some("z9hG4bKother"));
    assert_eq!(bench.status(copy), 482);
    bench.agent.reject(bench.now, id, 486, "Busy Here");
    assert_eq!(bench.sent().pop().unwrap().status(), Some(486));
    bench.pass(40 * SECOND);
    assert_eq!(bench.agent.leftovers(), [0; 8]);
}

#[test]
fn the_answer_is_repeated_until_it_is_acknowledged() {
    let mut bench = bench();
    let (_, invite, ok) = bench.accepted();
    bench.pass(4 * SECOND);
    let repeated = bench.sent();
    assert_eq!(repeated.len(), 3, "after 0.5, 1.5 and 3.5 s");
    assert!(repeated.iter().all(|message| message.to_bytes() == ok.to_bytes()));
    let ack = bench.within("ACK", 1, &invite, &ok);
    bench.put(ack);
    bench.pass(60 * SECOND);
    assert!(bench.sent().is_empty());
    let mut reinvite = bench.within("INVITE", 2, &invite, &ok);
    reinvite.set_body("application/sdp", SDP.replace("o=- 1 1", "o=- 1 2").into());
    let answer = bench.answer(reinvite);
    assert_eq!(answer.status(), Some(488), "the flow does not change");
    assert_eq!(answer.warnings().next().unwrap().code, 305);
    let ack = bench.within("ACK", 2, &invite, &ok);
    bench.put(ack);
    let old = bench.within("BYE", 1, &invite, &ok);
    assert_eq!(bench.status(old), 500);
    let mut stranger = bench.within("BYE", 9, &invite, &ok);
    stranger.set(name::FROM, "<sip:eve@sipbox.invalid>;tag=e");
    assert_eq!(bench.status(stranger), 481);
    let bye = bench.within("BYE", 3, &invite, &ok);
    assert_eq!(bench.status(bye), 200);
    assert!(matches!(bench.agent.poll_notice(), Some(Notice::Ended { .. })));
    let again = bench.within("BYE", 4, &invite, &ok);
    assert_eq!(bench.status(again), 481);
}

#[test]
fn an_answer_that_is_never_acknowledged_ends_in_bye() {
    let mut bench = bench();
    bench.accepted();
    bench.pass(33 * SECOND);
    let last = bench.sent().pop().unwrap();
    assert_eq!(last.method().unwrap().as_str(), "BYE");
    assert!(matches!(bench.agent.poll_notice(), Some(Notice::Ended { .. })));
    bench.pass(100 * SECOND);
    assert_eq!(bench.agent.leftovers(), [0; 8]);
}

#[test]
fn hanging_up_before_the_ack_waits_for_it() {
    let mut bench = bench();
    let (id, invite, ok) = bench.accepted();
    bench.agent.end(bench.now, id);
    assert!(bench.sent().is_empty());
    let ack = bench.within("ACK", 1, &invite, &ok);
    bench.put(ack);
    assert_eq!(bench.sent().pop().unwrap().method().unwrap().as_str(), "BYE");
}

fn calling(bench: &mut Bench) -> (SessionId, Message) {
    let id = SessionId::next();
    let source = "10.0.0.2:40000".parse().unwrap();
    let offer = Offer::direct(Label { proto: Proto::Tcp, port: 7000 }, source, source);
    bench.agent.invite(bench.now, id, &"sip:alice@sipbox.invalid".parse().unwrap(), offer);
    (id, bench.sent().pop().unwrap())
}

fn ok(invite: &Message, tag: &str) -> Message {
    let answer = SDP.replace("setup:active", "setup:passive").replace("m=application 9", "m=application 7000");
    Message::response_to(invite, 200, "OK")
        .to_tag(tag)
        .header(name::CONTACT, "<sip:alice@10.0.0.9:5064>")
        .body("application/sdp", answer)
        .build()
}

#[test]
fn every_answer_is_acknowledged_and_one_session_kept() {
    let mut bench = bench();
    let (id, invite) = calling(&mut bench);
    bench.put(ok(&invite, "one"));
    let first: Vec<_> = bench.sent();
    assert_eq!(first.len(), 1);
    assert_eq!(first[0].start_line(), "ACK sip:alice@10.0.0.9:5064 SIP/2.0");
    assert!(matches!(bench.agent.poll_notice(), Some(Notice::Answered(session)) if session.id == id));
    bench.put(ok(&invite, "one"));
    let again = bench.sent();
    assert_eq!(again.len(), 1);
    assert_eq!(again[0].to_bytes(), first[0].to_bytes());
    bench.put(ok(&invite, "two"));
    let other: Vec<_> = bench.sent().iter().map(|message| message.method().unwrap().to_string()).collect();
    assert_eq!(other, ["ACK", "BYE"]);
    assert!(bench.agent.poll_notice().is_none());
}

#[test]
fn cancel_waits_for_a_sign_of_life() {
    let mut bench = bench();
    let (id, invite) = calling(&mut bench);
    bench.agent.end(bench.now, id);
    assert!(bench.sent().is_empty(), "CANCEL before a provisional response is not allowed");
    bench.put(Message::response_to(&invite, 100, "Trying").build());
    let cancel = bench.sent().pop().unwrap();
    assert_eq!(cancel.method().unwrap().as_str(), "CANCEL");
    assert_eq!(cancel.via().unwrap().branch(), invite.via().unwrap().branch());
    bench.put(ok(&invite, "late"));
    let sent: Vec<_> = bench.sent().iter().map(|message| message.method().unwrap().to_string()).collect();
    assert_eq!(sent, ["ACK", "BYE"], "the 200 was faster");
    bench.pass(100 * SECOND);
    assert_eq!(bench.agent.leftovers(), [0; 8]);
}

#[test]
fn an_answer_without_use_is_ended_again() {
    let mut bench = bench();
    let (_, invite) = calling(&mut bench);
    let mut answer = ok(&invite, "x");
    answer.set_body("application/sdp", "v=0\r\no=- 1 1 IN IP4 10.0.0.9\r\ns=-\r\nt=0 0\r\n".into());
    bench.put(answer);
    let sent: Vec<_> = bench.sent().iter().map(|message| message.method().unwrap().to_string()).collect();
    assert_eq!(sent, ["ACK", "BYE"]);
    let Some(Notice::Failed { error: CallError::BadAnswer { .. }, .. }) = bench.agent.poll_notice() else {
        panic!("a bad answer is told")
    };
}

#[test]
fn a_next_hop_that_is_gone_fails_calls_at_once() {
    let mut bench = bench();
    calling(&mut bench);
    bench.agent.handle_unreachable(bench.now, bench.hop, "Connection refused");
    let Some(Notice::Failed { error, .. }) = bench.agent.poll_notice() else { panic!("told") };
    assert!(matches!(error, CallError::Unreachable { .. }));
    assert_eq!(
        error.to_string(),
        "no session with sip:alice@sipbox.invalid: the hub at 10.0.0.1:5060 is not reachable: Connection refused"
    );
    assert_eq!(bench.agent.leftovers(), [0; 8]);
}

#[test]
fn what_is_too_large_for_a_datagram_goes_over_tcp() {
    let mut bench = bench_of(&"b".repeat(400));
    let now = bench.now;
    bench.agent.register(now);
    let first = bench.agent.poll_transmit().unwrap();
    assert_eq!(first.flow, Flow { transport: Transport::Tcp, ..bench.hop });
    assert_eq!(Message::parse_datagram(first.payload).unwrap().via().unwrap().transport, "TCP");
    bench.agent.handle_unreachable(now, first.flow, "Connection refused");
    let second = bench.agent.poll_transmit().unwrap();
    assert_eq!(second.flow, bench.hop);
    let second = Message::parse_datagram(second.payload).unwrap();
    assert_eq!(second.via().unwrap().transport, "UDP");
    bench.put(Message::response_to(&second, 200, "OK").header(name::EXPIRES, 60).build());
    assert!(matches!(bench.agent.poll_notice(), Some(Notice::Registered)));
}

/// Registers, and answers with these headers.
fn registered(bench: &mut Bench, headers: &[(&str, &str)]) {
    let now = bench.now;
    bench.agent.register(now);
    let register = bench.sent().pop().unwrap();
    let mut answer = Message::response_to(&register, 200, "OK").header(name::EXPIRES, 60);
    for (name, value) in headers {
        answer = answer.header(name, value);
    }
    bench.put(answer.build());
    assert!(matches!(bench.agent.poll_notice(), Some(Notice::Registered)));
}

#[test]
fn what_the_registrar_grants_is_used() {
    let mut bench = bench();
    let gruu = "sip:bob@sipbox.invalid;gr=urn:uuid:00000000-0000-4000-8000-000000000001";
    let contact = format!("<sip:bob@10.0.0.2:5062>;pub-gruu=\"{gruu}\"");
    registered(
        &mut bench,
        &[
            (name::CONTACT, &contact),
            (name::SERVICE_ROUTE, "<sip:10.0.0.1;lr>, <sip:10.0.0.7;lr>"),
            (name::P_ASSOCIATED_URI, "<sip:robert@sipbox.invalid>"),
        ],
    );
    let (_, invite) = calling(&mut bench);
    assert_eq!(invite.contacts().next().unwrap().unwrap().uri_text(), gruu);
    assert_eq!(invite.routes().count(), 2);
    assert_eq!(invite.from().unwrap().uri_text(), "sip:robert@sipbox.invalid");
    let (_, _, ok) = bench.accepted();
    assert_eq!(ok.contacts().next().unwrap().unwrap().uri_text(), gruu);
    assert!(ok.has_token(name::SUPPORTED, "gruu"));
}

#[test]
fn flows_are_kept_where_the_registrar_keeps_them() {
    let mut bench = bench();
    let now = bench.now;
    bench.agent.register(now);
    let first = bench.sent().pop().unwrap();
    assert!(first.has_token(name::SUPPORTED, "outbound"));
    assert_eq!(first.contacts().next().unwrap().unwrap().params.token("reg-id"), Some("1"));
    bench.put(Message::response_to(&first, 439, "First Hop Lacks Outbound Support").build());
    let second = bench.sent().pop().unwrap();
    assert!(!second.has_token(name::SUPPORTED, "outbound") && second.has_token(name::SUPPORTED, "path"));
    assert!(!second.contacts().next().unwrap().unwrap().params.has("reg-id"));
    bench.put(Message::response_to(&second, 200, "OK").build());
    assert!(bench.agent.is_registered());

    let mut bench = bench_of("bob");
    registered(&mut bench, &[(name::REQUIRE, "outbound")]);
    let (_, invite) = calling(&mut bench);
    assert!(invite.contacts().next().unwrap().unwrap().uri().unwrap().has_param("ob"));
    // STUN is the keep-alive now; an answer from another address means that no request finds us any more.
    let stun = |bench: &mut Bench, port: u16| loop {
        bench.now = bench.agent.poll_timeout().unwrap();
        bench.agent.handle_timeout(bench.now);
        let sent: Vec<_> = std::iter::from_fn(|| bench.agent.poll_transmit()).collect();
        for transmit in sent {
            if stun::is_stun(&transmit.payload) {
                let answer = stun::answer(&transmit.payload, ([192, 0, 2, 1], port).into()).unwrap();
                return bench.agent.handle_sign(bench.now, bench.hop, Sign::Stun(&answer));
            }
            // A refresh that happens to be due.
            let message = Message::parse_datagram(transmit.payload).unwrap();
            if message.method() == Some(&Method::Register) {
                bench.put(Message::response_to(&message, 200, "OK").header(name::REQUIRE, "outbound").build());
            }
        }
    };
    let is_register = |message: &Message| message.method() == Some(&Method::Register);
    for port in [1000, 1000] {
        stun(&mut bench, port);
        bench.sent();
    }
    stun(&mut bench, 2000);
    bench.pass(SECOND);
    assert!(bench.sent().iter().any(is_register));
}

#[test]
fn a_registrar_that_comes_later_is_waited_for() {
    let mut bench = bench();
    let now = bench.now;
    bench.agent.register(now);
    bench.agent.handle_unreachable(now, bench.hop, "Connection refused");
    let Some(Notice::NotRegistered(error)) = bench.agent.poll_notice() else { panic!("told") };
    assert!(!error.is_final());
    bench.sent();
    bench.pass(SECOND);
    let register = bench.sent().pop().unwrap();
    bench.put(Message::response_to(&register, 200, "OK").build());
    assert!(bench.agent.is_registered());
    let told: Vec<_> = std::iter::from_fn(|| bench.agent.poll_notice()).collect();
    assert!(matches!(told[..], [Notice::Registered, Notice::RegistrationRestored]), "{told:?}");
}

#[test]
fn what_no_retry_would_change_is_not_retried() {
    let mut bench = bench();
    let now = bench.now;
    bench.agent.register(now);
    let register = bench.sent().pop().unwrap();
    bench.put(Message::response_to(&register, 403, "Forbidden").build());
    let Some(Notice::NotRegistered(error)) = bench.agent.poll_notice() else { panic!("told") };
    assert!(error.is_final());
    bench.pass(600 * SECOND);
    assert!(bench.sent().is_empty());
}

/// A call that we took, acknowledged; and the messages that made it.
fn established(bench: &mut Bench, headers: &[(&str, &str)]) -> (SessionId, Message, Message) {
    let mut invite = bench.invite();
    for (name, value) in headers {
        invite.set(name, value);
    }
    bench.put(invite.clone());
    let id = bench.offered().unwrap();
    bench.agent.accept(bench.now, id, 0, &End::Direct(Direct::passive("10.0.0.2:7000".parse().unwrap())));
    let ok = bench.sent().pop().unwrap();
    let ack = bench.within("ACK", 1, &invite, &ok);
    bench.put(ack);
    (id, invite, ok)
}

#[test]
fn a_session_is_kept_up_by_the_other_side() {
    let mut bench = bench();
    let timer = [(name::SUPPORTED, "timer"), (name::SESSION_EXPIRES, "120")];
    let (_, invite, ok) = established(&mut bench, &timer);
    assert_eq!(ok.header(name::SESSION_EXPIRES).unwrap().text(), "120;refresher=uac");
    assert!(ok.has_token(name::REQUIRE, "timer"));
    // An UPDATE, an INVITE with the description as it was, and one without.
    let mut cseq = 1;
    for (method, body) in [("UPDATE", ""), ("INVITE", SDP), ("INVITE", "")] {
        bench.pass(80 * SECOND);
        assert!(bench.sent().is_empty(), "what is acknowledged is not repeated");
        cseq += 1;
        let mut refresh = bench.within(method, cseq, &invite, &ok);
        refresh.set_body("application/sdp", body.into());
        refresh.set(name::SUPPORTED, "timer");
        refresh.set(name::SESSION_EXPIRES, "120;refresher=uac");
        let answer = bench.answer(refresh);
        assert_eq!(answer.status(), Some(200), "{method} {body}");
        let described = if method == "INVITE" { ok.body().clone() } else { Default::default() };
        assert_eq!(*answer.body(), described);
        if method == "INVITE" {
            // A second one: the caller knows the answer to the first, or has given it up, and its ACK may be lost.
            cseq += 1;
            let mut again = bench.within("INVITE", cseq, &invite, &ok);
            again.set(name::SUPPORTED, "timer");
            again.set(name::SESSION_EXPIRES, "120;refresher=uac");
            let answer = bench.answer(again);
            assert_eq!((answer.status(), answer.cseq().unwrap().number), (Some(200), cseq));
            let ack = bench.within("ACK", cseq, &invite, &ok);
            bench.put(ack);
        }
    }
    assert!(bench.agent.poll_notice().is_none());
    // Then nothing more comes.
    bench.pass(89 * SECOND);
    assert!(bench.sent().iter().any(|message| message.method() == Some(&Method::Bye)));
    assert!(matches!(bench.agent.poll_notice(), Some(Notice::Ended { reason: EndReason::PeerVanished, .. })));
    bench.pass(100 * SECOND);
    assert_eq!(bench.agent.leftovers(), [0; 8]);
}

#[test]
fn a_session_is_kept_up_by_us() {
    let mut bench = bench();
    // This caller knows nothing of timers, and at first nothing of UPDATE is known.
    let (_, invite, ok) = established(&mut bench, &[(name::ALLOW, "INVITE, UPDATE")]);
    assert_eq!(ok.header(name::SESSION_EXPIRES).unwrap().text(), "600;refresher=uas");
    assert!(!ok.has_token(name::REQUIRE, "timer"));
    bench.sent();
    bench.pass(301 * SECOND);
    let update = bench.sent().remove(0);
    assert_eq!(update.start_line(), "UPDATE sip:alice@10.0.0.9:5064 SIP/2.0");
    assert_eq!(
        (update.body().len(), update.header(name::SESSION_EXPIRES).unwrap().text().as_ref()),
        (0, "600;refresher=uac")
    );
    // Glare: both give way, and ours comes again.
    let theirs = bench.within("INVITE", 2, &invite, &ok);
    assert_eq!(bench.status(theirs), 491);
    let ack = bench.within("ACK", 2, &invite, &ok);
    bench.put(ack);
    bench.put(Message::response_to(&update, 491, "Request Pending").build());
    bench.pass(3 * SECOND);
    let update = bench.sent().pop().unwrap();
    assert_eq!(update.method(), Some(&Method::Update));
    // It does not take UPDATE after all: then INVITE, with the description as it was.
    bench.put(Message::response_to(&update, 405, "Method Not Allowed").build());
    let reinvite = bench.sent().pop().unwrap();
    assert_eq!((reinvite.method(), reinvite.body()), (Some(&Method::Invite), ok.body()));
    let accepted = Message::response_to(&reinvite, 200, "OK")
        .header(name::CONTACT, "<sip:alice@10.0.0.77:5064>")
        .header(name::SESSION_EXPIRES, "600;refresher=uac")
        .body("application/sdp", SDP)
        .build();
    for _ in 0..2 {
        bench.put(accepted.clone());
        let ack = bench.sent().pop().unwrap();
        assert_eq!(ack.start_line(), "ACK sip:alice@10.0.0.77:5064 SIP/2.0", "it is at another place now");
    }
    // The next one gets no answer.
    bench.pass(333 * SECOND);
    assert!(matches!(bench.agent.poll_notice(), Some(Notice::Ended { reason: EndReason::PeerVanished, .. })));
    bench.pass(100 * SECOND);
    assert_eq!(bench.agent.leftovers(), [0; 8]);
}

#[test]
fn intervals_that_do_not_suit() {
    let mut bench = bench();
    let mut brief = bench.invite();
    brief.set(name::SUPPORTED, "timer");
    brief.set(name::SESSION_EXPIRES, 30);
    let answer = bench.answer(brief);
    assert_eq!((answer.status(), answer.seconds(name::MIN_SE)), (Some(422), Some(90)));
    let (_, invite) = calling(&mut bench);
    assert_eq!(invite.seconds(name::SESSION_EXPIRES), Some(600));
    bench.put(Message::response_to(&invite, 422, "Session Interval Too Small").header(name::MIN_SE, 1800).build());
    let again = bench.sent().pop().unwrap();
    assert_eq!((again.seconds(name::SESSION_EXPIRES), again.seconds(name::MIN_SE)), (Some(1800), Some(1800)));
    assert_eq!(again.cseq().unwrap().number, 2);
    // Who asks for less than it was offered is not followed.
    bench.put(Message::response_to(&again, 422, "Session Interval Too Small").header(name::MIN_SE, 90).build());
    assert!(matches!(
        bench.agent.poll_notice(),
        Some(Notice::Failed { error: CallError::Rejected { status: 422, .. }, .. })
    ));
}

#[test]
fn a_redirected_call_goes_on() {
    let mut bench = bench();
    let (id, invite) = calling(&mut bench);
    let moved = "<sip:alice@10.0.0.8>;q=0.5, <mailto:alice@example.com>, <sip:alice@10.0.0.7>";
    bench.put(Message::response_to(&invite, 302, "Moved Temporarily").header(name::CONTACT, moved).build());
    let first = bench.sent().pop().unwrap();
    assert_eq!(first.start_line(), "INVITE sip:alice@10.0.0.7 SIP/2.0");
    assert_eq!((first.call_id(), first.from_tag()), (invite.call_id(), invite.from_tag()));
    bench.put(Message::response_to(&first, 486, "Busy Here").build());
    let second = bench.sent().pop().unwrap();
    assert_eq!(second.start_line(), "INVITE sip:alice@10.0.0.8 SIP/2.0");
    bench.put(ok(&second, "there"));
    assert!(matches!(bench.agent.poll_notice(), Some(Notice::Answered(session)) if session.id == id));
    // In circles it ends.
    let (_, mut last) = calling(&mut bench);
    let mut rounds = 0;
    while last.method() == Some(&Method::Invite) {
        rounds += 1;
        let around = Message::response_to(&last, 302, "x").header(name::CONTACT, "<sip:alice@10.0.0.8>");
        bench.put(around.build());
        last = bench.sent().pop().unwrap();
    }
    assert_eq!(rounds, 6);
    assert!(matches!(
        bench.agent.poll_notice(),
        Some(Notice::Failed { error: CallError::Rejected { status: 302, .. }, .. })
    ));
}

#[test]
fn what_is_required_within_a_dialog_and_prack() {
    let mut bench = bench();
    let (_, invite, ok) = established(&mut bench, &[(name::REQUIRE, "100rel")]);
    let mut strange = bench.within("UPDATE", 2, &invite, &ok);
    strange.set(name::REQUIRE, "magic");
    assert_eq!(bench.status(strange), 420);
    let (_, other, other_ok) = established(&mut bench, &[]);
    let mut prack = bench.within("PRACK", 2, &other, &other_ok);
    prack.set(name::RACK, "1 1 INVITE");
    assert_eq!(bench.status(prack), 481, "nothing of ours asks for it");
    let update = bench.request("UPDATE", "", "");
    assert_eq!(bench.status(update), 481);
}

/// What only some may see is kept back from a registrar that does not know of watchers, and the user hears of it once.
#[test]
fn what_is_withheld_is_said() {
    let mut bench = bench();
    let tuple = |port, watchers: Option<Watchers>| Tuple {
        id: format!("t{port}"),
        open: Some(true),
        label: Some(Label { proto: Proto::Tcp, port }),
        note: None,
        contact: None,
        since: None,
        watchers,
    };
    let now = bench.now;
    bench.agent.publish(now, vec![tuple(7, Some(Watchers::new(["sip:carol@x"]))), tuple(8, None)]);
    bench.agent.register(now);
    let register = bench.sent().pop().unwrap();
    let contact = register.header(name::CONTACT).unwrap().text().into_owned();
    let ok = |supported: &str| {
        let answer = Message::response_to(&register, 200, "OK").to_tag("r").header(name::CONTACT, &contact);
        answer.header(name::EXPIRES, 60).header(name::SUPPORTED, supported).build()
    };
    bench.put(ok("path"));
    let publish = bench.sent().pop().unwrap();
    assert_eq!(publish.method(), Some(&Method::Publish));
    let body = String::from_utf8_lossy(publish.body()).into_owned();
    assert!(body.contains("tcp/8") && !body.contains("tcp/7"), "{body}");
    let mut said = || {
        let notices = std::iter::from_fn(|| bench.agent.poll_notice()).collect::<Vec<_>>();
        let withheld =
            notices.iter().filter(|n| matches!(n, Notice::NotPublished(PresenceError::Withheld { sockets: 1 })));
        withheld.count()
    };
    assert_eq!(said(), 1);
    bench.agent.publish(now, vec![tuple(7, Some(Watchers::new(["*"])))]);
    let mut said = || std::iter::from_fn(|| bench.agent.poll_notice()).count();
    assert_eq!(said(), 0, "it has been said");
}

/// A caller that has moved takes up its session; nobody else does.
#[test]
fn a_session_is_taken_up_from_elsewhere() {
    let mut bench = bench();
    let (old, invite, ok) = bench.accepted();
    let ack = bench.within("ACK", 1, &invite, &ok);
    bench.put(ack);
    let tags = format!("to-tag={};from-tag={}", ok.to_tag().unwrap(), invite.from_tag().unwrap());
    let call_id = invite.call_id().unwrap().to_owned();
    let replacing = |bench: &mut Bench, replaces: &str| {
        let extra = format!("Require: replaces\r\n{replaces}Content-Type: application/sdp\r\n");
        bench.request("INVITE", &extra, SDP)
    };
    for (replaces, owed) in [
        (format!("Replaces: other;{tags}\r\n"), 481),
        (format!("Replaces: {call_id};to-tag=x;from-tag=y\r\n"), 481),
        (format!("Replaces: {call_id};to-tag={};from-tag=y\r\n", ok.to_tag().unwrap()), 481),
        (format!("Replaces: {call_id};to-tag=x\r\n"), 400),
        (format!("Replaces: ;{tags}\r\n"), 400),
        (format!("Replaces: {call_id};{tags}\r\nReplaces: {call_id};{tags}\r\n"), 400),
        (format!("Replaces: {call_id};{tags};early-only\r\n"), 486),
    ] {
        let request = replacing(&mut bench, &replaces);
        assert_eq!(bench.status(request), owed, "{replaces}");
    }
    let mut eve = replacing(&mut bench, &format!("Replaces: {call_id};{tags}\r\n"));
    eve.set(name::FROM, "<sip:eve@sipbox.invalid>;tag=e");
    assert_eq!(bench.status(eve), 403);
    assert!(bench.offered().is_none(), "the session goes on");

    let moved = replacing(&mut bench, &format!("Replaces: {call_id};{tags}\r\n"));
    bench.put(moved);
    let new = bench.offered().unwrap();
    bench.sent();
    bench.agent.accept(bench.now, new, 0, &End::Direct(Direct::passive("10.0.0.2:7000".parse().unwrap())));
    let sent = bench.sent();
    assert_eq!(sent[0].status(), Some(200));
    let bye = sent.iter().find(|message| message.method() == Some(&Method::Bye)).expect("BYE for the old one");
    assert_eq!(bye.call_id().unwrap(), call_id);
    let ended = bench.agent.poll_notice();
    assert!(matches!(ended, Some(Notice::Ended { id, reason: EndReason::Replaced }) if id == old), "{ended:?}");
    let late = replacing(&mut bench, &format!("Replaces: {call_id};{tags}\r\n"));
    assert_eq!(bench.status(late), 603);
}

/// What cannot be read of a notification is answered so, and what was known stays.
#[test]
fn notifications_that_cannot_be_read() {
    const PIDF: &str = "<presence xmlns=\"urn:ietf:params:xml:ns:pidf\" entity=\"sip:carol@x\"><tuple id=\"a\"><status/></tuple></presence>";
    const LIST: &str = "<list xmlns=\"urn:ietf:params:xml:ns:rlmi\" uri=\"sip:f@x\" version=\"0\" fullState=\"true\">\
        <resource uri=\"sip:carol@x\"><instance id=\"1\" state=\"active\" cid=\"c\"/></resource></list>";
    let mut bench = bench();
    let id = SubscriptionId::next();
    bench.agent.subscribe(bench.now, id, &"sip:carol@sipbox.invalid".parse().unwrap(), false);
    let subscribe = bench.sent().pop().unwrap();
    bench.put(Message::response_to(&subscribe, 200, "OK").to_tag("n").header(name::EXPIRES, 600).build());
    let mut cseq = 0;
    let mut notify = |bench: &mut Bench, kind: &str, body: &str| {
        cseq += 1;
        let kind = if kind.is_empty() { String::new() } else { format!("Content-Type: {kind}\r\n") };
        let mut notify = bench.request(
            "NOTIFY",
            &format!("Event: presence\r\nSubscription-State: active;expires=600\r\n{kind}"),
            body,
        );
        notify.set(name::TO, subscribe.header(name::FROM).unwrap().text());
        notify.set(name::FROM, "<sip:carol@sipbox.invalid>;tag=n");
        notify.set(name::CALL_ID, subscribe.header(name::CALL_ID).unwrap().text());
        notify.set(name::CSEQ, format_args!("{cseq} NOTIFY"));
        let status = bench.status(notify);
        let told = std::iter::from_fn(|| bench.agent.poll_notice()).find_map(|notice| match notice {
            Notice::Presence { update, .. } => Some(update),
            _ => None,
        });
        (status, told)
    };
    let related = |root: &str, parts: &[(&str, &str, &str)]| {
        let part = |(id, kind, body): &(&str, &str, &str)| {
            format!("--b\r\nContent-ID: <{id}>\r\nContent-Type: {kind}\r\n\r\n{body}\r\n")
        };
        let parts: String = parts.iter().map(part).collect();
        (
            format!("multipart/related;boundary=b;start=\"<{root}>\";type=\"application/rlmi+xml\""),
            format!("{parts}--b--\r\n"),
        )
    };
    let (pidf, rlmi) = ("application/pidf+xml", "application/rlmi+xml");
    let whole = related("r", &[("r", rlmi, LIST), ("c", pidf, PIDF)]);
    let known = |(status, told): (u16, Option<Update>)| {
        (status, told.map(|update| update.changes.iter().filter(|(_, d)| d.is_some()).count()))
    };
    assert_eq!(known(notify(&mut bench, pidf, PIDF)), (200, Some(1)));
    assert_eq!(known(notify(&mut bench, &whole.0, &whole.1)), (200, Some(1)));
    let deep = "<a>".repeat(100);
    let bomb = "<!DOCTYPE p [<!ENTITY a \"b\"><!ENTITY c \"&a;&a;\">]><p>&c;</p>";
    for (kind, body, owed) in [
        (pidf, "hello", 400),
        (pidf, "<presence/>", 400),
        (pidf, &PIDF[..70], 400),
        (pidf, &deep, 400),
        (pidf, bomb, 400),
        ("text/plain", "hello", 415),
        ("multipart/mixed;boundary=b", &whole.1, 415),
        ("multipart/related", &whole.1, 400),
        (&whole.0, &whole.1[..whole.1.len() - 8], 400),
        (&whole.0, "", 200),
    ] {
        let (status, told) = notify(&mut bench, kind, body);
        assert_eq!(status, owed, "{kind} {body}");
        assert!(told.is_none() || body.is_empty(), "{kind} {body}");
    }
    for parts in [
        // A part that is named is not there; no meta-information; what is named is no document; the meta-information is none.
        &[("r", rlmi, LIST)][..],
        &[("c", pidf, PIDF)],
        &[("r", rlmi, LIST), ("c", pidf, "<presence/>")],
        &[("r", rlmi, "<list/>"), ("c", pidf, PIDF)],
        &[],
    ] {
        let (kind, body) = related("r", parts);
        let (status, told) = notify(&mut bench, &kind, &body);
        assert_eq!((status, told.is_none()), (400, true), "{body}");
    }
}
