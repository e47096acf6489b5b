//! SUBSCRIBE at the hub (RFC 6665 4.2.1), to a user's presence, to a user's own registrations, or to a list.

use super::{About, LISTS, List, MAX_OF_WATCHER, MAX_SUBSCRIPTIONS, Subscription};
use crate::dialog::{Dialog, DialogKey};
use crate::hub::home::HomeProxy;
use crate::hub::location::Lookup;
use crate::message::{Message, ResponseBuilder, Uri, name};
use crate::presence::event::{PRESENCE, REG, event};
use crate::presence::lists::{MAX_RESOURCES, members};
use crate::presence::notifier::Notifier;
use crate::random;
use crate::transaction::ServerId;
use crate::transport::Flow;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A list that comes with the SUBSCRIBE (RFC 5367 4).
const RECIPIENT_LIST: &str = "recipient-list-subscribe";

impl HomeProxy {
    pub(super) fn on_subscribe(&mut self, now: Instant, server: ServerId, flow: Flow, request: &Message) {
        let key = DialogKey::of_request(request);
        let known = key.and_then(|key| self.presence.dialogs.get(&key).copied());
        let outcome = match known {
            Some(id) => self.resubscribe(now, flow, request, id),
            None if request.to_tag().is_some() => {
                Err(Box::new(Message::response_to(request, 481, "Subscription Does Not Exist")))
            }
            None => self.subscribe(now, flow, request),
        };
        match outcome {
            Ok((answer, id)) => {
                self.respond(now, server, answer.header(name::CONTACT, self.presence_contact(flow)));
                self.presence.ready.insert(id);
            }
            Err(answer) => self.respond(now, server, *answer),
        }
    }

    fn subscribe(
        &mut self,
        now: Instant,
        flow: Flow,
        request: &Message,
    ) -> Result<(ResponseBuilder, u64), Box<ResponseBuilder>> {
        let refuse = |status, reason: &str| Box::new(Message::response_to(request, status, reason));
        self.understood(request, &[LISTS, RECIPIENT_LIST])?;
        let Some((package, event_id)) = event(request).filter(|(package, _)| [PRESENCE, REG].contains(package)) else {
            let answer = Message::response_to(request, 489, "Bad Event");
            return Err(Box::new(answer.header(name::ALLOW_EVENTS, super::EVENTS)));
        };
        if event_id.as_ref().is_some_and(|id| id.len() > 128) {
            return Err(refuse(400, "Event Id Too Long"));
        }
        let reg = package == REG;
        let watcher = self.sender(now, flow, request)?;
        let watcher_record: Arc<str> = match self.is_ours(&watcher) {
            true => self.record(&watcher).into(),
            false => watcher.as_str().into(),
        };
        let uri = request.request_uri().map_err(|_| refuse(400, "Bad Request-URI"))?.aor();
        let expires = self.granted(request)?;
        let about = match reg {
            true => self.about_registrations(now, request, &uri, &watcher_record)?,
            false => self.about_presence(now, request, &uri)?,
        };
        let presence = &self.presence;
        let mine = presence.of_watcher.get(&watcher_record).copied().unwrap_or_default();
        if presence.subscriptions.len() >= MAX_SUBSCRIPTIONS || mine >= MAX_OF_WATCHER {
            let answer = Message::response_to(request, 503, "Too Many Subscriptions");
            return Err(Box::new(answer.header(name::RETRY_AFTER, 60)));
        }
        let tag = random::tag();
        let dialog = Dialog::of_called(request, &tag).ok_or_else(|| refuse(400, "Contact Missing"))?;
        let answer = accepted(request, &about, expires).to_tag(&tag);
        let id = self.presence.add(Subscription {
            notifier: Notifier::new(now, expires),
            dialog,
            source: flow,
            event_id,
            watcher,
            watcher_record,
            about,
            version: 0,
            forced: true,
            armed: None,
        });
        Ok((answer, id))
    }

    /// SUBSCRIBE within the dialog: a refresh, or with no expiry the end. Each is followed by the whole state (RFC 6665 4.2.1.2).
    fn resubscribe(
        &mut self,
        now: Instant,
        flow: Flow,
        request: &Message,
        id: u64,
    ) -> Result<(ResponseBuilder, u64), Box<ResponseBuilder>> {
        let refuse = |status, reason: &str| Box::new(Message::response_to(request, status, reason));
        self.understood(request, &[LISTS, RECIPIENT_LIST])?;
        self.sender(now, flow, request)?;
        let expires = self.granted(request)?;
        let known = self.presence.subscriptions.get_mut(&id).filter(|known| !known.notifier.has_ended());
        let Some(subscription) = known else { return Err(refuse(481, "Subscription Does Not Exist")) };
        if event(request).is_none_or(|(package, _)| package != subscription.about.event()) {
            return Err(refuse(489, "Bad Event"));
        }
        subscription.dialog.admit(request).map_err(|status| match status {
            481 => refuse(481, "Subscription Does Not Exist"),
            _ => refuse(status, "CSeq Out Of Order"),
        })?;
        subscription.dialog.retarget(request);
        subscription.source = flow;
        subscription.forced = true;
        if let About::List(list) = &mut subscription.about {
            list.full = true;
        }
        subscription.notifier.on_subscribe(now, expires);
        let answer = accepted(request, &subscription.about, expires);
        self.presence.arm(id);
        Ok((answer, id))
    }

    /// Registrations are shown to their owner alone (RFC 3680 4.6).
    fn about_registrations(
        &self,
        now: Instant,
        request: &Message,
        uri: &Uri,
        watcher: &str,
    ) -> Result<About, Box<ResponseBuilder>> {
        let refuse = |status, reason: &str| Box::new(Message::response_to(request, status, reason));
        if uri.user().is_none() || (self.guard.is_some() && self.is_stranger(now, uri)) {
            return Err(refuse(404, "Not Found"));
        }
        let record = self.record(uri);
        match record == watcher {
            true => Ok(About::Reg { record: record.into(), entity: uri.clone(), ended: Vec::new() }),
            false => Err(refuse(403, "Not Your Registrations")),
        }
    }

    fn about_presence(&self, now: Instant, request: &Message, uri: &Uri) -> Result<About, Box<ResponseBuilder>> {
        let refuse = |status, reason: &str| Box::new(Message::response_to(request, status, reason));
        let list = |members| {
            if !request.has_token(name::SUPPORTED, LISTS) && !request.has_token(name::REQUIRE, LISTS) {
                let answer = Message::response_to(request, 421, "Extension Required");
                return Err(Box::new(answer.header(name::REQUIRE, LISTS)));
            }
            let (told, changed) = (HashMap::new(), BTreeSet::new());
            Ok(About::List(Box::new(List { uri: uri.clone(), members, told, changed, full: true })))
        };
        if uri.user().is_none() {
            return list(self.sent_along(request)?);
        }
        let record = self.record(uri);
        if let Some(members) = self.presence.groups.get(&record) {
            return list(Some(members.clone()));
        }
        if self.is_stranger(now, uri) {
            return Err(refuse(404, "Not Found"));
        }
        Ok(About::Presence { record: record.into(), entity: uri.clone(), told: None })
    }

    /// The list that came with the request; `None`: none did.
    fn sent_along(&self, request: &Message) -> Result<Option<Vec<Arc<str>>>, Box<ResponseBuilder>> {
        let refuse = |status, reason: &str| Box::new(Message::response_to(request, status, reason));
        if request.body().is_empty() {
            return Ok(None);
        }
        if !matches!(request.content_type(), Ok(Some(kind)) if kind.is("application", "resource-lists+xml")) {
            let answer = Message::response_to(request, 415, "Unsupported Media Type");
            return Err(Box::new(answer.header(name::ACCEPT, "application/resource-lists+xml")));
        }
        let uris = members(request.body()).map_err(|error| refuse(400, &format!("Bad List: {error}")))?;
        if uris.is_empty() || uris.len() > MAX_RESOURCES {
            return Err(refuse(400, "Bad List: no resource, or too many"));
        }
        let ours = |uri: &Uri| uri.is_sip() && uri.user().is_some() && self.is_ours(uri);
        if !uris.iter().all(ours) {
            return Err(refuse(403, "The List Names Users Of Other Domains"));
        }
        let mut records: Vec<Arc<str>> = uris.iter().map(|uri| self.record(uri).into()).collect();
        records.sort();
        records.dedup();
        Ok(Some(records))
    }

    /// The hub has users, and this is none of them. A hub that gives every name the same password, or asks for none, knows everybody.
    fn is_stranger(&self, now: Instant, uri: &Uri) -> bool {
        let open = self.guard.as_ref().is_none_or(|guard| guard.knows_everybody());
        !open && matches!(self.location.lookup(&self.record(uri), now), Lookup::Unknown)
    }
}

fn accepted(request: &Message, about: &About, expires: Duration) -> ResponseBuilder {
    let answer = Message::response_to(request, 200, "OK").header(name::EXPIRES, expires.as_secs());
    match about {
        About::List(_) => answer.header(name::REQUIRE, LISTS),
        _ => answer,
    }
}
