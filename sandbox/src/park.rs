//! The parked connect: a TCP socket of the application that is truly in SYN_SENT for as long as a session takes to come about.
//!
//! A [`Lot`] is a listener on a loopback address that drops every SYN without a word. A socket connected to it polls as nothing, answers a
//! second connect() with EALREADY, and survives dup, fork and epoll, for the application as for a server far away. When the
//! session stands, a second socket of the supervisor's bound to the address of the lot connects to the parked one: a simultaneous
//! open (RFC 9293, 3.5), by which the parked socket is connected at once.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::poll::PollFlags;
use nix::sys::socket::{self, Backlog, sockopt};

use crate::netns::{Net, Networks};
use crate::sock;

/// Loopback segments are answered within the call that sends them; only a lost one (a full per-CPU backlog) waits for its repetition.
const HANDSHAKE: Duration = Duration::from_secs(3);
/// The largest TTL. A loopback SYN has 64 unless the program raised it.
const TTL_MAX: u8 = 255;

/// Why a socket could not be parked, released or failed.
#[derive(Debug, thiserror::Error)]
pub enum ParkError {
    /// The lot could not be set up.
    #[error("no place to park connects at {addr}: {source}")]
    Lot {
        /// The address that was asked for.
        addr: IpAddr,
        /// What the kernel said.
        source: io::Error,
    },
    /// connect(2) on the application's socket failed: the errno is the application's.
    #[error("connect: {0}")]
    Connect(#[source] io::Error),
    /// The socket was released before, and this is the first connect() since: natively it returns 0 (and the next one EISCONN).
    #[error("the socket is connected by now")]
    Connected,
    /// The socket connected instead of being parked: something else took the address of the lot.
    #[error("somebody else listens at {0}")]
    Taken(SocketAddr),
    /// Nothing is parked at that address any more: the application closed the socket, or it gave up by itself.
    #[error("nothing is parked at {0}")]
    Gone(SocketAddr),
    /// An operation on one of the sockets failed.
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl ParkError {
    /// The errno, if the kernel gave one.
    pub fn raw_os_error(&self) -> Option<i32> {
        match self {
            Self::Lot { source, .. } | Self::Connect(source) | Self::Io(source) => source.raw_os_error(),
            Self::Connected | Self::Taken(_) | Self::Gone(_) => None,
        }
    }
}

/// What has to be known of a parked socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parked {
    /// Its own address, for [`Lot::release`] and [`Lot::fail`].
    pub local: SocketAddr,
    /// TCP_SYNCNT as it was before ([`sock::set_syncnt`] puts it back, when the socket is at hand again).
    pub syncnt: u8,
}

/// A place to park any number of connects.
///
/// Two things keep it shut, each enough by itself. Its accept queue is full (of one connection, the lot's own, that is never accepted), and
/// then the kernel drops a SYN unanswered, whatever its TTL: also if the program raises IP_TTL while it is parked. And IP_MINTTL drops
/// every segment with the usual TTL earlier and cheaper.
#[derive(Debug)]
pub struct Lot {
    place: Place,
    addr: SocketAddr,
    _listener: OwnedFd,
    _plug: OwnedFd,
}

/// In whose network a lot is.
#[derive(Debug)]
enum Place {
    Here,
    There(Arc<Networks>, Net),
}

impl Place {
    fn tcp(&self, v6: bool) -> io::Result<OwnedFd> {
        match self {
            Self::Here => sock::tcp4(),
            Self::There(networks, net) => networks.tcp(*net, v6),
        }
    }

    /// A socket that shares its address with the lot.
    fn reusable(&self, v6: bool) -> io::Result<OwnedFd> {
        let fd = self.tcp(v6)?;
        socket::setsockopt(&fd, sockopt::ReuseAddr, &true)?;
        socket::setsockopt(&fd, sockopt::ReusePort, &true)?;
        Ok(fd)
    }
}

impl Lot {
    /// Opens a lot at `ip`, an address in 127.0.0.0/8, on a port that the kernel chooses.
    ///
    /// # Errors
    /// [`ParkError::Lot`].
    pub fn new(ip: Ipv4Addr) -> Result<Self, ParkError> {
        Self::open(Place::Here, (ip, 0).into()).map_err(|source| ParkError::Lot { addr: ip.into(), source })
    }

    /// Opens a lot in a network of a program's own, at the very address that the program dials: nothing has to be translated then.
    ///
    /// # Errors
    /// [`ParkError::Lot`].
    pub fn at(networks: &Arc<Networks>, net: Net, addr: SocketAddr) -> Result<Self, ParkError> {
        let place = Place::There(networks.clone(), net);
        Self::open(place, addr).map_err(|source| ParkError::Lot { addr: addr.ip(), source })
    }

    fn open(place: Place, at: SocketAddr) -> io::Result<Self> {
        let v6 = at.is_ipv6();
        let listener = place.reusable(v6)?;
        sock::bind(listener.as_fd(), &at)?;
        shut(&listener, v6)?;
        // A backlog of 0 is a queue for one.
        socket::listen(&listener, Backlog::new(0)?)?;
        let addr = sock::local_addr(listener.as_fd())?;
        let plug = place.tcp(v6)?;
        if v6 {
            sock::set_option(plug.as_fd(), libc::IPPROTO_IPV6, libc::IPV6_UNICAST_HOPS, TTL_MAX.into())?;
        } else {
            socket::setsockopt(&plug, sockopt::Ipv4Ttl, &i32::from(TTL_MAX))?;
        }
        sock::connect_within(plug.as_fd(), &addr, HANDSHAKE)?;
        sock::wait_for(listener.as_fd(), PollFlags::POLLIN, HANDSHAKE)?;
        Ok(Self { place, addr, _listener: listener, _plug: plug })
    }

    /// Where the lot is: the physical peer address of every socket parked in it.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Starts a connect of the application's TCP socket that stays under way until [`Lot::release`] or [`Lot::fail`], or for some hours.
    /// Does not wait, also if the socket is in blocking mode. An AF_INET6 socket is parked by v4-mapped addresses: it must not be
    /// IPV6_V6ONLY. TCP_SYNCNT is raised (TCP_USER_TIMEOUT, if the application set it, ends the connect as it would natively).
    ///
    /// # Errors
    /// [`ParkError::Connect`] with the errno for the application (EALREADY, EISCONN, EADDRNOTAVAIL, ...), and then TCP_SYNCNT is as
    /// before. [`ParkError::Connected`] for 0. [`ParkError::Taken`] if another process of this user listens at the lot's address.
    pub fn park(&self, socket: BorrowedFd<'_>) -> Result<Parked, ParkError> {
        let to = self.dialled(socket)?;
        let released = sock::peer_addr(socket).is_ok();
        let syncnt = sock::syncnt(socket)?;
        sock::set_syncnt(socket, sock::SYNCNT_MAX)?;
        match sock::connect_nowait(socket, &to) {
            Ok(sock::Progress::InProgress) => {}
            outcome => {
                sock::set_syncnt(socket, syncnt)?;
                return Err(match outcome {
                    Err(e) => ParkError::Connect(e),
                    Ok(_) if released => ParkError::Connected,
                    Ok(_) => ParkError::Taken(self.addr),
                });
            }
        }
        Ok(Parked { local: sock::canonical(sock::local_addr(socket)?), syncnt })
    }

    /// The address of the lot in the form that the family of `socket` takes.
    fn dialled(&self, socket: BorrowedFd<'_>) -> io::Result<SocketAddr> {
        match self.addr {
            SocketAddr::V4(addr) => sock::addr_for(socket, addr),
            v6 => Ok(v6),
        }
    }

    /// Connects the application's TCP socket through the lot at once; gives the other end, in non-blocking mode. Where the socket is in blocking
    /// mode its connect() runs meanwhile on a thread of its own: waiting for that first would cost a tick of the kernel's clock.
    ///
    /// # Errors
    /// As [`Lot::park`] and [`Lot::release`].
    pub fn connect(&self, socket: BorrowedFd<'_>) -> Result<OwnedFd, ParkError> {
        let to = self.dialled(socket)?;
        let nonblocking = sock::is_nonblocking(socket)?;
        if nonblocking {
            sock::connect_known(socket, &to, true).map_err(ParkError::Connect)?;
            return self.release(sock::canonical(sock::local_addr(socket)?));
        }
        std::thread::scope(|threads| {
            let dialling = threads.spawn(|| sock::connect_known(socket, &to, false));
            let end = Instant::now() + HANDSHAKE;
            while !dialling.is_finished() && !sock::is_connecting(socket)? && Instant::now() < end {
                std::thread::yield_now();
            }
            let released = match sock::is_connecting(socket)? {
                true => Some(self.release(sock::canonical(sock::local_addr(socket)?))),
                false => None,
            };
            let dialled = dialling.join().unwrap_or_else(|_| Err(nix::Error::EIO.into()));
            match (released, dialled) {
                (Some(released), Ok(progress)) => {
                    // Its time was over before the opening was: it is told now what connect() would have been.
                    if progress == sock::Progress::InProgress && released.is_ok() {
                        sock::connect_again(socket).map_err(ParkError::Connect)?;
                    }
                    released
                }
                (_, Err(e)) => Err(ParkError::Connect(e)),
                (None, Ok(_)) => Err(ParkError::Taken(self.addr)),
            }
        })
    }

    /// Connects the parked socket that has the address `local`, at once. Gives the other end, in non-blocking mode.
    ///
    /// If the application closed the socket and something else listens at its address by now, that is what gets connected: compare
    /// [`Lot::occupant`] with the cookie that was parked, before and after.
    ///
    /// # Errors
    /// [`ParkError::Gone`] if no socket is parked there.
    pub fn release(&self, local: SocketAddr) -> Result<OwnedFd, ParkError> {
        let end = self.end()?;
        sock::connect_within(end.as_fd(), &local, HANDSHAKE).map_err(|e| not_parked(e, local))?;
        Ok(end)
    }

    /// Ends the connect of the parked socket that has the address `local`: it polls as error and hang-up at once, with ECONNRESET pending
    /// in place of the errno that the application is to see.
    ///
    /// To reset the connection it must exist, but the parked socket must not be connected even for an instant, or a thread that waits for
    /// it may be told that it is writable and no more. So the opening is left half done: the first SYN comes from a socket that drops the
    /// answer (IP_MINTTL), which leaves the parked one in SYN-RECEIVED, where it polls as nothing; to the SYN of a second socket,
    /// being out of its window, it replies with a challenge ACK (RFC 5961, 4.2), and that is answered by a RST (RFC 9293, 3.10.7.3).
    /// Only a program that raised IP_TTL to 255 gets its answer past the first socket, is connected, and then reset.
    ///
    /// # Errors
    /// [`ParkError::Gone`] if no socket is parked there.
    pub fn fail(&self, local: SocketAddr) -> Result<(), ParkError> {
        let parked = self.occupant(local)?.ok_or(ParkError::Gone(local))?;
        let first = self.end()?;
        shut(&first, self.addr.is_ipv6())?;
        sock::reset_on_close(first.as_fd())?;
        sock::connect_nowait(first.as_fd(), &local).map_err(|e| not_parked(e, local))?;
        drop(first);
        if self.occupant(local)? != Some(parked) {
            return Ok(());
        }
        let second = self.end()?;
        sock::reset_on_close(second.as_fd())?;
        sock::connect_nowait(second.as_fd(), &local)?;
        // The challenge may be held back (tcp_challenge_ack_limit); the SYN is repeated after a second.
        let end = Instant::now() + HANDSHAKE;
        while self.occupant(local)? == Some(parked) {
            if Instant::now() > end {
                return Err(io::Error::from(nix::Error::ETIMEDOUT).into());
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    /// The cookie of the socket at `local` that is connected, or connecting, to the lot.
    ///
    /// # Errors
    /// What netlink(7) gives.
    pub fn occupant(&self, local: SocketAddr) -> io::Result<Option<u64>> {
        match &self.place {
            Place::Here => crate::diag::cookie_at(local, self.addr),
            // Both in one network, or the program's end in its own.
            Place::There(networks, _) => networks.inspector().cookie_at(local, self.addr),
        }
    }

    /// A socket at the address of the lot, for one parked socket.
    fn end(&self) -> io::Result<OwnedFd> {
        let end = self.place.reusable(self.addr.is_ipv6())?;
        sock::bind(end.as_fd(), &self.addr)?;
        Ok(end)
    }
}

/// What a failed connect to a parked socket means: refused, that there is no such socket; not available, that the same connection exists
/// (the socket was released before) or is a TIME_WAIT.
fn not_parked(e: io::Error, local: SocketAddr) -> ParkError {
    match e.raw_os_error() {
        Some(libc::ECONNREFUSED | libc::EADDRNOTAVAIL) => ParkError::Gone(local),
        _ => e.into(),
    }
}

/// Lets no segment with the usual TTL or hop limit reach the socket.
fn shut(fd: &OwnedFd, v6: bool) -> io::Result<()> {
    if v6 { sock::set_min_hops(fd.as_fd(), TTL_MAX) } else { sock::set_minttl(fd.as_fd(), TTL_MAX) }
}

#[cfg(test)]
mod tests;
