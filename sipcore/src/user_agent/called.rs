//! INVITEs of others: the called side of a call (RFC 3261 13.3, 8.2, 9.2).

use super::refreshing::{tell_granted, too_small};
use super::{Accepted, Call, DECISION_LIMIT, Notice, Offered, Phase, Upkeep, UserAgent, refusal, software};
use crate::agent::{EndReason, SessionId};
use crate::dialog::{Dialog, DialogKey};
use crate::message::{Message, Uri, name};
use crate::random;
use crate::sdp::{self, End, Fingerprint, Origin, ReceivedOffer, SdpError};
use crate::session_timer::{Granted, grant};
use crate::transaction::{Clock, ServerId};
use bytes::Bytes;
use std::hash::BuildHasher;
use std::time::Instant;

/// What an INVITE says that can be offered to the user.
struct Read {
    local_tag: String,
    received: ReceivedOffer,
    from: Uri,
    replaces: Option<SessionId>,
}

impl UserAgent {
    /// An INVITE that would make a dialog.
    pub(super) fn on_invite(&mut self, now: Instant, server: ServerId, request: Message) {
        let answer = match self.read_invite(&request) {
            Ok(offered) => return self.offer_call(now, server, request, offered),
            Err(answer) => *answer,
        };
        self.layer.respond(now, server, &answer);
    }

    fn read_invite(&self, request: &Message) -> Result<Read, Box<Message>> {
        let refuse = |status, reason: &str| Box::new(refusal(request, status, reason).build());
        let user = request.request_uri().ok().and_then(|uri| uri.user_decoded());
        if user != self.config.aor.user_decoded() {
            return Err(refuse(404, "Not Found"));
        }
        let (Ok(call_id), Ok(cseq), Ok(from)) = (request.call_id(), request.cseq(), request.from()) else {
            return Err(refuse(400, "Bad Request"));
        };
        // The tag follows from the request, so a copy that took another way leads to the same dialog.
        let local_tag = format!("{:016x}", self.tag_key.hash_one((call_id, from.tag(), cseq.number)));
        if self.dialogs.contains_key(&DialogKey::new(call_id, &local_tag)) {
            return Err(refuse(482, "Merged Request"));
        }
        if grant(request) == Granted::TooSmall {
            return Err(Box::new(too_small(request).build()));
        }
        if Dialog::of_called(request, &local_tag).is_none() {
            return Err(refuse(400, "Contact Missing"));
        }
        let from = from.uri().map_err(|_| refuse(400, "Bad From"))?.aor();
        let replaces = self.replaced_by(request, &from).map_err(|(status, why)| refuse(status, why))?;
        let is_sdp = matches!(request.content_type(), Ok(Some(kind)) if kind.is("application", "sdp"));
        if !is_sdp && !request.body().is_empty() {
            let answer = refusal(request, 415, "Unsupported Media Type").header(name::ACCEPT, sdp::CONTENT_TYPE);
            return Err(Box::new(answer.build()));
        }
        match ReceivedOffer::parse(request.body()) {
            Ok(received) => Ok(Read { local_tag, received, from, replaces }),
            Err(SdpError::Syntax(_) | SdpError::TooLarge(_)) if is_sdp => Err(refuse(400, "Bad Session Description")),
            Err(error) => Err(Box::new(self.not_acceptable(request, &error.to_string()))),
        }
    }

    /// 488 with a Warning that says why (RFC 3261 21.4.26, 20.43).
    pub(super) fn not_acceptable(&self, request: &Message, why: &str) -> Message {
        let why = why.replace(['"', '\\'], "'");
        let warning = format!("305 {} \"{why}\"", self.layer.sent_by(0));
        refusal(request, 488, "Not Acceptable Here").header(name::WARNING, warning).build()
    }

    fn offer_call(
        &mut self,
        now: Instant,
        server: ServerId,
        request: Message,
        Read { local_tag, received, from, replaces }: Read,
    ) {
        self.layer.respond(now, server, &Message::response_to(&request, 100, "Trying").build());
        let lines = received.lines.clone();
        let id = SessionId::next();
        let software = software(&request);
        if let Some(dialog) = Dialog::of_called(&request, &local_tag) {
            self.dialogs.insert(dialog.key(), id);
            let offered = Offered { server, request, received, local_tag, replaces, limit: now + DECISION_LIMIT };
            let phase = Phase::Offered(Box::new(offered));
            self.calls.insert(id, Call::new(Some(dialog), phase));
            self.offered.insert(server, id);
            self.ring(now, id);
            self.arm(id);
            self.notices.push_back(Notice::Incoming { id, from, lines, software });
        }
    }

    /// The user takes the call; `local` is its end of the flow at `line`.
    pub fn accept(&mut self, now: Instant, id: SessionId, line: usize, local: &End) {
        let Some(offered) = self.take_offered(id) else {
            // Cancelled meanwhile, and answered so.
            return self.notices.push_back(Notice::Ended { id, reason: EndReason::Cancelled });
        };
        let Offered { server, request, received, local_tag, replaces, .. } = *offered;
        let origin = Origin { id: random::number() >> 2, version: 1 };
        let answer = match received.answer(line, local, origin) {
            Ok(answer) => answer,
            Err(error) => {
                let refusal = self.not_acceptable(&request, &error.to_string());
                self.layer.respond(now, server, &refusal);
                self.remove_call(id);
                return;
            }
        };
        let response = Message::response_to(&request, 200, "OK")
            .to_tag(&local_tag)
            .header(name::CONTACT, self.contact())
            .header(name::ALLOW, super::ALLOW)
            .header(name::SUPPORTED, super::SUPPORTED_CALLED);
        let answer = Bytes::from(answer);
        let mut upkeep = Upkeep::of(now, answer.clone(), request.body(), &request, false);
        let response = match grant(&request) {
            Granted::Agreed { expires, required } => {
                upkeep.on_granted(now, expires);
                tell_granted(response, expires, required)
            }
            Granted::TooSmall => response,
        };
        let response = response.body(sdp::CONTENT_TYPE, answer);
        let flow = self.layer.server_flow(server);
        let sent = self.respond(now, server, response);
        let (Some(flow), Some(response)) = (flow, sent) else { return self.remove_call(id) };
        let timing = *self.layer.timing();
        let clock = Clock::ending(now, timing.limit()).resending(now, timing.t1, Some(timing.t2));
        if let Some(call) = self.calls.get_mut(&id) {
            call.upkeep = upkeep;
            call.phase = Phase::Accepted(Box::new(Accepted { flow, response, clock, hang_up: false }));
        }
        self.arm(id);
        if let Some(old) = replaces {
            self.end_replaced(now, old);
        }
        self.work(now);
    }

    /// The user refuses the call.
    pub fn reject(&mut self, now: Instant, id: SessionId, status: u16, reason: &str) {
        let Some(offered) = self.take_offered(id) else { return };
        let status = if (300..700).contains(&status) { status } else { 500 };
        let response = Message::response_to(&offered.request, status, reason).to_tag(&offered.local_tag);
        self.respond(now, offered.server, response);
        self.remove_call(id);
        self.work(now);
    }

    /// There is a session with the caller already, in which this end shows the certificate with this fingerprint: 491, as of a request that
    /// crosses another one (RFC 3261 21.4.27), and which session it is.
    pub fn reject_for(&mut self, now: Instant, id: SessionId, fingerprint: Fingerprint) {
        let Some(offered) = self.take_offered(id) else { return };
        let response = Message::response_to(&offered.request, 491, "Session Stands")
            .to_tag(&offered.local_tag)
            .header(name::SIPBOX_SESSION, fingerprint);
        self.respond(now, offered.server, response);
        self.remove_call(id);
        self.work(now);
    }

    /// Takes the INVITE out of a call that waits for the user. The call stays until the caller sets its next phase or removes it.
    fn take_offered(&mut self, id: SessionId) -> Option<Box<Offered>> {
        let call = self.calls.get_mut(&id)?;
        if !matches!(call.phase, Phase::Offered(_)) {
            return None;
        }
        match std::mem::replace(&mut call.phase, Phase::Established) {
            Phase::Offered(offered) => {
                self.offered.remove(&offered.server);
                Some(offered)
            }
            _ => None,
        }
    }

    /// CANCEL (RFC 3261 9.2).
    pub(super) fn on_cancel(&mut self, now: Instant, server: ServerId, cancel: &Message) {
        let Some(invite) = self.layer.cancelled_by(cancel) else {
            self.respond(now, server, refusal(cancel, 481, "Call/Transaction Does Not Exist"));
            return;
        };
        self.respond(now, server, refusal(cancel, 200, "OK"));
        if self.cancel_reoffer(now, invite) {
            return;
        }
        if let Some(id) = self.offered.get(&invite).copied() {
            self.reject(now, id, 487, "Request Terminated");
        }
    }

    /// ACK for a 2xx of ours.
    pub(super) fn on_ack(&mut self, now: Instant, ack: &Message) {
        let Some(id) = DialogKey::of_request(ack).and_then(|key| self.dialogs.get(&key).copied()) else { return };
        let Some(call) = self.calls.get_mut(&id) else { return };
        if let Phase::Established = call.phase {
            let cseq = ack.cseq().map_or(0, |cseq| cseq.number);
            call.upkeep.answered.take_if(|(of, _)| *of == cseq);
            return self.arm(id);
        }
        let Phase::Accepted(accepted) = &call.phase else { return };
        if call.dialog.as_ref().and_then(|dialog| dialog.remote_tag()) != ack.from_tag() {
            return;
        }
        let hang_up = accepted.hang_up;
        call.phase = Phase::Established;
        self.arm(id);
        if hang_up {
            self.hang_up(now, id);
        }
    }

    /// 64*T1 without ACK: the dialog is ended (RFC 3261 13.3.1.4).
    pub(super) fn on_never_acknowledged(&mut self, now: Instant, id: SessionId) {
        let Some(call) = self.calls.get_mut(&id) else { return };
        let wanted = matches!(&call.phase, Phase::Accepted(accepted) if !accepted.hang_up);
        call.phase = Phase::Established;
        self.hang_up(now, id);
        if wanted {
            self.notices.push_back(Notice::Ended { id, reason: EndReason::NotAcknowledged });
        }
    }
}
