//! The addresses of this host that peers may be told of.

use std::net::{IpAddr, SocketAddr, UdpSocket};

use nix::ifaddrs::getifaddrs;
use nix::net::if_::InterfaceFlags;

/// Addresses at most; each is a socket, and is paired with each of the other end's.
const MOST: usize = 12;

/// Addresses of interfaces that are up, without those that mean something on one link or one machine only. Those that the host
/// uses towards the rest of the world come first.
pub(super) fn addresses() -> Vec<IpAddr> {
    let mut found: Vec<IpAddr> =
        ["192.0.2.1:9", "[2001:db8::1]:9"].into_iter().filter_map(|to| towards(to.parse().ok()?)).collect();
    found.retain(is_told);
    for interface in getifaddrs().into_iter().flatten() {
        if !interface.flags.contains(InterfaceFlags::IFF_UP) {
            continue;
        }
        let Some(address) = interface.address else { continue };
        let v4 = address.as_sockaddr_in().map(|a| IpAddr::V4(a.ip()));
        let ip = v4.or_else(|| address.as_sockaddr_in6().map(|a| IpAddr::V6(a.ip())));
        if let Some(ip) = ip.filter(is_told)
            && !found.contains(&ip)
        {
            found.push(ip);
        }
    }
    found.truncate(MOST);
    found
}

fn is_told(ip: &IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => !ip.is_loopback() && !ip.is_link_local() && !ip.is_unspecified() && !ip.is_multicast(),
        IpAddr::V6(ip) => {
            let link_local = ip.segments()[0] & 0xffc0 == 0xfe80;
            !ip.is_loopback()
                && !link_local
                && !ip.is_unspecified()
                && !ip.is_multicast()
                && ip.to_ipv4_mapped().is_none()
        }
    }
}

/// The address that the kernel would use towards `to`. Nothing is sent.
pub(super) fn towards(to: SocketAddr) -> Option<IpAddr> {
    let any: SocketAddr = if to.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0u16; 8], 0).into() };
    let socket = UdpSocket::bind(any).ok()?;
    socket.connect(to).ok()?;
    socket.local_addr().ok().map(|a| a.ip())
}
