//! Sessions for sockets: the agent of this run, started when it is first needed, and what SIP outcomes mean to a program.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr, SocketAddrV4};
use std::os::fd::BorrowedFd;
use std::str::FromStr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use nix::errno::Errno;
use parking_lot::Mutex;
use policy::Flows;
use sandbox::diag::Receiver;
use sipcore::agent::{
    Agent, CallError, Direct, End, EndReason, Event, IceServer, Label, Offer, PresenceError, Proto, RegistrationFlow,
    Session, SessionId, Transport, Tuple,
};
use sipcore::flow::Opening as Asked;
use sipcore::message::Uri;
use tokio::sync::oneshot;

use crate::flow::{Links, Settings, Wanted};
use crate::identity::{Identity, user_of};
use crate::progress::{self, Waiting};
use crate::supervisor::Supervisor;
use crate::table::Cookie;
use crate::{flow, hub, inbound};

/// How many different things are explained to the user in one run: the program must not fill the memory with them.
const SAID: usize = 1000;
/// How long a listen() or bind() waits for the registration that makes it reachable.
const REGISTER_WITHIN: Duration = Duration::from_secs(5);

/// Whom an address leads to, and how.
#[derive(Debug, PartialEq, Eq)]
pub struct Callee {
    /// A SIP URI.
    pub uri: String,
    /// What may carry the bytes.
    pub flows: Flows,
}

/// A flow that stands, for one socket.
pub struct Flow {
    pub session: SessionId,
    /// Where the program's socket is to be connected.
    pub media: SocketAddrV4,
    /// What carries the bytes, in words for the trace.
    pub kind: &'static str,
    /// Of datagrams: what the peer has sent already is delivered when this is dropped, once the program's socket knows him.
    pub _hears: Option<oneshot::Sender<()>>,
}

/// Why there is no flow; the words have been said on stderr.
pub struct Failure {
    pub errno: Errno,
}

/// A session being set up: counted, so that a program cannot ask for more at once than the limit.
struct Opening<'a> {
    count: &'a AtomicUsize,
    others: usize,
}

impl Opening<'_> {
    fn begin(count: &AtomicUsize) -> Opening<'_> {
        Opening { count, others: count.fetch_add(1, Ordering::Relaxed) }
    }
}

impl Drop for Opening<'_> {
    fn drop(&mut self) {
        self.count.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Who is at the other end of a session.
#[derive(Debug, Clone)]
pub struct Party {
    pub peer: String,
    /// What carries the bytes of one socket alone: direct, tls, clear. `None`: the session has an encrypted connection for many sockets, or is a
    /// flow in one.
    pub own: Option<&'static str>,
    /// This process's own TCP socket to the peer, where the bytes of the program's pass it.
    pub far: Option<Cookie>,
}

/// The sessions of one run.
pub struct Sessions {
    identity: Identity,
    physical: IpAddr,
    limit: usize,
    agent: tokio::sync::Mutex<Option<Agent>>,
    /// The run ends: no agent is started any more.
    has_ended: AtomicBool,
    live: Mutex<HashSet<SessionId>>,
    /// With whom each one is.
    parties: Mutex<HashMap<SessionId, Party>>,
    opening: AtomicUsize,
    said: Mutex<HashSet<String>>,
    supervisor: OnceLock<Weak<Supervisor>>,
    /// Encrypted flows.
    pub links: Arc<Links>,
}

impl Sessions {
    pub fn new(identity: Identity, flows: Settings, physical: IpAddr, limit: usize) -> Sessions {
        Sessions {
            identity,
            physical,
            limit,
            agent: tokio::sync::Mutex::new(None),
            has_ended: AtomicBool::new(false),
            live: Mutex::default(),
            parties: Mutex::default(),
            opening: AtomicUsize::new(0),
            said: Mutex::default(),
            supervisor: OnceLock::new(),
            links: Arc::new(Links::new(flows, physical)),
        }
    }

    /// Who answers inbound sessions.
    pub fn serve(&self, supervisor: &Arc<Supervisor>) {
        let _ = self.supervisor.set(Arc::downgrade(supervisor));
    }

    /// A line for the user, once for each `key`.
    pub fn say_once(&self, key: &str, words: impl FnOnce() -> String) {
        let mut said = self.said.lock();
        if said.len() >= SAID || !said.insert(key.to_owned()) {
            return;
        }
        crate::say::line(&words());
        if said.len() == SAID {
            crate::say::say!("{SAID} refusals have been explained; further ones are silent (see --trace)");
        }
    }

    /// The agent, started now if it was not.
    async fn agent(&self) -> Result<Agent, String> {
        let mut slot = self.agent.lock().await;
        if let Some(agent) = &*slot {
            return Ok(agent.clone());
        }
        if self.has_ended.load(Ordering::Relaxed) {
            return Err("the run ends".to_owned());
        }
        let (agent, events) = self.identity.start_agent(self.physical, Transport::Udp).await?;
        if let Some(supervisor) = self.supervisor.get() {
            tokio::spawn(serve_events(supervisor.clone(), events));
            if let Some(supervisor) = supervisor.upgrade() {
                flow::watch(&supervisor);
            }
        }
        *slot = Some(agent.clone());
        Ok(agent)
    }

    /// The agent, if it was started.
    pub async fn started_agent(&self) -> Option<Agent> {
        self.agent.lock().await.clone()
    }

    /// Registers, if this run has a name; waits until that has succeeded or failed. A failure is said, not returned: the
    /// program's listen() is not to blame.
    pub async fn ensure_registered(&self) {
        if !self.identity.given {
            return;
        }
        let _waiting = Waiting::begin(&self.identity.aor, "registering");
        let outcome = tokio::time::timeout(REGISTER_WITHIN, async {
            let agent = self.agent().await?;
            agent.register().await.map_err(|e| match e.is_final() {
                true => e.to_string(),
                false => format!("{e}; it is tried again"),
            })
        })
        .await;
        let why = match outcome {
            Ok(Ok(())) => return,
            _ if self.has_ended.load(Ordering::Relaxed) => return,
            Ok(Err(why)) => why,
            Err(_) => format!("no answer within {} s; it is tried again", REGISTER_WITHIN.as_secs()),
        };
        self.say_once(&format!("register:{why}"), || {
            format!("{} is not registered, so peers cannot reach the program yet: {why}", self.identity.aor)
        });
    }

    /// The STUN and TURN servers that the registrar has for those who register; none if the policy names its own.
    pub async fn offered_servers(&self) -> Vec<IceServer> {
        if !self.identity.given || self.links.settings().names_servers() {
            return Vec::new();
        }
        self.ensure_registered().await;
        self.agent().await.map(|agent| agent.ice_servers()).unwrap_or_default()
    }

    /// From now on peers are told of these sockets, and of no others. False when that is to be tried again with the next change.
    pub async fn publish(&self, tuples: Vec<Tuple>) -> bool {
        if !self.identity.given {
            self.say_once("published:nobody", || {
                "the policy publishes what the program binds, but the run has no name: nobody is told; add --as NAME or \
                 [identity] aor"
                    .to_owned()
            });
            return true;
        }
        // That there is no agent has been said where the registration failed.
        let Ok(agent) = self.agent().await else { return false };
        agent.publish(tuples);
        true
    }

    fn say_not_published(&self, error: &PresenceError) {
        self.say_once(&format!("published:{error}"), || {
            let then = match error {
                PresenceError::Withheld { .. } => {
                    "so they are published to nobody: use a hub of sipbox, or leave visible-to out of [[bind]]"
                }
                error if error.is_final() => "the program can be called all the same",
                _ => "it is tried again",
            };
            format!("peers are not told of the sockets of {}: {error}; {then}", self.identity.aor)
        });
    }

    /// A session with `callee` for the socket at `source`.
    pub async fn open(
        &self,
        callee: &Callee,
        label: Label,
        source: SocketAddrV4,
        seen_as: SocketAddr,
    ) -> Result<Flow, Failure> {
        let fail = |errno: Errno, why: String| {
            crate::say::say!("{label} of {}: {why} ({errno:?} to the program)", callee.uri);
            Failure { errno }
        };
        let opening = Opening::begin(&self.opening);
        if self.live.lock().len() + opening.others >= self.limit {
            return Err(fail(
                Errno::ENOBUFS,
                format!("[limits] sessions = {} is reached; raise it in the policy", self.limit),
            ));
        }
        let target = Uri::from_str(&callee.uri);
        let target = target.map_err(|e| fail(Errno::EINVAL, format!("not a URI: {e}")))?;
        let _waiting = Waiting::begin(&callee.uri, "looking for the registrar");
        let agent = self.agent().await.map_err(|why| fail(Errno::ENETUNREACH, why))?;
        let wanted = Wanted { callee, target: &target, label, source, seen_as, aside: None };
        let flows = &callee.flows;
        let has_others = !flows.encrypted.is_empty() || flows.cleartext;
        // The user's own hub, and a registrar on the loopback, have only peers on this machine, as far as one can tell.
        let here = agent.local_addr().is_some_and(|a| a.ip().is_loopback()) || self.links.is_near(&callee.uri);
        let mut elsewhere = false;
        if flows.local && (here || !has_others) {
            let flows = vec![End::Direct(self.local(source))];
            match self.call(&agent, &target, Offer { label, virtual_source: seen_as, flows }).await {
                Ok(Session { id, end: End::Direct(direct), .. }) => {
                    return self.direct(&agent, &wanted, id, direct.source);
                }
                // It wants encryption, or is elsewhere.
                Err(CallError::Rejected { status: 488, .. }) if has_others => elsewhere = true,
                Ok(other) => {
                    agent.bye(other.id);
                    return Err(wanted.fail(Errno::ECONNREFUSED, "the peer took what was not offered".to_owned()));
                }
                Err(e) => return Err(self.failure(&wanted, &e)),
            }
        }
        let supervisor = self.supervisor.get().and_then(Weak::upgrade).ok_or(Failure { errno: Errno::ENETUNREACH })?;
        self.links.open(&supervisor, &agent, wanted, flows.local && !elsewhere).await
    }

    /// A flow to a socket of `callee` that is known to be there, at once. `None`: [`Sessions::open`] finds out.
    pub fn open_early(
        &self,
        supervisor: &Arc<Supervisor>,
        callee: &Arc<Callee>,
        label: Label,
        source: SocketAddrV4,
        seen_as: SocketAddr,
    ) -> Option<Flow> {
        if self.live.lock().len() + self.opening.load(Ordering::Relaxed) >= self.limit {
            return None;
        }
        self.links.open_early(supervisor, callee, Asked { label, virtual_source: seen_as }, source)
    }

    /// The direct flow of a socket, for peers on this machine.
    pub fn local(&self, source: SocketAddrV4) -> Direct {
        Direct { machine: Some(self.links.settings().machine()), ..Direct::active(SocketAddr::V4(source)) }
    }

    /// One INVITE.
    pub async fn call(&self, agent: &Agent, target: &Uri, offer: Offer) -> Result<Session, CallError> {
        progress::now(target.as_str(), "calling");
        let outcome = agent.invite(target, offer.clone()).await;
        if matches!(outcome, Err(CallError::Unreachable { .. })) && self.identity.registrar.is_none() {
            // The hub of this user has ended since: start it again, and try once more.
            if hub::ensure().await.is_ok() {
                return agent.invite(target, offer).await;
            }
        }
        outcome
    }

    /// What a call that failed means to the program; the user is told.
    pub fn failure(&self, wanted: &Wanted<'_>, e: &CallError) -> Failure {
        match e {
            // The run is ending: nobody waits for this any more.
            CallError::Shutdown => Failure { errno: Errno::ENETUNREACH },
            e => wanted.fail(meaning(e), format!("{e}; {}", self.advice(e, wanted.target, &wanted.callee.flows))),
        }
    }

    /// What the user can do about it.
    fn advice(&self, e: &CallError, target: &Uri, flows: &Flows) -> String {
        match e {
            CallError::Rejected { status: 488, .. } if flows.encrypted.is_empty() && flows.cleartext => {
                "this run offers cleartext only: allow an encrypted flow here, or let the peer say cleartext = true"
                    .to_owned()
            }
            CallError::Rejected { status: 488, .. } if flows.encrypted.is_empty() => {
                "--flow direct stays on this machine, in the clear: allow --flow auto or quic here".to_owned()
            }
            CallError::Rejected { status: 488, .. } if !flows.local => {
                "this run wants an encrypted flow: let the peer allow it (--flow auto or quic)".to_owned()
            }
            _ => advice(e, target),
        }
    }

    /// A direct flow that the peer has taken.
    pub fn direct(
        &self,
        agent: &Agent,
        wanted: &Wanted<'_>,
        session: SessionId,
        media: SocketAddr,
    ) -> Result<Flow, Failure> {
        match media {
            SocketAddr::V4(media) if is_exact(media, wanted.source, wanted.label.proto) => {
                self.note(session);
                self.note_own(session, &wanted.callee.uri, "direct");
                Ok(Flow { session, media, kind: "direct flow", _hears: None })
            }
            elsewhere => {
                agent.bye(session);
                let why = format!(
                    "the peer's media address {elsewhere} is not a socket of this machine's loopback (or its program closed \
                     it just now); cleartext flows stay on this machine"
                );
                Err(wanted.fail(Errno::ECONNREFUSED, why))
            }
        }
    }

    /// Whether this run has a name, at a registrar that may be on another machine.
    pub fn may_be_called(&self) -> bool {
        self.identity.given && self.identity.registrar.is_some()
    }

    /// Whether the SIP of this run stays on this machine.
    pub async fn is_near(&self) -> bool {
        let agent = self.agent.lock().await;
        agent.as_ref().and_then(Agent::local_addr).is_some_and(|a| a.ip().is_loopback())
    }

    /// Says with whom a session is.
    pub fn note_party(&self, session: SessionId, peer: &str) {
        self.parties.lock().insert(session, Party { peer: peer.to_owned(), own: None, far: None });
    }

    /// Says with whom a session is that one socket has for itself, and by which flow.
    pub fn note_own(&self, session: SessionId, peer: &str, flow: &'static str) {
        self.parties.lock().insert(session, Party { peer: peer.to_owned(), own: Some(flow), far: None });
    }

    /// This is the socket by which the peer of such a session is reached.
    pub fn note_far(&self, session: SessionId, socket: BorrowedFd<'_>) {
        if let Some(party) = self.parties.lock().get_mut(&session) {
            party.far = sandbox::sock::socket_cookie(socket).ok();
        }
    }

    /// All sessions, and with whom each one is.
    pub fn parties(&self) -> HashMap<SessionId, Party> {
        self.parties.lock().clone()
    }

    /// Who this run is.
    pub fn aor(&self) -> &str {
        &self.identity.aor
    }

    /// By which flows it is registered; none while the agent is being started.
    pub fn registration(&self) -> Vec<RegistrationFlow> {
        let started = self.agent.try_lock().ok().and_then(|agent| agent.clone());
        started.map(|agent| agent.registration()).unwrap_or_default()
    }

    /// Where it registers, in words.
    pub fn registrar(&self) -> &str {
        self.identity.registrar.as_ref().map_or("this user's own hub", |home| home.uri().as_str())
    }

    /// The address by which this host is told to peers: the one towards the registrar.
    pub async fn told_ip(&self) -> Result<IpAddr, String> {
        let agent = self.agent().await?;
        agent.local_addr().map(|address| address.ip()).ok_or_else(|| "there is no socket for SIP".to_owned())
    }

    /// Counts a session.
    pub fn note(&self, session: SessionId) {
        self.live.lock().insert(session);
    }

    /// A session has ended, and nobody need be told.
    pub fn forget(&self, session: SessionId) {
        self.live.lock().remove(&session);
        self.parties.lock().remove(&session);
    }

    /// Whether there are as many sessions as the policy allows.
    pub fn is_full(&self) -> bool {
        self.live.lock().len() >= self.limit
    }

    /// What was announced by this session, if there was one, is not waited for any more.
    pub fn close_displaced(&self, session: Option<SessionId>) {
        session.into_iter().for_each(|session| self.close(session));
    }

    /// The socket of this session is gone: BYE.
    pub fn close(&self, session: SessionId) {
        self.forget(session);
        self.links.close(session);
        if let Ok(slot) = self.agent.try_lock() {
            if let Some(agent) = &*slot {
                agent.bye(session);
            }
        } else if let Some(supervisor) = self.supervisor.get().and_then(Weak::upgrade) {
            // Somebody starts the agent just now, which takes a moment.
            supervisor.runtime.clone().spawn(async move {
                if let Some(agent) = &*supervisor.sessions.agent.lock().await {
                    agent.bye(session);
                }
            });
        }
    }

    /// Ends all sessions and the registration.
    pub async fn shutdown(&self, limit: Duration) {
        self.links.shutdown().await;
        let agent = {
            let mut agent = self.agent.lock().await;
            self.has_ended.store(true, Ordering::Relaxed);
            agent.take()
        };
        if let Some(agent) = agent {
            agent.shutdown(limit).await;
        }
    }
}

/// In the block where runs have their sockets.
pub fn is_of_runs(address: SocketAddrV4) -> bool {
    let [first, second, ..] = address.ip().octets();
    first == 127 && second & 0xc0 == 64
}

/// Whether a media address may be used: it is in the block where runs have their sockets (127.64.0.0/10), and a socket on
/// this machine is bound to just that address. Anything else, a service on 127.0.0.1 or on the wildcard address among it, is
/// not a peer's end, whatever the peer says.
pub fn is_exact(media: SocketAddrV4, from: SocketAddrV4, proto: Proto) -> bool {
    is_of_runs(media) && sandbox::diag::is_bound(media, from, proto == Proto::Tcp).unwrap_or(false)
}

/// Whether what `from` will connect or send to there is a peer's own socket, and no service of this machine.
pub fn may_be_peer(source: SocketAddrV4, from: SocketAddrV4, proto: Proto) -> bool {
    match proto {
        Proto::Tcp => is_exact(source, from, proto),
        // The caller's socket may be connected to its stub still: then nobody is found, but never a wildcard service.
        Proto::Udp => {
            let found = sandbox::diag::receiver(source, from, false);
            is_of_runs(source) && found.is_ok_and(|r| r != Receiver::Wildcard)
        }
    }
}

/// SIP outcome to errno (design/SOCKETS.md).
fn meaning(e: &CallError) -> Errno {
    match e {
        CallError::Rejected { status, .. } => match status {
            404 | 410 | 480 | 604 => Errno::EHOSTUNREACH,
            486 | 600 | 603 | 488 | 606 | 415 => Errno::ECONNREFUSED,
            401 | 403 | 407 => Errno::EACCES,
            408 => Errno::ETIMEDOUT,
            503 => Errno::ENETUNREACH,
            400..=499 | 600..=699 => Errno::ECONNREFUSED,
            _ => Errno::ENETUNREACH,
        },
        CallError::Timeout { .. } => Errno::ETIMEDOUT,
        CallError::Unreachable { .. } => Errno::ENETUNREACH,
        CallError::NoCredentials { .. } | CallError::BadCredentials { .. } => Errno::EACCES,
        _ => Errno::ECONNREFUSED,
    }
}

/// What the user can do about it.
fn advice(e: &CallError, target: &Uri) -> String {
    match meaning(e) {
        Errno::EHOSTUNREACH => {
            format!("start the peer, e.g. `sipbox run --as {} -- PROGRAM`", user_of(target.as_str()))
        }
        Errno::ECONNREFUSED => "let the peer's program listen on that port (on 0.0.0.0 or [::])".to_owned(),
        Errno::EACCES => "check the name and password (SIPBOX_PASSWORD, or [identity] credentials)".to_owned(),
        Errno::ENETUNREACH => "check that the hub or registrar runs at that address (--registrar)".to_owned(),
        Errno::ETIMEDOUT => "the peer is registered but does not answer".to_owned(),
        _ => "see the reason".to_owned(),
    }
}

async fn serve_events(supervisor: Weak<Supervisor>, mut events: tokio::sync::mpsc::UnboundedReceiver<Event>) {
    while let Some(event) = events.recv().await {
        let Some(supervisor) = supervisor.upgrade() else { return };
        match event {
            Event::Incoming(call) => inbound::incoming(&supervisor, call),
            Event::Restart(restart) => flow::restarted(&supervisor, restart),
            Event::Ended { id, reason } => {
                tracing::debug!(?id, ?reason, "session ended by the peer");
                supervisor.sessions.forget(id);
                // A connection that lives needs no proxy on its way.
                let outlasted = reason != EndReason::PeerVanished && supervisor.sessions.links.ended(id);
                if !outlasted {
                    supervisor.forget_session(id);
                }
            }
            Event::RegistrationLost { why, over } => {
                let aor = &supervisor.sessions.identity.aor;
                let then = match over {
                    true => "peers cannot reach the program any more: ask who runs the registrar, and start it again",
                    false => "it is tried again",
                };
                crate::say::say!("the registration of {aor} is lost: {why}; {then}");
                if !over && supervisor.sessions.identity.registrar.is_none() {
                    // The hub of this user is gone: the next one is at the same address.
                    tokio::spawn(async {
                        if let Err(error) = hub::ensure().await {
                            tracing::warn!(%error, "the hub did not start");
                        }
                    });
                }
            }
            Event::NotPublished(error) => supervisor.sessions.say_not_published(&error),
            // This agent watches nobody.
            Event::Presence { .. } | Event::SubscriptionLost { .. } => {}
            Event::RegistrationRestored => {
                crate::say::say!("registered as {}", supervisor.sessions.identity.aor)
            }
        }
    }
}
