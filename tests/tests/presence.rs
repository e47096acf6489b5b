#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used)] // helpers of tests, which may fail as tests do
//! Presence with what others have made: a real Kamailio as presence server.

use nix::sys::signal::Signal;
use tests::{Kamailio, Launch, Process, World, certificate, free_port};

const ANYWHERE: &str = "198.18.0.9";

fn serve(launch: Launch, args: &[&str]) -> Process {
    let mut server = launch.args(args).start();
    server.wait_for("listening on");
    server
}

/// `sipbox peers` at a Kamailio.
fn peers(world: &World, kamailio: &Kamailio, tcp: bool, user: &str, flags: &[&str]) -> Launch {
    let (registrar, aor) = (kamailio.registrar(tcp), kamailio.aor(user));
    let peers = world.sipbox(&["peers", "--registrar", &registrar, "--as", &aor]).args(flags);
    peers.env("SIPBOX_PASSWORD", Kamailio::password(user))
}

fn uri_in(line: &str) -> String {
    let uri = line.split(' ').find(|word| word.starts_with("sip:"));
    uri.unwrap_or_else(|| panic!("no URI in {line:?}")).to_owned()
}

/// Runs publish at Kamailio, and who watches there is told: two runs of one name, each reached by its own GRUU.
#[test]
fn runs_come_and_go_at_kamailio() {
    for tcp in [false, true] {
        let world = World::new("presence-kamailio");
        let kamailio = Kamailio::start_presence(&world, &["alice", "bob"], free_port());
        let mut watch = peers(&world, &kamailio, tcp, "alice", &["--watch", "bob"]).start();
        let one = kamailio.run(&world, tcp, "bob", &["--publish", "Bob's world"], "static-echo");
        let one = serve(one, &["7000", "1"]);
        let came = watch.wait_for("+ bob  tcp/7000");
        assert!(came.ends_with("  Bob's world") && came.contains(";gr=urn:uuid:"), "{came}");
        let two = serve(kamailio.run(&world, tcp, "bob", &["--publish", "another"], "static-echo"), &["7000", "1"]);
        let also = watch.wait_for("another");
        let listed = peers(&world, &kamailio, tcp, "alice", &["bob"]).finish().success();
        assert_eq!(listed.stdout.lines().count(), 3, "{}", listed.stdout);
        for (server, line) in [(two, also), (one, came)] {
            let uri = uri_in(&line);
            let client = kamailio.run(&world, tcp, "alice", &["--to", &uri], "static-client");
            client.args([ANYWHERE, "7000"]).finish().success().says("echo: hello over SIP");
            server.wait().success().says("said 14 bytes");
            tests::until("the run is gone", || {
                let out = watch.stdout();
                out.lines().any(|line| line.starts_with("- ") && line.contains(&uri)).then_some(())
            });
        }
        watch.signal(Signal::SIGINT);
        watch.wait().success();
        kamailio.stop();
    }
}

/// A Kamailio that restarts has forgotten what is published and who watches; both come back by themselves.
#[test]
fn presence_is_back_after_a_restart() {
    for tcp in [false, true] {
        let world = World::new("presence-again");
        let port = free_port();
        let kamailio = Kamailio::start_presence(&world, &["alice", "bob"], port);
        let mut watch = peers(&world, &kamailio, tcp, "alice", &["--watch", "bob"]).start();
        let bob = serve(kamailio.run(&world, tcp, "bob", &["--publish", "Bob's world"], "static-echo"), &["7000"]);
        watch.wait_for("+ bob");
        kamailio.stop();
        let kamailio = Kamailio::start_presence(&world, &["alice", "bob"], port);
        tests::until("bob is shown by the new one", || {
            let listed = peers(&world, &kamailio, tcp, "alice", &["bob"]).finish();
            listed.stdout.contains("Bob's world").then_some(())
        });
        // The watcher hears of changes again.
        bob.stop();
        watch.wait_for("- bob  tcp/7000");
        watch.signal(Signal::SIGINT);
        watch.wait().success();
    }
}

/// What another server would show to everybody is not published there; the user is told.
#[test]
fn what_is_for_some_is_kept_back() {
    let world = World::new("presence-visible");
    let kamailio = Kamailio::start_presence(&world, &["alice", "bob"], free_port());
    let policy =
        "schema = 1\n[[bind]]\nport = 7000\npublish = \"for alice\"\nvisible-to = [\"sip:alice@sipbox.test\"]\n";
    let policy = world.write("policy.toml", policy).display().to_string();
    let mut bob = serve(kamailio.run(&world, false, "bob", &["--policy", &policy], "static-echo"), &["7000"]);
    bob.wait_for_err("the presence server does not decide by `visible-to`; so they are published to nobody");
    let listed = peers(&world, &kamailio, false, "alice", &["bob"]).finish().success();
    assert!(!listed.stdout.contains("for alice"), "{}", listed.stdout);
}

/// A user of a Kamailio watches a program that is published at a hub of sipbox, by a subscription that goes through both.
#[test]
fn users_of_kamailio_watch_programs_at_a_hub() {
    for tcp in [false, true] {
        let world = World::new("presence-neighbours");
        let kamailio = Kamailio::start_with_neighbours(&world, &["alice"]);
        let port = free_port();
        let mut hub = world.hub(port);
        let transport = if tcp { ";transport=tcp" } else { "" };
        let bob = format!("sip:bob@127.0.0.1:{port}{transport}");
        let mut watch = peers(&world, &kamailio, tcp, "alice", &["--watch", &bob]).start();
        hub.wait_for_err("SUBSCRIBE sip:bob@127.0.0.1");
        let registrar = format!("sip:127.0.0.1:{port}");
        let flags = ["--registrar", &registrar, "--as", "sip:bob@sipbox.invalid", "--publish", "Bob's world"];
        let server = serve(world.run(&flags, "static-echo"), &["7000"]);
        let came = watch.wait_for("tcp/7000");
        assert!(came.starts_with("+ ") && came.ends_with("  Bob's world"), "{came}");
        server.stop();
        watch.wait_for("- ");
        watch.signal(Signal::SIGINT);
        watch.wait().success();
    }
}

/// Users of a hub watch and call users of a Kamailio that is another domain, where DNS says that it is; and no other domain.
#[test]
fn users_of_a_hub_reach_another_domain() {
    let world = World::new("presence-foreign");
    let kamailio = Kamailio::start_with_guests(&world, &["bob"]);
    for tcp in [false, true] {
        let transport = if tcp { "tcp" } else { "udp" };
        // The first server that DNS names is silent, the second is not there.
        let silent = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let silent_too = std::net::TcpListener::bind(silent.local_addr().unwrap()).unwrap();
        let servers = [silent_too.local_addr().unwrap().port(), free_port(), kamailio.port()];
        let record = |(n, port)| format!("_sip._{transport}.sipbox.test. 60 IN SRV {n} 1 {port} one.sipbox.test.");
        let mut records: Vec<String> = servers.iter().enumerate().map(record).collect();
        records.push("one.sipbox.test. 60 IN A 127.0.0.1".to_owned());
        let dns = tests::Dns::start(&world, &records);
        let port = free_port();
        let (listen, dns) = (format!("127.0.0.1:{port}"), dns.address());
        let hub = world.sipbox(&["hub", "--listen", &listen, "--ladder", "--foreign", "sipbox.test", "--dns", &dns]);
        let mut hub = hub.start();
        hub.wait_for_err("sipbox hub: ready");
        let (registrar, bob) = (format!("sip:{listen};transport={transport}"), kamailio.aor("bob"));
        let alice = ["--registrar", &registrar, "--as", "sip:alice@sipbox.invalid"];
        let mut watch = world.sipbox(&["peers", "--watch"]).args(alice).arg(&bob).start();
        hub.wait_for_err("SUBSCRIBE sip:bob@sipbox.test");
        let server = serve(kamailio.run(&world, tcp, "bob", &["--publish", "Bob's world"], "static-echo"), &["7000"]);
        let came = watch.wait_for("tcp/7000");
        assert!(came.starts_with("+ ") && came.ends_with("  Bob's world"), "{came}");
        let call = |to: &str| {
            let flags = [&alice[..], &["--to", to]].concat();
            world.run(&flags, "static-client").args([ANYWHERE, "7000"]).finish()
        };
        call(&bob).success().says("echo: hello over SIP");
        // The GRUU that is published leads to the very run.
        call(&uri_in(&came)).success().says("echo: hello over SIP");
        for nowhere in ["sip:bob@another.test", "sip:bob@127.0.0.1:9", "sip:bob@192.0.2.1"] {
            call(nowhere).ended_with(3);
        }
        // Who is of another domain himself is not passed on.
        let socket = tests::sip::socket();
        let from = socket.local_addr().unwrap();
        let forged =
            tests::sip::request("OPTIONS", &bob, &bob, from, "").replace("tester@127.0.0.1", "eve@sipbox.test");
        let at = listen.parse().unwrap();
        let answer = tests::sip::ask(at, &forged, &socket).unwrap();
        assert_eq!(tests::sip::status(&answer), 403, "{answer}");
        server.stop();
        watch.wait_for("- ");
        watch.signal(Signal::SIGINT);
        watch.wait().success();
        hub.signal(Signal::SIGTERM);
        hub.wait().success();
    }
}

/// The same by TLS, in both directions: DNS leads to it by NAPTR and SRV, over servers that are not there, that are silent and that are somebody else; and
/// its users are let in where it shows its certificate, though the hub asks everybody else for a password.
#[test]
fn users_of_a_hub_and_of_another_domain_reach_each_other_by_tls() {
    let world = World::new("presence-foreign-tls");
    let kamailio = Kamailio::start_with_guests_by_tls(&world, &["bob"]);
    let authority = certificate::authority(&world).display().to_string();
    let (certificate, key) = certificate::issue(&world, "hub", "URI:sip:sipbox.invalid");
    let users = world.path("users").display().to_string();
    let add = world.sipbox(&["hub", "user", "--users", &users, "add", "alice"]);
    add.input("alice-secret\n").finish().success();
    // Connections are made to it, and nobody ever answers on them.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let somebody_else = World::new("presence-foreign-else");
    let other = Kamailio::start_tls(&somebody_else, &["eve"], "URI:sip:sipbox.test", false);
    let servers = [free_port(), silent.local_addr().unwrap().port(), other.tls_port(), kamailio.tls_port()];
    let mut records: Vec<String> = servers
        .iter()
        .enumerate()
        .map(|(n, port)| format!("_sips._tcp.sipbox.test. 60 IN SRV {n} 1 {port} one.sipbox.test."))
        .collect();
    records.push("sipbox.test. 60 IN NAPTR 10 10 \"s\" \"SIPS+D2T\" \"\" _sips._tcp.sipbox.test.".to_owned());
    records.push("sipbox.test. 60 IN NAPTR 20 10 \"s\" \"SIP+D2U\" \"\" _sip._udp.sipbox.test.".to_owned());
    records.push("one.sipbox.test. 60 IN A 127.0.0.1".to_owned());
    let name_server = tests::Dns::start(&world, &records);
    let dns = name_server.address();
    let [port, tls_port] = [free_port(), free_port()];
    let (listen, listen_tls) = (format!("127.0.0.1:{port}"), format!("127.0.0.1:{tls_port}"));
    let hub = world.sipbox(&["hub", "--ladder", "--listen", &listen, "--listen-tls", &listen_tls]);
    let hub = hub.args(["--foreign", "sipbox.test", "--foreign-ca", &authority, "--dns", &dns, "--users", &users]);
    let mut hub = hub.arg("--tls-certificate").arg(certificate).arg("--tls-key").arg(key).start();
    hub.wait_for_err("sipbox hub: ready");
    let registrar = format!("sip:{listen}");
    let alice = ["--registrar", &registrar, "--as", "sip:alice@sipbox.invalid"];
    let of_alice = |launch: Launch| launch.env("SIPBOX_PASSWORD", "alice-secret");
    let bob = kamailio.aor("bob");
    let server = serve(kamailio.run(&world, true, "bob", &["--publish", "Bob's world"], "static-echo"), &["7000", "3"]);
    let mut watch = of_alice(world.sipbox(&["peers", "--watch"]).args(alice).arg(&bob)).start();
    let came = watch.wait_for("tcp/7000");
    assert!(came.starts_with("+ ") && came.ends_with("  Bob's world"), "{came}");
    for to in [&bob, &uri_in(&came)] {
        let flags = [&alice[..], &["--to", to]].concat();
        let call = of_alice(world.run(&flags, "static-client"));
        call.args([ANYWHERE, "7000"]).finish().success().says("echo: hello over SIP");
    }
    // All of it went by TLS, to the one that is the domain.
    let way = format!("{listen_tls} --> 127.0.0.1:{}  INVITE sip:bob@sipbox.test", kamailio.tls_port());
    assert_eq!(hub.stderr().matches(&way).count(), 2, "{}", hub.stderr());
    // The other way.
    let flags = [&alice[..], &["--publish", "Alice's world"]].concat();
    let hers = serve(of_alice(world.run(&flags, "static-echo")), &["7001", "1"]);
    let there = format!("sip:alice@{listen_tls};transport=tls");
    let mut watches = peers(&world, &kamailio, true, "bob", &["--watch", &there]).start();
    assert!(watches.wait_for("tcp/7001").ends_with("  Alice's world"));
    let call = kamailio.run(&world, true, "bob", &["--to", &there], "static-client");
    call.args([ANYWHERE, "7001"]).finish().success().says("echo: hello over SIP");
    hers.wait().success();
    watches.wait_for("- ");
    server.stop();
    watch.wait_for("- ");
    for watch in [watch, watches] {
        watch.signal(Signal::SIGINT);
        watch.wait().success();
    }
    hub.signal(Signal::SIGTERM);
    hub.wait().success();
    drop(silent);
}

/// The operator of a Kamailio removes a registration: the run hears of it, and is registered again at once.
#[test]
fn what_kamailio_removes_comes_back() {
    for tcp in [false, true] {
        let world = World::new("presence-reg");
        let kamailio = Kamailio::start_telling_registrations(&world, &["alice", "bob"]);
        let mut bob = serve(kamailio.run(&world, tcp, "bob", &["--ladder"], "static-echo"), &["7000"]);
        bob.wait_for_err("NOTIFY sip:bob@");
        for times in 1..=3 {
            kamailio.remove(&world, "bob");
            let registered = || {
                let said = bob.stderr();
                let lost = said.matches("has ended it (unregistered); it is tried again").count();
                (lost == times && said.matches("sipbox: registered as").count() == times).then_some(())
            };
            tests::until("bob has heard of it, and is registered again", registered);
            let call = || {
                let call = kamailio.run(&world, tcp, "alice", &["--to", &kamailio.aor("bob")], "static-client");
                call.args([ANYWHERE, "7000"])
            };
            call().finish().success().says("echo: hello over SIP");
        }
        bob.stop();
    }
}

/// An IMS-like registrar: all requests go by its Service-Route, and P-Associated-URI is sign enough to ask what becomes of the registration.
#[test]
fn a_registrar_like_an_ims() {
    for tcp in [false, true] {
        let world = World::new("presence-ims");
        let kamailio = Kamailio::start_like_ims(&world, &["alice", "bob"]);
        let flags = ["--ladder", "--publish", "Bob's world"];
        let mut bob = serve(kamailio.run(&world, tcp, "bob", &flags, "static-echo"), &["7000"]);
        bob.wait_for_err("NOTIFY sip:bob@");
        tests::until("bob is published", || {
            let said = bob.stderr();
            said.lines()
                .any(|line| line.contains("<-- ") && line.contains("200 OK") && line.ends_with("PUBLISH]"))
                .then_some(())
        });
        let call = kamailio.run(&world, tcp, "alice", &["--to", &kamailio.aor("bob")], "static-client");
        call.args([ANYWHERE, "7000"]).finish().success().says("echo: hello over SIP");
        // Who only asks registers for as long as that takes: it is refused before.
        let ask = |command: &str, password: &str| {
            let (registrar, aor) = (kamailio.registrar(tcp), kamailio.aor("alice"));
            let ask = world.sipbox(&[command, "--ladder", "--registrar", &registrar, "--as", &aor, "bob"]);
            ask.env("SIPBOX_PASSWORD", password)
        };
        let listed = ask("peers", "alice-secret").finish().success();
        assert!(listed.stdout.contains("Bob's world"), "{}", listed.stdout);
        ask("ping", "alice-secret").args(["-c", "1"]).finish().success().says("1 of 1 round trips");
        tests::until("alice is registered no more", || (!kamailio.bindings(&world).contains("alice")).then_some(()));
        for command in ["peers", "ping"] {
            let refused = ask(command, "wrong").finish().ended_with(1);
            let why = refused.stderr.lines().find(|line| line.contains("cannot register sip:alice@"));
            assert!(why.is_some_and(|why| why.contains("check the name sip:alice@")), "{}", refused.stderr);
            let tried = refused.stderr.lines().filter(|line| line.contains("--> ")).count();
            assert_eq!(tried, 2, "a challenge is answered once: {}", refused.stderr);
        }
        let mut watch = ask("peers", "alice-secret").arg("--watch").start();
        watch.wait_for("+ bob");
        kamailio.remove(&world, "alice");
        tests::until("alice is registered again", || kamailio.bindings(&world).contains("alice").then_some(()));
        kamailio.remove(&world, "bob");
        bob.wait_for_err("has ended it (unregistered); it is tried again");
        bob.wait_for_err("sipbox: registered as");
        bob.stop();
        watch.wait_for("- bob");
        watch.signal(Signal::SIGINT);
        watch.wait().success();
        // A run under the name of who asks might be thrown out by that, so it is not done.
        let alice = serve(kamailio.run(&world, tcp, "alice", &[], "static-echo"), &["7001", "1"]);
        for command in ["peers", "ping"] {
            let refused = ask(command, "alice-secret").finish().ended_with(1);
            for words in ["403 Not By The Service Route", "sip:alice@sipbox.test is registered at", "(--as)"] {
                assert!(refused.stderr.contains(words), "{words}: {}", refused.stderr);
            }
        }
        let call = kamailio.run(&world, tcp, "bob", &["--to", &kamailio.aor("alice")], "static-client");
        call.args([ANYWHERE, "7001"]).finish().success().says("echo: hello over SIP");
        alice.wait().success();
        // It does refuse what comes by another way.
        let socket = tests::sip::socket();
        let from = socket.local_addr().unwrap();
        let invite = tests::sip::request("INVITE", &kamailio.aor("bob"), &kamailio.aor("bob"), from, "");
        let answer = tests::sip::ask(kamailio.address(), &invite, &socket).unwrap();
        assert!(answer.contains("403 Not By The Service Route"), "{answer}");
    }
}

/// A registrar that keeps one contact a name: the run's stays, whoever asks under its name.
#[test]
fn a_registrar_that_keeps_one_contact_a_name() {
    for tcp in [false, true] {
        let world = World::new("presence-one");
        let kamailio = Kamailio::start_with_one_contact(&world, &["alice", "bob", "carol"]);
        let bob = serve(kamailio.run(&world, tcp, "bob", &["--publish", "Bob's world"], "static-echo"), &["7000"]);
        let alice = serve(kamailio.run(&world, tcp, "alice", &["--ladder"], "static-echo"), &["7001"]);
        let contact = || {
            let all = kamailio.bindings(&world);
            let of_alice =
                all.lines().filter(|line| line.contains("Address: sip:alice@")).map(|line| line.trim().to_owned());
            of_alice.collect::<Vec<_>>()
        };
        let is_reached = || {
            let call = kamailio.run(&world, tcp, "carol", &["--to", &kamailio.aor("alice")], "static-client");
            call.args([ANYWHERE, "7001"]).finish().success().says("echo: hello over SIP");
        };
        let first = contact();
        assert_eq!(first.len(), 1, "{first:?}");
        let mut watch = peers(&world, &kamailio, tcp, "alice", &["--watch", "bob"]).start();
        watch.wait_for("+ bob");
        assert_eq!(contact(), first);
        let listed = peers(&world, &kamailio, tcp, "alice", &["bob"]).finish().success();
        assert!(listed.stdout.contains("Bob's world"), "{}", listed.stdout);
        assert_eq!(contact(), first);
        let (registrar, aor) = (kamailio.registrar(tcp), kamailio.aor("alice"));
        let ping = world.sipbox(&["ping", "-c", "1", "--registrar", &registrar, "--as", &aor, "bob"]);
        let ping = ping.env("SIPBOX_PASSWORD", Kamailio::password("alice"));
        ping.finish().success().says("1 of 1 round trips");
        is_reached();
        bob.stop();
        watch.wait_for("- bob");
        watch.signal(Signal::SIGINT);
        watch.wait().success();
        assert_eq!(contact(), first);
        is_reached();
        assert!(!alice.stderr().contains("has ended it"), "{}", alice.stderr());
        // It does keep one only.
        let _next = serve(kamailio.run(&world, tcp, "alice", &[], "static-echo"), &["7002"]);
        let after = contact();
        assert!(after.len() == 1 && after != first, "{after:?}");
    }
}

/// A registrar that does no presence, and one that has no list of everybody.
#[test]
fn registrars_without_presence_are_explained() {
    let world = World::new("presence-none");
    let kamailio = Kamailio::start(&world, tests::Algorithm::Md5, &["alice", "bob"]);
    let bob = kamailio.run(&world, false, "bob", &["--publish", "Bob's world"], "static-echo");
    let mut bob = serve(bob, &["7000"]);
    let said = bob.wait_for_err("peers are not told of the sockets of sip:bob@sipbox.test");
    assert!(said.contains("the program can be called all the same"), "{said}");
    peers(&world, &kamailio, false, "alice", &[]).finish().ended_with(1).explains(&["say whom to look for"]);
}
