//! The sockets of a STUN and TURN server, on tokio.

use std::collections::HashMap;
use std::future::Future;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr, UdpSocket as StdUdpSocket};
use std::ops::RangeInclusive;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use nix::sys::socket::{MsgFlags, SockaddrStorage, sendto};
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::runtime::Handle;
use tokio::sync::{Notify, mpsc};
use tokio::task::{AbortHandle, JoinSet};
use tracing::{debug, warn};

use super::TurnConfig;
use super::allocation::Id;
use super::behaviour::Square;
use super::credentials::Mint;
use super::server::{Output, Server};
use crate::random;
use crate::transport::{Flow, Transport};

/// A relay's port is looked for this often.
const PORT_ATTEMPTS: usize = 64;
/// Messages that wait for a slow connection; what is above it is dropped, as a datagram would be.
const WAITING: usize = 512;
/// A connection without an allocation ends after this long without a message.
const IDLE: Duration = Duration::from_secs(30);
/// The same with one: its messages go on, or it ends with its allocation.
const LONG_IDLE: Duration = Duration::from_secs(3700);
/// After accept() failed (no descriptors left) it is tried again after this.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// STUN header.
const HEADER: usize = 20;

/// Why a server cannot start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TurnError {
    /// An address cannot be listened on.
    #[error("cannot listen for STUN and TURN on {addr} ({what}): {source}")]
    Socket {
        /// The address.
        addr: SocketAddr,
        /// UDP or TCP.
        what: &'static str,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// Relays need an address that their peers can be told.
    #[error("STUN and TURN cannot be on {0}: name the address that clients reach, once for each")]
    Wildcard(SocketAddr),
    /// Relays need ports.
    #[error("no ports for relays: the range {first}-{last} is empty or has port 0", first = .0.start(), last = .0.end())]
    NoPorts(RangeInclusive<u16>),
    /// There is no address to listen on.
    #[error("no address for STUN and TURN is given")]
    NoAddress,
}

/// A running server; dropping it closes everything.
pub struct TurnServer {
    core: Arc<Core>,
    addresses: Vec<SocketAddr>,
}

struct Point {
    udp: UdpSocket,
    addr: SocketAddr,
}

struct Relay {
    socket: Arc<UdpSocket>,
    task: AbortHandle,
}

struct State {
    server: Server,
    relays: HashMap<Id, Relay>,
    armed: Option<Instant>,
}

struct Core {
    state: Mutex<State>,
    points: Vec<Point>,
    connections: Mutex<HashMap<Flow, mpsc::Sender<Vec<u8>>>>,
    most_connections: usize,
    ports: RangeInclusive<u16>,
    tasks: Mutex<JoinSet<()>>,
    wake: Notify,
    runtime: Handle,
}

impl Drop for TurnServer {
    fn drop(&mut self) {
        self.core.tasks.lock().abort_all();
        for relay in self.core.state.lock().relays.values() {
            relay.task.abort();
        }
    }
}

impl TurnServer {
    /// Opens the sockets and serves on the current runtime. `mint` says who may have a relay.
    pub async fn start(config: TurnConfig, mint: Mint) -> Result<TurnServer, TurnError> {
        if config.listen.is_empty() {
            return Err(TurnError::NoAddress);
        }
        if config.ports.is_empty() || *config.ports.start() == 0 {
            return Err(TurnError::NoPorts(config.ports));
        }
        let mut config = config;
        let mut points = Vec::new();
        let mut listeners = Vec::new();
        for addr in &mut config.listen {
            if addr.ip().is_unspecified() {
                return Err(TurnError::Wildcard(*addr));
            }
            let point = Point::open(*addr).await?;
            *addr = point.addr;
            let failed = |source| TurnError::Socket { addr: *addr, what: "TCP", source };
            listeners.push((points.len() as u16, TcpListener::bind(*addr).await.map_err(failed)?));
            points.push(point);
        }
        let squares = squares(&config.listen, &mut points).await?;
        let core = Arc::new(Core {
            state: Mutex::new(State {
                server: Server::new(&config, mint, squares, Instant::now()),
                relays: HashMap::new(),
                armed: None,
            }),
            points,
            connections: Mutex::default(),
            most_connections: config.limits.connections,
            ports: config.ports,
            tasks: Mutex::default(),
            wake: Notify::new(),
            runtime: Handle::current(),
        });
        core.spawn(run_timer(core.clone()));
        for local in 0..core.points.len() as u16 {
            core.spawn(run_udp(core.clone(), local));
        }
        for (local, listener) in listeners {
            core.spawn(run_listener(core.clone(), local, listener));
        }
        Ok(TurnServer { core, addresses: config.listen })
    }

    /// Where it listens, UDP and TCP, in the order of the configuration.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.addresses.clone()
    }

    /// Relays that are open.
    pub fn allocations(&self) -> usize {
        self.core.state.lock().server.allocations()
    }
}

/// The second port of each pair of addresses with the same port.
async fn squares(listen: &[SocketAddr], points: &mut Vec<Point>) -> Result<Vec<Square>, TurnError> {
    let mut squares = Vec::new();
    for v4 in [true, false] {
        let mut family = listen.iter().enumerate().filter(|(_, addr)| addr.is_ipv4() == v4);
        let (Some((one, first)), Some((two, second))) = (family.next(), family.next()) else { continue };
        if first.port() != second.port() || first.ip() == second.ip() {
            continue;
        }
        let Some(port) = first.port().checked_add(1) else { continue };
        let mut other = Vec::new();
        for ip in [first.ip(), second.ip()] {
            let point = Point::open(SocketAddr::new(ip, port)).await?;
            other.push((points.len() as u16, point.addr));
            points.push(point);
        }
        squares.push(Square { points: [[(one as u16, *first), other[0]], [(two as u16, *second), other[1]]] });
    }
    Ok(squares)
}

impl Point {
    async fn open(addr: SocketAddr) -> Result<Point, TurnError> {
        let failed = |source| TurnError::Socket { addr, what: "UDP", source };
        let udp = UdpSocket::bind(addr).await.map_err(failed)?;
        let addr = udp.local_addr().map_err(failed)?;
        Ok(Point { udp, addr })
    }
}

impl Core {
    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let mut tasks = self.tasks.lock();
        while tasks.try_join_next().is_some() {}
        tasks.spawn_on(task, &self.runtime);
    }

    /// Tells the server something, and does what it then wants done.
    fn with(self: &Arc<Self>, call: impl FnOnce(&mut Server, Instant)) {
        let mut state = self.state.lock();
        let state = &mut *state;
        call(&mut state.server, Instant::now());
        while let Some(output) = state.server.poll_output() {
            match output {
                Output::Client { flow, bytes } => self.to_client(flow, bytes),
                Output::Peer { relay, to, bytes } => {
                    if let Some(relay) = state.relays.get(&relay) {
                        send(&relay.socket, &bytes, to);
                    }
                }
                Output::Open { relay, ip, even } => {
                    let opened = self.open(relay, ip, even);
                    let addr = opened.as_ref().and_then(|relay| relay.socket.local_addr().ok());
                    state.relays.extend(opened.map(|opened| (relay, opened)));
                    state.server.opened(relay, addr);
                }
                Output::Close { relay } => {
                    if let Some(relay) = state.relays.remove(&relay) {
                        relay.task.abort();
                    }
                }
            }
        }
        let next = state.server.poll_timeout();
        if next.is_some_and(|next| state.armed.is_none_or(|armed| next < armed)) {
            state.armed = next;
            self.wake.notify_one();
        }
    }

    fn to_client(&self, flow: Flow, bytes: Vec<u8>) {
        match flow.transport {
            Transport::Udp => {
                if let Some(point) = self.points.get(usize::from(flow.local)) {
                    send(&point.udp, &bytes, flow.remote);
                }
            }
            _ => {
                if let Some(connection) = self.connections.lock().get(&flow) {
                    // Full: the client does not read.
                    let _ = connection.try_send(bytes);
                }
            }
        }
    }

    /// A relay on a random free port of the range.
    fn open(self: &Arc<Self>, id: Id, ip: IpAddr, even: bool) -> Option<Relay> {
        let size = u64::from(self.ports.end() - self.ports.start()) + 1;
        let bound = (0..PORT_ATTEMPTS).find_map(|_| {
            let port = self.ports.start() + u16::try_from(random::number() % size).unwrap_or(0);
            let port = if even { port & !1 } else { port };
            self.ports.contains(&port).then(|| StdUdpSocket::bind((ip, port)).ok())?
        })?;
        bound.set_nonblocking(true).ok()?;
        let _inside = self.runtime.enter();
        let socket = Arc::new(UdpSocket::from_std(bound).ok()?);
        let task = self.runtime.spawn(run_relay(self.clone(), id, socket.clone())).abort_handle();
        Some(Relay { socket, task })
    }
}

/// Sends at once, or not at all: a datagram may be lost.
fn send(socket: &UdpSocket, bytes: &[u8], to: SocketAddr) {
    let sent = sendto(socket.as_raw_fd(), bytes, &SockaddrStorage::from(to), MsgFlags::MSG_DONTWAIT);
    if let Err(error) = sent {
        debug!(%error, "datagram not sent");
    }
}

async fn run_timer(core: Arc<Core>) {
    loop {
        let armed = {
            let mut state = core.state.lock();
            state.armed = state.server.poll_timeout();
            state.armed
        };
        let due = async {
            match armed {
                Some(at) => tokio::time::sleep_until(at.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = due => core.with(Server::handle_timeout),
            () = core.wake.notified() => {}
        }
    }
}

async fn run_udp(core: Arc<Core>, local: u16) {
    let mut buffer = vec![0; 65536];
    let Some(point) = core.points.get(usize::from(local)) else { return };
    loop {
        // An error is ICMP's, about a datagram that was sent before.
        let Ok((n, remote)) = point.udp.recv_from(&mut buffer).await else { continue };
        let flow = Flow { transport: Transport::Udp, local, remote };
        core.with(|server, now| server.handle_client(now, SystemTime::now(), flow, &buffer[..n]));
    }
}

async fn run_relay(core: Arc<Core>, id: Id, socket: Arc<UdpSocket>) {
    let mut buffer = vec![0; 65536];
    loop {
        let Ok((n, peer)) = socket.recv_from(&mut buffer).await else { continue };
        core.with(|server, now| server.handle_peer(now, id, peer, &buffer[..n]));
    }
}

async fn run_listener(core: Arc<Core>, local: u16, listener: TcpListener) {
    loop {
        let (stream, remote) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                warn!(%error, "cannot accept TURN connections");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let flow = Flow { transport: Transport::Tcp, local, remote };
        let (sender, receiver) = mpsc::channel(WAITING);
        {
            let mut connections = core.connections.lock();
            if connections.len() >= core.most_connections {
                continue;
            }
            connections.insert(flow, sender);
        }
        let _ = stream.set_nodelay(true);
        core.spawn(run_connection(core.clone(), flow, stream, receiver));
    }
}

async fn run_connection(core: Arc<Core>, flow: Flow, stream: TcpStream, mut waiting: mpsc::Receiver<Vec<u8>>) {
    let (mut reader, mut writer) = stream.into_split();
    let write = async {
        while let Some(bytes) = waiting.recv().await {
            if writer.write_all(&bytes).await.is_err() {
                return;
            }
        }
    };
    let read = async {
        let mut buffer = Vec::new();
        loop {
            let idle = if core.state.lock().server.has_allocation(flow) { LONG_IDLE } else { IDLE };
            match tokio::time::timeout(idle, reader.read_buf(&mut buffer)).await {
                Ok(Ok(n)) if n > 0 => {}
                _ => return,
            }
            let mut used = 0;
            loop {
                let Ok(frame) = frame(&buffer[used..]) else { return };
                let Some((message, whole)) = frame else { break };
                let bytes = &buffer[used..used + message];
                core.with(|server, now| server.handle_client(now, SystemTime::now(), flow, bytes));
                used += whole;
            }
            buffer.drain(..used);
        }
    };
    tokio::select! {
        () = write => {}
        () = read => {}
    }
    core.connections.lock().remove(&flow);
    core.with(|server, _| server.handle_gone(flow));
}

/// The first message of a stream: its length, and the same with its padding; `None`: there is more to come. An error: this is neither STUN
/// nor ChannelData (RFC 8489 6.2.2, RFC 8656 12.5).
fn frame(bytes: &[u8]) -> Result<Option<(usize, usize)>, ErrorKind> {
    let [first, _, high, low, ..] = bytes else { return Ok(None) };
    let length = usize::from(u16::from_be_bytes([*high, *low]));
    let (message, whole) = match first {
        0..=0x3f if length % 4 == 0 => (HEADER + length, HEADER + length),
        0x40..=0x7f => (4 + length, (4 + length).next_multiple_of(4)),
        _ => return Err(ErrorKind::InvalidData),
    };
    Ok((bytes.len() >= whole).then_some((message, whole)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_of_a_stream() {
        let stun = [&[0, 1, 0, 4][..], &[0; 20]].concat();
        assert_eq!(frame(&stun), Ok(Some((24, 24))));
        assert_eq!(frame(&stun[..23]), Ok(None));
        assert_eq!(frame(&[0x40, 0, 0, 5, 1, 2, 3, 4, 5, 0, 0]), Ok(None));
        assert_eq!(frame(&[0x40, 0, 0, 5, 1, 2, 3, 4, 5, 0, 0, 0, 9]), Ok(Some((9, 12))));
        assert_eq!(frame(&[]), Ok(None));
        assert!(
            frame(b"\x16\x03\x01\x01\xfd TLS").is_err()
                && frame(&[0, 1, 0, 3]).is_err()
                && frame(&[0x80, 0, 0, 0]).is_err()
        );
    }
}
