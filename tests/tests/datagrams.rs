#![forbid(unsafe_code)]
//! Connected UDP sockets over the life of their peers: what they send is not trapped, and has to get through all the same.

use tests::{Process, World, free_port};

/// Echoes with its name in front, from one socket.
const SERVER: &str = r#"
import socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind(("0.0.0.0", int(sys.argv[1])))
print("listening on", sys.argv[1], flush=True)
while True:
    data, peer = s.recvfrom(2048)
    s.sendto(sys.argv[2].encode() + b" " + data, peer)
"#;

fn server(world: &World, name: &str, word: &str) -> Process {
    let mut server = world.run(&["--as", name], "python3").args(["-c", SERVER, "7000", word]).start();
    server.wait_for("listening on");
    server
}

/// Sends on its one connected socket until it is told to end, as a game client does that waits for its server to come back.
const CLIENT: &str = r#"
import errno, select, socket, sys, time
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.connect(("198.18.0.9", 7000))
last, n = None, 0
while not select.select([sys.stdin], [], [], 0)[0]:
    n += 1
    try:
        s.send(b"%d" % n)
        s.settimeout(0.1)
        now = s.recv(2048).decode().split()[0]
    except TimeoutError:
        continue
    except ConnectionRefusedError:
        now = "refused"
        time.sleep(0.1)
    if now != last:
        print(now, flush=True)
    last = now
print("peer", s.getpeername(), flush=True)
"#;

/// The server starts late, ends, and starts again: the client's one socket gets through each time.
#[test]
fn a_connected_socket_outlives_its_server() {
    let world = World::new("datagrams-outlive");
    // Others are there all the time: the hub goes on.
    let _other = server(&world, "other", "other");
    let mut client = world.run(&["--to", "echo"], "python3").args(["-c", CLIENT]).talk().start();
    client.wait_for("refused");
    for word in ["first", "second"] {
        let server = server(&world, "echo", word);
        client.wait_for(word);
        server.stop();
        tests::until("the client to be refused", || {
            (client.stdout().matches("refused").count() > client.stdout().matches(word).count()).then_some(())
        });
    }
    let server = server(&world, "echo", "third");
    client.wait_for("third");
    client.say("\n");
    client.wait_for("peer ('198.18.0.9', 7000)");
    client.wait().success();
    server.stop();
}

/// Two sockets of one port are connected to two peers before either has its session.
const ONE_PORT: &str = r#"
import socket
made = []
for word, host in ("one", "198.18.0.9"), ("two", "198.18.0.10"), ("three", "198.18.0.11"):
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    s.bind(("0.0.0.0", 5000))
    s.connect((host, 7000))
    made.append((word, s))
for word, s in made:
    s.settimeout(30)
    s.send(word.encode())
for word, s in reversed(made):
    assert s.recv(2048).decode() == word + " " + word, word
    s.send(b"again")
for word, s in made:
    assert s.recv(2048).decode() == word + " again", word
    assert s.getsockname()[1] == 5000
print("all three")
"#;

#[test]
fn sockets_of_one_port_are_connected_to_several_peers_at_once() {
    let world = World::new("datagrams-one-port");
    let _servers = ["one", "two", "three"].map(|name| server(&world, name, name));
    let maps = ["198.18.0.9:*=one", "198.18.0.10:*=two", "198.18.0.11:*=three"];
    let flags: Vec<&str> = maps.iter().flat_map(|map| ["--map", map]).collect();
    world.run(&flags, "python3").args(["-c", ONE_PORT]).finish().success().says("all three");
}

/// A server with a socket for each client closes the one that it heard him by.
const HANDS_OVER: &str = r#"
import socket, sys
def bound():
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    s.bind(("0.0.0.0", 7000))
    return s
main = bound()
print("listening", flush=True)
data, peer = main.recvfrom(2048)
own = bound()
own.connect(peer)
own.send(data)
main.close()
own.settimeout(30)
for _ in range(20):
    own.send(own.recv(2048))
"#;

const TALKS: &str = r#"
import socket, time
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.settimeout(30)
for n in range(21):
    s.sendto(b"%d" % n, ("198.18.0.9", 7000))
    assert s.recvfrom(2048) == (b"%d" % n, ("198.18.0.9", 7000)), n
    # Across the moment when the death of the server's first socket is heard of.
    time.sleep(0.02)
print("all answered")
"#;

#[test]
fn a_session_outlives_the_socket_that_it_came_to() {
    let world = World::new("datagrams-hand-over");
    let mut server = world.run(&["--as", "echo"], "python3").args(["-c", HANDS_OVER]).start();
    server.wait_for("listening");
    world.run(&["--to", "echo"], "python3").args(["-c", TALKS]).finish().success().says("all answered");
    server.wait().success();
}

/// To connect a datagram socket sends nothing: it is how programs find their own address, and what resolvers do to sort those of a
/// name (RFC 6724). What they send there is refused.
#[test]
fn who_looks_for_the_own_address_finds_it() {
    const PROBE: &str = r#"
import socket, sys
def probe(port):
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    s.connect(("192.0.2.9", port))
    own = s.getsockname()[0]
    try:
        for i in range(1000):
            s.send(b"x")
        print("not refused")
    except ConnectionRefusedError:
        print(port, "refused; own address", own)
probe(80)
probe(0)
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
try:
    s.sendto(b"x", ("192.0.2.9", 80))
except PermissionError:
    print("not allowed")
"#;
    let world = World::new("probe");
    let done = world.run(&[], "python3").args(["-c", PROBE]).finish().success();
    let done = done.says("80 refused; own address 198.1").says("0 refused; own address 198.1").says("not allowed");
    let done = done.complains("the program tried udp/192.0.2.9:80").complains("finds it");
    assert!(!done.stderr.contains("192.0.2.9:0"), "{}", done.stderr);
}

/// Sockets that the program has closed do not count for its limit, however fast it is.
#[test]
fn sockets_that_are_closed_make_room() {
    const OPENS: &str = r#"
import socket
kept = []
for n in range(10000):
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    s.bind(("", 0))
    if n < 50: kept.append(s)
    else: s.close()
print("all of them")
"#;
    let world = World::new("many-sockets");
    let policy = world.write("policy.toml", "schema = 1\n[limits]\nsockets = 100\n");
    let run = world.run(&["--policy", &policy.display().to_string()], "python3").args(["-c", OPENS]).finish();
    run.success().says("all of them");
}

/// Servers with a socket for each client, and tests of event loops, have thousands of sockets on one address, each of which knows it.
#[test]
fn a_large_group_binds_as_fast_as_a_small_one() {
    const GROUPS: &str = r#"
import resource, socket, time
resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
at = ("127.0.0.1", 21996)
def binds(sends):
    group, took = [], 0
    for n in range(2500):
        s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        begun = time.monotonic()
        s.bind(at)
        took += time.monotonic() - begun
        group.append(s)
        if sends:
            s.sendto(b"x", at)
            s.recv(9)
    for s in group: s.close()
    return took
alone, acquainted = (sorted(binds(sends) for _ in range(3))[1] for sends in (False, True))
print("ratio ok" if acquainted < 8 * alone else f"{acquainted:.2f} s of {alone:.2f} s")
"#;
    let world = World::new("datagrams-large-group");
    world.run(&[], "python3").args(["-c", GROUPS]).finish().success().says("ratio ok");
}

/// Sends back what it hears, as it is.
const MIRROR: &str = r#"
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind(("0.0.0.0", 7000))
print("listening on 7000", flush=True)
while True:
    data, peer = s.recvfrom(2048)
    s.sendto(data, peer)
"#;

/// The first datagram of a session, and later ones: by a connected socket, and with the address.
const LENGTHS: &str = r#"
import socket
for connected in True, False:
    for lengths in (0, 1, 0, 1200, 0), (1, 0, 0, 1200):
        s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        s.settimeout(30)
        at = ("198.18.0.9", 7000)
        if connected:
            s.connect(at)
        for n, length in enumerate(lengths):
            data = bytes([n]) * length
            sent = s.send(data) if connected else s.sendto(data, at)
            assert sent == length, (connected, n, sent)
            assert s.recvfrom(2048) == (data, at), (connected, n, length)
        s.close()
print("all lengths")
"#;

#[test]
fn datagrams_without_a_byte_arrive_as_such() {
    let world = World::new("datagrams-empty");
    let mut mirror = world.run(&["--as", "mirror"], "python3").args(["-c", MIRROR]).start();
    mirror.wait_for("listening on");
    for flow in ["direct", "quic"] {
        let flags = ["--to", "mirror", "--flow", flow];
        world.run(&flags, "python3").args(["-c", LENGTHS]).finish().success().says("all lengths");
    }
}

/// Both ends begin at once by an encrypted flow, and nobody says a word twice: what they send, each before it knows of the other's session, arrives.
#[test]
fn datagrams_that_cross_arrive() {
    for flow in ["quic", "datachannel"] {
        for round in 0..5 {
            let world = World::new(&format!("cross-{flow}-{round}"));
            let script = world.program("datagram_pair.py").to_string_lossy().into_owned();
            let port = free_port().to_string();
            let start = |own: &str, other: &str| {
                let map = format!("other.test:*={other}");
                let run = world.run(&["--as", own, "--map", &map, "--flow", flow], "python3");
                let mut peer = run.args([&script, "once", "other.test", &port]).talk().start();
                peer.wait_for("listening on");
                peer
            };
            let mut both = [start("alice", "games"), start("games", "alice")];
            for word in ["first\n", "second\n"] {
                both.iter_mut().for_each(|peer| peer.say(word));
                both.iter_mut().for_each(|peer| drop(peer.wait_for("all heard")));
            }
            for mut peer in both {
                peer.hang_up();
                peer.wait().success();
            }
        }
    }
}

/// One socket asks a name server by sendto(), another one is connected to a second one and gets the first one's number, or asks both itself.
const ASKS: &str = r#"
import os, socket, struct
def query(number):
    return struct.pack("!HHHHHH", number, 0x0100, 1, 0, 0, 0) + b"\x04none\x04test\x00" + struct.pack("!HH", 1, 1)
def answer(s, number):
    data, source = s.recvfrom(512)
    assert data[:2] == struct.pack("!H", number), data
    return source
FIRST, SECOND = ("198.51.100.1", 53), ("198.51.100.2", 53)
asks = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
asks.settimeout(20)
for number in (1, 2, 3):
    asks.sendto(query(number), FIRST)
    assert answer(asks, number) == FIRST
connected = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
connected.connect(SECOND)
kept = os.dup(asks.fileno())
os.dup2(connected.fileno(), asks.fileno())
connected.send(query(4))
assert answer(asks, 4) == SECOND
os.dup2(kept, asks.fileno())
asks.sendto(query(5), FIRST)
assert answer(asks, 5) == FIRST
asks.connect(SECOND)
asks.send(query(6))
assert answer(asks, 6) == SECOND
print("each by its name")
"#;

/// Answers of name servers come from the one that was asked, whichever number the socket has by then.
#[test]
fn answers_come_from_the_name_server_that_was_asked() {
    let world = World::new("asks");
    world.run(&[], "python3").args(["-c", ASKS]).finish().success().says("each by its name");
}

/// The number of a socket that has received datagrams becomes that of a connection whose peer, another run's, has sent an urgent byte.
const URGENT: &str = r#"
import os, select, socket
listener = socket.create_server(("0.0.0.0", 7000))
print("listening on 7000", flush=True)
one, other = (socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2))
for s in (one, other):
    s.bind(("127.0.0.1", 0))
for n in range(3):
    other.sendto(b"datagram", one.getsockname())
    assert one.recvfrom(100) == (b"datagram", other.getsockname())
peer, _ = listener.accept()
urgent = select.poll()
urgent.register(peer, select.POLLPRI)
assert urgent.poll(20000), "no urgent byte came"
os.dup2(peer.fileno(), one.fileno())
assert one.recvfrom(6)[0] == b"before", "what came before"
assert peer.recv(1, socket.MSG_OOB) == b"!", "the urgent byte"
assert peer.recv(5, socket.MSG_WAITALL) == b"after", "what came after"
peer.send(b"?", socket.MSG_OOB)
peer.shutdown(socket.SHUT_WR)
assert peer.recv(1) == b"", "the end"
print("nothing is lost", flush=True)
"#;

const SENDS_URGENT: &str = r#"
import select, socket
s = socket.create_connection(("198.18.0.9", 7000))
for data, flags in (b"before", 0), (b"!", socket.MSG_OOB), (b"after", 0):
    s.send(data, flags)
urgent = select.poll()
urgent.register(s, select.POLLPRI)
assert urgent.poll(20000), "no urgent byte came back"
assert s.recv(1, socket.MSG_OOB) == b"?"
assert s.recv(1) == b"", "the end"
print("as urgent as sent", flush=True)
"#;

/// A server and a client of this flow, with the words that each ends with.
fn both(world: &World, flow: &str, (server, served): (&str, &str), (client, done): (&str, &str)) {
    let mut server = world.run(&["--as", "echo", "--flow", flow], "python3").args(["-c", server]).start();
    server.wait_for("listening on");
    let client = world.run(&["--to", "echo", "--flow", flow], "python3").args(["-c", client]).start();
    server.wait().success().says(served);
    client.wait().success().says(done);
}

/// Urgent data that comes from outside by a direct flow, also through the relay of a network of its own, is neither lost nor taken for a datagram.
#[test]
fn urgent_data_of_a_direct_flow_is_not_taken_for_a_datagram() {
    let world = World::new("urgent");
    both(&world, "direct", (URGENT, "nothing is lost"), (SENDS_URGENT, "as urgent as sent"));
}

const IN_LINE: &str = r#"
import socket
listener = socket.create_server(("0.0.0.0", 7000))
print("listening on 7000", flush=True)
peer, _ = listener.accept()
assert peer.recv(12, socket.MSG_WAITALL) == b"before!after"
peer.send(b"?", socket.MSG_OOB)
peer.send(b"!")
assert peer.recv(1) == b"", "the end"
print("in its place", flush=True)
"#;

const WRITES_URGENT: &str = r#"
import socket
s = socket.create_connection(("198.18.0.9", 7000))
for data, flags in (b"before", 0), (b"!", socket.MSG_OOB), (b"after", 0):
    s.send(data, flags)
assert s.recv(2, socket.MSG_WAITALL) == b"?!"
print("also back", flush=True)
"#;

/// Encrypted flows have no urgent data: the byte comes in its place.
#[test]
fn urgent_data_goes_through_an_encrypted_flow_in_its_place() {
    let world = World::new("urgent-in-line");
    for flow in ["quic", "tls"] {
        both(&world, flow, (IN_LINE, "in its place"), (WRITES_URGENT, "also back"));
    }
}
