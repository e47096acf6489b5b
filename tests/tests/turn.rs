#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used)] // helpers of tests, which may fail as tests do
//! The STUN and TURN server of `sipbox hub`, used by coturn's clients with the credentials that registered users are given.

use std::net::SocketAddr;

use tests::{Process, World, free_port, sip};

/// A hub with a TURN server on loopback.
fn hub(world: &World, flags: &[&str]) -> (Process, SocketAddr, u16) {
    let (port, turn) = (free_port(), free_port());
    let addresses = [format!("127.0.0.1:{port}"), format!("127.0.0.1:{turn}")];
    let mut hub = world.sipbox(&["hub", "--listen", &addresses[0], "--turn", &addresses[1]]).args(flags).start();
    hub.wait_for_err("sipbox hub: listening on");
    assert!(hub.stderr().contains(&format!("STUN and TURN on {}", addresses[1])), "{}", hub.stderr());
    (hub, SocketAddr::from(([127, 0, 0, 1], port)), turn)
}

/// Registers, and returns what the `Link` header of the 200 says: the server, the name, the password.
fn register(at: SocketAddr, user: &str) -> (String, String, String) {
    let socket = sip::socket();
    let from = socket.local_addr().unwrap();
    let contact = format!("Contact: <sip:{user}@{from}>;expires=60\r\n");
    let request = sip::request("REGISTER", "sip:sipbox.invalid", &format!("sip:{user}@sipbox.invalid"), from, &contact);
    let answer = sip::ask(at, &request, &socket).unwrap();
    assert_eq!(sip::status(&answer), 200, "{answer}");
    let link = answer.lines().find(|line| line.starts_with("Link:")).unwrap_or_else(|| panic!("no Link in\n{answer}"));
    assert!(link.contains(";rel=\"ice-server\";") && link.contains(";credential-type=\"password\""), "{link}");
    let value = |name: &str| link.split(&format!(";{name}=\"")).nth(1).unwrap().split('"').next().unwrap().to_owned();
    let server = link.split(['<', '>']).nth(1).unwrap().to_owned();
    (server, value("username"), value("credential"))
}

/// Data goes there and back between two allocations, by channels and by indications, over UDP and TCP.
#[test]
fn who_registers_may_relay() {
    let world = World::new("turn-relay");
    let (_hub, at, turn) = hub(&world, &["--turn-ports", "49500-49899", "--turn-allow", "127.0.0.0/8"]);
    let (server, name, password) = register(at, "alice");
    assert_eq!(server, format!("turn:127.0.0.1:{turn}"));
    assert!(name.ends_with(":alice"), "{name}");
    let client = |flags: &[&str], password: &str| {
        let client =
            world.native("turnutils_uclient").args(["-y", "-n", "3", "-m", "1", "-c", "-p", &turn.to_string()]);
        client.args(["-u", &name, "-w", password]).args(flags).arg("127.0.0.1")
    };
    // They take some seconds each.
    let running = [&[][..], &["-s"], &["-t"]].map(|flags| client(flags, &password).start());
    for one in running {
        one.wait().success().says("Total lost packets 0 ");
    }
    let refused = client(&[], "a guess").finish();
    assert!(refused.code() != 0 && refused.stdout.contains("Cannot complete Allocation"), "{}", refused.stdout);
}

/// Without being told, it does not relay to where its clients have no business.
#[test]
fn loopback_is_no_peer() {
    let world = World::new("turn-peers");
    let (_hub, at, turn) = hub(&world, &[]);
    let (_, name, password) = register(at, "alice");
    let client = world.native("turnutils_uclient").args(["-n", "3", "-m", "1", "-c", "-e", "127.0.0.1", "-r", "53"]);
    let client = client.args(["-p", &turn.to_string(), "-u", &name, "-w", &password, "127.0.0.1"]).finish();
    assert!(client.code() != 0 && client.stdout.contains("403"), "{}", client.stdout);
}

#[test]
fn flags_that_cannot_be() {
    let world = World::new("turn-flags");
    let hub = |flags: &[&str]| world.sipbox(&["hub", "--listen", "127.0.0.1:0"]).args(flags).finish();
    hub(&["--turn", "0.0.0.0:3478"]).ended_with(1).complains("sipbox hub user add");
    hub(&["--turn", "127.0.0.1:0", "--turn-ports", "9-1"]).ended_with(2).complains("FIRST-LAST");
    hub(&["--turn", "127.0.0.1:0", "--turn-allow", "home"]).ended_with(2).complains("ADDRESS/PREFIX");
    hub(&["--turn-allow", "10.0.0.0/8"]).ended_with(2).complains("--turn");
    let taken = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    hub(&["--turn", &taken]).ended_with(1).complains(&format!("cannot listen for STUN and TURN on {taken} (UDP)"));
    world
        .sipbox(&["hub", "user", "--users", &world.path("users").display().to_string(), "add", "alice"])
        .input("x\n")
        .finish()
        .success();
    let with_users = ["--users", &world.path("users").display().to_string(), "--turn", "0.0.0.0:0"];
    hub(&with_users).ended_with(1).complains("name the address that clients reach");
}
