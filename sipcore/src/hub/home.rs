//! The home proxy: registrar and proxy of its domains as one state machine without I/O (RFC 3261 10, 16).

use super::gruu::Mint;
use super::guard::Guard;
use super::location::Location;
use super::outcome::Context;
use super::{Activity, HubConfig};
use crate::message::{Message, Method, ResponseBuilder, Uri, name, validate};
use crate::random;
use crate::transaction::{ClientId, Event, Layer, ServerId, Timers, Timing};
use crate::transport::{Flow, Machine, Sign, Transmit, stun};
use crate::user_agent::USER_AGENT;
use std::collections::HashMap;
use std::hash::RandomState;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// Transactions of one side; above it new requests are answered 503.
const MAX_TRANSACTIONS: usize = 50_000;
/// Methods that the hub itself answers.
const ALLOW: &str = "OPTIONS, REGISTER";
/// Extensions that the registrar understands (RFC 3327, 5626, 5627).
pub(super) const SUPPORTED: [&str; 3] = ["path", "outbound", "gruu"];

/// What expiry is granted.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    pub max_expires: Duration,
    pub min_expires: Duration,
    pub default_expires: Duration,
}

/// The machine.
pub(crate) struct HomeProxy {
    pub(super) layer: Layer,
    pub(super) location: Location,
    pub(super) guard: Option<Guard>,
    pub(super) mint: Mint,
    pub(super) limits: Limits,
    pub(super) domains: Vec<String>,
    pub(super) own: Vec<SocketAddr>,
    /// Key of the marks by which we know our own branches and routes again.
    pub(super) key: RandomState,
    pub(super) contexts: HashMap<u64, Context>,
    pub(super) clients: HashMap<ClientId, u64>,
    pub(super) invites: HashMap<ServerId, u64>,
    pub(super) timers: Timers<u64>,
    pub(super) last_context: u64,
    last: Instant,
}

impl HomeProxy {
    pub fn new(config: &HubConfig, own: &[SocketAddr], timing: Timing, now: Instant) -> Self {
        let mut home = HomeProxy {
            layer: Layer::new(timing, own.to_vec(), MAX_TRANSACTIONS),
            location: Location::default(),
            guard: config.users.clone().map(|users| Guard::new(users, now)),
            mint: Mint::new(random::secret()),
            limits: Limits {
                max_expires: config.max_expires,
                min_expires: config.min_expires,
                default_expires: config.default_expires,
            },
            domains: config.domains.iter().map(|domain| domain.to_ascii_lowercase()).collect(),
            own: own.to_vec(),
            key: RandomState::new(),
            contexts: HashMap::new(),
            clients: HashMap::new(),
            invites: HashMap::new(),
            timers: Timers::default(),
            last_context: 0,
            last: now,
        };
        let domain = home.domains.first().cloned().unwrap_or_default();
        let records = home.guard.iter().flat_map(Guard::names).map(|name| format!("{name}@{domain}"));
        for record in records.collect::<Vec<_>>() {
            home.location.know(&record);
        }
        home
    }

    /// Everything that is remembered of transactions.
    #[cfg(test)]
    pub fn leftovers(&self) -> [usize; 6] {
        [
            self.layer.len(),
            self.layer.windows(),
            self.contexts.len(),
            self.clients.len(),
            self.invites.len(),
            self.timers.len(),
        ]
    }

    pub fn activity(&self) -> Activity {
        Activity { bindings: self.location.len(), transactions: self.layer.len(), last: self.last }
    }

    /// The hub is responsible for the URI: one of its domains or addresses.
    pub(super) fn is_ours(&self, uri: &Uri) -> bool {
        match uri.host_ip() {
            // Without a port it is a name for the host, as in an address of record, and not for what listens on 5060.
            Some(ip) => self.own.iter().any(|own| own.ip() == ip && uri.port().is_none_or(|port| port == own.port())),
            None => self.domains.iter().any(|domain| uri.host().eq_ignore_ascii_case(domain)),
        }
    }

    /// The address of record of a URI that is ours, as a key. Our addresses stand for the first domain.
    pub(super) fn record(&self, uri: &Uri) -> String {
        let user = uri.user_decoded().unwrap_or_default();
        match (uri.host_ip(), self.domains.first()) {
            (Some(_), Some(domain)) => format!("{user}@{domain}"),
            _ => format!("{user}@{}", uri.host().to_ascii_lowercase()),
        }
    }

    pub(super) fn respond(&mut self, now: Instant, server: ServerId, answer: ResponseBuilder) {
        let answer = answer.to_tag(&random::tag()).header(name::SERVER, USER_AGENT).build();
        self.layer.respond(now, server, &answer);
    }

    fn work(&mut self, now: Instant) {
        while let Some(event) = self.layer.poll_event() {
            match event {
                Event::Request { id, flow, message } => self.on_request(now, id, flow, message),
                Event::Ack { flow, message } => self.on_ack(now, flow, message),
                Event::Response { id, message } => self.on_response(now, id, message),
                Event::Timeout { id } => self.on_no_response(now, id, false),
                Event::Unreachable { id, .. } => self.on_no_response(now, id, true),
                Event::Gone { id } => self.on_gone(id),
            }
        }
    }

    fn on_request(&mut self, now: Instant, server: ServerId, flow: Flow, request: Message) {
        if let Err(fault) = validate(&request) {
            let answer = Message::response_to(&request, fault.status, &fault.reason);
            return self.respond(now, server, answer);
        }
        match request.method() {
            Some(Method::Cancel) => self.on_cancel(now, server, &request),
            Some(Method::Register) if self.is_for_registrar(&request) => {
                self.on_register(now, server, flow, &request);
            }
            _ => self.proxy(now, server, flow, request),
        }
    }

    fn is_for_registrar(&self, request: &Message) -> bool {
        request.request_uri().is_ok_and(|uri| uri.is_sip() && self.is_ours(&uri))
    }

    /// A request for the hub itself, not for one of its users.
    pub(super) fn answer_as_server(&mut self, now: Instant, server: ServerId, request: &Message) {
        // A server understands what a client requires, or says what it does not (RFC 3261 8.2.2.3): here, nothing is understood.
        let required: Vec<&str> = request.tokens(name::REQUIRE).collect();
        let answer = match request.method() {
            _ if !required.is_empty() => {
                Message::response_to(request, 420, "Bad Extension").header(name::UNSUPPORTED, required.join(", "))
            }
            Some(Method::Options) => Message::response_to(request, 200, "OK")
                .header(name::ALLOW, ALLOW)
                .header(name::SUPPORTED, SUPPORTED.join(", ")),
            Some(Method::Invite) => Message::response_to(request, 404, "Not Found"),
            _ => Message::response_to(request, 405, "Method Not Allowed").header(name::ALLOW, ALLOW),
        };
        self.respond(now, server, answer);
    }
}

impl Machine for HomeProxy {
    fn handle_message(&mut self, now: Instant, flow: Flow, message: Message) {
        self.last = now;
        self.layer.handle_message(now, flow, message);
        self.work(now);
    }

    fn handle_sign(&mut self, _now: Instant, flow: Flow, sign: Sign<'_>) {
        if let Sign::Stun(request) = sign
            && let Some(answer) = stun::answer(request, flow.remote)
        {
            self.layer.transmit(flow, answer);
        }
    }

    fn handle_unreachable(&mut self, now: Instant, flow: Flow, why: &str) {
        self.location.flow_lost(flow);
        self.layer.handle_unreachable(now, flow, why);
        self.work(now);
    }

    fn handle_timeout(&mut self, now: Instant) {
        self.layer.handle_timeout(now);
        self.location.expire(now);
        while let Some((_, context)) = self.timers.pop_due(now) {
            self.on_ring_limit(now, context);
        }
        self.work(now);
    }

    fn poll_transmit(&mut self) -> Option<Transmit> {
        self.layer.poll_transmit()
    }

    fn poll_close(&mut self) -> Option<Flow> {
        None
    }

    fn poll_timeout(&self) -> Option<Instant> {
        [self.layer.poll_timeout(), self.location.next_expiry(), self.timers.next()].into_iter().flatten().min()
    }

    fn deliver_events(&mut self, _now: Instant) {}
}
