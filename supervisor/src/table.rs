//! The table of virtual sockets, keyed by SO_COOKIE: what the program asked for, and where the kernel's socket really is.

use std::collections::{HashMap, HashSet, VecDeque};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};
use std::sync::Arc;
use std::time::Instant;

use foldhash::HashMap as KeyedMap;
use nix::errno::Errno;
use rustc_hash::FxHashMap;
use sipcore::agent::{Proto, SessionId};

use crate::attempt::Attempt;
use crate::doorbell::Rung;
use crate::guard::Guard;
use crate::stub::Waiting;

mod acquaintances;
mod era;
mod holders;
mod overlap;
mod past;
mod peers;
mod show;
mod sources;

pub use era::Era;
pub use overlap::Holding;
pub use peers::{Anchor, Datagram, Peer};

use holders::Holders;
use past::{Left, Worn};
use sources::Sources;

/// SO_COOKIE of a kernel socket: unique for its life, never reused.
pub type Cookie = u64;

/// A socket of the program.
pub struct Socket {
    pub proto: Proto,
    /// AF_INET6; its physical addresses are v4-mapped.
    pub v6: bool,
    /// IPV6_V6ONLY, kept here only: the kernel's socket must stay dual-stack.
    pub v6only: bool,
    pub bound: Option<Bound>,
    /// What getsockname(2) says when the kernel took the port back: the address stays.
    pub former: Option<IpAddr>,
    pub state: State,
    /// Connections that were begun.
    pub begun: u32,
    /// What SO_ERROR is to say once, instead of the kernel's word.
    pub error: Option<Errno>,
    /// Sessions of an unconnected or connected datagram socket.
    pub datagram: Option<Box<Datagram>>,
}

impl Socket {
    /// It takes what comes from anybody.
    fn is_open(&self) -> bool {
        match self.proto {
            Proto::Tcp => matches!(self.state, State::Listening),
            Proto::Udp => self.datagram.as_ref().is_none_or(|d| d.connected.is_none()),
        }
    }
}

/// A name that the program gave to its end, and the kernel's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bound {
    pub virtual_: SocketAddr,
    pub physical: SocketAddrV4,
    /// The program asked for this port. One that the kernel chose is taken back with the association: connect(AF_UNSPEC), a
    /// connection that failed or ended (SOCK_BINDPORT_LOCK of the kernel).
    pub port_chosen: bool,
}

/// Where a stream socket is in its life.
pub enum State {
    Idle,
    Listening,
    /// A connect() is under way.
    Connecting(Arc<Attempt>),
    Connected {
        local: SocketAddr,
        peer: SocketAddr,
        session: Option<SessionId>,
        /// Where the peer is, whose port is kept from others: the kernel's connect() may go on when the peer is gone.
        guard: Option<(SocketAddrV4, Guard)>,
    },
}

/// How far a session is.
pub enum Standing {
    Ready(SocketAddrV4),
    Opening,
    None,
}

/// A socket that the kernel's own tables must show.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hashed {
    pub cookie: Cookie,
    /// A TCP socket that is bound and no more: before Linux 6.8 those are not shown.
    pub merely_bound_tcp: bool,
}

/// A socket by its physical address, and that of its peer, or its own.
#[derive(Debug, Clone, Copy)]
pub struct Pointing {
    pub proto: Proto,
    pub local: SocketAddrV4,
    pub to: SocketAddrV4,
}

/// A connection that is announced and has not been accepted by the program yet.
#[derive(Clone, Copy)]
pub struct Expected {
    /// The listener it was announced for.
    pub listener: Cookie,
    /// The address that the program is to see.
    pub peer: SocketAddr,
    /// The program's own end as it is to see it; None: the listener's address, or this run's own.
    pub local: Option<SocketAddr>,
    pub session: Option<SessionId>,
}

/// All sockets of one run. What each call looks up by addresses and ports, which others choose, is hashed fast, with a key of this process
/// (foldhash).
#[derive(Default)]
pub struct Table {
    /// Found at every call; cookies are the kernel's counter, not the program's choice, so a hash that mixes little is enough.
    sockets: FxHashMap<Cookie, Socket>,
    /// Who bound which virtual port.
    ports: KeyedMap<(Proto, u16), Holders>,
    /// Connections to come, by their physical source.
    expected: KeyedMap<SocketAddrV4, Expected>,
    /// Which socket a session belongs to.
    by_session: HashMap<SessionId, Cookie>,
    /// Datagram sockets that send to a socket of this run, by its physical address.
    acquainted: HashMap<SocketAddrV4, Friends>,
    /// By virtual UDP port: names whose sockets are gone, while others are still connected there.
    left: HashMap<u16, Vec<Left>>,
    /// Earlier ones from the same source, the last first: it may connect to several listeners, and again when a connection was reset.
    expected_more: VecDeque<(SocketAddrV4, Expected)>,
    /// Connections to come from a peer that could not name its source port, by address and listener.
    expected_any: Vec<(Ipv4Addr, Expected)>,
    /// Connections that were made to peers which listen themselves, behind their rings.
    pub rung: Vec<Rung>,
    /// Who was the last to bind a physical address whose port is another than its virtual one; `ports` has the others.
    by_address: KeyedMap<(Proto, SocketAddrV4), Cookie>,
    /// By virtual TCP port: names whose sockets are gone, but not all of their connections.
    worn: KeyedMap<u16, Vec<Worn>>,
    /// Names of TCP sockets that the kernel's tables did not show: what was reset, or shut down, may still be open.
    names: VecDeque<(Cookie, SocketAddr)>,
    sources: Sources,
    /// Destinations of the run's own that were noted since they were last forgotten.
    noted: usize,
}

/// Who sends to a datagram socket of this run.
#[derive(Default)]
struct Friends {
    cookies: HashSet<Cookie>,
    /// The virtual port of the socket, when it is gone.
    left: Option<u16>,
}

/// As many sockets that share a port are looked at for what they know of a source.
const GROUP: usize = 64;

impl Table {
    /// The socket behind a cookie; `make` describes it at its first trapped call.
    pub fn socket(&mut self, cookie: Cookie, make: impl FnOnce() -> Socket) -> &mut Socket {
        self.sockets.entry(cookie).or_insert_with(make)
    }

    pub fn get(&self, cookie: Cookie) -> Option<&Socket> {
        self.sockets.get(&cookie)
    }

    pub fn get_mut(&mut self, cookie: Cookie) -> Option<&mut Socket> {
        self.sockets.get_mut(&cookie)
    }

    /// A connection that was accepted on a listener with this name.
    pub fn insert_accepted(&mut self, cookie: Cookie, socket: Socket, listener: Bound) {
        if let State::Connected { session: Some(s), .. } = &socket.state {
            self.by_session.insert(*s, cookie);
        }
        let v6only = socket.v6only;
        self.sockets.insert(cookie, socket);
        self.wear(listener, v6only).open += 1;
    }

    /// How many sockets are known.
    pub fn len(&self) -> usize {
        self.sockets.len()
    }

    /// Notes whose session this is.
    pub fn note_session(&mut self, session: SessionId, cookie: Cookie) {
        self.by_session.insert(session, cookie);
    }

    /// A socket with the port of this one, and where it has this peer, if that is by a session of its own.
    fn sharing(&self, cookie: Cookie, peer: &SocketAddr) -> Option<(Cookie, SocketAddrV4)> {
        if self.by_session.is_empty() {
            return None;
        }
        let bound = self.sockets.get(&cookie)?.bound?;
        let holders = self.ports.get(&(Proto::Udp, bound.virtual_.port()))?;
        holders.all().iter().filter(|other| **other != cookie).find_map(|other| {
            let socket = self.sockets.get(other).filter(|s| s.bound.is_some_and(|b| b.physical == bound.physical))?;
            match socket.datagram.as_ref()?.by_virtual.get(peer)? {
                Peer::Ready { physical, session: Some(_), .. } => Some((*other, *physical)),
                _ => None,
            }
        })
    }

    /// Where another socket with the port of this one has this peer: servers have a socket for each client.
    pub fn shared(&self, cookie: Cookie, peer: &SocketAddr) -> Option<SocketAddrV4> {
        self.sharing(cookie, peer).map(|(_, physical)| physical)
    }

    /// A datagram socket is connected to such a peer: the session is its own from here on.
    pub fn take_over(&mut self, cookie: Cookie, peer: &SocketAddr) {
        let Some((other, _)) = self.sharing(cookie, peer) else { return };
        let Some(datagram) = self.sockets.get_mut(&other).and_then(|s| s.datagram.as_mut()) else { return };
        if datagram.connected.is_some() {
            return;
        }
        let Some(Peer::Ready { physical, session, _guard }) = datagram.by_virtual.remove(peer) else { return };
        // What came before waits in the queue of the other one.
        datagram.departed.push_back((Instant::now(), physical));
        self.note_peer(cookie, *peer, physical, session, _guard);
    }

    /// How far a session of a datagram socket with `peer` is.
    pub fn standing(&self, cookie: Cookie, peer: &SocketAddr) -> Standing {
        let datagram = self.sockets.get(&cookie).and_then(|s| s.datagram.as_ref());
        match datagram.and_then(|d| d.by_virtual.get(peer)) {
            Some(Peer::Ready { physical, .. }) => Standing::Ready(*physical),
            Some(Peer::Pending(_)) => Standing::Opening,
            Some(Peer::Failed(_)) | None => Standing::None,
        }
    }

    /// What waits for that session.
    pub fn take_pending(&mut self, cookie: Cookie, peer: &SocketAddr) -> VecDeque<Vec<u8>> {
        match self.datagram_mut(cookie).and_then(|d| d.by_virtual.remove(peer)) {
            Some(Peer::Pending(queue)) => queue,
            _ => VecDeque::new(),
        }
    }

    /// More that waits for it.
    pub fn add_pending(&mut self, cookie: Cookie, peer: &SocketAddr, more: VecDeque<Vec<u8>>) {
        if let Some(Peer::Pending(queue)) = self.datagram_mut(cookie).and_then(|d| d.by_virtual.get_mut(peer)) {
            queue.extend(more);
        }
    }

    /// A peer called.
    pub fn admit(
        &mut self,
        cookie: Cookie,
        peer: SocketAddr,
        media: SocketAddrV4,
        session: SessionId,
        guard: Option<Guard>,
    ) {
        if !matches!(self.standing(cookie, &peer), Standing::Opening) {
            self.note_peer(cookie, peer, media, Some(session), guard);
            return;
        }
        self.note_session(session, cookie);
        if let Some(datagram) = self.sockets.get_mut(&cookie).and_then(|s| s.datagram.as_mut()) {
            datagram.hear(&mut self.sources, media, peer);
            if let Some((physical, former, _)) = datagram.crossed.insert(peer, (media, session, guard)) {
                datagram.replaced.push((former, physical));
            }
        }
    }

    /// No session with `peer` came about. Where the peer is, and what is to go there, if it has called meanwhile.
    pub fn note_failed(&mut self, cookie: Cookie, peer: &SocketAddr) -> Option<(SocketAddrV4, VecDeque<Vec<u8>>)> {
        let datagram = self.sockets.get_mut(&cookie)?.datagram.as_mut()?;
        let Some((physical, session, guard)) = datagram.crossed.remove(peer) else {
            datagram.by_virtual.insert(*peer, Peer::Failed(Instant::now()));
            return None;
        };
        match datagram.note(&mut self.sources, *peer, physical, Some(session), guard) {
            Some(Peer::Pending(queue)) => Some((physical, queue)),
            _ => None,
        }
    }

    fn datagram_mut(&mut self, cookie: Cookie) -> Option<&mut Datagram> {
        self.sockets.get_mut(&cookie)?.datagram.as_deref_mut()
    }

    /// Notes that `peer` of a datagram socket is at `media`, both ways: by a session, or because it is of this run. Returns what
    /// was known of the peer.
    pub fn note_peer(
        &mut self,
        cookie: Cookie,
        peer: SocketAddr,
        media: SocketAddrV4,
        session: Option<SessionId>,
        guard: Option<Guard>,
    ) -> Option<Peer> {
        if let Some(s) = session {
            self.note_session(s, cookie);
        }
        if session.is_none() {
            self.note_acquaintance();
        }
        let datagram = self.sockets.get_mut(&cookie)?.datagram.get_or_insert_default();
        if session.is_none() {
            self.acquainted.entry(media).or_default().cookies.insert(cookie);
        }
        datagram.note(&mut self.sources, peer, media, session, guard)
    }

    /// A datagram socket hears `source`, and calls it `name`; others of its group that have called it something else do so, too.
    pub fn hear(&mut self, cookie: Cookie, source: SocketAddrV4, name: SocketAddr) {
        let differs = |s: &Socket| s.datagram.as_ref().and_then(|d| d.name_of(&source)).is_some_and(|n| *n != name);
        let others = self.group(cookie).take(GROUP).filter(|(_, s)| differs(s));
        for other in others.map(|(other, _)| other).collect::<Vec<_>>() {
            if let Some(datagram) = self.sockets.get_mut(&other).and_then(|s| s.datagram.as_mut()) {
                datagram.hear(&mut self.sources, source, name);
            }
        }
        if let Some(socket) = self.sockets.get_mut(&cookie) {
            socket.datagram.get_or_insert_default().hear(&mut self.sources, source, name);
        }
    }

    /// The association of a datagram socket with `peer` ends, if its session stands: that session.
    pub fn part_with(&mut self, cookie: Cookie, peer: &SocketAddr) -> Option<SessionId> {
        let datagram = self.sockets.get_mut(&cookie)?.datagram.as_mut()?;
        // A session that is being set up has to carry what was sent.
        let Peer::Ready { physical, session, .. } = datagram.by_virtual.get(peer)? else { return None };
        let (physical, session) = (*physical, *session);
        datagram.by_virtual.remove(peer);
        datagram.drop_source(&mut self.sources, &physical);
        session
    }

    /// What a datagram from `source` is called that was received where this socket was a moment ago: only what holds for every socket that
    /// may be there by now. None: it must be asked which one that is.
    pub fn name_in_any_case(&self, cookie: Cookie, source: &SocketAddrV4) -> Option<&SocketAddr> {
        let name = self.sockets.get(&cookie)?.datagram.as_ref()?.name_of(source)?;
        self.sources.is_unambiguous(source).then_some(name)
    }

    /// Passes with each UDP socket that goes, and when who they hear changes.
    pub fn era(&self) -> Era {
        self.sources.era().clone()
    }

    /// The sockets that send to this address of the run, each with the name that it has for it.
    pub fn friends(&self, physical: &SocketAddrV4) -> Vec<(Cookie, SocketAddr)> {
        let cookies = self.acquainted.get(physical).map(|f| &f.cookies).into_iter().flatten();
        let named = |cookie: &Cookie| Some((*cookie, self.sockets.get(cookie)?.datagram.as_ref()?.name_at(physical)?));
        cookies.filter_map(named).collect()
    }

    /// What the socket of this run at `source` calls the end of a datagram socket that it sends to.
    pub fn meant_by(&self, source: &SocketAddrV4, receiver: Cookie) -> Option<SocketAddr> {
        let at = self.sockets.get(&receiver)?.bound?.physical;
        self.sockets.get(&self.at(Proto::Udp, *source)?)?.datagram.as_ref()?.name_at(&at)
    }

    /// Whether so many open sockets have the physical address of this one that what they know of who sends there does not get lost: each of them
    /// leaves it to another one (see [`Table::remove`]).
    pub fn is_in_crowd(&self, cookie: Cookie) -> bool {
        const CROWD: usize = 8;
        let v6 = self.sockets.get(&cookie).is_some_and(|s| s.v6);
        self.group(cookie).filter(|(_, s)| s.is_open() && s.v6 == v6).take(CROWD).count() == CROWD
    }

    /// The sockets that the kernel's own tables must show: those that are connected, listen, or are bound.
    pub fn hashed(&self) -> Vec<Hashed> {
        let shown = |(cookie, s): (&Cookie, &Socket)| {
            let merely_bound_tcp = match (s.proto, &s.state) {
                (Proto::Tcp, State::Idle) if s.bound.is_some() => true,
                (Proto::Tcp, State::Listening | State::Connected { .. }) => false,
                (Proto::Udp, _) if s.bound.is_some() => false,
                _ => return None,
            };
            Some(Hashed { cookie: *cookie, merely_bound_tcp })
        };
        self.sockets.iter().filter_map(shown).collect()
    }

    /// Where a socket is, and where it points, for which ports are kept from others: it must not be taken for dead by mistake. None: there are
    /// none.
    pub fn pointing(&self, cookie: Cookie) -> Option<Pointing> {
        let socket = self.sockets.get(&cookie)?;
        let local = socket.bound?.physical;
        let to = match (&socket.state, &socket.datagram) {
            (State::Connected { guard: Some((to, _)), .. }, _) => *to,
            (_, Some(d)) if d.keeps_ports() => d.anchor.as_ref().map_or(local, |anchor| anchor.physical),
            _ => return None,
        };
        Some(Pointing { proto: socket.proto, local, to })
    }

    /// Whether this socket is known for as long as it lives, whatever happens to it.
    pub fn stays(&self, cookie: Cookie) -> bool {
        self.get(cookie).is_some_and(|s| s.bound.is_some())
    }

    /// Forgets sockets of which nothing is known but what they are.
    pub fn forget_blank(&mut self) {
        self.sockets.retain(|_, s| {
            let blank = matches!(s.state, State::Idle) && s.bound.is_none() && s.datagram.is_none();
            !blank || s.former.is_some() || s.error.is_some() || s.v6only
        });
    }

    /// Notes what a socket was bound to.
    pub fn bind(&mut self, cookie: Cookie, bound: Bound) {
        if let Some(s) = self.sockets.get_mut(&cookie) {
            s.former = None;
            s.bound = Some(bound);
            let (proto, port) = (s.proto, bound.virtual_.port());
            self.hold_port(cookie, proto, &bound);
            if port != bound.physical.port() {
                self.by_address.insert((proto, bound.physical), cookie);
            }
        }
    }

    /// The virtual port of a socket for which the kernel chose one: that, or another one that no socket has. For the kernel's is free at one of
    /// the run's addresses, of which TCP has several, and the program may have asked for it by number.
    pub fn free_port(&self, proto: Proto, chosen: u16) -> u16 {
        /// The lowest one that the kernel chooses by itself (ip_local_port_range, ip(7)).
        const FIRST: u16 = 32768;
        let is_free = |port: &u16| !self.ports.contains_key(&(proto, *port));
        (chosen..=u16::MAX).chain(FIRST..chosen.max(FIRST)).find(is_free).unwrap_or(chosen)
    }

    /// The others with the physical address of this socket: the kernel hands what comes there to any of them (SO_REUSEPORT, SO_REUSEADDR).
    fn group(&self, cookie: Cookie) -> impl Iterator<Item = (Cookie, &Socket)> {
        let bound = self.sockets.get(&cookie).and_then(|s| Some((s.proto, s.bound?)));
        let holders = bound.and_then(|(proto, bound)| self.ports.get(&(proto, bound.virtual_.port())));
        let others = holders.map(Holders::all).unwrap_or_default().iter().filter(move |other| **other != cookie);
        others.filter_map(move |other| {
            let socket = self.sockets.get(other)?;
            (socket.bound?.physical == bound?.1.physical).then_some((*other, socket))
        })
    }

    /// What another socket with the physical address of this datagram socket calls `source`.
    pub fn name_in_group(&self, cookie: Cookie, source: &SocketAddrV4) -> Option<&SocketAddr> {
        self.group(cookie).take(GROUP).find_map(|(_, other)| other.datagram.as_ref()?.name_of(source))
    }

    /// The socket that is known at this physical address.
    pub fn at(&self, proto: Proto, physical: SocketAddrV4) -> Option<Cookie> {
        let named_alike = || {
            let is_there =
                |c: &&Cookie| self.sockets.get(c).and_then(|s| s.bound).is_some_and(|b| b.physical == physical);
            self.ports.get(&(proto, physical.port()))?.all().iter().rfind(is_there).copied()
        };
        self.by_address.get(&(proto, physical)).copied().or_else(named_alike)
    }

    /// The socket that an inbound session with this label means: the one bound to the port, else the only one of its
    /// protocol (WIRE: labels). `reachable` says whether the policy publishes or accepts on its address.
    pub fn labelled(
        &self,
        proto: Proto,
        port: Option<u16>,
        reachable: impl Fn(&Bound) -> bool,
    ) -> Option<(Cookie, Bound)> {
        let ready = |c: &Cookie| {
            let s = self.sockets.get(c)?;
            let b = s.bound?;
            (s.is_open() && s.proto == proto && reachable(&b)).then_some((*c, b))
        };
        let one_of = |holders: &Holders| {
            // Peers have an address of each family for the program: where it has a socket of each, that of IPv4 hears them, and
            // that which has the address itself.
            let order = |b: &Bound| (b.virtual_.is_ipv6(), b.virtual_.ip().is_unspecified());
            holders.all().iter().filter_map(ready).min_by_key(|(_, b)| order(b))
        };
        if let Some(found) = port.and_then(|p| self.ports.get(&(proto, p))).and_then(one_of) {
            return Some(found);
        }
        // What shares a port (SO_REUSEPORT, the two families) is one endpoint.
        let mut ports = self.ports.iter().filter(|((p, _), _)| *p == proto).filter_map(|(_, c)| one_of(c));
        let only = ports.next()?;
        ports.next().is_none().then_some(only)
    }

    /// Listeners, and datagram sockets that were bound to a port of the program's choice, by the names that the program gave them.
    pub fn open_endpoints(&self) -> Vec<(Proto, SocketAddr)> {
        let open = self.sockets.values().filter(|s| s.is_open()).filter_map(|s| Some((s.proto, s.bound?)));
        open.filter(|(proto, b)| *proto == Proto::Tcp || b.port_chosen).map(|(proto, b)| (proto, b.virtual_)).collect()
    }

    /// A connection from `source` is announced. The session of an earlier one that has to give way.
    #[must_use]
    pub fn expect(&mut self, source: SocketAddrV4, expected: Expected) -> Option<SessionId> {
        /// So many connections beside, of sources that have several.
        const MORE: usize = 1024;
        let before = self.expected.insert(source, expected)?;
        self.expected_more.push_front((source, before));
        let oldest = (self.expected_more.len() > MORE).then(|| self.expected_more.pop_back())??;
        oldest.1.session
    }

    pub fn expect_any(&mut self, source: Ipv4Addr, expected: Expected) {
        self.expected_any.push((source, expected));
    }

    /// The connection behind the ring that was accepted from `source`.
    pub fn take_rung(&mut self, source: SocketAddrV4) -> Option<Rung> {
        let i = self.rung.iter().position(|r| r.is(SocketAddr::V4(source)))?;
        Some(self.rung.swap_remove(i))
    }

    /// The announcement that a connection from `source` on `listener` fulfils.
    pub fn take_expected(&mut self, source: &SocketAddrV4, listener: Cookie) -> Option<Expected> {
        let last = self.expected.remove(source);
        if let Some(expected) = last.filter(|e| self.are_one(listener, e.listener)) {
            if let Some((_, before)) = self.earlier(source, |_| true).and_then(|i| self.expected_more.remove(i)) {
                self.expected.insert(*source, before);
            }
            return Some(expected);
        }
        if let Some(expected) = last {
            self.expected.insert(*source, expected);
        }
        let before = self.earlier(source, |e| self.are_one(listener, e.listener));
        if let Some((_, before)) = before.and_then(|i| self.expected_more.remove(i)) {
            return Some(before);
        }
        let meant = |(ip, e): &(Ipv4Addr, Expected)| ip == source.ip() && self.are_one(listener, e.listener);
        let i = self.expected_any.iter().position(meant)?;
        Some(self.expected_any.swap_remove(i).1)
    }

    fn earlier(&self, source: &SocketAddrV4, meant: impl Fn(&Expected) -> bool) -> Option<usize> {
        self.expected_more.iter().position(|(from, e)| from == source && meant(e))
    }

    /// Whether two listeners share one physical address (SO_REUSEPORT: the kernel may hand a connection to any).
    fn are_one(&self, one: Cookie, other: Cookie) -> bool {
        let place = |cookie| self.sockets.get(&cookie).and_then(|s| Some((s.proto, s.bound?.physical)));
        one == other || place(one).is_some_and(|at| place(other) == Some(at))
    }

    /// A listener with this name.
    pub fn listener_at(&self, bound: &Bound) -> Option<Cookie> {
        let same_port = self.ports.get(&(Proto::Tcp, bound.virtual_.port()))?;
        let listens =
            |s: &Socket| matches!(s.state, State::Listening) && s.bound.is_some_and(|b| b.physical == bound.physical);
        same_port.all().iter().copied().find(|c| self.sockets.get(c).is_some_and(listens))
    }

    /// The peer ended a session: what was announced by it does not come, and no BYE is owed for it. A datagram socket that is connected
    /// there, if it had asked for the session itself.
    pub fn forget_session(&mut self, session: SessionId) -> Option<Arc<Waiting>> {
        let mut left = None;
        if let Some(s) = self.by_session.remove(&session).and_then(|c| self.sockets.get_mut(&c)) {
            if let State::Connected { session: held, .. } = &mut s.state
                && *held == Some(session)
            {
                *held = None;
            }
            if let Some(d) = &mut s.datagram {
                left = d.led_by(session);
                d.depart(session);
            }
        }
        self.expected.retain(|_, e| e.session != Some(session));
        self.expected_more.retain(|(_, e)| e.session != Some(session));
        self.expected_any.retain(|(_, e)| e.session != Some(session));
        self.rung.retain(|r| r.expected.session != Some(session));
        left
    }

    /// The kernel took a socket's port back.
    pub fn unbind(&mut self, cookie: Cookie) {
        let Some(s) = self.sockets.get_mut(&cookie) else { return };
        let proto = s.proto;
        if let Some(b) = s.bound.take() {
            s.former = Some(b.virtual_.ip());
            let v6only = s.v6only;
            self.leave_port(cookie, proto, &b);
            if proto == Proto::Udp {
                self.leave_friends(b, v6only);
            }
        }
    }

    fn leave_port(&mut self, cookie: Cookie, proto: Proto, bound: &Bound) {
        let port = bound.virtual_.port();
        if port != bound.physical.port() && self.by_address.get(&(proto, bound.physical)) == Some(&cookie) {
            self.by_address.remove(&(proto, bound.physical));
        }
        if self.ports.get_mut(&(proto, port)).is_some_and(|holders| holders.leave(cookie)) {
            self.ports.remove(&(proto, port));
        }
    }

    /// Notes where the kernel's socket of a datagram socket is connected to. Where it was before; its port is kept.
    pub fn set_anchor(&mut self, cookie: Cookie, anchor: Option<Anchor>) -> Option<Anchor> {
        let to = anchor.as_ref().map(|a| a.physical);
        let datagram = self.sockets.get_mut(&cookie)?.datagram.get_or_insert_default();
        let mut before = std::mem::replace(&mut datagram.anchor, anchor);
        if let Some(guard) = before.as_mut().and_then(|before| before.guard.take()) {
            datagram.points_elsewhere(guard);
        }
        if let Some(before) = &before {
            self.part(&before.physical, cookie);
        }
        if let Some(to) = to {
            self.acquainted.entry(to).or_default().cookies.insert(cookie);
        }
        before
    }

    /// A datagram socket does not send to this address of the run any more.
    fn part(&mut self, physical: &SocketAddrV4, cookie: Cookie) {
        let Some(friends) = self.acquainted.get_mut(physical) else { return };
        friends.cookies.remove(&cookie);
        if friends.cookies.is_empty()
            && let Some(port) = self.acquainted.remove(physical).and_then(|f| f.left)
            && let Some(names) = self.left.get_mut(&port)
        {
            names.retain(|left| left.name.physical != *physical);
            if names.is_empty() {
                self.left.remove(&port);
            }
        }
    }

    /// A datagram socket of the run is gone. Those that knew it must not send to whoever has its address next; those that
    /// are connected there do so without being asked.
    fn leave_friends(&mut self, bound: Bound, v6only: bool) {
        let Some(mut friends) = self.acquainted.remove(&bound.physical) else { return };
        friends.cookies.retain(|friend| {
            let Some(d) = self.sockets.get_mut(friend).and_then(|s| s.datagram.as_mut()) else { return false };
            d.forget(&bound.physical);
            d.anchor.as_ref().is_some_and(|anchor| anchor.physical == bound.physical)
        });
        if !friends.cookies.is_empty() {
            let port = bound.virtual_.port();
            friends.left = Some(port);
            let names = self.left.entry(port).or_default();
            names.retain(|left| left.name.physical != bound.physical);
            names.push(Left { name: bound, v6only });
            self.acquainted.insert(bound.physical, friends);
        }
    }

    /// A datagram socket is gone, and this one of its group lives: natively whoever sends there goes on.
    fn inherit(&mut self, heir: Cookie, gone: &mut Datagram) {
        let Some(socket) = self.sockets.get_mut(&heir) else { return };
        let datagram = socket.datagram.get_or_insert_default();
        let departed: HashSet<_> = gone.departed.iter().map(|(_, at)| *at).collect();
        for (source, name) in gone.by_physical.iter().filter(|(source, _)| !departed.contains(source)) {
            if datagram.name_of(source).is_none() {
                datagram.hear(&mut self.sources, *source, *name);
            }
        }
        gone.by_virtual.retain(|name, peer| {
            let moves = matches!(peer, Peer::Ready { session: Some(_), .. }) && !datagram.by_virtual.contains_key(name);
            if moves && let Peer::Ready { session: Some(session), .. } = peer {
                self.by_session.insert(*session, heir);
                datagram.by_virtual.insert(*name, std::mem::replace(peer, Peer::Failed(Instant::now())));
            }
            !moves
        });
    }

    /// The kernel destroyed a socket: its entry goes; what it held is returned.
    pub fn remove(&mut self, cookie: Cookie) -> Option<Removed> {
        let gone = self.sockets.get(&cookie)?;
        let shares = gone.proto == Proto::Udp && gone.is_open();
        let is_heir = |(_, other): &(Cookie, &Socket)| shares && other.is_open() && gone.v6 == other.v6;
        let heir = if shares { self.group(cookie).find(is_heir).map(|(heir, _)| heir) } else { None };
        let mut socket = self.sockets.remove(&cookie)?;
        if socket.proto == Proto::Udp {
            self.sources.era().pass();
            if let (Some(heir), Some(gone)) = (heir, &mut socket.datagram) {
                self.inherit(heir, gone);
            }
        }
        match (&socket.state, socket.bound) {
            // Of a connect() only a port that the program chose: nobody asks for another by its number.
            (State::Listening, Some(b)) => self.wear(b, socket.v6only).since = Instant::now(),
            (State::Connected { .. }, Some(b)) if b.port_chosen => self.wear(b, socket.v6only).since = Instant::now(),
            (State::Connected { local, .. }, None) => self.wear_less(local),
            _ => {}
        }
        if let Some(b) = socket.bound {
            self.leave_port(cookie, socket.proto, &b);
            if socket.proto == Proto::Udp {
                self.leave_friends(b, socket.v6only);
            }
        }
        for source in socket.datagram.iter().flat_map(|d| d.by_physical.keys()) {
            self.sources.forget(source);
        }
        let mut sessions = Vec::new();
        if let State::Connected { session: Some(s), .. } = &socket.state {
            sessions.push(*s);
        }
        if matches!(socket.state, State::Listening) {
            // A listener with the same address (SO_REUSEPORT) takes what comes from now on.
            let heir = socket.bound.and_then(|b| self.listener_at(&b));
            let mut stays = |e: &mut Expected| {
                if e.listener == cookie {
                    match heir {
                        Some(other) => e.listener = other,
                        None => sessions.extend(e.session),
                    }
                }
                e.listener != cookie
            };
            self.expected.retain(|_, e| stays(e));
            self.expected_more.retain_mut(|(_, e)| stays(e));
            self.expected_any.retain_mut(|(_, e)| stays(e));
            self.rung.retain_mut(|r| stays(&mut r.expected));
        }
        for peer in socket.datagram.iter().flat_map(|d| d.by_virtual.values()) {
            match peer {
                Peer::Ready { session: Some(s), .. } => sessions.push(*s),
                Peer::Ready { session: None, physical, .. } => self.part(physical, cookie),
                _ => {}
            }
        }
        sessions.extend(socket.datagram.iter().flat_map(|d| d.replaced.iter().map(|(session, _)| *session)));
        sessions.extend(socket.datagram.iter().flat_map(|d| d.crossed.values().map(|(_, session, _)| *session)));
        if let Some(anchor) = socket.datagram.as_ref().and_then(|d| d.anchor.as_ref()) {
            self.part(&anchor.physical, cookie);
        }
        for s in &sessions {
            self.by_session.remove(s);
        }
        let attempt = match socket.state {
            State::Connecting(a) => Some(a),
            _ => None,
        };
        Some(Removed { sessions, attempt, source: socket.bound.map(|b| b.physical) })
    }
}

/// What a destroyed socket leaves to be ended.
pub struct Removed {
    pub sessions: Vec<SessionId>,
    pub attempt: Option<Arc<Attempt>>,
    /// Its physical address.
    pub source: Option<SocketAddrV4>,
}

#[cfg(test)]
mod tests;
