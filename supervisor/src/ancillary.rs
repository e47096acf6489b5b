//! Control data (cmsg(3)) between what the program asks for and what the kernel's sockets carry.
//!
//! An AF_INET6 socket of the program speaks by v4-mapped addresses: what a real IPv6 packet would say of its hop limit and
//! traffic class comes and goes as the TTL and TOS of an IPv4 one.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4};
use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;
use nix::libc;
use sandbox::child::Nature;
use sandbox::message::{self, Control, ControlRoom, Received};
use sandbox::sock;

use crate::call::{Call, Target, errno};
use crate::datagram::canonical;
use crate::message::Kind;
use crate::supervisor::Supervisor;
use crate::unix::Credentials;

/// Room that the supervisor gives the kernel: more than all control messages of one datagram together. They are cut to the program's
/// room when they are handed over.
pub const ROOM: usize = 8192;

/// Options of the kernel's socket that stand in for ones that the program set on its AF_INET6 socket.
#[derive(Debug, Clone, Copy, Default)]
pub struct Lent {
    ttl: bool,
    tos: bool,
    /// The program set IPV6_RECVERR.
    pub asks_for_errors: bool,
    /// IP_RECVERR is set for it.
    errors: bool,
}

/// What the program wants to hear of each datagram on an AF_INET6 socket.
#[derive(Debug, Clone, Copy)]
pub struct Wanted {
    hop_limit: bool,
    traffic_class: bool,
    lent: Lent,
}

/// Before control data is received on a datagram socket: makes the kernel tell what the program asked to hear. None for AF_INET.
pub fn wanted(supervisor: &Supervisor, target: &Target) -> Result<Option<Wanted>, Errno> {
    let fd = target.as_fd();
    let mut table = supervisor.table.lock();
    let Some(socket) = table.get_mut(target.cookie).filter(|s| s.v6) else { return Ok(None) };
    let is_on = |level, name| Ok(sock::option(fd, level, name).map_err(errno)? != 0);
    let hop_limit = is_on(libc::IPPROTO_IPV6, libc::IPV6_RECVHOPLIMIT)?;
    let traffic_class = is_on(libc::IPPROTO_IPV6, libc::IPV6_RECVTCLASS)?;
    let lent = &mut socket.datagram.get_or_insert_default().lent;
    for (asked, lent, name) in
        [(hop_limit, &mut lent.ttl, libc::IP_RECVTTL), (traffic_class, &mut lent.tos, libc::IP_RECVTOS)]
    {
        if asked && !*lent && !is_on(libc::IPPROTO_IP, name)? {
            sock::set_option(fd, libc::IPPROTO_IP, name, 1).map_err(errno)?;
            *lent = true;
        }
    }
    Ok(Some(Wanted { hop_limit, traffic_class, lent: *lent }))
}

/// IPV6_RECVERR was set, or taken back.
pub fn ask_for_errors(supervisor: &Supervisor, target: &Target, asks: bool) -> Result<(), Errno> {
    let peer = {
        let mut table = supervisor.table.lock();
        let Some(socket) = table.get_mut(target.cookie).filter(|s| s.v6) else { return Ok(()) };
        let datagram = socket.datagram.get_or_insert_default();
        datagram.lent.asks_for_errors = asks;
        datagram.connected
    };
    lend_errors(supervisor, target, peer.as_ref())
}

/// Before something is sent to `peer`: its ICMP messages are IPv4's here, and the kernel keeps them only for who set IP_RECVERR. Who set
/// only IPV6_RECVERR hears of IPv6 peers, and not of v4-mapped ones.
pub fn lend_errors(supervisor: &Supervisor, target: &Target, peer: Option<&SocketAddr>) -> Result<(), Errno> {
    let mut table = supervisor.table.lock();
    let Some(datagram) = table.get_mut(target.cookie).filter(|s| s.v6).and_then(|s| s.datagram.as_mut()) else {
        return Ok(());
    };
    let lent = &mut datagram.lent;
    let wanted = lent.asks_for_errors && peer.is_some_and(|peer| peer.ip().to_canonical().is_ipv6());
    let (level, name) = (libc::IPPROTO_IP, libc::IP_RECVERR);
    let is_own = || sock::option(target.as_fd(), level, name).is_ok_and(|on| on != 0);
    if wanted == lent.errors || wanted && is_own() {
        return Ok(());
    }
    lent.errors = wanted;
    sock::set_option(target.as_fd(), level, name, wanted.into()).map_err(errno)
}

/// Whether the program wants to hear what becomes of datagrams to `peer`.
pub fn hears_errors(supervisor: &Supervisor, target: &Target, peer: &SocketAddr) -> bool {
    let asks = || {
        let table = supervisor.table.lock();
        let datagram = table.get(target.cookie).and_then(|s| s.datagram.as_ref());
        datagram.is_some_and(|d| d.lent.asks_for_errors) && peer.ip().to_canonical().is_ipv6()
    };
    asks() || sock::option(target.as_fd(), libc::IPPROTO_IP, libc::IP_RECVERR).is_ok_and(|on| on != 0)
}

/// One control message of a datagram that the program sends, as the kernel is to have it: None where it says something of a path
/// or of a process that are not the program's. EINVAL as in ip6_datagram_send_ctl (net/ipv6/datagram.c).
pub fn outgoing(supervisor: &Supervisor, m: Control, v6: bool) -> Result<Option<Control>, Errno> {
    let judged = translated(m.clone(), v6)?;
    check_origin(supervisor, &m, v6)?;
    Ok(judged)
}

/// IP_PKTINFO and IPV6_PKTINFO of a datagram that is sent: whether its interface and its source address are the program's. (They have no effect:
/// there is one way to each destination, and the peer knows the socket by its name.)
fn check_origin(supervisor: &Supervisor, m: &Control, v6: bool) -> Result<(), Errno> {
    let word = |at: usize| m.data.get(at..)?.first_chunk().map(|w| i32::from_ne_bytes(*w));
    let is_there = |index: Option<i32>| index.is_none_or(|index| index == 0 || supervisor.netlink.has_interface(index));
    match (m.level, m.kind) {
        // struct in_pktinfo: interface, local address, destination address. The order of ip_route_output_key_hash_rcu.
        (libc::IPPROTO_IP, libc::IP_PKTINFO) if !v6 => {
            let Some(from) = m.data.get(4..8).and_then(|b| b.first_chunk::<4>()) else { return Ok(()) };
            let from = Ipv4Addr::from(*from);
            match () {
                () if from.is_unspecified() => {}
                () if from.is_multicast() || from.is_broadcast() || from.octets()[0] == 0 => return Err(Errno::EINVAL),
                () if !supervisor.is_own(from.into()) => return Err(Errno::ENETUNREACH),
                () => {}
            }
            if is_there(word(0)) { Ok(()) } else { Err(Errno::ENODEV) }
        }
        // struct in6_pktinfo: source address, interface. The order of ip6_datagram_send_ctl.
        (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO | libc::IPV6_2292PKTINFO) if v6 => {
            let Some(from) = m.data.first_chunk::<16>() else { return Ok(()) };
            let from = Ipv6Addr::from(*from);
            match () {
                () if !is_there(word(16)) => Err(Errno::ENODEV),
                () if from.is_unspecified() || supervisor.is_own(from.into()) => Ok(()),
                () => Err(Errno::EINVAL),
            }
        }
        _ => Ok(()),
    }
}

fn translated(m: Control, v6: bool) -> Result<Option<Control>, Errno> {
    let octet = |least: i32, kind: i32| {
        let value = m.data.as_slice().try_into().map(i32::from_ne_bytes).map_err(|_| Errno::EINVAL)?;
        match value {
            -1..=255 if value < least => Ok(None),
            -1..=255 => Ok(Some(Control { level: libc::IPPROTO_IP, kind, data: value.to_ne_bytes().to_vec() })),
            _ => Err(Errno::EINVAL),
        }
    };
    match (m.level, m.kind) {
        // Segmentation offload is part of the data's meaning.
        (libc::SOL_UDP, libc::UDP_SEGMENT) => Ok(Some(m)),
        (libc::IPPROTO_IP, libc::IP_TTL | libc::IP_TOS) if !v6 => Ok(Some(m)),
        (libc::IPPROTO_IP, libc::IP_PKTINFO) if !v6 && m.data.len() != size_of::<libc::in_pktinfo>() => {
            Err(Errno::EINVAL)
        }
        (libc::IPPROTO_IP, libc::IP_PKTINFO | libc::IP_RETOPTS | IP_PROTOCOL) if !v6 => Ok(None),
        (libc::IPPROTO_IP, _) if !v6 => Err(Errno::EINVAL),
        (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) if v6 && m.data.len() < size_of::<libc::in6_pktinfo>() => {
            Err(Errno::EINVAL)
        }
        (libc::IPPROTO_IPV6, kind) if v6 && IPV6_IGNORED.contains(&kind) => Ok(None),
        (libc::IPPROTO_IPV6, libc::IPV6_HOPLIMIT) if v6 => octet(1, libc::IP_TTL),
        (libc::IPPROTO_IPV6, libc::IPV6_TCLASS) if v6 => octet(0, libc::IP_TOS),
        (libc::IPPROTO_IPV6, _) if v6 => Err(Errno::EINVAL),
        (libc::SOL_SOCKET, kind) => known_to_all(kind).map(|()| None),
        _ => Ok(None),
    }
}

/// IP_PROTOCOL of include/uapi/linux/in.h.
const IP_PROTOCOL: i32 = 52;
/// What IPv6 takes and sipbox leaves out: the path of a packet is not the program's.
const IPV6_IGNORED: [i32; 8] = [
    libc::IPV6_PKTINFO,
    libc::IPV6_FLOWINFO,
    libc::IPV6_HOPOPTS,
    libc::IPV6_RTHDRDSTOPTS,
    libc::IPV6_RTHDR,
    libc::IPV6_DSTOPTS,
    libc::IPV6_DONTFRAG,
    libc::IPV6_2292PKTINFO,
];

/// Whether every socket takes this control message of SOL_SOCKET (__sock_cmsg_send of net/core/sock.c).
pub fn known_to_all(kind: i32) -> Result<(), Errno> {
    match kind {
        libc::SCM_RIGHTS | libc::SCM_CREDENTIALS | libc::SO_PRIORITY | libc::SO_TIMESTAMPING | libc::SO_TXTIME => {
            Ok(())
        }
        libc::SO_MARK => Err(Errno::EPERM),
        _ => Err(Errno::EINVAL),
    }
}

/// The datagrams that UDP_SEGMENT makes of this one (udp(7)).
pub fn segments<'a>(data: &'a [u8], control: &[u8]) -> Vec<&'a [u8]> {
    let size = message::parse_control(control).unwrap_or_default().into_iter().find_map(|m| {
        let asked = (m.level, m.kind) == (libc::SOL_UDP, libc::UDP_SEGMENT);
        asked.then(|| m.data.first_chunk().map_or(0, |s| usize::from(u16::from_ne_bytes(*s))))
    });
    match size {
        Some(size) if size > 0 && !data.is_empty() => data.chunks(size).collect(),
        _ => vec![data],
    }
}

/// Control data of a received message as the program is to see it, for `room` bytes; true when it did not fit (MSG_CTRUNC).
/// `seen` is the source as the program sees it. Descriptors are installed in the program.
pub fn hand_over(
    call: &Call,
    kind: Kind,
    target: &Target,
    got: &Received,
    (seen, wanted): (Option<SocketAddr>, Option<Wanted>),
    room: usize,
    flags: i32,
) -> Result<(Vec<u8>, bool), Errno> {
    let mut room = ControlRoom::new(room);
    if got.control.is_empty() {
        return Ok(room.finish());
    }
    if kind.is_some() {
        let local = seen.map(|peer| (peer, arrival(call.supervisor, target, got, &peer)));
        for mut m in message::parse_control(&got.control)? {
            if let Some((peer, local)) = local {
                name_arrival(&mut m, local);
                name_offender(&mut m, peer.ip());
                if let Some(wanted) = wanted
                    && !as_asked(&mut m, &wanted, peer.ip().to_canonical().is_ipv6())
                {
                    continue;
                }
            }
            room.put(m.level, m.kind, &m.data);
        }
    } else {
        let mut received = message::adopt(got).map_err(errno)?;
        if target.is_of(libc::AF_UNIX) {
            name_sender(call.supervisor, target, got, &mut received, flags);
        }
        for (m, descriptors) in received {
            if descriptors.is_empty() {
                room.put(m.level, m.kind, &m.data);
                continue;
            }
            // scm_detach_fds: as many as there is room for, in the message and in the program's table of files.
            let mut numbers = Vec::new();
            // A pidfd always is close-on-exec (pidfd_prepare).
            let closes = flags & libc::MSG_CMSG_CLOEXEC != 0 || m.kind == message::SCM_PIDFD;
            for d in descriptors.iter().filter(|d| may_enter(call.supervisor.as_ref(), d)).take(room.descriptors()) {
                match call.n.reply.add_descriptor(d.as_fd(), closes) {
                    Ok(number) => numbers.extend_from_slice(&number.to_ne_bytes()),
                    Err(_) => break,
                }
            }
            if !numbers.is_empty() {
                room.put(m.level, m.kind, &numbers);
            }
            room.truncated |= numbers.len() < descriptors.len() * size_of::<i32>();
        }
    }
    Ok(room.finish())
}

/// Names who had the supervisor send this message: process, user and group, and the process by a descriptor.
fn name_sender(
    supervisor: &Supervisor,
    target: &Target,
    got: &Received,
    messages: &mut [(Control, Vec<OwnedFd>)],
    flags: i32,
) {
    let is_ours = |(m, descriptors): &(Control, Vec<OwnedFd>)| match (m.level, m.kind) {
        (libc::SOL_SOCKET, libc::SCM_CREDENTIALS) => {
            Credentials::read(&m.data).is_some_and(|c| c.process == std::process::id() as i32)
        }
        (libc::SOL_SOCKET, message::SCM_PIDFD) => {
            descriptors.first().is_some_and(|fd| sandbox::processes::is_us(fd.as_fd()))
        }
        _ => false,
    };
    if !messages.iter().any(is_ours) {
        return;
    }
    let sender = supervisor.unix.senders.sender(supervisor, target, got, flags);
    for message in messages.iter_mut().filter(|m| is_ours(m)) {
        let (m, descriptors) = message;
        if m.kind == message::SCM_PIDFD {
            // As the kernel does where the process is gone (scm_pidfd_recv): an errno for the descriptor.
            let process = sender.map_or(Err(Errno::ESRCH), |by| sandbox::processes::descriptor_of(by.process));
            m.data = process.as_ref().map_or_else(|e| -(*e as i32), |_| -1).to_ne_bytes().to_vec();
            *descriptors = process.into_iter().collect();
        } else if let Some(own) = Credentials::read(&m.data) {
            m.data = sender.unwrap_or_else(|| own.of_nobody()).bytes();
        }
    }
}

/// Whether a descriptor that came over AF_UNIX may come in. Who sent it may be no program of this run: of Internet sockets only those
/// come in that this run knows, or that lead nowhere yet.
fn may_enter(supervisor: &Supervisor, fd: &OwnedFd) -> bool {
    let own = supervisor.network.as_ref().map(|network| network.owns(fd.as_fd()));
    let enters = match sandbox::child::nature(fd.as_fd()) {
        Nature::Internet | Nature::Way if own.is_some() => own == Some(true),
        Nature::Harmless => true,
        Nature::Way => false,
        Nature::Internet => {
            let known = sock::socket_cookie(fd.as_fd()).is_ok_and(|c| supervisor.table.lock().get(c).is_some());
            let unused =
                || sock::local_addr(fd.as_fd()).is_ok_and(|a| a.port() == 0) && sock::peer_addr(fd.as_fd()).is_err();
            known || unused()
        }
    };
    if !enters {
        supervisor.sessions.say_once("passed", || {
            "a process outside of this run passed a socket to the program by AF_UNIX: refused, since it leads past the sandbox"
                .to_owned()
        });
    }
    enters
}

/// Whether options are lent: then there is control data that the program did not ask for.
pub fn is_lent(supervisor: &Supervisor, target: &Target) -> bool {
    let table = supervisor.table.lock();
    table.get(target.cookie).and_then(|s| s.datagram.as_ref()).is_some_and(|d| d.lent.ttl || d.lent.tos)
}

/// The program's own end of a datagram from `peer`, as it is to see it: of a socket with the wildcard address, where the peer sent it.
fn arrival(supervisor: &Supervisor, target: &Target, got: &Received, peer: &SocketAddr) -> SocketAddr {
    let (own, meant) = {
        let table = supervisor.table.lock();
        let own = table.get(target.cookie).and_then(|s| s.bound).map(|b| b.virtual_);
        if let Some(own) = own
            && !own.ip().is_unspecified()
        {
            return own;
        }
        let meant = match got.name.inet().map(|source| (source.ip().to_canonical(), source.port())) {
            Some((IpAddr::V4(ip), port)) => table.meant_by(&SocketAddrV4::new(ip, port), target.cookie).map(canonical),
            _ => None,
        };
        (own, meant)
    };
    match meant.filter(|meant| meant.is_ipv4() == peer.ip().to_canonical().is_ipv4()) {
        Some(meant) => Supervisor::seen_by(peer.is_ipv6(), meant),
        None => supervisor.local_for(peer, own.map_or(0, |own| own.port())),
    }
}

/// The address at which a datagram arrived (ip(7), ipv6(7)): the program's own.
fn name_arrival(m: &mut Control, local: SocketAddr) {
    match (m.level, m.kind, local.ip().to_canonical()) {
        // struct sockaddr_in.
        (libc::IPPROTO_IP, libc::IP_ORIGDSTADDR, IpAddr::V4(ip)) if m.data.len() >= 8 => {
            m.data[2..4].copy_from_slice(&local.port().to_be_bytes());
            m.data[4..8].copy_from_slice(&ip.octets());
        }
        // struct in_pktinfo: interface, local address, destination address.
        (libc::IPPROTO_IP, libc::IP_PKTINFO, IpAddr::V4(ip)) if m.data.len() >= 12 => {
            m.data[4..8].copy_from_slice(&ip.octets());
            m.data[8..12].copy_from_slice(&ip.octets());
        }
        // struct in6_pktinfo: destination address, interface.
        (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, ip) if m.data.len() >= 16 => {
            let ip = match ip {
                IpAddr::V4(v4) => v4.to_ipv6_mapped(),
                IpAddr::V6(v6) => v6,
            };
            m.data[..16].copy_from_slice(&ip.octets());
        }
        _ => {}
    }
}

/// Who sent the ICMP message behind an error (struct sock_extended_err, then SO_EE_OFFENDER; ip(7)): the peer itself.
fn name_offender(m: &mut Control, peer: IpAddr) {
    /// struct sockaddr_in and struct sockaddr_in6 have their addresses behind the port, the latter behind the flow label as well.
    const OFFENDER: usize = 16 + 4;
    const OFFENDER6: usize = 16 + 8;
    match (m.level, m.kind, peer.to_canonical()) {
        (libc::IPPROTO_IP, libc::IP_RECVERR, IpAddr::V4(ip))
            if m.data.len() >= OFFENDER + 4 && m.data[OFFENDER..OFFENDER + 4] != [0; 4] =>
        {
            m.data[OFFENDER..OFFENDER + 4].copy_from_slice(&ip.octets());
        }
        (libc::IPPROTO_IPV6, libc::IPV6_RECVERR, ip)
            if m.data.len() >= OFFENDER6 + 16 && m.data[OFFENDER6..OFFENDER6 + 16] != [0; 16] =>
        {
            let seen = match ip {
                IpAddr::V4(v4) => v4.to_ipv6_mapped(),
                IpAddr::V6(v6) => v6,
            };
            m.data[OFFENDER6..OFFENDER6 + 16].copy_from_slice(&seen.octets());
            if ip.is_ipv6() {
                as_icmp6(&mut m.data);
            }
        }
        _ => {}
    }
}

/// A struct sock_extended_err of ICMP as one of ICMPv6 (RFC 7915, section 4.2): errno, then origin, type and code.
fn as_icmp6(error: &mut [u8]) {
    // linux/errqueue.h, linux/icmp.h, linux/icmpv6.h.
    const ORIGIN_ICMP: u8 = 2;
    const ORIGIN_ICMP6: u8 = 3;
    const UNREACHABLE: u8 = 3;
    const TIME_EXCEEDED: u8 = 11;
    let [origin, kind, code] = [error[4], error[5], error[6]];
    if origin != ORIGIN_ICMP {
        return;
    }
    let (kind, code) = match (kind, code) {
        // Port unreachable.
        (UNREACHABLE, 3) => (1, 4),
        // The packet was too big.
        (UNREACHABLE, 4) => (2, 0),
        // Prohibited.
        (UNREACHABLE, 9 | 10 | 13) => (1, 1),
        (UNREACHABLE, 1) => (1, 3),
        (UNREACHABLE, _) => (1, 0),
        (TIME_EXCEEDED, code) => (3, code),
        other => other,
    };
    error[4..7].copy_from_slice(&[ORIGIN_ICMP6, kind, code]);
}

/// TTL and TOS of what came over an AF_INET6 socket as a datagram of IPv6, or of IPv4, has them; false: the program did not ask.
fn as_asked(m: &mut Control, wanted: &Wanted, from_v6: bool) -> bool {
    let (asked, lent, kind) = match (m.level, m.kind) {
        (libc::IPPROTO_IP, libc::IP_TTL) => (wanted.hop_limit, wanted.lent.ttl, libc::IPV6_HOPLIMIT),
        (libc::IPPROTO_IP, libc::IP_TOS) => (wanted.traffic_class, wanted.lent.tos, libc::IPV6_TCLASS),
        // A datagram of IPv6 has no address of IPv4.
        (libc::IPPROTO_IP, libc::IP_PKTINFO | libc::IP_ORIGDSTADDR) => return !from_v6,
        _ => return true,
    };
    if !from_v6 {
        return !lent;
    }
    // IP_TTL is an int and IP_TOS an octet; both are in the first byte of a little-endian int.
    let value = m.data.first().map_or(0, |octet| i32::from(*octet));
    *m = Control { level: libc::IPPROTO_IPV6, kind, data: value.to_ne_bytes().to_vec() };
    asked
}

#[cfg(test)]
mod tests {
    use super::*;

    fn int(level: i32, kind: i32, value: i32) -> Control {
        Control { level, kind, data: value.to_ne_bytes().to_vec() }
    }

    #[test]
    fn errors_of_ipv4_come_as_those_of_ipv6() {
        let error = |kind, code| {
            let mut data = vec![0; 16 + 28];
            data[4..7].copy_from_slice(&[2, kind, code]);
            data[16 + 8..16 + 24].copy_from_slice(&std::net::Ipv4Addr::new(127, 64, 1, 1).to_ipv6_mapped().octets());
            Control { level: libc::IPPROTO_IPV6, kind: libc::IPV6_RECVERR, data }
        };
        let peer: IpAddr = "2001:2::1".parse().unwrap();
        for (v4, v6) in [((3, 3), [3, 1, 4]), ((3, 1), [3, 1, 3]), ((3, 13), [3, 1, 1]), ((11, 0), [3, 3, 0])] {
            let mut m = error(v4.0, v4.1);
            name_offender(&mut m, peer);
            assert_eq!(m.data[4..7], v6);
            assert_eq!(m.data[24..40], "2001:2::1".parse::<std::net::Ipv6Addr>().unwrap().octets());
        }
        // A v4-mapped peer's stay what they are.
        let mut m = error(3, 3);
        name_offender(&mut m, "::ffff:198.18.0.1".parse().unwrap());
        assert_eq!((m.data[4], m.data[38], m.data[39]), (2, 0, 1));
    }

    #[test]
    fn hop_limit_and_traffic_class_go_as_ttl_and_tos() {
        let hop = |value| translated(int(libc::IPPROTO_IPV6, libc::IPV6_HOPLIMIT, value), true);
        assert_eq!(hop(7), Ok(Some(int(libc::IPPROTO_IP, libc::IP_TTL, 7))));
        assert_eq!(hop(-1), Ok(None));
        assert_eq!(hop(256), Err(Errno::EINVAL));
        let class = |value| translated(int(libc::IPPROTO_IPV6, libc::IPV6_TCLASS, value), true);
        assert_eq!(class(0), Ok(Some(int(libc::IPPROTO_IP, libc::IP_TOS, 0))));
        let short = Control { level: libc::IPPROTO_IPV6, kind: libc::IPV6_TCLASS, data: vec![1] };
        assert_eq!(translated(short, true), Err(Errno::EINVAL));
        assert_eq!(translated(int(libc::IPPROTO_IPV6, libc::IPV6_HOPLIMIT, 7), false), Ok(None));
    }

    #[test]
    fn ttl_and_tos_come_as_the_program_asked() {
        let lent =
            Wanted { hop_limit: true, traffic_class: true, lent: Lent { ttl: true, tos: true, ..Lent::default() } };
        let mut tos = Control { level: libc::IPPROTO_IP, kind: libc::IP_TOS, data: vec![9] };
        assert!(!as_asked(&mut tos.clone(), &lent, false));
        assert!(as_asked(&mut tos, &lent, true));
        assert_eq!(tos, int(libc::IPPROTO_IPV6, libc::IPV6_TCLASS, 9));
        let mut at = Control { level: libc::IPPROTO_IP, kind: libc::IP_PKTINFO, data: vec![0; 12] };
        assert_eq!([false, true].map(|from_v6| as_asked(&mut at, &lent, from_v6)), [true, false]);
        let not_asked = Wanted { hop_limit: false, lent: Lent::default(), ..lent };
        let mut ttl = int(libc::IPPROTO_IP, libc::IP_TTL, 64);
        assert!(as_asked(&mut ttl.clone(), &not_asked, false));
        assert!(!as_asked(&mut ttl, &not_asked, true));
    }
}
