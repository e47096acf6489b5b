//! Which address refused a datagram, on a socket that talks to many: the error queue of ip(7), IP_RECVERR.

use nix::sys::socket::sockopt::{Ipv4RecvErr, Ipv6RecvErr};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, setsockopt};
use std::io::{self, ErrorKind, IoSliceMut};
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use tokio::io::Interest;
use tokio::net::UdpSocket;

/// Makes the kernel keep what comes back as ICMP.
pub(super) fn watch(socket: &UdpSocket) -> io::Result<()> {
    match socket.local_addr()? {
        SocketAddr::V4(_) => setsockopt(socket, Ipv4RecvErr, &true)?,
        SocketAddr::V6(_) => setsockopt(socket, Ipv6RecvErr, &true)?,
    }
    Ok(())
}

/// Takes what has come back: the addresses that our datagrams were sent to.
pub(super) fn take(socket: &UdpSocket) -> Vec<SocketAddr> {
    let mut refused = Vec::new();
    // The readiness is cleared by the last, empty read.
    let _ = socket.try_io(Interest::ERROR, || {
        loop {
            match take_one(socket) {
                Ok(Some(addr)) => refused.push(addr),
                Ok(None) => {}
                Err(error) => return Err::<(), _>(error),
            }
        }
    });
    refused
}

fn take_one(socket: &UdpSocket) -> io::Result<Option<SocketAddr>> {
    let mut start = [0; 64];
    let mut slices = [IoSliceMut::new(&mut start)];
    let mut control = nix::cmsg_space!(nix::libc::sock_extended_err, nix::libc::sockaddr_in6);
    let flags = MsgFlags::MSG_ERRQUEUE | MsgFlags::MSG_DONTWAIT;
    let message = recvmsg::<SockaddrStorage>(socket.as_raw_fd(), &mut slices, Some(&mut control), flags)?;
    let errors = message.cmsgs().map_err(|_| ErrorKind::InvalidData)?;
    let is_refusal = errors
        .into_iter()
        .any(|part| matches!(part, ControlMessageOwned::Ipv4RecvErr(..) | ControlMessageOwned::Ipv6RecvErr(..)));
    Ok(message.address.filter(|_| is_refusal).and_then(|addr| socket_addr(&addr)))
}

fn socket_addr(addr: &SockaddrStorage) -> Option<SocketAddr> {
    let v4 = addr.as_sockaddr_in().map(|addr| SocketAddr::V4((*addr).into()));
    v4.or_else(|| addr.as_sockaddr_in6().map(|addr| SocketAddr::V6((*addr).into())))
}
