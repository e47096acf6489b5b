//! REGISTER: written and read (RFC 3261 10.2, RFC 5626 4.2).

use super::credentials::CannotAnswer;
use super::{KEEP_ALIVE, Notice, Purpose, USER_AGENT, UserAgent};
use crate::agent::RegisterError;
use crate::message::{Message, Method, Uri, address, name};
use crate::random;
use crate::registration::{Change, Failure};
use std::time::{Duration, Instant};
use tracing::{info, warn};

impl UserAgent {
    /// Starts to register, unless the binding stands or an attempt is on its way. The outcome is told as a notice.
    pub fn register(&mut self, now: Instant) {
        if self.registration.start() {
            self.send_register(now);
        }
        self.work(now);
    }

    /// The binding stands as far as we know.
    pub fn is_registered(&self) -> bool {
        self.registration.is_standing()
    }

    /// Removes the binding.
    pub fn unregister(&mut self, now: Instant) {
        self.keep_alive_at = None;
        if self.registration.remove() {
            self.send_register(now);
        }
        self.work(now);
    }

    pub(super) fn send_register(&mut self, now: Instant) {
        if let Some(mut request) = self.write_register() {
            self.wallet.authorize(&mut request);
            self.register_request = Some(request.clone());
            self.send(now, request, Purpose::Register);
        }
    }

    fn write_register(&mut self) -> Option<Message> {
        self.register_cseq += 1;
        let aor = &self.config.aor;
        let registrar = Uri::sip(None, aor.host(), aor.port()).ok()?;
        let expires = self.registration.expires().as_secs();
        let request = Message::request(Method::Register, &registrar)
            .header(name::MAX_FORWARDS, 70)
            .header(name::FROM, address(None, aor, &[("tag", Some(&random::tag()))]))
            .header(name::TO, address(None, aor, &[]))
            .header(name::CALL_ID, &self.register_call_id)
            .header(name::CSEQ, format_args!("{} REGISTER", self.register_cseq))
            .header(name::CONTACT, self.contact())
            .header(name::EXPIRES, expires)
            .header(name::USER_AGENT, USER_AGENT)
            .build();
        Some(request)
    }

    pub(super) fn on_register_response(&mut self, now: Instant, status: u16, response: &Message) {
        let change = match status {
            200..=299 => {
                let granted = self.granted(response);
                self.registration.on_success(now, granted, random::fraction())
            }
            401 | 407 => return self.on_register_challenge(now, response),
            423 => {
                let brief = Duration::from_secs(response.seconds(name::MIN_EXPIRES).unwrap_or(0).into());
                if self.registration.on_too_brief(brief) {
                    return self.send_register(now);
                }
                self.registration.on_failure(now, Failure::Refused(None), random::fraction())
            }
            _ => {
                let after = response.retry_after().map(|seconds| Duration::from_secs(seconds.into()));
                self.registration.on_failure(now, Failure::Refused(after), random::fraction())
            }
        };
        let failed = (status >= 300).then(|| RegisterError::Rejected {
            aor: self.config.aor.clone(),
            registrar: self.config.next_hop.remote,
            status,
            reason: response.reason().into_owned(),
        });
        self.tell(now, change, failed);
    }

    fn on_register_challenge(&mut self, now: Instant, response: &Message) {
        let (aor, registrar) = (self.config.aor.clone(), self.config.next_hop.remote);
        let Some(mut request) = self.register_request.take() else { return };
        let error = match self.wallet.retry(&mut request, response) {
            Ok(()) => {
                self.register_cseq += 1;
                request.set(name::CSEQ, format_args!("{} REGISTER", self.register_cseq));
                self.register_request = Some(request.clone());
                self.send(now, request, Purpose::Register);
                return;
            }
            Err(CannotAnswer::NoCredentials(realm)) => RegisterError::NoCredentials { aor, registrar, realm },
            Err(CannotAnswer::Refused(realm)) => RegisterError::BadCredentials { aor, registrar, realm },
        };
        let change = self.registration.on_failure(now, Failure::Refused(None), random::fraction());
        self.tell(now, change, Some(error));
    }

    pub(super) fn on_register_silence(&mut self, now: Instant, why: Option<&str>) {
        let (aor, registrar) = (self.config.aor.clone(), self.config.next_hop.remote);
        let failure = if why.is_some() { Failure::Unreachable } else { Failure::Silence };
        let change = self.registration.on_failure(now, failure, random::fraction());
        let error = match why {
            Some(why) => RegisterError::Unreachable { aor, registrar, why: why.to_string() },
            None => RegisterError::Timeout { aor, registrar },
        };
        self.tell(now, change, Some(error));
    }

    fn tell(&mut self, now: Instant, change: Change, failed: Option<RegisterError>) {
        if change == Change::Removed {
            return;
        }
        match failed {
            None => {
                self.keep_alive_at = Some(now + KEEP_ALIVE);
                self.notices.push_back(Notice::Registered);
                if change == Change::Restored {
                    info!(aor = %self.config.aor, "registration restored");
                    self.notices.push_back(Notice::RegistrationRestored);
                }
            }
            Some(error) => {
                if change == Change::Lost {
                    warn!(aor = %self.config.aor, %error, "registration lost");
                    self.notices.push_back(Notice::RegistrationLost(error.to_string()));
                }
                self.notices.push_back(Notice::NotRegistered(error));
            }
        }
    }

    /// The expiry that the registrar gave our contact (RFC 3261 10.2.4).
    fn granted(&self, response: &Message) -> Duration {
        let ours = response
            .contacts()
            .flatten()
            .find(|contact| contact.uri().is_ok_and(|uri| uri.equivalent(&self.config.contact)));
        let seconds = ours.and_then(|contact| contact.expires()).or_else(|| response.expires());
        seconds.map_or(self.config.expires, |seconds| Duration::from_secs(seconds.max(1).into()))
    }
}
