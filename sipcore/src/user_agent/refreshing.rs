//! Sessions kept up (RFC 4028): UPDATE (RFC 3311) and INVITE within a dialog (RFC 3261 14), both ways. They never change the flow; a restart of
//! ICE changes the way that it takes.

use super::restarting::wait_after_glare;
use super::{Accepted, Call, Notice, Phase, Purpose, USER_AGENT, Upkeep, UserAgent, refusal};
use crate::agent::{EndReason, SessionId};
use crate::message::{Message, Method, ResponseBuilder, name};
use crate::random;
use crate::sdp::{self, Agreed, Quic};
use crate::session_timer::{Due, Granted, MIN_INTERVAL, SessionExpires, SessionTimer, TAG, grant};
use crate::transaction::{ClientId, Clock, Due as ClockDue, ServerId};
use bytes::Bytes;
use std::time::{Duration, Instant};

/// When a refresh that had to wait is tried again.
const AGAIN: Duration = Duration::from_secs(2);

impl Upkeep {
    /// Both descriptions of a session that has just been agreed on, and what the other side can do.
    pub fn of(now: Instant, local_sdp: Bytes, remote_sdp: &[u8], remote: &Message, caller: bool) -> Self {
        let mut upkeep = Upkeep {
            agreed: Agreed::of(&local_sdp, remote_sdp).map(Box::new),
            local_sdp,
            remote_origin: origin(remote_sdp).map(<[u8]>::to_vec),
            updates: remote.has_token(name::ALLOW, "UPDATE"),
            caller,
            ..Upkeep::default()
        };
        if caller {
            upkeep.on_refreshed(now, remote);
        }
        upkeep
    }

    /// A 2xx to a request of ours says how the session goes on.
    fn on_refreshed(&mut self, now: Instant, response: &Message) {
        let expires = SessionExpires::of(response);
        self.timer = expires.map(|expires| SessionTimer::new(now, expires.interval, expires.by_caller != Some(false)));
    }

    /// We have granted a request of the other side.
    pub fn on_granted(&mut self, now: Instant, expires: SessionExpires) {
        self.timer = Some(SessionTimer::new(now, expires.interval, expires.by_caller == Some(false)));
    }

    pub fn next(&self) -> Option<Instant> {
        let answered = self.answered.as_ref().and_then(|(_, answered)| answered.clock.next());
        [answered, self.timer.as_ref().map(SessionTimer::next), self.restart_due()].into_iter().flatten().min()
    }

    /// The other end's description is another one now.
    pub fn note_remote(&mut self, sdp: &[u8], remote: &Quic) {
        self.remote_origin = origin(sdp).map(<[u8]>::to_vec);
        if let Some(agreed) = &mut self.agreed {
            agreed.settle(remote.clone());
        }
    }
}

/// The headers of a 2xx that tell what was granted.
pub(super) fn tell_granted(response: ResponseBuilder, expires: SessionExpires, required: bool) -> ResponseBuilder {
    let response = response.header(name::SESSION_EXPIRES, expires);
    if required { response.header(name::REQUIRE, TAG) } else { response }
}

/// 422 (RFC 4028 6).
pub(super) fn too_small(request: &Message) -> ResponseBuilder {
    refusal(request, 422, "Session Interval Too Small").header(name::MIN_SE, MIN_INTERVAL.as_secs())
}

/// The o= line of a session description.
fn origin(sdp: &[u8]) -> Option<&[u8]> {
    sdp.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii).find(|line| line.starts_with(b"o="))
}

impl UserAgent {
    /// INVITE or UPDATE within an established dialog. What is offered anew must be what was agreed on.
    pub(super) fn on_refresh(&mut self, now: Instant, server: ServerId, id: SessionId, request: &Message) {
        let Some(call) = self.calls.get_mut(&id) else { return };
        let upkeep = &mut call.upkeep;
        if upkeep.refresh.is_some() {
            // Ours is on its way: both give way (RFC 3261 14.2, RFC 3311 5.2).
            self.respond(now, server, refusal(request, 491, "Request Pending"));
            return;
        }
        let is_invite = request.method() == Some(&Method::Invite);
        if is_invite && let Ok(cseq) = request.cseq() {
            // Whoever sends another one is done with the last (RFC 3261 14.1): the answer got lost, or its ACK, as when a flow ends with a move.
            upkeep.answered.take_if(|(answered, _)| cseq.number > *answered);
        }
        if upkeep.answered.is_some() || upkeep.reoffer.is_some() || !matches!(call.phase, Phase::Established) {
            let after = random::number() % 10;
            let answer = refusal(request, 500, "Another INVITE Is Pending").header(name::RETRY_AFTER, after);
            self.respond(now, server, answer);
            return;
        }
        if grant(request) == Granted::TooSmall {
            self.respond(now, server, too_small(request));
            return;
        }
        let offered = request.body();
        let known = upkeep.remote_origin.as_deref();
        if !offered.is_empty() && (known.is_none() || origin(offered) != known) {
            // The session goes on as it was, but for the candidates of its flow.
            let why = match upkeep.agreed.as_ref().map(|agreed| agreed.read(offered)) {
                Some(Ok(Some(remote))) if is_invite => return self.on_reoffer(now, server, id, request, remote),
                Some(Ok(None)) => {
                    upkeep.remote_origin = origin(offered).map(<[u8]>::to_vec);
                    None
                }
                Some(Err(error)) => Some(error.to_string()),
                _ => Some("the flow of a session does not change".to_owned()),
            };
            if let Some(why) = why {
                let answer = self.not_acceptable(request, &why);
                self.layer.respond(now, server, &answer);
                return;
            }
        }
        self.accept_refresh(now, server, id, request);
    }

    /// Grants INVITE or UPDATE within the dialog, and answers with our description as it is now.
    pub(super) fn accept_refresh(&mut self, now: Instant, server: ServerId, id: SessionId, request: &Message) {
        let Granted::Agreed { expires, required } = grant(request) else { return };
        let is_invite = request.method() == Some(&Method::Invite);
        let Some(call) = self.calls.get_mut(&id) else { return };
        let upkeep = &mut call.upkeep;
        if let Some(dialog) = &mut call.dialog {
            dialog.retarget(request);
        }
        upkeep.on_granted(now, expires);
        let sdp = (is_invite || !request.body().is_empty()).then(|| upkeep.local_sdp.clone());
        let contact = self.contact();
        let answer = Message::response_to(request, 200, "OK")
            .header(name::CONTACT, contact)
            .header(name::ALLOW, super::ALLOW)
            .header(name::SUPPORTED, super::SUPPORTED);
        let mut answer = tell_granted(answer, expires, required);
        if let Some(sdp) = sdp {
            answer = answer.body(sdp::CONTENT_TYPE, sdp);
        }
        let flow = self.layer.server_flow(server);
        let sent = self.respond(now, server, answer);
        if is_invite && let (Some(flow), Some(response), Some(call)) = (flow, sent, self.calls.get_mut(&id)) {
            let timing = *self.layer.timing();
            let clock = Clock::ending(now, timing.limit()).resending(now, timing.t1, Some(timing.t2));
            let cseq = request.cseq().map_or(0, |cseq| cseq.number);
            call.upkeep.answered = Some((cseq, Box::new(Accepted { flow, response, clock, hang_up: false })));
        }
        self.arm(id);
    }

    /// Time has passed in an established session.
    pub(super) fn on_upkeep_timer(&mut self, now: Instant, id: SessionId) {
        let Some(Call { upkeep, .. }) = self.calls.get_mut(&id) else { return };
        if let Some((_, answered)) = &mut upkeep.answered {
            match answered.clock.due(now) {
                ClockDue::Nothing => {}
                ClockDue::Resend => {
                    let (flow, response) = (answered.flow, answered.response.clone());
                    self.layer.transmit(flow, response);
                }
                ClockDue::Expired => {
                    upkeep.answered = None;
                    return self.on_vanished(now, id);
                }
            }
        }
        self.on_restart_timer(now, id);
        let Some(Call { upkeep, .. }) = self.calls.get_mut(&id) else { return };
        match upkeep.timer.as_mut().map_or(Due::Nothing, |timer| timer.on_timer(now)) {
            Due::Nothing => {}
            Due::Refresh => self.refresh(now, id),
            Due::Expired => return self.on_vanished(now, id),
        }
        self.arm(id);
    }

    /// Sends a refresh: UPDATE where the other side takes it, else INVITE with the description as it was.
    fn refresh(&mut self, now: Instant, id: SessionId) {
        let contact = self.contact();
        let Some(Call { dialog: Some(dialog), upkeep, .. }) = self.calls.get_mut(&id) else { return };
        let Some(timer) = &mut upkeep.timer else { return };
        if upkeep.answered.is_some() || upkeep.refresh.is_some() || upkeep.reoffer.is_some() {
            return timer.put_off(now, AGAIN);
        }
        let method = if upkeep.updates { Method::Update } else { Method::Invite };
        let expires = SessionExpires { interval: timer.interval(), by_caller: Some(true) };
        let mut request = dialog
            .request(method.clone())
            .header(name::CONTACT, contact)
            .header(name::ALLOW, super::ALLOW)
            .header(name::SUPPORTED, super::SUPPORTED)
            .header(name::SESSION_EXPIRES, expires)
            .header(name::MIN_SE, MIN_INTERVAL.as_secs())
            .header(name::USER_AGENT, USER_AGENT);
        if method == Method::Invite {
            request = request.body(sdp::CONTENT_TYPE, upkeep.local_sdp.clone());
        }
        let mut request = request.build();
        self.wallet.authorize(&mut request);
        self.send_refresh(now, id, request);
    }

    /// Sends UPDATE or INVITE within the dialog: its outcome is waited for.
    pub(super) fn send_refresh(&mut self, now: Instant, id: SessionId, request: Message) {
        let Some(Call { upkeep, .. }) = self.calls.get_mut(&id) else { return };
        let cseq = request.cseq().map_or(0, |cseq| cseq.number);
        upkeep.refresh = Some(Box::new(request.clone()));
        self.send(now, request, Purpose::Refresh(id, cseq));
    }

    pub(super) fn on_refresh_response(
        &mut self,
        now: Instant,
        client: ClientId,
        (id, cseq): (SessionId, u32),
        status: u16,
        response: &Message,
    ) {
        if status < 200 {
            return;
        }
        if status < 300 && !self.acknowledge(client, id, response) {
            return;
        }
        if !self.is_awaited(id, cseq) {
            return;
        }
        let Some(Call { dialog: Some(dialog), upkeep, phase, .. }) = self.calls.get_mut(&id) else { return };
        if !matches!(phase, Phase::Established) {
            return;
        }
        let Some(mut request) = upkeep.refresh.take() else { return };
        if (200..300).contains(&status) {
            dialog.retarget(response);
            upkeep.on_refreshed(now, response);
        }
        if matches!(status, 401 | 407) && self.wallet.retry(&mut request, response).is_ok() {
            let method = request.method().cloned().unwrap_or(Method::Update);
            request.set(name::CSEQ, format_args!("{} {method}", dialog.next_cseq()));
            self.send_refresh(now, id, *request);
            return self.arm(id);
        }
        if self.on_restart_response(now, id, status, response) {
            // It is the same dialog: what is not there for a restart is not there for a refresh.
            return if status == 481 { self.on_vanished(now, id) } else { self.arm(id) };
        }
        let Some(Call { upkeep, .. }) = self.calls.get_mut(&id) else { return };
        let timer = &mut upkeep.timer;
        match status {
            200..=299 => {}
            408 | 481 => return self.on_vanished(now, id),
            405 | 501 if upkeep.updates => {
                upkeep.updates = false;
                self.refresh(now, id);
            }
            422 => {
                let least = response.seconds(name::MIN_SE).unwrap_or(0);
                *timer = Some(SessionTimer::new(now, Duration::from_secs(least.into()), true));
                if let Some(timer) = timer {
                    timer.put_off(now, Duration::ZERO);
                }
            }
            // Both ends refreshed at once: one tries again before the other (RFC 3261 14.1).
            491 => {
                if let Some(timer) = timer {
                    timer.put_off(now, wait_after_glare(upkeep.caller));
                }
            }
            // The session stands; the next refresh may do better.
            _ => {}
        }
        self.arm(id);
    }

    /// Whether the outcome of this request of ours is still of interest: one that was given up may end long after, and says nothing.
    fn is_awaited(&self, id: SessionId, cseq: u32) -> bool {
        let request = self.calls.get(&id).and_then(|call| call.upkeep.refresh.as_ref());
        request.is_some_and(|request| request.cseq().is_ok_and(|of| of.number == cseq))
    }

    /// Nothing came back: `why` is set when it was the transport.
    pub(super) fn on_refresh_silence(&mut self, now: Instant, id: SessionId, cseq: u32, why: Option<&str>) {
        if !self.is_awaited(id, cseq) || self.on_restart_silence(id, why) {
            return;
        }
        if why.is_none() {
            return self.on_vanished(now, id);
        }
        // This end has lost its connection, as when it moves: that says nothing of the other one, and the session's time has not passed.
        if let Some(Call { upkeep, .. }) = self.calls.get_mut(&id) {
            upkeep.refresh = None;
            if let Some(timer) = &mut upkeep.timer {
                timer.put_off(now, AGAIN);
            }
        }
        self.arm(id);
    }

    /// Sends ACK for a 2xx to an INVITE of ours within the dialog. `false`: it was acknowledged before.
    fn acknowledge(&mut self, client: ClientId, id: SessionId, response: &Message) -> bool {
        let Ok(cseq) = response.cseq() else { return false };
        if cseq.method != Method::Invite {
            return true;
        }
        let acks = self.acks.entry(client).or_default();
        if let Some((_, ack)) = acks.first() {
            let ack = ack.clone();
            self.layer.transmit(self.main.flow, ack);
            return false;
        }
        let Some(Call { dialog: Some(dialog), .. }) = self.calls.get_mut(&id) else { return false };
        dialog.retarget(response);
        let ack = dialog.ack(cseq.number);
        let ack = self.layer.send_ack(self.main.flow, ack.build(), None);
        self.acks.entry(client).or_default().push((String::new(), ack));
        true
    }

    /// The other side no longer takes part: BYE, in case it does all the same.
    pub(super) fn on_vanished(&mut self, now: Instant, id: SessionId) {
        if matches!(self.calls.get(&id), Some(Call { phase: Phase::Established, .. })) {
            self.hang_up(now, id);
            self.notices.push_back(Notice::Ended { id, reason: EndReason::PeerVanished });
        }
    }
}
