#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used)] // helpers of tests, which may fail as tests do
//! A transfer under way while its ends move: their addresses change, their routers forget, they sleep. No byte is lost.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use tests::lab::{self, Kind, Lab};
use tests::{Accounts, Coturn, Process, Registrar, Signalling, World, until, within};

/// Any address leads to the peer of `--to`: this one is nobody's.
const ANYWHERE: &str = "198.18.0.9";

/// A connection without a path lives for half a minute; what finds that out, and says it, takes a while on a busy machine.
const LOST_WITHIN: Duration = Duration::from_secs(90);

/// A transfer under way.
struct Transfer {
    caller: Process,
    called: Process,
}

impl Transfer {
    fn start(world: &World, lab: &Lab, registrar: &Registrar, flow: &str) -> Transfer {
        let pair = world.program("moving_pair.py");
        let pair = pair.to_str().unwrap();
        let called = registrar.run(world, lab, 1, "bob", &["--flow", flow], "python3").args([pair, "serve", "7000"]);
        let mut called = called.start();
        called.wait_for("listening on");
        let to = registrar.aor("bob");
        let caller = registrar.run(world, lab, 0, "alice", &["--flow", flow, "--to", &to], "python3");
        let mut caller = caller.args([pair, "client", ANYWHERE, "7000"]).talk().start();
        caller.wait_for("sent 1");
        Transfer { caller, called }
    }

    /// Megabytes that have been there and back.
    fn megabytes(&self) -> u64 {
        let out = self.caller.stdout();
        let last = out.lines().filter_map(|line| line.strip_prefix("sent ")?.parse().ok()).next_back();
        last.unwrap_or_default()
    }

    /// Something happens, and the transfer goes on; how long that took.
    fn survives(&mut self, what: &str, happens: impl FnOnce(&Transfer)) -> Duration {
        happens(self);
        let (started, before) = (Instant::now(), self.megabytes());
        until(&format!("the transfer to go on after {what}"), || {
            assert!(!self.caller.ended() && !self.called.ended(), "{what}: a program ended");
            (self.megabytes() >= before + 2).then_some(())
        });
        let took = started.elapsed();
        println!("{what}: it went on, 2 MB later after {took:.1?}");
        took
    }

    fn end(mut self) {
        self.caller.say("\n");
        self.caller.wait().success().says("the same");
        self.called.wait().success();
    }
}

/// The host's address is gone, and it has another one.
fn new_address(lab: &Lab, side: usize, last: u8) {
    if lab.sides[side].kind == Kind::Ipv6Only {
        let network = format!("2001:db8:{}::", side + 1);
        return lab.sides[side].host.ip(&format!(
            "addr flush dev eth0 scope global\naddr add {network}{last}/64 dev eth0 nodad\nroute replace default via {network}1"
        ));
    }
    let v4 = lab.sides[side].v4.unwrap().octets();
    let at = |last: u8| format!("{}.{}.{}.{last}", v4[0], v4[1], v4[2]);
    lab.sides[side].host.ip(&format!(
        "addr flush dev eth0\naddr add {}/24 dev eth0\nroute add default via {}",
        at(last),
        at(1)
    ));
}

/// The router forgets all connections and has another address outside: every mapping is a new one.
fn new_mapping(lab: &Lab, side: usize, last: u8) {
    lab.sides[side].routers[0].ip(&format!(
        "addr flush dev out\naddr add 198.51.100.{last}/24 dev out\nroute add default via {}",
        lab::PUBLIC
    ));
}

fn ends_move(test: &str, signalling: Signalling, kinds: [Kind; 2], flow: &str) {
    if !lab::possible(test) {
        return;
    }
    let world = World::new(test);
    let lab = Lab::new(kinds);
    let registrar = Registrar::start(&world, &lab, signalling);
    let _coturn = Coturn::start(&world, &lab, Accounts::LongTerm);
    let mut transfer = Transfer::start(&world, &lab, &registrar, flow);
    transfer.survives("a new address of the caller", |_| new_address(&lab, 0, 77));
    transfer.survives("a new address of the called", |_| new_address(&lab, 1, 78));
    // Nothing is translated for IPv6.
    if kinds[0].has_v4() {
        transfer.survives("new mappings of the caller's router", |_| new_mapping(&lab, 0, 32));
        transfer.survives("new mappings of the called's router", |_| new_mapping(&lab, 1, 33));
    }
    transfer.survives("new addresses of both at once", |_| {
        new_address(&lab, 0, 87);
        new_address(&lab, 1, 88);
    });
    transfer.survives("a sleep of the called", |transfer| {
        // The supervisor alone: when the program stops it stops with it, and does not go on by itself.
        transfer.called.signal(Signal::SIGSTOP);
        // That time passes is what is tested.
        std::thread::sleep(Duration::from_secs(7));
        transfer.called.signal(Signal::SIGCONT);
    });
    transfer.end();
}

#[test]
fn ends_move_by_the_hub() {
    ends_move("moving-hub", Signalling::Hub, [Kind::Masquerade, Kind::Masquerade], "auto");
}

#[test]
fn ends_move_by_kamailio() {
    ends_move("moving-kamailio", Signalling::Kamailio, [Kind::Masquerade, Kind::Masquerade], "auto");
}

#[test]
fn ends_move_with_sip_over_tcp() {
    ends_move("moving-tcp", Signalling::HubOverTcp, [Kind::Masquerade, Kind::Masquerade], "auto");
}

#[test]
fn ends_with_ipv6_alone_move() {
    ends_move("moving-v6", Signalling::Hub, [Kind::Ipv6Only, Kind::Ipv6Only], "auto");
}

/// The only relay is gone, with the only path: the connection takes the next relay that there is, and else ends, and says why.
#[test]
fn a_relay_dies() {
    let test = "a_relay_dies";
    if !lab::possible(test) {
        return;
    }
    let world = World::new(test);
    let lab = Lab::new([Kind::Symmetric, Kind::Symmetric]);
    let registrar = Registrar::start(&world, &lab, Signalling::Hub);
    let coturn = Coturn::start(&world, &lab, Accounts::LongTerm);
    let mut transfer = Transfer::start(&world, &lab, &registrar, "auto");
    let mut next = None;
    transfer.survives("the end of the relay, and another one", |_| {
        coturn.stop();
        next = Some(Coturn::start(&world, &lab, Accounts::LongTerm));
    });
    next.unwrap().stop();
    let Transfer { mut caller, called } = transfer;
    within(LOST_WITHIN, || caller.ended().then_some(())).unwrap_or_else(|| panic!("it goes on\n{}", caller.stderr()));
    for run in [&caller, &called] {
        until("the reason to be said", || run.stderr().contains(" is lost: its path (relayed, ").then_some(()));
        assert!(run.stderr().contains("the TURN server at 198.51.100.10:3478 does not answer"), "{}", run.stderr());
    }
}

#[test]
fn relayed_ends_move() {
    ends_move("moving-relayed", Signalling::Hub, [Kind::Symmetric, Kind::Symmetric], "auto");
}

#[test]
fn data_channels_move() {
    ends_move("moving-channels", Signalling::Hub, [Kind::Masquerade, Kind::Masquerade], "datachannel");
}

/// Says a word on each of its connections, and sends back what comes.
const ECHOES: &str = "
import socket, sys, threading
listener = socket.create_server(('0.0.0.0', int(sys.argv[1])), backlog=100)
print('listening on', flush=True)
def echo(s):
    with s:
        s.sendall(b'.')
        while data := s.recv(100): s.sendall(data)
while True:
    threading.Thread(target=echo, args=(listener.accept()[0],), daemon=True).start()
";

/// Connects without a pause, four times at once, says a word and hears two, until a line comes; says from time to time how many connections it were.
const CONNECTS: &str = "
import socket, sys, threading, time
count, ended = [0] * 4, threading.Event()
def connect(n):
    while not ended.is_set():
        try:
            with socket.create_connection((sys.argv[1], int(sys.argv[2])), 60) as s:
                s.sendall(b'!')
                said = s.makefile('rb').read(2)
                assert said == b'.!', said
        except Exception as e:
            print('failed', repr(e), flush=True)
        count[n] += 1
for n in range(4): threading.Thread(target=connect, args=(n,)).start()
threading.Thread(target=lambda: (sys.stdin.readline(), ended.set()), daemon=True).start()
while not ended.is_set():
    print('made', sum(count), flush=True)
    ended.wait(0.1)
";

/// What was promised to a program in the moment before an end moves is kept: it is connected, and is not reset because the peer is silent for a while.
#[test]
fn connections_of_the_moment_before_are_kept() {
    let test = "moving-promised";
    if !lab::possible(test) {
        return;
    }
    let world = World::new(test);
    let lab = Lab::new([Kind::Masquerade, Kind::Masquerade]);
    let registrar = Registrar::start(&world, &lab, Signalling::Hub);
    let _coturn = Coturn::start(&world, &lab, Accounts::LongTerm);
    let called = registrar.run(&world, &lab, 1, "bob", &["--flow", "quic"], "python3").args(["-c", ECHOES, "7000"]);
    let mut called = called.start();
    called.wait_for("listening on");
    let flags = ["--flow", "quic", "--to", &registrar.aor("bob")];
    let caller = registrar.run(&world, &lab, 0, "alice", &flags, "python3");
    let mut caller = caller.args(["-c", CONNECTS, ANYWHERE, "7000"]).talk().start();
    let made = |caller: &Process| -> u64 {
        let out = caller.stdout();
        out.lines().filter_map(|line| line.strip_prefix("made ")?.parse().ok()).next_back().unwrap_or_default()
    };
    let goes_on = |what: &str, caller: &Process| {
        let (started, before) = (Instant::now(), made(caller));
        // Nothing is promised while the peer has not been heard for a moment.
        let promised = || caller.stderr().matches(", at once").count();
        let promised_before = promised();
        until(&format!("connections after {what}"), || (made(caller) >= before + 50).then_some(()));
        println!("{what}: 50 connections later after {:.1?}", started.elapsed());
        until(&format!("promises after {what}"), || (promised() > promised_before).then_some(()));
        assert!(!caller.stdout().contains("failed"), "{what}: {}\n{}", caller.stdout(), caller.stderr());
    };
    goes_on("the start", &caller);
    for round in 0..2 {
        new_address(&lab, 1, 78 + round);
        goes_on("a new address of the called", &caller);
        new_address(&lab, 0, 78 + round);
        goes_on("a new address of the caller", &caller);
    }
    // Which takes longer than the silence after which a peer is asked whether he is there.
    new_mapping(&lab, 1, 33);
    goes_on("new mappings of the called's router", &caller);
    caller.say("\n");
    let done = caller.wait().success();
    assert!(!done.stderr.contains("a reset"), "{}", done.stderr);
}
