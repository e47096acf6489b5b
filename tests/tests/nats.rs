#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used)] // helpers of tests, which may fail as tests do
//! Two programs behind every pair of routers, over TCP and UDP: they reach each other, directly whenever the routers allow it, else by a relay. The
//! table of the paths taken is printed (`--no-capture`), and so is what is missing in it.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tests::lab::{self, Filtering, Kind, Lab, Mapping};
use tests::{Accounts, Coturn, Registrar, Signalling, World, until};

/// Any address leads to the peer of `--to`: this one is nobody's.
const ANYWHERE: &str = "198.18.0.9";
/// Labs at a time: each has two hosts and their servers, on few cores.
const AT_ONCE: usize = 2;
/// What a pair may take, with all retransmissions.
const PATIENCE: Duration = Duration::from_secs(40);

/// The path that two kinds of routers allow: what RFC 4787's terms for them say, not what sipbox does.
fn allowed(a: Kind, b: Kind) -> Path {
    if a.has_v6() && b.has_v6() {
        return Path::NotRelayed;
    }
    if a == Kind::UdpBlocked || b == Kind::UdpBlocked || !a.has_v4() || !b.has_v4() {
        return Path::Relayed;
    }
    // Whom anybody reaches is reached by whoever is behind anything.
    if [a, b].iter().any(|kind| kind.filtering() == Filtering::EndpointIndependent) {
        return Path::NotRelayed;
    }
    // Both must send first; each must know where the other comes from.
    if [a, b].iter().any(|kind| kind.mapping() == Mapping::AddressAndPortDependent) {
        return Path::Relayed;
    }
    // A packet that is early moves the mapping of such a router for good. The called end sends first: that it does by enough is chance.
    if [a, b].contains(&Kind::MasqueradeOpenInput) { Path::Either } else { Path::NotRelayed }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Path {
    NotRelayed,
    Relayed,
    /// Which one comes first is chance.
    Either,
}

/// The path of a run, from its trace: `direct`, `reflexive` or `relayed`.
fn path(trace: &str) -> String {
    let line = trace.lines().rfind(|line| line.contains("encrypted flow with")).unwrap_or_default();
    let word = ["direct", "reflexive", "relayed"].into_iter().find(|word| line.contains(&format!(": {word}, ")));
    word.map_or_else(|| format!("unknown ({line})"), str::to_owned)
}

/// Both programs between the two sides of a lab: the paths, or what went wrong.
fn through(world: &World, lab: &Lab, signalling: Signalling) -> [Result<String, String>; 2] {
    let server = Registrar::start(world, lab, signalling);
    let _coturn = Coturn::start(world, lab, Accounts::LongTerm);
    let to = server.aor("bob");
    [("static-echo", &["7000", "1"][..]), ("udp-server", &["7000", "1"])].map(|(program, args)| {
        let mut called = server.run(world, lab, 1, "bob", &[], program).args(args).start();
        called.wait_for("listening on");
        let client = |program| server.run(world, lab, 0, "alice", &["--to", &to], program);
        let caller = match program {
            "static-echo" => client("static-client").args([ANYWHERE, "7000", "@200000"]),
            _ => client("udp-client").args(["connected", ANYWHERE, "7000", "20"]),
        };
        let mut caller = caller.start();
        let ended = tests::within(PATIENCE, || caller.ended().then_some(()));
        let trace = caller.stderr();
        match ended {
            None => Err(format!("not done after {PATIENCE:?}\n{trace}\n--- called\n{}", called.stderr())),
            Some(()) => match caller.wait().code() {
                0 => Ok(path(&trace)),
                code => Err(format!("status {code}\n{trace}\n--- called\n{}", called.stderr())),
            },
        }
    })
}

/// What a lab is made of.
#[derive(Clone, Copy)]
enum Place {
    Two(Kind, Kind),
    BehindOne(Kind),
}

impl Place {
    fn name(self) -> String {
        match self {
            Place::Two(a, b) => format!("{a}-{b}"),
            Place::BehindOne(kind) => format!("one-{kind}"),
        }
    }

    fn allowed(self) -> Path {
        match self {
            Place::Two(a, b) => allowed(a, b),
            Place::BehindOne(_) => Path::NotRelayed,
        }
    }
}

/// Each pair of kinds: the caller is the one that is earlier in the list.
fn places() -> Vec<Place> {
    let kinds = Kind::ALL;
    let pairs = kinds.iter().enumerate().flat_map(|(n, a)| kinds[n..].iter().map(|b| Place::Two(*a, *b)));
    pairs.chain([Kind::Masquerade, Kind::Symmetric].map(Place::BehindOne)).collect()
}

fn every_pair(test: &str, signalling: Signalling) {
    if !lab::possible(test) {
        return;
    }
    let only = std::env::var("SIPBOX_TEST_PAIR").ok();
    let places: Vec<Place> = places().into_iter().filter(|p| only.as_ref().is_none_or(|o| *o == p.name())).collect();
    let next = AtomicUsize::new(0);
    let rows: Mutex<Vec<(usize, String, bool)>> = Mutex::default();
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                while let Some((n, place)) = {
                    let n = next.fetch_add(1, Ordering::Relaxed);
                    places.get(n).map(|place| (n, *place))
                } {
                    let (row, good) = one(place, signalling, test);
                    rows.lock().unwrap().push((n, row, good));
                }
            });
        }
    });
    let mut rows = rows.into_inner().unwrap();
    rows.sort();
    println!("{:<14} {:<12} {:<10} {:<10}", "routers", "allowed", "TCP", "UDP");
    for (_, row, _) in &rows {
        println!("{row}");
    }
    let bad: Vec<&str> = rows.iter().filter(|(.., good)| !good).map(|(_, row, _)| row.as_str()).collect();
    assert!(bad.is_empty() && rows.len() == places.len(), "{} of {} pairs:\n{}", bad.len(), rows.len(), bad.join("\n"));
}

/// The row of one pair, and whether it is as it must be.
fn one(place: Place, signalling: Signalling, test: &str) -> (String, bool) {
    let lab = match place {
        Place::Two(a, b) => Lab::new([a, b]),
        Place::BehindOne(kind) => Lab::behind_one(kind),
    };
    let world = World::new(&format!("{test}-{}", place.name()));
    let allowed = place.allowed();
    let found = through(&world, &lab, signalling);
    let mut good = true;
    let cells = found.map(|found| {
        let path = found.unwrap_or_else(|why| {
            eprintln!("=== {}: {why}", place.name());
            "FAILED".to_owned()
        });
        good &= match allowed {
            Path::NotRelayed => path == "direct" || path == "reflexive",
            Path::Relayed => path == "relayed",
            Path::Either => ["direct", "reflexive", "relayed"].contains(&path.as_str()),
        };
        path
    });
    let allowed = match allowed {
        Path::NotRelayed => "not relayed",
        Path::Relayed => "relayed",
        Path::Either => "either",
    };
    (format!("{:<14} {allowed:<12} {:<10} {:<10}", place.name(), cells[0], cells[1]), good)
}

#[test]
fn every_pair_of_routers_by_the_hub() {
    every_pair("nats-hub", Signalling::Hub);
}

#[test]
fn every_pair_of_routers_by_kamailio() {
    every_pair("nats-kamailio", Signalling::Kamailio);
}

/// The caller is behind a router that a packet which is early misleads: the first search ends at a relay, and the second one, from other ports and the
/// other way round, without. The program notices nothing.
#[test]
fn a_relay_is_done_without_when_the_other_end_is_first() {
    let test = "a_relay_is_done_without_when_the_other_end_is_first";
    if !lab::possible(test) {
        return;
    }
    for signalling in [Signalling::Hub, Signalling::Kamailio] {
        let world = World::new(&format!("nats-again-{signalling:?}").to_lowercase());
        let lab = Lab::new([Kind::MasqueradeOpenInput, Kind::Masquerade]);
        let server = Registrar::start(&world, &lab, signalling);
        let _coturn = Coturn::start(&world, &lab, Accounts::LongTerm);
        let mut called = server.run(&world, &lab, 1, "bob", &[], "static-echo").args(["7000", "1"]).start();
        called.wait_for("listening on");
        let to = server.aor("bob");
        let caller = server.run(&world, &lab, 0, "alice", &["--to", &to], "busybox");
        let mut caller = caller.args(["nc", ANYWHERE, "7000"]).talk().start();
        caller.say("one\n");
        caller.wait_for("one");
        for run in [&caller, &called] {
            until("a path without a relay", || (path(&run.stderr()) == "reflexive").then_some(()));
        }
        println!("{}", caller.stderr());
        caller.say("two\n");
        caller.wait_for("two");
        caller.hang_up();
        caller.wait().success();
        called.wait().success();
    }
}
