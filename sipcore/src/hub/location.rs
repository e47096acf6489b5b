//! The location service: which contacts an address of record has (RFC 3261 10.3).

use crate::message::Uri;
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

/// One contact.
#[derive(Debug, Clone)]
pub(super) struct Binding {
    id: u64,
    pub contact: Uri,
    /// `+sip.instance` (RFC 5626 4.1).
    pub instance: Option<Box<str>>,
    pub flow: Flow,
    pub q: u16,
    pub expires_at: Instant,
    call_id: Box<str>,
    cseq: u32,
}

/// A change that a REGISTER asks for. No expiry: remove.
#[derive(Debug, Clone)]
pub(super) struct Change {
    pub contact: Uri,
    pub instance: Option<Box<str>>,
    pub flow: Flow,
    pub q: u16,
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
    places: HashMap<(Transport, SocketAddr), Vec<u64>>,
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

    /// Removes what has expired.
    pub fn expire(&mut self, now: Instant) {
        while let Some((_, id)) = self.expiry.pop_due(now) {
            if let Some(owner) = self.owners.get(&id).cloned() {
                self.remove(&owner, id);
            }
        }
    }

    /// Remembers an address of record that has an account but no binding yet.
    pub fn know(&mut self, record: &str) {
        self.records.entry(record.into()).or_default();
    }

    pub fn lookup(&self, record: &str, now: Instant) -> Lookup {
        let Some(bindings) = self.records.get(record) else { return Lookup::Unknown };
        let mut live: Vec<Binding> = bindings.iter().filter(|binding| binding.expires_at > now).cloned().collect();
        live.sort_by_key(|binding| std::cmp::Reverse(binding.q));
        match live.is_empty() {
            true => Lookup::Absent,
            false => Lookup::Bound(live),
        }
    }

    /// The flow of a binding that is found at an address.
    pub fn flow_to(&self, transport: Transport, addr: SocketAddr) -> Option<Flow> {
        let id = self.places.get(&(transport, addr))?.last()?;
        let bindings = self.records.get(self.owners.get(id)?)?;
        bindings.iter().find(|binding| binding.id == *id).map(|binding| binding.flow)
    }

    /// A connection has ended: its bindings are to be reached by their Contact.
    pub fn flow_lost(&mut self, flow: Flow) {
        for binding in self.records.values_mut().flatten().filter(|binding| binding.flow == flow) {
            if let Some(addr) = address_of(&binding.contact) {
                binding.flow.remote = addr;
            }
        }
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
        let gone: Vec<u64> = bindings.iter().filter(touched).map(|binding| binding.id).collect();
        for id in gone {
            self.remove(record, id);
        }
        for change in changes {
            if let Some(expires_at) = change.expires_at {
                self.add(record, call_id, cseq, change, expires_at);
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

    fn add(&mut self, record: &str, call_id: &str, cseq: u32, change: Change, expires_at: Instant) {
        self.last_id += 1;
        let id = self.last_id;
        let owner: Arc<str> = match self.records.get_key_value(record) {
            Some((known, _)) => known.clone(),
            None => record.into(),
        };
        let Change { contact, instance, flow, q, .. } = change;
        if let Some(place) = place(&contact) {
            self.places.entry(place).or_default().push(id);
        }
        self.owners.insert(id, owner.clone());
        self.expiry.update(id, None, Some(expires_at));
        let binding = Binding { id, contact, instance, flow, q, expires_at, call_id: call_id.into(), cseq };
        self.records.entry(owner).or_default().push(binding);
    }

    fn remove(&mut self, record: &str, id: u64) {
        self.owners.remove(&id);
        let Some(bindings) = self.records.get_mut(record) else { return };
        let Some(at) = bindings.iter().position(|binding| binding.id == id) else { return };
        let binding = bindings.swap_remove(at);
        self.expiry.update(id, Some(binding.expires_at), None);
        if let Some(place) = place(&binding.contact)
            && let Some(ids) = self.places.get_mut(&place)
        {
            ids.retain(|known| *known != id);
            if ids.is_empty() {
                self.places.remove(&place);
            }
        }
    }
}

/// The same instance, else the same contact.
fn same(binding: &Binding, change: &Change) -> bool {
    match (&binding.instance, &change.instance) {
        (Some(known), Some(new)) => known == new,
        _ => binding.contact.equivalent(&change.contact),
    }
}

/// The transport that a URI names.
pub(super) fn transport_of(uri: &Uri) -> Transport {
    match uri.transport() {
        Some(name) if name.eq_ignore_ascii_case("tcp") => Transport::Tcp,
        _ => Transport::Udp,
    }
}

/// The address that a URI names, when it is no host name.
pub(super) fn address_of(uri: &Uri) -> Option<SocketAddr> {
    Some(SocketAddr::new(uri.host_ip()?, uri.port_or_default()))
}

fn place(uri: &Uri) -> Option<(Transport, SocketAddr)> {
    Some((transport_of(uri), address_of(uri)?))
}
