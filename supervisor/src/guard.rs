//! Ports that sockets of the program send to. When the socket that has such a port is gone, the port is free, and a service of this
//! machine that binds the wildcard address may get it: what a connected socket sends, which is not trapped, would then reach that
//! service. So the port is kept from others for as long as anything of the program's points to it, by a socket on an
//! address that the run has beside its own: with it no socket can be bound to the wildcard address (bind(2)), and the program's
//! own sockets, on the run's address, do not feel it.

use std::collections::VecDeque;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use foldhash::HashMap;
use nix::errno::Errno;
use nix::sys::resource::{Resource, getrlimit};
use parking_lot::Mutex;
use sandbox::sock;
use sipcore::agent::Proto;

use crate::call::errno;

type Port = (Proto, u16);

/// Guards that nobody needs any more and that are kept for the next who does, so that a client that connects again and again does
/// not pay for them each time.
const IDLE: usize = 64;

/// The addresses of runs, that the sockets of their programs have (see [`crate::homes`]): 127.64.0.0/10.
const OWN: std::ops::RangeInclusive<u32> = 0x7f40_0000..=0x7f7f_ffff;
/// From a run's address to that of its guards.
const BESIDE: u32 = 0x0040_0000;
/// Marks an address of [`OWN`] as taken.
pub const MARK_PORT: u16 = 1024;
const PLACES_TRIED: usize = 16;

/// What is kept when the supervisor is killed, for as long as sockets of its program live: the guards, and the mark of its address. Gives
/// the address of the program's sockets.
pub fn outlives(local: SocketAddrV4) -> Option<Ipv4Addr> {
    let bits = local.ip().to_bits();
    let marked = OWN.contains(&bits) && local.port() == MARK_PORT;
    let home = if marked { bits } else { bits.checked_sub(BESIDE).filter(|_| !OWN.contains(&bits))? };
    OWN.contains(&home).then(|| Ipv4Addr::from_bits(home))
}

/// The guards of one run.
pub struct Guards {
    ip: Ipv4Addr,
    /// As many as are kept at once: each is a descriptor, and calls need some too.
    most: usize,
    kept: Arc<Mutex<Kept>>,
}

#[derive(Default)]
struct Kept {
    posts: HashMap<Port, Post>,
    /// Those that nobody holds, the oldest first.
    idle: VecDeque<Port>,
}

struct Post {
    _socket: OwnedFd,
    holders: usize,
}

/// While it lives no socket of others can be bound to this port on the wildcard address.
pub struct Guard {
    port: Port,
    kept: Arc<Mutex<Kept>>,
}

impl Guards {
    /// Of a run whose sockets are at `physical`, in [`OWN`]: the guards are in 127.128.0.0/10.
    pub fn of(physical: Ipv4Addr) -> Guards {
        let limit = getrlimit(Resource::RLIMIT_NOFILE).map_or(1024, |(soft, _)| soft);
        let most = usize::try_from(limit / 2).unwrap_or(usize::MAX);
        Guards { ip: Ipv4Addr::from(physical.to_bits() + BESIDE), most, kept: Arc::default() }
    }

    /// A place of the supervisor's own that sockets of the program are pointed to, with its port, and a guard of that; another one where a
    /// service of this machine has the port, too.
    ///
    /// # Errors
    /// As `make`, and [`Guards::hold`]; EADDRINUSE when one port after the other is a service's.
    pub fn place<T>(&self, proto: Proto, make: impl Fn() -> std::io::Result<(T, u16)>) -> std::io::Result<(T, Guard)> {
        for _ in 0..PLACES_TRIED {
            let placed = make().and_then(|(made, port)| Ok((made, self.hold(proto, port)?)));
            match placed {
                Err(e) if e.kind() == std::io::ErrorKind::AddrInUse => {}
                placed => return placed,
            }
        }
        Err(Errno::EADDRINUSE.into())
    }

    /// Keeps a port from others.
    ///
    /// # Errors
    /// EADDRINUSE: a service has it already, and shares it. ENOBUFS: there can be no more.
    pub fn hold(&self, proto: Proto, port: u16) -> Result<Guard, Errno> {
        let key = (proto, port);
        let mut kept = self.kept.lock();
        match kept.posts.get_mut(&key) {
            Some(post) => {
                post.holders += 1;
                if post.holders == 1 {
                    kept.idle.retain(|idle| *idle != key);
                }
            }
            None => {
                if kept.posts.len() >= self.most {
                    let oldest = kept.idle.pop_front().ok_or(Errno::ENOBUFS)?;
                    kept.posts.remove(&oldest);
                }
                let post = Post { _socket: self.post(proto, port)?, holders: 1 };
                kept.posts.insert(key, post);
            }
        }
        Ok(Guard { port: key, kept: self.kept.clone() })
    }

    /// Whether something points to this port.
    pub fn is_held(&self, proto: Proto, port: u16) -> bool {
        self.kept.lock().posts.get(&(proto, port)).is_some_and(|post| post.holders > 0)
    }

    /// A socket that hears nobody.
    fn post(&self, proto: Proto, port: u16) -> Result<OwnedFd, Errno> {
        let address = SocketAddr::from((self.ip, port));
        let made = match proto {
            Proto::Tcp => sock::tcp4().and_then(|socket| sock::bind(socket.as_fd(), &address).map(|()| socket)),
            Proto::Udp => UdpSocket::bind(address).and_then(|s| s.connect(address).map(|()| s.into())),
        };
        made.map_err(|e| match errno(e) {
            Errno::EADDRINUSE => Errno::EADDRINUSE,
            _ => Errno::ENOBUFS,
        })
    }
}

impl Guard {
    /// The port that is kept.
    pub fn port(&self) -> u16 {
        self.port.1
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let mut kept = self.kept.lock();
        let Some(post) = kept.posts.get_mut(&self.port) else { return };
        post.holders -= 1;
        if post.holders > 0 {
            return;
        }
        kept.idle.push_back(self.port);
        if kept.idle.len() > IDLE
            && let Some(oldest) = kept.idle.pop_front()
        {
            kept.posts.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guards() -> Guards {
        Guards { most: 3, ..Guards::of(Ipv4Addr::new(127, 90, 7, 9)) }
    }

    /// A port that nobody has on any address; what has it is dropped by the caller.
    fn free() -> (UdpSocket, u16) {
        let probe = UdpSocket::bind(("127.0.0.1", 0)).unwrap();
        let port = probe.local_addr().unwrap().port();
        (probe, port)
    }

    #[test]
    fn what_outlives_the_supervisor() {
        let home = |text: &str| outlives(text.parse().unwrap()).map(|ip| ip.to_string());
        assert_eq!(home("127.64.0.0:1024").as_deref(), Some("127.64.0.0"));
        assert_eq!(home("127.127.255.255:1024").as_deref(), Some("127.127.255.255"));
        assert_eq!(home("127.128.0.0:5"), Some("127.64.0.0".to_owned()));
        assert_eq!(home("127.191.7.9:1024"), Some("127.127.7.9".to_owned()));
        let not =
            ["127.64.0.1:1025", "127.127.9.9:53", "127.0.0.1:1024", "127.192.0.0:9", "0.0.0.0:1024", "10.90.0.1:1024"];
        assert!(not.into_iter().all(|local| home(local).is_none()));
    }

    #[test]
    fn a_held_port_is_kept_from_the_wildcard_address_alone() {
        let guards = guards();
        let (probe, port) = free();
        let held = guards.hold(Proto::Udp, port).unwrap();
        drop(probe);
        assert!(UdpSocket::bind(("0.0.0.0", port)).is_err());
        assert!(UdpSocket::bind(("::", port)).is_err());
        drop(UdpSocket::bind(("127.90.7.9", port)).unwrap());
        drop(held);
        // Kept for the next who asks, and no longer than others need the place.
        let others: Vec<_> = (0..3).map(|_| free().1).map(|p| guards.hold(Proto::Udp, p).unwrap()).collect();
        assert_eq!(guards.hold(Proto::Udp, free().1).err(), Some(Errno::ENOBUFS));
        drop(others);
        drop(UdpSocket::bind(("0.0.0.0", port)).unwrap());
    }

    #[test]
    fn whoever_shares_the_port_already_is_seen() {
        let guards = guards();
        let service = std::net::TcpListener::bind(("0.0.0.0", 0)).unwrap();
        let port = service.local_addr().unwrap().port();
        assert_eq!(guards.hold(Proto::Tcp, port).err(), Some(Errno::EADDRINUSE));
        drop(service);
        let held = [guards.hold(Proto::Tcp, port).unwrap(), guards.hold(Proto::Tcp, port).unwrap()];
        assert!(std::net::TcpListener::bind(("0.0.0.0", port)).is_err());
        drop(held);
        assert_eq!(guards.kept.lock().idle.len(), 1);
        drop(guards.hold(Proto::Tcp, port).unwrap());
        let kept = guards.kept.lock();
        assert_eq!((kept.idle.len(), kept.posts.len()), (1, 1));
    }
}
