//! `sipbox netcheck`: what stands between this host and the public network, and which path to expect.

use std::net::SocketAddr;

use policy::{Flags, Policy};
use sipcore::flow::{Relay, RelayBy, Servers};
use sipcore::netcheck::{self, Filtering, Mapping, Relayed, Seen};

use crate::cli::Netcheck;
use crate::flow::{Found, Helpers};
use crate::identity::{self, Identity};
use crate::json::{self, quoted};

/// What was found out of one address of a STUN server.
struct Looked {
    server: SocketAddr,
    seen: Seen,
}

/// What a TURN server said to each way of asking.
struct Asked {
    server: SocketAddr,
    ways: Vec<(Way, Relayed)>,
}

/// How a TURN server was asked.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Udp,
    Tcp,
    Tls,
}

impl Way {
    fn of(by: &RelayBy) -> Way {
        match by {
            RelayBy::Udp => Way::Udp,
            RelayBy::Tcp => Way::Tcp,
            RelayBy::Tls(_) => Way::Tls,
        }
    }

    fn word(self) -> &'static str {
        match self {
            Way::Udp => "UDP",
            Way::Tcp => "TCP",
            Way::Tls => "TLS",
        }
    }
}

/// Asks all servers at once, and prints what they said. The exit status is 1 when no path to the public network was found.
pub fn run(arguments: Netcheck) -> Result<i32, String> {
    let found = find(&arguments)?;
    let Servers { stun, turn } = &found.servers;
    if stun.is_empty() && turn.is_empty() {
        return Err("no server to ask is left".to_owned());
    }
    // One that takes datagrams takes connections, most often; where UDP is blocked that is what counts.
    let beside = turn.iter().filter(|relay| matches!(relay.by, RelayBy::Udp));
    let beside = beside.map(|relay| Relay { by: RelayBy::Tcp, ..relay.clone() });
    let is_given =
        |one: &Relay| turn.iter().any(|relay| relay.address == one.address && Way::of(&relay.by) == Way::Tcp);
    let beside: Vec<Relay> = beside.filter(|one| found.named.is_empty() && !is_given(one)).collect();
    let (looked, answers) = std::thread::scope(|scope| {
        let stun: Vec<_> = stun
            .iter()
            .map(|server| scope.spawn(|| Looked { server: *server, seen: netcheck::look(*server) }))
            .collect();
        let turn: Vec<_> =
            turn.iter().chain(&beside).map(|relay| scope.spawn(move || (relay, netcheck::relay(relay)))).collect();
        let looked: Vec<Looked> = stun.into_iter().filter_map(|one| one.join().ok()).collect();
        let answers: Vec<(&Relay, Relayed)> = turn.into_iter().filter_map(|one| one.join().ok()).collect();
        (looked, answers)
    });
    let mut asked: Vec<Asked> = Vec::new();
    for (relay, answer) in answers {
        let way = (Way::of(&relay.by), answer);
        match asked.iter_mut().find(|one| one.server == relay.address) {
            Some(one) => one.ways.push(way),
            None => asked.push(Asked { server: relay.address, ways: vec![way] }),
        }
    }
    let expected = expected(&looked, &asked);
    match arguments.json {
        true => println!("{}", in_json(&found.named, &looked, &asked, expected)),
        false => print(&found.named, &looked, &asked, expected),
    }
    Ok(i32::from(expected == Expected::Nothing))
}

/// The servers to ask: those that are given, or that DNS names for the registrar's domain.
fn find(arguments: &Netcheck) -> Result<Found, String> {
    let flags = Flags {
        as_uri: arguments.as_uri.clone(),
        registrar: arguments.home.registrar.clone(),
        stun: arguments.stun.clone(),
        turn: arguments.turn.clone(),
        ..Flags::default()
    };
    let policy = Policy::from_flags(&flags).map_err(|e| e.to_string())?;
    let identity = Identity::new(&policy, &arguments.home, None, || "anonymous".to_owned())?;
    let around = identity.around();
    let domains = around.domains.clone();
    let password = std::env::var(identity::TURN_PASSWORD_VARIABLE).ok();
    let has_password = password.is_some();
    let helpers = Helpers::new(policy.ice().clone(), password, around)?;
    if !helpers.are_named() && domains.is_empty() {
        return Err(
            "no server to ask is given; write --stun HOST:PORT, --turn USER@HOST:PORT or both, or --registrar \
                    sip:DOMAIN for those that DNS names"
                .to_owned(),
        );
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|e| e.to_string())?;
    let found = match helpers.are_named() {
        true => runtime.block_on(helpers.named()),
        false => runtime.block_on(helpers.of_the_domain()),
    };
    runtime.shutdown_background();
    found.notes.iter().for_each(|note| crate::say::line(note));
    if !helpers.are_named() && found.named.is_empty() {
        return Err(format!(
            "DNS names no STUN and TURN servers for {} (asked for SRV: _stun._udp, _turn._udp, _turn._tcp, _turns._tcp); give --stun \
             HOST:PORT or --turn USER@HOST:PORT",
            domains.join(" and ")
        ));
    }
    if !has_password && found.named.iter().any(|one| one.starts_with("_turn")) {
        crate::say::line(
            "the TURN servers that DNS names want a password: put it in SIPBOX_TURN_PASSWORD, and say with --as who you are there",
        );
    }
    Ok(found)
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
    let relayed = asked.iter().flat_map(|one| &one.ways).any(|(_, answer)| answer.is_ok());
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

fn print(named: &[String], looked: &[Looked], asked: &[Asked], expected: Expected) {
    for one in named {
        println!("DNS {one}");
    }
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
    for Asked { server, ways } in asked {
        println!("TURN {server}:");
        for (way, relayed) in ways {
            match relayed {
                Ok(address) => println!("  by {:<7} relay at {address}", way.word()),
                Err(why) => println!("  by {:<7} {why}", way.word()),
            }
        }
    }
    println!("expect: {}", expected.text());
}

fn in_json(named: &[String], looked: &[Looked], asked: &[Asked], expected: Expected) -> String {
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
    let turn = asked.iter().map(|Asked { server, ways }| {
        let ways =
            ways.iter().map(|(way, answer)| format!(",\"{}\":{}", way.word().to_ascii_lowercase(), relayed(answer)));
        format!("{{\"server\":{}{}}}", quoted(&server.to_string()), ways.collect::<String>())
    });
    let dns = named.iter().map(|one| quoted(one));
    let (dns, stun, turn): (Vec<_>, Vec<_>, Vec<_>) = (dns.collect(), stun.collect(), turn.collect());
    format!(
        "{{\"dns\":[{}],\"stun\":[{}],\"turn\":[{}],\"expect\":{}}}",
        dns.join(","),
        stun.join(","),
        turn.join(","),
        quoted(expected.word())
    )
}
