#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used)] // helpers of tests, which may fail as tests do
//! `sipbox netcheck` behind every kind of router: what it prints is what the router is, by coturn and by the hub's own server.

use tests::lab::{self, Filtering, Kind, Lab, Mapping, PUBLIC, PUBLIC_OTHER, PUBLIC_V6, PUBLIC_V6_OTHER};
use tests::{Accounts, Coturn, Done, Kamailio, Process, World};

fn start(world: &World, lab: &Lab, side: usize, flags: &[&str]) -> Process {
    let check = world.sipbox(&["netcheck"]).args(flags).inside(&lab.sides[side].host);
    check.env("SIPBOX_TURN_PASSWORD", Coturn::PASSWORD).start()
}

fn netcheck(world: &World, lab: &Lab, side: usize, flags: &[&str]) -> Done {
    start(world, lab, side, flags).wait()
}

/// The words that must stand in what is printed.
fn words(kind: Kind, v6: bool) -> (&'static str, Option<[&'static str; 2]>) {
    let mapping = |mapping| match mapping {
        Mapping::None => "none",
        Mapping::EndpointIndependent => "endpoint-independent",
        _ => "address-and-port-dependent",
    };
    let filtering = |filtering| match filtering {
        Filtering::EndpointIndependent => "endpoint-independent",
        _ => "address-and-port-dependent",
    };
    let said = match kind {
        _ if v6 => "no NAT, stateful firewall",
        Kind::Open => "no NAT, no firewall",
        Kind::Firewall => "no NAT, stateful firewall",
        Kind::FullCone => "full cone NAT",
        Kind::Masquerade | Kind::MasqueradeOpenInput | Kind::DualStack => "port-restricted cone NAT",
        Kind::Symmetric | Kind::CarrierGrade => "symmetric NAT",
        Kind::UdpBlocked | Kind::Ipv6Only => return ("UDP blocked", None),
    };
    match v6 {
        true => (said, Some(["none", "address-and-port-dependent"])),
        false => (said, Some([mapping(kind.mapping()), filtering(kind.filtering())])),
    }
}

fn expect(kind: Kind) -> &'static str {
    match kind {
        Kind::Open | Kind::FullCone => "direct",
        Kind::Symmetric | Kind::CarrierGrade => "relayed-or-open-peer",
        Kind::UdpBlocked => "relayed",
        _ => "punched",
    }
}

#[test]
fn every_router_is_told_as_what_it_is() {
    if !lab::possible("every_router_is_told_as_what_it_is") {
        return;
    }
    let halves: Vec<&[Kind]> = Kind::ALL.chunks(2).collect();
    std::thread::scope(|scope| {
        for (n, pairs) in halves.chunks(3).enumerate() {
            scope.spawn(move || pairs.iter().enumerate().for_each(|(m, kinds)| told(10 * n + m, kinds)));
        }
    });
}

/// Two routers, each told as what it is.
fn told(n: usize, kinds: &[Kind]) {
    let world = World::new(&format!("netcheck-{n}"));
    let lab = Lab::new([kinds[0], kinds[1]]);
    let _coturn = Coturn::start(&world, &lab, Accounts::LongTerm);
    for (side, kind) in kinds.iter().enumerate() {
        let v4 = format!("{PUBLIC}:3478");
        let v6 = format!("[{PUBLIC_V6}]:3478");
        let turn = format!("{}@{}", Coturn::USER, if kind.has_v4() { &v4 } else { &v6 });
        let mut flags = vec!["--turn", &turn];
        for (has, server) in [(kind.has_v4(), &v4), (kind.has_v6(), &v6)] {
            if has {
                flags.extend(["--stun", server]);
            }
        }
        let json: Vec<&str> = flags.iter().copied().chain(["--json"]).collect();
        let json = start(&world, &lab, side, &json);
        let done = netcheck(&world, &lab, side, &flags).success();
        let json = json.wait().success().stdout;
        for (has, family) in [(kind.has_v4(), false), (kind.has_v6(), true)] {
            let (said, details) = words(*kind, family);
            let server = if family { &v6 } else { &v4 };
            assert!(!has || done.stdout.contains(&format!("STUN {server}: {said}\n")), "{kind}\n{}", done.stdout);
            if let Some([mapping, filtering]) = details.filter(|_| has) {
                assert!(done.stdout.contains(&format!("mapping    {mapping}\n")), "{kind}\n{}", done.stdout);
                assert!(done.stdout.contains(&format!("filtering  {filtering}\n")), "{kind}\n{}", done.stdout);
            }
        }
        let by_udp = *kind != Kind::UdpBlocked;
        assert_eq!(done.stdout.contains("by UDP     relay at"), by_udp, "{kind}\n{}", done.stdout);
        assert!(done.stdout.contains("by TCP     relay at"), "{kind}\n{}", done.stdout);
        assert!(json.contains(&format!("\"expect\":\"{}\"}}", expect(*kind))), "{kind}\n{json}");
    }
}

/// The hub's own server tells the same as coturn.
#[test]
fn the_hub_tells_how_routers_behave() {
    if !lab::possible("the_hub_tells_how_routers_behave") {
        return;
    }
    let world = World::new("netcheck-hub");
    let lab = Lab::new([Kind::Symmetric, Kind::DualStack]);
    let users = world.path("users").display().to_string();
    let add = world.sipbox(&["hub", "user", "--users", &users, "add", "alice"]);
    add.input(format!("{}\n", Kamailio::password("alice"))).finish().success();
    let all = [PUBLIC.to_string(), PUBLIC_OTHER.to_string(), format!("[{PUBLIC_V6}]"), format!("[{PUBLIC_V6_OTHER}]")];
    let mut hub = world.sipbox(&["hub", "--listen", &format!("{PUBLIC}:5060"), "--users", &users]).inside(&lab.public);
    for address in &all {
        hub = hub.args(["--turn", &format!("{address}:3478")]);
    }
    let mut hub = hub.start();
    hub.wait_for_err("sipbox hub: ready");
    let stun = format!("{PUBLIC}:3478");
    netcheck(&world, &lab, 0, &["--stun", &stun])
        .success()
        .says("symmetric NAT")
        .says("relayed, but direct with peers");
    let both = netcheck(&world, &lab, 1, &["--stun", &stun, "--stun", &format!("[{PUBLIC_V6}]:3478")]).success();
    both.says("port-restricted cone NAT").says("no NAT, stateful firewall");
}

#[test]
fn what_cannot_be_asked_is_said() {
    let world = World::new("netcheck-bad");
    let check = |flags: &[&str]| world.sipbox(&["netcheck"]).args(flags).finish();
    check(&[]).ended_with(2).complains("--stun HOST:PORT");
    check(&["--turn", "127.0.0.1:9"]).ended_with(2).complains("SIPBOX_TURN_PASSWORD");
    check(&["--stun", "no such host"]).ended_with(2).complains("no such host");
    let silent = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let silent = silent.local_addr().unwrap().to_string();
    check(&["--stun", &silent]).ended_with(1).says("server not reached").says("expect: none");
}
