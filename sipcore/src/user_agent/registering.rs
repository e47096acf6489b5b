//! REGISTER: written and read (RFC 3261 10.2, RFC 5626 4.2).

use super::credentials::CannotAnswer;
use super::publishing::min_expires;
use super::registered::Registered;
use super::service::Service;
use super::{Notice, Purpose, USER_AGENT, UserAgent, ice_servers};
use crate::agent::{IceServer, RegisterError, RegistrationFlow};
use crate::backoff::Failure;
use crate::message::{Message, Method, NameAddr, Uri, address, name};
use crate::random;
use crate::registration::Change;
use std::time::{Duration, Instant};
use tracing::{info, warn};

impl UserAgent {
    /// Starts to register, unless the binding stands or an attempt is on its way. The outcome is told as a notice.
    pub fn register(&mut self, now: Instant) {
        self.end_query();
        if self.main.registration.start() {
            self.send_register(now);
        }
        self.work(now);
    }

    /// The binding stands as far as we know.
    pub fn is_registered(&self) -> bool {
        self.main.registration.is_standing()
    }

    /// The flows by which we are registered or want to be, the one in use first; none before the first attempt.
    pub fn registration_flows(&self, now: Instant) -> Vec<RegistrationFlow> {
        if self.main.request.is_none() {
            return Vec::new();
        }
        let spare = self.spare.iter().map(|spare| spare.report(now, false));
        std::iter::once(self.main.report(now, true)).chain(spare).collect()
    }

    /// The STUN and TURN servers that the registrar told of last; their credentials are renewed with each refresh.
    pub fn ice_servers(&self) -> Vec<IceServer> {
        self.ice_servers.clone()
    }

    /// Removes the binding.
    pub fn unregister(&mut self, now: Instant) {
        self.end_query();
        self.unregister_spare(now);
        self.main.keep_alive.stop();
        if self.main.registration.remove() {
            self.send_register(now);
        }
        self.work(now);
    }

    pub(super) fn send_register(&mut self, now: Instant) {
        self.register_cseq += 1;
        if let Some(mut request) = self.write_register(&self.main, self.register_cseq) {
            self.wallet.authorize(&mut request);
            self.main.request = Some(request.clone());
            self.send_registration(now, request);
        }
    }

    fn send_registration(&mut self, now: Instant, request: Message) {
        self.watch_hop(now);
        let client = self.send(now, request, Purpose::Register(self.main.id));
        self.main.client = Some(client);
    }

    /// The server has been silent for long, and there are others.
    pub(super) fn on_register_too_slow(&mut self, now: Instant) {
        let Some(client) = self.main.client.take() else { return };
        if self.purposes.remove(&client).is_none() {
            return;
        }
        self.layer.abandon(client);
        self.on_register_silence(now, None);
    }

    pub(super) fn write_register(&self, on: &Registered, cseq: u32) -> Option<Message> {
        let aor = &self.config.aor;
        let registrar = Uri::sip(None, aor.host(), aor.port()).ok()?;
        let expires = on.registration.expires().as_secs();
        let instance = self.instance();
        let mut params = vec![("+sip.instance", Some(instance.as_str()))];
        let reg_id = on.id.to_string();
        if !on.without_outbound {
            params.push(("reg-id", Some(&reg_id)));
        }
        let supported = if on.without_outbound { "path, gruu" } else { "path, gruu, outbound" };
        let mut request = Message::request(Method::Register, &registrar)
            .header(name::MAX_FORWARDS, 70)
            .header(name::FROM, address(None, aor, &[("tag", Some(&random::tag()))]))
            .header(name::TO, address(None, aor, &[]))
            .header(name::CALL_ID, &self.register_call_id)
            .header(name::CSEQ, format_args!("{cseq} REGISTER"));
        if !self.querying {
            request = request.header(name::CONTACT, address(None, &on.contact, &params)).header(name::EXPIRES, expires);
        }
        Some(request.header(name::SUPPORTED, supported).header(name::USER_AGENT, USER_AGENT).build())
    }

    pub(super) fn on_register_response(&mut self, now: Instant, status: u16, response: &Message) {
        self.hops.limit = None;
        match status {
            // It cannot now; another one may (RFC 3263 4.3).
            503 if self.register_elsewhere(now, Failure::Refused(None)) => return,
            _ => self.on_hop_works(),
        }
        match status {
            200..=299 if self.querying => self.on_queried(response),
            200..=299 => self.on_registered(now, response),
            401 | 407 => self.on_register_challenge(now, response),
            // A proxy on the way would not keep our flow: then without it (RFC 5626 4.2.1).
            439 if !self.main.without_outbound => {
                self.main.without_outbound = true;
                self.send_register(now);
            }
            423 if self.main.registration.on_too_brief(min_expires(response)) => self.send_register(now),
            _ => {
                let after = response.retry_after().map(|seconds| Duration::from_secs(seconds.into()));
                let (aor, registrar) = (self.config.aor.clone(), self.main.flow.remote);
                let reason = response.reason().into_owned();
                let error = RegisterError::Rejected { aor, registrar, status, reason };
                self.on_register_failure(now, error, Failure::Refused(after));
            }
        }
    }

    fn on_registered(&mut self, now: Instant, response: &Message) {
        let (granted, service) = self.read_registered(&self.main, response);
        self.main.service = service;
        self.main.is_silent = false;
        self.ice_servers = ice_servers::offered(response);
        self.wallet.accepted(response);
        let change = self.main.registration.on_success(now, granted, self.config.refresh, random::fraction());
        match change {
            Change::Removed => return,
            Change::Leaving => return self.send_register(now),
            _ => {}
        }
        self.main.keep_alive.start(now, self.main.service.outbound, self.main.service.flow_timer);
        self.register_spare(now);
        if change == Change::Registered {
            self.reg.allow();
        }
        self.watch_registrations(now);
        self.notices.push_back(Notice::Registered);
        self.publish_where_registered(now, change == Change::Restored);
        if change == Change::Restored {
            info!(aor = %self.config.aor, "registration restored");
            self.notices.push_back(Notice::RegistrationRestored);
        }
    }

    /// What was granted on a flow: for how long, and what comes with it.
    pub(super) fn read_registered(&self, on: &Registered, response: &Message) -> (Duration, Service) {
        let id = on.id.to_string();
        let is_ours = |contact: &NameAddr<'_>| {
            let same_flow = contact.params.token("reg-id").is_none_or(|theirs| theirs == id);
            same_flow && contact.uri().is_ok_and(|uri| uri.equivalent(&on.contact))
        };
        let ours = response.contacts().flatten().find(is_ours);
        // The expiry that the registrar gave our contact (RFC 3261 10.2.4).
        let seconds = ours.and_then(|contact| contact.expires()).or_else(|| response.expires());
        let granted = seconds.map_or(self.config.expires, |seconds| Duration::from_secs(seconds.max(1).into()));
        (granted, Service::of(response, ours.as_ref(), &self.config.aor))
    }

    /// The server in use does not register us: another one is used that has done so, or is asked now. `false`: there is none.
    fn register_elsewhere(&mut self, now: Instant, failure: Failure) -> bool {
        if self.use_spare(now) {
            self.on_spare_failure(now, failure);
            return true;
        }
        let other = self.fail_over(now, self.main.flow);
        if other {
            self.send_register(now);
        }
        other
    }

    fn on_register_challenge(&mut self, now: Instant, response: &Message) {
        let (aor, registrar) = (self.config.aor.clone(), self.main.flow.remote);
        let Some(mut request) = self.main.request.take() else { return };
        let error = match self.wallet.retry(&mut request, response) {
            Ok(()) => {
                self.register_cseq += 1;
                request.set(name::CSEQ, format_args!("{} REGISTER", self.register_cseq));
                self.main.request = Some(request.clone());
                self.send_registration(now, request);
                return;
            }
            Err(CannotAnswer::NoCredentials(realm)) => RegisterError::NoCredentials { aor, registrar, realm },
            Err(CannotAnswer::Refused(realm)) => RegisterError::BadCredentials { aor, registrar, realm },
        };
        self.on_register_failure(now, error, Failure::Final);
    }

    pub(super) fn on_register_silence(&mut self, now: Instant, why: Option<&str>) {
        let (aor, registrar) = (self.config.aor.clone(), self.main.flow.remote);
        self.hops.limit = None;
        let failure = if why.is_some() { Failure::Unreachable } else { Failure::Silence };
        if self.register_elsewhere(now, failure) {
            return;
        }
        match why {
            Some(why) => {
                let error = RegisterError::Unreachable { aor, registrar, why: self.all_reasons(why) };
                self.on_register_failure(now, error, Failure::Unreachable);
            }
            None => self.on_register_failure(now, RegisterError::Timeout { aor, registrar }, Failure::Silence),
        }
    }

    fn on_register_failure(&mut self, now: Instant, error: RegisterError, failure: Failure) {
        let failure = if error.is_final() { Failure::Final } else { failure };
        let change = self.main.registration.on_failure(now, failure, random::fraction());
        if change == Change::Removed {
            return;
        }
        self.querying &= !error.is_final();
        self.publisher.machine.forbid();
        if change == Change::Lost {
            warn!(aor = %self.config.aor, %error, "registration lost");
            self.notices.push_back(Notice::RegistrationLost { why: error.to_string(), over: false });
        }
        self.notices.push_back(Notice::NotRegistered(error));
    }
}
