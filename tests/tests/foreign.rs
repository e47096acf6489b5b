#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used)] // helpers of tests, which may fail as tests do
//! Peers that are not sipbox: a caller by hand, with an offer as RFC 4145 has it and nothing of sipbox's own.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use tests::{World, certificate, free_port, sip};

const LIMIT: Duration = Duration::from_secs(10);

/// An INVITE for `echo` with this SDP; returns the answer and the request.
fn invite(hub: SocketAddr, socket: &UdpSocket, media: &str) -> (String, String) {
    invite_to(hub, socket, "echo", media)
}

fn invite_to(hub: SocketAddr, socket: &UdpSocket, name: &str, media: &str) -> (String, String) {
    invite_at(hub, socket, &format!("sip:{name}@sipbox.invalid"), media)
}

fn invite_at(hub: SocketAddr, socket: &UdpSocket, target: &str, media: &str) -> (String, String) {
    invite_with(hub, socket, target, media, "")
}

/// The same with further header lines, each ended by CRLF.
fn invite_with(hub: SocketAddr, socket: &UdpSocket, target: &str, media: &str, extra: &str) -> (String, String) {
    let from = socket.local_addr().unwrap();
    let sdp = format!("v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\n{media}");
    let contact = format!("Contact: <sip:tester@{from}>\r\n{extra}Content-Type: application/sdp\r\n");
    let head = sip::request("INVITE", target, target, from, &contact);
    let request = head.replace("Content-Length: 0\r\n\r\n", &format!("Content-Length: {}\r\n\r\n{sdp}", sdp.len()));
    let answer = sip::ask(hub, &request, socket).expect("the hub answers an INVITE");
    (answer, request)
}

fn header<'a>(message: &'a str, name: &str) -> &'a str {
    let line = message.lines().find(|l| l.len() > name.len() && l[..name.len()].eq_ignore_ascii_case(name));
    line.unwrap_or_else(|| panic!("no {name} in\n{message}"))
}

/// A request within the dialog that `answer` made.
fn within_dialog(method: &str, answer: &str, request: &str, cseq: u32) -> String {
    let contact = header(answer, "Contact").split(['<', '>']).nth(1).unwrap();
    let routes: Vec<&str> = answer.lines().filter(|l| l.to_ascii_lowercase().starts_with("record-route:")).collect();
    let route: String = routes.iter().rev().map(|r| format!("Route: {}\r\n", r.split_once(':').unwrap().1)).collect();
    let via = header(request, "Via").replace("branch=z9hG4bK", &format!("branch=z9hG4bK{method}"));
    let (from, to, call_id) = (header(request, "From"), header(answer, "To"), header(answer, "Call-ID"));
    format!(
        "{method} {contact} SIP/2.0\r\n{via}\r\nMax-Forwards: 70\r\n{route}{from}\r\n{to}\r\n{call_id}\r\n\
         CSeq: {cseq} {method}\r\nContent-Length: 0\r\n\r\n"
    )
}

fn echo_over(mut stream: TcpStream) {
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    stream.write_all(b"hello from a stranger").unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    let mut back = String::new();
    stream.read_to_string(&mut back).unwrap();
    assert!(back.contains("hello from a stranger"), "{back:?}");
}

/// The address of the answer's accepted m= line.
fn media_of(answer: &str) -> SocketAddr {
    let ip = answer.lines().find_map(|l| l.strip_prefix("c=IN IP4 ")).expect("c=");
    let m = answer.lines().find_map(|l| l.strip_prefix("m=application ")).expect("m=");
    let port = m.split(' ').next().unwrap();
    format!("{ip}:{port}").parse().unwrap()
}

#[test]
fn a_caller_that_connects() {
    let world = World::new("foreign-active");
    let hub_port = free_port();
    let _hub = world.hub(hub_port);
    let hub = SocketAddr::from(([127, 0, 0, 1], hub_port));
    let registrar = format!("sip:{hub}");
    let mut server = world.run(&["--registrar", &registrar, "--as", "echo"], "epoll-server").arg("7000").start();
    server.wait_for("listening on");
    let socket = sip::socket();
    let media = "m=application 9 TCP octet-stream\r\na=setup:active\r\na=connection:new\r\n";
    let (answer, request) = invite(hub, &socket, media);
    assert_eq!(sip::status(&answer), 200, "{answer}");
    assert!(answer.contains("a=setup:passive"), "{answer}");
    socket.send_to(within_dialog("ACK", &answer, &request, 1).as_bytes(), hub).unwrap();
    echo_over(TcpStream::connect_timeout(&media_of(&answer), LIMIT).unwrap());
    // The program's socket is closed after the stranger's: the session ends from the called side too, or here.
    let _ = sip::ask(hub, &within_dialog("BYE", &answer, &request, 2), &socket);
}

/// A caller that has moved takes its session up from where it is now (RFC 3891): the session before it ends, and data flows in the new one. What
/// names no session of his is refused.
#[test]
fn a_caller_that_moves() {
    let world = World::new("foreign-moves");
    let hub_port = free_port();
    let _hub = world.hub(hub_port);
    let hub = SocketAddr::from(([127, 0, 0, 1], hub_port));
    let registrar = format!("sip:{hub}");
    let mut server = world.run(&["--registrar", &registrar, "--as", "echo"], "epoll-server").arg("7000").start();
    server.wait_for("listening on");
    let media = "m=application 9 TCP octet-stream\r\na=setup:active\r\na=connection:new\r\n";
    let [before, now] = [sip::socket(), sip::socket()];
    let (answer, request) = invite(hub, &before, media);
    assert_eq!(sip::status(&answer), 200, "{answer}");
    before.send_to(within_dialog("ACK", &answer, &request, 1).as_bytes(), hub).unwrap();
    let value = |message: &str, name: &str| header(message, name).split_once(": ").unwrap().1.to_owned();
    let tag = |message: &str, name: &str| value(message, name).split_once(";tag=").unwrap().1.to_owned();
    let (call_id, to_tag, from_tag) = (value(&answer, "Call-ID"), tag(&answer, "To"), tag(&request, "From"));
    let replacing =
        |call_id: &str| format!("Require: replaces\r\nReplaces: {call_id};to-tag={to_tag};from-tag={from_tag}\r\n");
    let target = "sip:echo@sipbox.invalid";
    let (refused, _) = invite_with(hub, &now, target, media, &replacing("another"));
    assert_eq!(sip::status(&refused), 481, "{refused}");
    let (answer, request) = invite_with(hub, &now, target, media, &replacing(&call_id));
    assert_eq!(sip::status(&answer), 200, "{answer}");
    now.send_to(within_dialog("ACK", &answer, &request, 1).as_bytes(), hub).unwrap();
    let mut buffer = [0; 4096];
    let bye = tests::until("BYE for the session before", || {
        let (n, _) = before.recv_from(&mut buffer).ok()?;
        let text = String::from_utf8_lossy(&buffer[..n]).into_owned();
        text.starts_with("BYE ").then_some(text)
    });
    assert_eq!(value(&bye, "Call-ID"), call_id);
    echo_over(TcpStream::connect_timeout(&media_of(&answer), LIMIT).unwrap());
    let _ = sip::ask(hub, &within_dialog("BYE", &answer, &request, 2), &now);
}

#[test]
fn a_caller_that_listens() {
    let world = World::new("foreign-passive");
    let hub_port = free_port();
    let _hub = world.hub(hub_port);
    let hub = SocketAddr::from(([127, 0, 0, 1], hub_port));
    let registrar = format!("sip:{hub}");
    // An event loop (edge-triggered epoll) and a blocking accept: the doorbell wakes both.
    for program in ["epoll-server", "static-echo"] {
        let flags = ["--registrar", registrar.as_str(), "--as", "echo"];
        let mut server = world.run(&flags, program).arg("7000").start();
        server.wait_for("listening on");
        let listener = TcpListener::bind("127.64.255.254:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let socket = sip::socket();
        let media = format!(
            "m=application {port} TCP octet-stream\r\nc=IN IP4 127.64.255.254\r\na=setup:passive\r\na=connection:new\r\n"
        );
        let (answer, request) = invite(hub, &socket, &media);
        assert_eq!(sip::status(&answer), 200, "{answer}");
        assert!(answer.contains("a=setup:active"), "{answer}");
        socket.send_to(within_dialog("ACK", &answer, &request, 1).as_bytes(), hub).unwrap();
        let (stream, _) = listener.accept().unwrap();
        echo_over(stream);
        let _ = sip::ask(hub, &within_dialog("BYE", &answer, &request, 2), &socket);
        server.stop();
    }
}

/// A called peer by hand: registers as `slow`, and answers the next INVITE after longer than any connect() is held up.
fn answer_slowly(hub: SocketAddr, socket: &UdpSocket, status: &str, sdp: &str) {
    // Not a wait for something else: the delay is what is tested.
    answer_after(Duration::from_millis(300), hub, socket, status, sdp);
}

fn answer_after(delay: Duration, hub: SocketAddr, socket: &UdpSocket, status: &str, sdp: &str) -> String {
    let from = socket.local_addr().unwrap();
    let mut buffer = vec![0; 65_536];
    let deadline = std::time::Instant::now() + LIMIT;
    let invite = loop {
        assert!(std::time::Instant::now() < deadline, "no INVITE came");
        if let Ok((n, _)) = socket.recv_from(&mut buffer) {
            let text = String::from_utf8_lossy(&buffer[..n]).into_owned();
            if text.starts_with("INVITE ") {
                break text;
            }
        }
    };
    std::thread::sleep(delay);
    let copied = |name: &str| -> String {
        let lines = invite.lines().filter(|l| l.to_ascii_lowercase().starts_with(name));
        lines.map(|l| format!("{l}\r\n")).collect()
    };
    let to = copied("to:").replace("\r\n", ";tag=slow\r\n");
    let answer = format!(
        "SIP/2.0 {status}\r\n{}{}{}{to}{}{}Contact: <sip:slow@{from}>\r\nContent-Type: application/sdp\r\n\
         Content-Length: {}\r\n\r\n{sdp}",
        copied("via:"),
        copied("record-route:"),
        copied("from:"),
        copied("call-id:"),
        copied("cseq:"),
        sdp.len()
    );
    socket.send_to(answer.as_bytes(), hub).unwrap();
    invite
}

fn register_slow(hub: SocketAddr) -> UdpSocket {
    let socket = sip::socket();
    let from = socket.local_addr().unwrap();
    let contact = format!("Contact: <sip:slow@{from}>\r\nExpires: 60\r\n");
    let aor = "sip:slow@sipbox.invalid";
    let request = sip::request("REGISTER", "sip:sipbox.invalid", aor, from, &contact);
    let answer = sip::ask(hub, &request, &socket).unwrap();
    assert_eq!(sip::status(&answer), 200, "{answer}");
    socket
}

#[test]
fn a_peer_that_takes_its_time() {
    let world = World::new("foreign-slow");
    let hub_port = free_port();
    let _hub = world.hub(hub_port);
    let hub = SocketAddr::from(([127, 0, 0, 1], hub_port));
    let registrar = format!("sip:{hub}");
    let socket = register_slow(hub);
    let listener = TcpListener::bind("127.64.255.254:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let sdp = format!(
        "v=0\r\no=- 1 1 IN IP4 127.64.255.254\r\ns=-\r\nc=IN IP4 127.64.255.254\r\nt=0 0\r\n\
         m=application {port} TCP octet-stream\r\na=setup:passive\r\na=connection:new\r\n"
    );
    let flags = ["--trace", "--registrar", registrar.as_str(), "--to", "slow"];
    let client = world.run(&flags, "epoll-client").args(["198.18.0.9", "7000", "et", "1", "300000"]).start();
    answer_slowly(hub, &socket, "200 OK", &sdp);
    let (mut stream, _) = listener.accept().unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    let mut reader = stream.try_clone().unwrap();
    // Echo until the client is done: half-close and data go through the relay.
    let copied = std::io::copy(&mut reader, &mut stream).unwrap();
    drop((reader, stream));
    assert_eq!(copied, 300_000);
    let ended = client.wait().success();
    assert!(ended.stderr.contains("parked"), "{}", ended.stderr);
}

#[test]
fn a_peer_that_refuses_after_a_while() {
    let world = World::new("foreign-slow-no");
    let hub_port = free_port();
    let _hub = world.hub(hub_port);
    let hub = SocketAddr::from(([127, 0, 0, 1], hub_port));
    let registrar = format!("sip:{hub}");
    let socket = register_slow(hub);
    let flags = ["--trace", "--registrar", registrar.as_str(), "--to", "slow"];
    let client = world.run(&flags, "epoll-client").args(["198.18.0.9", "7000", "lt", "1", "10"]).start();
    answer_slowly(hub, &socket, "486 Busy Here", "");
    let ended = client.wait();
    assert!(ended.stderr.contains("parked") && ended.stderr.contains("ECONNREFUSED"), "{}", ended.stderr);
}

#[test]
fn the_hub_of_a_user_lets_nobody_else_in() {
    let world = World::new("foreign-hub");
    let mut server = world.run(&["--as", "echo"], "static-echo").arg("7000").start();
    server.wait_for("listening on");
    let mut line = String::new();
    let mut stream = std::os::unix::net::UnixStream::connect(world.path("runtime/sipbox/hub.sock")).unwrap();
    std::io::Read::read_to_string(&mut stream, &mut line).unwrap();
    let hub: SocketAddr = line.split(' ').next().unwrap().parse().unwrap();
    let secret = std::fs::metadata(world.path("runtime/sipbox/hub.secret")).unwrap();
    assert_eq!(std::os::unix::fs::PermissionsExt::mode(&secret.permissions()) & 0o777, 0o600);
    let socket = sip::socket();
    let from = socket.local_addr().unwrap();
    let contact = format!("Contact: <sip:echo@{from}>\r\nExpires: 60\r\n");
    let register = sip::request("REGISTER", "sip:sipbox.invalid", "sip:echo@sipbox.invalid", from, &contact);
    let answer = sip::ask(hub, &register, &socket).unwrap();
    assert_eq!(sip::status(&answer), 401, "{answer}");
    let (answer, _) = invite(hub, &socket, "m=application 9 TCP octet-stream\r\na=setup:active\r\n");
    assert_eq!(sip::status(&answer), 407, "{answer}");
    // And for the user's own programs nothing has changed.
    world.run(&["--to", "echo"], "static-client").args(["198.18.0.9", "7000"]).finish().success().says("echo: hello");
}

#[test]
fn what_cannot_be_accepted_is_refused() {
    let world = World::new("foreign-refused");
    let hub_port = free_port();
    let _hub = world.hub(hub_port);
    let hub = SocketAddr::from(([127, 0, 0, 1], hub_port));
    let registrar = format!("sip:{hub}");
    let mut server = world.run(&["--registrar", &registrar, "--as", "echo"], "static-echo").arg("7000").start();
    server.wait_for("listening on");
    let socket = sip::socket();
    // A service of this machine that a hostile caller names as its own end, over TCP and over UDP.
    let (service, datagrams) = (TcpListener::bind("127.0.0.1:0").unwrap(), UdpSocket::bind("127.0.0.1:0").unwrap());
    let (tcp, udp) = (service.local_addr().unwrap().port(), datagrams.local_addr().unwrap().port());
    let mut receiver = world.run(&["--registrar", &registrar, "--as", "receiver"], "udp-server").arg("7001").start();
    receiver.wait_for("listening on");
    let passive = format!("m=application {tcp} TCP octet-stream\r\nc=IN IP4 127.0.0.1\r\na=setup:passive\r\n");
    let (answer, request) = invite(hub, &socket, &passive);
    assert_eq!(sip::status(&answer), 488, "{answer}");
    socket.send_to(within_ack(&answer, &request).as_bytes(), hub).unwrap();
    let sends = format!("m=application {udp} udp octet-stream\r\nc=IN IP4 127.0.0.1\r\n");
    let (answer, request) = invite_to(hub, &socket, "receiver", &sends);
    assert_eq!(sip::status(&answer), 488, "{answer}");
    socket.send_to(within_ack(&answer, &request).as_bytes(), hub).unwrap();
    let refused = [
        ("m=audio 4000 RTP/AVP 0\r\n", 488),
        ("m=application 9 TCP octet-stream\r\na=setup:holdconn\r\n", 488),
        ("m=application 4000 udp octet-stream\r\n", 486),
        ("m=application 4000 TCP octet-stream\r\nc=IN IP4 192.0.2.1\r\na=setup:passive\r\n", 488),
    ];
    for (media, status) in refused {
        let (answer, request) = invite(hub, &socket, media);
        assert_eq!(sip::status(&answer), status, "{media}\n{answer}");
        let ack = within_ack(&answer, &request);
        socket.send_to(ack.as_bytes(), hub).unwrap();
    }
}

/// The ACK of a refusal: hop by hop, with the INVITE's own branch (RFC 3261 17.1.1.3).
fn within_ack(answer: &str, request: &str) -> String {
    let target = request.split(' ').nth(1).unwrap();
    let (via, from, call_id) = (header(request, "Via"), header(request, "From"), header(request, "Call-ID"));
    let to = header(answer, "To");
    format!(
        "ACK {target} SIP/2.0\r\n{via}\r\nMax-Forwards: 70\r\n{from}\r\n{to}\r\n{call_id}\r\nCSeq: 1 ACK\r\n\
         Content-Length: 0\r\n\r\n"
    )
}

/// The public GRUU (RFC 5627) leads to one of two runs of the same name, and stands in its answers.
#[test]
fn a_gruu_names_one_run_of_two() {
    let world = World::new("foreign-gruu");
    let hub_port = free_port();
    let _hub = world.hub(hub_port);
    let hub = SocketAddr::from(([127, 0, 0, 1], hub_port));
    let registrar = format!("sip:{hub}");
    let flags = ["--registrar", &registrar, "--as", "sip:echo@sipbox.invalid"];
    let mut server = world.run(&flags, "static-echo").arg("7000").start();
    server.wait_for("listening on");
    let socket = sip::socket();
    let from = socket.local_addr().unwrap();
    let aor = "sip:echo@sipbox.invalid";
    let query = sip::request("REGISTER", "sip:sipbox.invalid", aor, from, "Supported: gruu\r\n");
    let answer = sip::ask(hub, &query, &socket).unwrap();
    let gruu = header(&answer, "Contact").split("pub-gruu=\"").nth(1).unwrap().split('"').next().unwrap().to_owned();
    // Another run of that name, which refuses: its only socket is of another protocol.
    let mut other = world.run(&flags, "udp-server").arg("7000").start();
    other.wait_for("listening on");
    sip::wait_for_bindings(hub, aor, 2, LIMIT);
    let media = "m=application 9 TCP octet-stream\r\na=setup:active\r\na=connection:new\r\n";
    let (answer, request) = invite_at(hub, &socket, &gruu, media);
    assert_eq!(sip::status(&answer), 200, "{answer}");
    assert!(header(&answer, "Contact").contains(&format!("<{gruu}>")), "{answer}");
    socket.send_to(within_dialog("ACK", &answer, &request, 1).as_bytes(), hub).unwrap();
    echo_over(TcpStream::connect_timeout(&media_of(&answer), LIMIT).unwrap());
    // The INVITE's dialog is the GRUU's: BYE finds its way by it, if the program has not been faster.
    let bye = sip::ask(hub, &within_dialog("BYE", &answer, &request, 2), &socket).unwrap();
    assert!(matches!(sip::status(&bye), 200 | 481), "{bye}");
    let gone = gruu.replace("gr=urn:uuid:", "gr=urn:uuid:0");
    let (answer, _) = invite_at(hub, &socket, &gone, media);
    assert_eq!(sip::status(&answer), 480, "{answer}");
}

/// An m= line of TLS (RFC 8122) with the fingerprint of `NAME.crt`.
fn tls_media(world: &World, name: &str, port: u16, setup: &str) -> String {
    let fingerprint = certificate::fingerprint(world, name);
    format!(
        "m=application {port} TCP/TLS octet-stream\r\na=setup:{setup}\r\na=connection:new\r\na=fingerprint:{fingerprint}\r\n"
    )
}

/// openssl as the caller's end, which connects; its certificate is the one of the offer, or another.
#[test]
fn tls_with_openssl_that_connects() {
    let world = World::new("foreign-tls-client");
    let hub_port = free_port();
    let _hub = world.hub(hub_port);
    let hub = SocketAddr::from(([127, 0, 0, 1], hub_port));
    let registrar = format!("sip:{hub}");
    certificate::issue(&world, "right", "DNS:peer");
    certificate::issue(&world, "wrong", "DNS:peer");
    let mut server = world.run(&["--registrar", &registrar, "--as", "echo"], "static-echo").args(["7000", "1"]).start();
    server.wait_for("listening on");
    for (shown, taken) in [("wrong", false), ("right", true)] {
        let socket = sip::socket();
        let (answer, request) = invite(hub, &socket, &tls_media(&world, "right", 9, "active"));
        assert_eq!(sip::status(&answer), 200, "{answer}");
        assert!(answer.contains("a=setup:passive") && answer.contains("a=fingerprint:sha-256 "), "{answer}");
        socket.send_to(within_dialog("ACK", &answer, &request, 1).as_bytes(), hub).unwrap();
        let to = media_of(&answer).to_string();
        let client = world.native("openssl").cwd(world.dir()).args([
            "s_client",
            "-connect",
            &to,
            "-cert",
            &format!("{shown}.crt"),
        ]);
        let mut client = client.args(["-key", &format!("{shown}.key"), "-tls1_3", "-ign_eof"]).talk().start();
        let _ = client.tell("hello from openssl\n");
        if taken {
            // What it sent is not shown: what comes back is.
            client.wait_for("hello from openssl");
            client.hang_up();
            let shown = client.stop().stdout;
            assert!(shown.contains("BEGIN CERTIFICATE"), "{shown}");
        } else {
            let done = client.wait();
            assert!(!done.stdout.contains("hello from openssl"), "{}", done.stdout);
            tests::until("the refusal to be said", || server.stderr().contains("certificate").then_some(()));
        }
        let _ = sip::ask(hub, &within_dialog("BYE", &answer, &request, 2), &socket);
    }
    server.wait().success();
}

/// openssl as the called end, which waits: with the certificate of its answer, and with another.
#[test]
fn tls_with_openssl_that_waits() {
    let world = World::new("foreign-tls-server");
    let hub_port = free_port();
    let _hub = world.hub(hub_port);
    let hub = SocketAddr::from(([127, 0, 0, 1], hub_port));
    let registrar = format!("sip:{hub}");
    certificate::issue(&world, "right", "DNS:peer");
    certificate::issue(&world, "wrong", "DNS:peer");
    let socket = register_slow(hub);
    for (shown, taken) in [("right", true), ("wrong", false)] {
        let port = free_port();
        let files = [format!("{shown}.crt"), format!("{shown}.key")];
        let listen =
            world.native("openssl").cwd(world.dir()).args(["s_server", "-accept", &format!("127.0.0.1:{port}")]);
        let listen =
            listen.args(["-cert", &files[0], "-key", &files[1], "-tls1_3", "-Verify", "1", "-naccept", "1", "-rev"]);
        let mut peer = listen.start();
        peer.wait_for("ACCEPT");
        let flags = ["--trace", "--registrar", registrar.as_str(), "--to", "slow", "--flow", "tls"];
        let say = "import socket,sys\ns=socket.create_connection(('198.18.0.9',7000))\ns.sendall(b'stressed\\n')\n\
                   print('heard',s.recv(100).decode().strip(),flush=True)\n";
        let client = world.run(&flags, "python3").args(["-c", say]).start();
        let sdp = format!(
            "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\n{}",
            tls_media(&world, "right", port, "passive")
        );
        let offer = answer_after(Duration::ZERO, hub, &socket, "200 OK", &sdp);
        assert!(offer.contains(" TCP/TLS octet-stream\r\n") && offer.contains("a=setup:actpass"), "{offer}");
        let done = client.wait();
        if taken {
            done.success().says("heard desserts");
        } else {
            assert!(done.code() != 0 && done.stderr.contains("cannot be trusted"), "{}", done.stderr);
        }
        peer.stop();
    }
}

/// An offer whose two fingerprints differ is refused, and so is one with nothing but TLS where that is switched off.
#[test]
fn tls_that_cannot_be_trusted() {
    let world = World::new("foreign-tls-bad");
    let hub_port = free_port();
    let _hub = world.hub(hub_port);
    let hub = SocketAddr::from(([127, 0, 0, 1], hub_port));
    let registrar = format!("sip:{hub}");
    certificate::issue(&world, "one", "DNS:peer");
    certificate::issue(&world, "two", "DNS:peer");
    let mut server = world.run(&["--registrar", &registrar, "--as", "echo"], "static-echo").arg("7000").start();
    server.wait_for("listening on");
    let socket = sip::socket();
    let other = certificate::fingerprint(&world, "two");
    let one = tls_media(&world, "one", 9, "active");
    let many = format!("{one}{}", "a=candidate:1 1 udp 5 192.0.2.1 9 typ host\r\n".repeat(1100));
    let cases = [
        (format!("{one}a=fingerprint:{other}\r\n"), 488, "differ"),
        (format!("{one}a=sipbox:1 label=\"tcp/7000\" fp=\"{other}\"\r\n"), 488, "somebody on the way"),
        (one.replace("a=fingerprint:sha-256", "a=fingerprint:md5"), 488, "sha-256"),
        (many, 400, "Bad Session Description"),
    ];
    for (media, status, word) in cases {
        let (answer, request) = invite(hub, &socket, &media);
        assert!(sip::status(&answer) == status && answer.contains(word), "{answer}");
        socket.send_to(within_ack(&answer, &request).as_bytes(), hub).unwrap();
    }
}
