//! PUBLISH at the hub (RFC 3903 6).

use super::compositor::{Published, Refusal};
use crate::hub::home::HomeProxy;
use crate::message::{Message, ResponseBuilder, name};
use crate::presence::event::{PRESENCE, event};
use crate::presence::xml::Element;
use crate::presence::{self, check};
use crate::transaction::ServerId;
use crate::transport::Flow;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The longest document, in bytes.
const MAX_DOCUMENT: usize = 48 * 1024;

impl HomeProxy {
    pub(super) fn on_publish(&mut self, now: Instant, server: ServerId, flow: Flow, request: &Message) {
        let answer = match self.publish(now, flow, request) {
            Ok(answer) => answer,
            Err(answer) => *answer,
        };
        self.respond(now, server, answer);
    }

    fn publish(
        &mut self,
        now: Instant,
        flow: Flow,
        request: &Message,
    ) -> Result<ResponseBuilder, Box<ResponseBuilder>> {
        let refuse = |status, reason: &str| Box::new(Message::response_to(request, status, reason));
        self.understood(request, &[])?;
        let from = self.sender(now, flow, request)?;
        let presentity = request.request_uri().map_err(|_| refuse(400, "Bad Request-URI"))?;
        let record = self.record(&presentity);
        if presentity.user().is_none() || self.presence.groups.contains_key(&record) {
            return Err(refuse(404, "Not Found"));
        }
        if !self.is_ours(&from) || self.record(&from) != record {
            return Err(refuse(403, "Not Your Presence"));
        }
        if event(request).is_none_or(|(package, _)| package != PRESENCE) {
            let answer = Message::response_to(request, 489, "Bad Event");
            return Err(Box::new(answer.header(name::ALLOW_EVENTS, PRESENCE)));
        }
        let expires = self.granted(request)?;
        let etag = request.header(name::SIP_IF_MATCH).map(|tag| tag.text().into_owned());
        let document = read_document(request)?;
        let expires_at = (!expires.is_zero()).then(|| now + expires);
        let etag = self.presence.compositor.publish(&record, etag.as_deref(), document, expires_at);
        let etag = etag.map_err(|refusal| match refusal {
            Refusal::ConditionFailed => refuse(412, "Conditional Request Failed"),
            Refusal::NoDocument => refuse(400, "Nothing Is Published"),
            Refusal::Full => {
                Box::new(Message::response_to(request, 503, "Too Much Presence").header(name::RETRY_AFTER, 60))
            }
        })?;
        self.presence.on_change(&Arc::from(record));
        let answer = Message::response_to(request, 200, "OK");
        Ok(answer.header(name::SIP_ETAG, etag).header(name::EXPIRES, expires.as_secs()))
    }

    /// The expiry that a PUBLISH or SUBSCRIBE is granted; 423 when it asks for less than there is.
    pub(super) fn granted(&self, request: &Message) -> Result<Duration, Box<ResponseBuilder>> {
        let asked =
            request.expires().map_or(self.limits.default_expires, |seconds| Duration::from_secs(seconds.into()));
        if !asked.is_zero() && asked < self.limits.min_expires {
            let min = self.limits.min_expires.as_secs_f64().ceil() as u64;
            let answer = Message::response_to(request, 423, "Interval Too Brief");
            return Err(Box::new(answer.header(name::MIN_EXPIRES, min)));
        }
        Ok(asked.min(self.limits.max_expires))
    }

    /// 420 when the request needs an extension that is not among these.
    pub(super) fn understood(&self, request: &Message, known: &[&str]) -> Result<(), Box<ResponseBuilder>> {
        let is_known = |tag: &&str| known.iter().any(|known| known.eq_ignore_ascii_case(tag));
        let unknown: Vec<&str> = request.tokens(name::REQUIRE).filter(|tag| !is_known(tag)).collect();
        match unknown.is_empty() {
            true => Ok(()),
            false => {
                let answer = Message::response_to(request, 420, "Bad Extension");
                Err(Box::new(answer.header(name::UNSUPPORTED, unknown.join(", "))))
            }
        }
    }

    /// Who sent a request, as an address of record; a hub with users asks for the password, and knows its users only by its own domains.
    pub(super) fn sender(
        &mut self,
        now: Instant,
        flow: Flow,
        request: &Message,
    ) -> Result<crate::message::Uri, Box<ResponseBuilder>> {
        let refuse = |status, reason: &str| Box::new(Message::response_to(request, status, reason));
        let from = request.from().ok().and_then(|from| from.uri().ok()).ok_or_else(|| refuse(400, "Bad From"))?.aor();
        let ours = self.is_ours(&from);
        if self.is_guest(flow, request) {
            return Ok(from);
        }
        if let Some(guard) = &mut self.guard {
            let user = from.user_decoded().unwrap_or_default();
            guard.check(now, flow, request, &user, true)?;
            if !ours {
                return Err(refuse(403, "Not A User Of This Hub"));
            }
        }
        Ok(from)
    }
}

fn read_document(request: &Message) -> Result<Option<Published>, Box<ResponseBuilder>> {
    let refuse = |status, reason: &str| Box::new(Message::response_to(request, status, reason));
    let body = request.body();
    if body.is_empty() {
        return Ok(None);
    }
    if body.len() > MAX_DOCUMENT {
        return Err(refuse(413, "Presence Document Too Large"));
    }
    if !matches!(request.content_type(), Ok(Some(kind)) if kind.is("application", "pidf+xml")) {
        let answer = Message::response_to(request, 415, "Unsupported Media Type");
        return Err(Box::new(answer.header(name::ACCEPT, presence::CONTENT_TYPE)));
    }
    let root = Element::parse(body).map_err(|error| refuse(400, &format!("Bad Presence Document: {error}")))?;
    check(&root).map_err(|error| refuse(400, &format!("Bad Presence Document: {error}")))?;
    Ok(Some(Published { root, bytes: body.len() }))
}
