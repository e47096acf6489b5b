#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used)] // helpers of tests, which may fail as tests do
//! Encrypted flows: between two runs of this machine that may not speak in the clear, and between two networks.

use std::time::Duration;

use nix::sys::signal::Signal;
use tests::lab::{self, Capture, Kind, Lab, PUBLIC, holding};
use tests::{Accounts, Algorithm, Coturn, Kamailio, Process, World, free_port};

/// Any address leads to the peer of `--to`: this one is nobody's.
const ANYWHERE: &str = "198.18.0.9";
/// After what a supervisor that was killed leaves its peers in the dark: the connection's idle timeout, and the test's patience.
const LOST_WITHIN: Duration = Duration::from_secs(60);

fn serve(world: &World, flags: &[&str], program: &str, args: &[&str]) -> Process {
    let mut server = world.run(flags, program).args(args).start();
    server.wait_for("listening on");
    server
}

/// TCP and UDP, many sockets, in one session: the second and later ones need no SIP.
#[test]
fn many_sockets_in_one_session() {
    let world = World::new("flow-many");
    let ports = [free_port(), free_port(), free_port()].map(|port| port.to_string());
    let [port, other, closed] = &ports;
    let pair = world.program("flow_pair.py");
    let pair = pair.to_str().unwrap();
    let server = serve(&world, &["--flow", "quic", "--as", "many"], "python3", &[pair, "serve", port, other]);
    let client = world.run(&["--flow", "quic", "--to", "many", "--trace", "--ladder"], "python3");
    let done = client.args([pair, "client", ANYWHERE, port, other, closed]).finish_within(Duration::from_secs(60));
    let done = done.success().says("20 MB").says("closed: 111").says("datagrams");
    assert_eq!(done.stderr.matches("200 OK").count() - done.stderr.matches(" BYE]").count() / 2, 1, "{}", done.stderr);
    assert!(done.stderr.contains("encrypted flow with sip:many@"), "{}", done.stderr);
    assert!(!done.stderr.contains("direct flow"), "{}", done.stderr);
    drop(server);
}

/// What one side wants is what there is; less than that is refused, and both are told why.
#[test]
fn a_downgrade_is_refused() {
    let world = World::new("flow-downgrade");
    let port = free_port().to_string();
    let server = serve(&world, &["--flow", "quic", "--as", "strict"], "static-echo", &[&port, "1"]);
    let clear = world.run(&["--flow", "direct", "--to", "strict"], "static-client").args([ANYWHERE, &port]).finish();
    clear.ended_with(3).complains("ECONNREFUSED").complains("488").complains("--flow direct stays on this machine");
    assert!(server.stderr().contains("offered only a flow in the clear"), "{}", server.stderr());
    // Who leaves it open speaks as the other wants.
    let open = world.run(&["--to", "strict", "--trace"], "static-client").args([ANYWHERE, &port]).finish().success();
    assert!(open.stderr.contains("encrypted flow\n"), "{}", open.stderr);
    server.wait().success();

    let server = serve(&world, &["--flow", "direct", "--as", "clear"], "static-echo", &[&port, "1"]);
    let strict = world.run(&["--flow", "quic", "--to", "clear"], "static-client").args([ANYWHERE, &port]).finish();
    strict.ended_with(3).complains("ECONNREFUSED").complains("488").complains("wants an encrypted flow");
    let open = world.run(&["--to", "clear", "--trace"], "static-client").args([ANYWHERE, &port]).finish().success();
    assert!(open.stderr.contains("direct flow\n"), "{}", open.stderr);
    server.wait().success();
}

/// The end of one program is the end of the connection for the other, however it comes.
#[test]
fn the_end_of_a_peer_is_seen() {
    let world = World::new("flow-end");
    let port = free_port().to_string();
    let flags = ["--flow", "quic", "--as", "held"];
    let read = "import socket,sys\ns=socket.create_connection(('198.18.0.9',int(sys.argv[1])))\nprint('connected',flush=True)\n\
                try: print('end',len(s.recv(1)),flush=True)\nexcept OSError as e: print('error',e.errno,flush=True)\n";
    for killed_supervisor in [false, true] {
        let server = serve(&world, &flags, "hold", &["serve", &port]);
        let mut client = world.run(&["--flow", "quic", "--to", "held"], "python3").args(["-c", read, &port]).start();
        client.wait_for("connected");
        if killed_supervisor {
            server.signal(Signal::SIGKILL);
        } else {
            nix::sys::signal::kill(nix::unistd::Pid::from_raw(server.child_named("hold") as i32), Signal::SIGKILL)
                .unwrap();
        }
        let done = client.wait_within(LOST_WITHIN).success();
        let seen = done.stdout.lines().last().unwrap_or_default().to_owned();
        assert!(seen == "end 0" || seen == "error 104", "{seen}");
        drop(server);
    }
}

/// A connection that is lost is set up again by the next connect(), to whoever has the name then.
#[test]
fn a_lost_connection_is_set_up_again() {
    let world = World::new("flow-again");
    let port = free_port().to_string();
    let flags = ["--flow", "quic", "--as", "again"];
    let twice = [
        "import socket, sys",
        "for n in 1, 2:",
        "  s = socket.create_connection(('198.18.0.9', int(sys.argv[1])))",
        "  s.sendall(b'x')",
        "  print('echo', s.recv(1).decode(), flush=True)",
        "  s.close()",
        "  sys.stdin.readline()",
    ];
    let twice = twice.join("\n");
    let first = serve(&world, &flags, "static-echo", &[&port, "1"]);
    let mut client =
        world.run(&["--flow", "quic", "--to", "again"], "python3").args(["-c", &twice, &port]).talk().start();
    client.wait_for("echo x");
    first.wait().success();
    let second = serve(&world, &flags, "static-echo", &[&port, "1"]);
    client.say("\n");
    second.wait().success().says("said 1 bytes");
    client.say("\n");
    client.wait().success();
}

/// The words of one test on the wire: looked for in every packet.
const SECRET: &str = "the quick brown fox of sipbox jumps over the router";

/// Two networks, each behind a router: how do the two programs reach each other, and does anybody on the way see what they say?
fn through_the_lab(name: &str, kinds: [Kind; 2], path: &str, flow: &str) {
    if !lab::possible(name) {
        return;
    }
    let world = World::new(name);
    let lab = Lab::new(kinds);
    let kamailio = Kamailio::start_in(&world, &lab, Algorithm::Sha256, &["alice", "bob"]);
    let _coturn = Coturn::start(&world, &lab, Accounts::LongTerm);
    let stun = format!("{PUBLIC}:3478");
    let turn = format!("{}@{PUBLIC}:3478", Coturn::USER);
    let turn_tcp = format!("{turn}?transport=tcp");
    let ice = ["--stun", &stun, "--turn", &turn, "--turn", &turn_tcp, "--trace", "--flow", flow];
    let captures: Vec<_> = [&lab.public, &lab.sides[0].routers[0], &lab.sides[1].routers[0]].map(Capture::start).into();

    let mut server = kamailio.run(&world, true, "bob", &ice, "static-echo").args(["7000", "2"]);
    server = server.env("SIPBOX_TURN_PASSWORD", Coturn::PASSWORD).inside(&lab.sides[1].host);
    let mut server = server.start();
    server.wait_for("listening on");
    let to = kamailio.aor("bob");
    let flags: Vec<&str> = ice.into_iter().chain(["--to", &to]).collect();
    for (text, heard) in [(SECRET, format!("echo: {SECRET}")), ("@3000000", "echo: 3000000 bytes, all as sent".into())]
    {
        let client = kamailio.run(&world, true, "alice", &flags, "static-client").args([ANYWHERE, "7000", text]);
        let client = client.env("SIPBOX_TURN_PASSWORD", Coturn::PASSWORD).inside(&lab.sides[0].host);
        let done = client.finish().success().says(&heard);
        let kind = if flow == "datachannel" { "data channel flow with" } else { "encrypted flow with" };
        let said = done.stderr.lines().rfind(|line| line.contains(kind)).unwrap_or_default().to_owned();
        assert!(said.contains(&format!(": {path}, ")), "wanted {path}\n{said}\n{}", done.stderr);
    }
    server.wait().success();
    // That the capture sees what is sent in the clear is shown by the same words, sent so.
    let plain = lab.sides[0].host.enter(|| std::net::UdpSocket::bind("0.0.0.0:0")).unwrap();
    plain.send_to(b"in the clear", (PUBLIC, 9)).unwrap();
    for (place, capture) in ["public", "router A", "router B"].into_iter().zip(captures) {
        let packets = capture.stop();
        assert!(packets.len() > 100, "{place}: {} packets", packets.len());
        assert_eq!(holding(&packets, SECRET.as_bytes()), 0, "{place}");
        assert_eq!(holding(&packets, &SECRET.as_bytes()[4..24]), 0, "{place}");
        if place != "router B" && kinds[0] != Kind::UdpBlocked {
            assert!(holding(&packets, b"in the clear") > 0, "{place}");
        }
    }
    kamailio.stop();
}

#[test]
fn two_networks_with_public_addresses() {
    through_the_lab("flow-open", [Kind::Open, Kind::Firewall], "direct", "auto");
}

#[test]
fn two_networks_behind_nats() {
    through_the_lab("flow-nat", [Kind::Masquerade, Kind::Masquerade], "reflexive", "auto");
}

#[test]
fn two_networks_that_need_a_relay() {
    through_the_lab("flow-relay", [Kind::Symmetric, Kind::Symmetric], "relayed", "auto");
}

#[test]
fn a_network_that_blocks_udp() {
    through_the_lab("flow-tcp", [Kind::UdpBlocked, Kind::Masquerade], "relayed", "auto");
}

#[test]
fn data_channels_behind_nats() {
    through_the_lab("flow-channel", [Kind::Masquerade, Kind::Masquerade], "reflexive", "datachannel");
}

#[test]
fn data_channels_over_a_relay() {
    through_the_lab("flow-channel-relay", [Kind::Symmetric, Kind::Symmetric], "relayed", "datachannel");
}

#[test]
fn data_channels_where_udp_is_blocked() {
    through_the_lab("flow-channel-tcp", [Kind::UdpBlocked, Kind::Masquerade], "relayed", "datachannel");
}
