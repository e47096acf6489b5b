//! SUBSCRIBE to presence, and the NOTIFYs that follow (RFC 6665 4.1, RFC 3856, RFC 4662).

use super::publishing::min_expires;
use super::{Notice, Purpose, USER_AGENT, UserAgent, refusal};
use crate::agent::{PresenceError, SubscriptionId};
use crate::backoff::Failure;
use crate::dialog::{Dialog, DialogKey};
use crate::message::{Message, Method, Uri, address, name};
use crate::presence::event::{self, PRESENCE, Standing, SubscriptionState};
use crate::presence::subscription::{Ask, Heard, Subscription};
use crate::presence::{NotificationError, Update};
use crate::random;
use crate::transaction::ServerId;
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// The bodies of NOTIFY that are understood.
const ACCEPT: &str = "application/pidf+xml, application/rlmi+xml, multipart/related";
/// Lists are understood (RFC 4662 4.1).
pub(super) const LISTS: &str = "eventlist";

/// All subscriptions.
#[derive(Default)]
pub(super) struct Watches {
    all: HashMap<SubscriptionId, Watch>,
    dialogs: HashMap<DialogKey, SubscriptionId>,
}

struct Watch {
    machine: Subscription,
    resource: Uri,
    /// The last SUBSCRIBE, without Via.
    request: Message,
    /// Made by the first NOTIFY (RFC 6665 4.4.1).
    dialog: Option<Dialog>,
    /// Of the last notification about a list (RFC 4662 5.2).
    version: Option<u32>,
    /// The user has been told that it fails, and not yet that it stands again.
    lost: bool,
}

impl Watches {
    pub fn next(&self) -> Option<Instant> {
        self.all.values().filter_map(|watch| watch.machine.next()).min()
    }

    pub fn ids(&self) -> Vec<SubscriptionId> {
        self.all.keys().copied().collect()
    }

    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.all.len() + self.dialogs.len()
    }
}

impl UserAgent {
    /// Subscribes to the presence of `resource`, or with `fetch` asks once.
    pub fn subscribe(&mut self, now: Instant, id: SubscriptionId, resource: &Uri, fetch: bool) {
        let machine = Subscription::new(self.config.expires, fetch);
        let request = self.write_subscribe(resource, machine.expires());
        let watch = Watch { machine, resource: resource.clone(), request, dialog: None, version: None, lost: false };
        self.watches.all.insert(id, watch);
        self.send_subscribe(now, id);
        self.work(now);
    }

    /// Ends a subscription.
    pub fn unsubscribe(&mut self, now: Instant, id: SubscriptionId) {
        self.drop_watch(now, id);
        self.work(now);
    }

    pub(super) fn drop_watch(&mut self, now: Instant, id: SubscriptionId) {
        // One that is ending waits for its last notification.
        let Some(watch) = self.watches.all.get_mut(&id).filter(|watch| watch.machine.is_wanted()) else { return };
        match watch.machine.end() {
            Some(_) if watch.dialog.is_some() => self.send_in_dialog(now, id),
            _ => self.forget_watch(id),
        }
    }

    fn write_subscribe(&self, resource: &Uri, expires: Duration) -> Message {
        let identity = self.main.service.identity.as_ref().unwrap_or(&self.config.aor);
        let mut request = Message::request(Method::Subscribe, resource);
        for proxy in &self.main.service.route {
            request = request.header(name::ROUTE, proxy);
        }
        let request = request
            .header(name::MAX_FORWARDS, 70)
            .header(name::FROM, address(None, identity, &[("tag", Some(&random::tag()))]))
            .header(name::TO, address(None, resource, &[]))
            .header(name::CALL_ID, random::token())
            .header(name::CSEQ, "1 SUBSCRIBE");
        self.finish_subscribe(request, expires)
    }

    fn finish_subscribe(&self, request: crate::message::RequestBuilder, expires: Duration) -> Message {
        request
            .header(name::CONTACT, self.contact())
            .header(name::EVENT, PRESENCE)
            .header(name::ACCEPT, ACCEPT)
            .header(name::SUPPORTED, LISTS)
            .header(name::EXPIRES, expires.as_secs())
            .header(name::USER_AGENT, USER_AGENT)
            .build()
    }

    /// Sends the SUBSCRIBE that has been written.
    fn send_subscribe(&mut self, now: Instant, id: SubscriptionId) {
        let Some(watch) = self.watches.all.get_mut(&id) else { return };
        self.wallet.authorize(&mut watch.request);
        let request = watch.request.clone();
        if let Some(key) = dialog_key(&request) {
            self.watches.dialogs.insert(key, id);
        }
        self.send(now, request, Purpose::Subscribe(id));
    }

    /// A refresh or the end, as the machine has it.
    fn send_in_dialog(&mut self, now: Instant, id: SubscriptionId) {
        let Some(watch) = self.watches.all.get_mut(&id) else { return };
        let Some(dialog) = &mut watch.dialog else { return };
        let (request, expires) = (dialog.request(Method::Subscribe), watch.machine.expires());
        let request = self.finish_subscribe(request, expires);
        if let Some(watch) = self.watches.all.get_mut(&id) {
            watch.request = request;
        }
        self.send_subscribe(now, id);
    }

    pub(super) fn on_subscribe_response(&mut self, now: Instant, id: SubscriptionId, status: u16, response: &Message) {
        let limit = self.layer.timing().limit();
        let Some(watch) = self.watches.all.get_mut(&id) else { return };
        // An answer to what has been given up meanwhile.
        if response.call_id().ok() != watch.request.call_id().ok() {
            return;
        }
        match status {
            200..=299 => {
                let granted = response.expires().map(|seconds| Duration::from_secs(seconds.into()));
                let granted = granted.unwrap_or(watch.machine.expires());
                watch.machine.on_accepted(now, granted, limit, random::fraction());
                self.wallet.accepted(response);
            }
            401 | 407 => match self.wallet.retry(&mut watch.request, response) {
                Ok(()) => {
                    let cseq = match &mut watch.dialog {
                        Some(dialog) => dialog.next_cseq(),
                        None => watch.request.cseq().map_or(1, |cseq| cseq.number + 1),
                    };
                    watch.request.set(name::CSEQ, format_args!("{cseq} SUBSCRIBE"));
                    let request = watch.request.clone();
                    self.send(now, request, Purpose::Subscribe(id));
                }
                Err(why) => self.not_subscribed(now, id, why.into(), Failure::Final, false),
            },
            423 if watch.machine.on_too_brief(min_expires(response)) => {
                let (resource, expires) = (watch.resource.clone(), watch.machine.expires());
                self.renew(now, id, &resource, expires);
            }
            _ => {
                let after = response.retry_after().map(|seconds| Duration::from_secs(seconds.into()));
                let error = PresenceError::Rejected { status, reason: response.reason().into_owned() };
                let failure = if error.is_final() { Failure::Final } else { Failure::Refused(after) };
                self.not_subscribed(now, id, error, failure, status == 481);
            }
        }
    }

    pub(super) fn on_subscribe_silence(&mut self, now: Instant, id: SubscriptionId, why: Option<&str>) {
        match why {
            Some(why) => {
                let error = PresenceError::Unreachable { why: why.to_owned() };
                self.not_subscribed(now, id, error, Failure::Unreachable, false);
            }
            None => self.not_subscribed(now, id, PresenceError::Timeout, Failure::Silence, false),
        }
    }

    fn not_subscribed(&mut self, now: Instant, id: SubscriptionId, error: PresenceError, failure: Failure, gone: bool) {
        let Some(watch) = self.watches.all.get_mut(&id) else { return };
        let wanted = watch.machine.is_wanted();
        let over = watch.machine.on_failure(now, failure, gone, random::fraction());
        let told = wanted && (over || (!gone && !std::mem::replace(&mut watch.lost, true)));
        self.leave_dialog(id);
        if over {
            self.forget_watch(id);
        }
        if told {
            self.notices.push_back(Notice::SubscriptionLost { id, error, over });
        }
    }

    /// Subscribes once more, in a dialog of its own.
    fn renew(&mut self, now: Instant, id: SubscriptionId, resource: &Uri, expires: Duration) {
        self.leave_dialog(id);
        let request = self.write_subscribe(resource, expires);
        if let Some(watch) = self.watches.all.get_mut(&id) {
            watch.request = request;
            self.send_subscribe(now, id);
        }
    }

    fn leave_dialog(&mut self, id: SubscriptionId) {
        let Some(watch) = self.watches.all.get_mut(&id) else { return };
        watch.dialog = None;
        watch.version = None;
        if let Some(key) = dialog_key(&watch.request) {
            self.watches.dialogs.remove(&key);
        }
    }

    fn forget_watch(&mut self, id: SubscriptionId) {
        self.leave_dialog(id);
        self.watches.all.remove(&id);
    }

    pub(super) fn on_watch_timers(&mut self, now: Instant) {
        for id in self.watches.ids() {
            let Some(watch) = self.watches.all.get_mut(&id) else { continue };
            let (resource, due) = (watch.resource.clone(), watch.machine.on_timer(now));
            match due {
                Ok(None) => {}
                Ok(Some(Ask::New)) => {
                    let expires = watch.machine.expires();
                    self.renew(now, id, &resource, expires);
                }
                Ok(Some(Ask::Refresh | Ask::End)) => self.send_in_dialog(now, id),
                Err(()) => self.not_subscribed(now, id, PresenceError::Silent, Failure::Silence, false),
            }
        }
    }

    /// The way to the server broke: whether the subscriptions still stand is to be found out soon.
    pub(super) fn doubt_watches(&mut self, now: Instant) {
        for watch in self.watches.all.values_mut() {
            watch.machine.on_doubt(now, random::fraction());
        }
    }

    pub(super) fn on_notify(&mut self, now: Instant, server: ServerId, notify: &Message) {
        let answer = match self.read_notify(now, notify) {
            Ok(()) => refusal(notify, 200, "OK"),
            Err((415, why)) => refusal(notify, 415, why).header(name::ACCEPT, ACCEPT),
            Err((489, why)) => refusal(notify, 489, why).header(name::ALLOW_EVENTS, PRESENCE),
            Err((status, why)) => refusal(notify, status, why),
        };
        self.respond(now, server, answer);
    }

    fn read_notify(&mut self, now: Instant, notify: &Message) -> Result<(), (u16, &'static str)> {
        const GONE: (u16, &str) = (481, "Subscription Does Not Exist");
        let key = DialogKey::of_request(notify).ok_or(GONE)?;
        let id = self.watches.dialogs.get(&key).copied().ok_or(GONE)?;
        let watch = self.watches.all.get_mut(&id).ok_or(GONE)?;
        if event::event(notify).is_none_or(|(package, _)| package != PRESENCE) {
            return Err((489, "Bad Event"));
        }
        let state = SubscriptionState::of(notify).ok_or((400, "Bad Subscription-State"))?;
        match &mut watch.dialog {
            // Of several that a forked SUBSCRIBE makes, the first is kept (RFC 3856 6.9).
            Some(dialog) => dialog.admit(notify).map_err(|status| match status {
                481 => GONE,
                _ => (status, "CSeq Out Of Order"),
            })?,
            None => {
                let local_tag = watch.request.from_tag().unwrap_or_default();
                let mut dialog = Dialog::of_called(notify, local_tag).ok_or((400, "Bad Request"))?;
                dialog.counted(watch.request.cseq().map_or(1, |cseq| cseq.number));
                watch.dialog = Some(dialog);
            }
        }
        if let Some(dialog) = &mut watch.dialog {
            dialog.retarget(notify);
        }
        let update = match notify.body().is_empty() {
            // An active subscription to one that has nothing to tell. (A list would say so, RFC 4662 5.2.)
            true if state.standing == Standing::Active && !notify.has_token(name::REQUIRE, LISTS) => {
                Ok(Some(Update { full: true, version: None, changes: vec![(watch.resource.clone(), None)] }))
            }
            true => Ok(None),
            false => {
                let kind = notify.header(name::CONTENT_TYPE).map(|kind| kind.text()).unwrap_or_default();
                Update::parse(&watch.resource, &kind, notify.body()).map(Some)
            }
        };
        let wanted = watch.machine.is_wanted();
        let heard = watch.machine.on_notify(now, &state, random::fraction());
        if let Ok(Some(update)) = &update {
            let gap = !update.full && update.version.is_some() && update.version != watch.version.map(|last| last + 1);
            watch.version = update.version;
            if gap && heard == Heard::Stands {
                // Something was missed: SUBSCRIBE brings the whole list (RFC 4662 5.2).
                watch.machine.hurry(now);
            }
        }
        let answer = match update {
            Ok(Some(update)) if wanted => {
                watch.lost = false;
                self.notices.push_back(Notice::Presence { id, update });
                Ok(())
            }
            Ok(_) => Ok(()),
            Err(NotificationError::Type) => Err((415, "Unsupported Media Type")),
            Err(_) => Err((400, "Bad Presence Document")),
        };
        match heard {
            Heard::Stands => {}
            Heard::Ended => self.leave_dialog(id),
            Heard::Over => {
                self.forget_watch(id);
                if wanted {
                    let error = PresenceError::Ended { reason: state.reason.unwrap_or_default() };
                    self.notices.push_back(Notice::SubscriptionLost { id, error, over: true });
                }
            }
        }
        answer
    }
}

/// The dialog that a SUBSCRIBE of ours makes or belongs to.
fn dialog_key(request: &Message) -> Option<DialogKey> {
    Some(DialogKey::new(request.call_id().ok()?, request.from_tag()?))
}
