#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used)] // helpers of tests, which may fail as tests do
//! What an operator sees of a hub, and how it ends: its page in a browser, its numbers, SIGTERM with calls under way.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use nix::sys::signal::Signal;
use tests::{Process, World, browser, free_port, sip, until};

const ANYWHERE: &str = "198.18.0.9";

fn hub(world: &World, port: u16, page: u16) -> Process {
    let (listen, page) = (format!("127.0.0.1:{port}"), format!("127.0.0.1:{page}"));
    let mut hub = world.sipbox(&["hub", "--listen", &listen, "--page", &page]).start();
    hub.wait_for_err("sipbox hub: ready");
    hub
}

/// One HTTP request, and all that comes back.
fn http(port: u16, request: &str) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

fn get(port: u16, path: &str) -> String {
    http(port, &format!("GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n"))
}

/// The value of a number for Prometheus.
fn metric(port: u16, name: &str) -> u64 {
    let text = get(port, "/metrics");
    let line = text.lines().find_map(|line| line.strip_prefix(&format!("sipbox_hub_{name} ")));
    line.unwrap_or_else(|| panic!("no {name} in\n{text}")).trim().parse().unwrap()
}

#[test]
fn the_page_shows_programs_sessions_and_calls() {
    let world = World::new("hub-page");
    let (port, page) = (free_port(), free_port());
    let at = SocketAddr::from(([127, 0, 0, 1], port));
    let _hub = hub(&world, port, page);
    let registrar = format!("sip:{at}");
    let tcp = free_port().to_string();
    let echo = ["--registrar", &registrar, "--as", "sip:echo@sipbox.invalid"];
    let mut server = world.run(&echo, "hold").args(["serve", &tcp]).start();
    server.wait_for("listening on");
    let to = ["--registrar", &registrar, "--to", "sip:echo@sipbox.invalid"];
    let mut client = world.run(&to, "hold").args(["1", "connected", ANYWHERE, &tcp]).talk().start();
    client.wait_for("holding 0");
    client.say("now\n");
    client.wait_for("holding 1");

    // A name that is markup: it is shown, and nothing more.
    let socket = sip::socket();
    let from = socket.local_addr().unwrap();
    let markup = "sip:%3Cscript%3Edocument.title='taken'%3C%2Fscript%3E@sipbox.invalid";
    let contact = format!("Contact: <sip:x'%22%3E@{from}>\r\n");
    let register = sip::request("REGISTER", "sip:sipbox.invalid", markup, from, &contact);
    assert_eq!(sip::status(&sip::ask(at, &register, &socket).unwrap()), 200);

    assert_eq!((metric(page, "bindings"), metric(page, "sessions")), (2, 1));
    assert!(metric(page, "requests_total{method=\"INVITE\"}") >= 1);
    let text = get(page, "/");
    assert!(text.starts_with("HTTP/1.1 200 OK\r\n") && text.contains("default-src 'none'"), "{text}");
    for shown in
        ["sip:echo@sipbox.invalid", "Live sessions", "INVITE sip:echo@sipbox.invalid", "SIP/2.0 200 OK (1 INVITE)"]
    {
        assert!(text.contains(shown), "no {shown:?} in\n{text}");
    }
    assert!(!text.contains("<script"), "{text}");

    let url = format!("http://127.0.0.1:{page}/");
    let document = browser::document(&world, &url);
    assert!(
        document.contains("<title>sipbox hub</title>") && document.contains("&lt;script&gt;document.title"),
        "{document}"
    );
    let picture = browser::screenshot(&world, &url, "page.png");
    assert!(picture.starts_with(b"\x89PNG") && picture.len() > 10_000, "{} bytes", picture.len());
    if let Some(keep) = std::env::var_os("SIPBOX_TEST_PICTURES") {
        std::fs::write(std::path::Path::new(&keep).join("hub-page.png"), picture).unwrap();
    }

    client.hang_up();
    client.wait();
    until("the session to end", || (metric(page, "sessions") == 0).then_some(()));
}

/// The page is for readers on this machine: not for what changes, and not for names that lead here by somebody's DNS.
#[test]
fn the_page_is_only_read() {
    let world = World::new("hub-page-http");
    let (port, page) = (free_port(), free_port());
    let _hub = hub(&world, port, page);
    let status = |request: &str| http(page, request).split(' ').nth(1).unwrap_or_default().to_owned();
    assert_eq!(status("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"), "200");
    assert_eq!(status("GET / HTTP/1.1\r\nHost: [::1]:80\r\n\r\n"), "200");
    assert_eq!(status("GET / HTTP/1.1\r\nHost: rebound.example\r\n\r\n"), "421");
    assert_eq!(status("GET / HTTP/1.1\r\n\r\n"), "421");
    assert_eq!(status("POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n"), "405");
    assert_eq!(status("GET /../etc/passwd HTTP/1.1\r\nHost: localhost\r\n\r\n"), "404");
    assert_eq!(status(&format!("GET / HTTP/1.1\r\nHost: localhost\r\nX: {}\r\n\r\n", "x".repeat(1 << 20))), "431");
    assert_ne!(status("INVITE sip:a SIP/2.0\r\n\r\n"), "200");
    let other = world.sipbox(&["hub", "--listen", "127.0.0.1:0", "--page", &format!("127.0.0.1:{page}")]).finish();
    other.ended_with(1).complains("its page cannot be served");
}

/// SIGTERM: what is under way is answered, what is new is turned away, and then the hub ends.
#[test]
fn a_hub_ends_when_its_calls_are_answered() {
    let world = World::new("hub-ends");
    let (port, page) = (free_port(), free_port());
    let at = SocketAddr::from(([127, 0, 0, 1], port));
    let hub = hub(&world, port, page);
    let (callee, caller) = (sip::socket(), sip::socket());
    let (to, from) = (callee.local_addr().unwrap(), caller.local_addr().unwrap());
    let bob = "sip:bob@sipbox.invalid";
    let contact = format!("Contact: <sip:bob@{to}>\r\n");
    let register = sip::request("REGISTER", "sip:sipbox.invalid", bob, to, &contact);
    assert_eq!(sip::status(&sip::ask(at, &register, &callee).unwrap()), 200);
    let options = sip::request("OPTIONS", bob, bob, from, "");
    caller.send_to(options.as_bytes(), at).unwrap();
    let mut buffer = [0; 4096];
    let n = callee.recv(&mut buffer).unwrap();
    let asked = String::from_utf8_lossy(&buffer[..n]).into_owned();

    hub.signal(Signal::SIGTERM);
    let late = sip::socket();
    until("new requests to be turned away", || {
        let from = late.local_addr().unwrap();
        let register = sip::request("REGISTER", "sip:sipbox.invalid", bob, from, &contact);
        let answer = sip::ask_once(at, &register, &late)?;
        (sip::status(&answer) == 503 && answer.contains("Retry-After: 1")).then_some(())
    });
    let kept = |line: &&str| ["Via:", "From:", "To:", "Call-ID:", "CSeq:"].iter().any(|name| line.starts_with(name));
    let copied: Vec<&str> = asked.split("\r\n").filter(kept).collect();
    let answer = format!("SIP/2.0 200 OK\r\n{}\r\nContent-Length: 0\r\n\r\n", copied.join("\r\n"));
    callee.send_to(answer.as_bytes(), at).unwrap();
    let n = caller.recv(&mut buffer).unwrap();
    assert!(buffer[..n].starts_with(b"SIP/2.0 200 OK"));
    hub.wait_within(Duration::from_secs(2)).success().complains("sipbox hub: ended");
}
