#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used)] // helpers of tests, which may fail as tests do
//! What sipbox says of paths: `sipbox ping` and `sipbox status`, on one machine and behind routers.

use std::net::UdpSocket;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::os::unix::net::UnixListener;
use std::time::Duration;

use nix::sys::signal::Signal;
use tests::lab::{self, Kind, Lab, PUBLIC};
use tests::{Accounts, Coturn, Done, Registrar, Signalling, World, free_port, until};

/// Any address leads to the peer of `--to`: this one is nobody's.
const ANYWHERE: &str = "198.18.0.9";

/// The value of a field of printed JSON: what stands between it and the next comma or bracket.
fn field<'j>(json: &'j str, name: &str) -> &'j str {
    let (_, rest) = json.split_once(&format!("\"{name}\":")).unwrap_or_else(|| panic!("no {name} in {json}"));
    rest.split([',', '}', ']']).next().unwrap().trim_matches('"')
}

/// A run answers whether its program listens or not.
#[test]
fn a_run_is_pinged_without_a_listener() {
    let world = World::new("ping-here");
    let mut idle = world.run(&["--as", "idle"], "sh").args(["-c", "echo up; sleep 1000"]).start();
    idle.wait_for("up");
    let ping = |args: &[&str]| world.sipbox(&["ping", "-c", "2"]).args(args);
    let done = ping(&["idle"]).finish().success();
    let done = done
        .says("answers as sip:idle@")
        .says("path      direct: host ")
        .says("flow      quic")
        .says("2 of 2 round trips");
    assert!(done.stdout.contains("median "), "{}", done.stdout);
    let json = ping(&["--json", "idle"]).finish().success().stdout;
    assert_eq!((field(&json, "path"), field(&json, "flow"), field(&json, "lost")), ("direct", "quic", "0"), "{json}");
    assert_eq!(field(&json, "error"), "null");

    ping(&["nobody"]).finish().ended_with(1).complains("404");
    let json = ping(&["--json", "nobody"]).finish().ended_with(1).stdout;
    assert!(field(&json, "error").contains("404"), "{json}");
    ping(&["sip:"]).finish().ended_with(2);
    ping(&["-c", "0", "idle"]).finish().ended_with(2);
    // A run that speaks in the clear only says at least what it is.
    let mut clear = world.run(&["--flow", "direct", "--as", "clear"], "sh").args(["-c", "echo up; sleep 1000"]).start();
    clear.wait_for("up");
    ping(&["clear"]).finish().ended_with(1).complains("488").complains("sipbox/").complains("answers OPTIONS in");
}

/// Whom the policy lets reach nothing learns nothing.
#[test]
fn a_policy_decides_who_may_ping() {
    let world = World::new("ping-policy");
    let text = "schema = 1\n[identity]\naor = \"sip:shy@sipbox.invalid\"\n[default]\nbind = \"local\"\n[[bind]]\nport = 7000\nproto = \"tcp\"\n\
                accept = true\naccept-from = [\"sip:friend@*\"]\n";
    let policy = world.write("shy.toml", text).display().to_string();
    let mut shy = world.run(&["--policy", &policy], "static-echo").args(["7000", "1"]).start();
    shy.wait_for("listening on");
    let ping = |who: &str| world.sipbox(&["ping", "-c", "1", "--as", who, "shy"]).finish();
    ping("friend").success();
    ping("stranger").ended_with(1).complains("403");
}

/// The path that a ping takes, as it prints it, and what netcheck says of the router.
#[test]
fn netcheck_and_ping_behind_a_symmetric_nat() {
    if !lab::possible("netcheck_and_ping_behind_a_symmetric_nat") {
        return;
    }
    for (kinds, path) in [([Kind::Symmetric, Kind::Open], "direct"), ([Kind::Symmetric, Kind::Masquerade], "relayed")] {
        let world = World::new(&format!("ping-{}", kinds[1]));
        let lab = Lab::new(kinds);
        let registrar = Registrar::start(&world, &lab, Signalling::Kamailio);
        let _coturn = Coturn::start(&world, &lab, Accounts::LongTerm);
        let mut called = registrar.run(&world, &lab, 1, "bob", &[], "sh").args(["-c", "echo up; sleep 1000"]).start();
        called.wait_for("up");
        let (stun, turn) = (format!("{PUBLIC}:3478"), format!("{}@{PUBLIC}:3478", Coturn::USER));
        let check = world.sipbox(&["netcheck", "--stun", &stun, "--turn", &turn]).inside(&lab.sides[0].host);
        let check = check.env("SIPBOX_TURN_PASSWORD", Coturn::PASSWORD).finish().success().says("symmetric NAT");
        let flags = registrar.flags(&lab, 0, "alice");
        let ping = world.sipbox(&["ping", "-c", "3"]).args(&flags).arg(registrar.aor("bob")).inside(&lab.sides[0].host);
        let done = Registrar::with_passwords(ping, "alice").finish().success().says("3 of 3 round trips");
        let done = done.says(&format!("path      {path}: "));
        println!("$ sipbox netcheck --stun {stun} --turn {turn}\n{}", check.stdout);
        println!("$ sipbox ping -c 3 {}\n{}", registrar.aor("bob"), done.stdout);
    }
}

fn status(world: &World, args: &[&str]) -> Done {
    world.sipbox(&["status"]).args(args).finish()
}

/// Every run of the user is shown, with its sockets and where they lead.
#[test]
fn status_shows_runs_sockets_and_sessions() {
    let world = World::new("status");
    status(&world, &[]).ended_with(1).says("no program runs under sipbox");
    assert_eq!(status(&world, &["--json"]).ended_with(1).stdout, "[]\n");
    let port = free_port().to_string();
    let mut server = world.run(&["--flow", "quic", "--as", "shown"], "hold").args(["serve", &port]).start();
    server.wait_for("listening on");
    let wait = "import socket,sys\ns=socket.create_connection(('198.18.0.9',int(sys.argv[1])))\nprint('connected',flush=True)\nsys.stdin.readline()\n";
    let mut client =
        world.run(&["--flow", "quic", "--to", "shown"], "python3").args(["-c", wait, &port]).talk().start();
    client.wait_for("connected");
    let text = status(&world, &[]).success();
    let text = text.says("hold (pid ").says("as sip:shown@").says(&format!(":{port}")).says("python3 (pid ");
    let text = text.says("session with sip:shown@").says("quic, direct, host ").says("sockets, ");
    assert!(text.stdout.contains(&format!("to {ANYWHERE}:{port} (sip:shown@")), "{}", text.stdout);
    let json = status(&world, &["--json"]).success().stdout;
    assert_eq!(json.matches("\"pid\":").count(), 2, "{json}");
    assert!(json.contains(&format!("\"pid\":{}", server.pid())) && json.contains("\"flow\":\"quic\""), "{json}");
    assert!(field(&json, "sent").parse::<u64>().unwrap() > 0, "{json}");

    // A watch goes on, and sees the end of a run.
    let mut watch = world.sipbox(&["status", "--watch", "--json"]).start();
    watch.wait_for("\"program\":\"python3\"");
    client.say("\n");
    client.wait().success();
    until("the watch to see the end of the client", || {
        watch
            .stdout()
            .lines()
            .last()
            .filter(|line| line.ends_with(']') && !line.contains("\"program\":\"python3\""))
            .map(drop)
    });
    drop(watch);
    // One that is killed leaves its socket, which the next look clears away.
    let path = world.path("runtime").join("sipbox").join(format!("run-{}.sock", server.pid()));
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    server.signal(Signal::SIGKILL);
    server.wait();
    status(&world, &[]).ended_with(1);
    assert!(!path.exists(), "the socket of a killed run stays");
}

/// The sessions in the JSON of the run that has this process id.
fn sessions(json: &str, pid: u32) -> Vec<String> {
    let (_, run) = json.split_once(&format!("\"pid\":{pid},")).unwrap_or_else(|| panic!("no run {pid} in {json}"));
    let (_, all) = run.split_once("\"sessions\":[").unwrap();
    // Addresses of IPv6 have brackets, too.
    let all = all.split_once("]}").unwrap().0;
    all.split_inclusive('}').map(str::to_owned).filter(|session| session.contains("\"uri\"")).collect()
}

/// What a socket has for itself is counted by the kernel, datagrams where they pass through sipbox; what shares a connection is counted there.
#[test]
fn status_counts_bytes_of_every_kind_of_flow() {
    for isolation in ["seccomp", "netns"] {
        for flow in ["direct", "datachannel", "tls"] {
            let world = World::new(&format!("counted-{isolation}-{flow}"));
            let (script, port) = (world.program("counted_pair.py").display().to_string(), free_port().to_string());
            // Datagrams have no TLS.
            let what: &[&str] = if flow == "tls" { &[&script, "stream"] } else { &[&script] };
            let flags = ["--isolation", isolation, "--flow", flow];
            let server = world.run(&[&flags[..], &["--as", "counts"]].concat(), "python3");
            let mut server = server.args(what).args(["serve", &port]).talk().start();
            server.wait_for("listening on");
            let client = world.run(&[&flags[..], &["--as", "asks", "--to", "counts"]].concat(), "python3");
            let mut client = client.args(what).args(["ask", ANYWHERE, &port]).talk().start();
            client.wait_for("counted");
            server.wait_for("counted");

            let json = status(&world, &["--json"]).success().stdout;
            let text = status(&world, &[]).success().stdout;
            println!("{text}{json}");
            let asks = sessions(&json, client.pid());
            let counts = sessions(&json, server.pid());
            for (all, peer) in [(&asks, "sip:counts@"), (&counts, "sip:asks@")] {
                // Each session once, with whom it is.
                assert_eq!(all.len(), if flow == "direct" { 2 } else { 1 }, "{isolation} {flow}: {json}");
                assert!(all.iter().all(|session| field(session, "uri").starts_with(peer)), "{json}");
            }
            let bytes = |session: &str| (field(session, "sent").to_owned(), field(session, "received").to_owned());
            let number =
                |session: &str, name| field(session, name).parse::<f64>().unwrap_or_else(|_| panic!("{session}"));
            match flow {
                "datachannel" => {
                    let (asks, counts) = (&asks[0], &counts[0]);
                    assert_eq!(field(asks, "flow"), flow);
                    // With what DTLS and SCTP add.
                    assert!((70_300.0..500_000.0).contains(&number(asks, "sent")), "{asks}");
                    assert!((605.0..100_000.0).contains(&number(asks, "received")), "{asks}");
                    assert!((70_300.0..500_000.0).contains(&number(counts, "received")), "{counts}");
                    assert!(number(asks, "rtt_ms") > 0.0 && number(counts, "rtt_ms") > 0.0, "{asks} {counts}");
                    assert!(!text.contains("round trip -"), "{text}");
                }
                own => {
                    let of = |all: &[String]| {
                        let (streams, others): (Vec<String>, Vec<String>) =
                            all.iter().cloned().partition(|s| bytes(s).0 == "70000" || bytes(s).1 == "70000");
                        assert!(streams.len() == 1 && field(&streams[0], "flow") == own, "{isolation}: {all:?}");
                        (streams[0].clone(), others)
                    };
                    // The called end of a TLS flow has its only socket in the program's network there.
                    let is_out_of_sight = own == "tls" && isolation == "netns";
                    let (stream, others) = of(&asks);
                    let (far, far_others) = if is_out_of_sight { (counts[0].clone(), Vec::new()) } else { of(&counts) };
                    assert_eq!(bytes(&stream), ("70000".to_owned(), "5".to_owned()), "{stream}");
                    let known = if is_out_of_sight { ("null", "null") } else { ("5", "70000") };
                    assert_eq!(bytes(&far), (known.0.to_owned(), known.1.to_owned()), "{far}");
                    assert!(text.contains("70.0 kB sent, 5 B received"), "{text}");
                    assert!(number(&stream, "rtt_ms") > 0.0 && number(&far, "rtt_ms") > 0.0, "{stream} {far}");
                    if own == "direct" {
                        let known = |sent: &str, received: &str| match isolation {
                            "netns" => (sent.to_owned(), received.to_owned()),
                            _ => ("null".to_owned(), "null".to_owned()),
                        };
                        let datagrams = (bytes(&others[0]), bytes(&far_others[0]));
                        assert_eq!(datagrams, (known("300", "600"), known("600", "300")), "{json}");
                        let shown =
                            if isolation == "netns" { "300 B sent, 600 B received" } else { "- sent, - received" };
                        assert!(text.contains(shown), "{text}");
                    }
                }
            }
            client.say("\n");
            server.say("\n");
            client.wait().success();
            server.wait().success();
        }
    }
}

/// A socket in the place of a run's is not believed, and does not hold anybody up.
#[test]
fn who_stands_in_for_a_run_is_not_asked() {
    let world = World::new("status-fake");
    let mut run = world.run(&["--as", "real"], "sh").args(["-c", "echo up; sleep 1000"]).start();
    run.wait_for("up");
    let directory = world.path("runtime").join("sipbox");
    // Of this process, under the number of another.
    let fake = directory.join("run-1.sock");
    let _listener = UnixListener::bind(&fake).unwrap();
    let done = status(&world, &[]).success().says("as sip:real@");
    assert_eq!(done.stdout.matches("(pid ").count(), 1, "{}", done.stdout);
    assert!(std::fs::symlink_metadata(&fake).unwrap().file_type().is_socket());
}

/// A program under sipbox reaches neither its own run's socket nor another's, and cannot take the place of one.
#[test]
fn programs_do_not_reach_it() {
    let world = World::new("status-program");
    let mut other = world.run(&["--as", "other"], "sh").args(["-c", "echo up; sleep 1000"]).start();
    other.wait_for("up");
    let script = [
        "import glob, os, socket, sys",
        "directory = os.environ['XDG_RUNTIME_DIR'] + '/sipbox'",
        "found = glob.glob(directory + '/run-*.sock')",
        "print('found', len(found), flush=True)",
        "for path in found:",
        "  try: socket.socket(socket.AF_UNIX).connect(path); print('reached', path)",
        "  except OSError as e: print('refused', e.errno)",
        "own = [p for p in found if not p.endswith('run-%d.sock' % int(sys.argv[1]))][0]",
        "os.unlink(own)",
        "fake = socket.socket(socket.AF_UNIX); fake.bind(own)",
        "try: fake.listen(); print('listens')",
        "except OSError as e: print('no listener', e.errno)",
        // Under another name, and then moved there.
        "moved = socket.socket(socket.AF_UNIX); moved.bind('moved.sock'); moved.listen(); os.rename('moved.sock', own)",
        "print('done', flush=True); sys.stdin.readline()",
    ];
    let pid = other.pid().to_string();
    let run = world.run(&["--as", "liar"], "python3").args(["-c", &script.join("\n"), &pid]);
    let mut liar = run.talk().start();
    liar.wait_for("done");
    let done = status(&world, &[]).success().says("as sip:other@");
    assert_eq!(done.stdout.matches("(pid ").count(), 1, "{}", done.stdout);
    liar.say("\n");
    let said = liar.wait().success().says("found 2").says("no listener 13");
    assert_eq!(said.stdout.matches("refused 13").count(), 2, "{}", said.stdout);
    assert!(!said.stdout.contains("reached"), "{}", said.stdout);
}

/// While a connect() waits, a terminal shows for what; the line is gone afterwards, and nothing of it goes where no terminal is.
#[test]
fn a_wait_is_shown_on_a_terminal() {
    let world = World::new("progress");
    let registrar = UdpSocket::bind("127.0.0.1:0").unwrap();
    registrar.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    let at = format!("sip:{}", registrar.local_addr().unwrap());
    let flags =
        ["--registrar", &at, "--as", "sip:a@sipbox.invalid", "--to", "sip:b@sipbox.invalid", "--flow", "direct"];
    let client = world.program("static-client").display().to_string();
    let command = format!("{} run {} -- {client} {ANYWHERE} 7000", world.sipbox_path().display(), flags.join(" "));
    let run = world.native("script").args(["-qefc", &command, "/dev/null"]).start();
    let shows = |text: &str| {
        until(&format!("the terminal to show {text:?}"), || run.stdout().contains(text).then_some(()));
    };
    // A registrar that is silent, until the call has been shown.
    shows("\r\x1b[Ksipbox: sip:a@sipbox.invalid: registering");
    shows("\r\x1b[Ksipbox: sip:b@sipbox.invalid: calling");
    let (invite, from) = until("an INVITE", || {
        let mut buffer = [0; 4096];
        let (length, from) = registrar.recv_from(&mut buffer).ok()?;
        let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
        text.starts_with("INVITE").then_some((text, from))
    });
    let same = ["Via:", "From:", "To:", "Call-ID:", "CSeq:"];
    let lines: Vec<&str> = invite.lines().filter(|line| same.iter().any(|name| line.starts_with(name))).collect();
    let answer = format!("SIP/2.0 404 Not Here\r\n{}\r\nContent-Length: 0\r\n\r\n", lines.join("\r\n"));
    registrar.send_to(answer.as_bytes(), from).unwrap();
    let done = run.wait().ended_with(3);
    let (_, after) = done.stdout.rsplit_once(": calling").unwrap();
    assert!(after.starts_with("\r\x1b[K"), "the line stays: {after:?}");
    let said = "\r\x1b[Ksipbox: tcp/7000 of sip:b@sipbox.invalid: no session with sip:b@sipbox.invalid: 404 Not Here";
    assert!(done.stdout.contains(said) && !after.contains("\x1b[Ksipbox"), "{:?}", done.stdout);

    // The same where standard error is a file.
    let mut run = world.run(&flags, "static-client").args([ANYWHERE, "7000"]).start();
    run.wait_for_err("is not registered");
    assert!(!run.stderr().contains('\r') && !run.stderr().contains('\x1b'), "{:?}", run.stderr());
}

/// A session that carries nothing ends by itself, and the listener that it led to is reached again by the next one.
#[test]
fn an_idle_session_ends_and_the_next_socket_gets_a_new_one() {
    let world = World::new("idle-session");
    let port = free_port().to_string();
    let mut server = world.run(&["--flow", "quic", "--as", "calm"], "static-echo").args([&port, "2"]).start();
    server.wait_for("listening on");
    let script = [
        "import socket, sys",
        "for n in 1, 2:",
        "  s = socket.create_connection(('198.18.0.9', int(sys.argv[1])))",
        "  s.sendall(b'x'); s.shutdown(socket.SHUT_WR)",
        "  print('echo', s.recv(1).decode(), n, flush=True)",
        "  s.close()",
        "  sys.stdin.readline()",
    ];
    let run = world.run(&["--flow", "quic", "--to", "calm", "--ladder"], "python3");
    let mut client = run.args(["-c", &script.join("\n"), &port]).talk().start();
    client.wait_for("echo x 1");
    // It stands for a minute (the trunk's IDLE), and is then ended.
    let ended = tests::within(Duration::from_secs(120), || client.stderr().contains("BYE").then_some(()));
    assert!(ended.is_some(), "{}", client.stderr());
    assert_eq!(status(&world, &["--json"]).success().stdout.matches("\"flow\":\"quic\"").count(), 0);
    client.say("\n");
    client.wait_for("echo x 2");
    client.say("\n");
    client.wait().success();
    server.wait().success();
}
