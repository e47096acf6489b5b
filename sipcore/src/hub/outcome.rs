//! Responses to a request that was passed on (RFC 3261 16.7 to 16.10).

use super::choice::best;
use super::forward::RING_LIMIT;
use super::home::HomeProxy;
use super::routes::Target;
use crate::message::{Message, ResponseBuilder, name};
use crate::transaction::{ClientId, ServerId};
use crate::transport::Flow;
use std::time::Instant;
use tracing::info;

/// One copy of the request.
pub(super) struct Branch {
    client: ClientId,
    /// Its final response is known.
    done: bool,
    provisional: bool,
    /// CANCEL is to be sent as soon as that is allowed.
    cancel: bool,
    cancelled: bool,
    /// Its server was silent for too long, and another one has the request: what it still says is of no interest, but for a 2xx.
    passed_over: bool,
    /// Where else the same agent is, or the domain that the request is led to.
    others: Vec<Target>,
    /// The request as it is led to another domain, and the server that has it.
    led: Option<Box<(Flow, Message)>>,
}

impl Branch {
    pub fn new(client: ClientId, others: Vec<Target>) -> Self {
        Branch {
            client,
            done: false,
            provisional: false,
            cancel: false,
            cancelled: false,
            passed_over: false,
            others,
            led: None,
        }
    }

    /// To a server of another domain; the `others` serve it, too.
    pub fn led(client: ClientId, server: Flow, others: Vec<Target>, request: Message) -> Self {
        Branch { led: Some(Box::new((server, request))), ..Branch::new(client, others) }
    }
}

/// Response context (RFC 3261 16): what belongs together between a request and its responses.
pub(super) struct Context {
    server: ServerId,
    /// Where the request came from.
    pub came: Flow,
    /// The request as it came, until its final response has been sent.
    request: Option<Message>,
    invite: bool,
    pub branches: Vec<Branch>,
    refusals: Vec<Message>,
    cancelled: bool,
    pub armed: Option<Instant>,
}

impl Context {
    pub fn new(server: ServerId, came: Flow, request: Message, invite: bool) -> Self {
        Context {
            server,
            came,
            request: Some(request),
            invite,
            branches: Vec::new(),
            refusals: Vec::new(),
            cancelled: false,
            armed: None,
        }
    }

    /// No final response has gone back yet.
    pub fn is_open(&self) -> bool {
        self.request.is_some()
    }

    /// Its sender does not want it any more.
    pub fn is_cancelled(&self) -> bool {
        self.cancelled
    }

    /// The request as it came, where else a branch can go, and what is sent there if that is not made anew: nowhere any more if it was answered, is
    /// cancelled, or is not wanted.
    pub fn take_others(&mut self, client: ClientId) -> Option<(Message, Vec<Target>, Option<Message>)> {
        let request = self.request.clone().filter(|_| !self.cancelled)?;
        let branch =
            self.branch(client).filter(|branch| !branch.done && !branch.cancel && !branch.others.is_empty())?;
        Some((request, std::mem::take(&mut branch.others), branch.led.take().map(|led| led.1)))
    }

    /// The server of another domain that has it and has said nothing yet, if that is so.
    pub fn led_in_vain_to(&mut self, client: ClientId) -> Option<Flow> {
        let branch = self.branch(client).filter(|branch| !branch.provisional && !branch.done)?;
        branch.led.as_ref().map(|led| led.0)
    }

    /// It can be cancelled.
    pub fn is_invite(&self) -> bool {
        self.invite
    }

    /// Another server has it. Should this one still come to it, it is cancelled there (RFC 3261 9.1).
    pub fn pass_over(&mut self, client: ClientId) {
        if let Some(branch) = self.branch(client) {
            branch.passed_over = true;
            branch.cancel = true;
        }
    }

    /// The server of another domain that has it.
    pub fn led_to(&mut self, client: ClientId) -> Option<Flow> {
        self.branch(client)?.led.as_ref().map(|led| led.0)
    }

    /// One branch is another one now.
    pub fn replace(&mut self, client: ClientId, new: Branch) {
        if let Some(branch) = self.branch(client) {
            *branch = new;
        }
    }

    fn branch(&mut self, client: ClientId) -> Option<&mut Branch> {
        self.branches.iter_mut().find(|branch| branch.client == client)
    }
}

impl HomeProxy {
    pub(super) fn on_response(&mut self, now: Instant, client: ClientId, mut response: Message) {
        let (Some(id), Some(status)) = (self.clients.get(&client).copied(), response.status()) else { return };
        response.pop_first(name::VIA);
        // A proxy before the agent says that the flow is lost, which is nothing for the caller (RFC 5626 11.5).
        if status == 430 {
            return self.on_no_response(now, client, Some("its flow is lost"));
        }
        // One server of a domain cannot now, another one can (RFC 3263 4.3).
        if status == 503 && self.on_server_failed(now, id, client) && self.fork_again(now, id, client) {
            return;
        }
        let Some(context) = self.contexts.get_mut(&id) else { return };
        let server = context.server;
        let open = context.request.is_some();
        let invite = context.invite;
        let Some(branch) = context.branch(client) else { return };
        let passed_over = branch.passed_over;
        match status {
            100..=199 => {
                let first = !std::mem::replace(&mut branch.provisional, true);
                let cancel = first && branch.cancel;
                if cancel {
                    self.cancel_branches(now, id);
                }
                if status > 100 && open && !passed_over {
                    self.layer.respond(now, server, &response);
                    self.set_ring_limit(id, now);
                }
            }
            200..=299 => {
                branch.done = true;
                if let Some(request) = context.request.take() {
                    self.sessions.on_accepted(now, &request, &response);
                }
                self.layer.respond(now, server, &response);
                self.set_ring_limit_off(id);
                if invite {
                    // The client transaction still passes on repeated 2xx; it tells when it is gone.
                    self.cancel_all(now, id);
                } else {
                    self.end_branch(client);
                }
            }
            _ => {
                branch.done = true;
                if !passed_over {
                    context.refusals.push(response);
                }
                self.end_branch(client);
                if status >= 600 && !passed_over {
                    self.cancel_all(now, id);
                }
                self.conclude(now, id);
            }
        }
    }

    /// A branch without any final response: it timed out, or its place cannot be reached, for this reason (RFC 3261 16.8, 16.9).
    pub(super) fn on_no_response(&mut self, now: Instant, client: ClientId, why: Option<&str>) {
        let Some(id) = self.clients.get(&client).copied() else { return };
        let led = self.on_server_failed(now, id, client);
        if (why.is_some() || led) && self.fork_again(now, id, client) {
            return;
        }
        let Some(context) = self.contexts.get_mut(&id) else { return };
        let passed_over = context.branch(client).is_some_and(|branch| branch.passed_over);
        if let Some(request) = context.request.as_ref().filter(|_| !passed_over) {
            let answer = match (context.cancelled, why) {
                (true, _) => Message::response_to(request, 487, "Request Terminated"),
                (false, Some(why)) if led => {
                    info!(why, "another domain is not reachable");
                    Message::response_to(request, 502, "That Domain Is Not Reachable")
                        .header(name::WARNING, format_args!("399 sipbox \"{}\"", quotable(why)))
                }
                (false, Some(_)) => Message::response_to(request, 480, "Contact Not Reachable"),
                (false, None) => Message::response_to(request, 408, "Request Timeout"),
            };
            let answer = with_tag(answer).build();
            context.refusals.push(answer);
        }
        if let Some(branch) = context.branch(client) {
            branch.done = true;
        }
        self.end_branch(client);
        self.conclude(now, id);
    }

    /// A request that could be passed on to nobody is answered.
    pub(super) fn refuse(&mut self, now: Instant, id: u64, status: u16, reason: &str) {
        let Some(context) = self.contexts.get_mut(&id) else { return };
        if let Some(request) = &context.request {
            context.refusals.push(with_tag(Message::response_to(request, status, reason)).build());
        }
        self.conclude(now, id);
    }

    /// An accepted branch can receive no further 2xx.
    pub(super) fn on_gone(&mut self, client: ClientId) {
        self.end_branch(client);
    }

    /// CANCEL (RFC 3261 16.10).
    pub(super) fn on_cancel(&mut self, now: Instant, server: ServerId, cancel: &Message) {
        let id = self.layer.cancelled_by(cancel).and_then(|invite| self.invites.get(&invite).copied());
        let Some(id) = id else {
            let answer = Message::response_to(cancel, 481, "Call/Transaction Does Not Exist");
            return self.respond(now, server, answer);
        };
        self.respond(now, server, Message::response_to(cancel, 200, "OK"));
        if let Some(context) = self.contexts.get_mut(&id) {
            context.cancelled = true;
        }
        self.cancel_all(now, id);
        if let Some(context) = self.contexts.get(&id).filter(|context| context.request.is_some()) {
            let limit = now + self.layer.timing().limit();
            let armed = context.armed.map_or(limit, |armed| armed.min(limit));
            self.arm(id, Some(armed));
        }
    }

    /// Timer C, or nothing came after CANCEL: branches that are cancelled already are given up, the others cancelled.
    pub(super) fn on_ring_limit(&mut self, now: Instant, id: u64) {
        let Some(context) = self.contexts.get_mut(&id) else { return };
        context.armed = None;
        let open = || context.branches.iter().filter(|branch| !branch.done);
        let hopeless: Vec<ClientId> =
            open().filter(|branch| branch.cancelled || !branch.provisional).map(|branch| branch.client).collect();
        for client in hopeless {
            self.layer.abandon(client);
            self.on_no_response(now, client, None);
        }
        if self.contexts.contains_key(&id) {
            self.cancel_all(now, id);
            let limit = now + self.layer.timing().limit();
            self.arm(id, Some(limit));
        }
    }

    fn cancel_all(&mut self, now: Instant, id: u64) {
        let Some(context) = self.contexts.get_mut(&id).filter(|context| context.invite) else { return };
        for branch in context.branches.iter_mut().filter(|branch| !branch.done) {
            branch.cancel = true;
        }
        self.cancel_branches(now, id);
    }

    /// Sends the CANCELs that are wanted and allowed.
    fn cancel_branches(&mut self, now: Instant, id: u64) {
        let Some(context) = self.contexts.get_mut(&id) else { return };
        for branch in &mut context.branches {
            if branch.cancel && branch.provisional && !branch.done && !branch.cancelled {
                branch.cancelled = true;
                self.layer.cancel(now, branch.client);
            }
        }
    }

    /// When every branch has its final response and none accepted, the best one goes back.
    fn conclude(&mut self, now: Instant, id: u64) {
        let Some(context) = self.contexts.get_mut(&id) else { return };
        if context.request.is_some() && context.branches.iter().all(|branch| branch.done || branch.passed_over) {
            context.request = None;
            let refusals = std::mem::take(&mut context.refusals);
            let server = context.server;
            if let Some(mut answer) = best(refusals) {
                // It is not this server that cannot, and its users are not to look for another (RFC 3261 16.7 step 6).
                if answer.status() == Some(503) {
                    answer.set_status(500, "Server Internal Error");
                }
                self.layer.respond(now, server, &answer);
            }
        }
        self.forget_if_over(id);
    }

    fn end_branch(&mut self, client: ClientId) {
        let Some(id) = self.clients.remove(&client) else { return };
        self.forget_if_over(id);
    }

    /// A context is over when it has answered and no branch can bring anything more.
    fn forget_if_over(&mut self, id: u64) {
        let Some(context) = self.contexts.get(&id) else { return };
        let alive = context.branches.iter().any(|branch| self.clients.contains_key(&branch.client));
        if context.request.is_none() && !alive {
            self.timers.update(id, context.armed, None);
            self.invites.remove(&context.server);
            self.contexts.remove(&id);
        }
    }

    fn set_ring_limit(&mut self, id: u64, now: Instant) {
        if self.contexts.get(&id).is_some_and(|context| context.invite && !context.cancelled) {
            self.arm(id, Some(now + RING_LIMIT));
        }
    }

    fn set_ring_limit_off(&mut self, id: u64) {
        self.arm(id, None);
    }

    fn arm(&mut self, id: u64, at: Option<Instant>) {
        if let Some(context) = self.contexts.get_mut(&id) {
            let old = std::mem::replace(&mut context.armed, at);
            self.timers.update(id, old, at);
        }
    }
}

/// What of a text can stand between quotes (RFC 3261 25.1).
fn quotable(text: &str) -> String {
    text.chars().filter(|c| !c.is_control() && !matches!(c, '"' | '\\')).collect()
}

fn with_tag(answer: ResponseBuilder) -> ResponseBuilder {
    answer.to_tag(&crate::random::tag())
}
