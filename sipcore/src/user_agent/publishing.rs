//! PUBLISH: written and read (RFC 3903 4).

use super::credentials::CannotAnswer;
use super::{Notice, Purpose, USER_AGENT, UserAgent};
use crate::agent::PresenceError;
use crate::backoff::Failure;
use crate::message::{Message, Method, address, name};
use crate::presence::event::PRESENCE;
use crate::presence::publication::{Act, Publication};
use crate::presence::{self, Document, Tuple};
use crate::random;
use bytes::Bytes;
use std::time::{Duration, Instant};

/// What this agent publishes.
pub(super) struct Publisher {
    pub machine: Publication,
    /// As the user gave it, without contacts.
    tuples: Vec<Tuple>,
    /// The last PUBLISH, without Via.
    request: Option<Message>,
    /// How many tuples are kept back from this server, as the user has been told.
    withheld: usize,
}

impl Publisher {
    pub fn new(expires: Duration) -> Self {
        Publisher { machine: Publication::new(expires), tuples: Vec::new(), request: None, withheld: 0 }
    }
}

impl UserAgent {
    /// From now on this is published as our presence; nothing: it is removed. Each tuple gets our GRUU for a contact.
    pub fn publish(&mut self, now: Instant, tuples: Vec<Tuple>) {
        self.publisher.tuples = tuples;
        self.write_document();
        if self.is_registered() {
            self.tell_withheld();
        }
        self.work_on_publication(now);
        self.work(now);
    }

    /// The registration stands, `anew` after it had been lost.
    pub(super) fn publish_where_registered(&mut self, now: Instant, anew: bool) {
        self.write_document();
        self.tell_withheld();
        self.publisher.machine.allow(anew);
        self.work_on_publication(now);
    }

    /// Who must not know of a tuple would be told by a server that knows nothing of watchers.
    fn is_withheld(&self, tuple: &Tuple) -> bool {
        tuple.watchers.is_some() && !self.main.service.watchers
    }

    fn tell_withheld(&mut self) {
        let sockets = self.publisher.tuples.iter().filter(|tuple| self.is_withheld(tuple)).count();
        if std::mem::replace(&mut self.publisher.withheld, sockets) < sockets {
            self.notices.push_back(Notice::NotPublished(PresenceError::Withheld { sockets }));
        }
    }

    fn write_document(&mut self) {
        let contact = self.main.service.gruu.as_ref().unwrap_or(&self.main.contact);
        let shown = |tuple: &&Tuple| !self.is_withheld(tuple);
        let with_contact = |tuple: &Tuple| Tuple { contact: Some(contact.clone()), ..tuple.clone() };
        let tuples: Vec<Tuple> = self.publisher.tuples.iter().filter(shown).map(with_contact).collect();
        let document = (!tuples.is_empty()).then(|| {
            let entity = self.main.service.identity.as_ref().unwrap_or(&self.config.aor).to_string();
            Bytes::from(Document { entity, tuples }.to_xml())
        });
        self.publisher.machine.set(document);
    }

    /// Sends what is due.
    pub(super) fn work_on_publication(&mut self, now: Instant) {
        let Some(act) = self.publisher.machine.poll() else { return };
        let presentity = self.main.service.identity.as_ref().unwrap_or(&self.config.aor).clone();
        let mut request = Message::request(Method::Publish, &presentity);
        for proxy in &self.main.service.route {
            request = request.header(name::ROUTE, proxy);
        }
        let expires = match act {
            Act::Remove { .. } => Duration::ZERO,
            _ => self.publisher.machine.expires(),
        };
        let request = request
            .header(name::MAX_FORWARDS, 70)
            .header(name::FROM, address(None, &presentity, &[("tag", Some(&random::tag()))]))
            .header(name::TO, address(None, &presentity, &[]))
            .header(name::CALL_ID, random::token())
            .header(name::CSEQ, "1 PUBLISH")
            .header(name::EVENT, PRESENCE)
            .header(name::EXPIRES, expires.as_secs())
            .header(name::USER_AGENT, USER_AGENT);
        let mut request = match act {
            Act::Create(document) => request.body(presence::CONTENT_TYPE, document),
            Act::Refresh { etag } | Act::Remove { etag } => request.header(name::SIP_IF_MATCH, etag),
            Act::Modify { etag, document } => {
                request.header(name::SIP_IF_MATCH, etag).body(presence::CONTENT_TYPE, document)
            }
        }
        .build();
        self.wallet.authorize(&mut request);
        self.publisher.request = Some(request.clone());
        self.send(now, request, Purpose::Publish);
    }

    pub(super) fn on_publish_response(&mut self, now: Instant, status: u16, response: &Message) {
        let Some(mut request) = self.publisher.request.take() else { return };
        let machine = &mut self.publisher.machine;
        match status {
            200..=299 => {
                let etag = response.header(name::SIP_ETAG).map(|tag| tag.text().into_owned());
                let granted = response.expires().map(|seconds| Duration::from_secs(seconds.max(1).into()));
                let granted = granted.unwrap_or(machine.expires());
                // As with REGISTER: nothing else tells that a server has restarted and forgotten it.
                let granted = self.config.refresh.map_or(granted, |longest| granted.min(longest * 2));
                machine.on_success(now, etag.as_deref(), granted, random::fraction());
                self.wallet.accepted(response);
            }
            401 | 407 => match self.wallet.retry(&mut request, response) {
                Ok(()) => {
                    let cseq = request.cseq().map_or(1, |cseq| cseq.number + 1);
                    request.set(name::CSEQ, format_args!("{cseq} PUBLISH"));
                    self.publisher.request = Some(request.clone());
                    self.send(now, request, Purpose::Publish);
                    return;
                }
                Err(why) => self.not_published(now, why.into(), Failure::Final),
            },
            412 => machine.on_condition_failed(),
            423 if machine.on_too_brief(min_expires(response)) => {}
            _ => {
                let after = response.retry_after().map(|seconds| Duration::from_secs(seconds.into()));
                let error = PresenceError::Rejected { status, reason: response.reason().into_owned() };
                let failure = if error.is_final() { Failure::Final } else { Failure::Refused(after) };
                self.not_published(now, error, failure);
            }
        }
        self.work_on_publication(now);
    }

    pub(super) fn on_publish_silence(&mut self, now: Instant, why: Option<&str>) {
        self.publisher.request = None;
        match why {
            Some(why) => {
                self.not_published(now, PresenceError::Unreachable { why: why.to_owned() }, Failure::Unreachable);
            }
            None => self.not_published(now, PresenceError::Timeout, Failure::Silence),
        }
    }

    fn not_published(&mut self, now: Instant, error: PresenceError, failure: Failure) {
        if self.publisher.machine.on_failure(now, failure, random::fraction()) {
            self.notices.push_back(Notice::NotPublished(error));
        }
    }
}

impl From<CannotAnswer> for PresenceError {
    fn from(why: CannotAnswer) -> Self {
        match why {
            CannotAnswer::NoCredentials(realm) => PresenceError::NoCredentials { realm },
            CannotAnswer::Refused(realm) => PresenceError::BadCredentials { realm },
        }
    }
}

/// What a 423 asks for.
pub(super) fn min_expires(response: &Message) -> Duration {
    Duration::from_secs(response.seconds(name::MIN_EXPIRES).unwrap_or(0).into())
}
