#![forbid(unsafe_code)]
//! The interfaces that a program sees: its own two, whatever way it asks, and none of the host's.

use std::collections::BTreeSet;

use tests::World;

/// What is printed as `NAME ADDRESS`.
fn pairs(output: &str) -> BTreeSet<(String, String)> {
    let pair = |l: &str| l.split_once(' ').map(|(name, address)| (name.to_owned(), address.to_owned()));
    output.lines().filter(|l| l.starts_with("lo ") || l.starts_with("sipbox0 ")).filter_map(pair).collect()
}

#[test]
fn every_way_of_asking_gives_the_same_two() {
    let world = World::new("interfaces");
    let run = |program: &str, args: &[&str]| {
        let done = world.run(&["--as", "x"], program).args(args).finish().success();
        assert_eq!(done.stderr, "", "{program}");
        done.stdout
    };
    let glibc = run("interfaces", &[]);
    let found = pairs(&glibc);
    assert_eq!(found.len(), 4, "{glibc}");
    let own = |v6: bool| found.iter().find(|(name, a)| name == "sipbox0" && a.contains(':') == v6).unwrap().1.clone();
    let (v4, v6) = (own(false), own(true));
    assert!(found.contains(&("lo".to_owned(), "127.0.0.1".to_owned())) && v4.starts_with("198.1"), "{glibc}");
    for line in ["name 1 lo".to_owned(), "name 2 sipbox0".to_owned(), format!("conf sipbox0 {v4}")] {
        assert!(glibc.lines().any(|l| l == line), "{line}: {glibc}");
    }
    assert_eq!(run("interfaces-musl", &[]), glibc);
    assert_eq!(pairs(&run("go-interfaces", &[])), found);
    let python = run("/usr/bin/python3", &["-c", "import socket; print(socket.if_nameindex())"]);
    assert_eq!(python, "[(1, 'lo'), (2, 'sipbox0')]\n");
    for ip in [&["ip"][..], &["busybox", "ip"]] {
        let shown = run(ip[0], &[&ip[1..], &["addr"]].concat());
        assert!(shown.contains(&format!("inet {v4}/32 ")) && shown.contains(&format!("inet6 {v6}/128 ")), "{shown}");
        assert_eq!(shown.lines().filter(|l| l.starts_with(|c: char| c.is_ascii_digit())).count(), 2, "{shown}");
        let route = run(ip[0], &[&ip[1..], &["route"]].concat());
        assert!(route.starts_with("default dev sipbox0") && route.lines().count() == 1, "{route}");
    }
    let one = run("ip", &["-o", "-4", "addr", "show", "dev", "sipbox0"]);
    assert!(one.contains(&v4) && one.lines().count() == 1, "{one}");
    let set = world.run(&[], "ip").args(["link", "set", "lo", "down"]).finish();
    set.ended_with(2).complains("Operation not permitted");
}
