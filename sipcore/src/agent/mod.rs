//! A SIP user agent for a program: registration and sessions, over UDP and TCP.
//!
//! Everything goes through one next hop, the registrar. The protocol runs in a state machine without I/O; an [`Agent`] is its handle.

mod error;
mod incoming;
mod seat;
mod servers;
mod types;

pub use crate::auth::Credentials;
pub use crate::label::{Label, Proto};
pub use crate::presence::{Document, Tuple, Update, Watchers};
pub use crate::sdp::{Channels, Direct, End, Fingerprint, Line, Machine, Offer, Quic, Setup, Tls};
pub use crate::transport::{Counters, Direction, StartError, Tap, TapEvent, Transport};
pub use error::{CallError, MoveError, PresenceError, RegisterError, RestartError};
pub use incoming::{Event, IncomingCall, IncomingRestart};
pub use types::{
    AgentConfig, Capabilities, EndReason, IceServer, Registrar, RegistrationFlow, Session, SessionId, SubscriptionId,
};

use crate::message::Uri;
use crate::transaction::Timing;
use crate::transport::{Admission, Core, Driver, Flow, Secrets, Setup as Sockets};
use crate::user_agent::{Config, UserAgent, contact_uri};
use seat::Seat;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

/// Connections of one agent: to and from its registrar.
const ADMISSION: Admission = Admission { connections: 64, per_source: 64, patience: Duration::from_secs(15) };

/// The longest pause between two REGISTERs as datagrams: nothing else tells that a registrar has restarted and forgotten us. On a connection
/// its end does.
const DATAGRAM_REFRESH: Duration = Duration::from_secs(20);

/// A user agent. Clones are handles to the same one; when the last is gone, its sockets close.
#[derive(Clone)]
pub struct Agent {
    driver: Arc<Driver<Seat>>,
}

impl Agent {
    /// Binds the sockets and starts the driver on the current tokio runtime. No message is sent yet.
    pub async fn start(config: AgentConfig) -> Result<(Agent, mpsc::UnboundedReceiver<Event>), StartError> {
        let (events, receiver) = mpsc::unbounded_channel();
        let Registrar { addr, transport } = config.registrar;
        let registrars = [&[config.registrar][..], &config.others].concat();
        let alone = config.others.is_empty() && config.locate.is_none();
        let sockets = Sockets {
            listen: servers::local_points(config.local_ip, &registrars),
            next_hop: Some(addr).filter(|_| alone),
            tap: config.tap,
            admission: ADMISSION,
            secrets: Secrets { client: config.tls, ..Secrets::default() },
        };
        let locate = config.locate.clone();
        let aor = config.aor.clone();
        let driver = Driver::start(sockets, |addresses| {
            let local = addresses.first().map_or(addr, |point| point.addr);
            let locals = addresses.iter().map(|point| point.addr).collect();
            let hops = servers::hops(&config.aor, addresses, &registrars);
            let agent = Config {
                contact: contact_uri(&config.aor, local, transport).unwrap_or_else(|| config.aor.clone()),
                aor: config.aor,
                instance: config.instance,
                next_hop: Flow { transport, local: 0, remote: addr },
                credentials: config.credentials,
                expires: config.expires,
                refresh: (!transport.is_reliable()).then_some(DATAGRAM_REFRESH),
                timing: Timing::default(),
            };
            let mut agent = UserAgent::new(agent, local);
            agent.set_hops(Instant::now(), locals, hops);
            Seat::new(agent, events)
        })
        .await?;
        let core = Arc::downgrade(&driver.core);
        driver.core.with(|seat, _| seat.core = core);
        if let Some((locator, uri)) = locate {
            servers::follow(&driver.core, aor, locator, uri);
        }
        Ok((Agent { driver: Arc::new(driver) }, receiver))
    }

    /// Registers the address of record. Afterwards the binding is refreshed by itself, with growing pauses while that fails. If it stands
    /// already this returns at once.
    pub async fn register(&self) -> Result<(), RegisterError> {
        let (tell, told) = oneshot::channel();
        self.core().with(|seat, now| seat.register(now, tell));
        told.await.unwrap_or(Err(RegisterError::Shutdown))
    }

    /// Asks who is registered under the address of record, and changes nothing there (RFC 3261 10.2.3). Servers that fail are passed over, and the question is
    /// asked again until there is an answer; what is returned is the outcome of the first attempt. An agent that registers itself asks nothing: nobody is
    /// returned.
    pub async fn query(&self) -> Result<Vec<Uri>, RegisterError> {
        let (tell, told) = oneshot::channel();
        self.core().with(|seat, now| seat.query(now, tell));
        told.await.unwrap_or(Err(RegisterError::Shutdown))
    }

    /// The STUN and TURN servers that the registrar tells of, with credentials for a while: none before [`Agent::register`] or [`Agent::query`].
    pub fn ice_servers(&self) -> Vec<IceServer> {
        self.core().with(|seat, _| seat.agent.ice_servers())
    }

    /// The flows by which the agent is registered or wants to be, the one in use first; none before [`Agent::register`].
    pub fn registration(&self) -> Vec<RegistrationFlow> {
        self.core().with(|seat, now| seat.agent.registration_flows(now))
    }

    /// One session with `target`: INVITE with `offer`, ACK for the 2xx. Dropping the future sends CANCEL, or BYE when a 2xx comes all the same.
    pub async fn invite(&self, target: &Uri, offer: Offer) -> Result<Session, CallError> {
        let (tell, told) = oneshot::channel();
        let id = SessionId::next();
        let mut attempt = Attempt { core: self.core().clone(), id, decided: false };
        self.core().with(|seat, now| seat.invite(now, id, target, offer, tell));
        let outcome = told.await.unwrap_or(Err(CallError::Shutdown));
        attempt.decided = true;
        outcome
    }

    /// This host's addresses may have changed: what is bound to another one than that towards its server is bound anew, and the registrar is told.
    /// Returns when he has answered, or at once if this agent does not register.
    pub async fn moved(&self) -> Result<(), MoveError> {
        let core = self.core();
        let flows = core.with(|seat, _| seat.agent.flows());
        for (local, point) in core.points().into_iter().enumerate() {
            let Some(flow) = flows.iter().find(|flow| usize::from(flow.local) == local) else { continue };
            match servers::route(flow.remote) {
                Some(ip) if ip != point.addr.ip() && !point.addr.ip().is_loopback() => {
                    core.rebind(flow.local, ip).await?;
                }
                _ => {}
            }
        }
        let locals = core.points().iter().map(|point| point.addr).collect();
        let (tell, told) = oneshot::channel();
        core.with(|seat, now| seat.moved(now, locals, tell));
        Ok(told.await.unwrap_or(Err(RegisterError::Shutdown))?)
    }

    /// Looks for a path anew in a session whose flow runs over ICE (RFC 8445 section 2.4): `local` is this end of it now, what is returned the other.
    /// Two ends that do so at once are brought into an order.
    pub async fn restart(&self, id: SessionId, local: Quic) -> Result<Quic, RestartError> {
        let (tell, told) = oneshot::channel();
        self.core().with(|seat, now| seat.restart(now, id, local, tell));
        told.await.unwrap_or(Err(RestartError::Shutdown))
    }

    /// Asks `target` what it can do: OPTIONS, without a session.
    pub async fn options(&self, target: &Uri) -> Result<Capabilities, CallError> {
        let (tell, told) = oneshot::channel();
        self.core().with(|seat, now| seat.ask(now, SessionId::next(), target, tell));
        told.await.unwrap_or(Err(CallError::Shutdown))
    }

    /// Ends a session. A session that has ended already is left alone.
    pub fn bye(&self, id: SessionId) {
        self.core().with(|seat, now| seat.agent.end(now, id));
    }

    /// From now on this is our presence (RFC 3903): published while the registration stands, with our GRUU for the contact of each tuple, refreshed, and
    /// removed at the end. Nothing: it is removed. A server that refuses is told of by `Event::NotPublished`.
    pub fn publish(&self, tuples: Vec<Tuple>) {
        self.core().with(|seat, now| seat.publish(now, tuples));
    }

    /// Subscribes to the presence of `resource`, a user or a list, until `unsubscribe`; with `fetch` asks once. What is known comes as
    /// `Event::Presence`, failures and the end as `Event::SubscriptionLost`.
    pub fn subscribe(&self, resource: &Uri, fetch: bool) -> SubscriptionId {
        let id = SubscriptionId::next();
        self.core().with(|seat, now| seat.subscribe(now, id, resource, fetch));
        id
    }

    /// Ends a subscription.
    pub fn unsubscribe(&self, id: SubscriptionId) {
        self.core().with(|seat, now| seat.agent.unsubscribe(now, id));
    }

    /// Ends all sessions and subscriptions, removes what is published and the binding, and waits at most `limit` for the answers. Afterwards nothing is sent or received
    /// any more; the sockets close with the last handle.
    pub async fn shutdown(&self, limit: Duration) {
        let idle = self.core().with(|seat, now| seat.close(now));
        let core = self.core();
        let quiet = async {
            while !core.with(|seat, _| seat.agent.is_idle()) {
                idle.notified().await;
            }
        };
        // Whoever has not answered by then is left to its own timers.
        let _ = timeout(limit, quiet).await;
        core.stop();
    }

    /// Address of the SIP sockets, UDP and TCP alike.
    pub fn local_addr(&self) -> Option<SocketAddr> {
        self.core().points().first().map(|point| point.addr)
    }

    /// What was sent, received and thrown away.
    pub fn counters(&self) -> Counters {
        self.core().counters()
    }

    fn core(&self) -> &Arc<Core<Seat>> {
        &self.driver.core
    }
}

/// An INVITE under way: dropped before the outcome is known, it is cancelled.
struct Attempt {
    core: Arc<Core<Seat>>,
    id: SessionId,
    decided: bool,
}

impl Drop for Attempt {
    fn drop(&mut self) {
        if !self.decided {
            let id = self.id;
            self.core.with(|seat, now| seat.withdraw(now, id));
        }
    }
}
