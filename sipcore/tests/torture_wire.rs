//! Every message of RFC 4475 as a hub answers it on the wire: over TCP by status, over UDP by being there afterwards.

#![allow(clippy::unwrap_used)]

use sipcore::hub::{Hub, HubConfig};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

const LOCAL: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
/// How long a message may take to be answered, or not to be.
const LIMIT: Duration = Duration::from_secs(5);

/// What a hub that is responsible for these domains owes each message: statuses in their order, none for what is dropped.
const DOMAINS: [&str; 6] =
    ["example.com", "example.org", "example.net", "registrar.example.com", "chair-dnrc.example.com", "company.com"];
const CASES: [(&str, &[u16]); 49] = [
    // 3.1.1: well-formed. Nobody of these names is registered, and REGISTER is carried out.
    ("TC_WSINV", &[404]),
    ("TC_INTMETH", &[404]),
    ("TC_ESC01_V", &[404]),
    ("TC_ESCNULL_V", &[200]),
    // RE%47IST%45R is another method than REGISTER, and the URI names the hub itself.
    ("TC_ESC02_V", &[405]),
    ("TC_LWSDISP_V", &[404]),
    ("TC_LONGREQ_V", &[404]),
    // A stream has two requests where a datagram has one and what is to be ignored.
    ("TC_DBLREQ", &[200, 404]),
    ("TC_SEMIURI_V", &[404]),
    ("TC_TRANSPORTS_V", &[404]),
    // Its Route leads to somebody else, for whom nothing is relayed.
    ("TC_MPART01", &[403]),
    ("TC_UNREASON_V", &[]),
    ("TC_NOREASON_V", &[]),
    // 3.1.2: not well-formed. Without a Via that can be read nothing can be answered; without an end of the body nothing more is read.
    ("TC_BADINV01_I", &[]),
    ("TC_NCL_I", &[400]),
    ("TC_SCALAR02_V", &[400]),
    ("TC_SCALARLG_V", &[]),
    ("TC_QUOTBAL_I", &[400]),
    ("TC_LTGTRURI_I", &[400]),
    ("TC_LWSRURI_I", &[400]),
    ("TC_LWSSTART_V", &[400]),
    ("TC_TRWS_I", &[400]),
    ("TC_ESCRURI_V", &[400]),
    ("TC_BADDATE_V", &[404]),
    ("TC_REGBADCT_I", &[400]),
    ("TC_BADASPEC_I", &[400]),
    ("TC_BADVERS_V", &[505]),
    ("TC_MISMATCH01_V", &[400]),
    ("TC_MISMATCH02_V", &[400]),
    ("TC_BIGCODE_V", &[]),
    // 3.2 and 3.3: transactions and applications.
    ("TC_BADBRANCH_V", &[404]),
    ("TC_INSUF_I", &[400]),
    ("TC_UNKSCM_V", &[416]),
    ("TC_NOVELSC_V", &[416]),
    ("TC_UNKSM2_V", &[404]),
    ("TC_BEXT01_V", &[404]),
    ("TC_INVUT_V", &[404]),
    ("TC_REGAUT01_V", &[200]),
    ("TC_MULTI01_I", &[400]),
    ("TC_MCL01_I", &[400]),
    ("TC_BCAST_V", &[]),
    ("TC_ZEROMF_V", &[404]),
    ("TC_CPARAM01_V", &[200]),
    ("TC_CPARAM02_V", &[200]),
    ("TC_REGESCRT_V", &[200]),
    ("TC_SDP01_V", &[404]),
    ("TC_INV2543_I", &[400]),
    // These have no empty line at their end: a stream waits for it.
    ("TC_BADDN_I", &[]),
    ("TC_TEST_I", &[]),
];

fn corpus() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/corpus/rfc4475")
}

fn read(name: &str) -> Vec<u8> {
    let path = corpus().join(format!("{name}.dat"));
    std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

async fn hub() -> Hub {
    let domains = DOMAINS.map(String::from).to_vec();
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

#[tokio::test]
async fn each_is_answered_over_tcp() {
    let mut wrong = Vec::new();
    for (name, owed) in CASES {
        // What one registers is nothing to the next.
        let hub = hub().await;
        let answered = statuses(hub.addresses()[0], &read(name)).await;
        if answered != owed {
            wrong.push(format!("{name}: {answered:?} instead of {owed:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test]
async fn none_does_harm_over_udp() {
    let hub = hub().await;
    let socket = UdpSocket::bind((LOCAL, 0)).await.unwrap();
    socket.connect(hub.addresses()[0]).await.unwrap();
    let from = socket.local_addr().unwrap();
    for entry in std::fs::read_dir(corpus()).unwrap() {
        let path = entry.unwrap().path();
        socket.send(&std::fs::read(&path).unwrap()).await.unwrap();
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        let ask = format!(
            "OPTIONS sip:example.com SIP/2.0\r\nVia: SIP/2.0/UDP {from};branch=z9hG4bK{name};rport\r\nMax-Forwards: 70\r\n\
             From: <sip:x@y>;tag=1\r\nTo: <sip:example.com>\r\nCall-ID: {name}\r\nCSeq: 1 OPTIONS\r\nContent-Length: 0\r\n\r\n"
        );
        socket.send(ask.as_bytes()).await.unwrap();
        let mut answer = [0; 65536];
        loop {
            let n = timeout(LIMIT, socket.recv(&mut answer)).await.unwrap_or_else(|_| panic!("no answer after {name}"));
            let text = String::from_utf8_lossy(&answer[..n.unwrap()]).into_owned();
            if text.starts_with("SIP/2.0 200 ") && text.contains(&format!("Call-ID: {name}\r\n")) {
                break;
            }
        }
    }
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
