//! OPTIONS to others (RFC 3261 11): what somebody is, and can do, without a session.

use super::credentials::CannotAnswer;
use super::{Notice, Purpose, USER_AGENT, UserAgent, software};
use crate::agent::{CallError, Capabilities, SessionId};
use crate::message::{Message, Method, Uri, address, name};
use crate::random;
use crate::sdp;
use std::time::Instant;

/// A question that waits for its answer.
pub(super) struct Question {
    /// As sent, without Via.
    request: Message,
    target: Uri,
    asked: Instant,
}

impl UserAgent {
    /// Asks `target` what it can do. The outcome is told as `Notice::Capable`.
    pub fn ask(&mut self, now: Instant, id: SessionId, target: &Uri) {
        let identity = self.main.service.identity.as_ref().unwrap_or(&self.config.aor);
        let mut request = Message::request(Method::Options, target);
        for proxy in &self.main.service.route {
            request = request.header(name::ROUTE, proxy);
        }
        let mut request = request
            .header(name::MAX_FORWARDS, 70)
            .header(name::FROM, address(None, identity, &[("tag", Some(&random::tag()))]))
            .header(name::TO, address(None, target, &[]))
            .header(name::CALL_ID, random::token())
            .header(name::CSEQ, "1 OPTIONS")
            .header(name::CONTACT, self.contact())
            .header(name::ACCEPT, sdp::CONTENT_TYPE)
            .header(name::USER_AGENT, USER_AGENT)
            .build();
        self.wallet.authorize(&mut request);
        self.send(now, request.clone(), Purpose::Options(id));
        self.questions.insert(id, Question { request, target: target.clone(), asked: now });
        self.work(now);
    }

    pub(super) fn on_options_response(&mut self, now: Instant, id: SessionId, status: u16, response: &Message) {
        let Some(Question { mut request, target, asked }) = self.questions.remove(&id) else { return };
        let outcome = match status {
            200..=299 => {
                let words = |header| response.tokens(header).map(str::to_owned).collect();
                Ok(Capabilities {
                    software: software(response),
                    methods: words(name::ALLOW),
                    accepts: words(name::ACCEPT),
                    round_trip: now.saturating_duration_since(asked),
                })
            }
            401 | 407 => match self.wallet.retry(&mut request, response) {
                Ok(()) => {
                    let cseq = request.cseq().map_or(1, |cseq| cseq.number) + 1;
                    request.set(name::CSEQ, format_args!("{cseq} OPTIONS"));
                    self.send(now, request.clone(), Purpose::Options(id));
                    self.questions.insert(id, Question { request, target, asked: now });
                    return;
                }
                Err(CannotAnswer::NoCredentials(realm)) => Err(CallError::NoCredentials { target, realm }),
                Err(CannotAnswer::Refused(realm)) => Err(CallError::BadCredentials { target, realm }),
            },
            _ => {
                let warning = response.warnings().next().map(|warning| warning.text.into_owned());
                let reason = response.reason().into_owned();
                Err(CallError::Rejected { target, status, reason, warning })
            }
        };
        self.notices.push_back(Notice::Capable { id, outcome });
    }

    pub(super) fn on_options_silence(&mut self, id: SessionId, why: Option<&str>) {
        let Some(Question { target, .. }) = self.questions.remove(&id) else { return };
        let hop = self.main.flow.remote;
        let error = match why {
            Some(why) => CallError::Unreachable { target, hop, why: self.all_reasons(why) },
            None => CallError::Timeout { target, hop },
        };
        self.notices.push_back(Notice::Capable { id, outcome: Err(error) });
    }
}
