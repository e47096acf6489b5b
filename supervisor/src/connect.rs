//! connect of every kind of socket, and the sessions of TCP ones.

use std::future::Future;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::PollFlags;
use sandbox::memory::Address;
use sandbox::ready::when_ready;
use sandbox::sock::{self, Progress as Connect};
use sipcore::agent::{Label, Proto, SessionId};
use tokio::io::Interest;

use crate::attempt::{Attempt, Progress};
use crate::call::{Call, Held, Target, errno};
use crate::guard::Guard;
use crate::send::send_timeout;
use crate::sessions::{Callee, Failure, Flow};
use crate::supervisor::{Supervisor, Way};
use crate::table::{Bound, Cookie, Expected, State};
use crate::{datagram, netlink, unix};

/// A non-blocking connect waits at most this long for its session before it is parked: within it the program keeps
/// its native path, beyond it the flow is relayed.
pub const PARK_AFTER: Duration = Duration::from_millis(25);

/// connect(2), of every kind of socket.
pub fn connect(mut call: Call) {
    let number = call.int(0);
    call.note(|| format!("connect({number})"));
    let read = call.target_after(number, |memory| memory.address(call.argument(1), call.argument(2)));
    let (target, address) = match read.and_then(|(target, address)| Ok((target, address?))) {
        Ok(read) => read,
        // The order of __sys_connect: what kind of descriptor it is comes last.
        Err(Errno::ENOTSOCK) => {
            let address = call.n.address(call.argument(1), call.argument(2));
            return call.finish(Err(address.err().unwrap_or(Errno::ENOTSOCK)));
        }
        Err(e) => return call.finish(Err(e)),
    };
    call.note(|| format!("connect({number}, {address})"));
    match call.supervisor.meet(&target) {
        Ok((Some(Proto::Tcp), new)) => connect_stream(call, target, &address, new),
        Ok((Some(Proto::Udp), _)) => datagram::connect(call, target, &address),
        Ok((None, _)) if netlink::is_one(&target) => netlink::connect(call, target),
        Ok((None, _)) => unix::connect(call, target),
        Err(e) => call.finish(Err(e)),
    }
}

/// As a destination "any address" means the loopback one (ip_route_output_key, tcp_v6_connect). Flow and scope mean nothing here.
pub fn loopback_for_any(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.to_canonical().is_unspecified() => Ipv4Addr::LOCALHOST.to_ipv6_mapped().into(),
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        other => other,
    };
    SocketAddr::new(ip, address.port())
}

/// The Internet address of a connect() or sendto(), or Linux's own refusal of it.
pub fn destination(address: &Address, v6: bool, v6only: bool) -> Result<SocketAddr, Errno> {
    match address {
        Address::Inet(a) if a.is_ipv4() && !v6 => Ok(loopback_for_any(*a)),
        Address::Inet(a) if a.is_ipv6() && v6 => {
            if v6only && a.ip().to_canonical().is_ipv4() {
                Err(Errno::ENETUNREACH)
            } else {
                Ok(loopback_for_any(*a))
            }
        }
        Address::Other { length, .. } if *length < if v6 { 24 } else { 16 } => Err(Errno::EINVAL),
        _ => Err(Errno::EAFNOSUPPORT),
    }
}

/// connect(2) of a TCP socket; `new`: nothing was known of it until now, so that the program has not connected it yet.
pub fn connect_stream(mut call: Call, target: Target, address: &Address, new: bool) {
    let supervisor = call.supervisor;
    let nonblocking = call.dont_wait || sock::is_nonblocking(target.as_fd()).unwrap_or(false);
    if matches!(address, Address::Unspecified(_)) {
        let result = disconnect(supervisor, &target);
        drop(target);
        return call.finish(result);
    }
    if matches!(address, Address::Other { length: 0..2, .. }) {
        return call.finish(Err(Errno::EINVAL));
    }
    let (attempt, v6, v6only) = {
        let table = supervisor.table.lock();
        let Some(s) = table.get(target.cookie) else { return call.finish(Err(Errno::EBADF)) };
        match &s.state {
            State::Connecting(attempt) => (Some(attempt.clone()), s.v6, s.v6only),
            _ => (None, s.v6, s.v6only),
        }
    };
    match attempt {
        Some(_) if nonblocking && is_connected(&target) => {}
        Some(_) if nonblocking => return call.finish(Err(Errno::EALREADY)),
        Some(attempt) => return join(call, target, attempt),
        None => {}
    }
    if !new && let Some(answer) = connect_again(supervisor, &target) {
        return answer_again(call, target, answer, nonblocking);
    }
    let peer = match destination(address, v6, v6only) {
        Ok(p) => p,
        Err(e) => return call.finish(Err(e)),
    };
    // No host has these (tcp_v4_connect, tcp_v6_connect).
    let to = peer.ip().to_canonical();
    let nobodys = to.is_multicast() || matches!(to, IpAddr::V4(ip) if datagram::is_broadcast(ip));
    let way = match nobodys {
        true => Way::Refused(Errno::ENETUNREACH),
        false => supervisor.way(&mut call, Proto::Tcp, None, peer),
    };
    if let Way::Refused(e) = way
        && e != Errno::ECONNREFUSED
    {
        // One that was made elsewhere may be connected.
        return match new.then(|| connect_again(supervisor, &target)).flatten() {
            Some(answer) => answer_again(call, target, answer, nonblocking),
            None => call.finish(Err(e)),
        };
    }
    let bound = match supervisor.ensure_bound_to_connect(&target) {
        Ok(b) => b,
        // It has a name already: somebody else made it, and perhaps connected it. (One that could be bound is as socket(2) made it.)
        Err(e) if new => {
            return match connect_again(supervisor, &target) {
                Some(answer) => answer_again(call, target, answer, nonblocking),
                None => call.finish(Err(e)),
            };
        }
        Err(e) => return call.finish(Err(e)),
    };
    let local = if bound.virtual_.ip().is_unspecified() {
        supervisor.local_for(&peer, bound.virtual_.port())
    } else {
        bound.virtual_
    };
    let ends = Ends { local, peer, v6 };
    let alike = supervisor.table.lock().connected_alike(target.cookie, &local, &peer);
    if let Some((other, at)) = alike
        && sandbox::diag::cookie_at(at.local.into(), at.to.into()).is_ok_and(|found| found == Some(other))
    {
        return call.finish(Err(Errno::EADDRNOTAVAIL));
    }
    match way {
        // To itself: a simultaneous open with one socket for both ends (RFC 9293, 3.5).
        Way::Refused(_) if sock::canonical(local) == sock::canonical(peer) => {
            connect_near(call, target, ends, (bound.physical, None), nonblocking);
        }
        Way::Refused(_) | Way::Former => {
            let nobody = supervisor.nobody.address(Proto::Tcp);
            connect_near(call, target, ends, (nobody, None), nonblocking);
        }
        Way::Resolver => connect_near(call, target, ends, (supervisor.resolver, None), nonblocking),
        Way::Own(listener, to) => {
            // What was shut down, or closed a moment ago, must not leave the address to a service on the wildcard address.
            let guard = match supervisor.guard(Proto::Tcp, to.physical) {
                Ok(guard) => guard,
                Err(Errno::EADDRINUSE) => {
                    let nobody = supervisor.nobody.address(Proto::Tcp);
                    return connect_near(call, target, ends, (nobody, None), nonblocking);
                }
                Err(e) => return call.finish(Err(e)),
            };
            let is_bound = || sandbox::diag::is_bound(to.physical, bound.physical, true).unwrap_or(false);
            supervisor.bury(listener, is_bound);
            let mut table = supervisor.table.lock();
            // It may have gone since it was found: another with its name takes the call then.
            let listener = if table.get(listener).is_some() { Some(listener) } else { table.listener_at(&to) };
            let displaced = listener.and_then(|listener| {
                let expected = Expected { listener, peer: local, local: Some(peer), session: None };
                table.expect(bound.physical, expected)
            });
            drop(table);
            supervisor.sessions.close_displaced(displaced);
            connect_near(call, target, ends, (to.physical, guard), nonblocking);
        }
        Way::Peer(callee) => connect_peer(call, target, address, ends, (callee, bound), nonblocking),
    }
}

/// To a peer, by a session.
#[inline(never)]
fn connect_peer(
    mut call: Call,
    target: Target,
    address: &Address,
    ends: Ends,
    (callee, bound): (Arc<Callee>, Bound),
    nonblocking: bool,
) {
    let supervisor = call.supervisor;
    let attempt = Arc::new(Attempt::new());
    match claim(supervisor, target.cookie, &attempt) {
        Ok(()) => {}
        // Another thread was faster: this one asks again, and joins it.
        Err(Errno::EALREADY) => return connect_stream(call, target, address, false),
        Err(e) => return call.finish(Err(e)),
    }
    let label = Label { proto: Proto::Tcp, port: ends.peer.port() };
    if let Some(flow) = supervisor.sessions.open_early(supervisor, &callee, label, bound.physical, ends.local) {
        call.flow(|| flow.kind.to_owned());
        return connect_standing(call, target, ends, (flow, &attempt), nonblocking);
    }
    let connecting = Connecting { callee, target, ends, bound, attempt };
    let runtime = supervisor.runtime.clone();
    if nonblocking {
        runtime.spawn(connecting.without_blocking(call));
    } else {
        runtime.spawn(connecting.blocking(call));
    }
}

/// What the kernel says to a connect() of a socket that was connected, or tried to, before.
fn answer_again(call: Call, target: Target, answer: Result<(), Errno>, nonblocking: bool) {
    if answer == Err(Errno::EALREADY) && !nonblocking {
        return finish_handshake(call, target, Errno::EALREADY);
    }
    drop(target);
    call.finish(answer.map(|()| 0));
}

/// Lets the thread wait for the kernel's handshake. (Not in line with what is answered at once: a future is large, and so is the stack
/// of who makes it.)
#[cold]
#[inline(never)]
fn finish_handshake(call: Call, target: Target, timed_out: Errno) {
    let runtime = call.supervisor.runtime.clone();
    runtime.spawn(await_handshake(call, target, timed_out));
}

/// Lets the thread wait for the attempt of another one.
#[cold]
#[inline(never)]
fn join(call: Call, target: Target, attempt: Arc<Attempt>) {
    let runtime = call.supervisor.runtime.clone();
    runtime.spawn(wait_for(call, target, attempt));
}

/// Makes this the attempt of the socket, unless another thread has connected it meanwhile, or is about to.
fn claim(supervisor: &Supervisor, cookie: Cookie, attempt: &Arc<Attempt>) -> Result<(), Errno> {
    let mut table = supervisor.table.lock();
    let Some(s) = table.get_mut(cookie) else { return Ok(()) };
    match s.state {
        State::Idle => {
            s.state = State::Connecting(attempt.clone());
            s.begun = s.begun.wrapping_add(1);
        }
        State::Connecting(_) => return Err(Errno::EALREADY),
        State::Listening | State::Connected { .. } => return Err(Errno::EISCONN),
    }
    Ok(())
}

/// A parked socket is connected before its attempt is said to be over: whom poll(2) has told already gets the kernel's word.
pub fn is_connected(target: &Target) -> bool {
    sock::peer_addr(target.as_fd()).is_ok()
}

/// What the kernel says to a connect() of this socket, whatever became of it since the last one; None: it is as a fresh one.
fn connect_again(supervisor: &Supervisor, target: &Target) -> Option<Result<(), Errno>> {
    let begun = supervisor.table.lock().get(target.cookie)?.begun;
    let answer = sock::connect_again(target.as_fd()).map_err(errno);
    if matches!(answer, Ok(()) | Err(Errno::EALREADY | Errno::EISCONN)) {
        return Some(answer);
    }
    // It failed, or shutdown(2) took it back.
    let (before, own) = {
        let mut table = supervisor.table.lock();
        let s = table.get_mut(target.cookie)?;
        if s.begun != begun {
            // Another thread asked, too, and has begun another one meanwhile, for which its port is kept.
            return Some(answer.map_err(|e| if e == Errno::EINVAL { Errno::EALREADY } else { e }));
        }
        (std::mem::replace(&mut s.state, State::Idle), s.error.take())
    };
    if let State::Connected { session: Some(id), .. } = before {
        supervisor.sessions.close(id);
    }
    match answer {
        Err(Errno::EINVAL) => None,
        _ => Some(answer.map_err(|e| own.unwrap_or(e))),
    }
}

/// Waits for the end of the kernel's handshake, and takes its outcome by `again` as a blocking connect() does.
pub async fn handshake(fd: BorrowedFd<'_>, mut again: impl FnMut() -> Result<(), Errno>) -> Result<(), Errno> {
    when_ready(fd, Interest::WRITABLE, || {
        if !sock::is_ready(fd, PollFlags::POLLOUT) {
            return Err(Errno::EAGAIN);
        }
        match again() {
            // Another thread asked first.
            Err(Errno::EISCONN) => Ok(()),
            Err(Errno::EALREADY) => Err(Errno::EAGAIN),
            answer => answer,
        }
    })
    .await
}

/// Waits as a blocking connect() does, at most for SO_SNDTIMEO; `timed_out` is the answer then.
async fn await_handshake(call: Call, target: Target, timed_out: Errno) {
    let supervisor = call.supervisor;
    let limit = send_timeout(&target);
    let again = || connect_again(supervisor, &target).unwrap_or(Err(Errno::ECONNABORTED));
    let handshake = handshake(target.as_fd(), again);
    let limited = async {
        match limit {
            Some(limit) => tokio::time::timeout(limit, handshake).await.unwrap_or(Err(timed_out)),
            None => handshake.await,
        }
    };
    let ended = call.hold(target.cookie, limited).await;
    drop(target);
    match ended {
        Held::Done(result) => call.finish(result.map(|()| 0)),
        Held::Interrupted => call.interrupted(limit),
        Held::Gone => {}
    }
}

/// connect(AF_UNSPEC): the socket is as new, its session ends.
fn disconnect(supervisor: &Supervisor, target: &Target) -> Result<i64, Errno> {
    sock::disconnect(target.as_fd()).map_err(errno)?;
    let mut table = supervisor.table.lock();
    let before = table.get_mut(target.cookie).map(|s| std::mem::replace(&mut s.state, State::Idle));
    drop(table);
    match before {
        Some(State::Listening) => supervisor.sessions.links.listeners_changed(),
        Some(State::Connected { session: Some(id), .. }) => supervisor.sessions.close(id),
        Some(State::Connecting(attempt)) => attempt.set(Progress::Abandoned),
        _ => {}
    }
    Ok(0)
}

/// The two virtual ends of a connection.
#[derive(Clone, Copy)]
struct Ends {
    local: SocketAddr,
    peer: SocketAddr,
    v6: bool,
}

impl Ends {
    fn physical(&self, to: SocketAddrV4) -> SocketAddr {
        if self.v6 { SocketAddr::V6(sock::mapped(to)) } else { SocketAddr::V4(to) }
    }
}

/// Names the ends. Done before the kernel connects: a thread that polls the socket may ask for its peer the moment that it
/// is connected, and must not hear ENOTCONN then.
fn set_connected(
    supervisor: &Supervisor,
    cookie: Cookie,
    ends: Ends,
    session: Option<SessionId>,
    guard: Option<(SocketAddrV4, Guard)>,
) {
    let mut table = supervisor.table.lock();
    if let Some(s) = table.get_mut(cookie) {
        s.state = State::Connected { local: ends.local, peer: ends.peer, session, guard };
        s.begun = s.begun.wrapping_add(1);
        if let Some(session) = session {
            table.note_session(session, cookie);
        }
    }
}

/// The kernel's connect failed after all.
fn set_idle(supervisor: &Supervisor, cookie: Cookie, why: Errno) {
    // Another thread has connected it.
    if matches!(why, Errno::EISCONN | Errno::EALREADY) {
        return;
    }
    if let Some(s) = supervisor.table.lock().get_mut(cookie) {
        s.state = State::Idle;
    }
}

/// Connects to an endpoint of this run, or of the supervisor: no session, the kernel's own connect.
fn connect_near(call: Call, target: Target, ends: Ends, (to, guard): (SocketAddrV4, Option<Guard>), nonblocking: bool) {
    let supervisor = call.supervisor;
    set_connected(supervisor, target.cookie, ends, None, guard.map(|guard| (to, guard)));
    let connected = sock::connect_known(target.as_fd(), &ends.physical(to), nonblocking && !call.dont_wait);
    let connected = connected.map_err(errno).inspect_err(|e| set_idle(supervisor, target.cookie, *e));
    answer_connect(call, target, connected, nonblocking);
}

/// Connects to a flow that stands. `attempt`: what other threads wait for.
fn connect_standing(call: Call, target: Target, ends: Ends, (flow, attempt): (Flow, &Attempt), nonblocking: bool) {
    let supervisor = call.supervisor;
    let cookie = target.cookie;
    let connected = supervisor.guard(Proto::Tcp, flow.media).and_then(|guard| {
        supervisor.sessions.links.shorten(target.as_fd(), flow.media);
        set_connected(supervisor, cookie, ends, Some(flow.session), guard.map(|guard| (flow.media, guard)));
        let connected = sock::connect_known(target.as_fd(), &ends.physical(flow.media), nonblocking && !call.dont_wait);
        connected.map_err(errno)
    });
    if let Err(e) = connected {
        set_idle(supervisor, cookie, e);
        supervisor.sessions.close(flow.session);
    }
    attempt.set(Progress::Done(connected.map(drop)));
    answer_connect(call, target, connected, nonblocking);
}

/// What a connect() of the kernel's on this machine says.
fn answer_connect(call: Call, target: Target, connected: Result<Connect, Errno>, nonblocking: bool) {
    match connected {
        Ok(_) if nonblocking => {
            drop(target);
            call.finish(Err(Errno::EINPROGRESS));
        }
        Ok(Connect::Done) => {
            drop(target);
            call.finish(Ok(0));
        }
        Ok(Connect::InProgress) => finish_handshake(call, target, Errno::EINPROGRESS),
        Err(e) => {
            drop(target);
            call.finish(Err(e));
        }
    }
}

/// A thread that repeats its connect() joins the attempt under way.
async fn wait_for(call: Call, target: Target, attempt: Arc<Attempt>) {
    let limit = send_timeout(&target);
    let ended = call.hold(target.cookie, within(limit, attempt.finished(), Err(Errno::EALREADY))).await;
    let supervisor = call.supervisor;
    match ended {
        Held::Done(result) => {
            // As the kernel's connect() does, this one takes the outcome off the socket.
            let result = match result {
                Err(Errno::EALREADY) => result,
                _ => match connect_again(supervisor, &target) {
                    None | Some(Err(Errno::EISCONN)) => result,
                    Some(taken) => taken,
                },
            };
            drop(target);
            call.finish(result.map(|()| 0));
        }
        Held::Interrupted => {
            drop(target);
            call.interrupted(limit);
        }
        Held::Gone => {}
    }
}

/// What `operation` gives within the time limit, if there is one; `late` after it.
pub async fn within<T>(limit: Option<Duration>, operation: impl Future<Output = T>, late: T) -> T {
    match limit {
        Some(limit) => tokio::time::timeout(limit, operation).await.unwrap_or(late),
        None => operation.await,
    }
}

type Opened = Result<Flow, Failure>;

/// A connect() that needs a session.
struct Connecting {
    callee: Arc<Callee>,
    target: Target,
    ends: Ends,
    bound: Bound,
    attempt: Arc<Attempt>,
}

impl Connecting {
    /// INVITE and answer.
    fn opening(&self, supervisor: &Arc<Supervisor>) -> impl Future<Output = Opened> + Send + use<> {
        let label = Label { proto: Proto::Tcp, port: self.ends.peer.port() };
        let (callee, source, local) = (self.callee.clone(), self.bound.physical, self.ends.local);
        let supervisor = supervisor.clone();
        async move { supervisor.sessions.open(&callee, label, source, local).await }
    }

    /// The program's own socket to the flow's address. What carries it, for the trace.
    async fn settle(&self, supervisor: &Arc<Supervisor>, opened: Opened) -> Result<&'static str, Errno> {
        let flow = opened.map_err(|f| f.errno)?;
        self.check_wanted(supervisor, &flow)?;
        self.name(supervisor, &flow)?;
        let connected = async {
            match sock::connect_nowait(self.target.as_fd(), &self.ends.physical(flow.media)).map_err(errno)? {
                Connect::Done => Ok(()),
                Connect::InProgress => {
                    let fd = self.target.as_fd();
                    handshake(fd, || sock::connect_again(fd).map_err(errno)).await
                }
            }
        };
        let connected = connected.await.inspect_err(|e| {
            set_idle(supervisor, self.target.cookie, *e);
            supervisor.sessions.close(flow.session);
        });
        connected.map(|()| flow.kind)
    }

    /// Ends the attempt: the socket's state, and whoever else waits.
    fn end(&self, supervisor: &Supervisor, result: Result<(), Errno>) {
        if result.is_err()
            && let Some(s) = supervisor.table.lock().get_mut(self.target.cookie)
            && matches!(s.state, State::Connecting(_))
        {
            s.state = State::Idle;
        }
        self.attempt.set(Progress::Done(result));
    }

    async fn blocking(self, mut call: Call) {
        let supervisor = call.supervisor;
        let mut opening = Box::pin(self.opening(supervisor));
        let limit = send_timeout(&self.target);
        let opened =
            match call.hold(self.target.cookie, within(limit, async { Some((&mut opening).await) }, None)).await {
                Held::Done(Some(opened)) => opened,
                Held::Done(None) => return self.park(call, opening, |call| call.finish(Err(Errno::EINPROGRESS))).await,
                // The handler runs; a restarted or repeated connect() joins the attempt.
                Held::Interrupted => return self.park(call, opening, |call| call.interrupted(limit)).await,
                Held::Gone => {
                    drop(opening);
                    return self.end(supervisor, Err(Errno::ECONNABORTED));
                }
            };
        let mut work = Box::pin(self.settle(supervisor, opened));
        match call.hold(self.target.cookie, &mut work).await {
            Held::Done(result) => {
                drop(work);
                self.end(supervisor, result.map(drop));
                if let Ok(kind) = result {
                    call.flow(|| kind.to_owned());
                }
                drop(self);
                call.finish(result.map(|_| 0));
            }
            Held::Interrupted => {
                call.interrupted(limit);
                let result = work.await;
                self.end(supervisor, result.map(drop));
            }
            Held::Gone => {
                drop(work);
                self.end(supervisor, Err(Errno::ECONNABORTED));
            }
        }
    }

    /// The thread waits no longer for the session, but the socket does: `answer` is what the thread gets.
    async fn park(self, mut call: Call, opening: impl Future<Output = Opened>, answer: impl FnOnce(Call)) {
        let supervisor = call.supervisor;
        // The relay's own socket will share the address of the parked one.
        let shared = nix::sys::socket::setsockopt(&self.target.fd, nix::sys::socket::sockopt::ReuseAddr, &true);
        let parked = shared.map_err(std::io::Error::from).map_err(Into::into);
        match parked.and_then(|()| supervisor.lot.park(self.target.as_fd())) {
            Ok(_) => {
                call.flow(|| "parked, to be a relayed flow".to_owned());
                let parked = self.into_parked();
                answer(call);
                crate::parking::wait(supervisor.clone(), parked, opening).await;
            }
            Err(e) => {
                tracing::warn!(error = %e, "a connect could not be parked");
                self.end(supervisor, Err(Errno::ENETUNREACH));
                drop(self);
                call.finish(Err(Errno::ENETUNREACH));
            }
        }
    }

    async fn without_blocking(self, mut call: Call) {
        let supervisor = call.supervisor;
        let mut opening = Box::pin(self.opening(supervisor));
        let Ok(opened) = tokio::time::timeout(PARK_AFTER, &mut opening).await else {
            return self.park(call, opening, |call| call.finish(Err(Errno::EINPROGRESS))).await;
        };
        // On loopback the kernel's handshake is over when connect() returns, and still it says EINPROGRESS.
        let result = match opened {
            Ok(flow) => {
                call.flow(|| flow.kind.to_owned());
                self.kernel_connect(supervisor, flow)
            }
            Err(f) => Err(f.errno),
        };
        self.end(supervisor, result);
        drop(self);
        call.finish(Err(result.err().unwrap_or(Errno::EINPROGRESS)));
    }

    /// The program may have taken the attempt back (connect with AF_UNSPEC), and begun another.
    fn check_wanted(&self, supervisor: &Supervisor, flow: &Flow) -> Result<(), Errno> {
        let is_this = |s: &State| matches!(s, State::Connecting(a) if Arc::ptr_eq(a, &self.attempt));
        if supervisor.table.lock().get(self.target.cookie).is_some_and(|s| is_this(&s.state)) {
            return Ok(());
        }
        supervisor.sessions.close(flow.session);
        Err(Errno::ECONNABORTED)
    }

    /// Names the ends of the socket that is to be connected to this flow.
    fn name(&self, supervisor: &Supervisor, flow: &Flow) -> Result<(), Errno> {
        match supervisor.guard(Proto::Tcp, flow.media) {
            Ok(guard) => {
                if !supervisor.sessions.links.shorten(self.target.as_fd(), flow.media) {
                    // The peer's own program may send urgent data.
                    supervisor.era.end();
                }
                set_connected(
                    supervisor,
                    self.target.cookie,
                    self.ends,
                    Some(flow.session),
                    guard.map(|guard| (flow.media, guard)),
                );
                Ok(())
            }
            Err(_) => {
                supervisor.sessions.close(flow.session);
                Err(Errno::ECONNREFUSED)
            }
        }
    }

    fn kernel_connect(&self, supervisor: &Supervisor, flow: Flow) -> Result<(), Errno> {
        self.check_wanted(supervisor, &flow)?;
        self.name(supervisor, &flow)?;
        match sock::connect_nowait(self.target.as_fd(), &self.ends.physical(flow.media)) {
            Ok(_) => Ok(()),
            Err(e) => {
                let e = errno(e);
                set_idle(supervisor, self.target.cookie, e);
                supervisor.sessions.close(flow.session);
                Err(e)
            }
        }
    }

    /// The duplicate of the program's socket is given up: from now on its close must be seen.
    fn into_parked(self) -> crate::parking::Parked {
        crate::parking::Parked {
            cookie: self.target.cookie,
            source: self.bound.physical,
            local: self.ends.local,
            peer: self.ends.peer,
            attempt: self.attempt,
        }
    }
}
