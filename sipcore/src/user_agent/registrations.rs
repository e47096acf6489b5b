//! What the registrar tells of our own registration (RFC 3680, 3GPP TS 24.229 5.1.1.3), and what follows: it may shorten it, or end it without our wish.

use super::registered::Registered;
use super::service::Service;
use super::watching::Package;
use super::{Notice, UserAgent};
use crate::agent::{PresenceError, RegisterError, SubscriptionId};
use crate::message::Uri;
use crate::presence::reginfo::{Fate, Ours, Reginfo};
use crate::random;
use std::time::{Duration, Instant};
use tracing::{debug, info, warn};

/// The subscription to our own registration.
#[derive(Debug, Default)]
pub(super) struct RegWatch {
    id: Option<SubscriptionId>,
    /// The registrar does not tell of it, or not us.
    refused: bool,
    /// The `reg-id`s of the flows that it has named as bound. Who writes our contact otherwise than we do never names it.
    named: Vec<u32>,
}

/// What is to be done about one binding.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    Nothing,
    Shorten(Duration),
    /// It has ended: this is why, and how long it is to be left alone.
    Ended(String, Option<Duration>),
}

impl RegWatch {
    /// The servers are others now, or it is a new registration: what was refused before may not be now.
    pub fn allow(&mut self) {
        self.refused = false;
    }

    /// `on` is one of our bindings, which stands as far as we know.
    fn step(&mut self, aor: &Uri, instance: &str, on: &Registered, info: &Reginfo) -> Step {
        let ours = Ours { uri: &on.contact, instance, reg_id: on.id };
        let fate = info.fate(aor, &ours);
        let was_named = self.named.contains(&on.id);
        if !matches!(fate, Fate::Unnamed) || info.full {
            self.named.retain(|id| *id != on.id);
        }
        match fate {
            // A REGISTER under way tells more.
            _ if !on.registration.is_settled() => Step::Nothing,
            Fate::Bound(left) => {
                self.named.push(on.id);
                left.map_or(Step::Nothing, Step::Shorten)
            }
            Fate::Unnamed if info.full && was_named => Step::Ended("not listed any more".to_owned(), None),
            Fate::Unnamed => Step::Nothing,
            Fate::Ended { event, retry_after } => Step::Ended(event, retry_after),
        }
    }
}

impl UserAgent {
    /// The registration stands: from now on the registrar is to say what becomes of it, if it does that.
    pub(super) fn watch_registrations(&mut self, now: Instant) {
        if !self.main.service.tells_registrations {
            // Another server than the one before.
            if let Some(id) = std::mem::take(&mut self.reg).id {
                self.drop_watch(now, id);
            }
        } else if self.reg.id.is_none() && !self.reg.refused {
            let id = SubscriptionId::next();
            self.reg.id = Some(id);
            let aor = self.own_identity();
            self.watch(now, id, Package::Reg, &aor, false);
        }
    }

    /// Who we are at the registrar.
    fn own_identity(&self) -> Uri {
        self.main.service.identity.as_ref().unwrap_or(&self.config.aor).clone()
    }

    /// The subscription does not stand. It is tried again unless it is `over`.
    pub(super) fn on_registrations_untold(&mut self, id: SubscriptionId, over: bool, error: &PresenceError) {
        // One that was given up before, at another server, says nothing about the one that stands.
        if self.reg.id != Some(id) {
            return;
        }
        debug!(aor = %self.config.aor, %error, over, "not told of the own registration");
        // Whoever tells of it next begins anew.
        self.reg.named.clear();
        if over {
            self.reg = RegWatch { refused: true, ..RegWatch::default() };
        }
    }

    /// A notification about the address of record.
    pub(super) fn on_registrations(&mut self, now: Instant, info: &Reginfo) {
        let (aor, instance) = (self.own_identity(), self.config.instance.clone());
        if !info.is_about(&aor) {
            debug!(%aor, "told of other registrations than the own one");
            return;
        }
        let step = self.reg.step(&aor, &instance, &self.main, info);
        let of_spare = self.spare.as_ref().map(|spare| self.reg.step(&aor, &instance, spare, info));
        if let (Some(spare), Some(step)) = (&mut self.spare, of_spare) {
            match step {
                Step::Nothing => {}
                Step::Shorten(left) => spare.registration.on_shortened(now, left, random::fraction()),
                Step::Ended(event, retry_after) => {
                    info!(%aor, flow = %spare.flow.remote, event, "the registrar has ended the second flow");
                    spare.registration.on_ended(now, retry_after, random::fraction());
                }
            }
        }
        match step {
            Step::Nothing => {}
            Step::Shorten(left) => self.main.registration.on_shortened(now, left, random::fraction()),
            Step::Ended(event, retry_after) => self.on_registration_ended(now, event, retry_after),
        }
    }

    fn on_registration_ended(&mut self, now: Instant, event: String, retry_after: Option<Duration>) {
        let error = RegisterError::Ended { registrar: self.main.flow.remote, event };
        warn!(aor = %self.config.aor, %error, "registration lost");
        let over = error.is_final();
        let wait = retry_after.filter(|after| !over && !after.is_zero());
        let why = match wait {
            Some(after) => format!("{error}, and is to be left alone for {} s", after.as_secs()),
            None => error.to_string(),
        };
        self.publisher.machine.forbid();
        if over {
            self.drop_spare();
            self.main.keep_alive.stop();
            self.main.registration.on_rejected();
            self.main.service = Service::default();
        } else {
            self.main.registration.on_ended(now, retry_after, random::fraction());
        }
        self.notices.push_back(Notice::RegistrationLost { why, over });
    }
}
