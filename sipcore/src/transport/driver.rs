//! Sockets, clock and tasks around one state machine. Nothing is polled: a message is answered in the task that read it, and calls from
//! outside send from the calling thread.

use super::admission::{Admission, Connections};
use super::connection;
use super::datagrams::{self, Datagrams};
use super::tap::{CounterCells, Counters, Direction, Tap, TapEvent, count};
use super::{Flow, Listen, Machine, Transmit, Transport};
use crate::message::Message;
use crate::tls::{ClientTls, ServerTls};
use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use rustls::pki_types::CertificateDer;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tokio::net::{TcpListener, TcpSocket, TcpStream, UdpSocket};
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::task::{AbortHandle, JoinSet};
use tracing::{debug, warn};

/// How often an ephemeral port is tried again when its TCP twin is taken.
const PORT_ATTEMPTS: usize = 16;
/// Rounds of "send, learn that it failed, tell the machine" within one input.
const FLUSH_ROUNDS: usize = 8;
/// Pause after accept() failed, for instance because no file descriptor was left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Why the sockets could not be opened.
#[derive(Debug, thiserror::Error)]
#[error("cannot open SIP socket {transport}/{addr}: {source}")]
pub struct StartError {
    /// The address tried.
    pub addr: SocketAddr,
    /// UDP or TCP.
    pub transport: Transport,
    /// What the kernel said.
    #[source]
    pub source: io::Error,
}

/// What the driver is to open.
pub(crate) struct Setup {
    /// Port 0 takes a free one, the same for UDP and TCP.
    pub listen: Vec<Listen>,
    /// The only address that UDP is exchanged with. Its refusal (ICMP) is then seen at once.
    pub next_hop: Option<SocketAddr>,
    pub tap: Option<Tap>,
    pub admission: Admission,
    pub secrets: Secrets,
}

/// What connections need that are more than TCP.
#[derive(Default)]
pub(crate) struct Secrets {
    /// Who we are to those who connect to us.
    pub server: Option<ServerTls>,
    /// Whom we connect to. Without it no connection by TLS is made from here.
    pub client: Option<ClientTls>,
    /// Other domains that are spoken to by TLS, each known by its certificate. What is sent to one leaves from listening points of its own, behind those
    /// that listen: for each domain one for each that takes TLS. What comes from it comes there.
    pub domains: RwLock<Vec<ClientTls>>,
    /// Web sites whose pages may connect, as browsers tell them (RFC 6454 7): `https://example.org`.
    pub origins: Vec<String>,
}

/// One address on which we listen.
pub(super) struct Point {
    udp: Option<Arc<Datagrams>>,
    listen: Listen,
    /// The only domain that is spoken to from here; nobody listens.
    domain: Option<usize>,
    /// The address that it is bound to, if not to all.
    bound: Option<IpAddr>,
    /// What reads its sockets.
    readers: Mutex<Vec<AbortHandle>>,
}

struct State<M> {
    machine: M,
    /// The deadline for which the timer task sleeps.
    armed: Option<Instant>,
}

/// The machine and everything that its tasks share.
pub(crate) struct Core<M> {
    state: Mutex<State<M>>,
    points: RwLock<Vec<Arc<Point>>>,
    connections: Mutex<Connections>,
    pub(crate) secrets: Secrets,
    pub(super) patience: Duration,
    tasks: Mutex<JoinSet<()>>,
    stopped: AtomicBool,
    wake: Notify,
    tap: Option<Tap>,
    runtime: Handle,
    pub(super) cells: CounterCells,
}

/// Owner of the tasks: dropping it ends them and closes the sockets.
pub(crate) struct Driver<M: Machine> {
    pub core: Arc<Core<M>>,
}

impl<M: Machine> Drop for Driver<M> {
    fn drop(&mut self) {
        self.core.stop();
    }
}

impl<M: Machine> Driver<M> {
    /// Opens the sockets, makes the machine from the addresses that they got, and starts the tasks on the current runtime.
    pub async fn start(setup: Setup, machine: impl FnOnce(&[Listen]) -> M) -> Result<Self, StartError> {
        let mut points = Vec::new();
        let mut listeners = Vec::new();
        for wanted in &setup.listen {
            let (point, listener) = Point::open(*wanted, setup.next_hop).await?;
            points.push(Arc::new(point));
            listeners.push(listener);
        }
        let addresses: Vec<_> = points.iter().map(|point| point.listen).collect();
        for domain in 0..setup.secrets.domains.read().len() {
            let takes_tls = |point: &&Arc<Point>| point.domain.is_none() && point.is_for_tls();
            let gates = points.iter().filter(takes_tls).map(|point| Arc::new(point.gate(domain)));
            points.extend(gates.collect::<Vec<_>>());
        }
        let core = Arc::new(Core {
            state: Mutex::new(State { machine: machine(&addresses), armed: None }),
            points: RwLock::new(points),
            connections: Mutex::new(Connections::new(setup.admission)),
            secrets: setup.secrets,
            patience: setup.admission.patience,
            tasks: Mutex::default(),
            stopped: AtomicBool::new(false),
            wake: Notify::new(),
            tap: setup.tap,
            runtime: Handle::current(),
            cells: CounterCells::default(),
        });
        core.spawn(run_timer(core.clone()));
        for (index, listener) in listeners.into_iter().enumerate() {
            core.serve(index as u16, listener);
        }
        Ok(Driver { core })
    }
}

impl<M: Machine> Driver<M> {
    /// Ends all tasks and waits until their sockets are closed.
    pub async fn finish(self) {
        self.core.stop();
        let mut tasks = std::mem::take(&mut *self.core.tasks.lock());
        while tasks.join_next().await.is_some() {}
    }
}

impl<M: Machine> Core<M> {
    /// Where the driver listens.
    pub fn points(&self) -> Vec<Listen> {
        self.points.read().iter().filter(|point| point.domain.is_none()).map(|point| point.listen).collect()
    }

    fn point(&self, local: u16) -> Option<Arc<Point>> {
        self.points.read().get(usize::from(local)).cloned()
    }

    /// Reads the sockets of a listening point.
    fn serve(self: &Arc<Self>, local: u16, listener: TcpListener) {
        let Some(point) = self.point(local) else { return };
        let mut readers = point.readers.lock();
        if let Some(udp) = &point.udp {
            readers.extend(self.spawn(datagrams::read(self.clone(), local, point.listen.addr, udp.clone())));
            readers.extend(self.spawn(datagrams::write(self.clone(), local, udp.clone())));
        }
        readers.extend(self.spawn(run_listener(self.clone(), local, point.clone(), listener)));
    }

    /// Listens on a free port of another address in the place of a listening point. What was open there ends, and nobody is told.
    pub async fn rebind(self: &Arc<Self>, local: u16, ip: IpAddr) -> Result<(), StartError> {
        let Some(old) = self.point(local) else { return Ok(()) };
        let wanted = Listen { addr: SocketAddr::new(ip, 0), ..old.listen };
        let (point, listener) = Point::open(wanted, old.udp.as_ref().and_then(|udp| udp.connected())).await?;
        if let Some(place) = self.points.write().get_mut(usize::from(local)) {
            *place = Arc::new(point);
        }
        old.readers.lock().drain(..).for_each(|reader| reader.abort());
        self.connections.lock().forsake(local);
        self.serve(local, listener);
        Ok(())
    }

    pub fn counters(&self) -> Counters {
        Counters { connections: self.connections.lock().len() as u64, ..self.cells.read() }
    }

    /// Asks or changes the machine, then sends what it wants sent.
    pub fn with<R>(self: &Arc<Self>, call: impl FnOnce(&mut M, Instant) -> R) -> R {
        let mut state = self.state.lock();
        let now = Instant::now();
        let result = call(&mut state.machine, now);
        self.flush(&mut state.machine, now);
        let next = state.machine.poll_timeout();
        if next.is_some_and(|next| state.armed.is_none_or(|armed| next < armed)) {
            state.armed = next;
            self.wake.notify_one();
        }
        result
    }

    /// Ends all tasks. The sockets close when the last task is gone.
    pub fn stop(&self) {
        self.stopped.store(true, Ordering::Release);
        self.tasks.lock().abort_all();
    }

    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) -> Option<AbortHandle> {
        let mut tasks = self.tasks.lock();
        while tasks.try_join_next().is_some() {}
        (!self.stopped.load(Ordering::Acquire)).then(|| tasks.spawn_on(task, &self.runtime))
    }

    /// A message was read from the network.
    pub(super) fn receive(self: &Arc<Self>, flow: Flow, local: SocketAddr, message: Message) {
        if message.via().is_err() {
            // It belongs to nothing and cannot be answered.
            return count(&self.cells.garbage);
        }
        count(&self.cells.received);
        if let Some(tap) = &self.tap {
            tap(&TapEvent::of(Direction::Received, local, flow.remote, flow.transport, &message));
        }
        self.with(|machine, now| machine.handle_message(now, flow, message));
    }

    pub(super) fn unreachable(self: &Arc<Self>, flow: Flow, why: &str) {
        debug!(transport = %flow.transport, remote = %flow.remote, why, "way lost");
        self.with(|machine, now| machine.handle_unreachable(now, flow, why));
    }

    /// The connection has ended; a newer one under the same flow stays.
    pub(super) fn forget(&self, flow: Flow, connection: &Arc<connection::Connection>) {
        self.connections.lock().close(flow, connection);
    }

    /// How the other end of a connection that is made here is known.
    pub(crate) fn client(&self, flow: Flow) -> Option<ClientTls> {
        match self.point(flow.local)?.domain {
            Some(domain) => self.secrets.domains.read().get(domain).cloned(),
            None => self.secrets.client.clone(),
        }
    }

    /// Whoever connected has shown these certificates: the domains that they speak for (RFC 5922 7.1: one may speak for several), and the flow that he is
    /// known by, the one of the first of them. `None`: they speak for none.
    pub(crate) fn known_by(&self, flow: Flow, shown: &[CertificateDer<'_>]) -> Option<(Flow, Vec<usize>)> {
        let domains = self.secrets.domains.read();
        let believed = domains.iter().enumerate().filter(|(_, domain)| domain.believes(shown));
        let believed: Vec<usize> = believed.map(|(number, _)| number).collect();
        drop(domains);
        let points = self.points.read();
        let here = points.get(usize::from(flow.local))?.listen;
        let first = believed.first().copied()?;
        let gate = points.iter().position(|point| point.domain == Some(first) && point.listen == here)?;
        Some((Flow { local: u16::try_from(gate).ok()?, ..flow }, believed))
    }

    /// A connection is known by another flow from now on. `false`: it is none of those that are open.
    pub(super) fn rename(&self, from: Flow, to: Flow, connection: &connection::Connection) -> bool {
        self.connections.lock().rename(from, to, connection)
    }

    fn flush(self: &Arc<Self>, machine: &mut M, now: Instant) {
        for _ in 0..FLUSH_ROUNDS {
            let mut failed = Vec::new();
            while let Some(transmit) = machine.poll_transmit() {
                let flow = transmit.flow;
                match self.send(transmit) {
                    Ok(()) => count(&self.cells.sent),
                    Err(error) => {
                        count(&self.cells.unsent);
                        if error.kind() != ErrorKind::WouldBlock {
                            failed.push((flow, error));
                        }
                    }
                }
            }
            while let Some(flow) = machine.poll_close() {
                if let Some(connection) = self.connections.lock().get(flow) {
                    connection.abandon();
                }
            }
            machine.deliver_events(now);
            for (flow, error) in &failed {
                machine.handle_unreachable(now, *flow, &error.to_string());
            }
            if failed.is_empty() {
                break;
            }
        }
        machine.deliver_events(now);
    }

    fn send(self: &Arc<Self>, transmit: Transmit) -> io::Result<()> {
        let Transmit { flow, payload } = transmit;
        let point = self.point(flow.local).ok_or(ErrorKind::AddrNotAvailable)?;
        self.tap_sent(&point, flow, &payload);
        match flow.transport {
            Transport::Udp => point.udp.as_ref().ok_or(ErrorKind::AddrNotAvailable)?.send(payload, flow.remote),
            _ => self.send_on_connection(flow, payload),
        }
    }

    fn send_on_connection(self: &Arc<Self>, flow: Flow, payload: Bytes) -> io::Result<()> {
        let connection = {
            let mut connections = self.connections.lock();
            match connections.get(flow) {
                Some(connection) => connection.clone(),
                None if !self.can_connect(flow) => {
                    return Err(io::Error::new(ErrorKind::NotConnected, "the connection has ended"));
                }
                None => {
                    let Some(connection) = connections.open(flow) else {
                        count(&self.cells.refused_connections);
                        return Err(io::Error::other("too many connections"));
                    };
                    self.spawn(connection::run(self.clone(), flow, connection.clone(), None));
                    connection
                }
            }
        };
        match connection.send(payload) {
            true => Ok(()),
            false => Err(connection.why()),
        }
    }

    /// Connects from the address that we tell others, so that they know the connection for ours (RFC 5923 8).
    pub(super) async fn connect(&self, flow: Flow) -> io::Result<TcpStream> {
        let socket = match flow.remote {
            SocketAddr::V4(_) => TcpSocket::new_v4()?,
            SocketAddr::V6(_) => TcpSocket::new_v6()?,
        };
        if let Some(ip) = self.point(flow.local).and_then(|point| point.bound) {
            socket.bind(SocketAddr::new(ip, 0))?;
        }
        socket.connect(flow.remote).await
    }

    /// Connections of this kind are made from here, and not only taken.
    fn can_connect(&self, flow: Flow) -> bool {
        flow.transport == Transport::Tcp || (flow.transport == Transport::Tls && self.client(flow).is_some())
    }

    fn tap_sent(&self, point: &Point, flow: Flow, payload: &Bytes) {
        if let Some(tap) = &self.tap
            && let Ok(message) = Message::parse_datagram(payload.clone())
        {
            tap(&TapEvent::of(Direction::Sent, point.listen.addr, flow.remote, flow.transport, &message));
        }
    }
}

impl Point {
    fn is_for_tls(&self) -> bool {
        self.listen.transport == Transport::Tls
    }

    /// The same for what is exchanged with one domain.
    fn gate(&self, domain: usize) -> Point {
        Point { udp: None, listen: self.listen, domain: Some(domain), bound: self.bound, readers: Mutex::default() }
    }

    /// Opens the sockets: UDP and TCP, or one for connections alone.
    async fn open(wanted: Listen, next_hop: Option<SocketAddr>) -> Result<(Point, TcpListener), StartError> {
        let Listen { addr, transport } = wanted;
        let failed = |source| StartError { addr, transport, source };
        let (udp, listener) = match transport {
            Transport::Udp => {
                let (udp, listener) = bind(addr).await?;
                let udp = Datagrams::new(udp, next_hop).await.map_err(failed)?;
                (Some(Arc::new(udp)), listener)
            }
            _ => (None, TcpListener::bind(addr).await.map_err(failed)?),
        };
        let bound = listener.local_addr().map_err(failed)?;
        let point = Point {
            udp,
            listen: Listen { addr: advertised(bound), transport },
            domain: None,
            bound: Some(bound.ip()).filter(|ip| !ip.is_unspecified()),
            readers: Mutex::default(),
        };
        Ok((point, listener))
    }
}

/// UDP and TCP on the same port.
async fn bind(addr: SocketAddr) -> Result<(UdpSocket, TcpListener), StartError> {
    let mut attempt = 0;
    loop {
        attempt += 1;
        let udp =
            UdpSocket::bind(addr).await.map_err(|source| StartError { addr, transport: Transport::Udp, source })?;
        let port = udp.local_addr().map_err(|source| StartError { addr, transport: Transport::Udp, source })?.port();
        match TcpListener::bind(SocketAddr::new(addr.ip(), port)).await {
            Ok(listener) => return Ok((udp, listener)),
            Err(_) if addr.port() == 0 && attempt < PORT_ATTEMPTS => {}
            Err(source) => return Err(StartError { addr, transport: Transport::Tcp, source }),
        }
    }
}

/// An address that others can use: a wildcard is replaced by the address of the default route, else by loopback.
fn advertised(bound: SocketAddr) -> SocketAddr {
    if !bound.ip().is_unspecified() {
        return bound;
    }
    // Documentation addresses (RFC 5737, RFC 3849): connect() only asks the routing table.
    let (any, probe, fallback): (IpAddr, IpAddr, IpAddr) = match bound {
        SocketAddr::V4(_) => {
            (Ipv4Addr::UNSPECIFIED.into(), Ipv4Addr::new(192, 0, 2, 1).into(), Ipv4Addr::LOCALHOST.into())
        }
        SocketAddr::V6(_) => (
            Ipv6Addr::UNSPECIFIED.into(),
            Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1).into(),
            Ipv6Addr::LOCALHOST.into(),
        ),
    };
    let ip = std::net::UdpSocket::bind((any, 0))
        .and_then(|socket| {
            socket.connect((probe, 9))?;
            socket.local_addr()
        })
        .map_or(fallback, |addr| addr.ip());
    SocketAddr::new(ip, bound.port())
}

async fn run_timer<M: Machine>(core: Arc<Core<M>>) {
    loop {
        let armed = {
            let mut state = core.state.lock();
            state.armed = state.machine.poll_timeout();
            state.armed
        };
        let due = async {
            match armed {
                Some(at) => tokio::time::sleep_until(at.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = due => core.with(|machine, now| machine.handle_timeout(now)),
            () = core.wake.notified() => {}
        }
    }
}

async fn run_listener<M: Machine>(core: Arc<Core<M>>, local: u16, point: Arc<Point>, listener: TcpListener) {
    let transport = match point.listen.transport {
        Transport::Udp => Transport::Tcp,
        other => other,
    };
    loop {
        let (stream, remote) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                warn!(%error, "cannot accept SIP connections");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let flow = Flow { transport, local, remote };
        let Some(connection) = core.connections.lock().open(flow) else {
            count(&core.cells.refused_connections);
            continue;
        };
        core.spawn(connection::run(core.clone(), flow, connection, Some(stream)));
    }
}
