//! The loopback of a run: two of its processes speak to each other, with no session.

use tests::{World, free_port, servers};

use crate::datagrams::isolations;
use crate::{Goal, LONG, Table, in_turns};

/// Both ends of iperf3: the client starts when the server listens. Its port, and what the client is told besides.
const BOTH: &str = r#"exec 3>&1
iperf3 -s -1 -p "$0" --forceflush | { read -r _; iperf3 -c 127.0.0.1 -p "$0" -J "$@" >&3; cat >/dev/null; }"#;

pub fn rows(table: &mut Table) {
    let world = World::new("bench-loopback");
    for isolation in isolations(&world) {
        let flags: Vec<&str> = isolation.iter().flat_map(|name| ["--isolation", name]).collect();
        for (what, args) in [
            ("one TCP stream", &["-t", "2", "-O", "1"][..]),
            ("UDP of 1200 B that arrives", &["-t", "2", "-u", "-b", "0", "-l", "1200"]),
        ] {
            let name = format!("private loopback, {what}, {}", isolation.unwrap_or("seccomp"));
            if !table.wants(&name) {
                continue;
            }
            let (native, sipbox) = in_turns(&world, |side| {
                let run = if side.boxed { world.run(&flags, "sh") } else { world.native("sh") };
                let run = run.args(["-c", BOTH, &free_port().to_string()]).args(args);
                let report = run.finish_within(LONG).success().stdout;
                servers::json_number(&report, "sum_received", "bits_per_second") / 1e9
            });
            table.row(&name, "Gbit/s", &native, &sipbox, Goal::AtLeast(0.9));
        }
    }
}
