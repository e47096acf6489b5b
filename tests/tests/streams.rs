#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used)] // helpers of tests, which may fail as tests do
//! Many TCP connections in one session: none of them stands in the way of the others.

use std::time::{Duration, Instant};

use tests::{Process, World, free_port, within};

/// Any address leads to the peer of `--to`: this one is nobody's.
const ANYWHERE: &str = "198.18.0.9";
/// What waits for programs that do not read, the windows of a connection, and what a supervisor takes anyway, in KiB.
const MEMORY: u64 = 200 << 10;

fn serve(world: &World, program: &str, args: &[&str]) -> Process {
    let mut server = world.run(&["--flow", "quic", "--as", "streams"], program).args(args).start();
    server.wait_for("listening on");
    server
}

/// The most memory that a process has had, in KiB.
fn most_memory(process: &Process) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", process.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// 64 connections that nobody reads do not stop the one that is read, nor fill the memory, and lose nothing.
#[test]
fn unread_streams_hold_nobody_up() {
    let world = World::new("streams-unread");
    let port = free_port().to_string();
    let pair = world.program("streams_pair.py");
    let pair = pair.to_str().unwrap();
    let server = serve(&world, "python3", &[pair, "serve", &port]);
    let client = world.run(&["--flow", "quic", "--to", "streams"], "python3");
    let mut client = client.args([pair, "client", ANYWHERE, &port, "64"]).start();
    client.wait_for("one was read");
    let memory = [&client, &server].map(most_memory);
    println!("most memory: {memory:?} KiB");
    assert!(memory.iter().all(|memory| *memory < MEMORY), "{memory:?} KiB");
    client.wait_within(Duration::from_secs(120)).success().says("all were read");
    drop(server);
}

/// A peer's programs may stall for ever, with as much as theirs will send, one after the other at full speed: the next one has the whole session.
#[test]
fn stalled_streams_stop_no_other() {
    let world = World::new("streams-stalled");
    let port = free_port().to_string();
    let pair = world.program("streams_pair.py");
    let pair = pair.to_str().unwrap();
    let server = serve(&world, "python3", &[pair, "serve", &port]);
    let client = world.run(&["--flow", "quic", "--to", "streams"], "python3");
    let mut client = client.args([pair, "stalled", ANYWHERE, &port, "300"]).talk().start();
    let seconds = |line: String| -> f64 { line.rsplit(' ').next().unwrap().parse().unwrap() };
    let alone = seconds(client.wait_for("alone "));
    const BESIDE: &str = "beside 300 stalled ones ";
    let timed = within(Duration::from_secs(180), || client.stdout().contains(BESIDE).then_some(()));
    assert!(timed.is_some(), "it stands still\n{}", client.stderr());
    let beside = seconds(client.wait_for(BESIDE));
    // Other tests of this machine run, or not.
    let alone = alone.max(seconds(client.wait_for("again alone ")));
    let memory = [&client, &server].map(most_memory);
    println!("{alone} s alone, {beside} s beside 300 that are stalled; most memory: {memory:?} KiB");
    assert!(memory.iter().all(|memory| *memory < MEMORY), "{memory:?} KiB");
    // Other programs of a busy machine make a difference of some times; a window that is all but closed would make one of hundreds.
    assert!(beside < 10.0 * alone.max(0.5), "{beside} s, {alone} s alone");
    client.hang_up();
    client.wait().success();
    drop(server);
}

/// Who writes without pause has the same as the others who do.
#[test]
fn streams_take_turns() {
    let world = World::new("streams-turns");
    let port = free_port().to_string();
    let server = serve(&world, "bench-streams", &["serve", &port]);
    let client = world.run(&["--flow", "quic", "--to", "streams"], "bench-streams");
    // Not for a time: some megabytes for each of them, however busy the machine is.
    let client = client.args([ANYWHERE, &port, "100", "100", "600000000"]);
    let done = client.finish_within(Duration::from_secs(120)).success();
    let number = |word: &str| -> f64 {
        let rest = done.stdout.split_once(word).unwrap().1.trim_start();
        rest.split([',', '\n']).next().unwrap().parse().unwrap()
    };
    println!("{}", done.stdout.trim());
    assert!(number("slowest ") >= 0.5 * number("mean "), "{}", done.stdout);
    drop(server);
}

/// Takes a connection, answers it, and reads the second one only after a while.
const SLOW: &str = r#"
import socket, sys, time
listener = socket.create_server(("", int(sys.argv[1])))
print("listening on", sys.argv[1], flush=True)
first, _ = listener.accept()
first.sendall(first.recv(1))
second, _ = listener.accept()
time.sleep(1)
count = 0
while data := second.recv(65536):
    assert data == bytes(len(data))
    count += len(data)
print("read", count, flush=True)
"#;
/// Connects twice, as the second connection need not wait for the peer, writes and is gone.
const GONE: &str = r#"
import socket, sys
first = socket.create_connection((sys.argv[1], int(sys.argv[2])))
first.sendall(b"?")
assert first.recv(1) == b"?"
second = socket.create_connection((sys.argv[1], int(sys.argv[2])))
second.sendall(bytes(int(sys.argv[3])))
"#;

/// What a program wrote before it ended arrives, also where the peer reads late.
#[test]
fn the_last_words_of_a_program_arrive() {
    for flow in ["quic", "tls"] {
        let world = World::new(&format!("streams-last-{flow}"));
        for count in ["1", "8000000"] {
            let port = free_port().to_string();
            let server = world.run(&["--flow", flow, "--as", "streams"], "python3");
            let mut server = server.args(["-c", SLOW, &port]).start();
            server.wait_for("listening on");
            let client = world.run(&["--flow", flow, "--to", "streams"], "python3");
            client.args(["-c", GONE, ANYWHERE, &port, count]).finish_within(Duration::from_secs(60)).success();
            server.wait_within(Duration::from_secs(60)).success().says(&format!("read {count}"));
        }
    }
}

/// More connections, one after the other, than one address has ports that the kernel chooses (28,232), all within the minute for which each keeps its
/// own (TIME-WAIT), and than a run may have sessions at once.
const CONNECTIONS: u32 = 35_000;
/// The first ones, by which the others are measured.
const FEW: u32 = 1000;
/// All take at most so many times what they took; where the kernel had to look long for a port it was 6 times that, and to itself none was left.
const TIMES: f64 = 4.0;

/// `bench-connects` to the server of `epoll-server PORT CONNECTIONS`.
fn connects(host: &str, port: &str, program: &str) -> String {
    let rest = CONNECTIONS - FEW;
    format!("for n in {FEW} {rest}; do {program} {host} {port} $n || exit; done")
}

/// None of them waited for a port.
fn never_slower(report: &str, all: Duration) {
    let first: f64 = report.split("whole ").nth(1).unwrap().split(' ').next().unwrap().parse().unwrap();
    let mean = all.as_secs_f64() * 1e6 / f64::from(CONNECTIONS);
    println!("connect, echo, close: {first} us at first, {mean:.1} us of all");
    assert!(mean < TIMES * first, "{first} us at first, {mean:.1} us of all");
}

#[test]
fn more_connections_than_ports_to_itself() {
    let world = World::new("streams-itself");
    let port = free_port().to_string();
    let [epoll, connect] = ["epoll-server", "bench-connects"].map(|name| world.program(name).display().to_string());
    let connects = connects("127.0.0.1", &port, &connect);
    let both = format!(
        "{epoll} {port} {CONNECTIONS} >listening &\n\
         until grep -q 'listening on' listening; do sleep 0.02; done; {connects}; wait $!"
    );
    let start = Instant::now();
    let run = world.run(&[], "sh").args(["-c", &both]).finish_within(Duration::from_secs(120)).success();
    never_slower(&run.stdout, start.elapsed());
}

/// Connections that stand, from before so many others and after them: each has a port of its own, which nobody else can bind.
#[test]
fn ports_of_connections_that_came_fast() {
    const PROGRAM: &str = "import errno, resource, socket, sys
most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (min(most, 8192), most))
listener = socket.create_server(('127.0.0.1', 0))
def pair():
    client = socket.create_connection(listener.getsockname())
    return client, listener.accept()[0]
standing = [pair() for _ in range(500)]
for _ in range(int(sys.argv[1])):
    for end in pair():
        end.close()
standing += [pair() for _ in range(500)]
ports = {client.getsockname()[1] for client, _ in standing}
print(len(ports), 'ports')
free = 0
for port in ports | {listener.getsockname()[1]}:
    with socket.socket() as other:
        try:
            other.bind(('127.0.0.1', port))
            free += 1
        except OSError as e:
            assert e.errno == errno.EADDRINUSE, e
for client, server in standing:
    assert server.getpeername() == client.getsockname()
    client.sendall(b'x')
    assert server.recv(1) == b'x'
print(free, 'of them free')
";
    let world = World::new("streams-own");
    let natively = world.native("python3").args(["-c", PROGRAM, "9000"]).finish().success();
    natively.says("1000 ports").says("0 of them free");
    let boxed =
        world.run(&[], "python3").args(["-c", PROGRAM, "9000"]).finish_within(Duration::from_secs(60)).success();
    boxed.says("1000 ports").says("0 of them free");
}

#[test]
fn more_connections_than_ports_to_a_peer() {
    let world = World::new("streams-ports");
    let port = free_port().to_string();
    let server = serve(&world, "epoll-server", &[&port, &CONNECTIONS.to_string()]);
    let connects = connects(ANYWHERE, &port, &world.program("bench-connects").display().to_string());
    let client = world.run(&["--flow", "quic", "--to", "streams"], "sh").args(["-c", &connects]);
    let start = Instant::now();
    let client = client.finish_within(Duration::from_secs(120)).success();
    never_slower(&client.stdout, start.elapsed());
    server.wait().success();
}
