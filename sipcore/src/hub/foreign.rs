//! Other domains: requests of the hub's users for users elsewhere, led there by RFC 3263. Only the domains that the operator names; who is no user of the hub is
//! passed on to nobody.

use super::home::HomeProxy;
use super::outcome::Branch;
use super::routes::Target;
use crate::agent::Registrar;
use crate::locate::{LocateError, Locator};
use crate::message::{Message, Method, Uri, name};
use crate::transaction::{ClientId, ServerId, Timers};
use crate::transport::{Core, Flow, Listen, Transport};
use std::collections::{HashMap, HashSet, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::Notify;
use tracing::{debug, info};

/// Requests that wait for DNS; one more is answered 503.
const MAX_WAITING: usize = 1000;
/// Those of one address among them.
const MAX_OF_SOURCE: usize = 250;
/// Servers of a domain that are tried for one request.
const MAX_SERVERS: usize = 4;
/// How long one may be silent while there is another, as for user agents (`user_agent::hops`): the time-out of a transaction is 32 s.
const SILENCE: Duration = Duration::from_secs(4);
/// Servers that are remembered because they did not serve, and for how long others are tried before them.
const MAX_FAILING: usize = 1000;
const FAILING_FOR: Duration = Duration::from_secs(30);

/// A request that waits for where its domain is. Its response context is open already, unless it is an ACK.
pub(super) struct Waiting {
    pub request: Message,
    pub came: Flow,
    pub mark: u32,
}

/// The domains that are led to, and what waits for where they are.
#[derive(Default)]
pub(super) struct Foreign {
    domains: Vec<String>,
    /// By response context; ACKs have a number of their own.
    waiting: HashMap<u64, Waiting>,
    asks: VecDeque<(u64, Uri)>,
    /// Number of the first listening point for TLS to one domain, and these points, with the number of the domain.
    first_gate: u16,
    gates: Vec<(usize, Listen)>,
    /// Connections whose certificate speaks for several domains: all of them.
    shared: HashMap<Flow, Vec<usize>>,
    /// Requests whose server is waited for, when there is another.
    slow: Timers<ClientId>,
    /// Servers that did not serve lately, and until when others are tried before them.
    failing: HashMap<(Transport, SocketAddr), Instant>,
    /// Connections on which a server has answered.
    heard: HashSet<Flow>,
    /// Connections that are to be closed.
    closing: VecDeque<Flow>,
    /// Told when there is something to ask DNS for.
    wanted: Arc<Notify>,
}

impl Foreign {
    pub fn new(domains: &[String]) -> Self {
        let domains = domains.iter().map(|domain| domain.to_ascii_lowercase()).collect();
        Foreign { domains, ..Foreign::default() }
    }

    /// Requests for this URI are led to its domain.
    pub fn leads_to(&self, uri: &Uri) -> bool {
        self.domain_of(uri).is_some()
    }

    fn domain_of(&self, uri: &Uri) -> Option<usize> {
        self.domains.iter().position(|domain| uri.host().eq_ignore_ascii_case(domain))
    }

    /// To each domain TLS is spoken, from wherever it is taken: points behind those that listen, in the order of `transport::Secrets::domains`.
    pub fn open_gates(&mut self, own: &[Listen]) {
        let tls = || own.iter().filter(|own| own.transport == Transport::Tls).copied();
        self.gates = (0..self.domains.len()).flat_map(|domain| tls().map(move |own| (domain, own))).collect();
        self.first_gate = own.len() as u16;
    }

    /// Where TLS to other domains leaves.
    pub fn gates(&self) -> impl Iterator<Item = Listen> {
        self.gates.iter().map(|(_, own)| *own)
    }

    /// From where TLS is spoken to the domain of a URI at an address.
    pub fn gate_to(&self, uri: &Uri, ip: IpAddr) -> Option<u16> {
        let domain = self.domain_of(uri)?;
        let fits = |(of, own): &(usize, Listen)| *of == domain && own.addr.is_ipv4() == ip.is_ipv4();
        let at = self.gates.iter().position(fits)?;
        u16::try_from(at).ok()?.checked_add(self.first_gate)
    }

    /// The domain whose gate it is.
    fn behind(&self, flow: Flow) -> Option<usize> {
        self.gates.get(usize::from(flow.local.checked_sub(self.first_gate)?)).map(|(domain, _)| *domain)
    }

    /// What comes there comes from another domain.
    pub fn is_gate(&self, flow: Flow) -> bool {
        self.behind(flow).is_some()
    }

    /// The certificate of who connected speaks for these domains.
    pub fn on_shown(&mut self, flow: Flow, domains: &[usize]) {
        match domains.len() > 1 {
            true => self.shared.insert(flow, domains.to_vec()),
            false => self.shared.remove(&flow),
        };
    }

    /// The domain of this name has shown by its certificate that it is at the other end.
    fn has_shown(&self, flow: Flow, name: &str) -> bool {
        let Some(behind) = self.behind(flow) else { return false };
        let is_it = |domain: usize| self.domains.get(domain).is_some_and(|domain| domain.eq_ignore_ascii_case(name));
        is_it(behind) || self.shared.get(&flow).is_some_and(|all| all.iter().any(|domain| is_it(*domain)))
    }

    /// A message has come.
    pub fn on_heard(&mut self, flow: Flow, message: &Message) {
        if self.is_open() && flow.transport.is_reliable() && !message.is_request() {
            self.heard.insert(flow);
        }
    }

    /// A way is lost, and with it whoever was at the other end.
    pub fn on_lost(&mut self, flow: Flow) {
        self.shared.remove(&flow);
        self.heard.remove(&flow);
    }

    /// The next connection that is to be closed.
    pub fn poll_close(&mut self) -> Option<Flow> {
        self.closing.pop_front()
    }

    /// When the next server has been silent for too long.
    pub fn next(&self) -> Option<Instant> {
        self.slow.next()
    }

    fn note_failure(&mut self, now: Instant, flow: Flow) {
        if self.failing.len() >= MAX_FAILING {
            self.failing.retain(|_, until| *until > now);
        }
        if self.failing.len() < MAX_FAILING {
            self.failing.insert((flow.transport, flow.remote), now + FAILING_FOR);
        }
    }

    fn is_failing(&self, now: Instant, flow: Flow) -> bool {
        self.failing.get(&(flow.transport, flow.remote)).is_some_and(|until| *until > now)
    }

    /// There are other domains.
    pub fn is_open(&self) -> bool {
        !self.domains.is_empty()
    }

    /// One more that came from there may wait.
    fn has_room(&self, source: IpAddr) -> bool {
        let of_source = || self.waiting.values().filter(|waiting| waiting.came.remote.ip() == source).count();
        self.waiting.len() < MAX_WAITING && (self.waiting.len() < MAX_OF_SOURCE || of_source() < MAX_OF_SOURCE)
    }

    fn ask(&mut self, id: u64, waiting: Waiting, to: Uri) {
        self.waiting.insert(id, waiting);
        self.asks.push_back((id, to));
        self.wanted.notify_one();
    }

    /// Everything that waits.
    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.waiting.len()
    }
}

impl HomeProxy {
    /// The next question for DNS: by which number the answer is to be given, and which URI is to be located.
    pub(super) fn poll_ask(&mut self) -> Option<(u64, Uri)> {
        self.foreign.asks.pop_front()
    }

    /// A request whose route has been looked at goes to another domain, or within a dialog to a host that has a name.
    pub(super) fn lead_away(&mut self, now: Instant, server: ServerId, before: Message, waiting: Waiting, to: Uri) {
        if !self.foreign.has_room(waiting.came.remote.ip()) {
            let answer = Message::response_to(&before, 503, "Too Many Requests Wait For DNS");
            return self.respond(now, server, answer.header(name::RETRY_AFTER, 1));
        }
        let id = self.open_context(now, server, waiting.came, before);
        self.foreign.ask(id, waiting, to);
    }

    /// The same for ACK, which nobody answers.
    pub(super) fn lead_ack_away(&mut self, waiting: Waiting, to: Uri) {
        if self.foreign.has_room(waiting.came.remote.ip()) {
            self.last_context += 1;
            self.foreign.ask(self.last_context, waiting, to);
        }
    }

    /// DNS has answered.
    pub(super) fn on_located(&mut self, now: Instant, id: u64, found: Result<Vec<Registrar>, LocateError>) {
        let Some(Waiting { request, came, mark }) = self.foreign.waiting.remove(&id) else { return };
        let whom = whom(&request);
        let targets_at = |home: &Self, servers: &[Registrar]| -> Vec<Target> {
            let mut targets: Vec<Target> =
                servers.iter().filter_map(|server| home.target_at(came, whom.as_ref(), server)).collect();
            targets.sort_by_key(|target| home.foreign.is_failing(now, target.flow));
            targets
        };
        if request.method() == Some(&Method::Ack) {
            let targets = targets_at(self, &found.unwrap_or_default());
            if let Some(target) = targets.first() {
                let copy = self.copy_for(&request, came, target);
                self.layer.send_ack(target.flow, copy, Some(mark));
            }
            return;
        }
        let Some(context) = self.contexts.get(&id).filter(|context| context.is_open()) else { return };
        let refusal = match found {
            _ if context.is_cancelled() => (487, "Request Terminated"),
            Ok(servers) => {
                let mut targets = targets_at(self, &servers);
                targets.truncate(MAX_SERVERS);
                if self.lead_on(now, id, None, request, (came, mark), targets) {
                    return self.finish(now);
                }
                match servers.iter().all(|server| server.transport == Transport::Tls) && !servers.is_empty() {
                    true => {
                        (502, "That Domain Takes TLS Only, And The Hub Does Not Speak It (--listen-tls, --foreign-ca)")
                    }
                    false => (502, "No Transport To That Domain"),
                }
            }
            Err(error) => {
                debug!(%error, "a domain cannot be found");
                match error {
                    LocateError::Failed { .. } => (504, "That Domain Cannot Be Found Now"),
                    _ => (404, "No Such Domain"),
                }
            }
        };
        self.refuse(now, id, refusal.0, refusal.1);
        self.finish(now);
    }

    /// Sends a request to the first of the servers that its domain has left, in the place of a branch that got no answer. `false`: there is none.
    pub(super) fn lead_on(
        &mut self,
        now: Instant,
        id: u64,
        lost: Option<ClientId>,
        request: Message,
        (came, mark): (Flow, u32),
        targets: Vec<Target>,
    ) -> bool {
        let mut targets = targets.into_iter();
        let Some(target) = targets.next() else { return false };
        let copy = self.copy_for(&request, came, &target);
        let client = self.layer.request(now, target.flow, copy, Some(mark));
        self.clients.insert(client, id);
        if targets.len() > 0 {
            self.foreign.slow.update(client, None, Some(now + SILENCE));
        }
        let branch = Branch::led(client, target.flow, targets.collect(), request);
        match (self.contexts.get_mut(&id), lost) {
            (Some(context), Some(lost)) => context.replace(lost, branch),
            (Some(context), None) => context.branches.push(branch),
            (None, _) => {}
        }
        true
    }

    /// Servers that have been silent for too long while there are others.
    pub(super) fn on_foreign_timers(&mut self, now: Instant) {
        while let Some((_, client)) = self.foreign.slow.pop_due(now) {
            let Some(id) = self.clients.get(&client).copied() else { continue };
            let Some(context) = self.contexts.get_mut(&id) else { continue };
            let Some(flow) = context.led_in_vain_to(client) else { continue };
            if context.is_invite() {
                self.on_server_failed(now, id, client);
                self.pass_over(now, id, client);
            } else if !self.foreign.heard.contains(&flow) {
                // Else it has come to the server, for which it cannot be taken back: it would be carried out twice.
                self.on_server_failed(now, id, client);
                if self.fork_again(now, id, client) {
                    self.layer.abandon(client);
                    if flow.transport.is_reliable() {
                        // It may wait there for a connection that comes about late.
                        self.foreign.closing.push_back(flow);
                    }
                }
            }
        }
    }

    /// The next server gets an INVITE, too, which is cancelled at the one before as soon as that has been heard.
    fn pass_over(&mut self, now: Instant, id: u64, silent: ClientId) {
        let Some(context) = self.contexts.get_mut(&id) else { return };
        let came = context.came;
        let Some((request, others, Some(led))) = context.take_others(silent) else { return };
        context.pass_over(silent);
        let mark = self.mark(&request);
        self.lead_on(now, id, None, led, (came, mark), others);
    }

    /// The server that a branch was led to does not serve. `false`: it was not led to one.
    pub(super) fn on_server_failed(&mut self, now: Instant, id: u64, client: ClientId) -> bool {
        let flow = self.contexts.get_mut(&id).and_then(|context| context.led_to(client));
        flow.map(|flow| self.foreign.note_failure(now, flow)).is_some()
    }

    /// The sender is of another domain, whose certificate was shown where the request came from (RFC 3261 26.3.2.2, RFC 5922): its word is taken for who its
    /// users are.
    pub(super) fn is_guest(&self, flow: Flow, request: &Message) -> bool {
        let from = request.from().ok().and_then(|from| from.uri().ok());
        let host = from.as_ref().filter(|from| from.is_sip() && from.user().is_some()).map(Uri::host);
        host.is_some_and(|host| self.foreign.has_shown(flow, host))
    }

    /// A server as a place to send to, for a request to somebody; `None`: the hub does not speak its transport.
    fn target_at(&self, came: Flow, whom: Option<&Uri>, server: &Registrar) -> Option<Target> {
        let Registrar { addr, transport } = *server;
        let local = match transport {
            Transport::Udp | Transport::Tcp => {
                let local = self.local_for(transport, addr.ip(), came.local);
                Some(local).filter(|local| self.own.get(usize::from(*local)).is_some_and(|own| own.carries(transport)))
            }
            Transport::Tls => self.foreign.gate_to(whom?, addr.ip()),
            Transport::Ws | Transport::Wss => None,
        };
        let flow = Flow { transport, local: local?, remote: addr };
        Some(Target { flow, uri: None, path: Box::default(), others: Vec::new() })
    }
}

/// Whom a request is for, as its sender named him: whose domain has to be at the other end.
pub(super) fn whom(request: &Message) -> Option<Uri> {
    request.to().ok().and_then(|to| to.uri().ok())
}

/// Asks DNS for what the hub wants to know, as long as the hub is there.
pub(super) fn follow(core: &Arc<Core<HomeProxy>>, locator: Locator) {
    let wanted = core.with(|home, _| home.foreign.wanted.clone());
    let weak = Arc::downgrade(core);
    core.spawn(async move {
        loop {
            wanted.notified().await;
            let Some(core) = weak.upgrade() else { return };
            while let Some((id, uri)) = core.with(|home, _| home.poll_ask()) {
                let (locator, weak) = (locator.clone(), weak.clone());
                core.spawn(async move {
                    let found = locator.locate(&uri).await;
                    if let Ok(servers) = &found {
                        info!(%uri, servers = servers.len(), "another domain found");
                    }
                    if let Some(core) = weak.upgrade() {
                        core.with(|home, now| home.on_located(now, id, found));
                    }
                });
            }
        }
    });
}

/// Whether a request may be led away for its sender: to whom it belongs is known, and he is of this hub.
pub(super) fn is_own(home: &HomeProxy, request: &Message) -> bool {
    let from = request.from().ok().and_then(|from| from.uri().ok());
    request.method() != Some(&Method::Register) && from.is_some_and(|from| from.is_sip() && home.is_ours(&from))
}
