//! Malformed bodies of presence as a hub answers them on the wire.

#![allow(clippy::unwrap_used)]

use sipcore::hub::{Hub, HubConfig};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

const LOCAL: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
/// How long a message may take to be answered, or not to be.
const LIMIT: Duration = Duration::from_secs(5);

async fn hub() -> Hub {
    let domains = vec!["example.com".to_owned()];
    Hub::start(HubConfig { listen: vec![SocketAddr::new(LOCAL, 0)], domains, ..HubConfig::default() }).await.unwrap()
}

/// The final statuses on a connection that sends `bytes` and then no more.
async fn statuses(addr: SocketAddr, bytes: &[u8]) -> Vec<u16> {
    let mut stream = TcpStream::connect(addr).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut answers = Vec::new();
    timeout(LIMIT, stream.read_to_end(&mut answers)).await.unwrap().unwrap();
    let text = String::from_utf8_lossy(&answers);
    let lines = text.lines().filter_map(|line| line.strip_prefix("SIP/2.0 ")?.split(' ').next()?.parse().ok());
    lines.filter(|status: &u16| *status >= 200).collect()
}

const PIDF: &str = "<presence xmlns=\"urn:ietf:params:xml:ns:pidf\" entity=\"sip:bob@example.com\"><tuple id=\"a\"><status/></tuple></presence>";
const RESOURCES: &str = "urn:ietf:params:xml:ns:resource-lists";

/// Bodies of presence: method, user, headers, body, and the status that is owed.
fn bodies() -> Vec<(&'static str, &'static str, &'static str, String, u16)> {
    const PIDF_TYPE: &str = "Event: presence\r\nContent-Type: application/pidf+xml\r\n";
    const LIST_TYPE: &str =
        "Event: presence\r\nSupported: eventlist\r\nContent-Type: application/resource-lists+xml\r\n";
    let list = |inside: &str| format!("<resource-lists xmlns=\"{RESOURCES}\"><list>{inside}</list></resource-lists>");
    let publish = |body: &str, status| ("PUBLISH", "bob@", PIDF_TYPE, body.to_owned(), status);
    let subscribe = |body: &str, status| ("SUBSCRIBE", "", LIST_TYPE, body.to_owned(), status);
    let mut cases = vec![
        publish(PIDF, 200),
        publish("", 400),
        publish("\0", 400),
        publish(&PIDF[..90], 400),
        publish(&PIDF.replace("</tuple>", ""), 400),
        publish(&PIDF.replace(" id=\"a\"", ""), 400),
        publish(&PIDF.replace("<status/>", ""), 400),
        publish(&PIDF.replace(":pidf", ":other"), 400),
        publish(&PIDF.replace("<status/>", "<status><basic>maybe</basic></status>"), 400),
        publish(&PIDF.replace("<status/>", "<status/><note>&#0;</note>"), 400),
        publish(&PIDF.replace("<status/>", "<status/><note>&who;</note>"), 400),
        publish(&format!("<!DOCTYPE p [<!ENTITY a \"{}\">]>{PIDF}", "b".repeat(1000)), 400),
        publish(&format!("<!DOCTYPE p SYSTEM \"file:///etc/passwd\">{PIDF}"), 400),
        publish(&"<a>".repeat(2000), 400),
        publish(&PIDF.replace("<status/>", &format!("<status/><note>{}</note>", "x".repeat(60_000))), 413),
        subscribe(&list("<entry uri=\"sip:bob@example.com\"/>"), 200),
        subscribe(&list(""), 400),
        subscribe(&list("<entry/>"), 400),
        subscribe(&list("<entry uri=\"no uri\"/>"), 400),
        subscribe(&list("<entry uri=\"sip:bob@elsewhere.example\"/>"), 403),
        subscribe("<resource-lists", 400),
    ];
    for kind in [
        "Event: presence\r\nContent-Type: multipart/related;boundary=b\r\n",
        "Event: presence\r\nContent-Type: multipart/mixed\r\n",
        "Event: presence\r\nContent-Type: text/html\r\n",
        "Event: presence\r\n",
    ] {
        cases.push((
            "PUBLISH",
            "bob@",
            kind,
            format!("--b\r\nContent-Type: application/pidf+xml\r\n\r\n{PIDF}\r\n--b"),
            415,
        ));
    }
    cases
}

/// Malformed presence documents, lists and bodies of several parts are refused, by each transport, and change nothing.
#[tokio::test]
async fn presence_bodies_are_answered() {
    let hub = hub().await;
    let addr = hub.addresses()[0];
    let socket = UdpSocket::bind((LOCAL, 0)).await.unwrap();
    socket.connect(addr).await.unwrap();
    let from = socket.local_addr().unwrap();
    let mut wrong = Vec::new();
    for (n, (method, user, headers, body, owed)) in bodies().into_iter().enumerate() {
        let text = |transport: &str| {
            format!(
                "{method} sip:{user}example.com SIP/2.0\r\nVia: SIP/2.0/{transport} {from};branch=z9hG4bK{transport}{n};rport\r\n\
                 Max-Forwards: 70\r\nFrom: <sip:bob@example.com>;tag=1\r\nTo: <sip:{user}example.com>\r\n\
                 Call-ID: {transport}{n}\r\nCSeq: 1 {method}\r\nContact: <sip:bob@{from}>\r\nExpires: 0\r\n{headers}\
                 Content-Length: {}\r\n\r\n{body}",
                body.len()
            )
        };
        let by_tcp = statuses(addr, text("TCP").as_bytes()).await;
        if by_tcp != [owed] {
            wrong.push(format!("TCP: {method} {headers}{body:.100}: {by_tcp:?} instead of {owed}"));
        }
        socket.send(text("UDP").as_bytes()).await.unwrap();
        let mut answer = vec![0; 65536];
        loop {
            let got = timeout(LIMIT, socket.recv(&mut answer))
                .await
                .unwrap_or_else(|_| panic!("no answer: {method} {body:.100}"));
            let text = String::from_utf8_lossy(&answer[..got.unwrap()]).into_owned();
            if text.starts_with("SIP/2.0 ") && text.contains(&format!("Call-ID: UDP{n}\r\n")) {
                if !text.starts_with(&format!("SIP/2.0 {owed} ")) {
                    wrong.push(format!("UDP: {method} {headers}{body:.100}: {text:.30} instead of {owed}"));
                }
                break;
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    // The two that are right wait for the answer to their only notification.
    let activity = hub.activity();
    assert!(activity.publications == 0 && activity.subscriptions <= 2, "{activity:?}");
}
