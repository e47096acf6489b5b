//! What never changes of a socket, remembered by its cookie: no other socket of this machine ever has the same one (the counter is one for
//! all network namespaces, sock_gen_cookie of net/core/sock_diag.c, Linux 5.4).

use std::cell::RefCell;
use std::io;
use std::os::fd::BorrowedFd;

use crate::sock;

/// What a socket was made as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Facts {
    /// SO_DOMAIN.
    pub domain: libc::c_int,
    /// SO_TYPE.
    pub kind: libc::c_int,
    /// SO_PROTOCOL.
    pub protocol: libc::c_int,
    /// SO_NETNS_COOKIE: its network namespace; None where there is no such thing.
    pub network: Option<u64>,
}

/// Sockets that one thread remembers.
const REMEMBERED: usize = 64;

thread_local! {
    static FACTS: RefCell<[Option<(u64, Facts)>; REMEMBERED]> = const { RefCell::new([None; REMEMBERED]) };
}

/// The facts of the socket with this cookie.
///
/// # Errors
/// What getsockopt(2) gives.
pub fn facts(fd: BorrowedFd<'_>, cookie: u64) -> io::Result<Facts> {
    FACTS.with_borrow_mut(|all| {
        let place = &mut all[(cookie % REMEMBERED as u64) as usize];
        if let Some((known, facts)) = place
            && *known == cookie
        {
            return Ok(*facts);
        }
        let facts = Facts {
            domain: sock::socket_domain(fd)?,
            kind: sock::socket_type(fd)?,
            protocol: sock::socket_protocol(fd)?,
            network: sock::netns_cookie(fd).ok(),
        };
        *place = Some((cookie, facts));
        Ok(facts)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn a_socket_is_known_again_by_its_cookie_alone() {
        let udp = std::net::UdpSocket::bind("[::1]:0").unwrap();
        let tcp = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let cookie = |fd| sock::socket_cookie(fd).unwrap();
        let of_udp = facts(udp.as_fd(), cookie(udp.as_fd())).unwrap();
        assert_eq!(
            (of_udp.domain, of_udp.kind, of_udp.protocol),
            (libc::AF_INET6, libc::SOCK_DGRAM, libc::IPPROTO_UDP)
        );
        let of_tcp = facts(tcp.as_fd(), cookie(tcp.as_fd())).unwrap();
        assert_eq!(
            (of_tcp.domain, of_tcp.kind, of_tcp.protocol),
            (libc::AF_INET, libc::SOCK_STREAM, libc::IPPROTO_TCP)
        );
        // The kernel is not asked again: the descriptor may be any.
        assert_eq!(facts(tcp.as_fd(), cookie(udp.as_fd())).unwrap(), of_udp);
        // Another one with the same place in the memory is told apart.
        assert_eq!(facts(tcp.as_fd(), cookie(udp.as_fd()) + REMEMBERED as u64).unwrap(), of_tcp);
    }
}
