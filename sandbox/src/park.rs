//! The parked connect: a TCP socket of the application that is truly in SYN_SENT for as long as a session takes to come about.
//!
//! A [`Lot`] is a listener on a loopback address that drops every SYN without a word. A socket connected to it polls as nothing, answers a
//! second connect() with EALREADY, and survives dup, fork and epoll, for the application as for a server far away. When the
//! session stands, a second socket of the supervisor's bound to the address of the lot connects to the parked one: a simultaneous
//! open (RFC 9293, 3.5), by which the parked socket is connected at once.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::poll::PollFlags;
use nix::sys::socket::{self, Backlog, sockopt};

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
        addr: Ipv4Addr,
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
    Taken(SocketAddrV4),
    /// Nothing is parked at that address any more: the application closed the socket, or it gave up by itself.
    #[error("nothing is parked at {0}")]
    Gone(SocketAddrV4),
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
    pub local: SocketAddrV4,
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
    addr: SocketAddrV4,
    _listener: OwnedFd,
    _plug: OwnedFd,
}

impl Lot {
    /// Opens a lot at `ip`, an address in 127.0.0.0/8, on a port that the kernel chooses.
    ///
    /// # Errors
    /// [`ParkError::Lot`].
    pub fn new(ip: Ipv4Addr) -> Result<Self, ParkError> {
        Self::open(ip).map_err(|source| ParkError::Lot { addr: ip, source })
    }

    fn open(ip: Ipv4Addr) -> io::Result<Self> {
        let listener = reusable()?;
        sock::bind(listener.as_fd(), &SocketAddrV4::new(ip, 0).into())?;
        sock::set_minttl(listener.as_fd(), TTL_MAX)?;
        // A backlog of 0 is a queue for one.
        socket::listen(&listener, Backlog::new(0)?)?;
        let SocketAddr::V4(addr) = sock::local_addr(listener.as_fd())? else {
            return Err(nix::Error::EAFNOSUPPORT.into());
        };
        let plug = sock::tcp4()?;
        socket::setsockopt(&plug, sockopt::Ipv4Ttl, &i32::from(TTL_MAX))?;
        sock::connect_within(plug.as_fd(), &addr.into(), HANDSHAKE)?;
        sock::wait_for(listener.as_fd(), PollFlags::POLLIN, HANDSHAKE)?;
        Ok(Self { addr, _listener: listener, _plug: plug })
    }

    /// Where the lot is: the physical peer address of every socket parked in it.
    pub fn addr(&self) -> SocketAddrV4 {
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
        let to = sock::addr_for(socket, self.addr)?;
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
        match sock::canonical(sock::local_addr(socket)?) {
            SocketAddr::V4(local) => Ok(Parked { local, syncnt }),
            SocketAddr::V6(_) => Err(io::Error::from(nix::Error::EAFNOSUPPORT).into()),
        }
    }

    /// Connects the parked socket that has the address `local`, at once. Gives the other end, in non-blocking mode.
    ///
    /// If the application closed the socket and something else listens at its address by now, that is what gets connected: compare
    /// [`Lot::occupant`] with the cookie that was parked, before and after.
    ///
    /// # Errors
    /// [`ParkError::Gone`] if no socket is parked there.
    pub fn release(&self, local: SocketAddrV4) -> Result<OwnedFd, ParkError> {
        let end = self.end()?;
        sock::connect_within(end.as_fd(), &local.into(), HANDSHAKE).map_err(|e| not_parked(e, local))?;
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
    pub fn fail(&self, local: SocketAddrV4) -> Result<(), ParkError> {
        let parked = self.occupant(local)?.ok_or(ParkError::Gone(local))?;
        let first = self.end()?;
        sock::set_minttl(first.as_fd(), TTL_MAX)?;
        sock::reset_on_close(first.as_fd())?;
        sock::connect_nowait(first.as_fd(), &local.into()).map_err(|e| not_parked(e, local))?;
        drop(first);
        if self.occupant(local)? != Some(parked) {
            return Ok(());
        }
        let second = self.end()?;
        sock::reset_on_close(second.as_fd())?;
        sock::connect_nowait(second.as_fd(), &local.into())?;
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
    pub fn occupant(&self, local: SocketAddrV4) -> io::Result<Option<u64>> {
        crate::diag::cookie_at(local.into(), self.addr.into())
    }

    /// A socket at the address of the lot, for one parked socket.
    fn end(&self) -> io::Result<OwnedFd> {
        let end = reusable()?;
        sock::bind(end.as_fd(), &self.addr.into())?;
        Ok(end)
    }
}

/// What a failed connect to a parked socket means: refused, that there is no such socket; not available, that the same connection exists
/// (the socket was released before) or is a TIME_WAIT.
fn not_parked(e: io::Error, local: SocketAddrV4) -> ParkError {
    match e.raw_os_error() {
        Some(libc::ECONNREFUSED | libc::EADDRNOTAVAIL) => ParkError::Gone(local),
        _ => e.into(),
    }
}

/// A socket that shares its address with the lot.
fn reusable() -> io::Result<OwnedFd> {
    let fd = sock::tcp4()?;
    socket::setsockopt(&fd, sockopt::ReuseAddr, &true)?;
    socket::setsockopt(&fd, sockopt::ReusePort, &true)?;
    Ok(fd)
}

#[cfg(test)]
mod tests;
