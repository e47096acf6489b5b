//! Two machines in virtual time, over a path that loses, repeats and reorders; and peers that do what no peer does.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::{Duration, Instant};

use bytes::Bytes;
use sctp_proto::PayloadProtocolIdentifier as Ppid;

use super::channel::Read;
use super::dcep::{Delivery, Open};
use super::machine::{Event, Machine, Why};
use super::{SCTP_PORT, Terms};
use crate::flow::Certificate;
use crate::sdp::Fingerprint;

/// One way.
const DELAY: Duration = Duration::from_millis(20);

/// What the path does to one datagram in a hundred.
#[derive(Clone, Copy, Default)]
struct Faults {
    lost: u64,
    twice: u64,
    late: u64,
}

/// When, in which order, to whom, what.
type Arrival = (Instant, u64, usize, Vec<u8>);

/// Two ends and the path between them.
struct Pair {
    ends: [Machine; 2],
    now: Instant,
    faults: Faults,
    random: u64,
    path: BinaryHeap<Reverse<Arrival>>,
    sent: u64,
    events: [Vec<Event>; 2],
}

fn open(label: &str, delivery: Delivery) -> Open {
    Open { delivery, label: label.into(), protocol: "sipbox".into() }
}

fn terms(active: bool, fingerprint: Fingerprint) -> Terms {
    Terms { active, fingerprint, port: SCTP_PORT, max_message: 0, negotiated: Vec::new() }
}

impl Pair {
    fn with(faults: Faults, change: impl Fn(usize, &mut Terms)) -> Pair {
        let now = Instant::now();
        let certificates = [Certificate::new().unwrap(), Certificate::new().unwrap()];
        let end = |n: usize| {
            let mut terms = terms(n == 1, certificates[1 - n].fingerprint);
            change(n, &mut terms);
            Machine::new(now, &certificates[n], terms).unwrap()
        };
        Pair {
            ends: [end(0), end(1)],
            now,
            faults,
            random: 7,
            path: BinaryHeap::new(),
            sent: 0,
            events: [Vec::new(), Vec::new()],
        }
    }

    /// Two ends that are connected: 0 offered, 1 answered.
    fn connected(faults: Faults) -> Pair {
        let mut pair = Pair::with(faults, |_, _| {});
        pair.until(|pair| pair.ends.iter().all(Machine::is_connected));
        pair
    }

    fn chance(&mut self) -> u64 {
        self.random = self.random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.random >> 33) % 100
    }

    fn send(&mut self, from: usize, datagram: Vec<u8>) {
        if self.chance() < self.faults.lost {
            return;
        }
        let copies = if self.chance() < self.faults.twice { 2 } else { 1 };
        for _ in 0..copies {
            let late = if self.chance() < self.faults.late { DELAY } else { Duration::ZERO };
            self.sent += 1;
            self.path.push(Reverse((self.now + DELAY + late, self.sent, 1 - from, datagram.clone())));
        }
    }

    /// Until nothing is to be done at this time.
    fn flush(&mut self) {
        for n in 0..2 {
            while let Some(datagram) = self.ends[n].poll_transmit(self.now) {
                self.send(n, datagram);
            }
            while let Some(event) = self.ends[n].poll_event() {
                self.events[n].push(event);
            }
        }
    }

    /// Lets the next thing happen. `false`: nothing will.
    fn step(&mut self) -> bool {
        self.flush();
        let timers = self.ends.iter().filter_map(Machine::poll_timeout).min();
        let arrival = self.path.peek().map(|Reverse((when, ..))| *when);
        let Some(next) = timers.into_iter().chain(arrival).min() else { return false };
        self.now = self.now.max(next);
        while self.path.peek().is_some_and(|Reverse((when, ..))| *when <= self.now) {
            let Some(Reverse((_, _, to, datagram))) = self.path.pop() else { break };
            self.ends[to].handle_datagram(self.now, &datagram);
            self.ends[to].settle();
        }
        for end in &mut self.ends {
            if end.poll_timeout().is_some_and(|due| due <= self.now) {
                end.handle_timeout(self.now);
            }
        }
        self.flush();
        true
    }

    fn until(&mut self, done: impl Fn(&mut Pair) -> bool) {
        let limit = self.now + Duration::from_secs(600);
        while !done(self) {
            assert!(self.step() && self.now < limit, "nothing comes any more: {:?}", self.events);
        }
    }

    /// Lets time pass.
    fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        while self.now < end && self.step() {}
    }

    /// A channel of end 0, taken by end 1.
    fn channel(&mut self, label: &str, delivery: Delivery) -> u16 {
        let id = self.ends[0].open(open(label, delivery)).unwrap();
        self.until(|pair| pair.events[1].contains(&Event::Offered(id)));
        self.ends[1].accept(id).unwrap();
        self.until(|pair| pair.ends[0].is_open(id));
        id
    }

    /// Carries `data` from one end to the other, which reads as fast as it can.
    fn carry(&mut self, from: usize, id: u16, data: &[u8]) -> Vec<u8> {
        let mut left = Bytes::copy_from_slice(data);
        let mut got = Vec::new();
        let mut ended = false;
        loop {
            while !left.is_empty() {
                let written = self.ends[from].write(id, &left).unwrap();
                let _ = left.split_to(written);
                if written == 0 {
                    break;
                }
            }
            if left.is_empty() && !ended {
                self.ends[from].finish(id).unwrap();
                ended = true;
            }
            loop {
                match self.ends[1 - from].read(self.now, id) {
                    Read::Data(data) => got.extend_from_slice(&data),
                    Read::End => return got,
                    Read::Nothing => break,
                    Read::Reset => panic!("reset after {} bytes", got.len()),
                }
            }
            assert!(self.step(), "nothing comes any more");
        }
    }
}

fn numbers(length: usize) -> Vec<u8> {
    (0..length).map(|n| ((n * 7) >> 3) as u8).collect()
}

#[test]
fn streams_over_any_path() {
    for faults in [
        Faults::default(),
        Faults { lost: 5, ..Faults::default() },
        Faults { twice: 20, late: 30, ..Faults::default() },
        Faults { lost: 10, twice: 10, late: 10 },
    ] {
        let mut pair = Pair::connected(faults);
        let id = pair.channel("tcp/7000", Delivery::Stream);
        assert_eq!(pair.ends[1].description(id), Some(&open("tcp/7000", Delivery::Stream)));
        let data = numbers(1_000_000);
        assert!(pair.carry(0, id, &data) == data);
        // The other direction goes on after the end of the first.
        assert!(pair.carry(1, id, &data[..100_000]) == data[..100_000]);
        pair.until(|pair| pair.ends.iter().all(|end| end.is_delivered(id)));
        // Both have ended: the channel is closed, and its number free, once nobody holds it.
        pair.until(|pair| pair.ends.iter().all(|end| end.is_closed(id)));
        let now = pair.now;
        pair.ends.iter_mut().for_each(|end| end.release(now, id));
        pair.pass(Duration::from_secs(5));
        assert_eq!(pair.ends[1].description(id), None);
    }
}

#[test]
fn one_direction_ends_before_the_other() {
    let mut pair = Pair::connected(Faults::default());
    let id = pair.channel("tcp/1", Delivery::Stream);
    pair.ends[0].write(id, &Bytes::from_static(b"question")).unwrap();
    pair.ends[0].finish(id).unwrap();
    assert!(pair.ends[0].write(id, &Bytes::from_static(b"more")).is_err());
    pair.pass(DELAY * 4);
    assert_eq!(pair.ends[1].read(pair.now, id), Read::Data(Bytes::from_static(b"question")));
    assert_eq!(pair.ends[1].read(pair.now, id), Read::End);
    assert_eq!(pair.ends[0].read(pair.now, id), Read::Nothing);
    pair.ends[1].write(id, &Bytes::from_static(b"answer")).unwrap();
    pair.pass(DELAY * 4);
    assert_eq!(pair.ends[0].read(pair.now, id), Read::Data(Bytes::from_static(b"answer")));
    assert_eq!(pair.ends[0].read(pair.now, id), Read::Nothing);
}

#[test]
fn closing_is_a_reset() {
    for closer in 0..2 {
        let mut pair = Pair::connected(Faults::default());
        let id = pair.channel("tcp/1", Delivery::Stream);
        pair.ends[closer].write(id, &Bytes::from_static(b"last words")).unwrap();
        pair.ends[closer].shut(id);
        pair.until(|pair| pair.events[1 - closer].contains(&Event::Closed(id)));
        assert_eq!(pair.ends[1 - closer].read(pair.now, id), Read::Data(Bytes::from_static(b"last words")));
        assert_eq!(pair.ends[1 - closer].read(pair.now, id), Read::Reset);
        assert!(pair.ends[1 - closer].write(id, &Bytes::from_static(b"x")).is_err());
    }
}

#[test]
fn a_channel_that_is_not_taken_is_closed() {
    let mut pair = Pair::connected(Faults::default());
    let id = pair.ends[0].open(open("tcp/9", Delivery::Stream)).unwrap();
    pair.until(|pair| pair.events[1].contains(&Event::Offered(id)));
    let now = pair.now;
    pair.ends[1].release(now, id);
    pair.until(|pair| pair.events[0].contains(&Event::Closed(id)));
    assert!(pair.now - now < DELAY * 2, "{:?}", pair.now - now);
    assert!(!pair.ends[0].is_open(id));
}

#[test]
fn datagrams_are_lost_and_never_repeated() {
    let mut pair = Pair::connected(Faults { lost: 20, ..Faults::default() });
    let id = pair.channel("udp/53", Delivery::Datagrams);
    let mut got = Vec::new();
    for n in 0..400u16 {
        pair.ends[0].send_datagram(id, &n.to_be_bytes());
        pair.pass(Duration::from_millis(5));
        got.extend(std::iter::from_fn(|| pair.ends[1].datagram()));
    }
    pair.pass(Duration::from_secs(10));
    got.extend(std::iter::from_fn(|| pair.ends[1].datagram()));
    let mut numbers: Vec<_> = got.iter().map(|(from, data)| (*from, u16::from_be_bytes([data[0], data[1]]))).collect();
    assert!((250..400).contains(&numbers.len()), "{}", numbers.len());
    numbers.sort_unstable();
    numbers.dedup();
    assert_eq!(numbers.len(), got.len());
    // The longest one, and one without bytes.
    pair.faults = Faults::default();
    pair.pass(Duration::from_secs(10));
    pair.ends[0].send_datagram(id, &vec![7; 65_507]);
    pair.ends[0].send_datagram(id, &[]);
    pair.pass(Duration::from_secs(2));
    let lengths: Vec<_> = std::iter::from_fn(|| pair.ends[1].datagram()).map(|(_, data)| data.len()).collect();
    assert!(lengths.contains(&65_507) && lengths.contains(&0), "{lengths:?}");
}

#[test]
fn channels_of_both_descriptions_need_no_opening() {
    let mut pair = Pair::with(Faults::default(), |_, terms| {
        terms.negotiated = vec![(1000, open("tcp/80", Delivery::Stream))];
    });
    pair.until(|pair| pair.events.iter().all(|events| events.contains(&Event::Offered(1000))));
    pair.ends[1].accept(1000).unwrap();
    assert!(pair.carry(0, 1000, b"hello") == b"hello");
    assert!(pair.carry(1, 1000, b"there") == b"there");
}

#[test]
fn another_certificate_is_refused() {
    for liar in 0..2 {
        let mut pair = Pair::with(Faults::default(), |n, terms| {
            if n != liar {
                terms.fingerprint = Fingerprint([7; 32]);
            }
        });
        pair.pass(Duration::from_secs(5));
        assert_eq!(pair.ends[1 - liar].lost(), Some(&Why::Fingerprint));
        assert!(!pair.ends[liar].is_connected());
    }
}

/// What is not read stays with who writes, however long, and goes on at once when it is read.
#[test]
fn who_does_not_read_holds_up_who_writes() {
    let mut pair = Pair::connected(Faults::default());
    let id = pair.channel("tcp/1", Delivery::Stream);
    let piece = Bytes::from(numbers(16_384));
    let mut written = 0;
    for _ in 0..300 {
        loop {
            match pair.ends[0].write(id, &piece).unwrap() {
                0 => break,
                count => written += count,
            }
        }
        pair.pass(Duration::from_secs(1));
    }
    assert!(written < 4 << 20, "{written}");
    assert!(pair.ends[0].is_connected(), "{:?}", pair.ends[0].lost());
    let began = pair.now;
    let mut got = 0;
    while got < written {
        match pair.ends[1].read(pair.now, id) {
            Read::Data(data) => got += data.len(),
            Read::Nothing => assert!(pair.step()),
            other => panic!("{other:?}"),
        }
    }
    assert!(pair.now - began < Duration::from_secs(1), "{:?}", pair.now - began);
}

/// A channel that nobody reads does not keep others from going on, until it has filled the window.
#[test]
fn another_channel_goes_on() {
    let mut pair = Pair::connected(Faults::default());
    let (idle, busy) = (pair.channel("tcp/1", Delivery::Stream), pair.channel("tcp/2", Delivery::Stream));
    let piece = Bytes::from(numbers(16_384));
    for _ in 0..30 {
        pair.ends[0].write(idle, &piece).unwrap();
    }
    pair.pass(Duration::from_secs(2));
    let data = numbers(500_000);
    assert!(pair.carry(0, busy, &data) == data);
}

#[test]
fn a_thousand_channels_and_no_more_than_allowed() {
    let mut pair = Pair::connected(Faults::default());
    let ids: Vec<u16> =
        (0..1000).map(|n| pair.ends[0].open(open(&format!("tcp/{n}"), Delivery::Stream)).unwrap()).collect();
    pair.until(|pair| pair.events[1].iter().filter(|event| matches!(event, Event::Offered(_))).count() == 1000);
    for id in &ids {
        pair.ends[1].accept(*id).unwrap();
    }
    pair.until(|pair| ids.iter().all(|id| pair.ends[0].is_open(*id)));
    for id in &ids {
        assert!(pair.ends[0].write(*id, &Bytes::from(id.to_be_bytes().to_vec())).unwrap() == 2);
    }
    pair.pass(Duration::from_secs(2));
    for id in &ids {
        assert_eq!(pair.ends[1].read(pair.now, *id), Read::Data(Bytes::from(id.to_be_bytes().to_vec())));
    }
    let more: Vec<_> =
        (0..5000).map_while(|n| pair.ends[0].open(open(&format!("tcp/{n}"), Delivery::Stream))).collect();
    assert_eq!(ids.len() + more.len(), 4096);
    // Closed ones make room for others.
    pair.pass(Duration::from_secs(5));
    for id in more {
        let now = pair.now;
        pair.ends[0].release(now, id);
        pair.ends[1].release(now, id);
    }
    pair.pass(Duration::from_secs(10));
    assert!(pair.ends[0].open(open("tcp/1", Delivery::Stream)).is_some());
}

/// Pieces that wait for each other do not wait for acknowledgements, which may be late.
#[test]
fn pieces_that_wait_for_each_other() {
    let mut pair = Pair::connected(Faults::default());
    let id = pair.channel("tcp/1", Delivery::Stream);
    let piece = Bytes::from(numbers(16_384));
    let began = pair.now;
    for _ in 0..100 {
        for from in 0..2 {
            let mut left = piece.clone();
            let mut got = 0;
            while got < piece.len() {
                if !left.is_empty() {
                    let written = pair.ends[from].write(id, &left).unwrap();
                    let _ = left.split_to(written);
                }
                match pair.ends[1 - from].read(pair.now, id) {
                    Read::Data(data) => got += data.len(),
                    Read::Nothing => assert!(pair.step()),
                    other => panic!("{other:?}"),
                }
            }
        }
    }
    let time = pair.now - began;
    assert!(time < DELAY * 200 * 3, "{time:?}");
}

/// A peer that opens channels in ways that there are not, or speaks before it has opened one: the channel is closed, the others go on.
#[test]
fn channels_that_are_none() {
    let mut pair = Pair::connected(Faults::default());
    let good = pair.channel("tcp/1", Delivery::Stream);
    let open = super::dcep::Message::Open(open("tcp/2", Delivery::Stream)).to_bytes();
    let cases: [(u16, Ppid, &[u8]); 6] = [
        (503, Ppid::Dcep, &open[..9]),
        (505, Ppid::Dcep, b"\x02"),
        (507, Ppid::Dcep, b"\xff\xff"),
        (509, Ppid::Binary, b"hello"),
        // The other end's numbers.
        (510, Ppid::Dcep, &open),
        (good, Ppid::Dcep, &open),
    ];
    for (id, ppid, message) in cases {
        pair.ends[0].misbehave(id, ppid, message);
        pair.pass(Duration::from_secs(1));
        assert!(pair.ends[1].is_closed(id), "{id}");
        assert!(pair.ends.iter().all(Machine::is_connected), "{id}");
    }
    let id = pair.channel("tcp/3", Delivery::Stream);
    assert!(pair.carry(0, id, b"hello") == b"hello");
}

/// A message that is longer than was said ends the association: it could not be kept.
#[test]
fn a_message_that_is_too_long() {
    let mut pair = Pair::connected(Faults::default());
    let id = pair.channel("tcp/1", Delivery::Stream);
    pair.ends[0].misbehave(id, Ppid::Binary, &numbers(400_000));
    pair.pass(Duration::from_secs(30));
    assert!(matches!(pair.ends[1].lost(), Some(Why::Sctp(_))), "{:?}", pair.ends[1].lost());
}

/// Tiny messages that nobody reads: they are not taken any more, and all of them come once they are read.
#[test]
fn a_flood_of_tiny_messages() {
    let mut pair = Pair::connected(Faults::default());
    let id = pair.channel("tcp/1", Delivery::Stream);
    let total = 40_000;
    let mut sent = 0;
    while sent < total {
        for _ in 0..500 {
            sent += pair.ends[0].write(id, &Bytes::from_static(b"x")).unwrap();
        }
        pair.pass(DELAY);
    }
    pair.pass(Duration::from_secs(20));
    assert!(pair.ends[1].unread() <= 17 * 1024, "{}", pair.ends[1].unread());
    let mut got = 0;
    while got < total {
        match pair.ends[1].read(pair.now, id) {
            Read::Data(data) => got += data.len(),
            Read::Nothing => assert!(pair.step(), "{got}"),
            other => panic!("{other:?}"),
        }
    }
}

/// CRC32c (RFC 9260 appendix A), bit by bit.
fn checksum(packet: &mut [u8]) {
    packet[8..12].fill(0);
    let mut crc = !0u32;
    for byte in packet.iter() {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 };
        }
    }
    packet[8..12].copy_from_slice(&(!crc).to_le_bytes());
}

/// Packets of SCTP with a few bytes changed, and a checksum that is right: whatever they do, it is no panic and no hang.
#[test]
fn packets_that_are_changed() {
    let mut random = 1u64;
    let mut next = move |below: usize| {
        random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (random >> 33) as usize % below
    };
    for _ in 0..40 {
        let mut pair = Pair::connected(Faults::default());
        let ids = [pair.channel("tcp/1", Delivery::Stream), pair.channel("udp/1", Delivery::Datagrams)];
        for turn in 0..60 {
            if pair.ends.iter().any(|end| end.lost().is_some()) {
                break;
            }
            let _ = pair.ends[0].write(ids[0], &Bytes::from(numbers(1 + next(3000))));
            pair.ends[0].send_datagram(ids[1], &numbers(next(3000)));
            if turn % 20 == 19 {
                pair.ends[0].shut(ids[0]);
            }
            for packet in pair.ends[0].packets(pair.now) {
                let mut packet = packet.to_vec();
                for _ in 0..next(4) {
                    let at = 12 + next(packet.len().saturating_sub(12).max(1));
                    if let Some(byte) = packet.get_mut(at) {
                        *byte = next(256) as u8;
                    }
                }
                checksum(&mut packet);
                pair.ends[0].misbehave_with_packet(&packet);
            }
            pair.pass(Duration::from_millis(next(300) as u64));
            while let Read::Data(_) = pair.ends[1].read(pair.now, ids[0]) {}
        }
    }
}

/// Injected, garbled and repeated datagrams do nothing.
#[test]
fn what_is_not_the_peers_is_ignored() {
    let mut pair = Pair::with(Faults::default(), |_, _| {});
    let garbage: [&[u8]; 5] =
        [b"", &[20], &[22; 60], &[23, 0xfe, 0xfd, 0, 1, 0, 0, 0, 0, 0, 9, 0, 3, 1, 2, 3], &[63; 1400]];
    let inject = |pair: &mut Pair| {
        for datagram in garbage {
            for end in &mut pair.ends {
                end.handle_datagram(pair.now, datagram);
            }
        }
    };
    while !pair.ends.iter().all(Machine::is_connected) {
        inject(&mut pair);
        assert!(pair.step());
    }
    let id = pair.channel("tcp/1", Delivery::Stream);
    inject(&mut pair);
    assert!(pair.carry(0, id, b"hello") == b"hello");
}
