#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used)] // helpers of tests, which may fail as tests do
//! SIPp, as the caller and the called end, with the scenarios in tests/sipp.

use std::net::{SocketAddr, UdpSocket};
use std::path::Path;
use std::time::Duration;

use tests::{Launch, World, free_port, sip};

const ANYWHERE: &str = "198.18.0.9";

/// `sipp` with a scenario of ours, against the hub or with calls from it.
fn sipp(world: &World, scenario: &str, hub: SocketAddr) -> Launch {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("sipp").join(scenario);
    let text = std::fs::read(&file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
    let copy = world.write(scenario, text);
    world
        .native("sipp")
        .arg(hub.to_string())
        .arg("-sf")
        .arg(copy)
        .args([
            "-i",
            "127.0.0.1",
            "-nostdin",
            "-trace_err",
            "-error_file",
            "sipp.err",
            "-timeout",
            "40s",
            "-timeout_error",
        ])
        .cwd(world.dir())
}

fn hub(world: &World) -> (tests::Process, SocketAddr, String) {
    let port = free_port();
    let at = SocketAddr::from(([127, 0, 0, 1], port));
    (world.hub(port), at, format!("sip:{at}"))
}

/// Session timer, UPDATE and INVITE within the dialog, twenty calls one after the other and over each transport.
#[test]
fn a_caller_that_keeps_its_session_up() {
    let world = World::new("sipp-refresh");
    let (_hub, at, registrar) = hub(&world);
    let flags = ["--registrar", &registrar, "--as", "sip:echo@sipbox.invalid"];
    let mut server = world.run(&flags, "epoll-server").arg("7000").start();
    server.wait_for("listening on");
    for transport in ["u1", "t1"] {
        let port = free_port().to_string();
        let caller =
            sipp(&world, "refresh.xml", at).args(["-t", transport, "-p", &port, "-m", "20", "-r", "20", "-l", "5"]);
        caller.finish_within(Duration::from_secs(50)).success();
    }
}

/// A 302 leads on to where the program is.
#[test]
fn a_called_end_that_has_moved() {
    let world = World::new("sipp-redirect");
    let (_hub, at, registrar) = hub(&world);
    let aor = "sip:echo@sipbox.invalid";
    let mut server = world.run(&["--registrar", &registrar, "--as", aor], "static-echo").arg("7000").start();
    server.wait_for("listening on");
    // SIPp does not register: that is done for it.
    let port = free_port();
    let socket = sip::socket();
    let from = socket.local_addr().unwrap();
    let contact = format!("Contact: <sip:moved@127.0.0.1:{port}>\r\nExpires: 60\r\n");
    let register = sip::request("REGISTER", "sip:sipbox.invalid", "sip:moved@sipbox.invalid", from, &contact);
    assert_eq!(sip::status(&sip::ask(at, &register, &socket).unwrap()), 200);
    let places = world.write("places.csv", format!("SEQUENTIAL\n{aor}\n"));
    let called =
        sipp(&world, "redirect.xml", at).args(["-p", &port.to_string(), "-m", "1", "-inf"]).arg(places).start();
    tests::until("SIPp's port", || UdpSocket::bind(("127.0.0.1", port)).is_err().then_some(()));
    let flags = ["--registrar", &registrar, "--as", "sip:alice@sipbox.invalid", "--to", "sip:moved@sipbox.invalid"];
    let client = world.run(&flags, "static-client").args([ANYWHERE, "7000"]).finish();
    client.success().says("echo: hello over SIP");
    called.wait_within(Duration::from_secs(50)).success();
}
