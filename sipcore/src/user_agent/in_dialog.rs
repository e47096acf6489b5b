//! Requests that come in, sorted; and the end of dialogs (RFC 3261 8.2, 11.2, 12.2.2, 15).

use super::{ALLOW, Call, Notice, Phase, Purpose, USER_AGENT, UserAgent, refusal};
use crate::agent::{EndReason, SessionId};
use crate::dialog::DialogKey;
use crate::message::{Message, Method, name, validate};
use crate::sdp;
use crate::transaction::ServerId;
use std::time::Instant;

impl UserAgent {
    pub(super) fn on_request(&mut self, now: Instant, server: ServerId, request: Message) {
        let Some(method) = request.method().cloned() else { return };
        if let Err(fault) = validate(&request) {
            self.respond(now, server, refusal(&request, fault.status, &fault.reason));
            return;
        }
        let is_understood = |tag: &&str| super::UNDERSTOOD.iter().any(|known| known.eq_ignore_ascii_case(tag));
        let unknown: Vec<&str> = request.tokens(name::REQUIRE).filter(|tag| !is_understood(tag)).collect();
        if !unknown.is_empty() && method != Method::Cancel {
            let answer = refusal(&request, 420, "Bad Extension").header(name::UNSUPPORTED, unknown.join(", "));
            self.respond(now, server, answer);
            return;
        }
        match (&method, request.to_tag().is_some()) {
            (Method::Cancel, _) => self.on_cancel(now, server, &request),
            (Method::Invite, false) => self.on_invite(now, server, request),
            (Method::Invite | Method::Update | Method::Bye, true) => self.on_in_dialog(now, server, &method, &request),
            (Method::Prack, _) => self.on_prack(now, server, &request),
            (Method::Notify, _) => self.on_notify(now, server, &request),
            (Method::Bye | Method::Update, false) => {
                self.respond(now, server, refusal(&request, 481, "Call/Transaction Does Not Exist"));
            }
            (Method::Options, _) => {
                let answer = refusal(&request, 200, "OK")
                    .header(name::ALLOW, ALLOW)
                    .header(name::ACCEPT, sdp::CONTENT_TYPE)
                    .header(name::SUPPORTED, super::SUPPORTED_CALLED)
                    .header(name::CONTACT, self.contact());
                self.respond(now, server, answer);
            }
            _ => {
                self.respond(now, server, refusal(&request, 405, "Method Not Allowed").header(name::ALLOW, ALLOW));
            }
        }
    }

    fn on_in_dialog(&mut self, now: Instant, server: ServerId, method: &Method, request: &Message) {
        let id = DialogKey::of_request(request).and_then(|key| self.dialogs.get(&key).copied());
        let call = id.and_then(|id| Some((id, self.calls.get_mut(&id)?)));
        // An early dialog is known to the caller by our reliable provisional response only.
        let call = call.filter(|(_, call)| match call.phase {
            Phase::Inviting(_) => false,
            Phase::Offered(_) => call.ringing.is_some(),
            _ => true,
        });
        let Some((id, call)) = call else {
            self.respond(now, server, refusal(request, 481, "Call/Transaction Does Not Exist"));
            return;
        };
        let admitted = call.dialog.as_mut().map_or(Err(481), |dialog| dialog.admit(request));
        if let Err(status) = admitted {
            let reason = if status == 481 { "Call/Transaction Does Not Exist" } else { "CSeq Out Of Order" };
            self.respond(now, server, refusal(request, status, reason));
            return;
        }
        if matches!(call.phase, Phase::Offered(_)) {
            return self.on_early(now, server, id, request);
        }
        if *method != Method::Bye {
            return self.on_refresh(now, server, id, request);
        }
        let told = match &call.phase {
            Phase::Accepted(accepted) => !accepted.hang_up,
            Phase::Established => true,
            _ => false,
        };
        self.respond(now, server, refusal(request, 200, "OK"));
        self.drop_reoffer(now, id);
        self.remove_call(id);
        if told {
            self.notices.push_back(Notice::Ended { id, reason: EndReason::PeerHungUp });
        }
    }

    /// The user wants the session, or the attempt at one, to end.
    pub fn end(&mut self, now: Instant, id: SessionId) {
        self.hang_up(now, id);
        self.work(now);
    }

    /// Ends everything that is up.
    pub fn end_all(&mut self, now: Instant) {
        let ids: Vec<SessionId> = self.calls.keys().copied().collect();
        for id in ids {
            self.hang_up(now, id);
        }
        for id in self.watches.ids() {
            self.drop_watch(now, id);
        }
        self.publish(now, Vec::new());
    }

    pub(super) fn hang_up(&mut self, now: Instant, id: SessionId) {
        self.drop_reoffer(now, id);
        let Some(call) = self.calls.get_mut(&id) else { return };
        match &mut call.phase {
            Phase::Inviting(inviting) if inviting.cancelled => {}
            Phase::Inviting(_) => self.cancel(now, id),
            Phase::Offered(_) => self.reject(now, id, 480, "Temporarily Unavailable"),
            // BYE has to wait for ACK (RFC 3261 15).
            Phase::Accepted(accepted) => accepted.hang_up = true,
            Phase::Established => self.send_bye(now, id),
            Phase::Ending(_) => {}
        }
    }

    fn send_bye(&mut self, now: Instant, id: SessionId) {
        let Some(Call { dialog: Some(dialog), phase, .. }) = self.calls.get_mut(&id) else {
            return self.remove_call(id);
        };
        let mut bye = dialog.request(Method::Bye).header(name::USER_AGENT, USER_AGENT).build();
        self.wallet.authorize(&mut bye);
        *phase = Phase::Ending(Box::new(bye.clone()));
        self.send(now, bye, Purpose::Bye(id));
        self.arm(id);
    }

    pub(super) fn on_bye_response(&mut self, now: Instant, id: SessionId, status: u16, response: &Message) {
        if let Some(Call { dialog: Some(dialog), phase: Phase::Ending(bye), .. }) = self.calls.get_mut(&id)
            && matches!(status, 401 | 407)
            && self.wallet.retry(bye, response).is_ok()
        {
            bye.set(name::CSEQ, format_args!("{} BYE", dialog.next_cseq()));
            let bye = Message::clone(bye);
            self.send(now, bye, Purpose::Bye(id));
            return;
        }
        self.remove_call(id);
    }
}
