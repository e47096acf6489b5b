#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used)] // helpers of tests, which may fail as tests do
//! Two runs that call each other, at once or one after the other, have one session between them.

use std::collections::HashSet;
use std::time::Duration;

use tests::lab::{self, Kind, Lab};
use tests::{Accounts, Coturn, Process, Registrar, Signalling, World, until};

/// Any address leads to the peer of `--to`: this one is nobody's.
const ANYWHERE: &str = "198.18.0.9";

/// A program that listens, connects when it is told to, and ends when it is told to once more.
fn talker(world: &World, lab: &Lab, registrar: &Registrar, side: usize) -> Process {
    talker_by(world, lab, registrar, side, &[])
}

fn talker_by(world: &World, lab: &Lab, registrar: &Registrar, side: usize, flags: &[&str]) -> Process {
    let (own, other) = [("alice", "bob"), ("bob", "alice")][side];
    let (echo, client) = (world.program("static-echo"), world.program("static-client"));
    let script = format!(
        "{} 7000 & while read -r word && [ \"$word\" != end ]; do {} {ANYWHERE} 7000 \"$word\"; echo \"$word $?\"; done; kill $!",
        echo.display(),
        client.display()
    );
    let to = registrar.aor(other);
    let flags = [&["--to", &to, "--ladder"], flags].concat();
    let run = registrar.run(world, lab, side, own, &flags, "sh");
    let mut run = run.args(["-c", &script]).talk().start();
    run.wait_for("listening on");
    run
}

/// How many sessions this end has had with the other: calls that were taken. (The path of one may change, and be told again.)
fn sessions(run: &Process) -> usize {
    let said = run.stderr();
    let taken = said.lines().filter(|line| line.contains("SIP/2.0 200 OK") && line.ends_with(" INVITE]"));
    let calls = taken.filter_map(|line| line.rsplit_once('[')?.1.split(' ').next());
    calls.collect::<HashSet<_>>().len()
}

fn invites(run: &Process) -> usize {
    run.stderr().lines().filter(|line| line.contains("-->") && line.contains("  INVITE sip:")).count()
}

fn one_session(test: &str, signalling: Signalling, rounds: u32) {
    if !lab::possible(test) {
        return;
    }
    let world = World::new(test);
    let lab = Lab::new([Kind::Masquerade, Kind::Masquerade]);
    let registrar = Registrar::start(&world, &lab, signalling);
    let _coturn = Coturn::start(&world, &lab, Accounts::LongTerm);
    for round in 0..rounds {
        let mut runs = [0, 1].map(|side| talker(&world, &lab, &registrar, side));
        // Who is first, and by how much, is another one each time: from at once to when the first has its session nearly.
        let first = (round % 2) as usize;
        runs[first].say("one\n");
        std::thread::sleep(Duration::from_millis(u64::from(round / 2) * 4));
        runs[1 - first].say("one\n");
        for run in &mut runs {
            run.wait_for("one 0");
        }
        // Once more, each in turn: nothing is said of it.
        let before: Vec<usize> = runs.iter().map(invites).collect();
        for run in &mut runs {
            run.say("two\n");
            run.wait_for("two 0");
        }
        let after: Vec<usize> = runs.iter().map(invites).collect();
        let said = || format!("round {round}\n{}\n--- bob\n{}", runs[0].stderr(), runs[1].stderr());
        assert_eq!(before, after, "{}", said());
        for run in &runs {
            until("the session to be told", || (sessions(run) > 0).then_some(()));
            assert_eq!(sessions(run), 1, "{}", said());
        }
        for mut run in runs {
            run.say("end\n");
            run.wait();
        }
    }
}

#[test]
fn two_that_call_each_other_at_once_have_one_session() {
    one_session("glare-hub", Signalling::Hub, 16);
}

#[test]
fn two_that_call_each_other_at_once_over_kamailio_have_one_session() {
    one_session("glare-kamailio", Signalling::Kamailio, 8);
}

/// With flows that belong to who has called: two that call each other at once have a session each, and both work, however the calls cross.
fn two_sessions(test: &str, kinds: [Kind; 2], flow: &str, said: &str) {
    if !lab::possible(test) {
        return;
    }
    let world = World::new(test);
    let lab = Lab::new(kinds);
    let registrar = Registrar::start(&world, &lab, Signalling::Hub);
    let _coturn = Coturn::start(&world, &lab, Accounts::LongTerm);
    for round in 0..6 {
        let mut runs = [0, 1].map(|side| talker_by(&world, &lab, &registrar, side, &["--flow", flow]));
        let first = round % 2;
        runs[first].say("one\n");
        // From at once to when the first has its session nearly.
        std::thread::sleep(Duration::from_millis(round as u64 / 2 * 15));
        runs[1 - first].say("one\n");
        for word in ["one", "two"] {
            for run in &mut runs {
                run.wait_for(&format!("{word} 0"));
            }
            if word == "one" {
                // At once again, now that there are sessions.
                runs.iter_mut().for_each(|run| run.say("two\n"));
            }
        }
        for run in &runs {
            until("the flow to be said", || run.stderr().contains(said).then_some(()));
        }
        for run in &mut runs {
            run.say("end\n");
        }
        runs.into_iter().for_each(|run| drop(run.wait()));
    }
}

#[test]
fn two_that_call_each_other_at_once_by_data_channels() {
    two_sessions("glare-channels", [Kind::Masquerade, Kind::Masquerade], "datachannel", "data channel flow with");
}

#[test]
fn two_that_call_each_other_at_once_by_tls() {
    two_sessions("glare-tls", [Kind::Open, Kind::Open], "tls", ": TLS, ");
}

/// One of them is behind a NAT: whoever calls, that end opens the connection.
#[test]
fn two_that_call_each_other_at_once_by_tls_out_of_a_nat() {
    two_sessions("glare-tls-nat", [Kind::Masquerade, Kind::Open], "tls", ": TLS, ");
}

/// The called end calls back: its sockets go into the session that stands.
#[test]
fn a_session_that_stands_carries_the_other_ends_sockets_too() {
    if !lab::possible("a_session_that_stands_carries_the_other_ends_sockets_too") {
        return;
    }
    let world = World::new("glare-stands");
    let lab = Lab::new([Kind::Masquerade, Kind::Symmetric]);
    let registrar = Registrar::start(&world, &lab, Signalling::Hub);
    let _coturn = Coturn::start(&world, &lab, Accounts::LongTerm);
    let [mut alice, mut bob] = [0, 1].map(|side| talker(&world, &lab, &registrar, side));
    alice.say("one\n");
    alice.wait_for("one 0");
    for (n, word) in ["two", "three"].into_iter().enumerate() {
        bob.say(&format!("{word}\n"));
        bob.wait_for(&format!("{word} 0"));
        // He asks once, and is told which session it is.
        assert_eq!((sessions(&alice), sessions(&bob), invites(&bob)), (1, 1, 1), "{n}\n{}", bob.stderr());
    }
    assert!(bob.stderr().contains("491 Session Stands"), "{}", bob.stderr());
    // And with the first end gone another one is set up.
    alice.say("end\n");
    alice.wait();
    let mut alice = talker(&world, &lab, &registrar, 0);
    bob.say("four\n");
    bob.wait_for("four 0");
    until("the session to be told", || (sessions(&alice) == 1).then_some(()));
    for run in [&mut alice, &mut bob] {
        run.say("end\n");
    }
    alice.wait();
    bob.wait();
}
