#![forbid(unsafe_code)]
//! Ways out, each tried by a program and each closed.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;

use tests::{World, free_port};

#[test]
fn other_processes_of_the_user_are_out_of_reach() {
    let world = World::new("out-process");
    let victim = world.native("sleep").arg("30").start();
    let pid = victim.pid().to_string();
    // Without sipbox an ordinary user may do both, where no security module forbids it.
    let landlock = std::fs::read_to_string("/sys/kernel/security/lsm").unwrap_or_default().contains("landlock");
    for part in ["memory", "signal"] {
        let stopped = world.run(&[], "way-out").args([part, &pid]).finish();
        if landlock {
            stopped.success();
        }
    }
    let supervised = world.run(&[], "sh").args(["-c", "exec \"$0\" memory $PPID", "way-out"]).finish();
    assert_ne!(supervised.code(), 9, "{}", supervised.stdout);
    victim.stop();
}

#[test]
fn sockets_of_others_are_out_of_reach() {
    let world = World::new("out-unix");
    let path = world.path("foreign.sock");
    let listener = UnixListener::bind(&path).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o777)).unwrap();
    listener.set_nonblocking(true).unwrap();
    world.run(&[], "way-out").arg("unix").arg(&path).finish().success();
    assert!(listener.accept().is_err(), "somebody connected to the foreign socket");
}

#[test]
fn a_planted_hub_leads_nowhere() {
    let world = World::new("out-hub");
    // TEST-NET-1: nobody is there, and nothing may be sent there.
    let done = world.run(&["--to", "somebody"], "way-out").args(["hub", "192.0.2.1:9"]).finish();
    done.success().complains("did not start");
}

#[test]
fn a_service_on_the_wildcard_address_is_no_peer() {
    let world = World::new("out-wildcard");
    let port = free_port();
    let service = std::net::TcpListener::bind(("0.0.0.0", port)).unwrap();
    service.set_nonblocking(true).unwrap();
    // The port of a service of this machine, by every address that means the program itself.
    for address in ["127.0.0.1", "127.64.0.1", "0.0.0.0"] {
        let client =
            world.run(&["--as", "x", "--to", "x"], "static-client").args([address, &port.to_string()]).finish();
        client.complains("ECONNREFUSED");
    }
    assert!(service.accept().is_err(), "somebody connected to the service");
}

#[test]
fn a_closed_standard_error_changes_nothing() {
    let world = World::new("out-stderr");
    let script = "\"$0\" 198.18.0.9 7000 2>result; \"$0\" 198.18.0.9 7001 2>>result; exit 0";
    let client = world.program("static-client");
    let line = format!(
        "{{ '{}' run -- sh -c '{script}' '{}'; }} 2>&1 >/dev/null | true",
        world.sipbox_path().display(),
        client.display()
    );
    world.native("sh").args(["-c", &line]).finish();
    let result = tests::until("both refusals", || {
        let text = std::fs::read_to_string(world.path("result")).unwrap_or_default();
        (text.lines().count() >= 2).then_some(text)
    });
    assert_eq!(result.matches("EACCES").count(), 2, "{result}");
}
