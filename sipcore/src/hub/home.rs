//! The home proxy: registrar and proxy of its domains as one state machine without I/O (RFC 3261 10, 16).

use super::foreign::Foreign;
use super::gruu::Mint;
use super::guard::Guard;
use super::journal::{Journal, Kept};
use super::location::{Contact, Location};
use super::outcome::Context;
use super::presence::{EVENTS, Presence};
use super::rate::Rates;
use super::watch::{Sessions, Tally};
use super::{Activity, HubConfig, RelayOffer, Users};
use crate::message::{Message, Method, ResponseBuilder, Uri, name, validate};
use crate::random;
use crate::transaction::{ClientId, Event, Layer, ServerId, Timers, Timing};
use crate::transport::{Flow, Listen, Machine, Sign, Transmit, stun};
use crate::user_agent::USER_AGENT;
use std::collections::HashMap;
use std::hash::RandomState;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::Notify;

/// Requests that wait for their answers, or whose answers are kept for repetitions; above it the oldest answers go, and when there are none new
/// requests are answered 503.
const MAX_TRANSACTIONS: usize = 100_000;
/// Methods that the hub itself answers.
const ALLOW: &str = "OPTIONS, REGISTER, PUBLISH, SUBSCRIBE";
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
    pub(super) presence: Presence,
    pub(super) limits: Limits,
    pub(super) domains: Vec<String>,
    pub(super) own: Vec<Listen>,
    /// Key of the marks by which we know our own branches again.
    pub(super) key: RandomState,
    /// Key of the seals by which we know our own routes again.
    pub(super) seal_key: [u8; 32],
    pub(super) relay: Option<RelayOffer>,
    pub(super) foreign: Foreign,
    rates: Option<Rates>,
    pub(super) sessions: Sessions,
    pub(super) tally: Tally,
    /// Nothing new is taken any more; told when all that was taken has been answered.
    ending: Option<Arc<Notify>>,
    journal: Option<Journal>,
    /// Addresses of record whose bindings have changed.
    pub(super) changed: Vec<String>,
    pub(super) contexts: HashMap<u64, Context>,
    pub(super) clients: HashMap<ClientId, u64>,
    pub(super) invites: HashMap<ServerId, u64>,
    pub(super) timers: Timers<u64>,
    pub(super) last_context: u64,
    last: Instant,
}

impl HomeProxy {
    pub fn new(config: &HubConfig, own: &[Listen], timing: Timing, now: Instant) -> Self {
        let secret = random::secret();
        let mut home = HomeProxy {
            layer: Layer::new(timing, own.iter().map(|own| own.addr).collect(), MAX_TRANSACTIONS),
            location: Location::default(),
            guard: None,
            mint: Mint::new(secret),
            presence: Presence::new(groups(config)),
            limits: Limits {
                max_expires: config.max_expires,
                min_expires: config.min_expires,
                default_expires: config.default_expires,
            },
            domains: config.domains.iter().map(|domain| domain.to_ascii_lowercase()).collect(),
            own: own.to_vec(),
            key: RandomState::new(),
            seal_key: secret,
            relay: config.relay.clone(),
            foreign: Foreign::new(&config.foreign),
            rates: config.rate.map(|rate| Rates::new(rate.max(1), Duration::from_secs(1) / rate.max(1))),
            sessions: Sessions::default(),
            tally: Tally::default(),
            ending: None,
            journal: None,
            changed: Vec::new(),
            contexts: HashMap::new(),
            clients: HashMap::new(),
            invites: HashMap::new(),
            timers: Timers::default(),
            last_context: 0,
            last: now,
        };
        home.set_users(now, config.users.clone());
        home
    }

    /// The driver speaks TLS to other domains, from listening points behind those that listen.
    pub(super) fn open_gates(&mut self) {
        self.foreign.open_gates(&self.own);
        let gates = self.foreign.gates().map(|gate| gate.addr);
        self.layer.set_locals(self.own.iter().map(|own| own.addr).chain(gates).collect());
    }

    /// From now on these may register and call; `None`: everybody. Who is no user any more has no bindings, and is told so.
    pub fn set_users(&mut self, now: Instant, users: Option<Users>) {
        self.guard = users.map(|users| Guard::new(users, now));
        let domain = self.domains.first().cloned().unwrap_or_default();
        for name in self.guard.iter().flat_map(Guard::names) {
            self.location.know(&format!("{name}@{domain}"));
        }
        self.turn_out(now);
    }

    /// Goes on with what an earlier hub had, and keeps what changes.
    pub(super) fn resume(&mut self, now: Instant, journal: Journal, kept: Kept) {
        self.mint = Mint::new(kept.key);
        self.seal_key = kept.key;
        for (record, mut bindings) in kept.bindings {
            // A connection that cannot be made from here is gone with the hub that had it.
            let stands = |contact: &Contact| !contact.flow.transport.is_one_way() || !contact.path.is_empty();
            bindings.retain(|binding| binding.expires_at > now && stands(&binding.contact));
            for binding in &mut bindings {
                let flow = &mut binding.contact.flow;
                flow.local = self.local_for(flow.transport, flow.remote.ip(), flow.local);
            }
            self.location.restore(&record, bindings);
        }
        self.journal = Some(journal);
        // Users may have been removed since.
        self.turn_out(now);
    }

    /// Writes down what has changed.
    fn keep(&mut self) {
        let Some(journal) = &mut self.journal else { return self.changed.clear() };
        for record in self.changed.drain(..) {
            journal.save(&record, self.location.bindings(&record));
        }
        if journal.is_long(self.location.records()) {
            journal.compact(self.location.all());
        }
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
            self.timers.len() + self.presence.leftovers() + self.foreign.len(),
        ]
    }

    pub fn activity(&self) -> Activity {
        Activity {
            bindings: self.location.len(),
            publications: self.presence.publications(),
            subscriptions: self.presence.subscriptions(),
            transactions: self.layer.len(),
            shed: self.layer.shed(),
            last: self.last,
        }
    }

    /// Takes nothing new from now on. Told when all that was taken has been answered.
    pub fn end(&mut self) -> Arc<Notify> {
        self.ending.get_or_insert_default().clone()
    }

    /// 503 without any transaction.
    fn turn_away(&mut self, flow: Flow, request: &Message, reason: &str) {
        let answer = Message::response_to(request, 503, reason).header(name::RETRY_AFTER, 1);
        self.layer.transmit(flow, answer.build().to_bytes());
    }

    /// The hub is responsible for the URI: one of its domains or addresses.
    pub(super) fn is_ours(&self, uri: &Uri) -> bool {
        match uri.host_ip() {
            // Without a port it is a name for the host, as in an address of record, and not for what listens on 5060.
            Some(ip) => {
                let is_it = |own: SocketAddr| own.ip() == ip && uri.port().is_none_or(|port| port == own.port());
                self.own.iter().any(|own| is_it(own.addr))
            }
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

    /// Something was done that is no answer to a message.
    pub(super) fn finish(&mut self, now: Instant) {
        self.work(now);
    }

    fn work(&mut self, now: Instant) {
        while let Some(event) = self.layer.poll_event() {
            match event {
                Event::Request { id, flow, message } => self.on_request(now, id, flow, message),
                Event::Ack { flow, message } => self.on_ack(now, flow, message),
                Event::Response { id, message } if self.on_notify_outcome(id, message.status()) => {}
                Event::Response { id, message } => self.on_response(now, id, message),
                Event::Timeout { id } | Event::Unreachable { id, .. } if self.on_notify_outcome(id, None) => {}
                Event::Timeout { id } => self.on_no_response(now, id, None),
                Event::Unreachable { id, why } => self.on_no_response(now, id, Some(&why)),
                Event::Gone { id } => self.on_gone(id),
            }
        }
        self.notify(now);
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
            _ if self.is_for_presence(&request) => self.on_presence_request(now, server, flow, &request),
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
                .header(name::ALLOW_EVENTS, EVENTS)
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
        self.foreign.on_heard(flow, &message);
        if let Some(method) = message.method() {
            self.tally.count(method);
        }
        // What ends something is always taken: it makes room.
        let opens = !matches!(message.method(), None | Some(Method::Ack | Method::Bye | Method::Cancel));
        if opens && self.rates.as_mut().is_some_and(|rates| !rates.admit(now, flow.remote.ip())) {
            self.tally.too_many += 1;
            return self.turn_away(flow, &message, "Too Many Requests");
        }
        if opens && self.ending.is_some() && message.to_tag().is_none() && !self.layer.knows(&message) {
            self.tally.ending += 1;
            return self.turn_away(flow, &message, "The Server Is Ending");
        }
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

    fn handle_shown(&mut self, flow: Flow, domains: &[usize]) {
        self.foreign.on_shown(flow, domains);
    }

    fn handle_unreachable(&mut self, now: Instant, flow: Flow, why: &str) {
        self.foreign.on_lost(flow);
        let lost = self.location.flow_lost(flow);
        for record in &lost {
            self.presence.on_registration(record);
        }
        self.changed.extend(lost);
        self.layer.handle_unreachable(now, flow, why);
        self.work(now);
    }

    fn handle_timeout(&mut self, now: Instant) {
        self.layer.handle_timeout(now);
        for record in self.location.expire(now) {
            self.presence.on_registration(&record);
        }
        self.on_presence_timers(now);
        self.on_foreign_timers(now);
        while let Some((_, context)) = self.timers.pop_due(now) {
            self.on_ring_limit(now, context);
        }
        self.work(now);
    }

    fn poll_transmit(&mut self) -> Option<Transmit> {
        self.layer.poll_transmit()
    }

    fn poll_close(&mut self) -> Option<Flow> {
        self.foreign.poll_close()
    }

    fn poll_timeout(&self) -> Option<Instant> {
        let own = [self.layer.poll_timeout(), self.location.next_expiry(), self.timers.next()];
        own.into_iter().chain([self.presence.next(), self.foreign.next()]).flatten().min()
    }

    fn deliver_events(&mut self, _now: Instant) {
        self.keep();
        if let Some(told) = &self.ending
            && !self.contexts.values().any(Context::is_open)
        {
            told.notify_one();
        }
    }
}

/// The groups of a hub as addresses of record.
fn groups(config: &HubConfig) -> impl Iterator<Item = (String, Vec<String>)> {
    let domain = config.domains.first().map(|domain| domain.to_ascii_lowercase()).unwrap_or_default();
    config.groups.iter().map(move |(name, members)| {
        let record = |name: &String| format!("{name}@{domain}");
        (record(name), members.iter().map(record).collect())
    })
}
