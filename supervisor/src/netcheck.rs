//! `sipbox netcheck`: what stands between this host and the public network, and which path to expect.

use std::net::{SocketAddr, ToSocketAddrs};

use policy::{Flags, IceServer, Policy};
use sipcore::netcheck::{self, Filtering, Mapping, Relayed, Seen};

use crate::cli::Netcheck;
use crate::json::{self, quoted};

/// The password of the TURN servers' user.
const PASSWORD: &str = "SIPBOX_TURN_PASSWORD";

/// What was found out of one address of a STUN server.
struct Looked {
    server: SocketAddr,
    seen: Seen,
}

/// What a TURN server said, by UDP and by TCP.
struct Asked {
    server: SocketAddr,
    udp: Relayed,
    tcp: Relayed,
}

/// Asks all servers at once, and prints what they said. The exit status is 1 when no path to the public network was found.
pub fn run(arguments: Netcheck) -> Result<i32, String> {
    let flags = Flags { stun: arguments.stun, turn: arguments.turn, ..Flags::default() };
    let policy = Policy::from_flags(&flags).map_err(|e| e.to_string())?;
    let ice = policy.ice();
    if ice.stun.is_empty() && ice.turn.is_empty() {
        return Err("no server to ask is given; write --stun HOST:PORT, --turn USER@HOST:PORT or both".to_owned());
    }
    let password = std::env::var(PASSWORD).ok();
    let (mut stun, mut turn) = (Vec::new(), Vec::new());
    for server in &ice.stun {
        stun.extend(addresses(server)?);
    }
    for server in &ice.turn {
        let (Some(user), Some(password)) = (&server.user, &password) else {
            return Err(format!(
                "the TURN server {server} wants a user and a password: write USER@HOST, and put the password in {PASSWORD}"
            ));
        };
        turn.extend(addresses(server)?.into_iter().map(|address| (address, user.as_str(), password.as_str())));
    }
    let (looked, asked) = std::thread::scope(|scope| {
        let stun: Vec<_> = stun
            .iter()
            .map(|server| scope.spawn(|| Looked { server: *server, seen: netcheck::look(*server) }))
            .collect();
        let turn: Vec<_> = turn
            .iter()
            .map(|(server, user, password)| {
                scope.spawn(|| {
                    let udp = netcheck::relay(*server, false, user, password);
                    Asked { server: *server, udp, tcp: netcheck::relay(*server, true, user, password) }
                })
            })
            .collect();
        let looked: Vec<Looked> = stun.into_iter().filter_map(|one| one.join().ok()).collect();
        let asked: Vec<Asked> = turn.into_iter().filter_map(|one| one.join().ok()).collect();
        (looked, asked)
    });
    let expected = expected(&looked, &asked);
    match arguments.json {
        true => println!("{}", in_json(&looked, &asked, expected)),
        false => print(&looked, &asked, expected),
    }
    Ok(i32::from(expected == Expected::Nothing))
}

/// One address of each family.
fn addresses(server: &IceServer) -> Result<Vec<SocketAddr>, String> {
    let found = (server.host.as_str(), server.port).to_socket_addrs();
    let found: Vec<SocketAddr> = found.map_err(|e| format!("the server {server} has no address: {e}"))?.collect();
    let first = |v4: bool| found.iter().copied().find(|address| address.is_ipv4() == v4);
    Ok([first(true), first(false)].into_iter().flatten().collect())
}

/// The path to expect to another host.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Expected {
    Direct,
    Punched,
    ToOpen,
    Relayed,
    Nothing,
    Unknown,
}

impl Expected {
    fn word(self) -> &'static str {
        match self {
            Expected::Direct => "direct",
            Expected::Punched => "punched",
            Expected::ToOpen => "relayed-or-open-peer",
            Expected::Relayed => "relayed",
            Expected::Nothing => "none",
            Expected::Unknown => "unknown",
        }
    }

    fn text(self) -> &'static str {
        match self {
            Expected::Direct => "direct: everybody who sends UDP can reach this host",
            Expected::Punched => {
                "direct with most peers, as both send first; a relay is needed with peers behind symmetric NATs"
            }
            Expected::ToOpen => "relayed, but direct with peers that everybody can reach",
            Expected::Relayed => "relayed: UDP does not get through here, but a relay is reached",
            Expected::Nothing => {
                "none: no UDP gets through, and no relay was reached; allow UDP, or give a TURN server with --turn"
            }
            Expected::Unknown => "not known: the STUN server has no second address to tell (RFC 5780)",
        }
    }
}

fn expected(looked: &[Looked], asked: &[Asked]) -> Expected {
    let relayed = asked.iter().any(|one| one.udp.is_ok() || one.tcp.is_ok());
    let mut best = if relayed { Expected::Relayed } else { Expected::Nothing };
    for Looked { seen, .. } in looked.iter().filter(|one| one.seen.mapped.is_some()) {
        let here = match (seen.mapping, seen.filtering) {
            (_, Some(Filtering::EndpointIndependent)) => Expected::Direct,
            (Some(Mapping::None | Mapping::EndpointIndependent), Some(_)) => Expected::Punched,
            (Some(_), _) => Expected::ToOpen,
            (None, _) => Expected::Unknown,
        };
        let order = [Expected::Direct, Expected::Punched, Expected::ToOpen, Expected::Unknown, Expected::Relayed];
        let place = |e: Expected| order.iter().position(|one| *one == e).unwrap_or(order.len());
        if place(here) < place(best) {
            best = here;
        }
    }
    best
}

/// What the two together are usually called.
fn kind(seen: &Seen) -> &'static str {
    match (seen.mapped, seen.mapping, seen.filtering) {
        (None, ..) if seen.local.is_none() => "no route",
        (None, ..) if seen.by_tcp == Some(true) => "UDP blocked",
        (None, ..) => "server not reached",
        (_, Some(Mapping::None), Some(Filtering::EndpointIndependent)) => "no NAT, no firewall",
        (_, Some(Mapping::None), _) => "no NAT, stateful firewall",
        (_, Some(Mapping::EndpointIndependent), Some(Filtering::EndpointIndependent)) => "full cone NAT",
        (_, Some(Mapping::EndpointIndependent), Some(Filtering::AddressDependent)) => "restricted cone NAT",
        (_, Some(Mapping::EndpointIndependent), _) => "port-restricted cone NAT",
        (_, Some(_), _) => "symmetric NAT",
        (Some(mapped), None, _) if seen.local == Some(mapped) => "no NAT",
        (_, None, _) => "NAT of unknown kind",
    }
}

fn print(looked: &[Looked], asked: &[Asked], expected: Expected) {
    for Looked { server, seen } in looked {
        println!("STUN {server}: {}", kind(seen));
        let show = |name: &str, value: Option<String>| {
            if let Some(value) = value {
                println!("  {name:<10} {value}");
            }
        };
        show("local", seen.local.map(|a| a.to_string()));
        show("mapped", seen.mapped.map(|a| a.to_string()));
        show("mapping", seen.mapping.map(|m| m.word().to_owned()));
        show("filtering", seen.filtering.map(|f| f.word().to_owned()));
        show("by TCP", seen.by_tcp.map(|yes| if yes { "reached" } else { "not reached" }.to_owned()));
        show("round trip", seen.rtt.map(|rtt| format!("{:.1} ms", rtt.as_secs_f64() * 1000.0)));
    }
    for Asked { server, udp, tcp } in asked {
        println!("TURN {server}:");
        for (name, relayed) in [("by UDP", udp), ("by TCP", tcp)] {
            match relayed {
                Ok(address) => println!("  {name:<10} relay at {address}"),
                Err(why) => println!("  {name:<10} {why}"),
            }
        }
    }
    println!("expect: {}", expected.text());
}

fn in_json(looked: &[Looked], asked: &[Asked], expected: Expected) -> String {
    let text = |value: Option<String>| json::text(value.as_deref());
    let stun = looked.iter().map(|Looked { server, seen }| {
        format!(
            "{{\"server\":{},\"kind\":{},\"local\":{},\"mapped\":{},\"mapping\":{},\"filtering\":{},\"by_tcp\":{},\"rtt_ms\":{}}}",
            quoted(&server.to_string()),
            quoted(kind(seen)),
            text(seen.local.map(|a| a.to_string())),
            text(seen.mapped.map(|a| a.to_string())),
            text(seen.mapping.map(|m| m.word().to_owned())),
            text(seen.filtering.map(|f| f.word().to_owned())),
            seen.by_tcp.map_or("null".to_owned(), |yes| yes.to_string()),
            seen.rtt.map_or("null".to_owned(), |rtt| format!("{:.3}", rtt.as_secs_f64() * 1000.0)),
        )
    });
    let relayed = |relayed: &Relayed| match relayed {
        Ok(address) => format!("{{\"relay\":{}}}", quoted(&address.to_string())),
        Err(why) => format!("{{\"error\":{}}}", quoted(why)),
    };
    let turn = asked.iter().map(|Asked { server, udp, tcp }| {
        format!("{{\"server\":{},\"udp\":{},\"tcp\":{}}}", quoted(&server.to_string()), relayed(udp), relayed(tcp))
    });
    let (stun, turn): (Vec<_>, Vec<_>) = (stun.collect(), turn.collect());
    format!("{{\"stun\":[{}],\"turn\":[{}],\"expect\":{}}}", stun.join(","), turn.join(","), quoted(expected.word()))
}
