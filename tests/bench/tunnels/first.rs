//! The first connect() of a run to a peer, both behind NATs, with a long way between: how many round trips it takes.

use std::time::Duration;

use tests::lab::{Kind, Lab, Line, PUBLIC};
use tests::{Accounts, Coturn, World};

use super::street::{BOB, boxed, hub};
use crate::{ANYWHERE, Goal, ROUNDS, Table, number_after};

/// From one host to the other. Each of the two lines to the public network, where the servers are, has half of it.
const ONE_WAY: Duration = Duration::from_millis(25);

pub fn row(table: &mut Table) {
    let name = "first connect() through two NATs, 25 ms one way";
    if !table.wants(name) {
        return;
    }
    // Who carries packets has packet sockets.
    let Some(root) = World::as_root("bench-first-root") else {
        return table.note(name, "network namespaces need root");
    };
    let world = World::new("bench-first");
    let mut lab = Lab::new([Kind::Masquerade, Kind::Masquerade]);
    lab.set_lines(&root, Line { delay: ONE_WAY / 2, loss: 0 });
    let server = PUBLIC.to_string();
    let _hub = hub(&world, &lab.public, &server);
    let _coturn = Coturn::start(&world, &lab, Accounts::LongTerm);
    let (stun, turn) = (format!("{server}:3478"), format!("{}@{server}:3478", Coturn::USER));
    let ice = ["--stun", &stun, "--turn", &turn];
    let with_password = |launch: tests::Launch| launch.env("SIPBOX_TURN_PASSWORD", Coturn::PASSWORD);
    let called = boxed(&world, &server, "bob", &ice, "epoll-server").arg("7000").inside(&lab.sides[1].host);
    let mut called = with_password(called).start();
    called.wait_for("listening on");
    let mut trips = Vec::new();
    for _ in 0..ROUNDS {
        let flags: Vec<&str> = ice.into_iter().chain(["--to", BOB]).collect();
        let caller = boxed(&world, &server, "alice", &flags, "bench-connects").args([ANYWHERE, "7000", "1"]);
        let report = with_password(caller.inside(&lab.sides[0].host)).finish().success().stdout;
        let took = number_after(&report, "first ") / 1e6;
        trips.push(took / (2.0 * ONE_WAY.as_secs_f64()));
    }
    table.row(name, "trips", &[], &trips, Goal::Below(6.0));
}
