#![forbid(unsafe_code)]
//! A real game, over UDP: the server of Minetest behind one NAT, a player behind another. The player's client draws to nowhere (the null driver of
//! its engine) and is the client that people play with else.

use tests::lab::{self, Kind, Lab};
use tests::{Accounts, Coturn, Registrar, Signalling, World, until};

/// Any address leads to the peer of `--to`: this one is nobody's.
const ANYWHERE: &str = "198.18.0.9";
/// Debian keeps games apart.
const SERVER: &str = "/usr/games/minetestserver";
const CLIENT: &str = "/usr/games/minetest";

#[test]
fn minetest_behind_two_nats() {
    if !lab::possible("minetest_behind_two_nats") {
        return;
    }
    let world = World::new("game");
    let lab = Lab::new([Kind::Masquerade, Kind::Masquerade]);
    let registrar = Registrar::start(&world, &lab, Signalling::Hub);
    let _coturn = Coturn::start(&world, &lab, Accounts::LongTerm);
    let conf = world.write("server.conf", "default_game = minetest\nmg_name = flat\nenable_damage = false\n");
    let map = world.make_dir("map", 0o755);
    let server = registrar.run(&world, &lab, 1, "bob", &[], SERVER).arg("--config").arg(conf).arg("--world").arg(map);
    let mut server =
        server.args(["--gameid", "minetest", "--port", "30000", "--logfile"]).arg(world.path("server.log")).start();
    server.wait_for_err("listening on");

    let conf =
        world.write("client.conf", "video_driver = null\nenable_sound = false\nfps_max = 10\nviewing_range = 20\n");
    let client =
        registrar.run(&world, &lab, 0, "alice", &["--to", &registrar.aor("bob")], CLIENT).arg("--config").arg(conf);
    let client = client.args(["--address", ANYWHERE, "--port", "30000", "--name", "player", "--go"]).start();
    // The address that the server sees is that of alice, from the block of virtual ones.
    let joined = server.wait_for_err("joins game. List of players: player");
    assert!(joined.contains("player [198.1"), "{joined}");
    let path = until("the path to be said", || {
        client.stderr().lines().find(|l| l.contains("encrypted flow with")).map(str::to_owned)
    });
    assert!(path.contains(": reflexive, "), "{path}");
    println!("{joined}\n{path}");
    client.stop();
    server.stop();
}
