//! ICE restarts of sessions that stand (RFC 8839 section 4.4.1.1.1): INVITE within the dialog, both ways. When both ends restart at once, both
//! give way, and one tries again before the other (RFC 3261 14.1).

use super::{ALLOW, Call, Notice, Phase, SUPPORTED, USER_AGENT, Upkeep, UserAgent, refusal};
use crate::agent::{RestartError, SessionId};
use crate::message::{Message, Method, name};
use crate::random;
use crate::sdp::{self, Quic};
use crate::session_timer::{INTERVAL, MIN_INTERVAL, SessionExpires};
use crate::transaction::ServerId;
use bytes::Bytes;
use std::time::{Duration, Instant};

/// How long the user may take to answer a restart of the other side: its gathering is bounded.
const DECISION: Duration = Duration::from_secs(8);
/// How long a restart waits at least for another exchange of the session to end.
const PAUSE: Duration = Duration::from_millis(200);
/// How long a restart is waited for. The other side may be elsewhere by now, and its own restart would be refused as long as ours is under way.
const ANSWERED_WITHIN: Duration = Duration::from_secs(3);
/// Of two requests that met, that of the caller waits this long, and that of the called side not more than the second (RFC 3261 14.1).
const CALLER_WAITS: [Duration; 2] = [Duration::from_millis(2100), Duration::from_millis(4000)];
const CALLED_WAITS: Duration = Duration::from_millis(2000);

/// A restart of ours that has not come to its end.
pub(super) struct Restart {
    local: Quic,
    /// When it is sent, or sent again; or, when it is `sent`, given up.
    at: Instant,
    is_sent: bool,
    /// The description that was sent.
    sent: Bytes,
}

/// A restart of theirs that waits for our user.
pub(super) struct Reoffer {
    server: ServerId,
    request: Message,
    remote: Quic,
    limit: Instant,
}

impl Upkeep {
    pub(super) fn restart_due(&self) -> Option<Instant> {
        let ours = self.restart.as_ref().map(|restart| restart.at);
        [ours, self.reoffer.as_ref().map(|reoffer| reoffer.limit)].into_iter().flatten().min()
    }
}

/// How long this end waits with a request that met one of the other side.
pub(super) fn wait_after_glare(caller: bool) -> Duration {
    let [least, most] = CALLER_WAITS;
    match caller {
        true => least + (most - least).mul_f64(random::fraction()),
        false => CALLED_WAITS.mul_f64(random::fraction()),
    }
}

impl UserAgent {
    /// Restarts ICE in a session that stands: `local` is what this end offers. The outcome is told as `Notice::Restarted` or
    /// `Notice::NotRestarted`.
    pub fn restart(&mut self, now: Instant, id: SessionId, local: Quic) {
        match self.calls.get_mut(&id) {
            Some(Call { phase: Phase::Established | Phase::Accepted(_), upkeep, .. }) if upkeep.agreed.is_some() => {
                upkeep.restart = Some(Box::new(Restart { local, at: now, is_sent: false, sent: Bytes::new() }));
                self.on_restart_timer(now, id);
                self.arm(id);
            }
            _ => self.not_restarted(id, RestartError::NoSession),
        }
        self.work(now);
    }

    pub(super) fn not_restarted(&mut self, id: SessionId, error: RestartError) {
        self.notices.push_back(Notice::NotRestarted { id, error });
    }

    /// Time has passed for a restart, ours or theirs.
    pub(super) fn on_restart_timer(&mut self, now: Instant, id: SessionId) {
        let Some(Call { upkeep, phase, .. }) = self.calls.get_mut(&id) else { return };
        let late = upkeep.reoffer.take_if(|reoffer| reoffer.limit <= now);
        let busy = upkeep.answered.is_some() || upkeep.refresh.is_some() || upkeep.reoffer.is_some();
        let waits = busy || !matches!(phase, Phase::Established);
        let given_up = upkeep.restart.take_if(|restart| restart.is_sent && restart.at <= now).is_some();
        if given_up {
            // A late answer is acknowledged, and no more.
            upkeep.refresh = None;
        }
        let due = upkeep.restart.as_mut().filter(|restart| !restart.is_sent && restart.at <= now);
        let sends = due.is_some_and(|restart| {
            restart.at = now + PAUSE;
            !waits
        });
        if given_up {
            self.not_restarted(id, RestartError::NoAnswer("no response in time".to_owned()));
        }
        if let Some(reoffer) = late {
            self.respond(now, reoffer.server, refusal(&reoffer.request, 500, "No Decision In Time"));
        }
        if sends {
            self.send_restart(now, id);
        }
    }

    fn send_restart(&mut self, now: Instant, id: SessionId) {
        let contact = self.contact();
        let Some(Call { dialog: Some(dialog), upkeep, .. }) = self.calls.get_mut(&id) else { return };
        let (Some(restart), Some(agreed)) = (&mut upkeep.restart, &upkeep.agreed) else { return };
        let Ok(sdp) = agreed.write(&upkeep.local_sdp, &restart.local, true) else {
            upkeep.restart = None;
            return self.not_restarted(id, RestartError::NoSession);
        };
        let interval = upkeep.timer.as_ref().map_or(INTERVAL, |timer| timer.interval());
        let expires = SessionExpires { interval, by_caller: Some(true) };
        let sdp = Bytes::from(sdp);
        let mut request = dialog
            .request(Method::Invite)
            .header(name::CONTACT, contact)
            .header(name::ALLOW, ALLOW)
            .header(name::SUPPORTED, SUPPORTED)
            .header(name::SESSION_EXPIRES, expires)
            .header(name::MIN_SE, MIN_INTERVAL.as_secs())
            .header(name::USER_AGENT, USER_AGENT)
            .body(sdp::CONTENT_TYPE, sdp.clone())
            .build();
        (restart.at, restart.is_sent) = (now + ANSWERED_WITHIN, true);
        restart.sent = sdp;
        self.wallet.authorize(&mut request);
        self.send_refresh(now, id, request);
    }

    /// The final answer to a request that offered a restart of ours. `false`: it offered none.
    pub(super) fn on_restart_response(&mut self, now: Instant, id: SessionId, status: u16, response: &Message) -> bool {
        let Some(Call { upkeep, .. }) = self.calls.get_mut(&id) else { return false };
        let Some(restart) = upkeep.restart.take_if(|restart| restart.is_sent) else { return false };
        match status {
            200..=299 => {
                let read = upkeep.agreed.as_ref().map(|agreed| agreed.read(response.body()));
                // What was offered and accepted is what stands, whatever is answered.
                upkeep.local_sdp = restart.sent;
                match read {
                    Some(Ok(Some(remote))) => {
                        upkeep.note_remote(response.body(), &remote);
                        self.notices.push_back(Notice::Restarted { id, remote });
                    }
                    Some(Ok(None)) => {
                        self.not_restarted(id, RestartError::BadAnswer("its ICE is the same as before".into()))
                    }
                    Some(Err(error)) => self.not_restarted(id, RestartError::BadAnswer(error.to_string())),
                    None => self.not_restarted(id, RestartError::NoSession),
                }
            }
            491 => {
                let wait = wait_after_glare(upkeep.caller);
                upkeep.restart = Some(Box::new(Restart { at: now + wait, is_sent: false, ..*restart }));
            }
            _ => {
                let reason = response.reason().into_owned();
                self.not_restarted(id, RestartError::Rejected { status, reason });
            }
        }
        true
    }

    /// Nothing came back. `false`: no restart was on its way.
    pub(super) fn on_restart_silence(&mut self, id: SessionId, why: Option<&str>) -> bool {
        let Some(Call { upkeep, .. }) = self.calls.get_mut(&id) else { return false };
        if upkeep.restart.take_if(|restart| restart.is_sent).is_none() {
            return false;
        }
        upkeep.refresh = None;
        self.not_restarted(id, RestartError::NoAnswer(why.unwrap_or("no response in time").to_owned()));
        true
    }

    /// An INVITE within the dialog that describes the other end's ICE anew: the user answers.
    pub(super) fn on_reoffer(
        &mut self,
        now: Instant,
        server: ServerId,
        id: SessionId,
        request: &Message,
        remote: Quic,
    ) {
        self.layer.respond(now, server, &Message::response_to(request, 100, "Trying").build());
        let Some(Call { upkeep, .. }) = self.calls.get_mut(&id) else { return };
        let reoffer = Reoffer { server, request: request.clone(), remote: remote.clone(), limit: now + DECISION };
        upkeep.reoffer = Some(Box::new(reoffer));
        self.arm(id);
        self.notices.push_back(Notice::Restarting { id, remote });
    }

    /// Our user's end for the restart that the other side asked for; without it the session goes on as it was.
    pub fn answer_restart(&mut self, now: Instant, id: SessionId, local: Option<Quic>) {
        let Some(Call { upkeep, .. }) = self.calls.get_mut(&id) else { return };
        let Some(reoffer) = upkeep.reoffer.take() else { return };
        let Reoffer { server, request, remote, .. } = *reoffer;
        let answer =
            local.as_ref().and_then(|local| upkeep.agreed.as_ref()?.write(&upkeep.local_sdp, local, false).ok());
        match answer {
            None => {
                self.respond(now, server, refusal(&request, 500, "No Path Can Be Offered"));
            }
            Some(sdp) => {
                upkeep.local_sdp = Bytes::from(sdp);
                upkeep.note_remote(request.body(), &remote);
                // One of ours that waited for its turn is not needed any more: both ends have been described anew.
                if upkeep.restart.take().is_some() {
                    self.not_restarted(id, RestartError::Superseded);
                }
                self.accept_refresh(now, server, id, &request);
            }
        }
        self.arm(id);
        self.work(now);
    }

    /// CANCEL of a restart that the other side asked for. `false`: it is not about one.
    pub(super) fn cancel_reoffer(&mut self, now: Instant, invite: ServerId) -> bool {
        let is_it = |call: &Call| call.upkeep.reoffer.as_ref().is_some_and(|reoffer| reoffer.server == invite);
        let id = self.calls.iter().find(|(_, call)| is_it(call)).map(|(id, _)| *id);
        id.is_some_and(|id| {
            self.drop_reoffer(now, id);
            self.arm(id);
            true
        })
    }

    /// A restart that the other side asked for is not wanted any more (RFC 3261 9.2, 15.1.2).
    pub(super) fn drop_reoffer(&mut self, now: Instant, id: SessionId) {
        let reoffer = self.calls.get_mut(&id).and_then(|call| call.upkeep.reoffer.take());
        if let Some(reoffer) = reoffer {
            self.respond(now, reoffer.server, refusal(&reoffer.request, 487, "Request Terminated"));
        }
    }
}
