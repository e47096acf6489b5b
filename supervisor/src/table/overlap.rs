//! Sockets of one port whose addresses overlap. Of TCP each name has a port of the kernel's of its own, and whose address is nearer is reached, as
//! natively (compute_score of net/ipv4/inet_hashtables.c). Of UDP they share one: a server has a socket for each client, on the address that the
//! client has reached, and the kernel alone can hand it what a client sends that is connected to the server's first socket.

use std::net::{IpAddr, SocketAddr, SocketAddrV4};

use sipcore::agent::Proto;

use super::holders::{Holders, overlap, same};
use super::{Bound, Cookie, Pointing, Socket, State, Table};

/// Who is there when a socket is bound to an address.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Holding {
    /// A socket whose place this one is to share, and where that is: one with the same name; of UDP, else one whose name overlaps it.
    pub same: Option<(Cookie, SocketAddrV4)>,
    /// One of each other place with a name that overlaps it: the kernel decides whether both may be.
    pub beside: Vec<(Cookie, SocketAddrV4)>,
}

impl Holding {
    /// All of them.
    pub fn all(&self) -> impl Iterator<Item = &(Cookie, SocketAddrV4)> {
        self.same.iter().chain(&self.beside)
    }

    pub fn is_empty(&self) -> bool {
        self.same.is_none() && self.beside.is_empty()
    }
}

/// How near a socket of this name is to what is sent to `ip`: the address itself, a wildcard of the family, `::` for IPv4 as well. None: it does
/// not hear it.
fn nearness(name: &SocketAddr, v6only: bool, ip: IpAddr) -> Option<u8> {
    let own = name.ip().to_canonical();
    match (own.is_unspecified(), own.is_ipv4() == ip.is_ipv4()) {
        _ if own == ip => Some(2),
        (true, true) => Some(1),
        (true, false) if own.is_ipv6() && !v6only => Some(0),
        _ => None,
    }
}

impl Table {
    /// Notes that a socket has its virtual port.
    pub(super) fn hold_port(&mut self, cookie: Cookie, proto: Proto, bound: &Bound) {
        let key = (proto, bound.virtual_.port());
        let Some(holders) = self.ports.get_mut(&key) else {
            self.ports.insert(key, Holders::One(cookie));
            return;
        };
        let first = holders.all().first().and_then(|c| self.sockets.get(c)?.bound);
        holders.add(cookie, first.is_none_or(|first| first.physical != bound.physical));
    }

    /// Sockets of this port have names that overlap.
    pub fn note_overlap(&mut self, proto: Proto, port: u16) {
        if let Some(holders) = self.ports.get_mut(&(proto, port)) {
            holders.note_overlap();
        }
    }

    /// Whether what is meant for a name of this port may reach another listener once the one is gone that it reached.
    pub fn has_second(&self, proto: Proto, port: u16) -> bool {
        self.ports.get(&(proto, port)).is_some_and(Holders::overlap)
    }

    /// Who is there when a socket is bound to `address`.
    pub fn holding(&self, proto: Proto, address: &SocketAddr, v6only: bool) -> Holding {
        let mut holding = Holding::default();
        let Some(holders) = self.ports.get(&(proto, address.port())) else { return holding };
        for cookie in holders.all() {
            let Some(socket) = self.sockets.get(cookie) else { continue };
            let Some(bound) = socket.bound else { continue };
            let found = (*cookie, bound.physical);
            if same(&bound.virtual_, socket.v6only, address, v6only) {
                holding.same.get_or_insert(found);
                if proto == Proto::Udp || !holders.are_apart() {
                    break;
                }
            } else if overlap(&bound.virtual_, socket.v6only, address, v6only)
                && holding.beside.iter().all(|(_, at)| *at != bound.physical)
            {
                holding.beside.push(found);
            }
        }
        if proto == Proto::Udp {
            holding.same = holding.same.or(holding.beside.first().copied());
            holding.beside.clear();
        }
        if let Some((_, at)) = holding.same {
            holding.beside.retain(|(_, other)| *other != at);
        }
        holding
    }

    /// A socket at another place, of an overlapping name, that has this connection of TCP: natively the kernel has each once.
    pub fn connected_alike(&self, cookie: Cookie, local: &SocketAddr, peer: &SocketAddr) -> Option<(Cookie, Pointing)> {
        let holders = self.ports.get(&(Proto::Tcp, local.port())).filter(|holders| holders.overlap())?;
        let at = self.sockets.get(&cookie)?.bound?.physical;
        let alike =
            |a: &SocketAddr, b: &SocketAddr| (a.ip().to_canonical(), a.port()) == (b.ip().to_canonical(), b.port());
        let is_it = |socket: &Socket| match &socket.state {
            State::Connected { local: own, peer: to, .. } => alike(own, local) && alike(to, peer),
            _ => false,
        };
        let others = holders.all().iter().filter(|other| self.sockets.get(*other).is_some_and(is_it));
        others.filter_map(|other| Some((*other, self.pointing(*other)?))).find(|(_, other)| other.local != at)
    }

    /// The socket of this run that a call to `address` reaches: a listener, or a datagram socket. Not one that is at a place that was `passed`
    /// over.
    pub fn own_endpoint(&self, proto: Proto, address: &SocketAddr, passed: &[SocketAddrV4]) -> Option<(Cookie, Bound)> {
        let candidates = self.ports.get(&(proto, address.port()))?;
        let ip = address.ip().to_canonical();
        let mut best = None;
        for c in candidates.all() {
            let Some(s) = self.sockets.get(c) else { continue };
            let Some(b) = s.bound else { continue };
            if proto == Proto::Tcp && !matches!(s.state, State::Listening) {
                continue;
            }
            // A connected datagram socket hears only its peer, in the kernel: it comes after the others.
            let connected = s.datagram.as_ref().is_some_and(|d| d.connected.is_some());
            let Some(near) = nearness(&b.virtual_, s.v6only, ip).filter(|_| !passed.contains(&b.physical)) else {
                continue;
            };
            if b.virtual_.ip().to_canonical() == ip && !connected {
                return Some((*c, b));
            }
            let rank = (!connected, near);
            if best.is_none_or(|(_, other)| rank >= other) {
                best = Some(((*c, b), rank));
            }
        }
        best.map(|(found, _)| found)
    }
}
