//! AF_UNIX sockets with an address. A program reaches the sockets that this run bound; a socket of somebody else is a
//! way out (a daemon behind it may open connections for the program), so the policy says which of those it reaches.

mod names;
mod peers;
mod reach;
mod senders;

use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::libc;
use sandbox::caller::Caller;
use sandbox::sock;

pub use names::Names;
pub use peers::{Credentials, Peers, get_credentials};
pub use senders::{Senders, given, set_asking};

use crate::call::{Call, Held, Target, errno};
use crate::datagram::Holder;
use crate::send::send_timeout;
use crate::supervisor::Supervisor;
use reach::{Reach, reach};

/// sun_family comes before the name.
const FAMILY: usize = 2;
/// The least and the longest between two looks whether a listener has room again: of that nobody is told.
const PAUSE: Duration = Duration::from_millis(1);
const LONGEST_PAUSE: Duration = Duration::from_millis(8);
/// All that wait together look this far apart on average: what their looks cost does not grow with their number.
const BETWEEN_LOOKS: Duration = Duration::from_micros(500);

/// One of those that wait till a listener has room.
struct Queued(&'static AtomicU32);

impl Queued {
    fn among(all: &'static AtomicU32) -> Queued {
        all.fetch_add(1, Ordering::Relaxed);
        Queued(all)
    }

    fn least_pause(&self) -> Duration {
        BETWEEN_LOOKS * self.0.load(Ordering::Relaxed)
    }
}

impl Drop for Queued {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

fn raw_address(call: &Call) -> Result<Vec<u8>, Errno> {
    let length = usize::try_from(call.int(2)).map_err(|_| Errno::EINVAL)?;
    // sizeof(struct sockaddr_un).
    if length > 110 {
        return Err(Errno::EINVAL);
    }
    let name = call.n.read(call.argument(1), length)?;
    if matches!(family(&name), libc::AF_UNIX | libc::AF_UNSPEC) { Ok(name) } else { Err(Errno::EINVAL) }
}

fn family(name: &[u8]) -> i32 {
    name.first_chunk::<2>().map_or(0, |f| i32::from(u16::from_ne_bytes(*f)))
}

/// bind(2) of an AF_UNIX socket.
pub fn bind(call: Call, target: Target) {
    let result = raw_address(&call).and_then(|name| {
        let file = call.n.caller()?.bind(&target.fd, &name)?;
        // Without a name the kernel chose an abstract one.
        let bound = if name.len() <= FAMILY { sandbox::message::raw_name(target.as_fd(), false)? } else { name };
        call.supervisor.unix.names.lock().remember(bound, file, &target, Holder::of(&call, &target));
        Ok(0)
    });
    drop(target);
    call.finish(result);
}

/// listen(2) of an AF_UNIX socket, made for the program: within the run SO_PEERCRED of who connects names the program.
///
/// # Errors
/// What listen(2) gives; ESRCH when the caller is gone.
pub fn listen(call: &Call, target: &Target, backlog: i32) -> Result<(), Errno> {
    let caller = call.n.caller()?;
    caller.listen(&target.fd, backlog)?;
    call.supervisor.unix.peers.listens(target, &caller);
    call.supervisor.unix.senders.heard();
    Ok(())
}

/// connect(2) of an AF_UNIX socket.
pub fn connect(call: Call, target: Target) {
    let name = match raw_address(&call) {
        Ok(n) => n,
        Err(e) => return call.finish(Err(e)),
    };
    // AF_UNSPEC dissolves a datagram association.
    if family(&name) == libc::AF_UNSPEC {
        let result = sock::disconnect(target.as_fd()).map_err(errno);
        drop(target);
        return call.finish(result.map(|()| 0));
    }
    let runtime = call.supervisor.runtime.clone();
    runtime.spawn(connect_to(call, target, name));
}

/// The kernel's connect() waits while the listener has no room. Here it is tried again and again: whose name it is, is asked each time.
async fn connect_to(call: Call, target: Target, name: Vec<u8>) {
    let limit = send_timeout(&target);
    let (started, mut pause, mut queued) = (Instant::now(), PAUSE, None);
    let (target, name) = (Arc::new(target), Arc::new(name));
    let result = loop {
        let (supervisor, thread, waiting) = (call.supervisor, call.n.thread, call.n.reply.watch());
        let (own, to) = (target.clone(), name.clone());
        let tried = tokio::task::spawn_blocking(move || {
            let caller = Caller::of(thread, move || waiting.is_waiting())?;
            connect_now(supervisor, &caller, &own, &to)
        });
        let tried = tried.await.unwrap_or(Err(Errno::EIO));
        let late = limit.is_some_and(|limit| started.elapsed() >= limit);
        if tried != Err(Errno::EAGAIN) || late || sock::is_nonblocking(target.as_fd()).unwrap_or(true) {
            break tried;
        }
        let queued = queued.get_or_insert_with(|| Queued::among(&supervisor.unix.queued));
        let next = pause.max(queued.least_pause());
        let left = limit.map_or(next, |limit| next.min(limit.saturating_sub(started.elapsed())));
        match call.hold(target.cookie, tokio::time::sleep(left)).await {
            Held::Done(()) => pause = (pause * 2).min(LONGEST_PAUSE),
            Held::Interrupted => {
                drop(target);
                return call.interrupted(limit);
            }
            Held::Gone => return,
        }
    };
    drop(target);
    call.finish(result.map(|()| 0));
}

/// EAGAIN when the listener has no room.
fn connect_now(supervisor: &Supervisor, caller: &Caller, target: &Target, name: &[u8]) -> Result<(), Errno> {
    let to = reach(supervisor, caller, target, name)?;
    caller.connect(&target.fd, &to.name).inspect_err(|e| to.explain(supervisor, caller, *e))?;
    if to.is_own && !is_datagram(target) {
        // Between bind() and the look at its file another's may have come there, if the kernel did not say whose it is.
        if !to.is_certain && !is_own_listener(target, &to) {
            let _ = nix::sys::socket::shutdown(target.fd.as_raw_fd(), nix::sys::socket::Shutdown::Both);
            return Err(Errno::EACCES);
        }
        supervisor.unix.peers.connected(target, to.socket, caller);
    }
    Ok(())
}

fn is_datagram(target: &Target) -> bool {
    target.facts().is_ok_and(|facts| facts.kind == libc::SOCK_DGRAM)
}

/// Whether the peer has the name that was remembered, and the supervisor called listen(2) for it: so SO_PEERCRED names it.
fn is_own_listener(target: &Target, to: &Reach) -> bool {
    use nix::sys::socket::{getsockopt, sockopt};
    let trimmed = |n: &[u8]| n.iter().rposition(|b| *b != 0).map_or(0, |i| i + 1);
    let same_name = |peer: Vec<u8>| peer[..trimmed(&peer)] == to.bound[..trimmed(&to.bound)];
    sandbox::message::raw_name(target.as_fd(), true).is_ok_and(same_name)
        && getsockopt(target, sockopt::PeerCredentials).is_ok_and(|c| c.pid() == std::process::id() as i32)
}

/// One message to an AF_UNIX address; `by`: who sends it, where that may be asked for.
pub fn send(
    call: &Call,
    target: &Target,
    (name, by): (&[u8], Option<Credentials>),
    data: &[u8],
    control: &[u8],
    flags: i32,
) -> Result<usize, Errno> {
    let caller = call.n.caller()?;
    let to = reach(call.supervisor, &caller, target, name)?;
    let at = (to.socket != 0).then_some(to.socket);
    let by = by.filter(|_| to.is_own && at.is_some());
    let sent =
        call.supervisor.unix.senders.send(call.supervisor, target, at, by, data.len(), || {
            caller.send(&target.fd, &to.name, data, control, flags)
        });
    sent.inspect_err(|e| to.explain(call.supervisor, &caller, *e))
}

/// What is known of the AF_UNIX sockets of this run.
#[derive(Default)]
pub struct Unix {
    names: parking_lot::Mutex<Names>,
    peers: Peers,
    pub senders: Senders,
    /// Those that wait till a listener has room.
    queued: AtomicU32,
}
