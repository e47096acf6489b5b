#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used)] // helpers of tests, which may fail as tests do
//! Data channels: between two runs, and with a page in Chromium that knows nothing of sipbox.

use std::path::Path;
use std::time::Duration;

use tests::browser::Site;
use tests::{Process, World, free_port, servers};

/// Any address leads to the peer of `--to`: this one is nobody's.
const ANYWHERE: &str = "198.18.0.9";
const FLOW: [&str; 2] = ["--flow", "datachannel"];

fn serve(world: &World, name: &str, program: &str, args: &[&str]) -> Process {
    let mut server = world.run(&[&FLOW[..], &["--as", name]].concat(), program).args(args).start();
    server.wait_for("listening on");
    server
}

/// The static pair, and the one for UDP.
#[test]
fn pairs() {
    let world = World::new("dc-pairs");
    let port = free_port().to_string();
    let to = |name: &'static str| [&FLOW[..], &["--to", name, "--trace"]].concat();
    let server = serve(&world, "echo", "static-echo", &[&port, "2"]);
    let done = world.run(&to("echo"), "static-client").args([ANYWHERE, &port]).finish().success();
    done.says("echo: hello over SIP").complains("data channel flow with sip:echo@");
    let bulk = world.run(&to("echo"), "static-client").args([ANYWHERE, &port, "@3000000"]).finish().success();
    bulk.says("echo: 3000000 bytes, all as sent");
    server.wait().success();
    let server = serve(&world, "datagrams", "udp-server", &[&port, "3"]);
    for mode in ["connected", "unconnected"] {
        world.run(&to("datagrams"), "udp-client").args([mode, ANYWHERE, &port, "50"]).finish().success();
    }
    drop(server);
}

/// TCP and UDP, half-closed and long streams, many sockets, in one session: the second and later ones need no SIP.
#[test]
fn many_sockets_in_one_session() {
    let world = World::new("dc-many");
    let ports = [free_port(), free_port(), free_port()].map(|port| port.to_string());
    let [port, other, closed] = &ports;
    let pair = world.program("flow_pair.py");
    let pair = pair.to_str().unwrap();
    let server = serve(&world, "many", "python3", &[pair, "serve", port, other]);
    let client = world.run(&[&FLOW[..], &["--to", "many", "--trace", "--ladder"]].concat(), "python3");
    let done = client.args([pair, "client", ANYWHERE, port, other, closed]).finish_within(Duration::from_secs(90));
    let done = done.success().says("20 MB").says("closed: 111").says("datagrams");
    assert_eq!(done.stderr.matches("200 OK").count() - done.stderr.matches(" BYE]").count() / 2, 1, "{}", done.stderr);
    drop(server);
}

#[test]
fn redis() {
    let world = World::new("dc-redis");
    let port = free_port();
    let server = servers::redis(world.run(&[&FLOW[..], &["--as", "redis"]].concat(), "redis-server"), port);
    let port = port.to_string();
    let to = ["-h", ANYWHERE, "-p", &port];
    let run = |program: &str| world.run(&[&FLOW[..], &["--to", "redis"]].concat(), program).args(to);
    run("redis-cli").args(["SET", "k", "over data channels"]).finish().success().says("OK");
    run("redis-cli").args(["GET", "k"]).finish().success().says("over data channels");
    let bench = run("redis-benchmark").args(["-c", "50", "-n", "5000", "-t", "get,set", "--csv"]);
    let bench = bench.finish_within(Duration::from_secs(60)).success();
    assert_eq!(bench.stdout.lines().filter(|l| l.starts_with("\"GET\"") || l.starts_with("\"SET\"")).count(), 2);
    run("redis-cli").args(["SHUTDOWN", "NOSAVE"]).finish();
    server.wait().success();
}

/// A reset of one program is a reset for the other.
#[test]
fn a_reset_is_a_reset() {
    let world = World::new("dc-reset");
    let port = free_port().to_string();
    let server = "import socket,sys\ns=socket.create_server(('0.0.0.0',int(sys.argv[1])))\nprint('listening on',flush=True)\n\
                  c,_=s.accept()\nprint('got',c.recv(9).decode(),flush=True)\n\
                  try: print('end',len(c.recv(1)),flush=True)\nexcept OSError as e: print('error',e.errno,flush=True)\n";
    let client = "import socket,struct,sys\ns=socket.create_connection(('198.18.0.9',int(sys.argv[1])))\ns.sendall(b'x')\n\
                  sys.stdin.readline()\ns.setsockopt(socket.SOL_SOCKET,socket.SO_LINGER,struct.pack('ii',1,0))\ns.close()\n";
    let mut server = serve(&world, "reset", "python3", &["-c", server, &port]);
    let client = world.run(&[&FLOW[..], &["--to", "reset"]].concat(), "python3").args(["-c", client, &port]);
    let mut client = client.talk().start();
    server.wait_for("got x");
    client.say("\n");
    client.wait().success();
    server.wait().success().says("error 104");
}

/// A hub for SIP and for pages of the site: their ports, and its process.
fn hub(world: &World, site: &Site) -> (u16, u16, Process) {
    let [sip, web] = [free_port(), free_port()];
    let listen = [format!("127.0.0.1:{sip}"), format!("127.0.0.1:{web}")];
    let hub = world.sipbox(&["hub", "--listen", &listen[0], "--listen-ws", &listen[1], "--origin", &site.origin()]);
    let mut hub = hub.start();
    hub.wait_for_err("sipbox hub: ready");
    (sip, web, hub)
}

fn site() -> Site {
    Site::new(&Path::new(env!("CARGO_MANIFEST_DIR")).join("web/sip.html"))
}

/// Chromium that has nothing but the loopback to offer.
fn loopback() -> [String; 1] {
    ["--allow-loopback-in-peer-connection".to_owned()]
}

/// Programs call such a page, by TCP and UDP.
#[test]
fn programs_speak_with_a_browser() {
    let world = World::new("dc-called");
    let site = site();
    let (sip, web, hub) = hub(&world, &site);
    let page = site.open(&world, &format!("hub=ws://127.0.0.1:{web}&user=web&echoes"), &loopback());
    page.wait_for("REGISTER");
    let registrar = format!("sip:127.0.0.1:{sip}");
    let flags = ["--registrar", &registrar, "--to", "web", "--trace"];
    let tcp = world.run(&[&FLOW[..], &flags].concat(), "static-client").args([ANYWHERE, "7000", "@300000"]);
    tcp.finish().success().says("echo: 300000 bytes, all as sent").complains("data channel flow with sip:web@");
    assert_eq!(page.wait_for("channel tcp"), "channel tcp/7000 sipbox");
    // Without a word about flows: the page does not take what two sipboxes would, and takes what it knows.
    let any = world.run(&flags, "static-client").args([ANYWHERE, "7000"]).finish().success();
    any.says("echo: hello over SIP").complains("data channel flow with sip:web@");
    let ask = "import socket\ns=socket.socket(socket.AF_INET,socket.SOCK_DGRAM)\ns.settimeout(20)\n\
               s.sendto(b'a datagram',('198.18.0.9',7001))\nprint(s.recvfrom(99))\n";
    let udp = world.run(&[&FLOW[..], &flags].concat(), "python3").args(["-c", ask]);
    udp.finish().success().says("(b'a datagram', ('198.18.0.9', 7001))");
    assert_eq!(page.wait_for("channel udp"), "channel udp/7001 sipbox");
    drop((page, hub));
}

/// A page that knows RTCPeerConnection and nothing of sipbox calls a program by SIP over WebSocket: a page of a legacy HTTP server
/// byte for byte, a stream that ends in one direction first, and a datagram.
#[test]
fn a_browser_speaks_with_programs() {
    let world = World::new("dc-browser");
    let [http, pair] = [free_port(), free_port()];
    let site = site();
    let (sip, web, hub) = hub(&world, &site);
    let registrar = format!("sip:127.0.0.1:{sip}");
    let www = world.make_dir("www", 0o755);
    let page: String = (0..100_000).map(|i| format!("line {i}\n")).collect();
    let path = world.write("www/page.txt", &page);
    let digest = world.native("sha256sum").arg(&path).finish().success().stdout;
    let flags = ["--registrar", &registrar, "--as", "legacy", "--trace"];
    let server = world.run(&flags, "busybox").args(["httpd", "-f", "-p", &http.to_string(), "-h"]).arg(&www);
    let mut server = server.start();
    server.wait_for_err("listen");
    let program = world.program("flow_pair.py");
    let second = ["--registrar", &registrar, "--as", "pair"];
    let mut second = world.run(&second, "python3").arg(&program).args(["serve", &pair.to_string()]).start();
    second.wait_for("listening on");

    let query =
        |name: &str, rest: &str| format!("hub=ws://127.0.0.1:{web}&user=web&call=sip:{name}@sipbox.invalid&{rest}");
    let flags = loopback();
    let open = site.open(&world, &query("legacy", &format!("get={http}/page.txt")), &flags);
    let invited = open.wait_for("INVITE");
    assert!(invited.contains("200 OK"), "{invited}");
    let got = open.wait_for("get");
    assert_eq!(got, format!("get HTTP/1.1 200 OK {} bytes {}", page.len(), &digest[..64]));
    drop(open);
    let open = site.open(&world, &query("pair", &format!("digest={pair}/1000000&echo={pair}")), &flags);
    assert_eq!(open.wait_for("digest"), "digest is right");
    assert_eq!(open.wait_for("echo"), "echo a datagram of a page");
    drop((open, second, server, hub));
}
