//! What follows when the registrar tells of our own registration (RFC 3680), in virtual time: a registrar by hand, and the hub.

use super::{Config, Notice, UserAgent, contact_uri};
use crate::agent::RegisterError;
use crate::auth::Credentials;
use crate::hub::home::HomeProxy;
use crate::hub::{HubConfig, Users};
use crate::message::{Message, Method, name};
use crate::transaction::Timing;
use crate::transport::{Flow, Listen, Machine, Transport};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

const SECOND: Duration = Duration::from_secs(1);
const LONG: Duration = Duration::from_secs(1000);

fn agent() -> UserAgent {
    let local: SocketAddr = "10.0.0.2:5062".parse().unwrap();
    let aor = "sip:bob@sipbox.invalid".parse().unwrap();
    let config = Config {
        contact: contact_uri(&aor, local, Transport::Udp).unwrap(),
        aor,
        instance: "urn:uuid:00000000-0000-4000-8000-000000000001".into(),
        next_hop: flow(),
        credentials: Some(Credentials::new("bob", "secret")),
        expires: LONG,
        refresh: None,
        timing: Timing::default(),
    };
    UserAgent::new(config, local)
}

fn flow() -> Flow {
    Flow { transport: Transport::Udp, local: 0, remote: "10.0.0.1:5060".parse().unwrap() }
}

/// A registrar that says what the test wants.
struct Scripted {
    now: Instant,
    agent: UserAgent,
    /// What its 200 to REGISTER says besides.
    extra: (&'static str, &'static str),
    registers: usize,
    /// The SUBSCRIBE that made the subscription, as long as that stands.
    subscribed: Option<Message>,
    subscribes: usize,
    /// Those of them that end a subscription.
    ended: usize,
    cseq: u32,
    branch: u32,
    /// Answers to NOTIFY.
    answers: Vec<u16>,
    notices: Vec<Notice>,
}

impl Scripted {
    fn registered(extra: (&'static str, &'static str)) -> Scripted {
        let mut scripted = Scripted {
            now: Instant::now(),
            agent: agent(),
            extra,
            registers: 0,
            subscribed: None,
            subscribes: 0,
            ended: 0,
            cseq: 0,
            branch: 0,
            answers: Vec::new(),
            notices: Vec::new(),
        };
        scripted.agent.register(scripted.now);
        scripted.pass(SECOND);
        assert!(scripted.agent.is_registered());
        scripted
    }

    fn collect(&mut self) {
        while let Some(transmit) = self.agent.poll_transmit() {
            let Ok(message) = Message::parse_datagram(transmit.payload) else { continue };
            match message.method() {
                None => self.answers.extend(message.status()),
                Some(Method::Register) => {
                    self.registers += 1;
                    let contact = message.header(name::CONTACT).unwrap().text();
                    let answer = Message::response_to(&message, 200, "OK").to_tag("r");
                    let answer = answer.header(name::CONTACT, format_args!("{contact};expires={}", LONG.as_secs()));
                    self.put(answer.header(self.extra.0, self.extra.1).build());
                }
                Some(Method::Subscribe) => {
                    assert_eq!(message.header(name::EVENT).unwrap().text(), "reg");
                    let target = if message.to_tag().is_some() { "sip:10.0.0.1" } else { "sip:bob@sipbox.invalid" };
                    assert_eq!(message.request_uri().unwrap().as_str(), target);
                    self.subscribes += 1;
                    self.ended += usize::from(message.expires() == Some(0));
                    let answer = Message::response_to(&message, 200, "OK").to_tag("n");
                    let answer = answer.header(name::CONTACT, "<sip:10.0.0.1>").header(name::EXPIRES, LONG.as_secs());
                    self.put(answer.build());
                    self.subscribed.get_or_insert(message);
                    self.tell("active", "application/reginfo+xml", &document("active", "registered", ""));
                }
                Some(_) => {
                    let answer = Message::response_to(&message, 200, "OK").to_tag("x").build();
                    self.put(answer);
                }
            }
        }
        self.notices.extend(std::iter::from_fn(|| self.agent.poll_notice()));
    }

    fn put(&mut self, message: Message) {
        self.agent.handle_message(self.now, flow(), message);
    }

    /// NOTIFY; what it is answered.
    fn tell(&mut self, state: &str, kind: &str, body: &str) -> u16 {
        self.cseq += 1;
        self.branch += 1;
        let (cseq, branch, length) = (self.cseq, self.branch, body.len());
        let subscribe = self.subscribed.as_ref().unwrap();
        let (from, call_id) = (subscribe.header(name::FROM).unwrap().text(), subscribe.call_id().unwrap());
        let text = format!(
            "NOTIFY sip:bob@10.0.0.2:5062 SIP/2.0\r\nVia: SIP/2.0/UDP 10.0.0.1:5060;branch=z9hG4bKn{branch}\r\n\
             Max-Forwards: 70\r\nTo: {from}\r\nFrom: <sip:bob@sipbox.invalid>;tag=n\r\nCall-ID: {call_id}\r\n\
             CSeq: {cseq} NOTIFY\r\nContact: <sip:10.0.0.1>\r\nEvent: reg\r\nSubscription-State: {state}\r\n\
             Content-Type: {kind}\r\nContent-Length: {length}\r\n\r\n{body}"
        );
        self.put(Message::parse_datagram(text.into()).unwrap());
        let before = self.answers.len();
        self.collect();
        self.answers[before]
    }

    fn tells(&mut self, state: &str, event: &str, extra: &str) {
        let status = self.tell("active", "application/reginfo+xml", &document(state, event, extra));
        assert_eq!(status, 200);
    }

    fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            self.collect();
            let Some(at) = self.agent.poll_timeout().filter(|at| *at <= end) else { break };
            self.now = self.now.max(at);
            self.agent.handle_timeout(self.now);
        }
        self.now = end;
    }

    /// How often a REGISTER has come within the time.
    fn registers_within(&mut self, time: Duration) -> usize {
        let before = self.registers;
        self.pass(time);
        self.registers - before
    }

    fn lost(&mut self) -> Vec<(String, bool)> {
        let lost = |notice| match notice {
            Notice::RegistrationLost { why, over } => Some((why, over)),
            _ => None,
        };
        self.notices.drain(..).filter_map(lost).collect()
    }
}

fn document(state: &str, event: &str, extra: &str) -> String {
    document_of("sip:bob@10.0.0.2:5062", state, event, extra)
}

fn document_of(contact: &str, state: &str, event: &str, extra: &str) -> String {
    format!(
        "<reginfo xmlns=\"urn:ietf:params:xml:ns:reginfo\" version=\"0\" state=\"full\"><registration id=\"r\" \
         aor=\"sip:bob@sipbox.invalid\" state=\"{state}\"><contact id=\"c\" state=\"{state}\" event=\"{event}\" {extra}>\
         <uri>{contact}</uri></contact></registration></reginfo>"
    )
}

const TELLS: (&str, &str) = (name::ALLOW_EVENTS, "presence, reg");

#[test]
fn only_who_tells_is_asked() {
    for (extra, asked) in [
        ((name::ALLOW_EVENTS, "presence, reg"), 1),
        ((name::P_ASSOCIATED_URI, "<sip:bob@sipbox.invalid>"), 1),
        ((name::ALLOW_EVENTS, "presence"), 0),
        ((name::SERVER, "another"), 0),
    ] {
        let mut scripted = Scripted::registered(extra);
        assert_eq!(scripted.subscribes, asked, "{extra:?}");
        // It is subscribed to once, and refreshed like any.
        scripted.pass(LONG / 4);
        assert_eq!(scripted.subscribes, asked, "{extra:?}");
        scripted.pass(2 * LONG);
        assert!(scripted.subscribes > asked || asked == 0, "{extra:?}");
        assert!(scripted.lost().is_empty());
    }
}

#[test]
fn what_the_registrar_ends_is_registered_again() {
    for event in ["deactivated", "expired", "unregistered", "x-new"] {
        let mut scripted = Scripted::registered(TELLS);
        scripted.tells("terminated", event, "");
        assert!(!scripted.agent.is_registered());
        assert_eq!(scripted.registers_within(SECOND), 1, "{event}");
        assert!(scripted.agent.is_registered(), "{event}");
        assert!(scripted.notices.iter().any(|notice| matches!(notice, Notice::RegistrationRestored)), "{event}");
        let lost = scripted.lost();
        assert_eq!(lost.len(), 1, "{lost:?}");
        assert!(lost[0].0.contains(event) && !lost[0].1, "{lost:?}");
    }
    // A contact that is not listed any more, where it was before.
    let mut scripted = Scripted::registered(TELLS);
    let other = document_of("sip:bob@10.9.9.9:5062", "active", "registered", "");
    scripted.tell("active", "application/reginfo+xml", &other);
    assert_eq!(scripted.registers_within(SECOND), 1);
    // Who has never named us as we name ourselves writes us otherwise.
    scripted.tell("active", "application/reginfo+xml", &other);
    assert_eq!(scripted.registers_within(SECOND), 0);
    assert!(scripted.agent.is_registered());
}

/// A registrar that ends whatever it has granted is not asked in a loop.
#[test]
fn a_registrar_that_ends_everything_is_left_alone_ever_longer() {
    let mut scripted = Scripted::registered(TELLS);
    let end = scripted.now + LONG;
    while scripted.now < end {
        if scripted.agent.is_registered() {
            scripted.tells("terminated", "deactivated", "");
        }
        scripted.pass(SECOND / 10);
    }
    assert!((10..50).contains(&scripted.registers), "{}", scripted.registers);
}

#[test]
fn probation_is_waited_out_and_less_time_is_heeded() {
    let mut scripted = Scripted::registered(TELLS);
    scripted.tells("terminated", "probation", "retry-after=\"300\"");
    assert_eq!(scripted.registers_within(299 * SECOND), 0);
    assert_eq!(scripted.registers_within(2 * SECOND), 1);
    let lost = scripted.lost();
    assert!(lost[0].0.contains("probation") && lost[0].0.contains("300 s"), "{lost:?}");
    scripted.tells("active", "shortened", "expires=\"20\"");
    assert_eq!(scripted.registers_within(9 * SECOND), 0);
    assert_eq!(scripted.registers_within(4 * SECOND), 1);
    assert!(scripted.lost().is_empty());
}

#[test]
fn who_is_rejected_does_not_come_back() {
    let mut scripted = Scripted::registered(TELLS);
    let gone = document("terminated", "rejected", "retry-after=\"0\"");
    assert_eq!(scripted.tell("terminated;reason=rejected", "application/reginfo+xml", &gone), 200);
    scripted.subscribed = None;
    assert_eq!(scripted.registers_within(LONG), 0);
    let lost = scripted.lost();
    assert!(matches!(&lost[..], [(why, true)] if why.contains("rejected")), "{lost:?}");
    // The user may ask again, and then hears of it again.
    scripted.agent.register(scripted.now);
    scripted.pass(SECOND);
    assert!(scripted.agent.is_registered());
    assert_eq!(scripted.subscribes, 2);
}

/// The end of a subscription that was given up says nothing about the one that was made since.
#[test]
fn a_late_end_is_not_that_of_the_next() {
    let mut scripted = Scripted::registered(TELLS);
    let again = |scripted: &mut Scripted, extra| {
        scripted.extra = extra;
        scripted.agent.handle_unreachable(scripted.now, flow(), "Connection refused");
        assert_eq!(scripted.registers_within(SECOND), 1);
        scripted.ended
    };
    let silent = (name::SERVER, "another");
    assert_eq!(again(&mut scripted, silent), 1);
    let old = scripted.subscribed.take();
    assert_eq!(again(&mut scripted, TELLS), 1);
    assert!(scripted.subscribed.is_some(), "it is made anew");
    let new = std::mem::replace(&mut scripted.subscribed, old);
    assert_eq!(scripted.tell("terminated;reason=timeout", "text/plain", ""), 200);
    scripted.subscribed = new;
    assert_eq!(again(&mut scripted, silent), 2, "it is still known");
}

#[test]
fn bad_notifications_change_nothing() {
    let mut scripted = Scripted::registered(TELLS);
    let gone = document("terminated", "rejected", "");
    for (kind, body, status) in [
        ("application/pidf+xml", gone.as_str(), 415),
        ("application/reginfo+xml", "<reginfo", 400),
        ("application/reginfo+xml", "<reginfo version=\"0\" state=\"full\"/>", 400),
        ("application/reginfo+xml", "<!DOCTYPE a [<!ENTITY x \"y\">]><a>&x;</a>", 400),
    ] {
        assert_eq!(scripted.tell("active", kind, body), status, "{body}");
    }
    // One that is late, and one of another subscription.
    scripted.cseq -= 3;
    assert_eq!(scripted.tell("active", "application/reginfo+xml", &gone), 500);
    scripted.cseq += 10;
    let elsewhere = gone.replace("bob@sipbox.invalid", "carol@sipbox.invalid");
    assert_eq!(scripted.tell("active", "application/reginfo+xml", &elsewhere), 200);
    assert_eq!(scripted.registers_within(SECOND), 0);
    assert!(scripted.agent.is_registered() && scripted.lost().is_empty());
}

/// The process was stopped, or the machine slept, for longer than everything stands: one REGISTER and one SUBSCRIBE, at once, and it stands again.
#[test]
fn a_long_sleep_is_slept_off() {
    for slept in [LONG / 2, LONG * 3 / 4, 3 * LONG, 1000 * LONG] {
        let mut scripted = Scripted::registered(TELLS);
        scripted.pass(10 * SECOND);
        let (registers, subscribes) = (scripted.registers, scripted.subscribes);
        scripted.now += slept;
        scripted.pass(5 * SECOND);
        let (registered, subscribed) = (scripted.registers - registers, scripted.subscribes - subscribes);
        assert!(registered <= 1 && subscribed <= 1, "{slept:?}: {registered} {subscribed}");
        assert!(slept < LONG || (registered, subscribed) == (1, 1), "{slept:?}: {registered} {subscribed}");
        assert!(scripted.agent.is_registered());
        // What came meanwhile still counts.
        scripted.tells("terminated", "deactivated", "");
        assert_eq!(scripted.registers_within(SECOND), 1, "{slept:?}");
    }
}

/// Agent and hub without any network between them.
fn exchange(now: Instant, agent: &mut UserAgent, hub: &mut HomeProxy) {
    let back = Flow { remote: "10.0.0.2:5062".parse().unwrap(), ..flow() };
    loop {
        let before = agent.poll_transmit().map(|transmit| Message::parse_datagram(transmit.payload));
        if let Some(Ok(message)) = before {
            hub.handle_message(now, back, message);
            continue;
        }
        match hub.poll_transmit().map(|transmit| Message::parse_datagram(transmit.payload)) {
            Some(Ok(message)) => agent.handle_message(now, flow(), message),
            Some(Err(_)) => {}
            None => return,
        }
    }
}

/// Who is removed from the users of a hub is out at once, hears of it, and does not come back.
#[test]
fn a_hub_turns_out_who_is_no_user_any_more() {
    let users = |names: &[&str]| {
        let with = |users: Users, name: &&str| users.with(*name, "secret".to_owned());
        Some(names.iter().fold(Users::new("sipbox"), with))
    };
    let now = Instant::now();
    let own = [Listen::plain("10.0.0.1:5060".parse().unwrap())];
    let config = HubConfig { users: users(&["bob", "carol"]), ..HubConfig::default() };
    let mut hub = HomeProxy::new(&config, &own, Timing::default(), now);
    let mut agent = agent();
    agent.register(now);
    exchange(now, &mut agent, &mut hub);
    let activity = hub.activity();
    assert_eq!((activity.bindings, activity.subscriptions), (1, 1));
    // Who stays is not touched.
    hub.set_users(now, users(&["bob"]));
    exchange(now, &mut agent, &mut hub);
    assert!(agent.is_registered() && hub.activity().bindings == 1);
    hub.set_users(now, users(&["carol"]));
    exchange(now, &mut agent, &mut hub);
    let activity = hub.activity();
    assert_eq!((activity.bindings, activity.subscriptions), (0, 0));
    let mut notices: Vec<Notice> = std::iter::from_fn(|| agent.poll_notice()).collect();
    let told = notices.iter().any(
        |notice| matches!(notice, Notice::RegistrationLost { why, over: true } if why.contains("ended it (rejected)")),
    );
    assert!(told, "{notices:?}");
    while let Some(at) = agent.poll_timeout().filter(|at| *at < now + LONG) {
        agent.handle_timeout(at);
        assert!(agent.poll_transmit().is_none(), "it stays away");
    }
    agent.register(now + LONG);
    exchange(now + LONG, &mut agent, &mut hub);
    notices = std::iter::from_fn(|| agent.poll_notice()).collect();
    let refused = |notice: &Notice| matches!(notice, Notice::NotRegistered(RegisterError::BadCredentials { .. }));
    assert!(notices.iter().any(refused), "{notices:?}");
}

/// The subscription ends with the registration, and neither end keeps anything.
#[test]
fn nothing_is_left_at_the_end() {
    let now = Instant::now();
    let own = [Listen::plain("10.0.0.1:5060".parse().unwrap())];
    let users = Some(Users::new("sipbox").with("bob", "secret".to_owned()));
    let config = HubConfig { users, ..HubConfig::default() };
    let mut hub = HomeProxy::new(&config, &own, Timing::default(), now);
    let mut agent = agent();
    agent.register(now);
    exchange(now, &mut agent, &mut hub);
    agent.end_all(now);
    agent.unregister(now);
    exchange(now, &mut agent, &mut hub);
    assert!(agent.is_idle());
    let activity = hub.activity();
    assert_eq!((activity.bindings, activity.subscriptions), (0, 0));
}
