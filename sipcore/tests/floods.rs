//! A hub under connections that want to wear it out: refused, closed and counted, while others are served.
#![allow(clippy::unwrap_used)]

mod common;

use common::soon;
use sipcore::hub::{Counters, Hub, HubConfig};
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::sleep;

const PATIENCE: Duration = Duration::from_millis(300);

async fn hub(change: impl FnOnce(&mut HubConfig)) -> (Hub, SocketAddr) {
    let mut config = HubConfig { patience: PATIENCE, ..HubConfig::default() };
    change(&mut config);
    let hub = Hub::start(config).await.unwrap();
    let at = hub.addresses()[0];
    (hub, at)
}

fn options(at: SocketAddr, branch: &str, extra: &str) -> String {
    format!(
        "OPTIONS sip:{at} SIP/2.0\r\nVia: SIP/2.0/TCP 127.0.0.1:9;branch=z9hG4bK{branch}\r\nMax-Forwards: 70\r\n\
         From: <sip:a@127.0.0.1>;tag=1\r\nTo: <sip:{at}>\r\nCall-ID: {branch}\r\nCSeq: 1 OPTIONS\r\n{extra}Content-Length: 0\r\n\r\n"
    )
}

/// What comes until the hub closes.
async fn rest(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    // A reset is an end as well.
    let _ = soon("the hub to close", stream.read_to_end(&mut bytes)).await;
    String::from_utf8_lossy(&bytes).into_owned()
}

async fn is_served(at: SocketAddr) {
    let mut stream = TcpStream::connect(at).await.unwrap();
    stream.write_all(options(at, "served", "").as_bytes()).await.unwrap();
    let mut buffer = [0; 2048];
    let n = soon("an answer", stream.read(&mut buffer)).await.unwrap();
    assert!(buffer[..n].starts_with(b"SIP/2.0 200 OK"));
}

async fn counted(hub: &Hub, what: impl Fn(&Counters) -> bool) {
    soon("the counter", async {
        while !what(&hub.counters()) {
            sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

/// A byte now and then keeps nobody's place: from its first byte a message has so much time and no more.
#[tokio::test]
async fn slow_senders_are_closed() {
    let (hub, at) = hub(|_| {}).await;
    let mut silent = TcpStream::connect(at).await.unwrap();
    let mut slow = TcpStream::connect(at).await.unwrap();
    let mut stopped = TcpStream::connect(at).await.unwrap();
    // The one that has been served before stays as long as it is between messages.
    stopped.write_all(options(at, "first", "").as_bytes()).await.unwrap();
    let mut buffer = [0; 2048];
    soon("an answer", stopped.read(&mut buffer)).await.unwrap();
    stopped.write_all(b"OPTIONS sip:a SIP/2.0\r\nVia: ").await.unwrap();
    let drip = async {
        let text = options(at, "slow", "");
        for byte in text.bytes() {
            if slow.write_all(&[byte]).await.is_err() {
                break;
            }
            sleep(Duration::from_millis(20)).await;
        }
        rest(&mut slow).await
    };
    let (dripped, quiet, half) = tokio::join!(drip, rest(&mut silent), rest(&mut stopped));
    assert_eq!((dripped.as_str(), quiet.as_str(), half.as_str()), ("", "", ""));
    counted(&hub, |counters| counters.slow_connections == 3 && counters.connections == 0).await;
    is_served(at).await;
}

#[tokio::test]
async fn too_long_and_endless_messages_are_refused() {
    let (hub, at) = hub(|config| config.patience = Duration::from_secs(10)).await;
    let send = |text: String| async move {
        let mut stream = TcpStream::connect(at).await.unwrap();
        let _ = stream.write_all(text.as_bytes()).await;
        rest(&mut stream).await
    };
    let head = options(at, "big", "").replace("Content-Length: 0", "Content-Length: 999999999");
    assert!(send(head).await.starts_with("SIP/2.0 413 "), "a body that is too long");
    let many = "X: y\r\n".repeat(100_000);
    let endless = format!("OPTIONS sip:a SIP/2.0\r\n{many}");
    assert_eq!(send(endless).await, "", "headers without end");
    assert_eq!(send("x".repeat(1 << 20)).await, "", "a line without end");
    counted(&hub, |counters| counters.garbage == 3).await;
    is_served(at).await;
}

/// One address takes its share of places, and everybody else is still served.
#[tokio::test]
async fn one_source_has_its_share_of_connections() {
    let (hub, at) = hub(|config| {
        config.patience = Duration::from_secs(10);
        config.max_connections_per_source = 5;
        config.listen = vec!["127.0.0.1:0".parse().unwrap()];
    })
    .await;
    let mut held = Vec::new();
    for _ in 0..20 {
        held.push(TcpStream::connect(at).await.unwrap());
    }
    counted(&hub, |counters| counters.refused_connections == 15).await;
    let other = tokio::net::TcpSocket::new_v4().unwrap();
    other.bind("127.0.0.2:0".parse().unwrap()).unwrap();
    let mut other = other.connect(at).await.unwrap();
    other.write_all(options(at, "other", "").as_bytes()).await.unwrap();
    let mut buffer = [0; 2048];
    let n = soon("an answer", other.read(&mut buffer)).await.unwrap();
    assert!(buffer[..n].starts_with(b"SIP/2.0 200 OK"));
    drop(held);
    counted(&hub, |counters| counters.connections == 1).await;
    is_served(at).await;
}

/// Who sends too much from one address is told when to come back.
#[tokio::test]
async fn a_flood_of_requests_is_shed() {
    let (hub, at) = hub(|config| config.rate = Some(10)).await;
    let mut stream = TcpStream::connect(at).await.unwrap();
    let text: String = (0..50).map(|n| options(at, &n.to_string(), "")).collect();
    stream.write_all(text.as_bytes()).await.unwrap();
    let mut seen = String::new();
    let mut buffer = vec![0; 65536];
    while seen.matches("\r\n\r\n").count() < 50 {
        let n = soon("answers", stream.read(&mut buffer)).await.unwrap();
        seen.push_str(&String::from_utf8_lossy(&buffer[..n]));
    }
    let shed = seen.matches("SIP/2.0 503 ").count();
    assert!((35..=40).contains(&shed), "{shed} of 50 shed");
    assert_eq!(seen.matches("Retry-After: 1").count(), shed);
    drop(hub);
}
