//! The second flow of an agent that has two servers (RFC 5626 4.2): registered beside the first, kept open, and used when the first is lost, which is
//! then recovered in its place with the pauses of RFC 5626 4.5. A server with one address gets one flow: the RFC has one for each URI of the set of
//! outbound proxies, and two by the same way would be lost together.

use super::registered::Registered;
use super::{Purpose, UserAgent};
use crate::backoff::Failure;
use crate::message::{Message, name};
use crate::random;
use crate::registration::Change;
use crate::transport::Flow;
use std::mem;
use std::time::{Duration, Instant};
use tracing::{debug, info};

impl UserAgent {
    /// The first flow is registered where flows are kept apart: another server gets one too.
    pub(super) fn register_spare(&mut self, now: Instant) {
        if self.spare.is_some() || self.without_spare || !self.main.service.outbound {
            return;
        }
        let Some(hop) = self.hops.other_than(self.main.flow) else { return };
        let id = if self.main.id == 1 { 2 } else { 1 };
        let mut spare = Registered::new(id, hop.flow, hop.contact.clone(), self.config.expires);
        spare.registration.start();
        self.spare = Some(spare);
        self.send_spare_register(now);
    }

    /// Nothing comes through on a flow any more: it is registered anew, and so is the other one, since registrars use the one that has registered last
    /// (RFC 5626 6).
    pub(super) fn on_flow_lost(&mut self, now: Instant, flow: Flow) {
        if self.main.flow == flow {
            self.main.on_lost(now);
            self.use_spare(now);
        } else if let Some(spare) = self.spare.as_mut().filter(|spare| spare.flow == flow) {
            spare.on_lost(now);
            self.main.registration.on_doubt(now, random::fraction());
        }
    }

    /// Everything goes by the other flow from now on, if that stands. The lost one has its place, and is to be registered anew.
    pub(super) fn use_spare(&mut self, now: Instant) -> bool {
        let Some(spare) = self.spare.as_mut().filter(|spare| spare.stands()) else { return false };
        info!(aor = %self.config.aor, lost = %self.main.flow.remote, used = %spare.flow.remote, "flow lost, another one is used");
        mem::swap(&mut self.main, spare);
        self.main.registration.on_doubt(now, random::fraction());
        self.hops.limit = None;
        true
    }

    /// The lost flow, which is spare now, could not be registered.
    pub(super) fn on_spare_failure(&mut self, now: Instant, failure: Failure) {
        let Some(spare) = &mut self.spare else { return };
        spare.client = None;
        match spare.registration.on_failure(now, failure, random::fraction()) {
            Change::Removed => self.spare = None,
            _ if spare.registration.next().is_none() => self.give_up_spare(),
            _ => debug!(aor = %self.config.aor, flow = %spare.flow.remote, ?failure, "second flow not registered"),
        }
    }

    /// There is no second flow any more. What is bound by it expires.
    pub(super) fn drop_spare(&mut self) {
        let Some(client) = self.spare.take().and_then(|spare| spare.client) else { return };
        if self.purposes.remove(&client).is_some() {
            self.layer.abandon(client);
        }
    }

    /// These servers do not take two flows.
    fn give_up_spare(&mut self) {
        self.drop_spare();
        self.without_spare = true;
    }

    /// Removes the binding of the second flow.
    pub(super) fn unregister_spare(&mut self, now: Instant) {
        let Some(spare) = &mut self.spare else { return };
        spare.keep_alive.stop();
        match spare.registration.remove() {
            true => self.send_spare_register(now),
            // Its REGISTER still waits for its answer, or there is nothing to remove.
            false if spare.registration.is_leaving() => {}
            false => self.drop_spare(),
        }
    }

    pub(super) fn on_spare_timer(&mut self, now: Instant) {
        if self.spare.as_mut().is_some_and(|spare| spare.registration.on_timer(now)) {
            self.send_spare_register(now);
        }
    }

    fn send_spare_register(&mut self, now: Instant) {
        let Some(spare) = &self.spare else { return };
        self.register_cseq += 1;
        let Some(mut request) = self.write_register(spare, self.register_cseq) else { return };
        self.wallet.authorize(&mut request);
        self.send_spare_registration(now, request);
    }

    fn send_spare_registration(&mut self, now: Instant, request: Message) {
        let Some(spare) = &mut self.spare else { return };
        let client = self.layer.request(now, spare.flow, request.clone(), None);
        spare.request = Some(request);
        spare.client = Some(client);
        self.purposes.insert(client, Purpose::Register(spare.id));
    }

    pub(super) fn on_spare_response(&mut self, now: Instant, id: u32, status: u16, response: &Message) {
        let Some(spare) = self.spare.as_mut().filter(|spare| spare.id == id) else { return };
        match status {
            200..=299 => self.on_spare_registered(now, response),
            401 | 407 => {
                let Some(mut request) = spare.request.take() else { return };
                match self.wallet.retry(&mut request, response) {
                    Ok(()) => {
                        self.register_cseq += 1;
                        request.set(name::CSEQ, format_args!("{} REGISTER", self.register_cseq));
                        self.send_spare_registration(now, request);
                    }
                    Err(_) => self.on_spare_failure(now, Failure::Final),
                }
            }
            439 => self.give_up_spare(),
            423 if spare.registration.on_too_brief(super::publishing::min_expires(response)) => {
                self.send_spare_register(now);
            }
            _ => {
                let after = response.retry_after().map(|seconds| Duration::from_secs(seconds.into()));
                self.on_spare_failure(now, Failure::Refused(after));
            }
        }
    }

    fn on_spare_registered(&mut self, now: Instant, response: &Message) {
        let Some(spare) = &self.spare else { return };
        let (granted, service) = self.read_registered(spare, response);
        self.wallet.accepted(response);
        let Some(spare) = &mut self.spare else { return };
        match spare.registration.on_success(now, granted, self.config.refresh, random::fraction()) {
            Change::Removed => return self.drop_spare(),
            Change::Leaving => return self.send_spare_register(now),
            _ => {}
        }
        if !service.outbound {
            return self.give_up_spare();
        }
        spare.is_silent = false;
        spare.keep_alive.start(now, true, service.flow_timer);
        spare.service = service;
        info!(aor = %self.config.aor, flow = %spare.flow.remote, "second flow registered");
    }

    pub(super) fn on_spare_silence(&mut self, now: Instant, id: u32, why: Option<&str>) {
        if self.spare.as_ref().is_some_and(|spare| spare.id == id) {
            self.on_spare_failure(now, if why.is_some() { Failure::Unreachable } else { Failure::Silence });
        }
    }
}
