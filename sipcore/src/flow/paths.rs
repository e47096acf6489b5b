//! Candidates, checks and relays of one flow, without I/O: ICE (RFC 8445) with what STUN and TURN servers (RFC 8489, RFC 8656) add to it.

use std::collections::{HashSet, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use bytes::Bytes;
use is::stun::{StunMessage, StunPacket};
use is::{Candidate, CandidateKind, IceAgent, IceAgentEvent, IceCreds, Protocol};
use turn_client_proto::api::{Transmit as ToServer, TurnConfig, TurnEvent, TurnPollRet, TurnRecvRet};
use turn_client_proto::client::TurnClient;
use turn_client_proto::prelude::TurnClientApi;
use turn_client_proto::stun::Instant as TurnInstant;
use turn_client_proto::tcp::TurnClientTcp;
use turn_client_proto::types::{TransportType, TurnCredentials};
use turn_client_proto::udp::TurnClientUdp;

use super::probe::Probe;
use crate::sdp::{Fingerprint, Quic};
use crate::tls::ClientTls;
use crate::transport::stun::is_stun;

/// The pause between two checks (Ta, RFC 8445 section 14.2).
const PACING: Duration = Duration::from_millis(10);
/// The first repetition of a check. It is shorter than RFC 8445 section 14.3 has it: the first check of one end is most often lost at
/// the other's NAT, which has not seen the other's own yet.
const CHECK_RTO: Duration = Duration::from_millis(60);
/// Pairs with a relay are checked later than others, by three round trips to a STUN server, within these bounds: a path that is
/// not relayed is found before, if there is one.
const RELAYS_LATER: [Duration; 2] = [Duration::from_millis(150), Duration::from_millis(400)];
/// How long the servers have to answer before the offer goes out without them.
const GATHER_WITHIN: Duration = Duration::from_millis(2500);
/// How long the pair in use may be unanswered, with several checks meanwhile, before it is doubted. RFC 7675 section 5.1 lets consent last for
/// half a minute, in which QUIC would give up.
const DOUBTED_AFTER: Duration = Duration::from_secs(3);
/// The pause between two checks of a pair that works. RFC 7675 section 5.1 has 5 s; a path that is gone is then found within half of the time that
/// QUIC has to go on.
const CONSENT_EVERY: Duration = Duration::from_secs(2);
/// First repetition, tries, and patience after the last one, of a request to a relay.
const RELAY_RTO: Duration = Duration::from_millis(250);

/// How a relay is spoken to.
#[derive(Clone, Debug)]
pub enum RelayBy {
    /// By datagrams.
    Udp,
    /// Over a connection: where UDP is blocked.
    Tcp,
    /// Over a connection with TLS: where nothing else gets through.
    Tls(ClientTls),
}

/// A TURN server and who we are there.
#[derive(Clone)]
pub struct Relay {
    /// Where it is.
    pub address: SocketAddr,
    /// How it is spoken to.
    pub by: RelayBy,
    /// The user.
    pub user: String,
    /// His password.
    pub password: String,
}

impl Relay {
    pub(super) fn is_by_udp(&self) -> bool {
        matches!(self.by, RelayBy::Udp)
    }
}

impl std::fmt::Debug for Relay {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Relay({} as {})", self.address, self.user)
    }
}

/// The servers that help to find a path.
#[derive(Clone, Debug, Default)]
pub struct Servers {
    /// STUN, by UDP.
    pub stun: Vec<SocketAddr>,
    /// TURN.
    pub turn: Vec<Relay>,
}

/// A datagram to be sent.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Transmit {
    /// From the socket that is bound here.
    pub base: SocketAddr,
    pub to: SocketAddr,
    pub data: Bytes,
}

/// What a datagram was.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Part of the search for a path; or nothing.
    Taken,
    /// The other end's, as it is.
    Payload,
    /// The other end's, out of a relay's wrapping.
    Unwrapped(Vec<u8>),
}

/// Where datagrams to the other end go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Route {
    Direct { base: SocketAddr, to: SocketAddr },
    Relayed { relay: usize, base: SocketAddr, to: SocketAddr },
}

/// The pair of candidates in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Chosen {
    pub route: Route,
    pub local: SocketAddr,
    pub local_kind: CandidateKind,
    pub remote: SocketAddr,
    pub remote_kind: CandidateKind,
}

struct Allocation {
    client: TurnClient,
    base: SocketAddr,
    server: SocketAddr,
    relayed: Option<SocketAddr>,
    failed: bool,
    /// The server has said that it does not relay for us.
    refused: bool,
    next: Option<Instant>,
    /// Peers that it has been told of.
    permitted: Vec<IpAddr>,
}

/// Peers that one relay is told of.
const PERMITTED: usize = 64;

/// Candidates of the other end, with those that are seen by its checks.
const REMOTE: usize = 64;
/// Pairs that are remembered as checked: as many as ICE has at most (RFC 8445 section 6.1.2.5).
const CHECKED: usize = 100;

/// The machine.
pub(super) struct Paths {
    ice: IceAgent,
    probes: Vec<Probe>,
    relays: Vec<Allocation>,
    epoch: Instant,
    deadline: Instant,
    chosen: Option<Chosen>,
    out: VecDeque<Transmit>,
    started: bool,
    /// From when on pairs with a relay are checked.
    relays_from: Instant,
    /// Since when the pair in use has not been answered, and how often it was.
    unanswered: Option<Instant>,
    answers: Option<u64>,
    /// The pairs that were checked.
    checked: HashSet<(SocketAddr, SocketAddr)>,
    closed: bool,
}

impl Paths {
    /// `bases`: addresses of the sockets; `from`: which of them leads to a server; `connected`: this end of the connection to the relay
    /// with this number, if it is spoken to over one.
    pub fn new(
        now: Instant,
        bases: &[SocketAddr],
        servers: &Servers,
        from: impl Fn(SocketAddr) -> Option<SocketAddr>,
        connected: impl Fn(usize) -> Option<SocketAddr>,
    ) -> Paths {
        let mut ice = IceAgent::new(IceCreds::new());
        ice.set_timing_advance(PACING);
        ice.set_initial_stun_rto(CHECK_RTO);
        ice.set_max_stun_rto(CONSENT_EVERY);
        for base in bases {
            // An address that cannot be a candidate is not told.
            if let Ok(host) = Candidate::host(*base, "udp") {
                ice.add_local_candidate(host);
            }
        }
        // Two first datagrams at once to one server can get two mappings from a Linux NAT that chooses ports at random, one of which
        // dies within a second (nf_conntrack's resolution of clashes): a server that is both is asked for its second service later.
        let held = |server| servers.turn.iter().any(|relay| relay.address == server && relay.is_by_udp());
        let probe = |server: &SocketAddr| Some(Probe::new(now, from(*server)?, *server, held(*server)));
        let allocate = |(number, relay): (usize, &Relay)| {
            let base = if relay.is_by_udp() { from(relay.address)? } else { connected(number)? };
            let mut config = TurnConfig::new(TurnCredentials::new(&relay.user, &relay.password));
            config.set_request_retransmits(RELAY_RTO, Duration::from_secs(2), 5, Duration::from_secs(2));
            let client = match relay.is_by_udp() {
                true => TurnClient::Udp(TurnClientUdp::allocate(base, relay.address, config)),
                false => TurnClient::Tcp(TurnClientTcp::allocate(base, relay.address, config)),
            };
            let server = relay.address;
            Some(Allocation {
                client,
                base,
                server,
                relayed: None,
                failed: false,
                refused: false,
                next: Some(now),
                permitted: Vec::new(),
            })
        };
        let mut paths = Paths {
            ice,
            probes: servers.stun.iter().filter_map(probe).collect(),
            relays: servers.turn.iter().enumerate().filter_map(allocate).collect(),
            epoch: now,
            deadline: now + GATHER_WITHIN,
            chosen: None,
            out: VecDeque::new(),
            started: false,
            relays_from: now,
            unanswered: None,
            answers: None,
            checked: HashSet::new(),
            closed: false,
        };
        paths.handle_timeout(now);
        paths
    }

    /// Every server has answered or has had its time.
    pub fn is_gathered(&self, now: Instant) -> bool {
        let relay_done = |relay: &Allocation| relay.failed || relay.relayed.is_some();
        now >= self.deadline || (self.probes.iter().all(Probe::is_done) && self.relays.iter().all(relay_done))
    }

    /// What goes into the session description.
    pub fn description(&self, fingerprint: Fingerprint) -> Quic {
        let IceCreds { ufrag, pass } = self.ice.local_credentials().clone();
        let mut candidates: Vec<Candidate> = self.ice.local_candidates().collect();
        candidates.sort_by_key(|c| std::cmp::Reverse(c.prio()));
        Quic { ufrag, pwd: pass, candidates, fingerprint }
    }

    /// The other end's description is known: checks begin. The offerer controls (RFC 8445 section 6.1.1).
    pub fn start(&mut self, now: Instant, remote: &Quic, controlling: bool) {
        self.started = true;
        let rtt = self.probes.iter().filter_map(|probe| probe.rtt).min().unwrap_or_default();
        self.relays_from = now + (3 * rtt).clamp(RELAYS_LATER[0], RELAYS_LATER[1]);
        self.ice.set_controlling(controlling);
        self.ice.set_remote_credentials(IceCreds { ufrag: remote.ufrag.clone(), pass: remote.pwd.clone() });
        for candidate in &remote.candidates {
            self.ice.add_remote_candidate(candidate.clone());
            self.permit(now, candidate.addr());
        }
        self.handle_timeout(now);
    }

    /// Relays forward only from those they were told of (RFC 8656 section 9).
    fn permit(&mut self, now: Instant, peer: SocketAddr) {
        let now = turn_time(self.epoch, now);
        for relay in self.relays.iter_mut().filter(|relay| relay.relayed.is_some_and(|a| may_reach(a, peer))) {
            let asked = relay.permitted.contains(&peer.ip()) || relay.permitted.len() == PERMITTED;
            if !asked && relay.client.create_permission(TransportType::Udp, peer.ip(), now).is_ok() {
                relay.permitted.push(peer.ip());
            }
        }
    }

    /// The pair in use.
    pub fn chosen(&self) -> Option<&Chosen> {
        self.chosen.as_ref()
    }

    /// Round trip of the last check that the pair in use has answered.
    pub fn round_trip(&self) -> Option<Duration> {
        self.ice.nominated_pair_rtt()
    }

    /// Nothing can be reached, or not any more.
    pub fn is_lost(&self) -> bool {
        self.started && self.ice.state().is_disconnected()
    }

    /// The TURN servers that have not answered, though they have had their time.
    pub fn silent_relays(&self) -> impl Iterator<Item = SocketAddr> {
        self.relays.iter().filter(|relay| relay.relayed.is_none() && !relay.refused).map(|relay| relay.server)
    }

    /// A relay that was told to others does not relay any more.
    pub fn has_lost_a_relay(&self) -> bool {
        self.relays.iter().any(|relay| relay.failed && relay.relayed.is_some())
    }

    /// The pair in use is not answered any more.
    pub fn is_doubtful(&self, now: Instant) -> bool {
        self.unanswered.is_some_and(|since| now.saturating_duration_since(since) >= DOUBTED_AFTER)
    }

    /// Candidates of this end and of the other one.
    pub fn candidates(&self) -> [Vec<Candidate>; 2] {
        [self.ice.local_candidates().collect(), self.ice.remote_candidates().collect()]
    }

    /// How many pairs have been checked, and how many there are.
    pub fn progress(&self) -> (usize, usize) {
        let is_base = |c: &Candidate| matches!(c.kind(), CandidateKind::Host | CandidateKind::Relayed);
        let bases: HashSet<SocketAddr> = self.ice.local_candidates().filter(is_base).map(|c| c.addr()).collect();
        let remote: HashSet<SocketAddr> = self.ice.remote_candidates().map(|c| c.addr()).collect();
        let of = |v4: bool| {
            let count = |all: &HashSet<SocketAddr>| all.iter().filter(|a| a.is_ipv4() == v4).count();
            count(&bases) * count(&remote)
        };
        let pairs = (of(true) + of(false)).max(self.checked.len());
        (self.checked.len(), pairs)
    }

    /// A datagram that came to the socket bound to `base`.
    pub fn handle(&mut self, now: Instant, base: SocketAddr, from: SocketAddr, data: &[u8]) -> Verdict {
        let udp = |relay: &Allocation| relay.client.transport() == TransportType::Udp;
        if let Some(i) = self.relays.iter().position(|relay| relay.server == from && relay.base == base && udp(relay)) {
            return self.handle_relay(now, i, data);
        }
        if !is_stun(data) {
            return Verdict::Payload;
        }
        if let Some(probe) = self.probes.iter_mut().find_map(|p| p.handle(now, base, from, data).then_some(p)) {
            if let Some(mapped) = probe.mapped
                && let Ok(candidate) = Candidate::server_reflexive(mapped, base, "udp")
                && mapped != base
            {
                self.ice.add_local_candidate(candidate);
            }
            self.flush(now);
            return Verdict::Taken;
        }
        self.check(now, from, base, data);
        Verdict::Taken
    }

    /// A check, or an answer to one.
    fn check(&mut self, now: Instant, source: SocketAddr, destination: SocketAddr, data: &[u8]) {
        let Ok(message) = StunMessage::parse(data) else { return };
        // A request that was seen on the way can be sent again from anywhere: each source is a candidate, and is checked.
        let mut known = self.ice.remote_candidates();
        if is_request(data) && known.clone().count() >= REMOTE && !known.any(|c| c.addr() == source) {
            return;
        }
        drop(known);
        self.ice.handle_packet(now, StunPacket { proto: Protocol::Udp, source, destination, message });
        // A check that this one triggers need not wait.
        self.ice.handle_timeout(now);
        self.flush(now);
    }

    fn handle_relay(&mut self, now: Instant, i: usize, data: &[u8]) -> Verdict {
        let time = turn_time(self.epoch, now);
        let Some(relay) = self.relays.get_mut(i) else { return Verdict::Taken };
        let received = relay.client.recv(ToServer::new(data, TransportType::Udp, relay.server, relay.base), time);
        relay.next = Some(now);
        for probe in self.probes.iter_mut().filter(|probe| probe.server == relay.server) {
            probe.release(now);
        }
        let relayed = relay.relayed;
        let payload = match received {
            TurnRecvRet::PeerData(peer) => Some((peer.peer, peer.data().to_vec())),
            _ => None,
        };
        let verdict = match (payload, relayed) {
            (Some((peer, data)), Some(relayed)) if is_stun(&data) => {
                self.check(now, peer, relayed, &data);
                Verdict::Taken
            }
            (Some((_, data)), _) => Verdict::Unwrapped(data),
            // A server may be asked for both; then its answer to the first is for a probe.
            (None, _) => {
                let base = self.relays[i].base;
                let from = self.relays[i].server;
                if is_stun(data)
                    && let Some(probe) =
                        self.probes.iter_mut().find_map(|p| p.handle(now, base, from, data).then_some(p))
                    && let Some(mapped) = probe.mapped
                    && mapped != base
                    && let Ok(candidate) = Candidate::server_reflexive(mapped, base, "udp")
                {
                    self.ice.add_local_candidate(candidate);
                }
                Verdict::Taken
            }
        };
        self.work_relays(now);
        self.flush(now);
        verdict
    }

    /// Bytes of the connection to a relay, whose end is `base`; none: it has ended. What the other end has sent is given.
    pub fn handle_stream(&mut self, now: Instant, base: SocketAddr, server: SocketAddr, data: &[u8]) -> Vec<Vec<u8>> {
        let time = turn_time(self.epoch, now);
        let Some(relay) = self.relays.iter_mut().find(|relay| relay.base == base && relay.server == server) else {
            return Vec::new();
        };
        let mut came = Vec::new();
        let received = relay.client.recv(ToServer::new(data, TransportType::Tcp, server, base), time);
        if let TurnRecvRet::PeerData(peer) = received {
            came.push((peer.peer, peer.data().to_vec()));
        }
        while let Some(peer) = relay.client.poll_recv(time) {
            came.push((peer.peer, peer.data().to_vec()));
        }
        relay.failed |= data.is_empty();
        relay.next = Some(now);
        let relayed = relay.relayed;
        let mut payload = Vec::new();
        for (peer, data) in came {
            match relayed {
                Some(relayed) if is_stun(&data) => self.check(now, peer, relayed, &data),
                _ => payload.push(data),
            }
        }
        self.work_relays(now);
        self.flush(now);
        payload
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.closed {
            return;
        }
        for probe in &mut self.probes {
            if let Some(data) = probe.poll_transmit(now) {
                self.out.push_back(Transmit { base: probe.base, to: probe.server, data });
            }
            // Checks and what follows them keep the mapping by themselves.
            if !self.started
                && let Some(data) = probe.poll_keep(now)
            {
                self.out.push_back(Transmit { base: probe.base, to: probe.server, data });
            }
        }
        self.work_relays(now);
        if self.started {
            self.ice.handle_timeout(now);
        }
        self.flush(now);
    }

    /// When [`Paths::handle_timeout`] is wanted again.
    pub fn poll_timeout(&mut self, now: Instant) -> Option<Instant> {
        if self.closed {
            return None;
        }
        let ice = if self.started { self.ice.poll_timeout() } else { None };
        let gathering = (!self.is_gathered(now)).then_some(self.deadline);
        let keep = self.probes.iter().filter(|_| !self.started).filter_map(Probe::poll_keep_timeout);
        let probes = self.probes.iter().filter_map(Probe::poll_timeout).chain(keep);
        let doubt = self.unanswered.map(|since| since + DOUBTED_AFTER).filter(|at| *at > now);
        probes.chain(self.relays.iter().filter_map(|relay| relay.next)).chain(ice).chain(gathering).chain(doubt).min()
    }

    /// The next datagram to be sent.
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        self.out.pop_front()
    }

    /// Wraps a datagram for the other end, to be sent to a relay.
    pub fn wrap(&mut self, now: Instant, relay: usize, to: SocketAddr, data: &[u8]) -> Option<Transmit> {
        let time = turn_time(self.epoch, now);
        let relay = self.relays.get_mut(relay)?;
        let built = relay.client.send_to(TransportType::Udp, to, data, time).ok()??.build();
        Some(Transmit { base: relay.base, to: relay.server, data: built.data.into() })
    }

    /// Gives the relays back.
    pub fn close(&mut self, now: Instant) {
        let time = turn_time(self.epoch, now);
        for relay in &mut self.relays {
            if relay.relayed.is_some() && relay.client.delete(time).is_ok() {
                while let Some(transmit) = relay.client.poll_transmit(time) {
                    let data = Bytes::copy_from_slice(&transmit.data);
                    self.out.push_back(Transmit { base: relay.base, to: relay.server, data });
                }
            }
        }
        self.closed = true;
    }

    fn work_relays(&mut self, now: Instant) {
        let time = turn_time(self.epoch, now);
        let mut found = Vec::new();
        for relay in self.relays.iter_mut().filter(|relay| !relay.failed) {
            relay.next = match relay.client.poll(time) {
                TurnPollRet::WaitUntil(at) => Some(std_time(self.epoch, at).max(now)),
                TurnPollRet::Closed => {
                    relay.failed = true;
                    None
                }
                _ => None,
            };
            while let Some(transmit) = relay.client.poll_transmit(time) {
                let data = Bytes::copy_from_slice(&transmit.data);
                self.out.push_back(Transmit { base: relay.base, to: relay.server, data });
            }
            while let Some(event) = relay.client.poll_event() {
                match event {
                    TurnEvent::AllocationCreated(TransportType::Udp, address) => {
                        relay.relayed = Some(address);
                        found.push((address, relay.base, relay.server, relay.client.transport()));
                    }
                    TurnEvent::AllocationCreateFailed(_) => {
                        tracing::warn!(server = %relay.server, "the TURN server refuses: check its user and password");
                        (relay.failed, relay.refused) = (true, true);
                    }
                    TurnEvent::PermissionCreateFailed(_, peer) => {
                        tracing::debug!(server = %relay.server, %peer, "the TURN server does not relay to this peer");
                    }
                    _ => {}
                }
            }
        }
        for (address, base, server, transport) in found {
            // A connection to a relay that datagrams reach too is kept in reserve, and costs no checks.
            let by_datagrams = |relay: &Allocation| {
                relay.server.ip() == server.ip()
                    && relay.client.transport() == TransportType::Udp
                    && relay.relayed.is_some()
            };
            if transport == TransportType::Tcp && self.relays.iter().any(by_datagrams) {
                continue;
            }
            if let Ok(candidate) = Candidate::relayed(address, base, "udp") {
                self.ice.add_local_candidate(candidate);
            }
        }
    }

    /// Takes what ICE has to say and to send.
    fn flush(&mut self, now: Instant) {
        while let Some(event) = self.ice.poll_event() {
            if let IceAgentEvent::NominatedSend { source, destination, .. } = event {
                self.choose(now, source, destination);
            }
        }
        let answers = self.ice.nominated_pair_responses_received();
        if answers != self.answers {
            (self.answers, self.unanswered) = (answers, None);
        }
        while let Some(transmit) = self.ice.poll_transmit() {
            let data: Vec<u8> = transmit.contents.into();
            let pair = (transmit.source, transmit.destination);
            if is_request(&data) && self.chosen.is_some_and(|chosen| (chosen.local, chosen.remote) == pair) {
                self.unanswered.get_or_insert(now);
            }
            if now < self.relays_from && is_request(&data) && self.is_by_relay(transmit.source, transmit.destination) {
                continue;
            }
            if is_request(&data) && self.checked.len() < CHECKED {
                self.checked.insert(pair);
            }
            match self.relays.iter().position(|relay| relay.relayed == Some(transmit.source)) {
                Some(_) if !may_reach(transmit.source, transmit.destination) => {}
                Some(relay) => {
                    self.permit(now, transmit.destination);
                    let wrapped = self.wrap(now, relay, transmit.destination, &data);
                    self.out.extend(wrapped);
                }
                None => {
                    self.out.push_back(Transmit { base: transmit.source, to: transmit.destination, data: data.into() })
                }
            }
        }
        // Permissions may have been asked for.
        let time = turn_time(self.epoch, now);
        for relay in self.relays.iter_mut().filter(|relay| !relay.failed) {
            while let Some(transmit) = relay.client.poll_transmit(time) {
                let data = Bytes::copy_from_slice(&transmit.data);
                self.out.push_back(Transmit { base: relay.base, to: relay.server, data });
            }
        }
    }

    fn is_by_relay(&self, source: SocketAddr, to: SocketAddr) -> bool {
        let mut remote = self.ice.remote_candidates();
        self.relays.iter().any(|relay| relay.relayed == Some(source))
            || remote.any(|c| c.addr() == to && c.kind() == CandidateKind::Relayed)
    }

    fn choose(&mut self, now: Instant, source: SocketAddr, to: SocketAddr) {
        let time = turn_time(self.epoch, now);
        let relay = self.relays.iter().position(|relay| relay.relayed == Some(source));
        let route = match relay {
            Some(relay) => {
                // Four bytes a datagram instead of thirty-six. If it is refused, it goes without; and over a connection too, where
                // turn-client-proto 0.7 leaves out the padding that RFC 8656 section 12.5 wants.
                let client = &mut self.relays[relay].client;
                if client.transport() == TransportType::Udp {
                    let _ = client.bind_channel(TransportType::Udp, to, time);
                }
                Route::Relayed { relay, base: self.relays[relay].base, to }
            }
            None => Route::Direct { base: source, to },
        };
        // Of what kind this end's address is: reflexive if the other end sees another than the socket's.
        let local = self.ice.local_candidates().find(|c| c.addr() == source);
        let local_kind = if relay.is_some() {
            CandidateKind::Relayed
        } else {
            local.map_or(CandidateKind::PeerReflexive, |c| c.kind())
        };
        let remote = self.ice.remote_candidates().find(|c| c.addr() == to);
        let remote_kind = remote.map_or(CandidateKind::PeerReflexive, |c| c.kind());
        let chosen = Chosen { route, local: source, local_kind, remote: to, remote_kind };
        tracing::debug!(%source, %to, ?local_kind, ?remote_kind, "pair chosen");
        self.chosen = Some(chosen);
    }
}

/// Whether a relay at this address should be asked to send to that one. A public relay cannot reach the inside of a private network,
/// and coturn ends the whole allocation when the kernel refuses a datagram (ENETUNREACH).
fn may_reach(relayed: SocketAddr, peer: SocketAddr) -> bool {
    relayed.is_ipv4() == peer.is_ipv4() && (!is_private(peer.ip()) || is_private(relayed.ip()))
}

/// Private (RFC 1918, RFC 4193), shared (RFC 6598), of one link, or of one machine.
fn is_private(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => {
            let shared = ip.octets()[0] == 100 && ip.octets()[1] & 0xc0 == 64;
            ip.is_private() || ip.is_loopback() || ip.is_link_local() || shared
        }
        IpAddr::V6(ip) => {
            let first = ip.segments()[0];
            ip.is_loopback() || first & 0xfe00 == 0xfc00 || first & 0xffc0 == 0xfe80
        }
    }
}

/// A Binding request (RFC 8489 section 5).
fn is_request(data: &[u8]) -> bool {
    data.starts_with(&[0, 1])
}

fn turn_time(epoch: Instant, now: Instant) -> TurnInstant {
    let nanos = now.saturating_duration_since(epoch).as_nanos();
    TurnInstant::from_nanos(i64::try_from(nanos).unwrap_or(i64::MAX))
}

fn std_time(epoch: Instant, at: TurnInstant) -> Instant {
    let nanos = u64::try_from(at.as_nanos()).unwrap_or(0);
    epoch.checked_add(Duration::from_nanos(nanos)).unwrap_or(epoch)
}
