//! One run: the table, the policy, the sessions, and where each trapped call goes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::libc;
use parking_lot::Mutex;
use policy::{ConnectDecision, Policy};
use sandbox::notify::Notification;
use sandbox::sock;
use sandbox::watch::Watcher;
use sipcore::agent::Proto;

use crate::call::{Call, Target, errno};
use crate::deaths::Deaths;
use crate::former::{Callers, Former};
use crate::guard::{Guard, Guards};
use crate::homes::Homes;
use crate::netlink::Netlink;
use crate::nobody::Nobody;
use crate::own::{self, Network};
use crate::published::Published;
use crate::sessions::{Callee, Sessions};
use crate::stub::Stub;
use crate::table::{Bound, Cookie, Era, Removed, Socket, State, Table};
use crate::{accept, connect, datagram, names, netlink, options, receive, send, unix};

/// What the command line says about a run.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options {
    /// One line on stderr for each trapped call.
    pub trace: bool,
}

/// Everything that the handlers share.
pub struct Supervisor {
    pub options: Options,
    pub policy: Policy,
    pub table: Mutex<Table>,
    /// Of the table.
    pub era: Era,
    pub sessions: Sessions,
    /// What peers are told of the program's sockets.
    pub published: Published,
    /// The loopback address of this run: all its physical endpoints are there, but those of connections that come fast.
    pub physical: Ipv4Addr,
    pub homes: Homes,
    /// The address by which the program's peers see it.
    pub own_v4: Ipv4Addr,
    pub own_v6: Ipv6Addr,
    /// Where this run's resolver listens, UDP and TCP.
    pub resolver: SocketAddrV4,
    pub runtime: tokio::runtime::Handle,
    /// Where what nobody answers is sent.
    pub nobody: Nobody,
    /// Ports that sockets of the program point to.
    pub guards: Guards,
    /// Parked connects.
    pub lot: sandbox::park::Lot,
    /// Of the lot, and the resolver.
    pub _guarded: [Guard; 3],
    /// Catches the first datagrams of connected sockets whose session does not stand yet.
    pub stub: Stub,
    /// Peers that have sent datagrams.
    pub former: Mutex<Former>,
    pub callers: Mutex<Callers>,
    /// Held as long as something that the program sent waits for its session.
    pub unsent: Unsent,
    /// AF_UNIX sockets that this run bound.
    pub unix: unix::Unix,
    pub netlink: Netlink,
    /// Tells which sockets are gone.
    pub deaths: Deaths,
    /// Tells of signals for threads whose calls are held.
    pub watcher: Watcher,
    /// With `--isolation netns`: where the program's sockets are.
    pub network: Option<Arc<Network>>,
    /// Whether UDP_CORK was set on any socket.
    pub corks: AtomicBool,
    /// IP_BIND_ADDRESS_NO_PORT was set once.
    pub ports_come_late: AtomicBool,
    /// One accept at a time: between the look at a listener's queue and the taking nobody else may take.
    pub accepting: Mutex<()>,
}

/// Counts itself.
#[derive(Clone, Default)]
pub struct Unsent(Arc<()>);

impl Unsent {
    /// Whether somebody has a clone of this one.
    pub fn is_held(&self) -> bool {
        Arc::strong_count(&self.0) > 1
    }
}

/// Where a connect or a datagram leads.
pub enum Way {
    /// To a socket of this run.
    Own(Cookie, Bound),
    /// To the resolver.
    Resolver,
    /// To a peer.
    Peer(Arc<Callee>),
    /// To a peer that has sent datagrams, and whose session has ended.
    Former,
    /// Nowhere.
    Refused(Errno),
}

impl Supervisor {
    /// Answers one trapped call, now or by a task.
    pub fn handle(self: &'static Arc<Self>, n: Notification) {
        let call = Call::new(n, self);
        if let Some(network) = &self.network {
            return own::handle(network, call);
        }
        match call.n.call {
            libc::SYS_socket if call.int(0) == libc::AF_NETLINK => netlink::socket(call),
            libc::SYS_socket => datagram::socket(call),
            libc::SYS_ioctl => netlink::ioctl(call),
            libc::SYS_getsockname => names::own(call),
            libc::SYS_getpeername => names::peer(call),
            libc::SYS_bind => names::bind(call),
            libc::SYS_listen => accept::listen(call),
            libc::SYS_accept => accept::accept(call, 0),
            libc::SYS_accept4 => {
                let flags = call.int(3);
                accept::accept(call, flags);
            }
            libc::SYS_connect => connect::connect(call),
            libc::SYS_sendto => send::sendto(call),
            libc::SYS_recvfrom => receive::recvfrom(call),
            libc::SYS_sendmsg => send::sendmsg(call),
            libc::SYS_recvmsg => receive::recvmsg(call),
            libc::SYS_sendmmsg => send::sendmmsg(call),
            libc::SYS_recvmmsg => receive::recvmmsg(call),
            libc::SYS_getsockopt => options::get(call),
            libc::SYS_setsockopt => options::set(call),
            libc::SYS_tgkill | libc::SYS_tkill => self.signalled(call),
            libc::SYS_prlimit64 => self.limited(call),
            _ => call.finish(Err(Errno::ENOSYS)),
        }
    }

    /// tgkill(2), tkill(2): nothing is decided here, but who is signalled may be held.
    pub fn signalled(&self, call: Call) {
        let at = usize::from(call.n.call == libc::SYS_tgkill);
        let (thread, signal) = (call.int(at), call.int(at + 1));
        self.watcher.hint(thread as u32, signal);
        call.proceed();
    }

    /// prlimit(2) with a new limit: a process sets its own. The process that is meant is in a register, which nobody changes between
    /// here and there.
    pub fn limited(&self, call: Call) {
        match sandbox::notify::process_of(call.int(0) as u32) {
            own if call.int(0) == 0 || (own.is_some() && own == sandbox::notify::process_of(call.n.thread)) => {
                call.proceed();
            }
            None => call.finish(Err(Errno::ESRCH)),
            Some(_) => call.finish(Err(Errno::EPERM)),
        }
    }

    /// Makes sure that the table knows the socket. None for AF_UNIX, and for AF_NETLINK that the supervisor answers.
    ///
    /// EACCES for any other kind but TCP and UDP. In a network of the program's own the kernel alone knows its sockets: None for all,
    /// and EACCES for one of another network.
    pub fn known(&self, target: &Target) -> Result<Option<Proto>, Errno> {
        self.meet(target).map(|(proto, _)| proto)
    }

    /// As [`Supervisor::known`]; and whether it was not known until now.
    pub fn meet(&self, target: &Target) -> Result<(Option<Proto>, bool), Errno> {
        if let Some(network) = &self.network {
            let facts = target.facts()?;
            let inside = network.has(&facts) || facts.domain == libc::AF_UNIX;
            return if inside { Ok((None, false)) } else { Err(Errno::EACCES) };
        }
        if let Some(s) = self.table.lock().get(target.cookie) {
            return Ok((Some(s.proto), false));
        }
        let fd: BorrowedFd<'_> = std::os::fd::AsFd::as_fd(target);
        let v6 = match sock::socket_domain(fd).map_err(errno)? {
            libc::AF_INET => false,
            libc::AF_INET6 => true,
            libc::AF_UNIX => return Ok((None, false)),
            libc::AF_NETLINK if netlink::is_one(target) => return Ok((None, false)),
            // Another family or type was made elsewhere, and has come in by AF_UNIX or was open at the start.
            _ => return Err(Errno::EACCES),
        };
        let proto = match sock::socket_protocol(fd).map_err(errno)? {
            libc::IPPROTO_TCP => Proto::Tcp,
            _ if is_datagram(fd) => Proto::Udp,
            _ => return Err(Errno::EACCES),
        };
        let limit = self.policy.limits().sockets as usize;
        let mut table = self.table.lock();
        if table.len() >= limit {
            drop(table);
            self.deaths.collect(self);
            if self.table.lock().len() >= limit {
                self.deaths.catch_up(self);
            }
            table = self.table.lock();
        }
        if table.len() >= limit {
            drop(table);
            self.sessions.say_once("limit:sockets", || {
                format!("[limits] sockets = {limit} is reached: further sockets are refused; raise it in the policy")
            });
            return Err(Errno::ENOBUFS);
        }
        self.deaths.watch();
        // Where net.ipv6.bindv6only is set, the kernel's socket must be made dual-stack before it is bound.
        let v6only = v6
            && nix::sys::socket::getsockopt(&fd, nix::sys::socket::sockopt::Ipv6V6Only).unwrap_or(false)
            && nix::sys::socket::setsockopt(&fd, nix::sys::socket::sockopt::Ipv6V6Only, &false).is_ok();
        table.socket(target.cookie, || Socket {
            proto,
            v6,
            v6only,
            bound: None,
            former: None,
            state: State::Idle,
            error: None,
            datagram: None,
            begun: 0,
        });
        Ok((Some(proto), true))
    }

    /// True for addresses that mean the program itself.
    pub fn is_own(&self, ip: IpAddr) -> bool {
        match ip.to_canonical() {
            IpAddr::V4(a) => a.is_loopback() || a.is_unspecified() || a == self.own_v4,
            IpAddr::V6(a) => a.is_loopback() || a.is_unspecified() || a == self.own_v6,
        }
    }

    /// Decides where `destination` leads. `port`: the program's, of a datagram socket that has one. What is refused is said on
    /// stderr, once a destination.
    pub fn way(&self, call: &mut Call, proto: Proto, port: Option<u16>, destination: SocketAddr) -> Way {
        let canonical = SocketAddr::new(destination.ip().to_canonical(), destination.port());
        let own = self.is_own(canonical.ip());
        if own
            && let Some((cookie, bound)) =
                self.reached(proto, |table, passed| table.own_endpoint(proto, &canonical, passed))
        {
            call.rule(|| "own socket".to_owned());
            return Way::Own(cookie, bound);
        }
        if canonical.port() == DNS && !self.policy.means_a_name_server(policy_proto(proto), canonical) {
            call.rule(|| "resolver".to_owned());
            return Way::Resolver;
        }
        // Answers that come too late are no calls.
        let late = port.is_some_and(|port| self.former.lock().knows(port, canonical));
        let caller = if late || own { None } else { self.callers.lock().at(canonical.ip()).map(str::to_owned) };
        match self.policy.connect_to(policy_proto(proto), canonical, caller.as_deref()) {
            ConnectDecision::Uri { uri, flows, rule } => {
                call.rule(|| format!("{rule} -> {uri}"));
                Way::Peer(Arc::new(Callee { uri, flows }))
            }
            ConnectDecision::Local { rule } => {
                call.rule(|| rule);
                Way::Refused(Errno::ECONNREFUSED)
            }
            ConnectDecision::Refuse { errno, rule, advice } => {
                call.rule(|| rule.to_string());
                if own {
                    // Nothing of the program listens there: that is a native refusal, not a policy's.
                    return Way::Refused(Errno::ECONNREFUSED);
                }
                if late {
                    return Way::Former;
                }
                // No rule could allow port 0: resolvers ask so for the address that the program would have there (RFC 6724).
                if canonical.port() == 0 {
                    return Way::Refused(Errno::ECONNREFUSED);
                }
                let only_points = proto == Proto::Udp && call.n.call == libc::SYS_connect;
                self.sessions.say_once(&format!("refused:{proto:?}:{canonical}"), || {
                    let note = if only_points {
                        "what it sends there is lost (who only looks for the own address so, finds it); "
                    } else {
                        ""
                    };
                    format!("the program tried {proto}/{canonical}, and {rule} refuses it; {note}{advice}")
                });
                Way::Refused(refusal(errno))
            }
        }
    }

    /// The socket that `find` gives. Where another listener would be reached once that is gone, of which the kernel's report may be on its way, it is
    /// asked whether it listens; the places where nobody does are passed over.
    pub fn reached(
        &self,
        proto: Proto,
        find: impl Fn(&Table, &[SocketAddrV4]) -> Option<(Cookie, Bound)>,
    ) -> Option<(Cookie, Bound)> {
        let mut passed = Vec::new();
        let mut first = None;
        loop {
            let (found, has_second) = {
                let table = self.table.lock();
                match find(&table, &passed) {
                    Some((cookie, bound)) => ((cookie, bound), table.has_second(proto, bound.virtual_.port())),
                    None => return first,
                }
            };
            let at = found.1.physical;
            if !has_second || sandbox::diag::is_bound(at, at, proto == Proto::Tcp).unwrap_or(true) {
                return Some(found);
            }
            first.get_or_insert(found);
            passed.push(at);
        }
    }

    /// A virtual address as a socket of this family is to see it.
    pub fn seen_by(v6: bool, address: SocketAddr) -> SocketAddr {
        match (v6, address) {
            (true, SocketAddr::V4(a)) => SocketAddr::V6(SocketAddrV6::new(a.ip().to_ipv6_mapped(), a.port(), 0, 0)),
            (false, SocketAddr::V6(a)) => match a.ip().to_ipv4_mapped() {
                Some(v4) => SocketAddr::V4(SocketAddrV4::new(v4, a.port())),
                None => address,
            },
            _ => address,
        }
    }

    /// The address of the program's end when it speaks to `peer` from `port`.
    pub fn local_for(&self, peer: &SocketAddr, port: u16) -> SocketAddr {
        match peer.ip() {
            IpAddr::V4(ip) if ip.is_loopback() => SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port),
            IpAddr::V4(_) => SocketAddr::new(IpAddr::V4(self.own_v4), port),
            IpAddr::V6(ip) if ip.is_loopback() => SocketAddr::new(IpAddr::V6(Ipv6Addr::LOCALHOST), port),
            IpAddr::V6(ip) => match ip.to_ipv4_mapped() {
                Some(v4) if v4.is_loopback() => Self::seen_by(true, SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port)),
                Some(_) => Self::seen_by(true, SocketAddr::new(self.own_v4.into(), port)),
                None => SocketAddr::new(IpAddr::V6(self.own_v6), port),
            },
        }
    }

    /// Binds a socket that has no name yet to the run's address, as the kernel does at connect() and sendto().
    pub fn ensure_bound(&self, target: &Target) -> Result<Bound, Errno> {
        self.bound_at(target, |_| self.physical)
    }

    /// As [`Supervisor::ensure_bound`]; `place` says where, by what the socket is.
    fn bound_at(&self, target: &Target, place: impl FnOnce(Proto) -> Ipv4Addr) -> Result<Bound, Errno> {
        let (proto, v6, former) = match self.table.lock().get(target.cookie) {
            Some(Socket { bound: Some(bound), .. }) => return Ok(*bound),
            Some(s) => (s.proto, s.v6, s.former),
            None => return Err(Errno::EBADF),
        };
        let any: IpAddr = if v6 { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() };
        let ip = former.unwrap_or(any);
        let physical = self.bind_physical(target, proto, v6, SocketAddrV4::new(place(proto), 0))?;
        let mut table = self.table.lock();
        let port = table.free_port(proto, physical.port());
        let bound = Bound { virtual_: SocketAddr::new(ip, port), physical, port_chosen: false };
        table.bind(target.cookie, bound);
        Ok(bound)
    }

    /// As [`Supervisor::ensure_bound`], for a socket whose association may have ended: the kernel has then taken its port
    /// back. One that the program asked for stays its own, elsewhere in the kernel; in place of another it gets a new one.
    pub fn ensure_still_bound(&self, target: &Target) -> Result<Bound, Errno> {
        self.still_bound_at(target, |_| self.physical)
    }

    /// As [`Supervisor::ensure_still_bound`], before connect().
    pub fn ensure_bound_to_connect(&self, target: &Target) -> Result<Bound, Errno> {
        self.still_bound_at(target, |proto| match proto {
            Proto::Tcp => self.homes.next(),
            Proto::Udp => self.physical,
        })
    }

    fn still_bound_at(&self, target: &Target, place: impl FnOnce(Proto) -> Ipv4Addr) -> Result<Bound, Errno> {
        let before = self.table.lock().get(target.cookie).and_then(|s| Some((s.proto, s.v6, s.bound?)));
        let Some((proto, v6, bound)) = before else { return self.bound_at(target, place) };
        // Who sends to a datagram socket goes on, and some do so without being asked.
        if proto == Proto::Udp && bound.port_chosen && self.bind_physical(target, proto, v6, bound.physical).is_ok() {
            return Ok(bound);
        }
        let physical = match self.bind_physical(target, proto, v6, self.anywhere()) {
            Err(Errno::EINVAL) => return Ok(bound),
            other => other?,
        };
        let mut table = self.table.lock();
        table.unbind(target.cookie);
        let port = if bound.port_chosen { bound.virtual_.port() } else { table.free_port(proto, physical.port()) };
        let bound = Bound { virtual_: SocketAddr::new(bound.virtual_.ip(), port), physical, ..bound };
        table.bind(target.cookie, bound);
        Ok(bound)
    }

    /// The association of a datagram socket has ended. A port that the kernel chose is gone with it.
    pub fn note_lost_port(&self, target: &Target) -> Result<(), Errno> {
        let fd = std::os::fd::AsFd::as_fd(target);
        let bound = self.table.lock().get(target.cookie).and_then(|s| s.bound);
        let Some(bound) = bound else { return Ok(()) };
        if !sock::local_addr(fd).is_ok_and(|a| a.port() == 0) {
            return Ok(());
        }
        if bound.port_chosen {
            return self.ensure_still_bound(target).map(drop);
        }
        self.table.lock().unbind(target.cookie);
        Ok(())
    }

    /// On the run's address, the port as the kernel chooses.
    pub fn anywhere(&self) -> SocketAddrV4 {
        SocketAddrV4::new(self.physical, 0)
    }

    /// Binds the kernel's socket at an address of the run's; port 0 lets the kernel choose.
    pub fn bind_physical(
        &self,
        target: &Target,
        proto: Proto,
        v6: bool,
        wanted: SocketAddrV4,
    ) -> Result<SocketAddrV4, Errno> {
        let fd = std::os::fd::AsFd::as_fd(target);
        let address = if v6 { SocketAddr::V6(sock::mapped(wanted)) } else { SocketAddr::V4(wanted) };
        const LATE: (i32, i32) = (libc::IPPROTO_IP, libc::IP_BIND_ADDRESS_NO_PORT);
        if self.ports_come_late.load(Ordering::SeqCst) && sock::option(fd, LATE.0, LATE.1).is_ok_and(|late| late != 0) {
            sock::set_option(fd, LATE.0, LATE.1, 0).map_err(errno)?;
            let bound = self.bind_physical(target, proto, v6, wanted);
            sock::set_option(fd, LATE.0, LATE.1, 1).map_err(errno)?;
            return bound;
        }
        match sock::bind(fd, &address).map_err(errno) {
            // A send without an address, which is not trapped, makes the kernel bind a UDP socket to the wildcard: taken back.
            Err(Errno::EINVAL) if proto == Proto::Udp && sock::disconnect(fd).is_ok() => {
                sock::bind(fd, &address).map_err(errno)?
            }
            other => other?,
        }
        if wanted.port() != 0 {
            return Ok(wanted);
        }
        let chosen = || match sock::canonical(sock::local_addr(fd).map_err(errno)?) {
            SocketAddr::V4(physical) => Ok(physical),
            SocketAddr::V6(_) => Err(Errno::EADDRNOTAVAIL),
        };
        let known = |physical| self.table.lock().at(proto, physical).filter(|c| *c != target.cookie);
        let mut physical = chosen()?;
        if proto == Proto::Tcp {
            // Most often gone, and the report of it on its way.
            if let Some(former) = known(physical) {
                self.vacate(former);
            }
            return Ok(physical);
        }
        // What others of the run are connected to, still, is not for a socket with another name, nor is what another one has: the kernel lets two
        // share a port that both say SO_REUSEADDR of, also where it chooses it.
        for _ in 0..PORTS_TRIED {
            if !self.guards.is_held(proto, physical.port()) && known(physical).is_none() {
                return Ok(physical);
            }
            sock::disconnect(fd).and_then(|()| sock::bind(fd, &address)).map_err(errno)?;
            physical = chosen()?;
        }
        sock::disconnect(fd).map_err(errno)?;
        Err(Errno::EADDRINUSE)
    }

    /// Keeps the port of `to` from others, before a socket of the program is pointed there. None where the supervisor itself is.
    ///
    /// # Errors
    /// As [`Guards::hold`].
    pub fn guard(&self, proto: Proto, to: SocketAddrV4) -> Result<Option<Guard>, Errno> {
        if to == self.resolver || to == self.nobody.address(proto) {
            return Ok(None);
        }
        self.guards.hold(proto, to.port()).map(Some)
    }

    /// Another socket has the port of this one. Where the kernel shows it no more, it is gone, but for a connection that was reset, which is
    /// still open and keeps its names; else the two share the port, whatever their options say by now.
    pub fn vacate(&self, cookie: Cookie) {
        self.deaths.collect(self);
        let is_known = self.table.lock().get(cookie).is_some();
        if !is_known || self.deaths.is_alive(self, cookie) {
            return;
        }
        let mut table = self.table.lock();
        if table.get(cookie).is_some_and(|s| matches!(s.state, State::Connected { .. })) {
            table.unbind(cookie);
            return self.published.note();
        }
        table.remember_name(cookie);
        drop(table);
        self.destroyed(cookie);
    }

    /// The peer ended a session: what was announced by it does not come, and no BYE is owed for it.
    pub fn forget_session(self: &Arc<Self>, session: sipcore::agent::SessionId) {
        let left = self.table.lock().forget_session(session);
        if let Some(waiting) = left {
            self.runtime.spawn(crate::stub::left_by_its_peer(self.clone(), waiting));
        }
        if let Some(network) = &self.network {
            network.ended(session);
        }
    }

    /// Threads that were killed while their calls about this socket were held: the duplicates of it that are here go, at once.
    /// `lives` says whether it is still there.
    pub fn bury(&self, socket: Cookie, lives: impl Fn() -> bool) {
        /// What drops the duplicates is a task of its own, and the machine may be busy.
        const PATIENCE: Duration = Duration::from_secs(1);
        /// When it has been told so, it has little left to do. Others of the program may have the socket, too.
        const LAST_STEPS: Duration = Duration::from_millis(20);
        const STEP: Duration = Duration::from_micros(200);
        if !self.watcher.end_dead(socket) {
            return;
        }
        let started = Instant::now();
        while !self.watcher.is_left(socket) && lives() && started.elapsed() < PATIENCE {
            std::thread::sleep(STEP);
        }
        let left = Instant::now();
        while lives() && left.elapsed() < LAST_STEPS {
            std::thread::sleep(STEP);
        }
    }

    /// The kernel destroyed this socket.
    pub fn destroyed(&self, cookie: Cookie) {
        let mut table = self.table.lock();
        let listened = table.get(cookie).is_some_and(|s| matches!(s.state, State::Listening));
        let removed = table.remove(cookie);
        drop(table);
        if listened {
            self.sessions.links.listeners_changed();
        }
        self.published.note();
        if let Some(Removed { sessions, attempt, source }) = removed {
            if let Some(a) = attempt {
                a.set(crate::attempt::Progress::Abandoned);
            }
            if let Some(s) = source {
                self.stub.forget(self, &s, cookie);
            }
            for s in sessions {
                self.sessions.close(s);
            }
        }
    }
}

/// Ports that the kernel is asked for until one comes that nothing points to.
const PORTS_TRIED: usize = 16;

/// The port of the Domain Name System (RFC 1035, section 4.2).
const DNS: u16 = 53;

pub fn policy_proto(proto: Proto) -> policy::Proto {
    match proto {
        Proto::Tcp => policy::Proto::Tcp,
        Proto::Udp => policy::Proto::Udp,
    }
}

fn is_datagram(fd: BorrowedFd<'_>) -> bool {
    sock::socket_type(fd).is_ok_and(|t| t == libc::SOCK_DGRAM)
}

/// The errno that a policy names.
fn refusal(errno: policy::Errno) -> Errno {
    Errno::from_raw(errno.number())
}
