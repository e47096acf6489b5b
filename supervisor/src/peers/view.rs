//! What is known of peers: what each subscription has told so far, and what of it has changed.

use std::collections::{BTreeMap, HashMap};
use std::time::SystemTime;

use sipcore::agent::{Label, SubscriptionId, Tuple, Update};
use sipcore::message::Uri;

/// Something that can be reached: a socket of a program, or what another kind of agent offers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// Whose it is, as an address of record.
    pub aor: Uri,
    /// The socket; None for agents that are no sipbox.
    pub label: Option<Label>,
    /// What its owner says of it.
    pub description: Option<String>,
    /// What leads to it; for a program the GRUU of its run.
    pub contact: Option<Uri>,
    pub since: Option<SystemTime>,
}

/// What tells one from another.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    aor: String,
    label: Option<Label>,
    contact: String,
    /// Of those without a label.
    id: String,
}

/// What has happened to a peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    Up(Peer),
    Changed(Peer),
    Down(Peer),
}

/// All that is known.
#[derive(Default)]
pub struct View {
    /// By subscription and resource.
    told: HashMap<SubscriptionId, BTreeMap<String, Vec<(Key, Peer)>>>,
    peers: BTreeMap<Key, Peer>,
}

impl View {
    /// Takes what a notification says.
    pub fn update(&mut self, id: SubscriptionId, update: Update) -> Vec<Change> {
        let told = self.told.entry(id).or_default();
        if update.full {
            told.clear();
        }
        for (resource, document) in update.changes {
            let aor = resource.aor();
            match document {
                Some(document) => {
                    let open = document.tuples.into_iter().filter(|tuple| tuple.open != Some(false));
                    told.insert(aor.to_string(), open.map(|tuple| peer(&aor, tuple)).collect());
                }
                None => drop(told.remove(aor.as_str())),
            }
        }
        self.compare()
    }

    /// Nothing is known by this subscription any more.
    pub fn forget(&mut self, id: SubscriptionId) -> Vec<Change> {
        self.told.remove(&id);
        self.compare()
    }

    /// Everybody, by name, protocol and port.
    pub fn peers(&self) -> impl Iterator<Item = &Peer> {
        self.peers.values()
    }

    fn compare(&mut self) -> Vec<Change> {
        let all = self.told.values().flat_map(BTreeMap::values).flatten();
        let now: BTreeMap<Key, Peer> = all.cloned().collect();
        let gone =
            self.peers.iter().filter(|(key, _)| !now.contains_key(*key)).map(|(_, peer)| Change::Down(peer.clone()));
        let others = now.iter().filter_map(|(key, peer)| match self.peers.get(key) {
            None => Some(Change::Up(peer.clone())),
            Some(before) if before != peer => Some(Change::Changed(peer.clone())),
            Some(_) => None,
        });
        let changes = gone.chain(others).collect();
        self.peers = now;
        changes
    }
}

fn peer(aor: &Uri, tuple: Tuple) -> (Key, Peer) {
    let key = Key {
        aor: aor.to_string(),
        label: tuple.label,
        contact: tuple.contact.as_ref().map(ToString::to_string).unwrap_or_default(),
        id: if tuple.label.is_some() { String::new() } else { tuple.id },
    };
    let peer = Peer {
        aor: aor.clone(),
        label: tuple.label,
        description: tuple.note,
        contact: tuple.contact,
        since: tuple.since,
    };
    (key, peer)
}

#[cfg(test)]
mod tests {
    use super::*;
    use sipcore::agent::Document;

    fn tuple(label: &str, note: &str, instance: &str) -> Tuple {
        Tuple {
            id: format!("{label}{instance}").replace('/', "-"),
            open: Some(true),
            label: label.parse().ok(),
            note: Some(note.to_owned()),
            contact: format!("sip:bob@x;gr={instance}").parse().ok(),
            since: None,
            watchers: None,
        }
    }

    fn update(full: bool, changes: &[(&str, Option<Vec<Tuple>>)]) -> Update {
        let changes = changes.iter().map(|(uri, tuples)| {
            let entity = (*uri).to_owned();
            (uri.parse().unwrap(), tuples.clone().map(|tuples| Document { entity, tuples }))
        });
        Update { full, version: None, changes: changes.collect() }
    }

    fn words(changes: &[Change]) -> Vec<String> {
        let word = |change: &Change| {
            let (sign, peer) = match change {
                Change::Up(peer) => ('+', peer),
                Change::Changed(peer) => ('~', peer),
                Change::Down(peer) => ('-', peer),
            };
            let label = peer.label.map(|label| label.to_string()).unwrap_or_default();
            format!("{sign}{} {label} {}", peer.aor, peer.description.clone().unwrap_or_default())
        };
        changes.iter().map(word).collect()
    }

    #[test]
    fn changes_are_told_once() {
        let (mut view, id) = (View::default(), SubscriptionId::next());
        let first = update(true, &[("sip:bob@x", Some(vec![tuple("tcp/1", "a", "1"), tuple("tcp/1", "a", "2")]))]);
        assert_eq!(
            words(&view.update(id, first.clone())),
            ["+sip:bob@x tcp/1 a", "+sip:bob@x tcp/1 a"],
            "two runs of one name"
        );
        assert!(view.update(id, first).is_empty());
        let other = update(false, &[("sip:bob@x", Some(vec![tuple("tcp/1", "b", "1"), tuple("udp/2", "c", "1")]))]);
        assert_eq!(words(&view.update(id, other)), ["-sip:bob@x tcp/1 a", "~sip:bob@x tcp/1 b", "+sip:bob@x udp/2 c"]);
        let carol = update(false, &[("sip:carol@x", Some(vec![tuple("tcp/9", "d", "3")]))]);
        assert_eq!(words(&view.update(id, carol)), ["+sip:carol@x tcp/9 d"]);
        assert_eq!(words(&view.update(id, update(false, &[("sip:carol@x", None)]))), ["-sip:carol@x tcp/9 d"]);
        assert_eq!(view.update(id, update(true, &[])).len(), 2);
        assert_eq!(view.peers().count(), 0);
    }

    #[test]
    fn what_two_subscriptions_tell_is_there_once() {
        let mut view = View::default();
        let (one, two) = (SubscriptionId::next(), SubscriptionId::next());
        let bob = update(true, &[("sip:bob@x", Some(vec![tuple("tcp/1", "a", "1")]))]);
        assert_eq!(view.update(one, bob.clone()).len(), 1);
        assert!(view.update(two, bob).is_empty());
        assert!(view.forget(one).is_empty());
        assert_eq!(words(&view.forget(two)), ["-sip:bob@x tcp/1 a"]);
    }

    #[test]
    fn who_is_closed_is_not_there() {
        let (mut view, id) = (View::default(), SubscriptionId::next());
        let phone = |open| Tuple { open, label: None, ..tuple("tcp/1", "phone", "1") };
        assert!(view.update(id, update(true, &[("sip:p@x", Some(vec![phone(Some(false))]))])).is_empty());
        assert_eq!(words(&view.update(id, update(true, &[("sip:p@x", Some(vec![phone(None)]))]))), ["+sip:p@x  phone"]);
    }
}
