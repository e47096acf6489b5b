//! Sockets of one port whose addresses overlap: each name has a port of the kernel's of its own, and whose address is nearer hears what
//! comes, as natively (compute_score of net/ipv4/udp.c and inet_hashtables.c).

use std::net::{IpAddr, SocketAddr, SocketAddrV4};

use sipcore::agent::Proto;

use super::holders::{Holders, overlap, same};
use super::peers::Peer;
use super::{Bound, Cookie, Socket, State, Table};

/// Who is there when a socket is bound to an address.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Holding {
    /// A socket with the same name, and where it is.
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

    /// Whether what is meant for a name of this port may go to another socket once the one is gone that it went to.
    pub fn has_second(&self, proto: Proto, port: u16) -> bool {
        self.ports.get(&(proto, port)).is_some_and(Holders::overlap)
    }

    /// Who is there when a socket is bound to `address`.
    pub fn holding(&self, proto: Proto, address: &SocketAddr, v6only: bool) -> Holding {
        let mut holding = Holding::default();
        let Some(holders) = self.ports.get(&(proto, address.port())) else { return holding };
        let mut is_open = false;
        for cookie in holders.all() {
            let Some(socket) = self.sockets.get(cookie) else { continue };
            let Some(bound) = socket.bound else { continue };
            let found = (*cookie, bound.physical);
            if same(&bound.virtual_, socket.v6only, address, v6only) {
                // A connected socket of UDP may be with another name (see [`Table::to_join`]).
                if holding.same.is_none() || (!is_open && socket.is_open()) {
                    is_open = socket.is_open();
                    holding.same = Some(found);
                }
                if !holders.are_apart() {
                    break;
                }
            } else if overlap(&bound.virtual_, socket.v6only, address, v6only)
                && holding.beside.iter().all(|(_, at)| *at != bound.physical)
            {
                holding.beside.push(found);
            }
        }
        if let Some((_, at)) = holding.same {
            holding.beside.retain(|(_, other)| *other != at);
        }
        holding
    }

    /// The socket of this run that a call to `address` reaches: a listener, or a datagram socket.
    pub fn own_endpoint(&self, proto: Proto, address: &SocketAddr) -> Option<(Cookie, Bound)> {
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
            let Some(near) = nearness(&b.virtual_, s.v6only, ip) else { continue };
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

    /// A datagram socket with a new name is nearer to some of what was sent to `beside` until now: who sends there finds that out with the
    /// next datagram. (A connected socket is where the kernel has connected it.)
    pub fn draw_from(&mut self, name: &SocketAddr, v6only: bool, beside: &[(Cookie, SocketAddrV4)]) {
        for (holder, at) in beside {
            let before = self.sockets.get(holder).and_then(|s| Some((s.bound?.virtual_, s.v6only)));
            let (Some((before, only)), Some(friends)) = (before, self.acquainted.get_mut(at)) else { continue };
            let is_nearer = |to: &SocketAddr| {
                let ip = to.ip();
                to.port() == name.port() && nearness(name, v6only, ip) > nearness(&before, only, ip)
            };
            friends.cookies.retain(|friend| {
                let Some(datagram) = self.sockets.get_mut(friend).and_then(|s| s.datagram.as_mut()) else {
                    return false;
                };
                let is_there =
                    |peer: &Peer| matches!(peer, Peer::Ready { physical, session: None, .. } if physical == at);
                datagram.by_virtual.retain(|to, peer| !(is_there(peer) && is_nearer(to)));
                datagram.anchor.as_ref().is_some_and(|anchor| anchor.physical == *at)
                    || datagram.by_virtual.values().any(is_there)
            });
        }
    }

    /// Where a datagram socket that nobody has sent to is to be before it is connected: with the open one whose name overlaps its own.
    /// For servers have a socket for each client, bound to the address that the client has reached, and the kernel hands it what that
    /// client goes on to send to the other one.
    pub fn to_join(&self, cookie: Cookie) -> Option<SocketAddrV4> {
        let socket = self.sockets.get(&cookie)?;
        let bound = socket.bound.filter(|b| b.port_chosen)?;
        let holders = self.ports.get(&(Proto::Udp, bound.virtual_.port())).filter(|h| h.overlap())?;
        let stays = socket.datagram.as_ref().is_some_and(|d| !d.may_move());
        if stays || self.acquainted.get(&bound.physical).is_some_and(|friends| !friends.cookies.is_empty()) {
            return None;
        }
        let open = |c: &&Cookie| **c != cookie && self.sockets.get(*c).is_some_and(Socket::is_open);
        let others = holders.all().iter().filter(open).filter_map(|c| self.sockets.get(c));
        let mut place = None;
        for other in others {
            let Some(at) = other.bound else { continue };
            if at.physical == bound.physical {
                return None;
            }
            if overlap(&at.virtual_, other.v6only, &bound.virtual_, socket.v6only) {
                place = Some(at.physical);
            }
        }
        place
    }

    /// A bound socket is elsewhere now.
    pub fn move_to(&mut self, cookie: Cookie, physical: SocketAddrV4) {
        if let Some(bound) = self.sockets.get(&cookie).and_then(|s| s.bound) {
            self.unbind(cookie);
            self.bind(cookie, Bound { physical, ..bound });
        }
    }
}
