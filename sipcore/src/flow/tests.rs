//! Two ends on this machine's loopback, with real sockets.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;

use super::datachannel::{SCTP_PORT, Terms};
use super::*;
use crate::label::Proto;

const PATIENCE: Duration = Duration::from_secs(20);

async fn gathered(last: u8) -> Gathered {
    let certificate = Arc::new(Certificate::new().unwrap());
    let also = vec![IpAddr::V4(Ipv4Addr::new(127, 64, 7, last))];
    Gathered::start(LinkConfig { certificate, servers: Servers::default(), also }).await.unwrap()
}

async fn channels() -> (Link, Link) {
    let (a, b) = (gathered(7).await, gathered(8).await);
    let (at_a, at_b) = (a.description().clone(), b.description().clone());
    let terms =
        |active, fingerprint| Terms { active, fingerprint, port: SCTP_PORT, max_message: 0, negotiated: Vec::new() };
    let (to_a, to_b) = (terms(true, at_a.fingerprint), terms(false, at_b.fingerprint));
    let both = async {
        tokio::join!(a.connect_channels(&at_b, Role::Offerer, to_b), b.connect_channels(&at_a, Role::Answerer, to_a))
    };
    let (a, b) = timeout(PATIENCE, both).await.unwrap();
    (a.unwrap(), b.unwrap())
}

async fn pair() -> (Link, Link) {
    let (a, b) = (gathered(1).await, gathered(2).await);
    let (at_a, at_b) = (a.description().clone(), b.description().clone());
    let both = async { tokio::join!(a.connect(&at_b, Role::Offerer), b.connect(&at_a, Role::Answerer)) };
    let (a, b) = timeout(PATIENCE, both).await.unwrap();
    (a.unwrap(), b.unwrap())
}

fn asked() -> Asked {
    Asked { proto: Proto::Tcp, port: Some(7000), source_port: Some(1) }
}

async fn read_to_end(stream: &mut Stream) -> Vec<u8> {
    let mut all = Vec::new();
    while let Some(data) = stream.receive.read(1 << 16).await.unwrap() {
        all.extend_from_slice(&data);
    }
    all
}

fn opening() -> Opening {
    Opening { label: "tcp/7000".parse().unwrap(), virtual_source: "198.18.0.9:1".parse().unwrap() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_and_datagrams() {
    let (caller, called) = pair().await;
    assert!(caller.road().path().is_some_and(|path| path.word() != "relayed"), "{:?}", caller.road().path());
    let serving = tokio::spawn(async move {
        let mut incoming = called.accept().await.unwrap();
        assert_eq!(incoming.purpose().await, Some(Purpose::Socket(asked())));
        let mut stream = incoming.take(0).await.unwrap();
        let got = read_to_end(&mut stream).await;
        stream.send.write(got.into()).await.unwrap();
        stream.send.finish();
        assert_eq!(stream.send.stopped().await, Stopped::Delivered);
        let mut refused = called.accept().await.unwrap();
        assert_eq!(refused.purpose().await, Some(Purpose::Socket(asked())));
        refused.refuse(486).await;
        for _ in 0..2 {
            let (flow, data) = tokio::select! {
                small = called.datagram() => small.unwrap(),
                large = called.large_datagram() => large.unwrap(),
            };
            called.send_datagram(flow, &data).await.unwrap();
        }
        called.closed().await
    });
    let stream = caller.open(opening(), false).await.unwrap();
    let data: Vec<u8> = (0..4_000_000u32).map(|n| ((n * 7) >> 3) as u8).collect();
    let sent = data.clone();
    let Stream { mut send, mut receive } = stream;
    let writing = tokio::spawn(async move {
        send.write(sent.into()).await.unwrap();
        send.finish();
        send
    });
    let mut got = Vec::new();
    while let Some(piece) = receive.read(1 << 16).await.unwrap() {
        got.extend_from_slice(&piece);
    }
    assert!(got == data);
    drop(writing.await.unwrap());
    assert_eq!(caller.open(opening(), false).await.err(), Some(OpenError::Refused(486)));
    caller.send_datagram(4, b"small").await.unwrap();
    assert_eq!(caller.datagram().await.unwrap(), (4, b"small".as_slice().into()));
    caller.send_datagram(8, &data[..60_000]).await.unwrap();
    assert_eq!(caller.large_datagram().await.unwrap(), (8, data[..60_000].to_vec().into()));
    caller.close();
    assert!(matches!(timeout(PATIENCE, serving).await.unwrap().unwrap(), LinkError::Lost(_)));
}

/// Where a connection has ended nothing is promised: at once at the end that closes it, and at the other as soon as that hears of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_promise_ends_with_the_connection() {
    let (caller, called) = pair().await;
    let label = opening().label;
    let take = async {
        let mut incoming = called.accept().await.unwrap();
        assert_eq!(incoming.purpose().await, Some(Purpose::Socket(asked())));
        incoming.take(called.last_change()).await.unwrap()
    };
    let give = async {
        let mut incoming = caller.accept().await.unwrap();
        assert_eq!(incoming.purpose().await, Some(Purpose::Socket(asked())));
        incoming.take(caller.last_change()).await.unwrap()
    };
    assert!(!caller.promises(label) && !called.promises(label));
    let both = async { tokio::join!(caller.open(opening(), false), take, called.open(opening(), false), give) };
    let (first, _taken, second, _given) = timeout(PATIENCE, both).await.unwrap();
    assert!(first.is_ok() && second.is_ok());
    assert!(caller.promises(label) && called.promises(label));
    called.close();
    assert!(!called.promises(label));
    timeout(PATIENCE, caller.closed()).await.unwrap();
    let begun = std::time::Instant::now();
    // Well before it has not been heard for a while.
    while caller.promises(label) {
        assert!(begun.elapsed() < Duration::from_millis(500));
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_certificate_is_refused() {
    for role in [Role::Offerer, Role::Answerer] {
        let (a, b) = (gathered(3).await, gathered(4).await);
        let (at_a, mut at_b) = (a.description().clone(), b.description().clone());
        at_b.fingerprint = Fingerprint([7; 32]);
        let other = if role == Role::Offerer { Role::Answerer } else { Role::Offerer };
        let both = async { tokio::join!(a.connect(&at_b, role), b.connect(&at_a, other)) };
        let (a, b) = timeout(PATIENCE * 2, both).await.unwrap();
        assert!(matches!(a.err(), Some(LinkError::Handshake(_))));
        // The other end trusts, and hears of the refusal, at the latest when it uses the connection.
        if let Ok(b) = b {
            assert!(timeout(PATIENCE, b.closed()).await.is_ok());
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_version_is_told_apart() {
    for role in [Role::Offerer, Role::Answerer] {
        let (a, b) = (gathered(9).await, gathered(10).await);
        let (at_a, at_b) = (a.description().clone(), b.description().clone());
        let other = if role == Role::Offerer { Role::Answerer } else { Role::Offerer };
        let both = async { tokio::join!(a.connect(&at_b, role), b.connect_speaking(b"sipbox/0", &at_a, other)) };
        let (a, b) = timeout(PATIENCE * 2, both).await.unwrap();
        // Either end finds it, and says it by itself.
        assert_eq!((a.err(), b.err()), (Some(LinkError::OtherVersion), Some(LinkError::OtherVersion)), "{role:?}");
    }
    let words = LinkError::OtherVersion.to_string();
    assert!(words.contains("another version") && words.contains(std::str::from_utf8(ALPN).unwrap()), "{words}");
}

/// The channels of an association go on when one of them is not taken in time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_channel_that_is_not_taken_ends_alone() {
    let (a, b) = channels().await;
    let late = timeout(PATIENCE * 2, a.open(opening(), false)).await.unwrap();
    assert_eq!(late.err(), Some(OpenError::Late));
    assert!(!a.is_closed() && !b.is_closed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_there_is_said() {
    let (a, b) = (gathered(5).await, gathered(6).await);
    let at_b = b.description().clone();
    drop(b);
    let outcome = timeout(PATIENCE, a.connect(&at_b, Role::Offerer)).await.unwrap();
    assert!(matches!(outcome.err(), Some(LinkError::NoPath { .. })));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn channels_carry_streams_and_datagrams() {
    let (caller, called) = channels().await;
    let (say_sent, sent_all) = tokio::sync::oneshot::channel();
    let serving = tokio::spawn(async move {
        let mut incoming = called.accept().await.unwrap();
        assert_eq!(incoming.purpose().await, Some(Purpose::Socket(Asked { source_port: None, ..asked() })));
        let mut stream = incoming.take(0).await.unwrap();
        let got = read_to_end(&mut stream).await;
        stream.send.write(got.into()).await.unwrap();
        stream.send.finish();
        assert_eq!(stream.send.stopped().await, Stopped::Delivered);
        drop(stream);
        called.accept().await.unwrap().refuse(486).await;
        let datagrams = called.accept().await.unwrap().take(0).await.unwrap();
        for _ in 0..2 {
            let (flow, data) = called.datagram().await.unwrap();
            assert_eq!(flow, datagrams.id());
            called.send_datagram(flow, &data).await.unwrap();
        }
        say_sent.send(()).unwrap();
        called.closed().await
    });
    let Stream { mut send, receive } = caller.open(opening(), false).await.unwrap();
    let data: Vec<u8> = (0..4_000_000u32).map(|n| ((n * 7) >> 3) as u8).collect();
    let sent = data.clone();
    let writing = tokio::spawn(async move {
        send.write(sent.into()).await.unwrap();
        send.finish();
        send
    });
    let mut receive = receive;
    let mut got = Vec::new();
    while let Some(piece) = receive.read(1 << 16).await.unwrap() {
        got.extend_from_slice(&piece);
    }
    assert!(got == data);
    drop((writing.await.unwrap(), receive));
    assert_eq!(caller.open(opening(), false).await.err(), Some(OpenError::Refused(486)));
    let udp = Opening { label: "udp/53".parse().unwrap(), ..opening() };
    let datagrams = caller.open(udp, false).await.unwrap();
    for length in [5, 60_000] {
        caller.send_datagram(datagrams.id(), &data[..length]).await.unwrap();
        assert_eq!(caller.datagram().await.unwrap(), (datagrams.id(), data[..length].to_vec().into()));
    }
    // The last datagram may be here before the end that sent it is told so.
    sent_all.await.unwrap();
    caller.close();
    assert!(matches!(timeout(PATIENCE, serving).await.unwrap().unwrap(), LinkError::Lost(_)));
}
