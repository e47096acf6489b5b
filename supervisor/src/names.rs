//! bind, getsockname, getpeername: the names of a socket's two ends.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4};
use std::os::fd::AsFd;

use nix::errno::Errno;
use sandbox::memory::{Address, AddressOut, AddressRoom, sockaddr_bytes};
use sandbox::sock;
use sipcore::agent::Proto;

use crate::call::{Call, Target, errno};
use crate::supervisor::{Supervisor, policy_proto};
use crate::table::{Bound, Holding, State};
use crate::{datagram, netlink, unix};

/// getsockname(2).
pub fn own(mut call: Call) {
    let number = call.int(0);
    call.note(|| format!("getsockname({number})"));
    let result = (|| {
        let mut room = room(&call);
        let (target, given) = call.target_after(number, |memory| room.read(memory))?;
        let known = {
            let table = call.supervisor.table.lock();
            let known = table.get(target.cookie).and_then(|s| match &s.state {
                State::Connected { local, .. } => Some(*local),
                _ => s
                    .bound
                    .map(|b| match s.datagram.as_ref().and_then(|d| d.connected) {
                        Some(peer) if b.virtual_.ip().is_unspecified() => {
                            call.supervisor.local_for(&peer, b.virtual_.port())
                        }
                        _ => b.virtual_,
                    })
                    .or_else(|| s.former.map(|ip| SocketAddr::new(ip, 0))),
            });
            known.or_else(|| table.remembered_name(target.cookie))
        };
        let written = match known {
            Some(address) => given.and_then(|()| call.n.write_name(&mut room, &sockaddr_bytes(&address))),
            None => {
                let name = unbound_name(call.supervisor, &target)?;
                given.and_then(|()| call.n.write_name(&mut room, &name))
            }
        };
        target.close();
        written
    })();
    call.finish(result.map(|()| 0));
}

/// The kernel's name of a socket that the program did not bind: a UDP socket has the run's address from the beginning, of
/// which the program knows nothing.
fn unbound_name(supervisor: &Supervisor, target: &Target) -> Result<Vec<u8>, Errno> {
    let (any, port): (IpAddr, u16) = match sock::local_addr(target.as_fd()) {
        Ok(SocketAddr::V4(a)) => (Ipv4Addr::UNSPECIFIED.into(), a.port()),
        Ok(SocketAddr::V6(a)) => (Ipv6Addr::UNSPECIFIED.into(), a.port()),
        Err(_) => return raw_name(supervisor, target, false),
    };
    Ok(sockaddr_bytes(&SocketAddr::new(any, port)).to_vec())
}

/// getpeername(2).
pub fn peer(mut call: Call) {
    let number = call.int(0);
    call.note(|| format!("getpeername({number})"));
    let result = (|| {
        let mut room = room(&call);
        let (target, given) = call.target_after(number, |memory| room.read(memory))?;
        let known = {
            let table = call.supervisor.table.lock();
            table.get(target.cookie).map(|s| match &s.state {
                State::Connected { peer, .. } => Some(*peer),
                // Port 0 is no peer (inet_getname).
                _ => s.datagram.as_ref().and_then(|d| d.connected).filter(|p| p.port() != 0),
            })
        };
        // The kernel knows whether the connection still stands.
        let raw = match known {
            Some(None) => return Err(Errno::ENOTCONN),
            _ => raw_name(call.supervisor, &target, true)?,
        };
        match known {
            Some(Some(address)) => given.and_then(|()| call.n.write_name(&mut room, &sockaddr_bytes(&address))),
            _ => given.and_then(|()| call.n.write_name(&mut room, &raw)),
        }
    })();
    call.finish(result.map(|()| 0));
}

fn raw_name(supervisor: &Supervisor, target: &Target, peer: bool) -> Result<Vec<u8>, Errno> {
    if netlink::is_one(target) {
        return Ok(netlink::name(supervisor, target, peer));
    }
    sandbox::message::raw_name(target.as_fd(), peer)
}

/// Where getsockname(2) and getpeername(2) write.
fn room(call: &Call) -> AddressRoom {
    AddressRoom::new(AddressOut { address: call.argument(1), length: call.argument(2) })
}

/// bind(2).
pub fn bind(mut call: Call) {
    let number = call.int(0);
    let read = call.target_after(number, |memory| memory.address(call.argument(1), call.argument(2)));
    let (target, address) = match read.and_then(|(target, address)| Ok((target, address?))) {
        Ok(read) => read,
        Err(e) => {
            call.note(|| format!("bind({number})"));
            return call.finish(Err(e));
        }
    };
    call.note(|| format!("bind({number}, {address})"));
    let proto = match call.supervisor.known(&target) {
        Ok(Some(p)) => p,
        Ok(None) if netlink::is_one(&target) => return netlink::bind(call, target),
        Ok(None) => return unix::bind(call, target),
        Err(e) => return call.finish(Err(e)),
    };
    let result = bind_inet(&mut call, &target, proto, address);
    target.close();
    match result {
        Ok(true) => finish_registered(call),
        Ok(false) => call.finish(Ok(0)),
        Err(e) => call.finish(Err(e)),
    }
}

/// The endpoint is reachable from here on: the registration stands before the program goes on. (Not in line with what is answered at
/// once: a future is large, and so is the stack of who makes it.)
#[inline(never)]
fn finish_registered(call: Call) {
    let supervisor = call.supervisor;
    supervisor.published.note();
    let runtime = supervisor.runtime.clone();
    runtime.spawn(async move {
        supervisor.sessions.ensure_registered().await;
        call.finish(Ok(0));
    });
}

/// Binds; true when a registration is to be awaited (a datagram socket with a port of the program's choice).
fn bind_inet(call: &mut Call, target: &Target, proto: Proto, address: Address) -> Result<bool, Errno> {
    let supervisor = call.supervisor;
    let (v6, v6only, bound) = {
        let table = supervisor.table.lock();
        let s = table.get(target.cookie).ok_or(Errno::EBADF)?;
        (s.v6, s.v6only, s.bound)
    };
    let wanted = match address {
        Address::Inet(a) if a.is_ipv6() == v6 => a,
        // bind(2) of an AF_INET socket takes AF_UNSPEC with INADDR_ANY, for old programs (inet_bind).
        Address::Unspecified(Some(a)) if !v6 && a.ip().is_unspecified() => SocketAddr::V4(a),
        Address::Inet(SocketAddr::V4(_)) if v6 && call.int(2) < 24 => return Err(Errno::EINVAL),
        Address::Other { length, .. } if length < if v6 { 24 } else { 16 } => return Err(Errno::EINVAL),
        Address::Unspecified(None) => return Err(Errno::EINVAL),
        _ => return Err(Errno::EAFNOSUPPORT),
    };
    // Whether a stream still has the port that was chosen for it, the kernel says.
    if bound.is_some_and(|b| b.port_chosen || proto == Proto::Udp) {
        return Err(Errno::EINVAL);
    }
    let ip = wanted.ip().to_canonical();
    if v6only && wanted.ip().is_ipv6() && ip.is_ipv4() {
        return Err(Errno::EINVAL);
    }
    if !supervisor.is_own(ip) {
        return Err(Errno::EADDRNOTAVAIL);
    }
    if ip.is_loopback() && wanted.port() != 0 && supervisor.policy.identity().aor.is_some() {
        supervisor.sessions.say_once(&format!("private:{proto}:{}", wanted.port()), || {
            format!(
                "the program binds {proto} {wanted}, which is private to this run; 0.0.0.0 or [::] would be reachable"
            )
        });
    }
    let published = !ip.is_loopback()
        && wanted.port() != 0
        && match supervisor.policy.bind(policy_proto(proto), wanted.ip(), wanted.port()) {
            policy::BindDecision::Deny { rule, advice } => {
                supervisor.sessions.say_once(&format!("bind:{proto}:{wanted}"), || {
                    format!("the program tried to bind {proto} {wanted}, and {rule} refuses it; {advice}")
                });
                call.rule(|| rule);
                return Err(Errno::EACCES);
            }
            policy::BindDecision::Local { rule } => {
                call.rule(|| rule.to_string());
                false
            }
            policy::BindDecision::Accept { rule } | policy::BindDecision::Publish { rule, .. } => {
                call.rule(|| rule.to_string());
                true
            }
        };
    let (physical, overlaps) = bind_somewhere(supervisor, target, proto, v6, v6only, wanted)?;
    // A name that only IPv6 has makes the socket IPv6's alone (inet6_bind).
    if v6
        && ip.is_ipv6()
        && !ip.is_unspecified()
        && let Some(s) = supervisor.table.lock().get_mut(target.cookie)
    {
        s.v6only = true;
    }
    let mut table = supervisor.table.lock();
    table.unbind(target.cookie);
    let port = if wanted.port() == 0 { table.free_port(proto, physical.port()) } else { wanted.port() };
    // The address alone: flow and scope are not kept (inet6_bind).
    let virtual_ = SocketAddr::new(wanted.ip(), port);
    table.bind(target.cookie, Bound { virtual_, physical, port_chosen: wanted.port() != 0 });
    if overlaps {
        table.note_overlap(proto, port);
    }
    // Where many have it, they have met who sends there.
    let meets = proto == Proto::Udp && wanted.port() != 0 && !table.is_in_crowd(target.cookie);
    drop(table);
    if meets {
        datagram::meet_friends(supervisor, target.cookie, physical);
    }
    Ok(published && proto == Proto::Udp)
}

/// Chooses the physical port: that of the socket with the same name (the kernel then says whether they may share it), else one that the kernel
/// picks, if it would let the socket be beside those whose addresses overlap. Never the number that the program asked for: when the socket is
/// gone, that number on the run's address means whoever listens on 0.0.0.0, and the program must not be the one to choose who that is.
/// Gives the physical address, and whether there are others whose addresses overlap.
fn bind_somewhere(
    supervisor: &Supervisor,
    target: &Target,
    proto: Proto,
    v6: bool,
    v6only: bool,
    wanted: SocketAddr,
) -> Result<(SocketAddrV4, bool), Errno> {
    if wanted.port() == 0 {
        return Ok((supervisor.bind_physical(target, proto, v6, supervisor.anywhere())?, false));
    }
    let find = || supervisor.table.lock().holding(proto, &wanted, v6only);
    let bind = |holding: &Holding| {
        may_be_beside(target, holding)?;
        match holding.same {
            Some((_, at)) => supervisor.bind_physical(target, proto, v6, at),
            None => bind_alone(supervisor, target, proto, (v6, v6only), wanted),
        }
    };
    let mut holding = find();
    if holding.is_empty() {
        return Ok((bind(&holding)?, false));
    }
    let mut bound = bind(&holding);
    if bound == Err(Errno::EADDRINUSE) {
        // The holders may be gone, and the kernel's reports of that on their way.
        for (cookie, at) in holding.all() {
            supervisor.bury(*cookie, || sandbox::diag::is_bound(*at, *at, proto == Proto::Tcp).unwrap_or(false));
        }
        supervisor.deaths.catch_up(supervisor);
        let now = find();
        if now != holding {
            holding = now;
            bound = bind(&holding);
        }
    }
    if bound.is_ok() && !sock::shares_port(target.as_fd()).map_err(errno)? {
        // It has the port alone, so who had it before does not.
        holding.all().for_each(|(cookie, _)| supervisor.vacate(*cookie));
    }
    Ok((bound?, !holding.beside.is_empty()))
}

/// Whether the kernel would let a socket be beside those whose addresses overlap its own (EADDRINUSE).
pub fn may_be_beside(target: &Target, holding: &Holding) -> Result<(), Errno> {
    for (_, at) in &holding.beside {
        let may_share = sock::may_share(target.as_fd(), *at).unwrap_or_else(|error| {
            tracing::debug!(%error, "whether a port may be shared could not be asked");
            true
        });
        if !may_share {
            return Err(Errno::EADDRINUSE);
        }
    }
    Ok(())
}

/// Where no socket of this name is: where one was, if something of it is left, else anywhere.
fn bind_alone(
    supervisor: &Supervisor,
    target: &Target,
    proto: Proto,
    (v6, v6only): (bool, bool),
    wanted: SocketAddr,
) -> Result<SocketAddrV4, Errno> {
    let place = match proto {
        Proto::Tcp => supervisor.table.lock().worn(&wanted, v6only),
        Proto::Udp => {
            let left = supervisor.table.lock().left(&wanted, v6only);
            if let Some(bound) = left.and_then(|l| supervisor.bind_physical(target, proto, v6, l).ok()) {
                return Ok(bound);
            }
            None
        }
    };
    supervisor.bind_physical(target, proto, v6, place.unwrap_or_else(|| supervisor.anywhere()))
}

/// True when peers may reach what is bound here.
pub fn is_reachable(supervisor: &Supervisor, proto: Proto, address: &SocketAddr) -> bool {
    let loopback = |ip: IpAddr| ip.to_canonical().is_loopback();
    !loopback(address.ip())
        && matches!(
            supervisor.policy.bind(policy_proto(proto), address.ip(), address.port()),
            policy::BindDecision::Accept { .. } | policy::BindDecision::Publish { .. }
        )
}
