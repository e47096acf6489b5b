#![forbid(unsafe_code)]
//! The commands that sipbox is shown with, as a person types them.

use tests::{Algorithm, Kamailio, World, free_port, servers};

#[test]
fn any_address_leads_to_echo() {
    let world = World::new("show-static");
    // sipbox run --as echo -- ./static-echo 7000 &
    let mut server = world.run(&["--as", "echo"], "static-echo").arg("7000").start();
    server.wait_for("listening on 0.0.0.0:7000");
    // sipbox run --to echo -- ./static-client 198.18.0.9 7000
    let client = world.run(&["--to", "echo"], "static-client").args(["198.18.0.9", "7000"]).finish().success();
    client.says("peer 198.18.0.9:7000").says("echo: hello over SIP");
    server.wait_for("said 14 bytes");
}

#[test]
fn trace_and_map_with_nginx_and_curl() {
    let world = World::new("show-web");
    world.make_dir("www", 0o755);
    world.write("www/index.html", "hello over SIP\n");
    let server = servers::nginx(&world, world.run(&["--trace", "--as", "web"], "nginx"), free_port());
    let curl = world.run(&["--trace", "--map", "web.test:80=web"], "curl").args(["-sS", "http://web.test/"]);
    let curl = curl.finish().success();
    assert_eq!(curl.stdout, "hello over SIP\n", "the trace does not touch standard output");
    let client = curl.stderr;
    assert!(client.lines().any(|l| l.contains("connect") && l.contains(":80")), "no connect in the trace:\n{client}");
    let trace = server.stderr();
    // In a network of its own the program binds and accepts natively.
    let traced = if tests::direct_flows() { &["bind", "listen", "accept"][..] } else { &["listen"] };
    for call in traced {
        assert!(trace.lines().any(|l| l.contains(call)), "no {call} in the trace:\n{trace}");
    }
}

#[test]
fn the_ladder() {
    let world = World::new("show-ladder");
    let port = free_port().to_string();
    let mut server = world.run(&["--ladder", "--as", "echo"], "static-echo").args([&port, "1"]).start();
    server.wait_for("listening on");
    let flags = ["--ladder", "--as", "alice", "--to", "echo"];
    let client = world.run(&flags, "static-client").args(["198.18.0.9", &port]).finish().success();
    let server = server.wait().success();
    for (who, ladder) in [("client", &client.stderr), ("server", &server.stderr)] {
        for message in ["INVITE", "200", "ACK", "BYE"] {
            assert!(ladder.contains(message), "no {message} in the ladder of the {who}:\n{ladder}");
        }
    }
    assert!(server.stderr.contains("REGISTER"), "{}", server.stderr);
}

#[test]
fn bare_names_at_a_hub_in_the_foreground() {
    let world = World::new("show-hub");
    let (hub_port, port) = (free_port(), free_port().to_string());
    let mut hub = world.hub(hub_port);
    for transport in ["", ";transport=tcp"] {
        let registrar = format!("sip:127.0.0.1:{hub_port}{transport}");
        let flags = ["--registrar", &registrar, "--as", "echo"];
        let mut server = world.run(&flags, "static-echo").args([&port, "1"]).start();
        server.wait_for("listening on");
        let flags = ["--registrar", &registrar, "--to", "echo"];
        world.run(&flags, "static-client").args(["198.18.0.9", &port]).finish().success().says("echo: hello over SIP");
        server.wait().success();
    }
    for message in ["REGISTER", "INVITE", "200", "ACK", "BYE"] {
        hub.wait_for_err(message);
    }
    assert_eq!(hub.stop().stdout, "");
}

#[test]
fn doctor() {
    let world = World::new("show-doctor");
    let doctor = world.sipbox(&["doctor"]).finish().success();
    assert!(doctor.stdout.lines().count() > 5, "{}", doctor.stdout);
}

#[test]
fn help_and_version() {
    let world = World::new("show-help");
    let help = world.sipbox(&["--help"]).finish().success();
    for word in ["run", "hub", "doctor"] {
        assert!(help.stdout.contains(word), "{}", help.stdout);
    }
    let run = world.sipbox(&["run", "--help"]).finish().success();
    for flag in ["--as", "--to", "--map", "--registrar", "--policy", "--trace", "--ladder"] {
        assert!(run.stdout.contains(flag), "no {flag} in\n{}", run.stdout);
    }
    world.sipbox(&["--version"]).finish().success().says("sipbox");
}

#[test]
fn the_same_pair_on_kamailio_with_a_password() {
    let world = World::new("show-kamailio");
    let kamailio = Kamailio::start(&world, Algorithm::Md5, &["alice", "bob"]);
    let mut server = kamailio.run(&world, false, "bob", &[], "static-echo").args(["7000", "1"]).start();
    server.wait_for("listening on");
    let to = kamailio.aor("bob");
    let client = kamailio.run(&world, false, "alice", &["--to", &to], "static-client").args(["198.18.0.9", "7000"]);
    client.finish().success().says("echo: hello over SIP");
    server.wait().success();
}
