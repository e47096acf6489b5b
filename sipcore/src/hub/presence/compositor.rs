//! The event state compositor (RFC 3903 6): what the agents of each presentity have published, and the one document that a watcher is shown of it.

use crate::message::Uri;
use crate::presence::xml::Element;
use crate::presence::{PIDF, Watchers};
use crate::random;
use crate::transaction::Timers;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Instant;

/// Publications of one presentity.
const MAX_PUBLICATIONS: usize = 64;
/// Presentities.
const MAX_PRESENTITIES: usize = 100_000;
/// Bytes of all documents, as they were published.
const MAX_BYTES: usize = 64 << 20;

/// Why a PUBLISH is not carried out; nothing has changed then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    /// No publication has this entity tag.
    ConditionFailed,
    /// Neither a document nor an entity tag.
    NoDocument,
    /// No room.
    Full,
}

/// A document and its length in bytes.
pub(super) struct Published {
    pub root: Element,
    pub bytes: usize,
}

struct Publication {
    id: u64,
    etag: Box<str>,
    published: Published,
    expires_at: Instant,
}

/// Who looks.
pub(super) struct Viewer<'a> {
    pub uri: &'a Uri,
    /// The presentity itself, from whom nothing is kept back.
    pub owner: bool,
}

/// All publications.
#[derive(Default)]
pub(super) struct Compositor {
    presentities: HashMap<Arc<str>, Vec<Publication>>,
    owners: HashMap<u64, Arc<str>>,
    expiry: Timers<u64>,
    last_id: u64,
    bytes: usize,
}

impl Compositor {
    /// How many publications there are.
    pub fn len(&self) -> usize {
        self.owners.len()
    }

    pub fn next_expiry(&self) -> Option<Instant> {
        self.expiry.next()
    }

    /// Everybody of whom something is published.
    pub fn records(&self) -> impl Iterator<Item = &Arc<str>> {
        self.presentities.keys()
    }

    /// Carries out one PUBLISH (RFC 3903 6, steps 4 to 7); the entity tag that names the publication from now on. No `expires_at`: removed.
    pub fn publish(
        &mut self,
        record: &str,
        etag: Option<&str>,
        document: Option<Published>,
        expires_at: Option<Instant>,
    ) -> Result<String, Refusal> {
        let known = self.presentities.get(record).map(Vec::as_slice).unwrap_or_default();
        let found = match etag {
            Some(etag) => {
                let found = known.iter().find(|publication| *publication.etag == *etag);
                Some(found.ok_or(Refusal::ConditionFailed)?)
            }
            None => None,
        };
        if found.is_none() && document.is_none() {
            return Err(Refusal::NoDocument);
        }
        let (old_id, old_bytes) = found.map_or((None, 0), |found| (Some(found.id), found.published.bytes));
        if let (Some(document), Some(_)) = (&document, expires_at) {
            let crowded = old_id.is_none()
                && (known.len() >= MAX_PUBLICATIONS
                    || (known.is_empty() && self.presentities.len() >= MAX_PRESENTITIES));
            if crowded || self.bytes - old_bytes + document.bytes > MAX_BYTES {
                return Err(Refusal::Full);
            }
        }
        let etag = random::tag();
        let old = old_id.and_then(|id| self.take(id));
        if let (Some(published), Some(expires_at)) = (document.or(old), expires_at) {
            self.put(record, &etag, published, expires_at);
        }
        Ok(etag)
    }

    fn put(&mut self, record: &str, etag: &str, published: Published, expires_at: Instant) {
        self.last_id += 1;
        let id = self.last_id;
        let owner: Arc<str> = match self.presentities.get_key_value(record) {
            Some((known, _)) => known.clone(),
            None => record.into(),
        };
        self.bytes += published.bytes;
        self.owners.insert(id, owner.clone());
        self.expiry.update(id, None, Some(expires_at));
        let publication = Publication { id, etag: etag.into(), published, expires_at };
        self.presentities.entry(owner).or_default().push(publication);
    }

    fn take(&mut self, id: u64) -> Option<Published> {
        let owner = self.owners.remove(&id)?;
        let publications = self.presentities.get_mut(&owner)?;
        let at = publications.iter().position(|publication| publication.id == id)?;
        let publication = publications.remove(at);
        if publications.is_empty() {
            self.presentities.remove(&owner);
        }
        self.expiry.update(id, Some(publication.expires_at), None);
        self.bytes -= publication.published.bytes;
        Some(publication.published)
    }

    /// Removes what has expired; whose it was.
    pub fn expire(&mut self, now: Instant) -> Vec<Arc<str>> {
        let mut changed = Vec::new();
        while let Some((_, id)) = self.expiry.pop_due(now) {
            changed.extend(self.owners.get(&id).cloned());
            self.take(id);
        }
        changed
    }

    /// Nothing of this one is published any more.
    pub fn forget(&mut self, record: &str) {
        let publications = self.presentities.get(record).into_iter().flatten();
        for id in publications.map(|publication| publication.id).collect::<Vec<u64>>() {
            self.take(id);
        }
    }

    /// The presence of one as another may see it: the elements of all its publications, less the services that are not for this viewer. `None`:
    /// there is nothing to see.
    pub fn view(&self, record: &str, entity: &Uri, viewer: &Viewer<'_>) -> Option<Element> {
        let publications = self.presentities.get(record)?;
        let mut root = Element::new(PIDF, "presence").with("entity", entity.as_str());
        let (mut ids, mut shown) = (HashSet::new(), false);
        for publication in publications {
            for element in publication.published.root.elements() {
                let mut element = element.clone();
                if element.is(PIDF, "tuple") {
                    let watchers = Watchers::read(&element);
                    if !viewer.owner && watchers.is_some_and(|watchers| !watchers.admit(viewer.uri)) {
                        continue;
                    }
                    Watchers::strip(&mut element);
                    shown = true;
                }
                // Two agents may have called theirs the same.
                if let Some(id) = element.attribute("id").map(str::to_owned)
                    && !ids.insert(id.clone())
                {
                    let other = format!("{id}.{}", publication.id);
                    element.set("id", &other);
                    ids.insert(other);
                }
                root.push(element);
            }
        }
        shown.then_some(root)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn published(tuples: &str) -> Option<Published> {
        let text = format!("<presence xmlns=\"{PIDF}\" entity=\"sip:bob@x\">{tuples}</presence>");
        Some(Published { root: Element::parse(text.as_bytes()).unwrap(), bytes: text.len() })
    }

    fn tuple(id: &str, extra: &str) -> String {
        format!("<tuple id=\"{id}\"><status><basic>open</basic></status>{extra}</tuple>")
    }

    fn seen(compositor: &Compositor, by: &str) -> Vec<String> {
        let (bob, by): (Uri, Uri) = ("sip:bob@x".parse().unwrap(), by.parse().unwrap());
        let viewer = Viewer { uri: &by, owner: by == bob };
        let root = compositor.view("bob@x", &bob, &viewer);
        let xml = root.as_ref().map(Element::to_document).unwrap_or_default();
        assert!(!xml.contains("watcher"), "{xml}");
        let ids = root.iter().flat_map(Element::elements).filter_map(|tuple| tuple.attribute("id").map(str::to_owned));
        ids.collect()
    }

    #[test]
    fn publications_are_put_together_and_taken_apart() {
        let now = Instant::now();
        let soon = Some(now + Duration::from_secs(60));
        let mut compositor = Compositor::default();
        let one = compositor.publish("bob@x", None, published(&tuple("t", "")), soon).unwrap();
        let two = compositor.publish("bob@x", None, published(&(tuple("t", "") + &tuple("u", ""))), soon).unwrap();
        assert_eq!(seen(&compositor, "sip:alice@x"), ["t", "t.2", "u"]);
        assert_eq!(compositor.publish("bob@x", Some("other"), None, soon), Err(Refusal::ConditionFailed));
        assert_eq!(compositor.publish("eve@x", Some(&one), None, soon), Err(Refusal::ConditionFailed));
        assert_eq!(compositor.publish("bob@x", None, None, soon), Err(Refusal::NoDocument));
        let refreshed = compositor.publish("bob@x", Some(&one), None, soon).unwrap();
        assert_eq!(compositor.publish("bob@x", Some(&one), None, soon), Err(Refusal::ConditionFailed), "a new tag");
        compositor.publish("bob@x", Some(&refreshed), None, None).unwrap();
        assert_eq!(seen(&compositor, "sip:alice@x"), ["t", "u"]);
        compositor.publish("bob@x", Some(&two), published(&tuple("v", "")), soon).unwrap();
        assert_eq!(seen(&compositor, "sip:alice@x"), ["v"]);
        assert_eq!(compositor.expire(now + Duration::from_secs(61)).len(), 1);
        assert!(seen(&compositor, "sip:alice@x").is_empty());
        assert_eq!((compositor.len(), compositor.bytes, compositor.presentities.len()), (0, 0, 0));
    }

    #[test]
    fn watchers_see_what_is_for_them() {
        let later = Some(Instant::now() + Duration::from_secs(60));
        let mut compositor = Compositor::default();
        let only = |pattern: &str| Watchers::new([pattern]).write().to_document().lines().skip(1).collect::<String>();
        let tuples =
            tuple("all", "") + &tuple("friends", &only("sip:*@friends")) + &tuple("alice", &only("sip:alice@x"));
        compositor.publish("bob@x", None, published(&tuples), later).unwrap();
        assert_eq!(seen(&compositor, "sip:alice@x"), ["all", "alice"]);
        assert_eq!(seen(&compositor, "sip:carol@friends"), ["all", "friends"]);
        assert_eq!(seen(&compositor, "sip:eve@x"), ["all"]);
        assert_eq!(seen(&compositor, "sip:bob@x"), ["all", "friends", "alice"]);
    }

    #[test]
    fn memory_is_bounded() {
        let later = Some(Instant::now() + Duration::from_secs(60));
        let mut compositor = Compositor::default();
        let last = (0..MAX_PUBLICATIONS).map(|_| compositor.publish("bob@x", None, published(""), later).unwrap());
        let last = last.last().unwrap();
        assert_eq!(compositor.publish("bob@x", None, published(""), later), Err(Refusal::Full));
        compositor.publish("bob@x", Some(&last), published(""), later).expect("one that is there can change");
        let huge = |bytes| Some(Published { bytes, ..published("").unwrap() });
        assert_eq!(compositor.publish("eve@x", None, huge(MAX_BYTES), later), Err(Refusal::Full));
        assert_eq!(compositor.len(), MAX_PUBLICATIONS);
    }
}
