//! An address where nobody is: what is sent there comes back refused by the kernel itself, as from a port that is closed.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::os::fd::{AsFd, OwnedFd};

use sandbox::sock;
use sipcore::agent::Proto;

/// Two sockets that keep their ports from everybody else and answer nobody: a TCP socket that does not listen, and a UDP
/// socket that is connected to itself.
pub struct Nobody {
    tcp: SocketAddrV4,
    udp: SocketAddrV4,
    _held: (OwnedFd, std::net::UdpSocket),
}

impl Nobody {
    /// At `ip`, a loopback address. Fails when no port is left there.
    pub fn new(ip: Ipv4Addr) -> std::io::Result<Nobody> {
        let stream = sock::tcp4()?;
        sock::bind(stream.as_fd(), &SocketAddr::from((ip, 0)))?;
        let datagram = std::net::UdpSocket::bind((ip, 0))?;
        datagram.connect(datagram.local_addr()?)?;
        let port = |fd| sock::local_addr(fd).map(|a| a.port());
        let (tcp, udp) = (port(stream.as_fd())?, port(datagram.as_fd())?);
        Ok(Nobody { tcp: SocketAddrV4::new(ip, tcp), udp: SocketAddrV4::new(ip, udp), _held: (stream, datagram) })
    }

    pub fn address(&self, proto: Proto) -> SocketAddrV4 {
        match proto {
            Proto::Tcp => self.tcp,
            Proto::Udp => self.udp,
        }
    }
}
