//! SUBSCRIBE to presence and to our own registration, and the NOTIFYs that follow (RFC 6665 4.1, RFC 3856, RFC 4662, RFC 3680).

use super::publishing::min_expires;
use super::{Notice, Purpose, USER_AGENT, UserAgent, refusal};
use crate::agent::{PresenceError, SubscriptionId};
use crate::backoff::Failure;
use crate::dialog::{Dialog, DialogKey};
use crate::message::{Message, Method, RequestBuilder, Uri, address, name};
use crate::presence::event::{self, PRESENCE, REG, Standing, SubscriptionState};
use crate::presence::reginfo::{self, Reginfo};
use crate::presence::subscription::{Ask, Heard, Subscription};
use crate::presence::{NotificationError, Update};
use crate::random;
use crate::transaction::ServerId;
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// What a subscription is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Package {
    Presence,
    /// Our registration.
    Reg,
}

impl Package {
    fn event(self) -> &'static str {
        match self {
            Package::Presence => PRESENCE,
            Package::Reg => REG,
        }
    }

    /// The bodies of NOTIFY that are understood.
    fn accept(self) -> &'static str {
        match self {
            Package::Presence => "application/pidf+xml, application/rlmi+xml, multipart/related",
            Package::Reg => reginfo::CONTENT_TYPE,
        }
    }
}

/// What a NOTIFY tells.
enum Told {
    Presence(Update),
    Reg(Reginfo),
}
/// Lists are understood (RFC 4662 4.1).
pub(super) const LISTS: &str = "eventlist";

/// All subscriptions.
#[derive(Default)]
pub(super) struct Watches {
    all: HashMap<SubscriptionId, Watch>,
    dialogs: HashMap<DialogKey, SubscriptionId>,
}

struct Watch {
    package: Package,
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
        self.watch(now, id, Package::Presence, resource, fetch);
        self.work(now);
    }

    pub(super) fn watch(&mut self, now: Instant, id: SubscriptionId, package: Package, resource: &Uri, fetch: bool) {
        let machine = Subscription::new(self.config.expires, fetch);
        let request = self.write_subscribe(package, resource, machine.expires());
        let resource = resource.clone();
        let watch = Watch { package, machine, resource, request, dialog: None, version: None, lost: false };
        self.watches.all.insert(id, watch);
        self.send_subscribe(now, id);
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

    fn write_subscribe(&self, package: Package, resource: &Uri, expires: Duration) -> Message {
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
        self.finish_subscribe(package, request, expires)
    }

    fn finish_subscribe(&self, package: Package, request: RequestBuilder, expires: Duration) -> Message {
        let request = match package {
            Package::Presence => request.header(name::SUPPORTED, LISTS),
            Package::Reg => request,
        };
        // Not the GRUU: what is told of a registration that has ended would not find us by it, and not every server that notifies looks it up (Kamailio
        // asks DNS for its host).
        request
            .header(name::CONTACT, self.own_contact())
            .header(name::EVENT, package.event())
            .header(name::ACCEPT, package.accept())
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
        let (request, package, expires) = (dialog.request(Method::Subscribe), watch.package, watch.machine.expires());
        let request = self.finish_subscribe(package, request, expires);
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
        let (over, package) = (watch.machine.on_failure(now, failure, gone, random::fraction()), watch.package);
        let told = wanted && (over || (!gone && !std::mem::replace(&mut watch.lost, true)));
        self.leave_dialog(id);
        if over {
            self.forget_watch(id);
        }
        match package {
            Package::Presence if told => self.notices.push_back(Notice::SubscriptionLost { id, error, over }),
            Package::Presence => {}
            Package::Reg => self.on_registrations_untold(id, over, &error),
        }
    }

    /// Subscribes once more, in a dialog of its own.
    fn renew(&mut self, now: Instant, id: SubscriptionId, resource: &Uri, expires: Duration) {
        self.leave_dialog(id);
        let Some(package) = self.watches.all.get(&id).map(|watch| watch.package) else { return };
        let request = self.write_subscribe(package, resource, expires);
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
            Err((415, why)) => {
                let of_reg = event::event(notify).is_some_and(|(package, _)| package == REG);
                let package = if of_reg { Package::Reg } else { Package::Presence };
                refusal(notify, 415, why).header(name::ACCEPT, package.accept())
            }
            Err((489, why)) => refusal(notify, 489, why).header(name::ALLOW_EVENTS, format_args!("{PRESENCE}, {REG}")),
            Err((status, why)) => refusal(notify, status, why),
        };
        self.respond(now, server, answer);
    }

    fn read_notify(&mut self, now: Instant, notify: &Message) -> Result<(), (u16, &'static str)> {
        const GONE: (u16, &str) = (481, "Subscription Does Not Exist");
        let key = DialogKey::of_request(notify).ok_or(GONE)?;
        let id = self.watches.dialogs.get(&key).copied().ok_or(GONE)?;
        let watch = self.watches.all.get_mut(&id).ok_or(GONE)?;
        if event::event(notify).is_none_or(|(package, _)| package != watch.package.event()) {
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
        let told = read_body(watch, &state, notify);
        let wanted = watch.machine.is_wanted();
        let heard = watch.machine.on_notify(now, &state, random::fraction());
        let (full, version) = match &told {
            Ok(Some(Told::Presence(update))) => (update.full, update.version),
            Ok(Some(Told::Reg(info))) => (info.full, Some(info.version)),
            _ => (true, None),
        };
        if matches!(told, Ok(Some(_))) {
            let gap = !full && version.is_some() && version != watch.version.map(|last| last.wrapping_add(1));
            watch.version = version;
            if gap && heard == Heard::Stands {
                // Something was missed: SUBSCRIBE brings the whole state (RFC 4662 5.2, RFC 3680 5).
                watch.machine.on_gap(now);
            }
        }
        let package = watch.package;
        let answer = match told {
            Ok(Some(told)) if wanted => {
                watch.lost = false;
                match told {
                    Told::Presence(update) => self.notices.push_back(Notice::Presence { id, update }),
                    Told::Reg(info) => self.on_registrations(now, &info),
                }
                Ok(())
            }
            Ok(_) => Ok(()),
            Err(refused) => Err(refused),
        };
        match heard {
            Heard::Stands => {}
            Heard::Ended => self.leave_dialog(id),
            Heard::Over => {
                self.forget_watch(id);
                let error = PresenceError::Ended { reason: state.reason.unwrap_or_default() };
                match package {
                    Package::Presence if wanted => {
                        self.notices.push_back(Notice::SubscriptionLost { id, error, over: true });
                    }
                    Package::Presence => {}
                    Package::Reg => self.on_registrations_untold(id, true, &error),
                }
            }
        }
        answer
    }
}

/// What a NOTIFY tells; `None`: nothing.
fn read_body(watch: &Watch, state: &SubscriptionState, notify: &Message) -> Result<Option<Told>, (u16, &'static str)> {
    const TYPE: (u16, &str) = (415, "Unsupported Media Type");
    if notify.body().is_empty() {
        // An active subscription to one that has nothing to tell. (A list would say so, RFC 4662 5.2.)
        let absent = watch.package == Package::Presence
            && state.standing == Standing::Active
            && !notify.has_token(name::REQUIRE, LISTS);
        let update = Update { full: true, version: None, changes: vec![(watch.resource.clone(), None)] };
        return Ok(absent.then_some(Told::Presence(update)));
    }
    let kind = notify.header(name::CONTENT_TYPE).map(|kind| kind.text()).unwrap_or_default();
    match watch.package {
        Package::Presence => match Update::parse(&watch.resource, &kind, notify.body()) {
            Ok(update) => Ok(Some(Told::Presence(update))),
            Err(NotificationError::Type) => Err(TYPE),
            Err(_) => Err((400, "Bad Presence Document")),
        },
        Package::Reg if !matches!(notify.content_type(), Ok(Some(kind)) if kind.is("application", "reginfo+xml")) => {
            Err(TYPE)
        }
        Package::Reg => match Reginfo::parse(notify.body()) {
            Ok(info) => Ok(Some(Told::Reg(info))),
            Err(_) => Err((400, "Bad Registration Document")),
        },
    }
}

/// The dialog that a SUBSCRIBE of ours makes or belongs to.
fn dialog_key(request: &Message) -> Option<DialogKey> {
    Some(DialogKey::new(request.call_id().ok()?, request.from_tag()?))
}
