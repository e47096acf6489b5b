#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used)] // helpers of tests, which may fail as tests do
//! Where the registrar is, as a real name server says it (RFC 3263), and what happens when it is not there.

use std::net::UdpSocket;
use std::time::Duration;

use tests::{Algorithm, Dns, Kamailio, Launch, Process, World, certificate, free_port};

const ANYWHERE: &str = "198.18.0.9";
const USERS: [&str; 2] = ["alice", "bob"];

fn run(world: &World, dns: &Dns, registrar: &str, user: &str, flags: &[&str], program: &str) -> Launch {
    let (dns, aor) = (dns.address(), format!("sip:{user}@sipbox.test"));
    let mut all = vec!["--registrar", registrar, "--dns", &dns, "--as", &aor];
    all.extend(flags);
    world.run(&all, program).env("SIPBOX_PASSWORD", Kamailio::password(user))
}

fn serve(world: &World, dns: &Dns, registrar: &str, flags: &[&str], port: &str) -> Process {
    let mut server = run(world, dns, registrar, "bob", flags, "static-echo").arg(port).start();
    server.wait_for("listening on");
    server
}

fn call(world: &World, dns: &Dns, registrar: &str, flags: &[&str], port: &str) -> Launch {
    let flags = [flags, &["--to", "sip:bob@sipbox.test"]].concat();
    run(world, dns, registrar, "alice", &flags, "static-client").args([ANYWHERE, port])
}

fn records(lines: &[&str]) -> Vec<String> {
    lines.iter().map(|line| line.to_string()).collect()
}

/// A port on which datagrams arrive and nobody answers.
fn silent() -> (UdpSocket, u16) {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let port = socket.local_addr().unwrap().port();
    (socket, port)
}

/// NAPTR chooses TCP, SRV the servers: the first refuses connections, the second serves.
#[test]
fn naptr_then_srv_then_the_next_server() {
    let world = World::new("locate-naptr");
    let kamailio = Kamailio::start(&world, Algorithm::Sha256, &USERS);
    let dead = free_port();
    let dns = Dns::start(
        &world,
        &[
            "sip.test. 60 IN NAPTR 20 10 \"s\" \"SIP+D2U\" \"\" _sip._udp.sip.test.".to_owned(),
            "sip.test. 60 IN NAPTR 10 10 \"s\" \"SIP+D2T\" \"\" _sip._tcp.sip.test.".to_owned(),
            format!("_sip._udp.sip.test. 60 IN SRV 10 1 {dead} one.sip.test."),
            format!("_sip._tcp.sip.test. 60 IN SRV 10 1 {dead} one.sip.test."),
            format!("_sip._tcp.sip.test. 60 IN SRV 20 1 {} two.sip.test.", kamailio.port()),
            "one.sip.test. 60 IN A 127.0.0.1".to_owned(),
            "two.sip.test. 60 IN A 127.0.0.1".to_owned(),
        ],
    );
    let port = free_port().to_string();
    let server = serve(&world, &dns, "sip:sip.test", &["--ladder"], &port);
    call(&world, &dns, "sip:sip.test", &[], &port).finish().success().says("echo: hello over SIP");
    let ladder = server.stderr();
    let to_second = format!("127.0.0.1:{}", kamailio.port());
    assert!(ladder.contains(&to_second) && !ladder.contains("/UDP"), "{ladder}");
}

/// SRV without NAPTR; the first server takes datagrams and never answers. It is given up after a few seconds.
#[test]
fn a_silent_server_is_given_up_for_the_next() {
    let world = World::new("locate-silent");
    let kamailio = Kamailio::start(&world, Algorithm::Md5, &USERS);
    let (_socket, dead) = silent();
    let dns = Dns::start(
        &world,
        &[
            format!("_sip._udp.sip.test. 60 IN SRV 10 1 {dead} one.sip.test."),
            format!("_sip._udp.sip.test. 60 IN SRV 20 1 {} one.sip.test.", kamailio.port()),
            "one.sip.test. 60 IN A 127.0.0.1".to_owned(),
        ],
    );
    let port = free_port().to_string();
    let _server = serve(&world, &dns, "sip:sip.test", &[], &port);
    call(&world, &dns, "sip:sip.test", &[], &port).finish_within(Duration::from_secs(40)).success();
}

/// A server that answers 503 is busy: the next one is asked at once (RFC 3263 4.3).
#[test]
fn a_busy_server_is_passed_over() {
    let world = World::new("locate-busy");
    let kamailio = Kamailio::start(&world, Algorithm::Md5, &USERS);
    let (socket, busy) = silent();
    std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok((n, from)) = socket.recv_from(&mut buffer) {
            let request = String::from_utf8_lossy(&buffer[..n]).into_owned();
            let kept =
                |line: &&str| ["Via:", "From:", "To:", "Call-ID:", "CSeq:"].iter().any(|name| line.starts_with(name));
            let copied: Vec<&str> = request.split("\r\n").filter(kept).collect();
            let answer = format!("SIP/2.0 503 Busy\r\n{}\r\nContent-Length: 0\r\n\r\n", copied.join("\r\n"));
            let _ = socket.send_to(answer.as_bytes(), from);
        }
    });
    let dns = Dns::start(
        &world,
        &[
            format!("_sip._udp.sip.test. 60 IN SRV 10 1 {busy} one.sip.test."),
            format!("_sip._udp.sip.test. 60 IN SRV 20 1 {} one.sip.test.", kamailio.port()),
            "one.sip.test. 60 IN A 127.0.0.1".to_owned(),
        ],
    );
    let port = free_port().to_string();
    let _server = serve(&world, &dns, "sip:sip.test", &[], &port);
    let client = call(&world, &dns, "sip:sip.test", &["--ladder"], &port).finish().success();
    assert!(client.stderr.contains("503 Busy"), "{}", client.stderr);
}

/// Two servers; the one in use ends, and programs are reached through the other.
#[test]
fn programs_move_to_the_other_server() {
    let world = World::new("locate-move");
    let first = Kamailio::start(&world, Algorithm::Sha256, &USERS);
    let second = Kamailio::start(&world, Algorithm::Sha256, &USERS);
    let dns = Dns::start(
        &world,
        &[
            format!("_sip._tcp.sip.test. 60 IN SRV 10 1 {} one.sip.test.", first.port()),
            format!("_sip._tcp.sip.test. 60 IN SRV 20 1 {} one.sip.test.", second.port()),
            "one.sip.test. 60 IN A 127.0.0.1".to_owned(),
        ],
    );
    let port = free_port().to_string();
    let _server = serve(&world, &dns, "sip:sip.test;transport=tcp", &[], &port);
    call(&world, &dns, "sip:sip.test;transport=tcp", &[], &port).finish().success();
    first.stop();
    let again = || (call(&world, &dns, "sip:sip.test;transport=tcp", &[], &port).finish().code() == 0).then_some(());
    assert!(tests::within(Duration::from_secs(15), again).is_some(), "not reachable through the second server");
}

/// The registrar moves: its old address is dead, and the name leads to the new one once its time to live is over.
#[test]
fn the_name_is_asked_for_again() {
    let world = World::new("locate-again");
    let first = Kamailio::start(&world, Algorithm::Md5, &USERS);
    let record = |port: u16| {
        records(&["one.sip.test. 1 IN A 127.0.0.1", &format!("_sip._tcp.sip.test. 1 IN SRV 10 1 {port} one.sip.test.")])
    };
    let dns = Dns::start(&world, &record(first.port()));
    let port = free_port().to_string();
    let uri = "sip:sip.test;transport=tcp";
    let _server = serve(&world, &dns, uri, &[], &port);
    call(&world, &dns, uri, &[], &port).finish().success();
    let at = dns.port();
    dns.stop();
    first.stop();
    let second = Kamailio::start(&world, Algorithm::Md5, &USERS);
    let dns = Dns::start_on(&world, &record(second.port()), at);
    let again = || (call(&world, &dns, uri, &[], &port).finish().code() == 0).then_some(());
    assert!(tests::within(Duration::from_secs(20), again).is_some(), "not reachable at the new place");
}

/// sips: leads to _sips._tcp, and the certificate is for the domain asked for, not for the server's own name (RFC 5922 4).
#[test]
fn sips_by_srv() {
    let world = World::new("locate-sips");
    let kamailio = Kamailio::start_tls(&world, &USERS, "URI:sip:sip.test", false);
    let dns = Dns::start(
        &world,
        &[
            format!("_sips._tcp.sip.test. 60 IN SRV 10 1 {} one.sip.test.", kamailio.tls_port()),
            format!("_sips._tcp.other.test. 60 IN SRV 10 1 {} one.sip.test.", kamailio.tls_port()),
            "one.sip.test. 60 IN A 127.0.0.1".to_owned(),
        ],
    );
    let authority = certificate::authority(&world).display().to_string();
    let port = free_port().to_string();
    let trust = ["--tls-ca", &authority];
    let _server = serve(&world, &dns, "sips:sip.test", &trust, &port);
    call(&world, &dns, "sips:sip.test", &trust, &port).finish().success();
    let wrong = call(&world, &dns, "sips:other.test", &trust, &port).finish().ended_with(3);
    wrong.complains("its certificate is for another domain");
}

/// What cannot be found is said in words.
#[test]
fn names_that_lead_nowhere() {
    let world = World::new("locate-nowhere");
    let dns = Dns::start(&world, &records(&["_sip._udp.none.test. 60 IN SRV 0 0 0 .", "dead.test. 60 IN TXT \"x\""]));
    let ended =
        |registrar: &str| call(&world, &dns, registrar, &[], "7000").finish().ended_with(3).complains("ENETUNREACH");
    ended("sip:none.test").complains("says that it has no SIP service");
    ended("sip:nowhere.test").complains("nowhere.test has no address in DNS");
    ended("sip:dead.test:5070").complains("dead.test has no address in DNS");
    dns.stop();
    let dead = Dns::start(&world, &[]);
    let address = dead.address();
    dead.stop();
    let flags = ["--registrar", "sip:sip.test", "--dns", &address, "--as", "sip:a@sip.test", "--to", "sip:b@sip.test"];
    let client = world.run(&flags, "static-client").args([ANYWHERE, "7000"]).finish_within(Duration::from_secs(60));
    client.ended_with(3).complains("sip.test cannot be resolved");
}
