//! What others do to a link, and what its ends may suffer: injected and replayed datagrams, forged checks, peers that stall or flood, ends that move.

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket as StdSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::net::UdpSocket;
use tokio::time::timeout;

use super::paths::{Paths, Servers, Transmit, Verdict};
use super::*;

const PATIENCE: Duration = Duration::from_secs(30);

fn config(last: u8) -> LinkConfig {
    let certificate = Arc::new(Certificate::new().unwrap());
    LinkConfig { certificate, servers: Servers::default(), also: vec![IpAddr::V4(Ipv4Addr::new(127, 64, 8, last))] }
}

async fn gathered(last: u8) -> Gathered {
    Gathered::start(config(last)).await.unwrap()
}

async fn connected(a: Gathered, at_b: &Quic, b: Gathered, at_a: &Quic) -> (Arc<Link>, Arc<Link>) {
    let both = async { tokio::join!(a.connect(at_b, Role::Offerer), b.connect(at_a, Role::Answerer)) };
    let (a, b) = timeout(PATIENCE, both).await.unwrap();
    (Arc::new(a.unwrap()), Arc::new(b.unwrap()))
}

async fn pair(first: u8) -> (Arc<Link>, Arc<Link>) {
    let (a, b) = (gathered(first).await, gathered(first + 1).await);
    let (at_a, at_b) = (a.description().clone(), b.description().clone());
    connected(a, &at_b, b, &at_a).await
}

fn opening() -> Opening {
    Opening { label: "tcp/7000".parse().unwrap(), virtual_source: "198.18.0.9:1".parse().unwrap() }
}

/// The two directions as QUIC has them.
fn raw(stream: Stream) -> (quinn::SendStream, quinn::RecvStream) {
    match (stream.send, stream.receive) {
        (SendStream::Quic(send, _), RecvStream::Quic(receive, _)) => (send, receive),
        _ => panic!("not of QUIC"),
    }
}

/// Sends back what comes in the next stream.
fn send_back(link: Arc<Link>) -> tokio::task::JoinHandle<()> {
    tokio::spawn(async move {
        let mut incoming = link.accept().await.unwrap();
        assert!(matches!(incoming.purpose().await, Some(Purpose::Socket(_))));
        let (mut send, mut receive) = raw(incoming.take(0).await.unwrap());
        tokio::io::copy(&mut receive, &mut send).await.unwrap();
        send.finish().unwrap();
        let _ = send.stopped().await;
    })
}

/// There and back through a stream, in pieces; `meanwhile` is done after some of them.
async fn there_and_back(link: &Link, pieces: usize, meanwhile: impl AsyncFnMut(usize)) {
    there_and_back_in(raw(link.open(opening(), false).await.unwrap()), pieces, meanwhile).await;
}

async fn there_and_back_in(
    (mut send, mut receive): (quinn::SendStream, quinn::RecvStream),
    pieces: usize,
    mut meanwhile: impl AsyncFnMut(usize),
) {
    let piece = |n: usize| -> Vec<u8> { (0..100_000).map(|i| ((i * 7 + n * 13) >> 3) as u8).collect() };
    for n in 0..pieces {
        meanwhile(n).await;
        let sent = piece(n);
        let mut back = vec![0; sent.len()];
        let exchange = async { tokio::join!(send.write_all(&sent), receive.read_exact(&mut back)) };
        let (written, read) =
            timeout(PATIENCE, exchange).await.unwrap_or_else(|_| panic!("piece {n} did not come back"));
        written.unwrap();
        read.unwrap();
        assert!(back == sent, "piece {n}");
    }
    send.finish().unwrap();
}

/// Somebody between two ends. Each sees him as the other one.
struct Middle {
    faces: [SocketAddr; 2],
    replayed: Arc<AtomicUsize>,
    passing: tokio::task::JoinHandle<()>,
}

impl Middle {
    /// Passes everything on, and repeats now and then what passed before; sends garbage, too.
    async fn start() -> Middle {
        let faces =
            [UdpSocket::bind("127.64.8.250:0").await.unwrap(), UdpSocket::bind("127.64.8.250:0").await.unwrap()];
        let at = [faces[0].local_addr().unwrap(), faces[1].local_addr().unwrap()];
        let replayed = Arc::new(AtomicUsize::new(0));
        let count = replayed.clone();
        let passing = tokio::spawn(async move {
            let mut ends: [Option<SocketAddr>; 2] = [None, None];
            let mut kept: VecDeque<(usize, Vec<u8>)> = VecDeque::new();
            let (mut one, mut other) = (vec![0; 65536], vec![0; 65536]);
            for n in 0usize.. {
                let (from, data) = tokio::select! {
                    got = faces[0].recv_from(&mut one) => { let (l, who) = got.unwrap(); ends[0] = Some(who); (0, one[..l].to_vec()) }
                    got = faces[1].recv_from(&mut other) => { let (l, who) = got.unwrap(); ends[1] = Some(who); (1, other[..l].to_vec()) }
                };
                let to = 1 - from;
                if let Some(end) = ends[to] {
                    let _ = faces[to].send_to(&data, end).await;
                    if n % 5 == 0
                        && let Some((old_to, old)) = kept.get(n % kept.len().max(1)).cloned()
                        && let Some(end) = ends[old_to]
                    {
                        let _ = faces[old_to].send_to(&old, end).await;
                        // Of QUIC by its first bit, of nobody by the rest.
                        let garbage: Vec<u8> = old.iter().map(|byte| byte ^ 0x2a | 0x40).collect();
                        let _ = faces[old_to].send_to(&garbage, end).await;
                        count.fetch_add(1, Ordering::Relaxed);
                    }
                }
                kept.push_back((to, data));
                if kept.len() > 200 {
                    kept.pop_front();
                }
            }
        });
        Middle { faces: at, replayed, passing }
    }

    fn as_seen(&self, face: usize, of: &Quic) -> Quic {
        let here = is::Candidate::host(self.faces[face], "udp").unwrap();
        Quic { candidates: vec![here], ..of.clone() }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_injected_and_replayed_changes_nothing() {
    let middle = Middle::start().await;
    let (a, b) = (gathered(1).await, gathered(2).await);
    let (at_a, at_b) = (a.description().clone(), b.description().clone());
    let (a, b) = connected(a, &middle.as_seen(0, &at_b), b, &middle.as_seen(1, &at_a)).await;
    let serving = send_back(b.clone());
    there_and_back(&a, 20, async |_| {}).await;
    timeout(PATIENCE, serving).await.unwrap().unwrap();
    assert!(middle.replayed.load(Ordering::Relaxed) > 50, "too little was replayed to prove anything");
    assert!(!a.is_closed() && !b.is_closed());
}

/// Two ends of a transfer look for another path while it goes on, one after the other and both at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transfer_goes_on_by_another_path() {
    let (a, b) = pair(10).await;
    let before = a.road().path().unwrap();
    let serving = send_back(b.clone());
    there_and_back(&a, 12, async |n| {
        if n % 4 != 2 {
            return;
        }
        let (here, there) = (config(20 + n as u8), config(40 + n as u8));
        let (one, other) = tokio::join!(a.road().prepare(&here), b.road().prepare(&there));
        let (one, other) = (one.unwrap(), other.unwrap());
        let (at_a, at_b) = (one.description().clone(), other.description().clone());
        let (turned, too) = tokio::join!(a.road().turn(one, &at_b), b.road().turn(other, &at_a));
        turned.unwrap();
        too.unwrap();
    })
    .await;
    timeout(PATIENCE, serving).await.unwrap().unwrap();
    assert_ne!(a.road().path().unwrap(), before);
}

/// A path that is not there leaves everything as it was.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_that_finds_nothing_is_given_up() {
    let (a, b) = pair(12).await;
    let before = a.road().path();
    let prepared = a.road().prepare(&config(60)).await.unwrap();
    let mut nowhere = prepared.description().clone();
    nowhere.candidates = vec![is::Candidate::host("127.64.8.249:9".parse().unwrap(), "udp").unwrap()];
    let turned = a.road().turn(prepared, &nowhere).await;
    assert!(matches!(turned, Err(LinkError::NoPath { .. })), "{turned:?}");
    assert_eq!(a.road().path(), before);
    let serving = send_back(b.clone());
    there_and_back(&a, 2, async |_| {}).await;
    timeout(PATIENCE, serving).await.unwrap().unwrap();
}

/// Who does not read holds up who writes, and little is kept meanwhile.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_stalls_holds_up_the_writer() {
    let (a, b) = pair(14).await;
    let stalled = Arc::new(AtomicBool::new(true));
    let reads = stalled.clone();
    let reading = tokio::spawn(async move {
        let mut incoming = b.accept().await.unwrap();
        assert!(incoming.purpose().await.is_some());
        let (_send, mut receive) = raw(incoming.take(0).await.unwrap());
        while reads.load(Ordering::Relaxed) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let mut total = 0;
        while let Ok(Some(chunk)) = receive.read_chunk(1 << 20, true).await {
            total += chunk.bytes.len();
        }
        total
    });
    let (mut send, _receive) = raw(a.open(opening(), false).await.unwrap());
    let piece = vec![7; 1 << 20];
    let mut written = 0;
    // Blocked: for a second nothing more is taken.
    while let Ok(sent) = timeout(Duration::from_secs(1), send.write(&piece)).await {
        written += sent.unwrap();
        // The window of the connection, and what waits before it.
        assert!(written <= 80 << 20, "{written} bytes are kept for a peer that does not read");
    }
    assert!(written >= 1 << 20);
    // Others go on.
    assert!(matches!(timeout(PATIENCE, a.send_datagram(4, b"beside")).await, Ok(Ok(()))));
    stalled.store(false, Ordering::Relaxed);
    send.write_all(&piece).await.unwrap();
    send.finish().unwrap();
    assert_eq!(timeout(PATIENCE, reading).await.unwrap().unwrap(), written + piece.len());
}

/// Who has heard of a stream, but takes his time, is there: nobody gives him up.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_is_slow_to_accept_is_waited_for() {
    let (a, b) = pair(22).await;
    let mut opened = Box::pin(a.open(opening(), false));
    let early = timeout(Duration::from_secs(5), &mut opened).await;
    assert!(early.is_err(), "{:?}", early.map(|opened| opened.map(|_| ())));
    let taken = async {
        let mut incoming = b.accept().await.unwrap();
        assert!(incoming.purpose().await.is_some());
        incoming.take(0).await.unwrap()
    };
    let (opened, _taken) = timeout(PATIENCE, async { tokio::join!(opened, taken) }).await.unwrap();
    assert!(opened.is_ok(), "{:?}", opened.map(|_| ()));
}

/// Who finds no room is told so after a while, and so is who finds nobody to take his stream: the connection, and what is in it, goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_finds_no_room_is_told_alone() {
    let (a, b) = pair(24).await;
    // Not one of them is ever taken, and after a while nothing has to be said by either end.
    let mut early: Vec<Stream> = Vec::new();
    while let Some(stream) = a.open_early(opening()) {
        early.push(stream);
        assert!(early.len() <= tls::STREAMS as usize);
    }
    assert_eq!(early.len(), tls::STREAMS as usize);
    let full = a.open(opening(), false);
    let late = b.open(opening(), false);
    let (full, late) = timeout(PATIENCE, async { tokio::join!(full, late) }).await.unwrap();
    assert_eq!(full.err(), Some(OpenError::Full));
    assert_eq!(late.err(), Some(OpenError::Late));
    assert!(!a.is_closed() && !b.is_closed());
    // One is served, and those that end make room: it is told when they are an eighth.
    let serving = send_back(b.clone());
    there_and_back_in(raw(early.swap_remove(0)), 2, async |_| {}).await;
    timeout(PATIENCE, serving).await.unwrap().unwrap();
    early.clear();
    for _ in 0..tls::STREAMS / 4 {
        timeout(PATIENCE, b.accept()).await.unwrap().unwrap().refuse(486).await;
    }
    let room = async {
        while a.open_early(opening()).is_none() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, room).await.unwrap();
}

/// Whoever is asked and is not there any more is given up soon, also when nothing could be sent because he did not read before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_is_gone_is_given_up_soon() {
    let middle = Middle::start().await;
    let (a, b) = (gathered(26).await, gathered(27).await);
    let (at_a, at_b) = (a.description().clone(), b.description().clone());
    let (a, b) = connected(a, &middle.as_seen(0, &at_b), b, &middle.as_seen(1, &at_a)).await;
    let (mut send, _receive) = raw(a.open_early(opening()).unwrap());
    let piece = vec![7; 1 << 20];
    while timeout(Duration::from_millis(500), send.write(&piece)).await.is_ok() {}
    middle.passing.abort();
    for _ in 0..2 {
        let asked = Instant::now();
        let opened = timeout(PATIENCE, a.open(opening(), false)).await.unwrap();
        assert_eq!(opened.err(), Some(OpenError::Silent));
        assert!(asked.elapsed() < Duration::from_secs(15), "{:?}", asked.elapsed());
    }
    assert!(!a.is_closed() && !b.is_closed());
}

/// Also when something that he had sent comes after he was asked, and while somebody else sends what looks like QUIC.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_what_a_peer_says_when_asked_is_a_sign_of_life() {
    let middle = Middle::start().await;
    let (a, b) = (gathered(28).await, gathered(29).await);
    let (at_a, at_b) = (a.description().clone(), b.description().clone());
    let (a, b) = connected(a, &middle.as_seen(0, &at_b), b, &middle.as_seen(1, &at_a)).await;
    let begun = Instant::now();
    let heard = tokio::spawn({
        let a = a.clone();
        async move { a.heard().await }
    });
    let mut silent = Box::pin(a.silent());
    let living = timeout(Duration::from_secs(5), &mut silent).await;
    assert!(living.is_err(), "a living peer was given up after {:?}", begun.elapsed());
    timeout(PATIENCE, heard).await.unwrap().unwrap();
    let asked = Instant::now();
    let mut silent = Box::pin(a.silent());
    assert!(timeout(Duration::from_millis(300), &mut silent).await.is_err());
    b.send_datagram(4, b"sent before").await.unwrap();
    timeout(PATIENCE, a.datagram()).await.unwrap().unwrap();
    middle.passing.abort();
    let port = a.road().path().unwrap().local.port();
    let noise = tokio::spawn(async move {
        let stranger = StdSocket::bind("127.64.8.247:0").unwrap();
        loop {
            let _ = stranger.send_to(&[0x45; 200], SocketAddr::new(Ipv4Addr::new(127, 64, 8, 28).into(), port));
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    });
    timeout(PATIENCE, silent).await.unwrap();
    assert!(asked.elapsed() < Duration::from_secs(15), "{:?}", asked.elapsed());
    noise.abort();
}

/// A stream that is reset or dropped unanswered is reset, and no more; one whose connection ends before it was taken was never taken.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_is_not_taken_ends_alone() {
    let (a, b) = pair(30).await;
    for resets in [false, true] {
        let ended = async {
            let mut incoming = b.accept().await.unwrap();
            assert!(incoming.purpose().await.is_some());
            if let (Incoming::Quic { send, receive, .. }, true) = (&mut incoming, resets) {
                send.write_all(&[0, 200, 0, 0, 0, 1]).await.unwrap();
                send.reset(0u32.into()).unwrap();
                receive.stop(0u32.into()).unwrap();
            }
        };
        let (opened, ()) = timeout(PATIENCE, async { tokio::join!(a.open(opening(), true), ended) }).await.unwrap();
        // The 200 may have been read before the reset.
        assert!(matches!(opened.as_ref().err(), Some(OpenError::Reset)) || (resets && opened.is_ok()));
        assert!(!a.is_closed() && !b.is_closed());
    }
    let mut early = a.open_early(opening()).unwrap();
    let mut incoming = timeout(PATIENCE, b.accept()).await.unwrap().unwrap();
    assert!(incoming.purpose().await.is_some());
    if let Incoming::Quic { send, .. } = &mut incoming {
        send.reset(0u32.into()).unwrap();
    }
    let why = timeout(PATIENCE, early.receive.taken()).await.unwrap();
    assert!(matches!(why, Err(Broken::Lost(_))), "{why:?}");
    let mut early = a.open_early(opening()).unwrap();
    let _incoming = timeout(PATIENCE, b.accept()).await.unwrap().unwrap();
    b.close();
    let why = timeout(PATIENCE, early.receive.taken()).await.unwrap();
    assert!(matches!(why, Err(Broken::Ended(_))), "{why:?}");
    assert!(matches!(a.open(opening(), true).await.err(), Some(OpenError::Lost(_))));
}

/// A stream waits when nothing of it is taken, goes on when something is, and no other is concerned.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unread_stream_waits_alone() {
    let (a, b) = pair(20).await;
    let streams = async { tokio::join!(a.open(opening(), false), a.open(opening(), false)) };
    let taken = async {
        let mut taken = Vec::new();
        for _ in 0..2 {
            let mut incoming = b.accept().await.unwrap();
            assert!(incoming.purpose().await.is_some());
            taken.push(incoming.take(0).await.unwrap());
        }
        taken
    };
    let ((held, other), _taken) = timeout(PATIENCE, async { tokio::join!(streams, taken) }).await.unwrap();
    let (held, other) = (held.unwrap(), other.unwrap());
    let (brake, beside) = (a.brake(&held), a.brake(&other));
    // What the other end says comes beside the large datagrams.
    let hearing = tokio::spawn({
        let a = a.clone();
        async move { a.large_datagram().await }
    });
    let mut backlog = b.backlog(held.id());
    let mut sent = 0;
    while let Ok(turn) = timeout(Duration::from_millis(50), brake.turn(true)).await {
        assert!(sent < 4 << 20, "it goes on");
        brake.sent(turn.most);
        sent += turn.most;
    }
    drop(timeout(PATIENCE, beside.turn(true)).await.unwrap());
    backlog.push(&vec![1; sent]);
    backlog.taken(sent);
    drop(timeout(PATIENCE, brake.turn(true)).await.unwrap());
    hearing.abort();
}

/// Streams that nobody takes, and datagrams that nobody reads.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn floods_are_bounded() {
    let (a, b) = pair(16).await;
    for _ in 0..20_000 {
        a.send_datagram(4, &[9; 1000]).await.unwrap();
    }
    let mut opened = Vec::new();
    let flood = async {
        loop {
            let a = a.clone();
            let (tell, told) = tokio::sync::oneshot::channel();
            let task = tokio::spawn(async move {
                let opening = a.open(opening(), false);
                let mut opening = std::pin::pin!(opening);
                let _ = timeout(Duration::from_millis(1), &mut opening).await;
                let _ = tell.send(());
                let _ = opening.await;
            });
            opened.push(task);
            let _ = told.await;
            if opened.len() == 6000 {
                break;
            }
        }
    };
    timeout(PATIENCE, flood).await.unwrap();
    // The first are served all the same.
    let mut served = 0;
    while served < 100 {
        let mut incoming = timeout(PATIENCE, b.accept()).await.unwrap().unwrap();
        assert!(incoming.purpose().await.is_some());
        incoming.refuse(486).await;
        served += 1;
    }
    // What is too much of datagrams is lost; those that come later are read.
    let mut read = 0;
    while let Ok(Ok(_)) = timeout(Duration::from_millis(500), b.datagram()).await {
        read += 1;
    }
    assert!((1..=3000).contains(&read), "{read} datagrams of 1000 bytes were kept");
    opened.iter().for_each(tokio::task::JoinHandle::abort);
    assert!(!a.is_closed() && !b.is_closed());
}

/// Two searches for a path in virtual time.
struct Lab {
    now: Instant,
    ends: [(Paths, SocketAddr); 2],
    /// What was sent last from each end.
    seen: [Vec<Transmit>; 2],
}

impl Lab {
    fn new() -> Lab {
        let now = Instant::now();
        let at: [SocketAddr; 2] = ["192.0.2.1:1000".parse().unwrap(), "192.0.2.2:2000".parse().unwrap()];
        let make = |base: SocketAddr| Paths::new(now, &[base], &Servers::default(), |_| None, |_| None);
        let mut ends = at.map(|base| (make(base), base));
        let of = |paths: &Paths| paths.description(Fingerprint([0; 32]));
        let (one, other) = (of(&ends[0].0), of(&ends[1].0));
        ends[0].0.start(now, &other, true);
        ends[1].0.start(now, &one, false);
        let mut lab = Lab { now, ends, seen: Default::default() };
        lab.pass(Duration::from_secs(2), |_, _| true);
        assert!(lab.ends.iter().all(|(paths, _)| paths.chosen().is_some()));
        lab
    }

    /// Time passes; what an end sends arrives if `arrives` says so (the end, and what).
    fn pass(&mut self, time: Duration, arrives: impl Fn(usize, &Transmit) -> bool) {
        let end = self.now + time;
        while self.now < end {
            for n in [0, 1] {
                let now = self.now;
                self.ends[n].0.handle_timeout(now);
                while let Some(transmit) = self.ends[n].0.poll_transmit() {
                    if arrives(n, &transmit) && transmit.to == self.ends[1 - n].1 {
                        let at = self.ends[1 - n].1;
                        let taken = self.ends[1 - n].0.handle(now, at, transmit.base, &transmit.data);
                        assert_eq!(taken, Verdict::Taken);
                    }
                    self.seen[n].push(transmit);
                }
            }
            self.now += Duration::from_millis(10);
        }
    }

    /// The last request or answer of an end.
    fn last(&self, end: usize, request: bool) -> Vec<u8> {
        let kind: &[u8] = if request { &[0, 1] } else { &[1, 1] };
        let mut all = self.seen[end].iter().rev().map(|transmit| transmit.data.to_vec());
        all.find(|data| data.starts_with(kind)).unwrap()
    }

    /// Puts a datagram in; how much is sent because of it at once.
    fn put(&mut self, end: usize, from: SocketAddr, data: &[u8]) -> usize {
        let (now, at) = (self.now, self.ends[end].1);
        self.ends[end].0.handle(now, at, from, data);
        std::iter::from_fn(|| self.ends[end].0.poll_transmit()).count()
    }
}

#[test]
fn forged_checks_change_nothing() {
    let mut lab = Lab::new();
    let chosen = *lab.ends[1].0.chosen().unwrap();
    let third: SocketAddr = "198.51.100.66:6666".parse().unwrap();
    let (request, answer) = (lab.last(0, true), lab.last(0, false));
    for at in [8, 24, request.len() - 30, request.len() - 9] {
        let mut forged = request.clone();
        forged[at] ^= 1;
        assert_eq!(lab.put(1, third, &forged), 0, "byte {at} of a request from a third address");
        assert_eq!(lab.put(1, chosen.remote, &forged), 0, "byte {at} of a request");
    }
    for at in [8, answer.len() - 30] {
        let mut forged = answer.clone();
        forged[at] ^= 1;
        assert_eq!(lab.put(1, chosen.remote, &forged), 0, "byte {at} of an answer");
    }
    // One that was sent, from somebody else: it is answered, but nobody there can answer what he is asked.
    for _ in 0..100 {
        lab.put(1, third, &request);
        lab.put(1, third, &answer);
    }
    lab.pass(Duration::from_secs(30), |_, transmit| transmit.to != third);
    assert_eq!(lab.ends[1].0.chosen(), Some(&chosen));
    assert!(!lab.ends[1].0.is_doubtful(lab.now) && !lab.ends[1].0.is_lost());
}

/// One request, replayed from thousands of addresses, makes neither candidates nor traffic without bounds.
#[test]
fn replays_from_everywhere_are_bounded() {
    let mut lab = Lab::new();
    let request = lab.last(0, true);
    let mut sent = 0;
    for n in 0..5000u16 {
        sent += lab.put(1, SocketAddr::from(([198, 51, (n >> 8) as u8, n as u8], 1 + n)), &request);
    }
    let [_, remote] = lab.ends[1].0.candidates();
    assert!(remote.len() <= 64, "{} candidates", remote.len());
    assert!(sent <= 500, "{sent} datagrams were sent for 5000 replays");
}

/// Consent (RFC 7675): an end that is not answered any more says so within a few seconds, and what comes late restores it.
#[test]
fn a_path_that_is_gone_is_doubted() {
    let mut lab = Lab::new();
    lab.pass(Duration::from_secs(60), |_, _| true);
    assert!(lab.ends.iter().all(|(paths, _)| !paths.is_doubtful(lab.now)), "idle for a minute");
    lab.pass(Duration::from_secs(6), |_, _| false);
    assert!(lab.ends.iter().all(|(paths, _)| paths.is_doubtful(lab.now)));
    lab.pass(Duration::from_secs(2), |_, _| true);
    assert!(lab.ends.iter().all(|(paths, _)| !paths.is_doubtful(lab.now)));
    // One direction alone is not enough.
    lab.pass(Duration::from_secs(6), |end, _| end == 0);
    assert!(lab.ends.iter().all(|(paths, _)| paths.is_doubtful(lab.now)));
}

/// Datagrams of somebody else at a socket of a search are nobody's business.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_are_not_heard() {
    let (a, b) = pair(18).await;
    let at = a.road().path().unwrap().local;
    let stranger = StdSocket::bind("127.64.8.248:0").unwrap();
    for n in 0..2000u32 {
        let data: Vec<u8> = (0..(n % 1300)).map(|i| (i * n) as u8).collect();
        let _ = stranger.send_to(&data, SocketAddr::new(Ipv4Addr::new(127, 64, 8, 18).into(), at.port()));
    }
    let serving = send_back(b.clone());
    there_and_back(&a, 3, async |_| {}).await;
    timeout(PATIENCE, serving).await.unwrap().unwrap();
}
