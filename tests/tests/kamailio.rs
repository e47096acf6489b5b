#![forbid(unsafe_code)]
//! Program pairs over a real Kamailio with digest authentication, each with an identity and a password of its own.

use std::time::Duration;

use tests::{Algorithm, Kamailio, Process, World, free_port, servers};

const ANYWHERE: &str = "198.18.0.9";

/// A world with a Kamailio that knows `alice` (who calls) and `bob` (who is called).
struct Scene {
    kamailio: Kamailio,
    world: World,
    tcp: bool,
}

impl Scene {
    fn new(name: &str, algorithm: Algorithm, tcp: bool) -> Scene {
        let world = World::new(name);
        let kamailio = Kamailio::start(&world, algorithm, &["alice", "bob"]);
        Scene { kamailio, world, tcp }
    }

    fn serve(&self, program: &str, args: &[&str]) -> Process {
        let mut server = self.kamailio.run(&self.world, self.tcp, "bob", &[], program).args(args).start();
        server.wait_for("listening on");
        server
    }

    fn call(&self, program: &str) -> tests::Launch {
        self.kamailio.run(&self.world, self.tcp, "alice", &["--to", &self.kamailio.aor("bob")], program)
    }
}

fn static_pair(name: &str, algorithm: Algorithm, tcp: bool) {
    let scene = Scene::new(name, algorithm, tcp);
    let port = free_port().to_string();
    let server = scene.serve("static-echo", &[&port, "2"]);
    scene.call("static-client").args([ANYWHERE, &port]).finish().success().says("echo: hello over SIP");
    scene.call("static-client").args([ANYWHERE, &port, "@1000000"]).finish().success();
    server.wait().success().says("said 14 bytes").says("said 1000000 bytes");
    scene.kamailio.stop();
}

#[test]
fn static_pair_md5_udp() {
    static_pair("kamailio-md5-udp", Algorithm::Md5, false);
}

#[test]
fn static_pair_md5_tcp() {
    static_pair("kamailio-md5-tcp", Algorithm::Md5, true);
}

#[test]
fn static_pair_sha256_udp() {
    static_pair("kamailio-sha-udp", Algorithm::Sha256, false);
}

#[test]
fn static_pair_sha256_tcp() {
    static_pair("kamailio-sha-tcp", Algorithm::Sha256, true);
}

#[test]
fn epoll_pair() {
    let scene = Scene::new("kamailio-epoll", Algorithm::Md5, false);
    let port = free_port().to_string();
    let server = scene.serve("epoll-server", &[&port, "20"]);
    for mode in ["lt", "et"] {
        scene.call("epoll-client").args([ANYWHERE, &port, mode, "10", "50000"]).finish().success().says("all as sent");
    }
    server.wait().success();
}

#[test]
fn udp_pair() {
    let scene = Scene::new("kamailio-udp", Algorithm::Md5, false);
    let port = free_port().to_string();
    let server = scene.serve("udp-server", &[&port, "3"]);
    for mode in ["connected", "unconnected"] {
        scene.call("udp-client").args([mode, ANYWHERE, &port, "50"]).finish().success();
    }
    scene.call("udp-client").args(["calls", ANYWHERE, &port]).finish().success();
    server.wait().success();
}

#[test]
fn redis() {
    let scene = Scene::new("kamailio-redis", Algorithm::Sha256, true);
    let port = free_port();
    let launch = scene.kamailio.run(&scene.world, true, "bob", &[], "redis-server");
    let _server = servers::redis(launch, port);
    let port = port.to_string();
    let to = ["-h", ANYWHERE, "-p", &port];
    scene.call("redis-cli").args(to).args(["SET", "k", "over Kamailio"]).finish().success().says("OK");
    scene.call("redis-cli").args(to).args(["GET", "k"]).finish().success().says("over Kamailio");
    let bench = scene.call("redis-benchmark").args(to).args(["-c", "50", "-n", "5000", "-t", "get", "-q"]);
    bench.finish_within(Duration::from_secs(60)).success().says("GET");
}

#[test]
fn nginx_and_curl() {
    let scene = Scene::new("kamailio-nginx", Algorithm::Md5, false);
    scene.world.make_dir("www", 0o755);
    scene.world.write("www/hello", "hello over Kamailio\n");
    let launch = scene.kamailio.run(&scene.world, false, "bob", &[], "nginx");
    let _server = servers::nginx(&scene.world, launch, free_port());
    let map = format!("web.test:80={}", scene.kamailio.aor("bob"));
    let curl = scene.kamailio.run(&scene.world, false, "alice", &["--map", &map], "curl");
    let page = curl.args(["-sS", "--fail", "http://web.test/hello"]).finish().success();
    assert_eq!(page.stdout, "hello over Kamailio\n");
}

#[test]
fn wrong_password() {
    let scene = Scene::new("kamailio-password", Algorithm::Md5, false);
    let port = free_port().to_string();
    let _server = scene.serve("static-echo", &[&port]);
    let client = scene.call("static-client").args([ANYWHERE, &port]).env("SIPBOX_PASSWORD", "wrong").finish();
    let client = client.ended_with(3).complains("EACCES").complains("sipbox:");
    assert!(!client.stderr.contains("wrong"), "the password is in what sipbox says:\n{}", client.stderr);
}

#[test]
fn nobody_there() {
    let scene = Scene::new("kamailio-nobody", Algorithm::Md5, false);
    let client = scene.call("static-client").args([ANYWHERE, "7000"]).finish();
    client.ended_with(3).complains("EHOSTUNREACH").explains(&["bob"]);
}

#[test]
fn kamailio_gone() {
    let scene = Scene::new("kamailio-gone", Algorithm::Md5, false);
    let Scene { kamailio, world, .. } = scene;
    let client = kamailio.run(&world, false, "alice", &["--to", &kamailio.aor("bob")], "static-client");
    kamailio.stop();
    let client = client.args([ANYWHERE, "7000"]).finish_within(Duration::from_secs(60));
    client.ended_with(3).complains("ENETUNREACH").complains("sipbox:");
}

/// All requests go through a second Kamailio, by Path and Route. It keeps no flows, so the registrar refuses outbound at first (439).
#[test]
fn through_an_edge_proxy() {
    for tcp in [false, true] {
        let world = World::new("kamailio-edge");
        let registrar = Kamailio::start(&world, Algorithm::Sha256, &["alice", "bob"]);
        let edge = registrar.edge(&world);
        let port = free_port().to_string();
        let server = edge.run(&world, tcp, "bob", &["--ladder"], "static-echo").args([&port, "2"]);
        let mut server = server.start();
        server.wait_for("listening on");
        for _ in 0..2 {
            let client = edge.run(&world, tcp, "alice", &["--ladder", "--to", &edge.aor("bob")], "static-client");
            client.args([ANYWHERE, &port]).finish().success().says("echo: hello over SIP");
        }
        let server = server.wait().success();
        assert!(server.stderr.contains("439 First Hop Lacks Outbound Support"), "{}", server.stderr);
    }
}

/// Its bindings are in memory: a Kamailio that restarts has forgotten all. Nobody tells, over UDP; over TCP the connection ends.
#[test]
fn registrations_are_back_after_a_restart() {
    for tcp in [false, true] {
        let world = World::new("kamailio-again");
        let kamailio = Kamailio::start(&world, Algorithm::Md5, &["alice", "bob"]);
        let registrar = kamailio.address().port();
        let port = free_port().to_string();
        let mut server = kamailio.run(&world, tcp, "bob", &[], "static-echo").arg(&port).start();
        server.wait_for("listening on");
        kamailio.stop();
        let kamailio = Kamailio::start_on(&world, Algorithm::Md5, &["alice", "bob"], registrar);
        let limit = Duration::from_secs(if tcp { 8 } else { 24 });
        let call = || {
            let client = kamailio.run(&world, tcp, "alice", &["--to", &kamailio.aor("bob")], "static-client");
            (client.args([ANYWHERE, &port]).finish().code() == 0).then_some(())
        };
        assert!(tests::within(limit, call).is_some(), "not reachable {limit:?} after the restart, tcp: {tcp}");
    }
}
