//! REGISTER without Contact (RFC 3261 10.2.3): a question to the registrar, which changes nothing there.

use super::{Notice, UserAgent, ice_servers};
use crate::message::{Message, Uri};
use crate::registration::Registration;
use std::time::Instant;

/// The longest list of contacts that is taken from a registrar.
const MAX_CONTACTS: usize = 64;

impl UserAgent {
    /// Asks who is registered, of servers that fail the next one, until one answers. The outcomes are told as `Notice::Bound` and `Notice::NotRegistered`.
    /// `false`: this agent registers itself.
    pub fn query(&mut self, now: Instant) -> bool {
        if !self.querying && !self.main.registration.is_idle() {
            return false;
        }
        self.querying = true;
        if self.main.registration.start() {
            self.send_register(now);
        }
        self.work(now);
        self.querying
    }

    pub(super) fn on_queried(&mut self, response: &Message) {
        // The credentials come with the servers; a Service-Route would be that of a contact, and there is none (RFC 3608 6.1).
        self.ice_servers = ice_servers::offered(response);
        self.wallet.accepted(response);
        self.end_query();
        let contacts = response.contacts().flatten().filter_map(|contact| contact.uri().ok());
        let contacts: Vec<Uri> = contacts.take(MAX_CONTACTS).collect();
        self.notices.push_back(Notice::Bound(contacts));
    }

    /// The question is no longer of interest.
    pub(super) fn end_query(&mut self) {
        if !std::mem::take(&mut self.querying) {
            return;
        }
        if let Some(client) = self.main.client.take()
            && self.purposes.remove(&client).is_some()
        {
            self.layer.abandon(client);
        }
        self.hops.limit = None;
        self.main.request = None;
        self.main.registration = Registration::new(self.config.expires);
    }
}
