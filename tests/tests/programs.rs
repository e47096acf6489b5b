#![forbid(unsafe_code)]
//! Real programs, unchanged, both ends under `sipbox run` with identities of their own, over the embedded hub.

use std::fs;
use std::time::Duration;

use nix::sys::signal::Signal;
use tests::{Process, World, direct_flows, free_port, servers};

/// Any address leads to the peer of `--to`: this one is nobody's.
const ANYWHERE: &str = "198.18.0.9";
const ANYWHERE_V6: &str = "2001:db8::9";

/// A test program as a server: `sipbox run --as NAME -- PROGRAM ARGS`, listening.
fn serve(world: &World, name: &str, program: &str, args: &[&str]) -> Process {
    let mut server = world.run(&["--as", name], program).args(args).start();
    server.wait_for("listening on");
    server
}

#[test]
fn static_pair() {
    let world = World::new("static-pair");
    let port = free_port().to_string();
    let server = serve(&world, "echo", "static-echo", &[&port, "2"]);
    let done = world.run(&["--to", "echo"], "static-client").args([ANYWHERE, &port]).finish().success();
    let done = done.says("echo: hello over SIP").says(&format!("peer {ANYWHERE}:{port}"));
    let local = done.stdout.lines().find_map(|l| l.strip_prefix("local ")).unwrap().to_owned();
    let bulk = world.run(&["--to", "echo"], "static-client").args([ANYWHERE, &port, "@3000000"]).finish().success();
    bulk.says("echo: 3000000 bytes, all as sent");
    let server = server.wait().success();
    // The server sees the client under the address that the client sees itself under.
    server.says(&format!("peer {local} said 14 bytes")).says("said 3000000 bytes");
}

#[test]
fn static_pair_with_the_client_named_too() {
    let world = World::new("static-named");
    let port = free_port().to_string();
    let server = serve(&world, "echo", "static-echo", &[&port, "1"]);
    let client = world.run(&["--as", "alice", "--to", "echo"], "static-client").args([ANYWHERE, &port, "it is me"]);
    client.finish().success().says("echo: it is me");
    server.wait().success();
}

#[test]
fn two_servers_on_one_port() {
    let world = World::new("two-servers");
    let port = free_port().to_string();
    let one = serve(&world, "one", "static-echo", &[&port, "1"]);
    let two = serve(&world, "two", "static-echo", &[&port, "1"]);
    let maps = [format!("one.test:{port}=one"), format!("two.test:{port}=two")];
    let flags = ["--map", &maps[0], "--map", &maps[1]];
    world.run(&flags, "static-client").args(["two.test", &port, "for two"]).finish().success();
    assert!(!two.wait().success().stdout.is_empty());
    world.run(&flags, "static-client").args(["one.test", &port, "for number one"]).finish().success();
    one.wait().success().says("said 14 bytes");
}

#[test]
fn an_address_can_be_mapped() {
    let world = World::new("map-address");
    let port = free_port().to_string();
    let server = serve(&world, "echo", "static-echo", &[&port, "1"]);
    let map = format!("203.0.113.7:{port}=echo");
    world.run(&["--map", &map], "static-client").args(["203.0.113.7", &port]).finish().success();
    server.wait().success();
}

#[test]
fn a_name_that_is_not_mapped_does_not_exist() {
    let world = World::new("nxdomain");
    let map = ["--map", "web.test:80=web"];
    world.run(&map, "static-client").args(["other.test", "80"]).finish().ended_with(4).complains("resolve other.test");
}

#[test]
fn the_loopback_of_a_run_is_its_own() {
    let world = World::new("loopback");
    let port = free_port().to_string();
    // A listener on 127.0.0.1 is not published, whatever the name of the run ...
    let mut private = world.run(&["--as", "echo"], "static-echo").args([&port, "0", "127.0.0.1"]).start();
    private.wait_for(&format!("listening on 127.0.0.1:{port}"));
    world.run(&["--to", "echo"], "static-client").args([ANYWHERE, &port]).finish().ended_with(3);
    // ... nor seen by another run, which may use the same port ...
    let both = "\"$1\" $0 1 & until \"$2\" 127.0.0.1 $0 'within one run'; do sleep 0.05; done; wait";
    let inside = world.run(&[], "sh").args(["-c", both, &port]);
    let inside = inside.arg(world.program("static-echo")).arg(world.program("static-client"));
    inside.finish().success().says("echo: within one run").says("peer 127.0.0.1:");
    // ... and nothing on the machine's own loopback is reachable.
    let native = free_port().to_string();
    let mut outside = world.native("static-echo").args([&native, "1"]).start();
    outside.wait_for("listening on");
    let client = world.run(&[], "static-client").args(["127.0.0.1", &native]).finish();
    client.ended_with(3).complains("ECONNREFUSED");
}

/// The established IPv4 connections of the system: inode, local address, remote address, as /proc/net/tcp has them.
fn connections() -> Vec<(String, String, String)> {
    let table = fs::read_to_string("/proc/net/tcp").expect("the table of TCP sockets");
    let row = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        (fields.get(3) == Some(&"01")).then(|| (fields[9].to_owned(), fields[1].to_owned(), fields[2].to_owned()))
    };
    table.lines().skip(1).filter_map(row).collect()
}

/// The inodes of a process's sockets.
fn sockets_of(pid: u32) -> Vec<String> {
    let entries = fs::read_dir(format!("/proc/{pid}/fd")).expect("the descriptors of a process").flatten();
    let target = |e: fs::DirEntry| fs::read_link(e.path()).ok()?.to_str().map(str::to_owned);
    entries.filter_map(target).filter_map(|t| Some(t.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned())).collect()
}

#[test]
fn the_programs_sockets_are_connected_to_each_other() {
    if !direct_flows() {
        return eprintln!("in a network of the program's own there is a relay between");
    }
    let world = World::new("direct");
    let port = free_port().to_string();
    let mut server = world.run(&["--flow", "auto", "--as", "held"], "hold").args(["serve", &port]).start();
    server.wait_for("listening on");
    let mut client =
        world.run(&["--flow", "auto", "--to", "held"], "hold").args(["3", "connected", ANYWHERE, &port]).talk().start();
    client.wait_for("holding 0");
    client.say("now\n");
    client.wait_for("holding 3");
    let ours = sockets_of(client.child_named("hold"));
    let theirs = sockets_of(server.child_named("hold"));
    let all = connections();
    let pairs = all.iter().filter(|(inode, local, remote)| {
        ours.contains(inode) && all.iter().any(|(i, l, r)| theirs.contains(i) && l == remote && r == local)
    });
    assert_eq!(pairs.count(), 3, "no byte is to pass through a supervisor\n{all:?}\n{ours:?}\n{theirs:?}");
    // And no supervisor keeps a duplicate of a connection, or the other side would never see the end.
    if nix::unistd::getuid().is_root() {
        let theirs_or_ours = |s: &String| ours.contains(s) || theirs.contains(s);
        for supervisor in [client.pid(), server.pid()] {
            let kept = sockets_of(supervisor).into_iter().filter(theirs_or_ours);
            let kept = kept.filter(|s| all.iter().any(|(inode, ..)| inode == s)).count();
            assert_eq!(kept, 0, "a supervisor keeps connections of its program");
        }
    }
}

#[test]
fn epoll_pair_level_and_edge() {
    let world = World::new("epoll");
    let port = free_port().to_string();
    let server = serve(&world, "echo", "epoll-server", &[&port, "41"]);
    for (mode, sockets, bytes) in [("lt", "20", "20000"), ("et", "20", "200000"), ("et", "1", "5000000")] {
        let client =
            world.run(&["--to", "echo"], "epoll-client").args([ANYWHERE, &port, mode, sockets, bytes]).finish();
        client.success().says("all as sent");
    }
    server.wait().success().says("served all");
}

#[test]
fn epoll_client_hears_of_a_refusal() {
    let world = World::new("epoll-refused");
    let port = free_port().to_string();
    // A peer that is there, but has no stream socket that listens.
    let _peer = serve(&world, "echo", "udp-server", &[&port]);
    for mode in ["lt", "et"] {
        let client = world.run(&["--to", "echo"], "epoll-client").args([ANYWHERE, &port, mode, "1"]).finish();
        client.ended_with(3).complains("ECONNREFUSED");
        let client = world.run(&["--to", "nobody"], "epoll-client").args([ANYWHERE, &port, mode, "1"]).finish();
        client.ended_with(3).complains("EHOSTUNREACH");
    }
}

#[test]
fn epoll_server_static_client_and_the_other_way() {
    let world = World::new("epoll-mixed");
    let (a, b) = (free_port().to_string(), free_port().to_string());
    let nonblocking = serve(&world, "nonblocking", "epoll-server", &[&a, "1"]);
    let blocking = serve(&world, "blocking", "static-echo", &[&b, "1"]);
    world.run(&["--to", "nonblocking"], "static-client").args([ANYWHERE, &a, "@100000"]).finish().success();
    world.run(&["--to", "blocking"], "epoll-client").args([ANYWHERE, &b, "et", "1", "1000"]).finish().success();
    nonblocking.wait().success();
    blocking.wait().success();
}

#[test]
fn busybox_httpd_and_wget() {
    let world = World::new("busybox-http");
    let port = free_port().to_string();
    let www = world.make_dir("www", 0o755);
    let page: String = (0..40_000).map(|i| format!("line {i}\n")).collect();
    world.write("www/page.txt", &page);
    let server = world.run(&["--as", "web", "--trace"], "busybox").args(["httpd", "-f", "-p", &port, "-h"]).arg(&www);
    let mut server = server.start();
    server.wait_for_err("listen");
    let url = format!("http://{ANYWHERE}:{port}/page.txt");
    let got = world.run(&["--to", "web"], "busybox").args(["wget", "-q", "-O", "-", &url]).finish().success();
    assert_eq!(got.stdout, page);
    let missing = format!("http://{ANYWHERE}:{port}/missing");
    world.run(&["--to", "web"], "busybox").args(["wget", "-q", "-O", "-", &missing]).finish().ended_with(1);
}

#[test]
fn busybox_nc() {
    let world = World::new("busybox-nc");
    let port = free_port().to_string();
    let server = world.run(&["--as", "chat", "--trace"], "busybox").args(["nc", "-l", "-p", &port]);
    let mut server = server.talk().start();
    server.wait_for_err("listen");
    let mut client = world.run(&["--to", "chat"], "busybox").args(["nc", ANYWHERE, &port]).talk().start();
    client.say("from the client\n");
    server.wait_for("from the client");
    server.say("from the server\n");
    client.wait_for("from the server");
    // The end of the client's input ends one direction; the server then ends, and so does the client.
    client.hang_up();
    assert_eq!(server.wait().success().stdout, "from the client\n");
    assert_eq!(client.wait().success().stdout, "from the server\n");
}

#[test]
fn go_pair() {
    let world = World::new("go");
    let port = free_port().to_string();
    // ":PORT" in Go is a dual-stack listener, asked for with MPTCP.
    let _server = serve(&world, "web", "go-http-server", &[&port]);
    for (flag, value, host) in [
        ("--to", "web".to_owned(), ANYWHERE.to_owned()),
        ("--to", "web".to_owned(), format!("[{ANYWHERE_V6}]")),
        ("--map", format!("web.test:{port}=web"), "web.test".to_owned()),
    ] {
        let url = format!("http://{host}:{port}");
        let client =
            world.run(&[flag, &value], "go-http-client").args([&url, "50", "6"]).finish_within(Duration::from_secs(60));
        client.success().says("300 requests answered, 0 failed");
    }
}

#[test]
fn redis() {
    let world = World::new("redis");
    let port = free_port();
    let server = servers::redis(world.run(&["--as", "redis"], "redis-server"), port);
    let port = port.to_string();
    let to = ["-h", ANYWHERE, "-p", &port];
    let cli = |args: &[&str]| world.run(&["--to", "redis"], "redis-cli").args(to).args(args).finish().success().stdout;
    assert_eq!(cli(&["SET", "greeting", "hello over SIP"]), "OK\n");
    assert_eq!(cli(&["GET", "greeting"]), "hello over SIP\n");
    let commands = "INCR n\nINCR n\nINCR n\n";
    let piped = world.run(&["--to", "redis"], "redis-cli").args(to).input(commands).finish().success();
    assert_eq!(piped.stdout, "1\n2\n3\n");
    let bench = world.run(&["--to", "redis"], "redis-benchmark").args(to).args(["-c", "50", "-P", "1", "-n", "20000"]);
    let bench = bench.args(["-t", "get,set", "--csv"]).finish_within(Duration::from_secs(60)).success();
    assert_eq!(bench.stdout.lines().filter(|l| l.starts_with("\"GET\"") || l.starts_with("\"SET\"")).count(), 2);
    world.run(&["--to", "redis"], "redis-cli").args(to).args(["SHUTDOWN", "NOSAVE"]).finish();
    server.wait().success();
}

#[test]
fn nginx_and_curl() {
    let world = World::new("nginx");
    let port = free_port();
    let big: Vec<u8> = (0..10_000_000_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    world.make_dir("www", 0o755);
    world.write("www/hello", "hello over SIP\n");
    world.write("www/big", &big);
    let server = servers::nginx(&world, world.run(&["--as", "web"], "nginx"), port);
    // The client asks for port 80; the peer has one TCP listener, whatever its port.
    let map = ["--map", "web.test:80=web"];
    let page = world.run(&map, "curl").args(["-sS", "--fail", "http://web.test/hello"]).finish().success();
    assert_eq!(page.stdout, "hello over SIP\n");
    let out = world.path("downloaded");
    let many = world.run(&map, "curl").args(["-sS", "--fail", "--parallel", "-o"]).arg(&out).arg("http://web.test/big");
    let many = many.args(["-o", "/dev/null", "http://web.test/big", "-o", "/dev/null", "http://web.test/hello"]);
    many.finish().success();
    assert!(fs::read(out).unwrap() == big, "10 MB came as other bytes");
    let missing = world.run(&map, "curl").args(["-sS", "--fail", "http://web.test/missing"]).finish();
    missing.ended_with(22);
    server.stop().success();
    let log = fs::read_to_string(world.path("nginx/access.log")).unwrap();
    assert_eq!(log.matches("\"GET /big HTTP/1.1\" 200").count(), 2, "{log}");
}

#[test]
fn nginx_on_port_80() {
    let world = World::new("nginx-80");
    world.make_dir("www", 0o755);
    world.write("www/hello", "hello over SIP\n");
    // Ports below 1024 are virtual: no privilege is needed.
    let _server = servers::nginx(&world, world.run(&["--as", "web"], "nginx"), 80);
    let page =
        world.run(&["--map", "web.test:80=web"], "curl").args(["-sS", "--fail", "http://web.test/hello"]).finish();
    assert_eq!(page.success().stdout, "hello over SIP\n");
}

#[test]
fn iperf3_tcp() {
    let world = World::new("iperf-tcp");
    let port = free_port();
    let number = port.to_string();
    for extra in [&["-P", "1"][..], &["-P", "4"], &["-R"]] {
        let server = servers::iperf(world.run(&["--as", "perf"], "iperf3"), port);
        let client = world.run(&["--to", "perf"], "iperf3").args(["-c", ANYWHERE, "-p", &number, "-t", "1", "-J"]);
        let report = client.args(extra).finish().success().stdout;
        assert!(servers::json_number(&report, "sum_received", "bytes") > 10e6, "{report}");
        server.wait().success();
    }
}

#[test]
fn iperf3_udp() {
    let world = World::new("iperf-udp");
    let port = free_port();
    let number = port.to_string();
    for extra in [&["-P", "1"][..], &["-P", "3"], &["-R"]] {
        let server = servers::iperf(world.run(&["--as", "perf"], "iperf3"), port);
        let client = world.run(&["--to", "perf"], "iperf3").args(["-c", ANYWHERE, "-p", &number, "-k", "500", "-J"]);
        let report = client.args(["-u", "-b", "5M", "-l", "1200"]).args(extra).finish().success().stdout;
        let packets = servers::json_number(&report, "sum", "packets");
        let lost = servers::json_number(&report, "sum", "lost_packets");
        assert!(packets > 300.0 && lost < packets / 10.0, "{packets} packets, {lost} lost\n{report}");
        server.wait().success();
    }
}

#[test]
fn python_asyncio_pair() {
    let world = World::new("asyncio");
    let port = free_port().to_string();
    let script = world.program("asyncio_pair.py");
    let server = world.run(&["--as", "py"], "/usr/bin/python3").arg(&script).args(["server", &port]);
    let mut server = server.start();
    server.wait_for("listening on");
    let client = world.run(&["--to", "py"], "/usr/bin/python3").arg(&script).args(["client", ANYWHERE, &port, "20"]);
    client.finish_within(Duration::from_secs(60)).success().says("20 streams and 40 datagrams answered");
}

#[test]
fn udp_server_with_many_clients() {
    let world = World::new("udp-many");
    let port = free_port().to_string();
    let server = serve(&world, "udp", "udp-server", &[&port, "7"]);
    let clients: Vec<Process> = (0..3)
        .flat_map(|_| ["connected", "unconnected"])
        .map(|mode| world.run(&["--to", "udp"], "udp-client").args([mode, ANYWHERE, &port, "50"]).start())
        .collect();
    for client in clients {
        client.wait().success().says("51 datagrams there and back");
    }
    world.run(&["--to", "udp"], "udp-client").args(["calls", ANYWHERE, &port]).finish().success();
    let done = server.wait().success();
    assert!(done.stdout.matches("new client").count() >= 7, "{}", done.stdout);
}

/// Who sends a datagram and is gone, as loggers do: it arrives, and the server may answer nobody.
#[test]
fn datagrams_of_who_does_not_wait() {
    let world = World::new("udp-once");
    let port = free_port().to_string();
    let server = serve(&world, "udp", "udp-server", &[&port, "28"]);
    for _ in 0..4 {
        world.run(&["--to", "udp"], "udp-client").args(["once", ANYWHERE, &port]).finish().success().says("all sent");
    }
    let done = server.wait().success();
    assert!(!done.stderr.contains("refuses"), "{}", done.stderr);
}

/// One connection a request, ten at once, by epoll: connect() is called again when the socket is said to be ready.
#[test]
fn apache_bench() {
    let world = World::new("ab");
    let port = free_port();
    world.make_dir("www", 0o755);
    world.write("www/hello", "hello over SIP\n");
    let server = servers::nginx(&world, world.run(&["--as", "web"], "nginx"), port);
    let ab =
        world.run(&["--map", "web.test:80=web"], "ab").args(["-q", "-n", "500", "-c", "10", "http://web.test/hello"]);
    let done = ab.finish().success().says("Complete requests:      500").says("Failed requests:        0");
    assert!(!done.stdout.contains("Non-2xx"), "{}", done.stdout);
    server.stop().success();
}

#[test]
fn udp_socket_with_many_servers() {
    let world = World::new("udp-servers");
    let (p, q) = (free_port().to_string(), free_port().to_string());
    let servers = [
        serve(&world, "a", "udp-server", &[&p, "1"]),
        serve(&world, "b", "udp-server", &[&p, "1"]),
        serve(&world, "c", "udp-server", &[&q, "1"]),
    ];
    let places = [format!("a.test:{p}"), format!("b.test:{p}"), format!("c.test:{q}")];
    let maps: Vec<String> = places.iter().zip(["a", "b", "c"]).map(|(place, name)| format!("{place}={name}")).collect();
    let flags = ["--map", &maps[0], "--map", &maps[1], "--map", &maps[2]];
    let client = world.run(&flags, "udp-client").args(["many", "20"]).args(&places).finish().success();
    client.says("3 servers answered 21 datagrams each");
    for server in servers {
        server.wait().success().says("answered 21 datagrams of 1 clients");
    }
}

#[test]
fn sockets_that_wander() {
    let world = World::new("fdgames");
    let (port, udp) = (free_port().to_string(), free_port().to_string());
    let server = serve(&world, "games", "fdgames", &["server", &port, "5"]);
    let client = world.run(&["--to", "games"], "fdgames").args(["client", ANYWHERE, &port]).finish().success();
    client.says("all five as on Linux");
    server.wait().success();
    let server = serve(&world, "udp", "udp-server", &[&udp, "1"]);
    let client = world.run(&["--to", "udp"], "fdgames").args(["udp-client", ANYWHERE, &udp]).finish().success();
    client.says("a UDP socket passed on");
    server.wait().success();
}

/// A number that means another socket all the time: what is guessed of it must hold for each.
#[test]
fn a_descriptor_that_changes_while_it_is_received_from() {
    let world = World::new("swaps");
    for launch in [world.native("swaps"), world.run(&[], "swaps")] {
        launch.arg("1000000").finish_within(Duration::from_secs(300)).success().says("1000000 calls: ");
    }
}

#[test]
fn ssh_and_scp() {
    let world = World::new("ssh");
    let port = free_port();
    let _server = servers::sshd(&world, world.run(&["--as", "shell"], "/usr/sbin/sshd"), port);
    let (options, number) = (servers::ssh_options(&world), port.to_string());
    let there = format!("{}@{ANYWHERE}", world.user_name());
    let echo =
        world.run(&["--to", "shell"], "ssh").args(&options).args(["-p", &number, &there, "echo here; cat; exit 7"]);
    let echo = echo.input("through the shell\n").finish().ended_with(7);
    assert_eq!(echo.stdout, "here\nthrough the shell\n");
    let file: Vec<u8> = (0..2_000_000_u32).map(|i| (i % 251) as u8).collect();
    let (from, to, back) = (world.write("file", &file), world.path("copy"), world.path("back"));
    let scp = || world.run(&["--to", "shell"], "scp").args(&options).args(["-q", "-P", &number]);
    scp().arg(from).arg(format!("{there}:{}", to.display())).finish().success();
    assert!(fs::read(&to).unwrap() == file);
    scp().arg(format!("{there}:{}", to.display())).arg(&back).finish().success();
    assert!(fs::read(&back).unwrap() == file);
}

#[test]
fn postgresql() {
    let world = World::new("postgres");
    let port = free_port();
    let postgres = servers::postgres_program("postgres");
    let server = servers::postgres(&world, world.run(&["--as", "db"], &postgres.to_string_lossy()), port);
    let number = port.to_string();
    let psql = |sql: &str| {
        let client = world.run(&["--to", "db"], "psql").args(["-X", "-A", "-t", "-h", ANYWHERE, "-p", &number]);
        client.args(["-U", "tester", "-d", "postgres", "-c", sql]).finish().success().stdout
    };
    assert_eq!(psql("select 6 * 7"), "42\n");
    assert_eq!(psql("select i from generate_series(1, 100000) as i").lines().count(), 100_000);
    // The server tells the client's address as the client has it: not 127.x.
    let seen = psql("select host(inet_client_addr()), inet_client_port() > 0");
    assert!(!seen.starts_with("127.64.") && seen.trim_end().ends_with("|t"), "{seen}");
    server.signal(Signal::SIGINT);
    server.wait().success();
}

/// FTP tells addresses in its commands: that of the server's own end (passive), and that of the client's, to which the server
/// connects (active).
#[test]
fn ftp() {
    let world = World::new("ftp");
    let port = free_port().to_string();
    let root = world.make_dir("pub", 0o555);
    let big: Vec<u8> = (0..3_000_000_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    world.write("pub/big", &big);
    let config = format!(
        "listen=YES\nlisten_port={port}\nbackground=NO\nrun_as_launching_user=YES\nanonymous_enable=YES\n\
         no_anon_password=YES\nanon_root={}\nxferlog_enable=NO\nconnect_from_port_20=NO\n",
        root.display()
    );
    let config = world.write("vsftpd.conf", config);
    let mut server = world.run(&["--as", "ftpd", "--trace"], "/usr/sbin/vsftpd").arg(&config).start();
    server.wait_for_err("listen(");
    for mode in ["passive", "active"] {
        let got = world.path(&format!("got-{mode}"));
        let flags = ["--as", "ftp-user", "--map", "ftp.test:*=ftpd"];
        let said = format!(
            "user anonymous\n{mode_is}\nget big {}\nquit\n",
            got.display(),
            mode_is = match mode {
                "passive" => "passive on",
                _ => "passive off",
            }
        );
        let client = world.run(&flags, "tnftp").args(["-n", "-v", "ftp.test", &port]).input(&said).finish().success();
        client.says("226 Transfer complete");
        assert!(fs::read(&got).unwrap() == big, "{mode}: 3 MB came as other bytes");
    }
    let back = server.stop();
    assert!(back.stderr.contains("has called -> sip:ftp-user@"), "{}", back.stderr);
}

/// A server's sockets for one client each: the client hears another port of the server's, or the same from another socket.
#[test]
fn a_datagram_socket_for_each_client() {
    let world = World::new("each-client");
    let script = world.program("datagram_pair.py").to_string_lossy().into_owned();
    let port = free_port().to_string();
    let mut server = world.run(&["--as", "games"], "python3").args([&script, "server", &port]).start();
    server.wait_for("listening on");
    let flags = ["--as", "alice", "--map", "games.test:*=games"];
    let client = world.run(&flags, "python3").args([&script, "client", "games.test", &port, "7777"]).finish().success();
    client.says("connected answered").says("other answered");
    server.wait().success().says("asked for connected by port 7777").says("all answered");
}

/// Both ends begin at once, from the port that the other one sends to, as games and calls do that know each other's addresses.
#[test]
fn datagrams_that_cross() {
    let world = World::new("cross");
    let script = world.program("datagram_pair.py").to_string_lossy().into_owned();
    let port = free_port().to_string();
    let start = |own: &str, other: &str| {
        let map = format!("other.test:*={other}");
        let run = world.run(&["--as", own, "--map", &map], "python3");
        let mut peer = run.args([&script, "peer", "other.test", &port]).talk().start();
        peer.wait_for("listening on");
        peer
    };
    let mut both = [start("alice", "games"), start("games", "alice")];
    for peer in &mut both {
        peer.say("go\n");
    }
    for peer in &mut both {
        peer.wait_for("all heard");
    }
    for mut peer in both {
        peer.say("end\n");
        peer.wait().success();
    }
}

/// TFTP: the answer comes from a port of its own, to which the client connects then.
#[test]
fn tftp() {
    let world = World::new("tftp");
    let port = free_port().to_string();
    let root = world.make_dir("files", 0o755);
    let file: String = (0..20_000).map(|i| format!("{i}\n")).collect();
    world.write("files/numbers", &file);
    let user = world.user_name();
    let server = world.run(&["--as", "files"], "/usr/sbin/atftpd").args(["--daemon", "--no-fork", "--port", &port]);
    let mut server = server.args(["--user", &user, "--group", &user, "--logfile", "-"]).arg(&root).start();
    // It says so before it binds: the client asks again.
    server.wait_for("server started");
    let got = world.path("got");
    let client = world.run(&["--as", "alice", "--map", "files.test:*=files"], "atftp");
    client
        .args(["--option", "timeout 1", "--get", "-r", "numbers", "-l"])
        .arg(&got)
        .args(["files.test", &port])
        .finish()
        .success();
    assert!(fs::read_to_string(&got).unwrap() == file, "the file came as another one");
    server.stop();
}

/// A name server of a peer's: who names its port, or a name that leads to it, means it and not the run's own resolver, which goes
/// on answering at every other address.
#[test]
fn a_name_server() {
    let world = World::new("dns");
    let server = world.run(&["--as", "ns"], "/usr/sbin/dnsmasq");
    let server = server.args(["--no-daemon", "--conf-file=/dev/null", "--no-resolv", "--no-hosts", "--user="]);
    let mut server = server.args(["--address=/www.site.test/192.0.2.7", "--address=/ns.test/192.0.2.8"]).start();
    server.wait_for_err("cleared cache");
    for (map, ask) in [("198.18.0.53:53=ns", "198.18.0.53"), ("ns.test:*=ns", "ns.test")] {
        let maps = ["--map", map, "--map", "*:*=nobody"];
        let client = |extra: &[&str]| {
            let client = world.run(&maps, "dig").args([format!("@{ask}").as_str(), "+short", "+tries=1", "+time=5"]);
            client.args(extra).finish().success().stdout
        };
        assert_eq!(client(&["www.site.test"]), "192.0.2.7\n", "{ask} by UDP");
        assert_eq!(client(&["www.site.test", "+tcp"]), "192.0.2.7\n", "{ask} by TCP");
    }
    // Whoever has rules for all ports still resolves names by the run's own.
    let own = world.run(&["--to", "ns", "--map", "ns.test:53=ns"], "dig").args(["@198.18.0.53", "+short", "ns.test"]);
    let own = own.finish().success().stdout;
    assert!(own.starts_with("198.1"), "no virtual address: {own}");
    server.stop();
}

#[test]
fn mptcp_falls_back_to_tcp() {
    let world = World::new("mptcp");
    let port = free_port().to_string();
    let server = serve(&world, "mp", "mptcp", &["server", &port, "1"]);
    let client = world.run(&["--to", "mp"], "mptcp").args(["client", ANYWHERE, &port]).finish().success();
    client.says("socket(IPPROTO_MPTCP): EPROTONOSUPPORT, so TCP").says("mptcp: echoed");
    server.wait().success().says("socket(IPPROTO_MPTCP): EPROTONOSUPPORT, so TCP");
}

#[test]
fn ipv6() {
    let world = World::new("ipv6");
    let port = free_port().to_string();
    let only = serve(&world, "six", "v6", &["server", &port, "only", "1"]);
    let client = world.run(&["--to", "six"], "v6").args(["client", ANYWHERE_V6, &port]).finish().success();
    client.says("datagram and stream echoed");
    only.wait().success();
    // A dual-stack server: the address that the client asked for need not be of the family that the server has.
    let dual = serve(&world, "dual", "v6", &["server", &port, "dual", "3"]);
    for address in [ANYWHERE_V6, ANYWHERE, "::ffff:198.18.0.9"] {
        let client = world.run(&["--to", "dual"], "v6").args(["client", address, &port]).finish().success();
        client.says("datagram and stream echoed");
    }
    dual.wait().success();
}

#[test]
fn what_the_program_is_given() {
    let world = World::new("passthrough");
    let native = |args: &[&str]| world.native("passthrough").args(args).finish();
    let boxed = |args: &[&str]| world.run(&["--as", "x"], "passthrough").args(args).finish();
    for status in [0, 1, 42, 255] {
        boxed(&["exit", &status.to_string()]).ended_with(status);
    }
    for args in
        [&["args", "a b", "", "--flag", "--", "*"][..], &["fds"], &["state"], &["env", "HOME"], &["env", "LD_PRELOAD"]]
    {
        assert_eq!(native(args).success().stdout, boxed(args).success().stdout, "{args:?}");
    }
    let set = world.run(&["--as", "x"], "passthrough").args(["env", "GREETING"]).env("GREETING", "hello").finish();
    assert_eq!(set.success().stdout, "GREETING=hello\n");
    // The password is for sipbox, not for the program.
    let secret = world.run(&["--as", "x"], "passthrough").args(["env", "SIPBOX_PASSWORD"]);
    let secret = secret.env("SIPBOX_PASSWORD", "tell-nobody").finish().success();
    assert!(!secret.stdout.contains("tell-nobody"), "{}", secret.stdout);
    let text: String = (0..100_000).map(|i| format!("{i}\n")).collect();
    let cat = world.run(&["--as", "x"], "passthrough").arg("cat").input(&text).finish().success();
    assert!(cat.stdout == text, "standard input came out changed");
    assert_eq!(cat.stderr, "", "nothing is to be said about a run without trouble");
}

#[test]
fn signals_reach_the_program() {
    let world = World::new("signals");
    let program = world.program("signals");
    let name = program.file_name().unwrap().to_str().unwrap();
    for (number, code) in [("15", 143), ("11", 139), ("9", 137), ("2", 130)] {
        world.run(&[], "signals").args(["die", number]).finish().ended_with(code);
    }
    // SIGINT to sipbox alone, as `kill` does it ...
    let mut waiting = world.run(&[], "signals").arg("sigint").start();
    waiting.wait_for("waiting in process");
    waiting.signal(Signal::SIGINT);
    waiting.wait().ended_with(5).says("got SIGINT");
    // ... and to the program alone.
    let mut waiting = world.run(&[], "signals").arg("sigint").start();
    waiting.wait_for("waiting in process");
    let pid = i32::try_from(waiting.child_named(name)).unwrap();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), Signal::SIGINT).unwrap();
    waiting.wait().ended_with(5).says("got SIGINT");
    let waiting = world.run(&[], "sleep").arg("1000").start();
    waiting.child_named("sleep");
    waiting.signal(Signal::SIGTERM);
    waiting.wait().ended_with(143);
}

#[test]
fn calls_that_wait_and_signals() {
    let world = World::new("waiting-calls");
    for mode in ["eintr", "restart", "timeout", "again", "storm"] {
        world.run(&["--as", "x"], "signals").arg(mode).finish().success().says(mode);
    }
}

#[test]
fn connects_that_wait_and_signals() {
    let world = World::new("waiting-connects");
    // A registrar that takes everything and answers nothing.
    let silent = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let registrar = format!("sip:{}", silent.local_addr().unwrap());
    let flags = ["--registrar", &registrar, "--to", "sip:bob@example.org"];
    world.run(&flags, "signals").arg("connect").finish_within(Duration::from_secs(90)).success().says("connect");
}

#[test]
fn calls_that_end_in_the_middle() {
    let world = World::new("partial");
    for part in ["waitall", "nosignal", "timeout", "whole", "datagram", "reopened"] {
        let wanted = format!("{part}: as on Linux");
        world.native("partial").arg(part).finish().success().says(&wanted);
        world.run(&["--as", "x"], "partial").arg(part).finish().success().says(&wanted);
    }
}

#[test]
fn the_terminal_is_the_programs() {
    let world = World::new("terminal");
    // `script` gives a terminal; the program reads a line from it and ^C reaches it through the terminal.
    let inner = format!(
        "exec {} run --as x -- sh -c 'tty -s && stty size && read line && echo \"read: $line\"'",
        world.sipbox_path().display()
    );
    let run = world.native("script").args(["-q", "-e", "-c", &inner, "/dev/null"]).input("typed\n").finish().success();
    assert!(run.stdout.contains("read: typed"), "{}", run.stdout);
    let inner =
        format!("exec {} run --as x -- {} sigint", world.sipbox_path().display(), world.program("signals").display());
    let mut run = world.native("script").args(["-q", "-e", "-c", &inner, "/dev/null"]).talk().start();
    run.wait_for("waiting in process");
    run.say("\u{3}");
    run.wait().ended_with(5).says("got SIGINT");
}

#[test]
fn socket_calls_answer_as_linux_does() {
    let world = World::new("calls");
    let native = world.native("calls").finish().success().stdout;
    for flags in [&[][..], &["--as", "x"], &["--as", "x", "--to", "y"]] {
        let boxed = world.run(flags, "calls").finish();
        let differences: Vec<String> = native
            .lines()
            .zip(boxed.stdout.lines().chain(std::iter::repeat("(nothing)")))
            .filter(|(n, b)| n != b)
            .map(|(n, b)| format!("native: {n}\nsipbox: {b}"))
            .collect();
        assert!(differences.is_empty(), "with {flags:?}:\n{}\n{}", differences.join("\n"), boxed.stderr);
        boxed.success();
    }
}

/// Starts the command that it is given with a listening socket under a number, as systemd and inetd do. The number is the command's last
/// argument, and the program behind it accepts once.
const HANDS_IN: &str = r#"
import os, socket, sys
command, number = sys.argv[1:], int(sys.argv[-1])
if number == 4:
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    s.bind(("0.0.0.0", 0))
    number = 3
else:
    s = socket.create_server(("0.0.0.0", 0))
print("port", s.getsockname()[1], flush=True)
os.dup2(s.fileno(), number)
os.set_inheritable(number, True)
if number == 3:
    os.environ["LISTEN_FDS"], os.environ["LISTEN_PID"] = "1", str(os.getpid())
os.execv(command[0], command)
"#;
const IS_HANDED: &str = r#"
import os, socket, sys
number = int(sys.argv[1])
if number == 3:
    assert os.environ["LISTEN_PID"] == str(os.getpid()), os.environ["LISTEN_PID"]
l = socket.socket(fileno=number)
assert l.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) == 1
print("listens at", l.getsockname(), flush=True)
s, peer = l.accept()
s.sendall(b"for " + s.recv(100))
print("served", flush=True)
"#;

const IS_HANDED_UDP: &str = r#"
import os, socket
assert os.environ["LISTEN_PID"] == str(os.getpid()), os.environ["LISTEN_PID"]
u = socket.socket(fileno=3)
assert u.type == socket.SOCK_DGRAM, u
print("bound at", u.getsockname(), flush=True)
try:
    u.sendto(b"out", ("127.0.0.1", 9))
except OSError as e:
    print(e)
data, peer = u.recvfrom(100)
u.sendto(b"for " + data, peer)
print("served", flush=True)
"#;

#[test]
fn datagram_sockets_that_are_handed_in() {
    let world = World::new("handed-in-udp");
    let hands_in = world.write("hands-in.py", HANDS_IN);
    let server = world.run(&["--as", "handed"], "python3").args(["-c", IS_HANDED_UDP, "4"]);
    let mut server = server.behind("python3", &hands_in.to_string_lossy()).start();
    let port = server.wait_for("port ");
    let port: u16 = port.trim().rsplit(' ').next().unwrap().parse().unwrap();
    let at = server.wait_for("bound at");
    assert!(at.contains(&format!("('0.0.0.0', {port})")), "{at}");
    // The machine's own port is free again.
    std::net::UdpSocket::bind(("0.0.0.0", port)).expect("nobody has the machine's own port");
    let ask = format!(
        "import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(20); \
         s.sendto(b'me', ('198.18.0.9', {port})); print(s.recv(100))"
    );
    world.run(&["--to", "handed"], "python3").args(["-c", &ask]).finish().success().says("for me");
    server.wait().success().says("served");
}

#[test]
fn listeners_that_are_handed_in() {
    let world = World::new("handed-in");
    let hands_in = world.write("hands-in.py", HANDS_IN);
    for number in ["0", "3"] {
        let server = world.run(&["--as", "handed"], "python3").args(["-c", IS_HANDED, number]);
        let mut server = server.behind("python3", &hands_in.to_string_lossy()).start();
        let port = server.wait_for("port ");
        let port: u16 = port.trim().rsplit(' ').next().unwrap().parse().unwrap();
        let at = server.wait_for("listens at");
        assert!(at.contains(&format!("('0.0.0.0', {port})")), "{at}");
        // Not by the machine's own port: that listener is gone.
        assert!(std::net::TcpStream::connect(("127.0.0.1", port)).is_err());
        let ask = format!(
            "import socket; s = socket.create_connection(('198.18.0.9', {port})); s.sendall(b'me'); print(s.recv(100))"
        );
        world.run(&["--to", "handed"], "python3").args(["-c", &ask]).finish().success().says("for me");
        server.wait().success().says("served");
    }
}
