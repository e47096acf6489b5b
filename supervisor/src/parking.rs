//! The rest of a non-blocking connect whose session took too long: the program's socket is parked (design/KERNEL.md),
//! and what comes is relayed.

use std::future::Future;
use std::net::{SocketAddr, SocketAddrV4};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{setsockopt, sockopt};
use sandbox::sock;

use crate::attempt::{Attempt, Progress};
use crate::call::errno;
use crate::sessions::{Failure, Flow};
use crate::supervisor::Supervisor;
use crate::table::{Cookie, State};

/// A socket of the program that waits in SYN_SENT.
pub struct Parked {
    pub cookie: Cookie,
    /// Its physical address.
    pub source: SocketAddrV4,
    pub local: SocketAddr,
    pub peer: SocketAddr,
    pub attempt: Arc<Attempt>,
}

/// Waits for the session, completes the parked connect and relays until both ends are done.
pub async fn wait(supervisor: Arc<Supervisor>, parked: Parked, opening: impl Future<Output = Result<Flow, Failure>>) {
    let opened = tokio::select! {
        opened = opening => opened,
        // Dropping the opening cancels the INVITE.
        () = parked.attempt.abandoned() => return,
    };
    let joined = match opened {
        Ok(flow) => {
            let joined = join(&supervisor, &parked, &flow).await;
            if joined.is_err() {
                supervisor.sessions.close(flow.session);
            }
            joined
        }
        Err(f) => Err(f.errno),
    };
    match joined {
        Ok((program, media)) => {
            parked.attempt.set(Progress::Done(Ok(())));
            if let Err(error) = sandbox::relay::relay(program, media).await {
                tracing::debug!(%error, "relay ended");
            }
        }
        Err(e) => {
            {
                let mut table = supervisor.table.lock();
                let Some(s) = table.get_mut(parked.cookie) else { return };
                s.state = State::Idle;
                s.error = Some(e);
            }
            // It may wait for the repetition of a lost segment.
            let failing = move || supervisor.lot.fail(parked.source.into());
            if let Ok(Err(error)) = tokio::task::spawn_blocking(failing).await {
                // Most often the program has closed the socket meanwhile.
                tracing::debug!(%error, "a parked connect could not be failed");
            }
            parked.attempt.set(Progress::Done(Err(e)));
        }
    }
}

/// The supervisor's two ends of the relay: towards the program, and towards the peer's media address.
async fn join(supervisor: &Arc<Supervisor>, parked: &Parked, flow: &Flow) -> Result<(OwnedFd, OwnedFd), Errno> {
    // The peer expects the connection from the address that the offer named, which is the parked socket's own: two
    // sockets with SO_REUSEADDR may have it, and they differ in their peers. (Set on the parked one when it was parked.)
    let guard = supervisor.guard(sipcore::agent::Proto::Tcp, flow.media).map_err(|_| Errno::ECONNREFUSED)?;
    let media = sock::tcp4().map_err(errno)?;
    setsockopt(&media, sockopt::ReuseAddr, &true)?;
    sock::bind(media.as_fd(), &SocketAddr::V4(parked.source)).map_err(errno)?;
    sock::set_nonblocking(media.as_fd()).map_err(errno)?;
    sock::connect_nowait(media.as_fd(), &SocketAddr::V4(flow.media)).map_err(errno)?;
    sandbox::ready::connected(media.as_fd()).await?;
    drop(guard);
    {
        // Before the release: the program may ask for its peer the moment that it is connected.
        let mut table = supervisor.table.lock();
        let s = table.get_mut(parked.cookie).ok_or(Errno::ECONNABORTED)?;
        s.state = State::Connected { local: parked.local, peer: parked.peer, session: Some(flow.session), guard: None };
        table.note_session(flow.session, parked.cookie);
    }
    let (lot, source, cookie) = (supervisor.clone(), parked.source, parked.cookie);
    let release = tokio::task::spawn_blocking(move || release(&lot.lot, source, cookie));
    let program = release.await.unwrap_or(Err(Errno::EIO)).inspect_err(|error| {
        tracing::debug!(%error, "a parked connect could not be completed");
    })?;
    Ok((program, media))
}

/// Completes the parked connect of the socket `cookie`. It may have been closed, and its address be that of a service on the
/// wildcard address by now: nothing is relayed before it is known who is there.
fn release(lot: &sandbox::park::Lot, source: SocketAddrV4, cookie: Cookie) -> Result<OwnedFd, Errno> {
    let is_there = || {
        if lot.occupant(source.into()).map_err(errno)? == Some(cookie) { Ok(()) } else { Err(Errno::ECONNABORTED) }
    };
    is_there()?;
    let end =
        lot.release(source.into()).map_err(|e| Errno::from_raw(e.raw_os_error().unwrap_or(libc::ECONNABORTED)))?;
    is_there()?;
    Ok(end)
}
