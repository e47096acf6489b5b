//! An address where nobody is: what is sent there comes back refused by the kernel itself, as from a port that is closed.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::os::fd::{AsFd, OwnedFd};

use sandbox::sock;
use sipcore::agent::Proto;

use crate::guard::{Guard, Guards};

/// Two sockets that keep their ports from everybody else and answer nobody: a TCP socket that does not listen, and a UDP
/// socket that is connected to itself.
pub struct Nobody {
    tcp: SocketAddrV4,
    udp: SocketAddrV4,
    _held: (OwnedFd, std::net::UdpSocket),
    _guards: [Guard; 2],
}

impl Nobody {
    /// At `ip`, a loopback address. Fails when no port is left there.
    pub fn new(ip: Ipv4Addr, guards: &Guards) -> std::io::Result<Nobody> {
        let stream = || {
            let socket = sock::tcp4()?;
            sock::bind(socket.as_fd(), &SocketAddr::from((ip, 0)))?;
            let port = sock::local_addr(socket.as_fd())?.port();
            Ok(((socket, port), port))
        };
        let datagram = || {
            let socket = std::net::UdpSocket::bind((ip, 0))?;
            let own = socket.local_addr()?;
            socket.connect(own)?;
            Ok(((socket, own.port()), own.port()))
        };
        let ((stream, tcp), tcp_guard) = guards.place(Proto::Tcp, stream)?;
        let ((datagram, udp), udp_guard) = guards.place(Proto::Udp, datagram)?;
        let (tcp, udp) = (SocketAddrV4::new(ip, tcp), SocketAddrV4::new(ip, udp));
        Ok(Nobody { tcp, udp, _held: (stream, datagram), _guards: [tcp_guard, udp_guard] })
    }

    pub fn address(&self, proto: Proto) -> SocketAddrV4 {
        match proto {
            Proto::Tcp => self.tcp,
            Proto::Udp => self.udp,
        }
    }
}
