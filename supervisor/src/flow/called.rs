//! The called side: a connection that a peer sets up, and the streams that it opens for its program's sockets.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use sandbox::sock;
use sipcore::agent::{End, IncomingCall, Proto, SessionId, Setup};
use sipcore::flow::datachannel::Terms;
use sipcore::flow::{Asked, Incoming, Purpose, Role};
use tokio::net::{TcpStream, UdpSocket};

use super::trunk::Trunk;
use super::{Remote, caller, datagrams, glare, mismatch, pump, v4};
use crate::inbound::{self, Endpoint};
use crate::supervisor::Supervisor;
use crate::table::Expected;

/// How long the program's listener has to take a connection into its queue.
const LISTENER_WITHIN: Duration = Duration::from_secs(10);

/// Takes the encrypted flow at `line` of a call: gathers, answers, connects, and serves what comes. `coming` lasts until the connection stands.
pub async fn accept(
    supervisor: Arc<Supervisor>,
    call: IncomingCall,
    line: usize,
    remote: Remote,
    coming: Option<glare::Incoming>,
) {
    let links = supervisor.sessions.links.clone();
    let (id, from, software) = (call.id, call.from.to_string(), call.software.clone());
    let near = supervisor.sessions.is_near().await;
    let gathered = match links.gather(&supervisor.sessions, near).await {
        Ok(gathered) => gathered,
        Err(why) => {
            crate::say::say!("a call of {from} is refused: {why}");
            supervisor.sessions.forget(id);
            return call.reject(480, "No Path Can Be Offered");
        }
    };
    super::warm::again(&supervisor);
    let ice = gathered.description().clone();
    let connected = match &remote {
        Remote::Quic(remote) => {
            call.accept(line, End::Quic(ice));
            gathered.connect(remote, Role::Answerer).await
        }
        Remote::Channels(remote) => {
            let local = remote.answer(ice);
            let terms = Terms::new(remote, local.setup == Setup::Active, &local.channels);
            call.accept(line, End::Channels(local));
            gathered.connect_channels(&remote.ice, Role::Answerer, terms).await
        }
    };
    let link = match connected {
        Ok(link) => link,
        Err(why) => {
            let advice = mismatch::advice(&why, software.as_deref());
            crate::say::say!("a session of {from} ends: {why}{advice}");
            return supervisor.sessions.close(id);
        }
    };
    let shown = match &remote {
        Remote::Quic(remote) => Some(remote.fingerprint),
        Remote::Channels(_) => None,
    };
    let trunk = links.admit(&supervisor, link, (id, Role::Answerer), &from, shown);
    drop(coming);
    if supervisor.options.trace {
        tokio::spawn(caller::say_path(Arc::downgrade(&trunk), from.clone()));
    }
    while let Ok(incoming) = trunk.link.accept().await {
        tokio::spawn(serve(supervisor.clone(), trunk.clone(), incoming, from.clone()));
    }
    links.trunks.lock().remove(&id);
    supervisor.sessions.close(id);
}

/// Serves what the called end of a connection opens in it: that is for who has called, and was told to use it.
pub(super) async fn serve_back(supervisor: Arc<Supervisor>, trunk: Arc<Trunk>) {
    while let Ok(incoming) = trunk.link.accept().await {
        match trunk.caller.lock().clone() {
            Some(from) => drop(tokio::spawn(serve(supervisor.clone(), trunk.clone(), incoming, from))),
            None => drop(tokio::spawn(incoming.refuse(403))),
        }
    }
}

/// One stream: for which socket is it, may it be, and then its bytes or datagrams.
async fn serve(supervisor: Arc<Supervisor>, trunk: Arc<Trunk>, mut incoming: Incoming, from: String) {
    let Asked { proto, port, source_port } = match incoming.purpose().await {
        Some(Purpose::Socket(asked)) => asked,
        Some(Purpose::Echo) => {
            let _held = trunk.hold();
            // Whoever pings has gone.
            return drop(incoming.send_back().await);
        }
        None => return,
    };
    let links = supervisor.sessions.links.clone();
    if supervisor.sessions.is_full() {
        return incoming.refuse(503).await;
    }
    let seen_port = source_port.unwrap_or_else(|| links.next_port());
    let last_change = trunk.link.last_change();
    let found = inbound::find(&supervisor, &from, proto, port, seen_port);
    let as_of = match &supervisor.network {
        // In a network of its own the program binds, and closes, without asking.
        Some(network) if !port.is_some_and(|port| network.knows(proto, port)) => 0,
        _ => last_change,
    };
    let endpoint = match found {
        Ok(endpoint) => endpoint,
        Err((status, _)) => return incoming.refuse(status).await,
    };
    let (id, ended) = links.begin();
    supervisor.sessions.note(id);
    supervisor.sessions.note_party(id, &from);
    let (held, busy) = (trunk.hold(), links.busy());
    match proto {
        Proto::Tcp => {
            match to_program(&supervisor, endpoint, id).await {
                Ok(socket) => {
                    match incoming.take(as_of).await {
                        Ok(stream) => {
                            // The peer is told when the program closes: by its own FIN or RST.
                            drop(ended);
                            let (link, ending) = (&held.trunk().link, links.ending.subscribe());
                            // Nobody refuses what he has opened.
                            let _ = pump::pump(socket, stream, link, ending).await;
                        }
                        Err(error) => {
                            tracing::debug!(%error, "the peer was gone before its connection was taken");
                            // An end would say that there was nothing to say.
                            let _ = sock::reset_on_close(socket.as_fd());
                        }
                    }
                    // In a network of its own nobody tells when the program closes its socket.
                    if supervisor.network.is_some() {
                        supervisor.sessions.close(id);
                    }
                }
                Err(error) => {
                    tracing::debug!(%error, "a listener did not take a connection");
                    supervisor.sessions.close(id);
                    // One that it took, and has reset already, is reset: it listens.
                    if error.kind() != std::io::ErrorKind::ConnectionReset {
                        incoming.refuse(486).await;
                    }
                }
            }
            drop((held, busy));
        }
        Proto::Udp => {
            let Ok(socket) = admit(&supervisor, endpoint, id) else {
                supervisor.sessions.close(id);
                return incoming.refuse(503).await;
            };
            trunk.attach(incoming.id(), socket.clone());
            if let Ok(stream) = incoming.take(as_of).await {
                drop(busy);
                datagrams::carry(supervisor, id, held, stream, socket, ended).await;
            }
        }
    }
}

/// Lets a peer send to a datagram socket of the program; gives the socket that stands for him.
pub(super) fn admit(
    supervisor: &Arc<Supervisor>,
    endpoint: Endpoint,
    id: SessionId,
) -> std::io::Result<Arc<UdpSocket>> {
    if let Some(network) = &supervisor.network {
        let (far, media) = network.far(supervisor)?;
        let (socket, address) = datagrams::stand_in(supervisor, media)?;
        network.receive_from(supervisor, endpoint, far, address.into(), id)?;
        return Ok(socket);
    }
    let (socket, address) = datagrams::stand_in(supervisor, endpoint.bound.physical)?;
    crate::datagram::admit(supervisor, endpoint.cookie, address, endpoint.peer, id);
    Ok(socket)
}

/// Connects to the program's listener, which sees the peer's address.
pub(super) async fn to_program(
    supervisor: &Arc<Supervisor>,
    endpoint: Endpoint,
    id: SessionId,
) -> std::io::Result<TcpStream> {
    let connecting = tokio::time::timeout(LISTENER_WITHIN, to_listener(supervisor, endpoint, id)).await;
    let connected = connecting.unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into()));
    if connected.is_err() {
        supervisor.forget_session(id);
    }
    connected
}

async fn to_listener(supervisor: &Supervisor, endpoint: Endpoint, id: SessionId) -> std::io::Result<TcpStream> {
    if let Some(network) = supervisor.network.clone() {
        return TcpStream::from_std(network.to_listener(supervisor, endpoint).await?.into());
    }
    let socket: OwnedFd = sock::tcp4()?;
    sock::bind(socket.as_fd(), &SocketAddr::from((IpAddr::V4(supervisor.homes.next()), 0)))?;
    let source = v4(sock::local_addr(socket.as_fd())?)?;
    let Endpoint { cookie, bound, peer } = endpoint;
    // Before the connection: the program's accept() may be faster than what follows it.
    let expected = Expected { listener: cookie, peer, local: None, session: Some(id) };
    let displaced = supervisor.table.lock().expect(source, expected);
    supervisor.sessions.close_displaced(displaced);
    sock::connect_known(socket.as_fd(), &SocketAddr::V4(bound.physical), true)?;
    sandbox::ready::connected(socket.as_fd()).await?;
    TcpStream::from_std(socket.into())
}
