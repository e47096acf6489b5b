//! Operations on a socket that may belong to the application: it was fetched by `pidfd_getfd` for the length of one call, its file
//! description may be in blocking mode, and neither its flags nor its options may look different afterwards.

use std::io;
use std::net::{SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{self, SetSockOpt, SockFlag, sockopt};
use nix::sys::time::{TimeVal, TimeValLike};

use crate::direct;
use crate::memory::sockaddr_bytes;
use crate::message::{Name, bind_raw, connect_raw, name_of};

/// The largest value that TCP_SYNCNT takes (`MAX_TCP_SYNCNT` in the kernel): with the usual back-off more than three hours.
pub const SYNCNT_MAX: u8 = 127;

/// How far a connect got before it came back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// The socket is connected.
    Done,
    /// The handshake is under way (EINPROGRESS).
    InProgress,
}

/// Connects `fd`, which may be somebody's socket in blocking mode, without waiting for the peer and without touching O_NONBLOCK, which
/// other threads and processes that share the file description would see.
///
/// In blocking mode the send timeout is set to one microsecond for the length of the call: the kernel rounds it up to one timer tick (1 to
/// 10 ms, by CONFIG_HZ), which is the longest that this sleeps; on loopback it is answered before that. A negative timeout would not
/// sleep at all, but makes the kernel write a complaint to its log.
///
/// # Errors
/// What connect(2) gives; never EINPROGRESS. EALREADY and EISCONN are errors here.
pub fn connect_nowait(fd: BorrowedFd<'_>, addr: &SocketAddr) -> io::Result<Progress> {
    connect_known(fd, addr, is_nonblocking(fd)?)
}

/// As [`connect_nowait`], for who knows already whether the socket is in non-blocking mode.
///
/// # Errors
/// As [`connect_nowait`].
pub fn connect_known(fd: BorrowedFd<'_>, addr: &SocketAddr, nonblocking: bool) -> io::Result<Progress> {
    let outcome = if nonblocking {
        connect_raw(fd, &sockaddr_bytes(addr))
    } else {
        let short = ShortTimeout::send(fd)?;
        let outcome = connect_raw(fd, &sockaddr_bytes(addr));
        short.restore()?;
        outcome
    };
    match outcome {
        Ok(()) => Ok(Progress::Done),
        // EINTR: a signal met the tick of waiting; the handshake goes on (connect(2)).
        Err(Errno::EINPROGRESS | Errno::EINTR) => Ok(Progress::InProgress),
        Err(e) => Err(e.into()),
    }
}

/// What connect(2) says to a TCP socket that has been connected, or tried to, before: that it stands now (the first time that
/// somebody asks after EINPROGRESS), EALREADY, EISCONN, or why it failed, and then the socket is as a fresh one. EINVAL for a socket
/// that nothing was done with, or that was made fresh again by shutdown(2): the address given has a family and no more, so that
/// nothing begins (tcp_v4_connect, tcp_v6_connect). Does not wait, also if the socket is in blocking mode.
///
/// # Errors
/// As said.
pub fn connect_again(fd: BorrowedFd<'_>) -> io::Result<()> {
    let short = if is_nonblocking(fd)? { None } else { Some(ShortTimeout::send(fd)?) };
    let family = libc::AF_INET as libc::sa_family_t;
    // SAFETY: `family` is as many readable bytes as the length says, alive through the call.
    let rc =
        unsafe { libc::connect(fd.as_raw_fd(), (&raw const family).cast(), size_of_val(&family) as libc::socklen_t) };
    let outcome = Errno::result(rc).map(drop);
    if let Some(short) = short {
        short.restore()?;
    }
    match outcome {
        // A signal met the tick of waiting.
        Err(Errno::EINTR) => Err(Errno::EALREADY.into()),
        outcome => Ok(outcome?),
    }
}

/// Dissolves the association of `fd` (connect to AF_UNSPEC, connect(2)); on a TCP socket this also takes back a connect under way.
///
/// # Errors
/// What connect(2) gives.
pub fn disconnect(fd: BorrowedFd<'_>) -> io::Result<()> {
    let unspec = libc::sockaddr { sa_family: libc::AF_UNSPEC as libc::sa_family_t, sa_data: [0; 14] };
    // SAFETY: `unspec` is a whole sockaddr that lives through the call, and the length given is its own.
    let rc =
        unsafe { libc::connect(fd.as_raw_fd(), &raw const unspec, size_of::<libc::sockaddr>() as libc::socklen_t) };
    Ok(Errno::result(rc).map(drop)?)
}

/// Binds `fd` (bind(2)).
///
/// # Errors
/// What bind(2) gives.
pub fn bind(fd: BorrowedFd<'_>, addr: &SocketAddr) -> io::Result<()> {
    Ok(bind_raw(fd, &sockaddr_bytes(addr))?)
}

/// listen(2), with any backlog: the kernel's own limit (net.core.somaxconn) holds.
///
/// # Errors
/// What listen(2) gives.
pub fn listen(fd: BorrowedFd<'_>, backlog: i32) -> Result<(), Errno> {
    // SAFETY: it takes two numbers.
    Errno::result(unsafe { nix::libc::listen(fd.as_raw_fd(), backlog) }).map(drop)
}

/// As [`bind`], of an AF_INET socket by a struct sockaddr_in that says AF_UNSPEC, as old programs do (inet_bind).
///
/// # Errors
/// What bind(2) gives.
pub fn bind_unspecified(fd: BorrowedFd<'_>, addr: SocketAddrV4) -> io::Result<()> {
    let mut bytes = sockaddr_bytes(&addr.into());
    bytes[..2].copy_from_slice(&(libc::AF_UNSPEC as u16).to_ne_bytes());
    Ok(bind_raw(fd, &bytes)?)
}

/// The local address (getsockname(2)) of an AF_INET or AF_INET6 socket.
///
/// # Errors
/// What getsockname(2) gives; EAFNOSUPPORT for any other family.
pub fn local_addr(fd: BorrowedFd<'_>) -> io::Result<SocketAddr> {
    name_of(fd, false)?.inet().ok_or_else(|| Errno::EAFNOSUPPORT.into())
}

/// The peer's address (getpeername(2)) of an AF_INET or AF_INET6 socket.
///
/// # Errors
/// What getpeername(2) gives, ENOTCONN above all; EAFNOSUPPORT for any other family.
pub fn peer_addr(fd: BorrowedFd<'_>) -> io::Result<SocketAddr> {
    name_of(fd, true)?.inet().ok_or_else(|| Errno::EAFNOSUPPORT.into())
}

/// The address with its v4-mapped form undone: what the two ends of a v4-mapped connection agree on.
pub fn canonical(addr: SocketAddr) -> SocketAddr {
    SocketAddr::new(addr.ip().to_canonical(), addr.port())
}

/// The v4-mapped form of an address, as a socket of AF_INET6 takes it.
pub fn mapped(addr: SocketAddrV4) -> SocketAddrV6 {
    SocketAddrV6::new(addr.ip().to_ipv6_mapped(), addr.port(), 0, 0)
}

/// `addr` in the form that the family of `fd` takes: as it is for AF_INET, v4-mapped for AF_INET6.
///
/// # Errors
/// EAFNOSUPPORT for any other family.
pub fn addr_for(fd: BorrowedFd<'_>, addr: SocketAddrV4) -> io::Result<SocketAddr> {
    match socket_domain(fd)? {
        libc::AF_INET => Ok(addr.into()),
        libc::AF_INET6 => Ok(mapped(addr).into()),
        _ => Err(Errno::EAFNOSUPPORT.into()),
    }
}

/// The name of the socket under `fd` (SO_COOKIE): unique for the life of the network namespace, never reused, never 0.
///
/// # Errors
/// ENOTSOCK, EBADF.
#[inline]
pub fn socket_cookie(fd: BorrowedFd<'_>) -> io::Result<u64> {
    get(fd, libc::SOL_SOCKET, libc::SO_COOKIE, 0)
}

/// The network namespace that the socket belongs to (SO_NETNS_COOKIE, Linux 5.14): unique, never reused.
///
/// # Errors
/// ENOTSOCK, EBADF.
pub fn netns_cookie(fd: BorrowedFd<'_>) -> io::Result<u64> {
    /// SO_NETNS_COOKIE of include/uapi/asm-generic/socket.h.
    const SO_NETNS_COOKIE: libc::c_int = 71;
    get(fd, libc::SOL_SOCKET, SO_NETNS_COOKIE, 0)
}

/// Whether the first segment of a TCP connect is under way (TCP_SYN_SENT, by TCP_INFO).
///
/// # Errors
/// ENOPROTOOPT if this is not a TCP socket.
pub fn is_connecting(fd: BorrowedFd<'_>) -> io::Result<bool> {
    /// TCP_SYN_SENT of include/net/tcp_states.h.
    const SYN_SENT: u8 = 2;
    Ok(tcp_state(fd)? == SYN_SENT)
}

/// The state of a TCP socket: the first byte of struct tcp_info.
fn tcp_state(fd: BorrowedFd<'_>) -> io::Result<u8> {
    let mut state = 0u8;
    let mut length: libc::socklen_t = 1;
    // SAFETY: the kernel writes one byte, the first of struct tcp_info, which is the state.
    let rc = unsafe {
        let level = libc::IPPROTO_TCP;
        libc::getsockopt(fd.as_raw_fd(), level, libc::TCP_INFO, (&raw mut state).cast(), &raw mut length)
    };
    Errno::result(rc)?;
    Ok(state)
}

/// Bytes of a TCP connection that its other end's kernel does not have yet (SIOCOUTQ, tcp(7)).
///
/// # Errors
/// ENOTTY or EINVAL if this is no connection.
pub fn unacknowledged(fd: BorrowedFd<'_>) -> io::Result<usize> {
    let mut count: libc::c_int = 0;
    // SAFETY: the kernel writes one int, which `count` is.
    let rc = unsafe { libc::ioctl(fd.as_raw_fd(), libc::TIOCOUTQ, &raw mut count) };
    Errno::result(rc)?;
    Ok(usize::try_from(count).unwrap_or(0))
}

/// The round trip of a TCP connection as the kernel sees it, smoothed, and the shortest of the last minutes (TCP_INFO).
///
/// # Errors
/// ENOPROTOOPT or EOPNOTSUPP if this is not a TCP socket; InvalidData if the kernel does not tell.
pub fn round_trips(fd: BorrowedFd<'_>) -> io::Result<(Duration, Duration)> {
    // SAFETY: struct tcp_info has only numbers, of which all may be 0.
    let mut info: libc::tcp_info = unsafe { std::mem::zeroed() };
    let mut length = size_of::<libc::tcp_info>() as libc::socklen_t;
    // SAFETY: the kernel writes `length` bytes at most, and all bits make numbers.
    let rc = unsafe {
        let level = libc::IPPROTO_TCP;
        libc::getsockopt(fd.as_raw_fd(), level, libc::TCP_INFO, (&raw mut info).cast(), &raw mut length)
    };
    Errno::result(rc)?;
    if info.tcpi_rtt == 0 {
        return Err(io::ErrorKind::InvalidData.into());
    }
    // All bits are set where none was measured yet.
    let shortest = match info.tcpi_min_rtt {
        0 => info.tcpi_rtt,
        shortest => shortest.min(info.tcpi_rtt),
    };
    Ok((Duration::from_micros(info.tcpi_rtt.into()), Duration::from_micros(shortest.into())))
}

/// The address family of the socket (SO_DOMAIN), as `AF_*`.
///
/// # Errors
/// ENOTSOCK, EBADF.
pub fn socket_domain(fd: BorrowedFd<'_>) -> io::Result<libc::c_int> {
    get(fd, libc::SOL_SOCKET, libc::SO_DOMAIN, 0)
}

/// The type of the socket (SO_TYPE), as `SOCK_*` without flags.
///
/// # Errors
/// ENOTSOCK, EBADF.
pub fn socket_type(fd: BorrowedFd<'_>) -> io::Result<libc::c_int> {
    get(fd, libc::SOL_SOCKET, libc::SO_TYPE, 0)
}

/// The protocol of the socket (SO_PROTOCOL), as `IPPROTO_*`.
///
/// # Errors
/// ENOTSOCK, EBADF.
pub fn socket_protocol(fd: BorrowedFd<'_>) -> io::Result<libc::c_int> {
    get(fd, libc::SOL_SOCKET, libc::SO_PROTOCOL, 0)
}

/// How many bytes of a stream wait to be read (FIONREAD, ioctl_tty(2)); 0 of a listener.
///
/// # Errors
/// EBADF, ENOTTY.
pub fn waiting(fd: BorrowedFd<'_>) -> io::Result<usize> {
    let mut count: libc::c_int = 0;
    // SAFETY: the kernel writes one int.
    let rc = unsafe { libc::ioctl(fd.as_raw_fd(), libc::FIONREAD, &raw mut count) };
    match Errno::result(rc) {
        Ok(_) => Ok(usize::try_from(count).unwrap_or(0)),
        // SIOCINQ of a socket that listens (tcp_ioctl, unix_ioctl).
        Err(Errno::EINVAL) => Ok(0),
        Err(e) => Err(e.into()),
    }
}

/// Whether what a stream reads next is urgent data, or was before it was read as such (SIOCATMARK, sockatmark(3)).
///
/// # Errors
/// EBADF, ENOTTY.
pub fn is_at_mark(fd: BorrowedFd<'_>) -> io::Result<bool> {
    /// asm-generic/sockios.h
    const SIOCATMARK: libc::Ioctl = 0x8905;
    let mut answer: libc::c_int = 0;
    // SAFETY: the kernel writes one int.
    let rc = unsafe { libc::ioctl(fd.as_raw_fd(), SIOCATMARK, &raw mut answer) };
    Errno::result(rc)?;
    Ok(answer != 0)
}

/// Whether the socket listens (SO_ACCEPTCONN).
///
/// # Errors
/// ENOTSOCK, EBADF.
pub fn is_listening(fd: BorrowedFd<'_>) -> io::Result<bool> {
    Ok(socket::getsockopt(&fd, sockopt::AcceptConn)?)
}

/// Whether the socket may share its port with another one (SO_REUSEADDR, SO_REUSEPORT).
///
/// # Errors
/// ENOTSOCK, EBADF.
pub fn shares_port(fd: BorrowedFd<'_>) -> io::Result<bool> {
    Ok(socket::getsockopt(&fd, sockopt::ReuseAddr)? || socket::getsockopt(&fd, sockopt::ReusePort)?)
}

/// Whether the kernel would let a TCP socket with the options and owner of this one be bound where another one is (inet_csk_bind_conflict).
///
/// # Errors
/// What socket(2), setsockopt(2) and bind(2) give, but for EADDRINUSE.
pub fn may_share(like: BorrowedFd<'_>, at: SocketAddrV4) -> io::Result<bool> {
    let asks = tcp4()?;
    socket::setsockopt(&asks, sockopt::ReuseAddr, &socket::getsockopt(&like, sockopt::ReuseAddr)?)?;
    socket::setsockopt(&asks, sockopt::ReusePort, &socket::getsockopt(&like, sockopt::ReusePort)?)?;
    let owner = nix::sys::stat::fstat(like)?.st_uid;
    if owner != nix::unistd::geteuid().as_raw() {
        // SO_REUSEPORT is for sockets of one user. Who may not be another one says what holds for his own.
        let _ = nix::unistd::fchown(&asks, Some(owner.into()), None);
    }
    match bind(asks.as_fd(), &SocketAddr::V4(at)) {
        Ok(()) => Ok(true),
        Err(e) if e.raw_os_error() == Some(libc::EADDRINUSE) => Ok(false),
        Err(e) => Err(e),
    }
}

/// Takes the pending error of the socket (SO_ERROR): 0 if there is none. Reading clears it, so the application will not see it any more.
///
/// # Errors
/// ENOTSOCK, EBADF.
pub fn so_error(fd: BorrowedFd<'_>) -> io::Result<i32> {
    Ok(socket::getsockopt(&fd, sockopt::SocketError)?)
}

/// The pending error of the socket as an error, taken from it.
///
/// # Errors
/// The pending error, or ENOTSOCK, EBADF.
pub fn check_error(fd: BorrowedFd<'_>) -> io::Result<()> {
    match so_error(fd)? {
        0 => Ok(()),
        errno => Err(io::Error::from_raw_os_error(errno)),
    }
}

/// Whether the file description is in non-blocking mode (O_NONBLOCK).
///
/// # Errors
/// EBADF.
pub fn is_nonblocking(fd: BorrowedFd<'_>) -> io::Result<bool> {
    Ok(OFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFL)?).contains(OFlag::O_NONBLOCK))
}

/// Puts a file description of the supervisor's own into non-blocking mode. Never for a socket of the application.
///
/// # Errors
/// EBADF.
pub fn set_nonblocking(fd: BorrowedFd<'_>) -> io::Result<()> {
    let flags = OFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFL)?);
    fcntl(fd, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    Ok(())
}

/// Lets only segments with at least this TTL reach the socket (IP_MINTTL, RFC 5082); the others vanish without a RST.
///
/// # Errors
/// ENOPROTOOPT where the kernel does not have it.
pub fn set_minttl(fd: BorrowedFd<'_>, ttl: u8) -> io::Result<()> {
    set(fd, libc::IPPROTO_IP, libc::IP_MINTTL, libc::c_int::from(ttl))
}

/// As [`set_minttl`], for IPv6 (IPV6_MINHOPCOUNT).
///
/// # Errors
/// ENOPROTOOPT where the kernel does not have it.
pub fn set_min_hops(fd: BorrowedFd<'_>, hops: u8) -> io::Result<()> {
    /// IPV6_MINHOPCOUNT of include/uapi/linux/in6.h.
    const IPV6_MINHOPCOUNT: libc::c_int = 73;
    set(fd, libc::IPPROTO_IPV6, IPV6_MINHOPCOUNT, libc::c_int::from(hops))
}

/// How often a SYN is repeated before connect() gives up (TCP_SYNCNT); the system's default if nobody set it.
///
/// # Errors
/// ENOPROTOOPT if this is not a TCP socket.
pub fn syncnt(fd: BorrowedFd<'_>) -> io::Result<u8> {
    let n: libc::c_int = get(fd, libc::IPPROTO_TCP, libc::TCP_SYNCNT, 0)?;
    u8::try_from(n).map_err(io::Error::other)
}

/// Sets how often a SYN is repeated (TCP_SYNCNT), from 1 to [`SYNCNT_MAX`].
///
/// # Errors
/// EINVAL out of that range, ENOPROTOOPT if this is not a TCP socket.
pub fn set_syncnt(fd: BorrowedFd<'_>, times: u8) -> io::Result<()> {
    set(fd, libc::IPPROTO_TCP, libc::TCP_SYNCNT, libc::c_int::from(times))
}

/// Makes the next close() of this socket send a RST, and throw away what was not delivered (SO_LINGER with a time of 0).
///
/// # Errors
/// ENOTSOCK, EBADF.
pub fn reset_on_close(fd: BorrowedFd<'_>) -> io::Result<()> {
    Ok(socket::setsockopt(&fd, sockopt::Linger, &libc::linger { l_onoff: 1, l_linger: 0 })?)
}

/// A new socket of the supervisor's own: AF_INET, TCP, close-on-exec, non-blocking.
///
/// # Errors
/// What socket(2) gives.
pub fn tcp4() -> io::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    Ok(socket::socket(socket::AddressFamily::Inet, socket::SockType::Stream, flags, socket::SockProtocol::Tcp)?)
}

/// Waits until one of `events`, an error or a hang-up is there, at most for `limit`.
///
/// # Errors
/// ETIMEDOUT after `limit`; EINTR is waited through.
pub fn wait_for(fd: BorrowedFd<'_>, events: PollFlags, limit: Duration) -> io::Result<PollFlags> {
    let end = std::time::Instant::now() + limit;
    loop {
        let left = end.saturating_duration_since(std::time::Instant::now());
        // Rounded up, so that a rest of less than a millisecond does not spin.
        let millis = i32::try_from(left.as_micros().div_ceil(1000)).unwrap_or(i32::MAX);
        let mut fds = [PollFd::new(fd, events)];
        match poll(&mut fds, PollTimeout::try_from(millis).unwrap_or(PollTimeout::MAX)) {
            Ok(0) if left.is_zero() => return Err(Errno::ETIMEDOUT.into()),
            Ok(0) | Err(Errno::EINTR) => {}
            Ok(_) => return Ok(fds[0].revents().unwrap_or(PollFlags::empty())),
            Err(e) => return Err(e.into()),
        }
    }
}

/// Connects a non-blocking socket of the supervisor's own and waits until it stands, at most for `limit`.
///
/// # Errors
/// What connect(2) gives; ETIMEDOUT after `limit`.
pub fn connect_within(fd: BorrowedFd<'_>, addr: &SocketAddr, limit: Duration) -> io::Result<()> {
    if connect_nowait(fd, addr)? == Progress::InProgress {
        wait_for(fd, PollFlags::POLLOUT, limit)?;
        check_error(fd)?;
    }
    Ok(())
}

/// A send or receive timeout of one timer tick, until [`ShortTimeout::restore`] or the end of its life.
pub(crate) struct ShortTimeout<'fd> {
    fd: BorrowedFd<'fd>,
    old: TimeVal,
    receive: bool,
    restored: bool,
}

impl<'fd> ShortTimeout<'fd> {
    pub(crate) fn send(fd: BorrowedFd<'fd>) -> io::Result<Self> {
        let old = socket::getsockopt(&fd, sockopt::SendTimeout)?;
        socket::setsockopt(&fd, sockopt::SendTimeout, &TimeVal::microseconds(1))?;
        Ok(Self { fd, old, receive: false, restored: false })
    }

    /// For an accept() that must not wait.
    pub(crate) fn receive(fd: BorrowedFd<'fd>) -> io::Result<Self> {
        let old = socket::getsockopt(&fd, sockopt::ReceiveTimeout)?;
        socket::setsockopt(&fd, sockopt::ReceiveTimeout, &TimeVal::microseconds(1))?;
        Ok(Self { fd, old, receive: true, restored: false })
    }

    pub(crate) fn restore(mut self) -> io::Result<()> {
        self.restored = true;
        Ok(self.put_back()?)
    }

    fn put_back(&self) -> nix::Result<()> {
        if self.receive {
            sockopt::ReceiveTimeout.set(&self.fd, &self.old)
        } else {
            sockopt::SendTimeout.set(&self.fd, &self.old)
        }
    }
}

impl Drop for ShortTimeout<'_> {
    fn drop(&mut self) {
        if !self.restored {
            // A socket that took the timeout takes the old one back; there is nobody to tell otherwise.
            let _ = self.put_back();
        }
    }
}

/// A value that a socket option may be: any bit pattern is one, and it has no padding.
trait Plain: Copy {}
impl Plain for libc::c_int {}
impl Plain for u64 {}

fn get<T: Plain>(fd: BorrowedFd<'_>, level: libc::c_int, name: libc::c_int, zero: T) -> io::Result<T> {
    let mut value = zero;
    let mut len = size_of::<T>() as libc::socklen_t;
    // SAFETY: `value` is `len` writable bytes, any content of which is a valid T (`Plain`); the kernel writes no more than `len`.
    let rc = unsafe { libc::getsockopt(fd.as_raw_fd(), level, name, (&raw mut value).cast(), &raw mut len) };
    Errno::result(rc)?;
    if len as usize == size_of::<T>() { Ok(value) } else { Err(Errno::EINVAL.into()) }
}

fn set<T: Plain>(fd: BorrowedFd<'_>, level: libc::c_int, name: libc::c_int, value: T) -> io::Result<()> {
    let len = size_of::<T>() as libc::socklen_t;
    // SAFETY: `value` is `len` readable bytes without padding (`Plain`), alive through the call.
    let rc = unsafe { libc::setsockopt(fd.as_raw_fd(), level, name, (&raw const value).cast(), len) };
    Ok(Errno::result(rc).map(drop)?)
}

/// An option whose value is an int (getsockopt(2)).
///
/// # Errors
/// What getsockopt(2) gives.
pub fn option(fd: BorrowedFd<'_>, level: libc::c_int, name: libc::c_int) -> io::Result<libc::c_int> {
    get(fd, level, name, 0)
}

/// Sets an option whose value is an int (setsockopt(2)).
///
/// # Errors
/// What setsockopt(2) gives.
pub fn set_option(fd: BorrowedFd<'_>, level: libc::c_int, name: libc::c_int, value: libc::c_int) -> io::Result<()> {
    set(fd, level, name, value)
}

/// Whether this kernel has sockets of a family, type and protocol.
///
/// # Errors
/// What socket(2) gives: EPROTONOSUPPORT and the like when it has not.
pub fn probe(family: libc::c_int, kind: libc::c_int, protocol: libc::c_int) -> io::Result<()> {
    use std::os::fd::FromRawFd;
    // SAFETY: three integers go in.
    let number = unsafe { libc::socket(family, kind | libc::SOCK_CLOEXEC, protocol) };
    Errno::result(number)?;
    // SAFETY: socket gave a new descriptor that nothing else owns.
    drop(unsafe { OwnedFd::from_raw_fd(number) });
    Ok(())
}

/// Takes O_NONBLOCK off `fd`: for a socket of the supervisor's own making that becomes the program's.
///
/// # Errors
/// What fcntl(2) gives.
pub fn set_blocking(fd: BorrowedFd<'_>) -> io::Result<()> {
    use nix::fcntl::{FcntlArg, OFlag, fcntl};
    let flags = OFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFL)?);
    if flags.contains(OFlag::O_NONBLOCK) {
        fcntl(fd, FcntlArg::F_SETFL(flags - OFlag::O_NONBLOCK))?;
    }
    Ok(())
}

/// Whether one of `events`, an error or a hang-up is there now.
pub fn is_ready(fd: BorrowedFd<'_>, events: PollFlags) -> bool {
    let mut fds = [PollFd::new(fd, events)];
    poll(&mut fds, PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
}

/// Whether the reading side is shut down (shutdown(2)), or the peer has ended the stream.
pub fn is_shut_for_reading(fd: BorrowedFd<'_>) -> bool {
    let mut one = libc::pollfd { fd: fd.as_raw_fd(), events: libc::POLLRDHUP, revents: 0 };
    // SAFETY: one pollfd that lives through the call, which does not wait. (nix does not know POLLRDHUP.)
    unsafe { libc::poll(&raw mut one, 1, 0) > 0 && one.revents & libc::POLLRDHUP != 0 }
}

/// accept4(2): the next connection of a listener; `peer` becomes from where it came, as the raw struct sockaddr: that is known also when
/// the connection was reset while it waited, and getpeername(2) says ENOTCONN.
///
/// # Errors
/// What accept4(2) gives.
pub fn accept(listener: BorrowedFd<'_>, flags: socket::SockFlag, peer: &mut Name) -> io::Result<OwnedFd> {
    Ok(peer.fill(|name| direct::accept4(listener, name, flags.bits()))?)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};
    use std::os::fd::AsFd;
    use std::time::Instant;

    /// For tests with many sockets: the soft limit is 1024 in most places.
    pub(crate) fn allow_many_files() {
        use nix::sys::resource::{Resource, getrlimit, setrlimit};
        let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        setrlimit(Resource::RLIMIT_NOFILE, hard.min(20_000), hard).unwrap();
    }

    fn blocking_tcp() -> OwnedFd {
        let flags = SockFlag::SOCK_CLOEXEC;
        socket::socket(socket::AddressFamily::Inet, socket::SockType::Stream, flags, None).unwrap()
    }

    /// A listener that drops every SYN.
    fn deaf() -> (OwnedFd, SocketAddr) {
        let fd = tcp4().unwrap();
        bind(fd.as_fd(), &"127.0.0.1:0".parse().unwrap()).unwrap();
        set_minttl(fd.as_fd(), 255).unwrap();
        socket::listen(&fd, socket::Backlog::new(8).unwrap()).unwrap();
        let addr = local_addr(fd.as_fd()).unwrap();
        (fd, addr)
    }

    #[test]
    fn a_blocking_socket_is_connected_without_waiting() {
        let (_deaf, addr) = deaf();
        let app = blocking_tcp();
        socket::setsockopt(&app, sockopt::SendTimeout, &TimeVal::seconds(7)).unwrap();
        let start = Instant::now();
        assert_eq!(connect_nowait(app.as_fd(), &addr).unwrap(), Progress::InProgress);
        assert!(start.elapsed() < Duration::from_millis(500), "{:?}", start.elapsed());
        assert!(!is_nonblocking(app.as_fd()).unwrap());
        assert_eq!(socket::getsockopt(&app, sockopt::SendTimeout).unwrap(), TimeVal::seconds(7));
        let again = connect_nowait(app.as_fd(), &addr).unwrap_err();
        assert_eq!(again.raw_os_error(), Some(libc::EALREADY));
        disconnect(app.as_fd()).unwrap();
    }

    #[test]
    fn an_infinite_timeout_stays_infinite() {
        let (_deaf, addr) = deaf();
        let app = blocking_tcp();
        connect_nowait(app.as_fd(), &addr).unwrap();
        assert_eq!(socket::getsockopt(&app, sockopt::SendTimeout).unwrap(), TimeVal::seconds(0));
    }

    #[test]
    fn a_listener_answers_at_once_and_a_closed_port_refuses() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let app = blocking_tcp();
        assert_eq!(connect_nowait(app.as_fd(), &addr).unwrap(), Progress::Done);
        assert_eq!(peer_addr(app.as_fd()).unwrap(), addr);
        let twice = connect_nowait(app.as_fd(), &addr).unwrap_err();
        assert_eq!(twice.raw_os_error(), Some(libc::EISCONN));
        let quiet = tcp4().unwrap();
        bind(quiet.as_fd(), &"127.0.0.1:0".parse().unwrap()).unwrap();
        let closed = local_addr(quiet.as_fd()).unwrap();
        let refused = connect_nowait(blocking_tcp().as_fd(), &closed).unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(libc::ECONNREFUSED));
    }

    #[test]
    fn what_a_socket_is() {
        let udp = UdpSocket::bind("[::1]:0").unwrap();
        assert_eq!(socket_domain(udp.as_fd()).unwrap(), libc::AF_INET6);
        assert_eq!(socket_type(udp.as_fd()).unwrap(), libc::SOCK_DGRAM);
        assert_eq!(socket_protocol(udp.as_fd()).unwrap(), libc::IPPROTO_UDP);
        assert_eq!(local_addr(udp.as_fd()).unwrap(), udp.local_addr().unwrap());
        assert_eq!(peer_addr(udp.as_fd()).unwrap_err().raw_os_error(), Some(libc::ENOTCONN));
        let (one, two) = std::os::unix::net::UnixStream::pair().unwrap();
        assert_eq!(local_addr(one.as_fd()).unwrap_err().raw_os_error(), Some(libc::EAFNOSUPPORT));
        assert_ne!(socket_cookie(one.as_fd()).unwrap(), socket_cookie(two.as_fd()).unwrap());
        let dup = one.as_fd().try_clone_to_owned().unwrap();
        assert_eq!(socket_cookie(one.as_fd()).unwrap(), socket_cookie(dup.as_fd()).unwrap());
        let file = std::fs::File::open("/dev/null").unwrap();
        assert_eq!(socket_cookie(file.as_fd()).unwrap_err().raw_os_error(), Some(libc::ENOTSOCK));
    }

    #[test]
    fn a_reset_is_the_pending_error_once() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        assert!(is_listening(listener.as_fd()).unwrap());
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (server, _) = listener.accept().unwrap();
        reset_on_close(server.as_fd()).unwrap();
        drop(server);
        let seen = wait_for(client.as_fd(), PollFlags::POLLIN, Duration::from_secs(5)).unwrap();
        assert!(seen.contains(PollFlags::POLLERR));
        assert_eq!(check_error(client.as_fd()).unwrap_err().raw_os_error(), Some(libc::ECONNRESET));
        check_error(client.as_fd()).unwrap();
    }

    #[test]
    fn waiting_ends() {
        let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        let late = wait_for(udp.as_fd(), PollFlags::POLLIN, Duration::from_millis(20)).unwrap_err();
        assert_eq!(late.raw_os_error(), Some(libc::ETIMEDOUT));
    }

    #[test]
    fn forms_of_an_address() {
        let v4 = SocketAddrV4::new(Ipv4Addr::new(127, 64, 0, 9), 80);
        assert_eq!(mapped(v4).to_string(), "[::ffff:127.64.0.9]:80");
        assert_eq!(canonical(mapped(v4).into()), SocketAddr::V4(v4));
        let six = UdpSocket::bind("[::]:0").unwrap();
        assert_eq!(addr_for(six.as_fd(), v4).unwrap(), mapped(v4).into());
    }
}
