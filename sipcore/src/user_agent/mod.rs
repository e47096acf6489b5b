//! One user agent (RFC 3261 8, 10 to 15): registration, calls and presence as a single state machine without I/O. Everything is sent to one next hop,
//! the registrar and outbound proxy.

mod asking;
mod called;
mod caller;
mod credentials;
mod hops;
mod ice_servers;
mod in_dialog;
mod keep_alive;
mod publishing;
mod querying;
mod refreshing;
#[cfg(test)]
mod reg_tests;
mod registered;
mod registering;
mod registrations;
mod reliable;
mod replacing;
#[cfg(test)]
mod restart_tests;
mod restarting;
mod service;
mod spare;
#[cfg(test)]
mod spare_tests;
#[cfg(test)]
mod tests;
mod watching;

use crate::agent::{
    CallError, Capabilities, EndReason, IceServer, Line, PresenceError, RegisterError, RestartError, Session,
    SessionId, SubscriptionId, Update,
};
use crate::auth::Credentials;
use crate::dialog::{Dialog, DialogKey};
use crate::message::{Message, Method, ResponseBuilder, Uri, address, name};
use crate::random;
use crate::sdp::{Agreed, Offer, Quic, ReceivedOffer};
use crate::session_timer::{self, SessionTimer};
use crate::transaction::{ClientId, Clock, Due, Event, Layer, ServerId, Timers, Timing};
use crate::transport::{Flow, Sign, Transmit, Transport};
use bytes::Bytes;
use credentials::Wallet;
pub(crate) use hops::Hop;
use hops::Hops;
use keep_alive::Act;
use publishing::Publisher;
use registered::Registered;
use registrations::RegWatch;
use reliable::Ringing;
use restarting::{Reoffer, Restart};
use std::collections::{HashMap, VecDeque};
use std::hash::RandomState;
use std::time::{Duration, Instant};
use watching::Watches;

/// The methods that are answered (Allow, RFC 3261 20.5).
const ALLOW: &str = "INVITE, ACK, CANCEL, BYE, OPTIONS, UPDATE, PRACK, NOTIFY";
/// Extensions of calls that are understood (Supported, RFC 3261 20.37).
const SUPPORTED: &str = "gruu, timer, replaces";
/// The same of calls that others make: their provisional responses are reliable if they want it, ours are not asked for.
const SUPPORTED_CALLED: &str = "gruu, timer, replaces, 100rel";
/// What may be required of us (RFC 3261 20.32).
const UNDERSTOOD: [&str; 5] = ["gruu", session_timer::TAG, reliable::TAG, "replaces", watching::LISTS];
/// Transactions of one side; above it new requests are answered 503.
const MAX_TRANSACTIONS: usize = 100_000;
/// How long a call may ring before it is cancelled.
const RING_LIMIT: Duration = Duration::from_secs(180);
/// How long an INVITE of the other side waits for the user. Its caller may be gone without a word.
const DECISION_LIMIT: Duration = Duration::from_secs(200);

/// What one user agent is.
#[derive(Debug, Clone)]
pub(crate) struct Config {
    pub aor: Uri,
    pub contact: Uri,
    pub instance: String,
    pub next_hop: Flow,
    pub credentials: Option<Credentials>,
    pub expires: Duration,
    /// The longest pause between two REGISTERs, however long the binding stands.
    pub refresh: Option<Duration>,
    pub timing: Timing,
}

/// What the user is told.
#[derive(Debug)]
pub(crate) enum Notice {
    Answered(Session),
    Failed {
        id: SessionId,
        error: CallError,
    },
    Incoming {
        id: SessionId,
        from: Uri,
        lines: Vec<Line>,
        software: Option<String>,
    },
    Ended {
        id: SessionId,
        reason: EndReason,
    },
    /// The other side wants to look for a path anew.
    Restarting {
        id: SessionId,
        remote: Quic,
    },
    /// A restart of ours was answered.
    Restarted {
        id: SessionId,
        remote: Quic,
    },
    NotRestarted {
        id: SessionId,
        error: RestartError,
    },
    /// What somebody can do, or why that is not known.
    Capable {
        id: SessionId,
        outcome: Result<Capabilities, CallError>,
    },
    /// An attempt succeeded.
    Registered,
    /// Who is registered, as the registrar says: the answer to a question.
    Bound(Vec<Uri>),
    /// An attempt failed.
    NotRegistered(RegisterError),
    /// It is tried again unless it is `over`.
    RegistrationLost {
        why: String,
        over: bool,
    },
    RegistrationRestored,
    NotPublished(PresenceError),
    Presence {
        id: SubscriptionId,
        update: Update,
    },
    /// It is tried again unless it is `over`.
    SubscriptionLost {
        id: SubscriptionId,
        error: PresenceError,
        over: bool,
    },
}

/// Why a request of ours is on its way.
#[derive(Debug, Clone, Copy)]
enum Purpose {
    /// On the flow with this `reg-id`.
    Register(u32),
    Invite(SessionId),
    Bye(SessionId),
    Options(SessionId),
    /// UPDATE or INVITE that keeps a session up, with this CSeq.
    Refresh(SessionId, u32),
    Publish,
    Subscribe(SubscriptionId),
    /// The answer changes nothing.
    Courtesy,
}

struct Call {
    dialog: Option<Dialog>,
    phase: Phase,
    armed: Option<Instant>,
    upkeep: Upkeep,
    /// Our reliable provisional response to the INVITE.
    ringing: Option<Box<Ringing>>,
}

impl Call {
    fn new(dialog: Option<Dialog>, phase: Phase) -> Self {
        Call { dialog, phase, armed: None, upkeep: Upkeep::default(), ringing: None }
    }
}

/// What keeps an established session up.
#[derive(Default)]
struct Upkeep {
    timer: Option<SessionTimer>,
    /// Our session description as last sent.
    local_sdp: Bytes,
    /// The o= line of theirs: the same line is the same description (RFC 3264 8).
    remote_origin: Option<Vec<u8>>,
    /// The other side takes UPDATE.
    updates: bool,
    /// We called.
    caller: bool,
    /// What a restart of ICE keeps to, where the flow runs over it.
    agreed: Option<Box<Agreed>>,
    /// A restart of ours, and one of theirs.
    restart: Option<Box<Restart>>,
    reoffer: Option<Box<Reoffer>>,
    /// Our refresh that waits for its response, without Via.
    refresh: Option<Box<Message>>,
    /// Our 200 to an INVITE within the dialog, which waits for ACK, and the CSeq number of both.
    answered: Option<(u32, Box<Accepted>)>,
}

enum Phase {
    /// Our INVITE has no final response yet.
    Inviting(Box<Inviting>),
    /// The user has not decided on an INVITE of the other side yet.
    Offered(Box<Offered>),
    /// We sent a 2xx and wait for ACK.
    Accepted(Box<Accepted>),
    Established,
    /// Our BYE is on its way.
    Ending(Box<Message>),
}

struct Inviting {
    /// As sent, without Via: for another attempt after a challenge.
    request: Message,
    client: ClientId,
    target: Uri,
    offer: Offer,
    provisional: bool,
    cancelled: bool,
    limit: Instant,
    /// Where the call was redirected to and has not been tried yet, and how often that happened (RFC 3261 8.1.3.4).
    alternatives: VecDeque<Uri>,
    redirects: usize,
    /// The server that has it, and how many have failed before.
    sent_to: Flow,
    hops_tried: usize,
}

struct Offered {
    server: ServerId,
    request: Message,
    received: ReceivedOffer,
    local_tag: String,
    /// The session that it takes the place of.
    replaces: Option<SessionId>,
    limit: Instant,
}

struct Accepted {
    flow: Flow,
    response: Bytes,
    clock: Clock,
    hang_up: bool,
}

/// The machine.
pub(crate) struct UserAgent {
    config: Config,
    layer: Layer,
    /// The flow that everything is sent on.
    main: Registered,
    /// Another one, by which requests reach us too, to take its place.
    spare: Option<Registered>,
    /// There is to be none: the servers do not keep two flows apart.
    without_spare: bool,
    register_call_id: String,
    register_cseq: u32,
    /// What is sent instead of a registration asks who is registered.
    querying: bool,
    /// STUN and TURN servers that came with it last.
    ice_servers: Vec<IceServer>,
    wallet: Wallet,
    calls: HashMap<SessionId, Call>,
    dialogs: HashMap<DialogKey, SessionId>,
    /// INVITEs that wait for the user.
    offered: HashMap<ServerId, SessionId>,
    purposes: HashMap<ClientId, Purpose>,
    /// ACKs sent for each 2xx of an INVITE, by To tag, as long as the 2xx may be repeated.
    acks: HashMap<ClientId, Vec<(String, Bytes)>>,
    timers: Timers<SessionId>,
    questions: HashMap<SessionId, asking::Question>,
    hops: Hops,
    publisher: Publisher,
    watches: Watches,
    /// The subscription to our own registration.
    reg: RegWatch,
    /// Connections that are to be closed.
    closing: VecDeque<Flow>,
    tag_key: RandomState,
    notices: VecDeque<Notice>,
}

impl UserAgent {
    /// `sent_by`: our address.
    pub fn new(config: Config, sent_by: std::net::SocketAddr) -> Self {
        UserAgent {
            layer: Layer::new(config.timing, vec![sent_by], MAX_TRANSACTIONS),
            main: Registered::new(1, config.next_hop, config.contact.clone(), config.expires),
            spare: None,
            without_spare: false,
            register_call_id: random::token(),
            register_cseq: 0,
            querying: false,
            ice_servers: Vec::new(),
            wallet: Wallet::new(config.credentials.clone()),
            calls: HashMap::new(),
            dialogs: HashMap::new(),
            offered: HashMap::new(),
            purposes: HashMap::new(),
            acks: HashMap::new(),
            timers: Timers::default(),
            questions: HashMap::new(),
            hops: Hops::default(),
            publisher: Publisher::new(config.expires),
            watches: Watches::default(),
            reg: RegWatch::default(),
            closing: VecDeque::new(),
            tag_key: RandomState::new(),
            notices: VecDeque::new(),
            config,
        }
    }

    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        self.layer.poll_transmit()
    }

    pub fn poll_close(&mut self) -> Option<Flow> {
        self.closing.pop_front()
    }

    pub fn poll_notice(&mut self) -> Option<Notice> {
        self.notices.pop_front()
    }

    pub fn poll_timeout(&self) -> Option<Instant> {
        let spare = self.spare.as_ref().and_then(Registered::next);
        let own = [self.main.next(), spare, self.hops.limit];
        let presence = [self.publisher.machine.next(), self.watches.next()];
        let calls = [self.layer.poll_timeout(), self.timers.next()];
        calls.into_iter().chain(own).chain(presence).flatten().min()
    }

    /// No call is up, no request of ours waits for an answer, and no subscription for its last notification.
    pub fn is_idle(&self) -> bool {
        self.calls.is_empty()
            && self.watches.is_empty()
            && self.purposes.keys().all(|client| self.acks.contains_key(client))
    }

    /// Everything that is remembered of calls, subscriptions and transactions: transactions, calls, dialogs and requests under way.
    #[cfg(test)]
    pub fn leftovers(&self) -> [usize; 8] {
        [
            self.layer.len(),
            self.layer.windows(),
            self.calls.len(),
            self.dialogs.len(),
            self.offered.len(),
            self.purposes.len(),
            self.acks.len(),
            self.timers.len() + self.watches.len(),
        ]
    }

    pub fn handle_message(&mut self, now: Instant, flow: Flow, message: Message) {
        if !self.is_from_hop(flow) {
            return;
        }
        self.layer.handle_message(now, flow, message);
        self.work(now);
    }

    pub fn handle_sign(&mut self, now: Instant, flow: Flow, sign: Sign<'_>) {
        if flow == self.main.flow {
            self.main.on_sign(now, sign);
        } else if let Some(spare) = self.spare.as_mut().filter(|spare| spare.flow == flow) {
            spare.on_sign(now, sign);
        }
    }

    pub fn handle_unreachable(&mut self, now: Instant, flow: Flow, why: &str) {
        self.note_reason(flow, why);
        self.layer.handle_unreachable(now, flow, why);
        if flow == self.main.flow {
            self.publisher.machine.on_doubt();
            self.doubt_watches(now);
        }
        self.on_flow_lost(now, flow);
        self.work(now);
    }

    pub fn handle_timeout(&mut self, now: Instant) {
        self.layer.handle_timeout(now);
        while let Some((_, id)) = self.timers.pop_due(now) {
            self.on_call_timer(now, id);
        }
        if self.main.registration.on_timer(now) {
            self.begin_round();
            self.send_register(now);
        }
        if self.hops.limit.is_some_and(|at| at <= now) {
            self.hops.limit = None;
            self.on_register_too_slow(now);
        }
        self.publisher.machine.on_timer(now);
        self.work_on_publication(now);
        self.on_watch_timers(now);
        self.keep_alive(now);
        self.on_spare_timer(now);
        self.work(now);
    }

    /// Handles what the transactions have to say.
    fn work(&mut self, now: Instant) {
        while let Some(event) = self.layer.poll_event() {
            match event {
                Event::Request { id, message, .. } => self.on_request(now, id, message),
                Event::Ack { message, .. } => self.on_ack(now, &message),
                Event::Response { id, message } => self.on_response(now, id, &message),
                Event::Timeout { id } => self.on_no_response(now, id, None),
                Event::Unreachable { id, why } => self.on_no_response(now, id, Some(&why)),
                Event::Gone { id } => {
                    self.purposes.remove(&id);
                    self.acks.remove(&id);
                }
            }
        }
        self.main.note(now);
        if let Some(spare) = &mut self.spare {
            spare.note(now);
        }
    }

    fn on_response(&mut self, now: Instant, client: ClientId, response: &Message) {
        let Some(purpose) = self.purposes.get(&client).copied() else { return };
        let Some(status) = response.status() else { return };
        let of_invite = response.cseq().is_ok_and(|cseq| cseq.method == Method::Invite);
        let keep = status < 200 || (status < 300 && of_invite);
        if !keep {
            self.purposes.remove(&client);
        }
        match purpose {
            Purpose::Register(id) if status >= 200 && id == self.main.id => {
                self.on_register_response(now, status, response)
            }
            Purpose::Register(id) if status >= 200 => self.on_spare_response(now, id, status, response),
            Purpose::Invite(id) => self.on_invite_response(now, client, id, status, response),
            Purpose::Options(id) if status >= 200 => self.on_options_response(now, id, status, response),
            Purpose::Refresh(id, cseq) => self.on_refresh_response(now, client, (id, cseq), status, response),
            Purpose::Bye(id) if status >= 200 => self.on_bye_response(now, id, status, response),
            Purpose::Publish if status >= 200 => self.on_publish_response(now, status, response),
            Purpose::Subscribe(id) if status >= 200 => self.on_subscribe_response(now, id, status, response),
            _ => {}
        }
    }

    /// Neither timer nor transport lets us hope for a response: `why` is set when it was the transport.
    fn on_no_response(&mut self, now: Instant, client: ClientId, why: Option<&str>) {
        match self.purposes.remove(&client) {
            Some(Purpose::Register(id)) if id == self.main.id => self.on_register_silence(now, why),
            Some(Purpose::Register(id)) => self.on_spare_silence(now, id, why),
            Some(Purpose::Invite(id)) => self.on_invite_silence(now, id, why),
            Some(Purpose::Bye(id)) => self.remove_call(id),
            Some(Purpose::Options(id)) => self.on_options_silence(id, why),
            Some(Purpose::Refresh(id, cseq)) => self.on_refresh_silence(now, id, cseq, why),
            Some(Purpose::Publish) => self.on_publish_silence(now, why),
            Some(Purpose::Subscribe(id)) => self.on_subscribe_silence(now, id, why),
            Some(Purpose::Courtesy) | None => {}
        }
    }

    fn on_call_timer(&mut self, now: Instant, id: SessionId) {
        let Some(call) = self.calls.get_mut(&id) else { return };
        call.armed = None;
        match &mut call.phase {
            Phase::Inviting(_) => self.on_ring_limit(now, id),
            Phase::Offered(_) => self.on_offered_timer(now, id),
            Phase::Accepted(accepted) => {
                match accepted.clock.due(now) {
                    Due::Nothing => {}
                    Due::Resend => {
                        let (flow, response) = (accepted.flow, accepted.response.clone());
                        self.layer.transmit(flow, response);
                    }
                    Due::Expired => return self.on_never_acknowledged(now, id),
                }
                self.arm(id);
            }
            Phase::Established => self.on_upkeep_timer(now, id),
            Phase::Ending(_) => {}
        }
    }

    /// Sets the deadline of a call as its phase wants it.
    fn arm(&mut self, id: SessionId) {
        let Some(call) = self.calls.get_mut(&id) else { return };
        let next = match &call.phase {
            Phase::Inviting(inviting) => Some(inviting.limit),
            Phase::Offered(offered) => {
                call.ringing.iter().filter_map(|ringing| ringing.next()).chain([offered.limit]).min()
            }
            Phase::Accepted(accepted) => accepted.clock.next(),
            Phase::Established => call.upkeep.next(),
            Phase::Ending(_) => None,
        };
        let old = std::mem::replace(&mut call.armed, next);
        self.timers.update(id, old, next);
    }

    fn remove_call(&mut self, id: SessionId) {
        let Some(call) = self.calls.remove(&id) else { return };
        self.timers.update(id, call.armed, None);
        if call.upkeep.restart.is_some() {
            self.not_restarted(id, RestartError::NoSession);
        }
        if let Some(dialog) = &call.dialog {
            self.dialogs.remove(&dialog.key());
        }
        if let Phase::Offered(offered) = &call.phase {
            self.offered.remove(&offered.server);
        }
    }

    /// Keeps both flows open (RFC 5626 4.4).
    fn keep_alive(&mut self, now: Instant) {
        let mut lost = Vec::new();
        for Registered { flow, keep_alive, .. } in [Some(&mut self.main), self.spare.as_mut()].into_iter().flatten() {
            match keep_alive.on_timer(now) {
                Act::Nothing => {}
                Act::Send(wire) => self.layer.transmit(*flow, wire),
                // The end of the connection is told like any other.
                Act::Failed if flow.transport.is_reliable() => self.closing.push_back(*flow),
                Act::Failed => lost.push(*flow),
            }
        }
        for flow in lost {
            self.on_flow_lost(now, flow);
        }
    }

    fn send(&mut self, now: Instant, request: Message, purpose: Purpose) -> ClientId {
        let client = self.layer.request(now, self.main.flow, request, None);
        self.purposes.insert(client, purpose);
        client
    }

    fn respond(&mut self, now: Instant, server: ServerId, response: ResponseBuilder) -> Option<Bytes> {
        self.layer.respond(now, server, &response.header(name::SERVER, USER_AGENT).build())
    }

    /// Our Contact within a dialog: the GRUU (RFC 5627 4.4.1), else our address, on the flow that we registered on (RFC 5626 4.3).
    fn contact(&self) -> String {
        if let Some(gruu) = &self.main.service.gruu {
            return address(None, gruu, &[]);
        }
        self.own_contact()
    }

    /// Our address as Contact, on the flow that we registered on.
    fn own_contact(&self) -> String {
        let contact = &self.main.contact;
        let marked = self.main.service.outbound.then(|| contact.with_param("ob", None).ok()).flatten();
        address(None, marked.as_ref().unwrap_or(contact), &[("+sip.instance", Some(&self.instance()))])
    }

    /// Our `+sip.instance`.
    fn instance(&self) -> String {
        format!("\"<{}>\"", self.config.instance)
    }
}

/// The program that sent a message, as it says (RFC 3261 20.35, 20.41): printable, and of a bounded length.
fn software(message: &Message) -> Option<String> {
    const LONGEST: usize = 100;
    let header = [name::SERVER, name::USER_AGENT].into_iter().find_map(|header| message.header(header))?;
    Some(header.text().chars().filter(|c| !c.is_control()).take(LONGEST).collect())
}

/// Software name for User-Agent and Server.
pub(crate) const USER_AGENT: &str = concat!("sipbox/", env!("CARGO_PKG_VERSION"));

/// A final answer that needs no more than status and words.
fn refusal(request: &Message, status: u16, reason: &str) -> ResponseBuilder {
    Message::response_to(request, status, reason).to_tag(&random::tag())
}

/// Our Contact as a URI: user of the address of record, our address, our transport.
pub(crate) fn contact_uri(aor: &Uri, addr: std::net::SocketAddr, transport: Transport) -> Option<Uri> {
    let uri = Uri::sip(aor.user_decoded().as_deref(), &addr.ip().to_string(), Some(addr.port())).ok()?;
    match transport.as_param() {
        None => Some(uri),
        Some(name) => uri.with_param("transport", Some(name)).ok(),
    }
}
