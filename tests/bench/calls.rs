//! Trapped calls, one at a time: each against the native call, and against the native call and a bare notification round trip.

use tests::{Launch, World};

use crate::{Goal, LONG, ROUNDS, Side, Table, in_turns, number_after};

/// How often a call is made in one measurement.
const CALLS: &str = "10000";
/// The calls, as `bench-micro` names them, and as the table does.
const TRAPPED: [(&str, &str); 7] = [
    ("bind", "bind()"),
    ("getsockname", "getsockname()"),
    ("sendto", "sendto() with an address, 64 B"),
    ("recvfrom", "recvfrom() with an address, 64 B"),
    ("recvmsg", "recvmsg() with an address, 64 B"),
    ("accept", "accept() + close()"),
    ("connect", "connect() to the own loopback"),
];
/// How a program is kept apart: in a network of its own not all of them are trapped.
const ISOLATIONS: [&str; 2] = ["seccomp", "netns"];
/// How many sockets one supervisor looks after: few, and many.
const FEW: &str = "100";
const MANY: &str = "10000";

pub fn rows(table: &mut Table) {
    let world = World::new("bench-calls");
    if table.wants("socket() + close()") {
        let (native, sipbox) = in_turns(&world, |side| micro(side, &["socket", CALLS]));
        table.row("socket() + close()", "us", &native, &sipbox, Goal::AtMost(1.1));
    }
    for (call, name) in TRAPPED {
        if table.wants(name) {
            trapped(table, &world, call, name);
        }
    }
    crowd(table, &world);
}

/// The median cost of a call in microseconds.
fn micro(side: &Side, args: &[&str]) -> f64 {
    median_of(side.server("bench-micro").args(args))
}

fn median_of(launch: Launch) -> f64 {
    number_after(&launch.finish_within(LONG).success().stdout, "median ") / 1e3
}

/// What a call costs when one supervisor looks after many sockets.
fn crowd(table: &mut Table, world: &World) {
    let limits = world.write("many.toml", "[limits]\nsockets = 20000\n");
    let flags = ["--as", "peer", "--policy", &limits.to_string_lossy()];
    for call in ["getsockname", "sendto", "bind"] {
        let name = format!("{call}(), each of 10,000 sockets to 100");
        if !table.wants(&name) {
            continue;
        }
        let (mut few, mut many, mut few_of_many) = (Vec::new(), Vec::new(), Vec::new());
        let (mut least_few, mut least_many) = (Vec::new(), Vec::new());
        let (mut native_few, mut native_many) = (Vec::new(), Vec::new());
        let alone = |sockets| micro(&Side { world, boxed: false }, &[call, CALLS, sockets]);
        for _ in 0..ROUNDS {
            native_few.push(alone(FEW));
            native_many.push(alone(MANY));
            least_few.push(floor(world, &[call, FEW]));
            least_many.push(floor(world, &[call, MANY]));
            few.push(median_of(world.run(&flags, "bench-micro").args([call, CALLS, FEW])));
            many.push(median_of(world.run(&flags, "bench-micro").args([call, CALLS, MANY])));
            few_of_many.push(median_of(world.run(&flags, "bench-micro").args([call, CALLS, MANY, FEW])));
        }
        // What the supervisor has to look for the socket in; the kernel has as many of them in use as before.
        table.row(&format!("{call}(), 100 of 10,000 sockets to 100"), "us", &few, &few_of_many, Goal::AtMost(1.2));
        // And then no cache of the processor holds the kernel's own structures of so many sockets, with a supervisor or without: the native
        // call grows, too.
        table.row(&name, "us", &few, &many, Goal::AtMost(1.2));
        table.row("  (natively)", "us", &native_few, &native_many, Goal::None);
        table.row("  (the least in C)", "us", &least_few, &least_many, Goal::None);
        let grown =
            |few: &[f64], many: &[f64]| -> Vec<f64> { few.iter().zip(many).map(|(few, many)| many / few).collect() };
        let (natively, here) = (grown(&native_few, &native_many), grown(&few, &many));
        table.row("  times its cost with 100: natively, here", "", &natively, &here, Goal::None);
    }
}

/// The cost of a trapped call that is answered at once, or of this one with the least that its supervisor can do, in microseconds.
fn floor(world: &World, call: &[&str]) -> f64 {
    median_of(world.native("bench-floor").arg(CALLS).args(call))
}

/// The least, where the kernel puts the program and its supervisor.
fn floor_anywhere(world: &World, call: &str) -> f64 {
    median_of(world.native("bench-floor").arg(CALLS).arg(call).env("FREE", "1"))
}

fn trapped(table: &mut Table, world: &World, call: &str, name: &str) {
    let (mut native, mut bare, mut least, mut anywhere) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let mut sipbox = ISOLATIONS.map(|_| Vec::new());
    let (mut native_on_one, mut bare_on_one, mut on_one) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let alone = micro(&Side { world, boxed: false }, &[call, CALLS]);
        native.push(alone);
        bare.push(alone + floor(world, &[]));
        least.push(floor(world, &[call]));
        anywhere.push(floor_anywhere(world, call));
        let alone = median_of(pinned(world, &[], call));
        native_on_one.push(alone);
        bare_on_one.push(alone + floor(world, &[]));
        let sipbox_path = world.sipbox_path().to_string_lossy();
        on_one.push(median_of(pinned(world, &[&sipbox_path, "run", "--isolation", ISOLATIONS[0], "--"], call)));
        for (isolation, values) in ISOLATIONS.iter().zip(&mut sipbox) {
            let side = Side { world, boxed: true };
            values.push(median_of(side.server_with(&["--isolation", isolation], "bench-micro").args([call, CALLS])));
        }
    }
    for (isolation, sipbox) in ISOLATIONS.iter().zip(&sipbox) {
        table.row(&format!("{name}, {isolation}"), "us", &native, sipbox, Goal::None);
        if matches!(call, "bind" | "getsockname") {
            table.row("  to native + bare round trip", "us", &bare, sipbox, Goal::AtMost(1.3));
        }
        table.row("  to native + bare round trip", "us", &bare, sipbox, Goal::AtMost(2.0));
    }
    // The bare round trip knows neither which socket is meant nor what its caller's memory says, and makes no call for it.
    table.row("  to the least in C, which does all that", "us", &least, &sipbox[0], Goal::None);
    table.row("  (that least to native + bare round trip)", "us", &bare, &least, Goal::None);
    // Where a descriptor is installed the kernel wakes the program on another processor, if that is idle.
    table.row("  (and where the kernel puts both)", "us", &bare, &anywhere, Goal::None);
    // There the table compares what is done for a call, not where the kernel puts who does it.
    table.row(&format!("{name}, {}, one processor", ISOLATIONS[0]), "us", &native_on_one, &on_one, Goal::None);
    table.row("  to native + bare round trip", "us", &bare_on_one, &on_one, Goal::AtMost(2.0));
}

/// The program, under what `boxed` starts, with all of it on one processor.
fn pinned(world: &World, boxed: &[&str], call: &str) -> Launch {
    let program = world.program("bench-micro");
    world.native("taskset").args(["--cpu-list", "0"]).args(boxed).arg(&program).args([call, CALLS])
}
