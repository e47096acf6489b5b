//! AF_NETLINK sockets of a program whose other end is the supervisor instead of the kernel.
//!
//! They are sockets of NETLINK_USERSOCK, the protocol that the kernel leaves to user space (netlink(7)): a real netlink socket, with
//! datagrams, ports, polling and options, that the supervisor's own socket answers. Each is connected to that one, so
//! that a send without an address, which is not trapped, goes there too; any other address is the supervisor's to refuse.

use std::collections::HashSet;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{
    self, AddressFamily, ControlMessageOwned, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, sockopt,
};

/// The largest request that is taken: those of rtnetlink(7) are far smaller.
const REQUEST: usize = 8192;

/// The supervisor's end of all netlink sockets of a run.
#[derive(Debug)]
pub struct Answerer {
    fd: OwnedFd,
    port: u32,
}

impl Answerer {
    /// A socket at a port that the kernel chooses.
    ///
    /// # Errors
    /// What socket(2) and bind(2) give.
    pub fn new() -> io::Result<Answerer> {
        let fd = user_socket(SockType::Raw, SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK)?;
        socket::setsockopt(&fd, sockopt::PassCred, &true)?;
        socket::bind(fd.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
        let port = socket::getsockname::<NetlinkAddr>(fd.as_raw_fd())?.pid();
        Ok(Answerer { fd, port })
    }

    /// A new socket for the program. `kind` is SOCK_RAW or SOCK_DGRAM, which are the same here.
    ///
    /// # Errors
    /// What socket(2) and connect(2) give.
    pub fn socket(&self, kind: SockType, nonblocking: bool) -> io::Result<OwnedFd> {
        let flags = if nonblocking { SockFlag::SOCK_NONBLOCK } else { SockFlag::empty() };
        let fd = user_socket(kind, flags | SockFlag::SOCK_CLOEXEC)?;
        socket::connect(fd.as_raw_fd(), &NetlinkAddr::new(self.port, 0))?;
        Ok(fd)
    }

    /// The next request that came by a send which was not trapped, and the port of its sender. Only processes of this user are
    /// heard.
    ///
    /// # Errors
    /// What recvmsg(2) gives: EAGAIN when there is none.
    pub fn request(&self) -> Result<(Vec<u8>, u32), Errno> {
        loop {
            let mut bytes = vec![0; REQUEST];
            let mut control = nix::cmsg_space!(nix::libc::ucred);
            let mut slices = [io::IoSliceMut::new(&mut bytes)];
            let fd = self.fd.as_raw_fd();
            let got = socket::recvmsg::<NetlinkAddr>(fd, &mut slices, Some(&mut control), MsgFlags::MSG_DONTWAIT)?;
            let mut credentials = got.cmsgs()?.filter_map(|m| match m {
                ControlMessageOwned::ScmCredentials(c) => Some(c),
                _ => None,
            });
            let own = credentials.next().is_some_and(|c| c.uid() == nix::unistd::getuid().as_raw());
            let (from, length) = (got.address.map(|a| a.pid()), got.bytes);
            match from {
                Some(port) if own => {
                    bytes.truncate(length);
                    return Ok((bytes, port));
                }
                _ => {}
            }
        }
    }

    /// Sends one datagram of an answer to `port`. What does not fit in the receiver's buffer is lost (ENOBUFS at the receiver of
    /// a real one).
    ///
    /// # Errors
    /// What sendto(2) gives.
    pub fn answer(&self, port: u32, datagram: &[u8]) -> Result<(), Errno> {
        socket::sendto(self.fd.as_raw_fd(), datagram, &NetlinkAddr::new(port, 0), MsgFlags::MSG_DONTWAIT).map(drop)
    }
}

impl AsFd for Answerer {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn user_socket(kind: SockType, flags: SockFlag) -> nix::Result<OwnedFd> {
    socket::socket(AddressFamily::Netlink, kind, flags, SockProtocol::NetlinkUserSock)
}

/// The port of a netlink socket; None for any other socket.
pub fn port_of(fd: BorrowedFd<'_>) -> Option<u32> {
    socket::getsockname::<NetlinkAddr>(fd.as_raw_fd()).ok().map(|a| a.pid())
}

/// The struct sockaddr_nl of a port, and of the groups that it has joined.
pub fn name_of(port: u32, groups: u32) -> Vec<u8> {
    let mut name = (libc::AF_NETLINK as u16).to_ne_bytes().to_vec();
    name.extend_from_slice(&[0; 2]);
    name.extend_from_slice(&port.to_ne_bytes());
    name.extend_from_slice(&groups.to_ne_bytes());
    name
}

/// The ports of all sockets of NETLINK_USERSOCK in this network (/proc/net/netlink).
///
/// # Errors
/// What reading that file gives.
pub fn ports() -> io::Result<HashSet<u32>> {
    let of_line = |line: &str| {
        let mut words = line.split_ascii_whitespace().skip(1);
        let protocol: i32 = words.next()?.parse().ok()?;
        (protocol == libc::NETLINK_USERSOCK).then(|| words.next()?.parse().ok())?
    };
    Ok(std::fs::read_to_string("/proc/net/netlink")?.lines().filter_map(of_line).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_answered_over_a_real_socket() {
        let answerer = Answerer::new().unwrap();
        assert_eq!(answerer.request().unwrap_err(), Errno::EAGAIN);
        let program = answerer.socket(SockType::Datagram, true).unwrap();
        let port = port_of(program.as_fd()).unwrap();
        socket::send(program.as_raw_fd(), b"who is there?", MsgFlags::empty()).unwrap();
        assert_eq!(answerer.request().unwrap(), (b"who is there?".to_vec(), port));
        assert!(ports().unwrap().is_superset(&HashSet::from([port, answerer.port])));
        answerer.answer(port, b"nobody").unwrap();
        let mut bytes = [0; 16];
        assert_eq!(socket::recv(program.as_raw_fd(), &mut bytes, MsgFlags::empty()), Ok(6));
        assert_eq!(port_of(std::net::UdpSocket::bind("127.0.0.1:0").unwrap().as_fd()), None);
        assert_eq!(name_of(port, 0), crate::message::raw_name(program.as_fd(), false).unwrap());
        drop(program);
        assert!(!ports().unwrap().contains(&port));
    }
}
