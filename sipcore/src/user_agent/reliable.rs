//! Provisional responses that the caller acknowledges (RFC 3262), for callers that require it; and what may come within the dialog before the final
//! response: PRACK, UPDATE (RFC 3311) and BYE (RFC 3261 15).

use super::{Phase, UserAgent, refusal};
use crate::agent::SessionId;
use crate::dialog::DialogKey;
use crate::message::{Message, Method, name, scan};
use crate::random;
use crate::transaction::{Clock, Due, ServerId};
use crate::transport::Flow;
use bytes::Bytes;
use std::time::Instant;

/// The option tag.
pub(super) const TAG: &str = "100rel";

/// Our 180. The final response may go before its PRACK has come, since it carries no session description (RFC 3262 3).
pub(super) struct Ringing {
    rseq: u32,
    /// Of the INVITE.
    cseq: u32,
    flow: Flow,
    wire: Bytes,
    clock: Clock,
}

impl Ringing {
    pub fn next(&self) -> Option<Instant> {
        self.clock.next()
    }

    /// A PRACK is about this response (RFC 3262 7.2).
    fn is_named_by(&self, prack: &Message) -> Option<bool> {
        let mut headers = prack.headers_named(name::RACK);
        let (Some(header), None) = (headers.next(), headers.next()) else { return None };
        let mut words = scan::ascii(header.value())?.split_ascii_whitespace();
        let mut number = || words.next()?.parse::<u32>().ok();
        let (rseq, cseq) = (number()?, number()?);
        let (Some(method), None) = (words.next(), words.next()) else { return None };
        Some((rseq, cseq, method) == (self.rseq, self.cseq, "INVITE"))
    }
}

impl UserAgent {
    /// Tells a caller that requires it, reliably, that its INVITE has come. One that merely supports it may be told so (RFC 3262 3), and is not: a PRACK
    /// would say no more than the ACK that follows soon.
    pub(super) fn ring(&mut self, now: Instant, id: SessionId) {
        let Some(Phase::Offered(offered)) = self.calls.get(&id).map(|call| &call.phase) else { return };
        let (server, request) = (offered.server, &offered.request);
        if !request.has_token(name::REQUIRE, TAG) {
            return;
        }
        let cseq = request.cseq().map_or(0, |cseq| cseq.number);
        // Below 2^31 (RFC 3262 3).
        let rseq = (random::number() >> 34) as u32 + 1;
        let response = Message::response_to(request, 180, "Ringing")
            .to_tag(&offered.local_tag)
            .header(name::CONTACT, self.contact())
            .header(name::ALLOW, super::ALLOW)
            .header(name::REQUIRE, TAG)
            .header(name::RSEQ, rseq);
        let flow = self.layer.server_flow(server);
        let sent = self.respond(now, server, response);
        let (Some(flow), Some(wire)) = (flow, sent) else { return };
        let timing = self.layer.timing();
        let clock = Clock::ending(now, timing.limit()).resending(now, timing.t1, None);
        if let Some(call) = self.calls.get_mut(&id) {
            call.ringing = Some(Box::new(Ringing { rseq, cseq, flow, wire, clock }));
        }
    }

    /// Time has passed while an INVITE waits for the user.
    pub(super) fn on_offered_timer(&mut self, now: Instant, id: SessionId) {
        let Some(call) = self.calls.get_mut(&id) else { return };
        if matches!(&call.phase, Phase::Offered(offered) if offered.limit <= now) {
            return self.reject(now, id, 480, "No Decision In Time");
        }
        let Some(ringing) = &mut call.ringing else { return };
        match ringing.clock.due(now) {
            Due::Nothing => {}
            Due::Resend => {
                let (flow, wire) = (ringing.flow, ringing.wire.clone());
                self.layer.transmit(flow, wire);
            }
            Due::Expired => return self.reject(now, id, 504, "No PRACK In Time"),
        }
        self.arm(id);
    }

    pub(super) fn on_prack(&mut self, now: Instant, server: ServerId, prack: &Message) {
        let (status, reason) = match self.acknowledge_ringing(prack) {
            Ok(id) => {
                self.arm(id);
                (200, "OK")
            }
            Err(refused) => refused,
        };
        self.respond(now, server, refusal(prack, status, reason));
    }

    fn acknowledge_ringing(&mut self, prack: &Message) -> Result<SessionId, (u16, &'static str)> {
        const NOT_THERE: (u16, &str) = (481, "Call/Transaction Does Not Exist");
        let id = DialogKey::of_request(prack).and_then(|key| self.dialogs.get(&key).copied()).ok_or(NOT_THERE)?;
        let call = self.calls.get_mut(&id).ok_or(NOT_THERE)?;
        let ringing = call.ringing.as_mut().ok_or(NOT_THERE)?;
        if !ringing.is_named_by(prack).ok_or((400, "Bad RAck"))? {
            return Err(NOT_THERE);
        }
        let admitted = call.dialog.as_mut().map_or(Err(481), |dialog| dialog.admit(prack));
        admitted.map_err(|status| if status == 481 { NOT_THERE } else { (status, "CSeq Out Of Order") })?;
        if !prack.body().is_empty() {
            // Our response had no answer, after which there could be another offer (RFC 3262 5).
            return Err((488, "Not Acceptable Here"));
        }
        ringing.clock = Clock::silent();
        Ok(id)
    }

    /// UPDATE, BYE or another INVITE of a caller whose INVITE waits for the user. Its CSeq is in order.
    pub(super) fn on_early(&mut self, now: Instant, server: ServerId, id: SessionId, request: &Message) {
        let later = || refusal(request, 500, "The INVITE Is Pending").header(name::RETRY_AFTER, random::number() % 10);
        let answer = match request.method() {
            Some(Method::Bye) => {
                self.respond(now, server, refusal(request, 200, "OK"));
                return self.reject(now, id, 487, "Request Terminated");
            }
            // Its offer has to wait for our answer to the first one (RFC 3311 5.2).
            Some(Method::Update) if request.body().is_empty() => {
                if let Some(dialog) = self.calls.get_mut(&id).and_then(|call| call.dialog.as_mut()) {
                    dialog.retarget(request);
                }
                refusal(request, 200, "OK").header(name::CONTACT, self.contact())
            }
            _ => later(),
        };
        self.respond(now, server, answer);
    }
}
