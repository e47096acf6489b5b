#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used)] // helpers of tests, which may fail as tests do
//! `sipbox hub` as an operator runs it: users and passwords, limits, and registrations that outlive it.

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;

use nix::sys::signal::Signal;
use tests::{Launch, Process, World, free_port, sip};

const ANYWHERE: &str = "198.18.0.9";

/// A hub with flags of its own, its address and the flag that leads to it.
fn hub(world: &World, port: u16, flags: &[&str]) -> Process {
    let listen = format!("127.0.0.1:{port}");
    let mut hub = world.sipbox(&["hub", "--listen", &listen]).args(flags).start();
    hub.wait_for_err("sipbox hub: listening on");
    hub
}

fn aor(name: &str) -> String {
    format!("sip:{name}@sipbox.invalid")
}

fn run(world: &World, port: u16, name: &str, flags: &[&str], program: &str) -> Launch {
    let (registrar, aor) = (format!("sip:127.0.0.1:{port}"), aor(name));
    let mut all = vec!["--registrar", &registrar, "--as", &aor];
    all.extend(flags);
    world.run(&all, program).env("SIPBOX_PASSWORD", format!("{name}'s password"))
}

/// `sipbox hub user ...` on the world's users file.
fn user(world: &World, words: &[&str]) -> Launch {
    let file = world.path("users").display().to_string();
    world.sipbox(&["hub", "user", "--users", &file]).args(words)
}

fn add(world: &World, name: &str) {
    user(world, &["add", name]).input(format!("{name}'s password\n")).finish().success();
}

#[test]
fn a_hub_with_users_asks_for_their_passwords() {
    let world = World::new("hub-users");
    add(&world, "alice");
    add(&world, "bob");
    let file = world.path("users");
    let kept = std::fs::read_to_string(&file).unwrap();
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(kept.contains("bob:sipbox:SHA-256:") && !kept.contains("password"), "{kept}");
    let listed = user(&world, &["list"]).finish().success();
    assert_eq!(listed.stdout, "alice\nbob\n");

    let port = free_port();
    let at = SocketAddr::from(([127, 0, 0, 1], port));
    let mut hub = hub(&world, port, &["--users", &file.display().to_string()]);
    assert!(hub.stderr().contains("2 users in"), "{}", hub.stderr());
    let tcp = free_port().to_string();
    let mut server = run(&world, port, "bob", &[], "static-echo").args([&tcp]).start();
    server.wait_for("listening on");
    let call =
        || run(&world, port, "alice", &["--to", "sip:bob@sipbox.invalid"], "static-client").args([ANYWHERE, &tcp]);
    call().finish().success().says("echo: hello over SIP");
    let refused = call().env("SIPBOX_PASSWORD", "a guess").finish().ended_with(3).complains("EACCES");
    assert!(!refused.stderr.contains("a guess"), "{}", refused.stderr);
    let said = refused.stderr.lines().filter(|line| line.contains("refuses the credentials")).count();
    assert_eq!(said, 1, "a wrong password is said once:\n{}", refused.stderr);
    // Nobody is registered or called under another's name.
    run(&world, port, "eve", &["--to", "sip:bob@sipbox.invalid"], "static-client")
        .args([ANYWHERE, &tcp])
        .finish()
        .ended_with(3)
        .complains("EACCES");
    let socket = sip::socket();
    let from = socket.local_addr().unwrap();
    let contact = format!("Contact: <sip:bob@{from}>\r\n");
    let register = sip::request("REGISTER", "sip:sipbox.invalid", &aor("bob"), from, &contact);
    let answer = sip::ask(at, &register, &socket).unwrap();
    assert_eq!(sip::status(&answer), 401, "{answer}");

    // Who is removed is out with the next SIGHUP; a file that others can read is not taken.
    user(&world, &["remove", "alice"]).finish().success();
    hub.signal(Signal::SIGHUP);
    hub.wait_for_err("1 users in");
    call().finish().ended_with(3).complains("EACCES");
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
    hub.signal(Signal::SIGHUP);
    hub.wait_for_err("chmod 600 it; the users stay as they were");
    let again = world.sipbox(&["hub", "--listen", "127.0.0.1:0", "--users", &file.display().to_string()]);
    again.finish().ended_with(1).complains("chmod 600 it");
}

/// The operator removes a user whose program runs: it is out at once, its user reads why, and it does not come back.
#[test]
fn who_is_removed_is_out_at_once() {
    for transport in ["", ";transport=tcp"] {
        let world = World::new("hub-removed");
        add(&world, "alice");
        add(&world, "bob");
        let (port, file) = (free_port(), world.path("users").display().to_string());
        let mut hub = hub(&world, port, &["--users", &file, "--ladder"]);
        let registrar = format!("sip:127.0.0.1:{port}{transport}");
        let flags = ["--registrar", &registrar, "--as", &aor("bob"), "--publish", "Bob's world"];
        let bob = world.run(&flags, "static-echo").env("SIPBOX_PASSWORD", "bob's password");
        let mut bob = bob.arg("7000").start();
        bob.wait_for("listening on");
        hub.wait_for_err("NOTIFY sip:bob@");
        let call = || {
            let call = run(&world, port, "alice", &["--to", &aor("bob")], "static-client");
            call.args([ANYWHERE, "7000"]).finish()
        };
        call().success().says("echo: hello over SIP");
        let peers = || {
            let (registrar, aor) = (format!("sip:127.0.0.1:{port}"), aor("alice"));
            let peers = world.sipbox(&["peers", "--registrar", &registrar, "--as", &aor]);
            peers.env("SIPBOX_PASSWORD", "alice's password").finish().stdout
        };
        tests::until("bob is shown", || peers().contains("Bob's world").then_some(()));
        user(&world, &["remove", "bob"]).finish().success();
        hub.signal(Signal::SIGHUP);
        bob.wait_for_err("has ended it (rejected); peers cannot reach the program any more");
        call().ended_with(3).complains("EHOSTUNREACH");
        assert!(!peers().contains("Bob's world"));
        bob.stop();
        hub.signal(Signal::SIGTERM);
        hub.wait().success();
    }
}

#[test]
fn users_that_cannot_be() {
    let world = World::new("hub-no-users");
    user(&world, &["add", "a:b"]).input("x\n").finish().ended_with(1).complains("colon");
    user(&world, &["add", "a"]).input("\n").finish().ended_with(1).complains("empty password");
    user(&world, &["remove", "nobody"]).finish().ended_with(1).complains("nobody is no user");
    user(&world, &["list"]).finish().ended_with(1).complains("cannot be read");
    assert!(!world.path("users").exists() && !world.path("users.new").exists());
}

#[test]
fn a_hub_without_users_stays_on_this_machine() {
    let world = World::new("hub-open");
    for address in ["0.0.0.0:0", "[::]:0", "192.0.2.1:5060"] {
        let hub = world.sipbox(&["hub", "--listen", "127.0.0.1:0", "--listen", address]).finish();
        hub.ended_with(1).complains("hub user add");
    }
    let hub = hub(&world, free_port(), &[]);
    assert!(hub.stderr().contains("warning: no users"), "{}", hub.stderr());
}

/// The hub is killed, and the next one knows who is registered before anybody has said so again.
#[test]
fn registrations_outlive_a_killed_hub() {
    let world = World::new("hub-state");
    let port = free_port();
    let at = SocketAddr::from(([127, 0, 0, 1], port));
    let state = world.path("state").display().to_string();
    let first = hub(&world, port, &["--state", &state]);
    let tcp = free_port().to_string();
    let mut server = run(&world, port, "bob", &[], "static-echo").args([&tcp]).start();
    server.wait_for("listening on");
    let before = sip::bindings(at, &aor("bob"));
    let other = world.sipbox(&["hub", "--listen", "127.0.0.1:0", "--state", &state]).finish();
    other.ended_with(1).complains("another hub uses it");
    first.signal(Signal::SIGKILL);
    first.wait();
    assert_eq!(std::fs::metadata(&state).unwrap().permissions().mode() & 0o777, 0o600);
    let _second = hub(&world, port, &["--state", &state]);
    let address = |bindings: &[String]| bindings.iter().map(|b| sip::contact_address(b)).collect::<Vec<_>>();
    assert_eq!(address(&sip::bindings(at, &aor("bob"))), address(&before));
    let call = run(&world, port, "alice", &["--to", "sip:bob@sipbox.invalid"], "static-client");
    call.args([ANYWHERE, &tcp]).finish().success();
}
