//! Flows of one socket each, between machines: a TCP connection with TLS in it (RFC 8122) or, where the policy takes that, in the clear
//! (RFC 4145), and plain datagrams. The program's own socket is joined to it here.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use sipcore::agent::{Agent, Direct, End, IncomingCall, Line, Proto, SessionId, Setup, Tls};
use sipcore::flow::{Joined, LinkError, Listening, Part, Role, Secure, Trust};
use tokio::net::{TcpStream, UdpSocket};

use super::caller::Wanted;
use super::{Links, called, datagrams, gate, secure};
use crate::inbound::Endpoint;
use crate::sessions::{Failure, Flow};
use crate::supervisor::Supervisor;

/// What carries the bytes, in words for the trace.
pub const TLS: &str = "TLS flow";

/// How long the two ends look for a connection. Where there is another flow to be tried, less.
const WITHIN: Duration = Duration::from_secs(10);
const WITHIN_BEFORE_ANOTHER: Duration = Duration::from_secs(3);
/// How long the called program's listener may take, between sipboxes.
const TAKEN_WITHIN: Duration = Duration::from_secs(15);

/// This end of flows that are offered in the clear between machines.
pub enum Clear {
    Stream(Listening),
    Datagrams(UdpSocket, SocketAddr),
}

impl Clear {
    pub async fn start(proto: Proto, ip: IpAddr) -> Result<Clear, LinkError> {
        match proto {
            Proto::Tcp => Listening::start(ip).await.map(Clear::Stream),
            Proto::Udp => {
                let no_socket = |e: std::io::Error| LinkError::NoSocket(e.to_string());
                let socket = UdpSocket::bind((ip, 0)).await.map_err(no_socket)?;
                let address = socket.local_addr().map_err(no_socket)?;
                Ok(Clear::Datagrams(socket, address))
            }
        }
    }

    /// For the offer (`actpass`) or the answer.
    pub fn end(&self, setup: Setup, sipbox: bool) -> Option<End> {
        let source = match self {
            Clear::Stream(listening) => *listening.addresses.first()?,
            Clear::Datagrams(_, address) => *address,
        };
        Some(End::Direct(Direct { source, setup, machine: None, sipbox }))
    }
}

/// This end of a TLS flow, for the offer (`actpass`) or the answer.
pub fn tls_end(links: &Links, listening: &Listening, setup: Setup, sipbox: bool) -> Result<End, String> {
    let fingerprint = links.certificate()?.fingerprint;
    Ok(End::Tls(Tls { listen: listening.addresses.clone(), setup, fingerprint, sipbox }))
}

/// The address by which this host is told to others.
pub fn told_ip(agent: &Agent) -> Result<IpAddr, String> {
    agent.local_addr().map(|address| address.ip()).ok_or_else(|| "the agent has no socket".to_owned())
}

/// What became of a session that agreed on a flow of its own.
pub enum Outcome {
    Stands(Flow),
    /// No connection comes about: another flow may.
    Unreachable(LinkError),
    Failed(Failure),
}

/// The caller's way to a TLS connection.
pub async fn call_tls(
    links: &Arc<Links>,
    supervisor: &Arc<Supervisor>,
    wanted: &Wanted<'_>,
    session: SessionId,
    (listening, remote): (Listening, Tls),
    another: bool,
) -> Outcome {
    let certificate = match links.certificate() {
        Ok(certificate) => certificate,
        Err(why) => return Outcome::Failed(wanted.fail(nix::errno::Errno::ENETUNREACH, why)),
    };
    let part = Part {
        setup: remote.setup.answered(),
        remote: remote.listen,
        both: remote.sipbox.then_some(Role::Offerer),
        within: if another { WITHIN_BEFORE_ANOTHER } else { WITHIN },
    };
    let joined = async {
        let joined = listening.join(Trust::Tls(certificate, remote.fingerprint), part).await?;
        let Joined::Tls(mut stream) = joined else { return Err(LinkError::Lost("no TLS".to_owned())) };
        if !remote.sipbox {
            return Ok((200, stream));
        }
        let mut status = [0; 2];
        let read = tokio::time::timeout(TAKEN_WITHIN, stream.read_exact(&mut status)).await;
        match read {
            Ok(Ok(())) => Ok((u16::from_be_bytes(status), stream)),
            Ok(Err(e)) if e.kind() == std::io::ErrorKind::InvalidData => Err(LinkError::Handshake(e.to_string())),
            Ok(Err(e)) => Err(LinkError::Lost(e.to_string())),
            Err(_) => Err(LinkError::Lost("no word from the other end's listener".to_owned())),
        }
    };
    match joined.await {
        Ok((200, stream)) => {
            if supervisor.options.trace {
                say_connection(&wanted.callee.uri, stream.io());
            }
            match join_program(links, supervisor, wanted, session, Joined::Tls(stream)).await {
                Ok(flow) => Outcome::Stands(flow),
                Err(e) => Outcome::Failed(wanted.fail(nix::errno::Errno::ENETUNREACH, e.to_string())),
            }
        }
        Ok((status, _)) => {
            let (errno, why) = super::caller::refusal(status);
            Outcome::Failed(wanted.fail(errno, why))
        }
        Err(why @ LinkError::Unreachable { .. }) => Outcome::Unreachable(why),
        Err(why) => Outcome::Failed(wanted.fail(nix::errno::Errno::ECONNREFUSED, format!("{why}{}", advice(&why)))),
    }
}

fn advice(why: &LinkError) -> &'static str {
    match why {
        LinkError::Handshake(_) => {
            "; somebody is on the way, or the peer shows another certificate than the one it announced"
        }
        _ => "",
    }
}

/// The caller's way to a flow in the clear.
pub async fn call_clear(
    links: &Arc<Links>,
    supervisor: &Arc<Supervisor>,
    wanted: &Wanted<'_>,
    session: SessionId,
    (clear, remote): (Clear, Direct),
) -> Outcome {
    let failed = |why: String| Outcome::Failed(wanted.fail(nix::errno::Errno::ENETUNREACH, why));
    match clear {
        Clear::Stream(listening) => {
            let part = Part { setup: remote.setup.answered(), remote: vec![remote.source], both: None, within: WITHIN };
            let joined = match listening.join(Trust::Clear, part).await {
                Ok(joined) => joined,
                Err(why) => return Outcome::Unreachable(why),
            };
            match join_program(links, supervisor, wanted, session, joined).await {
                Ok(flow) => Outcome::Stands(flow),
                Err(e) => failed(e.to_string()),
            }
        }
        Clear::Datagrams(..) if remote.source.ip().to_canonical().is_loopback() => {
            failed(format!("the peer's media address {} is of a loopback, and it is on another machine", remote.source))
        }
        Clear::Datagrams(socket, _) => {
            let joined = async {
                socket.connect(remote.source).await?;
                datagrams::stand_in(supervisor, wanted.source)
            };
            match joined.await {
                Ok((near, media)) => {
                    supervisor.sessions.note(session);
                    supervisor.sessions.note_own(session, &wanted.callee.uri, "clear");
                    let ended = links.begin_as(session);
                    let outer = datagrams::Outer { socket, sipbox: remote.sipbox };
                    let carrying = datagrams::carry_clear(supervisor.clone(), session, near, outer, ended);
                    let (_hears, known) = datagrams::once_known(carrying);
                    tokio::spawn(known);
                    Outcome::Stands(Flow { session, media, kind: "flow in the clear", _hears })
                }
                Err(e) => failed(e.to_string()),
            }
        }
    }
}

/// The program's socket will come to the gate, and is joined there.
async fn join_program(
    links: &Arc<Links>,
    supervisor: &Arc<Supervisor>,
    wanted: &Wanted<'_>,
    session: SessionId,
    joined: Joined,
) -> std::io::Result<Flow> {
    let gate = links.gate.get_or_try_init(|| async { gate::Gate::open(supervisor) }).await?;
    let ended = links.begin_as(session);
    let (kind, flow) = match joined {
        Joined::Tls(_) => (TLS, "tls"),
        Joined::Clear(_) => ("flow in the clear", "clear"),
    };
    supervisor.sessions.note(session);
    supervisor.sessions.note_own(session, &wanted.callee.uri, flow);
    note_far(supervisor, session, &joined);
    let mut expected = gate.expect(wanted.source);
    let (links, busy, media, supervisor) = (links.clone(), links.busy(), gate.address, supervisor.clone());
    tokio::spawn(async move {
        if let Some(program) = expected.connected_before(ended).await {
            carry(&links, program, joined).await;
        }
        supervisor.sessions.close(session);
        drop(busy);
    });
    Ok(Flow { session, media, kind, _hears: None })
}

fn note_far(supervisor: &Supervisor, session: SessionId, joined: &Joined) {
    let socket = match joined {
        Joined::Tls(stream) => stream.io(),
        Joined::Clear(stream) => stream,
    };
    supervisor.sessions.note_far(session, socket.as_fd());
}

/// Carries bytes until both directions have ended.
async fn carry(links: &Links, program: TcpStream, joined: Joined) {
    match joined {
        Joined::Tls(stream) => secure::pump(program, *stream, links.ending.subscribe()).await,
        Joined::Clear(stream) => {
            let plain = |stream: TcpStream| stream.into_std().map(OwnedFd::from);
            match (plain(program), plain(stream)) {
                (Ok(program), Ok(stream)) => {
                    if let Err(error) = sandbox::relay::relay(program, stream).await {
                        tracing::debug!(%error, "relay ended");
                    }
                }
                (Err(error), _) | (_, Err(error)) => tracing::warn!(%error, "a connection could not be joined"),
            }
        }
    }
}

/// The flow that a call offers, and that is taken.
pub enum Offered {
    Tls(Tls),
    Clear(Direct),
}

/// Takes the flow of a call that is about one socket: answers, connects, and carries.
pub async fn accept(supervisor: Arc<Supervisor>, call: IncomingCall, line: Line, endpoint: Endpoint, offered: Offered) {
    let links = supervisor.sessions.links.clone();
    let (id, from) = (call.id, call.from.to_string());
    let flow = match &offered {
        Offered::Tls(_) => "tls",
        Offered::Clear(_) => "clear",
    };
    supervisor.sessions.note_own(id, &from, flow);
    let refuse = |call: IncomingCall, why: String| {
        crate::say::say!("a call of {from} is refused: {why}");
        supervisor.sessions.forget(id);
        links.close(id);
        call.reject(480, "No Path Can Be Offered");
    };
    let ip = match supervisor.sessions.told_ip().await {
        Ok(ip) => ip,
        Err(why) => return refuse(call, why),
    };
    // Who answers connects, if it may: an end behind a NAT reaches out, and is not reached.
    let setup = |offered: Setup| if offered == Setup::Actpass { Setup::Active } else { offered.answered() };
    let given_up = links.search(id);
    match offered {
        Offered::Tls(remote) => {
            let setup = setup(remote.setup);
            let started = async {
                let listening = Listening::start(ip).await.map_err(|e| e.to_string())?;
                let end = tls_end(&links, &listening, setup, remote.sipbox)?;
                Ok::<_, String>((listening, end, links.certificate()?))
            };
            let (listening, end, certificate) = match started.await {
                Ok(started) => started,
                Err(why) => return refuse(call, why),
            };
            call.accept(line.index, end);
            let both = remote.sipbox.then_some(Role::Answerer);
            let part = Part { setup, remote: remote.listen, both, within: WITHIN };
            let joined = tokio::select! {
                joined = listening.join(Trust::Tls(certificate, remote.fingerprint), part) => joined,
                _ = given_up => return supervisor.sessions.close(id),
            };
            match joined {
                Ok(Joined::Tls(stream)) => serve_tls(&supervisor, endpoint, id, &from, *stream, remote.sipbox).await,
                Ok(Joined::Clear(_)) => {}
                Err(why) => crate::say::say!("a session of {from} ends: {why}{}", advice(&why)),
            }
            supervisor.sessions.close(id);
        }
        Offered::Clear(remote) => {
            let setup = setup(remote.setup);
            let clear = match Clear::start(line.proto, ip).await {
                Ok(clear) => clear,
                Err(why) => return refuse(call, why.to_string()),
            };
            let Some(end) = clear.end(setup, remote.sipbox) else { return refuse(call, "no address".to_owned()) };
            call.accept(line.index, end);
            match clear {
                Clear::Stream(listening) => {
                    let part = Part { setup, remote: vec![remote.source], both: None, within: WITHIN };
                    let joined = tokio::select! {
                        joined = listening.join(Trust::Clear, part) => joined,
                        _ = given_up => return supervisor.sessions.close(id),
                    };
                    match joined {
                        Ok(joined) => {
                            note_far(&supervisor, id, &joined);
                            match called::to_program(&supervisor, endpoint, id).await {
                                Ok(program) => carry_counted(&links, program, joined).await,
                                Err(error) => tracing::debug!(%error, "a listener did not take a connection"),
                            }
                        }
                        Err(why) => crate::say::say!("a session of {from} ends: {why}"),
                    }
                    supervisor.sessions.close(id);
                }
                Clear::Datagrams(socket, _) => {
                    let admitted = async {
                        socket.connect(remote.source).await?;
                        called::admit(&supervisor, endpoint, id)
                    };
                    match admitted.await {
                        Ok(near) => {
                            let ended = links.begin_as(id);
                            let outer = datagrams::Outer { socket, sipbox: remote.sipbox };
                            datagrams::carry_clear(supervisor.clone(), id, near, outer, ended).await;
                        }
                        Err(error) => {
                            crate::say::say!("a session of {from} ends: {error}");
                            supervisor.sessions.close(id);
                        }
                    }
                }
            }
        }
    }
}

async fn carry_counted(links: &Arc<Links>, program: TcpStream, joined: Joined) {
    let busy = links.busy();
    carry(links, program, joined).await;
    drop(busy);
}

/// Joins the program's listener to a TLS connection.
async fn serve_tls(
    supervisor: &Arc<Supervisor>,
    endpoint: Endpoint,
    id: SessionId,
    from: &str,
    mut stream: Secure,
    sipbox: bool,
) {
    if supervisor.options.trace {
        say_connection(from, stream.io());
    }
    supervisor.sessions.note_far(id, stream.io().as_fd());
    let links = supervisor.sessions.links.clone();
    let program = called::to_program(supervisor, endpoint, id).await;
    let status: u16 = if program.is_ok() { 200 } else { 486 };
    if sipbox && let Err(error) = stream.send(&status.to_be_bytes()).await {
        tracing::debug!(%error, "the caller is gone");
        return;
    }
    match program {
        Ok(program) => carry_counted(&links, program, Joined::Tls(Box::new(stream))).await,
        Err(error) => {
            tracing::debug!(%error, "a listener did not take a connection");
            if !sipbox {
                let _ = sandbox::sock::reset_on_close(stream.io().as_fd());
            }
        }
    }
}

fn say_connection(peer: &str, io: &TcpStream) {
    let address = |a: std::io::Result<SocketAddr>| a.map_or_else(|_| "?".to_owned(), |a| a.to_string());
    let (local, remote) = (address(io.local_addr()), address(io.peer_addr()));
    crate::say::say!("encrypted flow with {peer}: TLS, {local} to {remote}");
}
