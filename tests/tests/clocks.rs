#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used)] // helpers of tests, which may fail as tests do
//! Time that does not pass as it should: the clock of the machine is set, and a process does not run for a while.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::signal::Signal;
use tests::{Launch, Process, World, free_port, sip, until};

const ANYWHERE: &str = "198.18.0.9";
const LIBRARY: &str = "/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1";
const LIMIT: Duration = Duration::from_secs(40);
const BOB: &str = "sip:bob@sipbox.invalid";

/// A clock for the programs of a test, which is set while they run. Their monotonic clock is the kernel's.
struct Clock(PathBuf);

impl Clock {
    fn new(world: &World) -> Clock {
        assert!(Path::new(LIBRARY).exists(), "{LIBRARY} is missing: tests/install.sh");
        Clock(world.write("clock", "+0"))
    }

    /// From now on it is off by this: `+10d`, `-3h`.
    fn set(&self, off: &str) {
        std::fs::write(&self.0, off).unwrap();
    }

    fn on(&self, launch: Launch) -> Launch {
        let launch = launch.env("LD_PRELOAD", LIBRARY).env("FAKETIME_TIMESTAMP_FILE", &self.0);
        launch.env("FAKETIME_NO_CACHE", "1").env("FAKETIME_DONT_FAKE_MONOTONIC", "1")
    }

    fn now(&self, world: &World) -> i64 {
        self.on(world.native("date")).arg("+%s").finish().success().stdout.trim().parse().unwrap()
    }
}

/// A policy by which a program is registered for ten seconds at a time.
fn policy(world: &World, registrar: &str) -> String {
    let text = format!(
        "schema = 1\n[identity]\naor = \"{BOB}\"\nregistrar = \"{registrar}\"\nexpires = 10\ncredentials = {{ env = \
         \"BOB_PASSWORD\" }}\n[default]\nbind = \"publish\"\n[[bind]]\nport = 7000\npublish = \"Bob's world\"\n"
    );
    world.write("bob.toml", text).display().to_string()
}

fn call(world: &World, registrar: &str) {
    let flags = ["--registrar", registrar, "--as", "sip:alice@sipbox.invalid", "--to", BOB];
    let call = world.run(&flags, "static-client").env("SIPBOX_PASSWORD", "alice's");
    call.args([ANYWHERE, "7000"]).finish().success().says("echo: hello over SIP");
}

/// The clock goes days forward and back, under a hub with users, nonces, presence, TURN credentials and a file of bindings, and under a program that is
/// registered there: nobody is lost, neither at once nor after refreshes, nor when the hub is killed and finds its file from another time.
#[test]
fn the_clock_is_set() {
    let world = World::new("clock-set");
    let clock = Clock::new(&world);
    let users = world.path("users").display().to_string();
    for user in ["alice", "bob"] {
        let add = world.sipbox(&["hub", "user", "--users", &users, "add", user]);
        add.input(format!("{user}'s\n")).finish().success();
    }
    let (port, state) = (free_port(), world.path("state").display().to_string());
    let (listen, registrar) = (format!("127.0.0.1:{port}"), format!("sip:127.0.0.1:{port}"));
    let hub = || {
        let hub = world.sipbox(&["hub", "--listen", &listen, "--users", &users, "--state", &state]);
        let mut hub = clock.on(hub.args(["--turn", "127.0.0.1:0"]).arg("--ladder")).start();
        hub.wait_for_err("sipbox hub: ready");
        hub
    };
    let first = hub();
    let policy = policy(&world, &registrar);
    let bob = world.run(&["--policy", &policy], "static-echo").env("BOB_PASSWORD", "bob's").arg("7000");
    let mut bob = clock.on(bob).start();
    bob.wait_for("listening on");
    let refreshed = |hub: &Process| {
        // The 200 to a REGISTER of bob's: only he is there for long.
        let count =
            |hub: &Process| hub.stderr().lines().filter(|l| l.contains("200 OK") && l.contains("REGISTER]")).count();
        let before = count(hub);
        until("bob has registered once more", || (count(hub) > before).then_some(()));
    };
    let start = clock.now(&world);
    for (off, days) in [("+400d", 400), ("-10d", -10), ("+0", 0)] {
        clock.set(off);
        let jumped = clock.now(&world) - start - days * 86_400;
        assert!((0..600).contains(&jumped), "{off}: the clock is off by {jumped} s more");
        call(&world, &registrar);
        refreshed(&first);
        call(&world, &registrar);
    }
    let mut last = first;
    for off in ["-10d", "+10d"] {
        last.signal(Signal::SIGKILL);
        last.wait();
        clock.set(off);
        last = hub();
        refreshed(&last);
        call(&world, &registrar);
    }
    assert!(!bob.ended());
}

/// A run that is stopped for longer than its registration stands is back when it goes on, and hears of no call that was made meanwhile.
#[test]
fn a_run_is_stopped_for_longer_than_it_is_registered() {
    let world = World::new("clock-stopped");
    let port = free_port();
    let (at, registrar) = (SocketAddr::from(([127, 0, 0, 1], port)), format!("sip:127.0.0.1:{port}"));
    let _hub = world.hub(port);
    let policy = policy(&world, &registrar);
    let mut bob = world.run(&["--policy", &policy], "static-echo").env("BOB_PASSWORD", "none").arg("7000").start();
    bob.wait_for("listening on");
    for _ in 0..2 {
        sip::wait_for_bindings(at, BOB, 1, LIMIT);
        call(&world, &registrar);
        bob.signal(Signal::SIGSTOP);
        sip::wait_for_bindings(at, BOB, 0, LIMIT);
        bob.signal(Signal::SIGCONT);
    }
    sip::wait_for_bindings(at, BOB, 1, LIMIT);
    call(&world, &registrar);
}
