//! The first datagrams of connected UDP sockets: the program's sends are not trapped, so each such socket points to the stub until the session
//! that the first of them asks for stands.

use std::collections::{HashMap, VecDeque};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{getsockopt, setsockopt, sockopt};
use parking_lot::{Mutex, MutexGuard};
use sandbox::message::{self, Destination};
use sandbox::sock;
use sipcore::agent::{Label, Proto};
use tokio::io::Interest;
use tokio::net::UdpSocket;

use crate::datagram::{Holder, RETRY_AFTER, has_room, note_peer, own_port, physical, trace_flow};
use crate::guard::{Guard, Guards};
use crate::held_back::keep_of_corked;
use crate::sessions::{Callee, Failure, Flow};
use crate::supervisor::{Supervisor, Unsent};
use crate::table::{Anchor, Cookie, Standing};

/// Where the datagrams of connected sockets come out that have no session yet.
pub struct Stub {
    ip: Ipv4Addr,
    /// Sockets of the program with one address are connected to one spot each: what comes out of it is then of one socket.
    spots: Mutex<Vec<Arc<Spot>>>,
    /// By the spot that the socket is connected to, and its address.
    waiting: Mutex<HashMap<(SocketAddrV4, SocketAddrV4), Arc<Waiting>>>,
    supervisor: OnceLock<Weak<Supervisor>>,
    /// One socket at a time is given a spot.
    placing: Mutex<()>,
    /// One socket at a time is looked for and had here: a duplicate of it keeps its address from what is to stand in for it.
    turning: tokio::sync::Mutex<()>,
}

/// A socket that sockets of the program are connected to.
struct Spot {
    address: SocketAddrV4,
    socket: UdpSocket,
    _guard: Guard,
}

impl Spot {
    /// At `ip`, in the runtime that is entered.
    fn new(ip: Ipv4Addr, guards: &Guards) -> std::io::Result<Spot> {
        let socket = || {
            let socket = std::net::UdpSocket::bind((ip, 0))?;
            let port = socket.local_addr()?.port();
            Ok((socket, port))
        };
        let (socket, guard) = guards.place(Proto::Udp, socket)?;
        socket.set_nonblocking(true)?;
        let SocketAddr::V4(address) = socket.local_addr()? else { return Err(Errno::EAFNOSUPPORT.into()) };
        Ok(Spot { address, socket: UdpSocket::from_std(socket)?, _guard: guard })
    }
}

/// A place that a socket of the program may be connected to; nobody else is given one meanwhile.
pub struct Place<'a> {
    pub address: SocketAddrV4,
    _one: MutexGuard<'a, ()>,
}

/// A connected socket whose session does not stand yet.
pub struct Waiting {
    spot: SocketAddrV4,
    holder: Holder,
    callee: Arc<Callee>,
    peer: SocketAddr,
    /// Nothing was sent yet: None. A session is being set up: what it is to carry.
    queue: Mutex<Option<VecDeque<Vec<u8>>>>,
    /// The session was asked for by what was sent with the address, before the socket was connected.
    asked: bool,
}

impl Stub {
    /// At `ip`, in the runtime that is entered. Fails when no port is left there.
    pub fn new(ip: Ipv4Addr, guards: &Guards) -> std::io::Result<Stub> {
        Ok(Stub {
            ip,
            spots: Mutex::new(vec![Arc::new(Spot::new(ip, guards)?)]),
            waiting: Mutex::default(),
            supervisor: OnceLock::new(),
            placing: Mutex::default(),
            turning: tokio::sync::Mutex::default(),
        })
    }

    /// Where the socket at `source` is to be connected to: where no other one with this address waits.
    ///
    /// # Errors
    /// EADDRINUSE: too many sockets with this address wait. ENOBUFS: no socket is left for one more.
    pub fn place(
        &self,
        supervisor: &Arc<Supervisor>,
        source: &SocketAddrV4,
        cookie: Cookie,
    ) -> Result<Place<'_>, Errno> {
        let one = self.placing.lock();
        let is_free = |spot: &SocketAddrV4| {
            self.waiting.lock().get(&(*spot, *source)).is_none_or(|waiting| waiting.holder.cookie() == cookie)
        };
        let known: Vec<_> = self.spots.lock().iter().map(|spot| spot.address).collect();
        if let Some(address) = known.iter().copied().find(is_free) {
            return Ok(Place { address, _one: one });
        }
        if known.len() >= SPOTS {
            return Err(Errno::EADDRINUSE);
        }
        let _inside = supervisor.runtime.enter();
        let spot = Arc::new(Spot::new(self.ip, &supervisor.guards).map_err(|error| {
            tracing::warn!(%error, "no socket for one more of the program's with the same address");
            Errno::ENOBUFS
        })?);
        let address = spot.address;
        self.spots.lock().push(spot.clone());
        supervisor.runtime.spawn(listen(supervisor.clone(), spot));
        Ok(Place { address, _one: one })
    }

    /// Where this socket of the program waits, and how.
    fn find(&self, source: &SocketAddrV4, cookie: Cookie) -> Option<Arc<Waiting>> {
        let known = self.waiting.lock();
        let at =
            |spot: &Arc<Spot>| known.get(&(spot.address, *source)).filter(|w| w.holder.cookie() == cookie).cloned();
        self.spots.lock().iter().find_map(at)
    }

    /// The socket at `source` is connected to `place`, which is to lead to `peer`. Where its session stands already, when what was sent
    /// there before, with the address, had asked for it: then it has to be turned there.
    pub fn expect(
        &self,
        supervisor: &Supervisor,
        place: Place<'_>,
        source: SocketAddrV4,
        holder: Holder,
        (callee, peer): (Arc<Callee>, SocketAddr),
    ) -> Option<(SocketAddrV4, Arc<Waiting>)> {
        let mut known = self.waiting.lock();
        let standing = supervisor.table.lock().standing(holder.cookie(), &sock::canonical(peer));
        let asked = matches!(standing, Standing::Opening);
        let queue = Mutex::new(asked.then(VecDeque::new));
        let waiting = Arc::new(Waiting { spot: place.address, holder, callee, peer, queue, asked });
        if let Standing::Ready(physical) = standing {
            return Some((physical, waiting));
        }
        known.insert((place.address, source), waiting);
        None
    }

    /// The socket at `source`, if it has been connected to `peer` while a session was set up for what it had sent there; else `act`
    /// is done, and it cannot be connected meanwhile.
    pub fn connected_meanwhile(
        &self,
        source: &SocketAddrV4,
        cookie: Cookie,
        peer: &SocketAddr,
        act: impl FnOnce(),
    ) -> Option<Arc<Waiting>> {
        let known = self.waiting.lock();
        let spots: Vec<_> = self.spots.lock().iter().map(|spot| spot.address).collect();
        let waiting = spots.into_iter().filter_map(|spot| known.get(&(spot, *source))).find(|waiting| {
            waiting.asked
                && waiting.holder.cookie() == cookie
                && sock::canonical(waiting.peer) == sock::canonical(*peer)
        });
        match waiting {
            Some(waiting) => Some(waiting.clone()),
            None => {
                act();
                None
            }
        }
    }

    /// The program closed the socket at `source`, or connects it elsewhere. What it has sent before goes on its way all the same.
    pub fn forget(&self, supervisor: &Supervisor, source: &SocketAddrV4, cookie: Cookie) {
        if self.find(source, cookie).is_none() {
            return;
        }
        self.drain();
        // After what was sent has been taken: the first of it asks for a session, and changes nothing here.
        let mut known = self.waiting.lock();
        known.retain(|(_, at), waiting| {
            let goes = at == source && waiting.holder.cookie() == cookie;
            if goes && waiting.asked {
                supervisor.table.lock().add_pending(cookie, &sock::canonical(waiting.peer), waiting.take_queue());
            }
            !goes
        });
    }

    /// Does this unless the program has closed the socket or connected it elsewhere, and while it cannot. Whether it was done.
    fn if_still(&self, source: &SocketAddrV4, waiting: &Arc<Waiting>, act: impl FnOnce()) -> bool {
        let known = self.waiting.lock();
        let still = known.get(&(waiting.spot, *source)).is_some_and(|now| Arc::ptr_eq(now, waiting));
        if still {
            act();
        }
        still
    }

    fn remove(&self, source: &SocketAddrV4, waiting: &Arc<Waiting>) {
        let mut known = self.waiting.lock();
        let at = (waiting.spot, *source);
        if known.get(&at).is_some_and(|now| Arc::ptr_eq(now, waiting)) {
            known.remove(&at);
        }
    }

    /// Takes what was sent until now: it came out here as it was sent, only the task that takes it may not have been woken.
    pub fn drain(&self) {
        if let Some(supervisor) = self.supervisor.get().and_then(Weak::upgrade) {
            let spots = self.spots.lock().clone();
            let mut buffer = vec![0; LARGEST];
            spots.iter().for_each(|spot| self.take(&supervisor, spot, &mut buffer));
        }
    }

    /// Takes what has come out, by the kernel's word on it. The first datagram of a socket asks for its session.
    fn take(&self, supervisor: &Arc<Supervisor>, spot: &Spot, buffer: &mut [u8]) {
        loop {
            // Held before the datagram is taken: at no time is it nowhere.
            let unsent = supervisor.unsent.clone();
            let (length, source) = match message::receive_from(spot.socket.as_fd(), buffer, libc::MSG_DONTWAIT) {
                Ok((length, Some(SocketAddr::V4(source)))) => (length, source),
                Err(_) => return,
                Ok(_) => continue,
            };
            let Some(waiting) = self.waiting.lock().get(&(spot.address, source)).cloned() else { continue };
            let mut queue = waiting.queue.lock();
            match &mut *queue {
                Some(queue) => {
                    if has_room(queue) {
                        queue.push_back(buffer[..length].to_vec());
                    }
                }
                None => {
                    *queue = Some(VecDeque::from([buffer[..length].to_vec()]));
                    drop(queue);
                    supervisor.runtime.spawn(open(supervisor.clone(), source, waiting, unsent));
                }
            }
        }
    }
}

/// The largest datagram.
const LARGEST: usize = 65536;

/// Spots of one stub.
const SPOTS: usize = 64;
/// After the peer of a connected socket has ended the session, what the socket sends comes back refused for this long, as natively
/// while a server starts again. What the peer sent last arrives meanwhile.
pub const PARTING: Duration = Duration::from_millis(100);

/// Serves the stub until the run ends.
pub fn serve(supervisor: &Arc<Supervisor>) {
    let stub = &supervisor.stub;
    stub.supervisor.get_or_init(|| Arc::downgrade(supervisor));
    for spot in stub.spots.lock().iter() {
        supervisor.runtime.spawn(listen(supervisor.clone(), spot.clone()));
    }
}

async fn listen(supervisor: Arc<Supervisor>, spot: Arc<Spot>) {
    let mut buffer = vec![0; LARGEST];
    while spot.socket.readable().await.is_ok() {
        let _: std::io::Result<()> = spot.socket.try_io(Interest::READABLE, || {
            supervisor.stub.take(&supervisor, &spot, &mut buffer);
            Err(std::io::ErrorKind::WouldBlock.into())
        });
    }
}

/// The peer has ended the session of a connected socket: what it sends from now on asks for another one.
pub async fn left_by_its_peer(supervisor: Arc<Supervisor>, waiting: Arc<Waiting>) {
    let mut pause = PARTING;
    loop {
        tokio::time::sleep(pause).await;
        match lead_back(&supervisor, &waiting) {
            Ok(()) => return,
            // No place is free: as long as a peer that refuses is left alone.
            Err(_) => pause = RETRY_AFTER,
        }
    }
}

/// Connects a socket whose session has ended to a place of the stub again, unless the program has done something else with it.
///
/// # Errors
/// As [`Stub::place`].
fn lead_back(supervisor: &Arc<Supervisor>, waiting: &Arc<Waiting>) -> Result<(), Errno> {
    let cookie = waiting.holder.cookie();
    let bound = supervisor.table.lock().get(cookie).and_then(|s| Some((s.v6, s.bound?)));
    let (Some((v6, bound)), Some(socket)) = (bound, waiting.holder.find()) else { return Ok(()) };
    let source = bound.physical;
    let place = supervisor.stub.place(supervisor, &source, cookie);
    let place = place.inspect_err(|_| say_too_many(supervisor, &bound.virtual_))?;
    let mut known = supervisor.stub.waiting.lock();
    let mut table = supervisor.table.lock();
    let points_there = |d: &crate::table::Datagram| {
        let led = d.anchor.as_ref().and_then(|anchor| anchor.led.as_ref());
        d.connected.is_some() && led.is_some_and(|led| Arc::ptr_eq(led, waiting))
    };
    if !table.get(cookie).and_then(|s| s.datagram.as_deref()).is_some_and(points_there) {
        return Ok(());
    }
    let anchor = Anchor { physical: place.address, guard: None, led: None };
    known.insert((place.address, source), Arc::new(waiting.at(place.address)));
    // Not connected any more: nothing is sent to where the peer was.
    let before = table.set_anchor(cookie, Some(anchor));
    if let Err(error) = sock::connect_nowait(socket.as_fd(), &physical(v6, place.address)) {
        tracing::warn!(%error, peer = %waiting.peer, "a socket whose session has ended stays without one");
        table.set_anchor(cookie, before);
    }
    Ok(())
}

/// No place is left for one more socket with this address.
pub fn say_too_many(supervisor: &Supervisor, address: &SocketAddr) {
    supervisor.sessions.say_once(&format!("many:{address}"), || {
        format!(
            "more sockets of the program with the address udp/{address} than can be told apart are connected to peers at once; the \
             program can try again when some of them have their sessions, or bind another port"
        )
    });
}

/// Sets up the session of a connected socket and turns the socket to it.
async fn open(supervisor: Arc<Supervisor>, source: SocketAddrV4, waiting: Arc<Waiting>, _unsent: Unsent) {
    let peer = waiting.peer;
    let label = Label { proto: Proto::Udp, port: peer.port() };
    let local = supervisor.local_for(&peer, own_port(&supervisor, waiting.holder.cookie()).unwrap_or(source.port()));
    let opened = supervisor.sessions.open(&waiting.callee, label, source, local).await;
    settle(&supervisor, source, &waiting, opened, None).await;
}

/// Turns a connected socket to its session, or tells it that there is none. `held`: a duplicate of it, for when the program has
/// closed its own.
pub async fn settle(
    supervisor: &Arc<Supervisor>,
    source: SocketAddrV4,
    waiting: &Arc<Waiting>,
    opened: Result<Flow, Failure>,
    held: Option<OwnedFd>,
) {
    let peer = waiting.peer;
    let _one = supervisor.stub.turning.lock().await;
    let socket = held.or_else(|| waiting.holder.find());
    let v6 = supervisor.table.lock().get(waiting.holder.cookie()).is_some_and(|s| s.v6);
    let guarded = opened.and_then(|flow| match [(); 2].map(|()| supervisor.guard(Proto::Udp, flow.media)) {
        [Ok(one), Ok(other)] => Ok((flow, one, other)),
        _ => {
            supervisor.sessions.close(flow.session);
            Err(Failure { errno: Errno::ECONNREFUSED })
        }
    });
    let (flow, guard, anchor) = match guarded {
        Ok(guarded) => guarded,
        Err(_) => return waiting.refuse(supervisor, source, v6, socket),
    };
    trace_flow(supervisor, &peer, &waiting.callee.uri, flow.kind);
    let stub = &supervisor.stub;
    let turned = socket.as_ref().is_some_and(|socket| {
        // Turned to the peer before anything is sent: the answer must find the socket connected.
        let turn = || {
            let anchor = Anchor { physical: flow.media, guard: anchor, led: Some(waiting.clone()) };
            supervisor.table.lock().set_anchor(waiting.holder.cookie(), Some(anchor));
            if let Err(error) = sock::connect_nowait(socket.as_fd(), &physical(v6, flow.media)) {
                tracing::warn!(%error, %peer, "connect to the media address failed");
            }
            note_peer(supervisor, waiting.holder.cookie(), peer, flow.media, Some(flow.session), guard);
        };
        stub.if_still(&source, waiting, turn)
    });
    if turned {
        // What was on its way here while the socket was being turned.
        stub.drain();
        stub.remove(&source, waiting);
        return deliver(socket.as_ref(), v6, source, flow.media, &waiting.take_queue()).await;
    }
    // The program has closed the socket, or connected it elsewhere; then it may still have its port.
    let has_port = |fd: &OwnedFd| sock::local_addr(fd.as_fd()).is_ok_and(|a| sock::canonical(a) == source.into());
    let keep = || keep_of_corked(supervisor, waiting.holder.cookie(), flow.media);
    if keep().is_ok() {
        deliver(socket.filter(has_port).as_ref(), v6, source, flow.media, &waiting.take_queue()).await;
        // It may hold back what it sends by now.
        let _ = keep();
    }
    supervisor.sessions.close(flow.session);
}

impl Waiting {
    /// No session comes about: the next send or receive says ECONNREFUSED, as it does when an ICMP message comes back. So it goes on for
    /// a while; then what the socket sends asks for a session again.
    fn refuse(self: &Arc<Self>, supervisor: &Arc<Supervisor>, source: SocketAddrV4, v6: bool, socket: Option<OwnedFd>) {
        let stub = &supervisor.stub;
        let nobody = physical(v6, supervisor.nobody.address(Proto::Udp));
        let refused = socket.is_some_and(|socket| {
            stub.if_still(&source, self, || {
                let _ = sock::connect_nowait(socket.as_fd(), &nobody);
                let _ = message::send(socket.as_fd(), &[], Destination::Connected, &[], libc::MSG_DONTWAIT);
            })
        });
        if !refused {
            return stub.remove(&source, self);
        }
        let (supervisor, waiting) = (supervisor.clone(), self.clone());
        supervisor.runtime.clone().spawn(async move {
            tokio::time::sleep(RETRY_AFTER).await;
            if !supervisor.stub.if_still(&source, &waiting, || {}) {
                return;
            }
            let Some(socket) = waiting.holder.find() else { return supervisor.stub.remove(&source, &waiting) };
            let mut known = supervisor.stub.waiting.lock();
            let at = (waiting.spot, source);
            if known.get(&at).is_some_and(|now| Arc::ptr_eq(now, &waiting)) {
                known.insert(at, Arc::new(waiting.at(waiting.spot)));
                let _ = sock::connect_nowait(socket.as_fd(), &physical(v6, waiting.spot));
            }
        });
    }

    /// The same socket, connected to a spot again; nothing is asked for yet.
    fn at(&self, spot: SocketAddrV4) -> Waiting {
        let Waiting { holder, callee, peer, .. } = self;
        Waiting { spot, holder: *holder, callee: callee.clone(), peer: *peer, queue: Mutex::default(), asked: false }
    }

    /// What was sent before all that waits.
    pub fn put_first(&self, mut first: VecDeque<Vec<u8>>) {
        let mut queue = self.queue.lock();
        first.extend(queue.take().unwrap_or_default());
        *queue = Some(first);
    }

    fn take_queue(&self) -> VecDeque<Vec<u8>> {
        self.queue.lock().take().unwrap_or_default()
    }
}

/// Sends what waited for a session to its flow at `media`: from the program's socket, which is at `source`, or from a socket that stands in for
/// it, if it is closed or shut down by now.
pub async fn deliver(
    socket: Option<&OwnedFd>,
    v6: bool,
    source: SocketAddrV4,
    media: SocketAddrV4,
    queue: &VecDeque<Vec<u8>>,
) {
    let mut stand_in = None;
    for data in queue {
        if let Some(socket) = socket.filter(|_| stand_in.is_none()) {
            let to = Destination::Inet(physical(v6, media));
            match message::send(socket.as_fd(), data, to, &[], libc::MSG_DONTWAIT) {
                Err(Errno::EPIPE) => {}
                _ => continue,
            }
        }
        if stand_in.is_none() {
            match beside_soon(socket, source).await {
                Ok(made) => stand_in = Some(made),
                Err(error) => return tracing::debug!(%error, "datagrams of a socket that is gone are lost"),
            }
        }
        if let Some(stand_in) = &stand_in {
            let _ = stand_in.send_to(data, media);
        }
    }
}

/// As [`beside`]. A process that ends has no descriptors any more, and its sockets are closed only then: that takes a moment.
async fn beside_soon(socket: Option<&OwnedFd>, source: SocketAddrV4) -> std::io::Result<std::net::UdpSocket> {
    const PATIENCE: Duration = Duration::from_secs(1);
    const STEP: Duration = Duration::from_millis(1);
    let end = Instant::now() + PATIENCE;
    loop {
        match beside(socket, source) {
            Err(e) if e.kind() == std::io::ErrorKind::AddrInUse && Instant::now() < end => {
                tokio::time::sleep(STEP).await
            }
            made => return made,
        }
    }
}

/// A socket at the address of the program's, which lends its address if it is still there.
fn beside(socket: Option<&OwnedFd>, source: SocketAddrV4) -> std::io::Result<std::net::UdpSocket> {
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrIn, bind, socket as new_socket};
    let made =
        new_socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK, None)?;
    setsockopt(&made, sockopt::ReuseAddr, &true)?;
    let own = socket.map(|fd| getsockopt(fd, sockopt::ReuseAddr).map(|own| (fd, own))).transpose()?;
    if let Some((fd, false)) = own {
        setsockopt(fd, sockopt::ReuseAddr, &true)?;
    }
    let bound = bind(std::os::fd::AsRawFd::as_raw_fd(&made), &SockaddrIn::from(source));
    if let Some((fd, false)) = own {
        setsockopt(fd, sockopt::ReuseAddr, &false)?;
    }
    bound?;
    Ok(made.into())
}
