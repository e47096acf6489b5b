//! The location service: which contacts an address of record has (RFC 3261 10.3).

use crate::message::{Scheme, Uri};
use crate::random;
use crate::transaction::Timers;
use crate::transport::{Flow, Transport};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

/// Contacts of one address of record.
const MAX_CONTACTS: usize = 64;
/// Bindings in all.
const MAX_BINDINGS: usize = 100_000;
/// Addresses of record that are remembered, with or without bindings.
const MAX_RECORDS: usize = 100_000;

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
    owners: HashMap<u64, Arc<str>>,
    /// Where each binding is to be found on the network.
    places: HashMap<Place, Vec<u64>>,
    /// What was registered on each connection.
    connections: HashMap<Flow, Vec<u64>>,
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
            if let Some(owner) = self.owners.get(&id).cloned() {
                self.remove(&owner, id);
                changed.push(owner);
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

    /// The flow of a binding whose contact is at the place that a URI names.
    pub fn flow_to(&self, uri: &Uri) -> Option<Flow> {
        let id = self.places.get(&Place::of(uri))?.last()?;
        let bindings = self.records.get(self.owners.get(id)?)?;
        bindings.iter().find(|binding| binding.id == *id).map(|binding| binding.contact.flow)
    }

    /// A connection has ended: what was bound on it is to be reached by its Contact, or not at all any more (RFC 5626 5.3). The addresses of record
    /// that lost a binding are told.
    pub fn flow_lost(&mut self, flow: Flow) -> Vec<String> {
        let mut lost = Vec::new();
        for id in self.connections.remove(&flow).unwrap_or_default() {
            let Some(owner) = self.owners.get(&id).cloned() else { continue };
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

    /// Carries out one REGISTER, all of it or nothing. `star`: all bindings go first.
    pub fn update(
        &mut self,
        record: &str,
        call_id: &str,
        cseq: u32,
        star: bool,
        changes: Vec<Change>,
    ) -> Result<(), Refusal> {
        let room = self.has_room(record);
        let bindings = self.records.get(record).map(Vec::as_slice).unwrap_or_default();
        let touched = |binding: &&Binding| star || changes.iter().any(|change| same(binding, change));
        if bindings.iter().filter(touched).any(|binding| *binding.call_id == *call_id && cseq <= binding.cseq) {
            return Err(Refusal::OutOfOrder);
        }
        let added = changes.iter().filter(|change| change.expires_at.is_some()).count();
        let kept = bindings.iter().filter(|binding| !touched(binding)).count();
        if added > 0 && (kept + added > MAX_CONTACTS || self.len() + added > MAX_BINDINGS || !room) {
            return Err(Refusal::Full);
        }
        let handles: Vec<Option<u64>> =
            changes.iter().map(|change| handle_of(bindings, &change.contact, call_id)).collect();
        let gone: Vec<u64> = bindings.iter().filter(touched).map(|binding| binding.id).collect();
        for id in gone {
            self.remove(record, id);
        }
        for (change, handle) in changes.into_iter().zip(handles) {
            if let Some(expires_at) = change.expires_at {
                self.add(record, call_id, cseq, change.contact, handle, expires_at);
            }
        }
        Ok(())
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
        if let Some(place) = place(&contact) {
            self.places.entry(place).or_default().push(id);
        }
        if contact.flow.transport.is_reliable() {
            self.connections.entry(contact.flow).or_default().push(id);
        }
        let handle = contact.instance.as_ref().map(|instance| {
            let handle = handle.unwrap_or_else(random::number);
            self.handles.insert(handle, (owner.clone(), instance.clone()));
            handle
        });
        self.owners.insert(id, owner.clone());
        self.expiry.update(id, None, Some(expires_at));
        let binding = Binding { id, contact, expires_at, handle, call_id: call_id.into(), cseq };
        self.records.entry(owner).or_default().push(binding);
    }

    fn remove(&mut self, record: &str, id: u64) {
        self.owners.remove(&id);
        let Some(bindings) = self.records.get_mut(record) else { return };
        let Some(at) = bindings.iter().position(|binding| binding.id == id) else { return };
        let binding = bindings.swap_remove(at);
        if let Some(handle) = binding.handle
            && !bindings.iter().any(|other| other.handle == Some(handle))
        {
            self.handles.remove(&handle);
        }
        self.expiry.update(id, Some(binding.expires_at), None);
        if let Some(place) = place(&binding.contact) {
            forget(&mut self.places, &place, id);
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

fn forget<K: Eq + std::hash::Hash>(index: &mut HashMap<K, Vec<u64>>, key: &K, id: u64) {
    let Some(ids) = index.get_mut(key) else { return };
    ids.retain(|known| *known != id);
    if ids.is_empty() {
        index.remove(key);
    }
}
