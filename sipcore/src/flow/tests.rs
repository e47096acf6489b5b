//! Two ends on this machine's loopback, with real sockets.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;

use super::*;

const PATIENCE: Duration = Duration::from_secs(20);

async fn gathered(last: u8) -> Gathered {
    let certificate = Arc::new(Certificate::new().unwrap());
    let also = vec![IpAddr::V4(Ipv4Addr::new(127, 64, 7, last))];
    Gathered::start(LinkConfig { certificate, servers: Servers::default(), also }).await.unwrap()
}

async fn pair() -> (Link, Link) {
    let (a, b) = (gathered(1).await, gathered(2).await);
    let (at_a, at_b) = (a.description().clone(), b.description().clone());
    let both = async { tokio::join!(a.connect(&at_b, Role::Offerer), b.connect(&at_a, Role::Answerer)) };
    let (a, b) = timeout(PATIENCE, both).await.unwrap();
    (a.unwrap(), b.unwrap())
}

fn opening() -> Opening {
    Opening { label: "tcp/7000".parse().unwrap(), virtual_source: "198.18.0.9:1".parse().unwrap() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_and_datagrams() {
    let (caller, called) = pair().await;
    assert!(caller.path().is_some_and(|path| path.word() != "relayed"), "{:?}", caller.path());
    let serving = tokio::spawn(async move {
        let mut incoming = called.accept().await.unwrap();
        assert_eq!(incoming.opening().await, Some(opening()));
        let mut stream = incoming.take().await.unwrap();
        let got = stream.receive.read_to_end(1 << 24).await.unwrap();
        stream.send.write_all(&got).await.unwrap();
        stream.send.finish().unwrap();
        let mut refused = called.accept().await.unwrap();
        assert_eq!(refused.opening().await, Some(opening()));
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
    let mut stream = caller.open(opening()).await.unwrap();
    let data: Vec<u8> = (0..4_000_000u32).map(|n| ((n * 7) >> 3) as u8).collect();
    let (mut send, sent) = (stream.send, data.clone());
    let writing = tokio::spawn(async move {
        send.write_all(&sent).await.unwrap();
        send.finish().unwrap();
    });
    assert!(stream.receive.read_to_end(1 << 24).await.unwrap() == data);
    writing.await.unwrap();
    assert_eq!(caller.open(opening()).await.err(), Some(OpenError::Refused(486)));
    caller.send_datagram(4, b"small").await.unwrap();
    assert_eq!(caller.datagram().await.unwrap(), (4, b"small".as_slice().into()));
    caller.send_datagram(8, &data[..60_000]).await.unwrap();
    assert_eq!(caller.large_datagram().await.unwrap(), (8, data[..60_000].to_vec().into()));
    caller.close();
    assert!(matches!(timeout(PATIENCE, serving).await.unwrap().unwrap(), LinkError::Lost(_)));
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
async fn nobody_there_is_said() {
    let (a, b) = (gathered(5).await, gathered(6).await);
    let at_b = b.description().clone();
    drop(b);
    let outcome = timeout(PATIENCE, a.connect(&at_b, Role::Offerer)).await.unwrap();
    assert!(matches!(outcome.err(), Some(LinkError::NoPath { .. })));
}
