//! Requests passed on (RFC 3261 16.3 to 16.6, 16.10).

use super::foreign::{Waiting, is_own};
use super::home::HomeProxy;
use super::outcome::{Branch, Context};
use super::routes::{Destination, Routed, Target};
use crate::message::{Message, Method, name};
use crate::transaction::{ClientId, ServerId, mark_of};
use crate::transport::Flow;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// Timer C (RFC 3261 16.6 step 11): longer than three minutes.
pub(super) const RING_LIMIT: Duration = Duration::from_secs(200);

impl HomeProxy {
    pub(super) fn proxy(&mut self, now: Instant, server: ServerId, flow: Flow, mut request: Message) {
        let mark = self.mark(&request);
        if self.has_passed(&request, mark) {
            return self.respond(now, server, Message::response_to(&request, 482, "Loop Detected"));
        }
        let Routed { destination, sealed } = self.route(now, flow, &mut request);
        // Whether the hub lives is for everybody to ask, as monitoring does.
        let is_ping = matches!(destination, Destination::Here) && request.method() == Some(&Method::Options);
        if !sealed
            && !is_ping
            && let Err(answer) = self.check_sender(now, flow, &request)
        {
            return self.respond(now, server, *answer);
        }
        if matches!(destination, Destination::Elsewhere(_)) && !sealed && !is_own(self, &request) {
            return self.respond(now, server, Message::response_to(&request, 403, "Not A User Of This Hub"));
        }
        if !matches!(destination, Destination::Here) {
            // What RFC 3261 16.3 asks in steps 3 and 5, before anybody is looked for; who it is, and a loop, come first here.
            if request.max_forwards() == Ok(Some(0)) {
                return self.respond(now, server, Message::response_to(&request, 483, "Too Many Hops"));
            }
            let unknown: Vec<&str> = request.tokens(name::PROXY_REQUIRE).collect();
            if !unknown.is_empty() {
                let answer = Message::response_to(&request, 420, "Bad Extension");
                return self.respond(now, server, answer.header(name::UNSUPPORTED, unknown.join(", ")));
            }
        }
        let targets = match destination {
            Destination::Elsewhere(to) => Ok(to),
            Destination::Here => return self.answer_as_server(now, server, &request),
            Destination::Nowhere(status, reason) => {
                return self.respond(now, server, Message::response_to(&request, status, reason));
            }
            Destination::Targets(targets) => Err(targets),
        };
        self.sessions.on_passed(&request);
        let before = request.clone();
        match request.decrement_max_forwards() {
            Ok(true) => match targets {
                Ok(to) => self.lead_away(now, server, before, Waiting { request, came: flow, mark }, to),
                Err(targets) => self.fork(now, server, flow, before, request, targets, mark),
            },
            Ok(false) => self.respond(now, server, Message::response_to(&request, 483, "Too Many Hops")),
            Err(_) => self.respond(now, server, Message::response_to(&request, 400, "Bad Max-Forwards")),
        }
    }

    /// Opens a response context and sends one copy to each target.
    #[allow(clippy::too_many_arguments)]
    fn fork(
        &mut self,
        now: Instant,
        server: ServerId,
        flow: Flow,
        before: Message,
        request: Message,
        targets: Vec<Target>,
        mark: u32,
    ) {
        let id = self.open_context(now, server, flow, before);
        for target in targets {
            let copy = self.copy_for(&request, flow, &target);
            let client = self.layer.request_on(now, target.flow, copy, Some(mark));
            self.clients.insert(client, id);
            if let Some(context) = self.contexts.get_mut(&id) {
                context.branches.push(Branch::new(client, target.others));
            }
        }
    }

    /// Opens a response context for a request, `before` anything was done to it. It has no branch yet.
    pub(super) fn open_context(&mut self, now: Instant, server: ServerId, came: Flow, before: Message) -> u64 {
        let invite = before.method() == Some(&Method::Invite);
        if invite {
            self.layer.respond(now, server, &Message::response_to(&before, 100, "Trying").build());
        }
        self.last_context += 1;
        let id = self.last_context;
        let mut context = Context::new(server, came, before, invite);
        if invite {
            self.invites.insert(server, id);
            context.armed = Some(now + RING_LIMIT);
            self.timers.update(id, None, context.armed);
        }
        self.contexts.insert(id, context);
        id
    }

    /// A branch leads to nobody: the request goes by another flow of the same agent (RFC 5626 5.3), or to another server of the domain that it is led to
    /// (RFC 3263 4.3). `false`: there is none.
    pub(super) fn fork_again(&mut self, now: Instant, id: u64, lost: ClientId) -> bool {
        let Some(context) = self.contexts.get_mut(&id) else { return false };
        let came = context.came;
        let Some((mut request, others, led)) = context.take_others(lost) else { return false };
        let mark = self.mark(&request);
        if let Some(led) = led {
            self.clients.remove(&lost);
            return self.lead_on(now, id, Some(lost), led, (came, mark), others);
        }
        let mut others = others.into_iter();
        let Some(target) = others.next() else { return false };
        if request.decrement_max_forwards() != Ok(true) {
            return false;
        }
        let copy = self.copy_for(&request, came, &target);
        let client = self.layer.request_on(now, target.flow, copy, Some(mark));
        self.clients.remove(&lost);
        self.clients.insert(client, id);
        if let Some(context) = self.contexts.get_mut(&id) {
            context.replace(lost, Branch::new(client, others.collect()));
        }
        true
    }

    pub(super) fn copy_for(&self, request: &Message, came: Flow, target: &Target) -> Message {
        let mut copy = request.clone();
        if let Some(uri) = &target.uri {
            copy.set_request_uri(uri);
        }
        for proxy in target.path.iter().rev() {
            copy.push_front(name::ROUTE, proxy);
        }
        if self.guard.is_some() {
            // The answer to our own challenge is nobody else's business.
            copy.remove(name::PROXY_AUTHORIZATION);
        }
        if request.method().is_some_and(Method::creates_dialog) {
            self.record_route(&mut copy, came, target.flow);
        }
        copy
    }

    /// ACK for a 2xx, passed on without state (RFC 3261 16.11).
    pub(super) fn on_ack(&mut self, now: Instant, flow: Flow, mut ack: Message) {
        let mark = self.mark(&ack);
        if self.has_passed(&ack, mark) {
            return;
        }
        let Routed { destination, sealed } = self.route(now, flow, &mut ack);
        let targets = match destination {
            Destination::Targets(targets) => targets,
            // ACK has no answer, so nobody can be asked who he is: only within a dialog.
            Destination::Elsewhere(to) if sealed && ack.decrement_max_forwards() == Ok(true) => {
                return self.lead_ack_away(Waiting { request: ack, came: flow, mark }, to);
            }
            _ => return,
        };
        let Some(target) = targets.first() else { return };
        if ack.decrement_max_forwards() == Ok(true) {
            let copy = self.copy_for(&ack, flow, target);
            self.layer.send_ack(target.flow, copy, Some(mark));
        }
    }

    /// The request is back where it was: one of its Vias is ours and speaks of the same Request-URI and Route (RFC 3261 16.3 step 4).
    fn has_passed(&self, request: &Message, mark: u32) -> bool {
        request.vias().flatten().any(|via| {
            let port = via.port.unwrap_or(5060);
            let ours = via.host_ip().is_some_and(|ip| self.own.iter().any(|own| own.addr == SocketAddr::new(ip, port)));
            ours && via.branch().and_then(mark_of) == Some(mark)
        })
    }

    /// With users set, every new request has to come from one of them, who are known by the hub's own domains alone: a password says nothing about who somebody is
    /// elsewhere.
    fn check_sender(
        &mut self,
        now: Instant,
        flow: Flow,
        request: &Message,
    ) -> Result<(), Box<crate::message::ResponseBuilder>> {
        if self.is_guest(flow, request) {
            return Ok(());
        }
        let Some(guard) = &mut self.guard else { return Ok(()) };
        let from = request.from().ok().and_then(|from| from.uri().ok());
        let user = from.as_ref().filter(|uri| !uri.host().is_empty()).and_then(|uri| uri.user_decoded());
        guard.check(now, flow, request, &user.unwrap_or_default(), false)?;
        match from.is_some_and(|from| self.is_ours(&from.aor())) {
            true => Ok(()),
            false => Err(Box::new(Message::response_to(request, 403, "Not A User Of This Hub"))),
        }
    }
}
