//! The doorbell: a loopback connection made only so that the application's own listener becomes readable.
//!
//! When a session arrives for a listener, the supervisor rings. The application's event loop fires, the program calls
//! accept(), which is trapped; the supervisor takes the bell off the queue ([`take`]), recognises it ([`Bell::is`]) and hands over
//! the real socket of the session.

use std::io;
use std::net::{SocketAddr, SocketAddrV4};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::PollFlags;
use nix::sys::socket::{SockFlag, accept4};

use crate::sock::{self, Progress, ShortTimeout};

/// A ring that waits in the queue of a listener. Dropped, it leaves its place in the queue (an accept() finds a connection that was
/// reset), so keep it until it is taken.
#[derive(Debug)]
pub struct Bell {
    source: SocketAddr,
    fd: OwnedFd,
}

impl Bell {
    /// The address that the ring comes from: the peer's address for who accepts it.
    pub fn source(&self) -> SocketAddr {
        self.source
    }

    /// Whether the connection accepted from `peer` is this ring. A v4-mapped address is the same as its IPv4 form.
    pub fn is(&self, peer: SocketAddr) -> bool {
        sock::canonical(peer) == self.source
    }
}

impl AsFd for Bell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Rings at the listener without waiting for anybody. An AF_INET6 listener is rung by IPv4 too: it must not be IPV6_V6ONLY.
///
/// If the listener's queue is full the ring stays under way; the listener is readable then as it is.
///
/// # Errors
/// What connect(2) gives: ECONNREFUSED if nothing listens there.
pub fn ring(listener: SocketAddrV4) -> io::Result<Bell> {
    let fd = sock::tcp4()?;
    // However it ends, it leaves no TIME_WAIT.
    sock::reset_on_close(fd.as_fd())?;
    if sock::connect_nowait(fd.as_fd(), &listener.into())? == Progress::InProgress {
        // A non-blocking connect never ends within the call, but on loopback the answer is there right after it.
        match sock::wait_for(fd.as_fd(), PollFlags::POLLOUT, Duration::ZERO) {
            Err(e) if e.raw_os_error() == Some(libc::ETIMEDOUT) => {}
            answered => {
                answered?;
                sock::check_error(fd.as_fd())?;
            }
        }
    }
    let source = sock::local_addr(fd.as_fd())?;
    Ok(Bell { source, fd })
}

/// Takes the first connection off the queue of the application's listener, drops it, and says from where it came, for
/// [`Bell::is`]; None if the queue is empty. Never waits, although the listener may be in blocking mode.
///
/// Whatever came without a [`Bell`] is a stranger on this machine; it is turned away (RST) in the same way.
///
/// # Errors
/// What accept(2) gives.
pub fn take(listener: BorrowedFd<'_>) -> io::Result<Option<SocketAddr>> {
    match sock::wait_for(listener, PollFlags::POLLIN, Duration::ZERO) {
        Err(e) if e.raw_os_error() == Some(libc::ETIMEDOUT) => return Ok(None),
        ready => ready?,
    };
    let accepted = if sock::is_nonblocking(listener)? {
        accept4(listener.as_raw_fd(), SockFlag::SOCK_CLOEXEC)
    } else {
        // Another thread may have been faster since the poll.
        let short = ShortTimeout::receive(listener)?;
        let accepted = accept4(listener.as_raw_fd(), SockFlag::SOCK_CLOEXEC);
        short.restore()?;
        accepted
    };
    let fd = match accepted {
        // SAFETY: accept4 gave a new descriptor that nothing else owns.
        Ok(fd) => unsafe { OwnedFd::from_raw_fd(fd) },
        Err(Errno::EAGAIN | Errno::EINTR | Errno::ECONNABORTED) => return Ok(None),
        Err(e) => return Err(e.into()),
    };
    sock::reset_on_close(fd.as_fd())?;
    // A ring that was taken back already (reset) has no peer any more: it is turned away like a stranger.
    match sock::peer_addr(fd.as_fd()) {
        Err(e) if e.raw_os_error() == Some(libc::ENOTCONN) => Ok(Some(SocketAddr::from(([0, 0, 0, 0], 0)))),
        peer => peer.map(|peer| Some(sock::canonical(peer))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
    use std::net::{Ipv4Addr, TcpListener};

    fn v4(listener: &TcpListener) -> SocketAddrV4 {
        SocketAddrV4::new(Ipv4Addr::LOCALHOST, listener.local_addr().unwrap().port())
    }

    fn watched(listener: &TcpListener) -> Epoll {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).unwrap();
        epoll.add(listener, EpollEvent::new(EpollFlags::EPOLLIN | EpollFlags::EPOLLET, 1)).unwrap();
        epoll
    }

    fn fires(epoll: &Epoll, millis: u16) -> bool {
        let mut events = [EpollEvent::empty()];
        epoll.wait(&mut events, EpollTimeout::from(millis)).unwrap() == 1
    }

    #[test]
    fn an_edge_triggered_listener_hears_every_ring() {
        for nonblocking in [false, true] {
            for host in ["127.0.0.1:0", "[::]:0"] {
                let listener = TcpListener::bind(host).unwrap();
                listener.set_nonblocking(nonblocking).unwrap();
                let epoll = watched(&listener);
                assert!(!fires(&epoll, 0));
                for _ in 0..3 {
                    let bell = ring(v4(&listener)).unwrap();
                    assert!(fires(&epoll, 2000));
                    assert!(!fires(&epoll, 0), "edge-triggered");
                    let peer = take(listener.as_fd()).unwrap().unwrap();
                    assert!(bell.is(peer));
                    assert_eq!(take(listener.as_fd()).unwrap(), None);
                }
                assert_eq!(sock::is_nonblocking(listener.as_fd()).unwrap(), nonblocking);
            }
        }
    }

    #[test]
    fn bells_and_strangers_are_told_apart() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let first = ring(v4(&listener)).unwrap();
        let stranger = std::net::TcpStream::connect(v4(&listener)).unwrap();
        let second = ring(v4(&listener)).unwrap();
        let came: Vec<_> = (0..3).map(|_| take(listener.as_fd()).unwrap().unwrap()).collect();
        assert!(first.is(came[0]) && !second.is(came[0]));
        assert_eq!(came[1], stranger.local_addr().unwrap());
        assert!(second.is(came[2]));
        assert_eq!(first.source(), came[0]);
    }

    #[test]
    fn a_ring_taken_back_is_nobody() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        drop(ring(v4(&listener)).unwrap());
        let nobody = take(listener.as_fd()).unwrap();
        assert_eq!(nobody, Some(SocketAddr::from(([0, 0, 0, 0], 0))));
        assert_eq!(take(listener.as_fd()).unwrap(), None);
    }

    #[test]
    fn nothing_listens() {
        // Bound, so that nobody else gets the port, but not listening.
        let quiet = sock::tcp4().unwrap();
        sock::bind(quiet.as_fd(), &"127.0.0.1:0".parse().unwrap()).unwrap();
        let SocketAddr::V4(addr) = sock::local_addr(quiet.as_fd()).unwrap() else { unreachable!() };
        assert_eq!(ring(addr).unwrap_err().raw_os_error(), Some(libc::ECONNREFUSED));
    }
}
