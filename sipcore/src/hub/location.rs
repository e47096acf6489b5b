//! The location service: which contacts an address of record has (RFC 3261 10.3).

use crate::message::{Scheme, Uri};
use crate::random;
use crate::transaction::Timers;
use crate::transport::{Flow, Transport};
use std::collections::{BTreeSet, HashMap};
use std::hash::{BuildHasher, RandomState};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

/// Contacts of one address of record.
const MAX_CONTACTS: usize = 64;
/// Bindings in all. Those that agents make take 1 to 2 KiB each; of the longest that are taken (see `registrar`) one takes 6 KiB.
const MAX_BINDINGS: usize = 250_000;
/// Addresses of record that are remembered, with or without bindings.
const MAX_RECORDS: usize = 250_000;

/// One contact, as its REGISTER described it.
#[derive(Debug, Clone)]
pub(super) struct Contact {
    pub uri: Uri,
    /// `+sip.instance` (RFC 5626 4.1).
    pub instance: Option<Box<str>>,
    /// `reg-id`, when flows of one instance are told apart (RFC 5626 4.2).
    pub reg_id: Option<u32>,
    /// The proxies on the way to it (RFC 3327), in the order of Route.
    pub path: Box<[Box<str>]>,
    pub flow: Flow,
    pub q: u16,
}

impl Contact {
    fn same_flow(&self, other: &Contact) -> bool {
        self.instance.is_some() && (&self.instance, self.reg_id) == (&other.instance, other.reg_id)
    }
}

/// A contact that stands.
#[derive(Debug, Clone)]
pub(super) struct Binding {
    pub id: u64,
    pub contact: Contact,
    pub expires_at: Instant,
    /// What the temporary GRUUs of the instance lead to: it stays as long as the instance registers with one Call-ID (RFC 5627 5.1).
    pub handle: Option<u64>,
    pub call_id: Box<str>,
    pub cseq: u32,
}

/// A change that a REGISTER asks for. No expiry: remove.
#[derive(Debug, Clone)]
pub(super) struct Change {
    pub contact: Contact,
    pub expires_at: Option<Instant>,
}

/// Why a REGISTER is not carried out; nothing has changed then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    /// An older request came after a newer one (RFC 3261 10.3 step 7).
    OutOfOrder,
    /// No room.
    Full,
}

/// What an address of record leads to.
#[derive(Debug, Clone)]
pub(super) enum Lookup {
    /// Never heard of.
    Unknown,
    /// It was registered once, now it is not.
    Absent,
    /// Its contacts, best first.
    Bound(Vec<Binding>),
}

/// All bindings.
#[derive(Default)]
pub(super) struct Location {
    records: HashMap<Arc<str>, Vec<Binding>>,
    /// Whose each binding is, and when it is to be looked at: when it expires, or before.
    owners: HashMap<u64, (Arc<str>, Instant)>,
    /// Where each binding is to be found on the network: under its place, and under that with its user.
    places: HashMap<u64, Ids>,
    /// What places are hashed with.
    key: RandomState,
    /// What was registered on each connection.
    connections: HashMap<Flow, Ids>,
    /// Address of record and instance of each handle.
    handles: HashMap<u64, (Arc<str>, Box<str>)>,
    expiry: Timers<u64>,
    last_id: u64,
}

impl Location {
    /// How many bindings stand.
    pub fn len(&self) -> usize {
        self.owners.len()
    }

    pub fn next_expiry(&self) -> Option<Instant> {
        self.expiry.next()
    }

    /// What an address of record is bound to, expired or not.
    pub fn bindings(&self, record: &str) -> &[Binding] {
        self.records.get(record).map(Vec::as_slice).unwrap_or_default()
    }

    /// All addresses of record with their bindings.
    pub fn all(&self) -> impl Iterator<Item = (&str, &[Binding])> {
        self.records.iter().map(|(record, bindings)| (record.as_ref(), bindings.as_slice()))
    }

    /// How many addresses of record are known.
    pub fn records(&self) -> usize {
        self.records.len()
    }

    /// Puts in what an earlier hub had.
    pub fn restore(&mut self, record: &str, bindings: Vec<Binding>) {
        for Binding { contact, expires_at, handle, call_id, cseq, .. } in bindings {
            self.add(record, &call_id, cseq, contact, handle, expires_at);
        }
    }

    /// Removes what has expired; whose it was.
    pub fn expire(&mut self, now: Instant) -> Vec<Arc<str>> {
        let mut changed = Vec::new();
        while let Some((_, id)) = self.expiry.pop_due(now) {
            let Some((owner, armed)) = self.owners.get_mut(&id) else { continue };
            let bindings = self.records.get(owner).map(Vec::as_slice).unwrap_or_default();
            match bindings.iter().find(|binding| binding.id == id).map(|binding| binding.expires_at) {
                // It has been refreshed.
                Some(later) if later > now => {
                    *armed = later;
                    self.expiry.update(id, None, Some(later));
                }
                _ => {
                    let owner = owner.clone();
                    self.remove(&owner, id);
                    changed.push(owner);
                }
            }
        }
        changed
    }

    /// Remembers an address of record that has an account but no binding yet.
    pub fn know(&mut self, record: &str) {
        self.records.entry(record.into()).or_default();
    }

    /// All contacts of an address of record.
    pub fn lookup(&self, record: &str, now: Instant) -> Lookup {
        self.find(record, now, |_| true)
    }

    /// Where a request for an address of record goes: of the flows of one instance only the latest (RFC 5626 6).
    pub fn reach(&self, record: &str, now: Instant) -> Lookup {
        latest_flows(self.lookup(record, now))
    }

    /// Where a request for a public GRUU goes (RFC 5627 5.4).
    pub fn reach_instance(&self, record: &str, instance: &str, now: Instant) -> Lookup {
        let is_it = |binding: &Binding| {
            binding.contact.instance.as_ref().is_some_and(|known| known.eq_ignore_ascii_case(instance))
        };
        latest_flows(self.find(record, now, is_it))
    }

    /// Where a request for a temporary GRUU with this handle goes.
    pub fn reach_handle(&self, handle: u64, now: Instant) -> Lookup {
        match self.handles.get(&handle) {
            Some((record, instance)) => self.reach_instance(record, instance, now),
            None => Lookup::Unknown,
        }
    }

    /// The other flows of a contact, the newest first (RFC 5626 6).
    pub fn other_flows(&self, contact: &Contact, record: &str, now: Instant) -> Vec<Contact> {
        let Some(bindings) = self.records.get(record) else { return Vec::new() };
        let Some(used) = bindings.iter().find(|known| known.contact.same_flow(contact)) else { return Vec::new() };
        let others = bindings.iter().filter(|other| other.expires_at > now && is_other_flow(other, used));
        let mut others: Vec<&Binding> = others.collect();
        others.sort_by_key(|other| std::cmp::Reverse(other.id));
        others.into_iter().map(|other| other.contact.clone()).collect()
    }

    fn find(&self, record: &str, now: Instant, which: impl Fn(&Binding) -> bool) -> Lookup {
        let Some(bindings) = self.records.get(record) else { return Lookup::Unknown };
        let live = bindings.iter().filter(|binding| binding.expires_at > now && which(binding));
        let mut live: Vec<Binding> = live.cloned().collect();
        live.sort_by_key(|binding| std::cmp::Reverse(binding.contact.q));
        match live.is_empty() {
            true => Lookup::Absent,
            false => Lookup::Bound(live),
        }
    }

    /// The flow of a binding whose contact is at the place that a URI names: one of the same user, if there is one. (Behind different NATs many are at
    /// one and the same private address. Where the user says nothing it is the one that was bound last, not the one that was refreshed last: to look
    /// through all that are at such an address would take too long.)
    pub fn flow_to(&self, uri: &Uri) -> Option<Flow> {
        let place = Place::of(uri);
        let [anyone, same] = self.keys(&place, uri);
        let id = self.places.get(&same).or_else(|| self.places.get(&anyone))?.last()?;
        let bindings = self.records.get(&self.owners.get(&id)?.0)?;
        let is_it = |binding: &&Binding| binding.id == id && Place::of(&binding.contact.uri) == place;
        bindings.iter().find(is_it).map(|binding| binding.contact.flow)
    }

    /// What a URI at this place is found under: without its user, and with it.
    fn keys(&self, place: &Place, uri: &Uri) -> [u64; 2] {
        [self.key.hash_one(place), self.key.hash_one((place, uri.user_decoded()))]
    }

    /// What a contact is found under.
    fn keys_of(&self, contact: &Contact) -> impl Iterator<Item = u64> + use<> {
        let keys = place(contact).map(|place| self.keys(&place, &contact.uri));
        keys.into_iter().flatten()
    }

    /// A connection has ended: what was bound on it is to be reached by its Contact, or not at all any more (RFC 5626 5.3). The addresses of record
    /// that lost a binding are told.
    pub fn flow_lost(&mut self, flow: Flow) -> Vec<String> {
        let mut lost = Vec::new();
        for id in self.connections.remove(&flow).into_iter().flat_map(Ids::into_vec) {
            let Some((owner, _)) = self.owners.get(&id).cloned() else { continue };
            let Some(bindings) = self.records.get_mut(&owner) else { continue };
            let Some(lost_one) = bindings.iter().find(|binding| binding.id == id) else { continue };
            let has_another = bindings.iter().any(|other| is_other_flow(other, lost_one));
            let Some(Binding { contact, .. }) = bindings.iter_mut().find(|binding| binding.id == id) else { continue };
            match address_of(&contact.uri) {
                // It is reached by its other flow, and will come back on this one itself (RFC 5626 4.5).
                _ if has_another => {
                    self.remove(&owner, id);
                    lost.push(owner.to_string());
                }
                Some(addr) if contact.path.is_empty() && !flow.transport.is_one_way() => contact.flow.remote = addr,
                _ if contact.path.is_empty() => {
                    self.remove(&owner, id);
                    lost.push(owner.to_string());
                }
                _ => {}
            }
        }
        lost
    }

    /// Carries out one REGISTER, all of it or nothing. `star`: all bindings go first. `true`: what is bound is not what it was, or not for as long.
    pub fn update(
        &mut self,
        record: &str,
        call_id: &str,
        cseq: u32,
        star: bool,
        changes: Vec<Change>,
    ) -> Result<bool, Refusal> {
        let bindings = self.records.get(record).map(Vec::as_slice).unwrap_or_default();
        let touched = |binding: &&Binding| star || changes.iter().any(|change| same(binding, change));
        if bindings.iter().filter(touched).any(|binding| *binding.call_id == *call_id && cseq <= binding.cseq) {
            return Err(Refusal::OutOfOrder);
        }
        if let ([change], false) = (changes.as_slice(), star)
            && self.refresh(record, call_id, cseq, change)
        {
            return Ok(false);
        }
        let bindings = self.bindings(record);
        let handles: Vec<Option<u64>> =
            changes.iter().map(|change| handle_of(bindings, &change.contact, call_id)).collect();
        let refreshes = |binding: &Binding, change: &Change| {
            let alike = same(binding, change) && binding.contact.uri.equivalent(&change.contact.uri);
            alike && change.expires_at.is_some_and(|expires_at| expires_at >= binding.expires_at)
        };
        let is_refreshed = |binding: &Binding| changes.iter().any(|change| refreshes(binding, change));
        let is_refresh = |change: &Change| bindings.iter().any(|binding| refreshes(binding, change));
        let is_news = star || !bindings.iter().filter(touched).all(is_refreshed) || !changes.iter().all(is_refresh);
        let gone: Vec<u64> = bindings.iter().filter(touched).map(|binding| binding.id).collect();
        let added = changes.iter().filter(|change| change.expires_at.is_some()).count();
        let (here, in_all) = (bindings.len() - gone.len() + added, self.len() - gone.len() + added);
        // What is renewed needs no room.
        if added > gone.len() && (here > MAX_CONTACTS || in_all > MAX_BINDINGS || !self.has_room(record)) {
            return Err(Refusal::Full);
        }
        for id in gone {
            self.remove(record, id);
        }
        for (change, handle) in changes.into_iter().zip(handles) {
            if let Some(expires_at) = change.expires_at {
                self.add(record, call_id, cseq, change.contact, handle, expires_at);
            }
        }
        Ok(is_news)
    }

    /// A refresh of the only contact, as most REGISTERs by datagram are: nothing is changed but for how long it stands. `false`: it is something else.
    fn refresh(&mut self, record: &str, call_id: &str, cseq: u32, change: &Change) -> bool {
        let Some([binding]) = self.records.get_mut(record).map(Vec::as_mut_slice) else { return false };
        let (known, new) = (&binding.contact, &change.contact);
        let is_it = !new.flow.transport.is_reliable()
            && known.uri.as_str() == new.uri.as_str()
            && (&known.instance, known.reg_id, known.flow) == (&new.instance, new.reg_id, new.flow)
            && (&known.path, &*binding.call_id) == (&new.path, call_id);
        match change.expires_at.filter(|expires_at| is_it && *expires_at >= binding.expires_at) {
            Some(expires_at) => {
                // When it is looked at stays as it is: then it is seen that it stands.
                binding.expires_at = expires_at;
                binding.cseq = cseq;
                binding.contact.q = new.q;
                true
            }
            None => false,
        }
    }

    /// The address of record is not known any more; what was bound to it.
    pub fn forget(&mut self, record: &str) -> Vec<Binding> {
        let bindings = self.bindings(record).to_vec();
        for binding in &bindings {
            self.remove(record, binding.id);
        }
        self.records.remove(record);
        bindings
    }

    fn has_room(&mut self, record: &str) -> bool {
        if self.records.contains_key(record) || self.records.len() < MAX_RECORDS {
            return true;
        }
        self.records.retain(|_, bindings| !bindings.is_empty());
        self.records.len() < MAX_RECORDS
    }

    fn add(
        &mut self,
        record: &str,
        call_id: &str,
        cseq: u32,
        contact: Contact,
        handle: Option<u64>,
        expires_at: Instant,
    ) {
        self.last_id += 1;
        let id = self.last_id;
        let owner: Arc<str> = match self.records.get_key_value(record) {
            Some((known, _)) => known.clone(),
            None => record.into(),
        };
        for key in self.keys_of(&contact) {
            self.places.entry(key).or_default().insert(id);
        }
        if contact.flow.transport.is_reliable() {
            self.connections.entry(contact.flow).or_default().insert(id);
        }
        let handle = contact.instance.as_ref().map(|instance| {
            let handle = handle.unwrap_or_else(random::number);
            self.handles.insert(handle, (owner.clone(), instance.clone()));
            handle
        });
        self.owners.insert(id, (owner.clone(), expires_at));
        self.expiry.update(id, None, Some(expires_at));
        let binding = Binding { id, contact, expires_at, handle, call_id: call_id.into(), cseq };
        let bindings = self.records.entry(owner).or_default();
        // Most have one contact: Vec would make room for four.
        bindings.reserve_exact(1);
        bindings.push(binding);
    }

    fn remove(&mut self, record: &str, id: u64) {
        let armed = self.owners.remove(&id).map(|(_, armed)| armed);
        let Some(bindings) = self.records.get_mut(record) else { return };
        let Some(at) = bindings.iter().position(|binding| binding.id == id) else { return };
        let binding = bindings.swap_remove(at);
        if let Some(handle) = binding.handle
            && !bindings.iter().any(|other| other.handle == Some(handle))
        {
            self.handles.remove(&handle);
        }
        self.expiry.update(id, armed, None);
        for key in self.keys_of(&binding.contact) {
            forget(&mut self.places, &key, id);
        }
        forget(&mut self.connections, &binding.contact.flow, id);
    }
}

/// Of the same instance, on another flow.
fn is_other_flow(other: &Binding, binding: &Binding) -> bool {
    let (one, another) = (&binding.contact, &other.contact);
    one.reg_id.is_some() && another.reg_id.is_some() && one.reg_id != another.reg_id && one.instance == another.instance
}

/// The same flow of the same instance, else the same contact (RFC 5626 6, RFC 3261 10.3).
fn same(binding: &Binding, change: &Change) -> bool {
    let (known, new) = (&binding.contact, &change.contact);
    match (&known.instance, &new.instance) {
        (Some(one), Some(other)) => {
            one == other && (known.reg_id == new.reg_id || known.reg_id.is_none() || new.reg_id.is_none())
        }
        _ => known.uri.equivalent(&new.uri),
    }
}

/// The handle that an instance already has, if it goes on registering with the same Call-ID.
fn handle_of(bindings: &[Binding], contact: &Contact, call_id: &str) -> Option<u64> {
    let same = |binding: &&Binding| *binding.call_id == *call_id && binding.contact.instance == contact.instance;
    bindings.iter().filter(same).find_map(|binding| binding.handle)
}

fn latest_flows(found: Lookup) -> Lookup {
    let Lookup::Bound(mut bindings) = found else { return found };
    let newest: Vec<u64> = bindings
        .iter()
        .map(|binding| {
            let of_instance = bindings
                .iter()
                .filter(|other| other.contact.instance.is_some() && other.contact.instance == binding.contact.instance);
            of_instance.map(|other| other.id).max().unwrap_or(binding.id)
        })
        .collect();
    bindings.retain(|binding| newest.contains(&binding.id));
    Lookup::Bound(bindings)
}

/// The transport that a URI names (RFC 3261 26.2.2, RFC 7118 5.2).
pub(super) fn transport_of(uri: &Uri) -> Transport {
    let secure = uri.scheme() == Scheme::Sips;
    match (uri.transport().and_then(Transport::named), secure) {
        (Some(Transport::Ws | Transport::Wss), true) => Transport::Wss,
        (_, true) => Transport::Tls,
        (named, false) => named.unwrap_or(Transport::Udp),
    }
}

/// The address that a URI names, when it is no host name.
pub(super) fn address_of(uri: &Uri) -> Option<SocketAddr> {
    Some(SocketAddr::new(uri.host_ip()?, uri.port_or_default()))
}

/// Transport, host and port of a URI. The host need not be an address: that of a browser is a name that nobody resolves (RFC 7118 5).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Place(Transport, Box<str>, u16);

impl Place {
    fn of(uri: &Uri) -> Self {
        let transport = match transport_of(uri) {
            Transport::Wss => Transport::Ws,
            other => other,
        };
        let host = uri.host_ip().map_or_else(|| uri.host().to_ascii_lowercase(), |ip| ip.to_string());
        Place(transport, host.into(), uri.port_or_default())
    }
}

/// A contact behind other proxies is not at its own address for us.
fn place(contact: &Contact) -> Option<Place> {
    contact.path.is_empty().then(|| Place::of(&contact.uri))
}

fn forget<K: Eq + std::hash::Hash>(index: &mut HashMap<K, Ids>, key: &K, id: u64) {
    if index.get_mut(key).is_some_and(|ids| ids.remove(id)) {
        index.remove(key);
    }
}

/// Bindings at one place: mostly one, and all of them where a gateway, or a proxy without Path, stands for many.
#[derive(Debug)]
enum Ids {
    One(u64),
    Many(BTreeSet<u64>),
}

impl Default for Ids {
    fn default() -> Self {
        Ids::Many(BTreeSet::new())
    }
}

impl Ids {
    fn insert(&mut self, id: u64) {
        match self {
            Ids::Many(ids) if ids.is_empty() => *self = Ids::One(id),
            Ids::One(first) => *self = Ids::Many(BTreeSet::from([*first, id])),
            Ids::Many(ids) => drop(ids.insert(id)),
        }
    }

    /// Whether none is left.
    fn remove(&mut self, id: u64) -> bool {
        match self {
            Ids::One(one) => *one == id,
            Ids::Many(ids) => {
                ids.remove(&id);
                ids.is_empty()
            }
        }
    }

    /// The newest.
    fn last(&self) -> Option<u64> {
        match self {
            Ids::One(one) => Some(*one),
            Ids::Many(ids) => ids.last().copied(),
        }
    }

    fn into_vec(self) -> Vec<u64> {
        match self {
            Ids::One(one) => vec![one],
            Ids::Many(ids) => ids.into_iter().collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn change(uri: &str, expires_at: Option<Instant>) -> Change {
        let flow = Flow { transport: Transport::Udp, local: 0, remote: "[::1]:5062".parse().unwrap() };
        let contact =
            Contact { uri: uri.parse().unwrap(), instance: None, reg_id: None, path: Box::default(), flow, q: 1000 };
        Change { contact, expires_at }
    }

    #[test]
    fn a_full_hub_renews_what_it_has() {
        let mut location = Location::default();
        let hour = Some(Instant::now() + Duration::from_secs(3600));
        for name in 0..MAX_BINDINGS {
            location.update(&format!("user{name}@x"), "a", 1, false, vec![change("sip:h:5060", hour)]).unwrap();
        }
        let one_more = location.update("bob@x", "a", 1, false, vec![change("sip:h:5060", hour)]);
        assert_eq!(one_more, Err(Refusal::Full));
        location.update("user7@x", "a", 2, false, vec![change("sip:h:5060", hour)]).unwrap();
        let instead = vec![change("sip:h:5060", None), change("sip:h:5070", hour)];
        location.update("user7@x", "a", 3, false, instead).unwrap();
        assert_eq!(location.len(), MAX_BINDINGS);
        location.update("user8@x", "a", 2, false, vec![change("sip:h:5060", None)]).unwrap();
        // The name of the one that has gone makes room, too.
        location.update("bob@x", "a", 2, false, vec![change("sip:h:5060", hour)]).unwrap();
        assert_eq!((location.len(), location.records()), (MAX_BINDINGS, MAX_RECORDS));
    }

    #[test]
    fn what_is_refreshed_stands_until_its_last_expiry() {
        let mut location = Location::default();
        let start = Instant::now();
        let minute = |n: u64| start + Duration::from_secs(60 * n);
        let bind = |location: &mut Location, cseq, q, until: u64| {
            let mut change = change("sip:bob@h:5060", Some(minute(until)));
            change.contact.q = q;
            location.update("bob@x", "a", cseq, false, vec![change])
        };
        assert_eq!(bind(&mut location, 1, 1000, 1), Ok(true));
        let id = location.bindings("bob@x")[0].id;
        assert_eq!(bind(&mut location, 2, 500, 2), Ok(false));
        assert_eq!(bind(&mut location, 2, 500, 3), Err(Refusal::OutOfOrder));
        let [binding] = location.bindings("bob@x") else { panic!("one contact") };
        assert_eq!((binding.id, binding.cseq, binding.contact.q, binding.expires_at), (id, 2, 500, minute(2)));
        assert!(location.expire(minute(1)).is_empty(), "it was refreshed");
        assert_eq!(location.next_expiry(), Some(minute(2)));
        // For a shorter time, or from elsewhere, it is another binding.
        assert_eq!(bind(&mut location, 3, 500, 1), Ok(true));
        assert_eq!((location.next_expiry(), location.len()), (Some(minute(1)), 1));
        assert_eq!(bind(&mut location, 4, 500, 4), Ok(false));
        let mut moved = change("sip:bob@h:5060", Some(minute(5)));
        moved.contact.flow.remote = "10.0.0.1:5062".parse().unwrap();
        location.update("bob@x", "a", 5, false, vec![moved]).unwrap();
        assert_eq!(location.bindings("bob@x")[0].contact.flow.remote.port(), 5062);
        assert!(location.expire(minute(4)).is_empty());
        assert_eq!(location.expire(minute(5)).len(), 1);
        assert_eq!((location.len(), location.next_expiry()), (0, None));
        assert!(location.places.is_empty() && location.owners.is_empty());
    }

    #[test]
    fn who_shares_a_place_is_told_apart_by_the_user() {
        let mut location = Location::default();
        let hour = Some(Instant::now() + Duration::from_secs(3600));
        let bind = |location: &mut Location, name: &str, remote: &str, expires_at| {
            let mut change = change(&format!("sip:{name}@192.168.1.2"), expires_at);
            change.contact.flow.remote = remote.parse().unwrap();
            location.update(&format!("{name}@x"), remote, 1, false, vec![change]).unwrap();
        };
        let to = |location: &Location, uri: &str| {
            location.flow_to(&uri.parse().unwrap()).map(|flow| flow.remote.to_string())
        };
        bind(&mut location, "alice", "10.0.0.1:5060", hour);
        bind(&mut location, "bob", "10.0.0.2:5060", hour);
        assert_eq!(to(&location, "sip:alice@192.168.1.2").as_deref(), Some("10.0.0.1:5060"));
        assert_eq!(to(&location, "sip:bob@192.168.1.2:5060").as_deref(), Some("10.0.0.2:5060"));
        assert_eq!(to(&location, "sip:carol@192.168.1.2").as_deref(), Some("10.0.0.2:5060"), "the newest");
        assert_eq!(to(&location, "sip:alice@192.168.1.2;transport=tcp"), None);
        bind(&mut location, "bob", "10.0.0.3:5060", None);
        assert_eq!(to(&location, "sip:bob@192.168.1.2").as_deref(), Some("10.0.0.1:5060"));
        bind(&mut location, "alice", "10.0.0.4:5060", None);
        assert_eq!(to(&location, "sip:alice@192.168.1.2"), None);
        assert!(location.places.is_empty());
    }

    #[test]
    fn the_newest_binding_at_a_place_counts() {
        let mut ids = Ids::default();
        for id in [1, 2, 3] {
            ids.insert(id);
            assert_eq!(ids.last(), Some(id));
        }
        assert!(!ids.remove(3));
        assert!(!ids.remove(1));
        assert_eq!(ids.last(), Some(2));
        assert!(ids.remove(2));
    }
}
