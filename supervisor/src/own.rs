//! A run with a network of its own (`--isolation netns`, [`sandbox::netns`]): the program's sockets live where nobody else's are, and the
//! kernel itself answers for names, options and the private loopback. Only whom it speaks to is asked here. For each peer a socket
//! in the network at the other end stands at the peer's virtual address, and its bytes are carried to and from the flow of the session.

mod datagram;
mod inbound;
mod ownership;
mod stream;

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use nix::errno::Errno;
use nix::libc;
use parking_lot::Mutex;
use sandbox::diag::{DestroyWatch, Endpoint, Lost};
use sandbox::memory::Address;
use sandbox::netns::{Net, Networks};
use sandbox::park::Lot;
use sandbox::sock;
use sipcore::agent::{Proto, SessionId};
use tokio::io::Interest;

use crate::attempt::{Attempt, Progress};
use crate::call::{Call, Target, errno};
use crate::names::is_reachable;
use crate::sessions::Callee;
use crate::supervisor::{Supervisor, Way, policy_proto};
use crate::table::Cookie;
use crate::{dns, netlink, receive, send, unix};

pub use datagram::{send, send_datagram};
pub use inbound::{accept_direct, find};
pub use stream::connect as connect_stream;

/// Places of peers that are kept for the next connect to them.
const LOTS: usize = 256;
/// Addresses at which the resolver answers.
const RESOLVERS: usize = 64;
/// Deaths of sockets are taken in batches this far apart.
const BATCH: Duration = Duration::from_millis(5);

/// What is known of the program's sockets: only of those that something is under way for.
#[derive(Default)]
struct Kept {
    attempts: HashMap<Cookie, Arc<Attempt>>,
    /// What SO_ERROR is to say once, instead of the kernel's word.
    errors: HashMap<Cookie, Errno>,
    datagrams: HashMap<Cookie, datagram::Peers>,
    by_session: HashMap<SessionId, Arc<datagram::Flow>>,
    /// The sessions of connections that are carried, and the supervisor's socket towards the peer, by the ends of the program's socket: its own and
    /// the peer's.
    connections: HashMap<(SocketAddr, SocketAddr), (SessionId, Option<Cookie>)>,
    /// Sockets in the program's network that are the supervisor's.
    mine: HashSet<Cookie>,
    /// Datagram sockets that the program bound to a port of its choice; known when something is published.
    named: HashSet<Cookie>,
    listeners: Listeners,
}

/// Listeners of the program that peers have asked for, by port: those that are known until anything listens anew, or one of them is gone.
#[derive(Default)]
struct Listeners {
    known: HashMap<u16, Endpoint>,
    /// How often something listened anew, or was gone: who was asking meanwhile has an old answer.
    changes: u64,
}

impl Listeners {
    fn forget(&mut self) {
        self.known.clear();
        self.changes += 1;
    }

    fn knows(&self, cookie: Cookie) -> bool {
        self.known.values().any(|listener| listener.cookie == cookie)
    }
}

/// The network of one run.
pub struct Network {
    networks: Arc<Networks>,
    kept: Mutex<Kept>,
    lots: Mutex<HashMap<SocketAddr, Arc<Lot>>>,
    resolvers: Mutex<HashSet<SocketAddr>>,
    /// Whether it was begun to follow the death of sockets, and whether that still goes on.
    watching: OnceLock<()>,
    followed: AtomicBool,
}

/// Where a connect or a datagram leads.
enum Where {
    /// Where the kernel of the program's own network takes it.
    There,
    /// To a peer, who stands in this network.
    Peer(Arc<Callee>, Net),
    Refused(Errno),
}

impl Network {
    pub fn new(networks: Networks) -> Network {
        Network {
            networks: Arc::new(networks),
            kept: Mutex::default(),
            lots: Mutex::default(),
            resolvers: Mutex::default(),
            watching: OnceLock::new(),
            followed: AtomicBool::new(false),
        }
    }

    /// The child of the supervisor that is none of the program's.
    pub fn broker(&self) -> u32 {
        self.networks.broker().as_raw().unsigned_abs()
    }

    /// Whether a socket is of the program's own network.
    pub fn owns(&self, fd: std::os::fd::BorrowedFd<'_>) -> bool {
        self.networks.owns(fd)
    }

    /// As [`Network::owns`], for the socket of a call.
    pub fn has(&self, facts: &sandbox::facts::Facts) -> bool {
        self.networks.has(facts)
    }

    /// Who is asked about the sockets of the program's network.
    pub fn inspector(&self) -> &sandbox::diag::Inspector {
        self.networks.inspector()
    }

    /// What there is to be seen of the program's sockets (`sipbox status`).
    pub fn sockets(&self) -> Vec<crate::status::Socket> {
        let (mine, sessions) = {
            let kept = self.kept.lock();
            let datagrams = kept.by_session.iter().map(|(id, flow)| (flow.ends(), (*id, None, Some(flow.moved()))));
            let streams = kept.connections.iter().map(|(ends, (id, cookie))| (*ends, (*id, *cookie, None)));
            let sessions: HashMap<_, _> = streams.chain(datagrams).collect();
            (kept.mine.clone(), sessions)
        };
        let mut shown = Vec::new();
        let mut met = HashSet::new();
        for proto in [Proto::Tcp, Proto::Udp] {
            let all = self.inspector().endpoints(proto == Proto::Tcp).unwrap_or_default();
            for end in all.into_iter().filter(|end| !mine.contains(&end.cookie)) {
                let state = match end.peer {
                    _ if end.listens => "listening",
                    Some(_) => "connected",
                    None => "bound",
                };
                let (local, peer) = (end.local, end.peer);
                let ends = peer.map(|peer| (sock::canonical(local), sock::canonical(peer)));
                let carried = ends.and_then(|ends| sessions.get(&ends).copied());
                let (session, stream, moved) = match carried {
                    Some((id, stream, moved)) => {
                        met.insert(id);
                        (Some(id), stream, moved)
                    }
                    None => (None, None, None),
                };
                shown.push(crate::status::Socket { proto, state, local: Some(local), peer, session, stream, moved });
            }
        }
        // An unconnected datagram socket, and each of its peers.
        for ((local, peer), (id, _, moved)) in
            sessions.into_iter().filter(|(_, (id, _, moved))| moved.is_some() && !met.contains(id))
        {
            let (local, peer, session) = (Some(local), Some(peer), Some(id));
            shown.push(crate::status::Socket {
                proto: Proto::Udp,
                state: "connected",
                local,
                peer,
                session,
                stream: None,
                moved,
            });
        }
        shown
    }

    /// Follows the death of the program's sockets, from the first one that something is kept of. Whether that can be.
    fn watch(&self, supervisor: &Arc<Supervisor>) -> bool {
        self.watching.get_or_init(|| {
            let watch = self.networks.diag().and_then(DestroyWatch::on);
            match watch.and_then(|watch| Ok((watch.as_fd().try_clone_to_owned()?, watch))) {
                Ok((polled, watch)) => {
                    self.followed.store(true, Ordering::Relaxed);
                    supervisor.runtime.spawn(follow(supervisor.clone(), watch, polled));
                }
                Err(error) => tracing::error!(%error, "the death of sockets cannot be followed"),
            }
        });
        self.followed.load(Ordering::Relaxed)
    }

    /// Something listens, or a listener that peers have asked for is gone.
    fn listeners_changed(&self, supervisor: &Supervisor) {
        self.kept.lock().listeners.forget();
        supervisor.sessions.links.listeners_changed();
    }

    /// This socket listens no more, if it did.
    fn left(&self, supervisor: &Supervisor, cookie: Cookie) {
        let was = self.kept.lock().listeners.knows(cookie);
        if was {
            self.listeners_changed(supervisor);
        }
    }

    /// Whether a peer that asks for this socket once more is told should it be gone by then.
    pub fn knows(&self, proto: Proto, port: u16) -> bool {
        proto == Proto::Tcp && self.kept.lock().listeners.known.contains_key(&port)
    }

    /// A socket of the program takes what comes from now on, and peers may be told of it until it is gone.
    fn note_open(&self, supervisor: &Arc<Supervisor>) {
        if supervisor.published.is_wanted() {
            self.watch(supervisor);
            supervisor.published.note();
        }
    }

    /// A datagram socket has a port of the program's choice.
    pub fn note_named(&self, supervisor: &Arc<Supervisor>, cookie: Cookie) {
        if supervisor.published.is_wanted() {
            self.kept.lock().named.insert(cookie);
            self.note_open(supervisor);
        }
    }

    /// Where the connects to `address` wait for their sessions.
    fn lot(&self, net: Net, address: SocketAddr) -> Result<Arc<Lot>, Errno> {
        let mut lots = self.lots.lock();
        if let Some(lot) = lots.get(&address) {
            return Ok(lot.clone());
        }
        if lots.len() >= LOTS {
            lots.retain(|_, lot| Arc::strong_count(lot) > 1);
        }
        if lots.len() >= LOTS {
            return Err(Errno::ENOBUFS);
        }
        let lot = Lot::at(&self.networks, net, address).map_err(|error| {
            tracing::warn!(%error, "no place for a peer");
            Errno::from_raw(error.raw_os_error().unwrap_or(libc::EADDRNOTAVAIL))
        })?;
        if net == Net::Program {
            // It listens among the program's own.
            for end in self.inspector().listeners().unwrap_or_default() {
                if end.local == address {
                    self.kept.lock().mine.insert(end.cookie);
                }
            }
        }
        let lot = Arc::new(lot);
        lots.insert(address, lot.clone());
        Ok(lot)
    }

    /// The sockets that anybody may connect or send to.
    fn open(&self, proto: Proto) -> std::io::Result<Vec<Endpoint>> {
        match proto {
            Proto::Tcp => self.inspector().listeners(),
            Proto::Udp => {
                let mut all = self.inspector().endpoints(false)?;
                all.retain(|e| e.peer.is_none());
                Ok(all)
            }
        }
    }

    /// Whether a socket of the program has this address, or covers it.
    fn is_taken(&self, proto: Proto, address: SocketAddr) -> bool {
        let mine = &self.kept.lock().mine;
        let Ok(all) = self.open(proto) else { return false };
        all.iter().any(|e| !mine.contains(&e.cookie) && covers(e, address))
    }

    /// The sockets of the program that peers may reach by a session (WIRE: labels): those bound to `port`, else the only one there is.
    fn labelled(&self, supervisor: &Arc<Supervisor>, proto: Proto, port: Option<u16>) -> Option<Endpoint> {
        // To ask the kernel takes longer than anything else that a connection does.
        let asked = port.filter(|_| proto == Proto::Tcp && self.watch(supervisor));
        let changes = {
            let listeners = &self.kept.lock().listeners;
            if let Some(known) = asked.and_then(|port| listeners.known.get(&port)) {
                return Some(*known);
            }
            listeners.changes
        };
        let mut all = self.open(proto).ok()?;
        {
            let mine = &self.kept.lock().mine;
            all.retain(|e| !mine.contains(&e.cookie) && is_reachable(supervisor, proto, &e.local));
        }
        // Peers have an address of each family for the program: where it has a socket of each, that of IPv4 hears them.
        all.sort_by_key(|e| e.local.is_ipv6());
        if let Some(found) = all.iter().find(|e| Some(e.local.port()) == port) {
            let listeners = &mut self.kept.lock().listeners;
            if let Some(port) = asked.filter(|_| listeners.changes == changes) {
                listeners.known.insert(port, *found);
            }
            return Some(*found);
        }
        let first = all.first()?;
        // What shares a port (SO_REUSEPORT, the two families) is one endpoint.
        all.iter().all(|e| e.local.port() == first.local.port()).then_some(*first)
    }

    /// Listeners, and datagram sockets that were bound to a port of the program's choice.
    pub fn open_endpoints(&self) -> Vec<(Proto, SocketAddr)> {
        let kept = self.kept.lock();
        let open = |e: &Endpoint, proto| match proto {
            Proto::Tcp => !kept.mine.contains(&e.cookie),
            Proto::Udp => kept.named.contains(&e.cookie),
        };
        let of = |proto| {
            let all = self.open(proto).unwrap_or_default();
            all.into_iter().filter(move |e| open(e, proto)).map(move |e| (proto, e.local))
        };
        of(Proto::Tcp).chain(of(Proto::Udp)).collect()
    }

    /// Makes the resolver answer at `address`, as the name server that the program takes it for.
    fn resolve_at(&self, supervisor: &Arc<Supervisor>, net: Net, address: SocketAddr) -> Result<(), Errno> {
        let mut resolvers = self.resolvers.lock();
        if resolvers.contains(&address) {
            return Ok(());
        }
        if resolvers.len() >= RESOLVERS {
            return Err(Errno::ENOBUFS);
        }
        let v6 = address.is_ipv6();
        let made = (|| -> std::io::Result<_> {
            let (udp, tcp) = (self.networks.udp(net, v6)?, self.networks.tcp(net, v6)?);
            nix::sys::socket::setsockopt(&tcp, nix::sys::socket::sockopt::ReuseAddr, &true)?;
            sock::bind(udp.as_fd(), &address)?;
            sock::bind(tcp.as_fd(), &address)?;
            if net == Net::Program {
                // Before it listens: a peer that asks then is not led to it.
                let cookies = [&udp, &tcp].map(|s| sock::socket_cookie(s.as_fd()).unwrap_or(0));
                self.kept.lock().mine.extend(cookies);
            }
            nix::sys::socket::listen(&tcp, nix::sys::socket::Backlog::new(16)?)?;
            Ok((udp, tcp))
        })();
        let (udp, tcp) = made.map_err(errno)?;
        resolvers.insert(address);
        let _inside = supervisor.runtime.enter();
        dns::Sockets::of(udp.into(), tcp.into()).map_err(errno)?.serve(supervisor);
        Ok(())
    }

    /// Decides where `to` leads.
    fn way(&self, call: &mut Call, proto: Proto, port: Option<u16>, to: SocketAddr) -> Where {
        let supervisor = call.supervisor;
        let to = sock::canonical(to);
        let own = supervisor.is_own(to.ip());
        let net = if own { Net::Program } else { Net::Peers };
        // What listens here comes before what the policy leads elsewhere.
        let taken = |call: &mut Call| {
            let taken = own && self.is_taken(proto, to);
            if taken {
                call.rule(|| "own socket".to_owned());
            }
            taken
        };
        match supervisor.way(call, proto, port, to) {
            Way::Own(..) => Where::There,
            Way::Resolver | Way::Peer(_) if taken(call) => Where::There,
            Way::Resolver => match self.resolve_at(supervisor, net, to) {
                Ok(()) => Where::There,
                Err(e) => Where::Refused(e),
            },
            Way::Peer(callee) => Where::Peer(callee, net),
            // Nobody is there any more, or nothing listens there, and the kernel says so.
            Way::Former => Where::There,
            Way::Refused(Errno::ECONNREFUSED) if own || proto == Proto::Tcp => Where::There,
            Way::Refused(e) => Where::Refused(e),
        }
    }

    /// The run ends, and with it its networks.
    pub fn close(&self) {
        self.networks.close();
    }

    /// The peer ended this session.
    pub fn ended(&self, session: SessionId) {
        if let Some(flow) = self.kept.lock().by_session.remove(&session) {
            flow.end();
        }
    }

    /// The kernel destroyed a socket of the program. Whether peers knew it as a listener.
    fn destroyed(&self, cookie: Cookie) -> bool {
        let mut kept = self.kept.lock();
        kept.errors.remove(&cookie);
        kept.mine.remove(&cookie);
        kept.named.remove(&cookie);
        if let Some(attempt) = kept.attempts.remove(&cookie) {
            attempt.set(Progress::Abandoned);
        }
        for flow in kept.datagrams.remove(&cookie).into_iter().flat_map(datagram::Peers::into_flows) {
            flow.abandon();
        }
        kept.listeners.changes += 1;
        kept.listeners.knows(cookie)
    }

    /// Forgets what is kept of sockets that have died unreported.
    pub fn sweep(&self) {
        let Ok(live) = self.inspector().endpoints(true).and_then(|mut tcp| {
            tcp.extend(self.inspector().endpoints(false)?);
            Ok(tcp)
        }) else {
            return;
        };
        let live: HashSet<Cookie> = live.iter().map(|e| e.cookie).collect();
        let known: Vec<Cookie> = {
            let kept = self.kept.lock();
            kept.attempts.keys().chain(kept.datagrams.keys()).chain(&kept.named).copied().collect()
        };
        for cookie in known.into_iter().filter(|c| !live.contains(c)) {
            self.destroyed(cookie);
        }
    }

    /// Whether something that the program sent is still carried.
    pub fn is_busy(&self) -> bool {
        let kept = self.kept.lock();
        sandbox::relay::flowing() > 0 || !kept.datagrams.is_empty() || !kept.by_session.is_empty()
    }
}

/// Whether what is sent to `address` meets this socket.
fn covers(e: &Endpoint, address: SocketAddr) -> bool {
    let own = e.local.ip().to_canonical();
    let ip = address.ip().to_canonical();
    let any = match own {
        IpAddr::V4(own) => own.is_unspecified() && ip.is_ipv4(),
        IpAddr::V6(own) => own.is_unspecified() && (ip.is_ipv6() || !e.v6only),
    };
    e.local.port() == address.port() && (own == ip || any)
}

/// `polled` is the same socket as `watch`.
async fn follow(supervisor: Arc<Supervisor>, mut watch: DestroyWatch, polled: OwnedFd) {
    let Some(network) = supervisor.network.clone() else { return };
    loop {
        let mut cookies = Vec::new();
        let read = sandbox::ready::when_ready(polled.as_fd(), Interest::READABLE, || {
            match watch.read(&mut cookies).map_err(errno)? {
                Lost::Nothing if cookies.is_empty() => Err(Errno::EAGAIN),
                lost => Ok(lost),
            }
        });
        let lost = match read.await {
            Ok(lost) => lost,
            Err(error) => {
                tracing::error!(%error, "the death of sockets cannot be followed any more");
                network.followed.store(false, Ordering::Relaxed);
                return network.listeners_changed(&supervisor);
            }
        };
        let mut gone = false;
        for cookie in cookies {
            gone |= network.destroyed(cookie);
        }
        if lost == Lost::Some {
            network.sweep();
        }
        if gone || lost == Lost::Some {
            network.listeners_changed(&supervisor);
        }
        supervisor.published.note();
        tokio::time::sleep(BATCH).await;
    }
}

/// Answers one trapped call.
pub fn handle(network: &Arc<Network>, call: Call) {
    match call.n.call {
        libc::SYS_connect => connect(network, call),
        libc::SYS_listen => listen(network, call),
        libc::SYS_bind => bind(network, call),
        libc::SYS_socket => netlink::socket(call),
        libc::SYS_sendto => send::sendto(call),
        libc::SYS_sendmsg => send::sendmsg(call),
        libc::SYS_sendmmsg => send::sendmmsg(call),
        libc::SYS_recvmsg => receive::recvmsg(call),
        libc::SYS_recvmmsg => receive::recvmmsg(call),
        libc::SYS_getsockopt => crate::options::get(call),
        libc::SYS_setsockopt => crate::options::set(call),
        #[cfg(target_arch = "x86_64")]
        libc::SYS_chown | libc::SYS_lchown => ownership::change(call),
        libc::SYS_fchown | libc::SYS_fchownat => ownership::change(call),
        libc::SYS_tgkill | libc::SYS_tkill => call.supervisor.signalled(call),
        libc::SYS_prlimit64 => call.supervisor.limited(call),
        _ => call.finish(Err(Errno::ENOSYS)),
    }
}

/// What kind of socket this is: None for what is neither TCP nor UDP.
fn proto_of(target: &Target) -> Option<Proto> {
    let facts = target.facts().ok()?;
    match (facts.domain, facts.protocol) {
        (libc::AF_INET | libc::AF_INET6, libc::IPPROTO_TCP) => Some(Proto::Tcp),
        (libc::AF_INET | libc::AF_INET6, libc::IPPROTO_UDP) => Some(Proto::Udp),
        _ => None,
    }
}

/// Whether a socket of the program's network is one of UDP: no other family there has such a protocol.
pub fn is_udp(target: &Target) -> bool {
    target.facts().is_ok_and(|facts| facts.protocol == libc::IPPROTO_UDP)
}

/// IPV6_V6ONLY of an AF_INET6 socket; None for AF_INET.
fn v6only(target: &Target) -> Option<bool> {
    target
        .is_of(libc::AF_INET6)
        .then(|| sock::option(target.as_fd(), libc::IPPROTO_IPV6, libc::IPV6_V6ONLY).is_ok_and(|v| v != 0))
}

/// connect(2) of every kind of socket.
fn connect(network: &Arc<Network>, mut call: Call) {
    let number = call.int(0);
    call.note(|| format!("connect({number})"));
    let read = call.target_after(number, |memory| memory.address(call.argument(1), call.argument(2)));
    let (target, address) = match read.and_then(|(target, address)| Ok((target, address?))) {
        Ok(read) => read,
        Err(Errno::ENOTSOCK) => {
            let address = call.n.address(call.argument(1), call.argument(2));
            return call.finish(Err(address.err().unwrap_or(Errno::ENOTSOCK)));
        }
        Err(e) => return call.finish(Err(e)),
    };
    call.note(|| format!("connect({number}, {address})"));
    if let Err(e) = call.supervisor.known(&target) {
        return call.finish(Err(e));
    }
    match proto_of(&target) {
        Some(Proto::Tcp) => stream::connect(network, call, target, &address),
        Some(Proto::Udp) => datagram::connect(network, call, target, &address),
        None if target.is_of(libc::AF_UNIX) => unix::connect(call, target),
        // Of the program's own network, and with nobody at the other end: rtnetlink(7), UDP-Lite.
        _ => {
            let result = match &address {
                Address::Inet(a) => sock::connect_nowait(target.as_fd(), a).map(drop),
                Address::Unspecified(_) => sock::disconnect(target.as_fd()),
                _ => Ok(()),
            };
            drop(target);
            call.finish(result.map(|()| 0).map_err(errno));
        }
    }
}

/// listen(2): the kernel's own; who has a name is registered before it returns.
fn listen(network: &Arc<Network>, mut call: Call) {
    let (number, backlog) = (call.int(0), call.int(1));
    call.note(|| format!("listen({number}, {backlog})"));
    let supervisor = call.supervisor;
    let result = (|| {
        let target = call.target(number)?;
        supervisor.known(&target)?;
        if crate::status::is_ours(target.as_fd()) {
            return Err(Errno::EACCES);
        }
        if target.is_of(libc::AF_UNIX) {
            unix::listen(&call, &target, backlog)?;
        } else {
            sock::listen(target.as_fd(), backlog)?;
        }
        let local = (proto_of(&target) == Some(Proto::Tcp)).then(|| sock::local_addr(target.as_fd()).ok());
        network.note_open(supervisor);
        if local.is_some() {
            network.listeners_changed(supervisor);
        }
        Ok(local.flatten())
    })();
    match result {
        Ok(Some(local)) if is_reachable(supervisor, Proto::Tcp, &local) => {
            supervisor.runtime.clone().spawn(async move {
                supervisor.sessions.ensure_registered().await;
                call.finish(Ok(0));
            });
        }
        Ok(_) => call.finish(Ok(0)),
        Err(e) => call.finish(Err(e)),
    }
}

/// bind(2), where the policy may refuse it: decided here, and done by the kernel with what was decided on.
fn bind(network: &Arc<Network>, mut call: Call) {
    let number = call.int(0);
    let read = call.target_after(number, |memory| memory.address(call.argument(1), call.argument(2)));
    let (target, address) = match read.and_then(|(target, address)| Ok((target, address?))) {
        Ok(read) => read,
        Err(e) => return call.finish(Err(e)),
    };
    call.note(|| format!("bind({number}, {address})"));
    let supervisor = call.supervisor;
    let result = supervisor.known(&target).and_then(|_| match (proto_of(&target), &address) {
        (Some(proto), Address::Inet(wanted)) => {
            if let policy::BindDecision::Deny { rule, advice } =
                supervisor.policy.bind(policy_proto(proto), wanted.ip(), wanted.port())
                && !wanted.ip().to_canonical().is_loopback()
                && wanted.port() != 0
            {
                supervisor.sessions.say_once(&format!("bind:{proto}:{wanted}"), || {
                    format!("the program tried to bind {proto} {wanted}, and {rule} refuses it; {advice}")
                });
                call.rule(|| rule);
                return Err(Errno::EACCES);
            }
            sock::bind(target.as_fd(), wanted).map_err(errno)?;
            if proto == Proto::Udp && wanted.port() != 0 {
                network.note_named(supervisor, target.cookie);
            }
            Ok(())
        }
        (Some(_), Address::Unspecified(Some(a))) => sock::bind_unspecified(target.as_fd(), *a).map_err(errno),
        (Some(_), Address::Other { length, .. }) if *length < 16 => Err(Errno::EINVAL),
        (Some(_), _) => Err(Errno::EAFNOSUPPORT),
        (None, _) => Ok(()),
    });
    match result {
        Ok(()) if target.is_of(libc::AF_UNIX) => unix::bind(call, target),
        Ok(()) if target.is_of(libc::AF_NETLINK) => {
            let name = call.n.read(call.argument(1), (call.argument(2) as usize).min(128));
            let result = name.and_then(|name| sandbox::message::bind_raw(target.as_fd(), &name));
            drop(target);
            call.finish(result.map(|()| 0));
        }
        result => {
            drop(target);
            call.finish(result.map(|()| 0));
        }
    }
}

/// What SO_ERROR is to say once.
pub fn error_of(network: &Network, cookie: Cookie) -> Option<Errno> {
    network.kept.lock().errors.remove(&cookie)
}

/// SO_ERROR is to say this once.
pub fn note_error(network: &Network, supervisor: &Arc<Supervisor>, cookie: Cookie, error: Errno) {
    network.watch(supervisor);
    network.kept.lock().errors.insert(cookie, error);
}

/// The supervisor's own end of a flow, in the host's network.
fn media_socket(supervisor: &Supervisor) -> std::io::Result<(OwnedFd, std::net::SocketAddrV4)> {
    let media = sock::tcp4()?;
    sock::bind(media.as_fd(), &SocketAddr::from((supervisor.homes.next(), 0)))?;
    match sock::local_addr(media.as_fd())? {
        SocketAddr::V4(source) => Ok((media, source)),
        SocketAddr::V6(_) => Err(Errno::EAFNOSUPPORT.into()),
    }
}

/// The address of the program's end towards `peer`: bound now if it has no port yet, as the kernel does at connect() and sendto().
fn own_address(supervisor: &Supervisor, target: &Target, peer: SocketAddr) -> Result<SocketAddr, Errno> {
    let mut local = sock::local_addr(target.as_fd()).map_err(errno)?;
    if local.port() == 0 {
        sock::bind(target.as_fd(), &local).map_err(errno)?;
        local = sock::local_addr(target.as_fd()).map_err(errno)?;
    }
    let ip = match local.ip().to_canonical() {
        ip if !ip.is_unspecified() => ip,
        _ => supervisor.local_for(&sock::canonical(peer), 0).ip(),
    };
    Ok(SocketAddr::new(ip, local.port()))
}
