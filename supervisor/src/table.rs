//! The table of virtual sockets, keyed by SO_COOKIE: what the program asked for, and where the kernel's socket really is.

use std::collections::{HashMap, HashSet, VecDeque};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use rustc_hash::FxHashMap;
use sipcore::agent::{Proto, SessionId};

use crate::ancillary::Lent;
use crate::attempt::Attempt;
use crate::doorbell::Rung;

mod show;

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
    },
}

/// The peers of a datagram socket.
#[derive(Default)]
pub struct Datagram {
    /// The peer that the program connected to, as it named it.
    pub connected: Option<SocketAddr>,
    /// By the address that the program uses.
    pub by_virtual: HashMap<SocketAddr, Peer>,
    /// By the address in the kernel.
    pub by_physical: HashMap<SocketAddrV4, SocketAddr>,
    /// Peers whose sessions have ended: what they sent before may still wait in the kernel's queue.
    departed: VecDeque<(Instant, SocketAddrV4)>,
    pub lent: Lent,
}

/// Destinations of one datagram socket that are remembered at once.
const DESTINATIONS: usize = 8192;
/// How long the datagrams of a peer are still known as its own after its session has ended.
const AFTERGLOW: Duration = Duration::from_secs(30);

impl Datagram {
    /// Notes that a session is being set up for `peer`. False when the socket has too many destinations already.
    pub fn await_session(&mut self, peer: SocketAddr, first: &[&[u8]]) -> bool {
        if self.by_virtual.len() >= DESTINATIONS {
            self.by_virtual.retain(|_, p| !matches!(p, Peer::Failed(_)));
        }
        let room = self.by_virtual.len() < DESTINATIONS;
        if room {
            self.by_virtual.insert(peer, Peer::Pending(first.iter().map(|one| one.to_vec()).collect()));
        }
        room
    }

    /// Notes that `peer` is at `media`, both ways; returns what was known of the peer.
    pub fn note(&mut self, peer: SocketAddr, media: SocketAddrV4, session: Option<SessionId>) -> Option<Peer> {
        while self.departed.front().is_some_and(|(when, _)| when.elapsed() > AFTERGLOW) {
            if let Some((_, gone)) = self.departed.pop_front() {
                self.by_physical.remove(&gone);
            }
        }
        self.departed.retain(|(_, gone)| *gone != media);
        if self.by_virtual.len() >= DESTINATIONS {
            // What has no session is found again when it is needed.
            self.by_virtual.retain(|_, p| matches!(p, Peer::Ready { session: Some(_), .. } | Peer::Pending(_)));
        }
        self.by_physical.insert(media, peer);
        self.by_virtual.insert(peer, Peer::Ready { physical: media, session })
    }

    /// Nobody is at `physical` any more. (A connected socket is the kernel's to keep or to refuse.)
    fn forget(&mut self, physical: &SocketAddrV4) {
        if let Some(peer) = self.by_physical.get(physical)
            && matches!(self.by_virtual.get(peer), Some(Peer::Ready { physical: p, session: None }) if p == physical)
        {
            self.by_virtual.remove(peer);
            self.departed.push_back((Instant::now(), *physical));
        }
    }

    /// The peer ended this session: the next datagram to it asks for a new one.
    fn depart(&mut self, session: SessionId) {
        let departed = &mut self.departed;
        self.by_virtual.retain(|_, p| match p {
            Peer::Ready { physical, session: Some(held) } if *held == session => {
                departed.push_back((Instant::now(), *physical));
                false
            }
            _ => true,
        });
    }
}

/// One peer of a datagram socket.
pub enum Peer {
    /// The session is being set up; what was sent meanwhile waits, up to a bound.
    Pending(VecDeque<Vec<u8>>),
    Ready {
        physical: SocketAddrV4,
        session: Option<SessionId>,
    },
    /// Setting it up failed at this instant; datagrams are dropped as a network would, until it is tried again.
    Failed(Instant),
}

/// A socket that the kernel's own tables must show.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hashed {
    pub cookie: Cookie,
    /// A TCP socket that is bound and no more: before Linux 6.8 those are not shown.
    pub merely_bound_tcp: bool,
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

/// All sockets of one run.
#[derive(Default)]
pub struct Table {
    /// Found at every call; cookies are the kernel's counter, not the program's choice, so a hash that mixes little is enough.
    sockets: FxHashMap<Cookie, Socket>,
    /// Who bound which virtual port.
    ports: HashMap<(Proto, u16), Vec<Cookie>>,
    /// Connections to come, by their physical source.
    expected: HashMap<SocketAddrV4, Expected>,
    /// Which socket a session belongs to.
    by_session: HashMap<SessionId, Cookie>,
    /// Datagram sockets that send to a socket of this run, by its physical address.
    acquainted: HashMap<SocketAddrV4, HashSet<Cookie>>,
    /// Connections to come from a peer that could not name its source port, by address and listener.
    expected_any: Vec<(Ipv4Addr, Expected)>,
    /// Connections that were made to peers which listen themselves, behind their rings.
    pub rung: Vec<Rung>,
    /// Who was the last to bind a physical address.
    by_address: HashMap<(Proto, SocketAddrV4), Cookie>,
    /// Virtual TCP ports whose sockets are gone, but not all of their connections.
    worn: HashMap<u16, Worn>,
}

/// A TCP port that connections still use, or did until a moment ago: the kernel decides by their state (TIME_WAIT) who may
/// bind it again.
struct Worn {
    name: Bound,
    /// Accepted connections that are open.
    open: usize,
    /// When the last socket of this name was closed.
    since: Instant,
}

/// TCP_TIMEWAIT_LEN of the kernel.
const TIME_WAIT: Duration = Duration::from_secs(60);
/// Worn ports are looked through when there are as many as this.
const WORN: usize = 1024;

/// Do two local addresses of one port get into each other's way (bind(2))?
fn overlap(a: &SocketAddr, a_only: bool, b: &SocketAddr, b_only: bool) -> bool {
    let covers =
        |wild: &SocketAddr, only: bool, other: &SocketAddr| match (wild.ip().to_canonical(), other.ip().to_canonical())
        {
            (IpAddr::V4(w), IpAddr::V4(_)) => w.is_unspecified(),
            (IpAddr::V6(w), IpAddr::V6(_)) => w.is_unspecified(),
            (IpAddr::V6(w), IpAddr::V4(_)) => w.is_unspecified() && !only,
            (IpAddr::V4(_), IpAddr::V6(_)) => false,
        };
    a.ip().to_canonical() == b.ip().to_canonical() || covers(a, a_only, b) || covers(b, b_only, a)
}

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
        self.sockets.insert(cookie, socket);
        self.wear(listener).open += 1;
    }

    fn wear(&mut self, name: Bound) -> &mut Worn {
        if self.worn.len() >= WORN {
            self.worn.retain(|_, w| w.open > 0 || w.since.elapsed() < TIME_WAIT);
        }
        let worn =
            self.worn.entry(name.virtual_.port()).or_insert_with(|| Worn { name, open: 0, since: Instant::now() });
        worn.name = name;
        worn.since = Instant::now();
        worn
    }

    /// The physical address of connections whose socket is gone, and whose virtual address overlaps `address`.
    pub fn worn(&self, address: &SocketAddr, v6only: bool) -> Option<SocketAddrV4> {
        let worn = self.worn.get(&address.port()).filter(|w| w.open > 0 || w.since.elapsed() < TIME_WAIT)?;
        overlap(&worn.name.virtual_, false, address, v6only).then_some(worn.name.physical)
    }

    /// How many sockets are known.
    pub fn len(&self) -> usize {
        self.sockets.len()
    }

    /// Notes whose session this is.
    pub fn note_session(&mut self, session: SessionId, cookie: Cookie) {
        self.by_session.insert(session, cookie);
    }

    /// Notes that `peer` of a datagram socket is at `media`, both ways: by a session, or because it is of this run. Returns what
    /// was known of the peer.
    pub fn note_peer(
        &mut self,
        cookie: Cookie,
        peer: SocketAddr,
        media: SocketAddrV4,
        session: Option<SessionId>,
    ) -> Option<Peer> {
        if let Some(s) = session {
            self.note_session(s, cookie);
        }
        let datagram = self.sockets.get_mut(&cookie)?.datagram.get_or_insert_default();
        if session.is_none() {
            self.acquainted.entry(media).or_default().insert(cookie);
        }
        datagram.note(peer, media, session)
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
            self.ports.entry((s.proto, bound.virtual_.port())).or_default().push(cookie);
            self.by_address.insert((s.proto, bound.physical), cookie);
        }
    }

    /// The socket that is known at this physical address.
    pub fn at(&self, proto: Proto, physical: SocketAddrV4) -> Option<Cookie> {
        self.by_address.get(&(proto, physical)).copied()
    }

    /// A socket whose virtual address overlaps `address`, and its physical one; the kernel then decides whether they may share.
    pub fn holder(&self, proto: Proto, address: &SocketAddr, v6only: bool) -> Option<(Cookie, SocketAddrV4)> {
        self.ports.get(&(proto, address.port()))?.iter().find_map(|c| {
            let s = self.sockets.get(c)?;
            let b = s.bound?;
            overlap(&b.virtual_, s.v6only, address, v6only).then_some((*c, b.physical))
        })
    }

    /// The socket of this run that a call to `address` reaches: a listener, or a datagram socket.
    pub fn own_endpoint(&self, proto: Proto, address: &SocketAddr) -> Option<(Cookie, Bound)> {
        let candidates = self.ports.get(&(proto, address.port()))?;
        let ip = address.ip().to_canonical();
        let mut best = None;
        for c in candidates {
            let Some(s) = self.sockets.get(c) else { continue };
            let Some(b) = s.bound else { continue };
            if proto == Proto::Tcp && !matches!(s.state, State::Listening) {
                continue;
            }
            // A connected datagram socket hears only its peer, in the kernel: it comes after the others.
            let connected = s.datagram.as_ref().is_some_and(|d| d.connected.is_some());
            let own = b.virtual_.ip();
            if own.to_canonical() == ip && !connected {
                return Some((*c, b));
            }
            // A wildcard covers every address of its family; `::` also covers IPv4 unless V6ONLY.
            let covers = own.is_unspecified() && (own.is_ipv4() == ip.is_ipv4() || (own.is_ipv6() && !s.v6only));
            let covers = covers || own.to_canonical() == ip;
            if covers && (best.is_none() || !connected) {
                best = Some((*c, b));
            }
        }
        best
    }

    /// The socket that an inbound session with this label means: the one bound to the port, else the only one of its
    /// protocol (WIRE: labels). `reachable` says whether the policy publishes or accepts on that address.
    pub fn labelled(
        &self,
        proto: Proto,
        port: Option<u16>,
        reachable: impl Fn(&SocketAddr) -> bool,
    ) -> Option<(Cookie, Bound)> {
        let ready = |c: &Cookie| {
            let s = self.sockets.get(c)?;
            let b = s.bound?;
            (s.is_open() && s.proto == proto && reachable(&b.virtual_)).then_some((*c, b))
        };
        if let Some(found) =
            port.and_then(|p| self.ports.get(&(proto, p))).and_then(|cookies| cookies.iter().find_map(ready))
        {
            return Some(found);
        }
        let mut all = self.ports.iter().filter(|((p, _), _)| *p == proto).flat_map(|(_, c)| c).filter_map(ready);
        let first = all.next()?;
        // Sockets that share one address (SO_REUSEPORT) are one endpoint.
        all.all(|(_, b)| b.physical == first.1.physical).then_some(first)
    }

    /// Listeners, and datagram sockets that were bound to a port of the program's choice, by the names that the program gave them.
    pub fn open_endpoints(&self) -> Vec<(Proto, SocketAddr)> {
        let open = self.sockets.values().filter(|s| s.is_open()).filter_map(|s| Some((s.proto, s.bound?)));
        open.filter(|(proto, b)| *proto == Proto::Tcp || b.port_chosen).map(|(proto, b)| (proto, b.virtual_)).collect()
    }

    pub fn expect(&mut self, source: SocketAddrV4, expected: Expected) {
        self.expected.insert(source, expected);
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
    pub fn take_expected(&mut self, source: &SocketAddrV4, listener: &[Cookie]) -> Option<Expected> {
        if self.expected.get(source).is_some_and(|e| listener.contains(&e.listener)) {
            return self.expected.remove(source);
        }
        let i = self.expected_any.iter().position(|(ip, e)| ip == source.ip() && listener.contains(&e.listener))?;
        Some(self.expected_any.swap_remove(i).1)
    }

    /// Listeners that share the physical address of this one (SO_REUSEPORT: the kernel may hand a connection to any).
    pub fn siblings(&self, cookie: Cookie) -> Vec<Cookie> {
        let Some((s, b)) = self.sockets.get(&cookie).and_then(|s| Some((s, s.bound?))) else { return vec![cookie] };
        let mut all = self.ports.get(&(s.proto, b.virtual_.port())).cloned().unwrap_or_default();
        all.retain(|c| self.sockets.get(c).and_then(|s| s.bound).is_some_and(|o| o.physical == b.physical));
        if !all.contains(&cookie) {
            all.push(cookie);
        }
        all
    }

    /// A listener with this name.
    pub fn listener_at(&self, bound: &Bound) -> Option<Cookie> {
        let same_port = self.ports.get(&(Proto::Tcp, bound.virtual_.port()))?;
        let listens =
            |s: &Socket| matches!(s.state, State::Listening) && s.bound.is_some_and(|b| b.physical == bound.physical);
        same_port.iter().copied().find(|c| self.sockets.get(c).is_some_and(listens))
    }

    /// The peer ended a session: what was announced by it does not come, and no BYE is owed for it.
    pub fn forget_session(&mut self, session: SessionId) {
        if let Some(s) = self.by_session.remove(&session).and_then(|c| self.sockets.get_mut(&c)) {
            if let State::Connected { session: held, .. } = &mut s.state
                && *held == Some(session)
            {
                *held = None;
            }
            if let Some(d) = &mut s.datagram {
                d.depart(session);
            }
        }
        self.expected.retain(|_, e| e.session != Some(session));
        self.expected_any.retain(|(_, e)| e.session != Some(session));
        self.rung.retain(|r| r.expected.session != Some(session));
    }

    /// The kernel took a socket's port back.
    pub fn unbind(&mut self, cookie: Cookie) {
        let Some(s) = self.sockets.get_mut(&cookie) else { return };
        let proto = s.proto;
        if let Some(b) = s.bound.take() {
            s.former = Some(b.virtual_.ip());
            self.leave_port(cookie, proto, &b);
        }
    }

    fn leave_port(&mut self, cookie: Cookie, proto: Proto, bound: &Bound) {
        let port = bound.virtual_.port();
        if self.at(proto, bound.physical) == Some(cookie) {
            self.by_address.remove(&(proto, bound.physical));
        }
        if let Some(holders) = self.ports.get_mut(&(proto, port)) {
            holders.retain(|c| *c != cookie);
            if holders.is_empty() {
                self.ports.remove(&(proto, port));
            }
        }
    }

    /// A datagram socket does not send to this address of the run any more.
    fn part(&mut self, physical: &SocketAddrV4, cookie: Cookie) {
        if let Some(friends) = self.acquainted.get_mut(physical) {
            friends.remove(&cookie);
            if friends.is_empty() {
                self.acquainted.remove(physical);
            }
        }
    }

    /// The kernel destroyed a socket: its entry goes; what it held is returned.
    pub fn remove(&mut self, cookie: Cookie) -> Option<Removed> {
        let socket = self.sockets.remove(&cookie)?;
        match (&socket.state, socket.bound) {
            // Of a connect() only a port that the program chose: nobody asks for another by its number.
            (State::Listening, Some(b)) => {
                self.wear(b);
            }
            (State::Connected { .. }, Some(b)) if b.port_chosen => {
                self.wear(b);
            }
            (State::Connected { local, .. }, None) => {
                if let Some(worn) = self.worn.get_mut(&local.port()) {
                    worn.open = worn.open.saturating_sub(1);
                    worn.since = Instant::now();
                }
            }
            _ => {}
        }
        if let Some(b) = socket.bound {
            self.leave_port(cookie, socket.proto, &b);
            if socket.proto == Proto::Udp {
                // Sockets of this run that knew it must not send to whoever has its address next.
                for friend in self.acquainted.remove(&b.physical).into_iter().flatten() {
                    if let Some(d) = self.sockets.get_mut(&friend).and_then(|s| s.datagram.as_mut()) {
                        d.forget(&b.physical);
                    }
                }
            }
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
            self.expected_any.retain_mut(|(_, e)| stays(e));
            self.rung.retain_mut(|r| stays(&mut r.expected));
        }
        for peer in socket.datagram.iter().flat_map(|d| d.by_virtual.values()) {
            match peer {
                Peer::Ready { session: Some(s), .. } => sessions.push(*s),
                Peer::Ready { session: None, physical } => self.part(physical, cookie),
                _ => {}
            }
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
mod tests {
    use super::*;

    fn socket(proto: Proto, v6: bool, state: State) -> Socket {
        Socket { proto, v6, v6only: false, bound: None, former: None, state, error: None, datagram: None }
    }

    fn bound(virtual_: &str, port: u16) -> Bound {
        let physical = SocketAddrV4::new(Ipv4Addr::new(127, 64, 0, 1), port);
        Bound { virtual_: virtual_.parse().unwrap(), physical, port_chosen: true }
    }

    fn listener(table: &mut Table, cookie: Cookie, at: &str, port: u16) {
        let v6 = at.starts_with('[');
        table.socket(cookie, || socket(Proto::Tcp, v6, State::Listening));
        table.bind(cookie, bound(at, port));
    }

    fn reaches(table: &Table, to: &str) -> Option<Cookie> {
        table.own_endpoint(Proto::Tcp, &to.parse().unwrap()).map(|(c, _)| c)
    }

    #[test]
    fn a_listener_is_reached_by_the_addresses_it_covers() {
        let mut table = Table::default();
        listener(&mut table, 1, "127.0.0.1:80", 5000);
        listener(&mut table, 2, "[::]:81", 5001);
        listener(&mut table, 3, "0.0.0.0:82", 5002);
        assert_eq!(reaches(&table, "127.0.0.1:80"), Some(1));
        assert_eq!(reaches(&table, "127.0.0.2:80"), None);
        assert_eq!(reaches(&table, "[::1]:81"), Some(2));
        assert_eq!(reaches(&table, "127.0.0.1:81"), Some(2));
        assert_eq!(reaches(&table, "127.0.0.1:82"), Some(3));
        assert_eq!(reaches(&table, "[::1]:82"), None);
        table.get_mut(2).unwrap().v6only = true;
        assert_eq!(reaches(&table, "127.0.0.1:81"), None);
    }

    #[test]
    fn overlapping_names_share_a_physical_port() {
        let mut table = Table::default();
        listener(&mut table, 1, "0.0.0.0:80", 5000);
        let holder = |a: &str, only| table.holder(Proto::Tcp, &a.parse().unwrap(), only).map(|h| h.1.port());
        assert_eq!(holder("127.0.0.1:80", false), Some(5000));
        assert_eq!(holder("[::]:80", false), Some(5000));
        assert_eq!(holder("[::]:80", true), None);
        assert_eq!(holder("[::ffff:127.0.0.1]:80", true), Some(5000));
        assert_eq!(holder("127.0.0.1:81", false), None);
    }

    #[test]
    fn a_label_means_its_port_or_the_only_socket() {
        let mut table = Table::default();
        let find = |t: &Table, port| t.labelled(Proto::Tcp, port, |_| true).map(|(c, _)| c);
        assert_eq!(find(&table, Some(80)), None);
        listener(&mut table, 1, "0.0.0.0:7000", 7000);
        assert_eq!(find(&table, Some(7000)), Some(1));
        assert_eq!(find(&table, Some(80)), Some(1));
        assert_eq!(find(&table, None), Some(1));
        listener(&mut table, 2, "0.0.0.0:7001", 7001);
        assert_eq!(find(&table, Some(7001)), Some(2));
        assert_eq!(find(&table, Some(80)), None);
        assert_eq!(table.labelled(Proto::Tcp, Some(7000), |a| a.port() != 7000).map(|(c, _)| c), Some(2));
        assert_eq!(table.labelled(Proto::Udp, Some(7000), |_| true), None);
    }

    fn expected(listener: Cookie, session: SessionId) -> Expected {
        Expected { listener, peer: "198.18.0.9:1".parse().unwrap(), local: None, session: Some(session) }
    }

    #[test]
    fn only_what_was_announced_for_this_listener_is_let_in() {
        let mut table = Table::default();
        listener(&mut table, 1, "0.0.0.0:7000", 7000);
        let source: SocketAddrV4 = "127.64.0.2:4000".parse().unwrap();
        table.expect(source, expected(1, SessionId::next()));
        assert!(table.take_expected(&source, &[2]).is_none());
        assert!(table.take_expected(&"127.64.0.2:4001".parse().unwrap(), &[1]).is_none());
        assert!(table.take_expected(&source, &[1]).is_some());
        assert!(table.take_expected(&source, &[1]).is_none());
        let withdrawn = SessionId::next();
        table.expect_any(*source.ip(), expected(1, withdrawn));
        table.forget_session(withdrawn);
        assert!(table.take_expected(&source, &[1]).is_none());
    }

    #[test]
    fn a_dead_socket_leaves_its_sessions_and_nothing_else() {
        let mut table = Table::default();
        listener(&mut table, 1, "0.0.0.0:7000", 7000);
        let (announced, session) = (SessionId::next(), SessionId::next());
        table.expect("127.64.0.2:4000".parse().unwrap(), expected(1, announced));
        let (local, peer) = ("198.18.0.1:7000".parse().unwrap(), "198.18.0.9:1".parse().unwrap());
        let accepted = socket(Proto::Tcp, false, State::Connected { local, peer, session: Some(session) });
        table.insert_accepted(2, accepted, bound("0.0.0.0:7000", 7000));
        assert_eq!(table.remove(2).unwrap().sessions, [session]);
        assert_eq!(table.remove(1).unwrap().sessions, [announced]);
        assert!(table.remove(1).is_none());
        assert!(table.holder(Proto::Tcp, &"0.0.0.0:7000".parse().unwrap(), false).is_none());
        assert!(
            table.hashed().is_empty()
                && table.ports.is_empty()
                && table.by_address.is_empty()
                && table.by_session.is_empty()
        );
    }

    #[test]
    fn what_the_kernel_shows_is_told_apart_from_what_is_blank() {
        let mut table = Table::default();
        listener(&mut table, 1, "0.0.0.0:7000", 7000);
        table.socket(2, || socket(Proto::Tcp, false, State::Idle));
        table.bind(2, bound("0.0.0.0:7001", 7001));
        table.socket(3, || socket(Proto::Udp, false, State::Idle));
        table.bind(3, bound("0.0.0.0:7002", 7002));
        table.socket(4, || socket(Proto::Udp, false, State::Idle));
        table.socket(5, || socket(Proto::Tcp, false, State::Idle));
        table.get_mut(5).unwrap().error = Some(Errno::ECONNREFUSED);
        let mut shown = table.hashed();
        shown.sort_by_key(|s| s.cookie);
        let expected = [(1, false), (2, true), (3, false)];
        assert_eq!(shown, expected.map(|(cookie, merely_bound_tcp)| Hashed { cookie, merely_bound_tcp }));
        table.forget_blank();
        assert!(table.get(4).is_none());
        assert!([1, 2, 3, 5].iter().all(|c| table.get(*c).is_some()));
    }

    #[test]
    fn who_sent_to_a_dead_socket_of_the_run_looks_for_it_again() {
        let mut table = Table::default();
        for (cookie, port) in [(1, 7001), (2, 7002), (3, 7003)] {
            table.socket(cookie, || socket(Proto::Udp, false, State::Idle));
            table.bind(cookie, bound(&format!("127.0.0.1:{port}"), port));
        }
        let at = |port| bound("127.0.0.1:1", port).physical;
        let peer = |port| format!("127.0.0.1:{port}").parse().unwrap();
        let knows = |table: &Table, c, port| {
            table.get(c).unwrap().datagram.as_ref().unwrap().by_virtual.contains_key(&peer(port))
        };
        table.note_peer(1, peer(7002), at(7002), None);
        table.note_peer(1, peer(7003), at(7003), None);
        table.note_peer(3, peer(7002), at(7002), None);
        table.remove(2);
        assert!(!knows(&table, 1, 7002) && !knows(&table, 3, 7002) && knows(&table, 1, 7003));
        // Nothing is left of those that are gone.
        table.remove(3);
        assert!(!knows(&table, 1, 7003));
        table.note_peer(1, peer(7003), at(7003), None);
        table.remove(1);
        assert!(table.acquainted.is_empty() && table.sockets.is_empty());
    }

    #[test]
    fn a_departed_peer_is_still_known_by_what_it_sent() {
        let mut table = Table::default();
        table.socket(1, || socket(Proto::Udp, false, State::Idle));
        let (peer, media) = ("198.18.0.9:53".parse().unwrap(), "127.64.0.2:4000".parse().unwrap());
        let id = SessionId::next();
        table.note_session(id, 1);
        let d = table.get_mut(1).unwrap().datagram.get_or_insert_default();
        d.note(peer, media, Some(id));
        table.forget_session(id);
        let d = table.get(1).unwrap().datagram.as_ref().unwrap();
        assert_eq!(d.by_physical.get(&media), Some(&peer));
        assert!(!d.by_virtual.contains_key(&peer));
    }
}
