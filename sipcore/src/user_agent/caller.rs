//! Our INVITEs: the caller's side of a call (RFC 3261 13.2, 9.1).

use super::credentials::CannotAnswer;
use super::{
    ALLOW, Call, Inviting, Notice, Phase, Purpose, RING_LIMIT, SUPPORTED, USER_AGENT, Upkeep, UserAgent, software,
};
use crate::agent::{CallError, Session, SessionId};
use crate::dialog::Dialog;
use crate::message::{Message, Method, Uri, address, name};
use crate::random;
use crate::sdp::{self, Answer, Offer, Origin};
use crate::session_timer;
use crate::transaction::ClientId;
use std::collections::VecDeque;
use std::time::Instant;

/// Dialogs that one INVITE can make; a fork of more is not acknowledged.
const MAX_FORKS: usize = 16;
/// Contacts that one call is redirected to.
const MAX_REDIRECTS: usize = 5;

impl UserAgent {
    /// Calls `target`. The outcome is told as `Notice::Answered` or `Notice::Failed`.
    pub fn invite(&mut self, now: Instant, id: SessionId, target: &Uri, offer: Offer) {
        let origin = Origin { id: random::number() >> 2, version: 1 };
        let identity = self.main.service.identity.as_ref().unwrap_or(&self.config.aor);
        let mut request = Message::request(Method::Invite, target);
        for proxy in &self.main.service.route {
            request = request.header(name::ROUTE, proxy);
        }
        let mut request = request
            .header(name::MAX_FORWARDS, 70)
            .header(name::FROM, address(None, identity, &[("tag", Some(&random::tag()))]))
            .header(name::TO, address(None, target, &[]))
            .header(name::CALL_ID, random::token())
            .header(name::CSEQ, "1 INVITE")
            .header(name::CONTACT, self.contact())
            .header(name::ALLOW, ALLOW)
            .header(name::SUPPORTED, SUPPORTED)
            .header(name::SESSION_EXPIRES, session_timer::INTERVAL.as_secs())
            .header(name::MIN_SE, session_timer::MIN_INTERVAL.as_secs())
            .header(name::USER_AGENT, USER_AGENT)
            .body(sdp::CONTENT_TYPE, offer.to_sdp(origin))
            .build();
        self.wallet.authorize(&mut request);
        let client = self.send(now, request.clone(), Purpose::Invite(id));
        let inviting = Inviting {
            request,
            client,
            target: target.clone(),
            offer,
            provisional: false,
            cancelled: false,
            limit: now + RING_LIMIT,
            alternatives: VecDeque::new(),
            redirects: 0,
            sent_to: self.main.flow,
            hops_tried: 0,
        };
        self.calls.insert(id, Call::new(None, Phase::Inviting(Box::new(inviting))));
        self.arm(id);
        self.work(now);
    }

    /// Gives up an INVITE of ours: CANCEL as soon as that is allowed, BYE if a 2xx comes all the same.
    pub(super) fn cancel(&mut self, now: Instant, id: SessionId) {
        let limit = self.layer.timing().limit();
        let Some(Call { phase: Phase::Inviting(inviting), .. }) = self.calls.get_mut(&id) else { return };
        inviting.cancelled = true;
        inviting.limit = now + limit;
        if inviting.provisional {
            let client = inviting.client;
            self.send_cancel(now, client);
        }
        self.arm(id);
    }

    fn send_cancel(&mut self, now: Instant, client: ClientId) {
        if let Some(cancel) = self.layer.cancel(now, client) {
            self.purposes.insert(cancel, Purpose::Courtesy);
        }
    }

    pub(super) fn on_invite_response(
        &mut self,
        now: Instant,
        client: ClientId,
        id: SessionId,
        status: u16,
        response: &Message,
    ) {
        match status {
            100..=199 => self.on_provisional(now, client, id),
            200..=299 => self.on_accepted(now, client, id, response),
            401 | 407 => self.on_invite_challenge(now, id, response),
            422 if self.on_interval_too_small(now, id, response) => {}
            300..=399 if self.on_redirected(now, id, response) => {}
            503 if self.invite_elsewhere(now, id) => {}
            _ if self.try_alternative(now, id, status) => {}
            _ => self.on_rejected(id, status, response),
        }
    }

    fn on_provisional(&mut self, now: Instant, client: ClientId, id: SessionId) {
        let Some(Call { phase: Phase::Inviting(inviting), .. }) = self.calls.get_mut(&id) else { return };
        let first = !std::mem::replace(&mut inviting.provisional, true);
        if first && inviting.cancelled {
            self.send_cancel(now, client);
        }
    }

    fn on_rejected(&mut self, id: SessionId, status: u16, response: &Message) {
        let Some(target) = self.give_up(id) else { return };
        let stands = response.header(name::SIPBOX_SESSION).filter(|_| status == 491);
        let stands = stands.and_then(|header| std::str::from_utf8(header.value()).ok()?.parse().ok());
        if let Some(fingerprint) = stands {
            return self.fail(id, CallError::Stands { target, fingerprint });
        }
        let warning = response.warnings().next().map(|warning| warning.text.into_owned());
        let reason = response.reason().into_owned();
        self.fail(id, CallError::Rejected { target, status, reason, warning });
    }

    pub(super) fn on_invite_silence(&mut self, now: Instant, id: SessionId, why: Option<&str>) {
        if self.invite_elsewhere(now, id) {
            return;
        }
        let Some(target) = self.give_up(id) else { return };
        let hop = self.main.flow.remote;
        self.fail(
            id,
            match why {
                Some(why) => CallError::Unreachable { target, hop, why: self.all_reasons(why) },
                None => CallError::Timeout { target, hop },
            },
        );
    }

    /// It rang too long, or nothing came after CANCEL (RFC 3261 9.1).
    pub(super) fn on_ring_limit(&mut self, now: Instant, id: SessionId) {
        let Some(Call { phase: Phase::Inviting(inviting), .. }) = self.calls.get(&id) else { return };
        let (client, target) = (inviting.client, inviting.target.clone());
        if inviting.cancelled {
            self.layer.abandon(client);
            self.purposes.remove(&client);
            self.remove_call(id);
            return;
        }
        self.fail(id, CallError::Timeout { target, hop: self.main.flow.remote });
        self.cancel(now, id);
    }

    fn on_invite_challenge(&mut self, now: Instant, id: SessionId, response: &Message) {
        let Some(Call { phase: Phase::Inviting(inviting), .. }) = self.calls.get_mut(&id) else { return };
        let target = inviting.target.clone();
        if inviting.cancelled {
            return self.remove_call(id);
        }
        let error = match self.wallet.retry(&mut inviting.request, response) {
            Ok(()) => return self.invite_again(now, id),
            Err(CannotAnswer::NoCredentials(realm)) => CallError::NoCredentials { target, realm },
            Err(CannotAnswer::Refused(realm)) => CallError::BadCredentials { target, realm },
        };
        self.remove_call(id);
        self.fail(id, error);
    }

    /// Sends the INVITE, changed meanwhile, once more (RFC 3261 8.1.3.5).
    fn invite_again(&mut self, now: Instant, id: SessionId) {
        let Some(Call { phase: Phase::Inviting(inviting), .. }) = self.calls.get_mut(&id) else { return };
        let cseq = inviting.request.cseq().map_or(1, |cseq| cseq.number) + 1;
        inviting.request.set(name::CSEQ, format_args!("{cseq} INVITE"));
        inviting.provisional = false;
        let attempt = inviting.request.clone();
        let client = self.send(now, attempt, Purpose::Invite(id));
        if let Some(Call { phase: Phase::Inviting(inviting), .. }) = self.calls.get_mut(&id) {
            inviting.client = client;
            inviting.sent_to = self.main.flow;
        }
    }

    /// Sends the INVITE to the next server (RFC 3263 4.3). `false`: there is none that has not been tried.
    fn invite_elsewhere(&mut self, now: Instant, id: SessionId) -> bool {
        let hops = self.hop_count();
        let Some(inviting) = self.waited_for(id) else { return false };
        let sent_to = inviting.sent_to;
        inviting.hops_tried += 1;
        if inviting.hops_tried >= hops || !self.fail_over(now, sent_to) {
            return false;
        }
        let contact = self.contact();
        if let Some(inviting) = self.waited_for(id) {
            inviting.request.set(name::CONTACT, contact);
            // The route was that of the server before.
            inviting.request.remove(name::ROUTE);
        }
        self.invite_again(now, id);
        true
    }

    /// The INVITE that the user still waits for.
    fn waited_for(&mut self, id: SessionId) -> Option<&mut Inviting> {
        match self.calls.get_mut(&id) {
            Some(Call { phase: Phase::Inviting(inviting), .. }) if !inviting.cancelled => Some(inviting),
            _ => None,
        }
    }

    /// 422: the other side wants fewer refreshes (RFC 4028 7.3). `false`: it does not say so.
    fn on_interval_too_small(&mut self, now: Instant, id: SessionId, response: &Message) -> bool {
        let Some(inviting) = self.waited_for(id) else { return false };
        let asked = inviting.request.seconds(name::SESSION_EXPIRES).unwrap_or_default();
        let Some(least) = response.seconds(name::MIN_SE).filter(|least| *least > asked) else { return false };
        inviting.request.set(name::SESSION_EXPIRES, least);
        inviting.request.set(name::MIN_SE, least);
        self.invite_again(now, id);
        true
    }

    /// 3xx: the call goes on to the contacts named, best first (RFC 3261 8.1.3.4). `false`: there is none that can be tried.
    fn on_redirected(&mut self, now: Instant, id: SessionId, response: &Message) -> bool {
        let Some(inviting) = self.waited_for(id) else { return false };
        let mut contacts: Vec<(u16, Uri)> = response
            .contacts()
            .flatten()
            .filter_map(|contact| Some((contact.q().unwrap_or(1000), contact.uri().ok()?)))
            .filter(|(_, uri)| uri.is_sip() && uri.headers().next().is_none())
            .collect();
        contacts.sort_by_key(|(q, _)| std::cmp::Reverse(*q));
        inviting.alternatives.extend(contacts.into_iter().map(|(_, uri)| uri));
        self.try_alternative(now, id, 300)
    }

    /// Calls the next contact of a redirection. A 6xx is the answer of the one who is called, wherever he is.
    fn try_alternative(&mut self, now: Instant, id: SessionId, status: u16) -> bool {
        let Some(inviting) = self.waited_for(id).filter(|_| status < 600) else { return false };
        if inviting.redirects >= MAX_REDIRECTS {
            return false;
        }
        let Some(next) = inviting.alternatives.pop_front() else { return false };
        inviting.redirects += 1;
        let mut request = inviting.request.clone();
        request.set_request_uri(&next);
        // The answers to challenges were about the URI before.
        request.remove(name::AUTHORIZATION);
        request.remove(name::PROXY_AUTHORIZATION);
        self.wallet.authorize(&mut request);
        if let Some(inviting) = self.waited_for(id) {
            inviting.request = request;
        }
        self.invite_again(now, id);
        true
    }

    /// A 2xx: always acknowledged. The first one makes the session; what comes after a decision is ended again (RFC 3261 13.2.2.4).
    fn on_accepted(&mut self, now: Instant, client: ClientId, id: SessionId, response: &Message) {
        let tag = response.to_tag().unwrap_or_default().to_string();
        let acks = self.acks.entry(client).or_default();
        if let Some((_, ack)) = acks.iter().find(|(known, _)| *known == tag) {
            let ack = ack.clone();
            return self.layer.transmit(self.main.flow, ack);
        }
        if acks.len() >= MAX_FORKS {
            return;
        }
        let inviting = match self.calls.get_mut(&id) {
            Some(Call { phase: Phase::Inviting(inviting), .. }) => Some(&*inviting),
            _ => None,
        };
        let Some(mut dialog) = Dialog::of_caller(response) else {
            // Without a Contact there is nowhere to send ACK and BYE to.
            if let Some(target) = self.give_up(id) {
                self.fail(id, CallError::BadAnswer { target, why: "the 200 has no usable Contact".into() });
            }
            return;
        };
        let mut ack = dialog.ack(response.cseq().map(|cseq| cseq.number).unwrap_or_default());
        // ACK carries the credentials of its INVITE (RFC 3261 22.1).
        for header in inviting.iter().flat_map(|inviting| inviting.request.headers()) {
            if header.is(name::AUTHORIZATION) || header.is(name::PROXY_AUTHORIZATION) {
                ack = ack.copy(header);
            }
        }
        let outcome = inviting
            .filter(|inviting| !inviting.cancelled)
            .map(|inviting| (inviting.target.clone(), Answer::parse(response.body(), &inviting.offer)));
        let offered = inviting.map(|inviting| inviting.request.body().clone()).unwrap_or_default();
        let ack = self.layer.send_ack(self.main.flow, ack.build(), None);
        self.acks.entry(client).or_default().push((tag, ack));
        match outcome {
            Some((target, Ok(answer))) => {
                let remote_aor = remote_aor(response).unwrap_or_else(|| target.aor());
                let Answer { line, end } = answer;
                self.dialogs.insert(dialog.key(), id);
                if let Some(call) = self.calls.get_mut(&id) {
                    call.dialog = Some(dialog);
                    call.upkeep = Upkeep::of(now, offered, response.body(), response, true);
                    call.phase = Phase::Established;
                }
                self.arm(id);
                let software = software(response);
                self.notices.push_back(Notice::Answered(Session { id, remote_aor, line, end, software }));
            }
            Some((target, Err(error))) => {
                self.end_stray(now, &mut dialog);
                self.remove_call(id);
                self.fail(id, CallError::BadAnswer { target, why: error.to_string() });
            }
            None => {
                self.end_stray(now, &mut dialog);
                if matches!(self.calls.get(&id), Some(Call { phase: Phase::Inviting(_), .. })) {
                    self.remove_call(id);
                }
            }
        }
    }

    /// Ends a dialog that nobody wants.
    fn end_stray(&mut self, now: Instant, dialog: &mut Dialog) {
        let mut bye = dialog.request(Method::Bye).header(name::USER_AGENT, USER_AGENT).build();
        self.wallet.authorize(&mut bye);
        self.send(now, bye, Purpose::Courtesy);
    }

    /// Forgets a call that has not been answered; its target if the user still waits for it.
    fn give_up(&mut self, id: SessionId) -> Option<Uri> {
        let Some(Call { phase: Phase::Inviting(inviting), .. }) = self.calls.get(&id) else { return None };
        let target = (!inviting.cancelled).then(|| inviting.target.clone());
        self.remove_call(id);
        target
    }

    fn fail(&mut self, id: SessionId, error: CallError) {
        self.notices.push_back(Notice::Failed { id, error });
    }
}

/// Who answered: the asserted identity (RFC 3325), else To.
fn remote_aor(response: &Message) -> Option<Uri> {
    let asserted = response.addresses(name::P_ASSERTED_IDENTITY).flatten().find_map(|address| address.uri().ok());
    Some(asserted.or_else(|| response.to().ok()?.uri().ok())?.aor())
}
