//! UDP in a network of the program's own: every peer of a socket has a socket at its own address there, connected to the program's; what comes
//! out of it is carried to the flow of a session, and what comes from there goes in.

use std::collections::HashMap;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::libc;
use nix::poll::PollFlags;
use nix::sys::socket::{MsgFlags, recv, setsockopt, sockopt};
use sandbox::memory::Address;
use sandbox::message::{self, Destination};
use sandbox::netns::Net;
use sandbox::ready::readable;
use sandbox::sock;
use sipcore::agent::{Label, Proto, SessionId};
use tokio::io::unix::{AsyncFd, AsyncFdReadyGuard};
use tokio::sync::watch;

use super::{Network, Where, own_address, proto_of, v6only};
use crate::call::{Call, Target, errno};
use crate::connect::{destination, loopback_for_any};
use crate::datagram::{Holder, RETRY_AFTER};
use crate::inbound::Endpoint;
use crate::sessions::Callee;
use crate::stub::PARTING;
use crate::supervisor::{Supervisor, Unsent};
use crate::table::Cookie;

/// Peers of all sockets at once.
const FLOWS: usize = 8192;
/// Datagrams that are carried before others are looked after.
const BATCH: usize = 64;
/// The largest datagram, and room for a batch, where another one of that size always fits before it is full.
const LARGEST: usize = 65536;
const ROOM: usize = 2 * LARGEST;

/// The peers of one socket of the program, by the address that it uses.
#[derive(Default)]
pub struct Peers(HashMap<SocketAddr, Peer>);

enum Peer {
    Flow(Arc<Flow>),
    /// Setting it up failed at this instant; datagrams are dropped as a network would, until it is tried again.
    Failed(Instant),
}

impl Peers {
    pub fn into_flows(self) -> impl Iterator<Item = Arc<Flow>> {
        self.0.into_values().filter_map(|peer| match peer {
            Peer::Flow(flow) => Some(flow),
            Peer::Failed(_) => None,
        })
    }
}

/// What is carried between one socket of the program and one peer.
pub struct Flow {
    /// The program's socket: one with the same port may take the flow over, when it is connected to the peer.
    cookie: AtomicU64,
    /// The socket was connected to the peer: what it sends is not trapped.
    connected: AtomicBool,
    peer: SocketAddr,
    /// The program's end: the kernel takes a port back that it chose itself, when an association ends (connect with AF_UNSPEC).
    program: SocketAddr,
    ending: watch::Sender<bool>,
    /// Bytes from the program, and to it.
    moved: [AtomicU64; 2],
}

impl Flow {
    fn new(cookie: Cookie, peer: SocketAddr, program: SocketAddr) -> Arc<Flow> {
        Arc::new(Flow {
            cookie: AtomicU64::new(cookie),
            connected: AtomicBool::new(false),
            peer,
            program,
            ending: watch::Sender::new(false),
            moved: Default::default(),
        })
    }

    /// One end is closed: what is under way is delivered, then the flow ends.
    pub fn end(&self) {
        self.ending.send_replace(true);
    }

    /// Of the program's socket: its own and the peer's.
    pub fn ends(&self) -> (SocketAddr, SocketAddr) {
        (sock::canonical(self.program), sock::canonical(self.peer))
    }

    /// Bytes of datagrams: sent by the program, and received for it.
    pub fn moved(&self) -> (u64, u64) {
        let [sent, received] = &self.moved;
        (sent.load(Relaxed), received.load(Relaxed))
    }

    /// As [`Flow::end`], and the program's socket has no use for another one.
    pub fn abandon(&self) {
        self.connected.store(false, Relaxed);
        self.end();
    }
}

/// The place of a peer, connected to the program's socket.
fn place(network: &Network, net: Net, peer: SocketAddr, program: SocketAddr) -> Result<OwnedFd, Errno> {
    let near = network.networks.udp(net, peer.is_ipv6()).map_err(errno)?;
    // Several sockets of the program may speak to one peer: they differ in their own ends.
    setsockopt(&near, sockopt::ReuseAddr, &true)?;
    sock::bind(near.as_fd(), &peer).map_err(errno)?;
    sock::connect_nowait(near.as_fd(), &program).map_err(errno)?;
    if net == Net::Program {
        network.kept.lock().mine.insert(sock::socket_cookie(near.as_fd()).map_err(errno)?);
    }
    Ok(near)
}

/// The supervisor's end in the host's network.
fn far_socket(supervisor: &Supervisor) -> std::io::Result<(std::net::UdpSocket, std::net::SocketAddrV4)> {
    let far = std::net::UdpSocket::bind((supervisor.physical, 0))?;
    far.set_nonblocking(true)?;
    match far.local_addr()? {
        SocketAddr::V4(source) => Ok((far, source)),
        SocketAddr::V6(_) => Err(Errno::EAFNOSUPPORT.into()),
    }
}

impl Network {
    /// Whether datagrams of this socket are carried to peers: it is then one of UDP, and of the program's network.
    pub fn relays(&self, socket: Cookie) -> bool {
        self.kept.lock().datagrams.contains_key(&socket)
    }

    fn has_room(&self) -> bool {
        let mut kept = self.kept.lock();
        let all = |peers: &HashMap<Cookie, Peers>| peers.values().map(|p| p.0.len()).sum::<usize>();
        if all(&kept.datagrams) >= FLOWS {
            kept.datagrams.values_mut().for_each(|p| p.0.retain(|_, peer| matches!(peer, Peer::Flow(_))));
        }
        all(&kept.datagrams) < FLOWS
    }

    /// Puts a socket at the address of a peer, and begins the flow to it at the first datagram.
    fn admit(
        self: &Arc<Self>,
        call: &Call,
        target: &Target,
        peer: SocketAddr,
        callee: Arc<Callee>,
        net: Net,
    ) -> Result<(), Errno> {
        if !self.has_room() {
            return Err(Errno::ENOBUFS);
        }
        let supervisor = call.supervisor;
        let program = own_address(supervisor, target, peer)?;
        let near = place(self, net, peer, program)?;
        self.watch(supervisor);
        let flow = Flow::new(target.cookie, peer, program);
        self.begin(target.cookie, &flow);
        let holder = Holder::of(call, target);
        let unsent = Some(supervisor.unsent.clone());
        let leading =
            Leading { network: self.clone(), supervisor: supervisor.clone(), flow, callee, net, holder, unsent };
        supervisor.runtime.spawn(leading.run(near));
        Ok(())
    }

    fn begin(&self, cookie: Cookie, flow: &Arc<Flow>) {
        let before =
            self.kept.lock().datagrams.entry(cookie).or_default().0.insert(flow.peer, Peer::Flow(flow.clone()));
        if let Some(Peer::Flow(before)) = before {
            before.abandon();
        }
    }

    /// A socket that is connected to a peer asks anew, by what it sends then.
    fn forgive(&self, cookie: Cookie, peer: &SocketAddr) {
        if let Some(peers) = self.kept.lock().datagrams.get_mut(&cookie)
            && matches!(peers.0.get(peer), Some(Peer::Failed(_)))
        {
            peers.0.remove(peer);
        }
    }

    fn note_connected(&self, cookie: Cookie, peer: &SocketAddr) {
        if let Some(Peer::Flow(flow)) = self.kept.lock().datagrams.get(&cookie).and_then(|p| p.0.get(peer)) {
            flow.connected.store(true, Relaxed);
        }
    }

    /// A server's socket for one client is connected to a peer that calls the server's other socket with this port: the flow is
    /// its own from here on.
    fn take_over(&self, target: &Target, peer: &SocketAddr) {
        if !sock::shares_port(target.as_fd()).unwrap_or(false) {
            return;
        }
        let Ok(local) = sock::local_addr(target.as_fd()).map(sock::canonical) else { return };
        let covers = |program: &SocketAddr| {
            program.port() == local.port()
                && (program.ip() == local.ip() || program.ip().is_unspecified() || local.ip().is_unspecified())
        };
        let is_it = |peers: &Peers| match peers.0.get(peer) {
            Some(Peer::Flow(flow)) => {
                covers(&sock::canonical(flow.program)) && !*flow.ending.borrow() && !flow.connected.load(Relaxed)
            }
            _ => false,
        };
        let mut kept = self.kept.lock();
        if kept.datagrams.get(&target.cookie).is_some_and(|own| matches!(own.0.get(peer), Some(Peer::Flow(_)))) {
            return;
        }
        let Some(other) = kept.datagrams.iter_mut().find(|(cookie, peers)| **cookie != target.cookie && is_it(peers))
        else {
            return;
        };
        let Some(Peer::Flow(flow)) = other.1.0.remove(peer) else { return };
        if other.1.0.is_empty() {
            let emptied = *other.0;
            kept.datagrams.remove(&emptied);
        }
        flow.cookie.store(target.cookie, Relaxed);
        kept.datagrams.entry(target.cookie).or_default().0.insert(*peer, Peer::Flow(flow));
    }

    fn forget(&self, flow: &Flow, failed: bool) {
        let mut kept = self.kept.lock();
        let cookie = flow.cookie.load(Relaxed);
        let Some(peers) = kept.datagrams.get_mut(&cookie) else { return };
        if matches!(peers.0.get(&flow.peer), Some(Peer::Flow(f)) if std::ptr::eq(&**f, flow)) {
            peers.0.remove(&flow.peer);
            if failed && !*flow.ending.borrow() {
                peers.0.insert(flow.peer, Peer::Failed(Instant::now()));
            }
        }
        if peers.0.is_empty() {
            kept.datagrams.remove(&cookie);
        }
    }

    /// Carries until one end is gone, then ends the session.
    async fn carry(
        &self,
        supervisor: &Supervisor,
        flow: &Arc<Flow>,
        session: SessionId,
        near: AsyncFd<OwnedFd>,
        far: AsyncFd<OwnedFd>,
    ) {
        self.kept.lock().by_session.insert(session, flow.clone());
        carry(&near, &far, flow).await;
        drop(near);
        self.kept.lock().by_session.remove(&session);
        self.forget(flow, false);
        supervisor.sessions.close(session);
    }

    /// A socket of the supervisor's for a flow to come, and its address.
    pub fn far(&self, supervisor: &Supervisor) -> Result<(std::net::UdpSocket, std::net::SocketAddrV4), Errno> {
        far_socket(supervisor).map_err(errno)
    }

    /// An inbound session: its peer may send to the program's socket. `far` will be connected to `source`, the flow's end.
    pub fn receive_from(
        self: &Arc<Self>,
        supervisor: &Arc<Supervisor>,
        endpoint: Endpoint,
        far: std::net::UdpSocket,
        source: SocketAddr,
        session: SessionId,
    ) -> Result<(), Errno> {
        let Endpoint { cookie, bound, mut peer } = endpoint;
        let program = bound.virtual_;
        if !self.has_room() {
            return Err(Errno::ENOBUFS);
        }
        {
            // Two runs of one identity may use one port: each gets an address of its own here.
            let kept = self.kept.lock();
            let taken =
                |a: &SocketAddr| kept.datagrams.get(&cookie).is_some_and(|p| matches!(p.0.get(a), Some(Peer::Flow(_))));
            while taken(&peer) {
                peer.set_port(peer.port().checked_add(1).unwrap_or(1024));
            }
        }
        supervisor.former.lock().note(program.port(), sock::canonical(peer));
        let near = place(self, Net::Peers, peer, program)?;
        far.connect(source).map_err(errno)?;
        let _inside = supervisor.runtime.enter();
        let near = readable(near).map_err(errno)?;
        let far = readable(far.into()).map_err(errno)?;
        self.watch(supervisor);
        let flow = Flow::new(cookie, peer, program);
        self.kept.lock().datagrams.entry(cookie).or_default().0.insert(peer, Peer::Flow(flow.clone()));
        let (network, supervisor) = (self.clone(), supervisor.clone());
        supervisor.runtime.clone().spawn(async move {
            network.carry(&supervisor, &flow, session, near, far).await;
        });
        Ok(())
    }
}

/// A flow that the program begins.
struct Leading {
    network: Arc<Network>,
    supervisor: Arc<Supervisor>,
    flow: Arc<Flow>,
    callee: Arc<Callee>,
    net: Net,
    holder: Holder,
    unsent: Option<Unsent>,
}

impl Leading {
    /// Until the program's socket is gone, or is not connected to the peer: then it is asked at each datagram.
    async fn run(mut self, mut near: OwnedFd) {
        while let Some(pause) = self.lead(near).await {
            if !self.flow.connected.load(Relaxed) {
                return;
            }
            self.unsent = None;
            tokio::time::sleep(pause).await;
            match self.again() {
                Some(placed) => near = placed,
                None => return,
            }
        }
    }

    /// The place of the peer once more, if the program's socket is still connected there.
    fn again(&mut self) -> Option<OwnedFd> {
        let socket = self.holder.find()?;
        let at = |address: std::io::Result<SocketAddr>| address.ok().map(sock::canonical);
        let is_there = at(sock::peer_addr(socket.as_fd())) == Some(self.flow.peer)
            && sock::local_addr(socket.as_fd()).is_ok_and(|local| local.port() == self.flow.program.port());
        if !is_there || !self.network.has_room() {
            return None;
        }
        let near = place(&self.network, self.net, self.flow.peer, self.flow.program).ok()?;
        let flow = Flow::new(self.holder.cookie(), self.flow.peer, self.flow.program);
        flow.connected.store(true, Relaxed);
        let mut kept = self.network.kept.lock();
        let peers = kept.datagrams.entry(self.holder.cookie()).or_default();
        if matches!(peers.0.get(&flow.peer), Some(Peer::Flow(_))) {
            return None;
        }
        peers.0.insert(flow.peer, Peer::Flow(flow.clone()));
        drop(kept);
        self.flow = flow;
        self.unsent = Some(self.supervisor.unsent.clone());
        Some(near)
    }

    /// One session. How long what a connected socket sends is refused, until it asks for another one. None: its end is that of the
    /// program's socket.
    async fn lead(&self, near: OwnedFd) -> Option<Duration> {
        let Ok(near) = readable(near) else {
            self.network.forget(&self.flow, true);
            return Some(RETRY_AFTER);
        };
        let mut ending = self.flow.ending.subscribe();
        // A socket that is merely connected has asked for nothing yet.
        tokio::select! {
            biased;
            _ = near.readable() => {}
            _ = ending.wait_for(|e| *e) => {
                // The runtime may not know yet what the program sent before it closed: the kernel is asked.
                if !sock::is_ready(near.get_ref().as_fd(), PollFlags::POLLIN) {
                    self.network.forget(&self.flow, false);
                    return None;
                }
            }
        }
        let opened = match far_socket(&self.supervisor) {
            Ok((far, source)) => {
                let label = Label { proto: Proto::Udp, port: self.flow.peer.port() };
                let opened = self.supervisor.sessions.open(&self.callee, label, source, self.flow.program).await;
                opened.ok().map(|flow| (far, flow))
            }
            Err(error) => {
                tracing::warn!(%error, "no socket for a flow");
                None
            }
        };
        let Some((far, opened)) = opened else {
            drop(near);
            self.network.forget(&self.flow, true);
            // The next send or receive says ECONNREFUSED, as it does when an ICMP message comes back: nobody is there any more.
            // Unless the program has connected it elsewhere meanwhile.
            if let Some(socket) = self.holder.find()
                && sock::peer_addr(socket.as_fd()).is_ok_and(|peer| sock::canonical(peer) == self.flow.peer)
            {
                let _ = message::send(socket.as_fd(), &[], Destination::Connected, &[], libc::MSG_DONTWAIT);
            }
            return Some(RETRY_AFTER);
        };
        if self.supervisor.options.trace {
            crate::say::say!("datagrams to {} go to {}, relayed {}", self.flow.peer, self.callee.uri, opened.kind);
        }
        let far = far.connect(opened.media).and_then(|()| readable(far.into()));
        match far {
            Ok(far) => {
                let session = opened.session;
                drop(opened);
                self.network.carry(&self.supervisor, &self.flow, session, near, far).await;
                Some(PARTING)
            }
            Err(error) => {
                tracing::warn!(%error, "a flow could not be joined");
                self.network.forget(&self.flow, true);
                self.supervisor.sessions.close(opened.session);
                Some(RETRY_AFTER)
            }
        }
    }
}

/// Moves what waits in one socket to the other, at most a batch. What does not fit is lost, as a network would lose it. EAGAIN when there is
/// nothing more; other errors are those of the socket that is read from.
fn shift(from: &OwnedFd, to: &OwnedFd, room: &mut [u8], moved: &AtomicU64) -> Result<(), Errno> {
    let mut lengths = [0; BATCH];
    let (mut count, mut filled) = (0, 0);
    let ended = loop {
        if count == BATCH || filled > ROOM - LARGEST {
            break Ok(());
        }
        match recv(from.as_raw_fd(), &mut room[filled..filled + LARGEST], MsgFlags::MSG_DONTWAIT) {
            Ok(length) => {
                lengths[count] = length;
                count += 1;
                filled += length;
            }
            Err(e) => break Err(e),
        }
    };
    moved.fetch_add(filled as u64, Relaxed);
    message::send_run(to.as_fd(), &room[..filled], &lengths[..count]);
    ended
}

/// As [`shift`], for what somebody waited for. True when the socket says that nobody is at its other end.
fn shift_ready(
    ready: std::io::Result<AsyncFdReadyGuard<'_, OwnedFd>>,
    to: &AsyncFd<OwnedFd>,
    room: &mut [u8],
    moved: &AtomicU64,
) -> bool {
    // An error is that of a runtime which ends.
    let Ok(mut ready) = ready else { return true };
    let shifted = ready.try_io(|from| shift(from.get_ref(), to.get_ref(), room, moved).map_err(std::io::Error::from));
    matches!(shifted, Ok(Err(e)) if e.kind() == std::io::ErrorKind::ConnectionRefused)
}

/// Carries both ways. Ends when the far end is gone, or when told, and then all that waits has been moved.
async fn carry(near: &AsyncFd<OwnedFd>, far: &AsyncFd<OwnedFd>, flow: &Flow) {
    let (mut ending, [sent, received]) = (flow.ending.subscribe(), &flow.moved);
    let mut room = vec![0; ROOM];
    loop {
        tokio::select! {
            biased;
            ready = near.readable() => drop(shift_ready(ready, far, &mut room, sent)),
            ready = far.readable() => {
                if shift_ready(ready, near, &mut room, received) {
                    return;
                }
            }
            _ = ending.wait_for(|e| *e) => break,
        }
        tokio::task::consume_budget().await;
    }
    while shift(near.get_ref(), far.get_ref(), &mut room, sent).is_ok() {}
    while shift(far.get_ref(), near.get_ref(), &mut room, received).is_ok() {}
}

/// connect(2): nothing is sent, so no session is asked for yet.
pub fn connect(network: &Arc<Network>, mut call: Call, target: Target, address: &Address) {
    let result = connect_now(network, &mut call, &target, address);
    call.supervisor.published.note();
    drop(target);
    call.finish(result.map(|()| 0));
}

fn connect_now(network: &Arc<Network>, call: &mut Call, target: &Target, address: &Address) -> Result<(), Errno> {
    if matches!(address, Address::Unspecified(_)) {
        return sock::disconnect(target.as_fd()).map_err(errno);
    }
    let (v6, only) = (v6only(target).is_some(), v6only(target) == Some(true));
    let to = match address {
        // An AF_INET address on an AF_INET6 socket is taken as its v4-mapped form (__ip6_datagram_connect).
        Address::Inet(a) if v6 && a.is_ipv4() && !only => Supervisor::seen_by(v6, loopback_for_any(*a)),
        other => destination(other, v6, only)?,
    };
    let peer = sock::canonical(to);
    network.take_over(target, &peer);
    network.forgive(target.cookie, &peer);
    lead(network, call, target, peer)?;
    network.note_connected(target.cookie, &peer);
    sock::connect_nowait(target.as_fd(), &to).map(drop).map_err(errno)
}

/// Makes sure that what is sent to `to` meets its peer, if it has one. False: nobody is there, and what is sent is lost.
fn lead(network: &Arc<Network>, call: &mut Call, target: &Target, to: SocketAddr) -> Result<bool, Errno> {
    let port = || sock::local_addr(target.as_fd()).map(|a| a.port());
    match network.kept.lock().datagrams.get(&target.cookie).and_then(|p| p.0.get(&to)) {
        Some(Peer::Flow(flow)) if port().is_ok_and(|port| port != flow.program.port()) => flow.abandon(),
        Some(Peer::Flow(flow)) if !*flow.ending.borrow() => return Ok(true),
        Some(Peer::Failed(when)) if when.elapsed() < RETRY_AFTER => return Ok(false),
        _ => {}
    }
    let strange = match to {
        SocketAddr::V4(a) => *a.ip() == Ipv4Addr::BROADCAST || a.ip().is_multicast(),
        SocketAddr::V6(a) => {
            a.ip().is_multicast() || a.ip().is_unicast_link_local() || *a.ip() == Ipv6Addr::UNSPECIFIED
        }
    };
    if to.port() == 0 || (strange && to.is_ipv6()) {
        return Ok(true);
    }
    match network.way(call, Proto::Udp, port().ok().filter(|port| *port != 0), to) {
        Where::There => Ok(true),
        // To connect a datagram socket sends nothing, and is how programs find their own address.
        Where::Refused(Errno::EACCES | Errno::ECONNREFUSED) if call.n.call == libc::SYS_connect => Ok(false),
        Where::Refused(e) => Err(e),
        // Where the kernel needs SO_BROADCAST it says so.
        Where::Peer(..) if strange => Ok(true),
        Where::Peer(callee, net) => network.admit(call, target, to, callee, net).map(|()| true),
    }
}

/// RTM_GETNSID may name a network namespace by a descriptor of the sender's (NETNSA_FD, rtnetlink(7)): the kernel looks it up among the
/// supervisor's here, so it is put there for the length of the call.
fn own_descriptor(call: &Call, request: &mut [u8]) -> Result<Option<OwnedFd>, Errno> {
    const RTM_GETNSID: [u8; 2] = 90u16.to_ne_bytes();
    const NETNSA_FD: [u8; 2] = 3u16.to_ne_bytes();
    /// struct nlmsghdr and struct rtgenmsg, aligned.
    const HEADER: usize = 16 + 4;
    if request.get(4..6) != Some(&RTM_GETNSID) {
        return Ok(None);
    }
    let mut at = HEADER;
    while let Some(header) = request.get(at..at + 8) {
        let length = usize::from(u16::from_ne_bytes([header[0], header[1]])).max(4);
        if header[2..4] == NETNSA_FD {
            let number = i32::from_ne_bytes([header[4], header[5], header[6], header[7]]);
            let fd = call.n.descriptor(number).map_err(|_| Errno::EINVAL)?;
            request[at + 4..at + 8].copy_from_slice(&fd.as_raw_fd().to_ne_bytes());
            return Ok(Some(fd));
        }
        at += length.next_multiple_of(4);
    }
    Ok(None)
}

/// One datagram to an address. EAGAIN when it would block. `name` is its raw struct sockaddr.
pub fn send(
    network: &Arc<Network>,
    call: &mut Call,
    target: &Target,
    name: &[u8],
    data: &[u8],
    control: &[u8],
    flags: i32,
) -> Result<usize, Errno> {
    if target.is_of(libc::AF_NETLINK) {
        // To the kernel, without its address: with one it would look at the supervisor's privileges instead of the program's
        // (NETLINK_SKB_DST of net/netlink/af_netlink.c).
        if name.get(4..12).is_none_or(|port_and_groups| port_and_groups != [0; 8]) {
            return Err(Errno::ECONNREFUSED);
        }
        let mut data = data.to_vec();
        let _held = own_descriptor(call, &mut data)?;
        return message::send(target.as_fd(), &data, Destination::Connected, control, flags);
    }
    match proto_of(target) {
        Some(Proto::Udp) => send_datagram(network, call, target, name, data, control, flags),
        _ => message::send(target.as_fd(), data, Destination::Raw(name), control, flags),
    }
}

/// As [`send`], for a socket that is known to be one of UDP.
pub fn send_datagram(
    network: &Arc<Network>,
    call: &mut Call,
    target: &Target,
    name: &[u8],
    data: &[u8],
    control: &[u8],
    flags: i32,
) -> Result<usize, Errno> {
    if name.is_empty() {
        return Err(Errno::EINVAL);
    }
    let to = match Address::parse(name) {
        Address::Inet(a) => Some(loopback_for_any(a)),
        // An old form of AF_INET (udp_sendmsg).
        Address::Unspecified(Some(a)) if v6only(target).is_none() => Some(loopback_for_any(SocketAddr::V4(a))),
        _ => None,
    };
    if let Some(to) = to
        && !lead(network, call, target, sock::canonical(to))?
    {
        return Ok(data.len());
    }
    message::send(target.as_fd(), data, Destination::Raw(name), control, flags)
}
