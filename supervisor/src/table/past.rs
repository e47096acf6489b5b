//! The names of sockets that are gone, while something of them is left: who has such a name next is where they were.

use std::net::{SocketAddr, SocketAddrV4};
use std::time::{Duration, Instant};

use sipcore::agent::Proto;

use super::holders::{Holders, overlap, same};
use super::{Bound, Cookie, State, Table};

/// The name of a UDP socket that is gone.
pub struct Left {
    pub name: Bound,
    pub v6only: bool,
}

/// A name of TCP that connections still use, or did until a moment ago: the kernel decides by their state (TIME_WAIT) who may
/// bind it again.
pub struct Worn {
    name: Bound,
    v6only: bool,
    /// Accepted connections that are open.
    pub open: usize,
    /// When the last socket of this name was closed.
    pub since: Instant,
}

impl Worn {
    fn is_used(&self) -> bool {
        self.open > 0 || self.since.elapsed() < TIME_WAIT
    }
}

/// Of former names: this one, else one that overlaps it.
fn alike<'a, T: 'a>(
    former: impl Iterator<Item = &'a T> + Clone,
    name: impl Fn(&T) -> (Bound, bool),
    (address, v6only): (&SocketAddr, bool),
) -> Option<Bound> {
    let is_it = |former: &&T| {
        let (bound, only) = name(former);
        same(&bound.virtual_, only, address, v6only)
    };
    let overlapping = |former: &&T| {
        let (bound, only) = name(former);
        overlap(&bound.virtual_, only, address, v6only)
    };
    let found = former.clone().find(is_it).or_else(|| former.clone().find(overlapping))?;
    Some(name(found).0)
}

/// TCP_TIMEWAIT_LEN of the kernel.
const TIME_WAIT: Duration = Duration::from_secs(60);
/// Worn ports are looked through when there are as many as this.
const WORN: usize = 1024;
/// As many names of one port are remembered, the last ones.
const NAMES: usize = 64;

/// As many names of sockets that may be open are remembered, the last ones.
const OPEN: usize = 1024;

impl Table {
    /// The kernel's tables do not show this socket, of which it may have told or not: if it is one of TCP, its name is remembered.
    pub fn remember_name(&mut self, cookie: Cookie) {
        let Some(socket) = self.sockets.get(&cookie).filter(|s| s.proto == Proto::Tcp) else { return };
        let name = match socket.state {
            State::Connected { local, .. } => Some(local),
            _ => socket.bound.map(|b| b.virtual_),
        };
        if let Some(name) = name {
            if self.names.len() >= OPEN {
                self.names.pop_front();
            }
            self.names.push_back((cookie, name));
        }
    }

    /// What the name of a socket was that the kernel's tables did not show.
    pub fn remembered_name(&self, cookie: Cookie) -> Option<SocketAddr> {
        self.names.iter().rfind(|(of, _)| *of == cookie).map(|(_, name)| *name)
    }

    /// The name of a listener that is gone, or of a connection that it accepted, at the latest one's place.
    pub(super) fn wear(&mut self, name: Bound, v6only: bool) -> &mut Worn {
        if self.worn.len() >= WORN {
            self.worn.retain(|_, names| {
                names.retain(Worn::is_used);
                !names.is_empty()
            });
        }
        let names = self.worn.entry(name.virtual_.port()).or_default();
        let is_it = |w: &Worn| same(&w.name.virtual_, w.v6only, &name.virtual_, v6only);
        let at = names.iter().position(is_it).unwrap_or_else(|| {
            if names.len() >= NAMES {
                names.retain(Worn::is_used);
            }
            if names.len() >= NAMES {
                names.remove(0);
            }
            names.push(Worn { name, v6only, open: 0, since: Instant::now() });
            names.len() - 1
        });
        names[at].name = name;
        &mut names[at]
    }

    /// A connection that was accepted, with this name of its end, is gone.
    pub(super) fn wear_less(&mut self, local: &SocketAddr) {
        let Some(names) = self.worn.get_mut(&local.port()) else { return };
        let exact = names.iter().position(|w| w.open > 0 && w.name.virtual_.ip() == local.ip());
        let covers = |w: &Worn| w.open > 0 && overlap(&w.name.virtual_, w.v6only, local, false);
        if let Some(at) = exact.or_else(|| names.iter().position(covers)) {
            names[at].open -= 1;
            names[at].since = Instant::now();
        }
    }

    /// The physical address of connections whose socket is gone, and whose virtual address overlaps `address`.
    pub fn worn(&self, address: &SocketAddr, v6only: bool) -> Option<SocketAddrV4> {
        let free = |name: &Bound| !self.is_anothers(Proto::Tcp, name.physical, address, v6only);
        let used = self.worn.get(&address.port())?.iter().filter(|w| w.is_used() && free(&w.name));
        alike(used, |w| (w.name, w.v6only), (address, v6only)).map(|name| name.physical)
    }

    /// Where a UDP socket with this address was that is gone, while others of the run are connected there: whoever has its
    /// address next hears them, as after the restart of a server.
    pub fn left(&self, address: &SocketAddr, v6only: bool) -> Option<SocketAddrV4> {
        let free = |name: &Bound| !self.is_anothers(Proto::Udp, name.physical, address, v6only);
        let left = self.left.get(&address.port())?.iter().filter(|l| free(&l.name));
        alike(left, |l| (l.name, l.v6only), (address, v6only)).map(|name| name.physical)
    }

    /// Whether a socket with another name than this is known at this physical address.
    fn is_anothers(&self, proto: Proto, physical: SocketAddrV4, name: &SocketAddr, v6only: bool) -> bool {
        let with_port = |port| self.ports.get(&(proto, port)).map(Holders::all).unwrap_or_default();
        let there = with_port(physical.port()).iter().chain(with_port(name.port()));
        there.chain(self.by_address.get(&(proto, physical))).filter_map(|c| self.sockets.get(c)).any(|s| {
            s.bound.is_some_and(|b| {
                let is_it = b.virtual_.port() == name.port() && same(&b.virtual_, s.v6only, name, v6only);
                b.physical == physical && !is_it
            })
        })
    }
}
