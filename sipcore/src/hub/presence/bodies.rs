//! What a NOTIFY tells: a presence document, a list of them, or registrations.

use super::compositor::Viewer;
use super::{About, List};
use crate::hub::gruu;
use crate::hub::home::HomeProxy;
use crate::hub::location::{Binding, Lookup};
use crate::message::Uri;
use crate::presence::lists::{Instance, ListState, RLMI_TYPE, Resource};
use crate::presence::multipart::Related;
use crate::presence::{self, PIDF, reginfo, xml::Element};
use bytes::Bytes;
use std::hash::BuildHasher;
use std::sync::Arc;
use std::time::Instant;

/// A notification about a list has documents up to this many bytes; the others follow in the next. A datagram can hold it.
const MAX_BODY: usize = 40 * 1024;

impl HomeProxy {
    /// The body for a subscription, `Some(None)` for a NOTIFY without one. `None`: there is nothing new.
    #[allow(clippy::type_complexity)]
    pub(super) fn body_for(&mut self, now: Instant, id: u64) -> Option<Option<(String, Bytes)>> {
        let subscription = self.presence.subscriptions.get(&id)?;
        let forced = subscription.forced || subscription.notifier.has_ended();
        let (watcher, watcher_record) = (subscription.watcher.clone(), subscription.watcher_record.clone());
        let body = match &subscription.about {
            About::Presence { record, entity, told } => {
                let viewer = Viewer { uri: &watcher, owner: **record == *watcher_record };
                let root = self.presence.compositor.view(record, entity, &viewer);
                let root = root.unwrap_or_else(|| Element::new(PIDF, "presence").with("entity", entity.as_str()));
                let text = root.to_document();
                let hash = self.key.hash_one(&text);
                if !forced && *told == Some(hash) {
                    return None;
                }
                if let Some(About::Presence { told, .. }) = self.about_mut(id) {
                    *told = Some(hash);
                }
                (presence::CONTENT_TYPE.to_owned(), Bytes::from(text))
            }
            About::Reg { record, entity, ended } => {
                let mut contacts = self.registrations(now, record, entity);
                contacts.extend_from_slice(ended);
                let text = reginfo::document(entity.as_str(), subscription.version, &contacts);
                if let Some(About::Reg { ended, .. }) = self.about_mut(id) {
                    ended.clear();
                }
                (reginfo::CONTENT_TYPE.to_owned(), Bytes::from(text))
            }
            About::List(_) => {
                // Taken out while it is worked on.
                let mut subscription = self.presence.subscriptions.remove(&id)?;
                let About::List(list) = &mut subscription.about else { return None };
                let body = self.list_body(list, subscription.version, &watcher, &watcher_record);
                if !list.changed.is_empty() {
                    subscription.notifier.on_more();
                }
                self.presence.subscriptions.insert(id, subscription);
                match body {
                    Some(body) => body,
                    None if forced => return Some(None),
                    None => return None,
                }
            }
        };
        if let Some(subscription) = self.presence.subscriptions.get_mut(&id) {
            subscription.version += 1;
            subscription.forced = false;
        }
        Some(Some(body))
    }

    fn about_mut(&mut self, id: u64) -> Option<&mut About> {
        self.presence.subscriptions.get_mut(&id).map(|subscription| &mut subscription.about)
    }

    /// The resources of a list that have changed for this watcher, or all; what has no room stays in `changed`.
    fn list_body(&self, list: &mut List, version: u32, watcher: &Uri, watcher_record: &str) -> Option<(String, Bytes)> {
        let full = std::mem::take(&mut list.full);
        if full {
            list.told.clear();
            list.changed = match &list.members {
                Some(members) => members.iter().cloned().collect(),
                None => self.presence.compositor.records().cloned().collect(),
            };
        }
        let domain = self.domains.first().map_or("sipbox.invalid", String::as_str);
        let root = format!("list@{domain}");
        let mut related = Related::new(&root);
        let mut parts: Vec<(String, String)> = Vec::new();
        let mut state = ListState { uri: list.uri.to_string(), version, full, resources: Vec::new() };
        let mut size = 0;
        for record in std::mem::take(&mut list.changed) {
            let Some(uri) = uri_of(&record) else { continue };
            let viewer = Viewer { uri: watcher, owner: *record == *watcher_record };
            let text = self.presence.compositor.view(&record, &uri, &viewer).map(|root| root.to_document());
            let hash = text.as_ref().map(|text| self.key.hash_one(text));
            if hash == list.told.get(&record).copied() && !full {
                continue;
            }
            if size > MAX_BODY {
                list.changed.insert(record);
                continue;
            }
            let instance = match (text, hash) {
                (Some(text), Some(hash)) => {
                    let cid = format!("r{}.{version}@{domain}", parts.len());
                    size += text.len() + 400;
                    parts.push((cid.clone(), text));
                    list.told.insert(record, hash);
                    Some(Instance { state: "active".to_owned(), reason: None, cid: Some(cid) })
                }
                _ => {
                    list.told.remove(&record);
                    size += 200;
                    let reason = Some("noresource".to_owned());
                    (!full).then(|| Instance { state: "terminated".to_owned(), reason, cid: None })
                }
            };
            // Of everybody only those are listed who have something to show: who else has an account is nobody's business.
            if instance.is_some() || list.members.is_some() {
                state.resources.push(Resource { uri: uri.to_string(), instance });
            }
        }
        if state.resources.is_empty() && !full {
            return None;
        }
        related.part(&root, RLMI_TYPE, state.to_xml().as_bytes());
        for (cid, text) in parts {
            related.part(&cid, presence::CONTENT_TYPE, text.as_bytes());
        }
        Some(related.finish(RLMI_TYPE))
    }

    fn registrations(&self, now: Instant, record: &Arc<str>, entity: &Uri) -> Vec<reginfo::Contact> {
        let bindings = match self.location.lookup(record, now) {
            Lookup::Bound(bindings) => bindings,
            Lookup::Unknown | Lookup::Absent => Vec::new(),
        };
        bindings.into_iter().map(|binding| described(now, binding, entity, None)).collect()
    }
}

/// A contact as its owner is told of it; `ended`: it stands no longer.
pub(super) fn described(now: Instant, binding: Binding, entity: &Uri, ended: Option<&'static str>) -> reginfo::Contact {
    let gruu = binding.contact.instance.as_deref().and_then(|instance| gruu::public(entity, instance));
    reginfo::Contact {
        id: binding.id,
        uri: binding.contact.uri.to_string(),
        expires: binding.expires_at.saturating_duration_since(now).as_secs(),
        q: binding.contact.q,
        call_id: binding.call_id.into_string(),
        cseq: binding.cseq,
        public_gruu: gruu.map(|gruu| gruu.to_string()),
        instance: binding.contact.instance.map(Into::into),
        reg_id: binding.contact.reg_id,
        ended,
    }
}

/// The URI of an address of record.
fn uri_of(record: &str) -> Option<Uri> {
    let (user, domain) = record.rsplit_once('@')?;
    Uri::sip(Some(user), domain, None).ok()
}
