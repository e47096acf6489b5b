#![forbid(unsafe_code)]
//! The harness itself, without sipbox: what the other tests lean on.

use std::time::Duration;

use tests::{Algorithm, Kamailio, World, free_port, sip};

#[test]
fn a_program_pair_runs_natively() {
    let world = World::new("harness-pair");
    let port = free_port().to_string();
    let mut server = world.native("static-echo").args([&port, "1"]).start();
    server.wait_for("listening on");
    world.native("static-client").args(["127.0.0.1", &port]).finish().success().says("echo: hello over SIP");
    server.wait().success().says("said 14 bytes");
}

#[test]
fn a_free_port_is_given_once() {
    let ports: std::collections::BTreeSet<u16> = (0..500).map(|_| free_port()).collect();
    assert_eq!(ports.len(), 500);
}

#[test]
fn dropping_a_world_ends_what_runs_in_it() {
    let world = World::new("harness-drop");
    // A process that leaves its parent and its group behind, as a hub that starts by itself does.
    let started = world.native("sh").args(["-c", "setsid sleep 1000 >/dev/null 2>&1 & echo $!"]).finish().success();
    let pid = started.stdout.trim().to_owned();
    assert!(std::path::Path::new(&format!("/proc/{pid}")).exists());
    drop(world);
    let gone = tests::within(Duration::from_secs(5), || {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        (status.is_empty() || status.contains("State:\tZ")).then_some(())
    });
    assert!(gone.is_some(), "process {pid} is still there");
}

#[test]
fn socket_calls_are_the_same_twice() {
    // The comparison of native and sipboxed runs needs an output that does not vary by itself.
    let world = World::new("harness-calls");
    let once = world.native("calls").finish().success().stdout;
    let twice = world.native("calls").finish().success().stdout;
    assert_eq!(once, twice);
}

#[test]
fn kamailio_starts_challenges_and_stops() {
    for algorithm in [Algorithm::Md5, Algorithm::Sha256] {
        let world = World::new("harness-kamailio");
        let kamailio = Kamailio::start(&world, algorithm, &["alice"]);
        let socket = sip::socket();
        let from = socket.local_addr().unwrap();
        let message = sip::request("REGISTER", "sip:sipbox.test", "sip:alice@sipbox.test", from, "");
        let answer = sip::ask(kamailio.address(), &message, &socket).unwrap();
        assert_eq!(sip::status(&answer), 401, "{answer}");
        let wanted = if algorithm == Algorithm::Md5 { "algorithm=MD5" } else { "algorithm=SHA-256" };
        assert!(answer.contains(wanted), "{answer}");
        kamailio.stop();
    }
}
