//! Every message of RFC 4475, by UDP and by TCP, at a hub and at a user agent: what each answers. tests/TORTURE.md is this table; with SIPBOX_UPDATE=1 it is
//! written.
#![allow(clippy::unwrap_used)]

mod common;

use bytes::Bytes;
use common::{config, soon};
use sipcore::agent::{Agent, AgentConfig, Transport};
use sipcore::hub::{Hub, HubConfig};
use sipcore::message::Message;
use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};

/// What the hub is responsible for. Nobody of these names is registered.
const DOMAINS: [&str; 6] =
    ["example.com", "example.org", "example.net", "registrar.example.com", "chair-dnrc.example.com", "company.com"];

/// A message, what its section says, and the final answers: of a hub by UDP and by TCP, of a user agent by UDP and by TCP.
struct Case(&'static str, &'static str, [&'static str; 4]);

const CASES: [Case; 50] = [
    Case("TC_WSINV", "3.1.1.1 a short tortuous INVITE", ["404", "404", "481", "481"]),
    Case("TC_INTMETH", "3.1.1.2 wide range of valid characters", ["404", "404", "405", "405"]),
    Case("TC_ESC01_V", "3.1.1.3 valid use of the % escaping mechanism", ["404", "404", "488", "488"]),
    Case("TC_ESCNULL_V", "3.1.1.4 escaped nulls in URIs", ["200", "200", "405", "405"]),
    Case(
        "TC_ESC02_V",
        "3.1.1.5 % when it is not an escape: another method than REGISTER",
        ["405", "405", "405", "405"],
    ),
    Case("TC_LWSDISP_V", "3.1.1.6 no LWS between display name and <", ["404", "404", "200", "200"]),
    Case("TC_LONGREQ_V", "3.1.1.7 long values in header fields", ["404", "404", "488", "488"]),
    Case(
        "TC_DBLREQ",
        "3.1.1.8 extra trailing octets in a UDP datagram; a second request on a stream",
        ["200", "200, 404", "405", "405, 404"],
    ),
    Case("TC_SEMIURI_V", "3.1.1.9 semicolon-separated parameters in the user part", ["404", "404", "200", "200"]),
    Case("TC_TRANSPORTS_V", "3.1.1.10 varied and unknown transport types", ["404", "404", "200", "200"]),
    Case("TC_MPART01", "3.1.1.11 multipart MIME message, with a Route to somebody else", ["403", "403", "405", "405"]),
    Case("TC_UNREASON_V", "3.1.1.12 unusual reason phrase", ["none", "none", "none", "none"]),
    Case("TC_NOREASON_V", "3.1.1.13 empty reason phrase", ["none", "none", "none", "none"]),
    Case(
        "TC_BADINV01_I",
        "3.1.2.1 extraneous header field separators: 400, if there were a Via to answer to",
        ["none", "none", "none", "none"],
    ),
    Case(
        "TC_CLERR_I",
        "3.1.2.2 Content-Length larger than message: 400; a stream waits for the rest",
        ["400", "none", "400", "none"],
    ),
    Case("TC_NCL_I", "3.1.2.3 negative Content-Length: 400", ["400", "400", "400", "400"]),
    Case("TC_SCALAR02_V", "3.1.2.4 request scalar fields with overlarge values: 400", ["400", "400", "400", "400"]),
    Case(
        "TC_SCALARLG_V",
        "3.1.2.5 response scalar fields with overlarge values: discard",
        ["none", "none", "none", "none"],
    ),
    Case("TC_QUOTBAL_I", "3.1.2.6 unterminated quoted string in display name: 400", ["400", "400", "400", "400"]),
    Case("TC_LTGTRURI_I", "3.1.2.7 <> enclosing Request-URI: 400", ["400", "400", "400", "400"]),
    Case("TC_LWSRURI_I", "3.1.2.8 LWS in Request-URI: 400", ["400", "400", "400", "400"]),
    Case("TC_LWSSTART_V", "3.1.2.9 several SP in the request line: 400 is acceptable", ["400", "400", "400", "400"]),
    Case("TC_TRWS_I", "3.1.2.10 SP at the end of the request line: 400 is acceptable", ["400", "400", "400", "400"]),
    Case("TC_ESCRURI_V", "3.1.2.11 escaped headers in Request-URI: 400 is acceptable", ["400", "400", "400", "400"]),
    Case("TC_BADDATE_V", "3.1.2.12 invalid time zone in Date: may be ignored", ["404", "404", "488", "488"]),
    Case("TC_REGBADCT_I", "3.1.2.13 name-addr URI not in <>: 400", ["400", "400", "400", "400"]),
    Case("TC_BADASPEC_I", "3.1.2.14 spaces within addr-spec: 400 is acceptable", ["400", "400", "400", "400"]),
    Case(
        "TC_BADDN_I",
        "3.1.2.15 non-token characters in display name: 400 is acceptable; it lacks its empty line, for which a stream waits",
        ["400", "none", "400", "none"],
    ),
    Case("TC_BADVERS_V", "3.1.2.16 unknown protocol version: 505", ["505", "505", "505", "505"]),
    Case("TC_MISMATCH01_V", "3.1.2.17 start line and CSeq method differ: 400", ["400", "400", "400", "400"]),
    Case("TC_MISMATCH02_V", "3.1.2.18 unknown method with CSeq error: 501 or 400", ["400", "400", "400", "400"]),
    Case("TC_BIGCODE_V", "3.1.2.19 overlarge response code: discard", ["none", "none", "none", "none"]),
    Case("TC_BADBRANCH_V", "3.2.1 branch without transaction identifier: as RFC 2543", ["404", "404", "200", "200"]),
    Case("TC_INSUF_I", "3.3.1 missing required header fields: 400", ["400", "400", "400", "400"]),
    Case("TC_UNKSCM_V", "3.3.2 Request-URI with unknown scheme: 416", ["416", "416", "416", "416"]),
    Case("TC_NOVELSC_V", "3.3.3 Request-URI with unknown but registered scheme: 416", ["416", "416", "416", "416"]),
    Case("TC_UNKSM2_V", "3.3.4 unknown schemes in header fields: up to the registrar", ["404", "404", "405", "405"]),
    Case(
        "TC_BEXT01_V",
        "3.3.5 Proxy-Require and Require: 420 of the proxy, and of the user agent",
        ["420", "420", "420", "420"],
    ),
    Case("TC_INVUT_V", "3.3.6 unknown Content-Type: 415 of the user agent", ["404", "404", "415", "415"]),
    Case(
        "TC_REGAUT01_V",
        "3.3.7 unknown authorization scheme: as if there were none, where nobody is asked for a password",
        ["200", "200", "405", "405"],
    ),
    Case("TC_MULTI01_I", "3.3.8 multiple values in single value required fields: 400", ["400", "400", "400", "400"]),
    Case("TC_MCL01_I", "3.3.9 multiple Content-Length values: 400", ["400", "400", "400", "400"]),
    Case("TC_BCAST_V", "3.3.10 200 OK with broadcast Via: not forwarded", ["none", "none", "none", "none"]),
    Case("TC_ZEROMF_V", "3.3.11 Max-Forwards of zero: 483 of the proxy", ["483", "483", "200", "200"]),
    Case("TC_CPARAM01_V", "3.3.12 REGISTER with a contact header parameter", ["200", "200", "405", "405"]),
    Case("TC_CPARAM02_V", "3.3.13 REGISTER with a URI parameter", ["200", "200", "405", "405"]),
    Case("TC_REGESCRT_V", "3.3.14 REGISTER with a URI escaped header", ["200", "200", "405", "405"]),
    Case("TC_SDP01_V", "3.3.15 unacceptable Accept offering, and audio: refused", ["404", "404", "488", "488"]),
    Case(
        "TC_INV2543_I",
        "3.4.1 INVITE with RFC 2543 syntax, without Contact: may be refused; on a stream it has no end",
        ["404", "400", "400", "400"],
    ),
    Case(
        "TC_TEST_I",
        "an earlier draft: request line without version, header without name, no Via",
        ["none", "none", "none", "none"],
    ),
];

fn corpus() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/corpus/rfc4475")
}

fn read(name: &str) -> Bytes {
    let path = corpus().join(format!("{name}.dat"));
    std::fs::read(&path)
        .unwrap_or_else(|e| {
            panic!("{}: {e}; the messages of RFC 4475 (appendix A) are to be there, one a file", path.display())
        })
        .into()
}

/// Where answers to a message go, when it comes from an address of this process alone: to the port that its Via names (RFC 3261 18.2.2).
fn sender(bytes: &Bytes) -> SocketAddr {
    let [_, high, middle, low] = std::process::id().to_be_bytes();
    let ip = Ipv4Addr::new(127, 64 + high % 64, middle, low.clamp(1, 254));
    let anywhere = SocketAddr::new(ip.into(), 0);
    let Ok(mut message) = Message::parse_datagram(bytes.clone()) else { return anywhere };
    match message.note_source(anywhere).ok().and_then(|()| message.response_address()) {
        Some(address) => SocketAddr::new(ip.into(), address.port()),
        None => anywhere,
    }
}

/// A server under test.
enum Element {
    Hub(Hub),
    Agent(Agent),
}

impl Element {
    async fn hub() -> Element {
        let listen = vec![SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0)];
        let domains = DOMAINS.map(String::from).to_vec();
        Element::Hub(Hub::start(HubConfig { listen, domains, ..HubConfig::default() }).await.unwrap())
    }

    /// The agent that a message is for, which hears its registrar. Nobody is there to take its calls.
    async fn agent(registrar: SocketAddr, bytes: &Bytes) -> Element {
        let config = config("bob", registrar, Transport::Udp);
        let whom = Message::parse_datagram(bytes.clone()).ok().and_then(|message| message.request_uri().ok());
        let aor = whom.filter(|uri| uri.is_sip() && uri.user().is_some()).map_or(config.aor.clone(), |uri| uri.aor());
        let config = AgentConfig { aor, local_ip: Ipv4Addr::LOCALHOST.into(), ..config };
        Element::Agent(Agent::start(config).await.unwrap().0)
    }

    fn address(&self) -> SocketAddr {
        match self {
            Element::Hub(hub) => hub.addresses()[0],
            Element::Agent(agent) => agent.local_addr().unwrap(),
        }
    }
}

/// The final statuses in what came back.
fn statuses(text: &str) -> Vec<String> {
    let lines = text.lines().filter_map(|line| line.strip_prefix("SIP/2.0 ")?.split(' ').next());
    lines.filter(|status| !status.starts_with('1')).map(str::to_owned).collect()
}

fn shown(answers: &[String]) -> String {
    if answers.is_empty() { "none".to_owned() } else { answers.join(", ") }
}

/// What is answered before a question that comes after it.
async fn by_udp(socket: &UdpSocket, element: &Element, name: &str, bytes: &Bytes) -> String {
    let (at, from) = (element.address(), socket.local_addr().unwrap());
    socket.send_to(bytes, at).await.unwrap();
    let ask = format!(
        "OPTIONS sip:{at} SIP/2.0\r\nVia: SIP/2.0/UDP {from};branch=z9hG4bK{name};rport\r\nMax-Forwards: 70\r\n\
         From: <sip:x@y>;tag=1\r\nTo: <sip:{at}>\r\nCall-ID: after-{name}\r\nCSeq: 1 OPTIONS\r\nContent-Length: 0\r\n\r\n"
    );
    socket.send_to(ask.as_bytes(), at).await.unwrap();
    let (mut answers, mut seen) = (Vec::new(), Vec::new());
    let mut buffer = [0; 65536];
    loop {
        let n = soon(name, socket.recv(&mut buffer)).await.unwrap();
        let text = String::from_utf8_lossy(&buffer[..n]).into_owned();
        let status = statuses(text.lines().next().unwrap_or_default());
        if text.contains(&format!("Call-ID: after-{name}\r\n")) {
            assert_eq!(status, ["200"], "{text}");
            return shown(&answers);
        }
        // What nobody acknowledges is repeated.
        if !seen.contains(&text) {
            answers.extend(status);
            seen.push(text);
        }
    }
}

/// What is answered on a connection that ends after it.
async fn by_tcp(element: &Element, name: &str, bytes: &Bytes) -> String {
    let mut stream = TcpStream::connect(element.address()).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut answers = Vec::new();
    soon(name, stream.read_to_end(&mut answers)).await.unwrap();
    shown(&statuses(&String::from_utf8_lossy(&answers)))
}

fn table(rows: impl Iterator<Item = (&'static str, &'static str, [String; 4])>) -> String {
    let mut out = String::from(
        "# Torture\n\nThe 50 messages of RFC 4475 by UDP and by TCP, at a hub that is responsible for their domains and at the user agent that \
         they are for, where nobody takes calls: the final statuses of the answers. A well-formed request is answered by the hub as for somebody whom it does not \
         know (404), a response that belongs to nothing by nobody. Written and checked by `sipcore/tests/torture_table.rs`, which prints it: \
         `cargo test --release -p sipcore --test torture_table -- --nocapture`; to write it anew: with `SIPBOX_UPDATE=1`.\n\n\
         | message | RFC 4475 | hub, UDP | hub, TCP | agent, UDP | agent, TCP |\n| --- | --- | --- | --- | --- | --- |\n",
    );
    for (file, words, answers) in rows {
        let _ = writeln!(out, "| {file} | {words} | {} |", answers.join(" | "));
    }
    out
}

#[tokio::test]
async fn every_message_is_answered_as_the_table_says() {
    let mut found = Vec::new();
    for Case(file, words, _) in &CASES {
        let bytes = read(file);
        let socket = UdpSocket::bind(sender(&bytes)).await.unwrap();
        let mut answers = Vec::new();
        for is_hub in [true, false] {
            // What one message leaves behind is nothing to the next.
            for by in [Transport::Udp, Transport::Tcp] {
                let element = if is_hub {
                    Element::hub().await
                } else {
                    Element::agent(socket.local_addr().unwrap(), &bytes).await
                };
                answers.push(match by {
                    Transport::Udp => by_udp(&socket, &element, file, &bytes).await,
                    _ => by_tcp(&element, file, &bytes).await,
                });
            }
        }
        found.push((*file, *words, <[String; 4]>::try_from(answers).unwrap()));
    }
    let text = table(found.iter().cloned());
    println!("{text}");
    let owed = CASES.iter().map(|Case(file, words, owed)| (*file, *words, owed.map(str::to_owned)));
    assert_eq!(found, owed.collect::<Vec<_>>());
    let place = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/TORTURE.md");
    if std::env::var_os("SIPBOX_UPDATE").is_some() {
        std::fs::write(&place, &text).unwrap();
    }
    let committed = std::fs::read_to_string(&place).unwrap_or_default();
    assert!(committed == text, "tests/TORTURE.md is not what this test found: run it with SIPBOX_UPDATE=1");
}
