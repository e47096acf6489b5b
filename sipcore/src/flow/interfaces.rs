//! The addresses of this host that peers may be told of.

use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::ifaddrs::getifaddrs;
use nix::libc;
use nix::net::if_::InterfaceFlags;
use nix::sys::socket::{AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, socket};
use tokio::io::Interest;
use tokio::net::UnixDatagram;
use tokio::sync::watch;

/// Addresses at most; each is a socket, and is paired with each of the other end's.
const MOST: usize = 12;

/// A change is looked at when nothing more has changed for this long: addresses and routes come one after the other.
const SETTLED: Duration = Duration::from_millis(150);
/// What the kernel tells of (rtnetlink(7)).
const GROUPS: libc::c_int = libc::RTMGRP_LINK
    | libc::RTMGRP_IPV4_IFADDR
    | libc::RTMGRP_IPV6_IFADDR
    | libc::RTMGRP_IPV4_ROUTE
    | libc::RTMGRP_IPV6_ROUTE;

/// The addresses of this host that peers may be told of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Addresses {
    /// Those that it uses towards the rest of the world.
    pub outward: Vec<IpAddr>,
    /// All of them.
    pub all: Vec<IpAddr>,
}

impl Addresses {
    fn now() -> Addresses {
        Addresses { outward: outward(), all: addresses() }
    }
}

/// The addresses of this host, now and whenever they have changed. To be called in a tokio runtime; ends with the last receiver.
pub fn watch() -> io::Result<watch::Receiver<Addresses>> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket: OwnedFd = socket(AddressFamily::Netlink, SockType::Raw, flags, SockProtocol::NetlinkRoute)?;
    bind(socket.as_raw_fd(), &NetlinkAddr::new(0, GROUPS as u32))?;
    // To the runtime any datagram socket is as good as another: it waits until it is readable, no more.
    let socket = UnixDatagram::from_std(socket.into())?;
    let (sender, receiver) = watch::channel(Addresses::now());
    tokio::spawn(async move {
        loop {
            tokio::select! {
                heard = heard(&socket) => if heard.is_err() { return },
                () = sender.closed() => return,
            }
            // More of the same change.
            while let Ok(Ok(())) = tokio::time::timeout(SETTLED, heard(&socket)).await {}
            let now = Addresses::now();
            sender.send_if_modified(|old| std::mem::replace(old, now.clone()) != now);
        }
    });
    Ok(receiver)
}

/// Waits until the kernel tells of something. What it is does not matter: all is looked at.
async fn heard(socket: &UnixDatagram) -> io::Result<()> {
    loop {
        socket.readable().await?;
        let mut buffer = [0; 8192];
        let mut any = false;
        let told = socket.try_io(Interest::READABLE, || {
            loop {
                match recv(socket.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
                    // More was told than had room.
                    Ok(_) | Err(Errno::ENOBUFS) => any = true,
                    Err(Errno::EINTR) => {}
                    Err(e) => return Err::<(), _>(e.into()),
                }
            }
        });
        match told {
            _ if any => return Ok(()),
            Err(e) if e.kind() != io::ErrorKind::WouldBlock => return Err(e),
            _ => {}
        }
    }
}

/// Addresses of interfaces that are up, without those that mean something on one link or one machine only. Those that the host
/// uses towards the rest of the world come first.
pub(super) fn addresses() -> Vec<IpAddr> {
    let mut found = outward();
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

/// By the default routes. Nothing is sent.
fn outward() -> Vec<IpAddr> {
    let found = ["192.0.2.1:9", "[2001:db8::1]:9"].into_iter().filter_map(|to| towards(to.parse().ok()?));
    found.filter(is_told).collect()
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
