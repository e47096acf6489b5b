//! UDP sockets: every destination is a session of its own behind the one socket.

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;
use nix::libc;
use sandbox::memory::{Address, Sockaddr, sockaddr_bytes};
use sandbox::message::{self, Destination, Name, Received, Source};
use sandbox::sock;
use sipcore::agent::{Label, Proto, SessionId};

use crate::ancillary;
use crate::call::{Call, Target, errno};
use crate::connect::{destination, loopback_for_any};
use crate::guard::Guard;
use crate::held_back::{keep_of_corked, push_held_back, send_there};
use crate::sessions::{Callee, Failure};
use crate::stub::{self, deliver};
use crate::supervisor::{Supervisor, Unsent, Way};
use crate::table::{Anchor, Bound, Cookie, Datagram, Peer, Socket};

/// Datagrams that wait for a session, at most this many for one destination. More are dropped, as a network would.
const QUEUE: usize = 256;
/// And at most this many bytes.
const QUEUE_BYTES: usize = 256 * 1024;
/// After a session failed, datagrams to its destination are dropped for this long before it is tried again.
pub const RETRY_AFTER: Duration = Duration::from_secs(3);

/// Where a socket of the program is found again, which is not held meanwhile.
#[derive(Debug, Clone, Copy)]
pub struct Holder {
    cookie: Cookie,
    /// Where the program's descriptor was at the call: a hint, verified by the cookie.
    thread: u32,
    number: i32,
    inode: u64,
}

impl Holder {
    pub fn of(call: &Call, target: &Target) -> Holder {
        let inode = sandbox::processes::inode(target.as_fd()).unwrap_or(0);
        Holder { cookie: target.cookie, thread: call.n.thread, number: call.int(0), inode }
    }

    pub fn cookie(&self) -> Cookie {
        self.cookie
    }

    pub fn inode(&self) -> u64 {
        self.inode
    }

    /// The descriptor of a socket whose call ended long ago: where it was, or wherever the program's processes have it.
    pub fn find(&self) -> Option<OwnedFd> {
        let is_it = |fd: &OwnedFd| sock::socket_cookie(fd.as_fd()).is_ok_and(|c| c == self.cookie);
        if let Ok(fd) = sandbox::notify::descriptor_of(self.thread, self.number)
            && is_it(&fd)
        {
            return Some(fd);
        }
        sandbox::processes::holders(self.inode)
            .into_iter()
            .find_map(|(process, number)| sandbox::notify::descriptor_of(process, number).ok().filter(is_it))
    }
}

/// The trace of a session that no single call waited for.
pub fn trace_flow(supervisor: &Supervisor, peer: &SocketAddr, uri: &str, kind: &str) {
    if supervisor.options.trace {
        crate::say::say!("datagrams to {peer} go to {uri}, {kind}");
    }
}

pub fn physical(v6: bool, address: SocketAddrV4) -> SocketAddr {
    if v6 { SocketAddr::V6(sock::mapped(address)) } else { SocketAddr::V4(address) }
}

pub fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// Notes that `peer` is at `media`, both ways.
pub fn note_peer(
    supervisor: &Supervisor,
    cookie: Cookie,
    peer: SocketAddr,
    media: SocketAddrV4,
    session: Option<SessionId>,
    guard: Option<Guard>,
) -> Option<Peer> {
    supervisor.table.lock().note_peer(cookie, canonical(peer), media, session, guard)
}

pub fn datagram_of(socket: &mut Socket) -> &mut Datagram {
    socket.datagram.get_or_insert_with(Default::default)
}

/// socket(2) of UDP. The kernel binds a UDP socket by itself when something is sent from it without an address, which is not
/// trapped; so the socket has the run's address, without a port, from the beginning, and can never have the wildcard one.
///
/// UDP-Lite (RFC 3828), where the kernel has it, is UDP here, with the same ports: nothing on the way damages part of a datagram.
pub fn socket(mut call: Call) {
    use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, socket};
    let (family, kind, protocol) = (call.int(0), call.int(1), call.int(2));
    call.note(|| format!("socket({family}, {kind:#x}, {protocol})"));
    let v6 = family == libc::AF_INET6;
    let result = (|| {
        if protocol == libc::IPPROTO_UDPLITE {
            sock::probe(family, libc::SOCK_DGRAM, protocol).map_err(errno)?;
        }
        let family = if v6 { AddressFamily::Inet6 } else { AddressFamily::Inet };
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::from_bits_truncate(kind & libc::SOCK_NONBLOCK);
        let fd = socket(family, SockType::Datagram, flags, SockProtocol::Udp)?;
        let target = Target::of(fd)?;
        call.supervisor.known(&target)?;
        call.supervisor.bind_physical(&target, Proto::Udp, v6, call.supervisor.anywhere())?;
        // The port that the kernel chose goes back, the address stays (__udp_disconnect).
        sock::disconnect(target.as_fd()).map_err(errno)?;
        Ok(target)
    })();
    match result {
        Ok(target) => call.install(target.fd, kind & libc::SOCK_CLOEXEC != 0, |fd, _| sandbox::direct::close(fd)),
        Err(e) => call.finish(Err(e)),
    }
}

/// connect(2) of a datagram socket: nothing is sent, so no session is asked for yet.
pub fn connect(mut call: Call, target: Target, address: &Address) {
    let result = connect_now(&mut call, &target, address);
    drop(target);
    call.finish(result);
}

fn connect_now(call: &mut Call, target: &Target, address: &Address) -> Result<i64, Errno> {
    let supervisor = call.supervisor;
    if matches!(address, Address::Unspecified(_)) {
        dissolve(supervisor, target.cookie);
        sock::disconnect(target.as_fd()).map_err(errno)?;
        // What is held back would go where the socket pointed, however long that takes.
        push_held_back(supervisor, target)?;
        supervisor.table.lock().set_anchor(target.cookie, None);
        supervisor.note_lost_port(target)?;
        return Ok(0);
    }
    let (v6, v6only) = {
        let mut table = supervisor.table.lock();
        let s = table.get_mut(target.cookie).ok_or(Errno::EBADF)?;
        if s.datagram.as_mut().is_some_and(|d| !d.may_point_elsewhere()) {
            drop(table);
            say_too_many(supervisor);
            return Err(Errno::ENOBUFS);
        }
        (s.v6, s.v6only)
    };
    let peer = match address {
        // An AF_INET address on an AF_INET6 socket is taken as its v4-mapped form (__ip6_datagram_connect).
        Address::Inet(a) if v6 && a.is_ipv4() && !v6only => Supervisor::seen_by(v6, loopback_for_any(*a)),
        other => destination(other, v6, v6only)?,
    };
    refuse_broadcast(target, &peer)?;
    let ready = ready_peer(supervisor, target.cookie, &peer);
    let known = ready.or_else(|| supervisor.table.lock().shared(target.cookie, &canonical(peer)));
    let way = if known.is_some() {
        None
    } else {
        Some(supervisor.way(call, Proto::Udp, own_port(supervisor, target.cookie), peer))
    };
    let bound = supervisor.ensure_bound(target)?;
    // What the policy refuses leads there, too: to connect a datagram socket sends nothing, and is how programs find their own address.
    let nobody = supervisor.nobody.address(Proto::Udp);
    let (to, guard) = match (&known, &way) {
        (Some(to), _) | (None, Some(Way::Own(_, Bound { physical: to, .. }))) => {
            match supervisor.guard(Proto::Udp, *to) {
                Ok(guard) => (*to, guard),
                // A service of this machine has the port, too, and would be the next to be reached by it.
                Err(Errno::EADDRINUSE) => (nobody, None),
                Err(e) => return Err(e),
            }
        }
        _ => (nobody, None),
    };
    // To where it is connected already, and its session stands: that goes on.
    let as_before = ready.is_some() && connected_peer(supervisor, target.cookie) == Some(peer);
    if !as_before {
        dissolve(supervisor, target.cookie);
    }
    let mut to_be = None;
    let to = match (known, way) {
        (Some(_), _) => to,
        (None, Some(Way::Own(other, b))) => {
            if to == b.physical {
                let known_by = supervisor.guard(Proto::Udp, to)?;
                note_own(supervisor, target.cookie, other, &peer, to, known_by);
            }
            to
        }
        (None, Some(Way::Resolver)) => {
            // By the name of the name server that was meant last.
            supervisor.table.lock().hear(target.cookie, supervisor.resolver, canonical(peer));
            supervisor.resolver
        }
        (None, Some(Way::Peer(callee))) => {
            let free = supervisor.stub.place(supervisor, &bound.physical, target.cookie);
            let free = free.inspect_err(|_| crate::stub::say_too_many(supervisor, &bound.virtual_))?;
            let address = free.address;
            to_be = Some((free, callee));
            address
        }
        (None, Some(Way::Refused(_) | Way::Former) | None) => nobody,
    };
    if v6 {
        ancillary::lend_errors(supervisor, target, Some(&peer))?;
    }
    let anchor = Anchor { physical: to, guard, led: None };
    let before = supervisor.table.lock().set_anchor(target.cookie, Some(anchor));
    if let Err(error) = sock::connect_nowait(target.as_fd(), &physical(v6, to)) {
        supervisor.table.lock().set_anchor(target.cookie, before);
        return Err(errno(error));
    }
    {
        let mut table = supervisor.table.lock();
        if known.is_some() && ready.is_none() {
            table.take_over(target.cookie, &canonical(peer));
        }
        if let Some(s) = table.get_mut(target.cookie) {
            let d = datagram_of(s);
            d.connected = Some(peer);
            if as_before && let Some(anchor) = &mut d.anchor {
                anchor.led = before.as_ref().and_then(|b| b.led.clone());
            }
        }
    }
    if let Some((place, callee)) = to_be
        && let Some((media, led)) =
            supervisor.stub.expect(supervisor, place, bound.physical, Holder::of(call, target), (callee, peer))
    {
        // A service of this machine may have the port, too, and would be the next to be reached by it.
        let (to, guard) = match supervisor.guard(Proto::Udp, media) {
            Ok(guard) => (media, guard),
            Err(_) => (nobody, None),
        };
        supervisor.table.lock().set_anchor(target.cookie, Some(Anchor { physical: to, guard, led: Some(led) }));
        sock::connect_nowait(target.as_fd(), &physical(v6, to)).map_err(errno)?;
    }
    supervisor.published.note();
    Ok(0)
}

/// Ends the association of a connected socket, if it has one.
fn dissolve(supervisor: &Supervisor, cookie: Cookie) {
    supervisor.published.note();
    let source = {
        let table = supervisor.table.lock();
        let connected = table.get(cookie).filter(|s| s.datagram.as_ref().is_some_and(|d| d.connected.is_some()));
        let Some(s) = connected else { return };
        s.bound.map(|b| b.physical)
    };
    // First: a session that stands just now does not turn the socket to its peer any more.
    if let Some(source) = source {
        supervisor.stub.forget(supervisor, &source, cookie);
    }
    let ended = {
        let mut table = supervisor.table.lock();
        let Some(d) = table.get_mut(cookie).and_then(|s| s.datagram.as_mut()) else { return };
        let Some(peer) = d.connected.take() else { return };
        table.part_with(cookie, &canonical(peer))
    };
    if let Some(session) = ended {
        supervisor.sessions.close(session);
    }
}

/// The program's port of a socket that has one.
pub fn own_port(supervisor: &Supervisor, cookie: Cookie) -> Option<u16> {
    Some(supervisor.table.lock().get(cookie)?.bound?.virtual_.port())
}

fn connected_peer(supervisor: &Supervisor, cookie: Cookie) -> Option<SocketAddr> {
    supervisor.table.lock().get(cookie)?.datagram.as_ref()?.connected
}

fn ready_peer(supervisor: &Supervisor, cookie: Cookie, peer: &SocketAddr) -> Option<SocketAddrV4> {
    match supervisor.table.lock().get(cookie)?.datagram.as_ref()?.by_virtual.get(&canonical(*peer))? {
        Peer::Ready { physical, .. } => Some(*physical),
        _ => None,
    }
}

/// Two sockets of this run get to know each other.
fn note_own(
    supervisor: &Supervisor,
    sender: Cookie,
    receiver: Cookie,
    peer: &SocketAddr,
    at: SocketAddrV4,
    guard: Option<Guard>,
) {
    note_peer(supervisor, sender, *peer, at, None, guard);
    let mut table = supervisor.table.lock();
    let Some(from) = table.get(sender).and_then(|s| s.bound) else { return };
    let seen = if from.virtual_.ip().is_unspecified() {
        canonical(supervisor.local_for(peer, from.virtual_.port()))
    } else {
        canonical(from.virtual_)
    };
    table.hear(receiver, from.physical, seen);
}

/// A socket has the address of one that is gone: who is connected there is heard by it.
pub fn meet_friends(supervisor: &Supervisor, cookie: Cookie, physical: SocketAddrV4) {
    let friends = supervisor.table.lock().friends(&physical);
    for (friend, peer) in friends.into_iter().filter(|(friend, _)| *friend != cookie) {
        if let Ok(guard) = supervisor.guard(Proto::Udp, physical) {
            note_own(supervisor, friend, cookie, &peer, physical, guard);
        }
    }
}

/// One datagram to an address. EAGAIN when it would block.
pub fn send(
    call: &mut Call,
    target: &Target,
    address: &Address,
    data: &[u8],
    control: &[u8],
    flags: i32,
) -> Result<usize, Errno> {
    /// The largest UDP payload over IPv4.
    const LARGEST: usize = 65507;
    let supervisor = call.supervisor;
    let (v6, v6only, bound, hears, connected) = {
        let table = supervisor.table.lock();
        let s = table.get(target.cookie).ok_or(Errno::EBADF)?;
        let d = s.datagram.as_ref();
        (s.v6, s.v6only, s.bound, d.is_some_and(|d| d.lent.asks_for_errors), d.and_then(|d| d.connected))
    };
    let to = match address {
        // AF_UNSPEC with an address is an old form of AF_INET (udp_sendmsg); on IPv6 it means "where it is connected".
        Address::Unspecified(_) if v6 => {
            return message::send(target.as_fd(), data, Destination::Connected, control, flags);
        }
        // An AF_INET address on an AF_INET6 socket is taken as its v4-mapped form (udpv6_sendmsg).
        Address::Inet(a) if v6 && a.is_ipv4() => {
            if v6only {
                return Err(Errno::ENETUNREACH);
            }
            loopback_for_any(*a)
        }
        Address::Unspecified(Some(a)) => loopback_for_any(SocketAddr::V4(*a)),
        // Another family is a bad argument there, not a family that is not supported (udpv6_sendmsg).
        other => destination(other, v6, v6only).map_err(|e| match e {
            Errno::EAFNOSUPPORT if v6 => Errno::EINVAL,
            other => other,
        })?,
    };
    // Out-of-band data: IPv4 refuses it, IPv6 does not look (udp_sendmsg, udpv6_sendmsg).
    let flags = if to.ip().to_canonical().is_ipv6() { flags & !libc::MSG_OOB } else { flags };
    refuse_broadcast(target, &to)?;
    if to.port() == 0 {
        return Err(Errno::EINVAL);
    }
    if data.len() > LARGEST {
        return Err(Errno::EMSGSIZE);
    }
    let bound = bound.map_or_else(|| supervisor.ensure_bound(target), Ok)?;
    if hears {
        ancillary::lend_errors(supervisor, target, Some(&to))?;
    }
    if let Some(sent) = send_known(supervisor, target, v6, &to, data, control, flags)? {
        return Ok(sent);
    }
    // Where the socket points already: its session is asked for, or refused, as by a send without an address.
    if connected.map(canonical) == Some(canonical(to)) {
        return message::send(target.as_fd(), data, Destination::Connected, control, flags);
    }
    send_first(call, target, (v6, bound), to, data, control, flags)
}

/// The first datagram of a socket to a destination. (Not in line with further ones: a future is large, and so is the stack of who makes
/// it.)
#[inline(never)]
fn send_first(
    call: &mut Call,
    target: &Target,
    (v6, bound): (bool, Bound),
    to: SocketAddr,
    data: &[u8],
    control: &[u8],
    flags: i32,
) -> Result<usize, Errno> {
    let supervisor = call.supervisor;
    // Nobody of this run is there: natively the datagram is sent and lost, and who wants to hear of that does.
    let lost = || {
        if ancillary::hears_errors(supervisor, target, &to) {
            let nobody = supervisor.nobody.address(Proto::Udp);
            supervisor.table.lock().hear(target.cookie, nobody, canonical(to));
            return send_there(supervisor, target, v6, nobody, data, control, flags);
        }
        Ok(data.len())
    };
    // A socket with the same port has this peer.
    let shared = supervisor.table.lock().shared(target.cookie, &canonical(to));
    if let Some(media) = shared {
        return send_there(supervisor, target, v6, media, data, control, flags);
    }
    match supervisor.way(call, Proto::Udp, own_port(supervisor, target.cookie), to) {
        Way::Refused(Errno::ECONNREFUSED) if supervisor.is_own(to.ip()) => lost(),
        Way::Former => lost(),
        Way::Refused(e) => Err(e),
        Way::Resolver => {
            note_peer(supervisor, target.cookie, to, supervisor.resolver, None, None);
            send_there(supervisor, target, v6, supervisor.resolver, data, control, flags)
        }
        Way::Own(other, b) => {
            let guard = match supervisor.guard(Proto::Udp, b.physical) {
                Ok(guard) => guard,
                // A service of this machine has the port, too.
                Err(Errno::EADDRINUSE) => return lost(),
                Err(e) => return Err(e),
            };
            if !sandbox::diag::is_bound(b.physical, bound.physical, false).unwrap_or(false) {
                return lost();
            }
            note_own(supervisor, target.cookie, other, &to, b.physical, guard);
            send_there(supervisor, target, v6, b.physical, data, control, flags)
        }
        Way::Peer(callee) => {
            if let Some(s) = supervisor.table.lock().get_mut(target.cookie)
                && !datagram_of(s).await_session(canonical(to), &ancillary::segments(data, control))
            {
                return Err(Errno::ENOBUFS);
            }
            let fd = target.fd.try_clone().map_err(errno)?;
            let unsent = supervisor.unsent.clone();
            let opening =
                Opening { cookie: target.cookie, fd, v6, to, callee, source: bound.physical, _unsent: unsent };
            supervisor.runtime.clone().spawn(opening.run(supervisor.clone()));
            Ok(data.len())
        }
    }
}

/// Broadcast addresses that every machine has need SO_BROADCAST (ip(7)).
fn refuse_broadcast(target: &Target, to: &SocketAddr) -> Result<(), Errno> {
    match to.ip().to_canonical() {
        IpAddr::V4(ip) if is_broadcast(ip) => {
            let allowed = nix::sys::socket::getsockopt(&target.fd, nix::sys::socket::sockopt::Broadcast)?;
            if allowed { Ok(()) } else { Err(Errno::EACCES) }
        }
        _ => Ok(()),
    }
}

/// To everybody, on all interfaces or on the loopback.
pub fn is_broadcast(ip: Ipv4Addr) -> bool {
    ip.is_broadcast() || ip == Ipv4Addr::new(127, 255, 255, 255)
}

pub fn has_room(queue: &VecDeque<Vec<u8>>) -> bool {
    queue.len() < QUEUE && queue.iter().map(Vec::len).sum::<usize>() < QUEUE_BYTES
}

/// Sends where the destination is known already: at once, into its queue, or nowhere.
fn send_known(
    supervisor: &Supervisor,
    target: &Target,
    v6: bool,
    to: &SocketAddr,
    data: &[u8],
    control: &[u8],
    flags: i32,
) -> Result<Option<usize>, Errno> {
    let media = {
        let mut table = supervisor.table.lock();
        let Some(d) = table.get_mut(target.cookie).and_then(|s| s.datagram.as_mut()) else { return Ok(None) };
        match d.by_virtual.get_mut(&canonical(*to)) {
            Some(Peer::Ready { physical, .. }) => *physical,
            Some(Peer::Pending(queue)) => {
                for one in ancillary::segments(data, control) {
                    if has_room(queue) {
                        queue.push_back(one.to_vec());
                    }
                }
                return Ok(Some(data.len()));
            }
            Some(Peer::Failed(when)) if when.elapsed() < RETRY_AFTER => return Ok(Some(data.len())),
            Some(Peer::Failed(_)) | None => return Ok(None),
        }
    };
    send_there(supervisor, target, v6, media, data, control, flags).map(Some)
}

/// A socket that pointed to too many ports.
#[cold]
fn say_too_many(supervisor: &Supervisor) {
    supervisor.sessions.say_once("pointed", || {
        "a UDP socket of the program was connected to more than 1,024 ports within ten minutes, one after the other (ENOBUFS): each is \
         kept from the services of this machine, which what is still under way would reach; with several sockets, or a bit later, the program \
         can go on"
            .to_owned()
    });
}

/// The session of one destination being set up. The duplicate of the program's socket is held no longer than that.
struct Opening {
    cookie: Cookie,
    fd: OwnedFd,
    v6: bool,
    to: SocketAddr,
    callee: Arc<Callee>,
    source: SocketAddrV4,
    _unsent: Unsent,
}

impl Opening {
    async fn run(self, supervisor: Arc<Supervisor>) {
        let label = Label { proto: Proto::Udp, port: self.to.port() };
        let port = own_port(&supervisor, self.cookie).unwrap_or(self.source.port());
        let local = supervisor.local_for(&self.to, port);
        let opened = supervisor.sessions.open(&self.callee, label, self.source, local).await;
        let guarded = opened.and_then(|flow| match supervisor.guard(Proto::Udp, flow.media) {
            Ok(guard) => Ok((flow, guard)),
            Err(errno) => {
                supervisor.sessions.close(flow.session);
                Err(Failure { errno })
            }
        });
        let (guarded, guard) = match guarded {
            Ok((flow, guard)) => (Ok(flow), guard),
            Err(failure) => (Err(failure), None),
        };
        let peer = canonical(self.to);
        let mut sent = None;
        let note = || {
            let mut table = supervisor.table.lock();
            sent = match &guarded {
                Ok(flow) => {
                    let before = table.note_peer(self.cookie, peer, flow.media, Some(flow.session), guard);
                    match before {
                        Some(Peer::Pending(queue)) => Some((flow.media, queue)),
                        _ => None,
                    }
                }
                Err(_) => table.note_failed(self.cookie, &peer),
            };
        };
        let connected = supervisor.stub.connected_meanwhile(&self.source, self.cookie, &self.to, note);
        if let Some(waiting) = connected {
            let sent = supervisor.table.lock().take_pending(self.cookie, &peer);
            waiting.put_first(sent);
            return stub::settle(&supervisor, self.source, &waiting, guarded, Some(self.fd)).await;
        }
        if let Ok(flow) = &guarded {
            trace_flow(&supervisor, &self.to, &self.callee.uri, flow.kind);
        }
        if let Some((media, queue)) = sent {
            if keep_of_corked(&supervisor, self.cookie, media).is_err() {
                return;
            }
            deliver(Some(&self.fd), self.v6, self.source, media, &queue).await;
            // It may hold back what it sends by now.
            let _ = keep_of_corked(&supervisor, self.cookie, media);
        }
    }
}

/// One datagram with its virtual source, and control data. Datagrams of sources that no session announced are dropped. EAGAIN
/// when there is none.
pub fn receive(
    supervisor: &Supervisor,
    target: &Target,
    data: &mut [u8],
    control: usize,
    flags: i32,
) -> Result<(Received, Option<SocketAddr>), Errno> {
    let take = || message::receive(target.as_fd(), data, control, flags | libc::MSG_DONTWAIT);
    admitted(supervisor, target, flags, |got: &Received| got.name.inet(), take)
}

/// A socket of UDP that is known, and whom it heard last.
pub struct Acquaintance {
    socket: Cookie,
    era: u64,
    last: Option<(Source, Sockaddr)>,
}

impl Acquaintance {
    pub const fn nobody() -> Acquaintance {
        Acquaintance { socket: 0, era: 0, last: None }
    }

    /// While the socket is held here: it lives.
    pub fn new(supervisor: &Supervisor, socket: Cookie) -> Acquaintance {
        Acquaintance { socket, era: supervisor.era.now(), last: None }
    }

    pub fn cookie(&self) -> Cookie {
        self.socket
    }

    /// Whether its era goes on.
    #[inline]
    pub fn is_current(&self, supervisor: &Supervisor) -> bool {
        supervisor.era.goes_on(self.era)
    }

    /// As it is written for the program: what this socket, and every other that hears the source, calls it.
    #[inline]
    fn name_of(&mut self, supervisor: &Supervisor, source: &Source) -> Option<Sockaddr> {
        if let Some((last, name)) = &self.last
            && last == source
            && self.is_current(supervisor)
        {
            return Some(*name);
        }
        let table = supervisor.table.lock();
        let name = as_written(table.name_in_any_case(self.socket, &source.address)?, source.mapped);
        self.last = Some((*source, name));
        Some(name)
    }
}

/// What a descriptor gave that was received from without asking which socket it is.
pub enum Guessed {
    /// A datagram: what recvfrom(2) returns, and the virtual source as it is written for the program.
    Datagram(usize, Sockaddr),
    /// What recvfrom(2) returns, and the source: who that is depends on the socket.
    Taken(usize, Option<Source>),
    /// It would wait.
    Nothing,
    /// Nothing was taken: it is no socket of UDP.
    Another,
}

/// Receives from a descriptor which is most likely this socket of UDP. As [`receive_plain`] where that is so, and where it is another one of
/// UDP, but that what a peer of this one sends to the address that it had is received, as natively. Nothing is taken from what is none: MSG_OOB
/// means nothing to UDP alone (udp_recvmsg), and to streams that their urgent data is wanted, which there must be none of
/// ([`Era`](crate::table::Era)).
///
/// # Errors
/// What waits as an error on the socket: it is off it then.
pub fn receive_guessed(
    supervisor: &Supervisor,
    socket: &mut Acquaintance,
    fd: BorrowedFd<'_>,
    data: &mut [u8],
    flags: i32,
) -> Result<Guessed, Errno> {
    let (length, source) = match message::receive_from_v4(fd, data, flags | libc::MSG_DONTWAIT | libc::MSG_OOB) {
        Ok(received) => received,
        Err(Errno::EAGAIN) => return Ok(Guessed::Nothing),
        Err(Errno::EINVAL | Errno::EOPNOTSUPP | Errno::ENOTCONN) => return Ok(Guessed::Another),
        Err(e) => return Err(e),
    };
    let known = source.and_then(|source| socket.name_of(supervisor, &source));
    Ok(known.map_or(Guessed::Taken(length, source), |name| Guessed::Datagram(length, name)))
}

/// As [`receive`], without control data and errors: what recvfrom(2) returns, and the virtual source as it is written for the program.
/// `taken` was received already.
pub fn receive_plain(
    supervisor: &Supervisor,
    target: &Target,
    data: &mut [u8],
    flags: i32,
    mut taken: Option<(usize, Option<Source>)>,
) -> Result<(usize, Option<Sockaddr>), Errno> {
    let mut receive = || message::receive_from_v4(target.as_fd(), data, flags | libc::MSG_DONTWAIT);
    loop {
        let (length, source) = taken.take().map_or_else(&mut receive, Ok)?;
        let Some(Source { address, mapped }) = source else { return Ok((length, None)) };
        match virtual_source(supervisor, target.cookie, &address, |_, name| as_written(name, mapped)) {
            Some(name) => return Ok((length, Some(name))),
            None => dropped(target, &address, flags),
        }
    }
}

/// An address as it is written for the program, from a socket of IPv6 or of IPv4.
#[inline]
fn as_written(address: &SocketAddr, v6: bool) -> Sockaddr {
    match address.is_ipv6() == v6 {
        true => sockaddr_bytes(address),
        false => sockaddr_bytes(&Supervisor::seen_by(v6, *address)),
    }
}

/// As [`receive`], without control data: what recvmsg(2) returns, the virtual source, and msg_flags.
pub fn receive_bare(
    supervisor: &Supervisor,
    target: &Target,
    data: &mut [u8],
    flags: i32,
) -> Result<(usize, Option<SocketAddr>, i32), Errno> {
    let mut name = Name::default();
    let take = || {
        let (length, flags) = message::receive_bare(target.as_fd(), data, &mut name, flags | libc::MSG_DONTWAIT)?;
        Ok((length, name.inet(), flags))
    };
    admitted(supervisor, target, flags, |(_, source, _)| *source, take).map(|((n, _, flags), seen)| (n, seen, flags))
}

/// Takes datagrams until one comes from a source that may send; gives it with its source as the program is to see it.
fn admitted<T>(
    supervisor: &Supervisor,
    target: &Target,
    flags: i32,
    source: impl Fn(&T) -> Option<SocketAddr>,
    mut take: impl FnMut() -> Result<T, Errno>,
) -> Result<(T, Option<SocketAddr>), Errno> {
    loop {
        let got = take()?;
        let Some(SocketAddr::V4(source)) = source(&got).map(canonical) else { return Ok((got, None)) };
        match virtual_source(supervisor, target.cookie, &source, |v6, address| Supervisor::seen_by(v6, *address)) {
            Some(address) => return Ok((got, Some(address))),
            None if flags & libc::MSG_ERRQUEUE != 0 => return Ok((got, None)),
            None => dropped(target, &source, flags),
        }
    }
}

/// What the program knows a source by, if that may send to its socket; `named` is told whether the socket is one of IPv6.
fn virtual_source<T>(
    supervisor: &Supervisor,
    socket: Cookie,
    source: &SocketAddrV4,
    named: impl FnOnce(bool, &SocketAddr) -> T,
) -> Option<T> {
    let table = supervisor.table.lock();
    let receiver = table.get(socket)?;
    let own = receiver.datagram.as_ref().and_then(|d| d.name_of(source).or(d.connected.as_ref()));
    let known = own.or_else(|| table.name_in_group(socket, source))?;
    // No AF_INET socket hears IPv6.
    (receiver.v6 || known.is_ipv4()).then(|| named(receiver.v6, known))
}

/// A datagram of somebody who may not send: it is out of the queue then.
#[cold]
fn dropped(target: &Target, source: &SocketAddrV4, flags: i32) {
    tracing::debug!(%source, "a datagram that no session announced was dropped");
    if flags & libc::MSG_PEEK != 0 {
        let _ = message::receive(target.as_fd(), &mut [], 0, libc::MSG_DONTWAIT);
    }
}

/// An inbound session: its peer may send to this socket. Returns the address by which the program sees it.
pub fn admit(supervisor: &Supervisor, cookie: Cookie, source: SocketAddrV4, wanted: SocketAddr, session: SessionId) {
    let mut seen = canonical(wanted);
    {
        let table = supervisor.table.lock();
        if let Some(d) = table.get(cookie).and_then(|s| s.datagram.as_ref()) {
            // Two runs of one identity may use one port: each gets an address of its own here.
            while matches!(d.by_virtual.get(&seen), Some(Peer::Ready { physical, .. }) if *physical != source) {
                seen.set_port(seen.port().checked_add(1).unwrap_or(1024));
            }
        }
    }
    if let Some(port) = own_port(supervisor, cookie) {
        supervisor.former.lock().note(port, seen);
    }
    match supervisor.guard(Proto::Udp, source) {
        Ok(guard) => supervisor.table.lock().admit(cookie, seen, source, session, guard),
        Err(error) => tracing::warn!(%error, %source, "a service of this machine has the port of an inbound session"),
    }
}
