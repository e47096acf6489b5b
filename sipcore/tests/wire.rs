//! What comes in as bytes: garbage, pieces, keep-alives, and a peer that is no sipbox.

#![allow(clippy::unwrap_used)]

mod common;

use common::{config, event, hub_on, incoming, media, registered, soon};
use sipcore::agent::{Direct, Direction, End, Event, Proto, TapEvent, Transport};
use sipcore::hub::Hub;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};

const LOCAL: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

fn options(from: SocketAddr, transport: &str) -> String {
    format!(
        "OPTIONS sip:sipbox.invalid SIP/2.0\r\nVia: SIP/2.0/{transport} {from};branch=z9hG4bKabc;rport\r\nMax-Forwards: 70\r\n\
         From: <sip:x@y>;tag=1\r\nTo: <sip:sipbox.invalid>\r\nCall-ID: {from}\r\nCSeq: 1 OPTIONS\r\nContent-Length: 0\r\n\r\n"
    )
}

async fn read_to_empty_line(stream: &mut TcpStream) -> String {
    let mut text = Vec::new();
    while !text.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        if soon("a byte", stream.read(&mut byte)).await.unwrap() == 0 {
            break;
        }
        text.push(byte[0]);
    }
    String::from_utf8(text).unwrap()
}

async fn garbage_reaches(hub: &Hub, count: u64) {
    soon("garbage to be counted", async {
        while hub.counters().garbage < count {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn garbage_is_counted_and_survived() {
    let hub = hub_on(LOCAL).await;
    let addr = hub.addresses()[0];
    let socket = UdpSocket::bind((LOCAL, 0)).await.unwrap();
    socket.connect(addr).await.unwrap();
    for bytes in [&b"\x16\x03\x01\x02"[..], b"GET / HTTP/1.1\r\n\r\n", b"SIP/2.0 200", b"\xff\xff\xff\xff\xff"] {
        socket.send(bytes).await.unwrap();
    }
    socket.send(b"\r\n\r\n").await.unwrap();
    garbage_reaches(&hub, 4).await;
    socket.send(options(socket.local_addr().unwrap(), "UDP").as_bytes()).await.unwrap();
    let mut answer = [0; 2048];
    let n = soon("an answer", socket.recv(&mut answer)).await.unwrap();
    assert!(answer[..n].starts_with(b"SIP/2.0 200 OK\r\n"));
    assert_eq!(hub.counters().garbage, 4, "a keep-alive is none");

    let mut stream = TcpStream::connect(addr).await.unwrap();
    stream.write_all(b"\x16\x03\x01\x02\r\n\r\n").await.unwrap();
    assert_eq!(soon("the end", stream.read(&mut answer)).await.unwrap(), 0);
    garbage_reaches(&hub, 5).await;
    let mut stream = TcpStream::connect(addr).await.unwrap();
    let endless = options(stream.local_addr().unwrap(), "TCP").replace("Content-Length: 0\r\n", "");
    stream.write_all(endless.as_bytes()).await.unwrap();
    assert!(read_to_empty_line(&mut stream).await.starts_with("SIP/2.0 400"), "a body without end is answered");
}

#[tokio::test]
async fn a_stream_in_pieces_with_keep_alives() {
    let hub = hub_on(LOCAL).await;
    let mut stream = TcpStream::connect(hub.addresses()[0]).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let request = options(stream.local_addr().unwrap(), "TCP");
    for byte in request.as_bytes() {
        stream.write_all(&[*byte]).await.unwrap();
        tokio::task::yield_now().await;
    }
    assert!(read_to_empty_line(&mut stream).await.starts_with("SIP/2.0 200 OK\r\n"));
    stream.write_all(b"\r\n\r\n").await.unwrap();
    let mut pong = [0; 2];
    soon("a pong", stream.read_exact(&mut pong)).await.unwrap();
    assert_eq!(&pong, b"\r\n");
    let two = request.replace("z9hG4bKabc", "z9hG4bKdef") + &request.replace("z9hG4bKabc", "z9hG4bKghi");
    stream.write_all(two.as_bytes()).await.unwrap();
    for _ in 0..2 {
        assert!(read_to_empty_line(&mut stream).await.starts_with("SIP/2.0 200 OK\r\n"));
    }
    assert_eq!(hub.counters().garbage, 0);
}

#[tokio::test]
async fn a_caller_that_is_no_sipbox() {
    let hub = hub_on(LOCAL).await;
    let addr = hub.addresses()[0];
    let seen: Arc<Mutex<Vec<TapEvent>>> = Arc::default();
    let mut agent = config("bob", addr, Transport::Udp);
    let sink = seen.clone();
    agent.tap = Some(Arc::new(move |event: &TapEvent| sink.lock().unwrap().push(event.clone())));
    let (_bob, mut at_bob) = registered(agent).await;
    let socket = UdpSocket::bind((LOCAL, 0)).await.unwrap();
    socket.connect(addr).await.unwrap();
    let me = socket.local_addr().unwrap();
    let sdp = "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\nm=audio 4000 RTP/AVP 0\r\n\
        m=application 4001 udp octet-stream\r\n";
    let head = |method: &str, uri: &str, to_tag: &str, cseq: u32| {
        format!(
            "{method} {uri} SIP/2.0\r\nVia: SIP/2.0/UDP {me};branch=z9hG4bK{method}{cseq}\r\nMax-Forwards: 70\r\n\
             From: <sip:phone@elsewhere.example>;tag=p\r\nTo: <sip:bob@sipbox.invalid>{to_tag}\r\nCall-ID: phone\r\n\
             CSeq: {cseq} {method}\r\nContact: <sip:phone@{me}>\r\n"
        )
    };
    let invite = head("INVITE", "sip:bob@sipbox.invalid", "", 1);
    let invite = format!("{invite}Content-Type: application/sdp\r\nContent-Length: {}\r\n\r\n{sdp}", sdp.len());
    socket.send(invite.as_bytes()).await.unwrap();
    let call = incoming(&mut at_bob).await;
    assert_eq!(call.from.as_str(), "sip:phone@elsewhere.example");
    let source: SocketAddr = "127.0.0.1:4001".parse().unwrap();
    let [line] = call.lines.as_slice() else { panic!("{call:?}") };
    assert_eq!((line.proto, line.label, line.virtual_source), (Proto::Udp, None, source));
    assert_eq!(line.end, End::Direct(Direct { sipbox: false, ..Direct::active(source) }));
    let (id, index) = (call.id, line.index);
    call.accept(index, media(LOCAL));
    let mut buffer = [0; 4096];
    let ok = loop {
        let n = soon("an answer", socket.recv(&mut buffer)).await.unwrap();
        let text = String::from_utf8_lossy(&buffer[..n]).into_owned();
        if text.starts_with("SIP/2.0 200") {
            break text;
        }
    };
    assert!(ok.contains("m=audio 0 RTP/AVP 0\r\nm=application 7000 udp octet-stream\r\n"), "{ok}");
    let value = |name: &str| ok.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim().to_string();
    let (contact, route) = (value("Contact: <").split('>').next().unwrap().to_string(), value("Record-Route:"));
    let tag = format!(";tag={}", value("To:").rsplit("tag=").next().unwrap());
    for (method, cseq) in [("ACK", 1), ("BYE", 2)] {
        let request = format!("{}Route: {route}\r\nContent-Length: 0\r\n\r\n", head(method, &contact, &tag, cseq));
        socket.send(request.as_bytes()).await.unwrap();
    }
    assert!(matches!(event(&mut at_bob).await, Event::Ended { id: ended, .. } if ended == id));
    let seen = seen.lock().unwrap();
    assert!(seen.iter().any(|event| event.direction == Direction::Received && event.start_line.starts_with("INVITE ")));
    assert!(seen.iter().all(|event| event.remote == addr && !event.call_id.is_empty() && !event.cseq.is_empty()));
}
