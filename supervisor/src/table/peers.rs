//! Whom a datagram socket speaks with.

use std::collections::{HashMap, HashSet, VecDeque};
use std::net::{SocketAddr, SocketAddrV4};
use std::sync::Arc;
use std::time::{Duration, Instant};

use foldhash::HashMap as KeyedMap;
use sipcore::agent::SessionId;

use super::Sources;
use crate::ancillary::Lent;
use crate::guard::Guard;
use crate::stub::Waiting;

/// The peers of a datagram socket.
#[derive(Default)]
pub struct Datagram {
    /// The peer that the program connected to, as it named it.
    pub connected: Option<SocketAddr>,
    /// Where the kernel's socket is connected to, whoever is there by now.
    pub anchor: Option<Anchor>,
    /// By the address that the program uses.
    pub by_virtual: KeyedMap<SocketAddr, Peer>,
    /// By the address in the kernel.
    pub(super) by_physical: KeyedMap<SocketAddrV4, SocketAddr>,
    /// Peers that called while a session with them was being set up: they are heard, and what is sent waits for that session,
    /// since a caller does not know yet that he may be sent to.
    pub(super) crossed: HashMap<SocketAddr, (SocketAddrV4, SessionId, Option<Guard>)>,
    /// Sessions beside those that are used: both ends called each other. They end with the socket.
    pub(super) replaced: Vec<(SessionId, SocketAddrV4)>,
    /// Peers whose sessions have ended: what they sent before may still wait in the kernel's queue.
    pub(super) departed: VecDeque<(Instant, SocketAddrV4)>,
    pub lent: Lent,
    /// Ports that this socket was connected to, the last one behind, and since when not: a send that is under way goes there.
    pointed: VecDeque<(Instant, Guard)>,
    /// Ports that datagrams were sent to which the kernel held back (MSG_MORE, UDP_CORK): it keeps where they go, however long.
    held_back: KeyedMap<u16, Guard>,
    /// UDP_CORK was set once: what is sent may be held back.
    pub corks: bool,
}

/// The address that a connected socket sends to by itself.
pub struct Anchor {
    pub physical: SocketAddrV4,
    /// None where the supervisor itself is.
    pub guard: Option<Guard>,
    /// How a session that the socket itself asked for came about: when its peer ends it, it may ask for another one.
    pub led: Option<Arc<Waiting>>,
}

/// Destinations of one datagram socket that are remembered at once.
const DESTINATIONS: usize = 8192;
/// Ports that are kept for one socket at once.
const POINTED: usize = 1024;
/// How long a send may be under way: its thread waits for memory that is on a slow disk, or for others that send.
const UNDER_WAY: Duration = Duration::from_secs(600);
/// How long the datagrams of a peer are still known as its own after its session has ended.
const AFTERGLOW: Duration = Duration::from_secs(30);

impl Datagram {
    /// The socket does not point to this port any more.
    pub(super) fn points_elsewhere(&mut self, guard: Guard) {
        self.may_point_elsewhere();
        self.pointed.retain(|(_, other)| other.port() != guard.port());
        self.pointed.push_back((Instant::now(), guard));
    }

    /// False when it pointed to too many ports of late.
    pub fn may_point_elsewhere(&mut self) -> bool {
        while self.pointed.front().is_some_and(|(since, _)| since.elapsed() > UNDER_WAY) {
            self.pointed.pop_front();
        }
        self.pointed.len() < POINTED
    }

    /// Keeps a port for as long as the socket lives. False when there are too many.
    pub fn hold_back(&mut self, guard: Guard) -> bool {
        let has_room = self.held_back.len() < POINTED;
        if has_room {
            self.held_back.insert(guard.port(), guard);
        }
        has_room
    }

    /// Whether a port is kept for as long as the socket lives.
    pub fn holds_back(&self, port: u16) -> bool {
        self.held_back.contains_key(&port)
    }

    /// Whether ports are kept for what the kernel sends by itself.
    pub(super) fn keeps_ports(&self) -> bool {
        let points = self.anchor.as_ref().is_some_and(|anchor| anchor.guard.is_some());
        points || !self.pointed.is_empty() || !self.held_back.is_empty()
    }

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
    pub(super) fn note(
        &mut self,
        sources: &mut Sources,
        peer: SocketAddr,
        media: SocketAddrV4,
        session: Option<SessionId>,
        guard: Option<Guard>,
    ) -> Option<Peer> {
        while self.departed.front().is_some_and(|(when, _)| when.elapsed() > AFTERGLOW) {
            if let Some((_, gone)) = self.departed.pop_front() {
                self.drop_source(sources, &gone);
            }
        }
        if self.by_virtual.len() >= DESTINATIONS {
            // What has no session is found again when it is needed.
            self.by_virtual.retain(|_, p| matches!(p, Peer::Ready { session: Some(_), .. } | Peer::Pending(_)));
        }
        self.hear(sources, media, peer);
        let before = self.by_virtual.insert(peer, Peer::Ready { physical: media, session, _guard: guard });
        if let Some(Peer::Ready { session: Some(old), physical, .. }) = &before
            && Some(*old) != session
        {
            self.replaced.push((*old, *physical));
        }
        if let Some((physical, other, _)) = self.crossed.remove(&peer) {
            self.replaced.push((other, physical));
        }
        before
    }

    /// `source` may send to this socket, which knows it as `name`.
    pub(super) fn hear(&mut self, sources: &mut Sources, source: SocketAddrV4, name: SocketAddr) {
        self.departed.retain(|(_, gone)| *gone != source);
        let before = self.by_physical.insert(source, name);
        sources.note(source, name, before.is_none());
    }

    /// What comes from there is nobody's any more.
    pub(super) fn drop_source(&mut self, sources: &mut Sources, source: &SocketAddrV4) {
        if self.by_physical.remove(source).is_some() {
            sources.forget(source);
        }
    }

    /// How the program knows this source, if it may send to this socket.
    pub fn name_of(&self, source: &SocketAddrV4) -> Option<&SocketAddr> {
        self.by_physical.get(source)
    }

    /// Forgets who is of this run, but those that send here by themselves: `stays` says of a source whether it does.
    pub(super) fn forget_own(&mut self, sources: &mut Sources, stays: impl Fn(&SocketAddrV4) -> bool) {
        self.by_virtual.retain(|_, peer| !matches!(peer, Peer::Ready { session: None, .. }));
        self.by_virtual.shrink_to_fit();
        let of_sessions = self.by_virtual.values().filter_map(|peer| match peer {
            Peer::Ready { physical, .. } => Some(*physical),
            _ => None,
        });
        let of_sessions = of_sessions.chain(self.crossed.values().map(|(at, ..)| *at));
        let former = self.replaced.iter().map(|(_, at)| *at).chain(self.departed.iter().map(|(_, at)| *at));
        let known: HashSet<_> = of_sessions.chain(former).collect();
        let anchor = self.anchor.as_ref().map(|anchor| anchor.physical);
        let is_known = |source: &SocketAddrV4| known.contains(source) || anchor == Some(*source) || stays(source);
        self.by_physical.retain(|source, _| {
            let is_known = is_known(source);
            if !is_known {
                sources.forget(source);
            }
            is_known
        });
        self.by_physical.shrink_to_fit();
    }

    /// How the program knows whom it sends to there.
    pub(super) fn name_at(&self, physical: &SocketAddrV4) -> Option<SocketAddr> {
        let is_there = self.anchor.as_ref().is_some_and(|anchor| anchor.physical == *physical);
        if is_there { self.connected } else { self.by_physical.get(physical).copied() }
    }

    /// Nobody is at `physical` any more. (A connected socket is the kernel's to keep or to refuse.)
    pub(super) fn forget(&mut self, physical: &SocketAddrV4) {
        if let Some(peer) = self.by_physical.get(physical)
            && matches!(self.by_virtual.get(peer), Some(Peer::Ready { physical: p, session: None, .. }) if p == physical)
        {
            self.by_virtual.remove(peer);
            self.departed.push_back((Instant::now(), *physical));
        }
    }

    /// How the connection of the socket came about, if it is this session that it is connected by.
    pub(super) fn led_by(&self, session: SessionId) -> Option<Arc<Waiting>> {
        let anchor = self.anchor.as_ref()?;
        let is_it = |p: &Peer| matches!(p, Peer::Ready { physical, session: Some(s), .. } if *s == session && *physical == anchor.physical);
        self.by_virtual.values().any(is_it).then(|| anchor.led.clone())?
    }

    /// The peer ended this session: the next datagram to it asks for a new one.
    pub(super) fn depart(&mut self, session: SessionId) {
        let departed = &mut self.departed;
        let by_virtual = &self.by_virtual;
        let is_used = |at: &SocketAddrV4| {
            by_virtual.values().any(|p| matches!(p, Peer::Ready { physical, .. } if physical == at))
        };
        self.replaced.retain(|(ended, physical)| {
            if *ended == session && !is_used(physical) {
                departed.push_back((Instant::now(), *physical));
            }
            *ended != session
        });
        self.crossed.retain(|_, (physical, ended, _)| {
            if *ended == session {
                departed.push_back((Instant::now(), *physical));
            }
            *ended != session
        });
        self.by_virtual.retain(|_, p| match p {
            Peer::Ready { physical, session: Some(held), .. } if *held == session => {
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
        /// Keeps the port of it from others; None where the supervisor itself is.
        _guard: Option<Guard>,
    },
    /// Setting it up failed at this instant; datagrams are dropped as a network would, until it is tried again.
    Failed(Instant),
}
