#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used)] // helpers of tests, which may fail as tests do
//! The lab itself: every router does what its kind says, lines delay and lose, and nothing stays behind.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use tests::lab::{self, Filtering, Kind, Lab, Line, Mapping, PUBLIC, PUBLIC_V6};
use tests::{Accounts, Algorithm, Coturn, Kamailio, World, sip};

#[test]
fn every_router_does_what_its_kind_says() {
    if !lab::possible("every_router_does_what_its_kind_says") {
        return;
    }
    for kinds in Kind::ALL.chunks(2) {
        Lab::new([kinds[0], kinds[1]]).check();
    }
}

/// The mapping of each host is that of the router, and the two reach each other without it.
#[test]
fn two_hosts_behind_one_router() {
    if !lab::possible("two_hosts_behind_one_router") {
        return;
    }
    for kind in [Kind::Masquerade, Kind::Symmetric] {
        let lab = Lab::behind_one(kind);
        lab.check();
        let [a, b] = &lab.sides;
        let there = b.host.enter(|| UdpSocket::bind((b.v4.unwrap(), 0))).unwrap();
        let here = a.host.enter(|| UdpSocket::bind((a.v4.unwrap(), 0))).unwrap();
        here.send_to(b"next door", there.local_addr().unwrap()).unwrap();
        there.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let (n, from) = there.recv_from(&mut [0; 64]).unwrap();
        assert_eq!((n, from), (9, here.local_addr().unwrap()));
    }
}

#[test]
fn lines_delay_and_lose() {
    if !lab::possible("lines_delay_and_lose") {
        return;
    }
    let world = World::as_root("lab-lines").unwrap();
    let mut lab = Lab::new([Kind::Masquerade, Kind::Open]);
    let delay = Duration::from_millis(25);
    lab.set_lines(&world, Line { delay, loss: 100 });
    let server = lab.public.enter(|| UdpSocket::bind((PUBLIC, 0))).unwrap();
    let to = server.local_addr().unwrap();
    let client = lab.sides[0].host.enter(|| UdpSocket::bind("0.0.0.0:0")).unwrap();
    client.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    let echo = std::thread::spawn(move || {
        let mut buffer = [0; 2000];
        loop {
            let (n, from) = server.recv_from(&mut buffer).unwrap();
            if n == 1 {
                return;
            }
            server.send_to(&buffer[..n], from).unwrap();
        }
    });
    // Until the neighbours are known, frames are lost or late.
    let mut buffer = [0; 2000];
    for _ in 0..20 {
        client.send_to(b"hello", to).unwrap();
        if client.recv_from(&mut buffer).is_ok() {
            break;
        }
    }
    let sent = Instant::now();
    let sender = client.try_clone().unwrap();
    let sender = std::thread::spawn(move || {
        for _ in 0..500 {
            sender.send_to(&[7; 200], to).unwrap();
            // No faster than the echo on a busy machine: what a full socket drops is not the line's loss.
            std::thread::sleep(Duration::from_micros(300));
        }
    });
    let (mut back, mut fastest) = (0, Duration::MAX);
    while client.recv_from(&mut buffer).is_ok() {
        back += 1;
        fastest = fastest.min(sent.elapsed());
    }
    sender.join().unwrap();
    assert!(fastest >= 2 * delay && fastest < 4 * delay, "there and back in {fastest:?}");
    // 0.9 squared is 0.81.
    assert!((350..=455).contains(&back), "{back} of 500 came back");
    for _ in 0..50 {
        client.send_to(b"!", to).unwrap();
    }
    echo.join().unwrap();
}

/// TCP through a line: what the hosts leave to the network card (segmentation, checksums) is done nevertheless.
#[test]
fn a_line_carries_tcp() {
    if !lab::possible("a_line_carries_tcp") {
        return;
    }
    let world = World::as_root("lab-tcp").unwrap();
    let mut lab = Lab::new([Kind::CarrierGrade, Kind::Open]);
    lab.set_lines(&world, Line { delay: Duration::from_millis(2), loss: 0 });
    let mut server = world.native("static-echo").args(["7000", "1"]).inside(&lab.public).start();
    server.wait_for("listening on");
    let client =
        world.native("static-client").args([&PUBLIC.to_string(), "7000", "@3000000"]).inside(&lab.sides[0].host);
    client.finish().success();
    server.wait().success();
}

/// A namespace ends with its last user: what is in it cannot outlive the test, even if the test is killed.
#[test]
fn nothing_stays_behind() {
    if !lab::possible("nothing_stays_behind") {
        return;
    }
    let count = || std::fs::read_dir("/run/netns").map_or(0, Iterator::count);
    let before = count();
    let lab = Lab::new([Kind::Symmetric, Kind::DualStack]);
    assert_eq!(count(), before, "namespaces with names");
    let path = lab.sides[0].host.path();
    let inside = |path: &str| std::fs::read_link(path).map(|p| p.to_string_lossy().starts_with("net:["));
    assert!(inside(&path).unwrap());
    assert_eq!((lab.sides[0].kind.mapping(), lab.sides[1].kind.filtering()), {
        (Mapping::AddressAndPortDependent, Filtering::AddressAndPortDependent)
    });
    drop(lab);
    assert!(!inside(&path).is_ok_and(|yes| yes), "{path} is still open");
}

/// coturn's own client gets an allocation through a NAT, and its data passes through it.
#[test]
fn coturn_relays() {
    if !lab::possible("coturn_relays") {
        return;
    }
    let world = World::new("lab-coturn");
    let lab = Lab::new([Kind::Symmetric, Kind::UdpBlocked]);
    for (accounts, side) in [(Accounts::LongTerm, 0), (Accounts::Secret, 1)] {
        let coturn = Coturn::start(&world, &lab, accounts);
        let mut client =
            world.native("turnutils_uclient").inside(&lab.sides[side].host).args(["-y", "-n", "3", "-m", "1"]);
        client = match accounts {
            Accounts::LongTerm => client.args(["-u", Coturn::USER, "-w", Coturn::PASSWORD]),
            // Where there is no UDP.
            Accounts::Secret => client.args(["-t", "-u", Coturn::USER, "-W", Coturn::SECRET]),
        };
        client.arg(PUBLIC.to_string()).finish().success().says("Total lost packets 0 ");
        assert!(coturn.log().contains("ALLOCATE processed, success"), "{}", coturn.log());
        coturn.stop();
    }
}

/// A real registrar answers through any router, also where there is no UDP or no IPv4.
#[test]
fn kamailio_answers_through_routers() {
    if !lab::possible("kamailio_answers_through_routers") {
        return;
    }
    let world = World::new("lab-kamailio");
    let lab = Lab::new([Kind::CarrierGrade, Kind::Ipv6Only]);
    let kamailio = Kamailio::start_in(&world, &lab, Algorithm::Sha256, &["alice"]);
    for (side, ip) in [(&lab.sides[0], IpAddr::from(PUBLIC)), (&lab.sides[1], IpAddr::from(PUBLIC_V6))] {
        let at = SocketAddr::new(ip, kamailio.port());
        assert!(side.host.enter(|| sip::answers(at)), "{at} from {}", side.kind);
    }
    kamailio.stop();
}
