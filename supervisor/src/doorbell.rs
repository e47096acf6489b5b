//! A peer that listens itself (RFC 4145 `setup:passive`): the connection to it is made here, and the doorbell makes the
//! program's own listener readable, so that its event loop calls accept().

use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use sandbox::bell::{Bell, ring};
use sandbox::sock;
use sipcore::agent::Proto;

use crate::supervisor::Supervisor;
use crate::table::{Bound, Expected};

/// How long the peer's listener has to take the connection.
const CONNECT_WITHIN: Duration = Duration::from_secs(10);

/// A connection that waits for the program behind its ring.
pub struct Rung {
    bell: Bell,
    pub media: OwnedFd,
    pub expected: Expected,
}

impl Rung {
    /// Whether the connection accepted from `peer` is this one's bell.
    pub fn is(&self, peer: SocketAddr) -> bool {
        self.bell.is(peer)
    }
}

/// Connects to the peer's media address and rings at the program's listener.
pub async fn deliver(supervisor: Arc<Supervisor>, peer: SocketAddr, bound: Bound, expected: Expected) {
    let session = expected.session;
    let outcome = tokio::time::timeout(CONNECT_WITHIN, connect(&supervisor, peer)).await;
    let rung = outcome
        .unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into()))
        .and_then(|media| announce(&supervisor, media, bound, expected));
    let Err(error) = rung else { return };
    crate::say::say!("an inbound session ends: its peer's media address {peer} cannot be connected: {error}");
    if let Some(session) = session {
        supervisor.sessions.close(session);
    }
}

/// Rings for a connection that the program is to take.
fn announce(supervisor: &Supervisor, media: OwnedFd, bound: Bound, expected: Expected) -> std::io::Result<()> {
    // Nobody takes the ring off the queue before it is known.
    let _one = supervisor.accepting.lock();
    let bell = ring(bound.physical)?;
    supervisor.table.lock().rung.push(Rung { bell, media, expected });
    Ok(())
}

/// A connection that was taken from its listener, and that the program could not get a descriptor for, waits again.
pub fn put_back(supervisor: &Supervisor, media: OwnedFd, bound: Bound, expected: Expected) {
    if let Ok(cookie) = sock::socket_cookie(media.as_fd()) {
        supervisor.table.lock().remove(cookie);
    }
    let session = expected.session;
    if let Err(error) = announce(supervisor, media, bound, expected) {
        tracing::warn!(%error, "a connection could not be put back into its queue");
        session.into_iter().for_each(|s| supervisor.sessions.close(s));
    }
}

async fn connect(supervisor: &Supervisor, peer: SocketAddr) -> std::io::Result<OwnedFd> {
    let _guard = supervisor.guards.hold(Proto::Tcp, peer.port())?;
    let media = sock::tcp4()?;
    sock::bind(media.as_fd(), &SocketAddr::from((supervisor.homes.next(), 0)))?;
    sock::connect_nowait(media.as_fd(), &peer)?;
    sandbox::ready::connected(media.as_fd()).await?;
    Ok(media)
}
