#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used)] // helpers of tests, which may fail as tests do
//! SIPp, as the caller and the called end, with the scenarios in tests/sipp.

use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::path::Path;
use std::thread;
use std::time::Duration;

use nix::sys::signal::Signal;
use tests::{Launch, Process, World, free_port, sip, until, within};

/// More than SIPp's own, which is more than the 45 s that are the least between two refreshes.
const LIMIT: Duration = Duration::from_secs(90);
const ANYWHERE: &str = "198.18.0.9";

/// `sipp` with a scenario of ours, against the hub or with calls from it.
fn sipp(world: &World, scenario: &str, hub: SocketAddr) -> Launch {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("sipp").join(scenario);
    let text = std::fs::read(&file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
    let copy = world.write(scenario, text);
    world
        .native("sipp")
        .arg(hub.to_string())
        .arg("-sf")
        .arg(copy)
        .args([
            "-i",
            "127.0.0.1",
            "-nostdin",
            "-trace_err",
            "-error_file",
            "sipp.err",
            "-timeout",
            "80s",
            "-timeout_error",
        ])
        .cwd(world.dir())
}

fn hub(world: &World) -> (Process, SocketAddr, String) {
    let port = free_port();
    let at = SocketAddr::from(([127, 0, 0, 1], port));
    (world.hub(port), at, format!("sip:{at}"))
}

/// SIPp as a called end with a scenario of ours, and its port; `fields` are the values that the scenario puts in.
fn called(world: &World, scenario: &str, hub: SocketAddr, fields: &str) -> (Process, u16) {
    let port = free_port();
    let values = world.write(&format!("{scenario}.{port}.csv"), format!("SEQUENTIAL\n{fields}\n"));
    let sipp = sipp(world, scenario, hub).args(["-p", &port.to_string(), "-m", "1", "-inf"]).arg(values).start();
    until("SIPp's port", || tests::has_udp_socket(port).then_some(()));
    (sipp, port)
}

/// SIPp does not register: that is done for it.
fn register(at: SocketAddr, name: &str, ports: &[u16]) {
    let socket = sip::socket();
    let from = socket.local_addr().unwrap();
    let contacts: Vec<String> = ports.iter().map(|port| format!("<sip:{name}@127.0.0.1:{port}>")).collect();
    let headers = format!("Contact: {}\r\nExpires: 60\r\n", contacts.join(", "));
    let request = sip::request("REGISTER", "sip:sipbox.invalid", &format!("sip:{name}@sipbox.invalid"), from, &headers);
    assert_eq!(sip::status(&sip::ask(at, &request, &socket).unwrap()), 200);
}

/// A program whose connects lead to `name`.
fn call(world: &World, registrar: &str, name: &str) -> Launch {
    let to = format!("sip:{name}@sipbox.invalid");
    world.run(&["--registrar", registrar, "--as", "sip:alice@sipbox.invalid", "--to", &to], "static-client")
}

/// Session timer, UPDATE and INVITE within the dialog, twenty calls one after the other and over each transport.
#[test]
fn a_caller_that_keeps_its_session_up() {
    let world = World::new("sipp-refresh");
    let (_hub, at, registrar) = hub(&world);
    let flags = ["--registrar", &registrar, "--as", "sip:echo@sipbox.invalid"];
    let mut server = world.run(&flags, "epoll-server").arg("7000").start();
    server.wait_for("listening on");
    for transport in ["u1", "t1"] {
        let port = free_port().to_string();
        let caller =
            sipp(&world, "refresh.xml", at).args(["-t", transport, "-p", &port, "-m", "20", "-r", "20", "-l", "5"]);
        caller.finish_within(LIMIT).success();
    }
}

/// A 302 leads on to where the program is.
#[test]
fn a_called_end_that_has_moved() {
    let world = World::new("sipp-redirect");
    let (_hub, at, registrar) = hub(&world);
    let aor = "sip:echo@sipbox.invalid";
    let mut server = world.run(&["--registrar", &registrar, "--as", aor], "static-echo").arg("7000").start();
    server.wait_for("listening on");
    // SIPp does not register: that is done for it.
    let port = free_port();
    let socket = sip::socket();
    let from = socket.local_addr().unwrap();
    let contact = format!("Contact: <sip:moved@127.0.0.1:{port}>\r\nExpires: 60\r\n");
    let register = sip::request("REGISTER", "sip:sipbox.invalid", "sip:moved@sipbox.invalid", from, &contact);
    assert_eq!(sip::status(&sip::ask(at, &register, &socket).unwrap()), 200);
    let places = world.write("places.csv", format!("SEQUENTIAL\n{aor}\n"));
    let called =
        sipp(&world, "redirect.xml", at).args(["-p", &port.to_string(), "-m", "1", "-inf"]).arg(places).start();
    tests::until("SIPp's port", || tests::has_udp_socket(port).then_some(()));
    let flags = ["--registrar", &registrar, "--as", "sip:alice@sipbox.invalid", "--to", "sip:moved@sipbox.invalid"];
    let client = world.run(&flags, "static-client").args([ANYWHERE, "7000"]).finish();
    client.success().says("echo: hello over SIP");
    called.wait_within(LIMIT).success();
}

/// Two called ends accept the same call: both get their ACK, and the one that was slower its BYE at once (RFC 3261 13.2.2.4).
#[test]
fn a_fork_that_two_accept() {
    let world = World::new("sipp-fork");
    let (mut hub, at, registrar) = hub(&world);
    let listener = TcpListener::bind("127.64.255.253:0").unwrap();
    let place = format!("127.64.255.253;{}", listener.local_addr().unwrap().port());
    let both = [called(&world, "accept.xml", at, &place), called(&world, "accept.xml", at, &place)];
    register(at, "two", &both.each_ref().map(|(_, port)| *port));
    both[1].0.signal(Signal::SIGSTOP);
    let client = call(&world, &registrar, "two").args([ANYWHERE, "7000"]).start();
    let (mut stream, _) = listener.accept().unwrap();
    both[1].0.signal(Signal::SIGCONT);
    // The connection stands until both have their ACK: a caller that has ended acknowledges nothing.
    for (_, port) in &both {
        let ack = format!("ACK sip:accept@127.0.0.1:{port}");
        assert!(within(LIMIT, || hub.stderr().contains(&ack).then_some(())).is_some(), "no {ack}:\n{}", hub.stderr());
    }
    let mut reader = stream.try_clone().unwrap();
    let copied = std::io::copy(&mut reader, &mut stream).unwrap();
    drop((reader, stream));
    assert!(copied > 0);
    client.wait().success().says("echo: hello over SIP");
    for (called, _) in both {
        called.wait_within(LIMIT).success();
    }
    hub.wait_for_err("BYE");
}

/// The caller gives up, and the answer comes all the same.
#[test]
fn an_answer_that_crosses_the_cancel() {
    let world = World::new("sipp-late");
    let (mut hub, at, registrar) = hub(&world);
    let (called, port) = called(&world, "late.xml", at, "none");
    register(at, "late", &[port]);
    let client = call(&world, &registrar, "late").args([ANYWHERE, "7000"]).start();
    hub.wait_for_err("SIP/2.0 180 Ringing");
    client.stop();
    called.wait_within(LIMIT).success();
}

/// The caller gives up while it rings.
#[test]
fn a_call_that_is_cancelled() {
    let world = World::new("sipp-cancelled");
    let (mut hub, at, registrar) = hub(&world);
    let (called, port) = called(&world, "cancelled.xml", at, "none");
    register(at, "rings", &[port]);
    let client = call(&world, &registrar, "rings").args([ANYWHERE, "7000"]).start();
    hub.wait_for_err("SIP/2.0 180 Ringing");
    client.stop();
    called.wait_within(LIMIT).success();
}

/// Half a minute of repeated answers, then the called end hangs up.
#[test]
fn a_caller_that_never_acknowledges() {
    let world = World::new("sipp-no-ack");
    let (_hub, at, registrar) = hub(&world);
    let flags = ["--registrar", &registrar, "--as", "sip:echo@sipbox.invalid"];
    let mut server = world.run(&flags, "epoll-server").arg("7000").start();
    server.wait_for("listening on");
    let port = free_port().to_string();
    let caller = sipp(&world, "no-ack.xml", at).args(["-p", &port, "-m", "1"]);
    caller.finish_within(LIMIT).success();
}

/// The agent keeps the session up after 45 s, and so does SIPp at that moment: both are told 491, and both try again (RFC 3261 14.1, 14.2).
#[test]
fn a_called_end_that_is_met_by_its_caller() {
    let world = World::new("sipp-glare");
    let (_hub, at, registrar) = hub(&world);
    let flags = ["--registrar", &registrar, "--as", "sip:echo@sipbox.invalid"];
    let mut server = world.run(&flags, "epoll-server").arg("7000").start();
    server.wait_for("listening on");
    let port = free_port().to_string();
    sipp(&world, "glare-call.xml", at).args(["-p", &port, "-m", "1"]).finish_within(LIMIT).success();
}

/// The same when the agent has called: it lets the other end go first.
#[test]
fn a_caller_that_is_met_by_the_called_end() {
    let world = World::new("sipp-glare-called");
    let (hub, at, registrar) = hub(&world);
    let listener = TcpListener::bind("127.64.255.252:0").unwrap();
    let place = format!("127.64.255.252;{}", listener.local_addr().unwrap().port());
    let (called, port) = called(&world, "glare-called.xml", at, &place);
    register(at, "glare", &[port]);
    let client = call(&world, &registrar, "glare").args([ANYWHERE, "7000"]).start();
    let (mut stream, _) = listener.accept().unwrap();
    // The connection stands until both have tried again.
    let done = within(LIMIT, || hub.stderr().contains("102 ACK]").then_some(()));
    assert!(done.is_some(), "SIPp's second INVITE within the dialog was not acknowledged:\n{}", hub.stderr());
    let mut reader = stream.try_clone().unwrap();
    assert!(std::io::copy(&mut reader, &mut stream).unwrap() > 0);
    drop((reader, stream));
    client.wait().success().says("echo: hello over SIP");
    called.wait_within(LIMIT).success();
    let refused = traced(&hub, "SIP/2.0 491 Request Pending", " 2 INVITE]");
    let again = traced(&hub, "INVITE sip:glare@", " 3 INVITE]");
    assert!(again - refused >= 2100.0, "the caller tried again after {} ms", again - refused);
}

/// When the hub first had a message that begins and ends so, in milliseconds.
fn traced(hub: &Process, begins: &str, ends: &str) -> f64 {
    let trace = hub.stderr();
    let mut lines = trace.lines().filter(|line| line.contains(begins) && line.ends_with(ends));
    let line = lines.next().unwrap_or_else(|| panic!("no {begins}...{ends}:\n{trace}"));
    line.split_whitespace().nth(1).and_then(|time| time.parse().ok()).unwrap_or_else(|| panic!("no time: {line}"))
}

/// A 180 that PRACK acknowledges (RFC 3262), over each transport.
#[test]
fn a_caller_that_requires_reliable_responses() {
    let world = World::new("sipp-reliable");
    let (_hub, at, registrar) = hub(&world);
    let flags = ["--registrar", &registrar, "--as", "sip:echo@sipbox.invalid"];
    let mut server = world.run(&flags, "epoll-server").arg("7000").start();
    server.wait_for("listening on");
    for transport in ["u1", "t1"] {
        let port = free_port().to_string();
        let caller =
            sipp(&world, "reliable.xml", at).args(["-t", transport, "-p", &port, "-m", "5", "-r", "20", "-l", "1"]);
        caller.finish_within(LIMIT).success();
    }
}

/// A way to `to` on which every datagram comes twice, the second time later, and every third is overtaken by what follows it. The answers come back
/// as they are. It lasts as long as the test.
fn doubling_way(to: SocketAddr) -> SocketAddr {
    let way = UdpSocket::bind("127.0.0.1:0").unwrap();
    let at = way.local_addr().unwrap();
    thread::spawn(move || {
        let (mut buffer, mut caller) = ([0; 65_536], None);
        for count in 0.. {
            let Ok((length, from)) = way.recv_from(&mut buffer) else { return };
            let datagram = buffer[..length].to_vec();
            if from == to {
                let _ = caller.map(|caller| way.send_to(&datagram, caller));
                continue;
            }
            caller = Some(from);
            for delay in [if count % 3 == 0 { 40 } else { 0 }, 60] {
                let (way, datagram) = (way.try_clone().unwrap(), datagram.clone());
                thread::spawn(move || {
                    thread::sleep(Duration::from_millis(delay));
                    way.send_to(&datagram, to)
                });
            }
        }
    });
    at
}

/// Calls of a program through the hub, of whose datagrams a tenth is lost in each direction; and such that come twice and out of order. Each is set
/// up once and ended.
#[test]
fn calls_over_bad_ways() {
    let world = World::new("sipp-bad-ways");
    let (_hub, at, registrar) = hub(&world);
    let flags = ["--registrar", &registrar, "--as", "sip:echo@sipbox.invalid"];
    let mut server = world.run(&flags, "epoll-server").arg("7000").start();
    server.wait_for("listening on");
    let way = doubling_way(at).to_string();
    for bad in [["-lost", "10"], ["-rsa", &way]] {
        let port = free_port().to_string();
        let calls = sipp(&world, "call.xml", at).args(["-p", &port, "-m", "40", "-r", "40", "-l", "10"]).args(bad);
        calls.finish_within(LIMIT).success();
    }
}
