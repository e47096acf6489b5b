#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used)] // helpers of tests, which may fail as tests do
//! `sipbox run --publish` and `sipbox peers`: who is shown what, while programs come and go.

use std::time::Duration;

use nix::sys::signal::Signal;
use tests::{Launch, Process, World, free_port};

const ANYWHERE: &str = "198.18.0.9";
/// Opens and closes sockets as it is told: `+tcp PORT`, `+udp PORT`, `-tcp PORT`, `-udp PORT`.
const SOCKETS: &str = "import socket, sys
kinds = {'tcp': socket.SOCK_STREAM, 'udp': socket.SOCK_DGRAM}
opened = {}
print('ready', flush=True)
for line in sys.stdin:
    what, port = line.split()
    if what[0] == '+':
        s = opened[what[1:], port] = socket.socket(socket.AF_INET, kinds[what[1:]])
        s.bind(('0.0.0.0', int(port)))
        if what[1:] == 'tcp': s.listen()
    else:
        opened.pop((what[1:], port)).close()
    print('done', line.strip(), flush=True)
";

/// A hub in the foreground and who is at it.
struct Scene {
    world: World,
    port: u16,
    /// URI parameter.
    transport: &'static str,
}

impl Scene {
    fn new(name: &str) -> Scene {
        Scene { world: World::new(name), port: free_port(), transport: "" }
    }

    fn hub(&self, flags: &[&str]) -> Process {
        let listen = format!("127.0.0.1:{}", self.port);
        let mut hub = self.world.sipbox(&["hub", "--listen", &listen]).args(flags).start();
        hub.wait_for_err("sipbox hub: ready");
        hub
    }

    fn registrar(&self) -> String {
        format!("sip:127.0.0.1:{}{}", self.port, self.transport)
    }

    fn aor(name: &str) -> String {
        format!("sip:{name}@sipbox.invalid")
    }

    fn password(name: &str) -> String {
        format!("{name}'s password")
    }

    fn run(&self, name: &str, flags: &[&str], program: &str) -> Launch {
        let (registrar, aor) = (self.registrar(), Scene::aor(name));
        let flags = [&["--registrar", &registrar, "--as", &aor], flags].concat();
        self.world.run(&flags, program).env("SIPBOX_PASSWORD", Scene::password(name))
    }

    /// `sipbox peers` as one of the users.
    fn peers(&self, name: &str, flags: &[&str]) -> Launch {
        let (registrar, aor) = (self.registrar(), Scene::aor(name));
        let peers = self.world.sipbox(&["peers", "--registrar", &registrar, "--as", &aor]).args(flags);
        peers.env("SIPBOX_PASSWORD", Scene::password(name))
    }

    fn users(&self, names: &[&str]) -> String {
        let file = self.world.path("users").display().to_string();
        for name in names {
            let add = self.world.sipbox(&["hub", "user", "--users", &file, "add", name]);
            add.input(format!("{}\n", Scene::password(name))).finish().success();
        }
        file
    }
}

fn serve(launch: Launch, args: &[&str]) -> Process {
    let mut server = launch.args(args).start();
    server.wait_for("listening on");
    server
}

/// The last word of a line that is a URI.
fn uri_in(line: &str) -> String {
    let uri = line.split(' ').find(|word| word.starts_with("sip:"));
    uri.unwrap_or_else(|| panic!("no URI in {line:?}")).to_owned()
}

/// The show: programs come and go at a hub, and a watcher is told of each.
#[test]
fn programs_come_and_go() {
    let scene = Scene::new("peers-watch");
    let _hub = scene.hub(&[]);
    let mut watch = scene.peers("alice", &["--watch"]).start();
    let server = serve(scene.run("bob", &["--publish", "Bob's world"], "static-echo"), &["7000"]);
    let came = watch.wait_for("+ bob");
    assert!(
        came.contains("  tcp/7000  sip:bob@sipbox.invalid;gr=urn:uuid:") && came.ends_with("  Bob's world"),
        "{came}"
    );
    // Two runs of one name, of which each has a URI of its own.
    let other = serve(scene.run("bob", &["--publish", "another"], "udp-server"), &["9000"]);
    let other_came = watch.wait_for("udp/9000");
    assert_ne!(uri_in(&came), uri_in(&other_came));
    let listed = scene.peers("alice", &["bob"]).finish().success();
    let rows: Vec<&str> = listed.stdout.lines().collect();
    assert_eq!(rows.len(), 3, "{}", listed.stdout);
    assert!(rows[0].starts_with("NAME  SOCKET") && listed.stderr.is_empty(), "{}{}", listed.stdout, listed.stderr);
    server.stop();
    let gone = watch.wait_for("- bob");
    assert_eq!(uri_in(&gone), uri_in(&came));
    other.stop();
    watch.wait_for("- bob  udp/9000");
    watch.signal(Signal::SIGINT);
    let watched = watch.wait().success();
    assert_eq!(watched.stdout.lines().count(), 4, "{}", watched.stdout);
    assert!(watched.stderr.is_empty(), "{}", watched.stderr);
    scene.peers("alice", &[]).finish().success().complains("nobody has published anything");
}

/// What `peers` prints leads to just that run, and is read by programs.
#[test]
fn a_printed_uri_leads_to_its_run() {
    let scene = Scene::new("peers-gruu");
    let _hub = scene.hub(&[]);
    let mut watch = scene.peers("alice", &["--watch", "--json"]).start();
    let mut servers = Vec::new();
    for text in ["one", "two"] {
        let server = serve(scene.run("bob", &["--publish", text], "static-echo"), &["7000", "1"]);
        let came = watch.wait_for(&format!("\"description\":\"{text}\""));
        assert!(came.starts_with("{\"change\":\"up\",\"name\":\"bob\",") && came.ends_with("Z\"}"), "{came}");
        let gruu = came.split("\"gruu\":\"").nth(1).and_then(|rest| rest.split('"').next()).unwrap().to_owned();
        servers.push((server, gruu));
    }
    let all = scene.peers("alice", &["--json"]).finish().success();
    // Read by another's hands.
    let read = "import json, sys; print([(p['name'], p['label'], p['description']) for p in sorted(json.load(sys.stdin), key=lambda p: p['description'])])";
    let read = scene.world.native("python3").args(["-c", read]).input(all.stdout).finish().success();
    assert_eq!(read.stdout.trim(), "[('bob', 'tcp/7000', 'one'), ('bob', 'tcp/7000', 'two')]");
    // The later one first: an address of record would have led anywhere.
    while let Some((server, gruu)) = servers.pop() {
        let client = scene.run("alice", &["--to", &gruu], "static-client").args([ANYWHERE, "7000"]).finish();
        client.success().says("echo: hello over SIP");
        server.wait().success().says("said 14 bytes");
    }
    watch.signal(Signal::SIGTERM);
    watch.wait().success();
}

/// One run publishes what it has open, and takes back what it closes.
#[test]
fn sockets_of_a_run_come_and_go() {
    let scene = Scene::new("peers-sockets");
    let _hub = scene.hub(&[]);
    let policy =
        "schema = 1\n[[bind]]\nport = \"7000-7999\"\npublish = \"a game\"\n[[bind]]\nport = \"*\"\naccept = true\n";
    let policy = scene.world.write("policy.toml", policy).display().to_string();
    let mut watch = scene.peers("alice", &["--watch", "bob"]).start();
    let mut program = scene.run("bob", &["--policy", &policy], "python3").args(["-c", SOCKETS]).talk().start();
    program.wait_for("ready");
    for (told, sign, label) in [
        ("+tcp 7000", '+', "tcp/7000"),
        ("+udp 7001", '+', "udp/7001"),
        ("-tcp 7000", '-', "tcp/7000"),
        ("-udp 7001", '-', "udp/7001"),
    ] {
        program.say(&format!("{told}\n"));
        watch.wait_for(&format!("{sign} bob  {label}"));
    }
    // Not what the policy only lets be called.
    program.say("+tcp 8000\n+tcp 7002\n");
    watch.wait_for("+ bob  tcp/7002");
    program.hang_up();
    program.wait().success();
    watch.wait_for("- bob  tcp/7002");
    watch.signal(Signal::SIGINT);
    let watched = watch.wait().success();
    assert!(!watched.stdout.contains("8000"), "{}", watched.stdout);
}

/// A killed supervisor takes nothing back: what it published ends by itself.
#[test]
fn a_killed_run_is_gone_when_it_expires() {
    let scene = Scene::new("peers-killed");
    let _hub = scene.hub(&[]);
    let policy = scene.world.write("policy.toml", "schema = 1\n[identity]\nexpires = 10\n").display().to_string();
    let mut watch = scene.peers("alice", &["--watch"]).start();
    let flags = ["--policy", policy.as_str(), "--publish", "Bob's world"];
    let server = serve(scene.run("bob", &flags, "static-echo"), &["7000"]);
    watch.wait_for("+ bob");
    // It is refreshed beyond its first end.
    assert!(tests::within(Duration::from_secs(12), || watch.stdout().contains("- bob").then_some(())).is_none());
    server.signal(Signal::SIGKILL);
    watch.wait_for("- bob  tcp/7000");
}

/// The hub is killed and another takes its place: the watcher says so, and goes on; so do those who publish.
#[test]
fn a_watch_outlives_its_hub() {
    for transport in ["", ";transport=tcp"] {
        let scene = Scene { transport, ..Scene::new("peers-restart") };
        let hub = scene.hub(&[]);
        let mut watch = scene.peers("alice", &["--watch"]).start();
        let _bob = serve(scene.run("bob", &["--publish", "before"], "static-echo"), &["7000"]);
        watch.wait_for("+ bob");
        hub.signal(Signal::SIGKILL);
        hub.wait();
        let _hub = scene.hub(&[]);
        let _carol = serve(scene.run("carol", &["--publish", "after"], "static-echo"), &["7000"]);
        watch.wait_for("+ carol");
        // Whoever had not published again in time went and came back, and is there.
        tests::until("bob is shown", || {
            let out = watch.stdout();
            let last = out.lines().rfind(|line| line.contains(" bob ")).unwrap_or_default().to_owned();
            last.starts_with("+ bob").then_some(())
        });
        watch.signal(Signal::SIGINT);
        watch.wait().success();
    }
}

/// A policy says who may see; a hub with users knows who asks.
#[test]
fn who_may_not_see_is_not_told() {
    let scene = Scene::new("peers-visible");
    let users = scene.users(&["alice", "bob", "carol"]);
    let _hub = scene.hub(&["--users", &users, "--group", "friends=bob,carol"]);
    let policy = "schema = 1\n[[bind]]\nport = 7000\npublish = \"for alice\"\nvisible-to = [\"alice\"]\n\
                  [[bind]]\nport = 7001\npublish = \"for all\"\n";
    let policy = scene.world.write("policy.toml", policy).display().to_string();
    let mut watch = scene.peers("carol", &["--watch"]).start();
    let mut program = scene.run("bob", &["--policy", &policy], "python3").args(["-c", SOCKETS]).talk().start();
    program.say("+tcp 7000\n+tcp 7001\n");
    program.wait_for("done +tcp 7001");
    watch.wait_for("+ bob  tcp/7001");
    for (who, whom, sees) in [
        ("alice", "bob", true),
        ("alice", "friends", true),
        ("bob", "bob", true),
        ("carol", "bob", false),
        ("carol", "friends", false),
    ] {
        let seen = scene.peers(who, &[whom]).finish().success().says("for all");
        assert_eq!(seen.stdout.contains("for alice"), sees, "{who} looks at {whom}: {}", seen.stdout);
    }
    // A name is not enough to be somebody.
    let forged = scene.peers("alice", &[]).env("SIPBOX_PASSWORD", "a guess").finish().ended_with(1);
    let forged = forged.explains(&["refuses the credentials", "SIPBOX_PASSWORD"]);
    assert!(!forged.stderr.contains("a guess") && forged.stdout.is_empty(), "{}", forged.stderr);
    watch.signal(Signal::SIGINT);
    assert!(!watch.wait().success().stdout.contains("for alice"));
    // Of a server that would tell everybody it is kept back, and the user hears of it.
    assert!(program.stderr().is_empty(), "{}", program.stderr());
}

/// The user's own hub starts by itself and needs no names.
#[test]
fn at_the_hub_of_this_user() {
    let world = World::new("peers-own");
    let mut watch = world.sipbox(&["peers", "--watch"]).start();
    let run = world.sipbox(&["run", "--as", "bob", "--publish", "Bob's world", "--"]);
    let mut server = run.arg(world.program("static-echo")).arg("7000").start();
    server.wait_for("listening on");
    let came = watch.wait_for("+ bob");
    let client = world.sipbox(&["run", "--to", &uri_in(&came), "--"]).arg(world.program("static-client"));
    client.args([ANYWHERE, "7000"]).finish().success().says("echo: hello over SIP");
    for hub in world.hubs() {
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(i32::try_from(hub).unwrap()), Signal::SIGKILL).unwrap();
    }
    watch.wait_for_err("it is tried again");
    let run = world.sipbox(&["run", "--as", "carol", "--publish", "later", "--"]);
    let mut later = run.arg(world.program("static-echo")).arg("7000").start();
    later.wait_for("listening on");
    watch.wait_for("+ carol");
    watch.signal(Signal::SIGINT);
    watch.wait().success();
}

#[test]
fn what_cannot_be_asked_is_explained() {
    let scene = Scene::new("peers-errors");
    let peers = |flags: &[&str]| scene.world.sipbox(&["peers"]).args(flags).finish();
    let registrar = scene.registrar();
    peers(&["--registrar", &registrar]).ended_with(1).explains(&["not reachable", "--registrar"]);
    peers(&["sip:"]).ended_with(2).explains(&["no host"]);
    peers(&["--as", "a b"]).ended_with(2).complains("--as");
    let users = scene.users(&["alice"]);
    let _hub = scene.hub(&["--users", &users]);
    peers(&["--registrar", &registrar, "--as", "alice@sipbox.invalid"])
        .ended_with(1)
        .explains(&["wants credentials", "SIPBOX_PASSWORD"]);
    scene.peers("alice", &["nobody"]).finish().ended_with(1).explains(&[
        "nobody@sipbox.invalid",
        "404",
        "check the name",
    ]);
    let unnamed = scene.world.sipbox(&["run", "--publish", "x", "--", "true"]).finish();
    unnamed.ended_with(2).complains("add --as NAME");
    let hub = scene.world.sipbox(&["hub", "--listen", "127.0.0.1:0", "--group", "friends"]).finish();
    hub.ended_with(2).complains("friends=alice,bob");
}
