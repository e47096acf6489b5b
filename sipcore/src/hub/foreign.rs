//! Other domains: requests of the hub's users for users elsewhere, led there by RFC 3263. Only the domains that the operator names; who is no user of the hub is
//! passed on to nobody.

use super::home::HomeProxy;
use super::outcome::Branch;
use super::routes::Target;
use crate::agent::Registrar;
use crate::locate::{LocateError, Locator};
use crate::message::{Message, Method, Uri, name};
use crate::transaction::ServerId;
use crate::transport::{Core, Flow, Transport};
use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::Notify;
use tracing::{debug, info};

/// Requests that wait for DNS; one more is answered 503.
const MAX_WAITING: usize = 1000;
/// Those of one address among them.
const MAX_OF_SOURCE: usize = 250;
/// Servers of a domain that are tried for one request.
const MAX_SERVERS: usize = 4;

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
        self.domains.iter().any(|domain| uri.host().eq_ignore_ascii_case(domain))
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
        if request.method() == Some(&Method::Ack) {
            let target = found.ok().and_then(|servers| servers.iter().find_map(|server| self.target_at(came, server)));
            if let Some(target) = target {
                let copy = self.copy_for(&request, came, &target);
                self.layer.send_ack(target.flow, copy, Some(mark));
            }
            return;
        }
        let Some(context) = self.contexts.get_mut(&id).filter(|context| context.is_open()) else { return };
        let refusal = match found {
            _ if context.is_cancelled() => (487, "Request Terminated"),
            Ok(servers) => {
                let targets: Vec<Target> = servers.iter().filter_map(|server| self.target_at(came, server)).collect();
                let mut targets = targets.into_iter().take(MAX_SERVERS);
                match targets.next() {
                    Some(first) => {
                        // What comes with a route of its own is not sent once more.
                        let others = targets.filter(|_| request.header(name::ROUTE).is_none()).collect();
                        return self.send_away(now, id, &request, came, mark, Target { others, ..first });
                    }
                    None => (502, "No Transport To That Domain"),
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

    fn send_away(&mut self, now: Instant, id: u64, request: &Message, came: Flow, mark: u32, target: Target) {
        let copy = self.copy_for(request, came, &target);
        let client = self.layer.request(now, target.flow, copy, Some(mark));
        self.clients.insert(client, id);
        if let Some(context) = self.contexts.get_mut(&id) {
            context.branches.push(Branch::new(client, target.others));
        }
        self.finish(now);
    }

    /// A server as a place to send to; `None`: the hub does not speak its transport.
    fn target_at(&self, came: Flow, server: &Registrar) -> Option<Target> {
        let Registrar { addr, transport } = *server;
        let speaks = matches!(transport, Transport::Udp | Transport::Tcp);
        let local = self.local_for(transport, addr.ip(), came.local);
        let fits = self.own.get(usize::from(local)).is_some_and(|own| own.carries(transport));
        let flow = Flow { transport, local, remote: addr };
        (speaks && fits).then(|| Target { flow, uri: None, path: Box::default(), others: Vec::new() })
    }
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
