//! One flow to a registrar, and the binding that requests come on by it (RFC 5626 4.2).

use super::keep_alive::KeepAlive;
use super::service::Service;
use crate::agent::RegistrationFlow;
use crate::message::{Message, Uri};
use crate::random;
use crate::registration::Registration;
use crate::transaction::ClientId;
use crate::transport::{Flow, Sign};
use std::time::{Duration, Instant};

/// A flow with its registration.
pub(super) struct Registered {
    /// `reg-id`.
    pub id: u32,
    pub flow: Flow,
    /// Our address on it.
    pub contact: Uri,
    pub registration: Registration,
    /// The last REGISTER, without Via.
    pub request: Option<Message>,
    pub client: Option<ClientId>,
    /// What comes with the binding.
    pub service: Service,
    pub keep_alive: KeepAlive,
    /// The registrar, or a proxy before it, does not do RFC 5626.
    pub without_outbound: bool,
    /// Nothing has come through since it was lost.
    pub is_silent: bool,
    /// Whether requests found us by it when that was looked at last, and since when that is so.
    state: (bool, Option<Instant>),
}

impl Registered {
    /// Not registered yet.
    pub fn new(id: u32, flow: Flow, contact: Uri, expires: Duration) -> Self {
        Registered {
            id,
            flow,
            contact,
            registration: Registration::new(expires),
            request: None,
            client: None,
            service: Service::default(),
            keep_alive: KeepAlive::new(flow.transport),
            without_outbound: false,
            is_silent: false,
            state: (false, None),
        }
    }

    /// Keeps in mind since when it is as it is.
    pub fn note(&mut self, now: Instant) {
        let stands = self.stands();
        if self.state.0 != stands || self.state.1.is_none() {
            self.state = (stands, Some(now));
        }
    }

    /// What can be told of it.
    pub fn report(&self, now: Instant, in_use: bool) -> RegistrationFlow {
        let up = self.stands();
        RegistrationFlow {
            server: self.flow.remote,
            transport: self.flow.transport,
            in_use,
            up,
            since: self.state.1.map_or(Duration::ZERO, |since| now.saturating_duration_since(since)),
            retry: self.registration.next().filter(|_| !up).map(|at| at.saturating_duration_since(now)),
        }
    }

    pub fn next(&self) -> Option<Instant> {
        [self.registration.next(), self.keep_alive.next()].into_iter().flatten().min()
    }

    /// A sign of life came on the flow.
    pub fn on_sign(&mut self, now: Instant, sign: Sign<'_>) {
        match sign {
            Sign::Pong => self.keep_alive.on_pong(now),
            Sign::Stun(message) if self.keep_alive.on_stun(now, message) => {
                self.registration.on_doubt(now, random::fraction());
            }
            Sign::Stun(_) => {}
        }
    }

    /// Nothing comes through any more.
    pub fn on_lost(&mut self, now: Instant) {
        self.is_silent = true;
        self.keep_alive.stop();
        self.registration.on_doubt(now, random::fraction());
    }

    /// Requests find us by it, as far as we know.
    pub fn stands(&self) -> bool {
        self.registration.is_standing() && !self.is_silent
    }
}
