//! connect(2) of TCP sockets in a network of the program's own: to its own listeners by the kernel alone, to a peer by a session, whose flow
//! is relayed to a socket at the very address that the program dialled.

use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use nix::errno::Errno;
use nix::libc;
use sandbox::memory::Address;
use sandbox::netns::Net;
use sandbox::park::{Lot, ParkError};
use sandbox::sock::{self, Progress as Connect};
use sipcore::agent::{Label, Proto};

use super::{Network, Where, media_socket, own_address, v6only};
use crate::attempt::{Attempt, Progress};
use crate::call::{Call, Held, Target, errno};
use crate::connect::{PARK_AFTER, destination, handshake, is_connected, within};
use crate::send::send_timeout;
use crate::sessions::{Callee, Failure, Flow};
use crate::supervisor::Supervisor;
use crate::table::Cookie;

pub fn connect(network: &Arc<Network>, mut call: Call, target: Target, address: &Address) {
    let supervisor = call.supervisor;
    let nonblocking = call.dont_wait || sock::is_nonblocking(target.as_fd()).unwrap_or(false);
    if matches!(address, Address::Unspecified(_)) {
        if let Some(attempt) = network.kept.lock().attempts.remove(&target.cookie) {
            attempt.set(Progress::Abandoned);
        }
        let result = sock::disconnect(target.as_fd()).map_err(errno);
        // A listener is none any more.
        network.left(supervisor, target.cookie);
        drop(target);
        return call.finish(result.map(|()| 0));
    }
    if matches!(address, Address::Other { length: 0..2, .. }) {
        return call.finish(Err(Errno::EINVAL));
    }
    let attempt = network.kept.lock().attempts.get(&target.cookie).cloned();
    match attempt {
        Some(_) if nonblocking && is_connected(&target) => {}
        Some(_) if nonblocking => return call.finish(Err(Errno::EALREADY)),
        Some(attempt) => return drop(supervisor.runtime.spawn(wait_for(call, target, attempt))),
        None => {}
    }
    match sock::connect_again(target.as_fd()).map_err(errno) {
        // As a fresh one.
        Err(Errno::EINVAL) => {}
        Err(Errno::EALREADY) if !nonblocking => {
            return drop(supervisor.runtime.spawn(await_handshake(call, target, Errno::EALREADY)));
        }
        answer => {
            let own = match answer {
                Ok(()) | Err(Errno::EALREADY | Errno::EISCONN) => None,
                Err(_) => network.kept.lock().errors.remove(&target.cookie),
            };
            drop(target);
            return call.finish(own.map_or(answer, Err).map(|()| 0));
        }
    }
    let v6only = v6only(&target);
    let peer = match destination(address, v6only.is_some(), v6only == Some(true)) {
        Ok(p) => p,
        Err(e) => return call.finish(Err(e)),
    };
    // A port that nobody can have, and addresses that are no host's: the kernel's word.
    let canonical = sock::canonical(peer);
    let strange = peer.port() == 0 || canonical.ip().is_multicast() || is_broadcast_or_scoped(&canonical);
    match if strange { Where::There } else { network.way(&mut call, Proto::Tcp, None, peer) } {
        Where::Refused(e) => call.finish(Err(e)),
        Where::There => there(call, target, peer, nonblocking),
        Where::Peer(callee, net) => {
            let local = match own_address(supervisor, &target, peer) {
                Ok(local) => local,
                Err(e) => return call.finish(Err(e)),
            };
            let attempt = Arc::new(Attempt::new());
            network.watch(supervisor);
            network.kept.lock().attempts.insert(target.cookie, attempt.clone());
            let network = network.clone();
            let dialling = Dialling { network, callee, net, target, local, peer: canonical, attempt };
            if nonblocking {
                supervisor.runtime.spawn(dialling.without_blocking(call));
            } else {
                supervisor.runtime.spawn(dialling.blocking(call));
            }
        }
    }
}

fn is_broadcast_or_scoped(address: &SocketAddr) -> bool {
    match address {
        SocketAddr::V4(a) => a.ip().is_broadcast(),
        SocketAddr::V6(a) => a.ip().is_unicast_link_local(),
    }
}

/// The kernel's own connect.
fn there(call: Call, target: Target, to: SocketAddr, nonblocking: bool) {
    match sock::connect_known(target.as_fd(), &to, nonblocking && !call.dont_wait) {
        // The kernel's handshake is over by now, and still it would say this.
        Ok(Connect::Done) if call.dont_wait => {
            drop(target);
            call.finish(Err(Errno::EINPROGRESS));
        }
        Ok(Connect::InProgress) if !nonblocking => {
            call.supervisor.runtime.clone().spawn(await_handshake(call, target, Errno::EINPROGRESS));
        }
        outcome => {
            drop(target);
            call.finish(match outcome {
                Ok(Connect::InProgress) => Err(Errno::EINPROGRESS),
                outcome => outcome.map(|_| 0).map_err(errno),
            });
        }
    }
}

/// Waits as a blocking connect() does, at most for SO_SNDTIMEO; `timed_out` is the answer then.
async fn await_handshake(call: Call, target: Target, timed_out: Errno) {
    let limit = send_timeout(&target);
    let handshake = handshake(target.as_fd(), || sock::connect_again(target.as_fd()).map_err(errno));
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

/// A thread that repeats its connect() joins the attempt under way.
async fn wait_for(call: Call, target: Target, attempt: Arc<Attempt>) {
    let limit = send_timeout(&target);
    let ended = call.hold(target.cookie, within(limit, attempt.finished(), Err(Errno::EALREADY))).await;
    match ended {
        Held::Done(result) => {
            // As the kernel's connect() does, this one takes the outcome off the socket.
            let result = match result {
                Err(_) => result,
                Ok(()) => match sock::connect_again(target.as_fd()).map_err(errno) {
                    Err(Errno::EINVAL | Errno::EISCONN) => Ok(()),
                    taken => taken,
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

/// A connect() that needs a session.
struct Dialling {
    network: Arc<Network>,
    callee: Arc<Callee>,
    net: Net,
    target: Target,
    local: SocketAddr,
    peer: SocketAddr,
    attempt: Arc<Attempt>,
}

/// A session, and the supervisor's end of its flow.
struct Opened {
    flow: Flow,
    media: OwnedFd,
}

async fn open(
    supervisor: &Arc<Supervisor>,
    callee: &Arc<Callee>,
    peer: SocketAddr,
    local: SocketAddr,
) -> Result<Opened, Failure> {
    let failed = |e: std::io::Error| Failure { errno: errno(e) };
    let label = Label { proto: Proto::Tcp, port: peer.port() };
    let (media, source) = media_socket(supervisor).map_err(failed)?;
    let flow = match supervisor.sessions.open_early(supervisor, callee, label, source, local) {
        Some(flow) => flow,
        None => supervisor.sessions.open(callee, label, source, local).await?,
    };
    let connected = async {
        sock::connect_nowait(media.as_fd(), &SocketAddr::V4(flow.media)).map_err(errno)?;
        sandbox::ready::connected(media.as_fd()).await
    };
    match connected.await {
        Ok(()) => Ok(Opened { flow, media }),
        Err(errno) => {
            supervisor.sessions.close(flow.session);
            Err(Failure { errno })
        }
    }
}

/// Carries the bytes of a connection that stands until it has ended both ways, then ends its session.
pub fn carry(supervisor: &Arc<Supervisor>, program: OwnedFd, opened: (sipcore::agent::SessionId, OwnedFd)) {
    let (session, media) = opened;
    // The program's end is the other one of this.
    let ends = sock::peer_addr(program.as_fd()).and_then(|own| Ok((own, sock::local_addr(program.as_fd())?)));
    let ends = ends.ok().map(|(own, peer)| (sock::canonical(own), sock::canonical(peer)));
    if let (Some(network), Some(ends)) = (&supervisor.network, ends) {
        let stream = sock::socket_cookie(media.as_fd()).ok();
        network.kept.lock().connections.insert(ends, (session, stream));
    }
    // Counted from here on: the program may end at once, and what it sent is to be delivered.
    let relay = sandbox::relay::relay(program, media);
    let supervisor = supervisor.clone();
    supervisor.runtime.clone().spawn(async move {
        if let Err(error) = relay.await {
            tracing::debug!(%error, "relay ended");
        }
        if let (Some(network), Some(ends)) = (&supervisor.network, ends) {
            let mut kept = network.kept.lock();
            // Others may have these addresses by now.
            if kept.connections.get(&ends).is_some_and(|(id, _)| *id == session) {
                kept.connections.remove(&ends);
            }
        }
        supervisor.sessions.close(session);
    });
}

fn errno_of(e: &ParkError) -> Errno {
    Errno::from_raw(e.raw_os_error().unwrap_or(libc::ECONNABORTED))
}

impl Dialling {
    /// Joins the program's socket to the flow.
    async fn join(&self, supervisor: &Arc<Supervisor>, opened: Opened) -> Result<&'static str, Errno> {
        let Opened { flow, media } = opened;
        let joined = async {
            if !self.is_wanted() {
                return Err(Errno::ECONNABORTED);
            }
            let lot = self.network.lot(self.net, self.peer)?;
            let fd = self.target.fd.try_clone().map_err(errno)?;
            let connecting = tokio::task::spawn_blocking(move || lot.connect(fd.as_fd()).map_err(|e| errno_of(&e)));
            connecting.await.unwrap_or(Err(Errno::EIO))
        };
        match joined.await {
            Ok(program) => {
                carry(supervisor, program, (flow.session, media));
                Ok(flow.kind)
            }
            Err(e) => {
                supervisor.sessions.close(flow.session);
                Err(e)
            }
        }
    }

    /// The program may have taken the attempt back (connect with AF_UNSPEC), and begun another.
    fn is_wanted(&self) -> bool {
        self.network.kept.lock().attempts.get(&self.target.cookie).is_some_and(|a| Arc::ptr_eq(a, &self.attempt))
    }

    fn opening(&self, supervisor: &Arc<Supervisor>) -> impl Future<Output = Result<Opened, Failure>> + Send + use<> {
        let (callee, peer, local, supervisor) = (self.callee.clone(), self.peer, self.local, supervisor.clone());
        async move { open(&supervisor, &callee, peer, local).await }
    }

    fn end(&self, result: Result<(), Errno>) {
        end(&self.network, self.target.cookie, &self.attempt, result);
    }

    async fn blocking(self, mut call: Call) {
        let supervisor = call.supervisor;
        let mut opening = Box::pin(self.opening(supervisor));
        let limit = send_timeout(&self.target);
        let within_limit = within(limit, async { Some((&mut opening).await) }, None);
        let opened = match call.hold(self.target.cookie, within_limit).await {
            Held::Done(Some(opened)) => opened,
            Held::Done(None) => return self.park(call, opening, |call| call.finish(Err(Errno::EINPROGRESS))).await,
            // The handler runs; a restarted or repeated connect() joins the attempt.
            Held::Interrupted => return self.park(call, opening, |call| call.interrupted(limit)).await,
            Held::Gone => {
                drop(opening);
                return self.end(Err(Errno::ECONNABORTED));
            }
        };
        let result = match opened {
            Ok(opened) => self.join(supervisor, opened).await,
            Err(f) => Err(f.errno),
        };
        self.end(result.map(drop));
        if let Ok(kind) = result {
            call.flow(|| format!("relayed {kind}"));
        }
        drop(self);
        call.finish(result.map(|_| 0));
    }

    /// The thread waits no longer for the session, but the socket does: `answer` is what the thread gets.
    async fn park(
        self,
        mut call: Call,
        opening: impl Future<Output = Result<Opened, Failure>>,
        answer: impl FnOnce(Call),
    ) {
        let supervisor = call.supervisor;
        let parked = self.network.lot(self.net, self.peer).and_then(|lot| {
            let parked = lot.park(self.target.as_fd()).map_err(|e| errno_of(&e))?;
            Ok((lot, parked.local))
        });
        match parked {
            Ok((lot, local)) => {
                call.flow(|| "parked".to_owned());
                let Dialling { network, target, attempt, .. } = self;
                let cookie = target.cookie;
                // From now on its close must be seen.
                drop(target);
                answer(call);
                Parked { network, cookie, attempt, lot, local }.wait(supervisor, opening).await;
            }
            Err(e) => {
                tracing::warn!(error = %e, "a connect could not be parked");
                self.end(Err(e));
                drop(self);
                call.finish(Err(e));
            }
        }
    }

    async fn without_blocking(self, mut call: Call) {
        let supervisor = call.supervisor;
        let mut opening = Box::pin(self.opening(supervisor));
        let Ok(opened) = tokio::time::timeout(PARK_AFTER, &mut opening).await else {
            return self.park(call, opening, |call| call.finish(Err(Errno::EINPROGRESS))).await;
        };
        let result = match opened {
            Ok(opened) => self.join(supervisor, opened).await,
            Err(f) => Err(f.errno),
        };
        self.end(result.map(drop));
        if let Ok(kind) = result {
            call.flow(|| format!("relayed {kind}"));
        }
        drop(self);
        // The handshake is over by now, and still a native connect() would say this.
        call.finish(Err(result.err().unwrap_or(Errno::EINPROGRESS)));
    }
}

fn end(network: &Network, cookie: Cookie, attempt: &Arc<Attempt>, result: Result<(), Errno>) {
    {
        let mut kept = network.kept.lock();
        if kept.attempts.get(&cookie).is_some_and(|a| Arc::ptr_eq(a, attempt)) {
            kept.attempts.remove(&cookie);
        }
    }
    attempt.set(Progress::Done(result));
}

/// A socket of the program that waits in SYN_SENT, and is not held here.
struct Parked {
    network: Arc<Network>,
    cookie: Cookie,
    attempt: Arc<Attempt>,
    lot: Arc<Lot>,
    local: SocketAddr,
}

impl Parked {
    /// Waits for the session, completes the connect and relays.
    async fn wait(self, supervisor: &Arc<Supervisor>, opening: impl Future<Output = Result<Opened, Failure>>) {
        let opened = tokio::select! {
            opened = opening => opened,
            // Dropping the opening cancels the INVITE.
            () = self.attempt.abandoned() => return,
        };
        let (lot, local) = (self.lot.clone(), self.local);
        match opened {
            Ok(Opened { flow, media }) => {
                let release = tokio::task::spawn_blocking(move || lot.release(local).map_err(|e| errno_of(&e)));
                let released = release.await.unwrap_or(Err(Errno::EIO));
                let result = match released {
                    Ok(program) => {
                        carry(supervisor, program, (flow.session, media));
                        Ok(())
                    }
                    Err(error) => {
                        tracing::debug!(%error, "a parked connect could not be completed");
                        supervisor.sessions.close(flow.session);
                        Err(error)
                    }
                };
                end(&self.network, self.cookie, &self.attempt, result);
            }
            Err(failure) => {
                self.network.kept.lock().errors.insert(self.cookie, failure.errno);
                end(&self.network, self.cookie, &self.attempt, Err(failure.errno));
                // It may wait for the repetition of a lost segment.
                if let Ok(Err(error)) = tokio::task::spawn_blocking(move || lot.fail(local)).await {
                    // Most often the program has closed the socket meanwhile.
                    tracing::debug!(%error, "a parked connect could not be failed");
                }
            }
        }
    }
}
