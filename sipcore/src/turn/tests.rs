//! The server in virtual time, and on the wire of this machine's loopback.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant, SystemTime};
use stun_types::attribute::*;
use stun_types::message::*;
use turn_types::AddressFamily;
use turn_types::attribute::*;
use turn_types::message::*;

use super::behaviour::{CHANGE_REQUEST, OTHER_ADDRESS, RESPONSE_ORIGIN, Square};
use super::server::{Output, Server};
use super::{Credentials, Mint, TurnConfig, TurnLimits};
use crate::transport::{Flow, Transport};

fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// A server and one client of it.
struct Scene {
    server: Server,
    mint: Mint,
    now: Instant,
    client: Flow,
    credentials: Credentials,
    nonce: String,
    last: u128,
}

impl Scene {
    fn new(limits: TurnLimits) -> Scene {
        let config = TurnConfig {
            listen: vec![at("198.51.100.10:3478"), at("[2001:db8::10]:3478")],
            ports: 50000..=50999,
            limits,
            ..TurnConfig::default()
        };
        let now = Instant::now();
        let mint = Mint::fresh();
        let square = Square {
            points: [
                [(0, at("198.51.100.10:3478")), (2, at("198.51.100.10:3479"))],
                [(3, at("198.51.100.11:3478")), (4, at("198.51.100.11:3479"))],
            ],
        };
        let mut scene = Scene {
            server: Server::new(&config, mint.clone(), vec![square], now),
            credentials: mint.issue("alice", SystemTime::now()),
            mint,
            now,
            client: Flow { transport: Transport::Udp, local: 0, remote: at("192.0.2.7:4000") },
            nonce: String::new(),
            last: 0,
        };
        scene.fetch_nonce();
        scene
    }

    fn fetch_nonce(&mut self) {
        let answer = self.ask(ALLOCATE, &[], false);
        assert_eq!(code(&answer), 401);
        self.nonce = Message::from_bytes(&answer).unwrap().attribute::<Nonce>().unwrap().nonce().to_owned();
    }

    fn request(&mut self, method: Method, attributes: &[&dyn AttributeWrite], signed: bool) -> Vec<u8> {
        self.last += 1;
        let kind = MessageType::from_class_method(MessageClass::Request, method);
        let mut request = Message::builder(kind, TransactionId::from(self.last), MessageWriteVec::new());
        for attribute in attributes {
            request.add_attribute(*attribute).unwrap();
        }
        if signed {
            let Credentials { username, password } = self.credentials.clone();
            request.add_attribute(&Username::new(&username).unwrap()).unwrap();
            request.add_attribute(&Realm::new("sipbox").unwrap()).unwrap();
            request.add_attribute(&Nonce::new(&self.nonce).unwrap()).unwrap();
            let key = LongTermKeyCredentials::new(username, password, "sipbox".to_owned());
            request.add_message_integrity(&key.into(), IntegrityAlgorithm::Sha1).unwrap();
        }
        request.finish()
    }

    fn deliver(&mut self, bytes: &[u8]) -> Vec<Output> {
        self.server.handle_client(self.now, SystemTime::now(), self.client, bytes);
        let mut outputs = Vec::new();
        while let Some(output) = self.server.poll_output() {
            if let Output::Open { relay, ip, .. } = output {
                self.server.opened(relay, Some(SocketAddr::new(ip, 50000 + relay as u16)));
            } else {
                outputs.push(output);
            }
        }
        outputs
    }

    /// The response to a request.
    fn ask(&mut self, method: Method, attributes: &[&dyn AttributeWrite], signed: bool) -> Vec<u8> {
        let request = self.request(method, attributes, signed);
        let outputs = self.deliver(&request);
        let answer = outputs.into_iter().find_map(|output| match output {
            Output::Client { flow, bytes } if flow == self.client => Some(bytes),
            _ => None,
        });
        answer.expect("a response")
    }

    fn allocate(&mut self) -> Vec<u8> {
        self.ask(ALLOCATE, &[&RequestedTransport::new(RequestedTransport::UDP)], true)
    }

    fn peer(&mut self, text: &str) -> XorPeerAddress {
        XorPeerAddress::new(at(text), TransactionId::from(self.last + 1))
    }
}

/// 0 for success.
fn code(answer: &[u8]) -> u16 {
    let answer = Message::from_bytes(answer).unwrap();
    match answer.class() {
        MessageClass::Success => 0,
        _ => answer.attribute::<ErrorCode>().unwrap().code(),
    }
}

#[test]
fn an_allocation_relays_both_ways_for_permitted_peers_only() {
    let mut s = Scene::new(TurnLimits::default());
    let answer = s.allocate();
    let message = Message::from_bytes(&answer).unwrap();
    let relayed = message.attribute::<XorRelayedAddress>().unwrap().addr(message.transaction_id());
    let mapped = message.attribute::<XorMappedAddress>().unwrap().addr(message.transaction_id());
    assert_eq!((relayed, mapped), (at("198.51.100.10:50001"), s.client.remote));
    assert_eq!(message.attribute::<Lifetime>().unwrap().seconds(), 600);
    let key =
        LongTermKeyCredentials::new(s.credentials.username.clone(), s.credentials.password.clone(), "sipbox".into());
    assert!(message.validate_integrity(&key.into()).is_ok(), "the response is signed");

    let peer = at("203.0.113.5:9000");
    s.server.handle_peer(s.now, 1, peer, b"unasked");
    assert_eq!(s.server.poll_output(), None, "nobody has permitted it");
    let wanted = s.peer("203.0.113.5:1");
    assert_eq!(code(&s.ask(CREATE_PERMISSION, &[&wanted], true)), 0);
    s.server.handle_peer(s.now, 1, peer, b"hello");
    let Some(Output::Client { bytes, .. }) = s.server.poll_output() else { panic!("nothing for the client") };
    let message = Message::from_bytes(&bytes).unwrap();
    assert_eq!(message.attribute::<Data>().unwrap().data(), b"hello");
    assert_eq!(message.attribute::<XorPeerAddress>().unwrap().addr(message.transaction_id()), peer);

    let kind = MessageType::from_class_method(MessageClass::Indication, SEND);
    let send = |to: SocketAddr| {
        let id = TransactionId::from(99);
        let mut message = Message::builder(kind, id, MessageWriteVec::new());
        message.add_attribute(&XorPeerAddress::new(to, id)).unwrap();
        message.add_attribute(&Data::new(b"back")).unwrap();
        message.finish()
    };
    assert_eq!(s.deliver(&send(peer)), [Output::Peer { relay: 1, to: peer, bytes: b"back".to_vec() }]);
    assert_eq!(s.deliver(&send(at("203.0.113.6:9000"))), [], "no permission");
    // A permission ends.
    s.now += Duration::from_secs(301);
    assert_eq!(s.deliver(&send(peer)), []);

    let bound = s.peer("203.0.113.5:9000");
    assert_eq!(code(&s.ask(CHANNEL_BIND, &[&ChannelNumber::new(0x4001), &bound], true)), 0);
    let bytes = b"again".to_vec();
    assert_eq!(s.deliver(b"\x40\x01\0\x05again"), [Output::Peer { relay: 1, to: peer, bytes }]);
    assert_eq!(s.deliver(b"\x40\x02\0\x05again"), [], "no such channel");
    assert_eq!(s.deliver(b"\x40\x01\0\x06again"), [], "cut off");
    s.server.handle_peer(s.now, 1, peer, b"abc");
    let Some(Output::Client { bytes, .. }) = s.server.poll_output() else { panic!("nothing for the client") };
    assert_eq!(bytes, b"\x40\x01\0\x03abc", "on datagrams it is not padded");
}

#[test]
fn who_may_and_who_may_not() {
    let mut s = Scene::new(TurnLimits::default());
    let right = s.credentials.clone();
    s.credentials.password = "guess".to_owned();
    assert_eq!(code(&s.allocate()), 401);
    s.credentials = Mint::fresh().issue("alice", SystemTime::now());
    assert_eq!(code(&s.allocate()), 401, "made from another secret");
    s.credentials = s.mint.issue("alice", SystemTime::now() - Duration::from_secs(9 * 3600));
    assert_eq!(code(&s.allocate()), 401, "expired");
    s.credentials = right;
    let nonce = std::mem::replace(&mut s.nonce, "0000000000000000".to_owned());
    assert_eq!(code(&s.allocate()), 438);
    s.nonce = nonce;
    let udp = RequestedTransport::new(RequestedTransport::UDP);
    assert_eq!(code(&s.ask(ALLOCATE, &[&RequestedTransport::new(RequestedTransport::TCP)], true)), 442);
    assert_eq!(code(&s.ask(ALLOCATE, &[], true)), 400);
    assert_eq!(code(&s.ask(ALLOCATE, &[&udp, &DontFragment::new()], true)), 420);
    assert_eq!(code(&s.ask(ALLOCATE, &[&udp, &EvenPort::new(true)], true)), 508, "no port is reserved");
    assert_eq!(code(&s.ask(REFRESH, &[], true)), 437);
    assert_eq!(code(&s.allocate()), 0);
    assert_eq!(code(&s.allocate()), 437, "another one on the same five-tuple");
    // The same user by another name may not touch it, and another user neither.
    s.credentials = s.mint.issue("bob", SystemTime::now());
    assert_eq!(code(&s.ask(REFRESH, &[], true)), 441);
}

#[test]
fn a_lost_response_is_given_again() {
    let mut s = Scene::new(TurnLimits::default());
    let request = s.request(ALLOCATE, &[&RequestedTransport::new(RequestedTransport::UDP)], true);
    let first = s.deliver(&request);
    assert_eq!(s.deliver(&request), first);
    assert_eq!(s.server.allocations(), 1);
}

#[test]
fn peers_inside_are_forbidden() {
    let mut s = Scene::new(TurnLimits::default());
    s.allocate();
    for text in ["127.0.0.1:80", "10.0.0.1:80", "169.254.169.254:80"] {
        let (one, other) = (s.peer("203.0.113.5:1"), s.peer(text));
        assert_eq!(code(&s.ask(CREATE_PERMISSION, &[&one, &other], true)), 403, "{text}");
        let bound = s.peer(text);
        assert_eq!(code(&s.ask(CHANNEL_BIND, &[&ChannelNumber::new(0x4000), &bound], true)), 403, "{text}");
    }
    s.server.handle_peer(s.now, 1, at("203.0.113.5:1"), b"x");
    assert_eq!(s.server.poll_output(), None, "all or none");
    let own = s.peer("198.51.100.10:53");
    assert_eq!(code(&s.ask(CHANNEL_BIND, &[&ChannelNumber::new(0x4000), &own], true)), 403);
    let six = s.peer("[2001:db8::1]:9");
    assert_eq!(code(&s.ask(CREATE_PERMISSION, &[&six], true)), 443);
    let good = s.peer("203.0.113.5:1");
    assert_eq!(code(&s.ask(CHANNEL_BIND, &[&ChannelNumber::new(0x8000), &good], true)), 400);
}

#[test]
fn limits() {
    let mut s = Scene::new(TurnLimits { allocations_per_user: 2, allocations: 3, peers: 2, ..TurnLimits::default() });
    let from = |s: &mut Scene, port: u16, user: &str| {
        s.client.remote.set_port(port);
        s.credentials = s.mint.issue(user, SystemTime::now());
        code(&s.allocate())
    };
    assert_eq!([1, 2, 3].map(|port| from(&mut s, port, "alice")), [0, 0, 486]);
    assert_eq!([4, 5].map(|port| from(&mut s, port, &format!("user{port}"))), [0, 508]);
    // What ends makes room.
    s.client.remote.set_port(1);
    s.credentials = s.mint.issue("alice", SystemTime::now() - Duration::from_secs(100));
    assert_eq!(code(&s.ask(REFRESH, &[&Lifetime::new(0)], true)), 441, "the name of another time is another name");
    s.now += Duration::from_secs(601);
    s.server.handle_timeout(s.now);
    assert_eq!(s.server.allocations(), 0);
    assert_eq!(from(&mut s, 1, "alice"), 0);
    for (n, expected) in [(1, 0), (2, 0), (3, 508), (2, 0)] {
        let peer = s.peer(&format!("203.0.113.{n}:1"));
        assert_eq!(code(&s.ask(CREATE_PERMISSION, &[&peer], true)), expected, "{n}");
    }
    assert_eq!(code(&s.ask(REFRESH, &[&Lifetime::new(0)], true)), 0);
    assert_eq!((s.server.allocations(), s.server.poll_timeout()), (0, None));
}

#[test]
fn bandwidth_is_bounded() {
    let mut s = Scene::new(TurnLimits { bytes_per_second: 100_000, ..TurnLimits::default() });
    s.allocate();
    let peer = s.peer("203.0.113.5:9000");
    s.ask(CHANNEL_BIND, &[&ChannelNumber::new(0x4000), &peer], true);
    let full = [&b"\x40\x00\x03\xe4"[..], &[7; 996]].concat();
    let passed = |s: &mut Scene| (0..200).filter(|_| !s.deliver(&full).is_empty()).count();
    let first = passed(&mut s);
    assert!((45..=50).contains(&first), "{first} kilobytes at once");
    s.now += Duration::from_millis(100);
    let then = passed(&mut s);
    assert!((9..=10).contains(&then), "{then} kilobytes after 100 ms");
}

#[test]
fn requests_of_strangers_are_bounded() {
    let mut s = Scene::new(TurnLimits { requests_per_second: 10, ..TurnLimits::default() });
    let request = s.request(BINDING, &[], false);
    let answered = (0..100).filter(|_| !s.deliver(&request).is_empty()).count();
    assert!((8..=10).contains(&answered), "{answered}");
    s.client.remote.set_ip(IpAddr::from([192, 0, 2, 8]));
    assert_eq!(s.deliver(&request).len(), 1);
}

#[test]
fn families() {
    let mut s = Scene::new(TurnLimits::default());
    let udp = RequestedTransport::new(RequestedTransport::UDP);
    let answer = s.ask(ALLOCATE, &[&udp, &RequestedAddressFamily::new(AddressFamily::IPV6)], true);
    let message = Message::from_bytes(&answer).unwrap();
    let relayed = message.attribute::<XorRelayedAddress>().unwrap().addr(message.transaction_id());
    assert_eq!(relayed, at("[2001:db8::10]:50001"));
    let four = s.peer("203.0.113.5:1");
    assert_eq!(code(&s.ask(CREATE_PERMISSION, &[&four], true)), 443);
}

#[test]
fn bindings_are_answered_from_where_they_are_wanted() {
    let mut s = Scene::new(TurnLimits::default());
    let mut by = |flags: u32, local: u16| {
        s.client.local = local;
        let change = RawAttribute::new_owned(CHANGE_REQUEST, Box::new(flags.to_be_bytes()));
        let request = s.request(BINDING, &[&change], false);
        let [Output::Client { flow, bytes }] = &s.deliver(&request)[..] else { panic!("one response") };
        let message = Message::from_bytes(bytes).unwrap();
        let address = |kind| MappedSocketAddr::from_raw(&message.raw_attribute(kind).unwrap()).unwrap().addr();
        (flow.local, address(RESPONSE_ORIGIN), address(OTHER_ADDRESS))
    };
    assert_eq!(by(0, 0), (0, at("198.51.100.10:3478"), at("198.51.100.11:3479")));
    assert_eq!(by(2, 0), (2, at("198.51.100.10:3479"), at("198.51.100.11:3479")));
    assert_eq!(by(6, 0), (4, at("198.51.100.11:3479"), at("198.51.100.11:3479")));
    assert_eq!(by(4, 4), (2, at("198.51.100.10:3479"), at("198.51.100.10:3478")));
    // The IPv6 point has no second address.
    s.client.local = 1;
    let change = RawAttribute::new_owned(CHANGE_REQUEST, Box::new([0, 0, 0, 4]));
    assert_eq!(code(&s.ask(BINDING, &[&change], false)), 420);
    assert_eq!(code(&s.ask(BINDING, &[], false)), 0);
}

/// Whatever comes, it does not panic, and what is no request is not answered.
#[test]
fn garbage() {
    crate::random::seed(7);
    let mut s = Scene::new(TurnLimits { requests_per_second: 1_000_000, ..TurnLimits::default() });
    s.allocate();
    let peer = s.peer("203.0.113.5:9000");
    let samples = [
        s.request(ALLOCATE, &[&RequestedTransport::new(RequestedTransport::UDP)], true),
        s.request(CHANNEL_BIND, &[&ChannelNumber::new(0x4000), &peer], true),
        s.request(BINDING, &[&RawAttribute::new_owned(CHANGE_REQUEST, Box::new([0, 0, 0, 6]))], false),
        b"\x40\x00\x00\x04abcd".to_vec(),
    ];
    for sample in &samples {
        for n in 0..sample.len() {
            s.deliver(&sample[..n]);
        }
        for _ in 0..2000 {
            let mut bytes = sample.clone();
            for _ in 0..1 + crate::random::number() % 4 {
                let at = crate::random::number() as usize % bytes.len();
                bytes[at] = crate::random::number() as u8;
            }
            s.deliver(&bytes);
        }
    }
    assert!(s.server.allocations() <= 1);
}
