//! listen and accept of TCP sockets (and accept of AF_UNIX ones).

use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::libc;
use nix::poll::PollFlags;
use sandbox::memory::{AddressOut, sockaddr_bytes};
use sandbox::message::Name;
use sandbox::ready::when_ready;
use sandbox::sock;
use sipcore::agent::Proto;
use tokio::io::Interest;

use crate::call::{Call, Held, Target, Watch, errno};
use crate::doorbell;
use crate::flow::Links;
use crate::names::{self, is_reachable};
use crate::supervisor::Supervisor;
use crate::table::{Bound, Expected, Holding, Socket, State};
use crate::unix;

/// listen(2).
pub fn listen(mut call: Call) {
    let (number, backlog) = (call.int(0), call.int(1));
    call.note(|| format!("listen({number}, {backlog})"));
    let supervisor = call.supervisor;
    let result = (|| {
        let target = call.target(number)?;
        let proto = supervisor.known(&target)?;
        if proto.is_none() && crate::status::is_ours(target.as_fd()) {
            return Err(Errno::EACCES);
        }
        if proto == Some(Proto::Tcp) {
            if supervisor.table.lock().get(target.cookie).is_some_and(|s| matches!(s.state, State::Connecting(_))) {
                return Err(Errno::EINVAL);
            }
            let bound = supervisor.ensure_still_bound(&target)?;
            may_listen(supervisor, &target, &bound)?;
        }
        if target.is_of(libc::AF_UNIX) {
            return unix::listen(&call, &target, backlog).map(|()| None);
        }
        sock::listen(target.as_fd(), backlog)?;
        if proto != Some(Proto::Tcp) {
            return Ok(None);
        }
        let mut table = supervisor.table.lock();
        let Some(s) = table.get_mut(target.cookie) else { return Ok(None) };
        s.state = State::Listening;
        let bound = s.bound;
        drop(table);
        supervisor.sessions.links.listeners_changed();
        Ok(bound)
    })();
    supervisor.published.note();
    match result {
        Ok(Some(bound)) if is_reachable(supervisor, Proto::Tcp, &bound.virtual_) => {
            let runtime = supervisor.runtime.clone();
            runtime.spawn(async move {
                supervisor.sessions.ensure_registered().await;
                call.finish(Ok(0));
            });
        }
        Ok(_) => call.finish(Ok(0)),
        Err(e) => call.finish(Err(e)),
    }
}

/// Who may listen beside sockets whose addresses overlap is decided once more (inet_csk_listen_start).
fn may_listen(supervisor: &Supervisor, target: &Target, bound: &Bound) -> Result<(), Errno> {
    let beside = || {
        let table = supervisor.table.lock();
        let socket = table.get(target.cookie).filter(|s| matches!(s.state, State::Idle));
        let mut holding =
            socket.map_or_else(Holding::default, |s| table.holding(Proto::Tcp, &bound.virtual_, s.v6only));
        holding.beside.retain(|(_, at)| *at != bound.physical);
        holding
    };
    let before = beside();
    match names::may_be_beside(target, &before) {
        Err(Errno::EADDRINUSE) => {
            supervisor.deaths.catch_up(supervisor);
            let now = beside();
            if now == before { Err(Errno::EADDRINUSE) } else { names::may_be_beside(target, &now) }
        }
        other => other,
    }
}

/// A connection taken from a listener's queue.
struct Accepted {
    fd: OwnedFd,
    /// None for AF_UNIX.
    announced: Option<Announced>,
}

/// What is known of a connection that was announced.
struct Announced {
    expected: Expected,
    /// Where its listener is.
    bound: Bound,
    /// For the table, which does not know it yet.
    socket: Option<Socket>,
}

impl Announced {
    /// Says it to the table, unless that was done.
    fn know(&mut self, supervisor: &Supervisor, fd: &OwnedFd) {
        let Some(socket) = self.socket.take() else { return };
        match sock::socket_cookie(fd.as_fd()) {
            Ok(cookie) => supervisor.table.lock().insert_accepted(cookie, socket, self.bound),
            Err(error) => tracing::warn!(%error, "an accepted socket is not known"),
        }
    }
}

/// accept(2) and accept4(2).
pub fn accept(mut call: Call, flags: i32) {
    let number = call.int(0);
    call.note(|| format!("accept4({number}, {flags:#x})"));
    let target = match call.target(number) {
        // The order of __sys_accept4.
        Ok(_) | Err(Errno::ENOTSOCK) if flags & !(libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK) != 0 => {
            return call.finish(Err(Errno::EINVAL));
        }
        Ok(t) => t,
        Err(e) => return call.finish(Err(e)),
    };
    let inet = match call.supervisor.known(&target) {
        Ok(p) => p.is_some(),
        Err(e) => return call.finish(Err(e)),
    };
    let mut peer = Name::default();
    match take(call.supervisor, &target, inet, flags, &mut peer) {
        Err(Errno::EAGAIN) if sock::is_nonblocking(target.as_fd()).is_ok_and(|n| !n) => {
            wait(call, target, inet, flags);
        }
        result => deliver(call, result, &peer, flags, Some(target.fd)),
    }
}

/// Lets the thread wait for a connection. (Not in line with what is answered at once: a future is large, and so is the stack of who
/// makes it.)
#[cold]
#[inline(never)]
fn wait(call: Call, target: Target, inet: bool, flags: i32) {
    let runtime = call.supervisor.runtime.clone();
    let watch = call.watch(target.cookie);
    runtime.spawn(accept_later(call, watch, target, inet, flags));
}

async fn accept_later(call: Call, watch: Watch, target: Target, inet: bool, flags: i32) {
    let limit = receive_timeout(&target);
    let supervisor = call.supervisor;
    let mut peer = Name::default();
    let taking = async {
        let ready =
            when_ready(target.as_fd(), Interest::READABLE, || take(supervisor, &target, inet, flags, &mut peer));
        match limit {
            Some(limit) => tokio::time::timeout(limit, ready).await.unwrap_or(Err(Errno::EAGAIN)),
            None => ready.await,
        }
    };
    match watch.hold(taking).await {
        Held::Done(result) => {
            drop(target);
            deliver(call, result, &peer, flags, None);
        }
        Held::Interrupted => call.interrupted(limit),
        Held::Gone => {}
    }
}

/// SO_RCVTIMEO, when one is set.
pub fn receive_timeout(target: &Target) -> Option<Duration> {
    use nix::sys::time::TimeValLike;
    let t = nix::sys::socket::getsockopt(&target.fd, nix::sys::socket::sockopt::ReceiveTimeout).ok()?;
    u64::try_from(t.num_microseconds()).ok().filter(|us| *us > 0).map(Duration::from_micros)
}

/// Takes the next connection that was announced, with the peer's name that the program is to see; connections that nobody announced are reset. Never blocks, even if
/// the listener's file description is in blocking mode.
fn take(supervisor: &Supervisor, target: &Target, inet: bool, flags: i32, peer: &mut Name) -> Result<Accepted, Errno> {
    loop {
        let _one = supervisor.accepting.lock();
        if !sock::is_ready(target.as_fd(), PollFlags::POLLIN) && sock::is_listening(target.as_fd()).map_err(errno)? {
            return Err(Errno::EAGAIN);
        }
        let mut how = nix::sys::socket::SockFlag::SOCK_CLOEXEC;
        if flags & libc::SOCK_NONBLOCK != 0 {
            how |= nix::sys::socket::SockFlag::SOCK_NONBLOCK;
        }
        let fd = sock::accept(target.as_fd(), how, peer).map_err(errno)?;
        if !inet {
            supervisor.unix.senders.accepted(supervisor, fd.as_fd());
            return Ok(Accepted { fd, announced: None });
        }
        let Some(source) = peer.inet_v4() else { continue };
        let mut table = supervisor.table.lock();
        let (fd, expected) = if let Some(rung) = table.take_rung(source) {
            supervisor.era.end();
            // Of the supervisor's own making, or of an accept() with other flags.
            let media = rung.media.as_fd();
            match flags & libc::SOCK_NONBLOCK {
                0 => sock::set_blocking(media),
                _ => sock::set_nonblocking(media),
            }
            .map_err(errno)?;
            (rung.media, rung.expected)
        } else if let Some(expected) = table.take_expected(&source, target.cookie) {
            if expected.session.is_some() {
                if supervisor.homes.has(*source.ip()) {
                    Links::shorten_accepted(fd.as_fd(), target.as_fd());
                } else {
                    // The peer's own program may send urgent data.
                    supervisor.era.end();
                }
            }
            (fd, expected)
        } else {
            drop(table);
            tracing::debug!(%source, "a connection that no session announced was reset");
            let _ = sock::reset_on_close(fd.as_fd());
            continue;
        };
        let listener = table.get(target.cookie).and_then(|s| Some((s.v6, s.v6only, s.bound?)));
        let Some((v6, v6only, bound)) = listener else { continue };
        let seen = Supervisor::seen_by(v6, expected.peer);
        let local = match expected.local {
            Some(local) => Supervisor::seen_by(v6, local),
            None if bound.virtual_.ip().is_unspecified() => supervisor.local_for(&seen, bound.virtual_.port()),
            None => bound.virtual_,
        };
        let socket = Socket {
            proto: Proto::Tcp,
            v6,
            v6only,
            bound: None,
            former: None,
            state: State::Connected { local, peer: seen, session: expected.session, guard: None },
            error: None,
            datagram: None,
            begun: 0,
        };
        peer.set(&sockaddr_bytes(&seen));
        return Ok(Accepted { fd, announced: Some(Announced { expected, bound, socket: Some(socket) }) });
    }
}

/// The answer of accept(). `listener`: this process' duplicate, in the thread that receives what is trapped: nobody can ask for the new socket before
/// this returns, and the table need not hear of it before the program runs. Nor does the program miss the duplicate: what it closes then, and what is
/// in the listener's queue, is looked at by its next call, which comes after.
fn deliver(call: Call, result: Result<Accepted, Errno>, peer: &Name, flags: i32, listener: Option<OwnedFd>) {
    let Accepted { fd, mut announced } = match result {
        Ok(a) => a,
        Err(e) => {
            listener.into_iter().for_each(sandbox::direct::close);
            return call.finish(Err(e));
        }
    };
    let supervisor = call.supervisor;
    let out = AddressOut { address: call.argument(1), length: call.argument(2) };
    let written = call.n.write_address(out, peer);
    if let Some(announced) = &mut announced
        && (listener.is_none() || written.is_err())
    {
        announced.know(supervisor, &fd);
    }
    if let Err(e) = written {
        return call.finish(Err(e));
    }
    call.install(fd, flags & libc::SOCK_CLOEXEC != 0, |fd, installed| match (installed, announced) {
        // Natively a connection for which there is no descriptor stays in the queue.
        (Err(Errno::EMFILE | Errno::ENFILE), Some(Announced { expected, bound, .. })) => {
            doorbell::put_back(supervisor, fd, bound, expected);
        }
        (_, announced) => {
            // Its end is noticed only when it is known.
            announced.into_iter().for_each(|mut announced| announced.know(supervisor, &fd));
            sandbox::direct::close(fd);
            listener.into_iter().for_each(sandbox::direct::close);
        }
    });
}
