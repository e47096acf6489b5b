#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used)] // helpers of tests, which may fail as tests do
//! Encrypted flows: between two runs of this machine that may not speak in the clear, and between two networks.

use std::time::Duration;

use nix::sys::signal::Signal;
use tests::lab::{self, Capture, Kind, Lab, PUBLIC, holding};
use tests::{Accounts, Algorithm, Coturn, Kamailio, Process, Rtpengine, World, free_port};

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

/// The policies of both sides.
enum Wanted {
    Flags(&'static [&'static str]),
    Default(&'static str),
}

/// Two networks, each behind a router: how do the two programs reach each other, and does anybody on the way see what they say?
fn through_the_lab(name: &str, kinds: [Kind; 2], path: &str) {
    through_the_lab_by(name, kinds, path, &Wanted::Flags(&[]));
}

fn through_the_lab_by(name: &str, kinds: [Kind; 2], path: &str, wanted: &Wanted) {
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
    let mut ice = vec!["--stun", &stun, "--turn", &turn, "--turn", &turn_tcp, "--trace"];
    let file = world.path("flows.toml").display().to_string();
    match wanted {
        Wanted::Flags(flags) => ice.extend(*flags),
        Wanted::Default(lines) => {
            world.write("flows.toml", format!("schema = 1\n[default]\n{lines}\n"));
            ice.extend(["--policy", &file]);
        }
    }
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
        let channels = matches!(wanted, Wanted::Flags(flags) if flags.contains(&"datachannel"));
        let kind = if channels { "data channel flow with" } else { "encrypted flow with" };
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
    through_the_lab("flow-open", [Kind::Open, Kind::Firewall], "direct");
}

#[test]
fn two_networks_behind_nats() {
    through_the_lab("flow-nat", [Kind::Masquerade, Kind::Masquerade], "reflexive");
}

#[test]
fn two_networks_that_need_a_relay() {
    through_the_lab("flow-relay", [Kind::Symmetric, Kind::Symmetric], "relayed");
}

#[test]
fn a_network_that_blocks_udp() {
    through_the_lab("flow-tcp", [Kind::UdpBlocked, Kind::Masquerade], "relayed");
}

#[test]
fn data_channels_behind_nats() {
    through_the_lab_by(
        "flow-channel",
        [Kind::Masquerade, Kind::Masquerade],
        "reflexive",
        &Wanted::Flags(&["--flow", "datachannel"]),
    );
}

#[test]
fn data_channels_over_a_relay() {
    through_the_lab_by(
        "flow-channel-relay",
        [Kind::Symmetric, Kind::Symmetric],
        "relayed",
        &Wanted::Flags(&["--flow", "datachannel"]),
    );
}

#[test]
fn data_channels_where_udp_is_blocked() {
    through_the_lab_by(
        "flow-channel-tcp",
        [Kind::UdpBlocked, Kind::Masquerade],
        "relayed",
        &Wanted::Flags(&["--flow", "datachannel"]),
    );
}

/// TLS where the ends reach each other by TCP, whichever of them the other reaches.
#[test]
fn tls_from_the_reached_to_the_other() {
    through_the_lab_by("flow-tls-out", [Kind::Masquerade, Kind::Open], "TLS", &Wanted::Flags(&["--flow", "tls"]));
}

#[test]
fn tls_from_the_other_to_the_reached() {
    through_the_lab_by("flow-tls-in", [Kind::Open, Kind::Masquerade], "TLS", &Wanted::Flags(&["--flow", "tls"]));
}

/// Where nobody is reached by TCP, the next flow of the policy carries the same connect().
#[test]
fn quic_where_tls_does_not_get_through() {
    let wanted = Wanted::Default("flows = [\"tls\", \"quic\"]");
    through_the_lab_by("flow-tls-quic", [Kind::Masquerade, Kind::Masquerade], "reflexive", &wanted);
}

/// In the clear between machines: with both ends' consent, and then it is in the clear; without, refused, and both are told.
#[test]
fn cleartext_only_by_both_policies() {
    if !lab::possible("flow-clear") {
        return;
    }
    let world = World::new("flow-clear");
    let lab = Lab::new([Kind::Open, Kind::Open]);
    let kamailio = Kamailio::start_in(&world, &lab, Algorithm::Sha256, &["alice", "bob"]);
    let to = kamailio.aor("bob");
    let clear = ["--flow", "direct", "--cleartext"];
    let client = |flags: &[&str], program: &str| {
        let flags: Vec<&str> = flags.iter().copied().chain(["--trace", "--to", &to]).collect();
        kamailio.run(&world, true, "alice", &flags, program).inside(&lab.sides[0].host)
    };
    let serve = |flags: &[&str], program: &str, args: &[&str]| {
        let mut server =
            kamailio.run(&world, true, "bob", flags, program).args(args).inside(&lab.sides[1].host).start();
        server.wait_for("listening on");
        server
    };
    let capture = Capture::start(&lab.public);
    let server = serve(&["--cleartext"], "static-echo", &["7000", "1"]);
    let done = client(&clear, "static-client").args([ANYWHERE, "7000", SECRET]).finish().success();
    assert!(done.stdout.contains(SECRET) && done.stderr.contains("flow in the clear\n"), "{}", done.stderr);
    server.wait().success();
    let server = serve(&["--cleartext"], "udp-server", &["7000", "1"]);
    client(&clear, "udp-client").args(["connected", ANYWHERE, "7000", "20"]).finish().success();
    server.wait().success();
    assert!(holding(&capture.stop(), SECRET.as_bytes()) > 0);

    let capture = Capture::start(&lab.public);
    let server = serve(&[], "static-echo", &["7000", "1"]);
    let refused = client(&clear, "static-client").args([ANYWHERE, "7000", SECRET]).finish();
    refused.ended_with(3).complains("ECONNREFUSED").complains("488").complains("this run offers cleartext only");
    assert!(server.stderr().contains("cleartext = true in [default]"), "{}", server.stderr());
    // Who also takes better gets better.
    let done = client(&["--cleartext"], "static-client").args([ANYWHERE, "7000", SECRET]).finish().success();
    assert!(done.stderr.contains("encrypted flow with"), "{}", done.stderr);
    server.wait().success();
    assert_eq!(holding(&capture.stop(), SECRET.as_bytes()), 0);
    kamailio.stop();
}

/// TLS on one machine: half-close, resets, many connections, and who asks for datagrams is told.
#[test]
fn tls_on_one_machine() {
    let world = World::new("flow-tls");
    let port = free_port().to_string();
    let server = serve(&world, &["--flow", "tls", "--as", "secure"], "static-echo", &[&port, "6"]);
    let flags = ["--flow", "tls", "--to", "secure", "--trace"];
    for _ in 0..5 {
        let done = world.run(&flags, "static-client").args([ANYWHERE, &port, "@3000000"]).finish().success();
        assert!(
            done.stdout.contains("3000000 bytes, all as sent") && done.stderr.contains("TLS flow\n"),
            "{}",
            done.stderr
        );
    }
    let say = "import socket,sys\ns=socket.socket(socket.AF_INET,socket.SOCK_DGRAM)\ns.connect(('198.18.0.9',int(sys.argv[1])))\n\
               s.settimeout(30)\ntry:\n  s.send(b'x')\n  s.recv(9)\nexcept OSError as e: print('error',e.errno)\n";
    let datagrams = world.run(&flags, "python3").args(["-c", say, &port]).finish().success();
    assert!(datagrams.stderr.contains("TLS carries streams"), "{}", datagrams.stderr);
    world.run(&flags, "static-client").args([ANYWHERE, &port]).finish().success();
    server.wait().success();
}

/// A hub that is a TURN server too lends its relays to those who register: no server is named, UDP is blocked on one side.
#[test]
fn relays_of_the_hub() {
    if !lab::possible("flow-hub-relay") {
        return;
    }
    let world = World::new("flow-hub-relay");
    let lab = Lab::new([Kind::Symmetric, Kind::UdpBlocked]);
    let users = world.path("users").display().to_string();
    for name in ["alice", "bob"] {
        let add = world.sipbox(&["hub", "user", "--users", &users, "add", name]);
        add.input(format!("{}\n", Kamailio::password(name))).finish().success();
    }
    let (listen, turn) = (format!("{PUBLIC}:5060"), format!("{PUBLIC}:3478"));
    let hub = ["hub", "--listen", &listen, "--users", &users, "--turn", &turn, "--turn-allow", "198.51.100.0/24"];
    let mut hub = world.sipbox(&hub).inside(&lab.public).start();
    hub.wait_for_err("sipbox hub: ready");
    let run = |side: usize, user: &str, flags: &[&str], program: &str| {
        let registrar = format!("sip:{PUBLIC}:5060;transport=tcp");
        let aor = format!("sip:{user}@sipbox.invalid");
        let flags: Vec<&str> =
            ["--registrar", &registrar, "--as", &aor, "--trace"].iter().chain(flags).copied().collect();
        world.run(&flags, program).env("SIPBOX_PASSWORD", Kamailio::password(user)).inside(&lab.sides[side].host)
    };
    let mut server = run(1, "bob", &[], "static-echo").args(["7000", "1"]).start();
    server.wait_for("listening on");
    let client =
        run(0, "alice", &["--to", "sip:bob@sipbox.invalid"], "static-client").args([ANYWHERE, "7000", "@300000"]);
    let done = client.finish_within(Duration::from_secs(60)).success().says("300000 bytes, all as sent");
    let said = done.stderr.lines().rfind(|line| line.contains("encrypted flow with")).unwrap_or_default();
    assert!(said.contains(": relayed, "), "{}", done.stderr);
    server.wait().success();
}

/// A session border controller before both ends, which puts its own addresses and its own ICE into every session description, and strips what it
/// does not know: what survives is found without help from STUN or TURN, through symmetric NATs.
#[test]
fn through_a_session_border_controller() {
    if !lab::possible("flow-sbc") {
        return;
    }
    let world = World::new("flow-sbc");
    let lab = Lab::new([Kind::Symmetric, Kind::Masquerade]);
    let rtpengine = Rtpengine::start(&world, &lab);
    let kamailio = Kamailio::start_sbc(&world, &lab, Algorithm::Sha256, &["alice", "bob"]);
    let to = kamailio.aor("bob");
    let relay = format!(" to host {PUBLIC}:31");
    let run = |side: usize, user: &str, flags: &[&str], program: &str| {
        kamailio.run(&world, true, user, flags, program).inside(&lab.sides[side].host)
    };
    let capture = Capture::start(&lab.public);
    let server = |flags: &[&str], program: &str, args: &[&str]| {
        let mut server = run(1, "bob", flags, program).args(args).start();
        server.wait_for("listening on");
        server
    };
    let called = server(&[], "static-echo", &["7000", "2"]);
    for text in [SECRET, "@3000000"] {
        let done = run(0, "alice", &["--to", &to, "--trace"], "static-client").args([ANYWHERE, "7000", text]).finish();
        let done = done.success();
        let said = done.stderr.lines().rfind(|line| line.contains("encrypted flow with")).unwrap_or_default();
        assert!(said.contains(&relay), "{said}\n{}\n{}", done.stderr, rtpengine.log());
    }
    called.wait().success();
    let called = server(&[], "udp-server", &["7000", "1"]);
    let client = run(0, "alice", &["--to", &to], "udp-client").args(["connected", ANYWHERE, "7000", "20"]);
    client.finish().success();
    called.wait().success();
    assert_eq!(holding(&capture.stop(), SECRET.as_bytes()), 0);
    kamailio.stop();
}

/// The same for datagrams in the clear, which both policies allow: the media relay learns where each end is from what it sends, through NATs.
#[test]
fn datagrams_in_the_clear_through_a_session_border_controller() {
    if !lab::possible("flow-sbc-clear") {
        return;
    }
    let world = World::new("flow-sbc-clear");
    let lab = Lab::new([Kind::Symmetric, Kind::Masquerade]);
    let rtpengine = Rtpengine::start(&world, &lab);
    let kamailio = Kamailio::start_sbc(&world, &lab, Algorithm::Sha256, &["alice", "bob"]);
    let to = kamailio.aor("bob");
    let run = |side: usize, user: &str, flags: &[&str], program: &str| {
        kamailio.run(&world, true, user, flags, program).inside(&lab.sides[side].host)
    };
    let capture = Capture::start(&lab.public);
    let mut called = run(1, "bob", &["--cleartext"], "udp-server").args(["7000", "2"]).start();
    called.wait_for("listening on");
    let flags = ["--flow", "direct", "--cleartext", "--to", &to, "--trace"];
    for how in ["connected", "unconnected"] {
        let done = run(0, "alice", &flags, "udp-client").args([how, ANYWHERE, "7000", "20"]).finish();
        assert_eq!(done.code(), 0, "{}\n--- called\n{}\n{}", done.stderr, called.stderr(), rtpengine.log());
        assert!(done.stderr.contains("flow in the clear\n"), "{}", done.stderr);
    }
    called.wait().success();
    // To the relay, and from it, there and back.
    assert!(holding(&capture.stop(), b"datagram 7 of ") >= 8, "{}", rtpengine.log());
    kamailio.stop();
}
