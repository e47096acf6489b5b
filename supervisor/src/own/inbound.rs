//! Sessions that peers begin, in a network of the program's own: a connection from the peer's address to the program's listener, or datagrams
//! from there to its socket. The program accepts and receives natively.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::{Backlog, SockFlag, listen, setsockopt, sockopt};
use sandbox::message::Name;
use sandbox::sock;
use sipcore::agent::{IncomingCall, Line, Proto, SessionId, Setup};

use super::{Network, media_socket, stream};
use crate::call::errno;
use crate::inbound::{self, Endpoint};
use crate::sessions::may_be_peer;
use crate::supervisor::Supervisor;
use crate::table::Bound;

/// How long the peer has to connect to the media address, or to take a connection at its own.
const CONNECT_WITHIN: Duration = Duration::from_secs(10);
/// Ports of a peer that are tried until one is free towards the program's listener.
const PORTS: usize = 64;

/// The socket of the program that a peer means, with the addresses of both ends; None: nothing listens there.
pub fn find(
    network: &Network,
    supervisor: &Arc<Supervisor>,
    from: &str,
    proto: Proto,
    port: Option<u16>,
    seen_port: u16,
) -> Option<Endpoint> {
    let found = network.labelled(supervisor, proto, port)?;
    let only_v6 = found.v6only || found.local.ip().to_canonical() == IpAddr::V6(supervisor.own_v6);
    let over_v6 = found.local.is_ipv6() && only_v6;
    // The address is derived here from who calls: what the peer says of itself could be anybody's, 127.0.0.1 among them.
    let (v4, v6) = supervisor.policy.virtual_addresses(from);
    let peer: IpAddr = if over_v6 { v6.into() } else { v4.into() };
    let own: IpAddr = if over_v6 { supervisor.own_v6.into() } else { supervisor.own_v4.into() };
    let virtual_ = SocketAddr::new(own, found.local.port());
    let physical = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0);
    let bound = Bound { virtual_, physical, port_chosen: true };
    Some(Endpoint { cookie: found.cookie, bound, peer: SocketAddr::new(peer, seen_port) })
}

/// Takes the direct flow of a call.
pub fn accept_direct(
    network: &Arc<Network>,
    supervisor: &Arc<Supervisor>,
    call: IncomingCall,
    line: &Line,
    endpoint: Endpoint,
    (source, setup): (SocketAddrV4, Setup),
) {
    let (id, proto) = (call.id, line.proto);
    let passive = proto == Proto::Tcp && setup == Setup::Passive;
    if (passive || proto == Proto::Udp) && !may_be_peer(source, SocketAddrV4::new(supervisor.physical, 0), proto) {
        return call.reject(488, "No Peer's Socket at That Address");
    }
    let media = match proto {
        Proto::Udp => network.far(supervisor).and_then(|(far, media)| {
            network.receive_from(supervisor, endpoint, far, source.into(), id)?;
            Ok(media)
        }),
        Proto::Tcp => expect(network, supervisor, Expected { endpoint, source, session: id, passive }),
    };
    match media {
        Ok(media) => {
            supervisor.sessions.note(id);
            supervisor.sessions.note_own(id, &call.from.to_string(), "direct");
            call.accept(line.index, inbound::answer(line, media, setup));
        }
        Err(error) => {
            tracing::warn!(%error, "an inbound session could not be taken");
            call.reject(480, "Temporarily Unavailable");
        }
    }
}

/// A connection to come.
struct Expected {
    endpoint: Endpoint,
    source: SocketAddrV4,
    session: SessionId,
    passive: bool,
}

/// Waits for the peer's connection at a socket of its own; gives its address.
fn expect(network: &Arc<Network>, supervisor: &Arc<Supervisor>, expected: Expected) -> Result<SocketAddrV4, Errno> {
    let (socket, media) = media_socket(supervisor).map_err(errno)?;
    if !expected.passive {
        listen(&socket, Backlog::new(1)?)?;
    }
    let (network, supervisor) = (network.clone(), supervisor.clone());
    supervisor.runtime.clone().spawn(async move {
        let session = expected.session;
        let connected = async {
            if expected.passive {
                sock::connect_nowait(socket.as_fd(), &expected.source.into()).map_err(errno)?;
                sandbox::ready::connected(socket.as_fd()).await?;
                Ok(socket)
            } else {
                accept(socket, expected.source).await
            }
        };
        let connected = tokio::time::timeout(CONNECT_WITHIN, connected).await.unwrap_or(Err(Errno::ETIMEDOUT));
        let joined = match connected {
            Ok(media) => {
                let to_listener = network.to_listener(&supervisor, expected.endpoint);
                let joined = tokio::time::timeout(CONNECT_WITHIN, to_listener).await;
                joined.unwrap_or(Err(Errno::ETIMEDOUT)).map(|program| (program, media))
            }
            Err(e) => Err(e),
        };
        match joined {
            Ok((program, media)) => stream::carry(&supervisor, program, (session, media)),
            Err(error) => {
                tracing::debug!(%error, "an inbound session ends without a connection");
                supervisor.sessions.close(session);
            }
        }
    });
    Ok(media)
}

/// The connection from the address that was announced; others are reset.
async fn accept(listener: OwnedFd, source: SocketAddrV4) -> Result<OwnedFd, Errno> {
    /// RFC 4145, section 4.1: an active end that does not say more has port 9.
    const DISCARD: u16 = 9;
    sandbox::ready::when_ready(listener.as_fd(), tokio::io::Interest::READABLE, || {
        loop {
            let how = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
            let fd = sock::accept(listener.as_fd(), how, &mut Name::default()).map_err(errno)?;
            let is_it = match sock::peer_addr(fd.as_fd()) {
                Ok(SocketAddr::V4(a)) => a.ip() == source.ip() && (a == source || matches!(source.port(), DISCARD | 0)),
                _ => false,
            };
            if is_it {
                return Ok(fd);
            }
            let _ = sock::reset_on_close(fd.as_fd());
        }
    })
    .await
}

impl Network {
    /// Connects to the program's listener from the peer's address, or from another port of it where that one is in use.
    pub async fn to_listener(&self, supervisor: &Supervisor, endpoint: Endpoint) -> Result<OwnedFd, Errno> {
        let mut from = endpoint.peer;
        for _ in 0..PORTS {
            let fd = self.of_peer(from.is_ipv6()).await?;
            setsockopt(&fd, sockopt::ReuseAddr, &true)?;
            setsockopt(&fd, sockopt::ReusePort, &true)?;
            let begun = sock::bind(fd.as_fd(), &from)
                .and_then(|()| sock::connect_known(fd.as_fd(), &endpoint.bound.virtual_, true));
            let connected = match begun.map_err(errno) {
                Ok(sock::Progress::Done) => Ok(()),
                Ok(sock::Progress::InProgress) => sandbox::ready::connected(fd.as_fd()).await,
                Err(e) => Err(e),
            };
            match connected {
                Ok(()) => return Ok(fd),
                Err(Errno::EADDRINUSE | Errno::EADDRNOTAVAIL) => {
                    from.set_port(from.port().checked_add(1).unwrap_or(1024));
                }
                Err(e) => {
                    if e == Errno::ECONNREFUSED {
                        // shutdown(2) ends a listener, and the kernel tells of it only when it is closed.
                        self.listeners_changed(supervisor);
                    }
                    return Err(e);
                }
            }
        }
        Err(Errno::EADDRNOTAVAIL)
    }

    /// A socket for a peer; the runtime does not wait for it.
    async fn of_peer(&self, v6: bool) -> Result<OwnedFd, Errno> {
        if let Some(spare) = self.networks.spare_of_peer(v6) {
            return Ok(spare);
        }
        let networks = self.networks.clone();
        let made = tokio::task::spawn_blocking(move || networks.of_peer(v6)).await;
        made.map_err(|_| Errno::EIO)?.map_err(errno)
    }
}
