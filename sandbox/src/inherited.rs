//! Sockets that this process was started with and is to hand on (systemd's LISTEN_FDS, inetd on descriptor 0): listeners, and UDP
//! sockets that are bound and not connected. The program gets one of the run's own in the place of each, under the same number.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, getsockopt, setsockopt, socket, sockopt};

use crate::netns::{Net, Networks};
use crate::sock;

/// A socket that was handed in, and what takes its place.
pub struct Handed {
    /// Its number, in this process and in the program.
    pub number: RawFd,
    /// The new socket: neither bound nor listening yet.
    pub fd: OwnedFd,
    /// UDP; else it is a listener of TCP.
    pub datagrams: bool,
    /// Where the one that was handed in is bound.
    pub address: SocketAddr,
    /// IPV6_V6ONLY of that one.
    pub v6only: bool,
    /// The new socket under the old one's number, until the program has it.
    passed: OwnedFd,
}

impl Handed {
    /// Puts a socket of the program's own network in the place of the new one. As [`take_listeners`], while this process has one thread.
    ///
    /// # Errors
    /// As [`Networks::socket`], and what setsockopt(2) gives.
    pub fn move_into(&mut self, networks: &Networks) -> io::Result<()> {
        let family = if self.address.is_ipv6() { libc::AF_INET6 } else { libc::AF_INET };
        let kind = if self.datagrams { libc::SOCK_DGRAM } else { libc::SOCK_STREAM };
        let fd = networks.socket(Net::Program, family, kind, 0)?;
        if self.address.is_ipv6() {
            setsockopt(&fd, sockopt::Ipv6V6Only, &self.v6only)?;
        }
        imitate(self.fd.as_fd(), fd.as_fd())?;
        // SAFETY: two descriptors that are open; the number is this process's, and `passed` goes on to own it.
        Errno::result(unsafe { libc::dup2(fd.as_raw_fd(), self.number) })?;
        self.fd = fd;
        Ok(())
    }

    /// To be called when the program has been forked: this process gives up its own copy of the number. Gives the socket.
    ///
    /// # Errors
    /// When a standard stream cannot be made /dev/null.
    pub fn let_go(self) -> io::Result<Adopted> {
        if self.number <= libc::STDERR_FILENO {
            let nothing = std::fs::OpenOptions::new().read(true).write(true).open("/dev/null")?;
            let passed = std::os::fd::IntoRawFd::into_raw_fd(self.passed);
            // SAFETY: two descriptors that are open; the number stays in use, as a standard stream must.
            Errno::result(unsafe { libc::dup2(nothing.as_raw_fd(), passed) })?;
        }
        Ok(Adopted { fd: self.fd, datagrams: self.datagrams, address: self.address, v6only: self.v6only })
    }
}

/// A socket that the program has in the place of one that was handed in; see [`Handed`].
pub struct Adopted {
    /// Neither bound nor listening yet.
    pub fd: OwnedFd,
    /// UDP; else it is to listen.
    pub datagrams: bool,
    /// Where the one that was handed in is bound.
    pub address: SocketAddr,
    /// IPV6_V6ONLY of that one.
    pub v6only: bool,
}

/// What the program may rely on before it calls listen(2) or bind(2) anew: the mode, and the options about sharing a port.
fn imitate(old: BorrowedFd<'_>, new: BorrowedFd<'_>) -> io::Result<()> {
    if sock::is_nonblocking(old)? {
        sock::set_nonblocking(new)?;
    }
    setsockopt(&new, sockopt::ReuseAddr, &getsockopt(&old, sockopt::ReuseAddr)?)?;
    Ok(setsockopt(&new, sockopt::ReusePort, &getsockopt(&old, sockopt::ReusePort)?)?)
}

/// Whether a UDP socket is bound, and to nobody in particular.
fn is_open(datagrams: BorrowedFd<'_>) -> io::Result<bool> {
    Ok(sock::local_addr(datagrams)?.port() != 0 && sock::peer_addr(datagrams).is_err())
}

/// Takes such sockets among the open descriptors that an exec would pass on. To be called while this process has one thread,
/// and nothing of its own is open at those numbers.
///
/// # Errors
/// What the kernel says to a new socket, or to its number.
pub fn take_sockets() -> io::Result<Vec<Handed>> {
    let mut taken = Vec::new();
    let numbers: Vec<RawFd> = std::fs::read_dir("/proc/self/fd")?
        .flatten()
        .filter_map(|entry| entry.file_name().to_str().and_then(|n| n.parse().ok()))
        .collect();
    for number in numbers {
        // SAFETY: borrowed for this turn of the loop; of a number that is not open any more fcntl says EBADF.
        let old = unsafe { BorrowedFd::borrow_raw(number) };
        let Ok(flags) = fcntl(old, FcntlArg::F_GETFD) else { continue };
        let stays = FdFlag::from_bits_retain(flags).contains(FdFlag::FD_CLOEXEC);
        let family = match sock::socket_domain(old) {
            Ok(libc::AF_INET) => AddressFamily::Inet,
            Ok(libc::AF_INET6) => AddressFamily::Inet6,
            _ => continue,
        };
        let (kind, is_wanted) = match (sock::socket_type(old), sock::socket_protocol(old)) {
            (Ok(libc::SOCK_STREAM), _) => (SockType::Stream, sock::is_listening(old)?),
            (Ok(libc::SOCK_DGRAM), Ok(libc::IPPROTO_UDP)) => (SockType::Datagram, is_open(old)?),
            _ => continue,
        };
        if stays || !is_wanted {
            continue;
        }
        let address = sock::local_addr(old)?;
        let v6only = family == AddressFamily::Inet6 && getsockopt(&old, sockopt::Ipv6V6Only)?;
        let fd = socket(family, kind, SockFlag::SOCK_CLOEXEC, None)?;
        imitate(old, fd.as_fd())?;
        // SAFETY: two descriptors that are open; what was under the number is closed here by intention.
        Errno::result(unsafe { libc::dup2(fd.as_raw_fd(), number) })?;
        // SAFETY: the number is this process's since it was started, and nothing else in it owns it.
        let passed = unsafe { OwnedFd::from_raw_fd(number) };
        taken.push(Handed { number, fd, datagrams: kind == SockType::Datagram, address, v6only, passed });
    }
    Ok(taken)
}
