//! The calling side: a connection to a peer for the first of its sockets, a stream in it for each.

use std::net::{SocketAddr, SocketAddrV4};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use parking_lot::Mutex;
use policy::Encrypted;
use sipcore::agent::{Agent, CallError, Channels, End, Label, Offer, Proto, SessionId, Setup};
use sipcore::flow::datachannel::Terms;
use sipcore::flow::{Fingerprint, Gathered, Link, LinkError, Listening, OpenError, Opening, Role, Stream};
use sipcore::message::Uri;

use super::outer::{self, Clear, Outcome, TLS};
use super::trunk::{Held, Trunk};
use super::{Links, Remote, called, datagrams, early, gate, glare, mismatch, moving, pump};
use crate::progress;
use crate::sessions::{Callee, Failure, Flow};
use crate::supervisor::Supervisor;

/// After this long a peer that was not reached over TCP is asked for TLS again.
const TLS_AGAIN: Duration = Duration::from_secs(300);

/// How long a call waits for a session that the peer is setting up just now.
const COMING_WITHIN: Duration = Duration::from_secs(10);
/// And for one that he says is there, and of which nothing is known here; then he is called again.
const KNOWN_WITHIN: Duration = Duration::from_secs(1);
/// How long he may say so: a session that is gone at one end is given up at the other when nothing comes any more.
const STANDS_WITHIN: Duration = Duration::from_secs(40);

/// How long a path may be gone that comes back while a peer cannot be called again.
const BACK_WITHIN: Duration = Duration::from_secs(15);

/// Peers that are remembered at once.
const PEERS: usize = 4096;

/// A flow that a socket of the program asks for.
#[derive(Clone, Copy)]
pub struct Wanted<'a> {
    pub callee: &'a Callee,
    pub target: &'a Uri,
    pub label: Label,
    /// Physical address of the program's socket.
    pub source: SocketAddrV4,
    /// How the peer's program is to see it.
    pub seen_as: SocketAddr,
    /// Where the reason goes if it is not to be had, while there is another way; else the user is told.
    pub aside: Option<&'a Mutex<Option<Why>>>,
}

/// Why a flow is not to be had: what a connect() of the program is told, and the user.
pub type Why = (Errno, String);

impl Wanted<'_> {
    /// Says why it is not to be had.
    pub fn fail(&self, errno: Errno, why: String) -> Failure {
        match self.aside {
            Some(kept) => *kept.lock() = Some((errno, why)),
            None => crate::say::say!("{} of {}: {why} ({errno:?} to the program)", self.label, self.callee.uri),
        }
        Failure { errno }
    }
}

/// Somebody who was called.
#[derive(Default)]
pub struct Peer {
    /// Taken by who sets up a connection; the others wait for it.
    pub(super) trunk: tokio::sync::Mutex<Option<Arc<Trunk>>>,
    /// When nobody could be reached, and what the program was told.
    failed: Mutex<Option<(Instant, Errno)>>,
    /// When he refused a call that was to find out whether he is there, for what, and why.
    refused: Mutex<Option<(Instant, Label, Option<Why>)>>,
    /// Whether TLS connections came about when they were last agreed on.
    tls: Mutex<Option<(bool, Instant)>>,
}

/// Of a peer that said nothing for a while.
pub(super) enum Heard {
    /// He is heard again, or is there as he was.
    Again,
    /// Another run has his name, and there is a session with that one.
    Another,
}

enum Established {
    Encrypted(Arc<Trunk>),
    /// A flow of this socket alone.
    Flow(Flow),
    /// A connection over TCP was agreed on, and does not come about.
    Unreachable(LinkError),
    /// There is a connection that the peer has set up: whoever shows this is at its other end.
    Stands(Fingerprint),
}

/// What is offered.
struct Plan {
    /// A direct flow for peers on this machine.
    direct: bool,
    encrypted: Vec<Encrypted>,
    /// A flow in the clear.
    clear: bool,
}

impl Plan {
    /// What the policy takes, but for what cannot be.
    fn of(peer: &Peer, wanted: &Wanted<'_>, direct: bool) -> Plan {
        let flows = &wanted.callee.flows;
        let others = flows.encrypted.iter().any(|kind| *kind != Encrypted::Tls) || flows.cleartext;
        let failed = peer.tls.lock().is_some_and(|(works, at)| !works && at.elapsed() < TLS_AGAIN);
        let may = |kind: &Encrypted| match kind {
            Encrypted::Quic | Encrypted::DataChannel => true,
            Encrypted::Tls => wanted.label.proto == Proto::Tcp && !(failed && others),
        };
        Plan { direct, encrypted: flows.encrypted.iter().copied().filter(may).collect(), clear: flows.cleartext }
    }

    /// The same, if the peer is known to be reached by TLS, and that is wanted most.
    fn by_tls(self, peer: &Peer) -> Result<Plan, Plan> {
        let works = peer.tls.lock().is_some_and(|(works, _)| works);
        match self.encrypted.first() {
            Some(Encrypted::Tls) if works => Ok(Plan { direct: false, encrypted: vec![Encrypted::Tls], clear: false }),
            _ => Err(self),
        }
    }

    /// What carries many sockets.
    fn of_trunk(callee: &Callee) -> Plan {
        let encrypted = callee.flows.encrypted.iter().copied().filter(|kind| *kind != Encrypted::Tls).collect();
        Plan { direct: false, encrypted, clear: false }
    }

    fn is_empty(&self) -> bool {
        !self.direct && !self.clear && self.encrypted.is_empty()
    }
}

/// Of a peer: rules for one may want different flows.
pub(super) fn key(callee: &Callee) -> String {
    format!("{} {} {}", callee.uri, callee.flows.words(), callee.flows.cleartext)
}

impl Links {
    fn peer(&self, key: String) -> Arc<Peer> {
        let mut peers = self.peers.lock();
        if peers.len() >= PEERS {
            // Those whom nobody is speaking with.
            peers.retain(|_, peer| {
                Arc::strong_count(peer) > 1 || peer.trunk.try_lock().is_ok_and(|slot| slot.is_some())
            });
        }
        peers.entry(key).or_default().clone()
    }

    /// Whether this peer was on this machine when it was last called.
    pub fn is_near(&self, uri: &str) -> bool {
        self.near.lock().contains(uri)
    }

    /// A flow in the connection to this peer, which is set up if there is none, or one of its own, as the policy prefers. With `direct`, a
    /// direct flow is offered beside it.
    pub async fn open(
        self: &Arc<Links>,
        supervisor: &Arc<Supervisor>,
        agent: &Agent,
        wanted: Wanted<'_>,
        direct: bool,
    ) -> Result<Flow, Failure> {
        let asked = Instant::now();
        let peer = self.peer(key(wanted.callee));
        let mut rebuilt = false;
        loop {
            let plan = match Plan::of(&peer, &wanted, direct).by_tls(&peer) {
                Ok(plan) => {
                    // Nobody else need wait for this one.
                    match self.establish(supervisor, agent, wanted, &plan).await {
                        Ok(Established::Flow(flow)) => return Ok(flow),
                        Ok(Established::Unreachable(why)) => {
                            self.not_by_tls(&peer, &wanted, why)?;
                            continue;
                        }
                        Ok(Established::Encrypted(_) | Established::Stands(_)) => continue,
                        Err((_, failure)) => return Err(failure),
                    }
                }
                Err(plan) => plan,
            };
            if plan.is_empty() {
                let why = "TLS carries streams, and no datagrams: add \"quic\" to flows, or cleartext = true";
                return Err(wanted.fail(Errno::ENETUNREACH, why.to_owned()));
            }
            let by_trunk = plan.encrypted.first().is_some_and(|kind| *kind != Encrypted::Tls);
            let held = {
                let mut slot = peer.trunk.lock().await;
                match slot.as_ref().filter(|trunk| by_trunk && !trunk.link.is_closed()) {
                    Some(trunk) => trunk.hold(),
                    None => {
                        // Who waited while another failed has failed too.
                        if let Some((when, errno)) = *peer.failed.lock()
                            && when >= asked
                        {
                            return Err(Failure { errno });
                        }
                        if peer.tls.lock().is_some_and(|(_, when)| when >= asked) && !by_trunk && !rebuilt {
                            // So has who waited while another found out about TLS.
                            rebuilt = true;
                            continue;
                        }
                        if by_trunk {
                            *slot = None;
                        }
                        match self.establish(supervisor, agent, wanted, &plan).await {
                            Ok(Established::Encrypted(trunk)) => {
                                tokio::spawn(keep(supervisor.clone(), peer.clone(), trunk.clone()));
                                let held = trunk.hold();
                                *slot = Some(trunk);
                                held
                            }
                            Ok(Established::Stands(fingerprint)) => match self.lent(fingerprint).await {
                                Some(trunk) => {
                                    tokio::spawn(borrow(peer.clone(), trunk.clone()));
                                    let held = trunk.hold();
                                    *slot = Some(trunk);
                                    held
                                }
                                None if asked.elapsed() < STANDS_WITHIN => continue,
                                None => {
                                    let why = "the peer says that there is a session with it, and there is none";
                                    return Err(wanted.fail(Errno::ECONNREFUSED, why.to_owned()));
                                }
                            },
                            Ok(Established::Flow(flow)) => {
                                if flow.kind == TLS {
                                    *peer.tls.lock() = Some((true, Instant::now()));
                                }
                                return Ok(flow);
                            }
                            Ok(Established::Unreachable(why)) => {
                                self.not_by_tls(&peer, &wanted, why)?;
                                continue;
                            }
                            Err((of_peer, failure)) => {
                                if of_peer {
                                    *peer.failed.lock() = Some((Instant::now(), failure.errno));
                                }
                                return Err(failure);
                            }
                        }
                    }
                }
            };
            let trunk = held.trunk().clone();
            match self.open_in(supervisor, trunk.clone(), held, wanted, rebuilt).await {
                Ok(flow) => return Ok(flow),
                // This end's want of a socket is not the connection's fault: its other streams go on.
                Err(OpenError::Lost(why @ (LinkError::NoSocket(_) | LinkError::NoListener(_)))) => {
                    return Err(wanted.fail(Errno::ENOBUFS, why.to_string()));
                }
                Err(OpenError::Silent) if !rebuilt => {
                    rebuilt = true;
                    if let Some(flow) = self.call_again(supervisor, agent, &peer, &trunk, wanted, &plan).await? {
                        return Ok(flow);
                    }
                }
                Err(OpenError::Lost(why)) if !rebuilt => {
                    tracing::debug!(%why, "a lost connection is set up again");
                    rebuilt = true;
                    // Others that waited in it may have set up the next one already.
                    if peer.trunk.lock().await.as_ref().is_some_and(|now| Arc::ptr_eq(now, &trunk)) {
                        trunk.link.close();
                    }
                }
                Err(OpenError::Refused(status)) => {
                    let (errno, why) = refusal(status);
                    return Err(wanted.fail(errno, why));
                }
                Err(why @ OpenError::Reset) => return Err(wanted.fail(Errno::ECONNRESET, why.to_string())),
                // The others in the connection go on.
                Err(why @ (OpenError::Silent | OpenError::Full | OpenError::Late)) => {
                    return Err(wanted.fail(Errno::ETIMEDOUT, why.to_string()));
                }
                Err(why) => return Err(wanted.fail(Errno::ENETUNREACH, why.to_string())),
            }
        }
    }

    /// Nothing comes from the peer by `trunk` any more. He may have been started again: he is called. Or the path is gone for a while, and comes back
    /// to a connection that lives as long: that one is used as soon as something is heard by it. `None`: it is to be tried again.
    async fn call_again(
        self: &Arc<Links>,
        supervisor: &Arc<Supervisor>,
        agent: &Agent,
        peer: &Arc<Peer>,
        trunk: &Arc<Trunk>,
        wanted: Wanted<'_>,
        plan: &Plan,
    ) -> Result<Option<Flow>, Failure> {
        let (asked, words) = (Instant::now(), Mutex::new(None));
        let say = |why: Option<Why>| {
            if let Some((errno, why)) = why {
                wanted.fail(errno, why);
            }
        };
        let failure = {
            let mut slot = peer.trunk.lock().await;
            // Others that waited in it may have set up the next one already.
            if !slot.as_ref().is_some_and(|now| Arc::ptr_eq(now, trunk)) {
                return Ok(None);
            }
            // Who waited for the same while he refused another is refused, too.
            let refused = peer.refused.lock().clone();
            if let Some((_, _, why)) = refused.filter(|(when, label, _)| *when >= asked && *label == wanted.label) {
                let errno = why.as_ref().map_or(Errno::ECONNREFUSED, |(errno, _)| *errno);
                say(why);
                return Err(Failure { errno });
            }
            let failed = *peer.failed.lock();
            match failed.filter(|(when, _)| *when >= asked) {
                Some((_, errno)) => Failure { errno },
                None => {
                    tracing::debug!(session = %trunk.session, "a peer that says nothing is called again");
                    let aside = Wanted { aside: Some(&words), ..wanted };
                    let established = tokio::select! {
                        established = self.establish(supervisor, agent, aside, plan) => established,
                        () = trunk.link.heard() => return Ok(None),
                    };
                    match established {
                        Ok(Established::Encrypted(next)) => {
                            tokio::spawn(keep(supervisor.clone(), peer.clone(), next.clone()));
                            *slot = Some(next);
                            return Ok(None);
                        }
                        Ok(Established::Stands(fingerprint)) => {
                            if let Some(next) = self.lent(fingerprint).await.filter(|next| !Arc::ptr_eq(next, trunk)) {
                                tokio::spawn(borrow(peer.clone(), next.clone()));
                                *slot = Some(next);
                            }
                            return Ok(None);
                        }
                        Ok(Established::Flow(flow)) => return Ok(Some(flow)),
                        Ok(Established::Unreachable(why)) => aside.fail(Errno::EHOSTUNREACH, why.to_string()),
                        Err((true, failure)) => {
                            *peer.failed.lock() = Some((Instant::now(), failure.errno));
                            failure
                        }
                        // He has answered, or this end wants for something.
                        Err((false, failure)) => {
                            let why = words.lock().take();
                            *peer.refused.lock() = Some((Instant::now(), wanted.label, why.clone()));
                            say(why);
                            return Err(failure);
                        }
                    }
                }
            }
        };
        tokio::select! {
            () = trunk.link.heard() => Ok(None),
            _ = trunk.link.closed() => Ok(None),
            () = tokio::time::sleep(BACK_WITHIN) => {
                say(words.lock().take());
                Err(failure)
            }
        }
    }

    /// Nothing comes from the peer by `trunk` any more, in which a stream waits for his word: is he there as he was?
    pub(super) async fn hear(
        self: &Arc<Links>,
        supervisor: &Arc<Supervisor>,
        agent: &Agent,
        peer: &Arc<Peer>,
        trunk: &Arc<Trunk>,
        wanted: Wanted<'_>,
    ) -> Result<Heard, Failure> {
        let plan = Plan::of_trunk(wanted.callee);
        if let Some(flow) = self.call_again(supervisor, agent, peer, trunk, wanted, &plan).await? {
            // It was not offered.
            supervisor.sessions.close(flow.session);
        }
        // Each run has a certificate of its own. One that is the same has perhaps moved, and its old session goes on by another path.
        let now = peer.trunk.lock().await.as_ref().map(|now| now.fingerprint);
        let is_another = now.is_some_and(|now| now != trunk.fingerprint);
        Ok(if is_another { Heard::Another } else { Heard::Again })
    }

    /// The connection that whoever shows this has set up, or is setting up. `None`: nothing of the kind is known here.
    async fn lent(&self, fingerprint: Fingerprint) -> Option<Arc<Trunk>> {
        let now = tokio::time::Instant::now();
        loop {
            let mut changed = std::pin::pin!(self.glare.changed());
            changed.as_mut().enable();
            if let Some(trunk) = self.standing(fingerprint) {
                return Some(trunk);
            }
            let patience = if self.glare.comes(fingerprint) { COMING_WITHIN } else { KNOWN_WITHIN };
            tokio::time::timeout_at(now + patience, changed).await.ok()?;
        }
    }

    /// No connection over TCP comes about: the other flows are next, if there are any.
    fn not_by_tls(&self, peer: &Peer, wanted: &Wanted<'_>, why: LinkError) -> Result<(), Failure> {
        let before = peer.tls.lock().replace((false, Instant::now()));
        let flows = &wanted.callee.flows;
        let again = before.is_none_or(|(works, at)| works || at.elapsed() >= TLS_AGAIN);
        let others = flows.encrypted.iter().any(|kind| *kind != Encrypted::Tls) || flows.cleartext;
        if again && others {
            tracing::info!(%why, "the next flow is tried");
            return Ok(());
        }
        let advice =
            if flows.has(Encrypted::Quic) { "" } else { "; \"quic\" in flows (or --flow auto) gets through NATs" };
        Err(wanted.fail(Errno::EHOSTUNREACH, format!("{why}{advice}")))
    }

    /// INVITE, and then what the answer takes: ICE and QUIC or data channels, TCP and TLS, or a flow in the clear. What goes wrong has been said; `true`
    /// beside it: it would go wrong for every socket.
    async fn establish(
        self: &Arc<Links>,
        supervisor: &Arc<Supervisor>,
        agent: &Agent,
        wanted: Wanted<'_>,
        plan: &Plan,
    ) -> Result<Established, (bool, Failure)> {
        let sessions = &supervisor.sessions;
        let near = agent.local_addr().is_some_and(|address| address.ip().is_loopback());
        let cannot = |why: String| (true, wanted.fail(Errno::ENETUNREACH, why));
        let ip = outer::told_ip(agent).map_err(cannot)?;
        let (mut gathered, mut tls, mut clear) = (None, None, None);
        let mut flows = Vec::new();
        if plan.direct {
            flows.push(End::Direct(sessions.local(wanted.source)));
        }
        // One line for both: who does not know QUIC sees data channels like any other.
        let has = |kind| plan.encrypted.contains(&kind);
        let both = has(Encrypted::Quic) && has(Encrypted::DataChannel);
        let mut channels = None;
        for kind in &plan.encrypted {
            match kind {
                Encrypted::Tls => {
                    let ready = Listening::start(ip).await.map_err(|e| cannot(e.to_string()))?;
                    flows.push(outer::tls_end(self, &ready, Setup::Actpass, true).map_err(cannot)?);
                    tls = Some(ready);
                }
                // It has its line already.
                _ if gathered.is_some() => {}
                kind => {
                    progress::now(wanted.target.as_str(), "looking for this end's addresses");
                    let ready = self.gather(sessions, near).await.map_err(cannot)?;
                    let ice = ready.description().clone();
                    let offered = Channels::offer(ice.clone(), wanted.label, both);
                    flows.push(match kind {
                        Encrypted::Quic if !both => End::Quic(ice),
                        _ => End::Channels(offered.clone()),
                    });
                    channels = Some(offered);
                    gathered = Some(ready);
                }
            }
        }
        let clear_line = flows.len();
        // On this machine direct flows are what there is in the clear.
        if plan.clear && !near {
            let ready = Clear::start(wanted.label.proto, ip).await.map_err(|e| cannot(e.to_string()))?;
            flows.extend(ready.end(Setup::Actpass, true));
            clear = Some(ready);
        }
        let another = flows.len() > 1;
        let calling = match has(Encrypted::Quic) {
            true => Some(self.glare.call(wanted.target, tokio::time::Instant::now() + COMING_WITHIN).await),
            false => None,
        };
        let offer = Offer { label: wanted.label, virtual_source: wanted.seen_as, flows };
        let session = match sessions.call(agent, wanted.target, offer).await {
            Ok(session) => session,
            Err(CallError::Stands { fingerprint, .. }) => return Ok(Established::Stands(fingerprint)),
            Err(e) => {
                let of_socket = matches!(&e, CallError::Rejected { status: 403 | 486, .. });
                return Err((!of_socket, sessions.failure(&wanted, &e)));
            }
        };
        let id = session.id;
        let hang_up = HangUp { agent, session: Some(id) };
        let by_ice = gathered.zip(channels);
        let outcome = match (session.end, by_ice, tls, clear) {
            (End::Quic(remote), Some((gathered, offered)), ..) => {
                if let Some(calling) = &calling {
                    calling.answered(remote.fingerprint);
                }
                let ends = (gathered, offered, Remote::Quic(remote), session.software);
                return self.connect_ice(supervisor, &wanted, ends, (id, hang_up, calling)).await;
            }
            (End::Channels(remote), Some((gathered, offered)), ..) => {
                let ends = (gathered, offered, Remote::Channels(remote), session.software);
                return self.connect_ice(supervisor, &wanted, ends, (id, hang_up, None)).await;
            }
            (End::Tls(remote), _, Some(listening), _) => {
                outer::call_tls(self, supervisor, &wanted, id, (listening, remote), another).await
            }
            (End::Direct(remote), _, _, Some(clear)) if session.line == clear_line => {
                outer::call_clear(self, supervisor, &wanted, id, (clear, remote)).await
            }
            (End::Direct(direct), ..) => {
                hang_up.keep();
                let flow = sessions.direct(agent, &wanted, id, direct.source).map_err(|failure| (false, failure))?;
                self.near.lock().insert(wanted.callee.uri.clone());
                return Ok(Established::Flow(flow));
            }
            _ => {
                let why = "the peer took what was not offered".to_owned();
                return Err((true, wanted.fail(Errno::ECONNREFUSED, why)));
            }
        };
        match outcome {
            Outcome::Stands(flow) => {
                hang_up.keep();
                Ok(Established::Flow(flow))
            }
            Outcome::Unreachable(why) => Ok(Established::Unreachable(why)),
            Outcome::Failed(failure) => Err((false, failure)),
        }
    }

    /// ICE, then QUIC, or DTLS and SCTP.
    async fn connect_ice(
        self: &Arc<Links>,
        supervisor: &Arc<Supervisor>,
        wanted: &Wanted<'_>,
        (gathered, offered, remote, software): (Gathered, Channels, Remote, Option<String>),
        (session, hang_up, calling): (SessionId, HangUp<'_>, Option<glare::Calling>),
    ) -> Result<Established, (bool, Failure)> {
        let subject = wanted.target.as_str();
        let mut checks = gathered.checks();
        let connecting = async {
            match &remote {
                Remote::Quic(remote) => gathered.connect(remote, Role::Offerer).await,
                Remote::Channels(remote) => {
                    let terms = Terms::new(remote, remote.setup == Setup::Passive, &offered.channels);
                    gathered.connect_channels(&remote.ice, Role::Offerer, terms).await
                }
            }
        };
        let mut connecting = std::pin::pin!(connecting);
        let connected = loop {
            tokio::select! {
                connected = &mut connecting => break connected,
                Some(said) = checks.next() => {
                    let words = said.map_or_else(
                        || "setting up encryption".to_owned(),
                        |(checked, pairs)| format!("looking for a path, {checked} of {pairs} pairs checked"),
                    );
                    progress::now(subject, &words);
                }
            }
        };
        match connected {
            Ok(link) => {
                hang_up.keep();
                supervisor.sessions.note(session);
                supervisor.sessions.note_party(session, &wanted.callee.uri);
                let admit = |shown| self.admit(supervisor, link, (session, Role::Offerer), &wanted.callee.uri, shown);
                let trunk = match (&remote, calling) {
                    (Remote::Quic(remote), Some(calling)) => calling.stands(remote.fingerprint, |caller| {
                        let trunk = admit(Some(remote.fingerprint));
                        *trunk.caller.lock() = caller;
                        tokio::spawn(called::serve_back(supervisor.clone(), trunk.clone()));
                        trunk
                    }),
                    _ => admit(None),
                };
                if supervisor.options.trace {
                    tokio::spawn(say_path(Arc::downgrade(&trunk), wanted.callee.uri.clone()));
                }
                Ok(Established::Encrypted(trunk))
            }
            Err(why) => {
                let errno = match why {
                    LinkError::NoPath { .. } => Errno::EHOSTUNREACH,
                    LinkError::Handshake(_) | LinkError::OtherVersion => Errno::ECONNREFUSED,
                    _ => Errno::ENETUNREACH,
                };
                let advice = mismatch::advice(&why, software.as_deref());
                Err((true, wanted.fail(errno, format!("{why}{advice}"))))
            }
        }
    }

    /// A connection that stands.
    pub(super) fn admit(
        &self,
        supervisor: &Arc<Supervisor>,
        link: Link,
        (session, role): (SessionId, Role),
        peer: &str,
        shown: Option<Fingerprint>,
    ) -> Arc<Trunk> {
        let trunk = Trunk::new(link, (session, role), peer, shown);
        self.trunks.lock().insert(session, Arc::downgrade(&trunk));
        tokio::spawn(moving::follow(supervisor.clone(), trunk.clone(), role));
        trunk
    }

    /// One more stream. `patient`: a peer that says nothing is waited for.
    async fn open_in(
        self: &Arc<Links>,
        supervisor: &Arc<Supervisor>,
        trunk: Arc<Trunk>,
        held: Held,
        wanted: Wanted<'_>,
        patient: bool,
    ) -> Result<Flow, OpenError> {
        let io = |e: std::io::Error| OpenError::Lost(LinkError::NoSocket(e.to_string()));
        let opening = Opening { label: wanted.label, virtual_source: wanted.seen_as };
        let stream = trunk.link.open(opening, patient).await?;
        let kind = trunk.link.kind();
        match wanted.label.proto {
            Proto::Tcp => {
                let gate = self.gate.get_or_try_init(|| async { gate::Gate::open(supervisor) }).await.map_err(io)?;
                Ok(self.join(supervisor, gate, held, stream, wanted.label, (wanted.callee, wanted.source)))
            }
            Proto::Udp => {
                let (session, ended) = self.begin();
                supervisor.sessions.note(session);
                supervisor.sessions.note_party(session, &wanted.callee.uri);
                let (socket, media) = datagrams::stand_in(supervisor, wanted.source).map_err(io)?;
                let (number, near) = (stream.id(), socket.clone());
                let carrying = datagrams::carry(supervisor.clone(), session, held, stream, socket, ended);
                let (_hears, known) = datagrams::once_known(async move {
                    trunk.attach(number, near);
                    // It lasts as long as what holds it.
                    drop(trunk);
                    carrying.await;
                });
                tokio::spawn(known);
                Ok(Flow { session, media, kind, _hears })
            }
        }
    }

    /// The program's socket will come to the gate, and is joined to its stream there.
    fn join(
        self: &Arc<Links>,
        supervisor: &Supervisor,
        gate: &Arc<gate::Gate>,
        held: Held,
        stream: Stream,
        label: Label,
        (callee, source): (&Callee, SocketAddrV4),
    ) -> Flow {
        let (session, ended) = self.begin();
        supervisor.sessions.note(session);
        supervisor.sessions.note_party(session, &callee.uri);
        let kind = held.trunk().link.kind();
        let mut expected = gate.expect(source);
        let (links, busy, media, uri) = (self.clone(), self.busy(), gate.address, callee.uri.clone());
        supervisor.runtime.spawn(async move {
            match expected.connected_before(ended).await {
                Some(socket) => {
                    let pumped = pump::pump(socket, stream, &held.trunk().link, links.ending.subscribe());
                    if let Err(why) = pumped.await {
                        early::say_reset(label, &uri, &why);
                    }
                }
                None => pump::withdraw(stream),
            }
            drop((held, busy));
        });
        Flow { session, media, kind, _hears: None }
    }
}

/// Ends the session unless a connection comes of it, also when nobody waits for it any more.
struct HangUp<'a> {
    agent: &'a Agent,
    session: Option<SessionId>,
}

impl HangUp<'_> {
    fn keep(mut self) {
        self.session = None;
    }
}

impl Drop for HangUp<'_> {
    fn drop(&mut self) {
        if let Some(session) = self.session {
            self.agent.bye(session);
        }
    }
}

/// What a refused stream means to the program, and to the user.
pub(super) fn refusal(status: u16) -> (Errno, String) {
    match status {
        486 => (
            Errno::ECONNREFUSED,
            "nothing listens there; let the peer's program listen on that port (on 0.0.0.0 or [::])".to_owned(),
        ),
        403 => (Errno::EACCES, "the peer's policy does not allow it".to_owned()),
        503 => (Errno::ENETUNREACH, "the peer has too many sessions".to_owned()),
        other => (Errno::ECONNREFUSED, format!("the peer refused with {other}")),
    }
}

/// The trace of a connection: its path, and every change of it.
pub(super) async fn say_path(trunk: Weak<Trunk>, peer: String) {
    let Some((mut paths, kind)) = trunk.upgrade().map(|trunk| (trunk.link.road().paths(), trunk.link.kind())) else {
        return;
    };
    drop(trunk);
    while let Some(path) = paths.next().await {
        let (word, local, remote) = (path.word(), path.local, path.remote);
        crate::say::say!("{kind} with {peer}: {word}, {} {local} to {} {remote}", path.local_kind, path.remote_kind);
    }
}

/// A connection that the peer has set up, and ends.
async fn borrow(peer: Arc<Peer>, trunk: Arc<Trunk>) {
    trunk.link.closed().await;
    let mut slot = peer.trunk.lock().await;
    if slot.as_ref().is_some_and(|held| Arc::ptr_eq(held, &trunk)) {
        *slot = None;
    }
}

/// Ends a connection that nobody uses, and clears up after one that has ended.
async fn keep(supervisor: Arc<Supervisor>, peer: Arc<Peer>, trunk: Arc<Trunk>) {
    loop {
        tokio::select! {
            why = trunk.link.closed() => {
                tracing::debug!(%why, session = %trunk.session, "connection to a peer ended");
                break;
            }
            () = trunk.idle() => {}
        }
        let mut slot = peer.trunk.lock().await;
        if trunk.is_idle() {
            if slot.as_ref().is_some_and(|held| Arc::ptr_eq(held, &trunk)) {
                *slot = None;
            }
            break;
        }
    }
    trunk.link.close();
    supervisor.sessions.links.trunks.lock().remove(&trunk.session);
    supervisor.sessions.close(trunk.session);
}
