//! Death of sockets, learned from the kernel without trapping close(): sock_diag(7).
//!
//! Every TCP and UDP socket that dies in a network namespace is reported, with its cookie, to whoever joined the destroy groups there; no
//! privilege is needed. What is reported is the end of the kernel's socket, not of a file descriptor: all duplicates are
//! closed *and* the transport is done with it (a socket that was closed with undelivered data lives on until that is acknowledged; one
//! that enters TIME_WAIT is dead, for only a shorthand of it stays). Sockets of MPTCP, UDP-Lite and AF_UNIX are not reported.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::io;
use std::net::{IpAddr, SocketAddr, SocketAddrV4};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::{self, AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, sockopt};
use nix::sys::time::{TimeVal, TimeValLike};
use parking_lot::Mutex;

use crate::sock;

// linux/sock_diag.h and linux/inet_diag.h, which libc does not have.
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const SKNLGRP_INET_TCP_DESTROY: u32 = 1;
const SKNLGRP_INET_UDP_DESTROY: u32 = 2;
const SKNLGRP_INET6_TCP_DESTROY: u32 = 3;
const SKNLGRP_INET6_UDP_DESTROY: u32 = 4;
/// `struct inet_diag_msg` begins with family, state, timer, retrans (a byte each), then `struct inet_diag_sockid`: two ports, two
/// addresses of 16 bytes, an interface, the cookie in two halves, the low one first.
const MSG_LEN: usize = 72;
const MSG_TIMER: usize = 2;
const MSG_COOKIE: usize = 44;
const MSG_SOURCE: usize = 8;
/// `struct inet_diag_req_v2`: family, protocol, ext, pad, states, sockid.
const REQ_LEN: usize = 56;
/// The value of `idiag_timer` that only the shorthand of a TIME_WAIT has (inet_diag.c, `inet_twsk_diag_fill`).
const TIMER_TIMEWAIT: u8 = 3;
/// Attributes after a `struct inet_diag_msg`.
const INET_DIAG_INFO: u16 = 2;
const INET_DIAG_SKV6ONLY: u16 = 11;
/// TCP_LISTEN (net/tcp_states.h).
const LISTEN: u8 = 10;
/// Sockets in every state.
const EVERY: u32 = u32::MAX;

const NLMSG_HDR: usize = size_of::<libc::nlmsghdr>();
/// The kernel fills at most 32 KiB per message of a dump.
const BUFFER: usize = 32 * 1024;
/// One socket, of which nothing but the message itself is asked for.
const LOOK_UP_BUFFER: usize = 1024;
/// What a watch asks to be allowed to have waiting; the kernel doubles it and charges about 1 KiB for a report.
const WATCH_BUFFER: usize = 8 * 1024 * 1024;

/// Whether every death since the last read is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use = "after a loss the table has to be swept with live_cookies()"]
pub enum Lost {
    /// Nothing was lost.
    Nothing,
    /// Reports were dropped (ENOBUFS): compare the table with [`live_cookies`].
    Some,
}

/// Reports of the death of every TCP and UDP socket of the network namespace in which it was opened: also those of strangers, so look each
/// cookie up and ignore the unknown.
#[derive(Debug)]
pub struct DestroyWatch {
    fd: OwnedFd,
    buffer: Vec<u8>,
}

impl DestroyWatch {
    /// Joins the four destroy groups. Sockets that die from now on are reported.
    ///
    /// # Errors
    /// What socket(2) and bind(2) give: EPROTONOSUPPORT where the kernel has no sock_diag.
    pub fn new() -> io::Result<Self> {
        Self::on(diag_socket(SockFlag::empty())?)
    }

    /// The same for the network namespace of `fd`, a fresh socket of NETLINK_SOCK_DIAG.
    ///
    /// # Errors
    /// As [`DestroyWatch::new`].
    pub fn on(fd: OwnedFd) -> io::Result<Self> {
        sock::set_nonblocking(fd.as_fd())?;
        // The system's limit (net.core.rmem_max) can only be passed with CAP_NET_ADMIN.
        if socket::setsockopt(&fd, sockopt::RcvBufForce, &WATCH_BUFFER).is_err() {
            socket::setsockopt(&fd, sockopt::RcvBuf, &WATCH_BUFFER)?;
        }
        let groups =
            [SKNLGRP_INET_TCP_DESTROY, SKNLGRP_INET_UDP_DESTROY, SKNLGRP_INET6_TCP_DESTROY, SKNLGRP_INET6_UDP_DESTROY];
        let mask = groups.iter().fold(0, |mask, group| mask | 1 << (group - 1));
        socket::bind(fd.as_raw_fd(), &NetlinkAddr::new(0, mask))?;
        Ok(Self { fd, buffer: vec![0; BUFFER] })
    }

    /// Adds the cookies of the sockets that died since the last read to `cookies`, without waiting.
    ///
    /// After an overrun the kernel drops everything until the queue was emptied once, which this call does before it returns; a sweep
    /// that starts after it therefore misses nothing.
    ///
    /// # Errors
    /// What recv(2) gives, but for EAGAIN, EINTR and ENOBUFS.
    pub fn read(&mut self, cookies: &mut Vec<u64>) -> io::Result<Lost> {
        let mut lost = Lost::Nothing;
        loop {
            match socket::recv(self.fd.as_raw_fd(), &mut self.buffer, MsgFlags::MSG_TRUNC) {
                Ok(len) if len > self.buffer.len() => lost = Lost::Some,
                Ok(len) => {
                    for message in messages(&self.buffer[..len]) {
                        if message.kind == SOCK_DIAG_BY_FAMILY {
                            cookies.extend(cookie(message.body));
                        }
                    }
                }
                Err(Errno::ENOBUFS) => lost = Lost::Some,
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return Ok(lost),
                Err(e) => return Err(e.into()),
            }
        }
    }
}

impl AsFd for DestroyWatch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// The cookies of all living TCP and UDP sockets, IPv4 and IPv6, of this network namespace.
///
/// A socket is *not* in it, although it lives, while it is in no table of the kernel: it was never bound nor connected, or it was a
/// TCP connection that ended (reset, timed out, both sides finished, `connect(AF_UNSPEC)`) and its file descriptor is still open; a TCP
/// socket that is merely bound is missing before Linux 6.8. So for a cookie that is absent it holds that no
/// peer can reach the socket and no stream leads to it: what the supervisor keeps for it may be let go, if at the next trapped
/// call of a socket with an unknown cookie it starts from what the kernel says of that socket (as it does for every new one).
///
/// Sockets that came to an end as TIME_WAIT are left out, though the kernel lists them with the cookie that they had.
///
/// The kernel walks its tables while others change them, and an entry can slip past a walk; so two walks are made and joined.
///
/// # Errors
/// What netlink(7) gives; ETIMEDOUT if the kernel does not answer.
pub fn live_cookies() -> io::Result<HashSet<u64>> {
    Ok(living()?.cookies)
}

/// What [`living`] found.
#[derive(Debug)]
pub struct Living {
    /// See [`live_cookies`].
    pub cookies: HashSet<u64>,
    /// Whether TCP sockets that are merely bound are among them (Linux 6.8).
    pub with_bound_tcp: bool,
}

/// As [`live_cookies`], and whether this kernel lists TCP sockets that are merely bound.
///
/// # Errors
/// As [`live_cookies`].
pub fn living() -> io::Result<Living> {
    let probe = sock::tcp4()?;
    sock::bind(probe.as_fd(), &SocketAddr::from(([127, 0, 0, 1], 0)))?;
    let fd = diag_socket(SockFlag::empty())?;
    let mut buffer = vec![0; BUFFER];
    let mut cookies = HashSet::new();
    for _ in 0..2 {
        for family in [libc::AF_INET, libc::AF_INET6] {
            for protocol in [libc::IPPROTO_TCP, libc::IPPROTO_UDP] {
                let request = Request { family, protocol, ends: None, states: EVERY, info: false };
                query(&fd, &mut buffer, &request, |body| {
                    if body.get(MSG_TIMER) != Some(&TIMER_TIMEWAIT) {
                        cookies.extend(cookie(body));
                    }
                })?;
            }
        }
    }
    let with_bound_tcp = cookies.contains(&sock::socket_cookie(probe.as_fd())?);
    Ok(Living { cookies, with_bound_tcp })
}

/// The cookie of the TCP socket with these two ends, both of the same family (a socket that uses v4-mapped addresses is found by the IPv4
/// ones); None if there is none, or only a TIME_WAIT. A listener at `local` is found too, where no connection matches.
///
/// # Errors
/// What netlink(7) gives; EINVAL if the families differ.
pub fn cookie_at(local: SocketAddr, peer: SocketAddr) -> io::Result<Option<u64>> {
    let mut found = None;
    look_up(&connection(local, peer)?, |body| found = living_cookie(body))?;
    Ok(found)
}

/// The look-up of a TCP socket by its two ends.
fn connection(local: SocketAddr, peer: SocketAddr) -> io::Result<Request> {
    let family = match (local, peer) {
        (SocketAddr::V4(_), SocketAddr::V4(_)) => libc::AF_INET,
        (SocketAddr::V6(_), SocketAddr::V6(_)) => libc::AF_INET6,
        _ => return Err(Errno::EINVAL.into()),
    };
    Ok(Request { family, protocol: libc::IPPROTO_TCP, ends: Some((local, peer)), states: EVERY, info: false })
}

/// The cookie of a socket that is more than the shorthand of a TIME_WAIT.
fn living_cookie(body: &[u8]) -> Option<u64> {
    if body.get(MSG_TIMER) == Some(&TIMER_TIMEWAIT) { None } else { cookie(body) }
}

/// A socket as the kernel's tables show it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Endpoint {
    /// SO_COOKIE.
    pub cookie: u64,
    /// Its own address.
    pub local: SocketAddr,
    /// The other end's; None for a listener and an unconnected datagram socket.
    pub peer: Option<SocketAddr>,
    /// TCP_LISTEN.
    pub listens: bool,
    /// IPV6_V6ONLY.
    pub v6only: bool,
}

/// Questions about the sockets of one network namespace, this one or another.
#[derive(Debug)]
pub struct Inspector(Mutex<OwnedFd>);

impl Inspector {
    /// Asks about the network namespace of this process.
    ///
    /// # Errors
    /// What socket(2) gives.
    pub fn here() -> io::Result<Self> {
        Ok(Self(Mutex::new(diag_socket(SockFlag::empty())?)))
    }

    /// Asks by `fd`, a fresh socket of NETLINK_SOCK_DIAG, about the network namespace that it belongs to.
    ///
    /// # Errors
    /// What setsockopt(2) gives.
    pub fn on(fd: OwnedFd) -> io::Result<Self> {
        socket::setsockopt(&fd, sockopt::ReceiveTimeout, &TimeVal::seconds(5))?;
        Ok(Self(Mutex::new(fd)))
    }

    /// As [`cookie_at`].
    ///
    /// # Errors
    /// As [`cookie_at`].
    pub fn cookie_at(&self, local: SocketAddr, peer: SocketAddr) -> io::Result<Option<u64>> {
        let mut found = None;
        match query(&self.0.lock(), &mut [0; LOOK_UP_BUFFER], &connection(local, peer)?, |b| found = living_cookie(b)) {
            Err(e) if e.raw_os_error() == Some(libc::ENOENT) => Ok(None),
            outcome => outcome.map(|()| found),
        }
    }

    /// All TCP sockets, or all UDP sockets, that have an address.
    ///
    /// # Errors
    /// What netlink(7) gives.
    pub fn endpoints(&self, tcp: bool) -> io::Result<Vec<Endpoint>> {
        self.all(if tcp { libc::IPPROTO_TCP } else { libc::IPPROTO_UDP }, EVERY)
    }

    /// The TCP sockets that listen. The kernel finds them without a look at every connection that there may be on the machine, which takes it
    /// milliseconds.
    ///
    /// # Errors
    /// What netlink(7) gives.
    pub fn listeners(&self) -> io::Result<Vec<Endpoint>> {
        self.all(libc::IPPROTO_TCP, 1 << LISTEN)
    }

    fn all(&self, protocol: libc::c_int, states: u32) -> io::Result<Vec<Endpoint>> {
        let mut buffer = vec![0; BUFFER];
        let mut found = Vec::new();
        let fd = self.0.lock();
        for family in [libc::AF_INET, libc::AF_INET6] {
            let request = Request { family, protocol, ends: None, states, info: false };
            query(&fd, &mut buffer, &request, |body| found.extend(endpoint(body)))?;
        }
        Ok(found)
    }

    /// Which socket of this namespace an AF_UNIX socket is connected to: its inode.
    ///
    /// # Errors
    /// As [`crate::unix_diag::peer_inode`]; ENOENT also where the socket is of another namespace.
    pub fn unix_peer(&self, fd: BorrowedFd<'_>) -> Result<u64, Errno> {
        crate::unix_diag::peer_inode_by(&self.0.lock(), fd)
    }

    /// The AF_UNIX socket of this namespace that the socket file with this device and inode belongs to, by its inode.
    ///
    /// # Errors
    /// What netlink(7) gives.
    pub fn socket_of_file(&self, device: u64, inode: u64) -> Result<Option<u64>, Errno> {
        crate::unix_diag::with_file(&self.0.lock(), device, inode)
    }

    /// The AF_UNIX socket of this namespace with an abstract name, which begins with its NUL, by its inode.
    ///
    /// # Errors
    /// What netlink(7) gives.
    pub fn socket_named(&self, name: &[u8]) -> Result<Option<u64>, Errno> {
        crate::unix_diag::with_name(&self.0.lock(), name)
    }
}

impl AsFd for Inspector {
    /// A socket of the namespace that is asked about. Not to be read.
    fn as_fd(&self) -> BorrowedFd<'_> {
        let fd = self.0.lock().as_raw_fd();
        // SAFETY: the descriptor is closed only when `self` is dropped, which the borrow outlives not.
        unsafe { BorrowedFd::borrow_raw(fd) }
    }
}

/// What a `struct inet_diag_msg` says.
fn endpoint(body: &[u8]) -> Option<Endpoint> {
    let cookie = living_cookie(body)?;
    let short = |at: usize| Some(u16::from_be_bytes(*body.get(at..)?.first_chunk()?));
    let ip = |at: usize| match i32::from(*body.first()?) {
        libc::AF_INET => Some(IpAddr::from(*body.get(at..)?.first_chunk::<4>()?)),
        _ => Some(IpAddr::from(*body.get(at..)?.first_chunk::<16>()?)),
    };
    let local = SocketAddr::new(ip(MSG_SOURCE)?, short(4)?);
    let peer = SocketAddr::new(ip(MSG_SOURCE + 16)?, short(6)?);
    let v6only = attribute(body, INET_DIAG_SKV6ONLY).and_then(<[u8]>::first).is_some_and(|b| *b != 0);
    let peer = (peer.port() != 0).then_some(peer);
    Some(Endpoint { cookie, local, peer, listens: body.get(1) == Some(&LISTEN), v6only })
}

/// An attribute of an `inet_diag_msg`.
fn attribute(body: &[u8], wanted: u16) -> Option<&[u8]> {
    let mut rest = body.get(MSG_LEN..)?;
    while let Some(header) = rest.first_chunk::<4>() {
        let length = usize::from(u16::from_ne_bytes([header[0], header[1]]));
        if u16::from_ne_bytes([header[2], header[3]]) == wanted {
            return rest.get(4..length);
        }
        rest = rest.get(length.max(4).next_multiple_of(4)..).unwrap_or_default();
    }
    None
}

/// What the kernel has counted of a TCP connection (TCP_INFO).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counted {
    /// The other end.
    pub peer: SocketAddr,
    /// Bytes that were written and have left, each counted once.
    pub sent: u64,
    /// Bytes that came, in order.
    pub received: u64,
    /// Smoothed; None before the first measurement.
    pub rtt: Option<Duration>,
}

/// What the kernel has counted of those TCP connections of this network namespace, by their cookies. One that is not there is not
/// connected (any more).
///
/// # Errors
/// What netlink(7) gives; ETIMEDOUT if the kernel does not answer.
pub fn counted(wanted: &HashSet<u64>) -> io::Result<HashMap<u64, Counted>> {
    let mut found = HashMap::new();
    if wanted.is_empty() {
        return Ok(found);
    }
    let fd = diag_socket(SockFlag::empty())?;
    let mut buffer = vec![0; BUFFER];
    for family in [libc::AF_INET, libc::AF_INET6] {
        let request = Request { family, protocol: libc::IPPROTO_TCP, ends: None, states: EVERY, info: true };
        query(&fd, &mut buffer, &request, |body| {
            if let Some(end) = endpoint(body).filter(|end| wanted.contains(&end.cookie)) {
                let counted = end.peer.zip(attribute(body, INET_DIAG_INFO));
                found.extend(counted.and_then(|(peer, info)| Some((end.cookie, counts(peer, info)?))));
            }
        })?;
    }
    Ok(found)
}

/// What a `struct tcp_info` (linux/tcp.h) says; None where the kernel is too old to count (Linux 4.19).
fn counts(peer: SocketAddr, info: &[u8]) -> Option<Counted> {
    const RTT: usize = 68; // microseconds
    const BYTES_RECEIVED: usize = 128;
    const BYTES_SENT: usize = 200;
    const BYTES_RETRANS: usize = 208;
    /// TCP_TIME_WAIT, TCP_CLOSE_WAIT, TCP_LAST_ACK, TCP_CLOSING (net/tcp_states.h): the other end's FIN has come, which counts as a byte.
    const AFTER_FIN: [u8; 4] = [6, 8, 9, 11];
    let long = |at: usize| Some(u64::from_ne_bytes(*info.get(at..)?.first_chunk()?));
    let rtt = u32::from_ne_bytes(*info.get(RTT..)?.first_chunk()?);
    let fin = u64::from(AFTER_FIN.contains(info.first()?));
    Some(Counted {
        peer,
        sent: long(BYTES_SENT)?.saturating_sub(long(BYTES_RETRANS)?),
        received: long(BYTES_RECEIVED)?.saturating_sub(fin),
        rtt: (rtt > 0).then(|| Duration::from_micros(rtt.into())),
    })
}

/// Whether what `from` sends to `local` meets a socket that is bound to exactly that address: a TCP listener, or a UDP
/// socket that is unconnected or connected to `from`. False too where a socket on the wildcard address would get it instead.
///
/// # Errors
/// What netlink(7) gives.
pub fn is_bound(local: SocketAddrV4, from: SocketAddrV4, tcp: bool) -> io::Result<bool> {
    Ok(receiver(local, from, tcp)? == Receiver::Exact)
}

/// Who gets what is sent to an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Receiver {
    /// A socket bound to just that address.
    Exact,
    /// A socket on another address, the wildcard.
    Wildcard,
    /// Nobody; or only a UDP socket that is connected to somebody else.
    Nobody,
}

/// Who gets what `from` sends to `local`; see [`is_bound`].
///
/// # Errors
/// What netlink(7) gives.
pub fn receiver(local: SocketAddrV4, from: SocketAddrV4, tcp: bool) -> io::Result<Receiver> {
    let (from, local_end) = (SocketAddr::V4(from), SocketAddr::V4(local));
    // The kernel reads the two ends of a UDP look-up the other way round (udp_dump_one).
    let (protocol, ends) = match tcp {
        true => (libc::IPPROTO_TCP, (local_end, from)),
        false => (libc::IPPROTO_UDP, (from, local_end)),
    };
    let mut found = Receiver::Nobody;
    let request = Request { family: libc::AF_INET, protocol, ends: Some(ends), states: EVERY, info: false };
    look_up(&request, |body| {
        let exact = body.get(MSG_SOURCE..MSG_SOURCE + 16).is_some_and(|source| match body.first() {
            Some(&family) if i32::from(family) == libc::AF_INET6 => source == local.ip().to_ipv6_mapped().octets(),
            _ => source[..4] == local.ip().octets(),
        });
        found = if exact { Receiver::Exact } else { Receiver::Wildcard };
    })?;
    Ok(found)
}

thread_local! {
    /// For look-ups of one socket: opening and closing a netlink socket costs several times what the question does.
    static LOOK_UPS: RefCell<Option<OwnedFd>> = const { RefCell::new(None) };
}

/// Asks for one socket and hands what is there to `found`; nothing is there is no error.
fn look_up(request: &Request, found: impl FnMut(&[u8])) -> io::Result<()> {
    LOOK_UPS.with_borrow_mut(|kept| {
        // Taken out: after an error its queue may hold an answer that nobody waits for.
        let fd = kept.take().map_or_else(|| diag_socket(SockFlag::empty()), Ok)?;
        match query(&fd, &mut [0; LOOK_UP_BUFFER], request, found) {
            Err(e) if e.raw_os_error() == Some(libc::ENOENT) => {}
            outcome => outcome?,
        }
        *kept = Some(fd);
        Ok(())
    })
}

fn diag_socket(flags: SockFlag) -> io::Result<OwnedFd> {
    let flags = flags | SockFlag::SOCK_CLOEXEC;
    let fd = socket::socket(AddressFamily::Netlink, SockType::Raw, flags, SockProtocol::NetlinkSockDiag)?;
    // The kernel answers within the send; the limit only makes sure that a bug cannot hang the supervisor.
    socket::setsockopt(&fd, sockopt::ReceiveTimeout, &TimeVal::seconds(5))?;
    Ok(fd)
}

/// A dump of one family and protocol, or, with both ends, the look-up of one socket.
struct Request {
    family: libc::c_int,
    protocol: libc::c_int,
    ends: Option<(SocketAddr, SocketAddr)>,
    /// Sockets in these states: a bit for each (net/tcp_states.h).
    states: u32,
    /// With struct tcp_info (INET_DIAG_INFO).
    info: bool,
}

impl Request {
    fn encode(&self) -> Vec<u8> {
        let flags = if self.ends.is_some() { libc::NLM_F_REQUEST } else { libc::NLM_F_REQUEST | libc::NLM_F_DUMP };
        let mut out = Vec::with_capacity(NLMSG_HDR + REQ_LEN);
        out.extend(((NLMSG_HDR + REQ_LEN) as u32).to_ne_bytes());
        out.extend(SOCK_DIAG_BY_FAMILY.to_ne_bytes());
        out.extend((flags as u16).to_ne_bytes());
        out.extend([0; 8]); // sequence, port
        let extensions = if self.info { 1 << (INET_DIAG_INFO - 1) } else { 0 };
        out.extend([self.family as u8, self.protocol as u8, extensions, 0]);
        out.extend(self.states.to_ne_bytes());
        let (local, peer) = self.ends.unzip();
        out.extend(local.map_or(0, |a| a.port()).to_be_bytes());
        out.extend(peer.map_or(0, |a| a.port()).to_be_bytes());
        out.extend(address(local));
        out.extend(address(peer));
        out.extend([0; 4]); // any interface
        out.extend([0xff; 8]); // INET_DIAG_NOCOOKIE
        out
    }
}

fn address(addr: Option<SocketAddr>) -> [u8; 16] {
    match addr.map(|a| a.ip()) {
        None => [0; 16],
        Some(IpAddr::V6(ip)) => ip.octets(),
        Some(IpAddr::V4(ip)) => {
            let mut out = [0; 16];
            out[..4].copy_from_slice(&ip.octets());
            out
        }
    }
}

/// Sends one request and hands the body of each answer to `found`.
fn query(fd: &OwnedFd, buffer: &mut [u8], request: &Request, mut found: impl FnMut(&[u8])) -> io::Result<()> {
    socket::sendto(fd.as_raw_fd(), &request.encode(), &NetlinkAddr::new(0, 0), MsgFlags::empty())?;
    loop {
        let len = match socket::recv(fd.as_raw_fd(), buffer, MsgFlags::MSG_TRUNC) {
            Err(Errno::EINTR) => continue,
            Err(Errno::EAGAIN) => return Err(Errno::ETIMEDOUT.into()),
            len => len?,
        };
        if len > buffer.len() {
            return Err(Errno::EMSGSIZE.into());
        }
        for message in messages(&buffer[..len]) {
            match i32::from(message.kind) {
                libc::NLMSG_DONE => return Ok(()),
                libc::NLMSG_ERROR => {
                    let code = message.body.first_chunk().map_or(0, |b| i32::from_ne_bytes(*b));
                    return Err(io::Error::from_raw_os_error(-code));
                }
                _ => found(message.body),
            }
        }
        if request.ends.is_some() {
            return Ok(());
        }
    }
}

struct Message<'a> {
    kind: u16,
    body: &'a [u8],
}

/// The messages of one datagram, each padded to 4 bytes (netlink(7)). What does not parse ends the walk.
fn messages(mut bytes: &[u8]) -> impl Iterator<Item = Message<'_>> {
    std::iter::from_fn(move || {
        let len = u32::from_ne_bytes(*bytes.first_chunk()?) as usize;
        let kind = u16::from_ne_bytes(*bytes.get(4..)?.first_chunk()?);
        let body = bytes.get(NLMSG_HDR..len)?;
        bytes = bytes.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some(Message { kind, body })
    })
}

/// The cookie in an `inet_diag_msg`.
fn cookie(body: &[u8]) -> Option<u64> {
    let halves: &[u8; 8] = body.get(..MSG_LEN)?[MSG_COOKIE..].first_chunk()?;
    let [a, b, c, d, e, f, g, h] = *halves;
    let (low, high) = (u32::from_ne_bytes([a, b, c, d]), u32::from_ne_bytes([e, f, g, h]));
    Some(u64::from(high) << 32 | u64::from(low))
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::poll::PollFlags;
    use std::net::{TcpListener, TcpStream, UdpSocket};
    use std::time::{Duration, Instant};

    fn cookie_of(fd: &impl AsFd) -> u64 {
        sock::socket_cookie(fd.as_fd()).unwrap()
    }

    /// Reads until every wanted cookie was reported, and a little longer; gives how often each was.
    fn reported(watch: &mut DestroyWatch, wanted: &[u64]) -> Vec<usize> {
        let mut seen = Vec::new();
        let end = Instant::now() + Duration::from_secs(10);
        while !wanted.iter().all(|c| seen.contains(c)) && Instant::now() < end {
            let _ = sock::wait_for(watch.as_fd(), PollFlags::POLLIN, Duration::from_millis(50));
            assert_eq!(watch.read(&mut seen).unwrap(), Lost::Nothing);
        }
        std::thread::sleep(Duration::from_millis(30));
        let _ = watch.read(&mut seen).unwrap();
        wanted.iter().map(|w| seen.iter().filter(|c| *c == w).count()).collect()
    }

    #[test]
    fn each_death_is_reported_once() {
        for host in ["127.0.0.1:0", "[::1]:0"] {
            let mut watch = DestroyWatch::new().unwrap();
            let listener = TcpListener::bind(host).unwrap();
            let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let (accepted, _) = listener.accept().unwrap();
            let udp = UdpSocket::bind(host).unwrap();
            let cookies = [cookie_of(&listener), cookie_of(&client), cookie_of(&accepted), cookie_of(&udp)];
            let live = live_cookies().unwrap();
            assert!(cookies.iter().all(|c| live.contains(c)), "{host}");
            let mut early = Vec::new();
            assert_eq!(watch.read(&mut early).unwrap(), Lost::Nothing);
            assert!(!early.iter().any(|c| cookies.contains(c)));
            // The client closes first and goes through TIME_WAIT.
            drop((client, accepted, listener, udp));
            assert_eq!(reported(&mut watch, &cookies), [1, 1, 1, 1], "{host}");
            let live = live_cookies().unwrap();
            assert!(!cookies.iter().any(|c| live.contains(c)), "a TIME_WAIT is not alive ({host})");
        }
    }

    #[test]
    fn a_duplicate_keeps_a_socket_alive() {
        let mut watch = DestroyWatch::new().unwrap();
        let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        let dup = udp.try_clone().unwrap();
        let cookie = cookie_of(&udp);
        drop(udp);
        std::thread::sleep(Duration::from_millis(30));
        let mut seen = Vec::new();
        let _ = watch.read(&mut seen).unwrap();
        assert!(!seen.contains(&cookie));
        drop(dup);
        assert_eq!(reported(&mut watch, &[cookie]), [1]);
    }

    #[test]
    fn an_unaccepted_connection_has_its_cookie_from_the_start() {
        let mut watch = DestroyWatch::new().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (here, there) = (client.local_addr().unwrap(), listener.local_addr().unwrap());
        let waiting = cookie_at(there, here).unwrap().unwrap();
        assert_eq!(cookie_at(here, there).unwrap(), Some(cookie_of(&client)));
        let (accepted, _) = listener.accept().unwrap();
        assert_eq!(cookie_of(&accepted), waiting);
        drop((client, accepted));
        assert_eq!(reported(&mut watch, &[waiting]), [1]);
        assert_eq!(cookie_at(here, there).unwrap(), None);
    }

    #[test]
    fn sockets_in_no_table_are_not_in_the_dump() {
        let mut watch = DestroyWatch::new().unwrap();
        let fresh = sock::tcp4().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (server, _) = listener.accept().unwrap();
        sock::reset_on_close(server.as_fd()).unwrap();
        drop(server);
        sock::wait_for(client.as_fd(), PollFlags::POLLERR, Duration::from_secs(5)).unwrap();
        let cookies = [cookie_of(&fresh), cookie_of(&client)];
        let live = live_cookies().unwrap();
        assert!(!cookies.iter().any(|c| live.contains(c)));
        drop((fresh, client));
        assert_eq!(reported(&mut watch, &cookies), [1, 1], "their death is reported all the same");
    }

    #[test]
    fn a_loss_is_told_and_the_watch_goes_on() {
        let mut watch = DestroyWatch::new().unwrap();
        socket::setsockopt(&watch.fd, sockopt::RcvBuf, &4096).unwrap();
        for _ in 0..64 {
            drop(UdpSocket::bind("127.0.0.1:0").unwrap());
        }
        // Reports leave the kernel by a work queue.
        std::thread::sleep(Duration::from_millis(100));
        assert_eq!(watch.read(&mut Vec::new()).unwrap(), Lost::Some);
        let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        let cookie = cookie_of(&udp);
        drop(udp);
        assert_eq!(reported(&mut watch, &[cookie]), [1]);
    }

    #[test]
    fn more_sockets_than_one_message_holds() {
        sock::tests::allow_many_files();
        let many: Vec<_> = (0..600).map(|_| UdpSocket::bind("127.0.0.1:0").unwrap()).collect();
        let live = live_cookies().unwrap();
        assert!(many.iter().all(|s| live.contains(&cookie_of(s))));
    }

    #[test]
    fn a_bound_tcp_socket_is_listed_where_the_kernel_does_it() {
        let bound = sock::tcp4().unwrap();
        sock::bind(bound.as_fd(), &"127.0.0.1:0".parse().unwrap()).unwrap();
        let found = living().unwrap();
        assert_eq!(found.cookies.contains(&cookie_of(&bound)), found.with_bound_tcp);
    }

    #[test]
    fn bytes_of_a_connection_are_counted() {
        use std::io::{Read as _, Write as _};
        for host in ["127.0.0.1:0", "[::1]:0"] {
            let listener = TcpListener::bind(host).unwrap();
            let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let (mut accepted, _) = listener.accept().unwrap();
            client.write_all(&[1; 70_000]).unwrap();
            accepted.write_all(b"hello").unwrap();
            client.shutdown(std::net::Shutdown::Write).unwrap();
            let mut all = Vec::new();
            accepted.read_to_end(&mut all).unwrap();
            client.read_exact(&mut [0; 5]).unwrap();
            let (a, b) = (cookie_of(&client), cookie_of(&accepted));
            let found = counted(&HashSet::from([a, b, cookie_of(&listener)])).unwrap();
            assert_eq!(found.len(), 2, "{found:?}");
            assert_eq!((found[&a].sent, found[&a].received), (70_000, 5), "{host}");
            assert_eq!((found[&b].sent, found[&b].received), (5, 70_000), "{host}");
            assert_eq!(found[&a].peer, listener.local_addr().unwrap());
            assert!(found[&a].rtt.is_some_and(|rtt| rtt > Duration::ZERO && rtt < Duration::from_secs(1)));
        }
        assert_eq!(counts("127.0.0.1:1".parse().unwrap(), &[0; 104]), None);
    }

    #[test]
    fn rubbish_ends_the_walk() {
        assert_eq!(messages(&[]).count(), 0);
        assert_eq!(messages(&[255; 40]).count(), 0);
        assert_eq!(messages(&[0; 40]).count(), 0);
        assert_eq!(cookie(&[0; 71]), None);
    }

    #[test]
    fn only_an_exact_address_is_bound() {
        let is_bound = |local, tcp| super::is_bound(local, "127.77.1.9:4000".parse().unwrap(), tcp);
        let v4 = |a: SocketAddr| match a {
            SocketAddr::V4(a) => a,
            SocketAddr::V6(_) => panic!("{a}"),
        };
        let exact = std::net::TcpListener::bind("127.77.1.1:0").unwrap();
        let at = v4(exact.local_addr().unwrap());
        assert!(is_bound(at, true).unwrap());
        assert!(!is_bound(at, false).unwrap());
        drop(exact);
        assert!(!is_bound(at, true).unwrap());
        let wide = std::net::TcpListener::bind("0.0.0.0:0").unwrap();
        assert!(!is_bound(SocketAddrV4::new([127, 77, 1, 1].into(), wide.local_addr().unwrap().port()), true).unwrap());
        let mapped = std::net::TcpListener::bind("[::ffff:127.77.1.2]:0").unwrap();
        let port = mapped.local_addr().unwrap().port();
        assert!(is_bound(SocketAddrV4::new([127, 77, 1, 2].into(), port), true).unwrap());
        let udp = std::net::UdpSocket::bind("127.77.1.1:0").unwrap();
        let at = v4(udp.local_addr().unwrap());
        assert!(is_bound(at, false).unwrap());
        assert!(!is_bound(SocketAddrV4::new([127, 77, 1, 3].into(), at.port()), false).unwrap());
        let wide = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
        assert!(
            !is_bound(SocketAddrV4::new([127, 77, 1, 1].into(), wide.local_addr().unwrap().port()), false).unwrap()
        );
    }

    /// Others of its slot in the kernel's table go while it is looked for.
    #[test]
    fn a_look_up_misses_nobody() {
        let shared = || {
            let fd = socket::socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None).unwrap();
            socket::setsockopt(&fd, sockopt::ReuseAddr, &true).unwrap();
            fd
        };
        let first = std::net::UdpSocket::from(shared());
        sock::bind(first.as_fd(), &"127.77.3.1:0".parse().unwrap()).unwrap();
        let SocketAddr::V4(local) = first.local_addr().unwrap() else { panic!("no IPv4") };
        let peer: SocketAddrV4 = "127.77.3.2:9".parse().unwrap();
        first.connect(peer).unwrap();
        let going = std::sync::atomic::AtomicBool::new(true);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while going.load(std::sync::atomic::Ordering::Relaxed) {
                    let crowd: Vec<_> = (0..200).map(|_| shared()).collect();
                    for fd in &crowd {
                        sock::bind(fd.as_fd(), &SocketAddr::V4(local)).unwrap();
                        socket::connect(fd.as_raw_fd(), &socket::SockaddrIn::new(127, 77, 3, 3, 9)).unwrap();
                    }
                }
            });
            let missed = (0..20_000).filter(|_| !is_bound(local, peer, false).unwrap()).count();
            going.store(false, std::sync::atomic::Ordering::Relaxed);
            assert_eq!(missed, 0);
        });
    }
}
