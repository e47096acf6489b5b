//! A few SIP messages by hand, so that a test can ask a hub or an agent without going through sipbox's own code.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use crate::process::within;

fn unique() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    format!("{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

/// A socket for asking; it gives up after a while.
pub fn socket() -> UdpSocket {
    socket_for(SocketAddr::from(([127, 0, 0, 1], 0)))
}

/// The same, on the address from which `server` is reached.
fn socket_for(server: SocketAddr) -> UdpSocket {
    let any: IpAddr = if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let ip = match server.ip() {
        ip if ip.is_loopback() => ip,
        _ => UdpSocket::bind((any, 0))
            .and_then(|socket| socket.connect(server).and_then(|()| socket.local_addr()))
            .map_or(any, |own| own.ip()),
    };
    let socket = UdpSocket::bind((ip, 0)).unwrap_or_else(|e| panic!("a UDP socket on {ip}: {e}"));
    let limit = Some(Duration::from_millis(500));
    socket.set_read_timeout(limit).unwrap_or_else(|e| panic!("a read time-out: {e}"));
    socket
}

/// A complete request; `extra` are further header lines, each ended by CRLF.
pub fn request(method: &str, target: &str, to: &str, from: SocketAddr, extra: &str) -> String {
    let id = unique();
    format!(
        "{method} {target} SIP/2.0\r\nVia: SIP/2.0/UDP {from};branch=z9hG4bK{id};rport\r\nMax-Forwards: 70\r\n\
         From: <sip:tester@127.0.0.1>;tag={id}\r\nTo: <{to}>\r\nCall-ID: {id}@tester\r\nCSeq: 1 {method}\r\n\
         {extra}Content-Length: 0\r\n\r\n"
    )
}

/// Sends a request until a final response comes; `None` when nothing answers.
pub fn ask(to: SocketAddr, message: &str, socket: &UdpSocket) -> Option<String> {
    ask_times(to, message, socket, 10)
}

/// Sends a request once; `None` when nothing answers within half a second.
pub fn ask_once(to: SocketAddr, message: &str, socket: &UdpSocket) -> Option<String> {
    ask_times(to, message, socket, 1)
}

fn ask_times(to: SocketAddr, message: &str, socket: &UdpSocket, times: usize) -> Option<String> {
    let mut buffer = vec![0; 65_536];
    let call_id = message.lines().find(|l| l.starts_with("Call-ID:"));
    for _ in 0..times {
        let _ = socket.send_to(message.as_bytes(), to);
        while let Ok((n, _)) = socket.recv_from(&mut buffer) {
            let text = String::from_utf8_lossy(&buffer[..n]).into_owned();
            let final_one = text.starts_with("SIP/2.0 ") && !text.starts_with("SIP/2.0 1");
            // Not a late answer to an earlier question.
            if final_one && text.lines().any(|l| Some(l) == call_id) {
                return Some(text);
            }
        }
    }
    None
}

/// The status of a response.
pub fn status(response: &str) -> u16 {
    response.split(' ').nth(1).and_then(|s| s.parse().ok()).unwrap_or(0)
}

/// Whether something answers OPTIONS there, asked once.
pub fn answers(at: SocketAddr) -> bool {
    let socket = socket_for(at);
    let Ok(from) = socket.local_addr() else { return false };
    let target = format!("sip:{at}");
    ask_once(at, &request("OPTIONS", &target, &target, from, ""), &socket).is_some()
}

/// The contacts bound to an address of record, as the hub at `at` tells them (a REGISTER without Contact, RFC 3261 10.2.3).
pub fn bindings(at: SocketAddr, aor: &str) -> Vec<String> {
    let socket = socket();
    let from = socket.local_addr().unwrap_or_else(|e| panic!("the address of a UDP socket: {e}"));
    let domain = aor.rsplit_once('@').map_or(aor, |(_, d)| d);
    let message = request("REGISTER", &format!("sip:{domain}"), aor, from, "");
    let answer = ask(at, &message, &socket).unwrap_or_else(|| panic!("{at} does not answer REGISTER"));
    assert!(status(&answer) == 200 || status(&answer) == 404, "REGISTER without Contact for {aor}:\n{answer}");
    let value = |line: &str| {
        let (name, value) = line.split_once(':')?;
        let name = name.trim();
        (name.eq_ignore_ascii_case("contact") || name.eq_ignore_ascii_case("m")).then(|| value.trim().to_owned())
    };
    answer.lines().filter_map(value).collect()
}

/// Waits until an address of record has this many bindings.
pub fn wait_for_bindings(at: SocketAddr, aor: &str, count: usize, limit: Duration) -> Vec<String> {
    let mut last = Vec::new();
    let seen = within(limit, || {
        last = bindings(at, aor);
        (last.len() == count).then(|| last.clone())
    });
    seen.unwrap_or_else(|| panic!("{aor} should have {count} bindings after {limit:?}, but has {last:?}"))
}

/// The address in a contact such as `<sip:echo@127.0.0.1:40123;transport=udp>;expires=60`.
pub fn contact_address(contact: &str) -> SocketAddr {
    let uri = contact.split(['<', '>']).nth(1).unwrap_or(contact);
    let rest = uri.split_once('@').map_or_else(|| uri.trim_start_matches("sip:"), |(_, r)| r);
    let host_port = rest.split([';', '?']).next().unwrap_or(rest);
    host_port.parse().unwrap_or_else(|e| panic!("the address in the contact {contact:?}: {e}"))
}
