//! Data channels against QUIC: what the flow for any standard peer costs beside the one between two sipboxes.

use tests::{World, free_port, servers};

use crate::{ANYWHERE, Goal, LONG, ROUNDS, Table};

pub fn rows(table: &mut Table) {
    let name = "data channels, one TCP stream, against QUIC";
    if !table.wants(name) {
        return;
    }
    let world = World::new("bench-channels");
    let (mut quic, mut channels) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        quic.push(stream(&world, "quic"));
        channels.push(stream(&world, "datachannel"));
    }
    // The base is QUIC.
    table.row(name, "Gbit/s", &quic, &channels, Goal::AtLeast(0.3));
}

/// Gbit/s of iperf3 over one flow.
fn stream(world: &World, flow: &str) -> f64 {
    let port = free_port();
    let server = servers::iperf(world.run(&["--flow", flow, "--as", "peer"], "iperf3"), port);
    let client = world.run(&["--flow", flow, "--to", "peer"], "iperf3");
    let client = client.args(["-c", ANYWHERE, "-p", &port.to_string(), "-t", "3", "-O", "1", "-J"]);
    let report = client.finish_within(LONG).success().stdout;
    server.wait();
    servers::json_number(&report, "sum_received", "bits_per_second") / 1e9
}
