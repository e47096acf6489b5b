//! Encrypted flows of this run: one connection to a peer, by QUIC or of data channels, carries all sockets that speak with it. The
//! program's own socket is joined to its stream here, at the gate; what it sends as datagrams passes a socket of the supervisor's.

mod alert;
mod called;
mod caller;
mod datagrams;
mod early;
mod gate;
mod glare;
mod helpers;
mod mismatch;
mod moving;
mod outer;
mod pump;
mod rest;
mod secure;
mod settings;
mod short;
mod trunk;
mod warm;

pub use called::accept;
pub use caller::Wanted;
pub use helpers::{Found, Helpers};
pub use mismatch::advice;
pub use moving::{restarted, watch};
pub use outer::{Offered, accept as accept_outer};
pub use settings::Settings;
pub use warm::begin as begin_to_gather;

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddrV4};
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use sipcore::agent::{Channels, Quic, SessionId};
use sipcore::flow::{Addresses, Certificate, Fingerprint, Gathered, LinkConfig, Role};
use sipcore::message::Uri;
use tokio::sync::{oneshot, watch};

use crate::status::Connection;
use caller::Peer;
use gate::Gate;
use glare::Glare;
use trunk::Trunk;
use warm::Warm;

use crate::sessions::Sessions;

/// How long the end of a run waits until peers have what the program wrote.
const DRAIN: Duration = Duration::from_secs(30);

/// The first dynamic port.
const DYNAMIC: u16 = 49152;

/// The other end of an encrypted flow.
pub enum Remote {
    Quic(Quic),
    Channels(Channels),
}

/// The encrypted flows of one run.
pub struct Links {
    settings: Settings,
    physical: IpAddr,
    certificate: OnceLock<Arc<Certificate>>,
    /// Who was called, by URI.
    peers: Mutex<HashMap<String, Arc<Peer>>>,
    /// Peers that turned out to be on this machine.
    near: Mutex<HashSet<String>>,
    /// Connections, by the SIP session that each one belongs to.
    trunks: Mutex<HashMap<SessionId, Weak<Trunk>>>,
    /// Calls under way, and whose.
    glare: Arc<Glare>,
    /// What the next session needs.
    warm: Arc<Warm>,
    /// Sessions that are looking for a connection: dropping the sender ends the search.
    searches: Mutex<HashMap<SessionId, oneshot::Sender<()>>>,
    /// Flows of sockets: dropping the sender ends one.
    flows: Mutex<HashMap<SessionId, oneshot::Sender<()>>>,
    /// Datagram flows that a BYE alone ends: what the peer sent before it may still be under way.
    outlasting: Mutex<HashMap<SessionId, oneshot::Sender<()>>>,
    gate: tokio::sync::OnceCell<Arc<Gate>>,
    /// Of the last peer's socket that has no port of its own.
    last_port: AtomicU16,
    /// What still carries bytes.
    busy: watch::Sender<usize>,
    /// The program has ended: nobody reads any more.
    ending: watch::Sender<bool>,
    /// This host's addresses, when they have changed and the registrar knows.
    moves: watch::Sender<Addresses>,
}

impl Links {
    pub fn new(settings: Settings, physical: IpAddr) -> Links {
        Links {
            settings,
            physical,
            certificate: OnceLock::new(),
            peers: Mutex::default(),
            near: Mutex::default(),
            trunks: Mutex::default(),
            glare: Arc::default(),
            warm: Arc::default(),
            searches: Mutex::default(),
            flows: Mutex::default(),
            outlasting: Mutex::default(),
            gate: tokio::sync::OnceCell::new(),
            last_port: AtomicU16::new(0),
            busy: watch::Sender::new(0),
            ending: watch::Sender::new(false),
            moves: watch::Sender::default(),
        }
    }

    /// What the policy says about flows.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// What there is to find a path with. `near`: the other end may be on this machine, where it has no other address.
    async fn config(&self, sessions: &Sessions, near: bool) -> Result<LinkConfig, String> {
        let certificate = self.certificate()?;
        let offered = if near { None } else { Some(sessions.offered_servers().await) };
        let servers = self.settings.servers(offered.as_deref()).await;
        let also = if near { vec![self.physical] } else { Vec::new() };
        Ok(LinkConfig { certificate, servers, also })
    }

    /// Sockets and candidates for one more connection.
    async fn gather(&self, sessions: &Sessions, near: bool) -> Result<Gathered, String> {
        let warm = if near { None } else { self.warm.take().await };
        let gathered = match warm {
            Some(gathered) => gathered,
            None => Gathered::start(self.config(sessions, near).await?).await.map_err(|e| e.to_string())?,
        };
        self.settings.say_unreached(gathered.unreached_relays());
        Ok(gathered)
    }

    /// A port for the socket of a peer that has none: ports of that kind are dynamic ones (RFC 6335 section 6).
    fn next_port(&self) -> u16 {
        DYNAMIC + self.last_port.fetch_add(1, Ordering::Relaxed) % (u16::MAX - DYNAMIC)
    }

    /// The certificate of this run.
    fn certificate(&self) -> Result<Arc<Certificate>, String> {
        if let Some(made) = self.certificate.get() {
            return Ok(made.clone());
        }
        let made = Arc::new(Certificate::new().map_err(|e| e.to_string())?);
        Ok(self.certificate.get_or_init(|| made).clone())
    }

    /// A new flow of a socket: its name, and what says that it is to end.
    fn begin(&self) -> (SessionId, oneshot::Receiver<()>) {
        let id = SessionId::next();
        (id, self.begin_as(id))
    }

    /// A flow of a socket that has a session of its own: what says that it is to end.
    fn begin_as(&self, id: SessionId) -> oneshot::Receiver<()> {
        let (end, ended) = oneshot::channel();
        self.flows.lock().insert(id, end);
        ended
    }

    /// A session that looks for a connection: what says that the peer has given up.
    fn search(&self, id: SessionId) -> oneshot::Receiver<()> {
        let (end, ended) = oneshot::channel();
        self.searches.lock().insert(id, end);
        ended
    }

    /// The socket of this flow is gone, or the session of this connection is to end.
    pub fn close(&self, id: SessionId) {
        if let Some(gate) = self.gate.get() {
            gate.forget(id);
        }
        self.searches.lock().remove(&id);
        self.flows.lock().remove(&id);
        self.outlasting.lock().remove(&id);
    }

    /// A datagram flow that ends by itself some time after the session: what says that the peer has sent BYE.
    fn outlast(&self, id: SessionId) -> oneshot::Receiver<()> {
        let (end, ended) = oneshot::channel();
        self.outlasting.lock().insert(id, end);
        ended
    }

    /// The peer ended a session: the connection in it ends too. Whether a flow is left that forgets the session when it ends.
    pub fn ended(&self, id: SessionId) -> bool {
        self.searches.lock().remove(&id);
        if let Some(hung_up) = self.outlasting.lock().remove(&id) {
            return hung_up.send(()).is_ok();
        }
        if let Some(trunk) = self.trunks.lock().remove(&id).and_then(|trunk| trunk.upgrade()) {
            trunk.link.close();
        }
        false
    }

    /// Somebody calls, and shows the certificate with this fingerprint. The error is this end's: there is a session with him already, which he is
    /// to use.
    pub fn meets(&self, from: &Uri, theirs: Fingerprint) -> Result<Option<glare::Incoming>, Fingerprint> {
        // That there is none is said where it is needed.
        let Ok(own) = self.certificate().map(|certificate| certificate.fingerprint) else { return Ok(None) };
        let stands = |aor: &Uri| {
            let trunk = self.standing(theirs).filter(|trunk| trunk.role == Role::Offerer && trunk.link.road().works());
            let trunk = trunk.filter(|trunk| trunk.peer.parse::<Uri>().is_ok_and(|peer| peer.aor() == *aor));
            trunk.is_some_and(|trunk| {
                trunk.caller.lock().get_or_insert_with(|| from.to_string());
                true
            })
        };
        self.glare.incoming(from, [theirs, own], stands).map(Some).ok_or(own)
    }

    /// The connection to whoever shows this: of several the one by which something came last.
    fn standing(&self, fingerprint: Fingerprint) -> Option<Arc<Trunk>> {
        let trunks = self.trunks.lock();
        let live = trunks.values().filter_map(Weak::upgrade).filter(|trunk| !trunk.link.is_closed());
        live.filter(|trunk| trunk.fingerprint == Some(fingerprint)).min_by_key(|trunk| trunk.link.silence())
    }

    /// The connections that stand.
    pub fn connections(&self) -> Vec<Connection> {
        let trunks: Vec<Arc<Trunk>> = self.trunks.lock().values().filter_map(Weak::upgrade).collect();
        let live = trunks.iter().filter(|trunk| !trunk.link.is_closed());
        let shown = live.map(|trunk| Connection {
            peer: trunk.peer.clone(),
            path: trunk.link.road().path(),
            rtt: trunk.link.rtt(),
            bytes: trunk.link.bytes(),
            flow: trunk.link.flow(),
            used: trunk.users(),
        });
        shown.collect()
    }

    /// The program listens on other sockets than before.
    pub fn listeners_changed(&self) {
        let trunks: Vec<Arc<Trunk>> = self.trunks.lock().values().filter_map(Weak::upgrade).collect();
        trunks.iter().for_each(|trunk| trunk.link.changed());
    }

    /// A socket of the program that is about to be connected to `media`: if its bytes pass this process its queue is kept short. Whether they do.
    pub fn shorten(&self, socket: BorrowedFd<'_>, media: SocketAddrV4) -> bool {
        let is_own = self.gate.get().is_some_and(|gate| gate.address == media);
        if is_own {
            short::of_program(socket, socket);
        }
        is_own
    }

    /// A socket that the program accepts, likewise: this process is at its other end.
    pub fn shorten_accepted(socket: BorrowedFd<'_>, listener: BorrowedFd<'_>) {
        short::of_program(socket, listener);
    }

    /// Counts what carries bytes, as long as it is held.
    fn busy(self: &Arc<Links>) -> Busy {
        self.busy.send_modify(|count| *count += 1);
        Busy(self.clone())
    }

    /// The program has ended. Waits until its peers have what it wrote, at most half a minute, and ends all connections.
    pub async fn shutdown(&self) {
        self.ending.send_replace(true);
        let mut busy = self.busy.subscribe();
        let drained = tokio::time::timeout(DRAIN, busy.wait_for(|count| *count == 0)).await.is_ok();
        if !drained {
            crate::say::say!("a peer has not taken what the program wrote within {} s: it is lost", DRAIN.as_secs());
        }
        let trunks: Vec<_> = self.trunks.lock().values().filter_map(Weak::upgrade).collect();
        for trunk in &trunks {
            trunk.link.close();
        }
        for trunk in trunks {
            // Whoever does not hear of it finds out by himself.
            let _ = tokio::time::timeout(Duration::from_millis(200), trunk.link.wait_idle()).await;
        }
    }
}

/// Something carries bytes.
struct Busy(Arc<Links>);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.busy.send_modify(|count| *count -= 1);
    }
}

/// A socket of this process, whose other end the program has, before its bytes are carried.
fn prepare(socket: &tokio::net::TcpStream) {
    let _ = socket.set_nodelay(true);
    // A flow has no urgent data: the byte goes on in its place, as past other middleboxes (RFC 6093 section 3.2), rather than not at all.
    let _ = nix::sys::socket::setsockopt(socket, nix::sys::socket::sockopt::OobInline, &true);
    short::own(socket);
}

/// A socket of the run's own address, as [`SocketAddrV4`].
fn v4(address: std::net::SocketAddr) -> std::io::Result<SocketAddrV4> {
    match sandbox::sock::canonical(address) {
        std::net::SocketAddr::V4(address) => Ok(address),
        std::net::SocketAddr::V6(_) => Err(std::io::ErrorKind::AddrNotAvailable.into()),
    }
}
