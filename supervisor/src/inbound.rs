//! Calls of peers: which socket is meant, may it be, and over which of the offered flows.

use std::net::{IpAddr, SocketAddr, SocketAddrV4};
use std::sync::Arc;

use policy::Encrypted;
use sipcore::agent::{Direct, End, IncomingCall, Line, Proto, Setup, Tls};

use crate::flow::{Offered, Remote};
use crate::names::is_reachable;
use crate::sessions::may_be_peer;
use crate::supervisor::{Supervisor, policy_proto};
use crate::table::{Bound, Cookie, Expected};
use crate::{datagram, doorbell, flow, own, ping};

/// A socket of the program that a peer means.
#[derive(Clone, Copy)]
pub struct Endpoint {
    pub cookie: Cookie,
    pub bound: Bound,
    /// The peer's address, as the program is to see it.
    pub peer: SocketAddr,
}

/// Finds the socket that `from` means, if the policy lets him. `seen_port`: the port of his own socket. The error is the SIP status
/// that is owed, and its reason.
pub fn find(
    supervisor: &Arc<Supervisor>,
    from: &str,
    proto: Proto,
    port: Option<u16>,
    seen_port: u16,
) -> Result<Endpoint, (u16, &'static str)> {
    let endpoint = match &supervisor.network {
        Some(network) => own::find(network, supervisor, from, proto, port, seen_port).ok_or(NOTHING)?,
        None => find_known(supervisor, from, proto, port, seen_port).ok_or(NOTHING)?,
    };
    allowed(supervisor, from, proto, endpoint.bound.virtual_.port())?;
    supervisor.callers.lock().note(endpoint.peer.ip().to_canonical(), from);
    Ok(endpoint)
}

fn find_known(
    supervisor: &Supervisor,
    from: &str,
    proto: Proto,
    port: Option<u16>,
    seen_port: u16,
) -> Option<Endpoint> {
    let is_meant = |b: &Bound| is_reachable(supervisor, proto, &b.virtual_);
    let found = supervisor
        .reached(proto, |table, passed| table.labelled(proto, port, |b| is_meant(b) && !passed.contains(&b.physical)));
    let (cookie, bound) = found?;
    // The address is derived here from who calls: what the peer says of itself could be anybody's, 127.0.0.1 among them.
    let (v4, v6) = supervisor.policy.virtual_addresses(from);
    let (is_v6, v6only) = {
        let table = supervisor.table.lock();
        table.get(cookie).map_or((false, false), |s| (s.v6, s.v6only))
    };
    let ip: IpAddr = if is_v6 && v6only { v6.into() } else { v4.into() };
    Some(Endpoint { cookie, bound, peer: SocketAddr::new(ip, seen_port) })
}

const NOTHING: (u16, &str) = (486, "Nothing Listens There");

/// Whether there is a socket that peers may mean.
pub fn is_open(supervisor: &Supervisor) -> bool {
    let open = match &supervisor.network {
        Some(network) => network.open_endpoints(),
        None => supervisor.table.lock().open_endpoints(),
    };
    open.iter().any(|(proto, local)| is_reachable(supervisor, *proto, local))
}

/// Whether there is a socket that the policy lets `from` reach.
fn any(supervisor: &Supervisor, from: &str) -> Result<(), (u16, &'static str)> {
    let open = match &supervisor.network {
        Some(network) => network.open_endpoints(),
        None => supervisor.table.lock().open_endpoints(),
    };
    let may = |(proto, local): &(Proto, SocketAddr)| {
        is_reachable(supervisor, *proto, local)
            && supervisor.policy.accept_from(policy_proto(*proto), local.port(), from)
    };
    if open.iter().any(may) { Ok(()) } else { Err(NOTHING) }
}

/// Whether the policy lets `from` reach this port.
fn allowed(supervisor: &Supervisor, from: &str, proto: Proto, port: u16) -> Result<(), (u16, &'static str)> {
    if supervisor.policy.accept_from(policy_proto(proto), port, from) {
        return Ok(());
    }
    crate::say::say!("{from} was refused by the policy on {proto}/{port}");
    Err((403, "Not Allowed by Policy"))
}

/// The flow that is taken.
enum Chosen {
    Direct(SocketAddrV4, Setup),
    Encrypted(Remote),
    Outer(Offered),
}

/// An INVITE from a peer: finds the socket that its label means and answers.
pub fn incoming(supervisor: &Arc<Supervisor>, call: IncomingCall) {
    let (line, chosen) = match choose(supervisor, &call) {
        Ok((line, chosen)) => (line.clone(), chosen),
        Err(why) => return call.reject(488, why),
    };
    if supervisor.sessions.is_full() {
        return call.reject(480, "Too Many Sessions");
    }
    let is_encrypted = matches!(chosen, Chosen::Encrypted(_));
    if is_encrypted && ping::is_ping(line.label) && !ping::answer(supervisor, &call.from.to_string()) {
        return call.reject(403, "Not Allowed by Policy");
    }
    let chosen = match chosen {
        Chosen::Encrypted(remote) if ping::is_ping(line.label) => {
            tokio::spawn(flow::accept(supervisor.clone(), call, line.index, remote, None));
            return;
        }
        other => other,
    };
    let seen_port = match (line.virtual_source.port(), &chosen) {
        (0, Chosen::Direct(source, _)) => source.port(),
        (port, _) => port,
    };
    let port = line.label.as_ref().map(|l| l.port);
    // Of data channels each says for itself which socket it means, where the description says nothing.
    let each = port.is_none() && matches!(chosen, Chosen::Encrypted(Remote::Channels(_)));
    let from = call.from.to_string();
    let found = match find(supervisor, &from, line.proto, port, seen_port) {
        Err((486, _)) if each => any(supervisor, &from).map(|()| None),
        found => found.map(Some),
    };
    let endpoint = match found {
        Ok(endpoint) => endpoint,
        Err((status, reason)) => return call.reject(status, reason),
    };
    match chosen {
        Chosen::Direct(source, setup) => {
            if let Some(endpoint) = endpoint {
                accept_direct(supervisor, call, &line, endpoint, source, setup);
            }
        }
        Chosen::Encrypted(remote) => {
            let coming = match &remote {
                Remote::Quic(remote) => match supervisor.sessions.links.meets(&call.from, remote.fingerprint) {
                    Ok(coming) => coming,
                    Err(own) => return call.reject_for(own),
                },
                Remote::Channels(_) => None,
            };
            supervisor.sessions.note(call.id);
            supervisor.sessions.note_party(call.id, &call.from.to_string());
            tokio::spawn(flow::accept(supervisor.clone(), call, line.index, remote, coming));
        }
        Chosen::Outer(offered) => {
            if let Some(endpoint) = endpoint {
                supervisor.sessions.note(call.id);
                tokio::spawn(flow::accept_outer(supervisor.clone(), call, line, endpoint, offered));
            }
        }
    }
}

/// The first of the offered flows that the policy takes; a direct one only where both ends are on this machine. The error is said to the
/// peer, and to the user if only less than the policy wants was offered.
fn choose<'c>(supervisor: &Supervisor, call: &'c IncomingCall) -> Result<(&'c Line, Chosen), &'static str> {
    let settings = supervisor.sessions.links.settings();
    let flows = &settings.flows;
    let here = |direct: &Direct| match (direct.source, &direct.machine) {
        (SocketAddr::V4(source), None) if source.ip().is_loopback() => Some(source),
        (SocketAddr::V4(source), Some(machine)) if settings.is_here(machine) => Some(source),
        _ => None,
    };
    let (mut encrypted, mut held) = (false, false);
    for line in &call.lines {
        match &line.end {
            End::Direct(Direct { setup: Setup::Holdconn, .. }) if line.proto == Proto::Tcp => held = true,
            End::Tls(Tls { setup: Setup::Holdconn, .. }) => held = true,
            End::Direct(direct) => match here(direct) {
                Some(source) if flows.local => return Ok((line, Chosen::Direct(source, direct.setup))),
                // What is of another machine's loopback is nobody's here.
                None if flows.cleartext && may_be_elsewhere(direct) => {
                    return Ok((line, Chosen::Outer(Offered::Clear(direct.clone()))));
                }
                _ => {}
            },
            End::Tls(remote) => {
                encrypted = true;
                if flows.has(Encrypted::Tls) {
                    return Ok((line, Chosen::Outer(Offered::Tls(remote.clone()))));
                }
            }
            End::Quic(remote) => {
                encrypted = true;
                if flows.has(Encrypted::Quic) {
                    return Ok((line, Chosen::Encrypted(Remote::Quic(remote.clone()))));
                }
            }
            End::Channels(remote) => {
                encrypted = true;
                if remote.quic && flows.has(Encrypted::Quic) {
                    return Ok((line, Chosen::Encrypted(Remote::Quic(remote.ice.clone()))));
                }
                if flows.has(Encrypted::DataChannel) {
                    return Ok((line, Chosen::Encrypted(Remote::Channels(remote.clone()))));
                }
            }
            _ => {}
        }
    }
    match () {
        () if held => Err("No Connection Is Wanted"),
        () if encrypted => Err("Encrypted Flows Are Switched Off"),
        () if !flows.local => {
            let key = format!("cleartext:{}", call.from);
            supervisor.sessions.say_once(&key, || {
                format!("{} offered only a flow in the clear, which --flow quic (or [default] flow) refuses", call.from)
            });
            Err("Only Encrypted Flows Are Taken")
        }
        () => {
            let key = format!("cleartext:{}", call.from);
            supervisor.sessions.say_once(&key, || {
                format!(
                    "{} offered only a flow in the clear, from another machine: it is refused; cleartext = true in [default] \
                     (or --cleartext) would take it",
                    call.from
                )
            });
            Err("Cleartext Flows Stay on This Machine")
        }
    }
}

/// Whether a cleartext flow can lead there: to another machine, and to none of the services of this one's loopback.
fn may_be_elsewhere(direct: &Direct) -> bool {
    !direct.source.ip().to_canonical().is_loopback()
}

fn accept_direct(
    supervisor: &Arc<Supervisor>,
    call: IncomingCall,
    line: &Line,
    endpoint: Endpoint,
    source: SocketAddrV4,
    setup: Setup,
) {
    if let Some(network) = &supervisor.network {
        return own::accept_direct(network, supervisor, call, line, endpoint, (source, setup));
    }
    let Endpoint { cookie, bound, peer } = endpoint;
    let proto = line.proto;
    let answer = answer(line, bound.physical, setup);
    // What the program or the supervisor will connect or send to must be a peer's own socket.
    let is_asked = proto == Proto::Udp || setup == Setup::Passive;
    if is_asked && !may_be_peer(source, bound.physical, proto) {
        return call.reject(488, "No Peer's Socket at That Address");
    }
    let id = call.id;
    supervisor.sessions.note(id);
    supervisor.sessions.note_own(id, &call.from.to_string(), "direct");
    match proto {
        Proto::Tcp => {
            let expected = Expected { listener: cookie, peer, local: None, session: Some(id) };
            if setup == Setup::Passive {
                tokio::spawn(doorbell::deliver(supervisor.clone(), SocketAddr::V4(source), bound, expected));
                return call.accept(line.index, answer);
            }
            let mut table = supervisor.table.lock();
            // RFC 4145, section 4.1: an active end that does not say more has port 9.
            const DISCARD: u16 = 9;
            if source.port() == DISCARD || source.port() == 0 {
                table.expect_any(*source.ip(), expected);
            } else {
                let displaced = table.expect(source, expected);
                drop(table);
                supervisor.sessions.close_displaced(displaced);
            }
        }
        Proto::Udp => datagram::admit(supervisor, cookie, source, peer, id),
    }
    call.accept(line.index, answer);
}

/// The answer to a direct flow; `media` is where this end listens or receives.
pub fn answer(line: &Line, media: SocketAddrV4, setup: Setup) -> End {
    let sipbox = matches!(&line.end, End::Direct(direct) if direct.sipbox);
    End::Direct(Direct { source: media.into(), setup: setup.answered(), machine: None, sipbox })
}
