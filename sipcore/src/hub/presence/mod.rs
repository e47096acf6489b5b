//! The presence server of the hub: event state compositor (RFC 3903), notifier of `presence` and `reg` (RFC 6665, 3856, 3680), and resource list server
//! (RFC 4662). Who may see what is decided for each watcher by what the publishing program's policy says.

mod bodies;
mod compositor;
mod publish;
mod subscribe;
#[cfg(test)]
mod tests;

use super::home::HomeProxy;
use super::location::Binding;
use super::routes::Destination;
use crate::dialog::{Dialog, DialogKey, Hop};
use crate::message::{Message, Method, Uri, address, name};
use crate::presence::event::{PRESENCE, REG, Standing, SubscriptionState};
use crate::presence::notifier::Notifier;
use crate::presence::reginfo;
use crate::transaction::{ClientId, ServerId, Timers};
use crate::transport::Flow;
use crate::user_agent::USER_AGENT;
use compositor::Compositor;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How soon the rest of a long list comes.
const REST: Duration = Duration::from_secs(32);
/// Subscriptions in all, and of one watcher.
const MAX_SUBSCRIPTIONS: usize = 20_000;
const MAX_OF_WATCHER: usize = 500;
/// The event packages, for Allow-Events.
pub(super) const EVENTS: &str = "presence, reg";

/// What a subscription is about.
enum About {
    Presence {
        record: Arc<str>,
        entity: Uri,
        /// What was last told, as a hash: what has changed for others only is no news.
        told: Option<u64>,
    },
    Reg {
        record: Arc<str>,
        entity: Uri,
        /// Contacts whose end the next notification tells of.
        ended: Vec<reginfo::Contact>,
    },
    List(Box<List>),
}

/// A list and what its subscriber knows of it.
struct List {
    uri: Uri,
    /// `None`: everybody.
    members: Option<Vec<Arc<str>>>,
    /// The resources that the subscriber has seen, each with a hash of its document.
    told: HashMap<Arc<str>, u64>,
    /// Those that have changed since.
    changed: BTreeSet<Arc<str>>,
    /// Everything is to be told.
    full: bool,
}

struct Subscription {
    notifier: Notifier,
    dialog: Dialog,
    /// The flow of the last SUBSCRIBE.
    source: Flow,
    event_id: Option<String>,
    /// Address of record.
    watcher: Uri,
    watcher_record: Arc<str>,
    about: About,
    /// Of the next notification that counts.
    version: u32,
    /// What is told next is told even if it is no news.
    forced: bool,
    armed: Option<Instant>,
}

/// The presence server.
#[derive(Default)]
pub(super) struct Presence {
    compositor: Compositor,
    /// The lists of the hub and their members.
    groups: HashMap<String, Vec<Arc<str>>>,
    subscriptions: HashMap<u64, Subscription>,
    dialogs: HashMap<DialogKey, u64>,
    /// Subscriptions about one of these.
    about: HashMap<Arc<str>, BTreeSet<u64>>,
    /// Subscriptions about everybody.
    everybody: BTreeSet<u64>,
    of_watcher: HashMap<Arc<str>, usize>,
    notifying: HashMap<ClientId, u64>,
    timers: Timers<u64>,
    ready: BTreeSet<u64>,
    last_id: u64,
}

impl Presence {
    /// With lists of these names, each with its members; all are addresses of record.
    pub fn new(groups: impl IntoIterator<Item = (String, Vec<String>)>) -> Self {
        let groups = groups.into_iter().map(|(name, members)| (name, members.into_iter().map(Arc::from).collect()));
        Presence { groups: groups.collect(), ..Presence::default() }
    }

    pub fn next(&self) -> Option<Instant> {
        self.compositor.next_expiry().into_iter().chain(self.timers.next()).min()
    }

    /// How many subscriptions stand.
    pub fn subscriptions(&self) -> usize {
        self.subscriptions.len()
    }

    /// How many publications stand.
    pub fn publications(&self) -> usize {
        self.compositor.len()
    }

    /// Everything that is remembered of subscriptions.
    #[cfg(test)]
    pub fn leftovers(&self) -> usize {
        let remembered = [self.subscriptions.len(), self.dialogs.len(), self.about.len(), self.everybody.len()];
        let more = [self.of_watcher.len(), self.notifying.len(), self.timers.len(), self.ready.len()];
        remembered.into_iter().chain(more).sum()
    }

    /// The presence of a record has changed.
    fn on_change(&mut self, record: &Arc<str>) {
        let concerned = self.about.get(record).into_iter().chain([&self.everybody]).flatten();
        for id in concerned {
            let Some(subscription) = self.subscriptions.get_mut(id) else { continue };
            match &mut subscription.about {
                About::Presence { .. } => {}
                About::Reg { .. } => continue,
                About::List(list) => {
                    list.changed.insert(record.clone());
                }
            }
            subscription.notifier.on_change();
            self.ready.insert(*id);
        }
    }

    /// The bindings of a record have changed.
    pub fn on_registration(&mut self, record: &str) {
        for id in self.about.get(record).into_iter().flatten() {
            if let Some(subscription) = self.subscriptions.get_mut(id)
                && matches!(subscription.about, About::Reg { .. })
            {
                subscription.notifier.on_change();
                self.ready.insert(*id);
            }
        }
    }

    /// These are nobody here any more: nothing is published of them, and they are told of the end of their registrations and of all that they watch.
    fn turn_out(&mut self, now: Instant, gone: &HashMap<String, Vec<Binding>>) {
        for subscription in self.subscriptions.values_mut() {
            let Some(bindings) = gone.get(&*subscription.watcher_record) else { continue };
            if let About::Reg { record, entity, ended } = &mut subscription.about
                && *record == subscription.watcher_record
            {
                let rejected = |binding: &Binding| bodies::described(now, binding.clone(), entity, Some("rejected"));
                ended.extend(bindings.iter().map(rejected));
            }
            subscription.notifier.end("rejected");
        }
        self.ready.extend(self.subscriptions.iter().filter(|(_, known)| known.notifier.has_ended()).map(|(id, _)| *id));
        for record in gone.keys() {
            self.compositor.forget(record);
            self.on_change(&record.as_str().into());
        }
    }

    fn arm(&mut self, id: u64) {
        if let Some(subscription) = self.subscriptions.get_mut(&id) {
            let next = subscription.notifier.next();
            let old = std::mem::replace(&mut subscription.armed, next);
            self.timers.update(id, old, next);
        }
    }

    fn add(&mut self, subscription: Subscription) -> u64 {
        self.last_id += 1;
        let id = self.last_id;
        self.dialogs.insert(subscription.dialog.key(), id);
        for record in subscription.about.records() {
            self.about.entry(record.clone()).or_default().insert(id);
        }
        if subscription.about.is_everybody() {
            self.everybody.insert(id);
        }
        *self.of_watcher.entry(subscription.watcher_record.clone()).or_default() += 1;
        self.subscriptions.insert(id, subscription);
        self.ready.insert(id);
        self.arm(id);
        id
    }

    fn remove(&mut self, id: u64) {
        let Some(subscription) = self.subscriptions.remove(&id) else { return };
        self.dialogs.remove(&subscription.dialog.key());
        for record in subscription.about.records() {
            if let Some(ids) = self.about.get_mut(record) {
                ids.remove(&id);
                if ids.is_empty() {
                    self.about.remove(record);
                }
            }
        }
        self.everybody.remove(&id);
        if let Some(count) = self.of_watcher.get_mut(&subscription.watcher_record) {
            *count -= 1;
            if *count == 0 {
                self.of_watcher.remove(&subscription.watcher_record);
            }
        }
        self.timers.update(id, subscription.armed, None);
        self.ready.remove(&id);
    }

    /// A NOTIFY of ours has its final outcome.
    fn on_notified(&mut self, client: ClientId, well: bool) {
        let Some(id) = self.notifying.remove(&client) else { return };
        let Some(subscription) = self.subscriptions.get_mut(&id) else { return };
        if subscription.notifier.on_answered(well) {
            self.remove(id);
        } else {
            self.ready.insert(id);
        }
    }
}

impl About {
    fn records(&self) -> &[Arc<str>] {
        match self {
            About::Presence { record, .. } | About::Reg { record, .. } => std::slice::from_ref(record),
            About::List(list) => list.members.as_deref().unwrap_or_default(),
        }
    }

    fn is_everybody(&self) -> bool {
        matches!(self, About::List(list) if list.members.is_none())
    }

    fn event(&self) -> &'static str {
        match self {
            About::Presence { .. } | About::List(_) => PRESENCE,
            About::Reg { .. } => REG,
        }
    }
}

impl HomeProxy {
    /// The presence server answers this request, and nobody else.
    pub(super) fn is_for_presence(&self, request: &Message) -> bool {
        let Some(method) = request.method() else { return false };
        if !matches!(method, Method::Publish | Method::Subscribe) {
            return false;
        }
        if DialogKey::of_request(request).is_some_and(|key| self.presence.dialogs.contains_key(&key)) {
            return true;
        }
        let ours = |uri: &Uri| uri.is_sip() && self.is_ours(uri);
        let routed_here =
            request.routes().all(|route| route.is_ok_and(|route| route.uri().is_ok_and(|uri| ours(&uri))));
        let Ok(uri) = request.request_uri() else { return false };
        if !ours(&uri) || !routed_here || uri.has_param("gr") {
            return false;
        }
        // A dialog with us that is not there any more.
        if request.to_tag().is_some() {
            return uri.user().is_none();
        }
        // Other packages are a matter of the user's own agents.
        let known =
            crate::presence::event::event(request).is_some_and(|(package, _)| package == PRESENCE || package == REG);
        known || uri.user().is_none()
    }

    pub(super) fn on_presence_request(&mut self, now: Instant, server: ServerId, flow: Flow, request: &Message) {
        match request.method() {
            Some(Method::Publish) => self.on_publish(now, server, flow, request),
            _ => self.on_subscribe(now, server, flow, request),
        }
    }

    /// `true`: the outcome of a NOTIFY of ours, and nobody else's business.
    pub(super) fn on_notify_outcome(&mut self, client: ClientId, status: Option<u16>) -> bool {
        let ours = self.presence.notifying.contains_key(&client);
        if ours && status.is_none_or(|status| status >= 200) {
            self.presence.on_notified(client, status.is_some_and(|status| status < 300));
        }
        ours
    }

    pub(super) fn on_presence_timers(&mut self, now: Instant) {
        for record in self.presence.compositor.expire(now) {
            self.presence.on_change(&record);
        }
        while let Some((_, id)) = self.presence.timers.pop_due(now) {
            if let Some(subscription) = self.presence.subscriptions.get_mut(&id) {
                subscription.armed = None;
                subscription.notifier.on_timer(now);
                self.presence.ready.insert(id);
            }
            self.presence.arm(id);
        }
    }

    /// The users are others now: who has no account any more is out at once.
    pub(in crate::hub) fn turn_out(&mut self, now: Instant) {
        let Some(guard) = self.guard.as_ref().filter(|guard| !guard.knows_everybody()) else { return };
        let is_nobody = |record: &str| record.rsplit_once('@').is_none_or(|(user, _)| !guard.has(user));
        let of_bindings = self.location.all().map(|(record, _)| record);
        let of_presence =
            self.presence.compositor.records().chain(self.presence.of_watcher.keys()).map(|record| &**record);
        let nobodies = of_bindings.chain(of_presence).filter(|record| is_nobody(record)).map(str::to_owned);
        let nobodies: BTreeSet<String> = nobodies.collect();
        let gone: HashMap<String, Vec<Binding>> = nobodies
            .into_iter()
            .map(|record| {
                let bindings = self.location.forget(&record);
                (record, bindings)
            })
            .collect();
        self.changed.extend(gone.keys().cloned());
        self.presence.turn_out(now, &gone);
        self.notify(now);
    }

    /// Sends every NOTIFY that is due.
    pub(super) fn notify(&mut self, now: Instant) {
        while let Some(id) = self.presence.ready.pop_first() {
            let Some(subscription) = self.presence.subscriptions.get_mut(&id) else { continue };
            let Some(state) = subscription.notifier.poll(now) else { continue };
            match self.write_notify(now, id, &state) {
                Some((flow, request)) => {
                    let client = self.layer.request(now, flow, request, None);
                    self.presence.notifying.insert(client, id);
                }
                None => {
                    if let Some(subscription) = self.presence.subscriptions.get_mut(&id) {
                        subscription.notifier.on_nothing();
                    }
                }
            }
        }
    }

    /// NOTIFY and where it goes; `None`: there is nothing to tell.
    fn write_notify(&mut self, now: Instant, id: u64, state: &SubscriptionState) -> Option<(Flow, Message)> {
        let body = self.body_for(now, id)?;
        let subscription = self.presence.subscriptions.get(&id)?;
        let (hop, source) = (subscription.dialog.next_hop(), subscription.source);
        let (flow, target) = match hop {
            Hop::Proxy(proxy) => (self.flow_to_contact(source, &proxy, false), None),
            // A GRUU of ours leads to where its instance is now (RFC 5627 3.3).
            Hop::Target(target) if self.is_ours(&target) && target.user().is_some() => {
                match self.contacts(now, &target) {
                    Destination::Targets(targets) => {
                        let first = targets.into_iter().next()?;
                        (first.flow, Some((first.uri, first.path)))
                    }
                    _ => (source, None),
                }
            }
            Hop::Target(target) => (self.flow_to_contact(source, &target, true), None),
        };
        let contact = self.presence_contact(flow);
        let subscription = self.presence.subscriptions.get_mut(&id)?;
        let has_more = matches!(&subscription.about, About::List(list) if !list.changed.is_empty());
        // A fetch (RFC 6665 4.4.3) of a long list: it ends with the last of its pieces.
        let state = match has_more && state.standing == Standing::Terminated {
            true => &SubscriptionState::active(REST),
            false => state,
        };
        let event = match &subscription.event_id {
            Some(event_id) => format!("{};id={event_id}", subscription.about.event()),
            None => subscription.about.event().to_owned(),
        };
        let mut request = subscription
            .dialog
            .request(Method::Notify)
            .header(name::CONTACT, contact)
            .header(name::EVENT, event)
            .header(name::SUBSCRIPTION_STATE, state)
            .header(name::USER_AGENT, USER_AGENT);
        if matches!(subscription.about, About::List(_)) {
            request = request.header(name::REQUIRE, LISTS);
        }
        if let Some((content_type, body)) = body {
            request = request.body(&content_type, body);
        }
        let mut request = request.build();
        if let Some((uri, path)) = target {
            if let Some(uri) = uri {
                request.set_request_uri(&uri);
            }
            for proxy in path.iter().rev() {
                request.push_front(name::ROUTE, proxy);
            }
        }
        Some((flow, request))
    }

    /// Our Contact in the dialogs of subscriptions.
    fn presence_contact(&self, flow: Flow) -> String {
        let own = self.layer.sent_by(flow.local);
        let uri = Uri::sip(None, &own.ip().to_string(), Some(own.port())).ok();
        let uri = match flow.transport.as_param() {
            Some(name) => uri.and_then(|uri| uri.with_param("transport", Some(name)).ok()),
            None => uri,
        };
        uri.map(|uri| address(None, &uri, &[])).unwrap_or_default()
    }
}

/// The option tag of RFC 4662 4.1.
const LISTS: &str = "eventlist";
