//! Two hosts behind routers of any kind, and a public network between them, in network namespaces of their own (veth pairs, nftables).
//!
//! ```text
//!   host A --- router A --+-- public: 198.51.100.10, .11, 2001:db8:100::10, ::11 --+-- router B --- host B
//! ```
//!
//! Nothing has a name outside the test's process: when that ends, however it ends, the kernel takes all of it away.

mod capture;
mod namespace;
mod nat;
mod probe;

pub use capture::{Capture, holding};
pub use namespace::Namespace;
pub use nat::{Filtering, Kind, Mapping};
pub use probe::Behaviour;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpListener, TcpStream};
use std::time::Duration;

use probe::Reflector;

use crate::process::{Process, until};
use crate::world::World;

/// The servers' address in the public network.
pub const PUBLIC: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 10);
/// Their second one.
pub const PUBLIC_OTHER: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 11);
/// Their IPv6 address.
pub const PUBLIC_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0x100, 0, 0, 0, 0, 0x10);
/// Their second one.
pub const PUBLIC_V6_OTHER: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0x100, 0, 0, 0, 0, 0x11);

/// What a line between a router and the public network does to each packet, in each direction.
#[derive(Clone, Copy, Debug, Default)]
pub struct Line {
    /// How long a packet takes.
    pub delay: Duration,
    /// Packets lost of a thousand.
    pub loss: u32,
}

/// One of the two hosts, and what it is behind.
pub struct Side {
    /// What it is behind.
    pub kind: Kind,
    /// Where its programs run.
    pub host: Namespace,
    /// From the host outwards.
    pub routers: Vec<Namespace>,
    /// Its address, if it has one of this family.
    pub v4: Option<Ipv4Addr>,
    /// The same for IPv6.
    pub v6: Option<Ipv6Addr>,
    /// The IPv4 address that the public network sees, if any.
    pub outside: Option<Ipv4Addr>,
}

/// The whole.
pub struct Lab {
    /// Where the servers are.
    pub public: Namespace,
    /// The two hosts.
    pub sides: [Side; 2],
    lines: Vec<Process>,
}

/// Whether namespaces can be made here. Says loudly what is not tested when not.
pub fn possible(test: &str) -> bool {
    let root = nix::unistd::getuid().is_root();
    if !root {
        eprintln!("SKIPPED {test}: network namespaces need root; run the tests as root (CI does)");
    }
    root
}

impl Lab {
    /// Two hosts, each behind a router of its own.
    pub fn new(kinds: [Kind; 2]) -> Lab {
        let public = public();
        let sides = [1, 2].map(|number| {
            let kind = kinds[number - 1];
            let side = side(kind, number);
            attach(&public, side.routers.last().unwrap_or(&side.host), number);
            route(&public, &side, number);
            side
        });
        // The routers know each other's routed networks, so that nothing crosses the public host itself but what is meant for it.
        for (number, side) in [(1, &sides[0]), (2, &sides[1])] {
            let Some(other) = sides[2 - number].routers.last() else { continue };
            if side.kind.is_routed() {
                other.ip(&format!("route add 198.51.10{number}.0/24 via 198.51.100.{}", number + 1));
            }
            if side.kind.has_v6() {
                other.ip(&format!("route add 2001:db8:{number}::/64 via 2001:db8:100::{}", number + 1));
            }
        }
        Lab { public, sides, lines: Vec::new() }.settled()
    }

    /// Two hosts in one network behind one router, whose kind translates addresses.
    pub fn behind_one(kind: Kind) -> Lab {
        let public = public();
        let router = Namespace::new("router");
        let hosts = [Namespace::new("host A"), Namespace::new("host B")];
        router.ip("link add in address 02:00:00:00:00:01 type bridge\nlink set in up\naddr add 192.168.1.1/24 dev in");
        for (index, host) in hosts.iter().enumerate() {
            host.ip(&format!(
                "link add eth0 type veth peer name port{index} netns {}\naddr add 192.168.1.{}/24 dev eth0\n\
                 link set eth0 up\nroute add default via 192.168.1.1",
                router.path(),
                index + 2
            ));
            router.ip(&format!("link set port{index} master in up"));
        }
        router.sysctl("net/ipv4/ip_forward", "1");
        router.nft(&kind.rules("192.168.1.2"));
        attach(&public, &router, 1);
        let mut number = 1;
        let sides = hosts.map(|host| {
            number += 1;
            let v4 = Some(Ipv4Addr::new(192, 168, 1, number));
            let outside = Some(Ipv4Addr::new(198, 51, 100, 2));
            Side { kind, host, routers: vec![router.clone()], v4, v6: None, outside }
        });
        Lab { public, sides, lines: Vec::new() }.settled()
    }

    /// Waits until both hosts reach the public network: bridges and neighbours take a moment.
    fn settled(self) -> Lab {
        for side in &self.sides {
            let families: [(bool, IpAddr); 2] =
                [(side.v4.is_some(), PUBLIC.into()), (side.v6.is_some(), PUBLIC_V6.into())];
            for (_, ip) in families.into_iter().filter(|(has, _)| *has) {
                let listener = self.public.enter(|| TcpListener::bind((ip, 0)));
                let at = listener.as_ref().ok().and_then(|l| l.local_addr().ok());
                let at = at.unwrap_or_else(|| panic!("no TCP socket on {ip}"));
                let connect = || TcpStream::connect_timeout(&at, Duration::from_millis(20)).ok();
                side.host.enter(|| until(&format!("{} behind {} to reach {ip}", side.host.name(), side.kind), connect));
            }
        }
        self
    }

    /// Makes the lines of both routers to the public network slow or lossy. The world keeps the programs that carry the packets.
    pub fn set_lines(&mut self, world: &World, line: Line) {
        let carrier = Namespace::new("line");
        let mut outermost: Vec<(usize, &Namespace)> = Vec::new();
        for (index, side) in self.sides.iter().enumerate() {
            let router = side.routers.last().unwrap_or(&side.host);
            if !outermost.iter().any(|(_, known)| known.path() == router.path()) {
                outermost.push((index + 1, router));
            }
        }
        for (number, _) in outermost {
            // The end of the router's cable is taken out of the bridge and into the carrier; a new cable leads from there to the bridge.
            self.public.ip(&format!("link set port{number} nomaster\nlink set port{number} netns {}", carrier.path()));
            carrier.ip(&format!(
                "link set port{number} up\nlink add far{number} type veth peer name port{number} netns {}\nlink set far{number} up",
                self.public.path()
            ));
            self.public.ip(&format!("link set port{number} master br0 up"));
            let micros = line.delay.as_micros().to_string();
            let mut program = world
                .native("line")
                .inside(&carrier)
                .args([&format!("port{number}"), &format!("far{number}"), &micros, &line.loss.to_string()])
                .talk()
                .start();
            program.wait_for("carrying");
            self.lines.push(program);
        }
    }

    /// Looks at what the routers of one side really do. `None` for a family that the side does not have.
    pub fn behaviour(&self, side: usize, v6: bool) -> Option<Behaviour> {
        let one = &self.sides[side];
        let (local, outside, servers): (IpAddr, IpAddr, [IpAddr; 2]) = match v6 {
            false => (one.v4?.into(), one.outside?.into(), [PUBLIC.into(), PUBLIC_OTHER.into()]),
            true => (one.v6?.into(), one.v6?.into(), [PUBLIC_V6.into(), PUBLIC_V6_OTHER.into()]),
        };
        Some(Reflector::new(&self.public, servers[0], servers[1]).look(&one.host, local, outside))
    }

    /// Panics when the routers do not do what their kinds say.
    pub fn check(&self) {
        for (index, side) in self.sides.iter().enumerate() {
            if side.kind.has_v4() {
                let seen = self.behaviour(index, false);
                let expected = Behaviour {
                    mapping: side.kind.mapping(),
                    filtering: side.kind.filtering(),
                    moved_by_early_packet: side.kind == Kind::MasqueradeOpenInput,
                };
                assert_eq!(seen, Some(expected), "the router of side {index}, {}", side.kind);
            }
            if side.kind.has_v6() {
                let seen = self.behaviour(index, true);
                let expected = Behaviour {
                    mapping: Mapping::None,
                    filtering: Filtering::AddressAndPortDependent,
                    moved_by_early_packet: false,
                };
                assert_eq!(seen, Some(expected), "the router of side {index}, {}, IPv6", side.kind);
            }
        }
    }
}

/// The public network: a bridge, with the servers' addresses. Its own MAC address would change with its ports.
fn public() -> Namespace {
    let public = Namespace::new("the public network");
    public.ip(&format!(
        "link add br0 address 02:00:00:00:00:10 type bridge\nlink set br0 up\naddr add {PUBLIC}/24 dev br0\naddr add {PUBLIC_OTHER}/24 dev br0\n\
         addr add {PUBLIC_V6}/64 dev br0 nodad\naddr add {PUBLIC_V6_OTHER}/64 dev br0 nodad"
    ));
    public
}

/// A cable from a router to the public network.
fn attach(public: &Namespace, router: &Namespace, number: usize) {
    let last = number + 1;
    router.ip(&format!(
        "link add out type veth peer name port{number} netns {}\naddr add 198.51.100.{last}/24 dev out\n\
         addr add 2001:db8:100::{last}/64 dev out nodad\nlink set out up\nroute add default via {PUBLIC}\n\
         route add default via {PUBLIC_V6}",
        public.path()
    ));
    public.ip(&format!("link set port{number} master br0 up"));
}

/// The way back to hosts with public addresses.
fn route(public: &Namespace, side: &Side, number: usize) {
    let last = number + 1;
    if side.kind.is_routed() {
        public.ip(&format!("route add 198.51.10{number}.0/24 via 198.51.100.{last}"));
    }
    if side.kind.has_v6() {
        public.ip(&format!("route add 2001:db8:{number}::/64 via 2001:db8:100::{last}"));
    }
}

/// A host and the routers before it, the last of them not yet attached to the public network.
fn side(kind: Kind, number: usize) -> Side {
    let letter = ["?", "A", "B"][number];
    let host = Namespace::new(&format!("host {letter}"));
    let router = Namespace::new(&format!("router {letter}"));
    let last = u8::try_from(number).unwrap_or_else(|_| unreachable!("1 or 2"));
    let network = if kind.is_routed() { [198, 51, 100 + last] } else { [192, 168, last] };
    let at = |n: u8| Ipv4Addr::new(network[0], network[1], network[2], n);
    let v4 = kind.has_v4().then(|| at(2));
    let v6 = kind.has_v6().then(|| Ipv6Addr::new(0x2001, 0xdb8, last.into(), 0, 0, 0, 0, 2));
    host.ip(&format!("link add eth0 type veth peer name in netns {}\nlink set eth0 up", router.path()));
    router.ip("link set in up");
    if let Some(v4) = v4 {
        router.ip(&format!("addr add {}/24 dev in", at(1)));
        host.ip(&format!("addr add {v4}/24 dev eth0\nroute add default via {}", at(1)));
    }
    if let Some(v6) = v6 {
        router.ip(&format!("addr add 2001:db8:{number}::1/64 dev in nodad"));
        host.ip(&format!("addr add {v6}/64 dev eth0 nodad\nroute add default via 2001:db8:{number}::1"));
    }
    router.sysctl("net/ipv4/ip_forward", "1");
    router.sysctl("net/ipv6/conf/all/forwarding", "1");
    let rules = kind.rules(&at(2).to_string());
    if !rules.is_empty() {
        router.nft(&rules);
    }
    let mut routers = vec![router];
    if kind == Kind::CarrierGrade {
        let carrier = Namespace::new(&format!("carrier {letter}"));
        routers[0].ip(&format!(
            "link add out type veth peer name in netns {}\naddr add 100.64.{number}.2/24 dev out\nlink set out up\n\
             route add default via 100.64.{number}.1",
            carrier.path()
        ));
        carrier.ip(&format!("link set in up\naddr add 100.64.{number}.1/24 dev in"));
        carrier.sysctl("net/ipv4/ip_forward", "1");
        carrier.nft(&kind.rules(""));
        routers.push(carrier);
    }
    let outside = v4.map(|own| if kind.is_routed() { own } else { Ipv4Addr::new(198, 51, 100, last + 1) });
    Side { kind, host, routers, v4, v6, outside }
}
