#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used)] // helpers of tests, which may fail as tests do
//! Connections in a session that stands: what is promised for a peer, and what becomes of it when he goes, dies, or is another one.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use tests::{Process, World, free_port, until};

/// Any address leads to the peer of `--to`: this one is nobody's.
const ANYWHERE: &str = "198.18.0.9";

fn serve(world: &World, flags: &[&str], program: &str, args: &[&str]) -> Process {
    let mut server = world.run(flags, program).args(args).start();
    server.wait_for("listening on");
    server
}

/// Echoes one byte to each caller while it listens; `open` and `close` say whether it does.
const LISTENS_AT_TIMES: &str = "
import select, socket, sys
port, listener, closed = int(sys.argv[1]), None, 0
while True:
    ready = select.select([sys.stdin.buffer.raw] + ([listener] if listener else []), [], [])[0]
    if listener in ready:
        s = listener.accept()[0]
        s.sendall(s.recv(1))
        s.close()
    else:
        word = sys.stdin.buffer.raw.readline()
        if not word: break
        if listener: listener.close()
        listener = socket.create_server(('0.0.0.0', port)) if word == b'open\\n' else None
        print('listening on' if listener else f'closed {closed}', flush=True)
        closed += not listener
";

/// Connects once for each line that it is told, and says what came of it.
const CONNECTS_WHEN_TOLD: &str = "
import socket, sys
for n, line in enumerate(sys.stdin):
    s = socket.socket()
    try: s.connect(('198.18.0.9', int(sys.argv[1])))
    except OSError as e:
        print(n, 'refused', e.errno, flush=True)
        continue
    try:
        s.sendall(b'x')
        print(n, 'heard', s.recv(1), flush=True)
    except OSError as e: print(n, 'reset', e.errno, flush=True)
";

/// Further connections to a listener that is known do not wait for the peer's word; when it is gone, they are refused as the first one would be.
#[test]
fn a_listener_that_goes_is_known_to_be_gone() {
    let said = listens_at_times("flow-gone", &[], &[]);
    assert!(said.contains(", at once"), "{said}");
}

/// So are those to a program in a network of its own, which accepts and closes without asking.
#[test]
fn a_listener_in_a_network_of_its_own_is_known_as_well() {
    let said = listens_at_times("flow-gone-own", &["--isolation", "netns"], &["--isolation", "seccomp"]);
    assert!(said.contains(", at once"), "{said}");
}

/// And those of a program in a network of its own.
#[test]
fn a_client_in_a_network_of_its_own_does_not_wait() {
    let said = listens_at_times("flow-gone-client", &["--isolation", "seccomp"], &["--isolation", "netns"]);
    assert!(said.contains("relayed encrypted flow, at once"), "{said}");
}

/// A listener that comes and goes, and a client that connects all the time; the client's trace.
fn listens_at_times(name: &str, server: &[&str], client: &[&str]) -> String {
    let world = World::new(name);
    let port = free_port().to_string();
    let flags = [&["--flow", "quic", "--as", "gone"], server].concat();
    let mut server = world.run(&flags, "python3").args(["-c", LISTENS_AT_TIMES, &port]).talk().start();
    server.say("open\n");
    server.wait_for("listening on");
    let flags = [&["--flow", "quic", "--to", "gone", "--trace"], client].concat();
    let mut client = world.run(&flags, "python3").args(["-c", CONNECTS_WHEN_TOLD, &port]).talk().start();
    let mut count = 0;
    let mut connect = |client: &mut Process| {
        client.say("\n");
        count += 1;
        let line = client.wait_for(&format!("{} ", count - 1));
        line.split_once(' ').unwrap().1.to_owned()
    };
    for _ in 0..3 {
        assert_eq!(connect(&mut client), "heard b'x'");
    }
    for n in 0..2 {
        server.say("close\n");
        server.wait_for(&format!("closed {n}"));
        // Until that is known, it may have gone while a connection was on its way.
        until("the peer is told", || {
            let came = connect(&mut client);
            assert!(came == "refused 111" || came.starts_with("reset "), "{came}");
            came.starts_with("refused").then_some(())
        });
        for _ in 0..3 {
            assert_eq!(connect(&mut client), "refused 111");
        }
        server.say("open\n");
        until("it listens again", || (connect(&mut client) == "heard b'x'").then_some(()));
        assert_eq!(connect(&mut client), "heard b'x'");
    }
    client.hang_up();
    let said = client.wait().success().stderr;
    server.hang_up();
    server.wait().success();
    said
}

/// A listener of [`LISTENS_AT_TIMES`] and a client of [`CONNECTS_WHEN_TOLD`], with a session of their own.
struct Talk {
    world: World,
    name: &'static str,
    port: String,
    client: Process,
    asked: usize,
}

impl Talk {
    fn begin(name: &'static str) -> (Talk, Process) {
        let world = World::new(name);
        let port = free_port().to_string();
        let server = Talk::server(&world, name, &port);
        let client = world.run(&["--flow", "quic", "--to", name, "--trace"], "python3");
        let client = client.args(["-c", CONNECTS_WHEN_TOLD, &port]).talk().start();
        (Talk { world, name, port, client, asked: 0 }, server)
    }

    fn server(world: &World, name: &str, port: &str) -> Process {
        let server = world.run(&["--flow", "quic", "--as", name], "python3").args(["-c", LISTENS_AT_TIMES, port]);
        let mut server = server.talk().start();
        server.say("open\n");
        server.wait_for("listening on");
        server
    }

    /// Who has the name from now on.
    fn again(&self) -> Process {
        Talk::server(&self.world, self.name, &self.port)
    }

    /// Waits until somebody else reaches him.
    fn reached(&self) {
        until("a new client is heard", || {
            let client = self.world.run(&["--flow", "quic", "--to", self.name], "python3");
            let done = client.args(["-c", CONNECTS_WHEN_TOLD, &self.port]).input("\n").finish();
            done.stdout.contains("heard").then_some(())
        });
    }

    fn ask(&mut self) {
        self.client.say("\n");
        self.asked += 1;
    }

    fn outcome(&mut self) -> String {
        let line = self.client.wait_for(&format!("{} ", self.asked - 1));
        line.split_once(' ').unwrap().1.to_owned()
    }

    fn connect(&mut self) -> String {
        self.ask();
        self.outcome()
    }
}

/// What was said by a peer holds for a second ([`sipcore`]'s HEARD_WITHIN).
const PROMISED: Duration = Duration::from_millis(1100);

/// A peer that was killed and started again is called anew by the next connect(): nothing is promised for him that he has not said a moment ago.
#[test]
fn a_peer_that_is_started_again_is_called_again() {
    let (mut talk, server) = Talk::begin("flow-restarted");
    for _ in 0..3 {
        assert_eq!(talk.connect(), "heard b'x'");
    }
    server.signal(Signal::SIGKILL);
    let _server = talk.again();
    talk.reached();
    std::thread::sleep(PROMISED);
    for _ in 0..3 {
        assert_eq!(talk.connect(), "heard b'x'", "{}", talk.client.stderr());
    }
    // The runs would wait for what they have sent to one that was killed, until that connection is lost: they are killed.
}

/// What was promised for a peer who ends within that second is reset soon, and the user is told why; then he is called anew.
#[test]
fn a_connection_to_a_peer_that_has_just_died_is_reset_soon() {
    let (mut talk, mut server) = Talk::begin("flow-died");
    // Whoever is held up for a second between the two finds nothing promised.
    let mut reset = false;
    for _ in 0..10 {
        // He may not be registered yet.
        until("the peer is heard", || (talk.connect() == "heard b'x'").then_some(()));
        for _ in 0..2 {
            assert_eq!(talk.connect(), "heard b'x'", "{}", talk.client.stderr());
        }
        server.signal(Signal::SIGKILL);
        let asked = Instant::now();
        talk.ask();
        server = talk.again();
        let came = talk.outcome();
        if came.starts_with("reset ") {
            // Some seconds, and not the thirty after which the connection is lost.
            assert!(asked.elapsed() < Duration::from_secs(20), "{came} after {:?}", asked.elapsed());
            reset = true;
            break;
        }
    }
    assert!(reset, "nothing was promised: {}", talk.client.stderr());
    let why = "the peer was started again; what was written may have been read before (a reset to the program)";
    until("the reason to be said", || talk.client.stderr().contains(why).then_some(()));
    until("he is called anew", || (talk.connect() == "heard b'x'").then_some(()));
    for _ in 0..3 {
        assert_eq!(talk.connect(), "heard b'x'", "{}", talk.client.stderr());
    }
}

/// Says a word to whoever comes.
const SPEAKS: &str = "
import socket, sys
listener = socket.create_server(('0.0.0.0', int(sys.argv[1])))
print('listening on', flush=True)
while True:
    with listener.accept()[0] as s: s.sendall(b'w')
";

/// Connects once for each line that it is told, and says what it heard.
const WAITS_FOR_A_WORD: &str = "
import socket, sys
for n, line in enumerate(sys.stdin):
    try:
        with socket.create_connection(('198.18.0.9', int(sys.argv[1]))) as s: print(n, s.recv(1), flush=True)
    except OSError as e: print(n, 'error', e.errno, flush=True)
";

/// A program that was promised a peer who died within that second, and has said nothing yet, is connected to the one that was started instead.
#[test]
fn who_has_said_nothing_to_a_dead_peer_is_connected_to_the_next() {
    let world = World::new("flow-next");
    let port = free_port().to_string();
    let start = || serve(&world, &["--flow", "quic", "--as", "next"], "python3", &["-c", SPEAKS, &port]);
    let mut server = start();
    let client = world.run(&["--flow", "quic", "--to", "next", "--trace"], "python3");
    let mut client = client.args(["-c", WAITS_FOR_A_WORD, &port]).talk().start();
    let mut asked = 0;
    let mut connect = |client: &mut Process, between: &mut dyn FnMut()| {
        client.say("\n");
        between();
        asked += 1;
        let line = client.wait_for(&format!("{} ", asked - 1));
        line.split_once(' ').unwrap().1.to_owned()
    };
    // Whoever is held up for a second finds nothing promised, or nobody registered yet.
    for _ in 0..10 {
        until("the peer is heard", || (connect(&mut client, &mut || {}) == "b'w'").then_some(()));
        assert_eq!(connect(&mut client, &mut || {}), "b'w'", "{}", client.stderr());
        server.signal(Signal::SIGKILL);
        let before = client.stderr().matches("at once").count();
        let came = connect(&mut client, &mut || server = start());
        if came == "b'w'" && client.stderr().matches("at once").count() > before {
            return;
        }
    }
    panic!("it was reset, or nothing was promised: {}", client.stderr());
}

/// One who was started again, and refuses, has answered: nobody waits for the connection with the one before.
#[test]
fn a_peer_that_refuses_after_a_new_start_is_believed() {
    let (mut talk, server) = Talk::begin("flow-refuses");
    for _ in 0..3 {
        assert_eq!(talk.connect(), "heard b'x'");
    }
    server.signal(Signal::SIGKILL);
    let mut server = talk.again();
    talk.reached();
    server.say("close\n");
    server.wait_for("closed 0");
    std::thread::sleep(PROMISED);
    let asked = Instant::now();
    assert_eq!(talk.connect(), "refused 111", "{}", talk.client.stderr());
    assert!(asked.elapsed() < Duration::from_secs(15), "after {:?}", asked.elapsed());
    assert!(talk.client.stderr().contains("ECONNREFUSED to the program"), "{}", talk.client.stderr());
}

/// Keeps its first connection, and resets all others as it accepts them.
const RESETS: &str = "
import socket, struct, sys, threading
listener = socket.create_server(('0.0.0.0', int(sys.argv[1])))
print('listening on', flush=True)
kept = listener.accept()[0]
def echo():
    while data := kept.recv(100): kept.sendall(data)
threading.Thread(target=echo, daemon=True).start()
while True:
    s = listener.accept()[0]
    s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0))
    s.close()
";

/// Says what came of many connections to it, and whether the first one stands.
const IS_RESET: &str = "
import collections, socket, sys
peer = ('198.18.0.9', int(sys.argv[1]))
kept, came = socket.create_connection(peer), collections.Counter()
for n in range(300):
    s = socket.socket()
    try:
        s.connect(peer)
        came[s.recv(1)] += 1
    except OSError as e: came[e.errno] += 1
    s.close()
print(dict(came))
kept.sendall(b'still there')
print(kept.recv(100).decode())
";

/// A connection that is reset as soon as it is accepted is reset, whatever overtakes what; the others of the session go on.
#[test]
fn what_a_listener_resets_at_once_ends_alone() {
    let world = World::new("flow-resets");
    let port = free_port().to_string();
    let _server = serve(&world, &["--flow", "quic", "--as", "resets"], "python3", &["-c", RESETS, &port]);
    let client = world.run(&["--flow", "quic", "--to", "resets", "--trace"], "python3").args(["-c", IS_RESET, &port]);
    let done = client.finish_within(Duration::from_secs(60)).success();
    assert!(
        done.stdout.contains("{104: 300}") && done.stdout.contains("still there"),
        "{}\n{}",
        done.stdout,
        done.stderr
    );
}

/// A peer that is gone for a while, as one whose path is: whoever connects meanwhile is connected when he is back.
#[test]
fn a_peer_that_is_back_after_a_while_is_heard_again() {
    let (mut talk, server) = Talk::begin("flow-back");
    for _ in 0..3 {
        assert_eq!(talk.connect(), "heard b'x'");
    }
    server.signal(Signal::SIGSTOP);
    std::thread::sleep(PROMISED);
    talk.ask();
    // Longer than a silence after which he is called anew.
    std::thread::sleep(Duration::from_secs(4));
    server.signal(Signal::SIGCONT);
    assert_eq!(talk.outcome(), "heard b'x'", "{}", talk.client.stderr());
    for _ in 0..3 {
        assert_eq!(talk.connect(), "heard b'x'", "{}", talk.client.stderr());
    }
}

/// Another build: its flows have another name (ALPN), and so has its SIP. These are bytes of the program: all that has to differ.
fn another_build(world: &World) -> std::path::PathBuf {
    let mut program = std::fs::read(world.sipbox_path()).unwrap();
    const NAME: &[u8] = b"sipbox/";
    let (mut flows, mut sip) = (0, 0);
    for at in 0..program.len() - NAME.len() {
        match program[at..].strip_prefix(NAME).and_then(<[u8]>::first) {
            // The version of the program.
            Some(b'0') => (sip, program[at + NAME.len()]) = (sip + 1, b'7'),
            Some(b'1'..=b'9') => (flows, program[at + NAME.len()]) = (flows + 1, b'0'),
            _ => {}
        }
    }
    assert!(flows > 0 && sip > 0, "{flows} names of flows, {sip} of the program");
    let path = world.write("another-sipbox", program);
    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    path
}

/// Two builds whose encrypted flows differ: both ends say so, what each of them is, and what to do; whoever calls.
#[test]
fn builds_whose_flows_differ_say_so() {
    let world = World::new("flow-builds");
    let (this, other) = (world.sipbox_path().to_owned(), another_build(&world));
    let run = |sipbox: &std::path::Path, flags: &[&str]| {
        world.native(&sipbox.to_string_lossy()).args(["run", "--flow", "quic"]).args(flags).arg("--")
    };
    for (caller, called, name) in [(&this, &other, "later"), (&other, &this, "earlier")] {
        let port = free_port().to_string();
        let mut server = run(called, &["--as", name]).arg(world.program("static-echo")).arg(&port).start();
        server.wait_for("listening on");
        let done = run(caller, &["--to", name]).arg(world.program("static-client")).args([ANYWHERE, &port]).finish();
        assert_ne!(done.code(), 0, "{}", done.stderr);
        until("the called end to say it", || server.stderr().contains("another version").then_some(()));
        for (said, own) in [(&done.stderr, caller), (&server.stderr(), called)] {
            let [mine, theirs] = if own == &this { ["sipbox/0.", "sipbox/7."] } else { ["sipbox/7.", "sipbox/0."] };
            assert!(said.contains("the other end is of another version of sipbox"), "{said}");
            assert!(said.contains(&format!("run the same sipbox on both ends: this one is {mine}")), "{said}");
            assert!(said.contains(&format!("and the peer says that it is {theirs}")), "{said}");
        }
    }
}
