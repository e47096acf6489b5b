//! Unconnected UDP between two runs, one trapped call a datagram at each end, in every isolation that this sipbox has.

use tests::{World, free_port};

use crate::{Goal, LONG, Side, Table, in_turns, median, number_after};

pub fn rows(table: &mut Table) {
    let world = World::new("bench-datagrams");
    for isolation in isolations(&world) {
        let flags: Vec<&str> = isolation.iter().flat_map(|name| ["--isolation", name]).collect();
        for bytes in [64, 1200] {
            let how = isolation.unwrap_or("seccomp");
            let name = format!("unconnected UDP, {bytes} B, {how}");
            if !table.wants(&name) {
                continue;
            }
            let (mut arrived, mut arrived_native) = (Vec::new(), Vec::new());
            let (native, sipbox) = in_turns(&world, |side| {
                let (rate, share) = flood(side, &flags, bytes);
                if side.boxed { &mut arrived } else { &mut arrived_native }.push(share);
                rate / 1e3
            });
            table.row(&name, "k/s", &native, &sipbox, Goal::None);
            // A receiver that is slower than its sender loses what its queue cannot hold.
            if let (Some(_), Some(_)) = (median(&arrived_native), median(&arrived)) {
                table.row("  (share of what was sent)", "", &arrived_native, &arrived, Goal::None);
            }
        }
    }
}

/// The isolations that the binary offers; None: it has but one, and no flag for it.
pub fn isolations(world: &World) -> Vec<Option<&'static str>> {
    let help = world.sipbox(&["run", "--help"]).finish_within(LONG).stdout;
    if help.contains("--isolation") { vec![Some("seccomp"), Some("netns")] } else { vec![None] }
}

/// Datagrams received a second, and which share of the sent ones they are.
fn flood(side: &Side, flags: &[&str], bytes: usize) -> (f64, f64) {
    let port = free_port().to_string();
    let mut receiver = side.server_with(flags, "bench-pps").args(["receive", &port]).start();
    receiver.wait_for("listening on");
    let sender = side.client_with(flags, "bench-pps").args(["send", side.address(), &port, &bytes.to_string(), "1"]);
    sender.finish_within(LONG).success();
    let report = receiver.wait_within(LONG).success().stdout;
    (number_after(&report, "received "), number_after(&report, "pps, "))
}
